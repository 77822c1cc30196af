package order

import (
	"fmt"

	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

// restore takes up a height where the vote file ends: the same round and lock,
// and the same messages again.
func (m *Machine) restore(records []votes.Record) {
	if len(records) == 0 {
		return
	}
	if err := m.replay(records); err != nil {
		// Not voting is always safe; the operator has to look at the file.
		m.voter = false
		m.fault("vote file, height %d: %w", m.height, err)
		return
	}
	if m.phase == phaseDecided {
		if own, ok := m.cosigns[m.cfg.Self]; ok {
			m.do(Broadcast{Message: &own})
		} else {
			m.askCosignature()
		}
		return
	}
	m.begin()
	if r := m.at(m.round); r.proposal != nil && r.proposal.Proposer == m.cfg.Self && r.proposal.Block != nil {
		m.do(Broadcast{Message: r.proposal})
	}
	for _, message := range m.ownVotes() {
		m.do(Broadcast{Message: message})
	}
}

func (m *Machine) replay(records []votes.Record) error {
	// Blocks first: others refer to them.
	for _, r := range records {
		if r.Slot.Kind != votes.Block {
			continue
		}
		id, err := m.cfg.Identify(m.height, r.Data)
		if err != nil {
			return fmt.Errorf("block %s: %w", r.Slot.Root.Short(), err)
		}
		m.blocks[id] = &candidate{block: r.Data, refused: -1}
		m.written[id.Root] = true
	}
	for _, r := range records {
		if err := m.replayOne(r); err != nil {
			return fmt.Errorf("%s: %w", r.Slot, err)
		}
	}
	r := m.at(m.round)
	if _, ok := r.prevotes.votes[m.cfg.Self]; ok {
		m.step = stepPrevote
	}
	if _, ok := r.precommits.votes[m.cfg.Self]; ok {
		m.step = stepPrecommit
	}
	return nil
}

func (m *Machine) replayOne(r votes.Record) error {
	switch r.Slot.Kind {
	case votes.Proposal, votes.Prevote, votes.Precommit, votes.Cosign:
		return m.replaySigned(r)
	case votes.Round:
		var entry votes.Entry
		if err := record.Unmarshal(r.Data, &entry); err != nil {
			return err
		}
		m.reach(r.Slot.Round, entry.Votes)
		return nil
	case votes.Lock:
		quorum, err := m.replayQuorum(r)
		if err != nil {
			return err
		}
		m.reach(r.Slot.Round, nil)
		if r.Slot.Round > m.locked.round {
			m.locked = lock{id: quorum.ID, round: r.Slot.Round, proof: quorum}
			m.valid = m.locked
		}
		return nil
	case votes.Decision:
		quorum, err := m.replayQuorum(r)
		if err != nil {
			return err
		}
		m.phase, m.decided = phaseDecided, quorum
	}
	return nil
}

// reach moves to a round; records come in the order of their rounds.
func (m *Machine) reach(number int64, entry []record.Vote) {
	if number > m.round {
		m.round, m.entry = number, nil
	}
	if entry == nil {
		return
	}
	m.entry = entry
	for _, vote := range entry {
		if vote.Voter == m.cfg.Self {
			continue
		}
		if _, ok := m.at(vote.Round).tally(vote.Step).votes[vote.Voter]; !ok {
			m.count(vote)
		}
	}
}

func (m *Machine) replayQuorum(r votes.Record) (record.Quorum, error) {
	var quorum record.Quorum
	if err := record.Unmarshal(r.Data, &quorum); err != nil {
		return quorum, err
	}
	c, ok := m.blocks[quorum.ID]
	if !ok {
		return quorum, fmt.Errorf("%w: its block is missing", record.ErrMalformed)
	}
	c.valid = true
	return quorum, nil
}

func (m *Machine) replaySigned(r votes.Record) error {
	message, err := record.DecodeMessage(r.Data)
	if err != nil {
		return err
	}
	switch message := message.(type) {
	case *record.Proposal:
		if r.Slot.Kind != votes.Proposal || message.Proposer != m.cfg.Self {
			break
		}
		if c, ok := m.blocks[message.ID]; ok {
			message.Block, c.valid = c.block, true
		}
		m.reach(message.Round, nil)
		m.at(message.Round).proposal = message
		return nil
	case *record.Vote:
		if message.Voter != m.cfg.Self || r.Slot.Kind != votes.Prevote && r.Slot.Kind != votes.Precommit {
			break
		}
		m.reach(message.Round, nil)
		m.at(message.Round).tally(message.Step).add(*message)
		return nil
	case *record.Cosign:
		if r.Slot.Kind != votes.Cosign || message.Vote.Voter != m.cfg.Self {
			break
		}
		m.cosigns[m.cfg.Self] = *message
		return nil
	}
	return fmt.Errorf("%w: not this member's", record.ErrMalformed)
}
