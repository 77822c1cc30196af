package bolt_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/pyrsia/appliance/modules/quorum/bolt"
	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/quorum/order/votes/votestest"
	"github.com/pyrsia/appliance/modules/record"
)

func open(t *testing.T, dir string) *bolt.File {
	t.Helper()
	f, err := bolt.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestConformance(t *testing.T) {
	dirs := map[votes.File]string{}
	votestest.Conformance(t, func(t *testing.T) votes.File {
		dir := t.TempDir()
		f := open(t, dir)
		dirs[f] = dir
		return f
	}, func(t *testing.T, f votes.File) votes.File {
		dir := dirs[f]
		if err := f.(*bolt.File).Close(); err != nil {
			t.Fatal(err)
		}
		again := open(t, dir)
		dirs[again] = dir
		return again
	})
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestKeyAndFileBelongTogether(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, bolt.KeyName), []byte("key"))
	_, err := bolt.Open(dir)
	if !errors.Is(err, bolt.ErrNoVoteFile) || !strings.Contains(err.Error(), "pyrsia node rekey") {
		t.Fatalf("a key without its file: %v", err)
	}
	if err := bolt.Create(dir); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("create beside a key: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, bolt.FileName)); err == nil {
		t.Fatal("a vote file appeared beside a key")
	}

	dir = t.TempDir()
	f := open(t, dir)
	if err := f.Bind(record.PublicKey{1}); err != nil {
		t.Fatal(err)
	}
	if err := f.Bind(record.PublicKey{1}); err != nil {
		t.Fatal(err)
	}
	if err := f.Bind(record.PublicKey{2}); !errors.Is(err, bolt.ErrOtherKey) {
		t.Fatalf("another key: %v", err)
	}
	if err := bolt.Create(dir); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("create over a file: %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, bolt.FileName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
}

func TestOneProgramAtATime(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, err := bolt.Open(dir); err == nil || !strings.Contains(err.Error(), "another program") {
		t.Fatalf("opened twice: %v", err)
	}
}

// TestReplaced: who waits for the lock of a file that is replaced meanwhile, as a
// rekey does, gets the new one.
func TestReplaced(t *testing.T) {
	held, next := filepath.Join(t.TempDir(), "keys"), filepath.Join(t.TempDir(), "keys")
	for i, folder := range []string{held, next} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		file := open(t, folder)
		if err := errors.Join(file.Bind(record.PublicKey{byte(i)}), file.Close()); err != nil {
			t.Fatal(err)
		}
	}
	holder, err := bolt.Open(held)
	if err != nil {
		t.Fatal(err)
	}
	type result struct {
		file *bolt.File
		err  error
	}
	opened := make(chan result, 1)
	go func() {
		file, err := bolt.Open(held)
		opened <- result{file, err}
	}()
	for openCount(t, filepath.Join(held, bolt.FileName)) < 2 {
		runtime.Gosched()
	}
	if err := errors.Join(os.Rename(held, held+".old"), os.Rename(next, held), holder.Close()); err != nil {
		t.Fatal(err)
	}
	got := <-opened
	if got.err != nil {
		t.Fatal(got.err)
	}
	defer got.file.Close()
	if err := got.file.Bind(record.PublicKey{1}); err != nil {
		t.Errorf("it has the replaced file: %v", err)
	}
}

// openCount is how many descriptors of this program are of a file.
func openCount(t *testing.T, path string) (n int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + entry.Name()); err == nil && to == path {
			n++
		}
	}
	return n
}

func TestNoFolder(t *testing.T) {
	if _, err := bolt.Open(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// TestCreateLeftover: a crash while the file is made leaves something beside
// it, never a half file in its place.
func TestCreateLeftover(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, bolt.FileName+".new"), []byte("half a file"))
	put(t, open(t, dir), votestest.Of(votes.Prevote, 1, 0, "a"))
}

func put(t *testing.T, f *bolt.File, records ...votes.Record) {
	t.Helper()
	if err := f.Put(records...); err != nil {
		t.Fatal(err)
	}
}

