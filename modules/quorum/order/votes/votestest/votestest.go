// Package votestest is the suite that every vote file passes.
package votestest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

// Of is a record whose data says what it is.
func Of(kind votes.Kind, height, round int64, text string) votes.Record {
	r := votes.Record{Slot: votes.Slot{Height: height, Round: round, Kind: kind}, Data: []byte(text)}
	if kind == votes.Block {
		r.Slot.Root = record.Digest(r.Data)
	}
	return r
}

// Conformance runs the suite. Open opens a new empty file; reopen closes it
// and opens it again, as a restart does.
func Conformance(t *testing.T, open func(t *testing.T) votes.File, reopen func(t *testing.T, f votes.File) votes.File) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, f votes.File, again func() votes.File)
	}{
		{"write once", testOnce}, {"forward only", testForward}, {"all or none", testAtomic},
		{"load", testLoad}, {"prune", testPrune}, {"outcomes", testOutcomes},
		{"releases", testReleases}, {"starts", testStarts}, {"shut", testShut}, {"other members' starts", testRemember}, {"refused records", testRefused}, {"concurrent", testConcurrent},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := open(t)
			test.run(t, f, func() votes.File {
				f = reopen(t, f)
				return f
			})
		})
	}
}

func put(t *testing.T, f votes.File, records ...votes.Record) {
	t.Helper()
	if err := f.Put(records...); err != nil {
		t.Fatalf("put: %v", err)
	}
}

func refuse(t *testing.T, f votes.File, records ...votes.Record) {
	t.Helper()
	if err := f.Put(records...); !errors.Is(err, votes.ErrConflict) {
		t.Fatalf("put %v: %v, want a conflict", records, err)
	}
}

func load(t *testing.T, f votes.File, height int64) (texts string) {
	t.Helper()
	records, err := f.Load(height)
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	for _, r := range records {
		texts += string(r.Data) + " "
	}
	return texts
}

func testOnce(t *testing.T, f votes.File, again func() votes.File) {
	kinds := []votes.Kind{votes.Round, votes.Proposal, votes.Prevote, votes.Lock, votes.Precommit, votes.Decision}
	for _, kind := range kinds {
		put(t, f, Of(kind, 1, 0, kind.String()))
		put(t, f, Of(kind, 1, 0, kind.String()))
		refuse(t, f, Of(kind, 1, 0, "other"))
	}
	f = again()
	for _, kind := range kinds {
		put(t, f, Of(kind, 1, 0, kind.String()))
		refuse(t, f, Of(kind, 1, 0, "other"))
	}
}

func testForward(t *testing.T, f votes.File, again func() votes.File) {
	put(t, f, Of(votes.Prevote, 3, 2, "a"))
	for _, r := range []votes.Record{
		Of(votes.Proposal, 3, 2, "b"), Of(votes.Precommit, 3, 1, "b"), Of(votes.Prevote, 3, 0, "b"), Of(votes.Cosign, 2, 0, "b"),
	} {
		refuse(t, f, r)
	}
	put(t, f, Of(votes.Lock, 3, 1, "unsigned records have no order"), Of(votes.Precommit, 3, 2, "c"))
	put(t, f, Of(votes.Cosign, 3, 0, "d"))
	f = again()
	refuse(t, f, Of(votes.Prevote, 3, 900, "after the cosign"))
	put(t, f, Of(votes.Proposal, 4, 0, "e"))
	if p, err := f.Highest(); err != nil || p != (votes.Position{Height: 4, Kind: votes.Proposal}) {
		t.Fatalf("highest is %+v, %v", p, err)
	}
}

func testAtomic(t *testing.T, f votes.File, again func() votes.File) {
	put(t, f, Of(votes.Prevote, 1, 0, "a"))
	refuse(t, f, Of(votes.Block, 1, 0, "block"), Of(votes.Precommit, 1, 0, "new"), Of(votes.Prevote, 1, 0, "other"))
	refuse(t, f, Of(votes.Precommit, 1, 0, "new"), Of(votes.Precommit, 1, 0, "contradicts it"))
	if got := load(t, again(), 1); got != "a " {
		t.Fatalf("after refused writes: %q", got)
	}
}

