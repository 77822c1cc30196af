// Package disk is content in a folder of files: the store of a node.
//
// The folder, which one process at a time may use:
//
//	lock                       held by flock while the store is open
//	blobs/<hh>/<sha256>/data   the bytes; hh is the digest's first byte
//	blobs/<hh>/<sha256>/tree   magic (16 bytes), BLAKE3 (32), Bao outboard
//	blobs/<hh>/<sha256>/note   opaque bytes of the fetcher; may be absent
//	partial/<sha256>/…         a download: the same, and have, its bitmap
//	pins/<sha256>              empty; pinned, whether the blob is here or not
//	tmp/…                      being put, or being removed; emptied by Open
//	quarantine/<sha256>.<n>    what Scrub found rotten
//
// A blob appears by one rename of its folder, after its files were fsynced, and
// goes by one rename into tmp. So a crash at any step leaves it whole or not
// there. A partial download is never trusted after a crash: what its bitmap
// claims is hashed again when it is resumed. The time of the last read is the
// tree file's modification time; losing it costs a worse choice of what to
// evict and nothing else.
package disk

import (
	"bytes"
	"container/list"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/store"
)

const (
	magic      = "pyrsia tree 1\n\x00\x00"
	treeHeader = int64(len(magic)) + 32

	// touchEvery is how old a recorded last read may be before a new read is
	// recorded on disk too.
	touchEvery = time.Minute
)

// Options of a store.
type Options struct {
	// Quota is the most that blobs, their trees and unfinished downloads may
	// take, in bytes; 0 is unlimited. Only the store's own files count, not
	// how full the file system is.
	Quota int64

	// Clock is time.Now where it is nil.
	Clock func() time.Time

	fs durable.FS
}

// Store is content-addressed files. All methods are safe for concurrent use.
type Store struct {
	dir   string
	fs    durable.FS
	clock func() time.Time
	lock  *os.File

	mu       sync.Mutex
	closed   bool
	quota    int64
	used     int64 // blobs, partials and reservations
	next     int   // number of the next temporary folder
	blobs    map[artifact.SHA256]*blob
	byBLAKE3 map[artifact.BLAKE3]artifact.SHA256
	recent   *list.List // unpinned *blob; last read at the front
	partials map[artifact.SHA256]*partial
	flights  map[artifact.SHA256]*flight
	pins     map[artifact.SHA256]bool
	shards   map[string]bool // folders that are in blobs, by name
}

type blob struct {
	desc     artifact.Descriptor
	lastRead time.Time
	recorded time.Time     // the last read that the disk knows of
	place    *list.Element // in recent; nil while pinned
}

// partial is a download that nobody is working on.
type partial struct {
	desc    artifact.Descriptor
	touched time.Time
}

// flight is a download that somebody is working on, or just begins.
type flight struct {
	ready    chan struct{} // closed when download or err is set
	download *store.Download
	err      error
}

// room is what a file takes by the quota's count.
func room(size int64) int64 { return size + treeHeader + store.OutboardSize(size) }

// Open opens the store in dir, makes it where it is missing, and recovers from
// whatever ended the last run: temporary files go, downloads stay resumable.
func Open(dir string, options Options) (*Store, error) {
	s := &Store{
		dir: dir, fs: options.fs, clock: options.Clock, quota: options.Quota,
		blobs: map[artifact.SHA256]*blob{}, byBLAKE3: map[artifact.BLAKE3]artifact.SHA256{}, recent: list.New(),
		partials: map[artifact.SHA256]*partial{}, flights: map[artifact.SHA256]*flight{}, pins: map[artifact.SHA256]bool{},
		shards: map[string]bool{},
	}
	if s.fs == nil {
		s.fs = durable.OS(false)
	}
	s.fs = roomy{s.fs}
	if s.clock == nil {
		s.clock = time.Now
	}
	if err := s.recover(); err != nil {
		if s.lock != nil {
			s.lock.Close()
		}
		return nil, fmt.Errorf("open the store in %s: %w", dir, err)
	}
	return s, nil
}

func (s *Store) recover() error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	if err := s.takeLock(); err != nil {
		return err
	}
	if err := s.fs.RemoveAll(s.path("tmp")); err != nil {
		return err
	}
	for _, name := range []string{"blobs", "partial", "pins", "tmp", "quarantine"} {
		if err := s.mkdir(s.path(name)); err != nil {
			return err
		}
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		return err
	}
	if err := s.indexPins(); err != nil {
		return err
	}
	if err := s.indexBlobs(); err != nil {
		return err
	}
	return s.indexPartials()
}

