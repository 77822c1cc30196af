package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
)

// Edit changes a file. Its error is a sentence for the person who asked for it.
type Edit func(*hclwrite.File) error

// Apply is a source after an edit, in the canonical layout: of all that the edit does
// not touch nothing else changes, comments and order included. The result is checked as
// a whole. A source with syntax errors cannot be edited.
func Apply(source []byte, name string, edit Edit) ([]byte, Diagnostics, error) {
	if _, problems := parseSyntax(source, name); problems.HasErrors() {
		_, diags := Parse(source, name)
		return nil, diags, nil
	}
	file, problems := hclwrite.ParseConfig(source, name, hcl.InitialPos)
	if problems.HasErrors() {
		_, diags := Parse(source, name)
		return nil, diags, nil
	}
	if err := edit(file); err != nil {
		return nil, nil, err
	}
	edited := file.Bytes()
	if n := len(edited); n > 0 && edited[n-1] != '\n' {
		edited = append(edited, '\n')
	}
	_, diags := Parse(edited, name)
	return edited, diags, nil
}

// SetRole makes the node one of a role; RoleUnset leaves it to systemctl again.
func SetRole(role Role) Edit {
	return func(f *hclwrite.File) error {
		body := f.Body()
		switch a := body.GetAttribute("role"); {
		case role == RoleUnset && a == nil:
		case role == RoleUnset:
			return cut(f, a.BuildTokens(nil), false)
		case a != nil:
			body.SetAttributeValue("role", cty.StringVal(string(role)))
		default:
			return setFirst(f, "role", string(role))
		}
		return nil
	}
}

// setFirst puts an attribute at the top of a file, after the comment that heads it:
// behind a block it would look like part of it.
func setFirst(f *hclwrite.File, name, value string) error {
	tokens := f.BuildTokens(nil)
	n := heading(tokens)
	line := fmt.Sprintf("%s = %s\n", name, stringTokens(value).Bytes())
	if n < len(tokens) && tokens[n].Type != hclsyntax.TokenNewline {
		line += "\n"
	}
	return reparse(f, slices.Concat(tokens[:n].Bytes(), []byte(line), tokens[n:].Bytes()))
}

// reparse gives a file other content.
func reparse(f *hclwrite.File, source []byte) error {
	changed, problems := hclwrite.ParseConfig(source, "", hcl.InitialPos)
	if problems.HasErrors() {
		return fmt.Errorf("the file cannot be changed by a command: %s; change it yourself", problems[0].Summary)
	}
	*f = *changed
	return nil
}

// heading is how many tokens a file's first comment has, if an empty line follows it:
// the comment is then the file's, and not that of what comes next.
func heading(tokens hclwrite.Tokens) int {
	n := 0
	for n < len(tokens) && tokens[n].Type == hclsyntax.TokenComment {
		n++
	}
	if n > 0 && n < len(tokens) && tokens[n].Type == hclsyntax.TokenNewline {
		return n + 1
	}
	return 0
}

// AddPeer trusts another build node.
func AddPeer(label, id string, addresses []string) Edit {
	return func(f *hclwrite.File) error {
		if blockOf(f, "trusted_build_peer", label) != nil {
			return fmt.Errorf("there is a trusted_build_peer %q already; `pyrsia peer remove %s` first, or choose another name", label, label)
		}
		block := appendBlock(f, "trusted_build_peer", label)
		block.Body().SetAttributeValue("id", cty.StringVal(id))
		if len(addresses) > 0 {
			block.Body().SetAttributeValue("addresses", texts(addresses))
		}
		return nil
	}
}

// RemovePeer takes a build node out, by its label or its identity.
func RemovePeer(name string) Edit {
	return func(f *hclwrite.File) error {
		for _, block := range f.Body().Blocks() {
			if block.Type() != "trusted_build_peer" || len(block.Labels()) != 1 {
				continue
			}
			if id := block.Body().GetAttribute("id"); block.Labels()[0] == name || id != nil && literal(id) == name {
				return removeBlock(f, block)
			}
		}
		return fmt.Errorf("there is no trusted_build_peer %q", name)
	}
}

// MirrorChange is what AddMirror changes; "" and nil leave as it is.
type MirrorChange struct {
	Packages   []string // to add
	Upstream   string
	Unverified string
}

// AddMirror declares an ecosystem, or changes what is declared of it.
func AddMirror(kind string, change MirrorChange) Edit {
	return func(f *hclwrite.File) error {
		block := blockOf(f, "mirror", kind)
		if block == nil {
			block = appendBlock(f, "mirror", kind)
		} else if err := unfold(f, block); err != nil {
			return err
		} else {
			block = blockOf(f, "mirror", kind)
		}
		body := block.Body()
		for _, set := range []struct{ name, value string }{{"upstream", change.Upstream}, {"unverified", change.Unverified}} {
			if set.value != "" {
				body.SetAttributeValue(set.name, cty.StringVal(set.value))
			}
		}
		if len(change.Packages) == 0 {
			return nil
		}
		return addItems(body, "packages", change.Packages)
	}
}

