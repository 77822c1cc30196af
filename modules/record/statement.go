package record

import (
	"fmt"
	"sort"

	"github.com/pyrsia/appliance/modules/artifact"
)

// The type names of in-toto attestations and of ours (in-toto Attestation
// Framework v1, "Statement" and "Envelope").
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "urn:pyrsia:build:v1"
	PayloadType   = "application/vnd.in-toto+json"
)

// A statement lists up to MaxInlineSubjects subjects of up to MaxInlineBytes
// bytes of canonical JSON itself; above that its only subject is the canonical
// file list, whose content stands in files leaves. The bytes are bounded so
// that long names cannot make a publish leaf that is larger than MaxLeaf.
const (
	MaxInlineSubjects = 64
	MaxInlineBytes    = 32 << 10
)

// FileListName is the name of that only subject.
const FileListName = "files"

// Statement is what every builder signs, the same bytes for all: which files
// the attempt's build made. It holds no time, no node and no set.
type Statement struct {
	Predicate     Predicate `json:"predicate"`
	PredicateType string    `json:"predicateType"`
	Subject       []Subject `json:"subject"` // sorted by uri and name
	Type          string    `json:"_type"`
}

// Predicate binds the statement to its attempt and network.
type Predicate struct {
	Attempt Hash `json:"attempt"` // leaf hash of the attempt
	Network Hash `json:"network"` // genesis hash
}

// Subject is one file: an in-toto ResourceDescriptor.
type Subject struct {
	Annotations Annotations   `json:"annotations"`
	Digest      Digests       `json:"digest"`
	MediaType   string        `json:"mediaType,omitempty"`
	Name        string        `json:"name"`
	URI         artifact.PURL `json:"uri,omitempty"` // the package
}

// Annotations carry what a ResourceDescriptor has no member for.
type Annotations struct {
	Size int64 `json:"size"` // bytes
}

// Digests are both digests of a file, vouched for together.
type Digests struct {
	BLAKE3 artifact.BLAKE3 `json:"blake3"`
	SHA256 artifact.SHA256 `json:"sha256"`
}

// NewSubject names a file of a package.
func NewSubject(name artifact.Name, mediaType string, d artifact.Descriptor) Subject {
	return Subject{
		Annotations: Annotations{Size: d.Size},
		Digest:      Digests{BLAKE3: d.BLAKE3, SHA256: d.SHA256},
		MediaType:   mediaType,
		Name:        name.File,
		URI:         name.Package,
	}
}

// Descriptor is the file's digests and size.
func (s Subject) Descriptor() artifact.Descriptor {
	return artifact.Descriptor{BLAKE3: s.Digest.BLAKE3, SHA256: s.Digest.SHA256, Size: s.Annotations.Size}
}

// FileName is what the file is published as.
func (s Subject) FileName() artifact.Name { return artifact.Name{Package: s.URI, File: s.Name} }

func (s Subject) before(other Subject) bool {
	if s.URI != other.URI {
		return s.URI < other.URI
	}
	return s.Name < other.Name
}

func (s Subject) check() error {
	if s.Annotations.Size < 0 {
		return fmt.Errorf("%w: subject %q has a negative size", ErrMalformed, s.Name)
	}
	return s.FileName().Check()
}

// NewStatement is the statement that the attempt's build made these files, and
// the file list to publish with it, which is nil for up to 64 files. subjects
// is sorted in place.
func NewStatement(network, attempt Hash, subjects []Subject) (*Statement, []Subject, error) {
	sort.Slice(subjects, func(i, j int) bool { return subjects[i].before(subjects[j]) })
	if err := checkSubjects(subjects); err != nil {
		return nil, nil, err
	}
	s := &Statement{
		Predicate:     Predicate{Attempt: attempt, Network: network},
		PredicateType: PredicateType,
		Subject:       subjects,
		Type:          StatementType,
	}
	list, err := Marshal(subjects)
	if err != nil {
		return nil, nil, err
	}
	if standsInline(subjects, list) {
		return s, nil, nil
	}
	s.Subject = []Subject{fileListSubject(list)}
	return s, subjects, nil
}

// standsInline tells whether the subjects stand in their statement itself; list
// is their canonical JSON.
func standsInline(subjects []Subject, list []byte) bool {
	return len(subjects) <= MaxInlineSubjects && len(list) <= MaxInlineBytes
}

