// Package libp2p is distribution over libp2p: one host on TCP and QUIC, with
// the streams of distribution's protocols on it.
//
// # Framing
//
// Every protocol runs on libp2p streams and uses one kind of frame: length (4
// bytes, big-endian, of what follows), then so many bytes. /pyrsia/blob/1 is
// described in wire.go, /pyrsia/vote/1 in vote.go, /pyrsia/chain/1 in chain.go,
// /pyrsia/members/1 in member.go.
//
// # Finding peers
//
// The host connects to the peers that the configuration names and takes
// connections from everybody. mDNS, Kademlia and relays are further ways to
// find addresses: each belongs in a file of its own that calls Host.learn, and
// nothing else changes.
package libp2p

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"strings"
	"sync"
	"time"

	libp2plib "github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/metrics"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/x/rate"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/pyrsia/appliance/modules/distribution"
	"github.com/pyrsia/appliance/modules/record"
)

// Config is what a host is given. Nil functions and ports switch off what they
// stand for.
type Config struct {
	// Key is the identity's Ed25519 private key: its 32 bytes of seed, or the
	// 64 bytes of crypto/ed25519.
	Key []byte

	// Listen are multiaddrs, "/ip4/0.0.0.0/tcp/4001" and
	// "/ip4/0.0.0.0/udp/4001/quic-v1". Port 0 lets the kernel choose.
	Listen []string

	// Peers are the nodes to stay connected to, with their multiaddrs.
	Peers map[record.Identity][]string

	// Share serves blobs to other nodes.
	Share bool

	// UploadRate is the most that is sent of blobs, in bytes per second; 0 is
	// no limit. Votes and blocks are not counted: a slow line must not keep a
	// member from voting.
	UploadRate int64

	// DownloadRate is the most of blobs that is asked of other nodes, in bytes per
	// second; 0 is no limit.
	DownloadRate int64

	// MaxPeers is how many connections are kept; beyond it the least useful
	// go. Configured peers never do. 0 is 128.
	MaxPeers int

	// Version follows "pyrsia/" in the agent string.
	Version string

	// Members tells who may send votes. It is asked at every message, so that
	// a change of the set counts at once.
	Members func(record.Identity) bool

	// Receive gets every vote message, which is its own to keep. It is called
	// from one goroutine per sender; while it blocks, nothing more is read of
	// that sender.
	Receive func(from record.Identity, payload []byte)

	// Refused is told of every stream and message of a protocol for members
	// that was refused unread, and why (distribution.RefusedForeign,
	// RefusedOversized). It returns fast.
	Refused func(from record.Identity, why string)

	// OnConnect is called when a line for votes to a member has been opened,
	// the first time and after every break: what was sent before may be lost.
	// Nothing goes over the line before it returns; an error ends the line, and
	// another one is opened later. ctx ends when it takes too long.
	OnConnect func(ctx context.Context, to record.Identity) error

	// OnDisconnect is called when a line that OnConnect took has ended.
	OnDisconnect func(from record.Identity)

	// Meet gets every stream of distribution.MembersProtocol that a member
	// opened, on a goroutine of its own. It returns when it is done with it, at
	// the latest when the stream ends.
	Meet func(from record.Identity, stream *MemberStream)

	// Blocks serves followers of the chain.
	Blocks distribution.Blocks

	// Log is slog.Default where it is nil.
	Log *slog.Logger

	// Timing is for tests; zero fields are the defaults.
	Timing Timing
}

// Timing is every wait of the host.
type Timing struct {
	Ping       time.Duration // between two pings of a peer; 2 s
	PingWait   time.Duration // without an answer a peer is dead; 5 s
	RetryFirst time.Duration // first pause before a peer is dialled again; 100 ms
	RetryLast  time.Duration // longest such pause in a peer's first minute away; 2 s
	RetryIdle  time.Duration // pause after that; 15 s
	Have       time.Duration // for the answer to "do you have it"; 2 s
	Stall      time.Duration // without 16 KiB of progress a source is dropped; 6 s
	Hedge      time.Duration // before a chunk is asked of a second source too; 1 s
	Penalty    time.Duration // how long a source that stalled is not asked; 30 s
	Ban        time.Duration // how long one that sent wrong bytes is not; 10 min
	Grace      time.Duration // how long a broken fetch waits for a source; 10 s
	KeepAlive  time.Duration // between frames on an idle chain stream; 1 s
}

