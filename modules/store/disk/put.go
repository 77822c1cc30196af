package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/store"
)

// putStep is how much room Put reserves at a time, in bytes, when the size is
// not known before.
const putStep = 4 << 20

// Put reads r to its end and keeps the bytes, durable before it returns. An
// error of r is returned as it is and leaves nothing behind; ErrQuota when
// there is no room. What is here already is read and not written again.
func (s *Store) Put(ctx context.Context, r io.Reader) (artifact.Descriptor, error) {
	return s.PutExpect(ctx, r, artifact.Descriptor{Size: -1})
}

// PutExpect is Put of bytes whose descriptor is known, and refuses others with
// ErrMismatch. A negative size or a zero digest in want is not compared.
func (s *Store) PutExpect(ctx context.Context, r io.Reader, want artifact.Descriptor) (artifact.Descriptor, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return artifact.Descriptor{}, store.ErrClosed
	}
	p := &putting{s: s, want: want, dir: s.temporary(), hasher: store.NewHasher()}
	s.mu.Unlock()
	desc, err := p.run(ctx, r)
	if err != nil {
		p.undo()
	}
	return desc, err
}

type putting struct {
	s        *Store
	want     artifact.Descriptor
	dir      string
	hasher   *store.Hasher
	reserved int64
	size     int64
}

func (p *putting) run(ctx context.Context, r io.Reader) (artifact.Descriptor, error) {
	if err := p.s.fs.Mkdir(p.dir); err != nil {
		return artifact.Descriptor{}, fmt.Errorf("store: %w", err)
	}
	data, err := p.s.fs.Create(filepath.Join(p.dir, "data"))
	if err != nil {
		return artifact.Descriptor{}, fmt.Errorf("store: %w", err)
	}
	defer data.Close()
	if err := p.copy(ctx, data, r); err != nil {
		return artifact.Descriptor{}, err
	}
	desc, outboard := p.hasher.Finish()
	if err := store.Expect(desc, p.want); err != nil {
		return artifact.Descriptor{}, err
	}
	if p.s.Has(desc.SHA256) {
		return desc, p.undo()
	}
	if err := p.finish(data, desc, outboard); err != nil {
		return artifact.Descriptor{}, fmt.Errorf("store: %w", err)
	}
	return desc, p.publish(desc)
}

// copy writes r's bytes, hashing them on the way.
func (p *putting) copy(ctx context.Context, data durable.File, r io.Reader) error {
	buffer := make([]byte, 256<<10)
	for {
		n, end := 0, error(nil)
		for n < len(buffer) && end == nil {
			var k int
			k, end = r.Read(buffer[n:])
			n += k
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if end != nil && end != io.EOF {
			return end
		}
		if err := p.write(data, buffer[:n]); err != nil {
			return err
		}
		if end == io.EOF {
			return nil
		}
	}
}

func (p *putting) write(data durable.File, b []byte) error {
	p.size += int64(len(b))
	if p.want.Size >= 0 && p.size > p.want.Size {
		return fmt.Errorf("%w: more than %d bytes", store.ErrMismatch, p.want.Size)
	}
	if err := p.reserve(); err != nil {
		return err
	}
	if _, err := data.Write(b); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	_, _ = p.hasher.Write(b)
	return nil
}

func (p *putting) reserve() error {
	target := room(max(p.want.Size, p.size))
	if target <= p.reserved {
		return nil
	}
	if p.want.Size < 0 {
		target += putStep
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	err := p.s.reserve(target - p.reserved)
	if err != nil && p.want.Size < 0 {
		// The step may be too much where the bytes themselves are not.
		target = room(p.size)
		err = p.s.reserve(target - p.reserved)
	}
	if err == nil {
		p.reserved = target
	}
	return err
}

// finish makes the temporary folder complete and durable.
func (p *putting) finish(data durable.File, desc artifact.Descriptor, outboard []byte) error {
	if err := data.Sync(); err != nil {
		return err
	}
	tree, err := p.s.fs.Create(filepath.Join(p.dir, "tree"))
	if err != nil {
		return err
	}
	defer tree.Close()
	if _, err := tree.Write(append(header(desc), outboard[8:]...)); err != nil {
		return err
	}
	if err := tree.Sync(); err != nil {
		return err
	}
	return p.s.fs.SyncDir(p.dir)
}

// publish makes the blob visible under its digest.
func (p *putting) publish(desc artifact.Descriptor) error {
	s := p.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used += room(desc.Size) - p.reserved
	p.reserved = room(desc.Size)
	if err := s.install(p.dir, desc); err != nil {
		return err
	}
	p.reserved = 0 // the blob's now
	return nil
}

func (p *putting) undo() error {
	p.s.unreserve(p.reserved)
	p.reserved = 0
	return p.s.fs.RemoveAll(p.dir)
}

// install renames a complete, synced folder to its place; mu is held. Where
// the blob is there already, the folder goes and its room with it.
//
// A crash between the rename and the fsync may forget the blob, and cannot
// leave half of it.
func (s *Store) install(dir string, desc artifact.Descriptor) error {
	if s.closed {
		return store.ErrClosed
	}
	if s.blobs[desc.SHA256] != nil {
		s.used -= room(desc.Size)
		return s.fs.RemoveAll(dir)
	}
	place := s.blobPath(desc.SHA256)
	if err := s.place(dir, place); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if err := s.fs.SyncDir(filepath.Dir(place)); err != nil {
		// Not durable, so not announced: it must not come back by itself.
		return fmt.Errorf("store: %w", errors.Join(err, s.fs.RemoveAll(place)))
	}
	now := s.clock()
	s.add(&blob{desc: desc, lastRead: now, recorded: now})
	return nil
}

// place renames a folder to its place. What is there already is nobody's: left
// by an install that failed and could not clean up either.
func (s *Store) place(dir, place string) error {
	if err := s.shard(filepath.Dir(place)); err != nil {
		return err
	}
	err := s.fs.Rename(dir, place)
	if !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	trash := s.temporary()
	if err := s.fs.Rename(place, trash); err != nil {
		return err
	}
	_ = s.fs.RemoveAll(trash)
	return s.fs.Rename(dir, place)
}

// shard makes the folder that a blob's folder goes into, durably.
func (s *Store) shard(path string) error {
	name := filepath.Base(path)
	if s.shards[name] {
		return nil
	}
	if err := s.mkdir(path); err != nil {
		return err
	}
	if err := s.fs.SyncDir(s.path("blobs")); err != nil {
		return err
	}
	s.shards[name] = true
	return nil
}
