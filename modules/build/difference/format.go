package difference

import (
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
)

// format is a kind of file that holds others.
type format struct {
	name   string
	order  Rule // of its entries; empty for what compresses a single file
	layout Rule // of bytes that no entry and no field shows
	match  func(head []byte) bool
	open   func(*comparison, *blob) (*tree, error)
}

// formats are what is opened, in the order in which they are tried.
var formats = []*format{
	{"zip archive", ZipOrder, ZipLayout, isZip, openZip},
	{"tar archive", TarOrder, TarLayout, isTar, openTar},
	{"gzip file", "", GzipCompression, begins("\x1f\x8b\x08"), openGzip},
	{"zstd file", "", ZstdCompression, begins("\x28\xb5\x2f\xfd"), openZstd},
	{"bzip2 file", "", Bzip2Compression, isBzip2, openBzip2},
}

func (f *format) archive() bool { return f.order != "" }

func (f *format) String() string {
	if f == nil {
		return "file of another kind"
	}
	return f.name
}

// sniff finds a blob's format by its bytes, and nil if it has none that is
// opened. What cannot be read has none; the read after this one tells.
func sniff(b *blob) *format {
	head, _ := b.head(512)
	for _, f := range formats {
		if f.match(head) {
			return f
		}
	}
	// A program that unpacks itself, or a jar with a start script before it.
	tail, _ := b.at(max(0, b.size-zipEnd), zipEnd)
	if bytes.HasPrefix(tail, []byte("PK\x05\x06")) {
		return formats[0]
	}
	return nil
}

func begins(magic string) func([]byte) bool {
	return func(head []byte) bool { return bytes.HasPrefix(head, []byte(magic)) }
}

func isZip(head []byte) bool {
	return bytes.HasPrefix(head, []byte("PK\x03\x04")) || bytes.HasPrefix(head, []byte("PK\x05\x06"))
}

func isTar(head []byte) bool { return len(head) == 512 && string(head[257:262]) == "ustar" }

func isBzip2(head []byte) bool {
	return len(head) > 10 && string(head[:3]) == "BZh" && string(head[4:10]) == "\x31\x41\x59\x26\x53\x59"
}

// tree is what a file of some format holds: members, or the one file that it
// compresses.
type tree struct {
	fields  []field // of the whole, sorted by name
	members []member
	byName  map[string]int // indexes of members
	inner   *blob
	body    *blob // what of the file is compressed, without its header
	text    int   // bytes of names and values
}

func (t *tree) close() { t.inner.close() }

func (t *tree) member(name string) *member {
	if i, ok := t.byName[name]; ok {
		return &t.members[i]
	}
	return nil
}

// member is an entry of an archive.
type member struct {
	name   string
	size   int64
	fields func() []field // sorted by name; read when needed, since most entries of most archives are equal
	packed func() []field // about the stored bytes, so that they differ where the content does
	stored *blob          // as it stands in the archive; nil where that is the content

	// open gives the content; it is nil for what has none, such as a folder.
	open func(*comparison) (*blob, error)
}

// field is a value about a file. Where two values differ and the rule is the
// same, equal normal forms make them equal by that rule.
type field struct {
	name, value, normal string
	rule                Rule
}

// What one archive's index may take, so that a hostile one fills no memory. The
// largest jars have some 60,000 entries.
const (
	maxMembers   = 200_000
	maxIndexText = 64 << 20
	maxName      = 1024
)

var errIndex = fmt.Errorf("it has more than %d entries, or names and values of more than %d bytes", maxMembers, maxIndexText)

// add takes a member into the tree. It refuses what would make a report ambiguous,
// or what no honest builder writes.
func (t *tree) add(m member) error {
	if err := checkName(m.name); err != nil {
		return err
	}
	if _, twice := t.byName[m.name]; twice {
		return fmt.Errorf("two entries have the name %.200q", m.name)
	}
	if t.text += len(m.name); len(t.members) == maxMembers || t.text > maxIndexText {
		return errIndex
	}
	if t.byName == nil {
		t.byName = map[string]int{}
	}
	t.byName[m.name] = len(t.members)
	t.members = append(t.members, m)
	return nil
}

func sortFields(fields []field) {
	slices.SortFunc(fields, func(a, b field) int { return strings.Compare(a.name, b.name) })
}

func checkName(name string) error {
	slashed := strings.ReplaceAll(name, `\`, "/")
	switch {
	case len(name) > maxName:
		return fmt.Errorf("the name %.80q… has more than %d bytes", name, maxName)
	case !utf8.ValidString(name):
		return fmt.Errorf("the name %.200q is not UTF-8", name)
	case name == "" || strings.Contains(name, "\x00"):
		return fmt.Errorf("%.200q is no name", name)
	case path.IsAbs(slashed) || slices.Contains(strings.Split(slashed, "/"), ".."):
		return fmt.Errorf("the name %.200q leads out of the archive", name)
	}
	return nil
}

// openZstd allows windows up to 64 MiB, more than any level that images use.
func openZstd(c *comparison, b *blob) (*tree, error) {
	z, err := zstd.NewReader(b.reader(), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(64<<20), zstd.WithDecoderMaxMemory(128<<20))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	// Copied by hand: the decoder's own WriteTo starts goroutines.
	return c.single(struct{ io.Reader }{z}, b)
}

func openBzip2(c *comparison, b *blob) (*tree, error) {
	return c.single(bzip2.NewReader(b.reader()), b)
}

// single is the tree of what compresses one file.
func (c *comparison) single(r io.Reader, body *blob, fields ...field) (*tree, error) {
	inner, err := c.unpack(r)
	if errors.Is(err, errExhausted) || c.failed != nil {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("it does not decompress: %w", err)
	}
	sortFields(fields)
	return &tree{fields: fields, inner: inner, body: body}, nil
}
