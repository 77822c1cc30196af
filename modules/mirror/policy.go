package mirror

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
)

// Policy says what happens to a request for something that is not published.
type Policy string

// The policies; the empty one is Refuse.
const (
	Refuse Policy = "refuse" // say no
	Build  Policy = "build"  // say no, and ask for a build of a declared package
	Pass   Policy = "pass"   // fetch it from the upstream, recorded and marked as unverified
)

// Ecosystem is how requests of one kind of package are treated.
type Ecosystem struct {
	Unverified Policy

	// Packages are those declared in the configuration, as patterns:
	// "library/debian:13-slim", "acme/*", "org.example:tool:1.0",
	// "org.example:*". "*" stands for any run of characters; without a version
	// or tag, all of them are meant.
	Packages []string
}

func (e Ecosystem) policy() Policy {
	if e.Unverified == "" {
		return Refuse
	}
	return e.Unverified
}

func (e Ecosystem) declares(pkg artifact.PURL) bool {
	full, bare := spoken(pkg)
	for _, pattern := range e.Packages {
		if glob(pattern, full) || glob(pattern, bare) {
			return true
		}
	}
	return false
}

// spoken is a package as its own tools write it, with and without its version.
func spoken(pkg artifact.PURL) (full, bare string) {
	version := pkg.Version()
	if pkg.Type() == "maven" {
		bare = pkg.Namespace() + ":" + pkg.Name()
		return bare + ":" + version, bare
	}
	bare = pkg.Repository()
	if strings.HasPrefix(version, "sha256:") {
		return bare + "@" + version, bare
	}
	return bare + ":" + version, bare
}

// denies tells whether one entry of the deny list means the package or the
// bytes: a digest "sha256:…", or a package URL with "*" for any run of
// characters; without a version all of them are meant.
func denies(entry string, pkg artifact.PURL, digest artifact.SHA256) bool {
	if strings.HasPrefix(entry, "sha256:") {
		return !digest.IsZero() && entry == digest.OCI()
	}
	bare, _, _ := strings.Cut(string(pkg), "@")
	return glob(entry, string(pkg)) || glob(entry, bare)
}

func (m *Mirror) denied(pkg artifact.PURL, digest artifact.SHA256) error {
	for _, entry := range m.rules.Load().Deny {
		if denies(entry, pkg, digest) {
			return fmt.Errorf("%s: %w: the configuration denies %q", pkg, ErrDenied, entry)
		}
	}
	return nil
}

// glob matches "*" with any run of characters. It takes time proportional to
// the product of the lengths at worst: both are bounded by their parsers.
func glob(pattern, text string) bool {
	star, mark := -1, 0
	p, t := 0, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && pattern[p] == text[t]:
			p++
			t++
		case star >= 0:
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// Wishes are bounded: one per package in askAgain, asksPerMinute in all, and
// at most asksWaiting not yet handed over.
const (
	askAgain      = 10 * time.Minute
	asksPerMinute = 10
	asksWaiting   = 16
)

// wishes limits what clients can make this node ask for.
type wishes struct {
	queue chan artifact.PURL
	asked *expiring

	mu     sync.Mutex
	minute time.Time // start of the minute that count belongs to
	count  int
}

func newWishes() *wishes {
	return &wishes{queue: make(chan artifact.PURL, asksWaiting), asked: newExpiring(4096)}
}

// want queues a wish, or drops it: the client's next request tries again.
func (w *wishes) want(pkg artifact.PURL) bool {
	if w.asked.holds(string(pkg)) || !w.allowed(time.Now()) {
		return false
	}
	select {
	case w.queue <- pkg:
		w.asked.hold(string(pkg), askAgain)
		return true
	default:
		return false
	}
}

func (w *wishes) allowed(now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now.Sub(w.minute) >= time.Minute {
		w.minute, w.count = now, 0
	}
	w.count++
	return w.count <= asksPerMinute
}

// expiring is a bounded set of names, each with an end.
type expiring struct {
	mu    sync.Mutex
	limit int
	ends  map[string]time.Time
}

func newExpiring(limit int) *expiring {
	return &expiring{limit: limit, ends: make(map[string]time.Time)}
}

func (e *expiring) holds(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	end, ok := e.ends[name]
	return ok && time.Now().Before(end)
}

// hold keeps a name for a while. A full set first drops what has ended, then
// everything: losing an entry costs one question, never a wrong answer.
func (e *expiring) hold(name string, d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if len(e.ends) >= e.limit {
		for k, end := range e.ends {
			if !now.Before(end) {
				delete(e.ends, k)
			}
		}
	}
	if len(e.ends) >= e.limit {
		clear(e.ends)
	}
	e.ends[name] = now.Add(d)
}

func (e *expiring) drop(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.ends, name)
}
