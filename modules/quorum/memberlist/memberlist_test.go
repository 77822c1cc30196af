package memberlist

import (
	"slices"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/record"
	"github.com/pyrsia/appliance/modules/store/storetest"
)

func TestMembersTellEachOther(t *testing.T) {
	_, nodes := several(t, 4)
	for i, n := range nodes {
		n.tell(State{Height: int64(i) + 7, Limit: 4, Running: int64(i), Waiting: 2, Software: "test"})
	}
	for i, n := range nodes {
		for _, other := range nodes {
			if other == n {
				continue
			}
			want := State{Height: int64(i) + 7, Limit: 4, Running: int64(i), Waiting: 2, Software: "test", Version: 1}
			storetest.Await(t, func() bool { return other.sees(n.id()).State == want })
			if other.sees(n.id()).Told.IsZero() {
				t.Error("told at no time")
			}
		}
	}
	for _, n := range nodes {
		if refused := n.refusals(); refused != nil {
			t.Errorf("an honest member is refused: %v", refused)
		}
		for _, other := range nodes {
			if n.losses(other.id()) > 0 {
				t.Errorf("%s found %s away", n.id().Short(), other.id().Short())
			}
		}
	}
}

// A set that changes is followed without a restart, in both directions.
func TestSetChanges(t *testing.T) {
	members, nodes := several(t, 3)
	all, gone := members.list(), nodes[2]
	members.change(all[0], all[1])
	for _, n := range nodes[:2] {
		storetest.Await(t, func() bool { return len(n.members.Members()) == 1 })
		if s, err := (streams{gone.host}).Open(t.Context(), n.id()); err == nil {
			_ = s.WriteFrame(t.Context(), []byte{frameState})
			if _, err := s.ReadFrame(t.Context()); err == nil {
				t.Error("a member that was removed is heard")
			}
		}
	}
	// memberlist finds it dead, since nothing goes to it any more.
	storetest.Await(t, func() bool { return !nodes[0].running(t).listed()[gone.id()] })
	members.change(all...)
	for _, n := range nodes[:2] {
		storetest.Await(t, func() bool { return n.sees(gone.id()).Presence == Alive && gone.sees(n.id()).Presence == Alive })
	}
	if nodes[0].losses(nodes[1].id()) > 0 {
		t.Error("a member that stayed was lost")
	}
}

func (n *node) running(t *testing.T) *run {
	t.Helper()
	n.members.mu.Lock()
	defer n.members.mu.Unlock()
	if n.members.run == nil {
		t.Fatal("it does not run")
	}
	return n.members.run
}

// A member whose host closes, as when its process dies, is found away by this
// node's own dial, at once; one that comes back is found again.
func TestClosedHost(t *testing.T) {
	members, nodes := several(t, 3)
	gone := nodes[2]
	began := time.Now()
	gone.cut()
	for _, n := range nodes[:2] {
		storetest.Await(t, func() bool {
			last, found := n.last(gone.id())
			return found && !last.reachable && n.sees(gone.id()).Presence == Away
		})
		last, _ := n.last(gone.id())
		t.Logf("away %v after its host began to close", last.at.Sub(began))
		if last.at.Sub(began) > time.Second {
			t.Error("too late")
		}
	}
	gone.stop()
	back := start(t, 3, members, nodes[0], nodes[1])
	for _, n := range nodes[:2] {
		storetest.Await(t, func() bool {
			last, _ := n.last(back.id())
			return last.reachable && n.sees(back.id()).Presence == Alive && back.sees(n.id()).Presence == Alive
		})
	}
}

// Serve can be called again, and what was known stays known.
func TestServeAgain(t *testing.T) {
	_, nodes := several(t, 2)
	a, b := nodes[0], nodes[1]
	b.tell(State{Height: 9})
	storetest.Await(t, func() bool { return a.sees(b.id()).State.Height == 9 })
	a.leave()
	if got := a.sees(b.id()).Presence; got != Suspect {
		t.Errorf("a node that does not ask says %s", got)
	}
	a.meet()
	if a.sees(b.id()).State.Height != 9 {
		t.Error("it forgot")
	}
	storetest.Await(t, func() bool { return a.sees(b.id()).Presence == Alive })
}

