package quorum

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

// The simulation of whole members: the service's own loop with its machines, the
// chain with its rules and the fence, over a network, disks and a clock that a
// seed decides. modules/quorum/order/sim is the same for the order alone, and
// deeper there.
//
// A run has a bad time and a good one. In the bad time messages are lost,
// delayed, doubled and reordered, the network is partitioned, members crash
// before and after each of their writes, disks are set back to a snapshot, and
// liars do what they like. In the good time as many members as the order needs
// are up and connected. Asserted are: no two blocks of one height while there are
// fewer liars than a fork needs; nothing false is published while there are
// fewer liars than a majority; nothing that was published is lost; nobody who
// follows the rules is accused; and in the good time everything is published.

// simConfig is a run.
type simConfig struct {
	Seed  uint64
	N     int
	Order string
	Liars []string      // kinds
	Delay time.Duration // if not 0, every message's way, and there is no bad time
	Snaps bool          // whoever crashes and can be spared goes on from a snapshot of seconds before, with its memory
	Trace func(line string)
}

// The kinds of liars.
const (
	liesSilent  = "silent"      // never says anything
	liesFalse   = "false"       // builds something else, alike with all of its kind; holds any lock
	liesDiffer  = "differs"     // builds something else, alone
	liesCopy    = "copies"      // builds nothing: takes over what others said
	liesTwice   = "equivocates" // says one thing to these and another to those, in the order
	liesDouble  = "commits twice"
	liesRubbish = "rubbish"
	liesReplay  = "replays"
	liesHeights = "tells heights" // that there are not, and votes in rounds far away
	liesDrags   = "drags"         // asks with the shortest deadline, and says what it found when nobody waits for it any more
)

var (
	truthLiars = []string{liesFalse, liesDiffer, liesCopy, liesDouble, liesSilent, liesRubbish, liesReplay, liesHeights, liesDrags}
	orderLiars = []string{liesTwice}
)

// Times of a run in milliseconds.
const (
	simBad   = 60_000
	simLimit = 3 * 3_600_000 // of the good time
	simTick  = 1000
)

// simReport is what a run came to.
type simReport struct {
	Heights, Followed, Crashes, SetBack, Resumed, Fenced, Blind, Rekeyed, Published, Attempts, Messages int
	Accused                                                                                             int
	Virtual                                                                                             time.Duration
}

type simWorld struct {
	cfg      simConfig
	t        testing.TB
	net      *chaintest.Network
	rng      *rand.Rand
	now      int64
	queue    simQueue
	sequence int
	nodes    []*simNode
	byID     map[record.Identity]*simNode
	good     bool
	over     bool  // nothing is left to wait for
	side     []int // per node: of the partition
	loss     int   // percent
	report   simReport
	failure  error

	recipes   []*record.Recipe
	goodLocks map[artifact.SHA256]bool
	blocks    map[int64]record.Hash       // by the first honest chain that had it
	published map[record.Hash]record.Hash // attempt → statement, on any honest chain
	said      map[simSlot]record.BlockID  // of those who follow the rules
	revealed  map[record.Hash]int64       // attempt → when the last member revealed
	reached   map[int64]int64             // height → when the last member had it
	replay    [][]byte                    // what a liar has heard
	decoded   map[*byte]simDecoded
	delivered map[[2]int]map[simSlot]record.BlockID // to, from → the order's messages taken in
	warned    map[*byte]map[simSlot]record.BlockID  // what an answer should have told
}

// simSlot is what a member may say one thing in.
type simSlot struct {
	who    record.Identity
	key    record.PublicKey
	height int64
	round  int64
	step   string
}

type simItem struct {
	at       int64
	sequence int
	do       func()
}

