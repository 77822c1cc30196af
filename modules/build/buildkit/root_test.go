package buildkit

import (
	"archive/tar"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/record"
)

// rootJob is a job whose builder image has one layer, compressed by ending.
func rootJob(t *testing.T, ending, mediaType string) (job build.Job, layer []byte) {
	s := shelf{}
	layer = makeTar(t, []member{{name: "bin/sh", content: "shell", kind: tar.TypeReg}})
	packed := s.put(compressed(t, ending, layer))
	source := s.put(makeTar(t, []member{{name: "a", content: "a", kind: tar.TypeReg}}))
	manifest := imageOnShelf(s, func(m *ocispecs.Manifest, _ *ocispecs.Image) {
		m.Layers[0] = ocispecs.Descriptor{MediaType: mediaType, Digest: digest.Digest(packed.SHA256.OCI()), Size: packed.Size}
	})
	return build.Job{
		Lock: &record.Lock{}, Builder: manifest, Open: s.open(t), Log: io.Discard,
		Recipe: &record.Recipe{
			Package: "pkg:maven/a/b@1", Platform: "linux/amd64", Builder: "pkg:docker/a/b@1", Resolve: "maven",
			Sources:     []record.Source{{URL: "http://a.example/a.tar", SHA256: source.SHA256}},
			Commands:    []string{"one", "two\nthree"},
			Outputs:     []record.Output{{File: "a", Package: "pkg:maven/a/b@1", Path: "a"}},
			Environment: record.Environment{Umask: "027", Variables: []string{"WHO=world"}},
		},
	}, layer
}

func TestPackRoot(t *testing.T) {
	for ending, mediaType := range map[string]string{
		"": ocispecs.MediaTypeImageLayer, ".gz": ocispecs.MediaTypeImageLayerGzip, ".zst": ocispecs.MediaTypeImageLayerZstd,
	} {
		job, layer := rootJob(t, ending, mediaType)
		for _, resolve := range []bool{false, true} {
			root, err := PackRoot(t.Context(), job, t.TempDir(), resolve)
			if err != nil {
				t.Fatal(err)
			}
			if len(root.Layers) != 3 || root.WorkDir != "/work" || len(root.Steps) != 2 || root.Steps[1] != (Step{"command 2 of 2: two\nthree", "umask 027\ntwo\nthree"}) {
				t.Errorf("root %+v", root)
			}
			if !slices.Contains(root.Variables, "A=b") || !slices.Contains(root.Variables, "WHO=world") {
				t.Errorf("variables %q, want the image's and the recipe's among them", root.Variables)
			}
			if got := streamed(t, root.Layers[0]); got != string(layer) {
				t.Errorf("the image's layer%s has %d bytes, want %d", ending, len(got), len(layer))
			}
			// Nothing in it may tell a build whether it resolves.
			if got := streamed(t, root.Layers[2]); !strings.Contains(got, MirrorAddress) || strings.Contains(got, "offline") {
				t.Error("Maven's settings name another mirror, or are offline")
			}
		}
	}
	job, _ := rootJob(t, "", ocispecs.MediaTypeImageLayer)
	job.Recipe.Sources[0].URL += ".rar"
	if _, err := PackRoot(t.Context(), job, t.TempDir(), false); !errors.Is(err, build.ErrFailed) {
		t.Errorf("%v for a source that cannot be unpacked, want ErrFailed", err)
	}
}

func streamed(t *testing.T, l Layer) string {
	t.Helper()
	stream, err := l.Open()
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(stream)
	if err := errors.Join(err, stream.Close()); err != nil {
		t.Fatal(err)
	}
	return string(data)
}
