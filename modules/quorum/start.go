package quorum

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/quorum/fence"
	"github.com/pyrsia/appliance/modules/quorum/order"
	"github.com/pyrsia/appliance/modules/record"
)

const (
	// clockJump is by how much the wall clock may drift from the monotonic one
	// between two ticks. More means that the machine slept, or is a snapshot that
	// goes on: the member asks the others anew before it votes.
	clockJump = 5 * time.Second

	// startPause is how often a member is answered, whatever it asks, and startBurst
	// how often at once: an answer is many times as long as its question, and a new
	// start costs a write to the disk; but lines may break and come again within a
	// moment. Who asks too soon asks again with its next tick.
	startPause = time.Second
	startBurst = 3
)

// start is what was last heard of another member's starts.
type start struct {
	heard  time.Time
	credit time.Duration // of answers: one costs startPause
	key    record.PublicKey
	kept   record.Incarnation // of the key, as it stands in the vote file
	nonce  record.Hash        // of the last question that was answered
}

// mayAsk takes the credit for an answer, if there is enough.
func (s *start) mayAsk(now time.Time) bool {
	if s.heard.IsZero() {
		s.credit = startBurst * startPause
	} else {
		s.credit = min(startBurst*startPause, s.credit+min(startBurst*startPause, now.Sub(s.heard).Abs()))
	}
	if s.heard = now; s.credit < startPause {
		return false
	}
	s.credit -= startPause
	return true
}

// ask begins a start: a new incarnation, durable before anybody hears of it.
func (l *loop) ask() {
	number, err := l.file.NextStart()
	if err != nil {
		l.fatal = fmt.Errorf("write the vote file: %w", err)
		return
	}
	own := record.Incarnation{Identity: l.Identity, Nonce: l.random(), Number: number}
	genesis := l.chain.Network().Genesis
	if own, err = record.SignIncarnation(genesis, own, l.Signers.Vote); err != nil {
		l.fatal = fmt.Errorf("sign a start: %w", err)
		return
	}
	if l.fence == nil {
		l.fence = fence.New(fence.Config{
			Self: l.Identity, Genesis: genesis, Key: l.Signers.Vote.Public(), File: l.file,
			Closed: l.chain.Height, Ended: l.chain.Time,
		}, own, l.chain.Set())
	} else {
		l.fence.Again(own)
	}
	reason, err := l.file.Shut()
	if err != nil {
		l.fatal = fmt.Errorf("read the vote file: %w", err)
	}
	if reason != "" {
		l.fence.Shut(fmt.Errorf("%w (%s)", fence.ErrSetBack, strings.TrimPrefix(reason, fence.ErrSetBack.Error()+": ")))
	}
	l.recallOwn()
	l.ticked = l.now()
	for _, node := range l.chain.Set().Nodes {
		l.question(node.Identity)
	}
}

// recallOwn holds the vote file to what the chain says of this member: at a start,
// and while the chain comes up to those of the others.
func (l *loop) recallOwn() {
	attempts, err := l.chain.RecentAttempts(l.chain.Time() - ledger.MaxDeadline) // older ones are over
	if err != nil {
		l.fatal = fmt.Errorf("read the chain: %w", err)
		return
	}
	for i := range attempts {
		a := &attempts[i]
		if a.Active(l.chain.Time()) && l.spoke(a) {
			if err := l.fence.Outcome(a.ID); err != nil {
				l.fatal = fmt.Errorf("read the vote file: %w", err)
			}
		}
	}
}

// spoke tells whether this member's keys of now committed or voted in an
// attempt.
func (l *loop) spoke(a *ledger.Attempt) bool {
	if node, ok := l.chain.Set().Node(l.Identity); !ok || node.VoteKey != l.Signers.Vote.Public() || l.chain.Younger(l.Identity, a) {
		return false
	}
	_, committed := a.Committed(l.Identity)
	_, voted := a.VoteOf(l.Identity)
	return committed || voted
}

// question asks one member what it recollects.
func (l *loop) question(to record.Identity) {
	if to != l.Identity && l.fence != nil {
		l.transport.Send(to, append([]byte{kindStart}, record.MustMarshal(l.fence.Question())...))
	}
}

// opened is what Opened says.
func (l *loop) opened(member record.Identity) {
	l.Limits.line(member)
	l.transport.Discard(member)
	l.fence.Renew(member)
	l.question(member)
	// What it asked may have been answered over the line before.
	if asked := l.started[member]; asked.key != (record.PublicKey{}) {
		l.answer(member, asked.kept, asked.nonce)
	}
	l.reconsider()
}

