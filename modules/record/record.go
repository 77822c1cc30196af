// Package record is every byte of Pyrsia that is hashed or signed: leaves of
// the log, node records, statements, votes, checkpoints, recipes, locks and
// proofs. docs/protocol.md is its specification.
//
// Everything here is pure: no file, socket, clock or goroutine. Decoders take
// only the one encoding that the encoder writes, so that equal values are
// equal bytes on every node. Formats are frozen by byte goldens (testdata):
// the serialization of what exists cannot change; what is new is a new leaf
// type or a new version, valid from an upgrade's height on.
package record

import (
	"bytes"
	"fmt"

	"github.com/pyrsia/appliance/modules/artifact"
	"golang.org/x/mod/sumdb/tlog"
)

// MaxLeaf is the largest leaf in bytes: entries of C2SP tlog-tiles carry a
// 16-bit length.
const MaxLeaf = 65535

// LeafType names the kind of a leaf.
type LeafType string

// The leaf types of version 1.
const (
	TypeGenesis LeafType = "genesis"
	TypeRecipe  LeafType = "recipe"
	TypeAttempt LeafType = "attempt"
	TypeCommits LeafType = "commits"
	TypeFiles   LeafType = "files"
	TypePublish LeafType = "publish"
	TypeAttest  LeafType = "attest"
	TypeBlock   LeafType = "block"

	TypeKeyRotate LeafType = "key-rotate"
	TypeEvidence  LeafType = "evidence"
)

// Leaf is the body of a leaf: *Genesis, *RecipeLeaf, *AttemptLeaf,
// *CommitsLeaf, *FilesLeaf, *PublishLeaf, *AttestLeaf, *KeyRotateLeaf,
// *EvidenceLeaf or *Header.
type Leaf interface{ LeafType() LeafType }

// LeafType implements Leaf.
func (*Genesis) LeafType() LeafType       { return TypeGenesis }
func (*RecipeLeaf) LeafType() LeafType    { return TypeRecipe }
func (*AttemptLeaf) LeafType() LeafType   { return TypeAttempt }
func (*CommitsLeaf) LeafType() LeafType   { return TypeCommits }
func (*FilesLeaf) LeafType() LeafType     { return TypeFiles }
func (*PublishLeaf) LeafType() LeafType   { return TypePublish }
func (*AttestLeaf) LeafType() LeafType    { return TypeAttest }
func (*KeyRotateLeaf) LeafType() LeafType { return TypeKeyRotate }
func (*EvidenceLeaf) LeafType() LeafType  { return TypeEvidence }
func (*Header) LeafType() LeafType        { return TypeBlock }

// Genesis is the first leaf of a network. The SHA-256 of the leaf's bytes is
// the network's genesis hash, which operators pin in pyrsia.hcl.
type Genesis struct {
	Name      string       `json:"name"`      // the network's name, a host-like label
	Nodes     []NodeRecord `json:"nodes"`     // the first set, sorted by identity
	Order     string       `json:"order"`     // OrderMajority or OrderTwoThirds
	Platforms []string     `json:"platforms"` // such as "linux/amd64", sorted
	Salt      Hash         `json:"salt"`      // random, so that equal networks differ
	Timeouts  Timeouts     `json:"timeouts"`
}

// The order quorums that a genesis may choose.
const (
	OrderMajority  = "majority"
	OrderTwoThirds = "two-thirds"
)

// Timeouts are the network's times in milliseconds.
type Timeouts struct {
	Heartbeat int64 `json:"heartbeat"` // an empty block at the latest after this time
	Propose   int64 `json:"propose"`   // wait for a proposal in round 0
	Step      int64 `json:"step"`      // added per round
	Vote      int64 `json:"vote"`      // wait for more votes once a quorum voted
}

// NodeRecord introduces a build node: its keys, by whom it is run, and what it
// can build. It is signed by the identity and by every key in it: the record of a
// founder over SignBytes("node", zero hash, record without signatures), a later
// one over SignBytes("rotate", genesis hash, record without signatures).
type NodeRecord struct {
	CosignerKey PublicKey      `json:"cosignerKey"` // C2SP signature type 0x04
	Identity    Identity       `json:"identity"`
	LogKey      PublicKey      `json:"logKey"` // C2SP signature type 0x01, key name = origin
	Operator    string         `json:"operator"`
	Platforms   []string       `json:"platforms"`
	Seq         int64          `json:"seq"`
	Signatures  NodeSignatures `json:"signatures"`
	VoteKey     PublicKey      `json:"voteKey"` // commits, attestations, endorsements, votes
}

