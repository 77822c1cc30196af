package record

import (
	"bytes"
	"fmt"
)

// EvidenceLeaf proves that one key signed two things of which its owner may
// sign one: two votes or proposals in one slot of the order, or two commits for
// one attempt. One of the lists has two entries, in the order of their
// canonical JSON, the others none.
type EvidenceLeaf struct {
	Attempt   Hash       `json:"attempt"`   // leaf hash, of the commits; zero for the others
	Commits   []Commit   `json:"commits"`   //
	Proposals []Proposal `json:"proposals"` // without proofs-of-lock, which their signatures do not cover
	Votes     []Vote     `json:"votes"`     //
}

// Offence is the one thing that a member may say only once: the slot that an
// evidence leaf is about. It names each slot in one way.
type Offence struct {
	Identity Identity `json:"identity"`
	Attempt  Hash     `json:"attempt"` // of two commits, else zero
	Height   int64    `json:"height"`  // of the order, else 0
	Round    int64    `json:"round"`
	What     string   `json:"what"` // "proposal", "prevote", "precommit", "cosign" or "commit"
}

// NewEvidence puts two votes, or two proposals, of one slot together.
func NewEvidence(a, b Message) (*EvidenceLeaf, error) {
	switch a := a.(type) {
	case *Vote:
		if b, ok := b.(*Vote); ok {
			e := &EvidenceLeaf{Votes: []Vote{*a, *b}}
			e.Votes[0], e.Votes[1] = inOrder(*a, *b)
			return e, nil
		}
	case *Proposal:
		if b, ok := b.(*Proposal); ok {
			first, second := *a, *b
			first.Block, first.Lock, second.Block, second.Lock = nil, nil, nil, nil
			e := &EvidenceLeaf{Proposals: make([]Proposal, 2)}
			e.Proposals[0], e.Proposals[1] = inOrder(first, second)
			return e, nil
		}
	}
	return nil, fmt.Errorf("%w: only votes and proposals of one slot can contradict each other", ErrMalformed)
}

// NewCommitEvidence puts two commits of one member for one attempt together.
func NewCommitEvidence(attempt Hash, a, b Commit) *EvidenceLeaf {
	e := &EvidenceLeaf{Attempt: attempt, Commits: make([]Commit, 2)}
	e.Commits[0], e.Commits[1] = inOrder(a, b)
	return e
}

func inOrder[T any](a, b T) (first, second T) {
	if bytes.Compare(MustMarshal(a), MustMarshal(b)) > 0 {
		return b, a
	}
	return a, b
}

// Height is the height whose set the contradicting messages were signed under;
// 0 for commits, which count under the set of the block that includes them.
func (e *EvidenceLeaf) Height() int64 {
	switch {
	case len(e.Votes) > 0:
		return e.Votes[0].Height
	case len(e.Proposals) > 0:
		return e.Proposals[0].Height
	}
	return 0
}

// Check verifies the evidence under the set of its Height and says who did
// what.
func (e *EvidenceLeaf) Check(genesis Hash, set *Set) (Offence, error) {
	sizes := [3]int{len(e.Commits), len(e.Proposals), len(e.Votes)}
	switch sizes {
	case [3]int{2, 0, 0}:
		return e.checkCommits(genesis, set)
	case [3]int{0, 2, 0}:
		return e.checkProposals(genesis, set)
	case [3]int{0, 0, 2}:
		return e.checkVotes(genesis, set)
	}
	return Offence{}, fmt.Errorf("%w: evidence of %d commits, %d proposals and %d votes: want two of one kind", ErrMalformed, sizes[0], sizes[1], sizes[2])
}

var errEvidenceOrder = fmt.Errorf("%w: evidence is not in its canonical order, or names an attempt beside messages of the order", ErrMalformed)

func (e *EvidenceLeaf) checkCommits(genesis Hash, set *Set) (Offence, error) {
	a, b := e.Commits[0], e.Commits[1]
	if a.Identity != b.Identity || a.Value == b.Value {
		return Offence{}, fmt.Errorf("%w: these are no two commits of one member", ErrMalformed)
	}
	if bytes.Compare(MustMarshal(a), MustMarshal(b)) > 0 || e.Attempt.IsZero() {
		return Offence{}, errEvidenceOrder
	}
	for _, c := range e.Commits {
		if err := c.Check(genesis, e.Attempt, set); err != nil {
			return Offence{}, err
		}
	}
	return Offence{Identity: a.Identity, Attempt: e.Attempt, What: "commit"}, nil
}

func (e *EvidenceLeaf) checkProposals(genesis Hash, set *Set) (Offence, error) {
	a, b := e.Proposals[0], e.Proposals[1]
	if bytes.Compare(MustMarshal(a), MustMarshal(b)) > 0 || !e.Attempt.IsZero() {
		return Offence{}, errEvidenceOrder
	}
	for _, p := range e.Proposals {
		if len(p.Lock) > 0 {
			return Offence{}, fmt.Errorf("%w: evidence with a proof-of-lock", ErrMalformed)
		}
	}
	who, err := CheckEquivocation(genesis, set, &a, &b, PublicKey.Verify)
	return Offence{Identity: who, Height: a.Height, Round: a.Round, What: "proposal"}, err
}

func (e *EvidenceLeaf) checkVotes(genesis Hash, set *Set) (Offence, error) {
	a, b := e.Votes[0], e.Votes[1]
	if bytes.Compare(MustMarshal(a), MustMarshal(b)) > 0 || !e.Attempt.IsZero() {
		return Offence{}, errEvidenceOrder
	}
	who, err := CheckEquivocation(genesis, set, &a, &b, PublicKey.Verify)
	return Offence{Identity: who, Height: a.Height, Round: a.Round, What: string(a.Step)}, err
}
