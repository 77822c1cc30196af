package libp2p

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/pyrsia/appliance/modules/record"
)

const (
	// maxServing is how many blob streams are answered at once; a slice of
	// each is in memory. More wait. One peer has at most eachServing of them,
	// strangers together all but reservedServing.
	maxServing      = 32
	eachServing     = 6
	reservedServing = 8

	// idleBlob is how long a client may keep a stream without a question.
	idleBlob = time.Minute

	// slowClient is how long a client may take for one piece.
	slowClient = 20 * time.Second
)

var buffers = sync.Pool{New: func() any { p := make([]byte, 0, maxSliceBody+8); return &p }}

// serveBlob answers one client's questions until it goes.
func (r *run) serveBlob(s network.Stream) {
	defer s.Close()
	from := identity(s.Conn().RemotePeer())
	for {
		_ = s.SetReadDeadline(time.Now().Add(idleBlob))
		frame, err := readFrame(s, maxRequest)
		if err != nil {
			return
		}
		if err := r.answer(s, from, frame); err != nil {
			_ = s.Reset()
			return
		}
	}
}

func (r *run) answer(s network.Stream, from record.Identity, frame []byte) error {
	q, err := decodeRequest(frame)
	if err != nil {
		_ = r.send(s, statusFrame(statusMalformed))
		return err
	}
	if !r.h.shares() {
		return r.send(s, statusFrame(statusNotShared))
	}
	if q.code == codeHave {
		return r.answerHave(s, q)
	}
	release, err := r.serving.take(r.ctx, from, r.knows(from))
	if err != nil {
		return err
	}
	defer release()
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	reply := append((*buffer)[:0], 0, 0, 0, 0, statusOK)
	reply, err = r.h.store.Slice(reply, q.digests[0], q.offset, q.length)
	*buffer = reply
	if err != nil {
		return r.send(s, statusFrame(statusNotHere))
	}
	binary.BigEndian.PutUint32(reply, uint32(len(reply)-4))
	return r.send(s, reply)
}

func (r *run) answerHave(s network.Stream, q request) error {
	var all []held
	for _, digest := range q.digests {
		h := held{}
		if size, chunks, ok := r.h.store.Held(digest); ok && chunks == nil {
			h = held{state: heldAll}
		} else if ok && size > 0 && bitmapSize(size) <= maxBitmap {
			h = held{state: heldSome, size: size, chunks: chunks}
		}
		all = append(all, h)
	}
	body := encodeHeld(all)
	reply := binary.BigEndian.AppendUint32(nil, uint32(1+len(body)))
	return r.send(s, append(append(reply, statusOK), body...))
}

func statusFrame(status byte) []byte { return []byte{0, 0, 0, 1, status} }

// send writes a reply in pieces, each paid for from the upload bucket.
func (r *run) send(s network.Stream, reply []byte) error {
	for len(reply) > 0 {
		n := min(piece, len(reply))
		if r.h.upload.limited() {
			if err := r.h.upload.take(r.ctx, n); err != nil {
				return err
			}
		} else {
			n = len(reply)
		}
		_ = s.SetWriteDeadline(time.Now().Add(slowClient + time.Duration(n/piece)*100*time.Millisecond))
		if _, err := s.Write(reply[:n]); err != nil {
			return err
		}
		reply = reply[n:]
	}
	return nil
}

func (b *bucket) limited() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rate > 0
}
