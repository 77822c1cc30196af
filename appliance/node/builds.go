package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/publish"
	"github.com/pyrsia/appliance/modules/record"
)

// RequestBuild implements control.Builder.
func (n *Node) RequestBuild(_ context.Context, purl artifact.PURL) (string, error) {
	b := n.builder.Load()
	if b == nil {
		return "", control.WithHint(fmt.Errorf("%w: this is a regular node; only build nodes build", control.ErrRefused),
			"ask on one of the build nodes, or set role = \"build\" in "+n.file)
	}
	id, err := b.member.RequestBuild(purl)
	if errors.Is(err, publish.ErrNoRecipe) {
		return "", fmt.Errorf("%w: %w", control.ErrNotFound, err)
	}
	return id, err
}

// Builds implements control.Builder: the attempts on the chain, and this
// node's requests that have none yet, newest first.
func (n *Node) Builds(context.Context) ([]control.Build, error) {
	attempts, err := n.chain.Attempts()
	if err != nil {
		return nil, err
	}
	builds := []control.Build{}
	asked := n.requestsByAttempt()
	for i := range attempts {
		builds = append(builds, n.attemptBuild(&attempts[i], asked[attempts[i].Attempt.Digest()]))
	}
	for _, r := range n.pendingRequests(attempts) {
		builds = append(builds, n.requestBuild(r))
	}
	sort.SliceStable(builds, func(i, j int) bool { return builds[i].Asked.After(builds[j].Asked) })
	return builds, nil
}

// requests are those of this node. One under way whose recipe was superseded begins
// anew: the attempt of the old recipe is no longer its own.
func (n *Node) requests() []publish.Request {
	b := n.builder.Load()
	if b == nil {
		return nil
	}
	requests := b.member.Requests()
	for i, r := range requests {
		if r.Done || r.Attempt == nil {
			continue
		}
		if live, err := n.chain.LiveRecipe(r.Package); err == nil && live.Hash != r.Attempt.Recipe {
			requests[i].Attempt = nil
		}
	}
	return requests
}

func (n *Node) requestsByAttempt() map[record.Hash]publish.Request {
	byAttempt := map[record.Hash]publish.Request{}
	for _, r := range n.requests() {
		if r.Attempt != nil {
			byAttempt[r.Attempt.Digest()] = r
		}
	}
	return byAttempt
}

// pendingRequests are the requests whose attempt is not on the chain.
func (n *Node) pendingRequests(attempts []ledger.Attempt) []publish.Request {
	onChain := map[record.Hash]bool{}
	for i := range attempts {
		onChain[attempts[i].Attempt.Digest()] = true
	}
	var pending []publish.Request
	for _, r := range n.requests() {
		if r.Attempt != nil && onChain[r.Attempt.Digest()] {
			continue
		}
		if r.Done && r.Error == "" {
			continue // another node's attempt published it
		}
		pending = append(pending, r)
	}
	return pending
}

