package publish

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

// Request is an operator's wish to have a package built. Its file lives until
// the request has its outcome.
type Request struct {
	ID      string          `json:"id"`
	Package artifact.PURL   `json:"package"`
	Created int64           `json:"created"` // milliseconds since 1970
	Attempt *record.Attempt `json:"attempt"` // once the lock is resolved
	Expired int             `json:"expired"` // attempts that ended without the members' votes
	Done    bool            `json:"done"`
	Error   string          `json:"error"` // why it ended without a publication
}

func (m *Member) requestFolder() string { return filepath.Join(m.Folder, "requests") }

func (m *Member) loadRequests() error {
	paths, err := filepath.Glob(filepath.Join(m.requestFolder(), "*.json"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read requests: %w", err)
		}
		r := new(Request)
		if err := json.Unmarshal(data, r); err != nil {
			return fmt.Errorf("read request %s: %w; remove the file and ask again", path, err)
		}
		m.requests[r.ID] = r
	}
	return nil
}

// saveRequest makes a request durable as it is now. One that has ended stays so:
// its work may still be under way then.
func (m *Member) saveRequest(r Request) error {
	m.saving <- struct{}{}
	defer func() { <-m.saving }()
	m.mu.Lock()
	known := m.requests[r.ID]
	m.mu.Unlock()
	if known != nil && known.Done {
		return nil
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := filepath.Join(m.requestFolder(), r.ID+".json")
	if err := durable.Replace(m.Disk, path, data); err != nil {
		if known == nil { // nobody was promised it, and asking again is another one
			err = errors.Join(err, m.Disk.RemoveAll(path))
		}
		return fmt.Errorf("keep request: %w", err)
	}
	m.mu.Lock()
	m.requests[r.ID] = &r
	m.mu.Unlock()
	m.changed()
	return nil
}

// RequestBuild asks for a package and returns the request's ID; the same
// package asked for again while it is under way is the same request. The
// request is durable when it returns.
func (m *Member) RequestBuild(pkg artifact.PURL) (string, error) {
	if _, err := m.chain.LiveRecipe(pkg); err != nil {
		if known, wrong := m.hasRecipe(pkg); !known {
			return "", errors.Join(fmt.Errorf("%w for %s on this network; put one into the recipes folder of more than half of the build nodes", ErrNoRecipe, pkg), wrong)
		}
	}
	for _, r := range m.Requests() {
		if r.Package == pkg && !r.Done {
			return r.ID, nil
		}
	}
	id := make([]byte, 6)
	rand.Read(id)
	r := Request{ID: hex.EncodeToString(id), Package: pkg, Created: time.Now().UnixMilli()}
	return r.ID, m.saveRequest(r)
}

// hasRecipe tells whether the operator's folder has a recipe for the package;
// wrong is what is wrong with the files that cannot be read.
func (m *Member) hasRecipe(pkg artifact.PURL) (known bool, wrong error) {
	recipes, wrong := m.Recipes()
	for _, r := range recipes {
		if r.Package == pkg {
			return true, nil
		}
	}
	return false, wrong
}

// Requests are the requests of this node, oldest first.
func (m *Member) Requests() []Request {
	m.mu.Lock()
	defer m.mu.Unlock()
	requests := make([]Request, 0, len(m.requests))
	for _, r := range m.requests {
		requests = append(requests, *r)
	}
	slices.SortFunc(requests, func(a, b Request) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.ID, b.ID))
	})
	return requests
}

// RequestState is where a request stands, for people: a word and an
// explanation.
func (m *Member) RequestState(r Request) (state, reason string) {
	if r.Done && r.Error != "" {
		return "failed", r.Error
	}
	if r.Done {
		return "published", ""
	}
	live, err := m.chain.LiveRecipe(r.Package)
	if err != nil {
		return "recipe-pending", "the recipe waits for the endorsement of more than half of the build nodes"
	}
	if earlier := m.awaits(r, live); earlier != nil {
		until := time.UnixMilli(earlier.Attempt.Deadline).UTC().Format(time.RFC3339)
		reason := fmt.Sprintf("attempt %d is open until %s: its outcome is this request's, or the next attempt begins then", earlier.Attempt.Number, until)
		if why := m.Unpublishable(earlier); why != "" {
			reason += "; " + why
		}
		return "waiting", reason
	}
	if r.Attempt != nil {
		return "holding", "members get the locked files from their own upstreams"
	}
	switch state, err := m.resolveState(r.ID); state {
	case "resting":
		return "resting", strings.Map(printable, err.Error())
	case "waiting":
		return "waiting", strings.Map(printable, err.Error())
	}
	return "resolving", ""
}

