package record

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
	"golang.org/x/mod/sumdb/tlog"
)

// ErrNotProven is wrapped where a good proof is not one of what is asked.
var ErrNotProven = errors.New("the proof is of something else")

// Bundle is everything that proves a published file without a network: a
// C2SP tlog-proof of its publish leaf, whose extra data carries the leaves.
type Bundle struct {
	Extra BundleExtra
	Index int64  // of the publish leaf
	Proof []Hash // that the leaf is in the log of Note
	Note  []byte // the newest signed checkpoint of who wrote the bundle
}

// BundleExtra is the extra data, as canonical JSON.
type BundleExtra struct {
	Files   []ProvenLeaf `json:"files"`   // the publication's file list, if it has one
	Genesis []byte       `json:"genesis"` // bytes of the genesis leaf, checked by the pin
	Header  ProvenLeaf   `json:"header"`  // of the leaf's block
	Last    ProvenLeaf   `json:"last"`    // header of the newest block
	Leaf    []byte       `json:"leaf"`    // bytes of the publish leaf
	Sets    []SetProof   `json:"sets"`    // the changes of the set since the genesis, oldest first
}

// SetProof proves a change of the set to who knows the set before: a quorum of
// that one cosigned the log up to a header that names the new set.
type SetProof struct {
	Header ProvenLeaf `json:"header"` // of the block before the change takes effect; proven in Note's log
	Leaf   []byte     `json:"leaf"`   // bytes of the leaf that changed the set
	Note   []byte     `json:"note"`   // the signed checkpoint after Header's block
}

// ProvenLeaf is a leaf with its inclusion proof in the log of the bundle's
// checkpoint (RFC 6962 §2.1.1).
type ProvenLeaf struct {
	Index int64  `json:"index"`
	Leaf  []byte `json:"leaf"`
	Proof []Hash `json:"proof"`
}

const bundleHead = "c2sp.org/tlog-proof@v1"

// MaxBundle is the largest bundle in bytes.
const MaxBundle = 16 << 20

// Encode is the bundle's text (C2SP tlog-proof).
func (b *Bundle) Encode() []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s\nextra %s\nindex %d\n", bundleHead, base64.StdEncoding.EncodeToString(MustMarshal(b.Extra)), b.Index)
	for _, hash := range b.Proof {
		fmt.Fprintf(&out, "%s\n", base64.StdEncoding.EncodeToString(hash[:]))
	}
	out.WriteByte('\n')
	out.Write(b.Note)
	return out.Bytes()
}

// DecodeBundle reads Encode's form and no other.
func DecodeBundle(data []byte) (*Bundle, error) {
	if len(data) > MaxBundle {
		return nil, fmt.Errorf("proof: %w: %d bytes", ErrMalformed, len(data))
	}
	head, note, found := strings.Cut(string(data), "\n\n")
	lines := strings.SplitN(head, "\n", 3+64+1)
	if !found || len(lines) < 3 || len(lines) > 3+64 || lines[0] != bundleHead {
		return nil, fmt.Errorf("proof: %w: no C2SP tlog-proof", ErrMalformed)
	}
	b := &Bundle{Note: []byte(note)}
	extra, isExtra := strings.CutPrefix(lines[1], "extra ")
	index, isIndex := strings.CutPrefix(lines[2], "index ")
	decoded, err := base64.StdEncoding.Strict().DecodeString(extra)
	if !isExtra || !isIndex || err != nil {
		return nil, fmt.Errorf("proof: %w: want an extra line and an index line", ErrMalformed)
	}
	if err := Unmarshal(decoded, &b.Extra); err != nil {
		return nil, fmt.Errorf("proof: %w", err)
	}
	if b.Index, err = strconv.ParseInt(index, 10, 64); err != nil || b.Index < 0 {
		return nil, fmt.Errorf("proof: %w: index %.40q", ErrMalformed, index)
	}
	for _, line := range lines[3:] {
		var hash Hash
		if err := decodeBase64(hash[:], []byte(line)); err != nil {
			return nil, fmt.Errorf("proof: %w", err)
		}
		b.Proof = append(b.Proof, hash)
	}
	if !bytes.Equal(b.Encode(), data) {
		return nil, fmt.Errorf("proof: %w: not in canonical form", ErrMalformed)
	}
	return b, nil
}

