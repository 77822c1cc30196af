// Package git is a source tree in a git repository: it finds the commit that a
// tag names, and gets a commit and packs its tree as a tar, equal byte for byte
// on every node.
//
// A commit is named by its hash, which is over the hashes of its trees and
// files, and so over all bytes of the tar. A tag only says where to look: who
// owns the repository can move it. So the commit counts. A tag that names
// another commit by now is told as an error only when the commit cannot be had
// in another way either.
//
// The proof is made where the bytes are used: the commit, every tree and every
// file is hashed while it is packed, by a SHA-1 that notices the known attacks
// (Stevens' counter-cryptanalysis). What a server or a packfile says is never
// believed. Repositories with SHA-256 are refused; this version cannot read them.
//
// Packed is what the hashes are over, and nothing else: there is no line ending,
// no keyword, no filter and no export rule (.gitattributes) of git's, because
// these depend on the machine, its configuration and the version of git. A file
// that git LFS keeps elsewhere is the short text that stands for it. A submodule
// is another repository's commit, so its bytes are not under this hash: it is
// refused unless the recipe gets it as a source of its own.
//
// No program is run, and nothing of this machine's git counts: no configuration,
// no rewritten addresses, no credentials.
//
// The tar holds folders (0755), files (0644, or 0755 if executable) and symbolic
// links, sorted by their bytes, of owner 0 and of the Unix epoch. Refused are
// names that artifact.CheckFile refuses, .git in any case, links that leave the
// tree, and anything of git's that is none of the three.
package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
)

// Every error wraps exactly one of these.
var (
	// ErrRefused: the source as it is named can never be used. Either its name
	// is wrong, or the commit's own content, which is proven, is not allowed.
	// Every node comes to the same end.
	ErrRefused = errors.New("the source is refused")
	// ErrUnavailable: the source could not be got, so nothing is known about
	// it. Another attempt, or another server, may bring it.
	ErrUnavailable = errors.New("the source could not be got")
)

// Source names a commit of a repository.
type Source struct {
	URL    string // http or https, without user name, password and query
	Tag    string // where the commit may be found; "" is unknown
	Commit string // 40 lower-case hexadecimal digits
	// Submodules are the paths of those submodules that the recipe gets as
	// sources of their own. Each is an empty folder in the tar. A submodule that
	// is not among them is an error, and so is a path that is no submodule.
	Submodules []string
}

// Options say how to get a source. The zero value is for use.
type Options struct {
	// Client's transport, jar and redirect rules count, beside the rules of this
	// package; of an *http.Transport a copy is used, with connections of its
	// own. nil is a client with sane time limits for all but a whole answer; a
	// Timeout would be for the whole answer.
	Client *http.Client
	// Local allows file addresses: of a repository on this machine, for
	// development and tests.
	Local bool
	// Stall is for how long a server may send nothing; 0 is a minute. One that
	// sends slowly is borne as long as the context lasts.
	Stall time.Duration

	bounds *bounds // of tests
}

// bounds are what one source may cost.
type bounds struct {
	refs    int64 // bytes of a server's list of references
	pack    int64 // bytes that are fetched for one attempt
	objects int64 // in a packfile
	stored  int64 // bytes of a packfile, inflated, deltas not applied
	object  int64 // bytes of one object: some of them are in memory at a time
	entries int64 // files, links and folders of the tree
	bytes   int64 // of the tree's files, and of the trees themselves
	depth   int   // of folders
	steps   int   // path segments, looked at to follow all links
}

var usual = bounds{
	refs:    32 << 20,
	pack:    2 << 30,
	objects: 1 << 20,
	stored:  16 << 30,
	object:  256 << 20,
	entries: 200_000,
	bytes:   8 << 30,
	depth:   128,
	steps:   10_000_000,
}

func (o Options) limits() bounds {
	if o.bounds != nil {
		return *o.bounds
	}
	return usual
}

// failure puts an error into one of the two classes without words of its own.
type failure struct{ class, cause error }

func (f *failure) Error() string   { return f.cause.Error() }
func (f *failure) Unwrap() []error { return []error{f.class, f.cause} }

func refused(format string, args ...any) error {
	return &failure{ErrRefused, fmt.Errorf(format, args...)}
}

func unavailable(format string, args ...any) error {
	return &failure{ErrUnavailable, fmt.Errorf(format, args...)}
}

// classed is an error of this package's functions as callers get it. What has
// no class by then is the context's, the disk's or the writer's.
func classed(err error) error {
	if err == nil || errors.Is(err, ErrRefused) || errors.Is(err, ErrUnavailable) {
		return err
	}
	return &failure{ErrUnavailable, err}
}

