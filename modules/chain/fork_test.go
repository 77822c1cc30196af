package chain_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
	"golang.org/x/mod/sumdb/tlog"
)

// forked are two chains of one network with equal blocks up to a height, and
// different ones from there on.
func forked(t *testing.T, equal int) (n *chaintest.Network, ours, theirs *chain.Chain, backend *chaintest.Memory) {
	t.Helper()
	n, backend = chaintest.New(t, 3), new(chaintest.Memory)
	ours, theirs = n.Open(t, backend), n.Chain(t)
	for range equal {
		n.Append(t, ours)
	}
	chaintest.Sync(t, ours, theirs)
	for range 2 {
		n.Append(t, ours)
		later := n.ProposeAt(t, theirs, n.Now(theirs).Add(time.Minute))
		if err := theirs.Append(n.Certify(t, theirs, later, 1, 2)); err != nil {
			t.Fatal(err)
		}
	}
	return n, ours, theirs, backend
}

func block(t *testing.T, c *chain.Chain, height int64) []byte {
	t.Helper()
	data, err := c.Block(height)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestFork: the first different certified block halts the chain for good, and
// names who signed both.
func TestFork(t *testing.T) {
	n, ours, theirs, backend := forked(t, 3)
	for height := int64(1); height <= 3; height++ {
		if same, err := ours.Compare(height, block(t, theirs, height)); !same || err != nil {
			t.Errorf("block %d: %v, %v", height, same, err)
		}
	}
	if _, err := ours.Compare(5, block(t, theirs, 5)); err == nil || errors.Is(err, chain.ErrForked) {
		t.Errorf("a later block of another branch: %v", err)
	}
	if ours.Halted() != nil {
		t.Fatal("halted before a fork is proven")
	}
	same, err := ours.Compare(4, block(t, theirs, 4))
	var fork *chain.Fork
	if same || !errors.As(err, &fork) || !errors.Is(err, chain.ErrForked) {
		t.Fatalf("%v, %v", same, err)
	}
	if fork.Height != 4 || !slices.Equal(fork.Culprits, []record.Identity{n.Nodes[1].ID}) {
		t.Errorf("height %d, culprits %v", fork.Height, fork.Culprits)
	}
	for range 2 {
		next := n.Certify(t, ours, n.Propose(t, ours))
		if err := ours.Append(next); !errors.Is(err, chain.ErrForked) {
			t.Errorf("a forked chain takes a block: %v", err)
		}
		if err := ours.Halted(); !errors.Is(err, chain.ErrForked) || !strings.Contains(err.Error(), string(n.Nodes[1].ID)) {
			t.Errorf("halted: %v", err)
		}
		if err := ours.Check(t.Context(), nil); !errors.Is(err, chain.ErrForked) {
			t.Errorf("check: %v", err)
		}
		ours = n.Open(t, backend) // and so it is after a restart
	}
}

// TestForkBelowPin: a pinned checkpoint decides the heights up to its own, so that
// keys that were stolen after their time halt nothing with an old block.
func TestForkBelowPin(t *testing.T) {
	for name, test := range map[string]struct {
		pin    int64 // the height whose end is pinned
		beyond int64 // leaves after that
		halts  bool
	}{
		"at the block before": {pin: 3, halts: true},
		"at the block":        {pin: 4},
		"at the next block":   {pin: 5},
		"not reached yet":     {pin: 5, beyond: 10},
	} {
		_, ours, theirs, _ := forked(t, 3)
		size := test.pin + 1 // these blocks hold nothing but a header
		root, err := tlog.TreeHash(size, ours)
		if err != nil {
			t.Fatal(err)
		}
		if err := ours.Pin(&record.Checkpoint{Origin: ours.Network().Origin(), Size: size + test.beyond, Root: record.Hash(root)}); err != nil {
			t.Fatal(err)
		}
		if same, err := ours.Compare(3, block(t, theirs, 3)); !same || err != nil {
			t.Errorf("%s: the block before: %v, %v", name, same, err)
		}
		same, err := ours.Compare(4, block(t, theirs, 4))
		if same || errors.Is(err, chain.ErrForked) != test.halts || errors.Is(err, chain.ErrBelowPin) == test.halts {
			t.Errorf("%s: %v, %v", name, same, err)
		}
		if (ours.Halted() != nil) != test.halts {
			t.Errorf("%s: halted: %v", name, ours.Halted())
		}
	}
}

// TestHolds: a block is told from another one of its height, whoever signed it.
func TestHolds(t *testing.T) {
	n, ours, theirs, _ := forked(t, 3)
	for height := int64(1); height <= 5; height++ {
		if same, err := ours.Holds(height, block(t, theirs, height)); err != nil || same != (height <= 3) {
			t.Errorf("block %d: %v, %v", height, same, err)
		}
	}
	third := n.Chain(t)
	chaintest.Sync(t, theirs, third)
	next := n.Propose(t, theirs)
	if err := errors.Join(theirs.Append(n.Certify(t, theirs, next, 0, 1)), third.Append(n.Certify(t, third, next, 1, 2))); err != nil {
		t.Fatal(err)
	}
	data := block(t, third, 6)
	if same, err := theirs.Holds(6, data); !same || err != nil {
		t.Errorf("a block that another quorum signed: %v, %v", same, err)
	}
	for _, damaged := range [][]byte{nil, {1}, {255, 255, 255, 255}, data[:len(data)-1], append(slices.Clone(data), 0)} {
		if same, err := theirs.Holds(6, damaged); same || err != nil {
			t.Errorf("%d bytes: %v, %v", len(damaged), same, err)
		}
	}
	if _, err := ours.Holds(6, data); err == nil {
		t.Error("a block that is not there is the same")
	}
}

// TestCompareRefuses: what is not certified proves nothing.
func TestCompareRefuses(t *testing.T) {
	_, ours, theirs, _ := forked(t, 1)
	good := block(t, theirs, 2)
	for at := 0; at < len(good); at += 7 {
		data := slices.Clone(good)
		data[at] ^= 1
		if _, err := ours.Compare(2, data); err == nil || errors.Is(err, chain.ErrForked) {
			t.Fatalf("byte %d altered: %v", at, err)
		}
	}
	for _, height := range []int64{-1, 0, 1, 3, 4, 9} {
		if _, err := ours.Compare(height, good); err == nil || errors.Is(err, chain.ErrForked) {
			t.Errorf("as block %d: %v", height, err)
		}
	}
	// The rules are checked by a quorum before it signs; a certified block that
	// breaks one is a fork all the same.
	stranger := chaintest.New(t, 3, func(g *record.Genesis) { g.Salt = record.Hash{1} })
	foreign := stranger.Chain(t)
	stranger.Append(t, foreign)
	if _, err := ours.Compare(1, block(t, foreign, 1)); err == nil || errors.Is(err, chain.ErrForked) {
		t.Errorf("a block of another network: %v", err)
	}
	if ours.Halted() != nil {
		t.Error("halted without a proof")
	}
}

// TestForkDespiteDisk: a fork that cannot be kept is an error, and found again.
func TestForkDespiteDisk(t *testing.T) {
	n := chaintest.New(t, 3)
	_, _, theirs, _ := forked(t, 1)
	backend := &failing{Memory: new(chaintest.Memory)}
	ours := n.Open(t, backend)
	n.Append(t, ours)
	n.Append(t, ours)
	backend.fail = true
	if _, err := ours.Compare(2, block(t, theirs, 2)); err == nil || errors.Is(err, chain.ErrForked) || ours.Halted() != nil {
		t.Errorf("%v, halted %v", err, ours.Halted())
	}
	backend.fail = false
	if _, err := ours.Compare(2, block(t, theirs, 2)); !errors.Is(err, chain.ErrForked) {
		t.Error(err)
	}
}

// failing is a backend whose disk is full.
type failing struct {
	*chaintest.Memory
	fail bool
}

func (f *failing) Update(change func(ledger.Tx) error) error {
	if f.fail {
		return errors.New("no space left on device")
	}
	return f.Memory.Update(change)
}
