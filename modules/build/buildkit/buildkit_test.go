package buildkit_test

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/build/buildkit"
	"github.com/pyrsia/appliance/modules/build/buildkit/buildkittest"
	"github.com/pyrsia/appliance/modules/build/buildtest"
	"github.com/pyrsia/appliance/modules/record"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newEngine(t *testing.T, d *buildkittest.Daemon) *buildkit.Engine {
	t.Helper()
	relay, err := buildkittest.Relay(t.Context())
	must(t, err)
	e, err := buildkit.New(buildkit.Config{Limits: buildkit.Limits{Addresses: []string{d.Address}}, Scratch: t.TempDir(), Relay: relay})
	must(t, err)
	return e
}

// TestEngine builds for real, in two buildkitd with roots of their own.
func TestEngine(t *testing.T) {
	var engines []*buildkit.Engine
	buildtest.Contract(t, func(t *testing.T) build.Engine {
		engines = append(engines, newEngine(t, buildkittest.Start(t)))
		return engines[len(engines)-1]
	})
	t.Run("limit of memory", func(t *testing.T) { testMemory(t, engines[0]) })
	t.Run("limit of processes", func(t *testing.T) { testProcesses(t, engines[0]) })
	t.Run("limit of processors", func(t *testing.T) { testProcessors(t, engines[0]) })
	t.Run("remains", func(t *testing.T) { testRemains(t, engines[0]) })
	t.Run("limit of disk", func(t *testing.T) { testDisk(t, engines[0]) })
}

// testRemains: what a failing command left where the outputs would be is there to look
// at, and nothing else of the build or of this machine. A build that comes out leaves none.
func testRemains(t *testing.T, e *buildkit.Engine) {
	b := buildtest.NewBench(t)
	log := new(buildtest.Log)
	job := b.Job(b.Recipe(`mkdir -p out/deep; echo "1 failed" > out/deep/report.txt; ln -s /etc/passwd out/link; echo x > aside; printf '#!/bin/sh\necho evil' > /bin/tar; exit 3`), log)
	if _, err := e.Build(t.Context(), job); !errors.Is(err, build.ErrFailed) || !strings.Contains(err.Error(), "exit code 3") {
		t.Fatalf("%v; want ErrFailed\n%s", err, log)
	}
	file, err := os.Open(job.Remains)
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	defer file.Close()
	plain, err := gzip.NewReader(file)
	must(t, err)
	found := map[string]string{}
	for entries := tar.NewReader(plain); ; {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		content, err := io.ReadAll(entries)
		must(t, err)
		found[h.Name] = string(content)
	}
	want := map[string]string{"out/": "", "out/deep/": "", "out/deep/report.txt": "1 failed\n", "out/link": ""}
	if !maps.Equal(found, want) {
		t.Errorf("%q, want %q\n%s", found, want, log)
	}
	for _, command := range []string{"exit 3", "mkdir out; echo a > out/tiny.txt"} {
		job := b.Job(b.Recipe(command), new(buildtest.Log))
		if _, err := e.Build(t.Context(), job); err != nil && !errors.Is(err, build.ErrFailed) {
			t.Error(err)
		}
		if _, err := os.Stat(job.Remains); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s leaves something: %v", command, err)
		}
	}
}

// testProcessors looks at the limit as the step's own control group has it.
func testProcessors(t *testing.T, e *buildkit.Engine) {
	b := buildtest.NewBench(t)
	r := b.Recipe(`cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2> none || true; exit 3`)
	r.Limits.CPUs = 250 // thousandths
	log := new(buildtest.Log)
	if _, err := e.Build(t.Context(), b.Job(r, log)); !errors.Is(err, build.ErrFailed) {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "   25000") {
		t.Errorf("a quarter of a processor is not 25 of 100 ms:\n%s", log)
	}
}

