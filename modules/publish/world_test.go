package publish_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/publish"
	"github.com/pyrsia/appliance/modules/quorum/attest"
	"github.com/pyrsia/appliance/modules/record"
)

// world is three build nodes with everything around their members in memory:
// one chain, a proposer by turns, and messages that arrive. It lives in a
// synctest bubble, so that hours of patience take no time.
type world struct {
	*chaintest.Network
	t     *testing.T
	c     *chain.Chain
	nodes []*node
	lives []*life       // also the dead ones
	dirty chan struct{} // capacity 1: there may be a block to propose
	still atomic.Bool   // nobody proposes: too many are cut off
	done  chan struct{} // closed at the end of the test: the dead may rest
}

// node is what outlives its member's crashes.
type node struct {
	world   *world
	index   int
	folder  string
	store   *store
	votes   *votes
	recipes []*record.Recipe
	refuses error // of every lock: what its upstreams say
	build   func(try int) (string, error)
	takes   int // parts that others take of it each second; 0: any number

	released    map[string]string // what its upstream has, by file name
	unreachable int               // how often that answers nothing at first
	differ      func()            // told of each explanation; nil for no one

	mu    sync.Mutex // guards what follows, and the pool
	kept  map[artifact.SHA256]bool
	loses int // locked files that have gone when they are to be kept

	dropped []artifact.SHA256
	taken   map[time.Time]int
	said    map[string]map[record.Hash]int // how often it said what, by kind
	life    *life
	builds  int
}

// life is one run of a node's process.
type life struct {
	node   *node
	member *publish.Member
	pool   *attest.Pool
	cancel context.CancelFunc
	ended  chan struct{}
	fatal  int // the crash comes at this call of a port; 0: never
	after  bool
	calls  int
	dead   chan struct{}
}

// run plays a story with n nodes in a bubble.
func run(t *testing.T, n int, tell func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{Network: chaintest.New(t, n), t: t, dirty: make(chan struct{}, 1), done: make(chan struct{})}
		w.c = w.Chain(t)
		for i := range n {
			folder := t.TempDir()
			w.nodes = append(w.nodes, &node{
				world: w, index: i, folder: folder, store: &store{folder: folder}, votes: &votes{t: t, outcomes: map[record.Hash]outcome{}},
				build: func(int) (string, error) { return "content", nil },
				taken: map[time.Time]int{}, said: map[string]map[record.Hash]int{},
			})
		}
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() { defer close(stopped); w.order(stop) }()
		defer func() {
			close(stop)
			<-stopped
			close(w.done)
			for _, l := range w.lives {
				l.cancel()
				<-l.ended
			}
		}()
		tell(t, w)
	})
}

// order makes blocks of what the pools have, by turns.
func (w *world) order(stop chan struct{}) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-stop:
			return
		case <-w.dirty:
		case <-tick.C:
		}
		node := w.nodes[turn%len(w.nodes)]
		if l := node.alive(); l != nil && !w.still.Load() {
			w.propose(l)
		}
	}
}

func (w *world) propose(l *life) {
	now := time.Now()
	l.node.mu.Lock()
	candidates := l.pool.Candidates(now.UnixMilli(), attest.Patience{Commit: 5000, Reveal: 2000}, l.member.Working)
	l.node.mu.Unlock()
	heartbeat := now.UnixMilli()-w.c.Time() > 600_000
	if len(candidates) == 0 && !heartbeat {
		return
	}
	self := w.Nodes[l.node.index]
	block, err := w.c.Propose(candidates, self.ID, now, self.Signers.Log)
	if err != nil {
		w.t.Error(err)
		return
	}
	if len(block.Leaves) > 1 || heartbeat {
		w.AppendBlock(w.t, w.c, block)
	}
}

