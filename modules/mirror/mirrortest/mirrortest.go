// Package mirrortest is a small world for tests of the read path: a log, an
// index, a store, peers and an upstream in memory, each of which can be told to
// misbehave within what its port allows.
package mirrortest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/mirror"
	"lukechampine.com/blake3"
)

// Describe is the descriptor of bytes.
func Describe(data []byte) artifact.Descriptor {
	return artifact.Descriptor{
		BLAKE3: artifact.BLAKE3(blake3.Sum256(data)),
		SHA256: sha256.Sum256(data),
		Size:   int64(len(data)),
	}
}

// World is all ports of a mirror. Its methods are safe for concurrent use;
// fields are set before the mirror is used.
type World struct {
	Folder string // of the store

	LogError error // every question to the log fails with it
	PutError error // the store takes nothing
	Up       *Upstream

	mu     sync.Mutex
	names  map[artifact.Name]mirror.Vouched
	tags   map[string]mirror.Vouched
	peers  map[artifact.SHA256]Peer
	asked  chan artifact.PURL
	fetchs int
	puts   int
}

// Peer is how the peers answer for a file.
type Peer struct {
	Data  []byte        // the bytes they have
	Fail  int64         // when > 0, honest sources run out after so many bytes
	Ready chan struct{} // when not nil, the first byte comes once it is closed
}

// NewWorld is an empty world whose store is in the test's own folder.
func NewWorld(t testing.TB) *World {
	return &World{
		Folder: t.TempDir(),
		Up:     &Upstream{files: make(map[string]Answer)},
		names:  make(map[artifact.Name]mirror.Vouched),
		tags:   make(map[string]mirror.Vouched),
		peers:  make(map[artifact.SHA256]Peer),
		asked:  make(chan artifact.PURL, 64),
	}
}

// Ports are the world as a mirror sees it.
func (w *World) Ports() mirror.Ports {
	return mirror.Ports{Log: w, Index: w, Store: store{w}, Peers: peers{w}, Builds: w}
}

// Upstreams are the world's one for both ecosystems.
func (w *World) Upstreams() map[string]mirror.Upstream {
	return map[string]mirror.Upstream{"docker": w.Up, "maven": w.Up}
}

// Start makes a mirror over the world that serves until the test ends. Every
// ecosystem has the policy.
func (w *World) Start(t testing.TB, policy mirror.Policy, declared ...string) *mirror.Mirror {
	t.Helper()
	return w.StartWith(t, mirror.Config{Rules: mirror.Rules{Ecosystems: Everything(policy, declared...)}})
}

// Everything is both ecosystems with one policy.
func Everything(policy mirror.Policy, declared ...string) map[string]mirror.Ecosystem {
	e := mirror.Ecosystem{Unverified: policy, Packages: declared}
	return map[string]mirror.Ecosystem{"docker": e, "maven": e}
}

