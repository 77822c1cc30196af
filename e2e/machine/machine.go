// Package machine is a machine with a systemd of its own, in a container: real
// units, timers, journals and reboots in seconds, for tests, on a host whose own
// init may be anything. It needs root, a kernel of 5.14 or newer, and what
// setup.sh beside this file installs.
//
// A machine has the host's kernel, so it is no test of boot loaders, and no
// network but a loopback of its own. Where the host gives its memory, cpu and
// pids controllers to cgroups of version 1, units of the machine are not limited
// by MemoryMax= and the like; the settings are accepted all the same.
//
// Nothing of a machine shows outside its folder: its mounts are in a mount
// namespace of its own, and its processes in a process namespace that ends with
// the program that made the machine, however that ends. A program that was killed
// leaves the folder, and an empty cgroup that the next machine removes.
package machine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pyrsia/appliance/e2e/cluster"
)

// How long things may take where the caller's context allows more.
const (
	buildLimit = 15 * time.Minute // a base tree, over a slow line
	copyLimit  = 2 * time.Minute  // its copy
	bootLimit  = time.Minute
	stopLimit  = 100 * time.Second // systemd itself kills a unit that has not stopped after 90 s
	killLimit  = 15 * time.Second
	runLimit   = 5 * time.Minute // a command, where the context has no deadline
)

// Spec declares a machine.
type Spec struct {
	Suite    string    // of Debian: "trixie" or "bookworm"
	Packages []string  // Debian packages beside systemd, such as "curl"
	Folder   string    // where its files live; missing or empty before New, removed by Close
	Log      io.Writer // what New and Start do that takes time, a line each; nil for nothing
}

// Machine is a container that runs systemd. Run, Shell, Copy and Root may be
// called by several goroutines at a time; New, Start, Reboot, Kill and Close wait
// for each other.
type Machine struct {
	spec Spec // Folder is absolute, Log is not nil
	name string

	switching sync.Mutex // held while the machine is switched on or off

	mu     sync.Mutex // guards what follows
	power  *power     // nil while the machine is off
	closed bool
}

// machines counts those that this program made, for their names.
var machines atomic.Int64

// New makes a machine and boots it: it returns when systemd says that it is
// running, or degraded where a unit failed, which is logged. The first machine of
// a suite and its packages takes a minute, for the tree that is kept in the user's
// cache; others take seconds. A base tree is never renewed: remove it from the
// cache to have newer packages. When New fails, it leaves nothing.
func New(ctx context.Context, spec Spec) (*Machine, error) {
	spec, err := spec.checked()
	if err != nil {
		return nil, err
	}
	base, err := findBase(ctx, spec)
	if err != nil {
		return nil, err
	}
	if err := makeFolder(spec.Folder); err != nil {
		return nil, err
	}
	m := &Machine{spec: spec, name: fmt.Sprintf("machine-%d-%d", os.Getpid(), machines.Add(1))}
	if err := m.fill(ctx, base); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	if err := m.Start(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// checked is the Spec with its defaults, or what is wrong with it or with this
// host.
func (s Spec) checked() (Spec, error) {
	if s.Suite != "trixie" && s.Suite != "bookworm" {
		return s, fmt.Errorf("a machine's suite is %q; want trixie or bookworm", s.Suite)
	}
	for _, name := range s.Packages {
		if name == "" || strings.ContainsAny(name, ", \t\n") {
			return s, fmt.Errorf("a machine's package is %q; want the name of one Debian package", name)
		}
	}
	if s.Folder == "" {
		return s, errors.New("a machine has no folder; set Spec.Folder to one that is missing or empty")
	}
	if os.Geteuid() != 0 {
		return s, errors.New("a machine needs root to boot; run this as root")
	}
	for _, program := range []string{"systemd-nspawn", "mmdebstrap", "unshare", "mount", "umount"} {
		if _, err := exec.LookPath(program); err != nil {
			return s, fmt.Errorf("%s is not installed and a machine needs it; run e2e/machine/setup.sh", program)
		}
	}
	if s.Log == nil {
		s.Log = io.Discard
	}
	var err error
	s.Folder, err = filepath.Abs(s.Folder)
	return s, err
}

// makeFolder makes a machine's folder, which is to be removed: nobody else's file
// may be in it.
func makeFolder(folder string) error {
	// Root's alone, since machines hold set-user-ID programs.
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("make the machine's folder: %w", err)
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("read the machine's folder: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("the machine's folder %s holds %s and must be empty; remove it or name another", folder, entries[0].Name())
	}
	return nil
}

// fill makes the machine's root of a base tree.
func (m *Machine) fill(ctx context.Context, base string) error {
	ctx, cancel := context.WithTimeout(ctx, copyLimit)
	defer cancel()
	if out, err := output(exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", base, m.Root())); err != nil {
		return fmt.Errorf("copy %s to %s: %w: %s", base, m.Root(), errors.Join(err, ctx.Err()), lastLines(out, 1))
	}
	hosts := fmt.Sprintf("127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost ip6-localhost ip6-loopback\n", m.name)
	if err := os.WriteFile(filepath.Join(m.Root(), "etc/hosts"), []byte(hosts), 0o644); err != nil {
		return fmt.Errorf("write the machine's hosts: %w", err)
	}
	// A machine without an id takes itself for one that boots for the first time,
	// and enables every unit that its vendor suggests.
	id := make([]byte, 16)
	rand.Read(id) //nolint:errcheck // never fails
	if err := os.WriteFile(filepath.Join(m.Root(), "etc/machine-id"), []byte(hex.EncodeToString(id)+"\n"), 0o444); err != nil {
		return fmt.Errorf("write the machine's id: %w", err)
	}
	return nil
}

// Root is the machine's root folder on the host. What stands below its /dev,
// /proc, /run, /sys and /tmp while it runs is not seen there. Symbolic links in it
// may be absolute, and then lead the host's own programs out of it.
func (m *Machine) Root() string { return filepath.Join(m.spec.Folder, "root") }

// Console is the file that holds what the machine wrote to its console, over all
// its boots.
func (m *Machine) Console() string { return filepath.Join(m.spec.Folder, "console.log") }

// Start boots the machine when it is off, and in any case waits until it is up:
// after Kill, after a poweroff from within, and after a reboot from within, which
// the machine makes by itself. When the boot fails, the machine is off and the
// error ends with what the console shows.
func (m *Machine) Start(ctx context.Context) error {
	m.switching.Lock()
	defer m.switching.Unlock()
	return m.start(ctx)
}

// start needs switching.
func (m *Machine) start(ctx context.Context) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	p, was, err := m.on()
	if err != nil {
		return err
	}
	state, err := m.boot(ctx, p)
	if err != nil && was && p.isOff() {
		// It was about to switch itself off.
		if p, _, err = m.on(); err == nil {
			state, err = m.boot(ctx, p)
		}
	}
	if err != nil {
		shown := tail(m.Console())
		return fmt.Errorf("%s did not boot: %w; its console ends with:\n%s", m.name, errors.Join(err, m.cut()), shown)
	}
	fmt.Fprintf(m.spec.Log, "%s is %s after %s\n", m.name, state, time.Since(began).Round(10*time.Millisecond))
	if state == "degraded" {
		failed, err := m.Run(ctx, "systemctl", "list-units", "--failed", "--plain", "--no-legend")
		if err != nil {
			return fmt.Errorf("ask %s for its failed units: %w", m.name, err)
		}
		fmt.Fprintf(m.spec.Log, "failed units of %s: %s\n", m.name, strings.TrimSpace(failed))
	}
	return nil
}

// on is the machine's power, switched on, and whether it was so before.
func (m *Machine) on() (p *power, was bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, false, fmt.Errorf("%s is closed; make another with New", m.name)
	}
	if m.power != nil && !m.power.isOff() {
		return m.power, true, nil
	}
	m.power = switchOn(m.name, m.Root(), m.Console())
	return m.power, false, nil
}

