package maven_test

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/mirror"
	"github.com/pyrsia/appliance/modules/mirror/mirrortest"
	"github.com/pyrsia/appliance/modules/registry/maven"
)

var tool = artifact.Maven{Group: "org.example", Artifact: "tool", Version: "1.0", Extension: "jar"}

func noise(seed int64, n int) []byte {
	data := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(data)
	return data
}

func start(t *testing.T, w *mirrortest.World, policy mirror.Policy) string {
	t.Helper()
	server := httptest.NewServer(maven.New(w.Start(t, policy)))
	t.Cleanup(server.Close)
	return server.URL + "/maven2/"
}

type answer struct {
	*http.Response
	body string
	err  error
}

func do(t *testing.T, method, url string, header ...string) answer {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
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
	if (response.Header.Get("Pyrsia-Verified") == "") == (response.Header.Get("Pyrsia-Unverified") == "") {
		t.Errorf("%s %s: %v", method, url, response.Header)
	}
	return answer{response, string(body), err}
}

func (a answer) want(t *testing.T, status int, header ...string) answer {
	t.Helper()
	if a.StatusCode != status {
		t.Errorf("%s: status %d, want %d: %.200s", a.Request.URL, a.StatusCode, status, a.body)
	}
	for i := 0; i < len(header); i += 2 {
		if got := a.Header.Get(header[i]); got != header[i+1] {
			t.Errorf("%s: %s: %q, want %q", a.Request.URL, header[i], got, header[i+1])
		}
	}
	return a
}

func (a answer) wantBody(t *testing.T, want string) {
	t.Helper()
	if a.err != nil || a.body != want {
		t.Errorf("%s: %d bytes, want %d; %v", a.Request.URL, len(a.body), len(want), a.err)
	}
}

func hexOf(sum []byte) string { return hex.EncodeToString(sum) }

// wantChecksums asks for every checksum file there is.
func wantChecksums(t *testing.T, url string, data []byte, header ...string) {
	t.Helper()
	one, five, twelve := sha1.Sum(data), md5.Sum(data), sha512.Sum512(data)
	for extension, want := range map[string]string{
		"sha1": hexOf(one[:]), "md5": hexOf(five[:]), "sha512": hexOf(twelve[:]),
		"sha256": mirrortest.Describe(data).SHA256.String(),
	} {
		a := do(t, "GET", url+"."+extension).want(t, 200, append(header, "Content-Type", "text/plain; charset=utf-8")...)
		a.wantBody(t, want)
		do(t, "HEAD", url+"."+extension).want(t, 200, "Content-Length", fmt.Sprint(len(want)))
	}
}

func TestVerifiedFile(t *testing.T) {
	data := noise(1, 100_000)
	sum, five := sha1.Sum(data), md5.Sum(data)
	for _, here := range []bool{true, false} {
		w := mirrortest.NewWorld(t)
		w.Publish(tool.Name(), "", data)
		if here {
			w.Keep(t, data)
		}
		url := start(t, w, mirror.Refuse) + tool.Path()
		header := []string{
			"Pyrsia-Verified", `block=57, leaf=1234, votes="3/4"`, "Content-Type", "application/java-archive",
			"Cache-Control", "public, max-age=3600", "Etag", `"` + mirrortest.Describe(data).SHA256.OCI() + `"`,
		}
		if here {
			header = append(header, "X-Checksum-Sha1", hexOf(sum[:]), "X-Checksum-Md5", hexOf(five[:]))
		}
		do(t, "HEAD", url).want(t, 200, append(header, "Content-Length", "100000")...)
		do(t, "GET", url).want(t, 200, header...).wantBody(t, string(data))
		do(t, "GET", url, "Range", "bytes=10-19").want(t, 206).wantBody(t, string(data[10:20]))
		do(t, "GET", url, "Range", "bytes=100000-").want(t, 416)
		do(t, "GET", url, "If-None-Match", header[7]).want(t, 304).wantBody(t, "")
		wantChecksums(t, url, data, header[:2]...)
		// Once hashed, even a file that streams has them sent along.
		do(t, "GET", url).want(t, 200, "X-Checksum-Sha1", hexOf(sum[:]))
	}
}

