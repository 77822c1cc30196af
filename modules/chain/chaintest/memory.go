package chaintest

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/ledger"
)

// Memory is a chain.Backend in memory. The zero value is empty and ready. It is
// safe for concurrent use.
type Memory struct {
	mu      sync.RWMutex
	buckets map[string]map[string][]byte
}

// Clone is an independent copy: the state as a crash at this moment leaves it.
func (m *Memory) Clone() *Memory {
	m.mu.RLock()
	defer m.mu.RUnlock()
	clone := &Memory{buckets: map[string]map[string][]byte{}}
	for bucket, values := range m.buckets {
		clone.buckets[bucket] = map[string][]byte{}
		for key, value := range values {
			clone.buckets[bucket][key] = value
		}
	}
	return clone
}

// View implements chain.Backend.
func (m *Memory) View(read func(ledger.Reader) error) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return read(&memoryTx{memory: m})
}

// Update implements chain.Backend.
func (m *Memory) Update(write func(ledger.Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	tx := &memoryTx{memory: m, changes: map[string]map[string][]byte{}}
	if err := write(tx); err != nil {
		return err
	}
	if m.buckets == nil {
		m.buckets = map[string]map[string][]byte{}
	}
	for bucket, changes := range tx.changes {
		if m.buckets[bucket] == nil {
			m.buckets[bucket] = map[string][]byte{}
		}
		for key, value := range changes {
			m.buckets[bucket][key] = value
		}
	}
	return nil
}

type memoryTx struct {
	memory  *Memory
	changes map[string]map[string][]byte // nil: read only
}

// known panics for a bucket that no Backend has: a bug of the caller.
func known(bucket string) {
	if !slices.Contains(chain.Buckets, bucket) {
		panic("no bucket " + bucket)
	}
}

func (tx *memoryTx) Get(bucket string, key []byte) []byte {
	known(bucket)
	if value, ok := tx.changes[bucket][string(key)]; ok {
		return value
	}
	return tx.memory.buckets[bucket][string(key)]
}

func (tx *memoryTx) Put(bucket string, key, value []byte) error {
	known(bucket)
	if len(key) == 0 || len(key) > chain.MaxKey {
		return fmt.Errorf("key of %d bytes", len(key))
	}
	if tx.changes[bucket] == nil {
		tx.changes[bucket] = map[string][]byte{}
	}
	tx.changes[bucket][string(key)] = append([]byte{}, value...)
	return nil
}

func (tx *memoryTx) Scan(bucket string, prefix []byte, visit func(key, value []byte) bool) {
	known(bucket)
	values := map[string][]byte{}
	for _, layer := range []map[string][]byte{tx.memory.buckets[bucket], tx.changes[bucket]} {
		for key, value := range layer {
			if strings.HasPrefix(key, string(prefix)) {
				values[key] = value
			}
		}
	}
	keys := make([]string, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		if !visit([]byte(key), values[key]) {
			return
		}
	}
}
