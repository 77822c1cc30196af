package disk

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/store"
	"github.com/pyrsia/appliance/modules/store/storetest"
)

func open(t testing.TB, dir string, options Options) *Store {
	t.Helper()
	s, err := Open(dir, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(t testing.TB, s *Store, data []byte) artifact.Descriptor {
	t.Helper()
	desc, err := s.Put(context.Background(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

func TestSuite(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Store { return open(t, t.TempDir(), Options{}) })
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	data := storetest.Random(2_000_000, 1)
	desc := put(t, s, data)
	empty := put(t, s, nil)
	if err := s.Pin(desc.SHA256); err != nil {
		t.Fatal(err)
	}
	other := storetest.Random(3*store.MaxSlice, 2)
	half, _ := storetest.Describe(other)
	d, err := s.Begin(half)
	if err != nil {
		t.Fatal(err)
	}
	storetest.Fill(t, d, other, store.MaxSlice, store.MaxSlice)
	before := s.Status()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if over, err := d.Ended(); !over || !errors.Is(err, store.ErrClosed) {
		t.Errorf("the download goes on: %v", err)
	}
	if _, err := s.Put(t.Context(), bytes.NewReader(data)); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Put after Close: %v", err)
	}
	s = open(t, dir, Options{})
	if after := s.Status(); after != before {
		t.Errorf("%+v, was %+v", after, before)
	}
	if !s.Pinned(desc.SHA256) || !s.Has(empty.SHA256) || !bytes.Equal(storetest.Content(t, s, desc.SHA256), data) {
		t.Error("something is lost")
	}
	if d, err = s.Begin(half); err != nil || d.Arrived() != store.MaxSlice {
		t.Errorf("resumed %d bytes, %v", d.Arrived(), err)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	if _, err := Open(dir, Options{}); err == nil {
		t.Error("opened twice")
	} else {
		t.Log(err)
	}
	_ = s.Close()
	_ = open(t, dir, Options{})
}

// clock is a time that a test moves.
type clock struct{ now time.Time }

func (c *clock) tick() time.Time { c.now = c.now.Add(time.Hour); return c.now }

func TestQuotaEvictsByLastRead(t *testing.T) {
	const size = 100_000
	dir := t.TempDir()
	c := &clock{time.Unix(1_700_000_000, 0)}
	options := Options{Quota: 4 * room(size), Clock: c.tick}
	s := open(t, dir, options)
	var descs []artifact.Descriptor
	for i := range 4 {
		descs = append(descs, put(t, s, storetest.Random(size, byte(i))))
	}
	read := func(i int) {
		f, err := s.Open(descs[i].SHA256)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	read(0)
	read(1)
	if err := s.Pin(descs[2].SHA256); err != nil {
		t.Fatal(err)
	}
	here := func(want ...int) {
		t.Helper()
		for i, desc := range descs {
			expect := false
			for _, w := range want {
				expect = expect || w == i
			}
			if s.Has(desc.SHA256) != expect {
				t.Errorf("blob %d is here: %v", i, !expect)
			}
		}
	}
	descs = append(descs, put(t, s, storetest.Random(size, 4)))
	here(0, 1, 2, 4) // 3 was never read
	// The order of reads survives a restart.
	_ = s.Close()
	s = open(t, dir, options)
	descs = append(descs, put(t, s, storetest.Random(size, 5)))
	here(1, 2, 4, 5)
	// A download in flight is reserved and never evicted; one at rest may go.
	big := storetest.Random(2*size, 6)
	desc, _ := storetest.Describe(big)
	d, err := s.Begin(desc)
	if err != nil {
		t.Fatal(err)
	}
	here(2, 5)
	if _, err := s.Put(t.Context(), bytes.NewReader(storetest.Random(3*size, 7))); !errors.Is(err, store.ErrQuota) {
		t.Errorf("beyond pins and downloads: %v", err)
	}
	here(2, 5) // and nothing was evicted in vain
	d.Suspend(nil)
	descs = append(descs, put(t, s, storetest.Random(size, 8)), put(t, s, storetest.Random(size, 9)))
	if got := s.Status(); got.Downloads != 0 && got.Bytes > options.Quota {
		t.Errorf("%+v", got)
	}
	if !s.Has(descs[2].SHA256) {
		t.Error("a pinned blob was evicted")
	}
	if s.Status().Bytes > options.Quota {
		t.Errorf("%+v is above the quota", s.Status())
	}
	if err := s.SetQuota(room(size)); err != nil {
		t.Fatal(err)
	}
	here(2)
	if _, err := s.Begin(desc); !errors.Is(err, store.ErrQuota) {
		t.Errorf("%v", err)
	}
	if err := s.Unpin(descs[2].SHA256); err != nil {
		t.Fatal(err)
	}
	put(t, s, storetest.Random(size, 10))
	here()
}

func TestEvictedWhileRead(t *testing.T) {
	s := open(t, t.TempDir(), Options{Quota: room(100_000)})
	data := storetest.Random(100_000, 1)
	desc := put(t, s, data)
	f, err := s.Open(desc.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	put(t, s, storetest.Random(100_000, 2))
	if s.Has(desc.SHA256) {
		t.Fatal("not evicted")
	}
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%v", err)
	}
}

func TestScrub(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	var descs []artifact.Descriptor
	for i := range 6 {
		descs = append(descs, put(t, s, storetest.Random(100_000+i, byte(i))))
	}
	for i, spoil := range []func(path string) error{
		func(path string) error { return spoilFile(path, "data", func(p []byte) { p[50_000] ^= 1 }) },
		func(path string) error { return spoilFile(path, "tree", func(p []byte) { p[len(p)-1] ^= 1 }) },
		func(path string) error { return os.Truncate(filepath.Join(path, "data"), 10) },
		func(path string) error { return os.Remove(filepath.Join(path, "data")) },
	} {
		if err := spoil(s.blobPath(descs[i].SHA256)); err != nil {
			t.Fatal(err)
		}
	}
	// Right by its tree, and wrong by the name it is under: as if the log had
	// vouched for a pair of digests that are not of one file.
	impostor := s.blobPath(artifact.SHA256{0: descs[5].SHA256[0], 1: 1})
	if err := os.Rename(s.blobPath(descs[5].SHA256), impostor); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	s = open(t, dir, Options{})
	if s.Status().Blobs != 4 {
		t.Errorf("Open keeps %d blobs: two have files of the wrong size", s.Status().Blobs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Scrub(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	rotten := 0
	sound, err := s.Scrub(t.Context(), func(artifact.Descriptor, error) { rotten++ })
	if err != nil || sound != 1 || rotten != 3 {
		t.Errorf("%d sound, %d rotten, %v", sound, rotten, err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "quarantine")); err != nil || len(left) != 5 {
		t.Errorf("%d in quarantine, %v", len(left), err)
	}
	if !s.Has(descs[4].SHA256) || s.Status().Blobs != 1 || s.Status().Bytes != room(descs[4].Size) {
		t.Errorf("%+v", s.Status())
	}
	put(t, s, storetest.Random(100_000, 0)) // and it can come back
}

func TestList(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	for i := range 5 {
		put(t, s, storetest.Random(100, byte(i)))
	}
	var last artifact.SHA256
	n := 0
	s.List(func(desc artifact.Descriptor, lastRead time.Time, pinned bool) bool {
		if bytes.Compare(desc.SHA256[:], last[:]) <= 0 || desc.Size != 100 || pinned || lastRead.IsZero() {
			t.Errorf("%+v", desc)
		}
		last = desc.SHA256
		n++
		return n < 4
	})
	if n != 4 {
		t.Errorf("%d visited", n)
	}
}

func BenchmarkWriteSlice(b *testing.B) {
	s := open(b, b.TempDir(), Options{})
	data := storetest.Random(64<<20, 1)
	desc, _ := storetest.Describe(data)
	var slices [][]byte
	for offset := int64(0); offset < desc.Size; offset += store.MaxSlice {
		slices = append(slices, storetest.Slice(b, data, offset, store.MaxSlice))
	}
	b.SetBytes(desc.Size)
	b.ReportAllocs()
	for b.Loop() {
		d, err := s.Begin(desc)
		if err != nil {
			b.Fatal(err)
		}
		for i, slice := range slices {
			if err := d.WriteSlice(int64(i)*store.MaxSlice, store.MaxSlice, bytes.NewReader(slice)); err != nil {
				b.Fatal(err)
			}
		}
		d.Abort(nil)
	}
}

func BenchmarkPutSmall(b *testing.B) {
	s := open(b, b.TempDir(), Options{})
	data := storetest.Random(20_000, 1)
	for i := 0; b.Loop(); i++ {
		data[0], data[1], data[2] = byte(i), byte(i>>8), byte(i>>16)
		put(b, s, data)
	}
}
