package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/hcl/config"
	"github.com/spf13/cobra"
)

// exitChanges is the exit code of `pyrsia config plan` where a reload would change
// something, as of `terraform plan -detailed-exitcode`.
const exitChanges = 2

func reloadCommand(a *app) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Put a changed configuration in force, and say how it went",
		Long: `Have the running node read its configuration again. It is taken as a whole, and then
nothing that is under way is interrupted, or it is not taken at all: the exit code
is then 1, and the node goes on with the one before.`,
		Example: "  pyrsia reload\n  pyrsia config plan; pyrsia reload",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := a.client()
			defer client.Close()
			done, err := patiently(cmd.Context(), a, "the node reloads", client.Reload)
			if err != nil {
				a.explain(cmd.Context(), client)
				return err
			}
			if err := a.followUnits(cmd.Context()); err != nil {
				return fmt.Errorf("the configuration is in force, but the units of the role are not: %w", err)
			}
			return a.show(done, func(w io.Writer, s style) { writeReloaded(w, s, done) })
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", true, "wait for the verdict; there is no other way")
	cmd.Flags().MarkHidden("wait") //nolint:errcheck // it is there
	return cmd
}

// explain shows all that is wrong with the node's configuration, where it can be read
// from here: the node itself says it in one sentence.
func (a *app) explain(ctx context.Context, client *control.Client) {
	status, err := client.Status(ctx)
	if err != nil || a.json {
		return
	}
	if _, diags := config.Load(status.Config); diags.HasErrors() {
		diags.Write(a.err, a.style(a.err).on) //nolint:errcheck // nowhere else to say it
	}
}

func writeReloaded(w io.Writer, s style, done control.Reloaded) {
	if len(done.Changes) == 0 {
		fmt.Fprintf(w, "%s changes nothing of what the node does; it is in force as configuration %d\n", done.File, done.Number)
	} else {
		writeChanges(w, s, done.Changes)
		fmt.Fprintf(w, "%s as configuration %d, in %v\n", s.green("in force"), done.Number, done.Took.Round(time.Millisecond/10))
	}
	if done.Warning != "" {
		fmt.Fprintf(w, "%s %s\n", s.yellow("warning:"), done.Warning)
	}
}

func configPlanCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "plan [FILE]",
		Short: "What a reload would change in the running node",
		Long: fmt.Sprintf(`Tell what a reload would change in the running node: of its own configuration as
it stands in the file now, or of another file. Nothing is changed. The exit code is
0 if it would change nothing, %d if it would change something, and 1 if the reload
would be refused.`, exitChanges),
		Example: "  pyrsia config plan\n  pyrsia config plan ./pyrsia.hcl --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, source, err := planned(args)
			if err != nil {
				return err
			}
			client := a.client()
			defer client.Close()
			plan, err := patiently(cmd.Context(), a, "asking the node", func(ctx context.Context) (control.Plan, error) {
				return client.Plan(ctx, file, source)
			})
			if err != nil {
				return err
			}
			if err := a.show(plan, func(w io.Writer, s style) { writePlan(w, s, plan) }); err != nil {
				return err
			}
			switch counts := effects(plan.Changes); {
			case counts[control.EffectFixed] > 0:
				return fmt.Errorf("a reload of %s would be refused: restart the node, or take back what cannot change while it runs", plan.File)
			case len(plan.Changes) > 0:
				return told{coded{exitChanges, fmt.Errorf("a reload changes something")}}
			}
			return nil
		},
	}
}

// told is an error that only sets the exit code: all was said.
type told struct{ coded }

func (t told) Unwrap() error { return t.coded }

// planned is the file to plan for; none is the node's own.
func planned(args []string) (file string, source []byte, err error) {
	if len(args) == 0 {
		return "", nil, nil
	}
	if file, err = filepath.Abs(args[0]); err != nil {
		return "", nil, err
	}
	if source, err = config.ReadFile(file); err != nil {
		err = fmt.Errorf("%s: cannot read the configuration: %w", file, err)
	}
	return file, source, err
}

func effects(changes []control.Change) map[string]int {
	counts := map[string]int{}
	for _, c := range changes {
		counts[c.Effect]++
	}
	return counts
}

func writePlan(w io.Writer, s style, plan control.Plan) {
	if len(plan.Changes) == 0 {
		fmt.Fprintf(w, "%s changes nothing; configuration %d is in force\n", plan.File, plan.Number)
		return
	}
	writeChanges(w, s, plan.Changes)
	n := effects(plan.Changes)
	fmt.Fprintf(w, "\nPlan: %d live, %d role, %d refused.", n[control.EffectLive], n[control.EffectRole], n[control.EffectFixed])
	if n[control.EffectFixed] == 0 {
		fmt.Fprint(w, " Apply: systemctl reload pyrsia, or pyrsia reload")
	}
	fmt.Fprintln(w)
}

func writeChanges(w io.Writer, s style, changes []control.Change) {
	rows := [][]string{}
	for _, c := range changes {
		effect := c.Effect
		switch effect {
		case control.EffectFixed:
			effect = s.red("refused while the node runs")
		case control.EffectRole:
			effect = s.yellow("role: starts or stops the build modules")
		}
		rows = append(rows, []string{sign(s, c), c.Path, values(c), effect})
		for _, item := range c.Added {
			rows = append(rows, []string{"", "", "  " + s.green("+ "+item), ""})
		}
		for _, item := range c.Removed {
			rows = append(rows, []string{"", "", "  " + s.red("- "+item), ""})
		}
	}
	table(w, s, []string{"", "SETTING", "VALUE", "EFFECT"}, rows)
}

func sign(s style, c control.Change) string {
	switch {
	case c.Old == "":
		return s.green("+")
	case c.New == "":
		return s.red("-")
	}
	return s.yellow("~")
}

// values are those of a change; a list that both have is told by its items.
func values(c control.Change) string {
	switch {
	case len(c.Added)+len(c.Removed) > 0:
		return "[…]"
	case c.Old == "":
		return c.New
	case c.New == "":
		return c.Old
	}
	return c.Old + " → " + c.New
}

func configHistoryCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "history [NUMBER]",
		Short:   "The configurations that the node ran with, or the text of one of them",
		Example: "  pyrsia config history\n  pyrsia config history 41 > pyrsia.hcl",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client := a.client()
			defer client.Close()
			if len(args) == 1 {
				number, err := strconv.Atoi(args[0])
				if err != nil {
					return fmt.Errorf("%q is not the number of a configuration; `pyrsia config history` lists them", args[0])
				}
				source, err := client.Past(cmd.Context(), number)
				if err != nil {
					return err
				}
				return a.show(map[string]any{"number": number, "source": string(source)}, func(w io.Writer, _ style) { w.Write(source) }) //nolint:errcheck // as every other output
			}
			all, err := patiently(cmd.Context(), a, "asking the node", client.History)
			if err != nil {
				return err
			}
			return a.show(all, func(w io.Writer, s style) {
				rows := make([][]string, len(all))
				for i, taken := range all {
					now := ""
					if taken.Now {
						now = s.green("in force")
					}
					rows[i] = []string{strconv.Itoa(taken.Number), date(taken.Time), now}
				}
				table(w, s, []string{"NUMBER", "SINCE", ""}, rows)
			})
		},
	}
}
