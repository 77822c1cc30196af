package quorum

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/quorum/attest"
	"github.com/pyrsia/appliance/modules/quorum/fence"
	"github.com/pyrsia/appliance/modules/quorum/order"
	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

// simDisk is what survives a crash.
type simDisk struct {
	chain *chaintest.Memory
	votes *votes.Memory
}

func newSimDisk() simDisk { return simDisk{new(chaintest.Memory), new(votes.Memory)} }

func (d simDisk) clone() simDisk { return simDisk{d.chain.Clone(), d.votes.Clone()} }

// simSnapshot is a copy of a member's machine: its disk, and of its memory what a
// start does not make anew from the disk.
type simSnapshot struct {
	simDisk
	running *record.Incarnation // of the start under way, if the member voted
}

// simNode is a member.
type simNode struct {
	w       *simWorld
	i       int
	id      record.Identity
	signers record.NodeSigners
	liar    string
	asks    bool

	up, gone bool
	life     int // counts starts: what an earlier one planned means nothing
	disk     simDisk
	old      simSnapshot         // of before
	setBack  bool                // the disk was replaced by a snapshot
	resumes  *record.Incarnation // the machine goes on from a snapshot, with its memory
	unwarned bool                // since then
	cuts     int                 // how often its lines broke for that
	blind    bool                // and it votes, though it has forgotten votes that count: nobody who knew answered
	rekeyed  bool

	// Of one life.
	chain    *chain.Chain
	service  *Service
	loop     *loop
	heard    map[record.Hash]record.Attempt // attempts to hold
	building map[record.Hash]bool
	locks    map[record.Hash]record.Attempt // this node's own, by recipe
	sent     map[record.Hash]int64
	endorsed map[record.Hash]record.Part
	held     map[record.Hash]record.Part
	revealed map[record.Hash]int64 // attempt → when it was first
	open     map[int]bool          // lines to others
	told     map[int]simTold       // by others, of heights that were not here
	wasOpen  bool
	seen     int64    // height that was looked at
	view     simView  // of the chain at a height
	queued   []func() // events that came up while one was under way
	busy     bool
}

// simView is what a member works by, read once for each height.
type simView struct {
	height   int64
	recipes  map[record.Hash]*ledger.Recipe
	attempts []ledger.Attempt
	newest   map[record.Hash]*ledger.Attempt // by recipe
}

// look reads the chain again if it grew.
func (n *simNode) look() {
	if n.view.recipes != nil && n.view.height == n.chain.Height() {
		return
	}
	attempts, err := n.chain.Attempts()
	if err != nil {
		n.w.fail("%s: %v", n.name(), err)
	}
	n.view = simView{n.chain.Height(), map[record.Hash]*ledger.Recipe{}, attempts, map[record.Hash]*ledger.Attempt{}}
	for i := range attempts {
		n.view.newest[attempts[i].Attempt.Recipe] = &attempts[i]
	}
	for _, recipe := range n.w.recipes {
		if state, err := n.chain.Recipe(recipe.Hash()); err == nil {
			n.view.recipes[recipe.Hash()] = state
		}
	}
}

func (n *simNode) name() string { return fmt.Sprintf("node%d(…%s)", n.i, n.id.Short()) }

// honest tells whether the member follows the rules, as far as it knows.
func (n *simNode) honest() bool { return n.liar == "" && !n.gone }

// hasLoop tells whether the member runs the service at all.
func (n *simNode) hasLoop() bool {
	return n.liar != liesSilent && n.liar != liesRubbish && n.liar != liesReplay
}

var errCrash = errors.New("the power is gone")

// do runs an event of the member, to its end or to a crash.
func (n *simNode) do(event func()) {
	if !n.up || n.loop == nil {
		return
	}
	if n.busy {
		n.queued = append(n.queued, event)
		return
	}
	n.busy = true
	defer func() {
		n.busy = false
		if cause := recover(); cause != nil {
			if cause != errCrash {
				panic(cause)
			}
			n.queued = nil
			n.crash("in a write")
		}
	}()
	event()
	for len(n.queued) > 0 {
		next := n.queued[0]
		n.queued = n.queued[1:]
		next()
	}
	for n.loop.dirty && n.loop.fatal == nil {
		n.loop.lookForWork()
	}
	n.noticeFence()
	if height := n.chain.Height(); height > n.seen && n.liar == "" {
		n.seen = height
		n.w.appended(n, height)
	}
	if n.loop.fatal != nil {
		if n.liar == "" && n.chain.Halted() == nil {
			n.w.fail("%s stops: %v", n.name(), n.loop.fatal)
		}
		n.crash("fatal")
	}
}

