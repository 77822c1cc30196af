package record

// Deferring is the set, taking members' signatures in leaves for granted, for who
// checks them by themselves, on all processors (CheckSignatures). Everything else is
// checked as by the set itself.
func (s *Set) Deferring() *Set {
	d := *s
	d.deferring = true
	return &d
}

// CheckSignatures verifies the signatures in a leaf that a Deferring set takes for
// granted. set is that of the leaf's block, at its height.
func CheckSignatures(leaf Leaf, genesis Hash, set *Set, height int64) error {
	switch leaf := leaf.(type) {
	case *RecipeLeaf:
		return each(leaf.Endorsements, func(e Endorsement) error { return e.Check(genesis, set, height) })
	case *AttemptLeaf:
		return each(leaf.Holdings, func(h Holding) error { return h.Check(genesis, set, leaf.Attempt) })
	case *CommitsLeaf:
		return each(leaf.Commits, func(c Commit) error { return c.Check(genesis, leaf.Attempt, set) })
	case *PublishLeaf:
		return checkAttestations(leaf.Attempt, leaf.Envelope, leaf.Reveals, set)
	case *AttestLeaf:
		return checkAttestations(leaf.Attempt, leaf.Envelope, leaf.Reveals, set)
	case *EvidenceLeaf: // of votes and proposals nothing is taken for granted
		return each(leaf.Commits, func(c Commit) error { return c.Check(genesis, leaf.Attempt, set) })
	}
	return nil
}

func checkAttestations(attempt Hash, envelope Envelope, reveals []Reveal, set *Set) error {
	attestations, _, err := Attestations(attempt, envelope, reveals)
	if err != nil {
		return err
	}
	return each(attestations, func(a Attestation) error {
		return set.verify(a.Identity, a.Signature, func() []byte { return PAE(PayloadType, a.Statement) })
	})
}

func each[T any](list []T, check func(T) error) error {
	for _, item := range list {
		if err := check(item); err != nil {
			return err
		}
	}
	return nil
}
