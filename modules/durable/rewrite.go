package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
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

// Give gives a folder that this process made, and the files in it, to whom another path
// belongs to. Who is not root has nothing to give away.
func Give(folder, like string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	to, _, err := of(like)
	if err != nil {
		return err
	}
	// The folder above may be somebody's who puts another in its place meanwhile.
	fd, err := unix.Open(folder, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: folder, Err: err}
	}
	made := os.NewFile(uintptr(fd), folder)
	defer made.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return err
	}
	if stat.Uid != 0 {
		return fmt.Errorf("%s is not the folder that was made", folder)
	}
	names, err := made.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := unix.Fchownat(fd, name, to.uid, to.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &os.PathError{Op: "chown", Path: filepath.Join(folder, name), Err: err}
		}
	}
	return made.Chown(to.uid, to.gid)
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
	// By the open file and not by its name: whose folder it is could put a link there.
	made, is := f.(file)
	if !is {
		return nil, errors.Join(fmt.Errorf("a %T has no owner", f), f.Close(), o.FS.RemoveAll(path))
	}
	if err := errors.Join(made.Chown(o.uid, o.gid), made.Chmod(o.mode)); err != nil {
		return nil, errors.Join(err, f.Close(), o.FS.RemoveAll(path))
	}
	return f, nil
}
