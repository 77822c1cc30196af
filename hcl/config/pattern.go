package config

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
)

// Pattern names packages in the words of their ecosystem:
//
//	docker  library/debian:13-slim   one tag
//	        library/debian           all tags of a repository
//	        acme/*                   all repositories below
//	maven   group:artifact:version   one version
//	        group:artifact:*         all versions; so does group:artifact
//	        group:*                  all artifacts of a group
//	debian  curl, curl=8.14.1-2      a package, a version of it
//
// A package URL does for each of them, too.
type Pattern struct {
	Text    string        // as in the file
	Package artifact.PURL // the one package; with All also the beginning of all others
	All     Extent
}

// Extent is how much a pattern covers.
type Extent int

// The extents, from narrow to wide.
const (
	OneVersion  Extent = iota // Package, which has a version
	AllVersions               // of Package, which has none
	AllNames                  // in the namespace of Package, whose name is "*"
)

// Matches tells whether the pattern covers a package.
func (p Pattern) Matches(purl artifact.PURL) bool {
	if p.Package.Type() != purl.Type() {
		return false
	}
	switch p.All {
	case AllNames:
		namespace := p.Package.Namespace()
		return purl.Namespace() == namespace || purl.Type() == "docker" && strings.HasPrefix(purl.Namespace(), namespace+"/")
	case AllVersions:
		return p.Package.Namespace() == purl.Namespace() && p.Package.Name() == purl.Name()
	}
	return p.Package == purl
}

// String is the pattern in the words of its ecosystem, also where the file has
// a package URL.
func (p Pattern) String() string {
	namespace, name, version := p.Package.Namespace(), p.Package.Name(), p.Package.Version()
	switch p.Package.Type() {
	case "maven":
		if p.All == OneVersion {
			return namespace + ":" + name + ":" + version
		}
		return namespace + ":" + name // "*" is the name of all names
	case "docker":
		switch {
		case p.All != OneVersion:
			return p.Package.Repository()
		case strings.HasPrefix(version, "sha256:"):
			return p.Package.Repository() + "@" + version
		}
		return p.Package.Repository() + ":" + version
	}
	if p.All == OneVersion {
		return name + "=" + version
	}
	return name
}

// The forms of names: distribution specification ("Pull", name and reference),
// Maven coordinates, Debian policy 5.6.1 and 5.6.12.
var (
	dockerName   = `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
	dockerRepo   = regexp.MustCompile(`^` + dockerName + `(?:/` + dockerName + `)*$`)
	dockerTag    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	dockerDigest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	mavenPart    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]*$`)
	debianName   = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]+$`)
	debianVer    = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+:~-]*$`)
)

// ParsePattern reads a pattern of a mirror of the given kind.
func ParsePattern(kind, s string) (Pattern, error) {
	if strings.HasPrefix(s, "pkg:") {
		return purlPattern(kind, s)
	}
	switch kind {
	case MirrorMaven:
		return mavenPattern(s)
	case MirrorDebian:
		return debianPattern(s)
	}
	return dockerPattern(s)
}

func purlPattern(kind, s string) (Pattern, error) {
	purl, err := artifact.ParsePURL(s)
	if err != nil {
		return Pattern{}, wrongf("", "%.120q is not a package URL in canonical form.", s)
	}
	want := kind
	if kind == MirrorDebian {
		want = "deb"
	}
	if purl.Type() != want {
		return Pattern{}, wrongf(fmt.Sprintf("put it into mirror %q", purlMirror(purl.Type())), "%.120q is no package of a %s mirror.", s, kind)
	}
	p := Pattern{Text: s, Package: purl}
	if purl.Version() == "" {
		p.All = AllVersions
	}
	return p, nil
}

func purlMirror(purlType string) string {
	if purlType == "deb" {
		return MirrorDebian
	}
	return purlType
}

func mavenPattern(s string) (Pattern, error) {
	bad := func(fix string) (Pattern, error) {
		return Pattern{}, wrongf(fix, "%.120q is not a Maven pattern: want \"group:artifact:version\", \"group:artifact:*\" or \"group:*\".", s)
	}
	parts := strings.Split(s, ":")
	if strings.Contains(s, "/") {
		return bad(write(strings.ReplaceAll(s, "/", ":")))
	}
	if len(parts) < 2 || len(parts) > 3 {
		if mavenPart.MatchString(s) {
			return bad(write(s + ":*"))
		}
		return bad("")
	}
	for i, part := range parts {
		if last := i == len(parts)-1; !(last && part == "*") && !mavenPart.MatchString(part) {
			return bad("")
		}
	}
	p := Pattern{Text: s}
	switch {
	case len(parts) == 2 && parts[1] == "*":
		p.All, p.Package = AllNames, artifact.NewPURL("maven", parts[0], "*", "", nil)
	case len(parts) == 2 || parts[2] == "*":
		p.All, p.Package = AllVersions, artifact.NewPURL("maven", parts[0], parts[1], "", nil)
	default:
		p.Package = artifact.NewPURL("maven", parts[0], parts[1], parts[2], nil)
	}
	return p, nil
}

func dockerPattern(s string) (Pattern, error) {
	bad := func(fix string) (Pattern, error) {
		return Pattern{}, wrongf(fix, "%.120q is not an image pattern: want \"name:tag\", \"name\" or \"folder/*\".", s)
	}
	if folder, ok := strings.CutSuffix(s, "/*"); ok {
		if !dockerRepo.MatchString(folder) {
			return bad("")
		}
		return Pattern{Text: s, All: AllNames, Package: artifact.DockerPURL(folder+"/*", "")}, nil
	}
	repository, version := s, ""
	if at := strings.Index(s, "@"); at >= 0 {
		repository, version = s[:at], s[at+1:]
		if !dockerDigest.MatchString(version) {
			return bad("")
		}
	} else if colon := strings.LastIndex(s, ":"); colon >= 0 {
		repository, version = s[:colon], s[colon+1:]
		if version != "*" && !dockerTag.MatchString(version) {
			return bad("")
		}
	}
	if !dockerRepo.MatchString(repository) {
		if lower := strings.ToLower(s); lower != s && dockerRepo.MatchString(strings.ToLower(repository)) {
			return bad(write(strings.ToLower(repository) + s[len(repository):]))
		}
		return bad("")
	}
	if !strings.Contains(repository, "/") {
		// docker itself asks a mirror for library/<name>; a bare name would
		// never match what it asks for.
		return bad(write("library/" + s))
	}
	if version == "" || version == "*" {
		return Pattern{Text: s, All: AllVersions, Package: artifact.DockerPURL(repository, "")}, nil
	}
	return Pattern{Text: s, Package: artifact.DockerPURL(repository, version)}, nil
}

func debianPattern(s string) (Pattern, error) {
	name, version, has := strings.Cut(s, "=")
	if !debianName.MatchString(name) || has && !debianVer.MatchString(version) {
		return Pattern{}, wrongf("", "%.120q is not a Debian pattern: want \"name\" or \"name=version\".", s)
	}
	p := Pattern{Text: s, Package: artifact.NewPURL("deb", "debian", name, version, nil)}
	if !has {
		p.All = AllVersions
	}
	return p, nil
}
