package chain

import (
	"fmt"
	"maps"
	"sort"
	"strings"

	"github.com/pyrsia/appliance/modules/ledger"
)

// overlay is a transaction in memory above a reader: how a block is tried
// without being appended. It serves one goroutine.
type overlay struct {
	below   ledger.Reader
	changes map[string]map[string][]byte
}

func newOverlay(below ledger.Reader) *overlay {
	return &overlay{below: below, changes: map[string]map[string][]byte{}}
}

// above is the overlay's changes above another reader: a copy, which may be changed.
func (o *overlay) above(below ledger.Reader) *overlay {
	again := newOverlay(below)
	for bucket, changes := range o.changes {
		again.changes[bucket] = maps.Clone(changes)
	}
	return again
}

// Get implements Reader.
func (o *overlay) Get(bucket string, key []byte) []byte {
	if value, ok := o.changes[bucket][string(key)]; ok {
		return value
	}
	return o.below.Get(bucket, key)
}

// Put implements Tx.
func (o *overlay) Put(bucket string, key, value []byte) error {
	if len(key) == 0 || len(key) > MaxKey {
		return fmt.Errorf("bucket %s: key of %d bytes", bucket, len(key))
	}
	if o.changes[bucket] == nil {
		o.changes[bucket] = map[string][]byte{}
	}
	o.changes[bucket][string(key)] = append([]byte{}, value...)
	return nil
}

// Scan implements Reader.
func (o *overlay) Scan(bucket string, prefix []byte, visit func(key, value []byte) bool) {
	merged := map[string][]byte{}
	o.below.Scan(bucket, prefix, func(key, value []byte) bool {
		merged[string(key)] = append([]byte(nil), value...)
		return true
	})
	for key, value := range o.changes[bucket] {
		if strings.HasPrefix(key, string(prefix)) {
			merged[key] = value
		}
	}
	keys := make([]string, 0, len(merged))
	for key := range merged {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		if !visit([]byte(key), merged[key]) {
			return
		}
	}
}

// commit copies the changes into the overlay below.
func (o *overlay) commit(into *overlay) {
	for bucket, changes := range o.changes {
		for key, value := range changes {
			into.Put(bucket, []byte(key), value)
		}
	}
}
