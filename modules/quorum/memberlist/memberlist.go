// Package memberlist is the presence of members: which of them answer, how far
// their chains are and how busy they are, by hashicorp/memberlist over streams
// that the node opens.
//
// # What counts
//
// Two things must not be mixed up. Whether a member answers this node is known
// by asking it: Config.Reachable is told of the outcome of this node's own
// question and of nothing else, because the order of blocks goes by it. All the
// rest is hearsay, for people, and a reason to ask: that memberlist suspects a
// member, that another member does, that a line broke, and what a member tells
// of itself. A liar can make members ask each other once a second more, and
// show a wrong height of its own; it cannot shorten anybody's turn.
//
// An open connection is no answer. A process that is frozen, or a machine
// without power, leaves it open; so Watch asks the member that is waited for
// again and again, and who does not answer within Timing.Patience is away. A
// member that answers a little later was slow, not dead: it is given twice the
// time from then on, so that a busy machine cannot keep a network from agreeing.
//
// # Trust
//
// Only members are met, in both directions; Config.Set is asked at every frame,
// so that a change of the set counts at once. A member is known under its
// identity, which the stream authenticated, and cannot speak for another: guard.go
// says how. For the same reason a State travels from member to member, over the
// sender's own stream, and not as memberlist's metadata: that is passed on by
// others, who could change it.
//
// There is neither encryption nor compression here: the streams are encrypted,
// and what is compressed can unpack to anything.
package memberlist

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	lib "github.com/hashicorp/memberlist"

	"github.com/pyrsia/appliance/modules/record"
)

// Streams is the way to other members. Safe for concurrent use.
type Streams interface {
	// Open opens a stream to a member that is connected.
	Open(ctx context.Context, to record.Identity) (Stream, error)

	// Connected tells whether there is a connection. It returns at once.
	Connected(member record.Identity) bool

	// Reach asks a member for a sign of life, dialling it if need be. nil says
	// that it answered; an error that wraps ErrSilent, that it did not before
	// ctx ended, or cannot be dialled; any other, that it could not be asked.
	Reach(ctx context.Context, member record.Identity) error
}

// Stream carries frames to and from a member whom the connection authenticated.
// One goroutine may read while another one writes. What ends with its context
// ends the stream.
type Stream interface {
	ReadFrame(ctx context.Context) ([]byte, error)
	WriteFrame(ctx context.Context, frame []byte) error
	Close() error
}

// ErrSilent says that a member gave no sign of life.
var ErrSilent = errors.New("member does not answer")

// Config is what Members is given. Its functions return fast, are safe for
// concurrent use and do not call Members.
type Config struct {
	Self record.Identity

	// Set lists the members now, this node among them.
	Set func() []record.Identity

	// State is what this node tells of itself. It is asked once per Pulse, and
	// the others are told when it changed.
	State func() State

	// Reachable is told when a member stopped to answer this node and when it
	// answers again, which includes every call of Connected. false says that it
	// could not take that, and is told again.
	Reachable func(member record.Identity, reachable bool) bool

	// Refused is told of a member that sent what no member sends; its stream
	// ends. nil for nobody.
	Refused func(from record.Identity)

	// Flooded is told of every frame of a member that was dropped unread, with its
	// bytes, because the member sends more than members do. nil for nobody.
	Flooded func(from record.Identity, size int)

	// Log is slog.Default where it is nil.
	Log *slog.Logger

	// Timing is for tests; zero fields are the defaults.
	Timing Timing
}

// Timing is every wait.
type Timing struct {
	Probe    time.Duration // between two probes of memberlist's, and for their answers; 500 ms
	Gossip   time.Duration // between two rounds of memberlist's gossip; 200 ms
	Watch    time.Duration // between two questions to the member that is waited for; 150 ms
	Patience time.Duration // for an answer, where the last ones did not take longer; 300 ms
	Pulse    time.Duration // between two looks at everything; 1 s
	Slow     time.Duration // who answers this soon after it was given up was slow; 2 s
}

func (t Timing) withDefaults() Timing {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&t.Probe, 500 * time.Millisecond}, {&t.Gossip, 200 * time.Millisecond}, {&t.Watch, 150 * time.Millisecond},
		{&t.Patience, 300 * time.Millisecond}, {&t.Pulse, time.Second}, {&t.Slow, 2 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return t
}

