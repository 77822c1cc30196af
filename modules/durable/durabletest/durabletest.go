// Package durabletest is a disk that fails: at a chosen step, in the ways in which
// processes, machines and disks do.
package durabletest

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/pyrsia/appliance/modules/durable"
)

// ErrCrash is what every step returns once the process is gone.
var ErrCrash = errors.New("crash")

// Kind is a way to fail.
type Kind struct {
	Name  string
	Err   error // of the step
	Once  bool  // only this step fails, and the process goes on
	Torn  bool  // the step's write is done by half
	Power bool  // afterwards every write that was not synced has lost its second half
	Names bool  // and every name that was made in a folder that was not synced since is as before
}

// Kinds are all ways to fail. With those that are not Once the process ends.
var Kinds = []Kind{
	{Name: "process", Err: ErrCrash},
	{Name: "torn write", Err: ErrCrash, Torn: true},
	{Name: "power", Err: ErrCrash, Power: true},
	{Name: "power, and names", Err: ErrCrash, Power: true, Names: true},
	{Name: "full disk", Err: syscall.ENOSPC, Once: true, Torn: true},
	{Name: "broken disk", Err: syscall.EIO, Once: true},
}

// EveryStep has something fail in every way at each of its steps. fail lets a number
// of steps succeed and tells whether one failed after them; there must be at least as
// many as said.
func EveryStep(t *testing.T, least int, fail func(t *testing.T, kind Kind, after int) (failed bool)) {
	for _, kind := range Kinds {
		t.Run(kind.Name, func(t *testing.T) {
			steps := 0
			for failed := true; failed; steps++ {
				if failed = fail(t, kind, steps); t.Failed() {
					t.Fatalf("failed at step %d", steps)
				}
			}
			if steps < least {
				t.Errorf("only %d steps", steps)
			}
		})
	}
}

// Disk is a file system that fails at a chosen step. It is safe for concurrent
// use.
type Disk struct {
	durable.FS
	kind Kind

	mu     sync.Mutex
	armed  bool
	after  int // steps that still succeed
	steps  int
	failed bool
	dirty  map[string][]span // by path: what was written and not synced
	made   []name            // and not synced, oldest first
}

// span is a part of a file, in bytes.
type span struct{ from, to int64 }

// name is a name that was made, and how to take it back.
type name struct {
	folder string
	undo   func() error
}

// New is a disk over another one, which does not fail before it is armed.
func New(over durable.FS, kind Kind) *Disk {
	return &Disk{FS: over, kind: kind, dirty: map[string][]span{}}
}

// Arm lets a number of steps from now on succeed and the next one fail. A
// negative number never fails.
func (d *Disk) Arm(after int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.armed, d.after, d.steps, d.failed = after >= 0, after, 0, false
}

// Failed tells whether a step failed.
func (d *Disk) Failed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

func (d *Disk) step() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.armed {
		return nil
	}
	if d.steps++; d.steps <= d.after || d.kind.Once && d.failed {
		return nil
	}
	d.failed = true
	return d.kind.Err
}

func (d *Disk) wrote(path string, from int64, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dirty[path] = append(d.dirty[path], span{from, from + int64(n)})
}

func (d *Disk) synced(path string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.dirty, path)
}

func (d *Disk) moved(from, to string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for path, spans := range d.dirty {
		if path == from || strings.HasPrefix(path, from+"/") {
			delete(d.dirty, path)
			d.dirty[to+strings.TrimPrefix(path, from)] = spans
		}
	}
}

// makes notes that a name is made. d.mu is not held.
func (d *Disk) makes(path string, undo func() error) {
	if !d.kind.Names {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.made = append(d.made, name{filepath.Dir(path), undo})
}

// CutPower takes, where the kind says so, the second half of every write that was
// not synced: it reads as zeros; and what names were made. The process must be gone.
func (d *Disk) CutPower(t testing.TB) {
	t.Helper()
	if !d.kind.Power {
		return
	}
	for path, spans := range d.dirty {
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range spans {
			clear(data[min((s.from+s.to)/2, int64(len(data))):min(s.to, int64(len(data)))])
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := len(d.made) - 1; i >= 0; i-- {
		if err := d.made[i].undo(); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// Mkdir implements durable.FS.
func (d *Disk) Mkdir(path string) error {
	if err := d.step(); err != nil {
		return err
	}
	err := d.FS.Mkdir(path)
	if err == nil {
		d.makes(path, func() error { return os.RemoveAll(path) })
	}
	return err
}

// Create implements durable.FS.
func (d *Disk) Create(path string) (durable.File, error) {
	f, err := d.open(path, d.FS.Create)
	if err == nil {
		d.makes(path, func() error { return os.Remove(path) })
	}
	return f, err
}

// OpenWrite implements durable.FS.
func (d *Disk) OpenWrite(path string) (durable.File, error) { return d.open(path, d.FS.OpenWrite) }

func (d *Disk) open(path string, open func(string) (durable.File, error)) (durable.File, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	inner, err := open(path)
	if err != nil {
		return nil, err
	}
	return &file{File: inner, d: d, path: path}, nil
}

// Rename implements durable.FS.
func (d *Disk) Rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	replaced, reading := os.ReadFile(to)
	if err := d.FS.Rename(from, to); err != nil {
		return err
	}
	d.moved(from, to)
	// Undone, the file is where it was, and what stood in its new place is back.
	d.makes(to, func() error {
		if err := os.Rename(to, from); err != nil || reading != nil {
			return err
		}
		return os.WriteFile(to, replaced, 0o600)
	})
	return nil
}

// RemoveAll implements durable.FS.
func (d *Disk) RemoveAll(path string) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.FS.RemoveAll(path)
}

// SyncDir implements durable.FS.
func (d *Disk) SyncDir(path string) error {
	if err := d.step(); err != nil {
		return err
	}
	if err := d.FS.SyncDir(path); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.made = slices.DeleteFunc(d.made, func(n name) bool { return n.folder == filepath.Clean(path) })
	return nil
}

type file struct {
	durable.File
	d    *Disk
	path string
	at   int64 // where Write goes on; one goroutine writes so
}

func (f *file) Write(p []byte) (int, error) {
	n, err := f.write(p, f.at, f.File.Write)
	f.at += int64(n)
	return n, err
}

func (f *file) WriteAt(p []byte, at int64) (int, error) {
	return f.write(p, at, func(p []byte) (int, error) { return f.File.WriteAt(p, at) })
}

func (f *file) write(p []byte, at int64, write func([]byte) (int, error)) (n int, err error) {
	failure := f.d.step()
	if failure != nil && !f.d.kind.Torn {
		return 0, failure
	}
	if failure != nil {
		p = p[:len(p)/2]
	}
	f.d.wrote(f.path, at, len(p))
	n, err = write(p)
	return n, errors.Join(failure, err)
}

func (f *file) Truncate(size int64) error {
	if err := f.d.step(); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *file) Reserve(size int64) error {
	if err := f.d.step(); err != nil {
		return err
	}
	return f.File.Reserve(size)
}

func (f *file) Sync() error {
	if err := f.d.step(); err != nil {
		return err
	}
	if err := f.File.Sync(); err != nil {
		return err
	}
	f.d.synced(f.path)
	return nil
}
