package upstream

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/pyrsia/appliance/modules/mirror"
)

// After breakAfter failures in a row the upstream is left alone: for firstRest,
// then twice as long after each failed attempt, up to longestRest.
const (
	breakAfter  = 5
	firstRest   = 5 * time.Second
	longestRest = 2 * time.Minute

	defaultPause = 30 * time.Second // a 429 that does not say how long
	longestPause = 10 * time.Minute
)

var errResting = errors.New("it failed several times in a row and is left alone for a while")

// breaker keeps a failing upstream from slowing every client. The zero value
// is closed.
type breaker struct {
	mu       sync.Mutex
	failures int
	rest     time.Duration
	until    time.Time // no attempt before
	limited  bool      // until is the upstream's own wish
	trying   bool      // the one attempt after a rest is under way
}

func (b *breaker) allow(now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.limited && now.Before(b.until) {
		return &mirror.UpstreamError{Status: http.StatusTooManyRequests, RetryAfter: b.until.Sub(now)}
	}
	b.limited = false
	if b.failures < breakAfter {
		return nil
	}
	if b.trying || now.Before(b.until) {
		return &mirror.UpstreamError{Err: errResting}
	}
	b.trying = true
	return nil
}

func (b *breaker) failed(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures++
	b.trying = false
	if b.failures < breakAfter {
		return
	}
	b.rest = min(max(firstRest, 2*b.rest), longestRest)
	b.until = now.Add(b.rest)
}

func (b *breaker) worked() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures, b.rest, b.trying = 0, 0, false
}

// gaveUp says that an attempt ended without telling anything.
func (b *breaker) gaveUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trying = false
}

// pause leaves the upstream alone as long as it wishes, within bounds.
func (b *breaker) pause(now time.Time, wish time.Duration) time.Duration {
	if wish <= 0 {
		wish = defaultPause
	}
	wish = min(wish, longestPause)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures, b.rest, b.trying = 0, 0, false
	b.limited, b.until = true, now.Add(wish)
	return wish
}
