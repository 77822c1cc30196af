// Package node is one running node: it constructs every module in reading
// order, connects their ports, and closes them in reverse. It is the only
// wiring there is; modules never name each other.
//
// The files below storage.data:
//
//	keys/       private keys and the vote file, kept and wiped together
//	chain.db    the log and its state
//	store/      files by digest
//	mirror/     the journal of what passed through unverified
//	inputs/     the record of what was proven for locks
//	tries/      the same, for recipes that were only tried
//	publish/    requests, logs and outputs of builds
//	config/     the configurations it ran with
//	scratch/    emptied at every start
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/appliance/metrics"
	"github.com/pyrsia/appliance/appliance/supervisor"
	"github.com/pyrsia/appliance/hcl/config"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/chain"
	chainbolt "github.com/pyrsia/appliance/modules/chain/bolt"
	"github.com/pyrsia/appliance/modules/distribution/libp2p"
	"github.com/pyrsia/appliance/modules/identity"
	"github.com/pyrsia/appliance/modules/mirror"
	"github.com/pyrsia/appliance/modules/mirror/upstream"
	"github.com/pyrsia/appliance/modules/publish"
	"github.com/pyrsia/appliance/modules/quorum"
	votesbolt "github.com/pyrsia/appliance/modules/quorum/bolt"
	"github.com/pyrsia/appliance/modules/record"
	"github.com/pyrsia/appliance/modules/registry/maven"
	"github.com/pyrsia/appliance/modules/registry/oci"
	"github.com/pyrsia/appliance/modules/registry/tlog"
	"github.com/pyrsia/appliance/modules/store/disk"
)

// Node is one node. Its exported methods, beside Serve and Close, are those of
// control.Node; they are safe for concurrent use.
type Node struct {
	config   atomic.Pointer[config.Config] // that it runs with
	file     string                        // the pyrsia.hcl to reload
	version  string
	log      *slog.Logger
	started  time.Time
	options  options
	keys     *identity.Keys // of which only the identity's counts here: builder has its own
	identity record.Identity
	scratch  string

	trying    sync.Mutex    // held while a recipe is tried
	comparing chan struct{} // full while outputs are compared

	closers []func() error // in the order of construction

	chain   *chain.Chain
	store   *disk.Store
	host    *libp2p.Host
	mirror  *mirror.Mirror
	front   *front // of build tools
	meter   *front // of monitoring systems
	traffic *traffic

	builder atomic.Pointer[builder] // nil on a regular node
	role    *role
	reload  *reload
	pulse   *supervisor.Pulse
	tree    *supervisor.Supervisor
}

type options struct {
	engine    func(build.Engine) build.Engine
	transport func(quorum.Transport) quorum.Transport
	inputs    func(publish.Inputs) publish.Inputs
	journal   Journal
	instead   *Instead
	listeners Listeners
	sealed    []byte
}

// Option changes how a node is made. The product uses none; tests do.
type Option func(*options)

// WithEngine wraps the build engine.
func WithEngine(wrap func(build.Engine) build.Engine) Option {
	return func(o *options) { o.engine = wrap }
}

// WithInputs wraps what finds and proves the inputs of builds.
func WithInputs(wrap func(publish.Inputs) publish.Inputs) Option {
	return func(o *options) { o.inputs = wrap }
}

// WithTransport wraps what sends this node's messages to other members.
func WithTransport(wrap func(quorum.Transport) quorum.Transport) Option {
	return func(o *options) { o.transport = wrap }
}

// Journal is what writes the node's log, where it can be changed.
type Journal interface {
	Set(config.Log)
}

// WithJournal makes reloads change how the log is written.
func WithJournal(j Journal) Option {
	return func(o *options) { o.journal = j }
}

// WithListeners opens the listeners of clients.
func WithListeners(l Listeners) Option {
	return func(o *options) { o.listeners = l }
}

// Instead says that a node runs with a configuration that it ran with before, because
// its pyrsia.hcl is broken.
type Instead struct {
	File   string // the broken one
	Reason string // in one sentence
}

// RunsInstead makes the node say so wherever it is asked how it is.
func RunsInstead(i Instead) Option {
	return func(o *options) { o.instead = &i }
}

