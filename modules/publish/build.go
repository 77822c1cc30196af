package publish

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

// build builds an attempt and keeps its outcome, durable before anyone hears
// of it. A crash before that builds again.
func (m *Member) build(ctx context.Context, a *ledger.Attempt) (err error) {
	log, closeLog, err := m.openLog(a.ID.String())
	if err != nil {
		return err
	}
	defer closeLog()
	end, err := m.beginTry(a.ID)
	if err != nil {
		return err
	}
	defer func() { end(err) }()
	note := Note{Kind: NoteBuilding, Recipe: a.Attempt.Recipe, Attempt: a.Attempt.Number, Lock: a.Attempt.Lock.SHA256}
	m.tell(note)
	stop := m.repeat(ctx, note)
	defer stop()
	recipe, lock, err := m.inputsOf(ctx, a.Attempt, log)
	if err != nil {
		return m.failed(a, err)
	}
	if err := m.keepInputs(a.Attempt, lock); err != nil {
		return m.failed(a, err)
	}
	folder, err := m.emptyFolder(a.ID.String() + ".out")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	job := build.Job{ID: a.ID.String(), Recipe: recipe, Lock: lock, Open: m.store.Open, Folder: folder, Log: log, Remains: m.remainsPath(a.ID.String())}
	if len(lock.Builder) > 0 {
		job.Builder = lock.Builder[0].SHA256
	}
	fmt.Fprintf(log, "building %s, attempt %d\n", recipe.Package, a.Attempt.Number)
	files, err := m.engine.Build(ctx, job)
	m.trimRemains()
	if err != nil {
		fmt.Fprintf(log, "error: %v\n", err)
		return m.failed(a, m.dropCorrupt(err))
	}
	return m.keep(ctx, a, files)
}

// dropCorrupt removes an input whose bytes the disk has lost: the next try gets it anew.
func (m *Member) dropCorrupt(err error) error {
	corrupt, is := errors.AsType[*build.CorruptError](err)
	if !is {
		return err
	}
	if dropped := m.store.Drop(corrupt.SHA256); dropped != nil {
		return fmt.Errorf("%w; and it cannot be removed: %w", err, dropped)
	}
	m.Log.Warn("a locked file was not what it had been when it came, and is got anew", "sha256", corrupt.SHA256)
	return err
}

// failed says that the build failed here for good; before that it is tried
// again.
func (m *Member) failed(a *ledger.Attempt, err error) error {
	if m.lastTry(buildKey(a.ID), err) {
		m.tell(Note{Kind: NoteFailed, Recipe: a.Attempt.Recipe, Attempt: a.Attempt.Number, Lock: a.Attempt.Lock.SHA256, Text: err.Error()})
	}
	return err
}

// maxRemains is how many failed builds have kept what their commands left: the newest
// ones, each of some hundred megabytes at the most.
const maxRemains = 16

func (m *Member) remainsPath(build string) string { return m.buildFolder(build + ".remains") }

// trimRemains removes what the oldest failed builds left.
func (m *Member) trimRemains() {
	paths, err := filepath.Glob(m.buildFolder("*.remains"))
	if err != nil || len(paths) <= maxRemains {
		return
	}
	ages := map[string]time.Time{}
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil {
			ages[path] = info.ModTime()
		}
	}
	slices.SortFunc(paths, func(a, b string) int { return ages[b].Compare(ages[a]) })
	for _, path := range paths[maxRemains:] {
		if err := m.Disk.RemoveAll(path); err != nil {
			m.Log.Warn("cannot remove what is left of old builds", "error", err)
		}
	}
}

// Remains is a gzipped tar of what the commands of a build of this node left when they
// failed, or ErrUnknown; the caller closes it. The build is an attempt by its hash, or a
// recipe that was tried by the id of its try.
func (m *Member) Remains(build string) (*os.File, error) {
	if artifact.CheckFile(build) != nil || strings.Contains(build, "/") {
		return nil, fmt.Errorf("%w %.100q", ErrUnknown, build)
	}
	file, err := os.Open(m.remainsPath(build))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrUnknown
	}
	return file, err
}

func buildKey(attempt record.Hash) string { return "build " + attempt.String() }

// keep stores the outputs and the outcome.
func (m *Member) keep(ctx context.Context, a *ledger.Attempt, files []build.File) error {
	m.keeping.RLock()
	defer m.keeping.RUnlock()
	var subjects []record.Subject
	for _, file := range files {
		content, err := os.Open(file.Path)
		if err != nil {
			return fmt.Errorf("keep outputs: %w", err)
		}
		d, err := m.store.Put(ctx, content)
		content.Close()
		if err != nil {
			return fmt.Errorf("keep outputs: %w", err)
		}
		subjects = append(subjects, record.NewSubject(file.Name, file.MediaType, d))
	}
	statement, list, err := record.NewStatement(m.chain.Network().Genesis, a.ID, subjects)
	if err != nil {
		return err
	}
	data, err := record.Marshal(statement)
	if err != nil {
		return err
	}
	// A list of an earlier, interrupted build must not outlive it.
	if err := errors.Join(m.Disk.RemoveAll(m.buildFolder(a.ID.String()+".files")), m.Disk.SyncDir(m.buildFolder(""))); err != nil {
		return fmt.Errorf("keep outputs: %w", err)
	}
	if list != nil {
		// The list must be at hand before the outcome that names it.
		if err := durable.Replace(m.Disk, m.buildFolder(a.ID.String()+".files"), record.MustMarshal(list)); err != nil {
			return err
		}
	}
	m.deciding.Lock()
	defer m.deciding.Unlock()
	if m.isStopped(buildKey(a.ID)) {
		return errStopped
	}
	var salt record.Hash
	rand.Read(salt[:])
	if err := m.votes.PutOutcome(a.ID, data, salt); err != nil {
		return fmt.Errorf("keep outcome: %w", err)
	}
	return nil
}

// fileList is this node's file list for an attempt, nil where its statement
// lists its files itself.
func (m *Member) fileList(attempt record.Hash) ([]record.Subject, error) {
	data, err := os.ReadFile(m.buildFolder(attempt.String() + ".files"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files []record.Subject
	return files, record.Unmarshal(data, &files)
}

// repeat says a note again until stopped, so that others know that this node
// is still at work.
func (m *Member) repeat(ctx context.Context, note Note) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(NoteLife / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				m.tell(note)
			}
		}
	}()
	return func() { cancel(); <-done }
}

// workFolders are the ends of the folders that work leaves behind where the node does not
// outlive it.
var workFolders = []string{".out", ".resolve", ".try"}

// sweepFolders removes what is left of work that an earlier run did not end: none of it
// is gone on with.
func (m *Member) sweepFolders() error {
	entries, err := os.ReadDir(m.buildFolder(""))
	for _, entry := range entries {
		if entry.IsDir() && slices.Contains(workFolders, filepath.Ext(entry.Name())) {
			err = errors.Join(err, m.Disk.RemoveAll(m.buildFolder(entry.Name())))
		}
	}
	return err
}

func (m *Member) emptyFolder(name string) (string, error) {
	folder := m.buildFolder(name)
	if err := os.RemoveAll(folder); err != nil {
		return "", fmt.Errorf("open build folder: %w", err)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", fmt.Errorf("open build folder: %w", err)
	}
	return folder, nil
}

// LogPath is the file of a build's log.
func (m *Member) LogPath(name string) string { return m.buildFolder(name + ".log") }

func (m *Member) openLog(name string) (*os.File, func(), error) {
	file, err := os.OpenFile(m.LogPath(name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open build log: %w", err)
	}
	return file, func() { file.Close() }, nil
}
