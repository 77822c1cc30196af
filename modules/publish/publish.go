// Package publish is the write path: a member's own part in bringing a package
// from its recipe to its publication.
//
// The chain is the state machine (docs/protocol.md, "From request to
// publication"). At every block and every tick a Member compares what the
// chain says with its own durable files and does what is missing: endorse a
// recipe, resolve a lock, hold another's lock, build, commit, reveal. Each
// step is safe to repeat, so that a restart needs no code of its own.
//
// Only two things are not derived from the chain: the requests of this node's
// operators (Requests, one file each) and this node's outcomes (Votes, beside
// the vote key). An outcome is durable before its commit leaves the node.
package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

// Errors that a request can meet at once.
var (
	ErrNoRecipe = errors.New("no recipe")
	ErrUnknown  = errors.New("unknown build")
)

// ErrDeclined is wrapped by Inputs where a locked file is not what its proof
// says: the same question gets the same answer.
var ErrDeclined = errors.New("declined")

// Chain is what the member reads of the log.
type Chain interface {
	Network() record.Network
	Genesis() *record.Genesis
	Set() *record.Set
	Height() int64
	Time() int64
	Wait(ctx context.Context, height int64) error
	Recipe(hash record.Hash) (*ledger.Recipe, error)
	LiveRecipe(pkg artifact.PURL) (*ledger.Recipe, error)
	Newest(recipe record.Hash, platform string) (*ledger.Attempt, error)
	Attempt(id record.Hash) (*ledger.Attempt, error)
	RecentAttempts(since int64) ([]ledger.Attempt, error)
	Younger(id record.Identity, a *ledger.Attempt) bool
	Resolve(name artifact.Name) (*ledger.Publication, error)
	ResolveTag(repository, tag string) (*ledger.Publication, error)
	ResolveDigest(digest artifact.SHA256) (*ledger.Publication, error)
	Files(prefix string) ([]ledger.Entry, error)
}

// Quorum takes the parts of this node to the other members, and shows what it
// has of theirs.
type Quorum interface {
	// Submit adds a part and sends it; repeating it sends it again. ErrBusy says that
	// it did neither, and that it will later.
	Submit(part record.Part) error
	// Tell sends a note to the other members, best effort.
	Tell(note Note)
}

// Store keeps files by their digests.
type Store interface {
	Put(ctx context.Context, r io.Reader) (artifact.Descriptor, error)
	Open(digest artifact.SHA256) (*os.File, error)
	Has(digest artifact.SHA256) bool
	// Keep has a file stay, as if Put had put it; fresh says that it would not have.
	Keep(digest artifact.SHA256) (fresh bool, err error)
	// Drop removes a file whose bytes the disk has lost, so that it is got anew.
	Drop(digest artifact.SHA256) error
	// Lend is Put for what nobody needs for long: it may go when room is needed.
	Lend(ctx context.Context, r io.Reader) (artifact.Descriptor, error)
	// Release lets a file go that Put has kept, where nothing else wants it.
	Release(digest artifact.SHA256) error
}

// Inputs finds and proves the locked inputs of a build.
type Inputs interface {
	// Resolve makes the lock of a recipe; log is for people.
	Resolve(ctx context.Context, recipe *record.Recipe, job build.Job) (*record.Lock, error)
	// Hold gets every file of the lock, by its proof, into the store. They stay only if
	// they are kept: asking for a lock must not fill anybody's disk.
	Hold(ctx context.Context, recipe *record.Recipe, lock *record.Lock, log io.Writer) error
	// Reference gets the file that this node's own upstream has under a name into the
	// store, or an error that wraps ErrNoReference.
	Reference(ctx context.Context, name artifact.Name) (artifact.Descriptor, error)
}

// Peers fetch a file that the log or a member vouches for into the store.
type Peers interface {
	Fetch(ctx context.Context, d artifact.Descriptor) error
}

// Votes is the file of outcomes beside the vote key. Put is durable and once
// for ever: a second, different outcome of an attempt is refused.
type Votes interface {
	Outcome(attempt record.Hash) (statement []byte, salt record.Hash, ok bool, err error)
	PutOutcome(attempt record.Hash, statement []byte, salt record.Hash) error
}

