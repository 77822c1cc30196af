package memberlist

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	lib "github.com/hashicorp/memberlist"

	"github.com/pyrsia/appliance/modules/record"
)

// pack is a message as memberlist writes it.
func pack(t testing.TB, kind byte, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteByte(kind)
	if err := codec.NewEncoder(&b, &codec.MsgpackHandle{}).Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// packet is a frame with one message of memberlist.
func packet(t testing.TB, kind byte, v any) []byte {
	return append([]byte{framePacket}, pack(t, kind, v)...)
}

type fields = map[string]any

func pingOf(id record.Identity, seq int) fields {
	return fields{"SeqNo": seq, "Node": "me", "SourceAddr": []byte(address(id)), "SourcePort": port, "SourceNode": string(id)}
}

func aliveOf(id record.Identity) fields {
	return fields{"Incarnation": 3, "Node": string(id), "Addr": []byte(address(id)), "Port": port, "Vsn": []byte{1, 5, 2, 0, 0, 0}}
}

func with(f fields, name string, value any) fields {
	f[name] = value
	return f
}

func TestGuard(t *testing.T) {
	a, b := idOf(t, 1), idOf(t, 2)
	var g guard
	g.out(a, pack(t, kindPing, pingOf("me", 7)))
	g.out(b, pack(t, kindPing, pingOf("me", 8)))
	compounded := func(messages ...[]byte) []byte {
		head, body := []byte{kindCompound, byte(len(messages))}, []byte{}
		for _, m := range messages {
			head = append(head, byte(len(m)>>8), byte(len(m)))
			body = append(body, m...)
		}
		return append(head, body...)
	}
	dead := pack(t, kindDead, fields{"Incarnation": 1, "Node": string(b), "From": string(b)})
	for name, c := range map[string]struct {
		packet  []byte
		want    error
		doubted int
	}{
		"a ping":                    {pack(t, kindPing, pingOf(a, 1)), nil, 0},
		"a ping behind a sum":       {append([]byte{kindCRC, 0, 0, 0, 0}, pack(t, kindPing, pingOf(a, 1))...), nil, 0},
		"a ping of another":         {pack(t, kindPing, pingOf(b, 1)), errGuard, 0},
		"one that diverts":          {pack(t, kindPing, with(pingOf(a, 1), "SourceAddr", []byte(address(b)))), errGuard, 0},
		"one without a sender":      {pack(t, kindPing, fields{"SeqNo": 1, "Node": "me"}), errGuard, 0},
		"an answer":                 {pack(t, kindAck, fields{"SeqNo": 7}), nil, 0},
		"an answer for another":     {pack(t, kindAck, fields{"SeqNo": 8}), errGuard, 0},
		"an answer to nothing":      {pack(t, kindAck, fields{"SeqNo": 9}), errStray, 0},
		"an answer with more":       {pack(t, kindAck, fields{"SeqNo": 7, "Payload": []byte("x")}), errGuard, 0},
		"it is alive":               {pack(t, kindAlive, aliveOf(a)), nil, 0},
		"another is alive":          {pack(t, kindAlive, aliveOf(b)), nil, 0},
		"another is elsewhere":      {pack(t, kindAlive, with(aliveOf(b), "Addr", []byte(address(a)))), errGuard, 0},
		"another is at a real port": {pack(t, kindAlive, with(aliveOf(b), "Port", 80)), errGuard, 0},
		"another says":              {pack(t, kindAlive, with(aliveOf(b), "Meta", []byte("{}"))), errGuard, 0},
		"another is missed":         {pack(t, kindSuspect, fields{"Incarnation": 1, "Node": string(b), "From": string(a)}), nil, 1},
		"another has left":          {dead, nil, 1},
		"several":                   {compounded(dead, dead, pack(t, kindPing, pingOf(a, 1))), nil, 2},
		"several in several":        {compounded(compounded(dead)), errGuard, 0},
		"several and a lie":         {compounded(dead, pack(t, kindPing, pingOf(b, 1))), errGuard, 0},
		"several that end early":    {compounded(dead, dead)[:40], errGuard, 0},
		"nothing of several":        {[]byte{kindCompound, 1, 0, 0}, errGuard, 0},
		"more than there is":        {[]byte{kindCompound, 255}, errGuard, 0},
		"nothing":                   {nil, errGuard, 0},
		"too much":                  {make([]byte, maxPacket+1), errGuard, 0},
		"no message":                {[]byte{kindPing}, errGuard, 0},
		"junk":                      {[]byte("\x00\xff\xff\xff\xff"), errGuard, 0},
		"a question to pass on":     {pack(t, 1, fields{"SeqNo": 1}), errGuard, 0},
		"a compressed message":      {pack(t, 9, fields{"Algo": 0, "Buf": []byte("x")}), errGuard, 0},
		"a message of the user":     {[]byte("\x08hello"), errGuard, 0},
		"a label":                   {[]byte("\xf4\x01x\x00"), errGuard, 0},
		"an exchange":               {pack(t, kindPushPull, fields{"Nodes": 0}), errGuard, 0},
		"a huge string":             {[]byte("\x02\x81\xa7Payload\xc6\xff\xff\xff\xff"), errGuard, 0},
		"nesting":                   {append([]byte{kindAck, 0x81, 0xa1, 'x'}, bytes.Repeat([]byte{0x91}, 1900)...), errGuard, 0},
	} {
		doubted, err := g.in(a, c.packet)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || len(doubted) != c.doubted {
			t.Errorf("%s: %v, %v; want %v and %d", name, doubted, err, c.want, c.doubted)
		}
	}
}

func TestGuardOfExchanges(t *testing.T) {
	for name, c := range map[string]struct {
		message []byte
		ok      bool
	}{
		"an exchange":         {pack(t, kindPushPull, fields{"Nodes": 3, "UserStateLen": 0, "Join": true}), true},
		"an error":            {pack(t, kindError, fields{"Error": "no"}), true},
		"too many nodes":      {pack(t, kindPushPull, fields{"Nodes": maxNodes + 1}), false},
		"less than none":      {pack(t, kindPushPull, fields{"Nodes": -1}), false},
		"a state":             {pack(t, kindPushPull, fields{"Nodes": 1, "UserStateLen": 1}), false},
		"a ping":              {pack(t, kindPing, pingOf("a", 1)), false},
		"a compressed one":    {pack(t, 9, fields{"Algo": 0, "Buf": []byte("x")}), false},
		"a message of a user": {[]byte("\x08x"), false},
		"nothing":             {nil, false},
		"junk":                {[]byte{kindPushPull, 0xc1}, false},
	} {
		if err := checkExchange(c.message); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGate(t *testing.T) {
	a, b, stranger := idOf(t, 1), idOf(t, 2), idOf(t, 3)
	members := new(set)
	members.change(a, b)
	g := gate{&Members{Config: Config{Self: a, Set: members.list}}}
	of := func(id record.Identity) lib.Node {
		return lib.Node{Name: string(id), Addr: address(id), Port: port, PMin: 1, PMax: 5, PCur: 2}
	}
	for name, c := range map[string]struct {
		change func(*lib.Node)
		ok     bool
	}{
		"a member":            {func(*lib.Node) {}, true},
		"this node":           {func(n *lib.Node) { *n = of(a) }, true},
		"a stranger":          {func(n *lib.Node) { *n = of(stranger) }, false},
		"another's address":   {func(n *lib.Node) { n.Addr = address(a) }, false},
		"no address":          {func(n *lib.Node) { n.Addr = nil }, false},
		"metadata":            {func(n *lib.Node) { n.Meta = []byte("x") }, false},
		"a future protocol":   {func(n *lib.Node) { n.PMin, n.PMax, n.PCur = 6, 7, 7 }, false},
		"a protocol of ours":  {func(n *lib.Node) { n.PMax = 9 }, true},
		"another application": {func(n *lib.Node) { n.DMin, n.DMax, n.DCur = 1, 1, 1 }, false},
	} {
		node := of(b)
		c.change(&node)
		if err := g.NotifyAlive(&node); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzGuard(f *testing.F) {
	id := record.Identity("a")
	f.Add(pack(f, kindPing, pingOf(id, 1)))
	f.Add(pack(f, kindAlive, aliveOf(id)))
	f.Add(append([]byte{kindCompound, 1, 0, 4}, pack(f, kindAck, fields{})...))
	f.Add(pack(f, kindPushPull, fields{"Nodes": 3}))
	f.Fuzz(func(t *testing.T, packet []byte) {
		var g guard
		g.out(id, packet)
		_, _ = g.in(id, packet)
		_ = checkExchange(packet)
	})
}

// frames is a stream that gives frames, and then ends.
type frames struct {
	list [][]byte
	read int
}

func (f *frames) ReadFrame(context.Context) ([]byte, error) {
	if f.read == len(f.list) {
		return nil, io.EOF
	}
	f.read++
	return f.list[f.read-1], nil
}
func (f *frames) WriteFrame(context.Context, []byte) error { return nil }
func (f *frames) Close() error                             { return nil }

// TestEndlessExchange: an exchange is no longer than members have to say; one that goes on
// is ended, and told of.
func TestEndlessExchange(t *testing.T) {
	me, evil := idOf(t, 1), idOf(t, 2)
	refused := 0
	m, err := New(Config{
		Self: me, Set: func() []record.Identity { return []record.Identity{me, evil} }, State: func() State { return State{} },
		Reachable: func(record.Identity, bool) bool { return true }, Log: slog.New(slog.DiscardHandler),
		Refused: func(record.Identity) { refused++ },
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.peers[evil] = &peer{packets: packetBurst, counted: time.Now()}
	r := &run{Members: m, ctx: t.Context()}
	head := append([]byte{frameExchange}, pack(t, 6, map[string]any{"Nodes": 1, "UserStateLen": 0, "Join": false})...)
	frame := append(head, make([]byte, 200<<10)...)
	stream := &frames{list: slices.Repeat([][]byte{frame}, 1000)}
	c := newConn(r, evil, stream, frame[1:])
	read, buffer := 0, make([]byte, 64<<10)
	for err = nil; err == nil; {
		var n int
		n, err = c.Read(buffer)
		read += n
	}
	if !errors.Is(err, errGuard) || refused != 1 || read > maxExchange+len(frame) {
		t.Errorf("%d bytes were read, told of %d times, and then %v", read, refused, err)
	}
}

// TestFloodIsTold: what a member sends beyond what members do is dropped unread, of
// every kind, and told of.
func TestFloodIsTold(t *testing.T) {
	me, evil := idOf(t, 1), idOf(t, 2)
	state, err := State{Height: 1}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, frame := range map[string][]byte{
		"states":     append([]byte{frameState}, state...),
		"packets":    append([]byte{framePacket}, make([]byte, 1000)...),
		"exchanges":  append([]byte{frameExchange}, make([]byte, 1000)...),
		"of no kind": {'?'},
	} {
		t.Run(name, func(t *testing.T) {
			flooded := 0
			m, err := New(Config{
				Self: me, Set: func() []record.Identity { return []record.Identity{me, evil} }, State: func() State { return State{} },
				Reachable: func(record.Identity, bool) bool { return true }, Log: slog.New(slog.DiscardHandler),
				Flooded: func(from record.Identity, size int) {
					if from != evil || size != len(frame) {
						t.Errorf("%s, %d bytes", from, size)
					}
					flooded++
				},
			}, nil)
			if err != nil {
				t.Fatal(err)
			}
			m.peers[evil] = &peer{packets: 0, counted: time.Now()}
			r := &run{Members: m, ctx: t.Context()}
			const sent = 1000
			for read := 0; read < sent; { // over new streams, where one ends for it
				stream := &frames{list: slices.Repeat([][]byte{frame}, sent-read)}
				r.converse(evil, stream) //nolint:errcheck // what it ends with is not what is tested
				read += stream.read
			}
			if least := sent - 100; flooded < least {
				t.Errorf("told of %d frames of %d, want at least %d", flooded, sent, least)
			}
		})
	}
}
