package quorum

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/quorum/attest"
	"github.com/pyrsia/appliance/modules/quorum/order"
	"github.com/pyrsia/appliance/modules/record"
)

// outside collects who was shut out, and for how long.
type outside struct {
	mu    sync.Mutex
	times map[record.Identity][]time.Duration
}

func (o *outside) shut(id record.Identity, until time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.times == nil {
		o.times = map[record.Identity][]time.Duration{}
	}
	o.times[id] = append(o.times[id], time.Until(until).Round(time.Second))
}

func (o *outside) of(id record.Identity) []time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.times[id]
}

func everybody(record.Identity) bool { return true }

func counts(l *Limits, id record.Identity) map[Refusal]int64 {
	counts, _ := l.Of(id)
	return counts
}

// A flood is limited at once and its sender shut out after a few seconds, for
// longer each time.
func TestFlood(t *testing.T) {
	for name, flood := range map[string]struct{ perMillisecond, size int }{
		"small messages": {100, 300},
		"large messages": {1, 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out outside
				limits := NewLimits(everybody, out.shut)
				began, admitted := time.Now(), 0
				for !limits.ShutOut("evil") {
					for range flood.perMillisecond {
						if limits.admit("evil", true, int64(flood.size)) {
							admitted++
						}
					}
					time.Sleep(time.Millisecond)
				}
				took := time.Since(began)
				t.Logf("shut out after %v, %d messages admitted, refused %v", took, admitted, counts(limits, "evil"))
				if most := burstMessages + int(took.Seconds()*rateMessages) + 1; took > 5*time.Second || admitted > most {
					t.Errorf("%v, %d messages admitted of at most %d", took, admitted, most)
				}
				if limits.admit("evil", true, 1) || counts(limits, "evil")[Unheard] == 0 {
					t.Error("heard while it is shut out")
				}
				if !limits.admit("good", true, 1) {
					t.Error("one member's flood limits another")
				}
			})
		})
	}
}

func TestTimesOutsideDouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out outside
		limits := NewLimits(everybody, out.shut)
		offend := func() {
			for range 2 * int(scoreBound/costWrong) { // the second half was on its way already
				limits.Refused("evil", Malformed)
			}
			_, until := limits.Of("evil")
			time.Sleep(time.Until(until))
		}
		for range 9 {
			offend()
		}
		time.Sleep(5 * shutLevel)
		offend()
		time.Sleep(100 * shutLevel)
		offend()
		want := "[10s 20s 40s 1m20s 2m40s 5m20s 10m0s 10m0s 10m0s 2m40s 10s]"
		if got := fmt.Sprint(out.of("evil")); got != want {
			t.Errorf("shut out for %s, want %s", got, want)
		}
	})
}

// What an honest member may do wrong now and then never adds up.
func TestSlipsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out outside
		limits := NewLimits(everybody, out.shut)
		for range 2000 {
			limits.Refused("old", Malformed) // of another version, say
			limits.Refused("behind", Invalid)
			limits.Refused("removed", Foreign)
			for range 2 { // evidence under a set that this node has not got, each tick
				limits.Refused("relays", Invalid)
				time.Sleep(time.Second)
			}
		}
		if out.times != nil {
			t.Errorf("shut out: %v", out.times)
		}
		if n := counts(limits, "old")[Malformed]; n != 2000 {
			t.Errorf("%d counted", n)
		}
	})
}

// A network of 100 members after a partition: every line delivers all that
// waited for it, breaks, and delivers again; the proposer sends its block to
// everybody, and a folder of new recipes is endorsed once a second. Nothing of
// it is refused.
func TestPartitionOfAHundredHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out outside
		limits := NewLimits(everybody, out.shut)
		send := func(from record.Identity, messages, size int) {
			for range messages {
				if !limits.admit(from, true, int64(size)) {
					t.Fatalf("a message of %d bytes is refused: %v", size, counts(limits, from))
				}
			}
		}
		ids := make([]record.Identity, 99)
		for i := range ids {
			ids[i] = record.Identity(fmt.Sprint("member ", i))
		}
		for range 3 { // the line comes up, and breaks again
			for _, id := range ids {
				send(id, 252, 400)   // votes of rounds long over
				send(id, 4, 4<<20-1) // and its proposals: 16 MiB in all
			}
			time.Sleep(2 * time.Second)
		}
		for second := range 120 {
			for _, id := range ids {
				send(id, 12, 400)  // a block: prevote, precommit, cosign and what a tick repeats
				send(id, 8, 2000)  // parts
				send(id, 4, 40000) // help for who is behind
			}
			proposer := ids[second%len(ids)]
			send(proposer, 1, 4<<20)
			send(ids[0], 400, 4000) // endorses 400 recipes
			time.Sleep(time.Second)
		}
		if out.times != nil {
			t.Errorf("shut out: %v", out.times)
		}
	})
}

