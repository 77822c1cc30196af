package memberlist

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	lib "github.com/hashicorp/memberlist"

	"github.com/pyrsia/appliance/modules/record"
)

// transport is memberlist's way to other members: packets over each member's
// link, and a stream of its own for every exchange. It goes on refusing when the
// run is over, since memberlist's goroutines end a little later.
type transport struct {
	r       *run
	packets chan *lib.Packet
	streams chan net.Conn
}

// unreachable is the one kind of error that memberlist takes for the other
// side's failure. With any other it never suspects a dead member.
func unreachable(op string, id record.Identity, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: addr(id), Err: err}
}

// addr is a member as a net.Addr.
type addr record.Identity

func (a addr) Network() string { return "tcp" }
func (a addr) String() string  { return hostPort(record.Identity(a)) }

// FinalAdvertiseAddr implements memberlist.Transport.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return address(t.r.Self), port, nil
}

// WriteTo implements memberlist.Transport; every address comes with a name.
func (t *transport) WriteTo(_ []byte, to string) (time.Time, error) {
	return time.Time{}, unreachable("write", "", &net.AddrError{Err: "address without a name", Addr: to})
}

// WriteToAddress implements memberlist.NodeAwareTransport. It never blocks.
func (t *transport) WriteToAddress(packet []byte, to lib.Address) (time.Time, error) {
	id, err := t.r.destination(to)
	if err != nil {
		return time.Time{}, unreachable("write", id, err)
	}
	for _, doubted := range t.r.guard.out(id, packet) {
		t.r.hearsay(doubted)
	}
	l := t.r.link(id)
	if l == nil || !t.r.streams.Connected(id) {
		return time.Time{}, unreachable("write", id, ErrSilent)
	}
	l.push(append([]byte{framePacket}, packet...))
	return time.Now(), nil
}

// DialTimeout implements memberlist.Transport; every address comes with a name.
func (t *transport) DialTimeout(to string, _ time.Duration) (net.Conn, error) {
	return nil, unreachable("dial", "", &net.AddrError{Err: "address without a name", Addr: to})
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *transport) DialAddressTimeout(to lib.Address, timeout time.Duration) (net.Conn, error) {
	id, err := t.r.destination(to)
	if err != nil {
		return nil, unreachable("dial", id, err)
	}
	ctx, cancel := context.WithTimeout(t.r.ctx, timeout)
	defer cancel()
	stream, err := t.r.streams.Open(ctx, id)
	if err != nil {
		return nil, unreachable("dial", id, err)
	}
	return newConn(t.r, id, stream, nil), nil
}

// PacketCh implements memberlist.Transport.
func (t *transport) PacketCh() <-chan *lib.Packet { return t.packets }

// StreamCh implements memberlist.Transport.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown implements memberlist.Transport; the run ends by itself.
func (t *transport) Shutdown() error { return nil }

// receive hands a packet to memberlist, or drops it: it is late already.
func (t *transport) receive(from record.Identity, packet []byte) {
	select {
	case t.packets <- &lib.Packet{Buf: packet, From: addr(from), Timestamp: time.Now()}:
	default:
	}
}

// accept hands memberlist an exchange that a member began, and waits for its
// end.
func (t *transport) accept(from record.Identity, stream Stream, first []byte) {
	c := newConn(t.r, from, stream, first)
	defer c.Close()
	select {
	case t.streams <- c:
	case <-t.r.ctx.Done():
		return
	}
	select {
	case <-c.closed:
	case <-t.r.ctx.Done():
	}
}

// conn is a stream as memberlist sees it. It writes a message at a time, so that
// each frame is one, and the guard sees it whole.
type conn struct {
	r      *run
	id     record.Identity
	stream Stream
	rest   []byte // that was read and not asked for yet
	read   int    // bytes so far; memberlist's alone
	closed chan struct{}
	once   sync.Once

	mu       sync.Mutex
	deadline time.Time
}

func newConn(r *run, id record.Identity, stream Stream, first []byte) *conn {
	return &conn{r: r, id: id, stream: stream, rest: first, read: len(first), closed: make(chan struct{})}
}

// maxExchange bounds what a member sends in one exchange, in bytes: of maxNodes nodes,
// each with some hundreds.
const maxExchange = 1 << 20

// context ends at the deadline, and with the run.
func (c *conn) context() (context.Context, context.CancelFunc) {
	c.mu.Lock()
	deadline := c.deadline
	c.mu.Unlock()
	if deadline.IsZero() {
		deadline = time.Now().Add(slowExchange)
	}
	return context.WithDeadline(c.r.ctx, deadline)
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		ctx, cancel := c.context()
		defer cancel()
		frame, err := c.stream.ReadFrame(ctx)
		if err != nil {
			return 0, unreachable("read", c.id, err)
		}
		if c.rest, err = c.more(frame); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// more takes a further frame of the exchange. What no member sends is told of: memberlist
// itself would gather what comes for as long as its deadline lets it.
func (c *conn) more(frame []byte) ([]byte, error) {
	if !c.r.mayCome(c.id, false) {
		c.r.Flooded(c.id, len(frame))
		return nil, errFlood
	}
	rest, err := c.r.exchange(c.id, frame)
	if c.read += len(rest); err == nil && c.read > maxExchange {
		err = fmt.Errorf("%w: an exchange of more than %d bytes", errGuard, maxExchange)
	}
	if errors.Is(err, errGuard) {
		c.r.Refused(c.id)
	}
	return rest, err
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	ctx, cancel := c.context()
	defer cancel()
	if err := c.stream.WriteFrame(ctx, append([]byte{frameExchange}, p...)); err != nil {
		return 0, unreachable("write", c.id, err)
	}
	return len(p), nil
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.stream.Close()
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return addr(c.r.Self) }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return addr(c.id) }

// SetDeadline implements net.Conn, for reads and writes that begin later.
func (c *conn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { return c.SetDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.SetDeadline(t) }
