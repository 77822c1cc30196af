package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/store"
)

// Begin is the one download of a descriptor, however many callers ask while it
// is in flight: a new one, one that an earlier run left, or one that has
// nothing left to do when the blob is here. Its room is reserved; ErrQuota when
// there is none. ErrMismatch when another file is known by one of the digests.
func (s *Store) Begin(desc artifact.Descriptor) (*store.Download, error) {
	if err := store.CheckDescriptor(desc); err != nil {
		return nil, err
	}
	for {
		f, mine, err := s.board(desc)
		if err != nil {
			return nil, err
		}
		if mine {
			d, err := s.start(desc)
			s.mu.Lock()
			f.download, f.err = d, err
			if err != nil {
				delete(s.flights, desc.SHA256)
			}
			s.mu.Unlock()
			close(f.ready)
			return d, err
		}
		<-f.ready
		if f.err != nil {
			return nil, f.err
		}
		if f.download.Descriptor() != desc {
			return nil, fmt.Errorf("%w: %s is being fetched as %+v", store.ErrMismatch, desc.SHA256, f.download.Descriptor())
		}
		if over, err := f.download.Ended(); !over || err == nil {
			return f.download, nil
		}
		// It ended between our looking and now: its flight is gone or goes.
	}
}

// board finds the flight, or makes one that is the caller's to start.
func (s *Store) board(desc artifact.Descriptor) (f *flight, mine bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false, store.ErrClosed
	}
	if f := s.flights[desc.SHA256]; f != nil {
		return f, false, nil
	}
	if b := s.blobs[desc.SHA256]; b != nil {
		if b.desc != desc {
			return nil, false, fmt.Errorf("%w: %s is here as %+v", store.ErrMismatch, desc.SHA256, b.desc)
		}
		s.touch(b)
		ready := make(chan struct{})
		close(ready)
		area := &area{s: s, desc: desc, dir: s.blobPath(desc.SHA256)}
		return &flight{ready: ready, download: store.NewComplete(desc, area, readNote(area.dir))}, false, nil
	}
	f = &flight{ready: make(chan struct{})}
	s.flights[desc.SHA256] = f
	return f, true, nil
}

// start opens the files of a flight: an earlier run's where they fit.
func (s *Store) start(desc artifact.Descriptor) (*store.Download, error) {
	s.mu.Lock()
	old := s.partials[desc.SHA256]
	if old != nil && old.desc != desc {
		if err := s.dropPartial(desc.SHA256); err != nil {
			s.mu.Unlock()
			return nil, err
		}
		old = nil
	}
	if old == nil {
		if err := s.reserve(room(desc.Size)); err != nil {
			s.mu.Unlock()
			return nil, err
		}
	}
	// A resumed one keeps the room it has.
	delete(s.partials, desc.SHA256)
	s.mu.Unlock()

	a := &area{s: s, desc: desc, dir: s.partialPath(desc.SHA256)}
	have, err := a.open(old != nil)
	if err != nil {
		a.Close()
		s.unreserve(room(desc.Size))
		return nil, errors.Join(fmt.Errorf("store: %w", err), s.fs.RemoveAll(a.dir))
	}
	return store.NewDownload(desc, a, have, readNote(a.dir)), nil
}

// area is a download's folder.
type area struct {
	s    *Store
	desc artifact.Descriptor
	dir  string

	data, tree, bitmap durable.File
}

// open opens the files, and makes them where they are not to be resumed. It
// returns the bitmap.
func (a *area) open(resume bool) (have []byte, err error) {
	if resume {
		if have, err = a.resume(); err == nil {
			return have, nil
		}
		a.Close()
	}
	if err := a.s.fs.RemoveAll(a.dir); err != nil {
		return nil, err
	}
	if err := a.s.fs.Mkdir(a.dir); err != nil {
		return nil, err
	}
	groups := (a.desc.Size + store.Group - 1) / store.Group
	for _, f := range []struct {
		name string
		into *durable.File
		size int64
	}{
		{"data", &a.data, a.desc.Size},
		{"have", &a.bitmap, (max(1, groups) + 7) / 8},
		{"tree", &a.tree, treeHeader + store.OutboardSize(a.desc.Size)},
	} {
		if *f.into, err = a.s.fs.Create(filepath.Join(a.dir, f.name)); err != nil {
			return nil, err
		}
		if err := (*f.into).Reserve(f.size); err != nil {
			return nil, err
		}
	}
	// The header last: without it the folder is no download yet.
	_, err = a.tree.WriteAt(header(a.desc), 0)
	return nil, err
}

