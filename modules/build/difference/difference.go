// Package difference is the difference between two builds of one output: where
// they differ, by how much, and, for the causes that are known, why.
//
// Archives are compared entry by entry, also inside one another: zip (and so
// jar, war, aar), tar, gzip, zstd and bzip2 (and so the layers of images). What
// a file is, its first bytes say, not its name. Xz is compared as bytes: its
// decoder allocates whatever a hostile header asks for.
//
// Differences that change nothing for whoever uses an output, such as the times
// of a zip's entries, each have a Rule. Outputs that differ in nothing else are
// normalised-equal. That is for people to read: publishing needs equal bytes.
//
// What is compared came from other machines. An archive that is broken, contradicts
// itself or would unpack to more than the limit is compared as plain bytes, and
// the report says so; nothing of it is ever written under a name of its own.
package difference

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Side is one build's file. Its content is read many times and from anywhere,
// never by more than one goroutine at a time.
type Side struct {
	Name    string // whose build it is
	Content io.ReaderAt
	Size    int64
}

// Limits bound a comparison. A zero is the default; below zero is none at all.
type Limits struct {
	Entries  int   // in the report: 200
	Depth    int   // of archives inside archives: 4. What compresses a tar is of its level
	Unpacked int64 // bytes that are decompressed in all: 4 GiB
	Text     int64 // bytes of the largest file that is compared as text or normalised: 1 MiB
	Lines    int   // that are shown of a text: 20

	// Scratch is the folder for what is decompressed and larger than 1 MiB. The
	// files have no names there, so that a crash leaves none. Left out, it is
	// the system's folder for temporary files.
	Scratch string
}

func (l Limits) withDefaults() Limits {
	l.Entries = max(0, cmp.Or(l.Entries, 200))
	l.Depth = max(0, cmp.Or(l.Depth, 4))
	l.Unpacked = max(0, cmp.Or(l.Unpacked, 4<<30))
	l.Text = max(0, cmp.Or(l.Text, 1<<20))
	l.Lines = max(0, cmp.Or(l.Lines, 20))
	return l
}

// Compare compares two builds of the output with this name. An error is the
// machine's, or the context's, never the outputs': whatever their bytes are, they
// give a report.
func Compare(ctx context.Context, name string, l, r Side, limits Limits) (*Report, error) {
	c := &comparison{ctx: ctx, limits: limits.withDefaults(), needed: map[Rule]int{}}
	c.room = c.limits.Unpacked
	report, err := c.report(clean(name), l, r)
	if err = cmp.Or(c.failed, err); err != nil {
		return nil, fmt.Errorf("compare builds of %.200q: %w", name, err)
	}
	return report, nil
}

// comparison is one call of Compare.
type comparison struct {
	ctx    context.Context
	limits Limits
	room   int64 // what may yet be decompressed
	failed error // by the machine: nothing that follows is to be believed

	real      ledger // entries that no rule explains
	explained ledger
	needed    map[Rule]int
	found     int // entries of both kinds, and those that were left out
}

// ledger keeps the first entries, and counts.
type ledger struct {
	entries []Entry
	count   int
}

func (l *ledger) add(e Entry, limit int) {
	l.count++
	if len(l.entries) < limit {
		l.entries = append(l.entries, e)
	}
}

func (c *comparison) report(name string, l, r Side) (*Report, error) {
	lb, rb := c.watch(l.Content, l.Size), c.watch(r.Content, r.Size)
	lh, rh := sha256.New(), sha256.New()
	s, err := scanInto(lb, rb, lh, rh)
	if err != nil {
		return nil, err
	}
	report := &Report{
		Output: name, Verdict: Equal, Rules: []Applied{}, Entries: []Entry{},
		Left:  File{Name: clean(l.Name), Size: l.Size},
		Right: File{Name: clean(r.Name), Size: r.Size},
	}
	lh.Sum(report.Left.SHA256[:0])
	rh.Sum(report.Right.SHA256[:0])
	if s.equal {
		return report, nil
	}
	e := &Entry{Path: name}
	if err := c.content(e, lb, rb, s, level{}); err != nil {
		return nil, err
	}
	c.finish(e)
	return c.sum(report)
}

// sum makes the report of what was found.
func (c *comparison) sum(report *Report) (*Report, error) {
	report.Verdict = NormalisedEqual
	if c.real.count > 0 {
		report.Verdict = Different
	}
	for _, rule := range slices.Sorted(maps.Keys(c.needed)) {
		report.Rules = append(report.Rules, Applied{Rule: rule, Entries: c.needed[rule]})
	}
	report.Entries = append(append(report.Entries, c.real.entries...), c.explained.entries...)
	report.Entries = report.Entries[:min(len(report.Entries), c.limits.Entries)]
	for {
		report.Truncated = c.real.count + c.explained.count - len(report.Entries)
		encoded, err := report.Encode()
		if err != nil || len(encoded) <= MaxEncoded {
			return report, err
		}
		report.Entries = report.Entries[:len(report.Entries)/2]
	}
}

