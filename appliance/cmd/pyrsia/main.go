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
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if filepath.Base(os.Args[0]) == generatorName {
		os.Exit(generator(os.Args[1:], os.Stderr))
	}
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// verbs are all verbs in the order of the help.
func verbs(a *app) []*cobra.Command {
	return []*cobra.Command{
		serveCommand(a),
		reloadCommand(a),
		statusCommand(a),
		doctorCommand(a),
		peersCommand(a),
		idCommand(a),
		networkCommand(a),
		buildCommand(a),
		recipeCommand(a),
		logCommand(a),
		chainCommand(a),
		nodeCommand(a),
		sourcesCommand(a),
		verifyCommand(a),
		configCommand(a),
		roleCommand(a),
		peerCommand(a),
		mirrorCommand(a),
		versionCommand(a),
		relayCommand(a),
		followRoleCommand(a),
		manCommand(a),
		catalogueCommand(a),
	}
}
