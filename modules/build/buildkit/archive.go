package buildkit

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/pyrsia/appliance/modules/archive"
)

const (
	// maxUnpacked bounds what one archive may become, so that a small one cannot
	// fill the disk.
	maxUnpacked = 8 << 30
	// maxStream bounds what is decompressed of it: what strip drops, headers and
	// padding are not packed.
	maxStream = maxUnpacked + 4<<30
)

// maxDirectory is of a zip.
var maxDirectory = archive.Bound{Records: maxEntries, Bytes: 128 << 20}

// bounded is the decompressed bytes of an archive: no more than room, and none when
// nobody waits for them any more.
type bounded struct {
	from io.Reader
	ctx  context.Context
	room int64
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if err := context.Cause(b.ctx); err != nil {
		return 0, err
	}
	if b.room <= 0 {
		return 0, fmt.Errorf("%w: more than %d bytes are in it", errInput, int64(maxStream))
	}
	n, err := b.from.Read(p[:min(int64(len(p)), b.room)])
	b.room -= int64(n)
	return n, err
}

// unpacking is how an archive is unpacked.
type unpacking struct {
	into  string // folder; "" is the layer's root
	strip int64  // leading path segments to drop
	umask int64  // what files and folders may not have of 0777
	crlf  bool   // lines of text files end as on Windows
}

// unpack packs the content of a source archive into the layer. The archive's kind is
// read from name: .zip, .jar, .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz or .tar.zst.
//
// Owner becomes root, a file's mode 0666 or 0777 and a folder's 0777 without the
// umask, every time the layer's. Refused are paths that leave the folder, links that
// do, device files, and a path twice.
func (l *layerWriter) unpack(file *os.File, name string, how unpacking) error {
	strip := how.strip
	if how.into != "" {
		if err := l.folder(how.into, 0o777&^how.umask, 0, 0); err != nil {
			return err
		}
	}
	defer func(mode int64) { l.parents = mode }(l.parents)
	l.parents = 0o777 &^ how.umask
	u := unpacker{layer: l, unpacking: how, room: maxUnpacked}
	if strip < 0 || strip > 64 {
		return fmt.Errorf("%w: %s: strip = %d", errInput, name, strip)
	}
	var err error
	if strings.HasSuffix(name, ".zip") || strings.HasSuffix(name, ".jar") {
		err = u.zip(file)
	} else {
		err = u.compressedTar(file, name)
	}
	if err != nil {
		return fmt.Errorf("unpack %s: %w", path.Base(name), err)
	}
	if u.packed == 0 {
		return fmt.Errorf("%w: unpack %s: nothing is in it below %d path segments", errInput, path.Base(name), strip)
	}
	return nil
}

type unpacker struct {
	unpacking
	layer  *layerWriter
	room   int64
	packed int
}

// place is where an archive's entry goes; ok is false for one that strip drops.
func (u *unpacker) place(name string) (placed string, ok bool, err error) {
	clean := strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	if clean == "" || clean == "." {
		return "", false, nil
	}
	if path.IsAbs(clean) || path.Clean(clean) != clean || clean == ".." || strings.HasPrefix(clean, "../") {
		return "", false, fmt.Errorf("%w: path %.200q", errInput, name)
	}
	segments := strings.Split(clean, "/")
	if int64(len(segments)) <= u.strip {
		return "", false, nil
	}
	return path.Join(u.into, path.Join(segments[u.strip:]...)), true, nil
}

func (u *unpacker) take(name string, size int64) error {
	if size < 0 || size > u.room {
		return fmt.Errorf("%w: unpacked it is larger than %d bytes at %.200q", errInput, int64(maxUnpacked), name)
	}
	u.room -= size
	u.packed++
	return nil
}

func (u *unpacker) folder(name string) error { return u.layer.folder(name, 0o777&^u.umask, 0, 0) }

func (u *unpacker) regular(name string, executable bool, size int64, content io.Reader) error {
	mode := 0o666 &^ u.umask
	if executable {
		mode = 0o777 &^ u.umask
	}
	if u.crlf && size <= maxText {
		text, err := io.ReadAll(io.LimitReader(content, size))
		if err != nil {
			return fmt.Errorf("%w: %.200q: %w", errInput, name, err)
		}
		if int64(len(text)) != size {
			return fmt.Errorf("%w: %.200q ends after %d of %d bytes", errInput, name, len(text), size)
		}
		text = withCRLF(text)
		size, content = int64(len(text)), bytes.NewReader(text)
	}
	return u.layer.regular(name, mode, 0, 0, size, content)
}

// maxText bounds a text file whose lines get other ends; what is larger is no text.
const maxText = 32 << 20

// withCRLF ends each line as a checkout with core.autocrlf does: a file that has a zero
// byte near its beginning is no text, and one that has a carriage return anywhere is
// left as it is (git-config(1), convert.c's rule of what is safe to convert).
func withCRLF(text []byte) []byte {
	const looked = 8000 // as much as git looks at
	if bytes.IndexByte(text[:min(len(text), looked)], 0) >= 0 || bytes.IndexByte(text, '\r') >= 0 {
		return text
	}
	return bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))
}

