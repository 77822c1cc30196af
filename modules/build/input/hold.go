package input

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// Hold gets every file of a lock, each by its own proof, and leaves them in the
// store. It is what a member does before it signs that it holds the lock, so it
// succeeds only if all of that is true:
//
//   - upstream: this node's own upstream gave it the same bytes, now or in an
//     earlier call;
//   - source: the recipe names the digest;
//   - debian: a key that the recipe names signed InRelease, which names the
//     index, which names the package; and the packages are exactly those that
//     the recipe needs;
//   - chain: the log vouches for it, and the builder image is the one live now.
//
// Files that are proven and at hand are not fetched again. An error names the
// file; one that wraps ErrPoisoned is final, any other may pass.
func (k *Keeper) Hold(ctx context.Context, recipe *record.Recipe, lock *record.Lock, report Report) error {
	if err := CheckLock(recipe, lock); err != nil {
		return err
	}
	h := &holding{Keeper: k, recipe: recipe, lock: lock, counter: newCounter(report)}
	h.expect()
	err := h.run(ctx)
	// What was proven stays proven, whatever became of the rest.
	return errors.Join(err, k.proven.sync())
}

// holding is one call of Hold.
type holding struct {
	*Keeper
	recipe  *record.Recipe
	lock    *record.Lock
	counter *counter
}

func (h *holding) expect() {
	size := int64(0)
	for _, e := range h.lock.Entries {
		size += e.File.Size
	}
	for _, b := range h.lock.Builder {
		size += b.Size
	}
	h.counter.expect(len(h.lock.Entries)+len(h.lock.Builder), size)
}

func (h *holding) run(ctx context.Context) error {
	if err := h.image(ctx); err != nil {
		return err
	}
	a, err := h.archive(ctx)
	if err != nil {
		return err
	}
	err = h.each(ctx, func(e record.LockEntry) bool { return !isFoundation(e.Proof) }, func(ctx context.Context, e record.LockEntry) error {
		return h.one(ctx, a, e)
	})
	if err != nil {
		return err
	}
	return h.complete()
}

// complete wants all files at hand at once: where the store has little room, those that
// came last may have taken it from the first.
func (h *holding) complete() error {
	for _, e := range h.lock.Entries {
		if _, found := h.config.Store.Stat(e.File.SHA256); !found {
			return unavailable(e.Path, errors.New("it had to go for others: this node's store has too little room for the lock's files"))
		}
	}
	return nil
}

// isFoundation tells whether other entries' proofs rest on the entry, so that it
// is got first.
func isFoundation(p record.ProofKind) bool {
	return p == record.ProofInRelease || p == record.ProofIndex
}

// each runs get for the chosen entries, some at a time. The first poisoned file
// ends it; a file that cannot be got does not, so that the next attempt finds
// the rest done. Of several errors the first in the lock's order is returned.
func (h *holding) each(ctx context.Context, chosen func(record.LockEntry) bool, get func(context.Context, record.LockEntry) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failures := make([]error, len(h.lock.Entries))
	slots := make(chan struct{}, parallel)
	var running sync.WaitGroup
	for i, e := range h.lock.Entries {
		if !chosen(e) {
			continue
		}
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			if ctx.Err() != nil {
				failures[i] = context.Cause(ctx)
				return
			}
			if failures[i] = get(ctx, e); failures[i] == nil {
				h.counter.file()
			} else if !errors.Is(failures[i], ErrUnavailable) {
				cancel()
			}
		})
	}
	running.Wait()
	return worst(failures)
}

// worst is the first poisoned file, else the first that could not be got, else
// whatever else went wrong, a cancelled context last.
func worst(failures []error) error {
	var poisonous, missing, other, ended error
	missed := 0
	for _, err := range slices.Backward(failures) {
		switch {
		case err == nil:
		case errors.Is(err, ErrPoisoned):
			poisonous = err
		case errors.Is(err, ErrUnavailable):
			missing = err
			missed++
		case errors.Is(err, context.Canceled):
			ended = err
		default:
			other = err
		}
	}
	if missed > 1 {
		missing = fmt.Errorf("%w (and %d more files)", missing, missed-1)
	}
	return cmp.Or(poisonous, missing, other, ended)
}

