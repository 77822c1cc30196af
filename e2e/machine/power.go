package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// power is a machine from when it is switched on until it is off, over the reboots
// that it makes by itself.
type power struct {
	name, root, console string

	mu        sync.Mutex // guards what follows
	stopping  bool       // whether it stays off when the container ends
	container *container // nil before the first start and between two

	off chan struct{} // closed when all has ended
	err error         // why it went off by itself; set before off is closed
}

// switchOn boots a root, and returns before anything runs in it.
func switchOn(name, root, console string) *power {
	p := &power{name: name, root: root, console: console, off: make(chan struct{})}
	go p.serve()
	return p
}

// rebooted is how systemd-nspawn ends when the machine asks for a reboot: with
// --keep-unit it leaves that to whoever started it.
const rebooted = 133

// serve runs containers until one ends otherwise than by a reboot.
func (p *power) serve() {
	defer close(p.off)
	// The kernel kills the container when the thread that started it ends, so this
	// one has to last as long.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for code := rebooted; code == rebooted && p.err == nil; {
		c, err := p.next()
		if c == nil {
			p.err = err
			return
		}
		code, p.err = c.wait()
	}
}

// next starts the next container, and is nil when there is to be none.
func (p *power) next() (*container, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping {
		return nil, nil
	}
	c, err := startContainer(p.name, p.root, p.console)
	p.container = c
	return c, err
}

func (p *power) isOff() bool {
	select {
	case <-p.off:
		return true
	default:
		return false
	}
}

// reason is why the machine is off.
func (p *power) reason() error {
	if p.err != nil {
		return p.err
	}
	return errors.New("it switched itself off")
}

// stop keeps the machine from booting again by itself, and gives the container
// that is left to be ended, if any.
func (p *power) stop() *container {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopping = true
	return p.container
}

// shutDown has systemd stop everything, and waits for that.
func (p *power) shutDown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	if c := p.stop(); c != nil {
		// systemd-nspawn passes it on as the signal for a poweroff.
		if err := c.command.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	return p.gone(ctx)
}

// cut kills everything, and waits until it is gone.
func (p *power) cut() error {
	ctx, cancel := context.WithTimeout(context.Background(), killLimit)
	defer cancel()
	if c := p.stop(); c != nil {
		if err := c.group.kill(); err != nil {
			return err
		}
	}
	return p.gone(ctx)
}

func (p *power) gone(ctx context.Context) error {
	select {
	case <-p.off:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("its processes are still there: %w", ctx.Err())
	}
}

// container is one boot: a systemd-nspawn and all below it.
type container struct {
	command *exec.Cmd
	group   *group
	console *os.File
	screen  *os.File      // our end of the terminal that systemd-nspawn has
	copied  chan struct{} // closed when all that came from the screen is in the console's file
}

// enter gives systemd-nspawn a world to itself. Its own processes: when the first
// of them dies, the kernel kills all others, while a systemd-nspawn that is killed
// elsewhere leaves its container running. One cgroup2 mount at the usual place:
// the host may have others there, by which systemd would take this for another
// kind of system. It begins at the container's own group, and so, in a namespace
// of cgroups, leaves the options of the host's mount alone. Folders that
// systemd-nspawn leaves behind when it is killed vanish with /run/systemd.
const enter = `
mount -t proc proc /proc
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/systemd
mount -t tmpfs tmpfs /run/systemd
exec systemd-nspawn "$@"`

// startContainer boots a root. The calling thread has to last until wait has
// returned.
func startContainer(name, root, console string) (c *container, err error) {
	c = new(container)
	defer func() {
		if err != nil {
			c.close()
			c = nil
		}
	}()
	if c.group, err = newGroup(); err != nil {
		return c, err
	}
	if c.console, err = os.OpenFile(console, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return c, err
	}
	folder, err := os.Open(c.group.path)
	if err != nil {
		return c, err
	}
	defer folder.Close()
	screen, terminal, err := openTerminal()
	if err != nil {
		return c, fmt.Errorf("make a terminal for the machine's console: %w", err)
	}
	c.screen = screen
	defer terminal.Close()
	c.command = exec.Command("/bin/sh", "-euc", enter, "sh",
		"--directory="+root, "--machine="+name, "--boot",
		"--register=no", "--keep-unit", // there may be no systemd on the host to ask
		"--settings=no", "--link-journal=no", "--resolv-conf=off", "--timezone=off", // nothing of the host's
		"--private-network",
		"--system-call-filter=@keyring bpf", // what containers within need: session keyrings, rules for devices
		"--console=interactive", "--kill-signal=SIGRTMIN+4")
	c.command.Env = []string{"PATH=" + path, "TERM=dumb", "LANG=C.UTF-8", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1"}
	// Without a terminal it does not come up.
	c.command.Stdin, c.command.Stdout, c.command.Stderr = terminal, terminal, terminal
	c.command.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Setctty: true,
		Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWCGROUP,
		Pdeathsig:   syscall.SIGKILL,
		UseCgroupFD: true, CgroupFD: int(folder.Fd()),
	}
	if err := c.command.Start(); err != nil {
		return c, fmt.Errorf("start systemd-nspawn: %w", err)
	}
	c.copied = make(chan struct{})
	go func() {
		defer close(c.copied)
		io.Copy(c.console, c.screen) //nolint:errcheck // a terminal ends with an error when its other end is closed
	}()
	return c, nil
}

// wait waits until nothing of the container is left, and gives the exit code.
func (c *container) wait() (code int, err error) {
	err = c.command.Wait()
	code = c.command.ProcessState.ExitCode()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		err = nil
		if code > 0 && code != rebooted {
			err = fmt.Errorf("systemd-nspawn ended: %w", exit)
		}
	}
	return code, errors.Join(err, c.close())
}

// close ends what may be left beside systemd-nspawn, such as a command of Run.
func (c *container) close() error {
	var failures []error
	if c.group != nil {
		failures = append(failures, c.group.remove())
	}
	// Nothing has the terminal's other end any more, which ends the copying.
	if c.copied != nil {
		<-c.copied
	}
	for _, file := range []*os.File{c.screen, c.console} {
		if file != nil {
			failures = append(failures, file.Close())
		}
	}
	return errors.Join(failures...)
}

// openInit opens the machine's systemd, as a file that goes on meaning this one
// when it has ended.
func (c *container) openInit() (process int, err error) {
	for _, pid := range c.group.processes("payload/init.scope") {
		process, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended meanwhile
		}
		if isInit(pid) {
			return process, nil
		}
		unix.Close(process)
	}
	return 0, errNoInit
}

// isInit tells whether a process is the first one of its namespace, and systemd:
// not yet systemd-nspawn, and no longer systemd-shutdown, which waits 10 s for any
// process that is not its child, though that may end at once.
func isInit(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	values := map[string]string{}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		values[name] = strings.TrimSpace(value)
	}
	numbers := strings.Fields(values["NSpid"]) // in each namespace, the innermost last
	return values["Name"] == "systemd" && len(numbers) > 0 && numbers[len(numbers)-1] == "1"
}

// openTerminal makes a pseudo-terminal: the screen is what the terminal shows.
func openTerminal() (screen, terminal *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	screen = os.NewFile(uintptr(fd), "/dev/ptmx")
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		// Wide, so that systemd shortens no line.
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 200})
	}
	if err == nil {
		terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		screen.Close()
		return nil, nil, err
	}
	return screen, terminal, nil
}
