package order_test

import (
	"testing"

	"github.com/pyrsia/appliance/modules/quorum/order"
	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

// FuzzMachine gives a machine events made of the input, with signatures that
// are right and values that need not make sense. It must not panic, never
// write what its vote file refuses, and come back from the file as it was.
func FuzzMachine(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00pcvdtk"))
	f.Add([]byte{1, 1, 0, 1, 2, 2, 0, 1, 2, 3, 0, 1, 3, 2, 0, 1, 3, 3, 0, 1, 6, 0, 0, 1, 4, 1, 0, 1, 4, 2, 0, 1})
	f.Add([]byte{8, 0, 0, 0, 9, 0, 0, 0, 2, 1, 5, 0, 2, 2, 7, 0, 5, 1, 5, 0, 7, 1, 5, 1, 10, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 400 {
			return
		}
		s := &stage{t: t, set: newSet(t, 4, record.OrderMajority), self: "a", file: new(votes.Memory), invalid: map[string]bool{"C": true}, height: 1}
		s.machine = order.New(s.config())
		s.start(false)
		for ; len(data) >= 4; data = data[4:] {
			s.fuzz(data[0], data[1], data[2], data[3])
		}
		before := s.machine.Status()
		s.machine = order.New(s.config())
		s.start(false)
		after := s.machine.Status()
		if before.Height != after.Height || !before.Voter || before.Step == "certified" {
			return
		}
		if before.LockRound != after.LockRound || before.Lock != after.Lock || before.Round != after.Round {
			t.Errorf("before the crash %+v, after it %+v", before, after)
		}
	})
}

// fuzz is one event: what, who, when, and about what.
func (s *stage) fuzz(what, who, when, about byte) {
	member := string(rune('a' + who%5))
	block := string(rune('A' + about%4))
	round := int64(when % 16)
	if when == 255 {
		round = record.MaxRound
	}
	id := s.id(s.height, block)
	if about%8 == 7 {
		id = record.BlockID{}
	}
	height := s.height + int64(when/64%2)
	via := record.Identity(rune('a' + about/8%5))
	voters := []string{"a,b,c", "b,c,d", "a,b", "b,b,c"}[about/16%4]
	switch what % 12 {
	case 1:
		p := record.Proposal{Height: height, ID: id, Proposer: s.set.Proposer(height, round), Round: round, ValidRound: -1}
		if about >= 128 {
			p.ValidRound = int64(who%8) - 2
			p.Lock = s.quorum(height, p.ValidRound, record.StepPrevote, id, voters, false).Signatures
		}
		p, _ = record.SignProposal(genesis, p, s.key(string(p.Proposer)))
		p.Block = []byte(block)
		if p.Proposer != s.self {
			s.receive(via, member, &p)
		}
	case 2, 3:
		if member == string(s.self) && who < 250 {
			return
		}
		v := s.vote(height, round, []record.Step{record.StepPrevote, record.StepPrecommit}[what%2], id, member)
		s.receive(via, member, &v)
	case 4:
		c := record.Cosign{Vote: s.vote(height, 0, record.StepCosign, id, member), Cosignature: cosignature(member, id)}
		s.receive(via, member, &c)
	case 5:
		s.step(order.Timeout{Kind: []order.TimeoutKind{order.TimeoutPropose, order.TimeoutPrevote, order.TimeoutPrecommit}[who%3], Height: s.height, Round: round})
	case 6:
		s.step(order.Cosigned{Height: s.height, ID: id, Cosignature: cosignature("a", id)})
	case 7:
		d := record.Decision{Quorum: s.quorum(height, round, record.StepPrecommit, id, voters, who >= 128)}
		if about < 128 {
			d.Block = []byte(block)
		}
		s.receive(via, "b", &d)
	case 8:
		s.step(order.Pending{Pending: who%2 == 0})
	case 9:
		s.step(order.BlockBuilt{Height: s.height, Round: round, Block: []byte(block)})
	case 10:
		s.step(order.Tick{})
		s.step(order.Resend{To: record.Identity(member)})
		s.step(order.Reachable{Member: record.Identity(member), Reachable: about%2 == 0})
	case 11:
		if who%4 == 0 {
			s.height++
			s.start(false)
		}
	}
}
