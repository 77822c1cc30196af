package libp2p

import (
	"time"

	"github.com/pyrsia/appliance/modules/distribution"
	"github.com/pyrsia/appliance/modules/record"
)

// Refuse shuts a node out of the protocols for members: its connections are
// closed and, until the given time, its streams are refused unread. Over a new
// connection it gets and gives blobs and blocks as before, since these prove
// themselves, and what this node sends to it goes on. A time that is past ends
// a refusal. It returns at once.
func (h *Host) Refuse(id record.Identity, until time.Time) {
	h.mu.Lock()
	h.shut[id] = until
	r := h.run
	h.mu.Unlock()
	if !time.Now().Before(until) || r == nil {
		return
	}
	if p, err := peerID(id); err == nil {
		// Not here: the caller may be the very stream that is to be closed.
		r.Go(func() { _ = r.host.Network().ClosePeer(p) })
	}
}

// refuses tells whether a node is shut out now.
func (h *Host) refuses(id record.Identity) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	until, found := h.shut[id]
	if found && !time.Now().Before(until) {
		delete(h.shut, id)
		found = false
	}
	return found
}

// admits tells whether a node may speak to this one as a member. It is asked
// before anything is read, and again at every message.
func (r *run) admits(id record.Identity) bool {
	if !r.h.config.Members(id) {
		r.h.config.Refused(id, distribution.RefusedForeign)
		return false
	}
	return !r.h.refuses(id)
}
