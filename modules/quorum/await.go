package quorum

import "github.com/pyrsia/appliance/modules/quorum/order"

// awaits tells whose proposal the round waits for from now on. Whoever listens
// asks that member for a sign of life, and says Connected when there is none: so
// a round does not wait for a proposer that cannot come.
func (l *loop) awaits(t order.Timeout) {
	if l.Awaits == nil || t.Kind != order.TimeoutPropose {
		return
	}
	if proposer := l.chain.Set().Proposer(t.Height, t.Round); proposer != l.Identity {
		l.Awaits(proposer)
	}
}
