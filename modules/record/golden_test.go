package record_test

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/record"
)

var update = flag.Bool("update", false, "write the goldens anew; formats are frozen once a network is founded")

// story is a chain of four members from recipe to publication: three build the
// same, the fourth something else.
//
//	genesis, [recipe, block], [attempt, block], [commits, block], [publish, attest, block]
type story struct {
	network *chaintest.Network
	chain   *chain.Chain
	empty   *chain.Chain
	recipe  *record.Recipe
	lock    *record.Lock
	attempt record.Attempt
	id      record.Hash
	votes   *chaintest.Votes
	files   []record.Subject
	blocks  []*record.Certified
	before  []record.Frontier
}

const jar = artifact.PURL("pkg:maven/org.example/hello@1.0.0")

func tell(t testing.TB) *story {
	t.Helper()
	s := &story{network: chaintest.New(t, 4)}
	s.chain, s.empty = s.network.Chain(t), s.network.Chain(t)
	s.recipe = &record.Recipe{
		Package: jar, Platform: chaintest.Platform, Builder: "pkg:docker/pyrsia/jdk21-maven@3.9.11",
		Sources: []record.Source{{
			Maven: "org.example:hello:1.0.0:source-release:zip", SHA256: chaintest.Describe([]byte("source")).SHA256, Strip: 1,
		}},
		Commands:    []string{"mvn -o -B package && ls target > \"/tmp/läuft ☕\""},
		Environment: record.Environment{Locale: "C.UTF-8", TimeZone: "UTC", Umask: "022", Variables: []string{"A=1"}, WorkDir: "/work"},
		Resolve:     "maven",
		Outputs: []record.Output{
			{File: "hello-1.0.0.jar", Package: jar, Path: "target/hello-1.0.0.jar"},
			{File: "hello-1.0.0.pom", Package: jar, Path: "pom.xml"},
		},
		Timestamp: 1_700_000_000,
		Limits:    record.Limits{Disk: 4 << 30, Memory: 2 << 30, Seconds: 1800},
	}
	s.lock = &record.Lock{
		Builder: []artifact.Descriptor{chaintest.Describe([]byte("manifest"))},
		Entries: []record.LockEntry{
			{Kind: "source", Path: "hello-1.0.0-source-release.zip", Proof: record.ProofSource, File: chaintest.Describe([]byte("source"))},
			{Kind: "maven", Path: "org/example/parent/7/parent-7.pom", Proof: record.ProofUpstream, File: chaintest.Describe([]byte("parent"))},
		},
		Recipe: s.recipe.Hash(),
	}
	s.lock.Sort()
	s.append(t, chaintest.One(s.network.Endorse(s.chain, s.recipe.Change(), 0, 1, 3)))
	s.attempt = s.network.Attempt(s.chain, s.recipe.Hash(), 1)
	s.attempt.Lock = chaintest.Describe(record.MustMarshal(s.lock))
	s.append(t, chaintest.One(s.network.Hold(s.attempt, 0, 1, 2)))
	newest, err := s.chain.Newest(s.recipe.Hash(), chaintest.Platform)
	if err != nil {
		t.Fatal(err)
	}
	s.id = newest.ID
	s.files = []record.Subject{
		chaintest.File(jar, "hello-1.0.0.jar", []byte("a jar")), chaintest.File(jar, "hello-1.0.0.pom", []byte("a pom")),
	}
	other := []record.Subject{
		chaintest.File(jar, "hello-1.0.0.jar", []byte("another jar")), chaintest.File(jar, "hello-1.0.0.pom", []byte("a pom")),
	}
	s.votes = s.network.Votes(t, s.id, s.files, s.files, s.files, other)
	s.append(t, chaintest.One(s.votes.Commits()))
	s.append(t, s.votes.Publish(0, 1, 2), chaintest.One(s.votes.Attest(3)))
	return s
}

func (s *story) append(t testing.TB, candidates ...[]record.Leaf) {
	t.Helper()
	s.before = append(s.before, s.chain.Frontier())
	s.blocks = append(s.blocks, s.network.Append(t, s.chain, candidates...))
}

// leaf is the bytes of leaf i of block h, which counts from 1.
func (s *story) leaf(h, i int) []byte { return s.blocks[h-1].Block().Leaves[i] }