// Keys are the public keys of a record, the identity's last; that one is left
// out where the identity is malformed. They are not checked.
func (n *NodeRecord) Keys() []PublicKey {
	keys := []PublicKey{n.VoteKey, n.CosignerKey, n.LogKey}
	if identity, err := n.Identity.decode(); err == nil {
		keys = append(keys, identity)
	}
	return keys
}

// NodeSignatures are a node record's signatures.
type NodeSignatures struct {
	Cosigner Signature `json:"cosigner"`
	Identity Signature `json:"identity"`
	Log      Signature `json:"log"`
	Vote     Signature `json:"vote"`
}

// RecipeChange is what members endorse: that a recipe becomes the live one of
// its package and its files.
type RecipeChange struct {
	Files      []artifact.Name `json:"files"`      // what the recipe publishes, sorted; images name "manifest"
	Package    artifact.PURL   `json:"package"`    // whose recipe this is
	Recipe     Raw             `json:"recipe"`     // the canonical recipe itself
	Supersedes string          `json:"supersedes"` // hash of the recipe that ends with this one, or ""
}

// RecipeHash is the hash by which attempts name the recipe.
func (c RecipeChange) RecipeHash() Hash { return Digest(c.Recipe) }

// RecipeLeaf puts a recipe on the chain with the endorsements of a majority.
type RecipeLeaf struct {
	Change       RecipeChange  `json:"change"`
	Endorsements []Endorsement `json:"endorsements"` // sorted by identity
}

// Endorsement says that the change stands in the files of the member's
// operator now. It counts under the set it names, up to LastHeight.
type Endorsement struct {
	Change     Hash      `json:"change"` // Digest of the canonical change
	Identity   Identity  `json:"identity"`
	LastHeight int64     `json:"lastHeight"`
	Seq        int64     `json:"seq"` // a higher one replaces or withdraws
	Set        Hash      `json:"set"`
	Signature  Signature `json:"signature"`
}

// Attempt is one try at building a recipe: everything that a build depends on.
type Attempt struct {
	Asker    Identity            `json:"asker"`
	Deadline int64               `json:"deadline"` // header time in milliseconds since 1970
	Engine   string              `json:"engine"`   // how outputs are made, such as "buildkit/30"
	Lock     artifact.Descriptor `json:"lock"`     // of the canonical lock
	Number   int64               `json:"number"`   // from 1
	Platform string              `json:"platform"`
	Recipe   Hash                `json:"recipe"`
}

// AttemptLeaf opens an attempt: a majority of members each got every file of
// the lock itself, by its proof.
type AttemptLeaf struct {
	Attempt  Attempt   `json:"attempt"`
	Holdings []Holding `json:"holdings"` // sorted by identity
}

// Holding is a member's signature over the digest of an attempt: "I have
// myself got every file of this lock, by its proof".
type Holding struct {
	Identity  Identity  `json:"identity"`
	Signature Signature `json:"signature"`
}

// CommitsLeaf fixes what members will reveal, before anyone reveals.
type CommitsLeaf struct {
	Attempt Hash     `json:"attempt"` // leaf hash of the attempt
	Commits []Commit `json:"commits"` // sorted by identity
}

// Commit hides a statement until it is revealed: Value is CommitValue.
type Commit struct {
	Identity  Identity  `json:"identity"`
	Signature Signature `json:"signature"`
	Value     Hash      `json:"value"`
}

// Reveal opens a commit.
type Reveal struct {
	Identity Identity `json:"identity"`
	Salt     Hash     `json:"salt"`
}

// PublishLeaf publishes a statement that a majority signed.
type PublishLeaf struct {
	Attempt  Hash     `json:"attempt"`
	Envelope Envelope `json:"envelope"`
	Reveals  []Reveal `json:"reveals"` // one per signature, same order
}

// AttestLeaf records further signatures for an attempt: later equal ones, or
// dissent.
type AttestLeaf struct {
	Attempt  Hash     `json:"attempt"`
	Envelope Envelope `json:"envelope"`
	Reveals  []Reveal `json:"reveals"`
}

