// Package oci is the registry API of container tools: the pulling half of the
// OCI Distribution Specification 1.1 under /v2/, over a mirror.
//
// Everything asked for by digest has that digest, whoever it came from. A tag
// is a pointer: it means what the log's live recipe of that tag published, or,
// under the policy "pass", what the upstream says, marked as unverified.
package oci

import (
	"net/http"
	"slices"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/mirror"
	"github.com/pyrsia/appliance/modules/registry"
)

// Config is how the registry answers.
type Config struct {
	// Namespaces are the registries that this mirror stands for, as clients with
	// several registries say in "?ns=". When it is not empty, a tag of another
	// registry is refused: the same name means another image there. What is asked
	// for by digest is the same everywhere.
	Namespaces []string
}

// Handler serves /v2/. It is safe for concurrent use.
type Handler struct {
	config Config
	mirror *mirror.Mirror
}

// New makes a handler; m is used from the first request on.
func New(config Config, m *mirror.Mirror) *Handler { return &Handler{config, m} }

// ServeHTTP implements http.Handler for paths that begin with /v2.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if f := h.serve(w, r); f != nil {
		f.write(w, r)
	}
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) *failure {
	if !registry.ReadOnly(w, r) {
		return &failure{registry.Failure{
			Status:  http.StatusMethodNotAllowed,
			Message: "images are not pushed here: the network builds them from source",
		}, unsupported}
	}
	t, f := parse(r.URL.Path)
	if f != nil {
		return f
	}
	switch t.kind {
	case manifest:
		return h.manifest(w, r, t)
	case blob:
		return h.blob(w, r, t)
	case tags:
		return h.tags(w, r, t)
	case referrers:
		return h.referrers(w, r, t)
	}
	registry.Bytes(w, r, mirror.Computed, http.StatusOK, "application/json", []byte("{}"))
	return nil
}

// foreign tells whether the client means another registry's names.
func (h *Handler) foreign(r *http.Request) bool {
	ns := r.URL.Query().Get("ns")
	return ns != "" && len(h.config.Namespaces) > 0 && !slices.Contains(h.config.Namespaces, ns)
}

func (h *Handler) blob(w http.ResponseWriter, r *http.Request, t target) *failure {
	digest, known, f := t.digest()
	if f != nil {
		return f
	}
	if !known {
		return unknownAlgorithm(t)
	}
	content, err := h.mirror.Open(r.Context(), mirror.Request{
		Name:   artifact.Name{Package: artifact.DockerPURL(t.repository, digest.OCI())},
		Digest: digest,
		Head:   r.Method == http.MethodHead,
		Path:   t.path(),
	})
	if err != nil {
		return explain(t.kind, err)
	}
	defer content.Close()
	serve(w, r, content, "application/octet-stream", digest, registry.CacheForever)
	return nil
}

func unknownAlgorithm(t target) *failure {
	algorithm, _, _ := strings.Cut(t.reference, ":")
	return &failure{registry.Failure{
		Status:  http.StatusNotFound,
		Message: "nothing is known by " + algorithm + " digests here, only by sha256",
	}, t.kind.unknown()}
}

func serve(w http.ResponseWriter, r *http.Request, content *mirror.Content, mediaType string, digest artifact.SHA256, cache string) {
	header := w.Header()
	header.Set("Content-Type", mediaType)
	header.Set("Docker-Content-Digest", digest.OCI())
	header.Set("Cache-Control", cache)
	registry.Serve(w, r, content)
}
