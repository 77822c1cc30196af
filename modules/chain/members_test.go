package chain_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/record"
)

// rotated is a network in which a member got new keys: the chain, the network
// before and after, and how many blocks were made before the change counts.
func rotated(t *testing.T, size, who int) (c *chain.Chain, before, after *chaintest.Network) {
	t.Helper()
	before = chaintest.New(t, size)
	c = before.Chain(t)
	before.Append(t, c)
	after, leaf := before.Renew(t, who)
	before.Append(t, c, chaintest.One(leaf))
	before.Append(t, c)
	return c, before, after
}

// TestRotation: new keys count two blocks after their leaf, for everybody who
// follows, and the old ones count no more.
func TestRotation(t *testing.T) {
	n := chaintest.New(t, 3)
	memory := new(chaintest.Memory)
	c, follower := n.Open(t, memory), n.Chain(t)
	n.PublishFiles(t, c, "pkg:generic/old@1", map[string][]byte{"a": []byte("old")})
	renewed, leaf := n.Renew(t, 0)
	n.Append(t, c, chaintest.One(leaf))
	if c.Set().Hash() != n.Set.Hash() || c.NextSet().Hash() != renewed.Set.Hash() {
		t.Errorf("after the leaf the sets are %s and %s", c.Set().Hash(), c.NextSet().Hash())
	}
	waiting := n.Append(t, c)
	if waiting.Header().NextSet != renewed.Set.Hash() {
		t.Errorf("the block before names %s as the next set", waiting.Header().NextSet)
	}
	if c.Set().Hash() != renewed.Set.Hash() {
		t.Errorf("two blocks later the set is %s", c.Set().Hash())
	}
	c = n.Open(t, memory) // the set is read from the state
	block := n.Propose(t, c)
	if _, err := record.Certify(n.Network, c.Set(), c.Frontier(), block, n.Cosign(t, c, block, 0, 1)); err == nil {
		t.Error("a retired key certifies a block")
	}
	renewed.PublishFiles(t, c, "pkg:generic/new@1", map[string][]byte{"b": []byte("new")})
	chaintest.Sync(t, c, follower)
	chaintest.Equal(t, c, follower)
	if err := c.Check(t.Context(), nil); err != nil {
		t.Error(err)
	}
	for height := int64(1); height <= c.Height(); height++ {
		set, err := c.SetAt(height)
		want := n.Set.Hash()
		if height > waiting.Header().Height {
			want = renewed.Set.Hash()
		}
		if err != nil || set.Hash() != want {
			t.Errorf("set of height %d: %v, %v", height, set, err)
		}
	}
	provesAcrossSets(t, c, n)
}

// provesAcrossSets: bundles of what was published before and after a change are
// proven from the genesis alone.
func provesAcrossSets(t *testing.T, c *chain.Chain, n *chaintest.Network) {
	t.Helper()
	for pkg, content := range map[artifact.PURL]string{"pkg:generic/old@1": "old", "pkg:generic/new@1": "new"} {
		name := artifact.Name{Package: pkg, File: map[string]string{"old": "a", "new": "b"}[content]}
		p, err := c.Resolve(name)
		if err != nil {
			t.Fatal(err)
		}
		data, err := c.Prove(p)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := record.VerifyBundle(data, n.Network.Genesis, chaintest.Describe([]byte(content))); err != nil || v.Height != p.Height || len(v.Signers) != 3 {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
		refusesChanges(t, data, n, content)
	}
}

// refusesChanges alters the proof of the set's change, one thing per row.
func refusesChanges(t *testing.T, data []byte, n *chaintest.Network, content string) {
	t.Helper()
	for what, change := range map[string]func(*record.BundleExtra){
		"no change":      func(e *record.BundleExtra) { e.Sets = nil },
		"twice":          func(e *record.BundleExtra) { e.Sets = append(e.Sets, e.Sets[0]) },
		"another leaf":   func(e *record.BundleExtra) { e.Sets[0].Leaf = e.Leaf },
		"another note":   func(e *record.BundleExtra) { e.Sets[0].Note[len(e.Sets[0].Note)-5] ^= 1 },
		"another header": func(e *record.BundleExtra) { e.Sets[0].Header = e.Last },
		"another record": func(e *record.BundleExtra) {
			_, leaf := n.Renew(t, 1)
			e.Sets[0].Leaf, _ = record.EncodeLeaf(leaf)
		},
	} {
		b, err := record.DecodeBundle(data)
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Extra.Sets) != 1 {
			t.Fatalf("%d changes of the set in the bundle", len(b.Extra.Sets))
		}
		change(&b.Extra)
		if _, err := record.VerifyBundle(b.Encode(), n.Network.Genesis, chaintest.Describe([]byte(content))); err == nil {
			t.Errorf("a bundle with %s of the set is taken", what)
		}
	}
}

