package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/pyrsia/appliance/modules/store"
)

// fsys is every step that changes the disk, so that a test can end the process
// before any of them. Reading goes to os directly.
type fsys interface {
	Mkdir(path string) error
	Create(path string) (file, error) // read and write; must not exist
	OpenWrite(path string) (file, error)
	Rename(from, to string) error
	RemoveAll(path string) error
	SyncDir(path string) error
}

type file interface {
	io.Writer
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error

	// Reserve makes the file size bytes long and takes the room now, so that a
	// full disk shows before the first byte and not in the middle.
	Reserve(size int64) error
}

type osFS struct{}

type osFile struct{ *os.File }

func (osFS) Mkdir(path string) error             { return noRoom(os.Mkdir(path, 0o755)) }
func (osFS) Rename(from, to string) error        { return noRoom(os.Rename(from, to)) }
func (osFS) RemoveAll(path string) error         { return os.RemoveAll(path) }
func (osFS) Create(path string) (file, error)    { return openFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL) }
func (osFS) OpenWrite(path string) (file, error) { return openFile(path, os.O_RDWR) }

func (osFS) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func openFile(path string, flags int) (file, error) {
	f, err := os.OpenFile(path, flags, 0o644)
	if err != nil {
		return nil, noRoom(err)
	}
	return osFile{f}, nil
}

func (f osFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	return n, noRoom(err)
}

func (f osFile) WriteAt(p []byte, at int64) (int, error) {
	n, err := f.File.WriteAt(p, at)
	return n, noRoom(err)
}

func (f osFile) Sync() error { return noRoom(f.File.Sync()) }

func (f osFile) Reserve(size int64) error {
	if size == 0 {
		return nil
	}
	err := syscall.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) {
		return noRoom(f.Truncate(size))
	}
	return noRoom(err)
}

// noRoom makes a full file system, or a user's quota on it, store.ErrQuota.
func noRoom(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", store.ErrQuota, err)
	}
	return err
}
