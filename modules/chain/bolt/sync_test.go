package bolt_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain/bolt"
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
	debug.FreeOSMemory() // what making the log took is not what following it takes
	begun, now := time.Now(), time.UnixMilli(chaintest.Start).AddDate(1, 0, 0)
	for batch := next(t, blocks); len(batch) > 0; batch = next(t, blocks) {
		if added, err := c.Adopt(batch, now); err != nil || added != len(batch) {
			t.Fatalf("%d of %d, %v", added, len(batch), err)
		}
	}
	t.Logf("%d leaves in %d blocks followed in %s; %s", c.Size(), c.Height(), time.Since(begun).Round(10*time.Millisecond), memory(t))
	begun = time.Now()
	if err := c.CheckSignatures(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("their signatures checked in %s more; %s", time.Since(begun).Round(10*time.Millisecond), memory(t))
}

// next reads as many blocks as a node takes of its peer at once.
func next(t *testing.T, blocks *bufio.Reader) (batch [][]byte) {
	t.Helper()
	for range 16 {
		var size [4]byte
		if _, err := io.ReadFull(blocks, size[:]); err == io.EOF {
			return batch
		} else if err != nil {
			t.Fatal(err)
		}
		block := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(blocks, block); err != nil {
			t.Fatal(err)
		}
		batch = append(batch, block)
	}
	return batch
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

// long is a file with the wire forms of the blocks of a chain with many leaves,
// each after its length. They do not stand in memory, which is measured.
func long(t *testing.T, n *chaintest.Network, leaves int) *bufio.Reader {
	t.Helper()
	const perBlock = 500
	backend, err := bolt.Open(filepath.Join(t.TempDir(), "made.db"))
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "blocks"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	c, to := n.Open(t, backend), bufio.NewWriter(file)
	for made := 0; made < leaves; made += perBlock {
		var candidates [][]record.Leaf
		for i := range perBlock {
			recipe := chaintest.Recipe(artifact.PURL(fmt.Sprintf("pkg:maven/org.example.group%d/artifact@%d", (made+i)%1000, made+i)), "file.jar")
			candidates = append(candidates, chaintest.One(n.Endorse(c, recipe.Change())))
		}
		block := n.Append(t, c, candidates...).Encode()
		_, err := to.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(block))), block...))
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(to.Flush(), backend.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	return bufio.NewReader(file)
}
