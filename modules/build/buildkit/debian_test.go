package buildkit

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lukechampine.com/blake3"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// shelf is a Job.Open over files in memory.
type shelf map[artifact.SHA256][]byte

func (s shelf) put(data []byte) artifact.Descriptor {
	d := artifact.Descriptor{SHA256: sha256.Sum256(data), BLAKE3: blake3.Sum256(data), Size: int64(len(data))}
	s[d.SHA256] = data
	return d
}

func (s shelf) open(t testing.TB) func(artifact.SHA256) (*os.File, error) {
	folder := t.TempDir()
	return func(d artifact.SHA256) (*os.File, error) {
		data, ok := s[d]
		if !ok {
			return nil, os.ErrNotExist
		}
		name := filepath.Join(folder, d.String())
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return nil, err
		}
		return os.Open(name)
	}
}

func arMember(name string, data []byte) []byte {
	header := fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, 0, 0, 0, "100644", len(data))
	if len(data)%2 == 1 {
		data = append(data[:len(data):len(data)], '\n')
	}
	return append([]byte(header), data...)
}

func makeDeb(t testing.TB, ending string, members ...member) []byte {
	t.Helper()
	data := []byte(arMagic)
	data = append(data, arMember("debian-binary", []byte("2.0\n"))...)
	data = append(data, arMember("control.tar.xz", []byte("odd"))...)
	return append(data, arMember("data.tar"+ending, compressed(t, ending, makeTar(t, members)))...)
}

func TestDeb(t *testing.T) {
	base := []member{
		{name: "./", kind: tar.TypeDir, mode: 0o755},
		{name: "./tmp/", kind: tar.TypeDir, mode: 0o1777},
		{name: "./usr/bin/", kind: tar.TypeDir, mode: 0o755},
		{name: "./bin", target: "usr/bin", kind: tar.TypeSymlink, mode: 0o777},
	}
	more := []member{
		{name: "./bin/", kind: tar.TypeDir, mode: 0o755},
		{name: "./bin/su", content: "su", kind: tar.TypeReg, mode: 0o4755},
		{name: "./usr/bin/also", target: "./bin/su", kind: tar.TypeLink},
		{name: "./etc/alternatives/awk", target: "/usr/bin/mawk", kind: tar.TypeSymlink, mode: 0o777},
	}
	want := strings.Join([]string{
		"5 tmp/ 1777 1000:1000 7", "5 usr/ 755 0:0 7", "5 usr/bin/ 755 1000:1000 7", "2 bin 777 1000:1000 7 usr/bin",
		"0 usr/bin/su 4755 1000:1000 7 su", "1 usr/bin/also 4755 1000:1000 7 usr/bin/su",
		"5 etc/ 755 0:0 7", "5 etc/alternatives/ 755 0:0 7", "2 etc/alternatives/awk 777 1000:1000 7 /usr/bin/mawk",
	}, "\n")
	for _, ending := range []string{"", ".gz", ".xz", ".zst"} {
		aliases := map[string]string{}
		b, err := packLayer(t.Context(), t.TempDir(), 7, func(l *layerWriter) error {
			// The third package replaces a file of the second: the first one stays.
			return errors.Join(
				l.deb(write(t, makeDeb(t, ending, base...)), aliases),
				l.deb(write(t, makeDeb(t, ending, more...)), aliases),
				l.deb(write(t, makeDeb(t, ending, member{name: "./usr/bin/su", content: "other", kind: tar.TypeReg})), aliases))
		})
		if err != nil {
			t.Errorf("data.tar%s: %v", ending, err)
			continue
		}
		if got := strings.Join(entries(t, b), "\n"); got != want {
			t.Errorf("data.tar%s unpacks as\n%s\nwant\n%s", ending, got, want)
		}
	}
}

