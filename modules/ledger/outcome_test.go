package ledger_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

func TestPublication(t *testing.T) {
	w := at(t, "published")
	if w.status() != ledger.StatusPublished {
		t.Fatal(w.status())
	}
	for _, s := range files() {
		p, err := w.c.Resolve(s.FileName())
		if err != nil || p.Subject != s || p.Votes != 4 || p.Attempt != w.attempt.ID || p.Height != 4 {
			t.Errorf("%s: %+v, %v", s.FileName(), p, err)
		}
		byDigest, err := w.c.ResolveDigest(s.Digest.SHA256)
		if err != nil || byDigest.Subject != s {
			t.Errorf("%s: %+v, %v", s.Digest.SHA256, byDigest, err)
		}
	}
	for _, name := range []artifact.Name{{Package: pkg, File: "c"}, {Package: other, File: "a.jar"}, {}} {
		if p, err := w.c.Resolve(name); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	if _, err := w.c.ResolveDigest(artifact.SHA256{1}); !errors.Is(err, ledger.ErrNotFound) {
		t.Error(err)
	}
	listed, err := w.c.Files(string(pkg) + "#")
	if err != nil || len(listed) != 2 || listed[0].Subject != files()[0] {
		t.Errorf("%+v, %v", listed, err)
	}
}

// TestRecipeKeepsItsCharacters reads a recipe back whose commands have the
// characters that JSON encoders for web pages escape.
func TestRecipeKeepsItsCharacters(t *testing.T) {
	w := at(t, "fresh")
	recipe := chaintest.Recipe(pkg, "a")
	recipe.Commands = []string{"a && b <in >out \u2028 \u2029 'läuft' \"\\\""}
	hash := w.AppendRecipe(t, w.c, recipe)
	state, err := w.c.Recipe(hash)
	if err != nil {
		t.Fatal(err)
	}
	again, err := record.DecodeRecipe(state.Recipe)
	if err != nil || again.Hash() != hash || again.Commands[0] != recipe.Commands[0] {
		t.Errorf("%+v, %v", again, err)
	}
}

// TestDissentIsRecorded has one liar of four.
func TestDissentIsRecorded(t *testing.T) {
	w := at(t, "recipe")
	w.open(files(), files(), evil("evil"), files())
	w.append(w.votes.Commits())
	w.append(append(w.votes.Publish(0, 1, 3), w.votes.Attest(2))...)
	a, err := w.c.Attempt(w.attempt.ID)
	if err != nil || a.Status != ledger.StatusPublished || a.Agreeing() != 3 || len(a.Votes) != 4 {
		t.Fatalf("%+v, %v", a, err)
	}
	vote, ok := a.VoteOf(w.Nodes[2].ID)
	if !ok || vote.Statement == a.Published || vote.Late {
		t.Errorf("the dissent reads %+v", vote)
	}
	p, err := w.c.Resolve(files()[0].FileName())
	if err != nil || p.Subject != files()[0] || p.Votes != 3 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestLateVotesCountForNothing(t *testing.T) {
	w := at(t, "attempt")
	w.append(w.votes.Commits(0, 1, 2))
	w.append(w.votes.Publish(0, 1, 2)...)
	w.append(w.votes.Attest(3)) // equal, but after the others had revealed
	a, err := w.c.Attempt(w.attempt.ID)
	if err != nil {
		t.Fatal(err)
	}
	vote, ok := a.VoteOf(w.Nodes[3].ID)
	if !ok || !vote.Late || vote.Statement != a.Published || a.Agreeing() != 3 {
		t.Errorf("the late vote reads %+v, %d agree", vote, a.Agreeing())
	}
	if p, err := w.c.Resolve(files()[0].FileName()); err != nil || p.Votes != 3 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestLaterEqualVoteCounts(t *testing.T) {
	w := at(t, "committed")
	w.append(w.votes.Publish(0, 1, 2)...)
	w.append(w.votes.Attest(3))
	if p, err := w.c.Resolve(files()[0].FileName()); err != nil || p.Votes != 4 {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestDisagreement: votes of what the members built, in the order in which they
// are revealed, until nothing can be published any more.
func TestDisagreement(t *testing.T) {
	for _, test := range []struct {
		name      string
		built     []string // by member
		committed []int
		revealed  []int
		want      []ledger.Status // after each
	}{
		{"all differ", []string{"1", "2", "3", "4"}, []int{0, 1, 2, 3}, []int{0, 1, 2, 3},
			[]ledger.Status{ledger.StatusCommitted, ledger.StatusCommitted, ledger.StatusDisagreed, ledger.StatusDisagreed}},
		{"two and two", []string{"1", "1", "2", "2"}, []int{0, 1, 2, 3}, []int{0, 2, 1, 3},
			[]ledger.Status{ledger.StatusCommitted, ledger.StatusCommitted, ledger.StatusCommitted, ledger.StatusDisagreed}},
		{"two of three who committed", []string{"1", "2", "2", "2"}, []int{0, 1, 2}, []int{0, 1},
			[]ledger.Status{ledger.StatusCommitted, ledger.StatusDisagreed}},
		{"three agree", []string{"1", "2", "2", "2"}, []int{0, 1, 2, 3}, []int{0, 1, 2, 3},
			[]ledger.Status{ledger.StatusCommitted, ledger.StatusCommitted, ledger.StatusCommitted, ledger.StatusCommitted}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := at(t, "recipe")
			var subjects [][]record.Subject
			for _, content := range test.built {
				subjects = append(subjects, evil(content))
			}
			w.open(subjects...)
			w.append(w.votes.Commits(test.committed...))
			for i, who := range test.revealed {
				w.append(w.votes.Attest(who))
				if w.status() != test.want[i] {
					t.Fatalf("after vote %d: %s, want %s", i+1, w.status(), test.want[i])
				}
			}
			if test.want[len(test.want)-1] != ledger.StatusDisagreed {
				w.append(w.votes.Publish(1, 2, 3)...)
				return
			}
			if _, err := w.c.Resolve(files()[0].FileName()); !errors.Is(err, ledger.ErrNotFound) {
				t.Errorf("something is published: %v", err)
			}
			w.open(files()) // attempt 2 may go on
			w.append(w.votes.Commits())
			w.append(w.votes.Publish()...)
		})
	}
}

func TestExpiredAttemptShowsItsVotes(t *testing.T) {
	w := at(t, "committed")
	w.pass()
	a, _ := w.c.Attempt(w.attempt.ID)
	if !a.Expired(w.c.Time()) || a.Active(w.c.Time()) {
		t.Errorf("attempt %+v at %d", a, w.c.Time())
	}
	w.append(w.votes.Attest())
	a, _ = w.c.Attempt(w.attempt.ID)
	if len(a.Votes) != 4 || a.Status != ledger.StatusCommitted {
		t.Errorf("%d votes, %s", len(a.Votes), a.Status)
	}
}

// TestNamesAreForEver publishes by a superseding recipe what is published.
func TestNamesAreForEver(t *testing.T) {
	w := at(t, "published")
	w.append(w.superseding(w.recipe.String(), "a.jar", "b.pom", "c"))
	live, err := w.c.LiveRecipe(pkg)
	if err != nil {
		t.Fatal(err)
	}
	w.recipe, w.attempt = live.Hash, nil
	c := chaintest.File(pkg, "c", []byte("c"))
	w.open(append(evil("other bytes"), c))
	w.append(w.votes.Commits())
	block := w.Force(t, w.c, w.votes.Publish()...)
	if err := w.c.Validate(block, w.Now(w.c)); err == nil || !strings.Contains(err.Error(), "#a.jar is published with other bytes") {
		t.Fatal(err)
	}
	w.pass()
	w.open(append(files(), c))
	w.append(w.votes.Commits())
	w.append(w.votes.Publish()...)
	p, err := w.c.Resolve(files()[0].FileName())
	if err != nil || p.Height != 4 {
		t.Errorf("the name moved to %+v (%v)", p, err)
	}
	if p, err := w.c.Resolve(c.FileName()); err != nil || p.Attempt != w.attempt.ID {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestTag moves a tag by a superseding recipe; the old digest stays.
func TestTag(t *testing.T) {
	w := at(t, "fresh")
	if _, err := w.c.ResolveTag("acme/tool", "1.0"); !errors.Is(err, ledger.ErrNotFound) {
		t.Error(err)
	}
	first := w.PublishImage(t, w.c, image, []byte("m1"), []byte("c"), []byte("l1"))
	second := w.PublishImage(t, w.c, image, []byte("m2"), []byte("c"), []byte("l2"))
	w.PublishImage(t, w.c, "pkg:docker/acme/tool@2.0", []byte("m3"))
	w.PublishImage(t, w.c, "pkg:docker/acme/tool2@3.0", []byte("m4"))
	p, err := w.c.ResolveTag("acme/tool", "1.0")
	if err != nil || p.Attempt != second.ID || p.Subject.Descriptor() != chaintest.Describe([]byte("m2")) {
		t.Errorf("%+v, %v", p, err)
	}
	for _, s := range chaintest.Image(image, []byte("m1"), []byte("c"), []byte("l1")) {
		p, err := w.c.Resolve(s.FileName())
		if err != nil || p.Attempt != first.ID {
			t.Errorf("%s: %+v, %v", s.FileName(), p, err)
		}
	}
	parts, err := w.c.Files(string(p.Subject.URI) + "#")
	if err != nil || len(parts) != 3 {
		t.Errorf("%+v, %v", parts, err)
	}
	tags, err := w.c.Tags("acme/tool")
	if err != nil || !slices.Equal(tags, []string{"1.0", "2.0"}) {
		t.Errorf("%q, %v", tags, err)
	}
	if tags, err := w.c.Tags("acme"); err != nil || len(tags) != 0 {
		t.Errorf("%q, %v", tags, err)
	}
}

// TestManyFiles publishes 2,500 files in one block.
func TestManyFiles(t *testing.T) {
	w := at(t, "fresh")
	w.many(2500)
	certified := w.Append(t, w.c, w.votes.Publish())
	size := certified.Block().Size()
	if size > record.MaxLargeBlock || size < record.MaxMixedBlock {
		t.Errorf("the block has %d bytes", size)
	}
	listed, err := w.c.Files("pkg:docker/acme/tool@sha256:")
	if err != nil || len(listed) != 2500 {
		t.Errorf("%d files, %v", len(listed), err)
	}
	p, err := w.c.Resolve(listed[1234].Subject.FileName())
	if err != nil || p.Votes != 4 {
		t.Errorf("%+v, %v", p, err)
	}
	if w.status() != ledger.StatusPublished {
		t.Error(w.status())
	}
}

func TestTooManyFiles(t *testing.T) {
	w := at(t, "fresh")
	w.many(ledger.MaxFiles + 1)
	block := w.Force(t, w.c, w.votes.Publish()...)
	if err := w.c.Validate(block, w.Now(w.c)); err == nil {
		t.Fatal("taken")
	}
	// Whatever refuses such a block first, the rules do too.
	memory := new(chaintest.Memory)
	err := memory.Update(func(tx ledger.Tx) error {
		rules := ledger.NewRules(tx, w.Network.Network, w.Set, 1, chaintest.Start)
		for i, leaf := range w.votes.Files(0) {
			if err := rules.Apply(int64(i), record.Hash{}, leaf); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "more than 10000 files") {
		t.Error(err)
	}
}

func TestQueries(t *testing.T) {
	w := at(t, "published")
	w.AppendRecipe(t, w.c, chaintest.Recipe(other, "x"))
	recipes, err := w.c.Recipes()
	if err != nil || len(recipes) != 2 || recipes[0].Package != pkg || recipes[1].Package != other {
		t.Errorf("%+v, %v", recipes, err)
	}
	attempts, err := w.c.Attempts()
	if err != nil || len(attempts) != 1 || attempts[0].ID != w.attempt.ID || len(attempts[0].Holders) != 4 {
		t.Errorf("%+v, %v", attempts, err)
	}
	if _, err := w.c.LiveRecipe("pkg:generic/none"); !errors.Is(err, ledger.ErrNotFound) {
		t.Error(err)
	}
	if _, err := w.c.Recipe(record.Hash{}); !errors.Is(err, ledger.ErrNotFound) {
		t.Error(err)
	}
	if _, err := w.c.Attempt(record.Hash{}); !errors.Is(err, ledger.ErrNotFound) {
		t.Error(err)
	}
	if _, err := w.c.Newest(w.recipe, "linux/arm64"); !errors.Is(err, ledger.ErrNotFound) {
		t.Error(err)
	}
}
