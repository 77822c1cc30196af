package record_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/pyrsia/appliance/modules/record"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	checkpoints "github.com/transparency-dev/formats/log"
	cosignatures "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/formats/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	merkleproof "github.com/transparency-dev/merkle/proof"
)

// The tests here hold our formats to implementations that are not ours.

func TestFrontierAgainstTlog(t *testing.T) {
	var frontier record.Frontier
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			hashes[i] = stored[index]
		}
		return hashes, nil
	})
	for size := int64(0); size < 300; size++ {
		root, err := tlog.TreeHash(size, reader)
		if err != nil {
			t.Fatal(err)
		}
		if frontier.Size != size || tlog.Hash(frontier.Root()) != root {
			t.Fatalf("size %d: root %s, tlog says %s", frontier.Size, frontier.Root(), root)
		}
		leaf := fmt.Appendf(nil, "leaf %d", size)
		hashes, err := tlog.StoredHashes(size, leaf, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hashes...)
		before := frontier.Clone()
		frontier.Append(record.LeafHash(leaf))
		if before.Size != size || tlog.Hash(before.Root()) != root {
			t.Fatalf("size %d: appending changed an earlier edge", size)
		}
	}
}

func vkey(name string, kind byte, key record.PublicKey) string {
	data := append([]byte{kind}, key[:]...)
	id := record.Digest(append([]byte(name+"\n"), data...))
	return fmt.Sprintf("%s+%x+%s", name, id[:4], base64.StdEncoding.EncodeToString(data))
}

func TestCheckpointAgainstC2SP(t *testing.T) {
	s := tell(t)
	signed := s.blocks[3].Checkpoint()
	proposer, _ := s.network.Set.Node(signed.Proposer)
	log, err := note.NewVerifier(vkey(s.network.Origin(), 0x01, proposer.LogKey))
	if err != nil {
		t.Fatal(err)
	}
	verifiers := []note.Verifier{log}
	for _, node := range s.network.Set.Nodes {
		v, err := cosignatures.NewVerifierForCosignatureV1(vkey(record.CosignerName(s.network.Name, node.Identity), 0x04, node.CosignerKey))
		if err != nil {
			t.Fatal(err)
		}
		verifiers = append(verifiers, v)
	}
	opened, err := note.Open(s.blocks[3].Note(), note.VerifierList(verifiers...))
	if err != nil {
		t.Fatal(err)
	}
	if len(opened.Sigs) != 1+s.network.Set.Quorum() || len(opened.UnverifiedSigs) != 0 {
		t.Errorf("%d signatures verify, %d do not", len(opened.Sigs), len(opened.UnverifiedSigs))
	}
	for i, signature := range opened.Sigs[1:] {
		seconds, err := cosignatures.CoSigV1Timestamp(signature)
		if err != nil || seconds.Unix() != signed.Cosignatures[i].Time {
			t.Errorf("cosignature %d is of %s, want %d (%v)", i, seconds, signed.Cosignatures[i].Time, err)
		}
	}
	parsed, others, _, err := checkpoints.ParseCheckpoint(s.blocks[3].Note(), s.network.Origin(), log)
	if err != nil || parsed.Size != uint64(signed.Size) || !bytes.Equal(parsed.Hash, signed.Root[:]) || len(others) != 0 {
		t.Errorf("the checkpoint reads as %+v with %q (%v)", parsed, others, err)
	}
}

type voteKey struct{ node record.NodeRecord }

func (k voteKey) KeyID() (string, error) { return string(k.node.Identity), nil }
func (k voteKey) Public() crypto.PublicKey {
	return ed25519.PublicKey(k.node.VoteKey[:])
}
func (k voteKey) Verify(_ context.Context, data, signature []byte) error {
	if !ed25519.Verify(k.node.VoteKey[:], data, signature) {
		return errors.New("signature does not verify")
	}
	return nil
}

func TestEnvelopeAgainstDSSE(t *testing.T) {
	s := tell(t)
	leaf, err := record.DecodeLeaf(s.leaf(4, 0))
	if err != nil {
		t.Fatal(err)
	}
	var envelope dsse.Envelope
	if err := json.Unmarshal(record.MustMarshal(leaf.(*record.PublishLeaf).Envelope), &envelope); err != nil {
		t.Fatal(err)
	}
	var keys []dsse.Verifier
	for _, node := range s.network.Set.Nodes {
		keys = append(keys, voteKey{node})
	}
	verifier, err := dsse.NewMultiEnvelopeVerifier(s.network.Set.Majority(), keys...)
	if err != nil {
		t.Fatal(err)
	}
	accepted, payload, err := verifier.VerifyAndDecode(context.Background(), &envelope)
	if err != nil || len(accepted) != 3 || !bytes.Equal(payload, s.votes.Statements[0]) {
		t.Errorf("%d keys accepted, payload %s: %v", len(accepted), payload, err)
	}
}

func TestBundleAgainstC2SP(t *testing.T) {
	s := tell(t)
	data := s.bundle(t)
	var theirs proof.TLogProof
	if err := theirs.Unmarshal(data); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(theirs.Marshal(), data) {
		t.Error("the bundle is spelled otherwise by the other implementation")
	}
	if !bytes.Equal(theirs.Checkpoint, s.blocks[3].Note()) {
		t.Error("the bundle's checkpoint differs")
	}
	bundle, err := record.DecodeBundle(data)
	if err != nil {
		t.Fatal(err)
	}
	var path [][]byte
	for _, hash := range theirs.Hashes {
		path = append(path, hash[:])
	}
	signed := s.blocks[3].Checkpoint()
	leafHash := rfc6962.DefaultHasher.HashLeaf(bundle.Extra.Leaf)
	if err := merkleproof.VerifyInclusion(rfc6962.DefaultHasher, theirs.Index, uint64(signed.Size), leafHash, path, signed.Root[:]); err != nil {
		t.Error(err)
	}
}

func TestCertifyOrdersAndCuts(t *testing.T) {
	s := tell(t)
	block, before := s.blocks[0].Block(), s.before[0]
	all := s.network.Cosign(t, s.network.Chain(t), block, 3, 2, 1, 0)
	certified, err := record.Certify(s.network.Network, s.network.Set, before, block, all)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range certified.Checkpoint().Cosignatures {
		if c.Identity != s.network.Nodes[i].ID {
			t.Errorf("cosignature %d is of node %s", i, c.Identity)
		}
	}
	if all[0].Identity != s.network.Nodes[3].ID {
		t.Error("Certify changed its argument")
	}
	if _, err := record.Certify(s.network.Network, s.network.Set, before, block, all[:2]); err == nil {
		t.Error("two of four certify a block")
	}
	if _, err := record.Certify(s.network.Network, s.network.Set, before, new(record.Block), all); err == nil {
		t.Error("an empty block is certified")
	}
}
