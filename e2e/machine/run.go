package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// path is where programs are, in a machine and on the host.
const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is what a command finds: root's, with nothing of the host's.
var environment = []string{
	"PATH=" + path, "HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh",
	"LANG=C.UTF-8", "TERM=dumb", "SYSTEMD_PAGER=", "DEBIAN_FRONTEND=noninteractive",
}

// ExitError is the error of a command that ran and failed.
type ExitError struct {
	Command []string // with its arguments
	Code    int      // what it ended with; 128 and the signal's number where a signal ended it
	Output  string   // all that it wrote
}

// Error holds the command, the code and the end of the output.
func (e *ExitError) Error() string {
	said := lastLines(e.Output, 20)
	if said == "" {
		said = "it wrote nothing"
	}
	return fmt.Sprintf("%s ended with exit code %d: %s", quoted(e.Command), e.Code, said)
}

// quoted is a command as one reads it.
func quoted(command []string) string { return "`" + strings.Join(command, " ") + "`" }

// commands counts those that this program ran, for their groups.
var commands atomic.Int64

// Run runs a command in the machine, as root and in /, and gives what it wrote to
// its output and its error output; its input is empty. A command that fails is an
// *ExitError. It is killed with all that it started when ctx is over, after 5
// minutes where ctx has no deadline. One that ends may leave processes behind, but
// none that holds its output: that is an error 2 seconds later. A command that
// takes the machine down may fail by that.
//
// The command has all of root's capabilities, more than the units of the machine
// have.
func (m *Machine) Run(ctx context.Context, command ...string) (output string, err error) {
	return m.run(ctx, nil, command)
}

// Shell is Run for a script of sh, which ends at the first command that fails and
// at the first variable that is not set.
func (m *Machine) Shell(ctx context.Context, script string) (output string, err error) {
	return m.Run(ctx, "sh", "-euc", script)
}

// Copy copies a file of the host into the machine, which has to be on. The path is
// absolute; folders that are missing are made; a file that is there is replaced,
// even a program that runs.
func (m *Machine) Copy(ctx context.Context, from, to string, mode fs.FileMode) error {
	if !filepath.IsAbs(to) {
		return fmt.Errorf("copy %s to %q in %s: want an absolute path", from, to, m.name)
	}
	file, err := os.Open(from)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = m.run(ctx, file, []string{"install", "-D", "-T", "-m", fmt.Sprintf("%o", mode.Perm()), "/dev/stdin", to})
	if err != nil {
		return fmt.Errorf("copy %s into %s: %w", from, m.name, err)
	}
	return nil
}

func (m *Machine) run(ctx context.Context, input *os.File, command []string) (string, error) {
	if len(command) == 0 {
		return "", errors.New("run nothing in a machine; want a command")
	}
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, runLimit)
		defer cancel()
	}
	c := m.current()
	if c == nil {
		return "", fmt.Errorf("%s is off, so that it cannot run %s; call Start", m.name, quoted(command))
	}
	out, err := c.run(ctx, input, command)
	if exit := new(ExitError); err != nil && !errors.As(err, &exit) {
		err = fmt.Errorf("run %s in %s: %w", quoted(command), m.name, err)
	}
	return out, err
}

