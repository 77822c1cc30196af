package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
)

// How long an answer of the upstream holds.
const (
	shortTTL  = 60 * time.Second // of a listing or tag
	absentTTL = 60 * time.Second // of a 404
	staleTTL  = 10 * time.Second // of an old answer, when the upstream fails
)

// maxFlights bounds what clients can make this node want at once.
const maxFlights = 1024

var (
	errNotServing = errors.New("the mirror is stopping")
	errCrowded    = errors.New("too many files are on their way already")
)

// pass serves an unverified file: what passed before while that holds, else
// from the upstream.
func (m *Mirror) pass(ctx context.Context, r Request) (*Content, error) {
	kind := r.Name.Package.Type()
	upstream := m.rules.Load().Upstreams[kind]
	if upstream == nil {
		return nil, fmt.Errorf("%s: %w; policy pass, but no upstream is configured", r, ErrNotPublished)
	}
	rec, known := m.passed(kind, upstream, r)
	if known && (r.Lifetime == Immutable || m.fresh.holds(key(kind, upstream, r.Path))) {
		content, err := m.openPassed(rec)
		if err == nil {
			m.counts.hits.Add(1)
		}
		if err == nil || errors.Is(err, ErrDenied) {
			return content, err
		}
	}
	if m.absent.holds(key(kind, upstream, r.Path)) {
		return nil, absent(r)
	}
	f, err := m.join(kind, upstream, r)
	if err != nil {
		return nil, err
	}
	return m.attend(ctx, f, r)
}

// key names a path of one upstream: when another takes its place, nothing that the
// first one said counts.
func key(kind string, upstream Upstream, path string) string {
	return kind + " " + upstream.String() + " " + path
}

func absent(r Request) error {
	return fmt.Errorf("%s: %w, and the upstream does not have it", r, ErrNotPublished)
}

// passed is the last record of the path from the same upstream, or of the
// digest from anywhere: a layer that passed for one image is another's too, and
// a manifest that passed by its tag is asked for by its digest next.
func (m *Mirror) passed(kind string, upstream Upstream, r Request) (Passed, bool) {
	if r.Lifetime == Ephemeral {
		return Passed{}, false
	}
	rec, ok := m.journal.byPathOf(kind, r.Path)
	if ok && rec.Upstream == upstream.String() {
		return rec, true
	}
	if r.Digest.IsZero() {
		return Passed{}, false
	}
	return m.journal.byDigestOf(r.Digest)
}

func (m *Mirror) openPassed(rec Passed) (*Content, error) {
	if err := m.denied("", rec.SHA256); err != nil {
		return nil, err
	}
	file, err := openSized(m.ports.Store, rec.descriptor())
	if err != nil {
		return nil, err
	}
	return upstreamContent(rec.descriptor(), rec.MediaType, file), nil
}

// join returns the flight of the path with a share held for the caller, and
// starts it where there is none.
func (m *Mirror) join(kind string, upstream Upstream, r Request) (*flight, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := key(kind, upstream, r.Path)
	if f := m.flights[name]; f != nil {
		f.hold()
		return f, nil
	}
	if m.serving == nil || m.serving.Err() != nil {
		return nil, fmt.Errorf("%s: %w", r, errNotServing)
	}
	if len(m.flights) >= maxFlights {
		return nil, fmt.Errorf("%s: %w", r, &UpstreamError{Status: http.StatusTooManyRequests, RetryAfter: time.Second, Err: errCrowded})
	}
	f := newFlight(r)
	f.hold()
	m.flights[name] = f
	ctx := m.serving
	m.joined.Go(func() {
		outcome, err := m.fetch(ctx, kind, upstream, f)
		m.mu.Lock()
		delete(m.flights, name)
		m.mu.Unlock()
		f.end(outcome, err)
	})
	return f, nil
}

// attend waits for the flight as long as the client does, and hands over the
// share that the caller holds.
func (m *Mirror) attend(ctx context.Context, f *flight, r Request) (*Content, error) {
	content, err := m.await(ctx, f, r)
	if err != nil {
		f.drop()
		return nil, err
	}
	if _, streams := content.body.(*passing); !streams {
		f.drop()
	}
	return content, nil
}

func (m *Mirror) await(ctx context.Context, f *flight, r Request) (*Content, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-f.known:
	}
	if f.streams && !r.Whole {
		d := artifact.Descriptor{SHA256: r.Digest, Size: f.length}
		return upstreamContent(d, f.mediaType, f.reader(ctx, f.length)), nil
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-f.ended:
	}
	if f.err != nil {
		return nil, fmt.Errorf("%s: %w", r, f.err)
	}
	content, err := m.openPassed(f.outcome)
	if err == nil || errors.Is(err, ErrDenied) {
		return content, err
	}
	if f.file == nil { // not modified, and lost from the store in the same moment
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	return upstreamContent(f.outcome.descriptor(), f.outcome.MediaType, f.reader(ctx, f.outcome.Size)), nil
}

func (f *flight) reader(ctx context.Context, size int64) *passing {
	return &passing{ctx: ctx, flight: f, size: size}
}

