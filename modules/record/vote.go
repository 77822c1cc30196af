package record

import (
	"encoding/binary"
	"fmt"
	"sort"
	"strconv"
)

// The messages of the order quorum. Each signed one fills a slot: the order
// asks of a member one proposal, one prevote and one precommit per height and
// round, and one cosign per height. Two different IDs of one key in one slot
// are an equivocation, whoever shows them (CheckEquivocation).

// MaxBlock is the largest result of Block.Encode in bytes: signature,
// count, leaves and their lengths.
const MaxBlock = 64 + 4 + MaxLargeBlock + 2*MaxBlockLeaves

// MaxMessage is the largest encoded message in bytes.
const MaxMessage = messageHead + maxHead + MaxBlock

// MaxRound bounds the rounds of a height. It takes years to get there, and a
// liar's round cannot overflow a sum.
const MaxRound = 1 << 31

const (
	messageHead = 5 // kind and length of the head
	maxHead     = 1<<16 - 1
)

// BlockID names a block by the checkpoint it leads to. The zero BlockID is
// nil: a vote for no block.
type BlockID struct {
	Root Hash  `json:"root"`
	Size int64 `json:"size"` // leaves of the log with this block
}

// IsNil tells whether the ID names no block.
func (id BlockID) IsNil() bool { return id == BlockID{} }

// String is the ID for people.
func (id BlockID) String() string {
	if id.IsNil() {
		return "nil"
	}
	return strconv.FormatInt(id.Size, 10) + ":" + id.Root.Short()
}

func (id BlockID) check() error {
	if id.Size <= 0 || id.Root.IsZero() {
		return fmt.Errorf("%w: no block has the ID %d:%s", ErrMalformed, id.Size, id.Root)
	}
	return nil
}

// Step is which of a member's votes one is.
type Step string

// The steps of a round, and the cosign that follows the decision.
const (
	StepPrevote   Step = "prevote"
	StepPrecommit Step = "precommit"
	StepCosign    Step = "cosign"
)

// Verifier tells whether a signature is the key's for the message:
// PublicKey.Verify, or what stands for it in a simulation.
type Verifier func(key PublicKey, message []byte, signature Signature) bool

// Vote is a member's vote in one slot of the order, signed by its vote key
// over SignBytes("vote", genesis, vote without signature).
type Vote struct {
	Height    int64     `json:"height"` // ≥ 1: the genesis is block 0
	ID        BlockID   `json:"id"`     // nil in a prevote or precommit for no block
	Round     int64     `json:"round"`  // 0 in a cosign
	Signature Signature `json:"signature"`
	Step      Step      `json:"step"`
	Voter     Identity  `json:"voter"`
}

// Message is what the signature is over: SignBytes("vote", …), written out,
// since a member checks some hundred of them per block.
func (v Vote) Message(genesis Hash) []byte {
	b := make([]byte, 0, 384)
	b = append(b, "pyrsia/vote/v1\n"...)
	b = append(b, genesis.String()...)
	b = append(b, "\n{\"height\":"...)
	b = strconv.AppendInt(b, v.Height, 10)
	b = v.ID.append(b)
	b = append(b, `,"round":`...)
	b = strconv.AppendInt(b, v.Round, 10)
	b = append(b, `,"step":"`...)
	b = append(b, v.Step...)
	b = append(b, `","voter":"`...)
	b = append(b, v.Voter...)
	return append(b, `"}`...)
}

func (id BlockID) append(b []byte) []byte {
	b = append(b, `,"id":{"root":"`...)
	b = append(b, id.Root.String()...)
	b = append(b, `","size":`...)
	b = strconv.AppendInt(b, id.Size, 10)
	return append(b, '}')
}

// SignVote signs a vote.
func SignVote(genesis Hash, v Vote, vote Signer) (Vote, error) {
	signature, err := vote.Sign(v.Message(genesis))
	v.Signature = signature
	return v, err
}

// CheckShape verifies everything but the signature.
func (v Vote) CheckShape(set *Set) error {
	if err := checkSlot(v.Height, v.Round); err != nil {
		return err
	}
	if _, ok := set.Node(v.Voter); !ok {
		return fmt.Errorf("%w: voter %.80q is not in the set", ErrMalformed, string(v.Voter))
	}
	switch v.Step {
	case StepPrevote, StepPrecommit:
		if v.ID.IsNil() {
			return nil
		}
	case StepCosign:
		if v.Round != 0 {
			return fmt.Errorf("%w: a cosign has no round", ErrMalformed)
		}
	default:
		return fmt.Errorf("%w: unknown step %.40q", ErrMalformed, string(v.Step))
	}
	return v.ID.check()
}

