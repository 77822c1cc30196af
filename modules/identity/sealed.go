package identity

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/record"
)

// ErrSealed is wrapped where the keys of a folder are kept elsewhere and were not given:
// new ones must not be made in their place.
var ErrSealed = errors.New("the keys are sealed")

// sealedName is the file that says whose keys are kept elsewhere. The vote file stays in
// the folder: it holds nothing secret, and what was signed must survive.
const sealedName = "sealed"

// Bundle is all keys as one text, a line for each file with its name and seed. It is
// secret: it exists to be encrypted by somebody else.
func (k *Keys) Bundle() []byte {
	var text strings.Builder
	for i, name := range names {
		fmt.Fprintf(&text, "%s %s\n", name, base64.StdEncoding.EncodeToString(k.seeds[i].Seed()))
	}
	return []byte(text.String())
}

// ParseBundle is the reverse of Bundle.
func ParseBundle(bundle []byte) (*Keys, error) {
	malformed := errors.New("this is no bundle of keys: want the four lines that `pyrsia node seal` wrote")
	lines := strings.Split(string(bundle), "\n")
	if len(lines) != len(names)+1 || lines[len(names)] != "" {
		return nil, malformed
	}
	keys := new(Keys)
	for i, name := range names {
		text, is := strings.CutPrefix(lines[i], name+" ")
		seed, err := base64.StdEncoding.Strict().DecodeString(text)
		if !is || err != nil || len(seed) != ed25519.SeedSize || strings.ContainsAny(text, "\r\n") {
			return nil, malformed
		}
		keys.seeds[i] = ed25519.NewKeyFromSeed(seed)
	}
	return keys, nil
}

// LoadSealed is Load for a folder whose keys may be kept elsewhere, as the bundle, which
// is empty where there is none. A folder that holds its keys as well must hold the same.
func LoadSealed(dir string, bundle []byte) (*Keys, error) {
	keys, err := Load(dir)
	if len(bundle) == 0 || err != nil && !errors.Is(err, ErrSealed) && !errors.Is(err, fs.ErrNotExist) {
		return keys, err
	}
	given, failure := ParseBundle(bundle)
	if failure != nil {
		return nil, failure
	}
	of := given.Identity()
	switch {
	case err == nil && keys.Identity() != of:
		return nil, fmt.Errorf("the sealed keys are those of %s, and %s holds those of %s: remove the sealed ones, or restore the backup that belongs together", of, dir, keys.Identity())
	case err == nil && string(keys.Bundle()) != string(bundle):
		return nil, fmt.Errorf("the sealed keys and those in %s are of one identity and differ, as after `pyrsia node rekey`: remove the sealed ones, and seal anew", dir)
	case err == nil:
		return keys, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the sealed keys are those of %s, but nothing in %s says that they belong here: restore the folder with its vote file from the same backup", of, dir)
	}
	if owner, err := sealedOf(dir); err != nil || owner != of {
		return nil, errors.Join(err, fmt.Errorf("the sealed keys are those of %s, and %s is of %s: give the ones that belong together", of, dir, owner))
	}
	return given, nil
}

// sealedOf is whose keys are kept elsewhere; it wraps fs.ErrNotExist where none are.
func sealedOf(dir string) (record.Identity, error) {
	data, err := os.ReadFile(filepath.Join(dir, sealedName))
	if err != nil {
		return "", err
	}
	id := record.Identity(strings.TrimSuffix(string(data), "\n"))
	if _, err := id.Key(); err != nil {
		return "", fmt.Errorf("%s does not name an identity: %w; restore it from a backup", filepath.Join(dir, sealedName), err)
	}
	return id, nil
}

// Seal removes the keys from a folder whose bundle is kept elsewhere by now: the caller
// has seen that it can be had back. A crash leaves the keys, or a folder that is sealed,
// and Seal again removes what is left. The folder must not be in use.
func Seal(dir string, bundle []byte) error {
	return alone(dir, func() error {
		keys, err := LoadSealed(dir, bundle)
		if err != nil {
			return err
		}
		if err := mark(dir, keys.Identity()); err != nil {
			return fmt.Errorf("seal the keys: %w", err)
		}
		reached("marked")
		for _, name := range names {
			if err := os.Remove(filepath.Join(dir, name+".key")); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("seal the keys: %w", err)
			}
			reached("removed " + name)
		}
		return durable.SyncDir(dir)
	})
}

// mark says whose keys are kept elsewhere, durably.
func mark(dir string, id record.Identity) error {
	return durable.Create(filepath.Join(dir, sealedName), []byte(string(id)+"\n"), 0o644)
}

// Unseal puts the keys back into a folder that is sealed. A crash leaves it sealed, or
// with its keys. The folder must not be in use.
func Unseal(dir string, bundle []byte) error {
	return alone(dir, func() error {
		keys, err := LoadSealed(dir, bundle)
		if err != nil {
			return err
		}
		for i, name := range names {
			path := filepath.Join(dir, name+".key")
			seed := base64.StdEncoding.EncodeToString(keys.seeds[i].Seed()) + "\n"
			if err := durable.Create(path, []byte(seed), 0o600); err != nil {
				return fmt.Errorf("unseal the keys: %w", err)
			}
			reached("restored " + name)
		}
		if err := os.Remove(filepath.Join(dir, sealedName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unseal the keys: %w", err)
		}
		return durable.SyncDir(dir)
	})
}
