package record_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/pyrsia/appliance/modules/record"
)

// naive is a second reader of canonical JSON, by the text of docs/protocol.md:
// it goes through the bytes once and takes only what is spelled canonically.
// It shares nothing with Unmarshal and with Raw's own check.
type naive struct {
	data  []byte
	at    int
	depth int
}

var errNaive = errors.New("not canonical")

// naiveObject tells whether the data is a canonical object.
func naiveObject(data []byte) error {
	n := &naive{data: data}
	if n.peek() != '{' {
		return errNaive
	}
	if err := n.value(); err != nil {
		return err
	}
	if n.at != len(data) {
		return errNaive
	}
	return nil
}

func (n *naive) peek() byte {
	if n.at < len(n.data) {
		return n.data[n.at]
	}
	return 0
}

func (n *naive) take(text string) error {
	if !strings.HasPrefix(string(n.data[n.at:min(len(n.data), n.at+len(text))]), text) {
		return errNaive
	}
	n.at += len(text)
	return nil
}

func (n *naive) value() error {
	switch c := n.peek(); {
	case c == '{' || c == '[':
		if n.depth++; n.depth > 64 {
			return errNaive
		}
		defer func() { n.depth-- }()
		n.at++
		if c == '{' {
			return n.object()
		}
		return n.array()
	case c == '"':
		_, err := n.text()
		return err
	case c == 't':
		return n.take("true")
	case c == 'f':
		return n.take("false")
	default:
		return n.integer()
	}
}

func (n *naive) object() error {
	var last []uint16
	for first := true; ; first = false {
		if n.peek() == '}' && first {
			n.at++
			return nil
		}
		name, err := n.text()
		if err != nil {
			return err
		}
		units := utf16.Encode([]rune(name))
		if !first && !less(last, units) {
			return errNaive
		}
		last = units
		if err := n.take(":"); err != nil {
			return err
		}
		if err := n.value(); err != nil {
			return err
		}
		if n.peek() == '}' {
			n.at++
			return nil
		}
		if err := n.take(","); err != nil {
			return err
		}
	}
}

func less(a, b []uint16) bool {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return len(a) < len(b)
}

func (n *naive) array() error {
	if n.peek() == ']' {
		n.at++
		return nil
	}
	for {
		if err := n.value(); err != nil {
			return err
		}
		if n.peek() == ']' {
			n.at++
			return nil
		}
		if err := n.take(","); err != nil {
			return err
		}
	}
}

func (n *naive) text() (string, error) {
	if err := n.take(`"`); err != nil {
		return "", err
	}
	var out strings.Builder
	for {
		r, size := utf8.DecodeRune(n.data[n.at:])
		switch {
		case size == 0, r == utf8.RuneError && size == 1, r < 0x20:
			return "", errNaive
		case r == '"':
			n.at++
			return out.String(), nil
		case r == '\\':
			escaped, err := n.escape()
			if err != nil {
				return "", err
			}
			out.WriteRune(escaped)
		default:
			n.at += size
			out.WriteRune(r)
		}
	}
}

func (n *naive) escape() (rune, error) {
	for spelled, r := range map[string]rune{`\"`: '"', `\\`: '\\', `\b`: 8, `\t`: 9, `\n`: 10, `\f`: 12, `\r`: 13} {
		if n.take(spelled) == nil {
			return r, nil
		}
	}
	for r := range rune(0x20) {
		if strings.ContainsRune("\b\t\n\f\r", r) {
			continue
		}
		if n.take(fmt.Sprintf(`\u%04x`, r)) == nil {
			return r, nil
		}
	}
	return 0, errNaive
}

func (n *naive) integer() error {
	from := n.at
	if n.peek() == '-' {
		n.at++
	}
	digits := n.at
	for n.peek() >= '0' && n.peek() <= '9' {
		n.at++
	}
	text := string(n.data[digits:n.at])
	switch {
	case text == "", text[0] == '0' && len(text) > 1, text == "0" && digits > from:
		return errNaive
	case len(text) > 16, len(text) == 16 && text > "9007199254740991":
		return errNaive
	}
	return nil
}

