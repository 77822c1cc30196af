package disk

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/durable/durabletest"
	"github.com/pyrsia/appliance/modules/store"
	"github.com/pyrsia/appliance/modules/store/storetest"
)

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
	for _, kind := range durabletest.Kinds {
		if kind.Once {
			continue
		}
		t.Run(kind.Name, func(t *testing.T) {
			t.Parallel()
			for after, failed := 0, true; failed; after++ {
				dir := scratch(t)
				f := durabletest.New(durable.OS(false), kind)
				s, err := Open(dir, Options{fs: f})
				if err != nil {
					t.Fatal(err)
				}
				f.Arm(after)
				p := &promised{map[artifact.SHA256][]byte{}, map[artifact.SHA256]bool{}}
				if err = script(t, s, p); err != nil && !errors.Is(err, durabletest.ErrCrash) {
					t.Fatalf("after %d steps: %v", after, err)
				}
				failed = f.Failed()
				_ = s.lock.Close() // the process is gone, and its lock with it
				f.CutPower(t)
				check(t, dir, p)
				if t.Failed() {
					t.Fatalf("crashed after step %d", after)
				}
				_ = os.RemoveAll(dir)
				if !failed {
					t.Logf("%d steps", after)
				}
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
		f := durabletest.New(durable.OS(false), durabletest.Kind{Err: durabletest.ErrCrash})
		f.Arm(after)
		if s, err := Open(dir, Options{fs: f}); err == nil {
			_ = s.Close()
		} else if !errors.Is(err, durabletest.ErrCrash) {
			t.Fatal(err)
		}
	}
	check(t, dir, p)
}

// A disk that fails at a step and then works again: an error, ErrQuota where it
// was full, nothing half-done, and it goes on.
func TestDiskFailsOnce(t *testing.T) {
	for _, kind := range durabletest.Kinds {
		if !kind.Once {
			continue
		}
		t.Run(kind.Name, func(t *testing.T) {
			t.Parallel()
			for after, failed := 0, true; failed; after++ {
				failed = failOnce(t, kind, after)
				if t.Failed() {
					t.Fatalf("failed after step %d", after)
				}
			}
		})
	}
}

func failOnce(t *testing.T, kind durabletest.Kind, after int) (failed bool) {
	f := durabletest.New(durable.OS(false), kind)
	dir := scratch(t)
	defer os.RemoveAll(dir)
	s, err := Open(dir, Options{fs: f})
	if err != nil {
		t.Fatal(err)
	}
	f.Arm(after)
	p := &promised{map[artifact.SHA256][]byte{}, map[artifact.SHA256]bool{}}
	err = script(t, s, p)
	if err != nil && (!errors.Is(err, kind.Err) || errors.Is(err, store.ErrQuota) != (kind.Err == syscall.ENOSPC)) {
		t.Fatalf("after %d steps: %v", after, err)
	}
	failed = f.Failed()
	f.Arm(-1)
	// The same process, the same open store.
	if err := script(t, s, p); err != nil {
		t.Fatalf("after step %d failed: %v", after, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check(t, dir, p)
	return failed
}

// The same on a real file system of 4 MiB, where the tests may mount one.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("mounting a tmpfs: %v (TestDiskFailsOnce covers it)", err)
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
