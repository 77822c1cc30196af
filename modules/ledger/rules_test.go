package ledger_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

const (
	pkg   = artifact.PURL("pkg:maven/org.example/hello@1.0.0")
	other = artifact.PURL("pkg:maven/org.example/other@1.0.0")
	image = artifact.PURL("pkg:docker/acme/tool@1.0")
)

// world is a chain of four members, A = 3, at some stage.
type world struct {
	*chaintest.Network
	t       *testing.T
	c       *chain.Chain
	recipe  record.Hash
	attempt *ledger.Attempt
	votes   *chaintest.Votes // of all members, for files()
}

func files() []record.Subject {
	return []record.Subject{chaintest.File(pkg, "a.jar", []byte("a")), chaintest.File(pkg, "b.pom", []byte("b"))}
}

func evil(content string) []record.Subject {
	return []record.Subject{chaintest.File(pkg, "a.jar", []byte(content)), chaintest.File(pkg, "b.pom", []byte("b"))}
}

// at makes a world: "fresh", "recipe", "attempt", "committed" or "published".
func at(t *testing.T, stage string) *world {
	t.Helper()
	n := chaintest.New(t, 4)
	w := &world{Network: n, t: t, c: n.Chain(t)}
	if stage == "fresh" {
		return w
	}
	w.recipe = n.AppendRecipe(t, w.c, chaintest.Recipe(pkg, "a.jar", "b.pom"))
	if stage == "recipe" {
		return w
	}
	w.open(files())
	if stage == "attempt" {
		return w
	}
	n.Append(t, w.c, chaintest.One(w.votes.Commits()))
	if stage == "committed" {
		return w
	}
	n.Append(t, w.c, w.votes.Publish())
	return w
}

// open opens the next attempt, in which the members build the given files.
func (w *world) open(subjects ...[]record.Subject) {
	w.t.Helper()
	w.attempt = w.AppendAttempt(w.t, w.c, w.recipe)
	w.votes = w.Votes(w.t, w.attempt.ID, subjects...)
}

func (w *world) change(p artifact.PURL, names ...string) record.RecipeChange {
	return chaintest.Recipe(p, names...).Change()
}

func (w *world) append(leaves ...record.Leaf) {
	w.t.Helper()
	w.Append(w.t, w.c, leaves)
}

// pass appends an empty block after the attempt's deadline.
func (w *world) pass() {
	w.t.Helper()
	late := time.UnixMilli(w.attempt.Attempt.Deadline + 1)
	w.AppendBlock(w.t, w.c, w.ProposeAt(w.t, w.c, late))
}

