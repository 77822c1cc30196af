package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// errPortTaken is wrapped when a node's port went to another program.
var errPortTaken = errors.New("a port was taken")

// startTimeout is how long a node or a buildkitd may take to answer.
const startTimeout = 60 * time.Second

// Node is one node of a cluster.
type Node struct {
	NodeSpec

	cluster   *Cluster
	identity  record.Identity
	body      body
	buildkitd *Buildkitd // nil for a node that has none of its own
	namespace string     // of a node that stands apart, else ""
	host      string     // its address for peers there
}

// body is what a node lives in.
type body interface {
	Log() string
	Start() error
	Running() bool
	Stop(grace time.Duration) error
	Kill() error
	failed() error // of one that ended by itself, nil while it runs
	outdated() bool
}

func newNode(c *Cluster, s NodeSpec) *Node {
	n := &Node{NodeSpec: s, cluster: c}
	n.body = &inside{node: n}
	if c.spec.Kind != InProcess {
		n.body = &Process{
			Name: "node", Args: []string{s.Program, "serve", "--config", n.Config()}, Env: s.Env,
			Folder: n.file(), Outlive: c.spec.Outlive,
		}
	}
	if s.Build && len(s.Workers) == 0 && c.spec.Buildkitd != "" {
		n.buildkitd = NewBuildkitd(c.spec.Buildkitd, c.spec.Pyrsia, n.file("buildkitd"), c.spec.Outlive, s.Machine)
	}
	return n
}

func (n *Node) file(parts ...string) string {
	return n.cluster.file(append([]string{n.Name}, parts...)...)
}

// Config is the node's pyrsia.hcl.
func (n *Node) Config() string { return n.file("pyrsia.hcl") }

// Data is the node's storage.data.
func (n *Node) Data() string { return n.file("data") }

// Socket is the node's control socket.
func (n *Node) Socket() string { return n.file("control.sock") }

// Log is the file that the node writes to.
func (n *Node) Log() string { return n.body.Log() }

// Identity is the node's PeerID.
func (n *Node) Identity() record.Identity { return n.identity }

// RegistryURL is where clients find the node, without a slash at the end.
func (n *Node) RegistryURL() string { return "http://" + n.registry() }

// stand puts the node into a namespace of its own.
func (n *Node) stand(namespace string, i int) {
	n.namespace, n.host = namespace, fmt.Sprintf("%s%d", subnet, i+1)
	n.body.(*Process).within = func(start func() error) error { return within(namespace, start) }
}

// address is where peers find the node.
func (n *Node) address() string {
	if n.namespace != "" {
		return fmt.Sprintf("/ip4/%s/tcp/%d", n.host, peerPort)
	}
	return fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", n.ports()[0])
}

func (n *Node) registry() string {
	if n.namespace != "" {
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(registryPort))
	}
	if n.Registry != "" {
		return n.Registry
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(n.ports()[1]))
}

func (n *Node) ports() [2]int {
	n.cluster.mu.Lock()
	defer n.cluster.mu.Unlock()
	return n.cluster.state.Ports[n.Name]
}

// load takes the identity from the node record that founding left.
func (n *Node) load() {
	data, err := os.ReadFile(n.file("record.json"))
	if err != nil {
		return
	}
	var r record.NodeRecord
	if record.Unmarshal(bytes.TrimSpace(data), &r) == nil {
		n.identity = r.Identity
	}
}