func agree(t *testing.T, data []byte) bool {
	t.Helper()
	var raw record.Raw
	err, second := record.Unmarshal(data, &raw), naiveObject(data)
	if (err == nil) != (second == nil) {
		t.Errorf("%q: Unmarshal says %v, the second reader %v", data, err, second)
	}
	if err == nil && string(record.MustMarshal(raw)) != string(data) {
		t.Errorf("%q is encoded as %q", data, record.MustMarshal(raw))
	}
	return err == nil
}

var canonicalTable = []struct {
	valid bool
	data  string
}{
	{true, `{}`},
	{true, `{"a":1}`},
	{true, `{"a":{},"b":[],"c":"","d":true,"e":false,"f":-1,"g":0}`},
	{true, `{"":0}`},
	{true, `{"A":1,"a":1,"aa":1,"b":1}`},
	{true, `{"a":9007199254740991,"b":-9007199254740991}`},
	{false, `{"a":9007199254740992}`},
	{false, `{"a":-9007199254740992}`},
	{false, `{"a":99999999999999999999999}`},
	{false, `{"a":1.0}`},
	{false, `{"a":1e2}`},
	{false, `{"a":1E2}`},
	{false, `{"a":-0}`},
	{false, `{"a":01}`},
	{false, `{"a":+1}`},
	{false, `{"a":-}`},
	{false, `{"a":.5}`},
	{false, `{"a":null}`},
	{false, `{"a":NaN}`},
	{false, `{"a": 1}`},
	{false, ` {"a":1}`},
	{false, "{\"a\":1}\n"},
	{false, "\ufeff{}"},
	{false, `{"a":1,}`},
	{false, `{"a":[1,]}`},
	{false, `{"a":[,1]}`},
	{false, `{,}`},
	{false, `{"a"}`},
	{false, `{"a":1"b":2}`},
	{false, `{"b":1,"a":1}`},
	{false, `{"a":1,"a":1}`},
	{false, `{"a":1}{"a":1}`},
	{false, `{"a":1`},
	{false, `{"a":tru}`},
	{false, `{"a":True}`},
	{false, `[]`},
	{false, `"a"`},
	{false, `1`},
	{false, `null`},
	{false, ``},
	// strings
	{true, `{"a":"\b\t\n\f\r\"\\"}`},
	{true, `{"a":"\u0000\u0001\u000b\u001f"}`},
	{true, "{\"a\":\"/\u007f\u0080\u2028\u2029\ufeff\ufffd\U0010ffff<>&'\"}"},
	{false, `{"a":"\/"}`},
	{false, `{"a":"\u000B"}`},
	{false, `{"a":"\u0008"}`},
	{false, `{"a":"\u000a"}`},
	{false, `{"a":"\u0041"}`},
	{false, `{"a":"\u007f"}`},
	{false, `{"a":"\u2028"}`},
	{false, `{"a":"\ud83d\ude00"}`},
	{false, `{"a":"\ud83d"}`},
	{false, `{"a":"\x41"}`},
	{false, `{"a":"\u00"}`},
	{false, "{\"a\":\"\x01\"}"},
	{false, "{\"a\":\"\t\"}"},
	{false, "{\"a\":\"\xff\"}"},
	{false, "{\"a\":\"\xc0\x80\"}"},
	{false, "{\"a\":\"\xed\xa0\x80\"}"},
	{false, "{\"a\":\"\xf4\x90\x80\x80\"}"},
	{false, `{'a':1}`},
	{false, `{a:1}`},
	// order by UTF-16 code units, not by code points: U+1F600 is d83d de00
	{true, "{\"\U0001f600\":1,\"\ufb33\":1}"},
	{false, "{\"\ufb33\":1,\"\U0001f600\":1}"},
	{false, `{"\u0061":1}`},
	// nesting
	{true, strings.Repeat(`{"a":`, 64) + `1` + strings.Repeat(`}`, 64)},
	{false, strings.Repeat(`{"a":`, 65) + `1` + strings.Repeat(`}`, 65)},
	{true, `{"a":` + strings.Repeat(`[`, 63) + strings.Repeat(`]`, 63) + `}`},
	{false, `{"a":` + strings.Repeat(`[`, 64) + strings.Repeat(`]`, 64) + `}`},
	{false, `{"a":` + strings.Repeat(`[`, 20000) + strings.Repeat(`]`, 20000) + `}`},
}

