package order

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

// Bounds of what is kept of others.
const (
	keptRounds      = 8    // rounds before the current one whose votes still count
	keptBlocks      = 2    // rounds before the current one whose blocks are kept
	keptFuture      = 2    // later rounds per member
	bufferedVotes   = 16   // messages of the next height per sender
	bufferedBlocks  = 4    // of them with a block, of all senders together
	helpsPerTick    = 4    // answers to one lagging member between two ticks
	hintedPerTick   = 1    // PeerBehind for one member between two ticks
	maxSkip         = 1000 // rounds that are skipped at once
	unreachableWait = 50 * time.Millisecond
)

// Config is a machine's fixed surroundings. The functions must be
// deterministic but for Validate's look at the clock: what it once accepted it
// must go on accepting.
type Config struct {
	Self     record.Identity
	Genesis  record.Hash
	Timeouts record.Timeouts
	// Signer is the member's vote key. A set that names another vote key for
	// Self (one not rotated in yet, or rotated out) is followed, not voted in.
	Signer record.Signer
	// Verify checks signatures of vote keys; PublicKey.Verify if nil.
	Verify record.Verifier
	// CheckCosignature verifies a cosignature on the checkpoint that id names.
	CheckCosignature func(set *record.Set, id record.BlockID, c record.Cosignature) error
	// Identify computes a block's ID on top of the chain before the height.
	Identify func(height int64, block []byte) (record.BlockID, error)
	// Validate is nil if the block may be the one of the height.
	Validate func(height int64, block []byte) error
}

// phase is how far a height is.
type phase int

const (
	phaseNone      phase = iota // no height started yet
	phaseRunning                // voting
	phaseDecided                // a block has Q precommits
	phaseCertified              // a block has Q cosignatures
)

// step is how far this member is in its round.
type step int

const (
	stepPropose step = iota
	stepPrevote
	stepPrecommit
)

// candidate is a block that is known by its bytes.
type candidate struct {
	block   []byte
	valid   bool
	refused int64 // tick at which Validate last refused it; -1: never asked
}

// lock is a block with its Q prevotes.
type lock struct {
	id    record.BlockID
	round int64 // -1: none
	proof record.Quorum
}

// Machine agrees with the other members on one block after the other. It is
// not safe for concurrent use.
type Machine struct {
	cfg Config

	// For all heights.
	ticks       int64
	pending     bool
	unreachable map[record.Identity]bool
	ahead       map[record.Identity]int64 // members seen at higher heights
	buffer      []Receive                 // of the next height
	hinted      map[record.Identity]int   // PeerBehind since the last tick

	// For the height.
	height   int64
	set      *record.Set
	voter    bool
	phase    phase
	round    int64
	step     step
	parked   bool // nothing to do in this round: no timer runs
	building bool // a RequestBlock of this round is open
	declined bool // there was nothing to propose; asked again after Pending or Tick
	entry    []record.Vote
	locked   lock
	valid    lock
	blocks   map[record.BlockID]*candidate
	rounds   map[int64]*round
	highest  map[record.Identity]record.Vote // per other member, of its highest round
	offered  *record.Quorum                  // a decision received, not yet taken
	decided  record.Quorum
	conflict bool // reported
	cosigns  map[record.Identity]record.Cosign
	accused  map[accusation]bool
	helped   map[record.Identity]helping // since the last tick
	told     map[record.Identity]bool    // got the decision from here
	written  map[record.Hash]bool        // blocks in the vote file
	sought   int64                       // tick at which a certified block was last asked for

	// Of the running step.
	writes []votes.Record
	out    []Action
}

type accusation struct {
	member record.Identity
	round  int64
	kind   votes.Kind
}

// helping is what was done for a lagging member.
type helping struct {
	count int
	round int64 // this member's at that time
}