// Config is what a member needs.
type Config struct {
	Identity  record.Identity
	Vote      record.Signer
	Folder    string // requests, logs and outputs of builds; ours alone
	Platforms []string
	Limits    // to begin with
	Recipes   func() ([]*record.Recipe, error)
	Voting    func() bool   // whether this member may sign now; it is asked before each part
	Relay     time.Duration // how often parts are sent again
	Disk      durable.FS    // what Folder is written through; nil: the operating system's, private
	Log       *slog.Logger

	// Tries are the inputs of recipes that are only tried, and are not kept as those of
	// attempts are; nil is the same as those.
	Tries Inputs
	// Differ makes the reports of an attempt whose outputs are not alike; nil makes none.
	Differ func(ctx context.Context, a *ledger.Attempt) (reports []byte, err error)
}

// Limits are what SetLimits changes while builds run.
type Limits struct {
	Parallel int           // builds at once
	Deadline time.Duration // of an attempt, from its request
	Keep     time.Duration // of logs, ended requests and outputs that were not published; 0 keeps them for ever
}

// Member is the write path of a build node.
type Member struct {
	Config
	limits atomic.Pointer[Limits]
	chain  Chain
	quorum Quorum
	store  Store
	inputs Inputs
	peers  Peers
	votes  Votes
	engine build.Engine

	wake   chan struct{} // capacity 1: something changed
	saving chan struct{} // capacity 1: who writes a request's file

	// keeping is held by builds from their first output in the store until their outcome
	// is durable, and alone where outputs are let go of.
	keeping sync.RWMutex

	// deciding is held from where a build looks whether it was cancelled until its
	// outcome is durable, and while it is cancelled: one of the two comes first.
	deciding sync.Mutex

	// pinning is held while the inputs of one attempt are kept, all or none.
	pinning sync.Mutex

	mu        sync.Mutex                        // guards what follows
	requests  map[string]*Request               // by ID
	heard     map[record.Hash]heard             // attempts that other members hold, by digest
	wishes    map[wish]map[artifact.SHA256]bool // locks that an asker wanted
	jobs      map[string]*job                   // by key: running or resting
	notes     map[string]Note                   // the newest of each member and subject
	watchers  map[chan struct{}]bool            // told of every change
	endorsed  map[record.Hash]record.Part
	sent      map[string]time.Time // when a part was sent last
	complaint string               // what was last said of the recipes folder
	revealed  map[record.Hash]bool // attempts whose vote this run has revealed

	// step's alone: the recipe that is endorsed first, the attempt whose vote is revealed
	// first, zero for the oldest, and whose turn it is.
	turn         int
	waits        record.Hash
	recipesFirst bool
}

type heard struct {
	from    record.Identity // who asked first
	attempt record.Attempt
	holding record.Part // this node's, once it holds the lock
}

// Memory is how old an attempt may be for this member to do its part in it: far
// older than its deadline, for votes that come late but on the record (a member that
// was away for longer reveals them no more). A member looks at all of them at every
// step.
const Memory = 7 * 24 * time.Hour

// What one member may ask others to hold: attempts at once, and locks for one attempt,
// each of which costs all of its files.
const (
	maxHeard = 64
	maxLocks = 4
)

// wish is what an asker may want several locks for. maxWishes bounds the memory of
// them; what is forgotten may be wanted anew.
type wish struct {
	from     record.Identity
	recipe   record.Hash
	platform string
	number   int64
}

const maxWishes = 4096

func wishOf(a record.Attempt, from record.Identity) wish {
	return wish{from, a.Recipe, a.Platform, a.Number}
}

