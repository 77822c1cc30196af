package git

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/pjbgf/sha1cd"
)

// objects are what a repository is made of.
type objects interface {
	// object is the object of a hash, unproven; plumbing.ErrObjectNotFound.
	object(plumbing.Hash) (plumbing.EncodedObject, error)
}

// packed are the objects of a packfile on the disk. Its index is in memory.
type packed struct {
	file *os.File
	pack *packfile.Packfile
}

func (p *packed) object(h plumbing.Hash) (plumbing.EncodedObject, error) {
	o, err := p.pack.Get(h)
	if err != nil && !errors.Is(err, plumbing.ErrObjectNotFound) {
		return nil, unavailable("read the packfile: %w", err)
	}
	return o, err
}

func (p *packed) close() { p.file.Close() }

// packFile is a packfile as the library wants it. Reading it ends with the
// context: that is what ends the library's work, too.
type packFile struct {
	*os.File
	ctx context.Context
}

func (f packFile) Read(p []byte) (int, error) {
	if err := context.Cause(f.ctx); err != nil {
		return 0, err
	}
	return f.File.Read(p)
}

func (packFile) Lock() error   { return nil }
func (packFile) Unlock() error { return nil }

// openPack indexes a packfile. The file stays the caller's on an error.
func openPack(ctx context.Context, file *os.File, limits bounds) (*packed, error) {
	f := packFile{file, ctx}
	if err := survey(f, limits); err != nil {
		return nil, causeOf(ctx, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	w := new(idxfile.Writer)
	parser, err := packfile.NewParser(packfile.NewScanner(f), w)
	if err != nil {
		return nil, err
	}
	if _, err := parser.Parse(); err != nil {
		return nil, unavailable("the server's packfile is broken: %w", causeOf(ctx, err))
	}
	index, err := w.Index()
	if err != nil {
		return nil, err
	}
	return &packed{file, packfile.NewPackfile(index, nil, f, 0)}, nil
}

// survey looks through a packfile without keeping anything of it: the library
// takes the sizes in it for true when it indexes it, and has whole objects in
// memory. So nothing larger than the bounds may be in there.
func survey(f packFile, limits bounds) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	s := packfile.NewScanner(f)
	_, count, err := s.Header()
	if err != nil {
		return unavailable("the server sends no packfile: %w", err)
	}
	if int64(count) > limits.objects {
		return unavailable("the server's packfile has %d objects, at most %d are allowed: use a server that gives single commits, or a release archive", count, limits.objects)
	}
	room := limits.stored
	for range count {
		size, err := surveyObject(s, limits)
		if err != nil {
			return err
		}
		if room -= size; room < 0 {
			return unavailable("the server's packfile unpacks to more than %d bytes", limits.stored)
		}
	}
	return nil
}

// surveyObject is the size of the next object as it is stored, and of a delta that of
// what it makes, too.
func surveyObject(s *packfile.Scanner, limits bounds) (int64, error) {
	h, err := s.NextObjectHeader()
	if err != nil {
		return 0, unavailable("the server's packfile is broken: %w", err)
	}
	if h.Length > limits.object {
		return 0, tooLarge(h.Length, limits)
	}
	var head headWriter
	n, _, err := s.NextObject(&head)
	if err == nil && n != h.Length {
		err = fmt.Errorf("an object of %d bytes says that it has %d", n, h.Length)
	}
	if err != nil {
		return 0, unavailable("the server's packfile is broken: %w", err)
	}
	if h.Type.IsDelta() {
		base, result, err := deltaSizes(head.bytes())
		if err != nil {
			return 0, unavailable("the server's packfile is broken: %w", err)
		}
		if size := max(base, result); size > uint64(limits.object) {
			return 0, tooLarge(size, limits)
		}
		// A few bytes of delta make a large object, which costs time to make.
		return n + int64(result), nil
	}
	return n, nil
}

func tooLarge[size int64 | uint64](n size, limits bounds) error {
	return unavailable("the server's packfile has an object of %d bytes, at most %d are allowed: use a release archive", n, limits.object)
}

// headWriter keeps the first bytes that are written to it.
type headWriter struct {
	kept [2 * binary.MaxVarintLen64]byte
	n    int
}

func (w *headWriter) Write(p []byte) (int, error) {
	w.n += copy(w.kept[w.n:], p)
	return len(p), nil
}

func (w *headWriter) bytes() []byte { return w.kept[:w.n] }

// deltaSizes are the sizes of a delta's base and of its result (gitformat-pack(5)).
func deltaSizes(head []byte) (base, result uint64, err error) {
	base, n := binary.Uvarint(head)
	if n <= 0 {
		return 0, 0, errors.New("a delta without sizes")
	}
	result, n = binary.Uvarint(head[n:])
	if n <= 0 {
		return 0, 0, errors.New("a delta without sizes")
	}
	return base, result, nil
}

// open opens an object. What is read of it is proven when its reader ends in
// io.EOF, and not before.
func open(from objects, h plumbing.Hash, kind plumbing.ObjectType) (*proven, error) {
	o, err := from.object(h)
	switch {
	case errors.Is(err, plumbing.ErrObjectNotFound):
		return nil, unavailable("%s %s is missing from what the server sent", kind, h)
	case err != nil:
		return nil, err
	case o.Type() != kind:
		return nil, refused("%s is a %s, where a %s belongs", h, o.Type(), kind)
	}
	r, err := o.Reader()
	if err != nil {
		return nil, unavailable("read %s %s: %w", kind, h, err)
	}
	p := &proven{r: r, want: h, left: o.Size(), size: o.Size(), hash: sha1cd.New().(sha1cd.CollisionResistantHash)}
	fmt.Fprintf(p.hash, "%s %d\x00", kind, p.size)
	return p, nil
}

// proven is the content of an object, hashed while it is read.
type proven struct {
	r          io.ReadCloser
	want       plumbing.Hash
	size, left int64
	hash       sha1cd.CollisionResistantHash
}

func (p *proven) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.hash.Write(b[:n])
	if p.left -= int64(n); p.left < 0 {
		return 0, unavailable("object %s is longer than it says", p.want)
	}
	if errors.Is(err, io.EOF) {
		if wrong := p.verify(); wrong != nil {
			return 0, wrong
		}
	}
	return n, err
}

func (p *proven) verify() error {
	sum, attacked := p.hash.CollisionResistantSum(nil)
	switch {
	case attacked:
		return refused("object %s is made for an attack on SHA-1", p.want)
	case p.left != 0 || !bytes.Equal(sum, p.want[:]):
		return unavailable("what is stored as object %s has hash %x", p.want, sum)
	}
	return nil
}

func (p *proven) Close() error { return p.r.Close() }

// content is a whole object, proven.
func content(from objects, h plumbing.Hash, kind plumbing.ObjectType, limit int64) ([]byte, error) {
	p, err := open(from, h, kind)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if p.size > limit {
		return nil, refused("%s %s has %d bytes, at most %d are allowed", kind, h, p.size, limit)
	}
	return io.ReadAll(p)
}
