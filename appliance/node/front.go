package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/pyrsia/appliance/appliance/supervisor"
)

// drain is how long open downloads may go on when the node stops. Whoever comes
// meanwhile waits for the next process where a service manager keeps the listeners, so
// that it cannot be long; a client of a larger file goes on where it was cut off (Range).
const drain = 20 * time.Second

// StopTimeout implements supervisor.Patient.
func (f *front) StopTimeout() time.Duration { return drain + 5*time.Second }

// front is the client port: one handler behind the addresses of registry.listen, which
// may change while it serves.
type front struct {
	handler http.Handler
	open    Listeners

	mu    sync.Mutex
	doors map[string]*door // by address as it was configured
	serve func(*door)      // set while Serve runs
}

// door is one address.
type door struct {
	listener net.Listener
	server   *http.Server

	mu    sync.Mutex
	conns map[net.Conn]http.ConnState // open ones
	moved chan struct{}               // capacity 1: conns has changed
}

// Listeners open and keep the listeners of clients: a service manager's hold them while
// the process restarts.
type Listeners interface {
	Listen(address string) (net.Listener, error)

	// Forget lets go of what it keeps: of addresses that nobody listens on any more, and
	// of whatever it had kept that nobody asked for.
	Forget(gone ...net.Addr) error
}

// ordinary listeners are kept by nobody.
type ordinary struct{}

func (ordinary) Listen(address string) (net.Listener, error) { return net.Listen("tcp", address) }
func (ordinary) Forget(...net.Addr) error                    { return nil }

func newFront(handler http.Handler, open Listeners) *front {
	if open == nil {
		open = ordinary{}
	}
	return &front{handler: handler, open: open, doors: map[string]*door{}}
}

// listen opens what is new in a list of addresses. commit begins to serve there and
// closes what is no longer in the list: nobody new comes in, and what is under way
// goes on to its end. undo closes what was opened. Exactly one of them is called,
// before listen is called again. An error changes nothing.
func (f *front) listen(addresses []string) (commit, undo func(), err error) {
	opened := map[string]*door{}
	undo = func() {
		for _, d := range opened {
			d.listener.Close()
			_ = f.open.Forget(d.listener.Addr())
		}
	}
	for _, address := range addresses {
		if f.has(address) {
			continue
		}
		listener, err := f.open.Listen(address)
		if err != nil {
			undo()
			if own := f.samePort(address); own != "" && errors.Is(err, syscall.EADDRINUSE) {
				err = fmt.Errorf("%w: %w, for %s; first take that out and reload, then add this, or restart the node with it", err, errOverlap, own)
			}
			return nil, nil, err
		}
		opened[address] = f.door(listener)
	}
	return func() { f.commit(addresses, opened) }, undo, nil
}

// errOverlap is of an address that is in use by the front itself.
var errOverlap = errors.New("by the node itself")

// samePort is an address of the front's own with the port of another, "" for none.
func (f *front) samePort(address string) string {
	_, port, _ := net.SplitHostPort(address)
	f.mu.Lock()
	defer f.mu.Unlock()
	for own := range f.doors {
		if _, has, _ := net.SplitHostPort(own); has == port {
			return own
		}
	}
	return ""
}

func (f *front) door(listener net.Listener) *door {
	d := &door{listener: listener, conns: map[net.Conn]http.ConnState{}, moved: make(chan struct{}, 1)}
	d.server = &http.Server{
		Handler: f.handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ConnState: d.note,
	}
	return d
}

// note follows the connections.
func (d *door) note(conn net.Conn, state http.ConnState) {
	d.mu.Lock()
	if state == http.StateClosed || state == http.StateHijacked {
		delete(d.conns, conn)
	} else {
		d.conns[conn] = state
	}
	d.mu.Unlock()
	select {
	case d.moved <- struct{}{}:
	default:
	}
}

// open counts the connections, and those of them that have asked for nothing yet.
func (d *door) open() (all, silent int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, state := range d.conns {
		if state == http.StateNew {
			silent++
		}
	}
	return len(d.conns), silent
}

// speech is how long a client whose connection was accepted, and whose request has not
// come, is waited for when its address is given up.
const speech = 2 * time.Second

// seeOff serves what is under way to its end, or until the context ends: also the first
// request of a connection that was accepted in the last moment, which the library's own
// Shutdown would hang up on.
func (d *door) seeOff(ctx context.Context) {
	d.server.SetKeepAlivesEnabled(false)
	begin := time.NewTimer(speech)
	defer begin.Stop()
	waits := true // for the silent ones
	for {
		all, silent := d.open()
		if all == 0 || all == silent && !waits {
			break
		}
		select {
		case <-ctx.Done():
			d.server.Close()
			return
		case <-begin.C:
			waits = false
		case <-d.moved:
		}
	}
	d.server.Close()
}

func (f *front) has(address string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.doors[address] != nil
}

func (f *front) commit(addresses []string, opened map[string]*door) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var gone []net.Addr
	for address, d := range f.doors {
		if !slices.Contains(addresses, address) {
			delete(f.doors, address)
			gone = append(gone, d.listener.Addr())
			d.listener.Close() // and the goroutine that serves it sees its requests off
		}
	}
	_ = f.open.Forget(gone...) // what is kept too long is let go of by the next start
	for address, d := range opened {
		f.doors[address] = d
		if f.serve != nil {
			f.serve(d)
		}
	}
}

// Serve implements supervisor.Service. A listener that fails cannot be opened again
// by its service: fatal.
func (f *front) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	f.mu.Lock()
	f.serve = func(d *door) {
		running.Go(func() {
			if err := f.answer(ctx, d); err != nil {
				cancel(supervisor.Fatal(err))
			}
		})
	}
	for _, d := range f.doors {
		f.serve(d)
	}
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	f.serve = nil
	for _, d := range f.doors {
		d.listener.Close()
	}
	clear(f.doors)
	f.mu.Unlock()
	running.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// answer serves one address until its listener is closed, and then what is under way:
// to its end, or for as long as drain once the node stops.
func (f *front) answer(ctx context.Context, d *door) error {
	d.server.BaseContext = func(net.Listener) context.Context { return context.WithoutCancel(ctx) }
	err := d.server.Serve(d.listener)
	if !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("listen on %s: %w", d.listener.Addr(), err)
	}
	limit, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var patience sync.WaitGroup
	patience.Go(func() {
		select {
		case <-ctx.Done():
		case <-limit.Done():
			return
		}
		select {
		case <-time.After(drain):
			cancel()
		case <-limit.Done():
		}
	})
	d.seeOff(limit)
	cancel()
	patience.Wait()
	return nil
}
