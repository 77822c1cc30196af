// Package order is the order machine: how the members of a set agree on the
// next block. It is Tendermint consensus (Buchman, Kwon, Milosevic,
// arXiv 1807.04938, algorithm 1) with the quorum Q of the set in place of
// 2f+1, over blocks that it does not look into, followed by a cosign step.
//
// The machine is pure: Step takes an event and returns actions. It has no
// clock, network, file or goroutine; the same events give the same actions.
// The driver performs the actions in the order given. If it cannot perform a
// Write, it performs none of the rest, drops the machine, and starts a new one
// from the vote file.
//
// # A height
//
// Each round has one proposer, by rotation. It proposes a block; members
// prevote it, or nil; who sees Q prevotes for a block locks it and precommits
// it; who sees Q precommits of one round for it has it decided, cosigns the
// checkpoint that the block leads to, and Q cosignatures make the block
// certified, for everybody. Whoever is late takes any of these by proof: a
// decision is Q precommits, a certified block is Q cosignatures.
//
// Cosignatures carry no round, so they are made only after the decision. If
// they came with the precommits, Q of them could be collected from different
// rounds, and these decide nothing: a member may precommit a block in one
// round and, shown Q later prevotes, another one in a later round.
//
// There are no empty rounds: a machine with nothing to propose, nothing locked
// and no message of another for the round waits without a timer.
//
// # Safety
//
// Let L be the number of members that do not follow the rules, N the size of
// the set. If L < 2Q-N, no two different blocks of one height are certified:
//
//  1. Any two quorums share at least 2Q-N members, so at least one that
//     follows the rules. It votes once per round and step (the vote file
//     refuses a second), so in one round at most one block gets Q prevotes,
//     and at most one gets Q precommits.
//  2. Let block b get Q precommits in round r, and suppose another block gets
//     Q prevotes in a round ≥ r; take the first such round r'. By 1, r' > r.
//     Some member that follows the rules is in both quorums. In r it locked b.
//     It never votes in an earlier round after a later one (the vote file
//     refuses that too), so it voted in r' with a lock of round ≥ r, on b
//     still, since any change needs Q prevotes for another block between. It
//     prevotes another block only if shown Q prevotes for that block of a
//     round at or after its lock's and before r': there are none.
//  3. So all decisions of members that follow the rules are b, and only these
//     cosign. A certified block has Q cosignatures, of which at least
//     Q-L > N-Q ≥ 0 are of members that follow the rules.
//
// These hold for any loss, delay, reordering and crash: all that a member must
// not forget is in the vote file before anyone can know it. A fork therefore
// needs 2Q-N liars (Q the majority: 1 if N is odd, 2 if even), and it names
// them: two certified blocks of one height share at least 2Q-N cosigners, and
// who follows the rules cosigns once per height.
//
// # Progress
//
// It needs Q members up and connected: a standstill takes N-Q+1 down. What
// lets a member follow the others is in its vote file, and travels:
//
//   - a round above 0 is entered with the votes that justify it: Q precommits
//     of the round before, or votes of N-Q+1 others in that round or above.
//     They are written on entering and sent to whoever shows an earlier round;
//   - a lock is written with its block and its Q prevotes, and is proposed
//     again with them, so that it convinces after all members restarted;
//   - a decision is written with its block and Q precommits, and sent to
//     whoever still votes.
//
// Messages get lost: Tick sends a member's current ones again.
//
// # Bounds
//
// What others send is kept within bounds: of a member, one vote per slot, in
// the last rounds (keptRounds) and in two later ones; one proposal per round;
// of the next height some messages per sender. Cheap checks come before
// signatures, duplicates cost a lookup.
package order