// fetch runs in the flight's own goroutine and asks the upstream once.
func (m *Mirror) fetch(ctx context.Context, kind string, upstream Upstream, f *flight) (Passed, error) {
	select {
	case m.places <- struct{}{}:
		defer func() { <-m.places }()
	case <-ctx.Done():
		return Passed{}, errNotServing
	}
	r := f.request
	// A client that came while the last flight landed finds its record here.
	rec, known := m.passed(kind, upstream, r)
	held := known && m.holds(rec)
	if held && (r.Lifetime == Immutable || m.fresh.holds(key(kind, upstream, r.Path))) {
		return rec, nil
	}
	reply, err := upstream.Get(ctx, r.Path, conditional(r.Header, rec, held))
	if err != nil {
		return m.stale(key(kind, upstream, r.Path), r, rec, held, err)
	}
	defer reply.Body.Close()
	switch reply.Status {
	case http.StatusOK:
		return m.receive(ctx, kind, upstream, f, reply, rec, known)
	case http.StatusNotModified:
		if held {
			m.fresh.hold(key(kind, upstream, r.Path), shortTTL)
			return rec, nil
		}
	case http.StatusNotFound, http.StatusGone:
		m.absent.hold(key(kind, upstream, r.Path), absentTTL)
		return Passed{}, fmt.Errorf("%w, and the upstream does not have it", ErrNotPublished)
	}
	return m.stale(key(kind, upstream, r.Path), r, rec, held, &UpstreamError{Status: reply.Status})
}

func (m *Mirror) holds(rec Passed) bool {
	file, err := openSized(m.ports.Store, rec.descriptor())
	if err != nil {
		return false
	}
	file.Close()
	return true
}

// conditional is the request's header, asking only for something newer than
// what is held.
func conditional(header http.Header, rec Passed, held bool) http.Header {
	header = header.Clone()
	if header == nil {
		header = make(http.Header)
	}
	if held && rec.ETag != "" {
		header.Set("If-None-Match", rec.ETag)
	}
	if held && rec.LastModified != "" {
		header.Set("If-Modified-Since", rec.LastModified)
	}
	return header
}

// stale answers with what passed before, for a short while: a tired upstream
// must not take away what this node still has.
func (m *Mirror) stale(key string, r Request, rec Passed, held bool, err error) (Passed, error) {
	if !held {
		return Passed{}, err
	}
	m.log.Warn("the upstream fails, serving what passed before", "path", r.Path, "passed", rec.Time, "error", err)
	m.fresh.hold(key, staleTTL)
	return rec, nil
}

// receive takes the body into the store and the journal. No client has the
// last bytes before both are durable.
func (m *Mirror) receive(ctx context.Context, kind string, upstream Upstream, f *flight, reply *Reply, last Passed, known bool) (Passed, error) {
	r := f.request
	if err := f.begin(m.config.Folder, reply, m.config.MaxBytes, m.wanted(r, last, known)); err != nil {
		return Passed{}, err
	}
	kept, err := m.keep(ctx, f)
	if err != nil {
		return Passed{}, err
	}
	rec := Passed{
		Time:         now(),
		Ecosystem:    kind,
		Path:         r.Path,
		Upstream:     upstream.String(),
		SHA256:       f.digest(),
		BLAKE3:       kept.BLAKE3,
		Size:         f.written,
		MediaType:    bounded(f.mediaType, 200),
		ETag:         bounded(reply.Header.Get("Etag"), 500),
		LastModified: bounded(reply.Header.Get("Last-Modified"), 100),
	}
	m.counts.passed.Add(1)
	m.counts.passedBytes.Add(rec.Size)
	// The same bytes again are no news: clients cannot make the journal grow.
	if line, ok := m.journal.byPathOf(kind, r.Path); !ok || !sameAnswer(rec, line) {
		if err := m.journal.append(rec); err != nil {
			return Passed{}, err
		}
		m.log.Info("unverified file passed", "path", rec.Path, "sha256", rec.SHA256, "bytes", rec.Size, "upstream", rec.Upstream)
	}
	if r.Lifetime == Short {
		m.fresh.hold(key(kind, upstream, r.Path), shortTTL)
	}
	m.absent.drop(key(kind, upstream, r.Path))
	return rec, nil
}

func bounded(s string, limit int) string {
	if len(s) > limit {
		return ""
	}
	return s
}

func sameAnswer(a, b Passed) bool {
	a.Time, b.Time = time.Time{}, time.Time{}
	return a == b
}

// wanted says which bytes are acceptable: those the client named by digest,
// and of a path that never changes those that passed before.
func (m *Mirror) wanted(r Request, last Passed, known bool) func(artifact.SHA256) error {
	return func(got artifact.SHA256) error {
		if err := m.denied(r.Name.Package, got); err != nil {
			return err
		}
		if !r.Digest.IsZero() && got != r.Digest {
			return fmt.Errorf("its bytes have the digest sha256:%s", got)
		}
		if known && r.Lifetime == Immutable && got != last.SHA256 {
			return fmt.Errorf("it sends other bytes (sha256 %s) than it sent on %s (sha256 %s) under a name that never changes",
				got, last.Time.Format(time.DateOnly), last.SHA256)
		}
		return nil
	}
}

// keep stores the flight's bytes; the descriptor is zero where they are not
// kept. A store that does not take them, because it is full, is no reason to
// refuse the clients: the flight goes on without it.
func (m *Mirror) keep(ctx context.Context, f *flight) (artifact.Descriptor, error) {
	if f.request.Lifetime != Ephemeral {
		kept, err := m.ports.Store.Put(ctx, f)
		if err == nil && (kept.SHA256 != f.digest() || kept.Size != f.written) {
			return artifact.Descriptor{}, fmt.Errorf("the store kept other bytes (sha256 %s) than it was given (sha256 %s)", kept.SHA256, f.digest())
		}
		if upstream := new(UpstreamError); err == nil || errors.As(err, &upstream) {
			return kept, err
		}
		m.log.Warn("an unverified file is not kept", "path", f.request.Path, "error", err)
	}
	_, err := io.Copy(io.Discard, f)
	return artifact.Descriptor{}, err
}
