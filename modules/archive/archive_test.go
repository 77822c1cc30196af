package archive

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"
)

func makeZip(t testing.TB, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range names {
		f, err := w.Create(name)
		if err == nil {
			_, err = io.WriteString(f, "content of "+name)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestOpenZip(t *testing.T) {
	data := makeZip(t, "a", "../b")
	z, directory, err := OpenZip(bytes.NewReader(data), int64(len(data)), Bound{Records: 2, Bytes: 64 << 10})
	if err != nil || len(z.File) != 2 || !bytes.HasPrefix(data[directory:], []byte("PK\x01\x02")) {
		t.Fatalf("%v, %v", z, err)
	}
	f, err := z.Open("a")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(f); err != nil || string(text) != "content of a" {
		t.Errorf("%q, %v", text, err)
	}
}

// TestZipDirectory: a directory is not read for longer than it may be, whatever the end
// record says of it.
func TestZipDirectory(t *testing.T) {
	data := makeZip(t, strings.Split(strings.Repeat("abc,", 999)+"abc", ",")...)
	for _, bound := range []Bound{{999, 1 << 20}, {1000, 30 << 10}} {
		if _, _, err := OpenZip(bytes.NewReader(data), int64(len(data)), bound); err == nil || !strings.Contains(err.Error(), "directory claims") {
			t.Errorf("%+v: %v", bound, err)
		}
	}
	// 65,536 and one more are one, modulo what the record can say.
	many := makeZip(t, strings.Split(strings.Repeat("a,", 1<<16)+"a", ",")...)
	end := bytes.LastIndex(many, []byte("PK\x05\x06"))
	large := bytes.LastIndex(many, []byte("PK\x06\x06"))
	binary.LittleEndian.PutUint16(many[end+10:], 1)
	if large >= 0 {
		many = append(many[:large:large], many[end:]...)
		end = large
		binary.LittleEndian.PutUint32(many[end+12:], uint32(large)-uint32(bytes.Index(many, []byte("PK\x01\x02"))))
		binary.LittleEndian.PutUint32(many[end+16:], uint32(bytes.Index(many, []byte("PK\x01\x02"))))
	}
	binary.LittleEndian.PutUint16(many[end+8:], 1)
	binary.LittleEndian.PutUint16(many[end+10:], 1)
	if _, _, err := OpenZip(bytes.NewReader(many), int64(len(many)), Bound{Records: 1000, Bytes: 64 << 20}); err == nil {
		t.Error("more records than the bound are taken where the end record counts fewer")
	}
}

func pack(t testing.TB, config xz.WriterConfig, data string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := config.NewWriter(&b)
	if err == nil {
		_, err = io.WriteString(w, data)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// large has the header of the first block ask for a dictionary by its code.
func large(stream []byte, code byte) []byte {
	at := bytes.Index(stream, []byte{0x21, 1}) + 2
	stream[at] = code
	header := stream[12 : 12+(int(stream[12])+1)*4]
	binary.LittleEndian.PutUint32(header[len(header)-4:], crc32.ChecksumIEEE(header[:len(header)-4]))
	return stream
}

func TestOpenXZ(t *testing.T) {
	text := strings.Repeat("some text\n", 10_000)
	small := xz.WriterConfig{DictCap: 1 << 16}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"one stream":     {pack(t, small, text), text},
		"several blocks": {pack(t, xz.WriterConfig{DictCap: 1 << 16, BlockSize: 4096}, text), text},
		"two streams":    {append(pack(t, small, text), pack(t, small, "more")...), text + "more"},
		"64 MiB":         {large(pack(t, small, text), 28), text},
	} {
		r, err := OpenXZ(bytes.NewReader(c.data))
		if err != nil {
			t.Fatal(name, err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != c.want {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// TestXZDictionary: no block of no stream has memory taken for a dictionary that is too
// large.
func TestXZDictionary(t *testing.T) {
	small := xz.WriterConfig{DictCap: 1 << 16}
	for name, data := range map[string][]byte{
		"first":          large(pack(t, small, "text"), 29),
		"4 GiB":          large(pack(t, small, "text"), 40),
		"second stream":  append(pack(t, small, "text"), large(pack(t, small, "text"), 36)...),
		"no stream":      []byte("this is no xz stream, but it is long enough"),
		"cut":            pack(t, small, "text")[:30],
		"flipped header": func() []byte { d := pack(t, small, "text"); d[13] ^= 1; return d }(),
	} {
		r, err := OpenXZ(bytes.NewReader(data))
		if err == nil {
			_, err = io.ReadAll(r)
		}
		if err == nil || !strings.HasPrefix(err.Error(), "xz: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(makeZip(f, "a", "b/c"))
	f.Add(pack(f, xz.WriterConfig{DictCap: 1 << 16}, "text"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if z, _, err := OpenZip(bytes.NewReader(data), int64(len(data)), Bound{Records: 100, Bytes: 1 << 16}); err == nil && len(z.File) > 100 {
			t.Error("more records than the bound")
		}
		if r, err := OpenXZ(bytes.NewReader(data)); err == nil {
			io.Copy(io.Discard, io.LimitReader(r, 1<<20)) //nolint:errcheck // it must end
		}
	})
}
