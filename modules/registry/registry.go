// Package registry is a client's view of the network: what every HTTP protocol
// for build tools has in common. Each protocol has a package below this one,
// and reaches files only through mirror.
//
// The response writer must be net/http's own, or one whose ReadFrom is: a file
// that is here goes from the disk to the socket inside the kernel.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/pyrsia/appliance/modules/mirror"
)

// Cache-Control values.
const (
	CacheForever = "public, max-age=31536000, immutable" // what has its digest in its address
	CacheName    = "public, max-age=3600"                // a published name: only a revocation changes it
	CacheShort   = "public, max-age=60"                  // what nobody vouches for
	CacheNot     = "no-cache"                            // pointers, errors
)

// Mark sets the headers that every response has: who vouches for it, and that
// its type is not to be guessed.
func Mark(h http.Header, v mirror.Vouch) {
	name, value := v.Header()
	h.Set(name, value)
	h.Set("X-Content-Type-Options", "nosniff")
}

// ReadOnly tells whether the method only reads; the Allow header is set where
// it does not, and the caller answers 405.
func ReadOnly(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return true
	}
	w.Header().Set("Allow", "GET, HEAD")
	return false
}

// Serve writes the content, or the part of it that the client asks for (RFC
// 9110, 13 and 14). The caller has set Content-Type and Cache-Control, and
// keeps the content open until it returns. When the bytes stop coming in the
// middle, it breaks the connection by panicking with http.ErrAbortHandler: the
// client cannot mistake what it has for the whole.
func Serve(w http.ResponseWriter, r *http.Request, c *mirror.Content) {
	h := w.Header()
	Mark(h, c.Vouch)
	if !c.Descriptor.SHA256.IsZero() {
		h.Set("Etag", `"`+c.Descriptor.SHA256.OCI()+`"`)
	}
	body := c.Body()
	if _, here := body.(*os.File); here {
		// A file: http.ServeContent must see it as it is.
		http.ServeContent(w, r, "", c.ModTime, body)
		return
	}
	watched := &watched{ReadSeeker: body}
	http.ServeContent(w, r, "", c.ModTime, watched)
	if watched.err != nil {
		panic(http.ErrAbortHandler)
	}
}

// watched remembers that reading failed: http.ServeContent keeps it for itself.
type watched struct {
	io.ReadSeeker
	err error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadSeeker.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		w.err = err
	}
	return n, err
}

// Bytes writes what this node computed: a listing, a checksum, an error.
func Bytes(w http.ResponseWriter, r *http.Request, v mirror.Vouch, status int, mediaType string, body []byte) {
	h := w.Header()
	Mark(h, v)
	h.Set("Content-Type", mediaType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		w.Write(body)
	}
}

// Failure is why a request was not served, for a client's protocol to say.
type Failure struct {
	Status     int           // HTTP
	Message    string        // one sentence for a person
	RetryAfter time.Duration // 0 when unknown
}

// Explain turns an error of the mirror into HTTP.
func Explain(err error) Failure {
	upstream := new(mirror.UpstreamError)
	switch {
	case errors.Is(err, mirror.ErrDenied):
		return Failure{Status: http.StatusForbidden, Message: err.Error()}
	case errors.Is(err, mirror.ErrNotPublished):
		return Failure{Status: http.StatusNotFound, Message: err.Error()}
	case errors.Is(err, mirror.ErrNoSource):
		return Failure{Status: http.StatusBadGateway, Message: err.Error()}
	case errors.As(err, &upstream) && upstream.Status == http.StatusTooManyRequests:
		return Failure{http.StatusTooManyRequests, err.Error(), upstream.RetryAfter}
	case errors.As(err, &upstream):
		return Failure{http.StatusBadGateway, err.Error(), upstream.RetryAfter}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Failure{Status: http.StatusGatewayTimeout, Message: "the client did not wait"}
	}
	return Failure{Status: http.StatusServiceUnavailable, Message: fmt.Sprintf("this node cannot answer: %v", err)}
}

// Header sets what a failure has beside its body.
func (f Failure) Header(h http.Header) {
	h.Set("Cache-Control", CacheNot)
	if f.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(f.RetryAfter/time.Second)+1))
	}
}
