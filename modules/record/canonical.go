package record

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"unicode/utf16"
	"unicode/utf8"
)

// ErrMalformed is wrapped by every decoder of this package: the bytes are not
// the one encoding of a valid value.
var ErrMalformed = errors.New("malformed record")

// maxInteger is the largest integer that every JSON implementation keeps
// exactly: 2^53-1 (RFC 8785 §3.2.2.3, RFC 7493 §2.2).
const maxInteger = 1<<53 - 1

// Marshal encodes a typed value as canonical JSON: RFC 8785 restricted to
// objects, arrays, strings, booleans and integers. Struct fields go by their
// json tags (only the option omitempty is known), []byte is standard base64,
// a TextMarshaler is a string, a nil slice is an empty array and Raw is
// inserted as it stands. There is no null and no fraction.
//
// It panics on a type that has no such form, which is a bug of ours, and
// returns an error for a string that is not UTF-8 and for an integer beyond
// 2^53-1.
func Marshal(v any) ([]byte, error) {
	var e encoder
	if err := e.value(reflect.ValueOf(v)); err != nil {
		return nil, err
	}
	return e.Bytes(), nil
}

// MustMarshal is Marshal for values that this program built itself from
// checked parts.
func MustMarshal(v any) []byte {
	data, err := Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

// escapes are the characters that RFC 8785 §3.2.2.2 escapes, and how.
var escapes = func() (table [0x80]string) {
	for c := range 0x20 {
		table[c] = fmt.Sprintf(`\u%04x`, c)
	}
	table['\b'], table['\t'], table['\n'], table['\f'], table['\r'] = `\b`, `\t`, `\n`, `\f`, `\r`
	table['"'], table['\\'] = `\"`, `\\`
	return table
}()

type encoder struct{ bytes.Buffer }

var (
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
	rawType       = reflect.TypeFor[Raw]()
)

func (e *encoder) value(v reflect.Value) error {
	if v.Type() == rawType {
		if err := v.Interface().(Raw).check(); err != nil {
			return err
		}
		e.Write(v.Bytes())
		return nil
	}
	if v.Type().Implements(textMarshaler) {
		text, err := v.Interface().(encoding.TextMarshaler).MarshalText()
		if err != nil {
			return err
		}
		return e.text(string(text))
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return fmt.Errorf("%w: null", ErrMalformed)
		}
		return e.value(v.Elem())
	case reflect.Struct:
		return e.structure(v)
	case reflect.Map:
		return e.mapping(v)
	case reflect.Slice, reflect.Array:
		return e.list(v)
	case reflect.String:
		return e.text(v.String())
	case reflect.Bool:
		e.WriteString(strconv.FormatBool(v.Bool()))
		return nil
	case reflect.Int, reflect.Int64, reflect.Int32:
		return e.integer(v.Int())
	default:
		panic("record: no canonical form for " + v.Type().String())
	}
}

func (e *encoder) integer(n int64) error {
	if n > maxInteger || n < -maxInteger {
		return fmt.Errorf("%w: integer %d is beyond 2^53-1", ErrMalformed, n)
	}
	e.WriteString(strconv.FormatInt(n, 10))
	return nil
}

func (e *encoder) list(v reflect.Value) error {
	if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 {
		return e.text(base64.StdEncoding.EncodeToString(v.Bytes()))
	}
	e.WriteByte('[')
	for i := range v.Len() {
		if i > 0 {
			e.WriteByte(',')
		}
		if err := e.value(v.Index(i)); err != nil {
			return err
		}
	}
	e.WriteByte(']')
	return nil
}

func (e *encoder) mapping(v reflect.Value) error {
	if v.Type().Key().Kind() != reflect.String {
		panic("record: no canonical form for " + v.Type().String())
	}
	members := make([]member, 0, v.Len())
	for iterator := v.MapRange(); iterator.Next(); {
		members = append(members, member{iterator.Key().String(), iterator.Value()})
	}
	sort.Slice(members, func(i, j int) bool { return lessUTF16(members[i].name, members[j].name) })
	return e.members(members)
}

type member struct {
	name  string
	value reflect.Value
}

// field is a struct's member in the order of its names.
type field struct {
	name  string
	text  string // a comma, the name and a colon, as they are written
	index int
	omit  bool
}

// plans are the fields of the struct types seen so far, by reflect.Type.
var plans sync.Map

func plan(t reflect.Type) []field {
	if known, ok := plans.Load(t); ok {
		return known.([]field)
	}
	var fields []field
	for i := range t.NumField() {
		if !t.Field(i).IsExported() {
			continue
		}
		name, option, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name == "" {
			panic("record: " + t.String() + "." + t.Field(i).Name + " has no json name")
		}
		if name != "-" {
			fields = append(fields, field{name: name, text: `,"` + name + `":`, index: i, omit: option == "omitempty"})
		}
	}
	sort.Slice(fields, func(i, j int) bool { return lessUTF16(fields[i].name, fields[j].name) })
	plans.Store(t, fields)
	return fields
}

func (e *encoder) structure(v reflect.Value) error {
	var members []member
	for _, f := range plan(v.Type()) {
		value := v.Field(f.index)
		if f.omit && isEmpty(value) {
			continue
		}
		members = append(members, member{f.name, value})
	}
	return e.members(members)
}

// isEmpty tells whether a member that may be left out is.
func isEmpty(v reflect.Value) bool {
	return v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0
}

func (e *encoder) members(members []member) error {
	e.WriteByte('{')
	for i, m := range members {
		if i > 0 {
			e.WriteByte(',')
		}
		if err := e.text(m.name); err != nil {
			return err
		}
		e.WriteByte(':')
		if err := e.value(m.value); err != nil {
			return err
		}
	}
	e.WriteByte('}')
	return nil
}

// text writes a string with the escapes of RFC 8785 §3.2.2.2 and no others.
func (e *encoder) text(s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%w: string %.80q is not UTF-8", ErrMalformed, s)
	}
	e.WriteByte('"')
	from := 0
	for i := range len(s) {
		if s[i] < utf8.RuneSelf && escapes[s[i]] != "" {
			e.WriteString(s[from:i])
			e.WriteString(escapes[s[i]])
			from = i + 1
		}
	}
	e.WriteString(s[from:])
	e.WriteByte('"')
	return nil
}

// lessUTF16 orders member names by their UTF-16 code units (RFC 8785 §3.2.3).
func lessUTF16(a, b string) bool {
	for i := 0; i < len(a) && i < len(b); i++ {
		if a[i] >= utf8.RuneSelf || b[i] >= utf8.RuneSelf {
			return slices.Compare(utf16.Encode([]rune(a[i:])), utf16.Encode([]rune(b[i:]))) < 0
		}
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return len(a) < len(b)
}
