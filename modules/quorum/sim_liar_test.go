package quorum

import (
	"bytes"
	"slices"

	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

// twoFaced makes, for every other member, another message of this liar's votes:
// for no block, or for one that it heard of.
func (n *simNode) twoFaced(to *simNode, message []byte) []byte {
	if message[0] != kindOrder || to.i%2 == 0 {
		return message
	}
	decoded, err := record.DecodeMessage(message[1:])
	vote, ok := decoded.(*record.Vote)
	if err != nil || !ok || vote.Voter != n.id {
		return message
	}
	other := *vote
	other.ID = record.BlockID{}
	if vote.ID.IsNil() {
		other.ID = record.BlockID{Size: 7, Root: record.Digest([]byte{byte(n.w.rng.IntN(3))})}
	}
	if other, err = record.SignVote(n.genesis(), other, n.signers.Vote); err != nil {
		return message
	}
	data, err := record.EncodeMessage(&other)
	if err != nil {
		return message
	}
	return append([]byte{kindOrder}, data...)
}

// otherCommit makes, for every other member, another commit.
func (n *simNode) otherCommit(to *simNode, message []byte) []byte {
	if message[0] != kindPart || to.i%2 == 0 {
		return message
	}
	part, err := record.DecodePart(message[1:])
	if err != nil || part.Commit == nil {
		return message
	}
	c, err := record.SignCommit(n.genesis(), part.Commit.Attempt, n.id, record.Digest([]byte("another")), n.signers.Vote)
	if err != nil {
		return message
	}
	data, err := record.Part{Commit: &record.CommitPart{Attempt: part.Commit.Attempt, Commit: c}}.Encode()
	if err != nil {
		return message
	}
	return append([]byte{kindPart}, data...)
}

// farAway answers with a height that there is not, and votes for no block in the last
// round that there is.
func (n *simNode) farAway(message []byte) []byte {
	switch message[0] {
	case kindHeld:
		r, err := record.DecodeRecollection(message[1:])
		if err != nil {
			return message
		}
		r.Height = 1 << 40
		return append([]byte{kindHeld}, record.MustMarshal(r)...)
	case kindOrder:
		decoded, err := record.DecodeMessage(message[1:])
		vote, ok := decoded.(*record.Vote)
		if err != nil || !ok || vote.Voter != n.id || n.w.rng.IntN(2) == 0 {
			return message
		}
		far := *vote
		far.ID, far.Round = record.BlockID{}, 1<<31
		if far, err = record.SignVote(n.genesis(), far, n.signers.Vote); err != nil {
			return message
		}
		if data, err := record.EncodeMessage(&far); err == nil {
			return append([]byte{kindOrder}, data...)
		}
	}
	return message
}

// copy says what others said: their commits' values as its own commit, which it
// then cannot open, and their statements as a late vote.
func (n *simNode) copy(a *ledger.Attempt) {
	if a.Status == ledger.StatusOpen {
		for _, id := range n.loop.pool.CommittedBy(a.ID) {
			if id == n.id {
				return
			}
			for _, c := range n.loop.pool.CommitsOf(id) {
				if c.Attempt == a.ID {
					n.commit(a.ID, c.Commit.Value)
					return
				}
			}
		}
		return
	}
	for _, v := range a.Votes {
		if data, err := n.chain.Leaf(v.Leaf); err == nil {
			if leaf, err := record.DecodeLeaf(data); err == nil {
				switch leaf := leaf.(type) {
				case *record.PublishLeaf:
					n.reveal(a.ID, leaf.Reveals[0].Salt, leaf.Envelope.Payload)
				case *record.AttestLeaf:
					n.reveal(a.ID, leaf.Reveals[0].Salt, leaf.Envelope.Payload)
				}
			}
		}
	}
}

// babble answers with what is close to a message: altered, cut, longer, of
// another kind.
func (n *simNode) babble(message []byte) {
	w := n.w
	if w.rng.IntN(3) > 0 {
		return
	}
	data := slices.Clone(message)
	switch w.rng.IntN(5) {
	case 0:
		data[w.rng.IntN(len(data))] ^= byte(1 + w.rng.IntN(255))
	case 1:
		data = data[:1+w.rng.IntN(len(data))]
	case 2:
		data = append(data, bytes.Repeat([]byte{'x'}, w.rng.IntN(100))...)
	case 3:
		data[0] = []byte{kindOrder, kindPart, kindNote, kindStart, kindHeld, 'z', 0}[w.rng.IntN(7)]
	case 4:
		data = n.ownRubbish(data)
	}
	w.send(n.i, w.rng.IntN(w.cfg.N), data)
}

// ownRubbish signs, with this liar's own key, what another said of itself.
func (n *simNode) ownRubbish(message []byte) []byte {
	if message[0] != kindOrder {
		return message
	}
	decoded, err := record.DecodeMessage(message[1:])
	vote, ok := decoded.(*record.Vote)
	if err != nil || !ok {
		return message
	}
	v := *vote
	v.Voter = n.id
	v.Round += int64(n.w.rng.IntN(3))
	if v, err = record.SignVote(n.genesis(), v, n.signers.Vote); err != nil {
		return message
	}
	data, err := record.EncodeMessage(&v)
	if err != nil {
		return message
	}
	return append([]byte{kindOrder}, data...)
}

// repeat keeps some messages and sends old ones again, to anybody.
func (n *simNode) repeat(message []byte) {
	w := n.w
	if len(w.replay) < 500 {
		w.replay = append(w.replay, slices.Clone(message))
	}
	if w.rng.IntN(3) == 0 {
		w.send(n.i, w.rng.IntN(w.cfg.N), w.replay[w.rng.IntN(len(w.replay))])
	}
}
