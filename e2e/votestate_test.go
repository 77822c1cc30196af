package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/e2e/cluster"
)

// fenced is why a build node says that it does not vote, "" while it does.
func fenced(ctx context.Context, n *cluster.Node) (string, error) {
	status, err := n.Status(ctx)
	if err != nil {
		return "", err
	}
	for _, m := range status.Members {
		if m.Self {
			return m.Fenced, nil
		}
	}
	return "", nil
}

// waitFenced waits until a node's reason is as wanted.
func waitFenced(t *testing.T, ctx context.Context, n *cluster.Node, what string, good func(string) bool) {
	t.Helper()
	var last string
	err := cluster.Until(ctx, func() (bool, error) {
		reason, err := fenced(ctx, n)
		last = reason
		return err == nil && good(reason), nil
	})
	if err != nil {
		t.Fatalf("%s does not come to %s, its reason is %q: %v", n.Name, what, last, err)
	}
}

func isFree(reason string) bool { return reason == "" }

// rekey gives a stopped node new keys by the command line, starts it, and waits
// until it votes.
func rekey(t *testing.T, ctx context.Context, c *cluster.Cluster, n *cluster.Node) {
	t.Helper()
	if out, err := n.Pyrsia(ctx, "node", "rekey"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	started(t, c)
	waitFenced(t, ctx, n, "a vote with its new keys", isFree)
}

// A build node whose vote file is lost does not start with its old keys. It gets
// new ones; the others put them on the chain, and its vote counts again.
func TestLostVoteFile(t *testing.T) {
	c, ctx := network(t), timely(t)
	victim := c.Node(1)
	if err := victim.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(victim.Data(), "keys", "votes.db")); err != nil {
		t.Fatal(err)
	}
	refused(t, ctx, "pyrsia node rekey", "serve", "--config", victim.Config())
	rekey(t, ctx, c, victim)
	if err := request(ctx, c.Node(0), library("rekeyed")); err != nil {
		t.Fatal(err)
	}
	publishedEverywhere(t, ctx, c, library("rekeyed"))
	allVoted(t, c, "rekeyed")
	sameLog(t, ctx, c)
	if out, err := victim.Pyrsia(ctx, "chain", "check"); err != nil || !strings.Contains(string(out), "sound") {
		t.Errorf("%v\n%s", err, out)
	}
}

// A build node that is set back to a copy of its data folder, as a backup or a
// virtual machine's snapshot does it, finds out by what the others recollect. It
// follows, votes for nothing, also not after another restart, and publishes again
// with new keys.
func TestSetBack(t *testing.T) {
	c, ctx := network(t), timely(t)
	victim := c.Node(2)
	if err := victim.Stop(); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(t.TempDir(), "data")
	copyFolder(t, victim.Data(), backup)
	started(t, c)
	waitFenced(t, ctx, victim, "a vote", isFree)
	if err := request(ctx, c.Node(0), library("set-back1")); err != nil {
		t.Fatal(err)
	}
	allVoted(t, c, "set-back1")
	if err := victim.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(victim.Data()); err != nil {
		t.Fatal(err)
	}
	copyFolder(t, backup, victim.Data())
	for range 2 {
		started(t, c)
		waitFenced(t, ctx, victim, "a refusal to vote", func(reason string) bool { return strings.Contains(reason, "pyrsia node rekey") })
		if err := victim.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	started(t, c)
	if err := request(ctx, c.Node(0), library("set-back2")); err != nil {
		t.Fatal(err)
	}
	publishedEverywhere(t, ctx, c, library("set-back2"))
	b, err := victim.WaitPublished(ctx, library("set-back2"))
	if err != nil || vote(b, victim).Vote == control.VoteEqual {
		t.Errorf("the node that was set back voted (%v): %s", err, tally(b))
	}
	if err := victim.Stop(); err != nil {
		t.Fatal(err)
	}
	rekey(t, ctx, c, victim)
	if err := request(ctx, c.Node(0), library("set-back3")); err != nil {
		t.Fatal(err)
	}
	allVoted(t, c, "set-back3")
	sameLog(t, ctx, c)
}

// copyFolder copies a folder as a backup does, holes and modes included.
func copyFolder(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
