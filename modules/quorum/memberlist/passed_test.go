package memberlist

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"syscall"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/bolt"
	"github.com/pyrsia/appliance/modules/distribution/libp2p"
	"github.com/pyrsia/appliance/modules/quorum"
	"github.com/pyrsia/appliance/modules/quorum/attest"
	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
	"github.com/pyrsia/appliance/modules/store/memory"
	"github.com/pyrsia/appliance/modules/store/storetest"
)

// The whole of it: members that agree on blocks, over real hosts, one of them a
// process of its own that dies or freezes when it is its turn to propose.

type seedSigner ed25519.PrivateKey

func (s seedSigner) Public() record.PublicKey {
	return record.PublicKey(ed25519.PrivateKey(s).Public().(ed25519.PublicKey))
}

func (s seedSigner) Sign(message []byte) (record.Signature, error) {
	return record.Signature(ed25519.Sign(ed25519.PrivateKey(s), message)), nil
}

func signersOf(key byte) record.NodeSigners {
	signer := func(use byte) record.Signer {
		seed := seedOf(key)
		seed[0] += use
		return seedSigner(ed25519.NewKeyFromSeed(seed))
	}
	return record.NodeSigners{Identity: signer(0), Vote: signer(1), Cosigner: signer(2), Log: signer(3)}
}

func genesisOf(keys ...byte) ([]byte, error) {
	var nodes []record.NodeRecord
	for _, key := range keys {
		node, err := record.SignNode(record.NodeRecord{Operator: "test", Platforms: []string{"linux/amd64"}, Seq: 1}, signersOf(key))
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, node)
	}
	sort.Slice(nodes, func(i, j int) bool { return nodes[i].Identity < nodes[j].Identity })
	return record.EncodeLeaf(&record.Genesis{
		Name: "test", Nodes: nodes, Order: record.OrderMajority, Platforms: []string{"linux/amd64"},
		Timeouts: record.Timeouts{Heartbeat: 600_000, Propose: 3000, Step: 1000, Vote: 1000},
	})
}

// voter is a member that agrees, wired as appliance/node does it.
type voter struct {
	node
	keys    record.NodeSigners
	chain   *chain.Chain
	service *quorum.Service
	close   func()
}

// carried is a host as the quorum's transport.
type carried struct{ *libp2p.Host }

func (c carried) Send(to record.Identity, message []byte) {
	_ = c.Host.Send(context.Background(), to, message)
}

// newVoter makes and runs a voter. Without presence nobody asks whether the
// proposer is there.
func newVoter(key byte, genesis []byte, folder string, peers map[record.Identity][]string, presence bool) (*voter, error) {
	backend, err := bolt.Open(filepath.Join(folder, "chain.db"))
	if err != nil {
		return nil, err
	}
	v := &voter{keys: signersOf(key)}
	if v.chain, err = chain.New(backend, genesis); err != nil {
		return nil, err
	}
	members := func() []record.Identity {
		var ids []record.Identity
		for _, node := range v.chain.Set().Nodes {
			ids = append(ids, node.Identity)
		}
		return ids
	}
	v.host, err = libp2p.New(libp2p.Config{
		Key: seedOf(key), Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Peers: peers,
		Members: func(id record.Identity) bool { _, ok := v.chain.Set().Node(id); return ok },
		Meet:    func(from record.Identity, s *libp2p.MemberStream) { v.members.Accept(from, s) },
		Receive: func(from record.Identity, message []byte) { v.service.Receive(from, message) },
		OnConnect: func(ctx context.Context, to record.Identity) error {
			v.members.Connected(to)
			return v.service.Opened(ctx, to)
		},
		OnDisconnect: func(from record.Identity) { v.members.Doubt(from) },
		Log:          slog.New(slog.DiscardHandler),
	}, room{memory.New()})
	if err != nil {
		return nil, err
	}
	reachable := func(id record.Identity, reachable bool) bool {
		v.reachable(id, reachable)
		return !presence || v.service.Connected(id, reachable)
	}
	v.members, err = New(Config{
		Self: v.host.Identity(), Set: members, State: func() State { return State{Height: v.chain.Height()} },
		Reachable: reachable, Log: slog.New(slog.DiscardHandler),
	}, streams{v.host})
	if err != nil {
		return nil, err
	}
	watch := v.members.Watch
	if !presence {
		watch = nil
	}
	v.service = quorum.New(quorum.Config{
		Identity: v.host.Identity(), Signers: v.keys, Tick: time.Second, Patience: attest.Patience{Commit: 1000, Reveal: 1000},
		Working: func(record.Identity, record.Hash) bool { return false }, Heard: func(record.Part) {},
		Note: func(record.Identity, []byte) {}, Awaits: watch, Log: slog.New(slog.DiscardHandler),
		Limits: quorum.NewLimits(func(record.Identity) bool { return true }, v.host.Refuse),
	}, v.chain, carried{v.host}, new(votes.Memory))
	if err := v.run(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.service.Serve(ctx) }()
	v.close = func() {
		cancel()
		<-done
		v.stop()
		backend.Close()
	}
	return v, nil
}

