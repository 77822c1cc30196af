package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/e2e/cluster"
)

// configured changes a node's pyrsia.hcl, and puts it back when the story ends.
func configured(t *testing.T, n *cluster.Node) (change func(replace ...string)) {
	t.Helper()
	before, err := os.ReadFile(n.Config())
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		if err := os.WriteFile(n.Config(), []byte(text), 0o644); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		write(string(before))
		if err := reload(context.Background(), n); err != nil {
			t.Errorf("back to the configuration of before: %v", err)
		}
	})
	return func(replace ...string) {
		t.Helper()
		for i := 0; i < len(replace); i += 2 {
			if !strings.Contains(string(before), replace[i]) {
				t.Fatalf("%s does not contain %q", n.Config(), replace[i])
			}
		}
		write(strings.NewReplacer(replace...).Replace(string(before)))
	}
}

func reload(ctx context.Context, n *cluster.Node) error {
	client := n.Client()
	defer client.Close()
	_, err := client.Reload(ctx)
	return err
}

// A hundred reloads of all that can change, while clients fetch without a pause what is
// verified and what passes through: no request fails, and each gets the right bytes.
func hundredReloads(t *testing.T, w *world) {
	c, ctx := w.network(t), timely(t)
	if err := request(ctx, c.Node(0), library("honest")); err != nil {
		t.Fatal(err)
	}
	publishedEverywhere(t, ctx, c, library("honest"))
	edge := c.Regular(0)
	change := configured(t, edge)
	paths := []string{mavenPath("honest"), "/maven2/" + plugin}
	want := make([][]byte, len(paths))
	for i, path := range paths {
		a := get(t, ctx, edge, path)
		if a.status != http.StatusOK || a.err != nil {
			t.Fatalf("GET %s: status %d, %v", path, a.status, a.err)
		}
		want[i] = a.body
	}
	clients, stop := context.WithCancel(ctx)
	defer stop()
	var fetching sync.WaitGroup
	var answered atomic.Int64
	for i := range 3 * len(paths) {
		fetching.Go(func() {
			for clients.Err() == nil {
				if err := same(ctx, edge, paths[i%len(paths)], want[i%len(paths)]); err != nil {
					t.Error(err)
					return
				}
				answered.Add(1)
			}
		})
	}
	listen := edge.RegistryURL()[len("http://"):]
	for i := range 100 {
		replace := []string{
			`distribution {`, fmt.Sprintf("deny = [\"pkg:maven/e2e/denied@%d\"]\n\ndistribution {\n  quota = \"%dGiB\"", i, 20+i),
			`level = "debug"`, fmt.Sprintf("level = %q", []string{"debug", "info"}[i%2]),
		}
		if i%3 == 0 {
			replace = append(replace, fmt.Sprintf("[%q]", listen), fmt.Sprintf("[%q, %q]", listen, "127.0.0.1:0"))
		}
		change(replace...)
		if err := reload(ctx, edge); err != nil {
			t.Fatalf("reload %d: %v", i+1, err)
		}
	}
	before := answered.Load()
	if err := cluster.Until(ctx, func() (bool, error) { return answered.Load() >= before+int64(len(paths)) || t.Failed(), nil }); err != nil {
		t.Error(err)
	}
	stop()
	fetching.Wait()
	t.Logf("100 reloads, %d requests answered meanwhile", answered.Load())
	status, err := edge.Status(ctx)
	if err != nil || status.Configuration.Number < 100 || status.Configuration.Rejected != "" || status.Store.Quota != 119<<30 {
		t.Errorf("%+v, quota %d, %v", status.Configuration, status.Store.Quota, err)
	}
}

// same fetches a path and compares.
func same(ctx context.Context, n *cluster.Node, path string, want []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, n.RegistryURL()+path, nil)
	if err != nil {
		return err
	}
	reply, err := n.HTTP().Do(request)
	if err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	defer reply.Body.Close()
	got, err := io.ReadAll(reply.Body)
	if err != nil || reply.StatusCode != http.StatusOK || !bytes.Equal(got, want) {
		return fmt.Errorf("GET %s: status %d, %d bytes of %d, %w", path, reply.StatusCode, len(got), len(want), err)
	}
	return nil
}

// A build node becomes a regular one and a build node again, by its file alone: the
// others publish without it, it serves all the time, and then it builds and votes as
// before, with the vote file and keys of before.
func roleThereAndBack(t *testing.T, w *world) {
	c, ctx := w.network(t), timely(t)
	n := c.Node(2)
	change := configured(t, n)
	role := func(want string) control.Status {
		t.Helper()
		if err := reload(ctx, n); err != nil {
			t.Fatal(err)
		}
		status, err := n.Status(ctx)
		if err != nil || status.Role != want {
			t.Fatalf("role %q, %v; want %q", status.Role, err, want)
		}
		return status
	}
	change(`role = "build"`, `role = "regular"`)
	status := role("regular")
	for _, s := range status.Services {
		if s.Name == "quorum" || s.Name == "publish" {
			t.Errorf("a regular node runs %s", s.Name)
		}
	}
	if _, err := n.Pyrsia(ctx, "build", "request", "--socket", n.Socket(), string(library("role-one"))); err == nil || !strings.Contains(err.Error(), "this is a regular node") {
		t.Errorf("a regular node asked for a build says %v", err)
	}
	if err := request(ctx, c.Node(0), library("role-one")); err != nil {
		t.Fatal(err)
	}
	publishedEverywhere(t, ctx, c, library("role-one"))
	if a := get(t, ctx, n, mavenPath("role-one")); a.status != http.StatusOK || a.header.Get("Pyrsia-Verified") == "" {
		t.Errorf("it serves with status %d, %v", a.status, a.header)
	}
	for range 3 { // and once more, with no time to do anything
		change()
		role("build")
		change(`role = "build"`, `role = "regular"`)
		role("regular")
	}
	change()
	role("build")
	if err := request(ctx, n, library("role-two")); err != nil {
		t.Fatal(err)
	}
	publishedEverywhere(t, ctx, c, library("role-two"))
	b, err := n.WaitBuild(ctx, library("role-two"), func(b control.BuildDetail) bool { return vote(b, n).Vote == control.VoteEqual })
	if err != nil {
		t.Errorf("its own equal vote is not on the chain: %v: %s", err, tally(b))
	}
	if said, err := n.Pyrsia(ctx, "chain", "check", "--socket", n.Socket()); err != nil {
		t.Errorf("chain check: %v\n%s", err, said)
	}
	status, err = n.Status(ctx)
	if err != nil || len(status.Offences) > 0 {
		t.Errorf("offences %+v, %v", status.Offences, err)
	}
	sameLog(t, ctx, c)
}
