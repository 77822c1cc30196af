package input

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/record"
)

const (
	inReleaseFile = "dists/trixie/InRelease"
	indexFile     = "dists/trixie/main/binary-amd64/Packages.gz"
	jdkDeb        = "pool/main/o/openjdk/openjdk_21_amd64.deb"
	dpkgDeb       = "pool/main/d/dpkg/dpkg_1.22_amd64.deb"
	keyringDeb    = "pool/main/d/debian-archive-keyring/debian-archive-keyring_2025.1_all.deb"
	gameDeb       = "pool/main/g/game/game_1_amd64.deb"
)

// testArchive makes a signed Debian archive.
type testArchive struct {
	key    *openpgp.Entity
	suite  string
	byHash bool
	debs   map[string]string // content by path
	stanza map[string]string
}

func newTestArchive(t testing.TB) *testArchive {
	a := &testArchive{key: newKey(t), suite: "trixie", byHash: true, debs: map[string]string{}, stanza: map[string]string{}}
	a.add(dpkgDeb, "Package: dpkg\nVersion: 1.22\nArchitecture: amd64\nEssential: yes\nPriority: required\n", "the package manager")
	a.add(jdkDeb, "Package: openjdk\nVersion: 21\nArchitecture: amd64\nPre-Depends: dpkg (>= 1.20)\nPriority: optional\n", "the JDK")
	a.add("pool/main/a/apt/apt_3_amd64.deb", "Package: apt\nVersion: 3\nArchitecture: amd64\nDepends: debian-archive-keyring\nPriority: important\n", "apt")
	a.add("pool/main/m/mmdebstrap/mmdebstrap_1_all.deb", "Package: mmdebstrap\nVersion: 1\nArchitecture: all\nDepends: apt\nPriority: optional\n", "the bootstrapper")
	a.add(gameDeb, "Package: game\nVersion: 1\nArchitecture: amd64\nPriority: optional\n", "a game")
	a.add(keyringDeb, "Package: debian-archive-keyring\nVersion: 2025.1\nArchitecture: all\nPriority: important\n", keyringPackage(t, a.key))
	return a
}

func newKey(t testing.TB) *openpgp.Entity {
	key, err := openpgp.NewEntity("archive", "", "archive@debian.example", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, DefaultHash: crypto.SHA256})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func fingerprint(key *openpgp.Entity) string {
	return strings.ToUpper(hex.EncodeToString(key.PrimaryKey.Fingerprint))
}

// keyringPackage is a .deb with the key in it.
func keyringPackage(t testing.TB, key *openpgp.Entity) string {
	var ring, data bytes.Buffer
	if err := key.Serialize(&ring); err != nil {
		t.Fatal(err)
	}
	archive := tar.NewWriter(&data)
	err := archive.WriteHeader(&tar.Header{Name: "./usr/share/keyrings/debian-archive-keyring.gpg", Mode: 0o644, Size: int64(ring.Len())})
	if _, werr := archive.Write(ring.Bytes()); err != nil || werr != nil {
		t.Fatal(err, werr)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	deb := "!<arch>\n"
	for _, m := range []struct{ name, content string }{{"debian-binary", "2.0\n"}, {"data.tar", data.String()}} {
		deb += fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.content)) + m.content
		if len(m.content)%2 == 1 {
			deb += "\n"
		}
	}
	return deb
}

func (a *testArchive) add(path, stanza, content string) {
	a.debs[path] = content
	a.stanza[path] = stanza + fmt.Sprintf("Filename: %s\nSize: %d\nSHA256: %s\n", path, len(content), digestOf(content))
}

func (a *testArchive) packages() string {
	var paragraphs []string
	for _, s := range a.stanza {
		paragraphs = append(paragraphs, s)
	}
	slices.Sort(paragraphs)
	return strings.Join(paragraphs, "\n")
}

func pack(t testing.TB, s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (a *testArchive) sign(t testing.TB, release string) string {
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, a.key.PrivateKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, release); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String() + "\n"
}