func TestDebRefuses(t *testing.T) {
	good := makeDeb(t, ".xz", member{name: "./a", content: "a", kind: tar.TypeReg})
	huge := append([]byte(arMagic), fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10s`\n", "control.tar", 0, 0, 0, "0", "9999999999")...)
	for name, data := range map[string][]byte{
		"empty": nil, "no archive": []byte("!<arch>?"), "cut": good[:100], "cut in the data": good[:len(good)-100],
		"no data":         append([]byte(arMagic), arMember("debian-binary", []byte("2.0\n"))...),
		"wrong end mark":  bytes.Replace(good, []byte("`\n"), []byte("``"), 1),
		"huge member":     huge,
		"negative member": bytes.Replace(huge, []byte("9999999999"), []byte("-1        "), 1),
		"other data":      append([]byte(arMagic), arMember("data.tar.lz4", []byte("x"))...),
		"above":           makeDeb(t, ".xz", member{name: "./../x", content: "x", kind: tar.TypeReg}),
		"device":          makeDeb(t, ".xz", member{name: "./x", kind: tar.TypeBlock}),
		"through a link":  makeDeb(t, ".xz", member{name: "./d/x", target: "/etc", kind: tar.TypeSymlink}, member{name: "./d/x/passwd", content: "x", kind: tar.TypeReg}),
	} {
		_, err := packLayer(t.Context(), t.TempDir(), 0, func(l *layerWriter) error { return l.deb(write(t, data), map[string]string{}) })
		if !errors.Is(err, errInput) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}

func FuzzDeb(f *testing.F) {
	f.Add(makeDeb(f, ".xz", member{name: "./a", content: "a", kind: tar.TypeReg}))
	f.Add(makeDeb(f, "", member{name: "./bin", target: "usr/bin", kind: tar.TypeSymlink}, member{name: "./bin/a", content: "a", kind: tar.TypeReg}))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := packLayer(t.Context(), t.TempDir(), 0, func(l *layerWriter) error { return l.deb(write(t, data), map[string]string{}) })
		if err != nil && !errors.Is(err, errInput) {
			t.Fatalf("an input's fault looks like ours: %v", err)
		}
	})
}

// lockedArchive is a small Debian archive and the lock of it.
func lockedArchive(t testing.TB, s shelf) *record.Lock {
	lock := &record.Lock{}
	var index bytes.Buffer
	for _, p := range []struct{ name, fields string }{
		{"apt", "Depends: libapt (>= 1:2.0~a), awk | perl:any\nPre-Depends: base (= 1)\n"},
		{"base", "Essential: yes\nDescription: base\n with a second line\n"},
		{"jdk", "Depends: libapt\n"},
		{"libapt", ""},
		{"mawk", "Provides: awk (= 1), other\n"},
		{"unlocked", "Essential: yes\n"},
	} {
		deb := s.put(makeDeb(t, ".xz", member{name: "./usr/share/" + p.name, content: p.name, kind: tar.TypeReg, mode: 0o644}))
		file := "pool/main/" + p.name + "_1_amd64.deb"
		fmt.Fprintf(&index, "Package: %s\n%sFilename: %s\nSize: %d\nSHA256: %s\n\n", p.name, p.fields, file, deb.Size, deb.SHA256)
		if p.name != "unlocked" {
			lock.Entries = append(lock.Entries, record.LockEntry{Kind: "debian", Path: file, File: deb})
		}
	}
	packed := s.put(compressed(t, ".xz", index.Bytes()))
	lock.Entries = append(lock.Entries,
		record.LockEntry{Kind: "debian", Path: "dists/trixie/InRelease", File: s.put([]byte("signed"))},
		record.LockEntry{Kind: "debian", Path: "dists/trixie/main/binary-amd64/Packages.xz", File: packed},
		record.LockEntry{Kind: "source", Path: "x.deb"})
	lock.Sort()
	return lock
}

