package quorum

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/quorum/attest"
	"github.com/pyrsia/appliance/modules/quorum/order"
	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

// outbox is what a loop sends, in order.
type outbox struct{ messages [][]byte }

func (o *outbox) Send(_ record.Identity, message []byte) { o.messages = append(o.messages, message) }
func (o *outbox) Discard(record.Identity)                {}

// take empties it of the messages, and lists those of a kind.
func (o *outbox) take(kind byte) (messages [][]byte) {
	for _, m := range o.messages {
		if m[0] == kind {
			messages = append(messages, m)
		}
	}
	o.messages = nil
	return messages
}

// alone is the loop of a network's first member, on a chain that the test grows.
func alone(t *testing.T, n *chaintest.Network, c *chain.Chain, limits *Limits) (*loop, *outbox) {
	t.Helper()
	out := new(outbox)
	l := New(Config{
		Identity: n.Nodes[0].ID, Signers: n.Nodes[0].Signers, Tick: time.Second, Patience: attest.Patience{},
		Working: func(record.Identity, record.Hash) bool { return true },
		Heard:   func(record.Part) {}, Note: func(record.Identity, []byte) {}, Log: slog.New(slog.DiscardHandler), Limits: limits,
	}, c, out, new(votes.Memory)).newLoop(context.Background())
	l.now = func() time.Time { return n.Now(c) }
	l.after = func(time.Duration, order.Timeout) {}
	l.wake()
	return l, out
}

// hear has a loop receive a part.
func hear(t *testing.T, l *loop, from record.Identity, part record.Part) {
	t.Helper()
	l.receive(from, written{}.part(t, part))
}

// revealOf is a member's reveal in an attempt that need not be anywhere.
func revealOf(t *testing.T, n *chaintest.Network, attempt record.Hash, i int) record.Part {
	v := n.Votes(t, attempt, []record.Subject{chaintest.File("pkg:generic/a@1", "a", []byte("x"))})
	return record.Part{Reveal: &record.RevealPart{Attestation: v.Attestation(i)}}
}

// TestEarlyPartsAreBounded: of a member that reveals for attempts that there are
// not, only what it signed waits, within its share, once, and for one height.
func TestEarlyPartsAreBounded(t *testing.T) {
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	n.Append(t, c)
	limits := NewLimits(everybody, func(record.Identity, time.Time) {})
	l, _ := alone(t, n, c, limits)
	good, liar := n.Nodes[1].ID, n.Nodes[3].ID

	unsigned := revealOf(t, n, record.Hash{1}, 3)
	unsigned.Reveal.Attestation.Signature[0] ^= 1
	stranger := revealOf(t, n, record.Hash{1}, 3)
	stranger.Reveal.Attestation.Identity = chaintest.NewNode("stranger").ID
	for _, part := range []record.Part{unsigned, stranger} {
		hear(t, l, liar, part)
	}
	if waiting := len(l.early.parts); waiting != 0 {
		t.Errorf("%d parts wait that their authors did not sign", waiting)
	}
	for i := range 3 * earlyParts {
		hear(t, l, liar, revealOf(t, n, record.Hash{1, byte(i), byte(i >> 8)}, 3)) // its own
	}
	for i := range 3 * earlyParts {
		hear(t, l, liar, revealOf(t, n, record.Hash{2, byte(i), byte(i >> 8)}, 2)) // another's
	}
	if waiting := len(l.early.parts); waiting != earlyParts {
		t.Errorf("%d parts wait, want %d", waiting, earlyParts)
	}
	for range 3 {
		hear(t, l, good, revealOf(t, n, record.Hash{3}, 1))
	}
	if waiting := len(l.early.parts); waiting != earlyParts+1 {
		t.Errorf("%d parts wait: another's share is full, or a part waits twice", waiting)
	}
	n.Append(t, c)
	l.start()
	if waiting := len(l.early.parts); waiting != 0 {
		t.Errorf("%d parts wait for a second height", waiting)
	}
	if got := counts(limits, liar); len(got) != 1 || got[Untimely] == 0 || limits.ShutOut(liar) {
		t.Errorf("charged for what an honest member ahead could send: %v", got)
	}
}

// TestEarlyBytesAreBounded: the largest part fits, and nothing beside it, of its
// author or of its sender.
func TestEarlyBytesAreBounded(t *testing.T) {
	n := chaintest.New(t, 4)
	id := func(i int) record.Identity { return n.Nodes[i].ID }
	var e early
	e.keep(id(1), revealOf(t, n, record.Hash{1}, 1), record.MaxPart)
	e.keep(id(1), revealOf(t, n, record.Hash{2}, 2), 1) // the sender's share is full
	e.keep(id(2), revealOf(t, n, record.Hash{3}, 1), 1) // the author's is
	if len(e.parts) != 1 {
		t.Errorf("%d parts wait", len(e.parts))
	}
	e.keep(id(2), revealOf(t, n, record.Hash{2}, 2), record.MaxPart)
	if len(e.take()) != 2 || len(e.take()) != 0 {
		t.Error("another member has no room, or what was taken waits on")
	}
}

// TestEarlyPartsCount: a commit that came before its attempt counts once the chain
// has it, also when the machine began its height again meanwhile.
func TestEarlyPartsCount(t *testing.T) {
	n := chaintest.New(t, 4)
	c, behind := n.Chain(t), n.Chain(t)
	hash := n.AppendRecipe(t, c, chaintest.Recipe("pkg:generic/a@1", "a"))
	a := n.AppendAttempt(t, c, hash)
	l, _ := alone(t, n, behind, nil)
	v := n.Votes(t, a.ID, []record.Subject{chaintest.File("pkg:generic/a@1", "a", []byte("x"))})
	hear(t, l, n.Nodes[2].ID, record.Part{Commit: &record.CommitPart{Attempt: a.ID, Commit: v.Commit(2)}})
	l.begin(l.height, true)
	chaintest.Sync(t, c, behind)
	l.start()
	if got := l.pool.CommittedBy(a.ID); !slices.Equal(got, []record.Identity{n.Nodes[2].ID}) {
		t.Errorf("committed: %v", got)
	}
}
