package sim

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/pyrsia/appliance/modules/quorum/order"
	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

// certifiedBlock is what a chain holds of a height.
type certifiedBlock struct {
	id    record.BlockID
	block []byte
}

// node is a member: its machine (twins: two), its vote file, its chain.
type node struct {
	world    *world
	index    int
	id       record.Identity
	liar     Liar
	gone     bool // for good
	down     bool
	life     int // counts restarts: timers of earlier ones mean nothing
	machines [2]*order.Machine
	files    [2]*votes.Memory
	old      *votes.Memory // what a liar that forgets restarts with
	chains   [2][]certifiedBlock
	friends  []int // per node: which twin talks to it
	seen     []record.BlockID
	pushed   map[slot]record.BlockID // what a liar that unlocks stands for
	nonce    int
	pending  bool // in the good time
}

// tip is the height of the chain; of twin i's where there are two.
func (n *node) tip(i int) int64 { return int64(len(n.chains[i])) }

func (n *node) root(i int) (root record.Hash) {
	if chain := n.chains[i]; len(chain) > 0 {
		root = chain[len(chain)-1].id.Root
	}
	return root
}

func (n *node) twins() int {
	if n.liar == Twins {
		return 2
	}
	return 1
}

// boot starts the member from its vote file and chain.
func (n *node) boot() {
	n.down = false
	n.life++
	if n.liar == Silent || n.liar == Rubbish || n.liar == Replays {
		return
	}
	for i := range n.twins() {
		if n.files[i] == nil {
			n.files[i] = new(votes.Memory)
		}
		n.machines[i] = order.New(order.Config{
			Self: n.id, Genesis: genesis, Timeouts: n.world.timeouts,
			Signer: signer(n.world.set.Nodes[n.index].VoteKey), Verify: verify,
			CheckCosignature: checkCosignature,
			Identify: func(height int64, block []byte) (record.BlockID, error) {
				return n.identify(i, height, block), nil
			},
			Validate: n.validate,
		})
		n.step(i, order.Pending{Pending: n.world.good && n.pending || n.world.rng.IntN(3) > 0})
		n.startHeight(i)
		n.tick(i, n.life)
	}
	n.befriend()
}

func (n *node) befriend() {
	n.friends = make([]int, n.world.cfg.N)
	random := n.world.rng.IntN(4) == 0
	for i := range n.friends {
		// Twins do best with one on each side of the partition.
		n.friends[i] = n.world.partition[i]
		if random {
			n.friends[i] = n.world.rng.IntN(2)
		}
	}
}

func (n *node) startHeight(i int) {
	if n.machines[i] == nil {
		return
	}
	records, err := n.files[i].Load(n.tip(i) + 1)
	if err != nil {
		n.world.fail("load: %v", err)
	}
	n.step(i, order.Start{Height: n.tip(i) + 1, Set: n.world.set, Records: records})
}

func (n *node) tick(i, life int) {
	n.world.at(int64(1+n.world.rng.IntN(2*tickEvery)), func() {
		if n.life != life || n.down {
			return
		}
		if n.liar == Twins && !n.world.cfg.Split && n.world.rng.IntN(5) == 0 {
			n.befriend()
		}
		if !n.world.good {
			n.step(i, order.Pending{Pending: n.world.rng.IntN(3) > 0})
		}
		n.step(i, order.Tick{})
		n.tick(i, life)
	})
}

// halt stops the member where it is.
func (n *node) halt() {
	n.down = true
	n.life++
	n.machines = [2]*order.Machine{}
}

// crash halts the member and starts it again some time later.
func (n *node) crash(why string) {
	if n.down || n.gone || n.liar != "" && n.liar != Forgets {
		return
	}
	n.world.trace("%s crashes (%s)", n.id, why)
	if n.liar == "" {
		n.world.report.Crashes++
	}
	n.halt()
	if n.liar == Forgets {
		if n.old != nil && n.world.rng.IntN(2) == 0 {
			n.files[0] = n.old.Clone()
		}
		n.old = n.files[0].Clone()
	}
	n.world.at(int64(1+n.world.rng.IntN(2000)), func() {
		if n.down && !n.gone {
			n.world.trace("%s restarts", n.id)
			n.boot()
		}
	})
}

