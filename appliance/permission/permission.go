// Package permission is who can read or change a file of a node's beside the node.
package permission

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"
)

// Owner is whom a node's files may belong to, beside root.
type Owner struct {
	UID    int
	Groups []int // of which nobody else is, such as a user's own
}

// Self is the owner that this process is.
func Self() Owner {
	groups, _ := os.Getgroups()
	return Owner{UID: os.Geteuid(), Groups: append(groups, os.Getegid())}
}

// Of is the owner that a file belongs to.
func Of(path string) (Owner, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Owner{}, err
	}
	stat := info.Sys().(*syscall.Stat_t)
	return Owner{UID: int(stat.Uid), Groups: []int{int(stat.Gid)}}, nil
}

// File is a file or folder, and what must be true of it.
type File struct {
	Path   string
	Secret bool // only its owner may read it
}

// Problem is what is wrong with a file.
type Problem struct {
	Path  string
	What  string // in a sentence that begins with the path
	Do    string // the command that mends it
	Fatal bool   // everybody on the machine can do it, and not only somebody
}

// Error implements error.
func (p Problem) Error() string { return p.What + "; run: " + p.Do }

// Check looks at files, of which some may not exist, and does not follow into folders.
// What cannot be looked at is no problem of permissions.
func (o Owner) Check(files ...File) []Problem {
	var problems []Problem
	for _, f := range files {
		info, err := os.Stat(f.Path) // of a link, what it names counts
		if err != nil || !info.IsDir() && !info.Mode().IsRegular() {
			continue // what is no file is not read
		}
		if p, is := o.problem(f, info); is {
			problems = append(problems, p)
		}
	}
	return problems
}

func (o Owner) problem(f File, info fs.FileInfo) (Problem, bool) {
	stat := info.Sys().(*syscall.Stat_t)
	mode, uid, gid := info.Mode().Perm(), int(stat.Uid), int(stat.Gid)
	sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0 // others' files in it are safe
	switch {
	case f.Secret && mode&0o077 != 0:
		return Problem{f.Path, fmt.Sprintf("%s is secret, and others than its owner can read or change it (mode %04o)", f.Path, mode), "chmod go= " + f.Path, true}, true
	case mode&0o002 != 0 && !sticky:
		return Problem{f.Path, fmt.Sprintf("%s can be changed by everybody on this machine (mode %04o)", f.Path, mode), "chmod o-w " + f.Path, true}, true
	case uid != 0 && uid != o.UID:
		return Problem{f.Path, fmt.Sprintf("%s belongs to the user %d, who is neither root nor the node's", f.Path, uid), "chown root " + f.Path, false}, true
	case mode&0o020 != 0 && gid != 0 && !slices.Contains(o.Groups, gid) && !sticky:
		return Problem{f.Path, fmt.Sprintf("%s can be changed by the group %d (mode %04o)", f.Path, gid, mode), "chmod g-w " + f.Path, false}, true
	}
	return Problem{}, false
}

// CanRead tells whether the owner can read a file, as far as its mode tells.
func (o Owner) CanRead(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return true // another problem
	}
	stat := info.Sys().(*syscall.Stat_t)
	mode := info.Mode().Perm()
	switch {
	case o.UID == 0:
		return true
	case int(stat.Uid) == o.UID:
		return mode&0o400 != 0
	case slices.Contains(o.Groups, int(stat.Gid)):
		return mode&0o040 != 0
	}
	return mode&0o004 != 0
}

// Within are the files of a folder, each with the same demand, and the folder itself. An
// absent folder has none.
func Within(folder string, secret bool) ([]File, error) {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	files := []File{{folder, secret}}
	for _, entry := range entries {
		if entry.Type().IsRegular() || entry.Type()&fs.ModeSymlink != 0 {
			files = append(files, File{folder + "/" + entry.Name(), secret})
		}
	}
	return files, err
}