const (
	// protocolVersion of memberlist is what its versions have in common.
	protocolVersion = lib.ProtocolVersion2Compatible

	// slowExchange is how long an exchange of all that two members know may take.
	slowExchange = 5 * time.Second

	// leaveWait is how long the others are told of a node that stops.
	leaveWait = 300 * time.Millisecond

	// watchFor is how long a member is watched that nobody asks for again.
	watchFor = 10 * time.Second

	// packetBurst and packetRate, per second, bound the packets of one member.
	// A hundred members send each other some thirty a second.
	packetBurst = 500
	packetRate  = 250

	// exchangeCost is how many packets an exchange counts for: it is answered with all
	// that is known. Two members make one in half a minute, and when they meet.
	exchangeCost = 25
)

var errFlood = errors.New("too many exchanges")

// Members knows who is there. All methods are safe for concurrent use.
type Members struct {
	Config
	streams Streams

	mu         sync.Mutex
	peers      map[record.Identity]*peer // of the set, but for this node
	watched    record.Identity
	watchUntil time.Time
	run        *run // nil unless Serve runs
}

// run is what lives as long as one call of Serve.
type run struct {
	*Members
	ctx       context.Context // of everything but Leave
	work      sync.WaitGroup  // every goroutine of ours
	guard     guard
	transport *transport
	list      *lib.Memberlist
	told      State     // newest state that the links have; owned by Serve
	looked    time.Time // at everything, last; owned by Serve
}

// New checks the configuration and starts nothing.
func New(config Config, streams Streams) (*Members, error) {
	if _, err := config.Self.Key(); err != nil {
		return nil, fmt.Errorf("members: this node: %w", err)
	}
	if config.Set == nil || config.State == nil || config.Reachable == nil {
		return nil, errors.New("members: Set, State and Reachable are needed")
	}
	if config.Refused == nil {
		config.Refused = func(record.Identity) {}
	}
	if config.Flooded == nil {
		config.Flooded = func(record.Identity, int) {}
	}
	if config.Log == nil {
		config.Log = slog.Default()
	}
	config.Timing = config.Timing.withDefaults()
	return &Members{Config: config, streams: streams, peers: map[record.Identity]*peer{}}, nil
}

// Serve meets the other members until ctx ends, tells them that it leaves, and
// returns when every goroutine of this package has ended. Those of the library
// end within one probe. It may be called again.
func (m *Members) Serve(ctx context.Context) error {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	r := &run{Members: m, ctx: inner}
	r.transport = &transport{r: r, packets: make(chan *lib.Packet, 256), streams: make(chan net.Conn)}
	list, err := lib.Create(r.library())
	if err != nil {
		return fmt.Errorf("members: %w", err)
	}
	r.list = list
	m.mu.Lock()
	m.run = r
	m.mu.Unlock()

	tick := time.NewTicker(m.Timing.Watch)
	defer tick.Stop()
	for r.look(); ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case <-tick.C:
			r.look()
		}
	}

	err = list.Leave(leaveWait) // nobody may be there to hear it
	m.Log.Debug("left the members", "error", err)
	m.mu.Lock()
	m.run = nil
	for _, p := range m.peers {
		p.unlink()
	}
	m.mu.Unlock()
	cancel()
	err = list.Shutdown()
	r.work.Wait()
	return errors.Join(context.Cause(ctx), err)
}

// library is memberlist's configuration. Indirect probes are off, and with them
// its doubts about itself: what another member reaches does not matter here.
func (r *run) library() *lib.Config {
	c := lib.DefaultLANConfig()
	c.Name, c.Transport, c.RequireNodeNames = string(r.Self), r.transport, true
	c.ProtocolVersion = protocolVersion
	c.ProbeInterval, c.ProbeTimeout = r.Timing.Probe, r.Timing.Probe
	c.GossipInterval = r.Timing.Gossip
	c.IndirectChecks, c.DisableTcpPings, c.AwarenessMaxMultiplier = 0, true, 1
	c.TCPTimeout, c.EnableCompression = slowExchange, false
	c.GossipToTheDeadTime, c.SuspicionMaxTimeoutMult = 10*time.Second, 2
	c.Alive, c.Events = gate{r.Members}, events{r}
	c.LogOutput, c.Logger = nil, log.New(debugLog{r.Log}, "", 0)
	return c
}

// debugLog writes what memberlist has to say where it disturbs nobody: it speaks
// of hearsay, and in the words of whoever sent it.
type debugLog struct{ log *slog.Logger }

func (d debugLog) Write(line []byte) (int, error) {
	d.log.Debug("memberlist", "says", strings.TrimSpace(string(line)))
	return len(line), nil
}

// events is what memberlist tells. It calls while it holds its locks.
type events struct{ r *run }

// NotifyJoin implements memberlist.EventDelegate.
func (e events) NotifyJoin(node *lib.Node) { e.r.met(record.Identity(node.Name)) }

