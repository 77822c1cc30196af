package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/e2e/cluster"
)

// upstreamPort is where nodes that stand apart find their upstreams: on their own
// machine, so that these are there also when the network is not.
const upstreamPort = "127.0.0.1:9000"

// apart is a network of so many build nodes and one regular node, each in a
// network namespace of its own, with the builder image published.
func apart(t *testing.T, builders int) *cluster.Cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these stories make network namespaces, which needs root: run as root")
	}
	ctx := timely(t)
	if err := buildPrograms(ctx, cluster.Apart); err != nil {
		t.Fatal(err)
	}
	debian, keys := littleDebian(t)
	u := newUpstreams(debian)
	t.Cleanup(u.close)
	own := filepath.Join(folder, fmt.Sprintf("apart%d", builders))
	spec := cluster.Spec{
		Kind: cluster.Apart, Folder: filepath.Join(own, "net"), Name: "apart", Build: builders, Regular: 1,
		Pyrsia: programs.pyrsia, Recipes: filepath.Join(own, "recipes"), Level: "debug",
		Adjust: func(s *cluster.NodeSpec) {
			s.Upstreams = upstreamsAt("http://"+upstreamPort, s.Name)
			if s.Build {
				s.Program, s.Env = programs.liar, honest()
			}
		},
	}
	if err := writeRecipes(spec.Recipes, u, keys); err != nil {
		t.Fatal(err)
	}
	c, err := cluster.New(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmake(t, c) })
	serveUpstreams(t, c, u)
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	started(t, c)
	if err := request(ctx, c.Node(0), builder); err != nil {
		t.Fatal(err)
	}
	publishedEverywhere(t, ctx, c, builder)
	return c
}

// honest is the environment of a node that only builds without BuildKit.
func honest() []string { return []string{"PYRSIA_ENGINE=local"} }

// serveUpstreams has the upstreams on every node's own machine.
func serveUpstreams(t *testing.T, c *cluster.Cluster, u *upstreams) {
	t.Helper()
	for _, n := range c.Nodes() {
		listener, err := n.Listen(upstreamPort)
		if err != nil {
			t.Fatal(err)
		}
		server, ended := &http.Server{Handler: u}, make(chan struct{})
		go func() {
			defer close(ended)
			server.Serve(listener) //nolint:errcheck // it ends by Close
		}()
		t.Cleanup(func() {
			server.Close()
			<-ended
		})
	}
}

// unmake stops a network, checks every node's files as `pyrsia chain check` does,
// and keeps the logs if the story failed.
func unmake(t *testing.T, c *cluster.Cluster) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	err := c.Stop()
	for _, n := range c.Nodes() {
		if out, checked := n.Pyrsia(ctx, "chain", "check", "--files"); checked != nil {
			t.Errorf("%s: %v\n%s", n.Name, checked, out)
		}
		if t.Failed() {
			keepLog(n, "apart")
		}
	}
	if err := errors.Join(err, c.Unwire()); err != nil {
		t.Error(err)
	}
}

// holding waits until a node knows that exactly some members hold a build's inputs:
// as far as it gets without the others.
func holding(t *testing.T, ctx context.Context, n *cluster.Node, name string, members []*cluster.Node) {
	t.Helper()
	b, err := n.WaitBuild(ctx, library(name), func(b control.BuildDetail) bool {
		for _, m := range members {
			if v := vote(b, m).Vote; v != control.VoteHolds {
				return false
			}
		}
		return true
	})
	if err != nil {
		t.Fatalf("%v: %s", err, tally(b))
	}
}

// stateOf is what a node knows of a build now, "" for nothing.
func stateOf(ctx context.Context, n *cluster.Node, name string) control.BuildState {
	client := n.Client()
	defer client.Close()
	b, err := client.Build(ctx, string(library(name)))
	if err != nil {
		return ""
	}
	return b.State
}

