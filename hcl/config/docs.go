package config

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
)

// Value is one setting as a node runs with it.
type Value struct {
	Path  string `json:"path"`
	Value string `json:"value"` // as it would stand in the file; "" where nothing is set
	Range *Range `json:"range"` // where it stands, nil for a default
}

// Effective are all settings of the file with their values, defaults included,
// in the order of the documentation. Secrets are not shown.
func (c *Config) Effective() []Value {
	var all []Value
	for _, setting := range settings {
		for _, s := range c.scopes(setting) {
			path := setting.path(s.label)
			v := Value{Path: path, Value: c.shown(setting, path, s.scope)}
			if r, set := c.origins[v.Path]; set {
				v.Range = &r
			}
			all = append(all, v)
		}
	}
	return all
}

func (s Setting) text(at *scope) string {
	field := reflect.ValueOf(s.at(at)).Elem()
	if s.Secret && !field.IsZero() {
		return `"(sensitive)"`
	}
	if s.kind.shape == isList {
		return "[" + strings.Join(s.items(at), ", ") + "]"
	}
	if s.Default == "" && field.IsZero() {
		return ""
	}
	return s.kind.format(field.Interface())
}

// items are the values of a list, nil of another setting.
func (s Setting) items(at *scope) []string {
	if s.kind.shape != isList {
		return nil
	}
	field := reflect.ValueOf(s.at(at)).Elem()
	items := make([]string, field.Len())
	for i := range items {
		items[i] = s.kind.elem.format(field.Index(i).Interface())
	}
	return items
}

// Schema is one setting as `pyrsia config schema --json` tells it.
type Schema struct {
	Path     string `json:"path"`
	Type     string `json:"type"`
	Unit     string `json:"unit,omitempty"`
	Default  string `json:"default"`
	Required bool   `json:"required"`
	Reload   Reload `json:"reload"`
	Doc      string `json:"doc"`
}

// Schemas is the whole table.
func Schemas() []Schema {
	all := make([]Schema, len(settings))
	for i, s := range settings {
		all[i] = Schema{Path: s.Path, Type: s.Type, Unit: s.Unit, Default: s.DefaultText(), Required: s.Required, Reload: s.Reload, Doc: s.Doc}
	}
	return all
}

// DefaultText is the default for people.
func (s Setting) DefaultText() string {
	switch {
	case s.Required:
		return "must be set"
	case s.Default != "":
		return s.Default
	}
	return s.Derived
}

// Markdown is docs/configuration.md.
func Markdown() []byte {
	var b bytes.Buffer
	b.WriteString(introduction)
	for _, f := range functions {
		fmt.Fprintf(&b, "| `%s` | %s |\n", f.Example, cell(f.Doc))
	}
	b.WriteString("\n## At the top of the file\n\n")
	writeSettings(&b, "")
	for _, block := range blocks {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", block.title(), block.Doc)
		if block.Labels != nil {
			fmt.Fprintf(&b, "\nThe label is %s: %s. Each may stand once.\n", block.Label, strings.Join(quoted(block.Labels), ", "))
		} else if block.Label != "" {
			fmt.Fprintf(&b, "\nThe label is %s. There may be any number of these blocks, each with its own label.\n", block.Label)
		}
		b.WriteString("\n")
		writeSettings(&b, block.Name)
	}
	b.WriteString(conclusion)
	return b.Bytes()
}

func (b Block) title() string {
	if b.Labels != nil {
		return b.Name + " " + strings.Join(quoted(b.Labels), "|")
	}
	if b.Label != "" {
		return b.Name + ` "…"`
	}
	return b.Name
}

func writeSettings(b *bytes.Buffer, block string) {
	b.WriteString("| setting | type | default | reload | |\n|---|---|---|---|---|\n")
	for _, s := range settingsOf(block) {
		value := s.DefaultText()
		if s.Default != "" {
			value = "`" + value + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s | %s |\n", s.Name(), cell(s.Type), cell(value), s.Reload, cell(s.Doc))
	}
}

func cell(s string) string {
	s = strings.ReplaceAll(s, "|", "\\|")
	return strings.ReplaceAll(s, "<", "&lt;")
}

const introduction = `# pyrsia.hcl

<!-- Generated from the table of settings in hcl/config/table.go by
     go test ./hcl/config -run TestMarkdown -update
     A test fails when this file is out of date. -->

One file says what a node is and does. It is looked for at
` + "`/etc/pyrsia/pyrsia.hcl`; `--config` names another. `pyrsia config check` tells" + `
all its problems at once, ` + "`pyrsia config show`" + ` prints every setting a node would
run with, and ` + "`pyrsia config schema`" + ` prints these tables. Everything but
` + "`network.genesis`" + ` has a default.

The smallest useful file:

` + "```hcl" + `
network { genesis = "sha256:0f3c…" }

trusted_build_peer "beta" {
  id        = "12D3KooW…"
  addresses = ["/dns4/beta.example/tcp/4001"]
}
` + "```" + `

Values have their unit in them; a bare number is an error.

| type | examples |
|---|---|
| size | ` + "`\"50GiB\"`, `\"1.5TB\"`" + `: B, kB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB of 1024 |
| rate | ` + "`\"20MiB/s\"`, `\"unlimited\"`" + ` |
| duration | ` + "`\"90s\"`, `\"10m\"`, `\"1h30m\"`, `\"7d\"`" + ` |
| multiaddr | ` + "`\"/dns4/beta.example/tcp/4001\"`, `\"/ip4/192.0.2.7/udp/4001/quic-v1\"`" + ` |
| path | absolute, such as ` + "`\"/var/lib/pyrsia\"`" + ` |

The column "reload" says what a changed setting means for a running node: *live*
takes effect without interrupting anything: what is under way ends as it began,
*role* starts or stops the build modules, *fixed* is refused while the node runs.
` + "`pyrsia config plan`" + ` says what a reload would change, and ` + "`pyrsia reload`" + ` how it went:
in force as a whole, or not at all.

A value may come from outside the file, alone or within a text
(` + "`\"https://${env(\"CACHE\")}/\"`" + `). It is asked for whenever the file is read.

| function | |
|---|---|
`

const conclusion = `
## Blocks of later versions

` + "`trust`, `revoke`, `removed_build_peer`, `upgrade` and `system`" + ` are errors in this
version: a node must not ignore whom it is told to trust less.
`
