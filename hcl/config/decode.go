package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"golang.org/x/sys/unix"
)

// MaxFile bounds pyrsia.hcl in bytes.
const MaxFile = 1 << 20

// ReadFile reads a configuration's source; its error leaves out the path.
func ReadFile(path string) ([]byte, error) { return readFile(path, MaxFile) }

// Load reads and checks the file. The Config is nil exactly if one of the
// diagnostics is an error.
func Load(path string) (*Config, Diagnostics) {
	source, err := readFile(path, MaxFile)
	if err != nil {
		d := Diagnostic{Severity: Error, Summary: "Cannot read the configuration", Range: Range{File: path},
			Detail: fmt.Sprintf("Cannot read the configuration: %s.", err),
			Fix:    "give --config FILE, or write one (`pyrsia config schema` lists the settings)"}
		if errors.Is(err, os.ErrPermission) {
			d.Fix = fmt.Sprintf("let the node's user read it, as with chgrp pyrsia %s && chmod 0640 %s, and run this as that user or as root", path, path)
		}
		return nil, Diagnostics{d}
	}
	return Parse(source, path)
}

// readFile reads a file of at most limit bytes; its error leaves out the path.
func readFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		return nil, errors.New("not a file")
	}
	if err == nil && info.Size() > limit {
		return nil, fmt.Errorf("%d bytes long, the limit is %d", info.Size(), limit)
	}
	data, err := readAtOnce(path, limit)
	if inner, ok := errors.AsType[*os.PathError](err); ok {
		return nil, plain(inner.Err)
	}
	return data, err
}

// readAtOnce reads a file of at most limit bytes without waiting: what the kernel shows as
// a file may have nothing to say for ever, as /proc/kmsg. Its descriptor is one that Go
// would wait with, so that it is read without Go's own files.
func readAtOnce(path string, limit int64) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var data []byte
	chunk := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, chunk)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return nil, errors.New("not a file: it has no end")
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return data, nil
		}
		if data = append(data, chunk[:n]...); int64(len(data)) > limit {
			return nil, fmt.Errorf("longer than the limit of %d bytes", limit)
		}
	}
}

func plain(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("no such file")
	}
	return err
}

// Parse checks the source of a file; name is what diagnostics call it.
func Parse(source []byte, name string) (*Config, Diagnostics) {
	d := &decoder{
		file: name, source: source,
		config: &Config{File: name, source: source, origins: map[string]Range{}, secrets: map[string]string{}},
		blocks: map[string]Range{},
	}
	file, problems := parseSyntax(source, name)
	d.syntax(problems)
	if body, ok := file.Body.(*hclsyntax.Body); ok && body != nil {
		d.body("", "", body, &scope{Config: d.config})
		d.nested(body)
	}
	d.defaults()
	if !d.broken {
		// With a syntax error parts of the file may be missing from the tree,
		// so that what looks left out or contradictory may not be.
		d.missing(file.Body.MissingItemRange())
		d.check()
	}
	d.diags.sort()
	if d.diags.HasErrors() {
		return nil, d.diags
	}
	return d.config, d.diags
}

type decoder struct {
	file   string
	source []byte
	config *Config
	diags  Diagnostics
	broken bool             // the syntax tree is not whole
	blocks map[string]Range // where each block begins, by "name" or "name.label"
}

func (d *decoder) at(r hcl.Range) Range {
	if r.Start.Line == 0 {
		return Range{File: d.file}
	}
	return Range{File: d.file, Line: r.Start.Line, Column: r.Start.Column, EndLine: r.End.Line, EndColumn: r.End.Column}
}

// report adds a diagnostic with the lines of its places.
func (d *decoder) report(diag Diagnostic) {
	diag.Snippet = snippet(d.source, diag.Range)
	if diag.Other != nil {
		diag.Other.Snippet = snippet(d.source, diag.Other.Range)
	}
	d.diags = append(d.diags, diag)
}

func (d *decoder) fail(setting string, at Range, summary, detail, fix string) {
	d.report(Diagnostic{Severity: Error, Setting: setting, Summary: summary, Detail: detail, Fix: fix, Range: at})
}

func (d *decoder) warn(setting string, at Range, summary, detail, fix string) {
	d.report(Diagnostic{Severity: Warning, Setting: setting, Summary: summary, Detail: detail, Fix: fix, Range: at})
}