// FilesLeaf carries a part of a file list that is too long to stand in its
// statement. The parts stand just before their publish leaf in the same block.
type FilesLeaf struct {
	Attempt Hash      `json:"attempt"`
	List    Hash      `json:"list"` // Digest of the canonical list of all files
	Part    int64     `json:"part"` // from 0
	Parts   int64     `json:"parts"`
	Files   []Subject `json:"files"`
}

// KeyRotateLeaf gives a member new vote, cosigner and log keys, by a later
// record of its identity: what a member does that lost its vote state, or
// doubts it. It asks nobody's consent, since the identity stays the same.
type KeyRotateLeaf struct {
	Record NodeRecord `json:"record"`
}

// Header is the last leaf of its block.
type Header struct {
	Height       int64    `json:"height"` // genesis is block 0
	NextSet      Hash     `json:"nextSet"`
	PreviousRoot Hash     `json:"previousRoot"`
	PreviousSize int64    `json:"previousSize"`
	Proposer     Identity `json:"proposer"`
	Set          Hash     `json:"set"`
	State        string   `json:"state"` // reserved: empty in version 1
	Time         int64    `json:"time"`  // milliseconds since 1970
}

// A leaf is the canonical JSON of an object with a body, a type and a version.
// Since these are its only members, and sorted, it is written and cut apart
// as text: appending a block decodes each body once and nothing twice.
const (
	leafHead    = `{"body":`
	leafType    = `,"type":"`
	leafVersion = `","version":1}`
)

// EncodeLeaf is the leaf's bytes: canonical JSON of body, type and version.
func EncodeLeaf(leaf Leaf) ([]byte, error) {
	body, err := Marshal(leaf)
	if err != nil {
		return nil, err
	}
	if err := Raw(body).check(); err != nil {
		return nil, err
	}
	data := make([]byte, 0, len(leafHead)+len(body)+len(leafType)+16+len(leafVersion))
	data = append(append(data, leafHead...), body...)
	data = append(append(append(data, leafType...), leaf.LeafType()...), leafVersion...)
	if len(data) > MaxLeaf {
		return nil, fmt.Errorf("%w: %s leaf of %d bytes, the limit is %d", ErrMalformed, leaf.LeafType(), len(data), MaxLeaf)
	}
	return data, nil
}

// DecodeLeaf reads a leaf; it is valid exactly if EncodeLeaf writes the same
// bytes again.
func DecodeLeaf(data []byte) (Leaf, error) {
	if len(data) > MaxLeaf {
		return nil, fmt.Errorf("%w: leaf of %d bytes, the limit is %d", ErrMalformed, len(data), MaxLeaf)
	}
	rest, isObject := bytes.CutPrefix(data, []byte(leafHead))
	rest, isVersion := bytes.CutSuffix(rest, []byte(leafVersion))
	cut := bytes.LastIndex(rest, []byte(leafType))
	if !isObject || !isVersion || cut < 0 {
		return nil, fmt.Errorf("%w: no leaf of version 1: %.40q", ErrMalformed, data)
	}
	body, kind := rest[:cut], LeafType(rest[cut+len(leafType):])
	leaf := newLeaf(kind)
	if leaf == nil {
		return nil, fmt.Errorf("%w: unknown leaf type %.40q", ErrMalformed, kind)
	}
	if err := unmarshal(body, leaf, true); err != nil {
		return nil, err
	}
	return leaf, nil
}

func newLeaf(kind LeafType) Leaf {
	switch kind {
	case TypeGenesis:
		return new(Genesis)
	case TypeRecipe:
		return new(RecipeLeaf)
	case TypeAttempt:
		return new(AttemptLeaf)
	case TypeCommits:
		return new(CommitsLeaf)
	case TypeFiles:
		return new(FilesLeaf)
	case TypePublish:
		return new(PublishLeaf)
	case TypeAttest:
		return new(AttestLeaf)
	case TypeKeyRotate:
		return new(KeyRotateLeaf)
	case TypeEvidence:
		return new(EvidenceLeaf)
	case TypeBlock:
		return new(Header)
	}
	return nil
}

// LeafHash is the RFC 6962 hash of a leaf's bytes, by which other leaves name
// it.
func LeafHash(data []byte) Hash { return Hash(tlog.RecordHash(data)) }
