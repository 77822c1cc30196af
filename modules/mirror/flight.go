package mirror

import (
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"

	"github.com/pyrsia/appliance/modules/artifact"
)

// holdback is how many bytes at the end of a file no reader gets before the
// whole of it is checked and recorded: a client that lacks them knows that it
// does not have the file.
const holdback = 32 << 10

// streamFrom is the size in bytes from which a file is streamed while it
// arrives. A smaller one is waited for: it is quickly here, and an error can
// then still be an HTTP status.
const streamFrom = 256 << 10

// flight is one fetch from an upstream, shared by every client that waits for
// the same path. It writes to an unlinked file: a crash leaves nothing.
//
// It is the io.Reader that the store reads the bytes from: each Read takes from
// the upstream, hashes, keeps a copy for the clients and wakes them.
type flight struct {
	request Request
	known   chan struct{} // closed when length and mediaType are set, or the flight has ended
	ended   chan struct{} // closed when outcome and err are set

	length    int64 // declared, -1 when not
	mediaType string
	streams   bool // clients may read before the end

	outcome Passed
	err     error

	body   io.Reader
	checks []check
	sum    hash.Hash // SHA-256
	want   func(artifact.SHA256) error
	limit  int64 // bytes

	mu       sync.Mutex
	file     *os.File // open while refs > 0
	refs     int
	written  int64
	released int64         // what readers may have
	more     chan struct{} // closed and replaced whenever released grows
}

// check is a checksum that the upstream itself declared.
type check struct {
	name string
	hash hash.Hash
	want string // hexadecimal
}

func newFlight(r Request) *flight {
	return &flight{
		request: r,
		known:   make(chan struct{}),
		ended:   make(chan struct{}),
		more:    make(chan struct{}),
		length:  -1,
		refs:    1, // the fetch itself
	}
}

// begin takes an upstream's reply whose body is to be fetched.
func (f *flight) begin(folder string, reply *Reply, limit int64, want func(artifact.SHA256) error) error {
	f.limit = limit
	if f.request.Limit > 0 {
		f.limit = min(limit, f.request.Limit)
	}
	if reply.Length > f.limit {
		return &UpstreamError{Err: fmt.Errorf("it declares %d bytes, the limit is %d", reply.Length, f.limit)}
	}
	if err := plausible(f.request.Path, reply.Header); err != nil {
		return &UpstreamError{Err: err}
	}
	file, err := spool(folder)
	if err != nil {
		return fmt.Errorf("spool: %w", err) // this node's disk, and not the upstream
	}
	f.mu.Lock()
	f.file = file
	f.mu.Unlock()
	f.body, f.want, f.sum = reply.Body, want, sha256.New()
	f.checks = declared(reply.Header)
	f.length = reply.Length
	f.mediaType, _, _ = strings.Cut(reply.Header.Get("Content-Type"), ";")
	f.streams = f.length >= streamFrom && !f.request.Whole
	close(f.known)
	return nil
}

