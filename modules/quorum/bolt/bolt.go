// Package bolt is the durable vote file: modules/quorum/order/votes in one
// bbolt database beside the vote key.
//
// Key and file belong together. A key without its file has forgotten what it
// signed: Open refuses it, and the operator gives the node a new vote key. The
// file is made before the key (Create), complete or not at all, so that no
// crash leaves a key without a file.
//
// Every write is one bbolt transaction, fsynced before it returns. Should a
// commit fail, what is on disk is not known until the file is opened again:
// the File then refuses everything (ErrFailed). Every value carries a
// checksum, and Open checks the whole file, so that a damaged one is found
// before the first vote and not by voting twice.
package bolt

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
	"go.etcd.io/bbolt"
)

// The files in the key folder.
const (
	FileName = "votes.db"
	KeyName  = "vote.key" // not read here: its presence demands the file
)

// ErrNoVoteFile is wrapped by Open for a vote key without its vote file.
var ErrNoVoteFile = errors.New("the vote key has no vote file")

// ErrOtherKey is wrapped by Bind when the file belongs to another vote key.
var ErrOtherKey = errors.New("the vote file belongs to another vote key")

// ErrDamaged is wrapped by Open for a file that is not as it was written.
var ErrDamaged = errors.New("the vote file is damaged")

// ErrInUse is wrapped by Open while another program has the file open.
var ErrInUse = errors.New("another program has it open; stop the other pyrsia that uses this folder")

// ErrFailed is wrapped by everything after a commit failed. Close the file and
// open it again.
var ErrFailed = errors.New("an earlier write to the vote file failed")

// rekey is what a person can do about a vote state that is lost.
const rekey = `stop the node and run "pyrsia node rekey" to get a new vote key`

// lockWait is how long Open waits for another program to let the file go.
const lockWait = time.Second

var (
	bucketMeta     = []byte("meta")
	bucketOrder    = []byte("order")    // height, round, kind, root → record
	bucketOutcomes = []byte("outcomes") // attempt → salt, statement
	bucketReleased = []byte("released") // attempt → votes.Release
	bucketOthers   = []byte("others")   // another member's vote key → its highest incarnation
	buckets        = [][]byte{bucketMeta, bucketOrder, bucketOutcomes, bucketReleased, bucketOthers}

	keyVersion = []byte("version")
	keyState   = []byte("state") // floor and highest position
	keyBound   = []byte("key")   // the vote key
	keyStarts  = []byte("starts")
	keyShut    = []byte("shut")
	version    = []byte("pyrsia vote file 2")
)

// File is an open vote file. It is safe for concurrent use.
type File struct {
	db *bbolt.DB

	mu     sync.Mutex // writes go one by one; guards failed
	failed error
}

var _ votes.File = (*File)(nil)

// Create makes an empty vote file in a folder that has none, and no vote key
// yet. It appears complete or not at all.
func Create(dir string) error {
	path := filepath.Join(dir, FileName)
	for _, name := range []string{FileName, KeyName} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return fmt.Errorf("create vote file: %s: %w", filepath.Join(dir, name), fs.ErrExist)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("create vote file: %w", err)
		}
	}
	temporary := path + ".new" // left over by a crash: it is overwritten
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("create vote file: %w", err)
	}
	if err := initialize(temporary); err != nil {
		_ = os.Remove(temporary)
		return fmt.Errorf("create vote file: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("create vote file: %w", err)
	}
	if err := durable.SyncDir(dir); err != nil {
		return fmt.Errorf("create vote file: %w", err)
	}
	return nil
}

func initialize(path string) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		if err := tx.Bucket(bucketMeta).Put(keyVersion, seal(version)); err != nil {
			return err
		}
		return putState(tx, votes.State{})
	})
	return errors.Join(err, db.Close())
}

