//go:build bench

package e2e

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/appliance/e2e/cluster"
)

// publications is how many packages the measurement publishes one by one.
const publications = 7

// sizes are the networks in which the members' own way is measured.
var sizes = []int{3, 5, 7}

func init() {
	for i := range publications {
		libraries[fmt.Sprintf("bench-%d", i)] = story{}
	}
}

// TestBenchPublication measures, over real processes with BuildKit, the time from
// the last member's reveal to the block on every node.
func TestBenchPublication(t *testing.T) {
	measure(t, network(t))
}

// TestBenchMembers measures the same over networks of more members, each a process
// in a network namespace of its own, which build without BuildKit.
func TestBenchMembers(t *testing.T) {
	for _, members := range sizes {
		t.Run(fmt.Sprint(members), func(t *testing.T) { measure(t, apart(t, members)) })
	}
}

// measure publishes one by one and reads the times from the nodes' own logs: one
// machine, one clock.
func measure(t *testing.T, c *cluster.Cluster) {
	ctx := timely(t)
	var times []time.Duration
	for i := range publications {
		purl := library(fmt.Sprintf("bench-%d", i))
		if err := request(ctx, c.Node(i%len(c.Builders())), purl); err != nil {
			t.Fatal(err)
		}
		b := publishedEverywhere(t, ctx, c, purl)
		revealed := latest(t, c.Builders(), fmt.Sprintf(`msg="vote revealed".*attempt=%s`, b.AttemptLeaf))
		appended := latest(t, c.Nodes(), fmt.Sprintf(`msg=block height=%d `, b.Height))
		times = append(times, appended.Sub(revealed))
	}
	slices.Sort(times)
	t.Logf("last reveal to block on all %d nodes, %d of them build nodes: median %s, least %s, most %s of %d publications",
		len(c.Nodes()), len(c.Builders()), times[len(times)/2], times[0], times[len(times)-1], len(times))
}

var stamp = regexp.MustCompile(`^time=(\S+) `)

// latest is the latest time at which each of the nodes logged a line, once
// every one of them has.
func latest(t *testing.T, nodes []*cluster.Node, line string) time.Time {
	t.Helper()
	pattern := regexp.MustCompile(line)
	var last time.Time
	for _, n := range nodes {
		var at time.Time
		err := cluster.Until(timely(t), func() (bool, error) {
			at = logged(t, n, pattern)
			return !at.IsZero(), nil
		})
		if err != nil {
			t.Fatalf("%s did not log %s: %v", n.Name, line, err)
		}
		if at.After(last) {
			last = at
		}
	}
	return last
}

func logged(t *testing.T, n *cluster.Node, pattern *regexp.Regexp) time.Time {
	t.Helper()
	file, err := os.Open(n.Log())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if !pattern.MatchString(lines.Text()) {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, stamp.FindStringSubmatch(lines.Text())[1])
		if err != nil {
			t.Fatalf("%s: %v", strings.TrimSpace(lines.Text()), err)
		}
		return at
	}
	return time.Time{}
}

// TestBenchReload measures what a client of `pyrsia reload` waits, of a regular node
// that is asked for nothing else, for one change that is live.
func TestBenchReload(t *testing.T) {
	c, ctx := network(t), timely(t)
	edge := c.Regular(0)
	change := configured(t, edge)
	var times []time.Duration
	for i := range 51 {
		change(`distribution {`, fmt.Sprintf("distribution {\n  quota = \"%dGiB\"", 20+i))
		began := time.Now()
		if err := reload(ctx, edge); err != nil {
			t.Fatal(err)
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	t.Logf("reload of a live change: median %s, least %s, most %s of %d", times[len(times)/2], times[0], times[len(times)-1], len(times))
}
