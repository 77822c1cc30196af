// Package quorum is the members' agreement: it drives the attest pool, which
// says what is true, and the order machine, which says what comes next, and
// appends what both decided.
//
// Both are pure (modules/quorum/attest, modules/quorum/order). This package
// gives them a clock, the messages of other members and the vote file, on one
// goroutine, so that nothing in here needs a lock.
//
// A vote is durable before it leaves: the order machine's Write action is
// performed before the actions behind it, and if it cannot be, the service
// stops with an error and starts again from the vote file. Before its first
// vote a member asks the others what they recollect of it
// (modules/quorum/fence).
package quorum

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/quorum/attest"
	"github.com/pyrsia/appliance/modules/quorum/fence"
	"github.com/pyrsia/appliance/modules/quorum/order"
	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

// Chain is the log that the members agree on.
type Chain interface {
	attest.View
	Genesis() *record.Genesis
	Frontier() record.Frontier
	Time() int64
	// Identify is the checkpoint of a block that may be the one of a height; no block
	// with a wrong log signature has one.
	Identify(height int64, block *record.Block) (record.Checkpoint, error)
	Wait(ctx context.Context, height int64) error
	Propose(candidates [][]record.Leaf, proposer record.Identity, now time.Time, log record.Signer) (*record.Block, error)
	Validate(block *record.Block, now time.Time) error
	Append(certified *record.Certified) error
	NextSet() *record.Set
	RecentAttempts(since int64) ([]ledger.Attempt, error)
	// Behind tells whether the log is followed further than it is checked.
	Behind() bool
	// Compare holds a certified block to the one that is here, and halts the chain if
	// they make a fork.
	Compare(height int64, data []byte) (same bool, err error)
	// Halted is why nothing may be appended or voted for any more, or nil.
	Halted() error
}

// Transport sends messages to other members. Send queues and never blocks; a
// message may get lost. Discard drops what is queued for a member.
type Transport interface {
	Send(to record.Identity, message []byte)
	Discard(to record.Identity)
}

// VoteFile keeps the votes of the order, durable when Put returns.
type VoteFile interface {
	Put(records ...votes.Record) error
	Load(height int64) ([]votes.Record, error)
	Prune(height int64) error
	Highest() (votes.Position, error)
	Outcome(attempt record.Hash) (statement []byte, salt record.Hash, ok bool, err error)
	PutShut(reason string) error
	Shut() (reason string, err error)
	NextStart() (int64, error)
	Remember(key record.PublicKey, i record.Incarnation) (record.Incarnation, error)
}

// Config is what the service needs.
type Config struct {
	Identity record.Identity
	Signers  record.NodeSigners
	Patience attest.Patience
	Tick     time.Duration // how often what may have been lost is sent again
	// Working tells whether a member said of late that it works on an attempt.
	Working func(member record.Identity, attempt record.Hash) bool
	// Heard is told of every part that another member sent; it returns fast.
	Heard func(part record.Part)
	// Note is told of every note that a member sent; it returns fast.
	Note func(from record.Identity, note []byte)
	// Awaits is told whose proposal a round waits for, nil for nobody; it
	// returns fast.
	Awaits func(proposer record.Identity)
	// Limits keeps account of what members send; nil for none.
	Limits *Limits
	Log    *slog.Logger
}

// The kinds of messages, their first byte.
const (
	kindOrder = 'o'
	kindPart  = 'a'
	kindNote  = 'n'
	kindStart = 'i' // an incarnation that asks
	kindHeld  = 'r' // the recollection that answers it
)

// MaxMessage is the largest message in bytes.
const MaxMessage = record.MaxMessage + 1

// These bound what waits for the loop: of everybody, and of one member, so that
// none can crowd out another. What does not fit is lost, and sent again by its
// member's next tick.
const (
	inboxSize   = 4096
	memberSize  = 256
	memberBytes = 16 << 20
)

// queue counts what waits of one member. One message may always wait, however
// large.
type queue struct{ messages, bytes atomic.Int64 }

