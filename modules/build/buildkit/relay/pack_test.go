package relay_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	if err := relay.Pack(&b, filepath.Dir(folder), filepath.Base(folder), []string{"target", "target/deep", "top.jar", "away", "none"}); err != nil {
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
	if err := relay.Pack(io.Discard, folder, "none", []string{"x"}); err != nil {
		t.Errorf("a folder that is not there: %v", err)
	}
	for _, place := range []string{"../", "away/secret"} {
		if err := relay.Pack(io.Discard, folder, "/", []string{place}); err == nil {
			t.Errorf("%s is packed, which is outside", place)
		}
	}
	// The folder's own path may be a link that the build made.
	if err := relay.Pack(io.Discard, folder, "/away", []string{"secret"}); err == nil {
		t.Error("a link out of the root is followed")
	}
}

// TestPackMany: names are bounded, for links to one file cost a build nothing.
func TestPackMany(t *testing.T) {
	folder := t.TempDir()
	first := filepath.Join(folder, "first")
	if err := os.WriteFile(first, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for i := range 100_000 {
		var err error
		if i%20_000 == 0 { // a file has so many names at the most, on some file systems
			first = filepath.Join(folder, fmt.Sprint("first", i))
			err = os.WriteFile(first, nil, 0o644)
		} else {
			err = os.Link(first, filepath.Join(folder, fmt.Sprint(i)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := relay.Pack(io.Discard, folder, "/", []string{"."}); err == nil || !strings.Contains(err.Error(), "more than 100000 files") {
		t.Errorf("%v", err)
	}
}