type simQueue []simItem

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].sequence < q[j].sequence
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(simItem)) }
func (q *simQueue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// simulate runs a simulation. An error is a violation of what is promised.
func simulate(t testing.TB, net *chaintest.Network, cfg simConfig) (simReport, error) {
	w := newSimWorld(t, net, cfg)
	w.run()
	w.report.Virtual = time.Duration(w.now-chaintest.Start) * time.Millisecond
	return w.report, w.failure
}

func newSimWorld(t testing.TB, net *chaintest.Network, cfg simConfig) *simWorld {
	w := &simWorld{
		cfg: cfg, t: t, net: net, rng: rand.New(rand.NewPCG(cfg.Seed, uint64(cfg.N))), now: chaintest.Start,
		byID: map[record.Identity]*simNode{}, side: make([]int, cfg.N), goodLocks: map[artifact.SHA256]bool{},
		blocks: map[int64]record.Hash{}, published: map[record.Hash]record.Hash{}, said: map[simSlot]record.BlockID{},
		revealed: map[record.Hash]int64{}, reached: map[int64]int64{},
		decoded: map[*byte]simDecoded{}, delivered: map[[2]int]map[simSlot]record.BlockID{}, warned: map[*byte]map[simSlot]record.BlockID{},
	}
	w.build()
	return w
}

func (w *simWorld) build() {
	for i := range 1 + w.rng.IntN(3) {
		pkg := artifact.PURL(fmt.Sprintf("pkg:generic/p%d@1", i))
		w.recipes = append(w.recipes, chaintest.Recipe(pkg, "file"))
	}
	for i := range w.cfg.N {
		n := &simNode{w: w, i: i, id: w.net.Nodes[i].ID, signers: w.net.Nodes[i].Signers}
		w.nodes = append(w.nodes, n)
		w.byID[n.id] = n
	}
	for k, i := range w.rng.Perm(w.cfg.N)[:len(w.cfg.Liars)] {
		w.nodes[i].liar = w.cfg.Liars[k]
		w.trace("%s lies: %s", w.nodes[i].name(), w.nodes[i].liar)
	}
	w.nodes[w.rng.IntN(w.cfg.N)].asks = true
	for _, n := range w.nodes {
		n.asks = n.asks || w.rng.IntN(3) == 0
		n.disk, n.open = newSimDisk(), map[int]bool{}
	}
	for _, n := range w.nodes {
		n.boot()
	}
}

func (w *simWorld) trace(format string, args ...any) {
	if w.cfg.Trace != nil {
		w.cfg.Trace(fmt.Sprintf("%9d  ", w.now-chaintest.Start) + fmt.Sprintf(format, args...))
	}
}

func (w *simWorld) fail(format string, args ...any) {
	if w.failure == nil {
		w.failure = fmt.Errorf("N=%d, seed %d, %s, liars %q, at %d ms: %s", w.cfg.N, w.cfg.Seed, w.cfg.Order, w.cfg.Liars, w.now-chaintest.Start, fmt.Sprintf(format, args...))
		w.trace("VIOLATION %v", w.failure)
	}
}

func (w *simWorld) at(after int64, do func()) {
	w.sequence++
	heap.Push(&w.queue, simItem{at: w.now + after, sequence: w.sequence, do: do})
}

func (w *simWorld) run() {
	if w.cfg.Delay == 0 {
		w.disturb()
		w.at(simBad, w.heal)
	} else {
		w.good = true
		w.watch()
	}
	for w.failure == nil && len(w.queue) > 0 {
		next := heap.Pop(&w.queue).(simItem)
		w.now = next.at
		next.do()
		if w.over {
			break
		}
		if w.now > chaintest.Start+simBad+simLimit {
			w.fail("no progress: %s", w.where())
		}
	}
	for _, n := range w.nodes {
		if n.honest() && n.up && w.failure == nil {
			if err := n.chain.Check(w.t.Context(), nil); err != nil {
				w.fail("%s: %v", n.name(), err)
			}
		}
	}
	w.look()
}

// bound is how many liars in the order a fork needs.
func (w *simWorld) bound() int { return 2*w.net.Set.Quorum() - w.cfg.N }

// liarsInOrder are those who may contradict themselves there: liars, and members
// whose disk was set back without anybody knowing.
func (w *simWorld) liarsInOrder() (count int) {
	for _, n := range w.nodes {
		if n.blind || slices.Contains(orderLiars, n.liar) || n.liar == liesRubbish {
			count++
		}
	}
	return count
}

// disturb changes the network and crashes members until the good time.
func (w *simWorld) disturb() {
	if w.good {
		return
	}
	for i := range w.side {
		w.side[i] = 0
		if w.rng.IntN(2) == 0 {
			w.side[i] = w.rng.IntN(2)
		}
	}
	for _, n := range w.nodes {
		for _, other := range w.nodes {
			// A line across a partition may hold, or break and come again.
			if n != other && n.up && (w.side[n.i] != w.side[other.i] && w.rng.IntN(3) == 0 || w.rng.IntN(10) == 0) {
				n.connect(other)
			}
		}
	}
	w.loss = []int{0, 0, 5, 20, 60}[w.rng.IntN(5)]
	if w.rng.IntN(3) == 0 {
		w.nodes[w.rng.IntN(w.cfg.N)].crash("power")
	}
	if w.rng.IntN(15) == 0 {
		for _, n := range w.nodes {
			n.crash("power of all")
		}
	}
	w.at(int64(500+w.rng.IntN(8000)), w.disturb)
}

// heal begins the good time: of those who follow the rules at least Q are up for
// good, the others may be gone.
func (w *simWorld) heal() {
	w.good = true
	w.loss = 0
	for i := range w.side {
		w.side[i] = 0
	}
	w.trace("good time: %s", w.where())
	for _, i := range w.rng.Perm(w.cfg.N) {
		n := w.nodes[i]
		if n.liar != "" {
			continue
		}
		if w.spare() > 0 && !n.setBack && w.rng.IntN(2) == 0 {
			n.halt()
			n.gone = true
			w.trace("%s is gone for good", n.name())
			continue
		}
		if !n.up {
			n.boot()
		}
	}
	w.watch()
	// Somebody is left to ask.
	for _, n := range w.nodes {
		n.asks = n.asks || n.honest()
	}
}

// watch ends the run when all is there. With enough liars for a fork there is
// nothing to wait for.
func (w *simWorld) watch() {
	w.over = w.done() || w.liarsInOrder() >= w.bound()
	w.at(simTick, w.watch)
}

// spare is how many more members the order can do without.
func (w *simWorld) spare() int {
	missing := 0
	for _, n := range w.nodes {
		if n.liar != "" || n.gone || n.setBack {
			missing++
		}
	}
	return w.cfg.N - w.net.Set.Quorum() - missing
}

// done tells whether everything that can be had of the good time is there.
func (w *simWorld) done() bool {
	for _, n := range w.nodes {
		if !n.honest() || !n.up {
			continue
		}
		if !n.service.Standing().Voting && !n.shut() {
			return false
		}
		for _, r := range w.recipes {
			name := artifact.Name{Package: r.Package, File: "file"}
			if _, err := n.chain.Resolve(name); err != nil && !w.exhausted(n, r) {
				return false
			}
		}
	}
	return true
}

// exhausted tells whether liars may have spent a recipe's attempts.
func (w *simWorld) exhausted(n *simNode, r *record.Recipe) bool {
	last, err := n.chain.Newest(r.Hash(), chaintest.Platform)
	return err == nil && len(w.cfg.Liars) > 0 && last.Attempt.Number == ledger.MaxAttempts && (last.Status == ledger.StatusDisagreed || last.Expired(w.now))
}

func (w *simWorld) where() (text string) {
	for _, n := range w.nodes {
		text += n.name() + ": "
		switch {
		case n.gone:
			text += "gone"
		case !n.up:
			text += "down"
		case n.loop == nil:
			text += n.liar
		default:
			text += fmt.Sprintf("height %d, %+v, %+v", n.chain.Height(), n.service.Standing(), n.loop.machine.Status())
		}
		text += "; "
	}
	return text
}

// simDecoded is a message that was read.
type simDecoded struct {
	message record.Message
	err     error
}

// decode reads a message of the order once for all that look at it; it must not be
// changed.
func (w *simWorld) decode(message []byte) (record.Message, error) {
	key := &message[0]
	known, ok := w.decoded[key]
	if !ok {
		if len(w.decoded) > 4096 { // what is forgotten is read again
			clear(w.decoded)
		}
		known.message, known.err = record.DecodeMessage(message[1:])
		w.decoded[key] = known
	}
	return known.message, known.err
}

// send puts a message on its way.
func (w *simWorld) send(from, to int, message []byte) {
	times := 1
	if !w.good {
		if w.side[from] != w.side[to] || w.rng.IntN(100) < w.loss {
			return
		}
		if w.rng.IntN(20) == 0 {
			times = 2
		}
	}
	// No connection outlives a machine that is set back with its memory, at neither end.
	sender, receiver := w.nodes[from], w.nodes[to]
	cuts := sender.cuts + receiver.cuts
	for range times {
		w.at(w.delay(), func() {
			if sender.cuts+receiver.cuts != cuts {
				return
			}
			w.report.Messages++
			w.nodes[to].receive(w.nodes[from].id, message)
		})
	}
}

func (w *simWorld) delay() int64 {
	if w.cfg.Delay > 0 {
		return w.cfg.Delay.Milliseconds()
	}
	if !w.good && w.rng.IntN(10) == 0 {
		return int64(1 + w.rng.IntN(5000))
	}
	return int64(1 + w.rng.IntN(50))
}

// appended looks at a block that a member who follows the rules has appended.
func (w *simWorld) appended(n *simNode, height int64) {
	w.reached[height] = w.now
	root := n.chain.Frontier().Root()
	first, known := w.blocks[height]
	if !known {
		w.blocks[height] = root
		w.report.Heights = max(w.report.Heights, int(height))
		return
	}
	if first != root && w.liarsInOrder() < w.bound() {
		w.fail("%s has another block %d than others, with %d liars where a fork needs %d", n.name(), height, w.liarsInOrder(), w.bound())
	}
}

// look checks what the chains say of publications and of members.
func (w *simWorld) look() {
	for _, n := range w.nodes {
		if !n.honest() || !n.up || w.failure != nil {
			continue
		}
		w.lookAt(n)
	}
}

func (w *simWorld) lookAt(n *simNode) {
	attempts, err := n.chain.Attempts()
	if err != nil {
		w.fail("%s: %v", n.name(), err)
		return
	}
	w.report.Attempts = max(w.report.Attempts, len(attempts))
	count := 0
	for i := range attempts {
		a := &attempts[i]
		if !w.goodLocks[a.Attempt.Lock.SHA256] && w.count(liesFalse) < w.net.Set.Majority() {
			w.fail("%s: an attempt with a poisoned lock is on the chain", n.name())
		}
		if a.Status != ledger.StatusPublished {
			continue
		}
		count++
		if a.Published != record.Digest(w.statement(a.ID, a.Attempt.Recipe, "")) && w.count(liesFalse) < w.net.Set.Majority() {
			w.fail("%s: something false is published", n.name())
		}
		w.published[a.ID] = a.Published
	}
	w.report.Published = max(w.report.Published, count)
	evidence, err := n.chain.Evidence()
	if err != nil {
		w.fail("%s: %v", n.name(), err)
	}
	w.report.Accused = max(w.report.Accused, len(evidence))
	for _, e := range evidence {
		// Who lost an outcome unnoticed may commit to the same with another salt.
		if who := w.byID[e.Identity]; who.liar == "" && !who.blind && !(who.setBack && e.What == "commit") {
			w.fail("%s, who follows the rules, is accused of %+v", who.name(), e)
		}
	}
	if w.good && w.done() && w.liarsInOrder() < w.bound() {
		for id, statement := range w.published {
			if a, err := n.chain.Attempt(id); err != nil || a.Published != statement {
				w.fail("%s lost a publication", n.name())
			}
		}
	}
}

func (w *simWorld) count(kind string) (count int) {
	for _, n := range w.nodes {
		if n.liar == kind {
			count++
		}
	}
	return count
}

// statement is what comes out of a build; nonsense is "" for the truth.
func (w *simWorld) statement(attempt, recipe record.Hash, nonsense string) []byte {
	for _, r := range w.recipes {
		if r.Hash() != recipe {
			continue
		}
		subjects := []record.Subject{chaintest.File(r.Package, "file", []byte("made from "+string(r.Package)+nonsense))}
		statement, _, err := record.NewStatement(w.net.Network.Genesis, attempt, subjects)
		if err != nil {
			w.t.Fatal(err)
		}
		return record.MustMarshal(statement)
	}
	return nil
}
