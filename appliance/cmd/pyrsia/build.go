package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build/buildkit/display"
)

const plexus = "pkg:maven/org.codehaus.plexus/plexus-archiver@4.10.2"

func buildCommand(a *app) *cobra.Command {
	return group("build", "Ask for builds and see how they go", "  pyrsia build request --wait "+plexus+"\n  pyrsia build list",
		buildRequestCommand(a), buildListCommand(a), buildStatusCommand(a), buildLogsCommand(a), buildRemainsCommand(a), buildDiffCommand(a), buildDepsCommand(a), buildCancelCommand(a), buildWorkersCommand(a))
}

func buildRequestCommand(a *app) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "request PURL",
		Short: "Ask the build nodes to build a package",
		Long: `Ask the build nodes to build a package from the recipe that the chain has for it.
Without --wait it returns as soon as the request is safe. With --wait it shows
how the build goes, and fails if nothing is published in the end.`,
		Example: "  pyrsia build request " + plexus + "\n  pyrsia build request --wait pkg:docker/pyrsia/jdk21-maven@3.9.11",
		Args:    exactly("PURL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			purl, err := parsePURL(args[0])
			if err != nil {
				return err
			}
			client := a.client()
			defer client.Close()
			id, err := patiently(cmd.Context(), a, "asking for the build", func(ctx context.Context) (string, error) {
				return client.RequestBuild(ctx, purl)
			})
			if err != nil {
				return err
			}
			if wait {
				return a.watch(cmd.Context(), client, id)
			}
			return a.show(map[string]string{"id": id}, func(w io.Writer, _ style) {
				fmt.Fprintf(w, "%s\n", id)
				fmt.Fprintf(a.err, "asked for %s; `pyrsia build status %s` tells how it goes\n", purl, id)
			})
		},
	}
	cmd.Flags().BoolVarP(&wait, "wait", "w", false, "show progress until the build has ended")
	return cmd
}

// parsePURL explains package URLs to those who write coordinates.
func parsePURL(s string) (artifact.PURL, error) {
	purl, err := artifact.ParsePURL(s)
	if err == nil && purl.Version() == "" {
		return "", fmt.Errorf("%s names no version; add it, as in %s", s, plexus)
	}
	if err == nil {
		return purl, nil
	}
	if maven, wrong := artifact.ParseMaven(s); wrong == nil && !strings.HasPrefix(s, "pkg:") {
		return "", fmt.Errorf("%q is not a package URL; write %s", s, maven.Package())
	}
	return "", fmt.Errorf("%q is not a package URL (%w); write one such as %s", s, err, plexus)
}

// watch shows a build until it has ended. With --json each change is one line.
func (a *app) watch(ctx context.Context, client *control.Client, id string) error {
	var last control.Build
	shown := ""
	reminder := a.remind("asked for")
	defer reminder.stop()
	err := client.WatchBuild(ctx, id, func(b control.Build) error {
		last = b
		if a.json {
			return a.jsonLine(b)
		}
		if line := progress(a.style(a.out), b); line != shown {
			shown = line
			reminder.print(string(b.State), func() {
				fmt.Fprintf(a.out, "%s  %s\n", a.style(a.out).dim(time.Now().Format(time.TimeOnly)), line)
			})
		}
		return nil
	})
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return fmt.Errorf("no longer watching; the build goes on, see `pyrsia build status %s`", id)
		}
		return fmt.Errorf("cannot watch build %s: %w", id, err)
	}
	return outcome(last)
}

func (a *app) jsonLine(v any) error {
	data, err := jsonCompact(v)
	if err != nil {
		return err
	}
	_, err = a.out.Write(append(data, '\n'))
	return err
}

// progress is a build in one line.
func progress(s style, b control.Build) string {
	line := s.verdict(string(b.State))
	if b.Step != "" && !b.State.Final() {
		line += " (" + b.Step + ")"
	}
	var votes []string
	for _, m := range b.Members {
		if m.Vote != control.VoteNone {
			votes = append(votes, who(m.Label, m.Identity)+" "+s.verdict(m.Vote))
		}
	}
	if len(votes) > 0 {
		line += "  " + strings.Join(votes, ", ")
	}
	if b.State == control.Published {
		line += fmt.Sprintf("  in block %d", b.Height)
	}
	return line
}

