package node

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pyrsia/appliance/modules/identity"
	votesbolt "github.com/pyrsia/appliance/modules/quorum/bolt"
)

// Rekey gives a node that does not run new vote, cosigner and log keys, with an
// empty vote file; its identity stays. Once it runs again the other members put
// the new keys on the chain.
func Rekey(folder string) (keys *identity.Keys, err error) {
	// Whoever has the vote file open is a running node, or one that starts: it is
	// kept out until the new keys are in place. A file that is missing or damaged is
	// a reason to come here, and with one no node starts.
	file, err := votesbolt.Open(folder)
	if errors.Is(err, votesbolt.ErrInUse) {
		return nil, err
	}
	if err == nil {
		defer func() { err = errors.Join(err, file.Close()) }()
	}
	return identity.Rekey(folder, createVotes)
}

// HasKeys tells whether a folder holds an identity.
func HasKeys(folder string) bool {
	_, err := os.Stat(filepath.Join(folder, "identity.key"))
	return !errors.Is(err, fs.ErrNotExist)
}