// TestTwoWorkers: of two workers that answer, the one with less to do gets the next build.
func TestTwoWorkers(t *testing.T) {
	one, two := buildkittest.Start(t), buildkittest.Start(t)
	e := newEngine(t, one)
	must(t, e.SetLimits(buildkit.Limits{Addresses: []string{one.Address, two.Address}}))
	b := buildtest.NewBench(t)
	second := new(buildtest.Log)
	ended := make(chan error, 1)
	first := new(buildtest.Log)
	follow := buildtest.Watch("started", func() {
		_, err := e.Build(t.Context(), b.Job(b.Recipe(`echo second; exit 3`), second))
		ended <- err
	})
	_, err := e.Build(t.Context(), b.Job(b.Recipe(`echo sta""rted; sleep 1; exit 3`), io.MultiWriter(first, follow)))
	for _, err := range []error{err, <-ended} {
		if !errors.Is(err, build.ErrFailed) {
			t.Error(err)
		}
	}
	on := func(log *buildtest.Log) string {
		_, rest, _ := strings.Cut(log.String(), "on the worker ")
		address, _, _ := strings.Cut(rest, "\n")
		return address
	}
	if a, b := on(first), on(second); a == b || a == "" || b == "" {
		t.Errorf("the builds ran on %q and %q", a, b)
	}
}

func testMemory(t *testing.T, e *buildkit.Engine) {
	b := buildtest.NewBench(t)
	r := b.Recipe(`bash -c 'x=x; while :; do x=$x$x; done'`)
	r.Limits = record.Limits{Memory: 32 << 20, Seconds: 300}
	log := new(buildtest.Log)
	_, err := e.Build(t.Context(), b.Job(r, log))
	if !errors.Is(err, build.ErrFailed) || !strings.Contains(err.Error(), "limit of memory is 32 MiB") {
		t.Errorf("%v; want ErrFailed with the limit\n%s", err, log)
	}
}

// TestNoDaemon wants an error that is not the recipe's fault, at once.
func TestNoDaemon(t *testing.T) {
	e, err := buildkit.New(buildkit.Config{Limits: buildkit.Limits{Addresses: []string{"unix://" + filepath.Join(t.TempDir(), "none.sock")}}, Scratch: t.TempDir()})
	must(t, err)
	b := buildtest.NewBench(t)
	_, err = e.Build(t.Context(), b.Job(b.Recipe("true"), new(buildtest.Log)))
	if err == nil || errors.Is(err, build.ErrFailed) || !strings.Contains(err.Error(), "no buildkitd answers") {
		t.Errorf("%v", err)
	}
}

// TestFailOver: a build goes to the worker that answers, and the one that does not is
// known for it.
func TestFailOver(t *testing.T) {
	d := buildkittest.Start(t)
	gone := "unix://" + filepath.Join(t.TempDir(), "gone.sock")
	e := newEngine(t, d)
	must(t, e.SetLimits(buildkit.Limits{Addresses: []string{gone, d.Address}, Cache: 1 << 30}))
	b := buildtest.NewBench(t)
	log := new(buildtest.Log)
	_, err := e.Build(t.Context(), b.Job(b.Recipe(`exit 3`), log))
	if !errors.Is(err, build.ErrFailed) || !strings.Contains(log.String(), "on the worker "+d.Address) {
		t.Errorf("%v\n%s", err, log)
	}
	workers := e.Workers(t.Context())
	if len(workers) != 2 || workers[0].Err == nil || !workers[0].Rests || workers[0].Version != "" {
		t.Errorf("the one that is gone: %+v", workers)
	}
	if len(workers) == 2 && (workers[1].Err != nil || workers[1].Rests || workers[1].Version == "" || workers[1].Running != 0) {
		t.Errorf("the one that built: %+v", workers[1])
	}
}

