package debian

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

const release = "Suite: stable\nCodename: trixie\nSHA256:\n " + digest + " 12 main/binary-amd64/Packages\n"

var signedAt = time.Date(2020, 5, 1, 12, 0, 0, 0, time.UTC)

// testKey is a key made in 2020 that expired after a month, with a subkey that
// signs.
func testKey(t testing.TB) *openpgp.Entity {
	config := &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, DefaultHash: crypto.SHA256,
		Time: func() time.Time { return signedAt.AddDate(0, 0, -7) }, KeyLifetimeSecs: 31 * 24 * 3600,
	}
	key, err := openpgp.NewEntity("archive", "", "archive@debian.example", config)
	if err != nil {
		t.Fatal(err)
	}
	if err := key.AddSigningSubkey(config); err != nil {
		t.Fatal(err)
	}
	return key
}

func at(when time.Time) *packet.Config {
	return &packet.Config{DefaultHash: crypto.SHA256, Time: func() time.Time { return when }}
}

func ring(t testing.TB, keys ...*openpgp.Entity) []byte {
	var b bytes.Buffer
	for _, key := range keys {
		if err := key.Serialize(&b); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func armored(t testing.TB, key *openpgp.Entity) []byte {
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(ring(t, key)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sign(t testing.TB, text string, when time.Time, keys ...*packet.PrivateKey) []byte {
	var b bytes.Buffer
	w, err := clearsign.EncodeMulti(&b, keys, at(when))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), '\n')
}

func hexOf(key *packet.PublicKey) string { return strings.ToUpper(hex.EncodeToString(key.Fingerprint)) }

// mpi is a random odd number of so many bits in OpenPGP's form.
func mpi(random *rand.Rand, bits int) []byte {
	n := make([]byte, bits/8)
	random.Read(n)
	n[0], n[len(n)-1] = n[0]|0x80, n[len(n)-1]|1
	return append([]byte{byte(bits >> 8), byte(bits)}, n...)
}

func packetOf(tag byte, body []byte) []byte {
	header := []byte{0xC0 | tag, 0xff, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(header[2:], uint32(len(body)))
	return append(header, body...)
}

// slowKey is a DSA key, and a forged signature of its own by which verifying it takes
// seconds. The body is that of a public key's packet.
func slowKey(t *testing.T, bits int) (body, signature []byte) {
	random := rand.New(rand.NewSource(1))
	body = []byte{4, 0x60, 0, 0, 0, byte(packet.PubKeyAlgoDSA)}
	for _, n := range []int{bits, bits, bits - 8, bits - 8} {
		body = append(body, mpi(random, n)...)
	}
	parsed, err := packet.Read(bytes.NewReader(packetOf(tagKey, body)))
	if err != nil {
		t.Fatal(err)
	}
	hashed := binary.BigEndian.AppendUint64([]byte{5, 2, 0x60, 0, 0, 1, 9, 16}, parsed.(*packet.PublicKey).KeyId)
	signature = append([]byte{4, 0x13, byte(packet.PubKeyAlgoDSA), 8, 0, byte(len(hashed))}, hashed...)
	signature = append(signature, 0, 0, 0, 0)
	return body, append(append(signature, mpi(random, bits-8)...), mpi(random, bits-8)...)
}

// TestHostileKeyring: of a keyring that somebody sent nothing is verified but the keys that
// are named, and of those none that takes long: reading all of these takes minutes.
func TestHostileKeyring(t *testing.T) {
	key := testKey(t)
	named := []string{hexOf(key.PrimaryKey)}
	signed := sign(t, release, signedAt, key.PrivateKey)
	body, forged := slowKey(t, 16_384)
	rest := slices.Concat(packetOf(tagUserID, []byte("somebody")), packetOf(tagSignature, forged))
	slow := append(packetOf(tagKey, body), rest...)
	secret := append(packetOf(tagSecretKey, append(bytes.Clone(body), 254, 7, 101, 0, 'G', 'N', 'U', 1)), rest...)
	parsed, err := packet.Read(bytes.NewReader(slow))
	if err != nil {
		t.Fatal(err)
	}
	slowName := hexOf(parsed.(*packet.PublicKey))
	var packets [][]byte // of the key itself
	for from := packet.NewOpaqueReader(bytes.NewReader(ring(t, key))); ; {
		p, err := from.Next()
		if err != nil {
			break
		}
		packets = append(packets, packetOf(p.Tag, p.Contents))
	}
	withOwn := func(n int) []byte { // so many of its own signatures
		return slices.Concat(packets[0], packets[1], bytes.Repeat(packets[2], n), slices.Concat(packets[3:]...))
	}
	foreign := packetOf(tagSignature, forged)
	many := func(keyring []byte) []byte { return bytes.Repeat(keyring, 100) }
	for name, c := range map[string]struct {
		ring []byte
		keys []string
		want error
	}{
		"before the key":              {append(many(slow), ring(t, key)...), named, nil},
		"after the key":               {append(ring(t, key), many(slow)...), named, nil},
		"as a subkey of it":           {slices.Concat(ring(t, key), many(slices.Concat(packetOf(tagSubkey, body), foreign))), named, nil},
		"secret keys after it":        {append(ring(t, key), many(secret)...), named, nil},
		"secret keys before it":       {append(many(secret), ring(t, key)...), named, nil},
		"named itself":                {many(slow), []string{slowName}, ErrNoKey},
		"others' signatures":          {slices.Concat(packets[0], packets[1], packets[2], bytes.Repeat(foreign, 300)), named, nil},
		"many signatures of its own":  {withOwn(maxKeyPackets / 2), named, nil},
		"no end of its own":           {withOwn(maxKeyPackets), named, ErrNoKey},
		"no end of packets":           {append(ring(t, key), bytes.Repeat(packetOf(tagUserID, nil), 1_000_000)...), named, ErrNoKey},
		"no end of packets of no key": {append(bytes.Repeat(packetOf(tagUserID, nil), 1_000_000), ring(t, key)...), named, nil},
	} {
		if _, err := Verify(signed, [][]byte{c.ring}, c.keys); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestVerify(t *testing.T) {
	key, other := testKey(t), testKey(t)
	primary, sub := key.PrivateKey, key.Subkeys[len(key.Subkeys)-1]
	both := [][]byte{ring(t, other, key)}
	named := []string{hexOf(&primary.PublicKey)}
	signed := sign(t, release, signedAt, primary)
	for name, c := range map[string]struct {
		text  []byte
		rings [][]byte
		keys  []string
		want  error
	}{
		"by the primary key":        {signed, both, named, nil},
		"by the subkey":             {sign(t, release, signedAt, sub.PrivateKey), both, named, nil},
		"subkey named":              {sign(t, release, signedAt, sub.PrivateKey), both, []string{hexOf(sub.PublicKey)}, nil},
		"armored keyring":           {signed, [][]byte{[]byte("junk"), armored(t, key)}, named, nil},
		"one of two signatures":     {sign(t, release, signedAt, other.PrivateKey, primary), both, named, nil},
		"only the subkey is named":  {signed, both, []string{hexOf(sub.PublicKey)}, ErrSignature},
		"by another key":            {sign(t, release, signedAt, other.PrivateKey), both, named, ErrSignature},
		"after the key expired":     {sign(t, release, signedAt.AddDate(1, 0, 0), primary), both, named, ErrSignature},
		"before the key was made":   {sign(t, release, signedAt.AddDate(-1, 0, 0), primary), both, named, ErrSignature},
		"altered":                   {bytes.Replace(signed, []byte("trixie"), []byte("trixif"), 1), both, named, ErrSignature},
		"key in no keyring":         {signed, [][]byte{ring(t, other)}, named, ErrNoKey},
		"no keyring":                {signed, nil, named, ErrNoKey},
		"fingerprint in lower case": {signed, both, []string{strings.ToLower(named[0])}, ErrNoKey},
		"short key id":              {signed, both, []string{named[0][24:]}, ErrNoKey},
		"text before":               {append([]byte("Suite: evil\n"), signed...), both, named, ErrMalformed},
		"text after":                {append(bytes.Clone(signed), "Suite: evil\n"...), both, named, ErrMalformed},
		"two texts":                 {append(bytes.Clone(signed), signed...), both, named, ErrMalformed},
		"not signed":                {[]byte(release), both, named, ErrMalformed},
		"signed, but no Release":    {sign(t, "hello\n", signedAt, primary), both, named, ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Verify(c.text, c.rings, c.keys)
			if !errors.Is(err, c.want) || (err == nil) != (r != nil) {
				t.Fatalf("release %v, error %v; want %v", r, err, c.want)
			}
			if err == nil && !r.Is("trixie") {
				t.Errorf("release %+v", r)
			}
		})
	}
}

// A stranger's signing subkey, grafted onto the named key, signs nothing.
func TestVerifyGraftedSubkey(t *testing.T) {
	key, stranger := testKey(t), testKey(t)
	grafted := *key
	grafted.Subkeys = append(grafted.Subkeys[:0:0], stranger.Subkeys...)
	text := sign(t, release, signedAt, stranger.Subkeys[len(stranger.Subkeys)-1].PrivateKey)
	if r, err := Verify(text, [][]byte{ring(t, &grafted)}, []string{hexOf(key.PrimaryKey)}); err == nil {
		t.Errorf("verified %v by a grafted subkey", r)
	}
}

func TestUnverified(t *testing.T) {
	if r, err := Unverified(sign(t, release, signedAt, testKey(t).PrivateKey)); err != nil || !r.Is("trixie") {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := Unverified([]byte("junk")); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}
