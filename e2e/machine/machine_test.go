//go:build slow

package machine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pyrsia/appliance/e2e/cluster"
)

// Other packages would need base trees of their own.
var packagesOfTests = []string{"curl"}

func boot(t *testing.T, suite string) *Machine {
	t.Helper()
	began := time.Now()
	m, err := New(t.Context(), Spec{Suite: suite, Packages: packagesOfTests, Folder: filepath.Join(t.TempDir(), "machine"), Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	took(t, "New", began)
	return m
}

func took(t *testing.T, what string, began time.Time) {
	t.Helper()
	t.Logf("%s took %s", what, time.Since(began).Round(time.Millisecond))
}

// must is the output of a command that has to succeed.
func must(t *testing.T, m *Machine, command ...string) string {
	t.Helper()
	out, err := m.Run(t.Context(), command...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func script(t *testing.T, m *Machine, text string) string {
	t.Helper()
	return must(t, m, "sh", "-euc", text)
}

// leftovers are what of a machine can be seen outside it: mounts in its folder and
// at places where systemd-nspawn makes its own, and groups of the program that made
// it. Other programs of the host have machines, too.
func leftovers(t *testing.T, folder string, program int) []string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(mounts)) {
		at := strings.Fields(line)[1]
		if slices.ContainsFunc([]string{"/proc", "/sys", "/run/systemd", folder}, func(place string) bool { return at == place || strings.HasPrefix(at, place+"/") }) {
			found = append(found, line)
		}
	}
	folder, err = hierarchy()
	if err != nil {
		t.Fatal(err)
	}
	groups, err := filepath.Glob(fmt.Sprintf("%s/%s%d-*", folder, prefix, program))
	if err != nil {
		t.Fatal(err)
	}
	return append(found, groups...)
}

// inhabitants are all processes below a machine's group, by the host's numbers.
func inhabitants(t *testing.T, m *Machine) []int {
	t.Helper()
	group := m.current().group
	var found []int
	err := filepath.WalkDir(group.path, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			found = append(found, group.processes(strings.TrimPrefix(path, group.path))...)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 4 {
		t.Fatalf("the machine has processes %v; want systemd-nspawn, systemd, a journal, a bus and more", found)
	}
	return found
}

// gone waits until none of the processes is left, not even to be reaped by the
// host's init.
func gone(t *testing.T, processes []int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	left := processes
	if err := cluster.Until(ctx, func() (bool, error) {
		left = slices.DeleteFunc(slices.Clone(left), func(pid int) bool { return !exists(fmt.Sprintf("/proc/%d", pid)) })
		return len(left) == 0, nil
	}); err != nil {
		t.Fatalf("processes %v are left: %v", left, err)
	}
}

func TestMachine(t *testing.T) {
	threads := goleak.IgnoreCurrent()
	before := leftovers(t, t.TempDir(), os.Getpid())
	m := boot(t, "trixie")
	testRun(t, m)
	testCopy(t, m)
	testPower(t, m)

	processes := inhabitants(t, m)
	began := time.Now()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	took(t, "Close", began)
	if err := m.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
	gone(t, processes)
	if exists(m.spec.Folder) {
		t.Errorf("%s is left", m.spec.Folder)
	}
	if after := leftovers(t, m.spec.Folder, os.Getpid()); !slices.Equal(after, before) {
		t.Errorf("the host has\n%s\nwant as before\n%s", after, before)
	}
	if _, err := m.Run(t.Context(), "true"); err == nil {
		t.Error("a closed machine ran a command")
	}
	if err := m.Start(t.Context()); err == nil {
		t.Error("a closed machine started")
	}
	if err := goleak.Find(threads); err != nil {
		t.Error(err)
	}
}

func testRun(t *testing.T, m *Machine) {
	began := time.Now()
	if got := must(t, m, "cat", "/proc/1/comm"); got != "systemd" {
		t.Errorf("init is %q, want systemd", got)
	}
	took(t, "Run", began)
	if got := script(t, m, ". /etc/os-release; echo $VERSION_CODENAME"); got != m.spec.Suite {
		t.Errorf("the machine is of %q, want %s", got, m.spec.Suite)
	}
	if got := script(t, m, "pwd; id -u; hostname; command -v curl; getent hosts $(hostname)"); got != "/\n0\n"+m.name+"\n/usr/bin/curl\n127.0.1.1       "+m.name {
		t.Errorf("a command finds itself at\n%s", got)
	}
	if got := must(t, m, "stat", "-fc", "%T", "/sys/fs/cgroup"); got != "cgroup2fs" {
		t.Errorf("the machine's cgroups are a %s, want cgroup2fs", got)
	}
	if got := must(t, m, "cat", "/proc/self/cgroup"); !strings.HasPrefix(got, "0::/init.scope/") && !strings.Contains(got, "\n0::/init.scope/") {
		t.Errorf("a command is in groups\n%s\nwant one in init.scope", got)
	}
	testFailure(t, m)
	testTimeout(t, m)
}

func testFailure(t *testing.T, m *Machine) {
	out, err := m.Shell(t.Context(), "echo out; echo problem >&2; exit 42")
	exit := new(ExitError)
	if !errors.As(err, &exit) || exit.Code != 42 || exit.Output != "out\nproblem\n" || out != exit.Output {
		t.Errorf("a failing command gave %q, %#v", out, err)
	}
	for _, part := range []string{"sh -euc", "42", "problem"} {
		if !strings.Contains(fmt.Sprint(err), part) {
			t.Errorf("error %q lacks %q", err, part)
		}
	}
	if _, err := m.Shell(t.Context(), "kill -KILL $$"); !errors.As(err, &exit) || exit.Code != 128+9 {
		t.Errorf("a command that was killed gave %v, want code 137", err)
	}
	for _, missing := range []string{"no-such-command", "/no/such/command"} {
		if _, err := m.Run(t.Context(), missing); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) {
			t.Errorf("%s, which is missing, gave %v", missing, err)
		}
	}
	if _, err := m.Run(t.Context()); err == nil {
		t.Error("no command ran")
	}
}

// A command that is cut short ends with all that it started.
func testTimeout(t *testing.T, m *Machine) {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	began := time.Now()
	out, err := m.Shell(ctx, "echo begun; setsid sleep 4321 & sleep 4321")
	if !errors.Is(err, context.DeadlineExceeded) || out != "begun\n" {
		t.Errorf("a command without an end gave %q, %v", out, err)
	}
	if waited := time.Since(began); waited > 4*time.Second {
		t.Errorf("it took %s to end a command", waited)
	}
	if out, err := m.Run(t.Context(), "pgrep", "-f", "sleep 4321"); err == nil {
		t.Errorf("what the command started still runs: %s", out)
	}
	// Processes may be left on purpose.
	script(t, m, "sleep 4321 >/dev/null 2>&1 &")
	if _, err := m.Shell(t.Context(), "sleep 4321 &"); !errors.Is(err, exec.ErrWaitDelay) {
		t.Errorf("a command whose output is held gave %v", err)
	}
	must(t, m, "pkill", "-f", "sleep 4321")
}

// unit is a service that a test brings; it runs the program that testCopy copies.
const unit = `
[Unit]
Description=A service that a test brings
[Service]
ExecStart=/opt/test/bin/program
[Install]
WantedBy=multi-user.target
`

func testCopy(t *testing.T, m *Machine) {
	file := filepath.Join(t.TempDir(), "file")
	for to, content := range map[string]string{
		"/opt/test/bin/program":            "#!/bin/sh\necho the program runs\nexec sleep infinity\n",
		"/etc/systemd/system/test.service": unit,
		"/tmp/seen":                        "in what is mounted in the machine alone\n",
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := m.Copy(t.Context(), file, to, 0o755); err != nil {
			t.Fatal(err)
		}
		if got := must(t, m, "cat", to); got != strings.TrimSpace(content) {
			t.Errorf("%s holds %q, want %q", to, got, content)
		}
		if got := must(t, m, "stat", "-c", "%a %U", to); got != "755 root" {
			t.Errorf("%s is %s, want 755 root", to, got)
		}
	}
	if !exists(filepath.Join(m.Root(), "opt/test/bin/program")) {
		t.Error("what was copied is not below Root")
	}
	if err := m.Copy(t.Context(), file, "relative", 0o644); err == nil {
		t.Error("copied to a relative path")
	}
}

// testPower switches the machine off and on in every way; its unit comes up each
// time.
func testPower(t *testing.T, m *Machine) {
	must(t, m, "systemctl", "enable", "test.service")
	if out, err := m.Run(t.Context(), "systemctl", "is-active", "test.service"); err == nil || strings.TrimSpace(out) != "inactive" {
		t.Errorf("the unit is %q before it was started", out)
	}
	ids := []string{bootID(t, m)}
	again := func(how string, began time.Time) {
		t.Helper()
		took(t, how, began)
		if got := must(t, m, "systemctl", "is-active", "test.service"); got != "active" {
			t.Errorf("after %s the unit is %q, want active", how, got)
		}
		id := bootID(t, m)
		if slices.Contains(ids, id) {
			t.Errorf("after %s the machine has not booted again", how)
		}
		ids = append(ids, id)
	}

	began := time.Now()
	if err := m.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	again("Reboot", began)

	old := inhabitants(t, m)
	began = time.Now()
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	took(t, "Kill", began)
	gone(t, old)
	if _, err := m.Run(t.Context(), "true"); err == nil {
		t.Error("a machine that is off ran a command")
	}
	if err := m.Reboot(t.Context()); err == nil {
		t.Error("a machine that is off rebooted")
	}
	if err := m.Kill(); err != nil {
		t.Errorf("the second Kill: %v", err)
	}
	began = time.Now()
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	again("Start after Kill", began)

	// By itself. The command may be cut off by what it does.
	began = time.Now()
	m.Run(t.Context(), "systemctl", "reboot") //nolint:errcheck
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	again("a reboot from within", began)
	began = time.Now()
	m.Run(t.Context(), "systemctl", "poweroff") //nolint:errcheck
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	again("a poweroff from within and Start", began)

	// The journal is of all boots.
	if got := must(t, m, "journalctl", "--unit=test.service", "--output=cat", "--grep=the program runs", "--no-pager"); strings.Count(got, "the program runs") < 4 {
		t.Errorf("the journal has\n%s\nwant a line of each boot", got)
	}
	if console := tail(m.Console()); !strings.Contains(console, "multi-user.target") {
		t.Errorf("the console shows\n%s\nwant that multi-user.target was reached", console)
	}
}

// bootID is other after each boot. The kernel's own is the host's.
func bootID(t *testing.T, m *Machine) string {
	t.Helper()
	return must(t, m, "systemctl", "show", "--property=UserspaceTimestampMonotonic", "--value")
}

func TestMachineBookworm(t *testing.T) {
	m := boot(t, "bookworm")
	testRun(t, m)
	if got := must(t, m, "systemctl", "is-system-running"); got != "running" {
		t.Errorf("the machine is %s: %s", got, must(t, m, "systemctl", "list-units", "--failed"))
	}
	began := time.Now()
	if err := m.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	took(t, "Reboot", began)
}

// Two machines at a time know nothing of each other.
func TestMachineTwo(t *testing.T) {
	one, two := boot(t, "trixie"), boot(t, "trixie")
	script(t, one, "echo one >/root/name; systemctl stop dbus.service dbus.socket")
	if out, err := two.Run(t.Context(), "cat", "/root/name"); err == nil {
		t.Errorf("a machine has another's file: %s", out)
	}
	if got := must(t, two, "systemctl", "is-active", "dbus.service"); got != "active" {
		t.Errorf("a unit that was stopped in one machine is %s in the other", got)
	}
	// Kill does not wait for a command.
	script(t, one, "mkfifo /root/begun")
	ended := make(chan error, 1)
	go func() {
		_, err := one.Shell(t.Context(), "echo >/root/begun; sleep 4321")
		ended <- err
	}()
	must(t, one, "cat", "/root/begun")
	if err := one.Kill(); err != nil {
		t.Fatal(err)
	}
	if exit := new(ExitError); !errors.As(<-ended, &exit) || exit.Code != 128+9 {
		t.Errorf("a command whose machine was killed gave %v, want code 137", exit)
	}
	must(t, two, "systemctl", "is-system-running")
}

// Units with the hardening that ours have start, and a unit may fail.
func TestMachineUnits(t *testing.T) {
	m := boot(t, "trixie")
	must(t, m, "systemd-run", "--wait", "--pipe", "--quiet", "-p", "DynamicUser=yes", "-p", "ProtectSystem=strict", "-p", "PrivateDevices=yes",
		"-p", "PrivateTmp=yes", "-p", "PrivateNetwork=yes", "-p", "ProtectProc=invisible", "-p", "ProtectKernelTunables=yes", "-p", "RestrictNamespaces=yes",
		"-p", "SystemCallFilter=@system-service", "-p", "MemoryMax=100M", "-p", "StateDirectory=test", "sh", "-euc", "id -un; echo x >$STATE_DIRECTORY/x")
	script(t, m, "printf '[Service]\\nType=oneshot\\nExecStart=false\\n[Install]\\nWantedBy=multi-user.target\\n' >/etc/systemd/system/bad.service; systemctl enable bad.service")
	if err := m.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := m.Run(t.Context(), "systemctl", "is-system-running"); err == nil || strings.TrimSpace(out) != "degraded" {
		t.Errorf("with a failed unit the machine is %q, want degraded", out)
	}
}

// A root that cannot boot is an error that shows the console.
func TestMachineBad(t *testing.T) {
	m := boot(t, "trixie")
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(m.Root(), "etc/systemd/system/default.target")
	if err := os.Symlink("/usr/lib/systemd/system/emergency.target", target); err != nil {
		t.Fatal(err)
	}
	err := m.Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "emergency") || !strings.Contains(err.Error(), "Welcome to") {
		t.Errorf("a boot to the emergency target gave %v", err)
	}
	if err := os.Remove(target); err != nil {
		t.Fatal(err)
	}
	init := filepath.Join(m.Root(), "usr/lib/systemd/systemd")
	if err := os.Rename(init, init+".away"); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "systemd-nspawn ended") {
		t.Errorf("a root without init gave %v", err)
	}
	if err := os.Rename(init+".away", init); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Errorf("the mended root: %v", err)
	}
}