// boot starts the member from its disk.
func (n *simNode) boot() {
	n.up = true
	n.life++
	n.heard, n.building, n.locks = map[record.Hash]record.Attempt{}, map[record.Hash]bool{}, map[record.Hash]record.Attempt{}
	n.sent, n.endorsed, n.held = map[record.Hash]int64{}, map[record.Hash]record.Part{}, map[record.Hash]record.Part{}
	n.revealed = map[record.Hash]int64{}
	n.view = simView{}
	n.wasOpen, n.queued, n.loop, n.seen = false, nil, nil, 0
	n.open, n.told = map[int]bool{}, map[int]simTold{}
	for from := range n.w.cfg.N {
		delete(n.w.delivered, [2]int{n.i, from})
	}
	c, err := chain.New(simBackend{n.disk.chain, n}, n.w.net.GenesisLeaf)
	if err != nil {
		n.w.fail("%s: %v", n.name(), err)
		return
	}
	n.chain = c
	if n.liar == "" && n.w.rng.IntN(8) == 0 {
		if err := c.Check(n.w.t.Context(), nil); err != nil {
			n.w.fail("%s after a restart: %v", n.name(), err)
		}
	}
	n.old = n.snapshot()
	n.reconnect()
	if !n.hasLoop() {
		return
	}
	n.service = New(Config{
		Identity: n.id, Signers: n.signers, Tick: simTick * time.Millisecond, Patience: attest.Patience{Commit: 30_000, Reveal: 2000},
		Working: func(id record.Identity, attempt record.Hash) bool { return n.w.byID[id].works(attempt) },
		Heard:   n.hear, Note: func(record.Identity, []byte) {}, Log: slog.New(slog.DiscardHandler),
	}, c, simLine{n}, simFile{n.disk.votes, n})
	life := n.life
	n.loop = n.service.newLoop(context.Background())
	n.loop.now = func() time.Time { return time.UnixMilli(n.w.now) }
	n.loop.after = func(d time.Duration, t order.Timeout) {
		n.w.at(d.Milliseconds(), func() {
			if n.life == life {
				n.do(func() { n.loop.step(t) })
			}
		})
	}
	n.loop.random = func() (nonce record.Hash) {
		binary.BigEndian.PutUint64(nonce[:], n.w.rng.Uint64())
		return nonce
	}
	resumes := n.resumes
	if resumes != nil {
		n.loop.random = func() record.Hash { return resumes.Nonce }
		n.loop.file = simResumed{n.loop.file.(simFile), resumes.Number}
	}
	n.do(n.loop.wake)
	if resumes != nil && n.loop != nil {
		n.resume(*resumes)
	}
	n.do(n.catchUp)
	n.tick(life)
}

// reconnect opens the lines to and from a member that was started.
func (n *simNode) reconnect() {
	for _, other := range n.w.nodes {
		if other != n {
			n.connect(other)
			other.connect(n)
		}
	}
}

// resume has the member go on as it was when the snapshot was made: it asks nobody,
// for all have answered. What it sent before never arrives.
func (n *simNode) resume(own record.Incarnation) {
	n.loop.file = n.loop.file.(simResumed).simFile
	n.w.report.Resumed++
	n.unwarned = true
	n.do(func() {
		n.resumes = nil
		for _, other := range n.w.nodes {
			if err := n.loop.fence.Answer(other.id, record.Recollection{Incarnation: own, Nonce: own.Nonce}, n.w.now); other != n && err != nil {
				n.w.fail("%s goes on: %v", n.name(), err)
			}
		}
		n.loop.reconsider()
	})
}

// simResumed is a vote file that does not count a start.
type simResumed struct {
	simFile
	number int64
}

func (f simResumed) NextStart() (int64, error) { return f.number, nil }

