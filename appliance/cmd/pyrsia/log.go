package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/spf13/cobra"
)

func logCommand(a *app) *cobra.Command {
	return group("log", "Read the transparency log", "  pyrsia log list\n  pyrsia log inspect "+plexus,
		logListCommand(a), logInspectCommand(a), logProveCommand(a), logCheckpointCommand(a))
}

func logListCommand(a *app) *cobra.Command {
	var from int64
	var count int
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "The newest leaves, or those from an index on",
		Example: "  pyrsia log list\n  pyrsia log list --from 0 --count 100",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("from") {
				from = -int64(count)
			}
			client := a.client()
			defer client.Close()
			entries, err := patiently(cmd.Context(), a, "reading the log", func(ctx context.Context) ([]control.LogEntry, error) {
				return client.LogList(ctx, from, count)
			})
			if err != nil {
				return err
			}
			return a.show(entries, func(w io.Writer, s style) { writeEntries(w, s, entries) })
		},
	}
	cmd.Flags().Int64Var(&from, "from", 0, "`INDEX` of the first leaf; a negative one counts from the end (default: the last ones)")
	cmd.Flags().IntVar(&count, "count", 20, "how many leaves at most")
	return cmd
}

func writeEntries(w io.Writer, s style, entries []control.LogEntry) {
	rows := make([][]string, len(entries))
	for i, e := range entries {
		rows[i] = []string{number(e.Index), number(e.Height), date(e.Time), string(e.Type), e.Summary}
	}
	table(w, s, []string{"INDEX", "HEIGHT", "TIME", "TYPE", ""}, rows)
}

func logInspectCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect INDEX|PURL|SHA256",
		Short: "Whole leaves: by index, by package, or by the digest of a file, leaf or recipe",
		Example: `  pyrsia log inspect 57
  pyrsia log inspect ` + plexus + `
  pyrsia log inspect "$(sha256sum plexus-archiver-4.10.2.jar | cut -d' ' -f1)"`,
		Args: exactly("INDEX|PURL|SHA256"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client := a.client()
			defer client.Close()
			leaves, err := patiently(cmd.Context(), a, "reading the log", func(ctx context.Context) ([]control.LogLeaf, error) {
				return client.LogInspect(ctx, args[0])
			})
			if err != nil {
				return err
			}
			if len(leaves) == 0 {
				return fmt.Errorf("the log has nothing about %s; `pyrsia log list` shows what it has", args[0])
			}
			return a.show(leaves, func(w io.Writer, s style) { writeLeaves(w, s, leaves) })
		},
	}
}

func writeLeaves(w io.Writer, s style, leaves []control.LogLeaf) {
	for i, leaf := range leaves {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fields(w, s,
			"leaf", fmt.Sprintf("%d, in block %d of %s", leaf.Index, leaf.Height, date(leaf.Time)),
			"type", string(leaf.Type), "hash", "sha256:"+leaf.Hash.String(), "says", leaf.Summary)
		writeIndented(w, leaf.Leaf)
		if leaf.Statement != nil {
			fmt.Fprintln(w, s.dim("statement"))
			writeIndented(w, leaf.Statement)
		}
	}
}

func writeIndented(w io.Writer, data json.RawMessage) {
	var b bytes.Buffer
	if json.Indent(&b, data, "", "  ") != nil {
		b.Reset()
		b.Write(data)
	}
	b.WriteByte('\n')
	w.Write(b.Bytes()) //nolint:errcheck // the reader went away
}

func jsonCompact(v any) ([]byte, error) { return json.Marshal(v) }

func logProveCommand(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "prove PURL#FILE|SHA256",
		Short: "The proof that a file is published, for `pyrsia verify`",
		Long: `The proof that a file is published: its leaf, the proof that the leaf is in the
log, and the members' signatures. Whoever has the network's genesis hash can
check it without a network.`,
		Example: `  pyrsia log prove ` + plexus + `#plexus-archiver-4.10.2.jar -o plexus-archiver-4.10.2.jar.proof
  pyrsia verify plexus-archiver-4.10.2.jar`,
		Args: exactly("PURL#FILE|SHA256"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client := a.client()
			defer client.Close()
			proof, err := patiently(cmd.Context(), a, "making the proof", func(ctx context.Context) ([]byte, error) {
				return client.LogProve(ctx, args[0])
			})
			if err != nil {
				return err
			}
			if output == "" || output == "-" {
				_, err = a.out.Write(proof)
				return err
			}
			return writeFile(output, proof, 0o644)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write the proof to this `FILE` instead of printing it")
	return cmd
}

func logCheckpointCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "checkpoint",
		Short: "The newest checkpoint with the members' cosignatures",
		Long: `The newest checkpoint, a signed note as C2SP tlog-checkpoint describes it: the
log's origin, size and root hash, and the members' signatures.`,
		Example: "  pyrsia log checkpoint\n  pyrsia log checkpoint | head -3      the part for network.checkpoint",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := a.client()
			defer client.Close()
			checkpoint, err := patiently(cmd.Context(), a, "asking the node", client.Checkpoint)
			if err != nil {
				return err
			}
			return a.show(map[string]string{"checkpoint": checkpoint}, func(w io.Writer, _ style) { fmt.Fprint(w, checkpoint) })
		},
	}
}

func sourcesCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "sources [PURL[#FILE]|SHA256]",
		Short:   "From whom the bytes of the kept files came",
		Example: "  pyrsia sources\n  pyrsia sources " + plexus,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref := ""
			if len(args) == 1 {
				ref = args[0]
			}
			client := a.client()
			defer client.Close()
			artifacts, err := patiently(cmd.Context(), a, "asking the node", func(ctx context.Context) ([]control.Artifact, error) {
				return client.Sources(ctx, ref)
			})
			if err != nil {
				return err
			}
			return a.show(artifacts, func(w io.Writer, s style) { writeArtifacts(w, s, artifacts) })
		},
	}
}

func writeArtifacts(w io.Writer, s style, artifacts []control.Artifact) {
	if len(artifacts) == 0 {
		fmt.Fprintln(w, "no such files at hand")
		return
	}
	var rows [][]string
	for _, a := range artifacts {
		first := []string{a.Name.String(), size(a), s.verdict(yesNo(a.Verified))}
		if len(a.Sources) == 0 {
			rows = append(rows, append(first, "–", "", ""))
		}
		for i, source := range a.Sources {
			if i > 0 {
				first = []string{"", "", ""}
			}
			from := source.Kind
			if source.Kind == control.SourcePeer {
				from = who(source.Label, source.Identity)
			}
			refused := ""
			if source.Refused > 0 {
				refused = s.red(size(control.Artifact{Have: source.Refused}) + " refused")
			}
			rows = append(rows, append(first, from, byteCount(source.Bytes), refused))
		}
	}
	table(w, s, []string{"FILE", "SIZE", "VERIFIED", "FROM", "BYTES", ""}, rows)
}

func size(a control.Artifact) string {
	if a.Have < a.File.Size {
		return byteCount(a.Have) + " of " + byteCount(a.File.Size)
	}
	return byteCount(a.Have)
}
