package node

import (
	"context"
	"encoding/base64"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/appliance/supervisor"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/quorum"
	"github.com/pyrsia/appliance/modules/quorum/memberlist"
	"github.com/pyrsia/appliance/modules/record"
)

// Status implements control.Inspector.
func (n *Node) Status(context.Context) (control.Status, error) {
	set, frontier := n.chain.Set(), n.chain.Frontier()
	root := frontier.Root()
	s := control.Status{
		Version: n.version, Config: n.file, Configuration: n.reload.configuration(), Role: n.roleName(), RoleByHand: n.byHand() != "", Identity: n.identity, Started: n.started,
		Addrs: n.addresses(), Registry: n.conf().Registry.Listen,
		Network: n.chain.Network().Name, Genesis: n.chain.Network().Genesis, Height: n.chain.Height(), Size: frontier.Size,
		Root: base64.StdEncoding.EncodeToString(root[:]), CheckpointTime: milliseconds(n.chain.Time()),
		Stale: n.stale(), Peers: len(n.host.Peers()), Members: n.memberStates(), Majority: set.Majority(), Quorum: set.Quorum(),
		Mirrors: n.mirrorStates(), Services: n.services(),
	}
	if member, ok := set.Node(n.identity); ok {
		s.Operator = member.Operator
	}
	if halted := n.chain.Halted(); halted != nil {
		s.Halted = halted.Error()
	}
	var err error
	if s.Offences, err = n.offences(); err != nil {
		return s, err
	}
	held := n.store.Status()
	s.Store = control.Store{Bytes: held.Bytes, Quota: held.Quota, Files: int64(held.Blobs), Pinned: int64(held.Pinned), Sharing: n.conf().Distribution.Share}
	for _, m := range s.Mirrors {
		s.Passed.Requests += m.Passed
		s.Passed.Bytes += n.traffic.of(m.Kind).bytes.Load()
	}
	if b := n.builder.Load(); b != nil {
		s.Builds.Running, s.Builds.Waiting = b.member.Load()
		s.Builds.Limit = int(n.conf().Build.Parallel)
	}
	return s, nil
}

// roleName is what the node is now.
func (n *Node) roleName() string {
	if n.isBuilder() {
		return "build"
	}
	return "regular"
}

// stale tells whether the newest block is older than the operator allows.
func (n *Node) stale() bool {
	age := n.conf().Network.MaxAge
	return age > 0 && time.Since(milliseconds(n.chain.Time())) > age
}

func (n *Node) addresses() []string {
	addresses := []string{}
	for _, a := range n.host.Addresses() {
		addresses = append(addresses, a)
	}
	return addresses
}

func (n *Node) memberStates() []control.Member {
	present := map[record.Identity]memberlist.Member{}
	b := n.builder.Load()
	if b != nil {
		for _, m := range b.members.Members() {
			present[m.Identity] = m
		}
	}
	members := []control.Member{}
	for _, node := range n.chain.Set().Nodes {
		m := control.Member{
			Identity: node.Identity, Label: n.label(node.Identity), Operator: node.Operator,
			Self: node.Identity == n.identity, Connected: n.host.Connected(node.Identity), Height: -1, Presence: control.PresenceUnknown,
		}
		if m.Self {
			m.Connected, m.Presence = true, control.PresenceAlive
			tells(&m, n.presence(), time.Now())
		} else if p, known := present[node.Identity]; known {
			m.Presence = string(p.Presence)
			tells(&m, p.State, p.Told)
		}
		if m.Self && b != nil {
			m.Fenced = b.quorum.Standing().Reason
		}
		members = append(members, m)
	}
	return members
}

func (n *Node) offences() ([]control.Offence, error) {
	found, err := n.chain.Evidence()
	offences := []control.Offence{}
	for _, e := range found {
		offences = append(offences, control.Offence{
			Identity: e.Identity, Label: n.label(e.Identity), What: e.What, Height: e.Height, Round: e.Round,
			Attempt: e.Attempt, Leaf: e.Leaf, Time: milliseconds(e.Time),
		})
	}
	return offences, err
}

// tells fills in what a member told of itself, if it did.
func tells(m *control.Member, s memberlist.State, told time.Time) {
	if told.IsZero() {
		return
	}
	m.Told, m.Height, m.Version = told, s.Height, s.Software
	m.Building, m.Waiting, m.Limit = int(s.Running), int(s.Waiting), int(s.Limit)
}

