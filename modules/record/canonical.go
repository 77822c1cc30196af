package record

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"slices"
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
// a TextAppender is a string, a nil slice is an empty array and Raw is
// inserted as it stands. There is no null and no fraction.
//
// It panics on a type that has no such form, which is a bug of ours, and
// returns an error for a string that is not UTF-8 and for an integer beyond
// 2^53-1.
func Marshal(v any) ([]byte, error) {
	value := reflect.ValueOf(v)
	if value.IsValid() && value.Kind() != reflect.Pointer {
		// What has an address is written without being copied piece by piece.
		value = reflect.New(value.Type()).Elem()
		value.Set(reflect.ValueOf(v))
	}
	var e encoder
	if err := e.value(value); err != nil {
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

// form is how a type is written.
type form int

const (
	formNone form = iota // it cannot be
	formRaw
	formText // by itself
	formPointer
	formStruct
	formMap
	formList
	formBytes
	formString
	formBool
	formInteger
)

var (
	textAppender    = reflect.TypeFor[encoding.TextAppender]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	rawType         = reflect.TypeFor[Raw]()
)

// forms are those of the types seen so far, by reflect.Type.
var forms sync.Map

func formOf(t reflect.Type) form {
	if known, ok := forms.Load(t); ok {
		return known.(form)
	}
	f := newForm(t)
	forms.Store(t, f)
	return f
}

func newForm(t reflect.Type) form {
	if t == rawType {
		return formRaw
	}
	if p := reflect.PointerTo(t); p.Implements(textAppender) && p.Implements(textUnmarshaler) {
		return formText
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Interface:
		return formPointer
	case reflect.Struct:
		return formStruct
	case reflect.Map:
		if t.Key().Kind() == reflect.String {
			return formMap
		}
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() != reflect.Uint8 {
			return formList
		}
		if t.Kind() == reflect.Slice {
			return formBytes
		}
	case reflect.String:
		return formString
	case reflect.Bool:
		return formBool
	case reflect.Int, reflect.Int64, reflect.Int32:
		return formInteger
	}
	return formNone
}

func (e *encoder) value(v reflect.Value) error { return e.as(formOf(v.Type()), v) }

// as writes a value of a form.
func (e *encoder) as(form form, v reflect.Value) error {
	switch form {
	case formRaw:
		if err := Raw(v.Bytes()).check(); err != nil {
			return err
		}
		e.Write(v.Bytes())
		return nil
	case formText:
		return e.itself(v)
	case formPointer:
		if v.IsNil() {
			return fmt.Errorf("%w: null", ErrMalformed)
		}
		return e.value(v.Elem())
	case formStruct:
		return e.structure(v)
	case formMap:
		return e.mapping(v)
	case formList:
		return e.list(v)
	case formBytes:
		e.WriteByte('"')
		e.Write(base64.StdEncoding.AppendEncode(e.AvailableBuffer(), v.Bytes()))
		e.WriteByte('"')
		return nil
	case formString:
		return e.text(v.String())
	case formBool:
		e.WriteString(strconv.FormatBool(v.Bool()))
		return nil
	case formInteger:
		return e.integer(v.Int())
	}
	panic("record: no canonical form for " + v.Type().String())
}

// itself lets a value write itself: digits and letters that need no escapes.
func (e *encoder) itself(v reflect.Value) error {
	if !v.CanAddr() {
		addressed := reflect.New(v.Type()).Elem()
		addressed.Set(v)
		v = addressed
	}
	e.WriteByte('"')
	text, err := v.Addr().Interface().(encoding.TextAppender).AppendText(e.AvailableBuffer())
	e.Write(text)
	e.WriteByte('"')
	return err
}

func (e *encoder) integer(n int64) error {
	if n > maxInteger || n < -maxInteger {
		return fmt.Errorf("%w: integer %d is beyond 2^53-1", ErrMalformed, n)
	}
	e.Write(strconv.AppendInt(e.AvailableBuffer(), n, 10))
	return nil
}

func (e *encoder) list(v reflect.Value) error {
	e.WriteByte('[')
	form := formOf(v.Type().Elem())
	for i := range v.Len() {
		if i > 0 {
			e.WriteByte(',')
		}
		if err := e.as(form, v.Index(i)); err != nil {
			return err
		}
	}
	e.WriteByte(']')
	return nil
}

func (e *encoder) mapping(v reflect.Value) error {
	names := v.MapKeys()
	slices.SortFunc(names, func(a, b reflect.Value) int { return compareUTF16(a.String(), b.String()) })
	e.WriteByte('{')
	for i, name := range names {
		if i > 0 {
			e.WriteByte(',')
		}
		if err := e.text(name.String()); err != nil {
			return err
		}
		e.WriteByte(':')
		if err := e.value(v.MapIndex(name)); err != nil {
			return err
		}
	}
	e.WriteByte('}')
	return nil
}

// field is a struct's member in the order of its names.
type field struct {
	name  string
	text  string // a comma, the name and a colon, as they are written
	form  form
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
			fields = append(fields, field{name: name, text: `,"` + name + `":`, form: formOf(t.Field(i).Type), index: i, omit: option == "omitempty"})
		}
	}
	slices.SortFunc(fields, func(a, b field) int { return compareUTF16(a.name, b.name) })
	plans.Store(t, fields)
	return fields
}

func (e *encoder) structure(v reflect.Value) error {
	e.WriteByte('{')
	first := 1 // the comma before a name
	for _, f := range plan(v.Type()) {
		value := v.Field(f.index)
		if f.omit && isEmpty(value) {
			continue
		}
		e.WriteString(f.text[first:])
		if err := e.as(f.form, value); err != nil {
			return err
		}
		first = 0
	}
	e.WriteByte('}')
	return nil
}

// isEmpty tells whether a member that may be left out is.
func isEmpty(v reflect.Value) bool {
	return v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0
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

// compareUTF16 orders member names by their UTF-16 code units (RFC 8785 §3.2.3).
func compareUTF16[text string | []byte](a, b text) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		if a[i] >= utf8.RuneSelf || b[i] >= utf8.RuneSelf {
			return slices.Compare(utf16.Encode([]rune(string(a[i:]))), utf16.Encode([]rune(string(b[i:]))))
		}
		if a[i] != b[i] {
			return int(a[i]) - int(b[i])
		}
	}
	return len(a) - len(b)
}
