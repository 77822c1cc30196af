package debian

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestCompare(t *testing.T) {
	// Each is older than the next.
	order := []string{
		"~", "~~a", "~1", "", "0.1~", "0.1~~0", "0.1", "0.1a", "0.1+b", "0.1-1", "0.1.0-1", "0.2~rc1-1", "0.2-1", "0.2-1+b1",
		"0.2-1.1", "0.2-2", "0.10", "1.0~beta1~svc1245", "1.0~beta1", "1.0", "2.0a", "2.0-a-1", "1:0.1", "2:0",
	}
	slices.SortFunc(order, Compare) // of the list's own order only the pairs below are promised
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"1.0", "1.0", 0}, {"1.0", "1.00", 0}, {"1.0-0", "1.0", 0}, {"0:1.0", "1.0", 0}, {"1.0-1", "1.0-01", 0},
		{"1.0~rc1", "1.0", -1}, {"1.0~", "1.0~~", 1}, {"1.0", "1.0a", -1}, {"1.0a", "1.0+", -1}, {"1.0.", "1.0a", 1},
		{"1.9", "1.10", -1}, {"1:0", "9", 1}, {"9:1", "10:0", -1}, {"1.0-1", "1.0-1.1", -1}, {"1.0-1-1", "1.0-2", 1},
		{"21.0.5+11-1", "21.0.5+11-1~deb13u1", 1}, {"21.0.5+11-1~deb13u1", "21.0.4", 1},
		{"1234567890123456789012", "1234567890123456789013", -1}, {"2.41-12+deb13u1", "2.41-12", 1},
		{"a", "1", 1}, {"1-", "1", 0},
	} {
		if got := signOf(Compare(c.a, c.b)); got != c.want {
			t.Errorf("Compare(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
		if got := signOf(Compare(c.b, c.a)); got != -c.want {
			t.Errorf("Compare(%q, %q) = %d, want %d", c.b, c.a, got, -c.want)
		}
	}
	for i := range order {
		for j := range order {
			if got, want := signOf(Compare(order[i], order[j])), signOf(i-j); got != want && Compare(order[i], order[j]) != 0 {
				t.Errorf("Compare(%q, %q) = %d, want %d: no order", order[i], order[j], got, want)
			}
		}
	}
}

func signOf(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

func TestParseRelations(t *testing.T) {
	for in, want := range map[string]string{
		"":                               "",
		"a":                              "a",
		"a,":                             "a",
		"libc6 (>= 2.39), b":             "libc6 (>= 2.39), b",
		"libc6(>=2.39)|  c6 ,\n x:any":   "libc6 (>= 2.39) | c6, x:any",
		"perl:any (>> 1:5~)":             "perl:any (>> 1:5~)",
		"a (= 1) | b (<< 2) | c (<= 3)":  "a (= 1) | b (<< 2) | c (<= 3)",
		"g++ (>= 4:14), libstdc++6, 0ad": "g++ (>= 4:14), libstdc++6, 0ad",
	} {
		clauses, err := ParseRelations(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
		}
		if got := FormatRelations(clauses); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	for _, in := range []string{",", "a,,b", "a |", "| a", "A", "a (> 1)", "a (= )", "a (=1", "a [amd64]", "a <!nocheck>", "a b", "a (= 1) (= 2)", "a;b", "a:(= 1)"} {
		if clauses, err := ParseRelations(in); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v, %v; want ErrMalformed", in, clauses, err)
		}
	}
}

// describe makes a Packages file of lines "name version field: value; …".
func describe(lines ...string) string {
	var b strings.Builder
	for _, line := range lines {
		head, fields, _ := strings.Cut(line, " | ")
		name, version, _ := strings.Cut(head, " ")
		fmt.Fprintf(&b, "Package: %s\nVersion: %s\nArchitecture: amd64\nFilename: pool/%s_%s.deb\nSize: 1\nSHA256: %064d\n", name, version, name, version, len(line))
		for _, field := range strings.Split(fields, "; ") {
			if field != "" {
				b.WriteString(field + "\n")
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

func index(t testing.TB, lines ...string) *Index {
	t.Helper()
	x := NewIndex("amd64")
	if err := x.Add(strings.NewReader(describe(lines...))); err != nil {
		t.Fatal(err)
	}
	return x
}

func TestClose(t *testing.T) {
	for name, c := range map[string]struct {
		packages []string
		roots    string
		want     string
		fails    string
	}{
		"alone":                           {[]string{"a 1"}, "a", "a", ""},
		"chain":                           {[]string{"a 1 | Depends: b", "b 1 | Pre-Depends: c", "c 1", "d 1"}, "a", "a b c", ""},
		"circle":                          {[]string{"a 1 | Depends: b", "b 1 | Depends: a"}, "a", "a b", ""},
		"recommends":                      {[]string{"a 1 | Recommends: b", "b 1"}, "a", "a", ""},
		"first of alternatives":           {[]string{"a 1 | Depends: b | c", "b 1", "c 1"}, "a", "a b", ""},
		"first that can be had":           {[]string{"a 1 | Depends: b (>= 2) | x | c", "b 1", "c 1"}, "a", "a c", ""},
		"one that is a member anyway":     {[]string{"a 1 | Depends: b | c, d", "b 1", "c 1", "d 1 | Depends: c"}, "a", "a c d", ""},
		"one that another choice brings":  {[]string{"a 1 | Depends: b | c, d | e", "b 1", "c 1", "d 1 | Depends: c", "e 1"}, "a", "a b c d", ""},
		"real before provided":            {[]string{"a 1 | Depends: b", "b 1", "c 1 | Provides: b"}, "a", "a b", ""},
		"provided where the real is old":  {[]string{"a 1 | Depends: b (>= 2)", "b 1", "c 1 | Provides: b (= 2)"}, "a", "a c", ""},
		"provided without a version":      {[]string{"a 1 | Depends: b (>= 2)", "c 1 | Provides: b"}, "a", "", `a 1 depends on "b (>= 2)"`},
		"provider by priority":            {[]string{"a 1 | Depends: v", "b 1 | Provides: v; Priority: optional", "c 1 | Provides: v; Priority: standard"}, "a", "a c", ""},
		"provider by name":                {[]string{"a 1 | Depends: v", "c 1 | Provides: v", "b 1 | Provides: v"}, "a", "a b", ""},
		"provider that is a member":       {[]string{"a 1 | Depends: v, c", "b 1 | Provides: v", "c 1 | Provides: v"}, "a", "a c", ""},
		"newest version":                  {[]string{"a 1 | Depends: b (>= 2)", "b 1", "b 2", "b 1.5"}, "a", "a b", ""},
		"any architecture":                {[]string{"a 1 | Depends: b:any, c:amd64", "b 1", "c 1"}, "a", "a b c", ""},
		"another architecture":            {[]string{"a 1 | Depends: b:i386", "b 1"}, "a", "", `depends on "b:i386"`},
		"missing":                         {[]string{"a 1 | Depends: b"}, "a", "", `a 1 depends on "b"`},
		"too old":                         {[]string{"a 1 | Depends: b (>> 1)", "b 1"}, "a", "", `a 1 depends on "b (>> 1)"`},
		"missing deep down":               {[]string{"a 1 | Depends: b | c", "b 1 | Depends: x", "c 1"}, "a", "", `b 1 depends on "x"`},
		"unknown root":                    {[]string{"a 1"}, "b", "", `no package "b"`},
		"malformed relation":              {[]string{"a 1 | Depends: b [amd64]", "b 1"}, "a", "", "a: malformed"},
		"no longer provided by the newer": {[]string{"a 1 | Depends: v", "b 1 | Provides: v", "b 2", "c 1 | Provides: v"}, "a", "a c", ""},
	} {
		t.Run(name, func(t *testing.T) {
			forward := index(t, c.packages...)
			slices.Reverse(c.packages)
			for _, x := range []*Index{forward, index(t, c.packages...)} {
				closure, err := x.Close(strings.Fields(c.roots))
				if c.fails != "" {
					if err == nil || !strings.Contains(err.Error(), c.fails) {
						t.Fatalf("error %v, want %q", err, c.fails)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				var names []string
				for _, p := range closure.Packages {
					names = append(names, p.Name)
				}
				if got := strings.Join(names, " "); got != c.want {
					t.Errorf("closure %q, want %q", got, c.want)
				}
			}
		})
	}
}

func TestCloseNotesConflicts(t *testing.T) {
	x := index(t, "a 1 | Depends: b, c", "b 1 | Conflicts: c, z; Provides: v; Breaks: v", "c 1 | Breaks: b (<< 1)", "z 1")
	closure, err := x.Close([]string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"b conflicts with c, which is in the closure"}; !slices.Equal(closure.Notes, want) {
		t.Errorf("notes %q, want %q", closure.Notes, want)
	}
}

func TestBase(t *testing.T) {
	x := index(t, "e 1 | Essential: yes", "r 1 | Priority: required", "i 1 | Priority: important", "s 1 | Priority: standard", "n 1", "apt 1")
	for variant, want := range map[string]string{
		"custom": "", "extract": "", "essential": "e", "apt": "apt e", "required": "apt e r", "minbase": "apt e r",
		"buildd": "apt build-essential e r", "important": "apt e i r",
	} {
		names, err := x.Base(variant)
		if got := strings.Join(names, " "); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", variant, got, err, want)
		}
	}
	if len(Variants()) != 8 {
		t.Errorf("variants %v", Variants())
	}
	if _, err := x.Base("minbased"); !errors.Is(err, ErrMalformed) {
		t.Errorf("unknown variant: %v", err)
	}
}

func TestIndexRefuses(t *testing.T) {
	good := describe("a 1")
	for name, text := range map[string]string{
		"no field":           "Package a\n",
		"continuation first": " x\n",
		"field twice":        strings.Replace(good, "Size: 1", "Size: 1\nSize: 2", 1),
		"bad name":           strings.Replace(good, "Package: a", "Package: A/B", 1),
		"bad version":        strings.Replace(good, "Version: 1", "Version: 1 2", 1),
		"no file":            strings.Replace(good, "Filename: pool/a_1.deb\n", "", 1),
		"path that leaves":   strings.Replace(good, "pool/", "pool/../../", 1),
		"absolute path":      strings.Replace(good, "pool/", "/pool/", 1),
		"negative size":      strings.Replace(good, "Size: 1", "Size: -1", 1),
		"no size":            strings.Replace(good, "Size: 1", "Size: x", 1),
		"bad digest":         strings.Replace(good, "SHA256: 0", "SHA256: g", 1),
		"two digests":        good + strings.Replace(good, "SHA256: 0", "SHA256: 1", 1),
		"long line":          "Description: " + strings.Repeat("x", maxLine) + "\n" + good,
		"bad provides":       describe("a 1 | Provides: b (!)"),
	} {
		if err := NewIndex("amd64").Add(strings.NewReader(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
	x := NewIndex("amd64")
	if err := x.Add(strings.NewReader(good + good + strings.ReplaceAll(describe("b 1"), "amd64", "arm64"))); err != nil || x.Len() != 1 {
		t.Errorf("%d packages, %v; want the one of this architecture", x.Len(), err)
	}
}

func TestAddGzip(t *testing.T) {
	text := describe("a 1", "b 1")
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := NewIndex("amd64").AddGzip(bytes.NewReader(packed.Bytes()), int64(len(text))); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"bomb":    NewIndex("amd64").AddGzip(bytes.NewReader(packed.Bytes()), int64(len(text))-1),
		"cut":     NewIndex("amd64").AddGzip(bytes.NewReader(packed.Bytes()[:packed.Len()-9]), 1<<20),
		"no gz":   NewIndex("amd64").AddGzip(strings.NewReader(text), 1<<20),
		"nothing": NewIndex("amd64").AddGzip(strings.NewReader(""), 1<<20),
	} {
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
}

const digest = "03820ab800fd58fc3b1a9d07799de4060002f249d4783135765857fd3163fa09"

func TestParseRelease(t *testing.T) {
	r, err := ParseRelease([]byte("Suite: stable\nCodename: trixie\nAcquire-By-Hash: yes\nMD5Sum:\n x 1 y\nSHA256:\n " + digest + "  12 main/binary-amd64/Packages\n"))
	if err != nil {
		t.Fatal(err)
	}
	if !r.Is("trixie") || !r.Is("stable") || r.Is("sid") || r.Is("") || !r.ByHash || r.Files["main/binary-amd64/Packages"].Size != 12 {
		t.Errorf("release %+v", r)
	}
	for name, text := range map[string]string{
		"empty":          "",
		"no list":        "Suite: stable\n",
		"two paragraphs": "SHA256:\n " + digest + " 1 a\n\nSHA256:\n " + digest + " 1 b\n",
		"file twice":     "SHA256:\n " + digest + " 1 a\n " + digest + " 1 a\n",
		"bad digest":     "SHA256:\n 00 1 a\n",
		"bad size":       "SHA256:\n " + digest + " -1 a\n",
		"bad path":       "SHA256:\n " + digest + " 1 ../a\n",
		"two fields":     "SHA256:\n " + digest + " 1\n",
	} {
		if _, err := ParseRelease([]byte(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
}

// TestLongFields: continuation lines cost what they are long, and have a bound together.
func TestLongFields(t *testing.T) {
	all := func(string) bool { return true }
	lines := strings.Repeat(" x\n", 400_000)
	var got string
	err := eachParagraph(strings.NewReader("A: y\n"+lines+"B: z\n\nA: second\n"), all, func(fields map[string]string) error {
		if got == "" {
			got = fields["A"] + "|" + fields["B"]
		} else if fields["A"] != "second" || len(fields) != 1 {
			t.Errorf("the second paragraph has %.100v", fields)
		}
		return nil
	})
	if want := "y" + strings.Repeat("\nx", 400_000) + "|z"; err != nil || got != want {
		t.Errorf("%d bytes instead of %d, %v", len(got), len(want), err)
	}
	for _, text := range []string{
		"A: y\n" + strings.Repeat(" "+strings.Repeat("x", 1000)+"\n", maxParagraph/1000),
		"A: y\n" + strings.Repeat(" x\n", maxParagraph/2),
	} {
		if err := eachParagraph(strings.NewReader(text), all, func(map[string]string) error { return nil }); !errors.Is(err, ErrMalformed) {
			t.Errorf("a paragraph of %d bytes: %v", len(text), err)
		}
	}
	// What nobody asked for is not kept.
	none := func(string) bool { return false }
	if err := eachParagraph(strings.NewReader("A: y\n"+strings.Repeat(" x\n", maxParagraph/2)), none, func(map[string]string) error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestArchitecture(t *testing.T) {
	for platform, want := range map[string]string{"linux/amd64": "amd64", "linux/arm64": "arm64", "linux/arm/v7": "armhf", "linux/ppc64le": "ppc64el", "linux/386": "i386", "linux/riscv64": "riscv64", "linux/s390x": "s390x"} {
		if got, err := Architecture(platform); got != want || err != nil {
			t.Errorf("%s: %s, %v", platform, got, err)
		}
	}
	if _, err := Architecture("windows/amd64"); err == nil {
		t.Error("windows/amd64 has an architecture")
	}
}

func FuzzCompare(f *testing.F) {
	f.Add("1:1.0~rc1-1", "1.0", "2")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		if signOf(Compare(a, b)) != -signOf(Compare(b, a)) || Compare(a, a) != 0 {
			t.Errorf("Compare of %q and %q is not antisymmetric", a, b)
		}
		if Compare(a, b) <= 0 && Compare(b, c) <= 0 && Compare(a, c) > 0 {
			t.Errorf("Compare of %q, %q, %q is not transitive", a, b, c)
		}
	})
}

func FuzzRelations(f *testing.F) {
	f.Add("libc6 (>= 2.39) | c6, x:any")
	f.Fuzz(func(t *testing.T, s string) {
		clauses, err := ParseRelations(s)
		if err != nil {
			return
		}
		text := FormatRelations(clauses)
		again, err := ParseRelations(text)
		if err != nil || FormatRelations(again) != text {
			t.Errorf("%q → %q → %q, %v", s, text, FormatRelations(again), err)
		}
	})
}

func FuzzRelease(f *testing.F) {
	f.Add([]byte("Suite: stable\nSHA256:\n " + digest + " 1 a\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRelease(text)
		if (r == nil) == (err == nil) {
			t.Errorf("release %v, error %v", r, err)
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(describe("a 1 | Depends: b | c; Provides: v (= 2)", "b 1 | Essential: yes", "c 2 | Depends: v (>= 1)")))
	f.Fuzz(func(t *testing.T, text []byte) {
		x := NewIndex("amd64")
		if x.Add(bytes.NewReader(text)) != nil {
			return
		}
		for name := range x.packages {
			closure, err := x.Close([]string{name})
			if err != nil {
				continue
			}
			if len(closure.Packages) == 0 || len(closure.Packages) > x.Len() {
				t.Errorf("closure of %q has %d of %d packages", name, len(closure.Packages), x.Len())
			}
		}
	})
}