// finish puts an entry into the report, if it differs at all.
func (c *comparison) finish(e *Entry) {
	if e.Content == nil && len(e.Fields) == 0 && e.What == "" && e.Note == "" {
		return
	}
	e.What = cmp.Or(e.What, Metadata)
	e.Normalised = e.What == Metadata || e.What == Order || e.What == Contents && e.Content != nil
	used := map[Rule]bool{}
	for _, f := range e.Fields {
		e.Normalised = e.Normalised && f.Rule != ""
		used[f.Rule] = true
	}
	if e.Content != nil {
		e.Normalised = e.Normalised && len(e.Content.Rules) > 0
		for _, rule := range e.Content.Rules {
			used[rule] = true
		}
	}
	delete(used, "")
	for rule := range used {
		c.needed[rule]++
	}
	e.Hint = hint(e)
	c.found++
	if e.Normalised {
		c.explained.add(*e, c.limits.Entries)
		return
	}
	c.real.add(*e, c.limits.Entries)
}

// level is where in the archives a comparison is.
type level struct {
	depth      int
	compressed bool // directly inside what compresses a single file
}

// content compares two files that the scan s found to differ. What it finds about
// the files themselves goes into e; entries inside them are entries of their own.
func (c *comparison) content(e *Entry, l, r *blob, s scan, at level) error {
	lf, rf := sniff(l), sniff(r)
	switch {
	case lf == nil && rf == nil:
		return c.plain(e, l, r, s)
	case lf != rf:
		e.Fields = append(e.Fields, Field{Name: "format", Left: lf.String(), Right: rf.String()})
		return c.plain(e, l, r, s)
	}
	// A compression of a compression is a level, or a file that unpacks to itself
	// would have no end.
	if !lf.archive() || !at.compressed {
		at.depth++
	}
	if at.depth > c.limits.Depth {
		e.Note = fmt.Sprintf("Archives are opened to a depth of %d, and this %s is compared as bytes.", c.limits.Depth, lf)
		return c.plain(e, l, r, s)
	}
	at.compressed = !lf.archive()
	why := c.inside(e, lf, l, r, at)
	if why == nil || c.failed != nil {
		return c.failed
	}
	e.Note = clean(fmt.Sprintf("This %s is compared as bytes: %s.", lf, why))
	return c.plain(e, l, r, s)
}

// inside compares what two files of one format hold. Its error is why that
// cannot be done.
func (c *comparison) inside(e *Entry, f *format, l, r *blob, at level) error {
	lt, err := f.open(c, l)
	if err != nil {
		return fmt.Errorf("%s: %w", left, err)
	}
	defer lt.close()
	rt, err := f.open(c, r)
	if err != nil {
		return fmt.Errorf("%s: %w", right, err)
	}
	defer rt.close()
	before := c.found + len(e.Fields)
	e.Fields = append(e.Fields, differing(lt.fields, rt.fields)...)
	if lt.inner != nil {
		return c.inner(e, f, lt, rt, at)
	}
	c.order(e.Path, f, lt, rt)
	if err := c.members(e.Path, lt, rt, at); err != nil {
		return err
	}
	if c.found+len(e.Fields) == before {
		e.Fields = append(e.Fields, Field{Name: "layout", Left: bytesOf(l.size), Right: bytesOf(r.size), Rule: f.layout})
	}
	return nil
}

// inner compares what was compressed.
func (c *comparison) inner(e *Entry, f *format, l, r *tree, at level) error {
	s, err := scanInto(l.inner, r.inner, io.Discard, io.Discard)
	if err != nil {
		return err
	}
	if !s.equal {
		return c.content(e, l.inner, r.inner, s, at)
	}
	if s, err = scanInto(l.body, r.body, io.Discard, io.Discard); err == nil && !s.equal {
		e.Fields = append(e.Fields, Field{Name: "compressed", Left: bytesOf(l.body.size), Right: bytesOf(r.body.size), Rule: f.layout})
	}
	return err
}

// order tells that what both have stands in another order. It names the first
// place where it does.
func (c *comparison) order(path string, f *format, l, r *tree) {
	lnames, rnames := common(l, r), common(r, l)
	for i := range lnames {
		if lnames[i] == rnames[i] {
			continue
		}
		name := fmt.Sprintf("entry %d of those in both", i+1)
		c.finish(&Entry{
			Path: path, What: Order,
			Fields: []Field{{Name: name, Left: clean(lnames[i]), Right: clean(rnames[i]), Rule: f.order}},
		})
		return
	}
}

// common are the names in one that the other has too, in the order of the one.
func common(one, other *tree) []string {
	var names []string
	for i := range one.members {
		if _, both := other.byName[one.members[i].name]; both {
			names = append(names, one.members[i].name)
		}
	}
	return names
}

