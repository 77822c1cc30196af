package debian

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrMalformed is wrapped by every parser of this package.
var ErrMalformed = errors.New("malformed Debian file")

// maxLine bounds a line of a control file; the longest of Debian's own indexes
// (a Provides field) has some 60 kB.
const maxLine = 1 << 20

// maxFields bounds a paragraph; Debian's have some 30 fields.
const maxFields = 256

// eachParagraph calls visit with the fields of every paragraph of a control
// file (deb822(5)). Continuation lines are joined to their field by "\n".
// Field names go as written. Only fields that want accepts are kept.
func eachParagraph(r io.Reader, want func(field string) bool, visit func(fields map[string]string) error) error {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(make([]byte, 64<<10), maxLine)
	p := paragraph{want: want, fields: map[string]string{}}
	for scanner.Scan() {
		line := strings.TrimRight(scanner.Text(), " \t\r")
		if line != "" {
			if err := p.add(line); err != nil {
				return err
			}
			continue
		}
		if err := p.flush(visit); err != nil {
			return err
		}
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return p.flush(visit)
}

// maxParagraph bounds what is kept of a paragraph, bytes; the list of files in the Release
// of Debian has half a million.
const maxParagraph = 16 << 20

type paragraph struct {
	want   func(string) bool
	fields map[string]string
	lines  int      // seen since the paragraph began
	size   int      // of what is kept, bytes
	field  string   // that a continuation line belongs to, "" where it is not kept
	parts  []string // of that field, its lines
}

func (p *paragraph) add(line string) error {
	p.lines++
	if line[0] == ' ' || line[0] == '\t' {
		return p.continuation(line)
	}
	name, value, found := strings.Cut(line, ":")
	if !found || name == "" || strings.ContainsAny(name, " \t") {
		return fmt.Errorf("%w: line %.80q is no field", ErrMalformed, line)
	}
	p.join()
	if !p.want(name) {
		return nil
	}
	if _, twice := p.fields[name]; twice {
		return fmt.Errorf("%w: field %.40q twice in a paragraph", ErrMalformed, name)
	}
	if len(p.fields) == maxFields {
		return fmt.Errorf("%w: more than %d fields in a paragraph", ErrMalformed, maxFields)
	}
	p.field, p.fields[name] = name, ""
	return p.keep(value)
}

// keep adds a line to the field that is read.
func (p *paragraph) keep(text string) error {
	text = strings.TrimSpace(text)
	const header = 32 // of each line in memory
	if p.size += len(text) + header; p.size > maxParagraph {
		return fmt.Errorf("%w: a paragraph has more than %d bytes", ErrMalformed, maxParagraph)
	}
	p.parts = append(p.parts, text)
	return nil
}

// join ends the field that is read.
func (p *paragraph) join() {
	if p.field != "" {
		p.fields[p.field] = strings.Join(p.parts, "\n")
	}
	p.field, p.parts = "", nil
}

func (p *paragraph) continuation(line string) error {
	if p.lines == 1 {
		return fmt.Errorf("%w: a paragraph begins with a continuation line %.80q", ErrMalformed, line)
	}
	if p.field == "" {
		return nil
	}
	return p.keep(line)
}

func (p *paragraph) flush(visit func(map[string]string) error) error {
	if p.lines == 0 {
		return nil
	}
	p.join()
	fields := p.fields
	p.fields, p.lines, p.size = map[string]string{}, 0, 0
	return visit(fields)
}