func (t Timing) withDefaults() Timing {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&t.Ping, 2 * time.Second}, {&t.PingWait, 5 * time.Second},
		{&t.RetryFirst, 100 * time.Millisecond}, {&t.RetryLast, 2 * time.Second}, {&t.RetryIdle, 15 * time.Second},
		{&t.Have, 2 * time.Second}, {&t.Stall, 6 * time.Second}, {&t.Hedge, time.Second},
		{&t.Penalty, 30 * time.Second}, {&t.Ban, 10 * time.Minute}, {&t.Grace, 10 * time.Second},
		{&t.KeepAlive, time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return t
}

// Host is this node among the others. All methods are safe for concurrent use;
// those that need the network fail with ErrNotServing unless Serve runs.
type Host struct {
	config   Config
	timing   Timing
	store    distribution.Store
	key      crypto.PrivKey
	identity record.Identity
	log      *slog.Logger
	upload   *bucket
	download *bucket

	mu     sync.Mutex
	share  bool
	listen []string
	peers  map[record.Identity][]ma.Multiaddr
	shut   map[record.Identity]time.Time // nodes to refuse until then
	run    *run
	ready  chan struct{} // closed while Serve runs and listens
}

// run is what lives as long as one call of Serve.
type run struct {
	h     *Host
	ctx   context.Context
	wg    sync.WaitGroup // every goroutine of ours
	host  host.Host
	bytes *metrics.BandwidthCounter
	began time.Time

	mu        sync.Mutex
	closing   bool
	opened    map[string][]ma.Multiaddr // what listens, by how it was configured
	keepers   map[record.Identity]*keeper
	watched   map[peer.ID]*watch
	lines     map[record.Identity]*line
	transfers map[transferKey]*transfer
	timeouts  map[record.Identity]time.Time // sources not to ask until then
	joined    chan struct{}                 // closed and replaced when a peer connects
	slots     chan struct{}                 // transfers that may run at once
	serving   *slots                        // slices that may be served at once
	followers *slots                        // chain streams that may be served at once
}

// New checks the configuration and starts nothing.
func New(config Config, store distribution.Store) (*Host, error) {
	private, err := privateKey(config.Key)
	if err != nil {
		return nil, err
	}
	var public record.PublicKey
	copy(public[:], private.Public().(ed25519.PublicKey))
	key, err := crypto.UnmarshalEd25519PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("identity key: %w", err)
	}
	if config.MaxPeers == 0 {
		config.MaxPeers = 128
	}
	if config.Log == nil {
		config.Log = slog.Default()
	}
	if config.Members == nil {
		config.Members = func(record.Identity) bool { return false }
	}
	if config.Refused == nil {
		config.Refused = func(record.Identity, string) {}
	}
	if config.UploadRate < 0 || config.DownloadRate < 0 {
		return nil, fmt.Errorf("upload rate %d, download rate %d: must not be negative", config.UploadRate, config.DownloadRate)
	}
	h := &Host{
		config: config, timing: config.Timing.withDefaults(), store: store, key: key,
		identity: record.NewIdentity(public), log: config.Log, share: config.Share, listen: config.Listen,
		shut:   map[record.Identity]time.Time{},
		upload: newBucket(config.UploadRate, realClock{}), download: newBucket(config.DownloadRate, realClock{}), ready: make(chan struct{}),
	}
	if h.peers, err = h.parsePeers(config.Peers); err != nil {
		return nil, err
	}
	for _, addr := range config.Listen {
		if _, err := ma.NewMultiaddr(addr); err != nil {
			return nil, fmt.Errorf("listen address %q: %w", addr, err)
		}
	}
	return h, nil
}