// A member that goes on sending more than it may is shut out, however little that
// is over the rate.
func TestOverTheRateForLong(t *testing.T) {
	for name, flood := range map[string]struct {
		each           time.Duration
		messages, size int
	}{
		"a little over, evenly":     {time.Second / 10, (rateMessages + 40) / 10, 300},
		"much at once each second":  {time.Second, 5000, 2000},
		"bytes, a little over":      {time.Second, 17, 1 << 20},
		"one message now and again": {time.Second / 4, rateMessages/4 + 1, 10},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out outside
				limits := NewLimits(everybody, out.shut)
				began, over, admitted := time.Now(), time.Time{}, 0
				for !limits.ShutOut("evil") && time.Since(began) < time.Hour {
					for range flood.messages {
						if limits.admit("evil", true, int64(flood.size)) {
							admitted++
						} else if over.IsZero() {
							over = time.Now()
						}
					}
					time.Sleep(flood.each)
				}
				if took := time.Since(over); over.IsZero() || took > 25*time.Second {
					t.Errorf("over the rate after %v, shut out %v later: %v", over.Sub(began), took, counts(limits, "evil"))
				}
				if most := burstMessages + int(time.Since(began).Seconds()*rateMessages); admitted > most {
					t.Errorf("%d messages admitted of at most %d", admitted, most)
				}
			})
		})
	}
}

// A flood that comes in pulses is over the rate for a moment only, again and again.
func TestPulses(t *testing.T) {
	for name, pulse := range map[string]struct {
		every          time.Duration
		messages, size int
	}{
		"twice what it may":  {2100 * time.Millisecond, 2000, 300},
		"a hundred thousand": {19 * time.Second, 145_000, 300},
		"bytes":              {10 * time.Second, 300, 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out outside
				limits := NewLimits(everybody, out.shut)
				for began := time.Now(); !limits.ShutOut("evil"); time.Sleep(pulse.every) {
					if time.Since(began) > 10*time.Minute {
						t.Fatalf("heard for ten minutes: %v", counts(limits, "evil"))
					}
					for range pulse.messages {
						limits.admit("evil", true, int64(pulse.size))
					}
				}
			})
		})
	}
}

// A node that stood still for a minute gets all at once what busy members sent in
// that time. None of them is shut out for it.
func TestStoodStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out outside
		limits := NewLimits(everybody, out.shut)
		for range 5 {
			time.Sleep(time.Minute)
			for range 60 * (paceMessages + 20) {
				limits.admit("good", true, 1000)
			}
		}
		if out.times != nil {
			t.Errorf("shut out: %v", out.times)
		}
	})
}

// Whatever a member submits, it is less than what others take, beside its votes and
// the largest block that it sends again and again.
func TestPaceIsBelowTheLimits(t *testing.T) {
	for _, size := range []int{200, 2000, 60_000, record.MaxMessage} {
		synctest.Test(t, func(t *testing.T) {
			limits, pace, said := NewLimits(everybody, func(record.Identity, time.Time) {}), newPace(), 0
			for second := range 120 {
				for range 20 {
					for range 1000 {
						if pace.full(time.Now()) || !pace.take(time.Now(), size) {
							break
						}
						said++
						if !limits.admit("good", true, int64(size)) {
							t.Fatalf("a message of %d bytes is refused after %d seconds", size, second)
						}
					}
					time.Sleep(time.Second / 20)
				}
				for _, size := range []int64{400, 400, 400, 4 << 20} {
					if !limits.admit("good", true, size) {
						t.Fatalf("a vote is refused after %d seconds", second)
					}
				}
			}
			if least := 119 * min(paceMessages, paceBytes/size); said < least {
				t.Errorf("%d messages of %d bytes said in two minutes, want %d", said, size, least)
			}
		})
	}
}

