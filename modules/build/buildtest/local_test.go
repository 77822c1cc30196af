package buildtest_test

import (
	"os"
	"testing"

	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/build/buildkit/buildkittest"
	"github.com/pyrsia/appliance/modules/build/buildtest"
	"github.com/pyrsia/appliance/modules/record"
)

func TestLocal(t *testing.T) {
	buildtest.Contract(t, func(t *testing.T) build.Engine {
		relay, err := buildkittest.Relay(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return &buildtest.Local{Relay: relay}
	})
}

// A recipe of an image from Debian packages gets the tiny image, the same each
// time.
func TestLocalImage(t *testing.T) {
	bench := buildtest.NewBench(t)
	recipe := &record.Recipe{Package: "pkg:docker/a/b@1", Debian: []record.Debian{{Suite: "trixie"}}, Images: []record.Image{{}}}
	var manifests []string
	for range 2 {
		files, err := new(buildtest.Local).Build(t.Context(), bench.Job(recipe, new(buildtest.Log)))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) != 3 || files[0].Name.File != record.ManifestFile {
			t.Fatalf("files %+v", files)
		}
		manifest, err := os.ReadFile(files[0].Path)
		if err != nil {
			t.Fatal(err)
		}
		manifests = append(manifests, string(manifest))
	}
	if manifests[0] != manifests[1] {
		t.Errorf("two builds made the images %s and %s", manifests[0], manifests[1])
	}
}