// awaits is the attempt of others, or of an earlier request, that a request waits for the
// end of; nil for none.
func (m *Member) awaits(r Request, live *ledger.Recipe) *ledger.Attempt {
	recipe, err := record.DecodeRecipe(live.Recipe)
	if err != nil {
		return nil
	}
	newest, err := m.chain.Newest(live.Hash, recipe.Platform)
	if err != nil || !newest.Active(m.chain.Time()) || r.Attempt != nil && r.Attempt.Number <= newest.Attempt.Number {
		return nil
	}
	return newest
}

func resolveKey(id string, number int64) string { return fmt.Sprintf("resolve %s %d", id, number) }

// resolveState is the state of the newest lock that a request asked for.
func (m *Member) resolveState(id string) (state string, err error) {
	for number := int64(1); number <= ledger.MaxAttempts; number++ {
		if s, e := m.jobState(resolveKey(id, number)); s != "" {
			state, err = s, e
		}
	}
	return state, err
}

// driveRequests brings the requests forward, the oldest first: others hold for one
// asker no more than maxHeard attempts at once.
func (m *Member) driveRequests(ctx context.Context, running *sync.WaitGroup) {
	asks := 0
	for _, r := range m.Requests() {
		if !r.Done && m.driveRequest(ctx, running, r, asks < maxHeard) {
			asks++
		}
	}
}

// driveRequest brings one request forward: to a lock, to an attempt on the
// chain, to its outcome. asks says that this one waits for others to hold its lock,
// which they are asked to if that may be.
func (m *Member) driveRequest(ctx context.Context, running *sync.WaitGroup, r Request, may bool) (asks bool) {
	live, err := m.chain.LiveRecipe(r.Package)
	if err != nil {
		return false
	}
	recipe, err := record.DecodeRecipe(live.Recipe)
	if err != nil {
		m.end(r, err.Error())
		return false
	}
	newest, err := m.chain.Newest(live.Hash, recipe.Platform)
	if err == nil && m.settled(&r, newest) {
		return false
	}
	number := int64(1)
	if err == nil {
		number = newest.Attempt.Number + 1
	}
	if number > ledger.MaxAttempts {
		m.end(r, fmt.Sprintf("the %d attempts of the recipe are spent; let another recipe supersede it", ledger.MaxAttempts))
		return false
	}
	if needs := m.needs(live.Hash); m.limits.Load().Deadline <= needs {
		m.end(r, fmt.Sprintf("build.timeout is %s, and the recipe's own limit with what comes beside it is %s: set build.timeout higher", m.limits.Load().Deadline, needs))
		return false
	}
	if r.Attempt != nil && r.Attempt.Number == number && r.Attempt.Recipe == live.Hash && r.Attempt.Deadline > time.Now().UnixMilli() {
		if reason := m.declined(r); reason != "" {
			m.end(r, reason)
			return false
		}
		if may {
			m.ask(*r.Attempt)
		}
		return true
	}
	if r.Attempt != nil && r.Attempt.Number == number && r.Attempt.Recipe == live.Hash {
		if m.chain.Time() <= r.Attempt.Deadline {
			m.postpone(r)
			return false
		}
		m.end(r, fmt.Sprintf("fewer than %d of %d members held the locked files in time", m.chain.Set().Majority(), m.chain.Set().Size()))
		return false
	}
	key := resolveKey(r.ID, number)
	if state, err := m.jobState(key); state == "resting" {
		m.end(r, err.Error())
		return false
	}
	m.start(ctx, running, key, classResolve, "", func(ctx context.Context) error { return m.resolve(ctx, r, recipe, number) })
	return false
}

// postpone gives an attempt that is not on the chain a later deadline if the chain
// stands still: nobody could take it. Where it does not, the next heartbeat shows that
// the deadline is over.
func (m *Member) postpone(r Request) {
	now := time.Now()
	if now.UnixMilli()-m.chain.Time() < 2*m.chain.Genesis().Timeouts.Heartbeat {
		return
	}
	later := *r.Attempt
	later.Deadline = now.Add(m.limits.Load().Deadline).UnixMilli()
	r.Attempt = &later
	m.remember(r)
}

