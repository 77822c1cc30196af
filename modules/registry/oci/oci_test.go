package oci_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/mirror"
	"github.com/pyrsia/appliance/modules/mirror/mirrortest"
	"github.com/pyrsia/appliance/modules/registry/oci"
)

const manifestType = "application/vnd.oci.image.manifest.v1+json"

func noise(seed int64, n int) []byte {
	data := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(data)
	return data
}

// image is a hand-made image of one layer.
type image struct{ manifest, config, layer []byte }

func newImage(layer []byte) image {
	i := image{layer: layer}
	i.config = fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["%s"]}}`, digest(layer))
	i.manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,`+
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":%d},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"%s","size":%d}]}`,
		manifestType, digest(i.config), len(i.config), digest(layer), len(layer))
	return i
}

func digest(data []byte) string { return mirrortest.Describe(data).SHA256.OCI() }

func start(t *testing.T, w *mirrortest.World, policy mirror.Policy) string {
	t.Helper()
	return serve(t, oci.New(oci.Config{}, w.Start(t, policy)))
}

func serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

type answer struct {
	*http.Response
	body []byte
	err  error // reading the body
}

func do(t *testing.T, method, url string, header ...string) answer {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if response.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%s %s: the type may be guessed", method, url)
	}
	verified, unverified := response.Header.Get("Pyrsia-Verified"), response.Header.Get("Pyrsia-Unverified")
	if (verified == "") == (unverified == "") {
		t.Errorf("%s %s: verified %q, unverified %q", method, url, verified, unverified)
	}
	return answer{response, body, err}
}

func (a answer) want(t *testing.T, status int, header ...string) {
	t.Helper()
	if a.StatusCode != status {
		t.Errorf("status %d, want %d: %.200s", a.StatusCode, status, a.body)
	}
	for i := 0; i < len(header); i += 2 {
		if got := a.Header.Get(header[i]); got != header[i+1] {
			t.Errorf("%s: %q, want %q", header[i], got, header[i+1])
		}
	}
}

func (a answer) wantError(t *testing.T, status int, code string) {
	t.Helper()
	a.want(t, status, "Content-Type", "application/json", "Pyrsia-Unverified", "computed", "Cache-Control", "no-cache")
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.body, &body); err != nil || len(body.Errors) != 1 || body.Errors[0].Code != code || body.Errors[0].Message == "" {
		t.Errorf("%s, %v, want %s", a.body, err, code)
	}
}

func TestBase(t *testing.T) {
	url := start(t, mirrortest.NewWorld(t), mirror.Refuse)
	for _, path := range []string{"/v2/", "/v2"} {
		a := do(t, "GET", url+path)
		a.want(t, 200, "Content-Type", "application/json", "Docker-Distribution-Api-Version", "registry/2.0")
		if string(a.body) != "{}" {
			t.Errorf("%s", a.body)
		}
		do(t, "HEAD", url+path).want(t, 200, "Content-Length", "2")
	}
}

func TestPullVerified(t *testing.T) {
	w := mirrortest.NewWorld(t)
	i := newImage(noise(1, 300_000))
	w.PublishImage("library/app", "1.0", manifestType, i.manifest, i.config, i.layer)
	w.Keep(t, i.layer)
	url := start(t, w, mirror.Refuse) + "/v2/library/app"
	for _, method := range []string{"GET", "HEAD"} {
		for path, want := range map[string][]byte{
			"/manifests/1.0":                   i.manifest,
			"/manifests/" + digest(i.manifest): i.manifest,
			"/blobs/" + digest(i.config):       i.config,
			"/blobs/" + digest(i.layer):        i.layer,
			"/blobs/" + digest(i.manifest):     i.manifest,
		} {
			a := do(t, method, url+path, "Accept", manifestType+", application/json")
			mediaType, cache := "application/octet-stream", "public, max-age=31536000, immutable"
			if strings.HasPrefix(path, "/manifests") {
				mediaType = manifestType
			}
			if strings.HasSuffix(path, "/1.0") {
				cache = "no-cache"
			}
			a.want(t, 200, "Content-Type", mediaType, "Docker-Content-Digest", digest(want), "Cache-Control", cache,
				"Etag", `"`+digest(want)+`"`, "Content-Length", fmt.Sprint(len(want)), "Accept-Ranges", "bytes")
			if !strings.HasPrefix(a.Header.Get("Pyrsia-Verified"), "block=57, leaf=12") || !strings.HasSuffix(a.Header.Get("Pyrsia-Verified"), `votes="3/4"`) {
				t.Errorf("verified %q", a.Header.Get("Pyrsia-Verified"))
			}
			if method == "HEAD" {
				want = nil
			}
			if !bytes.Equal(a.body, want) {
				t.Errorf("%s %s: other bytes", method, path)
			}
		}
	}
}