// start gives the node a member that dies at a call of a port, before or after
// it had its effect.
func (n *node) start(fatal int, after bool) *life {
	w := n.world
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &life{node: n, pool: attest.NewPool(w.c), cancel: cancel, ended: make(chan struct{}), dead: make(chan struct{}), fatal: fatal, after: after}
	config := publish.Config{
		Identity: w.Nodes[n.index].ID, Vote: w.Nodes[n.index].Signers.Vote, Folder: n.folder, Platforms: []string{chaintest.Platform},
		Limits: publish.Limits{Parallel: 1, Deadline: 2 * time.Hour}, Relay: 5 * time.Second, Log: slog.New(slog.DiscardHandler),
		Voting: func() bool { return true },
		Recipes: func() ([]*record.Recipe, error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.recipes, nil
		},
		Disk: lifeDisk{durable.OS(true), l},
	}
	if n.differ != nil {
		config.Differ = func(context.Context, *ledger.Attempt) ([]byte, error) { n.differ(); return []byte("reports"), nil }
	}
	var err error
	l.member, err = publish.New(config, w.c, l, l, l, l, l, engine{l})
	if err != nil {
		w.t.Fatal(err)
	}
	w.lives = append(w.lives, l)
	n.mu.Lock()
	n.life = l
	n.mu.Unlock()
	go func() {
		defer close(l.ended)
		if err := l.member.Serve(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	return l
}

// stop ends the node's process in an orderly way.
func (n *node) stop() {
	l := n.alive()
	l.cancel()
	<-l.ended
	n.mu.Lock()
	defer n.mu.Unlock()
	n.life = nil
}

// alive is the node's process, nil while it is dead.
func (n *node) alive() *life {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.life
}

// port counts a call of a port and makes its effect; at the fatal one the
// process dies: nothing of this run reaches anything any more.
func (l *life) port(effect func()) {
	l.node.mu.Lock()
	l.calls++
	crash := l.calls == l.fatal
	if crash {
		l.node.life = nil
	}
	gone := l.node.life != l
	l.node.mu.Unlock()
	if !gone || (crash && l.after) {
		effect()
	}
	if crash {
		l.cancel()
		close(l.dead)
	}
	if gone {
		<-l.node.world.done
	}
}

// lifeDisk is what the member writes its own files through: a port like others.
// New runs before the member does, and what it sweeps is no call of a port.
type lifeDisk struct {
	durable.FS
	l *life
}

type lifeFile struct {
	durable.File
	l *life
}

func (d lifeDisk) step(do func() error) (err error) {
	if d.l.member == nil {
		return do()
	}
	err = errDead
	d.l.port(func() { err = do() })
	return err
}

func (d lifeDisk) Create(path string) (f durable.File, err error) {
	err = d.step(func() (err error) { f, err = d.FS.Create(path); return err })
	return lifeFile{f, d.l}, err
}

func (d lifeDisk) Rename(from, to string) error {
	return d.step(func() error { return d.FS.Rename(from, to) })
}

func (d lifeDisk) RemoveAll(path string) error {
	return d.step(func() error { return d.FS.RemoveAll(path) })
}

func (d lifeDisk) SyncDir(path string) error {
	return d.step(func() error { return d.FS.SyncDir(path) })
}

// Write dies between its two halves.
func (f lifeFile) Write(p []byte) (n int, err error) {
	half := len(p) / 2
	if n, err = f.File.Write(p[:half]); err != nil {
		return n, err
	}
	err = errDead
	f.l.port(func() { n, err = f.File.Write(p[half:]) })
	return half + n, err
}

func (f lifeFile) Sync() error { return lifeDisk{l: f.l}.step(f.File.Sync) }

var errDead = errors.New("this process is dead")

// Submit implements publish.Quorum.
func (l *life) Submit(part record.Part) error {
	data, err := part.Encode()
	if err != nil {
		return err
	}
	if !l.node.take(subject(part)) {
		return publish.ErrBusy
	}
	err = errDead
	l.port(func() {
		err = nil
		for _, other := range l.node.world.nodes {
			sent, e := record.DecodePart(data)
			if e != nil {
				err = e
				return
			}
			other.hear(l, sent)
		}
	})
	return err
}

// subject is what kind of a part it is, and of what.
func subject(part record.Part) (string, record.Hash) {
	switch {
	case part.Endorse != nil:
		return "endorse", part.Endorse.Change.Digest()
	case part.Hold != nil:
		return "hold", part.Hold.Attempt.Digest()
	case part.Commit != nil:
		return "commit", part.Commit.Attempt
	}
	return "reveal", part.Reveal.Attestation.Attempt
}

// take notes a part, unless as many as others take are said in this second.
func (n *node) take(kind string, of record.Hash) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now().Truncate(time.Second)
	if n.takes > 0 && n.taken[now] >= n.takes {
		return false
	}
	n.taken[now]++
	if n.said[kind] == nil {
		n.said[kind] = map[record.Hash]int{}
	}
	n.said[kind][of]++
	return true
}

func (n *node) hear(from *life, part record.Part) {
	l := n.alive()
	if n == from.node {
		l = from
	}
	if l == nil {
		return
	}
	n.mu.Lock()
	l.pool.Add(part)
	n.mu.Unlock()
	if n != from.node {
		l.member.Heard(part)
	}
	select {
	case n.world.dirty <- struct{}{}:
	default:
	}
}

// Tell implements publish.Quorum.
func (l *life) Tell(note publish.Note) {
	l.port(func() {
		for _, other := range l.node.world.nodes {
			if to := other.alive(); other != l.node && to != nil {
				to.member.HeardNote(note)
			}
		}
	})
}

// store keeps files by name in a folder: it outlives a crash.
type store struct{ folder string }

func (s *store) path(digest artifact.SHA256) string {
	return filepath.Join(s.folder, "store-"+digest.String())
}

func (s *store) put(data []byte) (artifact.Descriptor, error) {
	d := chaintest.Describe(data)
	return d, os.WriteFile(s.path(d.SHA256), data, 0o600)
}

// Put implements publish.Store.
func (l *life) Put(_ context.Context, r io.Reader) (d artifact.Descriptor, err error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return d, err
	}
	err = errDead
	l.port(func() { d, err = l.node.store.put(data) })
	return d, err
}

