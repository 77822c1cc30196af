package record

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
)

type voteKey struct{ ed25519.PrivateKey }

func newVoteKey(seed byte) voteKey {
	return voteKey{ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))}
}

func (k voteKey) Public() (key PublicKey) {
	copy(key[:], k.PrivateKey.Public().(ed25519.PublicKey))
	return key
}

func (k voteKey) Sign(message []byte) (s Signature, err error) {
	copy(s[:], ed25519.Sign(k.PrivateKey, message))
	return s, nil
}

var voteGenesis = Digest([]byte("genesis"))

// voters are four members and their vote keys, sorted by identity.
func voters(t testing.TB) (*Set, map[Identity]voteKey) {
	t.Helper()
	keys := map[Identity]voteKey{}
	var nodes []NodeRecord
	for i := byte(1); i <= 4; i++ {
		vote := newVoteKey(i)
		id := NewIdentity(newVoteKey(10 + i).Public())
		keys[id] = vote
		nodes = append(nodes, NodeRecord{
			Identity: id, VoteKey: vote.Public(),
			CosignerKey: newVoteKey(20 + i).Public(), LogKey: newVoteKey(30 + i).Public(),
		})
	}
	sort.Slice(nodes, func(i, j int) bool { return nodes[i].Identity < nodes[j].Identity })
	set, err := NewSet(nodes, OrderMajority)
	if err != nil {
		t.Fatal(err)
	}
	return set, keys
}