func (s *story) bundle(t testing.TB) []byte {
	t.Helper()
	publication, err := s.chain.Resolve(artifact.Name{Package: jar, File: "hello-1.0.0.jar"})
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := s.chain.Prove(publication)
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

func encode(t testing.TB, leaf record.Leaf) []byte {
	t.Helper()
	data, err := record.EncodeLeaf(leaf)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// many are more files than a statement lists itself.
func many() []record.Subject {
	var subjects []record.Subject
	for i := range 65 {
		name := fmt.Sprintf("hello-1.0.0-part%02d.jar", i)
		subjects = append(subjects, chaintest.File(jar, name, []byte(name)))
	}
	return subjects
}

// goldens are the bytes of every format, by file name.
func goldens(t testing.TB) map[string][]byte {
	s := tell(t)
	n := s.network
	statement, list, err := record.NewStatement(n.Network.Genesis, s.id, many())
	if err != nil {
		t.Fatal(err)
	}
	files := encode(t, &record.FilesLeaf{
		Attempt: s.id, List: record.Digest(record.MustMarshal(list)), Part: 0, Parts: 22, Files: list[:3],
	})
	publish, err := record.DecodeLeaf(s.leaf(4, 0))
	if err != nil {
		t.Fatal(err)
	}
	listVotes := n.Votes(t, s.id, many())
	_, rotation := n.Renew(t, 0)
	byVotes, byProposals, byCommits := offences(t, s)
	golden := map[string][]byte{
		"leaf-genesis":   n.GenesisLeaf,
		"leaf-recipe":    s.leaf(1, 0),
		"leaf-attempt":   s.leaf(2, 0),
		"leaf-commits":   s.leaf(3, 0),
		"leaf-files":     files,
		"leaf-publish":   s.leaf(4, 0),
		"leaf-attest":    s.leaf(4, 1),
		"leaf-block":     s.leaf(4, 2),
		"node-record":    record.MustMarshal(n.Nodes[0].Record),
		"statement":      s.votes.Statements[0],
		"statement-list": record.MustMarshal(statement),
		"file-list":      record.MustMarshal(list),
		"envelope":       record.MustMarshal(publish.(*record.PublishLeaf).Envelope),
		"checkpoint":     s.blocks[3].Note(),
		"block":          []byte(annotate(t, s.blocks[0].Encode())),
		"bundle":         s.bundle(t),
		"recipe":         record.MustMarshal(s.recipe),
		"lock":           record.MustMarshal(s.lock),
		"part-endorse":   part(t, record.Part{Endorse: &record.EndorsePart{Change: s.recipe.Change(), Endorsement: n.Endorsement(s.empty, s.recipe.Change(), 0)}}),
		"part-hold":      part(t, record.Part{Hold: &record.HoldPart{Attempt: s.attempt, Holding: n.Holding(s.attempt, 0)}}),
		"part-commit":    part(t, record.Part{Commit: &record.CommitPart{Attempt: s.id, Commit: s.votes.Commit(0)}}),
		"part-reveal":    part(t, record.Part{Reveal: &record.RevealPart{Attestation: s.votes.Attestation(0)}}),
		"part-reveal-list": part(t, record.Part{Reveal: &record.RevealPart{
			Attestation: listVotes.Attestation(0), Files: listVotes.Lists[0],
		}}),
		"leaf-key-rotate":         encode(t, rotation),
		"leaf-evidence":           encode(t, byVotes),
		"leaf-evidence-proposals": encode(t, byProposals),
		"leaf-evidence-commits":   encode(t, byCommits),
		"part-rotate":             part(t, record.Part{Rotate: &rotation.Record}),
		"part-evidence":           part(t, record.Part{Evidence: byVotes}),
		"incarnation":             record.MustMarshal(incarnation(t, s)),
		"recollection":            record.MustMarshal(recollection(t, s)),
		"values":                  []byte(values(s)),
	}
	for name, message := range signed(t, s) {
		golden["sign-"+name] = message
	}
	return golden
}

// offences are what the first member said twice.
func offences(t testing.TB, s *story) (byVotes, byProposals, byCommits *record.EvidenceLeaf) {
	t.Helper()
	genesis, node := s.network.Network.Genesis, s.network.Nodes[0]
	id := record.BlockID{Size: 12, Root: record.Digest([]byte("a block"))}
	other := record.BlockID{Size: 13, Root: record.Digest([]byte("another block"))}
	votes, proposals := [2]record.Vote{}, [2]record.Proposal{}
	for i, id := range []record.BlockID{id, other} {
		votes[i] = must(record.SignVote(genesis, record.Vote{Height: 5, ID: id, Step: record.StepPrevote, Voter: node.ID}, node.Signers.Vote))
		proposals[i] = must(record.SignProposal(genesis, record.Proposal{Height: 4, ID: id, Proposer: node.ID, ValidRound: -1}, node.Signers.Vote))
	}
	byVotes = must(record.NewEvidence(&votes[0], &votes[1]))
	byProposals = must(record.NewEvidence(&proposals[0], &proposals[1]))
	second := must(record.SignCommit(genesis, s.id, node.ID, record.Digest([]byte("another value")), node.Signers.Vote))
	return byVotes, byProposals, record.NewCommitEvidence(s.id, s.votes.Commit(0), second)
}

func incarnation(t testing.TB, s *story) record.Incarnation {
	t.Helper()
	node := s.network.Nodes[0]
	return must(record.SignIncarnation(s.network.Network.Genesis, record.Incarnation{
		Identity: node.ID, Nonce: record.Digest([]byte("nonce")), Number: 7,
	}, node.Signers.Vote))
}

func recollection(t testing.TB, s *story) record.Recollection {
	t.Helper()
	byVotes, byProposals, _ := offences(t, s)
	return record.Recollection{
		Commits:     []record.CommitPart{{Attempt: s.id, Commit: s.votes.Commit(0)}},
		Height:      3,
		Incarnation: incarnation(t, s), Nonce: record.Digest([]byte("nonce")),
		Proposals: byProposals.Proposals[:1], Votes: byVotes.Votes[:1],
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func part(t testing.TB, p record.Part) []byte {
	t.Helper()
	data, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// values are the hashes of the story, one a line.
func values(s *story) string {
	var b strings.Builder
	line := func(name string, value any) { fmt.Fprintf(&b, "%-22s %v\n", name, value) }
	line("genesis hash", s.network.Network.Genesis)
	line("origin", s.network.Origin())
	line("set hash", s.network.Set.Hash())
	for i, node := range s.network.Nodes {
		line(fmt.Sprintf("identity %d", i), node.ID)
	}
	line("recipe hash", s.recipe.Hash())
	line("change digest", s.recipe.Change().Digest())
	line("attempt digest", s.attempt.Digest())
	line("lock sha256", s.attempt.Lock.SHA256)
	line("lock blake3", s.attempt.Lock.BLAKE3)
	line("attempt leaf hash", s.id)
	for i := range s.network.Nodes {
		line(fmt.Sprintf("statement %d digest", i), record.Digest(s.votes.Statements[i]))
		line(fmt.Sprintf("salt %d", i), s.votes.Salt(i))
		line(fmt.Sprintf("commit value %d", i), s.votes.Commit(i).Value)
	}
	line("leaf hash 0", record.LeafHash(s.network.GenesisLeaf))
	line("root at size 1", s.before[0].Root())
	index := 1
	for h, block := range s.blocks {
		for _, leaf := range block.Block().Leaves {
			line(fmt.Sprintf("leaf hash %d", index), record.LeafHash(leaf))
			index++
		}
		line(fmt.Sprintf("root at size %d", index), block.Checkpoint().Root)
		line(fmt.Sprintf("block %d", h+1), fmt.Sprintf("leaves %d to %d", s.before[h].Size, index-1))
	}
	return b.String()
}

// signed are the bytes that are signed or hashed for each kind of value,
// written out by hand: what docs/protocol.md says, not what the code does.
func signed(t testing.TB, s *story) map[string][]byte {
	genesis, node := s.network.Network.Genesis.String(), s.network.Nodes[0]
	zero := strings.Repeat("0", 64)
	keys := func(n record.NodeRecord) string {
		return fmt.Sprintf(`{"cosignerKey":%s,"identity":"%s","logKey":%s,"voteKey":%s}`,
			record.MustMarshal(n.CosignerKey), n.Identity, record.MustMarshal(n.LogKey), record.MustMarshal(n.VoteKey))
	}
	var members []string
	for _, n := range s.network.Nodes {
		members = append(members, keys(n.Record))
	}
	_, rotation := s.network.Renew(t, 0)
	later := rotation.Record
	none := `"` + strings.Repeat("A", 86) + `=="`
	endorsement := s.network.Endorsement(s.empty, s.recipe.Change(), 0)
	return map[string][]byte{
		"set": []byte("pyrsia/set/v1\n" + zero + "\n" + `{"nodes":[` + strings.Join(members, ",") + `],"order":"majority"}`),
		"node": []byte("pyrsia/node/v1\n" + zero + "\n" + fmt.Sprintf(
			`{"cosignerKey":%s,"identity":"%s","logKey":%s,"operator":"%s","platforms":["linux/amd64"],"seq":1,"signatures":{"cosigner":%s,"identity":%s,"log":%s,"vote":%s},"voteKey":%s}`,
			record.MustMarshal(node.Record.CosignerKey), node.ID, record.MustMarshal(node.Record.LogKey), node.Record.Operator,
			none, none, none, none, record.MustMarshal(node.Record.VoteKey))),
		"rotate": []byte("pyrsia/rotate/v1\n" + genesis + "\n" + fmt.Sprintf(
			`{"cosignerKey":%s,"identity":"%s","logKey":%s,"operator":"%s","platforms":["linux/amd64"],"seq":2,"signatures":{"cosigner":%s,"identity":%s,"log":%s,"vote":%s},"voteKey":%s}`,
			record.MustMarshal(later.CosignerKey), node.ID, record.MustMarshal(later.LogKey), later.Operator,
			none, none, none, none, record.MustMarshal(later.VoteKey))),
		"endorse": []byte("pyrsia/endorse/v1\n" + genesis + "\n" + fmt.Sprintf(
			`{"change":"%s","identity":"%s","lastHeight":%d,"seq":%d,"set":"%s","signature":%s}`,
			endorsement.Change, endorsement.Identity, endorsement.LastHeight, endorsement.Seq, endorsement.Set, none)),
		"holding": []byte("pyrsia/holding/v1\n" + genesis + "\n" + fmt.Sprintf(
			`{"attempt":"%s","identity":"%s"}`, s.attempt.Digest(), node.ID)),
		"commit-value": []byte("pyrsia/commit-value/v1\n" + genesis + "\n" + fmt.Sprintf(
			`{"attempt":"%s","node":"%s","salt":"%s","statement":"%s"}`, s.id, node.ID, s.votes.Salt(0), record.Digest(s.votes.Statements[0]))),
		"commit": []byte("pyrsia/commit/v1\n" + genesis + "\n" + fmt.Sprintf(
			`{"attempt":"%s","identity":"%s","value":"%s"}`, s.id, node.ID, s.votes.Commit(0).Value)),
		"incarnation": []byte("pyrsia/incarnation/v1\n" + genesis + "\n" + fmt.Sprintf(
			`{"identity":"%s","nonce":"%s","number":7,"signature":%s}`, node.ID, record.Digest([]byte("nonce")), none)),
		"attestation": []byte(fmt.Sprintf("DSSEv1 28 application/vnd.in-toto+json %d %s", len(s.votes.Statements[0]), s.votes.Statements[0])),
		"log":         []byte(s.blocks[0].Checkpoint().Body()),
		"cosignature": []byte(fmt.Sprintf("cosignature/v1\ntime %d\n%s", s.blocks[0].Checkpoint().Cosignatures[0].Time, s.blocks[0].Checkpoint().Body())),
	}
}

// annotate draws the bytes of a certified block, field by field. It reads them
// by the specification alone.
func annotate(t testing.TB, data []byte) string {
	var b strings.Builder
	at := 0
	take := func(n int, what string, text bool) []byte {
		field := data[at : at+n]
		shown := fmt.Sprintf("%x", field)
		if text {
			shown = fmt.Sprintf("%q", field)
		}
		fmt.Fprintf(&b, "%06x %5d  %s: %s\n", at, n, what, shown)
		at += n
		return field
	}
	note := binary.BigEndian.Uint32(take(4, "length of the note", false))
	take(int(note), "note", true)
	take(64, "log signature", false)
	count := binary.BigEndian.Uint32(take(4, "number of leaves", false))
	for i := range count {
		length := binary.BigEndian.Uint16(take(2, fmt.Sprintf("length of leaf %d", i), false))
		take(int(length), fmt.Sprintf("leaf %d", i), true)
	}
	if at != len(data) {
		t.Errorf("%d bytes of a certified block are not in its specification", len(data)-at)
	}
	return b.String()
}

func TestGolden(t *testing.T) {
	got := goldens(t)
	for name, data := range got {
		path := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Errorf("%v; write it with go test -update", err)
			continue
		}
		if !bytes.Equal(data, want) {
			t.Errorf("%s changed:\n got %s\nwant %s", path, data, want)
		}
	}
	paths, err := filepath.Glob("testdata/*.golden")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if name := strings.TrimSuffix(filepath.Base(path), ".golden"); got[name] == nil {
			t.Errorf("%s is of no format", path)
		}
	}
}

// TestGoldenDecodes reads the goldens from their files, not from what the
// encoders made in this run.
func TestGoldenDecodes(t *testing.T) {
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join("testdata", name+".golden"))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, kind := range []string{
		"genesis", "recipe", "attempt", "commits", "files", "publish", "attest", "block",
		"key-rotate", "evidence", "evidence-proposals", "evidence-commits",
	} {
		leaf, err := record.DecodeLeaf(read("leaf-" + kind))
		if err != nil || !strings.HasPrefix(kind, string(leaf.LeafType())) {
			t.Errorf("leaf-%s: %v", kind, err)
			continue
		}
		if again := encode(t, leaf); !bytes.Equal(again, read("leaf-"+kind)) {
			t.Errorf("leaf-%s is encoded as %s", kind, again)
		}
	}
	for _, kind := range []string{"endorse", "hold", "commit", "reveal", "reveal-list", "rotate", "evidence"} {
		if _, err := record.DecodePart(read("part-" + kind)); err != nil {
			t.Errorf("part-%s: %v", kind, err)
		}
	}
	var node record.NodeRecord
	if err := record.Unmarshal(read("node-record"), &node); err != nil {
		t.Error(err)
	}
	if err := node.Check(); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"statement", "statement-list"} {
		if _, err := record.DecodeStatement(read(name)); err != nil {
			t.Error(err)
		}
	}
	if _, err := record.DecodeRecipe(read("recipe")); err != nil {
		t.Error(err)
	}
	if _, err := record.DecodeLock(read("lock")); err != nil {
		t.Error(err)
	}
	if i, err := record.DecodeIncarnation(read("incarnation")); err != nil || i.Number != 7 {
		t.Errorf("%+v, %v", i, err)
	}
	if r, err := record.DecodeRecollection(read("recollection")); err != nil || len(r.Votes) != 1 || len(r.Commits) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	genesis := read("leaf-genesis")
	founding, set, err := record.OpenGenesis(genesis)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := record.OpenCheckpoint(read("checkpoint"), founding.Name, record.Digest(genesis), set); err != nil {
		t.Error(err)
	}
	verdict, err := record.VerifyBundle(read("bundle"), record.Digest(genesis), chaintest.Describe([]byte("a jar")))
	if err != nil {
		t.Fatal(err)
	}
	if len(verdict.Signers) != 3 || verdict.Members != 4 || verdict.Height != 4 || verdict.Subject.Name != "hello-1.0.0.jar" {
		t.Errorf("the bundle proves %+v", verdict)
	}
}

// TestSignBytes verifies every signature of the story over the bytes that the
// specification gives for it.
func TestSignBytes(t *testing.T) {
	s := tell(t)
	message, node := signed(t, s), s.network.Nodes[0]
	checkpoint := s.blocks[0].Checkpoint()
	first := checkpoint.Cosignatures[0]
	cosigner, _ := s.network.Set.Node(first.Identity)
	_, rotation := s.network.Renew(t, 0)
	later := rotation.Record
	proposer, _ := s.network.Set.Node(checkpoint.Proposer)
	for _, test := range []struct {
		kind      string
		key       record.PublicKey
		signature record.Signature
	}{
		{"node", node.Signers.Identity.Public(), node.Record.Signatures.Identity},
		{"node", node.Record.VoteKey, node.Record.Signatures.Vote},
		{"node", node.Record.CosignerKey, node.Record.Signatures.Cosigner},
		{"node", node.Record.LogKey, node.Record.Signatures.Log},
		{"rotate", node.Signers.Identity.Public(), later.Signatures.Identity},
		{"rotate", later.VoteKey, later.Signatures.Vote},
		{"rotate", later.CosignerKey, later.Signatures.Cosigner},
		{"rotate", later.LogKey, later.Signatures.Log},
		{"endorse", node.Record.VoteKey, s.network.Endorsement(s.empty, s.recipe.Change(), 0).Signature},
		{"holding", node.Record.VoteKey, s.network.Holding(s.attempt, 0).Signature},
		{"commit", node.Record.VoteKey, s.votes.Commit(0).Signature},
		{"attestation", node.Record.VoteKey, s.votes.Attestation(0).Signature},
		{"incarnation", node.Record.VoteKey, incarnation(t, s).Signature},
		{"log", proposer.LogKey, checkpoint.LogSignature},
		{"cosignature", cosigner.CosignerKey, first.Signature},
	} {
		if !test.key.Verify(message[test.kind], test.signature) {
			t.Errorf("the %s signature is not over\n%s", test.kind, message[test.kind])
		}
	}
	if got := record.Digest(message["set"]); got != s.network.Set.Hash() {
		t.Errorf("set hash %s, want the SHA-256 of the sign bytes %s", s.network.Set.Hash(), got)
	}
	if got := record.Digest(message["commit-value"]); got != s.votes.Commit(0).Value {
		t.Errorf("commit value %s, want the SHA-256 of the sign bytes %s", s.votes.Commit(0).Value, got)
	}
}
