package quorum

import (
	"crypto/ed25519"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

// waitStanding waits until a member's standing is as wanted.
func waitStanding(t *testing.T, m *member, good func(Standing) bool) Standing {
	t.Helper()
	waitFor(t, func() bool { return good(m.service.Standing()) })
	return m.service.Standing()
}

func voting(s Standing) bool { return s.Voting }

// TestRestartVotesAgain: a member with an honest vote file votes after a
// restart, also when it voted in the height that is under way.
func TestRestartVotesAgain(t *testing.T) {
	net := newNetwork(t, 3)
	net.startAll()
	for _, m := range net.members {
		waitStanding(t, m, voting)
	}
	for range 3 {
		m := net.members[2]
		net.kill(m)
		m.file = m.file.Clone()
		net.start(m)
		waitStanding(t, m, voting)
	}
}

// TestSnapshot: a vote file of before the votes that others hold shuts the
// member out, whatever it does; the others go on.
func TestSnapshot(t *testing.T) {
	net := newNetwork(t, 3)
	// Cosignatures are held back: the votes of height 1 stay open.
	net.drop = func(_, _ record.Identity, message []byte) bool {
		return message[0] == kindOrder && message[1] == 'c'
	}
	victim := net.members[2]
	snapshot := victim.file.Clone()
	net.startAll()
	waitFor(t, func() bool {
		position, err := victim.file.Highest()
		return err == nil && position.Kind == votes.Cosign
	})
	for starts := range 2 {
		net.kill(victim)
		victim.file = snapshot.Clone()
		net.start(victim)
		standing := waitStanding(t, victim, func(s Standing) bool { return strings.Contains(s.Reason, "rekey") })
		if standing.Voting {
			t.Errorf("after %d starts it votes: %+v", starts, standing)
		}
	}
	net.mu.Lock()
	net.drop = nil
	net.mu.Unlock()
	net.waitHeight(victim, 1) // it follows
	if highest, err := victim.file.Highest(); err != nil || highest != (votes.Position{}) {
		t.Errorf("it signed at %+v, %v", highest, err)
	}
	net.endorse(net.members[0], "one")
	net.endorse(net.members[1], "one")
	net.waitRecipe(victim, "one")
}

// TestBackup: a file of an earlier start is found by the number of starts alone,
// when all that others held of its votes is finished.
func TestBackup(t *testing.T) {
	net := newNetwork(t, 3)
	net.startAll()
	victim := net.members[2]
	for _, m := range net.members {
		net.waitHeight(m, 1)
	}
	waitStanding(t, victim, voting)
	backup := victim.file.Clone() // of its first start
	net.kill(victim)
	net.start(victim) // the second
	waitStanding(t, victim, voting)
	net.kill(victim)
	victim.file = backup
	net.start(victim) // the second again
	standing := waitStanding(t, victim, func(s Standing) bool { return strings.Contains(s.Reason, "rekey") })
	if standing.Voting || !strings.Contains(standing.Reason, "start 2") {
		t.Errorf("%+v", standing)
	}
}

// TestRekey: new keys get onto the chain by themselves, and then vote; the old
// ones do not.
func TestRekey(t *testing.T) {
	net := newNetwork(t, 3)
	net.startAll()
	for _, m := range net.members {
		net.waitHeight(m, 1)
	}
	m := net.members[2]
	net.kill(m)
	old, oldFile := m.keys, m.file
	m.keys.Vote, m.keys.Cosigner, m.keys.Log = seed(101), seed(102), seed(103)
	m.file = new(votes.Memory)
	net.start(m)
	waitStanding(t, m, voting)
	node, _ := m.chain.Set().Node(m.id)
	if node.VoteKey != m.keys.Vote.Public() || node.Seq != 2 {
		t.Errorf("the set has record %d of it", node.Seq)
	}
	// Its vote is needed, and good.
	net.kill(net.members[1])
	net.endorse(net.members[0], "one")
	net.endorse(m, "one")
	net.waitRecipe(net.members[0], "one")
	net.start(net.members[1])

	net.kill(m)
	m.keys, m.file = old, oldFile
	net.start(m)
	standing := waitStanding(t, m, func(s Standing) bool { return strings.Contains(s.Reason, "replaced by later ones") })
	if standing.Voting {
		t.Errorf("retired keys vote: %+v", standing)
	}
}

func seed(b byte) seedSigner {
	data := make([]byte, ed25519.SeedSize)
	data[0] = b
	return seedSigner(ed25519.NewKeyFromSeed(data))
}

// TestEvidence: two votes of one key in one slot stand on the chain of everybody
// once anyone has seen both.
func TestEvidence(t *testing.T) {
	net := newNetwork(t, 4)
	net.startAll()
	for _, m := range net.members {
		net.waitHeight(m, 1)
	}
	liar, witness := net.members[3], net.members[0]
	net.kill(liar)
	height := witness.chain.Height() + 1
	for i := range byte(2) {
		id := record.BlockID{Size: 9, Root: record.Hash{i + 1}}
		v, err := record.SignVote(witness.chain.Network().Genesis, record.Vote{Height: height, ID: id, Step: record.StepPrevote, Voter: liar.id}, liar.keys.Vote)
		if err != nil {
			t.Fatal(err)
		}
		data, err := record.EncodeMessage(&v)
		if err != nil {
			t.Fatal(err)
		}
		witness.service.Receive(liar.id, append([]byte{kindOrder}, data...))
	}
	for _, m := range net.members[:3] {
		waitFor(t, func() bool {
			found, err := m.chain.Evidence()
			return err == nil && len(found) == 1 && found[0].Identity == liar.id && found[0].What == "prevote"
		})
	}
	net.start(liar)
}
