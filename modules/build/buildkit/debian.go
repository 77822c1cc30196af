package buildkit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strings"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// debianKind is the kind of lock entries that are a path of a Debian archive:
// dists/<suite>/InRelease, dists/<suite>/<component>/binary-amd64/Packages.*
// and pool/….deb.
const debianKind = "debian"

const (
	maxIndexBytes  = 512 << 20 // of a Packages index, unpacked; trixie's main has 57 MB
	maxStanzaBytes = 1 << 20
)

// stanza is one package of a Packages index.
type stanza struct {
	text      []byte // as it stands in the index, with the final newline
	name      string
	file      string // path of the .deb in the archive
	sha256    artifact.SHA256
	essential bool
	needs     []string // names in Depends and Pre-Depends, every alternative
	provides  []string
	entry     record.LockEntry
}

// debianSet are the locked packages of a recipe's suite: exactly the .debs of
// the lock, each with its stanza from the locked index.
type debianSet struct {
	suite    string
	packages []*stanza // sorted by name
	byName   map[string][]*stanza
}

// readDebian reads the locked indexes and pairs them with the locked .debs.
func readDebian(d record.Debian, lock *record.Lock, open func(artifact.SHA256) (*os.File, error)) (*debianSet, error) {
	wanted := map[string]record.LockEntry{}
	indexes := map[string]record.LockEntry{}
	for _, e := range lock.Entries {
		if e.Kind != debianKind {
			continue
		}
		if strings.HasSuffix(e.Path, ".deb") {
			wanted[e.Path] = e
		} else if strings.HasPrefix(path.Base(e.Path), "Packages.") || path.Base(e.Path) == "Packages" {
			indexes[e.Path] = e
		}
	}
	set := &debianSet{suite: d.Suite, byName: map[string][]*stanza{}}
	for _, name := range sortedKeys(indexes) {
		if err := set.index(indexes[name], wanted, open); err != nil {
			return nil, fmt.Errorf("Debian index %s: %w", name, err)
		}
	}
	for _, name := range sortedKeys(wanted) {
		return nil, fmt.Errorf("%w: %s is locked, but no locked Packages index names it", errInput, name)
	}
	sort.Slice(set.packages, func(i, j int) bool { return set.packages[i].name < set.packages[j].name })
	for _, s := range set.packages {
		for _, name := range append([]string{s.name}, s.provides...) {
			set.byName[name] = append(set.byName[name], s)
		}
	}
	return set, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// index takes the wanted packages out of one Packages index.
func (s *debianSet) index(e record.LockEntry, wanted map[string]record.LockEntry, open func(artifact.SHA256) (*os.File, error)) error {
	file, err := open(e.File.SHA256)
	if err != nil {
		return err
	}
	defer file.Close()
	plain, err := decompressIndex(file, e.Path)
	if err != nil {
		return err
	}
	defer plain.Close()
	return stanzas(plain, func(text []byte) error {
		name := fieldOf(text, "Filename")
		entry, ok := wanted[name]
		if !ok {
			return nil
		}
		p, err := parseStanza(text)
		if err != nil {
			return err
		}
		if p.sha256 != entry.File.SHA256 {
			return fmt.Errorf("%w: %s is locked with SHA-256 %s, the index says %s", errInput, name, entry.File.SHA256, p.sha256)
		}
		p.entry = entry
		delete(wanted, name)
		s.packages = append(s.packages, p)
		return nil
	})
}

func decompressIndex(file *os.File, name string) (io.ReadCloser, error) {
	if path.Base(name) == "Packages" {
		return io.NopCloser(file), nil
	}
	return decompress(bufio.NewReaderSize(file, copyBuffer), name)
}

// stanzas calls fn with each paragraph of a Debian control file (deb822). The
// bytes are fn's only during the call.
func stanzas(r io.Reader, fn func([]byte) error) error {
	limited := &io.LimitedReader{R: r, N: maxIndexBytes + 1}
	lines := bufio.NewReaderSize(limited, copyBuffer)
	var text []byte
	for {
		line, err := lines.ReadSlice('\n')
		if limited.N <= 0 || len(text)+len(line) > maxStanzaBytes {
			return fmt.Errorf("%w: larger than %d bytes, or one of its packages larger than %d", errInput, maxIndexBytes, maxStanzaBytes)
		}
		text = append(text, line...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: %w", errInput, err)
		}
		end := errors.Is(err, io.EOF)
		if len(text) > 0 && (end || bytes.Equal(line, []byte("\n"))) {
			paragraph := append(bytes.TrimRight(text, "\n"), '\n')
			if len(paragraph) > 1 {
				if err := fn(paragraph); err != nil {
					return err
				}
			}
			text = text[:0]
		}
		if end {
			return nil
		}
	}
}

// fieldOf is the first line of a field's value, "" where the field is absent.
func fieldOf(text []byte, field string) string {
	for len(text) > 0 {
		line, rest, _ := bytes.Cut(text, []byte("\n"))
		text = rest
		if len(line) > len(field) && line[len(field)] == ':' && string(line[:len(field)]) == field {
			return strings.TrimSpace(string(line[len(field)+1:]))
		}
	}
	return ""
}

func parseStanza(text []byte) (*stanza, error) {
	p := &stanza{
		text: bytes.Clone(text), name: fieldOf(text, "Package"), file: fieldOf(text, "Filename"),
		essential: fieldOf(text, "Essential") == "yes",
		needs:     append(relations(fieldOf(text, "Pre-Depends")), relations(fieldOf(text, "Depends"))...),
		provides:  relations(fieldOf(text, "Provides")),
	}
	var err error
	if p.sha256, err = artifact.ParseSHA256(fieldOf(text, "SHA256")); err != nil {
		return nil, fmt.Errorf("%w: package %.100q: %w", errInput, p.name, err)
	}
	if p.name == "" {
		return nil, fmt.Errorf("%w: %.200q has no package name", errInput, p.file)
	}
	return p, nil
}

// relations are the package names of a dependency field, without versions and
// architectures; alternatives count like the rest.
func relations(field string) []string {
	var names []string
	for _, r := range strings.FieldsFunc(field, func(r rune) bool { return r == ',' || r == '|' }) {
		name, _, _ := strings.Cut(strings.TrimSpace(r), " ")
		name, _, _ = strings.Cut(name, ":")
		name, _, _ = strings.Cut(name, "(")
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

// closure are the locked packages that the given ones and the essential ones
// need. Of alternatives, all that are locked are in: the lock was made by a
// real resolver, here nothing needs to be decided.
func (s *debianSet) closure(roots []string) ([]*stanza, error) {
	chosen := map[*stanza]bool{}
	queue := append([]string(nil), roots...)
	for _, p := range s.packages {
		if p.essential {
			queue = append(queue, p.name)
		}
	}
	for i := 0; i < len(queue); i++ {
		for _, p := range s.byName[queue[i]] {
			if !chosen[p] {
				chosen[p] = true
				queue = append(queue, p.needs...)
			}
		}
	}
	for _, name := range roots {
		if len(s.byName[name]) == 0 {
			return nil, fmt.Errorf("%w: the lock has no Debian package %q, which the recipe's bootstrap names", errInput, name)
		}
	}
	var packages []*stanza
	for _, p := range s.packages {
		if chosen[p] {
			packages = append(packages, p)
		}
	}
	return packages, nil
}

// stage0 unpacks packages, never configured, into a root that is enough to run
// mmdebstrap in.
func (l *layerWriter) stage0(packages []*stanza, open func(artifact.SHA256) (*os.File, error)) error {
	aliases := map[string]string{}
	// base-files brings the links bin, lib and sbin, which must stand before
	// what other packages put below them.
	ordered := append([]*stanza(nil), packages...)
	sort.SliceStable(ordered, func(i, j int) bool {
		return ordered[i].name == "base-files" && ordered[j].name != "base-files"
	})
	for _, p := range ordered {
		if err := l.openDeb(p, aliases, open); err != nil {
			return fmt.Errorf("unpack %s: %w", p.file, err)
		}
	}
	for _, f := range []struct{ name, content string }{
		{"etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"},
		{"etc/group", "root:x:0:\n"},
		{"var/lib/dpkg/status", ""},
	} {
		if l.packed[f.name] != nil {
			continue
		}
		if err := l.text(f.name, f.content); err != nil {
			return err
		}
	}
	return nil
}

func (l *layerWriter) openDeb(p *stanza, aliases map[string]string, open func(artifact.SHA256) (*os.File, error)) error {
	file, err := open(p.entry.File.SHA256)
	if err != nil {
		return err
	}
	defer file.Close()
	return l.deb(file, aliases)
}

// repository packs a local apt repository of the locked packages: the only one
// that the build sees. apt need not check its signature, since every .deb in it
// was verified against the lock.
func (s *debianSet) repository(l *layerWriter, mtime int64, open func(artifact.SHA256) (*os.File, error)) error {
	var packages bytes.Buffer
	for i, p := range s.packages {
		if i > 0 {
			packages.WriteByte('\n')
		}
		packages.Write(p.text)
	}
	index := "main/binary-amd64/Packages"
	release := fmt.Sprintf("Suite: %[1]s\nCodename: %[1]s\nDate: %[2]s\nArchitectures: amd64\nComponents: main\nSHA256:\n %[3]x %[4]d %[5]s\n",
		s.suite, time.Unix(mtime, 0).UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC"),
		sha256.Sum256(packages.Bytes()), packages.Len(), index)
	dists := "dists/" + s.suite + "/"
	if err := l.text(dists+"Release", release); err != nil {
		return err
	}
	if err := l.text(dists+index, packages.String()); err != nil {
		return err
	}
	if err := l.text("sources.list", "deb [trusted=yes] file:"+repositoryMount+" "+s.suite+" main\n"); err != nil {
		return err
	}
	for _, p := range s.packages {
		if err := l.locked(p.file, p.entry.File, open); err != nil {
			return err
		}
	}
	return nil
}
