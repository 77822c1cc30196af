package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// Bounds of the rules (docs/protocol.md, "Attempts").
const (
	MaxAttempts = 8                   // per recipe and platform
	MaxDeadline = 24 * 60 * 60 * 1000 // milliseconds after the block's time
	MaxFiles    = 10_000              // of one recipe or publication
	MaxLabel    = 64                  // bytes of an engine's or platform's name
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
	changed bool      // a leaf changed the set
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
		return r.commits(index, leaf)
	case *record.FilesLeaf:
		return r.fileList(leaf)
	case *record.PublishLeaf:
		return r.publish(index, leaf)
	case *record.AttestLeaf:
		return r.attest(index, leaf)
	case *record.KeyRotateLeaf:
		return r.rotate(index, leaf)
	case *record.EvidenceLeaf:
		return r.evidence(index, leaf)
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
	if err := checkImage(change.Package); err != nil {
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
	if err := r.supersede(change); err != nil {
		return err
	}
	for _, name := range change.Files {
		if err := r.free(name); err != nil {
			return err
		}
	}
	return r.adopt(Recipe{Hash: hash, Leaf: index, Height: r.height, Package: change.Package, Files: change.Files, Live: true, Recipe: change.Recipe})
}

// tagForm is a tag of the OCI distribution specification.
var tagForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// checkImage refuses an image's package that has other spellings: one tag of
// one repository is one package, or two recipes could move it.
func checkImage(pkg artifact.PURL) error {
	if pkg.Type() != "docker" {
		return nil
	}
	if pkg != artifact.DockerPURL(pkg.Repository(), pkg.Version()) || !tagForm.MatchString(pkg.Version()) {
		return fmt.Errorf("%w: %s is not pkg:docker/<repository>@<tag>", errRule, pkg)
	}
	return nil
}

func checkNames(names []artifact.Name) error {
	if len(names) == 0 || len(names) > MaxFiles {
		return fmt.Errorf("%w: %d files", errRule, len(names))
	}
	for i, name := range names {
		if err := name.Check(); err != nil {
			return err
		}
		if _, family := name.Family(); !family && strings.Contains(name.File, "*") {
			return fmt.Errorf("%w: %s: a star stands at the end, after one of - . _ /", errRule, name)
		}
		if i > 0 && names[i-1].String() >= name.String() {
			return fmt.Errorf("%w: files are not sorted, one each", errRule)
		}
	}
	for _, o := range artifact.Overlaps(names) {
		return fmt.Errorf("%w: %s and the family %s hold the same names", errRule, o.Other, o.Family)
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
func (r *Rules) supersede(change record.RecipeChange) error {
	live := r.tx.Get(bucketLive, []byte(change.Package))
	if live == nil {
		if change.Supersedes != "" {
			return fmt.Errorf("%w: it supersedes a recipe, but %s has none", errRule, change.Package)
		}
		return nil
	}
	var old Recipe
	if err := GetJSON(r.tx, bucketRecipes, live, &old); err != nil {
		return err
	}
	if change.Supersedes != old.Hash.String() {
		return fmt.Errorf("%w: %s has the live recipe %s, which it does not supersede", errRule, change.Package, old.Hash.Short())
	}
	old.Live = false
	return PutJSON(r.tx, bucketRecipes, old.Hash[:], old)
}

// free tells whether a file name, or every name of a family, belongs to no live
// recipe. The names that a superseded recipe gave up are free.
func (r *Rules) free(name artifact.Name) error {
	for _, other := range append(name.Families(), name) {
		if err := r.unowned(name, r.tx.Get(bucketOwners, []byte(other.String()))); err != nil {
			return err
		}
	}
	beginning, family := name.Family()
	if !family {
		return nil
	}
	var taken error
	r.tx.Scan(bucketOwners, []byte(artifact.Name{Package: name.Package, File: beginning}.String()), func(_, hash []byte) bool {
		taken = r.unowned(name, hash)
		return taken == nil
	})
	return taken
}

// unowned is an error if a recipe, which has a claim on a name, is live.
func (r *Rules) unowned(name artifact.Name, hash []byte) error {
	if hash == nil {
		return nil
	}
	var owner Recipe
	if err := GetJSON(r.tx, bucketRecipes, hash, &owner); err != nil {
		return err
	}
	if owner.Live {
		return fmt.Errorf("%w: %s belongs to the live recipe %s", errRule, name, owner.Hash.Short())
	}
	return nil
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
	if a.Platform == "" || len(a.Platform) > MaxLabel || a.Engine == "" || len(a.Engine) > MaxLabel || a.Lock.Size <= 0 {
		return fmt.Errorf("%w: attempt without platform, engine or lock", errRule)
	}
	if _, ok := r.set.Node(a.Asker); !ok {
		return fmt.Errorf("%w: the asker %.80q is not in the set", errRule, string(a.Asker))
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
	if err := r.count(hash); err != nil {
		return err
	}
	state := Attempt{ID: hash, Leaf: index, Height: r.height, Time: r.time, Attempt: a, Package: recipe.Package, Status: StatusOpen}
	for _, h := range leaf.Holdings {
		state.Holders = append(state.Holders, h.Identity)
	}
	return r.putAttempt(state)
}

// count gives an attempt the next number.
func (r *Rules) count(id record.Hash) error {
	next := be64(0)
	if last := r.tx.Get(bucketCounted, keyLast); last != nil {
		next = be64(int64(binary.BigEndian.Uint64(last)) + 1)
	}
	return errors.Join(r.tx.Put(bucketCounted, next, id[:]), r.tx.Put(bucketCounted, keyLast, next))
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

// commits fixes votes before anyone reveals: one leaf with a majority of all
// members.
func (r *Rules) commits(index int64, leaf *record.CommitsLeaf) error {
	a, err := r.getAttempt(leaf.Attempt)
	if err != nil {
		return err
	}
	if a.Status != StatusOpen || a.Expired(r.time) {
		return fmt.Errorf("%w: attempt %s takes no more commits", errRule, a.ID.Short())
	}
	for i, c := range leaf.Commits {
		if i > 0 && leaf.Commits[i-1].Identity >= c.Identity {
			return fmt.Errorf("%w: commits are not sorted, one each", errRule)
		}
		if err := c.Check(r.network.Genesis, a.ID, r.set); err != nil {
			return err
		}
		if err := r.witnessed(c.Identity, a); err != nil {
			return err
		}
	}
	if len(leaf.Commits) < r.set.Majority() {
		return fmt.Errorf("%w: %d commits, want %d", errRule, len(leaf.Commits), r.set.Majority())
	}
	a.Commits, a.CommitLeaf, a.CommitTime, a.Status = leaf.Commits, index, r.time, StatusCommitted
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
	statement, err := r.vote(a, index, leaf.Envelope, leaf.Reveals, onceMore)
	if err != nil {
		return err
	}
	a.Status, a.Published = StatusPublished, record.Digest(leaf.Envelope.Payload)
	a.PublishLeaf, a.PublishHeight = index, r.height
	if len(leaf.Reveals) < r.set.Majority() {
		return fmt.Errorf("%w: %d equal attestations, want %d", errRule, len(leaf.Reveals), r.set.Majority())
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
	if files == nil || files.attempt != attempt || files.next != files.parts || files.list != record.Hash(statement.Subject[0].Digest.SHA256) {
		return nil, fmt.Errorf("%w: the statement's file list is not complete before it", errRule)
	}
	return files.files, record.CheckFileList(statement, files.files)
}

// What vote takes besides the first votes of those who committed.
const (
	onlyCommitted = iota
	onceMore      // votes that stand on the chain already, the same again
	alsoLate      // votes of members who did not commit
)

// vote records attestations of one statement: each opens its member's commit, or is
// late.
//
// A publish leaf may repeat votes that an attest leaf recorded before it: a
// lying proposer who puts one honest vote into an attest leaf would otherwise
// keep the others from a majority.
func (r *Rules) vote(a *Attempt, index int64, envelope record.Envelope, reveals []record.Reveal, also int) (*record.Statement, error) {
	attestations, statement, err := record.Attestations(a.ID, envelope, reveals)
	if err != nil {
		return nil, err
	}
	digest := record.Digest(envelope.Payload)
	for _, attestation := range attestations {
		vote, voted := a.VoteOf(attestation.Identity)
		again := voted && also == onceMore && vote.Statement == digest
		if voted && !again {
			return nil, fmt.Errorf("%w: %s voted already", errRule, attestation.Identity)
		}
		committed, ok := a.Committed(attestation.Identity)
		if !ok && also != alsoLate {
			return nil, fmt.Errorf("%w: %s did not commit before", errRule, attestation.Identity)
		}
		if !ok {
			if err := r.witnessed(attestation.Identity, a); err != nil {
				return nil, err
			}
			committed = record.CommitValue(r.network.Genesis, a.ID, attestation.Identity, attestation.Salt, attestation.Statement)
		}
		if err := attestation.Check(r.network.Genesis, r.set, committed); err != nil {
			return nil, err
		}
		if again {
			continue
		}
		a.Votes = append(a.Votes, Vote{Identity: attestation.Identity, Statement: digest, Leaf: index, Late: !ok})
	}
	return statement, nil
}

// names publishes the files: all that the recipe names, of each family at least
// one, and no others, none of them with other bytes than before.
func (r *Rules) names(a *Attempt, index int64, subjects []record.Subject) error {
	var recipe Recipe
	if err := GetJSON(r.tx, bucketRecipes, a.Attempt.Recipe[:], &recipe); err != nil {
		return err
	}
	if !recipe.Live {
		return fmt.Errorf("%w: recipe %s is superseded", errRule, recipe.Hash.Short())
	}
	wanted, image := recipe.Files, artifact.PURL("")
	if recipe.isImage() {
		if wanted, image = recipe.imageFiles(subjects); image == "" {
			return fmt.Errorf("%w: %s is missing", errRule, recipe.manifest())
		}
	}
	claims, missing := map[artifact.Name]bool{}, map[artifact.Name]bool{}
	for _, name := range wanted {
		claims[name], missing[name] = true, true
	}
	for _, s := range subjects {
		name := s.FileName()
		isPart := image != "" && s.URI == image && s.Name == s.Digest.SHA256.OCI()
		claim, claimed := claimOn(name, claims)
		if !claimed && !isPart || strings.Contains(name.File, "*") {
			return fmt.Errorf("%w: the recipe does not publish %s", errRule, name)
		}
		delete(missing, claim)
		if err := r.name(name, Entry{Subject: s, Attempt: a.ID, Leaf: index, Height: r.height}); err != nil {
			return err
		}
	}
	for name := range missing {
		return fmt.Errorf("%w: %s is missing", errRule, name)
	}
	if image == "" {
		return nil
	}
	return r.tag(recipe.Package, artifact.Name{Package: image, File: record.ManifestFile})
}

// claimOn is the name among a recipe's by which it publishes a file: the file's
// own, or a family's. There is one at the most, since checkNames lets none overlap.
func claimOn(name artifact.Name, claims map[artifact.Name]bool) (artifact.Name, bool) {
	for _, candidate := range append(name.Families(), name) {
		if claims[candidate] {
			return candidate, true
		}
	}
	return artifact.Name{}, false
}

// manifest is the name by which a recipe says that it publishes an image.
func (r *Recipe) manifest() artifact.Name {
	return artifact.Name{Package: r.Package, File: record.ManifestFile}
}

func (r *Recipe) isImage() bool {
	return r.Package.Type() == "docker" && slices.Contains(r.Files, r.manifest())
}

// imageFiles are the names to publish where the recipe makes an image: its
// manifest stands under the package URL with its own digest instead of the
// tag, and so do configuration and layers, which the recipe cannot know.
// image is that package URL, "" where the subjects hold no manifest.
func (r *Recipe) imageFiles(subjects []record.Subject) (names []artifact.Name, image artifact.PURL) {
	for _, s := range subjects {
		if s.Name == record.ManifestFile && s.URI == artifact.DockerPURL(r.Package.Repository(), s.Digest.SHA256.OCI()) {
			image = s.URI
			break
		}
	}
	for _, name := range r.Files {
		if name == r.manifest() {
			name.Package = image
		}
		names = append(names, name)
	}
	return names, image
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

// tagKey is the package URL with the tag: the one string in which neither part
// can run into the other.
func tagKey(repository, tag string) []byte { return []byte(artifact.DockerPURL(repository, tag)) }

// attest records what did not stand in the publish leaf: later equal votes,
// and dissent. When no statement can reach a majority any more, the attempt
// has disagreed.
func (r *Rules) attest(index int64, leaf *record.AttestLeaf) error {
	a, err := r.getAttempt(leaf.Attempt)
	if err != nil {
		return err
	}
	also := onlyCommitted
	if !a.Active(r.time) {
		also = alsoLate
	}
	if a.Status == StatusOpen && also == onlyCommitted {
		return fmt.Errorf("%w: attempt %s has no commits yet", errRule, a.ID.Short())
	}
	if _, err := r.vote(a, index, leaf.Envelope, leaf.Reveals, also); err != nil {
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