// Open opens the vote file of a folder and checks all of it. Where there is
// neither file nor vote key it creates the file; a vote key without its file
// is ErrNoVoteFile.
func Open(dir string) (*File, error) {
	path := filepath.Join(dir, FileName)
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		key := filepath.Join(dir, KeyName)
		if _, err := os.Lstat(key); err == nil {
			return nil, fmt.Errorf("%w: %s is missing beside %s, so it is not known what was voted; %s", ErrNoVoteFile, FileName, key, rekey)
		}
		err = Create(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open vote file: %w", err)
	}
	f, err := open(path)
	for errors.Is(err, errReplaced) {
		f, err = open(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open vote file %s: %w", path, err)
	}
	return f, nil
}

// errReplaced says that the file was replaced while Open waited for its lock.
var errReplaced = errors.New("it was replaced while it was opened")

func open(path string) (*File, error) {
	db, err := openDB(path)
	if err != nil {
		return nil, err
	}
	f := &File{db: db}
	if err := f.check(); err != nil {
		_ = db.Close()
		return nil, err
	}
	return f, nil
}

func openDB(path string) (db *bbolt.DB, err error) {
	defer damaged(&err)
	// bbolt maps the file; what is missing of it is a fault, not an error.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	// The size on disk tells bbolt nothing; a file that lost its end would be
	// read beyond it.
	var opened fs.FileInfo
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait, OpenFile: func(path string, flag int, mode os.FileMode) (*os.File, error) {
		file, err := openExisting(path, flag, mode)
		if err == nil {
			opened, err = file.Stat()
		}
		return file, err
	}})
	switch {
	case err == nil:
		// Who held the lock may have replaced the folder (a rekey): what is locked
		// now is then the old file, and its lock keeps nobody from the new one.
		now, err := os.Stat(path)
		if err == nil && !os.SameFile(opened, now) {
			err = errReplaced
		}
		if err != nil {
			return nil, errors.Join(err, db.Close())
		}
		return db, nil
	case errors.Is(err, bbolt.ErrTimeout):
		return nil, ErrInUse
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return nil, fmt.Errorf("%w (%v); %s", ErrDamaged, err, rekey)
}

func openExisting(path string, flag int, mode os.FileMode) (*os.File, error) {
	file, err := os.OpenFile(path, flag&^os.O_CREATE, mode)
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || info.Size() == 0 {
		return nil, errors.Join(fmt.Errorf("%w: it is empty", ErrDamaged), err, file.Close())
	}
	return file, nil
}

// damaged turns what bbolt panics with on a broken page into an error.
func damaged(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w (%v); %s", ErrDamaged, r, rekey)
	}
}

// check reads the whole file.
func (f *File) check() (err error) {
	defer damaged(&err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	err = f.db.View(func(tx *bbolt.Tx) error {
		info, err := os.Stat(f.db.Path())
		if err != nil {
			return err
		}
		if info.Size() < tx.Size() {
			return fmt.Errorf("it has %d bytes of %d", info.Size(), tx.Size())
		}
		for err := range tx.Check() {
			return err
		}
		for _, name := range buckets {
			b := tx.Bucket(name)
			if b == nil {
				return fmt.Errorf("%s is missing", name)
			}
			if err := b.ForEach(func(k, v []byte) error {
				_, err := unseal(v)
				return err
			}); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if got, err := unseal(tx.Bucket(bucketMeta).Get(keyVersion)); err != nil || !bytes.Equal(got, version) {
			return fmt.Errorf("it is no %q", version)
		}
		_, err = getState(tx)
		return err
	})
	if err != nil {
		return fmt.Errorf("%w (%v); %s", ErrDamaged, err, rekey)
	}
	return nil
}

// Close closes the file.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed == nil {
		f.failed = errors.New("vote file: closed")
	}
	return f.db.Close()
}

// Bind ties an empty file to its vote key. Later it is nil for the same key
// and wraps ErrOtherKey for any other.
func (f *File) Bind(key record.PublicKey) error {
	return f.update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		sealed := meta.Get(keyBound)
		if sealed == nil {
			return meta.Put(keyBound, seal(key[:]))
		}
		bound, err := unseal(sealed)
		if err != nil {
			return err
		}
		if !bytes.Equal(bound, key[:]) {
			return fmt.Errorf("%w; restore %s and %s from one backup, or %s", ErrOtherKey, KeyName, FileName, rekey)
		}
		return errNoChange
	})
}

// errNoChange ends a transaction that has nothing to write, without the cost
// of a commit.
var errNoChange = errors.New("no change")

// update runs one transaction. What the function refuses changes nothing; a
// commit that fails ends the use of the file.
func (f *File) update(change func(*bbolt.Tx) error) (err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil {
		return fmt.Errorf("%w: %w", ErrFailed, f.failed)
	}
	tx, err := f.db.Begin(true)
	if err != nil {
		return fmt.Errorf("vote file: %w", err)
	}
	defer func() {
		if r := recover(); r != nil {
			_ = tx.Rollback()
			f.failed = fmt.Errorf("%v", r)
			err = fmt.Errorf("vote file: %w: %w", ErrFailed, f.failed)
		}
	}()
	if err := change(tx); err != nil {
		if rollback := tx.Rollback(); rollback != nil {
			f.failed = rollback
		}
		if errors.Is(err, errNoChange) {
			return nil
		}
		return err
	}
	if err := tx.Commit(); err != nil {
		f.failed = err
		return fmt.Errorf("vote file: write: %w", err)
	}
	return nil
}

func (f *File) view(read func(*bbolt.Tx) error) error {
	f.mu.Lock()
	failed := f.failed
	f.mu.Unlock()
	if failed != nil {
		return fmt.Errorf("%w: %w", ErrFailed, failed)
	}
	return f.db.View(read)
}

