package config

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
)

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{
		"0B": 0, "1B": 1, "50GiB": 50 << 30, "1.5TB": 15e11, "20MiB": 20 << 20, "3kB": 3000, "0.5KiB": 512,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q is %d, %v", text, got, err)
		}
	}
	for text, fix := range map[string]string{
		"50": `"50GiB"`, "50 GiB": `write "50GiB"`, "50gib": `write "50GiB"`, "50G": `write "50GiB"`, "50 GigaB": `write "50GiB"`,
		"": "such as", "-1GiB": "such as", "0.3B": "", "99999999TiB": "", "1e3GiB": "such as", "5XB": `"5GiB"`, "GiB": "such as", "1.GiB": "such as",
	} {
		_, err := ParseSize(text)
		w, ok := errors.AsType[*wrong](err)
		if !ok || !strings.Contains(w.fix, fix) {
			t.Errorf("%q: %v, fix %q", text, err, w)
		}
	}
}

func TestRates(t *testing.T) {
	for text, want := range map[string]int64{"unlimited": 0, "20MiB/s": 20 << 20, "1B/s": 1} {
		if got, err := ParseRate(text); err != nil || got != want {
			t.Errorf("%q is %d, %v", text, got, err)
		}
	}
	for text, fix := range map[string]string{"20MiB": `write "20MiB/s"`, "20 MiB/s": `write "20MiB/s"`, "0B/s": "share = false", "20Mbit/s": `"20MiB/s"`} {
		_, err := ParseRate(text)
		w, ok := errors.AsType[*wrong](err)
		if !ok || !strings.Contains(w.fix, fix) {
			t.Errorf("%q: %v, %+v", text, err, w)
		}
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"10m": 10 * time.Minute, "1h30m": 90 * time.Minute, "7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "0s": 0, "1.5s": 1500 * time.Millisecond,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%q is %s, %v", text, got, err)
		}
	}
	for text, fix := range map[string]string{
		"10": `"10m"`, "10 min": `write "10m"`, "10minutes": `write "10m"`, "2w": `write "14d"`, "-5m": `write "5m"`, "": "such as", "2 days": `write "2d"`,
		"+5m": "such as", "99999d99999999h": "",
	} {
		_, err := ParseDuration(text)
		w, ok := errors.AsType[*wrong](err)
		if !ok || !strings.Contains(w.fix, fix) {
			t.Errorf("%q: %v, %+v", text, err, w)
		}
	}
}

// FuzzUnits: what is formatted is read as the same value.
func FuzzUnits(f *testing.F) {
	f.Add(int64(50<<30), "50GiB")
	f.Add(int64(1), "1d12h30m5.000000001s")
	f.Fuzz(func(t *testing.T, n int64, text string) {
		if n >= 0 && n < 1<<62 {
			if got, err := ParseSize(FormatSize(n)); err != nil || got != n {
				t.Fatalf("size %d: %q, %d, %v", n, FormatSize(n), got, err)
			}
			if got, err := ParseRate(FormatRate(n)); err != nil || got != n {
				t.Fatalf("rate %d: %d, %v", n, got, err)
			}
			if got, err := ParseDuration(FormatDuration(time.Duration(n))); err != nil || got != time.Duration(n) {
				t.Fatalf("duration %d: %q, %d, %v", n, FormatDuration(time.Duration(n)), got, err)
			}
		}
		if n, err := ParseSize(text); err == nil && n < 0 {
			t.Fatal("negative size")
		}
		if n, err := ParseDuration(text); err == nil && n < 0 {
			t.Fatal("negative duration")
		}
		parseMultiaddr(text)
		parseHostPort(text)
		parseWorker(text)
		parseCheckpoint(text)
		for _, kind := range []string{MirrorDocker, MirrorMaven, MirrorDebian} {
			p, err := ParsePattern(kind, text)
			if err == nil {
				if again, err := ParsePattern(kind, p.Text); err != nil || again != p {
					t.Fatalf("pattern %q: %+v, %+v, %v", text, p, again, err)
				}
			}
		}
	})
}

