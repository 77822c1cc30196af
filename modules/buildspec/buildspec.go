// Package buildspec is a buildspec of Reproducible Central: how somebody rebuilt a
// Maven release byte for byte, as variables of a shell script, and what came out.
//
// Buildspecs are hostile until read: they are parsed by a shell's grammar and expanded
// from their own variables, and nothing of them is ever run. Import makes recipes of
// them.
package buildspec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

// ErrMalformed is wrapped where a file is no buildspec.
var ErrMalformed = errors.New("no buildspec")

// Bounds of a buildspec. Real ones have at most some thousand bytes.
const (
	MaxFile   = 32 << 10 // bytes
	maxNested = 50       // brackets in brackets: the parser calls itself for each
	maxValue  = 64 << 10 // bytes of a variable, expanded
	maxValues = 500
)

// Spec is a buildspec's variables, expanded.
type Spec struct {
	name   string
	begun  bool // by somebody's own variables; there is no file
	values map[string]value
}

// value is a variable's, or why it has none that can be known without running anything.
type value struct {
	text string
	line int
	err  error
}

// Parse reads a buildspec. name is what errors call it. A variable whose value only a
// program could tell is an error once it is asked for.
func Parse(data []byte, name string) (*Spec, error) {
	if len(data) > MaxFile {
		return nil, fmt.Errorf("%s: %w: it has more than %d bytes", name, ErrMalformed, MaxFile)
	}
	if nested(data) > maxNested {
		return nil, fmt.Errorf("%s: %w: brackets stand in more than %d brackets", name, ErrMalformed, maxNested)
	}
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(bytes.NewReader(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))), name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	s := &Spec{name: name, values: map[string]value{}}
	for _, statement := range file.Stmts {
		if err := s.statement(statement); err != nil {
			return nil, err
		}
	}
	if len(s.values) == 0 {
		return nil, fmt.Errorf("%s: %w: it sets no variables", name, ErrMalformed)
	}
	return s, nil
}

// nested is how deep brackets stand in brackets, at the most: closing ones that close
// nothing of their kind count as well, and a backquote in backquotes, which is escaped,
// never closes, so that it is never less than what a parser sees.
func nested(data []byte) int {
	depth, deepest, quoted := 0, 0, false
	for i, c := range data {
		switch {
		case c == '`' && (i == 0 || data[i-1] != '\\'):
			if quoted = !quoted; quoted {
				depth++
			} else {
				depth = max(depth-1, 0)
			}
		case strings.IndexByte("({[`", c) >= 0:
			depth++
		case strings.IndexByte(")}]", c) >= 0:
			depth = max(depth-1, 0)
		}
		deepest = max(deepest, depth)
	}
	return deepest
}

// New is a buildspec of variables that somebody gives, by name.
func New(variables map[string]string) (*Spec, error) {
	s := &Spec{name: "the recipe to begin", begun: true, values: map[string]value{}}
	for name, text := range variables {
		if len(text) > maxValue {
			return nil, fmt.Errorf("%w: %s has more than %d bytes", ErrMalformed, name, maxValue)
		}
		s.values[name] = value{text: strings.TrimSpace(text)}
	}
	return s, nil
}

// statement takes the assignments of a statement. Whatever else a script does could
// change what they mean, so that nothing else is passed over.
func (s *Spec) statement(statement *syntax.Stmt) error {
	if len(statement.Redirs) == 0 && !statement.Negated && !statement.Background && !statement.Coprocess {
		switch command := statement.Cmd.(type) {
		case *syntax.CallExpr:
			if len(command.Args) == 0 {
				return s.assign(command.Assigns)
			}
		case *syntax.DeclClause:
			if command.Variant.Value == "export" {
				return s.assign(command.Args)
			}
		case nil:
			return nil
		}
	}
	return s.fail(statement.Pos(), "the line runs a command, and a buildspec is read and never run: leave only variables in it")
}

func (s *Spec) fail(at syntax.Pos, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %w: %s", s.name, at.Line(), ErrMalformed, fmt.Sprintf(format, args...))
}

func (s *Spec) assign(assignments []*syntax.Assign) error {
	for _, a := range assignments {
		switch {
		case a.Naked: // export of a variable that is set already
			continue
		case a.Name == nil || a.Array != nil || a.Index != nil:
			return s.fail(a.Pos(), "only plain variables are known, and no lists")
		case len(s.values) >= maxValues:
			return s.fail(a.Pos(), "more than %d variables", maxValues)
		}
		v := s.expand(a)
		if a.Append {
			before := s.values[a.Name.Value]
			v.text, v.err = before.text+v.text, errors.Join(before.err, v.err)
		}
		if len(v.text) > maxValue {
			return s.fail(a.Pos(), "%s has more than %d bytes", a.Name.Value, maxValue)
		}
		s.values[a.Name.Value] = v
	}
	return nil
}

