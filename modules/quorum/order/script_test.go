package order_test

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/quorum/order"
	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

var update = flag.Bool("update", false, "write the answers in testdata anew; read them before you believe them")

// TestScripts plays testdata/*.txt. A script talks to the machine of member a.
// A line with ">" is an event, the lines below are the actions it must cause,
// in order. Blocks are single letters. A vote file stands behind the machine:
// what is written is there after "crash".
//
//	new n=4 [order=two-thirds] [self=b]     the network, a fresh machine and file
//	start H [fenced]                        begin a height
//	pending yes|no, tick, crash, status
//	timeout propose|prevote|precommit R
//	built X|none                            answers "request block"
//	cosigned X                              answers "decide"
//	unreachable b, reachable b
//	invalid X, valid X                      what Validate says from now on
//	proposal b R X [valid=R lock=a,b,c]     proposal of member b for round R
//	prevote|precommit b R X|nil             vote of member b
//	cosign b X                              cosignature of member b
//	decision R X a,b,c [short]              Q precommits, with or without the block
//
// Messages take height=H (else the one started), via=c (a relay), and
// bad=signature|bytes|lock|cosignature.
func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(data))
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			compare(t, path, string(data), got)
		})
	}
}

func compare(t *testing.T, path, want, got string) {
	t.Helper()
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := 0; i < len(a) || i < len(b); i++ {
		if i < len(a) && i < len(b) && a[i] == b[i] {
			continue
		}
		t.Fatalf("%s:%d:\n got %s\nwant %s\nthe whole play:\n%s", path, i+1, line(b, i), line(a, i), got)
	}
}

func line(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(end)"
}

// play runs the events of a script and returns it with the actions they cause.
func play(t *testing.T, script string) string {
	s := &stage{t: t}
	var out strings.Builder
	blank := true
	for _, text := range strings.Split(strings.TrimRight(script, "\n"), "\n") {
		switch {
		case strings.HasPrefix(text, ">"):
			if !blank {
				out.WriteByte('\n')
			}
			out.WriteString(text + "\n")
			for _, action := range s.event(strings.Fields(text[1:])) {
				out.WriteString(action + "\n")
			}
			blank = false
		case strings.HasPrefix(text, "#"):
			if !blank {
				out.WriteByte('\n')
			}
			out.WriteString(text + "\n")
			blank = true
		}
	}
	return out.String()
}

var (
	genesis  = record.Digest([]byte("scripts"))
	timeouts = record.Timeouts{Heartbeat: 600_000, Propose: 3000, Step: 500, Vote: 1000}
)

// stage is the surroundings of one machine.
type stage struct {
	t       *testing.T
	set     *record.Set
	self    record.Identity
	machine *order.Machine
	file    *votes.Memory
	height  int64
	request order.RequestBlock
	invalid map[string]bool
}

type scriptKey record.PublicKey

func (k scriptKey) Public() record.PublicKey { return record.PublicKey(k) }

func (k scriptKey) Sign(message []byte) (s record.Signature, err error) {
	sum := sha256.Sum256(append(append([]byte(nil), k[:]...), message...))
	copy(s[:], sum[:])
	return s, nil
}

func verify(key record.PublicKey, message []byte, s record.Signature) bool {
	want, _ := scriptKey(key).Sign(message)
	return want == s
}

