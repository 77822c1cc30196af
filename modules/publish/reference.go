package publish

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

// Verdict is what comparing an output with the file that upstream released says.
type Verdict string

// The verdicts.
const (
	ReferenceEqual     Verdict = "equal"
	ReferenceDifferent Verdict = "different"
	ReferenceAbsent    Verdict = "absent" // upstream released no such file
)

// Reference is one output of this node compared with what upstream released under its
// name. It is told, and no condition of anything.
type Reference struct {
	Name    artifact.Name   `json:"name"`
	Verdict Verdict         `json:"verdict"`
	Built   artifact.SHA256 `json:"built"`            // this node's output
	Digest  string          `json:"digest,omitempty"` // of upstream's file, "sha256:…" or "sha512:…"
	Recipe  bool            `json:"recipe"`           // the recipe names the digest; else this node asked its upstream
}

// ErrNoReference is wrapped by Inputs.Reference where upstream has no such file.
var ErrNoReference = errors.New("upstream has no such file")

func referenceKey(attempt record.Hash) string { return "reference " + attempt.String() }

func (m *Member) referencePath(attempt record.Hash) string {
	return m.buildFolder(attempt.String() + ".references")
}

// refer compares what this node built with what upstream released, once, after the
// outcome is durable: no vote waits for it.
func (m *Member) refer(ctx context.Context, running *sync.WaitGroup, a *ledger.Attempt) {
	if m.settledHere(referenceKey(a.ID)) {
		m.differ(ctx, running, a)
		return
	}
	statement, _, ok, err := m.votes.Outcome(a.ID)
	if err != nil || !ok {
		return
	}
	m.start(ctx, running, referenceKey(a.ID), classReference, "", func(ctx context.Context) error { return m.compare(ctx, a, statement) })
}

// settledHere tells whether work runs, or has succeeded or come to rest in this run.
func (m *Member) settledHere(key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	j := m.jobs[key]
	return j != nil && (j.running || j.rests() || j.tries > 0 && j.err == nil)
}

func (m *Member) compare(ctx context.Context, a *ledger.Attempt, data []byte) error {
	ctx, cancel := Comparing(ctx)
	defer cancel()
	if _, err := os.Stat(m.referencePath(a.ID)); err == nil {
		return nil // by an earlier run
	}
	subjects, err := m.ownSubjects(a, data)
	if err != nil {
		return err
	}
	state, err := m.chain.Recipe(a.Attempt.Recipe)
	if err != nil {
		return err
	}
	recipe, err := record.DecodeRecipe(state.Recipe)
	if err != nil {
		return err
	}
	named := map[artifact.Name]string{}
	for _, o := range recipe.Outputs {
		named[artifact.Name{Package: o.Package, File: o.File}] = o.Reference
	}
	references := []Reference{}
	for _, s := range subjects {
		if s.FileName().Package.Type() != "maven" {
			continue // nobody else publishes our images
		}
		r, err := m.reference(ctx, s, named[s.FileName()])
		if err != nil {
			return fmt.Errorf("compare %s with upstream's: %w", s.FileName().File, err)
		}
		references = append(references, r)
	}
	text, err := json.Marshal(references)
	if err != nil {
		return err
	}
	return durable.Replace(m.Disk, m.referencePath(a.ID), text)
}

// longestComparison is how long one attempt may be compared, whoever asks for it: others
// wait, what is compared comes from hostile members, and an upstream that sends a byte
// now and then would hold up all others.
const longestComparison = 30 * time.Minute

// Comparing is the context for comparing one attempt, for whoever does.
func Comparing(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, longestComparison, fmt.Errorf("comparing took more than %v", longestComparison))
}

// ownSubjects are the files of this node's own statement.
func (m *Member) ownSubjects(a *ledger.Attempt, data []byte) ([]record.Subject, error) {
	files, err := m.fileList(a.ID)
	if err != nil || files != nil {
		return files, err
	}
	statement := new(record.Statement)
	if err := record.Unmarshal(data, statement); err != nil {
		return nil, err
	}
	return statement.Subject, nil
}

func (m *Member) reference(ctx context.Context, s record.Subject, named string) (Reference, error) {
	r := Reference{Name: s.FileName(), Built: s.Digest.SHA256, Verdict: ReferenceDifferent}
	if named != "" {
		r.Recipe, r.Digest = true, named
		equal, err := m.matches(s.Digest.SHA256, named)
		if equal {
			r.Verdict = ReferenceEqual
		}
		return r, err
	}
	upstream, err := m.inputs.Reference(ctx, s.FileName())
	if errors.Is(err, ErrNoReference) {
		r.Verdict = ReferenceAbsent
		return r, nil
	}
	if err != nil {
		return r, err
	}
	r.Digest = upstream.SHA256.OCI()
	if upstream == s.Descriptor() {
		r.Verdict = ReferenceEqual
	}
	return r, nil
}

// matches tells whether a file of the store has a digest of some kind.
func (m *Member) matches(file artifact.SHA256, digest string) (bool, error) {
	kind, want, _ := strings.Cut(digest, ":")
	sums := map[string]func() hash.Hash{"sha256": sha256.New, "sha512": sha512.New}
	if sums[kind] == nil {
		return false, fmt.Errorf("the recipe's reference has a digest of the unknown kind %q", kind)
	}
	content, err := m.store.Open(file)
	if err != nil {
		return false, err
	}
	defer content.Close()
	sum := sums[kind]()
	if _, err := io.Copy(sum, content); err != nil {
		return false, err
	}
	return hex.EncodeToString(sum.Sum(nil)) == want, nil
}

// References are the outputs of this node in an attempt, compared with upstream's; none
// before that was done, or where this node built nothing.
func (m *Member) References(attempt record.Hash) ([]Reference, error) {
	data, err := os.ReadFile(m.referencePath(attempt))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var references []Reference
	return references, json.Unmarshal(data, &references)
}

// differ explains, once an attempt has its end, what of it is not alike: the reports are
// there when somebody asks, whatever became of the other members' files by then.
func (m *Member) differ(ctx context.Context, running *sync.WaitGroup, a *ledger.Attempt) {
	key := "differ " + a.ID.String()
	final := a.Status == ledger.StatusPublished || a.Status == ledger.StatusDisagreed
	if m.Differ == nil || !final || m.settledHere(key) {
		return
	}
	m.start(ctx, running, key, classReference, "", func(ctx context.Context) error { return m.explain(ctx, a) })
}

func (m *Member) explain(ctx context.Context, a *ledger.Attempt) error {
	ctx, cancel := Comparing(ctx)
	defer cancel()
	if _, err := os.Stat(m.differencesPath(a.ID)); err == nil {
		return nil // by an earlier run
	}
	references, err := m.References(a.ID)
	if err != nil {
		return err
	}
	alike := !slices.ContainsFunc(references, func(r Reference) bool { return r.Verdict == ReferenceDifferent })
	for _, v := range a.Votes {
		alike = alike && v.Statement == a.Votes[0].Statement
	}
	if alike {
		return nil
	}
	reports, err := m.Differ(ctx, a)
	if err != nil {
		return err
	}
	return durable.Replace(m.Disk, m.differencesPath(a.ID), reports)
}

func (m *Member) differencesPath(attempt record.Hash) string {
	return m.buildFolder(attempt.String() + ".differences")
}

// Differences are the reports of an attempt that were kept, nil for none.
func (m *Member) Differences(attempt record.Hash) ([]byte, error) {
	data, err := os.ReadFile(m.differencesPath(attempt))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}