func testLoad(t *testing.T, f votes.File, again func() votes.File) {
	if got := load(t, f, 1); got != "" {
		t.Fatalf("empty file holds %q", got)
	}
	put(t, f, Of(votes.Prevote, 255, 0, "other-height"), Of(votes.Prevote, 256, 0, "prevote0"), Of(votes.Precommit, 256, 0, "precommit0"))
	put(t, f, Of(votes.Round, 256, 1, "round1"), Of(votes.Block, 256, 0, "block"))
	f = again()
	if got := load(t, f, 256); got != "prevote0 precommit0 block round1 " {
		t.Fatalf("loaded %q", got)
	}
	records, _ := f.Load(256)
	clear(records[0].Data)
	if got := load(t, f, 255) + load(t, f, 256); got != "other-height prevote0 precommit0 block round1 " {
		t.Fatalf("loaded %q", got)
	}
	large := votes.Record{Slot: votes.Slot{Height: 257, Kind: votes.Block, Root: record.Digest(nil)}, Data: bytes.Repeat([]byte{7}, record.MaxBlock)}
	put(t, f, large)
	if records, err := again().Load(257); err != nil || len(records) != 1 || !bytes.Equal(records[0].Data, large.Data) {
		t.Fatalf("a large block: %v", err)
	}
}

func testPrune(t *testing.T, f votes.File, again func() votes.File) {
	attempt := record.Digest([]byte("attempt"))
	if err := f.PutOutcome(attempt, []byte("statement"), record.Hash{1}); err != nil {
		t.Fatal(err)
	}
	for height := int64(1); height <= 5; height++ {
		put(t, f, Of(votes.Prevote, height, 0, "a"), Of(votes.Precommit, height, 0, "b"))
	}
	if err := f.Prune(4); err != nil {
		t.Fatal(err)
	}
	if err := f.Prune(2); err != nil {
		t.Fatal(err)
	}
	f = again()
	if got := load(t, f, 1) + load(t, f, 3) + load(t, f, 4) + load(t, f, 5); got != "a b a b " {
		t.Fatalf("after prune: %q", got)
	}
	refuse(t, f, Of(votes.Prevote, 3, 0, "a"))
	refuse(t, f, Of(votes.Lock, 3, 0, "a"))
	put(t, f, Of(votes.Proposal, 6, 0, "c"))
	if err := f.Prune(10); err != nil {
		t.Fatal(err)
	}
	f = again()
	if p, err := f.Highest(); err != nil || p.Height != 6 {
		t.Fatalf("highest is %+v, %v", p, err)
	}
	refuse(t, f, Of(votes.Prevote, 9, 0, "a"))
	if _, _, ok, err := f.Outcome(attempt); err != nil || !ok {
		t.Fatalf("prune took the outcome: %v", err)
	}
}

func testOutcomes(t *testing.T, f votes.File, again func() votes.File) {
	attempt, salt := record.Digest([]byte("attempt")), record.Hash{9}
	if _, _, ok, err := f.Outcome(attempt); ok || err != nil {
		t.Fatalf("an outcome from nowhere: %v", err)
	}
	for range 2 {
		if err := f.PutOutcome(attempt, []byte("statement"), salt); err != nil {
			t.Fatal(err)
		}
	}
	f = again()
	if err := f.PutOutcome(attempt, []byte("statemenT"), salt); !errors.Is(err, votes.ErrConflict) {
		t.Fatalf("another statement: %v", err)
	}
	if err := f.PutOutcome(attempt, []byte("statement"), record.Hash{8}); !errors.Is(err, votes.ErrConflict) {
		t.Fatalf("another salt: %v", err)
	}
	statement, got, ok, err := f.Outcome(attempt)
	if err != nil || !ok || string(statement) != "statement" || got != salt {
		t.Fatalf("outcome is %q %s %v %v", statement, got, ok, err)
	}
}

