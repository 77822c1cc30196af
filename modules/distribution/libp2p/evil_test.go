package libp2p

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/pyrsia/appliance/modules/distribution"
	"github.com/pyrsia/appliance/modules/record"
	"github.com/pyrsia/appliance/modules/store"
	"github.com/pyrsia/appliance/modules/store/disk"
	"github.com/pyrsia/appliance/modules/store/memory"
	"github.com/pyrsia/appliance/modules/store/storetest"
)

// twist answers one request for a slice, whose honest answer it is given, and
// tells whether the stream lives on.
type twist func(s network.Stream, q request, slice []byte) bool

// corrupt makes a node lie: it says that it has everything, and answers slices
// by twist.
func corrupt(t testing.TB, n *node, twist twist) {
	r, err := n.running()
	if err != nil {
		t.Fatal(err)
	}
	r.handle(distribution.BlobProtocol, func(s network.Stream) {
		defer s.Close()
		for {
			frame, err := readFrame(s, maxRequest)
			if err != nil {
				return
			}
			q, err := decodeRequest(frame)
			if err != nil {
				t.Errorf("an honest client sent %x", frame)
				return
			}
			if q.code == codeHave {
				_ = writeFrame(s, []byte{statusOK, heldAll})
				continue
			}
			slice, _ := n.store.Slice(nil, q.digests[0], q.offset, q.length)
			if !twist(s, q, slice) {
				return
			}
		}
	})
}

func reply(s network.Stream, status byte, body []byte) bool {
	return writeFrame(s, []byte{status}, body) == nil
}

// until blocks a liar until its client has gone.
func until(s network.Stream) bool {
	_, _ = io.Copy(io.Discard, s)
	return false
}

var evil = map[string]twist{
	"flips a bit of the data": func(s network.Stream, _ request, slice []byte) bool {
		slice[len(slice)-1] ^= 1
		return reply(s, statusOK, slice)
	},
	"flips a bit of the tree": func(s network.Stream, _ request, slice []byte) bool {
		slice[9] ^= 0x80
		return reply(s, statusOK, slice)
	},
	"says another size": func(s network.Stream, _ request, slice []byte) bool {
		slice[0] ^= 1
		return reply(s, statusOK, slice)
	},
	"truncates": func(s network.Stream, _ request, slice []byte) bool {
		return reply(s, statusOK, slice[:len(slice)-1])
	},
	"sends nothing as everything": func(s network.Stream, _ request, slice []byte) bool {
		return reply(s, statusOK, nil)
	},
	"sends too many bytes": func(s network.Stream, _ request, slice []byte) bool {
		return reply(s, statusOK, append(slice, 0))
	},
	"announces a gigantic frame": func(s network.Stream, _ request, slice []byte) bool {
		_, err := s.Write(binary.BigEndian.AppendUint32(nil, 1<<31))
		return err == nil
	},
	"sends an empty frame": func(s network.Stream, _ request, slice []byte) bool {
		return writeFrame(s) == nil
	},
	"sends an unknown status": func(s network.Stream, _ request, slice []byte) bool {
		return reply(s, 77, slice)
	},
	"sends another range": func(s network.Stream, q request, slice []byte) bool {
		return reply(s, statusOK, append(slice[:8:8], make([]byte, len(slice)-8)...))
	},
	"claims to have and has not": func(s network.Stream, _ request, _ []byte) bool {
		return reply(s, statusNotHere, nil)
	},
	"stalls at once": func(s network.Stream, _ request, _ []byte) bool { return until(s) },
	"stalls in the middle": func(s network.Stream, _ request, slice []byte) bool {
		_, _ = s.Write(binary.BigEndian.AppendUint32(nil, uint32(len(slice)+1)))
		_, _ = s.Write(append([]byte{statusOK}, slice[:len(slice)/2]...))
		return until(s)
	},
	"breaks off in the middle": func(s network.Stream, _ request, slice []byte) bool {
		_, _ = s.Write(binary.BigEndian.AppendUint32(nil, uint32(len(slice)+1)))
		_, _ = s.Write(append([]byte{statusOK}, slice[:len(slice)/2]...))
		_ = s.Reset()
		return false
	},
	"hangs up in the middle": func(s network.Stream, _ request, slice []byte) bool {
		_, _ = s.Write(binary.BigEndian.AppendUint32(nil, uint32(len(slice)+1)))
		_, _ = s.Write(append([]byte{statusOK}, slice[:len(slice)/2]...))
		return false
	},
}

