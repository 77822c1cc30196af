package artifact

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestParsePURL(t *testing.T) {
	for _, s := range []string{
		"pkg:maven/org.codehaus.plexus/plexus-archiver@4.10.2",
		"pkg:docker/pyrsia/jdk21-maven@3.9.11",
		"pkg:docker/debian@sha256:0000000000000000000000000000000000000000000000000000000000000000",
		"pkg:generic/a@1?os=linux",
		"pkg:generic/a",
		"pkg:docker/registry.example/a/b/c@latest",
	} {
		p, err := ParsePURL(s)
		if err != nil || string(p) != s {
			t.Errorf("%s: %q, %v", s, p, err)
		}
	}
	for _, s := range []string{
		"", "pkg:", "maven/a/b@1", "pkg:maven/a/b@1#sub", "pkg:generic/a#b", "PKG:generic/a", "pkg:Generic/a",
		"pkg:generic//a", "pkg:generic/a@", "pkg:generic/a?b=1&a=1", "pkg:docker/a@sha256%3Aaa", "pkg:generic/a b",
		"pkg:generic/" + strings.Repeat("a", MaxPURL),
	} {
		if p, err := ParsePURL(s); !errors.Is(err, ErrMalformed) {
			t.Errorf("%.60q is read as %.60q, %v", s, p, err)
		}
	}
}

func TestPURLParts(t *testing.T) {
	p := DockerPURL("library/debian", "13-slim")
	if p != "pkg:docker/library/debian@13-slim" || p.Type() != "docker" || p.Repository() != "library/debian" || p.Version() != "13-slim" {
		t.Errorf("%s: %s %s %s", p, p.Type(), p.Repository(), p.Version())
	}
	if p := DockerPURL("debian", "13"); p.Repository() != "debian" || p.Namespace() != "" || p.Name() != "debian" {
		t.Errorf("%s: %s", p, p.Repository())
	}
	if p := NewPURL("generic", "", "a", "1", map[string]string{"b": "2", "a": "1"}); p != "pkg:generic/a@1?a=1&b=2" || p.Qualifier("b") != "2" {
		t.Error(p)
	}
	if p := PURL("nonsense"); p.Type() != "" || p.Repository() != "" {
		t.Error(p)
	}
}

func TestCheckFile(t *testing.T) {
	for _, file := range []string{"a", "a/b.c", "läuft ☕", "...", "a#b", "sha256:00", strings.Repeat("a", 1024)} {
		if err := CheckFile(file); err != nil {
			t.Errorf("%.40q: %v", file, err)
		}
	}
	for _, file := range []string{"", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a\x00b", "a\nb", "a\x7f", `a\b`, "a\xff", "a\ufffd", strings.Repeat("a", 1025)} {
		if err := CheckFile(file); !errors.Is(err, ErrMalformed) {
			t.Errorf("%.40q: %v", file, err)
		}
	}
}

func TestDigests(t *testing.T) {
	hex := strings.Repeat("0a", 32)
	s, err := ParseSHA256("sha256:" + hex)
	if err != nil || s.String() != hex || s.OCI() != "sha256:"+hex || s.IsZero() {
		t.Errorf("%s: %v", s, err)
	}
	b, err := ParseBLAKE3(hex)
	if err != nil || b.String() != hex || b.IsZero() {
		t.Errorf("%s: %v", b, err)
	}
	for _, bad := range []string{"", hex[1:], hex + "0", strings.ToUpper(hex), "sha512:" + hex, strings.Repeat("0g", 32)} {
		if _, err := ParseSHA256(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := ParseBLAKE3("sha256:" + hex); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

func TestMaven(t *testing.T) {
	for s, path := range map[string]string{
		"org.example:a:1":              "org/example/a/1/a-1.jar",
		"org.example:a:1:sources":      "org/example/a/1/a-1-sources.jar",
		"org.example:a:1:bin:tar.gz":   "org/example/a/1/a-1-bin.tar.gz",
		"org.example:a:1::pom":         "org/example/a/1/a-1.pom",
		"a:b_c:1.0+2":                  "a/b_c/1.0+2/b_c-1.0+2.jar",
		"org.example:a:1-SNAPSHOT:x.y": "org/example/a/1-SNAPSHOT/a-1-SNAPSHOT-x.y.jar",
	} {
		m, err := ParseMaven(s)
		if err != nil || m.Path() != path {
			t.Errorf("%s: %s, %v", s, m.Path(), err)
			continue
		}
		if name, err := MavenFolderName(path); err != nil || name != m.Name() || MavenPath(name) != path {
			t.Errorf("%s is read as %s (%v)", path, name, err)
		}
	}
	for _, s := range []string{"", "a", "a:b", "a:b:c:d:e:f", "a/b:c:1", "a:..:1", "a:b:1..2", "a::1", "a:b:", "a:b:1:/x", "-a:b:1", "a:b:1:c:", "a.:b:1"} {
		if m, err := ParseMaven(s); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q is read as %+v, %v", s, m, err)
		}
	}
	for _, path := range []string{"", "a", "a/b/c", "a/b/1/c-1.jar", "/a/b/1/b-1.jar", "a/../b/1/b-1.jar", "a b/c/1/c-1.jar", "org/example/a/maven-metadata.xml", "a.b/c/1/c-1.jar", "a./b/1/b-1.jar"} {
		if name, err := MavenFolderName(path); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q is read as %s, %v", path, name, err)
		}
	}
}

func FuzzParsePURL(f *testing.F) {
	for _, s := range []string{"pkg:maven/a/b@1", "pkg:docker/a/b@sha256:00", "pkg:generic/a%20b@1?x=y", "pkg:generic/a#b", "pkg:a/%2F"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePURL(s)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%v is not ErrMalformed", err)
			}
			return
		}
		if string(p) != s || len(s) > MaxPURL || strings.Contains(s, "#") {
			t.Errorf("%q is read as %q", s, p)
		}
		if p.Type() == "docker" && p.Qualifier("") == "" && !strings.Contains(s, "?") {
			if again := DockerPURL(p.Repository(), p.Version()); again != p {
				t.Errorf("%q is made as %q", p, again)
			}
		}
	})
}