func TestChecksumOfAFileNobodyHas(t *testing.T) {
	w := mirrortest.NewWorld(t)
	data := noise(1, 1000)
	w.Vouch(tool.Name(), "", data)
	url := start(t, w, mirror.Refuse) + tool.Path()
	do(t, "GET", url+".sha256").want(t, 200).wantBody(t, mirrortest.Describe(data).SHA256.String())
	do(t, "GET", url+".sha1").want(t, 502)
	w.Give(mirrortest.Peer{Data: data})
	sum := sha1.Sum(data)
	do(t, "GET", url+".sha1").want(t, 200).wantBody(t, hexOf(sum[:])) // the failure was not kept
}

func TestUnverifiedFile(t *testing.T) {
	for _, size := range []int{0, 5000, 1 << 20} {
		w := mirrortest.NewWorld(t)
		data := noise(1, size)
		w.Up.Set(tool.Path(), mirrortest.Answer{Data: data, Header: http.Header{"Content-Type": {"text/plain"}}})
		w.Up.Set(tool.Path()+".asc", mirrortest.Answer{Data: []byte("signature")})
		url := start(t, w, mirror.Pass) + tool.Path()
		for range 2 {
			do(t, "GET", url).want(t, 200, "Pyrsia-Unverified", "upstream", "Content-Type", "application/java-archive",
				"Cache-Control", "public, max-age=60").wantBody(t, string(data))
		}
		sum := sha1.Sum(data)
		do(t, "GET", url).want(t, 200, "X-Checksum-Sha1", hexOf(sum[:]))
		wantChecksums(t, url, data, "Pyrsia-Unverified", "upstream")
		do(t, "GET", url+".asc").want(t, 200, "Content-Type", "text/plain; charset=utf-8").wantBody(t, "signature")
		wantChecksums(t, url+".asc", []byte("signature"), "Pyrsia-Unverified", "upstream")
		if gets := w.Up.Gets(); len(gets) != 2 {
			t.Errorf("the upstream was asked for %q", gets)
		}
	}
}

func TestChecksumComesFirst(t *testing.T) {
	w := mirrortest.NewWorld(t)
	data := noise(1, 1<<20)
	w.Up.Set(tool.Path(), mirrortest.Answer{Data: data})
	url := start(t, w, mirror.Pass) + tool.Path()
	wantChecksums(t, url, data)
	do(t, "GET", url).want(t, 200).wantBody(t, string(data))
	if gets := w.Up.Gets(); len(gets) != 1 {
		t.Errorf("the upstream was asked for %q", gets)
	}
}

func TestPagesAreNotServedAsPages(t *testing.T) {
	w := mirrortest.NewWorld(t)
	page := artifact.Maven{Group: "org.evil", Artifact: "x", Version: "1", Extension: "html"}
	w.Up.Set(page.Path(), mirrortest.Answer{Data: []byte("<script>"), Header: http.Header{"Content-Type": {"text/html"}}})
	do(t, "GET", start(t, w, mirror.Pass)+page.Path()).want(t, 200, "Content-Type", "application/octet-stream")
}

func TestRefusals(t *testing.T) {
	w := mirrortest.NewWorld(t)
	w.Vouch(artifact.Maven{Group: "org.example", Artifact: "lost", Version: "1", Extension: "jar"}.Name(), "", noise(1, 10))
	m := w.StartWith(t, mirror.Config{Rules: mirror.Rules{Deny: []string{"pkg:maven/org.evil/*"}}})
	server := httptest.NewServer(maven.New(m))
	defer server.Close()
	for _, test := range []struct {
		method, path string
		status       int
		says         string
	}{
		{"GET", "org/example/none/1/none-1.jar", 404, "pkg:maven/org.example/none@1#none-1.jar: not published on this network; policy refuse\n"},
		{"GET", "org/example/none/1/none-1.jar.sha1", 404, "policy refuse"},
		{"HEAD", "org/example/none/1/none-1.jar", 404, ""},
		{"GET", "org/example/none/maven-metadata.xml", 404, "not published on this network"},
		{"GET", "org/example/none/1-SNAPSHOT/none-1-SNAPSHOT.jar", 404, "snapshots are never published"},
		{"GET", "org/example/none/1-SNAPSHOT/maven-metadata.xml", 404, "snapshots are never published"},
		{"GET", "org/example/lost/1/lost-1.jar", 502, "published (block 57), but no honest source has it now\n"},
		{"GET", "org/evil/x/1/x-1.jar", 403, "denied"},
		{"GET", "org/evil/x/maven-metadata.xml", 403, "denied"},
		{"GET", "", 404, "no such path"},
		{"GET", "org/example/", 404, "no such path"},
		{"GET", "org/example/none/1/other-1.jar", 404, "no such path"},
		{"GET", "org/../../etc/passwd", 404, "no such path"},
		{"GET", "a/b/c/d/%2e%2e/d-1.jar", 404, "no such path"},
		{"GET", "a/b/c%5cd/c-1.jar", 404, "no such path"},
		{"GET", "maven-metadata.xml", 404, "no such path"},
		{"GET", "archetype-catalog.xml", 404, "no such path"},
		{"GET", strings.Repeat("a/", 600) + "a-1.jar", 404, "no such path"},
		{"PUT", "org/example/none/1/none-1.jar", 405, "builds packages from source"},
		{"DELETE", "", 405, "builds packages"},
	} {
		begin := time.Now()
		a := do(t, test.method, server.URL+"/maven2/"+test.path).want(t, test.status, "Pyrsia-Unverified", "computed", "Content-Type", "text/plain; charset=utf-8")
		if !strings.Contains(a.body, test.says) {
			t.Errorf("%s: %q, want %q", test.path, a.body, test.says)
		}
		if took := time.Since(begin); took > 100*time.Millisecond {
			t.Errorf("%s took %s", test.path, took)
		}
	}
}

