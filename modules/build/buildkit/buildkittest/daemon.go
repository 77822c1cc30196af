// Package buildkittest is a buildkitd of one's own: for the tests of the build
// engine, for stories that build something real, and for the demo.
//
// A daemon has its own root folder, socket and state, so that several on one
// machine share nothing. It needs root and runc; nothing here skips.
package buildkittest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/build/buildtest"
)

// ProgramVariable names the environment variable with buildkitd's path.
const ProgramVariable = "PYRSIA_BUILDKITD"

const (
	buildkitdPackage = "github.com/moby/buildkit/cmd/buildkitd"
	buildctlPackage  = "github.com/moby/buildkit/cmd/buildctl"
	cagePackage      = "github.com/pyrsia/appliance/modules/build/buildkit/buildkittest/cageprogram"
	relayPackage     = "github.com/pyrsia/appliance/modules/build/buildkit/buildkittest/relayprogram"

	startTimeout = 60 * time.Second
	stopTimeout  = 30 * time.Second
)

// Daemon is a running buildkitd.
type Daemon struct {
	Address string // for buildkit.Config.Addresses
	Root    string // all that it keeps

	command *exec.Cmd
	exited  chan struct{}
	exit    error // set before exited is closed
}

// Start runs a daemon that ends, and whose root goes, with the test. What it
// wrote is shown when the test failed.
func Start(t testing.TB) *Daemon {
	t.Helper()
	// Not t.TempDir: its names are longer than a socket's path may be.
	folder, err := os.MkdirTemp("", "bk")
	if err != nil {
		t.Fatal(err)
	}
	log := new(buildtest.Log)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("buildkitd:\n%s", log)
		}
	})
	d, err := Launch(t.Context(), folder, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(d.Close(), Remove(folder)); err != nil {
			t.Errorf("end buildkitd: %v", err)
		}
	})
	return d
}

// Launch runs a daemon whose root and socket are in folder, which is made where
// it is missing and kept. It returns when the daemon answers; ctx bounds only
// that wait. folder's path must leave room for a socket name below 108 bytes.
func Launch(ctx context.Context, folder string, log io.Writer) (*Daemon, error) {
	program, err := Program(ctx)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	// A file of our own, so that this machine's /etc/buildkit has no say.
	config := filepath.Join(folder, "buildkitd.toml")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		return nil, err
	}
	socket := filepath.Join(folder, "buildkitd.sock")
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	d := &Daemon{Address: "unix://" + socket, Root: filepath.Join(folder, "root"), exited: make(chan struct{})}
	runc, err := goBuild(ctx, cagePackage)
	if err != nil {
		return nil, err
	}
	d.command = exec.Command(program, "--config", config, "--root", d.Root, "--addr", d.Address,
		"--otel-socket-path", filepath.Join(folder, "otel.sock"), "--oci-worker-binary", runc,
		"--oci-worker=true", "--oci-worker-net=host", "--containerd-worker=false")
	d.command.Stdout, d.command.Stderr = log, log
	// A group of its own: a Ctrl-C at the terminal is for us, and we end it.
	d.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.command.Start(); err != nil {
		return nil, fmt.Errorf("start buildkitd: %w", err)
	}
	go func() {
		d.exit = d.command.Wait()
		close(d.exited)
	}()
	if err := d.ready(ctx, socket); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Daemon) ready(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if c, err := net.Dial("unix", socket); err == nil {
			return c.Close()
		}
		select {
		case <-d.exited:
			return fmt.Errorf("buildkitd ended at once (is this root, and is runc installed?): %w", d.exit)
		case <-ctx.Done():
			return fmt.Errorf("buildkitd does not answer at %s: %w", socket, ctx.Err())
		case <-tick.C:
		}
	}
}

// PID is the daemon's process id.
func (d *Daemon) PID() int { return d.command.Process.Pid }

// Close ends the daemon and waits for it. The root stays.
func (d *Daemon) Close() error {
	d.command.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-d.exited:
	case <-timer.C:
		d.command.Process.Kill()
		<-d.exited
		return errors.New("buildkitd did not end in time and was killed")
	}
	return nil
}

// Kill ends the daemon like a power cut, and waits for it. The root stays.
func (d *Daemon) Kill() {
	d.command.Process.Kill()
	<-d.exited
}

// Remove removes a folder that daemons had their root in, with the mounts that
// a killed one left below it.
func Remove(folder string) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var points []string
	for line := range bytes.Lines(table) {
		// mountinfo(5): the fifth field is the mount point.
		if fields := strings.Fields(string(line)); len(fields) > 4 && strings.HasPrefix(fields[4], folder+"/") {
			points = append(points, fields[4])
		}
	}
	sort.Sort(sort.Reverse(sort.StringSlice(points)))
	for _, p := range points {
		if err := syscall.Unmount(p, syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", p, err)
		}
	}
	return os.RemoveAll(folder)
}

// Program is buildkitd's path: $PYRSIA_BUILDKITD, or the one on PATH, or one
// that is built here, once, from the module that go.mod pins.
func Program(ctx context.Context) (string, error) {
	return find(ctx, ProgramVariable, buildkitdPackage)
}

// Buildctl is the path of BuildKit's own client, found like Program, by
// $PYRSIA_BUILDCTL.
func Buildctl(ctx context.Context) (string, error) {
	return find(ctx, "PYRSIA_BUILDCTL", buildctlPackage)
}

func find(ctx context.Context, variable, pkg string) (string, error) {
	if program := os.Getenv(variable); program != "" {
		if _, err := os.Stat(program); err != nil {
			return "", fmt.Errorf("$%s: %w", variable, err)
		}
		return program, nil
	}
	if program, err := exec.LookPath(filepath.Base(pkg)); err == nil {
		return program, nil
	}
	return goBuild(ctx, pkg)
}

// Relay is a relay program for buildkit.Config.Relay, built here.
func Relay(ctx context.Context) ([]string, error) {
	program, err := goBuild(ctx, relayPackage)
	return []string{program}, err
}

var building sync.Mutex

// goBuild builds a static program into the user's cache folder. The go command
// itself knows whether anything changed; two that build at once each move a
// whole file into place.
func goBuild(ctx context.Context, pkg string) (string, error) {
	building.Lock()
	defer building.Unlock()
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	folder := filepath.Join(cache, "pyrsia-test")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	program := filepath.Join(folder, filepath.Base(pkg))
	fresh, err := os.MkdirTemp(folder, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	made := filepath.Join(fresh, filepath.Base(pkg))
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", made, pkg)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, output)
	}
	return program, os.Rename(made, program)
}
