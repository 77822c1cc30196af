package quorum

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/bolt"
	"github.com/pyrsia/appliance/modules/quorum/attest"
	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

type seedSigner ed25519.PrivateKey

func (s seedSigner) Public() record.PublicKey {
	return record.PublicKey(ed25519.PrivateKey(s).Public().(ed25519.PublicKey))
}

func (s seedSigner) Sign(message []byte) (record.Signature, error) {
	return record.Signature(ed25519.Sign(ed25519.PrivateKey(s), message)), nil
}

func signers(node byte) record.NodeSigners {
	key := func(use byte) record.Signer {
		seed := make([]byte, ed25519.SeedSize)
		seed[0], seed[1] = node+1, use
		return seedSigner(ed25519.NewKeyFromSeed(seed))
	}
	return record.NodeSigners{Identity: key(0), Vote: key(1), Cosigner: key(2), Log: key(3)}
}

// member is one node of a network in this process.
type member struct {
	keys    record.NodeSigners
	id      record.Identity
	chain   *chain.Chain
	file    *votes.Memory
	service *Service
	stop    context.CancelFunc
	stopped sync.WaitGroup
}

// network carries messages in memory; a member that is down gets none.
type network struct {
	t       testing.TB
	genesis []byte
	members []*member

	mu   sync.Mutex
	up   map[record.Identity]*Service
	drop func(from, to record.Identity, message []byte) bool
}

type line struct {
	net  *network
	from record.Identity
}

func (l line) Send(to record.Identity, message []byte) {
	l.net.mu.Lock()
	service := l.net.up[to]
	lost := l.net.drop != nil && l.net.drop(l.from, to, message)
	l.net.mu.Unlock()
	if service != nil && !lost {
		service.Receive(l.from, message)
	}
}

func (l line) Discard(record.Identity) {} // nothing waits

func newNetwork(t testing.TB, size int) *network {
	net := &network{t: t, up: map[record.Identity]*Service{}}
	var nodes []record.NodeRecord
	for i := range size {
		m := &member{keys: signers(byte(i)), file: new(votes.Memory)}
		node, err := record.SignNode(record.NodeRecord{Operator: "test", Platforms: []string{"linux/amd64"}, Seq: 1}, m.keys)
		if err != nil {
			t.Fatal(err)
		}
		m.id = node.Identity
		nodes = append(nodes, node)
		net.members = append(net.members, m)
	}
	sort.Slice(nodes, func(i, j int) bool { return nodes[i].Identity < nodes[j].Identity })
	genesis, err := record.EncodeLeaf(&record.Genesis{
		Name: "test", Nodes: nodes, Order: record.OrderMajority, Platforms: []string{"linux/amd64"},
		Timeouts: record.Timeouts{Heartbeat: 600_000, Propose: 300, Step: 100, Vote: 100},
	})
	if err != nil {
		t.Fatal(err)
	}
	net.genesis = genesis
	for _, m := range net.members {
		backend, err := bolt.Open(filepath.Join(t.TempDir(), "chain.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { backend.Close() })
		if m.chain, err = chain.New(backend, genesis); err != nil {
			t.Fatal(err)
		}
	}
	return net
}

func (n *network) start(m *member) {
	m.service = New(Config{
		Identity: m.id, Signers: m.keys, Tick: 50 * time.Millisecond, Patience: attest.Patience{Commit: 200, Reveal: 200},
		Working: func(record.Identity, record.Hash) bool { return true },
		Heard:   func(record.Part) {}, Note: func(record.Identity, []byte) {}, Log: slog.New(slog.DiscardHandler),
	}, m.chain, line{n, m.id}, m.file)
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
	for _, other := range n.members {
		if other != m {
			m.stopped.Go(func() { n.follow(ctx, m, other) })
		}
	}
}

// follow takes blocks over from another member's chain, as nodes do.
func (n *network) follow(ctx context.Context, m, other *member) {
	for other.chain.Wait(ctx, m.chain.Height()+1) == nil {
		data, err := other.chain.Block(m.chain.Height() + 1)
		if err != nil {
			continue // it came another way meanwhile
		}
		if certified, err := m.chain.Verify(data); err == nil {
			_ = m.chain.Append(certified)
		}
	}
}

func (n *network) kill(m *member) {
	n.mu.Lock()
	delete(n.up, m.id)
	n.mu.Unlock()
	m.stop()
	m.stopped.Wait()
}

func (n *network) startAll() {
	for _, m := range n.members {
		n.start(m)
	}
	n.t.Cleanup(func() {
		for _, m := range n.members {
			n.kill(m)
		}
	})
}

func (n *network) waitHeight(m *member, height int64) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := m.chain.Wait(ctx, height); err != nil {
		n.t.Fatalf("member %s is at height %d, want %d", m.id.Short(), m.chain.Height(), height)
	}
}

// endorse has a member endorse a recipe of the given name.
func (n *network) endorse(m *member, name string) {
	n.t.Helper()
	if err := m.service.Submit(m.endorsement(n.t, name)); err != nil {
		n.t.Fatal(err)
	}
}

func (m *member) endorsement(t testing.TB, name string) record.Part {
	t.Helper()
	pkg := artifact.NewPURL("maven", "org.example", name, "1.0", nil)
	change := record.RecipeChange{
		Files: []artifact.Name{{Package: pkg, File: name + "-1.0.jar"}}, Package: pkg,
		Recipe: record.Raw(`{"name":"` + name + `"}`),
	}
	e, err := record.SignEndorsement(m.chain.Network().Genesis, record.Endorsement{
		Change: change.Digest(), Identity: m.id, LastHeight: 1000, Seq: 1, Set: m.chain.Set().Hash(),
	}, m.keys.Vote)
	if err != nil {
		t.Fatal(err)
	}
	return record.Part{Endorse: &record.EndorsePart{Change: change, Endorsement: e}}
}

func (n *network) hasRecipe(m *member, name string) bool {
	_, err := m.chain.LiveRecipe(artifact.NewPURL("maven", "org.example", name, "1.0", nil))
	return err == nil
}

// waitRecipe waits until a member's chain has the recipe.
func (n *network) waitRecipe(m *member, name string) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for height := m.chain.Height(); !n.hasRecipe(m, name); height++ {
		if err := m.chain.Wait(ctx, height+1); err != nil {
			for _, other := range n.members {
				n.t.Logf("%s: height %d, %+v", other.id.Short(), other.chain.Height(), other.service.where())
			}
			n.t.Fatalf("member %s at height %d does not have the recipe %s", m.id.Short(), m.chain.Height(), name)
		}
	}
}