func (a *area) resume() (have []byte, err error) {
	for _, f := range []struct {
		name string
		into *durable.File
	}{{"data", &a.data}, {"tree", &a.tree}, {"have", &a.bitmap}} {
		if *f.into, err = a.s.fs.OpenWrite(filepath.Join(a.dir, f.name)); err != nil {
			return nil, err
		}
	}
	return os.ReadFile(filepath.Join(a.dir, "have"))
}

func (a *area) Data() store.ReaderWriterAt { return a.data }

func (a *area) Tree() store.ReaderWriterAt { return shifted{a.tree} }

// shifted is a tree file from its outboard on.
type shifted struct{ f durable.File }

func (t shifted) ReadAt(p []byte, at int64) (int, error) { return t.f.ReadAt(p, at+treeHeader) }

func (t shifted) WriteAt(p []byte, at int64) (int, error) { return t.f.WriteAt(p, at+treeHeader) }

func (a *area) Mark(bitmap []byte, first, last int) error {
	_, err := a.bitmap.WriteAt(bitmap[first:last+1], int64(first))
	return err
}

func (a *area) SetNote(note []byte) error {
	fresh := filepath.Join(a.dir, "note.new")
	_ = a.s.fs.RemoveAll(fresh)
	f, err := a.s.fs.Create(fresh)
	if err != nil {
		return err
	}
	_, err = f.Write(note)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return a.s.fs.Rename(fresh, filepath.Join(a.dir, "note"))
}

// Commit makes the files durable and moves their folder to its place.
func (a *area) Commit() error {
	err := a.sync()
	s := a.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		err = s.install(a.dir, a.desc)
	}
	delete(s.flights, a.desc.SHA256)
	if err != nil {
		a.rest()
		return fmt.Errorf("store %s: %w", a.desc.SHA256, err)
	}
	a.dir = s.blobPath(a.desc.SHA256)
	_ = s.fs.RemoveAll(filepath.Join(a.dir, "have")) // of no use now, and no harm
	return nil
}

func (a *area) sync() error {
	for _, f := range []durable.File{a.data, a.tree} {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return a.s.fs.SyncDir(a.dir)
}

func (a *area) Suspend() {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	delete(a.s.flights, a.desc.SHA256)
	a.rest()
}

// rest leaves the download to a later Begin; mu is held.
func (a *area) rest() {
	a.s.partials[a.desc.SHA256] = &partial{desc: a.desc, touched: a.s.clock()}
}

func (a *area) Discard() {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	delete(a.s.flights, a.desc.SHA256)
	a.s.used -= room(a.desc.Size)
	// What cannot be removed now is a resumable download to the next Open.
	_ = a.s.fs.RemoveAll(a.dir)
}

func (a *area) Close() {
	for _, f := range []*durable.File{&a.data, &a.tree, &a.bitmap} {
		if *f != nil {
			_ = (*f).Close()
			*f = nil
		}
	}
}

// readOnly is a blob's file, which nobody writes.
type readOnly struct{ durable.File }

func (readOnly) WriteAt([]byte, int64) (int, error) { return 0, os.ErrPermission }

func (a *area) Reopen() error {
	data, tree, err := a.s.openBoth(a.desc.SHA256)
	if errors.Is(err, os.ErrNotExist) {
		return store.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	a.data, a.tree = readOnly{durable.Open(data)}, readOnly{durable.Open(tree)}
	return nil
}
