package identity_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/identity"
)

func TestSealed(t *testing.T) {
	dir, keys := create(t)
	bundle := keys.Bundle()
	if err := identity.Seal(dir, bundle); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "sealed" {
		t.Fatalf("%v, %v, want the mark alone", entries, err)
	}
	if _, err := identity.Load(dir); !errors.Is(err, identity.ErrSealed) {
		t.Errorf("loaded without them: %v", err)
	}
	if _, err := identity.LoadOrCreate(dir); !errors.Is(err, identity.ErrSealed) {
		t.Errorf("new keys in place of sealed ones: %v", err)
	}
	if _, err := identity.Rekey(dir); err == nil {
		t.Error("new keys beside sealed ones")
	}
	if id, err := identity.LoadIdentity(dir); err != nil || id != keys.Identity() {
		t.Errorf("the identity is %q, %v", id, err)
	}
	if again, err := identity.LoadSealed(dir, bundle); err != nil || !bytes.Equal(again.Bundle(), bundle) {
		t.Errorf("sealed keys: %v", err)
	}
	if err := identity.Seal(dir, bundle); err != nil {
		t.Errorf("sealed again: %v", err)
	}
	if err := identity.Unseal(dir, bundle); err != nil {
		t.Fatal(err)
	}
	if again, err := identity.Load(dir); err != nil || !bytes.Equal(again.Bundle(), bundle) {
		t.Errorf("unsealed: %v", err)
	}
	if info, err := os.Stat(filepath.Join(dir, "vote.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// Keys that are not a folder's own never count for it.
func TestSealedOfAnother(t *testing.T) {
	dir, keys := create(t)
	other, others := create(t)
	if err := identity.Seal(dir, others.Bundle()); err == nil {
		t.Fatal("sealed with the keys of another")
	}
	if err := identity.Seal(dir, keys.Bundle()); err != nil {
		t.Fatal(err)
	}
	for name, try := range map[string]func() error{
		"of another, in a sealed folder": func() error { _, err := identity.LoadSealed(dir, others.Bundle()); return err },
		"of another, unsealed":           func() error { return identity.Unseal(dir, others.Bundle()) },
		"of another, beside keys":        func() error { _, err := identity.LoadSealed(other, keys.Bundle()); return err },
		"in an empty folder":             func() error { _, err := identity.LoadSealed(t.TempDir(), keys.Bundle()); return err },
		"no bundle":                      func() error { _, err := identity.LoadSealed(dir, []byte("identity x\n")); return err },
	} {
		if err := try(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := identity.LoadSealed(other, nil); err != nil {
		t.Errorf("a folder that is not sealed: %v", err)
	}
	if _, err := identity.LoadSealed(t.TempDir(), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty folder: %v", err)
	}
	if _, err := identity.Rekey(other); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.LoadSealed(other, others.Bundle()); err == nil || !strings.Contains(err.Error(), "differ") {
		t.Errorf("retired keys: %v", err)
	}
}

// A crash at any step leaves a folder from which the keys can be had, with the bundle.
func TestSealCrash(t *testing.T) {
	type crash struct{ step string }
	steps := map[string][]string{
		"seal":   {"marked", "removed identity", "removed vote", "removed cosigner", "removed log"},
		"unseal": {"restored identity", "restored vote", "restored cosigner", "restored log"},
	}
	for name, at := range steps {
		for _, step := range at {
			dir, keys := create(t)
			bundle := keys.Bundle()
			do := identity.Seal
			if name == "unseal" {
				if err := identity.Seal(dir, bundle); err != nil {
					t.Fatal(err)
				}
				do = identity.Unseal
			}
			func() {
				defer identity.AtStep(func(string) {})
				defer func() {
					if _, is := recover().(crash); !is {
						t.Errorf("%s never reached %q", name, step)
					}
				}()
				identity.AtStep(func(reached string) {
					if reached == step {
						panic(crash{step})
					}
				})
				do(dir, bundle) //nolint:errcheck // it panics
			}()
			if again, err := identity.LoadSealed(dir, bundle); err != nil || !bytes.Equal(again.Bundle(), bundle) {
				t.Errorf("%s, killed at %q: %v", name, step, err)
			}
			if err := do(dir, bundle); err != nil {
				t.Errorf("%s, killed at %q, and again: %v", name, step, err)
			}
		}
	}
}

func FuzzBundle(f *testing.F) {
	keys, err := identity.Create(filepath.Join(f.TempDir(), "keys"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(keys.Bundle())
	f.Add([]byte("identity \nvote \ncosigner \nlog \n"))
	f.Fuzz(func(t *testing.T, bundle []byte) {
		if keys, err := identity.ParseBundle(bundle); err == nil && !bytes.Equal(keys.Bundle(), bundle) {
			t.Errorf("%q is taken for %q", bundle, keys.Bundle())
		}
	})
}