func newSet(t testing.TB, n int, rule string) *record.Set {
	t.Helper()
	var nodes []record.NodeRecord
	for i := range n {
		nodes = append(nodes, record.NodeRecord{
			Identity: record.Identity(string(rune('a' + i))),
			VoteKey:  record.PublicKey{1, byte(i)}, CosignerKey: record.PublicKey{2, byte(i)}, LogKey: record.PublicKey{3, byte(i)},
		})
	}
	set, err := record.NewSet(nodes, rule)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func blockID(height int64, block []byte) record.BlockID {
	return record.BlockID{Size: height * 10, Root: record.Digest(fmt.Appendf(nil, "%d %s", height, block))}
}

func (s *stage) id(height int64, name string) record.BlockID {
	if name == "nil" {
		return record.BlockID{}
	}
	return blockID(height, []byte(name))
}

// name is the block's letter.
func (s *stage) name(height int64, id record.BlockID) string {
	if id.IsNil() {
		return "nil"
	}
	for c := 'A'; c <= 'Z'; c++ {
		if blockID(height, []byte(string(c))) == id {
			return string(c)
		}
	}
	return "unknown"
}

func (s *stage) key(member string) scriptKey {
	node, ok := s.set.Node(record.Identity(member))
	if !ok {
		return scriptKey{9}
	}
	return scriptKey(node.VoteKey)
}

func (s *stage) config() order.Config {
	return order.Config{
		Self: s.self, Genesis: genesis, Timeouts: timeouts, Signer: s.key(string(s.self)), Verify: verify,
		CheckCosignature: func(_ *record.Set, id record.BlockID, c record.Cosignature) error {
			if c != cosignature(string(c.Identity), id) {
				return errors.New("cosignature does not verify")
			}
			return nil
		},
		Identify: func(height int64, block []byte) (record.BlockID, error) { return blockID(height, block), nil },
		Validate: func(_ int64, block []byte) error {
			if s.invalid[string(block)] {
				return errors.New("not valid now")
			}
			return nil
		},
	}
}

func cosignature(member string, id record.BlockID) record.Cosignature {
	return record.Cosignature{Identity: record.Identity(member), Time: 1, Signature: record.Signature{id.Root[0], member[0]}}
}

func (s *stage) event(words []string) []string {
	name, words := words[0], words[1:]
	var plain []string
	options := map[string]string{}
	for _, word := range words {
		if key, value, ok := strings.Cut(word, "="); ok {
			options[key] = value
		} else {
			plain = append(plain, word)
		}
	}
	arg := func(i int) string {
		if i >= len(plain) {
			s.t.Fatalf("%s %v: too few words", name, words)
		}
		return plain[i]
	}
	number := func(text string) int64 {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			s.t.Fatalf("%s %v: %v", name, words, err)
		}
		return n
	}
	height := s.height
	if text, ok := options["height"]; ok {
		height = number(text)
	}
	from := record.Identity(options["via"])
	switch name {
	case "new":
		rule := record.OrderMajority
		if options["order"] != "" {
			rule = options["order"]
		}
		s.set = newSet(s.t, int(number(options["n"])), rule)
		s.self = "a"
		if options["self"] != "" {
			s.self = record.Identity(options["self"])
		}
		s.file, s.invalid = new(votes.Memory), map[string]bool{}
		s.machine = order.New(s.config())
		return nil
	case "start":
		s.height = number(arg(0))
		return s.start(len(plain) > 1)
	case "crash":
		s.machine = order.New(s.config())
		return s.start(false)
	case "pending":
		return s.step(order.Pending{Pending: arg(0) == "yes"})
	case "tick":
		return s.step(order.Tick{})
	case "resend":
		return s.step(order.Resend{To: record.Identity(arg(0))})
	case "timeout":
		return s.step(order.Timeout{Kind: order.TimeoutKind(arg(0)), Height: height, Round: number(arg(1))})
	case "built":
		built := order.BlockBuilt{Height: s.request.Height, Round: s.request.Round}
		if arg(0) != "none" {
			built.Block = []byte(arg(0))
		}
		return s.step(built)
	case "cosigned":
		id := s.id(height, arg(0))
		return s.step(order.Cosigned{Height: height, ID: id, Cosignature: cosignature(string(s.self), id)})
	case "unreachable", "reachable":
		return s.step(order.Reachable{Member: record.Identity(arg(0)), Reachable: name == "reachable"})
	case "invalid", "valid":
		s.invalid[arg(0)] = name == "invalid"
		return nil
	case "status":
		st := s.machine.Status()
		text := fmt.Sprintf("height %d round %d %s, proposer %s", st.Height, st.Round, st.Step, st.Proposer)
		if st.LockRound >= 0 {
			text += fmt.Sprintf(", locked %s in round %d", s.name(st.Height, st.Lock), st.LockRound)
		}
		if !st.Voter {
			text += ", not voting"
		}
		return []string{text}
	case "proposal":
		p := record.Proposal{Height: height, ID: s.id(height, arg(2)), Proposer: record.Identity(arg(0)), Round: number(arg(1)), ValidRound: -1}
		if text, ok := options["valid"]; ok {
			p.ValidRound = number(text)
			p.Lock = s.quorum(height, p.ValidRound, record.StepPrevote, p.ID, options["lock"], options["bad"] == "lock").Signatures
		}
		p, _ = record.SignProposal(genesis, p, s.key(arg(0)))
		p.Block = []byte(arg(2))
		switch options["bad"] {
		case "signature":
			p.Signature[0]++
		case "bytes":
			p.Block = []byte("other bytes")
		}
		return s.receive(from, arg(0), &p)
	case "prevote", "precommit":
		v := s.vote(height, number(arg(1)), record.Step(name), s.id(height, arg(2)), arg(0))
		if options["bad"] == "signature" {
			v.Signature[0]++
		}
		return s.receive(from, arg(0), &v)
	case "cosign":
		id := s.id(height, arg(1))
		c := record.Cosign{Vote: s.vote(height, 0, record.StepCosign, id, arg(0)), Cosignature: cosignature(arg(0), id)}
		switch options["bad"] {
		case "signature":
			c.Vote.Signature[0]++
		case "cosignature":
			c.Cosignature.Time++
		}
		return s.receive(from, arg(0), &c)
	case "decision":
		d := record.Decision{
			Block:  []byte(arg(1)),
			Quorum: s.quorum(height, number(arg(0)), record.StepPrecommit, s.id(height, arg(1)), arg(2), options["bad"] == "signature"),
		}
		if len(plain) > 3 {
			d.Block = nil
		}
		if options["bad"] == "bytes" {
			d.Block = []byte("other bytes")
		}
		return s.receive(from, arg(2)[:1], &d)
	}
	s.t.Fatalf("unknown event %q", name)
	return nil
}

func (s *stage) vote(height, round int64, step record.Step, id record.BlockID, voter string) record.Vote {
	v, _ := record.SignVote(genesis, record.Vote{Height: height, ID: id, Round: round, Step: step, Voter: record.Identity(voter)}, s.key(voter))
	return v
}