// recollect answers a member that starts.
func (l *loop) recollect(from record.Identity, data []byte) {
	asks, err := record.DecodeIncarnation(data)
	if err != nil {
		l.Limits.Refused(from, Malformed)
	}
	last := l.started[from]
	may := last.mayAsk(l.now())
	l.started[from] = last
	if !may {
		l.Limits.Refused(from, Repeated)
		return // it asks again
	}
	node, member := l.chain.Set().Node(from)
	if err != nil || !member {
		return
	}
	if asks.Identity != from {
		l.Limits.Refused(from, Invalid)
		return
	}
	if err := asks.Check(l.chain.Network().Genesis, node.VoteKey); err != nil {
		// Of another network, or of keys that are not on the chain here yet.
		l.Limits.vain(from, Untimely, 0)
		l.Log.Debug("dropped a question", "from", from, "error", err)
		return
	}
	kept := last.kept
	if last.key != node.VoteKey || asks.Number > kept.Number {
		if kept, err = l.file.Remember(node.VoteKey, asks); err != nil {
			l.fatal = fmt.Errorf("write the vote file: %w", err)
			return
		}
	}
	last.key, last.kept, last.nonce = node.VoteKey, kept, asks.Nonce
	l.started[from] = last
	l.answer(from, kept, asks.Nonce)
}

// answer tells a member that asked with a nonce what is recollected of it.
func (l *loop) answer(to record.Identity, kept record.Incarnation, nonce record.Hash) {
	answer := record.Recollection{Height: l.chain.Height(), Incarnation: kept, Nonce: nonce, Commits: l.commitsOf(to)}
	recalled, proposals := l.machine.Recall(to)
	// The newest count most; a member that needed more rounds than these has been
	// heard by others too.
	answer.Votes = recalled[max(0, len(recalled)-record.MaxRecalledVotes):]
	answer.Proposals = proposals[max(0, len(proposals)-record.MaxRecalledProposals):]
	l.transport.Send(to, append([]byte{kindHeld}, record.MustMarshal(answer)...))
}

// commitsOf are a member's commits for attempts that are not over, and for those that
// are not on the chain here yet.
func (l *loop) commitsOf(id record.Identity) []record.CommitPart {
	commits := append(l.pool.CommitsOf(id), l.early.commitsOf(id)...)
	slices.SortFunc(commits, func(a, b record.CommitPart) int { return bytes.Compare(a.Attempt[:], b.Attempt[:]) })
	commits = slices.CompactFunc(commits, func(a, b record.CommitPart) bool { return a.Attempt == b.Attempt })
	return commits[:min(len(commits), record.MaxRecalledCommits)]
}

// answered takes what a member recollects of this one.
func (l *loop) answered(from record.Identity, data []byte) {
	if !l.fence.Awaits(from) {
		l.Limits.Refused(from, Repeated)
		return
	}
	r, err := record.DecodeRecollection(data)
	if err != nil {
		l.Limits.Refused(from, Malformed)
	} else if r.Nonce != l.fence.Question().Nonce {
		l.Limits.vain(from, Stale, len(data))
	} else if err = l.fence.Answer(from, r, l.now().UnixMilli()); errors.Is(err, record.ErrMalformed) {
		l.Limits.Refused(from, Invalid)
	}
	if err != nil {
		l.Log.Debug("dropped an answer", "from", from, "error", err)
	}
	l.reconsider()
	l.resend(from) // what was not said to it before
}

// resend sends one member what it may have missed, at the most once in the time of a
// tick: by then it is sent to all anyway, and a member that breaks its lines over and
// over gets no more than one that stays.
func (l *loop) resend(to record.Identity) {
	now := l.now()
	if !l.speaksTo(to) || now.Sub(l.resent[to]).Abs() < l.Tick {
		return
	}
	l.resent[to] = now
	l.step(order.Resend{To: to})
}

// tick sends again what may have been lost.
func (l *loop) tick() {
	l.heedClock()
	l.ticked = l.now()
	for _, id := range l.fence.Tick() {
		l.question(id)
	}
	l.reconsider()
	l.rotate()
	l.step(order.Tick{})
	l.relayEvidence() // behind the order's own messages, which must not wait for it
}

// heedClock asks the other members anew when the clock jumped: a virtual machine may
// have been set back with its memory. It is looked at before every event, since the
// first one after a jump may be the one that makes this member vote.
func (l *loop) heedClock() {
	now := l.now()
	jumped := now.Round(0).Sub(l.ticked.Round(0)) - now.Sub(l.ticked)
	if l.fence == nil || jumped.Abs() <= clockJump {
		return
	}
	l.ticked = now
	l.Log.Warn("the clock jumped; asking the other members again before the next vote", "by", jumped)
	l.ask()
	l.reconsider()
}

