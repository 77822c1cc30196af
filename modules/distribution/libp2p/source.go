package libp2p

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/distribution"
	"github.com/pyrsia/appliance/modules/record"
)

const (
	// firstDepth and lastDepth are how many requests are on their way to one
	// source at once: few at first, and so few are lost when it is slow; more
	// the faster it answers, so that a far one is kept busy.
	firstDepth = 2
	lastDepth  = 16

	// askAgain is how often a source that has a part is asked for what it has
	// got since.
	askAgain = 300 * time.Millisecond
)

var (
	errBroken  = errors.New("the stream broke")
	errNotHere = errors.New("it does not have it, or does not share")
	errEnough  = errors.New("enough sources")
	errGone    = errors.New("it said that it has it, and has not")
	errStalled = errors.New("it sends nothing")
	errFull    = errors.New("no place is left")
)

// source is one node that an artifact is fetched from, over one stream. Its
// fields belong to the goroutine of ask; held is read under the transfer's mu.
type source struct {
	t      *transfer
	id     record.Identity
	stream network.Stream
	reader *bufio.Reader

	held   held
	heldAt time.Time
	queue  []wish
	depth  int

	window time.Time // since when the bytes are counted
	came   int       // bytes since then
}

// wish is a request on its way.
type wish struct {
	offset, length int64
	since          time.Time
	have           bool // a question and not a slice
}

// ask asks a node whether it has the artifact and, if so, fetches from it
// until nothing is left to fetch, the node fails, or ctx ends.
func (t *transfer) ask(ctx context.Context, id record.Identity) {
	s, err := t.meet(ctx, id)
	if err != nil {
		t.judge(ctx, id, err)
		return
	}
	defer t.leave(s)
	err = s.work(ctx)
	if err == nil && len(s.queue) == 0 {
		_ = s.stream.Close()
	} else {
		// Answers are still on their way, and another source has brought them.
		_ = s.stream.Reset()
	}
	t.judge(ctx, id, err)
}

// meet opens the stream and asks; errNotHere when the node has nothing.
func (t *transfer) meet(ctx context.Context, id record.Identity) (*source, error) {
	short, cancel := context.WithTimeout(network.WithNoDial(ctx, "source"), t.r.h.timing.Have)
	defer cancel()
	stream, err := t.r.stream(short, id, distribution.BlobProtocol)
	if err != nil {
		return nil, errBroken
	}
	s := &source{t: t, id: id, stream: stream, depth: firstDepth}
	s.reader = bufio.NewReaderSize(patient{s}, 64<<10)
	stop := context.AfterFunc(short, func() { _ = stream.Reset() })
	err = s.askHeld()
	s.expect()
	if err == nil {
		err = s.readHeld()
	}
	if !stop() && err == nil {
		err = errBroken
	}
	if err == nil && s.held.state == heldNothing {
		_ = stream.Close()
		return nil, errNotHere
	}
	if err != nil {
		_ = stream.Reset()
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.sources) >= maxSources {
		_ = stream.Close()
		return nil, errEnough
	}
	t.sources[id] = s
	return s, nil
}

func (t *transfer) leave(s *source) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.sources, s.id)
	for _, w := range s.queue {
		t.release(s.id, w)
	}
	t.notify()
}

// judge decides what a failure costs a node.
func (t *transfer) judge(ctx context.Context, id record.Identity, err error) {
	timing := t.r.h.timing
	switch {
	case err == nil || ctx.Err() != nil || errors.Is(err, errNotHere) || errors.Is(err, errEnough):
		// No fault: it is asked again in a later round.
	case errors.Is(err, errBroken):
		// It may have been restarted. Only who breaks off again and again goes.
		t.mu.Lock()
		t.breaks[id]++
		often := t.breaks[id] >= maxBreaks
		t.mu.Unlock()
		if often {
			t.refuse(id, err, 0)
		}
	case unverified(err), errors.Is(err, errMalformed):
		t.refuse(id, err, timing.Ban)
	case errors.Is(err, errStalled), errors.Is(err, errGone):
		t.refuse(id, err, timing.Penalty)
	}
}

// patient reads the stream and gives up when 16 KiB, or the whole of a shorter
// answer, do not come in time, whoever trickles single bytes.
type patient struct{ s *source }

func (p patient) Read(b []byte) (int, error) {
	s := p.s
	_ = s.stream.SetReadDeadline(s.window.Add(s.t.r.h.timing.Stall))
	n, err := s.stream.Read(b)
	if s.came += n; s.came >= 16<<10 {
		s.expect()
	}
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return n, errStalled
	}
	if err != nil && err != io.EOF {
		return n, errBroken
	}
	return n, err
}

// expect begins a new span to wait for bytes.
func (s *source) expect() { s.window, s.came = time.Now(), 0 }