func milliseconds(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

func (n *Node) attemptBuild(a *ledger.Attempt, r publish.Request) control.Build {
	b := control.Build{
		ID: a.ID.String()[:12], Package: a.Package, Recipe: a.Attempt.Recipe, Attempt: a.Attempt.Number,
		Platform: a.Attempt.Platform, Majority: n.chain.Set().Majority(), Height: -1,
		Asked: milliseconds(a.Time), Changed: milliseconds(a.Time), Deadline: milliseconds(a.Attempt.Deadline),
	}
	if r.ID != "" {
		b.ID, b.Asked = r.ID, milliseconds(r.Created)
	}
	if a.CommitTime > 0 {
		b.Changed = milliseconds(a.CommitTime)
	}
	b.Members = n.memberVotes(a)
	b.State, b.Reason = n.attemptState(a, b.Members)
	if a.Status == ledger.StatusPublished {
		b.Height = a.PublishHeight
	}
	b.Reference = summed(n.references(a.ID))
	return b
}

func (n *Node) attemptState(a *ledger.Attempt, votes []control.Vote) (control.BuildState, string) {
	switch {
	case a.Status == ledger.StatusPublished:
		return control.Published, ""
	case a.Status == ledger.StatusDisagreed:
		return control.Disagreed, fmt.Sprintf("no result can reach %d of %d members; `pyrsia build status` lists each member's digests", n.chain.Set().Majority(), n.chain.Set().Size())
	case a.Expired(max(n.chain.Time(), time.Now().UnixMilli())):
		return control.Expired, cmp.Or(n.unpublishable(a), "a majority did not vote before the deadline")
	case a.Status == ledger.StatusCommitted:
		why := n.unpublishable(a)
		for _, v := range votes {
			if v.Vote == control.VoteEqual || v.Vote == control.VoteDifferent {
				return control.Publishing, why
			}
		}
		return control.Committed, why
	}
	return n.buildingState(votes)
}

// unpublishable is what a build node knows against its own result of an attempt.
func (n *Node) unpublishable(a *ledger.Attempt) string {
	if b := n.builder.Load(); b != nil {
		return b.member.Unpublishable(a)
	}
	return ""
}

// buildingState is failed once so many members failed that the others are no
// majority: the attempt then only waits for its deadline.
func (n *Node) buildingState(votes []control.Vote) (control.BuildState, string) {
	failed, reason := 0, ""
	for _, v := range votes {
		if v.Vote == control.VoteFailed {
			failed++
			reason = fmt.Sprintf("the build failed on %s: %s", name(v), v.Reason)
		}
	}
	if len(votes)-failed < n.chain.Set().Majority() {
		return control.Failed, fmt.Sprintf("the build failed on %d of %d members; %s", failed, len(votes), reason)
	}
	return control.Building, reason
}

func name(v control.Vote) string {
	if v.Label != "" {
		return v.Label
	}
	return "…" + v.Identity.Short()
}

// memberVotes are what each member did for an attempt, as the chain and its
// own notes tell.
func (n *Node) memberVotes(a *ledger.Attempt) []control.Vote {
	notes := n.notes(a.Attempt.Recipe, a.Attempt.Number)
	leading := leading(a)
	votes := []control.Vote{}
	for _, member := range n.chain.Set().Nodes {
		v := control.Vote{Identity: member.Identity, Label: n.label(member.Identity), Self: member.Identity == n.identity}
		v.Vote, v.Reason, v.When = noteVote(notes[member.Identity])
		if v.Vote == control.VoteNone && contains(a.Holders, member.Identity) {
			v.Vote = control.VoteHolds
		}
		if _, committed := a.Committed(member.Identity); committed {
			v.Vote, v.When = control.VoteCommitted, milliseconds(a.CommitTime)
		}
		if vote, voted := a.VoteOf(member.Identity); voted {
			v.Digest, v.Vote = vote.Statement.Short(), control.VoteDifferent
			if vote.Statement == leading {
				v.Vote = control.VoteEqual
			}
			if vote.Late {
				v.Reason = "late: after the others had revealed"
			}
		}
		if final := !a.Active(n.chain.Time()); final && (v.Vote == control.VoteNone || v.Vote == control.VoteHolds || v.Vote == control.VoteBuilding) {
			v.Vote = control.VoteAbsent
		}
		votes = append(votes, v)
	}
	return votes
}

// leading is the published statement, or the one with the most votes if it has
// more than one.
func leading(a *ledger.Attempt) record.Hash {
	if a.Status == ledger.StatusPublished {
		return a.Published
	}
	counts, best := map[record.Hash]int{}, record.Hash{}
	for _, v := range a.Votes {
		counts[v.Statement]++
		if counts[v.Statement] > 1 && counts[v.Statement] > counts[best] {
			best = v.Statement
		}
	}
	return best
}

func contains(ids []record.Identity, id record.Identity) bool {
	for _, other := range ids {
		if other == id {
			return true
		}
	}
	return false
}

func (n *Node) notes(recipe record.Hash, attempt int64) map[record.Identity]publish.Note {
	notes := map[record.Identity]publish.Note{}
	b := n.builder.Load()
	if b == nil {
		return notes
	}
	for _, note := range b.member.Notes(recipe) {
		if note.Attempt == attempt {
			notes[note.From] = note
		}
	}
	return notes
}

func noteVote(note publish.Note) (vote, reason string, when time.Time) {
	switch note.Kind {
	case publish.NoteBuilding:
		vote = control.VoteBuilding
	case publish.NoteVoting:
		vote = control.VoteBuilding
	case publish.NoteFailed:
		vote = control.VoteFailed
	case publish.NoteDeclined, publish.NoteLacking:
		vote = control.VoteDeclined
	default:
		return control.VoteNone, "", time.Time{}
	}
	return vote, note.Text, milliseconds(note.At)
}

func (n *Node) requestBuild(r publish.Request) control.Build {
	state, reason := "waiting", ""
	if builder := n.builder.Load(); builder != nil {
		state, reason = builder.member.RequestState(r)
	}
	b := control.Build{
		ID: r.ID, Package: r.Package, State: control.BuildState(state), Reason: reason, Members: []control.Vote{},
		Majority: n.chain.Set().Majority(), Height: -1, Asked: milliseconds(r.Created), Changed: milliseconds(r.Created),
	}
	if state == "waiting" {
		b.State = control.Resolving
	}
	recipe, err := n.chain.LiveRecipe(r.Package)
	if err != nil {
		return b
	}
	b.Recipe = recipe.Hash
	number := int64(1)
	if r.Attempt != nil {
		b.Deadline, b.Platform, number = milliseconds(r.Attempt.Deadline), r.Attempt.Platform, r.Attempt.Number
	}
	notes, holders := n.notes(recipe.Hash, number), n.holders(r.Attempt)
	for _, member := range n.chain.Set().Nodes {
		v := control.Vote{Identity: member.Identity, Label: n.label(member.Identity), Self: member.Identity == n.identity}
		v.Vote, v.Reason, v.When = noteVote(notes[member.Identity])
		if contains(holders, member.Identity) {
			v.Vote, v.Reason = control.VoteHolds, ""
		}
		if v.Vote == control.VoteDeclined && reasonless(b) {
			b.Reason = fmt.Sprintf("%s declines: %s", name(v), v.Reason)
		}
		b.Members = append(b.Members, v)
	}
	return b
}

// reasonless tells whether a build's explanation may be replaced by a member's
// refusal, which says more.
func reasonless(b control.Build) bool { return b.State == control.Holding || b.State == control.Failed }

func (n *Node) holders(a *record.Attempt) []record.Identity {
	if a == nil {
		return nil
	}
	for _, waiting := range n.waiting() {
		if waiting.Recipe == a.Recipe && waiting.Attempt == a.Number {
			return waiting.Members
		}
	}
	return nil
}

// find is the build that a reference names: a request's or attempt's id, or
// the newest of a package.
func (n *Node) find(ctx context.Context, ref string) (control.Build, error) {
	builds, err := n.Builds(ctx)
	if err != nil {
		return control.Build{}, err
	}
	// A request for what another attempt published, before it or while it waited, has no
	// build of its own: it is about that one.
	asked := ref
	for _, r := range n.requests() {
		if r.ID == ref && r.Done && r.Error == "" {
			asked = string(r.Package)
		}
	}
	for _, b := range builds {
		if b.ID == ref {
			return b, nil
		}
	}
	for _, b := range builds {
		if string(b.Package) == asked {
			return b, nil
		}
	}
	return control.Build{}, control.WithHint(fmt.Errorf("%w: no build %s here", control.ErrNotFound, strconv.Quote(ref)), "`pyrsia build list` shows the builds")
}

// attemptOf is the attempt on the chain that a build shows, nil before there
// is one.
func (n *Node) attemptOf(b control.Build) (*ledger.Attempt, error) {
	if b.Attempt == 0 {
		return nil, nil
	}
	attempts, err := n.chain.Attempts()
	if err != nil {
		return nil, err
	}
	for i := range attempts {
		if attempts[i].Attempt.Recipe == b.Recipe && attempts[i].Attempt.Number == b.Attempt && attempts[i].Attempt.Platform == b.Platform {
			return &attempts[i], nil
		}
	}
	return nil, nil
}

// Build implements control.Builder.
func (n *Node) Build(ctx context.Context, ref string) (control.BuildDetail, error) {
	b, err := n.find(ctx, ref)
	if err != nil {
		return control.BuildDetail{}, err
	}
	detail := control.BuildDetail{Build: b, Leaf: -1, Outputs: []control.Output{}}
	a, err := n.attemptOf(b)
	if a == nil || err != nil {
		return detail, err
	}
	detail.AttemptLeaf, detail.Lock = a.ID, a.Attempt.Lock
	if a.Status == ledger.StatusPublished {
		detail.Leaf = a.PublishLeaf
	}
	detail.Inputs, detail.Verified = n.lockInputs(a.Attempt.Lock.SHA256)
	detail.Outputs, err = n.outputs(a)
	return detail, err
}

func (n *Node) lockInputs(digest artifact.SHA256) (all, verified int) {
	file, err := n.store.Open(digest)
	if err != nil {
		return 0, 0
	}
	defer file.Close()
	data, err := io.ReadAll(file)
	if err != nil {
		return 0, 0
	}
	lock, err := record.DecodeLock(data)
	if err != nil {
		return 0, 0
	}
	for _, entry := range lock.Entries {
		if entry.Proof == record.ProofChain {
			verified++
		}
	}
	return len(lock.Entries), verified
}

// outputs compares what the members made, file by file.
func (n *Node) outputs(a *ledger.Attempt) ([]control.Output, error) {
	leading, byName := leading(a), map[artifact.Name]*control.Output{}
	for _, v := range a.Votes {
		subjects, err := n.subjects(a, v)
		if err != nil {
			return nil, err
		}
		for _, s := range subjects {
			output := byName[s.FileName()]
			if output == nil {
				output = &control.Output{Name: s.FileName(), MediaType: s.MediaType}
				byName[s.FileName()] = output
			}
			if v.Statement == leading || output.File == (artifact.Descriptor{}) {
				output.File = s.Descriptor()
			}
			output.Members = append(output.Members, control.OutputVote{Identity: v.Identity, Label: n.label(v.Identity), File: s.Descriptor()})
		}
	}
	outputs := make([]control.Output, 0, len(byName))
	references := n.references(a.ID)
	for _, output := range byName {
		output.Reference = references[output.Name]
		for i := range output.Members {
			output.Members[i].Equal = output.Members[i].File == output.File
		}
		outputs = append(outputs, *output)
	}
	sort.Slice(outputs, func(i, j int) bool { return outputs[i].Name.String() < outputs[j].Name.String() })
	return outputs, nil
}

// subjects are the files of a member's vote.
func (n *Node) subjects(a *ledger.Attempt, v ledger.Vote) ([]record.Subject, error) {
	data, err := n.chain.Leaf(v.Leaf)
	if err != nil {
		return nil, err
	}
	leaf, err := record.DecodeLeaf(data)
	if err != nil {
		return nil, err
	}
	envelope := envelopeOf(leaf)
	if envelope == nil {
		return nil, fmt.Errorf("leaf %d holds no vote", v.Leaf)
	}
	statement, err := envelope.Statement()
	if err != nil || !statement.HasFileList() {
		return statementSubjects(statement), err
	}
	var files []record.Subject
	for index := v.Leaf - 1; index > 0; index-- {
		data, err := n.chain.Leaf(index)
		if err != nil {
			return nil, err
		}
		leaf, err := record.DecodeLeaf(data)
		part, ok := leaf.(*record.FilesLeaf)
		if err != nil || !ok || part.Attempt != a.ID {
			return files, err
		}
		files = append(append([]record.Subject(nil), part.Files...), files...)
	}
	return files, nil
}

func statementSubjects(s *record.Statement) []record.Subject {
	if s == nil {
		return nil
	}
	return s.Subject
}

func envelopeOf(leaf record.Leaf) *record.Envelope {
	switch leaf := leaf.(type) {
	case *record.PublishLeaf:
		return &leaf.Envelope
	case *record.AttestLeaf:
		return &leaf.Envelope
	}
	return nil
}

// WatchBuild implements control.Builder.
func (n *Node) WatchBuild(ctx context.Context, ref string, send func(control.Build) error) error {
	changed, stop := n.watch(ctx)
	defer stop()
	var last string
	for {
		b, err := n.find(ctx, ref)
		if err != nil {
			return err
		}
		if now := fingerprint(b); now != last {
			last = now
			if err := send(b); err != nil {
				return err
			}
		}
		if b.State.Final() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-time.After(time.Second): // states that no event announces, such as a passed deadline
		}
	}
}

