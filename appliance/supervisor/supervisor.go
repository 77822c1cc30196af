// Package supervisor is the tree of a node's services: it starts them in order,
// keeps them running, and stops them in reverse.
//
// There are two classes of failure. An ordinary one (a peer gone, a port lost,
// a panic) ends one service, which is started again, at once at first and
// after a pause when it fails often. A fatal one (Fatal: a corrupt chain, a
// failed fsync) stops everything: the process exits, systemd starts it anew,
// and opening recovers. Restarting only the service would go on with a state
// that nobody can vouch for.
//
// The restarting itself is suture's; each service has a suture supervisor of
// its own, so that one failing service never delays another's restart.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/thejerf/suture/v4"
)

// Service is something that runs until its context ends. Serve joins its own
// goroutines before it returns. It may be called again after it returned.
type Service interface {
	Serve(ctx context.Context) error
}

// Readier is a Service that is not of use as soon as it runs. The services
// after it are started once the channel is closed; it is closed once and for
// all, so that a restart does not hold anybody up.
type Readier interface {
	Ready() <-chan struct{}
}

// Patient is a Service that may take a time of its own to stop.
type Patient interface {
	StopTimeout() time.Duration
}

// Func is a Service made of one function.
type Func func(ctx context.Context) error

// Serve implements Service.
func (f Func) Serve(ctx context.Context) error { return f(ctx) }

// Fatal marks an error that must end the process. It is nil for nil.
func Fatal(err error) error {
	if err == nil {
		return nil
	}
	return &FatalError{err}
}

// FatalError is an error after which nothing may go on.
type FatalError struct{ err error }

// Error implements error.
func (f *FatalError) Error() string { return f.err.Error() }

// Unwrap implements what errors.Is and errors.As ask.
func (f *FatalError) Unwrap() error { return f.err }

// ErrStuck is wrapped when services did not stop in time. They may still run.
var ErrStuck = errors.New("did not stop in time")

// Options are a supervisor's limits. Zero values mean the defaults.
type Options struct {
	Log *slog.Logger // default slog.Default()

	// StopTimeout is how long each service may take to stop that is not Patient;
	// default 10 s.
	StopTimeout time.Duration

	// Failures is how many failures in short order are answered by an
	// immediate restart; default 3. The count halves every 30 s.
	Failures float64

	// Pause is how long a service rests that fails more often; default 5 s.
	Pause time.Duration

	// Budget is how often a service may fail within Window, whatever the pauses;
	// once more is fatal. Default 60 within 10 min: what is wrong then is not the
	// service's alone, and systemd starts all of it anew, or gives up and says so.
	Budget int
	Window time.Duration
}

// failureDecay is the half-life of the count of failures in seconds.
const failureDecay = 30

// The states of a service.
const (
	Waiting  = "waiting" // for the services before it
	Starting = "starting"
	Running  = "ready"
	Pausing  = "backoff"
	Stopped  = "stopped"
	Failed   = "failed" // fatally
)

// State is how a service is.
type State struct {
	Name     string
	State    string
	Since    time.Time
	Restarts int
	Err      error // of the last failure
}

// Supervisor runs services. Add all of them before Serve; all other methods
// are safe for concurrent use.
type Supervisor struct {
	options  Options
	services []*runner
	fatal    chan error // the first fatal error; further ones are logged only
	ready    chan struct{}
}

// New is a supervisor without services. It starts nothing.
func New(options Options) *Supervisor {
	if options.Log == nil {
		options.Log = slog.Default()
	}
	if options.StopTimeout == 0 {
		options.StopTimeout = 10 * time.Second
	}
	if options.Failures == 0 {
		options.Failures = 3
	}
	if options.Pause == 0 {
		options.Pause = 5 * time.Second
	}
	if options.Budget == 0 {
		options.Budget = 60
	}
	if options.Window == 0 {
		options.Window = 10 * time.Minute
	}
	return &Supervisor{options: options, fatal: make(chan error, 1), ready: make(chan struct{})}
}

// Add appends a service: it is started after, and stopped before, those that
// were added earlier.
func (s *Supervisor) Add(name string, service Service) {
	r := &runner{
		supervisor: s, name: name, service: service, log: s.options.Log.With("service", name), patience: s.options.StopTimeout,
		ready: make(chan struct{}), ended: make(chan struct{}),
	}
	if p, is := service.(Patient); is {
		r.patience = p.StopTimeout()
	}
	r.state = State{Name: name, State: Waiting, Since: time.Now()}
	s.services = append(s.services, r)
}

// Ready is closed when every service has become ready.
func (s *Supervisor) Ready() <-chan struct{} { return s.ready }

// States are the services' states in the order of Add.
func (s *Supervisor) States() []State {
	states := make([]State, len(s.services))
	for i, r := range s.services {
		r.mu.Lock()
		states[i] = r.state
		r.mu.Unlock()
	}
	return states
}

// Serve starts the services one after the other, each when the one before it
// is ready, and runs them until the context ends or one fails fatally. Then it
// stops them in reverse. It returns nil if the context ended and everything
// stopped in time, else the fatal error or an error that wraps ErrStuck. It may
// be called once.
func (s *Supervisor) Serve(ctx context.Context) error {
	started, err := s.start(ctx)
	if err == nil && ctx.Err() == nil {
		close(s.ready)
		select {
		case <-ctx.Done():
		case err = <-s.fatal:
		}
	}
	return errors.Join(err, s.stop(s.services[:started]))
}

