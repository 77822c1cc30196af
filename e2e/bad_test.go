package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/e2e/cluster"
)

// refused runs a program that must fail with one sentence that names something.
func refused(t *testing.T, ctx context.Context, names string, arguments ...string) {
	t.Helper()
	command := exec.CommandContext(ctx, programs.pyrsia, arguments...)
	var said strings.Builder
	command.Stderr = &said
	err := command.Run()
	if err == nil || ctx.Err() != nil {
		t.Fatalf("pyrsia %v: %v, want a refusal; it said %q", arguments, err, said.String())
	}
	lines := strings.Split(strings.TrimSpace(said.String()), "\n")
	last := lines[len(lines)-1]
	if !strings.HasPrefix(last, "pyrsia: ") || !strings.Contains(last, names) {
		t.Errorf("pyrsia %v said %q; want one sentence that names %q", arguments, said.String(), names)
	}
	t.Log(last)
}

var listens = regexp.MustCompile(`listen( +)= \["/ip4/[^"]*"\]`)

// edited is a copy of a node's pyrsia.hcl with something replaced, and with a
// data folder, a socket and a port of its own for peers.
func edited(t *testing.T, n *cluster.Node, old, new string) string {
	t.Helper()
	data, err := os.ReadFile(n.Config())
	if err != nil {
		t.Fatal(err)
	}
	folder, err := os.MkdirTemp("", "bad")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	text := strings.ReplaceAll(string(data), n.Data(), filepath.Join(folder, "data"))
	text = strings.ReplaceAll(text, n.Socket(), filepath.Join(folder, "s.sock"))
	text = listens.ReplaceAllString(text, `listen$1= ["/ip4/127.0.0.1/tcp/0"]`)
	if old != "" && !strings.Contains(text, old) {
		t.Fatalf("%s does not contain %q", n.Config(), old)
	}
	if old != "" {
		text = strings.ReplaceAll(text, old, new)
	}
	path := filepath.Join(folder, "pyrsia.hcl")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Each wrong input gets one clear sentence, an exit code that is not 0, and
// leaves nothing half-done.
func TestBadInput(t *testing.T) {
	c := network(t)
	edge := c.Regular(0)
	here := strings.TrimPrefix(edge.RegistryURL(), "http://")
	for _, story := range []struct {
		name, names string
		arguments   func(t *testing.T) []string
	}{
		{"no configuration", "nowhere.hcl", func(*testing.T) []string { return []string{"serve", "--config", "/nowhere.hcl"} }},
		{"wrong configuration", "regulra", func(t *testing.T) []string {
			return []string{"serve", "--config", edited(t, edge, `role = "regular"`, `role = "regulra"`)}
		}},
		{"port in use", here, func(t *testing.T) []string { return []string{"serve", "--config", edited(t, edge, "", "")} }},
		{"another genesis", "genesis", func(t *testing.T) []string {
			return []string{"serve", "--config", edited(t, edge, c.Genesis(), "sha256:"+strings.Repeat("0", 64))}
		}},
		{"unknown package", "no/such@1", func(*testing.T) []string {
			return []string{"build", "request", "--config", c.Node(0).Config(), "pkg:maven/no/such@1"}
		}},
		{"a regular node asked for a build", "regular", func(*testing.T) []string {
			return []string{"build", "request", "--config", edge.Config(), string(library("honest"))}
		}},
		{"no node", "serve", func(*testing.T) []string { return []string{"status", "--socket", "/nowhere.sock"} }},
	} {
		t.Run(story.name, func(t *testing.T) { refused(t, timely(t), story.names, story.arguments(t)...) })
	}
}

// A port that another program holds at the moment of the start.
func TestPortInUse(t *testing.T) {
	c, ctx := network(t), timely(t)
	edge := c.Regular(1)
	if err := edge.Stop(); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", strings.TrimPrefix(edge.RegistryURL(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	refused(t, ctx, listener.Addr().String(), "serve", "--config", edge.Config())
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	started(t, c)
}

// A full disk stops a node at its start with one sentence.
func TestFullDisk(t *testing.T) {
	c, ctx := network(t), timely(t)
	config := edited(t, c.Regular(0), "", "")
	data := filepath.Join(filepath.Dir(config), "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", data, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(data, 0); err != nil {
			t.Error(err)
		}
	}()
	refused(t, ctx, "free some space", "serve", "--config", config)
}

// A source that has another digest than the recipe says is built by nobody, and
// the status names it.
func otherSource(t *testing.T, w *world) {
	c, ctx := w.network(t), timely(t)
	failed(t, ctx, c, "other-source", "source-1-src.tar.gz")
}

// A recipe whose commands fail rests with its reason.
func brokenRecipe(t *testing.T, w *world) {
	c, ctx := w.network(t), timely(t)
	failed(t, ctx, c, "broken", "exit")
	if w.kind == cluster.Processes {
		_, err := c.Node(0).WaitBuild(ctx, library("broken"), func(b control.BuildDetail) bool {
			return slices.ContainsFunc(b.Members, func(v control.Vote) bool { return v.Self && v.Vote == control.VoteFailed })
		})
		if err != nil {
			t.Fatal(err)
		}
		remains(t, ctx, c.Node(0), string(library("broken")))
		remains(t, ctx, c.Node(0), tried(t, ctx, c.Node(0), "broken"))
	}
	if a := get(t, ctx, c.Regular(0), mavenPath("broken")); a.status != 404 {
		t.Errorf("status %d for what is not published, want 404", a.status)
	}
}

// tried is the id of a recipe that fails where it is tried, as the command line tells it.
func tried(t *testing.T, ctx context.Context, n *cluster.Node, name string) string {
	t.Helper()
	_, err := n.Pyrsia(ctx, "recipe", "test", filepath.Join(n.Recipes, name+".hcl"))
	if err == nil {
		t.Fatal("it builds")
	}
	id := regexp.MustCompile(`pyrsia build remains (try-[0-9]+)`).FindStringSubmatch(err.Error())
	if id == nil {
		t.Fatalf("%v; want where what it left is", err)
	}
	return id[1]
}

// remains wants what the failed command left: the output, which is half of one.
func remains(t *testing.T, ctx context.Context, n *cluster.Node, build string) {
	t.Helper()
	client := n.Client()
	defer client.Close()
	var packed bytes.Buffer
	if err := client.Remains(ctx, build, &packed); err != nil {
		t.Fatal(err)
	}
	plain, err := gzip.NewReader(&packed)
	if err != nil {
		t.Fatal(err)
	}
	entries := tar.NewReader(plain)
	h, err := entries.Next()
	if err != nil || h.Name != "out.jar" {
		t.Fatalf("%v, %v; want out.jar", h, err)
	}
	if content, err := io.ReadAll(entries); err != nil || string(content) != "half\n" {
		t.Errorf("%q, %v", content, err)
	}
}

// failed asks for a build that cannot be, and waits until the asker tells why.
func failed(t *testing.T, ctx context.Context, c *cluster.Cluster, name, names string) {
	t.Helper()
	if _, err := ask(ctx, c.Node(0), library(name)); err != nil {
		t.Fatal(err)
	}
	b, err := c.Node(0).WaitBuild(ctx, library(name), func(b control.BuildDetail) bool {
		return strings.Contains(tally(b), names)
	})
	if err != nil {
		t.Fatalf("%v: %s", err, tally(b))
	}
	t.Log(tally(b))
}
