package durable

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// Rewrite gives a file that somebody else wrote other content as a whole, durably; its owner and mode
// stay, and a link to it stays one.
func Rewrite(path string, content []byte) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("this system does not tell whose it is")
	}
	return Replace(owned{OS(true), info.Mode().Perm(), int(stat.Uid), int(stat.Gid)}, path, content)
}

// owned is a file system whose new files have a mode and an owner.
type owned struct {
	FS
	mode     os.FileMode
	uid, gid int
}

// Create implements FS. Whoever may not give the file to its owner changes
// nothing.
func (o owned) Create(path string) (File, error) {
	f, err := o.FS.Create(path)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chown(path, o.uid, o.gid), os.Chmod(path, o.mode)); err != nil {
		return nil, errors.Join(err, f.Close(), o.FS.RemoveAll(path))
	}
	return f, nil
}
