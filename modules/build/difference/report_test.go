package difference

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func roundTrip(t testing.TB, report *Report) {
	t.Helper()
	data, err := report.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Decode(data)
	if err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	if !reflect.DeepEqual(again, report) {
		t.Fatalf("decoded\n%#v\nwant\n%#v", again, report)
	}
}

// encoded is the story's report as JSON.
func encoded(t testing.TB) string {
	t.Helper()
	l, r := story(t)
	data, err := compare(t, "out", l, r, Limits{}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestDecodeRefuses changes one thing of a good report.
func TestDecodeRefuses(t *testing.T) {
	good := encoded(t)
	tests := map[string][2]string{
		"a word for the verdict":  {`"verdict":"different"`, `"verdict":"fine"`},
		"equal with two digests":  {`"verdict":"different"`, `"verdict":"equal"`},
		"a verdict too good":      {`"verdict":"different"`, `"verdict":"normalised-equal"`},
		"an unknown member":       {`"truncated":0`, `"truncated":0,"more":1`},
		"a number below zero":     {`"truncated":0`, `"truncated":-1`},
		"a size below zero":       {`"leftSize":`, `"leftSize":-`},
		"no rules":                {`"rules":[`, `"rules":null,"Rules2":[`},
		"a rule of none":          {`"rule":"line endings","entries":1`, `"rule":"line endings","entries":0`},
		"an unknown rule":         {`"rule":"line endings"`, `"rule":"lines"`},
		"an unknown field's rule": {`"rule":"zip entry times"}`, `"rule":"zip"}`},
		"an unknown text rule":    {`"rules":["jar manifest attributes"]`, `"rules":["jar"]`},
		"no text rules":           {`"rules":["jar manifest attributes"]`, `"rules":[]`},
		"a word for what":         {`"what":"only-left"`, `"what":"left"`},
		"no fields":               {`"fields":[{"name":"size","left":"1 byte","right":""}]`, `"fields":[]`},
		"a crooked window":        {`"window":16`, `"window":17`},
		"no hexadecimal":          {`"left":"61"`, `"left":"6"`},
		"too many bytes":          {`"left":"61"`, `"left":"` + strings.Repeat("61", 33) + `"`},
		"no bytes":                {`"left":"61","right"`, `"right"`},
		"a line of nobody":        {`"side":"left"`, `"side":"middle"`},
		"a line zero":             {`"number":1,`, `"number":0,`},
		"a digest cut":            {`"sha256":"`, `"sha256":"0`},
		"no UTF-8":                {`"output":"out"`, "\"output\":\"\xff\""},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			bad := strings.Replace(good, change[0], change[1], 1)
			if bad == good {
				t.Fatalf("%q is not in %s", change[0], good)
			}
			if report, err := Decode([]byte(bad)); !errors.Is(err, ErrMalformed) || report != nil {
				t.Errorf("%v, %v", report, err)
			}
		})
	}
	same := compare(t, "out", nil, nil, Limits{})
	same.Truncated = 1
	data, err := same.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"equal with differences": string(data), "nothing": "", "half": good[:len(good)/2], "twice": good + good,
		"large": good + strings.Repeat(" ", MaxEncoded),
	} {
		if report, err := Decode([]byte(bad)); !errors.Is(err, ErrMalformed) || report != nil {
			t.Errorf("%s: %v, %v", name, report, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(encoded(f)))
	data, err := compare(f, "out", nil, nil, Limits{}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		report, err := Decode(data)
		if err != nil {
			return
		}
		checkText(t, report.String())
		// What JSON can write in two ways is written in one, and stays so.
		first, err := report.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if len(first) > MaxEncoded {
			return
		}
		again, err := Decode(first)
		if err != nil {
			t.Fatalf("%v in %s", err, first)
		}
		second, err := again.Encode()
		if err != nil || !bytes.Equal(first, second) {
			t.Errorf("%v, %s and %s", err, first, second)
		}
		if !json.Valid(first) {
			t.Errorf("no JSON: %s", first)
		}
	})
}
