package tlog_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
	log "github.com/pyrsia/appliance/modules/registry/tlog"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/tlog"
)

// tree is a log in memory.
type tree struct {
	leaves  [][]byte
	hashes  []tlog.Hash
	bundles map[artifact.SHA256][]byte
	bad     int64 // a leaf that cannot be read, when > 0
	fails   error // reading hashes fails with it
}

func newTree(t testing.TB, size int) *tree {
	t.Helper()
	tr := &tree{bundles: make(map[artifact.SHA256][]byte)}
	for i := range size {
		leaf := bytes.Repeat([]byte{byte(i)}, i%40)
		hashes, err := tlog.StoredHashes(int64(i), leaf, tr)
		if err != nil {
			t.Fatal(err)
		}
		tr.leaves, tr.hashes = append(tr.leaves, leaf), append(tr.hashes, hashes...)
	}
	return tr
}

func (t *tree) Size() int64 { return int64(len(t.leaves)) }

func (t *tree) Checkpoint() []byte {
	if len(t.leaves) == 0 {
		return nil
	}
	root, err := tlog.TreeHash(t.Size(), t)
	if err != nil {
		panic(err)
	}
	return fmt.Appendf(nil, "example/log\n%d\n%s\n", t.Size(), root)
}

func (t *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	if t.fails != nil {
		return nil, t.fails
	}
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		if index >= int64(len(t.hashes)) {
			return nil, fmt.Errorf("hash %d is not stored", index)
		}
		hashes[i] = t.hashes[index]
	}
	return hashes, nil
}

func (t *tree) Leaf(i int64) ([]byte, error) {
	if t.bad > 0 && i == t.bad {
		return nil, errors.New("bad sector")
	}
	return t.leaves[i], nil
}

func (t *tree) Bundle(digest artifact.SHA256) ([]byte, error) {
	if bundle, ok := t.bundles[digest]; ok {
		return bundle, nil
	}
	return nil, log.ErrUnknown
}

func start(t testing.TB, tr *tree) string {
	t.Helper()
	server := httptest.NewServer(log.New(tr, tr, tr))
	t.Cleanup(server.Close)
	return server.URL + "/log/"
}

func get(t testing.TB, url string) (*http.Response, []byte) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, body
}

// client reads a log as a stranger does: from its tiles alone.
type client struct {
	t   testing.TB
	url string
}

func (c client) Height() int { return 8 }

func (c client) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		response, body := get(c.t, c.url+path)
		if response.StatusCode != 200 {
			return nil, fmt.Errorf("%s: %s", path, response.Status)
		}
		all = append(all, body)
	}
	return all, nil
}

func (c client) SaveTiles([]tlog.Tile, [][]byte) {}

// TestStrangerFollows reads every leaf and checks root, inclusion and
// consistency by another implementation of RFC 6962.
func TestStrangerFollows(t *testing.T) {
	for _, size := range []int{1, 2, 255, 256, 257, 512, 1000, 66_000} {
		tr := newTree(t, size)
		url := start(t, tr)
		root, err := tlog.TreeHash(int64(size), tr)
		if err != nil {
			t.Fatal(err)
		}
		_, note := get(t, url+"checkpoint")
		if !bytes.Equal(note, tr.Checkpoint()) {
			t.Errorf("checkpoint %q", note)
		}
		factory := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
		grown := factory.NewEmptyRange(0)
		for i, leaf := range readEntries(t, url, size) {
			if !bytes.Equal(leaf, tr.leaves[i]) {
				t.Fatalf("size %d: leaf %d differs", size, i)
			}
			grown.Append(rfc6962.DefaultHasher.HashLeaf(leaf), nil)
		}
		if computed, err := grown.GetRootHash(nil); err != nil || !bytes.Equal(computed, root[:]) {
			t.Fatalf("size %d: the leaves have the root %x, %v", size, computed, err)
		}
		reader := tlog.TileHashReader(tlog.Tree{N: int64(size), Hash: root}, client{t, url})
		for _, i := range []int{0, size / 2, size - 1} {
			p, err := tlog.ProveRecord(int64(size), int64(i), reader)
			if err != nil {
				t.Fatal(err)
			}
			err = proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(i), uint64(size), rfc6962.DefaultHasher.HashLeaf(tr.leaves[i]), raw(p), root[:])
			if err != nil {
				t.Errorf("size %d, leaf %d: %v", size, i, err)
			}
			before, err := tlog.TreeHash(int64(i+1), tr)
			if err != nil {
				t.Fatal(err)
			}
			q, err := tlog.ProveTree(int64(size), int64(i+1), reader)
			if err != nil {
				t.Fatal(err)
			}
			if err := proof.VerifyConsistency(rfc6962.DefaultHasher, uint64(i+1), uint64(size), raw(q), before[:], root[:]); err != nil {
				t.Errorf("size %d, from %d: %v", size, i+1, err)
			}
		}
	}
}

