// Command liar is a build node that lies: it is `pyrsia serve` with an engine of
// e2e/liar around the real one. Stories start it in place of pyrsia.
//
//	liar serve --config FILE
//
// $PYRSIA_LIE is a number. Liars with equal numbers lie alike.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/pyrsia/appliance/appliance/node"
	"github.com/pyrsia/appliance/e2e/liar"
	"github.com/pyrsia/appliance/hcl/config"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/build/buildkit/relay"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "relay" {
		os.Exit(relay.Run(os.Args[2:], os.Stderr))
	}
	if err := serve(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "liar:", err)
		os.Exit(1)
	}
}

func serve(args []string) (err error) {
	if len(args) != 3 || args[0] != "serve" || args[1] != "--config" {
		return errors.New("want: liar serve --config FILE")
	}
	lie, err := strconv.ParseUint(os.Getenv("PYRSIA_LIE"), 10, 7)
	if err != nil {
		return fmt.Errorf("$PYRSIA_LIE: %w", err)
	}
	c, diags := config.Load(args[2])
	if err := diags.Err(); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	n, err := node.New(c, "liar", log, node.WithEngine(func(e build.Engine) build.Engine { return liar.Engine{Engine: e, Lie: byte(lie)} }))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return n.Serve(ctx)
}
