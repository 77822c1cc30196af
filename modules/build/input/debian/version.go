package debian

import "strings"

// Compare orders two version numbers as dpkg does (Debian Policy 5.6.12):
// negative where a is older than b, zero where they are equal, positive where
// a is newer. It takes any string: what is no version number has some place in
// the order all the same.
func Compare(a, b string) int {
	epochA, upstreamA, revisionA := split(a)
	epochB, upstreamB, revisionB := split(b)
	if c := compareNumber(epochA, epochB); c != 0 {
		return c
	}
	if c := comparePart(upstreamA, upstreamB); c != 0 {
		return c
	}
	return comparePart(revisionA, revisionB)
}

// split is a version as epoch, upstream version and revision. A missing epoch
// is "0", and so is a missing revision: both compare equal to nothing.
func split(version string) (epoch, upstream, revision string) {
	epoch, upstream = "0", version
	if before, after, found := strings.Cut(version, ":"); found {
		epoch, upstream = before, after
	}
	if cut := strings.LastIndexByte(upstream, '-'); cut >= 0 {
		upstream, revision = upstream[:cut], upstream[cut+1:]
	}
	return epoch, upstream, revision
}

// comparePart walks both strings by turns of non-digits and digits.
func comparePart(a, b string) int {
	for a != "" || b != "" {
		textA, restA := span(a, false)
		textB, restB := span(b, false)
		if c := compareText(textA, textB); c != 0 {
			return c
		}
		numberA, nextA := span(restA, true)
		numberB, nextB := span(restB, true)
		if c := compareNumber(numberA, numberB); c != 0 {
			return c
		}
		a, b = nextA, nextB
	}
	return 0
}

func span(s string, digits bool) (head, rest string) {
	i := 0
	for i < len(s) && isDigit(s[i]) == digits {
		i++
	}
	return s[:i], s[i:]
}

func compareText(a, b string) int {
	for i := 0; i < len(a) || i < len(b); i++ {
		if c := weight(a, i) - weight(b, i); c != 0 {
			return c
		}
	}
	return 0
}

// weight is a character's place in the order: a tilde comes before the end of
// the string, letters come before everything else.
func weight(s string, i int) int {
	switch {
	case i >= len(s):
		return 0
	case s[i] == '~':
		return -1
	case isLetter(s[i]):
		return int(s[i])
	default:
		return int(s[i]) + 256
	}
}

// compareNumber compares digits of any length without converting them.
func compareNumber(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
