// Package durable is what changes a disk: every step at which a process, a
// machine or a disk may fail, behind an interface, so that a test can make each
// of them fail; and the orders of steps that leave no half of anything.
//
// Reading goes to package os. modules/durable/durabletest has the file system
// that fails.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// FS is a file system as far as it changes. It is safe for concurrent use.
type FS interface {
	Mkdir(path string) error
	Create(path string) (File, error) // read and write; the file must not exist
	OpenWrite(path string) (File, error)
	Rename(from, to string) error
	RemoveAll(path string) error
	SyncDir(path string) error // after it, names that were made in the folder stay
}

// File is an open file.
type File interface {
	io.Writer
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Truncate(size int64) error

	// Reserve makes the file size bytes long and takes the room now, so that a
	// full disk shows before the first byte and not in the middle.
	Reserve(size int64) error
}

// OS is the operating system's file system. Folders are made with mode 0755 and
// files with 0644, or with 0700 and 0600 where private.
func OS(private bool) FS {
	if private {
		return system{folder: 0o700, file: 0o600}
	}
	return system{folder: 0o755, file: 0o644}
}

type system struct{ folder, file fs.FileMode }

type file struct{ *os.File }

func (s system) Mkdir(path string) error    { return os.Mkdir(path, s.folder) }
func (system) Rename(from, to string) error { return os.Rename(from, to) }
func (system) RemoveAll(path string) error  { return os.RemoveAll(path) }
func (system) SyncDir(path string) error    { return SyncDir(path) }
func (s system) Create(path string) (File, error) {
	return s.open(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}
func (s system) OpenWrite(path string) (File, error) { return s.open(path, os.O_RDWR) }

func (s system) open(path string, flags int) (File, error) {
	f, err := os.OpenFile(path, flags, s.file)
	if err != nil {
		return nil, err
	}
	return file{f}, nil
}

// Open is a file that is open already.
func Open(f *os.File) File { return file{f} }

func (f file) Reserve(size int64) error {
	if size == 0 {
		return nil
	}
	err := syscall.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) {
		return f.Truncate(size)
	}
	return err
}

// SyncDir makes durable which names stand in a folder.
func SyncDir(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// OpenOrCreate opens a file to read and write, an empty one where there is none.
// That there is one is durable after SyncDir.
func OpenOrCreate(disk FS, path string) (File, error) {
	f, err := disk.OpenWrite(path)
	if errors.Is(err, fs.ErrNotExist) {
		return disk.Create(path)
	}
	return f, err
}

// fresh begins the name of a file that Replace writes before it takes its place.
const fresh = ".new-"

// Replace gives a file its content, durable when it returns. A crash at any step
// leaves the file as it was or with the content, and perhaps another one beside it
// that Sweep removes. An error leaves it so as well: which of the two is not known
// if the last step failed. Calls for one file must not meet.
func Replace(disk FS, path string, content []byte) error {
	folder, name := filepath.Split(path)
	temporary := filepath.Join(folder, fresh+name)
	if err := disk.RemoveAll(temporary); err != nil {
		return err
	}
	err := write(disk, temporary, content)
	if err == nil {
		err = disk.Rename(temporary, path)
	}
	if err != nil {
		return errors.Join(err, disk.RemoveAll(temporary))
	}
	return disk.SyncDir(filepath.Clean(folder))
}

func write(disk FS, path string, content []byte) error {
	f, err := disk.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Sweep removes what a crash in Replace left in a folder.
func Sweep(disk FS, folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), fresh) {
			continue
		}
		if err := disk.RemoveAll(filepath.Join(folder, entry.Name())); err != nil {
			return fmt.Errorf("remove what an interrupted write left: %w", err)
		}
	}
	return nil
}
