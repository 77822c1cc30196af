package ledger

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// Bounds of the rules (docs/protocol.md, "Attempts").
const (
	MaxAttempts = 8                   // per recipe and platform
	MaxDeadline = 24 * 60 * 60 * 1000 // milliseconds after the block's time
	MaxFiles    = 10_000              // of one recipe or publication
)

// Rules applies the leaves of one block to a transaction. It serves one
// goroutine.
type Rules struct {
	tx      Tx
	network record.Network
	set     *record.Set
	height  int64
	time    int64
	files   *fileList // of the files leaves before their publish leaf
}

type fileList struct {
	attempt, list record.Hash
	next, parts   int64
	files         []record.Subject
}

var errRule = errors.New("breaks a rule")

// NewRules are the rules for one block: its height and its header's time in
// milliseconds since 1970.
func NewRules(tx Tx, network record.Network, set *record.Set, height, time int64) *Rules {
	return &Rules{tx: tx, network: network, set: set, height: height, time: time}
}

// Apply checks one leaf and makes its changes.
func (r *Rules) Apply(index int64, hash record.Hash, leaf record.Leaf) error {
	if r.files != nil && leaf.LeafType() != record.TypeFiles && leaf.LeafType() != record.TypePublish {
		return fmt.Errorf("%w: files leaves without their publish leaf", errRule)
	}
	switch leaf := leaf.(type) {
	case *record.RecipeLeaf:
		return r.recipe(index, leaf)
	case *record.AttemptLeaf:
		return r.attempt(index, hash, leaf)
	case *record.CommitsLeaf:
		return r.commits(leaf)
	case *record.FilesLeaf:
		return r.fileList(leaf)
	case *record.PublishLeaf:
		return r.publish(index, leaf)
	case *record.AttestLeaf:
		return r.attest(index, leaf)
	default:
		return fmt.Errorf("%w: a %s leaf cannot stand here", errRule, leaf.LeafType())
	}
}

// End checks what must hold at the end of a block or of a candidate.
func (r *Rules) End() error {
	if r.files != nil {
		return fmt.Errorf("%w: files leaves without their publish leaf", errRule)
	}
	return nil
}

func (r *Rules) recipe(index int64, leaf *record.RecipeLeaf) error {
	change := leaf.Change
	if _, err := artifact.ParsePURL(string(change.Package)); err != nil {
		return err
	}
	if err := checkNames(change.Files); err != nil {
		return err
	}
	if err := r.endorsed(leaf); err != nil {
		return err
	}
	hash := change.RecipeHash()
	if r.tx.Get(bucketRecipes, hash[:]) != nil {
		return fmt.Errorf("%w: recipe %s is on the chain already", errRule, hash.Short())
	}
	superseded, err := r.supersede(change)
	if err != nil {
		return err
	}
	for _, name := range change.Files {
		if owner := r.tx.Get(bucketOwners, []byte(name.String())); owner != nil && string(owner) != superseded {
			return fmt.Errorf("%w: %s belongs to another live recipe", errRule, name)
		}
	}
	return r.adopt(Recipe{Hash: hash, Leaf: index, Height: r.height, Package: change.Package, Files: change.Files, Live: true, Recipe: change.Recipe})
}

func checkNames(names []artifact.Name) error {
	if len(names) == 0 || len(names) > MaxFiles {
		return fmt.Errorf("%w: %d files", errRule, len(names))
	}
	for i, name := range names {
		if err := name.Check(); err != nil {
			return err
		}
		if i > 0 && names[i-1].String() >= name.String() {
			return fmt.Errorf("%w: files are not sorted, one each", errRule)
		}
	}
	return nil
}

func (r *Rules) endorsed(leaf *record.RecipeLeaf) error {
	digest := leaf.Change.Digest()
	for i, e := range leaf.Endorsements {
		if i > 0 && leaf.Endorsements[i-1].Identity >= e.Identity {
			return fmt.Errorf("%w: endorsements are not sorted, one each", errRule)
		}
		if e.Change != digest {
			return fmt.Errorf("%w: an endorsement is of another change", errRule)
		}
		if err := e.Check(r.network.Genesis, r.set, r.height); err != nil {
			return err
		}
	}
	if len(leaf.Endorsements) < r.set.Majority() {
		return fmt.Errorf("%w: %d endorsements, want %d", errRule, len(leaf.Endorsements), r.set.Majority())
	}
	return nil
}

