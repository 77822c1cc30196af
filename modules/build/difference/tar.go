package difference

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/pyrsia/appliance/modules/archive"
)

// stabiliser reads a value of an entry, and its normal form: entries with equal
// normal forms are equal by the rule. Without a rule, nothing makes unequal
// values equal.
type stabiliser[entry any] struct {
	field string
	rule  Rule
	read  func(entry) (value, normal string)
}

// read applies a table of stabilisers to an entry, and sorts what it gives by name.
func read[entry any](table []stabiliser[entry], e entry) []field {
	fields := make([]field, 0, len(table))
	for _, s := range table {
		f := field{name: s.field, rule: s.rule}
		f.value, f.normal = s.read(e)
		fields = append(fields, f)
	}
	sortFields(fields)
	return fields
}

var tarFields = []stabiliser[*tar.Header]{
	{"type", "", func(h *tar.Header) (string, string) { return tarType(h.Typeflag), "" }},
	{"link", "", func(h *tar.Header) (string, string) { return h.Linkname, "" }},
	{"device", "", func(h *tar.Header) (string, string) { return fmt.Sprintf("%d:%d", h.Devmajor, h.Devminor), "" }},
	{"mode", TarModes, func(h *tar.Header) (string, string) {
		return fmt.Sprintf("%04o", h.Mode), fmt.Sprintf("%04o", h.Mode&^0o070)
	}},
	{"modified", TarTimes, func(h *tar.Header) (string, string) { return moment(h.ModTime), "" }},
	{"accessed", TarTimes, func(h *tar.Header) (string, string) { return moment(h.AccessTime), "" }},
	{"changed", TarTimes, func(h *tar.Header) (string, string) { return moment(h.ChangeTime), "" }},
	{"owner", TarOwners, func(h *tar.Header) (string, string) { return fmt.Sprintf("%d %s", h.Uid, h.Uname), "" }},
	{"group", TarOwners, func(h *tar.Header) (string, string) { return fmt.Sprintf("%d %s", h.Gid, h.Gname), "" }},
	{"header format", TarLayout, func(h *tar.Header) (string, string) { return h.Format.String(), "" }},
}

// tarTypes are the kinds of entries in words.
var tarTypes = map[byte]string{
	tar.TypeReg: "file", tar.TypeDir: "folder", tar.TypeSymlink: "symbolic link", tar.TypeLink: "hard link",
	tar.TypeChar: "character device", tar.TypeBlock: "block device", tar.TypeFifo: "named pipe",
	tar.TypeXGlobalHeader: "global header",
}

func tarType(flag byte) string {
	if name, ok := tarTypes[flag]; ok {
		return name
	}
	return fmt.Sprintf("type %q", flag)
}

// contentless are the kinds after whose header the next one follows, whatever size
// they claim. Others have a content, also where nobody knows what they are.
var contentless = []byte{tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo, tar.TypeXGlobalHeader}

// told are the PAX records that the library moves into the header.
var told = []string{"path", "linkpath", "size", "uid", "gid", "uname", "gname", "mtime", "atime", "ctime"}

// position counts what has been read of a tar. Without a Seek, the library reads
// all that it passes over, so that the count is where it stands.
type position struct {
	from io.Reader
	at   int64
}

func (p *position) Read(data []byte) (int, error) {
	n, err := p.from.Read(data)
	p.at += int64(n)
	return n, err
}

func openTar(_ *comparison, b *blob) (*tree, error) {
	p := &position{from: b.reader()}
	files, t := tar.NewReader(p), new(tree)
	for {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return t, t.remainder(b, p.at)
		}
		if err != nil {
			return nil, err
		}
		if err := t.tarMember(h, b, p.at); err != nil {
			return nil, err
		}
	}
}

// tarMember takes the entry whose content begins at an offset.
func (t *tree) tarMember(h *tar.Header, b *blob, offset int64) error {
	m := member{name: h.Name, size: h.Size, fields: func() []field { return tarMetadata(h) }}
	t.text += len(h.Linkname) + len(h.Uname) + len(h.Gname)
	if archive.IsSparse(h) {
		return fmt.Errorf("%.200q is a sparse file", h.Name)
	}
	for key, value := range h.PAXRecords {
		t.text += len(key) + len(value)
	}
	if !slices.Contains(contentless, h.Typeflag) {
		if h.Size < 0 || h.Size > b.size-offset {
			return fmt.Errorf("%.200q goes on beyond the end of the archive", h.Name)
		}
		m.open = func(*comparison) (*blob, error) { return b.part(offset, h.Size), nil }
	}
	return t.add(m)
}

func tarMetadata(h *tar.Header) []field {
	fields := read(tarFields, h)
	for key, value := range h.PAXRecords {
		if !slices.Contains(told, key) {
			fields = append(fields, field{name: "record " + key, value: value})
		}
	}
	sortFields(fields)
	return fields
}

// remainder looks at what follows a tar's end. That is zeros, and how many is the
// layout's; anything else is hidden from all who unpack the tar.
func (t *tree) remainder(b *blob, offset int64) error {
	hash, hidden := sha256.New(), false
	for at := offset; at < b.size; at += chunk {
		data, err := b.at(at, chunk)
		if err != nil {
			return err
		}
		hash.Write(data)
		hidden = hidden || len(bytes.Trim(data, "\x00")) > 0
	}
	if hidden {
		t.fields = append(t.fields, field{name: "bytes after the end", value: fmt.Sprintf("%s, sha256:%x", bytesOf(b.size-offset), hash.Sum(nil))})
	}
	return nil
}
