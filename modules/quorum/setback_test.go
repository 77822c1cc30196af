package quorum

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/quorum/attest"
	"github.com/pyrsia/appliance/modules/quorum/fence"
	"github.com/pyrsia/appliance/modules/quorum/order"
	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

type unheard struct{}

func (unheard) Send(record.Identity, []byte) {}
func (unheard) Discard(record.Identity)      {}

// started is the loop of a member with an empty vote file, just started; nobody
// hears it.
func started(n *chaintest.Network, c *chain.Chain, i int) *loop {
	s := New(Config{
		Identity: n.Nodes[i].ID, Signers: n.Nodes[i].Signers, Tick: time.Second,
		Working: func(record.Identity, record.Hash) bool { return false }, Patience: attest.Patience{},
		Heard: func(record.Part) {}, Note: func(record.Identity, []byte) {}, Log: slog.New(slog.DiscardHandler),
	}, c, unheard{}, new(votes.Memory))
	l := s.newLoop(context.Background())
	l.after = func(time.Duration, order.Timeout) {}
	l.wake()
	return l
}

// all answers that the others recollect nothing, at a height.
func (l *loop) all(n *chaintest.Network, height int64) {
	for _, node := range n.Nodes {
		if node.ID != l.Identity {
			asks := l.fence.Question()
			l.answered(node.ID, record.MustMarshal(record.Recollection{Height: height, Incarnation: asks, Nonce: asks.Nonce}))
		}
	}
}

// TestSetBackByHeights: a member whose vote file and chain come from one backup
// votes in no height that is over for the others: they recollect nothing of those.
func TestSetBackByHeights(t *testing.T) {
	n := chaintest.New(t, 4)
	c, behind := n.Chain(t), n.Chain(t)
	n.Append(t, behind)
	chaintest.Sync(t, behind, c)
	for range 3 {
		n.Append(t, c)
	}
	l := started(n, behind, 0)
	l.all(n, c.Height())
	for range 2 {
		l.tick()
	}
	if l.Standing().Voting || l.Standing().Reason == "" {
		t.Errorf("behind the others: %+v", l.Standing())
	}
	chaintest.Sync(t, c, behind)
	l.grew()
	if !l.Standing().Voting {
		t.Errorf("with the others: %+v", l.Standing())
	}
}

// TestHeightsThatDoNotCome: a member that lies about its height holds nobody up
// for long.
func TestHeightsThatDoNotCome(t *testing.T) {
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	l := started(n, c, 0)
	l.all(n, 1<<40)
	for i := range fence.Standstill {
		if l.Standing().Voting {
			t.Fatalf("it votes after %d ticks", i)
		}
		l.tick()
	}
	if !l.Standing().Voting {
		t.Errorf("%+v", l.Standing())
	}
}

// TestOwnCommitComesLate: what the chain holds of a member counts also where the
// chain came only after the start.
func TestOwnCommitComesLate(t *testing.T) {
	n := chaintest.New(t, 4)
	c, behind := n.Chain(t), n.Chain(t)
	n.Append(t, behind)
	chaintest.Sync(t, behind, c)
	a := n.AppendAttempt(t, c, n.AppendRecipe(t, c, chaintest.Recipe("pkg:generic/a@1", "a")))
	v := n.Votes(t, a.ID, []record.Subject{chaintest.File("pkg:generic/a@1", "a", []byte("x"))})
	n.Append(t, c, chaintest.One(v.Commits()))

	l := started(n, behind, 0)
	l.all(n, c.Height())
	chaintest.Sync(t, c, behind)
	l.now = func() time.Time { return n.Now(c) }
	l.ticked = l.now()
	l.grew()
	if l.Standing().Voting || l.fence.Reason() == nil {
		t.Errorf("the chain holds a commit that the vote file does not know: %+v", l.Standing())
	}
	if reason, err := l.file.Shut(); err != nil || reason == "" {
		t.Errorf("the reason is not kept: %v", err)
	}
}

// TestVoteFileAhead: a network founded anew under an old vote file has a member
// that says so.
func TestVoteFileAhead(t *testing.T) {
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	l := started(n, c, 0)
	if err := l.file.Put(votes.Record{Slot: votes.Slot{Height: 40, Kind: votes.Prevote}, Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	l.begin(l.height, true)
	l.all(n, 0)
	if s := l.Standing(); s.Voting || s.Reason == "" {
		t.Errorf("a member that cannot vote says %+v", s)
	}
}

// TestIdleHeightBegins: with nothing to propose a height has no round yet. What
// was pending in the height before is no reason to begin one: the proposer would
// have declined it when work comes.
func TestIdleHeightBegins(t *testing.T) {
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	l := started(n, c, 0)
	l.all(n, 0)
	l.lookForWork()
	if !l.pending {
		t.Fatal("the first block is not pending")
	}
	n.Append(t, c)
	timers := 0
	l.after = func(time.Duration, order.Timeout) { timers++ }
	l.now = func() time.Time { return n.Now(c) }
	l.ticked = l.now()
	l.grew()
	l.lookForWork()
	if s := l.machine.Status(); timers > 0 || s.Round > 0 || s.Height != 2 {
		t.Errorf("%+v, and %d timers", s, timers)
	}
}

// TestLargePartsAreReadOnce: a large part that is sent again in the same height is
// known by its bytes, before it is read; in the next one it is read again.
func TestLargePartsAreReadOnce(t *testing.T) {
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	n.Append(t, c)
	l := started(n, c, 0)
	read := 0
	l.Heard = func(record.Part) { read++ }
	var names []string
	for i := range 200 {
		names = append(names, fmt.Sprintf("a-file-with-a-long-name-%03d.jar", i))
	}
	change := chaintest.Recipe("pkg:generic/a@1", names...).Change()
	data, err := record.Part{Endorse: &record.EndorsePart{Change: change, Endorsement: n.Endorsement(c, change, 1)}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if len(data) < largePart {
		t.Fatalf("a part of %d bytes is not large", len(data))
	}
	for _, want := range []int{1, 1} {
		l.receive(n.Nodes[1].ID, append([]byte{kindPart}, data...))
		if read != want {
			t.Errorf("read %d times, want %d", read, want)
		}
	}
	n.Append(t, c)
	l.grew()
	if l.receive(n.Nodes[1].ID, append([]byte{kindPart}, data...)); read != 2 {
		t.Errorf("read %d times in two heights", read)
	}
}