// syntax takes over what the parser of HCL found.
func (d *decoder) syntax(problems hcl.Diagnostics) {
	seen := map[Range]bool{}
	for _, p := range problems {
		d.broken = true
		at := Range{File: d.file}
		if p.Subject != nil {
			at = d.at(*p.Subject)
		}
		if seen[at] {
			continue // the same mistake in other words
		}
		seen[at] = true
		d.report(Diagnostic{Severity: Error, Summary: p.Summary, Detail: p.Detail, Range: at})
	}
}

// body decodes the attributes of the file or of one block into the scope.
func (d *decoder) body(block, label string, body *hclsyntax.Body, s *scope) {
	known := settingsOf(block)
	for _, attribute := range inOrder(body.Attributes) {
		i := slices.IndexFunc(known, func(s Setting) bool { return s.Name() == attribute.Name })
		if i < 0 {
			d.unknownAttribute(block, attribute)
			continue
		}
		d.attribute(known[i], label, attribute, s)
	}
	if block == "" {
		return
	}
	for _, inner := range body.Blocks {
		fix := didYouMean(inner.Type, names(known))
		if slices.Contains(names(known), inner.Type) {
			fix = fmt.Sprintf("write %s = …", inner.Type)
		} else if _, ok := findBlock(inner.Type); ok {
			fix = "move it out of the " + block + " block"
		}
		d.fail("", d.at(inner.TypeRange), "Unexpected block",
			fmt.Sprintf("There are no blocks in a %s block, and so no %q.", block, inner.Type), fix)
	}
}

func inOrder(attributes hclsyntax.Attributes) []*hclsyntax.Attribute {
	return slices.SortedFunc(maps.Values(attributes), func(a, b *hclsyntax.Attribute) int {
		return a.SrcRange.Start.Byte - b.SrcRange.Start.Byte
	})
}

func names(settings []Setting) []string {
	all := make([]string, len(settings))
	for i, s := range settings {
		all[i] = s.Name()
	}
	return all
}

func (d *decoder) unknownAttribute(block string, a *hclsyntax.Attribute) {
	where := "at the top of the file"
	if block != "" {
		where = "in a " + block + " block"
	}
	fix := ""
	if b, ok := findBlock(a.Name); ok && block == "" {
		fix = fmt.Sprintf("%s is a block: write %s, without =", a.Name, header(b))
	} else if fix = didYouMean(a.Name, names(settingsOf(block))); fix == "" {
		fix = elsewhere(a.Name)
	}
	d.fail("", d.at(a.NameRange), "Unknown setting", fmt.Sprintf("There is no setting %q %s.", a.Name, where), fix)
}

func header(b Block) string {
	if b.Label == "" {
		return b.Name + " { … }"
	}
	if b.Labels != nil {
		return fmt.Sprintf("%s %q { … }", b.Name, b.Labels[0])
	}
	return b.Name + ` "name" { … }`
}

// elsewhere finds the block in which a name that stands in the wrong place is
// known.
func elsewhere(name string) string {
	for _, s := range settings {
		if s.Name() != name {
			continue
		}
		b, ok := findBlock(s.block())
		if !ok {
			return fmt.Sprintf("%s stands at the top of the file, outside all blocks", name)
		}
		return fmt.Sprintf("%s belongs into %s", name, header(b))
	}
	return ""
}

// nested decodes the blocks of the file.
func (d *decoder) nested(body *hclsyntax.Body) {
	for _, found := range body.Blocks {
		b, ok := findBlock(found.Type)
		if !ok {
			d.unknownBlock(found)
			continue
		}
		label, ok := d.label(b, found)
		if !ok || !d.first(b, label, found) {
			// What is inside is still worth checking, into nowhere.
			d.body(b.Name, label, found.Body, &scope{Config: new(Config), peer: new(BuildPeer), mirror: new(Mirror)})
			continue
		}
		d.body(b.Name, label, found.Body, d.open(b, label))
	}
}

func (d *decoder) unknownBlock(found *hclsyntax.Block) {
	if what, ok := later[found.Type]; ok {
		d.fail("", d.at(found.TypeRange), "Block of a later version",
			fmt.Sprintf("This version does not know the block %q (%s) and must not ignore it.", found.Type, what), "take it out until you upgrade")
		return
	}
	all := make([]string, len(blocks))
	for i, b := range blocks {
		all[i] = b.Name
	}
	fix := didYouMean(found.Type, all)
	if slices.ContainsFunc(settingsOf(""), func(s Setting) bool { return s.Name() == found.Type }) {
		fix = fmt.Sprintf("%s is a setting: write %s = …", found.Type, found.Type)
	} else if fix == "" {
		fix = elsewhere(found.Type)
	}
	d.fail("", d.at(found.TypeRange), "Unknown block", fmt.Sprintf("There is no block %q.", found.Type), fix)
}

