package difference

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// blob is a file's content, wherever it is.
type blob struct {
	io.ReaderAt
	size int64
	free func()
}

func (b *blob) close() {
	if b != nil && b.free != nil {
		b.free()
	}
}

// reader reads a blob from its beginning.
func (b *blob) reader() *io.SectionReader { return io.NewSectionReader(b, 0, b.size) }

// part is what lies at an offset; it is the caller's to know that it is inside.
func (b *blob) part(offset, size int64) *blob {
	return &blob{ReaderAt: io.NewSectionReader(b, offset, size), size: size}
}

// head is the beginning of a blob, and at most so many bytes of it.
func (b *blob) head(n int64) ([]byte, error) { return b.at(0, n) }

// at is what stands at an offset, and at most n bytes of it.
func (b *blob) at(offset, n int64) ([]byte, error) {
	data := make([]byte, max(0, min(n, b.size-offset)))
	if len(data) == 0 {
		return data, nil
	}
	got, err := b.ReadAt(data, offset)
	if got == len(data) {
		return data, nil
	}
	return data[:got], fmt.Errorf("read %d bytes at %d: %w", len(data), offset, unexpected(err))
}

// watch makes a blob of what the machine keeps for us. When a read of it fails, or
// the context ends, the comparison as a whole has failed: the error must not
// pass for one of a broken archive, on which one goes on.
func (c *comparison) watch(r io.ReaderAt, size int64) *blob {
	return &blob{ReaderAt: &watched{c: c, from: r, size: size}, size: size}
}

type watched struct {
	c    *comparison
	from io.ReaderAt
	size int64
}

func (w *watched) ReadAt(p []byte, offset int64) (int, error) {
	if err := w.c.alive(); err != nil {
		return 0, err
	}
	if offset < 0 || offset > w.size {
		return 0, fmt.Errorf("read at %d of %d bytes: %w", offset, w.size, io.ErrUnexpectedEOF) // by what an archive claims
	}
	n, err := w.from.ReadAt(p, offset)
	if n == len(p) {
		return n, nil
	}
	if errors.Is(err, io.EOF) && offset+int64(n) >= w.size {
		return n, io.EOF
	}
	w.c.failed = fmt.Errorf("read at %d: %w", offset+int64(n), unexpected(err))
	return n, w.c.failed
}

// unexpected is the error of a file that ended before its size.
func unexpected(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// alive is the error that ends the comparison.
func (c *comparison) alive() error {
	if c.failed == nil {
		c.failed = c.ctx.Err()
	}
	return c.failed
}

// errExhausted is the limit on what is decompressed. It ends the comparison of
// every archive that is open, each of which is then compared as bytes.
var errExhausted = errors.New("it unpacks to more than the limit")

// maxMemory is the size of what is decompressed without a file.
const maxMemory = 1 << 20

// unpack keeps all that r gives, within the comparison's limit.
func (c *comparison) unpack(r io.Reader) (*blob, error) {
	s := &spool{c: c}
	_, err := io.Copy(s, r)
	if err != nil {
		s.free()
		return nil, err
	}
	if s.file != nil {
		b := c.watch(s.file, s.size)
		b.free = s.free
		return b, nil
	}
	return &blob{ReaderAt: bytes.NewReader(s.memory.Bytes()), size: s.size}, nil
}

// spool keeps a little in memory, and more in a file without a name.
type spool struct {
	c      *comparison
	memory bytes.Buffer
	file   *os.File
	size   int64
}

func (s *spool) Write(p []byte) (int, error) {
	if err := s.c.alive(); err != nil {
		return 0, err
	}
	if int64(len(p)) > s.c.room {
		s.c.room = 0 // what is left is for nobody: each archive around this one ends here too
		return 0, fmt.Errorf("%w of %d bytes", errExhausted, s.c.limits.Unpacked)
	}
	s.c.room -= int64(len(p))
	s.size += int64(len(p))
	if s.size <= maxMemory {
		return s.memory.Write(p)
	}
	if err := s.onDisk(p); err != nil {
		s.c.failed = fmt.Errorf("scratch file: %w", err)
		return 0, s.c.failed
	}
	return len(p), nil
}

func (s *spool) onDisk(p []byte) error {
	if s.file == nil {
		file, err := os.CreateTemp(s.c.limits.Scratch, "difference-")
		if err != nil {
			return err
		}
		s.file = file
		if err := os.Remove(file.Name()); err != nil {
			return err
		}
		if _, err := s.memory.WriteTo(file); err != nil {
			return err
		}
		s.memory = bytes.Buffer{}
	}
	_, err := s.file.Write(p)
	return err
}

func (s *spool) free() {
	if s.file != nil {
		s.file.Close()
	}
}

// scan is how two blobs differ as bytes.
type scan struct {
	equal     bool
	first     int64 // offset of the first byte that differs
	differing int64 // bytes that differ, up to the end of the shorter
}

// chunk is how much of each side is read at once.
const chunk = 256 << 10

// scanInto compares two blobs to their ends, and writes all of each to its own
// writer, which does not fail.
func scanInto(l, r *blob, lw, rw io.Writer) (scan, error) {
	s := scan{equal: l.size == r.size, first: -1}
	shorter := min(l.size, r.size)
	for at := int64(0); at < max(l.size, r.size); at += chunk {
		a, err := l.at(at, chunk)
		if err != nil {
			return s, err
		}
		b, err := r.at(at, chunk)
		if err != nil {
			return s, err
		}
		lw.Write(a)
		rw.Write(b)
		if both := min(len(a), len(b)); !bytes.Equal(a[:both], b[:both]) {
			s.count(a[:both], b[:both], at)
		} else if both == 0 && lw == io.Discard {
			break // only one side has more, and nobody wants to see it
		}
	}
	if s.first < 0 && !s.equal {
		s.first = shorter
	}
	return s, nil
}

// count counts what differs in two chunks of one length.
func (s *scan) count(a, b []byte, at int64) {
	s.equal = false
	for i := range a {
		if a[i] == b[i] {
			continue
		}
		if s.first < 0 {
			s.first = at + int64(i)
		}
		s.differing++
	}
}
