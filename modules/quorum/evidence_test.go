package quorum

import (
	"testing"

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
