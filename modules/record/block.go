package record

import (
	"encoding/binary"
	"fmt"
	"sort"

	"golang.org/x/mod/sumdb/tlog"
)

// Limits of a block (docs/protocol.md, "Blocks").
const (
	MaxLargeBlock  = 4 << 20 // bytes of one block with a single large publication
	MaxMixedBlock  = 1 << 20 // bytes of any other block
	MaxBlockLeaves = 4096
)

// Frontier is the right edge of an RFC 6962 tree: all that is needed to append
// leaves and know the root. The zero value is the empty tree. Copy with Clone.
type Frontier struct {
	Size   int64  `json:"size"`
	Hashes []Hash `json:"hashes"` // roots of the complete subtrees, largest first
}

// Clone is an independent copy.
func (f Frontier) Clone() Frontier {
	return Frontier{Size: f.Size, Hashes: append([]Hash(nil), f.Hashes...)}
}

// Append adds a leaf's hash.
func (f *Frontier) Append(leaf Hash) {
	hash := tlog.Hash(leaf)
	for size := f.Size; size&1 == 1; size >>= 1 {
		last := len(f.Hashes) - 1
		hash = tlog.NodeHash(tlog.Hash(f.Hashes[last]), hash)
		f.Hashes = f.Hashes[:last]
	}
	f.Hashes = append(f.Hashes, Hash(hash))
	f.Size++
}

// Root is the tree's root.
func (f Frontier) Root() Hash {
	if f.Size == 0 {
		return Digest(nil)
	}
	last := len(f.Hashes) - 1
	hash := tlog.Hash(f.Hashes[last])
	for i := last - 1; i >= 0; i-- {
		hash = tlog.NodeHash(tlog.Hash(f.Hashes[i]), hash)
	}
	return Hash(hash)
}

// Block is the leaves of one block, its header last, with the log signature of
// its proposer on the checkpoint that it leads to.
type Block struct {
	Leaves       [][]byte
	LogSignature Signature
}

// Size is the number of bytes of the leaves.
func (b *Block) Size() (n int) {
	for _, leaf := range b.Leaves {
		n += len(leaf)
	}
	return n
}

// Encode is the block's wire form: the log signature, the number of leaves as
// 4 bytes big-endian, and each leaf after its length as 2 bytes big-endian.
func (b *Block) Encode() []byte {
	data := append([]byte(nil), b.LogSignature[:]...)
	data = binary.BigEndian.AppendUint32(data, uint32(len(b.Leaves)))
	for _, leaf := range b.Leaves {
		data = binary.BigEndian.AppendUint16(data, uint16(len(leaf)))
		data = append(data, leaf...)
	}
	return data
}

// DecodeBlock reads Encode's form. The leaves share data's memory.
func DecodeBlock(data []byte) (*Block, error) {
	b := new(Block)
	if len(data) < len(b.LogSignature)+4 || len(data) > MaxLargeBlock+MaxBlockLeaves*2+68 {
		return nil, fmt.Errorf("block: %w: %d bytes", ErrMalformed, len(data))
	}
	data = data[copy(b.LogSignature[:], data):]
	count := binary.BigEndian.Uint32(data)
	if data = data[4:]; count == 0 || count > MaxBlockLeaves {
		return nil, fmt.Errorf("block: %w: %d leaves", ErrMalformed, count)
	}
	for range count {
		if len(data) < 2 || len(data)-2 < int(binary.BigEndian.Uint16(data)) {
			return nil, fmt.Errorf("block: %w: cut short", ErrMalformed)
		}
		n := 2 + int(binary.BigEndian.Uint16(data))
		b.Leaves = append(b.Leaves, data[2:n:n])
		data = data[n:]
	}
	if len(data) != 0 {
		return nil, fmt.Errorf("block: %w: %d bytes too many", ErrMalformed, len(data))
	}
	return b, nil
}

// Header decodes the block's last leaf.
func (b *Block) Header() (*Header, error) {
	if len(b.Leaves) == 0 {
		return nil, fmt.Errorf("block: %w: no leaves", ErrMalformed)
	}
	leaf, err := DecodeLeaf(b.Leaves[len(b.Leaves)-1])
	if err != nil {
		return nil, err
	}
	header, ok := leaf.(*Header)
	if !ok {
		return nil, fmt.Errorf("block: %w: the last leaf is a %s, not the header", ErrMalformed, leaf.LeafType())
	}
	return header, nil
}