// label checks a block's labels; the label is "" if there is none to use.
func (d *decoder) label(b Block, found *hclsyntax.Block) (string, bool) {
	if b.Label == "" {
		if len(found.Labels) == 0 {
			return "", true
		}
		d.fail("", d.at(found.LabelRanges[0]), "Unexpected label", fmt.Sprintf("A %s block has no label.", b.Name), "write "+header(b))
		return "", false
	}
	if len(found.Labels) != 1 {
		at := found.DefRange()
		if len(found.Labels) > 1 {
			at = found.LabelRanges[1]
		}
		d.fail("", d.at(at), "Wrong number of labels",
			fmt.Sprintf("A %s block has one label, %s; this has %d.", b.Name, b.Label, len(found.Labels)), "write "+header(b))
		return "", false
	}
	label := found.Labels[0]
	if b.Labels != nil && !slices.Contains(b.Labels, label) {
		d.fail("", d.at(found.LabelRanges[0]), "Unknown label",
			fmt.Sprintf("There is no %s %q: want %s.", b.Name, label, strings.Join(quoted(b.Labels), ", ")), labelFix(label, b.Labels))
		return "", false
	}
	if !labelForm(label) {
		d.fail("", d.at(found.LabelRanges[0]), "Bad label",
			fmt.Sprintf("%.60q is no label: want 1 to 63 letters, digits, dots, dashes or underscores.", label), "")
		return "", false
	}
	return label, true
}

// labelFix knows what people call the ecosystems elsewhere.
func labelFix(label string, all []string) string {
	switch strings.ToLower(label) {
	case "oci", "container", "image", "podman", "containerd":
		return write(MirrorDocker)
	case "maven2", "gradle", "java", "mvn":
		return write(MirrorMaven)
	case "deb", "apt":
		return write(MirrorDebian)
	}
	return didYouMean(label, all)
}

func labelForm(label string) bool {
	if label == "" || len(label) > 63 {
		return false
	}
	return !strings.ContainsFunc(label, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
	})
}

func quoted(texts []string) []string {
	all := make([]string, len(texts))
	for i, text := range texts {
		all[i] = strconv.Quote(text)
	}
	return all
}

// first tells whether this is the first block of its name and label, and
// reports the second with both places.
func (d *decoder) first(b Block, label string, found *hclsyntax.Block) bool {
	key, what := b.Name, "block "+b.Name
	if label != "" {
		key, what = b.Name+"."+label, fmt.Sprintf("block %s %q", b.Name, label)
	}
	at := d.at(found.DefRange())
	earlier, twice := d.blocks[key]
	if !twice {
		d.blocks[key] = at
		return true
	}
	fix := "put the settings of both into one"
	if b.Label != "" && b.Labels == nil {
		fix = "give one of them another name, or put them into one"
	}
	d.report(Diagnostic{Severity: Error, Summary: "Block stands twice", Range: at,
		Detail: fmt.Sprintf("The %s stands here for the second time.", what), Fix: fix,
		Other: &Related{Text: "the first one:", Range: earlier}})
	return false
}

// open makes room for a block's values.
func (d *decoder) open(b Block, label string) *scope {
	s := &scope{Config: d.config}
	switch b.Name {
	case "trusted_build_peer":
		d.config.TrustedBuildPeers = append(d.config.TrustedBuildPeers, BuildPeer{Label: label})
		s.peer = &d.config.TrustedBuildPeers[len(d.config.TrustedBuildPeers)-1]
	case "mirror":
		d.config.Mirrors = append(d.config.Mirrors, Mirror{Kind: label})
		s.mirror = &d.config.Mirrors[len(d.config.Mirrors)-1]
	case "build":
		d.config.Build.Declared = true
	}
	return s
}

