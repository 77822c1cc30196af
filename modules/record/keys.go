package record

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"

	"filippo.io/edwards25519"
	"github.com/mr-tron/base58"
)

// Hash is a SHA-256 value of the protocol: a leaf's or a tree's hash, the hash
// of a recipe, of a set, of the genesis.
type Hash [32]byte

// String is the hash as 64 lower-case hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Short is the beginning of the hash, for people.
func (h Hash) Short() string { return hex.EncodeToString(h[:6]) }

// IsZero tells whether the hash was not set.
func (h Hash) IsZero() bool { return h == Hash{} }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return h.AppendText(nil) }

// AppendText implements encoding.TextAppender.
func (h Hash) AppendText(to []byte) ([]byte, error) { return hex.AppendEncode(to, h[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(text []byte) error {
	if len(text) != 64 {
		return fmt.Errorf("%w: hash %.80q: want 64 hexadecimal digits", ErrMalformed, text)
	}
	if _, err := hex.Decode(h[:], text); err != nil {
		return fmt.Errorf("%w: hash %.80q", ErrMalformed, text)
	}
	if bytes.ContainsAny(text, "ABCDEF") {
		return fmt.Errorf("%w: hash %.80q: want lower-case digits", ErrMalformed, text)
	}
	return nil
}

// ParseHash reads a hash as String writes it, with or without "sha256:".
func ParseHash(s string) (Hash, error) {
	var h Hash
	if len(s) == 71 && s[:7] == "sha256:" {
		s = s[7:]
	}
	return h, h.UnmarshalText([]byte(s))
}

// Digest is the SHA-256 of the bytes.
func Digest(data []byte) Hash { return sha256.Sum256(data) }

// PublicKey is an Ed25519 public key (RFC 8032), standard base64 in records.
type PublicKey [ed25519.PublicKeySize]byte

// MarshalText implements encoding.TextMarshaler.
func (k PublicKey) MarshalText() ([]byte, error) { return encodeBase64(k[:]), nil }

// AppendText implements encoding.TextAppender.
func (k PublicKey) AppendText(to []byte) ([]byte, error) {
	return base64.StdEncoding.AppendEncode(to, k[:]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *PublicKey) UnmarshalText(text []byte) error { return decodeBase64(k[:], text) }

// Check refuses a key that is not the canonical encoding of a point of the
// prime-order subgroup: such keys have several valid signatures for one
// message, and verifiers disagree about them.
func (k PublicKey) Check() error {
	if sound.has(k) {
		return nil
	}
	point, err := new(edwards25519.Point).SetBytes(k[:])
	if err != nil || string(point.Bytes()) != string(k[:]) {
		return fmt.Errorf("%w: public key %s is no canonical point", ErrMalformed, encodeBase64(k[:]))
	}
	if point.Equal(edwards25519.NewIdentityPoint()) == 1 {
		return fmt.Errorf("%w: public key is the identity point", ErrMalformed)
	}
	// [8][1/8]P equals P exactly when P has no component of small order:
	// 1/8 is taken modulo the group's prime order.
	eight := make([]byte, 32)
	eight[0] = 8
	scalar, err := new(edwards25519.Scalar).SetCanonicalBytes(eight)
	if err != nil {
		panic(err)
	}
	eighth := new(edwards25519.Point).ScalarMult(new(edwards25519.Scalar).Invert(scalar), point)
	if new(edwards25519.Point).MultByCofactor(eighth).Equal(point) != 1 {
		return fmt.Errorf("%w: public key %s is outside the prime-order subgroup", ErrMalformed, encodeBase64(k[:]))
	}
	sound.add(k)
	return nil
}

// Verify tells whether the signature is the key's for the message. It is
// crypto/ed25519's check, one signature at a time: batch verification accepts
// other signatures than single verification does.
func (k PublicKey) Verify(message []byte, signature Signature) bool {
	name := signatureKey(k, message, signature)
	if verified.has(name) {
		return true
	}
	if !ed25519.Verify(k[:], message, signature[:]) {
		return false
	}
	verified.add(name)
	return true
}

// Signature is an Ed25519 signature, standard base64 in records.
type Signature [ed25519.SignatureSize]byte

// MarshalText implements encoding.TextMarshaler.
func (s Signature) MarshalText() ([]byte, error) { return encodeBase64(s[:]), nil }

// AppendText implements encoding.TextAppender.
func (s Signature) AppendText(to []byte) ([]byte, error) {
	return base64.StdEncoding.AppendEncode(to, s[:]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Signature) UnmarshalText(text []byte) error { return decodeBase64(s[:], text) }

func encodeBase64(data []byte) []byte {
	return base64.StdEncoding.AppendEncode(nil, data)
}

func decodeBase64(dst, text []byte) error {
	// A decoder of base64 passes over line ends, wherever they stand.
	if len(text) != base64.StdEncoding.EncodedLen(len(dst)) {
		return fmt.Errorf("%w: want %d bytes as base64", ErrMalformed, len(dst))
	}
	data, err := base64.StdEncoding.Strict().AppendDecode(make([]byte, 0, ed25519.SignatureSize), text)
	if err != nil || len(data) != len(dst) {
		return fmt.Errorf("%w: want %d bytes as base64", ErrMalformed, len(dst))
	}
	copy(dst, data)
	return nil
}

// Identity is a node's libp2p PeerID in its base58 form ("12D3KooW…"): the
// identity multihash of an Ed25519 key, so that the key can be read from it
// (libp2p peer-ids specification).
type Identity string

// identityPrefix begins every such PeerID: identity multihash (0x00) of 36
// bytes (0x24), a protobuf with key type Ed25519 (0x08 0x01) and 32 bytes of
// key (0x12 0x20).
var identityPrefix = []byte{0x00, 0x24, 0x08, 0x01, 0x12, 0x20}

// NewIdentity is the identity of a public key.
func NewIdentity(key PublicKey) Identity {
	return Identity(base58.Encode(append(append([]byte(nil), identityPrefix...), key[:]...)))
}

// Key is the public key that the identity stands for.
func (i Identity) Key() (PublicKey, error) {
	key, err := i.decode()
	if err != nil {
		return key, err
	}
	return key, key.Check()
}

// decode is Key without the check of the key, which costs a hundred times as much.
func (i Identity) decode() (PublicKey, error) {
	var key PublicKey
	if len(i) > 64 { // base58 takes quadratic time
		return key, fmt.Errorf("%w: %.80q… is no Ed25519 PeerID", ErrMalformed, string(i))
	}
	data, err := base58.Decode(string(i))
	if err != nil || len(data) != len(identityPrefix)+len(key) || string(data[:len(identityPrefix)]) != string(identityPrefix) {
		return key, fmt.Errorf("%w: %.80q is no Ed25519 PeerID", ErrMalformed, string(i))
	}
	copy(key[:], data[len(identityPrefix):])
	if NewIdentity(key) != i {
		return key, fmt.Errorf("%w: %.80q is not in its canonical form", ErrMalformed, string(i))
	}
	return key, nil
}

// Short is the end of the identity, by which people tell nodes apart.
func (i Identity) Short() string {
	if len(i) < 8 {
		return string(i)
	}
	return string(i[len(i)-8:])
}

// SignBytes is what is signed for a value of the protocol: its kind and
// version, the network's full genesis hash, and its canonical JSON. A
// signature made for one kind or network is therefore none for another.
func SignBytes(kind string, genesis Hash, value any) []byte {
	head := "pyrsia/" + kind + "/v1\n" + genesis.String() + "\n"
	return append([]byte(head), MustMarshal(value)...)
}

// Signer makes signatures with one private key. Implementations are safe for
// concurrent use.
type Signer interface {
	Public() PublicKey
	Sign(message []byte) (Signature, error)
}
