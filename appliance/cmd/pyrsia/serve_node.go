package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/pyrsia/appliance/appliance/node"
	"github.com/pyrsia/appliance/hcl/config"
)

// newNode makes the real node.
func newNode(c *config.Config, version string, log *slog.Logger, options ...node.Option) (server, error) {
	n, err := node.New(c, version, log, options...)
	if err != nil {
		return nil, err
	}
	return running{n}, nil
}

// running closes the node's files after it stopped, and reloads at SIGHUP.
type running struct{ *node.Node }

// Serve implements server.
func (r running) Serve(ctx context.Context) error {
	reloads, stop := context.WithCancel(ctx)
	join := onHangup(reloads, func() {
		r.Reload(reloads) //nolint:errcheck // the node logs it, and shows it in its status
	})
	err := r.Node.Serve(ctx)
	stop()
	join()
	return errors.Join(err, r.Node.Close())
}