func (w *world) status() ledger.Status {
	w.t.Helper()
	a, err := w.c.Attempt(w.attempt.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	return a.Status
}

// next is the next attempt with a change.
func (w *world) next(change func(*record.Attempt)) *record.AttemptLeaf {
	number := int64(1)
	if w.attempt != nil {
		number = w.attempt.Attempt.Number + 1
	}
	a := w.Attempt(w.c, w.recipe, number)
	if change != nil {
		change(&a)
	}
	return w.Hold(a)
}

// publish is the publish leaf of the members in w.votes with a change.
func (w *world) publish(change func(*record.PublishLeaf)) []record.Leaf {
	leaves := w.votes.Publish()
	change(leaves[len(leaves)-1].(*record.PublishLeaf))
	return leaves
}

// TestRules has a refusal per row, or none: what the row's leaves are to the
// chain at a stage.
func TestRules(t *testing.T) {
	for _, test := range []struct {
		name   string
		stage  string
		leaves func(w *world) []record.Leaf
		want   string // "" where the leaves are allowed
	}{
		// recipe
		{"recipe", "fresh", func(w *world) []record.Leaf { return one(w.Endorse(w.c, w.change(pkg, "a"))) }, ""},
		{"recipe by three of four", "fresh", func(w *world) []record.Leaf { return one(w.Endorse(w.c, w.change(pkg, "a"), 0, 2, 3)) }, ""},
		{"recipe by two of four", "fresh", func(w *world) []record.Leaf { return one(w.Endorse(w.c, w.change(pkg, "a"), 0, 2)) }, "2 endorsements, want 3"},
		{"recipe of no package", "fresh", func(w *world) []record.Leaf {
			return one(w.Endorse(w.c, record.RecipeChange{Files: w.change(pkg, "a").Files, Package: "hello", Recipe: record.Raw("{}")}))
		}, "malformed package URL"},
		{"recipe of no files", "fresh", func(w *world) []record.Leaf {
			return one(w.Endorse(w.c, record.RecipeChange{Package: pkg, Recipe: record.Raw("{}")}))
		}, "0 files"},
		{"recipe with files out of order", "fresh", func(w *world) []record.Leaf {
			change := w.change(pkg, "a", "b")
			slices.Reverse(change.Files)
			return one(w.Endorse(w.c, change))
		}, "files are not sorted"},
		{"recipe with a file twice", "fresh", func(w *world) []record.Leaf { return one(w.Endorse(w.c, w.change(pkg, "a", "a"))) }, "files are not sorted"},
		{"recipe with a bad file name", "fresh", func(w *world) []record.Leaf { return one(w.Endorse(w.c, w.change(pkg, "../a"))) }, "malformed file name"},
		{"recipe with a bad package of a file", "fresh", func(w *world) []record.Leaf {
			change := w.change(pkg, "a")
			change.Files[0].Package = "pkg:maven/a@1#b"
			return one(w.Endorse(w.c, change))
		}, "malformed package URL"},
		{"recipe endorsed out of order", "fresh", func(w *world) []record.Leaf {
			leaf := w.Endorse(w.c, w.change(pkg, "a"))
			slices.Reverse(leaf.Endorsements)
			return one(leaf)
		}, "endorsements are not sorted"},
		{"recipe endorsed twice by one", "fresh", func(w *world) []record.Leaf {
			leaf := w.Endorse(w.c, w.change(pkg, "a"), 0, 1)
			leaf.Endorsements = append(leaf.Endorsements, leaf.Endorsements[1])
			return one(leaf)
		}, "endorsements are not sorted"},
		{"endorsement of another change", "fresh", func(w *world) []record.Leaf {
			leaf := w.Endorse(w.c, w.change(pkg, "a"))
			leaf.Endorsements[1] = w.Endorsement(w.c, w.change(pkg, "b"), 1)
			return one(leaf)
		}, "is of another change"},
		{"endorsements moved to another change", "fresh", func(w *world) []record.Leaf {
			leaf := w.Endorse(w.c, w.change(pkg, "a"))
			leaf.Change = w.change(pkg, "b")
			return one(leaf)
		}, "is of another change"},
		{"endorsement under another set", "fresh", endorsed(func(w *world, e *record.Endorsement) { e.Set = record.Hash{1} }), "endorsement under another set"},
		{"endorsement that ended", "fresh", endorsed(func(w *world, e *record.Endorsement) { e.LastHeight = 0 }), "counts up to height 0, this is 1"},
		{"endorsement for ever", "fresh", endorsed(func(w *world, e *record.Endorsement) { e.LastHeight = 2002 }), "more than 2000 after 1"},
		{"endorsement for long", "fresh", endorsed(func(w *world, e *record.Endorsement) { e.LastHeight = 2001 }), ""},
		{"endorsement of a stranger", "fresh", endorsed(func(w *world, e *record.Endorsement) { e.Identity = chaintest.NewNode("stranger").ID }), "is not in the set"},
		{"endorsement forged", "fresh", func(w *world) []record.Leaf {
			leaf := w.Endorse(w.c, w.change(pkg, "a"))
			leaf.Endorsements[2].Signature[0] ^= 1
			return one(leaf)
		}, "does not verify"},
		{"recipe again", "recipe", func(w *world) []record.Leaf { return one(w.Endorse(w.c, w.change(pkg, "a.jar", "b.pom"))) }, "on the chain already"},
		{"recipe twice in a block", "fresh", func(w *world) []record.Leaf {
			return []record.Leaf{w.Endorse(w.c, w.change(pkg, "a")), w.Endorse(w.c, w.change(pkg, "a"))}
		}, "on the chain already"},
		{"recipe that supersedes nothing", "fresh", func(w *world) []record.Leaf { return one(w.superseding(record.Hash{1}.String(), "a")) }, "supersedes a recipe, but"},
		{"recipe that does not supersede", "recipe", func(w *world) []record.Leaf { return one(w.Endorse(w.c, w.change(pkg, "c"))) }, "which it does not supersede"},
		{"recipe that supersedes another", "recipe", func(w *world) []record.Leaf { return one(w.superseding(record.Hash{1}.String(), "c")) }, "which it does not supersede"},
		{"recipe that supersedes", "recipe", func(w *world) []record.Leaf { return one(w.superseding(w.recipe.String(), "c")) }, ""},
		{"recipe of another's file", "recipe", func(w *world) []record.Leaf {
			change := w.change(other, "x")
			change.Files[0] = artifact.Name{Package: pkg, File: "a.jar"}
			return one(w.Endorse(w.c, change))
		}, "#a.jar belongs to the live recipe"},
		{"recipe of a file given up", "recipe", func(w *world) []record.Leaf {
			w.append(w.superseding(w.recipe.String(), "b.pom"))
			change := w.change(other, "x")
			change.Files[0] = artifact.Name{Package: pkg, File: "a.jar"}
			return one(w.Endorse(w.c, change))
		}, ""},
		{"recipe that takes a file back", "recipe", func(w *world) []record.Leaf {
			w.append(w.superseding(w.recipe.String(), "b.pom"))
			live, err := w.c.LiveRecipe(pkg)
			if err != nil {
				w.t.Fatal(err)
			}
			return one(w.superseding(live.Hash.String(), "a.jar", "b.pom"))
		}, ""},
		// attempt
		{"attempt", "recipe", func(w *world) []record.Leaf { return one(w.next(nil)) }, ""},
		{"attempt held by two of four", "recipe", func(w *world) []record.Leaf { return one(w.Hold(w.Attempt(w.c, w.recipe, 1), 1, 2)) }, "2 members hold the lock, want 3"},
		{"attempt without recipe", "fresh", func(w *world) []record.Leaf { return one(w.next(nil)) }, "is not live"},
		{"attempt of a superseded recipe", "recipe", func(w *world) []record.Leaf {
			w.append(w.superseding(w.recipe.String(), "c"))
			return one(w.next(nil))
		}, "is not live"},
		{"attempt for no platform", "recipe", attempted(func(a *record.Attempt) { a.Platform = "" }), "without platform"},
		{"attempt for a long platform", "recipe", attempted(func(a *record.Attempt) { a.Platform = strings.Repeat("x", 65) }), "without platform"},
		{"attempt by no engine", "recipe", attempted(func(a *record.Attempt) { a.Engine = "" }), "without platform"},
		{"attempt by a long engine", "recipe", attempted(func(a *record.Attempt) { a.Engine = strings.Repeat("x", 40_000) }), "without platform"},
		{"attempt with an empty lock", "recipe", attempted(func(a *record.Attempt) { a.Lock.Size = 0 }), "without platform"},
		{"attempt of a stranger", "recipe", attempted(func(a *record.Attempt) { a.Asker = chaintest.NewNode("stranger").ID }), "is not in the set"},
		{"attempt that ended", "recipe", attempted(func(a *record.Attempt) { a.Deadline -= 3_600_000 }), "deadline is past or too far"},
		{"attempt for a day", "recipe", attempted(func(a *record.Attempt) { a.Deadline += ledger.MaxDeadline - 3_600_000 }), ""},
		{"attempt for longer than a day", "recipe", attempted(func(a *record.Attempt) { a.Deadline += ledger.MaxDeadline - 3_600_000 + 1 }), "deadline is past or too far"},
		{"attempt 0", "recipe", attempted(func(a *record.Attempt) { a.Number = 0 }), "attempt 0 after 0"},
		{"attempt 2 before 1", "recipe", attempted(func(a *record.Attempt) { a.Number = 2 }), "attempt 2 after 0"},
		{"attempt for another platform", "attempt", attempted(func(a *record.Attempt) { a.Number, a.Platform = 1, "linux/arm64" }), ""},
		{"rival attempts in a block", "recipe", func(w *world) []record.Leaf {
			return []record.Leaf{w.next(nil), w.next(func(a *record.Attempt) { a.Deadline++ })}
		}, "attempt 1 after 1"},
		{"rival attempt", "attempt", attempted(func(a *record.Attempt) { a.Number = 1 }), "attempt 1 after 1"},
		{"attempt 2 while 1 is open", "attempt", func(w *world) []record.Leaf { return one(w.next(nil)) }, "attempt 1 is open"},
		{"attempt 2 while 1 is committed", "committed", func(w *world) []record.Leaf { return one(w.next(nil)) }, "attempt 1 is committed"},
		{"attempt 2 after publication", "published", func(w *world) []record.Leaf { return one(w.next(nil)) }, "attempt 1 is published"},
		{"attempt 2 after 1 expired open", "attempt", func(w *world) []record.Leaf { w.pass(); return one(w.next(nil)) }, ""},
		{"attempt 2 after 1 expired committed", "committed", func(w *world) []record.Leaf { w.pass(); return one(w.next(nil)) }, ""},
		{"attempt 8", "attempt", func(w *world) []record.Leaf { w.expire(6); return one(w.next(nil)) }, ""},
		{"attempt 9", "attempt", func(w *world) []record.Leaf { w.expire(7); return one(w.next(nil)) }, "attempt 9 after 8 of at most 8"},
		{"holdings out of order", "recipe", func(w *world) []record.Leaf {
			leaf := w.next(nil)
			slices.Reverse(leaf.Holdings)
			return one(leaf)
		}, "holdings are not sorted"},
		{"a holding twice", "recipe", func(w *world) []record.Leaf {
			leaf := w.Hold(w.Attempt(w.c, w.recipe, 1), 0, 1)
			leaf.Holdings = append(leaf.Holdings, leaf.Holdings[1])
			return one(leaf)
		}, "holdings are not sorted"},
		{"a holding of another lock", "recipe", func(w *world) []record.Leaf {
			leaf := w.next(nil)
			leaf.Attempt.Lock = chaintest.Describe([]byte("poisoned"))
			return one(leaf)
		}, "does not verify"},
		{"a holding of another member", "recipe", func(w *world) []record.Leaf {
			leaf := w.next(nil)
			leaf.Holdings[0].Signature = leaf.Holdings[1].Signature
			return one(leaf)
		}, "does not verify"},
		// commits
		{"commits", "attempt", func(w *world) []record.Leaf { return one(w.votes.Commits()) }, ""},
		{"commits of three of four", "attempt", func(w *world) []record.Leaf { return one(w.votes.Commits(1, 2, 3)) }, ""},
		{"commits of two of four", "attempt", func(w *world) []record.Leaf { return one(w.votes.Commits(1, 2)) }, "2 commits, want 3"},
		{"commits of no attempt", "attempt", func(w *world) []record.Leaf {
			return one(w.Votes(w.t, record.Hash{1}, files()).Commits())
		}, "not on the chain"},
		{"commits again", "committed", func(w *world) []record.Leaf { return one(w.votes.Commits()) }, "takes no more commits"},
		{"commits of a member left out", "attempt", func(w *world) []record.Leaf {
			w.append(w.votes.Commits(0, 1, 2))
			return one(w.votes.Commits(3))
		}, "takes no more commits"},
		{"commits too late", "attempt", func(w *world) []record.Leaf { w.pass(); return one(w.votes.Commits()) }, "takes no more commits"},
		{"commits out of order", "attempt", func(w *world) []record.Leaf {
			leaf := w.votes.Commits()
			slices.Reverse(leaf.Commits)
			return one(leaf)
		}, "commits are not sorted"},
		{"a commit twice", "attempt", func(w *world) []record.Leaf {
			leaf := w.votes.Commits(0, 1)
			leaf.Commits = append(leaf.Commits, leaf.Commits[1])
			return one(leaf)
		}, "commits are not sorted"},
		{"a commit of another attempt", "attempt", func(w *world) []record.Leaf {
			leaf := w.votes.Commits()
			leaf.Commits[3] = w.Votes(w.t, record.Hash{1}, files()).Commit(3)
			return one(leaf)
		}, "does not verify"},
		{"a commit with another value", "attempt", func(w *world) []record.Leaf {
			leaf := w.votes.Commits()
			leaf.Commits[3].Value[0] ^= 1
			return one(leaf)
		}, "does not verify"},
		// publish
		{"publish", "committed", func(w *world) []record.Leaf { return w.votes.Publish() }, ""},
		{"publish by three of four", "committed", func(w *world) []record.Leaf { return w.votes.Publish(0, 1, 3) }, ""},
		{"publish by two of four", "committed", func(w *world) []record.Leaf { return w.votes.Publish(0, 1) }, "2 equal attestations, want 3"},
		{"publish before the commits", "attempt", func(w *world) []record.Leaf { return w.votes.Publish() }, "is open"},
		{"publish of no attempt", "committed", func(w *world) []record.Leaf {
			return w.Votes(w.t, record.Hash{1}, files()).Publish()
		}, "not on the chain"},
		{"publish too late", "committed", func(w *world) []record.Leaf { w.pass(); return w.votes.Publish() }, "is committed"},
		{"publish again", "published", func(w *world) []record.Leaf { return w.votes.Publish() }, "is published"},
		{"publish of a superseded recipe", "committed", func(w *world) []record.Leaf {
			w.append(w.superseding(w.recipe.String(), "c"))
			return w.votes.Publish()
		}, "is superseded"},
		{"publish with a vote that was not committed", "attempt", func(w *world) []record.Leaf {
			w.append(w.votes.Commits(0, 1, 2))
			return w.votes.Publish(0, 1, 3)
		}, "did not commit before"},
		{"publish with another salt", "committed", func(w *world) []record.Leaf {
			return w.publish(func(l *record.PublishLeaf) { l.Reveals[2].Salt[0] ^= 1 })
		}, "does not open its commit"},
		{"publish of another statement than committed", "committed", func(w *world) []record.Leaf {
			return w.Votes(w.t, w.attempt.ID, evil("evil")).Publish()
		}, "does not open its commit"},
		{"publish with a forged signature", "committed", func(w *world) []record.Leaf {
			return w.publish(func(l *record.PublishLeaf) { l.Envelope.Signatures[0].Sig[0] ^= 1 })
		}, "does not verify"},
		{"publish with a reveal too few", "committed", func(w *world) []record.Leaf {
			return w.publish(func(l *record.PublishLeaf) { l.Reveals = l.Reveals[1:] })
		}, "3 reveals for 4 signatures"},
		{"publish with reveals in another order", "committed", func(w *world) []record.Leaf {
			return w.publish(func(l *record.PublishLeaf) { slices.Reverse(l.Reveals) })
		}, "in different order"},
		{"publish with signatures out of order", "committed", func(w *world) []record.Leaf {
			return w.publish(func(l *record.PublishLeaf) {
				slices.Reverse(l.Envelope.Signatures)
				slices.Reverse(l.Reveals)
			})
		}, "signatures are not sorted"},
		{"publish with another payload type", "committed", func(w *world) []record.Leaf {
			return w.publish(func(l *record.PublishLeaf) { l.Envelope.PayloadType = "text/plain" })
		}, "payload type"},
		{"publish without signatures", "committed", func(w *world) []record.Leaf {
			return w.publish(func(l *record.PublishLeaf) { l.Envelope.Signatures, l.Reveals = nil, nil })
		}, "no signatures"},
		{"publish of a file too few", "attempt", built(func() []record.Subject { return files()[:1] }), "#b.pom is missing"},
		{"publish of a file too many", "attempt", built(func() []record.Subject {
			return append(files(), chaintest.File(pkg, "c", []byte("c")))
		}), "the recipe does not publish"},
		{"publish of another package", "attempt", built(func() []record.Subject {
			return append(files(), chaintest.File(other, "a.jar", []byte("c")))
		}), "the recipe does not publish"},
		{"publish of an image by a recipe of files", "attempt", built(func() []record.Subject {
			return append(files(), chaintest.Image(image, []byte("m"), []byte("l"))...)
		}), "the recipe does not publish"},
		{"publish of a statement of another network", "attempt", func(w *world) []record.Leaf {
			foreign := *w.Network
			foreign.Network.Genesis = record.Hash{9}
			statements := foreign.Votes(w.t, w.attempt.ID, files()).Statements
			w.votes.Statements = statements
			w.append(w.votes.Commits())
			return w.votes.Publish()
		}, "for another attempt or network"},
		{"publish after an attest leaf of some", "committed", func(w *world) []record.Leaf {
			w.append(w.votes.Attest(1))
			return w.votes.Publish(0, 1, 2)
		}, ""},
		{"publish of those whom an attest leaf left", "committed", func(w *world) []record.Leaf {
			w.append(w.votes.Attest(1), w.votes.Attest(2))
			return w.votes.Publish(0, 3)
		}, "2 equal attestations, want 3"},
		{"publish with a second, different vote", "attempt", func(w *world) []record.Leaf {
			w.votes = w.Votes(w.t, w.attempt.ID, evil("1"), files())
			w.append(w.votes.Commits())
			w.append(w.votes.Attest(0))
			w.votes.Statements[0] = w.votes.Statements[1]
			return w.votes.Publish()
		}, "voted already"},
		// files
		{"files", "fresh", func(w *world) []record.Leaf { w.many(250); return w.votes.Publish() }, ""},
		{"files without publish", "fresh", func(w *world) []record.Leaf { w.many(250); return w.votes.Files(0) }, "without their publish leaf"},
		{"files and another leaf", "fresh", func(w *world) []record.Leaf {
			w.many(250)
			leaves := w.votes.Publish()
			return append(append(slices.Clone(leaves[:3]), w.Endorse(w.c, w.change(pkg, "a"))), leaves[3])
		}, "without their publish leaf"},
		{"publish without its files", "fresh", func(w *world) []record.Leaf { w.many(250); return w.votes.Publish()[3:] }, "is not complete before it"},
		{"files cut", "fresh", func(w *world) []record.Leaf {
			w.many(250)
			leaves := w.votes.Publish()
			return append(slices.Clone(leaves[:2]), leaves[3])
		}, "is not complete before it"},
		{"files in another order", "fresh", func(w *world) []record.Leaf {
			w.many(250)
			leaves := w.votes.Publish()
			leaves[0], leaves[1] = leaves[1], leaves[0]
			return leaves
		}, "files leaves are out of order"},
		{"files twice", "fresh", func(w *world) []record.Leaf {
			w.many(250)
			leaves := w.votes.Publish()
			return append(slices.Clone(leaves[:3]), leaves...)
		}, "files leaves are out of order"},
		{"files of another attempt", "fresh", filed(func(f *record.FilesLeaf) { f.Attempt[0] ^= 1 }), "is not complete before it"},
		{"files of another list", "fresh", filed(func(f *record.FilesLeaf) { f.List[0] ^= 1 }), "is not complete before it"},
		{"files with an empty part", "fresh", func(w *world) []record.Leaf {
			w.many(250)
			leaves := w.votes.Publish()
			leaves[1].(*record.FilesLeaf).Files = nil
			return leaves
		}, "files leaves are out of order"},
		{"files with other contents", "fresh", func(w *world) []record.Leaf {
			w.many(250)
			leaves := w.votes.Publish()
			leaves[1].(*record.FilesLeaf).Files[0].Digest.SHA256[0] ^= 1
			return leaves
		}, "not the one that the statement names"},
		{"files before a statement that lists its own", "committed", func(w *world) []record.Leaf {
			leaf := &record.FilesLeaf{Attempt: w.attempt.ID, Parts: 1, Files: files()}
			return append([]record.Leaf{leaf}, w.votes.Publish()...)
		}, "for a statement that lists its files"},
		// images
		{"image", "fresh", imaged(func() []record.Subject { return chaintest.Image(image, []byte("m"), []byte("c"), []byte("l")) }), ""},
		{"image of a manifest alone", "fresh", imaged(func() []record.Subject { return chaintest.Image(image, []byte("m")) }), ""},
		{"image without manifest", "fresh", imaged(func() []record.Subject {
			return chaintest.Image(image, []byte("m"), []byte("c"))[1:]
		}), "@1.0#manifest is missing"},
		{"image with two manifests", "fresh", imaged(func() []record.Subject {
			return append(chaintest.Image(image, []byte("m")), chaintest.Image(image, []byte("n"))...)
		}), "the recipe does not publish"},
		{"image under another digest", "fresh", imaged(func() []record.Subject {
			subjects := chaintest.Image(image, []byte("m"))
			subjects[0].Digest.SHA256[0] ^= 1
			return subjects
		}), "@1.0#manifest is missing"},
		{"image under its tag", "fresh", imaged(func() []record.Subject {
			return []record.Subject{chaintest.File(image, record.ManifestFile, []byte("m"))}
		}), "@1.0#manifest is missing"},
		{"image under its tag and its digest", "fresh", imaged(func() []record.Subject {
			return append(chaintest.Image(image, []byte("m")), chaintest.File(image, record.ManifestFile, []byte("m")))
		}), "the recipe does not publish"},
		{"image of another repository", "fresh", imaged(func() []record.Subject {
			return chaintest.Image("pkg:docker/acme/other@1.0", []byte("m"))
		}), "@1.0#manifest is missing"},
		{"layer under another's manifest", "fresh", imaged(func() []record.Subject {
			return append(chaintest.Image(image, []byte("m")), chaintest.Image(image, []byte("n"), []byte("l"))[1])
		}), "the recipe does not publish"},
		{"layer with a name", "fresh", imaged(func() []record.Subject {
			subjects := chaintest.Image(image, []byte("m"), []byte("l"))
			subjects[1].Name = "layer"
			return subjects
		}), "the recipe does not publish"},
		// attest
		{"attest before the commits", "attempt", func(w *world) []record.Leaf { return one(w.votes.Attest()) }, "has no commits yet"},
		{"attest of no attempt", "attempt", func(w *world) []record.Leaf {
			return one(w.Votes(w.t, record.Hash{1}, files()).Attest())
		}, "not on the chain"},
		{"attest of a member that did not commit", "attempt", func(w *world) []record.Leaf {
			w.append(w.votes.Commits(0, 1, 2))
			return one(w.votes.Attest(2, 3))
		}, "did not commit before"},
		{"attest twice", "committed", func(w *world) []record.Leaf {
			return []record.Leaf{w.votes.Attest(1), w.votes.Attest(1)}
		}, "voted already"},
		{"attest after publishing", "published", func(w *world) []record.Leaf { return one(w.votes.Attest(3)) }, "voted already"},
		{"attest with another salt", "committed", func(w *world) []record.Leaf {
			leaf := w.votes.Attest(3)
			leaf.Reveals[0].Salt[0] ^= 1
			return one(leaf)
		}, "does not open its commit"},
		{"attest after expiry", "attempt", func(w *world) []record.Leaf { w.pass(); return one(w.votes.Attest(1)) }, ""},
		// leaves that stand elsewhere
		{"a header in a block", "fresh", func(w *world) []record.Leaf { return one(&record.Header{}) }, "a block leaf cannot stand here"},
		{"a genesis in a block", "fresh", func(w *world) []record.Leaf { return one(w.Genesis) }, "a genesis leaf cannot stand here"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := at(t, test.stage)
			leaves := test.leaves(w)
			block := w.Force(t, w.c, leaves...)
			err := w.c.Validate(block, w.Now(w.c))
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				w.AppendBlock(t, w.c, w.Propose(t, w.c, leaves))
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("the chain says %v, want %q", err, test.want)
			}
			height := w.c.Height()
			if err := w.c.Append(w.Certify(t, w.c, block)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("a quorum's certificate makes it %v, want %q", err, test.want)
			}
			if w.c.Height() != height {
				t.Error("a refused block moved the chain")
			}
			proposer := w.Nodes[0]
			proposed, err := w.c.Propose([][]record.Leaf{leaves}, proposer.ID, w.Now(w.c), proposer.Signers.Log)
			if err != nil || len(proposed.Leaves) != 1 {
				t.Errorf("a proposer takes it: %d leaves, %v", len(proposed.Leaves), err)
			}
			if err := w.c.Append(w.Certify(t, w.c, proposed)); err != nil {
				t.Errorf("the block without it: %v", err)
			}
		})
	}
}

