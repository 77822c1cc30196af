package chain_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
	"golang.org/x/mod/sumdb/tlog"
)

func TestMemory(t *testing.T) {
	chaintest.TestBackend(t, func(*testing.T) chain.Backend { return new(chaintest.Memory) })
}

// TestOverlay: a block is tried as it is appended.
func TestOverlay(t *testing.T) {
	chaintest.TestBackend(t, func(*testing.T) chain.Backend { return chain.NewOverlays(new(chaintest.Memory)) })
}

func TestMemoryClone(t *testing.T) {
	n, memory := chaintest.New(t, 3), new(chaintest.Memory)
	c := n.Open(t, memory)
	n.Append(t, c)
	clone := memory.Clone()
	n.Append(t, c)
	if height := n.Open(t, clone).Height(); height != 1 {
		t.Errorf("the clone has height %d", height)
	}
}

func TestNew(t *testing.T) {
	n := chaintest.New(t, 3)
	c := n.Chain(t)
	if c.Height() != 0 || c.Size() != 1 || c.Time() != 0 || c.Checkpoint() != nil || c.Network() != n.Network || c.Set().Hash() != n.Set.Hash() || c.Genesis().Name != n.Name {
		t.Errorf("height %d, size %d, time %d, checkpoint %q", c.Height(), c.Size(), c.Time(), c.Checkpoint())
	}
	if leaf, err := c.Leaf(0); err != nil || !bytes.Equal(leaf, n.GenesisLeaf) {
		t.Errorf("%s, %v", leaf, err)
	}
	if _, err := c.Leaf(1); !errors.Is(err, chain.ErrNotFound) {
		t.Error(err)
	}
	if _, err := c.Block(0); !errors.Is(err, chain.ErrNotFound) {
		t.Errorf("the genesis is a certified block: %v", err)
	}
	if _, err := c.Block(1); !errors.Is(err, chain.ErrNotFound) {
		t.Error(err)
	}
	if _, err := c.HeightOf(1); !errors.Is(err, chain.ErrNotFound) {
		t.Error(err)
	}
	if _, err := chain.New(new(chaintest.Memory), []byte("{}")); !errors.Is(err, record.ErrMalformed) {
		t.Error(err)
	}
}

func TestReopen(t *testing.T) {
	n, memory := chaintest.New(t, 3), new(chaintest.Memory)
	c := n.Open(t, memory)
	for range 5 {
		n.Append(t, c)
		again := n.Open(t, memory)
		chaintest.Equal(t, c, again)
		c = again
	}
}

func TestForeign(t *testing.T) {
	n, memory := chaintest.New(t, 3), new(chaintest.Memory)
	n.Append(t, n.Open(t, memory))
	other := chaintest.New(t, 3, func(g *record.Genesis) { g.Salt = record.Hash{1} })
	if _, err := chain.New(memory, other.GenesisLeaf); !errors.Is(err, chain.ErrForeign) {
		t.Error(err)
	}
	if height := n.Open(t, memory).Height(); height != 1 {
		t.Errorf("after a foreign genesis the height is %d", height)
	}
}

func TestStale(t *testing.T) {
	n := chaintest.New(t, 3)
	c, other := n.Chain(t), n.Chain(t)
	first := n.Append(t, c)
	if err := c.Append(first); !errors.Is(err, chain.ErrStale) {
		t.Errorf("the same block again: %v", err)
	}
	n.Append(t, c)
	if err := c.Append(first); !errors.Is(err, chain.ErrStale) {
		t.Errorf("an older block: %v", err)
	}
	// A fork: another block 1, and what follows it.
	fork := n.AppendBlock(t, other, n.ProposeAt(t, other, n.Now(other).Add(time.Minute)))
	if err := c.Append(fork); !errors.Is(err, chain.ErrStale) {
		t.Errorf("a rival block: %v", err)
	}
	n.Append(t, other)
	third := n.Append(t, other)
	if err := c.Append(third); !errors.Is(err, chain.ErrStale) {
		t.Errorf("the next height of another log: %v", err)
	}
	if c.Height() != 2 {
		t.Error(c.Height())
	}
}

