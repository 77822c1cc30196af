package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/e2e/cluster"
	"github.com/pyrsia/appliance/modules/artifact"
)

// patience is how long anything in a story may take.
const patience = 4 * time.Minute

func timely(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// started starts what an earlier story left stopped, and waits until all nodes
// are connected.
func started(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	ctx := timely(t)
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes() {
		connected(t, ctx, n)
	}
}

// connected waits until a node has a connection to every build node.
func connected(t *testing.T, ctx context.Context, n *cluster.Node) {
	t.Helper()
	var missing string
	err := cluster.Until(ctx, func() (bool, error) {
		status, err := n.Status(ctx)
		if err != nil {
			return false, err
		}
		missing = ""
		for _, m := range status.Members {
			if !m.Self && !m.Connected {
				missing += " " + m.Label
			}
		}
		return missing == "", nil
	})
	if err != nil {
		t.Fatalf("%s is not connected to%s: %v", n.Name, missing, err)
	}
}

// ask asks a node for a build, as soon as its recipe is on the chain.
func ask(ctx context.Context, n *cluster.Node, purl artifact.PURL) (id string, err error) {
	client := n.Client()
	defer client.Close()
	var pending error
	err = cluster.Until(ctx, func() (ok bool, err error) {
		id, err = client.RequestBuild(ctx, purl)
		if errors.Is(err, control.ErrNotFound) || errors.Is(err, control.ErrUnavailable) {
			pending = err
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return "", fmt.Errorf("ask %s for %s: %w (%v)", n.Name, purl, err, pending)
	}
	return id, nil
}

// request asks a node for a build and waits until it is published there.
func request(ctx context.Context, n *cluster.Node, purl artifact.PURL) error {
	id, err := ask(ctx, n, purl)
	if err != nil {
		return err
	}
	client := n.Client()
	defer client.Close()
	var last control.Build
	err = client.WatchBuild(ctx, id, func(b control.Build) error {
		last = b
		return nil
	})
	if err != nil {
		return fmt.Errorf("watch %s, last %q: %w", purl, last.State, err)
	}
	if last.State != control.Published {
		return fmt.Errorf("%s is not published but %s: %s", purl, last.State, last.Reason)
	}
	return nil
}

// publishedEverywhere waits until every node knows a package as published, and
// returns the first node's picture of it.
func publishedEverywhere(t *testing.T, ctx context.Context, c *cluster.Cluster, purl artifact.PURL) control.BuildDetail {
	t.Helper()
	var first control.BuildDetail
	for i, n := range c.Nodes() {
		b, err := n.WaitPublished(ctx, purl)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = b
		} else if b.Leaf != first.Leaf || b.Height != first.Height {
			t.Errorf("%s has %s at leaf %d, block %d; %s at leaf %d, block %d", n.Name, purl, b.Leaf, b.Height, c.Node(0).Name, first.Leaf, first.Height)
		}
	}
	return first
}

// vote is what a node did for a build.
func vote(b control.BuildDetail, n *cluster.Node) control.Vote {
	for _, v := range b.Members {
		if v.Identity == n.Identity() {
			return v
		}
	}
	return control.Vote{}
}

// tally is who voted what, for messages.
func tally(b control.BuildDetail) string {
	var all []string
	for _, v := range b.Members {
		all = append(all, fmt.Sprintf("%s %q %s (%s)", v.Label, v.Vote, v.Digest, v.Reason))
	}
	return fmt.Sprintf("%s (%s): %s", b.State, b.Reason, strings.Join(all, ", "))
}

// answer is what a node's port gave.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    error // of the body: a body that ends early is an error
}

func get(t *testing.T, ctx context.Context, n *cluster.Node, path string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, n.RegistryURL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := n.HTTP().Do(request)
	if err != nil {
		t.Fatalf("GET %s from %s: %v", path, n.Name, err)
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	return answer{reply.StatusCode, reply.Header, body, err}
}

// wantVerified fails unless the answer is the file, said to be verified.
func wantVerified(t *testing.T, a answer, file artifact.Descriptor) {
	t.Helper()
	if a.status != http.StatusOK || a.err != nil {
		t.Fatalf("status %d, %v: %.200s", a.status, a.err, a.body)
	}
	if got := artifact.SHA256(sha256.Sum256(a.body)); got != file.SHA256 {
		t.Fatalf("%d bytes with SHA-256 %s, want %d bytes with %s", len(a.body), got, file.Size, file.SHA256)
	}
	if a.header.Get("Pyrsia-Verified") == "" || a.header.Get("Pyrsia-Unverified") != "" {
		t.Errorf("headers %v do not say that the file is verified", a.header)
	}
}

// output is the one output of a story's library.
func output(t *testing.T, b control.BuildDetail) control.Output {
	t.Helper()
	if len(b.Outputs) != 1 {
		t.Fatalf("%s has %d outputs, want 1", b.Package, len(b.Outputs))
	}
	return b.Outputs[0]
}

// places are the folders in which a node's store has a file: as far as it has
// come, and whole (modules/store/disk).
func places(n *cluster.Node, digest artifact.SHA256) (partial, whole string) {
	folder, name := filepath.Join(n.Data(), "store"), digest.String()
	return filepath.Join(folder, "partial", name), filepath.Join(folder, "blobs", name[:2], name)
}

// blob is the file in which a node's store keeps some bytes.
func blob(n *cluster.Node, digest artifact.SHA256) string {
	_, whole := places(n, digest)
	return filepath.Join(whole, "data")
}

// flip alters one byte of a file in place.
func flip(t *testing.T, path string, offset int64) {
	t.Helper()
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[offset] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// sameLog waits until all nodes have the same checkpoint.
func sameLog(t *testing.T, ctx context.Context, c *cluster.Cluster) {
	t.Helper()
	var seen []string
	err := cluster.Until(ctx, func() (bool, error) {
		seen = nil
		roots := map[string]bool{}
		for _, n := range c.Nodes() {
			status, err := n.Status(ctx)
			if err != nil {
				return false, err
			}
			roots[fmt.Sprint(status.Size, status.Root)] = true
			seen = append(seen, fmt.Sprintf("%s: height %d, size %d, root %s", n.Name, status.Height, status.Size, status.Root))
		}
		return len(roots) == 1, nil
	})
	if err != nil {
		t.Fatalf("the logs differ: %v\n%s", err, strings.Join(seen, "\n"))
	}
}
