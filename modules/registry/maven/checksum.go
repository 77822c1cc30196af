package maven

import (
	"container/list"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io"
	"sync"

	"github.com/pyrsia/appliance/modules/artifact"
)

// maxSums bounds the cache; an entry is about 250 bytes.
const maxSums = 16384

// sums are checksums in hexadecimal: those that are sent along with every file,
// or the one that is rarely asked for and takes as long as both.
type sums struct {
	sha1, md5 string
	sha512    string
}

// of is the checksum of a kind.
func (s sums) of(kind string) string {
	switch kind {
	case "sha1":
		return s.sha1
	case "md5":
		return s.md5
	}
	return s.sha512
}

// sumKey names the checksums of a file: SHA-512, or the two others.
type sumKey struct {
	digest artifact.SHA256
	sha512 bool
}

func keyFor(digest artifact.SHA256, kind string) sumKey { return sumKey{digest, kind == "sha512"} }

// sumOf hashes bytes in constant memory.
func (k sumKey) sumOf(r io.Reader) (sums, error) {
	if k.sha512 {
		h := sha512.New()
		_, err := io.Copy(h, r)
		return sums{sha512: hex.EncodeToString(h.Sum(nil))}, err
	}
	one, five := sha1.New(), md5.New()
	_, err := io.Copy(io.MultiWriter(one, five), r)
	return sums{sha1: hex.EncodeToString(one.Sum(nil)), md5: hex.EncodeToString(five.Sum(nil))}, err
}

// sumCache holds the checksums of files by their SHA-256: content never
// changes under it, so nothing here gets old. Safe for concurrent use.
type sumCache struct {
	mu      sync.Mutex
	entries map[sumKey]*list.Element
	order   list.List // of *sumEntry, the last used in front
}

type sumEntry struct {
	key  sumKey
	done chan struct{} // closed when sums and err are set
	sums sums
	err  error
}

func newSumCache() *sumCache {
	return &sumCache{entries: make(map[sumKey]*list.Element)}
}

// get is the checksums of a key. The first who asks computes them; others
// wait for that, and take over where the first one's client went away. A
// failure is not kept.
func (c *sumCache) get(ctx context.Context, key sumKey, compute func() (sums, error)) (sums, error) {
	for {
		entry, mine := c.entry(key)
		if mine {
			c.fill(entry, compute)
			return entry.sums, entry.err
		}
		select {
		case <-entry.done:
		case <-ctx.Done():
			return sums{}, ctx.Err()
		}
		if !errors.Is(entry.err, context.Canceled) || ctx.Err() != nil {
			return entry.sums, entry.err
		}
	}
}

// has is the checksums of a key, if they are known.
func (c *sumCache) has(key sumKey) (sums, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	element := c.entries[key]
	if element == nil {
		return sums{}, false
	}
	entry := element.Value.(*sumEntry)
	select {
	case <-entry.done:
		c.order.MoveToFront(element)
		return entry.sums, entry.err == nil
	default:
		return sums{}, false
	}
}

// fill closes the entry however compute ends: waiters must not hang on a panic.
func (c *sumCache) fill(entry *sumEntry, compute func() (sums, error)) {
	entry.err = context.Canceled
	defer close(entry.done)
	defer func() {
		if entry.err != nil {
			c.forget(entry)
		}
	}()
	entry.sums, entry.err = compute()
}

func (c *sumCache) entry(key sumKey) (entry *sumEntry, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element := c.entries[key]; element != nil {
		c.order.MoveToFront(element)
		return element.Value.(*sumEntry), false
	}
	entry = &sumEntry{key: key, done: make(chan struct{})}
	c.entries[key] = c.order.PushFront(entry)
	if len(c.entries) > maxSums {
		oldest := c.order.Back()
		c.order.Remove(oldest)
		delete(c.entries, oldest.Value.(*sumEntry).key)
	}
	return entry, true
}

func (c *sumCache) forget(entry *sumEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element := c.entries[entry.key]; element != nil && element.Value == entry {
		c.order.Remove(element)
		delete(c.entries, entry.key)
	}
}

func sha256Text(data []byte) string { return artifact.SHA256(sha256.Sum256(data)).String() }
