package order

import (
	"sort"

	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

// tally is the votes of one step of one round, the first of each member.
type tally struct {
	votes  map[record.Identity]record.Vote
	counts map[record.BlockID]int
}

func newTally() tally {
	return tally{votes: map[record.Identity]record.Vote{}, counts: map[record.BlockID]int{}}
}

func (t tally) add(vote record.Vote) {
	t.votes[vote.Voter] = vote
	t.counts[vote.ID]++
}

// all are the votes, sorted by voter.
func (t tally) all() []record.Vote {
	list := make([]record.Vote, 0, len(t.votes))
	for _, vote := range t.votes {
		list = append(list, vote)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Voter < list[j].Voter })
	return list
}

// block is the block that at least q members voted for.
func (t tally) block(q int) (record.BlockID, bool) {
	for id, count := range t.counts {
		if count >= q && !id.IsNil() {
			return id, true
		}
	}
	return record.BlockID{}, false
}

// quorum is the proof of it.
func (t tally) quorum(id record.BlockID, q int) record.Quorum {
	var equal []record.Vote
	for _, vote := range t.votes {
		if vote.ID == id {
			equal = append(equal, vote)
		}
	}
	return record.NewQuorum(equal, q)
}

// round is what is known of a round.
type round struct {
	proposal      *record.Proposal
	prevotes      tally
	precommits    tally
	prevoteWait   bool // the prevote timer runs
	precommitWait bool // the precommit timer runs
}

func (r *round) tally(s record.Step) tally {
	if s == record.StepPrecommit {
		return r.precommits
	}
	return r.prevotes
}

func (m *Machine) at(number int64) *round {
	r, ok := m.rounds[number]
	if !ok {
		r = &round{prevotes: newTally(), precommits: newTally()}
		m.rounds[number] = r
	}
	return r
}

// acceptable tells whether the block is known and valid. A refusal holds until
// the next tick: a block from a proposer whose clock is ahead becomes valid.
func (m *Machine) acceptable(id record.BlockID) bool {
	c, ok := m.blocks[id]
	if !ok {
		return false
	}
	if !c.valid && c.refused != m.ticks {
		c.valid = m.cfg.Validate(m.height, c.block) == nil
		c.refused = m.ticks
	}
	return c.valid
}

// rule applies the first rule that changes something. The lines are those of
// the algorithm in the paper.
func (m *Machine) rule() bool {
	for _, apply := range []func() bool{
		m.ruleDecide, m.ruleSkip, m.ruleBegin, m.ruleBuild, m.rulePrevote, m.ruleLock,
		m.ruleNoLock, m.rulePrevoteWait, m.ruleNextRound, m.rulePrecommitWait,
	} {
		if apply() {
			return true
		}
	}
	return false
}

// ruleDecide is line 49: Q precommits of one round for a valid block.
func (m *Machine) ruleDecide() bool {
	if m.offered != nil && m.acceptable(m.offered.ID) {
		return m.decide(*m.offered)
	}
	for _, number := range m.numbers() {
		r := m.rounds[number]
		if id, ok := r.precommits.block(m.set.Quorum()); ok && m.acceptable(id) {
			return m.decide(r.precommits.quorum(id, m.set.Quorum()))
		}
	}
	return false
}

// numbers are the known rounds in order, so that equal events give equal
// actions.
func (m *Machine) numbers() []int64 {
	list := make([]int64, 0, len(m.rounds))
	for number := range m.rounds {
		list = append(list, number)
	}
	sort.Slice(list, func(i, j int) bool { return list[i] < list[j] })
	return list
}

func (m *Machine) decide(q record.Quorum) bool {
	m.phase, m.decided = phaseDecided, q
	block := m.blocks[q.ID].block
	if m.voter {
		data, err := record.Marshal(q)
		if err != nil {
			m.fault("encode a decision: %w", err)
			return true
		}
		m.write(votes.Block, 0, q.ID.Root, block)
		m.write(votes.Decision, 0, record.Hash{}, data)
		m.do(Decide{Height: m.height, ID: q.ID, Block: block})
	}
	return true
}

// ruleSkip is line 55: N-Q+1 other members are in a higher round. At least one
// of them follows the rules if there are at most N-Q that do not.
func (m *Machine) ruleSkip() bool {
	need := m.set.Size() - m.set.Quorum() + 1
	var higher []record.Vote
	for _, vote := range m.highest {
		if vote.Round > m.round {
			higher = append(higher, vote)
		}
	}
	if len(higher) < need {
		return false
	}
	sort.Slice(higher, func(i, j int) bool {
		if higher[i].Round != higher[j].Round {
			return higher[i].Round > higher[j].Round
		}
		return higher[i].Voter < higher[j].Voter
	})
	number := higher[need-1].Round
	if number > m.round+maxSkip {
		// Liars alone may say so, and no round comes after the last: farther than this
		// only in steps, each with a wait of its own.
		if m.step == stepPropose {
			return false
		}
		number = m.round + maxSkip
	}
	m.enter(number, higher[:need])
	return true
}

// ruleBegin ends the wait at the beginning of a round.
func (m *Machine) ruleBegin() bool {
	if !m.parked || !m.awake() {
		return false
	}
	m.begin()
	return true
}