func fingerprint(b control.Build) string {
	data, _ := json.Marshal(b)
	return string(data)
}

// watch tells of every change of builds on this node.
func (n *Node) watch(ctx context.Context) (<-chan struct{}, func()) {
	ctx, cancel := context.WithCancel(ctx)
	changed := make(chan struct{}, 1)
	var watching sync.WaitGroup
	tell := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	watching.Go(func() {
		for height := n.chain.Height(); n.chain.Wait(ctx, height+1) == nil; {
			height = n.chain.Height()
			tell()
		}
	})
	if b := n.builder.Load(); b != nil {
		watching.Go(func() { b.watch(ctx, tell) })
	}
	return changed, func() { cancel(); watching.Wait() }
}

// watch tells of every change of the member's until the context ends.
func (b *builder) watch(ctx context.Context, tell func()) {
	changed, stop := b.member.Watch()
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			tell()
		}
	}
}

// BuildLogs implements control.Builder: the asker's own log of finding the
// inputs, then the log of the build on this node.
func (n *Node) BuildLogs(ctx context.Context, ref string, follow bool, w io.Writer) error {
	b, err := n.find(ctx, ref)
	if err != nil {
		return err
	}
	builder := n.builder.Load()
	if builder == nil {
		return control.WithHint(fmt.Errorf("%w: this is a regular node; it builds nothing and has no logs", control.ErrNotFound), "ask on one of the build nodes")
	}
	tails := map[string]int64{}
	written := false
	for {
		final := b.State.Final()
		for _, path := range n.logPaths(builder, b) {
			read, err := tail(path, tails[path], w)
			if err != nil {
				return err
			}
			tails[path] += read
			written = written || read > 0
		}
		if !follow || final {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
		if b, err = n.find(ctx, b.ID); err != nil {
			return err
		}
	}
	if !written {
		return fmt.Errorf("%w: this node has no log of build %s; it did not build it", control.ErrNotFound, b.ID)
	}
	return nil
}

// tryKind begins the ids of tries.
const tryKind = "try"

// Remains implements control.Builder.
func (n *Node) Remains(ctx context.Context, ref string, w io.Writer) error {
	build, err := n.buildOf(ctx, ref)
	if err != nil {
		return err
	}
	none := control.WithHint(fmt.Errorf("%w: this node has nothing that a failed build of %s left", control.ErrNotFound, ref),
		"it is kept on the node that built, for a while; `pyrsia build logs` says whether it was")
	builder := n.builder.Load()
	if builder == nil {
		return none
	}
	file, err := builder.member.Remains(build)
	if errors.Is(err, publish.ErrUnknown) {
		return none
	}
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(w, file)
	return err
}

// buildOf is this node's own build that a reference names: the id of a try, or the hash of
// an attempt; "" where nothing was built.
func (n *Node) buildOf(ctx context.Context, ref string) (string, error) {
	if strings.HasPrefix(ref, tryKind+"-") {
		return ref, nil
	}
	b, err := n.find(ctx, ref)
	if err != nil {
		return "", err
	}
	a, err := n.attemptOf(b)
	if err != nil || a == nil {
		return "", err
	}
	return a.ID.String(), nil
}

func (n *Node) logPaths(builder *builder, b control.Build) []string {
	paths := []string{builder.member.LogPath(b.ID)}
	if a, err := n.attemptOf(b); err == nil && a != nil {
		paths = append(paths, builder.member.LogPath("hold-"+a.Attempt.Digest().Short()), builder.member.LogPath(a.ID.String()))
	}
	return paths
}

// tail copies what a log holds beyond offset.
func tail(path string, offset int64, w io.Writer) (int64, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer file.Close()
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return 0, err
	}
	return io.Copy(w, file)
}

