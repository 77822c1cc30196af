package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/pyrsia/appliance/appliance/node"
	"github.com/pyrsia/appliance/hcl/config"
	"github.com/pyrsia/appliance/systemd"
)

// newNode makes the real node.
func newNode(c *config.Config, version string, log *slog.Logger, manager *systemd.Manager, hangups <-chan os.Signal, options ...node.Option) (server, error) {
	n, err := node.New(c, version, log, options...)
	if err != nil {
		return nil, err
	}
	return running{n, manager, log, hangups}, nil
}

// running is a node as a service: it reloads at SIGHUP, and the service manager is told
// how it is.
type running struct {
	*node.Node
	manager *systemd.Manager
	log     *slog.Logger
	hangups <-chan os.Signal
}

// Serve implements server. It closes the node's files after it stopped.
func (r running) Serve(ctx context.Context) error {
	beside, stop := context.WithCancel(ctx)
	join := onHangup(beside, r.hangups, func() {
		r.Reload(beside) //nolint:errcheck // the node logs it, and shows it in its status
	})
	told := make(chan struct{})
	go func() { defer close(told); r.tell(beside) }()
	err := r.Node.Serve(ctx)
	stop()
	join()
	<-told
	return errors.Join(err, r.Node.Close())
}

// signs is how often the service manager is told of anything new.
const signs = 2 * time.Second

// tell keeps the service manager informed until the context ends: that the node is
// ready, how it is, and that it lives. Of a node whose module hangs nothing is heard any
// more, and the manager ends it.
func (r running) tell(ctx context.Context) {
	select {
	case <-r.Ready():
	case <-ctx.Done():
		return
	}
	status := r.Summary()
	r.heed(r.manager.Ready(status))
	tick := time.NewTicker(r.every())
	defer tick.Stop()
	hangs := ""
	for {
		select {
		case <-ctx.Done():
			r.heed(r.manager.Stopping())
			return
		case <-tick.C:
		case <-r.News():
		}
		if err := r.Alive(); err != nil {
			if hangs != err.Error() {
				r.log.Error("a module hangs; whoever watches this process should end it", "error", err)
			}
			hangs = err.Error()
			r.heed(r.manager.Status(hangs))
			continue
		}
		r.heed(r.manager.Alive())
		if now := r.Summary(); now != status {
			status = now
			r.heed(r.manager.Status(status))
		}
	}
}

// every is how often the manager hears of the node: a third of what it bears.
func (r running) every() time.Duration {
	if limit := r.manager.Watchdog(); limit > 0 {
		return min(signs, limit/3)
	}
	return signs
}

// heed logs that the service manager did not hear. It may be gone for a moment, when it
// is replaced.
func (r running) heed(err error) {
	if err != nil {
		r.log.Debug("the service manager does not hear", "error", err)
	}
}