// connect opens the line to another member once both are up.
func (n *simNode) connect(other *simNode) {
	n.open[other.i] = false
	life, theirs := n.life, other.life
	var try func()
	try = func() {
		if n.life != life || other.life != theirs || !n.up {
			return // a boot connects anew
		}
		if w := n.w; !other.up || !w.good && w.side[n.i] != w.side[other.i] {
			w.at(500, try)
			return
		}
		n.open[other.i] = true
		n.do(func() { n.loop.opened(other.id) })
	}
	n.w.at(int64(1+n.w.rng.IntN(500)), try)
}

// works tells whether the member said of late that it works on an attempt.
func (n *simNode) works(attempt record.Hash) bool {
	if !n.up || n.loop == nil || n.liar == liesCopy {
		return false
	}
	_, _, built, err := n.disk.votes.Outcome(attempt)
	return n.building[attempt] || built && err == nil
}

// snapshot is, now and then, a new copy of the machine.
func (n *simNode) snapshot() simSnapshot {
	if n.old.votes != nil && n.w.rng.IntN(3) > 0 && !n.w.cfg.Snaps {
		return n.old
	}
	s := simSnapshot{simDisk: n.disk.clone()}
	if n.loop != nil && n.loop.voting {
		own := n.loop.fence.Question()
		s.running = &own
	}
	return s
}

func (n *simNode) tick(life int) {
	n.w.at(int64(1+n.w.rng.IntN(2*simTick)), func() {
		if n.life != life || !n.up {
			return
		}
		if n.w.cfg.Snaps || n.w.rng.IntN(8) == 0 {
			n.old = n.snapshot()
		}
		n.do(func() {
			n.loop.tick()
			n.loop.lookForWork()
		})
		n.do(n.work)
		n.pull()
		n.rekey()
		n.tick(life)
	})
}

func (n *simNode) halt() {
	n.up = false
	n.life++
	n.loop, n.service, n.chain = nil, nil, nil
}

// crash halts the member and starts it again some time later; sometimes with the
// disk of an earlier day.
func (n *simNode) crash(why string) {
	if !n.up || n.gone || n.busy && why != "in a write" {
		return
	}
	w := n.w
	w.trace("%s crashes (%s)", n.name(), why)
	w.report.Crashes++
	n.halt()
	if n.liar == "" && !w.good && n.old.votes != nil && w.spare() > 0 && !n.setBack && (w.cfg.Snaps || w.rng.IntN(4) == 0) {
		n.setBack = true
		w.report.SetBack++
		w.trace("%s is set back", n.name())
		kept := n.disk
		n.disk = n.old.clone()
		switch {
		case w.cfg.Snaps || w.rng.IntN(2) == 0:
			n.resumes = n.old.running
			n.cuts++
		case w.rng.IntN(2) == 0:
			n.disk.chain = kept.chain
		}
	}
	away := int64(1 + w.rng.IntN(10_000))
	if n.resumes != nil {
		away = int64(1 + w.rng.IntN(300)) // nobody misses it
	}
	w.at(away, func() {
		if !n.up && !n.gone {
			w.trace("%s restarts", n.name())
			n.boot()
		}
	})
}

// unlucky tells whether the member crashes at this write, and then on which side
// of it.
func (n *simNode) unlucky() bool {
	return !n.w.good && n.liar == "" && n.busy && n.w.rng.IntN(120) == 0
}

// write makes a write that may be the last thing of this life.
func (n *simNode) write(do func() error) error {
	if n.unlucky() {
		panic(errCrash)
	}
	err := do()
	if n.unlucky() {
		panic(errCrash)
	}
	return err
}

// simBackend is the disk of the chain.
type simBackend struct {
	*chaintest.Memory
	n *simNode
}

func (b simBackend) Update(change func(ledger.Tx) error) error {
	return b.n.write(func() error { return b.Memory.Update(change) })
}

// simFile is the disk of the vote file.
type simFile struct {
	*votes.Memory
	n *simNode
}

func (f simFile) Put(records ...votes.Record) error {
	return f.n.write(func() error { return f.Memory.Put(records...) })
}

func (f simFile) PutOutcome(attempt record.Hash, statement []byte, salt record.Hash) error {
	return f.n.write(func() error { return f.Memory.PutOutcome(attempt, statement, salt) })
}

func (f simFile) PutShut(reason string) error {
	return f.n.write(func() error { return f.Memory.PutShut(reason) })
}