// What the pace holds back is neither in the pool nor lost: it is submitted again.
func TestSubmitKeepsPace(t *testing.T) {
	net := newNetwork(t, 3)
	m := net.members[0]
	bench(t, net, m, nil) // a service without its goroutine: what it takes waits
	part := m.endorsement(t, "again")
	submit := func() (taken int) {
		for range 2 * rateMessages {
			if err := m.service.Submit(part); err == nil {
				taken++
			} else if !errors.Is(err, ErrBusy) {
				t.Fatal(err)
			}
		}
		return taken
	}
	if taken := submit(); taken < paceMessages || taken >= 2*rateMessages {
		t.Errorf("%d of %d taken, and %d a second are what others take", taken, 2*rateMessages, paceMessages)
	}
}

func TestStrangersAreForgotten(t *testing.T) {
	limits := NewLimits(func(id record.Identity) bool { return id == "member" }, func(record.Identity, time.Time) {})
	limits.Refused("member", Malformed)
	for i := range 3 * maxStrangers {
		limits.admit(record.Identity(fmt.Sprint("stranger ", i)), false, 1)
	}
	if n := len(limits.accounts); n > maxStrangers {
		t.Errorf("%d accounts", n)
	}
	if counts(limits, "member")[Malformed] != 1 {
		t.Error("strangers made it forget a member")
	}
	if last := record.Identity(fmt.Sprint("stranger ", 3*maxStrangers-1)); counts(limits, last)[Foreign] != 1 {
		t.Error("the newest stranger is not known")
	}
}

func TestNoLimits(t *testing.T) {
	var none *Limits
	none.Refused("a", Malformed)
	if counts, until := none.Of("a"); !none.admit("a", true, 1) || counts != nil || !until.IsZero() || none.ShutOut("a") {
		t.Error("no limits limit something")
	}
}

// bench is a loop without its goroutine, on a member of a network.
func bench(t testing.TB, net *network, m *member, limits *Limits) *loop {
	m.service = New(Config{
		Identity: m.id, Signers: m.keys, Tick: time.Second, Patience: attest.Patience{},
		Working: func(record.Identity, record.Hash) bool { return true },
		Heard:   func(record.Part) {}, Note: func(record.Identity, []byte) {}, Log: slog.New(slog.DiscardHandler), Limits: limits,
	}, m.chain, line{net, m.id}, m.file)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	l := m.service.newLoop(ctx)
	l.wake()
	return l
}

// written are messages as members of other minds write them.
type written struct{ from *member }

func (w written) order(t testing.TB, message record.Message, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	data, err := record.EncodeMessage(message)
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte{kindOrder}, data...)
}

func (w written) vote(t testing.TB, genesis record.Hash, height, round int64) []byte {
	v, err := record.SignVote(genesis, record.Vote{Height: height, Round: round, Step: record.StepPrevote, Voter: w.from.id}, w.from.keys.Vote)
	return w.order(t, &v, err)
}

func (w written) endorsement(t testing.TB, genesis, set record.Hash, last int64, name string) []byte {
	t.Helper()
	pkg := artifact.NewPURL("maven", "org.example", name, "1.0", nil)
	change := record.RecipeChange{Files: []artifact.Name{{Package: pkg, File: name + "-1.0.jar"}}, Package: pkg, Recipe: record.Raw(`{"name":"` + name + `"}`)}
	e, err := record.SignEndorsement(genesis, record.Endorsement{
		Change: change.Digest(), Identity: w.from.id, LastHeight: last, Seq: 1, Set: set,
	}, w.from.keys.Vote)
	if err != nil {
		t.Fatal(err)
	}
	return w.part(t, record.Part{Endorse: &record.EndorsePart{Change: change, Endorsement: e}})
}

func (w written) part(t testing.TB, part record.Part) []byte {
	t.Helper()
	data, err := part.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte{kindPart}, data...)
}

