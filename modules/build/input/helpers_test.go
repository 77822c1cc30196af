package input

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lukechampine.com/blake3"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/record"
)

// folderStore is a Store in a folder.
type folderStore struct {
	folder string
	mu     sync.Mutex
	files  map[artifact.SHA256]artifact.Descriptor
	puts   int
	room   int               // how many files it keeps; 0: any number
	order  []artifact.SHA256 // in which they came
}

func newFolderStore(t testing.TB) *folderStore {
	return &folderStore{folder: t.TempDir(), files: map[artifact.SHA256]artifact.Descriptor{}}
}

func (s *folderStore) Put(_ context.Context, r io.Reader) (artifact.Descriptor, error) {
	f, err := os.CreateTemp(s.folder, "part-*")
	if err != nil {
		return artifact.Descriptor{}, err
	}
	defer f.Close()
	sha, b3 := sha256.New(), blake3.New(32, nil)
	n, err := io.Copy(io.MultiWriter(f, sha, b3), r)
	if err != nil {
		return artifact.Descriptor{}, errors.Join(err, os.Remove(f.Name()))
	}
	d := artifact.Descriptor{SHA256: artifact.SHA256(sha.Sum(nil)), BLAKE3: artifact.BLAKE3(b3.Sum(nil)), Size: n}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[d.SHA256], s.puts = d, s.puts+1
	if s.order = append(s.order, d.SHA256); s.room > 0 && len(s.order) > s.room {
		delete(s.files, s.order[0])
		s.order = s.order[1:]
	}
	return d, os.Rename(f.Name(), filepath.Join(s.folder, d.SHA256.String()))
}

func (s *folderStore) Open(digest artifact.SHA256) (*os.File, error) {
	return os.Open(filepath.Join(s.folder, digest.String()))
}

func (s *folderStore) Stat(digest artifact.SHA256) (artifact.Descriptor, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, found := s.files[digest]
	return d, found
}

func (s *folderStore) put(t testing.TB, content string) artifact.Descriptor {
	t.Helper()
	d, err := s.Put(t.Context(), strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// tableChain is a Chain of two tables.
type tableChain struct {
	live    map[artifact.PURL]artifact.Descriptor
	vouched map[artifact.Name]artifact.Descriptor
}

func (c tableChain) Live(image artifact.PURL) (artifact.Descriptor, bool) {
	d, found := c.live[image]
	return d, found
}

func (c tableChain) Vouched(name artifact.Name) (artifact.Descriptor, bool) {
	d, found := c.vouched[name]
	return d, found
}

// storePeer is a Peer that has what another store has.
type storePeer struct {
	from, to *folderStore
	mu       sync.Mutex
	asked    []artifact.Descriptor
}

func (p *storePeer) Fetch(ctx context.Context, file artifact.Descriptor) error {
	p.mu.Lock()
	p.asked = append(p.asked, file)
	p.mu.Unlock()
	if p.from == nil {
		return errors.New("no peer has it")
	}
	if d, found := p.from.Stat(file.SHA256); !found || d != file {
		return errors.New("no peer has it")
	}
	f, err := p.from.Open(file.SHA256)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = p.to.Put(ctx, f)
	return err
}

// upstream is an HTTP server over a table of files that a test may alter.
type upstream struct {
	*httptest.Server
	mu      sync.Mutex
	files   map[string]string
	special map[string]http.HandlerFunc
	gets    map[string]int
}

func newUpstream(t testing.TB) *upstream {
	u := &upstream{files: map[string]string{}, special: map[string]http.HandlerFunc{}, gets: map[string]int{}}
	u.Server = httptest.NewServer(u)
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/repo/")
	u.mu.Lock()
	u.gets[path]++
	content, found := u.files[path]
	special := u.special[path]
	u.mu.Unlock()
	switch {
	case special != nil:
		special(w, r)
	case found:
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		_, _ = io.WriteString(w, content)
	default:
		http.NotFound(w, r)
	}
}

func (u *upstream) set(path, content string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.files[path] = content
}

func (u *upstream) remove(path string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.files, path)
}

func (u *upstream) answer(path string, h http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.special[path] = h
}

func (u *upstream) count(path string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.gets[path]
}

func (u *upstream) total() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := 0
	for _, c := range u.gets {
		n += c
	}
	return n
}

