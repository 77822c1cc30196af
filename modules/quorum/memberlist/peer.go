package memberlist

import (
	"context"
	"errors"
	"time"

	"github.com/pyrsia/appliance/modules/record"
)

// peer is what this node knows of another member. Members.mu guards it.
type peer struct {
	answer    answer
	checking  bool      // a question is under way
	again     bool      // and another one is to follow
	joining   bool      // an exchange is under way
	doubted   bool      // since the last answer
	heardDead time.Time // last hearsay that was followed
	epoch     int       // raised when it came by itself: older questions are void
	unsaid    bool      // Reachable did not take the last outcome

	rtt   time.Duration // of its last answer
	slow  int           // doublings of the patience
	away  time.Time     // since when it does not answer
	alarm time.Time     // when it was last found to be slow only

	met    bool // by memberlist, once
	told   State
	toldAt time.Time // zero before it told anything

	packets float64   // that may come at once
	counted time.Time // when that was so

	link *link
}

// answer is the outcome of this node's last question.
type answer int

const (
	unasked answer = iota
	answers
	silent
)

// maxSlow bounds the doublings, maxPatience what they lead to.
const (
	maxSlow     = 4
	maxPatience = 5 * time.Second
	slowDecay   = time.Minute
)

// patience is how long the peer may take to answer.
func (p *peer) patience(base time.Duration) time.Duration {
	return min(maxPatience, max(base, 4*p.rtt)<<p.slow)
}

func (p *peer) unlink() {
	if p.link != nil {
		p.link.cancel()
		p.link = nil
	}
}

// look does what is due: it asks the watched member, and once per pulse looks
// at everything.
func (r *run) look() {
	now := time.Now()
	r.mu.Lock()
	watched := r.watched
	if now.After(r.watchUntil) {
		watched = ""
	}
	r.mu.Unlock()
	if watched != "" {
		r.ask(watched)
	}
	if now.Sub(r.looked) >= r.Timing.Pulse {
		r.looked = now
		r.pulse()
	}
}

// pulse follows the set, tells what changed, and asks whom there is a reason to
// ask.
func (r *run) pulse() {
	listed, others := r.listed(), r.others()
	var due []record.Identity
	r.mu.Lock()
	r.follow(others)
	for id, p := range r.peers {
		if p.unsaid {
			r.say(id, p)
		}
		connected := r.streams.Connected(id)
		if p.answer == unasked || p.answer == answers && (!connected || !listed[id]) || p.answer == silent && connected {
			due = append(due, id)
		}
	}
	r.mu.Unlock()
	r.tell()
	for _, id := range due {
		r.ask(id)
	}
}

// follow makes the peers those of the set. mu is held.
func (r *run) follow(others []record.Identity) {
	set := map[record.Identity]bool{}
	for _, id := range others {
		set[id] = true
		if r.peers[id] == nil {
			r.peers[id] = &peer{packets: packetBurst, counted: time.Now()}
		}
	}
	for id, p := range r.peers {
		if !set[id] {
			p.unlink()
			delete(r.peers, id)
		}
	}
}

// tell gives the links this node's state, if it changed or they are new.
func (r *run) tell() {
	state := r.State()
	data, err := state.Encode()
	if err != nil {
		r.Log.Error("cannot tell this node's state", "error", err)
		return
	}
	changed := state != r.told
	r.told = state
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, p := range r.peers {
		if fresh := p.link == nil; fresh || changed {
			if l := r.linkOf(id, p); l != nil {
				l.tell(data)
			}
		}
	}
}

// ask asks a member for a sign of life, unless a question is under way. Who is
// away and has no connection is left alone: others dial it, and Connected tells.
func (r *run) ask(id record.Identity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peers[id]
	if p == nil || p.checking || p.answer == silent && !r.streams.Connected(id) {
		return
	}
	p.checking = r.Go(func() {
		for again := true; again; {
			again = r.question(id, p)
		}
	})
}

// question asks once, and tells whether to ask again at once.
func (r *run) question(id record.Identity, p *peer) (again bool) {
	r.mu.Lock()
	epoch, patience := p.epoch, p.patience(r.Timing.Patience)
	p.again = false
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(r.ctx, patience)
	began := time.Now()
	err := r.streams.Reach(ctx, id)
	cancel()
	rtt, stranger := time.Since(began), !r.listed()[id]
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
		r.answered(id, p, rtt)
		if stranger {
			r.join(id, p)
		}
	case errors.Is(err, ErrSilent) && p.epoch == epoch:
		r.lost(id, p)
	}
	p.checking = p.again && r.ctx.Err() == nil
	return p.checking
}

