package input

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/record"
)

// The tests of this file use the upstreams that this machine's own tools are
// configured with, and fetch some 300 MB. They run where PYRSIA_LIVE=1.

func liveOnly(t *testing.T) {
	if os.Getenv("PYRSIA_LIVE") != "1" {
		t.Skip("uses the network; set PYRSIA_LIVE=1")
	}
}

func liveDebian(t *testing.T) string {
	for _, name := range []string{"/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"} {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if m := regexp.MustCompile(`(?m)^(?:URIs:|deb(?: \[[^\]]*\])?) *(https?://\S+)`).FindSubmatch(text); m != nil {
			return string(m[1])
		}
	}
	t.Skip("apt has no source")
	return ""
}

// liveMaven is the repository of Maven's super POM.
func liveMaven(t *testing.T) string {
	jars, _ := filepath.Glob("/usr/share/maven/lib/maven-model-builder*.jar")
	for _, jar := range jars {
		archive, err := zip.OpenReader(jar)
		if err != nil {
			t.Fatal(err)
		}
		defer archive.Close()
		f, err := archive.Open("org/apache/maven/model/pom-4.0.0.xml")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		if m := regexp.MustCompile(`<url>(https?://[^<]+)</url>`).FindSubmatch(text); m != nil {
			return string(m[1])
		}
	}
	t.Skip("Maven is not installed")
	return ""
}

func liveWorld(t *testing.T) *world {
	w := newWorld(t)
	keyrings, _ := filepath.Glob("/usr/share/keyrings/debian-archive-*.gpg")
	for _, n := range []*node{w.asker, w.voter} {
		n.config.Upstreams = map[string]string{"debian": liveDebian(t), "maven": liveMaven(t)}
		n.config.Pauses = nil
	}
	// The voter has to take the keys out of the locked keyring package.
	w.asker.config.Keyrings = keyrings
	w.asker.open(t)
	w.voter.open(t)
	w.voter.peer.from = nil
	return w
}

func liveRecipe(t *testing.T, name string) *record.Recipe {
	data, err := os.ReadFile(filepath.Join("../../../hcl/recipe/testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := record.DecodeRecipe(bytes.TrimSpace(data))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLiveBuilderImage(t *testing.T) {
	liveOnly(t)
	w := liveWorld(t)
	recipe := liveRecipe(t, "jdk21-maven")
	lock := resolve(t, w.asker, recipe, nil)
	again := resolve(t, w.asker, recipe, nil)
	if !bytes.Equal(record.MustMarshal(lock), record.MustMarshal(again)) {
		t.Error("a second resolve made another lock")
	}
	var last Progress
	if err := w.voter.keeper.Hold(t.Context(), recipe, lock, func(p Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d files, %d bytes, lock of %d bytes", last.FilesDone, last.BytesDone, len(record.MustMarshal(lock)))
	if last.FilesDone != last.Files || last.BytesDone != last.Bytes {
		t.Errorf("progress %+v", last)
	}
}

// hostMaven resolves with this machine's own mvn.
type hostMaven struct {
	askingEngine
	t    *testing.T
	home string
}

func (e *hostMaven) Resolve(ctx context.Context, job build.Job, mirror http.Handler) error {
	server := httptest.NewServer(mirror)
	defer server.Close()
	settings := fmt.Sprintf("<settings><mirrors><mirror><id>m</id><mirrorOf>*</mirrorOf><url>%s</url></mirror></mirrors></settings>", server.URL)
	return e.run(ctx, job, settings, e.t.TempDir())
}

func (e *hostMaven) run(ctx context.Context, job build.Job, settings, repository string, more ...string) error {
	folder := e.t.TempDir()
	e.unpack(job, folder)
	name := filepath.Join(folder, "settings.xml")
	if err := os.WriteFile(name, []byte(settings), 0o600); err != nil {
		return err
	}
	arguments := append([]string{"-B", "-q", "-s", name, "-Dmaven.repo.local=" + repository, "compile"}, more...)
	mvn := exec.CommandContext(ctx, "mvn", arguments...)
	mvn.Dir = filepath.Join(folder, "plexus-archiver-4.10.2")
	out, err := mvn.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func (e *hostMaven) unpack(job build.Job, folder string) {
	f, err := job.Open(job.Recipe.Sources[0].SHA256)
	if err != nil {
		e.t.Fatal(err)
	}
	defer f.Close()
	if out, err := exec.Command("unzip", "-q", "-d", folder, f.Name()).CombinedOutput(); err != nil {
		e.t.Skipf("unzip: %v: %s", err, out)
	}
}

// What a real Maven asked for is enough for it offline: no metadata, no
// checksums.
func TestLiveMaven(t *testing.T) {
	liveOnly(t)
	w := liveWorld(t)
	recipe := liveRecipe(t, "plexus-archiver-4.10.2")
	recipe.Builder = ""
	engine := &hostMaven{t: t}
	var log bytes.Buffer
	lock, err := w.asker.keeper.Resolve(t.Context(), recipe, engine, build.Job{Log: &log}, nil)
	t.Log(log.String())
	if err != nil {
		t.Fatal(err)
	}
	again := resolve(t, w.asker, recipe, engine)
	if !bytes.Equal(record.MustMarshal(lock), record.MustMarshal(again)) {
		t.Error("a second resolve made another lock")
	}
	if err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil); err != nil {
		t.Fatal(err)
	}
	repository := t.TempDir()
	size := int64(0)
	for _, e := range entriesOf(lock, kindMaven) {
		name := filepath.Join(repository, e.Path)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(filepath.Join(w.voter.store.folder, e.File.SHA256.String()), name); err != nil {
			t.Fatal(err)
		}
		size += e.File.Size
	}
	t.Logf("%d files, %d bytes, lock of %d bytes", len(lock.Entries), size, len(record.MustMarshal(lock)))
	job := build.Job{Recipe: recipe, Open: w.voter.store.Open}
	if err := engine.run(t.Context(), job, "<settings/>", repository, "-o"); err != nil {
		t.Fatal(err)
	}
}