func (f simFile) NextStart() (number int64, err error) {
	err = f.n.write(func() (err error) { number, err = f.Memory.NextStart(); return err })
	return number, err
}

func (f simFile) Remember(key record.PublicKey, i record.Incarnation) (kept record.Incarnation, err error) {
	err = f.n.write(func() (err error) { kept, err = f.Memory.Remember(key, i); return err })
	return kept, err
}

// simLine is the way to other members.
type simLine struct{ n *simNode }

func (l simLine) Send(to record.Identity, message []byte) {
	n, other := l.n, l.n.w.byID[to]
	if n.liar == liesTwice {
		message = n.twoFaced(other, message)
	}
	if n.liar == liesDouble {
		message = n.otherCommit(other, message)
	}
	if n.liar == liesHeights {
		message = n.farAway(message)
	}
	if !n.open[other.i] {
		return
	}
	n.note(message)
	n.denies(other, message)
	n.answers(other, message)
	n.w.send(n.i, other.i, message)
}

// Discard has nothing to drop: what was sent is on its way.
func (l simLine) Discard(record.Identity) {}

// receive takes a message as Service.Receive does.
func (n *simNode) receive(from record.Identity, message []byte) {
	if !n.up {
		return
	}
	switch n.liar {
	case liesRubbish:
		n.babble(message)
		return
	case liesReplay:
		n.repeat(message)
		return
	}
	n.do(func() {
		if n.service.queue(from) == nil || len(message) == 0 || len(message) > MaxMessage {
			return
		}
		n.remember(from, message)
		awaited := n.loop.fence.Awaits(from)
		n.loop.receive(from, message)
		n.heed(n.w.byID[from], message, awaited)
	})
}

// hear takes note of the locks that others ask to hold.
func (n *simNode) hear(part record.Part) {
	if part.Hold != nil && len(n.heard) < 64 {
		n.heard[part.Hold.Attempt.Digest()] = part.Hold.Attempt
	}
}

// pull takes blocks over from some other member.
func (n *simNode) pull() {
	w := n.w
	other := w.nodes[w.rng.IntN(w.cfg.N)]
	if n.chain == nil || other == n || !other.up || other.chain == nil || !w.good && (w.side[n.i] != w.side[other.i] || w.rng.IntN(100) < w.loss) {
		return
	}
	life := n.life
	for height := n.chain.Height() + 1; height <= min(other.chain.Height(), n.chain.Height()+8); height++ {
		data, err := other.chain.Block(height)
		if err != nil {
			w.fail("%s: block %d: %v", other.name(), height, err)
			return
		}
		if other.liar != "" && w.rng.IntN(3) == 0 {
			data = slices.Clone(data)
			data[w.rng.IntN(len(data))] ^= 1
		}
		// Now and then it comes so late that it is only followed, and checked later.
		late := w.rng.IntN(4) == 0
		w.at(w.delay(), func() {
			if n.life == life {
				n.do(func() { n.adopt(data, late) })
			}
		})
	}
}

func (n *simNode) adopt(data []byte, late bool) {
	now := n.w.now
	if late {
		now += 2 * chain.History.Milliseconds()
	}
	if _, err := n.chain.Adopt([][]byte{data}, time.UnixMilli(now)); err != nil {
		return
	}
	n.loop.grew()
	if !n.chain.Behind() {
		return
	}
	n.w.report.Followed++
	life := n.life
	n.w.at(int64(1+n.w.rng.IntN(3000)), func() {
		if n.life == life {
			n.do(n.catchUp)
		}
	})
}

func (n *simNode) catchUp() {
	if err := n.chain.CatchUp(context.Background()); err != nil && n.liar == "" && n.chain.Halted() == nil {
		n.w.fail("%s does not catch up: %v", n.name(), err)
	}
	n.loop.grew()
}

// rekey is what an operator does in the good time about a member that shut
// itself out.
func (n *simNode) rekey() {
	if !n.w.good || n.liar != "" || !n.shut() || n.rekeyed {
		return
	}
	n.rekeyed, n.unwarned = true, false
	n.w.report.Rekeyed++
	n.w.trace("%s gets new keys", n.name())
	n.halt()
	for name, signer := range map[string]*record.Signer{"vote": &n.signers.Vote, "cosigner": &n.signers.Cosigner, "log": &n.signers.Log} {
		*signer = chaintest.NewSigner(fmt.Sprintf("renewed %d %s", n.i, name))
	}
	n.disk.votes = new(votes.Memory)
	n.boot()
}

