package publish

import (
	"errors"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/ledger"
)

// ErrVoted is returned by CancelAttempt once the member's result is durable: a vote
// cannot be taken back.
var ErrVoted = errors.New("this node's result is made, and its vote cannot be taken back")

// CancelRequest ends the request of an ID, or of a package where none has the ID, and
// its work; ok is false where there is none under way. An attempt of it that is on the
// chain goes on.
func (m *Member) CancelRequest(id string, pkg artifact.PURL) (ok bool) {
	for _, r := range m.Requests() {
		if r.Done || r.ID != id && r.Package != pkg {
			continue
		}
		m.end(r, errStopped.Error())
		m.stopAll("resolve " + r.ID + " ")
		ok = true
	}
	return ok
}

// stopAll stops the work whose key begins so.
func (m *Member) stopAll(beginning string) {
	m.mu.Lock()
	var keys []string
	for key := range m.jobs {
		if strings.HasPrefix(key, beginning) {
			keys = append(keys, key)
		}
	}
	m.mu.Unlock()
	for _, key := range keys {
		m.stop(key, classResolve)
	}
}

// CancelAttempt ends this node's own build of an attempt, durably: it is not begun
// again. The other members learn that it failed here.
func (m *Member) CancelAttempt(a *ledger.Attempt) error {
	if err := m.cancel(a); err != nil {
		return err
	}
	m.tell(Note{Kind: NoteFailed, Recipe: a.Attempt.Recipe, Attempt: a.Attempt.Number, Lock: a.Attempt.Lock.SHA256, Text: errStopped.Error()})
	m.changed()
	return nil
}

// cancel stops a build that has no outcome, and from then on can have none.
func (m *Member) cancel(a *ledger.Attempt) error {
	m.deciding.Lock()
	defer m.deciding.Unlock()
	_, _, made, err := m.votes.Outcome(a.ID)
	if err != nil {
		return err
	}
	if made {
		return ErrVoted
	}
	// Before the work ends: a crash after it must not begin it again.
	if err := m.writeTries(a.ID, tries{Count: maxTries, Error: errStopped.Error(), Failed: true}); err != nil {
		return err
	}
	m.stop(buildKey(a.ID), classBuild)
	return nil
}
