package record

import (
	"fmt"
	"sort"

	"github.com/pyrsia/appliance/modules/artifact"
	"lukechampine.com/blake3"
)

func blake3Sum(data []byte) artifact.BLAKE3 { return artifact.BLAKE3(blake3.Sum256(data)) }

// Set is the authorised build nodes of a block, sorted by identity. Its
// methods only read; a Set is safe for concurrent use.
type Set struct {
	Nodes []NodeRecord
	order string
	hash  Hash

	deferring bool // Deferring made it
}

// NewSet is the set of the given node records under an order rule.
func NewSet(nodes []NodeRecord, order string) (*Set, error) {
	if len(nodes) == 0 {
		return nil, fmt.Errorf("%w: a set without nodes", ErrMalformed)
	}
	if order != OrderMajority && order != OrderTwoThirds {
		return nil, fmt.Errorf("%w: order rule %.40q, want %q or %q", ErrMalformed, order, OrderMajority, OrderTwoThirds)
	}
	keys := map[PublicKey]bool{}
	for i := range nodes {
		if i > 0 && nodes[i-1].Identity >= nodes[i].Identity {
			return nil, fmt.Errorf("%w: nodes are not sorted by identity, one each", ErrMalformed)
		}
		for _, key := range nodes[i].Keys() {
			if keys[key] {
				return nil, fmt.Errorf("%w: node %s uses a key that is used already", ErrMalformed, nodes[i].Identity)
			}
			keys[key] = true
		}
	}
	s := &Set{Nodes: nodes, order: order}
	s.hash = s.digest()
	return s, nil
}

// Size is N.
func (s *Set) Size() int { return len(s.Nodes) }

// Majority is A, the attest majority: more than half of all, absent nodes
// counted.
func (s *Set) Majority() int { return len(s.Nodes)/2 + 1 }

// Quorum is Q, the order quorum.
func (s *Set) Quorum() int {
	if s.order == OrderTwoThirds {
		return 2*len(s.Nodes)/3 + 1
	}
	return s.Majority()
}

// Node is the record of one identity.
func (s *Set) Node(id Identity) (*NodeRecord, bool) {
	i := sort.Search(len(s.Nodes), func(i int) bool { return s.Nodes[i].Identity >= id })
	if i == len(s.Nodes) || s.Nodes[i].Identity != id {
		return nil, false
	}
	return &s.Nodes[i], true
}

// Proposer is whose turn it is: by rotation over heights and rounds.
func (s *Set) Proposer(height, round int64) Identity {
	return s.Nodes[int((height+round)%int64(len(s.Nodes)))].Identity
}

// Rotate is the set with a later record of one of its members in the network of a
// genesis. What makes such a record valid on a chain is the ledger's rule; here it
// is checked by itself.
func (s *Set) Rotate(genesis Hash, later NodeRecord) (*Set, error) {
	node, ok := s.Node(later.Identity)
	if !ok {
		return nil, fmt.Errorf("%w: %.80q is not in the set", ErrMalformed, string(later.Identity))
	}
	if later.Seq <= node.Seq {
		return nil, fmt.Errorf("%w: record %d of %s after %d", ErrMalformed, later.Seq, later.Identity, node.Seq)
	}
	if err := later.CheckRotation(genesis); err != nil {
		return nil, err
	}
	nodes := append([]NodeRecord(nil), s.Nodes...)
	nodes[sort.Search(len(nodes), func(i int) bool { return nodes[i].Identity >= later.Identity })] = later
	return NewSet(nodes, s.order)
}

// Order is the set's order rule.
func (s *Set) Order() string { return s.order }

// Hash is by what headers and endorsements name the set.
func (s *Set) Hash() Hash { return s.hash }

func (s *Set) digest() Hash {
	type member struct {
		CosignerKey PublicKey `json:"cosignerKey"`
		Identity    Identity  `json:"identity"`
		LogKey      PublicKey `json:"logKey"`
		VoteKey     PublicKey `json:"voteKey"`
	}
	value := struct {
		Nodes []member `json:"nodes"`
		Order string   `json:"order"`
	}{Order: s.order}
	for _, n := range s.Nodes {
		value.Nodes = append(value.Nodes, member{n.CosignerKey, n.Identity, n.LogKey, n.VoteKey})
	}
	return Digest(SignBytes("set", Hash{}, value))
}

// verify checks a member's signature by its vote key. The message is made only if
// the signature is checked now.
func (s *Set) verify(id Identity, signature Signature, message func() []byte) error {
	node, ok := s.Node(id)
	if !ok {
		return fmt.Errorf("%w: %s is not in the set", ErrMalformed, id)
	}
	if !s.deferring && !node.VoteKey.Verify(message(), signature) {
		return fmt.Errorf("%w: signature of %s does not verify", ErrMalformed, id)
	}
	return nil
}