func (h *holding) one(ctx context.Context, a *archive, e record.LockEntry) error {
	switch e.Proof {
	case record.ProofUpstream:
		return h.upstream(ctx, e)
	case record.ProofSource:
		return h.source(ctx, e)
	case record.ProofDebian:
		return h.fetchProven(ctx, e, h.places("debian", place{}, e.Path), h.counter.bytes)
	case record.ProofChain:
		return h.vouched(ctx, e)
	default:
		return poisoned(e.Path, "nothing proves a file by %q", e.Proof)
	}
}

// upstream wants the bytes from this node's own upstream, or to have had them
// from there: that the store has them proves nothing, a peer may have put them.
func (h *holding) upstream(ctx context.Context, e record.LockEntry) error {
	if d, found := h.config.Store.Stat(e.File.SHA256); found && d == e.File && h.proven.has(e) {
		h.counter.bytes(d.Size)
		return nil
	}
	base, ok := h.Keeper.upstream(e.Kind)
	if !ok {
		return unavailable(e.Path, fmt.Errorf("no upstream for %q is configured", e.Kind))
	}
	d, err := h.fetch.get(ctx, join(base, e.Path), wantFile(e.File), h.counter.bytes)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, new(mismatch)):
		return poisoned(e.Path, "the lock says sha256 %s, %d bytes, %v", e.File.SHA256, e.File.Size, err)
	default:
		return unavailable(e.Path, err)
	}
	if err := sameFile(e, d); err != nil {
		return err
	}
	return h.proven.add(e)
}

func (h *holding) source(ctx context.Context, e record.LockEntry) error {
	named, err := sources(h.recipe)
	if err != nil {
		return err
	}
	if s := named[e.Path]; s.Git != "" {
		return h.holdCommit(ctx, e, s, h.counter.bytes)
	}
	places, err := h.sourcePlaces(named[e.Path], e.Path)
	if err != nil {
		return unavailable(e.Path, err)
	}
	return h.fetchProven(ctx, e, places, h.counter.bytes)
}

func (k *Keeper) sourcePlaces(s record.Source, path string) ([]place, error) {
	if s.Maven != "" {
		return k.places("maven", place{}, path), nil
	}
	u, err := url.Parse(s.URL)
	return []place{{url: u}}, err
}

// places are the addresses of paths below an upstream; none where the upstream
// is not configured.
func (k *Keeper) places(upstream string, like place, paths ...string) []place {
	base, ok := k.upstream(upstream)
	if !ok {
		return nil
	}
	var found []place
	for _, path := range paths {
		found = append(found, place{url: join(base, path), moves: like.moves})
	}
	return found
}

// archive proves the lock's InRelease and indexes and that its packages are
// those which the recipe needs. It is nil for a recipe without Debian packages.
func (h *holding) archive(ctx context.Context) (*archive, error) {
	if len(h.recipe.Debian) == 0 {
		return nil, nil
	}
	entries := entriesOf(h.lock, kindDebian)
	a, err := h.inRelease(ctx, entries)
	if err != nil {
		return nil, err
	}
	indexes, err := h.indexes(ctx, a, entries)
	if err != nil {
		return nil, err
	}
	return a, h.packages(a, indexes, entries)
}

