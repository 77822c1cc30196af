package node

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pyrsia/appliance/appliance/supervisor"
	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/record"
)

// followed is how many peers' chains are followed at once: enough that one
// that is slow or silent delays nothing.
const followed = 3

// follow takes the certified blocks of other nodes. Every block is verified
// before it is appended, so that it does not matter who sends it.
func (n *Node) follow(ctx context.Context) error {
	var slots sync.WaitGroup
	for slot := range followed {
		slots.Go(func() { n.followSlot(ctx, slot) })
	}
	slots.Wait()
	return nil
}

// followSlot follows one peer after another: the ones that this slot's share
// of the peers names, the next when one fails.
func (n *Node) followSlot(ctx context.Context, slot int) {
	for turn := 0; ctx.Err() == nil; turn++ {
		peers := n.share(slot)
		if len(peers) > 0 {
			n.followPeer(ctx, peers[turn%len(peers)])
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// share are the connected peers that a slot may follow, in an order of this
// node's own, so that the nodes of a network spread over each other.
func (n *Node) share(slot int) []record.Identity {
	var ids []record.Identity
	for _, peer := range n.host.Peers() {
		ids = append(ids, peer.Identity)
	}
	rank := func(id record.Identity) uint64 {
		h := fnv.New64a()
		h.Write([]byte(n.identity + id))
		return h.Sum64()
	}
	sort.Slice(ids, func(i, j int) bool { return rank(ids[i]) < rank(ids[j]) })
	var share []record.Identity
	for i, id := range ids {
		if i%followed == slot {
			share = append(share, id)
		}
	}
	return share
}

// How a peer whose blocks are of no use is left for a while.
const (
	shunned  = time.Minute      // one that sent what does not follow
	lag      = 16               // blocks that came from others in the meantime …
	patience = 10 * time.Second // … and this long after: it is lazy
)

var (
	errLazy  = errors.New("it has the blocks that others send and does not send them")
	errShown = errors.New("the block was seen")
)

func (n *Node) followPeer(ctx context.Context, peer record.Identity) {
	if n.isShunned(peer) || n.chain.Halted() != nil {
		return
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	next.Store(n.chain.Height() + 1)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		n.watchLag(ctx, &next, cancel)
	}()
	defer func() { cancel(nil); <-watched }()
	err := n.takeBlocks(ctx, peer, &next)
	if errors.Is(err, errWrong) && ctx.Err() == nil {
		n.compare(ctx, peer)
		n.shun(peer, err)
		return
	}
	if cause := context.Cause(ctx); errors.Is(cause, errLazy) {
		n.shun(peer, cause)
		return
	}
	if err != nil && ctx.Err() == nil {
		n.log.Debug("stopped following a peer", "peer", peer, "error", err)
	}
}

// errWrong is wrapped for a block that does not follow this chain.
var errWrong = errors.New("its next block does not follow")

// takeBlocks adds what a peer sends, as many blocks at once as have come: with a
// long log the disk is synced now and then, and not for each block. It returns why
// it ended.
func (n *Node) takeBlocks(ctx context.Context, peer record.Identity, next *atomic.Int64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	blocks := make(chan []byte, waitingBlocks)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for first := range blocks {
			batch := [][]byte{first}
			for len(batch) < waitingBlocks && len(blocks) > 0 {
				batch = append(batch, <-blocks)
			}
			if err := n.take(batch, next); err != nil {
				cancel(err)
			}
		}
	}()
	err := n.host.Follow(ctx, peer, next.Load(), func(data []byte) error {
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

// waitingBlocks is how many blocks of a peer wait at the most; each has up to 4 MiB.
const waitingBlocks = 16

// take adds blocks from a height on; others may have brought some of them.
func (n *Node) take(blocks [][]byte, next *atomic.Int64) error {
	for len(blocks) > 0 {
		if known := n.chain.Height() - next.Load() + 1; known > 0 {
			skip := min(known, int64(len(blocks)))
			blocks = blocks[skip:]
			next.Add(skip)
			continue
		}
		added, err := n.chain.Adopt(blocks, time.Now())
		blocks = blocks[added:]
		next.Add(int64(added))
		if err != nil && n.chain.Height() < next.Load() {
			return fmt.Errorf("%w: %w", errWrong, err)
		}
	}
	return nil
}

// watchLag ends a follow whose peer fell behind what others send.
func (n *Node) watchLag(ctx context.Context, next *atomic.Int64, cancel context.CancelCauseFunc) {
	for {
		behind := next.Load()
		if n.chain.Wait(ctx, behind+lag) != nil {
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

// shun leaves a peer alone for a while.
func (n *Node) shun(peer record.Identity, why error) {
	n.log.Warn("a peer's chain is of no use; following others for now", "peer", n.label(peer), "why", why)
	n.shunning.Lock()
	defer n.shunning.Unlock()
	n.shunnedUntil[peer] = time.Now().Add(shunned)
}

func (n *Node) isShunned(peer record.Identity) bool {
	n.shunning.Lock()
	defer n.shunning.Unlock()
	until, known := n.shunnedUntil[peer]
	if known && time.Now().After(until) {
		delete(n.shunnedUntil, peer)
		known = false
	}
	return known
}

// compare looks for the first block in which a peer's chain differs from this
// one. If that is certified too, the chain halts.
func (n *Node) compare(ctx context.Context, peer record.Identity) {
	same, differs := int64(0), n.chain.Height()+1
	for differs-same > 1 {
		middle := same + (differs-same)/2
		data, err := n.blockOf(ctx, peer, middle)
		if err != nil {
			n.log.Debug("cannot compare chains", "peer", peer, "height", middle, "error", err)
			return
		}
		equal, err := n.chain.Compare(middle, data)
		if errors.Is(err, chain.ErrForked) {
			n.log.Error("halted", "error", err)
			return
		}
		if equal {
			same = middle
		} else {
			differs = middle
		}
	}
	if differs > n.chain.Height() {
		return // its next block is wrong by itself
	}
	data, err := n.blockOf(ctx, peer, differs)
	if err != nil {
		return
	}
	switch _, err := n.chain.Compare(differs, data); {
	case errors.Is(err, chain.ErrForked):
		n.log.Error("halted", "error", err)
	case errors.Is(err, chain.ErrBelowPin):
		n.log.Warn("a peer follows another branch", "peer", n.label(peer), "error", err)
	}
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

// checkSignatures checks what a long sync left to check, whenever there is some.
// Signatures that do not verify in a log that a quorum signed end the node: it
// must serve nothing of it.
func (n *Node) checkSignatures(ctx context.Context) error {
	for height := n.chain.Height(); ; {
		begun, left := time.Now(), n.chain.Height()-n.chain.Signed()
		if err := n.chain.CheckSignatures(ctx); err != nil && ctx.Err() == nil {
			return supervisor.Fatal(err)
		}
		if left > 0 && ctx.Err() == nil {
			n.log.Info("the signatures of the log are checked", "blocks", left, "took", time.Since(begun).Round(time.Millisecond))
		}
		if n.chain.Wait(ctx, height+1) != nil {
			return nil
		}
		height = n.chain.Height()
	}
}

// whenChecked answers clients once the whole log is checked: a node serves nothing
// by a log that it has only followed.
func (n *Node) whenChecked(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if signed, height := n.chain.Signed(), n.chain.Height(); signed < height {
			w.Header().Set("Retry-After", "2")
			http.Error(w, fmt.Sprintf("this node is checking the log's signatures: block %d of %d; try again in a moment", signed, height), http.StatusServiceUnavailable)
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
		n.log.Info("block", "height", height, "proposer", n.label(header.Proposer))
	}
	return nil
}