func (s *source) request(q request, w wish) error {
	_ = s.stream.SetWriteDeadline(time.Now().Add(s.t.r.h.timing.Stall))
	if err := writeFrame(s.stream, q.encode()); err != nil {
		return errBroken
	}
	w.since = time.Now()
	s.queue = append(s.queue, w)
	return nil
}

func (s *source) askHeld() error {
	return s.request(request{code: codeHave, digests: digests(s.t)}, wish{have: true})
}

// work keeps requests on their way and reads what comes.
func (s *source) work(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.stream.Reset() })
	defer stop()
	for ctx.Err() == nil {
		changed := s.t.changedNow()
		moved := s.t.download.Changed()
		if err := s.ask(ctx); err != nil {
			return err
		}
		if len(s.queue) > 0 {
			if err := s.receive(); err != nil {
				return err
			}
			continue
		}
		if over, _ := s.t.download.Ended(); over || s.t.download.Complete() {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-moved:
		case <-time.After(askAgain):
		}
	}
	return ctx.Err()
}

func (t *transfer) changedNow() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

// ask puts requests on their way up to the depth, each paid for from the download
// bucket: what was not asked for does not come. While there is something to read it
// waits for nothing.
func (s *source) ask(ctx context.Context) error {
	limit := s.t.r.h.download
	for len(s.queue) < s.depth && (len(s.queue) == 0 || !limit.owes()) {
		offset, length, ok := s.t.claim(s)
		if !ok {
			break
		}
		q := request{code: codeSlice, digests: digests(s.t), offset: offset, length: length}
		err := limit.take(ctx, int(length))
		if err == nil {
			err = s.request(q, wish{offset: offset, length: length})
		}
		if err != nil {
			s.queue = append(s.queue, wish{offset: offset, length: length}) // leave releases it
			return err
		}
	}
	if len(s.queue) == 0 && s.held.state == heldSome && time.Since(s.heldAt) > askAgain {
		return s.askHeld()
	}
	return nil
}

// receive reads the answer to the oldest request.
func (s *source) receive() error {
	s.expect()
	w := s.queue[0]
	if w.have {
		err := s.readHeld()
		if err == nil && s.held.state == heldNothing {
			err = errNotHere
		}
		return err
	}
	n, err := s.readStatus(maxSliceBody)
	if err != nil {
		return err
	}
	if want := sliceSize(s.t.desc.Size, w.offset, w.length); int64(n) != want {
		return fmt.Errorf("%w: %d bytes where %d belong", errMalformed, n, want)
	}
	body := &io.LimitedReader{R: s.reader, N: int64(n)}
	if err := s.t.download.WriteSlice(w.offset, w.length, body); err != nil {
		return s.localFault(err)
	}
	s.queue = s.queue[1:]
	s.t.arrived(s.id, w.length)
	s.t.mu.Lock()
	s.t.release(s.id, w)
	s.t.mu.Unlock()
	s.pace(time.Since(w.since))
	return nil
}

// localFault passes on what is the node's fault and ends the download for what
// is ours: a full disk is not cured by another source.
func (s *source) localFault(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errBroken
	}
	if unverified(err) || errors.Is(err, errStalled) || errors.Is(err, errBroken) {
		return err
	}
	s.t.download.Suspend(err)
	return errBroken
}

// pace keeps about a quarter of a second's worth of requests on their way: what
// is asked of one source cannot be asked of another.
func (s *source) pace(took time.Duration) {
	switch {
	case took < 200*time.Millisecond:
		s.depth = min(s.depth+1, lastDepth)
	case took > 400*time.Millisecond:
		s.depth = max(s.depth-1, firstDepth)
	}
}

// readStatus reads a reply's head; what is left of it is n bytes.
func (s *source) readStatus(limit int) (n int, err error) {
	n, err = readLength(s.reader, limit)
	if err != nil {
		return 0, broken(err)
	}
	if n == 0 {
		return 0, errMalformed
	}
	status, err := s.reader.ReadByte()
	if err != nil {
		return 0, broken(err)
	}
	switch status {
	case statusOK:
		return n - 1, nil
	case statusNotHere:
		return 0, errGone // only an answer to a slice; an eviction or a lie
	case statusNotShared:
		return 0, errNotHere
	}
	return 0, errMalformed
}

func broken(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errBroken
	}
	return err
}