func TestUpstreamFailures(t *testing.T) {
	for status, want := range map[int]int{404: 404, 410: 404, 500: 502, 429: 429, 401: 502} {
		w := mirrortest.NewWorld(t)
		w.Up.Set(tool.Path(), mirrortest.Answer{Status: status})
		do(t, "GET", start(t, w, mirror.Pass)+tool.Path()).want(t, want)
	}
}

func TestSnapshotsPass(t *testing.T) {
	w := mirrortest.NewWorld(t)
	path := "org/example/tool/1-SNAPSHOT/tool-1-20260102.030405-1.jar"
	w.Up.Set(path, mirrortest.Answer{Data: []byte("one")})
	listing := "org/example/tool/1-SNAPSHOT/maven-metadata.xml"
	w.Up.Set(listing, mirrortest.Answer{Data: []byte("<metadata/>")})
	url := start(t, w, mirror.Pass)
	do(t, "GET", url+path).want(t, 200, "Pyrsia-Unverified", "upstream").wantBody(t, "one")
	do(t, "GET", url+listing).want(t, 200, "Pyrsia-Unverified", "upstream").wantBody(t, "<metadata/>")
	if w.Puts() != 0 {
		t.Error("a snapshot is kept")
	}
}

const theirs = `<?xml version="1.0" encoding="UTF-8"?>
<metadata>
  <groupId>org.example</groupId>
  <artifactId>tool</artifactId>
  <versioning>
    <latest>0.9</latest>
    <release>0.9</release>
    <versions>
      <version>0.8</version>
      <version>0.9</version>
    </versions>
    <lastUpdated>20260102030405</lastUpdated>
  </versioning>
</metadata>
`

const merged = `<?xml version="1.0" encoding="UTF-8"?>
<metadata>
  <groupId>org.example</groupId>
  <artifactId>tool</artifactId>
  <versioning>
    <latest>1.10</latest>
    <release>1.10</release>
    <versions>
      <version>0.8</version>
      <version>0.9</version>
      <version>1.2</version>
      <version>1.10</version>
    </versions>
    <lastUpdated>20260102030405</lastUpdated>
  </versioning>
</metadata>
`

const ours = `<?xml version="1.0" encoding="UTF-8"?>
<metadata>
  <groupId>org.example</groupId>
  <artifactId>tool</artifactId>
  <versioning>
    <latest>1.10</latest>
    <release>1.10</release>
    <versions>
      <version>1.2</version>
      <version>1.10</version>
    </versions>
  </versioning>
</metadata>
`