// boot waits until systemd has started what it has to, and gives the state that
// it is in.
func (m *Machine) boot(ctx context.Context, p *power) (state string, err error) {
	var last error
	var stopping *container
	err = cluster.Until(ctx, func() (bool, error) {
		if p.isOff() {
			return false, p.reason()
		}
		current := m.current()
		if current == nil || current == stopping {
			return false, nil // as it shuts down, systemd waits even for a command that only asks
		}
		state, last = current.state(ctx)
		switch state {
		case "running", "degraded":
			return true, nil
		case "maintenance":
			return false, errors.New("systemd is in its emergency or rescue mode")
		case "stopping":
			stopping = current
		}
		return false, nil
	})
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("systemd's last state is %q: %w", state, errors.Join(err, last))
	}
	return state, err
}

// Reboot shuts the machine down as `systemctl poweroff` does and boots the same
// root again. When that fails, the machine is off. A command of Run that does not
// end before costs 10 s, and is killed.
func (m *Machine) Reboot(ctx context.Context) error {
	m.switching.Lock()
	defer m.switching.Unlock()
	m.mu.Lock()
	p := m.power
	m.mu.Unlock()
	if p == nil || p.isOff() {
		return fmt.Errorf("%s is off and cannot reboot; call Start", m.name)
	}
	if err := p.shutDown(ctx); err != nil {
		shown := tail(m.Console())
		return fmt.Errorf("%s did not shut down: %w; its console ends with:\n%s", m.name, errors.Join(err, m.cut()), shown)
	}
	return m.start(ctx)
}

// Kill ends every process of the machine at once, as a power cut would. Unlike
// one, it loses nothing that programs wrote without syncing it: the host's kernel
// keeps that. A machine that is off stays so.
func (m *Machine) Kill() error {
	m.switching.Lock()
	defer m.switching.Unlock()
	return m.cut()
}

// cut needs switching.
func (m *Machine) cut() error {
	m.mu.Lock()
	p := m.power
	m.mu.Unlock()
	if p == nil {
		return nil
	}
	if err := p.cut(); err != nil {
		return fmt.Errorf("kill %s: %w", m.name, err)
	}
	m.mu.Lock()
	m.power = nil
	m.mu.Unlock()
	return nil
}

// Close ends the machine without shutting it down and removes its folder. A second
// call does nothing.
func (m *Machine) Close() error {
	m.switching.Lock()
	defer m.switching.Unlock()
	m.mu.Lock()
	closed := m.closed
	m.closed = true
	m.mu.Unlock()
	if closed {
		return nil
	}
	if err := m.cut(); err != nil {
		return err // its files are in use
	}
	return os.RemoveAll(m.spec.Folder)
}

// tail is the end of what a console shows, without what only a terminal needs.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "nothing: " + err.Error()
	}
	return lastLines(strings.ReplaceAll(string(data), "\r", ""), 40)
}

// lastLines are the last lines of a text.
func lastLines(text string, count int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}
