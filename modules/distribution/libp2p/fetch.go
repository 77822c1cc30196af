package libp2p

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/distribution"
	"github.com/pyrsia/appliance/modules/record"
)

const (
	// maxTransfers is how many artifacts are fetched at once; more wait.
	maxTransfers = 64

	// maxSources is how many nodes one artifact is fetched from at once.
	maxSources = 8

	// maxAsking is how many nodes are asked for one artifact at the same time;
	// the next is asked when one has answered no.
	maxAsking = 16

	// firstSlice is how much of the first chunk is a unit of its own, so that a
	// first reader need not wait for a whole chunk.
	firstSlice = 128 << 10

	// maxBreaks is how often a source may break off before it is not asked for
	// this artifact any more.
	maxBreaks = 3

	// askNext and askLast are the first and the longest pause before a node
	// that had nothing is asked again: it may be fetching the same.
	askNext = 200 * time.Millisecond
	askLast = 2 * time.Second

	// ahead is how many chunks from a waiting reader on are fetched in order;
	// beyond them the rarest come first.
	ahead = 4

	chunkSize = distribution.MaxSlice
)

type transferKey struct {
	digest artifact.SHA256
	alone  *transfer // set for one that keeps nothing: it is its caller's own
}

// transfer is one artifact being fetched. It belongs to the host, not to a
// caller: who leaves does not end it.
type transfer struct {
	r        *run
	desc     artifact.Descriptor
	key      transferKey
	download distribution.Download
	began    chan struct{} // closed when download or refusal is set
	refusal  error         // the store's
	first    chan struct{} // closed when the first bytes are proven
	done     chan struct{} // closed at the end; err is set then
	err      error

	mu        sync.Mutex
	sources   map[record.Identity]*source
	pending   int               // questions and sources that are at work
	claims    map[int64][]claim // by unit
	breaks    map[record.Identity]int
	refused   map[record.Identity]bool // not to be asked again for this artifact
	bytes     map[record.Identity]int64
	unnoted   int64         // of them, since the last note
	changed   chan struct{} // closed and replaced when sources or claims change
	streamed  bool          // somebody has opened a reader
	firstOnce sync.Once
}

type claim struct {
	by    record.Identity
	since time.Time
}

// Fetch brings an artifact into the store and returns when it is there. When
// ctx ends it returns and the fetch goes on. It is ErrNoSource when nobody has
// it, and an error with NoRoom when the store does not.
func (h *Host) Fetch(ctx context.Context, desc artifact.Descriptor) error {
	t, err := h.transfer(ctx, desc)
	if err != nil {
		return err
	}
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Open streams an artifact's bytes, each proven before it is read, from the
// store or from other nodes while they arrive in the store. It returns when the
// first bytes are there. When the store has no room they pass through. The
// reader can seek; closing it, or the end of ctx, does not end the fetch.
//
// Nobody who has it, or nobody honest, is ErrNoSource: from Open, or from Read
// when the last source was lost in the middle.
func (h *Host) Open(ctx context.Context, desc artifact.Descriptor) (io.ReadSeekCloser, error) {
	t, err := h.transfer(ctx, desc)
	if noRoom(err) {
		t, err = h.passThrough(desc)
	}
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.streamed = true
	t.mu.Unlock()
	reader := t.download.NewReader(ctx)
	select {
	case <-t.first:
		return reader, nil
	case <-t.done:
		if t.err == nil {
			return reader, nil
		}
		return nil, errors.Join(t.err, reader.Close())
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), reader.Close())
	}
}

