package difference

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/pyrsia/appliance/modules/artifact"
)

// Report is what a comparison found. Its slices stand in one order for the same
// two files, so that equal comparisons give equal bytes of JSON.
type Report struct {
	Output  string    `json:"output"`
	Verdict Verdict   `json:"verdict"`
	Left    File      `json:"left"`
	Right   File      `json:"right"`
	Rules   []Applied `json:"rules"`   // sorted by rule
	Entries []Entry   `json:"entries"` // first those that no rule explains, each kind in the order of paths

	// Truncated is how many entries more there were than the limit.
	Truncated int `json:"truncated"`
}

// File is one side's file as a whole.
type File struct {
	Name   string          `json:"name"`
	Size   int64           `json:"size"`
	SHA256 artifact.SHA256 `json:"sha256"`
}

// Verdict is the comparison in a word.
type Verdict string

const (
	Equal           Verdict = "equal"            // byte by byte
	NormalisedEqual Verdict = "normalised-equal" // once the report's rules are applied
	Different       Verdict = "different"
)

// Applied is a rule that explains differences, and how many entries it was
// needed in.
type Applied struct {
	Rule    Rule `json:"rule"`
	Entries int  `json:"entries"`
}

// What is the gravest way in which an entry differs.
type What string

const (
	OnlyLeft  What = "only-left"
	OnlyRight What = "only-right"
	Contents  What = "content"
	Metadata  What = "metadata"
	Order     What = "order"
)

// Entry is one place where the two builds differ.
type Entry struct {
	// Path begins with the output's name; "!/" leads into an archive. What
	// compresses a single file adds nothing: the path of a tar.gz is also its
	// tar's.
	Path string `json:"path"`
	What What   `json:"what"`

	// Normalised is true if the rules at Fields and Content explain all of it.
	Normalised bool     `json:"normalised"`
	Fields     []Field  `json:"fields,omitempty"`
	Content    *Content `json:"content,omitempty"`
	Hint       string   `json:"hint,omitempty"` // a sentence about a known cause
	Note       string   `json:"note,omitempty"` // why the comparison went no deeper
}

// Field is a piece of metadata with both values.
type Field struct {
	Name  string `json:"name"`
	Left  string `json:"left"`
	Right string `json:"right"`
	Rule  Rule   `json:"rule,omitempty"` // that makes them equal, if one does
}

// Content is how the bytes of two files differ.
type Content struct {
	LeftSize  int64 `json:"leftSize"`
	RightSize int64 `json:"rightSize"`

	// First is the offset of the first byte that differs. Differing counts the
	// bytes that differ up to the end of the shorter file; what the other has
	// beyond that is in the sizes.
	First     int64 `json:"first"`
	Differing int64 `json:"differing"`

	// Window is the offset of the bytes that are shown around the first
	// difference, a multiple of 16.
	Window int64 `json:"window"`
	Left   Bytes `json:"left"`
	Right  Bytes `json:"right"`

	Lines     []Line `json:"lines,omitempty"`     // of texts: the first that differ
	MoreLines int    `json:"moreLines,omitempty"` // that differ and are not shown
	Rules     []Rule `json:"rules,omitempty"`     // that make the contents equal, if any do
}

// Line is a line of text that only one side has at this place.
type Line struct {
	Side   string `json:"side"`   // "left" or "right"
	Number int    `json:"number"` // from 1
	Text   string `json:"text"`   // without its end, cut at 200 bytes
}

// Bytes are hexadecimal in JSON.
type Bytes []byte

// MarshalText writes lower-case hexadecimal.
func (b Bytes) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, b), nil }

// UnmarshalText reads what MarshalText writes.
func (b *Bytes) UnmarshalText(text []byte) error {
	decoded, err := hex.DecodeString(string(text))
	if err != nil || len(decoded) > windowSize {
		return fmt.Errorf("%w: bytes %.80q", ErrMalformed, text)
	}
	*b = decoded
	return nil
}

// MaxEncoded is the largest report that Decode reads and that Compare makes.
const MaxEncoded = 8 << 20