func (s *stage) quorum(height, round int64, step record.Step, id record.BlockID, voters string, forged bool) record.Quorum {
	var list []record.Vote
	for _, voter := range strings.Split(voters, ",") {
		list = append(list, s.vote(height, round, step, id, voter))
	}
	if forged {
		list[0].Signature[0]++
	}
	return record.NewQuorum(list, len(list))
}

func (s *stage) receive(via record.Identity, from string, message record.Message) []string {
	if via == "" {
		via = record.Identity(from)
	}
	return s.step(order.Receive{From: via, Message: message})
}

func (s *stage) start(fenced bool) []string {
	records, err := s.file.Load(s.height)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.step(order.Start{Height: s.height, Set: s.set, Records: records, Fenced: fenced})
}

// step performs the one action that matters to the machine itself, and prints
// all.
func (s *stage) step(e order.Event) (lines []string) {
	for i, action := range s.machine.Step(e) {
		if w, ok := action.(order.Write); ok {
			if i != 0 {
				s.t.Fatalf("%#v is not the first action", w)
			}
			if err := s.file.Put(w.Records...); err != nil {
				s.t.Fatalf("%#v: %v", e, err)
			}
		}
		if r, ok := action.(order.RequestBlock); ok {
			s.request = r
		}
		lines = append(lines, "  "+s.print(action))
	}
	return lines
}

func (s *stage) print(action order.Action) string {
	switch a := action.(type) {
	case order.Write:
		var slots []string
		for _, r := range a.Records {
			text := fmt.Sprintf("%s %d", r.Slot.Kind, r.Slot.Round)
			switch r.Slot.Kind {
			case votes.Block:
				text = fmt.Sprintf("block %s", r.Data)
			case votes.Decision, votes.Cosign:
				text = r.Slot.Kind.String()
			}
			slots = append(slots, text)
		}
		return "write " + strings.Join(slots, ", ")
	case order.Broadcast:
		return "broadcast " + s.message(a.Message)
	case order.Send:
		return fmt.Sprintf("send %s: %s", a.To, s.message(a.Message))
	case order.ScheduleTimeout:
		return fmt.Sprintf("timer %s %d after %s", a.Kind, a.Round, a.After)
	case order.RequestBlock:
		return fmt.Sprintf("request block for round %d", a.Round)
	case order.Decide:
		return fmt.Sprintf("decide %s", s.name(a.Height, a.ID))
	case order.Certified:
		var by []string
		for _, c := range a.Cosignatures {
			by = append(by, string(c.Identity))
		}
		return fmt.Sprintf("certified %s by %s", a.Block, strings.Join(by, ","))
	case order.Evidence:
		who, err := record.CheckEquivocation(genesis, s.set, a.First, a.Second, verify)
		if err != nil {
			s.t.Fatalf("evidence that proves nothing: %v", err)
		}
		return fmt.Sprintf("evidence against %s: %s and %s", who, s.message(a.First), s.message(a.Second))
	case order.Conflict:
		return fmt.Sprintf("conflict: decided %s, certified %s", s.name(a.Decided.Height, a.Decided.ID), s.name(a.Certified[0].Vote.Height, a.Certified[0].Vote.ID))
	case order.PeerBehind:
		return fmt.Sprintf("%s is behind at height %d", a.Peer, a.Height)
	case order.PeerAhead:
		return fmt.Sprintf("%s is ahead at height %d", a.Peer, a.Height)
	case order.Dropped:
		return fmt.Sprintf("dropped from %s: %v", a.From, a.Why)
	case order.Repeated:
		return fmt.Sprintf("%s said so before", a.From)
	case order.Fault:
		return fmt.Sprintf("fault: %v", a.Err)
	}
	s.t.Fatalf("unknown action %T", action)
	return ""
}

func (s *stage) message(m record.Message) string {
	switch m := m.(type) {
	case *record.Proposal:
		text := fmt.Sprintf("proposal %s %d %s", m.Proposer, m.Round, s.name(m.Height, m.ID))
		if m.ValidRound >= 0 {
			text += fmt.Sprintf(" valid=%d lock=%s", m.ValidRound, signers(m.Lock))
		}
		return text
	case *record.Vote:
		return fmt.Sprintf("%s %s %d %s", m.Step, m.Voter, m.Round, s.name(m.Height, m.ID))
	case *record.Cosign:
		return fmt.Sprintf("cosign %s %s", m.Vote.Voter, s.name(m.Vote.Height, m.Vote.ID))
	case *record.Decision:
		text := fmt.Sprintf("decision %d %s %s", m.Quorum.Round, s.name(m.Quorum.Height, m.Quorum.ID), signers(m.Quorum.Signatures))
		if m.Block == nil {
			text += " short"
		}
		return text
	}
	return fmt.Sprintf("%T", m)
}

func signers(list []record.VoteSignature) string {
	var names []string
	for _, s := range list {
		names = append(names, string(s.Voter))
	}
	sort.Strings(names)
	return strings.Join(names, ",")
}