// Check verifies the vote's shape and signature.
func (v Vote) Check(genesis Hash, set *Set, verify Verifier) error {
	if err := v.CheckShape(set); err != nil {
		return err
	}
	node, _ := set.Node(v.Voter)
	if !verify(node.VoteKey, v.Message(genesis), v.Signature) {
		return fmt.Errorf("%w: %s of %s: signature does not verify", ErrMalformed, v.Step, v.Voter)
	}
	return nil
}

func checkSlot(height, round int64) error {
	if height < 1 || height > maxInteger {
		return fmt.Errorf("%w: height %d", ErrMalformed, height)
	}
	if round < 0 || round > MaxRound {
		return fmt.Errorf("%w: round %d", ErrMalformed, round)
	}
	return nil
}

// VoteSignature is one vote of a Quorum.
type VoteSignature struct {
	Signature Signature `json:"signature"`
	Voter     Identity  `json:"voter"`
}

// Quorum is exactly Q equal votes for a block: a proof-of-lock (prevotes) or a
// decision (precommits).
type Quorum struct {
	Height     int64           `json:"height"`
	ID         BlockID         `json:"id"`
	Round      int64           `json:"round"`
	Signatures []VoteSignature `json:"signatures"` // sorted by voter
	Step       Step            `json:"step"`
}

// NewQuorum puts the first Q of equal votes, by voter, together.
func NewQuorum(votes []Vote, q int) Quorum {
	votes = append([]Vote(nil), votes...)
	sort.Slice(votes, func(i, j int) bool { return votes[i].Voter < votes[j].Voter })
	quorum := Quorum{Height: votes[0].Height, ID: votes[0].ID, Round: votes[0].Round, Step: votes[0].Step}
	for _, v := range votes[:q] {
		quorum.Signatures = append(quorum.Signatures, VoteSignature{Signature: v.Signature, Voter: v.Voter})
	}
	return quorum
}

// Votes are the quorum's votes, one by one.
func (q Quorum) Votes() []Vote {
	votes := make([]Vote, 0, len(q.Signatures))
	for _, s := range q.Signatures {
		votes = append(votes, Vote{Height: q.Height, ID: q.ID, Round: q.Round, Signature: s.Signature, Step: q.Step, Voter: s.Voter})
	}
	return votes
}

// Check verifies that Q members cast these votes, for a block.
func (q Quorum) Check(genesis Hash, set *Set, verify Verifier) error {
	if q.Step != StepPrevote && q.Step != StepPrecommit {
		return fmt.Errorf("%w: quorum of step %.40q", ErrMalformed, string(q.Step))
	}
	if err := q.ID.check(); err != nil {
		return err
	}
	if len(q.Signatures) != set.Quorum() {
		return fmt.Errorf("%w: quorum of %d votes, want %d", ErrMalformed, len(q.Signatures), set.Quorum())
	}
	for i, vote := range q.Votes() {
		if i > 0 && q.Signatures[i-1].Voter >= vote.Voter {
			return fmt.Errorf("%w: votes are not sorted by voter, one each", ErrMalformed)
		}
		if err := vote.Check(genesis, set, verify); err != nil {
			return err
		}
	}
	return nil
}

// Message is what members send each other to agree on a block: *Proposal,
// *Vote, *Cosign or *Decision.
type Message interface {
	// Slot is the height and round that the message is about.
	Slot() (height, round int64)
	kind() byte
	block() *[]byte
}

// Proposal is a block that a round's proposer asks the others to accept,
// signed by its vote key over SignBytes("proposal", genesis, {height, id,
// proposer, round, validRound}). A block that already had Q prevotes is
// proposed again with the identical bytes and these prevotes.
type Proposal struct {
	Block      []byte          `json:"-"` // opaque here: ID is computed from it
	Height     int64           `json:"height"`
	ID         BlockID         `json:"id"`
	Lock       []VoteSignature `json:"lock"` // proof-of-lock: Q prevotes of ValidRound
	Proposer   Identity        `json:"proposer"`
	Round      int64           `json:"round"`
	Signature  Signature       `json:"signature"`
	ValidRound int64           `json:"validRound"` // -1: proposed for the first time
}