// Find is the commit that a tag names now. Of the repository only the list of
// its references is fetched.
func Find(ctx context.Context, address, tag string, options Options) (commit string, err error) {
	u, err := parse(address, options.Local)
	if err != nil {
		return "", err
	}
	if err := checkTag(tag); err != nil {
		return "", err
	}
	commit, err = find(ctx, u, tag, options)
	if err != nil {
		return "", classed(fmt.Errorf("%s: %w", u, err))
	}
	return commit, nil
}

func find(ctx context.Context, u *url.URL, tag string, options Options) (commit string, err error) {
	if u.Scheme == "file" {
		repository, err := openLocal(u.Path)
		if err != nil {
			return "", err
		}
		commit, err = repository.tag(tag)
		if err != nil {
			return "", err
		}
	} else {
		r := newRemote(u, options)
		defer r.close()
		if err := r.list(ctx); err != nil {
			return "", err
		}
		commit = r.tag(tag)
	}
	if commit == "" {
		return "", unavailable("the repository has no tag %q", tag)
	}
	return commit, nil
}

// Pack writes the commit's tree to w as a tar. Two calls for one commit write
// equal bytes, wherever they are made. What was written before an error is to be
// thrown away.
//
// Fetched is as little as the server allows: the one commit without its history;
// else the history of the tag; else of all branches and tags. It lies in a
// folder below scratch, which exists, and is gone when Pack returns.
func Pack(ctx context.Context, s Source, scratch string, w io.Writer, options Options) error {
	u, err := s.check(options.Local)
	if err != nil {
		return err
	}
	if err := pack(ctx, s, u, scratch, w, options); err != nil {
		return classed(fmt.Errorf("%s at commit %s: %w", u, s.Commit, err))
	}
	return nil
}

func pack(ctx context.Context, s Source, u *url.URL, scratch string, w io.Writer, options Options) (err error) {
	if u.Scheme == "file" {
		repository, err := openLocal(u.Path)
		if err != nil {
			return err
		}
		if err := repository.has(s); err != nil {
			return err
		}
		return packTree(ctx, repository, s, w, options.limits())
	}
	folder, err := os.MkdirTemp(scratch, "git-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	r := newRemote(u, options)
	defer r.close()
	fetched, err := r.fetch(ctx, s, folder)
	if err != nil {
		return err
	}
	defer fetched.close()
	return packTree(ctx, fetched, s, w, options.limits())
}

var (
	commitForm = regexp.MustCompile(`^[0-9a-f]{40}$`)
	sha256Form = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

func (s Source) check(local bool) (*url.URL, error) {
	u, err := parse(s.URL, local)
	if err != nil {
		return nil, err
	}
	if s.Tag != "" {
		if err := checkTag(s.Tag); err != nil {
			return nil, err
		}
	}
	if sha256Form.MatchString(s.Commit) {
		return nil, refused("commit %s is of a repository with SHA-256, which this version cannot read: use a release archive", s.Commit)
	}
	if !commitForm.MatchString(s.Commit) {
		return nil, refused("commit %.80q: want its whole hash, 40 lower-case hexadecimal digits", s.Commit)
	}
	return u, nil
}

// maxAddress and maxTag are bytes.
const (
	maxAddress = 2048
	maxTag     = 255
)

// parse admits an address. An error never shows a password.
func parse(address string, local bool) (*url.URL, error) {
	const want = "want https://host/path of a repository"
	if len(address) > maxAddress {
		return nil, refused("the repository's address has %d bytes: %s", len(address), want)
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, refused("the repository's address is no URL: %s", want)
	}
	switch {
	case u.User != nil:
		return nil, refused("%s: a user name or password in a repository's address: every node must be able to get it without", u.Redacted())
	case u.Scheme == "file" && !local:
		return nil, refused("%.200q: a repository on a machine is of no use to other nodes: %s", address, want)
	case u.Scheme == "file" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return nil, refused("%.200q: %s", address, want)
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, refused("%.200q: a query or fragment in a repository's address: %s", address, want)
	}
	return u, nil
}

// checkTag holds the rules of git-check-ref-format(1), and ours for paths.
func checkTag(tag string) error {
	bad := len(tag) > maxTag || artifact.CheckFile(tag) != nil || strings.ContainsAny(tag, " ~^:?*[") ||
		strings.Contains(tag, "..") || strings.Contains(tag, "@{") || strings.HasSuffix(tag, ".") || strings.HasSuffix(tag, ".lock")
	if bad {
		return refused("tag %.80q: want a tag's name, such as v1.2", tag)
	}
	return nil
}
