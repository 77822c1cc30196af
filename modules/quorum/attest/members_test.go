package attest

import (
	"errors"
	"testing"

	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

// twice is evidence of two commits of a member for one attempt.
func twice(t *testing.T, n *chaintest.Network, i int, attempt record.Hash) record.Part {
	t.Helper()
	var commits [2]record.Commit
	for j := range commits {
		c, err := record.SignCommit(n.Network.Genesis, attempt, n.Nodes[i].ID, record.Hash{byte(j + 1)}, n.Nodes[i].Signers.Vote)
		if err != nil {
			t.Fatal(err)
		}
		commits[j] = c
	}
	return record.Part{Evidence: record.NewCommitEvidence(attempt, commits[0], commits[1])}
}

// double is evidence of two votes of a member in one slot.
func double(t *testing.T, n *chaintest.Network, i int, height, round int64) record.Part {
	t.Helper()
	var pair [2]record.Vote
	for j := range pair {
		v, err := record.SignVote(n.Network.Genesis, record.Vote{
			Height: height, Round: round, ID: record.BlockID{Size: 9, Root: record.Hash{byte(j + 1)}}, Step: record.StepPrevote, Voter: n.Nodes[i].ID,
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

// look has a pool follow the chain.
func look(p *Pool, n *chaintest.Network, c *chain.Chain) {
	p.Candidates(n.Now(c).UnixMilli(), Patience{}, func(record.Identity, record.Hash) bool { return false })
}

func add(t *testing.T, p *Pool, part record.Part) {
	t.Helper()
	if added, err := p.Add(part); !added || err != nil {
		t.Fatalf("added %v, %v", added, err)
	}
}

// TestEvidenceThatNoBlockTakes: evidence about an attempt that there is not is
// refused, and what stood under keys that count no more is dropped.
func TestEvidenceThatNoBlockTakes(t *testing.T) {
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	a := n.AppendAttempt(t, c, n.AppendRecipe(t, c, chaintest.Recipe("pkg:generic/a@1", "a")))
	pool := NewPool(c)
	for i := range byte(80) {
		if added, err := pool.Add(twice(t, n, 3, record.Hash{i + 1})); added || !errors.Is(err, ErrEarly) {
			t.Fatalf("added %v, %v", added, err)
		}
	}
	if waiting := len(pool.Evidence()); waiting != 0 {
		t.Errorf("%d offences wait that no block can take", waiting)
	}
	add(t, pool, twice(t, n, 3, a.ID))
	add(t, pool, double(t, n, 3, 1, 0))
	add(t, pool, twice(t, n, 2, a.ID))

	_, leaf := n.Renew(t, 3)
	n.Append(t, c, chaintest.One(leaf))
	n.Append(t, c)
	look(pool, n, c)
	var left []string
	for _, part := range pool.Evidence() {
		e := part.Evidence
		switch {
		case len(e.Votes) > 0 && e.Votes[0].Voter == n.Nodes[3].ID:
			left = append(left, "votes")
		case e.Commits[0].Identity == n.Nodes[2].ID:
			left = append(left, "commits")
		default:
			t.Error("commits of a key that counts no more wait")
		}
	}
	if len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}

// TestEvidenceWaitsWithinBounds: no more offences of a member wait than the chain
// takes of it.
func TestEvidenceWaitsWithinBounds(t *testing.T) {
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	n.Append(t, c)
	pool := NewPool(c)
	for round := range int64(ledger.MaxEvidence) {
		add(t, pool, double(t, n, 3, 1, round))
	}
	if added, err := pool.Add(double(t, n, 3, 1, 99)); added || !errors.Is(err, ErrRefused) {
		t.Errorf("added %v, %v", added, err)
	}
	add(t, pool, double(t, n, 2, 1, 0))
	if waiting := len(pool.Evidence()); waiting != ledger.MaxEvidence+1 {
		t.Errorf("%d wait", waiting)
	}
}

// countedSets counts the sets that are read from the chain.
type countedSets struct {
	*chain.Chain
	reads int
}

func (c *countedSets) SetAt(height int64) (*record.Set, error) {
	c.reads++
	return c.Chain.SetAt(height)
}

// TestEvidenceIsReadOnce: what is known is told by its slot, before any set is
// read; under the present set nothing is read at all.
func TestEvidenceIsReadOnce(t *testing.T) {
	n := chaintest.New(t, 4)
	view := &countedSets{Chain: n.Chain(t)}
	n.Append(t, view.Chain)
	pool := NewPool(view)
	again := func(part record.Part) {
		t.Helper()
		for range 10 {
			if added, err := pool.Add(part); added || err != nil {
				t.Fatalf("added %v, %v", added, err)
			}
		}
	}
	add(t, pool, double(t, n, 3, 2, 0))
	again(double(t, n, 3, 2, 0))
	if view.reads != 0 {
		t.Errorf("%d sets are read for the height under way", view.reads)
	}
	add(t, pool, double(t, n, 3, 1, 0))
	forged := double(t, n, 3, 1, 0)
	forged.Evidence.Votes[1].Signature[0] ^= 1
	again(double(t, n, 3, 1, 0))
	again(forged)
	if view.reads != 1 {
		t.Errorf("%d sets are read for one offence, want 1", view.reads)
	}
	for _, part := range pool.Evidence() {
		n.Append(t, view.Chain, chaintest.One(part.Evidence))
	}
	look(pool, n, view.Chain)
	again(forged) // it stands on the chain
	if view.reads != 1 || len(pool.Evidence()) != 0 {
		t.Errorf("%d sets are read, %d offences wait", view.reads, len(pool.Evidence()))
	}
}
