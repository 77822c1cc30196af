package record

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sort"
	"strconv"
	"strings"
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

// Unmarshal decodes canonical JSON into a typed value and refuses everything
// that Marshal would not have written for it: unknown members, other spacing,
// other order, null, duplicate members.
func Unmarshal(data []byte, v any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	again, err := Marshal(v)
	if err != nil {
		return fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if !bytes.Equal(again, data) {
		return fmt.Errorf("%w: not in canonical form (RFC 8785)", ErrMalformed)
	}
	return nil
}

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
	var object map[string]any
	decoder := json.NewDecoder(bytes.NewReader(r))
	decoder.UseNumber()
	if err := decoder.Decode(&object); err != nil {
		return fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	var e encoder
	if err := e.generic(object); err != nil {
		return err
	}
	if !bytes.Equal(e.Bytes(), r) {
		return fmt.Errorf("%w: not in canonical form (RFC 8785)", ErrMalformed)
	}
	return nil
}

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

func (e *encoder) structure(v reflect.Value) error {
	var members []member
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if !field.IsExported() {
			continue
		}
		name, option, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		if name == "" {
			panic("record: " + v.Type().String() + "." + field.Name + " has no json name")
		}
		if option == "omitempty" && v.Field(i).IsZero() {
			continue
		}
		if option == "omitempty" && v.Field(i).Kind() == reflect.Slice && v.Field(i).Len() == 0 {
			continue
		}
		members = append(members, member{name, v.Field(i)})
	}
	sort.Slice(members, func(i, j int) bool { return lessUTF16(members[i].name, members[j].name) })
	return e.members(members)
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

// generic encodes what encoding/json decodes with UseNumber.
func (e *encoder) generic(v any) error {
	switch v := v.(type) {
	case map[string]any:
		names := make([]string, 0, len(v))
		for name := range v {
			names = append(names, name)
		}
		sort.Slice(names, func(i, j int) bool { return lessUTF16(names[i], names[j]) })
		e.WriteByte('{')
		for i, name := range names {
			if i > 0 {
				e.WriteByte(',')
			}
			if err := e.text(name); err != nil {
				return err
			}
			e.WriteByte(':')
			if err := e.generic(v[name]); err != nil {
				return err
			}
		}
		e.WriteByte('}')
		return nil
	case []any:
		e.WriteByte('[')
		for i, element := range v {
			if i > 0 {
				e.WriteByte(',')
			}
			if err := e.generic(element); err != nil {
				return err
			}
		}
		e.WriteByte(']')
		return nil
	case string:
		return e.text(v)
	case bool:
		e.WriteString(strconv.FormatBool(v))
		return nil
	case json.Number:
		n, err := strconv.ParseInt(v.String(), 10, 64)
		if err != nil {
			return fmt.Errorf("%w: %s is not an integer", ErrMalformed, v)
		}
		return e.integer(n)
	default:
		return fmt.Errorf("%w: null", ErrMalformed)
	}
}

// text writes a string with the escapes of RFC 8785 §3.2.2.2 and no others.
func (e *encoder) text(s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%w: string %.80q is not UTF-8", ErrMalformed, s)
	}
	e.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			e.WriteByte('\\')
			e.WriteRune(r)
		case r == '\b':
			e.WriteString(`\b`)
		case r == '\f':
			e.WriteString(`\f`)
		case r == '\n':
			e.WriteString(`\n`)
		case r == '\r':
			e.WriteString(`\r`)
		case r == '\t':
			e.WriteString(`\t`)
		case r < 0x20:
			fmt.Fprintf(e, `\u%04x`, r)
		default:
			e.WriteRune(r)
		}
	}
	e.WriteByte('"')
	return nil
}

// lessUTF16 orders member names by their UTF-16 code units (RFC 8785 §3.2.3).
func lessUTF16(a, b string) bool {
	x, y := utf16.Encode([]rune(a)), utf16.Encode([]rune(b))
	for i := 0; i < len(x) && i < len(y); i++ {
		if x[i] != y[i] {
			return x[i] < y[i]
		}
	}
	return len(x) < len(y)
}
