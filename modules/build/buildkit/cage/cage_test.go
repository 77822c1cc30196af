package cage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfine(t *testing.T) {
	for name, c := range map[string]struct {
		config    string
		processes string
		disk      int64
	}{
		"no limits":    {`{"root":{"path":"rootfs"}}`, "8192", 0},
		"both":         {`{"process":{"rlimits":[{"type":"RLIMIT_NPROC","hard":50,"soft":50},{"type":"RLIMIT_FSIZE","hard":1048576,"soft":1}]}}`, "50", 1 << 20},
		"unlimited":    {`{"process":{"rlimits":[{"type":"RLIMIT_NPROC","hard":18446744073709551615,"soft":1}]}}`, "8192", 0},
		"other limits": {`{"process":{"rlimits":[{"type":"RLIMIT_NOFILE","hard":7,"soft":7}]},"linux":{"resources":{"memory":{"limit":9223372036854771712}}}}`, "8192", 0},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, c.config)
			s, err := confine(path, true)
			if err != nil || s.disk != c.disk {
				t.Fatalf("%+v, %v", s, err)
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var config struct {
				Linux struct {
					Resources struct {
						PIDs   struct{ Limit json.Number }
						Memory struct{ Limit json.Number }
					}
				}
			}
			if err := json.Unmarshal(data, &config); err != nil || config.Linux.Resources.PIDs.Limit.String() != c.processes {
				t.Errorf("%s, %v; want %s processes", data, err, c.processes)
			}
			if strings.Contains(c.config, "memory") && config.Linux.Resources.Memory.Limit != "9223372036854771712" {
				t.Errorf("another limit was changed: %s", data)
			}
		})
	}
	for _, bad := range []string{"", "{", "[]", `"x"`} {
		if _, err := confine(write(t, bad), true); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// TestCounts: a bound that nothing can enforce is left out, or no step could begin.
func TestCounts(t *testing.T) {
	for name, c := range map[string]struct {
		files []string
		want  bool
	}{
		"version 2":              {[]string{"cgroup.controllers=cpuset cpu io memory pids\n"}, true},
		"version 2 without pids": {[]string{"cgroup.controllers=cpu memory\n"}, false},
		"version 1":              {[]string{"pids/tasks="}, true},
		"version 1 without pids": {[]string{"memory/tasks="}, false},
		"none":                   {nil, false},
	} {
		root := t.TempDir()
		for _, file := range c.files {
			name, content, _ := strings.Cut(file, "=")
			if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o700), os.WriteFile(filepath.Join(root, name), []byte(content), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if counts(root) != c.want {
			t.Errorf("%s: %v", name, !c.want)
		}
	}
	path := write(t, `{"linux":{"resources":{}}}`)
	if _, err := confine(path, false); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); err != nil || strings.Contains(string(data), "pids") {
		t.Errorf("%s, %v", data, err)
	}
}

func TestBundleOf(t *testing.T) {
	for args, want := range map[string]string{
		"--log l --log-format json run --bundle /b --keep id": "/b",
		"run -b /c id":       "/c",
		"run --bundle=/d id": "/d",
		"create id":          ".",
	} {
		if got, runs := bundleOf(strings.Fields(args)); got != want || !runs {
			t.Errorf("%s: %q, %v", args, got, runs)
		}
	}
	for _, args := range []string{"--version", "kill id KILL", "delete id", ""} {
		if _, runs := bundleOf(strings.Fields(args)); runs {
			t.Errorf("%q runs something", args)
		}
	}
}

// TestFull counts blocks as the disk has them: each file once, however many names it
// has, and what is not there not at all.
func TestFull(t *testing.T) {
	folder := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(folder, name), bytes.Repeat([]byte("x"), 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(folder, "a"), filepath.Join(folder, "again")); err != nil {
		t.Fatal(err)
	}
	sparse := filepath.Join(folder, "sparse")
	if err := os.WriteFile(sparse, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(sparse, 1<<30); err != nil {
		t.Fatal(err)
	}
	if !(&watch{upper: folder, limit: 2<<20 - 1}).full() {
		t.Error("two files of a MiB fit less")
	}
	if (&watch{upper: folder, limit: 5 << 19}).full() {
		t.Error("what is linked or sparse is counted in full")
	}
	if (&watch{upper: filepath.Join(folder, "none"), limit: 1}).full() {
		t.Error("nothing is full")
	}
	for i := range 300 { // empty, and an inode each
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprint("empty", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if !(&watch{upper: folder, limit: 3 << 20}).full() {
		t.Error("empty files take nothing")
	}
}

// TestHeld: a file without a name is found while it is open, and while it is only mapped.
func TestHeld(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("only root may look at what is mapped: run as root")
	}
	name := filepath.Join(t.TempDir(), "file")
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	var want unix.Stat_t
	if err := errors.Join(unix.Fstat(int(file.Fd()), &want), os.Remove(name)); err != nil {
		t.Fatal(err)
	}
	finds := func() bool {
		for _, path := range held(fmt.Sprintf("/proc/%d", os.Getpid())) {
			var stat unix.Stat_t
			if unix.Stat(path, &stat) == nil && stat.Ino == want.Ino && stat.Dev == want.Dev {
				return true
			}
		}
		return false
	}
	if !finds() {
		t.Error("it is open, and not found")
	}
	mapped, err := unix.Mmap(int(file.Fd()), 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	if !finds() {
		t.Error("it is mapped, and not found")
	}
	if err := unix.Munmap(mapped); err != nil {
		t.Fatal(err)
	}
	if finds() {
		t.Error("it is gone, and found")
	}
}

func TestRunWithoutRunc(t *testing.T) {
	t.Setenv(runcVariable, filepath.Join(t.TempDir(), "none"))
	var b bytes.Buffer
	if code := Run([]string{"run", "id"}, &b); code != 1 || !strings.HasPrefix(b.String(), "runc run failed: ") {
		t.Errorf("%d, %s", code, b.String())
	}
}
