package quorum

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/distribution"
	"github.com/pyrsia/appliance/modules/distribution/libp2p"
	"github.com/pyrsia/appliance/modules/record"
	"github.com/pyrsia/appliance/modules/store"
	"github.com/pyrsia/appliance/modules/store/memory"
	"github.com/pyrsia/appliance/modules/store/storetest"
)

// A member in a process of its own floods another one over real hosts, so that
// what it costs each of them can be told apart.

// floodOrder is what the process is to do, in the environment variable of that
// name.
type floodOrder struct {
	Victim    record.Identity
	Addresses []string
	Message   []byte // nil sends nothing
	Padding   int    // zeros behind it
	For       time.Duration
}

const (
	floodVariable = "PYRSIA_TEST_FLOOD"
	floodTime     = 1500 * time.Millisecond
)

// room is a store as distribution sees it.
type room struct{ storetest.Store }

func (r room) Begin(desc artifact.Descriptor) (distribution.Download, error) {
	d, err := r.Store.Begin(desc)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (r room) Through(desc artifact.Descriptor) distribution.Download { return store.NewThrough(desc) }

// identitySeed is the identity key of the n-th member of a network.
func identitySeed(n byte) []byte {
	seed := make([]byte, 32)
	seed[0] = n + 1
	return seed
}

func serve(t *testing.T, config libp2p.Config, s storetest.Store) *libp2p.Host {
	t.Helper()
	config.Listen, config.Log = []string{"/ip4/127.0.0.1/tcp/0"}, slog.New(slog.DiscardHandler)
	h, err := libp2p.New(config, room{s})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := h.Ready(), make(chan error, 1)
	go func() { done <- h.Serve(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	<-ready
	return h
}

// TestFloodProcess is the process that floods; it is no test by itself.
func TestFloodProcess(t *testing.T) {
	text := os.Getenv(floodVariable)
	if text == "" {
		t.Skip("the other tests run it")
	}
	var o floodOrder
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	s := memory.New()
	desc, err := s.Put(t.Context(), strings.NewReader(strings.Repeat("a blob of a member that lies\n", 1000)))
	if err != nil {
		t.Fatal(err)
	}
	h := serve(t, libp2p.Config{
		Key: identitySeed(1), Share: true, Members: everybody, Receive: func(record.Identity, []byte) {},
		Peers: map[record.Identity][]string{o.Victim: o.Addresses},
	}, s)
	storetest.Await(t, func() bool { return h.Connected(o.Victim) })
	message, end := append(o.Message, make([]byte, o.Padding)...), time.Now().Add(o.For)
	if o.Message == nil {
		storetest.Await(t, func() bool { return time.Now().After(end) })
	}
	for time.Now().Before(end) {
		for range 1000 {
			if err := h.Send(t.Context(), o.Victim, message); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(desc); err != nil {
		t.Fatal(err)
	}
	_, _ = bufio.NewReader(os.Stdin).ReadByte() // until the other end is done
}

func cpu(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// A member that floods is held to the rate, then shut out, and its flood costs it
// more than the one it is meant for. Its blobs can be had all the same.
func TestFloodOverTheNetwork(t *testing.T) {
	net := newNetwork(t, 3)
	self, evil := net.members[0], net.members[1]
	for _, flood := range []struct {
		name    string
		message []byte
		padding int
		shut    bool
	}{
		{"nothing", nil, 0, false},
		// Right but too many: these are shut out after some seconds (TestFlood).
		{"good votes", written{evil}.vote(t, self.chain.Network().Genesis, 1, 0), 0, false},
		{"large messages", []byte{kindNote}, 1 << 20, false},
		{"forged votes", written{evil}.vote(t, record.Hash{1}, 1, 0), 0, true},
		{"junk", []byte{kindOrder}, 300, true},
		{"unknown kinds", []byte("z"), 0, true},
	} {
		t.Run(flood.name, func(t *testing.T) {
			m := &limited{network: net, limits: map[record.Identity]*Limits{}}
			shut, began := make(chan time.Duration, 100), time.Now()
			var h *libp2p.Host
			limits := NewLimits(everybody, func(id record.Identity, until time.Time) {
				h.Refuse(id, until)
				shut <- time.Since(began)
			})
			m.limits[self.id] = limits
			m.start(self)
			t.Cleanup(func() { net.kill(self) })
			h = serve(t, libp2p.Config{
				Key: identitySeed(0), Members: everybody, Receive: self.service.Receive,
				Refused: func(from record.Identity, why string) { limits.Refused(from, Refusal(why)) },
			}, memory.New())
			text, err := json.Marshal(floodOrder{Victim: self.id, Addresses: h.Addresses(), Message: flood.message, Padding: flood.padding, For: floodTime})
			if err != nil {
				t.Fatal(err)
			}
			child := exec.Command(os.Args[0], "-test.run", "^TestFloodProcess$")
			child.Env, child.Stderr = append(os.Environ(), floodVariable+"="+string(text)), os.Stderr
			in, _ := child.StdinPipe()
			out, _ := child.StdoutPipe()
			before := cpu(t)
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			var blob artifact.Descriptor
			if err := json.NewDecoder(out).Decode(&blob); err != nil {
				t.Fatal(err)
			}
			ours, counted := cpu(t)-before, fmt.Sprint(counts(limits, evil.id))
			storetest.Await(t, func() bool { return h.Connected(evil.id) })
			if err := h.Fetch(t.Context(), blob); err != nil {
				t.Errorf("its blob: %v", err)
			}
			_ = in.Close()
			_ = child.Wait()
			theirs := child.ProcessState.UserTime() + child.ProcessState.SystemTime()
			t.Logf("%v of it cost %v here and %v there; refused %s", floodTime, ours.Round(time.Millisecond), theirs.Round(time.Millisecond), counted)
			if flood.shut && ours > theirs {
				t.Error("it costs more than it takes")
			}
			select {
			case after := <-shut:
				t.Logf("shut out after %v", after.Round(time.Millisecond))
			default:
				if flood.shut {
					t.Error("not shut out")
				}
			}
		})
	}
}
