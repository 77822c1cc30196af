package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/e2e/cluster"
	"github.com/pyrsia/appliance/hcl/recipe"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// imported is what `pyrsia recipe import --json` says of a buildspec.
type imported struct {
	File    string        `json:"file"`
	State   string        `json:"state"`
	Package artifact.PURL `json:"package"`
	Recipe  string        `json:"recipe"`
	Outputs int           `json:"outputs"`
	Reason  string        `json:"reason"`
}

// packages imports all buildspecs and has each package built.
func (c *coverage) packages(ctx context.Context) error {
	all, err := c.importAll(ctx)
	if err != nil {
		return err
	}
	todo := slices.DeleteFunc(all, func(i imported) bool { return !c.wanted(i) })
	say("%d of %d buildspecs are to be done", len(todo), len(all))
	slots := make(chan struct{}, max(c.parallel, 1))
	var running sync.WaitGroup
	defer running.Wait()
	for n, i := range todo {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		running.Go(func() {
			defer func() { <-slots }()
			r := c.one(ctx, i)
			if ctx.Err() != nil {
				return
			}
			say("%d of %d  %s  %s%s", n+1, len(todo), r.Package, r.Outcome, because(r.Reason))
			if err := c.results.add(r); err != nil {
				say("cannot keep the result: %v", err)
			}
		})
	}
	running.Wait()
	return errors.Join(ctx.Err(), c.report())
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// wanted leaves out what was not asked for or has a result.
func (c *coverage) wanted(i imported) bool {
	if c.only != "" && !strings.Contains(i.File+" "+string(i.Package), c.only) {
		return false
	}
	return c.again || !c.results.has(c.name(i))
}

// name is what a result is kept under: the buildspec's file name.
func (c *coverage) name(i imported) string {
	return strings.TrimSuffix(filepath.Base(i.File), ".buildspec")
}

// importAll runs the import as an operator does, over the whole folder.
func (c *coverage) importAll(ctx context.Context) ([]imported, error) {
	command := exec.CommandContext(ctx, c.spec.Pyrsia, "recipe", "import", c.specs, "--output", filepath.Join(c.folder, "recipes"),
		"--repository", c.spec.Upstreams.Maven, "--archive", "--force", "--json")
	command.Stderr = os.Stderr
	out, err := command.Output()
	var all []imported
	if jsonErr := json.Unmarshal(out, &all); jsonErr != nil {
		return nil, errors.Join(err, fmt.Errorf("`pyrsia recipe import --json` printed no list: %w", jsonErr))
	}
	return all, nil
}

// one brings one package from its buildspec to its result.
func (c *coverage) one(ctx context.Context, i imported) result {
	r := result{Name: c.name(i), Package: i.Package, Date: time.Now().UTC().Format(time.DateOnly)}
	if i.State != "imported" {
		r.Outcome, r.Reason = notImported, i.Reason
		return r
	}
	made, err := recipe.Load(i.Recipe)
	if err != nil {
		r.Outcome, r.Reason = notImported, err.Error()
		return r
	}
	r.describe(made)
	if err := c.image(ctx, made.Builder); err != nil {
		r.Outcome, r.Reason = failed, err.Error()
		return r
	}
	if err := c.propose(ctx, i.Recipe, made); err != nil {
		r.Outcome, r.Reason = failed, err.Error()
		return r
	}
	began := time.Now()
	build, err := c.publish(ctx, i.Package)
	r.Seconds = int64(time.Since(began).Seconds())
	if err != nil {
		r.Outcome, r.Reason = failed, err.Error()
		return r
	}
	build, err = c.compared(ctx, build)
	r.judge(build, err)
	c.explain(ctx, &r, build.ID)
	if r.Outcome == differs || r.Outcome == disagreed {
		r.Causes = c.causes(ctx, build)
	}
	return r
}

// propose puts a recipe into the build nodes' folders, and returns when it is the live
// one of its package.
func (c *coverage) propose(ctx context.Context, file string, made *record.Recipe) error {
	if err := errors.Join(c.supersede(ctx, file, made), c.give(file)); err != nil {
		return err
	}
	proposed, err := recipe.Load(file)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	client := c.cluster.Node(0).Client()
	defer client.Close()
	err = cluster.Until(ctx, func() (bool, error) {
		live, err := client.Recipe(ctx, string(made.Package))
		return err == nil && live.State == "live" && live.Hash == proposed.Hash(), nil
	})
	if err != nil {
		return fmt.Errorf("the recipe is not endorsed: %w", err)
	}
	return nil
}

// supersede has a recipe replace the one that an earlier run, of an earlier version of
// the import perhaps, left on the chain.
func (c *coverage) supersede(ctx context.Context, file string, made *record.Recipe) error {
	client := c.cluster.Node(0).Client()
	defer client.Close()
	live, err := client.Recipe(ctx, string(made.Package))
	if errors.Is(err, control.ErrNotFound) || err == nil && live.State != "live" {
		return nil
	}
	if err != nil {
		return err
	}
	same := *made
	same.Supersedes = live.Content.Supersedes
	if same.Hash() != live.Hash {
		same.Supersedes = live.Hash.String()
	}
	return os.WriteFile(file, recipe.Write(&same), 0o644)
}

// maxCauses bounds what the table says of one package.
const maxCauses = 8

// causes are what the asker finds when it compares what differs.
func (c *coverage) causes(ctx context.Context, b control.BuildDetail) []string {
	client := c.cluster.Node(0).Client()
	defer client.Close()
	differences, err := client.Differences(ctx, b.ID)
	if err != nil {
		return []string{err.Error()}
	}
	var causes []string
	for _, d := range differences {
		if len(causes) == maxCauses {
			return append(causes, fmt.Sprintf("and %d more files", len(differences)-maxCauses))
		}
		causes = append(causes, cause(d))
	}
	return causes
}

// cause is a report in one line: which of the known causes explain a difference, or
// else the first entry that none explains.
func cause(d control.Difference) string {
	text := fmt.Sprintf("%s against %s's", d.Output.File, d.Against)
	if d.Report == nil {
		return text + ": " + d.Reason
	}
	text += ": " + string(d.Report.Verdict)
	var rules []string
	for _, applied := range d.Report.Rules {
		rules = append(rules, string(applied.Rule))
	}
	if len(rules) > 0 {
		text += " (" + strings.Join(rules, ", ") + ")"
	}
	for _, e := range d.Report.Entries {
		if e.Normalised {
			continue
		}
		text += fmt.Sprintf("; %s %s", e.Path, e.What)
		if e.Hint != "" {
			text += ": " + e.Hint
		}
		break
	}
	return text
}

// compared waits until the asker has compared its outputs with upstream's.
func (c *coverage) compared(ctx context.Context, b control.BuildDetail) (control.BuildDetail, error) {
	if b.State != control.Published && b.State != control.Disagreed {
		return b, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	return c.cluster.Node(0).WaitBuild(ctx, b.Package, func(b control.BuildDetail) bool { return b.Reference != "" })
}
