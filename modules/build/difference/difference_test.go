package difference

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
)

var update = flag.Bool("update", false, "write the goldens anew; read them before you believe them")

// story is two builds of a jar that differ in as much as two builds can.
func story(t testing.TB) (l, r []byte) {
	class := func(major byte, rest string) string { return "\xca\xfe\xba\xbe\x00\x00\x00" + string(major) + rest }
	inner := func(text string, seconds int) string {
		return string(zipOf(t, zf{name: "inner/File.txt", content: text, method: zip.Deflate, time: epoch.AddDate(0, 0, seconds)}))
	}
	l = zipOf(t,
		file("META-INF/MANIFEST.MF", manifest),
		file("META-INF/maven/g/a/pom.properties", "#Mon Jan 01 10:00:00 UTC 2024\na=1\n"),
		file("A.class", class(61, strings.Repeat("same", 9)+"one")),
		zf{name: "lib/outer.jar", content: inner("one\ntwo\nthree\n", 0)},
		file("paths.txt", "built in\n/home/alice/src\n"),
		file("gone", "1"),
		file("\x1b[2J\u202ename", "a"),
	)
	r = zipOf(t,
		file("META-INF/maven/g/a/pom.properties", "#Tue Jan 02 10:00:00 UTC 2024\r\na=1\r\n"),
		file("META-INF/MANIFEST.MF", otherManifest),
		file("A.class", class(65, strings.Repeat("same", 9)+"two!")),
		zf{name: "lib/outer.jar", content: inner("one\n2\nthree\nfour\n", 1)},
		file("paths.txt", "built in\n/data/bob\n"),
		file("new", "12"),
		file("\x1b[2J\u202ename", "\x1b]0;b"),
	)
	return l, r
}

func TestGolden(t *testing.T) {
	l, r := story(t)
	report := compare(t, "hello-1.0.0.jar", l, r, Limits{})
	golden(t, "testdata/report.txt", []byte(report.String()))
	data, err := report.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/report.json", data)
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; got\n%s\nwant\n%s", name, got, want)
	}
}

func TestPaths(t *testing.T) {
	deep := func(content string) []byte {
		jar := zipOf(t, zf{name: "inner/File.class", content: content})
		war := zipOf(t, file("WEB-INF/lib/outer.jar", string(jar)))
		return gzipOf(t, gzip.Header{}, 6, tarOf(t, tar.Header{Name: "./app.war"}, string(war)))
	}
	report := compare(t, "layer.tar.gz", deep("one"), deep("two"), Limits{})
	e := entry(t, report, "layer.tar.gz!/./app.war!/WEB-INF/lib/outer.jar!/inner/File.class")
	if e.What != Contents || e.Content.First != 0 || e.Content.Differing != 3 || len(e.Content.Lines) != 2 {
		t.Errorf("%s", report)
	}
	if len(report.Entries) != 1 {
		t.Errorf("more than one entry:\n%s", report)
	}
}

// damaged changes the bytes at an offset from the first place of a signature.
func damaged(archive []byte, signature string, offset int, with ...byte) []byte {
	out := bytes.Clone(archive)
	copy(out[bytes.Index(out, []byte(signature))+offset:], with)
	return out
}

