// Package tlog is the log as everybody can read it: checkpoint, tiles and
// proofs under /log/, in the form of C2SP tlog-tiles, so that any client of
// such logs can follow and check this one.
//
//	/log/checkpoint                       the last checkpoint, a signed note
//	/log/tile/<L>/<N>[.p/<W>]             256, or W, hashes of level 8L
//	/log/tile/entries/<N>[.p/<W>]         256, or W, leaves
//	/log/proof/<SHA-256 of a file>        the file's proof bundle
//
// N is written three digits at a time: 1234067 is x001/x234/067. A leaf in an
// entries tile is its length as a big-endian uint16, and its bytes. Tiles of
// every width that the tree has had are served, as their hashes never change.
package tlog

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/registry"
	"golang.org/x/mod/sumdb/tlog"
)

// ErrUnknown is what the ports say of what the log does not have.
var ErrUnknown = errors.New("not in the log")

// Log is the tree. Implementations are safe for concurrent use, and a later
// call never sees a smaller tree than an earlier one.
type Log interface {
	// Checkpoint is the last signed note of the tree, nil when there is none.
	Checkpoint() []byte

	// Size is how many leaves the tree has; all of them are readable.
	Size() int64

	// ReadHashes reads stored hashes (tlog.StoredHashIndex).
	tlog.HashReader
}

// Leaves are what the tree is of. Implementations are safe for concurrent use.
type Leaves interface {
	// Leaf is the bytes of a leaf, at most 65,535.
	Leaf(index int64) ([]byte, error)
}

// Proofs are the bundles by which a file is verified without a network.
// Implementations are safe for concurrent use.
type Proofs interface {
	// Bundle is the proof that a file with the digest is published, ErrUnknown
	// when it is not.
	Bundle(digest artifact.SHA256) ([]byte, error)
}

const (
	prefix = "/log/"
	height = 8 // of a tile (C2SP tlog-tiles, "Merkle Tree")
	width  = 1 << height
)

// Handler serves /log/. It is safe for concurrent use.
type Handler struct {
	log    Log
	leaves Leaves
	proofs Proofs
}

// New makes a handler.
func New(log Log, leaves Leaves, proofs Proofs) *Handler { return &Handler{log, leaves, proofs} }

// ServeHTTP implements http.Handler for paths that begin with /log/.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if !registry.ReadOnly(w, r) {
		fail(w, http.StatusMethodNotAllowed, "the log is only read here")
		return
	}
	rest, ok := strings.CutPrefix(r.URL.Path, prefix)
	if !ok {
		fail(w, http.StatusNotFound, "no such address")
		return
	}
	var err error
	switch digest, isProof := strings.CutPrefix(rest, "proof/"); {
	case rest == "checkpoint":
		err = h.checkpoint(w)
	case isProof:
		err = h.proof(w, digest)
	default:
		err = h.tile(w, r, rest)
	}
	switch {
	case errors.Is(err, ErrUnknown), errors.Is(err, artifact.ErrMalformed):
		fail(w, http.StatusNotFound, err.Error())
	case err != nil:
		fail(w, http.StatusServiceUnavailable, "this node cannot read its log: "+err.Error())
	}
}

func fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", registry.CacheNot)
	w.WriteHeader(status)
	fmt.Fprintln(w, message)
}

func write(w http.ResponseWriter, mediaType, cache string, body []byte) error {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Cache-Control", cache)
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.Write(body) // a client that went away is not the log's fault
	return nil
}

func (h *Handler) checkpoint(w http.ResponseWriter) error {
	note := h.log.Checkpoint()
	if note == nil {
		return fmt.Errorf("%w: this node has no checkpoint yet", ErrUnknown)
	}
	return write(w, "text/plain; charset=utf-8", registry.CacheNot, note)
}

func (h *Handler) proof(w http.ResponseWriter, text string) error {
	digest, err := artifact.ParseSHA256(text)
	if err != nil {
		return err
	}
	bundle, err := h.proofs.Bundle(digest)
	if err != nil {
		return err
	}
	return write(w, "text/plain; charset=utf-8", registry.CacheNot, bundle)
}

func (h *Handler) tile(w http.ResponseWriter, r *http.Request, path string) error {
	tile, err := parseTile(path)
	if err != nil {
		return err
	}
	if !covers(h.log.Size(), tile) {
		return fmt.Errorf("%w: tile %s", ErrUnknown, path)
	}
	if tile.L < 0 {
		return h.entries(w, r, tile)
	}
	data, err := tlog.ReadTileData(tile, h.log)
	if err != nil {
		return err
	}
	return write(w, "application/octet-stream", registry.CacheForever, data)
}

// parseTile reads "tile/<L>/<N>[.p/<W>]". The level of entries is -1, as
// golang.org/x/mod has it; its paths hold the height, and "data" for entries.
func parseTile(path string) (tlog.Tile, error) {
	malformed := fmt.Errorf("%w: %.80q is not the path of a tile", artifact.ErrMalformed, path)
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok || len(rest) > 80 || strings.HasPrefix(rest, "data/") {
		return tlog.Tile{}, malformed
	}
	if n, ok := strings.CutPrefix(rest, "entries/"); ok {
		rest = "data/" + n
	}
	tile, err := tlog.ParseTilePath(fmt.Sprintf("tile/%d/%s", height, rest))
	if err != nil || tile.N < 0 || tile.L > 63 {
		return tlog.Tile{}, malformed
	}
	return tile, nil
}

// covers tells whether a tree of the size has all of the tile.
func covers(size int64, tile tlog.Tile) bool {
	level := max(tile.L, 0)
	if height*level > 62 {
		return false
	}
	nodes := size >> (height * level)
	if tile.N > nodes/width {
		return false
	}
	return tile.N*width+int64(tile.W) <= nodes
}

// entries streams leaf by leaf. A leaf that cannot be read breaks the
// connection: the client cannot take what it has for the whole.
func (h *Handler) entries(w http.ResponseWriter, r *http.Request, tile tlog.Tile) error {
	first := tile.N * width
	leaf, err := h.leaf(first)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", registry.CacheForever)
	if r.Method == http.MethodHead {
		return nil
	}
	out := bufio.NewWriterSize(w, 64<<10)
	for i := first; ; {
		out.Write(binary.BigEndian.AppendUint16(nil, uint16(len(leaf))))
		if _, err := out.Write(leaf); err != nil {
			return nil // the client went away
		}
		if i++; i == first+int64(tile.W) {
			break
		}
		if leaf, err = h.leaf(i); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	out.Flush()
	return nil
}

func (h *Handler) leaf(index int64) ([]byte, error) {
	leaf, err := h.leaves.Leaf(index)
	if err == nil && len(leaf) > math.MaxUint16 {
		err = fmt.Errorf("leaf %d has %d bytes, the limit is %d", index, len(leaf), math.MaxUint16)
	}
	return leaf, err
}
