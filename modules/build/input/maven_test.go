package input

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/record"
)

const (
	pluginJar = "org/apache/maven/plugins/maven-jar-plugin/3.4.2/maven-jar-plugin-3.4.2.jar"
	pluginPom = "org/apache/maven/plugins/maven-jar-plugin/3.4.2/maven-jar-plugin-3.4.2.pom"
	parentPom = "org/codehaus/plexus/plexus/18/plexus-18.pom"
	sourceZip = "org/acme/thing/1.0/thing-1.0-source-release.zip"
	absentJar = "org/acme/absent/1.0/absent-1.0.jar"
	metadata  = "org/acme/ranged/maven-metadata.xml"
	snapshot  = "org/acme/thing/1.1-SNAPSHOT/thing-1.1-SNAPSHOT.jar"
)

// mavenWorld is a world in which a Maven recipe resolves.
func mavenWorld(t testing.TB) (*world, *record.Recipe, *askingEngine) {
	w := newWorld(t)
	w.both(pluginJar, "the jar plugin")
	w.both(pluginPom, "the jar plugin's pom")
	w.both(parentPom, "the parent")
	w.both(sourceZip, "the source")
	recipe := &record.Recipe{
		Package:  "pkg:maven/org.acme/thing@1.0",
		Platform: "linux/amd64",
		Sources:  []record.Source{{Maven: "org.acme:thing:1.0:source-release:zip", SHA256: digestOf("the source")}},
		Commands: []string{"mvn package"},
		Resolve:  "maven",
	}
	return w, recipe, &askingEngine{
		ask:  []string{absentJar, pluginPom + ".sha1", pluginPom},
		need: []string{parentPom, pluginPom, pluginJar},
	}
}

func resolve(t testing.TB, n *node, recipe *record.Recipe, engine build.Engine) *record.Lock {
	t.Helper()
	lock, err := n.keeper.Resolve(t.Context(), recipe, engine, build.Job{ID: "1", Folder: t.TempDir(), Log: io.Discard}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return lock
}

func TestResolveLocksWhatWasAskedForAndFound(t *testing.T) {
	w, recipe, engine := mavenWorld(t)
	lock := resolve(t, w.asker, recipe, engine)
	want := []record.LockEntry{
		{Kind: "maven", Path: pluginJar, Proof: record.ProofUpstream, File: describe("the jar plugin")},
		{Kind: "maven", Path: pluginPom, Proof: record.ProofUpstream, File: describe("the jar plugin's pom")},
		{Kind: "maven", Path: parentPom, Proof: record.ProofUpstream, File: describe("the parent")},
		{Kind: "source", Path: sourceZip, Proof: record.ProofSource, File: describe("the source")},
	}
	if got := string(record.MustMarshal(lock)); got != string(record.MustMarshal(lockOf(recipe, want...))) {
		t.Errorf("lock %s", got)
	}
	again := resolve(t, w.voter, recipe, engine)
	if !bytes.Equal(record.MustMarshal(lock), record.MustMarshal(again)) {
		t.Errorf("another node resolves to another lock:\n%s\n%s", record.MustMarshal(lock), record.MustMarshal(again))
	}
	if n := w.asker.maven.count(pluginPom); n != 1 {
		t.Errorf("%s fetched %d times, want once", pluginPom, n)
	}
}

func TestResolveReports(t *testing.T) {
	w, recipe, engine := mavenWorld(t)
	var last Progress
	lock, err := w.asker.keeper.Resolve(t.Context(), recipe, engine, jobFor(t), func(p Progress) { last = p })
	if err != nil {
		t.Fatal(err)
	}
	size := int64(0)
	for _, e := range lock.Entries {
		size += e.File.Size
	}
	if want := (Progress{Files: 4, FilesDone: 4, Bytes: size, BytesDone: size}); last != want {
		t.Errorf("progress %+v, want %+v", last, want)
	}
}

// A build cannot write lines of its own into the log.
func TestMirrorQuotesPaths(t *testing.T) {
	w, _, _ := mavenWorld(t)
	mirror, err := w.asker.keeper.Mirror(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	request := httptest.NewRequest("GET", "/", nil)
	request.URL.Path = "/a\nresolved: all is well" + strings.Repeat("x", 5000)
	mirror.ServeHTTP(httptest.NewRecorder(), request)
	trouble := mirror.Trouble()
	if len(trouble) != 1 || strings.Contains(trouble[0], "\n") || len(trouble[0]) > 400 {
		t.Errorf("trouble %q", trouble)
	}
	for i := range 2 * maxNotes {
		mirror.note(fmt.Sprintf("a/b/1/b-%d.jar", i), errNotFound)
	}
	if n := len(mirror.Trouble()); n != maxNotes {
		t.Errorf("%d notes, want at most %d", n, maxNotes)
	}
}

// TestHoldTooMuch: a lock whose files are not all at hand at once is not held, though each
// was got.
func TestHoldTooMuch(t *testing.T) {
	w, recipe, engine := mavenWorld(t)
	lock := resolve(t, w.asker, recipe, engine)
	w.voter.store.room = 2
	err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil)
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrPoisoned) || !strings.Contains(err.Error(), "too little room") {
		t.Errorf("%d files in a store for two: %v", len(lock.Entries), err)
	}
	w.voter.store.room = 0
	if err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil); err != nil {
		t.Errorf("with room: %v", err)
	}
}

