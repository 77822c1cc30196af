package buildkit

import (
	"bytes"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/moby/buildkit/client/llb"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/build/buildkit/buildkittest"
	"github.com/pyrsia/appliance/modules/record"
)

// benchJob is of the size of a Maven library's build: 600 locked files of 96
// MiB together and a few seconds of work on them.
func benchJob(b *testing.B) build.Job {
	image, err := buildkittest.TinyImage(b.TempDir(), "test/tiny")
	if err != nil {
		b.Fatal(err)
	}
	s := shelf{}
	random := rand.New(rand.NewSource(1))
	lock := &record.Lock{}
	for i := range 600 {
		data := make([]byte, 160<<10)
		random.Read(data)
		lock.Entries = append(lock.Entries, record.LockEntry{Kind: mavenKind, Path: fmt.Sprintf("org/a/%d/a.jar", i), File: s.put(data)})
	}
	lock.Sort()
	source := s.put(makeTar(b, []member{{name: "a", content: "a", kind: '0'}}))
	folder := b.TempDir()
	for d, data := range s {
		if err := os.WriteFile(filepath.Join(folder, d.String()), data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return build.Job{
		ID: "bench", Lock: lock, Builder: image.Manifest, Log: io.Discard,
		Open: func(d artifact.SHA256) (*os.File, error) {
			if file, err := image.Open(d); err == nil {
				return file, nil
			}
			return os.Open(filepath.Join(folder, d.String()))
		},
		Recipe: &record.Recipe{
			Package: "pkg:maven/org.a/a@1", Platform: "linux/amd64", Builder: "pkg:docker/test/tiny@1", Resolve: "maven",
			Sources: []record.Source{{URL: "http://a.example/a.tar", SHA256: source.SHA256}},
			Outputs: []record.Output{{File: "sums", Package: "pkg:maven/org.a/a@1", Path: "sums"}},
		},
	}
}

// work is another command in every round, so that no step comes from a cache.
func work(round int) []string {
	return []string{fmt.Sprintf("echo %d; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sha256sum /m2/org/a/*/* > sums; done", round)}
}

// BenchmarkBuild is a build by the engine, and the same steps by BuildKit's own
// client from inputs that lie ready: one round of each in turn, so that they
// share the machine's moods.
func BenchmarkBuild(b *testing.B) {
	folder, err := os.MkdirTemp("", "bk")
	if err != nil {
		b.Fatal(err)
	}
	defer buildkittest.Remove(folder)
	d, err := buildkittest.Launch(b.Context(), folder, io.Discard)
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	buildctl, err := buildkittest.Buildctl(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	e, err := New(Config{Addresses: []string{d.Address}, Scratch: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	job := benchJob(b)
	layout := b.TempDir()
	engine := func(round int) time.Duration {
		job.Folder, job.Recipe.Commands = b.TempDir(), work(round)
		start := time.Now()
		if _, err := e.Build(b.Context(), job); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	bare := func(round int) time.Duration {
		job.Recipe.Commands = work(round)
		command := exec.Command(buildctl, "--addr", d.Address, "build", "--progress", "plain",
			"--oci-layout", storeID+"="+layout, "--output", "type=tar,dest="+filepath.Join(layout, "out.tar"))
		command.Stdin = bytes.NewReader(definition(b, job, layout))
		start := time.Now()
		if output, err := command.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, output)
		}
		return time.Since(start)
	}
	engine(0) // the inputs are unpacked in buildkitd once, for both
	var ours, theirs time.Duration
	round := 0
	for b.Loop() {
		ours += engine(round + 1)
		theirs += bare(round + 2)
		round += 2
	}
	b.ReportMetric(ours.Seconds()/float64(b.N), "engine-s")
	b.ReportMetric(theirs.Seconds()/float64(b.N), "buildctl-s")
	b.ReportMetric(ours.Seconds()/theirs.Seconds(), "engine/buildctl")
}

// definition is the job's LLB, and its inputs as an OCI layout on disk.
func definition(b *testing.B, job build.Job, folder string) []byte {
	p := newPlan(job, b.TempDir())
	p.log = newProgress(io.Discard)
	state, err := p.packages()
	if err != nil {
		b.Fatal(err)
	}
	blobs := filepath.Join(folder, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		b.Fatal(err)
	}
	for d, part := range p.inputs.blobs {
		if err := writeBlob(filepath.Join(blobs, d.Encoded()), part); err != nil {
			b.Fatal(err)
		}
	}
	marshalled, err := p.outputs(state).Marshal(b.Context(), llb.Platform(platform))
	if err != nil {
		b.Fatal(err)
	}
	var definition bytes.Buffer
	if err := llb.WriteTo(marshalled, &definition); err != nil {
		b.Fatal(err)
	}
	return definition.Bytes()
}

func writeBlob(name string, part blob) error {
	if part.open == nil {
		return os.WriteFile(name, part.bytes, 0o644)
	}
	from, err := part.open()
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Create(name)
	if err != nil {
		return err
	}
	defer to.Close()
	_, err = io.Copy(to, from)
	return err
}