func testReleases(t *testing.T, f votes.File, again func() votes.File) {
	attempt := record.Digest([]byte("attempt"))
	if err := f.PutReleased(attempt, votes.ReleasedCommit); !errors.Is(err, votes.ErrConflict) {
		t.Fatalf("release without outcome: %v", err)
	}
	if err := f.PutOutcome(attempt, nil, record.Hash{1}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ put, want votes.Release }{
		{votes.ReleasedNothing, votes.ReleasedNothing}, {votes.ReleasedCommit, votes.ReleasedCommit},
		{votes.ReleasedReveal, votes.ReleasedReveal}, {votes.ReleasedCommit, votes.ReleasedReveal},
	} {
		if err := f.PutReleased(attempt, step.put); err != nil {
			t.Fatal(err)
		}
		f = again()
		if got, err := f.Released(attempt); err != nil || got != step.want {
			t.Fatalf("released %d, %v, want %d", got, err, step.want)
		}
	}
}

func testRefused(t *testing.T, f votes.File, again func() votes.File) {
	for _, r := range []votes.Record{
		{}, Of(votes.Prevote, 0, 0, "a"), Of(votes.Prevote, 1, -1, "a"), Of(votes.Prevote, 1, record.MaxRound+1, "a"),
		Of(99, 1, 0, "a"), Of(votes.Prevote, 1, 0, ""),
		{Slot: votes.Slot{Height: 1, Kind: votes.Block}, Data: []byte("a")},
		{Slot: votes.Slot{Height: 1, Kind: votes.Prevote, Root: record.Hash{1}}, Data: []byte("a")},
		{Slot: votes.Slot{Height: 1, Kind: votes.Prevote}, Data: make([]byte, record.MaxMessage+1)},
	} {
		if err := f.Put(r); err == nil || errors.Is(err, votes.ErrConflict) {
			t.Errorf("put %s: %v, want an error that is no conflict", r.Slot, err)
		}
	}
	if got := load(t, again(), 1); got != "" {
		t.Fatalf("after refused records: %q", got)
	}
}

// testConcurrent races for one slot: exactly one may win.
func testConcurrent(t *testing.T, f votes.File, again func() votes.File) {
	var wg sync.WaitGroup
	won := make(chan string, 8)
	for i := range 8 {
		wg.Go(func() {
			text := fmt.Sprint("vote", i)
			if err := f.Put(Of(votes.Prevote, 1, 0, text)); err == nil {
				won <- text
			} else if !errors.Is(err, votes.ErrConflict) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(won)
	if len(won) != 1 {
		t.Fatalf("%d writers won", len(won))
	}
	if got := load(t, again(), 1); got != <-won+" " {
		t.Fatalf("file holds %q", got)
	}
}

func testStarts(t *testing.T, f votes.File, again func() votes.File) {
	for want := int64(1); want <= 4; want++ {
		got, err := f.NextStart()
		if err != nil || got != want {
			t.Fatalf("start %d, %v; want %d", got, err, want)
		}
		if want == 2 {
			f = again()
		}
	}
}

func testRemember(t *testing.T, f votes.File, again func() votes.File) {
	one, other := record.PublicKey{1}, record.PublicKey{2}
	for i, step := range []struct {
		key                    record.PublicKey
		number, nonce, is, was int64
	}{
		{one, 1, 1, 1, 1}, {one, 3, 2, 3, 2}, {one, 2, 3, 3, 2}, {one, 3, 4, 3, 2}, {other, 1, 5, 1, 5}, {one, 4, 6, 4, 6}, {one, 3, 2, 4, 6},
	} {
		got, err := f.Remember(step.key, record.Incarnation{Identity: "member", Nonce: record.Hash{byte(step.nonce)}, Number: step.number})
		if err != nil || got.Number != step.is || got.Nonce != (record.Hash{byte(step.was)}) {
			t.Fatalf("step %d: %+v, %v", i, got, err)
		}
		if i%2 == 1 {
			f = again()
		}
	}
}

func testShut(t *testing.T, f votes.File, again func() votes.File) {
	is := func(want string) {
		t.Helper()
		if got, err := f.Shut(); err != nil || got != want {
			t.Fatalf("shut for %q, %v; want %q", got, err, want)
		}
	}
	is("")
	for _, reason := range []string{"set back", "another"} {
		if err := f.PutShut(reason); err != nil {
			t.Fatal(err)
		}
		is("set back")
		f = again()
		is("set back")
	}
}
