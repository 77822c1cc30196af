package debian

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// ErrSignature is wrapped where no trusted key signed an InRelease file.
var ErrSignature = errors.New("no trusted signature")

// ErrNoKey is wrapped where none of the trusted keys is at hand, so that the
// signature could not be judged at all.
var ErrNoKey = errors.New("no key at hand")

// maxSignatures bounds what an InRelease file may make us verify; Debian's have
// three.
const maxSignatures = 16

// Verify checks an InRelease file: a key with one of the fingerprints
// (upper-case hex, of the primary key or of the signing subkey) must have
// signed it. keyrings are where keys are looked for; anything may stand in
// them. Keys are judged at the signature's own time, so that an old release
// still verifies after its key expired.
func Verify(inRelease []byte, keyrings [][]byte, fingerprints []string) (*Release, error) {
	block, rest := clearsign.Decode(inRelease)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 || !bytes.HasPrefix(inRelease, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
		return nil, fmt.Errorf("%w: InRelease is not one clear-signed text", ErrMalformed)
	}
	keys := trusted(keyrings, fingerprints)
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: none of the keys %s is in any keyring", ErrNoKey, strings.Join(fingerprints, ", "))
	}
	if err := verifyAny(block, keys, fingerprints); err != nil {
		return nil, err
	}
	return ParseRelease(block.Plaintext)
}

// verifyAny wants one good signature. Those of keys that are not named, and
// those that do not verify, count for nothing.
func verifyAny(block *clearsign.Block, keys openpgp.EntityList, fingerprints []string) error {
	packets := packet.NewReader(block.ArmoredSignature.Body)
	problems := []string{}
	for range maxSignatures {
		p, err := packets.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				problems = append(problems, err.Error())
			}
			break
		}
		signature, ok := p.(*packet.Signature)
		if !ok {
			continue
		}
		err = verifyOne(block.Bytes, signature, keys, fingerprints)
		if err == nil {
			return nil
		}
		problems = append(problems, err.Error())
	}
	return fmt.Errorf("%w by %s: %s", ErrSignature, strings.Join(fingerprints, ", "), strings.Join(problems, "; "))
}

func verifyOne(text []byte, signature *packet.Signature, keys openpgp.EntityList, fingerprints []string) error {
	var raw bytes.Buffer
	if err := signature.Serialize(&raw); err != nil {
		return err
	}
	config := &packet.Config{Time: func() time.Time { return signature.CreationTime }}
	verified, signer, err := openpgp.VerifyDetachedSignature(keys, bytes.NewReader(text), &raw, config)
	if err != nil {
		return err
	}
	if named(signer.PrimaryKey, fingerprints) {
		return nil
	}
	for _, subkey := range signer.Subkeys {
		if verified.IssuerKeyId != nil && subkey.PublicKey.KeyId == *verified.IssuerKeyId && named(subkey.PublicKey, fingerprints) {
			return nil
		}
	}
	return errors.New("signed by another subkey than the one named")
}

// trusted are the keys of the keyrings that have one of the fingerprints.
func trusted(keyrings [][]byte, fingerprints []string) openpgp.EntityList {
	var keys openpgp.EntityList
	for _, keyring := range keyrings {
		for _, entity := range readKeyring(keyring, fingerprints) {
			if hasNamed(entity, fingerprints) {
				keys = append(keys, entity)
			}
		}
	}
	return keys
}

// readKeyring reads the keys of a keyring, armored or not, that have one of the
// fingerprints. A keyring comes from whoever sent it, and reading a key verifies its
// signatures of itself: other keys are not looked at. A keyring that cannot be read has no
// keys: whether the key that counts was found is said where it is looked for.
func readKeyring(data []byte, fingerprints []string) openpgp.EntityList {
	var from io.Reader = bytes.NewReader(data)
	if bytes.HasPrefix(data, []byte("-----BEGIN PGP")) {
		block, err := armor.Decode(from)
		if err != nil {
			return nil
		}
		from = io.LimitReader(block.Body, int64(len(data)))
	}
	entities, err := openpgp.ReadKeyRing(bytes.NewReader(certificates(from, fingerprints)))
	if err != nil {
		return nil
	}
	return entities
}

// Bounds of what is verified of a keyring before any of it is trusted. A key of Debian's has
// some tens of packets and 4096 bits.
const (
	maxCertificates = 16
	maxKeyPackets   = 64
	maxKeyBits      = 8192
)

// Tags of OpenPGP packets (RFC 9580, 5).
const (
	tagSignature = 2
	tagSecretKey = 5
	tagKey       = 6
	tagSecretSub = 7
	tagUserID    = 13
	tagSubkey    = 14
	tagAttribute = 17
)