func (q *queue) enter(size int64) bool {
	messages, bytes := q.messages.Add(1), q.bytes.Add(size)
	if messages <= memberSize && (bytes <= memberBytes || messages == 1) {
		return true
	}
	q.leave(size)
	return false
}

func (q *queue) leave(size int64) {
	q.messages.Add(-1)
	q.bytes.Add(-size)
}

// Service runs the agreement on a member.
type Service struct {
	Config
	chain     Chain
	transport Transport
	file      VoteFile
	inbox     chan func(*loop)
	pace      *pace
	standing  atomic.Pointer[Standing]

	mu     sync.Mutex // guards queues
	queues map[record.Identity]*queue
}

// Standing is whether this member votes, for people and for who signs beside
// the service.
type Standing struct {
	Voting bool
	Reason string // why not, or ""
}

// Standing tells whether this member votes now.
func (s *Service) Standing() Standing { return *s.standing.Load() }

// New makes the service; it starts nothing.
func New(config Config, chain Chain, transport Transport, file VoteFile) *Service {
	s := &Service{
		Config: config, chain: chain, transport: transport, file: file,
		inbox: make(chan func(*loop), inboxSize), pace: newPace(), queues: map[record.Identity]*queue{},
	}
	s.standing.Store(&Standing{Reason: "the node is starting"})
	return s
}