// transfer joins the one transfer of a descriptor, or begins it.
func (h *Host) transfer(ctx context.Context, desc artifact.Descriptor) (*transfer, error) {
	r, err := h.running()
	if err != nil {
		return nil, err
	}
	key := transferKey{digest: desc.SHA256}
	r.mu.Lock()
	t := r.transfers[key]
	if t == nil {
		t = r.newTransfer(desc, key)
		r.transfers[key] = t
		r.mu.Unlock()
		if !r.Go(t.run) {
			t.refuseAll(distribution.ErrNotServing)
		}
	} else {
		r.mu.Unlock()
	}
	select {
	case <-t.began:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if t.refusal != nil {
		return nil, t.refusal
	}
	if t.desc != desc {
		return nil, fmt.Errorf("%s is being fetched as %+v, not as %+v", desc.SHA256, t.desc, desc)
	}
	return t, nil
}

func (r *run) newTransfer(desc artifact.Descriptor, key transferKey) *transfer {
	return &transfer{
		r: r, desc: desc, key: key,
		began: make(chan struct{}), first: make(chan struct{}), done: make(chan struct{}), changed: make(chan struct{}),
		sources: map[record.Identity]*source{}, claims: map[int64][]claim{}, refused: map[record.Identity]bool{},
		breaks: map[record.Identity]int{}, bytes: map[record.Identity]int64{},
	}
}

// passThrough is a transfer for one caller that keeps nothing.
func (h *Host) passThrough(desc artifact.Descriptor) (*transfer, error) {
	r, err := h.running()
	if err != nil {
		return nil, err
	}
	t := r.newTransfer(desc, transferKey{digest: desc.SHA256})
	t.key.alone = t
	t.download = r.h.store.Through(desc)
	r.mu.Lock()
	r.transfers[t.key] = t
	r.mu.Unlock()
	close(t.began)
	if !r.Go(func() { t.finish(t.fetch()) }) {
		t.finish(distribution.ErrNotServing)
	}
	return t, nil
}

func noRoom(err error) bool {
	var e interface{ NoRoom() bool }
	return errors.As(err, &e) && e.NoRoom()
}

func unverified(err error) bool {
	var e interface{ Unverified() bool }
	return errors.As(err, &e) && e.Unverified()
}

func (t *transfer) run() {
	select {
	case t.r.slots <- struct{}{}:
		defer func() { <-t.r.slots }()
	case <-t.r.ctx.Done():
		t.refuseAll(distribution.ErrNotServing)
		return
	}
	download, err := t.r.h.store.Begin(t.desc)
	if err != nil {
		t.refuseAll(err)
		return
	}
	t.download = download
	maps.Copy(t.bytes, parseSources(download.Note()))
	close(t.began)
	t.finish(t.fetch())
}

// refuseAll ends a transfer that has not begun.
func (t *transfer) refuseAll(err error) {
	t.refusal = err
	t.finish(err)
	close(t.began)
}

// finish ends the transfer: the blob is committed, or what came is kept for
// the next attempt and readers get the reason.
func (t *transfer) finish(err error) {
	if t.download != nil {
		_ = t.download.SetNote(t.note())
		if err == nil {
			err = t.download.Commit()
		}
		if err != nil {
			t.download.Suspend(err)
		}
	}
	t.r.mu.Lock()
	delete(t.r.transfers, t.key)
	t.r.mu.Unlock()
	t.err = err
	close(t.done)
	if err != nil {
		t.r.h.log.Debug("fetch failed", "sha256", t.desc.SHA256, "error", err)
	}
}

// fetch gets everything that is missing. It asks all connected nodes, lets
// those that have it bring chunks, and asks again when the last one is lost.
func (t *transfer) fetch() error {
	ctx, cancel := context.WithCancel(t.r.ctx)
	var workers sync.WaitGroup
	defer workers.Wait()
	defer cancel()
	round := newRound()
	for {
		if over, err := t.download.Ended(); over {
			return err
		}
		if t.download.Complete() {
			return nil
		}
		joined, moved := t.r.joinedNow(), t.download.Changed()
		for _, id := range t.candidates(round) {
			t.work(1)
			workers.Go(func() {
				defer t.work(-1)
				t.ask(ctx, id)
			})
		}
		changed, pending, busy := t.state()
		if pending == 0 && !t.started() && !t.r.settling() {
			return t.noSource("nobody connected has it")
		}
		if round.starves(!busy && t.short(), t.r.h.timing.Grace) {
			return t.noSource("its last source was lost")
		}
		select {
		case <-ctx.Done():
			return distribution.ErrNotServing
		case <-changed:
		case <-joined:
		case <-moved:
		case <-time.After(askNext):
		}
	}
}

// round remembers when each node may be asked next, and how long nothing has
// been on its way.
type round struct {
	next  map[record.Identity]time.Time
	pause map[record.Identity]time.Duration
	since time.Time
}

func newRound() *round {
	return &round{next: map[record.Identity]time.Time{}, pause: map[record.Identity]time.Duration{}}
}

// due tells whether a node may be asked now, and books the next time.
func (o *round) due(id record.Identity, now time.Time) bool {
	if now.Before(o.next[id]) {
		return false
	}
	o.pause[id] = min(max(2*o.pause[id], askNext), askLast)
	o.next[id] = now.Add(o.pause[id])
	return true
}

// starves tells whether it has been idle for longer than grace.
func (o *round) starves(idle bool, grace time.Duration) bool {
	if !idle {
		o.since = time.Time{}
		return false
	}
	if o.since.IsZero() {
		o.since = time.Now()
	}
	return time.Since(o.since) > grace
}

// short tells whether something is to be fetched now.
func (t *transfer) short() bool {
	_, length := t.download.Missing(0)
	return length > 0
}

func (t *transfer) noSource(why string) error {
	return fmt.Errorf("%w: sha256 %s: %s", distribution.ErrNoSource, t.desc.SHA256, why)
}

func (r *run) joinedNow() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.joined
}

