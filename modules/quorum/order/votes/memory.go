package votes

import (
	"bytes"
	"fmt"
	"maps"
	"sort"
	"sync"

	"github.com/pyrsia/appliance/modules/record"
)

// Memory is a vote file that lasts as long as the program: for tests and
// simulations. The zero value is empty and ready.
type Memory struct {
	mu       sync.Mutex
	state    State
	records  map[Slot][]byte
	outcomes map[record.Hash]outcome
	released map[record.Hash]Release
	starts   int64
	shut     string
	others   map[record.PublicKey]record.Incarnation
}

var _ File = (*Memory)(nil)

type outcome struct {
	statement []byte
	salt      record.Hash
}

// Clone is an independent copy: the file as a crash at this moment leaves it.
func (m *Memory) Clone() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &Memory{
		state: m.state, records: map[Slot][]byte{}, outcomes: map[record.Hash]outcome{}, released: map[record.Hash]Release{},
		starts: m.starts, shut: m.shut, others: maps.Clone(m.others),
	}
	for slot, data := range m.records {
		c.records[slot] = data
	}
	for attempt, o := range m.outcomes {
		c.outcomes[attempt] = o
	}
	for attempt, r := range m.released {
		c.released[attempt] = r
	}
	return c
}

// Put implements File.
func (m *Memory) Put(records ...Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.records == nil {
		m.records = map[Slot][]byte{}
	}
	state, written := m.state, map[Slot][]byte{}
	for _, r := range records {
		if err := r.Check(); err != nil {
			return err
		}
		existing, ok := written[r.Slot]
		if !ok {
			existing = m.records[r.Slot]
		}
		write, err := state.Admit(r, existing)
		if err != nil {
			return err
		}
		if write {
			written[r.Slot] = bytes.Clone(r.Data)
		}
	}
	for slot, data := range written {
		m.records[slot] = data
	}
	m.state = state
	return nil
}

// Load implements File.
func (m *Memory) Load(height int64) ([]Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var records []Record
	for slot, data := range m.records {
		if slot.Height == height {
			records = append(records, Record{Slot: slot, Data: bytes.Clone(data)})
		}
	}
	sort.Slice(records, func(i, j int) bool { return records[i].Slot.less(records[j].Slot) })
	return records, nil
}

func (s Slot) less(o Slot) bool {
	if s.Height != o.Height {
		return s.Height < o.Height
	}
	if s.Round != o.Round {
		return s.Round < o.Round
	}
	if s.Kind != o.Kind {
		return s.Kind < o.Kind
	}
	return bytes.Compare(s.Root[:], o.Root[:]) < 0
}

// Highest implements File.
func (m *Memory) Highest() (Position, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Highest, nil
}

// Prune implements File.
func (m *Memory) Prune(height int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for slot := range m.records {
		if slot.Height < height {
			delete(m.records, slot)
		}
	}
	m.state.Floor = max(m.state.Floor, height)
	return nil
}

// PutOutcome implements File.
func (m *Memory) PutOutcome(attempt record.Hash, statement []byte, salt record.Hash) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if existing, ok := m.outcomes[attempt]; ok {
		if existing.salt == salt && bytes.Equal(existing.statement, statement) {
			return nil
		}
		return fmt.Errorf("outcome of attempt %s: %w", attempt.Short(), ErrConflict)
	}
	if m.outcomes == nil {
		m.outcomes = map[record.Hash]outcome{}
	}
	m.outcomes[attempt] = outcome{statement: bytes.Clone(statement), salt: salt}
	return nil
}

// Outcome implements File.
func (m *Memory) Outcome(attempt record.Hash) (statement []byte, salt record.Hash, ok bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.outcomes[attempt]
	return bytes.Clone(o.statement), o.salt, ok, nil
}

// PutReleased implements File.
func (m *Memory) PutReleased(attempt record.Hash, r Release) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.outcomes[attempt]; !ok {
		return fmt.Errorf("release for attempt %s: %w: it has no outcome", attempt.Short(), ErrConflict)
	}
	if m.released == nil {
		m.released = map[record.Hash]Release{}
	}
	m.released[attempt] = max(m.released[attempt], r)
	return nil
}

// Released implements File.
func (m *Memory) Released(attempt record.Hash) (Release, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.released[attempt], nil
}

// PutShut implements File.
func (m *Memory) PutShut(reason string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shut == "" {
		m.shut = reason
	}
	return nil
}

// Shut implements File.
func (m *Memory) Shut() (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.shut, nil
}

// NextStart implements File.
func (m *Memory) NextStart() (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.starts++
	return m.starts, nil
}

// Remember implements File.
func (m *Memory) Remember(key record.PublicKey, i record.Incarnation) (record.Incarnation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, ok := m.others[key]; ok && known.Number >= i.Number {
		return known, nil
	}
	if m.others == nil {
		m.others = map[record.PublicKey]record.Incarnation{}
	}
	m.others[key] = i
	return i, nil
}
