package publish

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

// tries is how often a build was begun here, durable before each: a build that takes
// the node down with it must rest some time too.
type tries struct {
	Count  int    `json:"count"`
	Error  string `json:"error"`  // of the last one; empty if the node ended during it
	Failed bool   `json:"failed"` // the recipe's own commands failed
}

// errEnded is the error of a build that the node did not outlive.
var errEnded = errors.New("the node ended during the build")

func (t tries) err() error {
	switch {
	case t.Error == "":
		return errEnded
	case t.Failed:
		return fmt.Errorf("%s (%w)", t.Error, build.ErrFailed)
	}
	return errors.New(t.Error)
}

func (m *Member) triesPath(attempt record.Hash) string {
	return m.buildFolder(attempt.String() + ".tries")
}

func (m *Member) readTries(attempt record.Hash) (t tries, err error) {
	data, err := os.ReadFile(m.triesPath(attempt))
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &t)
	}
	return t, err
}

func (m *Member) writeTries(attempt record.Hash, t tries) error {
	data, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if err := durable.Replace(m.Disk, m.triesPath(attempt), data); err != nil {
		return fmt.Errorf("keep how often it was built: %w", err)
	}
	return nil
}

// beginTry counts a try. What it returns is told how the try ended.
func (m *Member) beginTry(attempt record.Hash) (end func(error), err error) {
	m.deciding.Lock()
	defer m.deciding.Unlock()
	if m.isStopped(buildKey(attempt)) {
		return nil, errStopped
	}
	t, err := m.readTries(attempt)
	if err != nil { // damaged by hand; a count is no reason not to build
		m.Log.Warn("cannot read how often an attempt was built; counting anew", "attempt", attempt, "error", err)
	}
	before := t
	t = tries{Count: t.Count + 1}
	if err := m.writeTries(attempt, t); err != nil {
		return nil, err
	}
	return func(outcome error) {
		m.deciding.Lock()
		defer m.deciding.Unlock()
		switch {
		case outcome == nil:
			err = m.Disk.RemoveAll(m.triesPath(attempt)) // the outcome is durable
		case m.isStopped(buildKey(attempt)): // CancelAttempt wrote that
		case interrupted(outcome):
			err = m.writeTries(attempt, before)
		default:
			t.Error, t.Failed = outcome.Error(), errors.Is(outcome, build.ErrFailed)
			err = m.writeTries(attempt, t)
		}
		if err != nil {
			m.Log.Error("cannot keep how a build ended", "attempt", attempt, "error", err)
		}
	}, nil
}

func (m *Member) isStopped(key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.jobs[key] != nil && m.jobs[key].stopped
}

// recallTries takes up what earlier runs tried of an attempt.
func (m *Member) recallTries(a *ledger.Attempt) {
	m.mu.Lock()
	known := m.jobs[buildKey(a.ID)] != nil
	m.mu.Unlock()
	if known {
		return
	}
	t, err := m.readTries(a.ID)
	if err != nil {
		m.Log.Error("cannot read how often an attempt was built", "attempt", a.ID, "error", err)
	}
	if t.Count == 0 {
		return
	}
	j := &job{class: classBuild, tries: t.Count, err: t.err()}
	m.mu.Lock()
	m.jobs[buildKey(a.ID)] = j
	m.mu.Unlock()
	if j.rests() {
		m.tell(Note{Kind: NoteFailed, Recipe: a.Attempt.Recipe, Attempt: a.Attempt.Number, Lock: a.Attempt.Lock.SHA256, Text: j.err.Error()})
	}
}