// Checkpoint is the log's state after the block, given the edge before it.
func (b *Block) Checkpoint(origin string, before Frontier) Checkpoint {
	after := before.Clone()
	for _, leaf := range b.Leaves {
		after.Append(LeafHash(leaf))
	}
	return Checkpoint{Origin: origin, Size: after.Size, Root: after.Root()}
}

// Network is what a verifier knows of a network.
type Network struct {
	Name    string
	Genesis Hash
}

// Origin is the log's origin line.
func (n Network) Origin() string { return Origin(n.Name, n.Genesis) }

// Certified is a block that a quorum committed. Only Certify and VerifyBlock
// make one, so that holding it is the proof.
type Certified struct {
	block  *Block
	header *Header
	signed *SignedCheckpoint
	note   []byte
}

// Block is the block. It must not be changed.
func (c *Certified) Block() *Block { return c.block }

// Header is the block's header.
func (c *Certified) Header() *Header { return c.header }

// Checkpoint is the signed checkpoint after the block.
func (c *Certified) Checkpoint() *SignedCheckpoint { return c.signed }

// Note is the signed checkpoint's text.
func (c *Certified) Note() []byte { return c.note }

// Encode is the certified block's wire form: the note after its length as 4
// bytes big-endian, then the block.
func (c *Certified) Encode() []byte {
	data := binary.BigEndian.AppendUint32(nil, uint32(len(c.note)))
	return append(append(data, c.note...), c.block.Encode()...)
}

// Certify puts a block and the cosignatures on its checkpoint together. More
// than Q are cut to the first Q by identity.
func Certify(network Network, set *Set, before Frontier, block *Block, cosignatures []Cosignature) (*Certified, error) {
	header, err := block.Header()
	if err != nil {
		return nil, err
	}
	cosignatures = append([]Cosignature(nil), cosignatures...)
	sort.Slice(cosignatures, func(i, j int) bool { return cosignatures[i].Identity < cosignatures[j].Identity })
	if len(cosignatures) > set.Quorum() {
		cosignatures = cosignatures[:set.Quorum()]
	}
	signed := &SignedCheckpoint{
		Checkpoint: block.Checkpoint(network.Origin(), before), Proposer: header.Proposer,
		LogSignature: block.LogSignature, Cosignatures: cosignatures,
	}
	note, err := signed.Encode(network.Name, set)
	if err != nil {
		return nil, err
	}
	return verify(network, set, before, block, note)
}

// VerifyBlock reads a certified block's wire form and verifies that it follows
// the given edge and that the set committed it. It does not look inside the
// leaves: chain does.
func VerifyBlock(network Network, set *Set, before Frontier, data []byte) (*Certified, error) {
	if len(data) < 4 || uint32(len(data)-4) < binary.BigEndian.Uint32(data) {
		return nil, fmt.Errorf("certified block: %w: cut short", ErrMalformed)
	}
	end := 4 + int(binary.BigEndian.Uint32(data))
	block, err := DecodeBlock(data[end:])
	if err != nil {
		return nil, err
	}
	return verify(network, set, before, block, data[4:end:end])
}

func verify(network Network, set *Set, before Frontier, block *Block, note []byte) (*Certified, error) {
	header, err := block.Header()
	if err != nil {
		return nil, err
	}
	if header.PreviousSize != before.Size || header.PreviousRoot != before.Root() {
		return nil, fmt.Errorf("block %d: %w: it follows another log", header.Height, ErrMalformed)
	}
	if header.Set != set.Hash() {
		return nil, fmt.Errorf("block %d: %w: it names another set", header.Height, ErrMalformed)
	}
	signed, err := OpenCheckpoint(note, network.Name, network.Genesis, set)
	if err != nil {
		return nil, fmt.Errorf("block %d: %w", header.Height, err)
	}
	if signed.Checkpoint != block.Checkpoint(network.Origin(), before) {
		return nil, fmt.Errorf("block %d: %w: the checkpoint is of another block", header.Height, ErrMalformed)
	}
	if signed.Proposer != header.Proposer || signed.LogSignature != block.LogSignature {
		return nil, fmt.Errorf("block %d: %w: the log signature is not its proposer's", header.Height, ErrMalformed)
	}
	return &Certified{block: block, header: header, signed: signed, note: note}, nil
}
