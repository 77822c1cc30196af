package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/e2e/cluster"
	"github.com/pyrsia/appliance/modules/artifact"
)

// The longest that a build may take here, and for how long a published one may
// wait for the last vote.
const (
	buildTimeout = 45 * time.Minute
	voteTimeout  = 15 * time.Minute
)

// published is a package that was seen published.
type published struct {
	build control.BuildDetail // as the asker has it, every vote in
}

// file is an output by its name.
func (p *published) file(name string) (control.Output, error) {
	for _, o := range p.build.Outputs {
		if o.Name.File == name {
			return o, nil
		}
	}
	return control.Output{}, fmt.Errorf("%s has no output %s", p.build.Package, name)
}

func (d *demo) buildImage(ctx context.Context) (err error) {
	d.image, err = d.build(ctx, imagePackage)
	return err
}

func (d *demo) buildLibrary(ctx context.Context) (err error) {
	d.library, err = d.build(ctx, libraryPackage)
	return err
}

// build has a package built and published, unless it is, and waits until every
// build node voted and the regular node knows it.
func (d *demo) build(ctx context.Context, purl artifact.PURL) (*published, error) {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	asker := d.cluster.Node(0)
	client := asker.Client()
	defer client.Close()
	known, err := client.Build(ctx, string(purl))
	if err != nil && !errors.Is(err, control.ErrNotFound) {
		return nil, err
	}
	if err != nil || known.State != control.Published {
		if err := d.request(ctx, client, purl); err != nil {
			return nil, err
		}
	} else {
		d.out.say("published by an earlier run, in block %d", known.Height)
	}
	p, err := d.allVotes(ctx, asker, purl)
	if err != nil {
		return nil, err
	}
	d.out.say("published in block %d, %s", p.build.Height, votes(p.build.Build))
	here, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := d.cluster.Regular(0).WaitPublished(here, purl); err != nil {
		return nil, err
	}
	return p, nil
}

// request asks for a build and shows how it goes until it ended.
func (d *demo) request(ctx context.Context, client *control.Client, purl artifact.PURL) error {
	var id string
	err := cluster.Until(ctx, func() (ok bool, err error) {
		id, err = client.RequestBuild(ctx, purl)
		if errors.Is(err, control.ErrNotFound) || errors.Is(err, control.ErrUnavailable) {
			d.out.progress(err.Error())
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	d.out.say("%s asked for the build, request %s", d.cluster.Node(0).Name, id)
	others, stop := context.WithCancel(ctx)
	doing := new(doing)
	var watchers sync.WaitGroup
	for _, n := range d.cluster.Builders() {
		watchers.Go(func() { doing.watch(others, n, purl, func() { d.out.progress(doing.String()) }) })
	}
	defer watchers.Wait()
	defer stop()
	var last control.Build
	err = client.WatchBuild(ctx, id, func(b control.Build) error {
		if b.State != last.State {
			d.out.say("%s", b.State)
		}
		if said := votes(b); said != "" && said != votes(last) {
			d.out.say("%s", said)
		}
		last = b
		return nil
	})
	if err != nil {
		return err
	}
	if last.State != control.Published {
		return fmt.Errorf("%s is not published: %s: %s; `%s --socket %s build status %s` tells each node's part",
			purl, last.State, last.Reason, d.spec.Pyrsia, d.cluster.Node(0).Socket(), id)
	}
	return nil
}

// allVotes waits until every build node voted.
func (d *demo) allVotes(ctx context.Context, asker *cluster.Node, purl artifact.PURL) (*published, error) {
	ctx, cancel := context.WithTimeout(ctx, voteTimeout)
	defer cancel()
	build, err := asker.WaitBuild(ctx, purl, func(b control.BuildDetail) bool {
		d.out.progress("published, waiting for the last vote: " + votes(b.Build))
		return b.State == control.Published && allEqual(b.Members)
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, votes(build.Build))
	}
	return &published{build}, nil
}

func allEqual(votes []control.Vote) bool {
	for _, v := range votes {
		if v.Vote != control.VoteEqual {
			return false
		}
	}
	return len(votes) > 0
}

// votes is who did what for a build.
func votes(b control.Build) string {
	var all []string
	for _, v := range b.Members {
		if v.Vote == control.VoteNone {
			continue
		}
		text := v.Label + " " + v.Vote
		if v.Reason != "" {
			text += " (" + v.Reason + ")"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// doing is the last line that each node wrote about a build.
type doing struct {
	mu    sync.Mutex
	order []string
	steps map[string]string
}

func (d *doing) set(node, step string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.steps == nil {
		d.steps = map[string]string{}
	}
	if _, known := d.steps[node]; !known {
		d.order = append(d.order, node)
	}
	d.steps[node] = step
}

func (d *doing) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	for _, node := range d.order {
		if d.steps[node] != "" {
			all = append(all, node+": "+cut(d.steps[node], 44))
		}
	}
	return strings.Join(all, " | ")
}

// watch follows what a node's own build writes. A node that did not ask learns
// of the build only from the chain, so it is asked again until ctx is over.
func (d *doing) watch(ctx context.Context, n *cluster.Node, purl artifact.PURL, tell func()) {
	client := n.Client()
	defer client.Close()
	cluster.Until(ctx, func() (bool, error) {
		client.BuildLogs(ctx, string(purl), true, &lines{tell: func(line string) {
			d.set(n.Name, line)
			tell()
		}})
		return false, nil
	})
}
