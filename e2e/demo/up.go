package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pyrsia/appliance/e2e/cluster"
	"github.com/pyrsia/appliance/modules/artifact"
)

const (
	imagePackage   artifact.PURL = "pkg:docker/pyrsia/jdk21-maven@3.9.11"
	libraryPackage artifact.PURL = "pkg:maven/org.codehaus.plexus/plexus-archiver@4.10.2"
	libraryJar                   = "plexus-archiver-4.10.2.jar"

	// The released jar, as its own publisher's repository has it.
	libraryJarSHA512 = "1337f455"
	libraryJarSize   = 230_316

	// needed is the free space below which a run is not begun, in bytes: three
	// roots of buildkitd with the image twice each, four stores.
	needed = 10 << 30
)

// facts are what the steps saw, for the table at the end.
type facts struct {
	equalsUpstream bool
	verified       int // files that Maven got verified
	unverified     int // files that Maven got marked as unverified
	java           string
}

func (d *demo) up(ctx context.Context) error {
	if err := d.check(); err != nil {
		return err
	}
	if err := d.lock(); err != nil {
		return err
	}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"Start three build nodes and a regular node", d.network},
		{"Builder image " + string(imagePackage) + ": built by all, voted on, published", d.buildImage},
		{"Library " + string(libraryPackage) + ": built from source by all, voted on, published", d.buildLibrary},
		{"Compare the jar with the released one, and prove it offline", d.compare},
		{"A real Maven with an empty repository compiles against the library, by the regular node alone", d.maven},
		{"A real dockerd pulls the builder image by the regular node, and runs it", d.pull},
		{"skopeo copies the builder image from the regular node", d.copyImage},
		{"All nodes have the same log", d.sameLog},
	} {
		d.out.begin(step.what)
		if err := step.do(ctx); err != nil {
			d.out.plain("\n")
			return fmt.Errorf("not seen: %s: %w\n  logs are in %s/*/node.log; `make demo` tries again, `make demo-stop` ends what runs", step.what, err, d.spec.Folder)
		}
		d.out.say("seen")
	}
	return d.report(ctx)
}

// check finds what is in the way before anything is made.
func (d *demo) check() error {
	if os.Geteuid() != 0 {
		return errors.New("buildkitd and dockerd need root; run as root: sudo make demo")
	}
	for program, remedy := range map[string]string{
		d.spec.Pyrsia: "make build", d.spec.Buildkitd: "make build",
		"runc": "apt-get install runc", "mvn": "apt-get install maven", "javac": "apt-get install default-jdk-headless",
		"dockerd": "apt-get install docker.io", dockerClient: "apt-get install docker.io docker-cli", "skopeo": "apt-get install skopeo",
	} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is missing; run: %s", program, remedy)
		}
	}
	if err := checkMemoryController("/sys/fs/cgroup"); err != nil {
		return err
	}
	if err := d.checkSpace(); err != nil {
		return err
	}
	var err error
	if d.spec.Upstreams, err = cluster.FindUpstreams(); err != nil {
		return err
	}
	if d.cluster, err = cluster.Open(d.spec); err != nil {
		return err
	}
	if !d.cluster.Regular(0).Running() {
		return cluster.CheckPort(entrance)
	}
	return nil
}

// checkMemoryController finds out whether runc can bound a build's memory. A
// chroot or a container may have a cgroup2 that was given no memory controller.
func checkMemoryController(root string) error {
	controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err == nil && slices.Contains(strings.Fields(string(controllers)), "memory") {
		return nil
	}
	if _, err := os.Stat(filepath.Join(root, "memory")); err == nil {
		return nil // cgroup v1
	}
	return fmt.Errorf("%s has no memory controller, and a build's memory could not be bounded; run on the machine itself, or give this container the controller", root)
}

func (d *demo) checkSpace() error {
	if _, err := os.Stat(d.spec.Folder); err == nil {
		return nil // most of what the demo needs is there already
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(d.folder), &fs); err != nil {
		return fmt.Errorf("look at the disk of %s: %w", d.folder, err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < needed {
		return fmt.Errorf("the disk of %s has %d GiB free and the demo needs %d; free some space, or clone onto a larger disk", filepath.Dir(d.folder), free>>30, needed>>30)
	}
	return nil
}

func (d *demo) network(ctx context.Context) error {
	if err := d.stopOutdated(); err != nil {
		return err
	}
	var err error
	if d.cluster, err = cluster.New(ctx, d.spec); err != nil {
		return err
	}
	if err := d.cluster.Start(ctx); err != nil {
		return err
	}
	d.out.say("network %s", d.cluster.Genesis())
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, n := range d.cluster.Nodes() {
		if err := d.connected(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// connected waits until a node has a connection to every build node.
func (d *demo) connected(ctx context.Context, n *cluster.Node) error {
	missing := ""
	err := cluster.Until(ctx, func() (bool, error) {
		status, err := n.Status(ctx)
		if err != nil {
			return false, err
		}
		missing = ""
		for _, m := range status.Members {
			if !m.Self && !m.Connected {
				missing += " " + m.Label
			}
		}
		if missing != "" {
			d.out.progress("waiting for " + n.Name + " to connect to" + missing)
			return false, nil
		}
		d.out.say("%-5s  %-7s  %s  %s", n.Name, status.Role, status.Identity, strings.Join(status.Registry, " "))
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("%s is not connected to%s: %w", n.Name, missing, err)
	}
	return nil
}

// stopOutdated stops nodes of an earlier run whose program was built anew since.
func (d *demo) stopOutdated() error {
	for _, n := range d.cluster.Nodes() {
		if !n.Outdated() {
			continue
		}
		d.out.say("%s runs an older program; it is restarted", n.Name)
		if err := n.Stop(); err != nil {
			return err
		}
	}
	return nil
}
