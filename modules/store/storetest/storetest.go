// Package storetest is the suite that every store passes.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/store"
	"github.com/pyrsia/appliance/modules/store/internal/tree"
)

// Store is what all stores have in common.
type Store interface {
	Put(ctx context.Context, r io.Reader) (artifact.Descriptor, error)
	PutExpect(ctx context.Context, r io.Reader, want artifact.Descriptor) (artifact.Descriptor, error)
	Open(artifact.SHA256) (*os.File, error)
	Stat(artifact.SHA256) (artifact.Descriptor, error)
	Find(artifact.BLAKE3) (artifact.Descriptor, error)
	Has(artifact.SHA256) bool
	Outboard(artifact.SHA256) ([]byte, error)
	Note(artifact.SHA256) []byte
	Held(artifact.BLAKE3) (size int64, chunks []byte, ok bool)
	Slice(dst []byte, digest artifact.BLAKE3, offset, length int64) ([]byte, error)
	Remove(artifact.SHA256) error
	Pin(artifact.SHA256) error
	Unpin(artifact.SHA256) error
	Pinned(artifact.SHA256) bool
	Status() store.Status
	Begin(artifact.Descriptor) (*store.Download, error)
	Close() error
}

// Random is size bytes that depend on the seed only.
func Random(size int, seed byte) []byte {
	p := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed, 1}).Read(p)
	return p
}

// Describe is the descriptor and the outboard of bytes.
func Describe(data []byte) (artifact.Descriptor, []byte) {
	h := store.NewHasher()
	_, _ = h.Write(data)
	return h.Finish()
}

// Slice is the Bao slice of a range of bytes.
func Slice(t testing.TB, data []byte, offset, length int64) []byte {
	t.Helper()
	b := tree.NewBuilder()
	_, _ = b.Write(data)
	_, _, outboard := b.Finish()
	slice, err := store.AppendSlice(nil, bytes.NewReader(data), bytes.NewReader(outboard), int64(len(data)), offset, length)
	if err != nil {
		t.Fatal(err)
	}
	return slice
}

// Fill writes the range of data into a download.
func Fill(t testing.TB, d *store.Download, data []byte, offset, length int64) {
	t.Helper()
	if err := d.WriteSlice(offset, length, bytes.NewReader(Slice(t, data, offset, length))); err != nil {
		t.Fatalf("WriteSlice %d+%d: %v", offset, length, err)
	}
}

// FillAll writes everything that is missing, in pieces of a MaxSlice.
func FillAll(t testing.TB, d *store.Download, data []byte) {
	t.Helper()
	for {
		offset, length := d.Missing(0)
		if length == 0 {
			return
		}
		Fill(t, d, data, offset, min(length, store.MaxSlice))
	}
}

// Content reads a blob whole.
func Content(t testing.TB, s Store, digest artifact.SHA256) []byte {
	t.Helper()
	f, err := s.Open(digest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Run runs the suite; open makes an empty store, which the suite closes.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Store)
	}{
		{"PutAndRead", testPut}, {"PutExpect", testPutExpect}, {"PutFails", testPutFails},
		{"NotFound", testNotFound}, {"Pins", testPins}, {"Remove", testRemove},
		{"Download", testDownload}, {"DownloadEmpty", testDownloadEmpty}, {"DownloadShared", testShared},
		{"DownloadRefuses", testRefuses}, {"DownloadResumes", testResumes}, {"DownloadEnds", testEnds},
		{"DownloadOfBlob", testOfBlob}, {"Readers", testReaders}, {"ReaderSeeks", testSeek},
		{"ReaderCancelled", testCancel}, {"PutWhileDownloading", testPutWhile}, {"Notes", testNotes},
		{"PartialServes", testPartial}, {"ManyWriters", testManyWriters},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := open(t)
			defer s.Close()
			test.run(t, s)
		})
	}
}