// ruleBuild asks for a block when something came up in this member's round.
func (m *Machine) ruleBuild() bool {
	if m.parked || m.building || m.declined || !m.pending || !m.voter || m.step != stepPropose || m.set.Proposer(m.height, m.round) != m.cfg.Self {
		return false
	}
	if m.at(m.round).proposal != nil {
		return false
	}
	m.propose()
	return m.building
}

// rulePrevote is lines 22 and 28: the proposal is accepted if it is valid and
// the lock allows it.
func (m *Machine) rulePrevote() bool {
	proposal := m.at(m.round).proposal
	if m.parked || m.step != stepPropose || proposal == nil {
		return false
	}
	valid := m.acceptable(proposal.ID)
	if valid && proposal.ValidRound > m.valid.round {
		m.valid = lock{id: proposal.ID, round: proposal.ValidRound, proof: proposal.Proof()}
	}
	if valid && m.lockAllows(proposal) {
		m.vote(record.StepPrevote, proposal.ID)
	} else {
		m.vote(record.StepPrevote, record.BlockID{})
	}
	return true
}

// lockAllows tells whether the lock does not forbid to prevote the proposal:
// there is none, it is on this block, or Q members prevoted this block in a
// round not before the lock's (the proof came with the proposal).
func (m *Machine) lockAllows(p *record.Proposal) bool {
	if m.locked.round == -1 || m.locked.id == p.ID {
		return true
	}
	return p.ValidRound >= m.locked.round
}

// ruleLock is line 36: Q prevotes for a valid block. In the prevote step it is
// locked and precommitted, later only remembered to be proposed again.
func (m *Machine) ruleLock() bool {
	r := m.at(m.round)
	if m.step == stepPropose || m.valid.round == m.round {
		return false
	}
	id, ok := r.prevotes.block(m.set.Quorum())
	if !ok || !m.acceptable(id) {
		return false
	}
	m.valid = lock{id: id, round: m.round, proof: r.prevotes.quorum(id, m.set.Quorum())}
	if m.step != stepPrevote {
		return true
	}
	m.locked = m.valid
	if m.voter {
		data, err := record.Marshal(m.locked.proof)
		if err != nil {
			m.fault("encode a lock: %w", err)
			return true
		}
		m.write(votes.Lock, m.round, record.Hash{}, data)
	}
	m.vote(record.StepPrecommit, id)
	return true
}

// ruleNoLock is line 44: Q prevotes for nil.
func (m *Machine) ruleNoLock() bool {
	if m.step != stepPrevote || m.at(m.round).prevotes.counts[record.BlockID{}] < m.set.Quorum() {
		return false
	}
	m.vote(record.StepPrecommit, record.BlockID{})
	return true
}

// rulePrevoteWait is line 34: Q prevotes of any kind.
func (m *Machine) rulePrevoteWait() bool {
	r := m.at(m.round)
	if m.step != stepPrevote || r.prevoteWait || len(r.prevotes.votes) < m.set.Quorum() {
		return false
	}
	r.prevoteWait = true
	m.schedule(TimeoutPrevote, m.cfg.Timeouts.Vote, false)
	return true
}

// ruleNextRound leaves a round that can no longer decide: Q members
// precommitted nil. Waiting for more could bring no decision.
func (m *Machine) ruleNextRound() bool {
	r := m.at(m.round)
	if r.precommits.counts[record.BlockID{}] < m.set.Quorum() {
		return false
	}
	m.enter(m.round+1, r.precommits.all())
	return true
}

// rulePrecommitWait is line 47: Q precommits of any kind.
func (m *Machine) rulePrecommitWait() bool {
	r := m.at(m.round)
	if r.precommitWait || len(r.precommits.votes) < m.set.Quorum() {
		return false
	}
	r.precommitWait = true
	m.schedule(TimeoutPrecommit, m.cfg.Timeouts.Vote, false)
	return true
}

// certify takes a block that Q members cosigned.
func (m *Machine) certify() {
	counts := map[record.BlockID]int{}
	for _, c := range m.cosigns {
		counts[c.Vote.ID]++
	}
	for id, count := range counts {
		if count >= m.set.Quorum() {
			m.certified(id)
			return
		}
	}
}

func (m *Machine) certified(id record.BlockID) {
	var cosigns []record.Cosign
	for _, c := range m.cosigns {
		if c.Vote.ID == id {
			cosigns = append(cosigns, c)
		}
	}
	sort.Slice(cosigns, func(i, j int) bool { return cosigns[i].Vote.Voter < cosigns[j].Vote.Voter })
	cosigns = cosigns[:m.set.Quorum()]
	if m.phase == phaseDecided && m.decided.ID != id && !m.conflict {
		m.conflict = true
		m.do(Conflict{Decided: m.decided, Certified: cosigns})
	}
	c, ok := m.blocks[id]
	if !ok {
		m.seek(cosigns)
		return
	}
	m.phase = phaseCertified
	action := Certified{Height: m.height, ID: id, Block: c.block}
	for _, c := range cosigns {
		action.Cosignatures = append(action.Cosignatures, c.Cosignature)
	}
	m.do(action)
}

// seek asks, once per tick, for a certified block that is not known here.
func (m *Machine) seek(cosigns []record.Cosign) {
	if m.sought == m.ticks {
		return
	}
	m.sought = m.ticks
	for _, c := range cosigns {
		if c.Vote.Voter != m.cfg.Self {
			m.do(PeerAhead{Peer: c.Vote.Voter, Height: m.height})
		}
	}
}