// A liar beside an honest node: the client notices nothing.
func TestEvilPeers(t *testing.T) {
	data := storetest.Random(3*store.MaxSlice+store.Group+1, 1)
	full := memory.New()
	desc := put(t, full, data)
	for name, twist := range evil {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			liar := start(t, 1, full, nil)
			corrupt(t, liar, twist)
			honest := start(t, 2, full, func(c *Config) { c.UploadRate = 8 << 20 }) // slow: the liar gets its turn
			b := start(t, 3, memory.New(), func(c *Config) { c.Timing.Stall = time.Second }, liar, honest)
			if got := readAllOf(t, b.Host, desc); !bytes.Equal(got, data) {
				t.Fatal("other bytes")
			}
			if err := b.Fetch(t.Context(), desc); err != nil {
				t.Fatal(err)
			}
			if got := b.Sources(desc.SHA256); got[honest.Identity()] < desc.Size || got[liar.Identity()] != 0 {
				t.Errorf("sources %v", got)
			}
		})
	}
}

// A liar alone: no byte, and a clear error.
func TestOnlyEvilPeers(t *testing.T) {
	data := storetest.Random(2*store.MaxSlice, 2)
	full := memory.New()
	desc := put(t, full, data)
	for name, twist := range evil {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			liar := start(t, 1, full, nil)
			corrupt(t, liar, twist)
			b := start(t, 3, memory.New(), func(c *Config) { c.Timing.Stall = time.Second }, liar)
			if _, err := b.Open(t.Context(), desc); !errors.Is(err, distribution.ErrNoSource) {
				t.Errorf("%v", err)
			}
			if b.store.Has(desc.SHA256) {
				t.Error("it is in the store")
			}
		})
	}
}

// A node that turns evil in the middle: what was read was right, and the rest
// comes from another.
func TestTurnsEvilInTheMiddle(t *testing.T) {
	data := storetest.Random(8*store.MaxSlice, 3)
	full := memory.New()
	desc := put(t, full, data)
	liar := start(t, 1, full, nil)
	var mu sync.Mutex
	served := 0
	corrupt(t, liar, func(s network.Stream, _ request, slice []byte) bool {
		mu.Lock()
		defer mu.Unlock()
		if served++; served > 3 {
			slice[len(slice)-7] ^= 2
		}
		return reply(s, statusOK, slice)
	})
	b := start(t, 2, memory.New(), nil, liar)
	r, err := b.Open(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	head := make([]byte, 1000)
	if _, err := io.ReadFull(r, head); err != nil {
		t.Fatal(err)
	}
	// The liar is dropped by now or soon; the reader waits for somebody else.
	start(t, 3, full, func(c *Config) {
		c.Peers = map[record.Identity][]string{b.Identity(): b.addresses()}
	})
	rest, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(append(head, rest...), data) {
		t.Errorf("%v", err)
	}
}

// Many readers of a cold artifact: the network carries it once.
func TestManyReadersOneFetch(t *testing.T) {
	data := storetest.Random(6*store.MaxSlice+5, 4)
	a := start(t, 1, memory.New(), nil)
	desc := put(t, a.store, data)
	b := start(t, 2, memory.New(), nil, a)
	var wait sync.WaitGroup
	for i := range 24 {
		wait.Go(func() {
			r, err := b.Open(t.Context(), desc)
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			if _, err := r.Seek(int64(i)*200_000, io.SeekStart); err != nil {
				t.Error(err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data[i*200_000:]) {
				t.Errorf("reader %d: %v", i, err)
			}
		})
	}
	wait.Wait()
	if err := b.Fetch(t.Context(), desc); err != nil {
		t.Fatal(err)
	}
	if got := b.Sources(desc.SHA256)[a.Identity()]; got != desc.Size {
		t.Errorf("%d bytes were fetched for %d", got, desc.Size)
	}
}

func TestSpreadsOverSources(t *testing.T) {
	data := storetest.Random(24*store.MaxSlice, 5)
	full := memory.New()
	desc := put(t, full, data)
	slow := func(c *Config) { c.UploadRate = 20 << 20 }
	a, b, c := start(t, 1, full, slow), start(t, 2, full, slow), start(t, 3, full, slow)
	d := start(t, 4, memory.New(), nil, a, b, c)
	if err := d.Fetch(t.Context(), desc); err != nil {
		t.Fatal(err)
	}
	sources := d.Sources(desc.SHA256)
	for _, n := range []*node{a, b, c} {
		if sources[n.Identity()] < desc.Size/10 {
			t.Errorf("sources %v", sources)
		}
	}
}

// http.ServeContent over a reader of a cold artifact: ranges and all.
func TestServeContent(t *testing.T) {
	data := storetest.Random(4*store.MaxSlice, 6)
	a := start(t, 1, memory.New(), nil)
	desc := put(t, a.store, data)
	b := start(t, 2, memory.New(), nil, a)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r, err := b.Open(q.Context(), desc)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer r.Close()
		http.ServeContent(w, q, "x.bin", time.Time{}, r)
	}))
	defer server.Close()
	defer server.Client().CloseIdleConnections()
	for _, test := range []struct {
		rang   string
		want   []byte
		status int
	}{
		{"bytes=3145728-3145737", data[3145728:3145738], 206},
		{"bytes=-10", data[len(data)-10:], 206},
		{"", data, 200},
	} {
		q, _ := http.NewRequestWithContext(t.Context(), "GET", server.URL, nil)
		if test.rang != "" {
			q.Header.Set("Range", test.rang)
		}
		p, err := server.Client().Do(q)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(p.Body)
		p.Body.Close()
		if err != nil || p.StatusCode != test.status || !bytes.Equal(got, test.want) {
			t.Errorf("range %q: %d, %d bytes, %v", test.rang, p.StatusCode, len(got), err)
		}
	}
}

