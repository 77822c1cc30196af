package node

import (
	"sync"
	"time"

	"github.com/pyrsia/appliance/modules/record"
)

const (
	// followed is how many peers' chains are followed at once: enough that one
	// that is slow or silent delays nothing.
	followed = 3

	// turn is how long a peer is followed that brings nothing new, and how long
	// one is left alone that sent what does not follow. A peer that has nothing to
	// send loses nothing by the change.
	turn = time.Minute
)

// trustedSlot follows only peers that the operator vouches for, where there are
// any: identities cost nothing, and strangers could fill every other slot.
const trustedSlot = 0

// connectedPeer is a peer, and when it connected.
type connectedPeer struct {
	identity record.Identity
	since    time.Time
}

// turns says which peer a slot follows next: of those that no other slot follows,
// the one that has waited longest. A newcomer waits from when it connected, so
// that nobody gets ahead by a new identity or by connecting again. It keeps no
// time of its own. It is safe for concurrent use.
type turns struct {
	trusted map[record.Identity]bool

	mu      sync.Mutex // guards what follows
	busy    [followed]record.Identity
	left    map[record.Identity]time.Time // when a slot last went on from it
	shunned map[record.Identity]time.Time // until when it is left alone
}

func newTurns(trusted []record.Identity) *turns {
	t := &turns{trusted: map[record.Identity]bool{}, left: map[record.Identity]time.Time{}, shunned: map[record.Identity]time.Time{}}
	for _, id := range trusted {
		t.trusted[id] = true
	}
	return t
}

// take gives a slot the next of the connected peers, if there is one for it.
func (t *turns) take(slot int, connected []connectedPeer, now time.Time) (record.Identity, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(connected, now)
	var next record.Identity
	var longest time.Time
	for _, peer := range connected {
		if !t.mayTake(slot, peer.identity) {
			continue
		}
		waits := peer.since
		if left := t.left[peer.identity]; left.After(waits) {
			waits = left
		}
		if next == "" || waits.Before(longest) {
			next, longest = peer.identity, waits
		}
	}
	t.busy[slot] = next
	return next, next != ""
}

func (t *turns) mayTake(slot int, id record.Identity) bool {
	if slot == trustedSlot && len(t.trusted) > 0 && !t.trusted[id] {
		return false
	}
	if _, shunned := t.shunned[id]; shunned {
		return false
	}
	for other, busy := range t.busy {
		if other != slot && busy == id {
			return false
		}
	}
	return true
}

// forget drops what no longer counts: who disconnected waits anew anyway.
func (t *turns) forget(connected []connectedPeer, now time.Time) {
	for id, until := range t.shunned {
		if !now.Before(until) {
			delete(t.shunned, id)
		}
	}
	here := map[record.Identity]bool{}
	for _, peer := range connected {
		here[peer.identity] = true
	}
	for id := range t.left {
		if !here[id] {
			delete(t.left, id)
		}
	}
}

// leave frees a slot; its peer goes to the end of the line.
func (t *turns) leave(slot int, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left[t.busy[slot]] = now
	t.busy[slot] = ""
}

// shun frees a slot, and leaves its peer alone for a while.
func (t *turns) shun(slot int, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left[t.busy[slot]], t.shunned[t.busy[slot]] = now, now.Add(turn)
	t.busy[slot] = ""
}
