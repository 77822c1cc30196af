package fence_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/quorum/fence"
	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

// start is a member that starts with a vote file, in a network of some.
type start struct {
	*chaintest.Network
	t      *testing.T
	file   *votes.Memory
	fence  *fence.Fence
	own    record.Incarnation
	closed int64
	ended  int64 // header time of the chain's end
	now    int64
}

func begin(t *testing.T, members int) *start {
	t.Helper()
	s := &start{Network: chaintest.New(t, members), t: t, file: new(votes.Memory), closed: 4}
	s.own = s.incarnation(7, "now")
	s.fence = fence.New(fence.Config{
		Self: s.Nodes[0].ID, Genesis: s.Network.Network.Genesis, Key: s.Nodes[0].Signers.Vote.Public(),
		File: s.file, Closed: func() int64 { return s.closed }, Ended: func() int64 { return s.ended },
	}, s.own, s.Set)
	return s
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func (s *start) incarnation(number int64, nonce string) record.Incarnation {
	return must(record.SignIncarnation(s.Network.Network.Genesis, record.Incarnation{
		Identity: s.Nodes[0].ID, Nonce: record.Digest([]byte(nonce)), Number: number,
	}, s.Nodes[0].Signers.Vote))
}

func id(name string) record.BlockID {
	return record.BlockID{Size: 10, Root: record.Digest([]byte(name))}
}

func (s *start) vote(height, round int64, step record.Step, block string) record.Vote {
	v := record.Vote{Height: height, Round: round, Step: step, Voter: s.Nodes[0].ID}
	if block != "" {
		v.ID = id(block)
	}
	return must(record.SignVote(s.Network.Network.Genesis, v, s.Nodes[0].Signers.Vote))
}

func (s *start) proposal(height, round int64, block string) record.Proposal {
	return must(record.SignProposal(s.Network.Network.Genesis, record.Proposal{
		Height: height, Round: round, ID: id(block), Proposer: s.Nodes[0].ID, ValidRound: -1,
	}, s.Nodes[0].Signers.Vote))
}

func (s *start) commit(attempt record.Hash) record.CommitPart {
	return record.CommitPart{Attempt: attempt, Commit: must(record.SignCommit(s.Network.Network.Genesis, attempt, s.Nodes[0].ID, record.Hash{1}, s.Nodes[0].Signers.Vote))}
}

// remember writes a vote into the file.
func (s *start) remember(v record.Vote) {
	s.t.Helper()
	kind := map[record.Step]votes.Kind{record.StepPrevote: votes.Prevote, record.StepPrecommit: votes.Precommit}[v.Step]
	if err := s.file.Put(votes.Record{Slot: votes.Slot{Height: v.Height, Round: v.Round, Kind: kind}, Data: must(record.EncodeMessage(&v))}); err != nil {
		s.t.Fatal(err)
	}
}

// answer has a member answer what it recollects beside the incarnation.
func (s *start) answer(i int, change func(*record.Recollection)) {
	s.t.Helper()
	r := record.Recollection{Incarnation: s.own, Nonce: s.own.Nonce}
	if change != nil {
		change(&r)
	}
	if err := s.fence.Answer(s.Nodes[i].ID, r, s.now); err != nil {
		s.t.Fatal(err)
	}
}

// TestOpens: all others at once, or after some patience as many as make a
// quorum with this member.
func TestOpens(t *testing.T) {
	s := begin(t, 5) // Q is 3
	if s.fence.Open() {
		t.Fatal("open before anybody was asked")
	}
	s.answer(1, nil)
	s.answer(1, nil)
	for range 10 {
		if ask := s.fence.Tick(); len(ask) != 3 {
			t.Fatalf("asks %d members", len(ask))
		}
	}
	if s.fence.Open() {
		t.Error("open after one answer of two that are needed")
	}
	s.answer(2, nil)
	if !s.fence.Open() {
		t.Error("shut after two answers and patience")
	}
	if alone := begin(t, 1); !alone.fence.Open() {
		t.Error("the only member waits for somebody")
	}
	s = begin(t, 5)
	for i := 1; i < 5; i++ {
		if s.fence.Open() {
			t.Errorf("open without patience after %d answers", i-1)
		}
		s.answer(i, nil)
	}
	if !s.fence.Open() {
		t.Error("shut though all have answered")
	}
	s.own = s.incarnation(8, "later")
	s.fence.Again(s.own)
	if s.fence.Open() {
		t.Error("open though everybody is asked again")
	}
}

// TestSetBack: each row is what one member recollects, and whether the vote file
// is then known to be older than what was signed.
func TestSetBack(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(*start)
		held    func(*start, *record.Recollection)
		want    string
	}{
		"nothing":          {nil, nil, ""},
		"an earlier start": {nil, func(s *start, r *record.Recollection) { r.Incarnation = s.incarnation(6, "before") }, ""},
		"the same number":  {nil, func(s *start, r *record.Recollection) { r.Incarnation = s.incarnation(7, "another life") }, "start 7"},
		"a later start":    {nil, func(s *start, r *record.Recollection) { r.Incarnation = s.incarnation(9, "another life") }, "start 9"},
		"a vote that it knows": {
			func(s *start) { s.remember(s.vote(5, 1, record.StepPrevote, "a")) },
			func(s *start, r *record.Recollection) {
				r.Votes = []record.Vote{s.vote(5, 1, record.StepPrevote, "a")}
			}, "",
		},
		"another vote in its slot": {
			func(s *start) { s.remember(s.vote(5, 1, record.StepPrevote, "a")) },
			func(s *start, r *record.Recollection) {
				r.Votes = []record.Vote{s.vote(5, 1, record.StepPrevote, "b")}
			}, "two different messages",
		},
		"a later vote": {
			func(s *start) { s.remember(s.vote(5, 1, record.StepPrevote, "a")) },
			func(s *start, r *record.Recollection) {
				r.Votes = []record.Vote{s.vote(5, 1, record.StepPrecommit, "a")}
			}, "precommit of height 5, round 1",
		},
		"a vote for no block": {nil, func(s *start, r *record.Recollection) {
			r.Votes = []record.Vote{s.vote(5, 0, record.StepPrevote, "")}
		}, "prevote of height 5"},
		"a cosign": {nil, func(s *start, r *record.Recollection) {
			r.Votes = []record.Vote{s.vote(5, 0, record.StepCosign, "a")}
		}, "cosign of height 5"},
		"a proposal": {nil, func(s *start, r *record.Recollection) {
			r.Proposals = []record.Proposal{s.proposal(5, 2, "a")}
		}, "proposal of height 5, round 2"},
		"a vote of a finished height": {nil, func(s *start, r *record.Recollection) {
			r.Votes = []record.Vote{s.vote(4, 0, record.StepPrevote, "a")}
		}, ""},
		"a vote of a height below the file's": {
			func(s *start) { s.remember(s.vote(9, 0, record.StepPrevote, "a")) },
			func(s *start, r *record.Recollection) {
				r.Votes = []record.Vote{s.vote(8, 0, record.StepPrevote, "a")}
			}, "",
		},
		"a commit": {nil, func(s *start, r *record.Recollection) {
			r.Commits = []record.CommitPart{s.commit(record.Hash{3})}
		}, "committed to a result in attempt 03"},
		"a commit that it knows": {
			func(s *start) {
				if err := s.file.PutOutcome(record.Hash{3}, []byte("statement"), record.Hash{}); err != nil {
					s.t.Fatal(err)
				}
			},
			func(s *start, r *record.Recollection) { r.Commits = []record.CommitPart{s.commit(record.Hash{3})} }, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, 3)
			if test.prepare != nil {
				test.prepare(s)
			}
			s.answer(1, nil)
			s.answer(2, func(r *record.Recollection) {
				if test.held != nil {
					test.held(s, r)
				}
			})
			reason := s.fence.Reason()
			if s.fence.Open() == (test.want != "") || (reason == nil) != (test.want == "") {
				t.Fatalf("open %v, reason %v", s.fence.Open(), reason)
			}
			if reason != nil && (!errors.Is(reason, fence.ErrSetBack) || !strings.Contains(reason.Error(), test.want)) {
				t.Errorf("%v, want %q", reason, test.want)
			}
		})
	}
}

