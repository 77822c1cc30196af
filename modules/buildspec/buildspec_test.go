package buildspec

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want map[string]string
	}{
		"plain":          {"a=1\nb=two\n", map[string]string{"a": "1", "b": "two"}},
		"quotes":         {"a='1 2'\nb=\"3 ${a}\"\nc=x\"y\"'z'", map[string]string{"a": "1 2", "b": "3 1 2", "c": "xyz"}},
		"references":     {"a=x\nb=${a}-1\nc=$b.zip\nd=${b//-/_}\ne=${none:-y}", map[string]string{"b": "x-1", "c": "x-1.zip", "d": "x_1", "e": "y"}},
		"comments":       {"# all of it\na=1 # uh\n#b=2\n", map[string]string{"a": "1", "b": ""}},
		"continued":      {"a=\"x \\\n y\"\n", map[string]string{"a": "x  y"}},
		"windows":        {"a=1\r\nb=${a}2\r\n", map[string]string{"a": "1", "b": "12"}},
		"empty":          {"a=\nb=\"\"\nc=''\n", map[string]string{"a": "", "b": "", "c": ""}},
		"twice":          {"a=1\na=2\n", map[string]string{"a": "2"}},
		"appended":       {"a=1\na+=2\n", map[string]string{"a": "12"}},
		"exported after": {"b=1\nexport b\nexport c=2", map[string]string{"b": "1", "c": "2"}},
		"exported":       {"export a=1\nexport b=2 c=3", map[string]string{"a": "1", "c": "3"}},
		"on one line":    {"a=1 b=2; c=3", map[string]string{"a": "1", "b": "2", "c": "3"}},
		"tr":             {"a=org.acme.x\nb=https://git.example/$(echo ${a} | tr '.' '-').git", map[string]string{"b": "https://git.example/org-acme-x.git"}},
		"tr backquoted":  {"a=o.x\nb=`echo $a | tr . /`", map[string]string{"b": "o/x"}},
		"tr deletes":     {"a=1.2\nb=$(echo $a | tr -d .)", map[string]string{"b": "12"}},
		"tr of many":     {"a=1.2_3\nb=$(echo $a | tr ._ ab)", map[string]string{"b": "1a2b3"}},
		"nested":         {"a=x.y\nb=\"$(echo \"${a}\" | tr '.' '_')\"", map[string]string{"b": "x_y"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Parse([]byte(c.text), "x.buildspec")
			if err != nil {
				t.Fatal(err)
			}
			for variable, want := range c.want {
				if got, err := s.Get(variable); got != want || err != nil {
					t.Errorf("%s is %q, %v; want %q", variable, got, err, want)
				}
			}
		})
	}
}

