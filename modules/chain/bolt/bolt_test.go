package bolt_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/bolt"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

func open(t testing.TB, path string) *bolt.Backend {
	t.Helper()
	backend, err := bolt.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := backend.Close(); err != nil {
			t.Error(err)
		}
	})
	return backend
}

func TestBackend(t *testing.T) {
	chaintest.TestBackend(t, func(t *testing.T) chain.Backend { return open(t, filepath.Join(t.TempDir(), "new", "chain.db")) })
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chain.db")
	n := chaintest.New(t, 3)
	model := n.Chain(t)
	for range 4 {
		backend, err := bolt.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		c := n.Open(t, backend)
		chaintest.Equal(t, model, c)
		n.Append(t, model)
		chaintest.Sync(t, model, c)
		if err := backend.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTwoProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chain.db")
	open(t, path)
	if _, err := bolt.Open(path); err == nil || !strings.Contains(err.Error(), "another process has it open") {
		t.Error(err)
	}
}

func TestNoFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := bolt.Open(filepath.Join(file, "chain.db")); err == nil {
		t.Error("a file is taken for a folder")
	}
}

// TestPanicsStayPanics: a bug of the caller is not the disk's.
func TestPanicsStayPanics(t *testing.T) {
	backend := open(t, filepath.Join(t.TempDir(), "chain.db"))
	bug := errors.New("a bug")
	for name, run := range map[string]func(){
		"view":   func() { backend.View(func(ledger.Reader) error { panic(bug) }) },
		"update": func() { backend.Update(func(ledger.Tx) error { panic(bug) }) },
	} {
		func() {
			defer func() {
				if cause := recover(); cause != bug {
					t.Errorf("%s: recovered %v", name, cause)
				}
			}()
			run()
		}()
	}
	if err := backend.Update(func(ledger.Tx) error { return nil }); err != nil {
		t.Error(err)
	}
}

// disk is a chain file after each block of a story.
type disk struct {
	network *chaintest.Network
	blocks  [][]byte // wire forms; blocks[0] is nil
	files   [][]byte // after opening, after block 1, …
}

func played(t *testing.T) *disk {
	t.Helper()
	path := filepath.Join(t.TempDir(), "chain.db")
	d := &disk{network: chaintest.New(t, 3), blocks: [][]byte{nil}}
	model := d.network.Chain(t)
	d.network.Append(t, model)
	d.network.PublishFiles(t, model, "pkg:generic/a@1", map[string][]byte{"a": []byte("a"), "b": []byte("b")})
	d.network.PublishImage(t, model, "pkg:docker/acme/tool@1", []byte("manifest"), []byte("config"), []byte("layer"))
	for range 3 {
		d.network.Append(t, model)
	}
	c := d.network.Open(t, open(t, path))
	d.snap(t, path)
	for height := int64(1); height <= model.Height(); height++ {
		data, err := model.Block(height)
		if err != nil {
			t.Fatal(err)
		}
		d.blocks = append(d.blocks, data)
		d.append(t, c, data)
		d.snap(t, path)
	}
	return d
}

func (d *disk) snap(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d.files = append(d.files, data)
}