func TestRotationRules(t *testing.T) {
	for name, test := range map[string]struct {
		leaf func(t *testing.T, c *chain.Chain, n *chaintest.Network) *record.KeyRotateLeaf
		want string
	}{
		"another member": {func(t *testing.T, _ *chain.Chain, n *chaintest.Network) *record.KeyRotateLeaf {
			_, leaf := n.Renew(t, 1)
			return leaf
		}, ""},
		"within the hour": {func(t *testing.T, _ *chain.Chain, n *chaintest.Network) *record.KeyRotateLeaf {
			_, leaf := n.Renew(t, 0)
			return leaf
		}, "changed 1 times, and the last time less than 1 hours"},
		"a key of before": {func(t *testing.T, _ *chain.Chain, n *chaintest.Network) *record.KeyRotateLeaf {
			return resigned(t, n, 1, func(r *record.NodeRecord, s *record.NodeSigners) { s.Cosigner = chaintest.NewSigner("node0 cosigner") })
		}, "used before"},
		"a key of another member": {func(t *testing.T, _ *chain.Chain, n *chaintest.Network) *record.KeyRotateLeaf {
			return resigned(t, n, 1, func(r *record.NodeRecord, s *record.NodeSigners) { s.Log = n.Nodes[2].Signers.Log })
		}, "used before"},
		"an old key": {func(t *testing.T, _ *chain.Chain, n *chaintest.Network) *record.KeyRotateLeaf {
			return resigned(t, n, 1, func(r *record.NodeRecord, s *record.NodeSigners) { s.Vote = n.Nodes[1].Signers.Vote })
		}, "used before"},
		"the same number": {func(t *testing.T, _ *chain.Chain, n *chaintest.Network) *record.KeyRotateLeaf {
			return resigned(t, n, 1, func(r *record.NodeRecord, _ *record.NodeSigners) { r.Seq-- })
		}, "record 1"},
		"an identity's key": {func(t *testing.T, _ *chain.Chain, n *chaintest.Network) *record.KeyRotateLeaf {
			return resigned(t, n, 1, func(r *record.NodeRecord, s *record.NodeSigners) { s.Vote = n.Nodes[2].Signers.Identity })
		}, "used before"},
		"a record of another network": {func(t *testing.T, _ *chain.Chain, _ *chaintest.Network) *record.KeyRotateLeaf {
			_, leaf := chaintest.New(t, 3, func(g *record.Genesis) { g.Name = "other" }).Renew(t, 1)
			return leaf
		}, "identity key's signature"},
		"a founder's signatures": {func(t *testing.T, _ *chain.Chain, n *chaintest.Network) *record.KeyRotateLeaf {
			renewed, leaf := n.Renew(t, 1)
			signed, err := record.SignNode(leaf.Record, renewed.Nodes[1].Signers)
			if err != nil {
				t.Fatal(err)
			}
			return &record.KeyRotateLeaf{Record: signed}
		}, "identity key's signature"},
		"another operator": {func(t *testing.T, _ *chain.Chain, n *chaintest.Network) *record.KeyRotateLeaf {
			return resigned(t, n, 1, func(r *record.NodeRecord, _ *record.NodeSigners) { r.Operator = "mallory.example" })
		}, "the operator of"},
		"a stranger": {func(t *testing.T, _ *chain.Chain, n *chaintest.Network) *record.KeyRotateLeaf {
			return &record.KeyRotateLeaf{Record: chaintest.NewNode("stranger").Record}
		}, "is not in the set"},
		"a signature missing": {func(t *testing.T, _ *chain.Chain, n *chaintest.Network) *record.KeyRotateLeaf {
			_, leaf := n.Renew(t, 1)
			leaf.Record.Signatures.Identity[0] ^= 1
			return leaf
		}, "identity key's signature"},
	} {
		t.Run(name, func(t *testing.T) {
			c, _, n := rotated(t, 3, 0)
			err := c.Validate(n.Force(t, c, test.leaf(t, c, n)), n.Now(c))
			if (err == nil) != (test.want == "") || (err != nil && (!strings.Contains(err.Error(), test.want) || !errors.Is(err, chain.ErrInvalid))) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// TestRotationsGrowRare: a member that changes its keys again and again waits
// twice as long each time, since every proof holds all changes.
func TestRotationsGrowRare(t *testing.T) {
	c, _, n := rotated(t, 3, 0)
	last := time.UnixMilli(c.Time() - chaintest.Interval)
	for _, hours := range []time.Duration{1, 2, 4, 8} {
		renewed, leaf := n.Renew(t, 0)
		for early, want := range map[time.Duration]int{time.Minute: 1, 0: 2} {
			block, err := c.Propose([][]record.Leaf{chaintest.One(leaf)}, n.Nodes[1].ID, last.Add(hours*time.Hour-early), n.Nodes[1].Signers.Log)
			if err != nil || len(block.Leaves) != want {
				t.Errorf("%s before the %d hours are over a block has %d leaves, want %d; %v", early, hours, len(block.Leaves), want, err)
			}
		}
		last = last.Add(hours * time.Hour)
		n.AppendBlock(t, c, n.ProposeAt(t, c, last, chaintest.One(leaf)))
		n.AppendBlock(t, c, n.ProposeAt(t, c, last))
		n = renewed
	}
}

// resigned is the rotation of a member with something changed before it is
// signed.
func resigned(t *testing.T, n *chaintest.Network, i int, change func(*record.NodeRecord, *record.NodeSigners)) *record.KeyRotateLeaf {
	t.Helper()
	renewed, leaf := n.Renew(t, i)
	r, signers := leaf.Record, renewed.Nodes[i].Signers
	change(&r, &signers)
	signed, err := record.SignRotation(n.Network.Genesis, r, signers)
	if err != nil {
		t.Fatal(err)
	}
	return &record.KeyRotateLeaf{Record: signed}
}

// TestOneChangeInFlight: a change of the set waits for the one before it.
func TestOneChangeInFlight(t *testing.T) {
	n := chaintest.New(t, 3)
	c := n.Chain(t)
	renewed, first := n.Renew(t, 0)
	_, second := n.Renew(t, 1)
	if err := c.Validate(n.Force(t, c, first, second), n.Now(c)); err == nil {
		t.Error("two changes in one block")
	}
	n.Append(t, c, chaintest.One(first))
	if err := c.Validate(n.Force(t, c, second), n.Now(c)); err == nil {
		t.Error("a change while another one waits")
	}
	n.Append(t, c)
	later, third := renewed.Renew(t, 1)
	renewed.Append(t, c, chaintest.One(third))
	renewed.Append(t, c)
	if c.Set().Hash() != later.Set.Hash() {
		t.Error("the second change does not count")
	}
	hour := time.UnixMilli(c.Time() + 3_600_000)
	again, fourth := later.Renew(t, 0)
	later.AppendBlock(t, c, later.ProposeAt(t, c, hour, chaintest.One(fourth)))
	later.Append(t, c)
	again.Append(t, c)
	if err := c.Check(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// TestYoungKeys: a member whose keys are younger than an attempt has no vote in
// it; the others go on.
func TestYoungKeys(t *testing.T) {
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	const pkg artifact.PURL = "pkg:generic/a@1"
	recipe := n.AppendRecipe(t, c, chaintest.Recipe(pkg, "a"))
	attempt := n.AppendAttempt(t, c, recipe)
	renewed, leaf := n.Renew(t, 0)
	n.Append(t, c, chaintest.One(leaf))
	n.Append(t, c)
	votes := renewed.Votes(t, attempt.ID, []record.Subject{chaintest.File(pkg, "a", []byte("a"))})
	if err := c.Validate(renewed.Force(t, c, votes.Commits(0, 1, 2)), renewed.Now(c)); err == nil || !strings.Contains(err.Error(), "younger") {
		t.Errorf("a commit of younger keys: %v", err)
	}
	renewed.Append(t, c, chaintest.One(votes.Commits(1, 2, 3)))
	renewed.Append(t, c, votes.Publish(1, 2, 3))
	late := time.UnixMilli(attempt.Attempt.Deadline + 1)
	renewed.AppendBlock(t, c, renewed.ProposeAt(t, c, late))
	if err := c.Validate(renewed.Force(t, c, votes.Attest(0)), renewed.Now(c)); err == nil || !strings.Contains(err.Error(), "younger") {
		t.Errorf("a late vote of younger keys: %v", err)
	}
}