// relayEvidence sends one offence again, each in turn: any proposer that holds it
// puts it on the chain, so that it need not be with everybody soon.
func (l *loop) relayEvidence() {
	parts := l.pool.Evidence()
	if len(parts) == 0 {
		return
	}
	l.relay(parts[l.relayed%len(parts)])
	l.relayed++
}

// reconsider opens or shuts the machine as the fence says.
func (l *loop) reconsider() {
	if err := l.chain.Halted(); err != nil {
		l.fence.Shut(err)
	}
	if l.fence.Open() && !l.voting {
		l.recallOwn() // the chain may have come up only now
	}
	// A reason that is not kept would be forgotten with the next start, whose
	// number nobody knows.
	if reason := l.fence.Reason(); reason != nil && l.chain.Halted() == nil && !l.kept {
		if err := l.file.PutShut(reason.Error()); err != nil {
			l.fatal = fmt.Errorf("write the vote file: %w", err)
		}
		l.kept = true
	}
	open := l.fence.Open() && !l.chain.Behind()
	l.tell(open)
	if open == l.voting || l.height == 0 {
		return
	}
	l.voting = open
	// A machine votes in a height or does not: it begins again from the vote file,
	// as after a restart.
	l.asked, l.dirty = nil, true
	l.begin(l.height, true)
}

// tell publishes this member's standing, and logs a reason once.
func (l *loop) tell(open bool) {
	now := Standing{Voting: open && !l.ahead}
	node, member := l.chain.Set().Node(l.Identity)
	switch {
	case errors.Is(l.fence.Reason(), fence.ErrSetBack):
		now.Reason = l.fence.Reason().Error() + `; stop this node and run "pyrsia node rekey"`
	case l.fence.Reason() != nil:
		now.Reason = l.fence.Reason().Error()
	case !member:
		now = Standing{Reason: "this node is not a member of the network's set"}
	case node.VoteKey != l.Signers.Vote.Public() && l.chain.UsedKey(l.Signers.Vote.Public()):
		now = Standing{Reason: `the keys of this node were replaced by later ones; restore those, or stop this node and run "pyrsia node rekey"`}
	case node.VoteKey != l.Signers.Vote.Public():
		now = Standing{Reason: "the new keys of this node wait to be put on the chain by the other members"}
	case l.ahead:
		now.Reason = `its vote file is ahead of its chain; it votes once the chain has caught up, and in a network that was founded anew after "pyrsia node rekey"`
	case !open && l.fence.Behind():
		now.Reason = "its chain is behind those of the other members; it votes once it has caught up"
	case !open:
		answers, need := l.fence.Answered()
		now.Reason = fmt.Sprintf("asking the other members what this node voted before: %d answered, at least %d needed", answers, need)
	}
	if before := l.standing.Swap(&now); before.Reason != now.Reason && l.fence.Reason() != nil {
		l.Log.Error("this node votes no more", "reason", now.Reason)
	}
}

// rotate asks for the member's new keys to be put on the chain, until they are.
func (l *loop) rotate() {
	node, member := l.chain.Set().Node(l.Identity)
	if next, ok := l.chain.NextSet().Node(l.Identity); ok {
		node = next
	}
	key := l.Signers.Vote.Public()
	if !member || node.VoteKey == key || l.chain.UsedKey(key) {
		return
	}
	later, err := record.SignRotation(l.chain.Network().Genesis, record.NodeRecord{Operator: node.Operator, Platforms: node.Platforms, Seq: node.Seq + 1}, l.Signers)
	if err != nil {
		l.fatal = fmt.Errorf("sign this node's record: %w", err)
		return
	}
	part := record.Part{Rotate: &later}
	l.add(part)
	l.relay(part)
}

// relay sends a part to the others.
func (l *loop) relay(part record.Part) {
	data, err := part.Encode()
	if err != nil {
		l.Log.Error("cannot encode a part", "error", err)
		return
	}
	l.broadcast(kindPart, data)
}

// accuse puts two messages that contradict each other before the others. Of one
// offender so many are enough; and whoever passed them on, it alone had to know.
func (l *loop) accuse(e order.Evidence) {
	leaf, err := record.NewEvidence(e.First, e.Second)
	if err != nil {
		l.Log.Error("cannot make evidence of two messages", "error", err)
		return
	}
	l.Limits.Refused(e.Offender(), Invalid)
	if added, _ := l.add(record.Part{Evidence: leaf}); !added {
		return
	}
	l.Log.Error("a member contradicted itself: two signed messages in one slot", "evidence", string(record.MustMarshal(leaf)))
	l.relay(record.Part{Evidence: leaf})
}
