// Package sim is a simulated network of order machines: a seed decides
// everything that happens, in virtual time, so that a run that went wrong can
// be run again.
//
// A run has a bad time and a good one. In the bad time messages are lost,
// delayed, doubled and reordered, the network is partitioned, members crash
// before and after any write to their vote file, and liars do what they like.
// In the good time Q members that follow the rules are up and connected, the
// others may be gone for good. Asserted are: no two different blocks of one
// height collect Q cosignatures, no member that follows the rules contradicts
// itself or is accused, and in the good time the chain grows. With enough
// liars for a fork, Run says instead whom the fork proves guilty.
package sim

import (
	"container/heap"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"time"

	"github.com/pyrsia/appliance/modules/quorum/order"
	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

// Config is a run.
type Config struct {
	Seed  uint64
	N     int    // members
	Order string // record.OrderMajority or record.OrderTwoThirds
	Liars int
	Kind  Liar          // of all liars; "" draws one for each
	Bad   time.Duration // of the bad time; 0: 15 s
	// Split makes the bad time one partition into two halves, with nothing
	// else in the way: what liars wait for.
	Split bool
	// Delay, if not 0, is every message's way, and there is no bad time.
	Delay time.Duration
	Trace func(line string)
}

// Liar is a way of not following the rules.
type Liar string

// The kinds of liars.
const (
	Silent  Liar = "silent"  // never says anything
	Twins   Liar = "twins"   // two machines with one key, each with its own friends
	Forgets Liar = "forgets" // restarts with an old vote file
	Rubbish Liar = "rubbish" // signs whatever comes to its mind
	Unlocks Liar = "unlocks" // proposes new blocks with made-up proofs-of-lock
	Replays Liar = "replays" // sends others' messages again, much later
)

var kinds = []Liar{Silent, Twins, Forgets, Rubbish, Unlocks, Replays}

// Report is what a run came to.
type Report struct {
	Heights  int64             // certified in the longest chain
	Rounds   int64             // the highest round seen
	Crashes  int               // of members that follow the rules
	Messages int               // delivered
	Accused  []record.Identity // equivocators that the machines reported
	Forks    int               // heights with two blocks of Q cosignatures
	Culprits []record.Identity // who cosigned both, at the first fork
	Virtual  time.Duration
}

const (
	tickEvery  = 200 // ms
	goodTarget = 2   // heights to grow in the good time
	goodLimit  = 600_000
)

// genesis names the simulated network.
var genesis = record.Digest([]byte("simulated network"))

type world struct {
	cfg       Config
	rng       *rand.Rand
	now       int64 // ms
	queue     queue
	sequence  int
	set       *record.Set
	nodes     []*node
	byName    map[record.Identity]*node
	good      bool
	partition []int // per node: its side
	report    Report
	accused   map[record.Identity]bool
	failure   error

	cosigned map[int64]map[record.BlockID]map[record.Identity]bool
	decided  map[int64]record.BlockID // by the first that follows the rules
	said     map[slot]record.BlockID
	timeouts record.Timeouts
	loss     map[string]int // per kind of message, in percent
	muted    []int64        // per node: until when nothing leaves it
	blocked  [][]bool       // from, to: this way nothing gets through
	replay   []order.Receive
}

// slot is what a member may say one thing in.
type slot struct {
	who    record.Identity
	height int64
	round  int64
	step   string
}

// Run runs a simulation. An error is a violation of what is promised.
func Run(cfg Config) (Report, error) {
	if cfg.Bad == 0 {
		cfg.Bad = 15 * time.Second
	}
	w := &world{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, uint64(cfg.N))),
		decided: map[int64]record.BlockID{}, loss: map[string]int{}, muted: make([]int64, cfg.N),
		accused: map[record.Identity]bool{}, said: map[slot]record.BlockID{},
		cosigned: map[int64]map[record.BlockID]map[record.Identity]bool{},
	}
	if err := w.build(); err != nil {
		return w.report, err
	}
	w.run()
	w.report.Virtual = time.Duration(w.now) * time.Millisecond
	for id := range w.accused {
		w.report.Accused = append(w.report.Accused, id)
	}
	sort.Slice(w.report.Accused, func(i, j int) bool { return w.report.Accused[i] < w.report.Accused[j] })
	return w.report, w.failure
}

// Bound is how many liars a fork needs: 2Q-N.
func Bound(n int, rule string) int {
	w := &world{cfg: Config{N: n, Order: rule}}
	if w.build() != nil {
		return 0
	}
	return 2*w.set.Quorum() - n
}

