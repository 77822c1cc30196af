package chain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

// History is how old a block is by its header's time when its leaves may be checked
// after it was followed: a node that syncs a long log soon knows its end, and
// serves nothing before all of it is checked.
const History = 10 * time.Minute

// maxAdopted is how many blocks one transaction takes: each costs a sync of the
// disk. A crash loses those of one transaction, which are fetched again.
const maxAdopted = 64

// followed is the end of the log where it is further than the chain's: blocks whose
// hashes, headers and cosignatures are checked, and whose leaves are not. All that
// is done with their leaves is what the next headers need: the changes of the set.
type followed struct {
	Height   int64           `json:"height"` // 0: nothing is followed beyond the chain's end
	Time     int64           `json:"time"`
	Frontier record.Frontier `json:"frontier"`
	Changes  []setLeaf       `json:"changes"` // in blocks beyond the chain's end, in their order
}

// setLeaf is where a leaf stands that changes the set.
type setLeaf struct {
	Index  int64 `json:"index"`
	Height int64 `json:"height"`
	Time   int64 `json:"time"` // of its block
}

var followedKey = []byte("followed") // in bucketMeta

// Followed is the height up to which the log is here. Beyond Height its leaves have
// yet to be checked, by CatchUp.
func (c *Chain) Followed() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return max(c.head.Height, c.followed.Height)
}

// Behind tells whether the log is followed further than its leaves are checked.
func (c *Chain) Behind() bool { return c.followedNow().Height > 0 }

// WaitFollowed blocks until the log is followed up to the height.
func (c *Chain) WaitFollowed(ctx context.Context, height int64) error {
	return c.wait(ctx, func() bool { return max(c.head.Height, c.followed.Height) >= height })
}