// attribute decodes one value.
func (d *decoder) attribute(setting Setting, label string, a *hclsyntax.Attribute, s *scope) {
	path := setting.path(label)
	if s.Config == d.config {
		// Also a bad value was set: its default must not take part in checks.
		d.config.origins[path] = d.at(a.Expr.Range())
		if secret(a.Expr) {
			d.config.secrets[path] = expression(d.source, a.Expr)
		}
	}
	field := reflect.ValueOf(setting.at(s)).Elem()
	if setting.kind.shape != isList {
		if v, ok := d.value(path, setting.kind, label, a.Expr); ok {
			field.Set(reflect.ValueOf(v))
		}
		return
	}
	tuple, ok := a.Expr.(*hclsyntax.TupleConsExpr)
	if !ok {
		fix := "write a list: " + a.Name + " = [ … ]"
		if text := expression(d.source, a.Expr); len(text) < 60 && !strings.Contains(text, "\n") {
			fix = fmt.Sprintf("put it in brackets: %s = [%s]", a.Name, text)
		}
		d.fail(path, d.at(a.Expr.Range()), "Not a list", fmt.Sprintf("%s is a %s.", path, setting.kind.name), fix)
		return
	}
	all := reflect.MakeSlice(field.Type(), 0, len(tuple.Exprs))
	seen := map[string]Range{}
	for _, expr := range tuple.Exprs {
		v, ok := d.value(path, *setting.kind.elem, label, expr)
		if !ok {
			continue
		}
		text, at := setting.kind.elem.format(v), d.at(expr.Range())
		if earlier, twice := seen[text]; twice {
			d.report(Diagnostic{Severity: Error, Setting: path, Summary: "Value stands twice", Range: at,
				Detail: fmt.Sprintf("%s stands twice in %s.", text, path), Fix: "take one of them out",
				Other: &Related{Text: "the first one:", Range: earlier}})
			continue
		}
		seen[text] = at
		all = reflect.Append(all, reflect.ValueOf(v))
	}
	field.Set(all)
}

func expression(source []byte, e hclsyntax.Expression) string {
	return string(e.Range().SliceBytes(source))
}

// noteReads notes the files that an expression reads.
func (d *decoder) noteReads(e hclsyntax.Expression) {
	hclsyntax.VisitAll(e, func(n hclsyntax.Node) hcl.Diagnostics {
		call, is := n.(*hclsyntax.FunctionCallExpr)
		if !is || call.Name != "file" || len(call.Args) != 1 {
			return nil
		}
		if path, problems := call.Args[0].Value(evaluation); !problems.HasErrors() && path.IsKnown() && !path.IsNull() && path.Type() == cty.String {
			d.config.reads = append(d.config.reads, path.AsString())
		}
		return nil
	})
}

// value evaluates one expression to a value of the kind.
func (d *decoder) value(path string, k kind, label string, e hclsyntax.Expression) (any, bool) {
	at := d.at(e.Range())
	if name, ok := e.(*hclsyntax.ScopeTraversalExpr); ok && len(name.Traversal) == 1 {
		word := name.Traversal.RootName()
		d.fail(path, at, "Quotes missing", fmt.Sprintf("%s is %s; %s without quotes is the name of something.", path, withArticle(k.name), word), write(word))
		return nil, false
	}
	d.noteReads(e)
	v, problems := e.Value(evaluation)
	if problems.HasErrors() {
		for _, p := range problems {
			where := at
			if p.Subject != nil {
				where = d.at(*p.Subject)
			}
			detail, fix := d.noValue(e, p)
			d.fail(path, where, p.Summary, detail, fix)
		}
		return nil, false
	}
	if _, called := e.(*hclsyntax.FunctionCallExpr); called && k.shape != isString && v.IsWhollyKnown() && v.Type() == cty.String {
		// Functions give texts; of the settings that are none the text is read.
		return d.parse(path, k, label, v.AsString(), e)
	}
	if !v.IsWhollyKnown() {
		// The parser gave up on this expression; its own error says why.
		d.fail(path, at, "No value", "This is no value.", "write the value itself")
		return nil, false
	}
	text, ok := d.shape(path, k, v, at)
	if !ok {
		return nil, false
	}
	return d.parse(path, k, label, text, e)
}

// noValue says why an expression has no value, and what to do about it.
func (d *decoder) noValue(e hclsyntax.Expression, p *hcl.Diagnostic) (detail, fix string) {
	const itself = "write the value itself"
	call := p.Expression
	if found, ok := call.(*hclsyntax.FunctionCallExpr); ok {
		if i := slices.IndexFunc(functions, func(f Function) bool { return f.Name == found.Name }); i >= 0 {
			if _, after, ok := strings.Cut(p.Detail, `" failed: `); ok {
				return strings.ToUpper(after[:1]) + after[1:], "mend that, or " + itself
			}
			return p.Detail, "write it like " + functions[i].Example
		}
		all := make([]string, len(functions))
		for i, f := range functions {
			all[i] = f.Name
		}
		fix := didYouMean(found.Name, all)
		if fix == "" {
			fix = itself + "; the functions are " + strings.Join(all, ", ")
		}
		return fmt.Sprintf("There is no function %q.", found.Name), fix
	}
	return p.Detail, itself
}

