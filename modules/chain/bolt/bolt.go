// Package bolt keeps the chain's state in a bbolt file: one write transaction
// per block, synced before it returns.
package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/ledger"
	bbolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Backend is a chain.Backend in one file. It is safe for concurrent use.
type Backend struct {
	db       *bbolt.DB
	released atomic.Int64 // when memory was given back, in nanoseconds since 1970
}

// Open opens or creates the file. It fails within two seconds if another
// process has it open, and for a file that bbolt cannot have left behind.
func Open(path string) (*Backend, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open chain file: %w", err)
	}
	db, err := open(path)
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open chain file %s: another process has it open; stop the other node or give this one its own storage.data", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open chain file %s: %w", path, err)
	}
	return &Backend{db: db}, nil
}

func open(path string) (db *bbolt.DB, err error) {
	defer guard(&err)()
	if err := checkSize(path); err != nil {
		return nil, err
	}
	options := &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType}
	if db, err = bbolt.Open(path, 0o600, options); err != nil {
		return nil, damaged(err)
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
		return nil, errors.Join(err, db.Close())
	}
	// bbolt creates the file but not its name in the folder durably.
	return db, durable.SyncDir(filepath.Dir(path))
}

const lockTimeout = 2 * time.Second

// checkSize refuses a file that is shorter than its own description: bbolt
// would read beyond the file's end, which is a fault and no error.
func checkSize(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, ReadOnly: true})
	if err != nil {
		return damaged(err)
	}
	err = db.View(func(tx *bbolt.Tx) error {
		if tx.Size() > info.Size() {
			return fmt.Errorf("%w: it has %d bytes of %d", chain.ErrDamaged, info.Size(), tx.Size())
		}
		return nil
	})
	return errors.Join(err, db.Close())
}

// damaged tells bbolt's errors about a file's contents from those about getting
// it.
func damaged(err error) error {
	for _, about := range []error{bolterrors.ErrInvalid, bolterrors.ErrVersionMismatch, bolterrors.ErrChecksum} {
		if errors.Is(err, about) {
			return fmt.Errorf("%w: %w", chain.ErrDamaged, err)
		}
	}
	return err
}

// guard turns what bbolt does about a file that it cannot make sense of, or
// that the disk cannot read, into an error: it panics, or reads beyond the
// mapped file. To be deferred with what it returns.
func guard(err *error) func() {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		cause := recover()
		if cause == nil {
			return
		}
		fault, isFault := cause.(interface{ Addr() uintptr })
		if !isFault && !isBolt(cause) {
			panic(cause)
		}
		if isFault {
			cause = fmt.Sprintf("fault at address %#x", fault.Addr())
		}
		*err = fmt.Errorf("%w: %v", chain.ErrDamaged, cause)
	}
}

// isBolt tells whether a panic is bbolt's own: they are texts, ours are not.
func isBolt(cause any) bool {
	_, text := cause.(string)
	return text
}

// Close closes the file; it waits for transactions under way.
func (b *Backend) Close() error { return b.db.Close() }

// View implements chain.Backend.
func (b *Backend) View(read func(ledger.Reader) error) (err error) {
	defer guard(&err)()
	return b.db.View(func(tx *bbolt.Tx) error { return read(transaction{tx: tx}) })
}

// Update implements chain.Backend.
func (b *Backend) Update(write func(ledger.Tx) error) (err error) {
	defer guard(&err)()
	if err := b.db.Update(func(tx *bbolt.Tx) error { return write(transaction{tx, new(int)}) }); err != nil {
		return err
	}
	b.release()
	return nil
}

// releaseEvery is how often memory is given back at the most.
const releaseEvery = int64(250 * time.Millisecond)

// release gives memory back after a write.
func (b *Backend) release() {
	now, before := time.Now().UnixNano(), b.released.Load()
	if now-before < releaseEvery || !b.released.CompareAndSwap(before, now) {
		return
	}
	_ = b.db.View(func(tx *bbolt.Tx) error { giveBack(tx); return nil })
}

// giveBack gives back the pages of the mapped file that this process has looked at:
// the kernel has them in its cache all the same, and a long log would else come to
// stand in the process's memory in whole. Who reads meanwhile gets them again. The
// transaction keeps the mapping where it is: the one that writes is the only one to
// move it.
func giveBack(tx *bbolt.Tx) {
	page := uintptr(os.Getpagesize())
	size := (uintptr(tx.Size()) + page - 1) &^ (page - 1)
	syscall.Syscall(syscall.SYS_MADVISE, tx.DB().Info().Data, size, syscall.MADV_DONTNEED)
}

type transaction struct {
	tx     *bbolt.Tx
	looked *int // how often a writer looked something up; nil for who only reads
}

// lookups is after how many of them a writer gives memory back. The kernel maps up to
// 16 pages at each, so that one block of a long log would come to hundreds of
// megabytes.
const lookups = 512

// bucket is one of chain.Buckets, which Open made; guard reports it missing.
func (t transaction) bucket(name string) *bbolt.Bucket {
	bucket := t.tx.Bucket([]byte(name))
	if bucket == nil {
		panic("bucket " + name + " is missing")
	}
	if slices.Contains(chain.Growing, name) {
		bucket.FillPercent = 0.95 // a page in the middle is never written to again
	}
	return bucket
}

func (t transaction) look() {
	if t.looked == nil {
		return
	}
	if *t.looked++; *t.looked%lookups == 0 {
		giveBack(t.tx)
	}
}

func (t transaction) Get(bucket string, key []byte) []byte {
	t.look()
	return t.bucket(bucket).Get(key)
}

func (t transaction) Put(bucket string, key, value []byte) error {
	t.look()
	return t.bucket(bucket).Put(key, value)
}

func (t transaction) Scan(bucket string, prefix []byte, visit func(key, value []byte) bool) {
	cursor := t.bucket(bucket).Cursor()
	for key, value := cursor.Seek(prefix); key != nil && bytes.HasPrefix(key, prefix); key, value = cursor.Next() {
		if !visit(key, value) {
			return
		}
	}
}
