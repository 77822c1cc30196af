package config

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/pyrsia/appliance/hcl/nesting"
)

// parseSyntax is hclsyntax.ParseConfig for sources of strangers. The file is never nil; of
// one that nests too deeply it is empty.
func parseSyntax(source []byte, name string) (*hcl.File, hcl.Diagnostics) {
	if problems := nesting.Check(source, name); problems.HasErrors() {
		empty, _ := hclsyntax.ParseConfig(nil, name, hcl.InitialPos)
		return empty, problems
	}
	return hclsyntax.ParseConfig(source, name, hcl.InitialPos)
}
