package buildkit

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"lukechampine.com/blake3"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
)

// errInput says that a locked input cannot be packed: an archive that is
// broken, hostile or too large. Building again would not help.
var errInput = errors.New("unusable input")

const (
	maxLinkLength = 4096       // of a symbolic link's target, bytes; Linux' PATH_MAX
	maxEntries    = 1 << 20    // of one layer
	maxLayerBytes = 16 << 30   // of the files of one layer, unpacked
	tarBlock      = 512        // ustar
	copyBuffer    = 256 * 1024 //
)

// layerWriter packs files into one uncompressed layer of an OCI image. Equal
// calls make equal bytes: every time stamp is the same, owners are numbers, and
// nothing of this machine goes in.
//
// It refuses what an unpacking tool could be led astray by: a path that is not
// clean, a path twice, a path through something that is not a folder. Folders
// above a path are made on the way. The first error sticks; close returns it.
type layerWriter struct {
	ctx     context.Context // of who waits for it
	spool   *spool
	tar     *tar.Writer
	mtime   time.Time
	packed  map[string]*tar.Header // by path
	parents int64                  // mode of folders that nothing names but what is below them
	room    int64                  // bytes that files may still take
	copy    []byte
}

// newLayer starts a layer in a new file in folder.
func newLayer(ctx context.Context, folder string, mtime int64) (*layerWriter, error) {
	spool, err := newSpool(folder)
	if err != nil {
		return nil, err
	}
	return &layerWriter{
		ctx: ctx, spool: spool, tar: tar.NewWriter(spool), mtime: time.Unix(mtime, 0).UTC(),
		packed: map[string]*tar.Header{}, parents: 0o755, room: maxLayerBytes, copy: make([]byte, copyBuffer),
	}, nil
}

// packLayer makes a layer of what fill packs. It stops when the context ends.
func packLayer(ctx context.Context, folder string, mtime int64, fill func(*layerWriter) error) (blob, error) {
	l, err := newLayer(ctx, folder, mtime)
	if err != nil {
		return blob{}, err
	}
	if err := fill(l); err != nil {
		l.abandon()
		return blob{}, err
	}
	return l.close()
}

// abandon removes an unfinished layer.
func (l *layerWriter) abandon() { l.spool.abandon() }

// close ends the layer. What it holds of its own stays in the folder for the caller to
// remove; it is made again after a crash, and needs no fsync.
func (l *layerWriter) close() (blob, error) {
	if err := errors.Join(l.tar.Close(), l.spool.close()); err != nil {
		l.spool.abandon()
		return blob{}, fmt.Errorf("pack layer: %w", err)
	}
	return l.spool.blob(), nil
}

// admit checks a path and makes the folders above it.
func (l *layerWriter) admit(name string) error {
	if err := context.Cause(l.ctx); err != nil {
		return err
	}
	if err := artifact.CheckFile(name); err != nil {
		return fmt.Errorf("%w: %w", errInput, err)
	}
	if len(l.packed) >= maxEntries {
		return fmt.Errorf("%w: more than %d files", errInput, maxEntries)
	}
	if l.packed[name] != nil {
		return fmt.Errorf("%w: %.200q is there twice", errInput, name)
	}
	if parent := path.Dir(name); parent != "." {
		return l.folder(parent, l.parents, 0, 0)
	}
	return nil
}

func (l *layerWriter) header(h *tar.Header) error {
	h.ModTime = l.mtime
	h.Format = tar.FormatPAX
	if err := l.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("pack %.200q: %w", h.Name, err)
	}
	l.packed[strings.TrimSuffix(h.Name, "/")] = h
	return nil
}

// folder makes a folder; one that is there already stays as it is.
func (l *layerWriter) folder(name string, mode int64, uid, gid int) error {
	switch there := l.packed[name]; {
	case there != nil && there.Typeflag == tar.TypeDir:
		return nil
	case there != nil:
		return fmt.Errorf("%w: %.200q is no folder", errInput, name)
	}
	if err := l.admit(name); err != nil {
		return err
	}
	return l.header(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, Uid: uid, Gid: gid})
}

// regular packs exactly size bytes of r.
func (l *layerWriter) regular(name string, mode int64, uid, gid int, size int64, r io.Reader) error {
	if err := l.begin(name, mode, uid, gid, size); err != nil {
		return err
	}
	return l.content(name, size, r)
}

