package memberlist

import (
	"strings"
	"testing"
)

const golden = `{"height":57,"limit":2,"running":1,"software":"0.3.0","version":1,"waiting":4}`

func TestStateGolden(t *testing.T) {
	s := State{Height: 57, Limit: 2, Running: 1, Software: "0.3.0", Waiting: 4}
	data, err := s.Encode()
	if err != nil || string(data) != golden {
		t.Fatalf("%s, %v", data, err)
	}
	s.Version = 1
	if got, err := DecodeState(data); err != nil || got != s {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestStateIsHostile(t *testing.T) {
	for name, c := range map[string][2]string{
		"another version":  {`"version":1`, `"version":2`},
		"below zero":       {`"height":57`, `"height":-1`},
		"beyond integers":  {`"height":57`, `"height":9007199254740992`},
		"too many builds":  {`"running":1`, `"running":1000001`},
		"less than none":   {`"waiting":4`, `"waiting":-4`},
		"no limit":         {`"limit":2,`, ``},
		"one thing more":   {`"limit":2`, `"limit":2,"more":1`},
		"a space":          {`:57`, `: 57`},
		"a fraction":       {`:57`, `:57.0`},
		"a terminal's":     {`0.3.0`, `\u001b[2J`},
		"a line":           {`0.3.0`, `a\nb`},
		"a long version":   {`0.3.0`, strings.Repeat("x", maxSoftware+1)},
		"a very long one":  {`0.3.0`, strings.Repeat("x", MaxState)},
		"something behind": {`}`, `} `},
	} {
		if _, err := DecodeState([]byte(strings.Replace(golden, c[0], c[1], 1))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, s := range []State{{Height: -1}, {Running: maxBuilds + 1}, {Software: "\x1b"}, {Software: "\xff"}, {Height: 1 << 53}} {
		if _, err := s.Encode(); err == nil {
			t.Errorf("%+v: encoded", s)
		}
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(golden))
	f.Add([]byte(`{"height":0,"limit":0,"running":0,"software":"","version":1,"waiting":0}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := DecodeState(data)
		if err != nil {
			return
		}
		again, err := s.Encode()
		if err != nil || string(again) != string(data) {
			t.Errorf("%q becomes %q, %v", data, again, err)
		}
		if len(data) > MaxState {
			t.Errorf("%d bytes", len(data))
		}
	})
}
