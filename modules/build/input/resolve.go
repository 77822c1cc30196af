package input

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/build/input/debian"
	"github.com/pyrsia/appliance/modules/record"
)

// Resolve finds every input of a recipe's build and writes them down: the
// sources, the Debian packages, the builder image's parts, and, for a recipe
// that resolves "maven", what the real build asks this node's recording mirror
// for. All of them are in the store afterwards.
//
// job says where the engine runs that build: ID, Folder and Log; the rest is
// filled in. Two calls give equal locks as long as upstreams and chain do not
// change.
func (k *Keeper) Resolve(ctx context.Context, recipe *record.Recipe, engine build.Engine, job build.Job, report Report) (*record.Lock, error) {
	r := &resolving{Keeper: k, recipe: recipe, counter: newCounter(report), log: job.Log}
	r.lock = &record.Lock{Builder: []artifact.Descriptor{}, Entries: []record.LockEntry{}, Recipe: recipe.Hash()}
	err := r.run(ctx, engine, job)
	if err := errors.Join(err, k.proven.sync()); err != nil {
		return nil, err
	}
	r.lock.Sort()
	return r.lock, CheckLock(recipe, r.lock)
}

// resolving is one call of Resolve.
type resolving struct {
	*Keeper
	recipe  *record.Recipe
	counter *counter
	log     interface{ Write([]byte) (int, error) }

	mu   sync.Mutex // over lock.Entries while files are fetched in parallel
	lock *record.Lock
}

func (r *resolving) say(format string, args ...any) {
	fmt.Fprintf(r.log, format+"\n", args...)
}

func (r *resolving) add(entries ...record.LockEntry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lock.Entries = append(r.lock.Entries, entries...)
}

func (r *resolving) run(ctx context.Context, engine build.Engine, job build.Job) error {
	if err := r.sources(ctx); err != nil {
		return err
	}
	if err := r.image(ctx); err != nil {
		return err
	}
	if err := r.debian(ctx); err != nil {
		return err
	}
	switch r.recipe.Resolve {
	case "":
		return nil
	case "maven":
		return r.maven(ctx, engine, job)
	default:
		return fmt.Errorf("recipe %s: nothing resolves %q", r.recipe.Package, r.recipe.Resolve)
	}
}

// sources are fetched by the digest that the recipe names; the first fetch
// finds their size and other digest.
func (r *resolving) sources(ctx context.Context) error {
	named, err := sources(r.recipe)
	if err != nil {
		return fmt.Errorf("recipe %s: %w", r.recipe.Package, err)
	}
	r.counter.expect(len(named), 0)
	for path, s := range named {
		e := record.LockEntry{Kind: kindSource, Path: path, Proof: record.ProofSource}
		if e.File, err = r.source(ctx, path, s); err != nil {
			return err
		}
		r.add(e)
		r.counter.file()
	}
	return nil
}

func (r *resolving) source(ctx context.Context, path string, s record.Source) (artifact.Descriptor, error) {
	if s.Git != "" {
		return r.commit(ctx, path, s, r.counter.arrived)
	}
	if d, found := r.config.Store.Stat(s.SHA256); found {
		return d, nil
	}
	places, err := r.sourcePlaces(s, path)
	if err != nil {
		return artifact.Descriptor{}, unavailable(path, err)
	}
	if len(places) == 0 {
		return artifact.Descriptor{}, unavailable(path, errors.New("no upstream for \"maven\" is configured"))
	}
	d, err := r.fetch.get(ctx, places[0].url, want{sha256: s.SHA256, size: -1, limit: maxFile}, r.counter.arrived)
	if errors.As(err, new(mismatch)) {
		return artifact.Descriptor{}, poisoned(path, "the recipe says sha256 %s, %v", s.SHA256, err)
	}
	if err != nil {
		return artifact.Descriptor{}, unavailable(path, err)
	}
	return d, nil
}

