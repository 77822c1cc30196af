package quorum

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

// What others can make a member do, and what honest members do without being charged
// for it.

// An operator who wants hundreds of packages at once is heard, though only so many of
// its attempts may wait here.
func TestManyAttemptsAreNoOffence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := chaintest.New(t, 4)
		c := n.Chain(t)
		var messages [][]byte
		for i := range 200 {
			hash := n.AppendRecipe(t, c, chaintest.Recipe(artifact.PURL(fmt.Sprintf("pkg:generic/p%d@1", i)), "f"))
			a := n.Attempt(c, hash, 1)
			messages = append(messages, written{}.part(t, record.Part{Hold: &record.HoldPart{Attempt: a, Holding: n.Holding(a, 1)}}))
		}
		var out outside
		limits := NewLimits(everybody, out.shut)
		l, _ := alone(t, n, c, limits)
		asker := n.Nodes[1].ID
		for range 100 {
			for _, m := range messages {
				l.receive(asker, m)
			}
			time.Sleep(time.Second)
		}
		if out.times != nil {
			t.Errorf("shut out: %v, %v", out.times, counts(limits, asker))
		}
	})
}

// An honest member with new keys is heard by one that has not got them yet, however much
// it holds; one that floods with wrong signatures is not.
func TestHoldingsOfOtherKeys(t *testing.T) {
	for _, c := range []struct {
		each int // holdings a second
		out  bool
	}{{paceMessages, false}, {2 * paceMessages, true}} {
		synctest.Test(t, func(t *testing.T) {
			n := chaintest.New(t, 4)
			chain := n.Chain(t)
			var out outside
			l, _ := alone(t, n, chain, NewLimits(everybody, out.shut))
			a := n.Attempt(chain, n.AppendRecipe(t, chain, chaintest.Recipe("pkg:generic/p@1", "f")), 1)
			from := n.Nodes[1]
			h, err := record.SignHolding(n.Network.Genesis, a, from.ID, n.Nodes[2].Signers.Vote)
			if err != nil {
				t.Fatal(err)
			}
			message := written{}.part(t, record.Part{Hold: &record.HoldPart{Attempt: a, Holding: h}})
			for range 120 {
				for range c.each {
					l.receive(from.ID, message)
				}
				time.Sleep(time.Second)
			}
			if shut := out.of(from.ID) != nil; shut != c.out {
				t.Errorf("%d a second: shut out %v, want %v", c.each, shut, c.out)
			}
		})
	}
}

// A member that breaks its lines over and over gets what it missed no more often than
// one that stays, makes this one say nothing to anybody else, and is shut out.
func TestReconnectsReachNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := chaintest.New(t, 4)
		c := n.Chain(t)
		height := c.Height() + 1
		l, out := awake(n, c, new(votes.Memory))
		var shut outside
		l.Limits = NewLimits(everybody, shut.shut)
		began, start := time.Now(), n.Now(c)
		l.now = func() time.Time { return start.Add(time.Since(began)) }
		l.all(n, 0)
		proposal := proposalOf(t, n, c, height, n.Propose(t, c))
		l.told(t, proposal.Proposer, proposal)
		liar, honest := n.Nodes[3].ID, n.Nodes[1].ID
		delete(out, honest)
		delete(out, liar)
		seconds, said := 0, 0
		for ; seconds < 60 && !l.Limits.ShutOut(liar); seconds++ {
			for range 100 {
				l.opened(liar)
				l.answersThat(t, liar, nil)
				l.Connected(liar, true)
				for len(l.inbox) > 0 {
					(<-l.inbox)(l)
				}
				for _, m := range out[liar] { // which a new line drops
					if m[0] == kindOrder {
						said++
					}
				}
				delete(out, liar)
				time.Sleep(time.Second / 100)
			}
		}
		if len(out[honest]) > 0 {
			t.Errorf("another member got %d messages for it", len(out[honest]))
		}
		if most := 3 * (seconds + 1); said == 0 || said > most {
			t.Errorf("it got %d messages in %d seconds, want at most %d", said, seconds, most)
		}
		if !l.Limits.ShutOut(liar) {
			t.Errorf("not shut out in %d seconds: %v", seconds, counts(l.Limits, liar))
		}
	})
}

// Lines that break some times a second, of a network that flaps, cost nobody its place.
func TestFlappingIsNoOffence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out outside
		limits := NewLimits(everybody, out.shut)
		for range 10 * 600 {
			limits.line("far")
			time.Sleep(time.Second / 10)
		}
		if out.times != nil {
			t.Errorf("shut out: %v", out.times)
		}
	})
}

