package quorum

import (
	"slices"
	"testing"

	"github.com/pyrsia/appliance/modules/quorum/order"
	"github.com/pyrsia/appliance/modules/record"
)

// A round says whom it waits for when it begins, and not when it is its own.
func TestAwaits(t *testing.T) {
	net := newNetwork(t, 3)
	var awaited []record.Identity
	for round := range int64(3) {
		l := bench(t, net, net.members[0], nil)
		l.Awaits = func(proposer record.Identity) { awaited = append(awaited, proposer) }
		l.awaits(order.Timeout{Kind: order.TimeoutPropose, Height: 1, Round: round})
		l.awaits(order.Timeout{Kind: order.TimeoutPrevote, Height: 1, Round: round})
	}
	var want []record.Identity
	for round := range int64(3) {
		if p := net.members[0].chain.Set().Proposer(1, round); p != net.members[0].id {
			want = append(want, p)
		}
	}
	if len(want) != 2 || !slices.Equal(awaited, want) {
		t.Errorf("waits for %v, want %v", awaited, want)
	}
}
