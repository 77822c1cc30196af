package node

import (
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/ledger"
)

// branches are two chains with equal blocks up to a height, and others after it.
func branches(t *testing.T, equal, more, theirMore int) (ours, theirs *chain.Chain) {
	t.Helper()
	network := chaintest.New(t, 3)
	ours, theirs = network.Chain(t), network.Chain(t)
	for range equal {
		network.Append(t, ours)
	}
	chaintest.Sync(t, ours, theirs)
	for range more {
		network.Append(t, ours)
	}
	for range theirMore {
		later := network.ProposeAt(t, theirs, network.Now(theirs).Add(time.Minute))
		if err := theirs.Append(network.Certify(t, theirs, later, 1, 2)); err != nil {
			t.Fatal(err)
		}
	}
	return ours, theirs
}

func blocksOf(t *testing.T, c *chain.Chain, from, to int64) (blocks [][]byte) {
	t.Helper()
	for height := from; height <= to; height++ {
		data, err := c.Block(height)
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, data)
	}
	return blocks
}

// TestForkBehind: another branch is seen also where it is not longer than this
// one, and the first block that differs halts the chain.
func TestForkBehind(t *testing.T) {
	for _, row := range []struct{ equal, more, theirs int }{
		{3, 1, 1}, {3, 5, 1}, {3, 5, 4}, {0, 4, 2}, {9, 2, 2}, {9, 2, 5},
	} {
		ours, theirs := branches(t, row.equal, row.more, row.theirs)
		n := &Node{chain: ours, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
		var next, brought atomic.Int64
		// The follow began while both had but one block after the equal ones.
		next.Store(int64(max(1, row.equal)))
		height := ours.Height()
		err := n.take(blocksOf(t, theirs, next.Load(), theirs.Height()), &next, &brought)
		if !errors.Is(err, errWrong) || next.Load() != int64(row.equal+1) || brought.Load() != 0 {
			t.Errorf("%v: %v at block %d", row, err, next.Load())
		}
		err = compareWith(ours, next.Load(), theirs.Block)
		var fork *chain.Fork
		if !errors.As(err, &fork) || fork.Height != int64(row.equal+1) || ours.Halted() == nil || ours.Height() != height {
			t.Errorf("%v: %v", row, err)
		}
	}
}

// TestForkLater: a block far after the fork is enough to find it, and heights that
// the other branch does not have are not asked for.
func TestForkLater(t *testing.T) {
	ours, theirs := branches(t, 6, 9, 4)
	if err := compareWith(ours, theirs.Height(), theirs.Block); !errors.Is(err, chain.ErrForked) {
		t.Error(err)
	}
}

// TestTakeKnown: the same blocks from two peers are taken once, and are no fork.
func TestTakeKnown(t *testing.T) {
	ours, theirs := branches(t, 4, 0, 3)
	n := &Node{chain: ours}
	for i := range 2 {
		var next, brought atomic.Int64
		next.Store(3)
		if err := n.take(blocksOf(t, theirs, 3, 7), &next, &brought); err != nil || next.Load() != 8 {
			t.Errorf("%v, next %d", err, next.Load())
		}
		if want := int64(3 - 3*i); brought.Load() != want {
			t.Errorf("time %d: it brought %d", i, brought.Load())
		}
	}
}

// fullDisk is a chain's file that takes nothing any more.
type fullDisk struct {
	chain.Backend
	full bool
}

func (d *fullDisk) Update(change func(ledger.Tx) error) error {
	if d.full {
		return errors.New("no space left on device")
	}
	return d.Backend.Update(change)
}

// TestOwnDiskIsNoPeersFault: who sends a block that this node cannot store is not
// shunned for it, and a wrong block is wrong.
func TestOwnDiskIsNoPeersFault(t *testing.T) {
	network := chaintest.New(t, 3)
	theirs, disk := network.Chain(t), &fullDisk{Backend: new(chaintest.Memory)}
	n := &Node{chain: network.Open(t, disk)}
	for range 3 {
		network.Append(t, theirs)
	}
	blocks := blocksOf(t, theirs, 1, 3)
	var next, brought atomic.Int64
	next.Store(1)
	disk.full = true
	if err := n.take(blocks, &next, &brought); !errors.Is(err, errOwn) || errors.Is(err, errWrong) {
		t.Errorf("with a full disk: %v", err)
	}
	disk.full = false
	wrong := slices.Clone(blocks[0])
	wrong[len(wrong)-5] ^= 1
	if err := n.take([][]byte{wrong}, &next, &brought); !errors.Is(err, errWrong) {
		t.Errorf("a wrong block: %v", err)
	}
	if err := n.take(blocks, &next, &brought); err != nil || brought.Load() != 3 {
		t.Errorf("with room again: %v, %d blocks", err, brought.Load())
	}
}
