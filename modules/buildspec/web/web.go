// Package web is the Maven repository over HTTP that an import of buildspecs asks.
package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/pyrsia/appliance/modules/buildspec"
)

// Repository is a Maven repository. It is safe for concurrent use.
type Repository struct {
	base   *url.URL
	client *http.Client
	stall  time.Duration
}

// maxFile bounds a file, bytes, as it does for the inputs of builds.
const maxFile = 2 << 30

// tries is how often a request that failed for a reason that may pass is made.
const tries = 3

// New is the repository at a base address, http or https.
func New(base string) (*Repository, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("Maven repository %q: want an http or https address", base)
	}
	return &Repository{base: u, stall: time.Minute, client: &http.Client{CheckRedirect: CheckRedirect, Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: time.Minute, ForceAttemptHTTP2: true,
	}}}, nil
}

// CheckRedirect lets a repository point elsewhere, but not back to where anyone on the way
// could answer in its place: a recipe gets the digest of what comes.
func CheckRedirect(next *http.Request, via []*http.Request) error {
	const most = 10 // as net/http's own
	if len(via) >= most {
		return fmt.Errorf("more than %d redirects", most)
	}
	if via[len(via)-1].URL.Scheme == "https" && next.URL.Scheme != "https" {
		return fmt.Errorf("redirect from https to %s", next.URL.Scheme)
	}
	return nil
}

// Has implements buildspec.Repository.
func (r *Repository) Has(ctx context.Context, path string) (bool, error) {
	response, err := r.ask(ctx, http.MethodHead, path)
	if errors.Is(err, buildspec.ErrAbsent) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, response.Body.Close()
}

// Get implements buildspec.Repository. What was copied of a file that breaks off is of
// no use.
func (r *Repository) Get(ctx context.Context, path string, w io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(r.stall, func() { cancel(fmt.Errorf("%s: the repository sent nothing for %v", path, r.stall)) })
	defer watch.Stop()
	response, err := r.ask(ctx, http.MethodGet, path)
	if err != nil {
		return causeOf(ctx, err)
	}
	defer response.Body.Close()
	n, err := io.Copy(w, io.LimitReader(alive{response.Body, func() { watch.Reset(r.stall) }}, maxFile+1))
	switch {
	case err != nil:
		return fmt.Errorf("%s breaks off: %w", path, causeOf(ctx, err))
	case n > maxFile:
		return fmt.Errorf("%s has more than %d bytes", path, int64(maxFile))
	}
	return nil
}

func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// alive tells of every piece that arrives.
type alive struct {
	io.Reader
	told func()
}

// Read implements io.Reader.
func (a alive) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if n > 0 {
		a.told()
	}
	return n, err
}

func (r *Repository) ask(ctx context.Context, method, path string) (*http.Response, error) {
	for try := 1; ; try++ {
		response, err := r.once(ctx, method, path)
		passing := err != nil && !errors.Is(err, buildspec.ErrAbsent) && ctx.Err() == nil
		if !passing || try == tries {
			return response, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Duration(try) * time.Second):
		}
	}
}

func (r *Repository) once(ctx context.Context, method, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, r.base.JoinPath(path).String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept-Encoding", "identity") // the file counts as it lies there
	response, err := r.client.Do(request)
	if err != nil {
		return nil, err
	}
	switch response.StatusCode {
	case http.StatusOK:
		return response, nil
	case http.StatusNotFound, http.StatusGone:
		response.Body.Close()
		return nil, fmt.Errorf("%w: the repository has no %s", buildspec.ErrAbsent, path)
	}
	response.Body.Close()
	return nil, fmt.Errorf("%s: the repository answers %q", path, response.Status)
}
