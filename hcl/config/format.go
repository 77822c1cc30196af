package config

import (
	"bytes"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

// Format is the source of a file in its canonical layout: indentation, spaces and
// aligned equals signs. Nothing else changes, comments and order included. A source
// with syntax errors has none; whether its settings are right does not matter here.
func Format(source []byte, name string) ([]byte, Diagnostics) {
	d := &decoder{file: name, source: source}
	_, problems := parseSyntax(source, name)
	d.syntax(problems)
	if d.diags.HasErrors() {
		d.diags.sort()
		return nil, d.diags
	}
	// The library finds some layouts only in a second look, and of a few sources none
	// that it would leave alone: these stay as they are.
	formatted := source
	for range 4 {
		before := formatted
		formatted = hclwrite.Format(before)
		if n := len(formatted); n > 0 && formatted[n-1] != '\n' {
			formatted = append(formatted, '\n')
		}
		if bytes.Equal(before, formatted) {
			break
		}
		if !sameTokens(source, formatted) {
			return source, nil
		}
	}
	if again := hclwrite.Format(formatted); !bytes.Equal(again, formatted) {
		return source, nil
	}
	return formatted, nil
}

// sameTokens tells whether two sources differ in nothing but spaces.
func sameTokens(a, b []byte) bool {
	first, _ := hclsyntax.LexConfig(a, "", hcl.InitialPos)
	second, _ := hclsyntax.LexConfig(b, "", hcl.InitialPos)
	return slices.EqualFunc(visible(first), visible(second), func(x, y hclsyntax.Token) bool {
		return x.Type == y.Type && bytes.Equal(bytes.TrimSpace(x.Bytes), bytes.TrimSpace(y.Bytes))
	})
}

// visible are the tokens but for ends of lines and of the file.
func visible(tokens hclsyntax.Tokens) (seen hclsyntax.Tokens) {
	for _, token := range tokens {
		if token.Type != hclsyntax.TokenNewline && token.Type != hclsyntax.TokenEOF {
			seen = append(seen, token)
		}
	}
	return seen
}
