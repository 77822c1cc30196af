package chain_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/ledger"
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

// TestAdopt: a long log is followed at once, its leaves are checked after that, over
// restarts, and the state is the same.
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
	if follower.Height() != 0 || follower.Followed() != c.Height() {
		t.Errorf("blocks up to %d of %d are said to be checked", follower.Height(), follower.Followed())
	}
	if attempts, err := follower.Attempts(); err != nil || len(attempts) != 0 {
		t.Errorf("it knows %d attempts of leaves that it has not looked at, %v", len(attempts), err)
	}
	follower = n.Open(t, backend)
	if err := follower.Check(t.Context(), nil); err != nil || follower.Followed() != c.Height() {
		t.Errorf("after a restart: followed up to %d, %v", follower.Followed(), err)
	}
	if err := follower.CatchUp(t.Context()); err != nil || follower.Height() != c.Height() {
		t.Errorf("checked up to %d of %d, %v", follower.Height(), c.Height(), err)
	}
	chaintest.Equal(t, c, follower)
	n.Append(t, follower)
	if follower = n.Open(t, backend); follower.Followed() != c.Height()+1 {
		t.Errorf("followed up to %d", follower.Followed())
	}
	if err := follower.Check(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// TestAdoptRenewedKeys: the sets of a log that is followed are its own before its
// leaves are checked, over restarts and in any pieces.
func TestAdoptRenewedKeys(t *testing.T) {
	n := chaintest.New(t, 3)
	c := n.Chain(t)
	at := time.UnixMilli(chaintest.Start)
	for i := range 3 {
		n.Append(t, c)
		renewed, leaf := n.Renew(t, i)
		at = at.Add(3 * time.Hour)
		n.AppendBlock(t, c, n.ProposeAt(t, c, at, chaintest.One(leaf)))
		n.Append(t, c)
		n = renewed
		n.PublishFiles(t, c, artifact.PURL(fmt.Sprintf("pkg:generic/renewed%d@1", i)), map[string][]byte{"a": []byte("a")})
	}
	blocks := wire(t, c, 1)
	later := n.Now(c).Add(2 * chain.History)
	for piece := 1; piece <= len(blocks); piece++ {
		for caught := 0; caught < 2; caught++ {
			backend := new(chaintest.Memory)
			follower := n.Open(t, backend)
			for rest := blocks; len(rest) > 0; rest = rest[min(piece, len(rest)):] {
				if added, err := follower.Adopt(rest[:min(piece, len(rest))], later); err != nil {
					t.Fatalf("pieces of %d: %d more after %d, %v", piece, added, follower.Followed(), err)
				}
				follower = n.Open(t, backend)
				if caught == 0 {
					continue
				}
				if err := follower.CatchUp(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := follower.Check(t.Context(), nil); err != nil {
				t.Errorf("pieces of %d: %v", piece, err)
			}
			if err := follower.CatchUp(t.Context()); err != nil {
				t.Fatal(err)
			}
			chaintest.Equal(t, c, follower)
			if follower.Set().Hash() != n.Set.Hash() {
				t.Errorf("pieces of %d: another set", piece)
			}
		}
	}
	// What was followed is compared with other chains by its own sets.
	follower := n.Chain(t)
	if _, err := follower.Adopt(blocks, later); err != nil {
		t.Fatal(err)
	}
	for height, data := range blocks {
		if same, err := follower.Compare(int64(height)+1, data); !same || err != nil {
			t.Errorf("block %d: %v, %v", height+1, same, err)
		}
	}
	// And nothing is appended that a quorum of now decides before all is checked.
	next := n.Certify(t, c, n.Propose(t, c))
	if err := follower.Append(next); !errors.Is(err, chain.ErrStale) {
		t.Error(err)
	}
}

// TestCatchUpInterrupted: however often it is stopped, it goes on where it was.
func TestCatchUpInterrupted(t *testing.T) {
	n := chaintest.New(t, 3)
	c := n.Chain(t)
	n.Story(t, c)
	for range 300 {
		n.Append(t, c)
	}
	backend := new(chaintest.Memory)
	follower := n.Open(t, backend)
	if _, err := follower.Adopt(wire(t, c, 1), n.Now(c).Add(2*chain.History)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		follower.Wait(ctx, 1) //nolint:errcheck // it ends with the test
		cancel()
	}()
	if err := follower.CatchUp(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	follower = n.Open(t, backend)
	if err := errors.Join(follower.Check(t.Context(), nil), follower.CatchUp(t.Context())); err != nil || follower.Height() != c.Height() {
		t.Errorf("height %d of %d, %v", follower.Height(), c.Height(), err)
	}
	chaintest.Equal(t, c, follower)
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

// full is a backend whose disk is full when a transaction ends.
type full struct {
	*chaintest.Memory
	full bool
}

var errFull = errors.New("no space left")

func (f *full) Update(write func(ledger.Tx) error) error {
	return f.Memory.Update(func(tx ledger.Tx) error {
		if err := write(tx); err != nil || !f.full {
			return err
		}
		return errFull
	})
}

// TestDiskFailsWhileFollowing: nothing is said to be added that is not durable, and
// when there is room again it goes on.
func TestDiskFailsWhileFollowing(t *testing.T) {
	n, backend := chaintest.New(t, 3), &full{Memory: new(chaintest.Memory)}
	c := n.Chain(t)
	n.Story(t, c)
	blocks := wire(t, c, 1)
	for name, at := range map[string]time.Time{"appended": n.Now(c), "followed": n.Now(c).Add(2 * chain.History)} {
		backend.Memory = new(chaintest.Memory)
		follower := n.Open(t, backend)
		backend.full = true
		if added, err := follower.Adopt(blocks, at); added != 0 || !errors.Is(err, errFull) || follower.Followed() != 0 {
			t.Errorf("%s: %d added, %d followed, %v", name, added, follower.Followed(), err)
		}
		backend.full = false
		if added, err := follower.Adopt(blocks, at); added != len(blocks) || err != nil {
			t.Errorf("%s, with room: %d added, %v", name, added, err)
		}
		backend.full = true
		if err := follower.CatchUp(t.Context()); follower.Behind() && !errors.Is(err, errFull) {
			t.Errorf("%s: %v", name, err)
		}
		backend.full = false
		if err := errors.Join(follower.CatchUp(t.Context()), follower.Check(t.Context(), nil)); err != nil {
			t.Errorf("%s, with room: %v", name, err)
		}
		chaintest.Equal(t, c, follower)
	}
}

// TestDamagedWhileFollowed: a leaf that the disk altered is its fault, and not the
// members'.
func TestDamagedWhileFollowed(t *testing.T) {
	n, memory := chaintest.New(t, 3), new(chaintest.Memory)
	c := n.Chain(t)
	n.Story(t, c)
	follower := n.Open(t, memory)
	if _, err := follower.Adopt(wire(t, c, 1), n.Now(c).Add(2*chain.History)); err != nil {
		t.Fatal(err)
	}
	for index := int64(1); index < c.Size(); index++ {
		damaged := memory.Clone()
		err := damaged.Update(func(tx ledger.Tx) error {
			key := binary.BigEndian.AppendUint64(nil, uint64(index))
			value := bytes.Clone(tx.Get("leaves", key))
			value[len(value)/2] ^= 1
			return tx.Put("leaves", key, value)
		})
		if err != nil {
			t.Fatal(err)
		}
		again, err := chain.New(damaged, n.GenesisLeaf)
		if err == nil {
			err = again.CatchUp(t.Context())
		}
		if !errors.Is(err, chain.ErrDamaged) {
			t.Errorf("leaf %d: %v", index, err)
		}
	}
}

// TestForkWhileFollowed: a fork halts a chain that has yet to catch up, over restarts.
func TestForkWhileFollowed(t *testing.T) {
	_, ours, theirs, _ := forked(t, 3)
	n, backend := chaintest.New(t, 3), new(chaintest.Memory)
	follower := n.Open(t, backend)
	if _, err := follower.Adopt(wire(t, ours, 1), n.Now(ours).Add(2*chain.History)); err != nil {
		t.Fatal(err)
	}
	if _, err := follower.Compare(4, block(t, theirs, 4)); !errors.Is(err, chain.ErrForked) {
		t.Fatal(err)
	}
	for range 2 {
		if err := follower.CatchUp(t.Context()); !errors.Is(err, chain.ErrForked) || !follower.Behind() {
			t.Errorf("behind: %v, %v", follower.Behind(), err)
		}
		follower = n.Open(t, backend)
	}
}

// forge are blocks that a quorum certified though a leaf in them is signed wrongly:
// one for each kind of leaf.
func forge(t *testing.T) (n *chaintest.Network, forged map[string][][]byte, at time.Time) {
	t.Helper()
	n = chaintest.New(t, 3)
	const pkg artifact.PURL = "pkg:generic/a@1"
	forged = map[string][][]byte{}
	for _, kind := range []string{"recipe", "attempt", "commits", "publish", "attest", "evidence"} {
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
		if spoil("attest", attest, &attest.Envelope.Signatures[0].Sig) {
			continue
		}
		other := n.Votes(t, a.ID, []record.Subject{chaintest.File(pkg, "a", []byte("another"))})
		evidence := record.NewCommitEvidence(a.ID, votes.Commit(0), other.Commit(0))
		spoil("evidence", evidence, &evidence.Commits[1].Signature)
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
		if err := old.CatchUp(t.Context()); !errors.Is(err, chain.ErrInvalid) || old.Height() == old.Followed() {
			t.Errorf("%s: %v, checked up to %d of %d", kind, err, old.Height(), old.Followed())
		}
		if err := old.Check(t.Context(), nil); err == nil {
			t.Errorf("%s: the whole check finds nothing", kind)
		}
	}
}