// NotifyLeave implements memberlist.EventDelegate.
func (e events) NotifyLeave(node *lib.Node) { e.r.hearsay(record.Identity(node.Name)) }

// NotifyUpdate implements memberlist.EventDelegate.
func (e events) NotifyUpdate(*lib.Node) {}

// Go runs f as a goroutine that Serve joins; false when Serve is ending. mu is
// held.
func (r *run) Go(f func()) bool {
	if r.Members.run != r {
		return false
	}
	r.work.Go(f)
	return true
}

// Accept takes a stream that a member opened, and returns when it has ended.
func (m *Members) Accept(from record.Identity, stream Stream) {
	m.mu.Lock()
	r := m.run
	if r != nil {
		r.work.Add(1)
	}
	m.mu.Unlock()
	if r == nil {
		_ = stream.Close()
		return
	}
	defer r.work.Done()
	defer stream.Close()
	err := r.converse(from, stream)
	if errors.Is(err, errGuard) {
		m.Refused(from)
	}
	m.Log.Debug("a member's stream ended", "peer", from, "error", err)
}

// converse reads a stream to its end.
func (r *run) converse(from record.Identity, stream Stream) error {
	others := r.others()
	r.mu.Lock()
	r.follow(others) // it may be a member since a moment ago
	r.mu.Unlock()
	for {
		frame, err := stream.ReadFrame(r.ctx)
		if err != nil {
			return err
		}
		if !r.admits(from) {
			return errForeign
		}
		exchange := len(frame) > 0 && frame[0] == frameExchange
		if !r.mayCome(from, exchange) {
			r.Flooded(from, len(frame))
			if exchange {
				return errFlood
			}
			continue
		}
		if exchange {
			message, err := r.exchange(from, frame)
			if err == nil {
				r.transport.accept(from, stream, message)
			}
			return err
		}
		if err := r.take(from, frame); err != nil {
			return err
		}
	}
}

// exchange is the bytes of an exchange in a frame.
func (r *run) exchange(from record.Identity, frame []byte) ([]byte, error) {
	switch {
	case !r.admits(from):
		return nil, errForeign
	case len(frame) < 2 || frame[0] != frameExchange:
		return nil, fmt.Errorf("%w: no exchange", errGuard)
	}
	return frame[1:], checkExchange(frame[1:])
}

// take takes one frame of a one-way stream.
func (r *run) take(from record.Identity, frame []byte) error {
	if len(frame) == 0 {
		return fmt.Errorf("%w: empty frame", errGuard)
	}
	switch frame[0] {
	case framePacket:
		doubted, err := r.guard.in(from, frame[1:])
		if errors.Is(err, errStray) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, id := range doubted {
			r.hearsay(id)
		}
		r.transport.receive(from, frame[1:])
		return nil
	case frameState:
		state, err := DecodeState(frame[1:])
		if err != nil {
			return fmt.Errorf("%w: %v", errGuard, err)
		}
		r.heard(from, state)
		return nil
	}
	return fmt.Errorf("%w: frame of kind %d", errGuard, frame[0])
}

// link is the way to a member, nil when there is none any more.
func (r *run) link(id record.Identity) *link {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peers[id]
	if p == nil {
		return nil
	}
	return r.linkOf(id, p)
}

// linkOf is a peer's link. mu is held.
func (r *run) linkOf(id record.Identity, p *peer) *link {
	if p.link != nil {
		return p.link
	}
	ctx, cancel := context.WithCancel(r.ctx)
	l := &link{r: r, to: id, ctx: ctx, cancel: cancel, wake: make(chan struct{}, 1)}
	if !r.Go(l.run) {
		cancel()
		return nil
	}
	p.link = l
	return l
}

// listed are the members that memberlist takes for present.
func (r *run) listed() map[record.Identity]bool {
	listed := map[record.Identity]bool{}
	for _, node := range r.list.Members() {
		listed[record.Identity(node.Name)] = true
	}
	return listed
}

// join exchanges all that both know with a member that memberlist does not have,
// on a goroutine: it may freeze in the middle. mu is held.
func (r *run) join(id record.Identity, p *peer) {
	if p.joining {
		return
	}
	p.joining = r.Go(func() {
		if _, err := r.list.Join([]string{string(id) + "/" + hostPort(id)}); err != nil {
			r.Log.Debug("did not meet a member", "peer", id, "error", err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		p.joining = false
	})
}

// others are the members of the set but for this node.
func (m *Members) others() []record.Identity {
	return slices.DeleteFunc(slices.Clone(m.Set()), func(id record.Identity) bool { return id == m.Self })
}
