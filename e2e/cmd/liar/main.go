// Command liar is a build node that lies: it is `pyrsia serve` with the real
// engine, and alters one byte of the first output of each build before it
// votes. Stories start it in place of pyrsia; the product has no such switch.
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
	n, err := node.New(c, "liar", log, node.WithEngine(func(e build.Engine) build.Engine { return liar{e, byte(lie)} }))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return n.Serve(ctx)
}

// liar is an engine that tells something else than it built.
type liar struct {
	build.Engine
	lie byte
}

// Build implements build.Engine.
func (l liar) Build(ctx context.Context, job build.Job) ([]build.File, error) {
	files, err := l.Engine.Build(ctx, job)
	if err != nil || len(files) == 0 || job.Recipe.Builder == "" {
		return files, err // the builder image is built honestly, so that there is something to build with
	}
	return files, alter(files[0].Path, l.lie)
}

// alter changes the file's last byte.
func alter(path string, lie byte) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	last := make([]byte, 1)
	if _, err := file.ReadAt(last, info.Size()-1); err != nil {
		return err
	}
	last[0] ^= 0x80 | lie
	if _, err := file.WriteAt(last, info.Size()-1); err != nil {
		return err
	}
	return file.Sync()
}
