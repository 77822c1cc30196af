package quorum

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// What a member says of itself beside its votes is at most half of what others
// take from it (Limits): the other half is for votes, proposals and help. Without
// it a folder with thousands of new recipes would look like a flood.
const (
	paceMessages = rateMessages / 2 // per second
	paceBytes    = rateBytes / 2    // per second
)

// pace holds what a member submits to what others take. Safe for concurrent use.
type pace struct {
	mu       sync.Mutex
	messages *rate.Limiter
	bytes    *rate.Limiter
}

func newPace() *pace {
	return &pace{messages: rate.NewLimiter(paceMessages, paceMessages), bytes: rate.NewLimiter(paceBytes, paceBytes)}
}

// full tells, before anything is encoded, that nothing may be said now.
func (p *pace) full(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.messages.TokensAt(now) < 1 || p.bytes.TokensAt(now) < 1
}

// take tells whether a message of so many bytes may be said, and counts it. No
// message is longer than MaxMessage, which fits into a second's bytes.
func (p *pace) take(now time.Time, size int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.messages.TokensAt(now) < 1 {
		return false
	}
	return p.bytes.AllowN(now, size) && p.messages.AllowN(now, 1)
}
