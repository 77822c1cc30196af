// Package chain is the log of blocks: it appends what a quorum committed,
// resolves names and digests to what was published, and proves it.
//
// The chain is the state machine of docs/protocol.md, "From request to
// publication": the rules (modules/ledger) turn each leaf into changes of state, the
// same way when a block is proposed, checked, appended or replayed. The store
// underneath is dumb (Backend); modules/chain/bolt keeps it on disk.
//
// Append takes nothing but a *record.Certified, and a block with its state is
// one transaction: a crash leaves the log before it or after it.
package chain

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
	"golang.org/x/mod/sumdb/tlog"
)

// Errors of this package.
var (
	ErrNotFound = ledger.ErrNotFound
	ErrInvalid  = errors.New("invalid block")
	ErrStale    = errors.New("block does not follow the chain's end")
	ErrForeign  = errors.New("the data folder holds another network's chain")
	ErrPinned   = errors.New("the log does not lead to the pinned checkpoint")
)

// MaxClockSkew is how far a block's time may be ahead of one's own clock
// (docs/protocol.md, "Time").
const MaxClockSkew = 10 * time.Second

// Backend keeps the state. Update is atomic and durable when it returns, and
// undone when the function fails. It is safe for concurrent use.
//
// Keys have 1 to MaxKey bytes; Put fails for others, so that a block is refused
// when it is tried and not only when it is appended.
type Backend interface {
	View(func(ledger.Reader) error) error
	Update(func(ledger.Tx) error) error
}

// MaxKey is the longest key in bytes: bbolt's limit.
const MaxKey = 32768

// The buckets of the log; the state's are ledger's.
const (
	bucketMeta   = "meta"   // "head" → head, "followed" → followed, "version" → stateVersion in decimal, "fork" → Fork
	bucketLeaves = "leaves" // index → leaf bytes
	bucketHashes = "hashes" // stored-hash index → hash (x/mod/sumdb/tlog)
	bucketBlocks = "blocks" // height → blockEntry
)

// Buckets are all buckets that a Backend must hold.
var Buckets = append([]string{bucketMeta, bucketLeaves, bucketHashes, bucketBlocks}, ledger.Buckets...)

// Growing are the buckets whose every new key is the last one.
var Growing = []string{bucketLeaves, bucketHashes, bucketBlocks}

// stateVersion is that of what the backend holds. It moves with every change of
// the state's types and of what the rules write.
const stateVersion = 5

var headKey, versionKey = []byte("head"), []byte("version")

// head is the end of the chain.
type head struct {
	Height   int64           `json:"height"`
	Time     int64           `json:"time"`
	Frontier record.Frontier `json:"frontier"`

	// Not stored: read from the state.
	set, next *record.Set // of the next block, and of the one after it
}

// load reads the sets that follow the head.
func (h *head) load(r ledger.Reader) (err error) {
	if h.set, err = ledger.SetAt(r, h.Height+1); err != nil {
		return err
	}
	h.next, err = ledger.SetAt(r, h.Height+2)
	return err
}

type blockEntry struct {
	Size         int64            `json:"size"` // of the log after the block
	Note         []byte           `json:"note"`
	LogSignature record.Signature `json:"logSignature"`
}

// Chain is the log and its state. It is safe for concurrent use.
type Chain struct {
	backend Backend
	network record.Network
	genesis *record.Genesis

	pin      atomic.Pointer[record.Checkpoint] // nil: none
	mu       sync.RWMutex                      // guards what follows
	fork     *Fork                             // set once, never changed
	head     head
	followed followed
	sets     *overlay // above nothing, never changed: what the followed changes of the set come to; nil for none
	note     []byte
	appended chan struct{} // closed and replaced at each append
}

// New opens the chain of the network that the genesis leaf founds, and writes
// block 0 where the backend is empty.
func New(backend Backend, genesisLeaf []byte) (*Chain, error) {
	genesis, set, err := record.OpenGenesis(genesisLeaf)
	if err != nil {
		return nil, err
	}
	c := &Chain{
		backend: backend, genesis: genesis,
		network:  record.Network{Name: genesis.Name, Genesis: record.Digest(genesisLeaf)},
		appended: make(chan struct{}),
	}
	if err := backend.Update(func(tx ledger.Tx) error { return c.found(tx, genesisLeaf, set) }); err != nil {
		return nil, fmt.Errorf("open chain: %w", err)
	}
	return c, nil
}

