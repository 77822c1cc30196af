package git

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// local is a repository on this machine. Nothing is copied of it.
type local struct{ storage *filesystem.Storage }

// openLocal opens a bare repository, or that of a working tree.
func openLocal(folder string) (*local, error) {
	for _, candidate := range []string{filepath.Join(folder, ".git"), folder} {
		if info, err := os.Stat(filepath.Join(candidate, "objects")); err == nil && info.IsDir() {
			return &local{filesystem.NewStorage(osfs.New(candidate), cache.NewObjectLRUDefault())}, nil
		}
	}
	return nil, unavailable("there is no repository in %s", folder)
}

func (l *local) object(h plumbing.Hash) (plumbing.EncodedObject, error) {
	o, err := l.storage.EncodedObject(plumbing.AnyObject, h)
	if err != nil && !errors.Is(err, plumbing.ErrObjectNotFound) {
		return nil, unavailable("read the repository: %w", err)
	}
	return o, err
}

// maxPeel is how many annotated tags may stand for each other.
const maxPeel = 8

// tag is the commit that a tag names, "" if there is no such tag.
func (l *local) tag(name string) (string, error) {
	reference, err := l.storage.Reference(plumbing.NewTagReferenceName(name))
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		return "", nil
	}
	if err != nil {
		return "", unavailable("read the repository: %w", err)
	}
	return l.peel(reference.Hash())
}

// peel is what annotated tags stand for at last.
func (l *local) peel(h plumbing.Hash) (string, error) {
	for range maxPeel {
		o, err := l.object(h)
		if err != nil || o.Type() != plumbing.TagObject {
			break // what else it is, or that it is missing, is told when it is packed
		}
		data, err := content(l, h, plumbing.TagObject, maxCommit)
		if err != nil {
			return "", err
		}
		line, _, _ := bytes.Cut(data, []byte("\n"))
		text, ok := strings.CutPrefix(string(line), "object ")
		if !ok || !commitForm.MatchString(text) {
			return "", refused("tag %s begins with %.60q", h, line)
		}
		h = plumbing.NewHash(text)
	}
	return h.String(), nil
}

// has is nil if the repository has the commit.
func (l *local) has(s Source) error {
	_, err := l.object(plumbing.NewHash(s.Commit))
	if !errors.Is(err, plumbing.ErrObjectNotFound) {
		return err
	}
	tagged := ""
	if s.Tag != "" {
		if tagged, err = l.tag(s.Tag); err != nil {
			return err
		}
	}
	return lost(s, tagged, nil)
}