// A block of the simulation says for which height and time it is, and whether
// it is valid.
func blockText(height, time int64, who record.Identity, nonce int, valid bool) []byte {
	return fmt.Appendf(nil, "%v height %d time %d by %s nonce %d", valid, height, time, who, nonce)
}

func (n *node) identify(i int, height int64, block []byte) record.BlockID {
	root := n.root(i)
	return record.BlockID{Size: height * 2, Root: sha256.Sum256(append(root[:], block...))}
}

var errInvalid = errors.New("invalid block")

// validate has a clock of its own: some members accept a block later than
// others.
func (n *node) validate(height int64, block []byte) error {
	var valid bool
	var of, time int64
	if _, err := fmt.Fscanf(strings.NewReader(string(block)), "%t height %d time %d", &valid, &of, &time); err != nil {
		return err
	}
	if !valid || of != height || time > n.world.now+int64(n.index*20) {
		return errInvalid
	}
	return nil
}

// receive hands a message to the member, whatever it is.
func (n *node) receive(twin int, e order.Receive) {
	if n.down {
		return
	}
	switch n.liar {
	case Silent:
	case Rubbish:
		n.babble(e)
	case Replays:
		n.repeat(e)
	case Twins:
		if n.world.node(e.From).liar == Twins {
			n.step(twin, e)
			return
		}
		for i := range 2 {
			if n.friends[n.world.node(e.From).index] == i || n.world.rng.IntN(8) == 0 {
				n.step(i, e)
			}
		}
	case Unlocks:
		if !n.overhears(e.Message) {
			n.step(0, e)
		}
	default:
		n.step(0, e)
	}
}

// overhears tells whether a liar that unlocks does not want to know: what would
// end the height before it can push its own block.
func (n *node) overhears(message record.Message) bool {
	switch m := message.(type) {
	case *record.Decision, *record.Cosign:
		return !n.world.good
	case *record.Vote:
		return !n.world.good && m.Step == record.StepPrecommit && !m.ID.IsNil() && n.world.rng.IntN(2) == 0
	}
	return false
}

// step drives a machine: it performs the actions in order, and may crash
// before or after the vote file is written.
func (n *node) step(i int, e order.Event) {
	if n.down || n.machines[i] == nil {
		return
	}
	machine, life := n.machines[i], n.life
	for _, action := range machine.Step(e) {
		if n.life != life || n.machines[i] != machine || n.world.failure != nil {
			return
		}
		n.perform(i, action)
	}
}

func (n *node) perform(i int, action order.Action) {
	w := n.world
	switch a := action.(type) {
	case order.Write:
		n.writeVotes(i, a)
	case order.Broadcast:
		for to := range w.nodes {
			n.send(i, to, a.Message)
		}
	case order.Send:
		n.send(i, w.node(a.To).index, a.Message)
	case order.ScheduleTimeout:
		life := n.life
		w.at(a.After.Milliseconds(), func() {
			if n.life == life {
				n.step(i, a.Timeout)
			}
		})
	case order.RequestBlock:
		n.buildBlock(i, a)
	case order.Decide:
		w.decides(n, a)
		life := n.life
		w.at(int64(w.rng.IntN(20)), func() {
			if n.life == life {
				n.step(i, order.Cosigned{Height: a.Height, ID: a.ID, Cosignature: cosign(&w.set.Nodes[n.index], a.ID, w.now)})
			}
		})
	case order.Certified:
		w.certified(n, a)
		if id := n.identify(i, a.Height, a.Block); id != a.ID || n.liar == "" && !strings.HasPrefix(string(a.Block), "true ") {
			w.fail("%s certified %s at height %d: %s", n.id, a.ID, a.Height, a.Block)
		}
		n.adopt(i, a.Height, certifiedBlock{id: a.ID, block: a.Block})
	case order.Evidence:
		if n.liar == "" {
			w.evidence(n, a)
		}
	case order.Conflict:
		if n.liar == "" && !w.forkable() {
			w.fail("%s sees a conflict", n.id)
		}
	case order.PeerBehind:
		n.sendBlock(i, w.node(a.Peer), a.Height)
	case order.PeerAhead:
		peer := w.node(a.Peer)
		if peer.liar == "" && !peer.down {
			peer.sendBlock(0, n, n.tip(i)+1)
		}
	case order.Dropped:
		w.trace("%s drops a message of %s: %v", n.id, a.From, a.Why)
		if n.liar == "" && w.cfg.Liars == 0 && !strings.Contains(a.Why.Error(), "not kept") {
			w.fail("%s drops a message of %s: %v", n.id, a.From, a.Why)
		}
	case order.Fault:
		w.trace("%s: fault: %v", n.id, a.Err)
		if n.liar == "" {
			w.fail("%s: fault: %v", n.id, a.Err)
		}
	}
}

