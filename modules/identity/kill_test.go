package identity_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pyrsia/appliance/modules/identity"
)

// bound stands for the vote file: it names the key that it belongs to.
func bound(dir string, keys *identity.Keys) error {
	key := keys.Signers().Vote.Public()
	return os.WriteFile(filepath.Join(dir, "votes.db"), key[:], 0o600)
}

// TestKilled: killed at any step, the next start finds all old or all new, and
// leaves nothing of the other.
func TestKilled(t *testing.T) {
	if step := os.Getenv("KEYS_KILLED_AT"); step != "" {
		killAt(step, os.Getenv("KEYS_FOLDER"), os.Getenv("KEYS_VERB"))
		return
	}
	const older, newer, none = "the old keys", "the new keys", "no keys"
	for _, row := range []struct{ verb, step, left string }{
		{"create", "begun", none},
		{"create", "prepared", none},
		{"create", "wrote identity", none},
		{"create", "wrote vote", none},
		{"create", "wrote log", none},
		{"create", "filled", none},
		{"create", "emptied", none},
		{"create", "renamed", newer},
		{"rekey", "begun", older},
		{"rekey", "prepared", older},
		{"rekey", "wrote identity", older},
		{"rekey", "wrote vote", older},
		{"rekey", "wrote cosigner", older},
		{"rekey", "wrote log", older},
		{"rekey", "filled", older},
		{"rekey", "exchanged", newer},
		{"rekey", "synced", newer},
		{"rekey", "swept", newer},
	} {
		t.Run(row.verb+" "+row.step, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "keys")
			var old *identity.Keys
			if row.verb == "rekey" {
				var err error
				if old, err = identity.Create(dir, bound); err != nil {
					t.Fatal(err)
				}
			}
			kill(t, row.verb, row.step, dir)
			left := older
			switch keys, err := identity.Load(dir); {
			case errors.Is(err, fs.ErrNotExist):
				left = none
			case err != nil:
				t.Fatal(err)
			case old == nil || keys.Signers().Vote.Public() != old.Signers().Vote.Public():
				left = newer
			}
			if left != row.left {
				t.Errorf("%s are left, want %s", left, row.left)
			}
			keys, err := identity.LoadOrCreate(dir, bound)
			if err != nil {
				t.Fatal(err)
			}
			if old != nil && keys.Identity() != old.Identity() {
				t.Error("the identity changed")
			}
			key := keys.Signers().Vote.Public()
			if votes, err := os.ReadFile(filepath.Join(dir, "votes.db")); err != nil || string(votes) != string(key[:]) {
				t.Errorf("the vote file is another key's: %v", err)
			}
			entries, err := os.ReadDir(filepath.Dir(dir))
			if err != nil || len(entries) != 1 {
				t.Errorf("left behind: %v, %v", entries, err)
			}
		})
	}
}

// kill runs a verb in a program of its own, which dies at a step.
func kill(t *testing.T, verb, step, dir string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), "KEYS_KILLED_AT="+step, "KEYS_FOLDER="+dir, "KEYS_VERB="+verb)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("it was not killed: %v\n%s", err, out)
	}
}

func killAt(step, dir, verb string) {
	identity.AtStep(func(at string) {
		if at == step {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	})
	if verb == "create" {
		_, _ = identity.Create(dir, bound)
		return
	}
	_, _ = identity.Rekey(dir, bound)
}

// TestLeftKeys: a start removes retired keys; where it cannot, it says so, as a
// rekey does.
func TestLeftKeys(t *testing.T) {
	dir, _ := create(t)
	retired := filepath.Join(filepath.Dir(dir), ".keys-1")
	if err := os.MkdirAll(retired, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(retired, "vote.key"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.LoadOrCreate(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(retired); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the retired keys stay: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(retired, "inside"), 0o700); err != nil {
		t.Fatal(err)
	}
	immovable(t, retired)
	_, started := identity.LoadOrCreate(dir)
	_, rekeyed := identity.Rekey(dir)
	for _, err := range []error{started, rekeyed} {
		if err == nil || !strings.Contains(err.Error(), retired) {
			t.Error(err)
		}
	}
}

// immovable keeps a folder from being removed: by its mode, and for root, whom
// that does not hold, as a mount point.
func immovable(t *testing.T, folder string) {
	t.Helper()
	if os.Getuid() == 0 {
		if err := syscall.Mount(folder, folder, "", syscall.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(folder, 0); err != nil {
				t.Error(err)
			}
		})
		return
	}
	if err := os.Chmod(folder, 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(folder, 0o700) })
}
