package publish

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// NoteKind is what a note says.
type NoteKind string

// The kinds of notes.
const (
	NoteResolving NoteKind = "resolving" // the asker makes a lock
	NoteBuilding  NoteKind = "building"
	NoteVoting    NoteKind = "voting"   // has an outcome and sends it
	NoteFailed    NoteKind = "failed"   // the build failed here; Text says why
	NoteLacking   NoteKind = "lacking"  // could not get a locked file yet; Text says why
	NoteDeclined  NoteKind = "declined" // will not hold the lock; Text says why
)

// NoteLife is how long a member counts as at work after its last note.
const NoteLife = 15 * time.Second

// MaxNoteText bounds a note's text in bytes.
const MaxNoteText = 2048

// Note is what a member tells the others about its work: for people and for
// patience, never for a decision. It is authenticated by the stream it came
// over.
type Note struct {
	From    record.Identity `json:"from"`
	Kind    NoteKind        `json:"kind"`
	Recipe  record.Hash     `json:"recipe"`
	Attempt int64           `json:"attempt"` // number
	Lock    artifact.SHA256 `json:"lock"`    // that it is about; zero while there is none
	Text    string          `json:"text"`
	At      int64           `json:"at"` // milliseconds since 1970, of who heard it
}

func (n Note) key() string { return string(n.From) + n.Recipe.String() }

func (m *Member) tell(n Note) {
	n.From = m.Identity
	n.Text = shortened(n.Text)
	m.HeardNote(n)
	m.quorum.Tell(n)
}

// shortened is a text of at most MaxNoteText bytes, whole characters of it.
func shortened(text string) string {
	for len(text) > MaxNoteText {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	return strings.Map(printable, strings.ToValidUTF8(text, ""))
}

// printable keeps what a build printed, or another member sent, from steering the terminal
// of who reads it.
func printable(r rune) rune {
	if r == '\n' || r == '\t' || unicode.IsPrint(r) {
		return r
	}
	return '?'
}

// HeardNote takes a member's note; the caller has checked who sent it. Of a text that
// is too long it takes the beginning: what it is about counts, not every word.
func (m *Member) HeardNote(n Note) {
	n.Text = shortened(n.Text)
	n.At = time.Now().UnixMilli()
	m.mu.Lock()
	m.makeRoom(n)
	m.notes[n.key()] = n
	m.mu.Unlock()
	m.notify()
}

// maxNotes bounds the notes kept of one member.
const maxNotes = 500

// makeRoom drops the oldest note of a member that has too many, so that nobody
// can crowd out another. mu is held.
func (m *Member) makeRoom(n Note) {
	if _, known := m.notes[n.key()]; known {
		return
	}
	count, oldest := 0, Note{At: n.At}
	for _, other := range m.notes {
		if other.From != n.From {
			continue
		}
		count++
		if other.At <= oldest.At {
			oldest = other
		}
	}
	if count >= maxNotes {
		delete(m.notes, oldest.key())
	}
}

// Notes are the newest notes about a recipe.
func (m *Member) Notes(recipe record.Hash) []Note {
	m.mu.Lock()
	defer m.mu.Unlock()
	notes := []Note{}
	for _, node := range m.chain.Set().Nodes {
		if n, ok := m.notes[Note{From: node.Identity, Recipe: recipe}.key()]; ok {
			notes = append(notes, n)
		}
	}
	return notes
}

// Working tells whether a member said of late that it is at work on the
// attempt.
func (m *Member) Working(id record.Identity, attempt record.Hash) bool {
	a, err := m.chain.Attempt(attempt)
	if err != nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.notes[Note{From: id, Recipe: a.Attempt.Recipe}.key()]
	fresh := time.Since(time.UnixMilli(n.At)) < NoteLife
	return ok && fresh && n.Attempt == a.Attempt.Number && (n.Kind == NoteBuilding || n.Kind == NoteVoting)
}