// Put implements votes.File.
func (f *File) Put(records ...votes.Record) error {
	for _, r := range records {
		if err := r.Check(); err != nil {
			return err
		}
	}
	return f.update(func(tx *bbolt.Tx) error {
		state, err := getState(tx)
		if err != nil {
			return err
		}
		before, changed := state, false
		for _, r := range records {
			existing, err := get(tx.Bucket(bucketOrder), slotKey(r.Slot))
			if err != nil {
				return err
			}
			write, err := state.Admit(r, existing)
			if err != nil {
				return err
			}
			if !write {
				continue
			}
			changed = true
			if err := tx.Bucket(bucketOrder).Put(slotKey(r.Slot), seal(r.Data)); err != nil {
				return err
			}
		}
		if !changed {
			return errNoChange
		}
		if state == before {
			return nil
		}
		return putState(tx, state)
	})
}

// Load implements votes.File.
func (f *File) Load(height int64) ([]votes.Record, error) {
	var records []votes.Record
	err := f.view(func(tx *bbolt.Tx) error {
		prefix := binary.BigEndian.AppendUint64(nil, uint64(height))
		cursor := tx.Bucket(bucketOrder).Cursor()
		for k, v := cursor.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = cursor.Next() {
			slot, err := parseSlot(k)
			if err != nil {
				return err
			}
			data, err := unseal(v)
			if err != nil {
				return fmt.Errorf("%s: %w", slot, err)
			}
			records = append(records, votes.Record{Slot: slot, Data: bytes.Clone(data)})
		}
		return nil
	})
	return records, err
}

// Highest implements votes.File.
func (f *File) Highest() (votes.Position, error) {
	var state votes.State
	err := f.view(func(tx *bbolt.Tx) (err error) {
		state, err = getState(tx)
		return err
	})
	return state.Highest, err
}

// Prune implements votes.File.
func (f *File) Prune(height int64) error {
	return f.update(func(tx *bbolt.Tx) error {
		state, err := getState(tx)
		if err != nil {
			return err
		}
		if height <= state.Floor {
			return errNoChange
		}
		end := binary.BigEndian.AppendUint64(nil, uint64(height))
		cursor := tx.Bucket(bucketOrder).Cursor()
		for k, _ := cursor.First(); k != nil && bytes.Compare(k, end) < 0; k, _ = cursor.First() {
			if err := cursor.Delete(); err != nil {
				return err
			}
		}
		state.Floor = height
		return putState(tx, state)
	})
}

// PutOutcome implements votes.File.
func (f *File) PutOutcome(attempt record.Hash, statement []byte, salt record.Hash) error {
	outcome := append(bytes.Clone(salt[:]), statement...)
	return f.update(func(tx *bbolt.Tx) error {
		existing, err := get(tx.Bucket(bucketOutcomes), attempt[:])
		if err != nil {
			return err
		}
		if existing == nil {
			return tx.Bucket(bucketOutcomes).Put(attempt[:], seal(outcome))
		}
		if !bytes.Equal(existing, outcome) {
			return fmt.Errorf("outcome of attempt %s: %w", attempt.Short(), votes.ErrConflict)
		}
		return errNoChange
	})
}

// Outcome implements votes.File.
func (f *File) Outcome(attempt record.Hash) (statement []byte, salt record.Hash, ok bool, err error) {
	err = f.view(func(tx *bbolt.Tx) error {
		data, err := get(tx.Bucket(bucketOutcomes), attempt[:])
		if err != nil || data == nil {
			return err
		}
		if len(data) < len(salt) {
			return fmt.Errorf("outcome of attempt %s: %w", attempt.Short(), ErrDamaged)
		}
		ok = true
		statement = bytes.Clone(data[copy(salt[:], data):])
		return nil
	})
	return statement, salt, ok, err
}

// PutReleased implements votes.File.
func (f *File) PutReleased(attempt record.Hash, r votes.Release) error {
	return f.update(func(tx *bbolt.Tx) error {
		if tx.Bucket(bucketOutcomes).Get(attempt[:]) == nil {
			return fmt.Errorf("release for attempt %s: %w: it has no outcome", attempt.Short(), votes.ErrConflict)
		}
		before, err := getReleased(tx, attempt)
		if err != nil {
			return err
		}
		if r <= before {
			return errNoChange
		}
		return tx.Bucket(bucketReleased).Put(attempt[:], seal([]byte{byte(r)}))
	})
}

// Released implements votes.File.
func (f *File) Released(attempt record.Hash) (r votes.Release, err error) {
	err = f.view(func(tx *bbolt.Tx) (err error) {
		r, err = getReleased(tx, attempt)
		return err
	})
	return r, err
}

