package record

import (
	"crypto/sha256"
	"sync"
)

// verified remembers signatures that were found valid. A member meets each
// signature of a part three times: when it comes in, in the block that is
// proposed, and in the block that is appended; a check costs a hundred times
// what a look-up does. Only valid ones are kept: what is remembered is true for
// ever, and whoever sends rubbish fills nothing.
//
// It is a function's memory and changes no answer.
var verified memory

// sound remembers in the same way the keys that passed Check, which costs as much
// as two signatures: a node meets the same few at every start and in every set.
var sound memory

// generation is how many signatures one half of the memory holds: 1 MiB of
// hashes, the parts and votes of some thousand blocks.
const generation = 1 << 15

// memory is a set of hashes in two halves: when the younger one is full, the
// older one is forgotten. It is safe for concurrent use.
type memory struct {
	mu            sync.Mutex
	young, before map[[32]byte]struct{}
}

// signatureKey names a check: key, signature and message, of which the first two
// have fixed lengths.
func signatureKey(key PublicKey, message []byte, signature Signature) [32]byte {
	h := sha256.New()
	h.Write(key[:])
	h.Write(signature[:])
	h.Write(message)
	var sum [32]byte
	h.Sum(sum[:0])
	return sum
}

func (m *memory) has(key [32]byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.young[key]; ok {
		return true
	}
	_, ok := m.before[key]
	return ok
}

func (m *memory) add(key [32]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.young == nil || len(m.young) >= generation {
		m.young, m.before = make(map[[32]byte]struct{}, 1024), m.young
	}
	m.young[key] = struct{}{}
}