func (u *unpacker) link(name, target string) error {
	if !inside(u.into, name, target) {
		return fmt.Errorf("%w: link %.200q leaves the folder with target %.200q", errInput, name, target)
	}
	u.packed++
	return u.layer.symlink(name, target, 0, 0)
}

func (u *unpacker) zip(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	opened, _, err := archive.OpenZip(file, info.Size(), maxDirectory)
	if err != nil {
		return fmt.Errorf("%w: %w", errInput, err)
	}
	entries := append([]*zip.File(nil), opened.File...)
	sort.SliceStable(entries, func(i, j int) bool { return entries[i].Name < entries[j].Name })
	for _, entry := range entries {
		if err := u.zipEntry(entry); err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) zipEntry(entry *zip.File) error {
	name, ok, err := u.place(entry.Name)
	if err != nil || !ok {
		return err
	}
	mode := entry.Mode()
	switch {
	case strings.HasSuffix(entry.Name, "/") || mode.IsDir():
		return u.folder(name)
	case mode&os.ModeSymlink == 0 && !mode.IsRegular():
		return fmt.Errorf("%w: %.200q is neither file, folder nor link", errInput, entry.Name)
	}
	if entry.UncompressedSize64 > maxUnpacked {
		return u.take(entry.Name, -1)
	}
	if err := u.take(entry.Name, int64(entry.UncompressedSize64)); err != nil {
		return err
	}
	content, err := entry.Open()
	if err != nil {
		return fmt.Errorf("%w: %.200q: %w", errInput, entry.Name, err)
	}
	defer content.Close()
	if mode&os.ModeSymlink != 0 {
		target, err := io.ReadAll(io.LimitReader(content, maxLinkLength+1))
		if err != nil {
			return fmt.Errorf("%w: %.200q: %w", errInput, entry.Name, err)
		}
		return u.link(name, string(target))
	}
	return u.regular(name, mode&0o111 != 0, int64(entry.UncompressedSize64), content)
}

func (u *unpacker) compressedTar(file *os.File, name string) error {
	plain, err := decompress(bufio.NewReaderSize(file, copyBuffer), name)
	if err != nil {
		return err
	}
	defer plain.Close()
	entries := tar.NewReader(&bounded{from: plain, ctx: u.layer.ctx, room: maxStream})
	for {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if stopped := context.Cause(u.layer.ctx); err != nil && stopped != nil {
			return stopped
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errInput, err)
		}
		if err := u.tarEntry(h, entries); err != nil {
			return err
		}
	}
}

func (u *unpacker) tarEntry(h *tar.Header, content io.Reader) error {
	name, ok, err := u.place(h.Name)
	if err != nil || !ok {
		return err
	}
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeDir:
		return u.folder(name)
	case tar.TypeSymlink:
		return u.link(name, h.Linkname)
	case tar.TypeLink:
		target, ok, err := u.place(h.Linkname)
		if err != nil || !ok {
			return fmt.Errorf("%w: link %.200q to %.200q", errInput, h.Name, h.Linkname)
		}
		u.packed++
		return u.layer.hardlink(name, target)
	case tar.TypeReg:
		if err := solid(h); err != nil {
			return err
		}
		if err := u.take(h.Name, h.Size); err != nil {
			return err
		}
		return u.regular(name, h.Mode&0o111 != 0, h.Size, content)
	default:
		return fmt.Errorf("%w: %.200q is neither file, folder nor link", errInput, h.Name)
	}
}

// solid refuses a sparse file.
func solid(h *tar.Header) error {
	if archive.IsSparse(h) {
		return fmt.Errorf("%w: %.200q is a sparse file", errInput, h.Name)
	}
	return nil
}

// decompress opens compressed bytes by the ending of a file's name. What comes
// out is not bounded; the reader of it is.
func decompress(r io.Reader, name string) (io.ReadCloser, error) {
	switch {
	case strings.HasSuffix(name, ".gz") || strings.HasSuffix(name, ".tgz"):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errInput, err)
		}
		return z, nil
	case strings.HasSuffix(name, ".xz"):
		z, err := archive.OpenXZ(r)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errInput, err)
		}
		return io.NopCloser(z), nil
	case strings.HasSuffix(name, ".zst"):
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(256<<20), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errInput, err)
		}
		return z.IOReadCloser(), nil
	case strings.HasSuffix(name, ".bz2"):
		return io.NopCloser(bzip2.NewReader(r)), nil
	case strings.HasSuffix(name, ".tar"):
		return io.NopCloser(r), nil
	default:
		return nil, fmt.Errorf("%w: %s: no archive that this version unpacks (zip, jar, tar, tar.gz, tgz, tar.bz2, tar.xz, tar.zst)", errInput, path.Base(name))
	}
}
