package record_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/record"
)

// seeds adds the goldens whose names begin with the prefix.
func seeds(f *testing.F, prefix string) {
	f.Helper()
	paths, err := filepath.Glob("testdata/" + prefix + "*.golden")
	if err != nil || len(paths) == 0 {
		f.Fatal("no goldens ", prefix, err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
}

// refused checks the error of a decoder.
func refused(t *testing.T, err error) bool {
	t.Helper()
	if err != nil && !errors.Is(err, record.ErrMalformed) {
		t.Errorf("%v is not ErrMalformed", err)
	}
	return err != nil
}

func FuzzDecodeLeaf(f *testing.F) {
	seeds(f, "leaf-")
	for _, reserved := range []string{"node-add", "node-remove", "key-rotate", "upgrade", "evidence", "revoke", ""} {
		f.Add([]byte(`{"body":{},"type":"` + reserved + `","version":1}`))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		leaf, err := record.DecodeLeaf(data)
		if refused(t, err) {
			return
		}
		if naiveObject(data) != nil {
			t.Errorf("%q is no canonical object", data)
		}
		again, err := record.EncodeLeaf(leaf)
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q is encoded as %q (%v)", data, again, err)
		}
	})
}

func FuzzDecodeBlock(f *testing.F) {
	s := tell(f)
	for _, certified := range s.blocks {
		f.Add(certified.Block().Encode())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		block, err := record.DecodeBlock(data)
		if refused(t, err) {
			return
		}
		if !bytes.Equal(block.Encode(), data) {
			t.Errorf("%x is encoded as %x", data, block.Encode())
		}
		header, err := block.Header()
		if !refused(t, err) && header == nil {
			t.Error("no header and no error")
		}
	})
}

func FuzzVerifyBlock(f *testing.F) {
	s := tell(f)
	for _, certified := range s.blocks {
		f.Add(certified.Encode())
	}
	genuine := s.blocks[0].Encode()
	f.Fuzz(func(t *testing.T, data []byte) {
		certified, err := record.VerifyBlock(s.network.Network, s.network.Set, s.before[0], data)
		if refused(t, err) {
			return
		}
		// Without the keys there is no other block 1.
		if !bytes.Equal(data, genuine) || !bytes.Equal(certified.Encode(), data) {
			t.Errorf("%x is a certified block", data)
		}
	})
}

func FuzzOpenCheckpoint(f *testing.F) {
	s := tell(f)
	genuine := map[string]bool{}
	for _, certified := range s.blocks {
		f.Add(certified.Note())
		genuine[string(certified.Note())] = true
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		signed, err := record.OpenCheckpoint(data, s.network.Name, s.network.Network.Genesis, s.network.Set)
		if refused(t, err) {
			return
		}
		again, err := signed.Encode(s.network.Name, s.network.Set)
		if err != nil || !bytes.Equal(again, data) || !genuine[string(data)] {
			t.Errorf("%q is a signed checkpoint, encoded as %q (%v)", data, again, err)
		}
	})
}

func FuzzParseCheckpointBody(f *testing.F) {
	for _, certified := range tell(f).blocks {
		f.Add(certified.Checkpoint().Body())
	}
	f.Add("a\n-1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n")
	f.Add("a\n01\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n")
	f.Add("a\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=\n")
	f.Add("\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n")
	f.Add("a\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nextension\n")
	f.Fuzz(func(t *testing.T, body string) {
		c, err := record.ParseCheckpointBody(body)
		if refused(t, err) {
			return
		}
		if c.Body() != body || c.Size < 0 || c.Origin == "" {
			t.Errorf("%q is read as %+v", body, c)
		}
	})
}

func FuzzDecodeBundle(f *testing.F) {
	seeds(f, "bundle")
	f.Add([]byte("c2sp.org/tlog-proof@v1\nextra e30=\nindex 0\n\n"))
	f.Add([]byte("c2sp.org/tlog-proof@v1\nindex 0\n\nnote\n"))
	genesis, err := os.ReadFile("testdata/leaf-genesis.golden")
	if err != nil {
		f.Fatal(err)
	}
	n := tell(f).network
	for _, height := range []int64{-1, 0, 1, 1<<53 - 1} {
		leaf := n.Votes(f, record.Hash{1}, oneFile()).Publish()[0]
		f.Add(bundleOf(f, n, leaf, headerOfHeight(n, height)).Encode())
	}
	if record.Digest(genesis) != n.Network.Genesis {
		f.Fatal("the seeds are of another network")
	}
	published := chaintest.Describe([]byte("a jar"))
	f.Fuzz(func(t *testing.T, data []byte) {
		bundle, err := record.DecodeBundle(data)
		if refused(t, err) {
			return
		}
		if !bytes.Equal(bundle.Encode(), data) {
			t.Errorf("%q is encoded as %q", data, bundle.Encode())
		}
		verdict, err := record.VerifyBundle(data, record.Digest(genesis), published)
		if refused(t, err) != (verdict == nil) {
			t.Errorf("verdict %+v with error %v", verdict, err)
		}
	})
}