// secret tells whether a credential is part of an expression.
func secret(e hclsyntax.Expression) (found bool) {
	hclsyntax.VisitAll(e, func(node hclsyntax.Node) hcl.Diagnostics { //nolint:errcheck // it gives none
		call, ok := node.(*hclsyntax.FunctionCallExpr)
		found = found || ok && call.Name == "credential"
		return nil
	})
	return found
}

// parse reads the text of a value that an expression has.
func (d *decoder) parse(path string, k kind, label, text string, e hclsyntax.Expression) (any, bool) {
	at := d.at(e.Range())
	if k.shape == isBool && text != "true" && text != "false" {
		d.fail(path, at, "Bad value for "+path, fmt.Sprintf("%.60q is neither true nor false.", text), "")
		return nil, false
	}
	parsed, err := k.parse(label, text)
	if err != nil && secret(e) {
		err = wrongf("", "What %s gives is not %s.", expression(d.source, e), withArticle(k.name))
	}
	if err == nil {
		return parsed, true
	}
	w, ok := errors.AsType[*wrong](err)
	if !ok {
		w = &wrong{detail: err.Error()}
	}
	d.fail(path, at, "Bad value for "+path, w.detail, w.fix)
	return nil, false
}

// shape checks a value's HCL type and gives its text. HCL itself would turn 50
// into "50" and "true" into true without a word.
func (d *decoder) shape(path string, k kind, v cty.Value, at Range) (string, bool) {
	wrongType := func(got, fix string) (string, bool) {
		d.fail(path, at, "Wrong type", fmt.Sprintf("%s is %s, and not %s.", path, withArticle(k.name), got), fix)
		return "", false
	}
	if v.IsNull() {
		return wrongType("null", "leave the line out to have the default")
	}
	switch v.Type() {
	case cty.String:
		return stringShape(k, v.AsString(), wrongType)
	case cty.Number:
		return numberShape(k, v.AsBigFloat().Text('f', -1), wrongType)
	case cty.Bool:
		if k.shape == isBool {
			return strconv.FormatBool(v.True()), true
		}
		return wrongType("true or false", "")
	}
	if v.Type().IsTupleType() {
		return wrongType("a list", "write one value, without brackets")
	}
	return wrongType("a "+v.Type().FriendlyName(), "")
}

func stringShape(k kind, text string, wrongType func(got, fix string) (string, bool)) (string, bool) {
	switch {
	case k.shape == isString:
		return text, true
	case k.shape == isBool && (text == "true" || text == "false"):
		return wrongType("a text", "write "+text+", without quotes")
	case k.shape == isNumber:
		if _, err := strconv.ParseInt(text, 10, 64); err == nil {
			return wrongType("a text", "write "+text+", without quotes")
		}
	}
	return wrongType("a text", "")
}

func numberShape(k kind, text string, wrongType func(got, fix string) (string, bool)) (string, bool) {
	switch {
	case k.shape == isNumber:
		return text, true
	case k.shape == isBool:
		return wrongType("a number", "write true or false")
	case k.name == "size":
		return wrongType("a bare number", fmt.Sprintf("say the unit: write %q or %q", text+"GiB", text+"MiB"))
	case k.name == "rate":
		return wrongType("a bare number", fmt.Sprintf("say the unit: write %q or %q", text+"MiB/s", text+"kB/s"))
	case k.name == "duration":
		return wrongType("a bare number", fmt.Sprintf("say the unit: write %q or %q", text+"m", text+"s"))
	}
	return wrongType("a number", "put it in quotes: "+strconv.Quote(text))
}

func withArticle(name string) string {
	if strings.HasPrefix(name, `"`) {
		return name
	}
	if strings.ContainsRune("aeiouAEIOUU", rune(name[0])) && !strings.HasPrefix(name, "URL") {
		return "an " + name
	}
	return "a " + name
}

