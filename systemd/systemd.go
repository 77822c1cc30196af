// Package systemd is the service manager as a node's process sees it: what it is told
// of the node, and the listeners that it keeps for the node while that restarts.
//
// Without a service manager everything here does nothing, so that a node runs the same
// by hand and in a container. The protocol is sd_notify(3) and sd_listen_fds(3).
package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// Manager is the service manager of this process. It is safe for concurrent use.
type Manager struct {
	socket   string        // where it is told, "" for nowhere
	watchdog time.Duration // within which it wants a sign of life, 0 for never

	mu        sync.Mutex
	inherited map[string]net.Listener // not taken yet, by the address it listens on
}

// FromEnvironment is the manager that started this process. It takes what the manager
// left in the environment out of it: nothing that this process starts is the service.
// Call it once.
func FromEnvironment() (*Manager, error) {
	m := &Manager{socket: os.Getenv("NOTIFY_SOCKET"), inherited: map[string]net.Listener{}}
	var err error
	if m.watchdog, err = daemon.SdWatchdogEnabled(true); err != nil {
		return nil, fmt.Errorf("the service manager's watchdog: %w", err)
	}
	listeners, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("the service manager's listeners: %w", err)
	}
	for _, l := range listeners {
		if l != nil {
			m.inherited[l.Addr().String()] = l
		}
	}
	return m, os.Unsetenv("NOTIFY_SOCKET")
}

// Watchdog is within what time the manager wants a sign of life (Alive), 0 for never.
func (m *Manager) Watchdog() time.Duration { return m.watchdog }

// Ready says that the node serves. status is a line for people.
func (m *Manager) Ready(status string) error { return m.tell("READY=1\nSTATUS=" + line(status)) }

// Status changes the line for people.
func (m *Manager) Status(status string) error { return m.tell("STATUS=" + line(status)) }

// Stopping says that the node stops by itself or was asked to.
func (m *Manager) Stopping() error { return m.tell("STOPPING=1") }

// Alive is a sign of life.
func (m *Manager) Alive() error { return m.tell("WATCHDOG=1") }

// line keeps a status to its line: the protocol's fields are lines.
func line(s string) string { return strings.Join(strings.Fields(s), " ") }

func (m *Manager) tell(message string, files ...int) error {
	if m.socket == "" {
		return nil
	}
	// Package net sends no files over a datagram socket that is connected.
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		var rights []byte
		if len(files) > 0 {
			rights = unix.UnixRights(files...)
		}
		err = unix.Sendmsg(socket, []byte(message), rights, &unix.SockaddrUnix{Name: m.socket}, unix.MSG_NOSIGNAL)
		err = errors.Join(err, unix.Close(socket))
	}
	if err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	return nil
}

// Listen listens on a TCP address: with the listener that the manager kept or opened
// for it, where there is one, or with a new one, which the manager then keeps while this
// process restarts, so that no connection is refused meanwhile (the file descriptor
// store; a unit without one keeps nothing).
func (m *Manager) Listen(address string) (net.Listener, error) {
	if l := m.take(address); l != nil {
		return l, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	// That the manager does not keep it is no reason not to serve.
	_ = m.keep(l)
	return l, nil
}

// take is the inherited listener of an address, nil if there is none.
func (m *Manager) take(address string) net.Listener {
	wanted, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, l := range m.inherited {
		if has, ok := l.Addr().(*net.TCPAddr); ok && has.Port == wanted.Port && sameHost(has.IP, wanted.IP) {
			delete(m.inherited, name)
			return l
		}
	}
	return nil
}

// sameHost takes all ways to write "every address" for one.
func sameHost(a, b net.IP) bool {
	every := func(ip net.IP) bool { return len(ip) == 0 || ip.IsUnspecified() }
	return a.Equal(b) || every(a) && every(b)
}

func (m *Manager) keep(l net.Listener) error {
	if m.socket == "" {
		return nil
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return fmt.Errorf("keep a %T: not a TCP listener", l)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	told := raw.Control(func(fd uintptr) {
		err = m.tell("FDSTORE=1\nFDNAME="+nameOf(l.Addr()), int(fd))
	})
	return errors.Join(told, err)
}

// Forget closes what the manager kept or opened and nobody took, and has it forget
// listeners of which this process has none any more.
func (m *Manager) Forget(gone ...net.Addr) error {
	m.mu.Lock()
	var failures []error
	for name, l := range m.inherited {
		gone = append(gone, l.Addr())
		failures = append(failures, l.Close())
		delete(m.inherited, name)
	}
	m.mu.Unlock()
	for _, address := range gone {
		failures = append(failures, m.tell("FDSTOREREMOVE=1\nFDNAME="+nameOf(address)))
	}
	return errors.Join(failures...)
}

// nameOf is an address as the name of a file descriptor, in which no colon may be.
func nameOf(address net.Addr) string {
	return "registry-" + strings.ReplaceAll(address.String(), ":", "_")
}
