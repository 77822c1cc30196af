package libp2p

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/distribution"
)

// /pyrsia/blob/1. The client sends requests, as many at once as it likes; the
// server answers them in their order. All integers are big-endian.
//
//	request  = length(4) code(1) body
//	  slice  = code 1: blake3(32) offset(8) length(4)
//	  have   = code 2: blake3(32), 1 to 64 of them
//	reply    = length(4) status(1) body
//	  slice  = status 0: a Bao slice, groups of 16 KiB, of the range
//	  have   = status 0: for each digest, state(1): 0 nothing, 1 all,
//	           2 some: size(8) bitmap, one bit per chunk of 1 MiB, lowest first
//	  other  = status 1 not here, 2 not shared, 3 malformed; no body
//
// A bitmap has exactly as many bytes as the size asks for.
const (
	codeSlice = 1
	codeHave  = 2

	statusOK        = 0
	statusNotHere   = 1
	statusNotShared = 2
	statusMalformed = 3

	group      = 16 << 10
	maxHave    = 64
	maxRequest = 1 + maxHave*32
	// maxBitmap is the bitmap of a file of 512 GiB; of a larger one nothing is
	// said until it is complete.
	maxBitmap = 64 << 10
	maxHeld   = 1 + maxHave*(1+8+maxBitmap)
	// maxSliceBody is a chunk with its size and its nodes: 63 within and up to
	// 40 on the two ways down to it.
	maxSliceBody = 1 + distribution.MaxSlice + 8 + 64*160
)

// sliceSize is the exact length of a Bao slice: the size, a node of 64 bytes
// for every subtree of more than one group that the range touches, and the
// range. So an answer of another length is refused before a byte of it is read.
func sliceSize(size, offset, length int64) int64 {
	total := 8 + length
	var down func(pos, n int64)
	down = func(pos, n int64) {
		if n <= group || pos >= offset+length || offset >= pos+n {
			return
		}
		total += 64
		left := int64(1) << (bits.Len64(uint64(n-1)) - 1)
		down(pos, left)
		down(pos+left, n-left)
	}
	down(0, size)
	return total
}

var errMalformed = errors.New("malformed frame")

// writeFrame writes the parts as one frame.
func writeFrame(w io.Writer, parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	frame := make([]byte, 4, 4+n)
	binary.BigEndian.PutUint32(frame, uint32(n))
	for _, p := range parts {
		frame = append(frame, p...)
	}
	_, err := w.Write(frame)
	return err
}

// readLength reads a frame's length and refuses one above limit.
func readLength(r io.Reader, limit int) (int, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if int64(n) > int64(limit) {
		return 0, fmt.Errorf("%w: %d bytes, at most %d", errMalformed, n, limit)
	}
	return int(n), nil
}

// readFrame reads a frame of at most limit bytes. Memory is taken as bytes
// come, so that a length alone costs nothing.
func readFrame(r io.Reader, limit int) ([]byte, error) {
	n, err := readLength(r, limit)
	if err != nil {
		return nil, err
	}
	return readBody(r, n)
}

func readBody(r io.Reader, n int) ([]byte, error) {
	const step = 64 << 10
	frame := make([]byte, 0, min(n, step))
	for len(frame) < n {
		start, end := len(frame), min(len(frame)+max(step, len(frame)), n)
		frame = append(frame, make([]byte, end-start)...)
		if err := readAll(r, frame[start:]); err != nil {
			return nil, err
		}
	}
	return frame, nil
}

// readAll fills p; too few bytes are io.ErrUnexpectedEOF.
func readAll(r io.Reader, p []byte) error {
	_, err := io.ReadFull(r, p)
	return unexpected(err)
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// request is one question of a client.
type request struct {
	code    byte
	digests []artifact.BLAKE3 // one for a slice
	offset  int64
	length  int64
}

func (q request) encode() []byte {
	p := []byte{q.code}
	for _, d := range q.digests {
		p = append(p, d[:]...)
	}
	if q.code == codeSlice {
		p = binary.BigEndian.AppendUint64(p, uint64(q.offset))
		p = binary.BigEndian.AppendUint32(p, uint32(q.length))
	}
	return p
}

func decodeRequest(p []byte) (request, error) {
	if len(p) == 0 {
		return request{}, errMalformed
	}
	q := request{code: p[0]}
	p = p[1:]
	switch q.code {
	case codeSlice:
		if len(p) != 32+8+4 {
			return request{}, errMalformed
		}
		q.digests = []artifact.BLAKE3{artifact.BLAKE3(p[:32])}
		offset, length := binary.BigEndian.Uint64(p[32:]), binary.BigEndian.Uint32(p[40:])
		if offset > 1<<53 || length == 0 || length > distribution.MaxSlice {
			return request{}, errMalformed
		}
		q.offset, q.length = int64(offset), int64(length)
	case codeHave:
		if len(p) == 0 || len(p)%32 != 0 || len(p) > maxHave*32 {
			return request{}, errMalformed
		}
		for ; len(p) > 0; p = p[32:] {
			q.digests = append(q.digests, artifact.BLAKE3(p[:32]))
		}
	default:
		return request{}, errMalformed
	}
	return q, nil
}

const (
	heldNothing = 0
	heldAll     = 1
	heldSome    = 2
)

// held is what a server has of a blob.
type held struct {
	state  byte
	size   int64  // with heldSome
	chunks []byte // with heldSome
}

func (h held) has(chunk int64) bool {
	return h.state == heldAll || h.state == heldSome && chunk/8 < int64(len(h.chunks)) && h.chunks[chunk/8]&(1<<(chunk%8)) != 0
}

func bitmapSize(size int64) int64 {
	return ((size+distribution.MaxSlice-1)/distribution.MaxSlice + 7) / 8
}

func encodeHeld(all []held) []byte {
	var p []byte
	for _, h := range all {
		p = append(p, h.state)
		if h.state == heldSome {
			p = binary.BigEndian.AppendUint64(p, uint64(h.size))
			p = append(p, h.chunks...)
		}
	}
	return p
}

func decodeHeld(p []byte, count int) ([]held, error) {
	var all []held
	for range count {
		if len(p) == 0 || p[0] > heldSome {
			return nil, errMalformed
		}
		h := held{state: p[0]}
		p = p[1:]
		if h.state == heldSome {
			if len(p) < 8 {
				return nil, errMalformed
			}
			size := binary.BigEndian.Uint64(p)
			p = p[8:]
			if size == 0 || size > 1<<53 || bitmapSize(int64(size)) > min(maxBitmap, int64(len(p))) {
				return nil, errMalformed
			}
			n := bitmapSize(int64(size))
			h.size, h.chunks = int64(size), append([]byte(nil), p[:n]...)
			p = p[n:]
		}
		all = append(all, h)
	}
	if len(p) != 0 {
		return nil, errMalformed
	}
	return all, nil
}
