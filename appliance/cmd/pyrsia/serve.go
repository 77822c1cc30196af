package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/pyrsia/appliance/hcl/config"
	"github.com/spf13/cobra"
)

// server is a node that was made and not yet started.
type server interface {
	Serve(ctx context.Context) error
}

func serveCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the node that the configuration describes",
		Long: `Run the node that the configuration describes, until SIGTERM or SIGINT. It
writes what it does to standard error. A configuration with an error starts
nothing.`,
		Example: "  pyrsia serve\n  pyrsia serve --config ./pyrsia.hcl",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Who asks for the status is seldom in this folder.
			path, err := filepath.Abs(a.config)
			if err != nil {
				return fmt.Errorf("configuration %s: %w", a.config, err)
			}
			a.config = path
			c, err := a.load()
			if err != nil {
				return err
			}
			log := newLog(a.err, c.Log)
			slog.SetDefault(log)
			node, err := newNode(c, version(), log)
			if err != nil {
				return err
			}
			return node.Serve(cmd.Context())
		},
	}
}

// newLog writes messages as the log block says.
func newLog(w io.Writer, c config.Log) *slog.Logger {
	level := slog.LevelInfo
	// The table of settings admits only slog's own names.
	level.UnmarshalText([]byte(c.Level)) //nolint:errcheck // see above
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
