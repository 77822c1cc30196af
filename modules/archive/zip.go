// Package archive is a compressed archive that is hostile until checked: what its
// readers would take memory for is bounded before they see it.
package archive

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// Bound is what the directory of a zip may consist of. The library reads all of it into
// memory at once, six times its size where the names are short.
type Bound struct {
	Records int
	Bytes   int64
}

func (b Bound) passed() error {
	return fmt.Errorf("its directory claims more than %d entries or %d bytes", b.Records, b.Bytes)
}

// metered reads no more than so many bytes, until it is free to.
type metered struct {
	io.ReaderAt
	bound Bound
	room  int64
}

func (m *metered) ReadAt(p []byte, offset int64) (int, error) {
	if m.room -= int64(len(p)); m.room < 0 {
		return 0, m.bound.passed()
	}
	return m.ReaderAt.ReadAt(p, offset)
}

// OpenZip opens a zip of size bytes whose directory keeps to the bound. directory is
// where that begins in the file. Names are as the zip has them: where they lead is the
// caller's to check.
func OpenZip(r io.ReaderAt, size int64, bound Bound) (z *zip.Reader, directory int64, err error) {
	end := findEnd(r, size)
	if end.records > uint64(bound.Records) {
		return nil, 0, bound.passed()
	}
	m := &metered{ReaderAt: r, bound: bound, room: bound.Bytes}
	z, err = zip.NewReader(m, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return nil, 0, err
	}
	if len(z.File) > bound.Records { // the end record counts modulo 65,536
		return nil, 0, bound.passed()
	}
	m.room = math.MaxInt64
	return z, end.directory, nil
}

// zipEnd is the size of the end record without its comment.
const zipEnd = 22

// endRecord is what a zip says about its directory: the library reserves memory
// for so many records, and does not tell where the directory begins.
type endRecord struct {
	records   uint64
	directory int64
}

// findEnd reads the end record, and the one of large archives (APPNOTE.TXT 4.3.14).
// What it does not understand the library refuses.
func findEnd(r io.ReaderAt, size int64) endRecord {
	const most = zipEnd + 1<<16 + 20
	from := max(0, size-most)
	tail, err := at(r, size, from, most)
	found := bytes.LastIndex(tail, []byte("PK\x05\x06"))
	if err != nil || found < 0 || found+zipEnd > len(tail) {
		return endRecord{}
	}
	end := endRecord{
		records:   uint64(binary.LittleEndian.Uint16(tail[found+10:])),
		directory: from + int64(found) - int64(binary.LittleEndian.Uint32(tail[found+12:])),
	}
	if found < 20 || !bytes.HasPrefix(tail[found-20:], []byte("PK\x06\x07")) {
		return end
	}
	offset := binary.LittleEndian.Uint64(tail[found-12:])
	if offset > uint64(size) {
		return end
	}
	large, err := at(r, size, int64(offset), 56)
	if err != nil || len(large) < 56 {
		return end
	}
	end.records = max(end.records, binary.LittleEndian.Uint64(large[24:]), binary.LittleEndian.Uint64(large[32:]))
	end.directory = int64(offset - min(offset, binary.LittleEndian.Uint64(large[40:])))
	return end
}

// at are at most n bytes at an offset.
func at(r io.ReaderAt, size, offset, n int64) ([]byte, error) {
	p := make([]byte, max(0, min(n, size-offset)))
	read, err := r.ReadAt(p, offset)
	if read == len(p) {
		err = nil
	}
	return p[:read], err
}
