package store

import (
	"context"
	"fmt"
	"io"
	"math/bits"
	"sort"
	"sync"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/store/internal/tree"
)

// Area is where a download's bytes are: the technology's side of a Download.
// Offsets of Tree count from the outboard's first byte. Reads and writes of
// disjoint ranges may come at once; the other methods come one at a time and
// none after Close.
type Area interface {
	Data() ReaderWriterAt
	Tree() ReaderWriterAt

	// Mark keeps the bitmap's bytes from the first that changed. It need not
	// be durable: whatever a crash leaves of data, tree and bitmap is verified
	// from the root before it counts.
	Mark(bitmap []byte, first, last int) error

	SetNote(note []byte) error

	// Commit makes the finished file durable and visible under its digest.
	Commit() error

	// Suspend ends the download and keeps what is there for a resumption.
	Suspend()

	// Discard ends the download and frees its room.
	Discard()

	// Close releases the files: nobody reads or writes any more.
	Close()

	// Reopen opens them again, for reading, after Commit and Close. It is
	// ErrNotFound when the blob has been removed since.
	Reopen() error
}

// ReaderWriterAt is random access, as *os.File gives it.
type ReaderWriterAt interface {
	io.ReaderAt
	io.WriterAt
}

// Download is a file of known size and BLAKE3 root that arrives in pieces, in
// any order and from any source. A byte becomes readable only after its group
// was proven by the root; readers wait for the bytes at their offset.
//
// Size and root come from the descriptor, never from what is received. All
// methods are safe for concurrent use.
type Download struct {
	desc artifact.Descriptor
	area Area

	mu      sync.Mutex
	have    []byte // bit g%8 of byte g/8: group g is proven
	missing int64  // groups
	low     int64  // every group below it is proven
	phase   phase
	err     error             // why it ended, for readers
	changed chan struct{}     // closed and replaced at every change
	waiting map[*reader]int64 // offsets that readers are blocked at
	users   int               // readers, writers, and 1 until the download ends
	note    []byte
}

type phase int

const (
	growing phase = iota
	committing
	committed
	ended
)

// NewDownload is the download of desc into area; technologies call it. have is
// the bitmap that an earlier run left, nil for none: each group it claims is
// hashed before it counts, so it may be torn or wrong.
func NewDownload(desc artifact.Descriptor, area Area, have, note []byte) *Download {
	groups := tree.Groups(desc.Size)
	d := &Download{
		desc: desc, area: area, have: make([]byte, (groups+7)/8), missing: groups, note: note,
		changed: make(chan struct{}), waiting: map[*reader]int64{}, users: 1,
	}
	if desc.Size == 0 {
		d.set(0) // CheckDescriptor has compared the digests; nothing can come
		return d
	}
	if len(have) == len(d.have) {
		d.recover(have)
	}
	return d
}

// NewComplete is a download that has nothing left to do, of a blob that is in
// the store already.
func NewComplete(desc artifact.Descriptor, area Area, note []byte) *Download {
	d := NewDownload(desc, area, nil, note)
	for g := range tree.Groups(desc.Size) {
		d.set(g)
	}
	d.phase = committed
	d.users = 0
	return d
}

// recover counts the groups that an earlier run proved, after proving them
// again: at memory speed, and only those that are claimed.
func (d *Download) recover(have []byte) {
	wrong := map[int64]bool{}
	claimed := func(g int64) (bool, error) { return have[g/8]&(1<<(g%8)) != 0, nil }
	_ = tree.Verify(d.area.Data(), d.area.Tree(), d.desc.BLAKE3, d.desc.Size, claimed, func(g int64) { wrong[g] = true })
	for g := range tree.Groups(d.desc.Size) {
		if yes, _ := claimed(g); yes && !wrong[g] {
			d.set(g)
		}
	}
}

func (d *Download) has(g int64) bool { return d.have[g/8]&(1<<(g%8)) != 0 }

