package libp2p

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sort"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/pyrsia/appliance/modules/distribution"
	"github.com/pyrsia/appliance/modules/record"
)

func protocolID(name string) protocol.ID { return protocol.ID(name) }

func peerID(id record.Identity) (peer.ID, error) {
	p, err := peer.Decode(string(id))
	if err != nil {
		return "", fmt.Errorf("peer %.80q: %w", string(id), err)
	}
	return p, nil
}

func identity(p peer.ID) record.Identity { return record.Identity(p.String()) }

// tcpFirst dials TCP addresses at once and QUIC a quarter of a second later.
func tcpFirst(addrs []ma.Multiaddr) []network.AddrDelay {
	var ranked []network.AddrDelay
	tcp := 0
	for _, a := range addrs {
		if _, err := a.ValueForProtocol(ma.P_TCP); err == nil {
			tcp++
		}
	}
	for _, a := range addrs {
		delay := time.Duration(0)
		if _, err := a.ValueForProtocol(ma.P_TCP); err != nil && tcp > 0 {
			delay = 250 * time.Millisecond
		}
		ranked = append(ranked, network.AddrDelay{Addr: a, Delay: delay})
	}
	return ranked
}

// keeper keeps one configured peer connected.
type keeper struct {
	cancel context.CancelFunc
	wake   chan struct{} // a connection ended
}

// SetPeers changes the peers to stay connected to. Connections to those that
// are no longer named are not closed; they just may end.
func (h *Host) SetPeers(peers map[record.Identity][]string) error {
	parsed, err := h.parsePeers(peers)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.peers = parsed
	r := h.run
	h.mu.Unlock()
	if r != nil {
		r.keep(parsed)
	}
	return nil
}

// keep starts a keeper for every peer and stops those of others.
func (r *run) keep(peers map[record.Identity][]ma.Multiaddr) {
	r.mu.Lock()
	for id, k := range r.keepers {
		k.cancel()
		delete(r.keepers, id)
		if p, err := peerID(id); err == nil {
			r.host.ConnManager().Unprotect(p, "configured")
		}
	}
	r.mu.Unlock()
	for id, addresses := range peers {
		p, err := peerID(id)
		if err != nil {
			continue
		}
		ctx, cancel := context.WithCancel(r.ctx)
		k := &keeper{cancel: cancel, wake: make(chan struct{}, 1)}
		r.mu.Lock()
		r.keepers[id] = k
		r.mu.Unlock()
		r.host.Peerstore().ClearAddrs(p)
		r.learn(p, addresses, peerstore.PermanentAddrTTL)
		r.host.ConnManager().Protect(p, "configured")
		if !r.Go(func() { defer cancel(); r.stayConnected(ctx, p, k) }) {
			cancel()
		}
	}
}

// stayConnected dials whenever there is no connection: soon and often at
// first, since a node that restarts is back in a moment, later seldom.
func (r *run) stayConnected(ctx context.Context, p peer.ID, k *keeper) {
	t := r.h.timing
	pause, away := t.RetryFirst, time.Now()
	for ctx.Err() == nil {
		if r.host.Network().Connectedness(p) == network.Connected {
			select {
			case <-k.wake:
			case <-ctx.Done():
			}
			pause, away = t.RetryFirst, time.Now()
			continue
		}
		err := r.connect(ctx, p)
		if err == nil {
			continue
		}
		r.h.log.Debug("peer is not reachable", "peer", p, "error", err)
		select {
		case <-ctx.Done():
		case <-k.wake:
		case <-time.After(pause):
		}
		pause = min(2*pause, t.RetryLast)
		if time.Since(away) > time.Minute {
			pause = t.RetryIdle
		}
	}
}

func (r *run) connect(ctx context.Context, p peer.ID) error {
	if s, ok := r.host.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(p) // the keeper paces the dials itself
	}
	ctx, cancel := context.WithTimeout(ctx, r.h.timing.PingWait)
	defer cancel()
	return r.host.Connect(ctx, peer.AddrInfo{ID: p})
}

// settle is how long after its start a host waits for its peers before it says
// that nobody has something.
const settle = 3 * time.Second

// watch is one connected peer.
type watch struct {
	cancel context.CancelFunc
	rtt    time.Duration
}

func (r *run) connected(_ network.Network, c network.Conn) {
	p := c.RemotePeer()
	r.h.log.Debug("connected", "peer", p, "address", c.RemoteMultiaddr())
	r.mu.Lock()
	w, ctx := r.watch(p)
	close(r.joined)
	r.joined = make(chan struct{})
	l := r.lines[identity(p)]
	r.mu.Unlock()
	if l != nil {
		poke(l.came)
	}
	r.pinging(ctx, p, w)
}

// watch enters a peer that is not watched yet; nil if it is. mu is held.
func (r *run) watch(p peer.ID) (*watch, context.Context) {
	if r.watched[p] != nil || r.closing {
		return nil, nil
	}
	ctx, cancel := context.WithCancel(r.ctx)
	w := &watch{cancel: cancel}
	r.watched[p] = w
	return w, ctx
}

func (r *run) pinging(ctx context.Context, p peer.ID, w *watch) {
	if w != nil && !r.Go(func() { defer w.cancel(); r.ping(ctx, p, w) }) {
		w.cancel()
	}
}