// assign gives the node new ports.
func (c *Cluster) assign(n *Node) error {
	var ports [2]int
	for i := range ports {
		port, err := freePort()
		if err != nil {
			return err
		}
		ports[i] = port
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.Ports[n.Name] = ports
	return nil
}

// Running tells whether the node runs.
func (n *Node) Running() bool { return n.body.Running() }

// Start starts the node, and its buildkitd before it, where they do not run. It
// returns when both answer.
func (n *Node) Start(ctx context.Context) error {
	if n.buildkitd != nil {
		if err := n.buildkitd.Start(ctx); err != nil {
			return err
		}
	}
	if n.body.Running() {
		return n.wait(ctx)
	}
	if n.Registry != "" {
		if err := CheckPort(n.Registry); err != nil {
			return fmt.Errorf("%s cannot start: %w", n.Name, err)
		}
	}
	if err := n.body.Start(); err != nil {
		return err
	}
	return n.wait(ctx)
}

// wait returns when the control socket answers.
func (n *Node) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	client := n.Client()
	defer client.Close()
	err := Until(ctx, func() (bool, error) {
		if err := n.body.failed(); err != nil {
			if strings.Contains(err.Error(), "address already in use") && n.Registry == "" {
				err = fmt.Errorf("%w: %w", errPortTaken, err)
			}
			return false, err
		}
		_, err := client.Status(ctx)
		return err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%s does not start: %w", n.Name, err)
	}
	return nil
}

// Use sets the program and the environment of the next start of a node that is
// a process.
func (n *Node) Use(program string, env ...string) {
	process := n.body.(*Process)
	process.Args[0], process.Env = program, env
}

// Stop ends the node in an orderly way; its buildkitd stays.
func (n *Node) Stop() error { return n.body.Stop(30 * time.Second) }

// Kill ends the node as a power cut would (kill -9); its buildkitd stays. A
// node in this process refuses.
func (n *Node) Kill() error { return n.body.Kill() }

// Restart stops the node and starts it again.
func (n *Node) Restart(ctx context.Context) error {
	if err := n.Stop(); err != nil {
		return err
	}
	return n.Start(ctx)
}

// Client is a new client of the node's control socket; the caller closes it.
func (n *Node) Client() *control.Client { return control.NewClient(n.Socket()) }

// Pyrsia runs the command line against the node.
func (n *Node) Pyrsia(ctx context.Context, arguments ...string) ([]byte, error) {
	return n.cluster.run(ctx, append([]string{"--config", n.Config()}, arguments...)...)
}

// Status is the node's status.
func (n *Node) Status(ctx context.Context) (control.Status, error) {
	client := n.Client()
	defer client.Close()
	return client.Status(ctx)
}

// WaitHeight returns when the node has the block of a height.
func (n *Node) WaitHeight(ctx context.Context, height int64) error {
	client := n.Client()
	defer client.Close()
	var last int64
	err := Until(ctx, func() (bool, error) {
		status, err := client.Status(ctx)
		if err != nil {
			return false, nil
		}
		last = status.Height
		return last >= height, nil
	})
	if err != nil {
		return fmt.Errorf("%s is at height %d and not at %d: %w", n.Name, last, height, err)
	}
	return nil
}

// WaitBuild returns the package's newest build as soon as good says so.
func (n *Node) WaitBuild(ctx context.Context, purl artifact.PURL, good func(control.BuildDetail) bool) (control.BuildDetail, error) {
	client := n.Client()
	defer client.Close()
	var last control.BuildDetail
	var failure error
	err := Until(ctx, func() (bool, error) {
		detail, err := client.Build(ctx, string(purl))
		if err != nil {
			failure = err
			return false, nil
		}
		last, failure = detail, nil
		return good(detail), nil
	})
	if err == nil {
		return last, nil
	}
	if failure != nil {
		return last, fmt.Errorf("%s does not know a build of %s: %w", n.Name, purl, failure)
	}
	return last, fmt.Errorf("%s has %s as %q (%s): %w", n.Name, purl, last.State, last.Reason, err)
}

// WaitPublished returns the package's build once the node knows it as published.
func (n *Node) WaitPublished(ctx context.Context, purl artifact.PURL) (control.BuildDetail, error) {
	return n.WaitBuild(ctx, purl, func(b control.BuildDetail) bool { return b.State == control.Published })
}

// Outdated tells whether the node is a process whose program's file was
// replaced since.
func (n *Node) Outdated() bool { return n.body.outdated() }