func one(leaf record.Leaf) []record.Leaf { return []record.Leaf{leaf} }

func (w *world) superseding(hash string, names ...string) *record.RecipeLeaf {
	recipe := chaintest.Recipe(pkg, names...)
	recipe.Supersedes = hash
	return w.Endorse(w.c, recipe.Change())
}

// expire lets n further attempts come and go.
func (w *world) expire(n int) {
	w.t.Helper()
	w.pass()
	for range n {
		w.open(files())
		w.pass()
	}
}

// endorsed is a recipe whose second endorsement is changed, then signed.
func endorsed(change func(*world, *record.Endorsement)) func(*world) []record.Leaf {
	return func(w *world) []record.Leaf {
		leaf := w.Endorse(w.c, w.change(pkg, "a"))
		for i := range leaf.Endorsements {
			if i == 1 {
				change(w, &leaf.Endorsements[i])
			}
			e, err := record.SignEndorsement(w.Network.Network.Genesis, leaf.Endorsements[i], w.Nodes[i].Signers.Vote)
			if err != nil {
				w.t.Fatal(err)
			}
			leaf.Endorsements[i] = e
		}
		slices.SortFunc(leaf.Endorsements, func(a, b record.Endorsement) int { return strings.Compare(string(a.Identity), string(b.Identity)) })
		return one(leaf)
	}
}

