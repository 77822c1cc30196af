package chain

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
	"golang.org/x/mod/sumdb/tlog"
)

// ErrDamaged is wrapped where the stored chain contradicts itself: a broken
// disk, or a copy of the file that was taken while it was written to.
var ErrDamaged = errors.New("the chain file is damaged; move it away and start again, and the node fetches the chain from its peers")

// checkEnd holds the end of the chain to what its quorum signed: the stored
// hashes have the head's root, and that is the checkpoint's. It reads a few
// hashes, however long the chain.
func (c *Chain) checkEnd(r ledger.Reader, h head, entry blockEntry) error {
	if h.Height < 0 || h.Frontier.Size != entry.Size {
		return fmt.Errorf("%w: block %d ends at leaf %d, the log at %d", ErrDamaged, h.Height, entry.Size, h.Frontier.Size)
	}
	root, err := tlog.TreeHash(h.Frontier.Size, hashReader{r})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if record.Hash(root) != h.Frontier.Root() {
		return fmt.Errorf("%w: the stored hashes have another root than the log's end", ErrDamaged)
	}
	if h.Height == 0 {
		return nil
	}
	set, err := ledger.SetAt(r, h.Height)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	signed, err := record.OpenCheckpoint(entry.Note, c.network.Name, c.network.Genesis, set)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if signed.Size != h.Frontier.Size || signed.Root != h.Frontier.Root() {
		return fmt.Errorf("%w: the last checkpoint is of another log", ErrDamaged)
	}
	return nil
}

// Check verifies everything that is stored, as if it came from a stranger:
// every block by its quorum and every rule, and that the state is what the
// leaves add up to. It takes memory for a second state, and as long as a sync.
// Blocks that are appended while it runs are not looked at. report, if it is not
// nil, is told after each block how many are checked, of how many.
func (c *Chain) Check(ctx context.Context, report func(done, all int64)) error {
	c.mu.RLock()
	end, beyond := c.head, c.followed
	c.mu.RUnlock()
	all := max(end.Height, beyond.Height)
	again := newOverlay(nothing{})
	replay := &Chain{network: c.network, genesis: c.genesis}
	genesis, err := c.Leaf(0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	_, set, err := record.OpenGenesis(genesis)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := replay.found(again, genesis, set); err != nil {
		return err
	}
	r := &replaying{adoption: adoption{c: replay, head: replay.head}, state: again}
	for height := int64(1); height <= all; height++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if height == end.Height+1 {
			r.state = newOverlay(again) // what is only followed has no part in the stored state
		}
		if err := c.replay(r, again, height, height > end.Height); err != nil {
			return fmt.Errorf("%w: block %d: %w", ErrDamaged, height, err)
		}
		if report != nil {
			report(height, all)
		}
	}
	err = c.backend.View(func(reader ledger.Reader) error { return holds(reader, end, beyond, r.followed, again) })
	if err != nil {
		return err
	}
	return c.Halted()
}

// replaying makes the stored chain a second time, by every rule; and its log, where
// that is followed further than the chain, by what is checked of it then.
type replaying struct {
	adoption
	state *overlay
}

func (c *Chain) replay(r *replaying, again *overlay, height int64, beyond bool) error {
	data, err := c.Block(height)
	if err != nil {
		return err
	}
	certified, err := record.VerifyBlock(c.network, r.head.set, r.head.Frontier, data)
	if err != nil {
		return err
	}
	if beyond {
		end, err := r.end(again)
		if err != nil {
			return err
		}
		if err := r.follow(again, end, certified); err != nil {
			return err
		}
	}
	r.head, err = r.c.write(r.state, r.head, certified)
	return err
}

// holds tells whether a reader holds the state at the head, as it was made again. A
// block or a fork that came since is in the reader only, and is no damage: so all of
// it is read in one transaction.
func holds(r ledger.Reader, end head, beyond, made followed, again *overlay) error {
	var stored head
	var further followed
	if err := errors.Join(ledger.GetJSON(r, bucketMeta, headKey, &stored), ledger.GetJSON(r, bucketMeta, followedKey, &further)); err != nil {
		return fmt.Errorf("%w: its end: %w", ErrDamaged, err)
	}
	if stored.Height > end.Height || further.Height != beyond.Height || r.Get(bucketMeta, forkKey) != nil {
		return nil // the state moved on; what stands in blocks was checked
	}
	if err := ledger.PutJSON(again, bucketMeta, followedKey, made); err != nil {
		return err
	}
	return again.equal(r)
}

// nothing is the state before the genesis.
type nothing struct{}

func (nothing) Get(string, []byte) []byte                         { return nil }
func (nothing) Scan(string, []byte, func(key, value []byte) bool) {}

// equal tells whether a reader holds exactly the overlay's values.
func (o *overlay) equal(r ledger.Reader) error {
	for _, bucket := range Buckets {
		stored, wrong := 0, ""
		r.Scan(bucket, nil, func(key, value []byte) bool {
			stored++
			if want, ok := o.changes[bucket][string(key)]; !ok || !bytes.Equal(want, value) {
				wrong = fmt.Sprintf("%x", key)
			}
			return wrong == ""
		})
		if wrong != "" || stored != len(o.changes[bucket]) {
			return fmt.Errorf("%w: %s does not hold what the leaves add up to (%d entries of %d, entry %q)", ErrDamaged, bucket, stored, len(o.changes[bucket]), wrong)
		}
	}
	return nil
}
