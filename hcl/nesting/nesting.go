// Package nesting is how deeply the text of an HCL file may nest: its parser calls
// itself for each level, and a stack that overflows ends a Go program whatever it does.
package nesting

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// What no file that a person wrote comes near.
const (
	maxDepth     = 100  // brackets, blocks and templates within each other
	maxOperators = 2000 // in a whole file: each may stand within the one before
)

// Check looks at a source before it is parsed. It scans, and calls nothing for a level.
func Check(source []byte, name string) hcl.Diagnostics {
	tokens, _ := hclsyntax.LexConfig(source, name, hcl.InitialPos)
	depth, operators := 0, 0
	for _, token := range tokens {
		switch token.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenTemplateInterp,
			hclsyntax.TokenTemplateControl, hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc:
			depth++
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenTemplateSeqEnd,
			hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc:
			depth--
		case hclsyntax.TokenMinus, hclsyntax.TokenBang, hclsyntax.TokenPlus, hclsyntax.TokenStar, hclsyntax.TokenSlash,
			hclsyntax.TokenPercent, hclsyntax.TokenQuestion, hclsyntax.TokenAnd, hclsyntax.TokenOr, hclsyntax.TokenEqualOp,
			hclsyntax.TokenNotEqual, hclsyntax.TokenLessThan, hclsyntax.TokenGreaterThan, hclsyntax.TokenLessThanEq, hclsyntax.TokenGreaterThanEq:
			operators++
		}
		at := token.Range
		switch {
		case depth > maxDepth:
			return refuse(at, fmt.Sprintf("Brackets and blocks stand within each other more than %d times.", maxDepth))
		case operators > maxOperators:
			return refuse(at, fmt.Sprintf("The file has more than %d operators.", maxOperators))
		}
	}
	return nil
}

func refuse(at hcl.Range, detail string) hcl.Diagnostics {
	return hcl.Diagnostics{{Severity: hcl.DiagError, Summary: "Nested too deeply", Detail: detail, Subject: &at}}
}
