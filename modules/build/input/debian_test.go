package input

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/build/input/debian/debiantest"
	"github.com/pyrsia/appliance/modules/record"
)

const (
	jdkDeb  = "pool/main/o/openjdk/openjdk_21_amd64.deb"
	gameDeb = "pool/main/g/game/game_1_amd64.deb"
)

// newArchive is a signed Debian archive with a JDK and with something that
// nobody needs.
func newArchive(t testing.TB) *debiantest.Archive {
	a := debiantest.New(t)
	a.Add(jdkDeb, "Package: openjdk\nVersion: 21\nArchitecture: amd64\nPre-Depends: dpkg (>= 1.20)\nPriority: optional\n", "the JDK")
	a.Add(gameDeb, "Package: game\nVersion: 1\nArchitecture: amd64\nPriority: optional\n", "a game")
	return a
}

// jdkRecipe is a recipe of an image with the archive's JDK.
func jdkRecipe(a *debiantest.Archive) *record.Recipe {
	return &record.Recipe{
		Package:  "pkg:docker/acme/jdk@21",
		Platform: "linux/amd64",
		Debian: []record.Debian{{
			Suite: "trixie", Components: []string{"main"}, Packages: []string{"openjdk"},
			Keys: []string{strings.Repeat("0", 40), a.Fingerprint()}, BaseOf: []string{"mmdebstrap"}, Variant: "essential",
		}},
		Commands: []string{"mmdebstrap"},
		Images:   []record.Image{{}},
	}
}

func debianWorld(t testing.TB) (*world, *debiantest.Archive, *record.Recipe) {
	w, a := newWorld(t), newArchive(t)
	for path, content := range a.Files(t) {
		w.bothDebian(path, content)
	}
	return w, a, jdkRecipe(a)
}

// TestSecondKeyring: a keyring package that hides the suite's own is refused, unread.
func TestSecondKeyring(t *testing.T) {
	w, _, recipe := debianWorld(t)
	lock := resolve(t, w.asker, recipe, nil)
	hides := "a/debian-archive-keyring_9_all.deb"
	lock.Entries = append(lock.Entries, record.LockEntry{Kind: "debian", Path: hides, Proof: record.ProofDebian, File: w.asker.store.put(t, "!<arch>\n")})
	lock.Sort()
	err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil)
	if !errors.Is(err, ErrPoisoned) || !strings.Contains(err.Error(), hides) {
		t.Errorf("%v, want a refusal that names it", err)
	}
}

