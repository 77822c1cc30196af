package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/appliance/node"
	"github.com/pyrsia/appliance/hcl/config"
	"github.com/spf13/cobra"
)

func chainCommand(a *app) *cobra.Command {
	return group("chain", "The node's files of the log", "  pyrsia chain check", chainCheckCommand(a))
}

func chainCheckCommand(a *app) *cobra.Command {
	var files bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Verify everything that the node keeps of the log",
		Long: `Verify everything that the node keeps of the log and of its own votes, as if it
came from a stranger: every block by its quorum, every leaf by its signatures and
rules, the state that they add up to, the keys and the vote file.

A running node checks itself and goes on meanwhile. The files of one that does not
run are checked directly.`,
		Example: `  pyrsia chain check
  pyrsia chain check --files --config pyrsia.hcl   a node that does not run`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			remind := a.remind("checking the log")
			began := time.Now()
			report, err := a.checkChain(cmd.Context(), files, func(p control.Progress) error {
				remind.print("checking the log: block "+progressed(p.Done, p.All, time.Since(began)), func() {})
				return nil
			})
			remind.stop()
			if err != nil {
				return err
			}
			return a.show(report, func(w io.Writer, s style) { writeCheckReport(w, s, report) })
		},
	}
	cmd.Flags().BoolVar(&files, "files", false, "check the files that the configuration names; the node must not run")
	return cmd
}

// checkChain asks the running node, or looks at the files where none runs.
func (a *app) checkChain(ctx context.Context, files bool, progress func(control.Progress) error) (control.CheckReport, error) {
	if !files {
		client := a.client()
		defer client.Close()
		report, err := client.Check(ctx, progress)
		if err == nil && a.socket == "" {
			err = a.pinned(report)
		}
		if !errors.Is(err, control.ErrUnreachable) || a.socket != "" {
			return report, err
		}
	}
	c, diags := config.Load(a.config)
	if err := diags.Err(); err != nil {
		return control.CheckReport{}, err
	}
	return node.CheckFiles(ctx, c, progress)
}

// pinned holds what a node said to the configuration by which it was found.
func (a *app) pinned(report control.CheckReport) error {
	c, diagnostics := config.Load(a.config)
	if diagnostics.Err() != nil || c.Network.Genesis == report.Genesis {
		return nil // the node runs without that file
	}
	return fmt.Errorf("%s: the log is sound, but its genesis is sha256:%s and pinned is sha256:%s; start the node with this configuration", a.config, report.Genesis, c.Network.Genesis)
}

func writeCheckReport(w io.Writer, s style, r control.CheckReport) {
	fields(w, s,
		"log", s.green("sound"),
		"network", r.Network,
		"genesis", "sha256:"+r.Genesis.String(),
		"height", fmt.Sprintf("%d, %s", r.Height, plural(int(r.Size), "leaf")),
		"root", r.Root,
		"members", fmt.Sprint(r.Members),
		"signed last", strings.TrimSpace(r.Voted),
	)
}
