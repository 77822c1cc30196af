package liar

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/publish"
	"github.com/pyrsia/appliance/modules/record"
)

// Inputs asks others to hold locks that say of one file what is not so, and holds such
// a lock itself.
type Inputs struct {
	publish.Inputs
	Path string // end of the file's path
}

// Resolve implements publish.Inputs.
func (i Inputs) Resolve(ctx context.Context, recipe *record.Recipe, job build.Job) (*record.Lock, error) {
	lock, err := i.Inputs.Resolve(ctx, recipe, job)
	if err != nil {
		return nil, err
	}
	return lock, i.forge(lock)
}

// Hold implements publish.Inputs.
func (i Inputs) Hold(context.Context, *record.Recipe, *record.Lock, io.Writer) error { return nil }

// forge gives the file another one's bytes, so that there is somebody who has them. A
// file that the lock does not have comes to it.
func (i Inputs) forge(lock *record.Lock) error {
	is := func(e record.LockEntry) bool { return strings.HasSuffix(e.Path, i.Path) }
	at := slices.IndexFunc(lock.Entries, is)
	if at < 0 {
		at = slices.IndexFunc(lock.Entries, func(e record.LockEntry) bool { return e.Proof == record.ProofUpstream })
		if at < 0 {
			return fmt.Errorf("the lock has no file like %s to begin from", i.Path)
		}
		added := lock.Entries[at]
		added.Path = path.Join(path.Dir(path.Dir(added.Path)), i.Path)
		lock.Entries = append(lock.Entries, added)
		slices.SortFunc(lock.Entries, func(a, b record.LockEntry) int {
			return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Path, b.Path))
		})
		return nil
	}
	other := slices.IndexFunc(lock.Entries, func(e record.LockEntry) bool { return !is(e) })
	if other < 0 {
		return fmt.Errorf("the lock has no file beside %s", lock.Entries[at].Path)
	}
	lock.Entries[at].File = lock.Entries[other].File
	return nil
}