// state is all that a vote file holds of what history wrote.
func state(f *bolt.File) (string, error) {
	var b strings.Builder
	for height := int64(1); height <= 4; height++ {
		records, err := f.Load(height)
		if err != nil {
			return "", err
		}
		for _, r := range records {
			fmt.Fprintf(&b, "%s %x\n", r.Slot, record.Digest(r.Data))
		}
	}
	for i := range 3 {
		statement, salt, ok, err := f.Outcome(record.Hash{byte(i)})
		released, err2 := f.Released(record.Hash{byte(i)})
		if err = errors.Join(err, err2); err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "outcome %x %x %v %d\n", statement, salt, ok, released)
	}
	highest, err := f.Highest()
	fmt.Fprintf(&b, "%+v", highest)
	return b.String(), err
}

// history is one write after the other, as a member makes them.
func history() (steps []func(*bolt.File) error) {
	add := func(records ...votes.Record) {
		steps = append(steps, func(f *bolt.File) error { return f.Put(records...) })
	}
	for height := int64(1); height <= 3; height++ {
		block := votestest.Of(votes.Block, height, 0, strings.Repeat(fmt.Sprint("leaf ", height), 4000))
		add(block, votestest.Of(votes.Proposal, height, 0, "proposal"), votestest.Of(votes.Prevote, height, 0, "prevote"))
		add(votestest.Of(votes.Lock, height, 0, "lock"), votestest.Of(votes.Precommit, height, 0, "precommit"))
		attempt := record.Hash{byte(height - 1)}
		steps = append(steps, func(f *bolt.File) error { return f.PutOutcome(attempt, []byte("statement"), record.Hash{7}) })
		steps = append(steps, func(f *bolt.File) error { return f.PutReleased(attempt, votes.ReleasedCommit) })
		add(votestest.Of(votes.Decision, height, 0, "decision"))
		add(votestest.Of(votes.Cosign, height, 0, "cosign"))
		steps = append(steps, func(f *bolt.File) error { return f.Prune(height) })
	}
	return steps
}

const page = 4096

// TestPowerCut cuts the power within every write: some of the pages that the
// write changed are on disk and some not, in any order, as between two fsyncs;
// the page that makes them count may be missing, torn or complete, and only if
// all others are there. The file must open, with the state from before or
// after the write, and take the write again.
func TestPowerCut(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	path := filepath.Join(dir, bolt.FileName)
	f := open(t, dir)
	read := func() ([]byte, string) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := state(f)
		if err != nil {
			t.Fatal(err)
		}
		return data, s
	}
	cuts := 0
	for number, step := range history() {
		before, stateBefore := read()
		if err := step(f); err != nil {
			t.Fatal(err)
		}
		after, stateAfter := read()
		for _, cut := range cutsBetween(rng, before, after) {
			cuts++
			checkCut(t, fmt.Sprintf("write %d, %s", number, cut.name), cut.data, step, stateBefore, stateAfter)
		}
	}
	t.Logf("%d power cuts", cuts)
}

type cut struct {
	name string
	data []byte
}

func cutsBetween(rng *rand.Rand, before, after []byte) (cuts []cut) {
	grown := make([]byte, len(after))
	copy(grown, before)
	var data []int
	meta := -1
	for i := 0; i < len(after); i += page {
		if bytes.Equal(grown[i:i+page], after[i:i+page]) {
			continue
		}
		if i < 2*page {
			meta = i
		} else {
			data = append(data, i)
		}
	}
	cuts = append(cuts, cut{"before", bytes.Clone(before)}, cut{"grown only", bytes.Clone(grown)}, cut{"after", bytes.Clone(after)})
	for n := range 6 {
		some := bytes.Clone(grown)
		for _, i := range data {
			switch rng.IntN(3) {
			case 0:
				copy(some[i:i+page], after[i:])
			case 1:
				copy(some[i:i+512*(1+rng.IntN(7))], after[i:])
			}
		}
		cuts = append(cuts, cut{fmt.Sprintf("some pages %d", n), some})
	}
	all := bytes.Clone(after)
	if meta >= 0 {
		copy(all[meta:meta+page], grown[meta:])
		cuts = append(cuts, cut{"no meta page", bytes.Clone(all)})
		// The meta page proper is the first 80 bytes: cut inside it.
		for _, n := range []int{8, 24, 40, 64, 72} {
			copy(all[meta:meta+n], after[meta:])
			cuts = append(cuts, cut{fmt.Sprintf("meta page torn at %d", n), bytes.Clone(all)})
		}
	}
	return cuts
}

