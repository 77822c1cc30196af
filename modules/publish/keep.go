package publish

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

// tidyEvery is how often what is old is looked for: far more often than the shortest
// time that anything is kept for.
const tidyEvery = 10 * time.Minute

// tidy removes what is older than it is kept for, until the context ends.
func (m *Member) tidy(ctx context.Context) {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		if keep := m.limits.Load().Keep; keep > 0 {
			if err := m.removeOld(time.Now().Add(-keep)); err != nil {
				m.Log.Warn("cannot remove what is left of old builds", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// removeOld removes what was last touched before a time, of work that has ended: what
// an attempt still needs is younger than its deadline, or has its own file.
func (m *Member) removeOld(before time.Time) error {
	return errors.Join(m.removeRequests(before), m.removeBuilds(before))
}

// removeRequests forgets requests that ended; those under way stay, however old.
func (m *Member) removeRequests(before time.Time) error {
	var failures []error
	for _, r := range m.Requests() {
		path := filepath.Join(m.requestFolder(), r.ID+".json")
		info, err := os.Stat(path)
		if !r.Done || err != nil || info.ModTime().After(before) {
			continue
		}
		// A crash between the two leaves a request that the next run removes.
		if err := m.Disk.RemoveAll(path); err != nil {
			failures = append(failures, err)
			continue
		}
		m.mu.Lock()
		delete(m.requests, r.ID)
		m.mu.Unlock()
	}
	return errors.Join(failures...)
}

// removeBuilds removes logs and notes of builds. Outcomes are in the vote file, and
// the list of an outcome's files stays as long as that.
func (m *Member) removeBuilds(before time.Time) error {
	entries, err := os.ReadDir(m.buildFolder(""))
	if err != nil {
		return err
	}
	var failures []error
	for _, entry := range entries {
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) || entry.IsDir() {
			continue
		}
		if err != nil {
			failures = append(failures, err)
			continue
		}
		if info.ModTime().After(before) {
			continue
		}
		failures = append(failures, m.removeBuild(entry.Name()))
	}
	return errors.Join(failures...)
}

// removable are the files beside a build that go with time, by their ends.
var removable = []string{".log", ".tries", ".references", ".differences", ".remains", ".partial"}

func (m *Member) removeBuild(file string) error {
	for _, end := range removable {
		name, is := strings.CutSuffix(file, end)
		if !is {
			continue
		}
		if id, err := record.ParseHash(name); err == nil {
			if active, err := m.needed(id); active || err != nil {
				return err
			}
			if end == ".references" {
				if err := m.release(id); err != nil {
					return err
				}
			}
		}
		return m.Disk.RemoveAll(m.buildFolder(file))
	}
	return nil
}

// needed tells whether an attempt may still have an outcome.
func (m *Member) needed(id record.Hash) (bool, error) {
	a, err := m.chain.Attempt(id)
	if errors.Is(err, ledger.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return a.Active(m.chain.Time()), nil
}

// release lets go of the outputs that were not published: nobody asks for them any
// more. What is published stays.
func (m *Member) release(id record.Hash) error {
	a, err := m.chain.Attempt(id)
	if err != nil || a.Status == ledger.StatusPublished {
		return nil
	}
	statement, _, ok, err := m.votes.Outcome(id)
	if err != nil || !ok {
		return err
	}
	subjects, err := m.ownSubjects(a, statement)
	if err != nil {
		return err
	}
	m.keeping.Lock() // outputs that are being kept are wanted, and nothing says so yet
	defer m.keeping.Unlock()
	wanted, err := m.wanted(id)
	if err != nil {
		return err
	}
	references, err := m.References(id)
	if err != nil {
		return err
	}
	for _, r := range references {
		// Upstream's own file may be an input of other builds, which must not depend
		// on upstream.
		if r.Verdict == ReferenceEqual {
			wanted[r.Built] = true
		}
	}
	var failures []error
	for _, s := range subjects {
		if wanted[s.Digest.SHA256] || m.publishedElsewhere(s) {
			continue
		}
		failures = append(failures, m.store.Release(s.Digest.SHA256))
	}
	return errors.Join(failures...)
}

// wanted are the outputs of this node in other attempts that may still publish them.
func (m *Member) wanted(but record.Hash) (map[artifact.SHA256]bool, error) {
	attempts, err := m.chain.RecentAttempts(m.chain.Time() - Memory.Milliseconds())
	if err != nil {
		return nil, err
	}
	wanted := map[artifact.SHA256]bool{}
	for i := range attempts {
		a := &attempts[i]
		if a.ID == but || a.Status == ledger.StatusDisagreed || a.Expired(m.chain.Time()) {
			continue
		}
		statement, _, ok, err := m.votes.Outcome(a.ID)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		subjects, err := m.ownSubjects(a, statement)
		if err != nil {
			return nil, err
		}
		for _, s := range subjects {
			wanted[s.Digest.SHA256] = true
		}
	}
	return wanted, nil
}

// publishedElsewhere tells whether the log vouches for the same bytes by another build.
// Where that is not known they stay.
func (m *Member) publishedElsewhere(s record.Subject) bool {
	_, err := m.chain.ResolveDigest(s.Digest.SHA256)
	return !errors.Is(err, ledger.ErrNotFound)
}