// begin packs the header of a file of size bytes.
func (l *layerWriter) begin(name string, mode int64, uid, gid int, size int64) error {
	if err := l.admit(name); err != nil {
		return err
	}
	if size < 0 || size > l.room {
		return fmt.Errorf("%w: %.200q is too large with %d bytes", errInput, name, size)
	}
	l.room -= size
	return l.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Uid: uid, Gid: gid, Size: size})
}

func (l *layerWriter) content(name string, size int64, r io.Reader) error {
	n, err := io.CopyBuffer(onlyWriter{l.tar}, io.LimitReader(r, size), l.copy)
	if err != nil {
		return fmt.Errorf("pack %q: %w", name, err)
	}
	if n != size {
		return fmt.Errorf("%w: %.200q ends after %d of %d bytes", errInput, name, n, size)
	}
	return nil
}

// locked packs a locked file as it is, if it is: a disk may have lost its bytes, and a
// build with others is a wrong vote. It is not copied: who reads the layer reads it where
// it lies, and must find it there until then. BuildKit checks the layer's digest.
func (l *layerWriter) locked(name string, d artifact.Descriptor, open func(artifact.SHA256) (*os.File, error)) error {
	file, err := open(d.SHA256)
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	if info.Size() != d.Size {
		return &build.CorruptError{Name: name, SHA256: d.SHA256}
	}
	if err := l.begin(name, 0o644, 0, 0, d.Size); err != nil {
		return err
	}
	if d.Size >= minReferred {
		l.spool.begin(name, func() (*os.File, error) { return open(d.SHA256) })
		defer l.spool.end()
	}
	hash := blake3.New(len(d.BLAKE3), nil)
	if err := l.content(name, d.Size, io.TeeReader(file, hash)); err != nil {
		return err
	}
	if !bytes.Equal(hash.Sum(nil), d.BLAKE3[:]) {
		return &build.CorruptError{Name: name, SHA256: d.SHA256}
	}
	return nil
}

// checked is an open whose files are what their names say, read whole for that: of what is
// unpacked, a lost bit would make other files without a word.
func checked(open func(artifact.SHA256) (*os.File, error)) func(artifact.SHA256) (*os.File, error) {
	return func(name artifact.SHA256) (*os.File, error) {
		file, err := open(name)
		if err != nil {
			return nil, err
		}
		hash := sha256.New()
		_, err = io.Copy(hash, file)
		if err == nil && !bytes.Equal(hash.Sum(nil), name[:]) {
			err = &build.CorruptError{Name: "an input", SHA256: name}
		}
		if err == nil {
			_, err = file.Seek(0, io.SeekStart)
		}
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
		return file, nil
	}
}

// onlyWriter hides tar.Writer's ReadFrom, which would ignore our buffer.
type onlyWriter struct{ io.Writer }

// symlink packs a symbolic link. What the target may be is the caller's rule.
func (l *layerWriter) symlink(name, target string, uid, gid int) error {
	if target == "" || len(target) > maxLinkLength || strings.ContainsRune(target, 0) {
		return fmt.Errorf("%w: link %.200q has target %.200q", errInput, name, target)
	}
	if err := l.admit(name); err != nil {
		return err
	}
	return l.header(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, Uid: uid, Gid: gid})
}

// hardlink packs another name of a file that the layer already has. Mode and
// owner go along, since unpacking a link sets them on the file.
func (l *layerWriter) hardlink(name, target string) error {
	file := l.packed[target]
	if file == nil || file.Typeflag != tar.TypeReg {
		return fmt.Errorf("%w: link %.200q to %.200q, which is no file before it", errInput, name, target)
	}
	if err := l.admit(name); err != nil {
		return err
	}
	return l.header(&tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: file.Mode, Uid: file.Uid, Gid: file.Gid})
}

// text packs a small file of our own.
func (l *layerWriter) text(name, content string) error {
	return l.regular(name, 0o644, 0, 0, int64(len(content)), strings.NewReader(content))
}

// inside tells whether a symbolic link at name, followed, stays below root. All
// three are slash-separated and clean; root "" is the layer's root. It is the
// lexical rule: the folders on the way are real folders, because layerWriter
// packs nothing through a link.
func inside(root, name, target string) bool {
	if path.IsAbs(target) {
		return false
	}
	landed := path.Join(path.Dir(name), target)
	if root == "" {
		return landed != ".." && !strings.HasPrefix(landed, "../")
	}
	return landed == root || strings.HasPrefix(landed, root+"/")
}