func begin(t *testing.T, s Store, desc artifact.Descriptor) *store.Download {
	t.Helper()
	d, err := s.Begin(desc)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

var sizes = []int{0, 1, store.Group - 1, store.Group, store.Group + 1, store.MaxSlice, 3*store.MaxSlice + 12345}

func testPut(t *testing.T, s Store) {
	for i, size := range sizes {
		data := Random(size, byte(i))
		want, outboard := Describe(data)
		for range 2 { // the second time it is here already
			got, err := s.Put(t.Context(), iotest.HalfReader(bytes.NewReader(data)))
			if err != nil || got != want {
				t.Fatalf("size %d: %+v, %v", size, got, err)
			}
		}
		if !bytes.Equal(Content(t, s, want.SHA256), data) {
			t.Errorf("size %d: other bytes", size)
		}
		if got, err := s.Outboard(want.SHA256); err != nil || !bytes.Equal(got, outboard) {
			t.Errorf("size %d: other outboard, %v", size, err)
		}
		if got, err := s.Stat(want.SHA256); err != nil || got != want {
			t.Errorf("Stat: %+v, %v", got, err)
		}
		if got, err := s.Find(want.BLAKE3); err != nil || got != want {
			t.Errorf("Find: %+v, %v", got, err)
		}
		if size > 0 {
			length := min(int64(size), store.MaxSlice)
			slice, err := s.Slice(nil, want.BLAKE3, 0, length)
			if err != nil || !bytes.Equal(slice, Slice(t, data, 0, length)) {
				t.Errorf("Slice of size %d: %v", size, err)
			}
		}
		if n, chunks, ok := s.Held(want.BLAKE3); n != int64(size) || chunks != nil || !ok {
			t.Errorf("Held: %d %v %v", n, chunks, ok)
		}
	}
	if got := s.Status().Blobs; got != len(sizes) {
		t.Errorf("%d blobs, want %d", got, len(sizes))
	}
}

func testPutExpect(t *testing.T, s Store) {
	data := Random(100_000, 1)
	want, _ := Describe(data)
	for name, bad := range map[string]artifact.Descriptor{
		"size":   {SHA256: want.SHA256, BLAKE3: want.BLAKE3, Size: want.Size - 1},
		"sha256": {SHA256: artifact.SHA256{1}, BLAKE3: want.BLAKE3, Size: want.Size},
		"blake3": {SHA256: want.SHA256, BLAKE3: artifact.BLAKE3{1}, Size: want.Size},
	} {
		if _, err := s.PutExpect(t.Context(), bytes.NewReader(data), bad); !errors.Is(err, store.ErrMismatch) {
			t.Errorf("wrong %s: %v", name, err)
		}
	}
	if s.Has(want.SHA256) {
		t.Error("refused bytes are here")
	}
	for _, good := range []artifact.Descriptor{{SHA256: want.SHA256, Size: -1}, want} {
		if got, err := s.PutExpect(t.Context(), bytes.NewReader(data), good); err != nil || got != want {
			t.Errorf("%+v: %+v, %v", good, got, err)
		}
	}
}

func testPutFails(t *testing.T, s Store) {
	data := Random(3<<20, 2)
	desc, _ := Describe(data)
	cause := errors.New("the wire broke")
	for _, err := range []error{cause, io.ErrUnexpectedEOF} {
		broken := io.MultiReader(bytes.NewReader(data), iotest.ErrReader(err))
		if _, got := s.Put(t.Context(), broken); !errors.Is(got, err) {
			t.Errorf("broken by %v: %v", err, got)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Put(ctx, bytes.NewReader(data)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if s.Has(desc.SHA256) || s.Status().Bytes != 0 {
		t.Errorf("something stayed: %+v", s.Status())
	}
}

func testNotFound(t *testing.T, s Store) {
	none := artifact.SHA256{9}
	_, open := s.Open(none)
	_, stat := s.Stat(none)
	_, find := s.Find(artifact.BLAKE3{9})
	_, out := s.Outboard(none)
	_, slice := s.Slice(nil, artifact.BLAKE3{9}, 0, 1)
	for name, err := range map[string]error{"Open": open, "Stat": stat, "Find": find, "Outboard": out, "Slice": slice, "Remove": s.Remove(none)} {
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, ok := s.Held(artifact.BLAKE3{9}); ok || s.Has(none) || s.Note(none) != nil {
		t.Error("something is known of nothing")
	}
}

func testPins(t *testing.T, s Store) {
	digest := artifact.SHA256{5}
	for range 2 {
		if err := s.Pin(digest); err != nil || !s.Pinned(digest) {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := s.Unpin(digest); err != nil || s.Pinned(digest) {
			t.Fatal(err)
		}
	}
}

func testRemove(t *testing.T, s Store) {
	data := Random(50_000, 3)
	desc, err := s.Put(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.Open(desc.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := s.Remove(desc.SHA256); err != nil {
		t.Fatal(err)
	}
	if s.Has(desc.SHA256) || s.Status().Bytes != 0 {
		t.Errorf("it stayed: %+v", s.Status())
	}
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, data) {
		t.Errorf("an open file ended: %v", err)
	}
}

func testDownload(t *testing.T, s Store) {
	for i, size := range sizes[1:] {
		data := Random(size, byte(40+i))
		desc, outboard := Describe(data)
		d := begin(t, s, desc)
		if err := d.Commit(); !errors.Is(err, store.ErrIncomplete) {
			t.Errorf("Commit of nothing: %v", err)
		}
		if offset, length := d.Missing(0); offset != 0 || length != min(desc.Size, store.MaxSlice) {
			t.Errorf("Missing: %d+%d", offset, length)
		}
		// From the end to the beginning.
		for offset := (desc.Size - 1) / store.MaxSlice * store.MaxSlice; offset >= 0; offset -= store.MaxSlice {
			if s.Has(desc.SHA256) {
				t.Fatal("visible before it is complete")
			}
			Fill(t, d, data, offset, min(store.MaxSlice, desc.Size-offset))
		}
		if !d.Complete() || d.Arrived() != desc.Size {
			t.Fatal("not complete")
		}
		for range 2 {
			if err := d.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(Content(t, s, desc.SHA256), data) {
			t.Error("other bytes")
		}
		if got, err := s.Outboard(desc.SHA256); err != nil || !bytes.Equal(got, outboard) {
			t.Errorf("other outboard, %v", err)
		}
		late := d.NewReader(t.Context()) // a caller that came a moment too late
		if got, err := io.ReadAll(late); err != nil || !bytes.Equal(got, data) {
			t.Errorf("late reader: %v", err)
		}
		late.Close()
	}
}

func testDownloadEmpty(t *testing.T, s Store) {
	desc, _ := Describe(nil)
	d := begin(t, s, desc)
	if !d.Complete() {
		t.Error("not complete")
	}
	if got, err := io.ReadAll(d.NewReader(t.Context())); err != nil || len(got) != 0 {
		t.Errorf("read %q, %v", got, err)
	}
	if err := d.Commit(); err != nil || !s.Has(desc.SHA256) {
		t.Error(err)
	}
	desc.BLAKE3[0] ^= 1
	if _, err := s.Begin(desc); !errors.Is(err, store.ErrMismatch) {
		t.Errorf("empty file of another digest: %v", err)
	}
	if _, err := s.Begin(artifact.Descriptor{Size: -1}); err == nil {
		t.Error("negative size")
	}
}

func testShared(t *testing.T, s Store) {
	data := Random(100_000, 4)
	desc, _ := Describe(data)
	var wait sync.WaitGroup
	got := make([]*store.Download, 16)
	for i := range got {
		wait.Go(func() { got[i], _ = s.Begin(desc) })
	}
	wait.Wait()
	for _, d := range got {
		if d == nil || d != got[0] {
			t.Fatal("more than one download")
		}
	}
	other := desc
	other.BLAKE3[0] ^= 1
	if _, err := s.Begin(other); !errors.Is(err, store.ErrMismatch) {
		t.Errorf("same SHA-256, other BLAKE3: %v", err)
	}
	got[0].Abort(nil)
}

func testRefuses(t *testing.T, s Store) {
	data := Random(5*store.Group+7, 5)
	desc, _ := Describe(data)
	d := begin(t, s, desc)
	length := int64(2 * store.Group)
	good := Slice(t, data, store.Group, length)
	for _, test := range []struct {
		name           string
		offset, length int64
		slice          []byte
		want           error // nil: any
	}{
		{"bit flip in data", store.Group, length, flip(good, len(good)-1), store.ErrUnverified},
		{"bit flip in the tree", store.Group, length, flip(good, 20), store.ErrUnverified},
		{"other size", store.Group, length, flip(good, 0), store.ErrUnverified},
		{"other range", 2 * store.Group, length, good, store.ErrUnverified},
		{"other file", store.Group, length, Slice(t, Random(len(data), 6), store.Group, length), store.ErrUnverified},
		{"cut", store.Group, length, good[:len(good)-1], io.ErrUnexpectedEOF},
		{"nothing", store.Group, length, nil, io.ErrUnexpectedEOF},
		{"half a group", store.Group, length - 1, good, nil},
		{"beyond the end", 0, desc.Size + 1, good, nil},
		{"too long", 0, store.MaxSlice + store.Group, good, nil},
		{"negative", -store.Group, length, good, nil},
		{"negative length", 0, -1, good, nil},
	} {
		err := d.WriteSlice(test.offset, test.length, bytes.NewReader(test.slice))
		if err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	if d.Arrived() != 0 {
		t.Error("something of it counts")
	}
	after := bytes.NewReader(append(bytes.Clone(good), "more"...))
	if err := d.WriteSlice(store.Group, length, after); err != nil || after.Len() != 4 {
		t.Errorf("bytes behind the slice: %v, %d left", err, after.Len())
	}
	FillAll(t, d, data)
	if err := d.Commit(); err != nil || !bytes.Equal(Content(t, s, desc.SHA256), data) {
		t.Error(err)
	}
}

func flip(p []byte, at int) []byte {
	p = bytes.Clone(p)
	p[at] ^= 1
	return p
}

func testResumes(t *testing.T, s Store) {
	data := Random(4*store.MaxSlice+5, 7)
	desc, _ := Describe(data)
	d := begin(t, s, desc)
	Fill(t, d, data, store.MaxSlice, store.MaxSlice)
	Fill(t, d, data, 4*store.MaxSlice, 5)
	cause := errors.New("no source")
	d.Suspend(cause)
	if over, err := d.Ended(); !over || !errors.Is(err, cause) {
		t.Errorf("Ended: %v, %v", over, err)
	}
	again := begin(t, s, desc)
	if again == d {
		t.Fatal("the ended download")
	}
	if got := again.Arrived(); got != store.MaxSlice+store.Group && got != store.MaxSlice+5 {
		t.Errorf("%d bytes resumed", got)
	}
	if offset, length := again.Missing(store.MaxSlice); offset != 2*store.MaxSlice || length != store.MaxSlice {
		t.Errorf("Missing: %d+%d", offset, length)
	}
	FillAll(t, again, data)
	if err := again.Commit(); err != nil || !bytes.Equal(Content(t, s, desc.SHA256), data) {
		t.Error(err)
	}
}

func testEnds(t *testing.T, s Store) {
	data := Random(2*store.MaxSlice, 8)
	desc, _ := Describe(data)
	cause := errors.New("given up")
	d := begin(t, s, desc)
	Fill(t, d, data, 0, store.MaxSlice)
	r := d.NewReader(t.Context())
	defer r.Close()
	failed := make(chan error, 1)
	go func() {
		got, err := io.ReadAll(r)
		if len(got) != store.MaxSlice {
			err = errors.New("not what had arrived")
		}
		failed <- err
	}()
	Await(t, func() bool { return len(d.Wanted()) == 1 && d.Wanted()[0] == store.MaxSlice })
	d.Abort(cause)
	if err := <-failed; !errors.Is(err, cause) {
		t.Errorf("reader: %v", err)
	}
	if err := d.Commit(); !errors.Is(err, cause) {
		t.Errorf("Commit: %v", err)
	}
	if err := d.WriteSlice(0, store.Group, bytes.NewReader(Slice(t, data, 0, store.Group))); err == nil {
		t.Error("written after the end")
	}
	if _, err := d.NewReader(t.Context()).Read(make([]byte, 1)); !errors.Is(err, cause) {
		t.Errorf("new reader: %v", err)
	}
	if got := s.Status(); got.Bytes != 0 || got.Downloads != 0 {
		t.Errorf("something stayed: %+v", got)
	}
	if again := begin(t, s, desc); again.Arrived() != 0 {
		t.Error("aborted, and resumed")
	}
}

func testOfBlob(t *testing.T, s Store) {
	data := Random(200_000, 9)
	desc, err := s.Put(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	d := begin(t, s, desc)
	if !d.Complete() {
		t.Error("not complete")
	}
	for range 2 {
		r := d.NewReader(t.Context())
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read: %v", err)
		}
		r.Close()
	}
	if err := d.Commit(); err != nil {
		t.Error(err)
	}
	desc.BLAKE3[3] ^= 1
	if _, err := s.Begin(desc); !errors.Is(err, store.ErrMismatch) {
		t.Errorf("other BLAKE3: %v", err)
	}
}

func testReaders(t *testing.T, s Store) {
	data := Random(3*store.MaxSlice+99, 10)
	desc, _ := Describe(data)
	d := begin(t, s, desc)
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			r := d.NewReader(t.Context())
			defer r.Close()
			from := int64(i) * 300_000
			if _, err := r.Seek(from, io.SeekStart); err != nil {
				t.Error(err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data[from:]) {
				t.Errorf("reader %d: %v", i, err)
			}
		})
	}
	for _, chunk := range []int64{3, 0, 2, 1} {
		offset := chunk * store.MaxSlice
		Fill(t, d, data, offset, min(store.MaxSlice, desc.Size-offset))
	}
	// A reader in mid-stream goes on over Commit and after Remove.
	slow := d.NewReader(t.Context())
	defer slow.Close()
	head := make([]byte, 1000)
	if _, err := io.ReadFull(slow, head); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(desc.SHA256); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(slow)
	if err != nil || !bytes.Equal(append(head, rest...), data) {
		t.Errorf("slow reader: %v", err)
	}
	wait.Wait()
}

func testSeek(t *testing.T, s Store) {
	data := Random(2*store.Group+100, 11)
	desc, _ := Describe(data)
	d := begin(t, s, desc)
	defer d.Abort(nil)
	Fill(t, d, data, 2*store.Group, 100)
	r := d.NewReader(t.Context())
	defer r.Close()
	if at, err := r.Seek(0, io.SeekEnd); at != desc.Size || err != nil {
		t.Errorf("%d, %v", at, err)
	}
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	if at, err := r.Seek(-50, io.SeekCurrent); at != desc.Size-50 || err != nil {
		t.Errorf("%d, %v", at, err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data[len(data)-50:]) {
		t.Errorf("tail: %v", err)
	}
	if _, err := r.Seek(-1, io.SeekStart); err == nil {
		t.Error("before the beginning")
	}
	if n, err := r.Read(nil); n != 0 || err != nil && err != io.EOF {
		t.Errorf("empty read: %d, %v", n, err)
	}
}

func testCancel(t *testing.T, s Store) {
	desc, _ := Describe(Random(100, 12))
	d := begin(t, s, desc)
	defer d.Abort(nil)
	ctx, cancel := context.WithCancel(t.Context())
	r := d.NewReader(ctx)
	defer r.Close()
	failed := make(chan error, 1)
	go func() { _, err := r.Read(make([]byte, 1)); failed <- err }()
	Await(t, func() bool { return len(d.Wanted()) == 1 })
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if len(d.Wanted()) != 0 {
		t.Error("still wanted")
	}
}

func testPutWhile(t *testing.T, s Store) {
	data := Random(2*store.MaxSlice, 13)
	desc, _ := Describe(data)
	d := begin(t, s, desc)
	Fill(t, d, data, 0, store.MaxSlice)
	if _, err := s.Put(t.Context(), bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	FillAll(t, d, data)
	if err := d.Commit(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(Content(t, s, desc.SHA256), data) {
		t.Error("other bytes")
	}
	if got := s.Status(); got.Blobs != 1 || got.Downloads != 0 {
		t.Errorf("%+v", got)
	}
}

func testNotes(t *testing.T, s Store) {
	data := Random(2*store.MaxSlice, 14)
	desc, _ := Describe(data)
	d := begin(t, s, desc)
	for _, note := range []string{"first", "second"} {
		if err := d.SetNote([]byte(note)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.SetNote(make([]byte, store.MaxNote+1)); err == nil {
		t.Error("a note too long")
	}
	d.Suspend(nil)
	d = begin(t, s, desc)
	if got := string(d.Note()); got != "second" {
		t.Errorf("resumed note %q", got)
	}
	FillAll(t, d, data)
	if err := d.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := string(s.Note(desc.SHA256)); got != "second" {
		t.Errorf("note %q", got)
	}
}

func testPartial(t *testing.T, s Store) {
	data := Random(9*store.MaxSlice+1, 15)
	desc, _ := Describe(data)
	d := begin(t, s, desc)
	defer d.Abort(nil)
	for _, chunk := range []int64{1, 8} {
		Fill(t, d, data, chunk*store.MaxSlice, store.MaxSlice)
	}
	Fill(t, d, data, 2*store.MaxSlice, store.Group)
	size, chunks, ok := s.Held(desc.BLAKE3)
	if size != desc.Size || !ok || !bytes.Equal(chunks, []byte{1 << 1, 1 << 0}) {
		t.Errorf("Held: %d %b %v", size, chunks, ok)
	}
	got, err := s.Slice(nil, desc.BLAKE3, store.MaxSlice, store.MaxSlice)
	if err != nil || !bytes.Equal(got, Slice(t, data, store.MaxSlice, store.MaxSlice)) {
		t.Errorf("Slice: %v", err)
	}
	if _, err := s.Slice(nil, desc.BLAKE3, 2*store.MaxSlice, store.MaxSlice); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Slice of what is not here: %v", err)
	}
	if _, err := s.Slice(nil, desc.BLAKE3, 0, 1<<40); err == nil {
		t.Error("Slice beyond the end")
	}
}

func testManyWriters(t *testing.T, s Store) {
	data := Random(6*store.MaxSlice+store.Group/2, 16)
	desc, _ := Describe(data)
	d := begin(t, s, desc)
	var wait sync.WaitGroup
	for i := range 3 {
		wait.Go(func() { // all of them write all of it, from different places
			for c := range int64(7) {
				offset := (c + int64(i)*2) % 7 * store.MaxSlice
				Fill(t, d, data, offset, min(store.MaxSlice, desc.Size-offset))
			}
			if err := d.Commit(); err != nil {
				t.Error(err)
			}
		})
	}
	r := d.NewReader(t.Context())
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
		t.Errorf("reader: %v", err)
	}
	wait.Wait()
	if !bytes.Equal(Content(t, s, desc.SHA256), data) {
		t.Error("other bytes")
	}
}

// Await polls until the condition holds, and fails the test after a minute.
func Await(t testing.TB, condition func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited a minute in vain")
		}
	}
}
