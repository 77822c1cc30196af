package oci_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/mirror"
	"github.com/pyrsia/appliance/modules/mirror/mirrortest"
)

// tarball is a layer that a container engine can unpack.
func tarball(t *testing.T, name string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func skopeo(t *testing.T, arguments ...string) string {
	t.Helper()
	path, err := exec.LookPath("skopeo")
	if err != nil {
		t.Fatal("skopeo is not installed; run: apt-get install skopeo (make test does)")
	}
	var out, errors bytes.Buffer
	command := exec.CommandContext(t.Context(), path, arguments...)
	command.Stdout, command.Stderr = &out, &errors
	if err := command.Run(); err != nil {
		t.Fatalf("skopeo %q: %v\n%s", arguments, err, errors.String())
	}
	return out.String()
}

func TestSkopeo(t *testing.T) {
	i := newImage(tarball(t, "hello", noise(1, 3_000_000)))
	for _, vouched := range []bool{true, false} {
		w := mirrortest.NewWorld(t)
		if vouched {
			w.PublishImage("acme/app", "1.0", manifestType, i.manifest, i.config, i.layer)
		} else {
			w.Up.Set("v2/acme/app/tags/list", mirrortest.Answer{Data: []byte(`{"name":"acme/app","tags":["1.0"]}`)})
			w.Up.Set("v2/acme/app/manifests/1.0", mirrortest.Answer{Data: i.manifest, Header: map[string][]string{"Content-Type": {manifestType}}})
			w.Up.Set("v2/acme/app/blobs/"+digest(i.config), mirrortest.Answer{Data: i.config})
			w.Up.Set("v2/acme/app/blobs/"+digest(i.layer), mirrortest.Answer{Data: i.layer})
		}
		host := strings.TrimPrefix(start(t, w, mirror.Pass), "http://")
		name := "docker://" + host + "/acme/app:1.0"
		folder := filepath.Join(t.TempDir(), "image")
		skopeo(t, "copy", "--src-tls-verify=false", name, "dir:"+folder)
		for file, want := range map[string][]byte{
			"manifest.json": i.manifest,
			strings.TrimPrefix(digest(i.config), "sha256:"): i.config,
			strings.TrimPrefix(digest(i.layer), "sha256:"):  i.layer,
		} {
			if got, err := os.ReadFile(filepath.Join(folder, file)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, %v", file, len(got), err)
			}
		}
		var seen struct {
			Digest   string
			RepoTags []string
			Layers   []string
		}
		out := skopeo(t, "inspect", "--tls-verify=false", name)
		if err := json.Unmarshal([]byte(out), &seen); err != nil {
			t.Fatal(err)
		}
		if seen.Digest != digest(i.manifest) || len(seen.RepoTags) != 1 || len(seen.Layers) != 1 || seen.Layers[0] != digest(i.layer) {
			t.Errorf("skopeo sees %s", out)
		}
		skopeo(t, "copy", "--src-tls-verify=false", "docker://"+host+"/acme/app@"+digest(i.manifest), "dir:"+folder)
		if vouched && len(w.Up.Gets()) > 1 { // the list of tags is a view
			t.Errorf("the upstream was asked for %q", w.Up.Gets())
		}
	}
}