// defaults fills in what the file leaves out, in every block that it has.
func (d *decoder) defaults() {
	for _, setting := range settings {
		for _, s := range d.scopes(setting) {
			if _, set := d.config.origins[setting.path(s.label)]; set || setting.Default == "" {
				continue
			}
			reflect.ValueOf(setting.at(s.scope)).Elem().Set(setting.defaultValue(s.label))
		}
	}
	if _, set := d.config.origins["network.genesis_file"]; !set {
		d.config.Network.GenesisFile = d.config.Storage.Data + "/genesis.json"
	}
}

type labelled struct {
	label string
	scope *scope
}

// scopes are the places that a setting has in this file: one, or one for each
// block of its name.
func (d *decoder) scopes(setting Setting) []labelled { return d.config.scopes(setting) }

func (c *Config) scopes(setting Setting) []labelled {
	var all []labelled
	switch setting.block() {
	case "trusted_build_peer":
		for i := range c.TrustedBuildPeers {
			peer := &c.TrustedBuildPeers[i]
			all = append(all, labelled{peer.Label, &scope{Config: c, peer: peer}})
		}
	case "mirror":
		for i := range c.Mirrors {
			mirror := &c.Mirrors[i]
			all = append(all, labelled{mirror.Kind, &scope{Config: c, mirror: mirror}})
		}
	default:
		all = append(all, labelled{"", &scope{Config: c}})
	}
	return all
}

// defaultValue reads the default as if it stood in the file, so that the
// documentation cannot promise another one.
func (s Setting) defaultValue(label string) reflect.Value {
	expr, problems := hclsyntax.ParseExpression([]byte(s.Default), "default of "+s.Path, hcl.InitialPos)
	if problems.HasErrors() {
		panic(problems)
	}
	d := &decoder{file: "default of " + s.Path, source: []byte(s.Default), config: &Config{origins: map[string]Range{}, secrets: map[string]string{}}}
	into := &scope{Config: d.config, peer: new(BuildPeer), mirror: &Mirror{Kind: label}}
	d.attribute(s, label, &hclsyntax.Attribute{Name: s.Name(), Expr: expr}, into)
	if d.diags.HasErrors() {
		panic(d.diags)
	}
	return reflect.ValueOf(s.at(into)).Elem()
}

// Peek reads two settings that the command line needs before a node can run,
// and also from a file that is not finished or not there: where the state is,
// and where the control socket is. What cannot be read is the default.
func Peek(path string) (data, socket string) {
	d := &decoder{file: path, config: &Config{origins: map[string]Range{}, secrets: map[string]string{}}, blocks: map[string]Range{}}
	if source, err := readFile(path, MaxFile); err == nil {
		d.source = source
		file, _ := parseSyntax(source, path)
		if body, ok := file.Body.(*hclsyntax.Body); ok && body != nil {
			d.nested(body)
		}
	}
	for _, key := range []string{"storage.data", "admin.socket"} {
		if d.failed(key) {
			delete(d.config.origins, key)
		}
	}
	d.defaults()
	return d.config.Storage.Data, d.config.Admin.Socket
}

// PeekRole reads the role, also from a file that is not finished. What cannot be read is
// RoleUnset.
func PeekRole(path string) Role {
	source, err := readFile(path, MaxFile)
	if err != nil {
		return RoleUnset
	}
	d := &decoder{file: path, source: source, config: &Config{origins: map[string]Range{}, secrets: map[string]string{}}, blocks: map[string]Range{}}
	file, _ := parseSyntax(source, path)
	if body, ok := file.Body.(*hclsyntax.Body); ok && body != nil {
		d.body("", "", body, &scope{Config: d.config})
	}
	return d.config.Role
}

// missing reports settings without which nothing works.
func (d *decoder) missing(end hcl.Range) {
	for _, setting := range settings {
		if !setting.Required {
			continue
		}
		for _, s := range d.scopes(setting) {
			path := setting.path(s.label)
			if _, set := d.config.origins[path]; set {
				continue
			}
			block := strings.TrimSuffix(path, "."+setting.Name())
			at, found := d.blocks[block]
			fix := fmt.Sprintf("add %s = … to the %s block", setting.Name(), setting.block())
			if !found {
				at = Range{File: d.file}
				if len(d.source) > 0 {
					at = d.at(end)
				}
				fix = fmt.Sprintf("add %s { %s = … }", setting.block(), setting.Name())
			}
			if path == "network.genesis" {
				fix = "add network { genesis = \"sha256:…\" }: `pyrsia network init` prints the line, or ask who runs the network"
			}
			d.fail(path, at, "Setting missing", fmt.Sprintf("%s must be set.", path), fix)
		}
	}
}