// declined says why a request is hopeless: so many members decline its lock
// that the others are no majority. It takes as many liars as a standstill.
func (m *Member) declined(r Request) string {
	size := m.chain.Set().Size()
	reasons, hopeless := m.saidOf(r, NoteDeclined)
	if !hopeless {
		return ""
	}
	return fmt.Sprintf("%d of %d members decline the lock: %s", len(reasons), size, strings.Join(reasons, "; "))
}

// saidOf are the members that said something of a request's lock, with their reasons, and
// whether the others are no majority. Another asker's lock of the same attempt may be
// poisoned, and is none of this request's.
func (m *Member) saidOf(r Request, kind NoteKind) (reasons []string, hopeless bool) {
	set := m.chain.Set()
	for _, note := range m.Notes(r.Attempt.Recipe) {
		if note.Kind == kind && note.Attempt == r.Attempt.Number && note.Lock == r.Attempt.Lock.SHA256 && note.At >= r.Created {
			reasons = append(reasons, fmt.Sprintf("…%s: %s", note.From.Short(), note.Text))
		}
	}
	return reasons, set.Size()-len(reasons) < set.Majority()
}

// maxExpired is how many attempts of one request may end without the members' votes:
// they were cut off from each other, perhaps, but the attempts of a recipe are few.
const maxExpired = 3

// settled tells whether the newest attempt of the request's recipe is its
// outcome or may still be. An attempt that expired, though the members did not fail to
// build it, is followed by another one.
func (m *Member) settled(r *Request, newest *ledger.Attempt) bool {
	switch {
	case newest.Status == ledger.StatusPublished:
		m.end(*r, "")
		return true
	case newest.Active(m.chain.Time()):
		return true
	case r.Attempt == nil || r.Attempt.Number > newest.Attempt.Number:
		return false // an earlier attempt failed; this request opens the next one
	case newest.Status == ledger.StatusDisagreed:
		m.end(*r, fmt.Sprintf("the members disagree on attempt %d: no outcome has a majority", newest.Attempt.Number))
		return true
	}
	failed, hopeless := m.saidOf(*r, NoteFailed)
	why := m.Unpublishable(newest)
	// With this request's own lock another attempt would make the same. Whoever asked with
	// another lock must not end it.
	hopeless = hopeless || why != "" && r.Attempt.Digest() == newest.Attempt.Digest()
	if r.Expired++; hopeless || r.Expired >= maxExpired {
		reason := cmp.Or(why, fmt.Sprintf("attempt %d expired: a majority did not vote in time", newest.Attempt.Number))
		if len(failed) > 0 {
			reason += "; it failed on " + strings.Join(failed, "; ")
		}
		m.end(*r, reason)
		return true
	}
	r.Attempt = nil
	m.remember(*r)
	return false
}

// Unpublishable says why what this node built in an attempt can never be published, ""
// where nothing is known against it: a name is published with other bytes, and names never
// change (docs/protocol.md, Names). Members vote on it all the same, for the record shows
// who built what; but no proposer can make a block of it. Another member's result may be
// published still, so that this explains and decides nothing until the attempt has expired.
func (m *Member) Unpublishable(a *ledger.Attempt) string {
	if a.Status != ledger.StatusCommitted {
		return ""
	}
	statement, _, ok, err := m.votes.Outcome(a.ID)
	if err != nil || !ok {
		return ""
	}
	subjects, err := m.ownSubjects(a, statement)
	if err != nil {
		return ""
	}
	for _, s := range subjects {
		published, err := m.chain.Resolve(s.FileName())
		if err != nil || published.Subject.Descriptor() == s.Descriptor() {
			continue
		}
		return fmt.Sprintf("this node built %s as %s, but %s is published under that name, and a published name never changes: only a recipe that makes the same bytes can supersede, anything else wants a version of its own",
			s.FileName().File, s.Digest.SHA256.OCI(), published.Subject.Digest.SHA256.OCI())
	}
	return ""
}