// Lend implements publish.Store.
func (l *life) Lend(ctx context.Context, r io.Reader) (artifact.Descriptor, error) {
	return l.Put(ctx, r)
}

// Release implements publish.Store.
func (l *life) Release(digest artifact.SHA256) error {
	l.node.mu.Lock()
	defer l.node.mu.Unlock()
	if l.node.kept[digest] { // an input, of which this store has no bytes
		delete(l.node.kept, digest)
		return nil
	}
	return os.Remove(l.node.store.path(digest))
}

// Drop implements publish.Store.
func (l *life) Drop(digest artifact.SHA256) error {
	l.node.mu.Lock()
	defer l.node.mu.Unlock()
	l.node.dropped = append(l.node.dropped, digest)
	return nil
}

// Keep implements publish.Store.
func (l *life) Keep(digest artifact.SHA256) (fresh bool, err error) {
	if l.Has(digest) { // a lock: Put has kept it
		return false, nil
	}
	l.node.mu.Lock()
	defer l.node.mu.Unlock()
	if l.node.kept == nil {
		l.node.kept = map[artifact.SHA256]bool{}
	}
	fresh = !l.node.kept[digest]
	l.node.kept[digest] = true
	if l.node.loses--; l.node.loses >= 0 {
		return fresh, errors.New("it had to go for other files")
	}
	return fresh, nil
}

// Open implements publish.Store.
func (l *life) Open(digest artifact.SHA256) (*os.File, error) {
	return os.Open(l.node.store.path(digest))
}

// Has implements publish.Store.
func (l *life) Has(digest artifact.SHA256) bool {
	_, err := os.Stat(l.node.store.path(digest))
	return err == nil
}

// Fetch implements publish.Peers: from whoever has it.
func (l *life) Fetch(_ context.Context, d artifact.Descriptor) error {
	err := errDead
	l.port(func() {
		for _, other := range l.node.world.nodes {
			data, e := os.ReadFile(other.store.path(d.SHA256))
			if e == nil && chaintest.Describe(data) == d {
				_, err = l.node.store.put(data)
				return
			}
		}
		err = fmt.Errorf("no peer has %s", d.SHA256)
	})
	return err
}

// Resolve implements publish.Inputs.
func (l *life) Resolve(_ context.Context, recipe *record.Recipe, _ build.Job) (lock *record.Lock, err error) {
	err = errDead
	l.port(func() {
		err = nil
		lock = &record.Lock{Builder: []artifact.Descriptor{}, Recipe: recipe.Hash(), Entries: []record.LockEntry{
			{Kind: "maven", Path: "org/example/plugin/1/plugin-1.jar", Proof: record.ProofUpstream, File: chaintest.Describe([]byte("plugin"))},
		}}
		if recipe.Builder != "" {
			p, e := l.node.world.c.ResolveTag(recipe.Builder.Repository(), recipe.Builder.Version())
			if e != nil {
				err = e
				return
			}
			lock.Builder = append(lock.Builder, p.Subject.Descriptor())
		}
	})
	return lock, err
}

// Reference implements publish.Inputs: what the node's upstream released. A file that
// it cannot reach at first is there at the third try.
func (l *life) Reference(_ context.Context, name artifact.Name) (artifact.Descriptor, error) {
	text, released := l.node.released[name.File]
	if !released {
		return artifact.Descriptor{}, publish.ErrNoReference
	}
	if l.node.unreachable--; l.node.unreachable >= 0 {
		return artifact.Descriptor{}, errors.New("upstream answers nothing")
	}
	return l.node.store.put([]byte(text))
}

// Hold implements publish.Inputs.
func (l *life) Hold(context.Context, *record.Recipe, *record.Lock, io.Writer) error {
	err := errDead
	l.port(func() { err = l.node.refuses })
	return err
}

// votes is the vote file: it outlives a crash and never changes its mind.
type votes struct {
	t        *testing.T
	mu       sync.Mutex
	outcomes map[record.Hash]outcome
}

type outcome struct {
	statement []byte
	salt      record.Hash
}

func (v *votes) of(attempt record.Hash) (outcome, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	o, ok := v.outcomes[attempt]
	return o, ok
}

