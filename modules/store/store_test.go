package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/store"
	"github.com/pyrsia/appliance/modules/store/storetest"
)

func TestThrough(t *testing.T) {
	data := storetest.Random(20*store.MaxSlice+5, 1)
	desc, _ := storetest.Describe(data)
	through := store.NewThrough(desc)
	if through.Kept() || through.Complete() || through.Descriptor() != desc {
		t.Error("it says what it is not")
	}
	bad := storetest.Slice(t, data, 0, store.Group)
	bad[len(bad)-1] ^= 1
	if err := through.WriteSlice(0, store.Group, bytes.NewReader(bad)); !errors.Is(err, store.ErrUnverified) {
		t.Errorf("%v", err)
	}
	// A source that fills whatever is missing, until the reader is closed.
	ended := make(chan error, 1)
	go func() {
		for {
			changed := through.Changed()
			if over, err := through.Ended(); over {
				ended <- err
				return
			}
			offset, length := through.Missing(0)
			if length == 0 {
				<-changed
				continue
			}
			if err := through.WriteSlice(offset, length, bytes.NewReader(storetest.Slice(t, data, offset, length))); err != nil {
				t.Error(err)
			}
		}
	}()
	r := through.NewReader(t.Context())
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if _, err := r.Seek(3*store.MaxSlice+7, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	again := make([]byte, 100_000)
	if _, err := io.ReadFull(r, again); err != nil || !bytes.Equal(again, data[3*store.MaxSlice+7:][:100_000]) {
		t.Errorf("sought back: %v", err)
	}
	_ = r.Close()
	if err := <-ended; !errors.Is(err, store.ErrClosed) {
		t.Errorf("%v", err)
	}
	if _, err := r.Read(again); !errors.Is(err, store.ErrClosed) {
		t.Errorf("read after the end: %v", err)
	}
}

// Only a window is kept, however far a source would run ahead.
func TestThroughIsBounded(t *testing.T) {
	data := storetest.Random(20*store.MaxSlice, 2)
	desc, _ := storetest.Describe(data)
	through := store.NewThrough(desc)
	n := 0
	for {
		offset, length := through.Missing(0)
		if length == 0 {
			break
		}
		if err := through.WriteSlice(offset, length, bytes.NewReader(storetest.Slice(t, data, offset, length))); err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 8 {
		t.Errorf("%d MiB are kept ahead of a reader that does not read", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := through.NewReader(ctx)
	if _, err := r.Seek(15*store.MaxSlice, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() { _, err := r.Read(make([]byte, 1)); failed <- err }()
	storetest.Await(t, func() bool { return len(through.Wanted()) == 1 && through.Wanted()[0] == 15*store.MaxSlice })
	if offset, _ := through.Missing(0); offset != 15*store.MaxSlice {
		t.Errorf("the window did not follow: %d", offset)
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestExpect(t *testing.T) {
	got := artifact.Descriptor{BLAKE3: artifact.BLAKE3{1}, SHA256: artifact.SHA256{2}, Size: 3}
	for _, test := range []struct {
		want artifact.Descriptor
		ok   bool
	}{
		{got, true},
		{artifact.Descriptor{Size: -1}, true},
		{artifact.Descriptor{SHA256: got.SHA256, Size: -1}, true},
		{artifact.Descriptor{Size: 0}, false},
		{artifact.Descriptor{BLAKE3: artifact.BLAKE3{9}, Size: -1}, false},
		{artifact.Descriptor{SHA256: artifact.SHA256{9}, Size: -1}, false},
	} {
		if err := store.Expect(got, test.want); (err == nil) != test.ok {
			t.Errorf("%+v: %v", test.want, err)
		}
	}
}

func TestErrorsAreKnownByTheirMethods(t *testing.T) {
	var room interface{ NoRoom() bool }
	var wrong interface{ Unverified() bool }
	if !errors.As(store.ErrQuota, &room) || !room.NoRoom() || !errors.As(store.ErrUnverified, &wrong) || !wrong.Unverified() {
		t.Error("another room cannot tell")
	}
}
