// Package mirror is the read path: the one entrance through which a client's
// request for a file reaches bytes.
//
// A request goes through these steps, and no byte around them:
//
//  1. The deny list refuses at once.
//  2. The log says what the name or digest means. What it vouches for comes
//     from the store, or else from peers as a stream of proven chunks; the
//     upstream is never asked for it, even when no peer answers.
//  3. What the log does not know goes by its ecosystem's policy: refuse, build
//     (refuse, and ask for a build), or pass: fetched once from the upstream
//     however many clients wait, recorded in the journal of unverified files
//     before any client has its last byte, and marked as unverified.
//
// modules/mirror/upstream is the HTTP client of an upstream; modules/registry
// turns the answers into HTTP.
package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/durable"
)

// Config is how a mirror behaves.
type Config struct {
	// Folder is the mirror's own: journal and files that are arriving. It
	// exists and has one mirror at a time.
	Folder string

	Rules // to begin with

	// MaxBytes is the largest file taken from an upstream, in bytes; 0 is 16 GiB.
	MaxBytes int64

	// Fetches is how many files come from upstreams at once; 0 is 32.
	Fetches int

	Logger *slog.Logger // nil logs nothing
}

// Rules are what SetRules changes while the mirror serves.
type Rules struct {
	// Ecosystems by type of package URL: "docker", "maven". Any other is refused.
	Ecosystems map[string]Ecosystem

	// Deny lists what is refused at once: "sha256:…", or package URLs with "*"
	// for any run of characters, without a version for all of them.
	Deny []string

	// Upstreams by ecosystem. One without its upstream passes nothing through.
	Upstreams map[string]Upstream
}

// Lifetime says how long an upstream's answer for a path holds.
type Lifetime int

// The lifetimes.
const (
	Immutable Lifetime = iota // for ever: releases, what has a digest in its name
	Short                     // a minute, then asked again: tags, listings
	Ephemeral                 // never kept: snapshots
)

// Request asks for one file. Its makers, in modules/registry, have checked the
// form of every part.
type Request struct {
	// Name is what the log is asked by. Its package decides policy and denial.
	// Without a file, only Digest or Tag is asked by.
	Name artifact.Name

	// Digest is what the client itself asked by: the bytes have it, or the
	// request fails.
	Digest artifact.SHA256

	Tag  bool // the package's version is a tag, and what it points to is meant
	View bool // a listing, which the log vouches for in no case
	Head bool // the bytes will not be read

	// The rest is for the upstream.
	Path     string      // below its root
	Header   http.Header // such as Accept; never a client's credentials
	Lifetime Lifetime
	Limit    int64 // bytes; 0 is Config.MaxBytes
	Whole    bool  // do not stream: return when it is all here
}

// Mirror is safe for concurrent use.
type Mirror struct {
	config  Config // without its rules
	rules   atomic.Pointer[Rules]
	ports   Ports
	log     *slog.Logger
	journal *journal
	wishes  *wishes
	fresh   *expiring     // paths whose record needs no question to the upstream
	absent  *expiring     // paths that the upstream did not have
	places  chan struct{} // one per fetch under way
	counts  counts

	mu      sync.Mutex
	serving context.Context // nil when Serve is not running
	flights map[string]*flight
	joined  sync.WaitGroup // the goroutines of flights
}