// Recipes implements control.Recipes.
func (n *Node) Recipes(context.Context) ([]control.Recipe, error) {
	states, err := n.chain.Recipes()
	if err != nil {
		return nil, err
	}
	recipes, known := []control.Recipe{}, map[record.Hash]bool{}
	for _, s := range states {
		known[s.Hash] = true
		recipe := control.Recipe{Package: s.Package, Hash: s.Hash, State: "live", Leaf: s.Leaf, Endorsed: n.endorsers(s.Leaf), Missing: []record.Identity{}, File: n.recipeFile(s.Hash)}
		if !s.Live {
			recipe.State = "superseded"
		}
		recipes = append(recipes, recipe)
	}
	b := n.builder.Load()
	if b == nil {
		return recipes, nil
	}
	files, _ := b.recipes.Files()
	waiting := map[record.Hash][]record.Identity{}
	for _, w := range n.waiting() {
		if w.Attempt == 0 {
			waiting[w.Recipe] = w.Members
		}
	}
	for _, f := range files {
		if f.Err != nil {
			recipes = append(recipes, control.Recipe{File: f.Path, State: "invalid", Leaf: -1, Endorsed: []record.Identity{}, Missing: []record.Identity{}, Reason: f.Err.Error()})
			continue
		}
		if hash := f.Recipe.Hash(); !known[hash] {
			recipes = append(recipes, control.Recipe{
				Package: f.Recipe.Package, Hash: hash, File: f.Path, State: "pending", Leaf: -1,
				Endorsed: waiting[hash], Missing: n.missing(waiting[hash]), Supersedes: f.Recipe.Supersedes,
				Reason: fmt.Sprintf("endorsed by %d of %d members, needs %d", len(waiting[hash]), n.chain.Set().Size(), n.chain.Set().Majority()),
			})
		}
	}
	return recipes, nil
}