// unlucky tells whether the member crashes now.
func (n *node) unlucky() bool {
	w := n.world
	return !w.good && !w.cfg.Split && n.liar == "" && w.rng.IntN(40) == 0
}

func (n *node) writeVotes(i int, a order.Write) {
	w := n.world
	if n.unlucky() {
		n.crash("before a write")
		return
	}
	if err := n.files[i].Put(a.Records...); err != nil {
		if n.liar == "" {
			w.fail("%s: %v", n.id, err)
		}
		n.crash("vote file refuses")
		return
	}
	for _, r := range a.Records {
		w.trace("%s writes %s", n.id, r.Slot)
	}
	if n.unlucky() {
		n.crash("after a write")
	}
}

func (n *node) send(i, to int, message record.Message) {
	if to == n.index {
		return
	}
	if n.liar == Twins && n.world.nodes[to].liar != Twins && n.friends[to] != i && n.world.rng.IntN(8) > 0 {
		return
	}
	if n.liar == Unlocks {
		message = n.unlock(message)
	}
	n.world.heard(n, message)
	n.world.send(n.index, i, to, message)
}

// unlock makes another message of a liar's proposal: a new block, which Q
// members are said to have prevoted; and of its votes in that round: for it.
func (n *node) unlock(message record.Message) record.Message {
	height, number := message.Slot()
	key := signer(n.world.set.Nodes[n.index].VoteKey)
	switch m := message.(type) {
	case *record.Proposal:
		if m.Proposer != n.id || m.Round == 0 {
			return message
		}
		p := *m
		p.Block = blockText(p.Height, 0, n.id, 1000+int(p.Round), true)
		p.ID = n.identify(0, p.Height, p.Block)
		p.ValidRound, p.Lock = p.Round-1, n.forge()
		n.pushed = map[slot]record.BlockID{{height: height, round: number}: p.ID}
		p, _ = record.SignProposal(genesis, p, key)
		return &p
	case *record.Vote:
		if id, ok := n.pushed[slot{height: height, round: number}]; ok && m.Voter == n.id {
			v := *m
			v.ID = id
			v, _ = record.SignVote(genesis, v, key)
			return &v
		}
	}
	return message
}

func (n *node) buildBlock(i int, a order.RequestBlock) {
	w, life := n.world, n.life
	w.at(int64(w.rng.IntN(30)), func() {
		if n.life != life || n.tip(i)+1 != a.Height {
			return
		}
		n.nonce++
		built := order.BlockBuilt{Height: a.Height, Round: a.Round}
		if w.good || w.rng.IntN(8) > 0 {
			built.Block = blockText(a.Height, w.now, n.id, n.nonce, true)
		}
		n.step(i, built)
	})
}

// sendBlock sends a certified block: the driver's part of catching up.
func (n *node) sendBlock(i int, to *node, height int64) {
	if height < 1 || height > n.tip(i) || to == n {
		return
	}
	w, block := n.world, n.chains[i][height-1]
	if !w.good && (w.apart(n.index, to.index) || w.rng.IntN(100) < w.loss["block"]) {
		return
	}
	w.at(w.delay(), func() {
		for twin := range to.twins() {
			if !to.down && to.machines[twin] != nil && (to.liar != Twins || to.friends[n.index] == twin) {
				to.adopt(twin, height, block)
			}
		}
	})
}

// adopt appends a certified block to the chain and begins the next height.
func (n *node) adopt(i int, height int64, c certifiedBlock) {
	if height != n.tip(i)+1 || n.identify(i, height, c.block) != c.id {
		return
	}
	n.chains[i] = append(n.chains[i], c)
	n.world.trace("%s has block %d: %s", n.id, height, c.id)
	if err := n.files[i].Prune(height); err != nil {
		n.world.fail("%s: %v", n.id, err)
	}
	n.startHeight(i)
}

