package libp2p

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"

	"github.com/pyrsia/appliance/modules/distribution"
	"github.com/pyrsia/appliance/modules/record"
	"github.com/pyrsia/appliance/modules/store/storetest"
)

// echo answers every frame of a member with itself, behind who sent it.
func echo(from record.Identity, s *MemberStream) {
	for {
		frame, err := s.ReadFrame(context.Background())
		if err != nil || s.WriteFrame(context.Background(), append([]byte(from.Short()+":"), frame...)) != nil {
			return
		}
	}
}

func TestMembersMeet(t *testing.T) {
	var in inbox
	var told refusals
	a, b := idOf(t, 1), idOf(t, 2)
	first := start(t, 1, emptyStore(), func(c *Config) { in.member(a, b)(c); c.Meet, c.Refused = echo, told.refused })
	second := start(t, 2, emptyStore(), func(c *Config) { in.member(a, b)(c); c.Meet = echo }, first)
	ask := func(s *MemberStream, text string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.WriteFrame(ctx, []byte(text)); err != nil {
			return "", err
		}
		answer, err := s.ReadFrame(ctx)
		return string(answer), err
	}
	for _, pair := range [][2]*node{{first, second}, {second, first}} {
		s, err := pair[0].Meet(t.Context(), pair[1].Identity())
		if err != nil {
			t.Fatal(err)
		}
		want := pair[0].Identity().Short() + ":hello"
		if got, err := ask(s, "hello"); err != nil || got != want {
			t.Errorf("%q, %v", got, err)
		}
		if err := s.WriteFrame(t.Context(), make([]byte, distribution.MaxMemberFrame+1)); err == nil {
			t.Error("too long")
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}

	s, err := second.Meet(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.ReadFrame(short); err == nil {
		t.Error("read what nobody sent")
	}
	if s, err = second.Meet(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	_, _ = s.s.Write(binary.BigEndian.AppendUint32(nil, distribution.MaxMemberFrame+1))
	storetest.Await(t, func() bool { return told.of(b, distribution.RefusedOversized) == 1 })
	_ = s.Close()

	first.Refuse(b, time.Now().Add(time.Hour))
	storetest.Await(t, func() bool {
		s, err := second.Meet(t.Context(), a)
		if err != nil {
			return false // not connected again yet
		}
		defer s.Close()
		_, err = ask(s, "let me in")
		return err != nil && second.Connected(a)
	})
}

func TestStrangersDoNotMeet(t *testing.T) {
	var in inbox
	var told refusals
	a, stranger := idOf(t, 1), idOf(t, 3)
	first := start(t, 1, emptyStore(), func(c *Config) {
		in.member(a)(c)
		c.Refused = told.refused
		c.Meet = func(record.Identity, *MemberStream) { t.Error("met a stranger") }
	})
	third := start(t, 3, emptyStore(), in.member(a, stranger), first)
	if _, err := first.Meet(t.Context(), stranger); !errors.Is(err, distribution.ErrUnreachable) {
		t.Errorf("%v", err)
	}
	s, err := third.Meet(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.WriteFrame(t.Context(), []byte("hello"))
	if _, err := s.ReadFrame(t.Context()); err == nil {
		t.Error("answered")
	}
	if told.of(stranger, distribution.RefusedForeign) == 0 {
		t.Error("not told")
	}
}

func reach(t *testing.T, h *node, id record.Identity, within time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return h.Reach(ctx, id)
}

func TestReach(t *testing.T) {
	a := start(t, 1, emptyStore(), nil)
	b := start(t, 2, emptyStore(), nil, a)
	if err := reach(t, b, a.Identity(), time.Minute); err != nil {
		t.Errorf("a peer that is there: %v", err)
	}
	if err := reach(t, b, idOf(t, 3), time.Minute); !errors.Is(err, distribution.ErrUnreachable) {
		t.Errorf("a peer without an address: %v", err)
	}
	if err := b.Reach(t.Context(), "nobody"); err == nil || errors.Is(err, distribution.ErrUnreachable) {
		t.Errorf("nobody: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Reach(ctx, a.Identity()); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}

	// Its connection is open, but it does not answer.
	r, err := a.running()
	if err != nil {
		t.Fatal(err)
	}
	r.handle(ping.ID, func(s network.Stream) { until(s) })
	if err := reach(t, b, a.Identity(), 200*time.Millisecond); !errors.Is(err, distribution.ErrUnreachable) || !b.Connected(a.Identity()) {
		t.Errorf("a peer that is mute: %v", err)
	}
	// It refuses the question, which a node does that is over a limit: no sign
	// that it is dead.
	r.handle(ping.ID, func(s network.Stream) { _ = s.Reset() })
	if err := reach(t, b, a.Identity(), time.Minute); err == nil || errors.Is(err, distribution.ErrUnreachable) {
		t.Errorf("a peer over its limit: %v", err)
	}

	a.stop()
	if err := reach(t, b, a.Identity(), time.Minute); !errors.Is(err, distribution.ErrUnreachable) {
		t.Errorf("a peer that is gone: %v", err)
	}
	b.stop()
	if err := b.Reach(t.Context(), a.Identity()); !errors.Is(err, distribution.ErrNotServing) {
		t.Errorf("a stopped host: %v", err)
	}
}