// Verdict is what a bundle proves about a file.
type Verdict struct {
	Network   string
	Subject   Subject
	Statement *Statement
	Signers   []Identity // who signed this statement, a majority
	Members   int        // N
	Height    int64      // of the block that published it
	Time      int64      // of that block, milliseconds since 1970
	Size      int64      // of the log that the proof was made for
	AsOf      int64      // median of the checkpoint's cosignatures, seconds since 1970
}

// VerifyBundle verifies offline, from nothing but the network's genesis hash,
// that the file with the given digests is published: the genesis by its hash,
// the checkpoint by its quorum, the leaves by their inclusion proofs, the
// statement by a majority of signatures.
func VerifyBundle(data []byte, genesis Hash, file artifact.Descriptor) (*Verdict, error) {
	b, err := DecodeBundle(data)
	if err != nil {
		return nil, err
	}
	if Digest(b.Extra.Genesis) != genesis {
		return nil, fmt.Errorf("%w: it is for the network sha256:%s, not sha256:%s; give the genesis of its own network, if you trust that", ErrNotProven, Digest(b.Extra.Genesis), genesis)
	}
	// The node records' own signatures say that the founders had the keys. Nodes
	// run on no genesis without them; for a verifier the pinned hash says as
	// much, and checking them would take most of its time.
	founding, set, err := readGenesis(b.Extra.Genesis)
	if err != nil {
		return nil, err
	}
	eras, err := b.eras(Network{Name: founding.Name, Genesis: genesis}, set)
	if err != nil {
		return nil, err
	}
	signed, err := OpenCheckpoint(b.Note, founding.Name, genesis, eras[len(eras)-1].set)
	if err != nil {
		return nil, fmt.Errorf("proof: %w", err)
	}
	v := &Verdict{Network: founding.Name, Size: signed.Size, AsOf: signed.FreshAt()}
	if set, err = b.checkHeaders(signed, eras, v); err != nil {
		return nil, err
	}
	v.Members = set.Size()
	if err := b.checkPublication(signed, genesis, set, file, v); err != nil {
		return nil, err
	}
	return v, nil
}

// era is a set and the height from which on it counts.
type era struct {
	from int64
	set  *Set
}

// eras follows the set from the genesis to the bundle's checkpoint, each change
// by the signatures of the set before it.
func (b *Bundle) eras(network Network, set *Set) ([]era, error) {
	eras := []era{{set: set}}
	for _, p := range b.Extra.Sets {
		last := eras[len(eras)-1]
		next, err := p.verify(network, last)
		if err != nil {
			return nil, fmt.Errorf("proof: change of the set after height %d: %w", last.from, err)
		}
		eras = append(eras, next)
	}
	return eras, nil
}

func (p SetProof) verify(network Network, before era) (era, error) {
	signed, err := OpenCheckpoint(p.Note, network.Name, network.Genesis, before.set)
	if err != nil {
		return era{}, err
	}
	header, err := openHeader(signed, p.Header)
	if err != nil {
		return era{}, err
	}
	set, err := changedSet(network.Genesis, before.set, p.Leaf)
	if err != nil {
		return era{}, err
	}
	if p.Header.Index != signed.Size-1 || header.Height <= before.from || header.Set != before.set.Hash() || header.NextSet != set.Hash() {
		return era{}, fmt.Errorf("%w: the header does not name the new set", ErrMalformed)
	}
	return era{from: header.Height + 1, set: set}, nil
}

// changedSet is the set that a leaf makes of the one before.
func changedSet(genesis Hash, before *Set, leaf []byte) (*Set, error) {
	decoded, err := DecodeLeaf(leaf)
	if err != nil {
		return nil, err
	}
	rotation, ok := decoded.(*KeyRotateLeaf)
	if !ok {
		return nil, fmt.Errorf("%w: a %s leaf changes no set", ErrMalformed, decoded.LeafType())
	}
	return before.Rotate(genesis, rotation.Record)
}

