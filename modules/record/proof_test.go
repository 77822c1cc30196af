package record_test

import (
	"bytes"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/record"
)

func TestVerifyBundle(t *testing.T) {
	s := tell(t)
	data, genesis := s.bundle(t), s.network.Network.Genesis
	for _, content := range []string{"a jar", "a pom"} {
		verdict, err := record.VerifyBundle(data, genesis, chaintest.Describe([]byte(content)))
		if err != nil {
			t.Fatal(err)
		}
		signed := s.blocks[3].Checkpoint()
		if verdict.Network != "test.example" || verdict.Height != 4 || verdict.Time != s.blocks[3].Header().Time ||
			verdict.Size != 10 || verdict.AsOf != signed.FreshAt() || verdict.Subject.Descriptor() != chaintest.Describe([]byte(content)) {
			t.Errorf("verdict %+v", verdict)
		}
		if verdict.AsOf != signed.Cosignatures[1].Time {
			t.Errorf("as of %d, want the median %d", verdict.AsOf, signed.Cosignatures[1].Time)
		}
	}
}

// TestVerifyBundleRefuses alters one thing of a bundle per row. Whoever makes
// a bundle may be a liar; only the network's keys are out of reach.
func TestVerifyBundleRefuses(t *testing.T) {
	s := tell(t)
	n := s.network
	jarFile := chaintest.Describe([]byte("a jar"))
	forged := func(t *testing.T, who ...int) []byte {
		evil := []record.Subject{chaintest.File(jar, "hello-1.0.0.jar", []byte("evil"))}
		return encode(t, n.Votes(t, s.id, evil).Publish(who...)[0])
	}
	other := chaintest.New(t, 4, func(g *record.Genesis) { g.Name = "other.example" })
	for name, test := range map[string]struct {
		file   artifact.Descriptor
		change func(*testing.T, *record.Bundle)
		want   string
	}{
		"another file":         {file: chaintest.Describe([]byte("evil")), want: "does not name a file"},
		"another size":         {file: artifact.Descriptor{BLAKE3: jarFile.BLAKE3, SHA256: jarFile.SHA256, Size: 6}, want: "does not name a file"},
		"another blake3":       {file: artifact.Descriptor{SHA256: jarFile.SHA256, Size: 5}, want: "does not name a file"},
		"the dissenter's file": {file: chaintest.Describe([]byte("another jar")), want: "does not name a file"},
		"another genesis":      {change: func(t *testing.T, b *record.Bundle) { b.Extra.Genesis = other.GenesisLeaf }, want: "it is for the network"},
		"no genesis":           {change: func(t *testing.T, b *record.Bundle) { b.Extra.Genesis = nil }, want: "it is for the network"},
		"a forged leaf":        {change: func(t *testing.T, b *record.Bundle) { b.Extra.Leaf = forged(t) }, want: "leaf 7 is not in the log"},
		"another leaf":         {change: func(t *testing.T, b *record.Bundle) { b.Extra.Leaf = s.leaf(4, 1) }, want: "leaf 7 is not in the log"},
		"the attest leaf":      {change: func(t *testing.T, b *record.Bundle) { b.Index, b.Extra.Leaf, b.Proof = 8, s.leaf(4, 1), s.prove(t, 8) }, want: "not a publication"},
		"an altered proof":     {change: func(t *testing.T, b *record.Bundle) { b.Proof[0][0] ^= 1 }, want: "leaf 7 is not in the log"},
		"a short proof":        {change: func(t *testing.T, b *record.Bundle) { b.Proof = b.Proof[1:] }, want: "leaf 7 is not in the log"},
		"a long proof":         {change: func(t *testing.T, b *record.Bundle) { b.Proof = append(b.Proof, record.Hash{}) }, want: "leaf 7 is not in the log"},
		"another index":        {change: func(t *testing.T, b *record.Bundle) { b.Index = 8 }, want: "leaf 8 is not in the log"},
		"an index beyond":      {change: func(t *testing.T, b *record.Bundle) { b.Index = 10 }, want: "headers are of other blocks"},
		"an older header": {change: func(t *testing.T, b *record.Bundle) {
			b.Extra.Header = record.ProvenLeaf{Index: 6, Leaf: s.leaf(3, 1), Proof: s.prove(t, 6)}
		}, want: "headers are of other blocks"},
		"no header": {change: func(t *testing.T, b *record.Bundle) {
			b.Extra.Header = record.ProvenLeaf{Index: 8, Leaf: s.leaf(4, 1), Proof: s.prove(t, 8)}
		}, want: "no header"},
		"a header elsewhere": {change: func(t *testing.T, b *record.Bundle) { b.Extra.Header.Index = 8 }, want: "leaf 8 is not in the log"},
		"an altered header": {change: func(t *testing.T, b *record.Bundle) {
			b.Extra.Header.Leaf = bytes.Replace(b.Extra.Header.Leaf, []byte(`"height":4`), []byte(`"height":5`), 1)
		}, want: "leaf 9 is not in the log"},
		"an older last": {change: func(t *testing.T, b *record.Bundle) {
			b.Extra.Last = record.ProvenLeaf{Index: 6, Leaf: s.leaf(3, 1), Proof: s.prove(t, 6)}
		}, want: "headers are of other blocks"},
		"negative header index": {change: func(t *testing.T, b *record.Bundle) { b.Extra.Header.Index = -1 }, want: "leaf -1 of a log"},
		"an older checkpoint":   {change: func(t *testing.T, b *record.Bundle) { b.Note = s.blocks[2].Note() }, want: "leaf 9 of a log of 7"},
		"an altered checkpoint": {change: func(t *testing.T, b *record.Bundle) {
			b.Note = bytes.Replace(b.Note, []byte("\n10\n"), []byte("\n11\n"), 1)
		}, want: "checkpoint"},
		"a missing cosignature": {change: func(t *testing.T, b *record.Bundle) {
			b.Note = b.Note[:bytes.LastIndexByte(b.Note[:len(b.Note)-1], '\n')+1]
		}, want: "signatures, want the proposer's and 3"},
		"no checkpoint": {change: func(t *testing.T, b *record.Bundle) { b.Note = nil }, want: "no signed note"},
		"a file list not needed": {change: func(t *testing.T, b *record.Bundle) {
			b.Extra.Files = []record.ProvenLeaf{{Index: 8, Leaf: s.leaf(4, 1)}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bundle, err := record.DecodeBundle(s.bundle(t))
			if err != nil {
				t.Fatal(err)
			}
			file := test.file
			if test.change != nil {
				file = jarFile
				test.change(t, bundle)
			}
			verdict, err := record.VerifyBundle(bundle.Encode(), n.Network.Genesis, file)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if verdict != nil || !(errors.Is(err, record.ErrMalformed) || errors.Is(err, record.ErrNotProven)) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("verdict %+v, error %v, want %q", verdict, err, test.want)
			}
		})
	}
}

