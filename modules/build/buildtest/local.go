package buildtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/build/buildkit"
)

// Local is an engine for tests that want real builds and no buildkitd: it
// unpacks a job's root, which the BuildKit engine packs for it, into a temporary
// folder and runs the recipe's commands there, in a chroot with mounts,
// processes and a network of their own. It needs root and busybox.
//
// It is no engine for a product. It bounds no memory; it has nothing against a
// recipe that wants out of its chroot; a builder image's layers may add and
// replace files, and not take any away. A recipe that bootstraps from Debian
// packages gets the tiny image, which is equal on one machine only.
type Local struct {
	// Relay is the program that runs beside the commands of Resolve, as
	// buildkit.Config has it.
	Relay []string
}

var _ build.Engine = (*Local)(nil)

// Name implements build.Engine.
func (*Local) Name() string { return "local/1" }

// Build implements build.Engine.
func (l *Local) Build(ctx context.Context, job build.Job) ([]build.File, error) {
	if job.Recipe.Builder == "" {
		return tinyOutputs(job)
	}
	var files []build.File
	err := l.run(ctx, job, nil, func(root, workDir string) (err error) {
		files, err = outputs(job, root, workDir)
		return err
	})
	return files, err
}

// tinyOutputs is the tiny image in the place of the recipe's own.
func tinyOutputs(job build.Job) ([]build.File, error) {
	image, err := TinyImage(job.Folder, job.Recipe.Package.Repository())
	if err != nil {
		return nil, err
	}
	for _, f := range image.Files {
		if err := syncPath(f.Path); err != nil {
			return nil, err
		}
	}
	return image.Files, syncPath(job.Folder)
}

// Resolve implements build.Engine.
func (l *Local) Resolve(ctx context.Context, job build.Job, mirror http.Handler) error {
	return l.run(ctx, job, mirror, func(string, string) error { return nil })
}

// run runs the commands, with a mirror where it is not nil, and then done while
// their root still exists.
func (l *Local) run(ctx context.Context, job build.Job, mirror http.Handler, done func(root, workDir string) error) error {
	if limit := time.Duration(job.Recipe.Limits.Seconds) * time.Second; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w: it took longer than its limit of %s", build.ErrFailed, limit))
		defer cancel()
	}
	// Not below the job's folder: a socket is in it, whose path must be short.
	scratch, err := os.MkdirTemp("", "local")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	packed, err := buildkit.PackRoot(ctx, job, scratch, mirror != nil)
	if err != nil {
		return err
	}
	r := &room{job: job, packed: packed, folder: filepath.Join(scratch, "root")}
	if err := unpack(r.folder, packed.Layers); err != nil {
		return err
	}
	if mirror != nil {
		server, err := l.serve(r.folder, mirror)
		if err != nil {
			return err
		}
		defer server.close()
		r.before = server.relay
	}
	for _, step := range packed.Steps {
		if err := r.step(ctx, step); err != nil {
			return err
		}
	}
	return done(r.folder, packed.WorkDir)
}

// room is where a job's commands run.
type room struct {
	job    build.Job
	packed *buildkit.Root
	folder string   // of the root
	before []string // what every command is started by
}

// enter is run by busybox's shell in a step's own namespaces: it mounts what
// every root has, and then becomes the command.
//
//	$0 busybox   $1 root   $2 largest file in blocks of 512 bytes   $3… command
const enter = `trap 'exit 125' EXIT
busybox=$0 root=$1 blocks=$2
shift 2
"$busybox" mount -t proc proc "$root/proc"
"$busybox" mount -t sysfs -o ro sysfs "$root/sys"
for device in full null random urandom zero; do
	: > "$root/dev/$device"
	"$busybox" mount -o bind "/dev/$device" "$root/dev/$device"
done
"$busybox" ip link set lo up
ulimit -f "$blocks"
exec "$busybox" chroot "$root" "$@"
`

// exitEnter is the code of an enter that failed.
const exitEnter = 125

func (r *room) step(ctx context.Context, s buildkit.Step) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("%w; run: apt-get install busybox", err)
	}
	name, _, _ := strings.Cut(s.Name, "\n")
	fmt.Fprintf(r.job.Log, "=> %s\n", name)
	script := "cd '" + strings.ReplaceAll(r.packed.WorkDir, "'", `'\''`) + "'\n" + s.Script
	command := exec.CommandContext(ctx, busybox, slices.Concat(
		[]string{"sh", "-euc", enter, busybox, r.folder, blocks(r.job.Recipe.Limits.Disk)},
		r.before, []string{"/bin/sh", "-eu", "-c", script})...)
	command.Env = r.packed.Variables
	command.Stdout, command.Stderr = r.job.Log, r.job.Log
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		// Not among the flags of clone: so Go also makes the mounts private.
		Unshareflags: syscall.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL,
	}
	err = command.Run()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return blame(name, err)
}

// blame says whose fault it is that a step failed.
func blame(name string, err error) error {
	exit := (*exec.ExitError)(nil)
	if !errors.As(err, &exit) {
		return err
	}
	code := exit.ExitCode()
	if status := exit.Sys().(syscall.WaitStatus); status.Signaled() {
		code = 128 + int(status.Signal())
	}
	if code == exitEnter {
		return fmt.Errorf("%s: its namespaces cannot be made; the build's log says why", name)
	}
	return fmt.Errorf("%w: %s: exit code %d", build.ErrFailed, name, code)
}

func blocks(size int64) string {
	if size <= 0 {
		return "unlimited"
	}
	return strconv.FormatInt((size+511)/512, 10)
}

// Where the relay and its socket are in a root, as BuildKit's builds have them.
const (
	relayProgram = "/run/pyrsia/relay"
	mirrorSocket = "/run/pyrsia-mirror.sock"
)

// mirrorServer is a mirror at a socket in a root.
type mirrorServer struct {
	relay  []string // what to put before a command that is to reach it
	server *http.Server
	served chan struct{}
}

func (l *Local) serve(root string, mirror http.Handler) (*mirrorServer, error) {
	if len(l.Relay) == 0 {
		return nil, errors.New("this engine has no relay program, so it cannot resolve a recipe's inputs")
	}
	if err := l.install(filepath.Join(root, relayProgram)); err != nil {
		return nil, fmt.Errorf("relay program: %w", err)
	}
	listener, err := net.Listen("unix", filepath.Join(root, mirrorSocket))
	if err != nil {
		return nil, err
	}
	m := &mirrorServer{server: &http.Server{Handler: mirror}, served: make(chan struct{})}
	m.relay = append([]string{relayProgram}, l.Relay[1:]...)
	m.relay = append(m.relay, mirrorSocket, buildkit.MirrorAddress, "--")
	go func() {
		defer close(m.served)
		m.server.Serve(listener) //nolint:errcheck // it ends by close
	}()
	return m, nil
}

// install copies the relay into a root.
func (l *Local) install(program string) error {
	source, err := os.Open(l.Relay[0])
	if err != nil {
		return err
	}
	defer source.Close()
	return errors.Join(os.MkdirAll(filepath.Dir(program), 0o755), writeNew(program, 0o755, source))
}

func (m *mirrorServer) close() {
	m.server.Close()
	<-m.served
}
