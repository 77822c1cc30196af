package libp2p

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/pyrsia/appliance/modules/distribution"
	"github.com/pyrsia/appliance/modules/record"
)

// /pyrsia/vote/1: a stream in one direction, one frame per message, of at most
// 5 MiB, from member to member; an empty frame may open it and nothing else. The
// receiver greets with one empty frame, which says that it takes messages. A message
// may be lost with the stream that it is on, and arrives at most once and in order
// otherwise: what must arrive is sent again by its sender when OnConnect says that a
// line is new.

const (
	// lineQueue and lineBytes bound what waits for a member that does not read.
	// The oldest go first: the newest state is what counts.
	lineQueue = 256
	lineBytes = 16 << 20

	// slowMember is how long one message may take before the line is cut.
	slowMember = 20 * time.Second
)

// Send queues a message for a member and returns at once. While the member is
// away the newest messages wait. It is an error to send to nobody, to oneself
// or more than distribution.MaxMessage bytes; that a message arrives is never
// promised. payload must not change afterwards.
func (h *Host) Send(ctx context.Context, to record.Identity, payload []byte) error {
	if len(payload) == 0 || len(payload) > distribution.MaxMessage {
		return fmt.Errorf("message of %d bytes: from 1 to %d", len(payload), distribution.MaxMessage)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	r, err := h.running()
	if err != nil {
		return err
	}
	if to == h.identity {
		return fmt.Errorf("message to oneself")
	}
	l, err := r.line(to)
	if err != nil {
		return err
	}
	l.push(payload)
	return nil
}

// Discard drops what waits to be sent to a member.
func (h *Host) Discard(to record.Identity) {
	r, err := h.running()
	if err != nil {
		return
	}
	r.mu.Lock()
	l := r.lines[to]
	r.mu.Unlock()
	if l != nil {
		l.clear()
	}
}

// RenewLines ends the line to every member, with what waits to be sent: each is made
// anew, and OnConnect called. So who begins to use the lines knows that nothing goes
// over one that it has not taken.
func (h *Host) RenewLines() {
	r, err := h.running()
	if err != nil {
		return
	}
	r.mu.Lock()
	lines := slices.Collect(maps.Values(r.lines))
	r.mu.Unlock()
	for _, l := range lines {
		l.clear()
		l.hangUp()
	}
}

// greet opens the line to a connected peer that is a member, so that OnConnect
// is called though nothing was sent yet.
func (r *run) greet(id record.Identity) {
	if r.h.config.Receive != nil && r.h.config.Members(id) {
		_, _ = r.line(id)
	}
}

// Broadcast sends to every configured or connected peer that is a member.
func (h *Host) Broadcast(payload []byte) error {
	r, err := h.running()
	if err != nil {
		return err
	}
	for _, id := range r.reachable() {
		if h.config.Members(id) {
			if err := h.Send(r.ctx, id, payload); err != nil {
				return err
			}
		}
	}
	return nil
}

// reachable are the peers that are configured or connected.
func (r *run) reachable() []record.Identity {
	seen := map[record.Identity]bool{r.h.identity: true}
	var all []record.Identity
	add := func(id record.Identity) {
		if !seen[id] {
			seen[id] = true
			all = append(all, id)
		}
	}
	r.h.mu.Lock()
	for id := range r.h.peers {
		add(id)
	}
	r.h.mu.Unlock()
	for _, p := range r.host.Network().Peers() {
		add(identity(p))
	}
	return all
}

// line is the way out to one member: a queue, and a goroutine that keeps a
// stream open while there is a connection.
type line struct {
	r    *run
	to   record.Identity
	wake chan struct{} // something waits to be sent
	came chan struct{} // there is a new connection

	mu     sync.Mutex
	queue  [][]byte
	bytes  int
	stream network.Stream // of the talk under way, or of the last one
}

func (r *run) line(to record.Identity) (*line, error) {
	if _, err := peerID(to); err != nil {
		return nil, err
	}
	r.mu.Lock()
	l := r.lines[to]
	if l != nil {
		r.mu.Unlock()
		return l, nil
	}
	l = &line{r: r, to: to, wake: make(chan struct{}, 1), came: make(chan struct{}, 1)}
	r.lines[to] = l
	r.mu.Unlock()
	if !r.Go(l.run) {
		return nil, distribution.ErrNotServing
	}
	return l, nil
}

func (l *line) push(payload []byte) {
	l.mu.Lock()
	l.queue = append(l.queue, payload)
	l.bytes += len(payload)
	for len(l.queue) > lineQueue || l.bytes > lineBytes {
		l.bytes -= len(l.queue[0])
		l.queue = l.queue[1:]
	}
	l.mu.Unlock()
	poke(l.wake)
}

func (l *line) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue, l.bytes = nil, 0
}

