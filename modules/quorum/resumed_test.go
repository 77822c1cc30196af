package quorum

import (
	"context"
	"errors"
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

// letters is what a loop sends to each, in order.
type letters map[record.Identity][][]byte

func (l letters) Send(to record.Identity, message []byte) { l[to] = append(l[to], message) }
func (l letters) Discard(to record.Identity)              { delete(l, to) }

// votesTo are the votes for a block that a member was told of.
func (l letters) votesTo(t *testing.T, to, from record.Identity) (told []record.Vote) {
	t.Helper()
	for _, message := range l[to] {
		if message[0] != kindOrder {
			continue
		}
		decoded, err := record.DecodeMessage(message[1:])
		if err != nil {
			t.Fatal(err)
		}
		if v, ok := decoded.(*record.Vote); ok && v.Voter == from {
			told = append(told, *v)
		}
	}
	return told
}

// awake is the loop of a network's first member on a file, whose every start has the
// same number and nonce: what a snapshot of its machine goes on with.
func awake(n *chaintest.Network, c *chain.Chain, file VoteFile) (*loop, letters) {
	out := letters{}
	l := New(Config{
		Identity: n.Nodes[0].ID, Signers: n.Nodes[0].Signers, Tick: time.Second, Patience: attest.Patience{},
		Working: func(record.Identity, record.Hash) bool { return true },
		Heard:   func(record.Part) {}, Note: func(record.Identity, []byte) {}, Log: slog.New(slog.DiscardHandler),
	}, c, out, file).newLoop(context.Background())
	l.now = func() time.Time { return n.Now(c) }
	l.after = func(time.Duration, order.Timeout) {}
	l.random = func() record.Hash { return record.Hash{1} }
	l.wake()
	return l, out
}

// TestResumedSnapshot: the machine of a member is set back with its memory, and its
// clock shows nothing. It asks nobody, for all have answered; but its lines are new.
// Whoever it told something since hears nothing else from it.
func TestResumedSnapshot(t *testing.T) {
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	height := c.Height() + 1
	one, two := n.Propose(t, c), n.ProposeAt(t, c, n.Now(c).Add(time.Second))
	proposal, rival := proposalOf(t, n, c, height, one), proposalOf(t, n, c, height, two)
	proposer := proposal.Proposer
	if proposer == n.Nodes[0].ID {
		t.Fatal("the member itself proposes: choose another height")
	}
	witness := n.Nodes[1].ID

	file := new(votes.Memory)
	l, out := awake(n, c, file)
	snapshot := file.Clone()
	l.all(n, 0)
	l.told(t, proposer, proposal)
	told := out.votesTo(t, witness, l.Identity)
	if len(told) == 0 || told[0].ID != proposal.ID {
		t.Fatalf("told %v", told)
	}

	l, out = awake(n, c, resumedFile{snapshot})
	l.all(n, 0)
	for _, node := range n.Nodes[1:] {
		l.opened(node.ID)
	}
	if l.Standing().Voting {
		t.Error("it votes without a line over which it has asked")
	}
	l.told(t, proposer, rival)
	// The others know nothing of it; but the witness is there, and answers last.
	for _, node := range n.Nodes[2:] {
		l.answersThat(t, node.ID, nil)
	}
	for range fence.Patience {
		l.tick()
	}
	if !l.Standing().Voting {
		t.Fatalf("Q-1 have answered: %+v", l.Standing())
	}
	l.told(t, proposer, rival)
	if said := out.votesTo(t, witness, l.Identity); len(said) > 0 {
		t.Errorf("it tells %v to who knows better", said)
	}
	l.answersThat(t, witness, told[:1])
	l.tick()
	if said := out.votesTo(t, witness, l.Identity); len(said) > 0 || l.Standing().Voting || !errors.Is(l.fence.Reason(), fence.ErrSetBack) {
		t.Errorf("told %v; %+v", said, l.Standing())
	}

	// Where the witness answers first, nobody hears anything.
	l, out = awake(n, c, resumedFile{new(votes.Memory)})
	l.all(n, 0)
	for _, node := range n.Nodes[1:] {
		l.opened(node.ID)
	}
	l.answersThat(t, witness, told[:1])
	l.told(t, proposer, rival)
	for _, node := range n.Nodes[2:] {
		l.answersThat(t, node.ID, nil)
		if said := out.votesTo(t, node.ID, l.Identity); len(said) > 0 {
			t.Errorf("warned, it tells %v", said)
		}
	}
}

// resumedFile does not count the start that the test makes.
type resumedFile struct{ *votes.Memory }

func (f resumedFile) NextStart() (int64, error) { return 1, nil }

// answersThat has a member answer with the votes that it recollects.
func (l *loop) answersThat(t *testing.T, from record.Identity, recalled []record.Vote) {
	t.Helper()
	asks := l.fence.Question()
	r := record.Recollection{Incarnation: asks, Nonce: asks.Nonce, Votes: recalled}
	l.answered(from, record.MustMarshal(r))
}

// TestRecallsWhatWaits: a member that is a block behind answers another one's question
// with what that one said since: of the next height, and of an attempt that is not on
// its chain yet. What somebody else made up in its name is left out, for an answer
// with one wrong signature counts for nothing.
func TestRecallsWhatWaits(t *testing.T) {
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	n.Append(t, c)
	l, out := alone(t, n, c, nil)
	next := c.Height() + 2
	asker := n.Nodes[3]
	vote, err := record.SignVote(n.Network.Genesis, record.Vote{Height: next, Round: 2, Step: record.StepPrevote, Voter: asker.ID}, asker.Signers.Vote)
	if err != nil {
		t.Fatal(err)
	}
	forged := vote
	forged.Round = 7
	l.told(t, n.Nodes[2].ID, &forged)
	l.told(t, asker.ID, &vote)
	commit := n.Votes(t, record.Hash{9}, []record.Subject{chaintest.File("pkg:generic/a@1", "a", []byte("x"))}).Commit(3)
	hear(t, l, asker.ID, record.Part{Commit: &record.CommitPart{Attempt: record.Hash{9}, Commit: commit}})

	asks, err := record.SignIncarnation(n.Network.Genesis, record.Incarnation{Identity: asker.ID, Number: 1}, asker.Signers.Vote)
	if err != nil {
		t.Fatal(err)
	}
	out.messages = nil
	l.receive(asker.ID, append([]byte{kindStart}, record.MustMarshal(asks)...))
	answers := out.take(kindHeld)
	if len(answers) != 1 {
		t.Fatalf("%d answers", len(answers))
	}
	r, err := record.DecodeRecollection(answers[0][1:])
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Votes) != 1 || r.Votes[0] != vote {
		t.Errorf("recollects %v", r.Votes)
	}
	if len(r.Commits) != 1 || r.Commits[0].Commit != commit {
		t.Errorf("recollects %v", r.Commits)
	}
}
