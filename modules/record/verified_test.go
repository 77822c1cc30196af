package record

import (
	"crypto/ed25519"
	"testing"
)

// TestVerifyRemembers: what was valid once is valid again, and nothing else is,
// also when the memory has long been full.
func TestVerifyRemembers(t *testing.T) {
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	key := PublicKey(private.Public().(ed25519.PublicKey))
	message := []byte("message")
	good := Signature(ed25519.Sign(private, message))
	bad := good
	bad[0] ^= 1
	for range 3 {
		if !key.Verify(message, good) || key.Verify(message, bad) || key.Verify([]byte("messagE"), good) || (PublicKey{1}).Verify(message, good) {
			t.Fatal("the memory changes an answer")
		}
	}
	var m memory
	for i := range 3 * generation {
		m.add([32]byte{byte(i), byte(i >> 8), byte(i >> 16)})
	}
	if len(m.young)+len(m.before) > 2*generation {
		t.Errorf("%d signatures are remembered", len(m.young)+len(m.before))
	}
	last := 3*generation - 1
	if !m.has([32]byte{byte(last), byte(last >> 8), byte(last >> 16)}) || m.has([32]byte{}) {
		t.Error("the newest is forgotten, or the oldest is not")
	}
}

func BenchmarkVerifyAgain(b *testing.B) {
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	key, message := PublicKey(private.Public().(ed25519.PublicKey)), make([]byte, 400)
	signature := Signature(ed25519.Sign(private, message))
	for b.Loop() {
		if !key.Verify(message, signature) {
			b.Fatal("not valid")
		}
	}
}