func (w *world) build() error {
	var records []record.NodeRecord
	for i := range w.cfg.N {
		records = append(records, record.NodeRecord{
			Identity: name(i),
			VoteKey:  record.PublicKey{1, byte(i)}, CosignerKey: record.PublicKey{2, byte(i)}, LogKey: record.PublicKey{3, byte(i)},
		})
	}
	set, err := record.NewSet(records, w.cfg.Order)
	if err != nil {
		return err
	}
	w.set = set
	w.byName = map[record.Identity]*node{}
	w.partition = make([]int, w.cfg.N)
	w.blocked = make([][]bool, w.cfg.N)
	for i := range w.blocked {
		w.blocked[i] = make([]bool, w.cfg.N)
	}
	for i := range w.cfg.N {
		n := &node{world: w, index: i, id: records[i].Identity}
		w.nodes = append(w.nodes, n)
		w.byName[n.id] = n
	}
	if w.rng == nil {
		return nil
	}
	// In some networks the timeouts are too short at first.
	w.timeouts = record.Timeouts{Heartbeat: 600_000, Propose: 300, Step: 100, Vote: 100}
	if w.cfg.Delay > 0 {
		w.timeouts = record.Timeouts{Heartbeat: 600_000, Propose: 3000, Step: 500, Vote: 1000}
	} else if w.rng.IntN(3) == 0 {
		w.timeouts = record.Timeouts{Heartbeat: 600_000, Propose: 10, Step: 10, Vote: 5}
	}
	for _, i := range w.rng.Perm(w.cfg.N)[:w.cfg.Liars] {
		w.nodes[i].liar = w.cfg.Kind
		if w.cfg.Kind == "" {
			w.nodes[i].liar = kinds[w.rng.IntN(len(kinds))]
		}
		w.trace("%s lies: %s", w.nodes[i].id, w.nodes[i].liar)
	}
	for _, n := range w.nodes {
		n.boot()
	}
	return nil
}

func (w *world) trace(format string, args ...any) {
	if w.cfg.Trace != nil {
		w.cfg.Trace(fmt.Sprintf("%8d  ", w.now) + fmt.Sprintf(format, args...))
	}
}

func (w *world) fail(format string, args ...any) {
	if w.failure == nil {
		w.failure = fmt.Errorf("seed %d, N=%d, %s, %d liars, at %d ms: %s", w.cfg.Seed, w.cfg.N, w.cfg.Order, w.cfg.Liars, w.now, fmt.Sprintf(format, args...))
		w.trace("VIOLATION %v", w.failure)
	}
}

// forkable tells whether there are enough liars for a fork.
func (w *world) forkable() bool { return w.cfg.Liars >= 2*w.set.Quorum()-w.set.Size() }

func (w *world) at(after int64, do func()) {
	w.sequence++
	heap.Push(&w.queue, item{at: w.now + after, sequence: w.sequence, do: do})
}

func (w *world) run() {
	if w.cfg.Delay > 0 {
		w.cfg.Bad = 0
		w.good = true
	} else {
		w.disturb()
	}
	w.at(w.cfg.Bad.Milliseconds(), w.heal)
	var target int64 = -1
	for w.failure == nil && len(w.queue) > 0 {
		next := heap.Pop(&w.queue).(item)
		w.now = next.at
		next.do()
		if !w.good {
			continue
		}
		if target < 0 {
			target = w.tallest() + goodTarget
		}
		if !w.live() || w.grown(target) {
			break
		}
		if w.now > w.cfg.Bad.Milliseconds()+goodLimit {
			w.fail("no progress: %s", w.where())
		}
	}
	w.report.Heights = w.tallest()
}

// live tells whether Q members that follow the rules are up, and the liars
// could not have split the network for good.
func (w *world) live() bool {
	up := 0
	for _, n := range w.nodes {
		if n.liar == "" && !n.gone {
			up++
		}
	}
	return up >= w.set.Quorum() && !w.forkable()
}

func (w *world) grown(target int64) bool {
	for _, n := range w.nodes {
		if n.liar == "" && !n.gone && n.tip(0) < target {
			return false
		}
	}
	return true
}

func (w *world) tallest() (height int64) {
	for _, n := range w.nodes {
		if n.liar == "" {
			height = max(height, n.tip(0))
		}
	}
	return height
}

func (w *world) where() string {
	var parts []string
	for _, n := range w.nodes {
		switch {
		case n.liar != "":
			parts = append(parts, fmt.Sprintf("%s %s", n.id, n.liar))
		case n.gone:
			parts = append(parts, fmt.Sprintf("%s gone", n.id))
		case n.machines[0] != nil:
			parts = append(parts, fmt.Sprintf("%s %+v", n.id, n.machines[0].Status()))
		}
	}
	return strings.Join(parts, "; ")
}