func TestFirstBlockIsAHeartbeat(t *testing.T) {
	net := newNetwork(t, 3)
	net.startAll()
	for _, m := range net.members {
		net.waitHeight(m, 1)
	}
	if first, second := net.members[0].chain.Frontier().Root(), net.members[1].chain.Frontier().Root(); first != second {
		t.Fatalf("roots differ: %s and %s", first, second)
	}
}

func TestRecipeNeedsAMajority(t *testing.T) {
	net := newNetwork(t, 3)
	net.startAll()
	net.endorse(net.members[0], "one")
	net.endorse(net.members[0], "two")
	net.endorse(net.members[1], "two")
	net.waitRecipe(net.members[2], "two")
	if net.hasRecipe(net.members[2], "one") {
		t.Fatal("a recipe of one member stands on the chain")
	}
}

func TestGoesOnWithAMinorityDown(t *testing.T) {
	net := newNetwork(t, 3)
	net.startAll()
	net.waitHeight(net.members[0], 1)
	net.kill(net.members[2])
	for _, name := range []string{"one", "two", "three"} {
		net.endorse(net.members[0], name)
		net.endorse(net.members[1], name)
		net.waitRecipe(net.members[0], name)
		net.waitRecipe(net.members[1], name)
	}
	net.start(net.members[2])
}

func TestLossDelaysAndLosesNothing(t *testing.T) {
	net := newNetwork(t, 4)
	rng := rand.New(rand.NewPCG(1, 1)) // guarded by net.mu
	net.drop = func(_, _ record.Identity, _ []byte) bool { return rng.IntN(3) == 0 }
	net.startAll()
	// An endorsement that got lost is sent again by publish; here by hand.
	waitFor(t, func() bool {
		for _, m := range net.members[:3] {
			net.endorse(m, "one")
		}
		return net.hasRecipe(net.members[0], "one")
	})
}

func TestRestartOfAllMidway(t *testing.T) {
	net := newNetwork(t, 3)
	// Cosignatures are held back, so that the block is decided and not certified.
	net.drop = func(_, _ record.Identity, message []byte) bool {
		return message[0] == kindOrder && message[1] == 'c'
	}
	net.startAll()
	net.endorse(net.members[0], "one")
	net.endorse(net.members[1], "one")
	waitFor(t, func() bool {
		position, err := net.members[0].file.Highest()
		return err == nil && position.Kind == votes.Cosign
	})
	for _, m := range net.members {
		net.kill(m)
	}
	net.mu.Lock()
	net.drop = nil
	net.mu.Unlock()
	for _, m := range net.members {
		m.file = m.file.Clone()
		net.start(m)
	}
	for _, m := range net.members {
		net.waitHeight(m, 1)
	}
}

func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	deadline, tick := time.After(30*time.Second), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline:
			t.Fatal("the condition did not come true")
		case <-tick.C:
		}
	}
}

// where is what a service says of itself, if it answers.
func (s *Service) where() string {
	answer := make(chan string, 1)
	s.post(func(l *loop) {
		answers, need := l.fence.Answered()
		answer <- fmt.Sprintf("%+v, %+v, %d of %d answers, behind %v", s.Standing(), l.machine.Status(), answers, need, l.fence.Behind())
	})
	select {
	case text := <-answer:
		return text
	case <-time.After(time.Second):
		return "it does not answer"
	}
}
