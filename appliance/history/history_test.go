package history

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/durable/durabletest"
)

var noon = time.Date(2026, 11, 26, 12, 0, 0, 500, time.UTC)

func TestAdd(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "config")
	h := Of(folder, "/etc/pyrsia/pyrsia.hcl", durable.OS(true))
	if all, err := h.List(); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
	if _, _, err := h.Last(); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
	add := func(source string, number int) {
		t.Helper()
		if next := h.Next([]byte(source)); next != number {
			t.Errorf("the next is to be %d, want %d", next, number)
		}
		e, err := h.Add([]byte(source), noon)
		if err != nil || e.Number != number {
			t.Fatalf("%+v, %v; want number %d", e, err, number)
		}
		last, got, err := h.Last()
		if err != nil || string(got) != source || last != e || !last.Time.Equal(noon.Truncate(time.Second)) {
			t.Errorf("%+v, %q, %v", last, got, err)
		}
	}
	add("one", 1)
	add("one", 1) // the same again is no other
	add("two", 2)
	add("one", 3) // but back to an earlier one is
	if _, source, err := h.Read(2); err != nil || string(source) != "two" {
		t.Errorf("%q, %v", source, err)
	}
	for i := range 2 * Keep {
		add(fmt.Sprint(i), 4+i)
	}
	all, err := h.List()
	if err != nil || len(all) != Keep || all[0].Number != 3+Keep+1 || all[Keep-1].Number != 3+2*Keep {
		t.Errorf("%d from %d to %d, %v", len(all), all[0].Number, all[len(all)-1].Number, err)
	}
	if _, _, err := h.Read(2); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
}

// What another pyrsia.hcl said is never this one's last good configuration.
func TestAnotherFile(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "config")
	mine, other := Of(folder, "/etc/pyrsia/pyrsia.hcl", durable.OS(true)), Of(folder, "/srv/other.hcl", durable.OS(true))
	if _, err := mine.Add([]byte("mine"), noon); err != nil {
		t.Fatal(err)
	}
	if _, _, err := other.Last(); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
	if e, err := other.Add([]byte("other"), noon); err != nil || e.Number != 1 {
		t.Errorf("%+v, %v", e, err)
	}
	if _, _, err := mine.Last(); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
}

// TestAddFails fails at every step in every way: the newest is what it was, or what
// was to be kept; the latter if Add said so.
func TestAddFails(t *testing.T) {
	for name, before := range map[string]int{"the first": 0, "one more": 1, "one too many": Keep} {
		t.Run(name, func(t *testing.T) {
			durabletest.EveryStep(t, 4, func(t *testing.T, kind durabletest.Kind, after int) bool { return failAdd(t, before, kind, after) })
		})
	}
}

func failAdd(t *testing.T, before int, kind durabletest.Kind, after int) (failed bool) {
	folder := filepath.Join(t.TempDir(), "config")
	disk := durabletest.New(durable.OS(true), kind)
	h := Of(folder, "/etc/pyrsia/pyrsia.hcl", disk)
	for i := range before {
		source := fmt.Append(nil, "before ", i)
		if i == 0 {
			if _, err := h.Add(source, noon); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%06d-20261126T120000Z.hcl", i+1)), source, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	disk.Arm(after)
	_, err := h.Add([]byte("new"), noon)
	failed = disk.Failed()
	disk.CutPower(t)
	disk.Arm(-1)
	_, source, lastErr := h.Last()
	switch got := string(source); {
	case got == "new":
	case err == nil:
		t.Errorf("said to be kept, and the newest is %q, %v", got, lastErr)
	case before == 0 && errors.Is(lastErr, ErrNone):
	case got != fmt.Sprint("before ", before-1):
		t.Errorf("the newest is %q, %v", got, lastErr)
	}
	if _, err := h.Add([]byte("again"), noon); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	left, _ := filepath.Glob(filepath.Join(folder, ".*"))
	files, _ := os.ReadDir(folder)
	if len(left) > 0 || len(files) > Keep+1 {
		t.Errorf("left behind: %v, %d files", left, len(files))
	}
	return failed
}