// shut tells whether the member found that it must not vote.
func (n *simNode) shut() bool {
	return n.loop != nil && errors.Is(n.loop.fence.Reason(), fence.ErrSetBack) || n.loop != nil && errors.Is(n.loop.fence.Reason(), order.ErrForeign)
}

// noticeFence looks at the moment in which a member begins to vote. One whose
// disk was set back and that nobody warned may contradict itself from now on.
func (n *simNode) noticeFence() {
	w := n.w
	if n.shut() && !n.wasOpen {
		w.report.Fenced++
		n.wasOpen = true
		w.trace("%s shuts itself out: %v", n.name(), n.loop.fence.Reason())
		if n.liar == "" && !n.setBack {
			w.fail("%s was never set back and shuts itself out: %v", n.name(), n.loop.fence.Reason())
		}
	}
	if n.wasOpen || !n.loop.fence.Open() {
		return
	}
	n.wasOpen = true
	n.overtakes()
	if n.unwarned {
		return
	}
	if n.setBack && !n.rekeyed && n.forgot() {
		w.trace("%s is blind", n.name())
		n.blind = true
		w.report.Blind++
	}
}

// simTold is a height that a member who follows the rules told of, and when.
type simTold struct{ height, at int64 }

// overtakes fails if a member votes before it has the blocks that others, who are
// there, told it of a moment ago.
func (n *simNode) overtakes() {
	for from, told := range n.told {
		if told.height > n.chain.Height() && n.w.now < told.at+5000 && n.chain.Time() <= told.at {
			n.w.fail("%s votes at height %d, and %s told of %d", n.name(), n.chain.Height()+1, n.w.nodes[from].name(), told.height)
		}
	}
}

// forgot tells whether the member said something that may still count and that
// its disk does not know.
func (n *simNode) forgot() bool {
	for slot, id := range n.w.said {
		if n.lacks(slot, id) {
			return true
		}
	}
	return false
}

func (n *simNode) lacks(slot simSlot, id record.BlockID) bool {
	return slot.key == n.signers.Vote.Public() && slot.height > n.chain.Height() && !n.holds(slot, id)
}

func (n *simNode) holds(slot simSlot, id record.BlockID) bool {
	records, err := n.disk.votes.Load(slot.height)
	if err != nil {
		return false
	}
	for _, r := range records {
		message, err := record.DecodeMessage(r.Data)
		if err != nil {
			continue
		}
		if s, ok := slotOf(message); ok && s.round == slot.round && s.step == slot.step {
			return idOf(message) == id
		}
	}
	return false
}

// slotOf is the slot of a member's own message of the order.
func slotOf(message record.Message) (simSlot, bool) {
	switch m := message.(type) {
	case *record.Vote:
		return simSlot{who: m.Voter, height: m.Height, round: m.Round, step: string(m.Step)}, true
	case *record.Cosign:
		return simSlot{who: m.Vote.Voter, height: m.Vote.Height, step: "cosign"}, true
	case *record.Proposal:
		return simSlot{who: m.Proposer, height: m.Height, round: m.Round, step: "proposal"}, true
	}
	return simSlot{}, false
}

func idOf(message record.Message) record.BlockID {
	switch m := message.(type) {
	case *record.Vote:
		return m.ID
	case *record.Cosign:
		return m.Vote.ID
	case *record.Proposal:
		return m.ID
	}
	return record.BlockID{}
}

