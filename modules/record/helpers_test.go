package record_test

import (
	"testing"

	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/record"
	"golang.org/x/mod/sumdb/tlog"
)

func proveLeaf(t *testing.T, c *chain.Chain, index int64) []record.Hash {
	t.Helper()
	return prove(t, c.Size(), index, c)
}

// proveTree is the inclusion proof of a leaf in a tree of the given leaves.
func proveTree(t testing.TB, leaves [][]byte, index int64) []record.Hash {
	t.Helper()
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, at := range indexes {
			hashes[i] = stored[at]
		}
		return hashes, nil
	})
	for i, leaf := range leaves {
		hashes, err := tlog.StoredHashes(int64(i), leaf, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hashes...)
	}
	return prove(t, int64(len(leaves)), index, reader)
}

// bundleOf is a proof of the first of the leaves, which a quorum certified with
// the others, whatever they are, as a network's first block. The last of them is
// shown as the header of the leaf's block, or the true header if there is none.
func bundleOf(t testing.TB, n *chaintest.Network, leaves ...record.Leaf) *record.Bundle {
	t.Helper()
	c := n.Chain(t)
	block := n.Force(t, c, leaves...)
	tree := append([][]byte{n.GenesisLeaf}, block.Leaves...)
	proven := func(index int64) record.ProvenLeaf {
		return record.ProvenLeaf{Index: index, Leaf: tree[index], Proof: proveTree(t, tree, index)}
	}
	last := int64(len(leaves)) + 1
	return &record.Bundle{
		Index: 1, Proof: proveTree(t, tree, 1), Note: n.Certify(t, c, block).Note(),
		Extra: record.BundleExtra{Genesis: n.GenesisLeaf, Leaf: tree[1], Header: proven(max(2, last-1)), Last: proven(last)},
	}
}

// headerOfHeight is a header like a network's first, but for its height.
func headerOfHeight(n *chaintest.Network, height int64) *record.Header {
	return &record.Header{Height: height, PreviousSize: 1, Proposer: n.Nodes[0].ID, Set: n.Set.Hash(), NextSet: n.Set.Hash(), Time: 1}
}

func prove(t testing.TB, size, index int64, reader tlog.HashReader) []record.Hash {
	t.Helper()
	proof, err := tlog.ProveRecord(size, index, reader)
	if err != nil {
		t.Fatal(err)
	}
	var hashes []record.Hash
	for _, hash := range proof {
		hashes = append(hashes, record.Hash(hash))
	}
	return hashes
}
