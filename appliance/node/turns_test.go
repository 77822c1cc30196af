package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyrsia/appliance/modules/record"
)

// TestTurns writes down who is followed when. A row is a second in which peers
// connect, slots go on, and slots take a peer.
func TestTurns(t *testing.T) {
	for _, test := range []struct {
		name    string
		trusted string
		steps   string // "connect P", "gone P", "leave S", "shun S", "wait MINUTES", "take S is P"
	}{
		{"one each", "", "connect a, connect b, connect c, connect d, take 0 is a, take 1 is b, take 2 is c"},
		{"fewer than slots", "", "connect a, take 0 is a, take 1 is -, take 2 is -"},
		{"the silent one goes last", "", "connect a, connect b, take 0 is a, leave 0, take 0 is b, leave 0, take 0 is a"},
		{"alone it comes again", "", "connect a, take 0 is a, leave 0, take 0 is a"},
		{"a newcomer waits behind", "", "connect a, connect b, take 0 is a, leave 0, connect x, take 0 is b, leave 0, take 0 is a, leave 0, take 0 is x"},
		{"to connect again gains nothing", "", "connect x, connect a, connect b, take 0 is x, leave 0, gone x, connect x, take 0 is a, leave 0, take 0 is b"},
		{"what is wrong is left alone", "", "connect a, connect b, take 0 is a, shun 0, take 0 is b, leave 0, take 0 is b, leave 0, wait 2, take 0 is a"},
		{"also if it connects again", "", "connect a, take 0 is a, shun 0, gone a, connect a, take 0 is -, wait 2, take 0 is a"},
		{"one slot is for the trusted", "t", "connect x, connect y, connect z, connect t, take 1 is x, take 2 is y, take 0 is t, leave 0, take 0 is t"},
		{"and for nobody else", "t u", "connect x, take 0 is -, connect u, take 0 is u, connect t, leave 0, take 0 is t, leave 0, take 0 is u"},
		{"a trusted one is followed once", "t", "connect t, connect x, take 1 is t, take 0 is -, leave 1, take 0 is t, take 1 is x"},
		{"three silent strangers and more", "t", "connect x, connect y, connect z, connect a, take 1 is x, take 2 is y, leave 1, take 1 is z, leave 2, take 2 is a, leave 1, take 1 is x"},
	} {
		t.Run(test.name, func(t *testing.T) { playTurns(t, test.trusted, test.steps) })
	}
}

func playTurns(t *testing.T, trusted, steps string) {
	var ids []record.Identity
	for _, id := range strings.Fields(trusted) {
		ids = append(ids, record.Identity(id))
	}
	turns, now := newTurns(ids), time.Unix(1000, 0)
	var connected []connectedPeer
	for _, step := range strings.Split(steps, ", ") {
		now = now.Add(time.Second)
		var verb, word, peer string
		_, _ = fmt.Sscanf(step, "%s %s is %s", &verb, &word, &peer)
		slot := int(word[0] - '0')
		switch verb {
		case "connect":
			connected = append(connected, connectedPeer{record.Identity(word), now})
		case "gone":
			connected = without(connected, record.Identity(word))
		case "leave":
			turns.leave(slot, now)
		case "shun":
			turns.shun(slot, now)
		case "wait":
			now = now.Add(time.Duration(slot) * time.Minute)
		case "take":
			got, ok := turns.take(slot, connected, now)
			if !ok {
				got = "-"
			}
			if string(got) != peer {
				t.Fatalf("%s: it follows %s", step, got)
			}
		default:
			t.Fatalf("no such step: %s", step)
		}
	}
}

func without(connected []connectedPeer, id record.Identity) (rest []connectedPeer) {
	for _, peer := range connected {
		if peer.identity != id {
			rest = append(rest, peer)
		}
	}
	return rest
}

// TestSilentStrangers: an honest peer behind any number of silent ones that come
// with ever new identities is followed within a turn for each that came before.
func TestSilentStrangers(t *testing.T) {
	const before = 9
	turns, now := newTurns(nil), time.Unix(1000, 0)
	var connected []connectedPeer
	for i := range before {
		connected = append(connected, connectedPeer{record.Identity(fmt.Sprint("silent", i)), now})
	}
	connected = append(connected, connectedPeer{"honest", now.Add(time.Second)})
	for round := range before/followed + 1 {
		now = now.Add(turn)
		connected = append(connected, connectedPeer{record.Identity(fmt.Sprint("new", round)), now})
		for slot := range followed {
			if id, _ := turns.take(slot, connected, now); id == "honest" {
				return
			}
		}
		for slot := range followed {
			turns.leave(slot, now)
		}
	}
	t.Error("the honest peer is never followed")
}

// TestWatchProgress: a peer keeps its place as long as it brings something.
func TestWatchProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		var brought atomic.Int64
		go watchProgress(ctx, &brought, cancel)
		for range 5 {
			brought.Add(1)
			<-time.After(turn - time.Second)
			if ctx.Err() != nil {
				t.Fatal("a peer that brings blocks loses its place")
			}
		}
		silent := time.Now()
		<-ctx.Done()
		if cause := context.Cause(ctx); !errors.Is(cause, errSilent) || time.Since(silent) > 2*turn {
			t.Errorf("after %s: %v", time.Since(silent), cause)
		}
	})
}
