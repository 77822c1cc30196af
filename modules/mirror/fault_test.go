package mirror

import (
	"fmt"
	"testing"

	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/durable/durabletest"
)

// TestJournalFails fails at every step in every way: what append promised is
// found, what is found is what was appended, nothing of what was durable before is
// damaged, and the next start goes on.
func TestJournalFails(t *testing.T) {
	durabletest.EveryStep(t, 10, failJournal)
}

func failJournal(t *testing.T, kind durabletest.Kind, after int) (failed bool) {
	t.Helper()
	folder := t.TempDir()
	disk := durabletest.New(durable.OS(true), kind)
	appended, promised := map[string]Passed{}, map[string]bool{}
	use := func(run int) {
		j, _, err := openJournal(disk, folder)
		if err != nil {
			return
		}
		defer j.close()
		for i := range 4 {
			rec := line(fmt.Sprintf("run %d, file %d%0*d", run, i, 10*(4-i), 0), byte(10*run+i))
			appended[rec.Path] = rec
			promised[rec.Path] = j.append(rec) == nil
		}
	}
	use(1) // with nothing in the way
	disk.Arm(after)
	use(2)
	failed = disk.Failed()
	disk.CutPower(t)
	disk.Arm(-1)
	use(3)
	j, damaged, err := openJournal(disk, folder)
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	if damaged > 1 || damaged > 0 && !kind.Power {
		t.Errorf("%d damaged lines", damaged)
	}
	found := 0
	for path, rec := range appended {
		got, ok := j.byPathOf("maven", path)
		if ok && got != rec || !ok && promised[path] {
			t.Errorf("%s: %+v, %v", path, got, ok)
		}
		if ok {
			found++
		}
	}
	if err := j.each(func(Passed) bool { found--; return true }); err != nil || found != 0 {
		t.Errorf("%d lines more or less than were found, %v", found, err)
	}
	return failed
}
