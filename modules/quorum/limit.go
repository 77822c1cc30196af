package quorum

import (
	"errors"
	"sync"
	"time"

	"github.com/pyrsia/appliance/modules/quorum/attest"
	"github.com/pyrsia/appliance/modules/quorum/order"
	"github.com/pyrsia/appliance/modules/record"
)

// Refusal is why a message of another node was dropped.
type Refusal string

// The kinds of refusals.
const (
	Foreign   Refusal = "foreign"   // its sender is no member
	Oversized Refusal = "oversized" // longer than any message can be
	Unknown   Refusal = "unknown"   // of a kind that there is not
	Malformed Refusal = "malformed" // not the encoding of a message
	Invalid   Refusal = "invalid"   // breaks a rule or has a wrong signature, which its sender had to know
	OverRate  Refusal = "over-rate" // beyond what the sender may send
	Stale     Refusal = "stale"     // of a height long over: a replay, or of a member far behind
	Unheard   Refusal = "unheard"   // its sender is shut out
	Repeated  Refusal = "repeated"  // known: members send theirs again until it counts, and a replay looks the same
	Crowded   Refusal = "crowded"   // as much of its sender waits here as may: the node is busy
	Untimely  Refusal = "untimely"  // does not fit the chain here: too early, too late, too much that waits, or of keys that are not its sender's here
)

// What a member may send. The burst covers what waits on its side of a line
// that was broken (256 messages, 16 MiB), several times over; the rate covers a
// proposer that sends a large block to who has not got it, every second, and as
// much beside it as pace lets a member say. A network of 100 members has some ten
// votes per block and sender.
const (
	burstMessages = 2048
	burstBytes    = 64 << 20
	rateMessages  = 512      // per second
	rateBytes     = 16 << 20 // per second
)

// The score of a node rises with what it does wrong, and falls with time. A
// node that follows the rules may be a second behind, restart, or have much to
// say: none of it comes near the bound. What it can never do is send what it
// had to know to be wrong.
const (
	scoreBound = 1000.0
	scoreDecay = 50.0 // per second

	costWrong   = 100.0 // oversized, unknown, malformed
	costInvalid = 50.0  // a rule may change between two blocks, so that honest nodes differ for a moment
	costForeign = 2.0   // a node that takes itself for a member tries again every other second
	costMiB     = 5.0   // of what was read in vain: one that is ahead says it again each second
	costLine    = 3.0   // a new line, by which all is asked and answered anew: a network that flaps makes some a second
	costHolding = 0.15  // signed by keys that are not its sender's here: new ones, of which it sends 256 a second at the most, or none

	// A second over the rate, whatever was sent in it, costs twice what is forgiven:
	// who goes on is shut out after some twenty. By the second and not by the message,
	// because all that was sent to a node that stood still for a minute (a paused
	// machine) comes at once, from members that did nothing wrong.
	costOverSecond = 2 * scoreDecay
)

// What is sent over the rate is dropped unread, which costs next to nothing, but it was
// received. This much of it is borne, and comes back slowly; then its sender is shut
// out, however it spread it: in pulses a flood is over the rate for a moment each time.
// A node that stood still for a minute gets a quarter of it from a busy member.
const (
	bearMessages     = 60_000
	bearBytes        = 1 << 30
	bearMessagesRate = 128     // per second
	bearBytesRate    = 2 << 20 // per second
)

// A node whose score passes the bound is shut out, each time for twice as long.
const (
	shutFirst = 10 * time.Second
	shutLast  = 10 * time.Minute
	shutLevel = 30 * time.Minute // of good conduct halve the next time
)

// maxStrangers bounds the accounts of nodes that are no members.
const maxStrangers = 1024

// Limits keeps account of what other nodes send: it limits how much, counts what
// is refused, and shuts out who does not stop. Safe for concurrent use. A nil
// Limits limits nothing.
type Limits struct {
	member func(record.Identity) bool
	shut   func(id record.Identity, until time.Time)

	mu       sync.Mutex
	accounts map[record.Identity]*account
}

// account is one node's.
type account struct {
	at       time.Time // of the values below
	messages float64   // that it may send at once
	bytes    float64
	score    float64
	counts   map[Refusal]int64
	until    time.Time // end of its newest time outside
	level    int       // how often the first time outside doubles
	over     time.Time // of the newest message over the rate
	bears    float64   // how many messages over the rate are borne still
	bearsOf  float64   // and how many bytes of them
}