// voteExamples are one message of each kind: all valid under voters' set.
func voteExamples(t testing.TB) map[string]Message {
	t.Helper()
	set, keys := voters(t)
	id := BlockID{Root: Digest([]byte("root")), Size: 7}
	vote := func(i int, step Step, round int64, id BlockID) Vote {
		v, err := SignVote(voteGenesis, Vote{
			Height: 2, ID: id, Round: round, Step: step, Voter: set.Nodes[i].Identity,
		}, keys[set.Nodes[i].Identity])
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	prevote, nilVote, precommit := vote(0, StepPrevote, 1, id), vote(0, StepPrecommit, 1, BlockID{}), vote(1, StepPrecommit, 1, id)
	polka := NewQuorum([]Vote{vote(3, StepPrevote, 0, id), vote(1, StepPrevote, 0, id), vote(0, StepPrevote, 0, id), vote(2, StepPrevote, 0, id)}, 3)
	propose := func(round, valid int64, lock []VoteSignature) *Proposal {
		proposer := set.Proposer(2, round)
		p, err := SignProposal(voteGenesis, Proposal{
			Height: 2, ID: id, Lock: lock, Proposer: proposer, Round: round, ValidRound: valid,
		}, keys[proposer])
		if err != nil {
			t.Fatal(err)
		}
		p.Block = []byte("the block's bytes")
		return &p
	}
	cosign := vote(2, StepCosign, 0, id)
	cosignature, err := SignCosignature(Checkpoint{Origin: "example/net", Size: id.Size, Root: id.Root}, cosign.Voter, 1_700_000_000, keys[cosign.Voter])
	if err != nil {
		t.Fatal(err)
	}
	decision := NewQuorum([]Vote{vote(0, StepPrecommit, 1, id), vote(1, StepPrecommit, 1, id), vote(2, StepPrecommit, 1, id)}, 3)
	return map[string]Message{
		"prevote": &prevote, "precommit": &precommit, "precommit-nil": &nilVote,
		"proposal": propose(0, -1, nil), "proposal-again": propose(1, 0, polka.Signatures),
		"cosign":   &Cosign{Cosignature: cosignature, Vote: cosign},
		"decision": &Decision{Block: []byte("the block's bytes"), Quorum: decision}, "decision-short": &Decision{Quorum: decision},
	}
}

// checkVoteMessage is the full check of any message.
func checkVoteMessage(set *Set, m Message) error {
	verify := PublicKey.Verify
	switch m := m.(type) {
	case *Proposal:
		return m.Check(voteGenesis, set, verify)
	case *Vote:
		return m.Check(voteGenesis, set, verify)
	case *Cosign:
		return m.Vote.Check(voteGenesis, set, verify)
	case *Decision:
		return m.Quorum.Check(voteGenesis, set, verify)
	}
	return fmt.Errorf("unknown message %T", m)
}

func TestVoteGolden(t *testing.T) {
	set, _ := voters(t)
	update := flag.Lookup("update")
	for name, message := range voteExamples(t) {
		data, err := EncodeMessage(message)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", "vote", name+".golden")
		if update != nil && update.Value.String() == "true" {
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("%v; write it with go test -update", err)
		}
		if !bytes.Equal(data, want) {
			t.Errorf("%s changed:\n got %q\nwant %q", path, data, want)
		}
		decoded, err := DecodeMessage(want)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := checkVoteMessage(set, decoded); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestVoteSignBytes holds the messages that are written out by hand for speed
// to the general form and to the text of the specification.
func TestVoteSignBytes(t *testing.T) {
	examples := voteExamples(t)
	v, p := examples["precommit"].(*Vote), examples["proposal-again"].(*Proposal)
	for _, test := range []struct {
		kind string
		got  []byte
		of   any
		text string
	}{
		{"vote", v.Message(voteGenesis), struct {
			Height int64    `json:"height"`
			ID     BlockID  `json:"id"`
			Round  int64    `json:"round"`
			Step   Step     `json:"step"`
			Voter  Identity `json:"voter"`
		}{v.Height, v.ID, v.Round, v.Step, v.Voter}, fmt.Sprintf(
			"pyrsia/vote/v1\n%s\n{\"height\":2,\"id\":{\"root\":\"%s\",\"size\":7},\"round\":1,\"step\":\"precommit\",\"voter\":\"%s\"}", voteGenesis, v.ID.Root, v.Voter)},
		{"proposal", p.Message(voteGenesis), struct {
			Height     int64    `json:"height"`
			ID         BlockID  `json:"id"`
			Proposer   Identity `json:"proposer"`
			Round      int64    `json:"round"`
			ValidRound int64    `json:"validRound"`
		}{p.Height, p.ID, p.Proposer, p.Round, p.ValidRound}, fmt.Sprintf(
			"pyrsia/proposal/v1\n%s\n{\"height\":2,\"id\":{\"root\":\"%s\",\"size\":7},\"proposer\":\"%s\",\"round\":1,\"validRound\":0}", voteGenesis, p.ID.Root, p.Proposer)},
	} {
		if want := SignBytes(test.kind, voteGenesis, test.of); !bytes.Equal(test.got, want) || string(want) != test.text {
			t.Errorf("%s signs\n%s\nwant\n%s\n%s", test.kind, test.got, want, test.text)
		}
	}
}

// TestVoteRefuses changes one thing in a valid message.
func TestVoteRefuses(t *testing.T) {
	set, _ := voters(t)
	for _, test := range []struct {
		name, of string
		change   func(Message)
	}{
		{"height 0", "prevote", func(m Message) { m.(*Vote).Height = 0 }},
		{"another height", "prevote", func(m Message) { m.(*Vote).Height++ }},
		{"round -1", "prevote", func(m Message) { m.(*Vote).Round = -1 }},
		{"another round", "prevote", func(m Message) { m.(*Vote).Round++ }},
		{"huge round", "prevote", func(m Message) { m.(*Vote).Round = MaxRound + 1 }},
		{"another step", "prevote", func(m Message) { m.(*Vote).Step = StepPrecommit }},
		{"unknown step", "prevote", func(m Message) { m.(*Vote).Step = "propose" }},
		{"another root", "prevote", func(m Message) { m.(*Vote).ID.Root[0]++ }},
		{"another size", "prevote", func(m Message) { m.(*Vote).ID.Size++ }},
		{"no size", "prevote", func(m Message) { m.(*Vote).ID.Size = 0 }},
		{"a size for nil", "precommit-nil", func(m Message) { m.(*Vote).ID.Size = 1 }},
		{"block instead of nil", "precommit-nil", func(m Message) { m.(*Vote).ID = BlockID{Root: Hash{1}, Size: 1} }},
		{"another voter", "prevote", func(m Message) { m.(*Vote).Voter = set.Nodes[1].Identity }},
		{"a stranger", "prevote", func(m Message) { m.(*Vote).Voter = "stranger" }},
		{"signature", "prevote", func(m Message) { m.(*Vote).Signature[63]++ }},
		{"cosign with a round", "cosign", func(m Message) { m.(*Cosign).Vote.Round = 1 }},
		{"cosign of nil", "cosign", func(m Message) { m.(*Cosign).Vote.ID = BlockID{} }},
		{"not the proposer", "proposal", func(m Message) { m.(*Proposal).Proposer = set.Proposer(2, 1) }},
		{"another proposal round", "proposal", func(m Message) { m.(*Proposal).Round += 4 }},
		{"proof-of-lock without round", "proposal-again", func(m Message) { m.(*Proposal).ValidRound = -1 }},
		{"round without proof-of-lock", "proposal", func(m Message) { m.(*Proposal).ValidRound = 0 }},
		{"proof-of-lock taken away", "proposal-again", func(m Message) { m.(*Proposal).Lock = nil }},
		{"short proof-of-lock", "proposal-again", func(m Message) { m.(*Proposal).Lock = m.(*Proposal).Lock[:2] }},
		{"valid round of now", "proposal-again", func(m Message) { m.(*Proposal).ValidRound = 1 }},
		{"proof-of-lock by one voter", "proposal-again", func(m Message) {
			p := m.(*Proposal)
			p.Lock = []VoteSignature{p.Lock[0], p.Lock[0], p.Lock[0]}
		}},
		{"proof-of-lock out of order", "proposal-again", func(m Message) {
			p := m.(*Proposal)
			p.Lock = []VoteSignature{p.Lock[1], p.Lock[0], p.Lock[2]}
		}},
		{"proof-of-lock forged", "proposal-again", func(m Message) {
			p := m.(*Proposal)
			p.Lock = append([]VoteSignature(nil), p.Lock...)
			p.Lock[2].Signature[0]++
		}},
		{"decision of another round", "decision", func(m Message) { m.(*Decision).Quorum.Round = 0 }},
		{"decision by prevotes", "decision", func(m Message) { m.(*Decision).Quorum.Step = StepPrevote }},
		{"decision by cosigns", "decision", func(m Message) { m.(*Decision).Quorum.Step = StepCosign }},
		{"decision for nil", "decision", func(m Message) { m.(*Decision).Quorum.ID = BlockID{} }},
		{"decision by too few", "decision", func(m Message) { m.(*Decision).Quorum.Signatures = m.(*Decision).Quorum.Signatures[:2] }},
	} {
		message := voteExamples(t)[test.of]
		test.change(message)
		if err := checkVoteMessage(set, message); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestVoteOtherNetwork(t *testing.T) {
	set, _ := voters(t)
	v := voteExamples(t)["prevote"].(*Vote)
	if err := v.Check(Digest([]byte("another genesis")), set, PublicKey.Verify); err == nil {
		t.Error("a vote of another network counts")
	}
}

func TestCheckEquivocation(t *testing.T) {
	set, keys := voters(t)
	examples := voteExamples(t)
	first := examples["prevote"].(*Vote)
	sign := func(change func(*Vote)) *Vote {
		v := *first
		change(&v)
		v, err := SignVote(voteGenesis, v, keys[v.Voter])
		if err != nil {
			t.Fatal(err)
		}
		return &v
	}
	other := sign(func(v *Vote) { v.ID.Root[0]++ })
	proposal := examples["proposal"].(*Proposal)
	proposal2 := *proposal
	proposal2.ID.Size++
	proposal2, _ = SignProposal(voteGenesis, proposal2, keys[proposal2.Proposer])
	proposal2.Block = nil
	forged := *other
	forged.Signature[0]++
	for _, test := range []struct {
		name string
		a, b Message
		ok   bool
	}{
		{"two blocks", first, other, true},
		{"a block and nil", first, sign(func(v *Vote) { v.ID = BlockID{} }), true},
		{"two proposals", proposal, &proposal2, true},
		{"the same vote", first, first, false},
		{"another round", first, sign(func(v *Vote) { v.Round++; v.ID = BlockID{} }), false},
		{"another step", first, sign(func(v *Vote) { v.Step = StepPrecommit; v.ID = BlockID{} }), false},
		{"another height", first, sign(func(v *Vote) { v.Height++; v.ID = BlockID{} }), false},
		{"another voter", first, sign(func(v *Vote) { v.Voter = set.Nodes[1].Identity; v.ID = BlockID{} }), false},
		{"a forged one", first, &forged, false},
		{"a forged first", &forged, first, false},
		{"a vote and a proposal", first, proposal, false},
		{"the same proposal", proposal, proposal, false},
		{"a cosign", examples["cosign"], examples["cosign"], false},
	} {
		who, err := CheckEquivocation(voteGenesis, set, test.a, test.b, PublicKey.Verify)
		if (err == nil) != test.ok {
			t.Errorf("%s: %s, %v", test.name, who, err)
		}
		if test.ok && who != first.Voter && who != proposal.Proposer {
			t.Errorf("%s: accuses %s", test.name, who)
		}
	}
}

// TestDecodeMessageRefuses lists bytes that are no message though they are
// close to one.
func TestDecodeMessageRefuses(t *testing.T) {
	encode := func(name string) []byte {
		data, err := EncodeMessage(voteExamples(t)[name])
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	change := func(name string, at int, to byte) []byte {
		data := encode(name)
		data[at] = to
		return data
	}
	for name, data := range map[string][]byte{
		"nothing": nil, "kind only": {'v'}, "unknown kind": change("prevote", 0, 'x'), "another kind": change("prevote", 0, 'c'),
		"vote with a block":   append(encode("prevote"), 'x'),
		"cosign with a block": append(encode("cosign"), 'x'),
		"cut":                 encode("prevote")[:100],
		"huge head":           change("prevote", 1, 0xff),
		"longer head":         change("prevote", 4, encode("prevote")[4]+1),
		"space":               bytes.Replace(change("prevote", 4, encode("prevote")[4]+1), []byte(`{"height"`), []byte(`{ "height"`), 1),
		"unknown member":      change("prevote", 7, 'H'),
		"too large":           make([]byte, MaxMessage+1),
		"block too large":     append(encode("decision-short"), make([]byte, MaxBlock+1)...),
	} {
		if m, err := DecodeMessage(data); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %T, %v", name, m, err)
		}
	}
	large := &Decision{Block: make([]byte, MaxBlock+1), Quorum: voteExamples(t)["decision"].(*Decision).Quorum}
	if _, err := EncodeMessage(large); !errors.Is(err, ErrMalformed) {
		t.Errorf("a block above the limit: %v", err)
	}
	large.Block = large.Block[1:]
	data, err := EncodeMessage(large)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeMessage(data); err != nil {
		t.Errorf("a block at the limit: %v", err)
	}
}

// naiveMessage is a second decoder, by the specification and no code of ours:
// the head is the JSON text that it must be for the values in it.
func naiveMessage(data []byte) bool {
	if len(data) < 5 || len(data) > MaxMessage {
		return false
	}
	n := int(data[1])<<24 | int(data[2])<<16 | int(data[3])<<8 | int(data[4])
	if n > len(data)-5 || n > 65535 {
		return false
	}
	head, rest := data[5:5+n], data[5+n:]
	var v struct {
		Height, Round, ValidRound *int64
		ID                        *struct {
			Root *string
			Size *int64
		}
		Lock      *[]naiveSignature
		Proposer  *string
		Signature *string
		Step      *string
		Voter     *string
		Quorum    *naiveQuorum
		// a cosign
		Cosignature *struct {
			Identity, Signature *string
			Time                *int64
		}
		Vote *json.RawMessage
	}
	if json.Unmarshal(head, &v) != nil {
		return false
	}
	switch data[0] {
	case 'v':
		return len(rest) == 0 && naiveVote(head)
	case 'p':
		if v.Height == nil || v.ID == nil || v.ID.Root == nil || v.ID.Size == nil || v.Lock == nil || v.Proposer == nil || v.Round == nil || v.Signature == nil || v.ValidRound == nil {
			return false
		}
		text := fmt.Sprintf(`{"height":%d,"id":%s,"lock":%s,"proposer":%s,"round":%d,"signature":"%s","validRound":%d}`,
			*v.Height, naiveID(*v.ID.Root, *v.ID.Size), naiveSignatures(*v.Lock), naiveText(*v.Proposer), *v.Round, *v.Signature, *v.ValidRound)
		return string(head) == text && naiveHash(*v.ID.Root) && naiveBase64(*v.Signature) && naiveSigned(*v.Lock) && naiveInteger(*v.Height, *v.ID.Size, *v.Round, *v.ValidRound) && len(rest) <= MaxBlock
	case 'c':
		if v.Cosignature == nil || v.Vote == nil || v.Cosignature.Identity == nil || v.Cosignature.Signature == nil || v.Cosignature.Time == nil {
			return false
		}
		text := fmt.Sprintf(`{"cosignature":{"identity":%s,"signature":"%s","time":%d},"vote":%s}`,
			naiveText(*v.Cosignature.Identity), *v.Cosignature.Signature, *v.Cosignature.Time, *v.Vote)
		return string(head) == text && naiveBase64(*v.Cosignature.Signature) && naiveInteger(*v.Cosignature.Time) && naiveVote(*v.Vote) && len(rest) == 0
	case 'd':
		q := v.Quorum
		if q == nil || q.Height == nil || q.ID == nil || q.ID.Root == nil || q.ID.Size == nil || q.Round == nil || q.Signatures == nil || q.Step == nil {
			return false
		}
		text := fmt.Sprintf(`{"quorum":{"height":%d,"id":%s,"round":%d,"signatures":%s,"step":%s}}`,
			*q.Height, naiveID(*q.ID.Root, *q.ID.Size), *q.Round, naiveSignatures(*q.Signatures), naiveText(*q.Step))
		return string(head) == text && naiveHash(*q.ID.Root) && naiveSigned(*q.Signatures) && naiveInteger(*q.Height, *q.ID.Size, *q.Round) && len(rest) <= MaxBlock
	}
	return false
}

type naiveQuorum struct {
	Height, Round *int64
	ID            *struct {
		Root *string
		Size *int64
	}
	Signatures *[]naiveSignature
	Step       *string
}

type naiveSignature struct{ Signature, Voter string }

func naiveVote(head []byte) bool {
	var v struct {
		Height, Round *int64
		ID            *struct {
			Root *string
			Size *int64
		}
		Signature, Step, Voter *string
	}
	if json.Unmarshal(head, &v) != nil || v.Height == nil || v.Round == nil || v.ID == nil || v.ID.Root == nil || v.ID.Size == nil || v.Signature == nil || v.Step == nil || v.Voter == nil {
		return false
	}
	text := fmt.Sprintf(`{"height":%d,"id":%s,"round":%d,"signature":"%s","step":%s,"voter":%s}`,
		*v.Height, naiveID(*v.ID.Root, *v.ID.Size), *v.Round, *v.Signature, naiveText(*v.Step), naiveText(*v.Voter))
	return string(head) == text && naiveHash(*v.ID.Root) && naiveBase64(*v.Signature) && naiveInteger(*v.Height, *v.ID.Size, *v.Round)
}

func naiveID(root string, size int64) string {
	return fmt.Sprintf(`{"root":"%s","size":%d}`, root, size)
}

func naiveText(s string) string {
	b := strings.Builder{}
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case strings.ContainsRune("\"\\", r):
			b.WriteString(`\` + string(r))
		case strings.ContainsRune("\b\f\n\r\t", r):
			b.WriteString(map[rune]string{'\b': `\b`, '\f': `\f`, '\n': `\n`, '\r': `\r`, '\t': `\t`}[r])
		case r < ' ':
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String() + `"`
}

func naiveSignatures(list []naiveSignature) string {
	var parts []string
	for _, s := range list {
		parts = append(parts, fmt.Sprintf(`{"signature":"%s","voter":%s}`, s.Signature, naiveText(s.Voter)))
	}
	return "[" + strings.Join(parts, ",") + "]"
}

func naiveSigned(list []naiveSignature) bool {
	for _, s := range list {
		if !naiveBase64(s.Signature) {
			return false
		}
	}
	return true
}

func naiveHash(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

func naiveBase64(s string) bool {
	data, err := base64.StdEncoding.Strict().DecodeString(s)
	return err == nil && len(data) == 64 && len(s) == 88
}

func naiveInteger(list ...int64) bool {
	for _, n := range list {
		if n > 1<<53-1 || n < -(1<<53-1) {
			return false
		}
	}
	return true
}

func FuzzDecodeMessage(f *testing.F) {
	for _, message := range voteExamples(f) {
		data, err := EncodeMessage(message)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	set, _ := voters(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := DecodeMessage(data)
		if (err == nil) != naiveMessage(data) {
			t.Fatalf("two decoders disagree: %v\n%q", err, data)
		}
		if err != nil {
			return
		}
		again, err := EncodeMessage(m)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("decoded and encoded again: %v\n%q\n%q", err, data, again)
		}
		m.Slot()
		_ = checkVoteMessage(set, m)
	})
}
