package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/mirror"
	"github.com/pyrsia/appliance/modules/registry"
)

// maxListing is the longest list of tags taken from an upstream, in bytes.
const maxListing = 8 << 20

type tagList struct {
	Name string   `json:"name"`
	Tags []string `json:"tags"`
}

// tags lists the live tags of the log and, under the policy "pass", the
// upstream's beside them (OCI Distribution Specification 1.1, "Listing Tags").
func (h *Handler) tags(w http.ResponseWriter, r *http.Request, t target) *failure {
	all, err := h.mirror.Tags(t.repository)
	if err != nil {
		return explain(t.kind, err)
	}
	more, err := h.upstreamTags(r, t)
	if err != nil && (len(all) == 0 || errors.Is(err, mirror.ErrDenied)) {
		return explain(t.kind, err)
	}
	all = append(slices.Clone(all), more...)
	slices.Sort(all)
	all = slices.Compact(all)
	page, last, f := paginate(all, r.URL.Query())
	if f != nil {
		return f
	}
	if last != "" {
		next := url.URL{Path: "/" + t.path(), RawQuery: url.Values{"n": r.URL.Query()["n"], "last": {last}}.Encode()}
		w.Header().Set("Link", "<"+next.String()+`>; rel="next"`)
	}
	return writeView(w, r, "application/json", tagList{t.repository, page})
}

// upstreamTags is the upstream's list; an error when the policy gives none.
func (h *Handler) upstreamTags(r *http.Request, t target) ([]string, error) {
	content, err := h.mirror.Open(r.Context(), mirror.Request{
		Name:     artifact.Name{Package: artifact.DockerPURL(t.repository, "")},
		View:     true,
		Path:     t.path(),
		Lifetime: mirror.Short,
		Limit:    maxListing,
		Whole:    true,
	})
	if err != nil {
		return nil, err
	}
	defer content.Close()
	var list tagList
	if err := json.NewDecoder(io.LimitReader(content.Body(), maxListing)).Decode(&list); err != nil {
		return nil, &mirror.UpstreamError{Err: fmt.Errorf("its list of tags: %w", err)}
	}
	return slices.DeleteFunc(list.Tags, func(tag string) bool { return !tagPattern.MatchString(tag) }), nil
}

// paginate cuts the page that the query asks for. last is the page's last tag
// when there is more, else "".
func paginate(all []string, query url.Values) (page []string, last string, f *failure) {
	if after := query.Get("last"); after != "" {
		at, found := slices.BinarySearch(all, after)
		if found {
			at++
		}
		all = all[at:]
	}
	if all == nil {
		all = []string{} // "tags" is a list, never null
	}
	if !query.Has("n") {
		return all, "", nil
	}
	n, err := strconv.Atoi(query.Get("n"))
	if err != nil || n < 0 {
		return nil, "", invalid(unsupported, fmt.Sprintf("n is %.40q: want a number of tags", query.Get("n")))
	}
	if n == 0 {
		return []string{}, "", nil
	}
	if n >= len(all) {
		return all, "", nil
	}
	return all[:n], all[n-1], nil
}

type index struct {
	SchemaVersion int        `json:"schemaVersion"`
	MediaType     string     `json:"mediaType"`
	Manifests     []struct{} `json:"manifests"`
}

// referrers lists what refers to a manifest: nothing, as the network publishes
// no such thing. An empty list says so, where 404 would make clients search for
// tags made for the purpose (OCI Distribution Specification 1.1, "Listing
// Referrers").
func (h *Handler) referrers(w http.ResponseWriter, r *http.Request, t target) *failure {
	if _, _, f := t.digest(); f != nil {
		return f
	}
	if r.URL.Query().Has("artifactType") {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return writeView(w, r, imageIndex, index{2, imageIndex, []struct{}{}})
}

func writeView(w http.ResponseWriter, r *http.Request, mediaType string, view any) *failure {
	body, err := json.Marshal(view)
	if err != nil {
		return explain(base, err)
	}
	w.Header().Set("Cache-Control", registry.CacheNot)
	registry.Bytes(w, r, mirror.Computed, http.StatusOK, mediaType, body)
	return nil
}