func (s *story) prove(t *testing.T, index int64) []record.Hash {
	t.Helper()
	return proveLeaf(t, s.chain, index)
}

// TestVerifyBundleCountsSignatures certifies a log whose publish leaf has too
// few or false signatures, as a quorum of liars could: a verifier counts for
// itself.
func TestVerifyBundleCountsSignatures(t *testing.T) {
	for name, test := range map[string]struct {
		leaf func(t *testing.T, n *chaintest.Network) record.Leaf
		want string
	}{
		"two of four": {func(t *testing.T, n *chaintest.Network) record.Leaf {
			return n.Votes(t, record.Hash{1}, oneFile()).Publish(0, 1)[0]
		}, "2 of 4 members signed, want 3"},
		"a false signature": {func(t *testing.T, n *chaintest.Network) record.Leaf {
			leaf := n.Votes(t, record.Hash{1}, oneFile()).Publish()[0].(*record.PublishLeaf)
			leaf.Envelope.Signatures[1].Sig[5] ^= 1
			return leaf
		}, "does not verify"},
		"a foreign signature": {func(t *testing.T, n *chaintest.Network) record.Leaf {
			leaf := chaintest.New(t, 7).Votes(t, record.Hash{1}, oneFile()).Publish()[0].(*record.PublishLeaf)
			return leaf
		}, "is not in the set"},
		"one twice": {func(t *testing.T, n *chaintest.Network) record.Leaf {
			leaf := n.Votes(t, record.Hash{1}, oneFile()).Publish(0, 1)[0].(*record.PublishLeaf)
			leaf.Envelope.Signatures = append(leaf.Envelope.Signatures, leaf.Envelope.Signatures[1])
			leaf.Reveals = append(leaf.Reveals, leaf.Reveals[1])
			return leaf
		}, "not sorted by identity, one each"},
		"another attempt": {func(t *testing.T, n *chaintest.Network) record.Leaf {
			leaf := n.Votes(t, record.Hash{1}, oneFile()).Publish()[0].(*record.PublishLeaf)
			leaf.Attempt = record.Hash{2}
			return leaf
		}, "of another network or attempt"},
		"another network": {func(t *testing.T, n *chaintest.Network) record.Leaf {
			other := *n
			other.Network.Genesis = record.Hash{9}
			return other.Votes(t, record.Hash{1}, oneFile()).Publish()[0]
		}, "of another network or attempt"},
	} {
		t.Run(name, func(t *testing.T) {
			n := chaintest.New(t, 4)
			bundle := bundleOf(t, n, test.leaf(t, n))
			verdict, err := record.VerifyBundle(bundle.Encode(), n.Network.Genesis, oneFile()[0].Descriptor())
			if verdict != nil || err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("verdict %+v, error %v, want %q", verdict, err, test.want)
			}
		})
	}
}

