// Package cage is the bounds of one build step that BuildKit itself does not set: how
// many processes it has at once, and how much disk all its files take.
//
// buildkitd runs it in runc's place (--oci-worker-binary), and it runs runc. A step says
// its bounds by its own resource limits (RLIMIT_NPROC and RLIMIT_FSIZE), which bind
// neither root's processes nor the sum of its files: the cage makes a limit of the
// step's control group of the one, and watches the layer that the step writes for the
// other.
package cage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Program is the name under which a program should behave as Run.
const Program = "pyrsia-runc"

// runcVariable names the environment variable with runc's path; "runc" is looked for
// where the daemon looks.
const runcVariable = "PYRSIA_RUNC"

// defaultProcesses bounds a step that has no bound of its own: far more than builds
// have, and far fewer than a machine has numbers for.
const defaultProcesses = 8192

// Exceeded begins the line in the step's log that says why it was ended.
const Exceeded = "the step has written more than its limit of disk"

// exitDisk is the exit code of a step that was ended for what it wrote: that of the
// shell's own "killed".
const exitDisk = 137

// Run behaves as runc with the arguments, and returns the exit code. What it has to say
// goes to errOut, which is the step's log.
func Run(args []string, errOut io.Writer) int {
	runc := os.Getenv(runcVariable)
	if runc == "" {
		runc = "runc"
	}
	program, err := exec.LookPath(runc)
	if err != nil {
		fmt.Fprintf(errOut, "runc run failed: %v\n", err)
		return 1
	}
	bundle, runs := bundleOf(args)
	if !runs {
		return become(program, args, errOut)
	}
	counted := counts(groups)
	step, err := confine(filepath.Join(bundle, "config.json"), counted)
	if err != nil {
		fmt.Fprintf(errOut, "runc run failed: bounds of the step: %v\n", err)
		return 1
	}
	if !counted {
		fmt.Fprintln(errOut, "the processes of this step are not bounded here: the control groups of the machine have no controller for them (pids)")
	}
	return step.run(program, args, errOut)
}

// groups is where control groups are (cgroups(7)).
const groups = "/sys/fs/cgroup"

// counts tells whether control groups can bound processes: in version 2 the root says
// which controllers there are, in version 1 each has a folder. A container may have been
// given others.
func counts(root string) bool {
	controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err == nil {
		return slices.Contains(strings.Fields(string(controllers)), "pids")
	}
	_, err = os.Stat(filepath.Join(root, "pids"))
	return err == nil
}

// become is for what makes no container: runc alone.
func become(program string, args []string, errOut io.Writer) int {
	err := syscall.Exec(program, append([]string{program}, args...), os.Environ())
	fmt.Fprintf(errOut, "runc run failed: %v\n", err)
	return 1
}

// bundleOf is the folder of the container that the arguments run, "run --bundle DIR".
func bundleOf(args []string) (bundle string, runs bool) {
	at := slices.IndexFunc(args, func(a string) bool { return a == "run" || a == "create" })
	if at < 0 {
		return "", false
	}
	bundle = "."
	for i, a := range args[at:] {
		value, joined := strings.CutPrefix(a, "--bundle=")
		switch {
		case joined:
			bundle = value
		case (a == "--bundle" || a == "-b") && at+i+1 < len(args):
			bundle = args[at+i+1]
		}
	}
	return bundle, true
}

// step is a container to run.
type step struct {
	root string // of its file system
	disk int64  // bytes that all its files may take; 0 is no bound
}