func TestDebian(t *testing.T) {
	w, _, recipe := debianWorld(t)
	lock := resolve(t, w.asker, recipe, nil)
	var paths []string
	for _, e := range lock.Entries {
		paths = append(paths, string(e.Proof)+" "+e.Path)
	}
	want := []string{
		"inrelease " + debiantest.InRelease,
		"index " + debiantest.IndexFile,
		"debian pool/main/a/apt/apt_3_amd64.deb",
		"debian " + debiantest.KeyringDeb,
		"debian " + debiantest.DpkgDeb,
		"debian pool/main/m/mmdebstrap/mmdebstrap_1_all.deb",
		"debian " + jdkDeb,
	}
	if got := strings.Join(paths, "\n"); got != strings.Join(want, "\n") {
		t.Fatalf("lock\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	again := resolve(t, w.asker, recipe, nil)
	if !bytes.Equal(record.MustMarshal(lock), record.MustMarshal(again)) {
		t.Error("a second resolve made another lock")
	}
	var last Progress
	if err := w.voter.keeper.Hold(t.Context(), recipe, lock, func(p Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	if last.Files != 7 || last.FilesDone != 7 || last.Bytes != last.BytesDone {
		t.Errorf("progress %+v", last)
	}
	before := w.voter.debian.total()
	if err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil); err != nil {
		t.Fatal(err)
	}
	if n := w.voter.debian.total() - before; n != 0 {
		t.Errorf("%d files were fetched again", n)
	}
}

// moveOn lets the voter's upstream have a newer state of the suite, with newer
// packages and without the old ones.
func moveOn(t testing.TB, w *world, a *debiantest.Archive) {
	for path := range a.Files(t) {
		w.voter.debian.remove(path)
	}
	newer := *a
	newer.Packages = map[string]debiantest.Package{}
	newer.Add("pool/main/d/dpkg/dpkg_2_amd64.deb", "Package: dpkg\nVersion: 2\nArchitecture: amd64\nEssential: yes\n", "newer")
	for path, content := range newer.Files(t) {
		w.voter.debian.set(path, content)
	}
}

func TestDebianAfterTheUpstreamMovedOn(t *testing.T) {
	w, a, recipe := debianWorld(t)
	lock := resolve(t, w.asker, recipe, nil)
	moveOn(t, w, a)
	if err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil); err != nil {
		t.Fatal(err)
	}
	if len(w.voter.peer.asked) != len(lock.Entries) {
		t.Errorf("peers were asked for %d files, want all %d", len(w.voter.peer.asked), len(lock.Entries))
	}
	w, a, recipe = debianWorld(t)
	lock = resolve(t, w.asker, recipe, nil)
	moveOn(t, w, a)
	w.voter.peer.from = nil
	wantUnavailable(t, w.voter.keeper.Hold(t.Context(), recipe, lock, nil), debiantest.InRelease)
}

func TestDebianKeys(t *testing.T) {
	t.Run("from a keyring file", func(t *testing.T) {
		w, a, recipe := debianWorld(t)
		name := filepath.Join(t.TempDir(), "keyring.gpg")
		if err := os.WriteFile(name, a.Keyring(t), 0o600); err != nil {
			t.Fatal(err)
		}
		w.voter.config.Keyrings = []string{"/does/not/exist", name}
		w.voter.open(t)
		recipe.Debian[0].BaseOf = []string{} // the closure has no keyring package now
		w.asker.config.Keyrings = []string{name}
		w.asker.open(t)
		lock := resolve(t, w.asker, recipe, nil)
		if err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("nowhere", func(t *testing.T) {
		w, _, recipe := debianWorld(t)
		recipe.Debian[0].Keys = []string{strings.Repeat("A", 40)}
		_, err := w.asker.keeper.Resolve(t.Context(), recipe, nil, build.Job{Log: io.Discard}, nil)
		wantUnavailable(t, err, debiantest.InRelease)
		if !strings.Contains(err.Error(), strings.Repeat("A", 40)) || !strings.Contains(err.Error(), "debian-archive-keyring") {
			t.Errorf("error %q does not say which key is missing and what to do", err)
		}
	})
}

func TestDebianPoisoned(t *testing.T) {
	for name, c := range map[string]struct {
		alter func(t *testing.T, w *world, a *debiantest.Archive, lock *record.Lock)
		named string
	}{
		"altered .deb upstream": {func(t *testing.T, w *world, _ *debiantest.Archive, _ *record.Lock) {
			w.voter.debian.set(jdkDeb, "an evil JDK")
		}, jdkDeb},
		"altered .deb in the lock": {func(t *testing.T, w *world, _ *debiantest.Archive, l *record.Lock) {
			at(l, jdkDeb).File = w.asker.store.put(t, "an evil JDK")
		}, jdkDeb},
		"a .deb of the index that nothing needs": {func(t *testing.T, w *world, _ *debiantest.Archive, l *record.Lock) {
			l.Entries = append(l.Entries, record.LockEntry{Kind: "debian", Path: gameDeb, Proof: record.ProofDebian, File: describe("a game")})
			l.Sort()
		}, gameDeb},
		"a .deb that no index has": {func(t *testing.T, w *world, _ *debiantest.Archive, l *record.Lock) {
			l.Entries = append(l.Entries, record.LockEntry{Kind: "debian", Path: "pool/evil.deb", Proof: record.ProofDebian, File: w.asker.store.put(t, "evil")})
			l.Sort()
		}, "pool/evil.deb"},
		"a missing .deb": {func(t *testing.T, w *world, _ *debiantest.Archive, l *record.Lock) {
			drop(l, jdkDeb)
		}, jdkDeb},
		"a .deb's made-up BLAKE3": {func(t *testing.T, w *world, _ *debiantest.Archive, l *record.Lock) {
			at(l, jdkDeb).File.BLAKE3[0]++
		}, jdkDeb},
		"altered index upstream": {func(t *testing.T, w *world, a *debiantest.Archive, _ *record.Lock) {
			evil := debiantest.Pack(t, strings.ReplaceAll(a.Index(), "21", "20"))
			for path := range a.Files(t) {
				if strings.Contains(path, "/binary-amd64/") {
					w.voter.debian.set(path, evil)
				}
			}
			w.voter.peer.from = nil
		}, debiantest.IndexFile},
		"altered index in the lock": {func(t *testing.T, w *world, _ *debiantest.Archive, l *record.Lock) {
			at(l, debiantest.IndexFile).File = w.asker.store.put(t, debiantest.Pack(t, "Package: evil\n"))
		}, debiantest.IndexFile},
		"another index": {func(t *testing.T, w *world, _ *debiantest.Archive, l *record.Lock) {
			at(l, debiantest.IndexFile).Path = "dists/trixie/non-free/binary-amd64/Packages.gz"
			l.Sort()
		}, "non-free"},
		"no index":     {func(t *testing.T, w *world, _ *debiantest.Archive, l *record.Lock) { drop(l, debiantest.IndexFile) }, debiantest.IndexFile},
		"no InRelease": {func(t *testing.T, w *world, _ *debiantest.Archive, l *record.Lock) { drop(l, debiantest.InRelease) }, debiantest.InRelease},
		"InRelease of another path": {func(t *testing.T, w *world, _ *debiantest.Archive, l *record.Lock) {
			at(l, debiantest.InRelease).Path = "dists/sid/InRelease"
		}, "dists/sid/InRelease"},
		"altered InRelease": {func(t *testing.T, w *world, a *debiantest.Archive, l *record.Lock) {
			at(l, debiantest.InRelease).File = w.asker.store.put(t, strings.Replace(a.Files(t)[debiantest.InRelease], "stable", "Stable", 1))
		}, debiantest.InRelease},
		"InRelease signed by another key": {func(t *testing.T, w *world, a *debiantest.Archive, l *record.Lock) {
			evil := *a
			evil.Key = debiantest.NewKey(t)
			at(l, debiantest.InRelease).File = w.asker.store.put(t, evil.Files(t)[debiantest.InRelease])
		}, debiantest.InRelease},
		"InRelease with text before it": {func(t *testing.T, w *world, a *debiantest.Archive, l *record.Lock) {
			at(l, debiantest.InRelease).File = w.asker.store.put(t, "Codename: evil\n"+a.Files(t)[debiantest.InRelease])
		}, debiantest.InRelease},
		"InRelease of another suite, well signed": {func(t *testing.T, w *world, a *debiantest.Archive, l *record.Lock) {
			sid := *a
			sid.Codename = "sid"
			at(l, debiantest.InRelease).File = w.asker.store.put(t, sid.Files(t)[debiantest.InRelease])
		}, debiantest.InRelease},
		"InRelease that is none": {func(t *testing.T, w *world, _ *debiantest.Archive, l *record.Lock) {
			at(l, debiantest.InRelease).File = w.asker.store.put(t, "<html>")
		}, debiantest.InRelease},
	} {
		t.Run(name, func(t *testing.T) {
			w, a, recipe := debianWorld(t)
			lock := resolve(t, w.asker, recipe, nil)
			c.alter(t, w, a, lock)
			wantPoisoned(t, w.voter.keeper.Hold(t.Context(), recipe, lock, nil), c.named)
		})
	}
}

// Where only the address of the current index has other bytes, the upstream may
// simply have moved on: nothing is known, and peers are asked.
func TestDebianPlainIndexMoves(t *testing.T) {
	w, a := newWorld(t), newArchive(t)
	a.ByHash = false
	for path, content := range a.Files(t) {
		w.bothDebian(path, content)
	}
	recipe := jdkRecipe(a)
	lock := resolve(t, w.asker, recipe, nil)
	w.voter.debian.set(debiantest.IndexFile, debiantest.Pack(t, "something newer"))
	w.voter.peer.from = nil
	wantUnavailable(t, w.voter.keeper.Hold(t.Context(), recipe, lock, nil), debiantest.IndexFile)
	w.voter.peer.from = w.asker.store
	if err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil); err != nil {
		t.Fatal(err)
	}
}

func TestResolveDebianFaults(t *testing.T) {
	resolving := func(w *world, recipe *record.Recipe) error {
		_, err := w.asker.keeper.Resolve(t.Context(), recipe, nil, build.Job{Log: io.Discard}, nil)
		return err
	}
	w, _, recipe := debianWorld(t)
	w.asker.debian.set(jdkDeb, "an evil JDK")
	wantPoisoned(t, resolving(w, recipe), jdkDeb)
	w, _, recipe = debianWorld(t)
	w.asker.debian.remove(jdkDeb)
	wantUnavailable(t, resolving(w, recipe), jdkDeb)
	w, _, recipe = debianWorld(t)
	w.asker.debian.remove(debiantest.InRelease)
	wantUnavailable(t, resolving(w, recipe), debiantest.InRelease)
	w, _, recipe = debianWorld(t)
	recipe.Debian[0].Packages = []string{"openjkd"}
	if err := resolving(w, recipe); err == nil || !strings.Contains(err.Error(), "openjkd") {
		t.Errorf("error %v does not name the unknown package", err)
	}
	w, _, recipe = debianWorld(t)
	recipe.Platform = "plan9/amd64"
	if err := resolving(w, recipe); err == nil || !strings.Contains(err.Error(), "plan9") {
		t.Errorf("error %v does not name the platform", err)
	}
}

func at(l *record.Lock, path string) *record.LockEntry {
	for i := range l.Entries {
		if l.Entries[i].Path == path {
			return &l.Entries[i]
		}
	}
	panic("no " + path)
}

func drop(l *record.Lock, path string) {
	var kept []record.LockEntry
	for _, e := range l.Entries {
		if e.Path != path {
			kept = append(kept, e)
		}
	}
	l.Entries = kept
}
