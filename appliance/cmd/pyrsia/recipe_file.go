package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/hcl/recipe"
	"github.com/pyrsia/appliance/modules/buildspec"
	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/record"
)

func recipeFmtCommand(a *app) *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "fmt FILE…",
		Short: "Lay recipe files out in the canonical way",
		Long: `Lay recipe files out in the canonical way: indentation, spaces and aligned equals
signs. Nothing else changes, comments included, and neither does the recipe's hash.
"-" reads standard input and writes standard output.`,
		Example: "  pyrsia recipe fmt plexus-archiver.hcl\n  pyrsia recipe fmt --check /etc/pyrsia/recipes.d/*.hcl",
		Args:    atLeast("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && args[0] == "-" {
				return a.formatRecipeStream(cmd.InOrStdin(), check)
			}
			return a.formatRecipes(args, check)
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, fmt.Sprintf("change nothing; exit code %d if the layout would change", exitUnformatted))
	return cmd
}

func (a *app) formatRecipeStream(in io.Reader, check bool) error {
	if a.json {
		return errors.New("--json and - do not go together: what comes out is the recipe")
	}
	source, err := io.ReadAll(io.LimitReader(in, maxBeside))
	if err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	formatted, err := a.formattedRecipe(source, "standard input")
	switch {
	case err != nil:
		return err
	case check && !bytes.Equal(source, formatted):
		return coded{exitUnformatted, errors.New("the recipe has another layout; `pyrsia recipe fmt` changes it")}
	case check:
		return nil
	}
	_, err = a.out.Write(formatted)
	return err
}

func (a *app) formatRecipes(files []string, check bool) error {
	layouts, unlike := []layout{}, map[string][]byte{}
	for _, file := range files {
		source, err := readBeside(file)
		if err != nil {
			return fileError(file, err)
		}
		formatted, err := a.formattedRecipe(source, file)
		if err != nil {
			return err
		}
		changed := !bytes.Equal(source, formatted)
		if changed {
			unlike[file] = formatted
		}
		layouts = append(layouts, layout{file, changed})
	}
	for _, l := range layouts { // all of them are recipes: a broken one changes none
		if !l.Changed || check {
			continue
		}
		if err := durable.Rewrite(l.File, unlike[l.File]); err != nil {
			return fmt.Errorf("%s was not changed: %w", l.File, err)
		}
	}
	err := a.show(layouts, func(w io.Writer, s style) {
		for _, l := range layouts {
			switch {
			case !l.Changed:
				fmt.Fprintf(w, "%s is laid out %s\n", l.File, s.green("well"))
			case check:
				fmt.Fprintf(w, "%s has another layout\n", l.File)
			default:
				fmt.Fprintf(w, "%s has a new layout\n", l.File)
			}
		}
	})
	if err == nil && check && len(unlike) > 0 {
		err = coded{exitUnformatted, fmt.Errorf("%d of %d recipes have another layout; `pyrsia recipe fmt` changes it", len(unlike), len(files))}
	}
	return err
}

func (a *app) formattedRecipe(source []byte, name string) ([]byte, error) {
	formatted, err := recipe.Format(source, name)
	if problems, ok := errors.AsType[*recipe.Error](err); ok {
		if !a.json {
			fmt.Fprintf(a.err, "%s\n\n", problems)
		}
		return nil, &brokenRecipe{name, problems.Problems()}
	}
	return formatted, err
}

// recipeOf is the recipe that an argument names: a file, or else one that the node
// knows, by package URL or hash.
func (a *app) recipeOf(ctx context.Context, ref string) (*record.Recipe, error) {
	if !strings.HasPrefix(ref, "pkg:") {
		if _, err := os.Stat(ref); err == nil || strings.ContainsAny(ref, "/.") {
			return a.loadRecipe(ref)
		}
	}
	client := a.client()
	defer client.Close()
	detail, err := patiently(ctx, a, "asking the node", func(ctx context.Context) (control.RecipeDetail, error) {
		return client.Recipe(ctx, ref)
	})
	return detail.Content, err
}

// shown is what `recipe show --json` prints.
type shown struct {
	Hash      string         `json:"hash"`
	Canonical *record.Recipe `json:"recipe"`
}

func recipeShowCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show FILE|PURL|HASH",
		Short: "A recipe in its canonical form, as the members see it",
		Long: `A recipe in its canonical form, with every default filled in: of a file, or of the
chain by its package URL or hash. Two recipes are the same exactly if this prints the
same. With --json it is what the hash is made of, indented.`,
		Example: "  pyrsia recipe show plexus-archiver.hcl\n  pyrsia recipe show " + plexus,
		Args:    exactly("FILE|PURL|HASH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.recipeOf(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.show(shown{r.Hash().String(), r}, func(w io.Writer, _ style) {
				fmt.Fprintf(w, "# sha256:%s\n\n%s", r.Hash(), recipe.Write(r))
			})
		},
	}
}

// comparison is what `recipe diff --json` prints.
type comparison struct {
	Left  string `json:"left"` // hashes
	Right string `json:"right"`
	Same  bool   `json:"same"`
	Diff  string `json:"diff"` // unified, of the canonical forms
}