// queue is a member's; nil for who is none.
func (s *Service) queue(from record.Identity) *queue {
	if _, member := s.chain.Set().Node(from); !member {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[from]
	if q == nil {
		q = new(queue)
		s.queues[from] = q
	}
	return q
}

// Receive takes a message of another member. It never blocks; from is what the
// transport authenticated.
func (s *Service) Receive(from record.Identity, message []byte) {
	q := s.queue(from)
	size := int64(len(message))
	if !s.Limits.admit(from, q != nil, size) {
		return
	}
	switch {
	case q == nil || size > MaxMessage: // where nothing is limited
		return
	case size == 0:
		s.Limits.Refused(from, Malformed)
		return
	case !q.enter(size):
		s.Limits.vain(from, Crowded, 0)
		return
	}
	queued := s.post(func(l *loop) {
		q.leave(size)
		l.receive(from, message)
	})
	if !queued {
		q.leave(size)
		s.Limits.vain(from, Crowded, 0)
	}
}

// Connected says that a member answers, or that it does not: not by hearsay, but
// by this node's own question. What a member that answers may have missed is sent
// again. false says that the service does not keep up, and knows nothing of it.
func (s *Service) Connected(member record.Identity, connected bool) bool {
	return s.post(func(l *loop) {
		l.step(order.Reachable{Member: member, Reachable: connected})
		if connected {
			l.resend(member)
		}
	})
}

// Opened says that there is a new line to a member over which nothing has gone yet.
// When it returns nil, nothing that binds this node will before the member has
// answered what it recollects: the line before may have ended because this machine
// was set back, with its memory. It waits for Serve, until the context ends.
func (s *Service) Opened(ctx context.Context, member record.Identity) error {
	done := make(chan struct{})
	if !s.post(func(l *loop) { l.opened(member); close(done) }) {
		return ErrBusy
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Service) post(event func(*loop)) (queued bool) {
	select {
	case s.inbox <- event:
		return true
	default:
		return false
	}
}

// ErrBusy is returned by Submit when the service does not keep up, does not run or
// has as much to say as others take; submitting again later does.
var ErrBusy = errors.New("the quorum service is busy")

// Submit adds a part of this node to the pool and sends it to the others. After
// ErrBusy it did neither.
func (s *Service) Submit(part record.Part) error {
	if s.pace.full(time.Now()) || len(s.inbox) == cap(s.inbox) {
		return ErrBusy
	}
	data, err := part.Encode()
	if err != nil {
		return err
	}
	if !s.pace.take(time.Now(), len(data)) {
		return ErrBusy
	}
	select {
	case s.inbox <- func(l *loop) { l.submit(part, data) }:
		return nil
	default:
		return ErrBusy
	}
}

// Tell sends a note to the other members, best effort.
func (s *Service) Tell(note []byte) {
	if s.pace.take(time.Now(), len(note)) {
		s.broadcast(kindNote, note)
	}
}

func (s *Service) broadcast(kind byte, data []byte) {
	message := append([]byte{kind}, data...)
	for _, node := range s.chain.Set().Nodes {
		if node.Identity != s.Identity {
			s.transport.Send(node.Identity, message)
		}
	}
}

// Waiting lists what waits for more members; nil if the service does not
// answer before the context ends.
func (s *Service) Waiting(ctx context.Context) []attest.Progress {
	answer := make(chan []attest.Progress, 1)
	s.post(func(l *loop) { answer <- l.pool.Waiting() })
	select {
	case progress := <-answer:
		return progress
	case <-ctx.Done():
		return nil
	}
}

// loop is the state of one run of the service, owned by Serve's goroutine.
type loop struct {
	*Service
	ctx     context.Context
	pool    *attest.Pool
	machine *order.Machine
	height  int64 // that the machine works on
	timers  chan order.Timeout
	events  []order.Event       // that the machine has yet to be given
	asked   *order.RequestBlock // not answered yet
	fatal   error
	early   early                                    // that came before the block they build on
	large   map[record.Identity]map[record.Hash]bool // large parts that were read, of each sender, by their bytes
	dirty   bool                                     // the pool or the chain changed since the last look for work
	pending bool                                     // what the machine was told last

	fence   *fence.Fence
	kept    bool // why the fence is shut stands in the vote file
	voting  bool // the fence is open, and the machine votes unless the vote file is ahead
	ahead   bool // the vote file is of a later height than the machine's
	started map[record.Identity]start
	resent  map[record.Identity]time.Time // when a member on a new line was sent all again
	ticked  time.Time                     // of the last tick, to find a clock that jumped
	relayed int                           // offences sent again, to send each in turn

	// What a simulation replaces: the clock, the timers and chance.
	now    func() time.Time
	after  func(time.Duration, order.Timeout)
	random func() record.Hash
}

// newLoop is one run of the service; nothing of it has happened yet.
func (s *Service) newLoop(ctx context.Context) *loop {
	l := &loop{
		Service: s, ctx: ctx, pool: attest.NewPool(s.chain), timers: make(chan order.Timeout, 64),
		started: map[record.Identity]start{}, resent: map[record.Identity]time.Time{}, large: map[record.Identity]map[record.Hash]bool{}, now: time.Now,
	}
	l.after = func(d time.Duration, t order.Timeout) {
		time.AfterFunc(d, func() {
			select {
			case l.timers <- t:
			case <-ctx.Done():
			}
		})
	}
	l.random = func() (nonce record.Hash) {
		rand.Read(nonce[:])
		return nonce
	}
	l.machine = order.New(l.orderConfig())
	return l
}

// wake begins the run: from the vote file, as after any restart.
func (l *loop) wake() {
	if l.ask(); l.fatal != nil {
		return
	}
	l.start()
	l.reconsider()
}

// Serve agrees until the context ends or a vote cannot be written.
func (s *Service) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	l := s.newLoop(ctx)
	grown := make(chan struct{}, 1)
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		s.follow(ctx, grown)
	}()
	defer func() { cancel(); <-followed }()
	tick := time.NewTicker(s.Tick)
	defer tick.Stop()
	l.wake()
	for l.fatal == nil {
		if l.dirty && len(s.inbox) == 0 {
			l.lookForWork()
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case event := <-s.inbox:
			event(l)
		case timeout := <-l.timers:
			l.step(timeout)
		case <-grown:
			l.grew()
		case <-tick.C:
			l.tick()
			l.lookForWork() // also when messages never stop coming
		}
	}
	return l.fatal
}

// follow reports that the chain grew, also by blocks that came over sync.
func (s *Service) follow(ctx context.Context, grown chan<- struct{}) {
	for height := s.chain.Height(); s.chain.Wait(ctx, height+1) == nil; {
		height = s.chain.Height()
		select {
		case grown <- struct{}{}:
		default:
		}
	}
}

