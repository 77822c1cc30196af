package input

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/pyrsia/appliance/modules/record"
)

// provenRecord remembers which files came from this node's own upstream, so
// that a second attempt or a restart does not fetch them again.
//
// The file is a plain sequence of 32-byte keys, appended: each the SHA-256 of a
// lock entry with its path and digests. It is synced at the end of every call,
// after the files themselves are durable in the store: a crash loses keys,
// which costs a fetch, and never has one too many. A torn or overwritten key
// equals no entry's.
type provenRecord struct {
	mu   sync.Mutex
	keys map[record.Hash]struct{}
	file *os.File
}

const provenFile = "proven"

func openProven(folder string) (*provenRecord, error) {
	file, err := os.OpenFile(filepath.Join(folder, provenFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("input: record of proven files: %w", err)
	}
	p := &provenRecord{keys: map[record.Hash]struct{}{}, file: file}
	if err := p.load(); err != nil {
		return nil, fmt.Errorf("input: record of proven files: %w", errors.Join(err, file.Close()))
	}
	return p, syncFolder(folder)
}

// load reads all whole keys and leaves the file where the next one goes, over
// what a crash may have left of a half one.
func (p *provenRecord) load() error {
	data, err := io.ReadAll(p.file)
	if err != nil {
		return err
	}
	var key record.Hash
	for len(data) >= len(key) {
		copy(key[:], data)
		p.keys[key] = struct{}{}
		data = data[len(key):]
	}
	_, err = p.file.Seek(-int64(len(data)), io.SeekEnd)
	return err
}

func provenKey(e record.LockEntry) record.Hash {
	return record.Digest(append([]byte("pyrsia/proven/v1\n"), record.MustMarshal(e)...))
}

func (p *provenRecord) has(e record.LockEntry) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, found := p.keys[provenKey(e)]
	return found
}

func (p *provenRecord) add(e record.LockEntry) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := provenKey(e)
	if _, found := p.keys[key]; found {
		return nil
	}
	if _, err := p.file.Write(key[:]); err != nil {
		return fmt.Errorf("record of proven files: %w", err)
	}
	p.keys[key] = struct{}{}
	return nil
}

func (p *provenRecord) sync() error {
	if err := p.file.Sync(); err != nil {
		return fmt.Errorf("record of proven files: %w", err)
	}
	return nil
}

func (p *provenRecord) close() error { return errors.Join(p.file.Sync(), p.file.Close()) }

func syncFolder(folder string) error {
	f, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