// RemoveMirror takes packages out of an ecosystem, or the whole of it where none are
// named.
func RemoveMirror(kind string, packages []string) Edit {
	return func(f *hclwrite.File) error {
		block := blockOf(f, "mirror", kind)
		if block == nil {
			return fmt.Errorf("there is no mirror %q", kind)
		}
		if len(packages) == 0 {
			return removeBlock(f, block)
		}
		return removeItems(block.Body(), "packages", packages)
	}
}

func blockOf(f *hclwrite.File, name, label string) *hclwrite.Block {
	for _, block := range f.Body().Blocks() {
		if block.Type() == name && len(block.Labels()) == 1 && block.Labels()[0] == label {
			return block
		}
	}
	return nil
}

// appendBlock adds a block at the end, an empty line above it.
func appendBlock(f *hclwrite.File, name, label string) *hclwrite.Block {
	body := f.Body()
	if tokens := f.BuildTokens(nil); len(tokens) > 1 {
		if n := len(tokens) - 1; tokens[n-1].Type != hclsyntax.TokenNewline && tokens[n-1].Type != hclsyntax.TokenComment {
			body.AppendNewline() // the last line had no end
		}
		body.AppendNewline()
	}
	return body.AppendNewBlock(name, []string{label})
}

// unfold gives a block that stands on one line several, so that more can be put in.
func unfold(f *hclwrite.File, block *hclwrite.Block) error {
	tokens := block.BuildTokens(nil)
	begin := slices.IndexFunc(tokens, func(t *hclwrite.Token) bool { return t.Type == hclsyntax.TokenOBrace })
	end := len(tokens) - 1
	for end > begin && tokens[end].Type != hclsyntax.TokenCBrace {
		end--
	}
	if begin < 0 || end == begin || endsLine(tokens[begin+1]) {
		return nil
	}
	all := f.BuildTokens(nil)
	at := slices.Index(all, tokens[0])
	if at < 0 {
		return nil
	}
	line := hclwrite.Tokens{token(hclsyntax.TokenNewline, "\n")}
	unfolded := slices.Concat(all[:at+begin+1], line, all[at+begin+1:at+end])
	if end > begin+1 {
		unfolded = append(unfolded, line...)
	}
	unfolded = append(unfolded, all[at+end:]...)
	return reparse(f, unfolded.Bytes())
}

// removeBlock takes a block out, with the comment right above it and the empty line
// that set it off.
func removeBlock(f *hclwrite.File, block *hclwrite.Block) error {
	return cut(f, block.BuildTokens(nil), true)
}

// cut takes the tokens of a block or attribute out of a file.
func cut(f *hclwrite.File, tokens hclwrite.Tokens, comments bool) error {
	all := f.BuildTokens(nil)
	name := slices.IndexFunc(tokens, func(t *hclwrite.Token) bool { return t.Type == hclsyntax.TokenIdent })
	from, to := slices.Index(all, tokens[name]), slices.Index(all, tokens[len(tokens)-1])+1
	for comments && from > 0 && all[from-1].Type == hclsyntax.TokenComment && (from == 1 || endsLine(all[from-2])) {
		from--
	}
	kept := slices.Delete(slices.Clone(all), from, to)
	blank := func(i int) bool { // an empty line begins there
		return i < len(kept) && kept[i].Type == hclsyntax.TokenNewline && (i == 0 || endsLine(kept[i-1]))
	}
	for blank(from) && (from == 0 || blank(from-1)) {
		kept = slices.Delete(kept, from, from+1)
	}
	if from > 0 && from == len(kept)-1 && blank(from-1) { // at the end of the file
		kept = slices.Delete(kept, from-1, from)
	}
	return reparse(f, kept.Bytes())
}

// endsLine tells whether a token ends a line: comments have their end in themselves.
func endsLine(t *hclwrite.Token) bool {
	return t.Type == hclsyntax.TokenNewline || t.Type == hclsyntax.TokenComment && strings.HasSuffix(string(t.Bytes), "\n")
}

func texts(values []string) cty.Value {
	all := make([]cty.Value, len(values))
	for i, v := range values {
		all[i] = cty.StringVal(v)
	}
	return cty.TupleVal(all)
}

// literal is the text of an attribute that is a plain string, "" of any other.
func literal(a *hclwrite.Attribute) string {
	item, rest := nextItem(a.Expr().BuildTokens(nil))
	if len(rest) > 0 {
		return ""
	}
	return item
}

// nextItem is the plain string that tokens begin with, and what follows it. Of what is
// no plain string it is "".
func nextItem(tokens hclwrite.Tokens) (text string, rest hclwrite.Tokens) {
	if len(tokens) < 3 || tokens[0].Type != hclsyntax.TokenOQuote || tokens[1].Type != hclsyntax.TokenQuotedLit || tokens[2].Type != hclsyntax.TokenCQuote {
		return "", tokens
	}
	expr, problems := hclsyntax.ParseExpression(tokens[:3].Bytes(), "", hcl.InitialPos)
	if problems.HasErrors() {
		return "", tokens
	}
	value, problems := expr.Value(nil)
	if problems.HasErrors() || value.Type() != cty.String {
		return "", tokens
	}
	return value.AsString(), tokens[3:]
}