// babble answers a message with lies about its height and round.
func (n *node) babble(e order.Receive) {
	w := n.world
	height, number := e.Message.Slot()
	switch message := e.Message.(type) {
	case *record.Vote:
		n.note(message.ID)
	case *record.Proposal:
		n.note(message.ID)
		n.seen = append(n.seen, record.BlockID{Size: height * 2, Root: record.Digest(message.Block)})
	case *record.Cosign:
		n.note(message.Vote.ID)
	}
	if w.rng.IntN(3) > 0 {
		return
	}
	number = max(0, number+int64(w.rng.IntN(4)-1))
	key := signer(w.set.Nodes[n.index].VoteKey)
	for to := range w.nodes {
		if to == n.index || w.rng.IntN(2) == 0 {
			continue
		}
		var id record.BlockID
		if len(n.seen) > 0 && w.rng.IntN(4) > 0 {
			id = n.seen[len(n.seen)-1-w.rng.IntN(min(len(n.seen), 4))]
		}
		vote := record.Vote{Height: height, ID: id, Round: number, Step: record.StepPrevote, Voter: n.id}
		if w.rng.IntN(2) == 0 {
			vote.Step = record.StepPrecommit
		}
		if w.rng.IntN(4) == 0 && !id.IsNil() {
			vote.Step, vote.Round = record.StepCosign, 0
		}
		if w.rng.IntN(4) == 0 {
			n.forgeDecision(to, height, number)
		}
		vote, _ = record.SignVote(genesis, vote, key)
		if w.rng.IntN(50) == 0 {
			vote.Signature[0]++
		}
		if vote.Step == record.StepCosign {
			message := &record.Cosign{Vote: vote, Cosignature: cosign(&w.set.Nodes[n.index], id, w.now)}
			if w.rng.IntN(3) == 0 {
				message.Cosignature.Signature[0]++
			}
			w.heard(n, message)
			w.send(n.index, 0, to, message)
			continue
		}
		w.send(n.index, 0, to, &vote)
		if w.set.Proposer(height, number) == n.id {
			n.proposeRubbish(to, height, number, key)
		}
	}
}

// forge makes up Q votes.
func (n *node) forge() (list []record.VoteSignature) {
	for i := range n.world.set.Quorum() {
		list = append(list, record.VoteSignature{Voter: n.world.nodes[i].id})
	}
	return list
}

func (n *node) forgeDecision(to int, height, number int64) {
	w := n.world
	block := blockText(height, w.now, n.id, w.rng.IntN(3), true)
	id := w.nodes[to].identify(0, height, block)
	w.send(n.index, 0, to, &record.Decision{Block: block, Quorum: record.Quorum{
		Height: height, ID: id, Round: number, Signatures: n.forge(), Step: record.StepPrecommit,
	}})
}

func (n *node) note(id record.BlockID) {
	if !id.IsNil() {
		n.seen = append(n.seen, id)
	}
}

func (n *node) proposeRubbish(to int, height, number int64, key signer) {
	w := n.world
	n.nonce++
	// The liar has no chain: it takes that of the one it talks to.
	block := blockText(height, w.now+int64(w.rng.IntN(200)), n.id, w.rng.IntN(3), w.rng.IntN(3) > 0)
	id := w.nodes[to].identify(0, height, block)
	proposal := record.Proposal{Height: height, ID: id, Proposer: n.id, Round: number, ValidRound: -1}
	if number > 0 && w.rng.IntN(3) > 0 {
		proposal.ValidRound = int64(w.rng.IntN(int(number)))
		proposal.Lock = n.forge()
	}
	proposal, _ = record.SignProposal(genesis, proposal, key)
	proposal.Block = block
	if w.rng.IntN(10) == 0 {
		proposal.Block = blockText(height, 0, n.id, 99, true)
	}
	w.send(n.index, 0, to, &proposal)
}

// repeat keeps some messages and sends old ones again.
func (n *node) repeat(e order.Receive) {
	w := n.world
	if len(w.replay) < 2000 {
		w.replay = append(w.replay, e)
	}
	if w.rng.IntN(3) > 0 {
		return
	}
	old := w.replay[w.rng.IntN(len(w.replay))]
	for to := range w.nodes {
		if to != n.index && w.rng.IntN(2) == 0 {
			w.send(n.index, 0, to, old.Message)
		}
	}
}
