package difference

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"cmp"
	"compress/gzip"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

var epoch = time.Date(2024, 5, 17, 10, 30, 0, 0, time.UTC)

// sides are two builds with these bytes.
func sides(l, r []byte) (Side, Side) {
	return Side{Name: "alpha", Content: bytes.NewReader(l), Size: int64(len(l))},
		Side{Name: "beta", Content: bytes.NewReader(r), Size: int64(len(r))}
}

func compare(t testing.TB, name string, l, r []byte, limits Limits) *Report {
	t.Helper()
	ls, rs := sides(l, r)
	report, err := Compare(t.Context(), name, ls, rs, limits)
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, report)
	return report
}

// zf is a file in a zip; what is left out is as an honest builder has it.
type zf struct {
	name, content, comment string
	time                   time.Time
	method                 uint16
	extra                  []byte
	mode                   uint32
	creator                uint16
	plain                  bool // no descriptor behind the data
}

func zipOf(t testing.TB, files ...zf) []byte {
	t.Helper()
	return commentedZip(t, "", files...)
}

func commentedZip(t testing.TB, comment string, files ...zf) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range files {
		h := &zip.FileHeader{
			Name: f.name, Comment: f.comment, Method: f.method, Extra: f.extra, Modified: cmp.Or(f.time, epoch),
			ExternalAttrs: cmp.Or(f.mode, 0o100644) << 16, CreatorVersion: cmp.Or(f.creator, 3<<8|20),
		}
		create := w.CreateHeader
		if f.plain {
			var packed bytes.Buffer
			packed.WriteString(f.content)
			h.CRC32, h.CompressedSize64, h.UncompressedSize64 = checksum(f.content), uint64(packed.Len()), uint64(len(f.content))
			h.ModifiedDate, h.ModifiedTime = 0x58b1, 0x53c0
			create = w.CreateRaw
		}
		out, err := create(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(out, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmp.Or(w.SetComment(comment), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, content string) zf { return zf{name: name, content: content, method: zip.Deflate} }

func checksum(content string) uint32 {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	out, _ := w.Create("x")
	io.WriteString(out, content)
	w.Close()
	r, _ := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	return r.File[0].CRC32
}

// tarOf makes a tar; a header's Size is that of its content.
func tarOf(t testing.TB, entries ...any) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(entries); i += 2 {
		h, content := entries[i].(tar.Header), entries[i+1].(string)
		h.Size = int64(len(content))
		if h.ModTime.IsZero() && h.Typeflag != tar.TypeXGlobalHeader {
			h.ModTime = epoch
		}
		if h.Typeflag != tar.TypeXGlobalHeader {
			h.Mode = cmp.Or(h.Mode, 0o644)
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipOf(t testing.TB, header gzip.Header, level int, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	w.Header = header
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstdOf(t testing.TB, level zstd.EncoderLevel, content []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(content, nil)
}

// words is text that compresses differently at each level.
func words(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat("abcdefghij"[i%10:], 1+i*7%5))
		b.WriteByte(byte('a' + i*i%23))
	}
	return b.String()
}

func rulesOf(r *Report) []Rule {
	var rules []Rule
	for _, a := range r.Rules {
		rules = append(rules, a.Rule)
	}
	return rules
}

// entry is the report's entry at a path.
func entry(t testing.TB, r *Report, path string) *Entry {
	t.Helper()
	i := slices.IndexFunc(r.Entries, func(e Entry) bool { return e.Path == path })
	if i < 0 {
		t.Fatalf("no entry %q in\n%s", path, r)
	}
	return &r.Entries[i]
}
