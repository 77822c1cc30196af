// Package ledger is the state that the log's leaves add up to: members,
// recipes, attempts and publications, and the rules by which each leaf changes
// it.
//
// The rules are those of docs/protocol.md, "From request to publication". They
// are applied the same way when a block is proposed, checked, appended or
// replayed. Everything here is pure: the caller gives a transaction, a height
// and a time.
package ledger

import (
	"errors"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// ErrNotFound is returned for what the state does not hold.
var ErrNotFound = errors.New("not on the chain")

// Reader reads one consistent state. Values must not be changed nor kept after
// the transaction.
type Reader interface {
	Get(bucket string, key []byte) []byte
	// Scan calls visit for the keys with the prefix in byte order until it
	// returns false.
	Scan(bucket string, prefix []byte, visit func(key, value []byte) bool)
}

// Tx is one transaction.
type Tx interface {
	Reader
	Put(bucket string, key, value []byte) error
}

// The buckets of the state.
const (
	bucketRecipes  = "recipes"  // recipe hash → Recipe
	bucketLive     = "live"     // package → recipe hash
	bucketOwners   = "owners"   // file name → recipe hash
	bucketAttempts = "attempts" // attempt leaf hash → Attempt
	bucketCounted  = "counted"  // number of an attempt, from 0 → its leaf hash; "last" → the newest one's number
	bucketNewest   = "newest"   // recipe hash, platform → newest
	bucketNames    = "names"    // file name → Entry
	bucketDigests  = "digests"  // SHA-256 → file name
	bucketTags     = "tags"     // package URL with the tag → manifest's file name
	bucketSets     = "sets"     // height from which it counts → setEntry; "last" → that of the newest
	bucketKeys     = "keys"     // every key that a member ever had → identity
	bucketMembers  = "members"  // identity → member, of those whose keys changed
	bucketEvidence = "evidence" // identity, offence → Evidence
)

// Buckets are all buckets that a transaction must know.
var Buckets = []string{
	bucketRecipes, bucketLive, bucketOwners, bucketAttempts, bucketCounted, bucketNewest, bucketNames, bucketDigests, bucketTags,
	bucketSets, bucketKeys, bucketMembers, bucketEvidence,
}

// Recipe is a recipe on the chain.
type Recipe struct {
	Hash    record.Hash     `json:"hash"`
	Leaf    int64           `json:"leaf"`
	Height  int64           `json:"height"`
	Package artifact.PURL   `json:"package"`
	Files   []artifact.Name `json:"files"`
	Live    bool            `json:"live"` // no later recipe supersedes it
	Recipe  record.Raw      `json:"recipe"`
}

// Status is where an attempt stands.
type Status string

// The statuses of an attempt. An open or committed one whose deadline has
// passed in header time counts as expired.
const (
	StatusOpen      Status = "open"      // members build and commit
	StatusCommitted Status = "committed" // a majority committed; members reveal
	StatusPublished Status = "published"
	StatusDisagreed Status = "disagreed" // no statement can reach a majority
)

// Attempt is an attempt on the chain.
type Attempt struct {
	ID            record.Hash       `json:"id"` // leaf hash
	Leaf          int64             `json:"leaf"`
	Height        int64             `json:"height"`
	Time          int64             `json:"time"` // of its block
	Attempt       record.Attempt    `json:"attempt"`
	Holders       []record.Identity `json:"holders"`
	Package       artifact.PURL     `json:"package"`
	Status        Status            `json:"status"`
	Commits       []record.Commit   `json:"commits"`
	CommitLeaf    int64             `json:"commitLeaf"` // the commits leaf, 0 before
	CommitTime    int64             `json:"commitTime"` // of its block
	Votes         []Vote            `json:"votes"`
	Published     record.Hash       `json:"published"` // digest of the published statement
	PublishLeaf   int64             `json:"publishLeaf"`
	PublishHeight int64             `json:"publishHeight"`
}

// Vote is a member's revealed statement.
type Vote struct {
	Identity  record.Identity `json:"identity"`
	Statement record.Hash     `json:"statement"` // digest of its bytes
	Leaf      int64           `json:"leaf"`
	Late      bool            `json:"late"` // without a commit before the reveals: counts for nothing
}

// Expired tells whether the deadline passed without an outcome.
func (a *Attempt) Expired(headerTime int64) bool {
	return (a.Status == StatusOpen || a.Status == StatusCommitted) && headerTime > a.Attempt.Deadline
}

// Active tells whether members still work on the attempt.
func (a *Attempt) Active(headerTime int64) bool {
	return (a.Status == StatusOpen || a.Status == StatusCommitted) && headerTime <= a.Attempt.Deadline
}

// Open tells whether a member's build still says something: while the attempt
// is active, and, late, after its publication until its deadline.
func (a *Attempt) Open(headerTime int64) bool {
	return a.Active(headerTime) || (a.Status == StatusPublished && headerTime <= a.Attempt.Deadline)
}

// Committed is the value that a member committed to.
func (a *Attempt) Committed(id record.Identity) (record.Hash, bool) {
	for _, c := range a.Commits {
		if c.Identity == id {
			return c.Value, true
		}
	}
	return record.Hash{}, false
}

// VoteOf is a member's vote.
func (a *Attempt) VoteOf(id record.Identity) (Vote, bool) {
	for _, v := range a.Votes {
		if v.Identity == id {
			return v, true
		}
	}
	return Vote{}, false
}

// Agreeing counts the members whose vote is the published statement. Late
// votes do not count: they may be copies.
func (a *Attempt) Agreeing() (n int) {
	for _, v := range a.Votes {
		if v.Statement == a.Published && !v.Late {
			n++
		}
	}
	return n
}

// Entry is a published file.
type Entry struct {
	Subject record.Subject `json:"subject"`
	Attempt record.Hash    `json:"attempt"`
	Leaf    int64          `json:"leaf"` // publish leaf
	Height  int64          `json:"height"`
}

// GetJSON reads a value that PutJSON wrote, or ErrNotFound.
func GetJSON(r Reader, bucket string, key []byte, value any) error {
	data := r.Get(bucket, key)
	if data == nil {
		return ErrNotFound
	}
	return record.Unmarshal(data, value)
}

// PutJSON writes a value as record's canonical JSON. State is not hashed, and any
// form would do: this one is read in one pass, and refuses what a broken disk made
// of it.
func PutJSON(tx Tx, bucket string, key []byte, value any) error {
	data, err := record.Marshal(value)
	if err != nil {
		return err
	}
	return tx.Put(bucket, key, data)
}
