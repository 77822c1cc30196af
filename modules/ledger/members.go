package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/pyrsia/appliance/modules/record"
)

// Bounds of the members' own leaves (docs/protocol.md, "Members").
const (
	// MinRotation is how long a member keeps its second keys at the least, in
	// milliseconds of header time, and each later ones twice as long as those
	// before, up to maxDoublings: a change delays those of others, and every proof
	// bundle holds all changes.
	MinRotation  = 60 * 60 * 1000
	maxDoublings = 12

	// MaxEvidence is how many offences of one member are recorded. They are all
	// that is needed to know it; more would only be a way to fill the log.
	MaxEvidence = 32

	// SetDelay is after how many blocks a change of the set takes effect: the
	// block after the change's still is the old set's, and names the new one.
	SetDelay = 2
)

// setEntry is a set and from which height on it counts.
type setEntry struct {
	From     int64               `json:"from"`
	Leaf     int64               `json:"leaf"`     // that changed it; 0 is the genesis
	Previous int64               `json:"previous"` // From of the set before, -1 for the first
	Order    string              `json:"order"`
	Nodes    []record.NodeRecord `json:"nodes"`
}

// member is what the state holds of an identity whose keys changed.
type member struct {
	Since   int64 `json:"since"`   // height from which its keys count
	Rotated int64 `json:"rotated"` // header time of the last change
	Changes int64 `json:"changes"` // how many there were
}

// wait is how long its keys must stand before they may change again.
func (m member) wait() int64 {
	if m.Changes == 0 {
		return 0
	}
	return MinRotation << min(m.Changes-1, maxDoublings)
}

// Evidence is a proven offence of a member.
type Evidence struct {
	record.Offence `json:"offence"`
	Leaf           int64 `json:"leaf"`
	Included       int64 `json:"included"` // height of the block that recorded it
	Time           int64 `json:"time"`     // of that block
}

var keyLast = []byte("last") // in bucketSets and bucketCounted, whose other keys are numbers of 8 bytes

