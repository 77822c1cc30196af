package attest_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/quorum/attest"
	"github.com/pyrsia/appliance/modules/record"
)

const pkg = artifact.PURL("pkg:generic/hello@1")

var patience = attest.Patience{Commit: 5000, Reveal: 2000}

// room is a network whose chain follows one pool.
type room struct {
	*chaintest.Network
	t       *testing.T
	c       *chain.Chain
	pool    *attest.Pool
	now     int64
	working map[int]bool
}

func newRoom(t *testing.T, n int) *room {
	t.Helper()
	network := chaintest.New(t, n)
	r := &room{Network: network, t: t, c: network.Chain(t), now: chaintest.Start, working: map[int]bool{}}
	r.pool = attest.NewPool(r.c)
	return r
}

func (r *room) add(parts ...record.Part) {
	r.t.Helper()
	for _, part := range parts {
		if added, err := r.pool.Add(part); err != nil || !added {
			r.t.Fatalf("part %+v: added %v, %v", part, added, err)
		}
	}
}

// refuse wants an error that holds the text.
func (r *room) refuse(part record.Part, want string) {
	r.t.Helper()
	if added, err := r.pool.Add(part); added || !errors.Is(err, attest.ErrRefused) || !strings.Contains(err.Error(), want) {
		r.t.Errorf("added %v, %v, want %q", added, err, want)
	}
}

// ignore wants the part to be no news.
func (r *room) ignore(part record.Part) {
	r.t.Helper()
	if added, err := r.pool.Add(part); added || err != nil {
		r.t.Errorf("added %v, %v", added, err)
	}
}

func (r *room) isWorking(id record.Identity, _ record.Hash) bool {
	for i, node := range r.Nodes {
		if node.ID == id {
			return r.working[i]
		}
	}
	return false
}

// leaves are the types of the candidates now: "publish attest".
func (r *room) leaves() string {
	var types []string
	for _, candidate := range r.pool.Candidates(r.now, patience, r.isWorking) {
		var parts []string
		for _, leaf := range candidate {
			parts = append(parts, string(leaf.LeafType()))
		}
		types = append(types, strings.Join(parts, "+"))
	}
	return strings.Join(types, " ")
}

func (r *room) want(leaves string) {
	r.t.Helper()
	if got := r.leaves(); got != leaves {
		r.t.Fatalf("at %d the candidates are %q, want %q", r.now-chaintest.Start, got, leaves)
	}
}

// block appends what the pool has; it must all be allowed.
func (r *room) block() {
	r.t.Helper()
	r.Append(r.t, r.c, r.pool.Candidates(r.now, patience, r.isWorking)...)
	r.now = max(r.now, r.c.Time())
}

func (r *room) endorse(recipe *record.Recipe, i int) record.Part {
	change := recipe.Change()
	return record.Part{Endorse: &record.EndorsePart{Change: change, Endorsement: r.Endorsement(r.c, change, i)}}
}

func (r *room) hold(a record.Attempt, i int) record.Part {
	return record.Part{Hold: &record.HoldPart{Attempt: a, Holding: r.Holding(a, i)}}
}

func commit(v *chaintest.Votes, i int) record.Part {
	return record.Part{Commit: &record.CommitPart{Attempt: v.Attempt, Commit: v.Commit(i)}}
}

func reveal(v *chaintest.Votes, i int) record.Part {
	return record.Part{Reveal: &record.RevealPart{Attestation: v.Attestation(i), Files: v.Lists[i]}}
}

func file(content string) []record.Subject {
	return []record.Subject{chaintest.File(pkg, "hello", []byte(content))}
}

// open brings an attempt onto the chain whose members build the contents.
func (r *room) open(contents ...string) *chaintest.Votes {
	r.t.Helper()
	a := r.AppendAttempt(r.t, r.c, r.AppendRecipe(r.t, r.c, chaintest.Recipe(pkg, "hello")))
	r.now = r.c.Time()
	var subjects [][]record.Subject
	for _, content := range contents {
		subjects = append(subjects, file(content))
	}
	return r.Votes(r.t, a.ID, subjects...)
}

