package mirror

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/durable"
)

// Passed is one line of the journal of unverified files: what this node handed
// to clients on nobody's word but the upstream's.
type Passed struct {
	Time         time.Time       `json:"time"`
	Ecosystem    string          `json:"ecosystem"`
	Path         string          `json:"path"` // below the upstream's root
	Upstream     string          `json:"upstream"`
	SHA256       artifact.SHA256 `json:"sha256"`
	BLAKE3       artifact.BLAKE3 `json:"blake3,omitzero"` // when the store kept it
	Size         int64           `json:"size"`            // bytes
	MediaType    string          `json:"mediaType,omitempty"`
	ETag         string          `json:"etag,omitempty"`
	LastModified string          `json:"lastModified,omitempty"`
}

// JournalName is the journal's file in the mirror's folder. Each line is the
// CRC-32C of the rest in eight hexadecimal digits, a space, and a Passed as
// JSON. The file only grows, and is the index of what passed as well: the last
// line of a path holds.
const JournalName = "passed.jsonl"

// maxLine bounds a journal line in bytes; the longest path is 1 KiB.
const maxLine = 16 << 10

var crcTable = crc32.MakeTable(crc32.Castagnoli)

type pathKey [16]byte

// descriptor is the file's digests and size.
func (p Passed) descriptor() artifact.Descriptor {
	return artifact.Descriptor{BLAKE3: p.BLAKE3, SHA256: p.SHA256, Size: p.Size}
}

func keyOf(ecosystem, path string) pathKey {
	sum := sha256.Sum256([]byte(ecosystem + " " + path))
	return pathKey(sum[:16])
}

// journal is safe for concurrent use. It keeps 60 bytes of memory for a line
// and reads the rest from the file when it is asked for.
type journal struct {
	file durable.File

	mu       sync.Mutex
	wake     *sync.Cond // when syncing ends
	size     int64      // end of the last whole line
	synced   int64      // up to where the file is durable
	syncing  bool
	broken   error // a failed fsync: nobody knows what the file holds
	byPath   map[pathKey]int64
	byDigest map[artifact.SHA256]int64
}

// openJournal replays the file and cuts off a line that a crash tore. damaged
// is the number of other lines that could not be read; they are left in place.
func openJournal(disk durable.FS, folder string) (j *journal, damaged int, err error) {
	file, err := durable.OpenOrCreate(disk, filepath.Join(folder, JournalName))
	if err != nil {
		return nil, 0, err
	}
	j = &journal{file: file, byPath: make(map[pathKey]int64), byDigest: make(map[artifact.SHA256]int64)}
	j.wake = sync.NewCond(&j.mu)
	damaged, err = j.replay()
	if err == nil {
		err = errors.Join(file.Truncate(j.size), file.Sync(), disk.SyncDir(folder))
	}
	if err != nil {
		file.Close()
		return nil, 0, fmt.Errorf("journal of unverified files: %w", err)
	}
	j.synced = j.size
	return j, damaged, nil
}

func (j *journal) replay() (damaged int, err error) {
	reader := bufio.NewReaderSize(io.NewSectionReader(j.file, 0, 1<<62), 64<<10)
	for {
		line, err := reader.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return damaged, nil
		}
		if err != nil {
			return damaged, err
		}
		if rec, err := parseLine(line); err != nil {
			damaged++
		} else {
			j.index(rec, j.size)
		}
		j.size += int64(len(line))
	}
}

func (j *journal) index(rec Passed, offset int64) {
	j.byPath[keyOf(rec.Ecosystem, rec.Path)] = offset
	j.byDigest[rec.SHA256] = offset
}

func formatLine(rec Passed) ([]byte, error) {
	text, err := json.Marshal(rec)
	if err != nil {
		return nil, err
	}
	line := fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(text, crcTable), text)
	if len(line) > maxLine {
		return nil, fmt.Errorf("journal line of %d bytes, the limit is %d", len(line), maxLine)
	}
	return line, nil
}

func parseLine(line []byte) (Passed, error) {
	var rec Passed
	if len(line) < 10 || len(line) > maxLine || line[8] != ' ' || line[len(line)-1] != '\n' {
		return rec, errors.New("malformed journal line")
	}
	text := line[9 : len(line)-1]
	sum, err := strconv.ParseUint(string(line[:8]), 16, 32)
	if err != nil || uint32(sum) != crc32.Checksum(text, crcTable) {
		return rec, errors.New("journal line with a wrong checksum")
	}
	return rec, json.Unmarshal(text, &rec)
}

// append is durable before it returns; appends that meet share one fsync. A
// line is found only once it is durable.
func (j *journal) append(rec Passed) error {
	line, err := formatLine(rec)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken != nil {
		return j.broken
	}
	offset := j.size
	if _, err := j.file.WriteAt(line, offset); err != nil {
		// A part of the line beyond size is overwritten by the next one, or cut
		// off by the next start.
		return fmt.Errorf("journal of unverified files: %w", err)
	}
	j.size += int64(len(line))
	if err := j.syncTo(j.size); err != nil {
		return err
	}
	j.index(rec, offset)
	return nil
}

// syncTo waits until the file is durable up to end; the first who needs it
// syncs for all. j.mu is held, and let go while the disk works.
func (j *journal) syncTo(end int64) error {
	for j.synced < end && j.broken == nil {
		if j.syncing {
			j.wake.Wait()
			continue
		}
		j.syncing = true
		reach := j.size
		j.mu.Unlock()
		err := j.file.Sync()
		j.mu.Lock()
		j.syncing = false
		if err != nil {
			j.broken = fmt.Errorf("journal of unverified files: %w", err)
		} else {
			j.synced = reach
		}
		j.wake.Broadcast()
	}
	return j.broken
}

func (j *journal) byPathOf(ecosystem, path string) (Passed, bool) {
	j.mu.Lock()
	offset, ok := j.byPath[keyOf(ecosystem, path)]
	j.mu.Unlock()
	if !ok {
		return Passed{}, false
	}
	rec, err := j.read(offset)
	return rec, err == nil && rec.Ecosystem == ecosystem && rec.Path == path
}

func (j *journal) byDigestOf(digest artifact.SHA256) (Passed, bool) {
	j.mu.Lock()
	offset, ok := j.byDigest[digest]
	j.mu.Unlock()
	if !ok {
		return Passed{}, false
	}
	rec, err := j.read(offset)
	return rec, err == nil && rec.SHA256 == digest
}

func (j *journal) read(offset int64) (Passed, error) {
	section := io.NewSectionReader(j.file, offset, maxLine)
	line, err := bufio.NewReaderSize(section, 1024).ReadBytes('\n')
	if err != nil {
		return Passed{}, err
	}
	return parseLine(line)
}

// each visits every readable line in the order in which they were written,
// until visit says no.
func (j *journal) each(visit func(Passed) bool) error {
	j.mu.Lock()
	end := j.synced
	j.mu.Unlock()
	reader := bufio.NewReaderSize(io.NewSectionReader(j.file, 0, end), 64<<10)
	for {
		line, err := reader.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("journal of unverified files: %w", err)
		}
		if rec, err := parseLine(line); err == nil && !visit(rec) {
			return nil
		}
	}
}

func (j *journal) close() error { return j.file.Close() }
