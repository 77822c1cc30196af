package maven_test

import (
	"archive/zip"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/mirror"
	"github.com/pyrsia/appliance/modules/mirror/mirrortest"
)

// project needs a parent, which is a pom, and an extension, which is a pom and
// a jar in a range of versions: everything that mvn can be made to fetch
// without a plugin.
const project = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <parent>
    <groupId>org.example</groupId>
    <artifactId>parent</artifactId>
    <version>1.0</version>
    <relativePath/>
  </parent>
  <artifactId>project</artifactId>
  <packaging>pom</packaging>
  <build>
    <extensions>
      <extension>
        <groupId>org.example</groupId>
        <artifactId>tool</artifactId>
        <version>[1.0,2.0)</version>
      </extension>
    </extensions>
  </build>
</project>
`

const settings = `<settings>
  <localRepository>%s</localRepository>
  <mirrors>
    <mirror>
      <id>pyrsia</id>
      <mirrorOf>*</mirrorOf>
      <url>%s</url>
    </mirror>
  </mirrors>
</settings>
`

func pom(name, version, packaging string) []byte {
	return fmt.Appendf(nil, `<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>`+
		`<groupId>org.example</groupId><artifactId>%s</artifactId><version>%s</version><packaging>%s</packaging></project>`,
		name, version, packaging)
}

func jar(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	entry, err := w.Create("hello.txt")
	if err != nil {
		t.Fatal(err)
	}
	entry.Write(noise(1, 1_000_000))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// mvn runs Maven on the project with nothing but the node to get files from.
func mvn(t *testing.T, url string) (repository, output string, err error) {
	t.Helper()
	path, err := exec.LookPath("mvn")
	if err != nil {
		t.Fatal("mvn is not installed; run: apt-get install maven (make test does)")
	}
	folder := t.TempDir()
	repository = filepath.Join(folder, "repository")
	for name, text := range map[string]string{"pom.xml": project, "settings.xml": fmt.Sprintf(settings, repository, url)} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command := exec.CommandContext(t.Context(), path, "--batch-mode", "--debug", "--strict-checksums",
		"--settings", "settings.xml", "--global-settings", "settings.xml", "validate")
	command.Dir = folder
	out, err := command.CombinedOutput()
	return repository, string(out), err
}

func TestMvn(t *testing.T) {
	coordinates := func(name, version, extension string) artifact.Maven {
		return artifact.Maven{Group: "org.example", Artifact: name, Version: version, Extension: extension}
	}
	files := map[artifact.Maven][]byte{
		coordinates("parent", "1.0", "pom"): pom("parent", "1.0", "pom"),
		coordinates("tool", "1.0", "pom"):   pom("tool", "1.0", "jar"),
		coordinates("tool", "1.10", "pom"):  pom("tool", "1.10", "jar"),
		coordinates("tool", "1.10", "jar"):  jar(t),
		// Maven 3 gives this to every extension that does not name its own.
		{Group: "org.codehaus.plexus", Artifact: "plexus-utils", Version: "1.1", Extension: "jar"}: jar(t),
	}
	for name, vouched := range map[string]bool{"verified": true, "unverified": false} {
		t.Run(name, func(t *testing.T) {
			w := mirrortest.NewWorld(t)
			for m, data := range files {
				if vouched {
					w.Publish(m.Name(), "", data)
					w.Keep(t, data)
				} else {
					w.Up.Set(m.Path(), mirrortest.Answer{Data: data})
				}
			}
			w.Up.Set("org/example/tool/maven-metadata.xml", mirrortest.Answer{Data: []byte(
				`<metadata><versioning><versions><version>1.0</version><version>1.10</version></versions></versioning></metadata>`)})
			log := new(requests)
			url := log.start(t, w, mirror.Pass)
			repository, output, err := mvn(t, url)
			if err != nil {
				t.Fatalf("%v\n%s", err, output)
			}
			if got, err := os.ReadFile(filepath.Join(repository, coordinates("tool", "1.10", "jar").Path())); err != nil || !bytes.Equal(got, jar(t)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if vouched && len(w.Up.Gets()) > 1 { // the list of versions is a view
				t.Errorf("the upstream was asked for %q", w.Up.Gets())
			}
			if sums := log.ending(".sha1", ".md5"); len(sums) > 0 && readsHeaders(output) {
				t.Errorf("Maven did not find the checksums that were sent along: it asked for %q", sums)
			}
		})
	}
}

// readsHeaders tells whether this Maven took checksums from headers: its own HTTP
// transport does, the default since 3.9; Debian's 3.9 goes on with Wagon.
func readsHeaders(output string) bool {
	return strings.Contains(output, "Using transporter HttpTransporter")
}
