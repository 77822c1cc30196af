package disk

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/store"
)

// roomy is a file system whose errors say by store.ErrQuota that there is no room.
type roomy struct{ durable.FS }

type roomyFile struct{ durable.File }

func (r roomy) Mkdir(path string) error      { return noRoom(r.FS.Mkdir(path)) }
func (r roomy) Rename(from, to string) error { return noRoom(r.FS.Rename(from, to)) }
func (r roomy) RemoveAll(path string) error  { return noRoom(r.FS.RemoveAll(path)) }
func (r roomy) SyncDir(path string) error    { return noRoom(r.FS.SyncDir(path)) }

func (r roomy) Create(path string) (durable.File, error) {
	return roomyOpen(r.FS.Create(path))
}

func (r roomy) OpenWrite(path string) (durable.File, error) {
	return roomyOpen(r.FS.OpenWrite(path))
}

func roomyOpen(f durable.File, err error) (durable.File, error) {
	if err != nil {
		return nil, noRoom(err)
	}
	return roomyFile{f}, nil
}

func (f roomyFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	return n, noRoom(err)
}

func (f roomyFile) WriteAt(p []byte, at int64) (int, error) {
	n, err := f.File.WriteAt(p, at)
	return n, noRoom(err)
}

func (f roomyFile) Sync() error { return noRoom(f.File.Sync()) }

func (f roomyFile) Reserve(size int64) error { return noRoom(f.File.Reserve(size)) }

// noRoom makes a full file system, or a user's quota on it, store.ErrQuota.
func noRoom(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", store.ErrQuota, err)
	}
	return err
}
