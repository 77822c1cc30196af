package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a program that may outlive the one that started it. What is known
// of it stands in a pid file, by which a later program finds it again; a pid
// alone proves nothing, so the file also holds when the process began and with
// which arguments, and only a process that agrees in both is ever signalled.
type Process struct {
	Name    string
	Args    []string // the program's path, then its arguments
	Env     []string // beside this program's own
	Folder  string   // of <name>.pid and <name>.log
	Outlive bool     // whether it goes on when this program ends

	within func(start func() error) error // where the process is started; nil for where this one is

	exited chan struct{} // closed when a process that we started has ended; nil for one that we found
	exit   error         // set before exited is closed
}

// pidFile is the content of a pid file.
type pidFile struct {
	PID   int      `json:"pid"`
	Began uint64   `json:"began"` // clock ticks after boot, proc_pid_stat(5)
	Boot  string   `json:"boot"`  // the kernel's boot id: ticks of another boot mean nothing
	Args  []string `json:"args"`
}

// Log is the file that the process writes to.
func (p *Process) Log() string { return filepath.Join(p.Folder, p.Name+".log") }

func (p *Process) file() string { return filepath.Join(p.Folder, p.Name+".pid") }

// Start starts the process. It fails if it runs already.
func (p *Process) Start() error {
	if p.Running() {
		return fmt.Errorf("%s runs already; see %s", p.Name, p.file())
	}
	log, err := os.OpenFile(p.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	command := exec.Command(p.Args[0], p.Args[1:]...)
	command.Stdout, command.Stderr = log, log
	command.Env = append(os.Environ(), p.Env...)
	command.Dir = p.Folder
	// A session of its own: neither Ctrl-C at the terminal nor its closing ends
	// the process. One that must not outlive us dies with us, whatever kills us.
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !p.Outlive {
		command.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	start := command.Start
	if p.within != nil {
		start = func() error { return p.within(command.Start) }
	}
	if err := start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	exited := make(chan struct{})
	p.exited, p.exit = exited, nil
	go func() {
		p.exit = command.Wait()
		close(exited)
	}()
	if err := p.remember(command.Process.Pid); err != nil {
		command.Process.Kill()
		<-exited
		return err
	}
	return nil
}

func (p *Process) remember(pid int) error {
	began, err := beganAt(pid)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has ended already; its log says why
	}
	if err != nil {
		return err
	}
	data, err := json.Marshal(pidFile{PID: pid, Began: began, Boot: bootID(), Args: p.Args})
	if err != nil {
		return err
	}
	return writeFile(p.file(), append(data, '\n'))
}

// PID is the process's id, 0 while it does not run.
func (p *Process) PID() int {
	data, err := os.ReadFile(p.file())
	if err != nil {
		return 0
	}
	var known pidFile
	if json.Unmarshal(data, &known) != nil || known.PID <= 1 || known.Boot != bootID() {
		return 0
	}
	if began, err := beganAt(known.PID); err != nil || began != known.Began {
		return 0
	}
	args, err := os.ReadFile("/proc/" + strconv.Itoa(known.PID) + "/cmdline")
	if err == nil && len(args) == 0 {
		return known.PID // it is between two programs: execve is under way
	}
	if err != nil || !slices.Equal(strings.Split(strings.TrimSuffix(string(args), "\x00"), "\x00"), known.Args) {
		return 0
	}
	return known.PID
}

// Running tells whether the process runs.
func (p *Process) Running() bool { return p.PID() != 0 }

// Stop asks the process to end and waits for it. It is killed when grace is
// over, which is an error.
func (p *Process) Stop(grace time.Duration) error {
	pid := p.PID()
	if pid == 0 {
		return p.forget()
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if Until(ctx, func() (bool, error) { return !p.Running(), nil }) == nil {
		return p.forget()
	}
	return errors.Join(fmt.Errorf("%s did not end within %s and was killed; see %s", p.Name, grace, p.Log()), p.Kill())
}

// Kill ends the process as a power cut would, and what it left in its session.
func (p *Process) Kill() error {
	pid := p.PID()
	if pid == 0 {
		return p.forget()
	}
	// Its group has its pid: it leads its session.
	if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill %s: %w", p.Name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := Until(ctx, func() (bool, error) { return !p.Running(), nil }); err != nil {
		return fmt.Errorf("%s was killed and is still there: %w", p.Name, err)
	}
	return p.forget()
}

func (p *Process) forget() error {
	if p.exited != nil {
		<-p.exited
	}
	if err := os.Remove(p.file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// failed is the error of a process that ended by itself, with the end of its
// log, and nil while it runs.
func (p *Process) failed() error {
	if p.Running() {
		return nil
	}
	return fmt.Errorf("%s ended: %s (%s)", p.Name, lastLine(p.Log()), p.Log())
}

// lastLine is the last line of a log that says something.
func lastLine(path string) string {
	data, err := tail(path, 8<<10)
	if err != nil {
		return "it left no log"
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return last
	}
	return "it wrote nothing"
}

func tail(path string, size int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	start := max(0, info.Size()-size)
	data := make([]byte, info.Size()-start)
	n, err := file.ReadAt(data, start)
	if n == len(data) {
		err = nil
	}
	return data[:n], err
}

// beganAt is when a process began. It wraps fs.ErrNotExist for one that is gone
// or only waits to be reaped.
func beganAt(pid int) (uint64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, syscall.ESRCH) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return 0, err
	}
	// The second field is the name in brackets, which may hold anything.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	if fields[0][0] == 'Z' || fields[0][0] == 'X' {
		return 0, fs.ErrNotExist
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// writeFile replaces a file so that a reader or a crash sees all of it or none.
func writeFile(path string, data []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(data)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

// Until asks until the answer is yes, an error, or ctx is over, and then gives
// ctx's error with the last thing that was wrong.
func Until(ctx context.Context, ask func() (bool, error)) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		done, err := ask()
		if done || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// outdated tells whether the file of the running program was replaced or
// removed.
func (p *Process) outdated() bool {
	pid := p.PID()
	if pid == 0 {
		return false
	}
	program, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe")
	return err == nil && strings.HasSuffix(program, " (deleted)")
}
