// Package history is the configurations that a node has run with: what
// pyrsia.hcl said each time it was taken, the newest last. The newest is the last
// good one, by which a node starts whose file is broken.
//
// A folder holds at most Keep of them, each a file of its own that is named by its
// number and time and never changes, and the path of the pyrsia.hcl they are of.
package history

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/pyrsia/appliance/modules/durable"
)

// Keep is how many configurations are kept.
const Keep = 50

// ErrNone says that there is no configuration of that kind.
var ErrNone = errors.New("no such configuration is kept")

// Entry is one configuration.
type Entry struct {
	Number int       `json:"number"` // the first is 1
	Time   time.Time `json:"time"`   // when it was taken, whole seconds
	Path   string    `json:"path"`   // where its source is
}

// Folder is the history of one pyrsia.hcl. Calls that change it must not meet.
type Folder struct {
	path string
	file string
	disk durable.FS
}

// Of is the history in a folder of the configuration with a path. It opens nothing.
func Of(folder, file string, disk durable.FS) *Folder {
	return &Folder{path: folder, file: file, disk: disk}
}

// owner is the file that says of which pyrsia.hcl a folder is the history.
const owner = "of"

var named = regexp.MustCompile(`^([0-9]{6,})-([0-9]{8}T[0-9]{6}Z)\.hcl$`)

const stamp = "20060102T150405Z"

// List are the configurations, oldest first; none where there never was one, or
// where the folder is that of another pyrsia.hcl.
func (f *Folder) List() ([]Entry, error) {
	of, err := os.ReadFile(filepath.Join(f.path, owner))
	if errors.Is(err, fs.ErrNotExist) || err == nil && string(of) != f.file {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the kept configurations: %w", err)
	}
	files, err := os.ReadDir(f.path)
	if err != nil {
		return nil, fmt.Errorf("read the kept configurations: %w", err)
	}
	var all []Entry
	for _, file := range files { // sorted by name, so by number
		m := named.FindStringSubmatch(file.Name())
		if m == nil {
			continue
		}
		number, err := strconv.Atoi(m[1])
		taken, err2 := time.Parse(stamp, m[2])
		if err != nil || err2 != nil {
			continue
		}
		all = append(all, Entry{Number: number, Time: taken, Path: filepath.Join(f.path, file.Name())})
	}
	return all, nil
}

// Last is the newest configuration and its source; ErrNone if there is none.
func (f *Folder) Last() (Entry, []byte, error) {
	all, err := f.List()
	if err != nil {
		return Entry{}, nil, err
	}
	if len(all) == 0 {
		return Entry{}, nil, ErrNone
	}
	return f.read(all[len(all)-1])
}

// Next is the number that Add gives a configuration.
func (f *Folder) Next(source []byte) int {
	last, newest, err := f.Last()
	if err == nil && bytes.Equal(newest, source) {
		return last.Number
	}
	return last.Number + 1
}

// Read is the configuration with a number.
func (f *Folder) Read(number int) (Entry, []byte, error) {
	all, err := f.List()
	if err != nil {
		return Entry{}, nil, err
	}
	for _, e := range all {
		if e.Number == number {
			return f.read(e)
		}
	}
	return Entry{}, nil, ErrNone
}

func (f *Folder) read(e Entry) (Entry, []byte, error) {
	source, err := os.ReadFile(e.Path)
	if err != nil {
		return Entry{}, nil, fmt.Errorf("read a kept configuration: %w", err)
	}
	return e, source, nil
}

// Add keeps a configuration that the node runs with, durable when it returns, unless
// it is the newest already; it returns the newest then. A crash leaves it kept or not.
func (f *Folder) Add(source []byte, now time.Time) (Entry, error) {
	e, err := f.add(source, now)
	if err != nil {
		return Entry{}, fmt.Errorf("keep the configuration: %w", err)
	}
	return e, nil
}

func (f *Folder) add(source []byte, now time.Time) (Entry, error) {
	if err := f.claim(); err != nil {
		return Entry{}, err
	}
	last, newest, err := f.Last()
	if err == nil && bytes.Equal(newest, source) {
		return last, nil
	}
	if err != nil && !errors.Is(err, ErrNone) {
		return Entry{}, err
	}
	e := Entry{Number: last.Number + 1, Time: now.UTC().Truncate(time.Second)}
	e.Path = filepath.Join(f.path, fmt.Sprintf("%06d-%s.hcl", e.Number, e.Time.Format(stamp)))
	if err := durable.Replace(f.disk, e.Path, source); err != nil {
		return Entry{}, err
	}
	return e, f.prune()
}

// claim makes the folder this configuration's. That of another is emptied first: a
// last good one must never be another node's.
func (f *Folder) claim() error {
	of, err := os.ReadFile(filepath.Join(f.path, owner))
	if err == nil && string(of) == f.file {
		return durable.Sweep(f.disk, f.path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := f.disk.RemoveAll(f.path); err != nil {
		return err
	}
	if err := errors.Join(f.disk.Mkdir(f.path), f.disk.SyncDir(filepath.Dir(f.path))); err != nil {
		return err
	}
	return durable.Replace(f.disk, filepath.Join(f.path, owner), []byte(f.file))
}

func (f *Folder) prune() error {
	all, err := f.List()
	for err == nil && len(all) > Keep {
		err = f.disk.RemoveAll(all[0].Path)
		all = all[1:]
	}
	return err
}
