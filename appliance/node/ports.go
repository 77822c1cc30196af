package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/build/input"
	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/distribution"
	"github.com/pyrsia/appliance/modules/distribution/libp2p"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/mirror"
	"github.com/pyrsia/appliance/modules/publish"
	"github.com/pyrsia/appliance/modules/quorum"
	"github.com/pyrsia/appliance/modules/quorum/attest"
	"github.com/pyrsia/appliance/modules/quorum/memberlist"
	"github.com/pyrsia/appliance/modules/record"
	"github.com/pyrsia/appliance/modules/registry/tlog"
	"github.com/pyrsia/appliance/modules/store"
	"github.com/pyrsia/appliance/modules/store/disk"
)

// Each type here is one module seen through the port of another. They hold no
// state and decide nothing.

// vouching is the chain as the mirror's log.
type vouching struct{ chain *chain.Chain }

func (v vouching) vouched(p *ledger.Publication, err error) (mirror.Vouched, error) {
	if errors.Is(err, ledger.ErrNotFound) {
		return mirror.Vouched{}, mirror.ErrNotPublished
	}
	if err != nil {
		return mirror.Vouched{}, err
	}
	return mirror.Vouched{
		Name: p.Subject.FileName(), Descriptor: p.Subject.Descriptor(), MediaType: p.Subject.MediaType,
		Block: p.Height, Leaf: p.Leaf, Votes: p.Votes, Nodes: v.chain.Set().Size(),
	}, nil
}

func (v vouching) Resolve(name artifact.Name) (mirror.Vouched, error) {
	return v.vouched(v.chain.Resolve(name))
}

func (v vouching) ResolveDigest(digest artifact.SHA256) (mirror.Vouched, error) {
	return v.vouched(v.chain.ResolveDigest(digest))
}

func (v vouching) Tag(repository, tag string) (mirror.Vouched, error) {
	return v.vouched(v.chain.ResolveTag(repository, tag))
}

// index is the chain as the mirror's index.
type index struct{ chain *chain.Chain }

func (i index) Tags(repository string) ([]string, error) { return i.chain.Tags(repository) }

func (i index) Versions(group, name string) ([]string, error) {
	prefix := string(artifact.NewPURL("maven", group, name, "", nil)) + "@"
	entries, err := i.chain.Files(prefix)
	found := map[string]bool{}
	for _, e := range entries {
		found[e.Subject.URI.Version()] = true
	}
	versions := make([]string, 0, len(found))
	for version := range found {
		versions = append(versions, version)
	}
	sort.Strings(versions)
	return versions, err
}

// proofs is the chain as the log's proofs.
type proofs struct{ chain *chain.Chain }

func (p proofs) Bundle(digest artifact.SHA256) ([]byte, error) {
	publication, err := p.chain.ResolveDigest(digest)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, tlog.ErrUnknown
	}
	if err != nil {
		return nil, err
	}
	return p.chain.Prove(publication)
}

// streams is the host as the mirror's peers.
type streams struct{ host *libp2p.Host }

func (s streams) Open(ctx context.Context, d artifact.Descriptor) (io.ReadSeekCloser, error) {
	reader, err := s.host.Open(ctx, d)
	if errors.Is(err, distribution.ErrNoSource) || errors.Is(err, distribution.ErrNotServing) {
		return nil, errors.Join(mirror.ErrNoSource, err)
	}
	if err != nil {
		return nil, err
	}
	return stream{reader}, nil
}

// stream says in the mirror's words that no source is left.
type stream struct{ io.ReadSeekCloser }

func (s stream) Read(p []byte) (int, error) {
	n, err := s.ReadSeekCloser.Read(p)
	if errors.Is(err, distribution.ErrNoSource) {
		err = errors.Join(mirror.ErrNoSource, err)
	}
	return n, err
}

// peerStore is the store as distribution's.
type peerStore struct{ *disk.Store }