// StartWith makes a mirror as configured; a folder is made where none is named, and
// the world's upstream is that of both ecosystems.
func (w *World) StartWith(t testing.TB, config mirror.Config) *mirror.Mirror {
	t.Helper()
	if config.Folder == "" {
		config.Folder = t.TempDir()
	}
	config.Upstreams = w.Upstreams()
	m, err := mirror.New(config, w.Ports())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- m.Serve(ctx) }()
	for !m.Serving() {
		runtime.Gosched() // Serve says so within its first instructions
	}
	t.Cleanup(func() {
		stop()
		<-served
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// Publish makes the log vouch for a file and gives it to the peers.
func (w *World) Publish(name artifact.Name, mediaType string, data []byte) mirror.Vouched {
	v := w.Vouch(name, mediaType, data)
	w.Give(Peer{Data: data})
	return v
}

// Vouch makes the log vouch for a file that nobody has.
func (w *World) Vouch(name artifact.Name, mediaType string, data []byte) mirror.Vouched {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := mirror.Vouched{
		Name: name, Descriptor: Describe(data), MediaType: mediaType,
		Block: 57, Leaf: 1234 + int64(len(w.names)), Votes: 3, Nodes: 4,
	}
	w.names[name] = v
	return v
}

// PublishImage publishes the parts of an image as statements name them, and its
// tag when there is one.
func (w *World) PublishImage(repository, tag, mediaType string, manifest []byte, parts ...[]byte) {
	pkg := artifact.DockerPURL(repository, Describe(manifest).SHA256.OCI())
	v := w.Publish(artifact.Name{Package: pkg, File: "manifest"}, mediaType, manifest)
	for _, part := range parts {
		w.Publish(artifact.Name{Package: pkg, File: Describe(part).SHA256.OCI()}, "application/octet-stream", part)
	}
	if tag == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tags[repository+":"+tag] = v
}

// Give gives the peers a file.
func (w *World) Give(p Peer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.peers[Describe(p.Data).SHA256] = p
}

// Keep puts bytes into the store.
func (w *World) Keep(t testing.TB, data []byte) artifact.Descriptor {
	t.Helper()
	d, err := store{w}.Put(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Lose takes bytes out of the store.
func (w *World) Lose(digest artifact.SHA256) { os.Remove(filepath.Join(w.Folder, digest.String())) }

// Has tells whether the store has bytes.
func (w *World) Has(digest artifact.SHA256) bool {
	_, err := os.Stat(filepath.Join(w.Folder, digest.String()))
	return err == nil
}

// Fetches counts how often the peers were asked for a file that they did not
// yet bring.
func (w *World) Fetches() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fetchs
}

// Puts counts what the store was given.
func (w *World) Puts() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.puts
}

// Asked yields what a build was asked for of.
func (w *World) Asked() <-chan artifact.PURL { return w.asked }

// Ask implements mirror.Builds.
func (w *World) Ask(_ context.Context, pkg artifact.PURL) error {
	w.asked <- pkg
	return nil
}

// Resolve implements mirror.Log.
func (w *World) Resolve(name artifact.Name) (mirror.Vouched, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v, ok := w.names[name]
	return v, w.answer(ok)
}

// ResolveDigest implements mirror.Log.
func (w *World) ResolveDigest(digest artifact.SHA256) (mirror.Vouched, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range w.names {
		if v.Descriptor.SHA256 == digest {
			return v, w.answer(true)
		}
	}
	return mirror.Vouched{}, w.answer(false)
}

// Tag implements mirror.Log.
func (w *World) Tag(repository, tag string) (mirror.Vouched, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v, ok := w.tags[repository+":"+tag]
	return v, w.answer(ok)
}

func (w *World) answer(found bool) error {
	if w.LogError != nil {
		return w.LogError
	}
	if !found {
		return mirror.ErrNotPublished
	}
	return nil
}

// Tags implements mirror.Index.
func (w *World) Tags(repository string) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var tags []string
	for name := range w.tags {
		if len(name) > len(repository) && name[:len(repository)+1] == repository+":" {
			tags = append(tags, name[len(repository)+1:])
		}
	}
	return tags, nil
}

// Versions implements mirror.Index.
func (w *World) Versions(group, name string) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var versions []string
	for n := range w.names {
		if n.Package.Type() == "maven" && n.Package.Namespace() == group && n.Package.Name() == name {
			versions = append(versions, n.Package.Version())
		}
	}
	slices.Sort(versions)
	return slices.Compact(versions), nil
}

type store struct{ w *World }

func (s store) Open(digest artifact.SHA256) (*os.File, error) {
	return os.Open(filepath.Join(s.w.Folder, digest.String()))
}

func (s store) Put(_ context.Context, r io.Reader) (artifact.Descriptor, error) {
	if s.w.PutError != nil {
		return artifact.Descriptor{}, s.w.PutError
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return artifact.Descriptor{}, err
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.w.puts++
	d := Describe(data)
	temporary := filepath.Join(s.w.Folder, fmt.Sprintf("put-%d", s.w.puts))
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return d, err
	}
	return d, os.Rename(temporary, filepath.Join(s.w.Folder, d.SHA256.String()))
}

type peers struct{ w *World }

func (p peers) Open(ctx context.Context, d artifact.Descriptor) (io.ReadSeekCloser, error) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.fetchs++
	peer, ok := p.w.peers[d.SHA256]
	if !ok {
		return nil, mirror.ErrNoSource
	}
	return &stream{ReadSeeker: bytes.NewReader(peer.Data), ctx: ctx, peer: peer}, nil
}