func TestMetadata(t *testing.T) {
	const path = "org/example/tool/maven-metadata.xml"
	for name, test := range map[string]struct {
		published bool
		upstream  mirrortest.Answer
		policy    mirror.Policy
		want      string
		mark      string
	}{
		"ours":               {true, mirrortest.Answer{Data: []byte(theirs)}, mirror.Refuse, ours, "computed"},
		"merged":             {true, mirrortest.Answer{Data: []byte(theirs)}, mirror.Pass, merged, "computed"},
		"theirs":             {false, mirrortest.Answer{Data: []byte(theirs)}, mirror.Pass, theirs, "upstream"},
		"upstream fails":     {true, mirrortest.Answer{Status: 500}, mirror.Pass, ours, "computed"},
		"upstream is broken": {true, mirrortest.Answer{Data: []byte("<metadata><versioning>")}, mirror.Pass, ours, "computed"},
	} {
		t.Run(name, func(t *testing.T) {
			w := mirrortest.NewWorld(t)
			if test.published {
				for _, version := range []string{"1.10", "1.2"} {
					one := artifact.Maven{Group: "org.example", Artifact: "tool", Version: version, Extension: "jar"}
					w.Publish(one.Name(), "", []byte(version))
				}
			}
			w.Up.Set(path, test.upstream)
			url := start(t, w, test.policy) + path
			sum := sha1.Sum([]byte(test.want))
			a := do(t, "GET", url).want(t, 200, "Pyrsia-Unverified", test.mark, "Cache-Control", "no-cache",
				"Content-Type", "application/xml", "X-Checksum-Sha1", hexOf(sum[:]))
			if a.body != test.want {
				t.Errorf("%s", a.body)
			}
			wantChecksums(t, url, []byte(test.want), "Pyrsia-Unverified", test.mark)
		})
	}
}

func TestGroupMetadataPasses(t *testing.T) {
	w := mirrortest.NewWorld(t)
	listing := `<metadata><plugins><plugin><prefix>x</prefix><artifactId>x-maven-plugin</artifactId></plugin></plugins></metadata>`
	w.Up.Set("plugins/maven-metadata.xml", mirrortest.Answer{Data: []byte(listing)})
	do(t, "GET", start(t, w, mirror.Pass)+"plugins/maven-metadata.xml").want(t, 200).wantBody(t, listing)
}

func TestManyClientsOneHash(t *testing.T) {
	w := mirrortest.NewWorld(t)
	data := noise(1, 1<<20)
	proceed := make(chan struct{})
	w.Up.Set(tool.Path(), mirrortest.Answer{Data: data, Early: 1000, Proceed: proceed})
	url := start(t, w, mirror.Pass) + tool.Path()
	sum := sha1.Sum(data)
	var wait, begun sync.WaitGroup
	for range 50 {
		begun.Add(1)
		wait.Go(func() {
			begun.Done()
			response, err := http.Get(url + ".sha1")
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			if body, err := io.ReadAll(response.Body); err != nil || string(body) != hexOf(sum[:]) {
				t.Errorf("%q, %v", body, err)
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

func TestHitsAreSentByTheKernel(t *testing.T) {
	w := mirrortest.NewWorld(t)
	data := noise(1, 100_000)
	w.Publish(tool.Name(), "", data)
	w.Keep(t, data)
	response := &readerFrom{ResponseRecorder: httptest.NewRecorder()}
	maven.New(w.Start(t, mirror.Refuse)).ServeHTTP(response, httptest.NewRequest("GET", "/maven2/"+tool.Path(), nil))
	limited, ok := response.source.(*io.LimitedReader)
	if !ok {
		t.Fatalf("sent from a %T", response.source)
	}
	if _, ok := limited.R.(*os.File); !ok {
		t.Errorf("sent from a %T", limited.R)
	}
	if !bytes.Equal(response.Body.Bytes(), data) {
		t.Error("other bytes: hashing moved the file")
	}
}

type readerFrom struct {
	*httptest.ResponseRecorder
	source io.Reader
}

func (r *readerFrom) ReadFrom(from io.Reader) (int64, error) {
	r.source = from
	return io.Copy(r.ResponseRecorder, from)
}

// requests notes what a client asks for.
type requests struct {
	mu    sync.Mutex
	paths []string
}

func (l *requests) start(t *testing.T, w *mirrortest.World, policy mirror.Policy) string {
	t.Helper()
	handler := maven.New(w.Start(t, policy))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		l.paths = append(l.paths, r.URL.Path)
		l.mu.Unlock()
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/maven2/"
}

func (l *requests) ending(suffixes ...string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for _, path := range l.paths {
		for _, suffix := range suffixes {
			if strings.HasSuffix(path, suffix) {
				found = append(found, path)
			}
		}
	}
	return found
}