// remember makes a request durable that goes on, or says why it cannot: it is tried again
// at the next step.
func (m *Member) remember(r Request) {
	if err := m.saveRequest(r); err != nil {
		m.Log.Error("cannot keep a request", "error", err)
	}
}

func (m *Member) end(r Request, reason string) {
	r.Done, r.Error = true, strings.Map(printable, reason)
	m.remember(r)
}

// ask sends the attempt with this node's own holding.
func (m *Member) ask(a record.Attempt) {
	holding, err := record.SignHolding(m.chain.Network().Genesis, a, m.Identity, m.Vote)
	if err != nil {
		m.Log.Error("cannot sign a holding", "error", err)
		return
	}
	m.say("ask "+a.Digest().String(), record.Part{Hold: &record.HoldPart{Attempt: a, Holding: holding}}) //nolint:errcheck // what waits is tried again at every tick
}

// resolve makes the lock of a request and holds it itself.
func (m *Member) resolve(ctx context.Context, r Request, recipe *record.Recipe, number int64) error {
	if !m.builds(recipe.Platform) {
		return fmt.Errorf("%w: this node does not build for %s", build.ErrFailed, recipe.Platform)
	}
	log, closeLog, err := m.openLog(r.ID)
	if err != nil {
		return err
	}
	defer closeLog()
	longest := m.limits.Load().Deadline
	ctx, cancel := context.WithTimeoutCause(ctx, longest, fmt.Errorf("its inputs were not found within %v (build.timeout)", longest))
	defer cancel()
	note := Note{Kind: NoteResolving, Recipe: recipe.Hash(), Attempt: number}
	m.tell(note)
	stop := m.repeat(ctx, note)
	defer stop()
	lock, err := m.lockBy(ctx, m.inputs, recipe, r.ID, log)
	if err != nil {
		return err
	}
	d, err := m.store.Put(ctx, bytes.NewReader(record.MustMarshal(lock)))
	if err != nil {
		return fmt.Errorf("keep the lock: %w", err)
	}
	if err := m.inputs.Hold(ctx, recipe, lock, log); err != nil {
		return err
	}
	r.Attempt = &record.Attempt{
		Asker: m.Identity, Deadline: time.Now().Add(m.limits.Load().Deadline).UnixMilli(), Engine: m.engine.Name(),
		Lock: d, Number: number, Platform: recipe.Platform, Recipe: recipe.Hash(),
	}
	return m.saveRequest(r)
}

// ResolveLock makes the lock of a recipe, which need not be on the chain; its
// builder image must be. Nothing of it is kept for ever.
func (m *Member) ResolveLock(ctx context.Context, recipe *record.Recipe, id string, log *os.File) (*record.Lock, error) {
	if m.Tries != nil {
		return m.lockBy(ctx, m.Tries, recipe, id, log)
	}
	return m.lockBy(ctx, m.inputs, recipe, id, log)
}

func (m *Member) lockBy(ctx context.Context, inputs Inputs, recipe *record.Recipe, id string, log *os.File) (*record.Lock, error) {
	folder, err := m.emptyFolder(id + ".resolve")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	job := build.Job{ID: "resolve-" + id, Recipe: recipe, Open: m.store.Open, Folder: folder, Log: log}
	if recipe.Builder != "" {
		image, err := m.builder(recipe)
		if err != nil {
			return nil, err
		}
		job.Builder = image.Subject.Digest.SHA256
		pinned := &record.Lock{Builder: []artifact.Descriptor{image.Subject.Descriptor()}}
		if err := m.fetchBuilder(ctx, recipe, pinned); err != nil {
			return nil, err
		}
	}
	lock, err := inputs.Resolve(ctx, recipe, job)
	if err != nil {
		fmt.Fprintf(log, "error: %v\n", err)
	}
	return lock, err
}

// FindLog is the log file of a request, an attempt or a lock by the beginning
// of its name, or ErrUnknown.
func (m *Member) FindLog(prefix string) (string, error) {
	if prefix == "" || strings.ContainsAny(prefix, `/*?[\`) {
		return "", fmt.Errorf("%w %q", ErrUnknown, prefix)
	}
	paths, err := filepath.Glob(m.LogPath(prefix + "*"))
	if err != nil || len(paths) == 0 {
		return "", errors.Join(err, fmt.Errorf("%w %q on this node", ErrUnknown, prefix))
	}
	return paths[len(paths)-1], nil
}
