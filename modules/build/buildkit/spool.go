package buildkit

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sort"
	"sync"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// minReferred is the size from which on a layer refers to a file instead of holding its
// bytes: below it, opening the file a second time costs more than copying it, bytes.
const minReferred = 32 << 10

// spool takes a layer's bytes in their order: it hashes all, and holds those that lie
// nowhere else. A Maven repository of a hundred megabytes, locked in the store already, is
// not written a second time for each build: dirtying so many pages takes longer than
// hashing them.
type spool struct {
	file   *os.File
	buffer *bufio.Writer // to the file
	hash   hash.Hash
	size   int64 // of the layer so far, bytes
	held   int64 // of them in the file
	refers []reference
	refer  bool // bytes that come are those of the last reference
}

// reference is a part of a layer that lies in another file, from its first byte on.
type reference struct {
	name     string // in the layer, for who reads of an error
	at, size int64  // in the layer, bytes
	before   int64  // bytes that the spool's file holds of what is before it
	open     func() (*os.File, error)
}

func (r reference) end() int64 { return r.at + r.size }

// newSpool starts with a new file in folder.
func newSpool(folder string) (*spool, error) {
	file, err := os.CreateTemp(folder, "layer-*.tar")
	if err != nil {
		return nil, err
	}
	return &spool{file: file, buffer: bufio.NewWriterSize(file, copyBuffer), hash: sha256.New()}, nil
}

// Write implements io.Writer.
func (s *spool) Write(p []byte) (int, error) {
	s.hash.Write(p) // never fails
	s.size += int64(len(p))
	if s.refer {
		s.refers[len(s.refers)-1].size += int64(len(p))
		return len(p), nil
	}
	s.held += int64(len(p))
	return s.buffer.Write(p)
}

// begin says that the bytes which come until end are those of the file that open opens.
func (s *spool) begin(name string, open func() (*os.File, error)) {
	s.refer = true
	s.refers = append(s.refers, reference{name: name, at: s.size, before: s.held, open: open})
}

func (s *spool) end() { s.refer = false }

func (s *spool) close() error { return errors.Join(s.buffer.Flush(), s.file.Close()) }

func (s *spool) abandon() {
	s.file.Close()
	os.Remove(s.file.Name())
}

// blob is the closed spool as a layer.
func (s *spool) blob() blob {
	d := digest.NewDigestFromBytes(digest.SHA256, s.hash.Sum(nil))
	name, size, refers := s.file.Name(), s.size, s.refers
	return blob{
		descriptor: ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: d, Size: size},
		diffID:     d,
		open: func() (readerAtCloser, error) {
			file, err := os.Open(name)
			if err != nil {
				return nil, err
			}
			return &spoolReader{held: file, size: size, refers: refers}, nil
		},
	}
}

// spoolReader reads a layer whose parts lie in many files, of which it has one open beside
// the spool's own. Safe for concurrent use.
type spoolReader struct {
	held   *os.File
	size   int64
	refers []reference // in the layer's order

	mu      sync.Mutex // guards what follows
	current *os.File   // of the reference number at
	at      int
}

// ReadAt implements io.ReaderAt.
func (r *spoolReader) ReadAt(p []byte, offset int64) (n int, err error) {
	if offset < 0 {
		return 0, fmt.Errorf("read a layer at %d: %w", offset, os.ErrInvalid)
	}
	for n < len(p) {
		if offset >= r.size {
			return n, io.EOF
		}
		read, err := r.part(p[n:], offset)
		n, offset = n+read, offset+int64(read)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// part reads from the one file that holds what is at offset, which is in the layer.
func (r *spoolReader) part(p []byte, offset int64) (int, error) {
	i := sort.Search(len(r.refers), func(i int) bool { return r.refers[i].end() > offset })
	end, held := r.size, offset // until where it holds, and where it is there
	if i > 0 {
		held = r.refers[i-1].before + offset - r.refers[i-1].end()
	}
	if i < len(r.refers) {
		if at := r.refers[i].at; offset >= at {
			return r.referred(i, p[:min(int64(len(p)), r.refers[i].end()-offset)], offset-at)
		}
		end = r.refers[i].at
	}
	return full("what was packed", r.held, p[:min(int64(len(p)), end-offset)], held)
}

func (r *spoolReader) referred(i int, p []byte, offset int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == nil || r.at != i {
		file, err := r.refers[i].open()
		if err != nil {
			return 0, fmt.Errorf("open %s again: %w", r.refers[i].name, err)
		}
		if r.current != nil {
			r.current.Close()
		}
		r.current, r.at = file, i
	}
	return full(r.refers[i].name, r.current, p, offset)
}

// full reads all of p: a file that ends early is another than the one that was packed.
func full(name string, file *os.File, p []byte, offset int64) (int, error) {
	n, err := file.ReadAt(p, offset)
	if n == len(p) {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, fmt.Errorf("read %s again: %w", name, err)
}

// Close implements io.Closer.
func (r *spoolReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.held.Close()
	if r.current != nil {
		err = errors.Join(err, r.current.Close())
	}
	return err
}
