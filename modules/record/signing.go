package record

import "fmt"

// message is what the four signatures of a founding node record sign. It is made
// before there is a genesis.
func (n NodeRecord) message() []byte {
	n.Signatures = NodeSignatures{}
	return SignBytes("node", Hash{}, n)
}

// rotation is what the four signatures of a later record sign. It belongs to one
// network: records stand in public, and with one of another network, of the same
// identity, a stranger could give a member keys that it no longer has.
func (n NodeRecord) rotation(genesis Hash) []byte {
	n.Signatures = NodeSignatures{}
	return SignBytes("rotate", genesis, n)
}

// NodeSigners are the private keys of a node.
type NodeSigners struct{ Identity, Vote, Cosigner, Log Signer }

// SignNode fills in the keys and signatures of a founding record.
func SignNode(n NodeRecord, keys NodeSigners) (NodeRecord, error) {
	n = n.with(keys)
	return n.sign(n.message(), keys)
}

// SignRotation fills in the keys and signatures of a later record.
func SignRotation(genesis Hash, n NodeRecord, keys NodeSigners) (NodeRecord, error) {
	n = n.with(keys)
	return n.sign(n.rotation(genesis), keys)
}

func (n NodeRecord) with(keys NodeSigners) NodeRecord {
	n.Identity = NewIdentity(keys.Identity.Public())
	n.VoteKey, n.CosignerKey, n.LogKey = keys.Vote.Public(), keys.Cosigner.Public(), keys.Log.Public()
	return n
}

func (n NodeRecord) sign(message []byte, keys NodeSigners) (NodeRecord, error) {
	for _, s := range []struct {
		signer Signer
		into   *Signature
	}{
		{keys.Identity, &n.Signatures.Identity}, {keys.Vote, &n.Signatures.Vote},
		{keys.Cosigner, &n.Signatures.Cosigner}, {keys.Log, &n.Signatures.Log},
	} {
		signature, err := s.signer.Sign(message)
		if err != nil {
			return NodeRecord{}, err
		}
		*s.into = signature
	}
	return n, nil
}

// Check verifies the keys and the four signatures of a founding record.
func (n NodeRecord) Check() error { return n.check(n.message()) }

// CheckRotation verifies the keys and the four signatures of a later record.
func (n NodeRecord) CheckRotation(genesis Hash) error { return n.check(n.rotation(genesis)) }

func (n NodeRecord) check(message []byte) error {
	identity, err := n.Identity.Key()
	if err != nil {
		return err
	}
	used := map[PublicKey]bool{}
	for _, s := range []struct {
		what      string
		key       PublicKey
		signature Signature
	}{
		{"identity", identity, n.Signatures.Identity}, {"vote", n.VoteKey, n.Signatures.Vote},
		{"cosigner", n.CosignerKey, n.Signatures.Cosigner}, {"log", n.LogKey, n.Signatures.Log},
	} {
		if err := s.key.Check(); err != nil {
			return fmt.Errorf("node %s, %s key: %w", n.Identity, s.what, err)
		}
		if !s.key.Verify(message, s.signature) {
			return fmt.Errorf("node %s: %w: the %s key's signature does not verify", n.Identity, ErrMalformed, s.what)
		}
		if used[s.key] {
			return fmt.Errorf("node %s: %w: the %s key serves another purpose too", n.Identity, ErrMalformed, s.what)
		}
		used[s.key] = true
	}
	return nil
}

// MaxEndorsement is for how many heights an endorsement may count at the most:
// who takes a file away must not be held to it for ever.
const MaxEndorsement = 2000

// Digest is by what an endorsement names the change.
func (c RecipeChange) Digest() Hash { return Digest(MustMarshal(c)) }

func (e Endorsement) message(genesis Hash) []byte {
	e.Signature = Signature{}
	return SignBytes("endorse", genesis, e)
}

// SignEndorsement endorses a change for a member.
func SignEndorsement(genesis Hash, e Endorsement, vote Signer) (Endorsement, error) {
	signature, err := vote.Sign(e.message(genesis))
	e.Signature = signature
	return e, err
}

// Check verifies the endorsement's signature and that it counts at a height.
func (e Endorsement) Check(genesis Hash, set *Set, height int64) error {
	if e.Set != set.Hash() {
		return fmt.Errorf("%w: endorsement under another set", ErrMalformed)
	}
	if height > e.LastHeight {
		return fmt.Errorf("%w: endorsement counts up to height %d, this is %d", ErrMalformed, e.LastHeight, height)
	}
	if e.LastHeight > height+MaxEndorsement {
		return fmt.Errorf("%w: endorsement counts up to height %d, more than %d after %d", ErrMalformed, e.LastHeight, MaxEndorsement, height)
	}
	return set.verify(e.Identity, e.Signature, func() []byte { return e.message(genesis) })
}

// Digest is by what a holding names the attempt.
func (a Attempt) Digest() Hash { return Digest(MustMarshal(a)) }

