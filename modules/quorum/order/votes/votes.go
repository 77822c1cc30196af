// Package votes is the vote file: everything that a member has bound itself to
// with its vote key, and must know after a crash so as never to contradict it.
//
// The rule is compare and refuse. Every record has a slot; a slot is written
// once; the same bytes again are no change, other bytes are ErrConflict. What
// a signed record says is therefore said once for ever, whatever the caller
// believes after a crash, a bug or a restored backup of everything else. On
// top of that, signed records only move forward (Position), as Tendermint's
// safety asks: who has voted in a round never votes in an earlier one.
//
// Here are the records, the rules and a memory version; modules/quorum/bolt is
// the durable one; votestest is the suite that both pass.
package votes

import (
	"errors"
	"fmt"

	"github.com/pyrsia/appliance/modules/record"
)

// ErrConflict is wrapped when a write would contradict what stands in the
// file. Nothing was written. The caller must not sign, and should stop: either
// it forgot something, or another program votes with the same key.
var ErrConflict = errors.New("conflicts with an earlier vote")

// Kind is what a record of the order is. The order of the first four is the
// order in which a member signs them within a round.
type Kind byte

// The kinds of records.
const (
	Proposal  Kind = 1 // signed: *record.Proposal, without its block
	Prevote   Kind = 2 // signed: *record.Vote
	Precommit Kind = 3 // signed: *record.Vote
	Cosign    Kind = 4 // signed: *record.Cosign; ends the height
	Round     Kind = 5 // why a round was entered: canonical Entry
	Lock      Kind = 6 // the round's lock: canonical record.Quorum of prevotes
	Decision  Kind = 7 // canonical record.Quorum of precommits
	Block     Kind = 8 // a block's bytes
)

var kinds = map[Kind]string{
	Proposal: "proposal", Prevote: "prevote", Precommit: "precommit", Cosign: "cosign",
	Round: "round", Lock: "lock", Decision: "decision", Block: "block",
}

// String is the kind's name.
func (k Kind) String() string {
	if name, ok := kinds[k]; ok {
		return name
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// Signed tells whether records of the kind carry the member's signature.
func (k Kind) Signed() bool { return k >= Proposal && k <= Cosign }

// Slot is what is written once.
type Slot struct {
	Height int64
	Round  int64 // 0 for cosign, decision and block
	Kind   Kind
	Root   record.Hash // of the block; zero for all other kinds
}

// String is the slot for people.
func (s Slot) String() string {
	return fmt.Sprintf("%s of height %d, round %d", s.Kind, s.Height, s.Round)
}

// Record is one thing to remember of the order.
type Record struct {
	Slot Slot
	Data []byte
}

// Entry is why a round was entered: votes that let any other member follow.
type Entry struct {
	Votes []record.Vote `json:"votes"`
}

// Position is how far a member has signed. A cosign's round counts as above
// every other of its height. The zero Position is before everything.
type Position struct {
	Height int64
	Round  int64
	Kind   Kind
}

// Position is where a signed record stands.
func (s Slot) Position() Position {
	p := Position{Height: s.Height, Round: s.Round, Kind: s.Kind}
	if s.Kind == Cosign {
		p.Round = record.MaxRound + 1
	}
	return p
}

// Before tells whether p is before q.
func (p Position) Before(q Position) bool {
	if p.Height != q.Height {
		return p.Height < q.Height
	}
	if p.Round != q.Round {
		return p.Round < q.Round
	}
	return p.Kind < q.Kind
}

// Release is how much of an outcome has left the node.
type Release byte

// The releases of an outcome; each includes the ones before.
const (
	ReleasedNothing Release = 0
	ReleasedCommit  Release = 1 // the commit may be known to others
	ReleasedReveal  Release = 2 // statement and salt may be known to others
)

// File is a vote file. Its methods are safe for concurrent use; every write is
// durable when it returns nil. After a write that failed with anything but
// ErrConflict the file must be closed and opened again.
type File interface {
	// Put writes the records, all or none, by the rules of this package:
	// nil, or an error that wraps ErrConflict, or one of the storage.
	Put(records ...Record) error
	// Load returns the records of a height, ordered by slot.
	Load(height int64) ([]Record, error)
	// Highest is the highest position ever signed; it outlives Prune.
	Highest() (Position, error)
	// Prune forgets the records below the height. Nothing can be signed
	// there any more; outcomes stay.
	Prune(height int64) error
	// PutOutcome writes the member's result of an attempt and the salt of its
	// commit: once per attempt, for ever.
	PutOutcome(attempt record.Hash, statement []byte, salt record.Hash) error
	// Outcome is the attempt's outcome, if there is one.
	Outcome(attempt record.Hash) (statement []byte, salt record.Hash, ok bool, err error)
	// PutReleased notes, before it happens, that a part of the attempt's
	// outcome leaves the node. It never goes back, and fails with
	// ErrConflict where there is no outcome.
	PutReleased(attempt record.Hash, r Release) error
	// Released is how much of the attempt's outcome may have left.
	Released(attempt record.Hash) (Release, error)
	// PutShut notes for ever why this vote key must sign nothing any more: the
	// first reason stays.
	PutShut(reason string) error
	// Shut is that reason, "" for none.
	Shut() (reason string, err error)
	// NextStart counts the starts of this member's program: 1 the first time,
	// one more at each call, for ever.
	NextStart() (int64, error)
	// Remember keeps the incarnation with the highest number that was ever
	// given for a vote key, of two with one number the first, and returns it.
	Remember(key record.PublicKey, i record.Incarnation) (record.Incarnation, error)
}

// State is what the rules need to know of a file.
type State struct {
	Floor   int64 // below it everything is pruned
	Highest Position
}

// Admit decides on writing a record where existing stands in its slot (nil:
// nothing): write it, or leave it since it is there, or an error wrapping
// ErrConflict. State moves on with what is written.
func (s *State) Admit(r Record, existing []byte) (write bool, err error) {
	if existing != nil {
		if string(existing) == string(r.Data) {
			return false, nil
		}
		return false, fmt.Errorf("%s: %w: a different one was written before", r.Slot, ErrConflict)
	}
	if r.Slot.Height < s.Floor {
		return false, fmt.Errorf("%s: %w: heights below %d are finished", r.Slot, ErrConflict, s.Floor)
	}
	if !r.Slot.Kind.Signed() {
		return true, nil
	}
	position := r.Slot.Position()
	if position.Before(s.Highest) {
		return false, fmt.Errorf("%s: %w: signed already: %s of height %d, round %d", r.Slot, ErrConflict, s.Highest.Kind, s.Highest.Height, s.Highest.Round)
	}
	s.Highest = position
	return true, nil
}

// Check refuses a record that no rule covers; such a record is a bug.
func (r Record) Check() error {
	if _, ok := kinds[r.Slot.Kind]; !ok || r.Slot.Height < 1 || r.Slot.Round < 0 || r.Slot.Round > record.MaxRound {
		return fmt.Errorf("vote file: no such slot: %s", r.Slot)
	}
	if r.Slot.Root.IsZero() == (r.Slot.Kind == Block) {
		return fmt.Errorf("vote file: %s with root %s", r.Slot, r.Slot.Root.Short())
	}
	if len(r.Data) == 0 || len(r.Data) > record.MaxMessage {
		return fmt.Errorf("vote file: %s of %d bytes", r.Slot, len(r.Data))
	}
	return nil
}
