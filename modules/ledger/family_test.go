package ledger_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/record"
)

// TestFamilyNames: a star stands at the end of a word, once.
func TestFamilyNames(t *testing.T) {
	for file, want := range map[string]string{
		"a-*": "", "a.*": "", "a_*": "", "a/*": "", "thing-1.0-*": "",
		"a*": "a star stands", "*": "a star stands", "*-a": "a star stands", "a-*b": "a star stands", "a-**": "a star stands", "a-*-*": "a star stands",
	} {
		w := at(t, "fresh")
		err := w.c.Validate(w.Force(t, w.c, w.Endorse(w.c, w.change(pkg, file))), w.Now(w.c))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", file, err, want)
		}
	}
}

// TestFamilyOverlap: no name of a recipe is held by a family of the same recipe.
// A file of both could be published as either, and nodes that choose differently
// would take different blocks.
func TestFamilyOverlap(t *testing.T) {
	for _, test := range []struct {
		files []string // sorted
		want  string
	}{
		{[]string{"a-*", "a-b.jar"}, "a-b.jar and the family " + string(pkg) + "#a-*"},
		{[]string{"a-*", "a-b-*"}, "a-b-* and the family " + string(pkg) + "#a-*"},
		{[]string{"a-!", "a-*"}, "a-! and the family " + string(pkg) + "#a-*"},
		{[]string{"a-", "a-*"}, "a- and the family " + string(pkg) + "#a-*"},
		{[]string{"a-*", "a-1.pom", "a.jar"}, "a-1.pom and the family " + string(pkg) + "#a-*"},
		{[]string{"a-*", "a.*"}, ""},
		{[]string{"a", "a-*", "a.jar", "ab-*"}, ""},
	} {
		w := at(t, "fresh")
		change := w.change(pkg, test.files...)
		err := w.c.Validate(w.Force(t, w.c, w.Endorse(w.c, change)), w.Now(w.c))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want %q", test.files, err, test.want)
		}
	}
}

// TestFamilyOwners: of two recipes neither may take a name that the other's
// family has, in whatever order they come.
func TestFamilyOwners(t *testing.T) {
	for _, test := range []struct {
		first, second string
		free          bool
	}{
		{"a-1-*", "a-1-x.jar", false}, {"a-1-*", "a-1-", false}, {"a-1-*", "a-1-x-*", false}, {"a-1-*", "a-*", false},
		{"a-1-*", "a-1.*", true}, {"a-1-*", "a-2-x", true}, {"a-1-*", "a-1", true}, {"a-1-*", "a-10-*", true}, {"a.b-*", "a.c", true}, {"x", "y-*", true},
	} {
		for _, pair := range [][2]string{{test.first, test.second}, {test.second, test.first}} {
			w := at(t, "fresh")
			w.append(w.Endorse(w.c, w.change(pkg, pair[0])))
			change := w.change(other, "x")
			change.Files[0] = artifact.Name{Package: pkg, File: pair[1]}
			err := w.c.Validate(w.Force(t, w.c, w.Endorse(w.c, change)), w.Now(w.c))
			if (err == nil) != test.free {
				t.Errorf("%q, then %q: %v", pair[0], pair[1], err)
			}
			if !test.free {
				// What the first gives up is free.
				w.append(w.superseding(w.change(pkg, pair[0]).RecipeHash().String(), "zzz"))
				if err := w.c.Validate(w.Force(t, w.c, w.Endorse(w.c, change)), w.Now(w.c)); err != nil {
					t.Errorf("%q, given up, then %q: %v", pair[0], pair[1], err)
				}
			}
		}
	}
}

// TestFamilyPublication: a family of 2,500 files is published, each under its own
// name; names beside it are not, and it is not empty.
func TestFamilyPublication(t *testing.T) {
	w := at(t, "fresh")
	w.recipe = w.AppendRecipe(t, w.c, chaintest.Recipe(pkg, "a-1-*", "a-1.pom"))
	var files []record.Subject
	for i := range 2500 {
		files = append(files, chaintest.File(pkg, fmt.Sprintf("a-1-part%04d.jar", i), fmt.Appendf(nil, "part %d", i)))
	}
	pom := chaintest.File(pkg, "a-1.pom", []byte("pom"))
	for name, subjects := range map[string][]record.Subject{
		"is missing":                      {pom},
		"does not publish":                {files[0], pom, chaintest.File(pkg, "a-2-x.jar", []byte("x"))},
		"a-1.pom is missing":              {files[0]},
		"a-1-* is missing":                {pom},
		"the recipe does not publish pkg": {files[0], pom, chaintest.File(pkg, "a-1-*", []byte("x"))},
	} {
		w := at(t, "fresh")
		w.recipe = w.AppendRecipe(t, w.c, chaintest.Recipe(pkg, "a-1-*", "a-1.pom"))
		w.open(subjects)
		w.append(w.votes.Commits())
		if err := w.c.Validate(w.Force(t, w.c, w.votes.Publish()...), w.Now(w.c)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %q", err, name)
		}
	}
	w.open(append(files, pom))
	w.append(w.votes.Commits())
	w.Append(t, w.c, w.votes.Publish())
	entries, err := w.c.Files(string(pkg) + "#")
	if err != nil || len(entries) != 2501 {
		t.Fatalf("%d files are published, %v", len(entries), err)
	}
	p, err := w.c.Resolve(files[1234].FileName())
	if err != nil || p.Subject.Descriptor() != files[1234].Descriptor() {
		t.Errorf("%+v, %v", p, err)
	}
	bundle, err := w.c.Prove(p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := record.VerifyBundle(bundle, w.Network.Network.Genesis, files[1234].Descriptor()); err != nil {
		t.Error(err)
	}
}
