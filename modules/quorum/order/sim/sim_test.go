package sim

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/record"
)

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// TestSeeds runs SIM_SEEDS seeds from SIM_FROM for each size of network, or
// for SIM_N only, with as many liars as the order survives at most.
func TestSeeds(t *testing.T) {
	from, seeds := number("SIM_FROM", 1), number("SIM_SEEDS", 300)
	for _, n := range []int{3, 4, 5, 7} {
		if only := number("SIM_N", 0); only != 0 && only != n || only == 0 && n == 7 && os.Getenv("SIM_SEEDS") == "" {
			continue
		}
		t.Run(fmt.Sprintf("N=%d", n), func(t *testing.T) {
			t.Parallel()
			var total Report
			for seed := from; seed < from+seeds; seed++ {
				report, err := Run(ofSeed(n, seed))
				if err != nil {
					t.Fatalf("%v\nrun it again: SIM_N=%d SIM_FROM=%d SIM_SEEDS=1 SIM_TRACE=1 go test -run TestOneSeed ./modules/quorum/order/sim", err, n, seed)
				}
				total.Heights += report.Heights
				total.Crashes += report.Crashes
				total.Messages += report.Messages
				total.Rounds = max(total.Rounds, report.Rounds)
				total.Virtual += report.Virtual
			}
			t.Logf("%d seeds: %d heights, %d crashes, %d messages, rounds up to %d, %s of virtual time", seeds, total.Heights, total.Crashes, total.Messages, total.Rounds, total.Virtual)
		})
	}
}

// ofSeed draws a run: the order rule and the number of liars go by the seed.
func ofSeed(n, seed int) Config {
	cfg := Config{Seed: uint64(seed), N: n, Order: record.OrderMajority}
	if seed%2 == 0 {
		cfg.Order = record.OrderTwoThirds
	}
	cfg.Liars = (seed / 2) % Bound(n, cfg.Order)
	return cfg
}

// TestOneSeed traces one run.
func TestOneSeed(t *testing.T) {
	if os.Getenv("SIM_TRACE") == "" {
		t.Skip("for looking at one seed: set SIM_TRACE, SIM_N and SIM_FROM")
	}
	cfg := ofSeed(number("SIM_N", 4), number("SIM_FROM", 1))
	cfg.Trace = func(line string) { fmt.Println(line) }
	report, err := Run(cfg)
	t.Logf("%+v %v", report, err)
	if err != nil {
		t.Fail()
	}
}

// TestLiars runs each kind of liar by itself, as many as the order survives.
func TestLiars(t *testing.T) {
	seeds := number("SIM_LIARS", 30)
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			accused := 0
			for seed := 1; seed <= seeds; seed++ {
				cfg := Config{Seed: uint64(seed), N: 4, Order: record.OrderMajority, Liars: 1, Kind: kind}
				if seed%3 == 0 {
					cfg.N, cfg.Order, cfg.Liars = 5, record.OrderTwoThirds, 1+seed%2
				}
				report, err := Run(cfg)
				if err != nil {
					t.Fatal(err)
				}
				accused += len(report.Accused)
			}
			t.Logf("%d seeds, %d liars accused", seeds, accused)
			if accused == 0 && (kind == Twins || kind == Rubbish) {
				t.Error("nobody was accused")
			}
		})
	}
}

// TestForks has just as many liars as a fork needs, under both order rules: forks
// happen, and each names at least 2Q-N culprits, all of them liars.
func TestForks(t *testing.T) {
	for _, rule := range []string{record.OrderMajority, record.OrderTwoThirds} {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			for _, n := range []int{3, 4, 5, 6, 7} {
				forksOf(t, n, rule)
			}
		})
	}
}

func forksOf(t *testing.T, n int, rule string) {
	liars, forks, fewest := Bound(n, rule), 0, n
	for seed := 1; seed <= number("SIM_FORKS", 8); seed++ {
		report, err := Run(Config{Seed: uint64(seed), N: n, Order: rule, Liars: liars, Kind: Twins, Split: true})
		if err != nil {
			t.Fatal(err)
		}
		if report.Forks > 0 {
			forks, fewest = forks+1, min(fewest, len(report.Culprits))
		}
	}
	t.Logf("N=%d, %d liars: %d runs forked, and named at least %d of them", n, liars, forks, fewest)
	if forks == 0 {
		t.Errorf("N=%d: %d liars never forked the order: the simulation is too kind", n, liars)
	}
}

// TestSameSeed: a seed decides everything.
func TestSameSeed(t *testing.T) {
	var traces [2][]string
	for i := range traces {
		cfg := ofSeed(4, 3)
		cfg.Trace = func(line string) { traces[i] = append(traces[i], line) }
		if _, err := Run(cfg); err != nil {
			t.Fatal(err)
		}
	}
	if len(traces[0]) < 100 || len(traces[0]) != len(traces[1]) {
		t.Fatalf("traces of %d and %d lines", len(traces[0]), len(traces[1]))
	}
	for i := range traces[0] {
		if traces[0][i] != traces[1][i] {
			t.Fatalf("line %d:\n%s\n%s", i, traces[0][i], traces[1][i])
		}
	}
}

// TestLarge is the number to reach: 100 members, 100 ms round trip, a block on
// all of them within 2 s of the last attestation.
func TestLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("30,000 messages a block")
	}
	start := time.Now()
	report, err := Run(Config{Seed: 1, N: 100, Order: record.OrderTwoThirds, Delay: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	perBlock := report.Virtual / time.Duration(report.Heights)
	t.Logf("%d blocks, %s each; %d messages in %s of real time", report.Heights, perBlock, report.Messages, time.Since(start))
	if perBlock > 2*time.Second {
		t.Errorf("%s for a block, want at most 2 s", perBlock)
	}
}

// BenchmarkHundred is how long, in the simulation's time, 100 members take from
// something to publish to the block on all of them, with 100 ms to a member and
// back.
func BenchmarkHundred(b *testing.B) {
	for _, rule := range []string{record.OrderMajority, record.OrderTwoThirds} {
		b.Run(rule, func(b *testing.B) {
			var heights int64
			var virtual time.Duration
			for seed := uint64(1); b.Loop(); seed++ {
				report, err := Run(Config{Seed: seed, N: 100, Order: rule, Delay: 50 * time.Millisecond})
				if err != nil {
					b.Fatal(err)
				}
				heights, virtual = heights+report.Heights, virtual+report.Virtual
			}
			b.ReportMetric(float64(virtual.Milliseconds())/float64(heights), "ms/block")
		})
	}
}
