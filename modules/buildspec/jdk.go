package buildspec

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
)

// Builders are the images with a JDK that an import has to choose from.
type Builders []Builder

// Builder is one of them.
type Builder struct {
	Image artifact.PURL
	// JDK is a major version, such as "17", or one update of it, such as "17.0.13".
	JDK string
	// Before is an update that brought a change to what the compiler writes, and that
	// this image's JDK does not have: it is for releases built by an earlier one. ""
	// is an image for all the others.
	Before string
}

// jdk is a version of a JDK: its major version, then its update's numbers.
type jdk []int

var jdkPattern = regexp.MustCompile(`^(?:1\.)?([0-9]{1,4}(?:[._][0-9]{1,4}){0,4})(?:[+u-].*)?$`)

// parseJDK reads a version as buildspecs, java.version and packages have it: "8",
// "1.8.0_392", "17.0.13", "21.0.5+11".
func parseJDK(text string) (jdk, error) {
	match := jdkPattern.FindStringSubmatch(text)
	if match == nil {
		return nil, fmt.Errorf("jdk=%s is no version of a JDK", text)
	}
	var version jdk
	for part := range strings.FieldsFuncSeq(match[1], func(r rune) bool { return r == '.' || r == '_' }) {
		number, err := strconv.Atoi(part)
		if err != nil {
			return nil, fmt.Errorf("jdk=%s is no version of a JDK", text)
		}
		version = append(version, number)
	}
	return version, nil
}

func (v jdk) major() int { return v[0] }

func (v jdk) String() string {
	var parts []string
	for _, number := range v {
		parts = append(parts, strconv.Itoa(number))
	}
	return strings.Join(parts, ".")
}

// choose is the image for a JDK: the one of its very update, or the one for what was
// built before a change of the compiler, or the one of its major version. exact tells
// that it is that update's. "" is none.
func (b Builders) choose(wanted jdk) (image artifact.PURL, exact bool) {
	var best Builder
	for _, candidate := range b {
		has, err := parseJDK(candidate.JDK)
		if err != nil || has.major() != wanted.major() {
			continue
		}
		if len(has) > 1 {
			if slices.Equal(has, wanted) {
				return candidate.Image, true
			}
			continue
		}
		if candidate.covers(wanted) && (best.Image == "" || best.Before == "" || candidate.Before != "" && candidate.before(best)) {
			best = candidate
		}
	}
	return best.Image, false
}

// covers tells whether an image of the wanted major version is one for the update. Where
// the update is not known, only an image for all is.
func (b Builder) covers(wanted jdk) bool {
	if b.Before == "" {
		return true
	}
	limit, err := parseJDK(b.Before)
	return err == nil && len(wanted) > 1 && slices.Compare(wanted, limit) < 0
}

// before tells whether this image is for earlier updates than another.
func (b Builder) before(other Builder) bool {
	one, err := parseJDK(b.Before)
	two, otherErr := parseJDK(other.Before)
	return err == nil && otherErr == nil && slices.Compare(one, two) < 0
}
