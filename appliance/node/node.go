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
//	publish/    requests, logs and outputs of builds
//	scratch/    emptied at every start
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/appliance/supervisor"
	"github.com/pyrsia/appliance/hcl/config"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/build/buildkit"
	"github.com/pyrsia/appliance/modules/build/input"
	"github.com/pyrsia/appliance/modules/chain"
	chainbolt "github.com/pyrsia/appliance/modules/chain/bolt"
	"github.com/pyrsia/appliance/modules/distribution/libp2p"
	"github.com/pyrsia/appliance/modules/identity"
	"github.com/pyrsia/appliance/modules/mirror"
	"github.com/pyrsia/appliance/modules/mirror/upstream"
	"github.com/pyrsia/appliance/modules/publish"
	"github.com/pyrsia/appliance/modules/quorum"
	"github.com/pyrsia/appliance/modules/quorum/attest"
	votesbolt "github.com/pyrsia/appliance/modules/quorum/bolt"
	"github.com/pyrsia/appliance/modules/quorum/memberlist"
	"github.com/pyrsia/appliance/modules/record"
	"github.com/pyrsia/appliance/modules/registry/maven"
	"github.com/pyrsia/appliance/modules/registry/oci"
	"github.com/pyrsia/appliance/modules/registry/tlog"
	"github.com/pyrsia/appliance/modules/store/disk"
)

// Node is one node. Its exported methods, beside Serve and Close, are those of
// control.Node; they are safe for concurrent use.
type Node struct {
	config   *config.Config
	version  string
	log      *slog.Logger
	started  time.Time
	options  options
	keys     *identity.Keys
	identity record.Identity
	labels   map[record.Identity]string // of trusted_build_peer blocks
	scratch  string
	closers  []func() error // in the order of construction

	chain   *chain.Chain
	store   *disk.Store
	host    *libp2p.Host
	mirror  *mirror.Mirror
	handler http.Handler
	traffic *traffic

	// Set on a build node only.
	votes   *votesbolt.File
	inputs  *input.Keeper
	recipes *recipeFolder
	limits  *quorum.Limits
	quorum  *quorum.Service
	members *memberlist.Members
	member  *publish.Member

	tree *supervisor.Supervisor
}

type options struct {
	engine    func(build.Engine) build.Engine
	transport func(quorum.Transport) quorum.Transport
}

// Option changes how a node is made. The product uses none; tests do.
type Option func(*options)

// WithEngine wraps the build engine.
func WithEngine(wrap func(build.Engine) build.Engine) Option {
	return func(o *options) { o.engine = wrap }
}

// WithTransport wraps what sends this node's messages to other members.
func WithTransport(wrap func(quorum.Transport) quorum.Transport) Option {
	return func(o *options) { o.transport = wrap }
}

