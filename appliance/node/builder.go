package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pyrsia/appliance/appliance/supervisor"
	"github.com/pyrsia/appliance/hcl/config"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/build/buildkit"
	"github.com/pyrsia/appliance/modules/build/input"
	"github.com/pyrsia/appliance/modules/identity"
	"github.com/pyrsia/appliance/modules/publish"
	"github.com/pyrsia/appliance/modules/quorum"
	"github.com/pyrsia/appliance/modules/quorum/attest"
	votesbolt "github.com/pyrsia/appliance/modules/quorum/bolt"
	"github.com/pyrsia/appliance/modules/quorum/memberlist"
	"github.com/pyrsia/appliance/modules/record"
)

// How members work together; none of it is a rule of the protocol.
const (
	patienceCommit = 30 * time.Second
	patienceReveal = 2 * time.Second
	resend         = time.Second
)

// builder is what a build node has on top of a regular one: the modules that build
// and vote. It is made when the role begins, and closed when it ends.
type builder struct {
	node    *Node
	keys    *identity.Keys
	votes   *votesbolt.File // its lock keeps a rekey out
	inputs  *input.Keeper
	tries   *input.Keeper // of what is only tried: nothing of it is kept for ever
	engine  *buildkit.Engine
	recipes *recipeFolder
	limits  *quorum.Limits
	quorum  *quorum.Service
	members *memberlist.Members
	member  *publish.Member
	tree    *supervisor.Supervisor
	closers []func() error // in the order of construction
}

// newBuilder opens what the role needs and starts nothing.
func (n *Node) newBuilder(cfg *config.Config) (b *builder, err error) {
	b = &builder{node: n}
	defer func() {
		if err != nil {
			b, err = nil, errors.Join(err, b.close())
		}
	}()
	if _, member := n.chain.Set().Node(n.identity); !member {
		if cfg.Role == config.RoleBuild {
			return b, fmt.Errorf("%s: role is \"build\", but %s is not among the network's build nodes; set role = \"regular\", or have the members add it", cfg.File, n.identity)
		}
		return b, fmt.Errorf("this node cannot be a build node: %s is not among those of the network; have the members add it", n.identity)
	}
	for _, step := range []func(*config.Config) error{b.openVotes, b.makeInputs, b.makeEngine, b.makeQuorum, b.makeMember, b.makeTree} {
		if err := step(cfg); err != nil {
			return b, err
		}
	}
	return b, nil
}

// close closes what newBuilder opened, in reverse order.
func (b *builder) close() error {
	var failures []error
	for i := len(b.closers) - 1; i >= 0; i-- {
		failures = append(failures, b.closers[i]())
	}
	b.closers = nil
	return errors.Join(failures...)
}

// openVotes opens the vote file, whose lock keeps a rekey out, and only then reads
// the keys that count.
func (b *builder) openVotes(*config.Config) (err error) {
	folder := b.node.folder("keys")
	if b.votes, err = votesbolt.Open(folder); err != nil {
		return err
	}
	b.closers = append(b.closers, b.votes.Close)
	if b.keys, err = identity.LoadSealed(folder, b.node.options.sealed); err != nil {
		return err
	}
	return b.votes.Bind(b.keys.Signers().Vote.Public())
}

func (b *builder) makeInputs(cfg *config.Config) (err error) {
	n := b.node
	b.inputs, err = input.New(input.Config{
		Upstreams: inputUpstreams(cfg), Store: lentStore{n.store}, Lent: lentStore{n.store}, Chain: inputChain{n.chain}, Peer: blobs{n.host, n.store},
		Folder: n.folder("inputs"),
	})
	if err != nil {
		return err
	}
	b.closers = append(b.closers, b.inputs.Close)
	b.tries, err = input.New(input.Config{
		Upstreams: inputUpstreams(cfg), Store: lentStore{n.store}, Lent: lentStore{n.store}, Chain: inputChain{n.chain}, Peer: blobs{n.host, n.store},
		Folder: n.folder("tries"),
	})
	if err != nil {
		return err
	}
	b.closers = append(b.closers, b.tries.Close)
	return nil
}

func inputUpstreams(cfg *config.Config) map[string]string {
	upstreams := map[string]string{}
	for _, m := range cfg.Mirrors {
		if m.Upstream != "" {
			upstreams[m.Kind] = m.Upstream
		}
	}
	return upstreams
}

func (b *builder) makeEngine(cfg *config.Config) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	b.engine, err = buildkit.New(buildkit.Config{Limits: engineLimits(cfg), Relay: []string{self, "relay"}, Scratch: b.node.scratch})
	return err
}

