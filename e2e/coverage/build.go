package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/e2e/cluster"
	"github.com/pyrsia/appliance/modules/artifact"
)

// longest is how long one package may take.
const longest = 90 * time.Minute

func (c *coverage) run(ctx context.Context) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("buildkitd needs root; run as root: sudo make coverage")
	}
	for _, needed := range []string{faketime, filepath.Join(c.bin, "vary")} {
		if _, err := os.Stat(needed); err != nil {
			return fmt.Errorf("%w; run: make coverage", err)
		}
	}
	if c.cluster, err = cluster.New(ctx, c.spec); err != nil {
		return err
	}
	if err := c.cluster.Start(ctx); err != nil {
		return err
	}
	return c.packages(ctx)
}

// image has a builder image built and published, unless it is.
func (c *coverage) image(ctx context.Context, purl artifact.PURL) error {
	began := time.Now()
	b, err := c.publish(ctx, purl)
	if err == nil && b.State != control.Published {
		err = fmt.Errorf("%s: %s", b.State, b.Reason)
	}
	if err != nil {
		return fmt.Errorf("builder image %s: %w", purl, err)
	}
	if took := time.Since(began); took > time.Second { // it was not there before
		say("%s published, after %s", purl, took.Round(time.Second))
	}
	return nil
}

// publish asks for a build, and returns how it ended, every vote in.
func (c *coverage) publish(ctx context.Context, purl artifact.PURL) (control.BuildDetail, error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	asker := c.cluster.Node(0)
	client := asker.Client()
	defer client.Close()
	if known, err := client.Build(ctx, string(purl)); err == nil && known.State == control.Published {
		if live, err := client.Recipe(ctx, string(purl)); err == nil && live.Hash == known.Recipe {
			return known, nil
		}
	}
	var id string
	err := cluster.Until(ctx, func() (ok bool, err error) {
		id, err = client.RequestBuild(ctx, purl)
		if errors.Is(err, control.ErrNotFound) || errors.Is(err, control.ErrUnavailable) {
			return false, nil // the recipe is not read or not endorsed yet
		}
		return err == nil, err
	})
	if err != nil {
		return control.BuildDetail{}, err
	}
	err = client.WatchBuild(ctx, id, func(control.Build) error { return nil })
	if err != nil {
		return control.BuildDetail{}, err
	}
	return client.Build(ctx, id)
}

// give puts a recipe file into every build node's folder.
func (c *coverage) give(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for _, n := range c.cluster.Builders() {
		if err := os.WriteFile(filepath.Join(filepath.Dir(n.Config()), "recipes.d", filepath.Base(file)), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func say(format string, args ...any) {
	fmt.Printf("%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}