// Founding is the genesis leaf of the chain that a backend holds, for who has
// nothing but the backend. An empty one is ErrNotFound.
func Founding(backend Backend) (leaf []byte, err error) {
	err = backend.View(func(r ledger.Reader) error {
		leaf = append(leaf, r.Get(bucketLeaves, be64(0))...)
		return nil
	})
	if err == nil && leaf == nil {
		err = fmt.Errorf("genesis: %w", ErrNotFound)
	}
	return leaf, err
}

func (c *Chain) found(tx ledger.Tx, genesisLeaf []byte, set *record.Set) error {
	if first := tx.Get(bucketLeaves, be64(0)); first != nil {
		if record.Digest(first) != c.network.Genesis {
			return fmt.Errorf("%w: its genesis is sha256:%s, the configured one sha256:%s; use another data folder, or mend network.genesis", ErrForeign, record.Digest(first), c.network.Genesis)
		}
		return c.resume(tx)
	}
	for _, bucket := range Buckets {
		empty := true
		tx.Scan(bucket, nil, func(_, _ []byte) bool { empty = false; return false })
		if !empty {
			return fmt.Errorf("%w: it has %s and no genesis", ErrDamaged, bucket)
		}
	}
	h := head{set: set, next: set}
	if err := tx.Put(bucketMeta, versionKey, strconv.AppendInt(nil, stateVersion, 10)); err != nil {
		return err
	}
	if err := ledger.Found(tx, set); err != nil {
		return err
	}
	if err := appendLeaf(tx, &h.Frontier, genesisLeaf); err != nil {
		return err
	}
	if err := ledger.PutJSON(tx, bucketBlocks, be64(0), blockEntry{Size: 1}); err != nil {
		return err
	}
	c.head = h
	return errors.Join(ledger.PutJSON(tx, bucketMeta, headKey, h), ledger.PutJSON(tx, bucketMeta, followedKey, followed{}))
}

// resume goes on where the backend's chain ends.
func (c *Chain) resume(r ledger.Reader) error {
	switch version := r.Get(bucketMeta, versionKey); {
	case version == nil:
		return fmt.Errorf("%w: it does not say of which version it is", ErrDamaged)
	case string(version) != strconv.Itoa(stateVersion):
		return fmt.Errorf("the chain file is of another version of pyrsia (%.20q, this one is %d); move it away and start again, and the node fetches the chain from its peers", version, stateVersion)
	}
	var h head
	if err := ledger.GetJSON(r, bucketMeta, headKey, &h); err != nil {
		return fmt.Errorf("%w: its end: %w", ErrDamaged, err)
	}
	var entry blockEntry
	if err := ledger.GetJSON(r, bucketBlocks, be64(h.Height), &entry); err != nil {
		return fmt.Errorf("%w: block %d: %w", ErrDamaged, h.Height, err)
	}
	if err := h.load(r); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	c.head, c.note = h, entry.Note
	if err := errors.Join(c.checkEnd(r, h, entry), c.loadFollowed(r)); err != nil {
		return err
	}
	return c.loadFork(r)
}

// Pin makes the chain refuse every block that leads past a checkpoint without
// having led to it: what an operator was told of the log, by whatever way, holds
// against keys that were stolen since. It replaces the one before; nil is none.
// ErrPinned says that the chain is on another branch already, and nothing changed.
// One call at a time.
func (c *Chain) Pin(checkpoint *record.Checkpoint) error {
	old := c.pin.Load()
	if err := c.hold(checkpoint); err != nil {
		c.pin.Store(old)
		return err
	}
	return nil
}