// Every wrong message is counted under its sender and its kind; what may be an
// honest member's is not.
func TestWrongMessagesAreCounted(t *testing.T) {
	net := newNetwork(t, 3)
	self, a, b := net.members[0], net.members[1], net.members[2]
	genesis, set := self.chain.Network().Genesis, self.chain.Set().Hash()
	elsewhere := record.Hash{1}
	of := func(m *member) written { return written{m} }
	commit, err := record.SignCommit(genesis, elsewhere, a.id, record.Hash{2}, a.keys.Vote)
	if err != nil {
		t.Fatal(err)
	}
	unsigned := commit
	unsigned.Signature[0] ^= 1
	question := func(m *member, network record.Hash) []byte {
		i, err := record.SignIncarnation(network, record.Incarnation{Identity: m.id, Number: 1}, m.keys.Vote)
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte{kindStart}, record.MustMarshal(i)...)
	}
	for name, c := range map[string]struct {
		message []byte
		want    Refusal
	}{
		"a vote":                       {of(a).vote(t, genesis, 1, 0), ""},
		"a vote of another":            {of(b).vote(t, genesis, 1, 0), ""},
		"a vote of the next height":    {of(a).vote(t, genesis, 2, 0), ""},
		"a vote of another network":    {of(a).vote(t, elsewhere, 1, 0), Invalid},
		"a forged vote of another":     {of(b).vote(t, elsewhere, 1, 0), Invalid}, // who relays a vote has checked it
		"a vote of a negative round":   {of(a).vote(t, genesis, 1, -1), Invalid},
		"a vote with a tail":           {append(of(a).vote(t, genesis, 1, 0), 0), Malformed},
		"half a vote":                  {of(a).vote(t, genesis, 1, 0)[:200], Malformed},
		"no message of the order":      {[]byte{kindOrder}, Malformed},
		"an unknown message":           {[]byte{kindOrder, 'x', 0, 0, 0, 2, '{', '}'}, Malformed},
		"no part":                      {[]byte{kindPart}, Malformed},
		"an empty part":                {[]byte("a{}"), Malformed},
		"a part with a space":          {[]byte("a{ }"), Malformed},
		"an unknown kind":              {[]byte("z"), Unknown},
		"a note":                       {[]byte("nhello"), ""},
		"an endorsement":               {of(a).endorsement(t, genesis, set, 1000, "one"), ""},
		"one of another":               {of(b).endorsement(t, genesis, set, 1000, "one"), ""},
		"one of another network":       {of(a).endorsement(t, elsewhere, set, 1000, "one"), Invalid},
		"a forged one of another":      {of(b).endorsement(t, elsewhere, set, 1000, "one"), Untimely}, // not provably its sender's
		"one under another set":        {of(a).endorsement(t, genesis, elsewhere, 1000, "one"), Untimely},
		"one that is over":             {of(a).endorsement(t, genesis, set, 0, "one"), Untimely},
		"a commit ahead of this chain": {of(a).part(t, record.Part{Commit: &record.CommitPart{Attempt: elsewhere, Commit: commit}}), Untimely},
		"one that is forged":           {of(a).part(t, record.Part{Commit: &record.CommitPart{Attempt: elsewhere, Commit: unsigned}}), Untimely},
		"a vote of a round to come":    {of(a).vote(t, genesis, 1, 1), ""},
		"a vote of a far height":       {of(a).vote(t, genesis, 9, 1), Untimely},
		"a question":                   {question(a, genesis), ""},
		"one of another network's":     {question(a, elsewhere), Untimely},
		"another's question":           {question(b, genesis), Invalid},
		"half a question":              {question(a, genesis)[:40], Malformed},
		"half an answer":               {[]byte("r{"), Malformed},
	} {
		limits := NewLimits(everybody, func(record.Identity, time.Time) {})
		l := bench(t, net, self, limits)
		l.receive(a.id, c.message)
		want := map[Refusal]int64{}
		if c.want != "" {
			want[c.want] = 1
		}
		if got := counts(limits, a.id); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
		if got := counts(limits, b.id); len(got) != 0 {
			t.Errorf("%s: another member is charged: %v", name, got)
		}
	}
}

