package systemd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// KeysCredential is the credential that holds a node's keys where they are sealed.
const KeysCredential = "pyrsia.keys"

// Credential is what the manager gave this process under a name (systemd.exec(5),
// Credentials), nil where it gave nothing.
func Credential(name string) ([]byte, error) {
	folder := os.Getenv("CREDENTIALS_DIRECTORY")
	if folder == "" {
		return nil, nil
	}
	data, err := os.ReadFile(filepath.Join(folder, name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("the credential %s: %w", name, err)
	}
	return data, nil
}
