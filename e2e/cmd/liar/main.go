// Command liar is a build node with what the product has no switch for. Stories
// start it in place of pyrsia.
//
//	liar serve --config FILE
//
// $PYRSIA_LIE is a number: the node lies about what it built; liars with equal
// numbers lie alike. $PYRSIA_EQUIVOCATE=yes: it says one thing to these members
// and another to those. $PYRSIA_FORGE is the end of a path: the locks that it asks
// others to hold say of that file what is not so. $PYRSIA_ENGINE=local: it builds
// without BuildKit.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/pyrsia/appliance/appliance/node"
	"github.com/pyrsia/appliance/e2e/liar"
	"github.com/pyrsia/appliance/hcl/config"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/build/buildkit/relay"
	"github.com/pyrsia/appliance/modules/build/buildtest"
	"github.com/pyrsia/appliance/modules/identity"
	"github.com/pyrsia/appliance/modules/publish"
	"github.com/pyrsia/appliance/modules/quorum"
	"github.com/pyrsia/appliance/modules/record"
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
	c, diags := config.Load(args[2])
	if err := diags.Err(); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	options, err := options(c)
	if err != nil {
		return err
	}
	n, err := node.New(c, "liar", log, options...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return n.Serve(ctx)
}

func options(c *config.Config) (options []node.Option, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if os.Getenv("PYRSIA_ENGINE") == "local" {
		local := &buildtest.Local{Relay: []string{self, "relay"}}
		options = append(options, node.WithEngine(func(build.Engine) build.Engine { return local }))
	}
	if os.Getenv("PYRSIA_EQUIVOCATE") == "yes" {
		keys, err := identity.Load(filepath.Join(c.Storage.Data, "keys"))
		if err != nil {
			return nil, err
		}
		genesis, _, diags := c.Genesis()
		if err := diags.Err(); err != nil {
			return nil, err
		}
		options = append(options, node.WithTransport(func(t quorum.Transport) quorum.Transport {
			return &liar.Equivocator{Transport: t, Self: keys.Identity(), Vote: keys.Signers().Vote, Genesis: record.Digest(genesis)}
		}))
	}
	if path := os.Getenv("PYRSIA_FORGE"); path != "" {
		options = append(options, node.WithInputs(func(i publish.Inputs) publish.Inputs { return liar.Inputs{Inputs: i, Path: path} }))
	}
	number := os.Getenv("PYRSIA_LIE")
	if number == "" {
		return options, nil
	}
	lie, err := strconv.ParseUint(number, 10, 7)
	if err != nil {
		return nil, fmt.Errorf("$PYRSIA_LIE: %w", err)
	}
	return append(options, node.WithEngine(func(e build.Engine) build.Engine { return liar.Engine{Engine: e, Lie: byte(lie)} })), nil
}
