package mirror

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
)

// fixedTime is the modification time of everything served: bytes that are
// named by their digest have no other. It is the oldest that a zip file can
// hold, because clients put it there.
var fixedTime = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// Vouch says who stands for the bytes: the log, or nobody.
type Vouch struct {
	Verified     bool
	Block, Leaf  int64  // where the log says so, when verified
	Votes, Nodes int    // attested by Votes of Nodes members, when verified
	Unverified   string // what the bytes come from otherwise: "upstream" or "computed"
}

// Computed marks what this node worked out itself: listings, errors.
var Computed = Vouch{Unverified: "computed"}

// Header is the response header that says so.
func (v Vouch) Header() (name, value string) {
	if !v.Verified {
		return "Pyrsia-Unverified", v.Unverified
	}
	return "Pyrsia-Verified", fmt.Sprintf("block=%d, leaf=%d, votes=\"%d/%d\"", v.Block, v.Leaf, v.Votes, v.Nodes)
}

// Content is an opened file. It is for one goroutine; the caller closes it.
type Content struct {
	Descriptor artifact.Descriptor // Size always; digests zero until a streamed file is complete
	MediaType  string              // as published, or as the upstream said; "" when neither did
	ModTime    time.Time           // the same for every content
	Vouch      Vouch

	body io.ReadSeekCloser
}

// Body reads the bytes. It is an *os.File when they are all here, so that
// http.ServeContent hands them to the kernel; else a reader that blocks until
// the bytes arrive, and fails when they cannot.
func (c *Content) Body() io.ReadSeeker { return c.body }

// Close gives the content back.
func (c *Content) Close() error { return c.body.Close() }

func vouchedContent(v Vouched, body io.ReadSeekCloser) *Content {
	return &Content{
		Descriptor: v.Descriptor,
		MediaType:  v.MediaType,
		ModTime:    fixedTime,
		Vouch:      Vouch{Verified: true, Block: v.Block, Leaf: v.Leaf, Votes: v.Votes, Nodes: v.Nodes},
		body:       body,
	}
}

func upstreamContent(d artifact.Descriptor, mediaType string, body io.ReadSeekCloser) *Content {
	return &Content{
		Descriptor: d,
		MediaType:  mediaType,
		ModTime:    fixedTime,
		Vouch:      Vouch{Unverified: "upstream"},
		body:       body,
	}
}

// openSized opens a stored file and refuses one whose size is not what its
// digest was vouched for with: the cheapest sign of a damaged store.
func openSized(s Store, d artifact.Descriptor) (*os.File, error) {
	file, err := s.Open(d.SHA256)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && info.Size() != d.Size {
		err = fmt.Errorf("stored file %s has %d bytes, want %d", d.SHA256, info.Size(), d.Size)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// headOnly stands in for the body of a file that is only asked about.
type headOnly struct {
	size, offset int64
}

var errHeadOnly = errors.New("opened for its header only")

func (h *headOnly) Read([]byte) (int, error) {
	if h.offset >= h.size {
		return 0, io.EOF
	}
	return 0, errHeadOnly
}

func (h *headOnly) Seek(offset int64, whence int) (int64, error) {
	n, err := seek(h.offset, h.size, offset, whence)
	if err == nil {
		h.offset = n
	}
	return n, err
}

func (h *headOnly) Close() error { return nil }

// seek is the arithmetic of io.Seeker.
func seek(now, size, offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += now
	case io.SeekEnd:
		offset += size
	}
	if offset < 0 {
		return now, fmt.Errorf("seek to %d: before the start", offset)
	}
	return offset, nil
}
