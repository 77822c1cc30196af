package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/pyrsia/appliance/hcl/recipe"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build/input"
	"github.com/pyrsia/appliance/modules/buildspec"
	"github.com/pyrsia/appliance/modules/buildspec/web"
)

// builders are the images that an import takes where it is told no others: those of
// hcl/examples/recipes.
//
// From 17.0.14 on, javac turns each part of a concatenated string into text before the
// next (JDK-8273914), so that classes for Java 9 and later are not those of before.
var builders = buildspec.Builders{
	{JDK: "8", Image: "pkg:docker/pyrsia/jdk8@sid"},
	{JDK: "11", Image: "pkg:docker/pyrsia/jdk11@sid"},
	{JDK: "17", Image: "pkg:docker/pyrsia/jdk17@bookworm"},
	{JDK: "17", Image: "pkg:docker/pyrsia/jdk17@bullseye", Before: "17.0.14"},
	{JDK: "21", Image: "pkg:docker/pyrsia/jdk21@trixie"},
	{JDK: "25", Image: "pkg:docker/pyrsia/jdk25@trixie"},
}

// importing is one run of `recipe import`.
type importing struct {
	app        *app
	output     string // folder
	repository string
	builders   []string // JDK=PURL
	force      bool
	archive    bool // ask no git repository

	written map[string]string // which file made which recipe in this run
}

// imported is what `recipe import --json` prints of each buildspec.
type imported struct {
	File    string        `json:"file"`
	State   string        `json:"state"` // "imported", "refused" or "failed"
	Package artifact.PURL `json:"package,omitempty"`
	Recipe  string        `json:"recipe,omitempty"` // the file that was written
	Hash    string        `json:"hash,omitempty"`
	Outputs int           `json:"outputs"`
	Reason  string        `json:"reason,omitempty"`
	Notes   []string      `json:"notes"`
	Text    string        `json:"text,omitempty"` // the recipe, where no folder was named for it

	text []byte
	err  error
}

