package memberlist

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/hashicorp/go-msgpack/v2/codec"
	lib "github.com/hashicorp/memberlist"

	"github.com/pyrsia/appliance/modules/record"
)

// memberlist was made for networks whose nodes trust each other: it unpacks what
// is compressed, answers to the address that a question names, and takes anybody's
// word for anybody. The guard stands before it. It lets through what memberlist
// sends as it is configured here, from whom it is about where that can be told,
// and refuses the rest: a member that sends anything else is no member of ours.

// The kinds of memberlist's messages that exist here (net.go of memberlist).
const (
	kindPing     = 0
	kindAck      = 2
	kindSuspect  = 3
	kindAlive    = 4
	kindDead     = 5
	kindPushPull = 6
	kindCompound = 7
	kindCRC      = 12
	kindError    = 13
)

const (
	// maxPacket is above what memberlist puts into one packet, 1400 bytes.
	maxPacket = 2048

	// maxNodes bounds the nodes of one exchange: memberlist takes memory for as
	// many as their number says, before any has come.
	maxNodes = 1024

	// keptPings are the pings that may still be answered. memberlist sends one
	// at a time.
	keptPings = 16
)

// errGuard is why a packet is refused; errStray, why it is dropped without blame.
var (
	errGuard = errors.New("not what a member sends")
	errStray = errors.New("answer to an old question")
)

// said is what the guard reads of a message.
type said struct {
	Incarnation uint32
	SeqNo       uint32
	Node        string // whom it is about
	From        string // whose suspicion it is
	SourceAddr  []byte
	SourcePort  uint16
	SourceNode  string
	Payload     []byte
	Addr        []byte
	Port        uint16
	Meta        []byte
}

// guard reads the packets of both directions. Safe for concurrent use.
type guard struct {
	mu    sync.Mutex
	pings []ping // sent and not answered, oldest first
}

type ping struct {
	seq uint32
	to  record.Identity
}

// messages takes a packet apart.
func messages(packet []byte) ([][]byte, error) {
	if len(packet) == 0 || len(packet) > maxPacket {
		return nil, fmt.Errorf("%w: packet of %d bytes", errGuard, len(packet))
	}
	if packet[0] == kindCRC && len(packet) > 5 {
		packet = packet[5:] // memberlist checks the sum
	}
	if packet[0] != kindCompound {
		return [][]byte{packet}, nil
	}
	return compound(packet[1:])
}

// compound is a count, as many lengths of 16 bits, and as many messages.
func compound(packet []byte) ([][]byte, error) {
	if len(packet) == 0 || len(packet) < 1+2*int(packet[0]) {
		return nil, fmt.Errorf("%w: truncated packet", errGuard)
	}
	count := int(packet[0])
	lengths, rest := packet[1:1+2*count], packet[1+2*count:]
	var all [][]byte
	for ; len(lengths) > 0; lengths = lengths[2:] {
		n := int(binary.BigEndian.Uint16(lengths))
		if n == 0 || n > len(rest) {
			return nil, fmt.Errorf("%w: truncated packet", errGuard)
		}
		all, rest = append(all, rest[:n]), rest[n:]
	}
	return all, nil
}

// read decodes a message that there may be in a packet.
func read(message []byte) (kind byte, s said, err error) {
	switch kind = message[0]; kind {
	case kindPing, kindAck, kindSuspect, kindAlive, kindDead:
	default:
		return kind, s, fmt.Errorf("%w: message of kind %d", errGuard, kind)
	}
	if err := unpack(message[1:], &s); err != nil {
		return kind, s, fmt.Errorf("%w: %v", errGuard, err)
	}
	return kind, s, nil
}

func unpack(data []byte, v any) error {
	return codec.NewDecoder(bytes.NewReader(data), &codec.MsgpackHandle{}).Decode(v)
}

// in checks a packet of a member, and tells whom it says that it has lost.
func (g *guard) in(from record.Identity, packet []byte) (doubted []record.Identity, err error) {
	all, err := messages(packet)
	if err != nil {
		return nil, err
	}
	for _, message := range all {
		kind, s, err := read(message)
		if err == nil {
			err = g.check(from, kind, s)
		}
		if err != nil {
			return nil, err
		}
		if kind == kindSuspect || kind == kindDead {
			doubted = append(doubted, record.Identity(s.Node))
		}
	}
	return doubted, nil
}