func (r *resolving) image(ctx context.Context) error {
	if r.recipe.Builder == "" {
		return nil
	}
	live, found := r.config.Chain.Live(r.recipe.Builder)
	if !found {
		return unavailable("builder image "+string(r.recipe.Builder), errors.New("the chain has no such image: publish it first"))
	}
	parts, err := r.imageParts(ctx, r.recipe.Builder, live, r.counter.arrived)
	if err != nil {
		return err
	}
	r.counter.expect(len(parts), 0)
	for _, e := range parts {
		if err := r.fetchProven(ctx, e, nil, r.counter.arrived); err != nil {
			return err
		}
		r.counter.file()
	}
	r.lock.Builder = []artifact.Descriptor{live}
	r.add(parts...)
	return nil
}

// debian takes the suite as this node's upstream has it now.
func (r *resolving) debian(ctx context.Context) error {
	if len(r.recipe.Debian) == 0 {
		return nil
	}
	base, ok := r.upstream("debian")
	if !ok {
		return errors.New("no upstream for \"debian\" is configured: set it, then resolve again")
	}
	path := inReleasePath(r.recipe.Debian[0])
	file, err := r.fetch.get(ctx, join(base, path), want{limit: maxInRelease}, r.counter.arrived)
	if err != nil {
		return unavailable(path, err)
	}
	r.add(record.LockEntry{Kind: kindDebian, Path: path, Proof: record.ProofInRelease, File: file})
	a, err := r.trust(ctx, path, file)
	if err != nil {
		return err
	}
	indexes, err := r.archiveIndexes(ctx, a)
	if err != nil {
		return err
	}
	packages, notes, err := r.closure(a, indexes)
	if err != nil {
		return fmt.Errorf("recipe %s: %w", r.recipe.Package, err)
	}
	for _, note := range notes {
		r.say("note: %s", note)
	}
	return r.packages(ctx, packages)
}

// trust verifies InRelease. Where the node has none of the recipe's keys, the
// keyring package that InRelease itself leads to may have: the fingerprint
// decides, wherever a key comes from.
func (r *resolving) trust(ctx context.Context, path string, file artifact.Descriptor) (*archive, error) {
	a, err := r.verify(r.recipe, file.SHA256, nil)
	if err == nil || errors.Is(err, ErrPoisoned) {
		return a, err
	}
	keyring, found := r.keyringFromUpstream(ctx, file)
	if !found {
		return nil, err
	}
	return r.verify(r.recipe, file.SHA256, &keyring)
}

func (r *resolving) keyringFromUpstream(ctx context.Context, inRelease artifact.Descriptor) (artifact.Descriptor, bool) {
	none := artifact.Descriptor{}
	text, err := r.read(inRelease.SHA256, maxInRelease)
	if err != nil {
		return none, false
	}
	release, err := debian.Unverified(text)
	if err != nil {
		return none, false
	}
	architecture, err := debian.Architecture(r.recipe.Platform)
	if err != nil {
		return none, false
	}
	a := &archive{recipe: r.recipe.Debian[0], architecture: architecture, release: release}
	indexes, err := r.archiveIndexes(ctx, a)
	if err != nil {
		return none, false
	}
	r.forget(indexes)
	x := debian.NewIndex(architecture)
	for _, e := range indexes {
		if r.addIndex(x, a, e) != nil {
			return none, false
		}
	}
	p, found := x.Package(strings.TrimSuffix(keyringPrefix, "_"))
	if !found {
		return none, false
	}
	r.counter.expect(1, p.Size)
	d, err := r.deb(ctx, p)
	return d, err == nil
}

func (r *resolving) forget(entries []record.LockEntry) {
	r.lock.Entries = slices.DeleteFunc(r.lock.Entries, func(e record.LockEntry) bool { return slices.Contains(entries, e) })
}