func (h *holding) inRelease(ctx context.Context, entries []record.LockEntry) (*archive, error) {
	path := inReleasePath(h.recipe.Debian[0])
	var found *record.LockEntry
	for i, e := range entries {
		if e.Proof != record.ProofInRelease {
			continue
		}
		if e.Path != path || e.File.Size > maxInRelease {
			return nil, poisoned(e.Path, "the recipe's suite has its signature in %s, of at most %d bytes", path, maxInRelease)
		}
		found = &entries[i]
	}
	if found == nil {
		return nil, poisoned(path, "it is missing from the lock")
	}
	if err := h.fetchProven(ctx, *found, h.places("debian", place{moves: true}, path), h.counter.bytes); err != nil {
		return nil, err
	}
	h.counter.file()
	keyring, err := h.keyringPackage(ctx, entries)
	if err != nil {
		return nil, err
	}
	return h.verify(h.recipe, found.File.SHA256, keyring)
}

// keyringPackage is Debian's keyring package, if the lock has it. It is got
// before anything is proven about it: only keys with the recipe's fingerprints
// are taken from it. A second one would hide it, and no suite has two.
func (h *holding) keyringPackage(ctx context.Context, entries []record.LockEntry) (*artifact.Descriptor, error) {
	var found *record.LockEntry
	for i, e := range entries {
		if !strings.Contains(e.Path, "/"+keyringPrefix) || e.File.Size > maxKeyring {
			continue
		}
		if found != nil {
			return nil, poisoned(e.Path, "the lock has a second keyring package, %s", found.Path)
		}
		found = &entries[i]
	}
	if found == nil {
		return nil, nil
	}
	// one counts it again when it comes to it
	err := h.fetchProven(ctx, *found, h.places("debian", place{}, found.Path), func(int64) {})
	return &found.File, err
}

func (h *holding) indexes(ctx context.Context, a *archive, entries []record.LockEntry) ([]record.LockEntry, error) {
	names, err := a.indexes()
	if err != nil {
		return nil, err
	}
	missing := map[string]string{}
	for _, name := range names {
		missing[a.path(name)] = name
	}
	var found []record.LockEntry
	for _, e := range entries {
		if e.Proof != record.ProofIndex {
			continue
		}
		name, needed := missing[e.Path]
		if !needed {
			return nil, poisoned(e.Path, "the recipe needs no such index")
		}
		if f := a.release.Files[name]; f.SHA256 != e.File.SHA256 || f.Size > maxIndex {
			return nil, poisoned(e.Path, "the lock says sha256 %s, the signed InRelease says %s, %d bytes", e.File.SHA256, f.SHA256, f.Size)
		}
		if err := h.index(ctx, a, name, e, h.counter.bytes); err != nil {
			return nil, err
		}
		h.counter.file()
		found = append(found, e)
		delete(missing, e.Path)
	}
	for path := range missing {
		return nil, poisoned(path, "it is missing from the lock")
	}
	return found, nil
}

func (k *Keeper) index(ctx context.Context, a *archive, name string, e record.LockEntry, count func(int64)) error {
	places := k.places("debian", place{moves: true}, e.Path)
	if a.release.ByHash {
		places = append(k.places("debian", place{}, a.byHash(name)), places...)
	}
	return k.fetchProven(ctx, e, places, count)
}

// packages wants exactly the packages that the recipe needs, with the digests
// of the indexes.
func (h *holding) packages(a *archive, indexes, entries []record.LockEntry) error {
	needed, _, err := h.closure(a, indexes)
	if err != nil {
		return fmt.Errorf("lock: %w: no vote (%w)", err, ErrPoisoned)
	}
	missing := map[string]artifact.SHA256{}
	for _, p := range needed {
		missing[p.File] = p.SHA256
	}
	for _, e := range entries {
		if e.Proof != record.ProofDebian {
			continue
		}
		digest, found := missing[e.Path]
		switch {
		case !found:
			return poisoned(e.Path, "the recipe needs no such package, or the signed index has none")
		case digest != e.File.SHA256:
			return poisoned(e.Path, "the lock says sha256 %s, the signed index says %s", e.File.SHA256, digest)
		}
		delete(missing, e.Path)
	}
	for path := range missing {
		return poisoned(path, "the recipe needs the package, it is missing from the lock")
	}
	return nil
}

