package identity_test

import (
	"crypto/ed25519"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/identity"
	"github.com/pyrsia/appliance/modules/record"
)

var names = []string{"identity", "vote", "cosigner", "log"}

func create(t *testing.T) (string, *identity.Keys) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	keys, err := identity.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, keys
}

func TestCreate(t *testing.T) {
	dir, keys := create(t)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(names) {
		t.Fatalf("%d files, %v", len(entries), err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %s, %v", entry.Name(), info.Mode(), err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%s, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), ".keys-*")); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
	again, err := identity.Load(dir)
	if err != nil || again.Identity() != keys.Identity() || again.Signers().Vote.Public() != keys.Signers().Vote.Public() {
		t.Errorf("loaded as %v, %v", again, err)
	}
	_, others := create(t)
	if others.Identity() == keys.Identity() {
		t.Error("two nodes have one identity")
	}
}

func TestSigners(t *testing.T) {
	_, keys := create(t)
	signers, seen := keys.Signers(), map[record.PublicKey]bool{}
	for _, signer := range []record.Signer{signers.Identity, signers.Vote, signers.Cosigner, signers.Log} {
		signature, err := signer.Sign([]byte("message"))
		if err != nil || !signer.Public().Verify([]byte("message"), signature) || signer.Public().Verify([]byte("other"), signature) {
			t.Errorf("signature %x, %v", signature, err)
		}
		seen[signer.Public()] = true
	}
	if len(seen) != 4 {
		t.Errorf("%d keys", len(seen))
	}
	if key, err := keys.Identity().Key(); err != nil || key != signers.Identity.Public() || string(keys.Private().Public().(ed25519.PublicKey)) != string(key[:]) {
		t.Error(err)
	}
	node, err := record.SignNode(record.NodeRecord{Operator: "x"}, signers)
	if err != nil || node.Check() != nil {
		t.Errorf("%v, %v", err, node.Check())
	}
}

// TestNeverOverwrites: whatever stands in the folder stays there.
func TestNeverOverwrites(t *testing.T) {
	dir, keys := create(t)
	if _, err := identity.Create(dir); err == nil || !strings.Contains(err.Error(), "holds keys already") {
		t.Error(err)
	}
	again, err := identity.LoadOrCreate(dir)
	if err != nil || again.Identity() != keys.Identity() {
		t.Errorf("%v", err)
	}
	// Votes without keys are another node's, or a half-restored backup.
	other := filepath.Join(t.TempDir(), "keys")
	if err := os.MkdirAll(other, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "votes.db"), []byte("votes"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.LoadOrCreate(other); err == nil || !strings.Contains(err.Error(), "is in the way") {
		t.Error(err)
	}
	if data, err := os.ReadFile(filepath.Join(other, "votes.db")); err != nil || string(data) != "votes" {
		t.Errorf("%s, %v", data, err)
	}
}

func TestLoadOrCreate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b", "keys")
	if _, err := identity.Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil { // an empty folder is as good as none
		t.Fatal(err)
	}
	keys, err := identity.LoadOrCreate(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := identity.LoadOrCreate(dir); err != nil || again.Identity() != keys.Identity() {
		t.Error(err)
	}
}

// TestPrepare: what belongs to the keys is there before they are, or there are
// no keys.
func TestPrepare(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	failure := errors.New("failure")
	if _, err := identity.Create(dir, func(string, *identity.Keys) error { return failure }); !errors.Is(err, failure) {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a failed creation left a folder: %v", err)
	}
	calls := 0
	prepare := func(folder string, _ *identity.Keys) error {
		calls++
		if entries, err := os.ReadDir(folder); err != nil || len(entries) != 0 {
			t.Errorf("%d files before the preparation, %v", len(entries), err)
		}
		return os.WriteFile(filepath.Join(folder, "votes.db"), []byte("votes"), 0o600)
	}
	for range 2 {
		if _, err := identity.LoadOrCreate(dir, prepare); err != nil {
			t.Fatal(err)
		}
	}
	if data, err := os.ReadFile(filepath.Join(dir, "votes.db")); err != nil || string(data) != "votes" || calls != 1 {
		t.Errorf("%s, %d calls, %v", data, calls, err)
	}
}

func TestIncomplete(t *testing.T) {
	for _, name := range names {
		dir, _ := create(t)
		if err := os.Remove(filepath.Join(dir, name+".key")); err != nil {
			t.Fatal(err)
		}
		_, loaded := identity.Load(dir)
		_, either := identity.LoadOrCreate(dir)
		_, created := identity.Create(dir)
		for _, err := range []error{loaded, either, created} {
			if !errors.Is(err, identity.ErrIncomplete) || !strings.Contains(err.Error(), name+".key missing") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		damage func(path string) error
		want   string
	}{
		"readable by others": {func(path string) error { return os.Chmod(path, 0o644) }, "chmod 600"},
		"readable by group":  {func(path string) error { return os.Chmod(path, 0o640) }, "chmod 600"},
		"empty":              {func(path string) error { return os.WriteFile(path, nil, 0o600) }, "restore it from a backup"},
		"short":              {func(path string) error { return os.WriteFile(path, []byte("AAAA\n"), 0o600) }, "restore it from a backup"},
		"no base64":          {func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("!", 44)), 0o600) }, "restore it from a backup"},
		"huge":               {func(path string) error { return os.Truncate(path, 1<<40) }, "restore it from a backup"},
		"a folder":           {func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }, "vote.key"},
	} {
		dir, _ := create(t)
		path := filepath.Join(dir, "vote.key")
		if err := test.damage(path); err != nil {
			t.Fatal(err)
		}
		if _, err := identity.Load(dir); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// TestRekey: all keys but the identity's are new, with what belongs to them, and
// nothing of the old folder is left.
func TestRekey(t *testing.T) {
	dir, old := create(t)
	if err := os.WriteFile(filepath.Join(dir, "votes.db"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	beside := func(dir string, _ *identity.Keys) error {
		return os.WriteFile(filepath.Join(dir, "votes.db"), []byte("new"), 0o600)
	}
	keys, err := identity.Rekey(dir, beside)
	if err != nil {
		t.Fatal(err)
	}
	if keys.Identity() != old.Identity() {
		t.Error("the identity changed")
	}
	was, is := old.Signers(), keys.Signers()
	for name, pair := range map[string][2]record.Signer{"vote": {was.Vote, is.Vote}, "cosigner": {was.Cosigner, is.Cosigner}, "log": {was.Log, is.Log}} {
		if pair[0].Public() == pair[1].Public() {
			t.Errorf("the %s key is the old one", name)
		}
	}
	if data, err := os.ReadFile(filepath.Join(dir, "votes.db")); err != nil || string(data) != "new" {
		t.Errorf("beside the keys stands %q, %v", data, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), ".keys-*")); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
	// A folder that lost all but the identity is mended.
	for _, name := range []string{"vote.key", "votes.db", "log.key"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if keys, err = identity.Rekey(dir, beside); err != nil || keys.Identity() != old.Identity() {
		t.Errorf("%v", err)
	}
	fails := errors.New("disk full")
	if _, err := identity.Rekey(dir, func(string, *identity.Keys) error { return fails }); !errors.Is(err, fails) {
		t.Errorf("%v", err)
	}
	if again, err := identity.Load(dir); err != nil || again.Signers().Vote.Public() != keys.Signers().Vote.Public() {
		t.Errorf("after a failure the keys are others: %v", err)
	}
	if _, err := identity.Rekey(filepath.Join(dir, "none")); err == nil {
		t.Error("a folder without an identity is rekeyed")
	}
}
