package record_test

import (
	"testing"

	"github.com/pyrsia/appliance/modules/chain"
	"github.com/pyrsia/appliance/modules/record"
	"golang.org/x/mod/sumdb/tlog"
)

func proveLeaf(t *testing.T, c *chain.Chain, index int64) []record.Hash {
	t.Helper()
	return prove(t, c.Size(), index, c)
}

// proveTree is the inclusion proof of a leaf in a tree of the given leaves.
func proveTree(t *testing.T, leaves [][]byte, index int64) []record.Hash {
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

func prove(t *testing.T, size, index int64, reader tlog.HashReader) []record.Hash {
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