func (d *Download) set(g int64) {
	if d.has(g) {
		return
	}
	d.have[g/8] |= 1 << (g % 8)
	d.missing--
	for d.low < tree.Groups(d.desc.Size) && d.has(d.low) {
		d.low++
	}
}

// Descriptor is what is being downloaded.
func (d *Download) Descriptor() artifact.Descriptor { return d.desc }

// Kept says that the bytes stay in the store: always true of a Download, false
// of a Through.
func (d *Download) Kept() bool { return true }

// Changed is closed at the next change: bytes that arrive, a reader that
// begins to wait, the end.
func (d *Download) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

func (d *Download) notify() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// Missing is the first range at or after from that has not arrived, as far as
// it goes within one chunk of MaxSlice bytes; its length is 0 when there is
// none. It begins and ends at a group's boundary or at the file's end.
func (d *Download) Missing(from int64) (offset, length int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return missing(max(from, min(d.low*Group, d.desc.Size)), d.desc.Size, d.has)
}

const chunkGroups = MaxSlice / Group

func missing(from, size int64, has func(g int64) bool) (offset, length int64) {
	first, groups := max(0, from)/Group, tree.Groups(size)
	for first < groups && has(first) {
		first++
	}
	if first >= groups {
		return size, 0
	}
	last, end := first, min(groups, (first/chunkGroups+1)*chunkGroups)
	for last < end && !has(last) {
		last++
	}
	return first * Group, min(last*Group, size) - first*Group
}

// Wanted lists the offsets that readers are blocked at, ascending. They are
// what to fetch first.
func (d *Download) Wanted() []int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	wanted := make([]int64, 0, len(d.waiting))
	for _, offset := range d.waiting {
		wanted = append(wanted, offset)
	}
	sort.Slice(wanted, func(i, j int) bool { return wanted[i] < wanted[j] })
	return wanted
}

// Complete tells whether every byte has arrived.
func (d *Download) Complete() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.missing == 0
}

// Arrived is the number of bytes that have been proven.
func (d *Download) Arrived() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, b := range d.have {
		n += bits.OnesCount8(b)
	}
	return min(int64(n)*Group, d.desc.Size)
}

// Chunks is which chunks of MaxSlice bytes have arrived whole: bit i%8 of byte
// i/8 for chunk i.
func (d *Download) Chunks() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return chunks(d.desc.Size, d.has)
}

func chunks(size int64, has func(g int64) bool) []byte {
	count := (size + MaxSlice - 1) / MaxSlice
	bitmap := make([]byte, (count+7)/8)
	for c := range count {
		from := c * MaxSlice
		if offset, length := missing(from, min(from+MaxSlice, size), has); length == 0 || offset >= from+MaxSlice {
			bitmap[c/8] |= 1 << (c % 8)
		}
	}
	return bitmap
}

var buffers = sync.Pool{New: func() any { return new([MaxSlice]byte) }}

// WriteSlice reads the Bao slice of a range, at most MaxSlice bytes of whole
// groups, and makes the range readable. Nothing of it is written before all of
// it is proven. Bytes after the slice are left in r.
//
// The error wraps ErrUnverified when the bytes are wrong, is r's own (or
// io.ErrUnexpectedEOF) when they are too few, wraps ErrQuota when the file
// system is full, and is ErrClosed after the end. A range that is there
// already is verified all the same.
func (d *Download) WriteSlice(offset, length int64, r io.Reader) error {
	if length > MaxSlice {
		return fmt.Errorf("slice of %d bytes: at most %d", length, MaxSlice)
	}
	buffer := buffers.Get().(*[MaxSlice]byte)
	defer buffers.Put(buffer)
	if length < 0 {
		length = 0 // CheckRange refuses it
	}
	var nodes nodes
	if err := tree.Decode(r, d.desc.BLAKE3, d.desc.Size, offset, buffer[:length], nodes.add); err != nil {
		return translate(err)
	}
	if there, err := d.useForWriting(offset, length); there || err != nil {
		return err
	}
	defer d.release()
	if _, err := d.area.Data().WriteAt(buffer[:length], offset); err != nil {
		return err
	}
	if err := nodes.write(d.area.Tree()); err != nil {
		return err
	}
	return d.arrived(offset, length)
}

