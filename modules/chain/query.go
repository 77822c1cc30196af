package chain

import (
	"errors"
	"fmt"
	"sort"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
	"golang.org/x/mod/sumdb/tlog"
)

// read runs a query of the ledger in one transaction.
func read[T any](c *Chain, query func(ledger.Reader) (T, error)) (T, error) {
	var value T
	err := c.backend.View(func(r ledger.Reader) (err error) {
		value, err = query(r)
		return err
	})
	return value, err
}

// Resolve is the publication of a name, or ErrNotFound.
func (c *Chain) Resolve(name artifact.Name) (*ledger.Publication, error) {
	return read(c, func(r ledger.Reader) (*ledger.Publication, error) { return ledger.ResolveName(r, name) })
}

// ResolveDigest is a publication of a file with the digest, or ErrNotFound.
func (c *Chain) ResolveDigest(digest artifact.SHA256) (*ledger.Publication, error) {
	return read(c, func(r ledger.Reader) (*ledger.Publication, error) { return ledger.ResolveDigest(r, digest) })
}

// ResolveTag is the publication of an image's manifest by its tag, or
// ErrNotFound.
func (c *Chain) ResolveTag(repository, tag string) (*ledger.Publication, error) {
	return read(c, func(r ledger.Reader) (*ledger.Publication, error) { return ledger.ResolveTag(r, repository, tag) })
}

// Files are the published files of the packages whose package URL begins with
// the prefix, sorted by name.
func (c *Chain) Files(prefix string) ([]ledger.Entry, error) {
	return read(c, func(r ledger.Reader) ([]ledger.Entry, error) { return ledger.Files(r, prefix) })
}

// Tags are the published tags of a repository, sorted.
func (c *Chain) Tags(repository string) ([]string, error) {
	return read(c, func(r ledger.Reader) ([]string, error) { return ledger.Tags(r, repository), nil })
}

// Recipe is a recipe by its hash, or ErrNotFound.
func (c *Chain) Recipe(hash record.Hash) (*ledger.Recipe, error) {
	return read(c, func(r ledger.Reader) (*ledger.Recipe, error) { return ledger.RecipeByHash(r, hash) })
}

// LiveRecipe is the live recipe of a package, or ErrNotFound.
func (c *Chain) LiveRecipe(pkg artifact.PURL) (*ledger.Recipe, error) {
	return read(c, func(r ledger.Reader) (*ledger.Recipe, error) { return ledger.LiveRecipe(r, pkg) })
}

// Recipes are all recipes, in the order in which they came.
func (c *Chain) Recipes() ([]ledger.Recipe, error) { return read(c, ledger.Recipes) }

// Attempt is an attempt by its leaf hash, or ErrNotFound.
func (c *Chain) Attempt(id record.Hash) (*ledger.Attempt, error) {
	return read(c, func(r ledger.Reader) (*ledger.Attempt, error) { return ledger.AttemptByID(r, id) })
}

// Attempts are all attempts, in the order in which they came.
func (c *Chain) Attempts() ([]ledger.Attempt, error) { return read(c, ledger.Attempts) }

// RecentAttempts are the attempts of blocks since a header time in milliseconds
// since 1970, in the order in which they came; however long the log before them.
func (c *Chain) RecentAttempts(since int64) ([]ledger.Attempt, error) {
	return read(c, func(r ledger.Reader) ([]ledger.Attempt, error) { return ledger.RecentAttempts(r, since) })
}

// Newest is the newest attempt of a recipe on a platform, or ErrNotFound.
func (c *Chain) Newest(recipe record.Hash, platform string) (*ledger.Attempt, error) {
	return read(c, func(r ledger.Reader) (*ledger.Attempt, error) { return ledger.NewestAttempt(r, recipe, platform) })
}

// Evidence are the proven offences of members, by member.
func (c *Chain) Evidence() ([]ledger.Evidence, error) { return read(c, ledger.AllEvidence) }

// Accused tells whether an offence needs no further evidence.
func (c *Chain) Accused(o record.Offence) bool {
	accused, _ := read(c, func(r ledger.Reader) (bool, error) { return ledger.Accused(r, o), nil })
	return accused
}

// Younger tells whether a member's keys are younger than an attempt, so that it
// has no vote in it.
func (c *Chain) Younger(id record.Identity, a *ledger.Attempt) bool {
	younger, _ := read(c, func(r ledger.Reader) (bool, error) { return ledger.Younger(r, id, a), nil })
	return younger
}

// UsedKey tells whether a key is or was a member's.
func (c *Chain) UsedKey(key record.PublicKey) bool {
	used, _ := read(c, func(r ledger.Reader) (bool, error) { return ledger.UsedKey(r, key), nil })
	return used
}

// Leaf is a leaf's bytes, or ErrNotFound.
func (c *Chain) Leaf(index int64) ([]byte, error) {
	var leaf []byte
	err := c.backend.View(func(r ledger.Reader) error {
		data := r.Get(bucketLeaves, be64(index))
		if data == nil {
			return fmt.Errorf("leaf %d: %w", index, ErrNotFound)
		}
		leaf = append(leaf, data...)
		return nil
	})
	return leaf, err
}

// ReadHashes implements tlog.HashReader over the chain's stored hashes.
func (c *Chain) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var hashes []tlog.Hash
	err := c.backend.View(func(r ledger.Reader) (err error) {
		hashes, err = hashReader{r}.ReadHashes(indexes)
		return err
	})
	return hashes, err
}

