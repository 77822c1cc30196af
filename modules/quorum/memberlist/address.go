package memberlist

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"

	lib "github.com/hashicorp/memberlist"

	"github.com/pyrsia/appliance/modules/record"
)

// memberlist wants an IP address and a port of everybody. Nothing listens there:
// the address is made of the name, so that there is nothing to learn, to update
// or to lie about.
const port = 7946

// address is a member's: a unique local IPv6 address of 120 bits of a hash.
func address(id record.Identity) net.IP {
	sum := sha256.Sum256([]byte("pyrsia/members/address/v1\n" + string(id)))
	return append(net.IP{0xfd}, sum[:net.IPv6len-1]...)
}

// hostPort is a member's address as memberlist hands it to its transport.
func hostPort(id record.Identity) string {
	return net.JoinHostPort(address(id).String(), strconv.Itoa(port))
}

// errForeign is why nothing goes to, and nothing is taken of, who is no member.
var errForeign = errors.New("not a member")

// destination is the member that memberlist means.
func (m *Members) destination(a lib.Address) (record.Identity, error) {
	id := record.Identity(a.Name)
	if !m.admits(id) || a.Addr != hostPort(id) {
		return "", fmt.Errorf("%w: %.80q at %.80q", errForeign, a.Name, a.Addr)
	}
	return id, nil
}

// admits tells whether a node is another member now.
func (m *Members) admits(id record.Identity) bool {
	return id != m.Self && slices.Contains(m.Set(), id)
}