func (s peerStore) Begin(d artifact.Descriptor) (distribution.Download, error) {
	download, err := s.Store.Begin(d)
	if err != nil {
		return nil, err
	}
	return download, nil
}

func (s peerStore) Through(d artifact.Descriptor) distribution.Download { return store.NewThrough(d) }

// blobs is the host as what fetches into the store.
type blobs struct {
	host  *libp2p.Host
	store *disk.Store
}

func (b blobs) Fetch(ctx context.Context, d artifact.Descriptor) error {
	if have, err := b.store.Stat(d.SHA256); err == nil && have == d {
		return nil
	}
	return b.host.Fetch(ctx, d)
}

// pinning is the store as a member's: the outputs that it puts there, and the inputs of
// what it builds, it must keep, since a later rebuild must not depend on an upstream.
type pinning struct{ *disk.Store }

// Keep implements publish.Store. What has gone since it was fetched is no input.
func (p pinning) Keep(digest artifact.SHA256) (fresh bool, err error) {
	fresh = !p.Store.Pinned(digest)
	if err := p.Store.Pin(digest); err != nil {
		return fresh, err
	}
	if !p.Store.Has(digest) {
		return fresh, fmt.Errorf("%s had to go for other files; distribution.quota leaves too little room", digest)
	}
	return fresh, nil
}

// Drop implements publish.Store.
func (p pinning) Drop(digest artifact.SHA256) error { return p.Store.Remove(digest) }

func (p pinning) Put(ctx context.Context, r io.Reader) (artifact.Descriptor, error) {
	d, err := p.Store.Put(ctx, r)
	if err != nil {
		return d, err
	}
	return d, p.Store.Pin(d.SHA256)
}

// Lend implements publish.Store.
func (p pinning) Lend(ctx context.Context, r io.Reader) (artifact.Descriptor, error) {
	return p.Store.Put(ctx, r)
}

// Release implements publish.Store.
func (p pinning) Release(digest artifact.SHA256) error { return p.Store.Unpin(digest) }

// lentStore is the store for inputs before they are an attempt's, which whoever asks
// chooses, and for what is only tried or compared with.
type lentStore struct{ *disk.Store }

func (s lentStore) Stat(digest artifact.SHA256) (artifact.Descriptor, bool) {
	d, err := s.Store.Stat(digest)
	if err != nil {
		return d, false
	}
	// A read, so that what is asked for now does not go first for what comes next.
	if file, err := s.Store.Open(digest); err == nil {
		file.Close() //nolint:errcheck // nothing was read
	}
	return d, true
}

// inputChain is the chain as what vouches for locked inputs.
type inputChain struct{ chain *chain.Chain }

func (c inputChain) Live(image artifact.PURL) (artifact.Descriptor, bool) {
	p, err := c.chain.ResolveTag(image.Repository(), image.Version())
	if err != nil {
		return artifact.Descriptor{}, false
	}
	return p.Subject.Descriptor(), true
}

func (c inputChain) Vouched(name artifact.Name) (artifact.Descriptor, bool) {
	p, err := c.chain.Resolve(name)
	if err != nil {
		return artifact.Descriptor{}, false
	}
	return p.Subject.Descriptor(), true
}

// inputs is the keeper with the engine it resolves by.
type inputs struct {
	keeper *input.Keeper
	engine build.Engine
}

func (i inputs) Resolve(ctx context.Context, recipe *record.Recipe, job build.Job) (*record.Lock, error) {
	lock, err := i.keeper.Resolve(ctx, recipe, i.engine, job, progressLines(job.Log))
	return lock, declined(err)
}

func (i inputs) Hold(ctx context.Context, recipe *record.Recipe, lock *record.Lock, log io.Writer) error {
	return declined(i.keeper.Hold(ctx, recipe, lock, progressLines(log)))
}