func privateKey(key []byte) (ed25519.PrivateKey, error) {
	switch len(key) {
	case ed25519.SeedSize:
		return ed25519.NewKeyFromSeed(key), nil
	case ed25519.PrivateKeySize:
		return ed25519.PrivateKey(key), nil
	}
	return nil, fmt.Errorf("identity key of %d bytes: want 32 (seed) or 64 (Ed25519 private key)", len(key))
}

func (h *Host) parsePeers(peers map[record.Identity][]string) (map[record.Identity][]ma.Multiaddr, error) {
	parsed := map[record.Identity][]ma.Multiaddr{}
	for id, addresses := range peers {
		if id == h.identity {
			continue
		}
		if _, err := id.Key(); err != nil {
			return nil, fmt.Errorf("peer %q: %w", id, err)
		}
		parsed[id] = []ma.Multiaddr{}
		for _, address := range addresses {
			addr, err := ma.NewMultiaddr(address)
			if err != nil {
				return nil, fmt.Errorf("peer %s: address %q: %w", id, address, err)
			}
			transport, id2 := peer.SplitAddr(addr)
			if id2 != "" && id2.String() != string(id) || transport == nil {
				return nil, fmt.Errorf("peer %s: address %q names another peer or no transport", id, address)
			}
			parsed[id] = append(parsed[id], transport)
		}
	}
	return parsed, nil
}

// Serve listens, connects and serves until ctx ends, and returns when every
// goroutine has ended. It may be called again.
func (h *Host) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := h.start(ctx)
	if err != nil {
		return fmt.Errorf("distribution: %w", err)
	}
	h.mu.Lock()
	h.run = r
	close(h.ready)
	h.mu.Unlock()
	h.SetPeers(h.configured())
	r.Go(r.sweep)
	h.log.Info("distribution is up", "identity", h.identity, "addresses", h.Addresses())

	<-ctx.Done()
	h.mu.Lock()
	h.run, h.ready = nil, make(chan struct{})
	h.mu.Unlock()
	r.mu.Lock()
	r.closing = true
	r.mu.Unlock()
	err = r.host.Close()
	r.wg.Wait()
	return errors.Join(context.Cause(ctx), err)
}

// Free reports whether every address to listen on is there to be had now. It
// opens each and closes it again, so that a node with a port in use can stop
// before it does anything; Serve alone would try again for as long as it runs.
func (h *Host) Free() error {
	for _, address := range h.listening() {
		addr, _ := ma.NewMultiaddr(address) // New has parsed it
		if err := free(addr); err != nil {
			return fmt.Errorf("cannot listen on %s: %w", address, err)
		}
	}
	return nil
}

func free(addr ma.Multiaddr) error {
	network, host, err := manet.DialArgs(addr)
	if err != nil {
		return err
	}
	if strings.HasPrefix(network, "udp") {
		conn, err := net.ListenPacket(network, host)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	listener, err := net.Listen(network, host)
	if err != nil {
		return err
	}
	return listener.Close()
}

func (h *Host) configured() map[record.Identity][]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	peers := map[record.Identity][]string{}
	for id, addresses := range h.peers {
		peers[id] = nil
		for _, a := range addresses {
			peers[id] = append(peers[id], a.String())
		}
	}
	return peers
}

