package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pyrsia/appliance/e2e/cluster"
)

// upstreams are the ordinary registries of the stories, one view for each node:
//
//	/<node>/maven/…   a small Maven repository of our own
//	/<node>/debian/…  a Debian archive
//
// A node's view of a file can be altered, as by an attacker near that node.
type upstreams struct {
	server *httptest.Server
	debian func(name string) ([]byte, error) // a file of the archive by its path

	mu      sync.Mutex
	maven   map[string][]byte            // by path
	altered map[string]map[string][]byte // by node, by path
}

func newUpstreams(debian func(name string) ([]byte, error)) *upstreams {
	u := &upstreams{debian: debian, maven: map[string][]byte{}, altered: map[string]map[string][]byte{}}
	u.server = httptest.NewServer(u)
	return u
}

func (u *upstreams) close() { u.server.Close() }

// of are a node's own upstreams.
func (u *upstreams) of(node string) cluster.Upstreams { return upstreamsAt(u.server.URL, node) }

func upstreamsAt(server, node string) cluster.Upstreams {
	return cluster.Upstreams{Maven: server + "/" + node + "/maven", Debian: server + "/" + node + "/debian"}
}

// put adds a file to the Maven repository that all nodes see.
func (u *upstreams) put(name string, data []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.maven[name] = data
}

// alter changes what one node sees at a path of the Maven repository.
func (u *upstreams) alter(node, name string, data []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.altered[node] == nil {
		u.altered[node] = map[string][]byte{}
	}
	u.altered[node][name] = data
}

// ServeHTTP implements http.Handler.
func (u *upstreams) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.SplitN(strings.TrimPrefix(path.Clean(r.URL.Path), "/"), "/", 3)
	if len(parts) < 3 {
		http.NotFound(w, r)
		return
	}
	switch parts[1] {
	case "maven":
		u.serveMaven(w, r, parts[0], parts[2])
	case "debian":
		u.serveDebian(w, r, parts[2])
	default:
		http.NotFound(w, r)
	}
}

func (u *upstreams) serveMaven(w http.ResponseWriter, r *http.Request, node, name string) {
	u.mu.Lock()
	data, found := u.maven[name]
	if altered, ok := u.altered[node][name]; ok {
		data, found = altered, true
	}
	u.mu.Unlock()
	if !found {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, path.Base(name), time.Time{}, bytes.NewReader(data))
}

func (u *upstreams) serveDebian(w http.ResponseWriter, r *http.Request, name string) {
	data, err := u.debian(name)
	if errors.Is(err, fs.ErrNotExist) {
		http.NotFound(w, r)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	http.ServeContent(w, r, path.Base(name), time.Time{}, bytes.NewReader(data))
}

// smallDebian is an archive of our own, small and at hand.
func smallDebian(archive map[string]string) func(name string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		content, found := archive[name]
		if !found {
			return nil, fs.ErrNotExist
		}
		return []byte(content), nil
	}
}

// realDebian is Debian's archive as apt knows it. What never changes (.debs) is
// kept in the user's cache folder, so that a test run fetches it once.
type realDebian struct {
	base  string // address
	cache string // folder

	mu      sync.Mutex
	indexes map[string][]byte      // by path: one state for all nodes
	busy    map[string]*sync.Mutex // one fetch of each file at a time
}

func newRealDebian() (*realDebian, error) {
	real, err := cluster.FindUpstreams()
	if err != nil {
		return nil, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	return &realDebian{
		base: real.Debian, cache: filepath.Join(cache, "pyrsia-test", "debian"),
		indexes: map[string][]byte{}, busy: map[string]*sync.Mutex{},
	}, nil
}

// file is a file of the archive. The .debs that are kept are not trusted: nodes
// prove each by Debian's signature.
func (d *realDebian) file(name string) ([]byte, error) {
	d.mu.Lock()
	if d.busy[name] == nil {
		d.busy[name] = new(sync.Mutex)
	}
	busy := d.busy[name]
	d.mu.Unlock()
	busy.Lock()
	defer busy.Unlock()
	fixed := strings.HasPrefix(name, "pool/")
	kept := filepath.Join(d.cache, filepath.FromSlash(name))
	if fixed {
		if data, err := os.ReadFile(kept); !errors.Is(err, fs.ErrNotExist) {
			return data, err
		}
	}
	d.mu.Lock()
	data, found := d.indexes[name]
	d.mu.Unlock()
	if found {
		return data, nil
	}
	data, err := download(d.base + "/" + name)
	if err != nil {
		return nil, err
	}
	if !fixed {
		d.mu.Lock()
		d.indexes[name] = data
		d.mu.Unlock()
		return data, nil
	}
	return data, keep(kept, data)
}

func download(address string) ([]byte, error) {
	answer, err := http.Get(address)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", address, answer.Status)
	}
	return io.ReadAll(answer.Body)
}

func keep(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(data)
	return errors.Join(err, file.Close(), os.Rename(file.Name(), path))
}

// archive is a source archive with the given files, the same bytes each time.
func archive(files map[string]string, order ...string) ([]byte, error) {
	var data bytes.Buffer
	packed := gzip.NewWriter(&data)
	writer := tar.NewWriter(packed)
	for _, name := range order {
		header := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), ModTime: time.Unix(1_700_000_000, 0), Format: tar.FormatUSTAR}
		if err := writer.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(writer, files[name]); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(writer.Close(), packed.Close()); err != nil {
		return nil, err
	}
	return data.Bytes(), nil
}

func sha256Hex(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