// Adopt adds certified blocks from their wire forms, in order, as many as follow
// the log's end, and tells how many these were. Blocks that are older than History,
// and what comes after them, are followed: verified by their quorum, and their
// leaves are left for CatchUp. Others are appended by every rule. An error is of the
// first block that was not added; those before it are durable.
func (c *Chain) Adopt(blocks [][]byte, now time.Time) (added int, err error) {
	for err == nil && len(blocks) > 0 {
		batch := blocks[:min(len(blocks), maxAdopted)]
		blocks = blocks[len(batch):]
		var good int
		good, err = c.adopt(batch, now)
		if err != nil && good > 0 {
			// What refused a block undid the transaction of those before it.
			var again error
			if good, again = c.adopt(batch[:good], now); again != nil {
				good, err = 0, errors.Join(again, err)
			}
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
	a := adoption{c: c, now: now, head: c.head, note: c.note, followed: c.followed}
	var refused error
	err = c.backend.Update(func(tx ledger.Tx) error { good, refused = a.add(tx, blocks); return refused })
	if err != nil && refused == nil {
		good = 0 // the disk failed, not a block
	}
	if err != nil {
		return good, fmt.Errorf("append block %d: %w", max(c.head.Height, c.followed.Height)+int64(good)+1, err)
	}
	c.followed = a.followed
	if c.sets = nil; a.sets != nil {
		c.sets = a.sets.above(nothing{})
	}
	c.advance(a.head, a.note)
	return good, nil
}

// adoption is where one transaction of Adopt has come to.
type adoption struct {
	c        *Chain
	now      time.Time
	head     head
	note     []byte
	followed followed

	sets *overlay // the state with the changes of the set that are followed
	tip  *head    // the log's end with its sets, once a block was followed
}

func (a *adoption) add(tx ledger.Tx, blocks [][]byte) (good int, err error) {
	for _, data := range blocks {
		if err := a.one(tx, data); err != nil {
			return good, err
		}
		good++
	}
	if a.followed.Height == 0 {
		return good, nil
	}
	return good, ledger.PutJSON(tx, bucketMeta, followedKey, a.followed)
}

func (a *adoption) one(tx ledger.Tx, data []byte) error {
	end, err := a.end(tx)
	if err != nil {
		return err
	}
	certified, err := record.VerifyBlock(a.c.network, end.set, end.Frontier, data)
	if err != nil {
		return err
	}
	old := a.now.UnixMilli()-certified.Header().Time > History.Milliseconds()
	if old || a.followed.Height > 0 {
		return a.follow(tx, end, certified)
	}
	a.note = certified.Note()
	a.head, err = a.c.write(tx, a.head, certified)
	return err
}

// end is the log's end, as a block that follows it needs it.
func (a *adoption) end(tx ledger.Tx) (head, error) {
	if a.followed.Height == 0 {
		return a.head, nil
	}
	if a.tip != nil {
		return *a.tip, nil
	}
	a.sets = newOverlay(tx)
	if a.c.sets != nil {
		a.sets = a.c.sets.above(tx)
	}
	end := head{Height: a.followed.Height, Time: a.followed.Time, Frontier: a.followed.Frontier}
	return end, end.load(a.sets)
}

// follow stores a block after the log's end, and applies of its leaves what changes
// the set.
func (a *adoption) follow(tx ledger.Tx, end head, certified *record.Certified) error {
	header, block := certified.Header(), certified.Block()
	if err := a.c.checkHeader(header, end, block); err != nil {
		return err
	}
	if a.sets == nil {
		a.sets = newOverlay(tx)
	}
	next := followed{Height: header.Height, Time: header.Time, Frontier: end.Frontier.Clone(), Changes: a.followed.Changes}
	for i, data := range block.Leaves {
		if i < len(block.Leaves)-1 && bytes.HasSuffix(data, changesSet) {
			change := setLeaf{Index: next.Frontier.Size, Height: header.Height, Time: header.Time}
			if err := a.c.applyChange(a.sets, end.set, change, data); err != nil {
				return err
			}
			next.Changes = append(next.Changes[:len(next.Changes):len(next.Changes)], change)
		}
		if err := appendLeaf(tx, &next.Frontier, data); err != nil {
			return err
		}
	}
	if err := a.c.checkPin(end.Frontier, next.Frontier); err != nil {
		return err
	}
	tip := head{Height: next.Height, Time: next.Time, Frontier: next.Frontier, set: end.next, next: end.next}
	if len(next.Changes) > len(a.followed.Changes) {
		if err := tip.load(a.sets); err != nil {
			return err
		}
	}
	a.followed, a.tip = next, &tip
	return putBlock(tx, next.Height, next.Frontier.Size, certified)
}

// changesSet ends the leaves that change the set, and no others: a leaf's type
// stands at its end.
var changesSet = []byte(`,"type":"` + string(record.TypeKeyRotate) + `","version":1}`)

// applyChange applies a leaf that changes the set by the rules, in a state that is
// whole only where sets are concerned.
func (c *Chain) applyChange(sets *overlay, set *record.Set, at setLeaf, data []byte) error {
	leaf, err := record.DecodeLeaf(data)
	if err == nil {
		err = ledger.NewRules(sets, c.network, set, at.Height, at.Time).Apply(at.Index, record.LeafHash(data), leaf)
	}
	if err != nil {
		return fmt.Errorf("%w: leaf %d: %w", ErrInvalid, at.Index, err)
	}
	return nil
}

// followedSets is the state with the changes of the set that are followed. Nothing
// else of the leaves beyond the chain's end is in it.
func (c *Chain) followedSets(r ledger.Reader, f followed) (*overlay, error) {
	sets := newOverlay(r)
	for _, change := range f.Changes {
		set, err := ledger.SetAt(sets, change.Height)
		if err != nil {
			return nil, err
		}
		if err := c.applyChange(sets, set, change, r.Get(bucketLeaves, be64(change.Index))); err != nil {
			return nil, err
		}
	}
	return sets, nil
}

// ahead is what is followed beyond the chain's end, as this process knows it.
type ahead struct {
	followed followed
	sets     *overlay
}

// ahead must not be asked for in a transaction: Append holds the lock while it waits
// for those under way.
func (c *Chain) ahead() ahead {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return ahead{c.followed, c.sets}
}

// storedSets are followedSets as of a transaction: more may be followed there than
// the process knows, or less.
func (c *Chain) storedSets(r ledger.Reader, known ahead) (f followed, sets *overlay, err error) {
	if err := ledger.GetJSON(r, bucketMeta, followedKey, &f); err != nil {
		return f, nil, err
	}
	if f.Height == known.followed.Height && known.sets != nil {
		return f, known.sets.above(r), nil
	}
	sets, err = c.followedSets(r, f)
	return f, sets, err
}

// loadFollowed reads how far an earlier run followed, and holds it to what its
// quorum signed.
func (c *Chain) loadFollowed(r ledger.Reader) error {
	if err := ledger.GetJSON(r, bucketMeta, followedKey, &c.followed); err != nil {
		return fmt.Errorf("%w: how far it is followed: %w", ErrDamaged, err)
	}
	f := c.followed
	if f.Height == 0 {
		return nil
	}
	sets, err := c.followedSets(r, f)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	var entry blockEntry
	if err := ledger.GetJSON(r, bucketBlocks, be64(f.Height), &entry); err != nil {
		return fmt.Errorf("%w: block %d: %w", ErrDamaged, f.Height, err)
	}
	c.sets = sets.above(nothing{})
	return c.checkEnd(sets, head{Height: f.Height, Time: f.Time, Frontier: f.Frontier}, entry)
}

// CatchUp checks the leaves of the blocks that are followed, by every rule and
// every signature, and appends them; a restart goes on where it was. It returns when
// the chain's end is the log's. A leaf that is wrong though a quorum signed the log
// that holds it is ErrInvalid: the members lied, and nothing of this log can be
// trusted.
//
// The signatures of the next blocks are checked on all processors while the rules
// are applied to those before them.
func (c *Chain) CatchUp(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	batches := make(chan batch)
	var preparing sync.WaitGroup
	preparing.Go(func() { c.prepare(ctx, batches) })
	defer func() { cancel(); preparing.Wait() }()
	for b := range batches {
		if b.err != nil {
			return b.err
		}
		if err := c.catchUp(b.blocks); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// How much CatchUp appends in one transaction. A transaction holds the pages that
// it changes in memory, and its leaves are all over the state.
const (
	maxCaughtUp = 64
	maxLeaves   = 512     // a block with more has a transaction of its own
	maxBytes    = 4 << 20 // of leaves, likewise; as much again is prepared meanwhile
)

// batch are blocks whose signatures are checked.
type batch struct {
	blocks []prepared
	err    error
}

// prepared is a followed block with its leaves decoded and their signatures checked.
type prepared struct {
	height int64
	set    *record.Set
	block  *record.Block
	leaves []record.Leaf
}

// prepare gives the followed blocks in order, and closes the channel at the log's
// end.
func (c *Chain) prepare(ctx context.Context, batches chan<- batch) {
	defer close(batches)
	for height := c.Height() + 1; height <= c.followedNow().Height; {
		b := c.prepareFrom(height)
		select {
		case batches <- b:
		case <-ctx.Done():
			return
		}
		if b.err != nil || len(b.blocks) == 0 {
			return
		}
		height += int64(len(b.blocks))
	}
}

func (c *Chain) prepareFrom(height int64) (b batch) {
	known := c.ahead()
	b.err = c.backend.View(func(r ledger.Reader) (err error) {
		b.blocks, err = c.readFollowed(r, known, height)
		return err
	})
	if b.err == nil {
		b.err = c.checkBlocks(b.blocks)
	}
	return b
}

// readFollowed reads the next blocks beyond the chain's end, from a height on.
func (c *Chain) readFollowed(r ledger.Reader, known ahead, height int64) (blocks []prepared, err error) {
	var end head
	if err := ledger.GetJSON(r, bucketMeta, headKey, &end); err != nil {
		return nil, err
	}
	f, sets, err := c.storedSets(r, known)
	if err != nil {
		return nil, err
	}
	// What was appended since needs nothing more.
	height = max(height, end.Height+1)
	var set *record.Set
	for leaves, size := 0, 0; height <= f.Height && len(blocks) < maxCaughtUp && leaves < maxLeaves && size < maxBytes; height++ {
		// Changes up to the chain's end are no longer followed, and may take effect now.
		if set == nil || height <= end.Height+ledger.SetDelay || f.changesAt(height) {
			if set, err = ledger.SetAt(sets, height); err != nil {
				return nil, err
			}
		}
		block, err := readBlock(r, height)
		if err != nil {
			return nil, err
		}
		leaves, size = leaves+len(block.Leaves), size+block.Size()
		blocks = append(blocks, prepared{height: height, set: set, block: block})
	}
	return blocks, nil
}

// changesAt tells whether a followed change of the set takes effect at a height.
func (f followed) changesAt(height int64) bool {
	return slices.ContainsFunc(f.Changes, func(s setLeaf) bool { return s.Height+ledger.SetDelay == height })
}

func (c *Chain) followedNow() followed {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.followed
}

// checkBlocks decodes the blocks' leaves and checks their signatures, on all
// processors.
func (c *Chain) checkBlocks(blocks []prepared) error {
	type piece struct {
		of *prepared
		i  int
	}
	var pieces []piece
	for i := range blocks {
		blocks[i].leaves = make([]record.Leaf, len(blocks[i].block.Leaves))
		for j := range blocks[i].leaves {
			pieces = append(pieces, piece{&blocks[i], j})
		}
	}
	failures := make([]error, len(pieces))
	var workers sync.WaitGroup
	each := max(1, (len(pieces)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	for from := 0; from < len(pieces); from += each {
		workers.Go(func() {
			for k := from; k < min(from+each, len(pieces)); k++ {
				p := pieces[k]
				leaf, err := record.DecodeLeaf(p.of.block.Leaves[p.i])
				if err == nil {
					err = record.CheckSignatures(leaf, c.network.Genesis, p.of.set, p.of.height)
				}
				p.of.leaves[p.i], failures[k] = leaf, err
			}
		})
	}
	workers.Wait()
	for k, err := range failures {
		if err != nil {
			return c.blame(pieces[k].of.height, fmt.Errorf("%w: %w", ErrInvalid, err))
		}
	}
	return nil
}

// blame says of a followed block with a wrong leaf whose fault it is: the members'
// who certified it, or the disk's, if it is no longer what they certified.
func (c *Chain) blame(height int64, wrong error) error {
	set, before, err := c.before(height)
	if err == nil {
		var data []byte
		if data, err = c.Block(height); err == nil {
			_, err = record.VerifyBlock(c.network, set, before, data)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: block %d: %w", ErrDamaged, height, err)
	}
	return fmt.Errorf("block %d: %w", height, wrong)
}

// catchUp appends prepared blocks in one transaction.
func (c *Chain) catchUp(blocks []prepared) error {
	wrong, err := c.tryCatchUp(blocks)
	if errors.Is(err, ErrInvalid) {
		err = c.blame(wrong, err)
	}
	if err != nil {
		return fmt.Errorf("check the log: %w", err)
	}
	return nil
}

// tryCatchUp is catchUp; wrong is the height at which it failed.
func (c *Chain) tryCatchUp(blocks []prepared) (wrong int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fork != nil {
		return 0, c.fork
	}
	next, rest := c.head, c.followed
	var note []byte
	err = c.backend.Update(func(tx ledger.Tx) (err error) {
		for _, p := range blocks {
			if p.height <= next.Height {
				continue
			}
			wrong = p.height
			before := next
			before.set = before.set.Deferring() // its signatures are checked
			if next, err = c.applyLeaves(tx, before, p.block, p.leaves, nil); err != nil {
				return err
			}
		}
		var entry blockEntry
		if err := ledger.GetJSON(tx, bucketBlocks, be64(next.Height), &entry); err != nil {
			return err
		}
		if err := c.checkEnd(tx, next, entry); err != nil {
			return err
		}
		note = entry.Note
		if rest = rest.after(next.Height); rest.Height == next.Height {
			rest = followed{}
		}
		return errors.Join(ledger.PutJSON(tx, bucketMeta, headKey, next), ledger.PutJSON(tx, bucketMeta, followedKey, rest))
	})
	if err != nil {
		return wrong, err
	}
	if c.followed = rest; rest.Height == 0 {
		c.sets = nil
	}
	c.advance(next, note)
	return 0, nil
}

// after is what is still to be checked behind a height.
func (f followed) after(height int64) followed {
	for len(f.Changes) > 0 && f.Changes[0].Height <= height {
		f.Changes = f.Changes[1:]
	}
	return f
}

// readBlock reads a block; it shares no memory with the transaction.
func readBlock(r ledger.Reader, height int64) (*record.Block, error) {
	var previous, entry blockEntry
	if err := errors.Join(ledger.GetJSON(r, bucketBlocks, be64(height-1), &previous), ledger.GetJSON(r, bucketBlocks, be64(height), &entry)); err != nil {
		return nil, err
	}
	block := &record.Block{LogSignature: entry.LogSignature}
	for index := previous.Size; index < entry.Size; index++ {
		leaf := r.Get(bucketLeaves, be64(index))
		if leaf == nil {
			return nil, fmt.Errorf("leaf %d: %w", index, ErrNotFound)
		}
		block.Leaves = append(block.Leaves, bytes.Clone(leaf))
	}
	return block, nil
}
