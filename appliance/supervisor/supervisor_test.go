package supervisor

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// journal notes what happened in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) note(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, " ")
}

// slow is ready after a while and says when it starts and stops.
type slow struct {
	name  string
	after time.Duration
	j     *journal
	once  sync.Once
	ready chan struct{}
}

func newSlow(name string, after time.Duration, j *journal) *slow {
	return &slow{name: name, after: after, j: j, ready: make(chan struct{})}
}

func (s *slow) Ready() <-chan struct{} { return s.ready }

func (s *slow) Serve(ctx context.Context) error {
	s.j.note("+" + s.name)
	defer s.j.note("-" + s.name)
	select {
	case <-time.After(s.after):
		s.j.note("=" + s.name)
		s.once.Do(func() { close(s.ready) })
	case <-ctx.Done():
	}
	<-ctx.Done()
	return ctx.Err()
}

func states(s *Supervisor) string {
	var all []string
	for _, state := range s.States() {
		all = append(all, state.Name+":"+state.State)
	}
	return strings.Join(all, " ")
}

func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := new(journal)
		s := New(Options{Log: quiet()})
		s.Add("a", newSlow("a", time.Second, j))
		s.Add("b", newSlow("b", time.Minute, j))
		s.Add("c", newSlow("c", time.Second, j))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx) }()
		time.Sleep(2 * time.Second) // the bubble's clock
		synctest.Wait()
		if got := states(s); got != "a:ready b:starting c:waiting" {
			t.Error(got)
		}
		<-s.Ready()
		if got := states(s); got != "a:ready b:ready c:ready" {
			t.Error(got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := j.String(); got != "+a =a +b =b +c =c -c -b -a" {
			t.Error(got)
		}
		if got := states(s); got != "a:stopped b:stopped c:stopped" {
			t.Error(got)
		}
	})
}

// TestStopWhileStarting: what was never started is not stopped, and nothing
// hangs on a service that never becomes ready.
func TestStopWhileStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := new(journal)
		s := New(Options{Log: quiet()})
		s.Add("a", newSlow("a", 0, j))
		s.Add("never", newSlow("never", time.Hour, j))
		s.Add("c", newSlow("c", 0, j))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.Serve(ctx); err != nil {
			t.Error(err)
		}
		if got := j.String(); got != "+a =a +never -never -a" {
			t.Error(got)
		}
	})
}

func TestOrdinaryFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starts []time.Duration
		begin := time.Now()
		s := New(Options{Log: quiet(), Failures: 2, Pause: time.Minute})
		s.Add("healthy", Func(func(ctx context.Context) error { <-ctx.Done(); return nil }))
		s.Add("failing", Func(func(ctx context.Context) error {
			starts = append(starts, time.Since(begin))
			switch len(starts) {
			case 1:
				return errors.New("no")
			case 2:
				panic("bug")
			case 3:
				return nil
			}
			<-ctx.Done()
			return nil
		}))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx) }()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := states(s); got != "healthy:ready failing:backoff" {
			t.Error(got)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		got := s.States()[1]
		if got.State != Running || got.Restarts != 3 || got.Err == nil {
			t.Errorf("%+v", got)
		}
		if len(starts) != 4 || starts[2] != 0 || starts[3] < 30*time.Second {
			t.Errorf("started after %v", starts)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestFatal(t *testing.T) {
	for _, ready := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			j := new(journal)
			disk := errors.New("fsync: input/output error")
			s := New(Options{Log: quiet()})
			s.Add("a", newSlow("a", 0, j))
			bad := newSlow("bad", 0, j)
			if ready {
				close(bad.ready)
				bad.once.Do(func() {})
			}
			s.Add("bad", &failing{bad, Fatal(disk)})
			if ready {
				s.Add("c", newSlow("c", 0, j))
			}
			err := s.Serve(t.Context())
			if !errors.Is(err, disk) || !strings.HasPrefix(err.Error(), "bad: ") {
				t.Error(err)
			}
			if got := s.States()[1]; got.State != Failed || got.Restarts != 0 {
				t.Errorf("%+v", got)
			}
			if got := j.String(); !strings.HasSuffix(got, "-a") {
				t.Error(got)
			}
		})
	}
	if Fatal(nil) != nil {
		t.Error("nothing is fatal")
	}
}

// failing fails a second after it began.
type failing struct {
	*slow
	err error
}

func (f *failing) Serve(ctx context.Context) error {
	select {
	case <-time.After(time.Second):
		return f.err
	case <-ctx.Done():
		return nil
	}
}

func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := new(journal)
		free := make(chan struct{})
		s := New(Options{Log: quiet(), StopTimeout: time.Second})
		s.Add("a", newSlow("a", 0, j))
		s.Add("stuck", Func(func(context.Context) error { <-free; return nil }))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx) }()
		<-s.Ready()
		cancel()
		begin := time.Now()
		err := <-done
		if !errors.Is(err, ErrStuck) || !strings.Contains(err.Error(), "stuck") || time.Since(begin) > 3*time.Second {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		if !slices.Contains(j.lines, "-a") {
			t.Error("the others were not stopped")
		}
		close(free)
		synctest.Wait()
	})
}
