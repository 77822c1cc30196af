// Package bolt keeps the chain's state in a bbolt file: one write transaction
// per block, synced before it returns.
package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/ledger"
	bbolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Backend is a chain.Backend in one file. It is safe for concurrent use.
type Backend struct{ db *bbolt.DB }

// Open opens or creates the file. It fails within two seconds if another
// process has it open.
func Open(path string) (*Backend, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open chain file: %w", err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 2 * time.Second, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open chain file %s: another process has it open; stop the other node or give this one its own storage.data", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open chain file %s: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range chain.Buckets {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open chain file %s: %w", path, err), db.Close())
	}
	return &Backend{db: db}, nil
}

// Close closes the file; it waits for transactions under way.
func (b *Backend) Close() error { return b.db.Close() }

// View implements chain.Backend.
func (b *Backend) View(read func(ledger.Reader) error) error {
	return b.db.View(func(tx *bbolt.Tx) error { return read(transaction{tx}) })
}

// Update implements chain.Backend.
func (b *Backend) Update(write func(ledger.Tx) error) error {
	return b.db.Update(func(tx *bbolt.Tx) error { return write(transaction{tx}) })
}

type transaction struct{ tx *bbolt.Tx }

func (t transaction) Get(bucket string, key []byte) []byte {
	return t.tx.Bucket([]byte(bucket)).Get(key)
}

func (t transaction) Put(bucket string, key, value []byte) error {
	return t.tx.Bucket([]byte(bucket)).Put(key, value)
}

func (t transaction) Scan(bucket string, prefix []byte, visit func(key, value []byte) bool) {
	cursor := t.tx.Bucket([]byte(bucket)).Cursor()
	for key, value := cursor.Seek(prefix); key != nil && bytes.HasPrefix(key, prefix); key, value = cursor.Next() {
		if !visit(key, value) {
			return
		}
	}
}