// TestVerifyBundleHeights: a header is of a height above the genesis'. A quorum of
// liars certified others; a verifier that follows them finds no set.
func TestVerifyBundleHeights(t *testing.T) {
	for height, want := range map[int64]string{1: "", 2: "", 0: "a header of height 0", -1: "a header of height -1", -1<<53 + 1: "a header of height -9007199254740991"} {
		n := chaintest.New(t, 4)
		leaf := n.Votes(t, record.Hash{1}, oneFile()).Publish()[0]
		bundle := bundleOf(t, n, leaf, headerOfHeight(n, height))
		verdict, err := record.VerifyBundle(bundle.Encode(), n.Network.Genesis, oneFile()[0].Descriptor())
		if want == "" && err == nil {
			continue
		}
		if verdict != nil || want == "" || !errors.Is(err, record.ErrMalformed) || !strings.Contains(err.Error(), want) {
			t.Errorf("height %d: verdict %+v, error %v, want %q", height, verdict, err, want)
		}
	}
}

func oneFile() []record.Subject {
	return []record.Subject{chaintest.File(jar, "hello-1.0.0.jar", []byte("a jar"))}
}

func TestDecodeBundleRefuses(t *testing.T) {
	good := string(tell(t).bundle(t))
	for name, data := range map[string]string{
		"empty":              "",
		"no head":            strings.TrimPrefix(good, "c2sp.org/tlog-proof@v1\n"),
		"another version":    strings.Replace(good, "@v1", "@v2", 1),
		"no extra":           "c2sp.org/tlog-proof@v1\n" + good[strings.Index(good, "index "):],
		"no empty line":      strings.Replace(good, "\n\n", "\n", 2),
		"carriage returns":   strings.ReplaceAll(good, "\n", "\r\n"),
		"index with zero":    strings.Replace(good, "index 7", "index 07", 1),
		"negative index":     strings.Replace(good, "index 7", "index -7", 1),
		"signed index":       strings.Replace(good, "index 7", "index +7", 1),
		"a word as index":    strings.Replace(good, "index 7", "index seven", 1),
		"a line too many":    strings.Replace(good, "index 7\n", "index 7\nx\n", 1),
		"65 hashes":          strings.Replace(good, "index 7\n", "index 7\n"+strings.Repeat("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", 65), 1),
		"extra not base64":   strings.Replace(good, "extra e", "extra !", 1),
		"extra not JSON":     strings.Replace(good, good[strings.Index(good, "extra "):strings.Index(good, "\nindex")], "extra AAAA", 1),
		"too many bytes":     good + strings.Repeat("x", record.MaxBundle),
		"many short lines":   "c2sp.org/tlog-proof@v1\n" + strings.Repeat("a\n", 1<<20) + "\nx",
		"only empty lines":   strings.Repeat("\n", 1<<20),
		"index before extra": strings.Replace(strings.Replace(good, "extra ", "index ", 1), "index 7", "extra 7", 1),
	} {
		if _, err := record.DecodeBundle([]byte(data)); !(errors.Is(err, record.ErrMalformed) || errors.Is(err, record.ErrNotProven)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func BenchmarkVerifyBundle(b *testing.B) {
	s := tell(b)
	data, genesis, file := s.bundle(b), s.network.Network.Genesis, chaintest.Describe([]byte("a jar"))
	b.ReportAllocs()
	start := processor(b)
	for b.Loop() {
		if _, err := record.VerifyBundle(data, genesis, file); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((processor(b)-start).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

// processor is the processor time that this process took so far: what a busy
// machine's clock does not tell.
func processor(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
