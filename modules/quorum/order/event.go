package order

import (
	"time"

	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

// Event is what happens to a machine: Start, Receive, Timeout, Pending,
// BlockBuilt, Cosigned, Reachable or Tick.
type Event interface{ event() }

// Start begins a height, also when another member's certified block ended the
// one before. A height at or below the machine's is ignored, but for Again.
type Start struct {
	Height  int64
	Set     *record.Set    // of the height
	Records []votes.Record // what the vote file holds of the height
	// Fenced makes the machine follow without voting: its vote state may be
	// older than what it voted (protocol, "vote state"), or the vote file is
	// at a higher height.
	Fenced bool
	// Again begins the machine's own height once more, from the vote file and
	// with what others said in it: a member that was fenced may vote now, or one
	// that voted must not any more.
	Again bool
}

// Receive is a message of another member.
type Receive struct {
	From    record.Identity // who sent it, as the transport authenticated it
	Message record.Message
}

// Timeout reports that the time of a ScheduleTimeout passed.
type Timeout struct {
	Kind   TimeoutKind
	Height int64
	Round  int64
}

// Pending tells whether there is something to propose, or a heartbeat is due.
// It holds until the next Pending, over heights too.
type Pending struct{ Pending bool }

// BlockBuilt answers RequestBlock. A nil block says that there is nothing to
// propose after all.
type BlockBuilt struct {
	Height int64
	Round  int64
	Block  []byte
}

// Cosigned answers Decide: the member's cosignature on the checkpoint.
type Cosigned struct {
	Height      int64
	ID          record.BlockID
	Cosignature record.Cosignature
}

// Reachable tells the outcome of the driver's own last dial of a member. The
// round of a proposer that cannot be dialled is short. Hearsay is no reason to
// send it.
type Reachable struct {
	Member    record.Identity
	Reachable bool
}

// Tick comes about once a second: what may have been lost is sent again.
type Tick struct{}

// Resend comes when one member may have missed what was said before, because its
// connection is a new one. Nobody else gets anything: a member that breaks its
// connections all the time must not make this one send to all others each time. It
// comes at the most as often as Tick for one member.
type Resend struct{ To record.Identity }

func (Resend) event()     {}
func (Start) event()      {}
func (Receive) event()    {}
func (Timeout) event()    {}
func (Pending) event()    {}
func (BlockBuilt) event() {}
func (Cosigned) event()   {}
func (Reachable) event()  {}
func (Tick) event()       {}

// Action is what a machine wants done: Write, Broadcast, Send,
// ScheduleTimeout, RequestBlock, Decide, Certified, Evidence, Conflict,
// PeerBehind, PeerAhead, Dropped, Repeated or Fault.
type Action interface{ action() }

// Write makes the records durable in the vote file, all or none, before the
// actions behind it are performed. It is the first action of its step.
type Write struct{ Records []votes.Record }

// Broadcast sends a message to all other members of the set.
type Broadcast struct{ Message record.Message }

// Send sends a message to one member.
type Send struct {
	To      record.Identity
	Message record.Message
}

// ScheduleTimeout asks for a Timeout after a time. Later ones do not replace
// earlier ones; a machine ignores what no longer concerns it.
type ScheduleTimeout struct {
	Timeout
	After time.Duration
}

// TimeoutKind is what is waited for.
type TimeoutKind string

// The timeouts of a round.
const (
	TimeoutPropose   TimeoutKind = "propose"
	TimeoutPrevote   TimeoutKind = "prevote"
	TimeoutPrecommit TimeoutKind = "precommit"
)

// RequestBlock asks for a block to propose; BlockBuilt answers.
type RequestBlock struct {
	Height int64
	Round  int64
}

// Decide reports that a block is decided and asks for the member's cosignature
// on its checkpoint; Cosigned answers.
type Decide struct {
	Height int64
	ID     record.BlockID
	Block  []byte
}

// Certified reports a block with exactly Q cosignatures, sorted by identity.
// The driver appends it to the chain and starts the next height.
type Certified struct {
	Height       int64
	ID           record.BlockID
	Block        []byte
	Cosignatures []record.Cosignature
}

// Evidence reports two messages of one key that contradict each other
// (record.CheckEquivocation).
type Evidence struct{ First, Second record.Message }

// Offender is whose key signed both.
func (e Evidence) Offender() record.Identity {
	switch m := e.Second.(type) {
	case *record.Vote:
		return m.Voter
	case *record.Cosign:
		return m.Vote.Voter
	case *record.Proposal:
		return m.Proposer
	}
	return ""
}

// Conflict reports that this member saw one block decided and another one
// certified at the same height: at least 2Q-N members lied. Both are proofs.
type Conflict struct {
	Decided   record.Quorum
	Certified []record.Cosign
}

// PeerBehind reports that a member works on a height that is finished here:
// the driver sends it the certified block.
type PeerBehind struct {
	Peer   record.Identity
	Height int64 // what it works on
}

// PeerAhead reports that a member has the certified block of this height, or
// at least Q members cosigned one that is unknown here: the driver syncs.
type PeerAhead struct {
	Peer   record.Identity
	Height int64 // what it works on, or this height
}

// Dropped reports a message that was refused. Why wraps record.ErrMalformed if its
// sender had to know that it is wrong.
type Dropped struct {
	From record.Identity
	Why  error
}

// Repeated reports a message that says what is known: members send theirs again, and
// a replay looks the same.
type Repeated struct{ From record.Identity }

// Fault reports that something of this node's own does not work: its signer,
// its block builder, its vote file's content. The machine goes on without.
type Fault struct{ Err error }

func (Write) action()           {}
func (Broadcast) action()       {}
func (Send) action()            {}
func (ScheduleTimeout) action() {}
func (RequestBlock) action()    {}
func (Decide) action()          {}
func (Certified) action()       {}
func (Evidence) action()        {}
func (Conflict) action()        {}
func (PeerBehind) action()      {}
func (PeerAhead) action()       {}
func (Dropped) action()         {}
func (Repeated) action()        {}
func (Fault) action()           {}