// attempted is the next attempt with a change, held by all.
func attempted(change func(*record.Attempt)) func(*world) []record.Leaf {
	return func(w *world) []record.Leaf { return one(w.next(change)) }
}

// built is the publication of what all members built and committed to.
func built(subjects func() []record.Subject) func(*world) []record.Leaf {
	return func(w *world) []record.Leaf {
		w.votes = w.Votes(w.t, w.attempt.ID, subjects())
		w.append(w.votes.Commits())
		return w.votes.Publish()
	}
}

// imaged is built for the recipe of an image.
func imaged(subjects func() []record.Subject) func(*world) []record.Leaf {
	return func(w *world) []record.Leaf {
		w.recipe = w.AppendRecipe(w.t, w.c, chaintest.Recipe(image))
		w.open(subjects())
		w.append(w.votes.Commits())
		return w.votes.Publish()
	}
}

// many commits the members to an image of n files.
func (w *world) many(n int) {
	w.t.Helper()
	w.recipe = w.AppendRecipe(w.t, w.c, chaintest.Recipe(image))
	var layers [][]byte
	for i := range n - 1 {
		layers = append(layers, fmt.Appendf(nil, "layer %d", i))
	}
	w.open(chaintest.Image(image, []byte("m"), layers...))
	w.append(w.votes.Commits())
}

// filed is a publication all of whose files leaves are changed.
func filed(change func(*record.FilesLeaf)) func(*world) []record.Leaf {
	return func(w *world) []record.Leaf {
		w.many(250)
		leaves := w.votes.Publish()
		for _, leaf := range leaves[:3] {
			change(leaf.(*record.FilesLeaf))
		}
		return leaves
	}
}