// addItems puts texts at the end of a list that may have comments in it.
func addItems(body *hclwrite.Body, name string, items []string) error {
	a := body.GetAttribute(name)
	if a == nil {
		body.SetAttributeValue(name, texts(items))
		return nil
	}
	tokens := a.Expr().BuildTokens(nil)
	if len(tokens) < 2 || tokens[0].Type != hclsyntax.TokenOBrack || tokens[len(tokens)-1].Type != hclsyntax.TokenCBrack {
		return fmt.Errorf("%s is no list that can be added to; write it into the file yourself", name)
	}
	for _, item := range items {
		tokens = withItem(tokens, item)
	}
	body.SetAttributeRaw(name, tokens)
	return nil
}

func token(kind hclsyntax.TokenType, text string) *hclwrite.Token {
	return &hclwrite.Token{Type: kind, Bytes: []byte(text)}
}

func stringTokens(text string) hclwrite.Tokens {
	return hclwrite.TokensForValue(cty.StringVal(text))
}

// withItem is a list with one more item: on a line of its own where the others are.
func withItem(list hclwrite.Tokens, item string) hclwrite.Tokens {
	end := len(list) - 1 // of the items: the closing bracket
	last := end
	for last > 1 && (list[last-1].Type == hclsyntax.TokenNewline || list[last-1].Type == hclsyntax.TokenComment) {
		last--
	}
	lines := slices.ContainsFunc(list, func(t *hclwrite.Token) bool {
		return endsLine(t)
	})
	var added hclwrite.Tokens
	comma := last > 1 && list[last-1].Type == hclsyntax.TokenComma
	if last > 1 && !comma {
		added = append(added, token(hclsyntax.TokenComma, ","))
	}
	made := slices.Clone(list[:last])
	made = append(made, added...)
	if !lines {
		if last > 1 {
			made = append(made, spaced(stringTokens(item))...)
		} else {
			made = append(made, stringTokens(item)...)
		}
		return append(made, list[end])
	}
	// What stood behind the last item, its comment say, stays behind it.
	made = append(made, list[last:end]...)
	if !endsLine(made[len(made)-1]) {
		made = append(made, token(hclsyntax.TokenNewline, "\n"))
	}
	made = append(made, indented(stringTokens(item), list)...)
	made = append(made, token(hclsyntax.TokenComma, ","), token(hclsyntax.TokenNewline, "\n"))
	closing := *list[end]
	return append(made, &closing)
}

func spaced(tokens hclwrite.Tokens) hclwrite.Tokens {
	tokens[0].SpacesBefore = 1
	return tokens
}

// indented is like the first item of a list.
func indented(tokens, list hclwrite.Tokens) hclwrite.Tokens {
	for i, t := range list {
		if i > 0 && t.Type == hclsyntax.TokenOQuote && endsLine(list[i-1]) {
			tokens[0].SpacesBefore = t.SpacesBefore
			return tokens
		}
	}
	tokens[0].SpacesBefore = 4
	return tokens
}

// removeItems takes texts out of a list, each with its comma, and with its line where
// nothing else is on it.
func removeItems(body *hclwrite.Body, name string, items []string) error {
	a := body.GetAttribute(name)
	for _, item := range items {
		if a == nil {
			return fmt.Errorf("%s has no %s", name, strconv.Quote(item))
		}
		tokens, found := withoutItem(a.Expr().BuildTokens(nil), item)
		if !found {
			return fmt.Errorf("%s has no %s as such; see `pyrsia config show`", name, strconv.Quote(item))
		}
		body.SetAttributeRaw(name, tokens)
		a = body.GetAttribute(name)
	}
	return nil
}

func withoutItem(list hclwrite.Tokens, item string) (hclwrite.Tokens, bool) {
	for i := range list {
		text, rest := nextItem(list[i:])
		if len(rest) == len(list[i:]) || text != item {
			continue
		}
		from, to := i, i+3
		if to < len(list) && list[to].Type == hclsyntax.TokenComma {
			to++
		} else if from > 0 && list[from-1].Type == hclsyntax.TokenComma {
			from--
		}
		alone := from > 0 && endsLine(list[from-1])
		if alone && to < len(list) && list[to].Type == hclsyntax.TokenComment {
			to++ // it is about the item; its end is that of the line
		} else if alone && to < len(list) && list[to].Type == hclsyntax.TokenNewline {
			to++
		} else if to < len(list) && from > 0 && list[from-1].Type == hclsyntax.TokenOBrack {
			list[to].SpacesBefore = 0
		}
		return slices.Delete(slices.Clone(list), from, to), true
	}
	return list, false
}
