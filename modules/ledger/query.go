package ledger

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sort"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// Publication is a published file and what vouches for it.
type Publication struct {
	Entry
	Votes int // members whose attestation is the published statement
}

// ResolveName is the publication of a name, or ErrNotFound.
func ResolveName(r Reader, name artifact.Name) (*Publication, error) {
	return publication(r, []byte(name.String()))
}

// ResolveDigest is a publication of a file with the digest, or ErrNotFound.
func ResolveDigest(r Reader, digest artifact.SHA256) (*Publication, error) {
	return publication(r, r.Get(bucketDigests, digest[:]))
}

// ResolveTag is the publication of an image's manifest by its tag, or
// ErrNotFound.
func ResolveTag(r Reader, repository, tag string) (*Publication, error) {
	return publication(r, r.Get(bucketTags, tagKey(repository, tag)))
}

func publication(r Reader, name []byte) (*Publication, error) {
	if name == nil {
		return nil, ErrNotFound
	}
	p := new(Publication)
	if err := GetJSON(r, bucketNames, name, &p.Entry); err != nil {
		return nil, err
	}
	attempt, err := AttemptByID(r, p.Attempt)
	if err != nil {
		return nil, err
	}
	p.Votes = attempt.Agreeing()
	return p, nil
}

// Files are the published files of the packages whose package URL begins with
// the prefix, sorted by name.
func Files(r Reader, prefix string) ([]Entry, error) { return scan[Entry](r, bucketNames, prefix) }

// Tags are the published tags of a repository, sorted.
func Tags(r Reader, repository string) []string {
	tags := []string{}
	r.Scan(bucketTags, append(tagKey(repository, ""), '@'), func(key, _ []byte) bool {
		tags = append(tags, artifact.PURL(key).Version())
		return true
	})
	slices.Sort(tags)
	return tags
}

// RecipeByHash is a recipe, or ErrNotFound.
func RecipeByHash(r Reader, hash record.Hash) (*Recipe, error) {
	state := new(Recipe)
	return state, GetJSON(r, bucketRecipes, hash[:], state)
}

// LiveRecipe is the live recipe of a package, or ErrNotFound.
func LiveRecipe(r Reader, pkg artifact.PURL) (*Recipe, error) {
	hash := r.Get(bucketLive, []byte(pkg))
	if hash == nil {
		return nil, ErrNotFound
	}
	state := new(Recipe)
	return state, GetJSON(r, bucketRecipes, hash, state)
}

// Recipes are all recipes, in the order in which they came.
func Recipes(r Reader) ([]Recipe, error) {
	recipes, err := scan[Recipe](r, bucketRecipes, "")
	sort.Slice(recipes, func(i, j int) bool { return recipes[i].Leaf < recipes[j].Leaf })
	return recipes, err
}

// AttemptByID is an attempt by its leaf hash, or ErrNotFound.
func AttemptByID(r Reader, id record.Hash) (*Attempt, error) {
	state := new(Attempt)
	return state, GetJSON(r, bucketAttempts, id[:], state)
}

// Attempts are all attempts, in the order in which they came.
func Attempts(r Reader) ([]Attempt, error) {
	attempts, err := scan[Attempt](r, bucketAttempts, "")
	sort.Slice(attempts, func(i, j int) bool { return attempts[i].Leaf < attempts[j].Leaf })
	return attempts, err
}

// RecentAttempts are the attempts of blocks since a header time, in the order in
// which they came. It takes as long as these are many, whatever came before them.
func RecentAttempts(r Reader, since int64) (attempts []Attempt, err error) {
	last := r.Get(bucketCounted, keyLast)
	if last == nil {
		return nil, nil
	}
	for number := int64(binary.BigEndian.Uint64(last)); number >= 0; number-- {
		id := r.Get(bucketCounted, be64(number))
		if len(id) != len(record.Hash{}) {
			return nil, fmt.Errorf("attempt %d: %w", number, ErrNotFound)
		}
		a, err := AttemptByID(r, record.Hash(id))
		if err != nil {
			return nil, err
		}
		if a.Time < since {
			break
		}
		attempts = append(attempts, *a)
	}
	slices.Reverse(attempts)
	return attempts, nil
}

// NewestAttempt is the newest attempt of a recipe on a platform, or
// ErrNotFound.
func NewestAttempt(r Reader, recipe record.Hash, platform string) (*Attempt, error) {
	var last newest
	if err := GetJSON(r, bucketNewest, newestKey(recipe, platform), &last); err != nil {
		return nil, err
	}
	return AttemptByID(r, last.ID)
}

func scan[T any](r Reader, bucket, prefix string) (values []T, err error) {
	values = []T{}
	r.Scan(bucket, []byte(prefix), func(_, data []byte) bool {
		var value T
		if err = record.Unmarshal(data, &value); err != nil {
			return false
		}
		values = append(values, value)
		return true
	})
	return values, err
}
