package chaintest

import (
	"bytes"
	"sort"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
	"lukechampine.com/blake3"
)

// Recipe is a small recipe of a package that publishes the files; for a
// pkg:docker package without files it publishes an image.
func Recipe(pkg artifact.PURL, files ...string) *record.Recipe {
	r := &record.Recipe{
		Package: pkg, Platform: Platform, Commands: []string{"make all && make check > log"},
		Environment: record.Environment{Locale: "C.UTF-8", TimeZone: "UTC", Umask: "022", WorkDir: "/work"},
		Limits:      record.Limits{Disk: 1 << 30, Memory: 1 << 30, Seconds: 600},
		Timestamp:   1_700_000_000,
	}
	for _, file := range files {
		r.Outputs = append(r.Outputs, record.Output{File: file, Package: pkg, Path: "target/" + file})
	}
	if len(files) == 0 {
		r.Images = []record.Image{{Command: []string{"/bin/sh"}, WorkDir: "/"}}
	}
	return r
}

// Describe is the descriptor of bytes.
func Describe(data []byte) artifact.Descriptor {
	return artifact.Descriptor{BLAKE3: blake3.Sum256(data), SHA256: artifact.SHA256(record.Digest(data)), Size: int64(len(data))}
}

// File is the subject of a file of a package.
func File(pkg artifact.PURL, name string, data []byte) record.Subject {
	return record.NewSubject(artifact.Name{Package: pkg, File: name}, "", Describe(data))
}

// Image are the subjects of an image whose manifest, configuration and layers
// are the given bytes; pkg is the package URL with the tag.
func Image(pkg artifact.PURL, manifest []byte, blobs ...[]byte) []record.Subject {
	d := Describe(manifest)
	uri := artifact.DockerPURL(pkg.Repository(), d.SHA256.OCI())
	subjects := []record.Subject{record.NewSubject(artifact.Name{Package: uri, File: record.ManifestFile}, "application/vnd.oci.image.manifest.v1+json", d)}
	for _, blob := range blobs {
		d := Describe(blob)
		subjects = append(subjects, record.NewSubject(artifact.Name{Package: uri, File: d.SHA256.OCI()}, "application/vnd.oci.image.layer.v1.tar", d))
	}
	return subjects
}

// Height is how long a chain is.
type Height interface{ Height() int64 }

// Endorse puts a change into a leaf, endorsed by the given members or by all,
// up to 100 blocks from now.
func (n *Network) Endorse(c Height, change record.RecipeChange, who ...int) *record.RecipeLeaf {
	leaf := &record.RecipeLeaf{Change: change}
	for _, i := range n.some(who) {
		leaf.Endorsements = append(leaf.Endorsements, n.Endorsement(c, change, i))
	}
	return leaf
}

// Endorsement is a member's endorsement of a change.
func (n *Network) Endorsement(c Height, change record.RecipeChange, i int) record.Endorsement {
	return must(record.SignEndorsement(n.Network.Genesis, record.Endorsement{
		Change: change.Digest(), Identity: n.Nodes[i].ID, LastHeight: c.Height() + 100, Seq: 1, Set: n.Set.Hash(),
	}, n.Nodes[i].Signers.Vote))
}

// Attempt is an attempt at a recipe with a made-up lock, for one hour from now.
func (n *Network) Attempt(c *chain.Chain, recipe record.Hash, number int64) record.Attempt {
	return record.Attempt{
		Asker: n.Nodes[0].ID, Deadline: n.Now(c).UnixMilli() + 3_600_000, Engine: Engine,
		Lock: Describe([]byte("lock")), Number: number, Platform: Platform, Recipe: recipe,
	}
}

// Hold puts an attempt into a leaf, held by the given members or by all.
func (n *Network) Hold(a record.Attempt, who ...int) *record.AttemptLeaf {
	leaf := &record.AttemptLeaf{Attempt: a}
	for _, i := range n.some(who) {
		leaf.Holdings = append(leaf.Holdings, n.Holding(a, i))
	}
	return leaf
}

// Holding is a member's signature that it got the lock's files.
func (n *Network) Holding(a record.Attempt, i int) record.Holding {
	return must(record.SignHolding(n.Network.Genesis, a, n.Nodes[i].ID, n.Nodes[i].Signers.Vote))
}

// Votes are what the members build in an attempt.
type Votes struct {
	network    *Network
	Attempt    record.Hash
	Statements [][]byte           // by member
	Lists      [][]record.Subject // by member; nil where the statement lists its files
}

// Votes are votes of all members for an attempt: each built the subjects of
// its index, or those of the last index.
func (n *Network) Votes(t testing.TB, attempt record.Hash, subjects ...[]record.Subject) *Votes {
	t.Helper()
	v := &Votes{network: n, Attempt: attempt}
	for i := range n.Nodes {
		if i >= len(subjects) {
			v.Statements = append(v.Statements, v.Statements[i-1])
			v.Lists = append(v.Lists, v.Lists[i-1])
			continue
		}
		built := append([]record.Subject(nil), subjects[i]...)
		statement, list, err := record.NewStatement(n.Network.Genesis, attempt, built)
		if err != nil {
			t.Fatal(err)
		}
		v.Statements = append(v.Statements, record.MustMarshal(statement))
		v.Lists = append(v.Lists, list)
	}
	return v
}

// Salt is a member's salt.
func (v *Votes) Salt(i int) record.Hash {
	return record.Digest(append([]byte(v.network.Nodes[i].ID), v.Attempt[:]...))
}