// note checks that a member who follows the rules never contradicts itself.
func (n *simNode) note(message []byte) {
	if n.liar != "" || message[0] != kindOrder {
		return
	}
	decoded, err := n.w.decode(message)
	if err != nil {
		n.w.fail("%s sends what cannot be read: %v", n.name(), err)
		return
	}
	slot, ok := slotOf(decoded)
	if !ok || slot.who != n.id {
		return // help for another member: somebody else's words
	}
	slot.key = n.signers.Vote.Public()
	// One that goes on with its memory may contradict itself from the first word on
	// that it says before it is warned: but nobody who could have warned it hears it.
	if n.unwarned && !n.blind && n.forgot() {
		n.w.trace("%s is blind", n.name())
		n.blind = true
		n.w.report.Blind++
	}
	before, again := n.w.said[slot]
	if again && before != idOf(decoded) && n.setBack && !n.rekeyed {
		n.blind = true
	}
	if again && before != idOf(decoded) && !n.blind {
		n.w.fail("%s contradicts itself: %s and %s as its %s of height %d, round %d", n.name(), before, idOf(decoded), slot.step, slot.height, slot.round)
	}
	if !again {
		n.w.said[slot] = idOf(decoded)
	}
}

// denies fails if a member that follows the rules tells another one the contrary of
// what it told it before, over whichever line: that one was there to be asked.
func (n *simNode) denies(to *simNode, message []byte) {
	if message[0] != kindOrder || n.liar != "" || to.liar != "" || !to.up || to.loop == nil {
		return
	}
	decoded, err := n.w.decode(message)
	if err != nil {
		return
	}
	slot, ok := slotOf(decoded)
	slot.key = n.signers.Vote.Public()
	status := to.loop.machine.Status()
	if !ok || slot.who != n.id || slot.height != status.Height || slot.round < status.Round-4 {
		return
	}
	if before, known := n.w.delivered[[2]int{to.i, n.i}][slot]; known && before != idOf(decoded) {
		n.w.fail("%s tells %s the contrary of its %s of height %d, round %d", n.name(), to.name(), slot.step, slot.height, slot.round)
	}
}

// remember keeps what a member took in of another's messages of the order.
func (n *simNode) remember(from record.Identity, message []byte) {
	if message[0] != kindOrder {
		return
	}
	decoded, err := n.w.decode(message)
	if err != nil {
		return
	}
	status := n.loop.machine.Status()
	slot, ok := slotOf(decoded)
	if !ok || slot.who != from || slot.height != status.Height || slot.round > status.Round || status.Step == "decided" || status.Step == "certified" {
		return
	}
	if slot.step == "proposal" && slot.round < status.Round {
		return // of a round that is over: nobody keeps it
	}
	other := n.w.byID[from]
	slot.key = other.signers.Vote.Public()
	key := [2]int{n.i, other.i}
	if n.w.delivered[key] == nil {
		n.w.delivered[key] = map[simSlot]record.BlockID{}
	}
	n.w.delivered[key][slot] = idOf(decoded)
}

// answers notes, when a member who follows the rules answers another, what it
// knows that the other's disk has forgotten. What is many rounds old is not kept,
// and counts no more.
func (n *simNode) answers(to *simNode, message []byte) {
	if message[0] != kindHeld || n.liar != "" || to.liar != "" || !to.up || to.loop == nil {
		return
	}
	if _, err := record.DecodeRecollection(message[1:]); err != nil {
		n.w.fail("%s answers what cannot be read: %v", n.name(), err)
		return
	}
	status := n.loop.machine.Status()
	for slot, id := range n.w.delivered[[2]int{n.i, to.i}] {
		if slot.height == status.Height && slot.round >= status.Round-4 && to.lacks(slot, id) {
			key := &message[0] // this answer: one that gets lost warns nobody
			if n.w.warned[key] == nil {
				n.w.warned[key] = map[simSlot]record.BlockID{}
			}
			n.w.warned[key][slot] = id
		}
	}
}

// heed fails if somebody who knew better answered, and it did not shut the member
// out.
func (n *simNode) heed(from *simNode, message []byte, awaited bool) {
	if message[0] != kindHeld || n.liar != "" || !awaited {
		return // what comes before this member's own new line is not looked at, and is said again over it
	}
	r, err := record.DecodeRecollection(message[1:])
	if err != nil || r.Nonce != n.loop.fence.Question().Nonce || n.loop.fence.Reason() != nil {
		return
	}
	// Who heard the answer waits for the height that it told of.
	if from.liar == "" && r.Height > n.chain.Height() {
		n.told[from.i] = simTold{r.Height, n.w.now}
	}
	for slot, id := range n.w.warned[&message[0]] {
		if !n.loop.voting && slot.height <= r.Height {
			continue // it will not vote there, whatever an answer that was lost held
		}
		if n.lacks(slot, id) {
			n.w.fail("%s forgot its %s of height %d, round %d; %s knew, and was asked, and it votes", n.name(), slot.step, slot.height, slot.round, from.name())
		}
	}
}

