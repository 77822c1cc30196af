package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/pyrsia/appliance/appliance/node"
	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/identity"
	"github.com/pyrsia/appliance/systemd"
	"github.com/spf13/cobra"
)

// sealedFile is where systemd looks for the encrypted credential of the unit
// (systemd.exec(5), LoadCredentialEncrypted=).
const sealedFile = "/etc/credstore.encrypted/" + systemd.KeysCredential

func nodeSealCommand(a *app) *cobra.Command {
	var data, file string
	cmd := &cobra.Command{
		Use:   "seal",
		Short: "Encrypt the node's keys, so that only this machine can use them",
		Long: `Encrypt the node's keys with a key of this machine (its TPM, where it has one), and
remove them from the data folder. pyrsia.service is given them at its start, by
systemd: LoadCredentialEncrypted= in systemd.exec(5). A backup or copy of the data
folder holds no keys from then on. On a machine without a TPM the key that opens them
is a file on it, /var/lib/systemd/credential.secret, that root alone can read; and a
disk may still hold what was removed from it, until it is written over.

The node must not run. Keep a backup of the data folder from before: without this
machine nobody can decrypt the sealed keys.`,
		Example: `  systemctl stop pyrsia && pyrsia node seal && systemctl start pyrsia`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			folder, err := a.stopped(cmd.Context(), data)
			if err != nil {
				return err
			}
			bundle, err := sealable(cmd.Context(), folder, file)
			if err != nil {
				return err
			}
			if err := node.Seal(folder, bundle); err != nil {
				return err
			}
			return a.show(map[string]any{"sealed": file}, func(w io.Writer, _ style) {
				fmt.Fprintf(w, "the keys are sealed in %s, and no more in %s; start the node by systemctl\n", file, folder)
			})
		},
	}
	sealFlags(cmd, &data, &file)
	return cmd
}

func nodeUnsealCommand(a *app) *cobra.Command {
	var data, file string
	cmd := &cobra.Command{
		Use:     "unseal",
		Short:   "Put sealed keys back into the data folder",
		Long:    "Put sealed keys back into the data folder, on the machine that sealed them, and remove the\nsealed ones. The node must not run.",
		Example: `  systemctl stop pyrsia && pyrsia node unseal && systemctl start pyrsia`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			folder, err := a.stopped(cmd.Context(), data)
			if err != nil {
				return err
			}
			bundle, err := decrypted(cmd.Context(), file)
			if err != nil {
				return err
			}
			if err := node.Unseal(folder, bundle); err != nil {
				return err
			}
			// Keys that a rekey retires later must not wait here.
			if err := os.Remove(file); err != nil {
				return fmt.Errorf("the keys are back in %s, but the sealed ones are not gone: %w", folder, err)
			}
			return a.show(map[string]any{"keys": folder}, func(w io.Writer, _ style) { fmt.Fprintf(w, "the keys are back in %s\n", folder) })
		},
	}
	sealFlags(cmd, &data, &file)
	return cmd
}

func sealFlags(cmd *cobra.Command, data, file *string) {
	cmd.Flags().StringVar(data, "data", "", "the node's data `FOLDER` (default: storage.data of the configuration)")
	cmd.Flags().StringVar(file, "credential", sealedFile, "the encrypted `FILE`")
}

// stopped is the folder of keys of a node that does not run.
func (a *app) stopped(ctx context.Context, data string) (folder string, err error) {
	client := a.client()
	defer client.Close()
	if _, err := client.Status(ctx); err == nil {
		return "", errors.New("the node runs; stop it first: systemctl stop pyrsia")
	}
	above, err := dataFolder(a, data)
	return filepath.Join(above, "keys"), err
}

// sealable encrypts the keys of a folder into a file, and gives them as they come out of
// it again: only then they may go. Of keys that are sealed it gives what is in the file.
func sealable(ctx context.Context, folder, file string) ([]byte, error) {
	keys, err := identity.Load(folder)
	if errors.Is(err, identity.ErrSealed) {
		return decrypted(ctx, file)
	}
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(file); err == nil {
		// The only keys of another node, perhaps.
		kept, err := decrypted(ctx, file)
		if err == nil && bytes.Equal(kept, keys.Bundle()) {
			return kept, nil
		}
		return nil, fmt.Errorf("%s holds other keys than those in %s, or none that can be opened here; move it away, or give --credential", file, folder)
	}
	sealed, err := systemdCreds(ctx, keys.Bundle(), "encrypt", "--name="+systemd.KeysCredential, "-", "-")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("keep the sealed keys: %w", err)
	}
	if err := durable.Create(file, sealed, 0o600); err != nil {
		return nil, fmt.Errorf("keep the sealed keys: %w", err)
	}
	again, err := decrypted(ctx, file)
	if err == nil && !bytes.Equal(again, keys.Bundle()) {
		err = errors.New("what was encrypted does not come out again")
	}
	return again, err
}

func decrypted(ctx context.Context, file string) ([]byte, error) {
	sealed, err := os.ReadFile(file)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there are no sealed keys in %s; `pyrsia node seal` makes them, or give --credential", file)
		}
		return nil, fmt.Errorf("read the sealed keys: %w; run this as root", err)
	}
	return systemdCreds(ctx, sealed, "decrypt", "--name="+systemd.KeysCredential, "-", "-")
}

func systemdCreds(ctx context.Context, input []byte, arguments ...string) ([]byte, error) {
	command := exec.CommandContext(ctx, "systemd-creds", arguments...)
	var said bytes.Buffer
	command.Stdin, command.Stderr = bytes.NewReader(input), &said
	out, err := command.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, errors.New("systemd-creds is not installed: keys are sealed where systemd runs the node")
	}
	if err != nil {
		return nil, fmt.Errorf("systemd-creds %s: %w: %s; run this as root, on the machine that the keys are of", arguments[0], err, strings.TrimSpace(said.String()))
	}
	return out, nil
}
