package debian

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
)

// Release is what a suite's InRelease file says of the files below
// dists/<suite> (Debian wiki, "DebianRepository/Format").
type Release struct {
	Suite    string // "stable"
	Codename string // "trixie"
	Date     string // as written
	ByHash   bool   // indexes are also served under their digests
	Files    map[string]ReleaseFile
}

// ReleaseFile is the size and digest of one index.
type ReleaseFile struct {
	SHA256 artifact.SHA256
	Size   int64 // bytes
}

// maxReleaseFiles bounds the list of files; trixie's has some 3,000.
const maxReleaseFiles = 100_000

// ParseRelease reads the text of a Release file, without its signature.
func ParseRelease(text []byte) (*Release, error) {
	var release *Release
	err := eachParagraph(bytes.NewReader(text), func(string) bool { return true }, func(fields map[string]string) error {
		if release != nil {
			return fmt.Errorf("%w: Release has more than one paragraph", ErrMalformed)
		}
		files, err := parseReleaseFiles(fields["SHA256"])
		release = &Release{
			Suite:    fields["Suite"],
			Codename: fields["Codename"],
			Date:     fields["Date"],
			ByHash:   fields["Acquire-By-Hash"] == "yes",
			Files:    files,
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if release == nil || len(release.Files) == 0 {
		return nil, fmt.Errorf("%w: Release has no SHA256 list", ErrMalformed)
	}
	return release, nil
}

func parseReleaseFiles(list string) (map[string]ReleaseFile, error) {
	files := map[string]ReleaseFile{}
	for line := range strings.SplitSeq(list, "\n") {
		if line == "" {
			continue
		}
		path, file, err := parseReleaseFile(line)
		if err != nil {
			return nil, err
		}
		if _, twice := files[path]; twice {
			return nil, fmt.Errorf("%w: Release lists %.120q twice", ErrMalformed, path)
		}
		if len(files) == maxReleaseFiles {
			return nil, fmt.Errorf("%w: Release lists more than %d files", ErrMalformed, maxReleaseFiles)
		}
		files[path] = file
	}
	return files, nil
}

func parseReleaseFile(line string) (string, ReleaseFile, error) {
	parts := strings.Fields(line)
	if len(parts) != 3 {
		return "", ReleaseFile{}, fmt.Errorf("%w: Release line %.120q: want digest, size and path", ErrMalformed, line)
	}
	digest, err := artifact.ParseSHA256(parts[0])
	if err != nil {
		return "", ReleaseFile{}, fmt.Errorf("%w: Release line %.120q: %w", ErrMalformed, line, err)
	}
	size, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || size < 0 {
		return "", ReleaseFile{}, fmt.Errorf("%w: Release line %.120q: size", ErrMalformed, line)
	}
	if err := artifact.CheckFile(parts[2]); err != nil {
		return "", ReleaseFile{}, fmt.Errorf("%w: Release line %.120q: %w", ErrMalformed, line, err)
	}
	return parts[2], ReleaseFile{SHA256: digest, Size: size}, nil
}

// Is tells whether the file is the named suite's, by its suite name or its
// codename.
func (r *Release) Is(suite string) bool {
	return suite != "" && (r.Codename == suite || r.Suite == suite)
}
