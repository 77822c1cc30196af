package libp2p

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"go.uber.org/goleak"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/distribution"
	"github.com/pyrsia/appliance/modules/record"
	"github.com/pyrsia/appliance/modules/store"
	"github.com/pyrsia/appliance/modules/store/memory"
	"github.com/pyrsia/appliance/modules/store/storetest"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(errandVariable); text != "" {
		if err := child(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m,
		// One sweeper for all traffic counters of the process, for ever.
		goleak.IgnoreAnyFunction("github.com/libp2p/go-flow-metrics.(*sweeper).run"),
	)
}

// room is the store as distribution sees it; node has the same adapter.
type room struct{ storetest.Store }

func (r room) Begin(desc artifact.Descriptor) (distribution.Download, error) {
	d, err := r.Store.Begin(desc)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (r room) Through(desc artifact.Descriptor) distribution.Download { return store.NewThrough(desc) }

// quick are waits for tests: short where waiting is the point, long where a
// loaded machine must not be taken for a dead one.
var quick = Timing{
	Ping: 200 * time.Millisecond, PingWait: 5 * time.Second, RetryFirst: 5 * time.Millisecond,
	RetryLast: 50 * time.Millisecond, RetryIdle: 50 * time.Millisecond, Hedge: 500 * time.Millisecond,
	Grace: 20 * time.Second, KeepAlive: 200 * time.Millisecond,
}

type node struct {
	*Host
	store storetest.Store
	key   [32]byte
	stop  func()
}

func (n *node) addresses() []string { return n.Addresses() }

// seedOf is a test node's key: the n-th byte all over.
func seedOf(n byte) (key [32]byte) {
	for i := range key {
		key[i] = n
	}
	return key
}

func idOf(t testing.TB, n byte) record.Identity {
	key := seedOf(n)
	h, err := New(Config{Key: key[:]}, room{memory.New()})
	if err != nil {
		t.Fatal(err)
	}
	return h.Identity()
}

// start runs a host on loopback with the given changes to its configuration.
func start(t testing.TB, n byte, s storetest.Store, change func(*Config), peers ...*node) *node {
	t.Helper()
	key := seedOf(n)
	config := Config{
		Key: key[:], Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Share: true, Version: "test",
		Peers: map[record.Identity][]string{}, Timing: quick, Log: slog.New(slog.DiscardHandler),
	}
	for _, p := range peers {
		config.Peers[p.Identity()] = p.addresses()
	}
	if change != nil {
		change(&config)
	}
	h, err := New(config, room{s})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	ready := h.Ready()
	go func() { done <- h.Serve(ctx) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	node := &node{Host: h, store: s, key: key}
	node.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(node.stop)
	for _, p := range peers {
		storetest.Await(t, func() bool { return h.Connected(p.Identity()) && p.Connected(h.Identity()) })
	}
	return node
}

func put(t testing.TB, s storetest.Store, data []byte) artifact.Descriptor {
	t.Helper()
	desc, err := s.Put(context.Background(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

func readAllOf(t testing.TB, h *Host, desc artifact.Descriptor) []byte {
	t.Helper()
	r, err := h.Open(context.Background(), desc)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestFetchOverTCPAndQUIC(t *testing.T) {
	for _, listen := range []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"} {
		t.Run(listen, func(t *testing.T) {
			a := start(t, 1, memory.New(), func(c *Config) { c.Listen = []string{listen} })
			b := start(t, 2, memory.New(), func(c *Config) { c.Listen = []string{listen} }, a)
			for i, size := range []int{0, 1, store.Group, store.MaxSlice, 5*store.MaxSlice + 77} {
				data := storetest.Random(size, byte(i))
				desc := put(t, a.store, data)
				if got := readAllOf(t, b.Host, desc); !bytes.Equal(got, data) {
					t.Errorf("size %d: other bytes", size)
				}
				if err := b.Fetch(t.Context(), desc); err != nil {
					t.Fatal(err)
				}
				if !b.store.Has(desc.SHA256) {
					t.Errorf("size %d: not in the store", size)
				}
				want := map[record.Identity]int64{a.Identity(): int64(size)}
				if got := b.Sources(desc.SHA256); size > 0 && (len(got) != 1 || got[a.Identity()] != want[a.Identity()]) {
					t.Errorf("sources %v, want %v", got, want)
				}
			}
		})
	}
}

// A download limit holds over all sources and transfers together, and is changed while
// they run.
func TestDownloadRate(t *testing.T) {
	const rate, size = 8 << 20, 8 << 20
	a, b := start(t, 1, memory.New(), nil), start(t, 2, memory.New(), nil)
	c := start(t, 3, memory.New(), func(c *Config) { c.DownloadRate = rate }, a, b)
	began := time.Now()
	var fetching sync.WaitGroup
	for i := range 2 {
		desc := put(t, a.store, storetest.Random(size, byte(i)))
		put(t, b.store, storetest.Random(size, byte(i)))
		fetching.Go(func() {
			if err := c.Fetch(t.Context(), desc); err != nil {
				t.Error(err)
			}
		})
	}
	fetching.Wait()
	// The bucket lets a burst pass first, and what was asked for last need not have been
	// waited for.
	if took, least := time.Since(began), time.Second*(2*size-rate/10-4*store.MaxSlice)/rate; took < least {
		t.Errorf("%d bytes came in %v; at %d a second it takes %v and more", 2*size, took, rate, least)
	}
	c.SetDownloadRate(0)
	desc := put(t, a.store, storetest.Random(size, 9))
	if err := c.Fetch(t.Context(), desc); err != nil {
		t.Error(err)
	}
}

func TestPeersAreShown(t *testing.T) {
	a := start(t, 1, memory.New(), nil)
	b := start(t, 2, memory.New(), nil, a)
	storetest.Await(t, func() bool {
		peers := b.Peers()
		return len(peers) == 1 && peers[0].RTT > 0 && peers[0].Agent == "pyrsia/test" && peers[0].In > 0 && peers[0].Out > 0
	})
	p := b.Peers()[0]
	if p.Identity != a.Identity() || p.Direction != "outbound" || p.Since.IsZero() || len(p.Addresses) == 0 {
		t.Errorf("%+v", p)
	}
	if len(a.Addresses()) != 1 {
		t.Errorf("addresses %v", a.Addresses())
	}
}

func TestPortInUse(t *testing.T) {
	a := start(t, 1, memory.New(), nil)
	key := seedOf(2)
	h, err := New(Config{Key: key[:], Listen: a.addresses(), Log: slog.New(slog.DiscardHandler)}, room{memory.New()})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Serve(t.Context()); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	} else {
		t.Log(err)
	}
}

// Other addresses are listened on while a download runs over the one that goes.
func TestListen(t *testing.T) {
	for kind, listen := range map[string]string{"TCP": "/ip4/127.0.0.1/tcp/0", "QUIC": "/ip4/127.0.0.1/udp/0/quic-v1"} {
		t.Run(kind, func(t *testing.T) {
			a := start(t, 1, memory.New(), func(c *Config) { c.Listen = []string{listen} })
			b := start(t, 2, memory.New(), nil, a)
			before := a.addresses()
			desc := put(t, a.store, storetest.Random(20*store.MaxSlice, 1))
			r, err := b.Open(t.Context(), desc)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if _, err := io.CopyN(io.Discard, r, store.MaxSlice); err != nil {
				t.Fatal(err)
			}
			commit, _, err := a.Listen([]string{"/ip4/127.0.0.1/tcp/0"})
			if kind == "TCP" { // the same: nothing is to be done
				commit, _, err = a.Listen([]string{"/ip4/127.0.0.2/tcp/0"})
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(a.addresses()) != 2 {
				t.Errorf("before the commit it listens on %v", a.addresses())
			}
			commit()
			after := a.addresses()
			if len(after) != 1 || after[0] == before[0] {
				t.Errorf("it listens on %v, before on %v", after, before)
			}
			if _, err := io.Copy(io.Discard, r); err != nil {
				t.Errorf("the open download: %v", err)
			}
			start(t, 3, memory.New(), nil, a) // connects by the new address
		})
	}
}

// A list with an address that is not to be had changes nothing, nor does undo.
func TestListenChangesAllOrNothing(t *testing.T) {
	a, b := start(t, 1, memory.New(), nil), start(t, 2, memory.New(), nil)
	before := fmt.Sprint(a.addresses())
	if _, _, err := a.Listen([]string{"/ip4/127.0.0.2/tcp/0", b.addresses()[0]}); err == nil {
		t.Error("a port in use is taken")
	} else if got := fmt.Sprint(a.addresses()); got != before {
		t.Errorf("it listens on %s, before on %s", got, before)
	}
	_, undo, err := a.Listen([]string{"/ip4/127.0.0.2/tcp/0"})
	if err != nil {
		t.Fatal(err)
	}
	undo()
	if got := fmt.Sprint(a.addresses()); got != before {
		t.Errorf("undone, it listens on %s, before on %s", got, before)
	}
}

func TestReconnectsAfterRestart(t *testing.T) {
	a := start(t, 1, memory.New(), nil)
	addresses := a.addresses()
	b := start(t, 2, memory.New(), nil, a)
	for range 3 {
		a.stop()
		storetest.Await(t, func() bool { return !b.Connected(a.Identity()) })
		a = start(t, 1, a.store, func(c *Config) { c.Listen = addresses })
		storetest.Await(t, func() bool { return b.Connected(a.Identity()) })
	}
}

func TestNoSource(t *testing.T) {
	a := start(t, 1, memory.New(), nil)
	hoarder := start(t, 3, memory.New(), func(c *Config) { c.Share = false })
	b := start(t, 2, memory.New(), nil, a, hoarder)
	data := storetest.Random(1000, 1)
	desc := put(t, hoarder.store, data)
	if _, err := b.Open(t.Context(), desc); !errors.Is(err, distribution.ErrNoSource) {
		t.Errorf("Open: %v", err)
	}
	if err := b.Fetch(t.Context(), desc); !errors.Is(err, distribution.ErrNoSource) {
		t.Errorf("Fetch: %v", err)
	}
	hoarder.SetShare(true)
	if err := b.Fetch(t.Context(), desc); err != nil {
		t.Errorf("Fetch when it shares: %v", err)
	}
	b.stop()
	if _, err := b.Open(t.Context(), desc); !errors.Is(err, distribution.ErrNotServing) {
		t.Errorf("Open of a stopped host: %v", err)
	}
}

// A node that has just started waits for its peers before it gives up.
func TestFetchWhileConnecting(t *testing.T) {
	a := start(t, 1, memory.New(), nil)
	data := storetest.Random(1000, 1)
	desc := put(t, a.store, data)
	b := start(t, 2, memory.New(), func(c *Config) {
		c.Peers = map[record.Identity][]string{a.Identity(): a.addresses()}
	})
	if got := readAllOf(t, b.Host, desc); !bytes.Equal(got, data) {
		t.Error("other bytes")
	}
}

// A peer that does not answer, as after a power cut, is closed and dialled anew.
func TestDeadPeerIsClosed(t *testing.T) {
	a := start(t, 1, memory.New(), nil)
	r, err := a.running()
	if err != nil {
		t.Fatal(err)
	}
	b := start(t, 2, memory.New(), func(c *Config) { c.Timing.PingWait = 500 * time.Millisecond }, a)
	storetest.Await(t, func() bool { return len(b.Peers()) == 1 && b.Peers()[0].RTT > 0 })
	since := b.Peers()[0].Since
	r.handle(ping.ID, func(s network.Stream) { until(s) })
	storetest.Await(t, func() bool {
		peers := b.Peers()
		return len(peers) == 1 && peers[0].Since.After(since)
	})
}

func TestSetPeers(t *testing.T) {
	a := start(t, 1, memory.New(), nil)
	b := start(t, 2, memory.New(), nil)
	if err := b.SetPeers(map[record.Identity][]string{a.Identity(): a.addresses()}); err != nil {
		t.Fatal(err)
	}
	storetest.Await(t, func() bool { return b.Connected(a.Identity()) })
	if err := b.SetPeers(nil); err != nil {
		t.Fatal(err)
	}
	a.stop()
	storetest.Await(t, func() bool { return !b.Connected(a.Identity()) })
	if err := b.SetPeers(map[record.Identity][]string{"x": nil}); err == nil {
		t.Error("a peer that is none")
	}
}

// Serve can be called again after it has ended.
func TestServeAgain(t *testing.T) {
	key := seedOf(1)
	h, err := New(Config{Key: key[:], Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Log: slog.New(slog.DiscardHandler)}, room{memory.New()})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		ready, done := h.Ready(), make(chan error, 1)
		go func() { done <- h.Serve(ctx) }()
		<-ready
		if len(h.Addresses()) != 1 {
			t.Errorf("addresses %v", h.Addresses())
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if h.Addresses() != nil || h.Peers() != nil {
			t.Error("a stopped host shows something")
		}
	}
}
