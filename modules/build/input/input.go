// Package input is the locked inputs of builds: it finds what a build needs,
// writes it down as a lock, and gets and proves every file of a lock for a node
// that is to vote on it.
//
// A lock must not become the way in for a file that nobody looked at. So a node
// says "I hold this lock" only after it got every file by the file's own proof:
// from its own upstream, from what Debian's archive keys signed, by the digest
// that the recipe names, or by what the chain already vouches for. What a peer
// merely offers proves nothing.
//
// A lock's paths, by kind:
//
//	maven    a release file's path below the repository's root
//	debian   a path below the archive's root: dists/<suite>/InRelease,
//	         dists/<suite>/<component>/binary-<architecture>/Packages.gz, pool/…
//	source   SourcePath of the recipe's source
//	image    "sha256:<hex>", the builder image's configuration and layers; its
//	         manifest is the lock's Builder
package input

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/record"
)

// The two ways in which an input can be refused; every error of Hold and
// Resolve that is about a file wraps one of them and begins with its path.
var (
	// ErrPoisoned: the file is not what its proof says. Asking again is no use;
	// an honest node gives no vote.
	ErrPoisoned = errors.New("the proof does not support the file")
	// ErrUnavailable: the file could not be got, so nothing is known about it.
	// Another attempt may succeed, and fetches only what is still missing.
	ErrUnavailable = errors.New("the file could not be got")
)

// Store keeps files by digest. Implementations are safe for concurrent use.
type Store interface {
	// Put keeps what r yields, durably once it returns, and hashes it both
	// ways. An error of r is returned as it is and leaves nothing behind.
	Put(ctx context.Context, r io.Reader) (artifact.Descriptor, error)
	// Open opens a file that the store has; the caller closes it.
	Open(digest artifact.SHA256) (*os.File, error)
	// Stat is the descriptor of a file that the store has.
	Stat(digest artifact.SHA256) (artifact.Descriptor, bool)
}

// Chain is what the log vouches for now: published and not revoked.
type Chain interface {
	// Live is the manifest of the image that a pkg:docker with a tag names.
	Live(image artifact.PURL) (artifact.Descriptor, bool)
	// Vouched is the file published under a name.
	Vouched(name artifact.Name) (artifact.Descriptor, bool)
}

// Peer brings files from other nodes.
type Peer interface {
	// Fetch puts the file into the store; its bytes are verified against both
	// digests before it returns.
	Fetch(ctx context.Context, file artifact.Descriptor) error
}

// Config says how a node gets inputs. All members but Client and Keyrings are
// required.
type Config struct {
	Upstreams map[string]string // base URLs (http or https) of this node's own "maven" and "debian" upstreams
	Client    *http.Client      // for upstreams; nil is one with sane time limits
	Store     Store
	Lent      Store // for what is only compared with; nil is Store
	Chain     Chain
	Peer      Peer
	Folder    string   // existing; holds the record of what was proven
	Keyrings  []string // OpenPGP keyring files to look for Debian's keys in, beside the lock's own keyring package

	// Pauses between attempts for one file, one more attempt than there are
	// pauses; nil is three attempts within five seconds.
	Pauses []time.Duration
	// Stall is for how long an upstream may send nothing; 0 is a minute.
	Stall time.Duration
}

// Keeper gets and proves inputs. It is safe for concurrent use; two calls for
// one lock at a time only waste traffic.
type Keeper struct {
	config    Config
	upstreams atomic.Pointer[map[string]*url.URL]
	fetch     *fetcher
	lend      *fetcher // into Config.Lent
	proven    *provenRecord
}

// parallel is how many files are fetched at a time.
const parallel = 8

// Bounds of a lock. The whole of a large Maven build has some thousand files;
// the largest package of Debian has 1.4 GB.
const (
	maxEntries = 20_000
	maxFile    = 2 << 30
	maxTotal   = 32 << 30
)

// New opens the record of what was proven in the folder. It starts nothing;
// Close closes the record.
func New(config Config) (*Keeper, error) {
	if config.Store == nil || config.Chain == nil || config.Peer == nil {
		return nil, errors.New("input: store, chain and peer are required")
	}
	k := &Keeper{config: config, fetch: newFetcher(config)}
	if config.Lent == nil {
		config.Lent = config.Store
	}
	lend := *k.fetch
	lend.store, k.lend = config.Lent, &lend
	if err := k.SetUpstreams(config.Upstreams); err != nil {
		return nil, err
	}
	// A crash leaves the folder that a commit was fetched into.
	left, err := filepath.Glob(filepath.Join(config.Folder, commitScratch+"*"))
	for _, folder := range left {
		err = errors.Join(err, os.RemoveAll(folder))
	}
	if err != nil {
		return nil, fmt.Errorf("input: %w", err)
	}
	k.proven, err = openProven(durable.OS(true), config.Folder)
	return k, err
}

// SetUpstreams makes other upstreams count from the next call on. What was proven by
// the ones before stays proven. An error changes nothing.
func (k *Keeper) SetUpstreams(bases map[string]string) error {
	upstreams := map[string]*url.URL{}
	for kind, base := range bases {
		u, err := url.Parse(base)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("input: upstream %q: %q is no http or https address", kind, base)
		}
		upstreams[kind] = u
	}
	k.upstreams.Store(&upstreams)
	return nil
}

func (k *Keeper) upstream(kind string) (*url.URL, bool) {
	base, ok := (*k.upstreams.Load())[kind]
	return base, ok
}

// Close closes the record of what was proven.
func (k *Keeper) Close() error { return k.proven.close() }

// Progress is how far a call came.
type Progress struct {
	Files, FilesDone int
	Bytes, BytesDone int64
}

// Report is told of progress: after each file and now and then within one. It
// is called by one goroutine at a time and must not block. nil is allowed.
type Report func(Progress)

// SourcePath is the path of a source in a lock: of a Maven source its path in
// the repository; of a commit its digest and the commit's name; of another its digest
// and the last part of its address.
func SourcePath(s record.Source) (string, error) {
	if s.Git != "" {
		return commitPath(s)
	}
	if s.Maven != "" {
		m, err := artifact.ParseMaven(s.Maven)
		if err != nil {
			return "", err
		}
		return m.Path(), nil
	}
	u, err := url.Parse(s.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", fmt.Errorf("%w source address %.200q: want an http or https URL", artifact.ErrMalformed, s.URL)
	}
	name := s.SHA256.String() + "/" + path.Base(u.Path)
	if artifact.CheckFile(name) != nil {
		name = s.SHA256.String() + "/source"
	}
	return name, nil
}

func commitPath(s record.Source) (string, error) {
	path := s.SHA256.String() + "/" + s.Commit + ".tar"
	if artifact.CheckFile(path) != nil {
		return "", fmt.Errorf("%w commit %.100q of %.200q", artifact.ErrMalformed, s.Commit, s.Git)
	}
	return path, nil
}

// poisoned and unavailable are the two shapes of every error about a file.
func poisoned(path, format string, args ...any) error {
	return fmt.Errorf("%s: %s: no vote (%w)", path, fmt.Sprintf(format, args...), ErrPoisoned)
}

func unavailable(path string, cause error) error {
	return fmt.Errorf("%s: %w: %w", path, ErrUnavailable, cause)
}
