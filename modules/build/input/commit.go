package input

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build/input/git"
	"github.com/pyrsia/appliance/modules/record"
)

// commit gets a source that is a commit: from the store, from its repository, or from
// peers, whom its digest in the recipe proves. The tree is packed by a fixed rule, so
// that the digest is the same on every node; the rule is part of the protocol.
func (k *Keeper) commit(ctx context.Context, path string, s record.Source, count func(int64)) (artifact.Descriptor, error) {
	if d, found := k.config.Store.Stat(s.SHA256); found {
		count(d.Size)
		return d, nil
	}
	d, err := k.packCommit(ctx, s, count)
	var other mismatch
	switch {
	case err == nil:
		return d, nil
	case errors.As(err, &other):
		return d, poisoned(path, "the tree of commit %s packs to %s, the recipe says sha256 %s", s.Commit, other.found, s.SHA256)
	case ctx.Err() != nil:
		return d, context.Cause(ctx)
	case errors.Is(err, git.ErrRefused):
		return d, poisoned(path, "%v", err)
	}
	return d, unavailable(path, err)
}

// commitScratch begins the names of folders that commits are fetched into.
const commitScratch = "commit-"

// packCommit puts the packed tree into the store.
func (k *Keeper) packCommit(ctx context.Context, s record.Source, count func(int64)) (artifact.Descriptor, error) {
	scratch, err := os.MkdirTemp(k.config.Folder, commitScratch)
	if err != nil {
		return artifact.Descriptor{}, err
	}
	defer os.RemoveAll(scratch)
	reader, writer := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := git.Pack(ctx, git.Source{URL: s.Git, Tag: s.Tag, Commit: s.Commit, Submodules: s.Submodules}, scratch, writer, git.Options{Client: k.fetch.client})
		writer.CloseWithError(err) // nil is the end of the file
		packed <- err
	}()
	r := &checked{r: reader, want: want{sha256: s.SHA256, size: -1, limit: maxPacked}, hash: sha256.New(), count: count, alive: func() {}, ended: func() {}}
	d, err := k.config.Store.Put(ctx, r)
	reader.CloseWithError(err) // a store that gives up ends the packing
	failed := <-packed
	switch {
	case err == nil:
		return d, nil
	case errors.As(r.err, new(mismatch)):
		r.undo()
		return d, r.err
	case failed != nil:
		r.undo()
		return d, failed
	}
	r.undo()
	return d, err
}

// maxPacked bounds the packed tree of a commit, bytes.
const maxPacked = 8 << 30

// holdCommit is commit for a lock's entry: what the repository no longer has, peers may.
func (k *Keeper) holdCommit(ctx context.Context, e record.LockEntry, s record.Source, count func(int64)) error {
	d, err := k.commit(ctx, e.Path, s, count)
	if err == nil {
		return sameFile(e, d)
	}
	if ctx.Err() != nil || !errors.Is(err, ErrUnavailable) {
		return err
	}
	if peerErr := k.fromPeer(ctx, e, count); peerErr != nil {
		return fmt.Errorf("%w; %w", err, peerErr)
	}
	return nil
}

// Commits are git repositories, for who makes recipes. It is safe for concurrent use.
type Commits struct {
	Client  *http.Client // nil is one with sane time limits
	Scratch string       // folder; "" is the system's
}

// Pack copies the tree that a tag names, packed as a recipe's source is, and returns the
// commit. Its error is ErrAbsent where repository or tag are not to be had.
func (c Commits) Pack(ctx context.Context, repository, tag string, w io.Writer) (string, error) {
	options := git.Options{Client: c.Client}
	commit, err := git.Find(ctx, repository, tag, options)
	if err != nil {
		return "", absentCommit(err)
	}
	scratch, err := os.MkdirTemp(c.Scratch, commitScratch)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	return commit, absentCommit(git.Pack(ctx, git.Source{URL: repository, Tag: tag, Commit: commit}, scratch, w, options))
}

func absentCommit(err error) error {
	if errors.Is(err, git.ErrUnavailable) {
		return absentRepository{err}
	}
	return err
}

// absentRepository is an error that is ErrAbsent, too, and says so in its own words.
type absentRepository struct{ error }

// Unwrap is for package errors.
func (a absentRepository) Unwrap() []error { return []error{a.error, ErrAbsent} }
