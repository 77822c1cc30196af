package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/e2e/cluster"
	"github.com/pyrsia/appliance/e2e/liar"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/publish"
	"github.com/pyrsia/appliance/modules/record"
)

// TestStories tells each story over both kinds of network: with nodes in this
// process, where it is quick and can be debugged, and with nodes that are the
// released program and build in BuildKit.
func TestStories(t *testing.T) {
	for _, w := range []*world{inproc, processes} {
		t.Run(w.kind.String(), func(t *testing.T) {
			for _, story := range []struct {
				name string
				tell func(*testing.T, *world)
			}{
				{"published", published},
				{"many files", manyFiles},
				{"one liar", oneLiar},
				{"two liars", twoLiars},
				{"one stopped", oneStopped},
				{"poisoned lock", poisonedLock},
				{"corrupt peers", corruptPeers},
				{"no honest source", noHonestSource},
				{"other source", otherSource},
				{"broken recipe", brokenRecipe},
				{"a hundred reloads", hundredReloads},
				{"a role there and back", roleThereAndBack},
			} {
				t.Run(story.name, func(t *testing.T) { story.tell(t, w) })
			}
		})
	}
}

// Three build nodes build a library from source, agree, and every node has it on
// its chain and serves it.
func published(t *testing.T, w *world) {
	c, ctx := w.network(t), timely(t)
	if err := request(ctx, c.Node(0), library("honest")); err != nil {
		t.Fatal(err)
	}
	publishedEverywhere(t, ctx, c, library("honest"))
	if err := request(ctx, c.Node(0), library("honest")); err != nil {
		t.Errorf("asked for again when it is published: %v", err)
	}
	b, err := c.Node(0).WaitBuild(ctx, library("honest"), func(b control.BuildDetail) bool {
		return vote(b, c.Node(0)).Vote == control.VoteEqual && vote(b, c.Node(1)).Vote == control.VoteEqual && vote(b, c.Node(2)).Vote == control.VoteEqual
	})
	if err != nil {
		t.Fatalf("not every build node's equal vote is on the chain: %v: %s", err, tally(b))
	}
	if b.Verified == 0 || b.Inputs <= b.Verified {
		t.Errorf("%d inputs, %d of them vouched for by the chain: want the builder image among them, and others", b.Inputs, b.Verified)
	}
	edge := c.Regular(0)
	a := get(t, ctx, edge, mavenPath("honest"))
	wantVerified(t, a, output(t, b).File)
	if !strings.Contains(string(a.body), "made from source") {
		t.Errorf("the jar was not made from the source: %.100q", a.body)
	}
	if other := get(t, ctx, edge, "/maven2/"+plugin); other.status != http.StatusOK || other.header.Get("Pyrsia-Unverified") == "" || other.header.Get("Pyrsia-Verified") != "" {
		t.Errorf("what is not published came with status %d and headers %v, want it marked as unverified", other.status, other.header)
	}
	t.Run("proven offline", func(t *testing.T) { provenOffline(t, c, output(t, b).Name.String(), a.body) })
	t.Run("bytes from peers", func(t *testing.T) {
		client := edge.Client()
		defer client.Close()
		sources, err := client.Sources(ctx, string(library("honest")))
		if err != nil {
			t.Fatal(err)
		}
		if len(sources) != 1 || len(sources[0].Sources) == 0 || sources[0].Sources[0].Kind != control.SourcePeer || !sources[0].Verified {
			t.Errorf("sources %+v, want one verified file from peers", sources)
		}
	})
}