func checkCut(t *testing.T, name string, data []byte, step func(*bolt.File) error, before, after string) {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, bolt.FileName), data)
	write(t, filepath.Join(dir, bolt.KeyName), []byte("key"))
	f, err := bolt.Open(dir)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	defer f.Close()
	got, err := state(f)
	if err != nil || got != before && got != after {
		t.Fatalf("%s: neither the state before nor after: %v\n%s", name, err, got)
	}
	if err := step(f); err != nil {
		t.Fatalf("%s: the same write again: %v", name, err)
	}
	if got, _ := state(f); got != after {
		t.Fatalf("%s: after the same write again:\n%s\nwant\n%s", name, got, after)
	}
}

// TestDamage: a file that lost its end, or in which anything was changed, is
// either as it was (bbolt has pages that are free, and two meta pages) or
// refused with a way out; never read as something else.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, bolt.FileName)
	f := open(t, dir)
	for _, step := range history()[:6] {
		if err := step(f); err != nil {
			t.Fatal(err)
		}
	}
	want, err := state(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	refused := 0
	check := func(name string, data []byte) {
		t.Helper()
		dir := t.TempDir()
		write(t, filepath.Join(dir, bolt.FileName), data)
		f, err := bolt.Open(dir)
		if err != nil {
			refused++
			if !errors.Is(err, bolt.ErrDamaged) || !strings.Contains(err.Error(), "rekey") {
				t.Errorf("%s: %v", name, err)
			}
			return
		}
		defer f.Close()
		if got, err := state(f); err != nil || got != want {
			t.Errorf("%s: read as another state: %v\n%s", name, err, got)
		}
	}
	for _, n := range []int{0, 1, page, 2 * page, 3 * page, len(data) / 2, len(data) - page} {
		check(fmt.Sprintf("cut at %d", n), data[:n])
	}
	for range 150 {
		changed := bytes.Clone(data)
		at := 2*page + rng.IntN(len(data)-2*page)
		changed[at] ^= byte(1 + rng.IntN(255))
		check(fmt.Sprintf("byte %d", at), changed)
	}
	for i := 2 * page; i < len(data); i += page {
		changed := bytes.Clone(data)
		clear(changed[i : i+page])
		check(fmt.Sprintf("page at %d zeroed", i), changed)
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
	t.Logf("%d damaged files refused", refused)
}

// TestFullDisk writes until the disk is full, in a program of its own whose
// files may not grow beyond a limit.
func TestFullDisk(t *testing.T) {
	if dir := os.Getenv("VOTES_FULL_DISK"); dir != "" {
		fillDisk(t, dir)
		return
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
	cmd.Env = append(os.Environ(), "VOTES_FULL_DISK="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// With room again everything that was acknowledged is there.
	f := open(t, dir)
	records, err := f.Load(1)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("acknowledged %d\n", len(records)); !strings.Contains(string(out), want) {
		t.Fatalf("%d records are there; the writer said:\n%s", len(records), out)
	}
	put(t, f, votestest.Of(votes.Cosign, 1, 0, "a"))
}

func fillDisk(t *testing.T, dir string) {
	f := open(t, dir)
	signal.Ignore(syscall.SIGXFSZ)
	limit := syscall.Rlimit{Cur: 1 << 20, Max: 1 << 20}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Skip(err)
	}
	acknowledged, round := 0, int64(0)
	var err error
	for ; round < 1000; round++ {
		err = f.Put(votestest.Of(votes.Prevote, 1, round, strings.Repeat(fmt.Sprint(round, " "), 10000)))
		if err != nil {
			break
		}
		acknowledged++
	}
	if err == nil || errors.Is(err, votes.ErrConflict) {
		t.Fatalf("no error on a full disk: %v", err)
	}
	fmt.Println("first error:", err)
	if err := f.Put(votestest.Of(votes.Prevote, 1, round, "another vote")); !errors.Is(err, bolt.ErrFailed) {
		t.Fatalf("a vote after a failed write: %v", err)
	}
	if _, err := f.Load(1); !errors.Is(err, bolt.ErrFailed) {
		t.Fatalf("a read after a failed write: %v", err)
	}
	fmt.Printf("acknowledged %d\n", acknowledged)
}
