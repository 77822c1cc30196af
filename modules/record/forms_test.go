package record_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/record"
)

func TestDecodeLeafRefuses(t *testing.T) {
	s := tell(t)
	header := string(s.leaf(4, 2))
	for name, data := range map[string]string{
		"empty":          "",
		"other version":  strings.Replace(header, `"version":1`, `"version":2`, 1),
		"no version":     strings.Replace(header, `,"version":1`, ``, 1),
		"other type":     strings.Replace(header, `"type":"block"`, `"type":"attest"`, 1),
		"upper case":     strings.Replace(header, `"type":"block"`, `"type":"Block"`, 1),
		"unknown member": strings.Replace(header, `{"height"`, `{"extra":0,"height"`, 1),
		"around":         header + "\n",
		"null":           strings.Replace(header, `"state":""`, `"state":null`, 1),
		"body a list":    `{"body":[],"type":"block","version":1}`,
		"too long":       `{"body":{"a":"` + strings.Repeat("x", record.MaxLeaf) + `"},"type":"block","version":1}`,
	} {
		if leaf, err := record.DecodeLeaf([]byte(data)); !errors.Is(err, record.ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, leaf, err)
		}
	}
	// The reserved types are invalid until an upgrade defines them.
	for _, reserved := range []string{"node-add", "node-remove", "upgrade", "revoke"} {
		data := fmt.Sprintf(`{"body":{},"type":"%s","version":1}`, reserved)
		if _, err := record.DecodeLeaf([]byte(data)); !errors.Is(err, record.ErrMalformed) {
			t.Errorf("%s: %v", reserved, err)
		}
	}
}

func TestLeafLimit(t *testing.T) {
	leaf := func(n int) *record.RecipeLeaf {
		return &record.RecipeLeaf{Change: record.RecipeChange{Recipe: record.Raw(`{"a":"` + strings.Repeat("x", n) + `"}`)}}
	}
	empty := len(encode(t, leaf(0)))
	data := encode(t, leaf(record.MaxLeaf-empty))
	if len(data) != record.MaxLeaf {
		t.Fatalf("%d bytes", len(data))
	}
	if _, err := record.DecodeLeaf(data); err != nil {
		t.Error(err)
	}
	if _, err := record.EncodeLeaf(leaf(record.MaxLeaf - empty + 1)); !errors.Is(err, record.ErrMalformed) {
		t.Error(err)
	}
	block := &record.Block{Leaves: [][]byte{data}}
	if again, err := record.DecodeBlock(block.Encode()); err != nil || !bytes.Equal(again.Leaves[0], data) {
		t.Errorf("the largest leaf does not survive a block: %v", err)
	}
}

