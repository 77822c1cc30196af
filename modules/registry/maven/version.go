package maven

import (
	"cmp"
	"slices"
	"strings"
)

// compareVersions orders versions as Apache Maven does ("POM Reference",
// "Version Order Specification").
func compareVersions(a, b string) int {
	x, y := tokens(a), tokens(b)
	for i := range max(len(x), len(y)) {
		if c := compareTokens(at(x, i, y), at(y, i, x)); c != 0 {
			return c
		}
	}
	return 0
}

// token is a part of a version between separators or changes from digit to
// letter.
type token struct {
	hyphen bool // what stands before it: "-" or "."
	number bool
	text   string // a number has no leading zeros
}

// tokens splits a version and drops parts that mean nothing at its end and
// before a hyphen: "1.0.0" is "1", "1.ga" is "1".
func tokens(version string) []token {
	var all []token
	hyphen := false
	for rest := strings.ToLower(version); rest != ""; {
		if rest[0] == '.' || rest[0] == '-' || rest[0] == '_' {
			hyphen = rest[0] != '.'
			rest = rest[1:]
			if rest == "" || rest[0] == '.' || rest[0] == '-' || rest[0] == '_' {
				all = append(all, token{hyphen, true, "0"}) // an empty part is 0
			}
			continue
		}
		part, number := firstPart(rest)
		rest = rest[len(part):]
		all = append(all, newToken(part, number, hyphen, rest))
		hyphen = true // a change from digits to letters separates like a hyphen
	}
	return trim(all)
}

func firstPart(s string) (part string, number bool) {
	number = isDigit(s[0])
	for i := range len(s) {
		if s[i] == '.' || s[i] == '-' || s[i] == '_' || isDigit(s[i]) != number {
			return s[:i], number
		}
	}
	return s, number
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func newToken(part string, number, hyphen bool, rest string) token {
	if number {
		part = strings.TrimLeft(part, "0")
		if part == "" {
			part = "0"
		}
		return token{hyphen, true, part}
	}
	if rest != "" && isDigit(rest[0]) { // "a1" is "alpha-1"
		switch part {
		case "a":
			part = "alpha"
		case "b":
			part = "beta"
		case "m":
			part = "milestone"
		}
	}
	switch part {
	case "ga", "final", "release":
		part = ""
	case "cr":
		part = "rc"
	}
	return token{hyphen, false, part}
}

func (t token) null() bool { return t.text == "" || t.number && t.text == "0" }

func trim(all []token) []token {
	for i := len(all) - 1; i >= 0; i-- {
		last := i == len(all)-1 || all[i+1].hyphen
		if last && all[i].null() {
			all = slices.Delete(all, i, i+1)
		}
	}
	return all
}

// at pads the shorter version with parts that mean nothing, of the other's
// kind.
func at(tokens []token, i int, other []token) token {
	if i < len(tokens) {
		return tokens[i]
	}
	if other[i].number {
		return token{other[i].hyphen, true, "0"}
	}
	return token{other[i].hyphen, false, ""}
}

// qualifiers in their order; other words come after them, by alphabet.
var qualifiers = []string{"alpha", "beta", "milestone", "rc", "snapshot", "", "sp"}

func compareTokens(a, b token) int {
	if c := cmp.Compare(a.class(), b.class()); c != 0 {
		return c
	}
	if a.number {
		if c := cmp.Compare(len(a.text), len(b.text)); c != 0 {
			return c
		}
		return cmp.Compare(a.text, b.text)
	}
	x, y := slices.Index(qualifiers, a.text), slices.Index(qualifiers, b.text)
	if x < 0 && y < 0 {
		return cmp.Compare(a.text, b.text)
	}
	return cmp.Compare(unknownLast(x), unknownLast(y))
}

func unknownLast(index int) int {
	if index < 0 {
		return len(qualifiers)
	}
	return index
}

// class orders kinds of parts: ".word" < "-word" < "-number" < ".number".
func (t token) class() int {
	switch {
	case !t.number && !t.hyphen:
		return 1
	case !t.number:
		return 1 + boolInt(t.hyphen)
	case t.hyphen:
		return 3
	}
	return 4
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
