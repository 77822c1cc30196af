package difference

import (
	"archive/zip"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"slices"

	"github.com/pyrsia/appliance/modules/archive"
)

// zipEntry is an entry by both of its headers. They may contradict one another:
// programs that read a zip as a stream see the local one.
type zipEntry struct {
	*zip.File
	local []byte // the local header: 30 bytes, the name, the extra fields
}

func (e *zipEntry) localName() string {
	return string(e.local[30 : 30+binary.LittleEndian.Uint16(e.local[26:])])
}

func (e *zipEntry) localExtra() []byte { return e.local[30+len(e.localName()):] }

var zipFields = []stabiliser[*zipEntry]{
	{"type", "", func(e *zipEntry) (string, string) { return zipType(e.Mode()), "" }},
	{"encrypted", "", func(e *zipEntry) (string, string) { return fmt.Sprint(e.Flags&1 != 0), "" }},
	{"local name", "", func(e *zipEntry) (string, string) { return otherThan(e.Name, e.localName()), "" }},
	{"local method", "", func(e *zipEntry) (string, string) {
		return otherThan(zipMethod(e.Method), zipMethod(binary.LittleEndian.Uint16(e.local[8:]))), ""
	}},
	{"modified", ZipTimes, func(e *zipEntry) (string, string) { return e.Modified.Format("2006-01-02T15:04:05Z07:00"), "" }},
	{"time fields", ZipTimes, func(e *zipEntry) (string, string) {
		central, _ := splitExtra(e.Extra)
		local, _ := splitExtra(e.localExtra())
		return pair(central, local), ""
	}},
	{"extra fields", ZipExtra, func(e *zipEntry) (string, string) {
		_, central := splitExtra(e.Extra)
		_, local := splitExtra(e.localExtra())
		return pair(central, local), ""
	}},
	{"comment", ZipComments, func(e *zipEntry) (string, string) { return e.Comment, "" }},
	{"mode", ZipAttributes, func(e *zipEntry) (string, string) {
		return fmt.Sprintf("%v (attributes %#x)", e.Mode(), e.ExternalAttrs), ""
	}},
	{"version", ZipAttributes, func(e *zipEntry) (string, string) {
		return fmt.Sprintf("made by %#x, to read %d", e.CreatorVersion, e.ReaderVersion), ""
	}},
	{"flags", ZipLayout, func(e *zipEntry) (string, string) { return fmt.Sprintf("%#x", e.Flags&^7), "" }},
}

// zipPacked are about the compressed bytes. Where the content differs, so do they.
var zipPacked = []stabiliser[*zipEntry]{
	{"checksum", "", func(e *zipEntry) (string, string) { return fmt.Sprintf("%08x", e.CRC32), "" }},
	{"claimed size", "", func(e *zipEntry) (string, string) { return fmt.Sprint(e.UncompressedSize64), "" }},
	{"method", ZipCompression, func(e *zipEntry) (string, string) { return zipMethod(e.Method), "" }},
}

func zipType(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "folder"
	case mode&fs.ModeSymlink != 0:
		return "symbolic link"
	case mode.IsRegular():
		return "file"
	}
	return mode.Type().String()
}

func zipMethod(method uint16) string {
	switch method {
	case zip.Store:
		return "stored"
	case zip.Deflate:
		return "deflate"
	}
	return fmt.Sprintf("method %d", method)
}

// otherThan is what the local header says, if it contradicts the directory.
func otherThan(central, local string) string {
	if central == local {
		return ""
	}
	return local
}

func pair(central, local string) string {
	if central == "" && local == "" {
		return ""
	}
	return "central " + cmp.Or(central, "none") + ", local " + cmp.Or(local, "none")
}

// splitExtra separates the extra fields that hold times (NTFS, Info-ZIP, both of
// its kinds) from the others (APPNOTE.TXT 4.5).
func splitExtra(extra []byte) (times, others string) {
	var time, other []byte
	for len(extra) >= 4 {
		id, size := binary.LittleEndian.Uint16(extra), int(binary.LittleEndian.Uint16(extra[2:]))
		if size > len(extra)-4 {
			break
		}
		one := extra[:4+size]
		switch id {
		case 0x000a, 0x5455, 0x5855:
			time = append(time, one...)
		default:
			other = append(other, one...)
		}
		extra = extra[4+size:]
	}
	return hex.EncodeToString(time), hex.EncodeToString(append(other, extra...))
}

const (
	zipEnd       = 22                    // the end record without a comment
	maxDirectory = 16 << 20              // bytes of a central directory, some 150,000 entries
	maxZipHeader = 24 + 30 + 2*(1<<16-1) // a descriptor, and a local header with name and extra fields
)

