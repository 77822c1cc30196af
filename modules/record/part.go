package record

import "fmt"

// Part is one signed piece of a member, of which leaves are put together.
// Exactly one field is set.
type Part struct {
	Endorse *EndorsePart `json:"endorse,omitempty"`
	Hold    *HoldPart    `json:"hold,omitempty"`
	Commit  *CommitPart  `json:"commit,omitempty"`
	Reveal  *RevealPart  `json:"reveal,omitempty"`

	Rotate   *NodeRecord   `json:"rotate,omitempty"`   // new keys of the member
	Evidence *EvidenceLeaf `json:"evidence,omitempty"` // anybody's: it proves itself
}

// EndorsePart says that a recipe stands in the member's recipes folder.
type EndorsePart struct {
	Change      RecipeChange `json:"change"`
	Endorsement Endorsement  `json:"endorsement"`
}

// HoldPart says that the member got every file of an attempt's lock.
type HoldPart struct {
	Attempt Attempt `json:"attempt"`
	Holding Holding `json:"holding"`
}

// CommitPart is a member's hidden vote.
type CommitPart struct {
	Attempt Hash   `json:"attempt"`
	Commit  Commit `json:"commit"`
}

// RevealPart is a member's open vote, with the file list where the statement has
// one.
type RevealPart struct {
	Attestation Attestation `json:"attestation"`
	Files       []Subject   `json:"files"`
}

// MaxPart is the largest part in bytes: a reveal with a file list that fills a
// block.
const MaxPart = MaxLargeBlock + MaxLeaf

// Encode is the part's wire form, canonical JSON.
func (p Part) Encode() ([]byte, error) { return Marshal(p) }

// DecodePart reads Encode's form.
func DecodePart(data []byte) (Part, error) {
	var p Part
	if len(data) > MaxPart {
		return p, fmt.Errorf("%w: part of %d bytes, the limit is %d", ErrMalformed, len(data), MaxPart)
	}
	if err := Unmarshal(data, &p); err != nil {
		return p, err
	}
	count := 0
	for _, set := range []bool{p.Endorse != nil, p.Hold != nil, p.Commit != nil, p.Reveal != nil, p.Rotate != nil, p.Evidence != nil} {
		if set {
			count++
		}
	}
	if count != 1 {
		return p, fmt.Errorf("%w: want exactly one piece", ErrMalformed)
	}
	return p, nil
}