// committed is open with the commits of the given members on the chain.
func (r *room) committed(v *chaintest.Votes, who ...int) {
	r.t.Helper()
	for _, i := range who {
		r.add(commit(v, i))
	}
	r.want("commits")
	r.block()
}

func (r *room) attempt(v *chaintest.Votes) *ledger.Attempt {
	r.t.Helper()
	a, err := r.c.Attempt(v.Attempt)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func TestRecipe(t *testing.T) {
	r := newRoom(t, 4)
	recipe := chaintest.Recipe(pkg, "hello")
	r.want("")
	r.add(r.endorse(recipe, 0), r.endorse(recipe, 2))
	r.want("")
	if w := r.pool.Waiting(); len(w) != 1 || w[0].Package != pkg || len(w[0].Members) != 2 || w[0].Threshold != 3 || w[0].Attempt != 0 {
		t.Errorf("waiting: %+v", w)
	}
	r.ignore(r.endorse(recipe, 0))
	r.add(r.endorse(recipe, 3))
	r.want("recipe")
	r.block()
	r.want("")
	r.ignore(r.endorse(recipe, 1)) // the chain has it
	if w := r.pool.Waiting(); len(w) != 0 {
		t.Errorf("waiting: %+v", w)
	}
}

func TestEndorsementRefused(t *testing.T) {
	r := newRoom(t, 4)
	recipe := chaintest.Recipe(pkg, "hello")
	sign := func(i int, change func(*record.EndorsePart)) record.Part {
		part := r.endorse(recipe, i)
		change(part.Endorse)
		e, err := record.SignEndorsement(r.Network.Network.Genesis, part.Endorse.Endorsement, r.Nodes[i].Signers.Vote)
		if err != nil {
			t.Fatal(err)
		}
		part.Endorse.Endorsement = e
		return part
	}
	forged := r.endorse(recipe, 0)
	forged.Endorse.Endorsement.Signature[7] ^= 1
	r.refuse(forged, "does not verify")
	r.refuse(sign(0, func(p *record.EndorsePart) { p.Endorsement.Change = record.Hash{1} }), "of another change")
	r.refuse(sign(0, func(p *record.EndorsePart) { p.Endorsement.Set = record.Hash{1} }), "under another set")
	r.refuse(sign(0, func(p *record.EndorsePart) { p.Endorsement.LastHeight = 0 }), "counts up to height 0")
	r.refuse(sign(0, func(p *record.EndorsePart) { p.Endorsement.LastHeight = 1 << 40 }), "more than 2000")
	r.refuse(sign(0, func(p *record.EndorsePart) { p.Endorsement.Identity = chaintest.NewNode("stranger").ID }), "is not in the set")
	other := chaintest.New(t, 4, func(g *record.Genesis) { g.Name = "other.example" })
	r.refuse(record.Part{Endorse: &record.EndorsePart{Change: recipe.Change(), Endorsement: other.Endorsement(other.Chain(t), recipe.Change(), 0)}}, "does not verify")
	r.refuse(record.Part{}, "empty")
	r.want("")
}

// TestEndorsementRenewed: the higher number counts, and one that ends is
// forgotten.
func TestEndorsementRenewed(t *testing.T) {
	r := newRoom(t, 3)
	recipe := chaintest.Recipe(pkg, "hello")
	part := func(i int, seq, last int64) record.Part {
		p := r.endorse(recipe, i)
		p.Endorse.Endorsement.Seq, p.Endorse.Endorsement.LastHeight = seq, last
		e, err := record.SignEndorsement(r.Network.Network.Genesis, p.Endorse.Endorsement, r.Nodes[i].Signers.Vote)
		if err != nil {
			t.Fatal(err)
		}
		p.Endorse.Endorsement = e
		return p
	}
	r.add(part(0, 5, 1), part(1, 5, 3))
	r.ignore(part(0, 4, 3))
	r.want("recipe")
	r.Append(t, r.c) // height 1: that of member 0 counts no more
	r.want("")
	r.add(part(0, 6, 3))
	r.want("recipe")
	r.block()
}

func TestAttempt(t *testing.T) {
	r := newRoom(t, 4)
	recipe := r.AppendRecipe(t, r.c, chaintest.Recipe(pkg, "hello"))
	a := r.Attempt(r.c, recipe, 1)
	rival := a
	rival.Lock = chaintest.Describe([]byte("another lock"))
	r.add(r.hold(a, 0), r.hold(a, 1), r.hold(rival, 0), r.hold(rival, 1))
	r.ignore(r.hold(a, 0))
	r.want("")
	if w := r.pool.Waiting(); len(w) != 2 || w[0].Attempt != 1 || w[0].Package != pkg {
		t.Errorf("waiting: %+v", w)
	}
	r.add(r.hold(a, 3), r.hold(rival, 2))
	r.want("attempt attempt")
	block, err := r.c.Propose(r.pool.Candidates(r.now, patience, r.isWorking), r.Nodes[1].ID, r.Now(r.c), r.Nodes[1].Signers.Log)
	if err != nil || len(block.Leaves) != 2 {
		t.Fatalf("%d leaves, %v", len(block.Leaves), err)
	}
	r.AppendBlock(t, r.c, block)
	r.want("")
	r.ignore(r.hold(rival, 3))
}

func TestHoldingRefused(t *testing.T) {
	r := newRoom(t, 4)
	recipe := r.AppendRecipe(t, r.c, chaintest.Recipe(pkg, "hello"))
	a := r.Attempt(r.c, recipe, 1)
	forged := r.hold(a, 0)
	forged.Hold.Holding.Signature[0] ^= 1
	r.refuse(forged, "does not verify")
	stranger := r.hold(a, 0)
	stranger.Hold.Holding.Identity = chaintest.NewNode("stranger").ID
	r.refuse(stranger, "is not in the set")
	r.ignore(r.hold(r.Attempt(r.c, recipe, 2), 0))         // attempt 1 comes first
	r.ignore(r.hold(r.Attempt(r.c, record.Hash{1}, 1), 0)) // no such recipe
	r.now = a.Deadline + 1
	r.add(r.hold(a, 0), r.hold(a, 1), r.hold(a, 2))
	r.want("") // nobody waits for an attempt that ended
}

// TestCommitPatience: the leaf waits for a member that is at work, as long as
// the others took, and no longer.
func TestCommitPatience(t *testing.T) {
	for _, test := range []struct {
		name        string
		took, works int64 // milliseconds since the attempt opened; until when member 3 is at work
		arrives     int64 // when its commit comes; 0: never
		want        int64 // when the leaf stands
	}{
		{"nobody else at work", 60_000, 0, 0, 60_000},
		{"a slow member", 60_000, 1 << 40, 90_000, 90_000},
		{"a member that takes too long", 60_000, 1 << 40, 0, 120_000},
		{"a member that gives up", 60_000, 80_000, 0, 80_000},
		{"a fast build", 100, 1 << 40, 0, 5100},
		{"a fast build, a slow member", 100, 1 << 40, 4000, 4000},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRoom(t, 4)
			v := r.open("good")
			opened := r.now
			r.now = opened + test.took
			r.working[3] = r.now < opened+test.works
			r.add(commit(v, 0), commit(v, 1))
			r.want("")
			r.add(commit(v, 2))
			for {
				if test.arrives != 0 && r.now >= opened+test.arrives && len(r.pool.CommittedBy(v.Attempt)) == 3 {
					r.add(commit(v, 3))
				}
				r.working[3] = r.now < opened+test.works
				if r.leaves() == "commits" {
					break
				}
				r.now += 100
				if r.now > opened+1_000_000 {
					t.Fatal("the leaf never stands")
				}
			}
			if got := r.now - opened; got != test.want {
				t.Errorf("the leaf stands after %d ms, want %d", got, test.want)
			}
			r.block()
			if got, want := len(r.attempt(v).Commits), len(r.pool.CommittedBy(v.Attempt)); got != want {
				t.Errorf("%d commits on the chain, %d in the pool", got, want)
			}
		})
	}
}

