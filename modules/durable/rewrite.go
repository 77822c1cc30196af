package durable

import (
	"errors"
	"io/fs"
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
	like, mode, err := of(path)
	if err != nil {
		return err
	}
	like.mode = mode
	return Replace(like, path, content)
}

// Create gives a file content as a whole, durably. It belongs to whom its folder belongs
// to, whoever writes it.
func Create(path string, content []byte, mode os.FileMode) error {
	like, _, err := of(filepath.Dir(path))
	if err != nil {
		return err
	}
	like.mode = mode
	return Replace(like, path, content)
}

// Give gives a folder and all in it to whom another path belongs to. Who is not root has
// nothing to give away.
func Give(folder, like string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	to, _, err := of(like)
	if err != nil {
		return err
	}
	return filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, to.uid, to.gid)
	})
}

// of makes files that belong to whom a path belongs to.
func of(path string) (like owned, mode os.FileMode, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return owned{}, 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return owned{}, 0, errors.New("this system does not tell whose it is")
	}
	return owned{FS: OS(true), uid: int(stat.Uid), gid: int(stat.Gid)}, info.Mode().Perm(), nil
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
