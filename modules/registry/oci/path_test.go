package oci

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	zero := "sha256:" + strings.Repeat("0", 64)
	for path, want := range map[string]target{
		"/v2":                                   {kind: base},
		"/v2/":                                  {kind: base},
		"/v2/app/manifests/latest":              {manifest, "app", "latest"},
		"/v2/library/app/manifests/" + zero:     {manifest, "library/app", zero},
		"/v2/a/b/c/blobs/" + zero:               {blob, "a/b/c", zero},
		"/v2/a_b/c-d.e__f/tags/list":            {tags, "a_b/c-d.e__f", ""},
		"/v2/app/referrers/" + zero:             {referrers, "app", zero},
		"/v2/manifests/blobs/manifests/tags":    {manifest, "manifests/blobs", "tags"},
		"/v2/manifests/manifests/manifests/x":   {manifest, "manifests/manifests", "x"},
		"/v2/blobs/blobs/" + zero:               {blob, "blobs", zero},
		"/v2/tags/list/tags/list":               {tags, "tags/list", ""},
		"/v2/a/manifests/b/blobs/sha512:abcdef": {blob, "a/manifests/b", "sha512:abcdef"},
	} {
		got, f := parse(path)
		if f != nil || got != want {
			t.Errorf("%s: %+v, %+v", path, got, f)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("/v2/library/app/manifests/latest")
	f.Add("/v2/a/blobs/sha256:00")
	f.Add("/v2/tags/list/tags/list")
	f.Fuzz(func(t *testing.T, path string) {
		got, failed := parse(path)
		if failed != nil {
			if failed.Status < 400 || failed.Status > 499 {
				t.Errorf("%q: status %d", path, failed.Status)
			}
			return
		}
		if got.kind == base {
			return
		}
		if back := "/" + got.path(); back != path {
			t.Errorf("%q became %q", path, back)
		}
		if strings.Contains(got.repository, "..") || strings.HasPrefix(got.repository, "/") || got.repository == "" {
			t.Errorf("%q: repository %q", path, got.repository)
		}
		got.digest()
	})
}

func FuzzSniff(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		mediaType, err := sniff(data)
		if err == nil && !strings.HasPrefix(mediaType, "application/vnd.") {
			t.Errorf("%q: %q", data, mediaType)
		}
	})
}
