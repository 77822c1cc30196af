package memberlist

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyrsia/appliance/modules/record"
)

// scripted is a network with one other member, which answers after a time.
type scripted struct {
	mu        sync.Mutex
	after     time.Duration // below zero: never
	err       error         // instead of an answer
	connected bool
	asked     int
}

func (s *scripted) Open(context.Context, record.Identity) (Stream, error) {
	return nil, errors.New("no streams here")
}

func (s *scripted) Connected(record.Identity) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connected
}

func (s *scripted) Reach(ctx context.Context, _ record.Identity) error {
	s.mu.Lock()
	s.asked++
	after, err := s.after, s.err
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if after < 0 {
		after = time.Hour
	}
	select {
	case <-time.After(after):
		return nil
	case <-ctx.Done():
		return ErrSilent
	}
}

func (s *scripted) set(f func(*scripted)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *scripted) questions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// alone runs Members beside the scripted network in a bubble.
func alone(t *testing.T, f func(s *scripted, n *node, other record.Identity)) {
	self, other := idOf(t, 1), idOf(t, 2)
	synctest.Test(t, func(t *testing.T) {
		s, n := &scripted{after: time.Millisecond, connected: true}, new(node)
		var err error
		n.members, err = New(Config{
			Self: self, Set: func() []record.Identity { return []record.Identity{self, other} },
			State: n.tells, Reachable: n.reachable, Log: slog.New(slog.DiscardHandler),
		}, s)
		if err != nil {
			t.Fatal(err)
		}
		n.meet()
		synctest.Wait()
		f(s, n, other)
		n.leave()
		time.Sleep(time.Minute) // memberlist's goroutines end with their timers
	})
}

// A member that answers too late, again and again, is given more and more time,
// so that a busy machine cannot keep a network from agreeing; and less when that
// is over.
func TestSlowIsNotDead(t *testing.T) {
	alone(t, func(s *scripted, n *node, other record.Identity) {
		s.set(func(s *scripted) { s.after = 700 * time.Millisecond })
		for range 100 { // it answers in time every now and then
			n.members.Watch(other)
			time.Sleep(time.Second)
			s.set(func(s *scripted) { s.after = 10 * time.Millisecond })
			time.Sleep(time.Second)
			s.set(func(s *scripted) { s.after = 700 * time.Millisecond })
		}
		if lost := n.losses(other); lost == 0 || lost > 5 {
			t.Errorf("a slow member was lost %d times", lost)
		}
		s.set(func(s *scripted) { s.after = time.Millisecond })
		for range 600 {
			n.members.Watch(other)
			time.Sleep(time.Second)
		}
		n.members.mu.Lock()
		slow := n.members.peers[other].slow
		n.members.mu.Unlock()
		if slow != 0 {
			t.Errorf("it is still given %d times double the time", slow)
		}
	})
}

// The patience follows the distance.
func TestFarIsNotDead(t *testing.T) {
	alone(t, func(s *scripted, n *node, other record.Identity) {
		s.set(func(s *scripted) { s.after = 250 * time.Millisecond })
		n.members.Watch(other)
		time.Sleep(time.Second)
		s.set(func(s *scripted) { s.after = 900 * time.Millisecond })
		n.members.Watch(other)
		time.Sleep(10 * time.Second)
		if n.losses(other) > 0 {
			t.Error("a far member was lost")
		}
	})
}

// A question that could not be asked says nothing.
func TestNoAnswerIsNoLoss(t *testing.T) {
	alone(t, func(s *scripted, n *node, other record.Identity) {
		s.set(func(s *scripted) { s.err = errors.New("over a limit") })
		n.members.Watch(other)
		n.members.Doubt(other)
		time.Sleep(10 * time.Second)
		if n.losses(other) > 0 || s.questions() < 20 {
			t.Errorf("lost %d times after %d questions", n.losses(other), s.questions())
		}
	})
}

// A member whose line came up while it was being asked is there, whatever the
// question says then.
func TestALineIsNewerThanAQuestion(t *testing.T) {
	alone(t, func(s *scripted, n *node, other record.Identity) {
		s.set(func(s *scripted) { s.after = -1 })
		n.members.Watch(other)
		time.Sleep(200 * time.Millisecond)
		n.members.Connected(other)
		n.members.Watch("nobody")
		time.Sleep(200 * time.Millisecond)
		if last, _ := n.last(other); !last.reachable || n.losses(other) > 0 {
			t.Error("an old question outdid a new line")
		}
	})
}

// What could not be told is told again.
func TestToldAgain(t *testing.T) {
	alone(t, func(s *scripted, n *node, other record.Identity) {
		var mu sync.Mutex
		told, taken := 0, false
		n.members.Config.Reachable = func(record.Identity, bool) bool {
			mu.Lock()
			defer mu.Unlock()
			told++
			return taken
		}
		s.set(func(s *scripted) { s.after = -1 })
		n.members.Doubt(other)
		time.Sleep(5 * time.Second)
		mu.Lock()
		before := told
		taken = true
		mu.Unlock()
		time.Sleep(5 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		if before < 3 || told != before+1 {
			t.Errorf("told %d times, then %d times", before, told-before)
		}
	})
}

// Who is away and has no connection is not dialled: others do that.
func TestAwayIsLeftAlone(t *testing.T) {
	alone(t, func(s *scripted, n *node, other record.Identity) {
		s.set(func(s *scripted) { s.after, s.connected = -1, false })
		n.members.Doubt(other)
		time.Sleep(time.Second)
		asked := s.questions()
		for range 60 {
			n.members.Watch(other)
			time.Sleep(time.Second)
		}
		if s.questions() != asked {
			t.Errorf("asked %d times more", s.questions()-asked)
		}
		s.set(func(s *scripted) { s.after, s.connected = 1, true })
		time.Sleep(2 * time.Second)
		if last, _ := n.last(other); !last.reachable {
			t.Error("it is connected, and was not asked")
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	whole := Config{
		Self: idOf(t, 1), Set: func() []record.Identity { return nil }, State: func() State { return State{} },
		Reachable: func(record.Identity, bool) bool { return true },
	}
	if _, err := New(whole, nil); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"self": func(c *Config) { c.Self = "me" }, "set": func(c *Config) { c.Set = nil },
		"state": func(c *Config) { c.State = nil }, "reachable": func(c *Config) { c.Reachable = nil },
	} {
		c := whole
		change(&c)
		if _, err := New(c, nil); err == nil {
			t.Errorf("without %s: accepted", name)
		}
	}
}
