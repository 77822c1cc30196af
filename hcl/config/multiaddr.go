package config

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/pyrsia/appliance/modules/record"
)

// The parts that a multiaddr may have here, and how their values are checked;
// nil for parts without a value. libp2p reads the address itself later: this
// check is there to point at the place in the file.
var multiaddrParts = map[string]func(string) bool{
	"ip4":          func(s string) bool { a, err := netip.ParseAddr(s); return err == nil && a.Is4() },
	"ip6":          func(s string) bool { a, err := netip.ParseAddr(s); return err == nil && a.Is6() },
	"dns":          isHost,
	"dns4":         isHost,
	"dns6":         isHost,
	"dnsaddr":      isHost,
	"tcp":          isPort,
	"udp":          isPort,
	"p2p":          func(s string) bool { _, err := record.Identity(s).Key(); return err == nil },
	"certhash":     func(s string) bool { return s != "" },
	"sni":          isHost,
	"quic-v1":      nil,
	"tls":          nil,
	"ws":           nil,
	"wss":          nil,
	"p2p-circuit":  nil,
	"webtransport": nil,
}

var host = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?$`)

func isHost(s string) bool { return len(s) < 254 && host.MatchString(s) }

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && strconv.FormatUint(n, 10) == s
}

const exampleMultiaddr = "\"/dns4/beta.example/tcp/4001\""

func parseMultiaddr(s string) (string, error) {
	if !strings.HasPrefix(s, "/") {
		return "", wrongf(suggestMultiaddr(s), "%.160q is not a multiaddr: want parts that begin with /, such as %s.", s, exampleMultiaddr)
	}
	parts := strings.Split(s[1:], "/")
	for i := 0; i < len(parts); i++ {
		check, known := multiaddrParts[parts[i]]
		if !known {
			return "", wrongf(didYouMean(parts[i], keys(multiaddrParts)), "%.160q is not a multiaddr: %.40q is no known part.", s, parts[i])
		}
		if check == nil {
			continue
		}
		if i+1 == len(parts) {
			return "", wrongf("add it, as in "+exampleMultiaddr, "%.160q is not a multiaddr: /%s has no value.", s, parts[i])
		}
		if i++; !check(parts[i]) {
			return "", wrongf("", "%.160q is not a multiaddr: %.80q is no value for /%s.", s, parts[i], parts[i-1])
		}
	}
	return s, checkTransport(s, parts)
}

// checkTransport wants a host and then a port: what can be dialled or listened
// on.
func checkTransport(s string, parts []string) error {
	switch parts[0] {
	case "dnsaddr":
		return nil
	case "ip4", "ip6", "dns", "dns4", "dns6":
	default:
		return wrongf("begin with /ip4, /ip6 or /dns", "%.160q is not a multiaddr of a node: it begins with /%s.", s, parts[0])
	}
	if len(parts) < 4 || (parts[2] != "tcp" && parts[2] != "udp") {
		return wrongf("add /tcp/4001 or /udp/4001/quic-v1", "%.160q is not a multiaddr of a node: it has no port.", s)
	}
	if parts[2] == "udp" && (len(parts) < 5 || parts[4] != "quic-v1") {
		return wrongf(write("/"+strings.Join(parts[:4], "/")+"/quic-v1"), "%.160q is not a multiaddr of a node: udp alone carries nothing.", s)
	}
	return nil
}

func parseListen(s string) (string, error) {
	s, err := parseMultiaddr(s)
	if err == nil && !strings.HasPrefix(s, "/ip") {
		err = wrongf("write \"/ip4/0.0.0.0/tcp/4001\"", "%.160q cannot be listened on: want an address of this machine.", s)
	}
	if err == nil && strings.Contains(s, "/p2p/") {
		err = wrongf(write(s[:strings.Index(s, "/p2p/")]), "%.160q names a node: one listens without /p2p.", s)
	}
	return s, err
}

func suggestMultiaddr(s string) string {
	if address, err := netip.ParseAddrPort(s); err == nil {
		kind := "ip4"
		if address.Addr().Is6() {
			kind = "ip6"
		}
		return write("/" + kind + "/" + address.Addr().String() + "/tcp/" + strconv.Itoa(int(address.Port())))
	}
	name, port, ok := strings.Cut(s, ":")
	if ok && isHost(name) && isPort(port) {
		return write("/dns4/" + name + "/tcp/" + port)
	}
	return "write " + exampleMultiaddr
}