// PutShut implements votes.File.
func (f *File) PutShut(reason string) error {
	return f.update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if meta.Get(keyShut) != nil {
			return errNoChange
		}
		return meta.Put(keyShut, seal([]byte(reason)))
	})
}

// Shut implements votes.File.
func (f *File) Shut() (reason string, err error) {
	err = f.view(func(tx *bbolt.Tx) error {
		data, err := get(tx.Bucket(bucketMeta), keyShut)
		reason = string(data)
		return err
	})
	return reason, err
}

// NextStart implements votes.File.
func (f *File) NextStart() (starts int64, err error) {
	err = f.update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		data, err := get(meta, keyStarts)
		if err != nil {
			return err
		}
		if data != nil && len(data) != 8 {
			return fmt.Errorf("starts: %w", ErrDamaged)
		}
		if data != nil {
			starts = int64(binary.BigEndian.Uint64(data))
		}
		starts++
		return meta.Put(keyStarts, seal(binary.BigEndian.AppendUint64(nil, uint64(starts))))
	})
	return starts, err
}

// Remember implements votes.File.
func (f *File) Remember(key record.PublicKey, i record.Incarnation) (kept record.Incarnation, err error) {
	err = f.update(func(tx *bbolt.Tx) error {
		others := tx.Bucket(bucketOthers)
		data, err := get(others, key[:])
		if err != nil {
			return err
		}
		if data != nil {
			if kept, err = record.DecodeIncarnation(data); err != nil {
				return fmt.Errorf("%w: %w", ErrDamaged, err)
			}
		}
		if data != nil && kept.Number >= i.Number {
			return errNoChange
		}
		kept = i
		return others.Put(key[:], seal(record.MustMarshal(i)))
	})
	return kept, err
}

func getReleased(tx *bbolt.Tx, attempt record.Hash) (votes.Release, error) {
	data, err := get(tx.Bucket(bucketReleased), attempt[:])
	if err != nil || len(data) == 0 {
		return votes.ReleasedNothing, err
	}
	return votes.Release(data[0]), nil
}

// slotKey orders records as votes.File.Load returns them.
func slotKey(s votes.Slot) []byte {
	k := make([]byte, 0, 49)
	k = binary.BigEndian.AppendUint64(k, uint64(s.Height))
	k = binary.BigEndian.AppendUint64(k, uint64(s.Round))
	k = append(k, byte(s.Kind))
	return append(k, s.Root[:]...)
}

func parseSlot(k []byte) (s votes.Slot, err error) {
	if len(k) != 17+len(s.Root) {
		return s, fmt.Errorf("%w: key of %d bytes", ErrDamaged, len(k))
	}
	s.Height = int64(binary.BigEndian.Uint64(k))
	s.Round = int64(binary.BigEndian.Uint64(k[8:]))
	s.Kind = votes.Kind(k[16])
	copy(s.Root[:], k[17:])
	return s, nil
}

func putState(tx *bbolt.Tx, s votes.State) error {
	data := make([]byte, 0, 25)
	for _, n := range []int64{s.Floor, s.Highest.Height, s.Highest.Round} {
		data = binary.BigEndian.AppendUint64(data, uint64(n))
	}
	return tx.Bucket(bucketMeta).Put(keyState, seal(append(data, byte(s.Highest.Kind))))
}

func getState(tx *bbolt.Tx) (s votes.State, err error) {
	data, err := get(tx.Bucket(bucketMeta), keyState)
	if err != nil {
		return s, err
	}
	if len(data) != 25 {
		return s, fmt.Errorf("%w: state of %d bytes", ErrDamaged, len(data))
	}
	s.Floor = int64(binary.BigEndian.Uint64(data))
	s.Highest.Height = int64(binary.BigEndian.Uint64(data[8:]))
	s.Highest.Round = int64(binary.BigEndian.Uint64(data[16:]))
	s.Highest.Kind = votes.Kind(data[24])
	return s, nil
}

func get(b *bbolt.Bucket, key []byte) ([]byte, error) {
	sealed := b.Get(key)
	if sealed == nil {
		return nil, nil
	}
	return unseal(sealed)
}

// checksum is the first bytes of SHA-256 that stand before every value: bbolt
// checks its own pages, not what is in them.
const checksum = 8

func seal(data []byte) []byte {
	sum := sha256.Sum256(data)
	return append(sum[:checksum:checksum], data...)
}

func unseal(sealed []byte) ([]byte, error) {
	if len(sealed) < checksum {
		return nil, fmt.Errorf("%w: value of %d bytes", ErrDamaged, len(sealed))
	}
	data := sealed[checksum:]
	if sum := sha256.Sum256(data); !bytes.Equal(sum[:checksum], sealed[:checksum]) {
		return nil, fmt.Errorf("%w: wrong checksum", ErrDamaged)
	}
	return data, nil
}
