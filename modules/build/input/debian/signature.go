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
	var chosen bytes.Buffer
	for _, key := range certificates(from) {
		if key.named(fingerprints) {
			key.write(&chosen)
		}
	}
	entities, err := openpgp.ReadKeyRing(&chosen)
	if err != nil {
		return nil
	}
	return entities
}

// Bounds of what is verified of a key before it is trusted. Debian's have some tens of
// packets and 4096 bits.
const (
	maxKeyPackets = 256
	maxKeyBits    = 8192
)

// Tags of OpenPGP packets (RFC 9580, 5).
const (
	tagKey    = 6
	tagSubkey = 14
)

// certificate is a key as it lies in a keyring, with its subkeys, names and signatures.
type certificate struct {
	packets []*packet.OpaquePacket
	keys    []*packet.PublicKey
}

// certificates cuts a keyring into its keys, verifying nothing, as far as it can be read.
// Left out are subkeys that cannot be used here, and what goes with them.
func certificates(from io.Reader) []*certificate {
	var all []*certificate
	var current *certificate // nil where what comes belongs to nothing that is wanted
	dropped := false         // the signatures that come are a subkey's that was left out
	for packets := packet.NewOpaqueReader(from); ; {
		p, err := packets.Next()
		if err != nil {
			return all
		}
		if p.Tag == tagKey || p.Tag == tagSubkey {
			key := usable(p)
			if p.Tag == tagKey {
				current = nil
				if key != nil {
					current = new(certificate)
					all = append(all, current)
				}
			}
			if dropped = key == nil; !dropped && current != nil {
				current.keys = append(current.keys, key)
			}
		}
		if current != nil && !dropped {
			current.packets = append(current.packets, p)
		}
	}
}

// usable is a key that can be judged in little time, nil for any other. What DSA costs
// grows with a size that its owner chooses, and no archive signs by it any more.
func usable(p *packet.OpaquePacket) *packet.PublicKey {
	parsed, err := p.Parse()
	key, is := parsed.(*packet.PublicKey)
	if err != nil || !is {
		return nil
	}
	switch key.PubKeyAlgo {
	case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSASignOnly, packet.PubKeyAlgoECDSA, packet.PubKeyAlgoEdDSA, packet.PubKeyAlgoEd25519, packet.PubKeyAlgoEd448:
	default:
		return nil
	}
	if bits, err := key.BitLength(); err != nil || bits > maxKeyBits {
		return nil
	}
	return key
}

func (c *certificate) named(fingerprints []string) bool {
	return len(c.packets) <= maxKeyPackets && slices.ContainsFunc(c.keys, func(k *packet.PublicKey) bool { return named(k, fingerprints) })
}

func (c *certificate) write(to *bytes.Buffer) {
	for _, p := range c.packets {
		p.Serialize(to) //nolint:errcheck // a buffer takes everything
	}
}

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
