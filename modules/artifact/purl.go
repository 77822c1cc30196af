package artifact

import (
	"fmt"
	"sort"
	"strings"

	packageurl "github.com/package-url/packageurl-go"
)

// PURL is a package URL in canonical form (ECMA-427), such as
// "pkg:maven/org.codehaus.plexus/plexus-archiver@4.10.2" or
// "pkg:docker/pyrsia/jdk21-maven@3.9.11".
//
// For pkg:docker the version is the tag when a person writes it, and the
// manifest's digest ("sha256:<hex>") when a statement vouches for bytes.
type PURL string

// MaxPURL is the longest package URL in bytes. It bounds the keys of the state.
const MaxPURL = 1024

// ParsePURL reads a package URL and refuses one that is not in canonical form,
// so that equal packages are equal strings. A subpath is refused too: Name's
// String puts "#" and the file where a subpath would stand.
func ParsePURL(s string) (PURL, error) {
	if len(s) > MaxPURL {
		return "", fmt.Errorf("%w package URL %.80q…: %d bytes, the limit is %d", ErrMalformed, s, len(s), MaxPURL)
	}
	parsed, err := packageurl.FromString(s)
	if err != nil {
		return "", fmt.Errorf("%w package URL %.200q: %v", ErrMalformed, s, err)
	}
	if canonical := parsed.ToString(); canonical != s {
		return "", fmt.Errorf("%w package URL %.200q: its canonical form is %q", ErrMalformed, s, canonical)
	}
	if parsed.Subpath != "" {
		return "", fmt.Errorf("%w package URL %.200q: it has a subpath", ErrMalformed, s)
	}
	return PURL(s), nil
}

// NewPURL builds the canonical package URL of the given parts. namespace,
// version and qualifiers may be empty.
func NewPURL(kind, namespace, name, version string, qualifiers map[string]string) PURL {
	var pairs packageurl.Qualifiers
	for k, v := range qualifiers {
		pairs = append(pairs, packageurl.Qualifier{Key: k, Value: v})
	}
	sort.Slice(pairs, func(i, j int) bool { return pairs[i].Key < pairs[j].Key })
	return PURL(packageurl.NewPackageURL(kind, namespace, name, version, pairs, "").ToString())
}

func (p PURL) parts() packageurl.PackageURL {
	parsed, err := packageurl.FromString(string(p))
	if err != nil {
		return packageurl.PackageURL{}
	}
	return parsed
}

// Type is the ecosystem: "maven", "docker", "generic".
func (p PURL) Type() string { return p.parts().Type }

// Namespace is the group of a Maven package, the path before the last segment
// of a Docker repository.
func (p PURL) Namespace() string { return p.parts().Namespace }

// Name is the last part of the package's name.
func (p PURL) Name() string { return p.parts().Name }

// Version is the version, tag or digest.
func (p PURL) Version() string { return p.parts().Version }

// Qualifier is the value of one qualifier, "" where it is absent.
func (p PURL) Qualifier(key string) string { return p.parts().Qualifiers.Map()[key] }

// Repository is the name that a Docker registry uses: "library/debian".
func (p PURL) Repository() string {
	parts := p.parts()
	if parts.Namespace == "" {
		return parts.Name
	}
	return parts.Namespace + "/" + parts.Name
}

// DockerPURL is the package URL of an image: repository "pyrsia/jdk21-maven"
// and a tag or a digest.
func DockerPURL(repository, version string) PURL {
	namespace, name := "", repository
	if cut := strings.LastIndex(repository, "/"); cut >= 0 {
		namespace, name = repository[:cut], repository[cut+1:]
	}
	return NewPURL("docker", namespace, name, version, nil)
}
