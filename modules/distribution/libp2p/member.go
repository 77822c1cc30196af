package libp2p

import (
	"context"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/pyrsia/appliance/modules/distribution"
	"github.com/pyrsia/appliance/modules/record"
)

// /pyrsia/members/1: streams between members, in both directions, of frames of
// at most distribution.MaxMemberFrame bytes. What the frames say is the
// business of modules/quorum/memberlist. A stream is refused unread unless both
// ends are members.

// MemberStream is a stream to another member, whom the connection
// authenticated. One goroutine may read while another one writes. What a context
// ends while it is under way ends the stream too.
type MemberStream struct {
	r  *run
	id record.Identity
	s  network.Stream
}

// ReadFrame reads one frame, for its caller to keep. It fails when the member
// no longer is one.
func (m *MemberStream) ReadFrame(ctx context.Context) ([]byte, error) {
	deadline, _ := ctx.Deadline() // the zero time is none
	_ = m.s.SetReadDeadline(deadline)
	defer context.AfterFunc(ctx, func() { _ = m.s.Reset() })()
	frame, err := readFrame(m.s, distribution.MaxMemberFrame)
	if errors.Is(err, errMalformed) {
		m.r.h.config.Refused(m.id, distribution.RefusedOversized)
	}
	if err == nil && !m.r.admits(m.id) {
		err = fmt.Errorf("%w: %s is refused", distribution.ErrUnreachable, m.id)
	}
	return frame, err
}

// WriteFrame writes one frame.
func (m *MemberStream) WriteFrame(ctx context.Context, frame []byte) error {
	if len(frame) > distribution.MaxMemberFrame {
		return fmt.Errorf("frame of %d bytes: at most %d", len(frame), distribution.MaxMemberFrame)
	}
	deadline, _ := ctx.Deadline()
	_ = m.s.SetWriteDeadline(deadline)
	defer context.AfterFunc(ctx, func() { _ = m.s.Reset() })()
	return writeFrame(m.s, frame)
}

// Close ends the stream, also for those who read it or write to it; what was
// written goes out.
func (m *MemberStream) Close() error { return m.s.Close() }

// Meet opens a stream to a member over the connection that there is: dialling
// is left to those who keep connections.
func (h *Host) Meet(ctx context.Context, to record.Identity) (*MemberStream, error) {
	r, err := h.running()
	if err != nil {
		return nil, err
	}
	if !h.config.Members(to) {
		return nil, fmt.Errorf("%w: %s is no member", distribution.ErrUnreachable, to)
	}
	s, err := r.stream(network.WithNoDial(ctx, "members"), to, distribution.MembersProtocol)
	if err != nil {
		return nil, err
	}
	return &MemberStream{r: r, id: to, s: s}, nil
}

// serveMember hands a member's stream to the configured function.
func (r *run) serveMember(s network.Stream) {
	from := identity(s.Conn().RemotePeer())
	if !r.admits(from) {
		_ = s.Reset()
		return
	}
	defer s.Close() // no reset: what was written last may be on its way
	defer context.AfterFunc(r.ctx, func() { _ = s.Reset() })()
	r.h.config.Meet(from, &MemberStream{r: r, id: from, s: s})
}

// Reach asks a node for a sign of life, before ctx ends: one round trip over
// the connection that there is, or a new connection. nil says that it answered;
// ErrUnreachable, that it did not, or cannot be dialled. Any other error says
// nothing about the node.
//
// That a connection is open proves nothing: it stays so when the process at its
// other end is frozen, and for as long as TCP has patience when its machine has
// lost its power.
func (h *Host) Reach(ctx context.Context, id record.Identity) error {
	r, err := h.running()
	if err != nil {
		return err
	}
	p, err := peerID(id)
	if err != nil {
		return err
	}
	if r.host.Network().Connectedness(p) == network.Connected {
		_, err := r.pingOnce(ctx, p)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("%w: %s does not answer", distribution.ErrUnreachable, id)
		case ctx.Err() != nil:
			return ctx.Err()
		case r.host.Network().Connectedness(p) == network.Connected:
			return err // a limit, here or there
		}
	}
	if err := r.connect(ctx, p); err != nil {
		if errors.Is(ctx.Err(), context.Canceled) || r.ctx.Err() != nil {
			return errors.Join(ctx.Err(), r.ctx.Err())
		}
		return fmt.Errorf("%w: %s: %v", distribution.ErrUnreachable, id, err)
	}
	return nil
}
