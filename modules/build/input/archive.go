package input

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build/input/debian"
	"github.com/pyrsia/appliance/modules/record"
)

// Bounds of what a Debian archive says about itself. trixie's InRelease has
// 140 kB, the index of its main component 57 MB unpacked.
const (
	maxInRelease     = 4 << 20
	maxIndex         = 256 << 20
	maxIndexUnpacked = 1 << 30
	maxKeyring       = 16 << 20
)

func inReleasePath(d record.Debian) string { return "dists/" + d.Suite + "/InRelease" }

// keyringPrefix begins the file name of the package with Debian's own keys.
const keyringPrefix = "debian-archive-keyring_"

// archive is one state of a Debian suite, as its signed InRelease names it.
type archive struct {
	recipe       record.Debian
	architecture string
	release      *debian.Release
}

// indexes are the paths of the indexes that the recipe's components need, each
// with the digest that InRelease names, sorted.
func (a *archive) indexes() ([]string, error) {
	var paths []string
	for _, component := range a.recipe.Components {
		path := component + "/binary-" + a.architecture + "/Packages"
		for _, name := range []string{path, path + ".gz"} {
			if _, named := a.release.Files[name]; !named {
				return nil, poisoned(inReleasePath(a.recipe), "it names no %s", name)
			}
		}
		paths = append(paths, path+".gz")
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil
}

// path is an index's path below the archive's root.
func (a *archive) path(index string) string { return "dists/" + a.recipe.Suite + "/" + index }

// byHash is where an index of an older state may still lie.
func (a *archive) byHash(index string) string {
	folder := index[:strings.LastIndexByte(index, '/')]
	return a.path(folder) + "/by-hash/SHA256/" + a.release.Files[index].SHA256.String()
}

// want is what InRelease says of an index.
func (a *archive) want(index string) want {
	f := a.release.Files[index]
	return want{sha256: f.SHA256, size: f.Size}
}

// verify makes an archive of an InRelease file's bytes.
func (k *Keeper) verify(recipe *record.Recipe, inRelease artifact.SHA256, keyring *artifact.Descriptor) (*archive, error) {
	d := recipe.Debian[0]
	path := inReleasePath(d)
	architecture, err := debian.Architecture(recipe.Platform)
	if err != nil {
		return nil, err
	}
	text, err := k.read(inRelease, maxInRelease)
	if err != nil {
		return nil, unavailable(path, err)
	}
	release, err := debian.Verify(text, k.keyrings(keyring), d.Keys)
	switch {
	case errors.Is(err, debian.ErrNoKey):
		return nil, unavailable(path, fmt.Errorf("%w; install Debian's debian-archive-keyring, or name the right keys in the recipe", err))
	case err != nil:
		return nil, poisoned(path, "%v", err)
	case !release.Is(d.Suite):
		return nil, poisoned(path, "it is signed, but for suite %q (%s)", release.Codename, release.Suite)
	}
	return &archive{recipe: d, architecture: architecture, release: release}, nil
}

// keyrings are the node's keyring files and the one in the keyring package, if
// there is one. A file that cannot be read has no keys in it.
func (k *Keeper) keyrings(deb *artifact.Descriptor) [][]byte {
	var rings [][]byte
	for _, name := range k.config.Keyrings {
		if data, err := readFile(os.Open(name)); err == nil {
			rings = append(rings, data)
		}
	}
	if deb == nil {
		return rings
	}
	data, err := k.read(deb.SHA256, maxKeyring)
	if err != nil {
		return rings
	}
	packaged, err := debian.Keyrings(data)
	if err != nil {
		return rings
	}
	return append(rings, packaged...)
}

func readFile(f *os.File, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, maxKeyring)
}

func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return data, err
}

// read is a small file of the store.
func (k *Keeper) read(digest artifact.SHA256, limit int64) ([]byte, error) {
	f, err := k.config.Store.Open(digest)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, limit)
}