func (s *Store) takeLock() error {
	lock, err := os.OpenFile(s.path("lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return errors.New("another process is using it; stop that one first")
	}
	s.lock = lock
	return nil
}

func (s *Store) mkdir(path string) error {
	err := s.fs.Mkdir(path)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

func (s *Store) blobPath(digest artifact.SHA256) string {
	hex := digest.String()
	return s.path("blobs", hex[:2], hex)
}

func (s *Store) partialPath(digest artifact.SHA256) string {
	return s.path("partial", digest.String())
}

func (s *Store) indexPins() error {
	return each(s.path("pins"), func(digest artifact.SHA256) error {
		s.pins[digest] = true
		return nil
	})
}

// indexBlobs reads each blob's header and looks at the sizes; it hashes
// nothing: Scrub does.
func (s *Store) indexBlobs() error {
	var found []*blob
	shards, err := os.ReadDir(s.path("blobs"))
	if err != nil {
		return err
	}
	for _, shard := range shards {
		s.shards[shard.Name()] = true
		err := each(s.path("blobs", shard.Name()), func(digest artifact.SHA256) error {
			b, err := readBlob(s.blobPath(digest), digest)
			if err != nil {
				return s.quarantine(s.blobPath(digest), digest)
			}
			found = append(found, b)
			return nil
		})
		if err != nil {
			return err
		}
	}
	sort.Slice(found, func(i, j int) bool { return found[i].lastRead.Before(found[j].lastRead) })
	for _, b := range found {
		s.add(b)
		s.used += room(b.desc.Size)
	}
	return nil
}

func (s *Store) indexPartials() error {
	return each(s.path("partial"), func(digest artifact.SHA256) error {
		p, err := readBlob(s.partialPath(digest), digest)
		if err != nil || s.blobs[digest] != nil {
			return s.fs.RemoveAll(s.partialPath(digest))
		}
		s.partials[digest] = &partial{desc: p.desc, touched: p.lastRead}
		s.used += room(p.desc.Size)
		return nil
	})
}

// each calls found for every entry that is named by a digest.
func each(dir string, found func(artifact.SHA256) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		digest, err := artifact.ParseSHA256(entry.Name())
		if err != nil {
			continue // not ours
		}
		if err := found(digest); err != nil {
			return err
		}
	}
	return nil
}

// readBlob reads the header of a blob's or partial's folder and refuses one
// whose files have not the sizes that the header asks for.
func readBlob(dir string, digest artifact.SHA256) (*blob, error) {
	f, err := os.Open(filepath.Join(dir, "tree"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var header [treeHeader + 8]byte
	if _, err := io.ReadFull(f, header[:]); err != nil {
		return nil, err
	}
	if string(header[:len(magic)]) != magic {
		return nil, errors.New("not a tree file")
	}
	desc := artifact.Descriptor{SHA256: digest, Size: int64(binary.LittleEndian.Uint64(header[treeHeader:]))}
	copy(desc.BLAKE3[:], header[len(magic):])
	if err := store.CheckDescriptor(desc); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	data, err := os.Stat(filepath.Join(dir, "data"))
	if err != nil {
		return nil, err
	}
	if data.Size() != desc.Size || info.Size() != treeHeader+store.OutboardSize(desc.Size) {
		return nil, errors.New("files of the wrong size")
	}
	return &blob{desc: desc, lastRead: info.ModTime(), recorded: info.ModTime()}, nil
}

// header is the beginning of a tree file, up to the outboard's nodes.
func header(desc artifact.Descriptor) []byte {
	p := append([]byte(magic), desc.BLAKE3[:]...)
	return binary.LittleEndian.AppendUint64(p, uint64(desc.Size))
}

// add enters a blob that is on disk; mu is held or nobody else is there. Its
// room is accounted by the caller.
func (s *Store) add(b *blob) {
	s.blobs[b.desc.SHA256] = b
	s.byBLAKE3[b.desc.BLAKE3] = b.desc.SHA256
	if !s.pins[b.desc.SHA256] {
		b.place = s.recent.PushFront(b)
	}
}

func (s *Store) forget(b *blob) {
	delete(s.blobs, b.desc.SHA256)
	if s.byBLAKE3[b.desc.BLAKE3] == b.desc.SHA256 {
		delete(s.byBLAKE3, b.desc.BLAKE3)
	}
	if b.place != nil {
		s.recent.Remove(b.place)
	}
	s.used -= room(b.desc.Size)
}

// Close suspends every download, so that the next run resumes it, and gives
// the folder free. Files that are open stay readable.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	var flights []*flight
	for _, f := range s.flights {
		flights = append(flights, f)
	}
	s.mu.Unlock()
	for _, f := range flights {
		<-f.ready
		if f.download != nil {
			f.download.Suspend(store.ErrClosed)
		}
	}
	return s.lock.Close()
}

// touch notes a read.
func (s *Store) touch(b *blob) {
	b.lastRead = s.clock()
	if b.place != nil {
		s.recent.MoveToFront(b.place)
	}
	if b.lastRead.Sub(b.recorded) < touchEvery {
		return
	}
	b.recorded = b.lastRead
	_ = os.Chtimes(filepath.Join(s.blobPath(b.desc.SHA256), "tree"), b.lastRead, b.lastRead)
}

func (s *Store) find(digest artifact.SHA256) (*blob, error) {
	if s.closed {
		return nil, store.ErrClosed
	}
	b := s.blobs[digest]
	if b == nil {
		return nil, store.ErrNotFound
	}
	return b, nil
}

// Stat is the descriptor of a blob, or ErrNotFound.
func (s *Store) Stat(digest artifact.SHA256) (artifact.Descriptor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.find(digest)
	if err != nil {
		return artifact.Descriptor{}, err
	}
	return b.desc, nil
}

// Has tells whether the blob is here and complete.
func (s *Store) Has(digest artifact.SHA256) bool {
	_, err := s.Stat(digest)
	return err == nil
}

// Find is Stat by the BLAKE3 digest.
func (s *Store) Find(digest artifact.BLAKE3) (artifact.Descriptor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.find(s.byBLAKE3[digest])
	if err != nil {
		return artifact.Descriptor{}, err
	}
	return b.desc, nil
}

// Open opens a blob for reading, or is ErrNotFound. It counts as a read. The
// caller closes the file, which stays readable when the blob is evicted.
func (s *Store) Open(digest artifact.SHA256) (*os.File, error) {
	return s.openPart(digest, "data")
}

// OpenBLAKE3 is Open by the BLAKE3 digest.
func (s *Store) OpenBLAKE3(digest artifact.BLAKE3) (*os.File, error) {
	desc, err := s.Find(digest)
	if err != nil {
		return nil, err
	}
	return s.Open(desc.SHA256)
}

func (s *Store) openPart(digest artifact.SHA256, name string) (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.find(digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(s.blobPath(digest), name))
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	s.touch(b)
	return f, nil
}

// Outboard is the Bao outboard of a blob (groups of 16 KiB): its size and the
// tree's nodes in pre-order.
func (s *Store) Outboard(digest artifact.SHA256) ([]byte, error) {
	f, err := s.openPart(digest, "tree")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(treeHeader, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}

// Note is what the fetcher noted beside the blob; nil for nothing.
func (s *Store) Note(digest artifact.SHA256) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.find(digest); err != nil {
		return nil
	}
	return readNote(s.blobPath(digest))
}

func readNote(dir string) []byte {
	f, err := os.Open(filepath.Join(dir, "note"))
	if err != nil {
		return nil
	}
	defer f.Close()
	note, err := io.ReadAll(io.LimitReader(f, store.MaxNote+1))
	if err != nil || len(note) > store.MaxNote {
		return nil
	}
	return note
}

// Held says how much of a blob is here: its size, and which chunks of
// store.MaxSlice bytes, nil for all of them. ok is false when nothing is.
func (s *Store) Held(digest artifact.BLAKE3) (size int64, chunks []byte, ok bool) {
	s.mu.Lock()
	if b, err := s.find(s.byBLAKE3[digest]); err == nil {
		defer s.mu.Unlock()
		return b.desc.Size, nil, true
	}
	d := s.growing(digest)
	s.mu.Unlock()
	if d == nil {
		return 0, nil, false
	}
	return d.Descriptor().Size, d.Chunks(), true
}

// growing is the download in flight by its BLAKE3 digest; mu is held.
func (s *Store) growing(digest artifact.BLAKE3) *store.Download {
	for _, f := range s.flights {
		if f.download != nil && f.download.Descriptor().BLAKE3 == digest {
			return f.download
		}
	}
	return nil
}

// Slice appends to dst the Bao slice of a range of a blob, or of a download as
// far as it has come; ErrNotFound where it is not here. The range is whole
// groups, at most store.MaxSlice bytes. It counts as a read.
func (s *Store) Slice(dst []byte, digest artifact.BLAKE3, offset, length int64) ([]byte, error) {
	s.mu.Lock()
	b, err := s.find(s.byBLAKE3[digest])
	if err != nil {
		d := s.growing(digest)
		s.mu.Unlock()
		if d == nil {
			return dst, store.ErrNotFound
		}
		return d.Slice(dst, offset, length)
	}
	data, tree, err := s.openBoth(b.desc.SHA256)
	if err == nil {
		s.touch(b)
	}
	s.mu.Unlock()
	if err != nil {
		return dst, fmt.Errorf("store: %w", err)
	}
	defer data.Close()
	defer tree.Close()
	return store.AppendSlice(dst, data, outboard(tree, b.desc), b.desc.Size, offset, length)
}

func (s *Store) openBoth(digest artifact.SHA256) (data, tree *os.File, err error) {
	if data, err = os.Open(filepath.Join(s.blobPath(digest), "data")); err != nil {
		return nil, nil, err
	}
	if tree, err = os.Open(filepath.Join(s.blobPath(digest), "tree")); err != nil {
		data.Close()
		return nil, nil, err
	}
	return data, tree, nil
}

func outboard(tree io.ReaderAt, desc artifact.Descriptor) *io.SectionReader {
	return io.NewSectionReader(tree, treeHeader, store.OutboardSize(desc.Size))
}

// Remove removes a blob, pinned or not; ErrNotFound where there is none. Its
// room is free at once.
func (s *Store) Remove(digest artifact.SHA256) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.find(digest)
	if err != nil {
		return err
	}
	return s.remove(b)
}

func (s *Store) remove(b *blob) error {
	trash := s.temporary()
	if err := s.fs.Rename(s.blobPath(b.desc.SHA256), trash); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	s.forget(b)
	// What cannot be removed now, the next Open removes.
	_ = s.fs.RemoveAll(trash)
	return nil
}

// temporary is the path of a new temporary folder; mu is held.
func (s *Store) temporary() string {
	s.next++
	return s.path("tmp", strconv.Itoa(s.next))
}

// Pin keeps a digest from eviction, durably, whether the blob is here yet or
// not.
func (s *Store) Pin(digest artifact.SHA256) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	if s.pins[digest] {
		return nil
	}
	f, err := s.fs.Create(s.path("pins", digest.String()))
	if err == nil {
		err = f.Close()
	}
	if errors.Is(err, fs.ErrExist) {
		err = nil // an attempt that failed at the next line
	}
	if err == nil {
		err = s.fs.SyncDir(s.path("pins"))
	}
	if err != nil {
		return fmt.Errorf("store: pin %s: %w", digest, err)
	}
	s.pins[digest] = true
	if b := s.blobs[digest]; b != nil && b.place != nil {
		s.recent.Remove(b.place)
		b.place = nil
	}
	return nil
}

