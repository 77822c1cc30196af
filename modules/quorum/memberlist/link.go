package memberlist

import (
	"context"
	"sync"
	"time"

	"github.com/pyrsia/appliance/modules/record"
)

// The kinds of frames, their first byte. A stream that begins with an exchange
// carries nothing else; every other stream is one way, of packets and states.
const (
	framePacket   = 'p' // a packet of memberlist
	frameState    = 's' // the sender's State
	frameExchange = 'x' // bytes of memberlist's stream
)

const (
	// linkQueue bounds the packets that wait for one member; older ones go.
	linkQueue = 64

	// slowMember is how long a member may take for one frame.
	slowMember = 2 * time.Second
)

// link is the way of packets to one member: a queue, and a goroutine that keeps
// a stream open while there is something to send. A packet may get lost.
type link struct {
	r      *run
	to     record.Identity
	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{}

	mu     sync.Mutex
	queue  [][]byte // frames
	state  []byte   // this node's newest, as a frame
	unsent bool     // the stream has not carried the state yet
}

// push queues frames.
func (l *link) push(frame []byte) {
	l.mu.Lock()
	l.queue = append(l.queue, frame)
	l.queue = l.queue[max(0, len(l.queue)-linkQueue):]
	l.mu.Unlock()
	l.poke()
}

// tell sends this node's state, now and at the beginning of every new stream.
func (l *link) tell(state []byte) {
	l.mu.Lock()
	l.state, l.unsent = append([]byte{frameState}, state...), true
	l.mu.Unlock()
	l.poke()
}

func (l *link) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// next is what to send; the state goes first.
func (l *link) next() (frame []byte, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unsent {
		l.unsent = false
		return l.state, true
	}
	if len(l.queue) == 0 {
		return nil, false
	}
	frame, l.queue = l.queue[0], l.queue[1:]
	return frame, true
}

// again has the state sent again.
func (l *link) again() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unsent = l.state != nil
}

// lost forgets the packets that wait: they were meant for a moment that is over.
func (l *link) lost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = nil
}

func (l *link) run() {
	var stream Stream
	for {
		select {
		case <-l.ctx.Done():
			if stream != nil {
				_ = stream.Close()
			}
			return
		case <-l.wake:
		}
		stream = l.send(stream)
	}
}

// send sends all that waits, over the stream or a new one, and returns the
// stream for the next time; nil if it broke.
func (l *link) send(stream Stream) Stream {
	if !l.r.streams.Connected(l.to) {
		if stream != nil {
			_ = stream.Close()
		}
		l.lost()
		return nil
	}
	ctx, cancel := context.WithTimeout(l.ctx, slowMember)
	defer cancel()
	if stream == nil {
		l.again()
		var err error
		if stream, err = l.r.streams.Open(ctx, l.to); err != nil {
			l.r.Log.Debug("no stream to a member", "peer", l.to, "error", err)
			return nil
		}
	}
	for frame, ok := l.next(); ok; frame, ok = l.next() {
		if err := l.write(stream, frame); err != nil {
			l.r.Log.Debug("the stream to a member broke", "peer", l.to, "error", err)
			_ = stream.Close()
			l.lost()
			l.r.doubt(l.to)
			return nil
		}
	}
	return stream
}

func (l *link) write(stream Stream, frame []byte) error {
	ctx, cancel := context.WithTimeout(l.ctx, slowMember)
	defer cancel()
	return stream.WriteFrame(ctx, frame)
}