// closure are the .debs that the recipe needs of the archive, sorted by path.
// Every node computes them from the same signed indexes by the same rule, so
// that the asker has nothing to choose.
func (k *Keeper) closure(a *archive, indexes []record.LockEntry) ([]*debian.Package, []string, error) {
	x := debian.NewIndex(a.architecture)
	for _, e := range indexes {
		if err := k.addIndex(x, a, e); err != nil {
			return nil, nil, err
		}
	}
	base, err := x.Base(a.recipe.Variant)
	if err != nil {
		return nil, nil, err
	}
	root, err := x.Close(append(base, a.recipe.Packages...))
	if err != nil {
		return nil, nil, err
	}
	// What runs the bootstrap needs a shell and tools as well: the essential
	// packages, which nothing declares to depend on (Debian Policy 3.8).
	essential, err := x.Base("essential")
	if err != nil {
		return nil, nil, err
	}
	tools, err := x.Close(append(essential, a.recipe.BaseOf...))
	if err != nil {
		return nil, nil, err
	}
	all := append(root.Packages, tools.Packages...)
	slices.SortFunc(all, func(a, b *debian.Package) int { return strings.Compare(a.File, b.File) })
	return slices.Compact(all), root.Notes, nil
}

func (k *Keeper) addIndex(x *debian.Index, a *archive, e record.LockEntry) error {
	f, err := k.config.Store.Open(e.File.SHA256)
	if err != nil {
		return unavailable(e.Path, err)
	}
	defer f.Close()
	plain := strings.TrimPrefix(strings.TrimSuffix(e.Path, ".gz"), a.path(""))
	size := a.release.Files[plain].Size
	if size > maxIndexUnpacked {
		return poisoned(e.Path, "InRelease says that it unpacks to %d bytes; at most %d are allowed", size, int64(maxIndexUnpacked))
	}
	if err := x.AddGzip(f, size); err != nil {
		return poisoned(e.Path, "%v", err)
	}
	return nil
}

// place is an address of a file. Under one that moves, other files appear as
// the upstream goes on, which says nothing about it.
type place struct {
	url   *url.URL
	moves bool
}

// fetchProven gets a file whose digest is proven before it is fetched: from the
// store, from this node's own upstream, at the first of the places that has it,
// or from peers where the upstream has moved on. Other bytes where nothing
// moves mean an upstream that cannot be trusted.
func (k *Keeper) fetchProven(ctx context.Context, e record.LockEntry, places []place, count func(int64)) error {
	if d, found := k.config.Store.Stat(e.File.SHA256); found {
		count(d.Size)
		return sameFile(e, d)
	}
	failed := errors.New("no upstream has it")
	for _, p := range places {
		d, err := k.fetch.get(ctx, p.url, wantFile(e.File), count)
		if err == nil {
			return sameFile(e, d)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.As(err, new(mismatch)) && !p.moves {
			return poisoned(e.Path, "it is proven to have sha256 %s, %v", e.File.SHA256, err)
		}
		failed = err
	}
	if err := k.fromPeer(ctx, e, count); err != nil {
		return unavailable(e.Path, fmt.Errorf("%w; %w", failed, err))
	}
	return nil
}

func (k *Keeper) fromPeer(ctx context.Context, e record.LockEntry, count func(int64)) error {
	if err := k.config.Peer.Fetch(ctx, e.File); err != nil {
		return fmt.Errorf("peers: %w", err)
	}
	d, found := k.config.Store.Stat(e.File.SHA256)
	if !found {
		return errors.New("peers: the file is not in the store")
	}
	count(d.Size)
	return sameFile(e, d)
}

// sameFile compares with both digests: equal SHA-256 and another BLAKE3 means
// that the lock's pair of digests is made up.
func sameFile(e record.LockEntry, d artifact.Descriptor) error {
	switch {
	case d.SHA256 != e.File.SHA256:
		return poisoned(e.Path, "the lock says sha256 %s, this node's upstream has sha256 %s", e.File.SHA256, d.SHA256)
	case d.BLAKE3 != e.File.BLAKE3:
		return poisoned(e.Path, "the lock says blake3 %s, the file has blake3 %s", e.File.BLAKE3, d.BLAKE3)
	case d.Size != e.File.Size:
		return poisoned(e.Path, "the lock says %d bytes, the file has %d", e.File.Size, d.Size)
	}
	return nil
}