// New is a machine that waits for Start.
func New(cfg Config) *Machine {
	if cfg.Verify == nil {
		cfg.Verify = record.PublicKey.Verify
	}
	return &Machine{
		cfg: cfg, unreachable: map[record.Identity]bool{},
		ahead: map[record.Identity]int64{}, hinted: map[record.Identity]int{},
	}
}

// Step takes an event and returns what is to be done, in order: at most one
// Write, which comes first.
func (m *Machine) Step(e Event) []Action {
	m.writes, m.out = nil, nil
	switch e := e.(type) {
	case Start:
		m.start(e)
	case Receive:
		m.receive(e)
	case Timeout:
		m.timeout(e)
	case Pending:
		m.pending, m.declined = e.Pending, false
	case BlockBuilt:
		m.blockBuilt(e)
	case Cosigned:
		m.cosigned(e)
	case Reachable:
		m.reachable(e)
	case Tick:
		m.tick()
	case Resend:
		m.resend(e.To)
	}
	m.advance()
	if len(m.writes) == 0 {
		return m.out
	}
	return append([]Action{Write{Records: m.writes}}, m.out...)
}

// Status is where a machine is, for people and tests.
type Status struct {
	Height    int64
	Round     int64
	Step      string // "waiting", "propose", "prevote", "precommit", "decided" or "certified"
	Proposer  record.Identity
	Voter     bool
	LockRound int64 // -1: no lock
	Lock      record.BlockID
}

// Status tells where the machine is.
func (m *Machine) Status() Status {
	s := Status{Height: m.height, Round: m.round, Voter: m.voter, LockRound: m.locked.round, Lock: m.locked.id}
	if m.phase == phaseNone {
		s.Step = "waiting"
		return s
	}
	s.Proposer = m.set.Proposer(m.height, m.round)
	switch {
	case m.phase == phaseDecided:
		s.Step = "decided"
	case m.phase == phaseCertified:
		s.Step = "certified"
	case m.parked:
		s.Step = "waiting"
	default:
		s.Step = []string{"propose", "prevote", "precommit"}[m.step]
	}
	return s
}

// Recall is what this machine holds that a member signed: its votes, by round and
// step, and its proposals, without their blocks and proofs-of-lock. They are of the
// height after this machine's if it holds any of that, for then the member is done
// with this one, and else of this machine's. It is what a member that starts asks the
// others for.
func (m *Machine) Recall(member record.Identity) (recalled []record.Vote, proposals []record.Proposal) {
	if recalled, proposals = m.recallLater(member); len(recalled)+len(proposals) > 0 {
		return recalled, proposals
	}
	known := slots{}
	note := func(votes ...record.Vote) {
		for _, v := range votes {
			if v.Voter == member {
				known[voteSlot{v.Step, v.Round}] = v
			}
		}
	}
	for _, quorum := range []record.Quorum{m.locked.proof, m.valid.proof, m.decided} {
		note(quorum.Votes()...)
	}
	note(m.entry...)
	for _, number := range m.numbers() {
		r := m.rounds[number]
		note(r.prevotes.votes[member], r.precommits.votes[member])
		if p := r.proposal; p != nil && p.Proposer == member {
			head := *p
			head.Block, head.Lock = nil, nil
			proposals = append(proposals, head)
		}
	}
	note(m.cosigns[member].Vote)
	return known.sorted(), proposals
}

// recallLater is Recall of the messages that wait for the next height. They were not
// checked when they came, and another one may have sent them.
func (m *Machine) recallLater(member record.Identity) ([]record.Vote, []record.Proposal) {
	known, heads := slots{}, map[int64]record.Proposal{}
	for _, b := range m.buffer {
		switch message := b.Message.(type) {
		case *record.Vote:
			m.noteLater(known, member, *message)
		case *record.Cosign:
			m.noteLater(known, member, message.Vote)
		case *record.Proposal:
			if message.Proposer == member && message.CheckSignature(m.cfg.Genesis, m.set, m.cfg.Verify) == nil {
				head := *message
				head.Block, head.Lock = nil, nil
				heads[head.Round] = head
			}
		}
	}
	proposals := slices.SortedFunc(maps.Values(heads), func(a, b record.Proposal) int { return cmp.Compare(a.Round, b.Round) })
	return known.sorted(), proposals
}

