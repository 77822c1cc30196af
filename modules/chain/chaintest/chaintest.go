// Package chaintest is a network of build nodes in memory, for tests: members
// with keys made from their names, the leaves that they sign, and blocks that
// a quorum of them certified.
//
// Equal calls give equal bytes in every run: keys, salts and times are made of
// names and counters, never of a clock. A Network only reads after New and is
// safe for concurrent use.
package chaintest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"sort"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/record"
)

// Start is the time before the first block in milliseconds since 1970; every
// block that Append makes is Interval later than the one before.
const (
	Start    = 1_767_225_600_000 // 2026-01-01T00:00:00Z
	Interval = 1000
)

// Signer signs with an Ed25519 key.
type Signer ed25519.PrivateKey

// NewSigner is the signer of a name.
func NewSigner(name string) Signer {
	seed := sha256.Sum256([]byte("pyrsia test key\n" + name))
	return Signer(ed25519.NewKeyFromSeed(seed[:]))
}

// Public implements record.Signer.
func (s Signer) Public() record.PublicKey {
	return record.PublicKey(ed25519.PrivateKey(s).Public().(ed25519.PublicKey))
}

// Sign implements record.Signer.
func (s Signer) Sign(message []byte) (record.Signature, error) {
	return record.Signature(ed25519.Sign(ed25519.PrivateKey(s), message)), nil
}

// Node is a build node.
type Node struct {
	ID      record.Identity
	Record  record.NodeRecord
	Signers record.NodeSigners
}

// NewNode is the node of a name.
func NewNode(name string) Node {
	signers := record.NodeSigners{
		Identity: NewSigner(name + " identity"), Vote: NewSigner(name + " vote"),
		Cosigner: NewSigner(name + " cosigner"), Log: NewSigner(name + " log"),
	}
	signed, err := record.SignNode(record.NodeRecord{Operator: name + ".example", Platforms: []string{Platform}, Seq: 1}, signers)
	if err != nil {
		panic(err)
	}
	return Node{ID: signed.Identity, Record: signed, Signers: signers}
}

// Platform is what all nodes build for, Engine how they build.
const (
	Platform = "linux/amd64"
	Engine   = "test/1"
)

// Network is a founded network and the keys of its members.
type Network struct {
	record.Network
	Genesis     *record.Genesis
	GenesisLeaf []byte
	Set         *record.Set
	Nodes       []Node // in the set's order
}

// New founds a network of n nodes named "node0", "node1" and so on. change, if
// there is one, may alter the genesis before it is encoded.
func New(t testing.TB, n int, change ...func(*record.Genesis)) *Network {
	t.Helper()
	genesis := &record.Genesis{
		Name: "test.example", Order: record.OrderMajority, Platforms: []string{Platform},
		Salt:     record.Digest([]byte("salt")),
		Timeouts: record.Timeouts{Heartbeat: 600_000, Propose: 3000, Step: 1000, Vote: 1000},
	}
	network := &Network{Genesis: genesis}
	for i := range n {
		network.Nodes = append(network.Nodes, NewNode(fmt.Sprintf("node%d", i)))
	}
	sort.Slice(network.Nodes, func(i, j int) bool { return network.Nodes[i].ID < network.Nodes[j].ID })
	for _, node := range network.Nodes {
		genesis.Nodes = append(genesis.Nodes, node.Record)
	}
	for _, f := range change {
		f(genesis)
	}
	var err error
	if network.GenesisLeaf, err = record.EncodeLeaf(genesis); err != nil {
		t.Fatal(err)
	}
	if _, network.Set, err = record.OpenGenesis(network.GenesisLeaf); err != nil {
		t.Fatal(err)
	}
	network.Network = record.Network{Name: genesis.Name, Genesis: record.Digest(network.GenesisLeaf)}
	return network
}

// Renew is the network with new keys for a member, and the leaf that asks for
// them. The leaf stands in a block of the network as it was, and so does the
// block after it; from then on blocks are the new network's.
func (n *Network) Renew(t testing.TB, i int) (*Network, *record.KeyRotateLeaf) {
	t.Helper()
	renewed := *n
	renewed.Nodes = append([]Node(nil), n.Nodes...)
	node := &renewed.Nodes[i]
	seq := node.Record.Seq + 1
	for name, signer := range map[string]*record.Signer{"vote": &node.Signers.Vote, "cosigner": &node.Signers.Cosigner, "log": &node.Signers.Log} {
		*signer = NewSigner(fmt.Sprintf("%s %s %d", node.Record.Operator, name, seq))
	}
	signed, err := record.SignRotation(n.Network.Genesis, record.NodeRecord{Operator: node.Record.Operator, Platforms: node.Record.Platforms, Seq: seq}, node.Signers)
	if err != nil {
		t.Fatal(err)
	}
	node.Record = signed
	if renewed.Set, err = n.Set.Rotate(n.Network.Genesis, signed); err != nil {
		t.Fatal(err)
	}
	return &renewed, &record.KeyRotateLeaf{Record: signed}
}

// Chain is a new chain of the network over a Memory of its own.
func (n *Network) Chain(t testing.TB) *chain.Chain {
	t.Helper()
	return n.Open(t, new(Memory))
}