func raw(hashes []tlog.Hash) [][]byte {
	all := make([][]byte, len(hashes))
	for i, h := range hashes {
		all[i] = h[:]
	}
	return all
}

func readEntries(t testing.TB, url string, size int) [][]byte {
	t.Helper()
	var leaves [][]byte
	for n := 0; n*256 < size; n++ {
		tile := tlog.Tile{H: 8, L: -1, N: int64(n), W: min(256, size-n*256)}
		path := strings.Replace(tile.Path(), "tile/8/data/", "tile/entries/", 1)
		response, body := get(t, url+path)
		if response.StatusCode != 200 || response.Header.Get("Content-Type") != "application/octet-stream" {
			t.Fatalf("%s: %s", path, response.Status)
		}
		for len(body) > 0 {
			length := int(binary.BigEndian.Uint16(body))
			leaves, body = append(leaves, body[2:2+length]), body[2+length:]
		}
		if len(leaves) != n*256+tile.W {
			t.Fatalf("%s: %d leaves", path, len(leaves))
		}
	}
	return leaves
}

func TestAddresses(t *testing.T) {
	tr := newTree(t, 256*300+7)
	digest := artifact.SHA256{1}
	tr.bundles[digest] = []byte("the proof")
	url := start(t, tr)
	for _, test := range []struct {
		path      string
		status    int
		mediaType string
		size      int
		forever   bool
	}{
		{"checkpoint", 200, "text/plain; charset=utf-8", len(tr.Checkpoint()), false},
		{"proof/" + digest.String(), 200, "text/plain; charset=utf-8", 9, false},
		{"tile/0/000", 200, "application/octet-stream", 8192, true},
		{"tile/0/299", 200, "application/octet-stream", 8192, true},
		{"tile/0/300.p/7", 200, "application/octet-stream", 7 * 32, true},
		{"tile/0/300.p/1", 200, "application/octet-stream", 32, true},
		{"tile/0/000.p/3", 200, "application/octet-stream", 96, true},
		{"tile/1/000", 200, "application/octet-stream", 8192, true},
		{"tile/1/001.p/44", 200, "application/octet-stream", 44 * 32, true},
		{"tile/2/000.p/1", 200, "application/octet-stream", 32, true},
		{"tile/entries/000", 200, "application/octet-stream", -1, true},
		{"tile/entries/300.p/7", 200, "application/octet-stream", -1, true},

		{"tile/0/300", 404, "", 0, false},
		{"tile/0/300.p/8", 404, "", 0, false},
		{"tile/1/001", 404, "", 0, false},
		{"tile/1/001.p/45", 404, "", 0, false},
		{"tile/2/000", 404, "", 0, false},
		{"tile/3/000.p/1", 404, "", 0, false},
		{"tile/63/000.p/1", 404, "", 0, false},
		{"tile/64/000.p/1", 404, "", 0, false},
		{"tile/entries/300.p/8", 404, "", 0, false},
		{"tile/entries/301.p/1", 404, "", 0, false},
		{"tile/0/x001/000", 404, "", 0, false},
		{"tile/0/0", 404, "", 0, false},
		{"tile/00/000", 404, "", 0, false},
		{"tile/0/000.p/0", 404, "", 0, false},
		{"tile/0/000.p/256", 404, "", 0, false},
		{"tile/0/000.p/03", 404, "", 0, false},
		{"tile/0/x000/000", 404, "", 0, false},
		{"tile/-1/000", 404, "", 0, false},
		{"tile/0/-01", 404, "", 0, false},
		{"tile/data/000", 404, "", 0, false},
		{"tile/8/0/000", 404, "", 0, false},
		{"tile/0/x999/x999/x999/x999/x999/x999/x999/999", 404, "", 0, false},
		{"tile/", 404, "", 0, false},
		{"", 404, "", 0, false},
		{"proof/" + strings.Repeat("0", 64), 404, "", 0, false},
		{"proof/sha256:0", 404, "", 0, false},
		{"proof/", 404, "", 0, false},
	} {
		response, body := get(t, url+test.path)
		if response.StatusCode != test.status {
			t.Errorf("%s: %s", test.path, response.Status)
			continue
		}
		if test.status != 200 {
			continue
		}
		cache := "no-cache"
		if test.forever {
			cache = "public, max-age=31536000, immutable"
		}
		if response.Header.Get("Content-Type") != test.mediaType || response.Header.Get("Cache-Control") != cache {
			t.Errorf("%s: %v", test.path, response.Header)
		}
		if test.size >= 0 && len(body) != test.size {
			t.Errorf("%s: %d bytes, want %d", test.path, len(body), test.size)
		}
		head, err := http.Head(url + test.path)
		if err != nil || head.StatusCode != 200 {
			t.Errorf("HEAD %s: %v, %v", test.path, head, err)
			continue
		}
		head.Body.Close()
	}
	response, err := http.Post(url+"checkpoint", "text/plain", strings.NewReader("x"))
	if err != nil || response.StatusCode != 405 {
		t.Errorf("POST: %v, %v", response, err)
	}
}

