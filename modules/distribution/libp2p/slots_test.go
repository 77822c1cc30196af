package libp2p

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/pyrsia/appliance/modules/distribution"
	"github.com/pyrsia/appliance/modules/record"
	"github.com/pyrsia/appliance/modules/store"
	"github.com/pyrsia/appliance/modules/store/storetest"
)

func TestSlots(t *testing.T) {
	s := newSlots(8, 3, 2)
	held := map[record.Identity]int{}
	var releases []func()
	for _, id := range []record.Identity{"a", "b", "c"} {
		for range 5 {
			if release, ok := s.try(id, false); ok {
				held[id]++
				releases = append(releases, release)
			}
		}
	}
	// Six places are for strangers, three for each.
	if held["a"] != 3 || held["b"] != 3 || held["c"] != 0 {
		t.Errorf("strangers hold %v", held)
	}
	for _, known := range []record.Identity{"m", "n"} {
		release, ok := s.try(known, true)
		if !ok {
			t.Fatalf("no place for %s", known)
		}
		releases = append(releases, release)
	}
	if _, ok := s.try("o", true); ok {
		t.Error("nine of eight places")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.take(ctx, "o", true); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	for _, release := range releases {
		release()
	}
	if len(s.all) != 0 || len(s.strangers) != 0 || len(s.shares) != 0 {
		t.Errorf("%d, %d places and %d shares are left", len(s.all), len(s.strangers), len(s.shares))
	}
}

// A stranger that asks for everything and reads nothing holds its share of the
// places and no more: others are served meanwhile.
func TestStrangersCannotHoldAllPlaces(t *testing.T) {
	data := storetest.Random(2*store.MaxSlice, 1)
	chain := newBlocks(3)
	a := start(t, 1, emptyStore(), func(c *Config) { c.Blocks = chain })
	desc := put(t, a.store, data)
	server, err := a.running()
	if err != nil {
		t.Fatal(err)
	}
	for n := range 2 {
		hog(t, start(t, byte(10+n), emptyStore(), nil, a), a, request{
			code: codeSlice, digests: append(request{}.digests, desc.BLAKE3), length: store.MaxSlice,
		})
	}
	storetest.Await(t, func() bool { return len(server.serving.all) == 2*eachServing })
	stranger := start(t, 2, emptyStore(), nil, a)
	if got := readAllOf(t, stranger.Host, desc); !bytes.Equal(got, data) {
		t.Error("other bytes")
	}
	if held := len(server.serving.all); held != 2*eachServing {
		t.Errorf("%d places are held", held)
	}
}

// hog opens as many streams as it may, asks and never reads.
func hog(t *testing.T, from, of *node, q request) {
	r, err := from.running()
	if err != nil {
		t.Fatal(err)
	}
	streams := 0
	for range 4 * eachServing {
		s, err := r.stream(t.Context(), of.Identity(), distribution.BlobProtocol)
		if err != nil {
			break
		}
		t.Cleanup(func() { _ = s.Reset() })
		if err := writeFrame(s, q.encode()); err != nil {
			break
		}
		streams++
	}
	if streams <= eachServing {
		t.Fatalf("the hog has %d streams", streams)
	}
}

func TestStrangersCannotFollowAll(t *testing.T) {
	chain := newBlocks(3)
	a := start(t, 1, emptyStore(), func(c *Config) { c.Blocks = chain })
	b := start(t, 2, emptyStore(), nil, a)
	r, err := b.running()
	if err != nil {
		t.Fatal(err)
	}
	served := 0
	for range 2 * eachFollower {
		s, err := r.stream(t.Context(), a.Identity(), distribution.ChainProtocol)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Reset() })
		if first, err := follow(s); err == nil && first == "block 0" {
			served++
		}
	}
	if served != eachFollower {
		t.Errorf("one peer follows over %d streams", served)
	}
}

// follow asks for the chain and reads its first block.
func follow(s network.Stream) (string, error) {
	_ = s.SetDeadline(time.Now().Add(time.Minute))
	if _, err := s.Write(binary.BigEndian.AppendUint64(nil, 0)); err != nil {
		return "", err
	}
	block, err := readFrame(s, distribution.MaxMessage)
	return fmt.Sprintf("%s", block), err
}
