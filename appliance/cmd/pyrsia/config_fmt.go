package main

import (
	"bytes"
	"fmt"
	"io"

	"github.com/pyrsia/appliance/hcl/config"
	"github.com/pyrsia/appliance/modules/durable"
	"github.com/spf13/cobra"
)

// exitUnformatted is the exit code of `config fmt --check` for a file that it would
// change, as terraform's.
const exitUnformatted = 3

func configFmtCommand(a *app) *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "fmt [FILE | -]",
		Short: "Lay a configuration out in the canonical way",
		Long: `Lay a configuration out in the canonical way: indentation, spaces and aligned
equals signs. Nothing else changes, comments included, so that the node sees no
difference. The file is replaced as a whole, with its owner and mode; "-" reads
standard input and writes standard output.`,
		Example: "  pyrsia config fmt\n  pyrsia config fmt --check ./pyrsia.hcl\n  pyrsia config fmt - < pyrsia.hcl",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file := a.file(args)
			if file == "-" {
				return a.formatStream(cmd.InOrStdin())
			}
			return a.formatFile(file, check)
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, fmt.Sprintf("change nothing; exit code %d if the layout would change", exitUnformatted))
	return cmd
}

func (a *app) formatStream(in io.Reader) error {
	source, err := io.ReadAll(io.LimitReader(in, config.MaxFile+1))
	if err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	if len(source) > config.MaxFile {
		return fmt.Errorf("standard input: longer than %d bytes, which no configuration is", config.MaxFile)
	}
	formatted, err := a.formatted(source, "standard input")
	if err == nil {
		_, err = a.out.Write(formatted)
	}
	return err
}

// layout is what `config fmt --json` says of a file.
type layout struct {
	File    string `json:"file"`
	Changed bool   `json:"changed"` // or would be, with --check
}

func (a *app) formatFile(file string, check bool) error {
	source, err := config.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%s: %w; give the file, or --config FILE", file, err)
	}
	formatted, err := a.formatted(source, file)
	if err != nil {
		return err
	}
	changed := !bytes.Equal(source, formatted)
	if changed && !check {
		if err := durable.Rewrite(file, formatted); err != nil {
			return fmt.Errorf("%s was not changed: %w", file, err)
		}
	}
	err = a.show(layout{file, changed}, func(w io.Writer, s style) {
		switch {
		case !changed:
			fmt.Fprintf(w, "%s is laid out %s\n", file, s.green("well"))
		case !check:
			fmt.Fprintf(w, "%s has a new layout\n", file)
		}
	})
	if err == nil && changed && check {
		err = coded{exitUnformatted, fmt.Errorf("%s has another layout; `pyrsia config fmt %s` changes it", file, file)}
	}
	return err
}

// formatted shows all syntax errors before it fails with one.
func (a *app) formatted(source []byte, name string) ([]byte, error) {
	formatted, diags := config.Format(source, name)
	if err := diags.Err(); err != nil {
		diags.Write(a.err, a.style(a.err).on) //nolint:errcheck // nowhere else to say it
		return nil, err
	}
	return formatted, nil
}