// What others say of a member makes this node ask it, and nothing else.
func TestHearsay(t *testing.T) {
	_, nodes := several(t, 3)
	a, liar, victim := nodes[0], nodes[1], nodes[2]
	s := liar.stream(t, a.id())
	defer s.Close()
	lie := func(kind byte, node, from record.Identity) {
		t.Helper()
		if err := s.WriteFrame(t.Context(), packet(t, kind, map[string]any{"Incarnation": 1<<32 - 1, "Node": string(node), "From": string(from)})); err != nil {
			t.Fatal(err)
		}
	}
	lie(kindSuspect, victim.id(), liar.id())
	lie(kindDead, victim.id(), liar.id())
	// memberlist believes it, and the victim cannot take it back: no number is
	// higher. Its presence is doubted, but it stays reachable.
	storetest.Await(t, func() bool { return a.sees(victim.id()).Presence == Suspect })
	for range 3 {
		asked := a.questions(t, victim.id())
		storetest.Await(t, func() bool { return a.questions(t, victim.id()) != asked })
		lie(kindDead, victim.id(), victim.id())
	}
	if a.losses(victim.id()) > 0 {
		t.Error("hearsay made a member unreachable")
	}
	if slices.Contains(a.refusals(), liar.id()) {
		t.Error("hearsay is refused")
	}
}

// questions is the round trip of the last question that a member answered: it
// changes with each.
func (n *node) questions(t *testing.T, id record.Identity) time.Duration {
	t.Helper()
	n.members.mu.Lock()
	defer n.members.mu.Unlock()
	return n.members.peers[id].rtt
}

func (n *node) stream(t *testing.T, to record.Identity) Stream {
	t.Helper()
	s, err := streams{n.host}.Open(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Who sends what no member sends is refused, and its stream ends.
func TestEvilFrames(t *testing.T) {
	_, nodes := several(t, 2)
	a, evil := nodes[0], nodes[1]
	for name, frame := range map[string][]byte{
		"an empty frame":       {},
		"an unknown kind":      []byte("z"),
		"junk for a packet":    []byte("p\xff"),
		"a packet of another":  packet(t, kindPing, pingOf("somebody", 1)),
		"a compression bomb":   packet(t, 9, fields{"Algo": 0, "Buf": make([]byte, 1000)}),
		"a bad state":          []byte("s{}"),
		"a huge state":         append([]byte("s"), make([]byte, MaxState+1)...),
		"a kind of exchange":   []byte("x\x08user"),
		"no exchange":          []byte("x"),
		"an exchange of many":  append([]byte("x"), pack(t, kindPushPull, fields{"Nodes": 1 << 20})...),
		"a state in exchanges": append([]byte("x"), pack(t, kindPushPull, fields{"Nodes": 1, "UserStateLen": 1 << 24})...),
	} {
		before := len(a.refusals())
		s := evil.stream(t, a.id())
		if err := s.WriteFrame(t.Context(), frame); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ReadFrame(t.Context()); err == nil {
			t.Errorf("%s: answered", name)
		}
		storetest.Await(t, func() bool { return len(a.refusals()) == before+1 })
		_ = s.Close()
	}
	if a.losses(evil.id()) > 0 {
		t.Error("it is unreachable")
	}
}

// A flood of packets is dropped, and hides nobody.
func TestPacketFlood(t *testing.T) {
	_, nodes := several(t, 3)
	a, evil, good := nodes[0], nodes[1], nodes[2]
	s := evil.stream(t, a.id())
	defer s.Close()
	flood := packet(t, kindSuspect, fields{"Incarnation": 0, "Node": string(good.id()), "From": string(evil.id())})
	for range 20 * packetBurst {
		if err := s.WriteFrame(t.Context(), flood); err != nil {
			t.Fatal(err)
		}
	}
	good.tell(State{Height: 5})
	storetest.Await(t, func() bool { return a.sees(good.id()).State.Height == 5 })
	if a.losses(good.id()) > 0 {
		t.Error("another member is unreachable")
	}
}