// TestHostile gives archives that nobody should open to both sides of a comparison
// with an honest one. Each is compared as bytes, and the report says why.
func TestHostile(t *testing.T) {
	honest := zipOf(t, file("a", words(300)), file("b", "b"))
	honestTar := tarOf(t, tar.Header{Name: "a"}, "content", tar.Header{Name: "b"}, words(900))
	honestGzip := gzipOf(t, gzip.Header{}, 6, []byte(words(900)))
	large := binary.LittleEndian.AppendUint32(nil, 0xfffffffe)
	tests := []struct {
		name            string
		honest, hostile []byte
		note            string
	}{
		{"zip without an end", honest, honest[:len(honest)-30], "not a valid zip file"},
		{"zip cut at its beginning", honest, append([]byte("PK\x03\x04"), honest[90:]...), "compared"},
		{"zip with a name twice", honest, zipOf(t, file("a", "1"), file("a", "2")), "two entries have the name"},
		{"zip that leads out", honest, zipOf(t, file("../a", "1")), "leads out of the archive"},
		{"zip that leads out by backslash", honest, zipOf(t, file(`c\..\..\a`, "1")), "leads out of the archive"},
		{"zip with an absolute name", honest, zipOf(t, file("/etc/passwd", "1")), "leads out of the archive"},
		{"zip in another encoding", honest, zipOf(t, file("a\xff", "1")), "is not UTF-8"},
		{"zip with an empty name", honest, zipOf(t, file("", "1")), "is no name"},
		{"zip with a long name", honest, zipOf(t, file(strings.Repeat("a", 2000), "1")), "more than 1024 bytes"},
		{"zip of one entry at two places", honest, overlapping(t), "overlaps"},
		{"zip with 4 GiB claimed in the archive", honest, damaged(honest, "PK\x01\x02", 20, large...), "beyond the end"},
		{"zip with many claimed records", honest, manyRecords(t), "claims more than"},
		{"zip with a large directory", honest, zipOf(t, many(300)...), "claims more than"},
		{"zip with a header elsewhere", honest, damaged(honest, "PK\x01\x02", 42, large...), "no local header"},
		{"tar cut in an entry", honestTar, honestTar[:1800], "beyond the end"},
		{"tar with a broken header", honestTar, damaged(honestTar, "ustar", -100, 'x'), "invalid tar header"},
		{"tar with a name twice", honestTar, tarOf(t, tar.Header{Name: "a"}, "", tar.Header{Name: "a"}, ""), "two entries"},
		{"tar that leads out", honestTar, tarOf(t, tar.Header{Name: "b/../../a"}, ""), "leads out"},
		{"tar with a sparse file", honestTar, sparse(t), "sparse"},
		{"gzip cut", honestGzip, honestGzip[:40], "unexpected EOF"},
		{"gzip with a broken checksum", honestGzip, damaged(honestGzip, "\x1f\x8b", len(honestGzip)-8, 1, 2, 3, 4), "checksum"},
		{"gzip of nothing", honestGzip, honestGzip[:5], "unexpected EOF"},
		{"gzip with an odd flag", honestGzip, damaged(honestGzip, "\x1f\x8b", 3, 0xff), "This gzip file"},
		{"zstd with a window of terabytes", zstdOf(t, zstd.SpeedDefault, []byte("a")), []byte("\x28\xb5\x2f\xfd\x00\xff\x00\x00\x00"), "window"},
		{"bzip2 cut", bzip[0], bzip[1][:30], "unexpected EOF"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, pair := range [][2][]byte{{test.honest, test.hostile}, {test.hostile, test.honest}} {
				report := compare(t, "out", pair[0], pair[1], Limits{})
				e := entry(t, report, "out")
				if report.Verdict != Different || e.Content == nil || !strings.Contains(e.Note, test.note) {
					t.Errorf("want a note of %q\n%s", test.note, report)
				}
			}
			if report := compare(t, "out", test.hostile, test.hostile, Limits{}); report.Verdict != Equal {
				t.Errorf("with itself: %s", report)
			}
		})
	}
}

// many are entries whose names and comments fill a directory.
func many(n int) (files []zf) {
	for i := range n {
		files = append(files, zf{name: fmt.Sprint(i), comment: strings.Repeat("c", 1<<16-1)})
	}
	return files
}

// overlapping is a zip of which two directory entries share their bytes.
func overlapping(t *testing.T) []byte {
	archive := zipOf(t, zf{name: "a", content: "x", plain: true}, zf{name: "b", content: "x", plain: true})
	first := bytes.Index(archive, []byte("PK\x01\x02"))
	second := first + 4 + bytes.Index(archive[first+4:], []byte("PK\x01\x02"))
	copy(archive[second+42:], []byte{0, 0, 0, 0})
	return archive
}

// manyRecords is a zip that claims as many entries as its size can hold.
func manyRecords(t *testing.T) []byte {
	archive := zipOf(t, file("a", "1"))
	end := bytes.LastIndex(archive, []byte("PK\x05\x06"))
	large := binary.LittleEndian.AppendUint64([]byte("PK\x06\x06"), 44)
	large = append(large, make([]byte, 12)...)
	large = binary.LittleEndian.AppendUint64(large, 1<<40)
	large = binary.LittleEndian.AppendUint64(large, 1<<40)
	large = append(large, make([]byte, 16)...)
	locator := append([]byte("PK\x06\x07"), 0, 0, 0, 0)
	locator = binary.LittleEndian.AppendUint64(locator, uint64(end))
	locator = append(locator, 1, 0, 0, 0)
	return bytes.Join([][]byte{archive[:end], large, locator, archive[end:]}, nil)
}