// New opens the mirror's folder and starts nothing. Files pass through only
// while Serve runs; what the log vouches for is served from New on.
func New(config Config, ports Ports) (*Mirror, error) {
	if err := config.Check(); err != nil {
		return nil, err
	}
	if config.MaxBytes == 0 {
		config.MaxBytes = 16 << 30
	}
	if config.Fetches == 0 {
		config.Fetches = 32
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	journal, damaged, err := openJournal(durable.OS(true), config.Folder)
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	if damaged > 0 {
		config.Logger.Warn("lines of the journal of unverified files are damaged", "lines", damaged, "folder", config.Folder)
	}
	m := &Mirror{
		config:  config,
		ports:   ports,
		log:     config.Logger,
		journal: journal,
		wishes:  newWishes(),
		fresh:   newExpiring(1 << 14),
		absent:  newExpiring(1 << 14),
		places:  make(chan struct{}, config.Fetches),
		flights: make(map[string]*flight),
	}
	m.rules.Store(&config.Rules)
	return m, nil
}

// SetRules makes other rules count from the next request on; what is under way goes
// on by the old ones. Nobody may change them any more. What Check refuses changes
// nothing.
func (m *Mirror) SetRules(rules Rules) error {
	if err := rules.Check(); err != nil {
		return err
	}
	m.rules.Store(&rules)
	return nil
}

// Check tells whether a mirror can go by the rules.
func (r Rules) Check() error {
	for name, e := range r.Ecosystems {
		switch e.policy() {
		case Refuse, Build, Pass:
		default:
			return fmt.Errorf("mirror %q: unverified is %q: want refuse, build or pass", name, e.Unverified)
		}
	}
	return nil
}

// Serve lets files pass through and hands wishes for builds over until ctx
// ends; then it stops the fetches under way and waits for them.
func (m *Mirror) Serve(ctx context.Context) error {
	m.mu.Lock()
	m.serving = ctx
	m.mu.Unlock()
	for ctx.Err() == nil {
		m.handOver(ctx)
	}
	m.mu.Lock()
	m.serving = nil
	m.mu.Unlock()
	m.joined.Wait()
	return ctx.Err()
}

func (m *Mirror) handOver(ctx context.Context) {
	select {
	case <-ctx.Done():
	case pkg := <-m.wishes.queue:
		if err := m.ports.Builds.Ask(ctx, pkg); err != nil {
			m.log.Warn("asking for a build failed", "package", pkg, "error", err)
		}
	}
}

// Serving tells whether files pass through now.
func (m *Mirror) Serving() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.serving != nil && m.serving.Err() == nil
}

// Close gives the folder back. Serve has returned.
func (m *Mirror) Close() error { return m.journal.close() }

// Open finds the bytes of a request. Where the answer is no it comes within
// the time of a look-up, unless the policy is to pass through. ctx is the
// client's: its end stops the waiting, never a fetch.
func (m *Mirror) Open(ctx context.Context, r Request) (*Content, error) {
	if err := m.denied(r.Name.Package, r.Digest); err != nil {
		return nil, err
	}
	v, err := m.resolve(r)
	if err == nil {
		return m.openVouched(ctx, r, v)
	}
	if !errors.Is(err, ErrNotPublished) {
		// Not knowing what the log says is no reason to ask the upstream.
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	return m.openUnpublished(ctx, r)
}

// String names what is asked for, for messages.
func (r Request) String() string {
	if r.Name.File != "" {
		return r.Name.String()
	}
	return string(r.Name.Package)
}

func (m *Mirror) resolve(r Request) (Vouched, error) {
	if r.View {
		return Vouched{}, ErrNotPublished
	}
	if r.Tag {
		return m.ports.Log.Tag(r.Name.Package.Repository(), r.Name.Package.Version())
	}
	if r.Name.File != "" {
		v, err := m.ports.Log.Resolve(r.Name)
		// A publication whose name holds another digest than its bytes have does
		// not stand for what the client asked by digest.
		fits := err == nil && (r.Digest.IsZero() || r.Digest == v.Descriptor.SHA256)
		if fits || r.Digest.IsZero() || err != nil && !errors.Is(err, ErrNotPublished) {
			return v, err
		}
	}
	if r.Digest.IsZero() {
		return Vouched{}, ErrNotPublished
	}
	return m.ports.Log.ResolveDigest(r.Digest)
}

func (m *Mirror) openVouched(ctx context.Context, r Request, v Vouched) (*Content, error) {
	if err := m.denied(v.Name.Package, v.Descriptor.SHA256); err != nil {
		return nil, err
	}
	file, err := openSized(m.ports.Store, v.Descriptor)
	if err == nil {
		m.counts.hits.Add(1)
		return vouchedContent(v, file), nil
	}
	if r.Head {
		return vouchedContent(v, &headOnly{size: v.Descriptor.Size}), nil
	}
	m.counts.streamed.Add(1)
	body, err := m.openPeers(ctx, v.Descriptor)
	if err != nil {
		m.counts.sourceless.Add(1)
		return nil, fmt.Errorf("%s is published (block %d), but %w", r, v.Block, err)
	}
	return vouchedContent(v, body), nil
}

// openPeers returns when the first byte is here, so that a file that nobody
// honest has is still an HTTP status and not a broken response.
func (m *Mirror) openPeers(ctx context.Context, d artifact.Descriptor) (io.ReadSeekCloser, error) {
	if d.Size == 0 {
		return nopCloser{bytes.NewReader(nil)}, nil
	}
	body, err := m.ports.Peers.Open(ctx, d)
	if err != nil {
		return nil, noSource(err)
	}
	if file, ok := body.(*os.File); ok {
		return file, nil
	}
	_, err = io.ReadFull(body, make([]byte, 1))
	if err == nil {
		_, err = body.Seek(0, io.SeekStart)
	}
	if err != nil {
		body.Close()
		return nil, noSource(err)
	}
	return body, nil
}

// noSource makes every failure to get vouched bytes an ErrNoSource, except that
// the client went away.
func noSource(err error) error {
	if errors.Is(err, ErrNoSource) || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNoSource, err)
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }

func (m *Mirror) openUnpublished(ctx context.Context, r Request) (*Content, error) {
	m.counts.unpublished.Add(1)
	pkg := r.Name.Package
	ecosystem := m.rules.Load().Ecosystems[pkg.Type()]
	policy := ecosystem.policy()
	if policy == Pass {
		return m.pass(ctx, r)
	}
	if policy == Build && m.ports.Builds != nil && nameable(r) && ecosystem.declares(pkg) {
		m.wishes.want(pkg)
		return nil, fmt.Errorf("%s: %w yet; policy build: try again when it is built", r, ErrNotPublished)
	}
	return nil, fmt.Errorf("%s: %w; policy %s", r, ErrNotPublished, policy)
}

// nameable tells whether a request names a package that a recipe can be of,
// and is more than a question.
func nameable(r Request) bool { return r.Digest.IsZero() && !r.View && !r.Head }

// Tags are the live tags of a Docker repository that the log knows.
func (m *Mirror) Tags(repository string) ([]string, error) { return m.ports.Index.Tags(repository) }

// Versions are the versions of a Maven artifact that the log knows.
func (m *Mirror) Versions(group, artifact string) ([]string, error) {
	return m.ports.Index.Versions(group, artifact)
}

// Passed visits the journal of unverified files, oldest first, until visit
// says no. It reads the file, and is for a person's question.
func (m *Mirror) Passed(visit func(Passed) bool) error { return m.journal.each(visit) }

// Status is what a mirror has done since New, and does now.
type Status struct {
	Hits        int64 `json:"hits"`        // files served from the store
	Streamed    int64 `json:"streamed"`    // published files that peers were asked for
	Sourceless  int64 `json:"sourceless"`  // of these, refused for want of an honest source
	Unpublished int64 `json:"unpublished"` // requests that went by a policy
	Passed      int64 `json:"passed"`      // unverified files that came from an upstream
	PassedBytes int64 `json:"passedBytes"` // and their bytes
	Fetching    int   `json:"fetching"`    // upstream fetches under way
}

type counts struct{ hits, streamed, sourceless, unpublished, passed, passedBytes atomic.Int64 }

// Status is a snapshot.
func (m *Mirror) Status() Status {
	m.mu.Lock()
	fetching := len(m.flights)
	m.mu.Unlock()
	return Status{
		Hits:        m.counts.hits.Load(),
		Streamed:    m.counts.streamed.Load(),
		Sourceless:  m.counts.sourceless.Load(),
		Unpublished: m.counts.unpublished.Load(),
		Passed:      m.counts.passed.Load(),
		PassedBytes: m.counts.passedBytes.Load(),
		Fetching:    fetching,
	}
}

// now is the time that a journal line carries.
func now() time.Time { return time.Now().UTC().Truncate(time.Second) }