// outcome is nil for a published build only.
func outcome(b control.Build) error {
	if b.State == control.Published {
		return nil
	}
	reason := b.Reason
	if reason == "" {
		reason = fmt.Sprintf("see `pyrsia build status %s`", b.ID)
	}
	if b.State == control.Failed {
		reason += fmt.Sprintf("; `pyrsia build logs %s` and `pyrsia build remains %s` tell more, on a node where it failed", b.ID, b.ID)
	}
	return fmt.Errorf("%s is not published: %s: %s", b.Package, b.State, reason)
}

func buildListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "All builds that the node knows of",
		Example: "  pyrsia build list\n  pyrsia build list --json",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := a.client()
			defer client.Close()
			builds, err := patiently(cmd.Context(), a, "asking the node", client.Builds)
			if err != nil {
				return err
			}
			return a.show(builds, func(w io.Writer, s style) { writeBuilds(w, s, builds, time.Now()) })
		},
	}
}

func writeBuilds(w io.Writer, s style, builds []control.Build, now time.Time) {
	if len(builds) == 0 {
		fmt.Fprintln(w, "no builds yet; `pyrsia build request PURL` asks for one")
		return
	}
	rows := make([][]string, len(builds))
	for i, b := range builds {
		rows[i] = []string{b.ID, string(b.Package), number(max(b.Attempt, -1)), s.verdict(string(b.State)), tally(b), number(b.Height), ago(now, b.Changed), b.Reason}
	}
	table(w, s, []string{"ID", "PACKAGE", "ATTEMPT", "STATE", "VOTES", "HEIGHT", "CHANGED", "REASON"}, rows)
}

// tally is how many members voted equal, of how many, and who differed.
func tally(b control.Build) string {
	equal, different := 0, 0
	for _, m := range b.Members {
		switch m.Vote {
		case control.VoteEqual:
			equal++
		case control.VoteDifferent:
			different++
		}
	}
	text := fmt.Sprintf("%d/%d", equal, len(b.Members))
	if different > 0 {
		text += fmt.Sprintf(", %d different", different)
	}
	return text
}

func buildStatusCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "status ID|PURL",
		Short:   "One build: votes, outputs, and every member's digests",
		Example: "  pyrsia build status " + plexus + "\n  pyrsia build status 7f3a9c21 --json",
		Args:    exactly("ID|PURL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client := a.client()
			defer client.Close()
			build, err := patiently(cmd.Context(), a, "asking the node", func(ctx context.Context) (control.BuildDetail, error) {
				return client.Build(ctx, args[0])
			})
			if err != nil {
				return err
			}
			return a.show(build, func(w io.Writer, s style) { writeBuild(w, s, build, time.Now()) })
		},
	}
}

func writeBuild(w io.Writer, s style, b control.BuildDetail, now time.Time) {
	deadline, inputs, published := "", "", ""
	if !b.State.Final() && !b.Deadline.IsZero() {
		deadline = b.Deadline.Local().Format(time.DateTime)
	}
	if b.Inputs > 0 {
		inputs = fmt.Sprintf("%d locked files, %d of them vouched for by the log", b.Inputs, b.Verified)
	}
	if b.Height >= 0 {
		published = fmt.Sprintf("block %d, leaf %d", b.Height, b.Leaf)
	}
	fields(w, s,
		"build", b.ID, "package", string(b.Package), "recipe", "sha256:"+b.Recipe.String(),
		"attempt", fmt.Sprintf("%d on %s", b.Attempt, b.Platform), "inputs", inputs,
		"state", s.verdict(string(b.State)), "reason", b.Reason, "doing", b.Step,
		"asked", ago(now, b.Asked), "deadline", deadline, "published", published,
		"votes", fmt.Sprintf("%s, %d needed", tally(b.Build), b.Majority), "reference", referenceLine(b))
	if len(b.Members) > 0 {
		fmt.Fprintln(w)
		rows := make([][]string, len(b.Members))
		for i, m := range b.Members {
			name := who(m.Label, m.Identity)
			if m.Self {
				name += " (this node)"
			}
			vote := s.verdict(m.Vote)
			if vote == "" {
				vote = "–"
			}
			rows[i] = []string{name, vote, m.Digest, ago(now, m.When), m.Reason}
		}
		table(w, s, []string{"MEMBER", "VOTE", "RESULT", "WHEN", "REASON"}, rows)
	}
	writeOutputs(w, s, b.Outputs)
}