// TestPrune wants a worker's cache below its cap.
func TestPrune(t *testing.T) {
	d := buildkittest.Start(t)
	e := newEngine(t, d)
	b := buildtest.NewBench(t)
	if _, err := e.Build(t.Context(), b.Job(b.Recipe(`i=0; while [ $i -lt 40 ]; do cat /bin/bash > file$i; i=$((i+1)); done; mkdir out; echo a > out/tiny.txt`), new(buildtest.Log))); err != nil && !errors.Is(err, build.ErrFailed) {
		t.Fatal(err)
	}
	before := e.Workers(t.Context())[0].Cache
	must(t, e.SetLimits(buildkit.Limits{Addresses: []string{d.Address}, Cache: 1 << 20}))
	_, err := e.Build(t.Context(), b.Job(b.Recipe(`exit 3`), new(buildtest.Log)))
	if !errors.Is(err, build.ErrFailed) {
		t.Fatal(err)
	}
	if after := e.Workers(t.Context())[0].Cache; before < 20<<20 || after > before/2 {
		t.Errorf("the cache had %d bytes, and has %d", before, after)
	}
}

// TestDaemonDies wants the machine's failure told from the recipe's.
func TestDaemonDies(t *testing.T) {
	folder, err := os.MkdirTemp("", "bk")
	must(t, err)
	d, err := buildkittest.Launch(t.Context(), folder, new(buildtest.Log))
	must(t, err)
	defer buildkittest.Remove(folder)
	b := buildtest.NewBench(t)
	job := b.Job(b.Recipe(`echo sta""rted; sleep 5`), buildtest.Watch("started", d.Kill))
	_, err = newEngine(t, d).Build(t.Context(), job)
	if err == nil || errors.Is(err, build.ErrFailed) {
		t.Errorf("%v; want an error that is not ErrFailed", err)
	}
}

func TestNew(t *testing.T) {
	for _, addresses := range [][]string{nil, {"/run/buildkitd.sock"}} {
		if _, err := buildkit.New(buildkit.Config{Limits: buildkit.Limits{Addresses: addresses}}); err == nil {
			t.Errorf("New(%q) is no error", addresses)
		}
	}
	e, err := buildkit.New(buildkit.Config{Limits: buildkit.Limits{Addresses: []string{"unix:///x"}}})
	must(t, err)
	if e.Name() != "buildkit/30" {
		t.Errorf("name %q", e.Name())
	}
}

// testProcesses wants a step that has too many processes to fail by that, and the
// machine to have room for others.
func testProcesses(t *testing.T, e *buildkit.Engine) {
	b := buildtest.NewBench(t)
	r := b.Recipe(`for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 20 & done; echo all of them`)
	r.Limits = record.Limits{Processes: 16, Seconds: 300}
	log := new(buildtest.Log)
	_, err := e.Build(t.Context(), b.Job(r, log))
	if !errors.Is(err, build.ErrFailed) || strings.Contains(log.String(), "   all of them") {
		t.Errorf("%v; want ErrFailed\n%s", err, log)
	}
}

// testDisk wants the sum of a step's files bounded, and the reason told.
func testDisk(t *testing.T, e *buildkit.Engine) {
	for name, command := range map[string]string{
		"many files":     `i=0; while [ $i -lt 200 ]; do cat /bin/bash > file$i; i=$((i+1)); done; sleep 20; echo all of it`,
		"unnamed files":  `for f in 3 4 5; do eval "exec $f>x"; rm x; i=0; while [ $i -lt 30 ]; do eval "cat /bin/bash >&$f"; i=$((i+1)); done; done; sleep 20; echo all of it`,
		"a long way off": `n=$(printf '%0250d' 0); i=0; while [ $i -lt 20 ]; do mkdir $n; cd -P $n; i=$((i+1)); done; sleep 20; echo all of it`,
	} {
		t.Run(name, func(t *testing.T) { testDiskOf(t, e, command) })
	}
}

func testDiskOf(t *testing.T, e *buildkit.Engine, command string) {
	b := buildtest.NewBench(t)
	r := b.Recipe(command)
	r.Limits = record.Limits{Disk: 64 << 20, Seconds: 300}
	log := new(buildtest.Log)
	_, err := e.Build(t.Context(), b.Job(r, log))
	if !errors.Is(err, build.ErrFailed) || !strings.Contains(err.Error(), "more than its limit of disk, 64 MiB") || strings.Contains(log.String(), "   all of it") {
		t.Errorf("%v; want ErrFailed with the limit\n%s", err, log)
	}
}