// sparse is a tar with a file of a terabyte of zeros, in GNU tar's form 1.0.
func sparse(t *testing.T) []byte {
	var b bytes.Buffer
	records := "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n30 GNU.sparse.name=terabyte.x\n37 GNU.sparse.realsize=1099511627776\n"
	for _, h := range []struct {
		flag    byte
		content string
	}{{'x', records}, {'0', "0\n" + strings.Repeat("\x00", 510)}} {
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: "a", Size: int64(len(h.content)), Format: tar.FormatUSTAR}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, h.content)
		w.Flush()
		if h.flag == 'x' {
			header := b.Bytes()[:512]
			sum := 0
			header[156] = 'x'
			copy(header[148:156], "        ")
			for _, c := range header {
				sum += int(c)
			}
			copy(header[148:], fmt.Sprintf("%06o\x00 ", sum))
		}
	}
	return append(b.Bytes(), make([]byte, 1024)...)
}

// TestBrokenEntry damages one entry: the others are compared all the same.
func TestBrokenEntry(t *testing.T) {
	honest := zipOf(t, file("a", words(300)), file("b", "1"))
	other := zipOf(t, file("a", words(301)), file("b", "2"))
	tests := map[string][]byte{
		"compressed bytes": damaged(other, "PK\x03\x04", 60, 0xff, 0xff, 0xff, 0xff),
		"method":           damaged(other, "PK\x01\x02", 10, 99),
		"encrypted":        damaged(other, "PK\x01\x02", 8, 9),
		"size":             damaged(other, "PK\x01\x02", 24, 0xff, 0xff, 0xff, 0x7f),
		"checksum":         damaged(other, "PK\x01\x02", 16, 1, 2, 3, 4),
	}
	for name, broken := range tests {
		t.Run(name, func(t *testing.T) {
			report := compare(t, "out", honest, broken, Limits{})
			a, b := entry(t, report, "out!/a"), entry(t, report, "out!/b")
			if report.Verdict != Different || a.Normalised || !strings.Contains(a.Note, "as it is stored") || b.Content == nil {
				t.Errorf("%s", report)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	t.Run("entries", func(t *testing.T) {
		var l, r []zf
		for i := range 300 {
			l, r = append(l, file(fmt.Sprintf("%03d", i), "a")), append(r, file(fmt.Sprintf("%03d", i), "a"))
			r[i].time = epoch.AddDate(0, 0, 1)
		}
		r[299].content = "b"
		report := compare(t, "out", zipOf(t, l...), zipOf(t, r...), Limits{})
		if len(report.Entries) != 200 || report.Truncated != 100 || report.Entries[0].Path != "out!/299" || report.Rules[0].Entries != 300 {
			t.Errorf("%s", report)
		}
		if none := compare(t, "out", zipOf(t, l...), zipOf(t, r...), Limits{Entries: -1}); len(none.Entries) != 0 || none.Truncated != 300 {
			t.Errorf("%s", none)
		}
	})
	t.Run("depth", func(t *testing.T) {
		nested := func(content string) []byte {
			data := []byte(content)
			for range 6 {
				data = zipOf(t, zf{name: "a", content: string(data)})
			}
			return data
		}
		report := compare(t, "out", nested("a"), nested("b"), Limits{})
		if e := entry(t, report, "out!/a!/a!/a!/a"); !strings.Contains(e.Note, "depth of 4") || e.Content == nil {
			t.Errorf("%s", report)
		}
		report = compare(t, "out", nested("a"), nested("b"), Limits{Depth: -1})
		if e := entry(t, report, "out"); !strings.Contains(e.Note, "depth of 0") {
			t.Errorf("%s", report)
		}
	})
	t.Run("compressed again and again", func(t *testing.T) {
		nested := func(content string) []byte {
			data := []byte(content)
			for range 6 {
				data = gzipOf(t, gzip.Header{}, 6, data)
			}
			return data
		}
		report := compare(t, "out", nested("a"), nested("b"), Limits{})
		if e := entry(t, report, "out"); !strings.Contains(e.Note, "depth of 4") || e.Content == nil {
			t.Errorf("%s", report)
		}
	})
	t.Run("bomb", func(t *testing.T) {
		bomb := func(last string) []byte {
			zeros := strings.Repeat("\x00", 3<<20)
			inner := zipOf(t, file("0", "first"+last), file("1", zeros+last), file("2", zeros+last))
			return zipOf(t, file("a", "a"+last), file("b.jar", string(inner)), file("c", "c"+last))
		}
		report := compare(t, "out", bomb("a"), bomb("b"), Limits{Unpacked: 8 << 20, Scratch: t.TempDir()})
		for _, path := range []string{"out", "out!/b.jar"} {
			if e := entry(t, report, path); !strings.Contains(e.Note, "more than the limit of 8388608 bytes") || e.Content == nil {
				t.Errorf("%s: %s", path, report)
			}
		}
		for _, path := range []string{"out!/a", "out!/b.jar!/0", "out!/b.jar!/1"} {
			if e := entry(t, report, path); e.Content == nil || e.Note != "" {
				t.Errorf("%s: %s", path, report)
			}
		}
	})
	t.Run("text", func(t *testing.T) {
		report := compare(t, "out", []byte("a\nb\n"), []byte("a\r\nb\r\n"), Limits{Text: 3})
		if report.Verdict != Different || report.Entries[0].Content.Lines != nil {
			t.Errorf("%s", report)
		}
	})
	t.Run("lines", func(t *testing.T) {
		l, r := strings.Repeat("a\n", 3000), strings.Repeat("b\n", 2500)
		c := compare(t, "out", []byte(l), []byte(r), Limits{Lines: 5}).Entries[0].Content
		if len(c.Lines) != 5 || c.MoreLines != 5495 {
			t.Errorf("%d lines and %d more", len(c.Lines), c.MoreLines)
		}
	})
	t.Run("size of the report", func(t *testing.T) {
		var l, r []zf
		for i := range 1800 {
			name := fmt.Sprintf("%s%04d", strings.Repeat("\x01", 900), i)
			l, r = append(l, file(name, "a")), append(r, file(name, "b"))
		}
		report := compare(t, "out", zipOf(t, l...), zipOf(t, r...), Limits{Entries: 1800})
		if report.Truncated == 0 || len(report.Entries)+report.Truncated != 1800 {
			t.Errorf("%d entries, %d truncated", len(report.Entries), report.Truncated)
		}
	})
}

// TestScratch compares what does not fit in memory, and looks for what is left.
func TestScratch(t *testing.T) {
	scratch := t.TempDir()
	big := func(last string) []byte {
		return gzipOf(t, gzip.Header{}, 1, tarOf(t, tar.Header{Name: "a"}, strings.Repeat("0123456789", 500_000)+last))
	}
	report := compare(t, "out", big("a"), big("b"), Limits{Scratch: scratch})
	if e := entry(t, report, "out!/a"); e.Content.First != 5_000_000 || e.Content.Differing != 1 {
		t.Errorf("%s", report)
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("%d files are left, %v", len(left), err)
	}
	l, r := sides(big("a"), big("b"))
	if _, err := Compare(t.Context(), "out", l, r, Limits{Scratch: filepath.Join(scratch, "gone")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a scratch folder: %v", err)
	}
}

// TestMemory compares files far larger than what the comparison may hold.
func TestMemory(t *testing.T) {
	const size = 64 << 20
	l, r := Side{Content: zeros{}, Size: size}, Side{Content: zeros{but: size - 1}, Size: size}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	report, err := Compare(t.Context(), "out", l, r, Limits{})
	runtime.ReadMemStats(&after)
	if err != nil || report.Entries[0].Content.First != size-1 {
		t.Fatalf("%v, %s", err, report)
	}
	if live := int64(after.HeapInuse) - int64(before.HeapInuse); live > 16<<20 {
		t.Errorf("%d bytes are held", live)
	}
}

// zeros are as many as one likes, but for one byte.
type zeros struct{ but int64 }

func (z zeros) ReadAt(p []byte, offset int64) (int, error) {
	clear(p)
	if z.but > 0 && offset <= z.but && z.but < offset+int64(len(p)) {
		p[z.but-offset] = 1
	}
	return len(p), nil
}

var errDisk = errors.New("the disk is gone")

// failing reads until an offset.
type failing struct {
	io.ReaderAt
	from int64
}

func (f failing) ReadAt(p []byte, offset int64) (int, error) {
	if offset+int64(len(p)) > f.from {
		return 0, errDisk
	}
	return f.ReaderAt.ReadAt(p, offset)
}

// flaky fails at its n-th read.
type flaky struct {
	io.ReaderAt
	n *int
}

func (f flaky) ReadAt(p []byte, offset int64) (int, error) {
	if *f.n--; *f.n < 0 {
		return 0, errDisk
	}
	return f.ReaderAt.ReadAt(p, offset)
}

// TestFails makes each read of a comparison fail in turn: none may pass for a
// difference between the builds.
func TestFails(t *testing.T) {
	l, r := story(t)
	lt := gzipOf(t, gzip.Header{}, 6, tarOf(t, tar.Header{Name: "a.jar"}, string(l)))
	rt := tarOf(t, tar.Header{Name: "a.jar"}, string(r))
	for _, pair := range [][2][]byte{{l, r}, {tarOf(t, tar.Header{Name: "a.jar"}, string(l)), rt}, {lt, gzipOf(t, gzip.Header{}, 6, rt)}} {
		failures := 0
		for n := 0; ; n++ {
			left, right := sides(pair[0], pair[1])
			reads := n
			left.Content = flaky{left.Content, &reads}
			report, err := Compare(t.Context(), "out", left, right, Limits{})
			if err == nil && reads >= 0 {
				break
			}
			if !errors.Is(err, errDisk) || report != nil {
				t.Fatalf("read %d failed: %v, %v", n, report, err)
			}
			failures++
		}
		if failures < 3 {
			t.Errorf("only %d reads", failures)
		}
	}
	left, right := sides(l, r)
	right.Size++
	if _, err := Compare(t.Context(), "out", left, right, Limits{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a file that ends before its size: %v", err)
	}
	left, right = sides(l, r)
	left.Content = failing{left.Content, 100}
	if _, err := Compare(t.Context(), "out", left, right, Limits{}); !errors.Is(err, errDisk) {
		t.Errorf("a file that cannot be read to its end: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	left, right = sides(l, r)
	if _, err := Compare(ctx, "out", left, right, Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}

// TestWrite looks for what could steer a terminal, and for long lines.
func TestWrite(t *testing.T) {
	l, r := story(t)
	name := "\x1b]0;title\a\r\n" + strings.Repeat("long ", 50) + strings.Repeat("x", 300) + "\xff\u202e\u0085"
	ls, rs := sides(l, r)
	ls.Name = "\x1b[31m"
	report, err := Compare(t.Context(), name, ls, rs, Limits{Entries: 3})
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, report)
	checkText(t, report.String())
	if !strings.Contains(report.String(), `\x1b]0;title\a\r\nlong`) || !strings.Contains(report.String(), "more") {
		t.Errorf("%s", report)
	}
	if err := report.Write(full{}); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("to a full disk: %v", err)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func checkText(t testing.TB, text string) {
	t.Helper()
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if n := utf8.RuneCountInString(line); n > maxWidth || n == 0 {
			t.Errorf("line %d has %d characters: %q", i+1, n, line)
		}
		if quoted(line) != strings.ReplaceAll(line, `\`, `\\`) {
			t.Errorf("line %d holds what does not print: %q", i+1, line)
		}
	}
}

func FuzzCompare(f *testing.F) {
	l, r := story(f)
	tarred := tarOf(f, tar.Header{Name: "a", Uid: 1}, "content")
	for _, seed := range [][2][]byte{
		{l, r}, {[]byte("a"), []byte("a")}, {tarred, tarOf(f, tar.Header{Name: "a"}, "content")},
		{gzipOf(f, gzip.Header{}, 6, tarred), gzipOf(f, gzip.Header{Name: "x"}, 6, l)}, {bzip[0], bzip[1]},
		{zstdOf(f, zstd.SpeedDefault, l), zstdOf(f, zstd.SpeedDefault, r)}, {[]byte("a\nb"), []byte("a\r\nb")},
	} {
		f.Add(seed[0], seed[1])
	}
	scratch := f.TempDir()
	f.Fuzz(func(t *testing.T, l, r []byte) {
		report := compare(t, "out", l, r, Limits{Unpacked: 4 << 20, Scratch: scratch, Entries: 20})
		if (report.Verdict == Equal) != bytes.Equal(l, r) {
			t.Errorf("verdict %s", report.Verdict)
		}
		if mirrored := compare(t, "out", r, l, Limits{Unpacked: 4 << 20, Scratch: scratch, Entries: 20}); mirrored.Verdict != report.Verdict {
			t.Errorf("verdict %s, and %s the other way round", report.Verdict, mirrored.Verdict)
		}
		checkText(t, report.String())
	})
}