// files are the archive as an upstream serves it.
func (a *testArchive) files(t testing.TB) map[string]string {
	plain := a.packages()
	packed := pack(t, plain)
	release := fmt.Sprintf("Suite: stable\nCodename: %s\nDate: Sat, 21 Nov 2026 09:15:44 UTC\nValid-Until: Sat, 28 Nov 2020 09:15:44 UTC\n", a.suite)
	if a.byHash {
		release += "Acquire-By-Hash: yes\n"
	}
	release += fmt.Sprintf("SHA256:\n %s %d main/binary-amd64/Packages\n %s %d main/binary-amd64/Packages.gz\n",
		digestOf(plain), len(plain), digestOf(packed), len(packed))
	files := map[string]string{inReleaseFile: a.sign(t, release), indexFile: packed}
	if a.byHash {
		files["dists/trixie/main/binary-amd64/by-hash/SHA256/"+digestOf(packed).String()] = packed
	}
	for path, content := range a.debs {
		files[path] = content
	}
	return files
}

func (a *testArchive) recipe() *record.Recipe {
	return &record.Recipe{
		Package:  "pkg:docker/acme/jdk@21",
		Platform: "linux/amd64",
		Debian: []record.Debian{{
			Suite: "trixie", Components: []string{"main"}, Packages: []string{"openjdk"},
			Keys: []string{strings.Repeat("0", 40), fingerprint(a.key)}, BaseOf: []string{"mmdebstrap"}, Variant: "essential",
		}},
		Commands: []string{"mmdebstrap"},
		Images:   []record.Image{{}},
	}
}

func debianWorld(t testing.TB) (*world, *testArchive, *record.Recipe) {
	w, a := newWorld(t), newTestArchive(t)
	for path, content := range a.files(t) {
		w.bothDebian(path, content)
	}
	return w, a, a.recipe()
}

