package input

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"hash"
	"path"
	"strings"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
)

// pathClass is what a path of a Maven repository is to a lock.
type pathClass int

const (
	otherFile    pathClass = iota
	releaseFile            // may be locked
	checksumFile           // computed, never locked
	metadataFile           // a list of versions, which changes
	snapshotFile           // changes by design
)

// checksums are the files that Maven asks for beside each file, by extension.
var checksums = map[string]func() hash.Hash{
	".md5": md5.New, ".sha1": sha1.New, ".sha256": sha256.New, ".sha512": sha512.New,
}

var noTime time.Time

func classify(p string) pathClass {
	if artifact.CheckFile(p) != nil {
		return otherFile
	}
	extension := path.Ext(p)
	if checksums[extension] != nil {
		return ofChecksum(classify(strings.TrimSuffix(p, extension)))
	}
	base := path.Base(p)
	if strings.HasPrefix(base, "maven-metadata") && extension == ".xml" {
		return metadataFile
	}
	if strings.HasSuffix(path.Base(path.Dir(p)), "-SNAPSHOT") || strings.Contains(base, "-SNAPSHOT") {
		return snapshotFile
	}
	if _, err := artifact.MavenFolderName(p); err != nil {
		return otherFile
	}
	return releaseFile
}

// ofChecksum is a checksum's class by that of its file: one of a file that is
// not served is not served either.
func ofChecksum(of pathClass) pathClass {
	if of == releaseFile {
		return checksumFile
	}
	return of
}

// whyNot is what a person reads about a path that is not served.
func whyNot(p string) string {
	switch classify(p) {
	case metadataFile:
		return "a version range, a plugin without a version or a plugin prefix asks for the list of versions, which is another tomorrow; name the version in the pom or in the recipe's commands"
	case snapshotFile:
		return "snapshots change and are never an input; name a release"
	case checksumFile:
		return "checksums are no input of a build"
	default:
		return "not a release file in a Maven repository's layout"
	}
}