// What is ahead of the chain costs who sends it again and again, unless it may wait.
func TestEarlyJunkCosts(t *testing.T) {
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	n.Append(t, c)
	liar := n.Nodes[3]
	vote := record.Vote{Height: 1 << 40, Step: record.StepPrevote, Voter: liar.ID}
	thousands := &record.EvidenceLeaf{Commits: []record.Commit{}, Proposals: []record.Proposal{}}
	for range 10_000 {
		thousands.Votes = append(thousands.Votes, vote)
	}
	var files []record.Subject
	for i := range 9000 {
		files = append(files, chaintest.File("pkg:generic/a@1", fmt.Sprintf("%s-%05d", strings.Repeat("f", 60), i), []byte("x")))
	}
	reveal := func(i int) record.Part {
		v := n.Votes(t, record.Hash{byte(i), byte(i >> 8), 7}, files)
		return record.Part{Reveal: &record.RevealPart{Attestation: v.Attestation(3), Files: v.Lists[3]}}
	}
	other := func(i int) record.Part { // of one attempt, each time something else
		files[0] = chaintest.File("pkg:generic/a@1", strings.Repeat("f", 60)+"-00000", fmt.Append(nil, i))
		return reveal(0)
	}
	for name, part := range map[string]func(i int) record.Part{
		"unsigned evidence of thousands of votes": func(i int) record.Part {
			thousands.Votes[0].Round = int64(i)
			return record.Part{Evidence: thousands}
		},
		"its own reveals for attempts that there are not": reveal,
		"its own reveals for one that there is not":       other,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limits := NewLimits(everybody, func(record.Identity, time.Time) {})
				l, _ := alone(t, n, c, limits)
				bytes := 0
				for i := range 6 {
					message := written{}.part(t, part(i))
					l.receive(liar.ID, message)
					bytes += len(message)
				}
				// One of them may wait.
				if score, least := limits.accounts[liar.ID].score, costMiB*float64(bytes)/(1<<20)*4/6; score < least {
					t.Errorf("%d bytes were read, and cost %.1f points of at least %.1f: %v", bytes, score, least, counts(limits, liar.ID))
				}
			})
		})
	}
	t.Run("the same again", func(t *testing.T) {
		limits := NewLimits(everybody, func(record.Identity, time.Time) {})
		l, _ := alone(t, n, c, limits)
		same := written{}.part(t, reveal(0))
		for range 5 {
			l.receive(liar.ID, same)
		}
		if got := counts(limits, liar.ID); got[Untimely] != 1 || got[Repeated] != 4 {
			t.Errorf("%v, want it read once", got)
		}
	})
}

// A proposal with a wrong signature takes nothing from the member in whose name it is.
func TestForgedProposalErasesNothing(t *testing.T) {
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	height := c.Height() + 1
	l, _ := awake(n, c, new(votes.Memory))
	l.all(n, 0)
	var round int64 = 1
	for n.Set.Proposer(height, round) == l.Identity {
		round++
	}
	proposer := n.Node(n.Set.Proposer(height, round))
	honest := *proposalOf(t, n, c, height, n.Propose(t, c))
	honest.Round, honest.Proposer = round, proposer.ID
	honest, err := record.SignProposal(n.Network.Genesis, honest, proposer.Signers.Vote)
	if err != nil {
		t.Fatal(err)
	}
	l.told(t, proposer.ID, &honest)
	forged := honest
	forged.Round += int64(n.Set.Size()) // signed for the other round
	for _, from := range n.Nodes[1:] {
		l.told(t, from.ID, &forged)
	}
	if _, kept := l.machine.Recall(proposer.ID); len(kept) != 1 || kept[0].Round != round {
		t.Errorf("kept %+v", kept)
	}
}

// Two liars that tell, in turn, of heights that the chain reaches a little later do not
// keep a member that starts from voting for long.
func TestTwoLiarsInTurn(t *testing.T) {
	n := chaintest.New(t, 7)
	c := n.Chain(t)
	n.Append(t, c)
	l := started(n, c, 0)
	clock := n.Now(c)
	l.now = func() time.Time { return clock }
	l.ticked = clock
	told := map[int]int64{}
	says := func(i int, height int64) {
		asks := l.fence.Question()
		told[i] = height
		l.answered(n.Nodes[i].ID, record.MustMarshal(record.Recollection{Height: height, Incarnation: asks, Nonce: asks.Nonce}))
	}
	for i := 1; i < 5; i++ {
		says(i, c.Height())
	}
	const ahead = 16
	says(5, c.Height()+ahead)
	says(6, c.Height()+ahead/2)
	for second := range 600 {
		n.AppendBlock(t, c, n.ProposeAt(t, c, clock)) // a block a second, without this member
		clock = clock.Add(time.Second)
		l.grew()
		l.tick()
		for _, i := range []int{5, 6} {
			if c.Height() >= told[i] {
				l.opened(n.Nodes[i].ID)
				says(i, c.Height()+ahead)
			}
		}
		if l.Standing().Voting {
			t.Logf("votes after %d seconds", second)
			return
		}
	}
	t.Errorf("ten minutes later: %+v", l.Standing())
}

// What a member cannot take because it is busy is counted.
func TestCrowded(t *testing.T) {
	net := newNetwork(t, 3)
	m, other := net.members[0], net.members[1]
	limits := NewLimits(everybody, func(record.Identity, time.Time) {})
	l := bench(t, net, m, limits)
	l.Receive(other.id, nil)
	for range memberSize + 10 {
		l.Receive(other.id, []byte{kindNote, 'x'})
	}
	if got := counts(limits, other.id); got[Crowded] != 10 || got[Malformed] != 1 {
		t.Errorf("%v", got)
	}
}
