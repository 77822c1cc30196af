package publish

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/pyrsia/appliance/modules/build"
)

// errWaits is wrapped by what will be possible later without anyone's doing
// here, such as a build whose builder image is not published yet.
var errWaits = errors.New("waiting")

// class is a kind of work with its own limit.
type class int

const (
	classBuild class = iota
	classHold
	classResolve
	classReference
	classKeep
)

// How much is under way at once: of the locks that one asker wants held, so that a
// slow one keeps no other waiting, and of this node's own.
const (
	maxHolds      = 1
	maxResolves   = 2
	maxReferences = 1
	maxKeeps      = 1
)

// maxTries is how often work is tried before it rests with its log; a recipe
// whose own commands fail rests after the second time, a lock that its proofs
// do not support after the first.
const maxTries = 6

// job is one piece of work: running, waiting for its next try, or resting.
type job struct {
	class   class
	asker   string // for whom, where the limit is for each asker
	running bool
	tries   int
	next    time.Time
	err     error // of the last try

	stop    context.CancelCauseFunc // of the try that runs
	stopped bool                    // the operator wants no more tries
}

// errStopped is the error of work that the operator cancelled.
var errStopped = errors.New("cancelled by the operator of this node")

func (j *job) rests() bool {
	return j.stopped || j.tries >= maxTries || (errors.Is(j.err, build.ErrFailed) && j.tries >= 2) || (errors.Is(j.err, ErrDeclined) && j.tries >= 1)
}

// lastTry tells whether the work, running now, rests after failing with err.
func (m *Member) lastTry(key string, err error) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if interrupted(err) || m.jobs[key] == nil {
		return false
	}
	after := job{tries: m.jobs[key].tries + 1, err: err}
	return after.rests()
}

// interrupted tells whether work ended for a reason outside of it, so that the
// try does not count.
func interrupted(err error) bool {
	return errors.Is(err, errWaits) || errors.Is(err, context.Canceled)
}

// start runs the work unless it runs, waits or rests already, or its class is
// busy. Work that succeeds is never started again under the same key; work
// that is interrupted starts again in the next run.
func (m *Member) start(ctx context.Context, running *sync.WaitGroup, key string, class class, asker string, work func(context.Context) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j := m.jobs[key]
	if j == nil {
		j = &job{class: class, asker: asker}
		m.jobs[key] = j
	}
	done := j.tries > 0 && j.err == nil
	if done || j.running || j.rests() || time.Now().Before(j.next) || m.busy(class, asker) {
		return
	}
	j.running = true
	ctx, j.stop = context.WithCancelCause(ctx)
	running.Go(func() {
		err := work(ctx)
		if errors.Is(context.Cause(ctx), errStopped) && err != nil {
			err = errStopped // what it failed with says less
		}
		m.finished(key, err)
		if err != nil && ctx.Err() == nil {
			m.Log.Warn("work failed", "work", key, "error", err)
		}
		m.changed()
	})
}

func (m *Member) busy(class class, asker string) bool {
	limit, n := [...]int{classBuild: max(m.limits.Load().Parallel, 1), classHold: maxHolds, classResolve: maxResolves, classReference: maxReferences, classKeep: maxKeeps}[class], 0
	for _, j := range m.jobs {
		if j.running && j.class == class && j.asker == asker {
			n++
		}
	}
	return n >= limit
}

func (m *Member) finished(key string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j := m.jobs[key]
	j.stop(nil)
	j.running, j.err = false, err
	if interrupted(err) {
		j.next = time.Now().Add(time.Second)
		return
	}
	j.tries++
	j.next = time.Now().Add(time.Second << min(j.tries, 6))
}

// stop ends work under way, and keeps it from being tried again.
func (m *Member) stop(key string, class class) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j := m.jobs[key]
	if j == nil {
		j = &job{class: class}
		m.jobs[key] = j
	}
	j.stopped = true
	if j.running {
		j.stop(errStopped)
		return
	}
	j.err = errStopped
}

// state describes a job for people: "running", "resting: …", "".
func (m *Member) jobState(key string) (state string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j := m.jobs[key]
	switch {
	case j == nil:
		return "", nil
	case j.running:
		return "running", nil
	case j.err != nil && j.rests():
		return "resting", j.err
	case j.err != nil:
		return "waiting", j.err
	}
	return "", nil
}

// Load counts the builds that run, and the attempts and requests that wait.
func (m *Member) Load() (running, waiting int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, j := range m.jobs {
		if j.running && j.class == classBuild {
			running++
		}
	}
	for _, r := range m.requests {
		if !r.Done {
			waiting++
		}
	}
	return running, waiting
}
