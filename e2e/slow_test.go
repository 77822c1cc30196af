//go:build slow

package e2e

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pyrsia/appliance/e2e/cluster"
)

// These stories are about `make demo` itself. `make e2e` has run it before, so
// that its network is up.

// warm is how long a second run of the demo may take.
const warm = 2 * time.Minute

// demo runs the demo's driver in the tree, as make does.
func demo(t *testing.T, arguments ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "bin/demo", arguments...)
	command.Dir = ".."
	out, err := command.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		t.Fatal("bin/demo is missing; run: make demo")
	}
	return string(out), err
}

// A second run finds everything published, lets the real tools fetch it again,
// and is short.
func TestSlowDemoAgain(t *testing.T) {
	begun := time.Now()
	out, err := demo(t, "up")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if took := time.Since(begun); took > warm {
		t.Errorf("the second run took %s, want at most %s", took, warm)
	}
	for _, said := range []string{"yes, byte for byte", "published by an earlier run", `openjdk version "21.`, "marked as unverified"} {
		if !strings.Contains(out, said) {
			t.Errorf("the second run does not say %q:\n%s", said, out)
		}
	}
}

// The demo's nodes are killed, all at once. The next run starts them, finds the
// log whole, and all steps are seen again.
func TestSlowDemoKilled(t *testing.T) {
	c, err := cluster.Open(cluster.Spec{Folder: "../.demo/net", Build: 3, Regular: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes() {
		if !n.Running() {
			t.Fatalf("the demo's %s does not run; run: make demo", n.Name)
		}
	}
	if err := c.KillAll(); err != nil {
		t.Fatal(err)
	}
	if out, err := demo(t, "up"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// A demo that is stopped leaves no process, and the next run starts it.
func TestSlowDemoStopped(t *testing.T) {
	if out, err := demo(t, "stop"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	left, err := filepath.Glob("../.demo/*/*.pid")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../.demo/net/*/*.pid")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(left, more...) {
		t.Errorf("%s is left", path)
	}
	if listener, err := net.Listen("tcp", "127.0.0.1:7888"); err != nil {
		t.Error(err)
	} else {
		listener.Close()
	}
	if out, err := demo(t, "up"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// What is in the way of a demo is told in one sentence before anything is made.
func TestSlowDemoRefusals(t *testing.T) {
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	}()
	other := filepath.Join(t.TempDir(), "demo")
	for _, story := range []struct {
		name, names, folder string
		change              func(*exec.Cmd)
	}{
		{"no root", "root", other, func(c *exec.Cmd) {
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}},
		{"no runc", "runc", other, func(c *exec.Cmd) { c.Env = withoutRunc(t) }},
		{"port in use", "127.0.0.1:7888", other, func(*exec.Cmd) {}},
		{"full disk", "GiB free", filepath.Join(small, "demo"), func(*exec.Cmd) {}},
	} {
		t.Run(story.name, func(t *testing.T) {
			// A copy that everybody may run, wherever this tree is.
			program := filepath.Join(worldReadable(t), "demo")
			if err := copyFile(program, "../bin/demo"); err != nil {
				t.Fatal(err)
			}
			bin, err := filepath.Abs("../bin")
			if err != nil {
				t.Fatal(err)
			}
			command := exec.CommandContext(timely(t), program, "-folder", story.folder, "-bin", bin, "up")
			story.change(command)
			out, err := command.CombinedOutput()
			said := strings.TrimSpace(string(out))
			if err == nil || strings.Contains(said, "\n") || !strings.HasPrefix(said, "demo: ") || !strings.Contains(said, story.names) {
				t.Errorf("%v: %q; want one sentence that names %q", err, said, story.names)
			}
			if _, err := os.Stat(story.folder); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s was made: %v", story.folder, err)
			}
		})
	}
}

// withoutRunc is this environment with a PATH that has every program of the
// usual folders but runc.
func withoutRunc(t *testing.T) []string {
	t.Helper()
	folder := t.TempDir()
	for _, from := range []string{"/usr/local/bin", "/usr/sbin", "/usr/bin"} {
		entries, err := os.ReadDir(from)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() != "runc" {
				os.Symlink(filepath.Join(from, e.Name()), filepath.Join(folder, e.Name()))
			}
		}
	}
	return append(os.Environ(), "PATH="+folder)
}

func worldReadable(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "demo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	return folder
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}