// New makes a member; it starts nothing. Requests of an earlier run go on.
func New(config Config, chain Chain, quorum Quorum, store Store, inputs Inputs, peers Peers, votes Votes, engine build.Engine) (*Member, error) {
	m := &Member{
		Config: config, chain: chain, quorum: quorum, store: store, inputs: inputs, peers: peers, votes: votes, engine: engine,
		wake: make(chan struct{}, 1), saving: make(chan struct{}, 1), requests: map[string]*Request{}, heard: map[record.Hash]heard{},
		jobs: map[string]*job{}, notes: map[string]Note{}, watchers: map[chan struct{}]bool{}, endorsed: map[record.Hash]record.Part{},
		revealed: map[record.Hash]bool{}, sent: map[string]time.Time{}, wishes: map[wish]map[artifact.SHA256]bool{},
	}
	m.limits.Store(&config.Limits)
	if m.Disk == nil {
		m.Disk = durable.OS(true)
	}
	for _, folder := range []string{m.requestFolder(), m.buildFolder("")} {
		if err := errors.Join(os.MkdirAll(folder, 0o700), durable.Sweep(m.Disk, folder)); err != nil {
			return nil, fmt.Errorf("open builds: %w", err)
		}
	}
	if err := m.sweepFolders(); err != nil {
		return nil, fmt.Errorf("open builds: %w", err)
	}
	if err := errors.Join(m.Disk.SyncDir(m.Folder), m.Disk.SyncDir(filepath.Dir(m.Folder))); err != nil {
		return nil, fmt.Errorf("open builds: %w", err)
	}
	return m, m.loadRequests()
}

// SetLimits makes other limits count for what begins from now on; builds under way go
// on.
func (m *Member) SetLimits(limits Limits) {
	m.limits.Store(&limits)
	m.changed()
}

func (m *Member) buildFolder(name string) string { return filepath.Join(m.Folder, "builds", name) }

// Serve does the member's part until the context ends. It joins its builds.
func (m *Member) Serve(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	running.Go(func() { m.follow(ctx) })
	running.Go(func() { m.tidy(ctx) })
	tick := time.NewTicker(m.Relay)
	defer tick.Stop()
	for {
		m.step(ctx, &running)
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case <-tick.C:
		}
	}
}

// follow wakes the member at every block.
func (m *Member) follow(ctx context.Context) {
	for height := m.chain.Height(); m.chain.Wait(ctx, height+1) == nil; {
		height = m.chain.Height()
		m.changed()
	}
}

// changed wakes the member and everyone who watches it. What other members
// send must not do so by itself, or they would wake each other in circles.
func (m *Member) changed() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
	m.notify()
}

// notify wakes everyone who watches the member.
func (m *Member) notify() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for watcher := range m.watchers {
		select {
		case watcher <- struct{}{}:
		default:
		}
	}
}

// Watch returns a channel that receives after every change, until the returned
// function is called.
func (m *Member) Watch() (<-chan struct{}, func()) {
	watcher := make(chan struct{}, 1)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watchers[watcher] = true
	return watcher, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watchers, watcher)
	}
}

// step does once all that is missing.
func (m *Member) step(ctx context.Context, running *sync.WaitGroup) {
	// Others take so much in a second: first what brings to an end what was begun, then
	// what this node wants itself, which is bounded. What others want held and a folder of
	// recipes may each be all that is left: they take turns.
	m.driveAttempts(ctx, running)
	m.driveRequests(ctx, running)
	if m.recipesFirst = !m.recipesFirst; m.recipesFirst {
		m.endorse()
		m.driveHeard(ctx, running)
		return
	}
	m.driveHeard(ctx, running)
	m.endorse()
}

// maxCommits is for how many attempts this node commits at once, the oldest: more of one
// member do not wait at others, and members of unequal speed must fill their places with
// the same attempts.
const maxCommits = record.MaxRecalledCommits

