package cluster

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// inProcess is a cluster of a build node and a regular one in this process. Of
// what they start nothing may be left after the test.
func inProcess(t *testing.T) (context.Context, *Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	program := filepath.Join(t.TempDir(), "pyrsia")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "../../appliance/cmd/pyrsia").CombinedOutput(); err != nil {
		t.Fatalf("build pyrsia: %v\n%s", err, out)
	}
	before := goleak.IgnoreCurrent()
	// Not t.TempDir: its names are longer than a socket's path may be.
	folder, err := os.MkdirTemp("", "in")
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(ctx, Spec{Kind: InProcess, Folder: folder, Build: 1, Regular: 1, Pyrsia: program})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
		goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("github.com/libp2p/go-flow-metrics.(*sweeper).run"))
	})
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return ctx, c
}

func TestInProcess(t *testing.T) {
	ctx, c := inProcess(t)
	for _, n := range c.Nodes() {
		status, err := n.Status(ctx)
		if err != nil || status.Identity != n.Identity() {
			t.Fatalf("%s says that it is %s (%v), want %s", n.Name, status.Identity, err, n.Identity())
		}
		if out, err := n.Pyrsia(ctx, "status"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if err := n.body.Start(); err == nil {
			t.Errorf("%s was started twice", n.Name)
		}
	}
	if err := c.KillAll(); err == nil || !strings.Contains(err.Error(), "cannot be killed") {
		t.Errorf("KillAll: %v, want that it cannot be", err)
	}
	edge := c.Regular(0)
	if !edge.Running() || !c.Running() {
		t.Fatal("the nodes do not run after a Kill that was refused")
	}
	if err := edge.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if c.Running() {
		t.Error("the nodes run after they were stopped")
	}
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
}

// A port that went to another program while the nodes were stopped.
func TestInProcessPortTaken(t *testing.T) {
	ctx, c := inProcess(t)
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	edge := c.Regular(0)
	taken := edge.registry()
	listener, err := net.Listen("tcp", taken)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := edge.Start(ctx); err == nil || !strings.Contains(err.Error(), taken) {
		t.Errorf("Start: %v, want that %s is in use", err, taken)
	}
	if edge.Running() {
		t.Error("the node runs without its port")
	}
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if edge.registry() == taken {
		t.Errorf("the node is still said to be at %s", taken)
	}
}

func TestInProcessOutlive(t *testing.T) {
	if _, err := Open(Spec{Kind: InProcess, Folder: t.TempDir(), Outlive: true}); err == nil {
		t.Error("nodes in this process are to outlive it, and that is no error")
	}
}
