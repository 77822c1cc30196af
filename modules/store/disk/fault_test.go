package disk

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/store"
	"github.com/pyrsia/appliance/modules/store/storetest"
)

var errCrash = errors.New("crash")

// faulty is a file system that ends at a chosen step: that step and all later
// ones fail. With torn the step's write is done by half. With power every file
// that was not fsynced is cut in half afterwards, as a power cut may leave it.
type faulty struct {
	osFS
	mu    sync.Mutex
	armed bool
	after int // steps that still succeed
	steps int
	err   error
	torn  bool
	dirty map[string]bool
}

func newFaulty() *faulty { return &faulty{err: errCrash, dirty: map[string]bool{}} }

func (f *faulty) step() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.armed {
		return nil
	}
	f.steps++
	if f.steps > f.after {
		return f.err
	}
	return nil
}

func (f *faulty) mark(path string, dirty bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if dirty {
		f.dirty[path] = true
	} else {
		delete(f.dirty, path)
	}
}

func (f *faulty) moved(from, to string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for path := range f.dirty {
		if strings.HasPrefix(path, from+"/") {
			delete(f.dirty, path)
			f.dirty[to+strings.TrimPrefix(path, from)] = true
		}
	}
}

// cutPower leaves of every file that was not fsynced the first half.
func (f *faulty) cutPower(t *testing.T) {
	for path := range f.dirty {
		info, err := os.Stat(path)
		if err != nil {
			continue // removed
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		clear(data[info.Size()/2:])
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func (f *faulty) Mkdir(path string) error {
	if err := f.step(); err != nil {
		return err
	}
	return f.osFS.Mkdir(path)
}

func (f *faulty) Create(path string) (file, error) {
	if err := f.step(); err != nil {
		return nil, err
	}
	inner, err := f.osFS.Create(path)
	if err != nil {
		return nil, err
	}
	return &faultyFile{inner, f, path}, nil
}

func (f *faulty) OpenWrite(path string) (file, error) {
	if err := f.step(); err != nil {
		return nil, err
	}
	inner, err := f.osFS.OpenWrite(path)
	if err != nil {
		return nil, err
	}
	return &faultyFile{inner, f, path}, nil
}

func (f *faulty) Rename(from, to string) error {
	if err := f.step(); err != nil {
		return err
	}
	if err := f.osFS.Rename(from, to); err != nil {
		return err
	}
	f.moved(from, to)
	return nil
}

func (f *faulty) RemoveAll(path string) error {
	if err := f.step(); err != nil {
		return err
	}
	return f.osFS.RemoveAll(path)
}

func (f *faulty) SyncDir(path string) error {
	if err := f.step(); err != nil {
		return err
	}
	return f.osFS.SyncDir(path)
}

type faultyFile struct {
	file
	f    *faulty
	path string
}

func (w *faultyFile) Write(p []byte) (int, error) {
	if err := w.f.step(); err != nil {
		if w.f.torn {
			_, _ = w.file.Write(p[:len(p)/2])
		}
		return 0, err
	}
	w.f.mark(w.path, true)
	return w.file.Write(p)
}

func (w *faultyFile) WriteAt(p []byte, at int64) (int, error) {
	if err := w.f.step(); err != nil {
		if w.f.torn {
			_, _ = w.file.WriteAt(p[:len(p)/2], at)
		}
		return 0, err
	}
	w.f.mark(w.path, true)
	return w.file.WriteAt(p, at)
}

func (w *faultyFile) Reserve(size int64) error {
	if err := w.f.step(); err != nil {
		return err
	}
	return w.file.Reserve(size)
}

func (w *faultyFile) Sync() error {
	if err := w.f.step(); err != nil {
		return err
	}
	if err := w.file.Sync(); err != nil {
		return err
	}
	w.f.mark(w.path, false)
	return nil
}

// scratch is a temporary folder in memory where the machine has one: hundreds
// of stores are made here, and what a lost fsync does is simulated.
func scratch(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "pyrsia-store-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// promised is what the store has said is durable.
type promised struct {
	blobs map[artifact.SHA256][]byte
	pins  map[artifact.SHA256]bool
}

// script does everything that a store does, and records what was promised. It
// stops at the first error.
func script(t *testing.T, s *Store, p *promised) error {
	put := func(data []byte) (artifact.Descriptor, error) {
		desc, err := s.Put(context.Background(), bytes.NewReader(data))
		if err == nil {
			p.blobs[desc.SHA256] = data
		}
		return desc, err
	}
	fetch := func(data []byte, upTo int64) (*store.Download, error) {
		desc, _ := storetest.Describe(data)
		d, err := s.Begin(desc)
		for err == nil {
			offset, length := d.Missing(0)
			if over, _ := d.Ended(); over {
				return d, nil // it was here already
			}
			if length == 0 || offset >= upTo {
				return d, d.SetNote([]byte("from beta"))
			}
			length = min(length, 4*store.Group)
			err = d.WriteSlice(offset, length, bytes.NewReader(storetest.Slice(t, data, offset, length)))
		}
		return nil, err
	}
	first, err := put(storetest.Random(40_000, 1))
	if err != nil {
		return err
	}
	if err := s.Pin(first.SHA256); err != nil {
		return err
	}
	p.pins[first.SHA256] = true
	fetched := storetest.Random(6*store.Group+7, 2)
	d, err := fetch(fetched, 1<<40)
	if err != nil {
		return err
	}
	if err := d.Commit(); err != nil {
		return err
	}
	p.blobs[d.Descriptor().SHA256] = fetched
	d, err = fetch(storetest.Random(8*store.Group, 3), 1)
	if err != nil {
		return err
	}
	d.Suspend(nil)
	second, err := put(storetest.Random(10, 4))
	if err != nil {
		return err
	}
	delete(p.blobs, second.SHA256) // from here on it may be gone or not
	if err := s.Remove(second.SHA256); err != nil {
		return err
	}
	delete(p.pins, first.SHA256)
	if err := s.Unpin(first.SHA256); err != nil {
		return err
	}
	d, err = fetch(storetest.Random(8*store.Group, 3), 1<<40)
	if err != nil {
		return err
	}
	if err := d.Commit(); err != nil {
		return err
	}
	p.blobs[d.Descriptor().SHA256] = storetest.Random(8*store.Group, 3)
	return nil
}

// check opens the folder after a crash and looks at everything.
func check(t *testing.T, dir string, p *promised) {
	t.Helper()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for digest, data := range p.blobs {
		if !bytes.Equal(storetest.Content(t, s, digest), data) {
			t.Errorf("promised blob %s has other bytes", digest)
		}
	}
	for digest := range p.pins {
		if !s.Pinned(digest) {
			t.Errorf("promised pin %s is lost", digest)
		}
	}
	blobs := s.Status().Blobs
	if sound, err := s.Scrub(context.Background(), func(d artifact.Descriptor, err error) { t.Errorf("rotten: %v", err) }); err != nil || sound != blobs {
		t.Errorf("%d of %d blobs are sound, %v", sound, blobs, err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil || len(left) != 0 {
		t.Errorf("%d temporary files stay, %v", len(left), err)
	}
	if rotten, _ := os.ReadDir(filepath.Join(dir, "quarantine")); len(rotten) != 0 {
		t.Errorf("%d in quarantine", len(rotten))
	}
	if got, want := s.Status().Bytes, counted(s); got != want {
		t.Errorf("%d bytes are counted, %d are there", got, want)
	}
	// And it goes on: everything can be done again.
	if err := script(t, s, p); err != nil {
		t.Errorf("after the crash: %v", err)
	}
	if got, want := s.Status().Bytes, counted(s); got != want {
		t.Errorf("at the end %d bytes are counted, %d are there", got, want)
	}
}

// counted is the room of everything in the index.
func counted(s *Store) (n int64) {
	for _, b := range s.blobs {
		n += room(b.desc.Size)
	}
	for _, p := range s.partials {
		n += room(p.desc.Size)
	}
	return n
}

func TestCrashAtEveryStep(t *testing.T) {
	for _, kind := range []struct {
		name        string
		torn, power bool
	}{{"process", false, false}, {"torn write", true, false}, {"power", false, true}} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			for after := 0; ; after++ {
				dir := scratch(t)
				f := newFaulty()
				f.after, f.torn = after, kind.torn
				s, err := Open(dir, Options{fs: f})
				if err != nil {
					t.Fatal(err)
				}
				f.armed = true
				p := &promised{map[artifact.SHA256][]byte{}, map[artifact.SHA256]bool{}}
				err = script(t, s, p)
				if err != nil && !errors.Is(err, errCrash) {
					t.Fatalf("after %d steps: %v", after, err)
				}
				_ = s.lock.Close() // the process is gone, and its lock with it
				if kind.power {
					f.cutPower(t)
				}
				check(t, dir, p)
				if t.Failed() {
					t.Fatalf("crashed after step %d", after)
				}
				if err == nil {
					t.Logf("%d steps", f.steps)
					return
				}
				_ = os.RemoveAll(dir)
			}
		})
	}
}

// Open itself is stopped at steps all over, and the next Open goes on.
func TestCrashInOpen(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := &promised{map[artifact.SHA256][]byte{}, map[artifact.SHA256]bool{}}
	if err := script(t, s, p); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	for after := range 20 {
		f := newFaulty()
		f.armed, f.after = true, after
		if s, err := Open(dir, Options{fs: f}); err == nil {
			_ = s.Close()
		} else if !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
	}
	check(t, dir, p)
}

// A full disk: ErrQuota, nothing half-done, and it goes on when there is room.
func TestFullDiskInjected(t *testing.T) {
	for after := 0; ; after++ {
		f := newFaulty()
		f.after, f.err = after, noRoom(syscall.ENOSPC)
		dir := scratch(t)
		s, err := Open(dir, Options{fs: f})
		if err != nil {
			t.Fatal(err)
		}
		f.armed = true
		p := &promised{map[artifact.SHA256][]byte{}, map[artifact.SHA256]bool{}}
		err = script(t, s, p)
		if err != nil && !errors.Is(err, store.ErrQuota) {
			t.Fatalf("after %d steps: %v", after, err)
		}
		f.armed = false
		if full := err; full != nil {
			// The same process, the same open store, and room again.
			if err := script(t, s, p); err != nil {
				t.Fatalf("full after %d steps, then room: %v", after, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		check(t, dir, p)
		if t.Failed() {
			t.Fatalf("full after step %d", after)
		}
		if err == nil {
			return
		}
		_ = os.RemoveAll(dir)
	}
}

// The same on a real file system of 4 MiB, where the tests may mount one.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("mounting a tmpfs: %v (TestFullDiskInjected covers it)", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	small := storetest.Random(1<<20, 1)
	desc, err := s.Put(t.Context(), bytes.NewReader(small))
	if err != nil {
		t.Fatal(err)
	}
	big := storetest.Random(8<<20, 2)
	want, _ := storetest.Describe(big)
	if _, err := s.Put(t.Context(), bytes.NewReader(big)); !errors.Is(err, store.ErrQuota) {
		t.Errorf("Put: %v", err)
	}
	if _, err := s.Begin(want); !errors.Is(err, store.ErrQuota) {
		t.Errorf("Begin: %v", err)
	}
	if got := s.Status(); got.Blobs != 1 || got.Bytes != room(desc.Size) {
		t.Errorf("%+v", got)
	}
	again := storetest.Random(2<<20, 3)
	if _, err := s.Put(t.Context(), bytes.NewReader(again)); err != nil {
		t.Errorf("what fits: %v", err)
	}
	if !bytes.Equal(storetest.Content(t, s, desc.SHA256), small) {
		t.Error("the first blob has changed")
	}
}

// A download whose bitmap claims too much, too little or nonsense.
func TestTornBitmap(t *testing.T) {
	data := storetest.Random(4*store.MaxSlice+100, 5)
	desc, _ := storetest.Describe(data)
	for name, spoil := range map[string]func(dir string) error{
		"all bits set": func(dir string) error { return spoilFile(dir, "have", func(p []byte) { fill(p, 0xff) }) },
		"cut":          func(dir string) error { return os.Truncate(filepath.Join(dir, "have"), 3) },
		"too long":     func(dir string) error { return os.Truncate(filepath.Join(dir, "have"), 1<<20) },
		"gone":         func(dir string) error { return os.Remove(filepath.Join(dir, "have")) },
		"other data":   func(dir string) error { return spoilFile(dir, "data", func(p []byte) { p[store.MaxSlice+5] ^= 1 }) },
		"no data":      func(dir string) error { return os.Truncate(filepath.Join(dir, "data"), 0) },
		"no tree":      func(dir string) error { return spoilFile(dir, "tree", func(p []byte) { fill(p[treeHeader+8:], 0) }) },
		"other root":   func(dir string) error { return spoilFile(dir, "tree", func(p []byte) { p[20] ^= 1 }) },
		"no header":    func(dir string) error { return spoilFile(dir, "tree", func(p []byte) { fill(p[:10], 0) }) },
		"tree is gone": func(dir string) error { return os.Remove(filepath.Join(dir, "tree")) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := Open(dir, Options{})
			if err != nil {
				t.Fatal(err)
			}
			d, err := s.Begin(desc)
			if err != nil {
				t.Fatal(err)
			}
			storetest.Fill(t, d, data, store.MaxSlice, store.MaxSlice)
			_ = s.Close()
			if err := spoil(s.partialPath(desc.SHA256)); err != nil {
				t.Fatal(err)
			}
			s, err = Open(dir, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			d, err = s.Begin(desc)
			if err != nil {
				t.Fatal(err)
			}
			if d.Arrived() > store.MaxSlice {
				t.Errorf("%d bytes count", d.Arrived())
			}
			storetest.FillAll(t, d, data)
			if err := d.Commit(); err != nil || !bytes.Equal(storetest.Content(t, s, desc.SHA256), data) {
				t.Errorf("%v", err)
			}
		})
	}
}

func fill(p []byte, with byte) {
	for i := range p {
		p[i] = with
	}
}

func spoilFile(dir, name string, spoil func([]byte)) error {
	path := filepath.Join(dir, name)
	p, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	spoil(p)
	return os.WriteFile(path, p, 0o644)
}
