package maven

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
)

func TestParse(t *testing.T) {
	jar := artifact.Maven{Group: "org.example", Artifact: "tool", Version: "1.0", Extension: "jar"}
	for path, want := range map[string]target{
		"org/example/tool/1.0/tool-1.0.jar":      {path: jar.Path(), name: jar.Name()},
		"org/example/tool/1.0/tool-1.0.jar.sha1": {path: jar.Path(), name: jar.Name(), checksum: "sha1"},
		"org/example/tool/maven-metadata.xml": {
			path: "org/example/tool/maven-metadata.xml", metadata: true, group: "org.example", artifact: "tool",
		},
		"plugins/maven-metadata.xml.sha512": {path: "plugins/maven-metadata.xml", metadata: true, checksum: "sha512"},
		"g/a/1-SNAPSHOT/maven-metadata.xml": {path: "g/a/1-SNAPSHOT/maven-metadata.xml", metadata: true, snapshot: true},
	} {
		got, err := parse(prefix + path)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
	snapshot, err := parse(prefix + "g/a/1-SNAPSHOT/maven-metadata.xml")
	if err != nil || snapshot.pkg() != "pkg:maven/g/a@1-SNAPSHOT" {
		t.Errorf("%s, %v", snapshot.pkg(), err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("/maven2/org/example/tool/1.0/tool-1.0.jar.sha1")
	f.Add("/maven2/org/example/maven-metadata.xml")
	f.Add("/maven2/g/a/1-SNAPSHOT/maven-metadata.xml")
	f.Fuzz(func(t *testing.T, path string) {
		got, err := parse(path)
		if err != nil {
			return
		}
		back := prefix + got.path
		if got.checksum != "" {
			back += "." + got.checksum
		}
		if back != path {
			t.Errorf("%q became %q", path, back)
		}
		if strings.Contains("/"+got.path+"/", "/../") || got.path[0] == '/' {
			t.Errorf("%q leaves its folder", path)
		}
		if got.pkg().Type() != "maven" {
			t.Errorf("%q: package %q", path, got.pkg())
		}
	})
}

// TestCompareVersions is the order that the specification gives, and equal
// versions.
func TestCompareVersions(t *testing.T) {
	ordered := []string{
		"0.9", "1-alpha-1", "1-alpha2", "1-beta", "1-milestone", "1-rc", "1-snapshot", "1", "1-sp", "1-abc", "1-xyz", "1-1", "1-2",
		"1.0.1", "1.1", "1.2-alpha-6", "1.2", "1.9", "1.10", "2", "10", "20260102030405060708090",
	}
	for i, a := range ordered {
		for j, b := range ordered {
			got, want := compareVersions(a, b), 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got != want {
				t.Errorf("%s, %s: %d, want %d", a, b, got, want)
			}
		}
	}
	for _, equal := range [][]string{
		{"1", "1.0", "1.0.0", "1-0", "1.0-0", "1-ga", "1.final", "1.0.release", "01"},
		{"1-a1", "1-alpha-1", "1a1", "1-ALPHA-1"}, {"1-cr2", "1-rc2"}, {"1-b3", "1-beta-3"}, {"1-m4", "1-milestone-4"},
	} {
		for _, a := range equal {
			for _, b := range equal {
				if c := compareVersions(a, b); c != 0 {
					t.Errorf("%s, %s: %d", a, b, c)
				}
			}
		}
	}
}

func FuzzCompareVersions(f *testing.F) {
	f.Add("1.0-alpha-1", "1", "1..-")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		if compareVersions(a, a) != 0 || compareVersions(a, b) != -compareVersions(b, a) {
			t.Errorf("%q, %q: no order", a, b)
		}
		all := []string{a, b, c}
		slices.SortFunc(all, compareVersions) // must not panic
	})
}

func FuzzMetadata(f *testing.F) {
	f.Add(`<metadata><groupId>g</groupId><versioning><versions><version>1</version></versions></versioning></metadata>`)
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseMetadata([]byte(text))
		if err != nil {
			return
		}
		m.add([]string{"1.0"})
		out, err := m.format()
		if err != nil {
			return // characters that XML cannot hold
		}
		back, err := parseMetadata(out)
		if err != nil {
			t.Fatalf("%q became %q: %v", text, out, err)
		}
		if !slices.Contains(back.Versioning.Versions, "1.0") {
			t.Errorf("%q lacks the version", out)
		}
	})
}

var one = sumKey{digest: artifact.SHA256{1}}

func TestSumCacheIsBounded(t *testing.T) {
	c := newSumCache()
	for i := range maxSums + 100 {
		key := sumKey{digest: artifact.SHA256{byte(i), byte(i >> 8), byte(i >> 16)}}
		if _, err := c.get(t.Context(), key, func() (sums, error) { return sums{sha1: "x"}, nil }); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.entries) != maxSums || c.order.Len() != maxSums {
		t.Errorf("%d entries, %d in order", len(c.entries), c.order.Len())
	}
}

func TestSumCacheFailures(t *testing.T) {
	c := newSumCache()
	bad := errors.New("bad")
	if _, err := c.get(t.Context(), one, func() (sums, error) { return sums{}, bad }); !errors.Is(err, bad) {
		t.Errorf("%v", err)
	}
	if _, ok := c.has(one); ok || len(c.entries) != 0 {
		t.Error("a failure is kept")
	}
}

// TestSumCacheTakesOver: the client that computes goes away; one that waits
// computes then.
func TestSumCacheTakesOver(t *testing.T) {
	c := newSumCache()
	entered, leave := make(chan struct{}), make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		c.get(t.Context(), one, func() (sums, error) {
			close(entered)
			<-leave
			return sums{}, context.Canceled
		})
	})
	<-entered
	wait.Go(func() {
		got, err := c.get(t.Context(), one, func() (sums, error) { return sums{sha1: "x"}, nil })
		if err != nil || got.sha1 != "x" {
			t.Errorf("%v, %v", got, err)
		}
	})
	close(leave)
	wait.Wait()
}