// An answer that cannot be right is charged to who sent it, until it has answered.
func TestWrongAnswersAreCharged(t *testing.T) {
	net := newNetwork(t, 3)
	self, a := net.members[0], net.members[1]
	limits := NewLimits(everybody, func(record.Identity, time.Time) {})
	l := bench(t, net, self, limits)
	own := l.fence.Question()
	good := record.Recollection{Incarnation: own, Nonce: own.Nonce}
	vote, err := record.SignVote(l.chain.Network().Genesis, record.Vote{Height: 1, Step: record.StepPrevote, Voter: self.id}, self.keys.Vote)
	if err != nil {
		t.Fatal(err)
	}
	twice, old := good, good
	twice.Votes = []record.Vote{vote, vote}
	old.Nonce = record.Hash{1}
	for _, r := range []record.Recollection{twice, old, good, twice} {
		l.receive(a.id, append([]byte{kindHeld}, record.MustMarshal(r)...))
	}
	if got := counts(limits, a.id); !maps.Equal(got, map[Refusal]int64{Invalid: 1, Stale: 1, Repeated: 1}) {
		t.Errorf("%v", got)
	}
	if answers, _ := l.fence.Answered(); answers != 1 {
		t.Errorf("%d answers", answers)
	}
}

func TestReceiveCounts(t *testing.T) {
	net := newNetwork(t, 3)
	self, a := net.members[0], net.members[1]
	limits := NewLimits(everybody, func(record.Identity, time.Time) {})
	s := bench(t, net, self, limits).Service
	s.Receive("stranger", []byte("n"))
	s.Receive(a.id, make([]byte, MaxMessage+1))
	if got := counts(limits, "stranger"); got[Foreign] != 1 {
		t.Errorf("a stranger: %v", got)
	}
	if got := counts(limits, a.id); got[Oversized] != 1 {
		t.Errorf("too long: %v", got)
	}
	if len(s.inbox) != 0 {
		t.Errorf("%d messages wait", len(s.inbox))
	}
}

// Old messages are counted as what they are, and cost nothing but the rate.
func TestReplaysAreCounted(t *testing.T) {
	net := newNetwork(t, 3)
	self, a := net.members[0], net.members[1]
	var out outside
	limits := NewLimits(everybody, out.shut)
	l := bench(t, net, self, limits)
	l.height = 9
	l.machine.Step(order.Start{Height: 9, Set: self.chain.Set()})
	old := written{a}.vote(t, self.chain.Network().Genesis, 7, 0)
	for range 1000 {
		l.receive(a.id, old)
	}
	l.receive(a.id, written{a}.vote(t, self.chain.Network().Genesis, 8, 0))
	if got := counts(limits, a.id)[Stale]; got != 1000 || out.times != nil {
		t.Errorf("%d replays counted, %v shut out", got, out.times)
	}
}

// What is said again is counted, however it is said.
func TestRepeatsAreCounted(t *testing.T) {
	net := newNetwork(t, 3)
	self, a := net.members[0], net.members[1]
	genesis, set := self.chain.Network().Genesis, self.chain.Set().Hash()
	incarnation, err := record.SignIncarnation(genesis, record.Incarnation{Identity: a.id, Number: 1}, a.keys.Vote)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		message []byte
		taken   int
	}{
		"a vote":         {written{a}.vote(t, genesis, 1, 0), 1},
		"an endorsement": {written{a}.endorsement(t, genesis, set, 1000, "one"), 1},
		"a large part":   {written{a}.endorsement(t, genesis, set, 1000, strings.Repeat("one", largePart/6)), 1},
		"a question":     {append([]byte{kindStart}, record.MustMarshal(incarnation)...), startBurst},
	} {
		limits := NewLimits(everybody, func(record.Identity, time.Time) {})
		l := bench(t, net, self, limits)
		for range c.taken + 3 {
			l.receive(a.id, c.message)
		}
		if got := counts(limits, a.id); !maps.Equal(got, map[Refusal]int64{Repeated: 3}) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Large parts that do not fit the chain have to be read: who sends them without end is
// shut out, and who sends one again each second, because it is ahead, is not.
func TestLargeUntimelyParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out outside
		limits := NewLimits(everybody, out.shut)
		for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(time.Second / 8) {
			limits.vain("evil", Untimely, 2<<20)
		}
		if out.of("evil") == nil {
			t.Error("not shut out")
		}
		for range 3600 {
			limits.vain("ahead", Untimely, 2<<20)
			time.Sleep(time.Second)
		}
		if out.of("ahead") != nil {
			t.Error("shut out for being ahead")
		}
	})
}

// limited is a network whose members keep accounts.
type limited struct {
	*network
	limits map[record.Identity]*Limits
	out    outside
}