// A client that goes away does not end the fetch.
func TestCancelledClientStillFills(t *testing.T) {
	data := storetest.Random(4*store.MaxSlice, 7)
	a := start(t, 1, memory.New(), func(c *Config) { c.UploadRate = 16 << 20 })
	desc := put(t, a.store, data)
	b := start(t, 2, memory.New(), nil, a)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := b.Open(ctx, desc)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	r.Close()
	storetest.Await(t, func() bool { return b.store.Has(desc.SHA256) })
}

// A node that is stopped in the middle goes on where it was.
func TestRestartResumes(t *testing.T) {
	data := storetest.Random(8*store.MaxSlice, 8)
	full := memory.New()
	desc := put(t, full, data)
	dir := t.TempDir()
	open := func() *disk.Store {
		s, err := disk.Open(dir, disk.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	a := start(t, 1, full, nil)
	var mu sync.Mutex
	left := 3
	corrupt(t, a, func(s network.Stream, _ request, slice []byte) bool {
		mu.Lock()
		left--
		stall := left < 0
		mu.Unlock()
		if stall {
			return until(s)
		}
		return reply(s, statusOK, slice)
	})
	s := open()
	b := start(t, 2, s, func(c *Config) { c.Timing.Stall = time.Minute }, a)
	go func() { _ = b.Fetch(context.Background(), desc) }()
	storetest.Await(t, func() bool { return b.Sources(desc.SHA256)[a.Identity()] >= 2<<20 })
	before := b.Sources(desc.SHA256)[a.Identity()]
	b.stop()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	a.stop()

	c := start(t, 3, full, nil)
	s = open()
	defer s.Close()
	b = start(t, 2, s, nil, c)
	if got := readAllOf(t, b.Host, desc); !bytes.Equal(got, data) {
		t.Error("other bytes")
	}
	if err := b.Fetch(t.Context(), desc); err != nil {
		t.Fatal(err)
	}
	sources := b.Sources(desc.SHA256)
	if sources[a.Identity()] != before || sources[c.Identity()] != desc.Size-before {
		t.Errorf("sources %v, %d bytes were there before", sources, before)
	}
	b.stop()
}

// No room in the store: the bytes pass through.
func TestPassesThrough(t *testing.T) {
	data := storetest.Random(12*store.MaxSlice+3, 9)
	a := start(t, 1, memory.New(), nil)
	desc := put(t, a.store, data)
	s, err := disk.Open(t.TempDir(), disk.Options{Quota: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := start(t, 2, s, nil, a)
	defer b.stop()
	if err := b.Fetch(t.Context(), desc); !errors.Is(err, store.ErrQuota) {
		t.Errorf("Fetch: %v", err)
	}
	var wait sync.WaitGroup
	for range 3 {
		wait.Go(func() {
			if got := readAllOf(t, b.Host, desc); !bytes.Equal(got, data) {
				t.Error("other bytes")
			}
		})
	}
	wait.Wait()
	r, err := b.Open(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Seek(-5, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data[len(data)-5:]) {
		t.Errorf("%v", err)
	}
	r.Close()
	if s.Has(desc.SHA256) || s.Status().Bytes != 0 {
		t.Error("something was kept")
	}
}

// Cold nodes of one origin serve each other what they have.
func TestColdNodesShare(t *testing.T) {
	data := storetest.Random(16*store.MaxSlice, 10)
	origin := start(t, 1, memory.New(), func(c *Config) { c.UploadRate = 16 << 20 })
	desc := put(t, origin.store, data)
	var cold []*node
	for i := range 4 {
		cold = append(cold, start(t, byte(10+i), memory.New(), nil, append(cold, origin)...))
	}
	var wait sync.WaitGroup
	for _, n := range cold {
		wait.Go(func() {
			if err := n.Fetch(t.Context(), desc); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	var fromOrigin, all int64
	for _, n := range cold {
		for id, bytes := range n.Sources(desc.SHA256) {
			all += bytes
			if id == origin.Identity() {
				fromOrigin += bytes
			}
		}
	}
	t.Logf("origin sent %.2f of %.2f copies", float64(fromOrigin)/float64(desc.Size), float64(all)/float64(desc.Size))
	if fromOrigin > 3*desc.Size {
		t.Errorf("the origin sent %d bytes for %d", fromOrigin, desc.Size)
	}
}
