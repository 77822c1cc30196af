package debian

import (
	"fmt"
	"slices"
	"strings"
)

// Closure is a set of packages in which every dependency is satisfied.
type Closure struct {
	Packages []*Package // sorted by name
	Notes    []string   // conflicts between members, which an installer may meet
}

// Variants are the base sets that mmdebstrap knows by these names, "custom"
// meaning the named packages alone.
func Variants() []string {
	return []string{"apt", "buildd", "custom", "essential", "extract", "important", "minbase", "required"}
}

// Base are the names of the packages that a variant begins with (mmdebstrap(1),
// "VARIANTS"), sorted.
func (x *Index) Base(variant string) ([]string, error) {
	priorities, extra := "", []string{"apt"}
	switch variant {
	case "custom", "extract":
		return nil, nil
	case "essential":
		extra = nil
	case "apt":
	case "required", "minbase":
		priorities = "required"
	case "buildd":
		priorities, extra = "required", []string{"apt", "build-essential"}
	case "important":
		priorities = "required important"
	default:
		return nil, fmt.Errorf("%w: variant %.40q: want one of %s", ErrMalformed, variant, strings.Join(Variants(), ", "))
	}
	names := extra
	for name, p := range x.packages {
		if p.Essential || p.Priority != "" && slices.Contains(strings.Fields(priorities), p.Priority) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Close is the smallest set that holds the named packages and what they depend
// on, by a fixed rule: dependencies that leave no choice are followed first;
// then, one at a time and oldest first, those that do, unless a member already
// satisfies them; of their alternatives the first that can be had is taken; of
// the packages that provide a name, the real one, else the one of the most
// important priority, else the first by name. Recommended packages and
// conflicts play no part. Two indexes with equal packages give equal closures.
func (x *Index) Close(names []string) (*Closure, error) {
	s := &solver{index: x, members: map[string]*Package{}}
	names = slices.Clone(names)
	slices.Sort(names)
	for _, name := range names {
		p, found := x.packages[name]
		if !found {
			return nil, fmt.Errorf("Debian has no package %q in these components", name)
		}
		s.take(p)
	}
	if err := s.run(); err != nil {
		return nil, err
	}
	return s.closure()
}

// solver holds one Close.
type solver struct {
	index   *Index
	members map[string]*Package
	fresh   []*Package // members whose dependencies are not looked at yet
	choices []need     // dependencies with more than one candidate
}

type need struct {
	of     *Package
	clause Clause
}

func (s *solver) take(p *Package) {
	if s.members[p.Name] != nil {
		return
	}
	s.members[p.Name] = p
	s.fresh = append(s.fresh, p)
}

func (s *solver) run() error {
	for {
		switch {
		case len(s.fresh) > 0:
			p := s.fresh[0]
			s.fresh = s.fresh[1:]
			if err := s.expand(p); err != nil {
				return err
			}
		case len(s.choices) > 0:
			n := s.choices[0]
			s.choices = s.choices[1:]
			s.choose(n)
		default:
			return nil
		}
	}
}

func (s *solver) expand(p *Package) error {
	for _, field := range []string{p.PreDepends, p.Depends} {
		clauses, err := ParseRelations(field)
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		for _, clause := range clauses {
			if err := s.follow(need{of: p, clause: clause}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *solver) follow(n need) error {
	candidates := s.index.candidates(n.clause)
	switch len(candidates) {
	case 0:
		return fmt.Errorf("package %s %s depends on %q, which nothing in these components satisfies", n.of.Name, n.of.Version, n.clause)
	case 1:
		s.take(candidates[0])
	default:
		s.choices = append(s.choices, n)
	}
	return nil
}

func (s *solver) choose(n need) {
	candidates := s.index.candidates(n.clause)
	for _, p := range candidates {
		if s.members[p.Name] != nil {
			return
		}
	}
	s.take(candidates[0])
}

// candidates are the packages that satisfy the clause, the preferred first,
// each once.
func (x *Index) candidates(clause Clause) []*Package {
	var found []*Package
	for _, relation := range clause {
		for _, p := range x.satisfiers(relation) {
			if !slices.Contains(found, p) {
				found = append(found, p)
			}
		}
	}
	return found
}

func (x *Index) satisfiers(r Relation) []*Package {
	if r.Architecture != "" && r.Architecture != "any" && r.Architecture != x.architecture {
		return nil
	}
	if p, real := x.packages[r.Name]; real && r.allows(p.Version) {
		return []*Package{p}
	}
	var found []*Package
	for _, p := range x.providers[r.Name] {
		if x.packages[p.Name] == p && p.provides(r) {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b *Package) int {
		if c := rank(a.Priority) - rank(b.Priority); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return found
}

// provides tells whether the package provides the name in a version that does.
// A relation with a version is satisfied by a provision with one only (Debian
// Policy 7.5).
func (p *Package) provides(r Relation) bool {
	clauses, err := ParseRelations(p.Provides)
	if err != nil {
		return false
	}
	for _, clause := range clauses {
		for _, provided := range clause {
			if provided.Name != r.Name {
				continue
			}
			if r.Operator == "" || provided.Operator == "=" && r.allows(provided.Version) {
				return true
			}
		}
	}
	return false
}

func rank(priority string) int {
	if i := slices.Index([]string{"required", "important", "standard", "optional"}, priority); i >= 0 {
		return i
	}
	return 4
}

func (s *solver) closure() (*Closure, error) {
	c := new(Closure)
	for _, p := range s.members {
		c.Packages = append(c.Packages, p)
	}
	slices.SortFunc(c.Packages, func(a, b *Package) int { return strings.Compare(a.Name, b.Name) })
	for _, p := range c.Packages {
		notes, err := s.conflicts(p)
		if err != nil {
			return nil, err
		}
		c.Notes = append(c.Notes, notes...)
	}
	return c, nil
}

func (s *solver) conflicts(p *Package) ([]string, error) {
	var notes []string
	for _, field := range []string{p.Conflicts, p.Breaks} {
		clauses, err := ParseRelations(field)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
		for _, clause := range clauses {
			for _, other := range s.index.candidates(clause) {
				if other != p && s.members[other.Name] == other {
					notes = append(notes, fmt.Sprintf("%s conflicts with %s, which is in the closure", p.Name, other.Name))
				}
			}
		}
	}
	return notes, nil
}
