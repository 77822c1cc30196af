package durable_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/durable/durabletest"
)

// TestReplace fails at every step in every way: the file is the old one or the new
// one, the new one at the latest when Replace says so, and nothing else stays.
func TestReplace(t *testing.T) {
	for _, old := range []string{"", "old content"} {
		durabletest.EveryStep(t, 6, func(t *testing.T, kind durabletest.Kind, after int) bool {
			return replaceFailing(t, kind, old, after)
		})
	}
}

// replaceFailing makes one step fail, if there is such a step.
func replaceFailing(t *testing.T, kind durabletest.Kind, old string, after int) (failed bool) {
	t.Helper()
	folder, content := t.TempDir(), "all of the new content"
	path := filepath.Join(folder, "file")
	if old != "" {
		if err := os.WriteFile(path, []byte(old), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	disk := durabletest.New(durable.OS(true), kind)
	disk.Arm(after)
	err := durable.Replace(disk, path, []byte(content))
	disk.CutPower(t)
	failed = disk.Failed()
	disk.Arm(-1)
	if err != nil && !errors.Is(err, kind.Err) {
		t.Fatalf("step %d: %v", after, err)
	}
	got, reading := os.ReadFile(path)
	if reading != nil && !(old == "" && errors.Is(reading, os.ErrNotExist)) {
		t.Fatalf("step %d: %v", after, reading)
	}
	if s := string(got); s != content && (s != old || err == nil) {
		t.Errorf("step %d: the file is %q, and Replace says %v", after, s, err)
	}
	if err := durable.Sweep(disk, folder); err != nil {
		t.Fatal(err)
	}
	if err := durable.Replace(disk, path, []byte(content)); err != nil {
		t.Errorf("step %d, again: %v", after, err)
	}
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) != 1 {
		t.Errorf("step %d: %v, %v", after, entries, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("step %d: %v, %v", after, info.Mode(), err)
	}
	return failed
}