func TestEmptyLog(t *testing.T) {
	url := start(t, newTree(t, 0))
	for _, path := range []string{"checkpoint", "tile/0/000", "tile/0/000.p/1", "tile/entries/000.p/1"} {
		if response, _ := get(t, url+path); response.StatusCode != 404 {
			t.Errorf("%s: %s", path, response.Status)
		}
	}
}

func TestDamagedLog(t *testing.T) {
	tr := newTree(t, 300)
	tr.fails, tr.bad = errors.New("bad sector"), 256
	url := start(t, tr)
	for _, path := range []string{"tile/0/000", "tile/entries/001.p/3"} {
		if response, _ := get(t, url+path); response.StatusCode != 503 {
			t.Errorf("%s: %s", path, response.Status)
		}
	}
	// In the middle there is no status left to say it with.
	tr.bad = 200
	response, err := http.Get(url + "tile/entries/000")
	if err == nil {
		_, err = io.ReadAll(response.Body)
		response.Body.Close()
	}
	if err == nil {
		t.Error("a part of a tile was taken for the whole")
	}
}

func FuzzTile(f *testing.F) {
	tr := newTree(f, 1000)
	h := log.New(tr, tr, tr)
	for _, path := range []string{"tile/0/000", "tile/entries/003.p/5", "tile/1/x000/000.p/1", "proof/00"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r := httptest.NewRequestWithContext(context.Background(), "GET", "/log/x", nil)
		r.URL.Path = "/log/" + path
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 200 && w.Code != 404 {
			t.Errorf("%q: %d", path, w.Code)
		}
		if w.Code == 200 && strings.HasPrefix(path, "tile/") && w.Body.Len() == 0 {
			t.Errorf("%q: nothing", path)
		}
	})
}
