// Package cluster is a whole network of nodes on one machine, declared in one
// Spec: build nodes and regular nodes, each with its own keys, folders, ports
// and pyrsia.hcl, founded by the same command line that operators use. The nodes
// are processes of their own, each build node with a buildkitd, or live in this
// process.
//
// Stories and the demo are written against it. What stands in the folder is
// all there is: a cluster can be opened again by another process, with its
// nodes running or not.
//
//	<folder>/cluster.json            names and ports
//	<folder>/genesis.json            the network
//	<folder>/<node>/pyrsia.hcl
//	<folder>/<node>/recipes.d/       a build node's recipes
//	<folder>/<node>/data/            keys, votes, chain, store
//	<folder>/<node>/node.{pid,log}, control.sock   (no pid in this process)
//	<folder>/<node>/buildkitd/       a build node's buildkitd: root, socket, pid, log
package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/build/buildkit/buildkittest"
	"github.com/pyrsia/appliance/modules/publish"
	"github.com/pyrsia/appliance/modules/record"
)

// Kind is what the nodes of a cluster live in.
type Kind int

const (
	// Processes are nodes in processes of their own: the released program with
	// a buildkitd, which can be killed and can outlive this program.
	Processes Kind = iota

	// InProcess are nodes in this process, where the race detector and a
	// debugger see them. They can be stopped and not killed.
	InProcess

	// Apart are nodes in processes of their own, each in a network namespace of
	// its own, at a switch that can be cut (Cluster.Partition). They cannot outlive
	// this program. It needs root and ip(8).
	Apart
)

// String is the kind's name in messages and paths.
func (k Kind) String() string {
	return [...]string{"processes", "inproc", "apart"}[k]
}

// Spec declares a cluster. Folder, Build and Pyrsia are required.
type Spec struct {
	Kind    Kind
	Folder  string // of everything the cluster keeps; made if it is missing
	Name    string // of the network; default "e2e"
	Build   int    // build nodes, called alpha, beta, gamma …
	Regular int    // regular nodes, called edge, edge2 …

	Pyrsia    string // path of the program
	Buildkitd string // path of the program; "" for build nodes whose Workers or Engine are given

	Upstreams  Upstreams
	Recipes    string // folder whose recipes every build node gets; "" for none
	Unverified string // what regular nodes do with what is not published; default "refuse"
	Level      string // of the nodes' logs; default "info"

	// Outlive leaves the processes running when this program ends. Nodes in this
	// process cannot have it.
	Outlive bool

	// Adjust may change a node before it is made; nil for no changes.
	Adjust func(*NodeSpec)
}

// NodeSpec declares one node.
type NodeSpec struct {
	Name      string
	Build     bool      // build node or regular node
	Program   string    // of a process: "serve" is its first argument; default Spec.Pyrsia
	Env       []string  // of a process: "NAME=value"
	Upstreams Upstreams //
	Recipes   string    // folder
	Workers   []string  // addresses of buildkitd; none means one of its own
	Registry  string    // host:port for clients; default a free port
	Share     bool      // whether it serves other nodes; default true
	Packages  []string  // Maven packages to fetch ahead
	Upload    string    // distribution.upload; default unlimited
	Machine   Machine   // as its own buildkitd sees it

	// Engine makes the build engine of a node in this process from the one for
	// its Workers; nil leaves that. A change counts from the next start on.
	Engine func(build.Engine) build.Engine
	// Inputs makes what finds and proves inputs, of a node in this process, from its
	// own; nil leaves that. A change counts from the next start on.
	Inputs func(publish.Inputs) publish.Inputs
}

// names of build nodes; more of them get numbers.
var names = []string{"alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta"}

// Cluster is a declared network. Its methods are safe for concurrent use, as
// long as they are about different nodes.
type Cluster struct {
	spec  Spec
	nodes []*Node
	wire  *wire // of nodes that stand apart, else nil

	mu    sync.Mutex // guards ports in the nodes
	state state
}

// state is what has to be remembered beside the files of the nodes.
type state struct {
	Network string            `json:"network"`
	Genesis string            `json:"genesis"` // as in pyrsia.hcl
	Ports   map[string][2]int `json:"ports"`   // of each node: for peers, for clients
}

