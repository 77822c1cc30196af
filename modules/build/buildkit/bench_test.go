package buildkit_test

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

	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/build/buildkit"
	"github.com/pyrsia/appliance/modules/build/buildkit/buildkittest"
	"github.com/pyrsia/appliance/modules/build/buildtest"
	"github.com/pyrsia/appliance/modules/record"
)

// benchJob is of the size of a Maven library's build: 600 locked files of 96
// MiB together and a few seconds of work on them.
func benchJob(b *testing.B) build.Job {
	bench := buildtest.NewBench(b)
	random := rand.New(rand.NewSource(1))
	for i := range 600 {
		data := make([]byte, 160<<10)
		random.Read(data)
		bench.PutMaven(fmt.Sprintf("org/a/%d/a.jar", i), data)
	}
	recipe := bench.Recipe()
	recipe.Resolve = "maven"
	recipe.Outputs = []record.Output{{File: "sums", Package: recipe.Package, Path: "sums"}}
	recipe.Limits = record.Limits{}
	return bench.Job(recipe, io.Discard)
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
	relay, err := buildkittest.Relay(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	e, err := buildkit.New(buildkit.Config{Limits: buildkit.Limits{Addresses: []string{d.Address}}, Scratch: b.TempDir(), Relay: relay})
	if err != nil {
		b.Fatal(err)
	}
	job := benchJob(b)
	job.Remains = filepath.Join(b.TempDir(), "remains")
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
		definition, err := buildkit.Definition(b.Context(), job, b.TempDir(), layout)
		if err != nil {
			b.Fatal(err)
		}
		command := exec.Command(buildctl, "--addr", d.Address, "build", "--progress", "plain",
			"--oci-layout", buildkit.StoreID+"="+layout, "--output", "type=tar,dest="+filepath.Join(layout, "out.tar"))
		command.Stdin = bytes.NewReader(definition)
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

// started tells when a build's own command begins.
type started struct {
	at   time.Time
	text bytes.Buffer
}

// Write implements io.Writer.
func (s *started) Write(p []byte) (int, error) {
	s.text.Write(p)
	if s.at.IsZero() && bytes.Contains(s.text.Bytes(), []byte("=> command 1 of ")) {
		s.at = time.Now()
	}
	return len(p), nil
}

// BenchmarkWarmStart is how long a build takes until its command begins, once its
// inputs were unpacked by an earlier one: the limit is 2 s.
func BenchmarkWarmStart(b *testing.B) {
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
	relay, err := buildkittest.Relay(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	e, err := buildkit.New(buildkit.Config{Limits: buildkit.Limits{Addresses: []string{d.Address}}, Scratch: b.TempDir(), Relay: relay})
	if err != nil {
		b.Fatal(err)
	}
	job := benchJob(b)
	job.Remains = filepath.Join(b.TempDir(), "remains")
	begin := func(round int) time.Duration {
		log := new(started)
		job.Folder, job.Log = b.TempDir(), log
		job.Recipe.Commands = []string{fmt.Sprintf("echo %d > sums", round)}
		start := time.Now()
		if _, err := e.Build(b.Context(), job); err != nil {
			b.Fatal(err)
		}
		return log.at.Sub(start)
	}
	cold := begin(0)
	var warm time.Duration
	for round := 1; b.Loop(); round++ {
		warm += begin(round)
	}
	b.ReportMetric(cold.Seconds(), "cold-start-s")
	b.ReportMetric(warm.Seconds()/float64(b.N), "warm-start-s")
}
