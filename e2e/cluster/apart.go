package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// wire is the network of a cluster whose nodes stand apart: a network namespace
// for each node, and one with a switch that they are plugged into. Nothing of it
// reaches this machine's own network. Where the switch is cut, packets are lost
// without a word, as behind a broken cable.
//
//	<prefix>-switch     bridges b0, b1 …; a port p<i> for each node
//	<prefix>-<i>        eth0 with the node's address
//
// A namespace of a name that this process gave is removed with the cluster; the
// interfaces in it go with it.
type wire struct {
	prefix string
	nodes  int
}

// The addresses of nodes that stand apart (RFC 5737: for documentation, so that
// they are nobody's), and the ports that each has in its own namespace.
const (
	subnet       = "192.0.2."
	peerPort     = 4001
	registryPort = 7888
)

func newWire(nodes int) *wire {
	return &wire{prefix: fmt.Sprintf("pyrsia%d", os.Getpid()), nodes: nodes}
}

func (w *wire) hub() string { return w.prefix + "-switch" }

func (w *wire) namespace(i int) string { return fmt.Sprintf("%s-%d", w.prefix, i) }

// ip runs commands of ip(8), one a line.
func ip(lines string) error {
	for line := range strings.Lines(lines) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", line, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// up makes the network, whole.
func (w *wire) up() error {
	if err := ip(fmt.Sprintf("netns add %[1]s\n-n %[1]s link add b0 type bridge\n-n %[1]s link set b0 up", w.hub())); err != nil {
		return err
	}
	for i := range w.nodes {
		err := ip(fmt.Sprintf(`
			netns add %[2]s
			-n %[2]s link set lo up
			-n %[1]s link add p%[3]d type veth peer name eth0 netns %[2]s
			-n %[1]s link set p%[3]d master b0 up
			-n %[2]s addr add %[4]s%[5]d/24 dev eth0
			-n %[2]s link set eth0 up`, w.hub(), w.namespace(i), i, subnet, i+1))
		if err != nil {
			return err
		}
	}
	return nil
}

// down removes it.
func (w *wire) down() error {
	var failures []error
	for i := range w.nodes {
		failures = append(failures, ip("netns del "+w.namespace(i)))
	}
	return errors.Join(append(failures, ip("netns del "+w.hub()))...)
}

// plug puts nodes on a bridge of their own; those on one bridge reach each other.
func (w *wire) plug(bridge int, nodes ...int) error {
	name := fmt.Sprintf("b%d", bridge)
	if ip(fmt.Sprintf("-n %s link show %s", w.hub(), name)) != nil {
		if err := ip(fmt.Sprintf("-n %[1]s link add %[2]s type bridge\n-n %[1]s link set %[2]s up", w.hub(), name)); err != nil {
			return err
		}
	}
	for _, i := range nodes {
		if err := ip(fmt.Sprintf("-n %s link set p%d master %s", w.hub(), i, name)); err != nil {
			return err
		}
	}
	return nil
}

// within runs f on a thread in a namespace: sockets that it makes and processes
// that it starts are there for good.
func within(namespace string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err, home := enter(namespace, f)
		if home {
			runtime.UnlockOSThread() // else the thread ends with this goroutine
		}
		done <- err
	}()
	return <-done
}

func enter(namespace string, f func() error) (err error, home bool) {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err, true
	}
	defer own.Close()
	there, err := os.Open("/run/netns/" + namespace)
	if err != nil {
		return err, true
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", namespace, err), true
	}
	err = f()
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back), false
	}
	return err, true
}

// Partition cuts the network: the nodes of a group reach each other and nobody
// else. Those that no group names stay together. It is only for nodes that stand
// apart.
func (c *Cluster) Partition(groups ...[]*Node) error {
	grouped := map[*Node]int{}
	for i, group := range groups {
		for _, n := range group {
			grouped[n] = i + 1
		}
	}
	for i, n := range c.nodes {
		if err := c.wire.plug(grouped[n], i); err != nil {
			return err
		}
	}
	return nil
}

// Heal makes the network whole again.
func (c *Cluster) Heal() error { return c.Partition() }

// Listen opens a port where the node is, at its loopback: for what the node is to
// find on its own machine.
func (n *Node) Listen(address string) (listener net.Listener, err error) {
	open := func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	}
	if n.namespace == "" {
		return listener, open()
	}
	err = within(n.namespace, open)
	return listener, err
}

// HTTP is a client that is where the node is. The caller closes its idle
// connections.
func (n *Node) HTTP() *http.Client {
	if n.namespace == "" {
		return http.DefaultClient
	}
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = within(n.namespace, func() (err error) {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}}}
}