func (s *source) readHeld() error {
	n, err := s.readStatus(maxHeld)
	if err != nil {
		return err
	}
	// One digest was asked for: the answer is short.
	if n > 1+8+maxBitmap {
		return errMalformed
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(s.reader, body); err != nil {
		return broken(err)
	}
	all, err := decodeHeld(body, 1)
	if err != nil {
		return err
	}
	if all[0].state == heldSome && all[0].size != s.t.desc.Size {
		return fmt.Errorf("%w: it says the size is %d", errMalformed, all[0].size)
	}
	s.queue = s.queue[1:]
	s.t.mu.Lock()
	s.held, s.heldAt = all[0], time.Now()
	s.t.mu.Unlock()
	return nil
}

// claim chooses the next range for a source: first what readers wait for and
// what follows it, then the rarest chunks, and at the end, or when a reader has
// waited too long, one that another source has not brought yet.
func (t *transfer) claim(s *source) (offset, length int64, ok bool) {
	wanted := t.download.Wanted()
	t.mu.Lock()
	defer t.mu.Unlock()
	late := time.Now().Add(-t.r.h.timing.Hedge)
	for _, at := range wanted {
		if offset, length, ok = t.overdue(s, at, at+1, late); ok {
			return offset, length, true
		}
	}
	if len(wanted) == 0 && t.streamed {
		wanted = []int64{0} // its readers are behind what has come in order
	}
	for _, at := range wanted {
		if offset, length, ok = t.inOrder(s, at, at+ahead*chunkSize); ok {
			return offset, length, true
		}
	}
	if offset, length, ok = t.rarest(s); ok {
		return offset, length, true
	}
	return t.overdue(s, 0, t.desc.Size, late.Add(-t.r.h.timing.Hedge))
}

// unit is what is claimed at a time: a chunk, and of the first chunk its first
// 128 KiB and its rest.
func unit(offset int64) (index, end int64) {
	if offset < firstSlice {
		return 0, firstSlice
	}
	chunk := offset / chunkSize
	return chunk + 1, (chunk + 1) * chunkSize
}

// missing calls visit for the missing ranges from at to end, each within one
// unit, until it returns false; it gives up after 256 so that a claim in a
// large file stays cheap.
func (t *transfer) missing(at, end int64, visit func(unit, offset, length int64) bool) {
	for range 256 {
		offset, length := t.download.Missing(at)
		if length == 0 || offset >= end {
			return
		}
		index, stop := unit(offset)
		length = min(length, stop-offset)
		if !visit(index, offset, length) {
			return
		}
		at = stop
	}
}

func (t *transfer) take(s *source, unit, offset, length int64) (int64, int64, bool) {
	t.claims[unit] = append(t.claims[unit], claim{by: s.id, since: time.Now()})
	return offset, length, true
}

// free tells whether a source has a unit that nobody has been asked for.
func (t *transfer) free(s *source, unit, offset int64) bool {
	return len(t.claims[unit]) == 0 && s.held.has(offset/chunkSize)
}

// inOrder is the first free range of a span.
func (t *transfer) inOrder(s *source, from, to int64) (offset, length int64, ok bool) {
	t.missing(from, min(to, t.desc.Size), func(unit, at, n int64) bool {
		if !t.free(s, unit, at) {
			return true
		}
		offset, length, ok = t.take(s, unit, at, n)
		return false
	})
	return offset, length, ok
}

// rarest is the free range that the fewest sources have, of those behind a
// place chosen by chance: nodes that fetch the same artifact then get different
// parts and can serve each other.
func (t *transfer) rarest(s *source) (int64, int64, bool) {
	fewest := len(t.sources) + 1
	var chosen, offset, length int64
	look := func(unit, at, n int64) bool {
		if have := t.holders(at / chunkSize); t.free(s, unit, at) && have < fewest {
			fewest, chosen, offset, length = have, unit, at, n
		}
		return fewest > 1
	}
	place := rand.Int64N(t.desc.Size) / chunkSize * chunkSize
	t.missing(place, t.desc.Size, look)
	if length == 0 {
		t.missing(0, place, look)
	}
	if length == 0 {
		return 0, 0, false
	}
	return t.take(s, chosen, offset, length)
}

func (t *transfer) holders(chunk int64) int {
	n := 0
	for _, s := range t.sources {
		if s.held.has(chunk) {
			n++
		}
	}
	return n
}

// overdue is the first missing range of a span that one other source has been
// asked for too long ago.
func (t *transfer) overdue(s *source, from, to int64, late time.Time) (offset, length int64, ok bool) {
	t.missing(from, min(to, t.desc.Size), func(unit, at, n int64) bool {
		c := t.claims[unit]
		if len(c) != 1 || c[0].by == s.id || c[0].since.After(late) || !s.held.has(at/chunkSize) {
			return true
		}
		offset, length, ok = t.take(s, unit, at, n)
		return false
	})
	return offset, length, ok
}

// release gives a claim back; mu is held.
func (t *transfer) release(id record.Identity, w wish) {
	if w.have {
		return
	}
	index, _ := unit(w.offset)
	left := t.claims[index][:0]
	for _, c := range t.claims[index] {
		if c.by != id {
			left = append(left, c)
		}
	}
	if len(left) == 0 {
		delete(t.claims, index)
		return
	}
	t.claims[index] = left
}

func digests(t *transfer) []artifact.BLAKE3 { return []artifact.BLAKE3{t.desc.BLAKE3} }
