package buildspec

import (
	"strings"
	"unicode"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

// filtered is the output of a substitution of the one form that hundreds of buildspecs
// have, echo of a word and tr of its characters. It is worked out here: no program is
// run, and any other command has no output that could be known.
func filtered(config *expand.Config, c *syntax.CmdSubst) (string, error) {
	if len(c.Stmts) != 1 || c.TempFile || c.ReplyVar {
		return "", errRuns
	}
	text, err := output(config, c.Stmts[0])
	return strings.TrimRight(text, "\n"), err
}

func output(config *expand.Config, s *syntax.Stmt) (string, error) {
	if len(s.Redirs) > 0 || s.Negated || s.Background || s.Coprocess {
		return "", errRuns
	}
	switch command := s.Cmd.(type) {
	case *syntax.BinaryCmd:
		if command.Op != syntax.Pipe {
			return "", errRuns
		}
		in, err := output(config, command.X)
		if err != nil {
			return "", err
		}
		words, err := wordsOf(config, command.Y)
		if err != nil || len(words) != 3 || words[0] != "tr" {
			return "", errRuns
		}
		return translate(in, words[1], words[2])
	case *syntax.CallExpr:
		words, err := wordsOf(config, s)
		if err != nil || len(words) < 2 || words[0] != "echo" || strings.HasPrefix(words[1], "-") {
			return "", errRuns
		}
		return strings.Join(words[1:], " ") + "\n", nil
	}
	return "", errRuns
}

// wordsOf are the words of a simple command.
func wordsOf(config *expand.Config, s *syntax.Stmt) ([]string, error) {
	call, is := s.Cmd.(*syntax.CallExpr)
	if !is || len(call.Assigns) > 0 || len(s.Redirs) > 0 || s.Negated || s.Background || s.Coprocess {
		return nil, errRuns
	}
	var words []string
	for _, w := range call.Args {
		text, err := expand.Literal(config, w)
		if err != nil {
			return nil, err
		}
		words = append(words, text)
	}
	return words, nil
}

// translate is tr(1) for two sets of as many plain characters.
func translate(text, from, to string) (string, error) {
	if from == "-d" {
		from, to = to, ""
	}
	if strings.ContainsFunc(from+to, func(r rune) bool { return r > unicode.MaxASCII }) {
		return "", errRuns
	}
	if strings.ContainsAny(from+to, `-[]\`) && len(from) > 1 || to != "" && len(from) != len(to) {
		return "", errRuns
	}
	return strings.Map(func(r rune) rune {
		at := strings.IndexRune(from, r)
		switch {
		case at < 0:
			return r
		case to == "":
			return -1
		}
		return rune(to[at])
	}, text), nil
}
