package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
)

// The small project that uses the library. Its compiler plug-in and all that
// the library needs are not published on the network.
var project = map[string]string{
	"pom.xml": `<?xml version="1.0" encoding="UTF-8"?>
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>example</groupId>
  <artifactId>packer</artifactId>
  <version>1</version>
  <properties>
    <maven.compiler.source>17</maven.compiler.source>
    <maven.compiler.target>17</maven.compiler.target>
    <project.build.sourceEncoding>UTF-8</project.build.sourceEncoding>
  </properties>
  <dependencies>
    <dependency>
      <groupId>org.codehaus.plexus</groupId>
      <artifactId>plexus-archiver</artifactId>
      <version>4.10.2</version>
    </dependency>
  </dependencies>
</project>
`,
	"src/main/java/example/Packer.java": `package example;

import java.io.File;
import org.codehaus.plexus.archiver.zip.ZipArchiver;

/** Packs a folder into a zip file. */
public final class Packer {
    public static void main(String[] args) throws Exception {
        ZipArchiver archiver = new ZipArchiver();
        archiver.addDirectory(new File(args[0]));
        archiver.setDestFile(new File(args[1]));
        archiver.createArchive();
    }
}
`,
	"settings.xml": `<settings>
  <mirrors>
    <mirror>
      <id>pyrsia</id>
      <mirrorOf>*</mirrorOf>
      <url>http://` + entrance + `/maven2/</url>
    </mirror>
  </mirrors>
</settings>
`,
}

// mavenTimeout is how long Maven may take with every file cold.
const mavenTimeout = 10 * time.Minute

// maven compiles the project with an empty local repository, and then asks for
// each file that Maven took what vouches for it.
func (d *demo) maven(ctx context.Context) error {
	folder := filepath.Join(d.folder, "client")
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	for name, text := range project {
		path := filepath.Join(folder, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			return err
		}
	}
	repository := filepath.Join(folder, "repository")
	if err := os.Mkdir(repository, 0o755); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, mavenTimeout)
	defer cancel()
	command := exec.CommandContext(ctx, "mvn", "--batch-mode", "--settings", "settings.xml", "-Dmaven.repo.local="+repository, "package")
	command.Dir = folder
	// The user's own options for Maven have no say here.
	command.Env = append(os.Environ(), "MAVEN_OPTS=", "MAVEN_ARGS=")
	if err := d.runLogged(command, filepath.Join(folder, "mvn.log")); err != nil {
		return err
	}
	for _, made := range []string{"target/classes/example/Packer.class", "target/packer-1.jar"} {
		if _, err := os.Stat(filepath.Join(folder, made)); err != nil {
			return fmt.Errorf("Maven says it succeeded and left no %s: %w", made, err)
		}
	}
	return d.vouchedFor(ctx, repository)
}

// vouchedFor asks the regular node for every file that Maven fetched. Those of
// the library must be verified and have the published digest, all others must
// be marked as unverified.
func (d *demo) vouchedFor(ctx context.Context, repository string) error {
	d.facts.verified, d.facts.unverified = 0, 0
	err := filepath.WalkDir(repository, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if ext := filepath.Ext(path); ext != ".jar" && ext != ".pom" {
			return nil // Maven's own notes and checksums
		}
		name, err := filepath.Rel(repository, path)
		if err != nil {
			return err
		}
		answer, _, err := get(ctx, http.MethodHead, "http://"+entrance+"/maven2/"+filepath.ToSlash(name))
		if err != nil {
			return err
		}
		return d.classify(path, answer.Header)
	})
	if err != nil {
		return err
	}
	if d.facts.verified < 2 || d.facts.unverified == 0 {
		return fmt.Errorf("Maven got %d verified and %d unverified files; want the library's jar and pom verified, and others not", d.facts.verified, d.facts.unverified)
	}
	d.out.say("%d files verified, %d passed through, marked as unverified", d.facts.verified, d.facts.unverified)
	return nil
}

func (d *demo) classify(path string, header http.Header) error {
	verified, unverified := header.Get("Pyrsia-Verified"), header.Get("Pyrsia-Unverified")
	output, err := d.library.file(filepath.Base(path))
	switch {
	case err != nil && unverified != "" && verified == "":
		d.facts.unverified++
		return nil
	case err != nil:
		return fmt.Errorf("%s is not published, and the regular node does not say so (headers %v)", filepath.Base(path), header)
	case verified == "" || unverified != "":
		return fmt.Errorf("%s is published, and the regular node does not say that it is verified (headers %v)", filepath.Base(path), header)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if got := artifact.SHA256(sha256.Sum256(data)); got != output.File.SHA256 {
		return fmt.Errorf("Maven got %s with SHA-256 %s, published is %s", filepath.Base(path), got, output.File.SHA256)
	}
	d.facts.verified++
	d.out.say("%s: verified: %s", filepath.Base(path), verified)
	return nil
}

// runLogged runs a command, its output to a file, and shows its last line.
func (d *demo) runLogged(command *exec.Cmd, log string) error {
	file, err := os.Create(log)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := &lines{to: file, tell: func(line string) { d.out.progress(filepath.Base(command.Path) + ": " + line) }}
	command.Stdout, command.Stderr = lines, lines
	if err := command.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s (see %s)", strings.Join(command.Args[:min(2, len(command.Args))], " "), err, lines.complaint(), log)
	}
	return nil
}

// colours are a terminal's escape sequences.
var colours = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")

// lines passes on what is written, and tells each line. Only one goroutine
// writes.
type lines struct {
	to    io.Writer // nil for nobody
	tell  func(string)
	rest  []byte // of a line that has no end yet
	last  string
	wrong string // the first line that looks like an error
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte("\n"))
		if !found {
			break
		}
		l.rest = rest
		text := strings.TrimSpace(colours.ReplaceAllString(string(line), ""))
		if text == "" {
			continue
		}
		l.last = text
		if l.wrong == "" && strings.Contains(strings.ToLower(text), "error") {
			l.wrong = text
		}
		l.tell(text)
	}
	if l.to == nil {
		return len(p), nil
	}
	return l.to.Write(p)
}

func (l *lines) complaint() string {
	if l.wrong != "" {
		return l.wrong
	}
	return l.last
}
