package maven

import (
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
)

// prefix is where the repository is served.
const prefix = "/maven2/"

// metadataFile is the listing that clients find versions with (Apache Maven,
// "Repository Metadata").
const metadataFile = "maven-metadata.xml"

// target is a parsed path.
type target struct {
	path     string // below the repository's root, without the checksum's extension
	checksum string // "sha1", "md5", "sha256", "sha512", or "" for the file itself
	metadata bool
	snapshot bool
	name     artifact.Name // of a release file
	group    string        // of metadata: the artifact that it may list, else ""
	artifact string
}

// parse reads a request's path, which begins with "/maven2/".
func parse(path string) (target, error) {
	rest, ok := strings.CutPrefix(path, prefix)
	if !ok {
		return target{}, artifact.ErrMalformed
	}
	t := target{path: rest}
	if base, extension, ok := cutChecksum(rest); ok {
		t.path, t.checksum = base, extension
	}
	if err := artifact.CheckFile(t.path); err != nil {
		return target{}, err
	}
	segments := strings.Split(t.path, "/")
	n := len(segments)
	t.snapshot = n > 1 && strings.HasSuffix(segments[n-2], "-SNAPSHOT")
	if segments[n-1] == metadataFile {
		return t.asMetadata(segments[:n-1])
	}
	name, err := artifact.MavenFolderName(t.path)
	t.name = name
	return t, err
}

// cutChecksum splits "a.jar.sha1". The checksum of a checksum is not one: no
// client asks for it.
func cutChecksum(path string) (base, extension string, ok bool) {
	at := strings.LastIndexByte(path, '.')
	if at < 0 {
		return path, "", false
	}
	switch extension = path[at+1:]; extension {
	case "sha1", "md5", "sha256", "sha512":
		return path[:at], extension, true
	}
	return path, "", false
}

// asMetadata reads the folder that a maven-metadata.xml is in. It is an
// artifact's, a group's (plugin prefixes) or a snapshot version's; the path
// does not tell the first two apart, so both are tried.
func (t target) asMetadata(folder []string) (target, error) {
	t.metadata = true
	if len(folder) < 1 {
		return t, artifact.ErrMalformed
	}
	for _, segment := range folder {
		if !plain(segment) {
			return t, artifact.ErrMalformed
		}
	}
	if n := len(folder); n > 1 && !t.snapshot {
		t.group, t.artifact = strings.Join(folder[:n-1], "."), folder[n-1]
	}
	return t, nil
}

// plain tells whether a path segment can be part of coordinates.
func plain(segment string) bool {
	return segment != "" && !strings.ContainsFunc(segment, func(r rune) bool {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return false
		}
		return !strings.ContainsRune("._+-", r)
	})
}

// pkg is the package that policy and denial go by.
func (t target) pkg() artifact.PURL {
	if !t.metadata {
		return t.name.Package
	}
	if t.artifact == "" {
		folder := strings.Split(strings.TrimSuffix(t.path, "/"+metadataFile), "/")
		if t.snapshot && len(folder) > 2 {
			n := len(folder)
			return artifact.Maven{Group: strings.Join(folder[:n-2], "."), Artifact: folder[n-2], Version: folder[n-1]}.Package()
		}
		return artifact.NewPURL("maven", "", folder[len(folder)-1], "", nil)
	}
	return artifact.NewPURL("maven", t.group, t.artifact, "", nil)
}

// mediaType is by the file's extension alone: what a stranger put up must not
// become a page of this node's in somebody's browser.
func mediaType(path string) string {
	switch path[strings.LastIndexByte(path, '.')+1:] {
	case "jar", "war", "ear":
		return "application/java-archive"
	case "pom", "xml":
		return "application/xml"
	case "asc":
		return "text/plain; charset=utf-8"
	}
	return "application/octet-stream"
}
