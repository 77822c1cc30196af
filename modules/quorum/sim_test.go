package quorum

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/record"
)

func simNumber(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// simNetwork is a network for simulations, which only read it: making its keys takes
// time.
func simNetwork(t testing.TB, n int, rule string) *chaintest.Network {
	return chaintest.New(t, n, func(g *record.Genesis) { g.Order = rule })
}

// simOf draws a run: order rule, liars and their kinds go by the seed. There are
// always fewer than could publish something false, and of those who lie in the
// order fewer than could fork it.
func simOf(n, seed int) simConfig {
	cfg := simConfig{Seed: uint64(seed), N: n, Order: record.OrderMajority, Snaps: seed%5 == 0}
	if seed%2 == 0 {
		cfg.Order = record.OrderTwoThirds
	}
	majority, quorum := n/2+1, n/2+1
	if cfg.Order == record.OrderTwoThirds {
		quorum = 2*n/3 + 1
	}
	inOrder := 2*quorum - n - 1
	// Q that follow the rules must be left for anything to go on.
	all := min(majority-1, n-quorum)
	for i := range (seed / 2) % (all + 1) {
		kinds := truthLiars
		if i < inOrder && (seed/8)%3 == 0 {
			kinds = orderLiars
		}
		kind := kinds[(seed/6+i)%len(kinds)]
		if kind == liesRubbish && i >= inOrder {
			kind = liesSilent
		}
		cfg.Liars = append(cfg.Liars, kind)
	}
	return cfg
}

// simChunk is how many seeds run one after the other; chunks run side by side, so that
// the processors are busy until the end.
const simChunk = 50

// TestSim runs SIM_SEEDS seeds from SIM_FROM for each size of network, or for
// SIM_N only.
func TestSim(t *testing.T) {
	from, seeds := simNumber("SIM_FROM", 1), simNumber("SIM_SEEDS", 4)
	for _, n := range []int{7, 5, 4, 3} { // the longest first
		if only := simNumber("SIM_N", 0); only != 0 && only != n {
			continue
		}
		t.Run(fmt.Sprintf("N=%d", n), func(t *testing.T) {
			t.Parallel()
			networks := map[string]*chaintest.Network{}
			for _, rule := range []string{record.OrderMajority, record.OrderTwoThirds} {
				networks[rule] = simNetwork(t, n, rule)
			}
			var mu sync.Mutex // guards total
			var total simReport
			for first := from; first < from+seeds; first += simChunk {
				last := min(first+simChunk, from+seeds) - 1
				t.Run(fmt.Sprintf("%d-%d", first, last), func(t *testing.T) {
					t.Parallel()
					sum := simSeeds(t, networks, n, first, last)
					mu.Lock()
					total.add(sum)
					mu.Unlock()
				})
			}
			t.Cleanup(func() { t.Logf("%d seeds: %+v", seeds, total) })
		})
	}
}

// simSeeds runs seeds one after the other. Networks are by order rule, and only read.
func simSeeds(t *testing.T, networks map[string]*chaintest.Network, n, first, last int) (sum simReport) {
	for seed := first; seed <= last; seed++ {
		cfg := simOf(n, seed)
		report, err := simulate(t, networks[cfg.Order], cfg)
		if err != nil {
			t.Fatalf("%v\nrun it again: SIM_N=%d SIM_FROM=%d SIM_TRACE=1 go test -run TestOneSim ./modules/quorum", err, n, seed)
		}
		sum.add(report)
	}
	return sum
}

func (r *simReport) add(o simReport) {
	r.Heights += o.Heights
	r.Followed += o.Followed
	r.Crashes += o.Crashes
	r.SetBack += o.SetBack
	r.Resumed += o.Resumed
	r.Fenced += o.Fenced
	r.Blind += o.Blind
	r.Rekeyed += o.Rekeyed
	r.Published += o.Published
	r.Attempts += o.Attempts
	r.Messages += o.Messages
	r.Accused += o.Accused
	r.Virtual += o.Virtual
}

// TestOneSim traces one run.
func TestOneSim(t *testing.T) {
	if os.Getenv("SIM_TRACE") == "" {
		t.Skip("for looking at one seed: set SIM_TRACE, SIM_N and SIM_FROM")
	}
	cfg := simOf(simNumber("SIM_N", 4), simNumber("SIM_FROM", 1))
	cfg.Trace = func(line string) { fmt.Println(line) }
	report, err := simulate(t, simNetwork(t, cfg.N, cfg.Order), cfg)
	t.Logf("%+v", report)
	if err != nil {
		t.Error(err)
	}
}

// BenchmarkMembers is how long, in the simulation's time, it takes from the last
// member's reveal to the block on all of them, with 100 ms to a member and back. No
// genesis leaf holds 100 members; modules/quorum/order/sim measures their order.
func BenchmarkMembers(b *testing.B) {
	for _, n := range []int{4, 25, 90} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			network := simNetwork(b, n, record.OrderTwoThirds)
			var all []float64
			for seed := 1; b.Loop(); seed++ {
				w := newSimWorld(b, network, simConfig{Seed: uint64(seed), N: n, Order: record.OrderTwoThirds, Delay: 50 * time.Millisecond})
				if w.run(); w.failure != nil {
					b.Fatal(w.failure)
				}
				attempts, err := w.nodes[0].chain.Attempts()
				if err != nil {
					b.Fatal(err)
				}
				for _, a := range attempts {
					all = append(all, float64(w.reached[a.PublishHeight]-w.revealed[a.ID]))
				}
			}
			slices.Sort(all)
			b.ReportMetric(all[len(all)/2], "ms-reveal-to-block")
			b.ReportMetric(all[len(all)-1], "ms-most")
		})
	}
}