// world is two nodes, the asker and a voter, each with its own upstreams.
type world struct {
	asker, voter *node
	chain        tableChain
}

type node struct {
	keeper        *Keeper
	store         *folderStore
	peer          *storePeer
	maven, debian *upstream
	folder        string
	config        Config
}

func newWorld(t testing.TB) *world {
	w := &world{chain: tableChain{live: map[artifact.PURL]artifact.Descriptor{}, vouched: map[artifact.Name]artifact.Descriptor{}}}
	w.asker, w.voter = newNode(t, w.chain), newNode(t, w.chain)
	w.voter.peer.from, w.asker.peer.from = w.asker.store, w.voter.store
	return w
}

func newNode(t testing.TB, chain Chain) *node {
	n := &node{store: newFolderStore(t), maven: newUpstream(t), debian: newUpstream(t), folder: t.TempDir()}
	n.peer = &storePeer{to: n.store}
	n.config = Config{
		Upstreams: map[string]string{"maven": n.maven.URL + "/repo", "debian": n.debian.URL + "/repo/"},
		Store:     n.store, Chain: chain, Peer: n.peer, Folder: n.folder,
		Pauses: []time.Duration{time.Millisecond, time.Millisecond}, Stall: 5 * time.Second,
	}
	n.open(t)
	return n
}

// open opens the node's keeper, as after a restart.
func (n *node) open(t testing.TB) {
	t.Helper()
	if n.keeper != nil {
		if err := n.keeper.Close(); err != nil {
			t.Fatal(err)
		}
	} else {
		t.Cleanup(func() { _ = n.keeper.Close() })
	}
	keeper, err := New(n.config)
	if err != nil {
		t.Fatal(err)
	}
	n.keeper = keeper
}

// both sets a file on the Maven upstreams of both nodes.
func (w *world) both(path, content string) {
	w.asker.maven.set(path, content)
	w.voter.maven.set(path, content)
}

func (w *world) bothDebian(path, content string) {
	w.asker.debian.set(path, content)
	w.voter.debian.set(path, content)
}

// askingEngine is an Engine whose build asks the mirror for paths, and fails if
// one of those that it needs is not there.
type askingEngine struct {
	ask  []string // asked for, found or not
	need []string
	jobs []build.Job
}

func (e *askingEngine) Name() string { return "test/1" }

func (e *askingEngine) Build(context.Context, build.Job) ([]build.File, error) {
	return nil, errors.New("not asked for here")
}

func (e *askingEngine) Resolve(ctx context.Context, job build.Job, mirror http.Handler) error {
	e.jobs = append(e.jobs, job)
	server := httptest.NewServer(mirror)
	defer server.Close()
	for _, path := range append(e.ask, e.need...) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/"+path, nil)
		if err != nil {
			return err
		}
		response, err := server.Client().Do(request)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK && slices.Contains(e.need, path) {
			return fmt.Errorf("%w: could not resolve %s", build.ErrFailed, path)
		}
	}
	return nil
}

func digestOf(content string) artifact.SHA256 { return sha256.Sum256([]byte(content)) }

func describe(content string) artifact.Descriptor {
	return artifact.Descriptor{SHA256: digestOf(content), BLAKE3: blake3.Sum256([]byte(content)), Size: int64(len(content))}
}

// wantPoisoned wants an error that names the file and is final.
func wantPoisoned(t testing.TB, err error, file string) {
	t.Helper()
	if !errors.Is(err, ErrPoisoned) {
		t.Fatalf("error %v, want ErrPoisoned", err)
	}
	if !strings.Contains(err.Error(), file) {
		t.Fatalf("error %q does not name %s", err, file)
	}
}

func wantUnavailable(t testing.TB, err error, file string) {
	t.Helper()
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrPoisoned) {
		t.Fatalf("error %v, want ErrUnavailable", err)
	}
	if !strings.Contains(err.Error(), file) {
		t.Fatalf("error %q does not name %s", err, file)
	}
}

func lockOf(recipe *record.Recipe, entries ...record.LockEntry) *record.Lock {
	l := &record.Lock{Builder: []artifact.Descriptor{}, Entries: entries, Recipe: recipe.Hash()}
	l.Sort()
	return l
}

func jobFor(t testing.TB) build.Job { return build.Job{ID: "1", Folder: t.TempDir(), Log: io.Discard} }
