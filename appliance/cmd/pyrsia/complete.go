package main

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/hcl/config"
	"github.com/spf13/cobra"
)

// completer finds what the next argument of a verb may be, given those before it. It
// finds nothing rather than to complain.
type completer func(ctx context.Context, a *app, args []string) []string

// completers are those of verbs whose arguments are known, by the verb without the
// program's name. A verb without one, and with arguments, takes files.
var completers = map[string]completer{
	"role":          first(oneOf(string(config.RoleBuild), string(config.RoleRegular), roleUnset)),
	"peer add":      nothing,
	"peer remove":   first(peerNames),
	"mirror add":    first(mirrorKinds),
	"mirror remove": mirrored,
	"config schema": first(settingNames),
	"config history": first(asking(func(ctx context.Context, c *control.Client) (names []string, err error) {
		taken, err := c.History(ctx)
		for _, t := range taken {
			names = append(names, strconv.Itoa(t.Number))
		}
		return names, err
	})),
	"build request": first(asking(recipePackages)),
	"build status":  first(asking(buildPackages)),
	"build logs":    first(asking(buildPackages)),
	"build remains": first(asking(buildPackages)),
	"log inspect":   first(asking(buildPackages)),
	"log prove":     first(asking(keptFiles)),
	"sources":       first(asking(keptFiles)),
	"network init":  nothing,
}

// flagCompleters are those of flags, by verb and flag.
var flagCompleters = map[string]completer{
	"peer add --id":           asking(connected),
	"mirror add --unverified": oneOf("refuse", "build", "pass"),
	"build logs --progress":   oneOf("auto", "plain", "tty"),
}

// complete teaches a tree of verbs what their arguments may be.
func (a *app) complete(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		a.complete(cmd)
	}
	verb := strings.TrimPrefix(root.CommandPath(), "pyrsia ")
	switch find, known := completers[verb]; {
	case known:
		root.ValidArgsFunction = a.completion(find)
	case strings.Contains(root.Use, "FILE"):
		root.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		}
	case root.Runnable() && !root.HasSubCommands():
		root.ValidArgsFunction = cobra.NoFileCompletions
	}
	for name, find := range flagCompleters {
		if of, flag, _ := strings.Cut(name, " --"); of == verb {
			root.RegisterFlagCompletionFunc(flag, a.completion(find)) //nolint:errcheck // a test sees that it works
		}
	}
}

// typing is how long a node may take that is asked while somebody types.
const typing = time.Second

func (a *app) completion(find completer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), typing)
		defer cancel()
		var fitting []string
		for _, name := range find(ctx, a, args) {
			if strings.HasPrefix(name, begun) && !slices.Contains(fitting, name) {
				fitting = append(fitting, name)
			}
		}
		return fitting, cobra.ShellCompDirectiveNoFileComp
	}
}

// first finds the first argument, and no second one.
func first(find completer) completer {
	return func(ctx context.Context, a *app, args []string) []string {
		if len(args) > 0 {
			return nil
		}
		return find(ctx, a, args)
	}
}

func oneOf(names ...string) completer {
	return func(context.Context, *app, []string) []string { return names }
}

func nothing(context.Context, *app, []string) []string { return nil }

// asking finds what a running node knows.
func asking(ask func(context.Context, *control.Client) ([]string, error)) completer {
	return func(ctx context.Context, a *app, _ []string) []string {
		client := a.client()
		defer client.Close()
		names, _ := ask(ctx, client)
		return names
	}
}

func peerNames(_ context.Context, a *app, _ []string) (names []string) {
	if c, _ := config.Load(a.config); c != nil {
		for _, peer := range c.TrustedBuildPeers {
			names = append(names, peer.Label)
		}
	}
	return names
}

func mirrorKinds(context.Context, *app, []string) []string {
	return []string{config.MirrorDocker, config.MirrorMaven, config.MirrorDebian}
}

// mirrored finds the kinds that are mirrored, and then the packages of that kind.
func mirrored(_ context.Context, a *app, args []string) (names []string) {
	c, _ := config.Load(a.config)
	if c == nil {
		return nil
	}
	for _, m := range c.Mirrors {
		if len(args) == 0 {
			names = append(names, m.Kind)
			continue
		}
		for _, p := range m.Packages {
			if m.Kind == args[0] && !slices.Contains(args[1:], p.String()) {
				names = append(names, p.String())
			}
		}
	}
	return names
}

func settingNames(context.Context, *app, []string) (names []string) {
	for _, s := range config.Schemas() {
		names = append(names, s.Path)
	}
	return names
}

func recipePackages(ctx context.Context, c *control.Client) (names []string, err error) {
	recipes, err := c.Recipes(ctx)
	for _, r := range recipes {
		names = append(names, string(r.Package))
	}
	return names, err
}

func buildPackages(ctx context.Context, c *control.Client) (names []string, err error) {
	builds, err := c.Builds(ctx)
	for _, b := range builds {
		names = append(names, string(b.Package))
	}
	return names, err
}

func keptFiles(ctx context.Context, c *control.Client) (names []string, err error) {
	files, err := c.Sources(ctx, "")
	for _, f := range files {
		names = append(names, f.Name.String())
	}
	return names, err
}

func connected(ctx context.Context, c *control.Client) (names []string, err error) {
	peers, err := c.Peers(ctx)
	for _, p := range peers {
		names = append(names, string(p.Identity))
	}
	return names, err
}