func TestCommitRefused(t *testing.T) {
	r := newRoom(t, 4)
	v := r.open("good")
	forged := commit(v, 0)
	forged.Commit.Commit.Value[0] ^= 1
	r.refuse(forged, "does not verify")
	r.refuse(commit(r.Votes(t, record.Hash{1}, file("x")), 0), "not on the chain")
	foreign := chaintest.New(t, 7).Votes(t, v.Attempt, file("x"))
	for i := range 7 {
		if part := commit(foreign, i); !slices.ContainsFunc(r.Nodes, func(n chaintest.Node) bool { return n.ID == part.Commit.Commit.Identity }) {
			r.refuse(part, "is not in the set")
		} else {
			r.refuse(part, "does not verify")
		}
	}
	r.add(commit(v, 0))
	r.ignore(commit(v, 0))
	other := r.Votes(t, v.Attempt, file("changed its mind"))
	r.add(commit(other, 0)) // the first one counts, and the two are evidence
	r.ignore(commit(other, 0))
	r.add(commit(v, 1), commit(v, 2))
	r.block()
	if found, err := r.c.Evidence(); err != nil || len(found) != 1 || found[0].What != "commit" || found[0].Identity != r.Nodes[0].ID {
		t.Errorf("evidence %+v, %v", found, err)
	}
	r.ignore(commit(other, 0)) // it is on the chain
	r.ignore(commit(v, 3))     // too late
}