// disturb changes partitions and crashes members until the good time.
func (w *world) disturb() {
	if w.good {
		return
	}
	if w.cfg.Split {
		w.split()
		return
	}
	for i := range w.partition {
		w.partition[i] = 0
		if w.rng.IntN(2) == 0 {
			w.partition[i] = w.rng.IntN(2)
		}
	}
	oneWay := []int{0, 0, 20, 40}[w.rng.IntN(4)]
	for _, row := range w.blocked {
		for to := range row {
			row[to] = w.rng.IntN(100) < oneWay
		}
	}
	// What hurts is losing one kind of message and not the others.
	for _, kind := range []string{"proposal", "prevote", "precommit", "decision", "cosign", "block"} {
		w.loss[kind] = []int{0, 0, 10, 50, 95}[w.rng.IntN(5)]
	}
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	if w.rng.IntN(3) == 0 {
		n.crash("power")
	}
	if w.rng.IntN(12) == 0 {
		for _, n := range w.nodes {
			n.crash("power of all")
		}
	}
	w.at(int64(100+w.rng.IntN(1500)), w.disturb)
}

// split puts every other member that follows the rules on one side.
func (w *world) split() {
	side := 0
	for i, n := range w.nodes {
		if n.liar == "" {
			w.partition[i] = side
			side = 1 - side
		}
	}
	for _, n := range w.nodes {
		n.friends = w.partition
	}
}

// heal begins the good time. As many members as there may be missing are gone.
func (w *world) heal() {
	w.good = true
	for i := range w.partition {
		w.partition[i] = 0
	}
	w.trace("good time: %s", w.where())
	if w.cfg.Delay > 0 {
		w.nodes[0].step(0, order.Pending{Pending: true})
		return
	}
	spare := w.set.Size() - w.set.Quorum() - w.cfg.Liars
	clear(w.muted)
	someone := false
	for _, i := range w.rng.Perm(w.cfg.N) {
		n := w.nodes[i]
		if n.liar != "" {
			continue
		}
		if spare > 0 && w.rng.IntN(2) == 0 {
			spare--
			n.gone = true
			n.halt()
			w.trace("%s is gone for good", n.id)
			continue
		}
		if n.down {
			n.boot()
		}
		// One member with something to publish is enough.
		n.pending = !someone || w.rng.IntN(2) == 0
		someone = true
		n.step(0, order.Pending{Pending: n.pending})
	}
}

// send puts a message on the way; twin tells which of two says it.
func (w *world) send(from, twin, to int, message record.Message) {
	times := 1
	if !w.good {
		if w.apart(from, to) || w.blocked[from][to] || w.rng.IntN(100) < w.loss[kindOf(message)] || w.muted[from] > w.now {
			return
		}
		if w.rng.IntN(20) == 0 {
			times = 2
		}
	}
	for range times {
		w.at(w.delay(), func() { w.deliver(from, twin, to, message) })
	}
}

// apart tells whether the partition is between two members. Twins stand on
// both sides.
func (w *world) apart(from, to int) bool {
	return w.partition[from] != w.partition[to] && w.nodes[from].liar != Twins && w.nodes[to].liar != Twins
}

func (w *world) delay() int64 {
	if w.cfg.Delay > 0 {
		return w.cfg.Delay.Milliseconds()
	}
	if !w.good && w.rng.IntN(10) == 0 {
		return int64(1 + w.rng.IntN(3000))
	}
	return int64(1 + w.rng.IntN(30))
}

func (w *world) deliver(from, twin, to int, message record.Message) {
	if !w.good && w.apart(from, to) {
		return
	}
	w.report.Messages++
	w.nodes[to].receive(twin, order.Receive{From: w.nodes[from].id, Message: message})
}

func kindOf(message record.Message) string {
	switch message := message.(type) {
	case *record.Vote:
		return string(message.Step)
	case *record.Cosign:
		return "cosign"
	case *record.Decision:
		return "decision"
	}
	return "proposal"
}

// decides asserts agreement before anything is certified.
func (w *world) decides(n *node, d order.Decide) {
	if n.liar != "" || w.forkable() {
		return
	}
	if other, ok := w.decided[d.Height]; ok && other != d.ID {
		w.fail("%s decides %s at height %d, another decided %s", n.id, d.ID, d.Height, other)
	}
	w.decided[d.Height] = d.ID
	// The worst moment to be cut off is when one knows more than others.
	if !w.good && w.rng.IntN(2) == 0 {
		w.muted[n.index] = w.now + int64(w.rng.IntN(6000))
	}
}

// certified notes a block with Q cosignatures that a node assembled.
func (w *world) certified(n *node, c order.Certified) {
	if len(c.Cosignatures) != w.set.Quorum() {
		w.fail("%s certified height %d with %d cosignatures", n.id, c.Height, len(c.Cosignatures))
	}
	for _, cosignature := range c.Cosignatures {
		if checkCosignature(w.set, c.ID, cosignature) != nil {
			w.fail("%s certified height %d with a wrong cosignature", n.id, c.Height)
		}
	}
}