// Of five build nodes two are cut off: the others publish, the two are at a
// standstill; when they are back they have it all. Then all are cut into parts of
// which none is a majority: nothing is published, nothing is lost, and when the
// network is whole again it goes on by itself.
func TestApartFive(t *testing.T) {
	c, ctx := apart(t, 5), timely(t)
	b := c.Builders()
	if err := c.Partition([]*cluster.Node{b[3], b[4]}); err != nil {
		t.Fatal(err)
	}
	if err := request(ctx, b[0], library("apart1")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Regular(0).WaitPublished(ctx, library("apart1")); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(ctx, b[3], library("apart2")); err != nil {
		t.Fatal(err)
	}
	holding(t, ctx, b[3], "apart2", b[3:5])
	if state := stateOf(ctx, b[4], "apart1"); state == control.Published {
		t.Error("a node that is cut off has what was published without it")
	}
	if state := stateOf(ctx, b[3], "apart2"); state == control.Published {
		t.Error("two of five published")
	}
	if err := c.Heal(); err != nil {
		t.Fatal(err)
	}
	publishedEverywhere(t, ctx, c, library("apart1"))
	publishedEverywhere(t, ctx, c, library("apart2")) // asked for on the small side, and not lost
	sameLog(t, ctx, c)

	if err := c.Partition(b[0:2], b[2:4], b[4:5]); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(ctx, b[0], library("apart3")); err != nil {
		t.Fatal(err)
	}
	holding(t, ctx, b[0], "apart3", b[0:2])
	for _, n := range c.Nodes() {
		if state := stateOf(ctx, n, "apart3"); state == control.Published {
			t.Errorf("%s has something published without a majority", n.Name)
		}
		if d, err := n.WaitBuild(ctx, builder, func(control.BuildDetail) bool { return true }); err != nil || d.State != control.Published {
			t.Errorf("%s has lost what was published: %v, %v", n.Name, d.State, err)
		}
	}
	if err := c.Heal(); err != nil {
		t.Fatal(err)
	}
	publishedEverywhere(t, ctx, c, library("apart3"))
	sameLog(t, ctx, c)
}

// showOffences tells whether all nodes show, within half a minute, what one member did.
// That a node accuses another one is a failure.
func showOffences(t *testing.T, ctx context.Context, c *cluster.Cluster, liar *cluster.Node) bool {
	t.Helper()
	short, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, n := range c.Nodes() {
		err := cluster.Until(short, func() (bool, error) {
			status, err := n.Status(short)
			if err != nil {
				return false, err
			}
			for _, o := range status.Offences {
				if o.Identity != liar.Identity() {
					t.Fatalf("%s accuses %s", n.Name, o.Identity)
				}
			}
			return len(status.Offences) > 0, nil
		})
		if err != nil {
			t.Logf("%s does not show what %s did: %v", n.Name, liar.Name, err)
			return false
		}
	}
	return true
}

// Of four build nodes one contradicts itself. The others publish, and everybody
// has the proof of what it did. Cut in halves, neither half goes on; whole again
// they do.
func TestApartFour(t *testing.T) {
	c, ctx := apart(t, 4), timely(t)
	b := c.Builders()
	liar := b[3]
	liar.Use(programs.liar, append(honest(), "PYRSIA_EQUIVOCATE=yes")...)
	if err := liar.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	waitFenced(t, ctx, liar, "a vote", isFree)
	if err := request(ctx, b[0], library("apart4")); err != nil {
		t.Fatal(err)
	}
	publishedEverywhere(t, ctx, c, library("apart4"))
	// Its contradictions are proof where they come before a block is decided without
	// it: in some block, but not in each.
	more := []string{"apart1", "apart2"}
	for !showOffences(t, ctx, c, liar) {
		if len(more) == 0 {
			t.Fatalf("nobody shows what %s did", liar.Name)
		}
		if err := request(ctx, b[0], library(more[0])); err != nil {
			t.Fatal(err)
		}
		publishedEverywhere(t, ctx, c, library(more[0]))
		more = more[1:]
	}
	liar.Use(programs.liar, honest()...)
	if err := liar.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Partition(b[0:2]); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(ctx, b[0], library("apart3")); err != nil {
		t.Fatal(err)
	}
	holding(t, ctx, b[0], "apart3", b[0:2])
	if err := c.Heal(); err != nil {
		t.Fatal(err)
	}
	publishedEverywhere(t, ctx, c, library("apart3"))
	sameLog(t, ctx, c)
}
