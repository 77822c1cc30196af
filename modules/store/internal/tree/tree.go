// Package tree is the hash tree of a file: BLAKE3's own tree, cut into groups
// of 16 KiB, in the layout of Bao (github.com/oconnor663/bao, docs/spec.md)
// with chunk groups of 2^4.
//
// An outboard is the file's size (8 bytes, little-endian) and the parent nodes
// in pre-order, 64 bytes each. A slice is the same size, and of the nodes and
// groups those that overlap a range, in pre-order. The size inside an outboard
// or a slice is never believed: every function is given the size that the log
// vouches for and compares.
//
// Functions are pure and safe for concurrent use; a Builder is for one
// goroutine.
package tree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"lukechampine.com/blake3/guts"

	"github.com/pyrsia/appliance/modules/artifact"
)

const (
	groupLog = 4

	// Group is the number of bytes that are proven together: 16 KiB, as many
	// as the vector code hashes in one call. The last group may be shorter.
	Group = guts.ChunkSize << groupLog

	head = 8  // bytes of size before the nodes
	pair = 64 // bytes of one parent node: two chaining values
)

// MaxSize is the largest file, in bytes: 2^53-1, the largest integer of the
// protocol. It keeps all arithmetic below far from overflow.
const MaxSize = 1<<53 - 1

// ErrUnverified says that bytes are not those that the root stands for.
var ErrUnverified = errors.New("bytes do not match their BLAKE3 root")

// Groups is the number of groups of a file: 1 for an empty one.
func Groups(size int64) int64 {
	return max(1, (size+Group-1)/Group)
}

// OutboardSize is the number of bytes of a file's outboard.
func OutboardSize(size int64) int64 {
	return head + pair*(Groups(size)-1)
}

// CheckRange refuses a range that is not inside the file, or that does not
// begin and end at a group's boundary or the file's end.
func CheckRange(size, offset, length int64) error {
	inside := size >= 0 && size <= MaxSize && offset >= 0 && length > 0 && offset < size && length <= size-offset
	if !inside || offset%Group != 0 || (length%Group != 0 && offset+length != size) {
		return fmt.Errorf("range %d+%d is not whole groups of a file of %d bytes", offset, length, size)
	}
	return nil
}

// SliceSize is the exact number of bytes of a slice; the range has passed
// CheckRange.
func SliceSize(size, offset, length int64) int64 {
	total := head + length
	walk(size, offset, length, func(int64) { total += pair })
	return total
}

// walk calls visit with the outboard's offset of every node over the range.
func walk(size, offset, length int64, visit func(at int64)) {
	var down func(pos, n, at int64)
	down = func(pos, n, at int64) {
		if n <= Group || pos >= offset+length || offset >= pos+n {
			return
		}
		visit(at)
		left := split(n)
		down(pos, left, at+pair)
		down(pos+left, n-left, at+pair+subtree(left))
	}
	down(0, size, head)
}

// split is the size of the left child of a node over n > Group bytes: the
// largest power of two below n.
func split(n int64) int64 {
	return 1 << (bits.Len64(uint64(n-1)) - 1)
}

// subtree is the number of bytes of all nodes over n bytes.
func subtree(n int64) int64 {
	return pair * (Groups(n) - 1)
}

// groupNode hashes up to Group bytes that begin at pos.
func groupNode(p []byte, pos int64) guts.Node {
	counter := uint64(pos) / guts.ChunkSize
	if len(p) == Group {
		return guts.CompressBuffer((*[Group]byte)(p), Group, &guts.IV, counter, 0)
	}
	// The vector code reads the whole array whatever the length says.
	var padded [Group]byte
	copy(padded[:], p)
	return guts.CompressBuffer(&padded, len(p), &guts.IV, counter, 0)
}

func value(n guts.Node, flags uint32) [8]uint32 {
	n.Flags |= flags
	return guts.ChainingValue(n)
}

func parent(p []byte, flags uint32) (left, right, cv [8]uint32) {
	left, right = words(p[:32]), words(p[32:pair])
	return left, right, guts.ChainingValue(guts.ParentNode(left, right, &guts.IV, flags))
}

