package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/hcl/config"
	"github.com/pyrsia/appliance/modules/identity"
	"github.com/spf13/cobra"
)

func configCommand(a *app) *cobra.Command {
	return group("config", "Check, show, compare and lay out the configuration", "  pyrsia config check\n  pyrsia config plan",
		configCheckCommand(a), configPlanCommand(a), configShowCommand(a), configHistoryCommand(a), configFmtCommand(a), configSchemaCommand(a))
}

func configCheckCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Tell all problems of a configuration at once",
		Long: `Tell all problems of a configuration at once: of the file itself, of the genesis
file that it names, and of what it says about this node. Fails if one of them is
an error. Warnings do not fail.`,
		Example: "  pyrsia config check\n  pyrsia config check ./pyrsia.hcl --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			file := a.file(args)
			diags := checkConfig(file)
			if diags == nil {
				diags = config.Diagnostics{}
			}
			err := a.show(diags, func(w io.Writer, s style) { writeCheck(w, s, file, diags) })
			if err != nil || !diags.HasErrors() {
				return err
			}
			return fmt.Errorf("%s has %s; correct it as shown, nothing was changed", file, counts(diags))
		},
	}
}

// file is the argument of a config verb, or --config.
func (a *app) file(args []string) string {
	if len(args) == 1 {
		return args[0]
	}
	return a.config
}

func checkConfig(file string) config.Diagnostics {
	c, diags := config.Load(file)
	if c == nil {
		return diags
	}
	_, _, more := c.Genesis()
	if _, err := os.Stat(c.Network.GenesisFile); errors.Is(err, os.ErrNotExist) {
		// A file may be checked on another machine than the node's.
		for i := range more {
			more[i].Severity = config.Warning
		}
	}
	diags = append(diags, more...)
	if id, err := identity.LoadIdentity(c.Keys()); err == nil {
		diags = append(diags, c.CheckIdentity(id)...)
	}
	return diags
}

func counts(diags config.Diagnostics) string {
	errs, warns := 0, 0
	for _, d := range diags {
		if d.Severity == config.Error {
			errs++
		} else {
			warns++
		}
	}
	var parts []string
	if errs > 0 {
		parts = append(parts, plural(errs, "error"))
	}
	if warns > 0 {
		parts = append(parts, plural(warns, "warning"))
	}
	return strings.Join(parts, " and ")
}

func writeCheck(w io.Writer, s style, file string, diags config.Diagnostics) {
	diags.Write(w, s.on) //nolint:errcheck // the reader went away
	switch {
	case len(diags) == 0:
		fmt.Fprintf(w, "%s is %s\n", file, s.green("good"))
	case !diags.HasErrors():
		fmt.Fprintf(w, "\n%s can be used, with %s\n", file, counts(diags))
	}
}

func configShowCommand(a *app) *cobra.Command {
	var effective bool
	cmd := &cobra.Command{
		Use:     "show [FILE]",
		Short:   "Every setting as the node would run with it, and where it comes from",
		Example: "  pyrsia config show\n  pyrsia config show ./pyrsia.hcl\n  pyrsia config show --effective",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if effective {
				return a.showEffective(cmd.Context(), args)
			}
			a.config = a.file(args)
			c, err := a.load()
			if err != nil {
				return err
			}
			values := c.Effective()
			return a.show(values, func(w io.Writer, s style) {
				settings := make([]control.Setting, len(values))
				for i, v := range values {
					settings[i] = control.Setting{Path: v.Path, Value: v.Value}
					if v.Range != nil {
						settings[i].File, settings[i].Line = v.Range.File, v.Range.Line
					}
				}
				writeSettings(w, s, settings)
			})
		},
	}
	cmd.Flags().BoolVar(&effective, "effective", false, "ask the running node what it runs with now")
	return cmd
}

func (a *app) showEffective(ctx context.Context, args []string) error {
	if len(args) > 0 {
		return errors.New("a file says what a node would run with, and --effective what it runs with; give one of them")
	}
	client := a.client()
	defer client.Close()
	settings, err := patiently(ctx, a, "asking the node", client.Configuration)
	if err != nil {
		return err
	}
	return a.show(settings, func(w io.Writer, s style) { writeSettings(w, s, settings) })
}

func writeSettings(w io.Writer, s style, settings []control.Setting) {
	rows := make([][]string, len(settings))
	for i, v := range settings {
		origin, value := s.dim("default"), v.Value
		if v.File != "" {
			origin = fmt.Sprintf("%s:%d", v.File, v.Line)
		}
		if value == "" {
			value = "–"
		}
		rows[i] = []string{v.Path, value, origin}
	}
	table(w, s, []string{"SETTING", "VALUE", "FROM"}, rows)
}

func configSchemaCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "schema [SETTING]",
		Short:   "All settings that there are, with types, defaults and what they are for",
		Long:    "All settings that there are, or one of them, or those of a block, with types, defaults\nand what they are for.",
		Example: "  pyrsia config schema\n  pyrsia config schema distribution.quota\n  pyrsia config schema --json build",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			schemas := config.Schemas()
			if len(args) == 1 {
				schemas = slices.DeleteFunc(schemas, func(s config.Schema) bool {
					return s.Path != args[0] && !strings.HasPrefix(s.Path, args[0]+".")
				})
				if len(schemas) == 0 {
					return fmt.Errorf("there is no setting %q; `pyrsia config schema` lists them all", args[0])
				}
			}
			return a.show(schemas, func(w io.Writer, s style) {
				for i, setting := range schemas {
					if i > 0 {
						fmt.Fprintln(w)
					}
					fmt.Fprintln(w, s.bold(setting.Path))
					fields(w, s, "  type", setting.Type, "  default", setting.Default, "  reload", string(setting.Reload), "  for", setting.Doc)
				}
			})
		},
	}
}