func (m *Machine) noteLater(known slots, member record.Identity, v record.Vote) {
	if v.Voter == member && v.Check(m.cfg.Genesis, m.set, m.cfg.Verify) == nil {
		known[voteSlot{v.Step, v.Round}] = v
	}
}

// slots are votes of one member and height.
type slots map[voteSlot]record.Vote

type voteSlot struct {
	step  record.Step
	round int64
}

func (s slots) sorted() []record.Vote {
	return slices.SortedFunc(maps.Values(s), func(a, b record.Vote) int {
		return cmp.Or(cmp.Compare(a.Round, b.Round), cmp.Compare(a.Step, b.Step))
	})
}

func (m *Machine) do(actions ...Action) { m.out = append(m.out, actions...) }

func (m *Machine) write(kind votes.Kind, round int64, root record.Hash, data []byte) {
	if kind == votes.Block {
		if m.written[root] {
			return
		}
		m.written[root] = true
	}
	m.writes = append(m.writes, votes.Record{
		Slot: votes.Slot{Height: m.height, Round: round, Kind: kind, Root: root}, Data: data,
	})
}

func (m *Machine) fault(format string, args ...any) { m.do(Fault{Err: fmt.Errorf(format, args...)}) }

// start begins a height and takes up what the vote file holds of it.
func (m *Machine) start(e Start) {
	var others said
	switch {
	case e.Height == m.height && e.Again && m.phase != phaseCertified:
		others = m.others()
	case e.Height <= m.height:
		return
	}
	m.height, m.set, m.phase = e.Height, e.Set, phaseRunning
	node, member := e.Set.Node(m.cfg.Self)
	m.voter = member && !e.Fenced && m.cfg.Signer != nil && node.VoteKey == m.cfg.Signer.Public()
	m.round, m.step, m.parked, m.building, m.declined, m.entry = 0, stepPropose, true, false, false, nil
	m.conflict = false
	m.locked, m.valid = lock{round: -1}, lock{round: -1}
	m.blocks, m.rounds = map[record.BlockID]*candidate{}, map[int64]*round{}
	m.highest, m.cosigns = map[record.Identity]record.Vote{}, map[record.Identity]record.Cosign{}
	m.accused, m.helped = map[accusation]bool{}, map[record.Identity]helping{}
	m.told, m.written = map[record.Identity]bool{}, map[record.Hash]bool{}
	m.offered, m.decided, m.sought = nil, record.Quorum{}, -1
	m.restore(e.Records)
	m.hear(others)

	buffered := m.buffer
	m.buffer = nil
	for _, message := range buffered {
		m.receive(message)
	}
}

// said is what other members said in a height, all of it checked.
type said struct {
	votes     []record.Vote
	proposals []*record.Proposal
	cosigns   []record.Cosign
	blocks    map[record.BlockID]*candidate
	offered   *record.Quorum
}

// others takes what others said out of the height that is under way.
func (m *Machine) others() said {
	s := said{blocks: m.blocks, offered: m.offered}
	if m.phase == phaseDecided {
		decided := m.decided
		s.offered = &decided
	}
	for _, number := range m.numbers() {
		r := m.rounds[number]
		for _, v := range append(r.prevotes.all(), r.precommits.all()...) {
			if v.Voter != m.cfg.Self {
				s.votes = append(s.votes, v)
			}
		}
		if r.proposal != nil && r.proposal.Proposer != m.cfg.Self {
			s.proposals = append(s.proposals, r.proposal)
		}
	}
	for _, id := range m.members() {
		if c, ok := m.cosigns[id]; ok {
			s.cosigns = append(s.cosigns, c)
		}
	}
	return s
}