// TestSync follows a chain on a second one, block by block, from wire forms.
func TestSync(t *testing.T) {
	n := chaintest.New(t, 3)
	c, follower := n.Chain(t), n.Chain(t)
	n.Story(t, c)
	chaintest.Sync(t, c, follower)
	chaintest.Equal(t, c, follower)
	for height := int64(1); height <= c.Height(); height++ {
		data, err := c.Block(height)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := follower.Verify(data); err == nil {
			t.Errorf("block %d is the next one again", height)
		}
	}
}

func TestHeader(t *testing.T) {
	n := chaintest.New(t, 3)
	c := n.Chain(t)
	for height := int64(1); height <= 3; height++ {
		certified := n.Append(t, c)
		header, err := c.Header(height)
		if err != nil || *header != *certified.Header() {
			t.Errorf("%+v, %v", header, err)
		}
	}
	if header, err := c.Header(0); header != nil || err != nil {
		t.Errorf("%+v, %v", header, err)
	}
	if _, err := c.Header(4); !errors.Is(err, chain.ErrNotFound) {
		t.Error(err)
	}
}

// TestHeaderRules alters one thing of a block per row.
func TestHeaderRules(t *testing.T) {
	n := chaintest.New(t, 3)
	for name, test := range map[string]struct {
		change func(*record.Header)
		want   string
	}{
		"height":          {func(h *record.Header) { h.Height++ }, "height 3 after 1"},
		"height again":    {func(h *record.Header) { h.Height-- }, "height 1 after 1"},
		"previous size":   {func(h *record.Header) { h.PreviousSize++ }, "follows another log"},
		"previous root":   {func(h *record.Header) { h.PreviousRoot[0] ^= 1 }, "follows another log"},
		"set":             {func(h *record.Header) { h.Set[0] ^= 1 }, "names another set"},
		"next set":        {func(h *record.Header) { h.NextSet[0] ^= 1 }, "names another set"},
		"state":           {func(h *record.Header) { h.State = "x" }, "state is reserved"},
		"time before":     {func(h *record.Header) { h.Time -= 2 * chaintest.Interval }, "does not follow its predecessor's"},
		"time equal":      {func(h *record.Header) { h.Time -= chaintest.Interval }, "does not follow its predecessor's"},
		"time ahead":      {func(h *record.Header) { h.Time += 10_001 }, "ahead of this node's clock"},
		"time less ahead": {func(h *record.Header) { h.Time += 10_000 }, ""},
		"stranger":        {func(h *record.Header) { h.Proposer = chaintest.NewNode("stranger").ID }, "is not in the set"},
		"out of turn":     {func(h *record.Header) { h.Proposer = n.Nodes[0].ID }, "log signature is not its proposer's"},
		"nothing":         {func(h *record.Header) {}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := n.Chain(t)
			n.Append(t, c)
			block := n.Propose(t, c)
			header, err := block.Header()
			if err != nil {
				t.Fatal(err)
			}
			proposer := header.Proposer
			test.change(header)
			data, err := record.EncodeLeaf(header)
			if err != nil {
				t.Fatal(err)
			}
			altered := &record.Block{Leaves: [][]byte{data}}
			signer := slices.IndexFunc(n.Nodes, func(node chaintest.Node) bool { return node.ID == proposer })
			if altered.LogSignature, err = record.SignLog(altered.Checkpoint(n.Origin(), c.Frontier()), n.Nodes[signer].Signers.Log); err != nil {
				t.Fatal(err)
			}
			err = c.Validate(altered, n.Now(c))
			if (err == nil) != (test.want == "") || (err != nil && (!strings.Contains(err.Error(), test.want) || !errors.Is(err, chain.ErrInvalid))) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

func TestValidateRefusesShapes(t *testing.T) {
	n := chaintest.New(t, 3)
	c := n.Chain(t)
	good := n.Propose(t, c)
	for name, block := range map[string]*record.Block{
		"empty":             {},
		"no header":         {Leaves: [][]byte{n.GenesisLeaf}},
		"no leaf":           n.Resign(t, c, &record.Block{Leaves: [][]byte{[]byte("{}"), good.Leaves[0]}}),
		"reserved leaf":     n.Resign(t, c, &record.Block{Leaves: [][]byte{[]byte(`{"body":{},"type":"revoke","version":1}`), good.Leaves[0]}}),
		"too many leaves":   n.Resign(t, c, &record.Block{Leaves: append(slices.Repeat([][]byte{[]byte("{}")}, record.MaxBlockLeaves), good.Leaves[0])}),
		"another signature": {Leaves: good.Leaves},
	} {
		if err := c.Validate(block, n.Now(c)); !errors.Is(err, chain.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBlockSize: a block of many leaves has at most 1 MiB, one publication up
// to 4 MiB.
func TestBlockSize(t *testing.T) {
	n := chaintest.New(t, 3)
	c := n.Chain(t)
	var candidates [][]record.Leaf
	for i := range 30 {
		pkg := artifact.PURL(fmt.Sprintf("pkg:generic/large@%d", i))
		recipe := chaintest.Recipe(pkg, "file")
		recipe.Commands = []string{strings.Repeat("x", 60_000)}
		candidates = append(candidates, chaintest.One(n.Endorse(c, recipe.Change())))
	}
	proposer := n.Nodes[1]
	block, err := c.Propose(candidates, proposer.ID, n.Now(c), proposer.Signers.Log)
	if err != nil {
		t.Fatal(err)
	}
	if size := block.Size(); size > record.MaxMixedBlock || size < record.MaxMixedBlock-70_000 {
		t.Errorf("%d leaves of %d bytes", len(block.Leaves), size)
	}
	if err := c.Validate(block, n.Now(c)); err != nil {
		t.Error(err)
	}
	var all []record.Leaf
	for _, candidate := range candidates {
		all = append(all, candidate...)
	}
	if err := c.Validate(n.Force(t, c, all...), n.Now(c)); err == nil {
		t.Error("a block of many leaves and 1.8 MB is taken")
	}
}

// TestLargePublication: it is proposed alone, and not with other leaves.
func TestLargePublication(t *testing.T) {
	n := chaintest.New(t, 3)
	c := n.Chain(t)
	var layers [][]byte
	for i := range 2500 {
		layers = append(layers, fmt.Appendf(nil, "layer %d", i))
	}
	pkg := artifact.PURL("pkg:docker/acme/large@1")
	a := n.AppendAttempt(t, c, n.AppendRecipe(t, c, chaintest.Recipe(pkg)))
	votes := n.Votes(t, a.ID, chaintest.Image(pkg, []byte("m"), layers...))
	n.Append(t, c, chaintest.One(votes.Commits()))
	small := chaintest.One(n.Endorse(c, chaintest.Recipe("pkg:generic/small@1", "file").Change()))
	large := votes.Publish()
	for name, test := range map[string]struct {
		candidates [][]record.Leaf
		want       int
	}{
		"small first": {[][]record.Leaf{small, large}, 2},
		"large first": {[][]record.Leaf{large, small}, len(large) + 1},
	} {
		block, err := c.Propose(test.candidates, n.Nodes[0].ID, n.Now(c), n.Nodes[0].Signers.Log)
		if err != nil || len(block.Leaves) != test.want {
			t.Errorf("%s: %d leaves, %v", name, len(block.Leaves), err)
			continue
		}
		if err := c.Validate(block, n.Now(c)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := c.Validate(n.Force(t, c, append(slices.Clone(large), small...)...), n.Now(c)); err == nil {
		t.Error("a large publication with another leaf is taken")
	}
	n.Append(t, c, large)
}

// TestProposeAgreesWithValidate proposes blocks of many candidates, good, bad
// and repeated: whatever is proposed is valid, is appended, and what was left
// out is refused.
func TestProposeAgreesWithValidate(t *testing.T) {
	n := chaintest.New(t, 3)
	c := n.Chain(t)
	for round := range 6 {
		candidates := candidates(t, n, c, round)
		proposer := n.Nodes[round%3]
		block, err := c.Propose(candidates, proposer.ID, n.Now(c), proposer.Signers.Log)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Validate(block, n.Now(c)); err != nil {
			t.Fatalf("round %d: a proposed block is invalid: %v", round, err)
		}
		if again, err := record.DecodeBlock(block.Encode()); err != nil || c.Validate(again, n.Now(c)) != nil {
			t.Fatalf("round %d: a proposed block does not survive the wire: %v", round, err)
		}
		if len(block.Leaves) == 1 {
			t.Errorf("round %d: nothing was proposed of %d candidates", round, len(candidates))
		}
		n.AppendBlock(t, c, block)
		if err := c.Check(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
}

// candidates are leaves for every attempt that is under way, good and bad ones,
// some twice, and recipes that contradict each other.
func candidates(t *testing.T, n *chaintest.Network, c *chain.Chain, round int) [][]record.Leaf {
	t.Helper()
	var all [][]record.Leaf
	add := func(leaves ...record.Leaf) { all = append(all, leaves) }
	for i := range 3 {
		pkg := artifact.PURL(fmt.Sprintf("pkg:generic/a@%d.%d", round, i))
		add(n.Endorse(c, chaintest.Recipe(pkg, "file").Change()))
		add(n.Endorse(c, chaintest.Recipe(pkg, "file", "more").Change()))
		add(n.Endorse(c, chaintest.Recipe(pkg, "file").Change(), 0))
	}
	recipes, err := c.Recipes()
	if err != nil {
		t.Fatal(err)
	}
	for _, recipe := range recipes {
		for number := range int64(3) {
			add(n.Hold(n.Attempt(c, recipe.Hash, number), 0, 1))
			add(n.Hold(n.Attempt(c, recipe.Hash, number), 1))
		}
	}
	attempts, err := c.Attempts()
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range attempts {
		good := []record.Subject{chaintest.File(a.Package, "file", []byte("good"))}
		bad := []record.Subject{chaintest.File(a.Package, "file", fmt.Appendf(nil, "bad %d", i))}
		votes := n.Votes(t, a.ID, good, good, bad)
		if i%2 == 1 {
			votes = n.Votes(t, a.ID, good, bad, []record.Subject{chaintest.File(a.Package, "file", []byte("worse"))})
		}
		add(votes.Publish(0, 1)...)
		add(votes.Attest(2))
		add(votes.Attest(0))
		add(votes.Attest(1))
		add(votes.Commits(0, 1))
		add(votes.Commits())
		add(append(votes.Publish(0, 1), votes.Attest(2))...)
	}
	return all
}

func TestWait(t *testing.T) {
	n := chaintest.New(t, 3)
	c := n.Chain(t)
	if err := c.Wait(t.Context(), 0); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	for range 3 {
		waiting.Go(func() {
			if err := c.Wait(t.Context(), 2); err != nil || c.Height() < 2 {
				t.Errorf("height %d, %v", c.Height(), err)
			}
		})
		waiting.Go(func() {
			if err := c.Wait(ctx, 99); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	n.Append(t, c)
	n.Append(t, c)
	cancel()
	waiting.Wait()
}

// TestProve proves every published file after every further block.
func TestProve(t *testing.T) {
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	published := map[string]artifact.Name{}
	for i := range 4 {
		pkg, content := artifact.PURL(fmt.Sprintf("pkg:generic/a@%d", i)), fmt.Sprint("content ", i)
		n.PublishFiles(t, c, pkg, map[string][]byte{"file": []byte(content)})
		published[content] = artifact.Name{Package: pkg, File: "file"}
		for content, name := range published {
			proveFile(t, n, c, name, []byte(content))
		}
	}
	var layers [][]byte
	for i := range 200 {
		layers = append(layers, fmt.Appendf(nil, "layer %d", i))
	}
	n.PublishImage(t, c, "pkg:docker/acme/large@1", []byte("m"), layers...)
	n.Append(t, c)
	p, err := c.ResolveTag("acme/large", "1")
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range [][]byte{[]byte("m"), layers[0], layers[123]} {
		name := artifact.Name{Package: p.Subject.URI, File: chaintest.Describe(layer).SHA256.OCI()}
		if string(layer) == "m" {
			name.File = record.ManifestFile
		}
		proveFile(t, n, c, name, layer)
	}
}

func proveFile(t *testing.T, n *chaintest.Network, c *chain.Chain, name artifact.Name, content []byte) {
	t.Helper()
	p, err := c.Resolve(name)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := c.Prove(p)
	if err != nil {
		t.Fatal(err)
	}
	verdict, err := record.VerifyBundle(bundle, n.Network.Genesis, chaintest.Describe(content))
	if err != nil {
		t.Fatalf("%s at height %d: %v", name, c.Height(), err)
	}
	if verdict.Height != p.Height || verdict.Size != c.Size() || len(verdict.Signers) != 4 || verdict.Subject != p.Subject {
		t.Errorf("%s: verdict %+v", name, verdict)
	}
	if _, err := record.VerifyBundle(bundle, n.Network.Genesis, chaintest.Describe([]byte("evil"))); err == nil {
		t.Errorf("%s: the bundle proves other bytes", name)
	}
}

func TestReadHashes(t *testing.T) {
	n := chaintest.New(t, 3)
	c := n.Chain(t)
	n.Story(t, c)
	root, err := tlog.TreeHash(c.Size(), c)
	if err != nil || record.Hash(root) != c.Frontier().Root() {
		t.Errorf("%s, %v", root, err)
	}
	if _, err := c.ReadHashes([]int64{tlog.StoredHashIndex(0, c.Size())}); !errors.Is(err, chain.ErrNotFound) {
		t.Error(err)
	}
}

// TestConcurrent reads in many ways while blocks are appended; it is about the
// race detector and about locks that wait for each other.
func TestConcurrent(t *testing.T) {
	n := chaintest.New(t, 3)
	c := n.Chain(t)
	a := n.PublishFiles(t, c, "pkg:generic/a@1", map[string][]byte{"file": []byte("x")})
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for _, read := range []func() error{
		func() error { _, err := c.HeightOf(a.PublishLeaf); return err },
		func() error { _, err := c.Block(c.Height()); return err },
		func() error { return c.Wait(ctx, c.Height()) },
		func() error {
			p, err := c.Resolve(artifact.Name{Package: "pkg:generic/a@1", File: "file"})
			if err != nil {
				return err
			}
			_, err = c.Prove(p)
			return err
		},
		func() error { _, err := c.Attempts(); return err },
		func() error { return c.Check(ctx, nil) },
	} {
		readers.Go(func() {
			for ctx.Err() == nil {
				if err := read(); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 20 {
		n.Append(t, c)
	}
	cancel()
	readers.Wait()
}

// TestCheck alters what is stored, one value per row.
func TestCheck(t *testing.T) {
	n := chaintest.New(t, 3)
	whole := new(chaintest.Memory)
	c := n.Open(t, whole)
	n.Story(t, c)
	if err := c.Check(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, bucket := range chain.Buckets {
		var keys []string
		if err := whole.View(func(r ledger.Reader) error {
			r.Scan(bucket, nil, func(key, _ []byte) bool {
				keys = append(keys, string(key))
				return true
			})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(keys); i += max(1, len(keys)/3) {
			damaged := whole.Clone()
			if err := damaged.Update(func(tx ledger.Tx) error {
				value := bytes.Clone(tx.Get(bucket, []byte(keys[i])))
				value[len(value)/2] ^= 1
				return tx.Put(bucket, []byte(keys[i]), value)
			}); err != nil {
				t.Fatal(err)
			}
			checked++
			c, err := chain.New(damaged, n.GenesisLeaf)
			if err == nil {
				err = c.Check(t.Context(), nil)
			}
			if err == nil {
				t.Errorf("%s %q: an altered value is not found", bucket, keys[i])
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d values", checked)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Check(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// overtaken is a backend in which something else comes first, once.
type overtaken struct {
	*chaintest.Memory
	first func()
}

func (o *overtaken) View(read func(ledger.Reader) error) error {
	if first := o.first; first != nil {
		o.first = nil
		first()
	}
	return o.Memory.View(read)
}

// TestCheckOvertaken: what is written when Check has seen all blocks, and not yet
// the state, makes no damage of a good file.
func TestCheckOvertaken(t *testing.T) {
	for name, test := range map[string]struct {
		change func(t *testing.T, n *chaintest.Network, c *chain.Chain)
		want   error
	}{
		"nothing": {change: func(*testing.T, *chaintest.Network, *chain.Chain) {}},
		"a block": {change: func(t *testing.T, n *chaintest.Network, c *chain.Chain) { n.Append(t, c) }},
		"blocks that are checked": {change: func(t *testing.T, _ *chaintest.Network, c *chain.Chain) {
			if err := c.CatchUp(t.Context()); err != nil {
				t.Error(err)
			}
		}},
		"a fork": {change: func(t *testing.T, n *chaintest.Network, c *chain.Chain) {
			theirs := n.Chain(t)
			other := n.ProposeAt(t, theirs, n.Now(theirs).Add(time.Minute))
			if _, err := c.Compare(1, n.Certify(t, theirs, other).Encode()); !errors.Is(err, chain.ErrForked) {
				t.Error(err)
			}
		}, want: chain.ErrForked},
	} {
		n, backend := chaintest.New(t, 3), &overtaken{Memory: new(chaintest.Memory)}
		source, c := n.Chain(t), n.Open(t, backend)
		for range 3 {
			n.Append(t, source)
		}
		// As of so much later that the leaves are left to check.
		if _, err := c.Adopt(wire(t, source, 1), n.Now(source).Add(2*chain.History)); err != nil || c.Height() != 0 || c.Followed() != 3 {
			t.Fatalf("%v, blocks up to %d of %d are checked", err, c.Height(), c.Followed())
		}
		if name == "a block" {
			if err := c.CatchUp(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		err := c.Check(t.Context(), func(done, all int64) {
			if done == all {
				backend.first = func() { test.change(t, n, c) }
			}
		})
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

func TestOtherVersion(t *testing.T) {
	n, memory := chaintest.New(t, 3), new(chaintest.Memory)
	n.Append(t, n.Open(t, memory))
	err := memory.Update(func(tx ledger.Tx) error {
		return tx.Put("meta", []byte("version"), []byte("2"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chain.New(memory, n.GenesisLeaf); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Error(err)
	}
}

// TestRecentAttempts: the attempts since a time are those of all that came then.
func TestRecentAttempts(t *testing.T) {
	n := chaintest.New(t, 3)
	c := n.Chain(t)
	if recent, err := c.RecentAttempts(0); err != nil || len(recent) != 0 {
		t.Fatalf("%+v, %v", recent, err)
	}
	n.Story(t, c)
	n.PublishFiles(t, c, "pkg:generic/later@1", map[string][]byte{"a": []byte("a")})
	all, err := c.Attempts()
	if err != nil || len(all) < 3 {
		t.Fatalf("%d attempts, %v", len(all), err)
	}
	for i, a := range all {
		recent, err := c.RecentAttempts(a.Time)
		if err != nil || !reflect.DeepEqual(recent, all[i:]) {
			t.Errorf("since the time of attempt %d: %d of %d, %v", i, len(recent), len(all)-i, err)
		}
	}
	if recent, err := c.RecentAttempts(c.Time()); err != nil || len(recent) != 0 {
		t.Errorf("%d attempts of now, %v", len(recent), err)
	}
}