// driveAttempts builds, and brings this node's votes forward: commits from the oldest
// attempt on, then reveals. Where those are more than others take at once, it goes on
// next time with the first that had to wait.
func (m *Member) driveAttempts(ctx context.Context, running *sync.WaitGroup) {
	attempts, err := m.chain.RecentAttempts(m.chain.Time() - Memory.Milliseconds())
	if err != nil {
		m.Log.Error("cannot read the attempts", "error", err)
		return
	}
	var later []*ledger.Attempt // whose commits stand
	commits := 0
	for i := range attempts {
		a := &attempts[i]
		if a.Status != ledger.StatusOpen {
			later = append(later, a)
			continue
		}
		if m.hasOutcome(a) {
			if commits++; commits > maxCommits {
				continue
			}
		}
		m.driveAttempt(ctx, running, a)
	}
	first := slices.IndexFunc(later, func(a *ledger.Attempt) bool { return a.ID == m.waits })
	m.waits = record.Hash{}
	for i := range later {
		a := later[(max(first, 0)+i)%len(later)]
		if !m.driveAttempt(ctx, running, a) && m.waits.IsZero() {
			m.waits = a.ID
		}
	}
}

// hasOutcome tells whether this node has something to commit to in an open attempt.
func (m *Member) hasOutcome(a *ledger.Attempt) bool {
	if !a.Active(m.chain.Time()) {
		return false
	}
	_, _, ok, err := m.votes.Outcome(a.ID)
	return ok && err == nil
}

// endorsementHeights is for how many blocks an endorsement counts; it is
// signed again when half of them are past.
const endorsementHeights = 1000

// endorse endorses the recipes in the operator's folder that are not on the
// chain yet. Where they are more than others take at once, it goes on next time
// where it stopped.
func (m *Member) endorse() {
	recipes, err := m.Recipes()
	m.complain(err)
	start := m.turn
	for i := range recipes {
		turn := (start + i) % len(recipes)
		recipe := recipes[turn]
		if _, err := m.chain.Recipe(recipe.Hash()); err == nil {
			continue
		}
		part, err := m.endorsement(recipe.Change())
		if err != nil {
			m.Log.Warn("cannot endorse a recipe", "package", recipe.Package, "error", err)
			continue
		}
		if err := m.say("endorse "+recipe.Hash().String(), part); errors.Is(err, ErrBusy) {
			m.turn = turn
			return
		}
	}
}

// complain says once what is wrong with the recipes, not at every tick.
func (m *Member) complain(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	m.mu.Lock()
	known := m.complaint == text
	m.complaint = text
	m.mu.Unlock()
	if !known && text != "" {
		m.Log.Warn("cannot read the recipes", "error", text)
	}
}

func (m *Member) endorsement(change record.RecipeChange) (record.Part, error) {
	digest, height := change.Digest(), m.chain.Height()
	m.mu.Lock()
	known, ok := m.endorsed[digest]
	m.mu.Unlock()
	if ok && known.Endorse.Endorsement.LastHeight > height+endorsementHeights/2 && known.Endorse.Endorsement.Set == m.chain.Set().Hash() {
		return known, nil
	}
	e, err := record.SignEndorsement(m.chain.Network().Genesis, record.Endorsement{
		Change: digest, Identity: m.Identity, LastHeight: height + endorsementHeights,
		Seq: time.Now().UnixMilli(), Set: m.chain.Set().Hash(),
	}, m.Vote)
	if err != nil {
		return record.Part{}, err
	}
	part := record.Part{Endorse: &record.EndorsePart{Change: change, Endorsement: e}}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.endorsed[digest] = part
	return part, nil
}

// Heard takes another member's part. It returns fast: at the most it checks one
// signature.
func (m *Member) Heard(part record.Part) {
	if part.Hold == nil {
		return
	}
	a, from := part.Hold.Attempt, part.Hold.Holding.Identity
	// What costs next to nothing comes first, what reads a recipe last.
	if !m.builds(a.Platform) || a.Engine != m.engine.Name() || !m.listens(a, from) || !m.awaited(a) {
		return
	}
	if err := part.Hold.Holding.Check(m.chain.Network().Genesis, m.chain.Set(), a); err != nil || !m.sane(a) {
		return
	}
	m.mu.Lock()
	admitted := m.wished(a, from)
	if admitted {
		m.heard[a.Digest()] = heard{from: from, attempt: a}
	}
	m.mu.Unlock()
	if !admitted {
		m.refuse(a, from)
		return
	}
	m.changed()
}

