package mirror

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/durable"
)

func line(path string, digest byte) Passed {
	return Passed{
		Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Ecosystem: "maven", Path: path,
		Upstream: "https://upstream.example", SHA256: artifact.SHA256{digest}, Size: 7,
	}
}

func reopen(t *testing.T, folder string, damaged int) *journal {
	t.Helper()
	j, n, err := openJournal(durable.OS(true), folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.close() })
	if n != damaged {
		t.Errorf("%d damaged lines, want %d", n, damaged)
	}
	return j
}

func TestJournalKeepsTheLastLineOfAPath(t *testing.T) {
	folder := t.TempDir()
	j := reopen(t, folder, 0)
	for _, rec := range []Passed{line("a", 1), line("b", 2), line("a", 3)} {
		if err := j.append(rec); err != nil {
			t.Fatal(err)
		}
	}
	for _, j := range []*journal{j, reopen(t, folder, 0)} {
		for path, digest := range map[string]byte{"a": 3, "b": 2} {
			if rec, ok := j.byPathOf("maven", path); !ok || rec != line(path, digest) {
				t.Errorf("%s: %+v, %t", path, rec, ok)
			}
		}
		if _, ok := j.byPathOf("docker", "a"); ok {
			t.Error("a path of another ecosystem was found")
		}
		if rec, ok := j.byDigestOf(artifact.SHA256{1}); !ok || rec != line("a", 1) {
			t.Errorf("by digest: %+v, %t", rec, ok)
		}
	}
}

// TestJournalAfterACrash cuts the file at every byte: what was whole is found,
// what was torn is gone, and the next line can be written.
func TestJournalAfterACrash(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, JournalName)
	j := reopen(t, folder, 0)
	for i := range 3 {
		if err := j.append(line(fmt.Sprint(i), byte(i))); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range whole {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j := reopen(t, folder, 0)
		lines := strings.Count(string(whole[:cut]), "\n")
		for i := range 3 {
			if _, ok := j.byPathOf("maven", fmt.Sprint(i)); ok != (i < lines) {
				t.Fatalf("cut at %d: line %d found: %t", cut, i, ok)
			}
		}
		if err := j.append(line("new", 9)); err != nil {
			t.Fatal(err)
		}
		j.close()
		if _, ok := reopen(t, folder, 0).byPathOf("maven", "new"); !ok {
			t.Fatalf("cut at %d: the next line is lost", cut)
		}
	}
}

func TestJournalSkipsDamagedLines(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, JournalName)
	j := reopen(t, folder, 0)
	for i := range 3 {
		if err := j.append(line(fmt.Sprint(i), byte(i))); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	j = reopen(t, folder, 1)
	for i := range 3 {
		if _, ok := j.byPathOf("maven", fmt.Sprint(i)); ok != (i != 1) {
			t.Errorf("line %d found: %t", i, ok)
		}
	}
}

func TestJournalWritersMeet(t *testing.T) {
	folder := t.TempDir()
	j := reopen(t, folder, 0)
	var wait sync.WaitGroup
	for i := range 100 {
		wait.Go(func() {
			if err := j.append(line(fmt.Sprint(i), byte(i))); err != nil {
				t.Error(err)
			}
			if _, ok := j.byPathOf("maven", fmt.Sprint(i)); !ok {
				t.Errorf("line %d is not found", i)
			}
		})
	}
	wait.Wait()
	again := reopen(t, folder, 0)
	for i := range 100 {
		if rec, ok := again.byPathOf("maven", fmt.Sprint(i)); !ok || rec != line(fmt.Sprint(i), byte(i)) {
			t.Errorf("line %d: %+v", i, rec)
		}
	}
}

// TestJournalThatCannotSync: once nobody knows what the disk holds, nothing
// more is announced.
func TestJournalThatCannotSync(t *testing.T) {
	j := reopen(t, t.TempDir(), 0)
	j.file.Close()
	for range 2 {
		if err := j.append(line("a", 1)); err == nil {
			t.Error("a line was promised without a file")
		}
	}
	if _, ok := j.byPathOf("maven", "a"); ok {
		t.Error("a line was found without a file")
	}
}

