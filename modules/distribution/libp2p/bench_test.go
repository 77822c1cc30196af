package libp2p

import (
	"context"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/store/disk"
	"github.com/pyrsia/appliance/modules/store/memory"
	"github.com/pyrsia/appliance/modules/store/storetest"
)

func diskStore(b testing.TB) *disk.Store {
	s, err := disk.Open(b.TempDir(), disk.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	return s
}

// BenchmarkSmallArtifact is the fixed cost of one: asked for, found, fetched
// and read, of 4 KiB. The commit to disk goes on behind the reader's back.
func BenchmarkSmallArtifact(b *testing.B) {
	a := start(b, 1, memory.New(), nil)
	c := start(b, 2, memory.New(), nil, a)
	data := storetest.Random(4096, 1)
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		data[0], data[1], data[2] = byte(i), byte(i>>8), byte(i>>16)
		desc := put(b, a.store, data)
		b.StartTimer()
		readAllOf(b, c.Host, desc)
	}
}

// BenchmarkColdStream is a cold artifact of 256 MiB through two hosts and two
// disks of one machine, read while it arrives.
func BenchmarkColdStream(b *testing.B) {
	from := diskStore(b)
	a := start(b, 1, from, nil)
	desc := put(b, from, storetest.Random(256<<20, 1))
	to := diskStore(b)
	c := start(b, 2, to, nil, a)
	b.Cleanup(func() { c.stop(); a.stop() })
	b.SetBytes(desc.Size)
	for b.Loop() {
		r, err := c.Open(context.Background(), desc)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, r); n != desc.Size || err != nil {
			b.Fatal(n, err)
		}
		_ = r.Close()
		if err := c.Fetch(context.Background(), desc); err != nil {
			b.Fatal(err)
		}
		if err := to.Remove(desc.SHA256); err != nil {
			b.Fatal(err)
		}
	}
}

// TestIdleMemory looks at what one idle host with a few peers takes.
func TestIdleMemory(t *testing.T) {
	before := resident(t)
	hub := start(t, 1, memory.New(), nil)
	for n := range byte(3) {
		start(t, 2+n, memory.New(), nil, hub)
	}
	after := resident(t)
	t.Logf("4 hosts in one process: %d MiB resident, %d MiB before them", after>>20, before>>20)
	if after-before > 4*60<<20 {
		t.Errorf("an idle host takes %d MiB", (after-before)>>22)
	}
}

func resident(t *testing.T) int64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("no /proc")
	}
	pages, err := strconv.ParseInt(strings.Fields(string(data))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// BenchmarkNoSource is the time to the answer that none of three peers has it.
func BenchmarkNoSource(b *testing.B) {
	hub := start(b, 1, memory.New(), nil)
	for n := range byte(3) {
		start(b, 2+n, memory.New(), nil, hub)
	}
	desc, _ := storetest.Describe(storetest.Random(100, 1))
	for b.Loop() {
		if err := hub.Fetch(context.Background(), desc); err == nil {
			b.Fatal("found")
		}
	}
}