func openZip(c *comparison, b *blob) (*tree, error) {
	opened, directory, err := archive.OpenZip(b, b.size, archive.Bound{Records: maxMembers, Bytes: maxDirectory})
	if err != nil {
		return nil, err
	}
	t := &tree{fields: []field{{name: "comment", value: opened.Comment, rule: ZipComments}}}
	locals, err := t.locals(b, opened.File, directory)
	if err != nil {
		return nil, err
	}
	for i, file := range opened.File {
		if err := t.zipMember(b, &zipEntry{File: file, local: locals[i].header}, locals[i].data); err != nil {
			return nil, err
		}
	}
	sortFields(t.fields)
	return t, nil
}

// local is where an entry is in the file.
type local struct {
	header []byte
	data   int64
}

// locals finds the local headers. What lies outside all of them, such as a start
// script before the first, becomes a field of the archive: no entry shows it. It
// also refuses entries that overlap, which is how a small zip becomes a large
// one without any compression to speak of.
func (t *tree) locals(b *blob, files []*zip.File, directory int64) ([]local, error) {
	if len(files) > maxMembers {
		return nil, errIndex
	}
	found, order, err := t.data(b, files)
	if err != nil {
		return nil, err
	}
	outside, end := &stray{hash: sha256.New()}, int64(0)
	for _, i := range order {
		gap, err := outside.before(b, end, found[i].data)
		if err != nil {
			return nil, err
		}
		at := localHeader(gap)
		if at < 0 {
			return nil, fmt.Errorf("%.200q overlaps with another entry", files[i].Name)
		}
		outside.add(gap[:at])
		found[i].header = gap[at:]
		if t.text += len(gap) - at; t.text > maxIndexText {
			return nil, errIndex
		}
		end = found[i].data + int64(files[i].CompressedSize64)
	}
	gap, err := outside.before(b, end, max(end, directory))
	if err != nil {
		return nil, err
	}
	outside.add(gap)
	if outside.size > 0 {
		t.fields = append(t.fields, field{name: "bytes outside entries", value: fmt.Sprintf("%s, sha256:%x", bytesOf(outside.size), outside.hash.Sum(nil))})
	}
	return found, nil
}

// data finds where the data of each entry begins, and their order in the file.
func (t *tree) data(b *blob, files []*zip.File) (found []local, order []int, err error) {
	found, order = make([]local, len(files)), make([]int, len(files))
	for i, file := range files {
		data, err := file.DataOffset()
		if err != nil {
			return nil, nil, fmt.Errorf("%.200q has no local header: %w", file.Name, err)
		}
		if file.CompressedSize64 > uint64(b.size) || data > b.size-int64(file.CompressedSize64) {
			return nil, nil, fmt.Errorf("%.200q goes on beyond the end of the archive", file.Name)
		}
		found[i].data, order[i] = data, i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(found[i].data, found[j].data) })
	return found, order, nil
}

// localHeader finds the local header that ends where gap does.
func localHeader(gap []byte) int {
	for at := 0; at+30 <= len(gap); at++ {
		next := bytes.Index(gap[at:], []byte("PK\x03\x04"))
		if next < 0 || at+next+30 > len(gap) {
			return -1
		}
		at += next
		h := gap[at:]
		if 30+int(binary.LittleEndian.Uint16(h[26:]))+int(binary.LittleEndian.Uint16(h[28:])) == len(h) {
			return at
		}
	}
	return -1
}

// stray is what no entry shows.
type stray struct {
	hash hash.Hash
	size int64
}

// add takes what lies between two entries, unless it is the descriptor that
// follows the data of one written as a stream (APPNOTE.TXT 4.3.9).
func (s *stray) add(data []byte) {
	if len(data) == 12 || (len(data) == 16 || len(data) == 20 || len(data) == 24) && (len(data) == 20 || bytes.HasPrefix(data, []byte("PK\x07\x08"))) {
		return
	}
	s.hash.Write(data)
	s.size += int64(len(data))
}

// before reads what lies between two offsets. Of more than one header can be, it
// takes all but the end at once.
func (s *stray) before(b *blob, from, to int64) ([]byte, error) {
	for to-from > maxZipHeader {
		data, err := b.at(from, min(chunk, to-from-maxZipHeader))
		if err != nil {
			return nil, err
		}
		s.hash.Write(data)
		s.size += int64(len(data))
		from += int64(len(data))
	}
	return b.at(from, to-from)
}

func (t *tree) zipMember(b *blob, e *zipEntry, data int64) error {
	m := member{
		name: e.Name, size: int64(min(e.UncompressedSize64, 1<<62)),
		fields: func() []field { return read(zipFields, e) },
		packed: func() []field { return read(zipPacked, e) },
		stored: b.part(data, int64(e.CompressedSize64)),
		open:   func(c *comparison) (*blob, error) { return c.unzip(e.File) },
	}
	return t.add(m)
}

// unzip decompresses an entry. The library compares its length and checksum.
func (c *comparison) unzip(file *zip.File) (*blob, error) {
	if file.Flags&1 != 0 {
		return nil, errors.New("it is encrypted")
	}
	r, err := file.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return c.unpack(struct{ io.Reader }{r})
}
