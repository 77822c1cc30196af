// Package distribution is the finding and moving of bytes between nodes: blobs
// that the log vouches for, the votes and the presence of members, the blocks of
// the chain.
//
// It trusts no peer. Bytes of a blob are proven by the store as they arrive
// (port Store); votes and blocks carry their own signatures, which their rooms
// check. distribution/libp2p is the one implementation; this package holds its
// protocol names, its errors and the ports that it needs.
package distribution

import (
	"context"
	"errors"
	"io"

	"github.com/pyrsia/appliance/modules/artifact"
)

// Protocol names, and the beginning of the agent string that a node shows. A
// change of format is a new number at the end.
const (
	BlobProtocol    = "/pyrsia/blob/1"
	VoteProtocol    = "/pyrsia/vote/1"
	ChainProtocol   = "/pyrsia/chain/1"
	MembersProtocol = "/pyrsia/members/1"
	Agent           = "pyrsia/"
)

// Bounds of the wire formats, in bytes.
const (
	// MaxSlice is the largest range of one request for a blob. Chunks of this
	// size are spread over the sources of a blob.
	MaxSlice = 1 << 20

	// MaxMessage is the largest vote message and the largest block.
	MaxMessage = 5 << 20

	// MaxMemberFrame is the largest frame of MembersProtocol: what a member
	// knows of a thousand others.
	MaxMemberFrame = 256 << 10
)

// Why a stream or a message of a protocol for members was refused unread.
const (
	RefusedForeign   = "foreign"   // its sender is no member
	RefusedOversized = "oversized" // it is longer than any can be
	RefusedMalformed = "malformed" // it says nothing
)

var (
	// ErrNoSource says that nobody reachable has the bytes, or nobody honest.
	ErrNoSource = errors.New("no source has it now")

	// ErrUnreachable says that a node is not connected and cannot be dialled.
	ErrUnreachable = errors.New("node is not reachable")

	// ErrNotServing says that the host is not running, or is stopping.
	ErrNotServing = errors.New("distribution is not running")
)

// Store is the room that proves and keeps bytes. Safe for concurrent use.
type Store interface {
	// Begin is the one download of a descriptor, however many callers ask; it
	// is complete at once when the blob is here. An error with a method
	// NoRoom() bool that is true says that there is no room for it.
	Begin(desc artifact.Descriptor) (Download, error)

	// Through is a download that keeps nothing, for when there is no room.
	Through(desc artifact.Descriptor) Download

	// Held says what is here of a blob: its size and which chunks of MaxSlice
	// bytes, nil for all.
	Held(digest artifact.BLAKE3) (size int64, chunks []byte, ok bool)

	// Slice appends to dst the Bao slice of a range of at most MaxSlice bytes.
	Slice(dst []byte, digest artifact.BLAKE3, offset, length int64) ([]byte, error)

	// Note is what Download.SetNote kept beside a complete blob.
	Note(digest artifact.SHA256) []byte
}

// Download is a file that arrives in pieces. Safe for concurrent use.
type Download interface {
	Descriptor() artifact.Descriptor

	// Kept tells a download into the store from one that passes through.
	Kept() bool

	// Changed is closed at the next change of what follows.
	Changed() <-chan struct{}

	// Missing is the first range at or after from that is to be fetched; its
	// length is 0 when there is none now.
	Missing(from int64) (offset, length int64)

	// Wanted lists the offsets that readers are blocked at, ascending.
	Wanted() []int64

	// Complete tells whether nothing will ever be missing again.
	Complete() bool

	// Ended tells whether the download is over, and why.
	Ended() (over bool, cause error)

	// WriteSlice reads one Bao slice and no byte more, proves it and makes its
	// range readable. An error with a method Unverified() bool that is true
	// says that the bytes are wrong.
	WriteSlice(offset, length int64, r io.Reader) error

	// Commit makes the complete file a blob, durable before it returns.
	Commit() error

	// Suspend ends the download, keeping what has come; readers get cause.
	Suspend(cause error)

	Note() []byte
	SetNote(note []byte) error

	// NewReader streams proven bytes, blocking for those that have not come.
	NewReader(ctx context.Context) io.ReadSeekCloser
}

// Blocks is the chain as far as followers are served from it. Safe for
// concurrent use.
type Blocks interface {
	// Block is the encoded block of a height, at most MaxMessage bytes.
	Block(height int64) ([]byte, error)

	// Wait blocks until the block of a height is there, or ctx ends.
	Wait(ctx context.Context, height int64) error
}
