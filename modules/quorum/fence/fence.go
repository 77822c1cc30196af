// Package fence is what stands between a start of a member's program and its
// first vote: it asks the other members what they recollect of this one, and
// finds out whether the vote file is older than what was signed.
//
// A vote file is set back by a restored backup or by the snapshot of a virtual
// machine. What it then does not know could be contradicted. Two things show
// it, both signed by this member, so that nobody can make up a past for it:
//
//   - a start of the same or a higher number that is not this one. Others keep
//     the number of the highest start durably, so this is found long after;
//   - a vote or a commit that the file does not hold. Others keep these while
//     they can still count.
//
// A member whose file was set back signs nothing any more, with no end but new
// keys (pyrsia node rekey). One that others have nothing against votes once all
// of them have answered, or, after some patience, Q-1 of them: with fewer there
// is no quorum to vote in. And its chain must have come up to the height that
// they are at: others recollect the votes of the height that they work on, and in
// those below it could contradict itself. Who told of a height that does not
// come is not waited for any longer than the chain stands still. What is lost and
// was heard by nobody that answers is not found; docs/protocol.md states that bound.
//
// The snapshot of a virtual machine may go on with its memory: there is no start
// then, and its clock may show nothing. But no line to another member outlives that.
// So who has a new line to a member asks it again, and tells it nothing that binds
// before it has answered (Renew, Heard). With fewer than Q-1 such lines a member
// stands as at a start.
//
// Everything here is pure: no socket, clock or goroutine. The vote file comes as
// a port. A Fence serves one goroutine.
package fence

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"

	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

// ErrSetBack is wrapped by the reason for which a member must not sign.
var ErrSetBack = errors.New("the vote file of this node is older than what its key signed")

// Patience is how many ticks a member waits for all others before Q-1 answers
// are enough.
const Patience = 3

// Standstill is how many ticks a member whose chain does not grow waits for a
// height that others told it of.
const Standstill = 15

// File is what is read of the vote file.
type File interface {
	Load(height int64) ([]votes.Record, error)
	Highest() (votes.Position, error)
	Outcome(attempt record.Hash) (statement []byte, salt record.Hash, ok bool, err error)
}

// Config is a fence's fixed surroundings.
type Config struct {
	Self    record.Identity
	Genesis record.Hash
	Key     record.PublicKey // vote key
	File    File
	// Closed is the height up to which the chain is certified here: no vote of
	// these heights can count any more.
	Closed func() int64
	// Ended is the header time of the chain's end, in milliseconds since 1970.
	Ended func() int64
	// Verify checks signatures of vote keys; PublicKey.Verify if nil.
	Verify record.Verifier
}

// Fence is one question to all members, and their answers.
type Fence struct {
	cfg      Config
	own      record.Incarnation
	set      *record.Set
	answered map[record.Identity]bool
	ticks    int
	told     map[record.Identity]told
	closed   int64 // the height of this member's chain at the last tick
	still    int   // ticks since it grew
	open     bool
	reason   error
}

// told is how long a member said that its chain is, and when that was heard.
type told struct {
	height int64
	at     int64 // milliseconds since 1970
	later  int   // how often it said one again while the fence was not open
}

// maxLater is how often a member may say a height anew before the fence opens, each
// time for Skew. With no bound liars that break their lines would keep a member that
// starts from voting for ever, two of them in turn also where each height that they
// say is there by and by; with none at all a member that waits for a witness would
// forget what it waits for when that one's line breaks.
const maxLater = 3

// Skew is how far the header times of a chain may be ahead of one's clock, and one's
// clock behind the others', in milliseconds: twice what members let pass.
const Skew = 20_000

// New is the fence of a start. own is signed and its number is durable.
func New(cfg Config, own record.Incarnation, set *record.Set) *Fence {
	if cfg.Verify == nil {
		cfg.Verify = record.PublicKey.Verify
	}
	return &Fence{cfg: cfg, own: own, set: set, answered: map[record.Identity]bool{}, told: map[record.Identity]told{}}
}

// Question is what to send to the others.
func (f *Fence) Question() record.Incarnation { return f.own }

// Again asks everybody anew, with a later start's incarnation: the clock showed
// that time was lost.
func (f *Fence) Again(own record.Incarnation) {
	f.own, f.ticks, f.still, f.open = own, 0, 0, false
	clear(f.answered)
	clear(f.told)
}

// Sets follows a change of the set.
func (f *Fence) Sets(set *record.Set) { f.set = set }

// Tick counts time, and lists who is to be asked again.
func (f *Fence) Tick() (ask []record.Identity) {
	f.ticks++
	f.still++
	if closed := f.cfg.Closed(); closed > f.closed {
		f.closed, f.still = closed, 0
	}
	for i := range f.set.Nodes {
		if id := f.set.Nodes[i].Identity; id != f.cfg.Self && !f.answered[id] {
			ask = append(ask, id)
		}
	}
	return ask
}

