// Package relay is the small program that runs beside a resolving build's
// commands: it listens on a loopback port inside the build's own network, which
// leads nowhere else, and passes each connection to a Unix socket, behind which
// the node's recording mirror answers.
//
// It exists because a build tool such as Maven speaks HTTP to a port and cannot
// speak it to a socket. Beside that it packs what a failed build left: nothing that the
// build itself could have changed may run outside its limits.
package relay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
)

// Exit codes of Run when it is the relay that fails, as shells have them for a
// command that cannot be run.
const (
	exitUsage  = 125
	exitNoExec = 127
)

// Run is the program: relay SOCKET ADDRESS -- COMMAND [ARGUMENT…]. It listens
// on ADDRESS ("127.0.0.1:7889"), runs COMMAND with this process's standard
// streams and environment, and returns its exit code. Messages of the relay
// itself go to stderr. Instead of that it is also: relay pack ROOT FOLDER PLACE… (Pack).
func Run(arguments []string, stderr io.Writer) int {
	if len(arguments) > 3 && arguments[0] == "pack" {
		if err := Pack(os.Stdout, arguments[1], arguments[2], arguments[3:]); err != nil {
			fmt.Fprintf(stderr, "relay: %v\n", err)
			return exitUsage
		}
		return 0
	}
	if len(arguments) < 4 || arguments[2] != "--" {
		fmt.Fprintln(stderr, "relay: want SOCKET ADDRESS -- COMMAND")
		return exitUsage
	}
	socket, address, command := arguments[0], arguments[1], arguments[3:]
	listener, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Fprintf(stderr, "relay: %v\n", err)
		return exitUsage
	}
	served := make(chan struct{})
	go func() { defer close(served); Serve(listener, socket) }()
	code := run(command, stderr)
	listener.Close()
	<-served
	return code
}

func run(command []string, stderr io.Writer) int {
	c := exec.Command(command[0], command[1:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := c.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		if exit.ExitCode() < 0 { // killed by a signal
			return 137
		}
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintf(stderr, "relay: %v\n", err)
		return exitNoExec
	}
	return 0
}

// Serve passes connections on until the listener is closed, then ends those
// that are still open, and returns when the last has ended.
func Serve(listener net.Listener, socket string) {
	var pumps sync.WaitGroup
	open := &connections{all: map[net.Conn]bool{}}
	defer pumps.Wait()
	defer open.close()
	for {
		near, err := listener.Accept()
		if err != nil {
			return
		}
		pumps.Go(func() { pass(near, socket, open) })
	}
}

// pass joins two connections until either ends. A half-closed connection is
// closed as a whole: an end of file does not cross BuildKit's sockets, so that
// nobody may wait for an answer after one.
func pass(near net.Conn, socket string, open *connections) {
	defer near.Close()
	far, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer far.Close()
	if !open.add(near, far) {
		return
	}
	defer open.remove(near, far)
	var back sync.WaitGroup
	back.Go(func() {
		io.Copy(near, far)
		near.Close()
		far.Close()
	})
	io.Copy(far, near)
	near.Close()
	far.Close()
	back.Wait()
}

// connections are those to close at the end.
type connections struct {
	mu     sync.Mutex
	closed bool
	all    map[net.Conn]bool
}

func (c *connections) add(more ...net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range more {
		c.all[one] = true
	}
	return !c.closed
}

func (c *connections) remove(ended ...net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range ended {
		delete(c.all, one)
	}
}

func (c *connections) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for one := range c.all {
		one.Close()
	}
}
