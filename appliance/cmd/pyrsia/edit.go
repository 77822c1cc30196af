package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/hcl/config"
	"github.com/pyrsia/appliance/modules/durable"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// edited is what a command that changes the configuration says with --json.
type edited struct {
	File     string            `json:"file"`
	Changed  bool              `json:"changed"`
	Reloaded *control.Reloaded `json:"reloaded,omitempty"` // with --reload
}

// editing is a command that changes the configuration: edit makes the change of the
// arguments.
func (a *app) editing(cmd *cobra.Command, edit func(args []string) (config.Edit, error)) *cobra.Command {
	var reload bool
	cmd.Flags().BoolVar(&reload, "reload", false, "also put it in force in the running node")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		change, err := edit(args)
		if err != nil {
			return err
		}
		result := edited{File: a.config}
		if result.Changed, err = a.edit(change); err != nil {
			return err
		}
		if reload {
			client := a.client()
			defer client.Close()
			done, err := patiently(cmd.Context(), a, "the node reloads", client.Reload)
			if err != nil {
				return fmt.Errorf("%s is changed, but not in force: %w", a.config, err)
			}
			if err := a.followUnits(cmd.Context()); err != nil {
				return fmt.Errorf("%s is in force, but the units of the role are not: %w", a.config, err)
			}
			result.Reloaded = &done
		}
		return a.show(result, func(w io.Writer, s style) { writeEdited(w, s, result) })
	}
	return cmd
}

func writeEdited(w io.Writer, s style, e edited) {
	switch {
	case e.Reloaded != nil:
		writeReloaded(w, s, *e.Reloaded)
	case e.Changed:
		fmt.Fprintf(w, "%s is changed; `pyrsia reload` puts it in force\n", e.File)
	default:
		fmt.Fprintf(w, "%s says so already\n", e.File)
	}
}

// edit changes the configuration as a whole or not at all.
func (a *app) edit(change config.Edit) (changed bool, err error) {
	unlock, err := lockFolder(filepath.Dir(a.config))
	if err != nil {
		return false, err
	}
	defer unlock()
	source, err := config.ReadFile(a.config)
	if err != nil {
		return false, fmt.Errorf("%s: %w; give --config FILE", a.config, err)
	}
	if _, already := config.Parse(source, a.config); already.HasErrors() {
		already.Write(a.err, a.style(a.err).on) //nolint:errcheck // nowhere else to say it
		return false, fmt.Errorf("%s has %s already; correct it first, and run this again", a.config, counts(already))
	}
	after, diags, err := config.Apply(source, a.config, change)
	if err != nil {
		return false, fmt.Errorf("%s: %w", a.config, err)
	}
	if diags.HasErrors() {
		diags.Write(a.err, a.style(a.err).on) //nolint:errcheck // nowhere else to say it
		return false, fmt.Errorf("%s was not changed: it would have %s", a.config, counts(diags))
	}
	if bytes.Equal(source, after) {
		return false, nil
	}
	// Somebody may have it open in an editor.
	if now, err := config.ReadFile(a.config); err != nil || !bytes.Equal(now, source) {
		return false, fmt.Errorf("%s was changed by somebody else in this moment; run this again", a.config)
	}
	if err := durable.Rewrite(a.config, after); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return false, fmt.Errorf("%s was not changed: permission denied; run this as root, or as who may write to %s", a.config, filepath.Dir(a.config))
		}
		return false, fmt.Errorf("%s was not changed: %w", a.config, err)
	}
	return true, nil
}

// lockFolder keeps other edits of files in a folder out until unlock is called.
func lockFolder(path string) (unlock func(), err error) {
	folder, err := os.Open(path)
	if err != nil {
		return func() {}, nil //nolint:nilerr // what is wrong with it shows when the file is read
	}
	for {
		err := unix.Flock(int(folder.Fd()), unix.LOCK_EX)
		if err == nil {
			return func() { folder.Close() }, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), folder.Close())
		}
	}
}

func peerCommand(a *app) *cobra.Command {
	return group("peer", "Trust build nodes, and trust them no more", "  pyrsia peer add beta --id 12D3KooW…\n  pyrsia peer remove beta",
		peerAddCommand(a), peerRemoveCommand(a))
}

func peerAddCommand(a *app) *cobra.Command {
	var id string
	var addresses []string
	cmd := &cobra.Command{
		Use:   "add NAME --id PEERID",
		Short: "Add a trusted_build_peer block to the configuration",
		Long: `Add a trusted_build_peer block to the configuration. Nothing else in it changes,
comments included, but its layout, which becomes that of ` + "`pyrsia config fmt`" + `.`,
		Example: "  pyrsia peer add beta --id 12D3KooW… --address /dns4/beta.example/tcp/4001 --reload",
		Args:    exactly("NAME"),
	}
	cmd.Flags().StringVar(&id, "id", "", "its `PEERID`: what `pyrsia id` prints there")
	cmd.Flags().StringArrayVar(&addresses, "address", nil, "a `MULTIADDR` where it can be dialled; may be given again")
	return a.editing(cmd, func(args []string) (config.Edit, error) {
		if id == "" {
			return nil, errors.New("--id is missing; give the PeerID that `pyrsia id` prints on that node")
		}
		return config.AddPeer(args[0], id, addresses), nil
	})
}