func TestHold(t *testing.T) {
	w, recipe, engine := mavenWorld(t)
	lock := resolve(t, w.asker, recipe, engine)
	var last Progress
	if err := w.voter.keeper.Hold(t.Context(), recipe, lock, func(p Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	for _, e := range lock.Entries {
		if d, found := w.voter.store.Stat(e.File.SHA256); !found || d != e.File {
			t.Errorf("%s is not in the store", e.Path)
		}
	}
	size := int64(0)
	for _, e := range lock.Entries {
		size += e.File.Size
	}
	if want := (Progress{Files: 4, FilesDone: 4, Bytes: size, BytesDone: size}); last != want {
		t.Errorf("progress %+v, want %+v", last, want)
	}
	if len(w.voter.peer.asked) != 0 {
		t.Errorf("peers were asked for %v", w.voter.peer.asked)
	}
	before := w.voter.maven.total()
	w.voter.open(t)
	if err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil); err != nil {
		t.Fatal(err)
	}
	if after := w.voter.maven.total(); after != before {
		t.Errorf("after a restart %d files were fetched again", after-before)
	}
}

// The asker proved everything while it resolved.
func TestHoldAfterResolveFetchesNothing(t *testing.T) {
	w, recipe, engine := mavenWorld(t)
	lock := resolve(t, w.asker, recipe, engine)
	before := w.asker.maven.total()
	if err := w.asker.keeper.Hold(t.Context(), recipe, lock, nil); err != nil {
		t.Fatal(err)
	}
	if after := w.asker.maven.total(); after != before {
		t.Errorf("%d files were fetched again", after-before)
	}
}

// What a peer gave is no proof, even if it is exactly what the lock says.
func TestHoldTrustsNoPeersFile(t *testing.T) {
	w, recipe, engine := mavenWorld(t)
	w.asker.maven.set(pluginJar, "an evil plugin")
	lock := resolve(t, w.asker, recipe, engine)
	w.voter.store.put(t, "an evil plugin")
	err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil)
	wantPoisoned(t, err, pluginJar)
	for _, part := range []string{digestOf("an evil plugin").String(), digestOf("the jar plugin").String(), "no vote"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
	if _, found := w.voter.store.Stat(digestOf("the jar plugin")); found {
		t.Error("the store kept what the lock does not name")
	}
	w.voter.maven.remove(pluginJar)
	wantUnavailable(t, w.voter.keeper.Hold(t.Context(), recipe, lock, nil), pluginJar)
}

func TestHoldRefusesAlteredUpstreams(t *testing.T) {
	for name, path := range map[string]string{"plugin jar": pluginJar, "parent pom": parentPom} {
		for how, content := range map[string]string{"other": "something", "short": "the", "long": "the parent, the jar plugin and much more", "empty": ""} {
			t.Run(name+" "+how, func(t *testing.T) {
				w, recipe, engine := mavenWorld(t)
				lock := resolve(t, w.asker, recipe, engine)
				w.voter.maven.set(path, content)
				wantPoisoned(t, w.voter.keeper.Hold(t.Context(), recipe, lock, nil), path)
			})
		}
	}
}

func TestHoldRefusesLocks(t *testing.T) {
	entry := func(kind, path string, proof record.ProofKind, content string) record.LockEntry {
		return record.LockEntry{Kind: kind, Path: path, Proof: proof, File: describe(content)}
	}
	for name, c := range map[string]struct {
		alter func(l *record.Lock)
		named string
	}{
		"another recipe": {func(l *record.Lock) { l.Recipe[0]++ }, "lock: it is for recipe"},
		"a builder too many": {func(l *record.Lock) {
			l.Builder = append(l.Builder, describe("x"))
		}, "builder"},
		"a file twice": {func(l *record.Lock) { l.Entries = append(l.Entries, l.Entries[len(l.Entries)-1]) }, sourceZip},
		"unsorted":     {func(l *record.Lock) { l.Entries[0], l.Entries[1] = l.Entries[1], l.Entries[0] }, pluginJar},
		"a path that leaves": {func(l *record.Lock) {
			l.Entries[0].Path = "../../etc/passwd"
		}, "../../etc/passwd"},
		"a path with a backslash": {func(l *record.Lock) { l.Entries[0].Path = `a\b` }, `a\\b`},
		"a snapshot":              {func(l *record.Lock) { l.Entries[0].Path = snapshot; l.Sort() }, snapshot},
		"metadata":                {func(l *record.Lock) { l.Entries[0].Path = metadata; l.Sort() }, metadata},
		"a checksum":              {func(l *record.Lock) { l.Entries[0].Path += ".sha1" }, ".sha1"},
		"a huge file":             {func(l *record.Lock) { l.Entries[0].File.Size = 1 << 40 }, pluginJar},
		"a negative size":         {func(l *record.Lock) { l.Entries[0].File.Size = -1 }, pluginJar},
		"too many files":          {func(l *record.Lock) { l.Entries = make([]record.LockEntry, maxEntries+1) }, "20001 files"},
		"too many bytes": {func(l *record.Lock) {
			for i := range 40 {
				e := entry("maven", fmt.Sprintf("a/b/%02d/b-%02d.jar", i, i), record.ProofUpstream, "x")
				e.File.Size = maxFile
				l.Entries = append(l.Entries, e)
			}
			l.Sort()
		}, "a/b/"},
		"an unknown kind": {func(l *record.Lock) { l.Entries[0].Kind = "git" }, "git"},
		"a wrong proof":   {func(l *record.Lock) { l.Entries[0].Proof = record.ProofSource }, pluginJar},
		"a derived file":  {func(l *record.Lock) { l.Entries[0].Proof = record.ProofDerived }, pluginJar},
		"no source":       {func(l *record.Lock) { l.Entries = l.Entries[:3] }, sourceZip},
		"another source":  {func(l *record.Lock) { l.Entries[3].Path = "org/acme/other/1.0/other-1.0.zip" }, "other-1.0.zip"},
		"another source digest": {func(l *record.Lock) {
			l.Entries[3].File = describe("evil")
		}, sourceZip},
		"a .deb without Debian": {func(l *record.Lock) {
			l.Entries = append(l.Entries, entry("debian", "pool/x.deb", record.ProofDebian, "x"))
			l.Sort()
		}, "pool/x.deb"},
		"an image without builder": {func(l *record.Lock) {
			l.Entries = append(l.Entries, entry("image", "sha256:00", record.ProofChain, "x"))
			l.Sort()
		}, "sha256:00"},
		"a made-up BLAKE3":          {func(l *record.Lock) { l.Entries[0].File.BLAKE3[0]++ }, pluginJar},
		"a made-up size":            {func(l *record.Lock) { l.Entries[0].File.Size++ }, pluginJar},
		"a source's made-up BLAKE3": {func(l *record.Lock) { l.Entries[3].File.BLAKE3[0]++ }, sourceZip},
		"a claim on the chain":      {func(l *record.Lock) { l.Entries[0].Proof = record.ProofChain }, pluginJar},
	} {
		t.Run(name, func(t *testing.T) {
			w, recipe, engine := mavenWorld(t)
			lock := resolve(t, w.asker, recipe, engine)
			c.alter(lock)
			wantPoisoned(t, w.voter.keeper.Hold(t.Context(), recipe, lock, nil), c.named)
		})
	}
}

func TestHoldUpstreamFaults(t *testing.T) {
	content := "the jar plugin"
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		check  func(testing.TB, error, string)
		good   bool // after the first answer
	}{
		"down":      {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", 503) }, wantUnavailable, false},
		"gone":      {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", 410) }, wantUnavailable, false},
		"forbidden": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", 403) }, wantUnavailable, false},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			_, _ = io.WriteString(w, content[:5])
			panic(http.ErrAbortHandler)
		}, wantUnavailable, false},
		"cut off chunked": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, content[:5])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, wantUnavailable, false},
		"endless": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, content); err != nil {
					return
				}
			}
		}, wantPoisoned, false},
		"redirect loop":      {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, 302) }, wantUnavailable, false},
		"an error page":      {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>please log in</html>") }, wantPoisoned, false},
		"down, then up":      {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", 502) }, nil, true},
		"once an error page": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "busy") }, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			w, recipe, engine := mavenWorld(t)
			lock := resolve(t, w.asker, recipe, engine)
			var calls atomic.Int32
			w.voter.maven.answer(pluginJar, func(rw http.ResponseWriter, r *http.Request) {
				if n := calls.Add(1); c.good && n > 1 {
					_, _ = io.WriteString(rw, content)
					return
				}
				c.answer(rw, r)
			})
			err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil)
			if c.good {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			c.check(t, err, pluginJar)
			// What could be got stays proven, so that the next attempt asks for
			// the one file alone.
			if name == "down" {
				w.voter.maven.answer(pluginJar, nil)
				before := w.voter.maven.total()
				if err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil); err != nil {
					t.Fatal(err)
				}
				if n := w.voter.maven.total() - before; n != 1 {
					t.Errorf("second attempt made %d requests, want 1", n)
				}
			}
		})
	}
}

