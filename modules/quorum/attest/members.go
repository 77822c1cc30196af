package attest

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

// rotate keeps a member's later record.
func (p *Pool) rotate(later record.NodeRecord) (bool, error) {
	node, ok := p.view.Set().Node(later.Identity)
	if !ok {
		return false, fmt.Errorf("%w: new keys of %.80q, which is not in the set", ErrRefused, string(later.Identity))
	}
	if known, ok := p.rotations[later.Identity]; later.Seq <= node.Seq || (ok && known.Seq >= later.Seq) {
		return false, nil
	}
	if p.view.UsedKey(later.VoteKey) || later.Operator != node.Operator {
		return false, fmt.Errorf("%w: new keys of %s that were used before, or of another operator", ErrRefused, later.Identity)
	}
	if err := later.CheckRotation(p.view.Network().Genesis); err != nil { // four signatures, after all that costs less
		return false, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	p.rotations[later.Identity] = later
	return true, nil
}

// accuse keeps evidence that is not on the chain and that a block can take.
func (p *Pool) accuse(e *record.EvidenceLeaf) (bool, error) {
	if o := claimed(e); p.evidence[o] != nil || p.view.Accused(o) {
		return false, nil // before anything is read or verified: it comes again and again
	}
	if n := len(e.Votes) + len(e.Proposals) + len(e.Commits); n != 2 {
		return false, fmt.Errorf("%w: %w: evidence of %d messages", ErrRefused, record.ErrMalformed, n)
	}
	set, height := p.view.Set(), e.Height()
	if height > p.view.Height()+1 {
		return false, fmt.Errorf("%w: %w: evidence of height %d", ErrRefused, ErrEarly, height)
	}
	if height == 0 && len(e.Commits) > 0 {
		if _, err := p.attempt(e.Attempt); err != nil {
			return false, fmt.Errorf("%w: %w: evidence: %w", ErrRefused, ErrEarly, err)
		}
	}
	if height > 0 && height <= p.view.Height() { // above, the present set counts
		at, err := p.view.SetAt(height)
		if err != nil {
			return false, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		set = at
	}
	offence, err := e.Check(p.view.Network().Genesis, set)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if p.offences(offence.Identity) >= ledger.MaxEvidence {
		return false, fmt.Errorf("%w: enough evidence against %s is waiting", ErrRefused, offence.Identity)
	}
	p.evidence[offence] = e
	return true, nil
}

// claimed is the offence that evidence is about, if it verifies: Check says the
// same then. It is no known one if the evidence is about nothing.
func claimed(e *record.EvidenceLeaf) record.Offence {
	switch {
	case len(e.Votes) > 0:
		v := &e.Votes[0]
		return record.Offence{Identity: v.Voter, Height: v.Height, Round: v.Round, What: string(v.Step)}
	case len(e.Proposals) > 0:
		p := &e.Proposals[0]
		return record.Offence{Identity: p.Proposer, Height: p.Height, Round: p.Round, What: "proposal"}
	case len(e.Commits) > 0:
		return record.Offence{Identity: e.Commits[0].Identity, Attempt: e.Attempt, What: "commit"}
	}
	return record.Offence{}
}

func (p *Pool) offences(id record.Identity) (n int) {
	for o := range p.evidence {
		if o.Identity == id {
			n++
		}
	}
	return n
}

// Evidence is what waits to be put on the chain, for sending it again.
func (p *Pool) Evidence() []record.Part {
	var parts []record.Part
	for _, o := range p.sortedOffences() {
		parts = append(parts, record.Part{Evidence: p.evidence[o]})
	}
	return parts
}

func (p *Pool) sortedOffences() []record.Offence {
	return slices.SortedFunc(maps.Keys(p.evidence), func(a, b record.Offence) int {
		return cmp.Or(
			cmp.Compare(a.Identity, b.Identity), bytes.Compare(a.Attempt[:], b.Attempt[:]),
			cmp.Compare(a.Height, b.Height), cmp.Compare(a.Round, b.Round), cmp.Compare(a.What, b.What),
		)
	})
}

// memberLeaves are the leaves about members. Of several rotations the rules let
// one in; the others wait.
func (p *Pool) memberLeaves() (candidates [][]record.Leaf) {
	for _, r := range sortedParts(p.rotations) {
		candidates = append(candidates, []record.Leaf{&record.KeyRotateLeaf{Record: r}})
	}
	for _, o := range p.sortedOffences() {
		candidates = append(candidates, []record.Leaf{p.evidence[o]})
	}
	return candidates
}

// follow drops what a change of the set or the chain made useless: parts of
// keys that count no more would spoil the leaves of the others.
func (p *Pool) follow() {
	for o := range p.evidence {
		if p.view.Accused(o) {
			delete(p.evidence, o)
		}
	}
	set := p.view.Set()
	if set.Hash() == p.set.Hash() {
		return
	}
	for o, e := range p.evidence { // of the order it counts under the set of its height, which stays
		if e.Height() > 0 {
			continue
		}
		if _, err := e.Check(p.view.Network().Genesis, set); err != nil {
			delete(p.evidence, o)
		}
	}
	for id, later := range p.rotations {
		if node, ok := set.Node(id); !ok || node.Seq >= later.Seq {
			delete(p.rotations, id)
		}
	}
	for digest, c := range p.changes { // endorsements name the set that they are cast under
		for id := range c.endorsements {
			p.withdraw(c, id)
		}
		delete(p.changes, digest)
	}
	for i := range p.set.Nodes {
		old := &p.set.Nodes[i]
		if node, ok := set.Node(old.Identity); !ok || node.VoteKey != old.VoteKey {
			p.forget(old.Identity)
		}
	}
	p.set = set
}

// forget drops a member's parts that its old key signed.
func (p *Pool) forget(id record.Identity) {
	for digest, h := range p.attempts {
		delete(h.holdings, id)
		if len(h.holdings) == 0 {
			delete(p.attempts, digest)
		}
	}
	for _, v := range p.votes {
		delete(v.commits, id)
		delete(v.reveals, id)
	}
}

// CommitsOf are a member's commits that are not on the chain yet, by attempt: at most
// record.MaxRecalledCommits.
func (p *Pool) CommitsOf(id record.Identity) []record.CommitPart {
	var commits []record.CommitPart
	for _, attempt := range sortedKeys(p.votes) {
		if c, ok := p.votes[attempt].commits[id]; ok && p.isOpen(attempt) {
			commits = append(commits, record.CommitPart{Attempt: attempt, Commit: c})
		}
	}
	return commits
}