// arrived marks groups, on disk after their bytes and their tree.
func (d *Download) arrived(offset, length int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.phase != growing {
		return nil // complete without this range, or over
	}
	first, last := offset/Group, (offset+length-1)/Group
	for g := first; g <= last; g++ {
		d.set(g)
	}
	d.notify()
	return d.area.Mark(d.have, int(first/8), int(last/8))
}

// nodes gathers parent nodes, joining neighbours so that they cost one write.
type nodes struct {
	runs []nodeRun
}

type nodeRun struct {
	at    int64
	bytes []byte
}

func (n *nodes) add(at int64, node []byte) {
	if k := len(n.runs) - 1; k >= 0 && n.runs[k].at+int64(len(n.runs[k].bytes)) == at {
		n.runs[k].bytes = append(n.runs[k].bytes, node...)
		return
	}
	n.runs = append(n.runs, nodeRun{at, append(make([]byte, 0, 64*64), node...)})
}

func (n *nodes) write(w io.WriterAt) error {
	for _, run := range n.runs {
		if _, err := w.WriteAt(run.bytes, run.at); err != nil {
			return err
		}
	}
	return nil
}

// Slice appends to dst the Bao slice of a range that has arrived; ErrNotFound
// where it has not.
func (d *Download) Slice(dst []byte, offset, length int64) ([]byte, error) {
	if err := tree.CheckRange(d.desc.Size, offset, length); err != nil {
		return dst, err
	}
	d.mu.Lock()
	if at, n := missing(offset, offset+length, d.has); n > 0 && at < offset+length {
		d.mu.Unlock()
		return dst, ErrNotFound
	}
	d.mu.Unlock()
	if d.use() != nil {
		return dst, ErrNotFound
	}
	defer d.release()
	return AppendSlice(dst, d.area.Data(), d.area.Tree(), d.desc.Size, offset, length)
}

// Note is what SetNote kept last.
func (d *Download) Note() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.note
}

// SetNote keeps bytes of the caller's beside the file, at most MaxNote of them;
// they survive a restart but not for certain a power cut.
func (d *Download) SetNote(note []byte) error {
	if len(note) > MaxNote {
		return fmt.Errorf("note of %d bytes: at most %d", len(note), MaxNote)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.phase != growing {
		return ErrClosed
	}
	d.note = append([]byte(nil), note...)
	return d.area.SetNote(d.note)
}

// Commit makes a complete download a blob: durable, and visible under its
// digest. It is ErrIncomplete before the last byte; the second call does
// nothing. Readers go on.
//
// SHA-256 is not computed here. The log vouches for the pair of digests
// together, and every group was proven by the BLAKE3 root; hashing again at a
// tenth of the speed would prove nothing more. Scrub does it in the background.
func (d *Download) Commit() error {
	d.mu.Lock()
	for d.phase == committing {
		changed := d.changed
		d.mu.Unlock()
		<-changed
		d.mu.Lock()
	}
	switch {
	case d.phase == committed:
		d.mu.Unlock()
		return nil
	case d.phase == ended:
		defer d.mu.Unlock()
		return d.err
	case d.missing > 0:
		d.mu.Unlock()
		return ErrIncomplete
	}
	d.phase = committing
	d.mu.Unlock()

	err := d.area.Commit()
	d.mu.Lock()
	d.phase = committed
	if err != nil {
		d.phase, d.err = ended, err
	}
	d.notify()
	d.mu.Unlock()
	d.release()
	return err
}

// Suspend ends the download and keeps what arrived, on disk, for a later
// Begin. Readers get cause.
func (d *Download) Suspend(cause error) { d.end(cause, d.area.Suspend) }

// Abort ends the download and forgets what arrived. Readers get cause.
func (d *Download) Abort(cause error) { d.end(cause, d.area.Discard) }

func (d *Download) end(cause error, how func()) {
	d.mu.Lock()
	for d.phase == committing {
		changed := d.changed
		d.mu.Unlock()
		<-changed
		d.mu.Lock()
	}
	if d.phase != growing {
		d.mu.Unlock()
		return
	}
	d.phase, d.err = ended, cause
	if cause == nil {
		d.err = ErrClosed
	}
	d.notify()
	d.mu.Unlock()
	how()
	d.release()
}

// Ended tells whether the download is over, and why if it was not committed.
func (d *Download) Ended() (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.phase == ended || d.phase == committed, d.err
}

// use keeps the files open until release.
func (d *Download) use() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.phase == ended {
		return d.err
	}
	if d.users == 0 {
		if err := d.area.Reopen(); err != nil {
			return err
		}
	}
	d.users++
	return nil
}