// Outcome implements publish.Votes.
func (l *life) Outcome(attempt record.Hash) ([]byte, record.Hash, bool, error) {
	o, ok := l.node.votes.of(attempt)
	return o.statement, o.salt, ok, nil
}

// PutOutcome implements publish.Votes.
func (l *life) PutOutcome(attempt record.Hash, statement []byte, salt record.Hash) error {
	err := errDead
	l.port(func() {
		err = nil
		v := l.node.votes
		v.mu.Lock()
		defer v.mu.Unlock()
		if old, ok := v.outcomes[attempt]; ok && (old.salt != salt || !bytes.Equal(old.statement, statement)) {
			v.t.Errorf("node %d changes its outcome", l.node.index)
			err = errors.New("conflict")
			return
		}
		v.outcomes[attempt] = outcome{statement, salt}
	})
	return err
}

// Name implements build.Engine.
func (l *life) Name() string { return chaintest.Engine }

// Build implements build.Engine: what the node's build function says, in twelve
// seconds.
func (l *life) Build(ctx context.Context, job build.Job) (files []build.File, err error) {
	select {
	case <-time.After(12 * time.Second):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	err = errDead
	l.port(func() {
		l.node.mu.Lock()
		l.node.builds++
		try := l.node.builds
		l.node.mu.Unlock()
		var content string
		if content, err = l.node.build(try); err != nil {
			err = errors.Join(err, os.WriteFile(job.Remains, []byte("remains of "+l.node.folder), 0o600))
			return
		}
		files, err = outputs(job, content)
	})
	return files, err
}

// outputs are the recipe's files with the content, or an image of many layers.
func outputs(job build.Job, content string) (files []build.File, err error) {
	add := func(name artifact.Name, data string) {
		path := filepath.Join(job.Folder, fmt.Sprint(len(files)))
		err = errors.Join(err, os.WriteFile(path, []byte(data), 0o600))
		files = append(files, build.File{Name: name, Path: path})
	}
	for _, name := range job.Recipe.Files() {
		if name.File != record.ManifestFile {
			add(name, content+" of "+name.File)
			continue
		}
		manifest := "manifest of " + content
		uri := artifact.DockerPURL(name.Package.Repository(), chaintest.Describe([]byte(manifest)).SHA256.OCI())
		add(artifact.Name{Package: uri, File: record.ManifestFile}, manifest)
		for i := range 70 {
			layer := fmt.Sprintf("%s, layer %d", content, i)
			add(artifact.Name{Package: uri, File: chaintest.Describe([]byte(layer)).SHA256.OCI()}, layer)
		}
	}
	return files, err
}

// engine is life as a build.Engine, whose Resolve nobody calls here: locks are
// made by life as publish.Inputs.
type engine struct{ *life }

func (engine) Resolve(context.Context, build.Job, http.Handler) error { return errDead }

// until waits until the condition holds, up to five hours of the bubble's time.
func (w *world) until(what string, condition func() bool) {
	w.t.Helper()
	for range 5 * 3600 / 2 {
		synctest.Wait()
		if condition() {
			return
		}
		time.Sleep(2 * time.Second)
	}
	w.t.Fatalf("never: %s; %s", what, w.describe())
}

// describe is where everything stands, for failures.
func (w *world) describe() string {
	var b bytes.Buffer
	attempts, _ := w.c.Attempts()
	for _, a := range attempts {
		fmt.Fprintf(&b, "attempt %d %s, %d commits, %d votes; ", a.Attempt.Number, a.Status, len(a.Commits), len(a.Votes))
	}
	for _, node := range w.nodes {
		if l := node.alive(); l != nil {
			for _, r := range l.member.Requests() {
				state, reason := l.member.RequestState(r)
				fmt.Fprintf(&b, "node %d: %s %s %s; ", node.index, r.Package, state, reason)
			}
		}
	}
	return b.String()
}

func (w *world) everybodyHas(recipes ...*record.Recipe) {
	for _, node := range w.nodes {
		node.mu.Lock()
		node.recipes = recipes
		node.mu.Unlock()
	}
}

func (w *world) newest(recipe *record.Recipe) *ledger.Attempt {
	a, err := w.c.Newest(recipe.Hash(), chaintest.Platform)
	if err != nil {
		return &ledger.Attempt{}
	}
	return a
}

// request is node 0's request once it has its outcome.
func (w *world) settled() (publish.Request, bool) {
	l := w.nodes[0].alive()
	if l == nil {
		return publish.Request{}, false
	}
	requests := l.member.Requests()
	i := slices.IndexFunc(requests, func(r publish.Request) bool { return r.Done })
	if i < 0 {
		return publish.Request{}, false
	}
	return requests[i], true
}