// Unpin lets a digest be evicted again.
func (s *Store) Unpin(digest artifact.SHA256) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.pins[digest] {
		return nil
	}
	if err := s.fs.RemoveAll(s.path("pins", digest.String())); err != nil {
		return fmt.Errorf("store: unpin %s: %w", digest, err)
	}
	if err := s.fs.SyncDir(s.path("pins")); err != nil {
		return fmt.Errorf("store: unpin %s: %w", digest, err)
	}
	delete(s.pins, digest)
	if b := s.blobs[digest]; b != nil {
		b.place = s.recent.PushFront(b)
	}
	return nil
}

// Pinned tells whether a digest is pinned.
func (s *Store) Pinned(digest artifact.SHA256) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pins[digest]
}

// Status is what the store holds now.
func (s *Store) Status() store.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return store.Status{
		Blobs: len(s.blobs), Pinned: len(s.pins), Downloads: len(s.flights) + len(s.partials), Bytes: s.used, Quota: s.quota,
	}
}

// List calls visit for every blob, in the order of their digests, until it
// returns false.
func (s *Store) List(visit func(desc artifact.Descriptor, lastRead time.Time, pinned bool) bool) {
	type entry struct {
		desc     artifact.Descriptor
		lastRead time.Time
		pinned   bool
	}
	s.mu.Lock()
	entries := make([]entry, 0, len(s.blobs))
	for digest, b := range s.blobs {
		entries = append(entries, entry{b.desc, b.lastRead, s.pins[digest]})
	}
	s.mu.Unlock()
	sort.Slice(entries, func(i, j int) bool {
		return bytes.Compare(entries[i].desc.SHA256[:], entries[j].desc.SHA256[:]) < 0
	})
	for _, e := range entries {
		if !visit(e.desc, e.lastRead, e.pinned) {
			return
		}
	}
}

