package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/hcl/recipe"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build/buildkit/relay"
	"github.com/pyrsia/appliance/modules/record"
	"github.com/spf13/cobra"
)

func recipeCommand(a *app) *cobra.Command {
	return group("recipe", "Make, check and compare recipes, find their inputs", "  pyrsia recipe check plexus-archiver.hcl\n  pyrsia recipe list",
		recipeNewCommand(a), recipeImportCommand(a), recipeSourceCommand(a), recipeCheckCommand(a), recipeFmtCommand(a), recipeShowCommand(a), recipeDiffCommand(a), recipeTestCommand(a), recipeLockCommand(a), recipeListCommand(a))
}

// checked is what `recipe check --json` prints of each file.
type checked struct {
	File     string           `json:"file"`
	Package  artifact.PURL    `json:"package,omitempty"`
	Hash     string           `json:"hash,omitempty"`
	Files    []artifact.Name  `json:"files"`
	Problems []recipe.Problem `json:"problems"`
}

func recipeCheckCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "check FILE…",
		Short:   "Tell all problems of recipe files, and the hash of the good ones",
		Example: "  pyrsia recipe check plexus-archiver.hcl\n  pyrsia recipe check /etc/pyrsia/recipes.d/*.hcl",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return exactly("FILE")(cmd, args)
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			all, bad, first := make([]checked, len(args)), 0, error(nil)
			for i, file := range args {
				loaded, err := a.loadRecipe(file)
				all[i] = checkedOf(file, loaded, err)
				if err != nil && first == nil {
					first = err
				}
				if err != nil {
					bad++
				}
			}
			err := a.show(all, func(w io.Writer, s style) { writeChecked(w, s, all) })
			if err != nil || bad == 0 {
				return err
			}
			if bad == 1 {
				return first
			}
			return fmt.Errorf("%d of %d recipes are wrong; the first: %w", bad, len(args), first)
		},
	}
}

func checkedOf(file string, r *record.Recipe, err error) checked {
	c := checked{File: file, Files: []artifact.Name{}, Problems: []recipe.Problem{}}
	if r != nil {
		c.Package, c.Hash, c.Files = r.Package, r.Hash().String(), r.Files()
	}
	if broken, ok := errors.AsType[*brokenRecipe](err); ok {
		c.Problems = broken.problems
	} else if err != nil {
		c.Problems = []recipe.Problem{{File: file, Summary: "Cannot read the recipe", Detail: err.Error()}}
	}
	return c
}

func writeChecked(w io.Writer, s style, all []checked) {
	for _, c := range all {
		if c.Hash == "" {
			continue
		}
		fmt.Fprintf(w, "%s is %s\n", c.File, s.green("good"))
		names := make([]string, len(c.Files))
		for i, name := range c.Files {
			names[i] = name.File
		}
		fields(w, s, "  package", string(c.Package), "  recipe", "sha256:"+c.Hash, "  makes", strings.Join(names, " "))
	}
}

// brokenRecipe is a recipe file with problems, which were shown in full.
type brokenRecipe struct {
	file     string
	problems []recipe.Problem
}

// Error implements error: the first problem, and how many more there are.
func (b *brokenRecipe) Error() string {
	first := b.problems[0]
	text := fmt.Sprintf("%s:%d: %s: %s", b.file, first.Line, first.Summary, strings.TrimSuffix(first.Detail, "."))
	if more := len(b.problems) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more, shown above)", more)
	}
	return text
}

// loadRecipe reads a recipe file and shows all its problems to people.
func (a *app) loadRecipe(file string) (*record.Recipe, error) {
	r, err := recipe.Load(file)
	if err == nil {
		return r, nil
	}
	return nil, a.tellRecipe(file, err)
}

// tellRecipe shows all problems of a recipe file, and is the error that names the first.
func (a *app) tellRecipe(file string, err error) error {
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return fileError(file, err)
	}
	problems, ok := errors.AsType[*recipe.Error](err)
	if !ok || problems.Len() == 0 {
		return err
	}
	if !a.json {
		fmt.Fprintf(a.err, "%s\n\n", problems)
	}
	return &brokenRecipe{file, problems.Problems()}
}