// ErrMalformed is wrapped by Decode: the bytes are no report.
var ErrMalformed = errors.New("malformed report")

// Encode is the report as one line of JSON.
func (r *Report) Encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return nil, fmt.Errorf("encode report of %.80q: %w", r.Output, err)
	}
	return b.Bytes(), nil
}

// Decode reads a report that another node may have written: members that it
// does not know, words outside the lists above, numbers below zero, and anything
// after the report's end are errors.
func Decode(data []byte) (*Report, error) {
	if len(data) > MaxEncoded {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", ErrMalformed, len(data), MaxEncoded)
	}
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("%w: not UTF-8", ErrMalformed)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	r := new(Report)
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows its end", ErrMalformed)
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return r, nil
}

func (r *Report) check() error {
	switch {
	case r.Rules == nil || r.Entries == nil:
		return errors.New("rules or entries are missing")
	case r.Left.Size < 0 || r.Right.Size < 0 || r.Truncated < 0:
		return errors.New("a number below zero")
	case (r.Verdict == Equal) != (r.Left.SHA256 == r.Right.SHA256):
		return fmt.Errorf("verdict %q contradicts the digests", r.Verdict)
	case r.Verdict == Equal && (r.Left.Size != r.Right.Size || len(r.Entries)+len(r.Rules)+r.Truncated > 0):
		return errors.New("equal files with differences")
	case r.Verdict != Equal && r.Verdict != NormalisedEqual && r.Verdict != Different:
		return fmt.Errorf("verdict %.80q", r.Verdict)
	}
	for i, a := range r.Rules {
		if Explain(a.Rule) == "" || a.Entries < 1 || i > 0 && r.Rules[i-1].Rule >= a.Rule {
			return fmt.Errorf("rule %.80q of %d entries", a.Rule, a.Entries)
		}
	}
	for i := range r.Entries {
		e := &r.Entries[i]
		if err := e.check(); err != nil {
			return fmt.Errorf("entry %.80q: %w", e.Path, err)
		}
		if r.Verdict == NormalisedEqual && !e.Normalised {
			return fmt.Errorf("entry %.80q contradicts the verdict", e.Path)
		}
	}
	return nil
}

func (e *Entry) check() error {
	switch e.What {
	case OnlyLeft, OnlyRight, Contents, Metadata, Order:
	default:
		return fmt.Errorf("what %.80q", e.What)
	}
	if e.Fields != nil && len(e.Fields) == 0 {
		return errors.New("an empty list")
	}
	for _, f := range e.Fields {
		if f.Rule != "" && Explain(f.Rule) == "" {
			return fmt.Errorf("rule %.80q", f.Rule)
		}
	}
	if e.Content == nil {
		return nil
	}
	return e.Content.check()
}

func (c *Content) check() error {
	if min(c.LeftSize, c.RightSize, c.First, c.Differing, c.Window) < 0 || c.MoreLines < 0 {
		return errors.New("a number below zero")
	}
	if c.Window%rowSize != 0 || c.Left == nil || c.Right == nil {
		return errors.New("no window of bytes")
	}
	if c.Lines != nil && len(c.Lines) == 0 || c.Rules != nil && len(c.Rules) == 0 {
		return errors.New("an empty list")
	}
	for _, l := range c.Lines {
		if l.Side != left && l.Side != right || l.Number < 1 {
			return fmt.Errorf("line %d of side %.80q", l.Number, l.Side)
		}
	}
	for _, rule := range c.Rules {
		if Explain(rule) == "" {
			return fmt.Errorf("rule %.80q", rule)
		}
	}
	return nil
}

const (
	left  = "left"
	right = "right"
)

// maxText is the length in bytes at which a value or line is cut.
const maxText = 200

// clean makes a hostile string fit for a report: valid UTF-8, of bounded length.
func clean(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
		for i := 1; i < utf8.UTFMax && !utf8.ValidString(s) && utf8.ValidString(s[:len(s)-i]); i++ {
			s = s[:len(s)-i] // the cut went through a character
		}
		s += "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
