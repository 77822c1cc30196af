package chain

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
	"golang.org/x/mod/sumdb/tlog"
)

// ErrForked is wrapped by Append once two certified blocks of one height are
// known: members lied, and which branch goes on is for people to decide
// (docs/protocol.md, "Two certified blocks of one height").
var ErrForked = errors.New("the log is forked")

// ErrBelowPin says of another node's certified block that it is not this chain's,
// at a height that the pinned checkpoint decides.
var ErrBelowPin = errors.New("it is another block than here, and the pinned checkpoint decides between them")

var forkKey = []byte("fork") // in bucketMeta

// Fork is two certified blocks of one height, with the same blocks before them.
type Fork struct {
	Height   int64             `json:"height"`
	Ours     []byte            `json:"ours"`     // wire form of the certified block on this chain
	Theirs   []byte            `json:"theirs"`   // and of the other one
	Culprits []record.Identity `json:"culprits"` // who cosigned both
}

// Error says what happened and what to do.
func (f *Fork) Error() string {
	return fmt.Sprintf("%v: two different blocks of height %d are certified, and %d members signed both: %v; this node appends nothing more. Agree with the other operators on the last good block, and found the network anew from it without them",
		ErrForked, f.Height, len(f.Culprits), f.Culprits)
}

// Unwrap makes a Fork an ErrForked.
func (f *Fork) Unwrap() error { return ErrForked }

// Halted is the *Fork that this chain knows of, nil for none.
func (c *Chain) Halted() error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.fork == nil {
		return nil
	}
	return c.fork
}

// Holds tells whether a certified block's wire form is of the block that this chain
// has at a height. It looks at the leaves, the header among them, and verifies no
// signature: one block may have been signed by two quorums.
func (c *Chain) Holds(height int64, data []byte) (bool, error) {
	ours, err := c.Block(height)
	if err != nil {
		return false, err
	}
	own, err := leaves(ours)
	if err != nil {
		return false, fmt.Errorf("%w: block %d: %w", ErrDamaged, height, err)
	}
	theirs, err := leaves(data)
	if err != nil {
		return false, nil // what is no block is not this one
	}
	return slices.EqualFunc(own, theirs, bytes.Equal), nil
}

// leaves are those of a certified block's wire form.
func leaves(data []byte) ([][]byte, error) {
	if len(data) < 4 || uint32(len(data)-4) < binary.BigEndian.Uint32(data) {
		return nil, errors.New("cut short")
	}
	block, err := record.DecodeBlock(data[4+binary.BigEndian.Uint32(data):])
	if err != nil {
		return nil, err
	}
	return block.Leaves, nil
}

// Compare holds another node's certified block of a height that this chain has
// to its own. same tells whether it is the same block. A block that is certified
// and is another one, after the same blocks, is a *Fork: the chain halts, durably
// before Compare returns it; but at or below a pinned checkpoint it is just wrong,
// ErrBelowPin. Any other error says that the block is not what follows the block
// before it here.
func (c *Chain) Compare(height int64, data []byte) (same bool, err error) {
	set, before, err := c.before(height)
	if err != nil {
		return false, err
	}
	theirs, err := record.VerifyBlock(c.network, set, before, data)
	if err != nil {
		return false, fmt.Errorf("block %d: %w", height, err)
	}
	ours, err := c.Block(height)
	if err != nil {
		return false, err
	}
	own, err := record.VerifyBlock(c.network, set, before, ours)
	if err != nil {
		return false, fmt.Errorf("%w: block %d: %w", ErrDamaged, height, err)
	}
	if own.Checkpoint().Checkpoint == theirs.Checkpoint().Checkpoint {
		return true, nil
	}
	// Keys that were stolen after their time certify old blocks as well as ever. A
	// pin is there to hold against them, so they must not halt who has one.
	if pin := c.pin.Load(); pin != nil && own.Checkpoint().Size <= pin.Size {
		return false, fmt.Errorf("block %d: %w", height, ErrBelowPin)
	}
	fork := &Fork{Height: height, Ours: ours, Theirs: data}
	for _, a := range own.Checkpoint().Cosignatures {
		for _, b := range theirs.Checkpoint().Cosignatures {
			if a.Identity == b.Identity {
				fork.Culprits = append(fork.Culprits, a.Identity)
			}
		}
	}
	return false, c.halt(fork)
}

// halt keeps the fork, and returns it.
func (c *Chain) halt(fork *Fork) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fork != nil {
		return c.fork
	}
	if err := c.backend.Update(func(tx ledger.Tx) error { return ledger.PutJSON(tx, bucketMeta, forkKey, fork) }); err != nil {
		return fmt.Errorf("keep a fork: %w", err)
	}
	c.fork = fork
	return fork
}

// loadFork reads what an earlier run found.
func (c *Chain) loadFork(r ledger.Reader) error {
	fork := new(Fork)
	err := ledger.GetJSON(r, bucketMeta, forkKey, fork)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: its fork: %w", ErrDamaged, err)
	}
	c.fork = fork
	return nil
}

// before is what the block of a height that the chain has followed on.
func (c *Chain) before(height int64) (*record.Set, record.Frontier, error) {
	var set *record.Set
	var frontier record.Frontier
	known := c.ahead()
	err := c.backend.View(func(r ledger.Reader) (err error) {
		var entry blockEntry
		if err := ledger.GetJSON(r, bucketBlocks, be64(height-1), &entry); err != nil {
			return fmt.Errorf("block %d: %w", height-1, err)
		}
		_, sets, err := c.storedSets(r, known)
		if err != nil {
			return err
		}
		if set, err = ledger.SetAt(sets, height); err != nil {
			return err
		}
		frontier, err = frontierAt(r, entry.Size)
		return err
	})
	return set, frontier, err
}

// frontierAt is the right edge of the log when it had a size, from the stored
// hashes: the roots of its complete subtrees, largest first (RFC 6962 §2.1).
func frontierAt(r ledger.Reader, size int64) (record.Frontier, error) {
	frontier := record.Frontier{Size: size}
	var indexes []int64
	var at int64
	for level := 62; level >= 0; level-- {
		if width := int64(1) << level; size&width != 0 {
			indexes = append(indexes, tlog.StoredHashIndex(level, at>>level))
			at += width
		}
	}
	hashes, err := hashReader{r}.ReadHashes(indexes)
	for _, hash := range hashes {
		frontier.Hashes = append(frontier.Hashes, record.Hash(hash))
	}
	return frontier, err
}