func be64(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

// Found writes the state that a genesis founds.
func Found(tx Tx, set *record.Set) error {
	for i := range set.Nodes {
		if err := useKeys(tx, &set.Nodes[i]); err != nil {
			return err
		}
	}
	return putSet(tx, setEntry{Previous: -1}, set)
}

func putSet(tx Tx, entry setEntry, set *record.Set) error {
	entry.Order, entry.Nodes = set.Order(), set.Nodes
	if err := PutJSON(tx, bucketSets, be64(entry.From), entry); err != nil {
		return err
	}
	return tx.Put(bucketSets, keyLast, be64(entry.From))
}

// useKeys remembers a record's keys, the identity's too: no key is ever used a
// second time.
func useKeys(tx Tx, node *record.NodeRecord) error {
	for _, key := range node.Keys() {
		if err := tx.Put(bucketKeys, key[:], []byte(node.Identity)); err != nil {
			return err
		}
	}
	return nil
}

func lastSet(r Reader) (setEntry, error) {
	from := r.Get(bucketSets, keyLast)
	if from == nil {
		return setEntry{}, fmt.Errorf("the set: %w", ErrNotFound)
	}
	var entry setEntry
	return entry, GetJSON(r, bucketSets, from, &entry)
}

// UsedKey tells whether a key is or was a member's.
func UsedKey(r Reader, key record.PublicKey) bool { return r.Get(bucketKeys, key[:]) != nil }

// SetAt is the authorised build nodes of the block of a height. The two heights
// after the newest block are known already; later ones may still change.
func SetAt(r Reader, height int64) (*record.Set, error) {
	entry, err := lastSet(r)
	for ; err == nil && entry.From > height; err = GetJSON(r, bucketSets, be64(entry.Previous), &entry) {
	}
	if err != nil {
		return nil, fmt.Errorf("set of height %d: %w", height, err)
	}
	return record.NewSet(entry.Nodes, entry.Order)
}

// SetChange says where a set came from.
type SetChange struct {
	From int64 // height from which it counts; SetDelay after the change's block
	Leaf int64 // index of the leaf that changed it
}

// SetChanges are the changes since the genesis, oldest first.
func SetChanges(r Reader) (changes []SetChange, err error) {
	entry, err := lastSet(r)
	for ; err == nil && entry.Previous >= 0; err = GetJSON(r, bucketSets, be64(entry.Previous), &entry) {
		changes = append([]SetChange{{From: entry.From, Leaf: entry.Leaf}}, changes...)
	}
	return changes, err
}

// rotate gives a member new keys.
func (r *Rules) rotate(index int64, leaf *record.KeyRotateLeaf) error {
	last, err := lastSet(r.tx)
	if err != nil {
		return err
	}
	if last.From > r.height {
		return fmt.Errorf("%w: another change of the set takes effect at height %d", errRule, last.From)
	}
	later := leaf.Record
	old, ok := r.set.Node(later.Identity)
	if !ok {
		return fmt.Errorf("%w: %.80q is not in the set", errRule, string(later.Identity))
	}
	if later.Operator != old.Operator {
		return fmt.Errorf("%w: the operator of %s is %.80q", errRule, later.Identity, old.Operator)
	}
	for _, key := range []record.PublicKey{later.VoteKey, later.CosignerKey, later.LogKey} {
		if UsedKey(r.tx, key) {
			return fmt.Errorf("%w: a key of %s was used before", errRule, later.Identity)
		}
	}
	var state member
	if err := GetJSON(r.tx, bucketMembers, []byte(later.Identity), &state); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if wait := state.wait(); r.time < state.Rotated+wait {
		return fmt.Errorf("%w: the keys of %s changed %d times, and the last time less than %d hours before", errRule, later.Identity, state.Changes, wait/MinRotation)
	}
	next, err := r.set.Rotate(r.network.Genesis, later)
	if err != nil {
		return err
	}
	from := r.height + SetDelay
	r.changed = true
	return errors.Join(
		useKeys(r.tx, &later),
		PutJSON(r.tx, bucketMembers, []byte(later.Identity), member{Since: from, Rotated: r.time, Changes: state.Changes + 1}),
		putSet(r.tx, setEntry{From: from, Leaf: index, Previous: last.From}, next),
	)
}

// Changed tells whether a leaf changed the set.
func (r *Rules) Changed() bool { return r.changed }

// witnessed refuses a vote of a member in an attempt that is older than its
// keys: with its vote state it lost what it may have said there before.
func (r *Rules) witnessed(id record.Identity, a *Attempt) error {
	if Younger(r.tx, id, a) {
		return fmt.Errorf("%w: the keys of %s are younger than attempt %s", errRule, id, a.ID.Short())
	}
	return nil
}

// Younger tells whether a member's keys are younger than an attempt, so that it
// has no vote in it.
func Younger(r Reader, id record.Identity, a *Attempt) bool {
	var state member
	return GetJSON(r, bucketMembers, []byte(id), &state) == nil && state.Since > a.Height
}

// evidence records an offence, once.
func (r *Rules) evidence(index int64, leaf *record.EvidenceLeaf) (err error) {
	set, height := r.set, leaf.Height()
	if height > r.height {
		return fmt.Errorf("%w: evidence of height %d in block %d", errRule, height, r.height)
	}
	if height > 0 && height < r.height {
		if set, err = SetAt(r.tx, height); err != nil {
			return err
		}
	}
	offence, err := leaf.Check(r.network.Genesis, set)
	if err != nil {
		return err
	}
	if !offence.Attempt.IsZero() {
		if _, err := r.getAttempt(offence.Attempt); err != nil {
			return err
		}
	}
	key := offenceKey(offence)
	if r.tx.Get(bucketEvidence, key) != nil {
		return fmt.Errorf("%w: this offence of %s is on the chain already", errRule, offence.Identity)
	}
	known := 0
	r.tx.Scan(bucketEvidence, accusedKey(offence.Identity), func(_, _ []byte) bool { known++; return known < MaxEvidence })
	if known >= MaxEvidence {
		return fmt.Errorf("%w: %d offences of %s are on the chain", errRule, known, offence.Identity)
	}
	return PutJSON(r.tx, bucketEvidence, key, Evidence{Offence: offence, Leaf: index, Included: r.height, Time: r.time})
}

// No identity is the beginning of another: they are texts of base58, and a
// space is none.
func accusedKey(id record.Identity) []byte { return []byte(string(id) + " ") }

func offenceKey(o record.Offence) []byte {
	return append(accusedKey(o.Identity), record.MustMarshal(o)...)
}

// Accused tells whether an offence is on the chain, or the member has so many
// there that no more are taken.
func Accused(r Reader, o record.Offence) bool {
	if r.Get(bucketEvidence, offenceKey(o)) != nil {
		return true
	}
	known := 0
	r.Scan(bucketEvidence, accusedKey(o.Identity), func(_, _ []byte) bool { known++; return known < MaxEvidence })
	return known >= MaxEvidence
}

// AllEvidence are the proven offences, by member.
func AllEvidence(r Reader) ([]Evidence, error) { return scan[Evidence](r, bucketEvidence, "") }