func peerRemoveCommand(a *app) *cobra.Command {
	return a.editing(&cobra.Command{
		Use:     "remove NAME|PEERID",
		Short:   "Take a trusted_build_peer block out of the configuration",
		Example: "  pyrsia peer remove beta --reload",
		Args:    exactly("NAME"),
	}, func(args []string) (config.Edit, error) { return config.RemovePeer(args[0]), nil })
}

func mirrorCommand(a *app) *cobra.Command {
	return group("mirror", "Choose what the node serves to build tools", "  pyrsia mirror add maven --upstream https://registry.example/maven2 --unverified pass\n  pyrsia mirror remove docker acme/app",
		mirrorAddCommand(a), mirrorRemoveCommand(a))
}

func mirrorAddCommand(a *app) *cobra.Command {
	var change config.MirrorChange
	cmd := &cobra.Command{
		Use:   "add docker|maven|debian [PACKAGE…]",
		Short: "Declare an ecosystem, or more packages of it",
		Long: `Declare an ecosystem in the configuration, or add packages to one that is declared.
Nothing else in the file changes, comments included, but its layout, which becomes
that of ` + "`pyrsia config fmt`" + `.`,
		Example: "  pyrsia mirror add docker library/debian:13-slim 'acme/*'\n  pyrsia mirror add maven --upstream https://registry.example/maven2 --unverified pass --reload",
		Args:    atLeast("KIND"),
	}
	cmd.Flags().StringVar(&change.Upstream, "upstream", "", "the ordinary registry's `URL`")
	cmd.Flags().StringVar(&change.Unverified, "unverified", "", "what to do with what is not published: refuse, build or pass")
	return a.editing(cmd, func(args []string) (config.Edit, error) {
		change.Packages = args[1:]
		return config.AddMirror(args[0], change), nil
	})
}

func mirrorRemoveCommand(a *app) *cobra.Command {
	return a.editing(&cobra.Command{
		Use:     "remove docker|maven|debian [PACKAGE…]",
		Short:   "Take packages of an ecosystem out, or the whole of it",
		Example: "  pyrsia mirror remove docker acme/app\n  pyrsia mirror remove debian --reload",
		Args:    atLeast("KIND"),
	}, func(args []string) (config.Edit, error) { return config.RemoveMirror(args[0], args[1:]), nil })
}

// roleUnset is how the command line says that systemctl decides.
const roleUnset = "unset"

func roleCommand(a *app) *cobra.Command {
	var untilReload bool
	cmd := a.editing(&cobra.Command{
		Use:   "role build|regular|unset",
		Short: "Make the node a build node or a regular one",
		Long: `Set the role in the configuration: "build" or "regular", or "unset" to leave it to
systemctl. Nothing else in the file changes, comments included, but its layout.

With --until-reload the file stays as it is: the running node takes the role at once,
and keeps it until a configuration that names a role is loaded, at a reload or a
start. That is what systemctl start and stop of pyrsia-role-build.target do.`,
		Example:   "  pyrsia role build --reload\n  pyrsia role regular --until-reload\n  pyrsia role unset",
		Args:      exactly("build|regular|unset"),
		ValidArgs: []string{string(config.RoleBuild), string(config.RoleRegular), roleUnset},
	}, func(args []string) (config.Edit, error) {
		switch args[0] {
		case string(config.RoleBuild), string(config.RoleRegular):
			return config.SetRole(config.Role(args[0])), nil
		case roleUnset:
			return config.SetRole(config.RoleUnset), nil
		}
		return nil, fmt.Errorf("%q is no role; write build, regular or unset", args[0])
	})
	cmd.Flags().BoolVar(&untilReload, "until-reload", false, "change the running node and not the file")
	edit := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !untilReload {
			return edit(cmd, args)
		}
		if cmd.Flags().Changed("reload") {
			return errors.New("--until-reload does not change the file, and --reload is about one that changed; give one of them")
		}
		client := a.client()
		defer client.Close()
		_, err := patiently(cmd.Context(), a, "the node changes its role", func(ctx context.Context) (struct{}, error) {
			return struct{}{}, client.SetRole(ctx, args[0])
		})
		if err != nil {
			return err
		}
		return a.show(map[string]string{"role": args[0]}, func(w io.Writer, _ style) {
			fmt.Fprintf(w, "the node is a %s node until the next reload of a configuration that names a role\n", args[0])
		})
	}
	return cmd
}