// image proves that the lock's builder is the image that its name stands for
// now, gets its manifest and checks that the lock lists its parts.
func (h *holding) image(ctx context.Context) error {
	if h.recipe.Builder == "" {
		return nil
	}
	name := "builder image " + string(h.recipe.Builder)
	live, found := h.config.Chain.Live(h.recipe.Builder)
	switch {
	case !found:
		return unavailable(name, errors.New("the chain has no such image: publish it first"))
	case live != h.lock.Builder[0]:
		return poisoned(name, "the lock says manifest sha256 %s, on the chain %s is live", h.lock.Builder[0].SHA256, live.SHA256)
	}
	parts, err := h.imageParts(ctx, h.recipe.Builder, live, h.counter.bytes)
	if err != nil {
		return err
	}
	h.counter.file()
	locked := entriesOf(h.lock, kindImage)
	if !slices.Equal(parts, locked) {
		return poisoned(name, "the lock does not list exactly the configuration and layers of its manifest")
	}
	return nil
}

// maxManifest bounds an image manifest (OCI distribution specification,
// "Pushing Manifests").
const maxManifest = 4 << 20

// imageParts are the lock entries of an image's configuration and layers,
// sorted; the manifest is in the store afterwards.
func (k *Keeper) imageParts(ctx context.Context, image artifact.PURL, manifest artifact.Descriptor, count func(int64)) ([]record.LockEntry, error) {
	name := "builder image " + string(image)
	entry := record.LockEntry{Kind: kindImage, Path: name, Proof: record.ProofChain, File: manifest}
	if manifest.Size > maxManifest {
		return nil, poisoned(name, "its manifest has %d bytes", manifest.Size)
	}
	if err := k.fetchProven(ctx, entry, nil, count); err != nil {
		return nil, err
	}
	data, err := k.read(manifest.SHA256, maxManifest)
	if err != nil {
		return nil, unavailable(name, err)
	}
	var parsed struct {
		Config struct {
			Digest string `json:"digest"`
		} `json:"config"`
		Layers []struct {
			Digest string `json:"digest"`
		} `json:"layers"`
	}
	if err := json.Unmarshal(data, &parsed); err != nil {
		return nil, poisoned(name, "its manifest is no JSON: %v", err)
	}
	digests := []string{parsed.Config.Digest}
	for _, layer := range parsed.Layers {
		digests = append(digests, layer.Digest)
	}
	slices.Sort(digests)
	var parts []record.LockEntry
	for _, digest := range slices.Compact(digests) {
		file, found := k.config.Chain.Vouched(artifact.Name{Package: artifact.DockerPURL(image.Repository(), manifest.SHA256.OCI()), File: digest})
		if !found {
			return nil, poisoned(name, "the chain does not vouch for its part %q", digest)
		}
		parts = append(parts, record.LockEntry{Kind: kindImage, Path: digest, Proof: record.ProofChain, File: file})
	}
	return parts, nil
}

// vouched gets a file that the chain vouches for. The builder image's parts
// were compared with the chain before.
func (h *holding) vouched(ctx context.Context, e record.LockEntry) error {
	if e.Kind == kindImage {
		return h.fetchProven(ctx, e, nil, h.counter.bytes)
	}
	name, err := artifact.MavenFolderName(e.Path)
	if err != nil {
		return poisoned(e.Path, "%v", err)
	}
	file, found := h.config.Chain.Vouched(name)
	switch {
	case !found:
		return poisoned(e.Path, "the lock says that the chain vouches for it, it does not")
	case file != e.File:
		return poisoned(e.Path, "the lock says sha256 %s, the chain says %s", e.File.SHA256, file.SHA256)
	}
	return h.fetchProven(ctx, e, nil, h.counter.bytes)
}
