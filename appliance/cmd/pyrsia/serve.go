package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/pyrsia/appliance/appliance/journal"
	"github.com/pyrsia/appliance/appliance/node"
	"github.com/pyrsia/appliance/hcl/config"
	"github.com/pyrsia/appliance/systemd"
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
		Long: `Run the node that the configuration describes, until SIGTERM or SIGINT. SIGHUP, or
better ` + "`pyrsia reload`" + `, which tells how it went, puts a changed configuration in
force. The node writes what it does to standard error.

A configuration with an error does not stop a node that ran before: it starts with
the last one that it ran with, and says so loudly. One that never ran does not
start.`,
		Example: "  pyrsia serve\n  pyrsia serve --config ./pyrsia.hcl",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			// From here on: one that comes too early or too late must not end the process.
			hangups := make(chan os.Signal, 1)
			signal.Notify(hangups, syscall.SIGHUP)
			// Who asks for the status is seldom in this folder.
			path, err := filepath.Abs(a.config)
			if err != nil {
				return fmt.Errorf("configuration %s: %w", a.config, err)
			}
			a.config = path
			c, options, err := a.startable()
			if err != nil {
				return err
			}
			manager, err := systemd.FromEnvironment()
			if err != nil {
				return err
			}
			sealed, err := systemd.Credential(systemd.KeysCredential)
			if err != nil {
				return err
			}
			entries := journald()
			if entries != nil {
				defer entries.to.Close()
			}
			written := newJournal(a.err, c.Log, entries)
			slog.SetDefault(written.Logger())
			server, err := newNode(c, version(), written.Logger(), manager, hangups, append(options, node.WithJournal(written), node.WithListeners(manager), node.WithSealedKeys(sealed))...)
			if err != nil {
				return err
			}
			return server.Serve(cmd.Context())
		},
	}
}

// startable is the configuration to start with: that of the file, or if that is
// broken the last one that the node ran with.
func (a *app) startable() (*config.Config, []node.Option, error) {
	c, broken := a.load()
	if broken == nil {
		_, _, diagnostics := c.Genesis()
		if broken = diagnostics.Err(); broken == nil {
			return c, nil, nil
		}
	}
	if _, err := config.ReadFile(a.config); err != nil {
		return nil, nil, broken // which node it is of, nobody knows
	}
	data, _ := config.Peek(a.config)
	entry, source, err := node.History(data, a.config).Last()
	if err != nil {
		return nil, nil, broken
	}
	c, diagnostics := config.Parse(source, entry.Path)
	if diagnostics.Err() != nil || c.Storage.Data != data {
		return nil, nil, broken
	}
	fmt.Fprintf(a.err, "%s %s; the node starts with configuration %d of %s instead: correct the file, then `pyrsia reload`\n",
		a.style(a.err).red("pyrsia:"), sentence(broken), entry.Number, date(entry.Time))
	return c, []node.Option{node.RunsInstead(node.Instead{File: a.config, Reason: sentence(broken)})}, nil
}

// written is the journal as the node changes it.
type written struct{ *journal.Journal }

// newJournal writes messages as the log block says.
func newJournal(w io.Writer, c config.Log, to *entries) written {
	if to == nil { // and not an interface that holds it
		return written{journal.New(w, logSettings(c), nil)}
	}
	return written{journal.New(w, logSettings(c), to)}
}

// entries are the journal's, as the system's journal takes them.
type entries struct{ to *systemd.Journald }

// journald is the system's journal, nil where standard error does not go there.
func journald() *entries {
	if to := systemd.JournaldFromEnvironment(); to != nil {
		return &entries{to}
	}
	return nil
}

// Send implements journal.Entries. What is lost, the next that is not tells.
func (e *entries) Send(fields []journal.Field) {
	sent := make([]systemd.Field, len(fields))
	for i, f := range fields {
		sent[i] = systemd.Field(f)
	}
	_ = e.to.Send(sent...)
}

// Set implements node.Journal.
func (w written) Set(c config.Log) { w.Journal.Set(logSettings(c)) }

func logSettings(c config.Log) journal.Settings {
	settings := journal.Settings{Format: journal.Format(c.Format)}
	// The table of settings admits only slog's own names.
	settings.Level.UnmarshalText([]byte(c.Level)) //nolint:errcheck // see above
	return settings
}

// onHangup calls f at each hangup until the context ends. It returns a function that
// waits for the last call.
func onHangup(ctx context.Context, hangups <-chan os.Signal, f func()) (join func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
				f()
			}
		}
	}()
	return func() { <-done }
}
