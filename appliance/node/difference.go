package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build/difference"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/publish"
	"github.com/pyrsia/appliance/modules/record"
)

// Differences implements control.Builder.
func (n *Node) Differences(ctx context.Context, ref string) ([]control.Difference, error) {
	builder := n.builder.Load()
	if builder == nil {
		return nil, control.WithHint(fmt.Errorf("%w: this is a regular node; it builds nothing that could be compared", control.ErrRefused), "ask on one of the build nodes")
	}
	b, err := n.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	a, err := n.attemptOf(b)
	if err != nil {
		return nil, err
	}
	if a == nil {
		return nil, fmt.Errorf("%w: build %s has no results yet", control.ErrRefused, b.ID)
	}
	if kept, err := builder.member.Differences(a.ID); err == nil && kept != nil {
		var found []control.Difference
		if json.Unmarshal(kept, &found) == nil && !slices.ContainsFunc(found, unreported) {
			return found, nil
		}
	}
	found, err := n.compareAttempt(ctx, builder, a)
	if err == nil && len(found) == 0 && len(a.Votes) == 0 {
		return nil, control.WithHint(fmt.Errorf("%w: no member has shown a result of build %s, so that there is nothing to compare", control.ErrRefused, b.ID), "`pyrsia build status` says how far it came")
	}
	return found, err
}

// unreported tells whether a comparison could not be made, and may be by now.
func unreported(d control.Difference) bool { return d.Report == nil }

// compareAttempt makes reports, for one caller at a time: each may take some gigabytes of
// the scratch folder.
func (n *Node) compareAttempt(ctx context.Context, builder *builder, a *ledger.Attempt) ([]control.Difference, error) {
	select {
	case n.comparing <- struct{}{}:
		defer func() { <-n.comparing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := publish.Comparing(ctx)
	defer cancel()
	c := comparing{node: n, builder: builder, attempt: a, found: []control.Difference{}}
	if err := c.members(ctx); err != nil {
		return nil, err
	}
	return c.found, errors.Join(c.upstream(ctx), ctx.Err())
}

// differ makes the reports of an attempt for publish.
func (b *builder) differ(ctx context.Context, a *ledger.Attempt) ([]byte, error) {
	found, err := b.node.compareAttempt(ctx, b, a)
	if err != nil {
		return nil, err
	}
	return json.Marshal(found)
}

// comparing is one call of Differences.
type comparing struct {
	node    *Node
	builder *builder
	attempt *ledger.Attempt
	found   []control.Difference
}

// members compares this node's outputs with every other one that a member voted for.
func (c *comparing) members(ctx context.Context) error {
	outputs, err := c.node.outputs(c.attempt)
	if err != nil {
		return err
	}
	for _, o := range outputs {
		own, ok := c.own(o)
		seen := map[artifact.Descriptor]bool{own: true}
		for _, v := range o.Members {
			if seen[v.File] {
				continue
			}
			seen[v.File] = true
			d := control.Difference{Output: o.Name, Against: v.Label, File: v.File}
			if d.Against == "" {
				d.Against = string(v.Identity)
			}
			if !ok {
				d.Reason = "this node has no such output of its own"
			} else if err := (blobs{c.node.host, c.node.store}).Fetch(ctx, v.File); err != nil {
				d.Reason = fmt.Sprintf("%s's file could not be had: %v", d.Against, err)
			} else {
				c.compare(ctx, &d, own)
			}
			c.found = append(c.found, d)
		}
	}
	return nil
}

// own is this node's own output; ok is false where it has none.
func (c *comparing) own(o control.Output) (artifact.Descriptor, bool) {
	for _, v := range o.Members {
		if v.Identity == c.node.identity {
			return v.File, c.node.store.Has(v.File.SHA256)
		}
	}
	return artifact.Descriptor{}, false
}

// upstream compares what came out otherwise than upstream released it.
func (c *comparing) upstream(ctx context.Context) error {
	references, err := c.builder.member.References(c.attempt.ID)
	if err != nil {
		return err
	}
	for _, r := range references {
		if r.Verdict != publish.ReferenceDifferent {
			continue
		}
		own, err := c.node.store.Stat(r.Built)
		d := control.Difference{Output: r.Name, Against: "upstream"}
		if err == nil {
			d.File, err = c.builder.inputs.Reference(ctx, r.Name)
		}
		if err != nil {
			d.Reason = fmt.Sprintf("upstream's file could not be had: %v", err)
		} else {
			c.compare(ctx, &d, own)
		}
		c.found = append(c.found, d)
	}
	return nil
}

// compare makes the report and keeps it in the store. What cannot be compared says why.
func (c *comparing) compare(ctx context.Context, d *control.Difference, own artifact.Descriptor) {
	report, err := c.report(ctx, d, own)
	if err != nil {
		d.Reason = fmt.Sprintf("not compared: %v", err)
		return
	}
	d.Report = report
	data, err := report.Encode()
	if err == nil {
		var kept artifact.Descriptor
		kept, err = c.node.store.Put(ctx, bytes.NewReader(data))
		d.Kept = kept.SHA256
	}
	if err != nil {
		c.node.log.Warn("cannot keep a report of differences", "output", d.Output.File, "error", err)
	}
}

func (c *comparing) report(ctx context.Context, d *control.Difference, own artifact.Descriptor) (*difference.Report, error) {
	left, err := c.node.store.Open(own.SHA256)
	if err != nil {
		return nil, err
	}
	defer left.Close()
	right, err := c.node.store.Open(d.File.SHA256)
	if err != nil {
		return nil, err
	}
	defer right.Close()
	side := func(name string, f *os.File, of artifact.Descriptor) difference.Side {
		return difference.Side{Name: name, Content: f, Size: of.Size}
	}
	return difference.Compare(ctx, d.Output.File, side("this node", left, own), side(d.Against, right, d.File), difference.Limits{Scratch: c.node.scratch})
}

// Inputs implements control.Builder.
func (n *Node) Inputs(ctx context.Context, ref string) ([]control.Input, error) {
	detail, err := n.Build(ctx, ref)
	if err != nil {
		return nil, err
	}
	if detail.Lock == (artifact.Descriptor{}) {
		return nil, fmt.Errorf("%w: build %s has no lock yet", control.ErrNotFound, detail.ID)
	}
	lock, err := n.lock(ctx, detail.Lock)
	if err != nil {
		return nil, err
	}
	return n.Explain(ctx, lock)
}

// lock gets a lock, from another node where this one does not have it.
func (n *Node) lock(ctx context.Context, d artifact.Descriptor) (*record.Lock, error) {
	if err := (blobs{n.host, n.store}).Fetch(ctx, d); err != nil {
		return nil, fmt.Errorf("the lock could not be had: %w", err)
	}
	data, err := readSmall(n.store, d)
	if err != nil {
		return nil, err
	}
	return record.DecodeLock(data)
}

// maxLock bounds a lock that is read here, bytes.
const maxLock = 64 << 20

func readSmall(s interface {
	Open(artifact.SHA256) (*os.File, error)
}, d artifact.Descriptor) ([]byte, error) {
	if d.Size > maxLock {
		return nil, fmt.Errorf("the lock has %d bytes", d.Size)
	}
	file, err := s.Open(d.SHA256)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data := make([]byte, d.Size)
	_, err = file.ReadAt(data, 0)
	return data, err
}
