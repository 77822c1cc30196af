// Package memory is content in memory: the store for tests of other rooms. It
// behaves like store/disk, passes the same suite (store/storetest), has no
// quota and forgets everything with the process.
package memory

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/store"
)

// Store is content-addressed bytes. All methods are safe for concurrent use.
type Store struct {
	mu       sync.Mutex
	blobs    map[artifact.SHA256]*blob
	flights  map[artifact.SHA256]*store.Download
	partials map[artifact.SHA256]*area
	pins     map[artifact.SHA256]bool
}

type blob struct {
	desc     artifact.Descriptor
	data     []byte
	outboard []byte
	note     []byte
}

// New is an empty store.
func New() *Store {
	return &Store{
		blobs: map[artifact.SHA256]*blob{}, flights: map[artifact.SHA256]*store.Download{},
		partials: map[artifact.SHA256]*area{}, pins: map[artifact.SHA256]bool{},
	}
}

// Close does nothing.
func (s *Store) Close() error { return nil }

// Put keeps r's bytes.
func (s *Store) Put(ctx context.Context, r io.Reader) (artifact.Descriptor, error) {
	return s.PutExpect(ctx, r, artifact.Descriptor{Size: -1})
}

// PutExpect is Put that refuses other bytes than want's with
// store.ErrMismatch. A negative size or a zero digest is not compared.
func (s *Store) PutExpect(ctx context.Context, r io.Reader, want artifact.Descriptor) (artifact.Descriptor, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return artifact.Descriptor{}, err
	}
	if err := ctx.Err(); err != nil {
		return artifact.Descriptor{}, err
	}
	h := store.NewHasher()
	_, _ = h.Write(data)
	desc, outboard := h.Finish()
	if err := store.Expect(desc, want); err != nil {
		return artifact.Descriptor{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.blobs[desc.SHA256] == nil {
		s.blobs[desc.SHA256] = &blob{desc: desc, data: data, outboard: outboard}
	}
	return desc, nil
}

func (s *Store) find(digest artifact.SHA256) (*blob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.blobs[digest]; b != nil {
		return b, nil
	}
	return nil, store.ErrNotFound
}

// Stat is the descriptor of a blob, or store.ErrNotFound.
func (s *Store) Stat(digest artifact.SHA256) (artifact.Descriptor, error) {
	b, err := s.find(digest)
	if err != nil {
		return artifact.Descriptor{}, err
	}
	return b.desc, nil
}

// Has tells whether the blob is here and complete.
func (s *Store) Has(digest artifact.SHA256) bool {
	_, err := s.find(digest)
	return err == nil
}

// Find is Stat by the BLAKE3 digest.
func (s *Store) Find(digest artifact.BLAKE3) (artifact.Descriptor, error) {
	if b := s.byBLAKE3(digest); b != nil {
		return b.desc, nil
	}
	return artifact.Descriptor{}, store.ErrNotFound
}

func (s *Store) byBLAKE3(digest artifact.BLAKE3) *blob {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.blobs {
		if b.desc.BLAKE3 == digest {
			return b
		}
	}
	return nil
}

// Open opens a blob as a file that is in memory only. The caller closes it.
func (s *Store) Open(digest artifact.SHA256) (*os.File, error) {
	b, err := s.find(digest)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate(digest.String(), unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), digest.String())
	if _, err := f.WriteAt(b.data, 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Outboard is the Bao outboard of a blob (groups of 16 KiB).
func (s *Store) Outboard(digest artifact.SHA256) ([]byte, error) {
	b, err := s.find(digest)
	if err != nil {
		return nil, err
	}
	return bytes.Clone(b.outboard), nil
}

// Note is what the fetcher noted beside the blob; nil for nothing.
func (s *Store) Note(digest artifact.SHA256) []byte {
	b, err := s.find(digest)
	if err != nil {
		return nil
	}
	return b.note
}

// Remove removes a blob; store.ErrNotFound where there is none.
func (s *Store) Remove(digest artifact.SHA256) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.blobs[digest] == nil {
		return store.ErrNotFound
	}
	delete(s.blobs, digest)
	return nil
}

// Pin marks a digest.
func (s *Store) Pin(digest artifact.SHA256) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pins[digest] = true
	return nil
}

// Unpin takes the mark away.
func (s *Store) Unpin(digest artifact.SHA256) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pins, digest)
	return nil
}

// Pinned tells whether a digest is pinned.
func (s *Store) Pinned(digest artifact.SHA256) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pins[digest]
}