func (c *comparison) members(path string, l, r *tree, at level) error {
	names := slices.Collect(maps.Keys(l.byName))
	for name := range r.byName {
		if _, both := l.byName[name]; !both {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if err := c.alive(); err != nil { // members without content are compared without a read
			return err
		}
		e := &Entry{Path: path + "!/" + name}
		lm, rm := l.member(name), r.member(name)
		if err := c.member(e, lm, rm, at); err != nil {
			return err
		}
		c.finish(e)
	}
	return nil
}

func (c *comparison) member(e *Entry, l, r *member, at level) error {
	if l == nil || r == nil {
		only(e, l, r)
		return nil
	}
	e.Fields = append(e.Fields, differing(l.fields(), r.fields())...)
	if l.open == nil || r.open == nil {
		return nil
	}
	same, err := c.same(l, r)
	if err != nil || same {
		return err
	}
	if same, err = c.opened(e, l, r, at); err != nil || !same {
		return err
	}
	// Only now: where the contents differ, so do their checksum and compressed bytes.
	packed := l.repacked(r)
	if l.stored != nil && len(packed) == 0 {
		packed = []Field{{Name: "compressed", Left: bytesOf(l.stored.size), Right: bytesOf(r.stored.size), Rule: ZipCompression}}
	}
	e.Fields = append(e.Fields, packed...)
	return nil
}

func only(e *Entry, l, r *member) {
	e.What = OnlyLeft
	if l == nil {
		e.What = OnlyRight
		e.Fields = []Field{{Name: "size", Right: bytesOf(r.size)}}
		return
	}
	e.Fields = []Field{{Name: "size", Left: bytesOf(l.size)}}
}

// opened compares the contents of two members, and tells whether they are equal.
func (c *comparison) opened(e *Entry, l, r *member, at level) (same bool, err error) {
	lb, lerr := l.open(c)
	defer lb.close()
	rb, rerr := r.open(c)
	defer rb.close()
	if err := cmp.Or(c.failed, exhausted(lerr), exhausted(rerr)); err != nil {
		return false, err
	}
	if broken := errors.Join(lerr, rerr); broken != nil {
		e.Note = clean(fmt.Sprintf("The entry is compared as it is stored: %s.", strings.ReplaceAll(broken.Error(), "\n", "; ")))
		return false, c.stored(e, l, r)
	}
	s, err := scanInto(lb, rb, io.Discard, io.Discard)
	if err != nil || s.equal {
		return true, err
	}
	return false, c.content(e, lb, rb, s, at)
}

// same tells without decompressing that two members hold the same.
func (c *comparison) same(l, r *member) (bool, error) {
	if l.stored == nil || r.stored == nil || l.stored.size != r.stored.size || len(l.repacked(r)) > 0 {
		return false, nil
	}
	s, err := scanInto(l.stored, r.stored, io.Discard, io.Discard)
	return s.equal, err
}

// stored compares members of which at least one does not decompress. No rule
// makes such equal, not even where the stored bytes are.
func (c *comparison) stored(e *Entry, l, r *member) error {
	e.What = Contents
	e.Fields = append(e.Fields, l.repacked(r)...)
	s, err := scanInto(l.stored, r.stored, io.Discard, io.Discard)
	if err != nil || s.equal {
		return err
	}
	err = c.plain(e, l.stored, r.stored, s)
	e.Content.Rules = nil
	return err
}

// repacked are the fields about the stored bytes that differ.
func (m *member) repacked(other *member) []Field {
	if m.packed == nil || other.packed == nil {
		return nil
	}
	return differing(m.packed(), other.packed())
}

// exhausted is the error, if it is that nothing more may be decompressed.
func exhausted(err error) error {
	if errors.Is(err, errExhausted) {
		return err
	}
	return nil
}

// differing are the fields with unequal values.
func differing(l, r []field) []Field {
	var all []Field
	for i, j := 0, 0; i < len(l) || j < len(r); {
		var a, b field
		order := fieldOrder(l, r, i, j)
		if order <= 0 {
			a = l[i]
			i++
		}
		if order >= 0 {
			b = r[j]
			j++
		}
		if a.value == b.value {
			continue
		}
		f := Field{Name: clean(cmp.Or(a.name, b.name)), Left: clean(a.value), Right: clean(b.value)}
		if f.Left == f.Right {
			f.Right += " (and differs further on)"
		}
		if a.normal == b.normal && a.rule == b.rule {
			f.Rule = a.rule
		}
		all = append(all, f)
	}
	return all
}

// fieldOrder is below zero if only l has the next field, above if only r has it.
// Both lists are sorted.
func fieldOrder(l, r []field, i, j int) int {
	switch {
	case i == len(l):
		return 1
	case j == len(r):
		return -1
	}
	return cmp.Compare(l[i].name, r[j].name)
}

func bytesOf(n int64) string { return plural(n, "byte", "bytes") }
