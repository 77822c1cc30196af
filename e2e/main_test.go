package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pyrsia/appliance/e2e/cluster"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/build/buildkit/buildkittest"
	"github.com/pyrsia/appliance/modules/build/buildtest"
	"github.com/pyrsia/appliance/modules/build/input/debian/debiantest"
)

// folder is of all that the stories make. Its name is short: sockets live below
// it.
var folder string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if folder, err = os.MkdirTemp("", "e2e"); err != nil {
		return 1, err
	}
	code = m.Run()
	failures := []error{inproc.close(code != 0), processes.close(code != 0), buildkittest.Remove(folder)}
	return code, errors.Join(append(failures, leaks())...)
}

// leaks is an error if something of the nodes in this process is left in it,
// when all have been stopped.
func leaks() error {
	http.DefaultClient.CloseIdleConnections()
	return goleak.Find(
		// One sweeper for all traffic counters of the process, for ever.
		goleak.IgnoreAnyFunction("github.com/libp2p/go-flow-metrics.(*sweeper).run"),
	)
}

// The programs that stories start, each built once for all of them.
var programs struct{ pyrsia, liar, buildkitd string }

// raceVariable names the environment variable that, when it is not empty, has
// the nodes built with the race detector.
const raceVariable = "PYRSIA_RACE"

// buildPrograms builds what stories of a kind start, as the release is built.
func buildPrograms(ctx context.Context, kind cluster.Kind) (err error) {
	if programs.pyrsia == "" {
		if programs.pyrsia, err = buildProgram(ctx, "../appliance/cmd/pyrsia"); err != nil {
			return err
		}
	}
	if kind == cluster.InProcess {
		return nil
	}
	if programs.liar, err = buildProgram(ctx, "./cmd/liar"); err != nil {
		return err
	}
	if kind == cluster.Processes {
		programs.buildkitd, err = buildkittest.Program(ctx)
	}
	return err
}

func buildProgram(ctx context.Context, pkg string) (string, error) {
	program := filepath.Join(folder, filepath.Base(pkg))
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", program, pkg)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if os.Getenv(raceVariable) != "" {
		command = exec.CommandContext(ctx, "go", "build", "-race", "-o", program, pkg)
	}
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return program, nil
}

// world is what stories share: a network of three build nodes and two regular
// ones, all of one kind. Each story has packages of its own in it, and leaves
// all nodes running and honest. It is made for the first story that asks.
type world struct {
	kind      cluster.Kind
	once      sync.Once
	err       error
	cluster   *cluster.Cluster
	upstreams *upstreams
}

var (
	inproc    = &world{kind: cluster.InProcess}
	processes = &world{kind: cluster.Processes}
)

// network is the network with all nodes running and the builder image
// published.
func (w *world) network(t *testing.T) *cluster.Cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these stories build for real, which needs root: run as root")
	}
	w.once.Do(func() { w.err = w.make(t) })
	if w.err != nil {
		t.Fatalf("the network of the stories: %v", w.err)
	}
	started(t, w.cluster)
	return w.cluster
}

// network is the one whose nodes are processes.
func network(t *testing.T) *cluster.Cluster {
	t.Helper()
	return processes.network(t)
}

func (w *world) make(t *testing.T) error {
	// The network outlives the story that happens to need it first.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	begun := time.Now()
	spec, err := w.spec(ctx, t)
	if err != nil {
		return err
	}
	if w.cluster, err = cluster.New(ctx, spec); err != nil {
		return err
	}
	if err := w.cluster.Start(ctx); err != nil {
		return err
	}
	if err := request(ctx, w.cluster.Node(0), builder); err != nil {
		return err
	}
	for _, n := range w.cluster.Nodes() {
		if _, err := n.WaitPublished(ctx, builder); err != nil {
			return err
		}
	}
	t.Logf("the network of the stories was ready after %s", time.Since(begun).Round(time.Second))
	return nil
}

