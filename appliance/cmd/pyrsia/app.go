package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/hcl/config"
	"github.com/spf13/cobra"
)

// socketVariable names the control socket where --socket does not.
const socketVariable = "PYRSIA_SOCKET"

// app is what the verbs share: where to write, and the flags of all of them.
type app struct {
	out, err io.Writer
	config   string
	socket   string
	json     bool
}

// run executes one command line and returns the process's exit code. An error
// is told in one sentence.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	a := &app{out: out, err: errOut}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	if q, ok := errors.AsType[told](err); ok {
		return q.code
	}
	fmt.Fprintf(errOut, "%s %s\n", a.style(errOut).red("pyrsia:"), strings.Map(printableLines, sentence(remedied(err))))
	if c, ok := errors.AsType[coded](err); ok {
		return c.code
	}
	return 1
}

// coded is an error with an exit code of its own.
type coded struct {
	code int
	error
}

func (c coded) Unwrap() error { return c.error }

// remedied says what to do about what any verb can meet. Nothing is half-done
// then: what is kept is replaced as a whole or not at all.
func remedied(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("%w; free some space on that disk, and run this again", err)
	case errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w; raise the quota of this user on that disk, or free some space, and run this again", err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w; mount that disk for writing, or choose another folder, and run this again", err)
	}
	return err
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "pyrsia",
		Short: "Open-source packages that a majority of independent builders built alike",
		Long: `Pyrsia is a network of nodes. Build nodes build packages from source, each for
itself, and publish what more than half of them built byte for byte alike. Every
node has the log of publications and serves only what it vouches for.`,
		Example: `  pyrsia serve                         run the node that /etc/pyrsia/pyrsia.hcl describes
  pyrsia status                        how the running node is
  pyrsia build request --wait pkg:maven/org.codehaus.plexus/plexus-archiver@4.10.2`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noCommand,

		PersistentPreRunE: a.named,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Version:           version(),
	}
	root.SuggestionsMinimumDistance = 2
	root.SetVersionTemplate("pyrsia {{.Version}}\n")
	flags := root.PersistentFlags()
	flags.StringVar(&a.config, "config", config.DefaultFile, "the node's configuration `FILE`")
	flags.StringVar(&a.socket, "socket", "", "the node's control socket `PATH` (default: $"+socketVariable+", or admin.socket of the configuration)")
	flags.BoolVar(&a.json, "json", false, "print JSON instead of a table")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%s; see `%s --help`", plainly(err), cmd.CommandPath())
	})
	cobra.EnableCommandSorting = false
	for _, s := range verbs(a) {
		if s.title != "" {
			root.AddGroup(&cobra.Group{ID: s.title, Title: s.title})
		}
		for _, verb := range s.verbs {
			verb.GroupID = s.title
			root.AddCommand(verb)
		}
	}
	a.complete(root)
	return root
}

// printableLines keeps what an error quotes from steering the terminal.
func printableLines(r rune) rune {
	if r == '\n' || unicode.IsPrint(r) {
		return r
	}
	return ' '
}

// parsing is how the flags' library says that a value is none of its kind.
var parsing = regexp.MustCompile(`: (?:strconv\.Parse(\w+): parsing ".*": [a-z ]+|time: .*)$`)

// plainly says what a flag wants in words of people.
func plainly(err error) string {
	text := err.Error()
	kind := parsing.FindStringSubmatch(text)
	if kind == nil {
		return text
	}
	want := map[string]string{"Bool": "true or false", "": `a time such as "90s" or "2h"`}[kind[1]]
	if want == "" {
		want = "a whole number"
	}
	return parsing.ReplaceAllLiteralString(text, ": want "+want)
}

// group is a verb that only holds others.
func group(use, short, example string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{
		Use: use, Short: short, Example: example,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	g.SuggestionsMinimumDistance = 2
	g.AddCommand(commands...)
	return g
}

// noCommand refuses what is left over where a command was expected.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := fmt.Sprintf("see `%s --help`", cmd.CommandPath())
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("did you mean `%s %s`?", cmd.CommandPath(), near[0])
	}
	return fmt.Errorf("unknown command %q for %q; %s", args[0], cmd.CommandPath(), hint)
}

// named refuses a configuration that somebody named and that is not there: the
// defaults, which would be taken, are those of another node.
func (a *app) named(cmd *cobra.Command, _ []string) error {
	if !cmd.Flags().Changed("config") || a.socket != "" {
		return nil
	}
	if _, err := os.Stat(a.config); errors.Is(err, fs.ErrNotExist) {
		path, _ := filepath.Abs(a.config)
		return fmt.Errorf("%s: Cannot read the configuration: no such file; give --config FILE, or write one (`pyrsia config schema` lists the settings)", path)
	}
	return nil
}

// exactly wants as many arguments as there are names, and says which are
// missing.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return fmt.Errorf("%s is missing; write `%s %s`", names[len(args)], cmd.CommandPath(), strings.Join(names, " "))
		case len(args) > len(names):
			return fmt.Errorf("unexpected argument %q; write `%s`", args[len(names)], strings.TrimSpace(cmd.CommandPath()+" "+strings.Join(names, " ")))
		}
		return nil
	}
}

// atLeast wants an argument for each name, and takes more.
func atLeast(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return fmt.Errorf("%s is missing; write `%s`", names[len(args)], cmd.UseLine())
		}
		return nil
	}
}

// client connects to the running node: --socket, else the environment, else
// the configuration, even if that has errors.
func (a *app) client() *control.Client {
	path := a.socket
	if path == "" {
		path = os.Getenv(socketVariable)
	}
	if path == "" {
		_, path = config.Peek(a.config)
		path = a.answering(path)
	}
	return control.NewClient(path)
}

// answering is where the node answers that runs with the configuration: not where that
// says now, if somebody changed it there, which counts from the next start on.
func (a *app) answering(path string) string {
	if _, err := os.Stat(path); path == config.DefaultSocket || !errors.Is(err, fs.ErrNotExist) {
		return path
	}
	client := control.NewClient(config.DefaultSocket)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	own, err := filepath.Abs(a.config)
	if status, asked := client.Status(ctx); err != nil || asked != nil || status.Configuration.File != own {
		return path
	}
	return config.DefaultSocket
}

// sentence is an error as one line: what is wrong, where, what to do.
func sentence(err error) string {
	text := strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "\n", " ")), " ")
	return strings.TrimSuffix(text, ".")
}

// load reads the configuration. Its problems are shown in full on the error
// stream before the one sentence.
func (a *app) load() (*config.Config, error) {
	c, diags := config.Load(a.config)
	if len(diags) > 1 || len(diags) == 1 && !diags.HasErrors() {
		diags.Write(a.err, a.style(a.err).on) //nolint:errcheck // nowhere else to say it
	}
	if err := diags.Err(); err != nil {
		return nil, err
	}
	return c, nil
}