// New makes a node; it opens the node's files and starts nothing. Close must
// be called also if Serve was never.
func New(cfg *config.Config, version string, log *slog.Logger, opts ...Option) (node *Node, err error) {
	n := &Node{config: cfg, version: version, log: log, started: time.Now(), labels: map[record.Identity]string{}}
	for _, option := range opts {
		option(&n.options)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	for _, peer := range cfg.TrustedBuildPeers {
		n.labels[peer.ID] = peer.Label
	}
	for _, step := range []func() error{
		n.openFolders, n.openKeys, n.openChain, n.openStore, n.makeHost, n.makeMirror, n.makeMember, n.makeTree,
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
	return filepath.Join(append([]string{n.config.Storage.Data}, parts...)...)
}

func (n *Node) openFolders() error {
	n.scratch = n.folder("scratch")
	if err := os.RemoveAll(n.scratch); err != nil {
		return fmt.Errorf("empty the scratch folder: %w; is storage.data = %q this node's own?", err, n.config.Storage.Data)
	}
	for _, name := range []string{"scratch", "mirror", "inputs", "publish"} {
		if err := os.MkdirAll(n.folder(name), 0o700); err != nil {
			return fmt.Errorf("open the data folder: %w; check storage.data in %s", err, n.config.File)
		}
	}
	return nil
}

func (n *Node) isBuilder() bool { return n.config.Role == config.RoleBuild }

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
	folder := n.folder("keys")
	if n.keys, err = identity.LoadOrCreate(folder, createVotes); err != nil {
		return err
	}
	if n.isBuilder() {
		if err := n.openVotes(folder); err != nil {
			return err
		}
	}
	n.identity = n.keys.Identity()
	return nil
}

// openVotes opens the vote file, whose lock keeps a rekey out, and only then reads
// the keys that count.
func (n *Node) openVotes(folder string) (err error) {
	if n.votes, err = votesbolt.Open(folder); err != nil {
		return err
	}
	n.closers = append(n.closers, n.votes.Close)
	if n.keys, err = identity.Load(folder); err != nil {
		return err
	}
	return n.votes.Bind(n.keys.Signers().Vote.Public())
}

func (n *Node) openChain() error {
	genesis, _, diagnostics := n.config.Genesis()
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
	if pin := n.config.Network.Checkpoint; pin != nil {
		if err := n.chain.Pin(*pin); err != nil {
			return fmt.Errorf("%s: network.checkpoint: %w", n.config.File, err)
		}
	}
	if name := n.config.Network.Name; name != "" && name != n.chain.Network().Name {
		return fmt.Errorf("%s: network.name is %q, but the genesis founds %q", n.config.File, name, n.chain.Network().Name)
	}
	if _, member := n.chain.Set().Node(n.identity); n.isBuilder() && !member {
		return fmt.Errorf("%s: role is \"build\", but %s is not among the network's build nodes; set role = \"regular\", or have the members add it", n.config.File, n.identity)
	}
	return nil
}

func (n *Node) openStore() (err error) {
	if n.store, err = disk.Open(n.folder("store"), disk.Options{Quota: n.config.Distribution.Quota}); err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	n.closers = append(n.closers, n.store.Close)
	return nil
}

func (n *Node) makeHost() (err error) {
	peers := map[record.Identity][]string{}
	for _, peer := range n.config.TrustedBuildPeers {
		if peer.ID != n.identity {
			peers[peer.ID] = peer.Addresses
		}
	}
	if n.isBuilder() {
		n.limits = quorum.NewLimits(n.isMember, n.shutOut)
	}
	n.host, err = libp2p.New(libp2p.Config{
		Key: n.keys.Private(), Listen: n.config.Network.Listen, Peers: peers,
		Share: n.config.Distribution.Share, UploadRate: n.config.Distribution.Upload, Version: n.version,
		Members: n.isMember, Receive: n.receive, OnConnect: n.connected, OnDisconnect: n.disconnected,
		Meet: n.meet, Refused: n.refused, Blocks: n.chain, Log: n.log,
	}, peerStore{n.store})
	return err
}

func (n *Node) isMember(id record.Identity) bool {
	_, member := n.chain.Set().Node(id)
	return member && n.isBuilder()
}

// What follows is called by the host. A node that is not a member has no quorum,
// no members and no limits.

func (n *Node) receive(from record.Identity, payload []byte) {
	if n.quorum != nil {
		n.quorum.Receive(from, payload)
	}
}

// connected takes a line for votes as a sign of life, unless the member is shut
// out: what it proposes would not be heard.
func (n *Node) connected(ctx context.Context, to record.Identity) error {
	if n.quorum == nil {
		return nil
	}
	if err := n.quorum.Opened(ctx, to); err != nil {
		return err
	}
	if !n.limits.ShutOut(to) {
		n.members.Connected(to)
	}
	return nil
}

func (n *Node) disconnected(from record.Identity) {
	if n.members != nil {
		n.members.Doubt(from)
	}
}

func (n *Node) meet(from record.Identity, stream *libp2p.MemberStream) {
	if n.members != nil {
		n.members.Accept(from, stream)
	}
}

func (n *Node) refused(from record.Identity, why string) {
	n.limits.Refused(from, quorum.Refusal(why))
}

// shutOut is called by the limits.
func (n *Node) shutOut(id record.Identity, until time.Time) {
	counts, _ := n.limits.Of(id)
	n.log.Warn("a node is shut out for what it sent", "peer", id, "label", n.labels[id], "until", until, "refused", counts)
	n.host.Refuse(id, until)
}

func (n *Node) makeMirror() (err error) {
	upstreams, ecosystems := map[string]mirror.Upstream{}, map[string]mirror.Ecosystem{}
	for _, m := range n.config.Mirrors {
		if m.Kind != config.MirrorDocker && m.Kind != config.MirrorMaven {
			continue
		}
		ecosystem := mirror.Ecosystem{Unverified: mirror.Policy(m.Unverified)}
		for _, pattern := range m.Packages {
			ecosystem.Packages = append(ecosystem.Packages, pattern.String())
		}
		ecosystems[m.Kind] = ecosystem
		if m.Upstream == "" {
			continue
		}
		if upstreams[m.Kind], err = upstream.New(upstream.Config{Base: m.Upstream}); err != nil {
			return fmt.Errorf("%s: mirror %q: %w", n.config.File, m.Kind, err)
		}
	}
	var deny []string
	for _, d := range n.config.Deny {
		if d.Package != "" {
			deny = append(deny, string(d.Package))
			continue
		}
		deny = append(deny, d.Digest.OCI())
	}
	n.mirror, err = mirror.New(
		mirror.Config{Folder: n.folder("mirror"), Ecosystems: ecosystems, Deny: deny, Logger: n.log},
		mirror.Ports{Log: vouching{n.chain}, Index: index{n.chain}, Store: n.store, Peers: streams{n.host}, Upstreams: upstreams, Builds: wishes{n}},
	)
	if err != nil {
		return err
	}
	n.closers = append(n.closers, n.mirror.Close)
	n.traffic = newTraffic()
	n.handler = n.routes(n.whenChecked(oci.New(oci.Config{}, n.mirror)), n.whenChecked(maven.New(n.mirror)), tlog.New(n.chain, n.chain, proofs{n.chain}))
	return nil
}

// How members work together; none of it is a rule of the protocol.
const (
	patienceCommit = 30 * time.Second
	patienceReveal = 2 * time.Second
	resend         = time.Second
)

func (n *Node) makeMember() error {
	if !n.isBuilder() {
		return nil
	}
	var err error
	if n.inputs, err = n.makeInputs(); err != nil {
		return err
	}
	n.closers = append(n.closers, n.inputs.Close)
	engine, err := n.makeEngine()
	if err != nil {
		return err
	}
	n.recipes = &recipeFolder{folder: n.config.Build.Recipes}
	n.quorum = quorum.New(quorum.Config{
		Identity: n.identity, Signers: n.keys.Signers(), Tick: resend, Log: n.log,
		Patience: attest.Patience{Commit: patienceCommit.Milliseconds(), Reveal: patienceReveal.Milliseconds()},
		Working:  func(id record.Identity, attempt record.Hash) bool { return n.member.Working(id, attempt) },
		Heard:    func(part record.Part) { n.member.Heard(part) },
		Note:     n.note, Limits: n.limits,
		Awaits: func(proposer record.Identity) { n.members.Watch(proposer) },
	}, n.chain, n.transport(), n.votes)
	if n.members, err = memberlist.New(memberlist.Config{
		Self: n.identity, Set: n.memberIDs, State: n.presence, Reachable: n.quorum.Connected, Log: n.log,
		Refused: func(from record.Identity) { n.limits.Refused(from, quorum.Malformed) },
	}, meetings{n.host, n.limits}); err != nil {
		return err
	}
	n.member, err = publish.New(publish.Config{
		Identity: n.identity, Vote: n.keys.Signers().Vote, Folder: n.folder("publish"),
		Platforms: n.platforms(), Parallel: int(n.config.Build.Parallel), Deadline: n.config.Build.Timeout,
		Recipes: n.recipes.Recipes, Relay: resend, Log: n.log,
		Voting: func() bool { return n.quorum.Standing().Voting },
	}, n.chain, agreement{n.quorum}, pinning{n.store}, inputs{n.inputs, engine}, blobs{n.host, n.store}, n.votes, engine)
	return err
}

func (n *Node) transport() quorum.Transport {
	if n.options.transport != nil {
		return n.options.transport(messages{n.host})
	}
	return messages{n.host}
}

func (n *Node) platforms() []string {
	member, _ := n.chain.Set().Node(n.identity)
	return member.Platforms
}

func (n *Node) makeInputs() (*input.Keeper, error) {
	upstreams := map[string]string{}
	for _, m := range n.config.Mirrors {
		if m.Upstream != "" {
			upstreams[m.Kind] = m.Upstream
		}
	}
	return input.New(input.Config{
		Upstreams: upstreams, Store: inputStore{pinning{n.store}}, Chain: inputChain{n.chain}, Peer: blobs{n.host, n.store},
		Folder: n.folder("inputs"),
	})
}

func (n *Node) makeEngine() (build.Engine, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	engine, err := buildkit.New(buildkit.Config{
		Addresses: n.config.Build.Workers, Relay: []string{self, "relay"}, Scratch: n.scratch,
		Memory: n.config.Build.Memory, Time: n.config.Build.Timeout,
	})
	if err != nil {
		return nil, err
	}
	if n.options.engine != nil {
		return n.options.engine(engine), nil
	}
	return engine, nil
}

func (n *Node) makeTree() error {
	n.tree = supervisor.New(supervisor.Options{Log: n.log})
	n.tree.Add("distribution", n.host)
	n.tree.Add("follow", supervisor.Func(n.follow))
	n.tree.Add("signatures", supervisor.Func(n.catchUp))
	n.tree.Add("log", supervisor.Func(n.logBlocks))
	n.tree.Add("mirror", n.mirror)
	if n.isBuilder() {
		n.tree.Add("members", n.members)
		n.tree.Add("quorum", supervisor.Func(func(ctx context.Context) error { return supervisor.Fatal(n.quorum.Serve(ctx)) }))
		n.tree.Add("publish", n.member)
	}
	return nil
}

// Serve runs the node until the context ends or something fails for good. The
// ports are opened first: a port in use stops a node before it does anything.
func (n *Node) Serve(ctx context.Context) error {
	if err := n.host.Free(); err != nil {
		return fmt.Errorf("%s: network.listen: %w; stop the other program, or choose another address", n.config.File, err)
	}
	socket, err := control.Listen(n.config.Admin.Socket)
	if err != nil {
		return err
	}
	// A listener that fails cannot be opened again by its service: fatal.
	n.tree.Add("control", supervisor.Func(func(ctx context.Context) error {
		return supervisor.Fatal(control.New(n).Serve(ctx, socket))
	}))
	for _, address := range n.config.Registry.Listen {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return errors.Join(fmt.Errorf("%s: registry.listen: %w; stop the other program, or choose another address", n.config.File, err), socket.Close())
		}
		n.tree.Add("registry "+address, supervisor.Func(func(ctx context.Context) error {
			return supervisor.Fatal(serveHTTP(ctx, listener, n.handler))
		}))
	}
	n.log.Info("serving", "role", n.config.Role, "identity", n.identity, "network", n.chain.Network().Name, "height", n.chain.Height(), "registry", n.config.Registry.Listen)
	return n.tree.Serve(ctx)
}
