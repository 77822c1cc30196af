package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// opened is a front that serves until the test ends.
func opened(t *testing.T, handler http.HandlerFunc, addresses ...string) (*front, func() error) {
	t.Helper()
	f := newFront(handler, nil)
	commit, _, err := f.listen(addresses)
	if err != nil {
		t.Fatal(err)
	}
	commit()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Serve(ctx) }()
	stop := sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return f, stop
}

func (f *front) address(configured string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.doors[configured].listener.Addr().String()
}

// ask sends a request over a connection and reads the answer.
func ask(conn net.Conn) (string, error) {
	if _, err := fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		return "", err
	}
	reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(reply.Body)
	return string(body), err
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// A connection that was accepted before its address was given up, and speaks after, is
// answered; so is a download under way; nobody new comes in.
func TestGoneAddressAnswersWhoIsIn(t *testing.T) {
	const gone, stays = "127.0.0.1:0", "127.0.0.2:0"
	under, release := make(chan struct{}, 1), make(chan struct{})
	f, _ := opened(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			w.(http.Flusher).Flush()
			under <- struct{}{}
			<-release
		}
		io.WriteString(w, "hello")
	}, gone, stays)
	address := f.address(gone)
	silent, idle := dial(t, address), dial(t, address)
	if got, err := ask(idle); got != "hello" {
		t.Fatal(got, err)
	}
	slow := make(chan string, 1)
	go func() {
		reply, err := http.Get("http://" + address + "/slow")
		if err != nil {
			slow <- err.Error()
			return
		}
		body, err := io.ReadAll(reply.Body)
		slow <- strings.TrimSuffix(fmt.Sprint(string(body), " ", err), " <nil>")
	}()
	<-under
	f.mu.Lock()
	d := f.doors[gone]
	f.mu.Unlock()
	for all, _ := d.open(); all < 3; all, _ = d.open() { // the silent one, too, is accepted
		<-d.moved
	}
	commit, _, err := f.listen([]string{stays})
	if err != nil {
		t.Fatal(err)
	}
	commit()
	if got, err := ask(silent); got != "hello" {
		t.Errorf("who was in before got %q, %v", got, err)
	}
	if _, err := net.Dial("tcp", address); err == nil {
		t.Error("somebody new came in")
	}
	close(release)
	if got := <-slow; got != "hello" {
		t.Errorf("the download under way: %s", got)
	}
	if got, err := ask(dial(t, f.address(stays))); got != "hello" {
		t.Errorf("the other address: %q, %v", got, err)
	}
}

// A front that stops answers who is in, and waits for who says nothing no longer than a
// moment.
func TestFrontStops(t *testing.T) {
	f, stop := opened(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }, "127.0.0.1:0")
	speaks, never := dial(t, f.address("127.0.0.1:0")), dial(t, f.address("127.0.0.1:0"))
	f.mu.Lock()
	d := f.doors["127.0.0.1:0"]
	f.mu.Unlock()
	for all, _ := d.open(); all < 2; all, _ = d.open() {
		<-d.moved
	}
	stopped := make(chan error, 1)
	began := time.Now()
	go func() { stopped <- stop() }()
	if got, err := ask(speaks); got != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	if err := <-stopped; err != nil || time.Since(began) > drain {
		t.Errorf("%v after %v", err, time.Since(began))
	}
	if _, err := never.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("who said nothing: %v", err)
	}
}

// Addresses change as a whole or not at all.
func TestFrontListens(t *testing.T) {
	f, _ := opened(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }, "127.0.0.1:0")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	free := "127.0.0.3:47888"
	if _, _, err := f.listen([]string{free, taken.Addr().String()}); err == nil {
		t.Error("a port in use is taken")
	}
	if _, undo, err := f.listen([]string{free}); err != nil {
		t.Error(err)
	} else {
		undo()
	}
	if _, err := net.Dial("tcp", free); err == nil {
		t.Error("it listens on what was undone")
	}
	if got, err := ask(dial(t, f.address("127.0.0.1:0"))); got != "hello" {
		t.Errorf("%q, %v", got, err)
	}
}

// An address that overlaps with the front's own is refused, and why is told.
func TestFrontOverlaps(t *testing.T) {
	f, _ := opened(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }, "127.0.0.1:0")
	_, port, err := net.SplitHostPort(f.address("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.doors["127.0.0.1:"+port] = f.doors["127.0.0.1:0"]
	delete(f.doors, "127.0.0.1:0")
	f.mu.Unlock()
	if _, _, err := f.listen([]string{"0.0.0.0:" + port}); !errors.Is(err, errOverlap) {
		t.Errorf("%v, want that the node itself has it", err)
	}
	if got, err := ask(dial(t, "127.0.0.1:"+port)); got != "hello" {
		t.Errorf("after it %q, %v", got, err)
	}
}