// heard looks at what a member says.
func (w *world) heard(n *node, message record.Message) {
	height, number := message.Slot()
	w.report.Rounds = max(w.report.Rounds, number)
	s := slot{who: n.id, height: height, round: number}
	var id record.BlockID
	switch message := message.(type) {
	case *record.Proposal:
		if message.Proposer != n.id {
			return
		}
		s.step, id = "propose", message.ID
	case *record.Vote:
		if message.Voter != n.id {
			return
		}
		s.step, id = string(message.Step), message.ID
	case *record.Cosign:
		s.step, id = "cosign", message.Vote.ID
		w.heardCosign(message)
	default:
		return
	}
	if n.liar != "" {
		return
	}
	if before, ok := w.said[s]; ok && before != id {
		w.fail("%s said both %s and %s in %+v", n.id, before, id, s)
	}
	w.said[s] = id
}

func (w *world) heardCosign(c *record.Cosign) {
	blocks := w.cosigned[c.Vote.Height]
	if blocks == nil {
		blocks = map[record.BlockID]map[record.Identity]bool{}
		w.cosigned[c.Vote.Height] = blocks
	}
	if blocks[c.Vote.ID] == nil {
		blocks[c.Vote.ID] = map[record.Identity]bool{}
	}
	fresh := !blocks[c.Vote.ID][c.Vote.Voter]
	blocks[c.Vote.ID][c.Vote.Voter] = true
	if !fresh || len(blocks[c.Vote.ID]) < w.set.Quorum() {
		return
	}
	for other, cosigners := range blocks {
		if other == c.Vote.ID || len(cosigners) < w.set.Quorum() {
			continue
		}
		w.fork(c.Vote.Height, blocks[c.Vote.ID], cosigners)
	}
}

func (w *world) fork(height int64, a, b map[record.Identity]bool) {
	w.report.Forks++
	var culprits []record.Identity
	for id := range a {
		if b[id] {
			culprits = append(culprits, id)
		}
	}
	sort.Slice(culprits, func(i, j int) bool { return culprits[i] < culprits[j] })
	w.trace("FORK at height %d: %v and %v", height, a, b)
	if w.report.Culprits == nil {
		w.report.Culprits = culprits
	}
	if !w.forkable() {
		w.fail("fork at height %d", height)
	}
	if len(culprits) < 2*w.set.Quorum()-w.set.Size() {
		w.fail("fork at height %d names only %v", height, culprits)
	}
	for _, id := range culprits {
		if w.node(id).liar == "" {
			w.fail("fork at height %d names %s, which follows the rules", height, id)
		}
	}
}

func (w *world) node(id record.Identity) *node { return w.byName[id] }

// name is a letter, or two where there are many.
func name(i int) record.Identity {
	if i < 26 {
		return record.Identity(rune('a' + i))
	}
	return record.Identity("z" + string(rune('a'+i/26)) + string(rune('a'+i%26)))
}

// evidence checks what a machine reports.
func (w *world) evidence(n *node, e order.Evidence) {
	who, err := record.CheckEquivocation(genesis, w.set, e.First, e.Second, verify)
	if err != nil {
		w.fail("%s reports evidence that proves nothing: %v", n.id, err)
		return
	}
	if w.node(who).liar == "" {
		w.fail("%s accuses %s, which follows the rules", n.id, who)
	}
	w.accused[who] = true
}

// The simulated keys: a signature is a hash that only the sim's code for that
// member makes.
type signer record.PublicKey

func (s signer) Public() record.PublicKey { return record.PublicKey(s) }

func (s signer) Sign(message []byte) (record.Signature, error) {
	return sign(record.PublicKey(s), message), nil
}

func sign(key record.PublicKey, message []byte) (signature record.Signature) {
	sum := sha256.Sum256(append(append([]byte(nil), key[:]...), message...))
	copy(signature[:], sum[:])
	return signature
}

func verify(key record.PublicKey, message []byte, signature record.Signature) bool {
	return sign(key, message) == signature
}

func cosign(node *record.NodeRecord, id record.BlockID, now int64) record.Cosignature {
	return record.Cosignature{
		Identity: node.Identity, Time: now,
		Signature: sign(node.CosignerKey, fmt.Appendf(nil, "%d %d %s", now, id.Size, id.Root)),
	}
}

var errCosignature = errors.New("cosignature does not verify")

func checkCosignature(set *record.Set, id record.BlockID, c record.Cosignature) error {
	node, ok := set.Node(c.Identity)
	if !ok || cosign(node, id, c.Time) != c {
		return errCosignature
	}
	return nil
}

var _ votes.File = (*votes.Memory)(nil)

type item struct {
	at       int64
	sequence int
	do       func()
}

type queue []item

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if q[i].at != q[j].at {
		return q[i].at < q[j].at
	}
	return q[i].sequence < q[j].sequence
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(item)) }
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}
