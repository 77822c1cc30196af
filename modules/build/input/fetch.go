package input

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
)

// fetcher gets files from upstreams into the store.
type fetcher struct {
	client *http.Client
	store  Store
	pauses []time.Duration
	stall  time.Duration
}

const maxRedirects = 5

func newFetcher(c Config) *fetcher {
	f := &fetcher{store: c.Store, pauses: c.Pauses, stall: c.Stall}
	if f.pauses == nil {
		f.pauses = []time.Duration{time.Second, 4 * time.Second}
	}
	if f.stall == 0 {
		f.stall = time.Minute
	}
	client := http.Client{Transport: defaultTransport()}
	if c.Client != nil {
		client = *c.Client
	}
	client.CheckRedirect = checkRedirect
	f.client = &client
	return f
}

func defaultTransport() http.RoundTripper {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   parallel,
		ForceAttemptHTTP2:     true,
	}
}

// checkRedirect lets an upstream point elsewhere, but not back to where anyone
// on the way could answer in its place.
func checkRedirect(next *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if via[len(via)-1].URL.Scheme == "https" && next.URL.Scheme != "https" {
		return fmt.Errorf("redirect from https to %s", next.URL.Scheme)
	}
	return nil
}

// join is the address of a path below a base. The path is a checked file name.
func join(base *url.URL, path string) *url.URL {
	u := *base
	u.Path, u.RawPath = strings.TrimRight(base.Path, "/")+"/"+path, ""
	return &u
}

// want is what a fetched file must be. The zero value asks for nothing but the
// size limit.
type want struct {
	sha256 artifact.SHA256 // zero: any
	size   int64           // of sha256; below zero where it is not known
	limit  int64           // bytes at most, where the size is not known
}

func (w want) sized() bool { return !w.sha256.IsZero() && w.size >= 0 }

func wantFile(d artifact.Descriptor) want { return want{sha256: d.SHA256, size: d.Size} }

// errNotFound: the upstream answered, and has no such file.
var errNotFound = errors.New("upstream has no such file")

// mismatch: the upstream has other bytes under the address.
type mismatch struct{ found string }

func (m mismatch) Error() string { return "this node's upstream has " + m.found }

// get fetches an address into the store, and again after a failure that may
// pass. Other bytes than wanted are asked for once more: a cut proxy answer
// should not look like an attack.
func (f *fetcher) get(ctx context.Context, u *url.URL, w want, count func(int64)) (artifact.Descriptor, error) {
	var d artifact.Descriptor
	var err error
	for attempt := 0; ; attempt++ {
		d, err = f.once(ctx, u, w, count)
		last := attempt >= len(f.pauses) || errors.As(err, new(mismatch)) && attempt > 0
		if err == nil || last || !passing(err) {
			return d, err
		}
		if err := pause(ctx, f.pauses[attempt]); err != nil {
			return d, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// final marks a failure that another attempt would only repeat.
type final struct{ error }

func (e final) Unwrap() error { return e.error }

func passing(err error) bool {
	return !errors.Is(err, errNotFound) && !errors.Is(err, context.Canceled) && !errors.As(err, new(final))
}

func (f *fetcher) once(ctx context.Context, u *url.URL, w want, count func(int64)) (artifact.Descriptor, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(f.stall, func() { cancel(fmt.Errorf("upstream sent nothing for %v", f.stall)) })
	defer watch.Stop()
	body, err := f.open(ctx, u)
	if err != nil {
		return artifact.Descriptor{}, causeOf(ctx, err)
	}
	defer body.Close()
	r := &checked{r: body, want: w, hash: sha256.New(), count: count, alive: func() { watch.Reset(f.stall) }, ended: func() { watch.Stop() }}
	d, err := f.store.Put(ctx, r)
	if err == nil {
		return d, nil
	}
	r.undo()
	if r.err == nil {
		return artifact.Descriptor{}, final{fmt.Errorf("store: %w", err)}
	}
	return artifact.Descriptor{}, causeOf(ctx, r.err)
}

// causeOf prefers the reason for which a context ended to the error that this
// led to.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func (f *fetcher) open(ctx context.Context, u *url.URL) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	// Without this the transport unpacks what a server packed: the file counts
	// as it lies there.
	request.Header.Set("Accept-Encoding", "identity")
	response, err := f.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusOK {
		return response.Body, nil
	}
	response.Body.Close()
	switch code := response.StatusCode; {
	case code == http.StatusNotFound || code == http.StatusGone:
		return nil, errNotFound
	case code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout:
		return nil, fmt.Errorf("upstream answers %q", response.Status)
	default:
		return nil, final{fmt.Errorf("upstream answers %q", response.Status)}
	}
}

// checked is a body that ends in an error where it is not what was wanted, so
// that the store keeps nothing of it.
type checked struct {
	r     io.Reader
	want  want
	hash  hash.Hash
	n     int64
	count func(int64)
	alive func()
	ended func()
	err   error // that Read ended with, io.EOF aside
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

func (c *checked) read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > 0 {
		c.alive()
		c.n += int64(n)
		c.hash.Write(p[:n])
		c.count(int64(n))
	}
	if tooLong := c.tooLong(); tooLong != nil {
		return 0, tooLong
	}
	if errors.Is(err, io.EOF) {
		c.ended() // what follows is the disk's time, not the upstream's
		if wrong := c.wrong(); wrong != nil {
			return 0, wrong
		}
	}
	return n, err
}

func (c *checked) tooLong() error {
	switch {
	case !c.want.sized() && c.n > c.want.limit:
		return final{fmt.Errorf("upstream sends more than %d bytes", c.want.limit)}
	case c.want.sized() && c.n > c.want.size:
		return mismatch{fmt.Sprintf("more than %d bytes", c.want.size)}
	}
	return nil
}

func (c *checked) wrong() error {
	if c.want.sha256.IsZero() {
		return nil
	}
	digest := artifact.SHA256(c.hash.Sum(nil))
	if digest != c.want.sha256 || c.want.sized() && c.n != c.want.size {
		return mismatch{fmt.Sprintf("sha256 %s, %d bytes", digest, c.n)}
	}
	return nil
}

// undo takes back what was counted of a body that failed.
func (c *checked) undo() { c.count(-c.n) }
