package buildkit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/moby/buildkit/client"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pyrsia/appliance/modules/build"
)

// standing is what the engine knows of a worker.
type standing struct {
	running  int       // builds of this engine
	failures int       // in a row, that were the worker's own
	since    time.Time // of the last one
	err      error
	pruned   time.Time // when its cache was looked at last
}

// How long a worker that failed comes last: doubled with each failure in a row.
const (
	firstRest   = 30 * time.Second
	longestRest = 10 * time.Minute
)

// rests tells whether a worker failed so lately that others come first.
func (s *standing) rests(now time.Time) bool {
	if s.failures == 0 {
		return false
	}
	rest := min(firstRest<<min(s.failures-1, 10), longestRest)
	return now.Before(s.since.Add(rest))
}

// of is a worker's standing; mu is held.
func (e *Engine) of(address string) *standing {
	s := e.workers[address]
	if s == nil {
		s = new(standing)
		e.workers[address] = s
	}
	return s
}

// connect takes the least busy buildkitd that answers, one that failed of late after
// all others. The caller closes the client, and ends the claim with unclaim.
func (e *Engine) connect(ctx context.Context, addresses []string) (*client.Client, string, error) {
	var failures []error
	for left := addresses; len(left) > 0; {
		var address string
		address, left = e.claim(left)
		c, err := dial(ctx, address)
		if err == nil {
			return c, address, nil
		}
		e.unclaim(address, fault(ctx, fmt.Errorf("%w: %w", errWorker, err)))
		failures = append(failures, fmt.Errorf("%s: %w", address, err))
	}
	return nil, "", fmt.Errorf("no buildkitd answers: %w", errors.Join(failures...))
}

// claim takes the best of some addresses; left are the others.
func (e *Engine) claim(addresses []string) (address string, left []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now, best := time.Now(), 0
	for i := range addresses {
		if e.better(addresses[i], addresses[best], now) {
			best = i
		}
	}
	e.of(addresses[best]).running++
	return addresses[best], slices.Delete(slices.Clone(addresses), best, best+1)
}

// better tells whether a build should rather go to a than to b; mu is held.
func (e *Engine) better(a, b string, now time.Time) bool {
	x, y := e.of(a), e.of(b)
	if x.rests(now) != y.rests(now) {
		return y.rests(now)
	}
	return x.running < y.running
}

// unclaim ends a claim. err is the worker's own failure, nil for none.
func (e *Engine) unclaim(address string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.of(address)
	s.running--
	if err == nil {
		s.failures, s.err = 0, nil
		return
	}
	s.failures, s.since, s.err = s.failures+1, time.Now(), err
}

// errWorker is wrapped by what is surely a worker's own failure.
var errWorker = errors.New("worker")

// fault is a build's error where it is the worker's own. Of what cannot be told from a
// recipe's doing nobody else's builds shall suffer.
func fault(ctx context.Context, err error) error {
	gone := status.Code(err) == codes.Unavailable // also of a wrapped one
	if ctx.Err() != nil || errors.Is(err, build.ErrFailed) || !gone && !errors.Is(err, errWorker) {
		return nil
	}
	return err
}

// Worker is a worker as it is now.
type Worker struct {
	Address string
	Version string // of BuildKit; "" where it does not answer
	Err     error  // why it does not answer, or how its last build failed by its own fault
	Rests   bool   // others come first, since it failed of late
	Running int    // builds of this node
	Cache   int64  // bytes that it keeps of earlier builds
}

// Workers asks every worker how it is.
func (e *Engine) Workers(ctx context.Context) []Worker {
	var workers []Worker
	for _, address := range e.limitsNow().Addresses {
		workers = append(workers, e.worker(ctx, address))
	}
	return workers
}

func (e *Engine) worker(ctx context.Context, address string) Worker {
	e.mu.Lock()
	s := *e.of(address)
	e.mu.Unlock()
	w := Worker{Address: address, Err: s.err, Rests: s.rests(time.Now()), Running: s.running}
	c, err := dial(ctx, address)
	if err != nil {
		w.Err = err
		return w
	}
	defer c.Close()
	info, err := c.Info(ctx)
	if err != nil {
		w.Err = err
		return w
	}
	w.Version = info.BuildkitVersion.Version
	usage, err := c.DiskUsage(ctx)
	if err != nil {
		w.Err = err
	}
	for _, u := range usage {
		w.Cache += u.Size
	}
	return w
}

// pruneEvery is how often a worker's cache is looked at: a build adds little to it.
const pruneEvery = 10 * time.Minute

// prune has a worker forget the oldest of earlier builds where it keeps more than it
// may. It is no reason to fail a build.
func (e *Engine) prune(ctx context.Context, c *client.Client, address string, most int64, log *progress) {
	if most <= 0 || !e.pruneNow(address) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// All: also what BuildKit keeps of the steps' own sources and mounts.
	if err := c.Prune(ctx, nil, client.PruneAll, client.WithKeepOpt(0, 0, most, 0)); err != nil && ctx.Err() == nil {
		log.say("the worker's cache could not be pruned: %v", err)
	}
}

// pruneNow tells whether it is time to, once.
func (e *Engine) pruneNow(address string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.of(address)
	if time.Since(s.pruned) < pruneEvery {
		return false
	}
	s.pruned = time.Now()
	return true
}