func TestHoldFollowsRedirects(t *testing.T) {
	w, recipe, engine := mavenWorld(t)
	lock := resolve(t, w.asker, recipe, engine)
	w.voter.maven.set("elsewhere", "the jar plugin")
	w.voter.maven.answer(pluginJar, func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, "/repo/elsewhere", http.StatusFound)
	})
	if err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil); err != nil {
		t.Fatal(err)
	}
}

func TestNoRedirectToPlainHTTP(t *testing.T) {
	next := httptest.NewRequest("GET", "http://a.example/x", nil)
	via := []*http.Request{httptest.NewRequest("GET", "https://a.example/x", nil)}
	if err := checkRedirect(next, via); err == nil {
		t.Error("a redirect from https to http was followed")
	}
}

func TestHoldStalledUpstream(t *testing.T) {
	w, recipe, engine := mavenWorld(t)
	lock := resolve(t, w.asker, recipe, engine)
	w.voter.config.Stall = 50e6
	w.voter.open(t)
	w.voter.maven.answer(pluginJar, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Length", "14")
		_, _ = io.WriteString(rw, "the")
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
	})
	err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil)
	wantUnavailable(t, err, pluginJar)
	if !strings.Contains(err.Error(), "sent nothing") {
		t.Errorf("error %q does not say that the upstream stalled", err)
	}
}

