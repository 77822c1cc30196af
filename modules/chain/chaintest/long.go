package chaintest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// Blocks are the blocks of a long log, one after the other.
type Blocks struct{ from *bufio.Reader }

// Next reads as many blocks as a node takes of its peer at once; none are left after an
// empty batch.
func (b *Blocks) Next(t testing.TB) (batch [][]byte) {
	t.Helper()
	for range 16 {
		var size [4]byte
		if _, err := io.ReadFull(b.from, size[:]); err == io.EOF {
			return batch
		} else if err != nil {
			t.Fatal(err)
		}
		block := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(b.from, block); err != nil {
			t.Fatal(err)
		}
		batch = append(batch, block)
	}
	return batch
}

// Long is a file with the wire forms of the blocks of a chain with many leaves,
// each after its length. They do not stand in memory, which is measured, and no
// chain makes them, which would take longer than what is measured.
//
// It is a log as publications make it: of every four leaves one is a recipe, one
// its attempt, one the commits and one the publication.
func (n *Network) Long(t testing.TB, leaves int) *Blocks {
	t.Helper()
	const perBlock = 125 // packages; each goes through four blocks
	file, err := os.Create(filepath.Join(t.TempDir(), "blocks"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	to := bufio.NewWriter(file)
	l := &longLog{t: t, n: n, header: record.Header{Set: n.Set.Hash(), NextSet: n.Set.Hash(), Time: Start}}
	l.end.Append(record.LeafHash(n.GenesisLeaf))
	var under [3][]*publishing // way: with a recipe, an attempt, commits on the chain
	for made := 0; int(l.end.Size) < leaves; made += perBlock {
		next := make([]*publishing, perBlock)
		for i := range next {
			next[i] = &publishing{name: artifact.PURL(fmt.Sprintf("pkg:maven/org.example.group%d/artifact%d@1.%d.0", (made+i)%1000, (made+i)/20, (made+i)%20))}
		}
		l.parallel(slices.Concat(next, under[0], under[1], under[2]))
		block := l.block(slices.Concat(next, under[0], under[1], under[2])).Encode()
		under = [3][]*publishing{next, under[0], under[1]}
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
	return &Blocks{bufio.NewReader(file)}
}

// publishing is a package on its way to publication.
type publishing struct {
	name    artifact.PURL
	recipe  record.Hash
	attempt record.Hash
	votes   *Votes
	leaf    []byte // the next one
	steps   int
}

type longLog struct {
	t      testing.TB
	n      *Network
	end    record.Frontier
	header record.Header // of the last block
}

// parallel makes the next leaf of each package; signing takes most of the time.
func (l *longLog) parallel(packages []*publishing) {
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

func (l *longLog) step(p *publishing) {
	var leaf record.Leaf
	switch p.steps++; p.steps {
	case 1:
		recipe := Recipe(p.name, "file.jar", "file.pom")
		p.recipe, leaf = recipe.Hash(), l.n.Endorse(heightOf(l.header.Height), recipe.Change(), 0, 1)
	case 2:
		a := record.Attempt{
			Asker: l.n.Nodes[0].ID, Deadline: l.header.Time + 3_600_000, Engine: Engine, Number: 1,
			Lock: Describe([]byte(p.name)), Platform: Platform, Recipe: p.recipe,
		}
		leaf = l.n.Hold(a, 0, 1)
	case 3:
		p.votes = l.n.Votes(l.t, p.attempt, []record.Subject{
			File(p.name, "file.jar", []byte(p.name)), File(p.name, "file.pom", []byte(p.name+" pom")),
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
func (l *longLog) block(packages []*publishing) *record.Certified {
	l.header.Height++
	l.header.Time += Interval
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
