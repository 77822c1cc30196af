package chain_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/record"
)

// wire are the wire forms of a chain's blocks from a height on.
func wire(t *testing.T, c *chain.Chain, from int64) (blocks [][]byte) {
	t.Helper()
	for height := from; height <= c.Height(); height++ {
		blocks = append(blocks, block(t, c, height))
	}
	return blocks
}

// TestAdopt: a long log is followed at once, its leaves' signatures are checked
// after that, and the state is the same.
func TestAdopt(t *testing.T) {
	n := chaintest.New(t, 3)
	c := n.Chain(t)
	n.Story(t, c)
	for range 150 {
		n.Append(t, c)
	}
	backend := new(chaintest.Memory)
	follower := n.Open(t, backend)
	later := time.UnixMilli(c.Time()).Add(chain.History + time.Second)
	added, err := follower.Adopt(wire(t, c, 1), later)
	if err != nil || int64(added) != c.Height() {
		t.Fatalf("%d of %d blocks, %v", added, c.Height(), err)
	}
	chaintest.Equal(t, c, follower)
	if follower.Signed() != 0 {
		t.Errorf("signatures up to %d are said to be checked", follower.Signed())
	}
	follower = n.Open(t, backend)
	if err := follower.CheckSignatures(t.Context()); err != nil || follower.Signed() != follower.Height() {
		t.Errorf("checked up to %d of %d, %v", follower.Signed(), follower.Height(), err)
	}
	n.Append(t, follower)
	if follower = n.Open(t, backend); follower.Signed() != follower.Height() {
		t.Errorf("a block that was appended with all checks counts as unchecked")
	}
	if err := follower.Check(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// TestAdoptStopsAtTheFirstWrongBlock: what is before it is kept.
func TestAdoptStopsAtTheFirstWrongBlock(t *testing.T) {
	n := chaintest.New(t, 3)
	c := n.Chain(t)
	for range 100 {
		n.Append(t, c)
	}
	blocks := wire(t, c, 1)
	for _, wrong := range []int{0, 1, 63, 64, 65, 99} {
		altered := slices.Clone(blocks)
		altered[wrong] = slices.Clone(altered[wrong])
		altered[wrong][len(altered[wrong])-20] ^= 1
		backend := new(chaintest.Memory)
		follower := n.Open(t, backend)
		added, err := follower.Adopt(altered, n.Now(c))
		if err == nil || added != wrong || follower.Height() != int64(wrong) {
			t.Errorf("block %d is wrong: %d added, height %d, %v", wrong+1, added, follower.Height(), err)
		}
		follower = n.Open(t, backend)
		if added, err := follower.Adopt(blocks[follower.Height():], n.Now(c)); err != nil || follower.Height() != 100 {
			t.Errorf("then %d more: %v", added, err)
		}
		chaintest.Equal(t, c, follower)
	}
}

// forge are blocks that a quorum certified though a leaf in them is signed wrongly:
// one for each kind of leaf.
func forge(t *testing.T) (n *chaintest.Network, forged map[string][][]byte, at time.Time) {
	t.Helper()
	n = chaintest.New(t, 3)
	const pkg artifact.PURL = "pkg:generic/a@1"
	forged = map[string][][]byte{}
	for _, kind := range []string{"recipe", "attempt", "commits", "publish", "attest"} {
		c := n.Chain(t)
		spoil := func(of string, leaf record.Leaf, signature *record.Signature) bool {
			if kind != of {
				n.Append(t, c, chaintest.One(leaf))
				return false
			}
			signature[0] ^= 1
			block := n.Force(t, c, leaf)
			forged[kind] = append(wire(t, c, 1), n.Certify(t, c, block).Encode())
			return true
		}
		recipe := chaintest.Recipe(pkg, "a")
		endorsed := n.Endorse(c, recipe.Change())
		if spoil("recipe", endorsed, &endorsed.Endorsements[1].Signature) {
			continue
		}
		held := n.Hold(n.Attempt(c, recipe.Hash(), 1))
		if spoil("attempt", held, &held.Holdings[1].Signature) {
			continue
		}
		a, err := c.Newest(recipe.Hash(), chaintest.Platform)
		if err != nil {
			t.Fatal(err)
		}
		votes := n.Votes(t, a.ID, []record.Subject{chaintest.File(pkg, "a", []byte("a"))}, []record.Subject{chaintest.File(pkg, "a", []byte("a"))}, []record.Subject{chaintest.File(pkg, "a", []byte("b"))})
		commits := votes.Commits()
		if spoil("commits", commits, &commits.Commits[1].Signature) {
			continue
		}
		publish := votes.Publish(0, 1)[0].(*record.PublishLeaf)
		if spoil("publish", publish, &publish.Envelope.Signatures[1].Sig) {
			continue
		}
		attest := votes.Attest(2)
		spoil("attest", attest, &attest.Envelope.Signatures[0].Sig)
		at = n.Now(c)
	}
	return n, forged, at
}

// TestForgedSignatures: whether a signature is checked at once or later, a wrong one
// is found, of every kind of leaf.
func TestForgedSignatures(t *testing.T) {
	n, forged, at := forge(t)
	for kind, blocks := range forged {
		if added, err := n.Chain(t).Adopt(blocks, at); err == nil || added != len(blocks)-1 {
			t.Errorf("%s: a block of now is taken: %d of %d, %v", kind, added, len(blocks), err)
		}
		old := n.Chain(t)
		if added, err := old.Adopt(blocks, at.Add(chain.History+time.Minute)); err != nil {
			t.Errorf("%s: %d of %d, %v", kind, added, len(blocks), err)
			continue
		}
		if err := old.CheckSignatures(t.Context()); !errors.Is(err, chain.ErrInvalid) || old.Signed() == old.Height() {
			t.Errorf("%s: %v, checked up to %d of %d", kind, err, old.Signed(), old.Height())
		}
		if err := old.Check(t.Context(), nil); err == nil {
			t.Errorf("%s: the whole check finds nothing", kind)
		}
	}
}
