package quorum

import (
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/record"
)

// TestBlockIsFollowedFirst: a block that took so long that it is only followed when
// it comes from others stops no member whose own machine certifies it then, and the
// member goes on when its leaves are checked. If it is another block, that is a fork.
func TestBlockIsFollowedFirst(t *testing.T) {
	for name, twin := range map[string]bool{"the same block": false, "another block": true} {
		t.Run(name, func(t *testing.T) {
			n := chaintest.New(t, 3)
			source, c := n.Chain(t), n.Chain(t)
			for range 3 {
				n.Append(t, source)
			}
			chaintest.Sync(t, source, c)
			l := started(n, c, 0)
			l.all(n, c.Height())
			l.tick()
			height := c.Height() + 1
			block := n.Propose(t, c)
			followed := block
			if twin {
				followed = n.ProposeAt(t, source, n.Now(source).Add(time.Second))
			}
			data := n.AppendBlock(t, source, followed).Encode()
			l.hears(t, n, height, block, func() {
				if added, err := c.Adopt([][]byte{data}, n.Now(source).Add(2*chain.History)); err != nil || added != 1 {
					t.Fatalf("%d, %v", added, err)
				}
			})
			if l.fatal != nil {
				t.Errorf("the member stops: %v", l.fatal)
			}
			if forked := c.Halted() != nil; forked != twin {
				t.Fatalf("halted: %v", c.Halted())
			}
			if twin {
				return
			}
			if err := c.CatchUp(t.Context()); err != nil {
				t.Fatal(err)
			}
			l.grew()
			l.tick()
			if l.height != height+1 || !l.voting || l.fatal != nil {
				t.Errorf("at height %d, voting %v, %v", l.height, l.voting, l.fatal)
			}
		})
	}
}

// hears gives the member what two others say of a block, and has something happen
// before they cosign it.
func (l *loop) hears(t *testing.T, n *chaintest.Network, height int64, block *record.Block, before func()) {
	t.Helper()
	checkpoint := block.Checkpoint(n.Origin(), l.chain.Frontier())
	id := record.BlockID{Size: checkpoint.Size, Root: checkpoint.Root}
	proposal := proposalOf(t, n, l.chain, height, block)
	l.told(t, proposal.Proposer, proposal)
	before()
	for _, cosignature := range n.Cosign(t, n.Chain(t), block) {
		node := n.Node(cosignature.Identity)
		if node.ID == l.Identity {
			node = n.Nodes[2]
		}
		vote, err := record.SignVote(n.Network.Genesis, record.Vote{Height: height, ID: id, Step: record.StepCosign, Voter: node.ID}, node.Signers.Vote)
		if err != nil {
			t.Fatal(err)
		}
		own, err := record.SignCosignature(checkpoint, node.ID, cosignature.Time, node.Signers.Cosigner)
		if err != nil {
			t.Fatal(err)
		}
		l.told(t, node.ID, &record.Cosign{Cosignature: own, Vote: vote})
	}
}

// told has another member send a message of the order.
func (l *loop) told(t *testing.T, from record.Identity, m record.Message) {
	t.Helper()
	data, err := record.EncodeMessage(m)
	if err != nil {
		t.Fatal(err)
	}
	l.receive(from, append([]byte{kindOrder}, data...))
}

// proposalOf is the first proposer's, of a block.
func proposalOf(t *testing.T, n *chaintest.Network, c Chain, height int64, block *record.Block) *record.Proposal {
	t.Helper()
	checkpoint := block.Checkpoint(n.Origin(), c.Frontier())
	proposer := n.Node(n.Set.Proposer(height, 0))
	proposal, err := record.SignProposal(n.Network.Genesis, record.Proposal{
		Block: block.Encode(), Height: height, ID: record.BlockID{Size: checkpoint.Size, Root: checkpoint.Root},
		Lock: []record.VoteSignature{}, Proposer: proposer.ID, ValidRound: -1,
	}, proposer.Signers.Vote)
	if err != nil {
		t.Fatal(err)
	}
	return &proposal
}

// TestAlteredBlockStandsInNobodysWay: a liar that hands a proposal on before its
// proposer does, with what its checkpoint does not cover altered, delays nothing and
// is charged for it alone.
func TestAlteredBlockStandsInNobodysWay(t *testing.T) {
	n := chaintest.New(t, 3)
	c := n.Chain(t)
	limits := NewLimits(everybody, func(record.Identity, time.Time) {})
	l, _ := alone(t, n, c, limits)
	height := c.Height() + 1
	block := n.Propose(t, c)
	proposal := proposalOf(t, n, c, height, block)
	var liar record.Identity
	for _, node := range n.Nodes[1:] {
		if node.ID != proposal.Proposer {
			liar = node.ID
		}
	}
	altered := *block
	altered.LogSignature[7] ^= 1
	relayed := *proposal
	relayed.Block = altered.Encode()
	l.told(t, liar, &relayed)
	l.hears(t, n, height, block, func() {})
	if c.Height() != height || l.fatal != nil {
		t.Errorf("at height %d, %v", c.Height(), l.fatal)
	}
	if counts, _ := limits.Of(liar); counts[Invalid] != 1 {
		t.Errorf("the liar: %v", counts)
	}
	if counts, _ := limits.Of(proposal.Proposer); len(counts) > 0 {
		t.Errorf("the proposer: %v", counts)
	}
}