func TestJournalLineIsBounded(t *testing.T) {
	j := reopen(t, t.TempDir(), 0)
	if err := j.append(line(strings.Repeat("a", maxLine), 1)); err == nil {
		t.Error("no error")
	}
}

func FuzzJournalLine(f *testing.F) {
	good, _ := formatLine(line("a/b", 1))
	f.Add(string(good))
	f.Add("00000000 {}\n")
	f.Fuzz(func(t *testing.T, text string) {
		rec, err := parseLine([]byte(text))
		if err != nil {
			return
		}
		again, err := formatLine(rec)
		if err != nil {
			return // a time or text that JSON takes and does not write
		}
		if back, err := parseLine(again); err != nil || !back.Time.Equal(rec.Time) || back.Path != rec.Path || back.SHA256 != rec.SHA256 {
			t.Errorf("%q became %q: %v", text, again, err)
		}
	})
}

func TestGlob(t *testing.T) {
	for _, test := range []struct {
		pattern, text string
		want          bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"*", "a/b:c", true},
		{"acme/*", "acme/x", true}, {"acme/*", "acme/x/y:1", true}, {"acme/*", "acme", false},
		{"a*b*c", "aXbYc", true}, {"a*b*c", "abc", true}, {"a*b*c", "acb", false},
		{"*x", "xxxx", true}, {"*xy", "xxxx", false}, {"x**", "x", true},
	} {
		if got := glob(test.pattern, test.text); got != test.want {
			t.Errorf("glob(%q, %q) = %t", test.pattern, test.text, got)
		}
	}
}

func FuzzGlob(f *testing.F) {
	f.Add("a*b*", "aabb")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) > 100 || len(text) > 100 || !utf8.ValidString(pattern) || !utf8.ValidString(text) {
			t.Skip()
		}
		quoted := strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `(?s:.*)`)
		if want := regexp.MustCompile(`\A` + quoted + `\z`).MatchString(text); glob(pattern, text) != want {
			t.Errorf("glob(%q, %q) = %t", pattern, text, !want)
		}
	})
}

func TestDeclared(t *testing.T) {
	image := artifact.DockerPURL("library/debian", "13-slim")
	pinned := artifact.DockerPURL("library/debian", "sha256:"+strings.Repeat("0", 64))
	jar := artifact.NewPURL("maven", "org.apache.commons", "commons-io", "2.1", nil)
	for _, test := range []struct {
		pattern string
		pkg     artifact.PURL
		want    bool
	}{
		{"library/debian:13-slim", image, true}, {"library/debian:12", image, false}, {"library/debian", image, true},
		{"library/*", image, true}, {"debian:13-slim", image, false}, {"library/debian", pinned, true},
		{"org.apache.commons:*", jar, true}, {"org.apache.commons:commons-io", jar, true},
		{"org.apache.commons:commons-io:2.1", jar, true}, {"org.apache.commons:commons-io:2.2", jar, false},
		{"org.apache:*", jar, false}, {"*", jar, true},
	} {
		if got := (Ecosystem{Packages: []string{test.pattern}}).declares(test.pkg); got != test.want {
			t.Errorf("%q declares %s: %t", test.pattern, test.pkg, got)
		}
	}
}

func TestExpiringIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExpiring(10)
		for i := range 10 {
			e.hold(fmt.Sprint(i), time.Minute)
		}
		if !e.holds("0") {
			t.Error("forgot early")
		}
		time.Sleep(2 * time.Minute)
		if e.holds("0") {
			t.Error("remembers too long")
		}
		e.hold("x", time.Minute)
		if len(e.ends) != 1 {
			t.Errorf("%d entries are left", len(e.ends))
		}
		for i := range 100 {
			e.hold(fmt.Sprint(i), time.Minute)
		}
		if len(e.ends) > 10 {
			t.Errorf("%d entries", len(e.ends))
		}
	})
}
