package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/pyrsia/appliance/modules/build/buildkit/cage"
)

// Buildkitd is a buildkitd of one's own: an OCI worker with runc, its root and
// socket in a folder that nobody else uses.
type Buildkitd struct {
	process *Process
	socket  string
	runc    string // program that runs the steps
}

// NewBuildkitd is a buildkitd that is not started, on a machine that looks as m says.
// It runs steps by pyrsia in runc's place, as an installed one does.
func NewBuildkitd(program, pyrsia, folder string, outlive bool, m Machine) *Buildkitd {
	file := func(name string) string { return filepath.Join(folder, name) }
	socket := file("bk.sock")
	p := &Process{Name: "buildkitd", Folder: folder, Outlive: outlive, Env: m.Env, Args: []string{
		// A file of our own, so that this machine's /etc/buildkit has no say.
		program, "--config", file("buildkitd.toml"), "--root", filepath.Join(folder, m.Folder, "root"), "--addr", "unix://" + socket,
		// Steps have no network; "host" only keeps buildkitd from looking for
		// network plug-ins.
		"--otel-socket-path", file("otel.sock"), "--oci-worker=true", "--oci-worker-net=host", "--containerd-worker=false",
		"--oci-worker-binary", file(cage.Program),
	}}
	if m.Runc != "" {
		p.Env = append(p.Env, "PYRSIA_RUNC="+m.Runc)
	}
	if m.Host != "" || m.CPUs != 0 || m.Umask != 0 {
		p.within = m.within
	}
	return &Buildkitd{socket: socket, runc: pyrsia, process: p}
}

// Address is the worker's address, for build.workers.
func (b *Buildkitd) Address() string { return "unix://" + b.socket }

// Running tells whether it runs.
func (b *Buildkitd) Running() bool { return b.process.Running() }

// Stop ends it in an orderly way. Its root stays.
func (b *Buildkitd) Stop() error { return b.process.Stop(30 * time.Second) }

// Start starts it where it does not run, and returns when it answers.
func (b *Buildkitd) Start(ctx context.Context) error {
	if b.Running() {
		return nil
	}
	if os.Geteuid() != 0 {
		return errors.New("a build node's buildkitd needs root; run this as root")
	}
	if err := os.MkdirAll(b.process.Folder, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.process.Folder, "buildkitd.toml"), nil, 0o600); err != nil {
		return err
	}
	link := filepath.Join(b.process.Folder, cage.Program)
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(b.runc, link); err != nil {
		return err
	}
	// A killed buildkitd leaves its socket, which would look like an answer.
	if err := os.Remove(b.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := b.process.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := Until(ctx, func() (bool, error) {
		if err := b.process.failed(); err != nil {
			return false, err
		}
		connection, err := net.Dial("unix", b.socket)
		if err != nil {
			return false, nil
		}
		return true, connection.Close()
	})
	if err != nil {
		return fmt.Errorf("the buildkitd in %s does not start: %w", b.process.Folder, err)
	}
	return nil
}
