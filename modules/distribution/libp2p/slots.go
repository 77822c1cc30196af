package libp2p

import (
	"context"
	"sync"

	"github.com/pyrsia/appliance/modules/record"
)

// slots are the places where peers' requests are worked at. One peer holds at
// most its share, and all strangers together leave some for nodes that this one
// knows: a stranger who takes what he can get, and then reads nothing, keeps
// only himself waiting. Safe for concurrent use.
type slots struct {
	all       chan struct{} // places taken
	strangers chan struct{} // of them, by strangers
	each      int           // places of one peer, at the most

	mu     sync.Mutex
	shares map[record.Identity]*share // of peers that hold a place or wait for one
}

// share is one peer's places.
type share struct {
	taken chan struct{}
	users int // that hold a place or wait for one; guarded by slots.mu
}

func newSlots(total, each, reserved int) *slots {
	return &slots{
		all: make(chan struct{}, total), strangers: make(chan struct{}, total-reserved),
		each: each, shares: map[record.Identity]*share{},
	}
}

// take waits for a place, or for the end of ctx. A peer waits for its own share
// first, so that it holds nothing that others could have.
func (s *slots) take(ctx context.Context, id record.Identity, known bool) (release func(), err error) {
	return s.acquire(id, known, func(places chan struct{}) error {
		select {
		case places <- struct{}{}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// try takes a place if there is one now.
func (s *slots) try(id record.Identity, known bool) (release func(), ok bool) {
	release, err := s.acquire(id, known, func(places chan struct{}) error {
		select {
		case places <- struct{}{}:
			return nil
		default:
			return errFull
		}
	})
	return release, err == nil
}

func (s *slots) acquire(id record.Identity, known bool, enter func(chan struct{}) error) (func(), error) {
	levels := []chan struct{}{s.share(id).taken}
	if !known {
		levels = append(levels, s.strangers)
	}
	levels = append(levels, s.all)
	leave := func(entered int) {
		for _, places := range levels[:entered] {
			<-places
		}
		s.drop(id)
	}
	for i, places := range levels {
		if err := enter(places); err != nil {
			leave(i)
			return nil, err
		}
	}
	return func() { leave(len(levels)) }, nil
}

func (s *slots) share(id record.Identity) *share {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.shares[id]
	if one == nil {
		one = &share{taken: make(chan struct{}, s.each)}
		s.shares[id] = one
	}
	one.users++
	return one
}

func (s *slots) drop(id record.Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.shares[id]
	if one.users--; one.users == 0 {
		delete(s.shares, id)
	}
}
