package bolt_test

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/chain/chaintest"
)

// TestSyncNumber measures how long a new node takes over a long log, with
// SYNC_LEAVES leaves. It is part of `make bench`, not of the tests.
func TestSyncNumber(t *testing.T) {
	leaves, err := strconv.Atoi(os.Getenv("SYNC_LEAVES"))
	if err != nil {
		t.Skip("a measurement: set SYNC_LEAVES")
	}
	n := chaintest.New(t, 3)
	blocks := n.Long(t, leaves)
	path := filepath.Join(t.TempDir(), "chain.db")
	c := n.Open(t, open(t, path))
	forget(t) // what making the log took is not what following it takes
	begun, now := time.Now(), time.UnixMilli(chaintest.Start).AddDate(1, 0, 0)
	for batch := blocks.Next(t); len(batch) > 0; batch = blocks.Next(t) {
		if added, err := c.Adopt(batch, now); err != nil || added != len(batch) {
			t.Fatalf("%d of %d, %v", added, len(batch), err)
		}
	}
	t.Logf("%d blocks with about %d leaves followed in %s; %s", c.Followed(), leaves, time.Since(begun).Round(10*time.Millisecond), memory(t))
	if info, err := os.Stat(path); err == nil {
		t.Logf("the chain file has %d MiB", info.Size()>>20)
	}
	forget(t)
	begun = time.Now()
	if err := c.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("their leaves checked in %s more; %s", time.Since(begun).Round(10*time.Millisecond), memory(t))
}

// forget has the kernel forget how much memory this process had at the most.
func forget(t *testing.T) {
	t.Helper()
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
}

// memory is what the kernel says of this process: now, and at the most.
func memory(t *testing.T) (text string) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		for _, name := range []string{"VmHWM", "VmRSS", "RssAnon", "RssFile"} {
			if strings.HasPrefix(line, name) {
				text += strings.Join(strings.Fields(line), " ") + " "
			}
		}
	}
	return text
}
