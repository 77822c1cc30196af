package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/pyrsia/appliance/appliance/supervisor"
	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/record"
)

// follow takes the certified blocks of other nodes. Every block is verified
// before it is appended, so that it does not matter who sends it.
func (n *Node) follow(ctx context.Context) error {
	turns := newTurns(n.trusted())
	var slots sync.WaitGroup
	for slot := range followed {
		slots.Go(func() { n.followSlot(ctx, turns, slot) })
	}
	slots.Wait()
	return nil
}

// trusted are the peers that the operator vouches for.
func (n *Node) trusted() (ids []record.Identity) {
	for _, peer := range n.conf().TrustedBuildPeers {
		if peer.ID != n.identity {
			ids = append(ids, peer.ID)
		}
	}
	return ids
}

// followSlot follows one peer after another.
func (n *Node) followSlot(ctx context.Context, turns *turns, slot int) {
	for ctx.Err() == nil {
		if n.followNext(ctx, turns, slot) {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// followNext follows the peer whose turn it is, and tells whether the next one
// comes at once.
func (n *Node) followNext(ctx context.Context, turns *turns, slot int) bool {
	if n.chain.Halted() != nil {
		return false
	}
	peer, ok := turns.take(slot, n.connectedPeers(), time.Now())
	if !ok {
		return false
	}
	err := n.followPeer(ctx, peer)
	if ctx.Err() != nil {
		return false
	}
	if errors.Is(err, errWrong) || errors.Is(err, errLazy) {
		n.log.Warn("a peer's chain is of no use; following others for now", "peer", n.called(peer), "why", err)
		turns.shun(slot, time.Now())
		return false
	}
	if errors.Is(err, errOwn) {
		n.log.Error("the log stands still here until this is mended", "error", err, "again", ownPause)
		turns.leave(slot, time.Now())
		select {
		case <-ctx.Done():
		case <-time.After(ownPause):
		}
		return false
	}
	n.log.Debug("stopped following a peer", "peer", peer, "error", err)
	turns.leave(slot, time.Now())
	return errors.Is(err, errSilent)
}

// ownPause is how long a node waits that cannot store what others send.
const ownPause = 5 * time.Second

func (n *Node) connectedPeers() (connected []connectedPeer) {
	for _, peer := range n.host.Peers() {
		connected = append(connected, connectedPeer{peer.Identity, peer.Since})
	}
	return connected
}

// When a peer whose blocks are of no use is left.
const (
	lag      = 16               // blocks that came from others in the meantime …
	patience = 10 * time.Second // … and this long after: it is lazy
)

var (
	errLazy   = errors.New("it has the blocks that others send and does not send them")
	errSilent = errors.New("no new block came from it; others have their turn")
	errShown  = errors.New("the block was seen")
)

// followPeer takes a peer's blocks until it fails, or others have their turn.
func (n *Node) followPeer(ctx context.Context, peer record.Identity) error {
	within, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	defer func() { cancel(nil); watching.Wait() }()
	var next, brought atomic.Int64
	// From the last block on that is here: it shows at once whether the peer is on
	// this chain.
	next.Store(max(1, n.chain.Followed()))
	watching.Go(func() { n.watchLag(within, &next, cancel) })
	watching.Go(func() { watchProgress(within, &brought, cancel) })
	err := n.takeBlocks(within, peer, &next, &brought)
	if errors.Is(err, errWrong) && within.Err() == nil {
		n.compare(ctx, peer, next.Load())
	}
	return err
}

// watchProgress ends a follow that brought nothing new for a turn: keep-alives
// alone do not keep a place that others could use.
func watchProgress(ctx context.Context, brought *atomic.Int64, cancel context.CancelCauseFunc) {
	for {
		before := brought.Load()
		select {
		case <-ctx.Done():
			return
		case <-time.After(turn):
		}
		if brought.Load() == before {
			cancel(errSilent)
			return
		}
	}
}

// errWrong is wrapped for a block that does not follow this chain; errOwn for what is
// no peer's fault.
var (
	errWrong = errors.New("its next block does not follow")
	errOwn   = errors.New("this node cannot store blocks")
)

// takeBlocks adds what a peer sends, as many blocks at once as have come: with a
// long log the disk is synced now and then, and not for each block. It returns why
// it ended.
func (n *Node) takeBlocks(ctx context.Context, peer record.Identity, next, brought *atomic.Int64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	blocks := make(chan []byte, waitingBlocks)
	room := semaphore.NewWeighted(waitingBytes)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for first := range blocks {
			batch := [][]byte{first}
			for len(batch) < waitingBlocks && len(blocks) > 0 {
				batch = append(batch, <-blocks)
			}
			size := sizeOf(batch)
			if err := n.take(batch, next, brought); err != nil {
				cancel(err)
			}
			room.Release(size)
		}
	}()
	err := n.host.Follow(ctx, peer, next.Load(), func(data []byte) error {
		if room.Acquire(ctx, sizeOf([][]byte{data})) != nil {
			return context.Cause(ctx)
		}
		select {
		case blocks <- data:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	close(blocks)
	<-done
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// What waits of a peer at the most: blocks, each of up to 4 MiB, and bytes.
const (
	waitingBlocks = 64
	waitingBytes  = 16 << 20
)

func sizeOf(blocks [][]byte) (size int64) {
	for _, data := range blocks {
		size += int64(min(len(data), waitingBytes/4))
	}
	return size
}

// take adds blocks from a height on; others may have brought some of them.
func (n *Node) take(blocks [][]byte, next, brought *atomic.Int64) error {
	for len(blocks) > 0 {
		if known := n.chain.Followed() - next.Load() + 1; known > 0 {
			if err := n.sees(next.Load(), blocks[0]); err != nil {
				return err
			}
			blocks = blocks[1:]
			next.Add(1)
			continue
		}
		added, err := n.chain.Adopt(blocks, time.Now())
		blocks = blocks[added:]
		next.Add(int64(added))
		brought.Add(int64(added))
		switch {
		case err == nil || n.chain.Followed() >= next.Load():
		case errors.Is(err, record.ErrMalformed), errors.Is(err, chain.ErrInvalid):
			return fmt.Errorf("%w: %w", errWrong, err)
		case errors.Is(err, chain.ErrForked):
			return err
		default:
			return fmt.Errorf("%w: %w", errOwn, err)
		}
	}
	return nil
}

// sees looks at a block of a height that this chain has. Another one than its own
// may be a fork, also on a branch that never gets ahead of this one.
func (n *Node) sees(height int64, data []byte) error {
	same, err := n.chain.Holds(height, data)
	if err != nil {
		return err
	}
	if !same {
		return fmt.Errorf("%w: its block %d is another one than this node's", errWrong, height)
	}
	return nil
}

// watchLag ends a follow whose peer fell behind what others send.
func (n *Node) watchLag(ctx context.Context, next *atomic.Int64, cancel context.CancelCauseFunc) {
	for {
		behind := next.Load()
		if n.chain.WaitFollowed(ctx, behind+lag) != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(patience):
		}
		if next.Load() == behind {
			cancel(errLazy)
			return
		}
	}
}

// compare looks for the first block in which a peer's chain differs from this
// one, at or below one that does. If that is certified too, the chain halts. It
// takes no longer than a turn: a peer that answers each question late keeps no
// place by that.
func (n *Node) compare(ctx context.Context, peer record.Identity, differs int64) {
	ctx, cancel := context.WithTimeout(ctx, turn)
	defer cancel()
	err := compareWith(n.chain, differs, func(height int64) ([]byte, error) { return n.blockOf(ctx, peer, height) })
	switch {
	case errors.Is(err, chain.ErrForked):
		n.log.Error("halted", "error", err)
	case errors.Is(err, chain.ErrBelowPin):
		n.log.Warn("a peer follows another branch", "peer", n.called(peer), "error", err)
	case err != nil:
		n.log.Debug("cannot compare chains", "peer", peer, "error", err)
	}
}

// compareWith is compare with whatever gives the blocks of the other chain. A fork
// is an error, and the chain has halted then.
func compareWith(c *chain.Chain, differs int64, block func(height int64) ([]byte, error)) error {
	for same := int64(0); differs-same > 1; {
		middle := same + (differs-same)/2
		data, err := block(middle)
		if err != nil {
			return fmt.Errorf("block %d: %w", middle, err)
		}
		equal, err := c.Compare(middle, data)
		switch {
		case errors.Is(err, chain.ErrForked):
			return err
		case equal:
			same = middle
		default:
			differs = middle
		}
	}
	if differs > c.Followed() {
		return nil // its next block is wrong by itself
	}
	data, err := block(differs)
	if err != nil {
		return fmt.Errorf("block %d: %w", differs, err)
	}
	_, err = c.Compare(differs, data)
	return err
}

// blockOf is one block of a peer's chain.
func (n *Node) blockOf(ctx context.Context, peer record.Identity, height int64) (block []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = n.host.Follow(ctx, peer, height, func(data []byte) error {
		block = append([]byte(nil), data...)
		return errShown
	})
	if errors.Is(err, errShown) {
		return block, nil
	}
	return nil, err
}

// catchUp checks the leaves of what was followed, whenever there is something. Leaves
// that are wrong in a log that a quorum signed end the node: it must serve nothing of
// it. A fork halts it like the rest of the node: it stays up and says so.
func (n *Node) catchUp(ctx context.Context) error {
	for {
		begun, left := time.Now(), n.chain.Followed()-n.chain.Height()
		err := n.chain.CatchUp(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, chain.ErrForked):
			<-ctx.Done()
			return nil
		case errors.Is(err, chain.ErrInvalid), errors.Is(err, chain.ErrDamaged):
			return supervisor.Fatal(err)
		case err != nil:
			return err // a full disk, say: it is tried again
		}
		if left > 0 {
			n.log.Info("the log is checked", "blocks", left, "took", time.Since(begun).Round(time.Millisecond))
		}
		if n.chain.WaitFollowed(ctx, n.chain.Height()+1) != nil {
			return nil
		}
	}
}

// whenChecked answers clients once the whole log is checked: a node serves nothing
// by a log that it has only followed.
func (n *Node) whenChecked(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if height, followed := n.chain.Height(), n.chain.Followed(); n.chain.Behind() {
			if err := n.chain.Halted(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			w.Header().Set("Retry-After", "2")
			http.Error(w, fmt.Sprintf("this node is checking the log: block %d of %d; try again in a moment", height, followed), http.StatusServiceUnavailable)
			return
		}
		handler.ServeHTTP(w, r)
	})
}

// logBlocks writes a line for every block that the chain grew by.
func (n *Node) logBlocks(ctx context.Context) error {
	for height := n.chain.Height() + 1; n.chain.Wait(ctx, height) == nil; height++ {
		header, err := n.chain.Header(height)
		if err != nil {
			return err
		}
		n.log.Info("block", "height", height, "proposer", n.called(header.Proposer))
	}
	return nil
}
