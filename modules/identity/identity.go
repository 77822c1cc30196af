// Package identity is a node's private keys: their files and the signers made
// of them.
//
// The folder holds four files, each a 32-byte Ed25519 seed as one line of
// base64, readable by their owner only: identity.key, vote.key, cosigner.key
// and log.key. The vote file (modules/quorum/bolt) lives in the same folder,
// so that key and votes are kept and wiped together. A folder may be sealed: its keys
// are then kept elsewhere, encrypted, and the file "sealed" says whose they are. Folders whose names begin
// with .keys- beside it are unfinished, or retired: they go at the next start.
package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/record"
	"golang.org/x/sys/unix"
)

// ErrIncomplete is wrapped where some of the key files are there and some are
// not: a half-restored backup, which must never sign.
var ErrIncomplete = errors.New("incomplete key folder")

var names = []string{"identity", "vote", "cosigner", "log"}

// Keys are the private keys of one node. They only read: safe for concurrent
// use.
type Keys struct{ seeds [4]ed25519.PrivateKey }

// Load reads the keys from a folder. It wraps fs.ErrNotExist where none of the
// files is there, ErrSealed where they are kept elsewhere, and ErrIncomplete where only
// some are there.
func Load(dir string) (*Keys, error) {
	keys, missing := new(Keys), []string{}
	for i, name := range names {
		seed, err := readSeed(filepath.Join(dir, name+".key"))
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, name+".key")
			continue
		}
		if err != nil {
			return nil, err
		}
		keys.seeds[i] = ed25519.NewKeyFromSeed(seed)
	}
	if len(missing) == 0 {
		return keys, nil
	}
	switch id, err := sealedOf(dir); {
	case err == nil:
		return nil, fmt.Errorf("%w: those of %s are not in %s, and only pyrsia.service is given them; `pyrsia node unseal` puts them back", ErrSealed, id, dir)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if len(missing) == len(names) {
		return nil, fmt.Errorf("no keys in %s: %w", dir, fs.ErrNotExist)
	}
	return nil, fmt.Errorf("%w %s: %s missing; restore all four from one backup, or move the folder away to become a new node", ErrIncomplete, dir, strings.Join(missing, ", "))
}

// LoadIdentity reads the identity from a folder that may have lost the other keys, or is
// sealed.
func LoadIdentity(dir string) (record.Identity, error) {
	seed, err := readSeed(filepath.Join(dir, names[0]+".key"))
	if errors.Is(err, fs.ErrNotExist) {
		if id, err := sealedOf(dir); !errors.Is(err, fs.ErrNotExist) {
			return id, err
		}
	}
	if err != nil {
		return "", err
	}
	return record.NewIdentity(signer(ed25519.NewKeyFromSeed(seed)).Public()), nil
}

func readSeed(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key file %s is readable by others (%s); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	if info.Size() > 128 {
		return nil, errSeed(path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	seed, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(data)))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, errSeed(path)
	}
	return seed, nil
}

func errSeed(path string) error {
	return fmt.Errorf("key file %s does not hold a 32-byte seed as base64; restore it from a backup", path)
}

// A Prepare puts into a new key folder, before any key is in it, what must come
// into being together with the keys, such as the vote file, bound to them.
type Prepare func(dir string, keys *Keys) error

// Create makes new keys in a folder that has none. A crash leaves either no key
// folder or a complete one: the folder is made beside it and renamed into place.
func Create(dir string, prepare ...Prepare) (keys *Keys, err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, fmt.Errorf("create keys: %w", err)
	}
	err = alone(dir, func() error {
		keys, err = create(dir, prepare)
		return err
	})
	return keys, err
}

// LoadOrCreate is Load, or Create where there are no keys yet. What a crash of
// Create or Rekey left beside the folder is removed first.
func LoadOrCreate(dir string, prepare ...Prepare) (keys *Keys, err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, fmt.Errorf("create keys: %w", err)
	}
	err = alone(dir, func() error {
		if keys, err = Load(dir); errors.Is(err, fs.ErrNotExist) {
			keys, err = create(dir, prepare)
		}
		return err
	})
	return keys, err
}

func create(dir string, prepare []Prepare) (*Keys, error) {
	if _, err := Load(dir); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fmt.Errorf("%s holds keys already", dir)
		}
		return nil, err
	}
	temporary, err := newFolder(dir, nil, prepare)
	if err != nil {
		return nil, fmt.Errorf("create keys: %w", err)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("create keys: %s is in the way: %w", dir, err), os.RemoveAll(temporary))
	}
	reached("emptied")
	if err := os.Rename(temporary, dir); err != nil {
		return nil, errors.Join(fmt.Errorf("create keys: %w", err), os.RemoveAll(temporary))
	}
	reached("renamed")
	if err := errors.Join(durable.SyncDir(dir), durable.SyncDir(filepath.Dir(dir))); err != nil {
		return nil, fmt.Errorf("create keys: %w", err)
	}
	return Load(dir)
}