// current is the container that the machine is in now, nil when it is off.
func (m *Machine) current() *container {
	m.mu.Lock()
	p := m.power
	m.mu.Unlock()
	if p == nil || p.isOff() {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.container
}

// state is what systemd says of itself, where it can be asked.
func (c *container) state(ctx context.Context) (string, error) {
	out, err := c.run(ctx, nil, []string{"systemctl", "is-system-running"})
	if exit := new(ExitError); errors.As(err, &exit) {
		err = nil // it says so by its exit code, too
	}
	return strings.TrimSpace(out), err
}

// errNoInit is of a machine whose systemd has not begun or has ended.
var errNoInit = errors.New("there is no systemd in it at the moment; call Start to wait for it")

// run runs a command in the container's namespaces, beside its init.
func (c *container) run(ctx context.Context, input *os.File, words []string) (string, error) {
	init, err := c.openInit()
	if err != nil {
		return "", err
	}
	defer unix.Close(init)
	// A group of its own, so that what it starts can be killed with it.
	own, err := c.group.below(fmt.Sprintf("payload/init.scope/command-%d", commands.Add(1)))
	if err != nil {
		return "", fmt.Errorf("%w: %w", errNoInit, err)
	}
	defer removeEmpty(own.path) //nolint:errcheck // it stays as long as a process that was left in it
	folder, err := os.Open(own.path)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errNoInit, err)
	}
	defer folder.Close()
	out := new(bytes.Buffer)
	command := exec.CommandContext(ctx, words[0], words[1:]...)
	command.Env = environment
	command.Stdout, command.Stderr = out, out
	if input != nil {
		command.Stdin = input
	}
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(folder.Fd())}
	command.Cancel = own.kill
	command.WaitDelay = 2 * time.Second
	err = startWithin(init, command)
	if err == nil {
		err = command.Wait()
	}
	switch exit := new(exec.ExitError); {
	case err == nil:
		return out.String(), nil
	case ctx.Err() != nil:
		return out.String(), fmt.Errorf("it was killed before it ended: %w; it wrote: %s", ctx.Err(), lastLines(out.String(), 20))
	case errors.Is(err, exec.ErrWaitDelay):
		return out.String(), fmt.Errorf("it ended and left a process that holds its output; redirect that or start it as a unit: %w", err)
	case errors.As(err, &exit):
		return out.String(), &ExitError{Command: words, Code: exitCode(exit), Output: out.String()}
	default:
		return out.String(), err
	}
}

// startWithin starts a command in all namespaces of a process, as a child of this
// program. nsenter(1) as its parent would not do: it stops itself when systemd, as
// it shuts down, stops all processes, and a child that nobody reaps keeps systemd
// waiting; so does one whose nsenter was killed.
func startWithin(process int, command *exec.Cmd) (err error) {
	onThread(func() {
		const most = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
		// A thread that shares its root and working folder may not change mounts.
		if err = unix.Unshare(unix.CLONE_FS); err != nil {
			return
		}
		if err = unix.Setns(process, most); err != nil {
			err = fmt.Errorf("%w: enter its namespaces: %w", errNoInit, err)
			return
		}
		if err = find(command.Args[0]); err != nil {
			return
		}
		// The namespace of cgroups comes last: from within, the kernel lets nobody
		// be born into a group whose parent is outside. Here, nsenter becomes the
		// command, with the same process number.
		command.Args = append([]string{"nsenter", "--cgroup=/proc/1/ns/cgroup", "--"}, command.Args...)
		command.Path, command.Err = "/usr/bin/nsenter", nil
		err = command.Start()
	})
	return err
}

// onThread runs f on a thread that ends with it, whatever f did to the thread.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked, so that Go ends the thread
		if unix.Gettid() == unix.Getpid() {
			// The first thread cannot end, and /proc/self is about it. While it is
			// taken, f gets another.
			onThread(f)
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

// find is an error where there is no such program for the calling thread.
func find(name string) error {
	candidates := []string{name}
	if !strings.Contains(name, "/") {
		candidates = nil
		for folder := range strings.SplitSeq(path, ":") {
			candidates = append(candidates, filepath.Join(folder, name))
		}
	}
	for _, file := range candidates {
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return nil
		}
	}
	return fmt.Errorf("there is no program %s in the machine; name its package in Spec.Packages or copy it there: %w", name, fs.ErrNotExist)
}

func exitCode(exit *exec.ExitError) int {
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exit.ExitCode()
}

// output runs a command of the host and gives all that it wrote. The command dies
// with this program, for which the thread that starts it has to last as long as it
// does: the kernel takes the thread's end for the program's.
func output(command *exec.Cmd) (string, error) {
	if command.SysProcAttr == nil {
		command.SysProcAttr = new(syscall.SysProcAttr)
	}
	command.SysProcAttr.Pdeathsig = syscall.SIGKILL
	var out []byte
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		out, err = command.CombinedOutput()
	}()
	<-done
	return string(out), err
}
