package node

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/pyrsia/appliance/appliance/permission"
	"github.com/pyrsia/appliance/hcl/config"
)

// Permissions are what is wrong with who can read or change the files that a
// configuration names, and its own: who writes it decides whom the node trusts, and
// who writes a recipe what it endorses.
func Permissions(cfg *config.Config, owner permission.Owner) ([]permission.Problem, error) {
	files := []permission.File{{Path: cfg.Storage.Data}}
	for _, path := range append([]string{cfg.File, cfg.Network.GenesisFile}, cfg.Reads()...) {
		// Who may write to the folder may put another file there.
		files = append(files, permission.File{Path: filepath.Dir(path)}, permission.File{Path: path})
	}
	keys, err := permission.Within(cfg.Keys(), true)
	for i, f := range keys {
		keys[i].Secret = !identityMark(f.Path, cfg)
	}
	if cfg.Role != config.RoleRegular { // which reads none
		recipes, _ := permission.Within(cfg.Build.Recipes, false) // a folder that cannot be read gives no recipes
		files = append(files, recipes...)
	}
	return owner.Check(append(files, keys...)...), err
}

// identityMark tells whether a file of the keys folder only says whose sealed keys are:
// a vote file must not be read either, since it could be copied and set back.
func identityMark(path string, cfg *config.Config) bool { return path == cfg.Keys()+"/sealed" }

// checkPermissions refuses to start a node whose files everybody can change, and logs
// what somebody can.
func (n *Node) checkPermissions() error {
	if err := asOwner(n.conf().Storage.Data); err != nil {
		return err
	}
	problems, err := Permissions(n.conf(), permission.Self())
	if err != nil {
		return err
	}
	for _, p := range problems {
		if !p.Fatal {
			n.log.Warn("somebody else can change a file of the node's", "path", p.Path, "problem", p.What, "run", p.Do)
		}
	}
	return fatal(problems)
}

// asOwner refuses to run a node as root in a data folder of somebody's: what root writes
// there, its own user could not read again.
func asOwner(data string) error {
	owner, err := permission.Of(data)
	if err != nil || os.Geteuid() != 0 || owner.UID == 0 {
		return nil
	}
	name := strconv.Itoa(owner.UID)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	return fmt.Errorf("%s belongs to the user %s, and this is root; run the node as that user (systemctl start pyrsia, or runuser -u %s -- pyrsia serve), or chown the folder", data, name, name)
}

// permitted refuses a configuration whose files everybody can change.
func permitted(cfg *config.Config) error {
	problems, err := Permissions(cfg, permission.Self())
	if err != nil {
		return err
	}
	return fatal(problems)
}

// fatal is the first of the problems with which a node does not run.
func fatal(problems []permission.Problem) error {
	problems = slices.DeleteFunc(problems, func(p permission.Problem) bool { return !p.Fatal })
	switch n := len(problems) - 1; {
	case n < 0:
		return nil
	case n == 0:
		return problems[0]
	default:
		return fmt.Errorf("%w (and %d more such files, which `pyrsia doctor` lists)", problems[0], n)
	}
}
