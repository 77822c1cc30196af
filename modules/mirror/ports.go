package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
)

// What Open can say no with. Every error of Open wraps one of these, is an
// UpstreamError, is the caller's context's, or is a fault of this node.
var (
	// ErrNotPublished: the log does not vouch for it and the policy of its
	// ecosystem gives nothing else. The log port says "unknown" with it too.
	ErrNotPublished = errors.New("not published on this network")

	// ErrNoSource: the log vouches for it, but neither this node nor any peer
	// had the right bytes.
	ErrNoSource = errors.New("no honest source has it now")

	// ErrDenied: refused on this node whoever vouches. The log port wraps it
	// for what is revoked as compromised, with the reason in its text.
	ErrDenied = errors.New("denied on this node")
)

// UpstreamError says that the upstream was needed and failed.
type UpstreamError struct {
	Status     int           // HTTP status the upstream gave; 0 when none came
	RetryAfter time.Duration // 0 when the upstream named none
	Err        error         // nil or the cause
}

// Error is one sentence for a person.
func (e *UpstreamError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("the upstream failed: %v", e.Err)
	}
	return fmt.Sprintf("the upstream answered %d %s", e.Status, http.StatusText(e.Status))
}

// Unwrap is the cause.
func (e *UpstreamError) Unwrap() error { return e.Err }

// Vouched is what the log says of one file.
type Vouched struct {
	Name       artifact.Name // the name it was published under
	Descriptor artifact.Descriptor
	MediaType  string // of the parts of an image, else ""
	Block      int64  // height of the block that published it
	Leaf       int64  // index of its publish leaf
	Votes      int    // members that attested it
	Nodes      int    // members of the block's set
}

// Log answers from verified, local state: no network, in well under a
// millisecond. Unknown is ErrNotPublished. Safe for concurrent use.
type Log interface {
	// Resolve says what a name means.
	Resolve(name artifact.Name) (Vouched, error)

	// ResolveDigest says who vouches for bytes, under whatever name.
	ResolveDigest(digest artifact.SHA256) (Vouched, error)

	// Tag says which manifest the live recipe of repository:tag published.
	Tag(repository, tag string) (Vouched, error)
}

// Index lists names of the log, for views. Unknown is an empty list. Safe for
// concurrent use.
type Index interface {
	// Tags are the live tags of a Docker repository.
	Tags(repository string) ([]string, error)

	// Versions are the published versions of a Maven artifact.
	Versions(group, artifact string) ([]string, error)
}

// Store keeps verified bytes by their SHA-256. Safe for concurrent use.
type Store interface {
	// Open opens complete bytes; any error means that they are not to be had
	// here. The caller closes the file.
	Open(digest artifact.SHA256) (*os.File, error)

	// Put reads r to its end and keeps the bytes, durable before it returns. An
	// error of r is returned as it is and leaves nothing behind.
	Put(ctx context.Context, r io.Reader) (artifact.Descriptor, error)
}

// Peers moves bytes that the log vouches for. Safe for concurrent use.
type Peers interface {
	// Open joins the one fetch of the descriptor, or starts it, and streams
	// bytes that are proven chunk by chunk: Read never yields a wrong one. The
	// fetch outlives the reader. Nobody to ask, or nobody honest, is
	// ErrNoSource, from Open or from Read.
	Open(ctx context.Context, d artifact.Descriptor) (io.ReadSeekCloser, error)
}

// Reply is an upstream's answer. The caller closes Body.
type Reply struct {
	Status int
	Header http.Header
	Length int64 // bytes of Body as declared, -1 when not
	Body   io.ReadCloser
}

// Upstream is the registry that unverified files come from: named by
// configuration, trusted for nothing. Safe for concurrent use.
type Upstream interface {
	// Get asks for a path below the upstream's root. It fails with an
	// UpstreamError when no answer came.
	Get(ctx context.Context, path string, header http.Header) (*Reply, error)

	// String is the upstream's address without credentials, for records.
	String() string
}

// Builds takes a client's wish for a package that is not published.
type Builds interface {
	// Ask hands the wish over and returns soon; whether anything is built is
	// not the mirror's business.
	Ask(ctx context.Context, pkg artifact.PURL) error
}

// Ports are the rooms that the mirror reads from.
type Ports struct {
	Log   Log
	Index Index
	Store Store
	Peers Peers

	Builds Builds // nil on a node that asks nobody
}
