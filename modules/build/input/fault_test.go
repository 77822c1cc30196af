package input

import (
	"fmt"
	"testing"

	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/durable/durabletest"
	"github.com/pyrsia/appliance/modules/record"
)

// TestProvenRecordFails fails at every step in every way: what was synced is
// known, nothing is known that was not added, and the next start goes on.
func TestProvenRecordFails(t *testing.T) {
	durabletest.EveryStep(t, 8, failProven)
}

func failProven(t *testing.T, kind durabletest.Kind, after int) (failed bool) {
	t.Helper()
	folder := t.TempDir()
	disk := durabletest.New(durable.OS(true), kind)
	entry := func(run, i int) record.LockEntry {
		return record.LockEntry{Kind: "maven", Path: fmt.Sprintf("%d/%d", run, i), Proof: record.ProofUpstream, File: describe(fmt.Sprint(run, i))}
	}
	promised := map[string]bool{}
	use := func(run int) {
		p, err := openProven(disk, folder)
		if err != nil {
			return
		}
		for i := range 6 {
			adding := p.add(entry(run, i))
			if syncing := p.sync(); adding == nil && syncing == nil {
				promised[entry(run, i).Path] = true
			}
		}
		_ = p.close()
	}
	use(1) // with nothing in the way
	disk.Arm(after)
	use(2)
	failed = disk.Failed()
	disk.CutPower(t)
	disk.Arm(-1)
	use(3)
	p, err := openProven(disk, folder)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	known := 0
	for run := 1; run <= 3; run++ {
		for i := range 6 {
			e := entry(run, i)
			if !p.has(e) && promised[e.Path] {
				t.Errorf("%s is forgotten", e.Path)
			}
			if p.has(e) {
				known++
			}
		}
	}
	if strange := len(p.keys) - known; strange > 1 || strange > 0 && !kind.Power {
		t.Errorf("%d keys are of nothing that was added", strange)
	}
	return failed
}
