package supervisor

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A module that holds its lock for ever is told of after Limit, one that is slow is not,
// and one that answers at last hangs no more.
func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		probes := []Probe{
			{"quick", func(context.Context) {}},
			{"slow", func(context.Context) { time.Sleep(15 * time.Second) }},
			{"hangs", func(context.Context) { <-release }},
		}
		p := NewPulse(func() []Probe { return probes })
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Serve(ctx) }()
		time.Sleep(19 * time.Second)
		if err := p.Err(); err != nil {
			t.Errorf("after 19 s: %v", err)
		}
		time.Sleep(5 * time.Second)
		if err := p.Err(); err == nil || err.Error() != "does not answer: hangs (for 24s)" {
			t.Errorf("after 24 s: %v", err)
		}
		if hung := p.Hung(); len(hung) != 1 || time.Since(hung["hangs"]) != 24*time.Second {
			t.Errorf("%v", hung)
		}
		close(release)
		synctest.Wait()
		if err := p.Err(); err != nil {
			t.Errorf("it answered, and %v", err)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute) // the slow one ends by itself
	})
}

// A tree in which a module hangs still stops.
func TestPulseStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		p := NewPulse(func() []Probe { return []Probe{{"hangs", func(context.Context) { <-release }}} })
		s := New(Options{Log: quiet()})
		s.Add("pulse", p)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx) }()
		time.Sleep(time.Minute)
		began := time.Now()
		stop()
		if err := <-done; err != nil || time.Since(began) > 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		close(release)
		synctest.Wait()
	})
}

// A service that fails over and over, and is started again each time, at last ends the
// process: whatever is wrong is more than the service.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		s := New(Options{Log: quiet(), Budget: 20, Window: 10 * time.Minute})
		s.Add("fails", Func(func(context.Context) error { runs++; time.Sleep(time.Second); return context.DeadlineExceeded }))
		began := time.Now()
		err := s.Serve(t.Context())
		if err == nil || !strings.Contains(err.Error(), "failed 21 times in 10m0s") || runs != 21 {
			t.Errorf("%v after %d runs, %v", err, runs, time.Since(began))
		}
	})
}

// One that fails now and then, for ever, does not.
func TestWithinBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		s := New(Options{Log: quiet(), Budget: 20, Window: 10 * time.Minute})
		s.Add("fails", Func(func(ctx context.Context) error {
			runs++
			select {
			case <-time.After(time.Minute):
				return context.DeadlineExceeded
			case <-ctx.Done():
				return nil
			}
		}))
		ctx, stop := context.WithTimeout(t.Context(), 24*time.Hour)
		defer stop()
		if err := s.Serve(ctx); err != nil || runs < 1000 {
			t.Errorf("%v after %d runs", err, runs)
		}
	})
}