func TestCanonical(t *testing.T) {
	for _, test := range canonicalTable {
		if valid := agree(t, []byte(test.data)); valid != test.valid {
			t.Errorf("%.120q: valid is %v, want %v", test.data, valid, test.valid)
		}
	}
}

// TestCanonicalExamples are the examples of RFC 8785 §3.2.2 and §3.2.3, as far
// as they have no null and no fractions.
func TestCanonicalExamples(t *testing.T) {
	sorted := record.MustMarshal(map[string]string{
		"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh", "1": "One",
		"\U0001f600": "Emoji: Grinning Face", "\u0080": "Control", "\u00f6": "Latin Small Letter O With Diaeresis",
	})
	at := -1
	for _, value := range []string{"Carriage Return", "One", "Control", "Latin Small", "Euro Sign", "Emoji", "Hebrew"} {
		next := strings.Index(string(sorted), value)
		if next <= at {
			t.Errorf("%s is out of order in %s", value, sorted)
		}
		at = next
	}
	got := record.MustMarshal(struct {
		Literals []bool `json:"literals"`
		String   string `json:"string"`
	}{[]bool{true, false}, "\u20ac$\u000f\nA'B\"\\\\\"/"})
	if want := `{"literals":[true,false],"string":"€$\u000f\nA'B\"\\\\\"/"}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, example := range [][]byte{sorted, got} {
		if !agree(t, example) {
			t.Errorf("%s is refused", example)
		}
	}
}

// TestUnmarshalTyped are spellings that only a typed value can tell apart.
func TestUnmarshalTyped(t *testing.T) {
	type value struct {
		Data     []byte `json:"data"`
		Items    []int  `json:"items"`
		Name     string `json:"name"`
		Optional string `json:"optional,omitempty"`
	}
	for _, test := range []struct {
		valid bool
		data  string
	}{
		{true, `{"data":"AAE=","items":[1],"name":"x"}`},
		{true, `{"data":"","items":[],"name":"","optional":"y"}`},
		{false, `{"data":"AAE","items":[1],"name":"x"}`},    // no padding
		{false, `{"data":"AAF=","items":[1],"name":"x"}`},   // spare bits
		{false, `{"data":"AA\nE=","items":[1],"name":"x"}`}, // line break in base64
		{false, `{"data":"AAE=","items":null,"name":"x"}`},  // null
		{false, `{"data":null,"items":[],"name":"x"}`},      //
		{false, `{"data":"AAE=","items":[1]}`},              // a member is missing
		{false, `{"data":"AAE=","items":[1],"Name":"x"}`},   // other case
		{false, `{"data":"","items":[],"name":"","odd":1}`}, // unknown member
		{false, `{"data":"","items":[],"name":"","optional":""}`},
		{false, `{"data":"","items":[1.0],"name":""}`},
		{false, `{"data":"","items":["1"],"name":""}`},
		{false, `{"items":[],"data":"","name":""}`},
	} {
		var v value
		if err := record.Unmarshal([]byte(test.data), &v); (err == nil) != test.valid {
			t.Errorf("%s: %v, want valid %v", test.data, err, test.valid)
		} else if err != nil && !errors.Is(err, record.ErrMalformed) {
			t.Errorf("%s: %v is not ErrMalformed", test.data, err)
		}
	}
}

func TestMarshalRefuses(t *testing.T) {
	for name, value := range map[string]any{
		"not UTF-8":     map[string]string{"a": "\xff"},
		"name":          map[string]string{"\xff": "a"},
		"large integer": map[string]int64{"a": 1 << 53},
		"null":          map[string]*int{"a": nil},
		"raw":           map[string]record.Raw{"a": record.Raw(`{ }`)},
	} {
		if data, err := record.Marshal(value); err == nil {
			t.Errorf("%s: encoded as %s", name, data)
		}
	}
}

func FuzzCanonical(f *testing.F) {
	for _, test := range canonicalTable {
		if len(test.data) < 1000 {
			f.Add([]byte(test.data))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) { agree(t, data) })
}