func (l *loop) orderConfig() order.Config {
	return order.Config{
		Self: l.Identity, Genesis: l.chain.Network().Genesis, Timeouts: l.chain.Genesis().Timeouts, Signer: l.Signers.Vote,
		CheckCosignature: l.checkCosignature, Identify: l.identify, Validate: l.validate,
	}
}

// start begins the height after the chain's end, if the machine is behind it.
func (l *loop) start() {
	l.dirty = true
	if height := l.chain.Height() + 1; height > l.height {
		l.begin(height, false)
	}
}

// grew follows a chain that grew: a member that waits for it may vote now.
func (l *loop) grew() {
	l.start()
	if !l.voting {
		l.reconsider()
	}
}

// begin starts the machine on a height, or again on its own.
func (l *loop) begin(height int64, again bool) {
	records, err := l.file.Load(height)
	if err != nil {
		l.fatal = fmt.Errorf("read the vote file: %w", err)
		return
	}
	highest, err := l.file.Highest()
	if err != nil {
		l.fatal = fmt.Errorf("read the vote file: %w", err)
		return
	}
	// What is finished need not be remembered; a crash here prunes next time.
	if err := l.file.Prune(height); err != nil {
		l.fatal = fmt.Errorf("prune the vote file: %w", err)
		return
	}
	if height > l.height { // what is early again is not kept again
		clear(l.large)
		for _, part := range l.early.take() {
			l.add(part)
		}
	}
	l.height = height
	set := l.chain.Set()
	l.fence.Sets(set)
	// A chain that is behind its vote file was restored or has yet to catch up:
	// it follows until it is where this node voted last.
	l.ahead = highest.Height > height
	// Said before the height begins: a proposer that learns of its work later has
	// declined its round by then.
	l.look()
	l.step(order.Start{Height: height, Set: set, Records: records, Fenced: !l.voting || l.ahead, Again: again})
}

// step gives the machine an event and performs what it wants, in order. Events
// that performing brings up wait until all actions before them are done.
func (l *loop) step(event order.Event) {
	l.events = append(l.events, event)
	if len(l.events) > 1 {
		return // the call further up the stack goes on with it
	}
	if l.heedClock(); l.fatal != nil {
		l.events = nil
		return
	}
	for ; len(l.events) > 0; l.events = l.events[1:] {
		for _, action := range l.machine.Step(l.events[0]) {
			if l.fatal == nil {
				l.perform(action)
			}
		}
	}
}

func (l *loop) perform(action order.Action) {
	switch action := action.(type) {
	case order.Write:
		if err := l.file.Put(action.Records...); err != nil {
			l.fatal = fmt.Errorf("write the vote file: %w", err)
		}
	case order.Broadcast:
		if data, ok := l.encode(action.Message); ok {
			l.bind(kindOrder, data)
		}
	case order.Send:
		if data, ok := l.encode(action.Message); ok && l.speaksTo(action.To) {
			l.transport.Send(action.To, append([]byte{kindOrder}, data...))
		}
	case order.ScheduleTimeout:
		l.awaits(action.Timeout)
		l.after(action.After, action.Timeout)
	case order.RequestBlock:
		l.asked = &action
		l.propose()
	case order.Decide:
		l.cosign(action)
	case order.Certified:
		l.append(action)
	case order.Evidence:
		l.accuse(action)
	case order.Conflict:
		// Members lied. What is certified is what other nodes have: follow it.
		l.Log.Error("a decided and a certified block of one height differ; tell the other operators", "height", action.Decided.Height, "decided", action.Decided.ID)
	case order.Dropped:
		l.Log.Debug("dropped a message", "from", action.From, "why", action.Why)
		l.dropped(action)
	case order.Repeated:
		l.Limits.Refused(action.From, Repeated)
	case order.Fault:
		l.Log.Error("the order machine met a fault", "error", action.Err)
		if errors.Is(action.Err, order.ErrForeign) {
			l.fence.Shut(action.Err)
			l.reconsider() // the reason is durable before anything else happens
		}
	case order.PeerBehind, order.PeerAhead:
		// Both sides follow each other's chain over streams of their own.
	}
}