// SetQuota changes the quota, in bytes, 0 for unlimited, and evicts down to it
// as far as pins and downloads in flight let it.
func (s *Store) SetQuota(quota int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quota = quota
	for s.quota > 0 && s.used > s.quota {
		freed, err := s.evictOne()
		if err != nil || !freed {
			return err
		}
	}
	return nil
}

// reserve takes n bytes of the quota, evicting what it must; mu is held. It is
// ErrQuota, with nothing evicted, when even that would not be enough.
func (s *Store) reserve(n int64) error {
	if s.quota > 0 && s.used+n > s.quota {
		if s.used+n-s.evictable(s.used+n-s.quota) > s.quota {
			return fmt.Errorf("%w: %d bytes more than the quota of %d bytes", store.ErrQuota, s.used+n-s.quota, s.quota)
		}
		for s.used+n > s.quota {
			if _, err := s.evictOne(); err != nil {
				return err
			}
		}
	}
	s.used += n
	return nil
}

// evictable is how much could be freed, counted up to enough.
func (s *Store) evictable(enough int64) int64 {
	var n int64
	for digest, p := range s.partials {
		if !s.pins[digest] {
			n += room(p.desc.Size)
		}
	}
	for e := s.recent.Back(); e != nil && n < enough; e = e.Prev() {
		n += room(e.Value.(*blob).desc.Size)
	}
	return n
}