func engineLimits(cfg *config.Config) buildkit.Limits {
	b := cfg.Build
	return buildkit.Limits{
		Addresses: b.Workers, Memory: b.Memory, Disk: b.Disk, Time: b.Timeout, CPUs: 1000 * b.CPUs, Processes: b.Processes, Cache: b.Cache,
	}
}

// builds is the engine as the node uses it.
func (b *builder) builds() build.Engine {
	if wrap := b.node.options.engine; wrap != nil {
		return wrap(b.engine)
	}
	return b.engine
}

func (b *builder) makeQuorum(*config.Config) (err error) {
	n := b.node
	b.limits = quorum.NewLimits(n.isMember, b.shutOut)
	b.quorum = quorum.New(quorum.Config{
		Identity: n.identity, Signers: b.keys.Signers(), Tick: resend, Log: n.log,
		Patience: attest.Patience{Commit: patienceCommit.Milliseconds(), Reveal: patienceReveal.Milliseconds()},
		Working:  func(id record.Identity, attempt record.Hash) bool { return b.member.Working(id, attempt) },
		Heard:    func(part record.Part) { b.member.Heard(part) },
		Note:     b.note, Limits: b.limits,
		Awaits: func(proposer record.Identity) { b.members.Watch(proposer) },
	}, n.chain, b.transport(), b.votes)
	b.members, err = memberlist.New(memberlist.Config{
		Self: n.identity, Set: n.memberIDs, State: n.presence, Reachable: b.quorum.Connected, Log: n.log,
		Refused: func(from record.Identity) { b.limits.Refused(from, quorum.Malformed) },
		Flooded: b.limits.Over,
	}, meetings{n.host, b.limits})
	return err
}

func (b *builder) transport() quorum.Transport {
	if wrap := b.node.options.transport; wrap != nil {
		return wrap(messages{b.node.host})
	}
	return messages{b.node.host}
}

func (b *builder) makeMember(cfg *config.Config) (err error) {
	n, engine := b.node, b.builds()
	member, _ := n.chain.Set().Node(n.identity)
	b.recipes = newRecipeFolder(cfg.Build.Recipes)
	b.member, err = publish.New(publish.Config{
		Identity: n.identity, Vote: b.keys.Signers().Vote, Folder: n.folder("publish"),
		Platforms: member.Platforms, Limits: publishLimits(cfg),
		Recipes: b.recipes.Recipes, Relay: resend, Log: n.log,
		Voting: func() bool { return b.quorum.Standing().Voting },
		Differ: b.differ, Tries: inputs{b.tries, engine},
	}, n.chain, agreement{b.quorum}, pinning{n.store}, b.proofs(engine), blobs{n.host, n.store}, b.votes, engine)
	return err
}

// proofs are the inputs of builds as the member uses them.
func (b *builder) proofs(engine build.Engine) publish.Inputs {
	if wrap := b.node.options.inputs; wrap != nil {
		return wrap(inputs{b.inputs, engine})
	}
	return inputs{b.inputs, engine}
}

func publishLimits(cfg *config.Config) publish.Limits {
	return publish.Limits{Parallel: int(cfg.Build.Parallel), Deadline: cfg.Build.Timeout, Keep: cfg.Build.Keep}
}

func (b *builder) makeTree(*config.Config) error {
	b.tree = supervisor.New(supervisor.Options{Log: b.node.log})
	b.tree.Add("members", b.members)
	b.tree.Add("quorum", supervisor.Func(func(ctx context.Context) error { return supervisor.Fatal(b.quorum.Serve(ctx)) }))
	b.tree.Add("publish", b.member)
	return nil
}

// shutOut is called by the limits.
func (b *builder) shutOut(id record.Identity, until time.Time) {
	counts, _ := b.limits.Of(id)
	b.node.log.Warn("a node is shut out for what it sent", "peer", id, "label", b.node.label(id), "until", until, "refused", counts)
	b.node.host.Refuse(id, until)
}

// note takes a member's note to publish.
func (b *builder) note(from record.Identity, data []byte) {
	var note publish.Note
	if len(data) > 8*publish.MaxNoteText { // a character may take six in JSON
		b.limits.Refused(from, quorum.Oversized)
		return
	}
	if json.Unmarshal(data, &note) != nil || note.From != from {
		b.limits.Refused(from, quorum.Malformed)
		return
	}
	b.member.HeardNote(note)
}
