package display

import (
	"bytes"
	"io"
	"strings"
	"unicode/utf8"
)

// Plain writes a log for a terminal line by line, without what would steer it: escape
// sequences set titles and clipboards, and a bare carriage return writes over what stood
// there. Not safe for concurrent use.
type Plain struct {
	To   io.Writer
	rest []byte // of a character that has not come whole
}

// Write implements io.Writer.
func (p *Plain) Write(data []byte) (int, error) {
	text := append(p.rest, data...)
	whole := len(text) - unfinished(text)
	p.rest = bytes.Clone(text[whole:])
	clean := strings.Map(func(c rune) rune {
		if c == '\n' {
			return c
		}
		return shown(c)
	}, string(text[:whole]))
	if _, err := io.WriteString(p.To, clean); err != nil {
		return 0, err
	}
	return len(data), nil
}

// unfinished is how many bytes at the end begin a character and are not all of it.
func unfinished(text []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if last := text[len(text)-n:]; utf8.RuneStart(last[0]) {
			if utf8.FullRune(last) {
				return 0
			}
			return n
		}
	}
	return 0
}