// hear puts it into the height that begins again. The vote file's own of it
// stand there already.
func (m *Machine) hear(s said) {
	for id, c := range s.blocks {
		if m.blocks[id] == nil {
			m.blocks[id] = c
		}
	}
	for _, v := range s.votes {
		if _, known := m.knownVote(&v); !known {
			m.count(v)
		}
	}
	for _, p := range s.proposals {
		if r := m.at(p.Round); r.proposal == nil {
			r.proposal = p
		}
	}
	for _, c := range s.cosigns {
		m.cosigns[c.Vote.Voter] = c
	}
	if m.offered == nil {
		m.offered = s.offered
	}
}

// advance applies the rules of the algorithm until none applies any more.
func (m *Machine) advance() {
	for m.phase == phaseRunning && m.rule() {
	}
	if m.phase == phaseRunning || m.phase == phaseDecided {
		m.certify()
	}
}

// enter begins a round that the votes justify (line 11).
func (m *Machine) enter(number int64, justification []record.Vote) {
	m.entry = justification
	if m.voter {
		data, err := record.Marshal(votes.Entry{Votes: justification})
		if err != nil {
			m.fault("enter round %d: %w", number, err)
			return
		}
		m.write(votes.Round, number, record.Hash{}, data)
	}
	m.round, m.step, m.parked, m.building, m.declined = number, stepPropose, true, false, false
	m.forget()
}

// forget drops what the bounds do not keep when a round begins.
func (m *Machine) forget() {
	needed := map[record.BlockID]bool{m.locked.id: true, m.valid.id: true}
	if m.offered != nil {
		needed[m.offered.ID] = true
	}
	for number, r := range m.rounds {
		if number < m.round-keptRounds {
			delete(m.rounds, number)
			continue
		}
		if r.proposal == nil {
			continue
		}
		if number >= m.round-keptBlocks || r.precommits.counts[r.proposal.ID] > 0 {
			needed[r.proposal.ID] = true
			continue
		}
		head := *r.proposal // the message itself may still be on its way out
		head.Block = nil
		r.proposal = &head
	}
	for id := range m.blocks {
		if !needed[id] {
			delete(m.blocks, id)
		}
	}
}

// awake tells whether there is a reason to run the round's timers: something
// to propose here, a block that must be decided, or another that is at it.
func (m *Machine) awake() bool {
	if m.pending || m.locked.round >= 0 || m.valid.round >= 0 || len(m.cosigns) > 0 || m.offered != nil {
		return true
	}
	if r, ok := m.rounds[m.round]; ok && r.proposal != nil {
		return true
	}
	for _, vote := range m.highest {
		if vote.Round >= m.round {
			return true
		}
	}
	return false
}

// begin starts the round's timer and, if it is this member's turn, proposes.
func (m *Machine) begin() {
	m.parked = false
	proposer := m.set.Proposer(m.height, m.round)
	if m.step != stepPropose {
		return
	}
	m.schedule(TimeoutPropose, m.cfg.Timeouts.Propose, m.unreachable[proposer])
	if proposer == m.cfg.Self && m.voter {
		m.propose()
	}
}

// maxStretch is by how much the rounds of a height make its timeouts longer at the
// most, in milliseconds: longer than any network delays a message, and short enough
// that a round far ahead, into which liars led, does not take years.
const maxStretch = 60_000

func (m *Machine) schedule(kind TimeoutKind, base int64, short bool) {
	after := time.Duration(base+min(m.round*m.cfg.Timeouts.Step, maxStretch)) * time.Millisecond
	if short {
		after = min(after, unreachableWait)
	}
	m.do(ScheduleTimeout{Timeout: Timeout{Kind: kind, Height: m.height, Round: m.round}, After: after})
}