func recipeDiffCommand(a *app) *cobra.Command {
	var exit bool
	cmd := &cobra.Command{
		Use:   "diff RECIPE RECIPE",
		Short: "What two recipes have that is not the same",
		Long: `What two recipes have that is not the same, line by line of their canonical forms:
comments, layout and what is a default anyway do not show. Each is a file, or a
package URL or hash that the node knows.`,
		Example: "  pyrsia recipe diff old.hcl new.hcl\n  pyrsia recipe diff " + plexus + " plexus-archiver.hcl",
		Args:    exactly("RECIPE", "RECIPE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			left, err := a.recipeOf(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			right, err := a.recipeOf(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			c := comparison{Left: left.Hash().String(), Right: right.Hash().String(), Same: left.Hash() == right.Hash()}
			c.Diff = string(diff.Diff(args[0], recipe.Write(left), args[1], recipe.Write(right)))
			err = a.show(c, func(w io.Writer, s style) {
				if c.Same {
					fmt.Fprintf(w, "the same recipe, sha256:%s\n", c.Left)
					return
				}
				writeDiff(w, s, c.Diff)
			})
			if err == nil && exit && !c.Same {
				err = coded{exitUnformatted, errors.New("the recipes differ")}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&exit, "exit-code", false, fmt.Sprintf("exit code %d if they differ", exitUnformatted))
	return cmd
}

func writeDiff(w io.Writer, s style, text string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "+"):
			line = s.green(line)
		case strings.HasPrefix(line, "-"):
			line = s.red(line)
		}
		fmt.Fprintln(w, line)
	}
}

// newRecipe are the flags of `recipe new`.
type newRecipe struct {
	importing
	jdk, maven, command, git, tag, umask string
}

func recipeNewCommand(a *app) *cobra.Command {
	n := &newRecipe{importing: importing{app: a}}
	cmd := &cobra.Command{
		Use:   "new PURL",
		Short: "Begin a recipe for a released Maven package",
		Long: `Begin a recipe for a released Maven package. The release's source is fetched, from
its git repository with --git, or else the source-release archive beside its other
files; its digest, its modules and what of them was released go into the recipe.
What the release was built with is not known from that: give the JDK and the release
of Maven, which the jar's own manifest and the project's build often tell, and try
the recipe with "pyrsia recipe test".`,
		Example: "  pyrsia recipe new " + plexus + " --jdk 21 --maven 3.9.11 -o .\n  pyrsia recipe new pkg:maven/org.acme/thing@1.0 --git https://git.example/thing.git --tag v1.0",
		Args:    exactly("PURL"),
		RunE:    func(cmd *cobra.Command, args []string) error { return n.run(cmd.Context(), args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&n.jdk, "jdk", "17", "major version of the JDK")
	flags.StringVar(&n.maven, "maven", "3.9.9", "release of Maven")
	flags.StringVar(&n.command, "command", "mvn clean package -DskipTests -Dmaven.javadoc.skip -Dgpg.skip", "what builds it")
	flags.StringVar(&n.git, "git", "", "`URL` of the git repository")
	flags.StringVar(&n.tag, "tag", "", "tag of the release in it")
	flags.StringVar(&n.umask, "umask", "", "umask; the default is what the source archive shows, or 002")
	flags.StringVarP(&n.output, "output", "o", "", "write the recipe into this `FOLDER` instead of printing it")
	flags.StringVar(&n.repository, "repository", "", "`URL` of the Maven repository of the release; the default is the maven upstream of pyrsia.hcl")
	flags.StringArrayVar(&n.builders, "builder", nil, "builder image for a JDK, as `JDK=PURL`; may be given again")
	flags.BoolVar(&n.force, "force", false, "replace a recipe that is there and differs")
	return cmd
}

func (n *newRecipe) run(ctx context.Context, ref string) error {
	purl, err := parsePURL(ref)
	if err != nil {
		return err
	}
	if purl.Type() != "maven" {
		return fmt.Errorf("%s is no Maven package; begin with a recipe of hcl/examples/recipes instead", purl)
	}
	if (n.git == "") != (n.tag == "") {
		return errors.New("--git and --tag go together")
	}
	spec, err := buildspec.New(map[string]string{
		"groupId": purl.Namespace(), "artifactId": purl.Name(), "version": purl.Version(), "tool": "mvn-" + n.maven, "jdk": n.jdk,
		"newline": "lf", "umask": n.umask, "command": n.command, "gitRepo": n.git, "gitTag": n.tag,
	})
	if err != nil {
		return err
	}
	n.archive = n.git == ""
	importer, err := n.importer()
	if err != nil {
		return err
	}
	reminder := n.app.remind("fetching")
	defer reminder.stop()
	done := imported{File: string(purl), State: "imported", Notes: []string{}}
	made, err := importer.Import(ctx, spec, nil)
	if err == nil {
		err = reread(made, "the recipe")
	}
	if err != nil {
		return fmt.Errorf("no recipe: %w", err)
	}
	if !strings.Contains(n.command, " -P") {
		made.Notes = append(made.Notes, "JDK, Maven, command, locale and working folder are assumed: many releases are built with a profile of their parent pom (-P…), without which sources and source archives are not made")
	}
	n.finish(&done, made, fmt.Sprintf("Begun by `pyrsia recipe new %s`.", purl))
	return n.tell([]imported{done})
}
