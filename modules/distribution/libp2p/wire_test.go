package libp2p

import (
	"bytes"
	"context"
	"errors"
	"io"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/distribution"
	"github.com/pyrsia/appliance/modules/store"
	"github.com/pyrsia/appliance/modules/store/storetest"
)

func TestSliceSize(t *testing.T) {
	for _, size := range []int{1, store.Group, store.Group + 1, 7*store.Group + 3, 3*store.MaxSlice + 50_000} {
		data := storetest.Random(size, 1)
		for offset := int64(0); offset < int64(size); offset += 5 * store.Group {
			length := min(store.MaxSlice, int64(size)-offset)
			if got, want := sliceSize(int64(size), offset, length), len(storetest.Slice(t, data, offset, length)); got != int64(want) {
				t.Errorf("size %d range %d+%d: %d, want %d", size, offset, length, got, want)
			}
		}
	}
	if worst := sliceSize(1<<53-1, 1<<52-store.MaxSlice/2, store.MaxSlice) + 1; worst > maxSliceBody {
		t.Errorf("a slice of %d bytes is above the bound of %d", worst, maxSliceBody)
	}
}

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	if err := writeFrame(&b, []byte("ab"), nil, []byte("c")); err != nil || b.String() != "\x00\x00\x00\x03abc" {
		t.Fatalf("%q, %v", b.String(), err)
	}
	big := storetest.Random(300_000, 2)
	if err := writeFrame(&b, big); err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]byte{[]byte("abc"), big} {
		if got, err := readFrame(&b, 300_000); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	for _, test := range []struct {
		in   string
		want error
	}{
		{"", io.EOF}, {"\x00\x00", io.ErrUnexpectedEOF}, {"\x00\x00\x00\x05abcd", io.ErrUnexpectedEOF},
		{"\x00\x00\x00\x0b", errMalformed}, {"\xff\xff\xff\xff", errMalformed},
	} {
		if _, err := readFrame(bytes.NewReader([]byte(test.in)), 10); !errors.Is(err, test.want) {
			t.Errorf("%q: %v, want %v", test.in, err, test.want)
		}
	}
}

// The bytes of each message, so that a change of format cannot go unseen.
func TestWireGoldens(t *testing.T) {
	digest := artifact.BLAKE3{0xaa, 31: 0xbb}
	zeros := make([]byte, 30)
	for name, test := range map[string]struct{ got, want []byte }{
		"slice": {
			request{code: codeSlice, digests: []artifact.BLAKE3{digest}, offset: 0x100000, length: 0x4000}.encode(),
			cat([]byte{1}, []byte{0xaa}, zeros, []byte{0xbb}, []byte{0, 0, 0, 0, 0, 0x10, 0, 0}, []byte{0, 0, 0x40, 0}),
		},
		"have": {
			request{code: codeHave, digests: []artifact.BLAKE3{digest, digest}}.encode(),
			cat([]byte{2}, []byte{0xaa}, zeros, []byte{0xbb}, []byte{0xaa}, zeros, []byte{0xbb}),
		},
		"held": {
			encodeHeld([]held{{}, {state: heldAll}, {state: heldSome, size: 9<<20 + 1, chunks: []byte{0x81, 0x02}}}),
			[]byte{0, 1, 2, 0, 0, 0, 0, 0, 0x90, 0, 1, 0x81, 0x02},
		},
	} {
		if !bytes.Equal(test.got, test.want) {
			t.Errorf("%s: %x, want %x", name, test.got, test.want)
		}
	}
}

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func FuzzRequest(f *testing.F) {
	f.Add(request{code: codeSlice, digests: make([]artifact.BLAKE3, 1), offset: 1 << 40, length: 1 << 20}.encode())
	f.Add(request{code: codeHave, digests: make([]artifact.BLAKE3, 3)}.encode())
	f.Add([]byte{})
	f.Add([]byte{9})
	f.Fuzz(func(t *testing.T, p []byte) {
		q, err := decodeRequest(p)
		if err != nil {
			return
		}
		if !bytes.Equal(q.encode(), p) {
			t.Fatalf("%x decodes to %+v, which encodes to %x", p, q, q.encode())
		}
		if q.offset < 0 || q.length < 0 || q.length > distribution.MaxSlice || len(q.digests) == 0 {
			t.Fatalf("%+v", q)
		}
	})
}

func FuzzHeld(f *testing.F) {
	f.Add(encodeHeld([]held{{state: heldSome, size: 9 << 20, chunks: []byte{1, 2}}, {state: heldAll}}), 2)
	f.Add([]byte{0}, 1)
	f.Add([]byte{2, 0, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 1)
	f.Fuzz(func(t *testing.T, p []byte, count int) {
		count = max(1, min(count, maxHave))
		all, err := decodeHeld(p, count)
		if err != nil {
			return
		}
		if got := encodeHeld(all); !bytes.Equal(got, p) {
			t.Fatalf("%x decodes to %+v, which encodes to %x", p, all, got)
		}
		again, err := decodeHeld(p, count)
		if err != nil || !reflect.DeepEqual(again, all) {
			t.Fatal("not the same twice")
		}
		for _, h := range all {
			h.has(0)
			h.has(1 << 40)
		}
	})
}

// fakeClock is time that passes only by sleeping.
type fakeClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) Sleep(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	return ctx.Err()
}

// Over any span no more passes than the rate gives, plus one burst.
func TestBucketIsAHardLimit(t *testing.T) {
	for _, rate := range []int64{1000, 64 << 10, 20 << 20} {
		clock := &fakeClock{now: time.Unix(1, 0)}
		b := newBucket(rate, clock)
		type event struct {
			at time.Time
			n  int
		}
		var events []event
		for i := range 2000 {
			n := (i*7919)%piece + 1
			if err := b.take(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			events = append(events, event{clock.Now(), n})
			if i%500 == 499 {
				_ = clock.Sleep(t.Context(), time.Hour) // idle time must not be saved up
			}
		}
		for from := 0; from < len(events); from += 97 {
			sent := 0.0
			for _, e := range events[from:] {
				sent += float64(e.n)
				allowed := e.at.Sub(events[from].at).Seconds()*float64(rate) + b.burst() + piece
				if sent > allowed+1 {
					t.Fatalf("rate %d: %.0f bytes in %v, %.0f allowed", rate, sent, e.at.Sub(events[from].at), allowed)
				}
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := newBucket(1, &fakeClock{}).take(ctx, piece); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// The host's uploads go through the bucket, all of them.
func TestUploadsAreCounted(t *testing.T) {
	clock := &fakeClock{now: time.Unix(1, 0)}
	a := start(t, 1, emptyStore(), nil)
	a.upload.mu.Lock()
	a.upload.clock, a.upload.rate, a.upload.last = clock, 1<<20, clock.now
	a.upload.mu.Unlock()
	data := storetest.Random(8*store.MaxSlice, 3)
	desc := put(t, a.store, data)
	b := start(t, 2, emptyStore(), nil, a)
	if err := b.Fetch(t.Context(), desc); err != nil {
		t.Fatal(err)
	}
	if passed := clock.Now().Sub(time.Unix(1, 0)); passed < 7900*time.Millisecond {
		t.Errorf("8 MiB at 1 MiB/s took %v of the bucket's time", passed)
	}
}
