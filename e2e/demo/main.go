// Command demo is the driver of `make demo`: a whole network on this machine,
// from source to client, with real tools at both ends.
//
//	demo [-folder .demo] [-bin bin] up|stop|clean
//
// up starts three build nodes and a regular one, has a builder image and a
// Maven library built, voted on and published, and lets Maven, docker and
// skopeo fetch them. Every step checks what it claims, and the exit code is 0
// only if all were seen. The network is left running; stop ends it, and clean
// also removes the folder.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/pyrsia/appliance/e2e/cluster"
	"github.com/pyrsia/appliance/modules/build/buildkit/buildkittest"
)

func main() {
	folder := flag.String("folder", ".demo", "where the demo keeps all it makes")
	bin := flag.String("bin", "bin", "where pyrsia and buildkitd are")
	recipes := flag.String("recipes", "hcl/examples/recipes", "recipes of the build nodes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, flag.Args(), *folder, *bin, *recipes)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = errors.New("interrupted; what runs goes on, `make demo` continues and `make demo-stop` ends it")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", strings.TrimSpace(err.Error()))
		os.Exit(1)
	}
}

func run(ctx context.Context, verbs []string, folder, bin, recipes string) error {
	if len(verbs) != 1 {
		return errors.New("want one of: up, stop, clean")
	}
	d, err := newDemo(folder, bin, recipes)
	if err != nil {
		return err
	}
	switch verbs[0] {
	case "up":
		return d.up(ctx)
	case "stop":
		return d.stop()
	case "clean":
		return d.clean()
	}
	return fmt.Errorf("unknown verb %q; want one of: up, stop, clean", verbs[0])
}

// entrance is where the regular node serves build tools.
const entrance = "127.0.0.1:7888"

// demo is one run of the driver.
type demo struct {
	folder  string // absolute, without symbolic links
	spec    cluster.Spec
	cluster *cluster.Cluster
	docker  *docker
	out     *printer
	locked  *os.File // held until the program ends

	image   *published // the builder image
	library *published // the Maven library
	facts   facts
}

func newDemo(folder, bin, recipes string) (*demo, error) {
	var failures []error
	absolute := func(path string) string {
		path, err := filepath.Abs(path)
		failures = append(failures, err)
		return path
	}
	folder, bin, recipes = absolute(folder), absolute(bin), absolute(recipes)
	if parent, err := filepath.EvalSymlinks(filepath.Dir(folder)); err == nil {
		folder = filepath.Join(parent, filepath.Base(folder))
	}
	d := &demo{folder: folder, out: newPrinter(os.Stdout), spec: cluster.Spec{
		Folder: filepath.Join(folder, "net"), Name: "demo", Build: 3, Regular: 1,
		Pyrsia: filepath.Join(bin, "pyrsia"), Buildkitd: filepath.Join(bin, "buildkitd"),
		Recipes: recipes, Unverified: "pass", Outlive: true,
		Adjust: func(s *cluster.NodeSpec) {
			if !s.Build {
				s.Registry = entrance
			}
		},
	}}
	d.docker = newDocker(filepath.Join(folder, "docker"))
	return d, errors.Join(failures...)
}

// lock keeps a second driver out of the folder until this program ends.
func (d *demo) lock() error {
	if err := os.MkdirAll(d.folder, 0o755); err != nil {
		return fmt.Errorf("make the demo's folder: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(d.folder, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another `make demo` works in %s; wait for it, or interrupt it", d.folder)
	}
	d.locked = file
	return nil
}

func (d *demo) stop() error {
	if err := d.lock(); err != nil {
		return err
	}
	c, err := cluster.Open(d.spec)
	if err != nil {
		return err
	}
	if err := errors.Join(d.docker.stop(), c.Stop()); err != nil {
		return err
	}
	fmt.Println("the demo is stopped; `make demo` starts it again, `make demo-clean` removes it")
	return nil
}

func (d *demo) clean() error {
	if err := d.lock(); err != nil {
		return err
	}
	c, err := cluster.Open(d.spec)
	if err != nil {
		// A cluster that cannot be read any more still has processes; no state is
		// needed to find them.
		os.Remove(filepath.Join(d.spec.Folder, "cluster.json"))
		if c, err = cluster.Open(d.spec); err != nil {
			return err
		}
	}
	if err := errors.Join(d.docker.stop(), c.Stop()); err != nil {
		return err
	}
	if err := buildkittest.Remove(d.folder); err != nil {
		return fmt.Errorf("remove %s: %w", d.folder, err)
	}
	fmt.Println("the demo is gone; Debian's packages are still installed")
	return nil
}