func TestMachineSpec(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	for _, spec := range []Spec{
		{Suite: "trixie", Packages: packagesOfTests, Folder: full},
		{Suite: "trixie", Packages: packagesOfTests},
		{Suite: "potato", Folder: empty},
		{Suite: "trixie", Packages: []string{"two packages"}, Folder: empty},
	} {
		if m, err := New(t.Context(), spec); err == nil {
			m.Close()
			t.Errorf("%+v made a machine", spec)
		}
	}
	if !exists(filepath.Join(full, "file")) {
		t.Error("a folder that was refused is not as it was")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := New(ctx, Spec{Suite: "trixie", Packages: packagesOfTests, Folder: empty}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a context that is over gave %v", err)
	}
	if exists(empty) {
		t.Errorf("%s is left after New failed", empty)
	}
}

// victim names the environment variable by which TestMachineKilled's own program
// knows that it is to make a machine and wait to be killed.
const victim = "PYRSIA_MACHINE_VICTIM"

// When the program that made a machine is killed, the machine goes.
func TestMachineKilled(t *testing.T) {
	if folder := os.Getenv(victim); folder != "" {
		beVictim(t, folder)
		return
	}
	folder := filepath.Join(t.TempDir(), "machine")
	before := leftovers(t, folder, 0)
	command := exec.Command(os.Args[0], "-test.run=^TestMachineKilled$", "-test.v", "-test.timeout=3m")
	command.Env = append(os.Environ(), victim+"="+folder)
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	processes, said := reported(out)
	command.Process.Kill()
	command.Wait() //nolint:errcheck // it was killed
	if len(processes) < 4 {
		t.Fatalf("the program that was to be killed said %s", said)
	}
	gone(t, processes)
	group, err := newGroup() // sweeps
	if err != nil {
		t.Fatal(err)
	}
	if err := group.remove(); err != nil {
		t.Error(err)
	}
	if after := leftovers(t, folder, command.Process.Pid); !slices.Equal(after, before) {
		t.Errorf("the host has\n%s\nwant as before\n%s", after, before)
	}
	if err := os.RemoveAll(folder); err != nil {
		t.Errorf("the folder is in use: %v", err)
	}
}

const report = "the machine's processes are "

func beVictim(t *testing.T, folder string) {
	m, err := New(t.Context(), Spec{Suite: "trixie", Packages: packagesOfTests, Folder: folder})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	go m.Run(t.Context(), "sleep", "1234") //nolint:errcheck // both are killed
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := cluster.Until(ctx, func() (bool, error) {
		_, err := m.Run(ctx, "pgrep", "-f", "^sleep 1234")
		return err == nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	fmt.Println(report + strings.Trim(fmt.Sprint(inhabitants(t, m)), "[]"))
	<-t.Context().Done()
}

// reported reads until the program that is to be killed has told the processes of
// its machine.
func reported(from io.Reader) (processes []int, said string) {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		said += lines.Text() + "\n"
		numbers, ok := strings.CutPrefix(lines.Text(), report)
		if !ok {
			continue
		}
		for _, field := range strings.Fields(numbers) {
			if pid, err := strconv.Atoi(field); err == nil {
				processes = append(processes, pid)
			}
		}
		return processes, said
	}
	return nil, said
}
