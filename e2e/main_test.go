package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pyrsia/appliance/e2e/cluster"
	"github.com/pyrsia/appliance/modules/build/buildkit/buildkittest"
)

// The programs that stories start, built once for all of them.
var programs struct{ pyrsia, liar, buildkitd string }

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	// Short: sockets live below it.
	folder, err := os.MkdirTemp("", "e2e")
	if err != nil {
		return 1, err
	}
	world.folder = folder
	defer func() {
		if closing := world.close(code != 0); err == nil {
			err = closing
		}
	}()
	return m.Run(), nil
}

// raceVariable names the environment variable that, when it is not empty, has
// the nodes built with the race detector.
const raceVariable = "PYRSIA_RACE"

// buildPrograms builds what the stories start, as the release is built.
func buildPrograms(ctx context.Context, folder string) error {
	programs.pyrsia, programs.liar = filepath.Join(folder, "pyrsia"), filepath.Join(folder, "liar")
	for program, pkg := range map[string]string{programs.pyrsia: "../appliance/cmd/pyrsia", programs.liar: "./cmd/liar"} {
		command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", program, pkg)
		command.Env = append(os.Environ(), "CGO_ENABLED=0")
		if os.Getenv(raceVariable) != "" {
			command = exec.CommandContext(ctx, "go", "build", "-race", "-o", program, pkg)
		}
		if out, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	var err error
	programs.buildkitd, err = buildkittest.Program(ctx)
	return err
}

// world is what the stories share: one network of three build nodes and two
// regular ones. Each story has packages of its own in it, and leaves all nodes
// running the honest program. It is made for the first story that asks.
var world shared

type shared struct {
	folder    string
	once      sync.Once
	err       error
	cluster   *cluster.Cluster
	upstreams *upstreams
}

// network is the shared network with all nodes running and the builder image
// published.
func network(t *testing.T) *cluster.Cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these stories build with buildkitd and runc, which need root: run as root")
	}
	world.once.Do(func() { world.err = world.make(t) })
	if world.err != nil {
		t.Fatalf("the network of the stories: %v", world.err)
	}
	started(t, world.cluster)
	return world.cluster
}

func (w *shared) make(t *testing.T) error {
	// The network outlives the story that happens to need it first.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	begun := time.Now()
	if err := buildPrograms(ctx, w.folder); err != nil {
		return err
	}
	var err error
	if w.upstreams, err = newUpstreams(); err != nil {
		return err
	}
	recipes := filepath.Join(w.folder, "recipes")
	if err := writeRecipes(recipes, w.upstreams); err != nil {
		return err
	}
	w.cluster, err = cluster.New(ctx, cluster.Spec{
		Folder: filepath.Join(w.folder, "net"), Name: "stories", Build: 3, Regular: 2,
		Pyrsia: programs.pyrsia, Buildkitd: programs.buildkitd, Recipes: recipes, Unverified: "pass", Level: "debug",
		Adjust: func(s *cluster.NodeSpec) {
			s.Upstreams = w.upstreams.of(s.Name)
			if s.Build {
				s.Upload = "16MiB/s" // so that a fetch takes long enough to be interrupted
			}
		},
	})
	if err != nil {
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

// close ends what runs. After a failure the nodes' logs are kept.
func (w *shared) close(keep bool) error {
	if w.upstreams != nil {
		defer w.upstreams.close()
	}
	if w.cluster == nil {
		return os.RemoveAll(w.folder)
	}
	if err := w.cluster.Stop(); err != nil {
		return err
	}
	races := w.races()
	if keep || races != nil {
		logs := filepath.Join(os.TempDir(), "pyrsia-e2e-logs")
		for _, n := range w.cluster.Nodes() {
			if data, err := os.ReadFile(n.Log()); err == nil && os.MkdirAll(logs, 0o755) == nil {
				os.WriteFile(filepath.Join(logs, n.Name+".log"), data, 0o644)
			}
		}
		fmt.Fprintln(os.Stderr, "e2e: the nodes' logs are in", logs)
	}
	return errors.Join(races, buildkittest.Remove(w.folder))
}

// races is an error if a node that was built with the race detector found one.
func (w *shared) races() error {
	var found error
	for _, n := range w.cluster.Nodes() {
		if data, err := os.ReadFile(n.Log()); err == nil && bytes.Contains(data, []byte("WARNING: DATA RACE")) {
			found = errors.Join(found, fmt.Errorf("%s has a data race; see its log", n.Name))
		}
	}
	return found
}
