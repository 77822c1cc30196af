package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/pyrsia/appliance/appliance/node"
	"github.com/pyrsia/appliance/hcl/config"
)

// newNode makes the real node.
func newNode(c *config.Config, version string, log *slog.Logger) (server, error) {
	n, err := node.New(c, version, log)
	if err != nil {
		return nil, err
	}
	return closing{n}, nil
}

// closing closes the node's files after it stopped.
type closing struct{ *node.Node }

// Serve implements server.
func (c closing) Serve(ctx context.Context) error {
	return errors.Join(c.Node.Serve(ctx), c.Node.Close())
}
