package libp2p

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/pyrsia/appliance/modules/distribution"
	"github.com/pyrsia/appliance/modules/record"
	"github.com/pyrsia/appliance/modules/store/memory"
	"github.com/pyrsia/appliance/modules/store/storetest"
)

func emptyStore() storetest.Store { return memory.New() }

// inbox keeps what a member receives.
type inbox struct {
	mu        sync.Mutex
	got       []string
	connected []record.Identity
}

func (i *inbox) receive(from record.Identity, payload []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.got = append(i.got, fmt.Sprintf("%s:%s", from.Short(), payload))
}

func (i *inbox) onConnect(_ context.Context, to record.Identity) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.connected = append(i.connected, to)
	return nil
}

func (i *inbox) messages() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]string(nil), i.got...)
}

func (i *inbox) connects() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.connected)
}

// member configures a host for votes among the given members.
func (i *inbox) member(members ...record.Identity) func(*Config) {
	return func(c *Config) {
		c.Receive, c.OnConnect = i.receive, i.onConnect
		c.Members = func(id record.Identity) bool {
			for _, m := range members {
				if m == id {
					return true
				}
			}
			return false
		}
	}
}

func TestVotes(t *testing.T) {
	ids := []record.Identity{idOf(t, 1), idOf(t, 2), idOf(t, 3)}
	var in [3]inbox
	a := start(t, 1, emptyStore(), in[0].member(ids...))
	b := start(t, 2, emptyStore(), in[1].member(ids...), a)
	c := start(t, 3, emptyStore(), in[2].member(ids...), a, b)
	for i := range in {
		storetest.Await(t, func() bool { return in[i].connects() >= 2 })
	}
	if err := a.Broadcast([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	for n := range 100 {
		if err := b.Send(t.Context(), c.Identity(), fmt.Appendf(nil, "%d", n)); err != nil {
			t.Fatal(err)
		}
	}
	storetest.Await(t, func() bool { return len(in[1].messages()) == 1 && len(in[2].messages()) == 101 })
	next := 0
	for _, m := range in[2].messages() {
		if m == b.Identity().Short()+":"+fmt.Sprint(next) {
			next++
		} else if m != a.Identity().Short()+":hello" {
			t.Errorf("out of order: %q", m)
		}
	}
	if err := a.Send(t.Context(), a.Identity(), nil); err == nil {
		t.Error("to oneself")
	}
	if err := a.Send(t.Context(), b.Identity(), make([]byte, distribution.MaxMessage+1)); err == nil {
		t.Error("too long")
	}
	if err := a.Send(t.Context(), "nobody", nil); err == nil {
		t.Error("to nobody")
	}
}

func TestVotesFromStrangersAreRefused(t *testing.T) {
	member, stranger := idOf(t, 1), idOf(t, 2)
	var in, out inbox
	a := start(t, 1, emptyStore(), in.member(member))
	b := start(t, 2, emptyStore(), out.member(member, stranger), a)
	if err := b.Send(t.Context(), a.Identity(), []byte("let me in")); err != nil {
		t.Fatal(err)
	}
	// Each try opens a stream that a refuses; three are enough to see.
	r, err := b.running()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s, err := r.stream(t.Context(), a.Identity(), distribution.VoteProtocol)
		if err != nil {
			t.Fatal(err)
		}
		_ = writeFrame(s, []byte("vote"))
		if _, err := readFrame(s, 0); err == nil {
			t.Error("greeted")
		}
		_ = s.Reset()
	}
	if got := in.messages(); len(got) != 0 || out.connects() != 0 {
		t.Errorf("received %v", got)
	}
}

func TestVoteFrameTooLong(t *testing.T) {
	ids := []record.Identity{idOf(t, 1), idOf(t, 2)}
	var in, out inbox
	a := start(t, 1, emptyStore(), in.member(ids...))
	b := start(t, 2, emptyStore(), out.member(ids...), a)
	r, err := b.running()
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.stream(t.Context(), a.Identity(), distribution.VoteProtocol)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(binary.BigEndian.AppendUint32(nil, distribution.MaxMessage+1)); err != nil {
		t.Fatal(err)
	}
	_ = s.SetReadDeadline(time.Now().Add(time.Minute))
	for err == nil { // the greeting may come before the end
		_, err = readFrame(s, 0)
	}
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() || len(in.messages()) != 0 {
		t.Errorf("the line is still open: %v", err)
	}
}

func TestVotesAfterRestart(t *testing.T) {
	ids := []record.Identity{idOf(t, 1), idOf(t, 2)}
	var in, out inbox
	a := start(t, 1, emptyStore(), in.member(ids...))
	addresses := a.addresses()
	ended := make(chan record.Identity, 10)
	b := start(t, 2, emptyStore(), func(c *Config) {
		out.member(ids...)(c)
		c.OnDisconnect = func(from record.Identity) { ended <- from }
	}, a)
	storetest.Await(t, func() bool { return out.connects() == 1 })
	a.stop()
	storetest.Await(t, func() bool { return !b.Connected(a.Identity()) })
	<-ended // a line that has yet to notice takes a message with it
	// While it is away only the newest wait for it.
	for n := range lineQueue + 10 {
		if err := b.Send(t.Context(), a.Identity(), fmt.Appendf(nil, "%d", n)); err != nil {
			t.Fatal(err)
		}
	}
	start(t, 1, emptyStore(), func(c *Config) { in.member(ids...)(c); c.Listen = addresses })
	storetest.Await(t, func() bool { return out.connects() == 2 && len(in.messages()) == lineQueue })
	if got, want := in.messages()[0], b.Identity().Short()+":10"; got != want {
		t.Errorf("first message %q, want %q", got, want)
	}
}

// TestNewLineIsIntroduced: nothing goes over a line before who uses it has taken it,
// what was queued for the line before can be dropped, and who does not take a line is
// offered another one.
func TestNewLineIsIntroduced(t *testing.T) {
	ids := []record.Identity{idOf(t, 1), idOf(t, 2)}
	var in, out inbox
	a := start(t, 1, emptyStore(), in.member(ids...))
	offers, take := make(chan int), make(chan error)
	var b *node
	offered := 0
	b = start(t, 2, emptyStore(), func(c *Config) {
		out.member(ids...)(c)
		c.OnConnect = func(ctx context.Context, to record.Identity) error {
			offered++
			select {
			case offers <- offered:
				return <-take
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}, a)
	<-offers
	if err := b.Send(t.Context(), a.Identity(), []byte("before")); err != nil {
		t.Fatal(err)
	}
	take <- errors.New("not now")
	if <-offers; len(in.messages()) > 0 {
		t.Errorf("received %v over a line that nobody took", in.messages())
	}
	b.Discard(a.Identity())
	b.Discard("nobody")
	if err := b.Send(t.Context(), a.Identity(), []byte("after")); err != nil {
		t.Fatal(err)
	}
	take <- nil
	storetest.Await(t, func() bool { return len(in.messages()) > 0 })
	if got, want := fmt.Sprint(in.messages()), fmt.Sprint([]string{b.Identity().Short() + ":after"}); got != want {
		t.Errorf("received %v, want %v", got, want)
	}
}

// TestRenewLines: a line that is open is offered anew, and what waited for it is gone.
func TestRenewLines(t *testing.T) {
	ids := []record.Identity{idOf(t, 1), idOf(t, 2)}
	var in, out inbox
	a := start(t, 1, emptyStore(), in.member(ids...))
	offers, take := make(chan struct{}), make(chan struct{})
	b := start(t, 2, emptyStore(), func(c *Config) {
		out.member(ids...)(c)
		c.OnConnect = func(context.Context, record.Identity) error {
			offers <- struct{}{}
			<-take
			return nil
		}
	}, a)
	send := func(text string) {
		t.Helper()
		if err := b.Send(t.Context(), a.Identity(), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	<-offers
	send("dropped")
	b.RenewLines()
	take <- struct{}{}
	<-offers
	send("kept")
	take <- struct{}{}
	storetest.Await(t, func() bool { return len(in.messages()) > 0 })
	b.RenewLines()
	<-offers
	take <- struct{}{}
	if got, want := fmt.Sprint(in.messages()), fmt.Sprint([]string{b.Identity().Short() + ":kept"}); got != want {
		t.Errorf("received %v, want %v", got, want)
	}
}

func TestLineKeepsTheNewest(t *testing.T) {
	l := &line{wake: make(chan struct{}, 1)}
	for range 5 {
		l.push(make([]byte, distribution.MaxMessage))
	}
	if l.bytes > lineBytes || len(l.queue) != 3 {
		t.Errorf("%d messages of %d bytes wait", len(l.queue), l.bytes)
	}
}

// blocks is a chain in memory.
type blocks struct {
	mu      sync.Mutex
	all     [][]byte
	changed chan struct{}
}

func newBlocks(n int) *blocks {
	b := &blocks{changed: make(chan struct{})}
	for range n {
		b.add()
	}
	return b
}

func (b *blocks) add() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, fmt.Appendf(nil, "block %d", len(b.all)))
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *blocks) Block(height int64) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if height >= int64(len(b.all)) {
		return nil, errors.New("no such block")
	}
	return b.all[height], nil
}

func (b *blocks) Wait(ctx context.Context, height int64) error {
	for {
		b.mu.Lock()
		there, changed := height < int64(len(b.all)), b.changed
		b.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestFollow(t *testing.T) {
	chain := newBlocks(50)
	a := start(t, 1, emptyStore(), func(c *Config) { c.Blocks = chain; c.Share = false })
	b := start(t, 2, emptyStore(), nil, a)
	got := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- b.Follow(ctx, a.Identity(), 10, func(block []byte) error { got <- string(block); return nil })
	}()
	for n := 10; n < 55; n++ {
		if n >= 50 {
			chain.add()
		}
		if block := <-got; block != fmt.Sprintf("block %d", n) {
			t.Fatalf("block %d is %q", n, block)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	refused := errors.New("a bad block")
	if err := b.Follow(t.Context(), a.Identity(), 0, func([]byte) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("%v", err)
	}
	if err := b.Follow(t.Context(), a.Identity(), -1, nil); err == nil {
		t.Error("from below zero")
	}
	if err := a.Follow(t.Context(), b.Identity(), 0, nil); !errors.Is(err, distribution.ErrUnreachable) {
		t.Errorf("of a node without a chain: %v", err)
	}
}

// An idle chain stays open by keep-alives; one that is silent is given up.
func TestFollowIdleAndDead(t *testing.T) {
	chain := newBlocks(1)
	a := start(t, 1, emptyStore(), func(c *Config) { c.Blocks = chain })
	b := start(t, 2, emptyStore(), func(c *Config) { c.Timing.KeepAlive = 100 * time.Millisecond }, a)
	got := make(chan string, 10)
	ended := make(chan error, 1)
	go func() {
		ended <- b.Follow(t.Context(), a.Identity(), 0, func(block []byte) error { got <- string(block); return nil })
	}()
	<-got
	idle := time.NewTimer(1500 * time.Millisecond) // three times b's patience
	defer idle.Stop()
	select {
	case err := <-ended:
		t.Fatalf("an idle chain ended: %v", err)
	case <-idle.C:
	}
	chain.add()
	<-got
	a.stop()
	if err := <-ended; !errors.Is(err, distribution.ErrUnreachable) {
		t.Errorf("%v", err)
	}

	mute := start(t, 3, emptyStore(), nil, b)
	r, err := mute.running()
	if err != nil {
		t.Fatal(err)
	}
	r.handle(distribution.ChainProtocol, func(s network.Stream) { until(s) })
	if err := b.Follow(t.Context(), mute.Identity(), 0, nil); !errors.Is(err, distribution.ErrUnreachable) {
		t.Errorf("a mute server: %v", err)
	}
}

func TestFollowRefusesHugeFrames(t *testing.T) {
	a := start(t, 1, emptyStore(), nil)
	r, err := a.running()
	if err != nil {
		t.Fatal(err)
	}
	r.handle(distribution.ChainProtocol, func(s network.Stream) {
		_, _ = s.Write(binary.BigEndian.AppendUint32(nil, distribution.MaxMessage+1))
		until(s)
	})
	b := start(t, 2, emptyStore(), nil, a)
	if err := b.Follow(t.Context(), a.Identity(), 0, nil); err == nil {
		t.Error("accepted")
	}
}

func TestConfigIsChecked(t *testing.T) {
	key := seedOf(1)
	for name, c := range map[string]Config{
		"no key":          {},
		"short key":       {Key: key[:31]},
		"listen":          {Key: key[:], Listen: []string{"localhost:4001"}},
		"peer":            {Key: key[:], Peers: map[record.Identity][]string{"beta": nil}},
		"peer's address":  {Key: key[:], Peers: map[record.Identity][]string{idOf(t, 2): {"beta:4001"}}},
		"another peer's":  {Key: key[:], Peers: map[record.Identity][]string{idOf(t, 2): {"/ip4/127.0.0.1/tcp/1/p2p/" + string(idOf(t, 3))}}},
		"negative upload": {Key: key[:], UploadRate: -1},
	} {
		if _, err := New(c, room{emptyStore()}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestEmptyFramesEndTheLine: an empty frame opens a line, and any later one is wrong.
func TestEmptyFramesEndTheLine(t *testing.T) {
	var in inbox
	var told refusals
	a := start(t, 1, emptyStore(), func(c *Config) { in.member(idOf(t, 2))(c); c.Refused = told.refused })
	b := start(t, 2, emptyStore(), nil, a)
	s, ok := greeted(t, b, a)
	if !ok {
		t.Fatal("not greeted")
	}
	for _, frame := range [][]byte{nil, []byte("hello"), nil} {
		if err := writeFrame(s, frame); err != nil {
			t.Fatal(err)
		}
	}
	storetest.Await(t, func() bool { return told.of(b.Identity(), distribution.RefusedMalformed) == 1 })
	if err := b.Send(t.Context(), a.Identity(), nil); err == nil {
		t.Error("an empty message is sent")
	}
}