func (c *Chain) hold(checkpoint *record.Checkpoint) error {
	if checkpoint == nil {
		c.pin.Store(nil)
		return nil
	}
	if checkpoint.Origin != c.network.Origin() {
		return fmt.Errorf("%w: the checkpoint is of %.120q, not of this network", ErrPinned, checkpoint.Origin)
	}
	c.pin.Store(checkpoint)
	// Whatever is written from here on was held to it, and what was not is written:
	// the backend writes one thing at a time.
	if err := c.backend.Update(func(ledger.Tx) error { return nil }); err != nil {
		return err
	}
	if size := max(c.Size(), c.followedNow().Frontier.Size); size < checkpoint.Size {
		return nil
	}
	return c.backend.View(func(r ledger.Reader) error {
		root, err := tlog.TreeHash(checkpoint.Size, hashReader{r})
		if err == nil && record.Hash(root) != checkpoint.Root {
			err = fmt.Errorf("%w: at size %d this node has another root; move its chain file away, and it syncs from peers that are on the pinned branch", ErrPinned, checkpoint.Size)
		}
		return err
	})
}

// checkPin holds a block to the pinned checkpoint.
func (c *Chain) checkPin(before, after record.Frontier) error {
	pin := c.pin.Load()
	if pin == nil || pin.Size <= before.Size || pin.Size > after.Size {
		return nil
	}
	if after.Size == pin.Size && after.Root() == pin.Root {
		return nil
	}
	return fmt.Errorf("%w: %w: at size %d; if the blocks of all peers are refused so, this node itself is on another branch: move its chain file away, and it syncs again", ErrInvalid, ErrPinned, pin.Size)
}

// appendLeaf stores a leaf and the tree's hashes that it completes.
func appendLeaf(tx ledger.Tx, frontier *record.Frontier, leaf []byte) error {
	index := frontier.Size
	if err := tx.Put(bucketLeaves, be64(index), leaf); err != nil {
		return err
	}
	reader := hashReader{tx}
	hashes, err := tlog.StoredHashesForRecordHash(index, tlog.Hash(record.LeafHash(leaf)), reader)
	if err != nil {
		return err
	}
	at := tlog.StoredHashIndex(0, index)
	for i, hash := range hashes {
		if err := tx.Put(bucketHashes, be64(at+int64(i)), hash[:]); err != nil {
			return err
		}
	}
	frontier.Append(record.LeafHash(leaf))
	return nil
}

type hashReader struct{ ledger.Reader }

// ReadHashes implements tlog.HashReader.
func (r hashReader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		value := r.Get(bucketHashes, be64(index))
		if len(value) != len(hashes[i]) {
			return nil, fmt.Errorf("hash %d: %w", index, ErrNotFound)
		}
		copy(hashes[i][:], value)
	}
	return hashes, nil
}

// Network is the chain's network.
func (c *Chain) Network() record.Network { return c.network }

// Genesis is the founding leaf.
func (c *Chain) Genesis() *record.Genesis { return c.genesis }

// Set is the authorised build nodes of the next block.
func (c *Chain) Set() *record.Set { return c.snapshot().set }

// NextSet is that of the block after the next one: another one than Set while a
// change waits to take effect.
func (c *Chain) NextSet() *record.Set { return c.snapshot().next }

// SetAt is the authorised build nodes of the block of a height.
func (c *Chain) SetAt(height int64) (*record.Set, error) {
	return read(c, func(r ledger.Reader) (*record.Set, error) { return ledger.SetAt(r, height) })
}

// Height is that of the last block; the genesis alone is 0.
func (c *Chain) Height() int64 { return c.snapshot().Height }

// Size is the number of leaves.
func (c *Chain) Size() int64 { return c.snapshot().Frontier.Size }

// Frontier is the right edge of the log's tree.
func (c *Chain) Frontier() record.Frontier { return c.snapshot().Frontier.Clone() }

// Time is that of the last block in milliseconds since 1970, 0 for the genesis.
func (c *Chain) Time() int64 { return c.snapshot().Time }

func (c *Chain) snapshot() head {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.head
}

// Checkpoint is the newest signed checkpoint, nil while there is only the
// genesis.
func (c *Chain) Checkpoint() []byte {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.note
}

