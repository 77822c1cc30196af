package difference

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

const (
	manifest      = "Manifest-Version: 1.0\r\nBuilt-By: alice\r\nCreated-By: Maven 3.9\r\nName-Of: x\r\n y\r\n\r\nName: a/\r\nSealed: true\r\n\r\n"
	otherManifest = "Manifest-Version: 1.0\r\nBuilt-By: bob\r\nBuild-Jdk: 21\r\nCreated-By: Maven 3.8\r\nName-Of: x\r\n y\r\n\r\nName: a/\r\nSealed: true\r\n\r\n"
	sorted        = "Manifest-Version: 1.0\r\nName-Of: x\r\n y\r\nCreated-By: Maven 3.9\r\nBuilt-By: alice\r\n\r\nName: a/\r\nSealed: true\r\n\r\n"
	sealed        = "Manifest-Version: 1.0\r\nBuilt-By: alice\r\nCreated-By: Maven 3.9\r\nName-Of: x\r\n y\r\n\r\nName: a/\r\nSealed: false\r\n\r\n"
)

// bzip are two ways to compress "hello hello hello\n", with blocks of 100 and of 900 kB.
var bzip = func() (both [2][]byte) {
	for i, s := range []string{
		"QlpoMTFBWSZTWeW18wkAAARRAAAQQAACRKAAIbUYDAKQacKjC7kinChIctr5hIA=",
		"QlpoOTFBWSZTWeW18wkAAARRAAAQQAACRKAAIbUYDAKQacKjC7kinChIctr5hIA=",
	} {
		both[i], _ = base64.StdEncoding.DecodeString(s)
	}
	return both
}()