func recipeImportCommand(a *app) *cobra.Command {
	i := &importing{app: a}
	cmd := &cobra.Command{
		Use:   "import BUILDSPEC|FOLDER…",
		Short: "Make recipes of Reproducible Central's buildspecs",
		Long: `Make recipes of Reproducible Central's buildspecs. A buildspec is read by a shell's
grammar and never run. The release's source is fetched, so that the recipe can name
it by its digest and its modules are found; the .buildinfo beside a buildspec says
what was released. What cannot be imported is told with the reason, and a folder is
gone through as a whole.`,
		Example: "  pyrsia recipe import plexus-archiver-4.10.2.buildspec\n  pyrsia recipe import reproducible-central/content -o imported/",
		Args:    atLeast("BUILDSPEC|FOLDER"),
		RunE:    func(cmd *cobra.Command, args []string) error { return i.run(cmd.Context(), args) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&i.output, "output", "o", "", "write each recipe into this `FOLDER`, instead of printing the only one")
	flags.StringVar(&i.repository, "repository", "", "`URL` of the Maven repository of the release; the default is the maven upstream of pyrsia.hcl")
	flags.StringArrayVar(&i.builders, "builder", nil, "builder image for a JDK or one update of it, as `JDK=PURL`; may be given again")
	flags.BoolVar(&i.force, "force", false, "replace recipes that are there and differ")
	flags.BoolVar(&i.archive, "archive", false, "take source-release archives, and ask no git repository")
	return cmd
}

func (i *importing) run(ctx context.Context, args []string) error {
	files, err := specFiles(args)
	if err != nil {
		return err
	}
	if i.output == "" && len(files) > 1 {
		return fmt.Errorf("%d buildspecs make %d recipes; name the folder for them: -o FOLDER", len(files), len(files))
	}
	importer, err := i.importer()
	if err != nil {
		return err
	}
	all := i.each(ctx, importer, files)
	if err := ctx.Err(); err != nil {
		return err
	}
	return i.tell(all)
}

// specFiles are the buildspecs that the arguments name, those of a folder by name.
func specFiles(args []string) ([]string, error) {
	var files []string
	for _, arg := range args {
		info, err := os.Stat(arg)
		if err != nil {
			return nil, fileError(arg, err)
		}
		if !info.IsDir() {
			files = append(files, arg)
			continue
		}
		before := len(files)
		err = filepath.WalkDir(arg, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() && filepath.Ext(path) == ".buildspec" {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			return nil, fileError(arg, err)
		}
		if len(files) == before {
			return nil, fmt.Errorf("%s has no file whose name ends in .buildspec", arg)
		}
	}
	return files, nil
}

func (i *importing) importer() (*buildspec.Importer, error) {
	base := i.repository
	if base == "" {
		cfg, err := i.app.load()
		if err != nil {
			return nil, fmt.Errorf("where releases are is not known: %w; or give --repository URL", err)
		}
		for _, m := range cfg.Mirrors {
			if m.Kind == "maven" {
				base = m.Upstream
			}
		}
		if base == "" {
			return nil, fmt.Errorf("%s has no upstream in mirror \"maven\"; give --repository URL", cfg.File)
		}
	}
	repository, err := web.New(base)
	if err != nil {
		return nil, err
	}
	chosen := slices.Clone(builders)
	for _, pair := range i.builders {
		jdk, text, ok := strings.Cut(pair, "=")
		purl, err := artifact.ParsePURL(text)
		if !ok || err != nil || purl.Type() != "docker" || purl.Version() == "" {
			return nil, fmt.Errorf("--builder %s: want a JDK and the package URL of an image, such as 17=pkg:docker/acme/jdk17@1", pair)
		}
		chosen = slices.DeleteFunc(chosen, func(b buildspec.Builder) bool { return b.JDK == jdk })
		chosen = append(chosen, buildspec.Builder{JDK: jdk, Image: purl})
	}
	importer := &buildspec.Importer{Repository: repository, Builders: chosen}
	if !i.archive {
		importer.Sources = commits{}
	}
	return importer, nil
}

// commits are git repositories as an import asks them.
type commits struct{ input.Commits }

// Pack implements buildspec.Sources.
func (c commits) Pack(ctx context.Context, repository, tag string, w io.Writer) (string, error) {
	commit, err := c.Commits.Pack(ctx, repository, tag, w)
	if errors.Is(err, input.ErrAbsent) {
		err = absentCommit{err}
	}
	return commit, err
}

// absentCommit is an error that is buildspec.ErrAbsent, too, and says so in its own words.
type absentCommit struct{ error }

// Unwrap is for package errors.
func (a absentCommit) Unwrap() []error { return []error{a.error, buildspec.ErrAbsent} }

// importsAtOnce is how many buildspecs are imported at once: most of the time goes into
// waiting for the repository.
const importsAtOnce = 4

func (i *importing) each(ctx context.Context, importer *buildspec.Importer, files []string) []imported {
	all, made := make([]imported, len(files)), make([]*buildspec.Imported, len(files))
	order := &inOrder{done: make([]bool, len(files)), do: func(n int) {
		if made[n] != nil {
			i.finish(&all[n], made[n], "Imported by `pyrsia recipe import` from "+filepath.Base(files[n])+".")
		}
		if len(files) > 1 && !i.app.json {
			fmt.Fprintf(i.app.err, "%s: %s\n", strings.Map(printableOrSpace, files[n]), all[n].State)
		}
	}}
	reminder := i.app.remind("importing")
	defer reminder.stop()
	slots := make(chan struct{}, importsAtOnce)
	var running sync.WaitGroup
	for n, file := range files {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		running.Go(func() {
			defer func() { <-slots }()
			all[n], made[n] = i.one(ctx, importer, file)
			if ctx.Err() == nil { // what was interrupted is not refused
				reminder.print("importing", func() { order.ready(n) })
			}
		})
	}
	running.Wait()
	return all
}

// inOrder does things one after the other in their order, whichever is ready first: of two
// buildspecs for one release it is always the same that makes the recipe.
type inOrder struct {
	mu   sync.Mutex
	done []bool
	next int
	do   func(n int)
}

func (o *inOrder) ready(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.done[n] = true; o.next < len(o.done) && o.done[o.next]; o.next++ {
		o.do(o.next)
	}
}

func (i *importing) one(ctx context.Context, importer *buildspec.Importer, file string) (imported, *buildspec.Imported) {
	done := imported{File: file, State: "imported", Notes: []string{}}
	made, err := importSpec(ctx, importer, file)
	if err != nil {
		done.State, done.Reason, done.err = "refused", strings.Map(printableOrSpace, sentence(err)), err
	}
	return done, made
}

// finish writes a recipe that was made, and says so in done.
func (i *importing) finish(done *imported, made *buildspec.Imported, origin string) {
	done.Package, done.Hash, done.Outputs = made.Recipe.Package, made.Recipe.Hash().String(), len(made.Recipe.Outputs)
	done.Notes = append(done.Notes, made.Notes...)
	done.text = annotated(origin, made)
	if i.output == "" {
		done.Text = string(done.text)
		return
	}
	done.Recipe = filepath.Join(i.output, made.Recipe.Package.Name()+"-"+made.Recipe.Package.Version()+".hcl")
	if other, taken := i.written[done.Recipe]; taken {
		done.err = fmt.Errorf("%s is of the same release, and made %s; give one of the two", other, done.Recipe)
		done.State, done.Reason = "failed", sentence(done.err)
		return
	}
	if i.written == nil {
		i.written = map[string]string{}
	}
	i.written[done.Recipe] = done.File
	if err := i.write(done.Recipe, done.text); err != nil {
		done.State, done.Reason, done.err = "failed", sentence(err), err
	}
}

// importSpec imports a buildspec with what lies beside it.
func importSpec(ctx context.Context, importer *buildspec.Importer, file string) (*buildspec.Imported, error) {
	data, err := readBeside(file)
	if err != nil {
		return nil, err
	}
	spec, err := buildspec.Parse(data, file)
	if err != nil {
		return nil, err
	}
	expected, err := expectedBeside(strings.TrimSuffix(file, ".buildspec"))
	if err != nil {
		return nil, err
	}
	made, err := importer.Import(ctx, spec, expected)
	if err != nil {
		return nil, err
	}
	return made, reread(made, "the recipe of "+file)
}

// reread holds what was made to the rules for what people write by hand. Text in another
// Unicode form than NFC would come back changed, and name other files.
func reread(made *buildspec.Imported, name string) error {
	written, err := recipe.Parse(recipe.Write(made.Recipe), name)
	if err != nil {
		return err
	}
	if written.Hash() != made.Recipe.Hash() {
		return fmt.Errorf("%s: a name in it is not in Unicode's composed form (NFC), which recipes are written in", name)
	}
	return nil
}

func expectedBeside(stem string) (*buildspec.Expected, error) {
	expected := new(buildspec.Expected)
	data, err := readBeside(stem + ".buildinfo")
	if err == nil {
		expected, err = buildspec.ParseBuildinfo(data, stem+".buildinfo")
	}
	if err == nil && len(expected.Outputs) == 0 {
		return nil, fmt.Errorf("%s.buildinfo names no output with its digest; correct it, or take it away", stem)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	data, err = readBeside(stem + ".buildcompare")
	if err == nil {
		err = expected.ParseBuildcompare(data, stem+".buildcompare")
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return expected, nil
}

// maxBeside bounds the files of an import, bytes.
const maxBeside = 8 << 20

func readBeside(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fmt.Errorf("%s is a folder; want a file", file)
	}
	if !info.Mode().IsRegular() || info.Size() > maxBeside {
		return nil, fmt.Errorf("%s: want a file of at most %d bytes", file, maxBeside)
	}
	return os.ReadFile(file)
}

// annotated is a recipe's text with what a reviewer should know above it.
func annotated(origin string, made *buildspec.Imported) []byte {
	lines := []string{origin}
	for _, note := range made.Notes {
		lines = append(lines, "Note: "+note+".")
	}
	var text strings.Builder
	for _, line := range lines {
		text.WriteString("# " + strings.Map(printableOrSpace, line) + "\n")
	}
	return append([]byte(text.String()+"\n"), recipe.Write(made.Recipe)...)
}

// printableOrSpace keeps a text on its line, and a terminal from doing what it says.
func printableOrSpace(r rune) rune {
	if !unicode.IsPrint(r) {
		return ' '
	}
	return r
}

// write puts a recipe into its file. One that is there and differs is somebody's.
func (i *importing) write(path string, text []byte) error {
	if err := os.MkdirAll(i.output, 0o755); err != nil {
		return fileError(i.output, err)
	}
	old, err := os.ReadFile(path)
	switch {
	case err == nil && string(old) == string(text):
		return nil
	case err == nil && !i.force:
		return fmt.Errorf("%s is there and differs; compare them with `pyrsia recipe diff`, or give --force to replace it", path)
	}
	return writeFile(path, text, 0o644)
}

func (i *importing) tell(all []imported) error {
	good := 0
	for _, done := range all {
		if done.err == nil {
			good++
		}
	}
	if i.output == "" && good == 1 && !i.app.json {
		_, err := i.app.out.Write(all[0].text)
		return err
	}
	if err := i.app.show(all, func(w io.Writer, s style) { writeImported(w, s, all, good) }); err != nil {
		return err
	}
	if len(all) == 1 && !i.app.json {
		for _, note := range all[0].Notes {
			fmt.Fprintf(i.app.err, "note: %s\n", strings.Map(printableOrSpace, note))
		}
	}
	if len(all) == 1 && all[0].err != nil {
		return fmt.Errorf("not imported: %w", all[0].err)
	}
	failed := slices.ContainsFunc(all, func(done imported) bool { return done.State == "failed" })
	if good == 0 || failed {
		return fmt.Errorf("%d of %d buildspecs were imported; the others are above with their reasons", good, len(all))
	}
	return nil
}

func writeImported(w io.Writer, s style, all []imported, good int) {
	if len(all) == 1 && all[0].err != nil {
		return // the error says it
	}
	rows := make([][]string, len(all))
	for n, done := range all {
		what := string(done.Package)
		if what == "" {
			what = strings.Map(printableOrSpace, filepath.Base(done.File))
		}
		rows[n] = []string{s.verdict(done.State), what, fmt.Sprint(done.Outputs), firstOf(done.Reason, done.Recipe)}
	}
	table(w, s, []string{"STATE", "PACKAGE", "FILES", "RECIPE OR REASON"}, rows)
	fmt.Fprintf(w, "\n%d of %d imported\n", good, len(all))
}

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}
