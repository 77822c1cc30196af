//go:build bench

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pyrsia/appliance/e2e/cluster"
	"github.com/pyrsia/appliance/modules/chain"
	chainbolt "github.com/pyrsia/appliance/modules/chain/bolt"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
)

// records is how many leaves the log of the measured node has.
const records = 100_000

// TestBenchStart measures a regular node with a long log, as a process: from its start
// until it answers a client, and what it takes while nobody asks it for anything.
func TestBenchStart(t *testing.T) {
	folder := t.TempDir()
	longNode(t, folder)
	var times []time.Duration
	for range 11 {
		began := time.Now()
		node := start(t, folder)
		answers(t)
		times = append(times, time.Since(began))
		node.stop()
	}
	slices.Sort(times)
	t.Logf("start to serving with %d leaves: median %s, least %s, most %s of %d", records, times[len(times)/2], times[0], times[len(times)-1], len(times))

	node := start(t, folder)
	defer node.stop()
	answers(t)
	idle(t, node)
}

// benchPort is where the measured node answers.
const benchPort = "127.0.0.1:27888"

// longNode makes the files of a node that has followed and checked a long log.
func longNode(t *testing.T, folder string) {
	t.Helper()
	n := chaintest.New(t, 3)
	data := filepath.Join(folder, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	backend, err := chainbolt.Open(filepath.Join(data, "chain.db"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := chain.New(backend, n.GenesisLeaf)
	if err != nil {
		t.Fatal(err)
	}
	blocks, now := n.Long(t, records), time.UnixMilli(chaintest.Start).AddDate(1, 0, 0)
	for batch := blocks.Next(t); len(batch) > 0; batch = blocks.Next(t) {
		if _, err := c.Adopt(batch, now); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := backend.Close(); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`
network {
  genesis = "sha256:%x"
  listen  = ["/ip4/127.0.0.1/tcp/0"]
}
storage { data = %q }
admin { socket = %q }
registry { listen = [%q] }
`, sha256.Sum256(n.GenesisLeaf), data, filepath.Join(folder, "socket"), benchPort)
	for name, content := range map[string][]byte{"data/genesis.json": n.GenesisLeaf, "pyrsia.hcl": []byte(config)} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// measured is a node as a process.
type measured struct {
	t       *testing.T
	command *exec.Cmd
	said    bytes.Buffer
}

func start(t *testing.T, folder string) *measured {
	t.Helper()
	m := &measured{t: t, command: exec.Command(filepath.Join("..", "bin", "pyrsia"), "serve", "--config", filepath.Join(folder, "pyrsia.hcl"))}
	m.command.Stderr = &m.said
	if err := m.command.Start(); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *measured) stop() {
	m.t.Helper()
	if err := m.command.Process.Signal(syscall.SIGTERM); err != nil {
		m.t.Fatal(err)
	}
	if err := m.command.Wait(); err != nil {
		m.t.Fatalf("%v\n%s", err, m.said.String())
	}
}

// answers waits until the node answers a client.
func answers(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := cluster.Until(ctx, func() (bool, error) {
		reply, err := http.Get("http://" + benchPort + "/v2/")
		if err != nil {
			return false, nil
		}
		defer reply.Body.Close()
		return reply.StatusCode == http.StatusOK, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// idle measures for two minutes.
func idle(t *testing.T, m *measured) {
	const long = 2 * time.Minute
	before := ticks(t, m)
	time.Sleep(long) // what is measured is that nothing happens
	spent := time.Duration(ticks(t, m)-before) * time.Second / 100
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.command.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmRSS") || strings.HasPrefix(line, "RssAnon") {
			t.Log(strings.Join(strings.Fields(line), " "))
		}
	}
	t.Logf("idle for %s: %s of processor time, %.2f %% of a core", long, spent, 100*spent.Seconds()/long.Seconds())
}

// ticks are a process's user and system time in hundredths of a second (proc(5)).
func ticks(t *testing.T, m *measured) (sum int) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.command.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, fields, _ := strings.Cut(string(data), ") ")
	for _, field := range strings.Fields(fields)[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}