// provenOffline checks a fetched file by its proof with no node at all.
func provenOffline(t *testing.T, c *cluster.Cluster, name string, data []byte) {
	ctx := timely(t)
	folder := t.TempDir()
	file, altered := filepath.Join(folder, "file.jar"), filepath.Join(folder, "altered.jar")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	edge := c.Regular(0)
	if _, err := edge.Pyrsia(ctx, "log", "prove", name, "--output", file+".proof"); err != nil {
		t.Fatal(err)
	}
	if said, err := edge.Pyrsia(ctx, "verify", file, "--proof", file+".proof", "--genesis", c.Genesis(), "--socket", "/nowhere"); err != nil {
		t.Errorf("%v\n%s", err, said)
	}
	data[0] ^= 1
	if err := os.WriteFile(altered, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if said, err := edge.Pyrsia(ctx, "verify", altered, "--proof", file+".proof", "--genesis", c.Genesis()); err == nil {
		t.Errorf("an altered file was verified: %s", said)
	}
	other := "sha256:" + strings.Repeat("0", 64)
	if said, err := edge.Pyrsia(ctx, "verify", file, "--proof", file+".proof", "--genesis", other); err == nil {
		t.Errorf("a file was verified for another network: %s", said)
	}
}

// A build with 2,500 files is published whole: their list stands in leaves of its
// own before the publication, and each file is proven by it.
func manyFiles(t *testing.T, w *world) {
	c, ctx := w.network(t), timely(t)
	if err := request(ctx, c.Node(0), library("many")); err != nil {
		t.Fatal(err)
	}
	b := publishedEverywhere(t, ctx, c, library("many"))
	detail, err := c.Node(0).WaitPublished(ctx, library("many"))
	if err != nil {
		t.Fatal(err)
	}
	if len(detail.Outputs) != parts+1 {
		t.Fatalf("%d files are published, want %d", len(detail.Outputs), parts+1)
	}
	client := c.Regular(0).Client()
	defer client.Close()
	before, err := client.LogInspect(ctx, fmt.Sprint(b.Leaf-1))
	if err != nil || len(before) != 1 || before[0].Type != record.TypeFiles {
		t.Errorf("before the publication stands %+v, %v; want a part of its file list", before, err)
	}
	for _, o := range detail.Outputs {
		if o.Name.File != "many-1-part1234.txt" {
			continue
		}
		a := get(t, ctx, c.Regular(0), "/maven2/e2e/many/1/"+o.Name.File)
		wantVerified(t, a, o.File)
		if string(a.body) != "part 1234\n" {
			t.Errorf("it holds %q", a.body)
		}
		provenOffline(t, c, o.Name.String(), a.body)
	}
}

// lie restarts a build node as a liar, and has it honest again after the story.
func (w *world) lie(t *testing.T, n *cluster.Node, lie byte) {
	t.Helper()
	engine := n.Engine
	w.turn(t, n, fmt.Sprintf("PYRSIA_LIE=%d", lie), func() {
		n.Engine = func(e build.Engine) build.Engine { return liar.Engine{Engine: engine(e), Lie: lie} }
	})
}

// forge restarts a build node as one whose locks say of a file what is not so, until
// the story's end.
func (w *world) forge(t *testing.T, n *cluster.Node, path string) {
	t.Helper()
	w.turn(t, n, "PYRSIA_FORGE="+path, func() {
		n.Inputs = func(i publish.Inputs) publish.Inputs { return liar.Inputs{Inputs: i, Path: path} }
	})
}

// turn restarts a build node as a liar by a variable of the liar's program, or by what
// changes a node of this process, and has it honest again after the story.
func (w *world) turn(t *testing.T, n *cluster.Node, variable string, change func()) {
	t.Helper()
	ctx, engine, inputs := timely(t), n.Engine, n.Inputs
	if w.kind == cluster.InProcess {
		change()
	} else {
		n.Use(programs.liar, variable)
	}
	if err := n.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	connected(t, ctx, n)
	t.Cleanup(func() {
		if n.Engine, n.Inputs = engine, inputs; w.kind == cluster.Processes {
			n.Use(programs.pyrsia)
		}
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	})
}

// With one liar the two honest nodes publish, and the liar's vote is on the
// chain as different.
func oneLiar(t *testing.T, w *world) {
	c, ctx := w.network(t), timely(t)
	w.lie(t, c.Node(2), 1)
	if err := request(ctx, c.Node(0), library("one-liar")); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes() {
		b, err := n.WaitBuild(ctx, library("one-liar"), func(b control.BuildDetail) bool {
			return b.State == control.Published && vote(b, c.Node(2)).Vote == control.VoteDifferent
		})
		if err != nil {
			t.Fatalf("%v: %s", err, tally(b))
		}
		for _, honest := range c.Nodes()[:2] {
			if v := vote(b, honest); v.Vote != control.VoteEqual {
				t.Errorf("%s has %s's vote as %q", n.Name, honest.Name, v.Vote)
			}
		}
	}
	b, err := c.Regular(0).WaitPublished(ctx, library("one-liar"))
	if err != nil {
		t.Fatal(err)
	}
	wantVerified(t, get(t, ctx, c.Regular(0), mavenPath("one-liar")), output(t, b).File)
}

// With two liars that lie differently nothing is published, and every node
// tells why.
func twoLiars(t *testing.T, w *world) {
	c, ctx := w.network(t), timely(t)
	w.lie(t, c.Node(1), 1)
	w.lie(t, c.Node(2), 2)
	if _, err := ask(ctx, c.Node(0), library("two-liars")); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes() {
		b, err := n.WaitBuild(ctx, library("two-liars"), func(b control.BuildDetail) bool {
			return b.State == control.Disagreed || b.State == control.Resting
		})
		if err != nil {
			t.Fatalf("%v: %s", err, tally(b))
		}
		digests := map[string]bool{}
		for _, v := range b.Members {
			digests[v.Digest] = true
		}
		if len(digests) != 3 || digests[""] || b.Reason == "" {
			t.Errorf("%s tells %s; want three different digests and a reason", n.Name, tally(b))
		}
	}
	if a := get(t, ctx, c.Regular(0), mavenPath("two-liars")); a.status != http.StatusNotFound {
		t.Errorf("status %d for what is not published, want 404", a.status)
	}
}

// With one build node stopped the other two publish; it learns of it when it is
// back.
func oneStopped(t *testing.T, w *world) {
	c, ctx := w.network(t), timely(t)
	if err := c.Node(2).Stop(); err != nil {
		t.Fatal(err)
	}
	if err := request(ctx, c.Node(0), library("stopped")); err != nil {
		t.Fatal(err)
	}
	started(t, c)
	publishedEverywhere(t, ctx, c, library("stopped"))
	sameLog(t, ctx, c)
}

// A lock names a file that the others' upstreams do not have so. The honest nodes
// decline it, and the status names the file.
func poisonedLock(t *testing.T, w *world) {
	pool := map[cluster.Kind]string{cluster.InProcess: "busybox_1_amd64.deb", cluster.Processes: ".deb"}
	for _, poisoned := range []struct {
		what string
		of   artifact.PURL
		path string // end of the file's
		how  func(t *testing.T, n *cluster.Node, path string)
	}{
		{"plug-in", library("poisoned1"), plugin, w.alter},
		{"parent pom", library("poisoned2"), parent, w.alter},
		{"plug-in that the asker forges", library("poisoned3"), plugin, w.forge},
		{"parent pom that the asker forges", library("poisoned4"), parent, w.forge},
		{"list of versions", library("poisoned5"), "maven-metadata.xml", w.forge},
		{"Debian package", poisonedImage, pool[w.kind], w.forge},
		{"Debian index", poisonedImage, "Packages.gz", w.forge},
		{"Debian release", poisonedImage, "InRelease", w.forge},
	} {
		t.Run(poisoned.what, func(t *testing.T) {
			c, ctx := w.network(t), timely(t)
			poisoned.how(t, c.Node(0), poisoned.path)
			started(t, c)
			id, err := ask(ctx, c.Node(0), poisoned.of)
			if err != nil {
				t.Fatal(err)
			}
			b, err := c.Node(0).WaitBuild(ctx, poisoned.of, func(b control.BuildDetail) bool {
				return b.ID == id && declines(b, c.Node(1), poisoned.path) && declines(b, c.Node(2), poisoned.path)
			})
			if err != nil {
				t.Fatalf("%v: %s", err, tally(b))
			}
			if b.State == control.Published || b.AttemptLeaf != (record.Hash{}) {
				t.Errorf("an attempt with a poisoned lock got onto the chain: %s", tally(b))
			}
			if name, is := strings.CutPrefix(string(poisoned.of), "pkg:maven/e2e/"); is {
				if a := get(t, ctx, c.Regular(0), mavenPath(strings.TrimSuffix(name, "@1"))); a.status != http.StatusNotFound {
					t.Errorf("status %d for what is not published, want 404", a.status)
				}
			}
			ended, err := c.Node(0).WaitBuild(ctx, poisoned.of, func(b control.BuildDetail) bool { return b.ID == id && b.State == control.Failed })
			if err != nil || !strings.Contains(ended.Reason, poisoned.path) {
				t.Errorf("%v: the request ends with %q, which does not name %s", err, ended.Reason, poisoned.path)
			}
		})
	}
}

// alter has a node's upstream serve other bytes at a path until the story's end.
func (w *world) alter(t *testing.T, n *cluster.Node, path string) {
	w.upstreams.alter(n.Name, path, []byte("what only this node's upstream has\n"))
	t.Cleanup(func() { w.upstreams.alter(n.Name, path, w.upstreams.maven[path]) })
}

// declines tells whether a node declined and its reason names the file.
func declines(b control.BuildDetail, n *cluster.Node, path string) bool {
	v := vote(b, n)
	return v.Vote == control.VoteDeclined && strings.Contains(v.Reason, path)
}

// Peers whose disks altered or cut a file are refused, and the bytes come from
// another one; the client notices nothing.
func corruptPeers(t *testing.T, w *world) {
	c, ctx := w.network(t), timely(t)
	if err := request(ctx, c.Node(0), library("corrupt")); err != nil {
		t.Fatal(err)
	}
	b := allVoted(t, c, "corrupt")
	file := output(t, b).File
	flip(t, blob(c.Node(0), file.SHA256), file.Size/2)
	if err := os.Truncate(blob(c.Node(1), file.SHA256), file.Size/3); err != nil {
		t.Fatal(err)
	}
	wantVerified(t, get(t, ctx, c.Regular(0), mavenPath("corrupt")), file)
}

// With no honest source left the client gets a clear refusal, never wrong bytes.
func noHonestSource(t *testing.T, w *world) {
	c, ctx := w.network(t), timely(t)
	if err := request(ctx, c.Node(0), library("corrupted")); err != nil {
		t.Fatal(err)
	}
	b := allVoted(t, c, "corrupted")
	file := output(t, b).File
	for _, n := range c.Builders() {
		flip(t, blob(n, file.SHA256), 0)
	}
	begun := time.Now()
	a := get(t, ctx, c.Regular(0), mavenPath("corrupted"))
	t.Logf("status %d after %s: %.200s", a.status, time.Since(begun).Round(time.Millisecond), a.body)
	if a.status != http.StatusBadGateway && a.status != http.StatusNotFound || len(a.body) == 0 {
		t.Errorf("status %d with %d bytes, want 502 or 404 with a reason", a.status, len(a.body))
	}
}

// allVoted waits until all build nodes have built the library, and so have its
// file.
func allVoted(t *testing.T, c *cluster.Cluster, name string) control.BuildDetail {
	t.Helper()
	b, err := c.Node(0).WaitBuild(timely(t), library(name), func(b control.BuildDetail) bool {
		for _, n := range c.Builders() {
			if vote(b, n).Vote != control.VoteEqual {
				return false
			}
		}
		return b.State == control.Published
	})
	if err != nil {
		t.Fatalf("%v: %s", err, tally(b))
	}
	return b
}