func (l *line) hangUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stream != nil {
		_ = l.stream.Reset()
	}
}

func (l *line) pop() ([]byte, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return nil, false
	}
	payload := l.queue[0]
	l.queue[0] = nil
	l.queue = l.queue[1:]
	l.bytes -= len(payload)
	return payload, true
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run opens a stream whenever the member is connected, and sends. Dialling is
// the keeper's.
func (l *line) run() {
	t := l.r.h.timing
	pause := t.RetryFirst
	for l.r.ctx.Err() == nil {
		if !l.r.h.Connected(l.to) {
			l.rest(t.RetryIdle)
			continue
		}
		began := time.Now()
		err := l.talk()
		l.r.h.log.Debug("line to member ended", "peer", l.to, "error", err)
		if time.Since(began) > t.RetryLast {
			pause = t.RetryFirst
		}
		l.rest(pause)
		pause = min(2*pause, t.RetryLast)
	}
}

// rest waits for a while or for a connection, and not for something to send: a
// member that refuses the line would be asked again at every message.
func (l *line) rest(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-l.r.ctx.Done():
	case <-l.came:
	case <-timer.C:
	}
}

// talk sends over one stream until it breaks.
func (l *line) talk() error {
	ctx, cancel := context.WithTimeout(network.WithNoDial(l.r.ctx, "line"), l.r.h.timing.PingWait)
	defer cancel()
	s, err := l.r.stream(ctx, l.to, distribution.VoteProtocol)
	if err != nil {
		return err
	}
	defer s.Reset()
	l.mu.Lock()
	l.stream = s
	l.mu.Unlock()
	// A member that takes our messages greets, and never writes again: the end
	// of its side is how a refusal or a restart shows while nothing is sent.
	_ = s.SetDeadline(time.Now().Add(l.r.h.timing.PingWait))
	if err := l.write(s, nil); err != nil { // opens the stream at the other end
		return err
	}
	if _, err := readFrame(s, 0); err != nil {
		return err
	}
	_ = s.SetReadDeadline(time.Time{})
	broken := make(chan struct{})
	if !l.r.Go(func() {
		defer close(broken)
		var one [1]byte
		_, _ = s.Read(one[:])
	}) {
		return distribution.ErrNotServing
	}
	defer func() { _ = s.Reset(); <-broken }()
	if l.r.h.config.OnConnect != nil {
		if err := l.r.h.config.OnConnect(ctx, l.to); err != nil {
			return err
		}
	}
	if l.r.h.config.OnDisconnect != nil {
		defer l.r.h.config.OnDisconnect(l.to)
	}
	return l.drain(s, broken)
}

// drain sends what is queued, and what will be, until the stream breaks.
func (l *line) drain(s network.Stream, broken <-chan struct{}) error {
	for {
		payload, ok := l.pop()
		if ok {
			if err := l.write(s, payload); err != nil {
				return err
			}
			continue
		}
		select {
		case <-l.r.ctx.Done():
			return l.r.ctx.Err()
		case <-broken:
			return errBroken
		case <-l.wake:
		}
	}
}

func (l *line) write(s network.Stream, payload []byte) error {
	_ = s.SetWriteDeadline(time.Now().Add(slowMember))
	return writeFrame(s, payload)
}

// serveVote hands one member's messages to the configured function.
func (r *run) serveVote(s network.Stream) {
	from := identity(s.Conn().RemotePeer())
	if !r.admits(from) {
		_ = s.Reset()
		return
	}
	stop := context.AfterFunc(r.ctx, func() { _ = s.Reset() })
	defer stop()
	defer s.Reset()
	_ = s.SetWriteDeadline(time.Now().Add(slowMember))
	if err := writeFrame(s); err != nil {
		return
	}
	for first := true; ; first = false {
		payload, err := readFrame(s, distribution.MaxMessage)
		if errors.Is(err, errMalformed) {
			r.h.config.Refused(from, distribution.RefusedOversized)
		}
		if err != nil || !r.admits(from) {
			return
		}
		if len(payload) == 0 && !first {
			// Only the stream's opening says nothing: a flood of them costs more to
			// read than to send.
			r.h.config.Refused(from, distribution.RefusedMalformed)
			return
		}
		if len(payload) > 0 {
			r.h.config.Receive(from, payload)
		}
	}
}