// Wait blocks until the chain has the height.
func (c *Chain) Wait(ctx context.Context, height int64) error {
	return c.wait(ctx, func() bool { return c.head.Height >= height })
}

// wait blocks until something is so, which is asked for with the lock held.
func (c *Chain) wait(ctx context.Context, so func() bool) error {
	for {
		c.mu.RLock()
		reached, appended := so(), c.appended
		c.mu.RUnlock()
		if reached {
			return nil
		}
		select {
		case <-appended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Verify reads a certified block's wire form and verifies that it is the next
// one.
func (c *Chain) Verify(data []byte) (*record.Certified, error) {
	before := c.snapshot()
	return record.VerifyBlock(c.network, before.set, before.Frontier, data)
}

// Append adds a certified block, durable when it returns. A block that the
// chain has already, or that does not follow its end, is ErrStale; one that
// breaks a rule is ErrInvalid, whoever signed it. A forked chain takes none.
func (c *Chain) Append(certified *record.Certified) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	header := certified.Header()
	if c.fork != nil {
		return fmt.Errorf("append block %d: %w", header.Height, c.fork)
	}
	if c.followed.Height > 0 {
		return fmt.Errorf("append block %d: the log is followed up to block %d: %w", header.Height, c.followed.Height, ErrStale)
	}
	if header.Height != c.head.Height+1 || header.PreviousRoot != c.head.Frontier.Root() {
		return fmt.Errorf("append block %d at height %d: %w", header.Height, c.head.Height, ErrStale)
	}
	var next head
	err := c.backend.Update(func(tx ledger.Tx) (err error) {
		next, err = c.write(tx, c.head, certified)
		return err
	})
	if err != nil {
		return fmt.Errorf("append block %d: %w", header.Height, err)
	}
	c.advance(next, certified.Note())
	return nil
}

// advance moves the end of the chain. The lock is held.
func (c *Chain) advance(next head, note []byte) {
	c.head, c.note = next, note
	close(c.appended)
	c.appended = make(chan struct{})
}

// write applies a certified block after a head.
func (c *Chain) write(tx ledger.Tx, before head, certified *record.Certified) (head, error) {
	next, err := c.apply(tx, before, certified.Block())
	if err != nil {
		return head{}, err
	}
	if err := ledger.PutJSON(tx, bucketMeta, headKey, next); err != nil {
		return head{}, err
	}
	return next, putBlock(tx, next.Height, next.Frontier.Size, certified)
}

// putBlock stores what belongs to a block beside its leaves. size is that of the
// log after it.
func putBlock(tx ledger.Tx, height, size int64, certified *record.Certified) error {
	return ledger.PutJSON(tx, bucketBlocks, be64(height), blockEntry{Size: size, Note: certified.Note(), LogSignature: certified.Block().LogSignature})
}

// apply checks every rule for the block and makes its changes in tx.
func (c *Chain) apply(tx ledger.Tx, before head, block *record.Block) (head, error) {
	header, err := block.Header()
	if err != nil {
		return head{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := c.checkHeader(header, before, block); err != nil {
		return head{}, err
	}
	leaves := make([]record.Leaf, len(block.Leaves))
	for i, data := range block.Leaves {
		if leaves[i], err = record.DecodeLeaf(data); err != nil {
			return head{}, fmt.Errorf("%w: leaf %d: %w", ErrInvalid, before.Frontier.Size+int64(i), err)
		}
	}
	after, err := c.applyLeaves(tx, before, block, leaves, func(frontier *record.Frontier, data []byte) error {
		return appendLeaf(tx, frontier, data)
	})
	if err != nil {
		return head{}, err
	}
	return after, c.checkPin(before.Frontier, after.Frontier)
}

// applyLeaves makes the changes of a block's leaves, the header last. store adds
// each to the log; without it they stand there already.
func (c *Chain) applyLeaves(tx ledger.Tx, before head, block *record.Block, leaves []record.Leaf, store func(*record.Frontier, []byte) error) (head, error) {
	last := len(leaves) - 1
	header, ok := leaves[last].(*record.Header)
	if !ok || header.Height != before.Height+1 {
		return head{}, fmt.Errorf("%w: no header of block %d", ErrInvalid, before.Height+1)
	}
	after := head{Height: header.Height, Time: header.Time, Frontier: before.Frontier.Clone(), set: before.next, next: before.next}
	rules := ledger.NewRules(tx, c.network, before.set, header.Height, header.Time)
	for i, data := range block.Leaves {
		hash := record.LeafHash(data)
		if i < last {
			if err := rules.Apply(after.Frontier.Size, hash, leaves[i]); err != nil {
				return head{}, fmt.Errorf("%w: leaf %d: %w", ErrInvalid, after.Frontier.Size, err)
			}
		}
		if store == nil {
			after.Frontier.Append(hash)
		} else if err := store(&after.Frontier, data); err != nil {
			return head{}, err
		}
	}
	if err := rules.End(); err != nil {
		return head{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if rules.Changed() {
		if err := after.load(tx); err != nil {
			return head{}, err
		}
	}
	return after, nil
}

// ErrMoved is returned by Identify when the chain does not end before the height.
var ErrMoved = errors.New("the chain moved on")

// Identify is the checkpoint that a block leads to if it is the one of a height.
// Only a block whose header names what is before it here and whose log signature is
// its proposer's has one: the checkpoint does not cover that signature, and a block
// kept with a wrong one would stand in the way of the same block with the right one.
// An error that wraps record.ErrMalformed says that no honest member made the block.
func (c *Chain) Identify(height int64, block *record.Block) (record.Checkpoint, error) {
	before := c.snapshot()
	if height != before.Height+1 {
		return record.Checkpoint{}, fmt.Errorf("%w: block %d is asked for, and %d is next", ErrMoved, height, before.Height+1)
	}
	header, err := block.Header()
	if err == nil {
		err = c.checkProposer(header, before, block)
	}
	if err != nil {
		return record.Checkpoint{}, fmt.Errorf("%w: block %d: %w", record.ErrMalformed, height, err)
	}
	return block.Checkpoint(c.network.Origin(), before.Frontier), nil
}

// checkProposer checks what a header says of the log before it, and who signed it.
func (c *Chain) checkProposer(header *record.Header, before head, block *record.Block) error {
	switch {
	case header.Height != before.Height+1:
		return fmt.Errorf("%w: height %d after %d", ErrInvalid, header.Height, before.Height)
	case header.PreviousSize != before.Frontier.Size || header.PreviousRoot != before.Frontier.Root():
		return fmt.Errorf("%w: it follows another log", ErrInvalid)
	case header.Set != before.set.Hash() || header.NextSet != before.next.Hash():
		return fmt.Errorf("%w: it names another set", ErrInvalid)
	}
	proposer, ok := before.set.Node(header.Proposer)
	if !ok {
		return fmt.Errorf("%w: the proposer %s is not in the set", ErrInvalid, header.Proposer)
	}
	checkpoint := block.Checkpoint(c.network.Origin(), before.Frontier)
	if !proposer.LogKey.Verify([]byte(checkpoint.Body()), block.LogSignature) {
		return fmt.Errorf("%w: the log signature is not its proposer's", ErrInvalid)
	}
	return nil
}

func (c *Chain) checkHeader(header *record.Header, before head, block *record.Block) error {
	if err := c.checkProposer(header, before, block); err != nil {
		return err
	}
	switch {
	case header.State != "":
		return fmt.Errorf("%w: state is reserved", ErrInvalid)
	case header.Time <= before.Time:
		return fmt.Errorf("%w: its time does not follow its predecessor's", ErrInvalid)
	}
	if len(block.Leaves) > record.MaxBlockLeaves {
		return fmt.Errorf("%w: %d leaves", ErrInvalid, len(block.Leaves))
	}
	if size := block.Size(); size > record.MaxLargeBlock || (size > record.MaxMixedBlock && !c.isOnePublication(block)) {
		return fmt.Errorf("%w: %d bytes", ErrInvalid, size)
	}
	return nil
}

// isOnePublication tells whether the block holds one publication with its file
// list and nothing else, which may be larger than other blocks.
func (c *Chain) isOnePublication(block *record.Block) bool {
	publications := 0
	for _, data := range block.Leaves[:len(block.Leaves)-1] {
		leaf, err := record.DecodeLeaf(data)
		if err != nil {
			return false
		}
		switch leaf.LeafType() {
		case record.TypePublish:
			publications++
		case record.TypeFiles:
		default:
			return false
		}
	}
	return publications == 1
}

// Validate tells whether a proposed block may follow: its rules, and that its
// time is not ahead of the given clock.
func (c *Chain) Validate(block *record.Block, now time.Time) error {
	header, err := block.Header()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if header.Time > now.Add(MaxClockSkew).UnixMilli() {
		return fmt.Errorf("%w: its time is more than %s ahead of this node's clock", ErrInvalid, MaxClockSkew)
	}
	before := c.snapshot()
	return c.backend.View(func(r ledger.Reader) error {
		_, err := c.apply(newOverlay(r), before, block)
		return err
	})
}

// Propose builds the next block from the candidates that the rules allow,
// leaving out the others. A candidate is one leaf, or several that only stand
// together. now is the proposer's clock; log signs the checkpoint.
func (c *Chain) Propose(candidates [][]record.Leaf, proposer record.Identity, now time.Time, log record.Signer) (*record.Block, error) {
	before := c.snapshot()
	header := &record.Header{
		Height: before.Height + 1, PreviousSize: before.Frontier.Size, PreviousRoot: before.Frontier.Root(),
		Proposer: proposer, Set: before.set.Hash(), NextSet: before.next.Hash(), Time: max(now.UnixMilli(), before.Time+1),
	}
	block := new(record.Block)
	err := c.backend.View(func(r ledger.Reader) error {
		state := newOverlay(r)
		frontier := before.Frontier.Clone()
		for _, candidate := range candidates {
			trial := newOverlay(state)
			rules := ledger.NewRules(trial, c.network, before.set, header.Height, header.Time)
			leaves, ok := tryCandidate(rules, frontier.Size, candidate)
			size := block.Size()
			for _, leaf := range leaves {
				size += len(leaf)
			}
			if !ok || !fits(size, len(block.Leaves)) || len(block.Leaves)+len(leaves) >= record.MaxBlockLeaves {
				continue
			}
			trial.commit(state)
			for _, leaf := range leaves {
				frontier.Append(record.LeafHash(leaf))
			}
			block.Leaves = append(block.Leaves, leaves...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	data, err := record.EncodeLeaf(header)
	if err != nil {
		return nil, err
	}
	block.Leaves = append(block.Leaves, data)
	block.LogSignature, err = record.SignLog(block.Checkpoint(c.network.Origin(), before.Frontier), log)
	return block, err
}

// fits leaves room for the header; only the first candidate of a block may be
// a large publication.
func fits(size, leavesBefore int) bool {
	const header = 2048
	if leavesBefore == 0 {
		return size+header <= record.MaxLargeBlock
	}
	return size+header <= record.MaxMixedBlock
}

func tryCandidate(rules *ledger.Rules, index int64, candidate []record.Leaf) ([][]byte, bool) {
	var encoded [][]byte
	for i, leaf := range candidate {
		data, err := record.EncodeLeaf(leaf)
		if err != nil {
			return nil, false
		}
		if err := rules.Apply(index+int64(i), record.LeafHash(data), leaf); err != nil {
			return nil, false
		}
		encoded = append(encoded, data)
	}
	return encoded, rules.End() == nil
}

// Block is a certified block's wire form. Block 0, the genesis, has none.
func (c *Chain) Block(height int64) ([]byte, error) {
	var data []byte
	err := c.backend.View(func(r ledger.Reader) error {
		block, err := readBlock(r, height)
		if err != nil {
			return err
		}
		var entry blockEntry
		if err := ledger.GetJSON(r, bucketBlocks, be64(height), &entry); err != nil {
			return err
		}
		data = binary.BigEndian.AppendUint32(nil, uint32(len(entry.Note)))
		data = append(append(data, entry.Note...), block.Encode()...)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("block %d: %w", height, err)
	}
	return data, nil
}

func be64(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
