package config

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Severity tells errors from warnings.
type Severity string

// A file with an Error is not used; a Warning is only told.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Range is a part of the file. Lines and columns count from 1, columns in
// characters; the end is the first place behind the range.
type Range struct {
	File      string `json:"file"`
	Line      int    `json:"line"`
	Column    int    `json:"column"`
	EndLine   int    `json:"endLine"`
	EndColumn int    `json:"endColumn"`
}

// IsZero tells whether the range is no place in a file.
func (r Range) IsZero() bool { return r.Line == 0 }

// String is "file:line:column".
func (r Range) String() string {
	if r.IsZero() {
		return r.File
	}
	return fmt.Sprintf("%s:%d:%d", r.File, r.Line, r.Column)
}

// Diagnostic is one problem of a file.
type Diagnostic struct {
	Severity Severity `json:"severity"`
	Setting  string   `json:"setting,omitempty"` // path in the table, such as "distribution.quota"
	Summary  string   `json:"summary"`           // what is wrong, a few words
	Detail   string   `json:"detail"`            // what is wrong, a sentence
	Fix      string   `json:"fix,omitempty"`     // what to do
	Range    Range    `json:"range"`
	Snippet  []string `json:"snippet,omitempty"` // the lines of Range
	Other    *Related `json:"other,omitempty"`
}

// Related is a second place that a problem is about.
type Related struct {
	Text    string   `json:"text"`
	Range   Range    `json:"range"`
	Snippet []string `json:"snippet,omitempty"`
}

// Diagnostics are the problems of a file in the order of their places.
type Diagnostics []Diagnostic

// HasErrors tells whether one of them is an error.
func (ds Diagnostics) HasErrors() bool { return ds.count(Error) > 0 }

func (ds Diagnostics) count(severity Severity) int {
	n := 0
	for _, d := range ds {
		if d.Severity == severity {
			n++
		}
	}
	return n
}

// Err is the diagnostics as an error, nil if none of them is one.
func (ds Diagnostics) Err() error {
	if !ds.HasErrors() {
		return nil
	}
	return ds
}

// Error implements error: the first error in one sentence, and how many more
// there are.
func (ds Diagnostics) Error() string {
	for _, d := range ds {
		if d.Severity != Error {
			continue
		}
		text := d.Range.File + ": " + d.Detail
		if !d.Range.IsZero() {
			text = fmt.Sprintf("%s:%d: %s", d.Range.File, d.Range.Line, d.Detail)
		}
		text = strings.TrimSuffix(text, ".")
		if d.Fix != "" {
			text += "; " + d.Fix
		}
		if more := ds.count(Error) - 1; more > 0 {
			text += fmt.Sprintf(" (and %d more; `pyrsia config check` shows all)", more)
		}
		return text
	}
	return "no error"
}

// Write shows the diagnostics to a person, with colours if asked.
func (ds Diagnostics) Write(w io.Writer, colour bool) error {
	var b bytes.Buffer
	for i, d := range ds {
		if i > 0 {
			b.WriteByte('\n')
		}
		d.write(&b, palette(colour))
	}
	_, err := w.Write(b.Bytes())
	return err
}

type colours struct{ bold, red, yellow, green, dim, off string }

func palette(colour bool) colours {
	if !colour {
		return colours{}
	}
	return colours{bold: "\x1b[1m", red: "\x1b[31m", yellow: "\x1b[33m", green: "\x1b[32m", dim: "\x1b[2m", off: "\x1b[0m"}
}

func (d Diagnostic) write(b *bytes.Buffer, c colours) {
	head, colour := "Error", c.red
	if d.Severity == Warning {
		head, colour = "Warning", c.yellow
	}
	fmt.Fprintf(b, "%s%s%s:%s %s%s%s\n", c.bold, colour, head, c.off, c.bold, d.Summary, c.off)
	d.Range.write(b, d.Snippet, "", c, colour)
	fmt.Fprintf(b, "  %s\n", d.Detail)
	if d.Other != nil {
		d.Other.Range.write(b, d.Other.Snippet, d.Other.Text+" ", c, colour)
	}
	if d.Fix != "" {
		fmt.Fprintf(b, "  %sFix:%s %s\n", c.green, c.off, d.Fix)
	}
}

// write shows where a range is and underlines it.
func (r Range) write(b *bytes.Buffer, snippet []string, text string, c colours, mark string) {
	if r.File == "" {
		return
	}
	fmt.Fprintf(b, "  %s%s%s%s\n", text, c.dim, r, c.off)
	for i, line := range snippet {
		fmt.Fprintf(b, "  %s%4d |%s %s\n", c.dim, r.Line+i, c.off, strings.ReplaceAll(line, "\t", " "))
	}
	if len(snippet) != 1 {
		return
	}
	width := r.EndColumn - r.Column
	if rest := len([]rune(snippet[0])) - r.Column + 1; r.EndLine > r.Line || width > rest {
		width = rest
	}
	fmt.Fprintf(b, "  %s     |%s %s%s%s%s\n", c.dim, c.off,
		strings.Repeat(" ", max(r.Column-1, 0)), mark, strings.Repeat("^", max(width, 1)), c.off)
}

// maxSnippet is how many lines of a range are shown.
const maxSnippet = 3

func snippet(source []byte, r Range) []string {
	if r.IsZero() {
		return nil
	}
	lines := strings.Split(string(source), "\n")
	if r.Line > len(lines) {
		return nil
	}
	end := min(max(r.EndLine, r.Line), r.Line+maxSnippet-1, len(lines))
	shown := make([]string, 0, maxSnippet)
	for _, line := range lines[r.Line-1 : end] {
		shown = append(shown, strings.TrimRight(line, "\r"))
	}
	return shown
}

func (ds Diagnostics) sort() {
	slices.SortStableFunc(ds, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(a.Range.Line, b.Range.Line), cmp.Compare(a.Range.Column, b.Range.Column))
	})
}
