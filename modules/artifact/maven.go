package artifact

import (
	"fmt"
	"regexp"
	"strings"
)

// Maven are the coordinates of one file of a Maven repository
// (maven.apache.org, "Maven Coordinates").
type Maven struct {
	Group      string // dotted
	Artifact   string
	Version    string
	Classifier string // "" for the main file
	Extension  string // "jar", "pom", "tar.gz"
}

var mavenPart = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]*$`)

// Package is the package URL of group, artifact and version.
func (m Maven) Package() PURL { return NewPURL("maven", m.Group, m.Artifact, m.Version, nil) }

// File is the file's name in the repository.
func (m Maven) File() string {
	name := m.Artifact + "-" + m.Version
	if m.Classifier != "" {
		name += "-" + m.Classifier
	}
	return name + "." + m.Extension
}

// Path is the file's path below the repository's root (Maven 2 layout).
func (m Maven) Path() string { return m.Folder() + "/" + m.File() }

// Folder is the version's folder below the repository's root.
func (m Maven) Folder() string {
	return strings.ReplaceAll(m.Group, ".", "/") + "/" + m.Artifact + "/" + m.Version
}

// Name is the file as the log names it.
func (m Maven) Name() Name { return Name{Package: m.Package(), File: m.File()} }

// ParseMaven reads "group:artifact:version[:classifier[:extension]]"; the
// extension is "jar" where it is left out.
func ParseMaven(s string) (Maven, error) {
	parts := strings.Split(s, ":")
	if len(parts) < 3 || len(parts) > 5 {
		return Maven{}, fmt.Errorf("%w Maven coordinates %.120q: want group:artifact:version[:classifier[:extension]]", ErrMalformed, s)
	}
	m := Maven{Group: parts[0], Artifact: parts[1], Version: parts[2], Extension: "jar"}
	if len(parts) > 3 {
		m.Classifier = parts[3]
	}
	if len(parts) > 4 {
		m.Extension = parts[4]
	}
	return m, m.check(s)
}

func (m Maven) check(s string) error {
	for _, part := range []string{m.Group, m.Artifact, m.Version, m.Extension} {
		if !mavenPart.MatchString(part) || strings.Contains(part, "..") {
			return fmt.Errorf("%w Maven coordinates %.120q: %q", ErrMalformed, s, part)
		}
	}
	if strings.HasSuffix(m.Group, ".") {
		return fmt.Errorf("%w Maven coordinates %.120q: %q", ErrMalformed, s, m.Group)
	}
	if m.Classifier != "" && !mavenPart.MatchString(m.Classifier) {
		return fmt.Errorf("%w Maven coordinates %.120q: %q", ErrMalformed, s, m.Classifier)
	}
	return nil
}

// MavenFolderName reads the path of a release file below a repository's root,
// "org/codehaus/plexus/plexus-archiver/4.10.2/plexus-archiver-4.10.2.jar", as
// the package and the file it names. Paths of metadata files, which have no
// version folder, are malformed here.
func MavenFolderName(path string) (Name, error) {
	if err := CheckFile(path); err != nil {
		return Name{}, err
	}
	segments := strings.Split(path, "/")
	if len(segments) < 4 {
		return Name{}, fmt.Errorf("%w Maven path %.200q: want group/artifact/version/file", ErrMalformed, path)
	}
	n := len(segments)
	artifact, version, file := segments[n-3], segments[n-2], segments[n-1]
	if group := strings.Join(segments[:n-3], "/"); strings.Contains(group, ".") {
		return Name{}, fmt.Errorf("%w Maven path %.200q: a dot in the group's folders %q", ErrMalformed, path, group)
	}
	if !strings.HasPrefix(file, artifact+"-") {
		return Name{}, fmt.Errorf("%w Maven path %.200q: the file does not begin with %q", ErrMalformed, path, artifact+"-")
	}
	m := Maven{Group: strings.Join(segments[:n-3], "."), Artifact: artifact, Version: version, Extension: "jar"}
	if err := m.check(path); err != nil {
		return Name{}, err
	}
	return Name{Package: m.Package(), File: file}, nil
}

// MavenPath is the path below a repository's root of a file of a pkg:maven
// package: the inverse of MavenFolderName.
func MavenPath(n Name) string {
	m := Maven{Group: n.Package.Namespace(), Artifact: n.Package.Name(), Version: n.Package.Version()}
	return m.Folder() + "/" + n.File
}