// NewLimits makes empty limits. member tells who is a member now; shut is called
// when a node is shut out, on the goroutine that found it out, and returns fast.
func NewLimits(member func(record.Identity) bool, shut func(id record.Identity, until time.Time)) *Limits {
	return &Limits{member: member, shut: shut, accounts: map[record.Identity]*account{}}
}

// admit tells whether a message of so many bytes may be looked at. A refusal is
// counted.
func (l *Limits) admit(from record.Identity, member bool, size int64) bool {
	switch {
	case l == nil:
		return true
	case !member:
		l.Refused(from, Foreign)
		return false
	case size > MaxMessage:
		l.Refused(from, Oversized)
		return false
	}
	l.mu.Lock()
	a, now := l.account(from)
	if now.Before(a.until) {
		a.counts[Unheard]++
		l.mu.Unlock()
		return false
	}
	if a.messages >= 1 && a.bytes >= float64(size) {
		a.messages--
		a.bytes -= float64(size)
		l.mu.Unlock()
		return true
	}
	a.counts[OverRate]++
	until := a.exceed(now, size)
	l.mu.Unlock()
	l.act(from, until)
	return false
}

// Over counts and charges a message of a protocol that has its own rate.
func (l *Limits) Over(from record.Identity, size int) {
	if l == nil {
		return
	}
	l.mu.Lock()
	a, now := l.account(from)
	a.counts[OverRate]++
	until := a.exceed(now, int64(size))
	l.mu.Unlock()
	l.act(from, until)
}

// exceed charges for a message over the rate.
func (a *account) exceed(now time.Time, size int64) (until time.Time) {
	points := costOverSecond * min(1, now.Sub(a.over).Seconds())
	a.over = now
	a.bears--
	a.bearsOf -= float64(size)
	if a.bears < 0 || a.bearsOf < 0 {
		a.bears, a.bearsOf = bearMessages, bearBytes
		points = scoreBound
	}
	return a.charge(now, points)
}

// Refused counts a message that was refused and charges its sender for it.
func (l *Limits) Refused(from record.Identity, why Refusal) { l.refused(from, why, cost(why)) }

// vain counts a message of some bytes that was read and is not taken.
func (l *Limits) vain(from record.Identity, why Refusal, size int) {
	l.refused(from, why, costMiB*float64(size)/(1<<20))
}

func (l *Limits) refused(from record.Identity, why Refusal, points float64) {
	if l == nil {
		return
	}
	l.mu.Lock()
	a, now := l.account(from)
	a.counts[why]++
	until := a.charge(now, points)
	l.mu.Unlock()
	l.act(from, until)
}

// line charges a node for another new line to it. It is counted as nothing: lines
// break without anybody's fault.
func (l *Limits) line(to record.Identity) {
	if l == nil {
		return
	}
	l.mu.Lock()
	a, now := l.account(to)
	until := a.charge(now, costLine)
	l.mu.Unlock()
	l.act(to, until)
}

func cost(why Refusal) float64 {
	switch why {
	case Oversized, Unknown, Malformed:
		return costWrong
	case Invalid:
		return costInvalid
	case Foreign:
		return costForeign
	}
	return 0
}

func (l *Limits) act(id record.Identity, until time.Time) {
	if !until.IsZero() {
		l.shut(id, until)
	}
}

