package relay_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pyrsia/appliance/modules/build/buildkit/relay"
)

// TestPack: links are packed as such, and nothing is followed out of the folder.
func TestPack(t *testing.T) {
	folder := t.TempDir()
	outside := filepath.Join(t.TempDir(), "secret")
	for name, content := range map[string]string{"target/a.txt": "a", "target/deep/b.txt": "b", "other/c.txt": "c", "top.jar": "jar"} {
		path := filepath.Join(folder, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(os.WriteFile(outside, []byte("secret"), 0o600), os.Symlink(outside, filepath.Join(folder, "target", "link")),
		os.Symlink(filepath.Dir(outside), filepath.Join(folder, "away")))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := relay.Pack(&b, folder, []string{"target", "target/deep", "top.jar", "away", "none"}); err != nil {
		t.Fatal(err)
	}
	var names []string
	for entries := tar.NewReader(&b); ; {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(entries)
		if err != nil || string(content) == "secret" {
			t.Errorf("%s: %q, %v", h.Name, content, err)
		}
		names = append(names, h.Name)
	}
	slices.Sort(names)
	if want := []string{"away", "target/", "target/a.txt", "target/deep/", "target/deep/b.txt", "target/link", "top.jar"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
	if err := relay.Pack(io.Discard, filepath.Join(folder, "none"), []string{"x"}); err != nil {
		t.Errorf("a folder that is not there: %v", err)
	}
	if err := relay.Pack(io.Discard, folder, []string{"../"}); err == nil {
		t.Error("a place outside is packed")
	}
}