func TestDecodeBlockRefuses(t *testing.T) {
	s := tell(t)
	good := s.blocks[3].Block().Encode()
	for cut := range len(good) {
		if _, err := record.DecodeBlock(good[:cut]); !errors.Is(err, record.ErrMalformed) {
			t.Fatalf("cut to %d of %d bytes: %v", cut, len(good), err)
		}
	}
	count := func(n uint32) []byte {
		data := slices.Clone(good)
		binary.BigEndian.PutUint32(data[64:], n)
		return data
	}
	for name, data := range map[string][]byte{
		"a byte more": append(slices.Clone(good), 0), "no leaves": count(0), "a leaf more": count(4), "a leaf less": count(2),
		"4 G leaves": count(1<<32 - 1), "too large": make([]byte, record.MaxBlock+1),
	} {
		if _, err := record.DecodeBlock(data); !errors.Is(err, record.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerifyBlockRefuses(t *testing.T) {
	s := tell(t)
	n := s.network
	good := s.blocks[1].Encode()
	verify := func(set *record.Set, before record.Frontier, data []byte) error {
		_, err := record.VerifyBlock(n.Network, set, before, data)
		return err
	}
	if err := verify(n.Set, s.before[1], good); err != nil {
		t.Fatal(err)
	}
	for cut := range len(good) {
		if err := verify(n.Set, s.before[1], good[:cut]); !errors.Is(err, record.ErrMalformed) {
			t.Fatalf("cut to %d of %d bytes: %v", cut, len(good), err)
		}
	}
	altered := 0
	for at := range good {
		data := slices.Clone(good)
		data[at] ^= 1
		if verify(n.Set, s.before[1], data) == nil {
			altered++
		}
	}
	if altered > 0 {
		t.Errorf("%d of %d single-bit changes are taken", altered, len(good))
	}
	swapped := &record.Block{LogSignature: s.blocks[0].Block().LogSignature, Leaves: s.blocks[1].Block().Leaves}
	note := s.blocks[1].Note()
	for name, test := range map[string]struct {
		before record.Frontier
		set    *record.Set
		data   []byte
		want   string
	}{
		"an earlier log":      {s.before[0], n.Set, good, "follows another log"},
		"a later log":         {s.before[2], n.Set, good, "follows another log"},
		"another set":         {s.before[1], chaintest.New(t, 3).Set, good, "names another set"},
		"another block":       {s.before[1], n.Set, append(append(binary.BigEndian.AppendUint32(nil, uint32(len(s.blocks[0].Note()))), s.blocks[0].Note()...), s.blocks[1].Block().Encode()...), "of another block"},
		"another's signature": {s.before[1], n.Set, append(append(binary.BigEndian.AppendUint32(nil, uint32(len(note))), note...), swapped.Encode()...), "not its proposer's"},
		"a huge note":         {s.before[1], n.Set, append([]byte{255, 255, 255, 255}, good[4:]...), "cut short"},
	} {
		if err := verify(test.set, test.before, test.data); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestOpenCheckpointRefuses(t *testing.T) {
	s := tell(t)
	n := s.network
	note := string(s.blocks[3].Note())
	lines := strings.SplitAfter(note, "\n") // origin, size, root, "", log, three cosignatures
	join := func(order ...int) string {
		out := ""
		for _, i := range order {
			out += lines[i]
		}
		return out
	}
	signed := s.blocks[3].Checkpoint()
	var all []record.Cosignature
	for i := range n.Nodes {
		c, err := record.SignCosignature(signed.Checkpoint, n.Nodes[i].ID, 5, n.Nodes[i].Signers.Cosigner)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	encodeWith := func(change func(*record.SignedCheckpoint)) string {
		changed := *signed
		changed.Cosignatures = slices.Clone(signed.Cosignatures)
		change(&changed)
		data, err := changed.Encode(n.Name, n.Set)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for name, data := range map[string]string{
		"empty":                 "",
		"no signatures":         join(0, 1, 2, 3),
		"no log signature":      join(0, 1, 2, 3, 5, 6, 7),
		"two log signatures":    join(0, 1, 2, 3, 4, 4, 5, 6, 7),
		"two of three":          join(0, 1, 2, 3, 4, 5, 6),
		"one twice":             join(0, 1, 2, 3, 4, 5, 5, 6),
		"not sorted":            join(0, 1, 2, 3, 4, 6, 5, 7),
		"log signature last":    join(0, 1, 2, 3, 5, 6, 7, 4),
		"more than Q":           encodeWith(func(s *record.SignedCheckpoint) { s.Cosignatures = all }),
		"a line around":         note + "\n",
		"no last line break":    strings.TrimSuffix(note, "\n"),
		"a hyphen for a dash":   strings.Replace(note, "— ", "- ", 1),
		"two spaces":            strings.Replace(note, "— ", "—  ", 1),
		"an extension line":     strings.Replace(note, "\n\n", "\nextra\n\n", 1),
		"another time":          encodeWith(func(s *record.SignedCheckpoint) { s.Cosignatures[0].Time++ }),
		"a negative time":       encodeWith(func(s *record.SignedCheckpoint) { s.Cosignatures[0].Time = -1 }),
		"another's cosignature": encodeWith(func(s *record.SignedCheckpoint) { s.Cosignatures[0].Signature = s.Cosignatures[1].Signature }),
		"another proposer":      encodeWith(func(s *record.SignedCheckpoint) { s.Proposer = n.Nodes[1].ID }),
		"too long":              note + strings.Repeat("x", record.MaxNote),
	} {
		if _, err := record.OpenCheckpoint([]byte(data), n.Name, n.Network.Genesis, n.Set); !errors.Is(err, record.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := record.OpenCheckpoint([]byte(note), "other.example", n.Network.Genesis, n.Set); err == nil {
		t.Error("the checkpoint opens for a network of another name")
	}
	if _, err := record.OpenCheckpoint([]byte(note), n.Name, record.Hash{}, n.Set); err == nil {
		t.Error("the checkpoint opens for another genesis")
	}
}

func TestFreshAt(t *testing.T) {
	for _, test := range []struct {
		times []int64
		want  int64
	}{{nil, 0}, {[]int64{7}, 7}, {[]int64{9, 7}, 7}, {[]int64{9, 1, 7}, 7}, {[]int64{9, 1, 7, 8}, 7}, {[]int64{1 << 50, 5, 4}, 5}} {
		s := new(record.SignedCheckpoint)
		for _, seconds := range test.times {
			s.Cosignatures = append(s.Cosignatures, record.Cosignature{Time: seconds})
		}
		if got := s.FreshAt(); got != test.want {
			t.Errorf("%v: %d, want %d", test.times, got, test.want)
		}
	}
}

// named are n subjects whose names have about the given length.
func named(n, length int) []record.Subject {
	var subjects []record.Subject
	for i := range n {
		name := fmt.Sprintf("%04d", i) + strings.Repeat("x", length)
		subjects = append(subjects, chaintest.File(jar, name, []byte(name)))
	}
	return subjects
}

func TestStatementInline(t *testing.T) {
	for _, test := range []struct {
		subjects []record.Subject
		inline   bool
	}{
		{named(1, 0), true}, {named(64, 0), true}, {named(65, 0), false},
		{named(60, 20), true}, {named(40, 1000), false}, {named(25, 1000), true},
	} {
		statement, list, err := record.NewStatement(record.Hash{1}, record.Hash{2}, test.subjects)
		if err != nil {
			t.Fatal(err)
		}
		if (list == nil) != test.inline || statement.HasFileList() == test.inline {
			t.Errorf("%d subjects of %d bytes: inline is %v", len(test.subjects), len(record.MustMarshal(test.subjects)), list == nil)
		}
		if _, err := record.DecodeStatement(record.MustMarshal(statement)); err != nil {
			t.Error(err)
		}
		if !test.inline {
			if err := record.CheckFileList(statement, list); err != nil {
				t.Error(err)
			}
			long := *statement
			long.Subject = list
			if _, err := record.DecodeStatement(record.MustMarshal(long)); err == nil {
				t.Errorf("%d subjects stand inline", len(list))
			}
		}
	}
}

// TestPublishLeafFits makes the largest statement that stands inline and signs
// it with as many members as a genesis leaf can hold votes for.
func TestPublishLeafFits(t *testing.T) {
	subjects := named(64, 0)
	for len(record.MustMarshal(subjects)) <= record.MaxInlineBytes-64 {
		for i := range subjects {
			subjects[i].Name += "x"
		}
	}
	n := chaintest.New(t, 64)
	votes := n.Votes(t, record.Hash{}, subjects)
	if votes.Lists[0] != nil {
		t.Fatal("the statement has a file list")
	}
	encode(t, votes.Publish()[0])
}

func TestCheckFileListRefuses(t *testing.T) {
	statement, list, err := record.NewStatement(record.Hash{1}, record.Hash{2}, named(70, 0))
	if err != nil {
		t.Fatal(err)
	}
	short, _, err := record.NewStatement(record.Hash{1}, record.Hash{2}, named(3, 0))
	if err != nil {
		t.Fatal(err)
	}
	claim := func(files []record.Subject) *record.Statement {
		data := record.MustMarshal(files)
		s := *statement
		s.Subject = []record.Subject{{Annotations: record.Annotations{Size: int64(len(data))}, Name: record.FileListName}}
		d := chaintest.Describe(data)
		s.Subject[0].Digest = record.Digests{BLAKE3: d.BLAKE3, SHA256: d.SHA256}
		return &s
	}
	if err := record.CheckFileList(claim(list), list); err != nil {
		t.Fatal(err)
	}
	size, media := claim(list), claim(list)
	size.Subject[0].Annotations.Size++
	media.Subject[0].MediaType = "text/plain"
	unsorted := append(slices.Clone(list[1:]), list[0])
	for name, test := range map[string]struct {
		statement *record.Statement
		files     []record.Subject
	}{
		"inline": {short, named(3, 0)}, "one missing": {statement, list[1:]}, "empty": {statement, nil},
		"unsorted": {claim(unsorted), unsorted}, "short": {claim(list[:64]), list[:64]}, "size": {size, list}, "media type": {media, list},
	} {
		if err := record.CheckFileList(test.statement, test.files); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestDecodeStatementRefuses(t *testing.T) {
	good := string(tell(t).votes.Statements[0])
	for name, data := range map[string]string{
		"type":           strings.Replace(good, "Statement/v1", "Statement/v2", 1),
		"predicate type": strings.Replace(good, "urn:pyrsia:build:v1", "urn:pyrsia:build:v2", 1),
		"no subjects":    good[:strings.Index(good, `"subject":`)] + `"subject":[]}`,
		"file name":      strings.Replace(good, "hello-1.0.0.jar", "../hello.jar", 1),
		"package":        strings.Replace(good, "pkg:maven/", "pkg:Maven/", 1),
		"no package":     strings.Replace(good, `,"uri":"pkg:maven/org.example/hello@1.0.0"`, "", 1),
		"order":          strings.Replace(good, "hello-1.0.0.jar", "z.jar", 1),
		"size":           strings.Replace(good, `"size":5`, `"size":-5`, 1),
		"digest":         strings.Replace(good, `"sha256":"fc8b`, `"sha256":"FC8B`, 1),
		"spaces":         strings.Replace(good, `:`, `: `, 1),
	} {
		if data == good {
			t.Fatalf("%s: nothing changed", name)
		}
		if _, err := record.DecodeStatement([]byte(data)); !errors.Is(err, record.ErrMalformed) && !errors.Is(err, artifact.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecodePartRefuses(t *testing.T) {
	s := tell(t)
	commit := string(record.MustMarshal(record.CommitPart{Attempt: s.id, Commit: s.votes.Commit(0)}))
	hold := string(record.MustMarshal(record.HoldPart{Attempt: s.attempt, Holding: s.network.Holding(s.attempt, 0)}))
	for name, data := range map[string]string{
		"empty": "", "none": "{}", "two": `{"commit":` + commit + `,"hold":` + hold + `}`, "null": `{"commit":null}`,
		"unknown": `{"vote":` + commit + `}`, "too long": `{"commit":` + strings.Repeat(" ", record.MaxPart) + commit + `}`,
	} {
		if _, err := record.DecodePart([]byte(data)); !errors.Is(err, record.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecodeLockRefuses(t *testing.T) {
	good := string(record.MustMarshal(tell(t).lock))
	for name, data := range map[string]string{
		"order":  strings.Replace(good, `"kind":"maven"`, `"kind":"zzz"`, 1),
		"path":   strings.Replace(good, "org/example/parent", "../example/parent", 1),
		"spaces": " " + good,
	} {
		if data == good {
			t.Fatalf("%s: nothing changed", name)
		}
		if _, err := record.DecodeLock([]byte(data)); !errors.Is(err, record.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	lock := tell(t).lock
	lock.Entries[0].File.Size = -1
	if _, err := record.DecodeLock(record.MustMarshal(lock)); !errors.Is(err, record.ErrMalformed) {
		t.Error(err)
	}
	lock = tell(t).lock
	lock.Entries = append(lock.Entries, lock.Entries[1])
	if _, err := record.DecodeLock(record.MustMarshal(lock)); !errors.Is(err, record.ErrMalformed) {
		t.Error(err)
	}
}

func TestRecipeChange(t *testing.T) {
	recipe := chaintest.Recipe("pkg:docker/a/b@1", "z.txt", "a.txt")
	recipe.Images = []record.Image{{}}
	change := recipe.Change()
	var names []string
	for _, name := range change.Files {
		names = append(names, name.String())
	}
	if want := []string{"pkg:docker/a/b@1#a.txt", "pkg:docker/a/b@1#manifest", "pkg:docker/a/b@1#z.txt"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
}