// Status is what the store holds now; trees are not counted.
func (s *Store) Status() store.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := store.Status{Blobs: len(s.blobs), Pinned: len(s.pins), Downloads: len(s.flights) + len(s.partials)}
	for _, b := range s.blobs {
		status.Bytes += b.desc.Size
	}
	return status
}

// Held says how much of a blob is here: its size, and which chunks of
// store.MaxSlice bytes, nil for all of them.
func (s *Store) Held(digest artifact.BLAKE3) (size int64, chunks []byte, ok bool) {
	if b := s.byBLAKE3(digest); b != nil {
		return b.desc.Size, nil, true
	}
	if d := s.growing(digest); d != nil {
		return d.Descriptor().Size, d.Chunks(), true
	}
	return 0, nil, false
}

func (s *Store) growing(digest artifact.BLAKE3) *store.Download {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.flights {
		if d.Descriptor().BLAKE3 == digest {
			return d
		}
	}
	return nil
}

// Slice appends to dst the Bao slice of a range; store.ErrNotFound where it is
// not here.
func (s *Store) Slice(dst []byte, digest artifact.BLAKE3, offset, length int64) ([]byte, error) {
	if b := s.byBLAKE3(digest); b != nil {
		return store.AppendSlice(dst, bytes.NewReader(b.data), bytes.NewReader(b.outboard), b.desc.Size, offset, length)
	}
	if d := s.growing(digest); d != nil {
		return d.Slice(dst, offset, length)
	}
	return dst, store.ErrNotFound
}

// Begin is the one download of a descriptor while it is in flight.
func (s *Store) Begin(desc artifact.Descriptor) (*store.Download, error) {
	if err := store.CheckDescriptor(desc); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.blobs[desc.SHA256]; b != nil {
		if b.desc != desc {
			return nil, fmt.Errorf("%w: %s is here as %+v", store.ErrMismatch, desc.SHA256, b.desc)
		}
		return store.NewComplete(desc, &area{s: s, blob: *b}, b.note), nil
	}
	if d := s.flights[desc.SHA256]; d != nil {
		if d.Descriptor() != desc {
			return nil, fmt.Errorf("%w: %s is being fetched as %+v", store.ErrMismatch, desc.SHA256, d.Descriptor())
		}
		return d, nil
	}
	a := s.partials[desc.SHA256]
	delete(s.partials, desc.SHA256)
	if a == nil || a.blob.desc != desc {
		a = &area{s: s, blob: blob{desc: desc, data: make([]byte, desc.Size), outboard: make([]byte, store.OutboardSize(desc.Size))}}
	}
	d := store.NewDownload(desc, a, a.have, a.blob.note)
	s.flights[desc.SHA256] = d
	return d, nil
}

// area is a download's bytes.
type area struct {
	s    *Store
	blob blob
	have []byte

	mu sync.RWMutex // the bytes
}

// window is bytes in place.
type window struct {
	mu *sync.RWMutex
	p  []byte
}

func (w window) ReadAt(p []byte, at int64) (int, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return bytes.NewReader(w.p).ReadAt(p, at)
}

func (w window) WriteAt(p []byte, at int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return copy(w.p[at:], p), nil
}

func (a *area) Data() store.ReaderWriterAt { return window{&a.mu, a.blob.data} }

func (a *area) Tree() store.ReaderWriterAt { return window{&a.mu, a.blob.outboard} }

func (a *area) Mark(bitmap []byte, _, _ int) error {
	a.have = bytes.Clone(bitmap)
	return nil
}

func (a *area) SetNote(note []byte) error {
	a.blob.note = bytes.Clone(note)
	return nil
}

func (a *area) Commit() error {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.mu.RLock()
	defer a.mu.RUnlock()
	desc := a.blob.desc
	if a.s.blobs[desc.SHA256] == nil {
		// Cloned: a second source may still write the same bytes here.
		b := &blob{desc: desc, data: bytes.Clone(a.blob.data), outboard: bytes.Clone(a.blob.outboard), note: a.blob.note}
		binary.LittleEndian.PutUint64(b.outboard, uint64(desc.Size))
		a.s.blobs[desc.SHA256] = b
	}
	delete(a.s.flights, desc.SHA256)
	return nil
}

func (a *area) Suspend() {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	delete(a.s.flights, a.blob.desc.SHA256)
	a.s.partials[a.blob.desc.SHA256] = a
}

func (a *area) Discard() {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	delete(a.s.flights, a.blob.desc.SHA256)
}

func (a *area) Close() {}

func (a *area) Reopen() error { return nil }