func (n *limited) start(m *member) {
	m.service = New(Config{
		Identity: m.id, Signers: m.keys, Tick: 10 * time.Millisecond, Patience: attest.Patience{Commit: 200, Reveal: 200},
		Working: func(record.Identity, record.Hash) bool { return true }, Limits: n.limits[m.id],
		Heard: func(record.Part) {}, Note: func(record.Identity, []byte) {}, Log: slog.New(slog.DiscardHandler),
	}, m.chain, line{n.network, m.id}, m.file)
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	n.mu.Lock()
	n.up[m.id] = m.service
	n.mu.Unlock()
	m.stopped.Go(func() {
		if err := m.service.Serve(ctx); err != nil {
			n.t.Errorf("member %s: %v", m.id, err)
		}
	})
	// Who was a moment late for a block takes it from the others' chains.
	for _, other := range n.members {
		if other != m {
			m.stopped.Go(func() { n.follow(ctx, m, other) })
		}
	}
}

// Two halves that could not agree on anything for many rounds meet again: each
// line delivers the newest 256 messages that waited, three times over. Nobody is
// charged, and the network goes on.
func TestPartitionHeals(t *testing.T) {
	net := &limited{network: newNetwork(t, 4), limits: map[record.Identity]*Limits{}}
	type pair struct{ from, to record.Identity }
	waiting, left := map[pair][][]byte{}, map[record.Identity]bool{net.members[0].id: true, net.members[1].id: true}
	split, lost := true, 0
	net.drop = func(from, to record.Identity, message []byte) bool {
		if !split || left[from] == left[to] {
			return false
		}
		lost++
		queue := append(waiting[pair{from, to}], message)
		waiting[pair{from, to}] = queue[max(0, len(queue)-256):]
		return true
	}
	for _, m := range net.members {
		net.limits[m.id] = NewLimits(everybody, net.out.shut)
		net.start(m)
	}
	t.Cleanup(func() {
		for _, m := range net.members {
			net.kill(m)
		}
	})
	for _, m := range net.members {
		net.endorse(m, "one")
	}
	waitFor(t, func() bool {
		net.mu.Lock()
		defer net.mu.Unlock()
		full := 0
		for _, queue := range waiting {
			if len(queue) == 256 {
				full++
			}
		}
		return full >= 8
	})
	net.mu.Lock()
	split = false
	net.mu.Unlock()
	for range 3 {
		for p, queue := range waiting {
			for _, message := range queue {
				net.up[p.to].Receive(p.from, message)
			}
		}
	}
	for _, m := range net.members {
		net.waitRecipe(m, "one")
		for _, other := range net.members {
			for why, n := range counts(net.limits[m.id], other.id) {
				if why != Stale && why != Repeated && why != Crowded { // all three come of sending again
					t.Errorf("%s refused %d messages of %s: %s", m.id.Short(), n, other.id.Short(), why)
				}
			}
		}
	}
	t.Logf("%d messages did not arrive at once", lost)
	if net.out.times != nil {
		t.Errorf("shut out: %v", net.out.times)
	}
}

// What a refused message costs the one who gets it.
func BenchmarkRefused(b *testing.B) {
	net := newNetwork(b, 3)
	self, a := net.members[0], net.members[1]
	genesis := self.chain.Network().Genesis
	forged := written{a}.vote(b, record.Hash{1}, 1, 0)
	for name, message := range map[string][]byte{
		"undecodable": []byte(strings.Repeat("o", 400)),
		"almost":      append(written{a}.vote(b, genesis, 1, 0), 0),
		"signature":   forged,
		"unknown":     []byte("z"),
	} {
		b.Run(name, func(b *testing.B) {
			l := bench(b, net, self, NewLimits(everybody, func(record.Identity, time.Time) {}))
			for b.Loop() {
				l.receive(a.id, message)
			}
		})
	}
	b.Run("over-rate", func(b *testing.B) {
		s := bench(b, net, self, NewLimits(everybody, func(record.Identity, time.Time) {})).Service
		for b.Loop() {
			s.Receive(a.id, forged)
		}
	})
	b.Run("shut out", func(b *testing.B) {
		limits := NewLimits(everybody, func(record.Identity, time.Time) {})
		s := bench(b, net, self, limits).Service
		for range 20 {
			limits.Refused(a.id, Malformed)
		}
		for b.Loop() {
			s.Receive(a.id, forged)
		}
	})
}