func TestDebian(t *testing.T) {
	w, _, recipe := debianWorld(t)
	lock := resolve(t, w.asker, recipe, nil)
	var paths []string
	for _, e := range lock.Entries {
		paths = append(paths, string(e.Proof)+" "+e.Path)
	}
	want := []string{
		"inrelease " + inReleaseFile,
		"index " + indexFile,
		"debian pool/main/a/apt/apt_3_amd64.deb",
		"debian " + keyringDeb,
		"debian " + dpkgDeb,
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
func moveOn(t testing.TB, w *world, a *testArchive) {
	for path := range a.files(t) {
		w.voter.debian.remove(path)
	}
	newer := *a
	newer.debs, newer.stanza = map[string]string{}, map[string]string{}
	newer.add("pool/main/d/dpkg/dpkg_2_amd64.deb", "Package: dpkg\nVersion: 2\nArchitecture: amd64\nEssential: yes\n", "newer")
	for path, content := range newer.files(t) {
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
	wantUnavailable(t, w.voter.keeper.Hold(t.Context(), recipe, lock, nil), inReleaseFile)
}

func TestDebianKeys(t *testing.T) {
	t.Run("from a keyring file", func(t *testing.T) {
		w, a, recipe := debianWorld(t)
		var ring bytes.Buffer
		if err := a.key.Serialize(&ring); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(t.TempDir(), "keyring.gpg")
		if err := os.WriteFile(name, ring.Bytes(), 0o600); err != nil {
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
		wantUnavailable(t, err, inReleaseFile)
		if !strings.Contains(err.Error(), strings.Repeat("A", 40)) || !strings.Contains(err.Error(), "debian-archive-keyring") {
			t.Errorf("error %q does not say which key is missing and what to do", err)
		}
	})
}

func TestDebianPoisoned(t *testing.T) {
	for name, c := range map[string]struct {
		alter func(t *testing.T, w *world, a *testArchive, lock *record.Lock)
		named string
	}{
		"altered .deb upstream": {func(t *testing.T, w *world, _ *testArchive, _ *record.Lock) {
			w.voter.debian.set(jdkDeb, "an evil JDK")
		}, jdkDeb},
		"altered .deb in the lock": {func(t *testing.T, w *world, _ *testArchive, l *record.Lock) {
			at(l, jdkDeb).File = w.asker.store.put(t, "an evil JDK")
		}, jdkDeb},
		"a .deb of the index that nothing needs": {func(t *testing.T, w *world, _ *testArchive, l *record.Lock) {
			l.Entries = append(l.Entries, record.LockEntry{Kind: "debian", Path: gameDeb, Proof: record.ProofDebian, File: describe("a game")})
			l.Sort()
		}, gameDeb},
		"a .deb that no index has": {func(t *testing.T, w *world, _ *testArchive, l *record.Lock) {
			l.Entries = append(l.Entries, record.LockEntry{Kind: "debian", Path: "pool/evil.deb", Proof: record.ProofDebian, File: w.asker.store.put(t, "evil")})
			l.Sort()
		}, "pool/evil.deb"},
		"a missing .deb": {func(t *testing.T, w *world, _ *testArchive, l *record.Lock) {
			drop(l, jdkDeb)
		}, jdkDeb},
		"a .deb's made-up BLAKE3": {func(t *testing.T, w *world, _ *testArchive, l *record.Lock) {
			at(l, jdkDeb).File.BLAKE3[0]++
		}, jdkDeb},
		"altered index upstream": {func(t *testing.T, w *world, a *testArchive, _ *record.Lock) {
			evil := pack(t, strings.ReplaceAll(a.packages(), "21", "20"))
			for path := range a.files(t) {
				if strings.Contains(path, "/binary-amd64/") {
					w.voter.debian.set(path, evil)
				}
			}
			w.voter.peer.from = nil
		}, indexFile},
		"altered index in the lock": {func(t *testing.T, w *world, _ *testArchive, l *record.Lock) {
			at(l, indexFile).File = w.asker.store.put(t, pack(t, "Package: evil\n"))
		}, indexFile},
		"another index": {func(t *testing.T, w *world, _ *testArchive, l *record.Lock) {
			at(l, indexFile).Path = "dists/trixie/non-free/binary-amd64/Packages.gz"
			l.Sort()
		}, "non-free"},
		"no index":     {func(t *testing.T, w *world, _ *testArchive, l *record.Lock) { drop(l, indexFile) }, indexFile},
		"no InRelease": {func(t *testing.T, w *world, _ *testArchive, l *record.Lock) { drop(l, inReleaseFile) }, inReleaseFile},
		"InRelease of another path": {func(t *testing.T, w *world, _ *testArchive, l *record.Lock) {
			at(l, inReleaseFile).Path = "dists/sid/InRelease"
		}, "dists/sid/InRelease"},
		"altered InRelease": {func(t *testing.T, w *world, a *testArchive, l *record.Lock) {
			at(l, inReleaseFile).File = w.asker.store.put(t, strings.Replace(a.files(t)[inReleaseFile], "stable", "Stable", 1))
		}, inReleaseFile},
		"InRelease signed by another key": {func(t *testing.T, w *world, a *testArchive, l *record.Lock) {
			evil := *a
			evil.key = newKey(t)
			at(l, inReleaseFile).File = w.asker.store.put(t, evil.files(t)[inReleaseFile])
		}, inReleaseFile},
		"InRelease with text before it": {func(t *testing.T, w *world, a *testArchive, l *record.Lock) {
			at(l, inReleaseFile).File = w.asker.store.put(t, "Codename: evil\n"+a.files(t)[inReleaseFile])
		}, inReleaseFile},
		"InRelease of another suite, well signed": {func(t *testing.T, w *world, a *testArchive, l *record.Lock) {
			sid := *a
			sid.suite = "sid"
			at(l, inReleaseFile).File = w.asker.store.put(t, sid.files(t)[inReleaseFile])
		}, inReleaseFile},
		"InRelease that is none": {func(t *testing.T, w *world, _ *testArchive, l *record.Lock) {
			at(l, inReleaseFile).File = w.asker.store.put(t, "<html>")
		}, inReleaseFile},
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
	w, a := newWorld(t), newTestArchive(t)
	a.byHash = false
	for path, content := range a.files(t) {
		w.bothDebian(path, content)
	}
	recipe := a.recipe()
	lock := resolve(t, w.asker, recipe, nil)
	w.voter.debian.set(indexFile, pack(t, "something newer"))
	w.voter.peer.from = nil
	wantUnavailable(t, w.voter.keeper.Hold(t.Context(), recipe, lock, nil), indexFile)
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
	w.asker.debian.remove(inReleaseFile)
	wantUnavailable(t, resolving(w, recipe), inReleaseFile)
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
