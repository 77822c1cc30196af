package node

import (
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/identity"
	"github.com/pyrsia/appliance/modules/record"
)

// told is a chain of a set; it knows the keys of the set, and some older ones.
type told struct {
	set   *record.Set
	older map[record.PublicKey]bool
}

func (c told) NextSet() *record.Set { return c.set }

func (c told) UsedKey(key record.PublicKey) bool {
	for _, node := range c.set.Nodes {
		if node.VoteKey == key {
			return true
		}
	}
	return c.older[key]
}

// network is a set of so many nodes, the keys of the first in a folder.
func network(t *testing.T, size int, order string) (string, told) {
	t.Helper()
	var first string
	var nodes []record.NodeRecord
	for i := range size {
		folder := filepath.Join(t.TempDir(), "keys")
		keys, err := CreateKeys(folder)
		if err != nil {
			t.Fatal(err)
		}
		node, err := record.SignNode(record.NodeRecord{Operator: "test", Platforms: []string{"linux/amd64"}, Seq: 1}, keys.Signers())
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = folder
		}
		nodes = append(nodes, node)
	}
	sort.Slice(nodes, func(i, j int) bool { return nodes[i].Identity < nodes[j].Identity })
	set, err := record.NewSet(nodes, order)
	if err != nil {
		t.Fatal(err)
	}
	return first, told{set, map[record.PublicKey]bool{}}
}

// TestRekeyHarm: new keys are refused where the network cannot go on until they
// are on the chain, and while others wait to get there.
func TestRekeyHarm(t *testing.T) {
	const stops = "stop for good"
	for _, row := range []struct {
		size  int
		order string
		want  string
	}{
		{1, record.OrderMajority, stops},
		{2, record.OrderMajority, stops},
		{3, record.OrderMajority, ""},
		{3, record.OrderTwoThirds, stops},
		{4, record.OrderTwoThirds, ""},
	} {
		folder, c := network(t, row.size, row.order)
		if err := rekeyHarm(c, folder); !says(err, row.want) {
			t.Errorf("%d nodes, %s: %v, want %q", row.size, row.order, err, row.want)
		}
	}
	folder, c := network(t, 3, record.OrderMajority)
	keys, err := Rekey(folder)
	if err != nil {
		t.Fatal(err)
	}
	if err := rekeyHarm(c, folder); !says(err, "wait to be put on the log") {
		t.Errorf("while others wait: %v", err)
	}
	c.older[keys.Signers().Vote.Public()] = true
	if err := rekeyHarm(c, folder); err != nil {
		t.Errorf("keys that were replaced: %v", err)
	}
	if err := os.Remove(filepath.Join(folder, "vote.key")); err != nil {
		t.Fatal(err)
	}
	if err := rekeyHarm(c, folder); err != nil {
		t.Errorf("lost keys: %v", err)
	}
	stranger := filepath.Join(t.TempDir(), "keys")
	if _, err := identity.Create(stranger); err != nil {
		t.Fatal(err)
	}
	if err := rekeyHarm(c, stranger); err != nil {
		t.Errorf("no member: %v", err)
	}
	if err := RekeyHarm(t.TempDir()); !says(err, "there is no log in") {
		t.Errorf("no log: %v", err)
	}
}

// says tells whether an error has words in it; none are no error.
func says(err error, words string) bool {
	if words == "" {
		return err == nil
	}
	return err != nil && strings.Contains(err.Error(), words)
}
