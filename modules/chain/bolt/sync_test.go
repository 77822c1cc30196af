package bolt_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/record"
)

// TestSyncNumber measures how long a new node takes over a long log, with
// SYNC_LEAVES leaves. It is part of `make bench`, not of the tests.
func TestSyncNumber(t *testing.T) {
	leaves, err := strconv.Atoi(os.Getenv("SYNC_LEAVES"))
	if err != nil {
		t.Skip("a measurement: set SYNC_LEAVES")
	}
	n := chaintest.New(t, 3)
	blocks := long(t, n, leaves)
	path := filepath.Join(t.TempDir(), "chain.db")
	c := n.Open(t, open(t, path))
	forget(t) // what making the log took is not what following it takes
	begun, now := time.Now(), time.UnixMilli(chaintest.Start).AddDate(1, 0, 0)
	for batch := next(t, blocks); len(batch) > 0; batch = next(t, blocks) {
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

// long is a file with the wire forms of the blocks of a chain with many leaves,
// each after its length. They do not stand in memory, which is measured, and no
// chain makes them, which would take longer than what is measured.
//
// It is a log as publications make it: of every four leaves one is a recipe, one
// its attempt, one the commits and one the publication.
func long(t *testing.T, n *chaintest.Network, leaves int) *bufio.Reader {
	t.Helper()
	const perBlock = 125 // packages; each goes through four blocks
	file, err := os.Create(filepath.Join(t.TempDir(), "blocks"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	to := bufio.NewWriter(file)
	l := &longLog{t: t, n: n, header: record.Header{Set: n.Set.Hash(), NextSet: n.Set.Hash(), Time: chaintest.Start}}
	l.end.Append(record.LeafHash(n.GenesisLeaf))
	var under [3][]*pkg // way: with a recipe, an attempt, commits on the chain
	for made := 0; int(l.end.Size) < leaves; made += perBlock {
		next := make([]*pkg, perBlock)
		for i := range next {
			next[i] = &pkg{name: artifact.PURL(fmt.Sprintf("pkg:maven/org.example.group%d/artifact%d@1.%d.0", (made+i)%1000, (made+i)/20, (made+i)%20))}
		}
		l.parallel(slices.Concat(next, under[0], under[1], under[2]))
		block := l.block(slices.Concat(next, under[0], under[1], under[2])).Encode()
		under = [3][]*pkg{next, under[0], under[1]}
		if _, err := to.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(block))), block...)); err != nil {
			t.Fatal(err)
		}
	}
	if err := to.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	return bufio.NewReader(file)
}

// pkg is a package on its way to publication.
type pkg struct {
	name    artifact.PURL
	recipe  record.Hash
	attempt record.Hash
	votes   *chaintest.Votes
	leaf    []byte // the next one
	steps   int
}

type longLog struct {
	t      *testing.T
	n      *chaintest.Network
	end    record.Frontier
	header record.Header // of the last block
}

// parallel makes the next leaf of each package; signing takes most of the time.
func (l *longLog) parallel(packages []*pkg) {
	var workers sync.WaitGroup
	each := (len(packages) + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0)
	for some := range slices.Chunk(packages, each) {
		workers.Go(func() {
			for _, p := range some {
				l.step(p)
			}
		})
	}
	workers.Wait()
}

func (l *longLog) step(p *pkg) {
	var leaf record.Leaf
	switch p.steps++; p.steps {
	case 1:
		recipe := chaintest.Recipe(p.name, "file.jar", "file.pom")
		p.recipe, leaf = recipe.Hash(), l.n.Endorse(heightOf(l.header.Height), recipe.Change(), 0, 1)
	case 2:
		a := record.Attempt{
			Asker: l.n.Nodes[0].ID, Deadline: l.header.Time + 3_600_000, Engine: chaintest.Engine, Number: 1,
			Lock: chaintest.Describe([]byte(p.name)), Platform: chaintest.Platform, Recipe: p.recipe,
		}
		leaf = l.n.Hold(a, 0, 1)
	case 3:
		p.votes = l.n.Votes(l.t, p.attempt, []record.Subject{
			chaintest.File(p.name, "file.jar", []byte(p.name)), chaintest.File(p.name, "file.pom", []byte(p.name+" pom")),
		})
		leaf = p.votes.Commits(0, 1)
	case 4:
		leaf = p.votes.Publish(0, 1)[0]
	}
	data, err := record.EncodeLeaf(leaf)
	if err != nil {
		l.t.Error(err)
	}
	if p.leaf = data; p.steps == 2 {
		p.attempt = record.LeafHash(data)
	}
}

// heightOf is the height of a log that stands in no chain.
type heightOf int64

func (h heightOf) Height() int64 { return int64(h) }

// block certifies the next leaves of the packages.
func (l *longLog) block(packages []*pkg) *record.Certified {
	l.header.Height++
	l.header.Time += chaintest.Interval
	l.header.PreviousSize, l.header.PreviousRoot = l.end.Size, l.end.Root()
	proposer := l.n.Node(l.n.Set.Proposer(l.header.Height, 0))
	l.header.Proposer = proposer.ID
	block := new(record.Block)
	for _, p := range packages {
		block.Leaves = append(block.Leaves, p.leaf)
	}
	header, err := record.EncodeLeaf(&l.header)
	block.Leaves = append(block.Leaves, header)
	checkpoint := block.Checkpoint(l.n.Origin(), l.end)
	signature, signing := record.SignLog(checkpoint, proposer.Signers.Log)
	block.LogSignature = signature
	var cosignatures []record.Cosignature
	for _, node := range l.n.Nodes[:l.n.Set.Quorum()] {
		c, cosigning := record.SignCosignature(checkpoint, node.ID, l.header.Time/1000, node.Signers.Cosigner)
		cosignatures, err = append(cosignatures, c), errors.Join(err, cosigning)
	}
	certified, certifying := record.Certify(l.n.Network, l.n.Set, l.end, block, cosignatures)
	if err := errors.Join(err, signing, certifying); err != nil {
		l.t.Fatal(err)
	}
	for _, leaf := range block.Leaves {
		l.end.Append(record.LeafHash(leaf))
	}
	return certified
}