func TestDebianSet(t *testing.T) {
	s := shelf{}
	lock := lockedArchive(t, s)
	set, err := readDebian(record.Debian{Suite: "trixie"}, lock, s.open(t))
	if err != nil {
		t.Fatal(err)
	}
	names := func(packages []*stanza) string {
		var n []string
		for _, p := range packages {
			n = append(n, p.name)
		}
		return strings.Join(n, " ")
	}
	if got := names(set.packages); got != "apt base jdk libapt mawk" {
		t.Errorf("packages %q", got)
	}
	bootstrap, err := set.closure([]string{"apt"})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(bootstrap); got != "apt base libapt mawk" {
		t.Errorf("closure %q", got)
	}
	if _, err := set.closure([]string{"mmdebstrap"}); !errors.Is(err, errInput) || !strings.Contains(err.Error(), "mmdebstrap") {
		t.Errorf("a bootstrap package that is not locked: %v", err)
	}
	repository, err := packLayer(t.Context(), t.TempDir(), 1_700_000_000, func(l *layerWriter) error { return set.repository(l, 1_700_000_000, s.open(t)) })
	if err != nil {
		t.Fatal(err)
	}
	listing := strings.Join(entries(t, repository), "\n")
	for _, want := range []string{
		"Codename: trixie\nDate: Tue, 14 Nov 2023 22:13:20 UTC\nArchitectures: amd64\nComponents: main\nSHA256:\n ",
		"Package: apt\nDepends", "\n\nPackage: base\nEssential: yes\nDescription: base\n with a second line\n", "deb [trusted=yes] file:/mnt trixie main",
		"pool/main/jdk_1_amd64.deb",
	} {
		if !strings.Contains(listing, want) {
			t.Errorf("the repository has no %q", want)
		}
	}
	if strings.Contains(listing, "unlocked") {
		t.Error("the repository names a package that is not locked")
	}
	root, err := packLayer(t.Context(), t.TempDir(), 7, func(l *layerWriter) error { return l.stage0(bootstrap, s.open(t)) })
	if err != nil {
		t.Fatal(err)
	}
	if first := entries(t, root); !strings.Contains(strings.Join(first, "\n"), "usr/share/mawk") || strings.Contains(strings.Join(first, "\n"), "usr/share/jdk") {
		t.Errorf("stage 0 is\n%s", strings.Join(first, "\n"))
	}
}

func TestDebianRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(shelf, *record.Lock)
		want   string
	}{
		{"altered package", func(s shelf, l *record.Lock) {
			for i := range l.Entries {
				if strings.HasSuffix(l.Entries[i].Path, "jdk_1_amd64.deb") {
					l.Entries[i].File = s.put([]byte("altered"))
				}
			}
		}, "the index says"},
		{"package that no index names", func(s shelf, l *record.Lock) {
			l.Entries = append(l.Entries, record.LockEntry{Kind: "debian", Path: "pool/evil.deb", File: s.put(nil)})
		}, "no locked Packages index names it"},
		{"broken index", func(s shelf, l *record.Lock) { setIndex(l, s.put([]byte("no xz"))) }, "Packages.xz"},
		{"endless paragraph", func(s shelf, l *record.Lock) {
			setIndex(l, s.put(compressed(t, ".xz", bytes.Repeat([]byte("x"), maxStanzaBytes+1))))
		}, "larger than"},
		{"no digest", func(s shelf, l *record.Lock) {
			setIndex(l, s.put(compressed(t, ".xz", []byte("Package: jdk\nFilename: pool/main/jdk_1_amd64.deb\n"))))
		}, "jdk"},
	} {
		s := shelf{}
		lock := lockedArchive(t, s)
		test.change(s, lock)
		lock.Sort()
		_, err := readDebian(record.Debian{Suite: "trixie"}, lock, s.open(t))
		if !errors.Is(err, errInput) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want a refusal with %q", test.name, err, test.want)
		}
	}
}

func setIndex(l *record.Lock, d artifact.Descriptor) {
	for i := range l.Entries {
		if strings.HasSuffix(l.Entries[i].Path, "Packages.xz") {
			l.Entries[i].File = d
		}
	}
}

func TestRelations(t *testing.T) {
	got := strings.Join(relations("libc6 (>= 2.38), default-jre-headless | java8-runtime-headless, perl:any , python3-minimal(= 3)"), " ")
	if want := "libc6 default-jre-headless java8-runtime-headless perl python3-minimal"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