func TestHoldEndsWithItsContext(t *testing.T) {
	w, recipe, engine := mavenWorld(t)
	lock := resolve(t, w.asker, recipe, engine)
	ctx, cancel := context.WithCancel(t.Context())
	w.voter.maven.answer(pluginJar, func(rw http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	err := w.voter.keeper.Hold(ctx, recipe, lock, nil)
	if err == nil || errors.Is(err, ErrPoisoned) {
		t.Errorf("error %v, want one that may pass", err)
	}
}

func TestSourceFallsBackToPeers(t *testing.T) {
	w, recipe, engine := mavenWorld(t)
	lock := resolve(t, w.asker, recipe, engine)
	w.voter.maven.remove(sourceZip)
	if err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil); err != nil {
		t.Fatal(err)
	}
	if len(w.voter.peer.asked) != 1 {
		t.Errorf("peers were asked for %v", w.voter.peer.asked)
	}
}

func TestResolveRefusesWrongSource(t *testing.T) {
	w, recipe, engine := mavenWorld(t)
	w.asker.maven.set(sourceZip, "another source")
	_, err := w.asker.keeper.Resolve(t.Context(), recipe, engine, build.Job{Log: io.Discard}, nil)
	wantPoisoned(t, err, sourceZip)
	if len(engine.jobs) != 0 {
		t.Error("the build ran all the same")
	}
	if _, found := w.asker.store.Stat(sha256.Sum256([]byte("another source"))); found {
		t.Error("what was refused is in the store")
	}
}

func TestResolveURLSource(t *testing.T) {
	w, recipe, engine := mavenWorld(t)
	w.both("files/thing.tar.gz", "by address")
	recipe.Sources = []record.Source{{URL: w.asker.maven.URL + "/repo/files/thing.tar.gz", SHA256: digestOf("by address")}}
	lock := resolve(t, w.asker, recipe, engine)
	want := digestOf("by address").String() + "/thing.tar.gz"
	if e := entriesOf(lock, kindSource); len(e) != 1 || e[0].Path != want {
		t.Errorf("source entries %v, want one at %s", e, want)
	}
	if err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil); err != nil {
		t.Fatal(err)
	}
}