// HeightOf is the height of the block that holds a leaf.
func (c *Chain) HeightOf(index int64) (int64, error) {
	var found int64
	// The chain's lock is not taken inside a transaction: Append holds it while
	// it waits for the transactions under way.
	last := c.Height()
	err := c.backend.View(func(r ledger.Reader) error {
		_, height, err := blockOf(r, index, last)
		found = height
		return err
	})
	return found, err
}

// Header is a block's header, nil for the genesis.
func (c *Chain) Header(height int64) (*record.Header, error) {
	if height == 0 {
		return nil, nil
	}
	var entry blockEntry
	err := c.backend.View(func(r ledger.Reader) error { return ledger.GetJSON(r, bucketBlocks, be64(height), &entry) })
	if err != nil {
		return nil, fmt.Errorf("block %d: %w", height, err)
	}
	data, err := c.Leaf(entry.Size - 1)
	if err != nil {
		return nil, err
	}
	leaf, err := record.DecodeLeaf(data)
	if err != nil {
		return nil, err
	}
	header, ok := leaf.(*record.Header)
	if !ok {
		return nil, fmt.Errorf("block %d: its last leaf is no header", height)
	}
	return header, nil
}

// blockOf is the block that holds a leaf.
func blockOf(r ledger.Reader, index, last int64) (entry blockEntry, height int64, err error) {
	height = int64(sort.Search(int(last)+1, func(h int) bool {
		var candidate blockEntry
		if e := ledger.GetJSON(r, bucketBlocks, be64(int64(h)), &candidate); e != nil {
			err = e
			return true
		}
		return candidate.Size > index
	}))
	if err != nil || height > last {
		return entry, 0, errors.Join(err, fmt.Errorf("leaf %d: %w", index, ErrNotFound))
	}
	return entry, height, ledger.GetJSON(r, bucketBlocks, be64(height), &entry)
}

// Prove is the proof bundle of a published file.
func (c *Chain) Prove(publication *ledger.Publication) ([]byte, error) {
	c.mu.RLock()
	end, note := c.head, c.note
	c.mu.RUnlock()
	var bundle record.Bundle
	err := c.backend.View(func(r ledger.Reader) error {
		prover := prover{r: r, size: end.Frontier.Size}
		bundle = record.Bundle{Index: publication.Leaf, Note: note}
		own := prover.leaf(publication.Leaf)
		bundle.Proof, bundle.Extra.Leaf = own.Proof, own.Leaf
		bundle.Extra.Genesis = append([]byte(nil), r.Get(bucketLeaves, be64(0))...)
		for index := publication.Leaf - 1; index > 0 && prover.isFiles(index, publication.Attempt); index-- {
			bundle.Extra.Files = append([]record.ProvenLeaf{prover.leaf(index)}, bundle.Extra.Files...)
		}
		entry, _, err := blockOf(r, publication.Leaf, end.Height)
		if err != nil {
			return err
		}
		bundle.Extra.Header = prover.leaf(entry.Size - 1)
		bundle.Extra.Last = prover.leaf(end.Frontier.Size - 1)
		if bundle.Extra.Sets, err = setProofs(r, end.Height); err != nil {
			return err
		}
		return prover.err
	})
	if err != nil {
		return nil, fmt.Errorf("prove leaf %d: %w", publication.Leaf, err)
	}
	data := bundle.Encode()
	if len(data) > record.MaxBundle {
		return nil, fmt.Errorf("prove leaf %d: the proof has %d bytes, and a bundle at most %d", publication.Leaf, len(data), record.MaxBundle)
	}
	return data, nil
}

// setProofs prove the changes of the set up to a height.
func setProofs(r ledger.Reader, height int64) (proofs []record.SetProof, err error) {
	changes, err := ledger.SetChanges(r)
	if err != nil {
		return nil, err
	}
	for _, change := range changes {
		if change.From > height {
			break
		}
		var entry blockEntry
		if err := ledger.GetJSON(r, bucketBlocks, be64(change.From-1), &entry); err != nil {
			return nil, err
		}
		prover := prover{r: r, size: entry.Size}
		proof := record.SetProof{Header: prover.leaf(entry.Size - 1), Note: entry.Note, Leaf: append([]byte(nil), r.Get(bucketLeaves, be64(change.Leaf))...)}
		if prover.err != nil {
			return nil, prover.err
		}
		proofs = append(proofs, proof)
	}
	return proofs, nil
}

// prover makes inclusion proofs in one transaction; the first error sticks.
type prover struct {
	r    ledger.Reader
	size int64
	err  error
}

func (p *prover) leaf(index int64) record.ProvenLeaf {
	proven := record.ProvenLeaf{Index: index, Leaf: append([]byte(nil), p.r.Get(bucketLeaves, be64(index))...)}
	proof, err := tlog.ProveRecord(p.size, index, hashReader{p.r})
	if err != nil && p.err == nil {
		p.err = err
	}
	for _, hash := range proof {
		proven.Proof = append(proven.Proof, record.Hash(hash))
	}
	return proven
}

func (p *prover) isFiles(index int64, attempt record.Hash) bool {
	leaf, err := record.DecodeLeaf(p.r.Get(bucketLeaves, be64(index)))
	if err != nil {
		return false
	}
	files, ok := leaf.(*record.FilesLeaf)
	return ok && files.Attempt == attempt
}