// TestRules shows each rule the smallest difference that it explains, and some that
// none does.
func TestRules(t *testing.T) {
	jar := func(path, content string) []byte { return zipOf(t, file(path, content)) }
	tarred := func(h tar.Header) []byte { h.Name = "a"; return tarOf(t, h, "content") }
	plain := zipOf(t, file("a", words(300)))
	text := []byte(words(3000))
	deflated := func(level int) []byte {
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		var packed bytes.Buffer
		z, _ := flate.NewWriter(&packed, level)
		z.Write(text)
		z.Close()
		out, _ := w.CreateRaw(&zip.FileHeader{
			Name: "a", Method: zip.Deflate, CRC32: checksum(string(text)),
			CompressedSize64: uint64(packed.Len()), UncompressedSize64: uint64(len(text)),
		})
		out.Write(packed.Bytes())
		w.Close()
		return b.Bytes()
	}
	gz := func(h gzip.Header) []byte { return gzipOf(t, h, 6, text) }
	tests := []struct {
		name  string
		l, r  []byte
		want  Verdict
		rules []Rule
	}{
		{"equal", plain, plain, Equal, nil},
		{"empty", nil, nil, Equal, nil},
		{"one empty", nil, []byte("a"), Different, nil},
		{"zip times", plain, zipOf(t, zf{name: "a", content: words(300), method: zip.Deflate, time: epoch.Add(time.Hour)}), NormalisedEqual, []Rule{ZipTimes}},
		{"zip order", zipOf(t, file("a", "1"), file("b", "2")), zipOf(t, file("b", "2"), file("a", "1")), NormalisedEqual, []Rule{ZipOrder}},
		{"zip method", zipOf(t, zf{name: "a", content: "x"}), zipOf(t, zf{name: "a", content: "x", method: zip.Deflate}), NormalisedEqual, []Rule{ZipCompression}},
		{"zip effort", deflated(1), deflated(9), NormalisedEqual, []Rule{ZipCompression}},
		{"zip extra", plain, zipOf(t, zf{name: "a", content: words(300), method: zip.Deflate, extra: []byte{0xfe, 0xca, 0, 0}}), NormalisedEqual, []Rule{ZipExtra}},
		{"zip odd extra", plain, zipOf(t, zf{name: "a", content: words(300), method: zip.Deflate, extra: []byte{0xfe, 0xca, 99, 0}}), NormalisedEqual, []Rule{ZipTimes, ZipExtra}},
		{"zip mode", plain, zipOf(t, zf{name: "a", content: words(300), method: zip.Deflate, mode: 0o100755}), NormalisedEqual, []Rule{ZipAttributes}},
		{"zip comments", plain, commentedZip(t, "hi", zf{name: "a", content: words(300), method: zip.Deflate, comment: "ho"}), NormalisedEqual, []Rule{ZipComments}},
		{"zip link", plain, zipOf(t, zf{name: "a", content: words(300), method: zip.Deflate, mode: 0o120777}), Different, []Rule{ZipAttributes}},
		{"zip layout", zipOf(t, zf{name: "a", content: "x", plain: true}), localTime(zipOf(t, zf{name: "a", content: "x", plain: true})), NormalisedEqual, []Rule{ZipLayout}},
		{"zip start script", plain, append([]byte("#!/bin/sh\n"), plain...), Different, nil},
		{"zip long start script", append(script(200_000, 'a'), plain...), append(script(200_000, 'b'), plain...), Different, nil},
		{"zip bytes before its directory", plain, beforeDirectory(plain, "hidden"), Different, nil},
		{"zip descriptor", zipOf(t, zf{name: "a", content: "x", plain: true}), zipOf(t, zf{name: "a", content: "x"}), NormalisedEqual, []Rule{ZipAttributes, ZipLayout, ZipTimes}},
		{"zip local method", plain, damaged(plain, "PK\x03\x04", 8, 0), Different, nil},
		{"zip folder and device", zipOf(t, zf{name: "a", mode: 0o040755}), zipOf(t, zf{name: "a", mode: 0o020755}), Different, []Rule{ZipAttributes}},
		{"zip local name", plain, bytes.Replace(plain, []byte("a"), []byte("b"), 1), Different, nil},
		{"zip content", jar("a", "1"), jar("a", "2"), Different, nil},
		{"zip one more", jar("a", "1"), zipOf(t, file("a", "1"), file("b", "")), Different, nil},
		{"manifest attributes", jar("META-INF/MANIFEST.MF", manifest), jar("META-INF/MANIFEST.MF", otherManifest), NormalisedEqual, []Rule{ManifestAttributes}},
		{"manifest order", jar("META-INF/MANIFEST.MF", manifest), jar("META-INF/MANIFEST.MF", sorted), NormalisedEqual, []Rule{ManifestOrder}},
		{"manifest of another file", jar("META-INF/MANIFEST.TXT", manifest), jar("META-INF/MANIFEST.TXT", otherManifest), Different, nil},
		{"manifest says otherwise", jar("META-INF/MANIFEST.MF", manifest), jar("META-INF/MANIFEST.MF", sealed), Different, nil},
		{
			"manifest all", jar("META-INF/MANIFEST.MF", sorted), jar("META-INF/MANIFEST.MF", string(unixLines([]byte(otherManifest)))), NormalisedEqual,
			[]Rule{ManifestAttributes, LineEndings},
		},
		{
			"properties", jar("META-INF/maven/g/a/pom.properties", "#Mon\na=1\n"), jar("META-INF/maven/g/a/pom.properties", "#Tue\na=1\n"),
			NormalisedEqual, []Rule{PropertiesComment},
		},
		{
			"properties and ends", jar("META-INF/maven/g/a/pom.properties", "#Mon\na=1\n"), jar("META-INF/maven/g/a/pom.properties", "#Tue\r\na=1\r\n"),
			NormalisedEqual, []Rule{LineEndings, PropertiesComment},
		},
		{"line endings", []byte("a\nb\n"), []byte("a\r\nb\r\n"), NormalisedEqual, []Rule{LineEndings}},
		{"no text", []byte("a\nb\x00\n"), []byte("a\r\nb\x00\r\n"), Different, nil},
		{"gzip header", gz(gzip.Header{OS: 3}), gz(gzip.Header{OS: 255, Name: "a", Comment: "b", Extra: []byte("c"), ModTime: epoch}), NormalisedEqual, []Rule{GzipHeader}},
		{"gzip level", gzipOf(t, gzip.Header{}, 2, text), gzipOf(t, gzip.Header{}, 6, text), NormalisedEqual, []Rule{GzipCompression}},
		{"gzip both", gzipOf(t, gzip.Header{}, 1, text), gzipOf(t, gzip.Header{}, 9, text), NormalisedEqual, []Rule{GzipCompression, GzipHeader}},
		{"gzip content", gzipOf(t, gzip.Header{}, 9, []byte("a")), gzipOf(t, gzip.Header{}, 9, []byte("b")), Different, nil},
		{"zstd", zstdOf(t, zstd.SpeedFastest, text), zstdOf(t, zstd.SpeedBestCompression, text), NormalisedEqual, []Rule{ZstdCompression}},
		{"bzip2", bzip[0], bzip[1], NormalisedEqual, []Rule{Bzip2Compression}},
		{"tar times", tarred(tar.Header{}), tarred(tar.Header{ModTime: epoch.Add(time.Minute)}), NormalisedEqual, []Rule{TarTimes}},
		{"tar owners", tarred(tar.Header{Uid: 1, Uname: "a"}), tarred(tar.Header{Gid: 1, Gname: "b"}), NormalisedEqual, []Rule{TarOwners}},
		{"tar group", tarred(tar.Header{Mode: 0o664}), tarred(tar.Header{Mode: 0o644}), NormalisedEqual, []Rule{TarModes}},
		{"tar executable", tarred(tar.Header{Mode: 0o755}), tarred(tar.Header{Mode: 0o644}), Different, nil},
		{"tar order", tarOf(t, tar.Header{Name: "a"}, "", tar.Header{Name: "b"}, ""), tarOf(t, tar.Header{Name: "b"}, "", tar.Header{Name: "a"}, ""), NormalisedEqual, []Rule{TarOrder}},
		{"tar flavour", tarred(tar.Header{Format: tar.FormatPAX}), tarred(tar.Header{Format: tar.FormatGNU}), NormalisedEqual, []Rule{TarLayout}},
		{"tar padding", tarred(tar.Header{}), append(tarred(tar.Header{}), make([]byte, 512)...), NormalisedEqual, []Rule{TarLayout}},
		{"tar hidden", tarred(tar.Header{}), append(tarred(tar.Header{}), "hidden"...), Different, nil},
		{"tar link", tarred(tar.Header{Typeflag: tar.TypeReg}), tarOf(t, tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "b"}, ""), Different, nil},
		{"tar kind", tarOf(t, tar.Header{Name: "a", Typeflag: tar.TypeFifo}, ""), tarOf(t, tar.Header{Name: "a", Typeflag: tar.TypeCont}, ""), Different, nil},
		{
			"tar content of a kind nobody knows", tarOf(t, tar.Header{Name: "a", Typeflag: 'Z'}, "a"),
			tarOf(t, tar.Header{Name: "a", Typeflag: 'Z'}, "b"), Different, nil,
		},
		{
			"tar attribute", tarred(tar.Header{PAXRecords: map[string]string{"SCHILY.xattr.user.a": "1"}}),
			tarred(tar.Header{PAXRecords: map[string]string{"SCHILY.xattr.user.a": "2"}}), Different, nil,
		},
		{
			"layer", gzipOf(t, gzip.Header{Name: "x"}, 6, tarred(tar.Header{})), gzipOf(t, gzip.Header{}, 6, tarred(tar.Header{Uid: 5})),
			NormalisedEqual, []Rule{GzipHeader, TarOwners},
		},
		{"nested", zipOf(t, zf{name: "lib/b.jar", content: string(jar("c", "d"))}), zipOf(t, zf{name: "lib/b.jar", content: string(zipOf(t, zf{name: "c", content: "d", method: zip.Deflate, time: epoch.Add(time.Hour)}))}), NormalisedEqual, []Rule{ZipTimes}},
		{"formats", plain, tarred(tar.Header{}), Different, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			report := compare(t, "out.jar", test.l, test.r, Limits{})
			slices.Sort(test.rules)
			if report.Verdict != test.want || !slices.Equal(rulesOf(report), test.rules) {
				t.Errorf("%s by %q, want %s by %q\n%s", report.Verdict, rulesOf(report), test.want, test.rules, report)
			}
			mirrored := compare(t, "out.jar", test.r, test.l, Limits{})
			if mirrored.Verdict != report.Verdict || !slices.Equal(mirrored.Rules, report.Rules) {
				t.Errorf("the other way round: %s", mirrored)
			}
		})
	}
}

