package memberlist

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/record"
	"github.com/pyrsia/appliance/modules/store/storetest"
)

// errand is what a child process is to be, in the environment variable of that
// name.
type errand struct {
	Key     byte
	Set     []record.Identity // of a member
	Genesis []byte            // of a voter
	Folder  string            // of a voter
}

const errandVariable = "PYRSIA_TEST_MEMBER"

// child is a member until its standard input ends. It prints its addresses.
func child(text string) error {
	var e errand
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return err
	}
	if e.Genesis != nil {
		return childVoter(e)
	}
	n, members := new(node), new(set)
	members.change(e.Set...)
	if err := n.make(seedOf(e.Key), members, nil, Timing{}); err != nil {
		return err
	}
	if err := n.run(); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(n.host.Addresses()); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	n.stop()
	return err
}

// spawn runs a member as a process of its own.
func spawn(t *testing.T, e errand) (process *os.Process, addresses []string) {
	t.Helper()
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(os.Args[0])
	command.Env, command.Stderr = append(os.Environ(), errandVariable+"="+string(text)), os.Stderr
	in, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGCONT)
		_ = in.Close()
		var killed *exec.ExitError
		if err := command.Wait(); err != nil && (!errors.As(err, &killed) || killed.Exited()) {
			t.Errorf("the child: %v", err)
		}
	})
	if err := json.NewDecoder(bufio.NewReader(out)).Decode(&addresses); err != nil {
		t.Fatal(err)
	}
	return command.Process, addresses
}

// A process that is stopped keeps its connections: nothing ends, nothing is
// reset, and nothing answers. Members that wait for it find out within its
// patience, others by memberlist's probes.
func TestFrozenProcess(t *testing.T) {
	members := new(set)
	frozen := idOf(t, 9)
	members.change(idOf(t, 1), idOf(t, 2), frozen)
	process, addresses := spawn(t, errand{Key: 9, Set: members.list()})
	var nodes []*node
	for key := range byte(2) {
		n := new(node)
		if err := n.make(seedOf(key+1), members, map[record.Identity][]string{frozen: addresses}, Timing{}); err != nil {
			t.Fatal(err)
		}
		if key == 1 {
			if err := n.host.SetPeers(map[record.Identity][]string{frozen: addresses, nodes[0].id(): nodes[0].host.Addresses()}); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.run(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.stop() })
		nodes = append(nodes, n)
	}
	var watched, unwatched []time.Duration
	for round := range 6 {
		for _, n := range nodes {
			storetest.Await(t, func() bool { return n.sees(frozen).Presence == Alive })
		}
		watch := round%2 == 0
		if watch { // it is stopped just after it answered: the worst moment
			nodes[0].members.Watch(frozen)
			nodes[1].members.Watch(frozen)
			asked := nodes[0].questions(t, frozen)
			storetest.Await(t, func() bool { return nodes[0].questions(t, frozen) != asked })
		}
		stopped := time.Now()
		if err := process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		for _, n := range nodes {
			storetest.Await(t, func() bool { return n.sees(frozen).Presence == Away })
			if !n.host.Connected(frozen) {
				t.Error("the connection ended: this is not what is to be shown")
			}
			last, _ := n.last(frozen)
			if watch {
				watched = append(watched, last.at.Sub(stopped))
			} else {
				unwatched = append(unwatched, last.at.Sub(stopped))
			}
		}
		for _, n := range nodes {
			n.members.Watch("nobody")
			n.awake(frozen)
		}
		if err := process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("found away after %s while it is waited for, after %s otherwise", spread(watched), spread(unwatched))
	if usual := median(watched); usual > 800*time.Millisecond {
		t.Errorf("who is waited for is missed after %v", usual)
	}
}

// awake forgets that the member was slow: here it was stopped and soon went on,
// and each round is to be like the first.
func (n *node) awake(id record.Identity) {
	n.members.mu.Lock()
	defer n.members.mu.Unlock()
	p := n.members.peers[id]
	p.slow, p.away = 0, p.away.Add(-time.Hour)
}

func median(times []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(times))[len(times)/2]
}

func spread(times []time.Duration) string {
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("%v to %v, median %v", ms(slices.Min(times)), ms(slices.Max(times)), ms(median(times)))
}
