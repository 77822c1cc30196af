package input

import (
	"fmt"
	"slices"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// Kinds of lock entries.
const (
	kindMaven  = "maven"
	kindDebian = "debian"
	kindSource = "source"
	kindImage  = "image"
)

// proofs are the proofs that a kind of entry may have. ProofDerived is none of
// them: nothing derived is needed, since a build that asks for a list of
// versions is refused when its lock is made.
var proofs = map[string][]record.ProofKind{
	kindMaven:  {record.ProofUpstream, record.ProofChain},
	kindDebian: {record.ProofInRelease, record.ProofIndex, record.ProofDebian},
	kindSource: {record.ProofSource},
	kindImage:  {record.ProofChain},
}

// CheckLock tells whether a lock has the form that the recipe's locks have:
// all that can be said without getting anything. What it refuses is poisoned.
func CheckLock(recipe *record.Recipe, lock *record.Lock) error {
	if lock.Recipe != recipe.Hash() {
		return fmt.Errorf("lock: it is for recipe %s, not for %s: no vote (%w)", lock.Recipe, recipe.Hash(), ErrPoisoned)
	}
	if len(lock.Entries) > maxEntries {
		return fmt.Errorf("lock: %d files, the limit is %d: no vote (%w)", len(lock.Entries), maxEntries, ErrPoisoned)
	}
	if has, want := len(lock.Builder), builders(recipe); has != want {
		return fmt.Errorf("lock: %d builder images, the recipe needs %d: no vote (%w)", has, want, ErrPoisoned)
	}
	if err := checkEntries(recipe, lock.Entries); err != nil {
		return err
	}
	return checkSources(recipe, lock.Entries)
}

func builders(recipe *record.Recipe) int {
	if recipe.Builder == "" {
		return 0
	}
	return 1
}

func checkEntries(recipe *record.Recipe, entries []record.LockEntry) error {
	total := int64(0)
	for i, e := range entries {
		if i > 0 && !ordered(entries[i-1], e) {
			return poisoned(e.Path, "the lock has it out of order or twice")
		}
		if err := checkEntry(recipe, e); err != nil {
			return err
		}
		total += e.File.Size
		if total > maxTotal {
			return poisoned(e.Path, "with it the lock's files have more than %d bytes", int64(maxTotal))
		}
	}
	return nil
}

func ordered(a, b record.LockEntry) bool {
	if a.Kind != b.Kind {
		return a.Kind < b.Kind
	}
	return a.Path < b.Path
}

func checkEntry(recipe *record.Recipe, e record.LockEntry) error {
	if err := artifact.CheckFile(e.Path); err != nil {
		return fmt.Errorf("lock: %w: no vote (%w)", err, ErrPoisoned)
	}
	if e.File.Size < 0 || e.File.Size > maxFile {
		return poisoned(e.Path, "the lock says it has %d bytes; at most %d are allowed", e.File.Size, int64(maxFile))
	}
	if !slices.Contains(proofs[e.Kind], e.Proof) {
		return poisoned(e.Path, "no file of kind %q is proven by %q", e.Kind, e.Proof)
	}
	if e.Kind == kindMaven && classify(e.Path) != releaseFile {
		return poisoned(e.Path, "%s", whyNot(e.Path))
	}
	if !uses(recipe, e.Kind) {
		return poisoned(e.Path, "the recipe uses no file of kind %q", e.Kind)
	}
	return nil
}

func uses(recipe *record.Recipe, kind string) bool {
	switch kind {
	case kindMaven:
		return recipe.Resolve == "maven"
	case kindDebian:
		return len(recipe.Debian) > 0
	case kindImage:
		return recipe.Builder != ""
	case kindSource:
		return len(recipe.Sources) > 0
	}
	return false
}

// checkSources wants exactly the recipe's sources, each with its digest.
func checkSources(recipe *record.Recipe, entries []record.LockEntry) error {
	want, err := sources(recipe)
	if err != nil {
		return fmt.Errorf("recipe: %w", err)
	}
	for _, e := range entries {
		if e.Kind != kindSource {
			continue
		}
		s, named := want[e.Path]
		if !named {
			return poisoned(e.Path, "the recipe names no such source")
		}
		if s.SHA256 != e.File.SHA256 {
			return poisoned(e.Path, "the lock says sha256 %s, the recipe says %s", e.File.SHA256, s.SHA256)
		}
		delete(want, e.Path)
	}
	for path := range want {
		return poisoned(path, "the recipe's source is missing from the lock")
	}
	return nil
}

// sources are the recipe's sources by their path in a lock. The same archive
// may be unpacked into two folders.
func sources(recipe *record.Recipe) (map[string]record.Source, error) {
	byPath := map[string]record.Source{}
	for _, s := range recipe.Sources {
		path, err := SourcePath(s)
		if err != nil {
			return nil, err
		}
		if other, twice := byPath[path]; twice && other.SHA256 != s.SHA256 {
			return nil, fmt.Errorf("source %s has two digests", path)
		}
		byPath[path] = s
	}
	return byPath, nil
}

// entriesOf are the lock's entries of a kind.
func entriesOf(lock *record.Lock, kind string) []record.LockEntry {
	var found []record.LockEntry
	for _, e := range lock.Entries {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}