// refuse tells an asker, now and then, that this node looks at no more locks of it.
func (m *Member) refuse(a record.Attempt, from record.Identity) {
	m.mu.Lock()
	key := fmt.Sprintf("refuse %s %s %s %d", from, a.Recipe, a.Platform, a.Number)
	again := m.recent(key, time.Now())
	m.sent[key] = time.Now()
	m.mu.Unlock()
	if !again {
		m.tell(Note{Kind: NoteDeclined, Recipe: a.Recipe, Attempt: a.Number, Lock: a.Lock.SHA256, Text: fmt.Sprintf(
			"it looks at no more than %d locks of one asker for an attempt; let another build node ask, or another recipe supersede this one", maxLocks)})
	}
}

// wished notes that an asker wants a lock, unless it wanted too many others of the same
// attempt; mu is held.
func (m *Member) wished(a record.Attempt, from record.Identity) bool {
	if len(m.wishes) >= maxWishes {
		clear(m.wishes)
	}
	locks := m.wishes[wishOf(a, from)]
	if locks == nil {
		locks = map[artifact.SHA256]bool{}
		m.wishes[wishOf(a, from)] = locks
	}
	if len(locks) >= maxLocks && !locks[a.Lock.SHA256] {
		return false
	}
	locks[a.Lock.SHA256] = true
	return true
}

// sane tells whether there is time to build before the attempt's deadline, and
// no more than the rules allow: an attempt that must expire spends a number.
func (m *Member) sane(a record.Attempt) bool {
	left := a.Deadline - time.Now().UnixMilli()
	return left > m.needs(a.Recipe).Milliseconds() && left <= ledger.MaxDeadline && m.awaited(a)
}

// minDeadline is the least time beside the build's own that a member takes part for.
const minDeadline = time.Minute

// needs is how long an attempt must last for a member to take part: as long as the
// recipe lets its build take, and some more. With less an asker spends the recipe's
// attempts, of which there are few, before anybody has built.
func (m *Member) needs(recipe record.Hash) time.Duration {
	state, err := m.chain.Recipe(recipe)
	if err != nil {
		return minDeadline
	}
	decoded, err := record.DecodeRecipe(state.Recipe)
	if err != nil {
		return minDeadline
	}
	return minDeadline + time.Duration(min(decoded.Limits.Seconds, ledger.MaxDeadline/2000))*time.Second
}

// listens tells whether the attempt is new here and the member has not asked
// for too many.
func (m *Member) listens(a record.Attempt, from record.Identity) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.heard[a.Digest()]; known || from == m.Identity {
		return false
	}
	asked := 0
	for _, h := range m.heard {
		if h.from == from {
			asked++
		}
	}
	return asked < maxHeard
}

func (m *Member) builds(platform string) bool {
	for _, p := range m.Platforms {
		if p == platform {
			return true
		}
	}
	return false
}

// driveHeard gets the locks that other members ask this one to hold.
func (m *Member) driveHeard(ctx context.Context, running *sync.WaitGroup) {
	m.mu.Lock()
	waiting := make(map[record.Hash]heard, len(m.heard))
	for digest, h := range m.heard {
		waiting[digest] = h
	}
	m.mu.Unlock()
	for digest, h := range waiting {
		if !m.awaited(h.attempt) || h.attempt.Deadline < time.Now().UnixMilli() {
			m.forget(digest)
			continue
		}
		if h.holding.Hold != nil {
			m.say(holdKey(digest), h.holding) //nolint:errcheck // what waits is tried again at every tick
			continue
		}
		m.start(ctx, running, holdKey(digest), classHold, string(h.from), func(ctx context.Context) error { return m.hold(ctx, digest, h.attempt) })
	}
}

func (m *Member) forget(digest record.Hash) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.heard, digest)
	if j := m.jobs[holdKey(digest)]; j != nil && !j.running {
		delete(m.jobs, holdKey(digest))
	}
}

func holdKey(attempt record.Hash) string { return "hold " + attempt.String() }

