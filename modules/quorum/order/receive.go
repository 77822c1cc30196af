package order

import (
	"errors"
	"fmt"

	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

// ErrForeign is the Fault of a member that meets votes of its own key that it
// does not remember. It has stopped voting.
var ErrForeign = errors.New("this node's vote key signed what its vote file does not know; stop every other program that uses the key, or run: pyrsia node rekey")

// Why messages are dropped that nothing is wrong with.
var (
	errRound    = errors.New("message of a round that is not kept")
	errAhead    = errors.New("message of a later height that is not kept")
	errRepeated = errors.New("known")
)

// receive sorts a message by its height.
func (m *Machine) receive(e Receive) {
	height, _ := e.Message.Slot()
	switch {
	case m.phase == phaseNone:
	case height > m.height:
		m.refuse(e.From, m.later(e, height))
	case height < m.height || m.phase == phaseCertified:
		m.behind(e.From, height)
	default:
		m.refuse(e.From, m.take(e))
	}
}

// refuse reports a message that is not taken.
func (m *Machine) refuse(from record.Identity, why error) {
	switch {
	case why == nil:
	case errors.Is(why, errRepeated):
		m.do(Repeated{From: from})
	default:
		m.do(Dropped{From: from, Why: why})
	}
}

// behind hints at a member that works on a finished height.
func (m *Machine) behind(peer record.Identity, height int64) {
	if peer == m.cfg.Self || m.hinted[peer] >= hintedPerTick {
		return
	}
	m.hinted[peer]++
	m.do(PeerBehind{Peer: peer, Height: height})
}

// later keeps some messages of the next height. Signatures are checked when
// the height begins; until then they are bounded by who sent them.
func (m *Machine) later(e Receive, height int64) error {
	if _, ok := m.set.Node(e.From); !ok || e.From == m.cfg.Self {
		return errAhead
	}
	m.ahead[e.From] = max(m.ahead[e.From], height)
	if height != m.height+1 {
		return errAhead
	}
	messages, blocks := 0, 0
	for _, b := range m.buffer {
		if b.From == e.From {
			messages++
			if carriesBlock(b.Message) && carriesBlock(e.Message) {
				return errAhead
			}
		}
		if carriesBlock(b.Message) {
			blocks++
		}
	}
	if messages >= bufferedVotes || carriesBlock(e.Message) && blocks >= bufferedBlocks {
		return errAhead
	}
	m.buffer = append(m.buffer, e)
	return nil
}

func carriesBlock(message record.Message) bool {
	switch message.(type) {
	case *record.Proposal, *record.Decision:
		return true
	}
	return false
}

// take takes a message of the height. An error says why it is refused.
func (m *Machine) take(e Receive) error {
	switch message := e.Message.(type) {
	case *record.Proposal:
		return m.takeProposal(e.From, message)
	case *record.Vote:
		return m.takeVote(e.From, message)
	case *record.Cosign:
		return m.takeCosign(message)
	case *record.Decision:
		return m.takeDecision(message)
	}
	return fmt.Errorf("%w: unknown message %T", record.ErrMalformed, e.Message)
}

func (m *Machine) takeProposal(from record.Identity, p *record.Proposal) error {
	if err := p.CheckShape(m.set); err != nil {
		return err
	}
	if p.Proposer == m.cfg.Self {
		if known := m.knownProposal(p.Round); known == nil || known.ID != p.ID {
			m.doubt(p.Round, p.CheckSignature)
		}
		return nil
	}
	if m.phase == phaseDecided || p.Round < m.round {
		if from == p.Proposer {
			m.help(from)
		}
		return nil
	}
	if known := m.knownProposal(p.Round); known != nil {
		return m.takeSecondProposal(known, p)
	}
	if p.Round > m.round && m.laterProposal(p) {
		return nil
	}
	if len(p.Block) == 0 || len(p.Block) > record.MaxBlock {
		return fmt.Errorf("%w: proposal with a block of %d bytes", record.ErrMalformed, len(p.Block))
	}
	if err := p.Check(m.cfg.Genesis, m.set, m.cfg.Verify); err != nil {
		return err
	}
	// The signature covers the ID, not the bytes: other bytes may be the
	// sender's, so they are no proof against the proposer.
	if err := m.know(p.ID, p.Block); err != nil {
		return err
	}
	// Of a block that is known the bytes are not looked at: those that are known go on.
	kept := *p
	kept.Block = m.blocks[p.ID].block
	m.at(p.Round).proposal = &kept
	if p.Round > m.round {
		m.dropFutureProposals(p.Proposer, p.Round)
	}
	if p.ValidRound >= 0 {
		m.confront(p.Proof())
	}
	return nil
}

func (m *Machine) knownProposal(number int64) *record.Proposal {
	if r, ok := m.rounds[number]; ok {
		return r.proposal
	}
	return nil
}

func (m *Machine) takeSecondProposal(known, p *record.Proposal) error {
	if known.ID == p.ID {
		return errRepeated
	}
	about := accusation{member: p.Proposer, round: p.Round, kind: votes.Proposal}
	if m.accused[about] {
		return errRepeated
	}
	if err := p.CheckSignature(m.cfg.Genesis, m.set, m.cfg.Verify); err != nil {
		return err
	}
	m.accused[about] = true
	first, second := *known, *p
	first.Block, second.Block = nil, nil
	m.do(Evidence{First: &first, Second: &second})
	return nil
}

// laterProposal tells whether a member has proposed for a round later still: one of
// these is kept, the latest.
func (m *Machine) laterProposal(p *record.Proposal) bool {
	for number, r := range m.rounds {
		if number > p.Round && r.proposal != nil && r.proposal.Proposer == p.Proposer {
			return true
		}
	}
	return false
}

// dropFutureProposals drops what a member proposed for rounds to come, but for one of
// them. That one is verified: with a forged one anybody could drop another's.
func (m *Machine) dropFutureProposals(proposer record.Identity, but int64) {
	for number, r := range m.rounds {
		if number <= m.round || number == but || r.proposal == nil || r.proposal.Proposer != proposer {
			continue
		}
		id := r.proposal.ID
		r.proposal = nil
		m.tidy(number)
		m.release(id)
	}
}

// tidy drops a later round of which nothing is kept any more.
func (m *Machine) tidy(number int64) {
	r := m.rounds[number]
	if number > m.round && r.proposal == nil && len(r.prevotes.votes) == 0 && len(r.precommits.votes) == 0 {
		delete(m.rounds, number)
	}
}

// release drops a block that no proposal, lock or decision names.
func (m *Machine) release(id record.BlockID) {
	if id == m.locked.id || id == m.valid.id || m.offered != nil && m.offered.ID == id {
		return
	}
	for _, r := range m.rounds {
		if r.proposal != nil && r.proposal.ID == id {
			return
		}
	}
	delete(m.blocks, id)
}

// doubt stops voting when somebody shows a message of this member's own key
// that it does not remember: its vote file is not the newest, or its key is
// used elsewhere. Going on could contradict what was said.
func (m *Machine) doubt(number int64, check func(record.Hash, *record.Set, record.Verifier) error) {
	if !m.voter || number < m.round-keptRounds || check(m.cfg.Genesis, m.set, m.cfg.Verify) != nil {
		return
	}
	m.voter = false
	m.do(Fault{Err: ErrForeign})
}

// know keeps a block's bytes if they are the ID's.
func (m *Machine) know(id record.BlockID, block []byte) error {
	if _, ok := m.blocks[id]; ok {
		return nil
	}
	computed, err := m.cfg.Identify(m.height, block)
	if err != nil {
		return err
	}
	if computed != id {
		return fmt.Errorf("%w: the block is %s, its message says %s", record.ErrMalformed, computed, id)
	}
	m.blocks[id] = &candidate{block: block, refused: -1}
	return nil
}

func (m *Machine) takeVote(from record.Identity, v *record.Vote) error {
	if err := v.CheckShape(m.set); err != nil {
		return err
	}
	if v.Step == record.StepCosign {
		return fmt.Errorf("%w: cosign without its cosignature", record.ErrMalformed)
	}
	known, again := m.knownVote(v)
	if v.Voter == m.cfg.Self {
		if !again || known.ID != v.ID {
			m.doubt(v.Round, v.Check)
		}
		return nil
	}
	if m.lags(v, again) && from == v.Voter {
		m.help(from)
	}
	if m.phase == phaseDecided || v.Round < m.round-keptRounds {
		return nil
	}
	if again {
		return m.takeSecondVote(known, *v)
	}
	if v.Round > m.round && !m.keepFutureVote(v) {
		return errRound
	}
	if err := v.Check(m.cfg.Genesis, m.set, m.cfg.Verify); err != nil {
		return err
	}
	if v.Round > m.round {
		m.dropFutureVotes(v)
	}
	m.count(*v)
	return nil
}

func (m *Machine) knownVote(v *record.Vote) (record.Vote, bool) {
	r, ok := m.rounds[v.Round]
	if !ok {
		return record.Vote{}, false
	}
	known, ok := r.tally(v.Step).votes[v.Voter]
	return known, ok
}

// lags tells whether a vote shows that its voter cannot go on by itself. A
// vote that comes late but for the first time does not: what lets its voter
// follow is on its way too.
func (m *Machine) lags(v *record.Vote, again bool) bool {
	if m.phase == phaseDecided {
		return v.Round > m.decided.Round || v.Round == m.decided.Round && v.ID != m.decided.ID
	}
	return v.Round < m.round-1 || v.Round < m.round && again
}

func (m *Machine) count(v record.Vote) {
	m.at(v.Round).tally(v.Step).add(v)
	if known, ok := m.highest[v.Voter]; !ok || known.Round < v.Round {
		m.highest[v.Voter] = v
	}
}

func (m *Machine) takeSecondVote(known, v record.Vote) error {
	if known.ID == v.ID {
		return errRepeated
	}
	about := accusation{member: v.Voter, round: v.Round, kind: voteKinds[v.Step]}
	if m.accused[about] {
		return errRepeated
	}
	if err := v.Check(m.cfg.Genesis, m.set, m.cfg.Verify); err != nil {
		return err
	}
	m.accused[about] = true
	m.do(Evidence{First: &known, Second: &v})
	return nil
}

// futureRounds are the later rounds in which a member's votes are kept.
func (m *Machine) futureRounds(member record.Identity) (lowest int64, count int) {
	for number, r := range m.rounds {
		if number <= m.round {
			continue
		}
		_, prevoted := r.prevotes.votes[member]
		_, precommitted := r.precommits.votes[member]
		if !prevoted && !precommitted {
			continue
		}
		if count == 0 || number < lowest {
			lowest = number
		}
		count++
	}
	return lowest, count
}

func (m *Machine) keepFutureVote(v *record.Vote) bool {
	lowest, count := m.futureRounds(v.Voter)
	return count < keptFuture || v.Round >= lowest
}

// dropFutureVotes makes room for a vote in a later round: a member keeps its
// latest ones.
func (m *Machine) dropFutureVotes(v *record.Vote) {
	lowest, count := m.futureRounds(v.Voter)
	if count < keptFuture {
		return
	}
	r := m.rounds[v.Round]
	if r != nil {
		_, prevoted := r.prevotes.votes[v.Voter]
		_, precommitted := r.precommits.votes[v.Voter]
		if prevoted || precommitted {
			return
		}
	}
	m.rounds[lowest].prevotes.remove(v.Voter)
	m.rounds[lowest].precommits.remove(v.Voter)
	m.tidy(lowest)
}

func (t tally) remove(member record.Identity) {
	vote, ok := t.votes[member]
	if !ok {
		return
	}
	delete(t.votes, member)
	if t.counts[vote.ID]--; t.counts[vote.ID] == 0 {
		delete(t.counts, vote.ID)
	}
}

func (m *Machine) takeCosign(c *record.Cosign) error {
	v := c.Vote
	if v.Step != record.StepCosign || c.Cosignature.Identity != v.Voter {
		return fmt.Errorf("%w: cosign of %.80q is none", record.ErrMalformed, string(v.Voter))
	}
	known, again := m.cosigns[v.Voter]
	if v.Voter == m.cfg.Self {
		if !again || known.Vote.ID != v.ID {
			m.doubt(m.round, v.Check)
		}
		return nil
	}
	if again {
		return m.takeSecondVote(known.Vote, v)
	}
	if err := v.Check(m.cfg.Genesis, m.set, m.cfg.Verify); err != nil {
		return err
	}
	if err := m.cfg.CheckCosignature(m.set, v.ID, c.Cosignature); err != nil {
		return err
	}
	m.cosigns[v.Voter] = *c
	return nil
}

func (m *Machine) takeDecision(d *record.Decision) error {
	if m.phase == phaseDecided || m.offered != nil && m.offered.ID == d.Quorum.ID && m.blocks[d.Quorum.ID] != nil {
		return errRepeated
	}
	if d.Quorum.Step != record.StepPrecommit {
		return fmt.Errorf("%w: decision by %.40q", record.ErrMalformed, string(d.Quorum.Step))
	}
	if m.blocks[d.Quorum.ID] == nil && len(d.Block) == 0 {
		return nil
	}
	if err := d.Quorum.Check(m.cfg.Genesis, m.set, m.cfg.Verify); err != nil {
		return err
	}
	if err := m.know(d.Quorum.ID, d.Block); err != nil {
		return err
	}
	quorum := d.Quorum
	m.offered = &quorum
	m.confront(quorum)
	return nil
}

// confront holds the votes of a proof, which is checked, to those that came from
// their voters: a liar that tells each something else is found when proofs travel.
func (m *Machine) confront(proof record.Quorum) {
	for _, v := range proof.Votes() {
		known, ok := m.knownVote(&v)
		if !ok || known.ID == v.ID || v.Voter == m.cfg.Self {
			continue
		}
		about := accusation{member: v.Voter, round: v.Round, kind: voteKinds[v.Step]}
		if !m.accused[about] {
			m.accused[about] = true
			m.do(Evidence{First: &known, Second: &v})
		}
	}
}

// voteKinds are the kinds of votes in the vote file.
var voteKinds = map[record.Step]votes.Kind{
	record.StepPrevote: votes.Prevote, record.StepPrecommit: votes.Precommit, record.StepCosign: votes.Cosign,
}

// help answers a member that votes in a round that is over here with what lets
// it follow: once between two ticks, and again when this member went on.
func (m *Machine) help(peer record.Identity) {
	last, again := m.helped[peer]
	if peer == m.cfg.Self || again && (last.round == m.round || last.count >= helpsPerTick) {
		return
	}
	m.helped[peer] = helping{count: last.count + 1, round: m.round}
	if m.phase == phaseDecided {
		m.sendDecision(peer)
		return
	}
	for i := range m.entry {
		if m.entry[i].Voter != peer {
			m.do(Send{To: peer, Message: &m.entry[i]})
		}
	}
	r := m.at(m.round)
	if r.proposal != nil && !again { // a block goes out once
		m.do(Send{To: peer, Message: r.proposal})
	}
	for _, message := range m.ownVotes() {
		m.do(Send{To: peer, Message: message})
	}
}

func (m *Machine) sendDecision(peer record.Identity) {
	decision := &record.Decision{Quorum: m.decided}
	// The first time a short one may do; who is still at it gets it whole.
	if m.told[peer] || !m.hasBlock(peer, m.decided.ID) {
		decision.Block = m.blocks[m.decided.ID].block
	}
	m.told[peer] = true
	m.do(Send{To: peer, Message: decision})
	if own, ok := m.cosigns[m.cfg.Self]; ok {
		m.do(Send{To: peer, Message: &own})
	}
}

// hasBlock tells whether a member voted lately for the block, so has it.
func (m *Machine) hasBlock(member record.Identity, id record.BlockID) bool {
	for _, number := range []int64{m.round - 1, m.round} {
		r, ok := m.rounds[number]
		if !ok {
			continue
		}
		for _, t := range []tally{r.prevotes, r.precommits} {
			if vote, ok := t.votes[member]; ok && vote.ID == id {
				return true
			}
		}
	}
	return false
}

// ownVotes are this member's votes in the round.
func (m *Machine) ownVotes() (own []record.Message) {
	r := m.at(m.round)
	for _, t := range []tally{r.prevotes, r.precommits} {
		if vote, ok := t.votes[m.cfg.Self]; ok {
			own = append(own, &vote)
		}
	}
	return own
}

// tick sends again what others may have missed.
func (m *Machine) tick() {
	m.ticks++
	m.declined = false
	clear(m.hinted)
	clear(m.helped)
	for _, node := range m.members() {
		if height, ok := m.ahead[node]; ok && height > m.height {
			m.do(PeerAhead{Peer: node, Height: height})
		}
	}
	clear(m.ahead)
	switch m.phase {
	case phaseRunning:
		m.tickRunning()
	case phaseDecided:
		m.tickDecided()
	}
}

// resend sends one member again what it may have missed.
func (m *Machine) resend(to record.Identity) {
	delete(m.hinted, to)
	delete(m.helped, to)
	switch m.phase {
	case phaseRunning:
		m.repeatProposal(to)
		for _, message := range m.ownVotes() {
			m.do(Send{To: to, Message: message})
		}
	case phaseDecided:
		m.resendDecided(to)
	}
}

// repeatProposal sends this member's own block of the round to one that showed no sign
// of having it.
func (m *Machine) repeatProposal(to record.Identity) {
	r := m.at(m.round)
	if r.proposal == nil || r.proposal.Proposer != m.cfg.Self {
		return
	}
	if _, ok := r.prevotes.votes[to]; !ok {
		m.do(Send{To: to, Message: r.proposal})
	}
}

// resendDecided sends one member the decision, or this one's cosignature if it has the
// former.
func (m *Machine) resendDecided(to record.Identity) {
	own, ok := m.cosigns[m.cfg.Self]
	if !ok {
		return
	}
	if _, has := m.cosigns[to]; !has {
		m.sendDecision(to)
		return
	}
	m.do(Send{To: to, Message: &own})
}

func (m *Machine) members() []record.Identity {
	if m.set == nil {
		return nil
	}
	list := make([]record.Identity, 0, m.set.Size())
	for i := range m.set.Nodes {
		if id := m.set.Nodes[i].Identity; id != m.cfg.Self {
			list = append(list, id)
		}
	}
	return list
}

func (m *Machine) tickRunning() {
	for _, member := range m.members() {
		m.repeatProposal(member)
	}
	for _, message := range m.ownVotes() {
		m.do(Broadcast{Message: message})
	}
}

func (m *Machine) tickDecided() {
	if _, ok := m.cosigns[m.cfg.Self]; !ok {
		m.askCosignature()
		return
	}
	for _, member := range m.members() {
		m.resendDecided(member)
	}
}

func (m *Machine) askCosignature() {
	if m.voter {
		m.do(Decide{Height: m.height, ID: m.decided.ID, Block: m.blocks[m.decided.ID].block})
	}
}

// cosigned sends this member's cosignature, the only one of the height.
func (m *Machine) cosigned(e Cosigned) {
	if m.phase != phaseDecided || !m.voter || e.Height != m.height || e.ID != m.decided.ID {
		return
	}
	if _, ok := m.cosigns[m.cfg.Self]; ok {
		return
	}
	vote, err := record.SignVote(m.cfg.Genesis, record.Vote{
		Height: m.height, ID: e.ID, Step: record.StepCosign, Voter: m.cfg.Self,
	}, m.cfg.Signer)
	if err != nil {
		m.fault("sign a cosign: %w", err)
		return
	}
	own := record.Cosign{Cosignature: e.Cosignature, Vote: vote}
	data, err := record.EncodeMessage(&own)
	if err != nil {
		m.fault("encode a cosign: %w", err)
		return
	}
	m.write(votes.Cosign, 0, record.Hash{}, data)
	m.cosigns[m.cfg.Self] = own
	m.do(Broadcast{Message: &own})
}
