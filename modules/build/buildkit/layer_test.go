package buildkit

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// entries are a layer read back: one line for each member.
func entries(t testing.TB, b blob) []string {
	t.Helper()
	file, err := b.read()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var lines []string
	archive := tar.NewReader(file)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%c %s %o %d:%d %d %s%s", h.Typeflag, h.Name, h.Mode, h.Uid, h.Gid, h.ModTime.Unix(), h.Linkname, data)))
	}
}

func write(t testing.TB, data []byte) *os.File {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "input"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	if _, err := file.Write(data); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestLayerGolden holds a layer's bytes: every node must make these, whatever
// its version of Go.
func TestLayerGolden(t *testing.T) {
	b, err := packLayer(t.Context(), t.TempDir(), 1_700_000_000, func(l *layerWriter) error {
		return errors.Join(
			l.text("etc/hello", "hello\n"),
			l.regular("bin/run", 0o4755, 0, 42, 2, strings.NewReader("#!")),
			l.hardlink("bin/also", "bin/run"),
			l.symlink("sbin", "bin", 0, 0),
			l.text("var/"+strings.Repeat("long", 40)+"/ünïcode", ""),
			l.folder("etc", 0o700, 9, 9), // there already
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := b.descriptor.Digest.Encoded(), "3919d3ff29047853e2ae9cb3cb66b0ccc971777195ebc27cad23567e0d514371"; got != want {
		t.Errorf("digest %s, want %s\n%s", got, want, strings.Join(entries(t, b), "\n"))
	}
	got := entries(t, b)
	want := []string{
		"5 etc/ 755 0:0 1700000000", "0 etc/hello 644 0:0 1700000000 hello",
		"5 bin/ 755 0:0 1700000000", "0 bin/run 4755 0:42 1700000000 #!", "1 bin/also 4755 0:42 1700000000 bin/run",
		"2 sbin 777 0:0 1700000000 bin",
	}
	for i, line := range want {
		if got[i] != line {
			t.Errorf("entry %d is %q, want %q", i, got[i], line)
		}
	}
}

func TestLayerRefuses(t *testing.T) {
	for _, test := range []struct {
		name string
		fill func(*layerWriter) error
	}{
		{"absolute", func(l *layerWriter) error { return l.text("/etc/passwd", "") }},
		{"above", func(l *layerWriter) error { return l.text("a/../../b", "") }},
		{"empty", func(l *layerWriter) error { return l.text("", "") }},
		{"not clean", func(l *layerWriter) error { return l.text("a//b", "") }},
		{"control character", func(l *layerWriter) error { return l.text("a\nb", "") }},
		{"twice", func(l *layerWriter) error { return errors.Join(l.text("a", ""), l.text("a", "")) }},
		{"through a link", func(l *layerWriter) error { return errors.Join(l.symlink("a", "/etc", 0, 0), l.text("a/b", "")) }},
		{"through a file", func(l *layerWriter) error { return errors.Join(l.text("a", ""), l.text("a/b", "")) }},
		{"folder over a file", func(l *layerWriter) error { return errors.Join(l.text("a", ""), l.folder("a", 0o755, 0, 0)) }},
		{"file over a folder", func(l *layerWriter) error { return errors.Join(l.text("a/b", ""), l.text("a", "")) }},
		{"short", func(l *layerWriter) error { return l.regular("a", 0o644, 0, 0, 3, strings.NewReader("ab")) }},
		{"negative", func(l *layerWriter) error { return l.regular("a", 0o644, 0, 0, -1, strings.NewReader("")) }},
		{"huge", func(l *layerWriter) error { return l.regular("a", 0o644, 0, 0, maxLayerBytes+1, strings.NewReader("")) }},
		{"link to nothing", func(l *layerWriter) error { return l.hardlink("a", "b") }},
		{"link to a link", func(l *layerWriter) error { return errors.Join(l.symlink("b", "/x", 0, 0), l.hardlink("a", "b")) }},
		{"empty target", func(l *layerWriter) error { return l.symlink("a", "", 0, 0) }},
		{"long target", func(l *layerWriter) error { return l.symlink("a", strings.Repeat("x", maxLinkLength+1), 0, 0) }},
	} {
		folder := t.TempDir()
		_, err := packLayer(t.Context(), folder, 0, test.fill)
		if !errors.Is(err, errInput) {
			t.Errorf("%s: %v, want a refusal", test.name, err)
		}
		if left, _ := os.ReadDir(folder); len(left) != 0 {
			t.Errorf("%s: %d files are left behind", test.name, len(left))
		}
	}
}

// member is one entry of an archive to make.
type member struct {
	name, content, target string
	kind                  byte
	mode                  int64
}

func makeTar(t testing.TB, members []member) []byte {
	t.Helper()
	var b bytes.Buffer
	archive := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Typeflag: m.kind, Name: m.name, Linkname: m.target, Mode: m.mode, Uid: 1000, Gid: 1000, Size: int64(len(m.content))}
		if err := archive.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(m.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func makeZip(t testing.TB, members []member) []byte {
	t.Helper()
	var b bytes.Buffer
	archive := zip.NewWriter(&b)
	for _, m := range members {
		h := &zip.FileHeader{Name: m.name, Method: zip.Deflate}
		mode, content := os.FileMode(m.mode), m.content
		if m.kind == tar.TypeSymlink {
			mode, content = mode|os.ModeSymlink, m.target
		}
		h.SetMode(mode)
		w, err := archive.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func compressed(t testing.TB, ending string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch ending {
	case ".gz":
		w = gzip.NewWriter(&b)
	case ".xz":
		w, err = xz.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b)
	default:
		return data
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestUnpack(t *testing.T) {
	members := []member{
		{name: "p-1/", kind: tar.TypeDir, mode: 0o777},
		{name: "p-1/run.sh", content: "#!/bin/sh\n", kind: tar.TypeReg, mode: 0o6700},
		{name: "p-1/src/a.txt", content: "a", kind: tar.TypeReg, mode: 0o600},
		{name: "p-1/src/link", target: "../run.sh", kind: tar.TypeSymlink, mode: 0o777},
	}
	want := []string{
		"5 work/ 755 0:0 5", "0 work/run.sh 755 0:0 5 #!/bin/sh",
		"5 work/src/ 755 0:0 5", "0 work/src/a.txt 644 0:0 5 a", "2 work/src/link 777 0:0 5 ../run.sh",
	}
	archives := map[string][]byte{"p.zip": makeZip(t, members)}
	for _, ending := range []string{"", ".gz", ".xz", ".zst"} {
		archives["p.tar"+ending] = compressed(t, ending, makeTar(t, members))
	}
	for name, data := range archives {
		b, err := packLayer(t.Context(), t.TempDir(), 5, func(l *layerWriter) error {
			return l.unpack(write(t, data), name, unpacking{into: "work", strip: 1, umask: 0o022})
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := entries(t, b); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s unpacks as\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

func TestUnpackRefuses(t *testing.T) {
	file := func(name string) member { return member{name: name, content: "x", kind: tar.TypeReg, mode: 0o644} }
	link := func(name, target string) member {
		return member{name: name, target: target, kind: tar.TypeSymlink, mode: 0o777}
	}
	for _, test := range []struct {
		name    string
		members []member
		zipToo  bool
	}{
		{"above", []member{file("../x")}, true},
		{"above in the middle", []member{file("p/../../x")}, true},
		{"absolute", []member{file("/etc/passwd")}, true},
		{"backslash", []member{file(`p\..\..\x`)}, true},
		{"twice", []member{file("p/x"), file("p/x")}, true},
		{"twice by another name", []member{file("p/x"), file("./p/x")}, true},
		{"link outside", []member{link("p/x", "../../etc")}, true},
		{"absolute link", []member{link("p/x", "/etc/passwd")}, true},
		{"through a link", []member{link("p/x", "."), file("p/x/y")}, true},
		{"nothing", nil, true},
		{"only folders", []member{{name: "p/", kind: tar.TypeDir, mode: 0o755}}, true},
		{"device", []member{{name: "p/x", kind: tar.TypeChar, mode: 0o644}}, false},
		{"pipe", []member{{name: "p/x", kind: tar.TypeFifo, mode: 0o644}}, false},
		{"hard link outside", []member{{name: "p/x", target: "../etc/passwd", kind: tar.TypeLink}}, false},
		{"hard link to nothing", []member{{name: "p/x", target: "p/y", kind: tar.TypeLink}}, false},
	} {
		archives := map[string][]byte{"p.tar": makeTar(t, test.members)}
		if test.zipToo {
			archives["p.zip"] = makeZip(t, test.members)
		}
		for name, data := range archives {
			_, err := packLayer(t.Context(), t.TempDir(), 0, func(l *layerWriter) error {
				return l.unpack(write(t, data), name, unpacking{into: "work", umask: 0o022})
			})
			if !errors.Is(err, errInput) {
				t.Errorf("%s, %s: %v, want a refusal", test.name, name, err)
			}
		}
	}
	good := makeTar(t, []member{file("p/x")})
	for name, data := range map[string][]byte{
		"p.zip": good, "p.tar.gz": good, "p.tar.xz": good, "p.tar.zst": good, "p.tar.bz2": good,
		"p.tar": good[:300], "p.7z": good, "p": good, "cut.tar.gz": compressed(t, ".gz", good)[:40],
	} {
		_, err := packLayer(t.Context(), t.TempDir(), 0, func(l *layerWriter) error {
			return l.unpack(write(t, data), name, unpacking{into: "work", umask: 0o022})
		})
		if !errors.Is(err, errInput) {
			t.Errorf("broken %s: %v, want a refusal", name, err)
		}
	}
	for _, strip := range []int64{-1, 65, 2} {
		_, err := packLayer(t.Context(), t.TempDir(), 0, func(l *layerWriter) error {
			return l.unpack(write(t, good), "p.tar", unpacking{into: "work", strip: strip, umask: 0o022})
		})
		if !errors.Is(err, errInput) {
			t.Errorf("strip %d: %v, want a refusal", strip, err)
		}
	}
}

// TestBomb wants an archive that says more than it may refused before its bytes
// are unpacked.
func TestBomb(t *testing.T) {
	var b bytes.Buffer
	archive := tar.NewWriter(&b)
	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "big", Size: maxUnpacked + 1, Format: tar.FormatPAX}); err != nil {
		t.Fatal(err)
	}
	if err := archive.Flush(); err == nil {
		t.Fatal("the member is complete")
	}
	_, err := packLayer(t.Context(), t.TempDir(), 0, func(l *layerWriter) error { return l.unpack(write(t, b.Bytes()), "p.tar", unpacking{umask: 0o022}) })
	if !errors.Is(err, errInput) || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("%v, want a refusal for its size", err)
	}
}

func TestSparse(t *testing.T) {
	// PAX records that say: 8 GiB, of which nothing is there.
	records := "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n21 GNU.sparse.name=a\n34 GNU.sparse.realsize=8589934592\n"
	var b bytes.Buffer
	archive := tar.NewWriter(&b)
	for _, h := range []struct {
		header  tar.Header
		content string
	}{
		{tar.Header{Typeflag: tar.TypeReg, Name: "x", Size: int64(len(records))}, records},
		{tar.Header{Typeflag: tar.TypeReg, Name: "y", Size: 512}, "1\n8589934592\n0\n" + strings.Repeat("\x00", 497)},
	} {
		if err := archive.WriteHeader(&h.header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(archive, h.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	data := b.Bytes()
	data[156] = tar.TypeXHeader // and its checksum, which counts the flag
	var sum int64
	copy(data[148:156], "        ")
	for _, c := range data[:512] {
		sum += int64(c)
	}
	copy(data[148:156], fmt.Sprintf("%06o\x00 ", sum))
	_, err := packLayer(t.Context(), t.TempDir(), 0, func(l *layerWriter) error { return l.unpack(write(t, data), "p.tar", unpacking{umask: 0o022}) })
	if !errors.Is(err, errInput) || !strings.Contains(err.Error(), "sparse") {
		t.Errorf("%v, want a refusal of a sparse file", err)
	}
}

// TestUnpackStops: what strip drops is decompressed as well, and somebody may stop
// waiting for it, or it has no end.
func TestUnpackStops(t *testing.T) {
	var b bytes.Buffer
	entries := tar.NewWriter(&b)
	if err := entries.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "top", Size: 1 << 40, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stopped)
	_, err := packLayer(ctx, t.TempDir(), 0, func(l *layerWriter) error {
		return l.unpack(write(t, b.Bytes()), "p.tar", unpacking{strip: 1, umask: 0o022})
	})
	if !errors.Is(err, stopped) || errors.Is(err, errInput) {
		t.Errorf("%v; want what stopped it", err)
	}
	endless := &bounded{from: zeros{}, ctx: t.Context(), room: 1 << 20}
	if n, err := io.Copy(io.Discard, endless); n != 1<<20 || !errors.Is(err, errInput) {
		t.Errorf("%d bytes of it were read, %v", n, err)
	}
}

// zeros has no end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestInside(t *testing.T) {
	for _, test := range []struct {
		root, name, target string
		want               bool
	}{
		{"work", "work/a", "b", true}, {"work", "work/a", ".", true}, {"work", "work/d/a", "..", true},
		{"work", "work/a", "..", false}, {"work", "work/a", "../workshop", false}, {"work", "work/a", "/work/b", false},
		{"", "a", "b", true}, {"", "a", "..", false}, {"", "d/a", "../b", true}, {"", "d/a", "../../b", false},
	} {
		if got := inside(test.root, test.name, test.target); got != test.want {
			t.Errorf("inside(%q, %q, %q) = %v", test.root, test.name, test.target, got)
		}
	}
}

// FuzzUnpack feeds hostile archives: what is accepted must be a layer whose
// every path and link stays in the folder.
func FuzzUnpack(f *testing.F) {
	members := []member{
		{name: "p/x", content: "x", kind: tar.TypeReg, mode: 0o644}, {name: "p/l", target: "x", kind: tar.TypeSymlink},
	}
	f.Add(makeTar(f, members), "a.tar")
	f.Add(makeZip(f, members), "a.zip")
	f.Add(compressed(f, ".gz", makeTar(f, members)), "a.tgz")
	f.Add(compressed(f, ".xz", makeTar(f, members)), "a.tar.xz")
	f.Add(makeTar(f, []member{{name: "../x", content: "x", kind: tar.TypeReg}}), "a.tar")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		b, err := packLayer(t.Context(), t.TempDir(), 0, func(l *layerWriter) error {
			return l.unpack(write(t, data), name, unpacking{into: "work", umask: 0o022})
		})
		if err != nil {
			if !errors.Is(err, errInput) {
				t.Fatalf("an input's fault looks like ours: %v", err)
			}
			return
		}
		seen := map[string]bool{}
		file, err := b.read()
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		archive := tar.NewReader(file)
		for {
			h, err := archive.Next()
			if err != nil {
				break
			}
			clean := strings.TrimSuffix(h.Name, "/")
			if path.Clean(clean) != clean || clean != "work" && !strings.HasPrefix(clean, "work/") || seen[clean] {
				t.Fatalf("member %q", h.Name)
			}
			seen[clean] = true
			if h.Typeflag == tar.TypeSymlink && !inside("work", clean, h.Linkname) {
				t.Fatalf("link %q to %q", h.Name, h.Linkname)
			}
		}
	})
}

// TestUnpackAsCheckedOut: modes follow the recipe's umask, and lines end as on Windows
// where the source says so; what is no text, or has such ends already, stays.
func TestUnpackAsCheckedOut(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range map[string]string{
		"p/text": "one\ntwo\n", "p/binary": "one\n\x00two\n", "p/windows": "one\r\ntwo\n", "p/empty": "",
	} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := packLayer(t.Context(), t.TempDir(), 0, func(l *layerWriter) error {
		return l.unpack(write(t, b.Bytes()), "p.tar", unpacking{into: "work", strip: 1, umask: 0o002, crlf: true})
	})
	if err != nil {
		t.Fatal(err)
	}
	file, err := layer.read()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	want := map[string]string{
		"work/": "", "work/text": "one\r\ntwo\r\n", "work/binary": "one\n\x00two\n", "work/windows": "one\r\ntwo\n", "work/empty": "",
	}
	for r := tar.NewReader(file); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		content, readErr := io.ReadAll(r)
		if err != nil || readErr != nil {
			t.Fatal(err, readErr)
		}
		if text, known := want[h.Name]; !known || text != string(content) || h.Mode != 0o775 {
			t.Errorf("%s: mode %o, %q", h.Name, h.Mode, content)
		}
		delete(want, h.Name)
	}
	if len(want) > 0 {
		t.Errorf("not packed: %v", want)
	}
}
