package debian

import (
	"fmt"
	"regexp"
	"strings"
)

// Relation is one alternative of a dependency: a package's name and the
// versions that do (Debian Policy 7.1).
type Relation struct {
	Name         string
	Architecture string // "any", an architecture, or ""
	Operator     string // "<<", "<=", "=", ">=", ">>", or "" for any version
	Version      string
}

// Clause is a list of alternatives, the preferred first.
type Clause []Relation

var (
	namePattern     = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]*$`)
	relationPattern = regexp.MustCompile(`^([^\s:(]+)(?::([a-z0-9-]+))?\s*(?:\(\s*(<<|<=|=|>=|>>)\s*([^\s()]+)\s*\))?$`)
	versionPattern  = regexp.MustCompile(`^[A-Za-z0-9.+:~-]+$`)
)

// ParseRelations reads the value of a field such as Depends: clauses separated
// by commas, alternatives by "|". Restrictions to architectures and build
// profiles, which binary packages do not have, are malformed.
func ParseRelations(value string) ([]Clause, error) {
	if strings.TrimSpace(value) == "" {
		return nil, nil
	}
	var clauses []Clause
	for _, part := range strings.Split(strings.TrimSuffix(strings.TrimSpace(value), ","), ",") {
		var clause Clause
		for _, alternative := range strings.Split(part, "|") {
			relation, err := parseRelation(strings.TrimSpace(alternative))
			if err != nil {
				return nil, err
			}
			clause = append(clause, relation)
		}
		clauses = append(clauses, clause)
	}
	return clauses, nil
}

func parseRelation(s string) (Relation, error) {
	m := relationPattern.FindStringSubmatch(s)
	if m == nil || !namePattern.MatchString(m[1]) || m[4] != "" && !versionPattern.MatchString(m[4]) {
		return Relation{}, fmt.Errorf("%w: relation %.120q", ErrMalformed, s)
	}
	return Relation{Name: m[1], Architecture: m[2], Operator: m[3], Version: m[4]}, nil
}

// String is the relation as a control file has it.
func (r Relation) String() string {
	s := r.Name
	if r.Architecture != "" {
		s += ":" + r.Architecture
	}
	if r.Operator != "" {
		s += " (" + r.Operator + " " + r.Version + ")"
	}
	return s
}

// String is the clause as a control file has it.
func (c Clause) String() string {
	parts := make([]string, len(c))
	for i, relation := range c {
		parts[i] = relation.String()
	}
	return strings.Join(parts, " | ")
}

// FormatRelations is the inverse of ParseRelations.
func FormatRelations(clauses []Clause) string {
	parts := make([]string, len(clauses))
	for i, clause := range clauses {
		parts[i] = clause.String()
	}
	return strings.Join(parts, ", ")
}

// allows tells whether a version does for the relation.
func (r Relation) allows(version string) bool {
	c := 0
	if r.Operator != "" {
		c = Compare(version, r.Version)
	}
	switch r.Operator {
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	case ">>":
		return c > 0
	default:
		return true
	}
}
