package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

// maxList bounds one answer of LogList.
const maxList = 10_000

// LogList implements control.Log.
func (n *Node) LogList(_ context.Context, from int64, count int) ([]control.LogEntry, error) {
	size := n.chain.Size()
	if from < 0 {
		from = max(size+from, 0)
	}
	entries := []control.LogEntry{}
	for index := from; index < size && len(entries) < min(max(count, 0), maxList); index++ {
		leaf, err := n.logLeaf(index)
		if err != nil {
			return nil, err
		}
		entries = append(entries, leaf.LogEntry)
	}
	return entries, nil
}

func (n *Node) logLeaf(index int64) (control.LogLeaf, error) {
	data, err := n.chain.Leaf(index)
	if errors.Is(err, ledger.ErrNotFound) {
		return control.LogLeaf{}, control.WithHint(fmt.Errorf("%w: the log has %d leaves, none has index %d", control.ErrNotFound, n.chain.Size(), index), "`pyrsia log list` shows the newest")
	}
	if err != nil {
		return control.LogLeaf{}, err
	}
	leaf, err := record.DecodeLeaf(data)
	if err != nil {
		return control.LogLeaf{}, err
	}
	height, err := n.chain.HeightOf(index)
	if err != nil {
		return control.LogLeaf{}, err
	}
	header, err := n.chain.Header(height)
	if err != nil {
		return control.LogLeaf{}, err
	}
	entry := control.LogLeaf{
		LogEntry: control.LogEntry{Index: index, Height: height, Type: leaf.LeafType(), Summary: n.summary(leaf)},
		Hash:     record.LeafHash(data), Leaf: data,
	}
	if header != nil {
		entry.Time = milliseconds(header.Time)
	}
	if envelope := envelopeOf(leaf); envelope != nil {
		entry.Statement = json.RawMessage(envelope.Payload)
	}
	return entry, nil
}

// summary is a leaf in one line for people.
func (n *Node) summary(leaf record.Leaf) string {
	switch leaf := leaf.(type) {
	case *record.Genesis:
		return fmt.Sprintf("network %s of %d build nodes, order by %s", leaf.Name, len(leaf.Nodes), leaf.Order)
	case *record.RecipeLeaf:
		return fmt.Sprintf("%s, recipe %s, endorsed by %d of %d", leaf.Change.Package, leaf.Change.RecipeHash().Short(), len(leaf.Endorsements), n.chain.Set().Size())
	case *record.AttemptLeaf:
		return fmt.Sprintf("%s, attempt %d, locked files held by %d of %d", n.packageOf(leaf.Attempt.Recipe), leaf.Attempt.Number, len(leaf.Holdings), n.chain.Set().Size())
	case *record.CommitsLeaf:
		return fmt.Sprintf("%s, committed by %d of %d", n.attemptName(leaf.Attempt), len(leaf.Commits), n.chain.Set().Size())
	case *record.FilesLeaf:
		return fmt.Sprintf("%s, files %d of %d", n.attemptName(leaf.Attempt), leaf.Part+1, leaf.Parts)
	case *record.PublishLeaf:
		return fmt.Sprintf("%s, published by %d of %d", n.attemptName(leaf.Attempt), len(leaf.Reveals), n.chain.Set().Size())
	case *record.AttestLeaf:
		return fmt.Sprintf("%s, %s by %d of %d", n.attemptName(leaf.Attempt), n.attestKind(leaf), len(leaf.Reveals), n.chain.Set().Size())
	case *record.KeyRotateLeaf:
		return fmt.Sprintf("new keys of %s, record %d", n.called(leaf.Record.Identity), leaf.Record.Seq)
	case *record.EvidenceLeaf:
		return n.accusation(leaf)
	case *record.Header:
		return fmt.Sprintf("block %d, proposed by %s", leaf.Height, n.called(leaf.Proposer))
	}
	return ""
}

// accusation says what a member did. The leaf was checked when it was appended.
func (n *Node) accusation(leaf *record.EvidenceLeaf) string {
	switch {
	case len(leaf.Votes) > 0:
		v := leaf.Votes[0]
		return fmt.Sprintf("%s signed two different messages as its %s of height %d, round %d", n.called(v.Voter), v.Step, v.Height, v.Round)
	case len(leaf.Proposals) > 0:
		p := leaf.Proposals[0]
		return fmt.Sprintf("%s proposed two different blocks at height %d, round %d", n.called(p.Proposer), p.Height, p.Round)
	case len(leaf.Commits) > 0:
		return fmt.Sprintf("%s committed to two different results: %s", n.called(leaf.Commits[0].Identity), n.attemptName(leaf.Attempt))
	}
	return ""
}

func (n *Node) attestKind(leaf *record.AttestLeaf) string {
	a, err := n.chain.Attempt(leaf.Attempt)
	if err == nil && a.Status == ledger.StatusPublished && a.Published == record.Digest(leaf.Envelope.Payload) {
		return "attested too"
	}
	return "attested differently"
}

// called is a node for people: its label, or the end of its identity.
func (n *Node) called(id record.Identity) string {
	if label := n.label(id); label != "" {
		return label
	}
	return "…" + id.Short()
}

func (n *Node) packageOf(recipe record.Hash) string {
	state, err := n.chain.Recipe(recipe)
	if err != nil {
		return "recipe " + recipe.Short()
	}
	return string(state.Package)
}

func (n *Node) attemptName(id record.Hash) string {
	a, err := n.chain.Attempt(id)
	if err != nil {
		return "attempt " + id.Short()
	}
	return fmt.Sprintf("%s, attempt %d", a.Package, a.Attempt.Number)
}

