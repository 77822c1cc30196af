package node

import (
	"context"
	"hash/fnv"
	"sort"
	"sync"
	"time"

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

func (n *Node) followPeer(ctx context.Context, peer record.Identity) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	next := n.chain.Height() + 1
	err := n.host.Follow(ctx, peer, next, func(data []byte) error {
		height := next
		next++
		if height <= n.chain.Height() {
			return nil
		}
		certified, err := n.chain.Verify(data)
		if err == nil {
			err = n.chain.Append(certified)
		}
		if err != nil && height <= n.chain.Height() {
			return nil // another peer was faster
		}
		return err
	})
	if err != nil && ctx.Err() == nil {
		n.log.Debug("stopped following a peer", "peer", peer, "error", err)
	}
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