// networkName is a host-like label: it stands in the origin and in key names
// of C2SP notes, which take neither spaces nor "+", and "/" separates it there.
var networkName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

// OpenGenesis decodes a genesis leaf and checks its node records.
func OpenGenesis(data []byte) (*Genesis, *Set, error) {
	genesis, set, err := readGenesis(data)
	if err != nil {
		return nil, nil, err
	}
	for _, node := range genesis.Nodes {
		if err := node.Check(); err != nil {
			return nil, nil, fmt.Errorf("genesis: %w", err)
		}
	}
	return genesis, set, nil
}

func readGenesis(data []byte) (*Genesis, *Set, error) {
	leaf, err := DecodeLeaf(data)
	if err != nil {
		return nil, nil, fmt.Errorf("genesis: %w", err)
	}
	genesis, ok := leaf.(*Genesis)
	if !ok {
		return nil, nil, fmt.Errorf("genesis: %w: it is a %s leaf", ErrMalformed, leaf.LeafType())
	}
	if !networkName.MatchString(genesis.Name) {
		return nil, nil, fmt.Errorf("genesis: %w: network name %.60q: want up to 63 lower-case letters, digits, dots and hyphens", ErrMalformed, genesis.Name)
	}
	t := genesis.Timeouts
	if t.Heartbeat <= 0 || t.Propose <= 0 || t.Step <= 0 || t.Vote <= 0 {
		return nil, nil, fmt.Errorf("genesis: %w: timeouts must be above 0", ErrMalformed)
	}
	set, err := NewSet(genesis.Nodes, genesis.Order)
	if err != nil {
		return nil, nil, fmt.Errorf("genesis: %w", err)
	}
	return genesis, set, nil
}

func checkInclusion(signed *SignedCheckpoint, index int64, leaf []byte, proof []Hash) error {
	path := make(tlog.RecordProof, len(proof))
	for i, hash := range proof {
		path[i] = tlog.Hash(hash)
	}
	if index < 0 || index >= signed.Size {
		return fmt.Errorf("proof: %w: leaf %d of a log of %d", ErrMalformed, index, signed.Size)
	}
	if err := tlog.CheckRecord(path, signed.Size, tlog.Hash(signed.Root), index, tlog.Hash(LeafHash(leaf))); err != nil {
		return fmt.Errorf("proof: %w: leaf %d is not in the log: %v", ErrMalformed, index, err)
	}
	return nil
}

// openHeader is a header that is proven to be in a log.
func openHeader(signed *SignedCheckpoint, proven ProvenLeaf) (*Header, error) {
	if err := checkInclusion(signed, proven.Index, proven.Leaf, proven.Proof); err != nil {
		return nil, err
	}
	leaf, err := DecodeLeaf(proven.Leaf)
	if err != nil {
		return nil, err
	}
	header, ok := leaf.(*Header)
	if !ok {
		return nil, fmt.Errorf("proof: %w: leaf %d is no header", ErrMalformed, proven.Index)
	}
	// The genesis stands alone at height 0 and has no header, so every set that
	// counts since then is older than any header.
	if header.Height < 1 {
		return nil, fmt.Errorf("proof: %w: a header of height %d", ErrMalformed, header.Height)
	}
	return header, nil
}