// start makes the libp2p host.
//
// TLS comes before Noise: AES runs in hardware and ChaCha20 does not. TCP is
// dialled before QUIC, which moves bytes in user space at a multiple of the
// cost; QUIC is there for the networks where TCP does not get through. Port
// reuse is off because with it a second process could take the same port
// without an error.
func (h *Host) start(ctx context.Context) (*run, error) {
	limits, err := h.limits()
	if err != nil {
		return nil, err
	}
	manager, err := connmgr.NewConnManager(h.config.MaxPeers*3/4, h.config.MaxPeers, connmgr.WithGracePeriod(time.Minute))
	if err != nil {
		return nil, err
	}
	counter := metrics.NewBandwidthCounter()
	lib, err := libp2plib.New(
		libp2plib.Identity(h.key),
		libp2plib.NoListenAddrs,
		libp2plib.Transport(tcp.NewTCPTransport, tcp.DisableReuseport()),
		libp2plib.Transport(quic.NewTransport),
		libp2plib.Security(libp2ptls.ID, libp2ptls.New),
		libp2plib.Security(noise.ID, noise.New),
		libp2plib.Muxer(yamux.ID, muxer()),
		libp2plib.DialRanker(tcpFirst),
		libp2plib.UserAgent(distribution.Agent+h.config.Version),
		libp2plib.ResourceManager(limits),
		libp2plib.ConnectionManager(manager),
		libp2plib.BandwidthReporter(counter),
		libp2plib.DisableMetrics(),
		libp2plib.DisableIdentifyAddressDiscovery(),
	)
	if err != nil {
		return nil, err
	}
	r := &run{
		h: h, ctx: ctx, host: lib, bytes: counter, began: time.Now(),
		opened: map[string][]ma.Multiaddr{}, keepers: map[record.Identity]*keeper{}, watched: map[peer.ID]*watch{}, lines: map[record.Identity]*line{},
		transfers: map[transferKey]*transfer{}, timeouts: map[record.Identity]time.Time{},
		joined: make(chan struct{}), slots: make(chan struct{}, maxTransfers), serving: newSlots(maxServing, eachServing, reservedServing),
		followers: newSlots(maxFollowers, eachFollower, reservedFollowers),
	}
	lib.Network().Notify(&network.NotifyBundle{ConnectedF: r.connected, DisconnectedF: r.disconnected})
	r.handle(distribution.BlobProtocol, r.serveBlob)
	if h.config.Receive != nil {
		r.handle(distribution.VoteProtocol, r.serveVote)
	}
	if h.config.Meet != nil {
		r.handle(distribution.MembersProtocol, r.serveMember)
	}
	if h.config.Blocks != nil {
		r.handle(distribution.ChainProtocol, r.serveChain)
	}
	for _, address := range h.listening() {
		if err := r.listenOn(address); err != nil {
			return nil, errors.Join(fmt.Errorf("cannot listen on %s: %w", address, err), lib.Close())
		}
	}
	return r, nil
}

// muxer is yamux with windows of 4 MiB: enough for 300 Mbit/s at 100 ms, and a
// quarter of the memory that libp2p's own default lets a slow reader pin.
func muxer() *yamux.Transport {
	config := *yamux.DefaultTransport
	config.MaxStreamWindowSize = 4 << 20
	return &config
}

