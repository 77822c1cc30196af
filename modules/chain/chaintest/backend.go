package chaintest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

// TestBackend is the suite that every chain.Backend passes. open gives a new,
// empty one each time.
func TestBackend(t *testing.T, open func(t *testing.T) chain.Backend) {
	for name, test := range map[string]func(*testing.T, chain.Backend){
		"empty": testEmpty, "put": testPut, "undone": testUndone, "scan": testScan, "keys": testKeys,
		"values are copied": testCopies, "concurrent": testConcurrent, "chain": testChain,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

const bucket = "names"

func view(t *testing.T, b chain.Backend, read func(ledger.Reader)) {
	t.Helper()
	if err := b.View(func(r ledger.Reader) error { read(r); return nil }); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, b chain.Backend, pairs ...string) {
	t.Helper()
	err := b.Update(func(tx ledger.Tx) error {
		for i := 0; i < len(pairs); i += 2 {
			if err := tx.Put(bucket, []byte(pairs[i]), []byte(pairs[i+1])); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func scan(r ledger.Reader, prefix string, limit int) string {
	var pairs []string
	r.Scan(bucket, []byte(prefix), func(key, value []byte) bool {
		pairs = append(pairs, fmt.Sprintf("%s=%s", key, value))
		return len(pairs) < limit
	})
	return strings.Join(pairs, " ")
}

func testEmpty(t *testing.T, b chain.Backend) {
	view(t, b, func(r ledger.Reader) {
		for _, bucket := range chain.Buckets {
			if value := r.Get(bucket, []byte("key")); value != nil {
				t.Errorf("%s holds %q", bucket, value)
			}
			r.Scan(bucket, nil, func(key, _ []byte) bool {
				t.Errorf("%s holds %q", bucket, key)
				return true
			})
		}
	})
}

func testPut(t *testing.T, b chain.Backend) {
	put(t, b, "a", "1", "b", "")
	put(t, b, "a", "2", "c", "3")
	view(t, b, func(r ledger.Reader) {
		if a, empty, none := r.Get(bucket, []byte("a")), r.Get(bucket, []byte("b")), r.Get(bucket, []byte("d")); string(a) != "2" || empty == nil || len(empty) != 0 || none != nil {
			t.Errorf("a=%q b=%v d=%v", a, empty, none)
		}
		if other := r.Get("tags", []byte("a")); other != nil {
			t.Errorf("another bucket holds %q", other)
		}
	})
}

func testUndone(t *testing.T, b chain.Backend) {
	put(t, b, "a", "1")
	failure := errors.New("failure")
	err := b.Update(func(tx ledger.Tx) error {
		if err := errors.Join(tx.Put(bucket, []byte("a"), []byte("2")), tx.Put(bucket, []byte("b"), []byte("2"))); err != nil {
			return err
		}
		if got := scan(tx, "", 9); got != "a=2 b=2" {
			t.Errorf("the transaction sees %s", got)
		}
		return failure
	})
	if !errors.Is(err, failure) {
		t.Errorf("Update returns %v", err)
	}
	view(t, b, func(r ledger.Reader) {
		if got := scan(r, "", 9); got != "a=1" {
			t.Errorf("a failed update left %s", got)
		}
	})
	if err := b.View(func(ledger.Reader) error { return failure }); !errors.Is(err, failure) {
		t.Errorf("View returns %v", err)
	}
}

func testScan(t *testing.T, b chain.Backend) {
	put(t, b, "b", "1", "a", "2", "ab", "3", "\xff", "4", "a\x00", "5", "\xff\xff", "6")
	view(t, b, func(r ledger.Reader) {
		for prefix, want := range map[string]string{
			"": "a=2 a\x00=5 ab=3 b=1 \xff=4 \xff\xff=6", "a": "a=2 a\x00=5 ab=3", "ab": "ab=3", "c": "", "\xff": "\xff=4 \xff\xff=6",
		} {
			if got := scan(r, prefix, 9); got != want {
				t.Errorf("prefix %q: %q, want %q", prefix, got, want)
			}
		}
		if got := scan(r, "a", 1); got != "a=2" {
			t.Errorf("a scan that was stopped after one went on: %q", got)
		}
	})
	err := b.Update(func(tx ledger.Tx) error {
		if err := errors.Join(tx.Put(bucket, []byte("aa"), []byte("7")), tx.Put(bucket, []byte("a"), []byte("8"))); err != nil {
			return err
		}
		if got, want := scan(tx, "a", 9), "a=8 a\x00=5 aa=7 ab=3"; got != want {
			t.Errorf("in the transaction: %q, want %q", got, want)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func testKeys(t *testing.T, b chain.Backend) {
	for length, allowed := range map[int]bool{0: false, 1: true, chain.MaxKey: true, chain.MaxKey + 1: false} {
		err := b.Update(func(tx ledger.Tx) error { return tx.Put(bucket, bytes.Repeat([]byte{'k'}, length), []byte("v")) })
		if (err == nil) != allowed {
			t.Errorf("a key of %d bytes: %v", length, err)
		}
	}
}

func testCopies(t *testing.T, b chain.Backend) {
	key, value := []byte("key"), []byte("value")
	err := b.Update(func(tx ledger.Tx) error {
		err := tx.Put(bucket, key, value)
		key[0] = 'x'
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	value[0] = 'x'
	view(t, b, func(r ledger.Reader) {
		if got := scan(r, "", 9); got != "key=value" && got != "key=xalue" {
			t.Errorf("%s", got)
		}
	})
}

// testConcurrent: readers see a transaction whole or not at all.
func testConcurrent(t *testing.T, b chain.Backend) {
	put(t, b, "a", "0", "b", "0")
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				err := b.View(func(r ledger.Reader) error {
					if x, y := r.Get(bucket, []byte("a")), r.Get(bucket, []byte("b")); !bytes.Equal(x, y) {
						return fmt.Errorf("a reader sees %s and %s", x, y)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 50 {
		put(t, b, "a", fmt.Sprint(i), "b", fmt.Sprint(i))
	}
	close(stop)
	readers.Wait()
}

// testChain: a chain over the backend answers as one over Memory.
func testChain(t *testing.T, b chain.Backend) {
	n := New(t, 3)
	c, model := n.Open(t, b), n.Chain(t)
	n.Story(t, model)
	Sync(t, model, c)
	Equal(t, model, c)
	if err := c.Check(t.Context(), nil); err != nil {
		t.Error(err)
	}
	again := n.Open(t, b)
	Equal(t, model, again)
}

// Story appends a chain in which everything happens once: publications of
// files, of images with a tag that moves, of a long file list, dissent, a late
// vote, an attempt that expires and one that disagrees. It takes three members.
func (n *Network) Story(t testing.TB, c *chain.Chain) {
	t.Helper()
	library, tool := artifact.PURL("pkg:maven/org.example/library@1"), artifact.PURL("pkg:docker/acme/tool@1.0")
	n.Append(t, c)
	n.PublishFiles(t, c, library, map[string][]byte{"library-1.jar": []byte("jar"), "library-1.pom": []byte("pom")})
	n.PublishImage(t, c, tool, []byte("manifest 1"), []byte("config"), []byte("layer 1"))
	n.PublishImage(t, c, tool, []byte("manifest 2"), []byte("config"), []byte("layer 2"))
	var layers [][]byte
	for i := range 70 {
		layers = append(layers, fmt.Appendf(nil, "layer %d", i))
	}
	n.PublishImage(t, c, "pkg:docker/acme/large@1.0", []byte("manifest 3"), layers...)

	odd := artifact.PURL("pkg:generic/odd@1")
	build := func(content string) []record.Subject { return []record.Subject{File(odd, "odd", []byte(content))} }
	recipe := n.AppendRecipe(t, c, Recipe(odd, "odd"))
	n.AppendAttempt(t, c, recipe) // expires
	n.AppendBlock(t, c, n.ProposeAt(t, c, n.Now(c).Add(2*time.Hour)))
	a := n.AppendAttempt(t, c, recipe) // all differ
	votes := n.Votes(t, a.ID, build("1"), build("2"), build("3"))
	n.Append(t, c, One(votes.Commits()))
	n.Append(t, c, One(votes.Attest(0)), One(votes.Attest(1)), One(votes.Attest(2)))
	a = n.AppendAttempt(t, c, recipe) // one is late
	votes = n.Votes(t, a.ID, build("1"))
	n.Append(t, c, One(votes.Commits(0, 1)))
	n.Append(t, c, votes.Publish(0, 1))
	n.Append(t, c, One(votes.Attest(2)))
}

// Equal fails the test if two chains of a network differ in anything that can
// be asked.
func Equal(t testing.TB, a, b *chain.Chain) {
	t.Helper()
	if x, y := describe(t, a), describe(t, b); !slices.Equal(x, y) {
		for i := range min(len(x), len(y)) {
			if x[i] != y[i] {
				t.Fatalf("the chains differ:\n%s\n%s", x[i], y[i])
			}
		}
		t.Fatalf("the chains differ: %d and %d answers", len(x), len(y))
	}
}

func describe(t testing.TB, c *chain.Chain) []string {
	t.Helper()
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	say("%d %d %d %+v %s", c.Height(), c.Size(), c.Time(), c.Frontier(), c.Checkpoint())
	for index := range c.Size() {
		leaf, err := c.Leaf(index)
		height, herr := c.HeightOf(index)
		say("leaf %d: %s %v, block %d %v", index, leaf, err, height, herr)
	}
	for height := range c.Height() + 1 {
		data, err := c.Block(height)
		say("block %d: %x %v", height, data, err)
	}
	recipes, err := c.Recipes()
	say("%+v %v", recipes, err)
	attempts, err := c.Attempts()
	say("%+v %v", attempts, err)
	entries, err := c.Files("")
	say("%+v %v", entries, err)
	for i, entry := range entries {
		byName, err := c.Resolve(entry.Subject.FileName())
		byDigest, derr := c.ResolveDigest(entry.Subject.Digest.SHA256)
		say("%+v %v %+v %v", byName, err, byDigest, derr)
		if byName != nil && i%8 == 0 {
			proof, err := c.Prove(byName)
			say("%s %v", proof, err)
		}
	}
	for _, repository := range []string{"acme/tool", "acme/large", "none"} {
		tags, err := c.Tags(repository)
		say("%q %v", tags, err)
	}
	return out
}