func TestRevealRefused(t *testing.T) {
	r := newRoom(t, 4)
	v := r.open("good")
	r.refuse(reveal(v, 0), "before the commits stand")
	r.committed(v, 0, 1, 2)
	other := r.Votes(t, v.Attempt, file("another"))
	r.refuse(reveal(other, 0), "does not open its commit")
	salt := reveal(v, 0)
	salt.Reveal.Attestation.Salt[0] ^= 1
	r.refuse(salt, "does not open its commit")
	forged := reveal(v, 0)
	forged.Reveal.Attestation.Signature[0] ^= 1
	r.refuse(forged, "does not verify")
	stolen := reveal(v, 0)
	stolen.Reveal.Attestation.Identity = r.Nodes[1].ID
	r.refuse(stolen, "does not open its commit")
	files := reveal(v, 0)
	files.Reveal.Files = file("junk")
	r.refuse(files, "files beside a statement")
	r.refuse(reveal(r.Votes(t, record.Hash{1}, file("x")), 0), "not on the chain")
	r.add(reveal(v, 0))
	r.ignore(reveal(v, 0))
	r.add(reveal(v, 3)) // late: it is kept for the record
	r.ignore(reveal(other, 3))
}

// TestPublish: what members built, who reveals in which order, and the leaves
// that come of it.
func TestPublish(t *testing.T) {
	for _, test := range []struct {
		name   string
		built  []string // by member
		reveal []int
		now    string // candidates with the reveals, nobody else at work
		status ledger.Status
		votes  int
	}{
		{"all agree", []string{"x", "x", "x", "x"}, []int{3, 1, 0, 2}, "publish", ledger.StatusPublished, 4},
		{"three reveal", []string{"x", "x", "x", "x"}, []int{3, 1, 0}, "publish", ledger.StatusPublished, 3},
		{"two reveal", []string{"x", "x", "x", "x"}, []int{3, 1}, "", ledger.StatusCommitted, 0},
		{"a liar", []string{"x", "evil", "x", "x"}, []int{0, 1, 2, 3}, "publish attest", ledger.StatusPublished, 4},
		{"a liar is silent", []string{"x", "evil", "x", "x"}, []int{0, 2, 3}, "publish", ledger.StatusPublished, 3},
		{"a liar is first", []string{"x", "evil", "x", "x"}, []int{1}, "", ledger.StatusCommitted, 0},
		{"two liars, two lies", []string{"x", "evil", "worse", "x"}, []int{0, 1, 2, 3}, "attest attest attest", ledger.StatusDisagreed, 4},
		{"two liars, one lie", []string{"x", "evil", "evil", "x"}, []int{0, 1, 2, 3}, "attest attest", ledger.StatusDisagreed, 4},
		{"two liars are silent", []string{"x", "evil", "evil", "x"}, []int{0, 3}, "", ledger.StatusCommitted, 0},
		// The bound: three of four may say what they like.
		{"three liars, one lie", []string{"evil", "evil", "evil", "x"}, []int{0, 1, 2, 3}, "publish attest", ledger.StatusPublished, 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRoom(t, 4)
			v := r.open(test.built...)
			r.committed(v, 0, 1, 2, 3)
			for _, i := range test.reveal {
				r.add(reveal(v, i))
			}
			r.want(test.now)
			r.block()
			a := r.attempt(v)
			if a.Status != test.status || len(a.Votes) != test.votes {
				t.Errorf("%s with %d votes, want %s with %d", a.Status, len(a.Votes), test.status, test.votes)
			}
			if test.status != ledger.StatusCommitted {
				r.want("")
			}
		})
	}
}

