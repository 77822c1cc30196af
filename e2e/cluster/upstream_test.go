package cluster

import (
	"archive/zip"
	"os"
	"path/filepath"
	"testing"
)

func TestDebianUpstream(t *testing.T) {
	for _, story := range []struct {
		name, file, text, want string
	}{
		{"deb822", "sources.list.d/debian.sources", "Types: deb\nURIs: https://mirror.example/debian/\nSuites: trixie trixie-updates\nComponents: main\nSigned-By: /key\n", "https://mirror.example/debian"},
		{"security comes first", "sources.list.d/debian.sources", "# comment\nTypes: deb deb-src\nURIs: http://security.example/debian-security\nSuites: bookworm-security\nComponents: main\n\nTypes: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\n bookworm-updates\nComponents: main contrib\n", "http://mirror.example/debian"},
		{"disabled", "sources.list.d/debian.sources", "Enabled: no\nTypes: deb\nURIs: http://old.example/debian\nSuites: trixie\nComponents: main\n\nTypes: deb\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\n", "http://mirror.example/debian"},
		{"one line", "sources.list", "# deb http://commented.example/debian trixie main\ndeb-src http://src.example/debian trixie main\ndeb [arch=amd64 signed-by=/key] http://mirror.example/debian/ trixie main contrib # here\n", "http://mirror.example/debian"},
		{"another vendor", "sources.list.d/vendor.list", "deb https://vendor.example/apt stable tool\n", ""},
		{"disc", "sources.list", "deb cdrom:[Debian]/ trixie main\n", ""},
		{"only sources", "sources.list.d/debian.sources", "Types: deb-src\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\n", ""},
	} {
		t.Run(story.name, func(t *testing.T) {
			folder := t.TempDir()
			write(t, filepath.Join(folder, story.file), story.text)
			got, err := debianUpstream(folder)
			if got != story.want || (err == nil) != (story.want != "") {
				t.Errorf("%q, %v; want %q", got, err, story.want)
			}
		})
	}
}

func TestDebianUpstreamByMirrorList(t *testing.T) {
	folder := t.TempDir()
	list := filepath.Join(folder, "mirrors", "debian.list")
	write(t, list, "https://cloud.example/debian/\tpriority:1\n")
	write(t, filepath.Join(folder, "sources.list.d", "debian.sources"), "Types: deb\nURIs: mirror+file:"+list+"\nSuites: trixie\nComponents: main\n")
	got, err := debianUpstream(folder)
	if err != nil || got != "https://cloud.example/debian" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestMavenMirror(t *testing.T) {
	for of, want := range map[string]string{"*": "https://mirror.example/maven", "central": "https://mirror.example/maven", "external:*,!x": "https://mirror.example/maven", "internal": ""} {
		path := filepath.Join(t.TempDir(), "settings.xml")
		write(t, path, `<settings xmlns="http://maven.apache.org/SETTINGS/1.0.0"><mirrors><mirror><id>m</id><mirrorOf>`+of+`</mirrorOf><url>https://mirror.example/maven</url></mirror></mirrors></settings>`)
		if got := mavenMirror(path); got != want {
			t.Errorf("mirrorOf %s: %q, want %q", of, got, want)
		}
	}
	if got := mavenMirror("/nowhere.xml"); got != "" {
		t.Errorf("no file: %q", got)
	}
}

func TestSuperPOM(t *testing.T) {
	lib := t.TempDir()
	if address, err := superPOM(lib); err == nil {
		t.Errorf("no jar: %q", address)
	}
	file, err := os.Create(filepath.Join(lib, "maven-model-builder-3.x.jar"))
	if err != nil {
		t.Fatal(err)
	}
	jar := zip.NewWriter(file)
	entry, err := jar.Create("org/apache/maven/model/pom-4.0.0.xml")
	if err != nil {
		t.Fatal(err)
	}
	entry.Write([]byte(`<project><repositories><repository><id>central</id><url>https://repository.example/maven2</url></repository></repositories></project>`))
	if err := jar.Close(); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if address, err := superPOM(lib); err != nil || address != "https://repository.example/maven2" {
		t.Errorf("%q, %v", address, err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