// referenceLine is how what came out compares with what upstream released.
func referenceLine(b control.BuildDetail) string {
	counts := map[string]int{}
	for _, o := range b.Outputs {
		counts[o.Reference]++
	}
	switch b.Reference {
	case "":
		return ""
	case "absent":
		return "upstream released none of the files"
	case "equal":
		return fmt.Sprintf("%d files are byte for byte as upstream released them", counts["equal"])
	}
	return fmt.Sprintf("%d files are as upstream released them, %d differ; see `pyrsia build diff %s`", counts["equal"], counts["different"], b.ID)
}

func writeOutputs(w io.Writer, s style, outputs []control.Output) {
	if len(outputs) == 0 {
		return
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, o := range outputs {
		rows = append(rows, []string{o.Name.File, byteCount(o.File.Size), "sha256:" + o.File.SHA256.String(), s.verdict(o.Reference)})
		for _, m := range o.Members {
			if m.Equal {
				rows = append(rows, []string{"  " + who(m.Label, m.Identity), s.verdict("equal"), "", ""})
				continue
			}
			rows = append(rows, []string{"  " + who(m.Label, m.Identity), s.verdict("different"), "sha256:" + m.File.SHA256.String(), strings.ReplaceAll(m.Explain, "\n", "; ")})
		}
	}
	table(w, s, []string{"OUTPUT", "SIZE", "DIGEST", "REFERENCE"}, rows)
}

func buildLogsCommand(a *app) *cobra.Command {
	var follow bool
	var progress string
	cmd := &cobra.Command{
		Use:   "logs ID|PURL",
		Short: "What this node's own build printed",
		Long: `What this node's own build printed. On a terminal a build that is followed is shown
as BuildKit shows it: each step with its time, and the last lines of those under way.`,
		Example: "  pyrsia build logs " + plexus + "\n  pyrsia build logs --follow 7f3a9c21\n  pyrsia build logs -f --progress plain 7f3a9c21 > build.log",
		Args:    exactly("ID|PURL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			shown, err := a.display(progress, follow)
			if err != nil {
				return err
			}
			client := a.client()
			defer client.Close()
			if shown == nil {
				out := a.out
				if isTerminal(out) {
					out = &display.Plain{To: out} // a build must not steer the terminal
				}
				return client.BuildLogs(cmd.Context(), args[0], follow, out)
			}
			return piped(
				func(w io.Writer) error { return client.BuildLogs(cmd.Context(), args[0], follow, w) },
				func(r io.Reader) error { return display.Show(cmd.Context(), r, shown) },
			)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the build has ended")
	cmd.Flags().StringVar(&progress, "progress", "auto", "`HOW` to show it: auto, plain (lines) or tty")
	return cmd
}

// display is the terminal that a build is shown on, nil for plain lines.
func (a *app) display(progress string, follow bool) (*os.File, error) {
	terminal, is := a.out.(*os.File)
	is = is && isTerminal(terminal)
	switch {
	case progress == "plain", progress == "auto" && (!is || !follow):
		return nil, nil
	case progress != "auto" && progress != "tty":
		return nil, fmt.Errorf("--progress %s: want auto, plain or tty", progress)
	case !is:
		return nil, errors.New("--progress tty: the output is no terminal; leave it out, or take plain")
	}
	return terminal, nil
}

// piped has one read what the other writes. The writer's error is the cause of both.
func piped(write func(io.Writer) error, read func(io.Reader) error) error {
	reader, writer := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := write(writer)
		writer.Close() //nolint:errcheck // it cannot fail
		written <- err
	}()
	err := read(reader)
	reader.CloseWithError(err) // a reader that gives up ends the writing
	if failed := <-written; failed != nil && err == nil {
		return failed
	}
	return err
}
