package input

import (
	"context"
	"errors"

	"github.com/pyrsia/appliance/modules/artifact"
)

// ErrAbsent is returned by Reference where this node's upstream has no such file.
var ErrAbsent = errors.New("the upstream has no such file")

// Reference gets the file that this node's own "maven" upstream has under a name, to
// compare a build with it. Nothing is proven by it.
func (k *Keeper) Reference(ctx context.Context, name artifact.Name) (artifact.Descriptor, error) {
	base, ok := k.upstream("maven")
	if !ok || name.Package.Type() != "maven" {
		return artifact.Descriptor{}, ErrAbsent
	}
	d, err := k.lend.get(ctx, join(base, artifact.MavenPath(name)), want{limit: maxFile}, func(int64) {})
	if errors.Is(err, errNotFound) {
		err = ErrAbsent
	}
	return d, err
}