// spec declares the network, and makes what it is made from: programs, upstreams
// and recipes.
func (w *world) spec(ctx context.Context, t *testing.T) (cluster.Spec, error) {
	own := filepath.Join(folder, w.kind.String())
	spec := cluster.Spec{
		Kind: w.kind, Folder: filepath.Join(own, "net"), Name: "stories", Build: 3, Regular: 2,
		Recipes: filepath.Join(own, "recipes"), Unverified: "pass", Level: "debug",
	}
	if err := buildPrograms(ctx, w.kind); err != nil {
		return spec, err
	}
	spec.Pyrsia = programs.pyrsia
	if w.kind == cluster.Processes {
		spec.Buildkitd = programs.buildkitd
	}
	debian, keys, err := w.debian(t)
	if err != nil {
		return spec, err
	}
	w.upstreams = newUpstreams(debian)
	engine, err := w.engine(ctx)
	if err != nil {
		return spec, err
	}
	spec.Adjust = func(s *cluster.NodeSpec) {
		s.Upstreams, s.Engine = w.upstreams.of(s.Name), engine
		if s.Build {
			s.Upload = "16MiB/s" // so that a fetch takes long enough to be interrupted
		}
	}
	return spec, writeRecipes(spec.Recipes, w.upstreams, keys)
}

// debian is the archive that the builder image is made from, and the keys that
// sign it. The engine of nodes in this process installs nothing, so that a small
// archive will do: they prove its files as they prove Debian's.
func (w *world) debian(t *testing.T) (file func(string) ([]byte, error), keys []string, err error) {
	if w.kind == cluster.InProcess {
		file, keys := littleDebian(t)
		return file, keys, nil
	}
	real, err := newRealDebian()
	if err != nil {
		return nil, nil, err
	}
	return real.file, debianKeys, nil
}

// littleDebian is an archive of one package, which test engines do not install.
func littleDebian(t *testing.T) (file func(string) ([]byte, error), keys []string) {
	archive := debiantest.New(t)
	archive.Add("pool/main/b/busybox/busybox_1_amd64.deb", "Package: busybox\nVersion: 1\nArchitecture: amd64\nPriority: optional\n", "small tools")
	return smallDebian(archive.Files(t)), []string{archive.Fingerprint()}
}

// engine is the one of nodes in this process; those that are processes have
// BuildKit's.
func (w *world) engine(ctx context.Context) (func(build.Engine) build.Engine, error) {
	if w.kind != cluster.InProcess {
		return nil, nil
	}
	relay, err := buildkittest.Relay(ctx)
	return func(build.Engine) build.Engine { return &buildtest.Local{Relay: relay} }, err
}

// close ends what runs. After a failure the nodes' logs are kept.
func (w *world) close(keep bool) error {
	if w.upstreams != nil {
		defer w.upstreams.close()
	}
	if w.cluster == nil {
		return nil
	}
	if err := w.cluster.Stop(); err != nil {
		return err
	}
	races := w.races()
	if keep || races != nil {
		for _, n := range w.cluster.Nodes() {
			keepLog(n, w.kind.String())
		}
	}
	return races
}

// keepLog keeps a node's log for people.
func keepLog(n *cluster.Node, network string) {
	logs := filepath.Join(os.TempDir(), "pyrsia-e2e-logs", network)
	if data, err := os.ReadFile(n.Log()); err == nil && os.MkdirAll(logs, 0o755) == nil {
		os.WriteFile(filepath.Join(logs, n.Name+".log"), data, 0o644) //nolint:errcheck // the story has failed already
		fmt.Fprintln(os.Stderr, "e2e: a log is in", filepath.Join(logs, n.Name+".log"))
	}
}

// races is an error if a node that was built with the race detector found one.
func (w *world) races() error {
	var found error
	for _, n := range w.cluster.Nodes() {
		if data, err := os.ReadFile(n.Log()); err == nil && bytes.Contains(data, []byte("WARNING: DATA RACE")) {
			found = errors.Join(found, fmt.Errorf("%s has a data race; see its log", n.Name))
		}
	}
	return found
}
