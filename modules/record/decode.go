package record

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"fmt"
	"reflect"
	"strconv"
	"unicode/utf8"
)

// Unmarshal decodes canonical JSON into a typed value and refuses everything
// that Marshal would not have written for it: unknown members, other spacing,
// other order, null, duplicate members.
//
// It goes through the bytes once and takes at each place only the one spelling
// there is, so that nothing needs to be encoded again and compared. A type that
// reads itself from text must take no text but the one that it writes. Types are
// as Marshal has them; it panics for others.
func Unmarshal(data []byte, v any) error {
	return unmarshal(data, v, false)
}

// unmarshal is Unmarshal; where nested, the depth of a Raw counts from the
// outermost object.
func unmarshal(data []byte, v any, nested bool) error {
	s := scanner{data: data, nested: nested}
	if !s.into(reflect.ValueOf(v).Elem(), 0) || s.at != len(data) {
		if s.why == "" {
			s.why = "not in canonical form (RFC 8785)"
		}
		return fmt.Errorf("%w: %s, near byte %d", ErrMalformed, s.why, s.at)
	}
	return nil
}

// maxDepth is how deep a Raw nests objects and arrays, itself included. Every
// JSON decoder has such a limit; this one is the same for all.
const maxDepth = 64

// Raw is a canonical JSON object whose inside this version does not look at,
// such as a recipe in its leaf.
type Raw []byte

// MarshalJSON implements json.Marshaler.
func (r Raw) MarshalJSON() ([]byte, error) { return r, nil }

// UnmarshalJSON implements json.Unmarshaler; it refuses bytes that are not a
// canonical JSON object.
func (r *Raw) UnmarshalJSON(data []byte) error {
	*r = append((*r)[:0], data...)
	return r.check()
}

func (r Raw) check() error {
	s := scanner{data: r}
	if s.next() != '{' {
		return fmt.Errorf("%w: not a JSON object", ErrMalformed)
	}
	if !s.value(0) || s.at != len(r) {
		return fmt.Errorf("%w: not in canonical form (RFC 8785), or more than %d deep, near byte %d", ErrMalformed, maxDepth, s.at)
	}
	return nil
}

// scanner goes once through JSON and takes only what is spelled canonically.
// Its methods tell whether that was so up to where they leave at.
type scanner struct {
	data   []byte
	at     int
	nested bool   // the depth of a Raw counts from the outermost object
	why    string // what is wrong near at, "" where it is the spelling
}

// next is the next byte, 0 at the end.
func (s *scanner) next() byte {
	if s.at == len(s.data) {
		return 0
	}
	return s.data[s.at]
}

func (s *scanner) take(c byte) bool {
	if s.next() != c {
		return false
	}
	s.at++
	return true
}

func (s *scanner) word(w string) bool {
	if len(s.data)-s.at < len(w) || string(s.data[s.at:s.at+len(w)]) != w {
		return false
	}
	s.at += len(w)
	return true
}

func (s *scanner) value(depth int) bool {
	switch s.next() {
	case '{':
		return depth < maxDepth && s.object(depth+1)
	case '[':
		return depth < maxDepth && s.array(depth+1)
	case '"':
		_, ok := s.text()
		return ok
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	}
	_, ok := s.integer()
	return ok
}

func (s *scanner) object(depth int) bool {
	s.at++
	if s.take('}') {
		return true
	}
	var last []byte
	for first := true; ; first = false {
		name, ok := s.text()
		if !ok || !first && compareUTF16(last, name) >= 0 || !s.take(':') || !s.value(depth) {
			return false
		}
		if s.take('}') {
			return true
		}
		if !s.take(',') {
			return false
		}
		last = name
	}
}

