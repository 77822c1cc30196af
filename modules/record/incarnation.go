package record

import "fmt"

// Incarnation is one start of a member's program, signed by its vote key. The
// number is one more than that of the start before, kept in the vote file. Two
// different incarnations with one number mean that the vote file was set back:
// a restored backup, or a virtual machine's snapshot.
type Incarnation struct {
	Identity  Identity  `json:"identity"`
	Nonce     Hash      `json:"nonce"`  // random, made once per start
	Number    int64     `json:"number"` // from 1
	Signature Signature `json:"signature"`
}

// Message is what the signature is over.
func (i Incarnation) Message(genesis Hash) []byte {
	i.Signature = Signature{}
	return SignBytes("incarnation", genesis, i)
}

// SignIncarnation signs a start of a member.
func SignIncarnation(genesis Hash, i Incarnation, vote Signer) (Incarnation, error) {
	signature, err := vote.Sign(i.Message(genesis))
	i.Signature = signature
	return i, err
}

// Check verifies the incarnation by a vote key.
func (i Incarnation) Check(genesis Hash, key PublicKey) error {
	if i.Number < 1 || !key.Verify(i.Message(genesis), i.Signature) {
		return fmt.Errorf("%w: incarnation %d of %.80q does not verify", ErrMalformed, i.Number, string(i.Identity))
	}
	return nil
}

// Recollection is what a member tells another one that starts: everything that
// it holds of that other's vote key and that could not be taken back. Each piece
// is signed by the one who asks, so that nobody can make up a past for it.
type Recollection struct {
	Commits     []CommitPart `json:"commits"`     // of attempts that are not over
	Height      int64        `json:"height"`      // of the teller's chain
	Incarnation Incarnation  `json:"incarnation"` // the highest that was ever heard
	Nonce       Hash         `json:"nonce"`       // of the incarnation that asked
	Proposals   []Proposal   `json:"proposals"`   // of the height that is worked on, without lock
	Votes       []Vote       `json:"votes"`       // of the same height
}

// Bounds of a recollection.
const (
	MaxRecalledCommits   = 64
	MaxRecalledVotes     = 64
	MaxRecalledProposals = 16
	MaxRecollection      = 128 << 10 // bytes
)

// DecodeIncarnation reads an incarnation's canonical JSON.
func DecodeIncarnation(data []byte) (Incarnation, error) {
	var i Incarnation
	if len(data) > 1024 {
		return i, fmt.Errorf("%w: incarnation of %d bytes", ErrMalformed, len(data))
	}
	return i, Unmarshal(data, &i)
}

// DecodeRecollection reads a recollection's canonical JSON.
func DecodeRecollection(data []byte) (Recollection, error) {
	var r Recollection
	if len(data) > MaxRecollection {
		return r, fmt.Errorf("%w: recollection of %d bytes, the limit is %d", ErrMalformed, len(data), MaxRecollection)
	}
	if err := Unmarshal(data, &r); err != nil {
		return r, err
	}
	if len(r.Commits) > MaxRecalledCommits || len(r.Proposals) > MaxRecalledProposals || len(r.Votes) > MaxRecalledVotes {
		return r, fmt.Errorf("%w: recollection of too much", ErrMalformed)
	}
	return r, nil
}
