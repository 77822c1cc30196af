package quorum

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

// answersAt has a member answer that its chain has a height, and that it recollects
// nothing.
func (l *loop) answersAt(from record.Identity, height int64) {
	asks := l.fence.Question()
	l.answered(from, record.MustMarshal(record.Recollection{Height: height, Incarnation: asks, Nonce: asks.Nonce}))
}

// TestLiarsKeepNobodyOut: two liars of seven break their lines in turn and tell a
// member that starts, each time anew, of a height that there is not. It votes all the
// same, soon.
func TestLiarsKeepNobodyOut(t *testing.T) {
	for _, order := range []string{record.OrderMajority, record.OrderTwoThirds} {
		n := simNetwork(t, 7, order)
		c := n.Chain(t)
		n.Append(t, c)
		now := n.Now(c)
		l, _ := awake(n, c, new(votes.Memory))
		l.now = func() time.Time { return now }
		l.ticked = now
		for i := 1; i < 7; i++ {
			height := c.Height()
			if i > 4 {
				height = 1 << 40
			}
			l.answersAt(n.Nodes[i].ID, height)
		}
		second := 0
		for ; second < 300 && !l.Standing().Voting; second++ {
			now = now.Add(time.Second)
			l.ticked = now
			if second%12 == 0 { // the others go on
				n.AppendBlock(t, c, n.ProposeAt(t, c, now))
				l.grew()
			}
			if second%8 == 0 {
				liar := n.Nodes[5+second/8%2].ID
				l.opened(liar)
				l.answersAt(liar, 1<<40)
			}
			l.tick()
		}
		if !l.Standing().Voting {
			t.Errorf("%s: after %d s: %+v", order, second, l.Standing())
		}
	}
}

// TestBrokenLineForgetsNoHeight: a member that was set back waits for the height that
// a witness told of, also when that one's line breaks: there it could say the contrary
// of what it said.
func TestBrokenLineForgetsNoHeight(t *testing.T) {
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	height := c.Height() + 1
	proposal := proposalOf(t, n, c, height, n.ProposeAt(t, c, n.Now(c).Add(time.Second)))
	l, out := awake(n, c, new(votes.Memory))
	witness := n.Nodes[3].ID
	l.answersAt(witness, height)
	l.answersAt(n.Nodes[1].ID, 0)
	l.answersAt(n.Nodes[2].ID, 0)
	for i := range 5 {
		if i == 2 {
			l.opened(witness)
		}
		l.tick()
		l.told(t, proposal.Proposer, proposal)
	}
	for _, node := range n.Nodes[1:] {
		if said := out.votesTo(t, node.ID, l.Identity); len(said) > 0 {
			t.Errorf("it tells %v in a height that is over", said)
		}
	}
}

// TestManyContradictions: who contradicts itself without end is shut out, and the
// others hear of as many of its offences as a block takes.
func TestManyContradictions(t *testing.T) {
	n := chaintest.New(t, 7)
	c := n.Chain(t)
	n.Append(t, c)
	shut := map[record.Identity]bool{}
	limits := NewLimits(everybody, func(id record.Identity, _ time.Time) { shut[id] = true })
	l, out := alone(t, n, c, limits)
	l.all(n, c.Height())
	l.tick()
	out.messages = nil
	liar := n.Nodes[3]
	for round := int64(1); round <= 500; round++ {
		for block := range 2 {
			v, err := record.SignVote(n.Network.Genesis, record.Vote{
				Height: l.height, Round: round, ID: record.BlockID{Size: 9, Root: record.Hash{byte(block + 1)}}, Step: record.StepPrevote, Voter: liar.ID,
			}, liar.Signers.Vote)
			if err != nil {
				t.Fatal(err)
			}
			l.told(t, liar.ID, &v)
		}
	}
	if parts := len(out.take(kindPart)); parts == 0 || parts > 40*6 {
		t.Errorf("%d parts are sent", parts)
	}
	if !shut[liar.ID] || len(shut) != 1 {
		t.Errorf("shut out: %v", shut)
	}
}

// TestOtherBytesOfAKnownBlock: a liar proposes a block again that everybody knows, with
// other bytes. Who passes the proposal on passes the true ones on.
func TestOtherBytesOfAKnownBlock(t *testing.T) {
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	height := c.Height() + 1
	l, out := alone(t, n, c, nil)
	l.all(n, c.Height())
	l.tick()
	block := n.Propose(t, c)
	first := proposalOf(t, n, c, height, block)
	l.told(t, first.Proposer, first)
	round := int64(1) // of another proposer
	for n.Set.Proposer(height, round) == l.Identity || n.Set.Proposer(height, round) == first.Proposer {
		round++
	}
	liar := n.Node(n.Set.Proposer(height, round))
	again, err := record.SignProposal(n.Network.Genesis, record.Proposal{
		Block: bytes.Repeat([]byte{'x'}, 1<<10), Height: height, ID: first.ID, Lock: []record.VoteSignature{}, Proposer: liar.ID, Round: round, ValidRound: -1,
	}, liar.Signers.Vote)
	if err != nil {
		t.Fatal(err)
	}
	vote := func(node chaintest.Node, round int64) *record.Vote {
		v, err := record.SignVote(n.Network.Genesis, record.Vote{Height: height, Round: round, Step: record.StepPrevote, Voter: node.ID}, node.Signers.Vote)
		if err != nil {
			t.Fatal(err)
		}
		return &v
	}
	behind := n.Node(first.Proposer)
	l.told(t, behind.ID, vote(behind, 0))
	for _, node := range n.Nodes[1:] {
		if node.ID != behind.ID {
			l.told(t, node.ID, vote(node, round))
		}
	}
	l.told(t, liar.ID, &again)
	out.messages = nil
	l.told(t, behind.ID, vote(behind, 0))
	passed := 0
	for _, m := range out.take(kindOrder) {
		decoded, err := record.DecodeMessage(m[1:])
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := decoded.(*record.Proposal); ok {
			if passed++; !bytes.Equal(p.Block, block.Encode()) {
				t.Errorf("it passes %d other bytes on", len(p.Block))
			}
		}
	}
	if passed == 0 {
		t.Errorf("nothing is passed on: %+v", l.machine.Status())
	}
}

// TestRenewedHolderIsHeardAgain: a member whose new keys count since a block that
// another one has not got yet says what it holds: it is not shut out for that.
func TestRenewedHolderIsHeardAgain(t *testing.T) {
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	var attempts []record.Attempt
	for i := range 64 {
		recipe := n.AppendRecipe(t, c, chaintest.Recipe(artifact.PURL(fmt.Sprintf("pkg:generic/p%d@1", i)), "file"))
		attempts = append(attempts, n.Attempt(c, recipe, 1))
	}
	later, rotate := n.Renew(t, 3)
	n.Append(t, c, chaintest.One(rotate))
	limits := NewLimits(everybody, func(id record.Identity, _ time.Time) { t.Errorf("%s is shut out", id) })
	l, _ := alone(t, n, c, limits)
	for _, a := range attempts {
		hear(t, l, n.Nodes[3].ID, record.Part{Hold: &record.HoldPart{Attempt: a, Holding: later.Holding(a, 3)}})
	}
	if got := counts(limits, n.Nodes[3].ID)[Untimely]; got != 64 {
		t.Errorf("%d counted", got)
	}
}
