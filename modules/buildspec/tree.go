package buildspec

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pyrsia/appliance/modules/archive"
	"github.com/pyrsia/appliance/modules/artifact"
)

// tree is what an import reads of a source: its poms, and a few things of its shape.
type tree struct {
	strip  int64             // path segments that all of it has in common: 0 or 1
	poms   map[string][]byte // by path below them
	newest time.Time         // of its files
	files  map[string]bool   // those that say something by being there: Maven's wrapper, by path

	// Of an archive that a release made of its own source:
	generated []string // files in its root that the release's build had put there
	umask     string   // that its files were made with, "" where they tell of none
}

// Bounds of what is read of a source. What the archive itself may be is the build
// engine's rule.
const (
	maxPOM   = 4 << 20
	maxText  = 64 << 20 // of all poms together
	maxPOMs  = 4 * maxModules
	maxFiles = 1 << 20
)

// reading collects a tree before it is known what its paths have in common.
type reading struct {
	poms   map[string][]byte
	files  []string
	top    string
	common bool // every path so far begins with top
	newest time.Time
	modes  map[fs.FileMode]int // of files, how many have each
	listed bool                // the release's build made the list of dependencies
	text   int64               // bytes of the poms so far
}

func newReading() *reading {
	return &reading{poms: map[string][]byte{}, common: true, modes: map[fs.FileMode]int{}}
}

func (r *reading) file(name string, modified time.Time, size int64, open func() (io.Reader, error)) error {
	name = strings.TrimPrefix(name, "./")
	if artifact.CheckFile(name) != nil {
		return fmt.Errorf("the source has the path %.200q", name)
	}
	if len(r.files) >= maxFiles {
		return fmt.Errorf("the source has more than %d files", maxFiles)
	}
	top, _, below := strings.Cut(name, "/")
	if r.top == "" {
		r.top = top
	}
	r.common = r.common && below && top == r.top
	r.files = append(r.files, name)
	if modified.After(r.newest) {
		r.newest = modified
	}
	if path.Base(name) == legal[0] && strings.Count(name, "/") <= 1 {
		return r.legal(open)
	}
	if base := path.Base(name); !strings.HasSuffix(base, ".xml") || !strings.Contains(base, "pom") || len(r.poms) >= maxPOMs {
		return nil
	}
	if size > maxPOM {
		return fmt.Errorf("%s in the source has %d bytes", name, size)
	}
	if r.text += size; r.text > maxText {
		return fmt.Errorf("the poms in the source have more than %d bytes", maxText)
	}
	content, err := open()
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(content, size))
	r.poms[name] = text
	return err
}

// listed begins the list of dependencies that Apache's builds generate. Some projects keep
// a file of that name and write it themselves.
const listed = "// ---"

// legal remembers whether the list of dependencies is a generated one.
func (r *reading) legal(open func() (io.Reader, error)) error {
	content, err := open()
	if err != nil {
		return err
	}
	begin := make([]byte, len(listed))
	n, err := io.ReadFull(content, begin)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	r.listed = r.listed || string(begin[:n]) == listed
	return nil
}

func (r *reading) tree() (*tree, error) {
	if len(r.files) == 0 {
		return nil, errors.New("the source is empty")
	}
	t := &tree{poms: map[string][]byte{}, files: map[string]bool{}, newest: r.newest, umask: r.umask()}
	cut := 0
	if r.common {
		t.strip, cut = 1, len(r.top)+1
	}
	for name, text := range r.poms {
		t.poms[name[cut:]] = text
	}
	for _, name := range r.files {
		if path.Base(name) == path.Base(wrapper) {
			t.files[name[cut:]] = true
		}
	}
	t.generated = r.generated(cut)
	return t, nil
}

// legal are the files that the build of an Apache release generates.
var legal = []string{"DEPENDENCIES", "LICENSE", "NOTICE"}

// generated are the legal files that stand beside DEPENDENCIES in the archive: what the
// release's build generated it packed together, after what it found in the source.
func (r *reading) generated(cut int) []string {
	at := slices.IndexFunc(r.files, func(name string) bool { return name[cut:] == legal[0] })
	if at < 0 || !r.listed {
		return nil
	}
	first, last := at, at
	for first > 0 && slices.Contains(legal, r.files[first-1][cut:]) {
		first--
	}
	for last+1 < len(r.files) && slices.Contains(legal, r.files[last+1][cut:]) {
		last++
	}
	var names []string
	for _, name := range r.files[first : last+1] {
		names = append(names, name[cut:])
	}
	slices.Sort(names)
	return names
}

// umask is what the most files lack of all permissions.
func (r *reading) umask() string {
	var best fs.FileMode
	for mode, n := range r.modes {
		if best == 0 || n > r.modes[best] || n == r.modes[best] && mode < best {
			best = mode
		}
	}
	if best&0o600 != 0o600 {
		return "" // made where files have no such modes
	}
	lacks := func(bits fs.FileMode) int {
		switch bits & 0o6 {
		case 0o6:
			return 0
		case 0o4:
			return 2
		}
		return 7
	}
	return fmt.Sprintf("0%d%d", lacks(best>>3), lacks(best))
}

// unixSystem is, of the systems that APPNOTE.TXT 4.4.2 lists, the one with modes.
const unixSystem = 3

// readZip reads a source archive.
func readZip(file *os.File) (*tree, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	opened, _, err := archive.OpenZip(file, info.Size(), archive.Bound{Records: maxFiles, Bytes: 128 << 20})
	if err != nil {
		return nil, err
	}
	r := newReading()
	for _, entry := range opened.File {
		if entry.FileInfo().IsDir() {
			continue
		}
		if mode := entry.Mode().Perm(); entry.CreatorVersion>>8 == unixSystem && mode&0o111 == 0 {
			r.modes[mode]++
		}
		err := r.file(entry.Name, entry.Modified, int64(min(entry.UncompressedSize64, maxPOM+1)), func() (io.Reader, error) { return entry.Open() })
		if err != nil {
			return nil, err
		}
	}
	return r.tree()
}

// readTar reads a commit's tree.
func readTar(file io.Reader) (*tree, error) {
	r, entries := newReading(), tar.NewReader(file)
	for {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			t, err := r.tree()
			if t != nil && t.strip > 0 { // a commit's paths are as they are
				return nil, fmt.Errorf("the commit has nothing but the folder %s", r.top)
			}
			return t, err
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := r.file(h.Name, time.Time{}, h.Size, func() (io.Reader, error) { return entries, nil }); err != nil {
			return nil, err
		}
	}
}
