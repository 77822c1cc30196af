// Package artifact is the identity of packages and of the files in them:
// package URLs, file names, digests and descriptors.
//
// Everything here is pure: no file, socket, clock or goroutine. All types are
// plain values, safe to copy and to use as map keys.
package artifact

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrMalformed is wrapped by every parser of this package.
var ErrMalformed = errors.New("malformed")

// SHA256 is the SHA-256 digest of a file (FIPS 180-4). Build tools and
// registries ask by it.
type SHA256 [32]byte

// BLAKE3 is the plain, unkeyed BLAKE3 digest of a file. With the file's Bao
// tree it proves any chunk on arrival.
type BLAKE3 [32]byte

// String is the digest as 64 lower-case hexadecimal digits.
func (d SHA256) String() string { return hex.EncodeToString(d[:]) }

// OCI is the digest in the form of the OCI image specification, "sha256:<hex>".
func (d SHA256) OCI() string { return "sha256:" + d.String() }

// IsZero tells whether no digest was set.
func (d SHA256) IsZero() bool { return d == SHA256{} }

// MarshalText implements encoding.TextMarshaler.
func (d SHA256) MarshalText() ([]byte, error) { return d.AppendText(nil) }

// AppendText implements encoding.TextAppender.
func (d SHA256) AppendText(to []byte) ([]byte, error) { return hex.AppendEncode(to, d[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler; only String's form is taken.
func (d *SHA256) UnmarshalText(text []byte) error { return decodeHex(d[:], text) }

// ParseSHA256 reads a digest as String writes it, with or without the prefix
// "sha256:".
func ParseSHA256(s string) (SHA256, error) {
	var d SHA256
	return d, decodeHex(d[:], []byte(strings.TrimPrefix(s, "sha256:")))
}

// String is the digest as 64 lower-case hexadecimal digits.
func (d BLAKE3) String() string { return hex.EncodeToString(d[:]) }

// IsZero tells whether no digest was set.
func (d BLAKE3) IsZero() bool { return d == BLAKE3{} }

// MarshalText implements encoding.TextMarshaler.
func (d BLAKE3) MarshalText() ([]byte, error) { return d.AppendText(nil) }

// AppendText implements encoding.TextAppender.
func (d BLAKE3) AppendText(to []byte) ([]byte, error) { return hex.AppendEncode(to, d[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler; only String's form is taken.
func (d *BLAKE3) UnmarshalText(text []byte) error { return decodeHex(d[:], text) }

// ParseBLAKE3 reads a digest as String writes it.
func ParseBLAKE3(s string) (BLAKE3, error) {
	var d BLAKE3
	return d, decodeHex(d[:], []byte(s))
}

func decodeHex(dst, s []byte) error {
	if len(s) != 2*len(dst) {
		return fmt.Errorf("%w digest %.80q: want %d hexadecimal digits", ErrMalformed, s, 2*len(dst))
	}
	if _, err := hex.Decode(dst, s); err != nil || bytes.ContainsAny(s, "ABCDEF") {
		return fmt.Errorf("%w digest %.80q: want lower-case hexadecimal digits", ErrMalformed, s)
	}
	return nil
}

// Descriptor names the bytes of one file completely.
type Descriptor struct {
	BLAKE3 BLAKE3 `json:"blake3"`
	SHA256 SHA256 `json:"sha256"`
	Size   int64  `json:"size"` // bytes
}

// Name is what a client asks for: a file of a package. It maps to one
// descriptor for ever (docs/protocol.md, "Names").
type Name struct {
	File    string `json:"file"`
	Package PURL   `json:"package"`
}

// String is the name as "<purl>#<file>", for logs and messages.
func (n Name) String() string { return string(n.Package) + "#" + n.File }

// Check tells whether both parts are well-formed. A file name is one path
// segment or several joined by "/", none of them empty, "." or "..".
func (n Name) Check() error {
	if _, err := ParsePURL(string(n.Package)); err != nil {
		return err
	}
	return CheckFile(n.File)
}

// Family tells whether the name stands for all files of its package whose names
// begin alike: "thing-1.0-*". The part before the star ends where a word does, so
// that who owns a name is found by looking at its words.
func (n Name) Family() (beginning string, ok bool) {
	beginning, ok = strings.CutSuffix(n.File, "*")
	if !ok || beginning == "" || !strings.ContainsRune(wordEnds, rune(beginning[len(beginning)-1])) || strings.Contains(beginning, "*") {
		return "", false
	}
	return beginning, true
}

// wordEnds are the characters that end a word of a file name.
const wordEnds = "-._/"

// Families are the names of all families that the file would belong to.
func (n Name) Families() (families []Name) {
	for i := range len(n.File) {
		if strings.IndexByte(wordEnds, n.File[i]) >= 0 {
			families = append(families, Name{Package: n.Package, File: n.File[:i+1] + "*"})
		}
	}
	return families
}

// Overlap is a family and another name that it holds too: a file's, or that of a
// family within it.
type Overlap struct{ Family, Other Name }

// Overlaps finds the names that a family among them holds too, each with the
// widest such family. One file could then be published by two names. A name that
// is there twice is no overlap.
func Overlaps(names []Name) (overlaps []Overlap) {
	type beginning struct {
		name   Name
		file   string // without the star of a family
		family bool
	}
	sorted := make([]beginning, 0, len(names))
	for _, name := range names {
		file, family := name.Family()
		if !family {
			file = name.File
		}
		sorted = append(sorted, beginning{name, file, family})
	}
	// So all that a family holds follows it, and one look at each name will do.
	slices.SortFunc(sorted, func(a, b beginning) int {
		return cmp.Or(cmp.Compare(a.name.Package, b.name.Package), cmp.Compare(a.file, b.file), -cmp.Compare(len(a.name.File), len(b.name.File)))
	})
	var widest beginning
	for _, b := range sorted {
		held := widest.family && b.name.Package == widest.name.Package && strings.HasPrefix(b.file, widest.file)
		switch {
		case held && b.name != widest.name:
			overlaps = append(overlaps, Overlap{Family: widest.name, Other: b.name})
		case !held && b.family:
			widest = b
		}
	}
	return overlaps
}

// CheckFile tells whether a file name is relative, clean and printable: what
// may be joined to a folder without leaving it.
func CheckFile(file string) error {
	if file == "" || len(file) > 1024 || strings.HasPrefix(file, "/") {
		return fmt.Errorf("%w file name %.80q", ErrMalformed, file)
	}
	for _, segment := range strings.Split(file, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return fmt.Errorf("%w file name %.80q: segment %q", ErrMalformed, file, segment)
		}
	}
	for _, r := range file {
		if r < 0x20 || r == 0x7f || r == '\\' || r == 0xfffd {
			return fmt.Errorf("%w file name %.80q: character %q", ErrMalformed, file, r)
		}
	}
	return nil
}