func recipeLockCommand(a *app) *cobra.Command {
	var output string
	var explain bool
	cmd := &cobra.Command{
		Use:   "lock FILE",
		Short: "Run a recipe once to find its inputs, and print the lock",
		Long: `Run a recipe once on the running node, able to reach nothing but the node's
recording mirror, and print the lock: every file that it took, by digest. Nothing
is published. A request makes its own lock; this one shows what a recipe needs.`,
		Example: "  pyrsia recipe lock plexus-archiver.hcl -o plexus-archiver.lock.json\n  pyrsia recipe lock plexus-archiver.hcl --explain",
		Args:    exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client := a.client()
			defer client.Close()
			var lock *record.Lock
			err := a.atWork(cmd.Context(), client, args[0], "resolving", func(r *record.Recipe, tell func(string) error) (err error) {
				if lock, err = client.ResolveLock(cmd.Context(), r, tell); err != nil {
					err = fmt.Errorf("no lock for %s: %w", args[0], err)
				}
				return err
			})
			if err != nil {
				return err
			}
			if explain {
				return a.explainLock(cmd.Context(), client, lock, output)
			}
			return a.printLock(lock, output)
		},
	}
	cmd.Flags().BoolVar(&explain, "explain", false, "list each file with what it is to the build, and which pom names it")
	cmd.Flags().StringVarP(&output, "output", "o", "", "write the lock to this `FILE` instead of printing it")
	return cmd
}

// explainLock tells why each file is in a lock.
func (a *app) explainLock(ctx context.Context, client *control.Client, lock *record.Lock, output string) error {
	if output != "" {
		if err := a.printLock(lock, output); err != nil {
			return err
		}
	}
	inputs, err := client.Explain(ctx, lock)
	if err != nil {
		return err
	}
	d := newDeps(inputs)
	return a.show(d, func(w io.Writer, s style) {
		writeShares(w, s, d)
		writeInputs(w, s, inputs, true)
	})
}

// printLock prints the lock indented; its canonical form is in the log.
func (a *app) printLock(lock *record.Lock, output string) error {
	data, err := json.MarshalIndent(lock, "", "  ")
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	data = append(data, '\n')
	if output == "" || output == "-" {
		_, err = a.out.Write(data)
		return err
	}
	if err := writeFile(output, data, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(a.err, "%d locked files are in %s\n", len(lock.Entries), output)
	return nil
}

func recipeListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "The recipes of the chain and of the node's own folder",
		Example: "  pyrsia recipe list\n  pyrsia recipe list --json",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := a.client()
			defer client.Close()
			recipes, err := patiently(cmd.Context(), a, "asking the node", func(ctx context.Context) ([]control.Recipe, error) {
				return client.Recipes(ctx)
			})
			if err != nil {
				return err
			}
			return a.show(recipes, func(w io.Writer, s style) { writeRecipes(w, s, recipes) })
		},
	}
}

func writeRecipes(w io.Writer, s style, recipes []control.Recipe) {
	if len(recipes) == 0 {
		fmt.Fprintln(w, "no recipes; put recipe files into build.recipes of the build nodes")
		return
	}
	rows := make([][]string, len(recipes))
	for i, r := range recipes {
		endorsed := fmt.Sprintf("%d/%d", len(r.Endorsed), len(r.Endorsed)+len(r.Missing))
		rows[i] = []string{string(r.Package), s.verdict(r.State), number(r.Leaf), endorsed, r.Hash.Short(), r.File, r.Reason}
	}
	table(w, s, []string{"PACKAGE", "STATE", "LEAF", "ENDORSED", "RECIPE", "FILE", "REASON"}, rows)
}

// relayCommand is what a resolving build runs inside its own network. It is no
// verb for people.
func relayCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "relay SOCKET ADDRESS -- COMMAND", Hidden: true, DisableFlagParsing: true,
		Example: "  pyrsia relay /run/mirror.sock 127.0.0.1:7889 -- /bin/sh -c 'mvn package'",
		Run: func(_ *cobra.Command, args []string) {
			// The command decides itself what a signal means for it.
			signal.Reset()
			if code := relay.Run(args, a.err); code != 0 {
				os.Exit(code) // the command's own code is what the build sees
			}
		},
	}
}
