package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/pyrsia/appliance/hcl/config"
	"github.com/pyrsia/appliance/modules/identity"
	"github.com/spf13/cobra"
)

func configCommand(a *app) *cobra.Command {
	return group("config", "Check, show and lay out the configuration", "  pyrsia config check\n  pyrsia config show",
		configCheckCommand(a), configShowCommand(a), configFmtCommand(a), configSchemaCommand(a))
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
	if keys, err := identity.Load(c.Keys()); err == nil {
		diags = append(diags, c.CheckIdentity(keys.Identity())...)
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
	return &cobra.Command{
		Use:     "show [FILE]",
		Short:   "Every setting as the node would run with it, and where it comes from",
		Example: "  pyrsia config show\n  pyrsia config show ./pyrsia.hcl",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			a.config = a.file(args)
			c, err := a.load()
			if err != nil {
				return err
			}
			values := c.Effective()
			return a.show(values, func(w io.Writer, s style) {
				rows := make([][]string, len(values))
				for i, v := range values {
					origin := s.dim("default")
					if v.Range != nil {
						origin = fmt.Sprintf("%s:%d", v.Range.File, v.Range.Line)
					}
					value := v.Value
					if value == "" {
						value = "–"
					}
					rows[i] = []string{v.Path, value, origin}
				}
				table(w, s, []string{"SETTING", "VALUE", "FROM"}, rows)
			})
		},
	}
}

func configSchemaCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "All settings that there are, with types, defaults and what they are for",
		Example: "  pyrsia config schema\n  pyrsia config schema --json",
		Args:    exactly(),
		RunE: func(*cobra.Command, []string) error {
			schemas := config.Schemas()
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
