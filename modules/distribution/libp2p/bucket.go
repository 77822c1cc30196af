package libp2p

import (
	"context"
	"sync"
	"time"
)

// clock is time for the bucket, so that a test counts tokens and not seconds.
type clock interface {
	Now() time.Time

	// Sleep waits, or returns ctx's error.
	Sleep(ctx context.Context, d time.Duration) error
}

type realClock struct{}

func (realClock) Now() time.Time { return time.Now() }

func (realClock) Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// bucket is a token bucket, one token per byte. In any span of t seconds at
// most t times the rate plus one burst passes. The burst is a tenth of a
// second, at least one piece.
type bucket struct {
	clock clock

	mu     sync.Mutex
	rate   int64 // bytes per second; 0: no limit
	tokens float64
	last   time.Time
}

// piece is how many bytes are sent at a time.
const piece = 16 << 10

func newBucket(rate int64, c clock) *bucket {
	b := &bucket{clock: c}
	b.setRate(rate)
	return b
}

func (b *bucket) setRate(rate int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rate, b.last, b.tokens = rate, b.clock.Now(), 0
}

func (b *bucket) burst() float64 { return max(float64(b.rate)/10, piece) }

// owes tells whether take would wait now.
func (b *bucket) owes() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rate > 0 && b.tokens+b.clock.Now().Sub(b.last).Seconds()*float64(b.rate) < 0
}

// take waits until n bytes may pass. More than a burst is waited for in one.
func (b *bucket) take(ctx context.Context, n int) error {
	b.mu.Lock()
	if b.rate == 0 {
		b.mu.Unlock()
		return ctx.Err()
	}
	now := b.clock.Now()
	b.tokens = min(b.burst(), b.tokens+now.Sub(b.last).Seconds()*float64(b.rate))
	b.last = now
	// Going below zero queues the callers in the order they came.
	b.tokens -= float64(n)
	wait := time.Duration(0)
	if b.tokens < 0 {
		wait = time.Duration(-b.tokens / float64(b.rate) * float64(time.Second))
	}
	b.mu.Unlock()
	if wait == 0 {
		return ctx.Err()
	}
	return b.clock.Sleep(ctx, wait)
}
