package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/store/internal/tree"
)

var emptySHA256 = artifact.SHA256(sha256.Sum256(nil))

var emptyBLAKE3 = func() artifact.BLAKE3 {
	root, _, _ := tree.NewBuilder().Finish()
	return root
}()

// Hasher computes a file's descriptor and outboard while it is written. It is
// for one goroutine and keeps a 512th of the file in memory.
type Hasher struct {
	sha  hash.Hash
	tree *tree.Builder
}

// NewHasher is a hasher that has seen no byte.
func NewHasher() *Hasher { return &Hasher{sha256.New(), tree.NewBuilder()} }

// Write implements io.Writer; it never fails.
func (h *Hasher) Write(p []byte) (int, error) {
	_, _ = h.sha.Write(p)
	return h.tree.Write(p)
}

// Finish returns the descriptor of what was written and its Bao outboard
// (groups of 16 KiB). The hasher is spent.
func (h *Hasher) Finish() (artifact.Descriptor, []byte) {
	root, size, outboard := h.tree.Finish()
	return artifact.Descriptor{BLAKE3: root, SHA256: artifact.SHA256(h.sha.Sum(nil)), Size: size}, outboard
}

// Expect tells whether got is what was wanted: want's size unless it is
// negative, and each of its digests that is not zero.
func Expect(got, want artifact.Descriptor) error {
	switch {
	case want.Size >= 0 && got.Size != want.Size:
		return fmt.Errorf("%w: %d bytes, want %d", ErrMismatch, got.Size, want.Size)
	case !want.SHA256.IsZero() && got.SHA256 != want.SHA256:
		return fmt.Errorf("%w: sha256 %s, want %s", ErrMismatch, got.SHA256, want.SHA256)
	case !want.BLAKE3.IsZero() && got.BLAKE3 != want.BLAKE3:
		return fmt.Errorf("%w: blake3 %s, want %s", ErrMismatch, got.BLAKE3, want.BLAKE3)
	}
	return nil
}

// OutboardSize is the number of bytes of the outboard of a file of size bytes.
func OutboardSize(size int64) int64 { return tree.OutboardSize(size) }

// AppendSlice appends to dst the Bao slice of whole groups, at most MaxSlice
// bytes of them.
func AppendSlice(dst []byte, data, outboard io.ReaderAt, size, offset, length int64) ([]byte, error) {
	if length > MaxSlice {
		return dst, fmt.Errorf("slice of %d bytes: at most %d", length, MaxSlice)
	}
	return tree.AppendSlice(dst, data, outboard, size, offset, length)
}

// Recheck hashes a whole file again: it returns nil when data and outboard are
// those of the descriptor, an error that wraps ErrMismatch when they have
// rotted, and ctx's error when it was stopped.
//
// It computes both digests: a file that was fetched by its BLAKE3 tree has
// never been hashed by SHA-256 before (see Download.Commit).
func Recheck(ctx context.Context, data, outboard io.ReaderAt, desc artifact.Descriptor) error {
	wrong := int64(-1)
	claim := func(int64) (bool, error) { return true, ctx.Err() }
	err := tree.Verify(data, outboard, desc.BLAKE3, desc.Size, claim, func(group int64) { wrong = group })
	if err != nil {
		return err
	}
	if wrong >= 0 {
		return fmt.Errorf("%w: group at %d does not match the tree", ErrMismatch, wrong*Group)
	}
	sum := sha256.New()
	buffer := make([]byte, 256<<10)
	for at := int64(0); at < desc.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := data.ReadAt(buffer[:min(int64(len(buffer)), desc.Size-at)], at)
		if n == 0 {
			return fmt.Errorf("%w: unreadable at %d: %v", ErrMismatch, at, err)
		}
		_, _ = sum.Write(buffer[:n])
		at += int64(n)
	}
	if got := artifact.SHA256(sum.Sum(nil)); got != desc.SHA256 {
		return fmt.Errorf("%w: sha256 %s, want %s", ErrMismatch, got, desc.SHA256)
	}
	return nil
}

// translate gives an error of the tree this package's sentinel.
func translate(err error) error {
	if errors.Is(err, tree.ErrUnverified) {
		return fmt.Errorf("%w (%v)", ErrUnverified, err)
	}
	return err
}