// Of are a node's refusals, nil for none, and until when it is shut out; the
// zero time if it is not.
func (l *Limits) Of(id record.Identity) (counts map[Refusal]int64, until time.Time) {
	if l == nil {
		return nil, time.Time{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.accounts[id]
	if a == nil {
		return nil, time.Time{}
	}
	for why, n := range a.counts {
		if counts == nil {
			counts = map[Refusal]int64{}
		}
		counts[why] = n
	}
	if time.Now().Before(a.until) {
		until = a.until
	}
	return counts, until
}

// ShutOut tells whether a node is shut out now.
func (l *Limits) ShutOut(id record.Identity) bool {
	_, until := l.Of(id)
	return !until.IsZero()
}

// account is a node's, brought up to now. mu is held.
func (l *Limits) account(id record.Identity) (*account, time.Time) {
	now := time.Now()
	a := l.accounts[id]
	if a == nil {
		l.makeRoom()
		a = &account{at: now, messages: burstMessages, bytes: burstBytes, bears: bearMessages, bearsOf: bearBytes, counts: map[Refusal]int64{}}
		l.accounts[id] = a
	}
	seconds := max(0, now.Sub(a.at).Seconds())
	a.at = now
	a.messages = min(burstMessages, a.messages+seconds*rateMessages)
	a.bytes = min(burstBytes, a.bytes+seconds*rateBytes)
	a.score = max(0, a.score-seconds*scoreDecay)
	a.bears = min(bearMessages, a.bears+seconds*bearMessagesRate)
	a.bearsOf = min(bearBytes, a.bearsOf+seconds*bearBytesRate)
	return a, now
}

// makeRoom drops the account of the stranger that was heard of the longest time
// ago, when there are too many. Identities cost nothing. mu is held.
func (l *Limits) makeRoom() {
	if len(l.accounts) < maxStrangers {
		return
	}
	var oldest record.Identity
	for id, a := range l.accounts {
		if !l.member(id) && (oldest == "" || a.at.Before(l.accounts[oldest].at)) {
			oldest = id
		}
	}
	delete(l.accounts, oldest)
}

// charge raises the score and, if that passes the bound, begins a time outside;
// it is zero otherwise. What is found wrong during that time was sent before.
func (a *account) charge(now time.Time, points float64) (until time.Time) {
	if now.Before(a.until) {
		return time.Time{}
	}
	a.score += points
	if a.score < scoreBound {
		return time.Time{}
	}
	if !a.until.IsZero() {
		a.level = max(0, a.level-int(now.Sub(a.until)/shutLevel))
	}
	a.until = now.Add(min(shutLast, shutFirst<<min(a.level, 16)))
	a.level++
	a.score = 0
	return a.until
}

// The rest is where the loop learns that a message is wrong. Only the direct
// sender is charged, and only for what it had to know: members relay what they
// have checked, but which of two honest members is behind is open.

// stale counts a message of a height that has been over for a block or more.
func (l *loop) stale(from record.Identity, message record.Message) {
	if height, _ := message.Slot(); height < l.height-1 {
		l.Limits.Refused(from, Stale)
	}
}

// dropped counts a message that the order machine refused, and charges for it.
func (l *loop) dropped(d order.Dropped) {
	if errors.Is(d.Why, record.ErrMalformed) {
		l.Limits.Refused(d.From, Invalid)
		return
	}
	l.Limits.vain(d.From, Untimely, 0)
}

// judge counts a part that the pool did not take, and charges for it if it is the
// sender's own: no order of blocks makes a wrong signature right. A rotation or
// evidence is relayed by who has checked it, so that whoever sends it answers for it;
// of evidence of commits two honest members may differ for a moment, which one
// offence relayed each tick never adds up to anything.
func (l *loop) judge(from record.Identity, part record.Part, size int, refused error) {
	relayed := part.Rotate != nil || part.Evidence != nil
	switch {
	case errors.Is(refused, attest.ErrEarly), errors.Is(refused, attest.ErrFull):
		l.Limits.vain(from, Untimely, size)
	case part.Hold != nil && author(part) == from:
		l.Limits.refused(from, Untimely, costHolding)
	case errors.Is(refused, record.ErrMalformed) && !l.outdated(part) && (relayed || author(part) == from):
		l.Limits.Refused(from, Invalid)
	default:
		l.Limits.vain(from, Untimely, size)
	}
}

// author is whose signature a part needs, "" for a part that anybody may put
// together.
func author(part record.Part) record.Identity {
	switch {
	case part.Endorse != nil:
		return part.Endorse.Endorsement.Identity
	case part.Hold != nil:
		return part.Hold.Holding.Identity
	case part.Commit != nil:
		return part.Commit.Commit.Identity
	case part.Reveal != nil:
		return part.Reveal.Attestation.Identity
	}
	return ""
}

// outdated tells whether a part may be refused only because its author is ahead
// or behind: an endorsement counts under one set and up to one height.
func (l *loop) outdated(part record.Part) bool {
	if part.Endorse == nil {
		return false
	}
	e, height := part.Endorse.Endorsement, l.chain.Height()+1
	return e.Set != l.chain.Set().Hash() || height > e.LastHeight || e.LastHeight > height+record.MaxEndorsement
}
