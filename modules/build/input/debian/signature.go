package debian

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
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
		for _, entity := range readKeyring(keyring) {
			if hasNamed(entity, fingerprints) {
				keys = append(keys, entity)
			}
		}
	}
	return keys
}

// readKeyring reads a keyring, armored or not. One that cannot be read has no
// keys: whether the key that counts was found is said where it is looked for.
func readKeyring(data []byte) openpgp.EntityList {
	read := openpgp.ReadKeyRing
	if bytes.HasPrefix(data, []byte("-----BEGIN PGP")) {
		read = openpgp.ReadArmoredKeyRing
	}
	entities, err := read(bytes.NewReader(data))
	if err != nil {
		return nil
	}
	return entities
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
