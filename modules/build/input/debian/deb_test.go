package debian

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"
)

func ar(members ...string) []byte {
	b := []byte(arMagic)
	for i := 0; i < len(members); i += 2 {
		content := members[i+1]
		b = append(b, fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10d`\n%s", members[i], 0, 0, 0, "100644", len(content), content)...)
		if len(content)%2 == 1 {
			b = append(b, '\n')
		}
	}
	return b
}

func tarOf(t testing.TB, files ...string) string {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func packXZ(t testing.TB, config xz.WriterConfig, parts ...string) string {
	var b bytes.Buffer
	w, err := config.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range parts {
		if _, err := io.WriteString(w, part); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func packGzip(t testing.TB, s string) string {
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

func TestKeyrings(t *testing.T) {
	data := tarOf(t, "./usr/share/doc/x", "no keys", "./usr/share/keyrings/a.gpg", "A", "usr/share/keyrings/b.pgp", "B", "usr/share/keyrings/deeper/c.gpg", "C")
	for name, deb := range map[string][]byte{
		"plain":          ar("debian-binary", "2.0\n", "control.tar.xz", "odd", "data.tar", data),
		"slash":          ar("debian-binary/", "2.0\n", "data.tar/", data),
		"gzip":           ar("data.tar.gz", packGzip(t, data)),
		"xz":             ar("data.tar.xz", packXZ(t, xz.WriterConfig{DictCap: 1 << 20}, data)),
		"several blocks": ar("data.tar.xz", packXZ(t, xz.WriterConfig{DictCap: 1 << 16, BlockSize: 512}, data)),
	} {
		rings, err := Keyrings(deb)
		if err != nil || len(rings) != 2 || string(rings[0]) != "A" || string(rings[1]) != "B" {
			t.Errorf("%s: %q, %v", name, rings, err)
		}
	}
	whole := ar("data.tar.xz", packXZ(t, xz.WriterConfig{DictCap: 1 << 16}, data))
	for name, deb := range map[string][]byte{
		"empty":           {},
		"no archive":      []byte("<html>"),
		"no data":         ar("debian-binary", "2.0\n"),
		"cut":             whole[:len(whole)-20],
		"cut in a header": whole[:len(arMagic)+10],
		"negative size":   bytes.Replace(whole, []byte("100644  "), []byte("100644  -"), 1),
		"zstd":            ar("data.tar.zst", "x"),
		"no xz":           ar("data.tar.xz", "this is not an xz stream at all, but long enough"),
		"huge dictionary": ar("data.tar.xz", hugeDictionary(packXZ(t, xz.WriterConfig{DictCap: 1 << 16}, data))),
		"holes":           ar("data.tar", sparse("usr/share/keyrings/a.gpg", 1<<40)),
		"small holes":     ar("data.tar", sparse("usr/share/keyrings/a.gpg", 1<<10)),
		"bomb":            ar("data.tar.gz", packGzip(t, tarOf(t, "usr/share/keyrings/a.gpg", string(make([]byte, maxKeyringUnpacked))))),
		"flipped bit":     flip(whole, len(whole)-200),
	} {
		if rings, err := Keyrings(deb); err == nil {
			t.Errorf("%s: %d keyrings and no error", name, len(rings))
		} else if name != "no xz" && name != "flipped bit" && name != "huge dictionary" && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
}

// sparse is a tar of one file that is nothing but a hole, in GNU tar's form for PAX.
func sparse(name string, size int64) string {
	record := func(key, value string) string {
		n := len(key) + len(value) + 3
		for len(fmt.Sprint(n))+len(key)+len(value)+3 != n {
			n++
		}
		return fmt.Sprintf("%d %s=%s\n", n, key, value)
	}
	block := func(text string) string { return text + strings.Repeat("\x00", (512-len(text)%512)%512) }
	header := func(name string, size int, kind byte) string {
		b := make([]byte, 512)
		copy(b, name)
		copy(b[100:], "0000644\x000000000\x000000000\x00")
		copy(b[124:], fmt.Sprintf("%011o\x0000000000000\x00        %c", size, kind))
		copy(b[257:], "ustar\x0000")
		sum := 0
		for _, c := range b {
			sum += int(c)
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
		return string(b)
	}
	pax := record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") + record("GNU.sparse.name", name) + record("GNU.sparse.realsize", fmt.Sprint(size))
	content := block(fmt.Sprintf("1\n%d\n0\n", size))
	return header("PaxHeaders/a", len(pax), 'x') + block(pax) + header(name, len(content), '0') + content + strings.Repeat("\x00", 1024)
}

// hugeDictionary lets the block's header ask for 4 GiB.
func hugeDictionary(stream string) string {
	const dictionary = 12 + 4 // behind the stream's header, sizes, flags, filter
	return stream[:dictionary] + "\x28" + stream[dictionary+1:]
}

func flip(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 1
	return b
}

func FuzzKeyrings(f *testing.F) {
	data := tarOf(f, "./usr/share/keyrings/a.gpg", "A")
	f.Add(ar("debian-binary", "2.0\n", "data.tar", data))
	f.Add(ar("data.tar.xz", packXZ(f, xz.WriterConfig{DictCap: 1 << 16}, data)))
	f.Add(ar("data.tar.gz", packGzip(f, data)))
	f.Fuzz(func(t *testing.T, deb []byte) {
		rings, err := Keyrings(deb)
		if err != nil && rings != nil {
			t.Errorf("%d keyrings and error %v", len(rings), err)
		}
	})
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nSuite: x\n-----BEGIN PGP SIGNATURE-----\n\n-----END PGP SIGNATURE-----\n"), []byte("ring"))
	f.Fuzz(func(t *testing.T, text, ring []byte) {
		if r, err := Verify(text, [][]byte{ring}, []string{"04B54C3CDCA79751B16BC6B5225629DF75B188BD"}); err == nil {
			t.Errorf("verified %v without a key", r)
		}
		_, _ = Unverified(text)
	})
}
