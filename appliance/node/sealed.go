package node

import (
	"errors"

	"github.com/pyrsia/appliance/modules/identity"
	votesbolt "github.com/pyrsia/appliance/modules/quorum/bolt"
)

// WithSealedKeys gives the bundle of keys that are kept elsewhere; nil for none.
func WithSealedKeys(bundle []byte) Option {
	return func(o *options) { o.sealed = bundle }
}

// Seal removes the keys from a folder, of a node that does not run, whose bundle is kept
// elsewhere.
func Seal(folder string, bundle []byte) error {
	return whileStopped(folder, func() error { return identity.Seal(folder, bundle) })
}

// Unseal puts the keys back.
func Unseal(folder string, bundle []byte) error {
	return whileStopped(folder, func() error { return identity.Unseal(folder, bundle) })
}

// whileStopped does something while no build node can run with a folder of keys: whoever
// has its vote file open is one, or one that starts. A file that is missing or damaged
// may be why somebody came here, and with one no build node starts.
func whileStopped(folder string, do func() error) (err error) {
	file, err := votesbolt.Open(folder)
	switch {
	case err == nil:
		defer func() { err = errors.Join(err, file.Close()) }()
	case !errors.Is(err, votesbolt.ErrNoVoteFile) && !errors.Is(err, votesbolt.ErrDamaged):
		return err
	}
	return do()
}
