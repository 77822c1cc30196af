package recipe

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/pyrsia/appliance/hcl/nesting"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// Format is a recipe file's text in the canonical layout: indentation, spaces and
// aligned equals signs. Nothing else changes, comments included. An *Error says what
// keeps it from being read.
func Format(source []byte, name string) ([]byte, error) {
	file, problems := new(hcl.File), nesting.Check(source, name)
	if !problems.HasErrors() {
		file, problems = hclsyntax.ParseConfig(source, name, hcl.InitialPos)
	}
	if problems.HasErrors() {
		return nil, &Error{diagnostics: problems, files: map[string]*hcl.File{name: file}}
	}
	return hclwrite.Format(source), nil
}

// Write is a recipe in the form that people write, with everything that is not a
// default. Parse reads the same recipe from it: the text is canonical, so that two
// recipes can be compared by it. A source that is a folder has none.
func Write(r *record.Recipe) []byte {
	file := hclwrite.NewEmptyFile()
	w := writer{file.Body().AppendNewBlock("recipe", []string{string(r.Package)}).Body()}
	w.texts("platform", r.Platform, "builder", string(r.Builder), "timestamp", time.Unix(r.Timestamp, 0).UTC().Format(time.RFC3339), "resolve", r.Resolve, "supersedes", r.Supersedes)
	for _, s := range r.Sources {
		w.source(s)
	}
	for _, d := range r.Debian {
		w.debian(d)
	}
	w.environment(r.Environment)
	if len(r.Commands) > 0 {
		w.AppendNewline()
		w.list("commands", r.Commands)
	}
	for _, o := range r.Outputs {
		w.output(o, r.Package)
	}
	for _, i := range r.Images {
		w.image(i)
	}
	w.limits(r.Limits)
	return hclwrite.Format(file.Bytes())
}

type writer struct{ *hclwrite.Body }

// texts sets attributes, given as name and value, that are not empty.
func (w writer) texts(pairs ...string) {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			w.SetAttributeValue(pairs[i], cty.StringVal(pairs[i+1]))
		}
	}
}

func (w writer) number(name string, n int64) {
	if n != 0 {
		w.SetAttributeValue(name, cty.NumberIntVal(n))
	}
}

func (w writer) block(kind string, labels ...string) writer {
	w.AppendNewline()
	return writer{w.AppendNewBlock(kind, labels).Body()}
}

// list writes a list one item a line where it has more than one, or a long one.
func (w writer) list(name string, items []string) {
	values := make([]string, len(items))
	long := len(items) > 1
	for i, item := range items {
		values[i] = string(hclwrite.TokensForValue(cty.StringVal(item)).Bytes())
		long = long || len(item) > 60
	}
	text := "[" + strings.Join(values, ", ") + "]"
	if long {
		text = "[\n" + strings.Join(values, ",\n") + ",\n]"
	}
	w.SetAttributeRaw(name, hclwrite.Tokens{{Type: hclsyntax.TokenIdent, Bytes: []byte(text)}})
}

// variables are "NAME=value".
func (w writer) variables(variables []string) {
	if len(variables) == 0 {
		return
	}
	values := map[string]cty.Value{}
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		values[name] = cty.StringVal(value)
	}
	w.SetAttributeValue("variables", cty.ObjectVal(values))
}

// WriteSource is a source block as Write writes it.
func WriteSource(s record.Source) []byte {
	file := hclwrite.NewEmptyFile()
	writer{file.Body()}.source(s)
	return bytes.TrimLeft(hclwrite.Format(file.Bytes()), "\n")
}

func (w writer) source(s record.Source) {
	b := w.block("source")
	b.texts("maven", s.Maven, "url", s.URL, "git", s.Git, "tag", s.Tag, "commit", s.Commit)
	if len(s.Submodules) > 0 {
		b.list("submodules", s.Submodules)
	}
	b.texts("sha256", s.SHA256.String(), "into", s.Into)
	b.number("strip", s.Strip)
	b.texts("newline", s.Newline)
}

func (w writer) debian(d record.Debian) {
	b := w.block("debian")
	b.texts("suite", d.Suite)
	b.list("components", d.Components)
	b.texts("variant", d.Variant)
	b.list("packages", d.Packages)
	b.list("bootstrap", d.BaseOf)
	b.list("keys", d.Keys)
}

func (w writer) environment(e record.Environment) {
	b := w.block("environment")
	b.texts("locale", e.Locale, "time_zone", e.TimeZone, "umask", e.Umask, "newline", e.Newline, "work_dir", e.WorkDir)
	b.variables(e.Variables)
}

func (w writer) output(o record.Output, of artifact.PURL) {
	b := w.block("output", o.File)
	if o.Package != of {
		b.texts("package", string(o.Package))
	}
	b.texts("path", o.Path, "reference", o.Reference)
}

func (w writer) image(i record.Image) {
	b := w.block("image")
	if len(i.Command) > 0 {
		b.list("command", i.Command)
	}
	b.variables(i.Variables)
	b.texts("work_dir", i.WorkDir)
}

func (w writer) limits(l record.Limits) {
	b := w.block("limits")
	b.texts("memory", human(l.Memory), "disk", human(l.Disk), "time", seconds(l.Seconds))
	b.number("cpus", l.CPUs/1000)
	b.number("processes", l.Processes)
}

// seconds is a duration in the largest unit that leaves no fraction.
func seconds(n int64) string {
	for _, unit := range []struct {
		name string
		size int64
	}{{"h", 3600}, {"m", 60}} {
		if n >= unit.size && n%unit.size == 0 {
			return fmt.Sprintf("%d%s", n/unit.size, unit.name)
		}
	}
	return strconv.FormatInt(n, 10) + "s"
}