func (l *loop) encode(message record.Message) ([]byte, bool) {
	data, err := record.EncodeMessage(message)
	if err != nil {
		l.Log.Error("cannot encode a message", "error", err)
	}
	return data, err == nil
}

func (l *loop) receive(from record.Identity, message []byte) {
	switch message[0] {
	case kindOrder:
		decoded, err := record.DecodeMessage(message[1:])
		if err != nil {
			l.Log.Debug("dropped a message", "from", from, "why", err)
			l.Limits.Refused(from, Malformed)
			return
		}
		l.stale(from, decoded)
		l.step(order.Receive{From: from, Message: decoded})
	case kindPart:
		repeated := l.repeated(from, message)
		if repeated.known {
			l.Limits.Refused(from, Repeated)
			return
		}
		part, err := record.DecodePart(message[1:])
		if err != nil {
			l.Log.Debug("dropped a part", "from", from, "why", err)
			l.Limits.Refused(from, Malformed)
			return
		}
		added, err := l.add(part)
		l.remember(from, repeated)
		switch {
		case errors.Is(err, attest.ErrEarly) && l.early.keep(from, part, len(message)-1):
			l.Limits.vain(from, Untimely, 0) // its author signed it, and it waits here
		case err != nil:
			l.judge(from, part, len(message), err)
		case !added:
			l.Limits.vain(from, Repeated, len(message))
		}
		if err == nil {
			l.Heard(part)
		}
	case kindNote:
		l.Note(from, message[1:])
	case kindStart:
		l.recollect(from, message[1:])
	case kindHeld:
		l.answered(from, message[1:])
	default:
		l.Limits.Refused(from, Unknown)
	}
}

func (l *loop) submit(part record.Part, data []byte) {
	l.add(part)
	if part.Commit != nil || part.Reveal != nil {
		l.bind(kindPart, data)
		return
	}
	l.broadcast(kindPart, data)
}

// speaksTo tells whether another member may hear what binds this one: not before it
// has answered, and not a word once anybody has shown that the vote file was set back,
// what the file holds included.
func (l *loop) speaksTo(member record.Identity) bool {
	return l.fence.Reason() == nil && l.fence.Heard(member)
}

// bind sends what this member must not contradict to those who have answered what
// they recollect of it. The others get it after their answer: all of it is sent
// again and again.
func (l *loop) bind(kind byte, data []byte) {
	message := append([]byte{kind}, data...)
	for _, node := range l.chain.Set().Nodes {
		if node.Identity != l.Identity && l.speaksTo(node.Identity) {
			l.transport.Send(node.Identity, message)
		}
	}
}

func (l *loop) add(part record.Part) (added bool, err error) {
	added, err = l.pool.Add(part)
	if err != nil {
		l.Log.Debug("refused a part", "why", err)
	}
	l.dirty = l.dirty || added
	return added, err
}

const (
	largePart = 8 << 10 // bytes from which on reading a part costs more than its digest
	maxLarge  = 256     // of one sender
)

// repeat is a large part's digest, and whether it came before in this height. What the
// pool did not take then it does not take now: what it goes by is the chain.
type repeat struct {
	digest record.Hash
	known  bool
}

// repeated finds a large part that came before. Parts are sent again until the
// chain has them, and one with the list of a publication takes longer to read than
// the others take to send it.
func (l *loop) repeated(from record.Identity, message []byte) (r repeat) {
	if len(message) >= largePart {
		r.digest = record.Digest(message)
		r.known = l.large[from][r.digest]
	}
	return r
}

func (l *loop) remember(from record.Identity, r repeat) {
	if !r.digest.IsZero() && len(l.large[from]) < maxLarge {
		if l.large[from] == nil {
			l.large[from] = map[record.Hash]bool{}
		}
		l.large[from][r.digest] = true
	}
}

// lookForWork tells the machine whether there is a block to propose, and
// proposes it where it is asked for. A height that has something to propose goes
// on having it: a block is not made only to see that again.
func (l *loop) lookForWork() {
	l.dirty = false
	if l.pending && l.asked == nil {
		return
	}
	if l.look() && l.asked != nil {
		l.propose()
	}
}