// script is a start script of so many bytes.
func script(n int, c byte) []byte {
	return append([]byte("#!/bin/sh\n"), bytes.Repeat([]byte{c}, n)...)
}

// beforeDirectory puts bytes where no program that unpacks a zip looks.
func beforeDirectory(archive []byte, hidden string) []byte {
	at := bytes.Index(archive, []byte("PK\x01\x02"))
	out := slices.Concat(archive[:at], []byte(hidden), archive[at:])
	end := bytes.LastIndex(out, []byte("PK\x05\x06"))
	binary.LittleEndian.PutUint32(out[end+16:], uint32(at+len(hidden)))
	return out
}

// localTime changes the time in the first local header alone.
func localTime(archive []byte) []byte {
	archive[10]++
	return archive
}

func TestExplainsEveryRule(t *testing.T) {
	for rule, text := range explained {
		if text == "" || Explain(rule) != text {
			t.Errorf("rule %q is not explained", rule)
		}
	}
	if Explain("zip") != "" {
		t.Error("a rule that does not exist is explained")
	}
}

// TestAttributes: continuation lines go with their attribute, however many there are, and
// nothing of a manifest gets lost.
func TestAttributes(t *testing.T) {
	sections := attributes([]byte("A: 1\n 2\n 3\nB: x\r\n\r\n lone\nName: n\n y"))
	var got []string
	for _, section := range sections {
		for _, attribute := range section {
			got = append(got, string(attribute))
		}
		got = append(got, "|")
	}
	want := []string{"A: 1\n 2\n 3\n", "B: x\r\n", "\r\n", "|", " lone\n", "Name: n\n y", "|"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	long := []byte("A: 1\n" + strings.Repeat(" \n", 100_000))
	if sections := attributes(long); len(sections) != 1 || len(sections[0]) != 1 || !bytes.Equal(joined(sections), long) {
		t.Errorf("%d sections of a long attribute", len(sections))
	}
}

// TestSplitExtra: the fields that hold times are told from the others, of which an entry
// may have very many.
func TestSplitExtra(t *testing.T) {
	times, others := splitExtra([]byte("\x55\x54\x01\x00t\x99\x99\x01\x00o\x0a\x00\x00\x00rest"))
	if times != "5554010074"+"0a000000" || others != "999901006f"+"72657374" {
		t.Errorf("%s, %s", times, others)
	}
	many := bytes.Repeat([]byte{0x99, 0x99, 0, 0}, 16_000)
	for range 100 {
		if times, others := splitExtra(many); times != "" || len(others) != 2*len(many) {
			t.Fatalf("%d, %d", len(times), len(others))
		}
	}
}
