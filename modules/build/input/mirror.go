package input

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// Mirror is a recording Maven repository over HTTP, for one resolve: it serves
// release files from the chain or else from the upstream, each fetched once
// however many ask, and remembers which were asked for and found. Those are the
// build's inputs.
//
// It is safe for concurrent use. Fetches end with the context given to
// NewMirror, not with the request that began them.
type Mirror struct {
	ctx      context.Context
	fetch    *fetcher
	upstream *url.URL
	chain    Chain
	peer     Peer
	store    Store
	counter  *counter

	mu    sync.Mutex
	calls map[string]*call
	asked map[string]bool  // found and handed out by GET
	not   map[string]error // refused or failed, by path
}

// call is one fetch of a path, done or under way.
type call struct {
	done  chan struct{}
	entry record.LockEntry
	err   error
}

// maxMirrorPaths bounds what a build may make the mirror remember.
const (
	maxMirrorPaths = 4 * maxEntries
	maxNotes       = 4096
)

// Mirror is a new recording mirror over the node's "maven" upstream. Its totals
// in reports are those of what was asked for so far.
func (k *Keeper) Mirror(ctx context.Context, report Report) (*Mirror, error) {
	return k.mirror(ctx, newCounter(report))
}

func (k *Keeper) mirror(ctx context.Context, counter *counter) (*Mirror, error) {
	upstream, ok := k.upstream("maven")
	if !ok {
		return nil, errors.New("no upstream for \"maven\" is configured: set it, then resolve again")
	}
	return &Mirror{
		ctx: ctx, fetch: k.fetch, upstream: upstream,
		chain: k.config.Chain, peer: k.config.Peer, store: k.config.Store,
		counter: counter,
		calls:   map[string]*call{}, asked: map[string]bool{}, not: map[string]error{},
	}, nil
}

// ServeHTTP implements http.Handler: GET and HEAD of "/<path>".
func (m *Mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "this repository is read-only", http.StatusMethodNotAllowed)
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/")
	switch classify(path) {
	case releaseFile:
		m.serveFile(w, r, path)
	case checksumFile:
		m.serveChecksum(w, r, path)
	default:
		m.note(path, errors.New(whyNot(path)))
		http.Error(w, whyNot(path), http.StatusNotFound)
	}
}

func (m *Mirror) serveFile(w http.ResponseWriter, r *http.Request, path string) {
	entry, err := m.get(r.Context(), path)
	if err != nil {
		m.note(path, err)
		refuse(w, err)
		return
	}
	file, err := m.store.Open(entry.File.SHA256)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer file.Close()
	if r.Method == http.MethodGet {
		m.found(path)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", noTime, file)
}

func refuse(w http.ResponseWriter, err error) {
	if errors.Is(err, errNotFound) {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	http.Error(w, err.Error(), http.StatusBadGateway)
}

// get is the file at a path, fetched by the first who asks. A failure that may
// pass is forgotten, so that the next request tries again; "not found" stays.
func (m *Mirror) get(ctx context.Context, path string) (record.LockEntry, error) {
	m.mu.Lock()
	c, running := m.calls[path]
	if !running && len(m.calls) >= maxMirrorPaths {
		m.mu.Unlock()
		return record.LockEntry{}, fmt.Errorf("a build asks for more than %d files", maxMirrorPaths)
	}
	if !running {
		c = &call{done: make(chan struct{})}
		m.calls[path] = c
	}
	m.mu.Unlock()
	if !running {
		m.run(path, c)
	}
	select {
	case <-c.done:
		return c.entry, c.err
	case <-ctx.Done():
		return record.LockEntry{}, ctx.Err()
	}
}

func (m *Mirror) run(path string, c *call) {
	defer close(c.done)
	c.entry, c.err = m.load(path)
	if c.err != nil && !errors.Is(c.err, errNotFound) {
		m.mu.Lock()
		delete(m.calls, path)
		m.mu.Unlock()
	}
}

// load prefers what the chain vouches for: it is input that was itself built
// from source.
func (m *Mirror) load(path string) (record.LockEntry, error) {
	entry := record.LockEntry{Kind: kindMaven, Path: path, Proof: record.ProofUpstream}
	if name, err := artifact.MavenFolderName(path); err == nil {
		if file, vouched := m.chain.Vouched(name); vouched && m.held(file) {
			entry.Proof, entry.File = record.ProofChain, file
			return entry, nil
		}
	}
	var err error
	entry.File, err = m.fetch.get(m.ctx, join(m.upstream, path), want{limit: maxFile}, m.counter.arrived)
	if err == nil {
		m.counter.expect(1, 0)
		m.counter.file()
	}
	return entry, err
}

func (m *Mirror) held(file artifact.Descriptor) bool {
	if d, found := m.store.Stat(file.SHA256); found && d == file {
		return true
	}
	return m.peer.Fetch(m.ctx, file) == nil
}

// serveChecksum answers with a checksum computed here: an online Maven asks for
// one after each file, an offline one never does.
func (m *Mirror) serveChecksum(w http.ResponseWriter, r *http.Request, path string) {
	cut := strings.LastIndexByte(path, '.')
	entry, err := m.get(r.Context(), path[:cut])
	if err != nil {
		refuse(w, err)
		return
	}
	sum, err := m.checksum(entry.File.SHA256, checksums[path[cut:]]())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	http.ServeContent(w, r, "", noTime, strings.NewReader(sum))
}

func (m *Mirror) checksum(file artifact.SHA256, sum hash.Hash) (string, error) {
	f, err := m.store.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func (m *Mirror) found(path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked[path] = true
	delete(m.not, path)
}

// note remembers why a path was not served. The path is the build's own word:
// where it is no file name it is quoted and cut, so that it cannot write lines
// of its own into the log.
func (m *Mirror) note(path string, err error) {
	if artifact.CheckFile(path) != nil {
		path = fmt.Sprintf("%.200q", path)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.not[path]; known || len(m.not) < maxNotes {
		m.not[path] = err
	}
}

// Entries are the files that were asked for and found, sorted by path.
func (m *Mirror) Entries() []record.LockEntry {
	m.mu.Lock()
	defer m.mu.Unlock()
	entries := make([]record.LockEntry, 0, len(m.asked))
	for path := range m.asked {
		entries = append(entries, m.calls[path].entry)
	}
	slices.SortFunc(entries, func(a, b record.LockEntry) int { return strings.Compare(a.Path, b.Path) })
	return entries
}

// Trouble is why files that were asked for were not served, sorted by path:
// what explains a failed resolve. A file that exists nowhere is trouble only
// where the build could not do without.
func (m *Mirror) Trouble() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var lines []string
	for path, err := range m.not {
		lines = append(lines, fmt.Sprintf("%s: %v", path, err))
	}
	slices.Sort(lines)
	return lines
}

// failure is the first thing on record that another attempt might change.
func (m *Mirror) failure() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var paths []string
	for path, err := range m.not {
		if classify(path) == releaseFile && !errors.Is(err, errNotFound) {
			paths = append(paths, path)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	slices.Sort(paths)
	return unavailable(paths[0], m.not[paths[0]])
}
