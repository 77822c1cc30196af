package record_test

import (
	"encoding/hex"
	"math/big"
	"slices"
	"strings"
	"testing"

	"filippo.io/edwards25519"
	"github.com/mr-tron/base58"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/record"
)

// smallOrder are the canonical encodings of the eight points whose order
// divides the cofactor.
var smallOrder = []string{
	"0100000000000000000000000000000000000000000000000000000000000000",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0000000000000000000000000000000000000000000000000000000000000080",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
}

func key(t *testing.T, digits string) record.PublicKey {
	t.Helper()
	data, err := hex.DecodeString(digits)
	if err != nil || len(data) != 32 {
		t.Fatal(digits)
	}
	return record.PublicKey(data)
}

func TestKeyCheckRefusesSmallOrder(t *testing.T) {
	identity := edwards25519.NewIdentityPoint()
	seen := map[record.PublicKey]bool{}
	for _, digits := range smallOrder {
		k := key(t, digits)
		point, err := new(edwards25519.Point).SetBytes(k[:])
		if err != nil || new(edwards25519.Point).MultByCofactor(point).Equal(identity) != 1 {
			t.Fatalf("%s is no point of small order", digits)
		}
		seen[k] = true
		if err := k.Check(); err == nil {
			t.Errorf("%s is taken", digits)
		}
	}
	if len(seen) != 8 {
		t.Fatalf("%d points", len(seen))
	}
}

func TestKeyCheckRefusesMixedOrder(t *testing.T) {
	for i, signer := range []chaintest.Signer{chaintest.NewSigner("a"), chaintest.NewSigner("b"), chaintest.NewSigner("c")} {
		good := signer.Public()
		if err := good.Check(); err != nil {
			t.Errorf("key %d: %v", i, err)
		}
		point, err := new(edwards25519.Point).SetBytes(good[:])
		if err != nil {
			t.Fatal(err)
		}
		for _, digits := range smallOrder[1:] {
			k := key(t, digits)
			small, err := new(edwards25519.Point).SetBytes(k[:])
			if err != nil {
				t.Fatal(err)
			}
			mixed := record.PublicKey(new(edwards25519.Point).Add(point, small).Bytes())
			if err := mixed.Check(); err == nil {
				t.Errorf("key %d plus %s is taken", i, digits)
			}
			if _, err := record.NewIdentity(mixed).Key(); err == nil {
				t.Errorf("the identity of key %d plus %s is taken", i, digits)
			}
		}
	}
}

func TestKeyCheckRefusesOtherEncodings(t *testing.T) {
	for _, digits := range []string{
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // y = p, which is 0
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // y = p+1, which is 1
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"0100000000000000000000000000000000000000000000000000000000000080", // x = 0 with a sign
		"0200000000000000000000000000000000000000000000000000000000000000", // no point
	} {
		k := key(t, digits)
		if err := k.Check(); err == nil {
			t.Errorf("%s is taken", digits)
		}
	}
}

func TestVerifyRefusesLargeS(t *testing.T) {
	signer := chaintest.NewSigner("a")
	signature, _ := signer.Sign([]byte("message"))
	if !signer.Public().Verify([]byte("message"), signature) {
		t.Fatal("a good signature is refused")
	}
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	s := slices.Clone(signature[32:])
	slices.Reverse(s)
	larger := new(big.Int).Add(new(big.Int).SetBytes(s), order).FillBytes(make([]byte, 32))
	slices.Reverse(larger)
	copy(signature[32:], larger)
	if signer.Public().Verify([]byte("message"), signature) {
		t.Error("a signature with S+q is taken")
	}
}

func TestIdentity(t *testing.T) {
	node := chaintest.NewNode("node0")
	key, err := node.ID.Key()
	if err != nil || key != node.Signers.Identity.Public() {
		t.Errorf("%s stands for %x: %v", node.ID, key, err)
	}
	raw, err := base58.Decode(string(node.ID))
	if err != nil {
		t.Fatal(err)
	}
	sha := append([]byte{0x12, 0x20}, raw[6:]...) // a PeerID that is the hash of a key
	for name, id := range map[string]string{
		"empty": "", "leading zero": "1" + string(node.ID), "cut": string(node.ID)[:50], "hash": base58.Encode(sha),
		"secp256k1": base58.Encode(append([]byte{0, 0x24, 8, 2, 0x12, 0x20}, raw[6:]...)),
		"longer":    base58.Encode(append(slices.Clone(raw), 0)), "no base58": strings.Replace(string(node.ID), "D", "0", 1),
		"small order": string(record.NewIdentity(record.PublicKey{})), "huge": strings.Repeat("1", 1<<20),
		"space": string(node.ID) + " ", "CID": "bafzaajaiaejcb",
	} {
		if _, err := record.Identity(id).Key(); err == nil {
			t.Errorf("%s: %.80q is taken", name, id)
		}
	}
}