// candidates are connected nodes that are to be asked now.
func (t *transfer) candidates(o *round) []record.Identity {
	var ids []record.Identity
	now := time.Now()
	for _, p := range t.r.host.Network().Peers() {
		id := identity(p)
		t.mu.Lock()
		refused := t.refused[id] || t.sources[id] != nil
		t.mu.Unlock()
		if !refused && !t.r.timedOut(id, now) {
			ids = append(ids, id)
		}
	}
	rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	room := t.askable()
	var due []record.Identity
	for _, id := range ids {
		if len(due) < room && o.due(id, now) {
			due = append(due, id)
		}
	}
	return due
}

// askable is how many more nodes may be asked now.
func (t *transfer) askable() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.sources) >= maxSources {
		return 0
	}
	return maxAsking - (t.pending - len(t.sources))
}

func (r *run) timedOut(id record.Identity, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return now.Before(r.timeouts[id])
}

func (r *run) timeOut(id record.Identity, d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if until := time.Now().Add(d); until.After(r.timeouts[id]) {
		r.timeouts[id] = until
	}
}

func (t *transfer) work(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pending += n
	t.notify()
}

func (t *transfer) notify() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// state tells how many nodes are being asked or fetched from, and whether any
// bytes are on their way.
func (t *transfer) state() (changed <-chan struct{}, pending int, busy bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed, t.pending, len(t.claims) > 0
}

func (t *transfer) started() bool {
	select {
	case <-t.first:
		return true
	default:
		return false
	}
}

// noteEvery is after how many bytes the sources are noted on disk, so that a
// node that is killed still knows whom most of it came from.
const noteEvery = 16 << 20

// arrived accounts proven bytes to the node that sent them.
func (t *transfer) arrived(id record.Identity, n int64) {
	t.mu.Lock()
	t.bytes[id] += n
	t.unnoted += n
	note := t.unnoted >= noteEvery
	if note {
		t.unnoted = 0
	}
	t.mu.Unlock()
	t.firstOnce.Do(func() { close(t.first) })
	if note {
		_ = t.download.SetNote(t.note())
	}
}

// refuse drops a node for this artifact, and for others for a while.
func (t *transfer) refuse(id record.Identity, why error, penalty time.Duration) {
	t.mu.Lock()
	t.refused[id] = true
	t.mu.Unlock()
	t.r.timeOut(id, penalty)
	level := slog.LevelWarn
	if penalty == 0 {
		level = slog.LevelDebug // gone or restarting: no fault
	}
	t.r.h.log.Log(t.r.ctx, level, "source dropped", "peer", id, "sha256", t.desc.SHA256, "reason", why, "for", penalty)
}

// Sources tells how many proven bytes of an artifact came from whom: of one
// that is being fetched, or that was fetched into the store. Bytes that two
// sources sent are counted for both.
func (h *Host) Sources(digest artifact.SHA256) map[record.Identity]int64 {
	if r, err := h.running(); err == nil {
		r.mu.Lock()
		t := r.transfers[transferKey{digest: digest}]
		r.mu.Unlock()
		if t != nil {
			t.mu.Lock()
			defer t.mu.Unlock()
			return maps.Clone(t.bytes)
		}
	}
	return parseSources(h.store.Note(digest))
}

// sourceNote is what is kept beside a blob.
type sourceNote struct {
	Sources map[record.Identity]int64 `json:"sources"`
}

// maxNoted is how many sources a note names.
const maxNoted = 256

func (t *transfer) note() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	note := sourceNote{Sources: map[record.Identity]int64{}}
	for id, n := range t.bytes {
		if len(note.Sources) < maxNoted {
			note.Sources[id] = n
		}
	}
	data, err := json.Marshal(note)
	if err != nil {
		return nil // strings and integers always marshal
	}
	return data
}

// parseSources reads a note; one that is torn says nothing.
func parseSources(data []byte) map[record.Identity]int64 {
	var note sourceNote
	if json.Unmarshal(data, &note) != nil || note.Sources == nil {
		return map[record.Identity]int64{}
	}
	return note.Sources
}