// answered takes a sign of life. mu is held.
func (r *run) answered(id record.Identity, p *peer, rtt time.Duration) {
	now, before := time.Now(), p.answer
	p.answer, p.doubted, p.rtt = answers, false, rtt
	switch {
	case before == silent && now.Sub(p.away) < r.Timing.Slow:
		p.slow, p.alarm = min(maxSlow, p.slow+1), now
	case p.slow > 0 && now.Sub(p.alarm) > slowDecay:
		p.slow, p.alarm = p.slow-1, now
	}
	if before == silent {
		r.Log.Info("a member answers again", "peer", id, "after", now.Sub(p.away).Round(time.Millisecond))
		r.say(id, p)
	}
}

// lost takes the want of one. mu is held.
func (r *run) lost(id record.Identity, p *peer) {
	before := p.answer
	p.answer, p.doubted = silent, false
	if before == silent {
		return
	}
	p.away = time.Now()
	if before == answers {
		r.Log.Info("a member does not answer", "peer", id)
	}
	r.say(id, p)
}

// say tells the outcome to who goes by it. mu is held.
func (m *Members) say(id record.Identity, p *peer) {
	p.unsaid = !m.Reachable(id, p.answer != silent)
}

// Watch keeps asking a member for some seconds, for as long as it is the last
// one that Watch was called for: something waits for it, and must not wait in
// vain. It returns at once.
func (m *Members) Watch(id record.Identity) {
	m.mu.Lock()
	m.watched, m.watchUntil = id, time.Now().Add(watchFor)
	r := m.run
	m.mu.Unlock()
	if r != nil {
		r.ask(id)
	}
}

// Connected says that a member came by itself: its line for votes is up. That
// is a sign of life.
func (m *Members) Connected(id record.Identity) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[id]
	if p == nil { // Serve does not run, or has yet to look at the set
		m.Reachable(id, true)
		return
	}
	p.epoch++
	p.answer, p.doubted = answers, false
	if p.link != nil {
		p.link.poke()
	}
	m.say(id, p)
}

// Doubt says that a member may be gone, since its line broke: it is asked.
func (m *Members) Doubt(id record.Identity) {
	m.mu.Lock()
	r := m.run
	m.mu.Unlock()
	if r != nil {
		r.doubt(id)
	}
}

// doubt asks a member, and if it is just being asked, once more.
func (r *run) doubt(id record.Identity) {
	r.mu.Lock()
	if p := r.peers[id]; p != nil {
		p.doubted, p.again = true, true
	}
	r.mu.Unlock()
	r.ask(id)
}

// hearsay asks a member that is said to be gone, at most once per pulse, however
// often it is said. memberlist's locks may be held.
func (r *run) hearsay(id record.Identity) {
	now := time.Now()
	r.mu.Lock()
	p := r.peers[id]
	fresh := p != nil && now.Sub(p.heardDead) >= r.Timing.Pulse
	if fresh {
		p.heardDead, p.doubted = now, true
	}
	r.mu.Unlock()
	if fresh {
		r.ask(id)
	}
}

// met notes that memberlist knows a member.
func (r *run) met(id record.Identity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.peers[id]; p != nil {
		p.met = true
	}
}

// heard notes what a member told.
func (r *run) heard(from record.Identity, state State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.peers[from]; p != nil {
		p.told, p.toldAt = state, time.Now()
	}
}

// mayCome tells whether a member may send another frame now.
func (r *run) mayCome(from record.Identity, exchange bool) bool {
	cost := 1.0
	if exchange {
		cost = exchangeCost
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peers[from]
	if p == nil {
		return false
	}
	p.packets = min(packetBurst, p.packets+now.Sub(p.counted).Seconds()*packetRate)
	p.counted = now
	if p.packets < cost {
		return false
	}
	p.packets -= cost
	return true
}

// Presence is how a member is to this node.
type Presence string

// The kinds of presence.
const (
	Alive   Presence = "alive"   // it answers this node
	Suspect Presence = "suspect" // it answered last time, but somebody misses it
	Away    Presence = "away"    // it does not answer this node
	Unknown Presence = "unknown" // it was not asked yet, or does not take part in this
)

// Member is another member as this node sees it.
type Member struct {
	Identity record.Identity
	Presence Presence
	Told     time.Time // when State came; zero before
	State    State     // in the member's own words
}

// Members are the other members that this node knows of.
func (m *Members) Members() []Member {
	m.mu.Lock()
	r := m.run
	m.mu.Unlock()
	var listed map[record.Identity]bool
	if r != nil {
		listed = r.listed()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Member
	for id, p := range m.peers {
		all = append(all, Member{Identity: id, Presence: p.presence(listed[id]), Told: p.toldAt, State: p.told})
	}
	return all
}

func (p *peer) presence(listed bool) Presence {
	switch {
	case p.answer == silent:
		return Away
	case p.answer == unasked || !p.met && p.toldAt.IsZero():
		return Unknown
	case !listed || p.doubted:
		return Suspect
	}
	return Alive
}
