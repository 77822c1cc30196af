package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// Checkpoint is the state of the log after a block (C2SP tlog-checkpoint).
// (Size, Root) identifies the block; Q cosignatures on it commit the block.
type Checkpoint struct {
	Origin string
	Size   int64
	Root   Hash
}

// Origin is the log's origin line: the network's name and full genesis hash.
func Origin(network string, genesis Hash) string { return network + "/" + genesis.String() }

// CosignerName is the key name of a member's cosigner key.
func CosignerName(network string, id Identity) string { return network + "/" + string(id) }

// Body is the checkpoint's text, what the log signature (type 0x01) signs.
func (c Checkpoint) Body() string {
	return c.Origin + "\n" + strconv.FormatInt(c.Size, 10) + "\n" + base64.StdEncoding.EncodeToString(c.Root[:]) + "\n"
}

// ParseCheckpointBody reads a checkpoint's three lines; extension lines are
// refused.
func ParseCheckpointBody(body string) (Checkpoint, error) {
	lines := strings.SplitN(body, "\n", 5)
	if len(lines) != 4 || lines[3] != "" {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w: want origin, size and root", ErrMalformed)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w: size %.40q", ErrMalformed, lines[1])
	}
	c := Checkpoint{Origin: lines[0], Size: size}
	if err := decodeBase64(c.Root[:], []byte(lines[2])); err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: root: %w", err)
	}
	if c.Body() != body || c.Origin == "" {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w: not in canonical form", ErrMalformed)
	}
	return c, nil
}

// The C2SP signature types in use (C2SP signed-note, "Signature types").
const (
	typeEd25519     = 0x01
	typeCosignature = 0x04
)

func keyID(name string, kind byte, key PublicKey) []byte {
	sum := sha256.Sum256(append([]byte(name+"\n"), append([]byte{kind}, key[:]...)...))
	return sum[:4]
}

// Cosignature is a member's signature that commits a block (C2SP
// tlog-cosignature, cosignature/v1).
type Cosignature struct {
	Identity  Identity  `json:"identity"`
	Signature Signature `json:"signature"`
	Time      int64     `json:"time"` // seconds since 1970, when it was made
}

func cosignatureMessage(c Checkpoint, seconds int64) []byte {
	return []byte("cosignature/v1\ntime " + strconv.FormatInt(seconds, 10) + "\n" + c.Body())
}

// SignCosignature cosigns a checkpoint at the given time.
func SignCosignature(c Checkpoint, id Identity, seconds int64, cosigner Signer) (Cosignature, error) {
	signature, err := cosigner.Sign(cosignatureMessage(c, seconds))
	return Cosignature{Identity: id, Signature: signature, Time: seconds}, err
}

// Check verifies a cosignature of a member of the set.
func (s Cosignature) Check(c Checkpoint, set *Set) error {
	node, ok := set.Node(s.Identity)
	if !ok {
		return fmt.Errorf("cosignature: %w: %s is not in the set", ErrMalformed, s.Identity)
	}
	if s.Time < 0 || !node.CosignerKey.Verify(cosignatureMessage(c, s.Time), s.Signature) {
		return fmt.Errorf("cosignature: %w: that of %s does not verify", ErrMalformed, s.Identity)
	}
	return nil
}

// MaxNote is the largest signed checkpoint in bytes.
const MaxNote = 64 << 10

// SignedCheckpoint is a checkpoint with its proposer's log signature and
// exactly Q cosignatures, sorted by identity.
type SignedCheckpoint struct {
	Checkpoint
	Proposer     Identity
	LogSignature Signature
	Cosignatures []Cosignature
}

// FreshAt is the median of the cosignatures' times in seconds since 1970: when
// a majority of the cosigners, so at least one honest one, had this state.
func (s *SignedCheckpoint) FreshAt() int64 {
	times := make([]int64, 0, len(s.Cosignatures))
	for _, c := range s.Cosignatures {
		times = append(times, c.Time)
	}
	sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
	if len(times) == 0 {
		return 0
	}
	return times[(len(times)-1)/2]
}

// Encode is the checkpoint as a C2SP signed note.
func (s *SignedCheckpoint) Encode(network string, set *Set) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(s.Body())
	b.WriteByte('\n')
	proposer, ok := set.Node(s.Proposer)
	if !ok {
		return nil, fmt.Errorf("checkpoint: %w: proposer %s is not in the set", ErrMalformed, s.Proposer)
	}
	writeSignature(&b, s.Origin, append(keyID(s.Origin, typeEd25519, proposer.LogKey), s.LogSignature[:]...))
	for _, c := range s.Cosignatures {
		node, ok := set.Node(c.Identity)
		if !ok {
			return nil, fmt.Errorf("checkpoint: %w: cosigner %s is not in the set", ErrMalformed, c.Identity)
		}
		name := CosignerName(network, c.Identity)
		data := keyID(name, typeCosignature, node.CosignerKey)
		data = binary.BigEndian.AppendUint64(data, uint64(c.Time))
		writeSignature(&b, name, append(data, c.Signature[:]...))
	}
	return b.Bytes(), nil
}

