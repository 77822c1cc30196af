package libp2p

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/pyrsia/appliance/modules/distribution"
	"github.com/pyrsia/appliance/modules/record"
)

// /pyrsia/chain/1: the client sends the height from which it wants blocks (8
// bytes, big-endian). The server sends every block from there on, one frame
// each, and each new one as soon as it is there, until one of the two goes. An
// empty frame says that the server is alive and has nothing new.

const (
	// maxFollowers is how many chain streams are served at once: to one peer
	// at most eachFollower, to strangers together all but reservedFollowers. A
	// node follows another over one stream, and over a second one for as long
	// as the end of the first has not come through.
	maxFollowers      = 256
	eachFollower      = 4
	reservedFollowers = 64

	// maxAlive is how many keep-alives in a row a follower reads: they come every
	// few seconds, and nobody follows for days without a block.
	maxAlive = 100_000

	// slowFollower is how long a follower may take for one block.
	slowFollower = 20 * time.Second
)

// Follow calls receive for every block of a peer's chain from a height on, in
// order, until receive fails, ctx ends or the peer is lost; it never returns
// nil. The blocks are as the peer sent them: receive checks everything. A peer
// that is silent for five keep-alives is lost.
func (h *Host) Follow(ctx context.Context, from record.Identity, height int64, receive func(block []byte) error) error {
	if height < 0 {
		return fmt.Errorf("follow from height %d", height)
	}
	r, err := h.running()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	short, done := context.WithTimeout(ctx, h.timing.PingWait)
	defer done()
	s, err := r.stream(short, from, distribution.ChainProtocol)
	if err != nil {
		return err
	}
	defer s.Reset()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	_ = s.SetWriteDeadline(time.Now().Add(h.timing.PingWait))
	if _, err := s.Write(binary.BigEndian.AppendUint64(nil, uint64(height))); err != nil {
		return followed(ctx, from, err)
	}
	reader := bufio.NewReaderSize(s, 64<<10)
	alive := 0 // keep-alives since the last block
	for {
		_ = s.SetReadDeadline(time.Now().Add(h.timing.patience()))
		n, err := readLength(reader, distribution.MaxMessage)
		if err != nil {
			return followed(ctx, from, err)
		}
		if n == 0 {
			if alive++; alive > maxAlive {
				return followed(ctx, from, errors.New("it says nothing, again and again"))
			}
			continue
		}
		alive = 0
		_ = s.SetReadDeadline(time.Now().Add(slowFollower))
		block, err := readBody(reader, n)
		if err != nil {
			return followed(ctx, from, err)
		}
		if err := receive(block); err != nil {
			return err
		}
	}
}

// patience is how long a chain stream may be silent.
func (t Timing) patience() time.Duration { return 5 * t.KeepAlive }

func followed(ctx context.Context, from record.Identity, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w: chain of %s: %v", distribution.ErrUnreachable, from, err)
}

// serveChain sends blocks to one follower.
func (r *run) serveChain(s network.Stream) {
	from := identity(s.Conn().RemotePeer())
	release, ok := r.followers.try(from, r.knows(from))
	if !ok {
		_ = s.Reset()
		return
	}
	defer release()
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	defer s.Reset()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	_ = s.SetReadDeadline(time.Now().Add(r.h.timing.PingWait))
	var head [8]byte
	if err := readAll(s, head[:]); err != nil {
		return
	}
	height := int64(binary.BigEndian.Uint64(head[:]))
	if height < 0 {
		return
	}
	for ; ; height++ {
		if err := r.awaitBlock(ctx, s, height); err != nil {
			return
		}
		block, err := r.h.config.Blocks.Block(height)
		if err != nil || len(block) > distribution.MaxMessage {
			r.h.log.Warn("cannot serve a block", "height", height, "bytes", len(block), "error", err)
			return
		}
		if err := sendChain(s, block); err != nil {
			return
		}
	}
}

// awaitBlock waits until a block is there, sending keep-alives meanwhile.
func (r *run) awaitBlock(ctx context.Context, s network.Stream, height int64) error {
	for {
		short, cancel := context.WithTimeout(ctx, r.h.timing.KeepAlive)
		err := r.h.config.Blocks.Wait(short, height)
		late := short.Err() != nil
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || !late {
			return err
		}
		if err := sendChain(s, nil); err != nil {
			return err
		}
	}
}

func sendChain(s network.Stream, block []byte) error {
	_ = s.SetWriteDeadline(time.Now().Add(slowFollower))
	return writeFrame(s, block)
}
