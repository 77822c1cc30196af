package bolt_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
)

// TestCrashWhileFollowing cuts the power within the writes of a node that follows a
// long log and of one that catches up with it: the file is whole, as before or after
// the write, and the node comes to the same chain.
func TestCrashWhileFollowing(t *testing.T) {
	n := chaintest.New(t, 3)
	source := n.Chain(t)
	for i := range 12 {
		n.PublishFiles(t, source, artifact.PURL(fmt.Sprintf("pkg:generic/a%d@1", i)), map[string][]byte{"a": []byte("a")})
	}
	d := &disk{network: n, blocks: [][]byte{nil}}
	for height := int64(1); height <= source.Height(); height++ {
		data, err := source.Block(height)
		if err != nil {
			t.Fatal(err)
		}
		d.blocks = append(d.blocks, data)
	}
	later := time.UnixMilli(source.Time()).Add(2 * chain.History)
	path := filepath.Join(t.TempDir(), "chain.db")
	c := n.Open(t, open(t, path))
	d.snap(t, path)
	for rest := d.blocks[1:]; len(rest) > 0; rest = rest[min(7, len(rest)):] {
		if _, err := c.Adopt(rest[:min(7, len(rest))], later); err != nil {
			t.Fatal(err)
		}
		d.snap(t, path)
	}
	if err := c.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.snap(t, path)
	random, cuts := rand.New(rand.NewPCG(5, 6)), 0
	for i := 1; i < len(d.files); i++ {
		before, after := grown(d.files[i-1], len(d.files[i])), d.files[i]
		for try := range 6 {
			torn := bytes.Clone(before)
			for _, p := range pages(before, after) {
				if p >= 2 && (try == 0 || random.IntN(2) == 0) {
					copy(torn[p*page:(p+1)*page], after[p*page:])
				}
			}
			cuts++
			d.comesTo(t, fmt.Sprintf("write %d, try %d", i, try), torn, source, later)
		}
		d.comesTo(t, fmt.Sprintf("after write %d", i), after, source, later)
	}
	t.Logf("%d power cuts", cuts)
}

// comesTo opens a file and follows and catches up from there.
func (d *disk) comesTo(t *testing.T, what string, data []byte, source *chain.Chain, later time.Time) {
	t.Helper()
	c, closeFile, err := d.load(t, data)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer closeFile()
	if err := c.Check(t.Context(), nil); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if _, err := c.Adopt(d.blocks[c.Followed()+1:], later); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if err := errors.Join(c.CatchUp(t.Context()), c.Check(t.Context(), nil)); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	chaintest.Equal(t, source, c)
}

// TestFullDisk fills a real file system of its own: the block that does not fit is an
// error and leaves nothing, and with room again the same node goes on.
func TestFullDisk(t *testing.T) {
	folder := t.TempDir()
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(folder, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	n := chaintest.New(t, 3)
	source, c := n.Chain(t), n.Open(t, open(t, filepath.Join(folder, "chain.db")))
	put := func() error {
		data, err := source.Block(c.Height() + 1)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Adopt([][]byte{data}, n.Now(source))
		return err
	}
	var full error
	for i := 0; full == nil && i < 200; i++ {
		n.PublishFiles(t, source, artifact.PURL(fmt.Sprintf("pkg:generic/a%d@1", i)), map[string][]byte{"a": []byte("a")})
		for full == nil && c.Height() < source.Height() {
			full = put()
		}
	}
	if !errors.Is(full, syscall.ENOSPC) {
		t.Fatalf("a full disk: %v", full)
	}
	height := c.Height()
	if err := c.Check(t.Context(), nil); err != nil {
		t.Errorf("while it is full: %v", err)
	}
	if err := put(); err == nil || c.Height() != height {
		t.Errorf("again: %v, height %d after %d", err, c.Height(), height)
	}
	if err := syscall.Mount("tmpfs", folder, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	for c.Height() < source.Height() {
		if err := put(); err != nil {
			t.Fatalf("with room again: %v", err)
		}
	}
	chaintest.Equal(t, source, c)
	if err := c.Check(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}
