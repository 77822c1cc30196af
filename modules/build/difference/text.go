package difference

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

// windowSize is how many bytes of each side are shown around the first that differs,
// in rows.
const (
	windowSize = 2 * rowSize
	rowSize    = 16
)

// plain compares two files as bytes, and as text where they are.
func (c *comparison) plain(e *Entry, l, r *blob, s scan) error {
	e.What = Contents
	e.Content = &Content{LeftSize: l.size, RightSize: r.size, First: s.first, Differing: s.differing}
	if err := e.Content.window(l, r); err != nil {
		return err
	}
	if max(l.size, r.size) > c.limits.Text {
		return classVersions(e, l, r)
	}
	lt, err := l.head(l.size)
	if err != nil {
		return err
	}
	rt, err := r.head(r.size)
	if err != nil {
		return err
	}
	if !isText(lt) || !isText(rt) {
		return classVersions(e, l, r)
	}
	e.Content.Rules = neededRules(e.Path, lt, rt)
	kept := &c.real
	if len(e.Content.Rules) > 0 {
		kept = &c.explained
	}
	if kept.count < c.limits.Entries { // or nobody would see the lines
		e.Content.lines(lt, rt, c.limits.Lines)
	}
	return nil
}

func (c *Content) window(l, r *blob) (err error) {
	c.Window = max(0, c.First-rowSize/2) / rowSize * rowSize
	if c.Left, err = l.at(c.Window, windowSize); err != nil {
		return err
	}
	c.Right, err = r.at(c.Window, windowSize)
	return err
}

func isText(data []byte) bool { return utf8.Valid(data) && !bytes.ContainsRune(data, 0) }

// classVersions tells the versions of the Java virtual machine that two classes were
// compiled for (JVMS §4.1).
func classVersions(e *Entry, l, r *blob) error {
	lv, err := classVersion(l)
	if err != nil {
		return err
	}
	rv, err := classVersion(r)
	if err != nil || lv == rv || lv == "" || rv == "" {
		return err
	}
	e.Fields = append(e.Fields, Field{Name: "class file version", Left: lv, Right: rv})
	return nil
}

func classVersion(b *blob) (string, error) {
	head, err := b.head(8)
	if err != nil || len(head) < 8 || !bytes.HasPrefix(head, []byte("\xca\xfe\xba\xbe")) {
		return "", err
	}
	major := binary.BigEndian.Uint16(head[6:])
	if major < 45 {
		return "", nil // a program of another system begins with the same bytes
	}
	return fmt.Sprintf("%d (Java %d)", major, major-44), nil
}

// maxAligned is how many lines of each side are searched for what they have in
// common, once their equal beginnings and ends are off.
const maxAligned = 1000

// lines finds the lines that only one side has.
func (c *Content) lines(l, r []byte, limit int) {
	ll, rl := bytes.Split(l, []byte("\n")), bytes.Split(r, []byte("\n"))
	from := 0
	for from < min(len(ll), len(rl)) && bytes.Equal(ll[from], rl[from]) {
		from++
	}
	end := 0
	for end < min(len(ll), len(rl))-from && bytes.Equal(ll[len(ll)-1-end], rl[len(rl)-1-end]) {
		end++
	}
	ll, rl = ll[from:len(ll)-end], rl[from:len(rl)-end]
	show := func(side string, all [][]byte, i int) {
		if len(c.Lines) >= limit {
			c.MoreLines++
			return
		}
		c.Lines = append(c.Lines, Line{Side: side, Number: from + i + 1, Text: clean(string(all[i]))})
	}
	i, j := align(ll[:min(len(ll), maxAligned)], rl[:min(len(rl), maxAligned)], func(side string, i int) {
		if side == left {
			show(left, ll, i)
			return
		}
		show(right, rl, i)
	})
	for ; i < len(ll); i++ {
		show(left, ll, i)
	}
	for ; j < len(rl); j++ {
		show(right, rl, j)
	}
}

// align calls only with each line that is not in the longest common sequence, left
// ones first, and gives how far it came.
func align(l, r [][]byte, only func(side string, i int)) (i, j int) {
	ids := map[string]int{}
	a, b := numbered(ids, l), numbered(ids, r)
	width := len(b) + 1
	longest := make([]uint16, (len(a)+1)*width) // of what begins at i and j
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				longest[i*width+j] = longest[(i+1)*width+j+1] + 1
				continue
			}
			longest[i*width+j] = max(longest[(i+1)*width+j], longest[i*width+j+1])
		}
	}
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			i++
			j++
		case j == len(b) || i < len(a) && longest[(i+1)*width+j] >= longest[i*width+j+1]:
			only(left, i)
			i++
		default:
			only(right, j)
			j++
		}
	}
	return i, j
}

// numbered gives equal lines equal numbers.
func numbered(ids map[string]int, lines [][]byte) []int {
	numbers := make([]int, len(lines))
	for i, line := range lines {
		id, known := ids[string(line)]
		if !known {
			id = len(ids)
			ids[string(line)] = id
		}
		numbers[i] = id
	}
	return numbers
}

// joinLines are the shown lines of one side.
func (c *Content) joinLines(side string) string {
	var all []string
	for _, line := range c.Lines {
		if line.Side == side {
			all = append(all, line.Text)
		}
	}
	return strings.Join(all, "\n")
}