func TestRanges(t *testing.T) {
	w := mirrortest.NewWorld(t)
	data := noise(1, 100_000)
	etag := `"` + digest(data) + `"`
	v := w.PublishImageLayer(t, "app", data)
	for _, here := range []bool{true, false} {
		if here {
			w.Keep(t, data)
		} else {
			w.Lose(v.SHA256)
		}
		url := start(t, w, mirror.Refuse) + "/v2/app/blobs/" + digest(data)
		for _, test := range []struct {
			header   []string
			status   int
			from, to int
		}{
			{[]string{"Range", "bytes=0-0"}, 206, 0, 1},
			{[]string{"Range", "bytes=1000-1999"}, 206, 1000, 2000},
			{[]string{"Range", "bytes=99990-"}, 206, 99_990, 100_000},
			{[]string{"Range", "bytes=99990-200000"}, 206, 99_990, 100_000},
			{[]string{"Range", "bytes=-10"}, 206, 99_990, 100_000},
			{[]string{"Range", "bytes=0-9", "If-Range", etag}, 206, 0, 10},
			{[]string{"Range", "bytes=0-9", "If-Range", `"other"`}, 200, 0, 100_000},
			{[]string{"Range", "bytes=100000-"}, 416, 0, 0},
			{[]string{"Range", "bytes=10-5"}, 416, 0, 0},
			{[]string{"Range", "bytes=a-b"}, 416, 0, 0},
			{[]string{"If-None-Match", etag}, 304, 0, 0},
			{[]string{"If-None-Match", `"x", ` + etag}, 304, 0, 0},
			{[]string{"If-None-Match", `"x"`}, 200, 0, 100_000},
			{[]string{"If-Match", `"x"`}, 412, 0, 0},
			{[]string{"If-Modified-Since", time.Now().UTC().Format(http.TimeFormat)}, 304, 0, 0},
		} {
			a := do(t, "GET", url, test.header...)
			a.want(t, test.status)
			if a.StatusCode < 300 && !bytes.Equal(a.body, data[test.from:test.to]) {
				t.Errorf("%q: %d bytes", test.header, len(a.body))
			}
			if a.StatusCode == 206 {
				a.want(t, 206, "Content-Range", fmt.Sprintf("bytes %d-%d/100000", test.from, test.to-1))
			}
			if test.status < 400 {
				a.want(t, test.status, "Etag", etag)
			}
		}
		wantMulti(t, do(t, "GET", url, "Range", "bytes=5-9,20-29,-3"), data[5:10], data[20:30], data[99_997:])
	}
}

