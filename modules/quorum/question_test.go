package quorum

import (
	"bytes"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/record"
)

// remembered is a vote file that counts what it is to remember of others.
type remembered struct {
	*votes.Memory
	writes int
}

func (r *remembered) Remember(key record.PublicKey, i record.Incarnation) (record.Incarnation, error) {
	r.writes++
	return r.Memory.Remember(key, i)
}

// TestQuestionsAreLimited: a member is answered once a second, whatever it asks, and a
// few times at once, and the vote file is written only for a later start. One that asks each tick has
// its answer with the next one at the latest.
func TestQuestionsAreLimited(t *testing.T) {
	n := chaintest.New(t, 4)
	c := n.Chain(t)
	n.Append(t, c)
	l, out := alone(t, n, c, nil)
	file := &remembered{Memory: new(votes.Memory)}
	l.file = file
	now := n.Now(c)
	l.now = func() time.Time { return now }
	question := func(i int, number int64, nonce byte) []byte {
		q, err := record.SignIncarnation(n.Network.Genesis, record.Incarnation{
			Identity: n.Nodes[i].ID, Number: number, Nonce: record.Hash{nonce},
		}, n.Nodes[i].Signers.Vote)
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte{kindStart}, record.MustMarshal(q)...)
	}
	// ask has a member ask, and returns how often it is answered.
	ask := func(i int, number int64, nonce byte) int {
		out.messages = nil
		l.receive(n.Nodes[i].ID, question(i, number, nonce))
		return len(out.take(kindHeld))
	}
	answers := 0
	for i := range 200 {
		answers += ask(3, 1, 0)                // the same again
		answers += ask(3, int64(i+2), byte(i)) // another start
	}
	if answers != startBurst || file.writes != 2 {
		t.Errorf("%d answers and %d writes in one moment", answers, file.writes)
	}
	if ask(2, 1, 0) != 1 {
		t.Error("one member's questions limit another")
	}
	for range 5 {
		now = now.Add(startPause)
		if ask(3, 1, 0) != 1 {
			t.Error("not answered after a second")
		}
	}
	if file.writes != 3 {
		t.Errorf("%d writes for three starts of two members", file.writes)
	}
	now = now.Add(startPause)
	if ask(3, 7, 1) != 1 || file.writes != 4 {
		t.Errorf("a later start: %d writes", file.writes)
	}
	now = now.Add(startPause)
	l.receive(n.Nodes[3].ID, question(3, 6, 2))
	held := out.take(kindHeld)
	r, err := record.DecodeRecollection(held[len(held)-1][1:])
	if err != nil || r.Incarnation.Number != 7 || r.Nonce != (record.Hash{2}) || file.writes != 4 {
		t.Errorf("an earlier start is told of %d, %d writes, %v", r.Incarnation.Number, file.writes, err)
	}
	answers = 0
	for range 20 { // a tick is never quite a second
		now = now.Add(startPause - time.Millisecond)
		answers += ask(3, 7, 1)
	}
	if answers < 19 {
		t.Errorf("%d answers to 20 ticks", answers)
	}
	// A new line the other way: what was answered over the line before is said again.
	out.messages = nil
	l.opened(n.Nodes[3].ID)
	if held := out.take(kindHeld); len(held) != 1 || !bytes.Contains(held[0], []byte(record.Hash{1}.String())) {
		t.Errorf("answered %q over a new line", held)
	}
	l.opened(n.Nodes[1].ID)
	if held := out.take(kindHeld); len(held) != 0 {
		t.Error("one that never asked is answered")
	}
}