// useForWriting is use for bytes that have not come; there says that they have.
func (d *Download) useForWriting(offset, length int64) (there bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.phase == ended {
		return false, d.err
	}
	if at, n := missing(offset, d.desc.Size, d.has); n == 0 || at >= offset+length {
		return true, nil
	}
	d.users++
	return false, nil
}

func (d *Download) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.users--
	if d.users == 0 {
		d.area.Close()
	}
}

// NewReader reads the file from its beginning. Read blocks until the bytes at
// its offset have been proven, the download ends, or ctx does. Seek moves at
// once and knows the size, so that http.ServeContent can use it. A reader is
// for one goroutine; Close may come from any.
func (d *Download) NewReader(ctx context.Context) io.ReadSeekCloser {
	return &reader{d: d, ctx: ctx, err: d.use()}
}

type reader struct {
	d      *Download
	ctx    context.Context
	offset int64

	once sync.Once
	err  error // why it could not be opened
}

func (r *reader) Read(p []byte) (int, error) {
	if r.offset >= r.d.desc.Size {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	ready, err := r.wait(min(int64(len(p)), r.d.desc.Size-r.offset))
	if err != nil {
		return 0, err
	}
	n, err := r.d.area.Data().ReadAt(p[:ready], r.offset)
	r.offset += int64(n)
	if n > 0 {
		return n, nil
	}
	return 0, err
}

// wait returns how many bytes can be read at the offset: at least one, and at
// most the number asked for.
func (r *reader) wait(most int64) (int64, error) {
	d := r.d
	if r.err != nil {
		return 0, r.err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		if err := r.ctx.Err(); err != nil {
			return 0, context.Cause(r.ctx)
		}
		end := r.offset
		for end < r.offset+most && d.has(end/Group) {
			end = (end/Group + 1) * Group
		}
		if end > r.offset {
			return min(end-r.offset, most), nil
		}
		if d.phase == ended {
			return 0, d.err
		}
		if last, waits := d.waiting[r]; !waits || last != r.offset {
			d.waiting[r] = r.offset
			d.notify()
		}
		changed := d.changed
		d.mu.Unlock()
		select {
		case <-changed:
		case <-r.ctx.Done():
		}
		d.mu.Lock()
		if r.ctx.Err() != nil || d.phase == ended || d.has(r.offset/Group) {
			delete(d.waiting, r)
		}
	}
}

func (r *reader) Seek(offset int64, whence int) (int64, error) {
	return seek(&r.offset, r.d.desc.Size, offset, whence)
}

func seek(at *int64, size, offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += *at
	case io.SeekEnd:
		offset += size
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek to %d: before the file's beginning", offset)
	}
	*at = offset
	return offset, nil
}

func (r *reader) Close() error {
	r.once.Do(func() {
		if r.err == nil {
			r.d.release()
		}
	})
	return nil
}