func TestResolveExplainsFailure(t *testing.T) {
	for name, c := range map[string]struct {
		need, says string
		break_     func(*world)
		kind       error
	}{
		"version range": {need: metadata, says: metadata + ": a version range"},
		"snapshot":      {need: snapshot, says: snapshot + ": snapshots change"},
		"upstream fails": {need: pluginJar, says: pluginJar, kind: ErrUnavailable, break_: func(w *world) {
			w.asker.maven.answer(pluginJar, func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "", 500) })
		}},
		"not there": {need: absentJar, says: absentJar, kind: build.ErrFailed},
	} {
		t.Run(name, func(t *testing.T) {
			w, recipe, engine := mavenWorld(t)
			engine.need = append(engine.need, c.need)
			if c.break_ != nil {
				c.break_(w)
			}
			var log bytes.Buffer
			_, err := w.asker.keeper.Resolve(t.Context(), recipe, engine, build.Job{Log: &log}, nil)
			if err == nil || !strings.Contains(err.Error(), c.says) || c.kind != nil && !errors.Is(err, c.kind) {
				t.Errorf("error %v, want %q", err, c.says)
			}
			if !strings.Contains(log.String(), c.need) {
				t.Errorf("log %q does not name %s", log.String(), c.need)
			}
		})
	}
}

// Metadata that a build can do without is no reason to fail.
func TestResolveToleratesUnneededMetadata(t *testing.T) {
	w, recipe, engine := mavenWorld(t)
	engine.ask = append(engine.ask, metadata, snapshot)
	lock := resolve(t, w.asker, recipe, engine)
	if n := len(lock.Entries); n != 4 {
		t.Errorf("%d entries, want 4", n)
	}
}

func TestResolvePrefersTheChain(t *testing.T) {
	w, recipe, engine := mavenWorld(t)
	w.asker.store.put(t, "built from source")
	w.chain.vouched[artifact.Name{Package: "pkg:maven/org.codehaus.plexus/plexus@18", File: "plexus-18.pom"}] = describe("built from source")
	lock := resolve(t, w.asker, recipe, engine)
	if e := lock.Entries[2]; e.Path != parentPom || e.Proof != record.ProofChain || e.File != describe("built from source") {
		t.Errorf("entry %+v, want the chain's file", e)
	}
	if err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil); err != nil {
		t.Fatal(err)
	}
	delete(w.chain.vouched, artifact.Name{Package: "pkg:maven/org.codehaus.plexus/plexus@18", File: "plexus-18.pom"})
	wantPoisoned(t, w.voter.keeper.Hold(t.Context(), recipe, lock, nil), parentPom)
}

func TestMirror(t *testing.T) {
	w, _, _ := mavenWorld(t)
	mirror, err := w.asker.keeper.Mirror(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	do := func(method, target string) *httptest.ResponseRecorder {
		recorder := httptest.NewRecorder()
		request := httptest.NewRequest(method, "/", nil)
		request.URL.Path = target
		mirror.ServeHTTP(recorder, request)
		return recorder
	}
	for _, c := range []struct {
		method, path string
		code         int
		body         string
	}{
		{"GET", "/" + pluginJar, 200, "the jar plugin"},
		{"HEAD", "/" + pluginJar, 200, ""},
		{"GET", "/" + pluginJar + ".sha1", 200, "8a6d6e0a"},
		{"GET", "/" + absentJar, 404, ""},
		{"GET", "/" + absentJar + ".sha1", 404, ""},
		{"HEAD", "/" + parentPom, 200, ""},
		{"PUT", "/" + pluginJar, 405, ""},
		{"POST", "/", 405, ""},
		{"GET", "/", 404, ""},
		{"GET", "/" + metadata, 404, "version"},
		{"GET", "/" + snapshot, 404, "snapshots"},
		{"GET", "/../" + pluginJar, 404, ""},
		{"GET", "//" + pluginJar, 404, ""},
		{"GET", "/org/../" + pluginJar, 404, ""},
		{"GET", "/org/acme/thing/1.0/thing-1.0.jar\x00", 404, ""},
		{"GET", "/org/acme/thing/1.0/..", 404, ""},
		{"GET", "/archetype-catalog.xml", 404, ""},
	} {
		got := do(c.method, c.path)
		if got.Code != c.code {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, got.Code, c.code)
		}
		if c.code == 200 && c.method == "GET" && !strings.HasSuffix(c.path, ".sha1") && got.Body.String() != c.body {
			t.Errorf("%s %s: body %q, want %q", c.method, c.path, got.Body, c.body)
		}
	}
	if n := w.asker.maven.count(absentJar); n != 1 {
		t.Errorf("the upstream was asked %d times for a file that it does not have, want once", n)
	}
	if e := mirror.Entries(); len(e) != 1 || e[0].Path != pluginJar {
		t.Errorf("entries %v, want only what was got", e)
	}
}

