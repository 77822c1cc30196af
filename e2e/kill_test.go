package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/e2e/cluster"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
	"github.com/pyrsia/appliance/modules/store"
)

// Two of three build nodes are killed while they build, one after the other.
// After its restart each builds again, and its vote is as good as the others'.
func TestKilledWhileBuilding(t *testing.T) {
	c, ctx := network(t), timely(t)
	purl := library("kill-build")
	if _, err := ask(ctx, c.Node(0), purl); err != nil {
		t.Fatal(err)
	}
	for _, victim := range c.Nodes()[:2] { // the asker is one of them
		if b, err := victim.WaitBuild(ctx, purl, func(b control.BuildDetail) bool {
			return vote(b, victim).Vote == control.VoteBuilding
		}); err != nil {
			t.Fatalf("%s was not seen building: %v: %s", victim.Name, err, tally(b))
		}
		if err := victim.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := victim.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	started(t, c)
	publishedEverywhere(t, ctx, c, purl)
	allVoted(t, c, "kill-build")
	sameLog(t, ctx, c)
}

// All nodes are killed at once while they build. After their restart they go on
// by themselves: nobody asks again.
func TestAllKilled(t *testing.T) {
	c, ctx := network(t), timely(t)
	purl := library("kill-all")
	if _, err := ask(ctx, c.Node(0), purl); err != nil {
		t.Fatal(err)
	}
	if b, err := c.Node(1).WaitBuild(ctx, purl, func(b control.BuildDetail) bool {
		return vote(b, c.Node(1)).Vote == control.VoteBuilding
	}); err != nil {
		t.Fatalf("%v: %s", err, tally(b))
	}
	if err := c.KillAll(); err != nil {
		t.Fatal(err)
	}
	started(t, c)
	publishedEverywhere(t, ctx, c, purl)
	allVoted(t, c, "kill-all")
	sameLog(t, ctx, c)
}

// Two build nodes are killed when the commits are on the chain and before
// anything is published. After their restart they reveal what they had
// committed to: the outcome is the same, and it is published.
func TestKilledBetweenCommitAndReveal(t *testing.T) {
	c, ctx := network(t), timely(t)
	// The time between the two is short, so that one try may come too late.
	for try := 1; try <= 5; try++ {
		name := fmt.Sprintf("kill-vote%d", try)
		purl := library(name)
		id, err := ask(ctx, c.Node(0), purl)
		if err != nil {
			t.Fatal(err)
		}
		if err := committed(ctx, c.Node(0), id); err != nil {
			t.Fatal(err)
		}
		kill(t, c.Node(1), c.Node(2))
		// The asker alone is no majority: what it has now stays.
		b, err := c.Node(0).WaitBuild(ctx, purl, func(control.BuildDetail) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		hit := b.State == control.Committed
		t.Logf("try %d: killed when the build was %s", try, b.State)
		started(t, c)
		publishedEverywhere(t, ctx, c, purl)
		allVoted(t, c, name)
		if hit {
			sameLog(t, ctx, c)
			return
		}
	}
	t.Error("no try killed the nodes between commit and reveal")
}

// committed returns as soon as a node has a build's commits on its chain, or
// knows its end. It asks for no state again and again: what it waits for lasts a
// few milliseconds.
func committed(ctx context.Context, n *cluster.Node, id string) error {
	client := n.Client()
	defer client.Close()
	seen := errors.New("seen")
	err := client.WatchBuild(ctx, id, func(b control.Build) error {
		if b.State == control.Committed {
			return seen
		}
		return nil
	})
	if errors.Is(err, seen) {
		return nil
	}
	return err
}

// kill kills nodes at one moment.
func kill(t *testing.T, nodes ...*cluster.Node) {
	t.Helper()
	var all sync.WaitGroup
	for _, n := range nodes {
		all.Go(func() {
			if err := n.Kill(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// A build node is killed each time it has voted for a block, right after the
// vote is on its disk: in the middle of the agreement. The blocks come about,
// and no node is on another branch.
func TestKilledWhileABlockIsAgreed(t *testing.T) {
	c, ctx := network(t), timely(t)
	purl := library("kill-order")
	victim := c.Node(2)
	if _, err := ask(ctx, c.Node(0), purl); err != nil {
		t.Fatal(err)
	}
	kills := 0
	for kills < 4 {
		voted := voteFile(t, victim)
		err := cluster.Until(ctx, func() (bool, error) {
			if voteFile(t, victim) != voted {
				return true, nil
			}
			b, err := c.Node(0).WaitBuild(ctx, purl, func(control.BuildDetail) bool { return true })
			return b.State.Final(), err
		})
		if err != nil {
			t.Fatal(err)
		}
		if voteFile(t, victim) == voted {
			break // all is published
		}
		if err := victim.Kill(); err != nil {
			t.Fatal(err)
		}
		kills++
		if err := victim.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("killed %d times", kills)
	if kills == 0 {
		t.Error("the node was never seen voting")
	}
	started(t, c)
	publishedEverywhere(t, ctx, c, purl)
	allVoted(t, c, "kill-order")
	sameLog(t, ctx, c)
}

// voteFile is a vote file's state: it changes with each vote.
func voteFile(t *testing.T, n *cluster.Node) string {
	t.Helper()
	info, err := os.Stat(filepath.Join(n.Data(), "keys", "votes.db"))
	if err != nil {
		t.Fatal(err)
	}
	return info.ModTime().String()
}

// A regular node is killed in the middle of a fetch. After its restart the
// client gets the whole file, and what had come before is not fetched again.
func TestKilledInAFetch(t *testing.T) {
	c, ctx := network(t), timely(t)
	edge := c.Regular(1)
	layer := largestLayer(t, ctx, c)
	path := "/v2/e2e/tiny/blobs/" + layer.SHA256.OCI()
	// The rest comes quickly, so that one try may kill too late.
	for try := 1; try <= 5; try++ {
		if err := readPart(ctx, edge.RegistryURL()+path, layer.Size/8); err != nil {
			t.Fatal(err)
		}
		if err := edge.Kill(); err != nil {
			t.Fatal(err)
		}
		had := arrived(t, edge, layer)
		t.Logf("try %d: killed with %d of %d bytes", try, had, layer.Size)
		if had == 0 {
			t.Fatal("nothing of what the client has read is in the store")
		}
		if had < layer.Size {
			resumed(t, ctx, c, edge, path, layer, had)
			return
		}
		partial, whole := places(edge, layer.SHA256)
		if err := errors.Join(os.RemoveAll(partial), os.RemoveAll(whole)); err != nil {
			t.Fatal(err)
		}
		started(t, c)
	}
	t.Error("no try killed the node before the whole file was there")
}

// resumed starts a killed node, and wants it to fetch no more of a file than
// what is missing.
func resumed(t *testing.T, ctx context.Context, c *cluster.Cluster, n *cluster.Node, path string, file artifact.Descriptor, had int64) {
	t.Helper()
	// Without the note of whom the first part came from, what the node tells of
	// its sources is of the second part alone.
	partial, _ := places(n, file.SHA256)
	if err := os.Remove(filepath.Join(partial, "note")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	started(t, c)
	wantVerified(t, get(t, ctx, n, path), file)
	client := n.Client()
	defer client.Close()
	var fetched int64
	err := cluster.Until(ctx, func() (bool, error) {
		files, err := client.Sources(ctx, file.SHA256.String())
		if err != nil || len(files) != 1 || files[0].Have < file.Size {
			return false, err
		}
		fetched = fromPeers(files[0])
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// Towards the end a part may be asked of two peers.
	missing, twice := file.Size-had, file.Size/10
	t.Logf("%d bytes were missing, %d were fetched", missing, fetched)
	if fetched < missing || fetched > missing+twice {
		t.Errorf("%d bytes fetched of a file of %d, of which %d were there: want %d and little more", fetched, file.Size, had, missing)
	}
}

// fromPeers are the bytes of a file that came from peers.
func fromPeers(file control.Artifact) (n int64) {
	for _, s := range file.Sources {
		if s.Kind == control.SourcePeer {
			n += s.Bytes
		}
	}
	return n
}

// arrived is how much of a file a killed node's store has, by the bitmap that it
// keeps of a download.
func arrived(t *testing.T, n *cluster.Node, file artifact.Descriptor) int64 {
	t.Helper()
	partial, whole := places(n, file.SHA256)
	if _, err := os.Stat(whole); err == nil {
		return file.Size
	}
	have, err := os.ReadFile(filepath.Join(partial, "have"))
	if err != nil {
		t.Fatal(err)
	}
	groups := 0
	for _, b := range have {
		groups += bits.OnesCount8(b)
	}
	return min(int64(groups)*store.Group, file.Size)
}

// largestLayer is the large layer of the builder image.
func largestLayer(t *testing.T, ctx context.Context, c *cluster.Cluster) artifact.Descriptor {
	t.Helper()
	b, err := c.Node(0).WaitPublished(ctx, builder)
	if err != nil {
		t.Fatal(err)
	}
	var largest artifact.Descriptor
	for _, o := range b.Outputs {
		if o.Name.File != record.ManifestFile && o.File.Size > largest.Size {
			largest = o.File
		}
	}
	return largest
}

// readPart reads the beginning of a file and hangs up.
func readPart(ctx context.Context, address string, size int64) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return errors.New(address + ": " + reply.Status)
	}
	_, err = io.CopyN(io.Discard, reply.Body, size)
	return err
}