// work does the member's part on the way to publication, as modules/publish
// does, and in less detail: locks and builds are a word and a time.
func (n *simNode) work() {
	if !n.service.Standing().Voting {
		return
	}
	n.look()
	for _, recipe := range n.w.recipes {
		state, known := n.view.recipes[recipe.Hash()]
		if !known {
			n.endorse(recipe)
			continue
		}
		if n.asks {
			n.ask(state)
		}
	}
	for digest, a := range sortedAttempts(n.heard) {
		n.hold(digest, a)
	}
	n.look() // a part of its own may have made a block
	for i := range n.view.attempts {
		n.vote(&n.view.attempts[i])
	}
}

// silent tells whether it is too early to say something again.
func (n *simNode) silent(key record.Hash) bool {
	last, again := n.sent[key]
	return again && n.w.now < last+4000
}

// submit sends a part, the same one not before some seconds have passed.
func (n *simNode) submit(part record.Part) {
	data, err := part.Encode()
	if err != nil {
		n.w.fail("%s: %v", n.name(), err)
		return
	}
	key := record.Digest(data)
	if n.silent(key) {
		return
	}
	n.sent[key] = n.w.now
	n.loop.submit(part, data)
}

func (n *simNode) genesis() record.Hash { return n.w.net.Network.Genesis }

func (n *simNode) endorse(recipe *record.Recipe) {
	if known, ok := n.endorsed[recipe.Hash()]; ok && known.Endorse.Endorsement.Set == n.chain.Set().Hash() {
		n.submit(known)
		return
	}
	change := recipe.Change()
	e, err := record.SignEndorsement(n.genesis(), record.Endorsement{
		Change: change.Digest(), Identity: n.id, LastHeight: n.chain.Height() + 1000, Seq: n.w.now, Set: n.chain.Set().Hash(),
	}, n.signers.Vote)
	if err != nil {
		n.w.fail("%s: %v", n.name(), err)
	}
	n.endorsed[recipe.Hash()] = record.Part{Endorse: &record.EndorsePart{Change: change, Endorsement: e}}
	n.submit(n.endorsed[recipe.Hash()])
}

// ask asks for an attempt at a recipe that has none under way: with a lock of its
// own, so that askers are rivals.
func (n *simNode) ask(recipe *ledger.Recipe) {
	number := int64(1)
	if last := n.view.newest[recipe.Hash]; last != nil {
		if last.Status == ledger.StatusPublished || last.Active(max(n.chain.Time(), n.w.now)) || last.Attempt.Number == ledger.MaxAttempts {
			return
		}
		number = last.Attempt.Number + 1
	}
	a, known := n.locks[recipe.Hash]
	if !known || a.Number != number || a.Deadline < n.w.now+120_000 && n.liar != liesDrags || a.Deadline < n.w.now {
		quality, deadline := "sound", n.w.now+600_000
		if n.liar == liesDrags {
			deadline = n.w.now + 1000*int64(5+n.w.rng.IntN(60)) // few members find that long enough
		}
		if n.liar == liesFalse {
			quality = "poisoned"
		}
		a = record.Attempt{
			Asker: n.id, Deadline: deadline, Engine: chaintest.Engine, Number: number, Platform: chaintest.Platform, Recipe: recipe.Hash,
			Lock: chaintest.Describe(fmt.Appendf(nil, "%s lock %d of %s", quality, n.w.rng.Uint64(), n.id)),
		}
		if quality == "sound" {
			n.w.goodLocks[a.Lock.SHA256] = true
		}
		n.locks[recipe.Hash] = a
	}
	n.heard[a.Digest()] = a
}