func TestRevealPatience(t *testing.T) {
	r := newRoom(t, 4)
	v := r.open("good")
	r.committed(v, 0, 1, 2, 3)
	r.working[3] = true
	r.add(reveal(v, 0), reveal(v, 1))
	r.now += 60_000
	r.want("")
	r.add(reveal(v, 2))
	r.want("") // member 3 committed and is at work
	r.now += patience.Reveal - 1
	r.want("")
	r.now++
	r.want("publish")
	r.working[3] = false
	r.now--
	r.want("publish") // it gave up
	r.working[3] = true
	r.add(reveal(v, 3))
	r.want("publish")
	r.block()
	if p, err := r.c.Resolve(file("good")[0].FileName()); err != nil || p.Votes != 4 {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestLater: votes that come after the publication are put on the record.
func TestLater(t *testing.T) {
	r := newRoom(t, 4)
	v := r.open("x", "x", "x", "x")
	r.committed(v, 0, 1, 2)
	r.add(reveal(v, 0), reveal(v, 1), reveal(v, 2))
	r.block()
	r.add(reveal(v, 3))
	r.want("attest")
	r.block()
	r.want("")
	a := r.attempt(v)
	if vote, ok := a.VoteOf(r.Nodes[3].ID); !ok || !vote.Late {
		t.Errorf("the late vote: %+v", vote)
	}
	r.ignore(reveal(v, 3))
}

// TestLateCopyDoesNotHoldBack: who did not commit copies an honest vote, to
// keep a disagreement from being seen.
func TestLateCopyDoesNotHoldBack(t *testing.T) {
	r := newRoom(t, 3)
	v := r.open("1", "2", "1")
	r.committed(v, 0, 1)
	r.add(reveal(v, 2), reveal(v, 0), reveal(v, 1))
	r.want("attest attest")
	r.block()
	if status := r.attempt(v).Status; status != ledger.StatusDisagreed {
		t.Errorf("%s", status)
	}
	r.want("attest")
	r.block()
	if a := r.attempt(v); len(a.Votes) != 3 {
		t.Errorf("%d votes", len(a.Votes))
	}
}

// TestAttestedTooEarly: a lying proposer puts an honest vote into an attest
// leaf before the publication, in which it is then still needed.
func TestAttestedTooEarly(t *testing.T) {
	r := newRoom(t, 3)
	v := r.open("x", "x", "evil")
	r.committed(v, 0, 1, 2)
	r.Append(t, r.c, chaintest.One(v.Attest(1)))
	r.add(reveal(v, 0), reveal(v, 1), reveal(v, 2))
	r.want("publish attest")
	r.block()
	if p, err := r.c.Resolve(file("x")[0].FileName()); err != nil || p.Votes != 2 {
		t.Errorf("%+v, %v", p, err)
	}
	if a := r.attempt(v); len(a.Votes) != 3 {
		t.Errorf("%d votes", len(a.Votes))
	}
}

// TestExpired: what was revealed of an attempt that ended is put on the record.
func TestExpired(t *testing.T) {
	r := newRoom(t, 3)
	v := r.open("x", "y", "z")
	r.committed(v, 0, 1, 2)
	r.add(reveal(v, 0))
	r.want("")
	r.now = r.attempt(v).Attempt.Deadline + 1
	r.want("attest")
	candidates := r.pool.Candidates(r.now, patience, r.isWorking)
	r.AppendBlock(t, r.c, r.ProposeAt(t, r.c, time.UnixMilli(r.now), candidates...))
	if a := r.attempt(v); len(a.Votes) != 1 {
		t.Errorf("%d votes", len(a.Votes))
	}
	r.want("")
}

func TestFileList(t *testing.T) {
	r := newRoom(t, 3)
	image := artifact.PURL("pkg:docker/acme/tool@1")
	var layers [][]byte
	for i := range 400 {
		layers = append(layers, fmt.Appendf(nil, "layer %d", i))
	}
	a := r.AppendAttempt(t, r.c, r.AppendRecipe(t, r.c, chaintest.Recipe(image)))
	r.now = r.c.Time()
	v := r.Votes(t, a.ID, chaintest.Image(image, []byte("m"), layers...))
	r.committed(v, 0, 1, 2)
	without, cut := reveal(v, 0), reveal(v, 0)
	without.Reveal.Files = nil
	cut.Reveal.Files = cut.Reveal.Files[1:]
	r.refuse(without, "file list")
	r.refuse(cut, "file list")
	r.add(reveal(v, 0), reveal(v, 1))
	if got := r.leaves(); !strings.HasPrefix(got, "files+files") || !strings.HasSuffix(got, "+publish") {
		t.Fatal(got)
	}
	r.block()
	if entries, err := r.c.Files("pkg:docker/acme/tool@sha256:"); err != nil || len(entries) != 401 {
		t.Errorf("%d files, %v", len(entries), err)
	}
}

// TestBounds: one member fills all that it may, and keeps nobody else out.
func TestBounds(t *testing.T) {
	r := newRoom(t, 3)
	filled := 0
	for i := range 2000 {
		recipe := chaintest.Recipe(artifact.PURL(fmt.Sprintf("pkg:generic/a@%d", i)), "file")
		recipe.Commands = []string{strings.Repeat("x", 60_000)}
		added, err := r.pool.Add(r.endorse(recipe, 0))
		if err != nil {
			if !strings.Contains(err.Error(), "too many endorsed recipes") {
				t.Fatal(err)
			}
			break
		}
		if added {
			filled++
		}
	}
	if filled < 1000 || filled == 2000 {
		t.Errorf("member 0 has %d recipes of 60 kB in the pool", filled)
	}
	honest := chaintest.Recipe(pkg, "hello")
	r.add(r.endorse(honest, 1), r.endorse(honest, 2))
	r.want("recipe")
	r.block()
	// The room comes back when the endorsements end.
	for r.c.Height() < 101 {
		r.Append(t, r.c)
	}
	r.want("")
	r.add(r.endorse(chaintest.Recipe("pkg:generic/again@1", "file"), 0))

	recipe := chaintest.Recipe("pkg:generic/huge@1", "file")
	recipe.Commands = []string{strings.Repeat("x", record.MaxLeaf)}
	r.refuse(r.endorse(recipe, 1), "fits no leaf")

	a := r.Attempt(r.c, honest.Hash(), 1)
	for i := range 64 {
		a.Deadline++
		r.add(r.hold(a, 0))
		if i == 0 {
			r.add(r.hold(a, 1))
		}
	}
	a.Deadline++
	r.refuse(r.hold(a, 0), "too many attempts")
	r.add(r.hold(a, 1), r.hold(a, 2))
	r.want("attempt attempt")
}

// TestNetworks plays networks with liars, lost messages and proposers who leave
// parts out, and counts the outcomes against the bounds of the protocol.
func TestNetworks(t *testing.T) {
	for seed := range uint64(25) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 7))
			size := 3 + random.IntN(4)
			n := chaintest.New(t, size)
			c := n.Chain(t)
			liars := random.IntN(size)
			var built [][]record.Subject
			for i := range size {
				content := "honest"
				if i < liars {
					content = fmt.Sprintf("lie %d", random.IntN(2))
				}
				built = append(built, file(content))
			}
			pools := make([]*attest.Pool, size)
			for i := range pools {
				pools[i] = attest.NewPool(c)
			}
			a := n.AppendAttempt(t, c, n.AppendRecipe(t, c, chaintest.Recipe(pkg, "hello")))
			votes := n.Votes(t, a.ID, built...)
			now := c.Time()
			for range 40 {
				state, err := c.Attempt(a.ID)
				if err != nil {
					t.Fatal(err)
				}
				for i := range size {
					part := commit(votes, i)
					if state.Status != ledger.StatusOpen {
						part = reveal(votes, i)
					}
					for _, pool := range pools {
						if random.IntN(2) == 0 {
							pool.Add(part)
						}
					}
				}
				proposer := random.IntN(size)
				candidates := pools[proposer].Candidates(now, patience, func(record.Identity, record.Hash) bool { return random.IntN(2) == 0 })
				if proposer < liars && random.IntN(2) == 0 {
					candidates = [][]record.Leaf{chaintest.One(votes.Attest(random.IntN(size)))}
				}
				block, err := c.Propose(candidates, n.Nodes[proposer].ID, n.Now(c), n.Nodes[proposer].Signers.Log)
				if err != nil {
					t.Fatal(err)
				}
				n.AppendBlock(t, c, block)
				now += 3000
				if random.IntN(20) == 0 {
					pools[random.IntN(size)] = attest.NewPool(c) // it crashed
				}
			}
			state, err := c.Attempt(a.ID)
			if err != nil {
				t.Fatal(err)
			}
			same := map[record.Hash]int{}
			for _, statement := range votes.Statements {
				same[record.Digest(statement)]++
			}
			honest := record.Digest(votes.Statements[size-1])
			majority := n.Set.Majority()
			if state.Status == ledger.StatusPublished && same[state.Published] < majority {
				t.Errorf("%d of %d published %s", same[state.Published], size, state.Published)
			}
			// A proposer may have left honest commits out; then nothing is
			// published, and the attempt is spent.
			committed := 0
			for i, node := range n.Nodes {
				if _, ok := state.Committed(node.ID); ok && record.Digest(votes.Statements[i]) == honest {
					committed++
				}
			}
			if committed >= majority && (state.Status != ledger.StatusPublished || state.Published != honest) {
				t.Errorf("%d honest of %d committed, and it is %s", committed, size, state.Status)
			}
			if state.Status == ledger.StatusCommitted {
				t.Errorf("no outcome: %d commits, %d votes", len(state.Commits), len(state.Votes))
			}
		})
	}
}

