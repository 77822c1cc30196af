package node_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/pyrsia/appliance/appliance/node"
	"github.com/pyrsia/appliance/modules/identity"
	votesbolt "github.com/pyrsia/appliance/modules/quorum/bolt"
)

// TestRekeyDuringStart: a start that read the old keys before a rekey and opens
// the vote file after it gets nothing, and the next start finds all new.
func TestRekeyDuringStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	old, err := node.CreateKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := node.Rekey(dir)
	if err != nil {
		t.Fatal(err)
	}
	file, err := votesbolt.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Bind(old.Signers().Vote.Public()); !errors.Is(err, votesbolt.ErrOtherKey) {
		t.Errorf("the old key votes with the new file: %v", err)
	}
	if err := file.Bind(keys.Signers().Vote.Public()); err != nil {
		t.Error(err)
	}
	if _, err := node.Rekey(dir); !errors.Is(err, votesbolt.ErrInUse) {
		t.Errorf("a node that has its vote file open is rekeyed: %v", err)
	}
	if again, err := identity.Load(dir); err != nil || again.Signers().Vote.Public() != keys.Signers().Vote.Public() {
		t.Errorf("a refused rekey changed the keys: %v", err)
	}
}

// TestRekeySweeps: keys that a crash left beside the folder go.
func TestRekeySweeps(t *testing.T) {
	data := t.TempDir()
	dir, retired := filepath.Join(data, "keys"), filepath.Join(data, ".keys-123")
	if _, err := node.CreateKeys(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(retired, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Rekey(dir); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(data); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// TestRekeyMends: a vote file that is lost or damaged is what a rekey is for.
func TestRekeyMends(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"missing":   os.Remove,
		"empty":     func(path string) error { return os.Truncate(path, 0) },
		"cut short": func(path string) error { return os.Truncate(path, 5000) },
	} {
		dir := filepath.Join(t.TempDir(), "keys")
		old, err := node.CreateKeys(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := harm(filepath.Join(dir, votesbolt.FileName)); err != nil {
			t.Fatal(err)
		}
		keys, err := node.Rekey(dir)
		if err != nil || keys.Identity() != old.Identity() {
			t.Errorf("%s: %v", name, err)
			continue
		}
		file, err := votesbolt.Open(dir)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := errors.Join(file.Bind(keys.Signers().Vote.Public()), file.Close()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
