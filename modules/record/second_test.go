package record_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/record"
)

// secondRead is a second, naive decoder of typed canonical JSON: the standard
// library's, which takes many spellings, and then whatever is not spelled as
// Marshal spells it is refused. It shares nothing with Unmarshal, which takes one
// spelling only.
func secondRead(data []byte, v any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return err
	}
	again, err := record.Marshal(v)
	if err == nil && !bytes.Equal(again, data) {
		err = errors.New("spelled otherwise")
	}
	return err
}

// typed are all formats of canonical JSON, by the beginnings of their goldens'
// names; a format that begins like another stands before it.
var typed = []struct {
	prefix string
	value  func() any
	body   bool // the golden is a leaf with this body
}{
	{"leaf-genesis", func() any { return new(record.Genesis) }, true},
	{"leaf-recipe", func() any { return new(record.RecipeLeaf) }, true},
	{"leaf-attempt", func() any { return new(record.AttemptLeaf) }, true},
	{"leaf-commits", func() any { return new(record.CommitsLeaf) }, true},
	{"leaf-files", func() any { return new(record.FilesLeaf) }, true},
	{"leaf-publish", func() any { return new(record.PublishLeaf) }, true},
	{"leaf-attest", func() any { return new(record.AttestLeaf) }, true},
	{"leaf-key-rotate", func() any { return new(record.KeyRotateLeaf) }, true},
	{"leaf-evidence", func() any { return new(record.EvidenceLeaf) }, true},
	{"leaf-block", func() any { return new(record.Header) }, true},
	{"part-", func() any { return new(record.Part) }, false},
	{"incarnation", func() any { return new(record.Incarnation) }, false},
	{"recollection", func() any { return new(record.Recollection) }, false},
	{"recipe", func() any { return new(record.Recipe) }, false},
	{"lock", func() any { return new(record.Lock) }, false},
	{"statement", func() any { return new(record.Statement) }, false},
	{"file-list", func() any { return new([]record.Subject) }, false},
	{"node-record", func() any { return new(record.NodeRecord) }, false},
	{"envelope", func() any { return new(record.Envelope) }, false},
	{"vote/proposal", func() any { return new(record.Proposal) }, false},
	{"vote/pre", func() any { return new(record.Vote) }, false},
	{"vote/cosign", func() any { return new(record.Cosign) }, false},
	{"vote/decision", func() any { return new(record.Decision) }, false},
}

// goldensOf are a format's goldens, as what its decoder gets to read.
func goldensOf(t testing.TB, prefix string, body bool) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("testdata/" + prefix + "*.golden")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no goldens of %s (%v)", prefix, err)
	}
	values := map[string][]byte{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case body:
			data = data[len(`{"body":`):bytes.LastIndex(data, []byte(`,"type":"`))]
		case strings.HasPrefix(prefix, "vote/"):
			data = data[5 : 5+binary.BigEndian.Uint32(data[1:])]
		}
		values[path] = data
	}
	return values
}

// agreeTyped tells whether both decoders take the data; they must agree on it and
// on what it says.
func agreeTyped(t *testing.T, data []byte, value func() any) bool {
	t.Helper()
	first, second := value(), value()
	err, other := record.Unmarshal(data, first), secondRead(data, second)
	if (err == nil) != (other == nil) {
		t.Errorf("%.300q as %T: Unmarshal says %v, the second decoder %v", data, first, err, other)
	}
	if err == nil && other == nil && !reflect.DeepEqual(first, second) {
		t.Errorf("%.300q: %+v, the second decoder reads %+v", data, first, second)
	}
	return err == nil
}

// TestSecondDecoder alters every format's goldens in all small ways.
func TestSecondDecoder(t *testing.T) {
	for _, format := range typed {
		t.Run(strings.ReplaceAll(format.prefix, "/", " "), func(t *testing.T) {
			t.Parallel()
			for path, data := range goldensOf(t, format.prefix, format.body) {
				if !agreeTyped(t, data, format.value) {
					t.Errorf("%s is refused", path)
				}
				alterations(data, func(altered []byte) { agreeTyped(t, altered, format.value) })
			}
		})
	}
}

// alterations calls visit with the data without a byte, with a byte more and with
// a byte changed, at every place, and with the pieces between its commas dropped,
// doubled and exchanged; of long data at some of them, since it is read each time.
func alterations(data []byte, visit func([]byte)) {
	step := 1 + len(data)*len(data)/100_000
	for at := 0; at < len(data); at += step {
		visit(append(bytes.Clone(data[:at]), data[at+1:]...))
		visit(data[:at])
		visit(append(append(bytes.Clone(data[:at]), `\n`...), data[at:]...)) // a line end in base64
		for _, b := range []byte(" \n\"\\0/}]{,:nA\x80") {
			visit(append(append(bytes.Clone(data[:at]), b), data[at:]...))
			changed := bytes.Clone(data)
			changed[at] = b
			visit(changed)
		}
		for _, mask := range []byte{1, 0x20, 0x80} {
			changed := bytes.Clone(data)
			changed[at] ^= mask
			visit(changed)
		}
	}
	pieces := bytes.Split(data, []byte(","))
	join := func(pieces ...[]byte) []byte { return bytes.Join(pieces, []byte(",")) }
	for i := 0; i < len(pieces); i += 1 + len(pieces)*len(data)/100_000 {
		before, after := pieces[:i:i], pieces[i+1:]
		visit(join(append(before, after...)...))
		visit(join(append(append(before, pieces[i], pieces[i]), after...)...))
		if len(after) > 0 {
			visit(join(append(append(before, after[0], pieces[i]), after[1:]...)...))
		}
		for _, other := range []string{`null`, `""`, `[]`, `{}`, `0`, `-0`, `1e3`, `9007199254740992`} {
			if name, _, ok := bytes.Cut(pieces[i], []byte(":")); ok {
				visit(join(append(append(before, append(append(bytes.Clone(name), ':'), other...)), after...)...))
			}
		}
	}
}

func FuzzSecondDecoder(f *testing.F) {
	for i, format := range typed {
		for _, data := range goldensOf(f, format.prefix, format.body) {
			f.Add(byte(i), data)
		}
	}
	f.Fuzz(func(t *testing.T, which byte, data []byte) {
		agreeTyped(t, data, typed[int(which)%len(typed)].value)
	})
}
