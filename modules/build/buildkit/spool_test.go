package buildkit

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	digest "github.com/opencontainers/go-digest"
	"lukechampine.com/blake3"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
)

// fileShelf holds locked files by digest, as a node's store does.
type fileShelf struct{ folder string }

func (s fileShelf) put(t testing.TB, data []byte) artifact.Descriptor {
	t.Helper()
	d := artifact.Descriptor{SHA256: sha256.Sum256(data), BLAKE3: blake3.Sum256(data), Size: int64(len(data))}
	if err := os.WriteFile(s.path(d.SHA256), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return d
}

func (s fileShelf) path(name artifact.SHA256) string {
	return filepath.Join(s.folder, fmt.Sprintf("%x", name[:]))
}

func (s fileShelf) open(name artifact.SHA256) (*os.File, error) { return os.Open(s.path(name)) }

// TestSpool packs locked files of many sizes beside files of the layer's own, and reads the
// layer back in pieces of any size from any place: it is the layer that a writer which
// copies everything makes, though the file on disk holds little of it.
func TestSpool(t *testing.T) {
	random := rand.New(rand.NewSource(7))
	s := fileShelf{t.TempDir()}
	type file struct {
		name   string
		data   []byte
		locked artifact.Descriptor // none has size 0
	}
	var files []file
	for i, size := range []int{
		minReferred, 3, minReferred + 1, 200_000, 100_000, minReferred - 1, 0, 512 * 100, 70_000, 1, 300_001,
	} {
		f := file{name: fmt.Sprintf("d/%d", i), data: make([]byte, size)}
		random.Read(f.data)
		if i%4 != 3 {
			f.locked = s.put(t, f.data)
		}
		files = append(files, f)
	}
	files = append(files, file{name: "d/again", data: files[2].data, locked: files[2].locked})
	folder := t.TempDir()
	pack := func(copied bool) blob {
		b, err := packLayer(t.Context(), folder, 9, func(l *layerWriter) error {
			for _, f := range files {
				var err error
				if f.locked.Size > 0 && !copied {
					err = l.locked(f.name, f.locked, s.open)
				} else {
					err = l.regular(f.name, 0o644, 0, 0, int64(len(f.data)), bytes.NewReader(f.data))
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	want, b := whole(t, pack(true)), pack(false)
	if got := whole(t, b); !bytes.Equal(got, want) {
		t.Fatal("the layer has other bytes than one that holds all of them")
	}
	if b.descriptor.Digest != digest.FromBytes(want) || b.diffID != b.descriptor.Digest || b.descriptor.Size != int64(len(want)) {
		t.Errorf("it calls itself %+v", b.descriptor)
	}
	if held := smallest(t, folder); held > 500_000 {
		t.Errorf("it holds %d bytes on disk, of %d", held, len(want))
	}
	from, err := b.open()
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if err := iotest.TestReader(io.NewSectionReader(from, 0, int64(len(want))), want); err != nil {
		t.Error(err)
	}
	var readers sync.WaitGroup
	for seed := range int64(4) {
		readers.Go(func() { readAnywhere(t, from, want, seed) })
	}
	readers.Wait()
	if _, err := from.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("it reads before its beginning")
	}
}

func readAnywhere(t *testing.T, from io.ReaderAt, want []byte, seed int64) {
	random := rand.New(rand.NewSource(seed))
	for range 500 {
		at, p := random.Intn(len(want)+100), make([]byte, random.Intn(150_000))
		n, err := from.ReadAt(p, int64(at))
		left := want[min(at, len(want)):]
		if n != min(len(p), len(left)) || !bytes.Equal(p[:n], left[:n]) || (n < len(p)) != errors.Is(err, io.EOF) || n == len(p) && err != nil {
			t.Errorf("ReadAt(%d bytes, %d) = %d, %v", len(p), at, n, err)
			return
		}
	}
}

func whole(t *testing.T, b blob) []byte {
	t.Helper()
	from, err := b.read()
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	data, err := io.ReadAll(from)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// smallest is the size of the smallest file in a folder, bytes.
func smallest(t *testing.T, folder string) int64 {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) == 0 {
		t.Fatal(len(entries), err)
	}
	smallest := int64(1) << 60
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		smallest = min(smallest, info.Size())
	}
	return smallest
}

// TestSpoolLosesAnInput: a locked file that is gone, or shorter, when BuildKit asks for the
// layer is an error that names it, never other bytes.
func TestSpoolLosesAnInput(t *testing.T) {
	for name, spoil := range map[string]func(string) error{
		"gone":    os.Remove,
		"shorter": func(name string) error { return os.Truncate(name, minReferred/2) },
	} {
		s := fileShelf{t.TempDir()}
		locked := s.put(t, make([]byte, 2*minReferred))
		b, err := packLayer(t.Context(), t.TempDir(), 0, func(l *layerWriter) error { return l.locked("org/a.jar", locked, s.open) })
		if err != nil {
			t.Fatal(err)
		}
		if err := spoil(s.path(locked.SHA256)); err != nil {
			t.Fatal(err)
		}
		from, err := b.read()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(from)
		from.Close()
		if err == nil || !strings.Contains(err.Error(), "org/a.jar again") || int64(len(data)) >= b.descriptor.Size {
			t.Errorf("%s: %d of %d bytes, %v", name, len(data), b.descriptor.Size, err)
		}
	}
}

// TestRottenInputs: a file that is not what was locked any more is told from a recipe's
// fault, and by its digest, so that it is got anew; nothing is built from it.
func TestRottenInputs(t *testing.T) {
	s := fileShelf{t.TempDir()}
	content := make([]byte, 2*minReferred)
	locked := s.put(t, content)
	pack := func() error {
		_, err := packLayer(t.Context(), t.TempDir(), 0, func(l *layerWriter) error { return l.locked("a", locked, s.open) })
		return err
	}
	open := func() error {
		file, err := checked(s.open)(locked.SHA256)
		if err == nil {
			defer file.Close()
			var read []byte
			if read, err = io.ReadAll(file); err == nil && !bytes.Equal(read, content) {
				t.Error("other bytes are read")
			}
		}
		return err
	}
	for name, use := range map[string]func() error{"packed": pack, "unpacked": open} {
		for what, there := range map[string][]byte{
			"sound": content, "longer": append(content, 0), "shorter": content[1:], "flipped": append(bytes.Clone(content[1:]), 1),
		} {
			if err := os.WriteFile(s.path(locked.SHA256), there, 0o644); err != nil {
				t.Fatal(err)
			}
			err := use()
			corrupt, is := errors.AsType[*build.CorruptError](err)
			if what == "sound" && err != nil || what != "sound" && (!is || corrupt.SHA256 != locked.SHA256 || errors.Is(err, errInput)) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
}