// childVoter is a voter until standard input ends; it prints its addresses.
func childVoter(e errand) error {
	v, err := newVoter(e.Key, e.Genesis, e.Folder, nil, true)
	if err != nil {
		return err
	}
	defer v.close()
	if err := json.NewEncoder(os.Stdout).Encode(v.host.Addresses()); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// endorse has a voter endorse a recipe.
func (v *voter) endorse(t *testing.T, name string) {
	t.Helper()
	pkg := artifact.NewPURL("maven", "org.example", name, "1.0", nil)
	change := record.RecipeChange{
		Files: []artifact.Name{{Package: pkg, File: name + "-1.0.jar"}}, Package: pkg,
		Recipe: record.Raw(`{"name":"` + name + `"}`),
	}
	e, err := record.SignEndorsement(v.chain.Network().Genesis, record.Endorsement{
		Change: change.Digest(), Identity: v.id(), LastHeight: 1000, Seq: 1, Set: v.chain.Set().Hash(),
	}, v.keys.Vote)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.service.Submit(record.Part{Endorse: &record.EndorsePart{Change: change, Endorsement: e}}); err != nil {
		t.Fatal(err)
	}
}

// publish has all voters endorse a recipe and waits until it is on each chain.
func publish(t *testing.T, voters []*voter, name string) time.Duration {
	t.Helper()
	began := time.Now()
	for _, v := range voters {
		v.endorse(t, name)
	}
	// As nodes do: what was sent before a new line is taken may be lost.
	last := began
	again := func() {
		if time.Since(last) < time.Second {
			return
		}
		last = time.Now()
		for _, v := range voters {
			v.endorse(t, name)
		}
	}
	for _, v := range voters {
		storetest.Await(t, func() bool {
			again()
			_, err := v.chain.LiveRecipe(artifact.NewPURL("maven", "org.example", name, "1.0", nil))
			return err == nil
		})
	}
	return time.Since(began)
}

func TestProposerIsPassedOver(t *testing.T) {
	for _, c := range []struct {
		name     string
		presence bool
		end      syscall.Signal
		most     time.Duration
	}{
		{"nobody asks a frozen one", false, syscall.SIGSTOP, time.Minute},
		// On an idle machine half a second and a tenth; the round has three.
		{"a frozen one", true, syscall.SIGSTOP, 2 * time.Second},
		{"a killed one", true, syscall.SIGKILL, 2 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			// A machine with other work may be late once; one that never asks is late
			// each time.
			for try := 1; !isPassedOver(t, c.presence, c.end, c.most); try++ {
				if try == 5 {
					t.Fatal("too long, each time")
				}
			}
		})
	}
}

// isPassedOver tells whether a proposer that is gone costs no more than some time.
func isPassedOver(t *testing.T, presence bool, end syscall.Signal, most time.Duration) bool {
	passed := false
	t.Run("try", func(t *testing.T) {
		genesis, err := genesisOf(1, 2, 9)
		if err != nil {
			t.Fatal(err)
		}
		process, addresses := spawn(t, errand{Key: 9, Genesis: genesis, Folder: t.TempDir()})
		peers := map[record.Identity][]string{idOf(t, 9): addresses}
		var voters []*voter
		for key := range byte(2) {
			v, err := newVoter(key+1, genesis, t.TempDir(), peers, presence)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(v.close)
			peers[v.id()] = v.host.Addresses()
			voters = append(voters, v)
		}
		gone := idOf(t, 9)
		for _, v := range voters {
			storetest.Await(t, func() bool { return v.sees(gone).Presence == Alive })
		}
		number, usual := 0, []time.Duration{}
		next := func() time.Duration {
			number++
			return publish(t, voters, fmt.Sprint("recipe", number))
		}
		turn := func() bool { return voters[0].chain.Set().Proposer(voters[0].chain.Height()+1, 0) == gone }
		for next(); !turn(); {
			usual = append(usual, next())
		}
		if err := process.Signal(end); err != nil {
			t.Fatal(err)
		}
		took := next()
		usual = append(usual, next())
		t.Logf("a block took %v when it was its turn, %v otherwise", took.Round(time.Millisecond), usual)
		passed = took <= most
	})
	return passed || t.Failed()
}