func (a Attempt) message(genesis Hash, id Identity) []byte {
	return SignBytes("holding", genesis, struct {
		Attempt  Hash     `json:"attempt"`
		Identity Identity `json:"identity"`
	}{a.Digest(), id})
}

// SignHolding says for a member that it got every file of the attempt's lock.
func SignHolding(genesis Hash, a Attempt, id Identity, vote Signer) (Holding, error) {
	signature, err := vote.Sign(a.message(genesis, id))
	return Holding{Identity: id, Signature: signature}, err
}

// Check verifies the holding's signature.
func (h Holding) Check(genesis Hash, set *Set, a Attempt) error {
	return set.verify(h.Identity, h.Signature, func() []byte { return a.message(genesis, h.Identity) })
}

// Message is what the signature is over.
func (c Commit) Message(genesis, attempt Hash) []byte {
	return SignBytes("commit", genesis, struct {
		Attempt  Hash     `json:"attempt"`
		Identity Identity `json:"identity"`
		Value    Hash     `json:"value"`
	}{attempt, c.Identity, c.Value})
}

// SignCommit signs a member's commit for an attempt.
func SignCommit(genesis, attempt Hash, id Identity, value Hash, vote Signer) (Commit, error) {
	c := Commit{Identity: id, Value: value}
	signature, err := vote.Sign(c.Message(genesis, attempt))
	c.Signature = signature
	return c, err
}

// Check verifies the commit's signature.
func (c Commit) Check(genesis, attempt Hash, set *Set) error {
	return set.verify(c.Identity, c.Signature, func() []byte { return c.Message(genesis, attempt) })
}

// Attestation is a member's revealed vote: its signature over a statement, and
// the salt of its commit.
type Attestation struct {
	Attempt   Hash      `json:"attempt"`
	Identity  Identity  `json:"identity"`
	Salt      Hash      `json:"salt"`
	Signature Signature `json:"signature"`
	Statement Raw       `json:"statement"` // canonical

	decoded *Statement // of Statement, where it was read already; nobody changes it
}

// SignAttestation signs a statement for a member.
func SignAttestation(attempt Hash, id Identity, salt Hash, statement []byte, vote Signer) (Attestation, error) {
	signature, err := vote.Sign(PAE(PayloadType, statement))
	return Attestation{Attempt: attempt, Identity: id, Salt: salt, Signature: signature, Statement: statement}, err
}

// Check verifies the attestation's signature and that it opens the commit.
func (a Attestation) Check(genesis Hash, set *Set, committed Hash) error {
	if CommitValue(genesis, a.Attempt, a.Identity, a.Salt, a.Statement) != committed {
		return fmt.Errorf("%w: attestation of %s does not open its commit", ErrMalformed, a.Identity)
	}
	statement := a.decoded
	if statement == nil {
		var err error
		if statement, err = DecodeStatement(a.Statement); err != nil {
			return err
		}
	}
	if statement.Predicate.Attempt != a.Attempt || statement.Predicate.Network != genesis {
		return fmt.Errorf("%w: attestation of %s is for another attempt or network", ErrMalformed, a.Identity)
	}
	return set.verify(a.Identity, a.Signature, func() []byte { return PAE(PayloadType, a.Statement) })
}

// Attestations takes a publish or attest leaf apart into its members' votes and the
// statement that all of them are for.
func Attestations(attempt Hash, envelope Envelope, reveals []Reveal) ([]Attestation, *Statement, error) {
	statement, err := envelope.Statement()
	if err != nil {
		return nil, nil, err
	}
	if len(reveals) != len(envelope.Signatures) {
		return nil, nil, fmt.Errorf("%w: %d reveals for %d signatures", ErrMalformed, len(reveals), len(envelope.Signatures))
	}
	attestations := make([]Attestation, 0, len(reveals))
	for i, reveal := range reveals {
		signature := envelope.Signatures[i]
		if signature.KeyID != reveal.Identity {
			return nil, nil, fmt.Errorf("%w: reveals and signatures are in different order", ErrMalformed)
		}
		attestations = append(attestations, Attestation{
			Attempt: attempt, Identity: reveal.Identity, Salt: reveal.Salt,
			Signature: signature.Sig, Statement: envelope.Payload, decoded: statement,
		})
	}
	return attestations, statement, nil
}

// NewEnvelope puts equal attestations, sorted by identity, together.
func NewEnvelope(attestations []Attestation) (Envelope, []Reveal) {
	e := Envelope{Payload: attestations[0].Statement, PayloadType: PayloadType}
	var reveals []Reveal
	for _, a := range attestations {
		e.Signatures = append(e.Signatures, EnvelopeSignature{KeyID: a.Identity, Sig: a.Signature})
		reveals = append(reveals, Reveal{Identity: a.Identity, Salt: a.Salt})
	}
	return e, reveals
}