// confine writes the bound of processes into a container's configuration (OCI runtime
// specification), where they can be counted, and reads the others. Everything else in it
// stays as it is.
func confine(path string, counted bool) (*step, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var config map[string]any
	decoder := json.NewDecoder(strings.NewReader(string(data)))
	decoder.UseNumber() // limits of 2^64-1 are no floating-point numbers
	if err := decoder.Decode(&config); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	limits := rlimits(config)
	processes, set := limits["RLIMIT_NPROC"]
	if !set || processes <= 0 || processes > 1<<22 {
		processes = defaultProcesses
	}
	if counted {
		inside(inside(config, "linux"), "resources")["pids"] = map[string]any{"limit": processes}
	}
	out, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	// The bundle is this step's alone and goes with it: nothing to sync.
	if err := os.WriteFile(path, out, 0o600); err != nil {
		return nil, err
	}
	root, _ := inside(config, "root")["path"].(string)
	if !filepath.IsAbs(root) {
		root = filepath.Join(filepath.Dir(path), root)
	}
	s := &step{root: root}
	if disk, set := limits["RLIMIT_FSIZE"]; set && disk > 0 {
		s.disk = disk
	}
	return s, nil
}

// inside is an object in an object, made where it is missing.
func inside(object map[string]any, name string) map[string]any {
	inner, ok := object[name].(map[string]any)
	if !ok {
		inner = map[string]any{}
		object[name] = inner
	}
	return inner
}

// rlimits are the hard resource limits of the container's process.
func rlimits(config map[string]any) map[string]int64 {
	found := map[string]int64{}
	list, _ := inside(config, "process")["rlimits"].([]any)
	for _, item := range list {
		limit, _ := item.(map[string]any)
		kind, _ := limit["type"].(string)
		number, _ := limit["hard"].(json.Number)
		if n, err := strconv.ParseInt(number.String(), 10, 64); err == nil {
			found[kind] = n
		}
	}
	return found
}

// run runs the container and watches what it writes.
func (s *step) run(program string, args []string, errOut io.Writer) int {
	command := exec.Command(program, args...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	// Whoever kills this program means runc. The kernel takes the end of the thread that
	// started it for the end of the program.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals)
	defer signal.Stop(signals)
	if err := command.Start(); err != nil {
		fmt.Fprintf(errOut, "runc run failed: %v\n", err)
		return 1
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	watch := newWatch(s, args[len(args)-1])
	defer watch.tick.Stop()
	if s.disk > 0 && watch.upper == "" {
		fmt.Fprintln(errOut, "the sum of what this step writes is not bounded here: its root is no overlay")
	}
	for {
		select {
		case err := <-ended:
			if watch.exceeded {
				return exitDisk
			}
			return exitCode(err)
		case received := <-signals:
			if received != syscall.SIGCHLD && received != syscall.SIGURG {
				command.Process.Signal(received) //nolint:errcheck // it may have ended
			}
		case <-watch.tick.C:
			if !watch.exceeded && watch.due() {
				watch.exceeded = true
				fmt.Fprintf(errOut, "%s, %d MiB, and is ended\n", Exceeded, s.disk>>20)
			}
			if watch.exceeded {
				kill(program, args) // again, until it has ended
			}
		}
	}
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal())
		}
		return exit.ExitCode()
	}
	return 1
}

// kill ends the container: its name is the last argument, and what stands before "run"
// says where runc keeps its state.
func kill(program string, args []string) {
	at := slices.IndexFunc(args, func(a string) bool { return a == "run" || a == "create" })
	command := exec.Command(program, append(slices.Clone(args[:at]), "kill", args[len(args)-1], "KILL")...)
	command.Run() //nolint:errcheck // a container that has ended meanwhile is as good
}

// watch looks at what a step has written.
type watch struct {
	tick     *time.Ticker
	upper    string // folder of what the step wrote, "" where it cannot be told
	name     string // of the container, as its control group is called
	limit    int64
	exceeded bool
}

// interval is how often the files are counted at the most; share is how many times as
// long as counting took nothing is counted again, so that it costs a build little.
const (
	interval = time.Second
	share    = 100
	longest  = 3 * time.Second
)

// due counts, and says when to count again.
func (w *watch) due() bool {
	began := time.Now()
	full := w.full()
	w.tick.Reset(min(max(interval, share*time.Since(began)), longest))
	return full
}

