package store

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/store/internal/tree"
)

// window is how far a Through fetches ahead of its reader, in bytes.
const window = 8 * MaxSlice

// Through is a file that passes through without being kept, for when a store
// has no room: proven like a Download, but only a window of 8 MiB before its
// one reader is in memory at a time. What the reader has passed is forgotten,
// and fetched again if it seeks back.
//
// It has the methods of a Download that a fetcher calls. It ends when its
// reader is closed.
type Through struct {
	desc artifact.Descriptor

	mu      sync.Mutex
	base    int64 // the window's first byte: a group's boundary
	groups  map[int64][]byte
	waiting bool
	over    bool
	err     error
	changed chan struct{}
}

// NewThrough is a way through for desc. It holds no resource until bytes come.
func NewThrough(desc artifact.Descriptor) *Through {
	return &Through{desc: desc, groups: map[int64][]byte{}, changed: make(chan struct{})}
}

// Descriptor is what is passing.
func (t *Through) Descriptor() artifact.Descriptor { return t.desc }

// Kept says that nothing stays.
func (t *Through) Kept() bool { return false }

// Changed is closed at the next change.
func (t *Through) Changed() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

func (t *Through) notify() {
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *Through) has(g int64) bool { return t.groups[g] != nil }

// Missing is the first missing range of the window at or after from.
func (t *Through) Missing(from int64) (offset, length int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	end := min(t.base+window, t.desc.Size)
	if t.over || from >= end {
		return t.desc.Size, 0
	}
	return missing(max(from, t.base), end, t.has)
}

// Wanted is the reader's offset while it is blocked.
func (t *Through) Wanted() []int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.waiting {
		return nil
	}
	return []int64{t.base}
}

// Complete is true of an empty file only: a reader may always seek back.
func (t *Through) Complete() bool { return t.desc.Size == 0 }

// Ended tells whether the reader was closed or the fetch given up.
func (t *Through) Ended() (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.over, t.err
}

// WriteSlice is Download.WriteSlice; what is outside the window is dropped.
func (t *Through) WriteSlice(offset, length int64, r io.Reader) error {
	if length > MaxSlice || length < 0 {
		return fmt.Errorf("slice of %d bytes: at most %d", length, MaxSlice)
	}
	buffer := make([]byte, length)
	if err := tree.Decode(r, t.desc.BLAKE3, t.desc.Size, offset, buffer, nil); err != nil {
		return translate(err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for at := offset; at < offset+length; at += Group {
		if !t.over && at >= t.base && at < t.base+window {
			t.groups[at/Group] = buffer[at-offset : min(at-offset+Group, length)]
		}
	}
	t.notify()
	return nil
}

// Note is always empty: nothing is kept.
func (t *Through) Note() []byte { return nil }

// SetNote does nothing.
func (t *Through) SetNote([]byte) error { return nil }

// Commit does nothing.
func (t *Through) Commit() error { return nil }

// Suspend ends it; the reader gets cause.
func (t *Through) Suspend(cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	t.over, t.err = true, cause
	if cause == nil {
		t.err = ErrClosed
	}
	clear(t.groups)
	t.notify()
}

// NewReader is the one reader; a second moves the first one's window.
func (t *Through) NewReader(ctx context.Context) io.ReadSeekCloser {
	return &throughReader{t: t, ctx: ctx}
}

type throughReader struct {
	t      *Through
	ctx    context.Context
	offset int64
}

func (r *throughReader) Read(p []byte) (int, error) {
	t := r.t
	if r.offset >= t.desc.Size {
		return 0, io.EOF
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	defer func() { t.waiting = false }()
	for {
		if err := r.ctx.Err(); err != nil {
			return 0, context.Cause(r.ctx)
		}
		t.move(r.offset / Group * Group)
		if group := t.groups[r.offset/Group]; group != nil {
			n := copy(p, group[r.offset%Group:])
			r.offset += int64(n)
			return n, nil
		}
		if t.over {
			return 0, t.err
		}
		if !t.waiting {
			t.waiting = true
			t.notify()
		}
		changed := t.changed
		t.mu.Unlock()
		select {
		case <-changed:
		case <-r.ctx.Done():
		}
		t.mu.Lock()
	}
}

// move begins the window at base and forgets what is outside it.
func (t *Through) move(base int64) {
	if base == t.base {
		return
	}
	t.base = base
	for g := range t.groups {
		if at := g * Group; at < base || at >= base+window {
			delete(t.groups, g)
		}
	}
	t.notify()
}

func (r *throughReader) Seek(offset int64, whence int) (int64, error) {
	return seek(&r.offset, r.t.desc.Size, offset, whence)
}

func (r *throughReader) Close() error {
	r.t.Suspend(ErrClosed)
	return nil
}