// certificates are the keys of a keyring that have one of the fingerprints, as they lie
// there but for what is not needed to judge them: other people's signatures, pictures, and
// subkeys that cannot be used here. Nothing is verified. A keyring is taken as far as it can
// be read.
func certificates(from io.Reader, fingerprints []string) []byte {
	var chosen bytes.Buffer
	current, taken := new(certificate), 0
	take := func() {
		if current.named(fingerprints) && taken < maxCertificates {
			current.write(&chosen)
			taken++
		}
		current = new(certificate)
	}
	for packets := packet.NewOpaqueReader(from); ; {
		p, err := packets.Next()
		if err != nil {
			take()
			return chosen.Bytes()
		}
		switch p.Tag {
		case tagKey:
			take()
			current.key(p)
		case tagSecretKey, tagSecretSub:
			take() // what follows belongs to a key that nobody publishes
		case tagSubkey:
			current.subkey(p)
		case tagUserID:
			current.add(p)
		case tagAttribute:
			current.dropped = true // a picture, and what is signed of it
		case tagSignature:
			current.signature(p)
		}
	}
}

// certificate is a key as it lies in a keyring, with its subkeys, names and signatures of
// its own. One without a key that can be used takes nothing.
type certificate struct {
	primary *packet.PublicKey
	keys    []*packet.PublicKey
	packets []*packet.OpaquePacket
	dropped bool // the signatures that come are of something that was left out
	many    bool // it has more packets than are looked at
}

func (c *certificate) key(p *packet.OpaquePacket) {
	if c.primary = usable(p); c.primary != nil {
		c.keys = append(c.keys, c.primary)
		c.add(p)
	}
}

func (c *certificate) subkey(p *packet.OpaquePacket) {
	key := usable(p)
	if c.dropped = key == nil; c.dropped {
		return
	}
	c.keys = append(c.keys, key)
	c.add(p)
}

// signature takes what the key says of itself: of others go-crypto verifies nothing.
func (c *certificate) signature(p *packet.OpaquePacket) {
	if c.primary == nil || c.dropped || c.many {
		return
	}
	parsed, err := p.Parse()
	if s, is := parsed.(*packet.Signature); err == nil && is && s.CheckKeyIdOrFingerprint(c.primary) {
		c.add(p)
	}
}

func (c *certificate) add(p *packet.OpaquePacket) {
	if p.Tag == tagUserID {
		c.dropped = false
	}
	if c.primary == nil || c.many {
		return
	}
	if c.many = len(c.packets) >= maxKeyPackets; c.many {
		c.packets = nil
		return
	}
	c.packets = append(c.packets, &packet.OpaquePacket{Tag: p.Tag, Contents: bytes.Clone(p.Contents)})
}

func (c *certificate) named(fingerprints []string) bool {
	return !c.many && slices.ContainsFunc(c.keys, func(k *packet.PublicKey) bool { return named(k, fingerprints) })
}

func (c *certificate) write(to *bytes.Buffer) {
	for _, p := range c.packets {
		p.Serialize(to) //nolint:errcheck // a buffer takes everything
	}
}

// usable is a key that can be judged in little time, nil for any other. What DSA costs
// grows with a size that its owner chooses, other curves than these take milliseconds a
// signature, and no archive signs by them any more.
func usable(p *packet.OpaquePacket) *packet.PublicKey {
	parsed, err := p.Parse()
	key, is := parsed.(*packet.PublicKey)
	if err != nil || !is {
		return nil
	}
	switch key.PubKeyAlgo {
	case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSASignOnly:
		if bits, err := key.BitLength(); err != nil || bits > maxKeyBits {
			return nil
		}
		return key
	case packet.PubKeyAlgoECDSA, packet.PubKeyAlgoEdDSA:
		curve, err := key.Curve()
		if err != nil || !slices.Contains(curves, curve) {
			return nil
		}
		return key
	case packet.PubKeyAlgoEd25519:
		return key
	}
	return nil
}

var curves = []packet.Curve{packet.Curve25519, packet.CurveNistP256, packet.CurveNistP384, packet.CurveNistP521}

func hasNamed(entity *openpgp.Entity, fingerprints []string) bool {
	if named(entity.PrimaryKey, fingerprints) {
		return true
	}
	for _, subkey := range entity.Subkeys {
		if named(subkey.PublicKey, fingerprints) {
			return true
		}
	}
	return false
}

func named(key *packet.PublicKey, fingerprints []string) bool {
	fingerprint := strings.ToUpper(hex.EncodeToString(key.Fingerprint))
	for _, f := range fingerprints {
		if f == fingerprint {
			return true
		}
	}
	return false
}

// Unverified reads an InRelease file without looking at its signature: for
// nothing but finding a keyring to verify it with.
func Unverified(inRelease []byte) (*Release, error) {
	block, _ := clearsign.Decode(inRelease)
	if block == nil {
		return nil, fmt.Errorf("%w: InRelease is not clear-signed", ErrMalformed)
	}
	return ParseRelease(block.Plaintext)
}