func TestNodeRecordCheck(t *testing.T) {
	node := chaintest.NewNode("node0")
	if err := node.Record.Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*record.NodeRecord){
		"operator":       func(n *record.NodeRecord) { n.Operator = "someone else" },
		"seq":            func(n *record.NodeRecord) { n.Seq++ },
		"platforms":      func(n *record.NodeRecord) { n.Platforms = append(n.Platforms, "linux/arm64") },
		"vote key":       func(n *record.NodeRecord) { n.VoteKey = chaintest.NewSigner("x").Public() },
		"identity":       func(n *record.NodeRecord) { n.Identity = chaintest.NewNode("node1").ID },
		"vote signature": func(n *record.NodeRecord) { n.Signatures.Vote[0] ^= 1 },
		"log signature":  func(n *record.NodeRecord) { n.Signatures.Log[40] ^= 1 },
		"cosigner":       func(n *record.NodeRecord) { n.Signatures.Cosigner = n.Signatures.Log },
	} {
		changed := node.Record
		changed.Platforms = slices.Clone(changed.Platforms)
		change(&changed)
		if err := changed.Check(); err == nil {
			t.Errorf("a record with another %s is taken", name)
		}
	}
	same := node.Signers
	same.Log = same.Vote
	twice, err := record.SignNode(record.NodeRecord{Operator: "x"}, same)
	if err != nil {
		t.Fatal(err)
	}
	if err := twice.Check(); err == nil {
		t.Error("a record with one key for two purposes is taken")
	}
}

func TestSetBounds(t *testing.T) {
	for _, test := range []struct{ n, majority, majorityQ, twoThirdsQ int }{
		{1, 1, 1, 1}, {3, 2, 2, 3}, {4, 3, 3, 3}, {5, 3, 3, 4}, {6, 4, 4, 5}, {7, 4, 4, 5}, {10, 6, 6, 7}, {100, 51, 51, 67},
	} {
		var nodes []record.NodeRecord
		for i := range test.n {
			var n record.NodeRecord
			n.Identity = record.Identity([]byte{'a' + byte(i/26), 'a' + byte(i%26)})
			n.VoteKey[0], n.CosignerKey[0], n.LogKey[0] = byte(i), byte(i), byte(i)
			n.VoteKey[1], n.CosignerKey[1], n.LogKey[1] = 1, 2, 3
			nodes = append(nodes, n)
		}
		for order, q := range map[string]int{record.OrderMajority: test.majorityQ, record.OrderTwoThirds: test.twoThirdsQ} {
			set, err := record.NewSet(nodes, order)
			if err != nil {
				t.Fatal(err)
			}
			if set.Majority() != test.majority || set.Quorum() != q {
				t.Errorf("N=%d, %s: A=%d Q=%d, want %d and %d", test.n, order, set.Majority(), set.Quorum(), test.majority, q)
			}
			if proposer := set.Proposer(int64(test.n), 1); proposer != nodes[1%test.n].Identity {
				t.Errorf("N=%d: proposer %s", test.n, proposer)
			}
		}
	}
}

func TestSetRefuses(t *testing.T) {
	a, b := chaintest.NewNode("node0").Record, chaintest.NewNode("node1").Record
	if a.Identity > b.Identity {
		a, b = b, a
	}
	stolen := b
	stolen.VoteKey = a.LogKey
	for name, test := range map[string]struct {
		nodes []record.NodeRecord
		order string
	}{
		"no nodes":     {nil, record.OrderMajority},
		"no order":     {[]record.NodeRecord{a}, ""},
		"not sorted":   {[]record.NodeRecord{b, a}, record.OrderMajority},
		"twice":        {[]record.NodeRecord{a, a}, record.OrderMajority},
		"a key in two": {[]record.NodeRecord{a, stolen}, record.OrderMajority},
	} {
		if _, err := record.NewSet(test.nodes, test.order); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := record.NewSet([]record.NodeRecord{a, b}, record.OrderMajority); err != nil {
		t.Error(err)
	}
}

func TestGenesisRefuses(t *testing.T) {
	for name, change := range map[string]func(*record.Genesis){
		"no name":          func(g *record.Genesis) { g.Name = "" },
		"a slash":          func(g *record.Genesis) { g.Name = "a/b" },
		"a space":          func(g *record.Genesis) { g.Name = "a b" },
		"a plus":           func(g *record.Genesis) { g.Name = "a+b" },
		"a line break":     func(g *record.Genesis) { g.Name = "ab\n" },
		"no-break space":   func(g *record.Genesis) { g.Name = "a\u00a0b" },
		"upper case":       func(g *record.Genesis) { g.Name = "A" },
		"a long name":      func(g *record.Genesis) { g.Name = strings.Repeat("a", 64) },
		"a hyphen at last": func(g *record.Genesis) { g.Name = "a-" },
		"no heartbeat":     func(g *record.Genesis) { g.Timeouts.Heartbeat = 0 },
		"negative vote":    func(g *record.Genesis) { g.Timeouts.Vote = -1 },
		"no step":          func(g *record.Genesis) { g.Timeouts.Step = 0 },
		"no propose":       func(g *record.Genesis) { g.Timeouts.Propose = 0 },
		"no nodes":         func(g *record.Genesis) { g.Nodes = nil },
		"other order":      func(g *record.Genesis) { g.Order = "all" },
		"forged record":    func(g *record.Genesis) { g.Nodes[0].Operator = "evil" },
	} {
		network := chaintest.New(t, 3)
		change(network.Genesis)
		if _, _, err := record.OpenGenesis(encode(t, network.Genesis)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, _, err := record.OpenGenesis([]byte("{}")); err == nil {
		t.Error("no leaf: taken")
	}
	if _, _, err := record.OpenGenesis(encode(t, &record.Header{})); err == nil {
		t.Error("a header: taken")
	}
}