func (s *scanner) array(depth int) bool {
	s.at++
	if s.take(']') {
		return true
	}
	for {
		if !s.value(depth) {
			return false
		}
		if s.take(']') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

func (s *scanner) integer() (int64, bool) {
	from := s.at
	s.take('-')
	for c := s.next(); c >= '0' && c <= '9'; c = s.next() {
		s.at++
	}
	digits := s.data[from:s.at]
	n, err := strconv.ParseInt(string(digits), 10, 64)
	var again [20]byte
	return n, err == nil && n <= maxInteger && n >= -maxInteger && bytes.Equal(strconv.AppendInt(again[:0], n, 10), digits)
}

// text reads a string and decodes it. Where it has no escapes it shares memory with
// the data.
func (s *scanner) text() ([]byte, bool) {
	if !s.take('"') {
		return nil, false
	}
	from := s.at
	for c := s.next(); c >= 0x20 && c < utf8.RuneSelf && c != '"' && c != '\\'; c = s.next() {
		s.at++
	}
	if s.next() == '"' {
		s.at++
		return s.data[from : s.at-1], true
	}
	decoded := bytes.Clone(s.data[from:s.at])
	for s.at < len(s.data) {
		switch c := s.data[s.at]; {
		case c == '"':
			s.at++
			return decoded, utf8.Valid(decoded)
		case c == '\\':
			r, ok := s.escape()
			if !ok {
				return nil, false
			}
			decoded = append(decoded, r)
		case c < 0x20:
			return nil, false
		default:
			decoded = append(decoded, c)
			s.at++
		}
	}
	return nil, false
}

// escape reads one of the escapes that text writes.
func (s *scanner) escape() (byte, bool) {
	rest := s.data[s.at:]
	if len(rest) < 2 {
		return 0, false
	}
	c := short[rest[1]]
	if rest[1] == 'u' && len(rest) >= 6 {
		value, err := strconv.ParseUint(string(rest[2:6]), 16, 7)
		if err != nil {
			return 0, false
		}
		c = byte(value)
	}
	return c, s.word(escapes[c]) && escapes[c] != ""
}

// short are the characters of the escapes with one letter, by the letter; 0 is none of
// them.
var short = func() (table [256]byte) {
	for c, spelled := range escapes {
		if len(spelled) == 2 {
			table[spelled[1]] = byte(c)
		}
	}
	return table
}()

func (s *scanner) fail(format string, args ...any) bool {
	s.why = fmt.Sprintf(format, args...)
	return false
}

// into reads a value of v's type. depth is that of the value itself.
func (s *scanner) into(v reflect.Value, depth int) bool { return s.as(formOf(v.Type()), v, depth) }

// as reads a value of a form.
func (s *scanner) as(form form, v reflect.Value, depth int) bool {
	switch form {
	case formRaw:
		return s.raw(v, depth)
	case formText:
		return s.itself(v.Addr().Interface().(encoding.TextUnmarshaler))
	case formPointer:
		v.Set(reflect.New(v.Type().Elem()))
		return s.into(v.Elem(), depth)
	case formStruct:
		return s.structure(v, depth+1)
	case formMap:
		return s.mapping(v, depth+1)
	case formList:
		return s.list(v, depth+1)
	case formBytes:
		return s.bytes(v)
	case formString:
		text, ok := s.text()
		v.SetString(string(text))
		return ok
	case formBool:
		v.SetBool(s.next() == 't')
		return s.word(strconv.FormatBool(v.Bool()))
	case formInteger:
		n, ok := s.integer()
		if !ok || v.OverflowInt(n) {
			return false
		}
		v.SetInt(n)
		return true
	}
	panic("record: no canonical form for " + v.Type().String())
}

func (s *scanner) raw(v reflect.Value, depth int) bool {
	if !s.nested {
		depth = 0
	}
	from := s.at
	if s.next() != '{' || !s.value(depth) {
		return false
	}
	v.SetBytes(bytes.Clone(s.data[from:s.at]))
	return true
}

// itself lets a value read itself from a string.
func (s *scanner) itself(v encoding.TextUnmarshaler) bool {
	text, ok := s.text()
	if !ok {
		return false
	}
	if err := v.UnmarshalText(text); err != nil {
		return s.fail("%v", err)
	}
	return true
}

func (s *scanner) bytes(v reflect.Value) bool {
	text, ok := s.text()
	if !ok {
		return false
	}
	// A decoder of base64 passes over line ends, wherever they stand.
	data, err := base64.StdEncoding.Strict().AppendDecode([]byte{}, text)
	if err != nil || len(text) != base64.StdEncoding.EncodedLen(len(data)) {
		return s.fail("no base64")
	}
	v.SetBytes(data)
	return true
}

func (s *scanner) list(v reflect.Value, depth int) bool {
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	if !s.take('[') {
		return false
	}
	if s.take(']') {
		return true
	}
	form := formOf(v.Type().Elem())
	for n := 0; ; n++ {
		v.Grow(1)
		v.SetLen(n + 1)
		if !s.as(form, v.Index(n), depth) {
			return false
		}
		if s.take(']') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

func (s *scanner) mapping(v reflect.Value, depth int) bool {
	v.Set(reflect.MakeMap(v.Type()))
	if !s.take('{') {
		return false
	}
	if s.take('}') {
		return true
	}
	var last []byte
	for first := true; ; first = false {
		name, ok := s.text()
		if !ok || !first && compareUTF16(last, name) >= 0 || !s.take(':') {
			return false
		}
		value := reflect.New(v.Type().Elem()).Elem()
		if !s.into(value, depth) {
			return false
		}
		v.SetMapIndex(reflect.ValueOf(string(name)).Convert(v.Type().Key()), value)
		if s.take('}') {
			return true
		}
		if !s.take(',') {
			return false
		}
		last = name
	}
}

// structure reads the members of a struct, which stand in the one order there is.
func (s *scanner) structure(v reflect.Value, depth int) bool {
	if !s.take('{') {
		return false
	}
	first := true
	for _, f := range plan(v.Type()) {
		value := v.Field(f.index)
		if !s.member(f, first) {
			if !f.omit {
				return s.fail("no member %q where it belongs", f.name)
			}
			value.SetZero()
			continue
		}
		first = false
		if !s.as(f.form, value, depth) {
			return false
		}
		if f.omit && isEmpty(value) {
			return s.fail("member %q is empty, which is written by leaving it out", f.name)
		}
	}
	if !s.take('}') {
		return s.fail("another member than those of a %s, or one at another place", v.Type().Name())
	}
	return true
}

// member reads the name of a struct's member with what stands around it, if that
// is what comes next.
func (s *scanner) member(f field, first bool) bool {
	text := f.text
	if first {
		text = text[1:]
	}
	return s.word(text)
}