func (n *Node) recipeFile(hash record.Hash) string {
	b := n.builder.Load()
	if b == nil {
		return ""
	}
	files, _ := b.recipes.Files()
	for _, f := range files {
		if f.Err == nil && f.Recipe.Hash() == hash {
			return f.Path
		}
	}
	return ""
}

func (n *Node) endorsers(index int64) []record.Identity {
	ids := []record.Identity{}
	data, err := n.chain.Leaf(index)
	if err != nil {
		return ids
	}
	leaf, err := record.DecodeLeaf(data)
	if recipe, ok := leaf.(*record.RecipeLeaf); ok && err == nil {
		for _, e := range recipe.Endorsements {
			ids = append(ids, e.Identity)
		}
	}
	return ids
}

func (n *Node) missing(have []record.Identity) []record.Identity {
	missing := []record.Identity{}
	for _, member := range n.chain.Set().Nodes {
		if !contains(have, member.Identity) {
			missing = append(missing, member.Identity)
		}
	}
	return missing
}

// ResolveLock implements control.Recipes.
func (n *Node) ResolveLock(ctx context.Context, recipe *record.Recipe, progress func(string) error) (*record.Lock, error) {
	b := n.builder.Load()
	if b == nil {
		return nil, control.WithHint(fmt.Errorf("%w: this is a regular node; only build nodes resolve locks", control.ErrRefused), "ask on one of the build nodes")
	}
	var lock *record.Lock
	err := n.streamed("lock", progress, func(id string, log *os.File) (err error) {
		lock, err = b.member.ResolveLock(ctx, recipe, id, log)
		return err
	})
	return lock, err
}

