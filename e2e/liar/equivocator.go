package liar

import (
	"sync"

	"github.com/pyrsia/appliance/modules/quorum"
	"github.com/pyrsia/appliance/modules/record"
)

// Equivocator is a member's way to the others that contradicts itself: of its own
// prevotes and precommits for a block, every other member, the first that it sends to
// among them, first gets one for no block, and then the true one.
type Equivocator struct {
	quorum.Transport
	Self    record.Identity
	Vote    record.Signer
	Genesis record.Hash

	mu   sync.Mutex // guards told
	told map[record.Identity]int
}

// kindOrder is the first byte of a message of the order (docs/protocol.md, §12.2).
const kindOrder = 'o'

// Send implements quorum.Transport.
func (e *Equivocator) Send(to record.Identity, message []byte) {
	if other := e.other(message); other != nil && e.liesTo(to) {
		e.Transport.Send(to, other)
	}
	e.Transport.Send(to, message)
}

// liesTo goes by the order in which members were first sent something: by their
// identities there might be nobody to lie to.
func (e *Equivocator) liesTo(to record.Identity) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.told == nil {
		e.told = map[record.Identity]int{}
	}
	if _, known := e.told[to]; !known {
		e.told[to] = len(e.told)
	}
	return e.told[to]%2 == 0
}

// other is what contradicts a message, nil for nothing.
func (e *Equivocator) other(message []byte) []byte {
	if message[0] != kindOrder {
		return nil
	}
	decoded, err := record.DecodeMessage(message[1:])
	vote, ok := decoded.(*record.Vote)
	if err != nil || !ok || vote.Voter != e.Self || vote.ID.IsNil() || vote.Step == record.StepCosign {
		return nil
	}
	other := *vote
	other.ID = record.BlockID{}
	if other, err = record.SignVote(e.Genesis, other, e.Vote); err != nil {
		return nil
	}
	data, err := record.EncodeMessage(&other)
	if err != nil {
		return nil
	}
	return append([]byte{kindOrder}, data...)
}