// check refuses a message in which its sender speaks for another. What it says
// of another's absence is hearsay, and welcome as such.
func (g *guard) check(from record.Identity, kind byte, s said) error {
	switch kind {
	case kindPing:
		// The answer goes where the question says.
		if s.SourceNode != string(from) || !bytes.Equal(s.SourceAddr, address(from)) || s.SourcePort != port {
			return fmt.Errorf("%w: ping of %.80q", errGuard, s.SourceNode)
		}
	case kindAck:
		if len(s.Payload) > 0 {
			return fmt.Errorf("%w: answer with a payload", errGuard)
		}
		return g.answered(from, s.SeqNo)
	case kindAlive:
		if err := checkAlive(s.Node, s.Addr, s.Port, s.Meta); err != nil {
			return err
		}
	}
	return nil
}

// checkAlive refuses a node under an address that is not its name's, and one
// with metadata: these are passed on by others, who could change them.
func checkAlive(name string, addr net.IP, atPort uint16, meta []byte) error {
	if !bytes.Equal(addr, address(record.Identity(name))) || atPort != port || len(meta) > 0 {
		return fmt.Errorf("%w: %.80q at %v", errGuard, name, addr)
	}
	return nil
}

// answered refuses an answer for another: it would hide that the other is dead.
func (g *guard) answered(from record.Identity, seq uint32) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.pings {
		if p.seq == seq && p.to != from {
			return fmt.Errorf("%w: answer for another", errGuard)
		}
		if p.seq == seq {
			return nil
		}
	}
	return errStray
}

// out remembers the pings of a packet to a member, and tells whom this node's
// memberlist has lost.
func (g *guard) out(to record.Identity, packet []byte) (doubted []record.Identity) {
	all, err := messages(packet)
	if err != nil {
		return nil
	}
	for _, message := range all {
		kind, s, err := read(message)
		switch {
		case err != nil:
		case kind == kindPing:
			g.asked(ping{seq: s.SeqNo, to: to})
		case kind == kindSuspect, kind == kindDead:
			doubted = append(doubted, record.Identity(s.Node))
		}
	}
	return doubted
}

func (g *guard) asked(p ping) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pings = append(g.pings, p)
	g.pings = g.pings[max(0, len(g.pings)-keptPings):]
}

// checkExchange checks the beginning of what a member tells in an exchange of all
// that both know: memberlist takes it apart.
func checkExchange(message []byte) error {
	if len(message) == 0 {
		return fmt.Errorf("%w: nothing", errGuard)
	}
	switch message[0] {
	case kindError:
		return nil
	case kindPushPull:
	default:
		return fmt.Errorf("%w: exchange of kind %d", errGuard, message[0])
	}
	var header struct {
		Nodes        int
		UserStateLen int
	}
	if err := unpack(message[1:], &header); err != nil {
		return fmt.Errorf("%w: %v", errGuard, err)
	}
	if header.Nodes < 0 || header.Nodes > maxNodes || header.UserStateLen != 0 {
		return fmt.Errorf("%w: exchange of %d nodes and %d bytes", errGuard, header.Nodes, header.UserStateLen)
	}
	return nil
}

// gate is what memberlist asks before it takes a node: packets have been checked
// before, the nodes of an exchange are checked here.
type gate struct{ *Members }

// NotifyAlive implements memberlist.AliveDelegate.
func (g gate) NotifyAlive(node *lib.Node) error {
	if id := record.Identity(node.Name); id != g.Self && !g.admits(id) {
		return fmt.Errorf("%w: %.80q", errForeign, node.Name)
	}
	// One node that pretends to speak nothing that we do would end all exchanges.
	if node.PMin > protocolVersion || node.PMax < protocolVersion || node.PCur != protocolVersion || node.DMin|node.DMax|node.DCur != 0 {
		return fmt.Errorf("%w: %.80q of protocol %d to %d", errGuard, node.Name, node.PMin, node.PMax)
	}
	return checkAlive(node.Name, node.Addr, node.Port, node.Meta)
}
