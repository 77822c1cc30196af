package libp2p

import (
	"fmt"
	"slices"

	ma "github.com/multiformats/go-multiaddr"
)

// Listen opens what is new in a list of addresses, and leaves everything else as it
// is. commit then closes what is no longer in the list; connections stay. undo closes
// what was opened. Exactly one of them is called, before Listen is called again. An
// error changes nothing.
func (h *Host) Listen(addresses []string) (commit, undo func(), err error) {
	h.mu.Lock()
	r, before := h.run, h.listen
	h.mu.Unlock()
	opened, err := r.listen(missing(addresses, before))
	if err != nil {
		return nil, nil, err
	}
	commit = func() {
		h.mu.Lock()
		h.listen = slices.Clone(addresses)
		h.mu.Unlock()
		r.silence(missing(before, addresses))
	}
	return commit, func() { r.silence(opened) }, nil
}

// missing are the texts of a list that another has not.
func missing(from, in []string) []string {
	return slices.DeleteFunc(slices.Clone(from), func(s string) bool { return slices.Contains(in, s) })
}

// listen opens addresses, all or none. A host that does not run listens when it does.
func (r *run) listen(addresses []string) (opened []string, err error) {
	if r == nil {
		return nil, nil
	}
	for _, address := range addresses {
		if err := r.listenOn(address); err != nil {
			r.silence(opened)
			return nil, fmt.Errorf("cannot listen on %s: %w", address, err)
		}
		opened = append(opened, address)
	}
	return opened, nil
}

// listenOn opens one address, and notes what it has become: port 0 becomes another.
func (r *run) listenOn(address string) error {
	addr, err := ma.NewMultiaddr(address)
	if err != nil {
		return err
	}
	before := r.host.Network().ListenAddresses()
	if err := r.host.Network().Listen(addr); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opened[address] = slices.DeleteFunc(r.host.Network().ListenAddresses(), func(a ma.Multiaddr) bool { return ma.Contains(before, a) })
	return nil
}

// silence closes addresses.
func (r *run) silence(addresses []string) {
	if r == nil {
		return
	}
	closer, ok := r.host.Network().(interface{ ListenClose(...ma.Multiaddr) })
	if !ok {
		return
	}
	for _, address := range addresses {
		r.mu.Lock()
		opened := r.opened[address]
		delete(r.opened, address)
		r.mu.Unlock()
		closer.ListenClose(opened...)
	}
}

func (h *Host) listening() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.listen
}
