package input

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/pyrsia/appliance/modules/durable"
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
	file durable.File
	end  int64 // of the last whole key: where the next one goes, over a torn one
}

const provenFile = "proven"

func openProven(disk durable.FS, folder string) (*provenRecord, error) {
	p := &provenRecord{keys: map[record.Hash]struct{}{}}
	path := filepath.Join(folder, provenFile)
	file, err := durable.OpenOrCreate(disk, path)
	if err != nil {
		return nil, fmt.Errorf("input: record of proven files: %w", err)
	}
	data, err := os.ReadFile(path)
	if err = errors.Join(err, disk.SyncDir(folder)); err != nil {
		return nil, fmt.Errorf("input: record of proven files: %w", errors.Join(err, file.Close()))
	}
	p.file = file
	p.load(data)
	return p, nil
}

// load reads all whole keys.
func (p *provenRecord) load(data []byte) {
	var key record.Hash
	for len(data) >= len(key) {
		p.end += int64(copy(key[:], data))
		p.keys[key] = struct{}{}
		data = data[len(key):]
	}
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
	if _, err := p.file.WriteAt(key[:], p.end); err != nil {
		return fmt.Errorf("record of proven files: %w", err)
	}
	p.end += int64(len(key))
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
