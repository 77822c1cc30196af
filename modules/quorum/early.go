package quorum

import "github.com/pyrsia/appliance/modules/record"

// What a member may have waiting for the next block: of its own, and of what it
// sent of others. The bytes are those of the largest part, so that one always
// fits. It is a convenience only: members send parts again until the chain has
// them.
const (
	earlyParts = 64
	earlyBytes = record.MaxPart
)

// early are the commits and reveals that came before the block they build on.
// Their authors signed them. They wait for one height, and are then forgotten.
type early struct {
	parts   []record.Part
	known   map[earlySlot]bool
	authors map[record.Identity]earlyShare
	senders map[record.Identity]earlyShare
}

// earlySlot is what an author says once; the first waits.
type earlySlot struct {
	author  record.Identity
	attempt record.Hash
	reveal  bool
}

// earlyShare is how much of a member waits.
type earlyShare struct{ parts, bytes int }

func (s earlyShare) with(size int) (earlyShare, bool) {
	s.parts++
	s.bytes += size
	return s, s.parts <= earlyParts && s.bytes <= earlyBytes
}

// keep has a part wait, within the shares of its author and of who sent it: a
// liar can fill neither another's share nor, with what others signed, more than
// its own. Other kinds of parts come again by themselves. It tells whether the part
// waits from now on.
func (e *early) keep(from record.Identity, part record.Part, size int) (waits bool) {
	slot := earlySlot{author: author(part)}
	switch {
	case part.Commit != nil:
		slot.attempt = part.Commit.Attempt
	case part.Reveal != nil:
		slot.attempt, slot.reveal = part.Reveal.Attestation.Attempt, true
	default:
		return false
	}
	wrote, room := e.authors[slot.author].with(size)
	sent, fits := e.senders[from].with(size)
	if e.known[slot] || !room || !fits {
		return false
	}
	if e.known == nil {
		*e = early{known: map[earlySlot]bool{}, authors: map[record.Identity]earlyShare{}, senders: map[record.Identity]earlyShare{}}
	}
	e.parts = append(e.parts, part)
	e.known[slot], e.authors[slot.author], e.senders[from] = true, wrote, sent
	return true
}

// commitsOf are the commits of an author that wait. Their signatures were checked.
func (e *early) commitsOf(id record.Identity) (commits []record.CommitPart) {
	for _, part := range e.parts {
		if part.Commit != nil && part.Commit.Commit.Identity == id {
			commits = append(commits, *part.Commit)
		}
	}
	return commits
}

// take empties it.
func (e *early) take() []record.Part {
	parts := e.parts
	*e = early{}
	return parts
}