func words(p []byte) (cv [8]uint32) {
	for i := range cv {
		cv[i] = binary.LittleEndian.Uint32(p[4*i:])
	}
	return cv
}

func putWords(p []byte, cv [8]uint32) {
	for i, w := range cv {
		binary.LittleEndian.PutUint32(p[4*i:], w)
	}
}

// Builder computes root and outboard of a file while it is written. Beside a
// group's buffer it keeps 32 bytes per group, a 512th of the file.
type Builder struct {
	buffer  []byte
	first   guts.Node // the root, if no second group comes
	values  [][8]uint32
	written int64
}

// NewBuilder is a builder that has seen no byte.
func NewBuilder() *Builder { return &Builder{} }

// Write implements io.Writer; it never fails.
func (b *Builder) Write(p []byte) (int, error) {
	n := len(p)
	if len(b.buffer) > 0 {
		take := min(Group-len(b.buffer), len(p))
		b.buffer = append(b.buffer, p[:take]...)
		p = p[take:]
		if len(b.buffer) == Group {
			b.group(b.buffer)
			b.buffer = b.buffer[:0]
		}
	}
	for len(p) >= Group {
		b.group(p[:Group])
		p = p[Group:]
	}
	if len(p) > 0 {
		b.buffer = append(b.buffer, p...)
	}
	return n, nil
}

func (b *Builder) group(p []byte) {
	node := groupNode(p, b.written)
	if len(b.values) == 0 {
		b.first = node
	}
	b.values = append(b.values, value(node, 0))
	b.written += int64(len(p))
}

// Finish returns the root, the size and the outboard. The builder is spent.
func (b *Builder) Finish() (artifact.BLAKE3, int64, []byte) {
	if len(b.buffer) > 0 || b.written == 0 {
		b.group(b.buffer)
	}
	size := b.written
	outboard := make([]byte, OutboardSize(size))
	binary.LittleEndian.PutUint64(outboard, uint64(size))
	var root artifact.BLAKE3
	if len(b.values) == 1 {
		putWords(root[:], value(b.first, guts.FlagRoot))
		return root, size, outboard
	}
	var up func(values [][8]uint32, at int64, flags uint32) [8]uint32
	up = func(values [][8]uint32, at int64, flags uint32) [8]uint32 {
		if len(values) == 1 {
			return values[0]
		}
		left := split(int64(len(values)))
		putWords(outboard[at:], up(values[:left], at+pair, 0))
		putWords(outboard[at+32:], up(values[left:], at+pair*left, 0))
		_, _, cv := parent(outboard[at:], flags)
		return cv
	}
	putWords(root[:], up(b.values, head, guts.FlagRoot))
	return root, size, outboard
}

// AppendSlice appends the slice of a range to dst. data and outboard need hold
// only what the slice is made of. Nothing is hashed: the receiver verifies.
func AppendSlice(dst []byte, data, outboard io.ReaderAt, size, offset, length int64) ([]byte, error) {
	if err := CheckRange(size, offset, length); err != nil {
		return dst, err
	}
	dst = binary.LittleEndian.AppendUint64(dst, uint64(size))
	read := func(from io.ReaderAt, at int64, n int64) error {
		start := len(dst)
		dst = append(dst, make([]byte, n)...)
		return readFull(from, dst[start:], at)
	}
	// nodes holds the nodes of a subtree that is inside the range as a whole,
	// so that they cost one read and not one each.
	var down func(pos, n, at int64, nodes []byte) error
	down = func(pos, n, at int64, nodes []byte) error {
		if pos >= offset+length || offset >= pos+n {
			return nil
		}
		if n <= Group {
			return read(data, pos, n)
		}
		if nodes == nil && pos >= offset && pos+n <= offset+length {
			nodes = make([]byte, subtree(n))
			if err := readFull(outboard, nodes, at); err != nil {
				return err
			}
		}
		left := split(n)
		if nodes == nil {
			if err := read(outboard, at, pair); err != nil {
				return err
			}
			if err := down(pos, left, at+pair, nil); err != nil {
				return err
			}
			return down(pos+left, n-left, at+pair+subtree(left), nil)
		}
		dst = append(dst, nodes[:pair]...)
		cut := pair + subtree(left)
		if err := down(pos, left, at+pair, nodes[pair:cut]); err != nil {
			return err
		}
		return down(pos+left, n-left, at+cut, nodes[cut:])
	}
	return dst, down(0, size, head, nil)
}

