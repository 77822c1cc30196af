package node

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"

	"github.com/pyrsia/appliance/appliance/permission"
	"github.com/pyrsia/appliance/hcl/config"
)

// Permissions are what is wrong with who can read or change the files that a
// configuration names, and its own: who writes it decides whom the node trusts, and
// who writes a recipe what it endorses.
func Permissions(cfg *config.Config, owner permission.Owner) ([]permission.Problem, error) {
	files := []permission.File{{Path: cfg.Storage.Data}, {Path: cfg.File}, {Path: cfg.Network.GenesisFile}}
	keys, err := permission.Within(cfg.Keys(), true)
	for i, f := range keys {
		keys[i].Secret = !identityMark(f.Path, cfg)
	}
	recipes, unread := permission.Within(cfg.Build.Recipes, false)
	return owner.Check(append(append(files, keys...), recipes...)...), errors.Join(err, unread)
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

func fatal(problems []permission.Problem) error {
	var failures []error
	for _, p := range problems {
		if p.Fatal {
			failures = append(failures, p)
		}
	}
	return errors.Join(failures...)
}
