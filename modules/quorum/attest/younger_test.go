package attest_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/quorum/attest"
	"github.com/pyrsia/appliance/modules/record"
)

// A vote of keys that are younger than the attempt can stand in no leaf: it is refused,
// and takes no place of those that can; also one that was taken before the keys changed.
func TestVotesOfYoungerKeys(t *testing.T) {
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	type published struct {
		attempt record.Hash
		files   []record.Subject
	}
	var all []published
	for i := range 20 {
		pkg := artifact.PURL(fmt.Sprintf("pkg:generic/p%d@1", i))
		a := n.AppendAttempt(t, c, n.AppendRecipe(t, c, chaintest.Recipe(pkg, "f")))
		files := []record.Subject{chaintest.File(pkg, "f", []byte("x"))}
		v := n.Votes(t, a.ID, files)
		n.Append(t, c, chaintest.One(v.Commits(0, 1, 2)))
		n.Append(t, c, v.Publish(0, 1, 2))
		all = append(all, published{a.ID, files})
	}
	p := attest.NewPool(c)
	add := func(n *chaintest.Network, d published) error {
		v := n.Votes(t, d.attempt, d.files)
		_, err := p.Add(record.Part{Reveal: &record.RevealPart{Attestation: v.Attestation(3)}})
		return err
	}
	for _, d := range all[:5] { // late, and true
		if err := add(n, d); err != nil {
			t.Fatal(err)
		}
	}
	renewed, leaf := n.Renew(t, 3)
	n.Append(t, c, chaintest.One(leaf))
	n.Append(t, c)
	for _, d := range all[5:] {
		if err := add(renewed, d); !errors.Is(err, attest.ErrRefused) {
			t.Errorf("a vote of younger keys is taken: %v", err)
		}
	}
	if candidates := p.Candidates(renewed.Now(c).UnixMilli(), attest.Patience{}, func(record.Identity, record.Hash) bool { return false }); len(candidates) != 0 {
		t.Errorf("%d candidates of leaves that no block may hold", len(candidates))
	}
}