// TestNothingRuns: whatever would take a program to know is an error that names the
// line, and the programs would leave a trace.
func TestNothingRuns(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, c := range map[string]struct{ text, says string }{
		"command":            {"a=1\ntouch trace\n", "x.buildspec:2: no buildspec: the line runs a command"},
		"assignment for one": {"a=1 touch trace\n", "x.buildspec:1"},
		"if":                 {"if true; then a=1; fi\n", "x.buildspec:1"},
		"function":           {"f() { touch trace; }\na=1\n", "x.buildspec:1"},
		"loop":               {"while :; do a=1; done\n", "x.buildspec:1"},
		"background":         {"a=1 &\n", "x.buildspec:1"},
		"redirection":        {"a=1\n> trace\n", "x.buildspec:2"},
		"redirected":         {"a=1 > trace\n", "x.buildspec:1"},
		"list":               {"a=(1 2)\n", "x.buildspec:1"},
		"eval":               {"eval a=1\n", "x.buildspec:1"},
		"source":             {". /etc/profile\n", "x.buildspec:1"},
		"let":                {"let a=1\n", "x.buildspec:1"},
		"declare":            {"declare -x a=1\n", "x.buildspec:1"},
		"nothing":            {"# nothing\n", "sets no variables"},
		"syntax":             {"a='1\n", "x.buildspec:1"},
		"binary":             {"\x00\x01\x02", "no buildspec"},
		"brackets":           {strings.Repeat("(", 30_000), "more than 50 brackets"},
		"arithmetic":         {"a=$((" + strings.Repeat("(", 30_000), "more than 50 brackets"},
		"braces":             {"a=" + strings.Repeat("${b:-", 5_000), "more than 50 brackets"},
		"backquotes":         {"a=" + strings.Repeat("\\`", 10_000), "more than 50 brackets"},
		"too many":           {many(), "more than 500 variables"},
		"too long":           {"a=" + strings.Repeat("x", MaxFile), "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(c.text), "x.buildspec")
			if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v; want %q", err, c.says)
			}
		})
	}
	for name, text := range map[string]string{
		"substitution":               "b=1\na=$(touch trace)",
		"in backquotes":              "b=1\na=`touch trace`",
		"in a default":               "b=1\na=${c:-$(touch trace)}",
		"process substitution":       "b=1\na=<(touch trace)",
		"assigning default":          "b=1\na=${c:=2}",
		"demanding":                  "b=1\na=${c:?touch trace}",
		"sed":                        "b=1\na=$(echo $b | sed s/1/2/)",
		"echo into a file":           "b=1\na=$(echo 1 > trace)",
		"tr of a range":              "b=1\na=$(echo $b | tr a-z A-Z)",
		"two commands":               "b=1\na=$(echo 1; touch trace)",
		"what is unknown":            "b=1\nc=$(date)\na=x$c",
		"arithmetic on it":           "b=1\na=$((1/0))",
		"doubling":                   "b=1\nx=x\n" + strings.Repeat("x=$x$x$x$x\n", 40) + "a=$x",
		"many of one":                "b=1\nx=" + strings.Repeat("y", 10_000) + "\na=\"" + strings.Repeat("$x", 5_000) + "\"",
		"replacing each":             "b=1\nx=" + strings.Repeat("y", 1000) + "\na=${x//y/$x}",
		"replacing in what replaces": "b=1\nx=aaaaaaaa\na=" + strings.Repeat("${x//a/", 7) + "b" + strings.Repeat("}", 7),
		"many of what is pointed at": "b=1\nx=" + strings.Repeat("y", 10_000) + "\np=x\na=\"" + strings.Repeat("${!p}", 2_000) + "\"",
		"a large pattern":            "b=1\nx=" + strings.Repeat("y", 10_000) + "\na=${x%%y*y}",
		"a home folder":              "b=1\na=~root/x",
		"tr beyond ASCII":            "b=1\na=$(echo ab | tr ab é)",
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Parse([]byte(text), "x.buildspec")
			if err != nil {
				t.Fatal(err)
			}
			if got, err := s.Get("b"); got != "1" || err != nil {
				t.Errorf("b is %q, %v", got, err)
			}
			if got, err := s.Get("a"); got != "" || err == nil || !strings.Contains(err.Error(), "x.buildspec:") {
				t.Errorf("a is %q, %v", got, err)
			}
		})
	}
	if left, err := os.ReadDir("."); err != nil || len(left) > 0 {
		t.Errorf("something ran: %v, %v", left, err)
	}
}

func many() string {
	var b strings.Builder
	for i := range 600 {
		b.WriteString("v")
		b.WriteString(strings.Repeat("x", i/26))
		b.WriteByte(byte('a' + i%26))
		b.WriteString("=1\n")
	}
	return b.String()
}

func TestExpected(t *testing.T) {
	digest := strings.Repeat("ab", 64)
	e, err := ParseBuildinfo([]byte(`buildinfo.version=1.0-SNAPSHOT
java.version=17
outputs.0.groupId=org.acme
outputs.0.filename=thing-1.0.pom
outputs.0.length=12
outputs.0.checksums.sha512=`+digest+`
outputs.1.coordinates=org.acme:part
outputs.1.0.groupId=org.acme
outputs.1.0.filename=part-1.0.jar
outputs.1.0.checksums.sha512=`+strings.ToUpper(digest)+`
outputs.2.filename=no-digest.jar
`), "x.buildinfo")
	if err != nil || len(e.Outputs) != 2 || e.Outputs[0].File != "thing-1.0.pom" || e.Outputs[1] != (Output{"org.acme", "part-1.0.jar", digest}) {
		t.Fatalf("%+v, %v", e, err)
	}
	if err := e.ParseBuildcompare([]byte("version=1.0\nok=1\nko=1\nokFiles=\"thing-1.0.pom\"\nkoFiles=\"part-1.0.jar\"\n"), "x.buildcompare"); err != nil || len(e.Different) != 1 {
		t.Errorf("%v, %v", e.Different, err)
	}
	for _, bad := range []string{"outputs.0.filename=../x", "outputs.0.filename=a/b", "outputs.0.checksums.sha512=abc"} {
		if _, err := ParseBuildinfo([]byte(bad), "x.buildinfo"); err == nil || !strings.Contains(err.Error(), "x.buildinfo:1") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if err := e.ParseBuildcompare([]byte("rm -rf x"), "x.buildcompare"); err == nil {
		t.Error("a command is taken")
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"a=1\nb=${a}\n", "b=$(echo ${a} | tr '.' '-')", "export a=1", "a=${b:=c}${d//x/y}", "a=$((1+1))", "a+=x\n", "a=\"\\\n\""} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data, "f")
		if (s == nil) == (err == nil) {
			t.Fatal(s, err)
		}
		if err != nil {
			return
		}
		for name := range s.values {
			if text, err := s.Get(name); len(text) > maxValue || err != nil && text != "" {
				t.Errorf("%s: %d bytes, %v", name, len(text), err)
			}
		}
	})
}