// awaited tells whether the attempt could still open.
func (m *Member) awaited(a record.Attempt) bool {
	recipe, err := m.chain.Recipe(a.Recipe)
	if err != nil || !recipe.Live {
		return false
	}
	last, err := m.chain.Newest(a.Recipe, a.Platform)
	if err != nil {
		return a.Number == 1
	}
	over := last.Status == ledger.StatusDisagreed || last.Expired(max(m.chain.Time(), time.Now().UnixMilli()))
	return a.Number == last.Attempt.Number+1 && over
}

// say sends a part as send does, and logs what is wrong with it.
func (m *Member) say(key string, part record.Part) error {
	err := m.send(key, part)
	if err != nil && !errors.Is(err, ErrBusy) && !errors.Is(err, errNotNow) {
		m.Log.Warn("cannot send a part", "error", err)
	}
	return err
}

// ErrBusy is returned by Quorum.Submit when there is more to say than other members
// take: what was not sent is tried again at the next tick.
var ErrBusy = errors.New("other members take no more now")

// errNotNow says that a part was sent a moment ago, or that this node does not vote.
var errNotNow = errors.New("not now")

// send sends a part, unless the same was sent within Relay: steps come as often as
// something changes, parts must not.
func (m *Member) send(key string, part record.Part) error {
	if !m.due(key) {
		return errNotNow // what waits is tried again at every tick
	}
	if err := m.quorum.Submit(part); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.sent) > maxSent {
		clear(m.sent)
	}
	m.sent[key] = time.Now()
	return nil
}

// due tells whether send would send now.
func (m *Member) due(key string) bool {
	voting := m.Voting()
	m.mu.Lock()
	defer m.mu.Unlock()
	return voting && !m.recent(key, time.Now())
}

// recent tells whether a part was sent within the relay's time; mu is held.
func (m *Member) recent(key string, now time.Time) bool {
	return now.Sub(m.sent[key]) < m.Relay*9/10
}

// maxSent bounds the memory of what was sent; forgetting it costs a message.
const maxSent = 100_000

// hold gets every file of a lock itself, by its proof, and says so. A lock
// that is not what this node's own upstreams have gets a note instead.
func (m *Member) hold(ctx context.Context, digest record.Hash, a record.Attempt) error {
	log, closeLog, err := m.openLog("hold-" + digest.Short())
	if err != nil {
		return err
	}
	defer closeLog()
	// An upstream that sends a byte now and then would hold up this asker's other locks.
	ctx, cancel := context.WithDeadlineCause(ctx, time.UnixMilli(a.Deadline), errors.New("the attempt's deadline passed while its files were fetched"))
	defer cancel()
	if _, _, err := m.inputsOf(ctx, a, log); err != nil {
		kind := NoteLacking
		if errors.Is(err, ErrDeclined) {
			kind = NoteDeclined
		}
		m.tell(Note{Kind: kind, Recipe: a.Recipe, Attempt: a.Number, Lock: a.Lock.SHA256, Text: err.Error()})
		return err
	}
	if !m.sane(a) {
		m.forget(digest) // the files took so long that nobody could build any more
		return nil
	}
	holding, err := record.SignHolding(m.chain.Network().Genesis, a, m.Identity, m.Vote)
	if err != nil {
		return err
	}
	m.mu.Lock()
	h := m.heard[digest]
	h.attempt = a
	h.holding = record.Part{Hold: &record.HoldPart{Attempt: a, Holding: holding}}
	m.heard[digest] = h
	m.mu.Unlock()
	m.say(holdKey(digest), h.holding) //nolint:errcheck // what waits is tried again at every tick
	return nil
}

// inputsOf brings the recipe, the lock and every locked file of an attempt to
// this node.
func (m *Member) inputsOf(ctx context.Context, a record.Attempt, log io.Writer) (*record.Recipe, *record.Lock, error) {
	recipe, err := m.recipe(a.Recipe)
	if err != nil {
		return nil, nil, err
	}
	const maxLock = 16 << 20
	if a.Lock.Size > maxLock {
		return nil, nil, fmt.Errorf("the lock has %d bytes, the limit is %d", a.Lock.Size, maxLock)
	}
	if err := m.peers.Fetch(ctx, a.Lock); err != nil {
		return nil, nil, fmt.Errorf("the lock: %w", err)
	}
	lock, err := m.readLock(a)
	if err != nil {
		return nil, nil, err
	}
	if err := m.fetchBuilder(ctx, recipe, lock); err != nil {
		return nil, nil, err
	}
	return recipe, lock, m.inputs.Hold(ctx, recipe, lock, log)
}

