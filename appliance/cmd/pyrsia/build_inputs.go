package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/modules/record"
)

// deps is what `build deps --json` prints.
type deps struct {
	Inputs   []control.Input `json:"inputs"`
	Files    int             `json:"files"`
	Bytes    int64           `json:"bytes"`
	Verified share           `json:"verified"` // by the network: built and voted on
	Signed   share           `json:"signed"`   // by an archive whose keys the recipe names
	Trusted  share           `json:"trusted"`  // as every member's own upstream has it
	Sources  share           `json:"sources"`  // what the package is built from, by the recipe's digest
}

// share is a part of the inputs.
type share struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

func (s *share) add(i control.Input) {
	s.Files++
	s.Bytes += i.File.Size
}

func newDeps(inputs []control.Input) deps {
	d := deps{Inputs: inputs}
	for _, i := range inputs {
		d.Files++
		d.Bytes += i.File.Size
		switch i.Proof {
		case record.ProofChain:
			d.Verified.add(i)
		case record.ProofSource:
			d.Sources.add(i)
		case record.ProofDebian, record.ProofIndex, record.ProofInRelease:
			d.Signed.add(i)
		default:
			d.Trusted.add(i)
		}
	}
	return d
}

func buildDepsCommand(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "deps ID|PURL",
		Short: "What a package was built with, and how much of that is verified",
		Long: `What a package was built with: every locked file, what it is to the build, and what
stands for it. "verified" is what this network itself built from source and voted on;
"signed" is signed by an archive's key that the recipe names; "trusted" is what every
member's own upstream has with the same digest, which nobody has rebuilt yet.`,
		Example: "  pyrsia build deps " + plexus + "\n  pyrsia build deps --all " + plexus,
		Args:    exactly("ID|PURL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client := a.client()
			defer client.Close()
			inputs, err := patiently(cmd.Context(), a, "asking the node", func(ctx context.Context) ([]control.Input, error) {
				return client.Inputs(ctx, args[0])
			})
			if err != nil {
				return err
			}
			d := newDeps(inputs)
			return a.show(d, func(w io.Writer, s style) {
				writeShares(w, s, d)
				writeInputs(w, s, inputs, all)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "list every file, and not only how many of each role")
	return cmd
}

func writeShares(w io.Writer, s style, d deps) {
	rows := [][]string{}
	for _, part := range []struct {
		name string
		share
		what string
	}{
		{"verified", d.Verified, "built from source and voted on by this network"},
		{"signed", d.Signed, "signed by an archive's key that the recipe names"},
		{"trusted", d.Trusted, "as every member's own upstream has it"},
		{"source", d.Sources, "what the package is built from, by the recipe's digest"},
	} {
		if part.Files > 0 {
			rows = append(rows, []string{part.name, fmt.Sprint(part.Files), byteCount(part.Bytes), percent(part.Files, d.Files), part.what})
		}
	}
	table(w, s, []string{"INPUT", "FILES", "SIZE", "SHARE", ""}, rows)
}

func percent(part, whole int) string {
	if whole == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(part)/float64(whole))
}

// writeInputs lists files, or how many there are of each role.
func writeInputs(w io.Writer, s style, inputs []control.Input, all bool) {
	if len(inputs) == 0 {
		return
	}
	fmt.Fprintln(w)
	if !all {
		writeRoles(w, s, inputs)
		return
	}
	rows := make([][]string, len(inputs))
	for n, i := range inputs {
		rows[n] = []string{i.Kind, i.Path, i.Role, string(i.Proof), byteCount(i.File.Size), i.By}
	}
	table(w, s, []string{"KIND", "PATH", "ROLE", "PROOF", "SIZE", "NAMED BY"}, rows)
}

func writeRoles(w io.Writer, s style, inputs []control.Input) {
	shares, examples := map[string]*share{}, map[string]string{}
	for _, i := range inputs {
		if shares[i.Role] == nil {
			shares[i.Role], examples[i.Role] = new(share), i.Path
		}
		shares[i.Role].add(i)
	}
	var roles []string
	for role := range shares {
		roles = append(roles, role)
	}
	slices.SortFunc(roles, func(a, b string) int {
		return cmp.Or(cmp.Compare(shares[b].Files, shares[a].Files), strings.Compare(a, b))
	})
	rows := make([][]string, len(roles))
	for n, role := range roles {
		rows[n] = []string{role, fmt.Sprint(shares[role].Files), byteCount(shares[role].Bytes), examples[role]}
	}
	table(w, s, []string{"ROLE", "FILES", "SIZE", "SUCH AS"}, rows)
}

func buildCancelCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel ID|PURL",
		Short: "End this node's part in a build that is not decided",
		Long: `End this node's part in a build that is not decided: its request is over, the work
for it stops, and this node does not build the attempt, which the other members learn.
What a node has voted for it cannot take back, and other members go on with what is on
the chain.`,
		Example: "  pyrsia build cancel 7f3a9c21",
		Args:    exactly("ID|PURL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client := a.client()
			defer client.Close()
			if err := client.CancelBuild(cmd.Context(), args[0]); err != nil {
				return err
			}
			return a.show(map[string]string{"cancelled": args[0]}, func(w io.Writer, _ style) {
				fmt.Fprintf(w, "this node no longer builds %s\n", args[0])
			})
		},
	}
}

func buildWorkersCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "workers",
		Short:   "The buildkitd instances of the node: health, load and cache",
		Example: "  pyrsia build workers\n  pyrsia build workers --json",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := a.client()
			defer client.Close()
			workers, err := patiently(cmd.Context(), a, "asking the workers", client.Workers)
			if err != nil {
				return err
			}
			return a.show(workers, func(w io.Writer, s style) {
				rows := make([][]string, len(workers))
				for n, worker := range workers {
					rows[n] = []string{worker.Address, s.verdict(worker.State), worker.Version, fmt.Sprint(worker.Running), byteCount(worker.Cache), worker.Reason}
				}
				table(w, s, []string{"WORKER", "STATE", "BUILDKIT", "BUILDS", "CACHE", "REASON"}, rows)
			})
		},
	}
}

func buildDiffCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "diff ID|PURL [OUTPUT]",
		Short: "Where the members' outputs, or ours and upstream's, differ",
		Long: `Where outputs of a build differ that should be the same: this node's from another
member's, and from the file that upstream released. It tells which entry of an archive,
which bytes, and which of the known causes would explain it. "normalised-equal" means
that nothing but such causes is in the way; what is published needs equal bytes. The
files are fetched where this node does not have them, and the report is kept.`,
		Example: "  pyrsia build diff " + plexus + "\n  pyrsia build diff 7f3a9c21 plexus-archiver-4.10.2.jar --json",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			client := a.client()
			defer client.Close()
			differences, err := patiently(cmd.Context(), a, "comparing", func(ctx context.Context) ([]control.Difference, error) {
				return client.Differences(ctx, args[0])
			})
			if err != nil {
				return err
			}
			if len(args) > 1 {
				differences = slices.DeleteFunc(differences, func(d control.Difference) bool { return d.Output.File != args[1] })
			}
			return a.show(differences, func(w io.Writer, s style) { writeDifferences(w, s, differences) })
		},
	}
}

func writeDifferences(w io.Writer, s style, differences []control.Difference) {
	if len(differences) == 0 {
		fmt.Fprintln(w, "nothing differs, of what this node compared")
		return
	}
	for n, d := range differences {
		if n > 0 {
			fmt.Fprintln(w)
		}
		if d.Report == nil {
			fmt.Fprintf(w, "%s: %s\n", d.Output.File, d.Reason)
			continue
		}
		d.Report.Write(w) //nolint:errcheck // as the other writes of a table
		fmt.Fprintln(w, s.dim("kept as sha256:"+d.Kept.String()))
	}
}
