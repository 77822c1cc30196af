package difference

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxWidth is the length of a line in characters.
const maxWidth = 100

// Write writes the report for a person to read: one paragraph without empty lines,
// no line longer than 100 characters. Whatever could steer a terminal is
// written as Go writes it in a string, \x1b for an escape.
func (r *Report) Write(w io.Writer) error {
	p := new(page)
	p.line(0, "%s: %s", r.Output, r.Verdict)
	p.file(left, r.Left)
	p.file(right, r.Right)
	for _, a := range r.Rules {
		p.line(2, "needed %s, in %s: %s", a.Rule, plural(a.Entries, "entry", "entries"), Explain(a.Rule))
	}
	for i := range r.Entries {
		p.entry(&r.Entries[i])
	}
	if r.Truncated > 0 {
		p.line(2, "and %s more", plural(r.Truncated, "entry", "entries"))
	}
	if _, err := w.Write(p.Bytes()); err != nil {
		return fmt.Errorf("write report of %.80q: %w", r.Output, err)
	}
	return nil
}

// String is what Write writes.
func (r *Report) String() string {
	var b strings.Builder
	r.Write(&b)
	return b.String()
}

func plural[number int | int64](n number, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

type page struct{ bytes.Buffer }

// line writes a line with its control characters quoted, and folds it. What follows
// the first fold stands four columns further in.
func (p *page) line(indent int, format string, args ...any) {
	text := quoted(fmt.Sprintf(format, args...))
	for {
		width := maxWidth - indent
		p.WriteString(strings.Repeat(" ", indent))
		if utf8.RuneCountInString(text) <= width {
			p.WriteString(text + "\n")
			return
		}
		cut := fold(text, width)
		p.WriteString(strings.TrimRight(text[:cut], " ") + "\n")
		text = strings.TrimLeft(text[cut:], " ")
		if text == "" {
			return
		}
		if indent < 12 {
			indent += 4
		}
	}
}

// fold is where a text is cut: at its last space within the width, unless that
// would leave most of the line empty.
func fold(text string, width int) int {
	end := 0
	for range width {
		_, size := utf8.DecodeRuneInString(text[end:])
		end += size
	}
	if space := strings.LastIndexByte(text[:end], ' '); space > end/2 {
		return space + 1
	}
	return end
}

// quoted writes every character that does not print as an escape sequence of Go's
// strings, and a backslash as two, so that no name can look like such a one.
func quoted(s string) string {
	var b strings.Builder
	for _, c := range s {
		if strconv.IsPrint(c) && c != '\\' {
			b.WriteRune(c)
			continue
		}
		escaped := strconv.QuoteRuneToASCII(c)
		b.WriteString(escaped[1 : len(escaped)-1])
	}
	return b.String()
}

func (p *page) file(side string, f File) {
	p.line(2, "%-5s %s, %s", side, f.Name, bytesOf(f.Size))
	p.line(8, "%s", f.SHA256.OCI())
}

// phrases say what differs.
var phrases = map[What]string{
	OnlyLeft: "only on the left", OnlyRight: "only on the right", Contents: "content differs",
	Metadata: "metadata differs", Order: "another order",
}

func (p *page) entry(e *Entry) {
	phrase := phrases[e.What]
	if e.Normalised {
		phrase += ", explained"
	}
	p.line(2, "%s: %s", e.Path, phrase)
	for _, f := range e.Fields {
		p.field(f)
	}
	if e.Content != nil {
		p.content(e.Content)
	}
	if e.Note != "" {
		p.line(4, "note: %s", e.Note)
	}
	if e.Hint != "" {
		p.line(4, "hint: %s", e.Hint)
	}
}

func (p *page) field(f Field) {
	rule := ""
	if f.Rule != "" {
		rule = fmt.Sprintf(" (%s)", f.Rule)
	}
	p.line(4, "%s: %s | %s%s", f.Name, orNone(f.Left), orNone(f.Right), rule)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func (p *page) content(c *Content) {
	sizes := fmt.Sprintf("both %s", bytesOf(c.LeftSize))
	if c.LeftSize != c.RightSize {
		sizes = fmt.Sprintf("%d and %s", c.LeftSize, bytesOf(c.RightSize))
	}
	p.line(4, "%s; %s, the first at %d (%#x)", sizes, plural(c.Differing, "byte differs", "bytes differ"), c.First, c.First)
	for _, rule := range c.Rules {
		p.line(4, "equal by the rule %s", rule)
	}
	p.window(left, c.Window, c.Left)
	p.window(right, c.Window, c.Right)
	for _, l := range c.Lines {
		sign := "-"
		if l.Side == right {
			sign = "+"
		}
		p.line(4, "%s%5d  %s", sign, l.Number, l.Text)
	}
	if c.MoreLines > 0 {
		p.line(4, "and %s more that differ", plural(c.MoreLines, "line", "lines"))
	}
}

func (p *page) window(side string, offset int64, data Bytes) {
	if len(data) == 0 {
		p.line(4, "%-5s ends before %08x", side, offset)
	}
	for from := 0; from < len(data); from += rowSize {
		row := data[from:min(from+rowSize, len(data))]
		fmt.Fprintf(p, "    %-5s %08x  %-47s  |%s|\n", side, offset+int64(from), fmt.Sprintf("% x", []byte(row)), ascii(row))
		side = ""
	}
}

// ascii is a row of bytes as one reads it beside the hexadecimal.
func ascii(row []byte) string {
	text := make([]byte, len(row))
	for i, c := range row {
		text[i] = '.'
		if c >= 0x20 && c < 0x7f {
			text[i] = c
		}
	}
	return string(text)
}