// hold says that this member has a lock's files, if it could get them.
func (n *simNode) hold(digest record.Hash, a record.Attempt) {
	n.look()
	last := n.view.newest[a.Recipe]
	if n.view.recipes[a.Recipe] == nil || a.Deadline < n.w.now || last != nil && last.Attempt.Number >= a.Number {
		delete(n.heard, digest)
		return
	}
	if !n.w.goodLocks[a.Lock.SHA256] && n.liar != liesFalse || a.Deadline < n.w.now+40_000 && n.liar == "" && n.held[digest].Hold == nil {
		return
	}
	if _, known := n.held[digest]; !known {
		holding, err := record.SignHolding(n.genesis(), a, n.id, n.signers.Vote)
		if err != nil {
			n.w.fail("%s: %v", n.name(), err)
		}
		n.held[digest] = record.Part{Hold: &record.HoldPart{Attempt: a, Holding: holding}}
	}
	n.submit(n.held[digest])
}

// vote builds, commits and reveals.
func (n *simNode) vote(a *ledger.Attempt) {
	if n.chain.Younger(n.id, a) {
		return
	}
	if n.liar == liesCopy {
		n.copy(a)
		return
	}
	if n.liar == liesDrags && a.Status != ledger.StatusOpen && a.Active(max(n.chain.Time(), n.w.now)) {
		return // later
	}
	if _, voted := a.VoteOf(n.id); voted && !a.Active(n.chain.Time()) {
		return
	}
	statement, salt, ok, err := n.disk.votes.Outcome(a.ID)
	if err != nil {
		n.w.fail("%s: %v", n.name(), err)
	}
	if !ok {
		n.build(a)
		return
	}
	if a.Status == ledger.StatusOpen {
		if a.Active(n.chain.Time()) {
			n.commit(a.ID, record.CommitValue(n.genesis(), a.ID, n.id, salt, statement))
		}
		return
	}
	n.reveal(a.ID, salt, statement)
}

func (n *simNode) commit(attempt, value record.Hash) {
	key := record.Digest(append(attempt[:], value[:]...))
	if n.silent(key) {
		return // before it is signed and encoded
	}
	n.sent[key] = n.w.now
	c, err := record.SignCommit(n.genesis(), attempt, n.id, value, n.signers.Vote)
	if err != nil {
		n.w.fail("%s: %v", n.name(), err)
	}
	n.submit(record.Part{Commit: &record.CommitPart{Attempt: attempt, Commit: c}})
}

func (n *simNode) reveal(attempt, salt record.Hash, statement []byte) {
	key := record.Digest(append(append(attempt[:], salt[:]...), statement...))
	if n.silent(key) {
		return
	}
	n.sent[key] = n.w.now
	a, err := record.SignAttestation(attempt, n.id, salt, statement, n.signers.Vote)
	if err != nil {
		n.w.fail("%s: %v", n.name(), err)
	}
	if n.revealed[attempt] == 0 {
		n.revealed[attempt] = n.w.now
		n.w.revealed[attempt] = n.w.now
	}
	n.submit(record.Part{Reveal: &record.RevealPart{Attestation: a}})
}

// build takes some seconds, and an outcome is durable before anybody hears of it.
func (n *simNode) build(a *ledger.Attempt) {
	if n.building[a.ID] || !a.Open(n.chain.Time()) {
		return
	}
	n.building[a.ID] = true
	id, recipe, life := a.ID, a.Attempt.Recipe, n.life
	n.w.at(int64(500+n.w.rng.IntN(8000)), func() {
		if n.life != life {
			return
		}
		n.do(func() {
			delete(n.building, id)
			nonsense := map[string]string{liesFalse: " and a backdoor", liesDiffer: " by " + string(n.id)}[n.liar]
			var salt record.Hash
			binary.BigEndian.PutUint64(salt[:], n.w.rng.Uint64())
			if err := n.loop.file.(simFile).PutOutcome(id, n.w.statement(id, recipe, nonsense), salt); err != nil {
				n.w.fail("%s: %v", n.name(), err)
			}
		})
	})
}

// sortedAttempts goes through attempts in the order of their digests, so that
// equal seeds are equal runs.
func sortedAttempts(attempts map[record.Hash]record.Attempt) func(func(record.Hash, record.Attempt) bool) {
	return func(yield func(record.Hash, record.Attempt) bool) {
		keys := make([]record.Hash, 0, len(attempts))
		for digest := range attempts {
			keys = append(keys, digest)
		}
		slices.SortFunc(keys, func(a, b record.Hash) int { return slices.Compare(a[:], b[:]) })
		for _, digest := range keys {
			if a, still := attempts[digest]; still && !yield(digest, a) {
				return
			}
		}
	}
}