// Message is what the signature is over.
func (p Proposal) Message(genesis Hash) []byte {
	b := make([]byte, 0, 384)
	b = append(b, "pyrsia/proposal/v1\n"...)
	b = append(b, genesis.String()...)
	b = append(b, "\n{\"height\":"...)
	b = strconv.AppendInt(b, p.Height, 10)
	b = p.ID.append(b)
	b = append(b, `,"proposer":"`...)
	b = append(b, p.Proposer...)
	b = append(b, `","round":`...)
	b = strconv.AppendInt(b, p.Round, 10)
	b = append(b, `,"validRound":`...)
	b = strconv.AppendInt(b, p.ValidRound, 10)
	return append(b, '}')
}

// SignProposal signs a proposal.
func SignProposal(genesis Hash, p Proposal, vote Signer) (Proposal, error) {
	signature, err := vote.Sign(p.Message(genesis))
	p.Signature = signature
	return p, err
}

// Proof is the proposal's proof-of-lock.
func (p Proposal) Proof() Quorum {
	return Quorum{Height: p.Height, ID: p.ID, Round: p.ValidRound, Signatures: p.Lock, Step: StepPrevote}
}

// CheckShape verifies everything but the signatures and the block.
func (p Proposal) CheckShape(set *Set) error {
	if err := p.checkHead(set); err != nil {
		return err
	}
	if (p.ValidRound == -1) != (len(p.Lock) == 0) {
		return fmt.Errorf("%w: proposal with valid round %d and %d votes", ErrMalformed, p.ValidRound, len(p.Lock))
	}
	return nil
}

// checkHead verifies the shape of what the proposer signed.
func (p Proposal) checkHead(set *Set) error {
	if err := checkSlot(p.Height, p.Round); err != nil {
		return err
	}
	if set.Proposer(p.Height, p.Round) != p.Proposer {
		return fmt.Errorf("%w: %.80q is not the proposer of height %d, round %d", ErrMalformed, string(p.Proposer), p.Height, p.Round)
	}
	if p.ValidRound < -1 || p.ValidRound >= p.Round {
		return fmt.Errorf("%w: proposal of round %d with valid round %d", ErrMalformed, p.Round, p.ValidRound)
	}
	return p.ID.check()
}

// CheckSignature verifies the proposal's shape and own signature, not its
// proof-of-lock.
func (p Proposal) CheckSignature(genesis Hash, set *Set, verify Verifier) error {
	if err := p.CheckShape(set); err != nil {
		return err
	}
	return p.checkOwn(genesis, set, verify)
}

// checkOwn verifies what the proposer signed and its signature.
func (p Proposal) checkOwn(genesis Hash, set *Set, verify Verifier) error {
	if err := p.checkHead(set); err != nil {
		return err
	}
	node, _ := set.Node(p.Proposer)
	if !verify(node.VoteKey, p.Message(genesis), p.Signature) {
		return fmt.Errorf("%w: proposal of %s: signature does not verify", ErrMalformed, p.Proposer)
	}
	return nil
}

// Check verifies the proposal's signature and its proof-of-lock. That ID is
// the block's the caller checks.
func (p Proposal) Check(genesis Hash, set *Set, verify Verifier) error {
	if err := p.CheckSignature(genesis, set, verify); err != nil {
		return err
	}
	if p.ValidRound == -1 {
		return nil
	}
	return p.Proof().Check(genesis, set, verify)
}

// Cosign is a member's cosignature on the checkpoint of a block it saw
// decided. The vote binds it to its height, the cosignature is what stands
// under the checkpoint.
type Cosign struct {
	Cosignature Cosignature `json:"cosignature"`
	Vote        Vote        `json:"vote"`
}

// Decision shows a block decided: Q precommits of one round. The block may be
// left out for a receiver that has it.
type Decision struct {
	Block  []byte `json:"-"`
	Quorum Quorum `json:"quorum"`
}

// Slot implements Message.
func (p *Proposal) Slot() (height, round int64) { return p.Height, p.Round }

// Slot implements Message.
func (v *Vote) Slot() (height, round int64) { return v.Height, v.Round }

// Slot implements Message.
func (c *Cosign) Slot() (height, round int64) { return c.Vote.Height, c.Vote.Round }

