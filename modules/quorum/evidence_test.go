package quorum

import (
	"maps"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/record"
)

// contradiction is evidence of two votes of a member in a round of height 1.
func contradiction(t *testing.T, n *chaintest.Network, i int, round int64) record.Part {
	t.Helper()
	var pair [2]record.Vote
	for j := range pair {
		v, err := record.SignVote(n.Network.Genesis, record.Vote{
			Height: 1, Round: round, ID: record.BlockID{Size: 9, Root: record.Hash{byte(j + 1)}}, Step: record.StepPrevote, Voter: n.Nodes[i].ID,
		}, n.Nodes[i].Signers.Vote)
		if err != nil {
			t.Fatal(err)
		}
		pair[j] = v
	}
	e, err := record.NewEvidence(&pair[0], &pair[1])
	if err != nil {
		t.Fatal(err)
	}
	return record.Part{Evidence: e}
}

// TestEvidenceIsRelayedInTurn: one offence a tick, behind all else, and each of
// them comes.
func TestEvidenceIsRelayedInTurn(t *testing.T) {
	const offences = 5
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	n.Append(t, c)
	l, out := alone(t, n, c, nil)
	for round := range int64(offences) {
		hear(t, l, n.Nodes[1].ID, contradiction(t, n, 3, round))
	}
	relayed := map[string]int{}
	for range 2 * offences {
		out.messages = nil
		l.tick()
		for i, message := range out.messages {
			if last := i >= len(out.messages)-3; last != (message[0] == kindPart) {
				t.Fatalf("message %d of %d in a tick is a %c", i+1, len(out.messages), message[0])
			}
		}
		for _, message := range out.take(kindPart) {
			relayed[string(message)]++
		}
	}
	if len(relayed) != offences {
		t.Errorf("%d offences are relayed, want %d", len(relayed), offences)
	}
	for _, times := range relayed {
		if times != 2*3 {
			t.Errorf("one is sent %d times, want twice to each of three", times)
		}
	}
}

// TestWrongRelaysAreCharged: evidence and rotations have no author whom they could
// be charged to. Who sends one that does not verify is charged, not whom it is
// about, and not for what it may only know too early.
func TestWrongRelaysAreCharged(t *testing.T) {
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	n.Append(t, c)
	liar, other := n.Nodes[2].ID, n.Nodes[3].ID
	_, renewed := n.Renew(t, 3)
	rotation := func(change func(*record.NodeRecord)) record.Part {
		later := renewed.Record
		change(&later)
		return record.Part{Rotate: &later}
	}
	forged := func(vote int) record.Part {
		part := contradiction(t, n, 3, 0)
		part.Evidence.Votes[vote].Signature[0] ^= 1
		return part
	}
	ahead := contradiction(t, n, 3, 0)
	for i := range ahead.Evidence.Votes {
		ahead.Evidence.Votes[i].Height = 9
	}
	commits := record.NewCommitEvidence(record.Hash{1}, record.Commit{Identity: other}, record.Commit{Identity: other, Value: record.Hash{2}})
	for name, row := range map[string]struct {
		part record.Part
		want Refusal
	}{
		"evidence":                          {contradiction(t, n, 3, 0), ""},
		"its first vote is forged":          {forged(0), Invalid},
		"its second vote is forged":         {forged(1), Invalid},
		"evidence of nothing":               {record.Part{Evidence: &record.EvidenceLeaf{}}, Invalid},
		"evidence of a later height":        {ahead, Untimely},
		"commits for an attempt not known":  {record.Part{Evidence: commits}, Untimely},
		"a rotation":                        {rotation(func(*record.NodeRecord) {}), ""},
		"its first signature is forged":     {rotation(func(r *record.NodeRecord) { r.Signatures.Identity[0] ^= 1 }), Invalid},
		"its last signature is forged":      {rotation(func(r *record.NodeRecord) { r.Signatures.Log[0] ^= 1 }), Invalid},
		"a rotation with another number":    {rotation(func(r *record.NodeRecord) { r.Seq += 5 }), Invalid},
		"a rotation that is over":           {record.Part{Rotate: &n.Nodes[3].Record}, Repeated},
		"a rotation to keys of another one": {rotation(func(r *record.NodeRecord) { r.VoteKey = n.Nodes[1].Record.VoteKey }), Untimely},
	} {
		limits := NewLimits(everybody, func(record.Identity, time.Time) {})
		l, _ := alone(t, n, c, limits)
		hear(t, l, liar, row.part)
		want := map[Refusal]int64{}
		if row.want != "" {
			want[row.want] = 1
		}
		if got := counts(limits, liar); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
		if got := counts(limits, other); len(got) != 0 {
			t.Errorf("%s: whom it is about is charged: %v", name, got)
		}
	}
}