func TestPatterns(t *testing.T) {
	cases := []struct{ kind, pattern, matches, not string }{
		{"docker", "library/debian:13-slim", "pkg:docker/library/debian@13-slim", "pkg:docker/library/debian@12"},
		{"docker", "library/debian", "pkg:docker/library/debian@12", "pkg:docker/library/debian2@12"},
		{"docker", "library/debian:*", "pkg:docker/library/debian@12", "pkg:docker/acme/debian@12"},
		{"docker", "acme/*", "pkg:docker/acme/app@1", "pkg:docker/acmes/app@1"},
		{"docker", "acme/*", "pkg:docker/acme/team/app@1", "pkg:docker/library/acme@1"},
		{"maven", "org.codehaus.plexus:plexus-archiver:4.10.2", "pkg:maven/org.codehaus.plexus/plexus-archiver@4.10.2", "pkg:maven/org.codehaus.plexus/plexus-archiver@4.10.1"},
		{"maven", "org.apache.commons:*", "pkg:maven/org.apache.commons/commons-io@2", "pkg:maven/org.apache.commons.x/commons-io@2"},
		{"maven", "a.b:c", "pkg:maven/a.b/c@1", "pkg:maven/a.b/d@1"},
		{"maven", "a.b:c:*", "pkg:maven/a.b/c@1", "pkg:docker/a.b/c@1"},
		{"docker", "pkg:docker/acme/app@1", "pkg:docker/acme/app@1", "pkg:docker/acme/app@2"},
		{"docker", "acme/app@sha256:" + pin, string(artifact.DockerPURL("acme/app", "sha256:"+pin)), "pkg:docker/acme/app@2"},
		{"maven", "pkg:maven/a.b/c", "pkg:maven/a.b/c@1", "pkg:maven/a.b/cc@1"},
		{"debian", "curl", "pkg:deb/debian/curl@8.14.1-2", "pkg:deb/debian/curl2@8.14.1-2"},
		{"debian", "curl=8.14.1-2", "pkg:deb/debian/curl@8.14.1-2", "pkg:deb/debian/curl@8.14.1-3"},
	}
	for _, c := range cases {
		p, err := ParsePattern(c.kind, c.pattern)
		if err != nil {
			t.Errorf("%s %q: %v", c.kind, c.pattern, err)
			continue
		}
		if again, err := ParsePattern(c.kind, p.String()); err != nil || again.Package != p.Package || again.All != p.All {
			t.Errorf("%s %q: %q is %+v, %v", c.kind, c.pattern, p, again, err)
		}
		if !p.Matches(artifact.PURL(c.matches)) || p.Matches(artifact.PURL(c.not)) {
			t.Errorf("%s %q: %+v", c.kind, c.pattern, p)
		}
	}
	for _, c := range [][3]string{
		{"docker", "debian:13", "library/debian:13"}, {"docker", "Acme/App:1", "acme/app:1"}, {"docker", "a//b", ""}, {"docker", "acme/app@sha256:12", ""},
		{"maven", "org.apache.commons", "org.apache.commons:*"}, {"maven", "a:b:c:d", ""}, {"maven", "*:b", ""}, {"maven", "a/b:1", "a:b:1"},
		{"debian", "Curl", ""}, {"debian", "curl=", ""}, {"maven", "pkg:docker/a/b@1", `mirror "docker"`},
	} {
		_, err := ParsePattern(c[0], c[1])
		w, ok := errors.AsType[*wrong](err)
		if !ok || !strings.Contains(w.fix, c[2]) {
			t.Errorf("%s %q: %v %+v", c[0], c[1], err, w)
		}
	}
}

func TestDenied(t *testing.T) {
	all, _ := parseDenied("pkg:maven/a.b/c")
	one, _ := parseDenied("pkg:maven/a.b/c@1")
	if !all.Matches("pkg:maven/a.b/c@1") || all.Matches("pkg:maven/a.b/d@1") || !one.Matches("pkg:maven/a.b/c@1") || one.Matches("pkg:maven/a.b/c@2") {
		t.Error("denied packages do not match as they should")
	}
}

func TestEditDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "abc", 3}, {"keey", "key", 1}, {"quoat", "quota", 1}, {"same", "same", 0}, {"upload", "download", 4}} {
		if got := editDistance(c.a, c.b); got != c.want {
			t.Errorf("%q to %q: %d", c.a, c.b, got)
		}
	}
}