// supersede ends the live recipe of the package, which the change must name.
// It returns the ended recipe's hash as stored in the owners bucket.
func (r *Rules) supersede(change record.RecipeChange) (string, error) {
	live := r.tx.Get(bucketLive, []byte(change.Package))
	if live == nil {
		if change.Supersedes != "" {
			return "", fmt.Errorf("%w: it supersedes a recipe, but %s has none", errRule, change.Package)
		}
		return "", nil
	}
	var old Recipe
	if err := GetJSON(r.tx, bucketRecipes, live, &old); err != nil {
		return "", err
	}
	if change.Supersedes != old.Hash.String() {
		return "", fmt.Errorf("%w: %s has the live recipe %s, which it does not supersede", errRule, change.Package, old.Hash.Short())
	}
	old.Live = false
	return string(live), PutJSON(r.tx, bucketRecipes, live, old)
}

func (r *Rules) adopt(state Recipe) error {
	for _, name := range state.Files {
		if err := r.tx.Put(bucketOwners, []byte(name.String()), state.Hash[:]); err != nil {
			return err
		}
	}
	if err := r.tx.Put(bucketLive, []byte(state.Package), state.Hash[:]); err != nil {
		return err
	}
	return PutJSON(r.tx, bucketRecipes, state.Hash[:], state)
}

// newest is the number of attempts of a recipe on a platform and the newest
// one's hash.
type newest struct {
	Number int64       `json:"number"`
	ID     record.Hash `json:"id"`
}

func newestKey(recipe record.Hash, platform string) []byte {
	return append(recipe[:], platform...)
}

func (r *Rules) attempt(index int64, hash record.Hash, leaf *record.AttemptLeaf) error {
	a := leaf.Attempt
	var recipe Recipe
	if err := GetJSON(r.tx, bucketRecipes, a.Recipe[:], &recipe); err != nil || !recipe.Live {
		return fmt.Errorf("%w: recipe %s is not live", errRule, a.Recipe.Short())
	}
	if a.Platform == "" || a.Engine == "" || a.Lock.Size < 0 {
		return fmt.Errorf("%w: attempt without platform, engine or lock", errRule)
	}
	if a.Deadline <= r.time || a.Deadline > r.time+MaxDeadline {
		return fmt.Errorf("%w: its deadline is past or too far", errRule)
	}
	if err := r.follows(a); err != nil {
		return err
	}
	if err := r.held(leaf); err != nil {
		return err
	}
	if err := PutJSON(r.tx, bucketNewest, newestKey(a.Recipe, a.Platform), newest{a.Number, hash}); err != nil {
		return err
	}
	state := Attempt{ID: hash, Leaf: index, Height: r.height, Time: r.time, Attempt: a, Package: recipe.Package, Status: StatusOpen}
	for _, h := range leaf.Holdings {
		state.Holders = append(state.Holders, h.Identity)
	}
	return r.putAttempt(state)
}

// follows holds attempts of one recipe and platform apart: one at a time, n+1
// only when n disagreed or expired, and not more than MaxAttempts.
func (r *Rules) follows(a record.Attempt) error {
	var last newest
	err := GetJSON(r.tx, bucketNewest, newestKey(a.Recipe, a.Platform), &last)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if a.Number != last.Number+1 || a.Number > MaxAttempts {
		return fmt.Errorf("%w: attempt %d after %d of at most %d", errRule, a.Number, last.Number, MaxAttempts)
	}
	if last.Number == 0 {
		return nil
	}
	previous, err := r.getAttempt(last.ID)
	if err != nil {
		return err
	}
	if previous.Status != StatusDisagreed && !previous.Expired(r.time) {
		return fmt.Errorf("%w: attempt %d is %s", errRule, last.Number, previous.Status)
	}
	return nil
}

func (r *Rules) held(leaf *record.AttemptLeaf) error {
	for i, h := range leaf.Holdings {
		if i > 0 && leaf.Holdings[i-1].Identity >= h.Identity {
			return fmt.Errorf("%w: holdings are not sorted, one each", errRule)
		}
		if err := h.Check(r.network.Genesis, r.set, leaf.Attempt); err != nil {
			return err
		}
	}
	if len(leaf.Holdings) < r.set.Majority() {
		return fmt.Errorf("%w: %d members hold the lock, want %d", errRule, len(leaf.Holdings), r.set.Majority())
	}
	return nil
}

func (r *Rules) getAttempt(id record.Hash) (*Attempt, error) {
	state := new(Attempt)
	if err := GetJSON(r.tx, bucketAttempts, id[:], state); err != nil {
		return nil, fmt.Errorf("attempt %s: %w", id.Short(), err)
	}
	return state, nil
}

func (r *Rules) putAttempt(state Attempt) error {
	return PutJSON(r.tx, bucketAttempts, state.ID[:], state)
}

