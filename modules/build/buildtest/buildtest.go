// Package buildtest is what tests build with: the suite that every build engine
// passes, a tiny builder image, and Local, an engine that needs no buildkitd.
package buildtest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"lukechampine.com/blake3"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/record"
)

const tinyPackage = artifact.PURL("pkg:generic/tiny@1.0")

// Bench is what a test of an engine stands on: the tiny builder image and a set
// of locked files.
type Bench struct {
	Lock record.Lock

	t     testing.TB
	image Image
	files map[artifact.SHA256]string // paths
}

// NewBench is a bench with no files beside the image's.
func NewBench(t testing.TB) *Bench {
	t.Helper()
	image, err := TinyImage(t.TempDir(), "test/tiny")
	must(t, err)
	return newBench(t, image)
}

func newBench(t testing.TB, image Image) *Bench {
	return &Bench{t: t, image: image, files: map[artifact.SHA256]string{}}
}

// Put has a file at hand for jobs.
func (b *Bench) Put(data []byte) artifact.Descriptor {
	b.t.Helper()
	d := artifact.Descriptor{SHA256: sha256.Sum256(data), BLAKE3: blake3.Sum256(data), Size: int64(len(data))}
	name := filepath.Join(b.t.TempDir(), "file")
	must(b.t, os.WriteFile(name, data, 0o600))
	b.files[d.SHA256] = name
	return d
}

// PutMaven locks a file of a Maven repository.
func (b *Bench) PutMaven(path string, data []byte) {
	b.t.Helper()
	b.Lock.Entries = append(b.Lock.Entries, record.LockEntry{Kind: "maven", Path: path, File: b.Put(data)})
	b.Lock.Sort()
}

func (b *Bench) open(d artifact.SHA256) (*os.File, error) {
	if name, ok := b.files[d]; ok {
		return os.Open(name)
	}
	return b.image.Open(d)
}

// Recipe has one source, a tar archive with greeting.txt in a folder to strip,
// and one output, out/tiny.txt.
func (b *Bench) Recipe(commands ...string) *record.Recipe {
	b.t.Helper()
	var data bytes.Buffer
	z := gzip.NewWriter(&data)
	archive := tar.NewWriter(z)
	const greeting = "good day\n"
	must(b.t, archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "tiny-1.0/greeting.txt", Mode: 0o600, Size: int64(len(greeting))}))
	_, err := io.WriteString(archive, greeting)
	must(b.t, err)
	must(b.t, archive.Close())
	must(b.t, z.Close())
	return &record.Recipe{
		Package: tinyPackage, Platform: "linux/amd64", Builder: "pkg:docker/test/tiny@1.0",
		Sources:     []record.Source{{URL: "http://source.example/tiny-1.0.tar.gz", SHA256: b.Put(data.Bytes()).SHA256, Strip: 1}},
		Commands:    commands,
		Environment: record.Environment{Locale: "C.UTF-8", TimeZone: "UTC", Umask: "027", WorkDir: "/work", Variables: []string{"WHO=world"}},
		Outputs:     []record.Output{{File: "tiny-1.0.txt", Package: tinyPackage, Path: "out/tiny.txt"}},
		Timestamp:   1_700_000_000,
		Limits:      record.Limits{Seconds: 600, Memory: 256 << 20, Disk: 64 << 20},
	}
}

// Job is a job of the recipe in the tiny image.
func (b *Bench) Job(r *record.Recipe, log io.Writer) build.Job {
	b.t.Helper()
	return build.Job{
		ID: b.t.Name(), Recipe: r, Lock: &b.Lock, Open: b.open, Builder: b.image.Manifest,
		Folder: b.t.TempDir(), Log: log, Remains: filepath.Join(b.t.TempDir(), "remains.tar.gz"),
	}
}

// Log is a job's log in memory. It is safe for concurrent use.
type Log struct {
	mu   sync.Mutex
	data bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.data.Write(p)
}

// String is what was written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.data.String()
}

// Watch is a log that calls do when it is first written a text.
func Watch(text string, do func()) io.Writer { return &watch{text: text, do: do} }

type watch struct {
	text string
	do   func()
	once sync.Once
}

// Write implements io.Writer.
func (w *watch) Write(p []byte) (int, error) {
	if strings.Contains(string(p), w.text) {
		w.once.Do(w.do)
	}
	return len(p), nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