// Rekey replaces all keys but the identity's, and what prepare makes with them:
// the old ones, with what they may have forgotten that they signed, are gone. A
// crash leaves the old folder or the new one: the two change places in one step
// (renameat2(2), RENAME_EXCHANGE), and the old one is removed after that, at the
// latest by the next LoadOrCreate. The folder must not be in use.
func Rekey(dir string, prepare ...Prepare) (keys *Keys, err error) {
	err = alone(dir, func() error {
		keys, err = rekey(dir, prepare)
		return err
	})
	return keys, err
}

func rekey(dir string, prepare []Prepare) (*Keys, error) {
	identity, err := readSeed(filepath.Join(dir, names[0]+".key"))
	if err != nil {
		return nil, fmt.Errorf("new keys: the identity must be there: %w", err)
	}
	temporary, err := newFolder(dir, identity, prepare)
	if err != nil {
		return nil, fmt.Errorf("new keys: %w", err)
	}
	if err := unix.Renameat2(unix.AT_FDCWD, temporary, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE); err != nil {
		return nil, errors.Join(fmt.Errorf("new keys: put them in place: %w", err), os.RemoveAll(temporary))
	}
	reached("exchanged")
	// The exchange must be on the disk before the old folder goes.
	if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, fmt.Errorf("new keys: %w", err)
	}
	reached("synced")
	if err := sweep(dir); err != nil {
		return nil, fmt.Errorf("new keys: they are in place, but the old ones are not gone: %w", err)
	}
	return Load(dir)
}

// left begins the name of a folder that is not finished, or, after an exchange,
// holds the old keys.
const left = ".keys-"

// newFolder makes a complete key folder beside dir. An identity that is given is
// kept, everything else is new.
func newFolder(dir string, identity []byte, prepare []Prepare) (temporary string, err error) {
	if temporary, err = os.MkdirTemp(filepath.Dir(dir), left); err != nil {
		return "", err
	}
	reached("begun")
	// Root makes keys for the node's user: to whom the old folder belongs, or else the one above.
	like := dir
	if _, err := os.Stat(dir); err != nil {
		like = filepath.Dir(dir)
	}
	err = fill(temporary, identity, prepare)
	if err == nil {
		err = durable.Give(temporary, like)
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(temporary))
	}
	reached("filled")
	return temporary, nil
}

func fill(folder string, identity []byte, prepare []Prepare) error {
	keys := new(Keys)
	for i := range names {
		seed := make([]byte, ed25519.SeedSize)
		rand.Read(seed)
		if i == 0 && identity != nil {
			seed = identity
		}
		keys.seeds[i] = ed25519.NewKeyFromSeed(seed)
	}
	for _, step := range prepare {
		if err := step(folder, keys); err != nil {
			return err
		}
	}
	reached("prepared")
	for i, name := range names {
		if err := writeSeed(filepath.Join(folder, name+".key"), keys.seeds[i].Seed()); err != nil {
			return err
		}
		reached("wrote " + name)
	}
	return durable.SyncDir(folder)
}

// reached is called at every step at which a test has the program killed.
var reached = func(string) {}

// alone does something while no other program makes or sweeps folders of keys
// beside dir: what one removes as left behind could be what the other is making.
// The lock is on the folder above, and ends with the program.
func alone(dir string, do func() error) error {
	above, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return fmt.Errorf("lock the keys: %w", err)
	}
	defer above.Close()
	for {
		err := unix.Flock(int(above.Fd()), unix.LOCK_EX)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock the keys: %s: %w", above.Name(), err)
		}
	}
	if err := sweep(dir); err != nil {
		return fmt.Errorf("keys that were replaced must not stay: %w", err)
	}
	return do()
}

// sweep removes what stands beside the folder, durably.
func sweep(dir string) error {
	above := filepath.Dir(dir)
	entries, err := os.ReadDir(above)
	if err != nil {
		return err
	}
	swept := false
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), left) {
			continue
		}
		path := filepath.Join(above, entry.Name())
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove %s, or have its owner do so: %w", path, err)
		}
		reached("swept")
		swept = true
	}
	if !swept {
		return nil
	}
	return durable.SyncDir(above)
}

func writeSeed(path string, seed []byte) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(file, base64.StdEncoding.EncodeToString(seed))
	return errors.Join(err, file.Sync(), file.Close())
}

// Identity is the node's PeerID.
func (k *Keys) Identity() record.Identity { return record.NewIdentity(k.Signers().Identity.Public()) }

// Private is the identity's private key, for the libp2p host.
func (k *Keys) Private() ed25519.PrivateKey { return k.seeds[0] }

// Signers are the keys as signers.
func (k *Keys) Signers() record.NodeSigners {
	return record.NodeSigners{
		Identity: signer(k.seeds[0]), Vote: signer(k.seeds[1]),
		Cosigner: signer(k.seeds[2]), Log: signer(k.seeds[3]),
	}
}

type signer ed25519.PrivateKey

func (s signer) Public() record.PublicKey {
	return record.PublicKey(ed25519.PrivateKey(s).Public().(ed25519.PublicKey))
}

func (s signer) Sign(message []byte) (record.Signature, error) {
	return record.Signature(ed25519.Sign(ed25519.PrivateKey(s), message)), nil
}