func TestMirrorFetchesOnce(t *testing.T) {
	w, _, _ := mavenWorld(t)
	mirror, err := w.asker.keeper.Mirror(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(mirror)
	defer server.Close()
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() {
			response, err := server.Client().Get(server.URL + "/" + pluginJar)
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			if body, err := io.ReadAll(response.Body); err != nil || string(body) != "the jar plugin" {
				t.Errorf("body %q, %v", body, err)
			}
		})
	}
	clients.Wait()
	if n := w.asker.maven.count(pluginJar); n != 1 {
		t.Errorf("fetched %d times, want once", n)
	}
}

// A failure that passes is not remembered.
func TestMirrorTriesAgain(t *testing.T) {
	w, _, _ := mavenWorld(t)
	mirror, err := w.asker.keeper.Mirror(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	get := func() int {
		recorder := httptest.NewRecorder()
		mirror.ServeHTTP(recorder, httptest.NewRequest("GET", "/"+pluginJar, nil))
		return recorder.Code
	}
	w.asker.maven.answer(pluginJar, func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "", 500) })
	if code := get(); code != http.StatusBadGateway {
		t.Errorf("upstream down: %d, want 502", code)
	}
	w.asker.maven.answer(pluginJar, nil)
	if code := get(); code != http.StatusOK {
		t.Errorf("upstream up again: %d, want 200", code)
	}
	if trouble := mirror.Trouble(); len(trouble) != 0 {
		t.Errorf("trouble %v after all", trouble)
	}
}

func TestProvenRecordSurvivesCrashes(t *testing.T) {
	folder := t.TempDir()
	e1 := record.LockEntry{Kind: "maven", Path: "a", Proof: record.ProofUpstream, File: describe("1")}
	e2 := record.LockEntry{Kind: "maven", Path: "b", Proof: record.ProofUpstream, File: describe("2")}
	p, err := openProven(durable.OS(true), folder)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.add(e1), p.add(e1), p.close()); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(folder, provenFile)
	whole, err := os.ReadFile(name)
	if err != nil || len(whole) != 32 {
		t.Fatalf("%d bytes, %v", len(whole), err)
	}
	for torn := range 32 {
		if err := os.WriteFile(name, append(bytes.Clone(whole), make([]byte, torn)...), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := openProven(durable.OS(true), folder)
		if err != nil {
			t.Fatal(err)
		}
		if !p.has(e1) || p.has(e2) {
			t.Errorf("%d torn bytes: has %v %v", torn, p.has(e1), p.has(e2))
		}
		if err := errors.Join(p.add(e2), p.close()); err != nil {
			t.Fatal(err)
		}
		p, err = openProven(durable.OS(true), folder)
		if err != nil || !p.has(e1) || !p.has(e2) {
			t.Errorf("%d torn bytes: lost a key (%v)", torn, err)
		}
		if err := p.close(); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzClassify(f *testing.F) {
	for _, p := range []string{pluginJar, pluginPom + ".sha1", metadata, snapshot, "..", "", "a/b/1/b-1.jar"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		class := classify(p)
		if class == releaseFile {
			name, err := artifact.MavenFolderName(p)
			if err != nil || artifact.MavenPath(name) != p {
				t.Errorf("%q: %v, %q", p, err, artifact.MavenPath(name))
			}
		}
		_ = whyNot(p)
	})
}
