// Command coverage is the driver of `make coverage`: it imports the buildspecs of
// released Maven packages, has each built from source by two build nodes whose
// machines differ, and writes which of them came out byte for byte as released.
//
//	coverage [flags] run|report|stop|clean
//
// run goes on where an earlier run stopped: what has a result keeps it, unless -again
// is given. report writes the table anew from the results. stop ends the network that
// run leaves running, and clean also removes its folder.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/pyrsia/appliance/e2e/cluster"
)

func main() {
	var o options
	flag.StringVar(&o.folder, "folder", ".coverage", "where the network keeps all it makes")
	flag.StringVar(&o.bin, "bin", "bin", "where pyrsia and buildkitd are")
	flag.StringVar(&o.images, "images", "hcl/examples/recipes", "recipes of the builder images")
	flag.StringVar(&o.specs, "specs", "e2e/coverage/specs", "buildspecs, or a checkout that has them")
	flag.StringVar(&o.results, "results", "docs/coverage", "results (.json) and table (.md) to write")
	flag.StringVar(&o.only, "only", "", "only what has this text in its package URL or file name")
	flag.IntVar(&o.parallel, "parallel", 1, "how many packages are under way at once")
	flag.BoolVar(&o.again, "again", false, "also what has a result")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, flag.Args(), o); err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted; what has a result is kept, `make coverage` goes on with the rest")
		}
		fmt.Fprintln(os.Stderr, "coverage:", strings.TrimSpace(err.Error()))
		os.Exit(1)
	}
}

type options struct {
	folder, bin, images, specs, results, only string

	parallel int
	again    bool
}

func run(ctx context.Context, verbs []string, o options) error {
	if len(verbs) != 1 {
		return errors.New("want one of: run, report, stop, clean")
	}
	c, err := newCoverage(o)
	if err != nil {
		return err
	}
	switch verbs[0] {
	case "run":
		return c.run(ctx)
	case "report":
		return c.report()
	case "stop":
		return c.cluster.Stop()
	case "clean":
		return c.cluster.Remove()
	}
	return fmt.Errorf("unknown verb %q; want one of: run, report, stop, clean", verbs[0])
}

// coverage is one run of the driver.
type coverage struct {
	options
	cluster *cluster.Cluster
	spec    cluster.Spec
	results *results
}

// faketime is where Debian's libfaketime has the library for programs with threads.
const faketime = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"

// ahead is how far the second build node's clock is ahead of the first one's.
const ahead = "+400d"

// varied is the machine of the second build node. The first one's is this machine as
// it is.
var varied = cluster.Machine{
	Host: "elsewhere", CPUs: 1, Umask: 0o077, Folder: "a/folder/that/lies/some/steps/deeper",
	Env: []string{"USER=someone", "LOGNAME=someone", "HOME=/nonexistent", "TZ=Asia/Kathmandu", "LANG=tr_TR.UTF-8"},
}

func newCoverage(o options) (*coverage, error) {
	c := &coverage{options: o}
	absolute := func(path *string) (err error) {
		*path, err = filepath.Abs(*path)
		return err
	}
	if err := errors.Join(absolute(&c.folder), absolute(&c.bin), absolute(&c.images), absolute(&c.specs)); err != nil {
		return nil, err
	}
	upstreams, err := cluster.FindUpstreams()
	if err != nil {
		return nil, err
	}
	c.spec = cluster.Spec{
		Folder: filepath.Join(c.folder, "net"), Name: "coverage", Build: 2,
		Pyrsia: filepath.Join(c.bin, "pyrsia"), Buildkitd: filepath.Join(c.bin, "buildkitd"),
		Upstreams: upstreams, Recipes: c.images, Outlive: true,
		Adjust: func(s *cluster.NodeSpec) {
			if s.Name != "alpha" {
				s.Machine = varied
				s.Machine.Runc = filepath.Join(c.bin, "vary")
				s.Machine.Env = append(slices.Clone(varied.Env), "VARY_LIBRARY="+faketime, "VARY_TIME="+ahead)
			}
		},
	}
	if c.cluster, err = cluster.Open(c.spec); err != nil {
		return nil, err
	}
	c.results, err = readResults(o.results + ".json")
	return c, err
}