func fileListSubject(list []byte) Subject {
	return Subject{
		Annotations: Annotations{Size: int64(len(list))},
		Digest:      Digests{SHA256: artifact.SHA256(Digest(list)), BLAKE3: blake3Sum(list)},
		Name:        FileListName,
	}
}

func checkSubjects(subjects []Subject) error {
	if len(subjects) == 0 {
		return fmt.Errorf("%w: no subjects", ErrMalformed)
	}
	for i, s := range subjects {
		if err := s.check(); err != nil {
			return err
		}
		if i > 0 && !subjects[i-1].before(s) {
			return fmt.Errorf("%w: subject %q is out of order or twice", ErrMalformed, s.Name)
		}
	}
	return nil
}

// HasFileList tells whether the statement's files stand in files leaves.
func (s *Statement) HasFileList() bool {
	return len(s.Subject) == 1 && s.Subject[0].URI == "" && s.Subject[0].Name == FileListName
}

// DecodeStatement reads the one canonical form of a statement.
func DecodeStatement(data []byte) (*Statement, error) {
	s := new(Statement)
	if err := Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	if s.Type != StatementType || s.PredicateType != PredicateType {
		return nil, fmt.Errorf("statement: %w: type %.60q, predicate type %.60q", ErrMalformed, s.Type, s.PredicateType)
	}
	if s.HasFileList() {
		return s, nil
	}
	if err := checkSubjects(s.Subject); err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	list, err := Marshal(s.Subject)
	if err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	if !standsInline(s.Subject, list) {
		return nil, fmt.Errorf("statement: %w: %d subjects in %d bytes, the limits are %d and %d", ErrMalformed, len(s.Subject), len(list), MaxInlineSubjects, MaxInlineBytes)
	}
	return s, nil
}

// Envelope is a DSSE envelope (secure-systems-lab, "DSSE: Dead Simple Signing
// Envelope" v1). Signatures are sorted by identity, one each.
type Envelope struct {
	Payload     []byte              `json:"payload"`
	PayloadType string              `json:"payloadType"`
	Signatures  []EnvelopeSignature `json:"signatures"`
}

// EnvelopeSignature is one member's signature, by its vote key.
type EnvelopeSignature struct {
	KeyID Identity  `json:"keyid"`
	Sig   Signature `json:"sig"`
}

// PAE is DSSE's pre-authentication encoding: what is signed for a payload.
func PAE(payloadType string, payload []byte) []byte {
	head := fmt.Sprintf("DSSEv1 %d %s %d ", len(payloadType), payloadType, len(payload))
	return append([]byte(head), payload...)
}

// Statement decodes the payload and checks the envelope's form: not the
// signatures, which need the members' keys.
func (e *Envelope) Statement() (*Statement, error) {
	if e.PayloadType != PayloadType {
		return nil, fmt.Errorf("envelope: %w: payload type %.60q", ErrMalformed, e.PayloadType)
	}
	if len(e.Signatures) == 0 {
		return nil, fmt.Errorf("envelope: %w: no signatures", ErrMalformed)
	}
	for i := 1; i < len(e.Signatures); i++ {
		if e.Signatures[i-1].KeyID >= e.Signatures[i].KeyID {
			return nil, fmt.Errorf("envelope: %w: signatures are not sorted by identity, one each", ErrMalformed)
		}
	}
	return DecodeStatement(e.Payload)
}

// Verify tells whether the signature is the key's for the envelope's payload.
func (e *Envelope) Verify(key PublicKey, signature Signature) bool {
	return key.Verify(PAE(e.PayloadType, e.Payload), signature)
}

// CommitValue hides a statement: the SHA-256 of the domain, the genesis, the
// attempt, the node, a random salt and the statement's bytes.
func CommitValue(genesis, attempt Hash, node Identity, salt Hash, statement []byte) Hash {
	return Digest(SignBytes("commit-value", genesis, struct {
		Attempt   Hash     `json:"attempt"`
		Node      Identity `json:"node"`
		Salt      Hash     `json:"salt"`
		Statement Hash     `json:"statement"`
	}{attempt, node, salt, Digest(statement)}))
}
