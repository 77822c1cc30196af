package libp2p

import (
	"bytes"
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/pyrsia/appliance/modules/distribution"
	"github.com/pyrsia/appliance/modules/record"
	"github.com/pyrsia/appliance/modules/store/storetest"
)

// refusals counts what a host says it refused.
type refusals struct {
	mu     sync.Mutex
	counts map[record.Identity]map[string]int
}

func (r *refusals) refused(from record.Identity, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts == nil {
		r.counts = map[record.Identity]map[string]int{}
	}
	if r.counts[from] == nil {
		r.counts[from] = map[string]int{}
	}
	r.counts[from][why]++
}

func (r *refusals) of(from record.Identity, why string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[from][why]
}

// greeted tells whether a host takes votes over a stream that is opened now.
func greeted(t *testing.T, from, to *node) (network.Stream, bool) {
	t.Helper()
	r, err := from.running()
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.stream(t.Context(), to.Identity(), distribution.VoteProtocol)
	if err != nil {
		return nil, false
	}
	t.Cleanup(func() { _ = s.Reset() })
	_ = s.SetDeadline(time.Now().Add(time.Minute))
	_ = writeFrame(s)
	_, err = readFrame(s, 0)
	return s, err == nil
}

func TestRefusalsAreTold(t *testing.T) {
	var in inbox
	var told refusals
	member, stranger := idOf(t, 2), idOf(t, 3)
	a := start(t, 1, emptyStore(), func(c *Config) { in.member(member)(c); c.Refused = told.refused })
	b := start(t, 2, emptyStore(), nil, a)
	c := start(t, 3, emptyStore(), nil, a)
	if _, ok := greeted(t, c, a); ok {
		t.Error("a stranger may vote")
	}
	s, ok := greeted(t, b, a)
	if !ok {
		t.Fatal("a member may not vote")
	}
	if _, err := s.Write(binary.BigEndian.AppendUint32(nil, distribution.MaxMessage+1)); err != nil {
		t.Fatal(err)
	}
	storetest.Await(t, func() bool {
		return told.of(stranger, distribution.RefusedForeign) == 1 && told.of(member, distribution.RefusedOversized) == 1
	})
}

// A member that is shut out loses its connections and may not send, but gets
// and gives blobs; and what is sent to it arrives.
func TestRefuse(t *testing.T) {
	var in, out inbox
	both := []record.Identity{idOf(t, 1), idOf(t, 2)}
	a := start(t, 1, emptyStore(), in.member(both...))
	b := start(t, 2, emptyStore(), out.member(both...), a)
	storetest.Await(t, func() bool { return in.connects() == 1 && out.connects() == 1 })
	since := b.Peers()[0].Since

	a.Refuse(b.Identity(), time.Now().Add(time.Hour))
	storetest.Await(t, func() bool {
		peers := b.Peers()
		return len(peers) == 1 && peers[0].Since.After(since) && in.connects() == 2
	})
	if _, ok := greeted(t, b, a); ok {
		t.Error("it may vote")
	}
	if err := a.Send(t.Context(), b.Identity(), []byte("hello")); err != nil {
		t.Fatal(err)
	}
	storetest.Await(t, func() bool { return len(out.messages()) == 1 })
	data := storetest.Random(1000, 1)
	if got := readAllOf(t, b.Host, put(t, a.store, data)); !bytes.Equal(got, data) {
		t.Error("other bytes")
	}
	data = storetest.Random(1000, 2)
	if got := readAllOf(t, a.Host, put(t, b.store, data)); !bytes.Equal(got, data) {
		t.Error("other bytes")
	}

	a.Refuse(b.Identity(), time.Time{})
	storetest.Await(t, func() bool { return out.connects() >= 2 })
}
