package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pyrsia/appliance/appliance/journal"
	"github.com/pyrsia/appliance/hcl/config"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// What follows is called by units and by who packages the program, and is in no help.

// generatorName is what systemd calls this program by to have it make units
// (systemd.generator(7)).
const generatorName = "pyrsia-generator"

// upMark is there once the machine is up: what starts a role from then on is somebody's
// hand, and not the boot.
const upMark = "/run/pyrsia-up"

const (
	buildTarget = "pyrsia-role-build.target"
	unitFolder  = "/usr/lib/systemd/system"
)

// generator is the program as systemd calls it at boot and at each daemon-reload.
func generator(folders []string, errOut io.Writer) (code int) {
	if err := generate(config.DefaultFile, folders); err != nil {
		fmt.Fprintf(errOut, "%s: %v\n", generatorName, err)
		return 1
	}
	return 0
}

// generate makes units for what pyrsia.hcl says of the role: it wins at boot over what
// is enabled. folders are those of systemd.generator(7): normal, early, late. A
// configuration that cannot be read is the node's to complain about.
func generate(file string, folders []string) error {
	if len(folders) != 3 {
		return errors.New("a generator has three folders: normal, early, late")
	}
	switch config.PeekRole(file) {
	case config.RoleBuild:
		wants := filepath.Join(folders[0], "multi-user.target.wants")
		if err := os.MkdirAll(wants, 0o755); err != nil {
			return err
		}
		return os.Symlink(filepath.Join(unitFolder, buildTarget), filepath.Join(wants, buildTarget))
	case config.RoleRegular:
		return errors.Join(notAtBoot(folders[1], "pyrsia-role-build.service"), notAtBoot(folders[1], "pyrsia-buildkitd.service"))
	}
	return nil
}

// notAtBoot keeps a unit from being started by the boot, though it may be enabled.
func notAtBoot(folder, unit string) error {
	dropIns := filepath.Join(folder, unit+".d")
	if err := os.MkdirAll(dropIns, 0o755); err != nil {
		return err
	}
	text := "# By " + generatorName + ": the role in pyrsia.hcl wins at boot.\n[Unit]\nConditionPathExists=" + upMark + "\n"
	return os.WriteFile(filepath.Join(dropIns, "50-role.conf"), []byte(text), 0o644)
}

// followRoleCommand starts and stops the units of the build role after a reload, so that
// they are what the node is. It waits for nothing: the reload is a job of systemd's.
func followRoleCommand(a *app) *cobra.Command {
	var start bool
	cmd := &cobra.Command{
		Use: "follow-role", Short: "Start or stop the units of the role that the node has", Hidden: true,
		Example: "  pyrsia follow-role",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if config.PeekRole(a.config) == config.RoleUnset {
				return nil // systemctl is the owner
			}
			return a.followRole(cmd.Context(), start)
		},
	}
	cmd.Flags().BoolVar(&start, "start", false, "stop nothing: what starts the node may be the role that somebody starts by hand")
	return cmd
}

// followRole has systemd start the units of the build role where the node is a build node,
// and stop them where it is not, unless it may only start.
func (a *app) followRole(ctx context.Context, onlyStart bool) error {
	client := a.client()
	defer client.Close()
	status, err := client.Status(ctx)
	switch {
	case err != nil:
		return err
	case status.Role == string(config.RoleBuild):
		return systemctl(ctx, "start", "--no-block", buildTarget)
	case onlyStart:
		return nil
	}
	return systemctl(ctx, "stop", "--no-block", buildTarget)
}

// followUnits is followRole after a reload by a person: of a unit's reload, that is the
// unit's own next step. Only root may, and only where the node is pyrsia.service.
func (a *app) followUnits(ctx context.Context) error {
	ours := a.config == config.DefaultFile && a.socket == "" && os.Getenv(socketVariable) == ""
	if !ours || os.Getenv("INVOCATION_ID") != "" || os.Geteuid() != 0 || config.PeekRole(a.config) == config.RoleUnset {
		return nil
	}
	if exec.CommandContext(ctx, "systemctl", "--quiet", "is-active", "pyrsia.service").Run() != nil {
		return nil // somebody runs it without systemd
	}
	return a.followRole(ctx, false)
}

func systemctl(ctx context.Context, arguments ...string) error {
	out, err := exec.CommandContext(ctx, "systemctl", arguments...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", arguments[0], err, out)
	}
	return nil
}

// catalogueCommand writes what the node's messages mean, for journalctl --catalog.
func catalogueCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "catalogue", Short: "Write what the node's messages in the system's journal mean", Hidden: true,
		Example: "  pyrsia catalogue > /usr/lib/systemd/catalog/pyrsia.catalog",
		Args:    exactly(),
		RunE:    func(*cobra.Command, []string) error { return journal.WriteCatalogue(a.out) },
	}
}

// manCommand writes the man pages: one for each verb.
func manCommand(a *app) *cobra.Command {
	var date int64
	cmd := &cobra.Command{
		Use: "man FOLDER", Short: "Write the man pages", Hidden: true,
		Example: "  pyrsia man ./man",
		Args:    exactly("FOLDER"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			when := time.Unix(date, 0).UTC()
			root := a.root()
			root.DisableAutoGenTag = true
			return doc.GenManTree(root, &doc.GenManHeader{Title: "PYRSIA", Section: strconv.Itoa(1), Source: "pyrsia", Manual: "Pyrsia", Date: &when}, args[0])
		},
	}
	cmd.Flags().Int64Var(&date, "date", 0, "the pages' date, in `SECONDS` since 1970")
	return cmd
}