// commits fixes votes before anyone reveals: the first leaf of an attempt has a
// majority of members, later ones may add to it until there is an outcome.
func (r *Rules) commits(leaf *record.CommitsLeaf) error {
	a, err := r.getAttempt(leaf.Attempt)
	if err != nil {
		return err
	}
	if !a.Active(r.time) || len(a.Votes) > 0 {
		return fmt.Errorf("%w: attempt %s takes no more commits", errRule, a.ID.Short())
	}
	for i, c := range leaf.Commits {
		if i > 0 && leaf.Commits[i-1].Identity >= c.Identity {
			return fmt.Errorf("%w: commits are not sorted, one each", errRule)
		}
		if _, twice := a.Committed(c.Identity); twice {
			return fmt.Errorf("%w: %s committed already", errRule, c.Identity)
		}
		if err := c.Check(r.network.Genesis, a.ID, r.set); err != nil {
			return err
		}
	}
	// Members reveal once the first commits leaf stands, so a commit in a later
	// one may be a copy. There is therefore only one.
	if a.Status != StatusOpen || len(leaf.Commits) < r.set.Majority() {
		return fmt.Errorf("%w: want one commits leaf with %d commits", errRule, r.set.Majority())
	}
	a.Commits, a.CommitTime, a.Status = leaf.Commits, r.time, StatusCommitted
	return r.putAttempt(*a)
}

func (r *Rules) fileList(leaf *record.FilesLeaf) error {
	if r.files == nil {
		r.files = &fileList{attempt: leaf.Attempt, list: leaf.List, parts: leaf.Parts}
	}
	f := r.files
	if leaf.Attempt != f.attempt || leaf.List != f.list || leaf.Parts != f.parts || leaf.Part != f.next || leaf.Part >= leaf.Parts || len(leaf.Files) == 0 {
		return fmt.Errorf("%w: files leaves are out of order", errRule)
	}
	f.next++
	f.files = append(f.files, leaf.Files...)
	if len(f.files) > MaxFiles {
		return fmt.Errorf("%w: more than %d files", errRule, MaxFiles)
	}
	return nil
}

func (r *Rules) publish(index int64, leaf *record.PublishLeaf) error {
	files := r.files
	r.files = nil
	a, err := r.getAttempt(leaf.Attempt)
	if err != nil {
		return err
	}
	if a.Status != StatusCommitted || a.Expired(r.time) {
		return fmt.Errorf("%w: attempt %s is %s", errRule, a.ID.Short(), a.Status)
	}
	if err := r.vote(a, index, leaf.Envelope, leaf.Reveals, false); err != nil {
		return err
	}
	a.Status, a.Published = StatusPublished, record.Digest(leaf.Envelope.Payload)
	a.PublishLeaf, a.PublishHeight = index, r.height
	if a.Agreeing() < r.set.Majority() || len(leaf.Reveals) < r.set.Majority() {
		return fmt.Errorf("%w: %d equal attestations, want %d", errRule, len(leaf.Reveals), r.set.Majority())
	}
	statement, err := leaf.Envelope.Statement()
	if err != nil {
		return err
	}
	subjects, err := publishedFiles(statement, files, a.ID)
	if err != nil {
		return err
	}
	if err := r.names(a, index, subjects); err != nil {
		return err
	}
	return r.putAttempt(*a)
}

func publishedFiles(statement *record.Statement, files *fileList, attempt record.Hash) ([]record.Subject, error) {
	if !statement.HasFileList() {
		if files != nil {
			return nil, fmt.Errorf("%w: files leaves for a statement that lists its files", errRule)
		}
		return statement.Subject, nil
	}
	if files == nil || files.attempt != attempt || files.next != files.parts {
		return nil, fmt.Errorf("%w: the statement's file list is not complete before it", errRule)
	}
	return files.files, record.CheckFileList(statement, files.files)
}

// vote records attestations: each opens its member's commit, or is late.
func (r *Rules) vote(a *Attempt, index int64, envelope record.Envelope, reveals []record.Reveal, late bool) error {
	attestations, err := record.Attestations(a.ID, envelope, reveals)
	if err != nil {
		return err
	}
	for _, attestation := range attestations {
		if _, twice := a.VoteOf(attestation.Identity); twice {
			return fmt.Errorf("%w: %s voted already", errRule, attestation.Identity)
		}
		committed, ok := a.Committed(attestation.Identity)
		if !ok && !late {
			return fmt.Errorf("%w: %s did not commit before", errRule, attestation.Identity)
		}
		if !ok {
			committed = record.CommitValue(r.network.Genesis, a.ID, attestation.Identity, attestation.Salt, attestation.Statement)
		}
		if err := attestation.Check(r.network.Genesis, r.set, committed); err != nil {
			return err
		}
		a.Votes = append(a.Votes, Vote{Identity: attestation.Identity, Statement: record.Digest(attestation.Statement), Leaf: index, Late: !ok})
	}
	return nil
}