func writeSignature(b *bytes.Buffer, name string, data []byte) {
	fmt.Fprintf(b, "— %s %s\n", name, base64.StdEncoding.EncodeToString(data))
}

// OpenCheckpoint reads a signed checkpoint and verifies it under a set: the
// origin, the log signature of a member, exactly Q cosignatures of members in
// canonical order.
func OpenCheckpoint(note []byte, network string, genesis Hash, set *Set) (*SignedCheckpoint, error) {
	if len(note) > MaxNote {
		return nil, fmt.Errorf("checkpoint: %w: %d bytes, the limit is %d", ErrMalformed, len(note), MaxNote)
	}
	body, signatures, found := strings.Cut(string(note), "\n\n")
	if !found {
		return nil, fmt.Errorf("checkpoint: %w: no signed note", ErrMalformed)
	}
	c, err := ParseCheckpointBody(body + "\n")
	if err != nil {
		return nil, err
	}
	if c.Origin != Origin(network, genesis) {
		return nil, fmt.Errorf("checkpoint: %w: origin %.120q is not this network's", ErrMalformed, c.Origin)
	}
	s := &SignedCheckpoint{Checkpoint: c}
	lines := strings.Split(strings.TrimSuffix(signatures, "\n"), "\n")
	if len(lines) != set.Quorum()+1 {
		return nil, fmt.Errorf("checkpoint: %w: %d signatures, want the proposer's and %d cosignatures", ErrMalformed, len(lines), set.Quorum())
	}
	if err := s.openLogSignature(lines[0], set); err != nil {
		return nil, err
	}
	for _, line := range lines[1:] {
		if err := s.openCosignature(line, set); err != nil {
			return nil, err
		}
	}
	again, err := s.Encode(network, set)
	if err != nil || !bytes.Equal(again, note) {
		return nil, fmt.Errorf("checkpoint: %w: not in canonical form", ErrMalformed)
	}
	return s, nil
}

func parseSignature(line string) (name string, data []byte, err error) {
	fields := strings.Split(line, " ")
	if len(fields) != 3 || fields[0] != "—" {
		return "", nil, fmt.Errorf("checkpoint: %w: signature line %.120q", ErrMalformed, line)
	}
	data, err = base64.StdEncoding.Strict().DecodeString(fields[2])
	if err != nil {
		return "", nil, fmt.Errorf("checkpoint: %w: signature line %.120q", ErrMalformed, line)
	}
	return fields[1], data, nil
}

func (s *SignedCheckpoint) openLogSignature(line string, set *Set) error {
	name, data, err := parseSignature(line)
	if err != nil {
		return err
	}
	if name != s.Origin || len(data) != 4+64 {
		return fmt.Errorf("checkpoint: %w: the first signature is not the log's", ErrMalformed)
	}
	copy(s.LogSignature[:], data[4:])
	for _, node := range set.Nodes {
		if bytes.Equal(keyID(name, typeEd25519, node.LogKey), data[:4]) && node.LogKey.Verify([]byte(s.Body()), s.LogSignature) {
			s.Proposer = node.Identity
			return nil
		}
	}
	return fmt.Errorf("checkpoint: %w: the log signature is of no member", ErrMalformed)
}

func (s *SignedCheckpoint) openCosignature(line string, set *Set) error {
	name, data, err := parseSignature(line)
	if err != nil {
		return err
	}
	if len(data) != 4+8+64 {
		return fmt.Errorf("checkpoint: %w: cosignature of %d bytes", ErrMalformed, len(data))
	}
	id := Identity(name[strings.LastIndex(name, "/")+1:])
	if n := len(s.Cosignatures); n > 0 && s.Cosignatures[n-1].Identity >= id {
		return fmt.Errorf("checkpoint: %w: cosignatures are not sorted by identity, one each", ErrMalformed)
	}
	cosignature := Cosignature{Identity: id, Time: int64(binary.BigEndian.Uint64(data[4:12]))}
	copy(cosignature.Signature[:], data[12:])
	if err := cosignature.Check(s.Checkpoint, set); err != nil {
		return err
	}
	s.Cosignatures = append(s.Cosignatures, cosignature)
	return nil
}

// SignLog makes the proposer's log signature.
func SignLog(c Checkpoint, log Signer) (Signature, error) { return log.Sign([]byte(c.Body())) }
