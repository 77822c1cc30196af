// Package store is content: the bytes of files, kept under their digest.
//
// A store is dumb. It is given digests that somebody else vouches for, keeps
// exactly the bytes that have them, and knows nothing of packages, peers or
// votes. store/disk keeps them in a folder, store/memory for tests; both pass
// store/storetest.
//
// This package holds what the two share: the errors, and Download, a file that
// is still arriving and already readable as far as it has been proven.
package store

import (
	"errors"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/store/internal/tree"
)

// Group is the unit in which a file arrives, in bytes. Ranges of slices begin
// at a multiple of it and end at one or at the file's end.
const Group = tree.Group

// MaxSlice is the largest range of one slice, in bytes.
const MaxSlice = 1 << 20

// MaxNote is the largest note beside a blob, in bytes.
const MaxNote = 64 << 10

var (
	// ErrNotFound says that no complete blob has the digest.
	ErrNotFound = errors.New("not in the store")

	// ErrIncomplete says that a download cannot be committed yet.
	ErrIncomplete = errors.New("download is not complete")

	// ErrClosed says that the store, download or reader was closed.
	ErrClosed = errors.New("closed")

	// ErrMismatch says that bytes are not those of the wanted descriptor, or
	// that two descriptors name one digest and differ.
	ErrMismatch = errors.New("bytes are not those of the descriptor")

	// ErrQuota says that there is no room: by the quota, or because the file
	// system is full. The caller may still serve the bytes through (NewThrough).
	// It has a method NoRoom, by which other rooms know it.
	ErrQuota error = noRoom{}

	// ErrUnverified says that bytes of a slice are not those of the blob. It
	// has a method Unverified, by which other rooms know it.
	ErrUnverified error = unverified{}
)

type noRoom struct{}

func (noRoom) Error() string { return "no room in the store" }
func (noRoom) NoRoom() bool  { return true }

type unverified struct{}

func (unverified) Error() string    { return tree.ErrUnverified.Error() }
func (unverified) Unverified() bool { return true }

// Status is what a store holds at one moment.
type Status struct {
	Blobs     int   `json:"blobs"`     // complete ones
	Pinned    int   `json:"pinned"`    // pinned digests, here or not
	Downloads int   `json:"downloads"` // in flight or resumable
	Bytes     int64 `json:"bytes"`     // on disk, with trees and reservations
	Quota     int64 `json:"quota"`     // 0: unlimited
}

// CheckDescriptor refuses a descriptor that cannot name any bytes: a size out
// of range, or an empty file under another digest than that of no bytes.
func CheckDescriptor(desc artifact.Descriptor) error {
	if desc.Size < 0 || desc.Size > tree.MaxSize {
		return ErrMismatch
	}
	if desc.Size == 0 && (desc.BLAKE3 != emptyBLAKE3 || desc.SHA256 != emptySHA256) {
		return ErrMismatch
	}
	return nil
}