// start returns how many services run.
func (s *Supervisor) start(ctx context.Context) (int, error) {
	for i, r := range s.services {
		r.start()
		if err := s.await(ctx, r); err != nil || ctx.Err() != nil {
			return i + 1, err
		}
	}
	return len(s.services), nil
}

// patience is after what time of waiting for a service the log says so.
const patience = 10 * time.Second

func (s *Supervisor) await(ctx context.Context, r *runner) error {
	slow := time.NewTicker(patience)
	defer slow.Stop()
	for {
		select {
		case <-r.ready:
			return nil
		case err := <-s.fatal:
			return err
		case <-ctx.Done():
			return nil
		case <-slow.C:
			s.options.Log.Info("still waiting for a service to become ready", "service", r.name)
		}
	}
}

func (s *Supervisor) stop(services []*runner) error {
	var stuck []string
	for i := len(services) - 1; i >= 0; i-- {
		if !services[i].stop() {
			stuck = append(stuck, services[i].name)
		}
	}
	if len(stuck) > 0 {
		return fmt.Errorf("%s: %w", strings.Join(stuck, ", "), ErrStuck)
	}
	return nil
}

// runner is one service under its own suture supervisor.
type runner struct {
	supervisor *Supervisor
	name       string
	service    Service
	log        *slog.Logger
	patience   time.Duration // with which it is stopped
	ready      chan struct{} // closed at the first readiness
	ended      chan struct{} // closed when the suture supervisor returned
	cancel     context.CancelFunc
	tree       *suture.Supervisor

	mu     sync.Mutex // guards what follows
	state  State
	failed []time.Time // within the window, oldest first
}

func (r *runner) start() {
	options := r.supervisor.options
	r.tree = suture.New(r.name, suture.Spec{
		EventHook:        r.event,
		FailureDecay:     failureDecay,
		FailureThreshold: options.Failures,
		FailureBackoff:   options.Pause,
		Timeout:          r.patience,
	})
	r.tree.Add(r)
	// The services end one after the other, so not with the caller's context.
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() {
		defer close(r.ended)
		r.tree.Serve(ctx) //nolint:errcheck // its error is that of ctx
	}()
}

// stop tells whether the service has stopped in time.
func (r *runner) stop() bool {
	r.cancel()
	<-r.ended // bounded by the suture supervisor's own timeout
	unstopped, _ := r.tree.UnstoppedServiceReport()
	if len(unstopped) > 0 {
		r.log.Error("service did not stop in time", "timeout", r.patience)
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state.State != Failed {
		r.state.State, r.state.Since = Stopped, time.Now()
	}
	return true
}

// String names the service to suture, which would otherwise print, and so read,
// the whole struct while others change it.
func (r *runner) String() string { return r.name }

// Serve is one run of the service.
func (r *runner) Serve(ctx context.Context) error {
	r.set(Starting, nil)
	err := r.serve(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		err = errors.New("ended without being asked to")
	}
	if spent := r.spend(time.Now()); spent != nil {
		err = Fatal(fmt.Errorf("%w, the last time: %w", spent, err))
	}
	if _, fatal := errors.AsType[*FatalError](err); fatal {
		r.set(Failed, err)
		r.log.Error("service failed fatally", "error", err)
		r.end(err)
		return suture.ErrDoNotRestart
	}
	return err
}

// end stops everything for an error, unless another one was first.
func (r *runner) end(err error) {
	select {
	case r.supervisor.fatal <- fmt.Errorf("%s: %w", r.name, err):
	default:
	}
}

// spend counts a failure against the budget.
func (r *runner) spend(now time.Time) error {
	options := r.supervisor.options
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, now)
	for len(r.failed) > 0 && now.Sub(r.failed[0]) > options.Window {
		r.failed = r.failed[1:]
	}
	if len(r.failed) <= options.Budget {
		return nil
	}
	return fmt.Errorf("failed %d times in %v", len(r.failed), options.Window)
}

// serve runs the service and notices when it becomes ready.
func (r *runner) serve(ctx context.Context) error {
	readier, waits := r.service.(Readier)
	if !waits {
		r.nowReady()
		return r.service.Serve(ctx)
	}
	running, ended := context.WithCancel(ctx)
	noticed := make(chan struct{})
	go func() {
		defer close(noticed)
		select {
		case <-readier.Ready():
			r.nowReady()
		case <-running.Done():
		}
	}()
	defer func() {
		ended()
		<-noticed
	}()
	return r.service.Serve(ctx)
}

func (r *runner) nowReady() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.State, r.state.Since = Running, time.Now()
	select {
	case <-r.ready:
	default:
		close(r.ready)
	}
}

func (r *runner) set(state string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.State, r.state.Since = state, time.Now()
	if err != nil {
		r.state.Err = err
	}
}

// event notes what suture does. It is called by suture's own goroutine.
func (r *runner) event(e suture.Event) {
	switch e := e.(type) {
	case suture.EventServicePanic:
		r.fell(fmt.Errorf("panic: %s", e.PanicMsg), e.Restarting)
		if spent := r.spend(time.Now()); spent != nil {
			r.end(fmt.Errorf("%w, the last time: panic: %s", spent, e.PanicMsg))
		}
		r.log.Error("service panicked", "panic", e.PanicMsg, "stack", e.Stacktrace, "restart", e.Restarting)
	case suture.EventServiceTerminate:
		err, _ := e.Err.(error)
		r.fell(err, e.Restarting)
		r.log.Warn("service failed", "error", err, "restart", e.Restarting)
	}
}

func (r *runner) fell(err error, restarting bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Restarts++
	r.state.Err = err
	if !restarting {
		r.state.State, r.state.Since = Pausing, time.Now()
	}
}