// TestTooLargeForALeaf: what fits no leaf fills no pool.
func TestTooLargeForALeaf(t *testing.T) {
	r := newRoom(t, 3)
	recipe := chaintest.Recipe("pkg:generic/a@1", "a")
	change := recipe.Change()
	for i := range 1000 {
		change.Files = append(change.Files, artifact.Name{Package: recipe.Package, File: fmt.Sprintf("%04d%s", i, strings.Repeat("x", 100))})
	}
	part := record.Part{Endorse: &record.EndorsePart{Change: change, Endorsement: r.Endorsement(r.c, change, 0)}}
	r.refuse(part, "fits no leaf")
	a := r.Attempt(r.c, r.AppendRecipe(t, r.c, recipe), 1)
	for _, spoil := range []func(*record.Attempt){
		func(a *record.Attempt) { a.Engine = strings.Repeat("e", ledger.MaxLabel+1) },
		func(a *record.Attempt) { a.Platform = strings.Repeat("p", ledger.MaxLabel+1) },
	} {
		long := a
		spoil(&long)
		r.refuse(r.hold(long, 0), "name of more than")
	}
}

// TestManyLongVotes: votes that are equal and do not fit into one attest leaf go on the
// record in several.
func TestManyLongVotes(t *testing.T) {
	const members = 80
	r := newRoom(t, members)
	recipe := chaintest.Recipe(pkg, "a")
	var subjects []record.Subject
	for i := range 60 {
		subjects = append(subjects, chaintest.File(pkg, fmt.Sprintf("%02d%s", i, strings.Repeat("x", 280)), []byte("x")))
	}
	a := r.AppendAttempt(t, r.c, r.AppendRecipe(t, r.c, recipe))
	v := r.Votes(t, a.ID, subjects)
	everybody := r.All()
	r.Append(t, r.c, chaintest.One(v.Commits(everybody...)))
	r.now = a.Attempt.Deadline + 1
	for _, i := range everybody {
		r.add(reveal(v, i))
	}
	for range 3 {
		candidates := r.pool.Candidates(r.now, patience, r.isWorking)
		r.AppendBlock(t, r.c, r.ProposeAt(t, r.c, time.UnixMilli(r.now), candidates...))
		r.now = r.c.Time()
	}
	if votes := len(r.attempt(v).Votes); votes != members {
		t.Errorf("%d of %d votes are on the record", votes, members)
	}
}