// keepInputs has the lock of an attempt and the locked files stay, all or none, for a later
// rebuild must not depend on an upstream. A majority holds them, or there were no attempt.
func (m *Member) keepInputs(a record.Attempt, lock *record.Lock) error {
	wanted := []artifact.SHA256{a.Lock.SHA256}
	for _, e := range lock.Entries {
		wanted = append(wanted, e.File.SHA256)
	}
	for _, b := range lock.Builder {
		wanted = append(wanted, b.SHA256)
	}
	m.pinning.Lock() // who lets go again must not let go what another call counts on
	defer m.pinning.Unlock()
	var fresh []artifact.SHA256
	for _, digest := range wanted {
		isFresh, err := m.store.Keep(digest)
		if isFresh {
			fresh = append(fresh, digest)
		}
		if err != nil {
			for _, digest := range fresh {
				err = errors.Join(err, m.store.Release(digest))
			}
			return fmt.Errorf("keep the locked files: %w", err)
		}
	}
	return nil
}

// keepEarly keeps the inputs of an attempt as soon as it is on the chain: it may be hours
// until there is room to build it, and other files come meanwhile. What cannot be kept now
// is got again for the build.
func (m *Member) keepEarly(a *ledger.Attempt) {
	lock, err := m.readLock(a.Attempt)
	if err == nil {
		err = m.keepInputs(a.Attempt, lock)
	}
	if err != nil {
		m.Log.Debug("inputs of an attempt are not kept before its build", "package", a.Package, "error", err)
	}
}

func (m *Member) recipe(hash record.Hash) (*record.Recipe, error) {
	state, err := m.chain.Recipe(hash)
	if err != nil {
		return nil, fmt.Errorf("recipe %s: %w", hash.Short(), err)
	}
	recipe, err := record.DecodeRecipe(state.Recipe)
	if err != nil {
		return nil, err
	}
	if change := recipe.Change(); change.Digest() != (record.RecipeChange{Files: state.Files, Package: state.Package, Recipe: state.Recipe, Supersedes: recipe.Supersedes}).Digest() {
		return nil, fmt.Errorf("recipe %s: its leaf names other files than the recipe", hash.Short())
	}
	return recipe, nil
}

