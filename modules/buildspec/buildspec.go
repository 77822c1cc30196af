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
	MaxFile   = 256 << 10 // bytes
	maxValue  = 64 << 10  // bytes of a variable, expanded
	maxValues = 500
)

// Spec is a buildspec's variables, expanded.
type Spec struct {
	name   string
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

// New is a buildspec of variables that somebody gives, by name.
func New(variables map[string]string) (*Spec, error) {
	s := &Spec{name: "the recipe to begin", values: map[string]value{}}
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
	config := &expand.Config{Env: environment{s, &v}, ProcSubst: func(*syntax.ProcSubst) (string, error) { return "", errRuns }}
	config.CmdSubst = func(w io.Writer, c *syntax.CmdSubst) error {
		text, err := filtered(config, c)
		if err == nil {
			_, err = io.WriteString(w, text)
		}
		return err
	}
	text, err := expand.Literal(config, a.Value)
	v.text = strings.TrimSpace(text)
	if err != nil {
		v.text, v.err = "", err
	}
	return v
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
