package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
)

// attempt is one way to ask for a commit.
type attempt struct {
	wants []plumbing.Hash
	depth int // 1 is without history, 0 is with all of it
}

// attempts are the ways to ask for a commit, the cheapest first.
func (r *remote) attempts(s Source) []attempt {
	commit := plumbing.NewHash(s.Commit)
	shallow := 0
	if r.refs.Capabilities.Supports(capability.Shallow) {
		shallow = 1
	}
	var ways []attempt
	reachable := r.refs.Capabilities.Supports(capability.AllowReachableSHA1InWant)
	if tip, ok := r.tip(commit, s.Tag); ok {
		ways = append(ways, attempt{[]plumbing.Hash{tip}, shallow})
	} else if reachable || r.refs.Capabilities.Supports(capability.AllowTipSHA1InWant) {
		ways = append(ways, attempt{[]plumbing.Hash{commit}, shallow})
	}
	if reachable {
		return ways // a server that has no such commit has none in a history either
	}
	if tag, ok := r.refs.References["refs/tags/"+s.Tag]; ok {
		ways = append(ways, attempt{[]plumbing.Hash{tag}, 0})
	}
	if all := r.all(); len(all) > 0 {
		ways = append(ways, attempt{all, 0})
	}
	return ways
}

// tip is what to ask for where a reference names the commit: of an annotated tag
// the tag itself, since servers give only what they list unpeeled.
func (r *remote) tip(commit plumbing.Hash, tag string) (plumbing.Hash, bool) {
	if full := "refs/tags/" + tag; r.refs.Peeled[full] == commit {
		if hash, ok := r.refs.References[full]; ok {
			return hash, true
		}
	}
	if r.refs.Head != nil && *r.refs.Head == commit {
		return commit, true
	}
	names := slices.Sorted(maps.Keys(r.refs.References))
	for _, name := range names {
		if r.refs.References[name] == commit {
			return commit, true
		}
	}
	for _, name := range names {
		if r.refs.Peeled[name] == commit {
			return r.refs.References[name], true
		}
	}
	return plumbing.ZeroHash, false
}

// all are the tips of all branches and tags.
func (r *remote) all() []plumbing.Hash {
	var hashes []plumbing.Hash
	for name, hash := range r.refs.References {
		if strings.HasPrefix(name, "refs/heads/") || strings.HasPrefix(name, "refs/tags/") {
			hashes = append(hashes, hash)
		}
	}
	slices.SortFunc(hashes, func(a, b plumbing.Hash) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(hashes)
}

// fetch gets the commit with its tree into a file in the folder.
func (r *remote) fetch(ctx context.Context, s Source, folder string) (*packed, error) {
	if err := r.list(ctx); err != nil {
		return nil, err
	}
	var denied error
	for _, way := range r.attempts(s) {
		found, err := r.attempt(ctx, way, s, folder)
		if found != nil || err != nil && !errors.As(err, new(errDenied)) {
			return found, err
		}
		denied = errors.Join(err, denied)
	}
	return nil, lost(s, r.tag(s.Tag), denied)
}

// attempt gets what is wanted; found is nil if the commit is not among it.
func (r *remote) attempt(ctx context.Context, way attempt, s Source, folder string) (found *packed, err error) {
	file, err := os.Create(filepath.Join(folder, "pack")) // in place of that of an attempt before
	if err != nil {
		return nil, err
	}
	defer func() {
		if found == nil {
			file.Close()
		}
	}()
	if err := r.download(ctx, way.wants, way.depth, file); err != nil {
		return nil, err
	}
	p, err := openPack(ctx, file, r.bounds)
	if err != nil {
		return nil, err
	}
	if _, err := p.object(plumbing.NewHash(s.Commit)); err != nil {
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			return nil, nil
		}
		return nil, err
	}
	return p, nil
}

// lost says why a commit cannot be had, where nothing has it. tagged is what the
// tag names now.
func lost(s Source, tagged string, denied error) error {
	text := fmt.Sprintf("the repository has no such commit in its branches and tags: see whether commit %s was pushed, or name the tag that it has", s.Commit)
	switch {
	case s.Tag != "" && tagged == "":
		text = fmt.Sprintf("the repository has no tag %q, and commit %s is nowhere else in it: the tag was removed", s.Tag, s.Commit)
	case s.Tag != "" && tagged != s.Commit:
		text = fmt.Sprintf("tag %s of %s names commit %s, the recipe says %s: the tag was moved, and the recipe's commit is nowhere else in the repository", s.Tag, s.URL, tagged, s.Commit)
	}
	if denied != nil {
		return unavailable("%s (%w)", text, denied)
	}
	return unavailable("%s", text)
}
