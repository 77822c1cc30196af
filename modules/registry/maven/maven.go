// Package maven is the repository of Maven, Gradle and their kin: the Maven 2
// layout under /maven2/, for reading, over a mirror.
//
// Release files are what the log says. Checksum files are computed from the
// bytes themselves, and sent along with each file, so that clients need not ask
// for them. Listings (maven-metadata.xml) are views that this node computes.
// Snapshots are never published: they pass through where the policy lets them,
// and are not kept.
package maven

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/mirror"
	"github.com/pyrsia/appliance/modules/registry"
)

// maxHashed is the largest file in bytes whose checksums are computed before
// it is first sent, so that they can be sent along.
const maxHashed = 64 << 20

// Handler serves /maven2/. It is safe for concurrent use.
type Handler struct {
	mirror *mirror.Mirror
	sums   *sumCache
}

// New makes a handler; m is used from the first request on.
func New(m *mirror.Mirror) *Handler { return &Handler{m, newSumCache()} }

// ServeHTTP implements http.Handler for paths that begin with /maven2/.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !registry.ReadOnly(w, r) {
		fail(w, r, registry.Failure{
			Status:  http.StatusMethodNotAllowed,
			Message: "nothing is deployed here: the network builds packages from source",
		})
		return
	}
	t, err := parse(r.URL.Path)
	if err != nil {
		fail(w, r, registry.Failure{Status: http.StatusNotFound, Message: "no such path in a Maven repository: " + err.Error()})
		return
	}
	if err := h.serve(w, r, t); err != nil {
		f := registry.Explain(err)
		f.Message = explainsSnapshot(t, f.Message)
		fail(w, r, f)
	}
}

func fail(w http.ResponseWriter, r *http.Request, f registry.Failure) {
	f.Header(w.Header())
	registry.Bytes(w, r, mirror.Computed, f.Status, "text/plain; charset=utf-8", []byte(f.Message+"\n"))
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, t target) error {
	switch {
	case t.metadata:
		return h.metadata(w, r, t)
	case t.checksum != "":
		return h.checksum(w, r, t)
	}
	return h.file(w, r, t)
}

func (t target) request() mirror.Request {
	request := mirror.Request{Name: t.name, Path: t.path}
	if t.snapshot {
		request.Lifetime = mirror.Ephemeral
	}
	return request
}

func (h *Handler) file(w http.ResponseWriter, r *http.Request, t target) error {
	request := t.request()
	request.Head = r.Method == http.MethodHead
	content, err := h.mirror.Open(r.Context(), request)
	if err != nil {
		return err
	}
	defer content.Close()
	if err := h.sendAlong(w.Header(), r, content); err != nil {
		return err
	}
	w.Header().Set("Content-Type", mediaType(t.path))
	w.Header().Set("Cache-Control", cacheOf(content.Vouch))
	registry.Serve(w, r, content)
	return nil
}

func cacheOf(v mirror.Vouch) string {
	if v.Verified {
		return registry.CacheName
	}
	return registry.CacheShort
}

// sendAlong sets the headers that Maven's and Gradle's resolvers read instead
// of asking for checksum files. A file that is still arriving has none yet.
func (h *Handler) sendAlong(header http.Header, r *http.Request, content *mirror.Content) error {
	key := keyFor(content.Descriptor.SHA256, "sha1")
	known, ok := h.sums.has(key)
	file, here := content.Body().(*os.File)
	if !ok && here && content.Descriptor.Size <= maxHashed {
		var err error
		known, err = h.sums.get(r.Context(), key, func() (sums, error) {
			// Reading by offset leaves the file where http.ServeContent begins.
			return key.sumOf(io.NewSectionReader(file, 0, content.Descriptor.Size))
		})
		if err != nil {
			return err
		}
		ok = true
	}
	if ok {
		setSums(header, known)
	}
	return nil
}

func setSums(header http.Header, s sums) {
	header.Set("X-Checksum-Sha1", s.sha1)
	header.Set("X-Checksum-Md5", s.md5)
}

func (h *Handler) checksum(w http.ResponseWriter, r *http.Request, t target) error {
	text, vouch, err := h.checksumOf(r, t)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", cacheOf(vouch))
	registry.Bytes(w, r, vouch, http.StatusOK, "text/plain; charset=utf-8", []byte(text))
	return nil
}

// checksumOf is vouched for as far as the bytes are that it is computed from.
func (h *Handler) checksumOf(r *http.Request, t target) (string, mirror.Vouch, error) {
	request := t.request()
	request.Whole = true
	// What the log vouches for is known by SHA-256 without its bytes.
	request.Head = t.checksum == "sha256"
	content, err := h.mirror.Open(r.Context(), request)
	if err != nil {
		return "", mirror.Computed, err
	}
	defer content.Close()
	digest := content.Descriptor.SHA256
	if t.checksum == "sha256" {
		return digest.String(), content.Vouch, nil
	}
	key := keyFor(digest, t.checksum)
	known, err := h.sums.get(r.Context(), key, func() (sums, error) { return key.sumOf(content.Body()) })
	return known.of(t.checksum), content.Vouch, err
}

func (h *Handler) metadata(w http.ResponseWriter, r *http.Request, t target) error {
	body, vouch, err := h.view(r.Context(), t)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", registry.CacheNot)
	contentType := "application/xml"
	computed, err := keyFor(artifact.SHA256{}, t.checksum).sumOf(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("checksums of %s: %w", t.path, err)
	}
	switch t.checksum {
	case "":
		setSums(w.Header(), computed)
	case "sha256":
		body, contentType = []byte(sha256Text(body)), "text/plain; charset=utf-8"
	default:
		body, contentType = []byte(computed.of(t.checksum)), "text/plain; charset=utf-8"
	}
	registry.Bytes(w, r, vouch, http.StatusOK, contentType, body)
	return nil
}