func (i inputs) Reference(ctx context.Context, name artifact.Name) (artifact.Descriptor, error) {
	d, err := i.keeper.Reference(ctx, name)
	if errors.Is(err, input.ErrAbsent) {
		return d, fmt.Errorf("%w: %w", publish.ErrNoReference, err)
	}
	return d, err
}

// declined says in publish's words that trying again does not help.
func declined(err error) error {
	if errors.Is(err, input.ErrPoisoned) {
		return fmt.Errorf("%w: %w", publish.ErrDeclined, err)
	}
	return err
}

// progressLines writes progress as a line now and then.
func progressLines(w io.Writer) input.Report {
	var last time.Time
	return func(p input.Progress) {
		if done := p.FilesDone == p.Files; !done && time.Since(last) < time.Second {
			return
		}
		last = time.Now()
		fmt.Fprintf(w, "inputs: %d of %d files, %.1f of %.1f MB\n", p.FilesDone, p.Files, float64(p.BytesDone)/1e6, float64(p.Bytes)/1e6)
	}
}

// messages is the host as the quorum's transport.
type messages struct{ host *libp2p.Host }

func (m messages) Send(to record.Identity, message []byte) {
	// A message that cannot be queued is lost like any other, and sent again.
	_ = m.host.Send(context.Background(), to, message)
}

func (m messages) Discard(to record.Identity) { m.host.Discard(to) }

// meetings is the host as the members' streams.
type meetings struct {
	*libp2p.Host
	limits *quorum.Limits
}

func (m meetings) Open(ctx context.Context, to record.Identity) (memberlist.Stream, error) {
	stream, err := m.Host.Meet(ctx, to)
	if err != nil {
		return nil, err
	}
	return stream, nil
}

// Reach counts a member that is shut out as silent: nothing that it proposes is
// heard.
func (m meetings) Reach(ctx context.Context, member record.Identity) error {
	if m.limits.ShutOut(member) {
		return fmt.Errorf("%w: %s is shut out", memberlist.ErrSilent, member)
	}
	err := m.Host.Reach(ctx, member)
	if errors.Is(err, distribution.ErrUnreachable) {
		return fmt.Errorf("%w: %w", memberlist.ErrSilent, err)
	}
	return err
}

func (n *Node) memberIDs() []record.Identity {
	nodes := n.chain.Set().Nodes
	ids := make([]record.Identity, len(nodes))
	for i := range nodes {
		ids[i] = nodes[i].Identity
	}
	return ids
}

// presence is what this node tells other members of itself.
func (n *Node) presence() memberlist.State {
	state := memberlist.State{Height: n.chain.Height(), Software: n.version}
	if b := n.builder.Load(); b != nil {
		running, waiting := b.member.Load()
		state.Running, state.Waiting, state.Limit = int64(running), int64(waiting), n.conf().Build.Parallel
	}
	return state
}

// agreement is the quorum service as publish's.
type agreement struct{ service *quorum.Service }

func (a agreement) Submit(part record.Part) error {
	err := a.service.Submit(part)
	if errors.Is(err, quorum.ErrBusy) {
		return publish.ErrBusy
	}
	return err
}

func (a agreement) Tell(note publish.Note) {
	if data, err := json.Marshal(note); err == nil {
		a.service.Tell(data)
	}
}

// waiting is what waits for more members. A service that does not answer at
// once has nothing to show.
func (n *Node) waiting() []attest.Progress {
	b := n.builder.Load()
	if b == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return b.quorum.Waiting(ctx)
}

// wishes takes clients' wishes for packages to the member on a build node; a
// regular node asks nobody yet.
type wishes struct{ node *Node }

func (w wishes) Ask(_ context.Context, pkg artifact.PURL) error {
	b := w.node.builder.Load()
	if b == nil {
		return nil
	}
	_, err := b.member.RequestBuild(pkg)
	return err
}

func isRecipe(entry os.DirEntry) bool {
	return entry.Type().IsRegular() && strings.HasSuffix(entry.Name(), ".hcl")
}