// TryRecipe implements control.Recipes.
func (n *Node) TryRecipe(ctx context.Context, recipe *record.Recipe, progress func(string) error) ([]control.Tried, error) {
	b := n.builder.Load()
	if b == nil {
		return nil, control.WithHint(fmt.Errorf("%w: this is a regular node; only build nodes build", control.ErrRefused), "ask on one of the build nodes")
	}
	if !n.trying.TryLock() {
		return nil, fmt.Errorf("%w: another recipe is tried on this node; wait for it", control.ErrRefused)
	}
	defer n.trying.Unlock()
	tried := []control.Tried{}
	err := n.streamed(tryKind, progress, func(id string, log *os.File) error {
		outputs, err := b.member.TryRecipe(ctx, recipe, id, log)
		for _, o := range outputs {
			tried = append(tried, control.Tried{Name: o.Name, File: o.File, Reference: string(o.Verdict)})
		}
		if err != nil && b.left(id) {
			err = control.WithHint(err, "what its commands left is kept for a while: pyrsia build remains "+id)
		}
		return err
	})
	return tried, err
}

// left tells whether the commands of a build left something when they failed.
func (b *builder) left(build string) bool {
	file, err := b.member.Remains(build)
	if err == nil {
		file.Close() //nolint:errcheck // only looked for
	}
	return err == nil
}