func FuzzParseMaven(f *testing.F) {
	for _, s := range []string{"org.example:a:1", "a:b:1:c:tar.gz", "a:b:1::pom", "a:b:c:d:e:f", "a.b:c:1+2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMaven(s)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%v is not ErrMalformed", err)
			}
			return
		}
		if err := CheckFile(m.Path()); err != nil && len(m.Path()) <= 1024 {
			t.Errorf("%q has the path %q: %v", s, m.Path(), err)
		}
		if name, err := MavenFolderName(m.Path()); err == nil && name != m.Name() {
			t.Errorf("%q: the path %q is read as %s, not %s", s, m.Path(), name, m.Name())
		}
	})
}

func FuzzMavenFolderName(f *testing.F) {
	for _, s := range []string{"org/example/a/1/a-1.jar", "a/b/1/b-1-sources.jar", "a/b/maven-metadata.xml", "a/../b/1/b-1.jar"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		name, err := MavenFolderName(path)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%v is not ErrMalformed", err)
			}
			return
		}
		if again := MavenPath(name); again != path {
			t.Errorf("%q is read as %s, whose path is %q", path, name, again)
		}
		if err := name.Check(); err != nil && len(name.Package) <= MaxPURL {
			t.Errorf("%q is read as %s: %v", path, name, err)
		}
	})
}

// TestOverlaps: a family holds what begins like it in its own package.
func TestOverlaps(t *testing.T) {
	for _, test := range []struct{ files, want []string }{
		{nil, nil},
		{[]string{"a", "a-*", "a.jar", "ab-*", "b"}, nil},
		{[]string{"a-b.jar", "a-*"}, []string{"a-* a-b.jar"}},
		{[]string{"a-", "a-*"}, []string{"a-* a-"}},
		{[]string{"a-!", "a-*", "a-b"}, []string{"a-* a-!", "a-* a-b"}},
		{[]string{"a-b-c", "a-b-*", "a-*", "b-*", "b-c"}, []string{"a-* a-b-*", "a-* a-b-c", "b-* b-c"}},
		{[]string{"a-*", "a-*", "a", "a"}, nil},
		{[]string{"a*", "ab", "*", "a-*-*"}, nil}, // no families
	} {
		var names []Name
		for _, file := range test.files {
			names = append(names, Name{File: file, Package: "pkg:generic/x@1"}, Name{File: "other-" + file, Package: "pkg:generic/x@10"})
		}
		names = append(names, Name{File: "a-b.jar", Package: "pkg:generic/x@2"})
		var got []string
		for _, o := range Overlaps(names) {
			if o.Family.Package == "pkg:generic/x@1" {
				got = append(got, o.Family.File+" "+o.Other.File)
			}
			if o.Family.Package != o.Other.Package {
				t.Errorf("%q: %v", test.files, o)
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%q: %q, want %q", test.files, got, test.want)
		}
	}
}

// FuzzOverlaps holds the one walk to the definition, for each pair of names.
func FuzzOverlaps(f *testing.F) {
	f.Add("a-*\na-b.jar\na-b-*\na-")
	f.Add("a.b-*\na.*\na.b\na/*")
	f.Fuzz(func(t *testing.T, files string) {
		var names []Name
		overlapping := map[Name]bool{}
		for _, file := range strings.Split(files, "\n") {
			names = append(names, Name{File: file, Package: "pkg:generic/x@1"})
		}
		for _, name := range names {
			for _, family := range name.Families() {
				if _, ok := family.Family(); ok && family != name && slices.Contains(names, family) {
					overlapping[name] = true
				}
			}
		}
		found := map[Name]bool{}
		for _, o := range Overlaps(names) {
			found[o.Other] = true
		}
		if fmt.Sprint(found) != fmt.Sprint(overlapping) {
			t.Errorf("%q: %v, want %v", files, found, overlapping)
		}
	})
}

// BenchmarkOverlaps has the most names that a leaf can hold, one within the other.
func BenchmarkOverlaps(b *testing.B) {
	var names []Name
	for i, left := 1, 42_000; left > 0; i++ {
		name := Name{File: strings.Repeat("-", i) + "*", Package: "pkg:generic/x@1"}
		names, left = append(names, name), left-len(name.File)
	}
	for b.Loop() {
		Overlaps(names)
	}
}