// New makes the cluster's files, or finds them: keys, genesis and one
// pyrsia.hcl for each node. It starts nothing.
func New(ctx context.Context, spec Spec) (*Cluster, error) {
	c, err := Open(spec)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.spec.Folder, 0o755); err != nil {
		return nil, fmt.Errorf("make the cluster's folder: %w", err)
	}
	if err := c.found(ctx); err != nil {
		return nil, err
	}
	if c.wire != nil {
		if err := c.wire.up(); err != nil {
			return nil, errors.Join(err, c.wire.down())
		}
	}
	return c, c.write()
}

// Open is the cluster that a Spec declares, and what an earlier New left of it;
// it changes no file.
func Open(spec Spec) (*Cluster, error) {
	folder, err := filepath.Abs(spec.Folder)
	if err != nil {
		return nil, err
	}
	spec.Folder = folder
	if spec.Kind != Processes && spec.Outlive {
		return nil, fmt.Errorf("nodes of the kind %s cannot outlive this program", spec.Kind)
	}
	if spec.Name == "" {
		spec.Name = "e2e"
	}
	if spec.Level == "" {
		spec.Level = "info"
	}
	if spec.Unverified == "" {
		spec.Unverified = "refuse"
	}
	c := &Cluster{spec: spec, state: state{Ports: map[string][2]int{}}}
	for i := range spec.Build {
		name := fmt.Sprintf("build%d", i+1)
		if i < len(names) {
			name = names[i]
		}
		c.add(NodeSpec{Name: name, Build: true})
	}
	for i := range spec.Regular {
		name := "edge"
		if i > 0 {
			name = fmt.Sprintf("edge%d", i+1)
		}
		c.add(NodeSpec{Name: name})
	}
	if spec.Kind == Apart {
		c.wire = newWire(len(c.nodes))
	}
	for i, n := range c.nodes {
		if c.wire != nil {
			n.stand(c.wire.namespace(i), i)
		}
		// unix(7): a socket's path has 107 characters at most.
		longest := n.file("buildkitd", "otel.sock")
		if len(longest) > 107 {
			return nil, fmt.Errorf("%s is too long for a socket's path by %d characters; use a folder with a shorter name", longest, len(longest)-107)
		}
	}
	data, err := os.ReadFile(c.file("cluster.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &c.state)
	}
	if err != nil {
		return nil, fmt.Errorf("read the cluster: %w; remove %s to begin anew", err, c.spec.Folder)
	}
	for _, n := range c.nodes {
		n.load()
	}
	return c, nil
}

func (c *Cluster) add(s NodeSpec) {
	s.Program, s.Upstreams, s.Recipes, s.Share = c.spec.Pyrsia, c.spec.Upstreams, c.spec.Recipes, true
	if c.spec.Adjust != nil {
		c.spec.Adjust(&s)
	}
	c.nodes = append(c.nodes, newNode(c, s))
}

func (c *Cluster) file(parts ...string) string {
	return filepath.Join(append([]string{c.spec.Folder}, parts...)...)
}

// Nodes are all nodes: build nodes, then regular nodes.
func (c *Cluster) Nodes() []*Node { return c.nodes }

// Node is the node with an index, as in Nodes.
func (c *Cluster) Node(i int) *Node { return c.nodes[i] }

// Builders are the build nodes.
func (c *Cluster) Builders() []*Node { return c.nodes[:c.spec.Build] }

// Regular is the regular node with an index.
func (c *Cluster) Regular(i int) *Node { return c.nodes[c.spec.Build+i] }

// Genesis is the network's pin, "sha256:<hex>".
func (c *Cluster) Genesis() string { return c.state.Genesis }

// found makes the nodes' keys and the genesis, by the command line, once.
func (c *Cluster) found(ctx context.Context) error {
	if c.state.Genesis != "" {
		return nil
	}
	arguments := []string{"network", "init", c.spec.Name, "--json", "--allow-small", "--output", c.file("genesis.json")}
	for _, n := range c.nodes {
		if _, err := os.Stat(n.file("data", "chain.db")); err == nil {
			return fmt.Errorf("%s has the chain of a network that %s does not name; remove %s to begin anew", n.file("data"), c.file("cluster.json"), c.spec.Folder)
		}
		if err := os.MkdirAll(n.file(), 0o755); err != nil {
			return err
		}
		recorded, err := c.run(ctx, "id", "--record", "--operator", n.Name+".example", "--data", n.file("data"))
		if err != nil {
			return err
		}
		if err := writeFile(n.file("record.json"), recorded); err != nil {
			return err
		}
		if n.Build {
			arguments = append(arguments, "--node", n.file("record.json"))
		}
	}
	// What is there without a cluster.json is of a founding that was cut off.
	if err := os.Remove(c.file("genesis.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	answer, err := c.run(ctx, arguments...)
	if err != nil {
		return err
	}
	var founded struct {
		Genesis string `json:"genesis"`
	}
	if err := json.Unmarshal(answer, &founded); err != nil || founded.Genesis == "" {
		return fmt.Errorf("`pyrsia network init --json` printed %.200q, which names no genesis", answer)
	}
	c.state.Network, c.state.Genesis = c.spec.Name, founded.Genesis
	for _, n := range c.nodes {
		n.load()
		if err := c.assign(n); err != nil {
			return err
		}
	}
	return c.save()
}

func (c *Cluster) save() error {
	data, err := json.MarshalIndent(c.state, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(c.file("cluster.json"), append(data, '\n'))
}

// run is the command line.
func (c *Cluster) run(ctx context.Context, arguments ...string) ([]byte, error) {
	command := exec.CommandContext(ctx, c.spec.Pyrsia, arguments...)
	var complaint strings.Builder
	command.Stderr = &complaint
	out, err := command.Output()
	if err != nil {
		return out, fmt.Errorf("`pyrsia %s`: %w: %s", strings.Join(arguments, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out, nil
}

// Start starts what does not run, build nodes first, and returns when every
// node answers.
func (c *Cluster) Start(ctx context.Context) error {
	// Between the choice of a port and its use somebody else may take it; all
	// nodes then get to know the new one.
	const attempts = 4
	for attempt := 1; ; attempt++ {
		err := c.start(ctx)
		if err == nil || !errors.Is(err, errPortTaken) || attempt == attempts {
			return err
		}
		if err := c.stopNodes(); err != nil {
			return err
		}
		for _, n := range c.nodes {
			if err := c.assign(n); err != nil {
				return err
			}
		}
		if err := errors.Join(c.save(), c.write()); err != nil {
			return err
		}
	}
}

func (c *Cluster) start(ctx context.Context) error {
	failures := make([]error, len(c.nodes))
	var all sync.WaitGroup
	for i, n := range c.nodes {
		all.Go(func() { failures[i] = n.Start(ctx) })
	}
	all.Wait()
	return errors.Join(failures...)
}

// Stop ends all processes of the cluster, nodes first, in an orderly way.
func (c *Cluster) Stop() error { return errors.Join(c.stopNodes(), c.stopBuildkits()) }

// Unwire removes the network of nodes that stand apart, which have stopped.
func (c *Cluster) Unwire() error {
	if c.wire == nil {
		return nil
	}
	return c.wire.down()
}

func (c *Cluster) stopNodes() error {
	return c.each(func(n *Node) error { return n.Stop() })
}

func (c *Cluster) stopBuildkits() error {
	return c.each(func(n *Node) error {
		if n.buildkitd == nil {
			return nil
		}
		return n.buildkitd.Stop()
	})
}

func (c *Cluster) each(do func(*Node) error) error {
	failures := make([]error, len(c.nodes))
	var all sync.WaitGroup
	for i, n := range c.nodes {
		all.Go(func() { failures[i] = do(n) })
	}
	all.Wait()
	return errors.Join(failures...)
}

// KillAll ends all nodes at once as a power cut would; their buildkitd stay.
func (c *Cluster) KillAll() error {
	return c.each(func(n *Node) error { return n.Kill() })
}

// Remove stops everything and removes the folder, with the mounts that a killed
// buildkitd left below it.
func (c *Cluster) Remove() error {
	if err := errors.Join(c.Stop(), c.Unwire()); err != nil {
		return err
	}
	return buildkittest.Remove(c.spec.Folder)
}

// Running tells whether any process of the cluster runs.
func (c *Cluster) Running() bool {
	for _, n := range c.nodes {
		if n.Running() || n.buildkitd != nil && n.buildkitd.Running() {
			return true
		}
	}
	return false
}

// Member is the build node with an identity, nil for none.
func (c *Cluster) Member(id record.Identity) *Node {
	for _, n := range c.Builders() {
		if n.identity == id {
			return n
		}
	}
	return nil
}