// Slot implements Message.
func (d *Decision) Slot() (height, round int64) { return d.Quorum.Height, d.Quorum.Round }

func (p *Proposal) kind() byte { return 'p' }
func (v *Vote) kind() byte     { return 'v' }
func (c *Cosign) kind() byte   { return 'c' }
func (d *Decision) kind() byte { return 'd' }

func (p *Proposal) block() *[]byte { return &p.Block }
func (v *Vote) block() *[]byte     { return nil }
func (c *Cosign) block() *[]byte   { return nil }
func (d *Decision) block() *[]byte { return &d.Block }

// EncodeMessage is the message's bytes: its kind ('p', 'v', 'c' or 'd'), the
// length of its head as 32 bits big-endian, the head as canonical JSON, and
// the block, if it carries one, as it is.
func EncodeMessage(m Message) ([]byte, error) {
	head, err := Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(head) > maxHead {
		return nil, fmt.Errorf("%w: message head of %d bytes, the limit is %d", ErrMalformed, len(head), maxHead)
	}
	var block []byte
	if b := m.block(); b != nil {
		block = *b
	}
	if len(block) > MaxBlock {
		return nil, fmt.Errorf("%w: block of %d bytes, the limit is %d", ErrMalformed, len(block), MaxBlock)
	}
	data := make([]byte, 0, messageHead+len(head)+len(block))
	data = append(data, m.kind())
	data = binary.BigEndian.AppendUint32(data, uint32(len(head)))
	data = append(data, head...)
	return append(data, block...), nil
}

// DecodeMessage reads a message; it is valid exactly if EncodeMessage writes
// the same bytes again. The message's block shares memory with data.
func DecodeMessage(data []byte) (Message, error) {
	if len(data) < messageHead || len(data) > MaxMessage {
		return nil, fmt.Errorf("%w: message of %d bytes", ErrMalformed, len(data))
	}
	m := newMessage(data[0])
	if m == nil {
		return nil, fmt.Errorf("%w: unknown kind of message %q", ErrMalformed, data[0])
	}
	length := binary.BigEndian.Uint32(data[1:])
	data = data[messageHead:]
	if length > maxHead || int(length) > len(data) {
		return nil, fmt.Errorf("%w: message head of %d bytes", ErrMalformed, length)
	}
	if err := Unmarshal(data[:length], m); err != nil {
		return nil, err
	}
	rest := data[length:]
	if len(rest) == 0 {
		return m, nil
	}
	block := m.block()
	if block == nil || len(rest) > MaxBlock {
		return nil, fmt.Errorf("%w: %d bytes behind the message", ErrMalformed, len(rest))
	}
	*block = rest
	return m, nil
}

func newMessage(kind byte) Message {
	switch kind {
	case 'p':
		return new(Proposal)
	case 'v':
		return new(Vote)
	case 'c':
		return new(Cosign)
	case 'd':
		return new(Decision)
	}
	return nil
}

// CheckEquivocation verifies that two messages, votes or proposals (with or
// without blocks and proofs-of-lock, which the signatures do not cover), name
// different blocks in one slot, and says whose key signed both. The set is the
// one of their height.
func CheckEquivocation(genesis Hash, set *Set, a, b Message, verify Verifier) (Identity, error) {
	switch a := a.(type) {
	case *Vote:
		b, ok := b.(*Vote)
		if !ok || a.Voter != b.Voter || a.Height != b.Height || a.Round != b.Round || a.Step != b.Step || a.ID == b.ID {
			return "", fmt.Errorf("%w: these are no two votes of one slot", ErrMalformed)
		}
		if err := a.Check(genesis, set, verify); err != nil {
			return "", err
		}
		return a.Voter, b.Check(genesis, set, verify)
	case *Proposal:
		b, ok := b.(*Proposal)
		if !ok || a.Proposer != b.Proposer || a.Height != b.Height || a.Round != b.Round || a.ID == b.ID {
			return "", fmt.Errorf("%w: these are no two proposals of one round", ErrMalformed)
		}
		if err := a.checkOwn(genesis, set, verify); err != nil {
			return "", err
		}
		return a.Proposer, b.checkOwn(genesis, set, verify)
	}
	return "", fmt.Errorf("%w: only votes and proposals can contradict each other", ErrMalformed)
}
