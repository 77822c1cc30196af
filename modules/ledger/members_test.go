package ledger_test

import (
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

// double is a member's two votes for two blocks in one slot.
func (w *world) double(i int, height, round int64, step record.Step) *record.EvidenceLeaf {
	w.t.Helper()
	var votes [2]record.Vote
	for j := range votes {
		id := record.BlockID{Size: int64(j + 1), Root: record.Digest([]byte{byte(j)})}
		v, err := record.SignVote(w.Network.Network.Genesis, record.Vote{
			Height: height, Round: round, Step: step, ID: id, Voter: w.Nodes[i].ID,
		}, w.Nodes[i].Signers.Vote)
		if err != nil {
			w.t.Fatal(err)
		}
		votes[j] = v
	}
	leaf, err := record.NewEvidence(&votes[0], &votes[1])
	if err != nil {
		w.t.Fatal(err)
	}
	return leaf
}

// twice is a member's two commits for the world's attempt.
func (w *world) twice(i int) *record.EvidenceLeaf {
	w.t.Helper()
	second, err := record.SignCommit(w.Network.Network.Genesis, w.attempt.ID, w.Nodes[i].ID, record.Hash{1}, w.Nodes[i].Signers.Vote)
	if err != nil {
		w.t.Fatal(err)
	}
	return record.NewCommitEvidence(w.attempt.ID, w.votes.Commit(i), second)
}

func TestEvidenceRules(t *testing.T) {
	for name, test := range map[string]struct {
		leaf func(w *world) *record.EvidenceLeaf
		want string
	}{
		"two prevotes": {func(w *world) *record.EvidenceLeaf { return w.double(0, 1, 0, record.StepPrevote) }, ""},
		"of this height": {func(w *world) *record.EvidenceLeaf {
			return w.double(0, w.c.Height()+1, 3, record.StepPrecommit)
		}, ""},
		"two cosigns": {func(w *world) *record.EvidenceLeaf { return w.double(0, 1, 0, record.StepCosign) }, ""},
		"two commits": {func(w *world) *record.EvidenceLeaf { return w.twice(0) }, ""},
		"of a later height": {func(w *world) *record.EvidenceLeaf {
			return w.double(0, w.c.Height()+2, 0, record.StepPrevote)
		}, "evidence of height"},
		"one vote twice": {func(w *world) *record.EvidenceLeaf {
			e := w.double(0, 1, 0, record.StepPrevote)
			e.Votes[1] = e.Votes[0]
			return e
		}, "no two votes"},
		"in the other order": {func(w *world) *record.EvidenceLeaf {
			e := w.double(0, 1, 0, record.StepPrevote)
			e.Votes[0], e.Votes[1] = e.Votes[1], e.Votes[0]
			return e
		}, "canonical order"},
		"an attempt beside votes": {func(w *world) *record.EvidenceLeaf {
			e := w.double(0, 1, 0, record.StepPrevote)
			e.Attempt = w.attempt.ID
			return e
		}, "canonical order"},
		"three votes": {func(w *world) *record.EvidenceLeaf {
			e := w.double(0, 1, 0, record.StepPrevote)
			e.Votes = append(e.Votes, e.Votes[0])
			return e
		}, "want two of one kind"},
		"nothing": {func(w *world) *record.EvidenceLeaf { return &record.EvidenceLeaf{} }, "want two of one kind"},
		"a forged vote": {func(w *world) *record.EvidenceLeaf {
			e := w.double(0, 1, 0, record.StepPrevote)
			e.Votes[1].Signature[3] ^= 1
			if string(record.MustMarshal(e.Votes[0])) > string(record.MustMarshal(e.Votes[1])) {
				e.Votes[0], e.Votes[1] = e.Votes[1], e.Votes[0]
			}
			return e
		}, "does not verify"},
		"commits for an unknown attempt": {func(w *world) *record.EvidenceLeaf {
			id := record.Hash{9}
			a, _ := record.SignCommit(w.Network.Network.Genesis, id, w.Nodes[0].ID, record.Hash{1}, w.Nodes[0].Signers.Vote)
			b, _ := record.SignCommit(w.Network.Network.Genesis, id, w.Nodes[0].ID, record.Hash{2}, w.Nodes[0].Signers.Vote)
			return record.NewCommitEvidence(id, a, b)
		}, "not on the chain"},
	} {
		t.Run(name, func(t *testing.T) {
			w := at(t, "attempt")
			leaf := test.leaf(w)
			err := w.c.Validate(w.Force(t, w.c, leaf), w.Now(w.c))
			if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
				t.Fatalf("%v, want %q", err, test.want)
			}
			if err != nil {
				return
			}
			w.append(leaf)
			if err := w.c.Validate(w.Force(t, w.c, leaf), w.Now(w.c)); err == nil || !strings.Contains(err.Error(), "already") {
				t.Errorf("the same offence again: %v", err)
			}
		})
	}
}

// TestEvidenceUnderOldSet: a member that changed its keys is still held to what
// the old ones signed, and the new key proves nothing about the time before.
func TestEvidenceUnderOldSet(t *testing.T) {
	w := at(t, "attempt")
	old := w.double(0, 1, 0, record.StepPrevote)
	renewed, leaf := w.Renew(t, 0)
	w.append(leaf)
	w.append()
	before := w.Network
	w.Network = renewed
	if err := w.c.Validate(w.Force(t, w.c, w.double(0, 1, 1, record.StepPrevote)), w.Now(w.c)); err == nil {
		t.Error("new keys give evidence about a height of the old ones")
	}
	w.append(old)
	w.Network = before
	if found := evidence(t, w); len(found) != 1 || found[0].Identity != w.Nodes[0].ID || found[0].What != "prevote" || found[0].Height != 1 {
		t.Errorf("%+v", found)
	}
}

// TestEvidenceIsBounded: the log cannot be filled with one member's offences.
func TestEvidenceIsBounded(t *testing.T) {
	w := at(t, "fresh")
	w.append()
	for round := range int64(ledger.MaxEvidence) {
		w.append(w.double(0, 1, round, record.StepPrevote))
	}
	more := w.double(0, 1, ledger.MaxEvidence, record.StepPrevote)
	if err := w.c.Validate(w.Force(t, w.c, more), w.Now(w.c)); err == nil {
		t.Error("evidence without end is taken")
	}
	w.append(w.double(1, 1, 0, record.StepPrevote))
	if found := evidence(t, w); len(found) != ledger.MaxEvidence+1 {
		t.Errorf("%d offences", len(found))
	}
}

func evidence(t *testing.T, w *world) []ledger.Evidence {
	t.Helper()
	found, err := w.c.Evidence()
	if err != nil {
		t.Fatal(err)
	}
	return found
}