// Open opens the network's chain over a backend.
func (n *Network) Open(t testing.TB, backend chain.Backend) *chain.Chain {
	t.Helper()
	c, err := chain.New(backend, n.GenesisLeaf)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// All are the indexes of all nodes.
func (n *Network) All() []int {
	all := make([]int, len(n.Nodes))
	for i := range all {
		all[i] = i
	}
	return all
}

func (n *Network) some(who []int) []int {
	if len(who) > 0 {
		sort.Ints(who)
		return who
	}
	return n.All()
}

// Now is the time at which Propose makes the chain's next block.
func (n *Network) Now(c *chain.Chain) time.Time {
	return time.UnixMilli(max(c.Time(), Start) + Interval)
}

// Propose makes the next block as the member whose turn it is, now. It fails
// the test if a candidate was left out.
func (n *Network) Propose(t testing.TB, c *chain.Chain, candidates ...[]record.Leaf) *record.Block {
	t.Helper()
	return n.ProposeAt(t, c, n.Now(c), candidates...)
}

// ProposeAt is Propose at another time.
func (n *Network) ProposeAt(t testing.TB, c *chain.Chain, now time.Time, candidates ...[]record.Leaf) *record.Block {
	t.Helper()
	proposer := n.Node(n.Set.Proposer(c.Height()+1, 0))
	block, err := c.Propose(candidates, proposer.ID, now, proposer.Signers.Log)
	if err != nil {
		t.Fatal(err)
	}
	leaves := 1
	for _, candidate := range candidates {
		leaves += len(candidate)
	}
	if len(block.Leaves) != leaves {
		t.Fatalf("block %d has %d leaves of %d: a candidate was left out", c.Height()+1, len(block.Leaves), leaves)
	}
	return block
}

// Node is the member of an identity.
func (n *Network) Node(id record.Identity) Node {
	for _, node := range n.Nodes {
		if node.ID == id {
			return node
		}
	}
	panic("chaintest: no node " + id)
}

// Cosign are the cosignatures of the given members, or of the first Q, on the
// block that follows the chain's end.
func (n *Network) Cosign(t testing.TB, c *chain.Chain, block *record.Block, who ...int) []record.Cosignature {
	t.Helper()
	header, err := block.Header()
	if err != nil {
		t.Fatal(err)
	}
	if len(who) == 0 {
		who = n.All()[:n.Set.Quorum()]
	}
	checkpoint := block.Checkpoint(n.Origin(), c.Frontier())
	var cosignatures []record.Cosignature
	for _, i := range who {
		cosignature, err := record.SignCosignature(checkpoint, n.Nodes[i].ID, header.Time/1000+int64(i), n.Nodes[i].Signers.Cosigner)
		if err != nil {
			t.Fatal(err)
		}
		cosignatures = append(cosignatures, cosignature)
	}
	return cosignatures
}

// Certify certifies a block by the given members, or by the first Q.
func (n *Network) Certify(t testing.TB, c *chain.Chain, block *record.Block, who ...int) *record.Certified {
	t.Helper()
	certified, err := record.Certify(n.Network, n.Set, c.Frontier(), block, n.Cosign(t, c, block, who...))
	if err != nil {
		t.Fatal(err)
	}
	return certified
}

// Append proposes, certifies and appends the next block, which holds all of
// the candidates. Without a candidate the block is empty.
func (n *Network) Append(t testing.TB, c *chain.Chain, candidates ...[]record.Leaf) *record.Certified {
	t.Helper()
	return n.AppendBlock(t, c, n.Propose(t, c, candidates...))
}

// AppendBlock certifies and appends a block.
func (n *Network) AppendBlock(t testing.TB, c *chain.Chain, block *record.Block) *record.Certified {
	t.Helper()
	certified := n.Certify(t, c, block)
	if err := c.Append(certified); err != nil {
		t.Fatal(err)
	}
	return certified
}

// Resign signs a block anew that a test altered: as its header's proposer.
func (n *Network) Resign(t testing.TB, c *chain.Chain, block *record.Block) *record.Block {
	t.Helper()
	header, err := block.Header()
	if err != nil {
		t.Fatal(err)
	}
	signature, err := record.SignLog(block.Checkpoint(n.Origin(), c.Frontier()), n.Node(header.Proposer).Signers.Log)
	if err != nil {
		t.Fatal(err)
	}
	return &record.Block{Leaves: block.Leaves, LogSignature: signature}
}

// Force makes the next block of leaves that Propose would leave out: it applies
// no rule.
func (n *Network) Force(t testing.TB, c *chain.Chain, leaves ...record.Leaf) *record.Block {
	t.Helper()
	header := &record.Header{
		Height: c.Height() + 1, PreviousSize: c.Size(), PreviousRoot: c.Frontier().Root(), Time: n.Now(c).UnixMilli(),
		Proposer: n.Set.Proposer(c.Height()+1, 0), Set: c.Set().Hash(), NextSet: c.NextSet().Hash(),
	}
	block := new(record.Block)
	for _, leaf := range append(leaves, header) {
		data, err := record.EncodeLeaf(leaf)
		if err != nil {
			t.Fatal(err)
		}
		block.Leaves = append(block.Leaves, data)
	}
	return n.Resign(t, c, block)
}