// names publishes the files: all that the recipe names and no others, none of
// them with other bytes than before.
func (r *Rules) names(a *Attempt, index int64, subjects []record.Subject) error {
	var recipe Recipe
	if err := GetJSON(r.tx, bucketRecipes, a.Attempt.Recipe[:], &recipe); err != nil {
		return err
	}
	if !recipe.Live {
		return fmt.Errorf("%w: recipe %s is superseded", errRule, recipe.Hash.Short())
	}
	missing := map[artifact.Name]bool{}
	for _, name := range recipe.Files {
		missing[name] = true
	}
	for _, s := range subjects {
		name := s.FileName()
		switch owner, isImage := imageFile(s, recipe.Package); {
		case isImage && missing[owner] && s.Name == record.ManifestFile:
			delete(missing, owner)
			if err := r.tag(recipe.Package, name); err != nil {
				return err
			}
		case isImage:
		case missing[name]:
			delete(missing, name)
		default:
			return fmt.Errorf("%w: the recipe does not publish %s", errRule, name)
		}
		if err := r.name(name, Entry{Subject: s, Attempt: a.ID, Leaf: index, Height: r.height}); err != nil {
			return err
		}
	}
	for name := range missing {
		return fmt.Errorf("%w: %s is missing", errRule, name)
	}
	return nil
}

// imageFile tells whether the subject is a part of the image that the package
// is: its package URL is the repository's with the manifest's digest.
func imageFile(s record.Subject, pkg artifact.PURL) (owner artifact.Name, ok bool) {
	digest := strings.TrimPrefix(s.URI.Version(), "sha256:")
	if pkg.Type() != "docker" || s.URI != artifact.DockerPURL(pkg.Repository(), s.URI.Version()) || len(digest) != 64 {
		return artifact.Name{}, false
	}
	if s.Name == record.ManifestFile {
		return artifact.Name{Package: pkg, File: record.ManifestFile}, s.Digest.SHA256.String() == digest
	}
	return artifact.Name{}, s.Name == s.Digest.SHA256.OCI()
}

func (r *Rules) name(name artifact.Name, entry Entry) error {
	var old Entry
	err := GetJSON(r.tx, bucketNames, []byte(name.String()), &old)
	if err == nil {
		if old.Subject.Descriptor() != entry.Subject.Descriptor() {
			return fmt.Errorf("%w: %s is published with other bytes", errRule, name)
		}
		return nil
	}
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	digest := entry.Subject.Digest.SHA256
	if r.tx.Get(bucketDigests, digest[:]) == nil {
		if err := r.tx.Put(bucketDigests, digest[:], []byte(name.String())); err != nil {
			return err
		}
	}
	return PutJSON(r.tx, bucketNames, []byte(name.String()), entry)
}

// tag moves the package's tag to the manifest.
func (r *Rules) tag(pkg artifact.PURL, manifest artifact.Name) error {
	return r.tx.Put(bucketTags, tagKey(pkg.Repository(), pkg.Version()), []byte(manifest.String()))
}

func tagKey(repository, tag string) []byte { return []byte(repository + ":" + tag) }

// attest records what did not stand in the publish leaf: later equal votes,
// and dissent. When no statement can reach a majority any more, the attempt
// has disagreed.
func (r *Rules) attest(index int64, leaf *record.AttestLeaf) error {
	a, err := r.getAttempt(leaf.Attempt)
	if err != nil {
		return err
	}
	closed := a.Status == StatusPublished || a.Status == StatusDisagreed || a.Expired(r.time)
	if a.Status == StatusOpen && !closed {
		return fmt.Errorf("%w: attempt %s has no commits yet", errRule, a.ID.Short())
	}
	if err := r.vote(a, index, leaf.Envelope, leaf.Reveals, closed); err != nil {
		return err
	}
	if a.Status == StatusCommitted && r.hopeless(a) {
		a.Status = StatusDisagreed
	}
	return r.putAttempt(*a)
}

func (r *Rules) hopeless(a *Attempt) bool {
	counts, best := map[record.Hash]int{}, 0
	for _, v := range a.Votes {
		counts[v.Statement]++
		best = max(best, counts[v.Statement])
	}
	return best+len(a.Commits)-len(a.Votes) < r.set.Majority()
}