func (m *Member) readLock(a record.Attempt) (*record.Lock, error) {
	file, err := m.store.Open(a.Lock.SHA256)
	if err != nil {
		return nil, fmt.Errorf("the lock: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, a.Lock.Size+1))
	if err != nil {
		return nil, fmt.Errorf("the lock: %w", err)
	}
	lock, err := record.DecodeLock(data)
	if err != nil {
		return nil, err
	}
	if lock.Recipe != a.Recipe {
		return nil, errors.New("the lock is of another recipe")
	}
	return lock, nil
}

// builder is the published manifest of the recipe's builder image.
func (m *Member) builder(recipe *record.Recipe) (*ledger.Publication, error) {
	image, err := m.chain.ResolveTag(recipe.Builder.Repository(), recipe.Builder.Version())
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, fmt.Errorf("%w: the builder image %s is not published yet", errWaits, recipe.Builder)
	}
	return image, err
}

// fetchBuilder checks that the lock pins a published manifest of the builder
// image, and brings the image's files to this node.
func (m *Member) fetchBuilder(ctx context.Context, recipe *record.Recipe, lock *record.Lock) error {
	if recipe.Builder == "" {
		if len(lock.Builder) > 0 {
			return errors.New("the lock names a builder image, the recipe has none")
		}
		return nil
	}
	image, err := m.builder(recipe)
	if err != nil {
		return err
	}
	if len(lock.Builder) != 1 || lock.Builder[0] != image.Subject.Descriptor() {
		return fmt.Errorf("the lock's builder image is not the published %s", recipe.Builder)
	}
	files, err := m.chain.Files(string(image.Subject.URI) + "#")
	if err != nil {
		return err
	}
	for _, file := range files {
		if m.store.Has(file.Subject.Digest.SHA256) {
			continue
		}
		if err := m.peers.Fetch(ctx, file.Subject.Descriptor()); err != nil {
			return fmt.Errorf("builder image %s: %w", recipe.Builder, err)
		}
	}
	return nil
}

// driveAttempt brings this node's vote on an attempt forward. It tells whether there
// was room to say what it had to say.
func (m *Member) driveAttempt(ctx context.Context, running *sync.WaitGroup, a *ledger.Attempt) (said bool) {
	if !m.builds(a.Attempt.Platform) || a.Attempt.Engine != m.engine.Name() || m.chain.Younger(m.Identity, a) {
		return true
	}
	m.refer(ctx, running, a)
	// Until the outcome a vote that stands on the chain is sent again: a
	// publish leaf needs all equal votes in itself.
	if _, voted := a.VoteOf(m.Identity); voted && !a.Active(m.chain.Time()) {
		return true
	}
	statement, salt, ok, err := m.votes.Outcome(a.ID)
	if err != nil {
		m.Log.Error("cannot read the vote file", "error", err)
		return true
	}
	if ok {
		return m.vote(a, statement, salt)
	}
	// A commit that the chain holds and the vote file does not was made before the
	// file was set back: another result must not follow it.
	if _, committed := a.Committed(m.Identity); committed {
		return true
	}
	if a.Open(m.chain.Time()) {
		m.recallTries(a)
		if slices.Contains(a.Holders, m.Identity) {
			m.start(ctx, running, "keep "+a.ID.String(), classKeep, "", func(context.Context) error { m.keepEarly(a); return nil })
		}
		m.start(ctx, running, buildKey(a.ID), classBuild, "", func(ctx context.Context) error { return m.build(ctx, a) })
	}
	return true
}

// vote sends what the attempt's stage asks for: the commit, and once the
// commits stand on the chain the reveal. It tells whether there was room for it.
func (m *Member) vote(a *ledger.Attempt, statement []byte, salt record.Hash) (said bool) {
	genesis := m.chain.Network().Genesis
	if a.Status == ledger.StatusOpen {
		if a.Active(m.chain.Time()) {
			value := record.CommitValue(genesis, a.ID, m.Identity, salt, statement)
			commit, err := record.SignCommit(genesis, a.ID, m.Identity, value, m.Vote)
			if err != nil {
				m.Log.Error("cannot sign a commit", "error", err)
				return true
			}
			err = m.say("commit "+a.ID.String(), record.Part{Commit: &record.CommitPart{Attempt: a.ID, Commit: commit}})
			if err == nil {
				m.tell(Note{Kind: NoteVoting, Recipe: a.Attempt.Recipe, Attempt: a.Attempt.Number, Lock: a.Attempt.Lock.SHA256})
			}
			return !errors.Is(err, ErrBusy)
		}
		return true
	}
	key := "reveal " + a.ID.String()
	if !m.due(key) {
		return true // before the list is read, which may be long
	}
	attestation, err := record.SignAttestation(a.ID, m.Identity, salt, statement, m.Vote)
	if err != nil {
		m.Log.Error("cannot sign an attestation", "error", err)
		return true
	}
	files, err := m.fileList(a.ID)
	if err != nil {
		m.Log.Error("cannot read a file list", "error", err)
		return true
	}
	if err := m.say(key, record.Part{Reveal: &record.RevealPart{Attestation: attestation, Files: files}}); err != nil {
		return !errors.Is(err, ErrBusy)
	}
	m.mu.Lock()
	first := !m.revealed[a.ID]
	m.revealed[a.ID] = true
	m.mu.Unlock()
	if first {
		m.Log.Info("vote revealed", "package", a.Package, "attempt", a.ID)
	}
	return true
}
