// Package attest is the attest quorum: it collects the signed parts of members
// and puts leaves together from them, once enough of all members agree.
//
// The attest quorum decides what is true, the order quorum
// (modules/quorum/order) what comes next. A part is checked by itself when it
// comes in; whether a leaf is valid is for the ledger's rules alone, so that a
// wrong candidate costs a proposer nothing but the candidate.
//
// Everything here is pure: no file, socket, clock or goroutine. A Pool serves
// one goroutine. Its size is bounded per member, so that no member can make
// another forget.
package attest

import (
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

// ErrRefused is wrapped by Add for a part that is not taken.
var ErrRefused = errors.New("part refused")

// ErrEarly is wrapped, beside ErrRefused, where the chain here may only be
// behind the sender's: the part may be taken after the next block.
var ErrEarly = errors.New("ahead of the chain")

// ErrFull is wrapped, beside ErrRefused, where a member has as much waiting as it may:
// it is to say it again when the chain has taken some.
var ErrFull = errors.New("too much waits")

// Bounds per member.
const (
	maxChanges     = 10_000   // endorsed and not yet on the chain
	maxChangeBytes = 64 << 20 // of the changes endorsed
	MaxAttempts    = 64       // that it was the first to hold, and not yet on the chain
	maxReveals     = 256      // attempts revealed or voted on late, and not yet on the chain
	maxRevealBytes = 64 << 20 // of these, with their lists of files

	// Committed to and not yet on the chain: as many as can be recollected, so that
	// what a member forgot is told to it whole.
	maxCommits = record.MaxRecalledCommits
)

// View is what the pool reads of the chain.
type View interface {
	Network() record.Network
	Set() *record.Set
	Height() int64
	Recipe(hash record.Hash) (*ledger.Recipe, error)
	Newest(recipe record.Hash, platform string) (*ledger.Attempt, error)
	Attempt(id record.Hash) (*ledger.Attempt, error)
	SetAt(height int64) (*record.Set, error)
	// UsedKey tells whether a key is or was a member's.
	UsedKey(key record.PublicKey) bool
	// Younger tells whether a member's keys are younger than an attempt.
	Younger(id record.Identity, a *ledger.Attempt) bool
	// Accused tells whether an offence needs no further evidence.
	Accused(o record.Offence) bool
}

// Pool holds the parts that are not on the chain yet.
type Pool struct {
	view     View
	changes  map[record.Hash]*change
	endorsed map[record.Identity]load
	attempts map[record.Hash]*holdings
	votes    map[record.Hash]*votes // by attempt leaf hash

	rotations map[record.Identity]record.NodeRecord // the highest of each member
	evidence  map[record.Offence]*record.EvidenceLeaf
	set       *record.Set // under which the parts were checked

	// Attempts as they are at a height: a part comes again and again, and the
	// state of an attempt changes with blocks only.
	at     int64
	states map[record.Hash]*ledger.Attempt
}

// attempt is an attempt's state on the chain; it must not be changed.
func (p *Pool) attempt(id record.Hash) (*ledger.Attempt, error) {
	if height := p.view.Height(); p.states == nil || p.at != height {
		p.at, p.states = height, map[record.Hash]*ledger.Attempt{}
	}
	if state := p.states[id]; state != nil {
		return state, nil
	}
	state, err := p.view.Attempt(id)
	if err == nil {
		p.states[id] = state
	}
	return state, err
}

// load is how much of the pool a member fills with endorsed changes.
type load struct{ changes, bytes int }

type change struct {
	change       record.RecipeChange
	size         int // bytes that it takes here, about
	endorsements map[record.Identity]record.Endorsement
}

type holdings struct {
	attempt  record.Attempt
	first    record.Identity // whose share it is of
	holdings map[record.Identity]record.Holding
}

type votes struct {
	commits map[record.Identity]record.Commit
	reveals map[record.Identity]record.Attestation
	lists   map[record.Hash][]record.Subject // by statement digest
	sizes   map[record.Identity]int          // bytes that a reveal takes here, about

	enough int64 // when a majority had committed, milliseconds; 0 before
	agreed int64 // when a majority had revealed the same, milliseconds; 0 before
}

// NewPool is an empty pool over a chain.
func NewPool(view View) *Pool {
	return &Pool{
		view: view, changes: map[record.Hash]*change{}, endorsed: map[record.Identity]load{},
		attempts: map[record.Hash]*holdings{}, votes: map[record.Hash]*votes{},
		rotations: map[record.Identity]record.NodeRecord{}, evidence: map[record.Offence]*record.EvidenceLeaf{}, set: view.Set(),
	}
}

// Add checks a part and keeps it. added is false for one that is known already
// or that the chain is past.
func (p *Pool) Add(part record.Part) (added bool, err error) {
	switch {
	case part.Endorse != nil:
		return p.endorse(*part.Endorse)
	case part.Hold != nil:
		return p.hold(*part.Hold)
	case part.Commit != nil:
		return p.commit(*part.Commit)
	case part.Reveal != nil:
		return p.reveal(*part.Reveal)
	case part.Rotate != nil:
		return p.rotate(*part.Rotate)
	case part.Evidence != nil:
		return p.accuse(part.Evidence)
	}
	return false, fmt.Errorf("%w: empty", ErrRefused)
}

func (p *Pool) endorse(e record.EndorsePart) (bool, error) {
	// First what is too large for any leaf: nothing of it is worth a look.
	size := len(e.Change.Recipe)
	for _, name := range e.Change.Files {
		size += len(name.File) + len(name.Package)
	}
	if size > record.MaxLeaf {
		return false, fmt.Errorf("%w: a recipe with names of %d bytes fits no leaf", ErrRefused, size)
	}
	digest := e.Change.Digest()
	if e.Endorsement.Change != digest {
		return false, fmt.Errorf("%w: endorsement of another change", ErrRefused)
	}
	if _, err := p.view.Recipe(e.Change.RecipeHash()); err == nil {
		return false, nil
	}
	known := p.changes[digest]
	if known != nil {
		if old, ok := known.endorsements[e.Endorsement.Identity]; ok && old.Seq >= e.Endorsement.Seq {
			return false, nil
		}
	}
	if err := e.Endorsement.Check(p.view.Network().Genesis, p.view.Set(), p.view.Height()+1); err != nil {
		return false, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	id := e.Endorsement.Identity
	if known == nil {
		known = &change{change: e.Change, size: size, endorsements: map[record.Identity]record.Endorsement{}}
	}
	if _, again := known.endorsements[id]; !again {
		l := p.endorsed[id]
		if l.changes >= maxChanges || l.bytes+size > maxChangeBytes {
			return false, fmt.Errorf("%w: %w: too many endorsed recipes of %s are waiting", ErrRefused, ErrFull, id)
		}
		p.endorsed[id] = load{l.changes + 1, l.bytes + size}
	}
	p.changes[digest] = known
	known.endorsements[id] = e.Endorsement
	return true, nil
}

// withdraw drops a member's endorsement from the pool.
func (p *Pool) withdraw(c *change, id record.Identity) {
	delete(c.endorsements, id)
	l := p.endorsed[id]
	p.endorsed[id] = load{l.changes - 1, l.bytes - c.size}
}

func (p *Pool) hold(h record.HoldPart) (bool, error) {
	if a := h.Attempt; len(a.Engine) > ledger.MaxLabel || len(a.Platform) > ledger.MaxLabel {
		return false, fmt.Errorf("%w: an attempt with an engine's or platform's name of more than %d bytes", ErrRefused, ledger.MaxLabel)
	}
	if !p.awaited(h.Attempt) {
		return false, nil
	}
	digest := h.Attempt.Digest()
	known := p.attempts[digest]
	if known != nil {
		if _, ok := known.holdings[h.Holding.Identity]; ok {
			return false, nil
		}
	}
	if known == nil && p.firstHeldBy(h.Holding.Identity) >= MaxAttempts {
		return false, fmt.Errorf("%w: %w: too many attempts of %s are waiting", ErrRefused, ErrFull, h.Holding.Identity)
	}
	if err := h.Holding.Check(p.view.Network().Genesis, p.view.Set(), h.Attempt); err != nil {
		return false, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if known == nil {
		known = &holdings{attempt: h.Attempt, first: h.Holding.Identity, holdings: map[record.Identity]record.Holding{}}
		p.attempts[digest] = known
	}
	known.holdings[h.Holding.Identity] = h.Holding
	return true, nil
}

func (p *Pool) firstHeldBy(id record.Identity) (n int) {
	for _, h := range p.attempts {
		if h.first == id {
			n++
		}
	}
	return n
}

// awaited tells whether the attempt could still open: its recipe is live and
// it is the next one by number.
func (p *Pool) awaited(a record.Attempt) bool {
	recipe, err := p.view.Recipe(a.Recipe)
	if err != nil || !recipe.Live {
		return false
	}
	last, err := p.view.Newest(a.Recipe, a.Platform)
	if err != nil {
		return a.Number == 1
	}
	return a.Number == last.Attempt.Number+1
}

// votesFor is what there is of an attempt, and its state on the chain. Of one that
// nobody said anything of it is empty, and the pool's only once something is added.
func (p *Pool) votesFor(attempt record.Hash) (*votes, *ledger.Attempt, error) {
	state, err := p.attempt(attempt)
	if err != nil {
		return nil, nil, err
	}
	if v := p.votes[attempt]; v != nil {
		return v, state, nil
	}
	return &votes{
		commits: map[record.Identity]record.Commit{}, reveals: map[record.Identity]record.Attestation{},
		lists: map[record.Hash][]record.Subject{}, sizes: map[record.Identity]int{},
	}, state, nil
}

// share is how much of the pool a member fills with commits and reveals.
type share struct{ commits, reveals, bytes int }

func (p *Pool) shareOf(id record.Identity) (s share) {
	for attempt, v := range p.votes {
		if _, ok := v.commits[id]; ok && p.isOpen(attempt) {
			s.commits++
		}
		if _, ok := v.reveals[id]; ok {
			s.reveals++
			s.bytes += v.sizes[id]
		}
	}
	return s
}

func (p *Pool) isOpen(attempt record.Hash) bool {
	state, err := p.attempt(attempt)
	return err == nil && state.Status == ledger.StatusOpen
}

// errShare is why a part has to wait: its member fills its share of the pool. It is
// sent again when the chain has taken some.
func errShare(id record.Identity) error {
	return fmt.Errorf("%w: %w: too many commits or reveals of %s are waiting", ErrRefused, ErrFull, id)
}

func (p *Pool) commit(c record.CommitPart) (bool, error) {
	v, state, err := p.votesFor(c.Attempt)
	if err != nil {
		return false, early("commit", err, c.Commit.Check(p.view.Network().Genesis, c.Attempt, p.view.Set()))
	}
	if known, ok := said(v, state, c.Commit.Identity); ok {
		if known.Value == c.Commit.Value {
			return false, nil
		}
		return p.accuse(record.NewCommitEvidence(c.Attempt, known, c.Commit))
	}
	if state.Status != ledger.StatusOpen {
		return false, nil
	}
	if p.view.Younger(c.Commit.Identity, state) {
		return false, fmt.Errorf("%w: the keys of %s are younger than the attempt", ErrRefused, c.Commit.Identity)
	}
	if err := c.Commit.Check(p.view.Network().Genesis, c.Attempt, p.view.Set()); err != nil {
		return false, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if p.shareOf(c.Commit.Identity).commits >= maxCommits {
		return false, errShare(c.Commit.Identity)
	}
	v.commits[c.Commit.Identity] = c.Commit
	p.votes[c.Attempt] = v
	return true, nil
}

// early is the error for a part of an attempt that is not known here, or not that
// far. Who keeps it keeps what its author signed: one whose signature does not
// verify is not early, and not malformed either, since the author may have other
// keys on a chain that is ahead of this one.
func early(what string, why, check error) error {
	if check != nil {
		return fmt.Errorf("%w: %s ahead of the chain, not verified: %v", ErrRefused, what, check)
	}
	return fmt.Errorf("%w: %w: %s: %w", ErrRefused, ErrEarly, what, why)
}

var errOpen = errors.New("before the commits stand")

// said is the commit of a member that is known of an attempt.
func said(v *votes, state *ledger.Attempt, id record.Identity) (record.Commit, bool) {
	if c, ok := v.commits[id]; ok {
		return c, true
	}
	for _, c := range state.Commits {
		if c.Identity == id {
			return c, true
		}
	}
	return record.Commit{}, false
}

func (p *Pool) reveal(r record.RevealPart) (bool, error) {
	a := r.Attestation
	v, state, err := p.votesFor(a.Attempt)
	if err == nil && state.Status == ledger.StatusOpen {
		err = errOpen
	}
	if err != nil {
		_, check := p.checkReveal(r, p.opens(a))
		return false, early("reveal", err, check)
	}
	// A vote that stands on the chain may be needed again in the publish leaf.
	_, voted := state.VoteOf(a.Identity)
	if _, known := v.reveals[a.Identity]; known || (voted && state.Status != ledger.StatusCommitted) {
		return false, nil
	}
	committed, ok := state.Committed(a.Identity)
	if !ok {
		// It would wait for ever: no leaf may hold it.
		if p.view.Younger(a.Identity, state) {
			return false, fmt.Errorf("%w: the keys of %s are younger than the attempt", ErrRefused, a.Identity)
		}
		committed = p.opens(a)
	}
	listed, err := p.checkReveal(r, committed)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	size := sizeOf(r)
	if s := p.shareOf(a.Identity); s.reveals >= maxReveals || s.bytes+size > maxRevealBytes {
		return false, errShare(a.Identity)
	}
	if listed {
		v.lists[record.Digest(a.Statement)] = r.Files
	}
	v.reveals[a.Identity], v.sizes[a.Identity] = a, size
	p.votes[a.Attempt] = v
	return true, nil
}

// sizeOf is what a reveal takes in memory, about.
func sizeOf(r record.RevealPart) int {
	size := 1024 + len(r.Attestation.Statement)
	for i := range r.Files {
		size += 512 + len(r.Files[i].Name) + len(r.Files[i].URI)
	}
	return size
}

// opens is the commit that an attestation opens.
func (p *Pool) opens(a record.Attestation) record.Hash {
	return record.CommitValue(p.view.Network().Genesis, a.Attempt, a.Identity, a.Salt, a.Statement)
}

// checkReveal verifies a reveal of a commit, and tells whether it brings a list of
// files.
func (p *Pool) checkReveal(r record.RevealPart, committed record.Hash) (listed bool, err error) {
	a := r.Attestation
	if err := a.Check(p.view.Network().Genesis, p.view.Set(), committed); err != nil {
		return false, err
	}
	statement, err := record.DecodeStatement(a.Statement)
	if err != nil {
		return false, err
	}
	if !statement.HasFileList() {
		if len(r.Files) > 0 {
			return false, errFiles
		}
		return false, nil
	}
	return true, record.CheckFileList(statement, r.Files)
}

var errFiles = errors.New("files beside a statement that lists them")

// Patience is how long leaves wait for members that are known to be at work,
// so that a slower honest member's vote is not left out. It is the proposer's
// manners, not a rule.
type Patience struct {
	Commit int64 // milliseconds after a majority committed, at the least; as long again as the majority took, at the most
	Reveal int64 // milliseconds after a majority revealed the same
}

// Candidates are the leaves that can be put together now, in the order
// key-rotate, evidence, recipe, attempt, commits, publish, attest. now is in milliseconds since 1970;
// working tells whether a member is connected and at work on the attempt.
//
// A publication that needs a block of its own comes before everything at every
// second height, or it would wait for as long as there is anything else; and votes
// that only go on the record come last and few at a time, or one member with old ones
// would keep publications waiting.
func (p *Pool) Candidates(now int64, patience Patience, working func(record.Identity, record.Hash) bool) [][]record.Leaf {
	p.prune(now)
	candidates := p.memberLeaves()
	majority := p.view.Set().Majority()
	for _, digest := range sortedKeys(p.changes) {
		if c := p.changes[digest]; len(c.endorsements) >= majority {
			candidates = append(candidates, []record.Leaf{&record.RecipeLeaf{Change: c.change, Endorsements: sortedParts(c.endorsements)}})
		}
	}
	for _, digest := range sortedKeys(p.attempts) {
		if h := p.attempts[digest]; len(h.holdings) >= majority {
			candidates = append(candidates, []record.Leaf{&record.AttemptLeaf{Attempt: h.attempt, Holdings: sortedParts(h.holdings)}})
		}
	}
	var large, last [][]record.Leaf
	for _, attempt := range sortedKeys(p.votes) {
		for _, leaves := range p.voteLeaves(attempt, now, patience, working) {
			switch {
			case leaves[0].LeafType() == record.TypeAttest:
				last = append(last, leaves)
			case len(leaves) > fewFiles && p.view.Height()%2 == 0:
				large = append(large, leaves)
			default:
				candidates = append(candidates, leaves)
			}
		}
	}
	return slices.Concat(large, candidates, last[:min(len(last), maxAttests)])
}

const (
	fewFiles   = 15 // leaves of one publication that are sure to fit beside others: each has up to 64 KiB
	maxAttests = 16 // attest leaves that are tried for one block
)

func (p *Pool) voteLeaves(id record.Hash, now int64, patience Patience, working func(record.Identity, record.Hash) bool) [][]record.Leaf {
	v := p.votes[id]
	state, err := p.attempt(id)
	if err != nil {
		return nil
	}
	switch {
	case now > state.Attempt.Deadline && state.Status == ledger.StatusCommitted:
		return attestLeaves(state, v, record.Hash{}, false) // nothing is published any more: show who said what
	case state.Status == ledger.StatusOpen:
		if p.committed(v, state, now, patience, working) {
			return [][]record.Leaf{{&record.CommitsLeaf{Attempt: id, Commits: sortedParts(v.commits)}}}
		}
		return nil
	case state.Status == ledger.StatusCommitted:
		return p.outcome(v, state, now, patience, working)
	default:
		return attestLeaves(state, v, record.Hash{}, false)
	}
}

// committed tells whether the commits may be fixed: a majority has committed,
// and nobody who is at work is left out, within patience.
func (p *Pool) committed(v *votes, state *ledger.Attempt, now int64, patience Patience, working func(record.Identity, record.Hash) bool) bool {
	if len(v.commits) < p.view.Set().Majority() {
		return false
	}
	if v.enough == 0 {
		v.enough = now
	}
	if now >= v.enough+max(patience.Commit, v.enough-state.Time) {
		return true
	}
	for _, node := range p.view.Set().Nodes {
		if _, ok := v.commits[node.Identity]; !ok && working(node.Identity, state.ID) {
			return false
		}
	}
	return true
}

// outcome is the publication with the dissent, or the dissent alone when no
// statement can reach a majority any more.
func (p *Pool) outcome(v *votes, state *ledger.Attempt, now int64, patience Patience, working func(record.Identity, record.Hash) bool) [][]record.Leaf {
	counts, best, outstanding := map[record.Hash]int{}, record.Hash{}, 0
	for _, commit := range state.Commits {
		a, revealed := v.reveals[commit.Identity]
		if !revealed {
			outstanding++
			continue
		}
		digest := record.Digest(a.Statement)
		counts[digest]++
		if counts[digest] > counts[best] {
			best = digest
		}
	}
	majority := p.view.Set().Majority()
	if counts[best] < majority {
		if counts[best]+outstanding < majority {
			return attestLeaves(state, v, record.Hash{}, true)
		}
		return nil
	}
	if v.agreed == 0 {
		v.agreed = now
	}
	if outstanding > 0 && now < v.agreed+patience.Reveal && p.awaitsReveal(v, state, working) {
		return nil
	}
	return append([][]record.Leaf{publication(state, v, best, majority)}, attestLeaves(state, v, best, true)...)
}

func (p *Pool) awaitsReveal(v *votes, state *ledger.Attempt, working func(record.Identity, record.Hash) bool) bool {
	for _, commit := range state.Commits {
		if _, revealed := v.reveals[commit.Identity]; !revealed && working(commit.Identity, state.ID) {
			return true
		}
	}
	return false
}

func publication(state *ledger.Attempt, v *votes, digest record.Hash, majority int) []record.Leaf {
	var equal []record.Attestation
	for _, a := range sortedParts(v.reveals) {
		if _, committed := state.Committed(a.Identity); committed && record.Digest(a.Statement) == digest {
			equal = append(equal, a)
		}
	}
	return append(FileLeaves(state.ID, v.lists[digest]), publishLeaf(state.ID, equal, majority))
}

// publishLeaf leaves out what does not fit beyond a majority: that follows in
// an attest leaf.
func publishLeaf(attempt record.Hash, equal []record.Attestation, majority int) *record.PublishLeaf {
	for {
		envelope, reveals := record.NewEnvelope(equal)
		leaf := &record.PublishLeaf{Attempt: attempt, Envelope: envelope, Reveals: reveals}
		if _, err := record.EncodeLeaf(leaf); err == nil || len(equal) <= majority {
			return leaf
		}
		equal = equal[:len(equal)-1]
	}
}

// FileLeaves cuts a file list into files leaves that each fit. The list may be
// nil.
func FileLeaves(attempt record.Hash, files []record.Subject) []record.Leaf {
	if len(files) == 0 {
		return nil
	}
	list := record.Digest(record.MustMarshal(files))
	const room = record.MaxLeaf - 1024
	var parts [][]record.Subject
	size := room
	for _, file := range files {
		n := len(record.MustMarshal(file)) + 1
		if size+n > room {
			parts, size = append(parts, nil), 0
		}
		parts[len(parts)-1] = append(parts[len(parts)-1], file)
		size += n
	}
	var leaves []record.Leaf
	for i, part := range parts {
		leaves = append(leaves, &record.FilesLeaf{Attempt: attempt, List: list, Part: int64(i), Parts: int64(len(parts)), Files: part})
	}
	return leaves
}

// attestLeaves are one attest leaf for each revealed statement but the given
// one, of the votes that are not on the chain. While an attempt is active the votes
// of those who did not commit have to wait: they would make the leaf invalid for the
// others.
func attestLeaves(state *ledger.Attempt, v *votes, published record.Hash, active bool) [][]record.Leaf {
	byStatement := map[record.Hash][]record.Attestation{}
	for _, a := range sortedParts(v.reveals) {
		digest := record.Digest(a.Statement)
		_, voted := state.VoteOf(a.Identity)
		_, committed := state.Committed(a.Identity)
		if digest == published || voted || !committed && active {
			continue
		}
		byStatement[digest] = append(byStatement[digest], a)
	}
	var candidates [][]record.Leaf
	for _, digest := range sortedKeys(byStatement) {
		for equal := byStatement[digest]; len(equal) > 0; {
			leaf, rest := attestLeaf(state.ID, equal)
			candidates, equal = append(candidates, []record.Leaf{leaf}), rest
		}
	}
	return candidates
}

// attestLeaf is a leaf of as many equal votes as fit into one, and the rest.
func attestLeaf(attempt record.Hash, equal []record.Attestation) (leaf *record.AttestLeaf, rest []record.Attestation) {
	for n := len(equal); ; n-- {
		envelope, reveals := record.NewEnvelope(equal[:n])
		leaf = &record.AttestLeaf{Attempt: attempt, Envelope: envelope, Reveals: reveals}
		if _, err := record.EncodeLeaf(leaf); err == nil || n == 1 {
			return leaf, equal[n:]
		}
	}
}

// prune drops what the chain or the clock is past.
func (p *Pool) prune(now int64) {
	p.follow()
	for digest, c := range p.changes {
		_, err := p.view.Recipe(c.change.RecipeHash())
		for id, e := range c.endorsements {
			if e.LastHeight <= p.view.Height() || err == nil {
				p.withdraw(c, id)
			}
		}
		if len(c.endorsements) == 0 {
			delete(p.changes, digest)
		}
	}
	for digest, h := range p.attempts {
		if !p.awaited(h.attempt) || h.attempt.Deadline < now {
			delete(p.attempts, digest)
		}
	}
	for id, v := range p.votes {
		state, err := p.attempt(id)
		if err != nil {
			continue
		}
		if now <= state.Attempt.Deadline && (state.Status == ledger.StatusOpen || state.Status == ledger.StatusCommitted) {
			continue
		}
		clear(v.lists) // of a publication that there is, or that there will not be
		for identity := range v.reveals {
			_, voted := state.VoteOf(identity)
			if _, committed := state.Committed(identity); voted || !committed && p.view.Younger(identity, state) {
				delete(v.reveals, identity)
			}
		}
		if len(v.reveals) == 0 {
			delete(p.votes, id)
		}
	}
}

// Progress is who supports what is not on the chain yet, for people.
type Progress struct {
	Package   artifact.PURL
	Recipe    record.Hash
	Attempt   int64 // number; 0 for a recipe that waits for endorsements
	Members   []record.Identity
	Threshold int
}

// Waiting lists the recipes and attempts that wait for more members, sorted.
func (p *Pool) Waiting() []Progress {
	p.prune(0)
	waiting := []Progress{}
	for _, digest := range sortedKeys(p.changes) {
		c := p.changes[digest]
		waiting = append(waiting, Progress{Package: c.change.Package, Recipe: c.change.RecipeHash(), Members: members(c.endorsements), Threshold: p.view.Set().Majority()})
	}
	for _, digest := range sortedKeys(p.attempts) {
		h := p.attempts[digest]
		progress := Progress{Recipe: h.attempt.Recipe, Attempt: h.attempt.Number, Members: members(h.holdings), Threshold: p.view.Set().Majority()}
		if recipe, err := p.view.Recipe(h.attempt.Recipe); err == nil {
			progress.Package = recipe.Package
		}
		waiting = append(waiting, progress)
	}
	return waiting
}

// CommittedBy are the members whose commit for an attempt is in the pool.
func (p *Pool) CommittedBy(attempt record.Hash) []record.Identity {
	if v := p.votes[attempt]; v != nil {
		return members(v.commits)
	}
	return nil
}

func members[T any](parts map[record.Identity]T) []record.Identity {
	ids := make([]record.Identity, 0, len(parts))
	for id := range parts {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func sortedParts[T any](parts map[record.Identity]T) []T {
	values := make([]T, 0, len(parts))
	for _, id := range members(parts) {
		values = append(values, parts[id])
	}
	return values
}

func sortedKeys[T any](m map[record.Hash]T) []record.Hash {
	keys := make([]record.Hash, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Slice(keys, func(i, j int) bool { return string(keys[i][:]) < string(keys[j][:]) })
	return keys
}
