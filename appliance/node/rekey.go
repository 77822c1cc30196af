package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pyrsia/appliance/modules/chain"
	chainbolt "github.com/pyrsia/appliance/modules/chain/bolt"
	"github.com/pyrsia/appliance/modules/identity"
	"github.com/pyrsia/appliance/modules/record"
)

// Rekey gives a node that does not run new vote, cosigner and log keys, with an
// empty vote file; its identity stays. Once it runs again the other members put
// the new keys on the chain. The checks come first, while no node can start.
func Rekey(folder string, checks ...func() error) (keys *identity.Keys, err error) {
	err = whileStopped(folder, func() error {
		for _, check := range checks {
			if err := check(); err != nil {
				return err
			}
		}
		keys, err = identity.Rekey(folder, createVotes)
		return err
	})
	return keys, err
}

// RekeyHarm is nil where the network can do without the present keys of the node
// with a data folder until new ones stand on the chain. It is told by the node's
// own log, of which the node must not be running.
func RekeyHarm(data string) (err error) {
	path := filepath.Join(data, "chain.db")
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("there is no log in %s by which to tell whether the network goes on without this node's present keys: %w", data, err)
	}
	backend, err := chainbolt.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backend.Close()) }()
	genesis, err := chain.Founding(backend)
	if err != nil {
		return err
	}
	c, err := chain.New(backend, genesis)
	if err != nil {
		return err
	}
	return rekeyHarm(c, filepath.Join(data, "keys"))
}

// rotations is what a chain knows about the keys of members.
type rotations interface {
	NextSet() *record.Set
	UsedKey(record.PublicKey) bool
}

func rekeyHarm(c rotations, folder string) error {
	id, err := identity.LoadIdentity(folder)
	if err != nil {
		return err
	}
	set := c.NextSet()
	node, member := set.Node(id)
	if !member {
		return nil
	}
	if set.Quorum() > set.Size()-1 {
		return fmt.Errorf("the network would stop for good: its order quorum is %d of %d build nodes, so that without the present keys of this one no block can be made, also none that names new keys", set.Quorum(), set.Size())
	}
	keys, err := identity.Load(folder)
	if err != nil {
		return nil // lost keys are not waited for
	}
	// Keys that the log knows, and that are not the member's, are those of a backup.
	vote := keys.Signers().Vote.Public()
	if vote != node.VoteKey && !c.UsedKey(vote) {
		return errors.New("this node has new keys already, which wait to be put on the log: if the other members put them there meanwhile, still newer ones wait an hour more; start the node, and see `pyrsia status`")
	}
	return nil
}

// HasKeys tells whether a folder holds an identity; of one whose keys are sealed it is
// an error that says what to do.
func HasKeys(folder string) (bool, error) {
	if _, err := identity.Load(folder); errors.Is(err, identity.ErrSealed) {
		return false, err
	}
	_, err := os.Stat(filepath.Join(folder, "identity.key"))
	return !errors.Is(err, fs.ErrNotExist), nil
}
