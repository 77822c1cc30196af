package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// built is a build whose outputs compare so with upstream's.
func built(state control.BuildState, references ...string) control.BuildDetail {
	b := control.BuildDetail{Build: control.Build{State: state, Reason: "why"}, Inputs: 7}
	for i, reference := range references {
		b.Outputs = append(b.Outputs, control.Output{Name: artifact.Name{File: string(rune('a' + i))}, Reference: reference, Members: []control.OutputVote{{Equal: state != control.Disagreed}}})
	}
	return b
}

func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		build   control.BuildDetail
		err     error
		outcome outcome
		reason  string
		equal   int
	}{
		"all as released":     {built(control.Published, "equal", "equal"), nil, reproduced, "", 2},
		"one is not":          {built(control.Published, "equal", "different"), nil, differs, "b different", 1},
		"one was not":         {built(control.Published, "absent"), nil, differs, "a absent", 0},
		"disagreed":           {built(control.Disagreed, "equal"), nil, disagreed, "a", 1},
		"failed":              {built(control.Failed), nil, failed, "why", 0},
		"expired":             {built(control.Expired), nil, failed, "why", 0},
		"compared too slowly": {built(control.Published, "equal"), errors.New("late"), failed, "late", 1},
	} {
		var r result
		r.judge(c.build, c.err)
		if r.Outcome != c.outcome || r.Reason != c.reason || r.Equal != c.equal || r.Inputs != 7 {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestDescribe(t *testing.T) {
	var r result
	r.describe(&record.Recipe{
		Builder: "pkg:docker/pyrsia/jdk17@bullseye", Environment: record.Environment{Umask: "022"},
		Sources: []record.Source{{Maven: "org.acme:x:1:source-release:zip"}, {Maven: "org.apache.maven:apache-maven:3.9.8:bin:tar.gz"}},
		Outputs: []record.Output{{Package: "pkg:maven/a/b@1", File: "b-1.jar"}, {Package: "pkg:maven/a/b@1", File: "b-1.pom"}, {Package: "pkg:maven/a/c@1", File: "c-1.pom"}},
	})
	if r.jdk() != "17" || r.Maven != "3.9.8" || r.Umask != "022" || r.Modules != 2 || r.Files != 3 || r.Clocks {
		t.Errorf("%+v", r)
	}
}

func TestPage(t *testing.T) {
	rows := []result{
		{Name: "a-1", Package: "pkg:maven/acme/a@1", JDK: "pyrsia/jdk8:sid", Outcome: reproduced, Files: 4, Equal: 4, Clocks: true, Seconds: 61},
		{Name: "a-2", Package: "pkg:maven/acme/a@2", JDK: "pyrsia/jdk17:bullseye", Outcome: reproduced, Files: 4, Equal: 4, Newline: "crlf", Umask: "022"},
		{Name: "b-1", Package: "pkg:maven/acme/b@1", JDK: "pyrsia/jdk17:bookworm", Outcome: differs, Reason: "b-1.jar\ndifferent", Causes: []string{"time"}, Clocks: true},
		{Name: "c-1", Outcome: notImported, Reason: "it runs a command"},
		{Name: "d-1", Package: "pkg:maven/acme/d@1", JDK: "pyrsia/jdk8:sid", Outcome: unavailable},
	}
	text := page(rows, "a machine", 3)
	for _, want := range []string{
		"**2 of 3 releases reproduced (66.7 %)**, of 2 projects; differs: 1. Not counted: 1 of which the Maven repository of this machine has not all inputs. 4 of 5 buildspecs were imported.", "3 more buildspecs", "Machine: a machine.",
		"| 8 | 1 | 1 |\n| 17 | 2 | 1 |\n", "| `acme/a@1` | 8 |", "| 1m1s | reproduced |\n", "| 022, crlf |", "| reproduced ¹ |\n", "\n¹ ",
		"- `acme/b@1` differs: b-1.jar different\n  - time\n", "- `c-1` not imported: it runs a command\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if text := page(rows[:1], "", 0); strings.Contains(text, "¹") || strings.Contains(text, "What did not") || !strings.Contains(text, "(100.0 %)") {
		t.Errorf("of one that is good:\n%s", text)
	}
}

// TestReadLog: what a build fails for is told from the log, and a file that nobody has from
// one that it goes on without.
func TestReadLog(t *testing.T) {
	const failure = "   [ERROR] Failed to execute goal on project x: Could not resolve dependencies: Could not find artifact org.acme:tool:jar:1.0 in pyrsia (http://mirror)\n"
	for name, c := range map[string]struct{ log, missing string }{
		"missing":       {failure + "not served: org/acme/tool/1.0/tool-1.0.jar: upstream has no such file\n", "org/acme/tool/1.0/tool-1.0.jar"},
		"another":       {failure + "not served: org/acme/other/1.0/other-1.0.jar: upstream has no such file\n", ""},
		"a list":        {failure + "not served: org/acme/tool/maven-metadata.xml: a version range\n", ""},
		"went on":       {"not served: org/acme/tool/1.0/tool-1.0.jar: upstream has no such file\n", ""},
		"of a compiler": {"   [ERROR] Failed to execute goal compile: x\n   [ERROR] Failed to execute goal compile: x\n", ""},
	} {
		r := readLog(strings.NewReader(c.log))
		if r.missing() != c.missing {
			t.Errorf("%s: %q is missing, want %q", name, r.missing(), c.missing)
		}
		if name == "of a compiler" && (len(r.errors) != 1 || r.errors[0] != "Failed to execute goal compile: x") {
			t.Errorf("%q", r.errors)
		}
	}
}

// TestResults: rows outlive the driver, a newer one replaces the older, and what failed is
// tried again.
func TestResults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results.json")
	r, err := readResults(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []result{{Name: "b", Package: "pkg:maven/b/b@1", Outcome: failed}, {Name: "a", Package: "pkg:maven/a/a@1", Outcome: failed}, {Name: "a", Package: "pkg:maven/a/a@1", Outcome: differs}} {
		if err := r.add(row); err != nil {
			t.Fatal(err)
		}
	}
	again, err := readResults(path)
	if err != nil || len(again.rows) != 2 || again.rows[0].Name != "a" || !again.has("a") || again.has("b") || again.has("c") {
		t.Errorf("%+v, %v", again.rows, err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readResults(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a damaged file: %v", err)
	}
}
