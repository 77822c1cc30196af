package oci

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/mirror"
	"github.com/pyrsia/appliance/modules/registry"
)

// maxManifest is the largest manifest in bytes: what registries must take at
// least (OCI Distribution Specification 1.1, "Pushing Manifests") is what
// clients take at most.
const maxManifest = 4 << 20

// The manifest types there are. Docker's first schema is not among them: it
// does not name its content by digest.
const (
	imageManifest  = "application/vnd.oci.image.manifest.v1+json"
	imageIndex     = "application/vnd.oci.image.index.v1+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

var manifestTypes = []string{imageIndex, imageManifest, dockerList, dockerManifest}

// manifestName is the file name of a manifest in its statement.
const manifestName = "manifest"

func (h *Handler) manifest(w http.ResponseWriter, r *http.Request, t target) *failure {
	request, f := h.manifestRequest(r, t)
	if f != nil {
		return f
	}
	content, err := h.mirror.Open(r.Context(), request)
	if err != nil {
		return explain(t.kind, err)
	}
	defer content.Close()
	mediaType, err := typeOf(content)
	if err != nil {
		return &failure{registry.Failure{Status: http.StatusBadGateway, Message: fmt.Sprintf("%s: %v", request, err)}, unavailable}
	}
	if !accepts(r.Header.Values("Accept"), mediaType) {
		return &failure{registry.Failure{
			Status:  http.StatusNotFound,
			Message: fmt.Sprintf("%s is of the type %s, which the client does not accept", request, mediaType),
		}, manifestUnknown}
	}
	cache := registry.CacheForever
	if request.Tag {
		cache = registry.CacheNot
	}
	serve(w, r, content, mediaType, content.Descriptor.SHA256, cache)
	return nil
}

func (h *Handler) manifestRequest(r *http.Request, t target) (mirror.Request, *failure) {
	request := mirror.Request{
		Name:   artifact.Name{Package: artifact.DockerPURL(t.repository, t.reference)},
		Path:   t.path(),
		Header: http.Header{"Accept": manifestTypes},
		Limit:  maxManifest,
		Whole:  true,
	}
	if !t.isDigest() {
		if h.foreign(r) {
			return request, &failure{registry.Failure{
				Status:  http.StatusNotFound,
				Message: fmt.Sprintf("this mirror does not stand for the registry %.80q", r.URL.Query().Get("ns")),
			}, manifestUnknown}
		}
		request.Tag, request.Lifetime = true, mirror.Short
		return request, nil
	}
	digest, known, f := t.digest()
	if f != nil {
		return request, f
	}
	if !known {
		return request, unknownAlgorithm(t)
	}
	request.Name.File, request.Digest = manifestName, digest
	return request, nil
}

// typeOf is the manifest's type: as published, as the upstream said, or as the
// manifest itself says.
func typeOf(content *mirror.Content) (string, error) {
	if slices.Contains(manifestTypes, content.MediaType) {
		return content.MediaType, nil
	}
	if content.Descriptor.Size > maxManifest {
		return "", fmt.Errorf("a manifest of %d bytes, the limit is %d", content.Descriptor.Size, maxManifest)
	}
	body := content.Body()
	data, err := io.ReadAll(io.LimitReader(body, maxManifest))
	if err != nil {
		return "", err
	}
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	return sniff(data)
}

// sniff reads the type that a manifest gives itself. The member is optional in
// OCI's types: an image has a configuration then, and an index has manifests.
func sniff(data []byte) (string, error) {
	var m struct {
		MediaType string          `json:"mediaType"`
		Config    json.RawMessage `json:"config"`
		Manifests json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return "", fmt.Errorf("not an image manifest: %w", err)
	}
	switch {
	case slices.Contains(manifestTypes, m.MediaType):
		return m.MediaType, nil
	case m.MediaType != "":
		return "", fmt.Errorf("a manifest of the type %.80q, which is not served", m.MediaType)
	case m.Manifests != nil && m.Config == nil:
		return imageIndex, nil
	case m.Config != nil && m.Manifests == nil:
		return imageManifest, nil
	}
	return "", fmt.Errorf("not an image manifest: it has no type")
}

// accepts tells whether the client takes the type. A client that says nothing
// takes anything; quality values beyond "not at all" make no difference, as
// there is one representation only.
func accepts(values []string, mediaType string) bool {
	asked := false
	for _, value := range values {
		for _, item := range strings.Split(value, ",") {
			pattern, parameters, _ := strings.Cut(item, ";")
			pattern = strings.ToLower(strings.TrimSpace(pattern))
			if pattern == "" {
				continue
			}
			asked = true
			if refused(parameters) {
				continue
			}
			if pattern == mediaType || pattern == "*/*" || pattern == "application/*" {
				return true
			}
		}
	}
	return !asked
}

func refused(parameters string) bool {
	for _, p := range strings.Split(parameters, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(name, "q") && strings.Trim(value, "0.") == "" {
			return true
		}
	}
	return false
}