// TestOldVotesComeLast: however many votes one member has for attempts that are over,
// a publication comes before them, and there are few of them at a time.
func TestOldVotesComeLast(t *testing.T) {
	r := newRoom(t, 3)
	var old []record.Part
	for i := range 40 {
		recipe := chaintest.Recipe(artifact.PURL(fmt.Sprintf("pkg:generic/old%d@1", i)), "a")
		a := r.AppendAttempt(t, r.c, r.AppendRecipe(t, r.c, recipe))
		v := r.Votes(t, a.ID, []record.Subject{chaintest.File(recipe.Package, "a", []byte("a"))})
		r.Append(t, r.c, chaintest.One(v.Commits(0, 1)))
		r.Append(t, r.c, v.Publish(0, 1))
		old = append(old, reveal(v, 2))
	}
	v := r.open("a")
	r.committed(v, 0, 1, 2)
	r.add(append(old, reveal(v, 0), reveal(v, 1), reveal(v, 2))...)
	candidates := r.pool.Candidates(r.now, attest.Patience{}, r.isWorking)
	if kind := candidates[0][0].LeafType(); kind != record.TypePublish || len(candidates) > 20 {
		t.Errorf("%d candidates, the first a %s", len(candidates), kind)
	}
}

// TestShares: what one member commits to, and what it says late, waits within its own
// share; the others' are not touched by it, and nothing is kept for a signature that
// does not verify.
func TestShares(t *testing.T) {
	r := newRoom(t, 3)
	attempts := func(from, to int) (all []*chaintest.Votes) {
		for i := from; i < to; i++ {
			name := artifact.PURL(fmt.Sprintf("pkg:generic/p%d@1", i))
			subjects := []record.Subject{chaintest.File(name, "file", []byte("x"))}
			a := r.AppendAttempt(t, r.c, r.AppendRecipe(t, r.c, chaintest.Recipe(name, "file")))
			all = append(all, r.Votes(t, a.ID, subjects))
		}
		return all
	}
	open := attempts(0, 80)
	forged := commit(open[79], 0)
	forged.Commit.Commit.Signature[0] ^= 1
	r.refuse(forged, "signature")
	for i, v := range open {
		if added, err := r.pool.Add(commit(v, 0)); added != (i < record.MaxRecalledCommits) {
			t.Fatalf("commit %d: added %v, %v", i, added, err)
		}
	}
	r.ignore(commit(open[0], 0))
	if recalled := r.pool.CommitsOf(r.Nodes[0].ID); len(recalled) != record.MaxRecalledCommits {
		t.Errorf("%d commits are recollected", len(recalled))
	}
	r.add(commit(open[79], 1)) // another member's share is its own
	r.Append(t, r.c, chaintest.One(open[0].Commits(0, 1)))
	r.add(commit(open[78], 0)) // what the chain has taken makes room

	done := attempts(80, 350)
	for _, v := range done {
		r.Append(t, r.c, chaintest.One(v.Commits(0, 1)))
	}
	taken := 0
	for _, v := range done {
		if added, _ := r.pool.Add(reveal(v, 2)); added {
			taken++
		}
	}
	if taken != 256 {
		t.Errorf("%d of %d votes wait", taken, len(done))
	}
	r.add(reveal(done[269], 1))
}