// stream is bytes that arrive, proven, until sources run out.
type stream struct {
	io.ReadSeeker
	ctx  context.Context
	peer Peer
}

func (s *stream) Read(b []byte) (int, error) {
	if s.peer.Ready != nil {
		select {
		case <-s.peer.Ready:
		case <-s.ctx.Done():
			return 0, s.ctx.Err()
		}
	}
	at, err := s.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	if s.peer.Fail > 0 {
		if at >= s.peer.Fail {
			return 0, mirror.ErrNoSource
		}
		b = b[:min(int64(len(b)), s.peer.Fail-at)]
	}
	return s.ReadSeeker.Read(b)
}

func (s *stream) Close() error { return nil }

// Answer is what an upstream says for a path.
type Answer struct {
	Status   int // 0 is 200
	Header   http.Header
	Data     []byte
	Length   int64         // declared; 0 is len(Data), -1 is none
	Err      error         // no answer at all
	Break    bool          // the connection ends with an error after Data
	Proceed  chan struct{} // when not nil, Data after Early comes once it is closed
	Early    int
	NotAgain bool // answer 304 to a conditional request
}

// Upstream is a registry in memory.
type Upstream struct {
	mu    sync.Mutex
	files map[string]Answer
	gets  []string
	last  http.Header
}

// Set says what a path answers from now on.
func (u *Upstream) Set(path string, a Answer) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.files[path] = a
}

// Gets are the paths asked for so far.
func (u *Upstream) Gets() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.gets)
}

// LastHeader is the last request's.
func (u *Upstream) LastHeader() http.Header {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last
}

// String implements mirror.Upstream.
func (u *Upstream) String() string { return "https://upstream.example" }

// Get implements mirror.Upstream.
func (u *Upstream) Get(ctx context.Context, path string, header http.Header) (*mirror.Reply, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.gets = append(u.gets, path)
	u.last = header
	a, ok := u.files[path]
	switch {
	case a.Err != nil:
		return nil, &mirror.UpstreamError{Err: a.Err}
	case !ok:
		return reply(http.StatusNotFound, nil, 0, http.NoBody), nil
	case a.Status == http.StatusTooManyRequests:
		return nil, &mirror.UpstreamError{Status: a.Status}
	case a.NotAgain && (header.Get("If-None-Match") != "" || header.Get("If-Modified-Since") != ""):
		return reply(http.StatusNotModified, nil, 0, http.NoBody), nil
	}
	status := a.Status
	if status == 0 {
		status = http.StatusOK
	}
	length := a.Length
	if length == 0 {
		length = int64(len(a.Data))
	}
	return reply(status, a.Header, length, &body{ctx: ctx, answer: a, rest: bytes.NewReader(a.Data)}), nil
}

func reply(status int, header http.Header, length int64, body io.ReadCloser) *mirror.Reply {
	if header == nil {
		header = make(http.Header)
	}
	return &mirror.Reply{Status: status, Header: header, Length: length, Body: body}
}

type body struct {
	ctx    context.Context
	answer Answer
	rest   *bytes.Reader
}

func (b *body) Read(p []byte) (int, error) {
	sent := int(b.rest.Size()) - b.rest.Len()
	if b.answer.Proceed != nil {
		if early := b.answer.Early - sent; early > 0 {
			p = p[:min(len(p), early)]
		} else {
			select {
			case <-b.answer.Proceed:
			case <-b.ctx.Done():
				return 0, b.ctx.Err()
			}
		}
	}
	n, err := b.rest.Read(p)
	if errors.Is(err, io.EOF) && b.answer.Break {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (b *body) Close() error { return nil }

// PublishImageLayer publishes one part of an image.
func (w *World) PublishImageLayer(t testing.TB, repository string, data []byte) artifact.Descriptor {
	t.Helper()
	d := Describe(data)
	pkg := artifact.DockerPURL(repository, d.SHA256.OCI())
	return w.Publish(artifact.Name{Package: pkg, File: d.SHA256.OCI()}, "application/octet-stream", data).Descriptor
}