func (h *Host) limits() (network.ResourceManager, error) {
	scaling := rcmgr.DefaultLimits
	libp2plib.SetDefaultServiceLimits(&scaling)
	conns := 2*h.config.MaxPeers + 64
	partial := rcmgr.PartialLimitConfig{System: rcmgr.ResourceLimits{
		Conns: rcmgr.LimitVal(conns), ConnsInbound: rcmgr.LimitVal(conns), ConnsOutbound: rcmgr.LimitVal(conns),
		FD: rcmgr.LimitVal(conns), Memory: 256 << 20,
	}}
	// What one stranger may take of each protocol, so that the rest is left for
	// others: fetches of 64 artifacts with their questions, a few chains, a line,
	// a few exchanges between members.
	for name, streams := range map[string]int{
		distribution.BlobProtocol: 2 * maxTransfers, distribution.ChainProtocol: 8, distribution.VoteProtocol: 4,
		distribution.MembersProtocol: 8,
	} {
		scaling.AddProtocolPeerLimit(protocolID(name), rcmgr.BaseLimit{
			Streams: 2 * streams, StreamsInbound: streams, StreamsOutbound: streams, Memory: 64 << 20,
		}, rcmgr.BaseLimitIncrease{})
	}
	// libp2p's own limit is two pings at once from one peer: one that keeps the
	// connection, one of Reach and the end of an earlier one that is still on its
	// way are three, and the third was refused.
	pings := rcmgr.BaseLimit{Streams: 32, StreamsInbound: 16, StreamsOutbound: 16, Memory: 1 << 20}
	scaling.AddServicePeerLimit(ping.ServiceName, pings, rcmgr.BaseLimitIncrease{})
	scaling.AddProtocolPeerLimit(ping.ID, pings, rcmgr.BaseLimitIncrease{})
	limiter := rcmgr.NewFixedLimiter(partial.Build(scaling.Scale(256<<20, 1024)))
	// libp2p's own limits of 8 connections and one in five seconds per address
	// would shut out nodes that share one address or restart a few times.
	perAddress := []rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: h.config.MaxPeers}}
	perAddress6 := []rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: h.config.MaxPeers}}
	return rcmgr.NewResourceManager(limiter,
		rcmgr.WithMetricsDisabled(),
		rcmgr.WithLimitPerSubnet(perAddress, perAddress6),
		rcmgr.WithConnRateLimiters(&rate.Limiter{GlobalLimit: rate.Limit{RPS: 200, Burst: 1000}}),
	)
}

// Ready is closed once the host listens.
func (h *Host) Ready() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ready
}

func (h *Host) running() (*run, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.run == nil {
		return nil, distribution.ErrNotServing
	}
	return h.run, nil
}

// Identity is this node's.
func (h *Host) Identity() record.Identity { return h.identity }

// Addresses are the multiaddrs the host listens on, without the identity;
// wildcards are replaced by the machine's interfaces. None before Ready.
func (h *Host) Addresses() []string {
	r, err := h.running()
	if err != nil {
		return nil
	}
	addrs, err := r.host.Network().InterfaceListenAddresses()
	if err != nil {
		return nil
	}
	var all []string
	for _, a := range addrs {
		all = append(all, a.String())
	}
	return all
}

// SetShare switches the serving of blobs on or off at once.
func (h *Host) SetShare(share bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.share = share
}

func (h *Host) shares() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.share
}

// SetUploadRate changes the limit at once, in bytes per second, 0 for none.
func (h *Host) SetUploadRate(rate int64) { h.upload.setRate(rate) }

// SetDownloadRate changes the limit for what is asked for from now on.
func (h *Host) SetDownloadRate(rate int64) { h.download.setRate(rate) }

// Go runs f as a goroutine that Serve joins; false when Serve is ending.
func (r *run) Go(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return false
	}
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		f()
	}()
	return true
}

// handle serves a protocol; libp2p's goroutine per stream is joined too.
func (r *run) handle(name string, serve func(s network.Stream)) {
	r.host.SetStreamHandler(protocolID(name), func(s network.Stream) {
		done := make(chan struct{})
		if !r.Go(func() { defer close(done); serve(s) }) {
			_ = s.Reset()
			return
		}
		<-done
	})
}

// learn remembers addresses of a peer: the way in for every kind of discovery.
func (r *run) learn(id peer.ID, addresses []ma.Multiaddr, ttl time.Duration) {
	r.host.Peerstore().AddAddrs(id, addresses, ttl)
}

// sweep forgets sources' time-outs, ended refusals and idle traffic counters.
func (r *run) sweep() {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case now := <-tick.C:
			r.mu.Lock()
			for id, until := range r.timeouts {
				if now.After(until) {
					delete(r.timeouts, id)
				}
			}
			r.mu.Unlock()
			r.h.mu.Lock()
			maps.DeleteFunc(r.h.shut, func(_ record.Identity, until time.Time) bool { return now.After(until) })
			r.h.mu.Unlock()
			r.bytes.TrimIdle(now.Add(-time.Hour))
		}
	}
}