// spool is a file that vanishes with its last descriptor.
func spool(folder string) (*os.File, error) {
	file, err := os.CreateTemp(folder, "passing-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// plausible refuses what is certainly not the file: an encoded body, and the
// web page that a captive portal or a tired server sends with status 200.
func plausible(path string, header http.Header) error {
	if coding := header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return fmt.Errorf("it sent the content encoding %.40q, which was not asked for", coding)
	}
	page := strings.HasPrefix(strings.ToLower(header.Get("Content-Type")), "text/html")
	if page && !strings.HasSuffix(path, ".html") {
		return errors.New("it sent a web page instead of the file")
	}
	return nil
}

// declared are the checksums in a reply's header: of transport errors they are
// good evidence, of honesty none.
func declared(header http.Header) []check {
	var checks []check
	add := func(name, want string, h hash.Hash) {
		if want = strings.ToLower(strings.TrimSpace(want)); len(want) == 2*h.Size() {
			checks = append(checks, check{name, h, want})
		}
	}
	add("X-Checksum-Md5", header.Get("X-Checksum-Md5"), md5.New())
	add("X-Checksum-Sha1", header.Get("X-Checksum-Sha1"), sha1.New())
	add("X-Checksum-Sha256", header.Get("X-Checksum-Sha256"), sha256.New())
	add("X-Checksum-Sha512", header.Get("X-Checksum-Sha512"), sha512.New())
	if oci, ok := strings.CutPrefix(header.Get("Docker-Content-Digest"), "sha256:"); ok {
		add("Docker-Content-Digest", oci, sha256.New())
	}
	if sum, err := base64.StdEncoding.DecodeString(header.Get("Content-Md5")); err == nil {
		add("Content-MD5", hex.EncodeToString(sum), md5.New())
	}
	return checks
}

// Read implements io.Reader for the store. io.EOF comes only after every check
// has passed; readers still lack the last bytes then, until end.
func (f *flight) Read(p []byte) (int, error) {
	n, err := f.body.Read(p)
	if n > 0 {
		if err := f.take(p[:n]); err != nil {
			return 0, err
		}
	}
	if err == nil {
		return n, nil
	}
	if !errors.Is(err, io.EOF) {
		return n, &UpstreamError{Err: err}
	}
	if err := f.complete(); err != nil {
		return n, &UpstreamError{Err: err}
	}
	return n, io.EOF
}

func (f *flight) take(chunk []byte) error {
	total := f.written + int64(len(chunk))
	if total > f.limit {
		return &UpstreamError{Err: fmt.Errorf("it sends more than %d bytes", f.limit)}
	}
	if f.length >= 0 && total > f.length {
		return &UpstreamError{Err: fmt.Errorf("it sends more than the %d bytes it declared", f.length)}
	}
	if _, err := f.file.WriteAt(chunk, f.written); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	f.sum.Write(chunk)
	for _, c := range f.checks {
		c.hash.Write(chunk)
	}
	f.written = total
	f.release(total - holdback)
	return nil
}

// complete decides whether the bytes are the whole file.
func (f *flight) complete() error {
	if f.length >= 0 && f.written != f.length {
		return fmt.Errorf("it sent %d of the %d bytes it declared", f.written, f.length)
	}
	for _, c := range f.checks {
		if got := hex.EncodeToString(c.hash.Sum(nil)); got != c.want {
			return fmt.Errorf("its %s says %s, its bytes have %s", c.name, c.want, got)
		}
	}
	return f.want(f.digest())
}

func (f *flight) digest() artifact.SHA256 { return artifact.SHA256(f.sum.Sum(nil)) }

func (f *flight) release(to int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if to <= f.released {
		return
	}
	f.released = to
	close(f.more)
	f.more = make(chan struct{})
}

// end tells every client how it went, and gives the fetch's share back.
func (f *flight) end(outcome Passed, err error) {
	f.outcome, f.err = outcome, err
	if err == nil && f.file != nil {
		f.release(f.written)
	}
	select {
	case <-f.known:
	default:
		close(f.known)
	}
	close(f.ended)
	f.drop()
}

// hold takes a share of the spool file; drop gives it back.
func (f *flight) hold() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refs++
}

func (f *flight) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refs--
	if f.refs == 0 && f.file != nil {
		f.file.Close()
	}
}

// passing reads a flight's bytes as they are released. It owns one share.
type passing struct {
	ctx    context.Context
	flight *flight
	size   int64
	offset int64
	closed bool
}

func (p *passing) Read(b []byte) (int, error) {
	if p.offset >= p.size {
		return 0, io.EOF
	}
	for {
		p.flight.mu.Lock()
		released, more := p.flight.released, p.flight.more
		p.flight.mu.Unlock()
		if p.offset < released {
			b = b[:min(int64(len(b)), released-p.offset)]
			n, err := p.flight.file.ReadAt(b, p.offset)
			p.offset += int64(n)
			return n, err
		}
		select {
		case <-more:
		case <-p.ctx.Done():
			return 0, p.ctx.Err()
		case <-p.flight.ended:
			if err := p.flight.err; err != nil {
				return 0, err
			}
			// end releases before it closes ended: the bytes are there now.
		}
	}
}

func (p *passing) Seek(offset int64, whence int) (int64, error) {
	n, err := seek(p.offset, p.size, offset, whence)
	if err == nil {
		p.offset = n
	}
	return n, err
}

func (p *passing) Close() error {
	if !p.closed {
		p.closed = true
		p.flight.drop()
	}
	return nil
}