// errRuns is a value's that depends on a program.
var errRuns = errors.New("its value is the output of a command, and a buildspec is read and never run")

func (s *Spec) expand(a *syntax.Assign) value {
	v := value{line: int(a.Pos().Line())}
	if a.Value == nil {
		return v
	}
	config := &expand.Config{Env: environment{s, &v}, NoUnset: true, ProcSubst: func(*syntax.ProcSubst) (string, error) { return "", errRuns }}
	config.CmdSubst = func(w io.Writer, c *syntax.CmdSubst) error {
		text, err := filtered(config, c)
		if err == nil {
			_, err = io.WriteString(w, text)
		}
		return err
	}
	if err := s.bounded(a.Value); err != nil {
		v.err = err
		return v
	}
	text, err := expand.Literal(config, a.Value)
	v.text = strings.TrimSpace(text)
	var unset expand.UnsetParameterError
	if errors.As(err, &unset) && unset.Node != nil && unset.Node.Param != nil {
		err = fmt.Errorf("it refers to %s, which the buildspec does not set", unset.Node.Param.Value)
	}
	if err != nil {
		v.text, v.err = "", err
	}
	return v
}

// errLarge is a value's that would be too large to work out.
var errLarge = fmt.Errorf("its value would have more than %d bytes", maxValue)

// bounded refuses what would grow without bound before it is expanded, and what depends
// on this machine: a home folder.
func (s *Spec) bounded(w *syntax.Word) error {
	if lit, is := leading(w.Parts); is && strings.HasPrefix(lit.Value, "~") {
		return errors.New("its value begins with a home folder of the rebuilder's own machine")
	}
	total, large := 0, false
	syntax.Walk(w, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.Lit:
			total += len(n.Value)
		case *syntax.SglQuoted:
			total += len(n.Value)
		case *syntax.ParamExp:
			if n.Excl || n.Repl != nil && n.Repl.With != nil && expands(n.Repl.With) {
				large = true // as many times as what is named or stood in for
				return false
			}
			size := 0
			if n.Param != nil {
				size = len(s.values[n.Param.Value].text)
			}
			total += size
			// A replacement may stand in for each character, a pattern be tried at each.
			large = large || size > maxPattern && (n.Repl != nil || n.Exp != nil || n.Slice != nil)
			if n.Repl != nil && n.Repl.With != nil {
				with := 0
				syntax.Walk(n.Repl.With, func(inner syntax.Node) bool {
					if lit, is := inner.(*syntax.Lit); is {
						with += len(lit.Value)
					}
					if plain, is := inner.(*syntax.ParamExp); is {
						with += len(s.values[plain.Param.Value].text)
					}
					return true
				})
				total += (size + 1) * with
			}
		}
		return total <= maxValue
	})
	if large || total > maxValue {
		return errLarge
	}
	return nil
}

// expands tells whether a word has more than letters and plain variables in it.
func expands(w *syntax.Word) bool {
	found := false
	syntax.Walk(w, func(n syntax.Node) bool {
		switch n := n.(type) {
		case nil, *syntax.Word, *syntax.Lit, *syntax.SglQuoted, *syntax.DblQuoted:
		case *syntax.ParamExp:
			found = found || n.Param == nil || n.Excl || n.Repl != nil || n.Exp != nil || n.Slice != nil
			return false
		default:
			found = true
		}
		return !found
	})
	return found
}

// maxPattern bounds what patterns are matched with, bytes.
const maxPattern = 1 << 10

func leading(parts []syntax.WordPart) (*syntax.Lit, bool) {
	if len(parts) == 0 {
		return nil, false
	}
	lit, is := parts[0].(*syntax.Lit)
	return lit, is
}

// environment is what a value may refer to: the variables above it, and nothing of
// this machine. One that could not be known makes the value unknown, too.
type environment struct {
	spec  *Spec
	value *value
}

// Get implements expand.Environ.
func (e environment) Get(name string) expand.Variable {
	known, set := e.spec.values[name]
	if !set {
		return expand.Variable{}
	}
	if known.err != nil {
		e.value.err = known.err
	}
	return expand.Variable{Set: true, Kind: expand.String, Str: known.text}
}

// Each implements expand.Environ.
func (e environment) Each(do func(string, expand.Variable) bool) {
	for name := range e.spec.values {
		if !do(name, e.Get(name)) {
			return
		}
	}
}

// Get is a variable's value, "" for one that is not set.
func (s *Spec) Get(name string) (string, error) {
	v := s.values[name]
	if v.err != nil {
		return "", fmt.Errorf("%s:%d: %s: %w", s.name, v.line, name, v.err)
	}
	return v.text, nil
}

// at is the place of a variable, for messages.
func (s *Spec) at(name string) string {
	if v, set := s.values[name]; set && v.line > 0 {
		return fmt.Sprintf("%s:%d", s.name, v.line)
	}
	return s.name
}