func (n *Node) services() []control.Service {
	services := []control.Service{}
	for _, state := range n.tree.States() {
		if state.Name != "role" {
			services = append(services, service(state))
		} else if b := n.builder.Load(); b != nil {
			for _, state := range b.tree.States() {
				services = append(services, service(state))
			}
		}
	}
	for name, since := range n.pulse.Hung() {
		i := slices.IndexFunc(services, func(s control.Service) bool { return s.Name == name })
		if i < 0 {
			services, i = append(services, control.Service{Name: name}), len(services)
		}
		services[i].State, services[i].Since, services[i].Error = "hung", since, "it does not answer"
	}
	return services
}

func service(state supervisor.State) control.Service {
	s := control.Service{Name: state.Name, State: state.State, Restarts: state.Restarts, Since: state.Since}
	if state.Err != nil {
		s.Error = state.Err.Error()
	}
	return s
}

// Peers implements control.Inspector.
func (n *Node) Peers(context.Context) ([]control.Peer, error) {
	peers := []control.Peer{}
	for _, p := range n.host.Peers() {
		_, member := n.chain.Set().Node(p.Identity)
		counts, until := n.limits().Of(p.Identity)
		peers = append(peers, control.Peer{
			Refused: refusals(counts), ShutOut: until, Identity: p.Identity, Label: n.label(p.Identity), Member: member, Address: strings.Join(p.Addresses, " "), Agent: p.Agent,
			Latency: p.RTT, Since: p.Since, Sent: p.Out, Received: p.In,
		})
	}
	sort.Slice(peers, func(i, j int) bool {
		if peers[i].Member != peers[j].Member {
			return peers[i].Member
		}
		return peers[i].Identity < peers[j].Identity
	})
	return peers, nil
}

func refusals(counts map[quorum.Refusal]int64) map[string]int64 {
	refused := map[string]int64{}
	for why, n := range counts {
		refused[string(why)] = n
	}
	return refused
}

// Sources implements control.Artifacts.
func (n *Node) Sources(_ context.Context, ref string) ([]control.Artifact, error) {
	entries, err := n.entries(ref)
	if err != nil {
		return nil, err
	}
	artifacts := []control.Artifact{}
	for _, e := range entries {
		a := n.artifact(e)
		if ref != "" || a.Have > 0 {
			artifacts = append(artifacts, a)
		}
	}
	return artifacts, nil
}

func (n *Node) entries(ref string) ([]ledger.Entry, error) {
	if ref == "" {
		return n.chain.Files("")
	}
	if purl, err := artifact.ParsePURL(ref); err == nil {
		prefix := ref + "#"
		if p, err := n.chain.ResolveTag(purl.Repository(), purl.Version()); purl.Type() == "docker" && err == nil {
			prefix = string(p.Subject.URI) + "#"
		}
		entries, err := n.chain.Files(prefix)
		if len(entries) > 0 || err != nil {
			return entries, err
		}
	}
	p, err := n.published(ref)
	if err != nil {
		return nil, err
	}
	return []ledger.Entry{p.Entry}, nil
}

func (n *Node) artifact(e ledger.Entry) control.Artifact {
	d := e.Subject.Descriptor()
	a := control.Artifact{Name: e.Subject.FileName(), File: d, Verified: true, Sources: []control.Source{}}
	if !n.store.Has(d.SHA256) {
		return a
	}
	a.Have = d.Size
	rest := d.Size
	bySource := n.host.Sources(d.SHA256)
	for _, id := range identities(bySource) {
		rest -= bySource[id]
		a.Sources = append(a.Sources, control.Source{Kind: control.SourcePeer, Identity: id, Label: n.label(id), Bytes: bySource[id]})
	}
	if rest > 0 {
		a.Sources = append(a.Sources, control.Source{Kind: n.ownKind(), Bytes: rest})
	}
	return a
}

// ownKind is where bytes came from that no peer gave.
func (n *Node) ownKind() string {
	if n.isBuilder() {
		return control.SourceBuild
	}
	return control.SourceUpstream
}

func identities(m map[record.Identity]int64) []record.Identity {
	ids := make([]record.Identity, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
	return ids
}

var _ control.Node = (*Node)(nil)
