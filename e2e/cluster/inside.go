package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/pyrsia/appliance/appliance/node"
	"github.com/pyrsia/appliance/hcl/config"
)

// inside is a node in this process: what the program makes of its pyrsia.hcl,
// without the program. It implements body.
type inside struct {
	node *Node

	cancel context.CancelFunc
	ended  chan struct{} // closed when the node has ended; nil while none was started
	err    error         // why it ended; set before ended is closed
}

// Log implements body.
func (i *inside) Log() string { return i.node.file("node.log") }

// Start implements body.
func (i *inside) Start() error {
	if i.Running() {
		return fmt.Errorf("%s runs already", i.node.Name)
	}
	c, diagnostics := config.Load(i.node.Config())
	if err := diagnostics.Err(); err != nil {
		return err
	}
	file, err := os.OpenFile(i.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	level := slog.LevelInfo
	level.UnmarshalText([]byte(c.Log.Level)) //nolint:errcheck // the configuration admits only slog's own names
	log := slog.New(slog.NewTextHandler(file, &slog.HandlerOptions{Level: level}))
	made, err := node.New(c, "inside", log, node.WithEngine(i.node.Engine), node.WithInputs(i.node.Inputs))
	if err != nil {
		return errors.Join(fmt.Errorf("%s cannot start: %w", i.node.Name, err), file.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	i.cancel, i.ended, i.err = cancel, make(chan struct{}), nil
	go func() {
		err := errors.Join(made.Serve(ctx), made.Close())
		log.Info("the node ended", "error", err)
		i.err = errors.Join(err, file.Close())
		close(i.ended)
	}()
	return nil
}

// Running implements body.
func (i *inside) Running() bool {
	if i.ended == nil {
		return false
	}
	select {
	case <-i.ended:
		return false
	default:
		return true
	}
}

// Stop implements body: what went wrong while the node stopped and closed is an
// error.
func (i *inside) Stop(grace time.Duration) error {
	if !i.Running() {
		return nil
	}
	i.cancel()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-i.ended:
		return i.err
	case <-timer.C:
		return fmt.Errorf("%s did not end within %s, and a part of this process cannot be killed; see %s", i.node.Name, grace, i.Log())
	}
}

// Kill implements body.
func (i *inside) Kill() error {
	return fmt.Errorf("%s is a part of this process and cannot be killed; tell stories of crashes with nodes that are processes", i.node.Name)
}

// failed implements body.
func (i *inside) failed() error {
	if i.Running() {
		return nil
	}
	return fmt.Errorf("%s ended: %w (%s)", i.node.Name, i.err, i.Log())
}

// outdated implements body: this process runs what it was built from.
func (i *inside) outdated() bool { return false }