// look tells the machine whether there is a block to propose.
func (l *loop) look() (pending bool) {
	block, err := l.block()
	if err != nil {
		l.Log.Error("cannot build a block", "error", err)
		return false
	}
	if pending = block != nil; pending != l.pending {
		l.pending = pending
		l.step(order.Pending{Pending: pending})
	}
	return pending
}

// block is what this node would propose now, nil if nothing.
func (l *loop) block() (*record.Block, error) {
	now := l.now()
	candidates := l.pool.Candidates(now.UnixMilli(), l.Patience, l.Working)
	// A change of the set waits for the block after its own.
	due := l.chain.Height() == 0 || l.chain.NextSet().Hash() != l.chain.Set().Hash() || now.UnixMilli()-l.chain.Time() >= l.chain.Genesis().Timeouts.Heartbeat
	if len(candidates) == 0 && !due {
		return nil, nil
	}
	block, err := l.chain.Propose(candidates, l.Identity, now, l.Signers.Log)
	if err != nil || (len(block.Leaves) == 1 && !due) {
		return nil, err
	}
	return block, nil
}

// propose answers the machine's request for a block once there is something to
// propose: now, or when a look for work finds it. The machine gives up waiting
// by itself.
func (l *loop) propose() {
	block, err := l.block()
	if err != nil {
		l.Log.Error("cannot build a block", "error", err)
	}
	if block == nil || l.asked == nil || l.asked.Height != l.chain.Height()+1 {
		return
	}
	asked := *l.asked
	l.asked = nil
	l.step(order.BlockBuilt{Height: asked.Height, Round: asked.Round, Block: block.Encode()})
}

// identify is the checkpoint that a block would lead to.
func (l *loop) identify(height int64, data []byte) (record.BlockID, error) {
	block, err := record.DecodeBlock(data)
	if err != nil {
		return record.BlockID{}, err
	}
	checkpoint, err := l.chain.Identify(height, block)
	return record.BlockID{Size: checkpoint.Size, Root: checkpoint.Root}, err
}

func (l *loop) validate(height int64, data []byte) error {
	block, err := record.DecodeBlock(data)
	if err != nil {
		return err
	}
	return l.chain.Validate(block, l.now())
}

func (l *loop) checkpoint(id record.BlockID) record.Checkpoint {
	return record.Checkpoint{Origin: l.chain.Network().Origin(), Size: id.Size, Root: id.Root}
}

func (l *loop) checkCosignature(set *record.Set, id record.BlockID, c record.Cosignature) error {
	return c.Check(l.checkpoint(id), set)
}

func (l *loop) cosign(decided order.Decide) {
	cosignature, err := record.SignCosignature(l.checkpoint(decided.ID), l.Identity, l.now().Unix(), l.Signers.Cosigner)
	if err != nil {
		l.fatal = fmt.Errorf("cosign: %w", err)
		return
	}
	l.step(order.Cosigned{Height: decided.Height, ID: decided.ID, Cosignature: cosignature})
}

func (l *loop) append(c order.Certified) {
	if l.chain.Height() >= c.Height {
		l.start()
		return
	}
	block, err := record.DecodeBlock(c.Block)
	if err != nil {
		l.fatal = fmt.Errorf("append block %d: %w", c.Height, err)
		return
	}
	certified, err := record.Certify(l.chain.Network(), l.chain.Set(), l.chain.Frontier(), block, c.Cosignatures)
	if err == nil {
		err = l.chain.Append(certified)
	}
	if l.chain.Behind() {
		// It came from others, so late that it is checked behind the log; then this
		// member goes on. Where the state is further behind than this block, what was
		// certified here cannot be put together, nor compared, before that.
		if certified != nil {
			_, err = l.chain.Compare(c.Height, certified.Encode())
		}
		l.Log.Debug("a block came from others before it was certified here", "height", c.Height, "error", err)
		return
	}
	if l.chain.Halted() != nil {
		return // the fence shuts at the next tick
	}
	if err != nil && l.chain.Height() < c.Height {
		l.fatal = fmt.Errorf("append block %d: %w", c.Height, err)
		return
	}
	l.start()
}
