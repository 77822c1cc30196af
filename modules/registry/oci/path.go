package oci

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
)

// The grammar of names and tags (OCI Distribution Specification 1.1, "Pulling
// manifests"), and the length that clients keep to.
var (
	namePattern   = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern    = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	digestPattern = regexp.MustCompile(`^[a-z0-9]+([+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+$`)
)

const maxName = 255

// kind is which of the API's resources a path means.
type kind int

const (
	base kind = iota
	manifest
	blob
	tags
	referrers
)

// target is a parsed path.
type target struct {
	kind       kind
	repository string
	reference  string // tag or digest, as the client wrote it
}

// isDigest tells whether the reference is one; a tag has no colon.
func (t target) isDigest() bool { return strings.Contains(t.reference, ":") }

// path is where an upstream has it.
func (t target) path() string {
	switch t.kind {
	case manifest:
		return "v2/" + t.repository + "/manifests/" + t.reference
	case blob:
		return "v2/" + t.repository + "/blobs/" + t.reference
	case tags:
		return "v2/" + t.repository + "/tags/list"
	case referrers:
		return "v2/" + t.repository + "/referrers/" + t.reference
	}
	return "v2/"
}

// parse reads a request's path, which begins with "/v2".
func parse(path string) (target, *failure) {
	rest, ok := strings.CutPrefix(path, "/v2")
	if !ok || rest != "" && rest[0] != '/' {
		return target{}, notFound("no such address")
	}
	rest = strings.TrimPrefix(rest, "/")
	if rest == "" {
		return target{kind: base}, nil
	}
	if repository, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		return check(target{tags, repository, ""})
	}
	for _, part := range []struct {
		kind kind
		name string
	}{{manifest, "/manifests/"}, {blob, "/blobs/"}, {referrers, "/referrers/"}} {
		at := strings.LastIndex(rest, part.name)
		if at < 0 {
			continue
		}
		reference := rest[at+len(part.name):]
		if strings.Contains(reference, "/") {
			continue
		}
		return check(target{part.kind, rest[:at], reference})
	}
	return target{}, notFound("no such address")
}

func check(t target) (target, *failure) {
	if len(t.repository) > maxName || !namePattern.MatchString(t.repository) {
		return t, invalid(nameInvalid, fmt.Sprintf("%.80q is not a repository's name", t.repository))
	}
	if t.kind == tags {
		return t, nil
	}
	if t.kind == manifest && !t.isDigest() {
		if !tagPattern.MatchString(t.reference) {
			return t, invalid(manifestInvalid, fmt.Sprintf("%.80q is neither a tag nor a digest", t.reference))
		}
		return t, nil
	}
	if len(t.reference) > 256 || !digestPattern.MatchString(t.reference) {
		return t, invalid(digestInvalid, fmt.Sprintf("%.80q is not a digest", t.reference))
	}
	return t, nil
}

// digest is the reference as SHA-256. Another algorithm is well-formed and
// unknown here: the log names files by SHA-256.
func (t target) digest() (digest artifact.SHA256, known bool, f *failure) {
	if !strings.HasPrefix(t.reference, "sha256:") {
		return digest, false, nil
	}
	digest, err := artifact.ParseSHA256(t.reference)
	if err != nil {
		return digest, false, invalid(digestInvalid, err.Error())
	}
	return digest, true, nil
}
