package chain

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

// History is how old a block is by its header's time when its leaves' own
// signatures may be checked after it was appended: a node that syncs a long log
// is soon at its end, and serves nothing before all of them are checked.
const History = 10 * time.Minute

// maxAdopted is how many blocks one transaction takes: each costs a sync of the
// disk. A crash loses those of one transaction, which are fetched again.
const maxAdopted = 64

// Adopt adds certified blocks from their wire forms, in order, as many as follow
// the chain's end, and tells how many these were. Every block is verified by its
// quorum and every rule; the signatures in the leaves of blocks that are older than
// History wait for CheckSignatures. An error is of the first block that was not
// added; those before it are durable.
func (c *Chain) Adopt(blocks [][]byte, now time.Time) (added int, err error) {
	for err == nil && len(blocks) > 0 {
		batch := blocks[:min(len(blocks), maxAdopted)]
		blocks = blocks[len(batch):]
		var good int
		good, err = c.adopt(batch, now)
		if err != nil && good > 0 {
			// What refused a block undid the transaction of those before it.
			var again error
			good, again = c.adopt(batch[:good], now)
			err = errors.Join(again, err)
		}
		added += good
	}
	return added, err
}

// adopt adds all of the blocks in one transaction, or none: then good is how many
// were so before the error.
func (c *Chain) adopt(blocks [][]byte, now time.Time) (good int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fork != nil {
		return 0, c.fork
	}
	next, note := c.head, c.note
	err = c.backend.Update(func(tx ledger.Tx) error {
		for _, data := range blocks {
			certified, err := record.VerifyBlock(c.network, next.set, next.Frontier, data)
			if err != nil {
				return err
			}
			old := now.UnixMilli()-certified.Header().Time > History.Milliseconds()
			if next, err = c.write(tx, next, certified, old); err != nil {
				return err
			}
			note = certified.Note()
			good++
		}
		return nil
	})
	if err != nil {
		return good, fmt.Errorf("append block %d: %w", c.head.Height+int64(good)+1, err)
	}
	c.advance(next, note)
	return good, nil
}

// Signed is the height up to which the leaves' own signatures are checked.
func (c *Chain) Signed() int64 { return c.snapshot().Signed }

// CheckSignatures checks the signatures that Adopt left, on all processors, and
// keeps how far it is, so that a restart goes on there. It returns at the chain's
// end. A signature that does not verify though a quorum signed the log that holds
// it is ErrInvalid: the members lied, and nothing of this log can be trusted.
func (c *Chain) CheckSignatures(ctx context.Context) error {
	for {
		end := c.snapshot()
		from := end.Signed + 1
		if from > end.Height {
			return nil
		}
		to := min(end.Height, from+signatureBatch-1)
		if err := c.checkBlocks(ctx, from, to); err != nil {
			return err
		}
		if err := c.setSigned(to); err != nil {
			return err
		}
	}
}

// signatureBatch is how many blocks are checked between two notes of it.
const signatureBatch = 256

func (c *Chain) checkBlocks(ctx context.Context, from, to int64) error {
	heights := make(chan int64)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for height := range heights {
				if err := c.checkBlock(height); err != nil {
					cancel(err)
				}
			}
		})
	}
	for height := from; height <= to && ctx.Err() == nil; height++ {
		select {
		case heights <- height:
		case <-ctx.Done():
		}
	}
	close(heights)
	workers.Wait()
	return context.Cause(ctx)
}

func (c *Chain) checkBlock(height int64) error {
	var set *record.Set
	var leaves [][]byte
	err := c.backend.View(func(r ledger.Reader) (err error) {
		if set, err = ledger.SetAt(r, height); err != nil {
			return err
		}
		var previous, entry blockEntry
		if err := errors.Join(ledger.GetJSON(r, bucketBlocks, be64(height-1), &previous), ledger.GetJSON(r, bucketBlocks, be64(height), &entry)); err != nil {
			return err
		}
		for index := previous.Size; index < entry.Size; index++ {
			leaves = append(leaves, append([]byte(nil), r.Get(bucketLeaves, be64(index))...))
		}
		return nil
	})
	for _, data := range leaves {
		leaf, decoding := record.DecodeLeaf(data)
		if err = errors.Join(err, decoding); err != nil {
			break
		}
		if err = record.CheckSignatures(leaf, c.network.Genesis, set, height); err != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("%w: signatures of block %d: %w", ErrInvalid, height, err)
	}
	return nil
}

func (c *Chain) setSigned(height int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.head
	next.Signed = height
	if err := c.backend.Update(func(tx ledger.Tx) error { return ledger.PutJSON(tx, bucketMeta, headKey, next) }); err != nil {
		return fmt.Errorf("keep which signatures are checked: %w", err)
	}
	c.advance(next, c.note)
	return nil
}