func (r *run) disconnected(n network.Network, c network.Conn) {
	p := c.RemotePeer()
	if n.Connectedness(p) == network.Connected {
		return // another connection is left
	}
	r.h.log.Debug("disconnected", "peer", p)
	r.mu.Lock()
	if w := r.watched[p]; w != nil {
		w.cancel()
		delete(r.watched, p)
	}
	var again *watch
	var ctx context.Context
	if n.Connectedness(p) == network.Connected {
		// A new connection came meanwhile and found the peer watched.
		again, ctx = r.watch(p)
	}
	k := r.keepers[identity(p)]
	r.mu.Unlock()
	r.pinging(ctx, p, again)
	if k != nil {
		select {
		case k.wake <- struct{}{}:
		default:
		}
	}
}

// settling tells whether this host has just begun and still waits for some of
// its configured peers: not the moment to say that nobody has something.
func (r *run) settling() bool {
	if time.Since(r.began) > settle {
		return false
	}
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	for id := range r.h.peers {
		if p, err := peerID(id); err == nil && r.host.Network().Connectedness(p) != network.Connected {
			return true
		}
	}
	return false
}

// ping measures a peer's round trip and closes its connections when it does
// not answer: a machine that lost its power sends no farewell.
func (r *run) ping(ctx context.Context, p peer.ID, w *watch) {
	for {
		r.greet(identity(p)) // again each time: the set of members changes
		rtt, err := r.pingOnce(ctx, p)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, context.DeadlineExceeded) {
			r.h.log.Info("peer does not answer: closing its connections", "peer", p)
			_ = r.host.Network().ClosePeer(p)
		}
		if err == nil {
			r.mu.Lock()
			w.rtt = rtt
			r.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(r.h.timing.Ping):
		}
	}
}

// pingOnce sends 32 bytes and waits for them to come back (libp2p's ping). Its
// error is context.DeadlineExceeded only when nothing came in time: another one
// may mean a peer that is busy, and a closed connection is seen anyway.
func (r *run) pingOnce(ctx context.Context, p peer.ID) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(network.WithNoDial(ctx, "ping"), r.h.timing.PingWait)
	defer cancel()
	s, err := r.host.NewStream(ctx, p, ping.ID)
	if err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	defer s.Close()
	var out, back [ping.PingSize]byte
	_, _ = rand.Read(out[:])
	sent := time.Now()
	if _, err := s.Write(out[:]); err != nil {
		return 0, errors.Join(ctx.Err(), err)
	}
	if _, err := io.ReadFull(s, back[:]); err != nil {
		return 0, errors.Join(ctx.Err(), err)
	}
	return time.Since(sent), nil
}

// Peer is a connected node, for people.
type Peer struct {
	Identity  record.Identity `json:"identity"`
	Addresses []string        `json:"addresses"` // of its connections
	Agent     string          `json:"agent"`
	Since     time.Time       `json:"since"`     // oldest connection
	Direction string          `json:"direction"` // "inbound" or "outbound", of the oldest
	RTT       time.Duration   `json:"rtt"`       // last round trip; 0 before the first
	In        int64           `json:"in"`        // bytes since this host began
	Out       int64           `json:"out"`
}

// Peers are the connected nodes, by identity.
func (h *Host) Peers() []Peer {
	r, err := h.running()
	if err != nil {
		return nil
	}
	var all []Peer
	for _, p := range r.host.Network().Peers() {
		one := Peer{Identity: identity(p)}
		for _, c := range r.host.Network().ConnsToPeer(p) {
			one.Addresses = append(one.Addresses, c.RemoteMultiaddr().String())
			if stat := c.Stat(); one.Since.IsZero() || stat.Opened.Before(one.Since) {
				one.Since, one.Direction = stat.Opened, direction(stat.Direction)
			}
		}
		if len(one.Addresses) == 0 {
			continue // closing
		}
		if agent, err := r.host.Peerstore().Get(p, "AgentVersion"); err == nil {
			one.Agent, _ = agent.(string)
		}
		traffic := r.bytes.GetBandwidthForPeer(p)
		one.In, one.Out = traffic.TotalIn, traffic.TotalOut
		r.mu.Lock()
		if w := r.watched[p]; w != nil {
			one.RTT = w.rtt
		}
		r.mu.Unlock()
		all = append(all, one)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Identity < all[j].Identity })
	return all
}

func direction(d network.Direction) string {
	if d == network.DirInbound {
		return "inbound"
	}
	return "outbound"
}

// Connected tells whether there is a connection to a node now.
func (h *Host) Connected(id record.Identity) bool {
	r, err := h.running()
	if err != nil {
		return false
	}
	p, err := peerID(id)
	return err == nil && r.host.Network().Connectedness(p) == network.Connected
}

// knows tells whether a peer is no stranger: a member, or configured.
func (r *run) knows(id record.Identity) bool {
	r.h.mu.Lock()
	_, configured := r.h.peers[id]
	r.h.mu.Unlock()
	return configured || r.h.config.Members(id)
}

// stream opens a stream to a node, dialling it where that is needed.
func (r *run) stream(ctx context.Context, id record.Identity, name string) (network.Stream, error) {
	p, err := peerID(id)
	if err != nil {
		return nil, err
	}
	s, err := r.host.NewStream(ctx, p, protocolID(name))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %v", distribution.ErrUnreachable, id, err)
	}
	return s, nil
}
