// Command pyrsia is the one program of a Pyrsia node and of who operates it:
// `pyrsia serve` is the node, every other verb asks a running node over its
// control socket, or works on files alone.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pyrsia/appliance/modules/build/buildkit/cage"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	switch filepath.Base(os.Args[0]) {
	case generatorName:
		os.Exit(generator(os.Args[1:], os.Stderr))
	case cage.Program:
		os.Exit(cage.Run(os.Args[1:], os.Stderr))
	}
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// section is a part of the help.
type section struct {
	title string // "" for verbs that are in no help, and those of no part
	verbs []*cobra.Command
}

// verbs are all verbs in the order of the help.
func verbs(a *app) []section {
	return []section{
		{"The node:", []*cobra.Command{serveCommand(a), statusCommand(a), doctorCommand(a), peersCommand(a), idCommand(a), nodeCommand(a)}},
		{"Its configuration:", []*cobra.Command{configCommand(a), reloadCommand(a), roleCommand(a), peerCommand(a), mirrorCommand(a)}},
		{"Builds:", []*cobra.Command{recipeCommand(a), buildCommand(a)}},
		{"What was published:", []*cobra.Command{logCommand(a), verifyCommand(a), sourcesCommand(a), chainCommand(a)}},
		{"A new network:", []*cobra.Command{networkCommand(a)}},
		{"", []*cobra.Command{versionCommand(a), relayCommand(a), followRoleCommand(a), manCommand(a), catalogueCommand(a)}},
	}
}