func FuzzDecodePart(f *testing.F) {
	seeds(f, "part-")
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		part, err := record.DecodePart(data)
		if refused(t, err) {
			return
		}
		again, err := part.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q is encoded as %q (%v)", data, again, err)
		}
	})
}

func FuzzDecodeIncarnation(f *testing.F) {
	seeds(f, "incarnation")
	f.Fuzz(func(t *testing.T, data []byte) {
		i, err := record.DecodeIncarnation(data)
		if refused(t, err) {
			return
		}
		if again := record.MustMarshal(i); !bytes.Equal(again, data) {
			t.Errorf("%q is encoded as %q", data, again)
		}
	})
}

func FuzzDecodeRecollection(f *testing.F) {
	seeds(f, "recollection")
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := record.DecodeRecollection(data)
		if refused(t, err) {
			return
		}
		if again := record.MustMarshal(r); !bytes.Equal(again, data) {
			t.Errorf("%q is encoded as %q", data, again)
		}
	})
}

func FuzzDecodeRecipe(f *testing.F) {
	seeds(f, "recipe")
	f.Fuzz(func(t *testing.T, data []byte) {
		recipe, err := record.DecodeRecipe(data)
		if refused(t, err) {
			return
		}
		if !bytes.Equal(record.MustMarshal(recipe), data) || recipe.Hash() != record.Digest(data) {
			t.Errorf("%q is encoded as %q", data, record.MustMarshal(recipe))
		}
		if change := recipe.Change(); change.RecipeHash() != recipe.Hash() {
			t.Errorf("the change of %q has another recipe", data)
		}
	})
}

func FuzzDecodeLock(f *testing.F) {
	seeds(f, "lock")
	f.Fuzz(func(t *testing.T, data []byte) {
		lock, err := record.DecodeLock(data)
		if refused(t, err) {
			return
		}
		lock.Sort()
		if !bytes.Equal(record.MustMarshal(lock), data) {
			t.Errorf("%q is encoded as %q", data, record.MustMarshal(lock))
		}
	})
}

func FuzzDecodeStatement(f *testing.F) {
	seeds(f, "statement")
	f.Fuzz(func(t *testing.T, data []byte) {
		statement, err := record.DecodeStatement(data)
		if err != nil {
			return // a name's error is artifact's
		}
		if !bytes.Equal(record.MustMarshal(statement), data) {
			t.Errorf("%q is encoded as %q", data, record.MustMarshal(statement))
		}
		if statement.HasFileList() {
			return
		}
		again, list, err := record.NewStatement(statement.Predicate.Network, statement.Predicate.Attempt, statement.Subject)
		if err != nil || list != nil || !bytes.Equal(record.MustMarshal(again), data) {
			t.Errorf("%q is made as %q (%v)", data, record.MustMarshal(again), err)
		}
	})
}

func FuzzParseHash(f *testing.F) {
	hash := record.Digest(nil).String()
	for _, seed := range []string{hash, "sha256:" + hash, strings.ToUpper(hash), hash[1:], "", "sha256:", hash + "0", "sha512:" + hash} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := record.ParseHash(s)
		if refused(t, err) {
			return
		}
		if h.String() != strings.TrimPrefix(s, "sha256:") {
			t.Errorf("%q is read as %s", s, h)
		}
	})
}

func FuzzIdentityKey(f *testing.F) {
	for _, name := range []string{"node0", "node1"} {
		f.Add(string(chaintest.NewNode(name).ID))
	}
	f.Add("")
	f.Add("12D3KooW")
	f.Fuzz(func(t *testing.T, s string) {
		key, err := record.Identity(s).Key()
		if refused(t, err) {
			return
		}
		if record.NewIdentity(key) != record.Identity(s) || key.Check() != nil {
			t.Errorf("%q is read as %x", s, key)
		}
	})
}