func (d *disk) append(t *testing.T, c *chain.Chain, data []byte) {
	t.Helper()
	certified, err := c.Verify(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Append(certified); err != nil {
		t.Fatal(err)
	}
}

// load opens a file's bytes as a chain.
func (d *disk) load(t *testing.T, data []byte) (*chain.Chain, func(), error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "chain.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	backend, err := bolt.Open(path)
	if err != nil {
		return nil, nil, err
	}
	c, err := chain.New(backend, d.network.GenesisLeaf)
	if err != nil {
		return nil, nil, errors.Join(err, backend.Close())
	}
	return c, func() { backend.Close() }, nil
}

// recovers tells that the file is whole, at the height, and goes on.
func (d *disk) recovers(t *testing.T, what string, data []byte, height int64) {
	t.Helper()
	c, closeFile, err := d.load(t, data)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer closeFile()
	if c.Height() != height {
		t.Fatalf("%s: height %d, want %d", what, c.Height(), height)
	}
	if err := c.Check(t.Context(), nil); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	for _, block := range d.blocks[height+1 : min(int(height)+3, len(d.blocks))] {
		d.append(t, c, block)
	}
}

// TestCrashBetween reopens the file as it was after each block.
func TestCrashBetween(t *testing.T) {
	d := played(t)
	for height, data := range d.files {
		d.recovers(t, fmt.Sprintf("after block %d", height), data, int64(height))
	}
}

const page = 4096

// TestCrashDuring makes the files that a crash may leave in the middle of a
// transaction: some of its pages written and others not, the page with the
// description of the file not written, or half of it.
func TestCrashDuring(t *testing.T) {
	d := played(t)
	random := rand.New(rand.NewPCG(1, 2))
	for height := 1; height < len(d.files); height++ {
		before, after := grown(d.files[height-1], len(d.files[height])), d.files[height]
		changed := pages(before, after)
		meta := -1
		for try := range 4 {
			torn := bytes.Clone(before)
			for _, i := range changed {
				if i < 2 {
					meta = i
				} else if try == 0 || random.IntN(2) == 0 {
					copy(torn[i*page:(i+1)*page], after[i*page:])
				}
			}
			d.recovers(t, fmt.Sprintf("block %d, try %d", height, try), torn, int64(height-1))
			if meta < 0 {
				t.Fatalf("block %d changed no description", height)
			}
			if try > 0 {
				continue
			}
			// All pages, and of the description one more byte each 8 bytes.
			for cut := 24; cut < 80; cut += 8 {
				half := bytes.Clone(torn)
				copy(half[meta*page:meta*page+cut], after[meta*page:])
				if bytes.Equal(half[meta*page:(meta+1)*page], after[meta*page:(meta+1)*page]) {
					break
				}
				d.recovers(t, fmt.Sprintf("block %d, description to %d", height, cut), half, int64(height-1))
			}
		}
	}
}

func grown(data []byte, size int) []byte {
	return append(bytes.Clone(data), make([]byte, max(0, size-len(data)))...)
}

func pages(a, b []byte) (changed []int) {
	for i := 0; i*page < len(b); i++ {
		if !bytes.Equal(a[i*page:(i+1)*page], b[i*page:(i+1)*page]) {
			changed = append(changed, i)
		}
	}
	return changed
}

// TestTornCopies makes files that no crash leaves, but a copy of the file while
// it is written to, a cut or a failing disk does. They are found, or they hold a
// whole chain; never less.
func TestTornCopies(t *testing.T) {
	d := played(t)
	random := rand.New(rand.NewPCG(3, 4))
	last := len(d.files) - 1
	found := 0
	try := func(what string, data []byte) {
		t.Helper()
		c, closeFile, err := d.load(t, data)
		if err == nil {
			defer closeFile()
			if err = c.Check(t.Context(), nil); err == nil {
				return
			}
		}
		found++
		if !errors.Is(err, chain.ErrDamaged) && !errors.Is(err, chain.ErrForeign) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range 60 {
		old := d.files[random.IntN(last)]
		torn := grown(old, len(d.files[last]))
		for p := 0; p*page < len(torn); p++ {
			if random.IntN(2) == 0 {
				copy(torn[p*page:(p+1)*page], d.files[last][p*page:])
			}
		}
		try(fmt.Sprintf("mixture %d", i), torn)
	}
	for cut := 0; cut < len(d.files[last]); cut += 1 + random.IntN(6*page) {
		try(fmt.Sprintf("cut to %d", cut), d.files[last][:cut])
	}
	for i := range 40 {
		zeroed := bytes.Clone(d.files[last])
		p := random.IntN(len(zeroed) / page)
		clear(zeroed[p*page : (p+1)*page])
		try(fmt.Sprintf("zeros %d in page %d", i, p), zeroed)
	}
	if found < 60 {
		t.Errorf("only %d damaged files were found", found)
	}
}

// BenchmarkAppend appends blocks of recipes: decoding, rules, Merkle tree,
// indexes and fsync. Its one signature was verified when the block was proposed,
// as on a node that voted for it. The processor's time is reported beside the
// clock's, for machines that do other things too.
func BenchmarkAppend(b *testing.B) {
	const leaves = 500
	n := chaintest.New(b, 1)
	c := n.Open(b, open(b, filepath.Join(b.TempDir(), "chain.db")))
	appended, spent := 0, time.Duration(0)
	for b.Loop() {
		b.StopTimer()
		var candidates [][]record.Leaf
		for i := range leaves {
			recipe := chaintest.Recipe(artifact.PURL(fmt.Sprintf("pkg:generic/a@%d", appended+i)), "file")
			candidates = append(candidates, chaintest.One(n.Endorse(c, recipe.Change())))
		}
		certified := n.Certify(b, c, n.Propose(b, c, candidates...))
		start := processor(b)
		b.StartTimer()
		if err := c.Append(certified); err != nil {
			b.Fatal(err)
		}
		spent += processor(b) - start
		appended += leaves
	}
	b.StopTimer()
	leaf := spent.Seconds() / float64(appended)
	b.ReportMetric(float64(appended)/b.Elapsed().Seconds(), "leaves/s")
	b.ReportMetric(1/leaf, "leaves/cpu-s")
}

// processor is the processor time that this process took so far.
func processor(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
