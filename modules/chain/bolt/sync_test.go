package bolt_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/record"
)

// TestSyncNumber measures how long a new node takes over a long log, with
// SYNC_LEAVES leaves: recipes, the leaves of which a log has most beside
// publications. It is part of `make bench`, not of the tests.
func TestSyncNumber(t *testing.T) {
	leaves, err := strconv.Atoi(os.Getenv("SYNC_LEAVES"))
	if err != nil {
		t.Skip("a measurement: set SYNC_LEAVES")
	}
	n := chaintest.New(t, 1)
	blocks := long(t, n, leaves)
	c := n.Open(t, open(t, filepath.Join(t.TempDir(), "chain.db")))
	begun, now := time.Now(), time.UnixMilli(chaintest.Start).AddDate(1, 0, 0)
	const batch = 16 // what a node takes of its peer at once
	for len(blocks) > 0 {
		size := min(batch, len(blocks))
		if added, err := c.Adopt(blocks[:size], now); err != nil || added != size {
			t.Fatalf("%d of %d, %v", added, size, err)
		}
		blocks = blocks[size:]
	}
	t.Logf("%d leaves in %d blocks followed in %s; %s", c.Size(), c.Height(), time.Since(begun).Round(10*time.Millisecond), memory(t))
	begun = time.Now()
	if err := c.CheckSignatures(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("their signatures checked in %s more; %s", time.Since(begun).Round(10*time.Millisecond), memory(t))
}

// memory is what the kernel says of this process.
func memory(t *testing.T) (text string) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		for _, name := range []string{"VmRSS", "RssAnon", "RssFile"} {
			if strings.HasPrefix(line, name) {
				text += strings.Join(strings.Fields(line), " ") + " "
			}
		}
	}
	return text
}

// long is the wire forms of the blocks of a chain with many leaves.
func long(t *testing.T, n *chaintest.Network, leaves int) [][]byte {
	t.Helper()
	const perBlock = 500
	memory := new(chaintest.Memory)
	c := n.Open(t, memory)
	var blocks [][]byte
	for made := 0; made < leaves; made += perBlock {
		var candidates [][]record.Leaf
		for i := range perBlock {
			recipe := chaintest.Recipe(artifact.PURL(fmt.Sprintf("pkg:maven/org.example.group%d/artifact@%d", (made+i)%1000, made+i)), "file.jar")
			candidates = append(candidates, chaintest.One(n.Endorse(c, recipe.Change())))
		}
		blocks = append(blocks, n.Append(t, c, candidates...).Encode())
	}
	return blocks
}