// checkHeaders verifies the two headers and returns the set of the publication's
// block.
func (b *Bundle) checkHeaders(signed *SignedCheckpoint, eras []era, v *Verdict) (*Set, error) {
	header, err := openHeader(signed, b.Extra.Header)
	if err != nil {
		return nil, err
	}
	last, err := openHeader(signed, b.Extra.Last)
	if err != nil {
		return nil, err
	}
	if b.Index < header.PreviousSize || b.Index >= b.Extra.Header.Index || b.Extra.Last.Index != signed.Size-1 {
		return nil, fmt.Errorf("proof: %w: the headers are of other blocks", ErrMalformed)
	}
	current := eras[len(eras)-1]
	if last.Height < current.from || last.Set != current.set.Hash() {
		return nil, fmt.Errorf("proof: %w: the newest block is of another set", ErrMalformed)
	}
	own := current
	for i := len(eras) - 1; own.from > header.Height; i-- {
		own = eras[i-1]
	}
	if header.Set != own.set.Hash() {
		return nil, fmt.Errorf("proof: %w: the publication's block is of another set", ErrMalformed)
	}
	v.Height, v.Time = header.Height, header.Time
	return own.set, nil
}

func (b *Bundle) checkPublication(signed *SignedCheckpoint, genesis Hash, set *Set, file artifact.Descriptor, v *Verdict) error {
	if err := checkInclusion(signed, b.Index, b.Extra.Leaf, b.Proof); err != nil {
		return err
	}
	leaf, err := DecodeLeaf(b.Extra.Leaf)
	if err != nil {
		return err
	}
	publication, ok := leaf.(*PublishLeaf)
	if !ok {
		return fmt.Errorf("proof: %w: leaf %d is a %s, not a publication", ErrMalformed, b.Index, leaf.LeafType())
	}
	attestations, _, err := Attestations(publication.Attempt, publication.Envelope, publication.Reveals)
	if err != nil {
		return err
	}
	for _, a := range attestations {
		if err := set.verify(a.Identity, a.Signature, func() []byte { return PAE(PayloadType, a.Statement) }); err != nil {
			return fmt.Errorf("proof: %w", err)
		}
		v.Signers = append(v.Signers, a.Identity)
	}
	if len(v.Signers) < set.Majority() {
		return fmt.Errorf("proof: %w: %d of %d members signed, want %d", ErrMalformed, len(v.Signers), set.Size(), set.Majority())
	}
	if v.Statement, err = publication.Envelope.Statement(); err != nil {
		return err
	}
	if v.Statement.Predicate.Network != genesis || v.Statement.Predicate.Attempt != publication.Attempt {
		return fmt.Errorf("proof: %w: the statement is of another network or attempt", ErrMalformed)
	}
	subjects, err := b.subjects(signed, v.Statement)
	if err != nil {
		return err
	}
	for _, s := range subjects {
		if s.Descriptor() == file {
			v.Subject = s
			return nil
		}
	}
	return fmt.Errorf("%w: the publication does not name a file with sha256 %s; get file and proof again, from one node", ErrNotProven, file.SHA256)
}

func (b *Bundle) subjects(signed *SignedCheckpoint, statement *Statement) ([]Subject, error) {
	if !statement.HasFileList() {
		return statement.Subject, nil
	}
	var subjects []Subject
	for _, proven := range b.Extra.Files {
		if err := checkInclusion(signed, proven.Index, proven.Leaf, proven.Proof); err != nil {
			return nil, err
		}
		leaf, err := DecodeLeaf(proven.Leaf)
		if err != nil {
			return nil, err
		}
		files, ok := leaf.(*FilesLeaf)
		if !ok {
			return nil, fmt.Errorf("proof: %w: leaf %d is no file list", ErrMalformed, proven.Index)
		}
		subjects = append(subjects, files.Files...)
	}
	return subjects, CheckFileList(statement, subjects)
}

// CheckFileList tells whether the files are the list that the statement names,
// and too long to stand in it.
func CheckFileList(statement *Statement, files []Subject) error {
	if err := checkSubjects(files); err != nil {
		return fmt.Errorf("file list: %w", err)
	}
	list, err := Marshal(files)
	if err != nil {
		return fmt.Errorf("file list: %w", err)
	}
	if !statement.HasFileList() || statement.Subject[0] != fileListSubject(list) {
		return fmt.Errorf("file list: %w: it is not the one that the statement names", ErrMalformed)
	}
	if standsInline(files, list) {
		return fmt.Errorf("file list: %w: %d files stand in the statement itself", ErrMalformed, len(files))
	}
	return nil
}