// timeout is lines 57 to 67 of the algorithm.
func (m *Machine) timeout(e Timeout) {
	if m.phase != phaseRunning || e.Height != m.height || e.Round != m.round {
		return
	}
	r := m.at(m.round)
	switch {
	case e.Kind == TimeoutPropose && m.step == stepPropose && !m.parked:
		m.vote(record.StepPrevote, record.BlockID{})
	case e.Kind == TimeoutPrevote && m.step == stepPrevote && r.prevoteWait:
		m.vote(record.StepPrecommit, record.BlockID{})
	case e.Kind == TimeoutPrecommit && r.precommitWait:
		m.enter(m.round+1, r.precommits.all())
	}
}

func (m *Machine) reachable(e Reachable) {
	if e.Reachable {
		delete(m.unreachable, e.Member)
		return
	}
	m.unreachable[e.Member] = true
	if m.phase != phaseRunning || m.parked || m.step != stepPropose || m.set.Proposer(m.height, m.round) != e.Member {
		return
	}
	m.schedule(TimeoutPropose, m.cfg.Timeouts.Propose, true)
}

// blockBuilt proposes what the driver built, if the round still waits for it.
func (m *Machine) blockBuilt(e BlockBuilt) {
	if m.phase != phaseRunning || e.Height != m.height || e.Round != m.round || !m.building {
		return
	}
	m.building, m.declined = false, e.Block == nil
	if e.Block == nil || m.step != stepPropose || m.at(m.round).proposal != nil {
		return
	}
	id, err := m.cfg.Identify(m.height, e.Block)
	if err == nil {
		err = m.cfg.Validate(m.height, e.Block)
	}
	if err != nil {
		m.fault("the block built for height %d is not valid: %w", m.height, err)
		return
	}
	m.blocks[id] = &candidate{block: e.Block, valid: true, refused: -1}
	m.sendProposal(lock{id: id, round: -1})
}

// propose is lines 14 to 19: the valid block again, or a new one.
func (m *Machine) propose() {
	if m.at(m.round).proposal != nil {
		return
	}
	if m.valid.round >= 0 {
		m.sendProposal(m.valid)
		return
	}
	if !m.building {
		m.building = true
		m.do(RequestBlock{Height: m.height, Round: m.round})
	}
}

func (m *Machine) sendProposal(of lock) {
	proposal := record.Proposal{
		Height: m.height, ID: of.id, Lock: of.proof.Signatures, Proposer: m.cfg.Self,
		Round: m.round, ValidRound: of.round,
	}
	proposal, err := record.SignProposal(m.cfg.Genesis, proposal, m.cfg.Signer)
	if err != nil {
		m.fault("sign a proposal: %w", err)
		return
	}
	data, err := record.EncodeMessage(&proposal)
	if err != nil {
		m.fault("encode a proposal: %w", err)
		return
	}
	proposal.Block = m.blocks[of.id].block
	m.write(votes.Block, 0, of.id.Root, proposal.Block)
	m.write(votes.Proposal, m.round, record.Hash{}, data)
	m.at(m.round).proposal = &proposal
	m.do(Broadcast{Message: &proposal})
}

// vote casts this member's vote of the step in the round. A member that does
// not vote goes through the steps all the same.
func (m *Machine) vote(s record.Step, id record.BlockID) {
	kind := votes.Prevote
	m.step = stepPrevote
	if s == record.StepPrecommit {
		kind, m.step = votes.Precommit, stepPrecommit
	}
	if !m.voter {
		return
	}
	vote, err := record.SignVote(m.cfg.Genesis, record.Vote{
		Height: m.height, ID: id, Round: m.round, Step: s, Voter: m.cfg.Self,
	}, m.cfg.Signer)
	if err != nil {
		m.fault("sign a %s: %w", s, err)
		return
	}
	data, err := record.EncodeMessage(&vote)
	if err != nil {
		m.fault("encode a %s: %w", s, err)
		return
	}
	// Who votes for a block can show it, also after a crash.
	if c, ok := m.blocks[id]; ok {
		m.write(votes.Block, 0, id.Root, c.block)
	}
	m.write(kind, m.round, record.Hash{}, data)
	m.at(m.round).tally(s).add(vote)
	m.do(Broadcast{Message: &vote})
}