// New makes a node; it opens the node's files and starts nothing. Close must
// be called also if Serve was never.
func New(cfg *config.Config, version string, log *slog.Logger, opts ...Option) (node *Node, err error) {
	n := &Node{file: cfg.File, version: version, log: log, started: time.Now(), comparing: make(chan struct{}, 1)}
	n.config.Store(cfg)
	for _, option := range opts {
		option(&n.options)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	for _, step := range []func() error{
		n.checkPermissions, n.openFolders, n.openKeys, n.openChain, n.openStore, n.makeHost, n.makeMirror, n.makeRole, n.makeReload, n.makeTree,
	} {
		if err := step(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// Close closes what New opened, in reverse order.
func (n *Node) Close() error {
	var failures []error
	for i := len(n.closers) - 1; i >= 0; i-- {
		failures = append(failures, n.closers[i]())
	}
	n.closers = nil
	return errors.Join(failures...)
}

func (n *Node) folder(parts ...string) string {
	return filepath.Join(append([]string{n.conf().Storage.Data}, parts...)...)
}

func (n *Node) openFolders() error {
	n.scratch = n.folder("scratch")
	if err := os.RemoveAll(n.scratch); err != nil {
		return fmt.Errorf("empty the scratch folder: %w; is storage.data = %q this node's own?", err, n.conf().Storage.Data)
	}
	for _, name := range []string{"scratch", "mirror", "inputs", "tries", "publish"} {
		if err := os.MkdirAll(n.folder(name), 0o700); err != nil {
			return fmt.Errorf("open the data folder: %w; check storage.data in %s", err, n.conf().File)
		}
	}
	return nil
}

func (n *Node) isBuilder() bool { return n.builder.Load() != nil }

// conf is the configuration that the node runs with now.
func (n *Node) conf() *config.Config { return n.config.Load() }

// label is what pyrsia.hcl calls a node, "" for nothing.
func (n *Node) label(id record.Identity) string { return n.conf().Label(id) }

// CreateKeys makes the keys of a new node in a folder, together with their
// empty vote file.
func CreateKeys(folder string) (*identity.Keys, error) {
	return identity.Create(folder, createVotes)
}

// createVotes makes the vote file of new keys. It is bound to them before anybody
// can find it: an empty file would bind to whatever key comes first, also to one
// that a rekey has just retired.
func createVotes(folder string, keys *identity.Keys) (err error) {
	if err := votesbolt.Create(folder); err != nil {
		return err
	}
	file, err := votesbolt.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(file.Bind(keys.Signers().Vote.Public()), file.Close())
}

func (n *Node) openKeys() (err error) {
	if n.keys, err = n.loadOrCreateKeys(); err != nil {
		return err
	}
	n.identity = n.keys.Identity()
	return nil
}

// loadOrCreateKeys makes keys only where there is nothing that says they are elsewhere.
func (n *Node) loadOrCreateKeys() (*identity.Keys, error) {
	if len(n.options.sealed) > 0 {
		keys, err := identity.LoadSealed(n.folder("keys"), n.options.sealed)
		if err != nil {
			err = fmt.Errorf("%w (the sealed ones are the credential pyrsia.keys, in /etc/credstore.encrypted)", err)
		}
		return keys, err
	}
	return identity.LoadOrCreate(n.folder("keys"), createVotes)
}

func (n *Node) openChain() error {
	genesis, _, diagnostics := n.conf().Genesis()
	if err := diagnostics.Err(); err != nil {
		return err
	}
	backend, err := chainbolt.Open(n.folder("chain.db"))
	if err != nil {
		return err
	}
	n.closers = append(n.closers, backend.Close)
	if n.chain, err = chain.New(backend, genesis); err != nil {
		return err
	}
	if err := n.chain.Pin(n.conf().Network.Checkpoint); err != nil {
		return fmt.Errorf("%s: network.checkpoint: %w", n.conf().File, err)
	}
	if name := n.conf().Network.Name; name != "" && name != n.chain.Network().Name {
		return fmt.Errorf("%s: network.name is %q, but the genesis founds %q", n.conf().File, name, n.chain.Network().Name)
	}
	return nil
}

func (n *Node) openStore() (err error) {
	if n.store, err = disk.Open(n.folder("store"), disk.Options{Quota: n.conf().Distribution.Quota}); err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	n.closers = append(n.closers, n.store.Close)
	return nil
}

func (n *Node) makeHost() (err error) {
	n.host, err = libp2p.New(libp2p.Config{
		Key: n.keys.Private(), Listen: n.conf().Network.Listen, Peers: n.peers(n.conf()),
		Share: n.conf().Distribution.Share, UploadRate: n.conf().Distribution.Upload, DownloadRate: n.conf().Distribution.Download, Version: n.version,
		Members: n.isMember, Receive: n.receive, OnConnect: n.connected, OnDisconnect: n.disconnected,
		Meet: n.meet, Refused: n.refused, Blocks: n.chain, Log: n.log,
	}, peerStore{n.store})
	return err
}

// peers are the nodes that a configuration says to stay connected to.
func (n *Node) peers(cfg *config.Config) map[record.Identity][]string {
	peers := map[record.Identity][]string{}
	for _, peer := range cfg.TrustedBuildPeers {
		if peer.ID != n.identity {
			peers[peer.ID] = peer.Addresses
		}
	}
	return peers
}

func (n *Node) isMember(id record.Identity) bool {
	_, member := n.chain.Set().Node(id)
	return member && n.isBuilder()
}

// What follows is called by the host. On a node that builds nothing it does nothing.

func (n *Node) receive(from record.Identity, payload []byte) {
	if b := n.builder.Load(); b != nil {
		b.quorum.Receive(from, payload)
	}
}

// connected takes a line for votes as a sign of life, unless the member is shut
// out: what it proposes would not be heard.
func (n *Node) connected(ctx context.Context, to record.Identity) error {
	b := n.builder.Load()
	if b == nil {
		return nil
	}
	if err := b.quorum.Opened(ctx, to); err != nil {
		return err
	}
	if !b.limits.ShutOut(to) {
		b.members.Connected(to)
	}
	return nil
}

func (n *Node) disconnected(from record.Identity) {
	if b := n.builder.Load(); b != nil {
		b.members.Doubt(from)
	}
}

func (n *Node) meet(from record.Identity, stream *libp2p.MemberStream) {
	if b := n.builder.Load(); b != nil {
		b.members.Accept(from, stream)
	}
}

func (n *Node) refused(from record.Identity, why string) {
	n.limits().Refused(from, quorum.Refusal(why))
}

// limits keep account of what other nodes send; nil on a regular node, which limits
// nothing.
func (n *Node) limits() *quorum.Limits {
	if b := n.builder.Load(); b != nil {
		return b.limits
	}
	return nil
}

func (n *Node) makeMirror() error {
	rules, err := mirrorRules(n.conf())
	if err != nil {
		return err
	}
	n.mirror, err = mirror.New(
		mirror.Config{Folder: n.folder("mirror"), Rules: rules, Logger: n.log},
		mirror.Ports{Log: vouching{n.chain}, Index: index{n.chain}, Store: n.store, Peers: streams{n.host}, Builds: wishes{n}},
	)
	if err != nil {
		return err
	}
	n.closers = append(n.closers, n.mirror.Close)
	n.traffic = newTraffic()
	n.front = newFront(n.routes(n.whenChecked(oci.New(oci.Config{}, n.mirror)), n.whenChecked(maven.New(n.mirror)), tlog.New(n.chain, n.chain, proofs{n.chain})), n.options.listeners)
	meter := http.NewServeMux()
	meter.Handle("GET /metrics", metrics.Handler(n.Status))
	n.meter = newFront(meter, nil)
	return nil
}

// mirrorRules are what a configuration says of the mirror.
func mirrorRules(cfg *config.Config) (mirror.Rules, error) {
	rules := mirror.Rules{Ecosystems: map[string]mirror.Ecosystem{}, Upstreams: map[string]mirror.Upstream{}}
	for _, m := range cfg.Mirrors {
		if m.Kind != config.MirrorDocker && m.Kind != config.MirrorMaven {
			continue
		}
		ecosystem := mirror.Ecosystem{Unverified: mirror.Policy(m.Unverified)}
		for _, pattern := range m.Packages {
			ecosystem.Packages = append(ecosystem.Packages, pattern.String())
		}
		rules.Ecosystems[m.Kind] = ecosystem
		if m.Upstream == "" {
			continue
		}
		from, err := upstream.New(upstream.Config{Base: m.Upstream})
		if err != nil {
			return rules, fmt.Errorf("%s: mirror %q: %w", cfg.File, m.Kind, err)
		}
		rules.Upstreams[m.Kind] = from
	}
	for _, d := range cfg.Deny {
		if d.Package != "" {
			rules.Deny = append(rules.Deny, string(d.Package))
			continue
		}
		rules.Deny = append(rules.Deny, d.Digest.OCI())
	}
	return rules, nil
}

func (n *Node) makeTree() error {
	n.tree = supervisor.New(supervisor.Options{Log: n.log})
	n.tree.Add("distribution", n.host)
	n.tree.Add("follow", supervisor.Func(n.follow))
	n.tree.Add("signatures", supervisor.Func(n.catchUp))
	n.tree.Add("log", supervisor.Func(n.logBlocks))
	n.tree.Add("mirror", n.mirror)
	n.pulse = supervisor.NewPulse(n.probes)
	n.tree.Add("pulse", n.pulse)
	n.tree.Add("role", n.role) // shown by what it runs
	return nil
}

// Serve runs the node until the context ends or something fails for good. The
// ports are opened first: a port in use stops a node before it does anything.
func (n *Node) Serve(ctx context.Context) error {
	defer n.role.close() // also if it was never started
	if err := n.host.Free(); err != nil {
		return fmt.Errorf("%s: network.listen: %w; %s", n.conf().File, err, otherAddress(err))
	}
	socket, err := control.Listen(n.conf().Admin.Socket)
	if err != nil {
		return err
	}
	// A listener that fails cannot be opened again by its service: fatal.
	n.tree.Add("control", supervisor.Func(func(ctx context.Context) error {
		server := control.New(n)
		server.Handle("GET /metrics", metrics.Handler(n.Status))
		return supervisor.Fatal(server.Serve(ctx, socket))
	}))
	for _, part := range []part{n.reloadRegistry, n.reloadMetrics} {
		open, _, err := part(nil, n.conf())
		if err != nil {
			return errors.Join(err, socket.Close())
		}
		open()
	}
	n.tree.Add("registry", n.front)
	n.tree.Add("metrics", n.meter)
	n.tree.Add("configuration", n.reload)
	if i := n.options.instead; i != nil {
		n.log.Error("the configuration is broken; the node started with the last one it ran with", "error", i.Reason, "file", i.File, "number", n.reload.configuration().Number)
	}
	n.log.Info("serving", "role", n.roleName(), "identity", n.identity, "network", n.chain.Network().Name, "height", n.chain.Height(), "registry", n.conf().Registry.Listen)
	return n.tree.Serve(ctx)
}