// LogInspect implements control.Log.
func (n *Node) LogInspect(_ context.Context, ref string) ([]control.LogLeaf, error) {
	indexes, err := n.leavesOf(ref)
	if err != nil {
		return nil, err
	}
	if len(indexes) == 0 {
		return nil, control.WithHint(fmt.Errorf("%w: the log does not name %s", control.ErrNotFound, strconv.Quote(ref)),
			"give a leaf's index, a package URL with or without #file, or the SHA-256 of a file, recipe or attempt")
	}
	leaves := []control.LogLeaf{}
	for _, index := range indexes {
		leaf, err := n.logLeaf(index)
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, leaf)
	}
	return leaves, nil
}

// leavesOf are the indexes of the leaves that a reference names, sorted.
func (n *Node) leavesOf(ref string) ([]int64, error) {
	if index, err := strconv.ParseInt(ref, 10, 64); err == nil {
		return []int64{index}, nil
	}
	found := map[int64]bool{}
	if hash, err := record.ParseHash(ref); err == nil {
		if err := n.leavesOfHash(hash, found); err != nil {
			return nil, err
		}
	} else if err := n.leavesOfPackage(ref, found); err != nil {
		return nil, err
	}
	indexes := make([]int64, 0, len(found))
	for index := range found {
		indexes = append(indexes, index)
	}
	sort.Slice(indexes, func(i, j int) bool { return indexes[i] < indexes[j] })
	return indexes, nil
}

func (n *Node) leavesOfHash(hash record.Hash, found map[int64]bool) error {
	if p, err := n.chain.ResolveDigest(artifact.SHA256(hash)); err == nil {
		found[p.Leaf] = true
	}
	if r, err := n.chain.Recipe(hash); err == nil {
		found[r.Leaf] = true
	}
	if a, err := n.chain.Attempt(hash); err == nil {
		n.leavesOfAttempt(a, found)
	}
	return nil
}

func (n *Node) leavesOfAttempt(a *ledger.Attempt, found map[int64]bool) {
	found[a.Leaf] = true
	if a.CommitLeaf > 0 {
		found[a.CommitLeaf] = true
	}
	for _, v := range a.Votes {
		found[v.Leaf] = true
	}
}

func (n *Node) leavesOfPackage(ref string, found map[int64]bool) error {
	pkg, file, isFile := strings.Cut(ref, "#")
	purl, err := artifact.ParsePURL(pkg)
	if err != nil {
		return control.WithHint(fmt.Errorf("%w: %w", control.ErrInvalid, err), "give a leaf's index, a package URL with or without #file, or a SHA-256")
	}
	if isFile {
		p, err := n.chain.Resolve(artifact.Name{Package: purl, File: file})
		if err == nil {
			found[p.Leaf] = true
		}
		return nil
	}
	if purl.Type() == "docker" {
		if p, err := n.chain.ResolveTag(purl.Repository(), purl.Version()); err == nil {
			found[p.Leaf] = true
		}
	}
	entries, err := n.chain.Files(pkg + "#")
	if err != nil {
		return err
	}
	for _, e := range entries {
		found[e.Leaf] = true
	}
	recipes, err := n.chain.Recipes()
	if err != nil {
		return err
	}
	hashes := map[record.Hash]bool{}
	for _, r := range recipes {
		if r.Package == purl {
			hashes[r.Hash], found[r.Leaf] = true, true
		}
	}
	attempts, err := n.chain.Attempts()
	for i := range attempts {
		if hashes[attempts[i].Attempt.Recipe] {
			n.leavesOfAttempt(&attempts[i], found)
		}
	}
	return err
}

// LogProve implements control.Log.
func (n *Node) LogProve(_ context.Context, ref string) ([]byte, error) {
	p, err := n.published(ref)
	if err != nil {
		return nil, err
	}
	return n.chain.Prove(p)
}

// published is the publication that a reference names: a file's SHA-256,
// "<purl>#<file>", or the package URL of an image by its tag.
func (n *Node) published(ref string) (*ledger.Publication, error) {
	p, err := n.resolve(ref)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, control.WithHint(fmt.Errorf("%w: %s is not published on this network", control.ErrNotFound, ref), "`pyrsia log inspect` with the package URL lists its files")
	}
	return p, err
}

func (n *Node) resolve(ref string) (*ledger.Publication, error) {
	if digest, err := artifact.ParseSHA256(ref); err == nil {
		return n.chain.ResolveDigest(digest)
	}
	pkg, file, isFile := strings.Cut(ref, "#")
	purl, err := artifact.ParsePURL(pkg)
	if err != nil {
		return nil, control.WithHint(fmt.Errorf("%w: %w", control.ErrInvalid, err), "give \"<purl>#<file>\" or the SHA-256 of a file")
	}
	if isFile {
		return n.chain.Resolve(artifact.Name{Package: purl, File: file})
	}
	if purl.Type() == "docker" {
		return n.chain.ResolveTag(purl.Repository(), purl.Version())
	}
	entries, err := n.chain.Files(pkg + "#")
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, ledger.ErrNotFound
	}
	if len(entries) > 1 {
		return nil, control.WithHint(fmt.Errorf("%w: %s has %d files", control.ErrInvalid, pkg, len(entries)), fmt.Sprintf("name one, such as %q", entries[0].Subject.FileName()))
	}
	return n.chain.Resolve(entries[0].Subject.FileName())
}

// Checkpoint implements control.Log.
func (n *Node) Checkpoint(context.Context) (string, error) {
	note := n.chain.Checkpoint()
	if note == nil {
		return "", control.WithHint(fmt.Errorf("%w: the log has only its genesis; no block is signed yet", control.ErrNotFound), "it comes once an order quorum of build nodes is connected")
	}
	return string(note), nil
}
