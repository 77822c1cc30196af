package memberlist

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/distribution"
	"github.com/pyrsia/appliance/modules/distribution/libp2p"
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
		// Shutdown does not wait for the end of a probe, which comes by itself.
		goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"),
	)
}

// room is an empty store as distribution sees it.
type room struct{ storetest.Store }

func (r room) Begin(desc artifact.Descriptor) (distribution.Download, error) {
	d, err := r.Store.Begin(desc)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (r room) Through(desc artifact.Descriptor) distribution.Download { return store.NewThrough(desc) }

// streams is a host as Members sees it; node has the same adapter.
type streams struct{ *libp2p.Host }

func (s streams) Open(ctx context.Context, to record.Identity) (Stream, error) {
	stream, err := s.Meet(ctx, to)
	if err != nil {
		return nil, err
	}
	return stream, nil
}

func (s streams) Reach(ctx context.Context, id record.Identity) error {
	err := s.Host.Reach(ctx, id)
	if errors.Is(err, distribution.ErrUnreachable) {
		return fmt.Errorf("%w: %w", ErrSilent, err)
	}
	return err
}

// set is a set of members that changes.
type set struct {
	mu  sync.Mutex
	ids []record.Identity
}

func (s *set) list() []record.Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ids)
}

func (s *set) change(ids ...record.Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids = ids
}

func (s *set) has(id record.Identity) bool { return slices.Contains(s.list(), id) }

func seedOf(n byte) []byte {
	key := make([]byte, 32)
	for i := range key {
		key[i] = n
	}
	return key
}

func idOf(t testing.TB, n byte) record.Identity {
	h, err := libp2p.New(libp2p.Config{Key: seedOf(n)}, room{memory.New()})
	if err != nil {
		t.Fatal(err)
	}
	return h.Identity()
}

// outcome is one call of Reachable.
type outcome struct {
	id        record.Identity
	reachable bool
	at        time.Time
}

// node is a member: a host and its Members.
type node struct {
	host    *libp2p.Host
	members *Members
	leave   func()
	cut     func() // closes the host
	stop    func() // both

	mu       sync.Mutex
	state    State
	outcomes []outcome
	refused  []record.Identity
}

// make makes a node's parts and starts none.
func (n *node) make(key []byte, set *set, peers map[record.Identity][]string, timing Timing) (err error) {
	meet := func(from record.Identity, s *libp2p.MemberStream) { n.members.Accept(from, s) }
	n.host, err = libp2p.New(libp2p.Config{
		Key: key, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Peers: peers, Members: set.has, Meet: meet,
		Receive:   func(record.Identity, []byte) {},
		OnConnect: func(_ context.Context, to record.Identity) error { n.members.Connected(to); return nil }, OnDisconnect: func(from record.Identity) { n.members.Doubt(from) },
		Log: slog.New(slog.DiscardHandler),
	}, room{memory.New()})
	if err != nil {
		return err
	}
	n.members, err = New(Config{
		Self: n.host.Identity(), Set: set.list, State: n.tells, Reachable: n.reachable, Refused: n.refuses,
		Log: slog.New(slog.DiscardHandler), Timing: timing,
	}, streams{n.host})
	return err
}

// run serves until stop is called, which joins everything.
func (n *node) run() error {
	ctx, cut := context.WithCancel(context.Background())
	ready, done := n.host.Ready(), make(chan error, 1)
	go func() { done <- n.host.Serve(ctx) }()
	select {
	case <-ready:
	case err := <-done:
		cut()
		return err
	}
	n.meet()
	n.cut = sync.OnceFunc(func() { cut(); <-done })
	n.stop = func() { n.leave(); n.cut() }
	return nil
}

// meet serves the members only, until leave is called.
func (n *node) meet() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.members.Serve(ctx) }()
	n.leave = sync.OnceFunc(func() {
		cancel()
		<-done
	})
}

func (n *node) tells() State {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state
}

func (n *node) tell(s State) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state = s
}

func (n *node) reachable(id record.Identity, reachable bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.outcomes = append(n.outcomes, outcome{id, reachable, time.Now()})
	return true
}

func (n *node) refuses(id record.Identity) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refused = append(n.refused, id)
}

// last is the newest outcome about a member.
func (n *node) last(id record.Identity) (outcome, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := len(n.outcomes) - 1; i >= 0; i-- {
		if n.outcomes[i].id == id {
			return n.outcomes[i], true
		}
	}
	return outcome{}, false
}

// losses counts how often a member was found not to answer.
func (n *node) losses(id record.Identity) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	lost := 0
	for _, o := range n.outcomes {
		if o.id == id && !o.reachable {
			lost++
		}
	}
	return lost
}

func (n *node) refusals() []record.Identity {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.refused)
}

func (n *node) id() record.Identity { return n.host.Identity() }

// sees is a member as this node sees it.
func (n *node) sees(id record.Identity) Member {
	for _, m := range n.members.Members() {
		if m.Identity == id {
			return m
		}
	}
	return Member{Identity: id}
}

// start runs a node that stays connected to the given ones.
func start(t *testing.T, key byte, set *set, peers ...*node) *node {
	t.Helper()
	addresses := map[record.Identity][]string{}
	for _, p := range peers {
		addresses[p.id()] = p.host.Addresses()
	}
	n := new(node)
	// Patient, so that a loaded machine is not taken for a dead member.
	if err := n.make(seedOf(key), set, addresses, Timing{Pulse: 100 * time.Millisecond, Patience: 3 * time.Second}); err != nil {
		t.Fatal(err)
	}
	if err := n.run(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.stop() })
	return n
}

// several starts nodes of one set, each connected to those before it, and waits
// until all see all.
func several(t *testing.T, count byte) (*set, []*node) {
	t.Helper()
	members := new(set)
	var ids []record.Identity
	for key := range count {
		ids = append(ids, idOf(t, key+1))
	}
	members.change(ids...)
	var nodes []*node
	for key := range count {
		nodes = append(nodes, start(t, key+1, members, nodes...))
	}
	for _, n := range nodes {
		for _, id := range ids {
			if id != n.id() {
				storetest.Await(t, func() bool { return n.sees(id).Presence == Alive })
			}
		}
	}
	for _, n := range nodes { // nobody was there at first
		n.mu.Lock()
		n.outcomes = nil
		n.mu.Unlock()
	}
	return members, nodes
}