func (r *resolving) archiveIndexes(ctx context.Context, a *archive) ([]record.LockEntry, error) {
	names, err := a.indexes()
	if err != nil {
		return nil, err
	}
	var entries []record.LockEntry
	for _, name := range names {
		e := record.LockEntry{Kind: kindDebian, Path: a.path(name), Proof: record.ProofIndex}
		if e.File, err = r.archiveIndex(ctx, a, name); err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	r.add(entries...)
	return entries, nil
}

func (r *resolving) archiveIndex(ctx context.Context, a *archive, name string) (artifact.Descriptor, error) {
	w := a.want(name)
	if w.size > maxIndex {
		return artifact.Descriptor{}, poisoned(a.path(name), "InRelease says it has %d bytes; at most %d are allowed", w.size, maxIndex)
	}
	r.counter.expect(1, w.size)
	places := r.places("debian", place{}, a.path(name))
	if a.release.ByHash {
		places = append(r.places("debian", place{}, a.byHash(name)), places...)
	}
	return r.known(ctx, a.path(name), w, places)
}

// known gets a file of which SHA-256 and size are known and BLAKE3 is not, and
// which is expected already.
func (r *resolving) known(ctx context.Context, path string, w want, places []place) (artifact.Descriptor, error) {
	if d, found := r.config.Store.Stat(w.sha256); found && d.Size == w.size {
		r.counter.bytes(d.Size)
		r.counter.file()
		return d, nil
	}
	failed := errors.New("no upstream for \"debian\" is configured")
	for _, p := range places {
		d, err := r.fetch.get(ctx, p.url, w, r.counter.bytes)
		if err == nil {
			r.counter.file()
			return d, nil
		}
		if ctx.Err() != nil {
			return artifact.Descriptor{}, context.Cause(ctx)
		}
		failed = err
	}
	if errors.As(failed, new(mismatch)) {
		return artifact.Descriptor{}, poisoned(path, "it is proven to have sha256 %s, %v", w.sha256, failed)
	}
	return artifact.Descriptor{}, unavailable(path, failed)
}

func (r *resolving) deb(ctx context.Context, p *debian.Package) (artifact.Descriptor, error) {
	return r.known(ctx, p.File, want{sha256: p.SHA256, size: p.Size}, r.places("debian", place{}, p.File))
}

func (r *resolving) packages(ctx context.Context, packages []*debian.Package) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	size := int64(0)
	for _, p := range packages {
		size += p.Size
	}
	r.counter.expect(len(packages), size)
	failures := make([]error, len(packages))
	slots := make(chan struct{}, parallel)
	var running sync.WaitGroup
	for i, p := range packages {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			file, err := r.deb(ctx, p)
			if failures[i] = err; err != nil {
				cancel()
				return
			}
			r.add(record.LockEntry{Kind: kindDebian, Path: p.File, Proof: record.ProofDebian, File: file})
		})
	}
	running.Wait()
	return worst(failures)
}

// maven runs the build once, able to reach nothing but the recording mirror.
func (r *resolving) maven(ctx context.Context, engine build.Engine, job build.Job) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	mirror, err := r.mirror(ctx, r.counter)
	if err != nil {
		return err
	}
	r.lock.Sort()
	job.Recipe, job.Lock, job.Open = r.recipe, r.lock, r.config.Store.Open
	if len(r.lock.Builder) > 0 {
		job.Builder = r.lock.Builder[0].SHA256
	}
	err = engine.Resolve(ctx, job, mirror)
	for _, line := range mirror.Trouble() {
		r.say("not served: %s", line)
	}
	if err != nil {
		return r.explain(mirror, err)
	}
	entries := mirror.Entries()
	r.say("resolved: the build asked for %d files", len(entries))
	for _, e := range entries {
		if e.Proof != record.ProofUpstream {
			continue
		}
		if err := r.proven.add(e); err != nil {
			return err
		}
	}
	r.add(entries...)
	return nil
}

// explain finds why a resolve failed in what the mirror did not serve.
func (r *resolving) explain(mirror *Mirror, err error) error {
	if failed := mirror.failure(); failed != nil {
		return fmt.Errorf("resolve %s: %w (%w)", r.recipe.Package, failed, err)
	}
	for _, line := range mirror.Trouble() {
		path, _, _ := strings.Cut(line, ": ")
		if class := classify(path); class == metadataFile || class == snapshotFile {
			return fmt.Errorf("resolve %s: %s (%w)", r.recipe.Package, line, err)
		}
	}
	return fmt.Errorf("resolve %s: %w", r.recipe.Package, err)
}