// Commit is a member's commit.
func (v *Votes) Commit(i int) record.Commit {
	n := v.network
	value := record.CommitValue(n.Network.Genesis, v.Attempt, n.Nodes[i].ID, v.Salt(i), v.Statements[i])
	return must(record.SignCommit(n.Network.Genesis, v.Attempt, n.Nodes[i].ID, value, n.Nodes[i].Signers.Vote))
}

// Attestation is a member's revealed vote.
func (v *Votes) Attestation(i int) record.Attestation {
	node := v.network.Nodes[i]
	return must(record.SignAttestation(v.Attempt, node.ID, v.Salt(i), v.Statements[i], node.Signers.Vote))
}

// Commits is the commits leaf of the given members, or of all.
func (v *Votes) Commits(who ...int) *record.CommitsLeaf {
	leaf := &record.CommitsLeaf{Attempt: v.Attempt}
	for _, i := range v.network.some(who) {
		leaf.Commits = append(leaf.Commits, v.Commit(i))
	}
	return leaf
}

func (v *Votes) envelope(who []int) (record.Envelope, []record.Reveal) {
	var attestations []record.Attestation
	for _, i := range v.network.some(who) {
		attestations = append(attestations, v.Attestation(i))
	}
	return record.NewEnvelope(attestations)
}

// Publish is the publish leaf of the given members, or of all, with the files
// leaves that belong before it.
func (v *Votes) Publish(who ...int) []record.Leaf {
	envelope, reveals := v.envelope(who)
	return append(v.Files(v.network.some(who)[0]), &record.PublishLeaf{Attempt: v.Attempt, Envelope: envelope, Reveals: reveals})
}

// Files are the files leaves of a member's vote, 100 files each.
func (v *Votes) Files(i int) []record.Leaf {
	list := v.Lists[i]
	if list == nil {
		return nil
	}
	const each = 100
	digest := record.Digest(record.MustMarshal(list))
	var leaves []record.Leaf
	for at := 0; at < len(list); at += each {
		leaves = append(leaves, &record.FilesLeaf{
			Attempt: v.Attempt, List: digest,
			Part: int64(at / each), Parts: int64((len(list) + each - 1) / each), Files: list[at:min(at+each, len(list))],
		})
	}
	return leaves
}

// Attest is the attest leaf of the given members, or of all.
func (v *Votes) Attest(who ...int) *record.AttestLeaf {
	envelope, reveals := v.envelope(who)
	return &record.AttestLeaf{Attempt: v.Attempt, Envelope: envelope, Reveals: reveals}
}

// One is a candidate of one leaf.
func One(leaf record.Leaf) []record.Leaf { return []record.Leaf{leaf} }

// AppendRecipe appends a block with the recipe, unless it is on the chain.
func (n *Network) AppendRecipe(t testing.TB, c *chain.Chain, recipe *record.Recipe) record.Hash {
	t.Helper()
	if _, err := c.Recipe(recipe.Hash()); err != nil {
		n.Append(t, c, One(n.Endorse(c, recipe.Change())))
	}
	return recipe.Hash()
}

// AppendAttempt appends a block with the recipe's next attempt.
func (n *Network) AppendAttempt(t testing.TB, c *chain.Chain, recipe record.Hash) *ledger.Attempt {
	t.Helper()
	number := int64(1)
	if last, err := c.Newest(recipe, Platform); err == nil {
		number = last.Attempt.Number + 1
	}
	n.Append(t, c, One(n.Hold(n.Attempt(c, recipe, number))))
	a, err := c.Newest(recipe, Platform)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Publish walks a recipe and what all members built of it to its publication,
// a block for each step.
func (n *Network) Publish(t testing.TB, c *chain.Chain, recipe *record.Recipe, subjects []record.Subject) *ledger.Attempt {
	t.Helper()
	a := n.AppendAttempt(t, c, n.AppendRecipe(t, c, recipe))
	votes := n.Votes(t, a.ID, subjects)
	n.Append(t, c, One(votes.Commits()))
	n.Append(t, c, votes.Publish())
	a, err := c.Attempt(a.ID)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// PublishFiles publishes files of a package by their contents.
func (n *Network) PublishFiles(t testing.TB, c *chain.Chain, pkg artifact.PURL, files map[string][]byte) *ledger.Attempt {
	t.Helper()
	var names []string
	var subjects []record.Subject
	for name := range files {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		subjects = append(subjects, File(pkg, name, files[name]))
	}
	return n.Publish(t, c, Recipe(pkg, names...), subjects)
}

// PublishImage publishes an image by its bytes, as Image; a live recipe of the
// package is superseded.
func (n *Network) PublishImage(t testing.TB, c *chain.Chain, pkg artifact.PURL, manifest []byte, blobs ...[]byte) *ledger.Attempt {
	t.Helper()
	recipe := Recipe(pkg)
	if live, err := c.LiveRecipe(pkg); err == nil {
		recipe.Supersedes = live.Hash.String()
	}
	return n.Publish(t, c, recipe, Image(pkg, manifest, blobs...))
}

// Sync appends the blocks of one chain to another, from their wire forms.
func Sync(t testing.TB, from, to *chain.Chain) {
	t.Helper()
	for height := to.Height() + 1; height <= from.Height(); height++ {
		data, err := from.Block(height)
		if err != nil {
			t.Fatal(err)
		}
		certified, err := to.Verify(data)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(certified.Encode(), data) {
			t.Fatalf("block %d is encoded in two ways", height)
		}
		if err := to.Append(certified); err != nil {
			t.Fatal(err)
		}
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