// PutFile implements control.Recipes.
func (n *Node) PutFile(ctx context.Context, r io.Reader) (artifact.Descriptor, error) {
	return n.store.Put(ctx, r)
}

// File implements control.Recipes.
func (n *Node) File(_ context.Context, digest artifact.SHA256, w io.Writer) error {
	if !n.store.Has(digest) {
		return fmt.Errorf("%w: this node has no file %s", control.ErrNotFound, digest)
	}
	file, err := n.store.Open(digest)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(w, file)
	return err
}

// streamed does work that writes a log, and hands its lines on while it goes on. The
// log is gone afterwards; its name is the work's.
func (n *Node) streamed(kind string, progress func(string) error, work func(id string, log *os.File) error) error {
	log, err := os.CreateTemp(n.scratch, kind+"-*.log")
	if err != nil {
		return err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	done := make(chan struct{})
	var failed error
	go func() {
		defer close(done)
		defer func() { // one caller's question must not end the node
			if p := recover(); p != nil {
				failed = fmt.Errorf("this is a mistake of the program's: %v", p)
			}
		}()
		failed = work(strings.TrimSuffix(filepath.Base(log.Name()), ".log"), log)
	}()
	lines, offset := &lineWriter{send: progress}, int64(0)
	for finished := false; !finished; {
		select {
		case <-done:
			finished = true
		case <-time.After(200 * time.Millisecond):
		}
		read, err := tail(log.Name(), offset, lines)
		offset += read
		if err != nil {
			<-done
			return err
		}
	}
	return failed
}

// lineWriter cuts what is written into lines.
type lineWriter struct {
	send func(string) error
	rest string
}

// Write implements io.Writer.
func (l *lineWriter) Write(p []byte) (int, error) {
	l.rest += string(p)
	for {
		line, rest, found := strings.Cut(l.rest, "\n")
		if !found {
			return len(p), nil
		}
		l.rest = rest
		if err := l.send(line); err != nil {
			return 0, err
		}
	}
}