// Decode reads the slice of the range [offset, offset+len(dst)) from r and
// fills dst with its bytes, each group verified as it arrives; node is called
// with each parent node of the slice, which is verified too, and its offset in
// the outboard. When Decode fails, dst holds nothing of worth and the nodes
// are still good.
//
// The error wraps ErrUnverified when the bytes are wrong, and is r's own, or
// io.ErrUnexpectedEOF, when there are too few. Bytes after the slice are left
// in r.
func Decode(r io.Reader, root artifact.BLAKE3, size, offset int64, dst []byte, node func(at int64, node []byte)) error {
	length := int64(len(dst))
	if err := CheckRange(size, offset, length); err != nil {
		return err
	}
	var buf [pair]byte
	if err := fill(r, buf[:head]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint64(buf[:head]) != uint64(size) {
		return fmt.Errorf("%w: the slice is of another size", ErrUnverified)
	}
	var down func(cv [8]uint32, pos, n, at int64, flags uint32) error
	down = func(cv [8]uint32, pos, n, at int64, flags uint32) error {
		if pos >= offset+length || offset >= pos+n {
			return nil
		}
		if n <= Group {
			p := dst[pos-offset : pos-offset+n]
			if err := fill(r, p); err != nil {
				return err
			}
			if value(groupNode(p, pos), flags) != cv {
				return fmt.Errorf("%w: group at %d", ErrUnverified, pos)
			}
			return nil
		}
		if err := fill(r, buf[:]); err != nil {
			return err
		}
		left, right, got := parent(buf[:], flags)
		if got != cv {
			return fmt.Errorf("%w: node over %d+%d", ErrUnverified, pos, n)
		}
		if node != nil {
			node(at, buf[:])
		}
		half := split(n)
		if err := down(left, pos, half, at+pair, 0); err != nil {
			return err
		}
		return down(right, pos+half, n-half, at+pair+subtree(half), 0)
	}
	return down(words(root[:]), 0, size, head, guts.FlagRoot)
}

// Verify hashes the groups for which claimed says true and calls wrong for
// each one that data and outboard do not prove. It returns the first error of
// claimed, which may so end it early; a failing read counts as wrong bytes.
func Verify(data, outboard io.ReaderAt, root artifact.BLAKE3, size int64, claimed func(group int64) (bool, error), wrong func(group int64)) error {
	var group [Group]byte
	var down func(cv [8]uint32, pos, n, at int64, flags uint32, trusted bool) error
	down = func(cv [8]uint32, pos, n, at int64, flags uint32, trusted bool) error {
		if n <= Group {
			yes, err := claimed(pos / Group)
			if err != nil || !yes {
				return err
			}
			if !trusted || readFull(data, group[:n], pos) != nil || value(groupNode(group[:n], pos), flags) != cv {
				wrong(pos / Group)
			}
			return nil
		}
		var node [pair]byte
		var left, right [8]uint32
		if trusted {
			// Under a node that is not there nothing is proven, yet what is
			// claimed there must be called wrong.
			trusted = readFull(outboard, node[:], at) == nil
			var got [8]uint32
			left, right, got = parent(node[:], flags)
			trusted = trusted && got == cv
		}
		half := split(n)
		if err := down(left, pos, half, at+pair, 0, trusted); err != nil {
			return err
		}
		return down(right, pos+half, n-half, at+pair+subtree(half), 0, trusted)
	}
	return down(words(root[:]), 0, size, head, guts.FlagRoot, true)
}

func readFull(r io.ReaderAt, p []byte, at int64) error {
	n, err := r.ReadAt(p, at)
	if n == len(p) {
		return nil
	}
	if err == io.EOF || err == nil {
		return io.ErrUnexpectedEOF
	}
	return err
}

func fill(r io.Reader, p []byte) error {
	_, err := io.ReadFull(r, p)
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
