package node

import (
	"context"
	"fmt"

	"github.com/pyrsia/appliance/appliance/supervisor"
)

// probes ask each module for something small, by its own locks or through its loop.
func (n *Node) probes() []supervisor.Probe {
	probes := []supervisor.Probe{
		{Name: "chain", Ask: func(context.Context) { n.chain.Header(n.chain.Height()) }}, //nolint:errcheck // that it answers counts
		{Name: "store", Ask: func(context.Context) { n.store.Status() }},
		{Name: "distribution", Ask: func(context.Context) { n.host.Peers() }},
		{Name: "mirror", Ask: func(context.Context) { n.mirror.Status() }},
	}
	if b := n.builder.Load(); b != nil {
		probes = append(probes,
			supervisor.Probe{Name: "members", Ask: func(context.Context) { b.members.Members() }},
			supervisor.Probe{Name: "quorum", Ask: func(ctx context.Context) { b.quorum.Waiting(ctx) }},
			supervisor.Probe{Name: "publish", Ask: func(context.Context) { b.member.Load() }},
		)
	}
	return probes
}

// Ready is closed when every part of the node has started.
func (n *Node) Ready() <-chan struct{} { return n.tree.Ready() }

// Alive is nil while every module answers. One that does not cannot be restarted by
// itself: it is for who started the process to end it.
func (n *Node) Alive() error { return n.pulse.Err() }

// News receives after a reload, whatever came of it, and after a change of the role: what
// Summary says is new.
func (n *Node) News() <-chan struct{} { return n.reload.news }

// Summary is how the node is, in one line for people.
func (n *Node) Summary() string {
	role := n.roleName()
	if n.byHand() != "" {
		role += " (by hand; the configuration says " + string(n.conf().Role) + ")"
	}
	text := fmt.Sprintf("%s node, height %d, %d peers", role, n.chain.Height(), len(n.host.Peers()))
	if halted := n.chain.Halted(); halted != nil {
		return "halted: " + halted.Error()
	}
	switch {
	case n.chain.Time() <= 0:
		text += ", no checkpoint yet"
	case n.stale():
		text += ", log stale"
	}
	if b := n.builder.Load(); b != nil {
		if standing := b.quorum.Standing(); !standing.Voting {
			text += ", does not vote: " + standing.Reason
		}
	}
	state := n.reload.configuration()
	if state.Rejected != "" {
		return fmt.Sprintf("rejected: %s; running configuration %d (%s)", state.Rejected, state.Number, text)
	}
	return fmt.Sprintf("%s, configuration %d", text, state.Number)
}