// Renew forgets what a member answered, for there is a new line to it. With
// fewer than Q-1 answers left the fence is shut, and waits as at a start: one that
// breaks its lines on purpose does not shut it while others stand by theirs.
func (f *Fence) Renew(member record.Identity) {
	delete(f.answered, member)
	if _, answers := f.others(); answers < f.set.Quorum()-1 {
		f.open, f.ticks, f.still = false, 0, 0
	}
}

// Heard tells whether a member has answered over the line that there is to it now.
func (f *Fence) Heard(member record.Identity) bool { return f.answered[member] }

// others is how many other members there are, and how many of them answered.
func (f *Fence) others() (others, answers int) {
	for i := range f.set.Nodes {
		if id := f.set.Nodes[i].Identity; id != f.cfg.Self {
			others++
			if f.answered[id] {
				answers++
			}
		}
	}
	return others, answers
}

// Open tells whether the member may vote.
func (f *Fence) Open() bool {
	if f.reason != nil {
		return false
	}
	if f.open {
		return true
	}
	others, answers := f.others()
	enough := answers == others || answers >= f.set.Quorum()-1 && f.ticks >= Patience
	if f.open = enough && !f.Behind(); f.open {
		for member, t := range f.told {
			t.later = 0
			f.told[member] = t
		}
	}
	return f.open
}

// Behind tells whether this member's chain has yet to come up to those of the
// others. What the others had when they answered is there, whatever they said, once
// a block of a later time is: header times grow with heights.
func (f *Fence) Behind() bool {
	if f.still >= Standstill {
		return false
	}
	closed, ended := f.cfg.Closed(), f.cfg.Ended()
	for _, t := range f.told {
		if closed < t.height && ended <= t.at+Skew {
			return true
		}
	}
	return false
}

// Answered is how many members answered, and how many are needed at the least.
func (f *Fence) Answered() (answers, need int) {
	_, answers = f.others()
	return answers, f.set.Quorum() - 1
}

// Reason is why the member must never vote with this key again; nil if nothing
// is known against it.
func (f *Fence) Reason() error { return f.reason }

// Shut shuts the fence for a reason that was found elsewhere.
func (f *Fence) Shut(reason error) {
	if f.reason == nil {
		f.reason = reason
	}
}

// Awaits tells whether an answer of a member still says anything: each is heard
// once for a question and a line. What it had to say against this member it could
// have said then, and a replay must not cost more than a look.
func (f *Fence) Awaits(from record.Identity) bool { return !f.answered[from] }

// Answer takes what a member recollects. An error that wraps record.ErrMalformed
// says what is wrong with the answer itself, which then counts for nothing; any
// other is one of the vote file.
//
// An answer that comes after the fence opened still counts: it may be the only
// one that holds something against this member. now is in milliseconds since 1970.
func (f *Fence) Answer(from record.Identity, r record.Recollection, now int64) error {
	if _, member := f.set.Node(from); !member || from == f.cfg.Self {
		return fmt.Errorf("%w: %.80q is no other member", record.ErrMalformed, string(from))
	}
	if r.Nonce != f.own.Nonce || !f.Awaits(from) {
		return nil // to a question of before, or said already
	}
	// All is checked before any is held to the file, which costs more.
	slots, err := f.check(r)
	if err != nil {
		return err
	}
	if r.Incarnation.Number >= f.own.Number && r.Incarnation.Nonce != f.own.Nonce {
		f.Shut(fmt.Errorf("%w: this is its start %d, and members know a start %d", ErrSetBack, f.own.Number, r.Incarnation.Number))
	}
	if err := f.compare(slots); err != nil {
		return err
	}
	for _, c := range r.Commits {
		if err := f.Outcome(c.Attempt); err != nil {
			return err
		}
	}
	f.answered[from] = true
	f.tell(from, r.Height, now)
	return nil
}

// tell notes a height. One that is not there yet is waited for on, whatever the member
// says later.
func (f *Fence) tell(from record.Identity, height, now int64) {
	before, again := f.told[from]
	next := told{height: height, at: now, later: before.later}
	if before.height > f.cfg.Closed() {
		next.height = max(before.height, height)
	}
	if again && !f.open {
		next.later++
	}
	if next.later > maxLater {
		next.at = before.at
	} else {
		f.still = 0 // the chain gets its time to come up from now on
	}
	f.told[from] = next
}

func (f *Fence) signed(message []byte, signature record.Signature) bool {
	return f.cfg.Verify(f.cfg.Key, message, signature)
}

// held is what a member holds in a slot.
type held struct {
	slot votes.Slot
	id   record.BlockID
}

var errUnsorted = fmt.Errorf("%w: a recollection that is not sorted, says a thing twice, or is of several heights", record.ErrMalformed)

