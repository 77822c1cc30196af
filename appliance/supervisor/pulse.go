package supervisor

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Probe asks a module whether it still turns: something small that goes through the
// module's own locks or its loop. It returns when that has answered, however long it
// takes, or when the context ends.
type Probe struct {
	Name string
	Ask  func(ctx context.Context)
}

// Pulse asks all modules over and over. A module that hangs, which no restart of its
// service would cure since it does not return, is told from one that is slow by Limit.
// It is a Service, and safe for concurrent use.
type Pulse struct {
	Every time.Duration // between two questions to a module; default 5 s
	Limit time.Duration // after which one that has not answered hangs; default 20 s

	probes func() []Probe

	mu    sync.Mutex
	asked map[string]time.Time // modules that have not answered, since when
}

// NewPulse asks the modules that probes lists at that moment. It starts nothing.
func NewPulse(probes func() []Probe) *Pulse {
	return &Pulse{Every: 5 * time.Second, Limit: 20 * time.Second, probes: probes, asked: map[string]time.Time{}}
}

// Hung are the modules that hang, by name, and since when.
func (p *Pulse) Hung() map[string]time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	hung := map[string]time.Time{}
	for name, since := range p.asked {
		if time.Since(since) > p.Limit {
			hung[name] = since
		}
	}
	return hung
}

// Err is nil while every module turns.
func (p *Pulse) Err() error {
	var names []string
	for name, since := range p.Hung() {
		names = append(names, fmt.Sprintf("%s (for %s)", name, time.Since(since).Round(time.Second)))
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("does not answer: %s", strings.Join(names, ", "))
}

// Serve implements Service. When it ends it waits for the answers that still come, a
// moment: what hangs cannot be waited for.
func (p *Pulse) Serve(ctx context.Context) error {
	var asking sync.WaitGroup
	tick := time.NewTicker(p.Every)
	defer tick.Stop()
	for ctx.Err() == nil {
		for _, probe := range p.probes() {
			if p.begin(probe.Name) {
				asking.Go(func() { p.ask(ctx, probe) })
			}
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	answered := make(chan struct{})
	go func() { defer close(answered); asking.Wait() }()
	select {
	case <-answered:
	case <-time.After(time.Second):
	}
	return nil
}

// begin notes a question, unless the last one waits for its answer.
func (p *Pulse) begin(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, waits := p.asked[name]; waits {
		return false
	}
	p.asked[name] = time.Now()
	return true
}

func (p *Pulse) ask(ctx context.Context, probe Probe) {
	probe.Ask(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.asked, probe.Name)
}