// evictOne removes what was read longest ago: a blob, or a download that
// nobody is working on.
func (s *Store) evictOne() (bool, error) {
	var oldest *partial
	for digest, p := range s.partials {
		if !s.pins[digest] && (oldest == nil || p.touched.Before(oldest.touched)) {
			oldest = p
		}
	}
	last := s.recent.Back()
	if last == nil && oldest == nil {
		return false, nil
	}
	if last == nil || oldest != nil && oldest.touched.Before(last.Value.(*blob).lastRead) {
		return true, s.dropPartial(oldest.desc.SHA256)
	}
	return true, s.remove(last.Value.(*blob))
}

func (s *Store) dropPartial(digest artifact.SHA256) error {
	p := s.partials[digest]
	if err := s.fs.RemoveAll(s.partialPath(digest)); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	delete(s.partials, digest)
	s.used -= room(p.desc.Size)
	return nil
}

func (s *Store) unreserve(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= n
}

// Scrub hashes every blob again and moves those that have rotted away into
// quarantine, so that they are fetched anew; found is called for each. It
// returns the number of sound blobs, and ctx's error when it was stopped.
func (s *Store) Scrub(ctx context.Context, found func(artifact.Descriptor, error)) (sound int, err error) {
	var all []artifact.Descriptor
	s.List(func(desc artifact.Descriptor, _ time.Time, _ bool) bool {
		all = append(all, desc)
		return true
	})
	for _, desc := range all {
		rot, err := s.scrubOne(ctx, desc)
		if err != nil {
			return sound, err
		}
		if rot == nil {
			sound++
		} else if found != nil {
			found(desc, rot)
		}
	}
	return sound, nil
}

func (s *Store) scrubOne(ctx context.Context, desc artifact.Descriptor) (rot, err error) {
	s.mu.Lock()
	b := s.blobs[desc.SHA256]
	if b == nil {
		s.mu.Unlock()
		return nil, ctx.Err() // evicted meanwhile
	}
	data, tree, err := s.openBoth(desc.SHA256)
	s.mu.Unlock()
	if err == nil {
		defer data.Close()
		defer tree.Close()
		rot = store.Recheck(ctx, data, outboard(tree, desc), desc)
	} else {
		rot = err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if rot == nil {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.blobs[desc.SHA256] != b {
		return nil, nil
	}
	if err := s.quarantine(s.blobPath(desc.SHA256), desc.SHA256); err != nil {
		return nil, fmt.Errorf("store: quarantine %s: %w", desc.SHA256, err)
	}
	s.forget(b)
	return rot, nil
}

// quarantine moves a folder out of the way and keeps it for people to look at.
func (s *Store) quarantine(dir string, digest artifact.SHA256) error {
	to := s.path("quarantine", digest.String()+"."+strconv.FormatInt(s.clock().UnixNano(), 36))
	return s.fs.Rename(dir, to)
}