func wantMulti(t *testing.T, a answer, want ...[]byte) {
	t.Helper()
	_, parameters, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if err != nil || a.StatusCode != 206 {
		t.Fatalf("%d %v", a.StatusCode, err)
	}
	parts := multipart.NewReader(bytes.NewReader(a.body), parameters["boundary"])
	for i, want := range want {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(part); err != nil || !bytes.Equal(got, want) {
			t.Errorf("part %d: %d bytes, %v", i, len(got), err)
		}
	}
	if _, err := parts.NextPart(); err != io.EOF {
		t.Errorf("more parts: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	w := mirrortest.NewWorld(t)
	none := "sha256:" + strings.Repeat("0", 64)
	lost := noise(7, 100)
	w.Vouch(artifact.Name{Package: artifact.DockerPURL("app", none), File: "x"}, "", lost)
	m := w.StartWith(t, mirror.Config{Rules: mirror.Rules{Deny: []string{"pkg:docker/evil/*"}}})
	url := serve(t, oci.New(oci.Config{}, m))
	for _, test := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/v2/app/manifests/latest", 404, "MANIFEST_UNKNOWN"},
		{"HEAD", "/v2/app/manifests/latest", 404, ""},
		{"GET", "/v2/app/manifests/" + none, 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/app/blobs/" + none, 404, "BLOB_UNKNOWN"},
		{"GET", "/v2/app/blobs/sha512:" + strings.Repeat("0", 128), 404, "BLOB_UNKNOWN"},
		{"GET", "/v2/app/tags/list", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/app/blobs/" + digest(lost), 502, "UNAVAILABLE"},
		{"GET", "/v2/evil/app/manifests/1", 403, "DENIED"},
		{"GET", "/v2/evil/app/blobs/" + none, 403, "DENIED"},
		{"GET", "/v2/app/blobs/latest", 400, "DIGEST_INVALID"},
		{"GET", "/v2/app/blobs/sha256:0", 400, "DIGEST_INVALID"},
		{"GET", "/v2/app/blobs/sha256:" + strings.Repeat("A", 64), 400, "DIGEST_INVALID"},
		{"GET", "/v2/app/manifests/.x", 400, "MANIFEST_INVALID"},
		{"GET", "/v2/app/manifests/" + strings.Repeat("x", 129), 400, "MANIFEST_INVALID"},
		{"GET", "/v2/App/manifests/1", 400, "NAME_INVALID"},
		{"GET", "/v2/a//b/manifests/1", 400, "NAME_INVALID"},
		{"GET", "/v2/a/%2e%2e/b/manifests/1", 400, "NAME_INVALID"},
		{"GET", "/v2/-a/tags/list", 400, "NAME_INVALID"},
		{"GET", "/v2/" + strings.Repeat("a", 256) + "/tags/list", 400, "NAME_INVALID"},
		{"GET", "/v2/app", 404, "UNSUPPORTED"},
		{"GET", "/v2/_catalog", 404, "UNSUPPORTED"},
		{"GET", "/v2x", 404, "UNSUPPORTED"},
		{"GET", "/v2/app/blobs/uploads/", 404, "UNSUPPORTED"},
		{"POST", "/v2/app/blobs/uploads/", 405, "UNSUPPORTED"},
		{"PUT", "/v2/app/manifests/latest", 405, "UNSUPPORTED"},
		{"PATCH", "/v2/app/blobs/uploads/x", 405, "UNSUPPORTED"},
		{"DELETE", "/v2/app/blobs/" + none, 405, "UNSUPPORTED"},
		{"OPTIONS", "/v2/", 405, "UNSUPPORTED"},
	} {
		begin := time.Now()
		a := do(t, test.method, url+test.path)
		if took := time.Since(begin); took > 100*time.Millisecond {
			t.Errorf("%s %s took %s", test.method, test.path, took)
		}
		if test.code == "" {
			a.want(t, test.status)
			continue
		}
		a.wantError(t, test.status, test.code)
		if t.Failed() {
			t.Fatalf("%s %s", test.method, test.path)
		}
	}
	do(t, "POST", url+"/v2/").want(t, 405, "Allow", "GET, HEAD")
}

func TestAccept(t *testing.T) {
	w := mirrortest.NewWorld(t)
	i := newImage(noise(1, 10))
	w.PublishImage("app", "1", manifestType, i.manifest)
	url := start(t, w, mirror.Refuse) + "/v2/app/manifests/1"
	for accept, status := range map[string]int{
		"": 200, "*/*": 200, "application/*": 200, manifestType: 200, strings.ToUpper(manifestType): 200,
		"application/json, " + manifestType + ";q=0.5": 200,
		"text/html;q=0.9, */*;q=0.8":                   200,
		manifestType + ";q=0":                          404,
		manifestType + "; q=0.000":                     404,
		"application/vnd.oci.image.index.v1+json":      404,
		"text/*": 404,
	} {
		a := do(t, "GET", url, "Accept", accept)
		a.want(t, status)
		if status == 404 {
			a.wantError(t, 404, "MANIFEST_UNKNOWN")
		}
	}
	do(t, "GET", url, "Accept", "text/html", "Accept", manifestType).want(t, 200)
}

func TestTypeOfAManifest(t *testing.T) {
	for body, want := range map[string]string{
		`{"schemaVersion":2,"config":{},"layers":[]}`:                                      manifestType,
		`{"schemaVersion":2,"manifests":[]}`:                                               "application/vnd.oci.image.index.v1+json",
		`{"mediaType":"application/vnd.docker.distribution.manifest.v2+json"}`:             "application/vnd.docker.distribution.manifest.v2+json",
		`{"mediaType":"application/vnd.docker.distribution.manifest.v1+json","config":{}}`: "",
		`{"schemaVersion":1}`:          "",
		`{"config":{},"manifests":[]}`: "",
		`<html>`:                       "",
		`{"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","manifests":[]}`: "application/vnd.docker.distribution.manifest.list.v2+json",
	} {
		w := mirrortest.NewWorld(t)
		w.Up.Set("v2/app/manifests/1", mirrortest.Answer{Data: []byte(body), Header: http.Header{"Content-Type": {"application/json"}}})
		a := do(t, "GET", start(t, w, mirror.Pass)+"/v2/app/manifests/1")
		if want == "" {
			a.wantError(t, 502, "UNAVAILABLE")
			continue
		}
		a.want(t, 200, "Content-Type", want)
		if string(a.body) != body {
			t.Errorf("%s became %s", body, a.body)
		}
	}
}

func TestPullUnverified(t *testing.T) {
	w := mirrortest.NewWorld(t)
	i := newImage(noise(1, 600_000))
	upstream := func(path string, data []byte, mediaType string) {
		w.Up.Set("v2/library/app/"+path, mirrortest.Answer{Data: data, Header: http.Header{"Content-Type": {mediaType}}})
	}
	upstream("manifests/1.0", i.manifest, manifestType)
	upstream("blobs/"+digest(i.config), i.config, "application/octet-stream")
	upstream("blobs/"+digest(i.layer), i.layer, "application/octet-stream")
	url := start(t, w, mirror.Pass) + "/v2/library/app"
	for range 2 {
		for path, want := range map[string][]byte{
			"/manifests/1.0": i.manifest, "/blobs/" + digest(i.config): i.config, "/blobs/" + digest(i.layer): i.layer,
		} {
			a := do(t, "GET", url+path)
			a.want(t, 200, "Pyrsia-Unverified", "upstream", "Docker-Content-Digest", digest(want), "Etag", `"`+digest(want)+`"`)
			if !bytes.Equal(a.body, want) || a.err != nil {
				t.Errorf("%s: %d bytes, %v", path, len(a.body), a.err)
			}
		}
	}
	if gets := w.Up.Gets(); len(gets) != 3 {
		t.Errorf("the upstream was asked for %q", gets)
	}
	if accept := strings.Join(w.Up.LastHeader()["Accept"], ","); slices.Contains(w.Up.Gets()[2:], "v2/library/app/manifests/1.0") && !strings.Contains(accept, manifestType) {
		t.Errorf("accept %q", accept)
	}
}

// TestWrongBytesNeverEnd: a client of a large blob has its headers when the
// upstream turns out to lie; it must not take the body for whole.
func TestWrongBytesNeverEnd(t *testing.T) {
	right, wrong := noise(1, 600_000), noise(2, 600_000)
	for name, bad := range map[string]mirrortest.Answer{
		"other bytes": {Data: wrong},
		"short":       {Data: right[:500_000], Length: 600_000},
		"long":        {Data: append(slices.Clone(right), 'x'), Length: 600_000},
		"breaks":      {Data: right[:500_000], Length: 600_000, Break: true},
	} {
		w := mirrortest.NewWorld(t)
		w.Up.Set("v2/app/blobs/"+digest(right), bad)
		url := start(t, w, mirror.Pass) + "/v2/app/blobs/" + digest(right)
		if a := do(t, "GET", url); a.StatusCode == 200 && a.err == nil {
			t.Errorf("%s: %d bytes were taken for whole", name, len(a.body))
		}
		if w.Puts() != 0 {
			t.Errorf("%s: stored", name)
		}
		w.Up.Set("v2/app/blobs/"+digest(right), mirrortest.Answer{Data: right})
		if a := do(t, "GET", url); a.err != nil || !bytes.Equal(a.body, right) {
			t.Errorf("%s: %d bytes, %v", name, len(a.body), a.err)
		}
	}
}

func TestPeersThatRunOut(t *testing.T) {
	w := mirrortest.NewWorld(t)
	data := noise(1, 600_000)
	w.PublishImageLayer(t, "app", data)
	w.Give(mirrortest.Peer{Data: data, Fail: 400_000})
	a := do(t, "GET", start(t, w, mirror.Refuse)+"/v2/app/blobs/"+digest(data))
	if a.err == nil || !bytes.Equal(a.body, data[:len(a.body)]) {
		t.Errorf("%d bytes, %v", len(a.body), a.err)
	}
}

func TestFiftyClients(t *testing.T) {
	w := mirrortest.NewWorld(t)
	data := noise(1, 2<<20)
	proceed := make(chan struct{})
	w.Up.Set("v2/app/blobs/"+digest(data), mirrortest.Answer{Data: data, Early: 1 << 20, Proceed: proceed})
	url := start(t, w, mirror.Pass) + "/v2/app/blobs/" + digest(data)
	var wait, begun sync.WaitGroup
	for range 50 {
		begun.Add(1)
		wait.Go(func() {
			begun.Done()
			response, err := http.Get(url)
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			if got, err := io.ReadAll(response.Body); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	begun.Wait()
	close(proceed)
	wait.Wait()
	if n := len(w.Up.Gets()); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

func TestNamespaces(t *testing.T) {
	w := mirrortest.NewWorld(t)
	i := newImage(noise(1, 10))
	w.PublishImage("app", "1", manifestType, i.manifest, i.layer)
	m := w.Start(t, mirror.Refuse)
	any := serve(t, oci.New(oci.Config{}, m))
	one := serve(t, oci.New(oci.Config{Namespaces: []string{"registry.example"}}, m))
	do(t, "GET", any+"/v2/app/manifests/1?ns=other.example").want(t, 200)
	do(t, "GET", one+"/v2/app/manifests/1").want(t, 200)
	do(t, "GET", one+"/v2/app/manifests/1?ns=registry.example").want(t, 200)
	do(t, "GET", one+"/v2/app/manifests/1?ns=other.example").wantError(t, 404, "MANIFEST_UNKNOWN")
	do(t, "GET", one+"/v2/app/blobs/"+digest(i.layer)+"?ns=other.example").want(t, 200)
}

func TestTags(t *testing.T) {
	w := mirrortest.NewWorld(t)
	i := newImage(noise(1, 10))
	for _, tag := range []string{"b", "a", "d"} {
		w.PublishImage("acme/app", tag, manifestType, i.manifest)
	}
	w.Up.Set("v2/acme/app/tags/list", mirrortest.Answer{Data: []byte(`{"name":"x","tags":["c","a","not a tag"]}`)})
	verified, both := start(t, w, mirror.Refuse), start(t, w, mirror.Pass)
	for _, test := range []struct{ url, query, want, link string }{
		{verified, "", "a b d", ""},
		{both, "", "a b c d", ""},
		{verified, "?n=2", "a b", `</v2/acme/app/tags/list?last=b&n=2>; rel="next"`},
		{verified, "?n=2&last=b", "d", ""},
		{verified, "?n=3", "a b d", ""},
		{verified, "?n=0", "", ""},
		{verified, "?last=c", "d", ""},
		{verified, "?last=z", "", ""},
	} {
		a := do(t, "GET", test.url+"/v2/acme/app/tags/list"+test.query)
		a.want(t, 200, "Content-Type", "application/json", "Pyrsia-Unverified", "computed", "Link", test.link)
		var list struct {
			Name string
			Tags []string
		}
		if err := json.Unmarshal(a.body, &list); err != nil || list.Name != "acme/app" || list.Tags == nil || strings.Join(list.Tags, " ") != test.want {
			t.Errorf("%q: %s, %v", test.query, a.body, err)
		}
	}
	do(t, "GET", verified+"/v2/acme/app/tags/list?n=-1").want(t, 400)
	do(t, "GET", both+"/v2/acme/none/tags/list").wantError(t, 404, "NAME_UNKNOWN")
}

func TestReferrers(t *testing.T) {
	url := start(t, mirrortest.NewWorld(t), mirror.Refuse) + "/v2/acme/app/referrers/"
	a := do(t, "GET", url+"sha256:"+strings.Repeat("0", 64)+"?artifactType=x")
	a.want(t, 200, "Content-Type", "application/vnd.oci.image.index.v1+json", "OCI-Filters-Applied", "artifactType")
	if want := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`; string(a.body) != want {
		t.Errorf("%s", a.body)
	}
	do(t, "GET", url+"sha256:0").wantError(t, 400, "DIGEST_INVALID")
	do(t, "GET", url+"latest").wantError(t, 400, "DIGEST_INVALID")
}

// readerFrom is a response that says what net/http is asked to send.
type readerFrom struct {
	*httptest.ResponseRecorder
	source io.Reader
}

func (r *readerFrom) ReadFrom(from io.Reader) (int64, error) {
	r.source = from
	return io.Copy(r.ResponseRecorder, from)
}

// TestHitsAreSentByTheKernel: net/http uses sendfile for an *os.File in an
// io.LimitedReader, and for nothing else that could come here.
func TestHitsAreSentByTheKernel(t *testing.T) {
	w := mirrortest.NewWorld(t)
	data := noise(1, 100_000)
	w.PublishImageLayer(t, "app", data)
	w.Keep(t, data)
	h := oci.New(oci.Config{}, w.Start(t, mirror.Refuse))
	for _, header := range []string{"", "bytes=10-99"} {
		r := httptest.NewRequest("GET", "/v2/app/blobs/"+digest(data), nil)
		r.Header.Set("Range", header)
		response := &readerFrom{ResponseRecorder: httptest.NewRecorder()}
		h.ServeHTTP(response, r)
		limited, ok := response.source.(*io.LimitedReader)
		if !ok {
			t.Fatalf("sent from a %T", response.source)
		}
		if _, ok := limited.R.(*os.File); !ok {
			t.Errorf("sent from a %T", limited.R)
		}
	}
}

func BenchmarkHit(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			w := mirrortest.NewWorld(b)
			data := noise(1, size)
			w.PublishImageLayer(b, "app", data)
			w.Keep(b, data)
			server := httptest.NewServer(oci.New(oci.Config{}, w.Start(b, mirror.Refuse)))
			defer server.Close()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				response, err := http.Get(server.URL + "/v2/app/blobs/" + digest(data))
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.Copy(io.Discard, response.Body)
				response.Body.Close()
				if n != int64(size) || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}