// check verifies an answer by itself, and lists the slots that it holds. They
// are of one height.
func (f *Fence) check(r record.Recollection) (slots []held, err error) {
	if !sorted(r) {
		return nil, errUnsorted
	}
	if r.Incarnation.Identity != f.cfg.Self || !f.signed(r.Incarnation.Message(f.cfg.Genesis), r.Incarnation.Signature) {
		return nil, fmt.Errorf("%w: an incarnation that is not this node's", record.ErrMalformed)
	}
	for _, v := range r.Votes {
		h, err := f.vote(v)
		if err != nil {
			return nil, err
		}
		slots = append(slots, h)
	}
	for _, p := range r.Proposals {
		if p.Proposer != f.cfg.Self || !f.signed(p.Message(f.cfg.Genesis), p.Signature) {
			return nil, fmt.Errorf("%w: a proposal that is not this node's", record.ErrMalformed)
		}
		slots = append(slots, held{votes.Slot{Height: p.Height, Round: p.Round, Kind: votes.Proposal}, p.ID})
	}
	for _, c := range r.Commits {
		if c.Commit.Identity != f.cfg.Self || !f.signed(c.Commit.Message(f.cfg.Genesis, c.Attempt), c.Commit.Signature) {
			return nil, fmt.Errorf("%w: a commit that is not this node's", record.ErrMalformed)
		}
	}
	for _, h := range slots {
		if h.slot.Height != slots[0].slot.Height {
			return nil, errUnsorted
		}
	}
	return slots, nil
}

// sorted tells whether each list of an answer is in its order, without
// duplicates.
func sorted(r record.Recollection) bool {
	return ascending(r.Votes, func(a, b record.Vote) int {
		return cmp.Or(cmp.Compare(a.Round, b.Round), cmp.Compare(a.Step, b.Step))
	}) && ascending(r.Proposals, func(a, b record.Proposal) int {
		return cmp.Compare(a.Round, b.Round)
	}) && ascending(r.Commits, func(a, b record.CommitPart) int {
		return bytes.Compare(a.Attempt[:], b.Attempt[:])
	})
}

func ascending[T any](list []T, compare func(a, b T) int) bool {
	for i := 1; i < len(list); i++ {
		if compare(list[i-1], list[i]) >= 0 {
			return false
		}
	}
	return true
}

func (f *Fence) vote(v record.Vote) (held, error) {
	if v.Voter != f.cfg.Self || !f.signed(v.Message(f.cfg.Genesis), v.Signature) {
		return held{}, fmt.Errorf("%w: a vote that is not this node's", record.ErrMalformed)
	}
	kind, ok := map[record.Step]votes.Kind{
		record.StepPrevote: votes.Prevote, record.StepPrecommit: votes.Precommit, record.StepCosign: votes.Cosign,
	}[v.Step]
	if !ok {
		return held{}, fmt.Errorf("%w: a vote of the step %.40q", record.ErrMalformed, string(v.Step))
	}
	return held{votes.Slot{Height: v.Height, Round: v.Round, Kind: kind}, v.ID}, nil
}

// compare holds the slots of an answer, which are of one height, to the file. A
// height is loaded with its blocks: once is enough.
func (f *Fence) compare(slots []held) error {
	if len(slots) == 0 {
		return nil
	}
	height := slots[0].slot.Height
	highest, err := f.cfg.File.Highest()
	if err != nil {
		return err
	}
	if height <= f.cfg.Closed() || height < highest.Height {
		return nil // finished: the file refuses to sign there
	}
	records, err := f.cfg.File.Load(height)
	if err != nil {
		return err
	}
	known := map[votes.Slot]votes.Record{}
	for _, r := range records {
		known[r.Slot] = r
	}
	for _, h := range slots {
		r, ok := known[h.slot]
		if !ok {
			f.Shut(fmt.Errorf("%w: members hold a %s that it does not know", ErrSetBack, h.slot))
			continue
		}
		id, err := signedID(r)
		if err != nil {
			return fmt.Errorf("the vote file's %s: %v", h.slot, err) // not the sender's mistake
		}
		if id != h.id {
			f.Shut(fmt.Errorf("%w: two different messages are signed, each as the %s", ErrSetBack, h.slot))
		}
	}
	return nil
}

// signedID is the block of a signed record.
func signedID(r votes.Record) (record.BlockID, error) {
	message, err := record.DecodeMessage(r.Data)
	if err != nil {
		return record.BlockID{}, err
	}
	switch m := message.(type) {
	case *record.Vote:
		return m.ID, nil
	case *record.Cosign:
		return m.Vote.ID, nil
	case *record.Proposal:
		return m.ID, nil
	}
	return record.BlockID{}, fmt.Errorf("%w: %s", record.ErrMalformed, r.Slot)
}

// Outcome shuts the fence if the file holds no outcome of an attempt in which
// this member is known to have committed or voted.
func (f *Fence) Outcome(attempt record.Hash) error {
	_, _, known, err := f.cfg.File.Outcome(attempt)
	if err == nil && !known {
		f.Shut(fmt.Errorf("%w: it committed to a result in attempt %s, which the file does not know", ErrSetBack, attempt.Short()))
	}
	return err
}