// TestForgedAnswers: nobody can make up a past for another, and what is not an
// answer does not count as one.
func TestForgedAnswers(t *testing.T) {
	stranger := chaintest.NewNode("stranger")
	for name, change := range map[string]func(*start, *record.Recollection){
		"a forged incarnation": func(s *start, r *record.Recollection) { r.Incarnation.Number = 9 },
		"another's incarnation": func(s *start, r *record.Recollection) {
			r.Incarnation = must(record.SignIncarnation(s.Network.Network.Genesis, record.Incarnation{Identity: s.Nodes[1].ID, Number: 9}, s.Nodes[1].Signers.Vote))
		},
		"of another network": func(s *start, r *record.Recollection) {
			r.Incarnation = must(record.SignIncarnation(record.Hash{1}, record.Incarnation{Identity: s.Nodes[0].ID, Number: 9}, s.Nodes[0].Signers.Vote))
		},
		"a forged vote": func(s *start, r *record.Recollection) {
			v := s.vote(5, 0, record.StepPrevote, "a")
			v.Round++
			r.Votes = []record.Vote{v}
		},
		"another's vote": func(s *start, r *record.Recollection) {
			r.Votes = []record.Vote{must(record.SignVote(s.Network.Network.Genesis, record.Vote{Height: 5, ID: id("a"), Step: record.StepPrevote, Voter: s.Nodes[1].ID}, s.Nodes[1].Signers.Vote))}
		},
		"a vote of no step": func(s *start, r *record.Recollection) {
			r.Votes = []record.Vote{s.vote(5, 0, "postvote", "a")}
		},
		"a forged proposal": func(s *start, r *record.Recollection) {
			p := s.proposal(5, 0, "a")
			p.Round++
			r.Proposals = []record.Proposal{p}
		},
		"a vote twice": func(s *start, r *record.Recollection) {
			r.Votes = []record.Vote{s.vote(5, 0, record.StepPrevote, "a"), s.vote(5, 0, record.StepPrevote, "a")}
		},
		"votes out of order": func(s *start, r *record.Recollection) {
			r.Votes = []record.Vote{s.vote(5, 0, record.StepPrevote, "a"), s.vote(5, 0, record.StepPrecommit, "a")}
		},
		"votes of two heights": func(s *start, r *record.Recollection) {
			r.Votes = []record.Vote{s.vote(5, 0, record.StepPrevote, "a"), s.vote(6, 1, record.StepPrevote, "a")}
		},
		"a proposal of another height": func(s *start, r *record.Recollection) {
			r.Votes = []record.Vote{s.vote(5, 0, record.StepPrevote, "a")}
			r.Proposals = []record.Proposal{s.proposal(6, 0, "a")}
		},
		"a proposal twice": func(s *start, r *record.Recollection) {
			r.Proposals = []record.Proposal{s.proposal(5, 0, "a"), s.proposal(5, 0, "a")}
		},
		"a commit twice": func(s *start, r *record.Recollection) {
			r.Commits = []record.CommitPart{s.commit(record.Hash{3}), s.commit(record.Hash{3})}
		},
		"a later start and a forged vote": func(s *start, r *record.Recollection) {
			r.Incarnation = s.incarnation(9, "another life")
			v := s.vote(5, 0, record.StepPrevote, "a")
			v.Round++
			r.Votes = []record.Vote{v}
		},
		"a forged commit": func(s *start, r *record.Recollection) {
			c := s.commit(record.Hash{3})
			c.Attempt[0]++
			r.Commits = []record.CommitPart{c}
		},
	} {
		s := begin(t, 3)
		r := record.Recollection{Incarnation: s.own, Nonce: s.own.Nonce}
		change(s, &r)
		if err := s.fence.Answer(s.Nodes[1].ID, r, s.now); !errors.Is(err, record.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		if answers, _ := s.fence.Answered(); answers != 0 || s.fence.Reason() != nil {
			t.Errorf("%s: %d answers, %v", name, answers, s.fence.Reason())
		}
	}
	s := begin(t, 3)
	good := record.Recollection{Incarnation: s.own, Nonce: s.own.Nonce}
	for _, from := range []record.Identity{s.Nodes[0].ID, stranger.ID} {
		if err := s.fence.Answer(from, good, s.now); err == nil {
			t.Errorf("an answer of %s counts", from)
		}
	}
	old := good
	old.Nonce = record.Hash{1}
	if err := s.fence.Answer(s.Nodes[1].ID, old, s.now); err != nil {
		t.Errorf("an answer to an earlier question: %v", err)
	}
	if answers, need := s.fence.Answered(); answers != 0 || need != 1 {
		t.Errorf("%d answers of %d", answers, need)
	}
}

// counted is a vote file that counts how often a height is loaded.
type counted struct {
	*votes.Memory
	loads int
}

func (c *counted) Load(height int64) ([]votes.Record, error) {
	c.loads++
	return c.Memory.Load(height)
}

// TestAnswersAreReadOnce: however much an answer holds, the height is loaded
// once, with its blocks of megabytes; a replay loads nothing, and neither does
// what is wrong.
func TestAnswersAreReadOnce(t *testing.T) {
	s := begin(t, 4)
	file := &counted{Memory: s.file}
	s.fence = fence.New(fence.Config{
		Self: s.Nodes[0].ID, Genesis: s.Network.Network.Genesis, Key: s.Nodes[0].Signers.Vote.Public(),
		File: file, Closed: func() int64 { return s.closed }, Ended: func() int64 { return s.ended },
	}, s.own, s.Set)
	full := record.Recollection{Incarnation: s.own, Nonce: s.own.Nonce}
	for round := range int64(32) { // signed in this order, and sorted by the names of the steps
		prevote, precommit := s.vote(5, round, record.StepPrevote, "a"), s.vote(5, round, record.StepPrecommit, "a")
		s.remember(prevote)
		s.remember(precommit)
		full.Votes = append(full.Votes, precommit, prevote)
	}
	wrong := full
	wrong.Commits = []record.CommitPart{s.commit(record.Hash{3})}
	wrong.Commits[0].Attempt[0]++
	for range 10 {
		if err := s.fence.Answer(s.Nodes[1].ID, wrong, s.now); !errors.Is(err, record.ErrMalformed) {
			t.Fatal(err)
		}
	}
	if file.loads != 0 {
		t.Errorf("wrong answers load the height %d times", file.loads)
	}
	for range 10 {
		for i := 1; i < 4; i++ {
			if err := s.fence.Answer(s.Nodes[i].ID, full, s.now); err != nil {
				t.Fatal(err)
			}
		}
	}
	if file.loads != 3 || !s.fence.Open() {
		t.Errorf("%d loads for the answers of three members; open: %v", file.loads, s.fence.Open())
	}
}

// TestLateAnswer: an answer that comes when the fence is open with fewer still
// tells of a start that was lost.
func TestLateAnswer(t *testing.T) {
	s := begin(t, 5)
	s.answer(1, nil)
	s.answer(2, nil)
	for range fence.Patience {
		s.fence.Tick()
	}
	if !s.fence.Open() {
		t.Fatal("shut after two answers and patience")
	}
	s.answer(3, func(r *record.Recollection) { r.Incarnation = s.incarnation(9, "another life") })
	if s.fence.Open() || !errors.Is(s.fence.Reason(), fence.ErrSetBack) {
		t.Errorf("open %v, reason %v", s.fence.Open(), s.fence.Reason())
	}
}

// TestHeightThatNeverComes: what an honest member had when it answered is here once
// a later block is; a height that a liar made up is waited for no longer than that,
// however many blocks come.
func TestHeightThatNeverComes(t *testing.T) {
	s := begin(t, 3)
	s.now, s.ended = 1_000_000, 900_000
	for i, height := range []int64{1: 1 << 40, 2: 6} {
		if i == 0 {
			continue
		}
		r := record.Recollection{Incarnation: s.own, Nonce: s.own.Nonce, Height: height}
		if err := s.fence.Answer(s.Nodes[i].ID, r, s.now); err != nil {
			t.Fatal(err)
		}
	}
	for _, block := range []struct {
		ended int64
		open  bool
	}{{990_000, false}, {1_000_000, false}, {1_000_000 + fence.Skew, false}, {1_000_001 + fence.Skew, true}} {
		s.closed, s.ended = s.closed+1, block.ended
		s.fence.Tick()
		if s.fence.Open() != block.open {
			t.Errorf("height %d, of %d ms after the answers: open %v", s.closed, block.ended-s.now, s.fence.Open())
		}
	}
}

// TestNewLines: a member asks again over each new line, and is shut while fewer
// than Q-1 have answered over theirs; one that breaks its line again and again
// changes nothing for the others.
func TestNewLines(t *testing.T) {
	s := begin(t, 5) // Q is 3
	for i := 1; i < 5; i++ {
		s.answer(i, nil)
	}
	if !s.fence.Open() {
		t.Fatal("shut though all have answered")
	}
	for range 100 {
		s.fence.Renew(s.Nodes[1].ID)
		if !s.fence.Open() || s.fence.Heard(s.Nodes[1].ID) || !s.fence.Heard(s.Nodes[2].ID) {
			t.Fatal("one broken line shuts the others out")
		}
	}
	// A height that does not come holds up nobody who votes already.
	s.answer(1, func(r *record.Recollection) { r.Height = 1 << 40 })
	if s.fence.Renew(s.Nodes[2].ID); !s.fence.Open() {
		t.Error("shut by a height that somebody told")
	}
	s.fence.Renew(s.Nodes[1].ID)
	s.fence.Renew(s.Nodes[3].ID)
	if s.fence.Open() {
		t.Fatal("open with one line")
	}
	if ask := s.fence.Tick(); len(ask) != 3 {
		t.Errorf("asks %d members", len(ask))
	}
	s.ended = fence.Skew + 1 // a block came that is later than what was told of
	s.answer(2, nil)
	if s.fence.Open() {
		t.Error("open with less patience than at a start")
	}
	s.fence.Tick()
	if s.fence.Tick(); !s.fence.Open() {
		t.Error("shut with Q-1 answers and patience")
	}
	// What is said over a new line counts, also against it.
	s.answer(3, func(r *record.Recollection) { r.Incarnation = s.incarnation(8, "later") })
	if s.fence.Open() || !errors.Is(s.fence.Reason(), fence.ErrSetBack) {
		t.Errorf("%v", s.fence.Reason())
	}
}