func newWatch(s *step, name string) *watch {
	w := &watch{tick: time.NewTicker(interval), limit: s.disk, name: name}
	if s.disk > 0 {
		w.upper = upperOf(s.root)
	}
	if w.upper == "" {
		w.tick.Stop()
	}
	return w
}

// upperOf is the writable folder of the overlay that is mounted at a root; "" where
// there is none.
func upperOf(root string) string {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	upper := ""
	for line := range strings.Lines(string(mounts)) {
		// proc_pid_mountinfo(5): the mount point is the fifth field; after "-" come
		// type, source and options. The last mount at a point is the one that counts.
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(rest) < 3 || rest[0] != "overlay" || unescape(fields[4]) != root {
			continue
		}
		for option := range strings.SplitSeq(rest[2], ",") {
			if folder, is := strings.CutPrefix(option, "upperdir="); is {
				upper = unescape(folder)
			}
		}
	}
	return upper
}

// unescape undoes what the kernel does to blanks in paths.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

// smallest is what a file counts at least, whatever is in it: so many files fill a disk
// by their inodes.
const smallest = 4096

// block is the unit of st_blocks (stat(2)).
const block = 512

// full tells whether the files take more than the limit: those in the layer, and those
// that are open and have no name any more. Files that vanish while they are counted take
// nothing; a folder that cannot be looked into hides what is in it, and counts as full.
func (w *watch) full() bool {
	total := w.unnamed()
	seen := map[uint64]bool{} // inodes with more than one name
	err := filepath.WalkDir(w.upper, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return present(err)
		}
		var stat unix.Stat_t
		if err := unix.Lstat(path, &stat); err != nil {
			return present(err)
		}
		if seen[stat.Ino] {
			return nil
		}
		if stat.Nlink > 1 && !entry.IsDir() {
			seen[stat.Ino] = true
		}
		if total += max(stat.Blocks*block, smallest); total > w.limit {
			return fs.SkipAll
		}
		return nil
	})
	return err != nil || total > w.limit
}

// present is an error that is not that of a file which is gone.
func present(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// held are the files that a process has open or mapped, as paths in /proc: what is mapped
// needs no descriptor, and a thread may have descriptors of its own (unshare(2)).
func held(process string) []string {
	files := glob(filepath.Join(process, "fd", "*"))
	files = append(files, glob(filepath.Join(process, "map_files", "*"))...)
	pid, err := strconv.Atoi(filepath.Base(process))
	if err != nil {
		return files
	}
	for _, thread := range glob(filepath.Join(process, "task", "*")) {
		if tid, err := strconv.Atoi(filepath.Base(thread)); err == nil && !sharesFiles(pid, tid) {
			files = append(files, glob(filepath.Join(thread, "fd", "*"))...)
		}
	}
	return files
}

// glob are the paths that match; those that cannot be read are none.
func glob(pattern string) []string {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return nil
	}
	return paths
}

// sharesFiles tells whether two threads have one table of descriptors (kcmp(2)). Where the
// kernel does not say so, they have not.
func sharesFiles(one, other int) bool {
	const kcmpFiles = 2
	result, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(one), uintptr(other), kcmpFiles, 0, 0, 0)
	return one == other || errno == 0 && result == 0
}

// unnamed is what files take that the step's processes hold open, or mapped, after they
// were removed.
func (w *watch) unnamed() int64 {
	total := int64(0)
	seen := map[[2]uint64]bool{}
	groups, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil || w.name == "" {
		return 0
	}
	for _, group := range groups {
		text, err := os.ReadFile(group)
		if err != nil || !strings.Contains(string(text), w.name) {
			continue
		}
		for _, file := range held(filepath.Dir(group)) {
			var stat unix.Stat_t
			if unix.Stat(file, &stat) != nil || stat.Nlink > 0 || stat.Mode&unix.S_IFMT != unix.S_IFREG || seen[[2]uint64{stat.Dev, stat.Ino}] {
				continue
			}
			seen[[2]uint64{stat.Dev, stat.Ino}] = true
			total += stat.Blocks * block
		}
	}
	return total
}
