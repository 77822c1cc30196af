package recipe

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// decoder reads one file. It goes on after a problem, so that a person sees all
// of them at once.
type decoder struct {
	diagnostics hcl.Diagnostics
	folders     *Folders // nil where a folder of this machine is no source
}

func (d *decoder) fail(at hcl.Range, summary, detail string, args ...any) {
	d.diagnostics = append(d.diagnostics, &hcl.Diagnostic{
		Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(detail, args...), Subject: &at,
	})
}

func (d *decoder) sort() {
	slices.SortStableFunc(d.diagnostics, func(a, b *hcl.Diagnostic) int {
		return start(a) - start(b)
	})
}

func start(d *hcl.Diagnostic) int {
	if d.Subject == nil {
		return 0
	}
	return d.Subject.Start.Byte
}

// The attributes and blocks that each block has. A trailing "!" marks what must
// be there.
var (
	fileSchema = schema("", "recipe package")
	bodySchema = schema("platform builder timestamp! resolve commands supersedes",
		"source", "debian", "environment", "output file", "image", "limits")
	sourceSchema      = schema("maven url git tag commit submodules folder sha256 into strip newline")
	debianSchema      = schema("suite! components packages! keys! bootstrap! variant")
	environmentSchema = schema("locale time_zone umask newline variables work_dir")
	outputSchema      = schema("package path! reference")
	imageSchema       = schema("command variables work_dir")
	limitsSchema      = schema("memory disk time cpus processes")
)

// schema is a list of attributes and, for each nested block, its type and the
// names of its labels.
func schema(attributes string, blocks ...string) *hcl.BodySchema {
	s := new(hcl.BodySchema)
	for _, name := range strings.Fields(attributes) {
		plain := strings.TrimSuffix(name, "!")
		s.Attributes = append(s.Attributes, hcl.AttributeSchema{Name: plain, Required: plain != name})
	}
	for _, block := range blocks {
		words := strings.Fields(block)
		s.Blocks = append(s.Blocks, hcl.BlockHeaderSchema{Type: words[0], LabelNames: words[1:]})
	}
	return s
}

// content is a body's attributes and blocks. Attributes in it that the schema
// does not know, and those that it misses, are already reported.
type content struct {
	hcl.Attributes
	blocks map[string]hcl.Blocks
	at     hcl.Range // where what is missing belongs
}

func (d *decoder) content(body hcl.Body, s *hcl.BodySchema, at hcl.Range) content {
	c, problems := body.Content(s)
	for _, p := range problems {
		d.diagnostics = append(d.diagnostics, said(p, s))
	}
	return content{Attributes: c.Attributes, blocks: c.Blocks.ByType(), at: at}
}

// wrongLabels is the summary of a block whose name is missing, or one too many.
const wrongLabels = "Wrong labels"

// said is what hcl has against a block in words that say what to write instead. Texts of
// its own that it changes one day pass as they are.
func said(p *hcl.Diagnostic, s *hcl.BodySchema) *hcl.Diagnostic {
	for _, a := range s.Attributes {
		if p.Summary == "Missing required argument" && strings.Contains(p.Detail, strconv.Quote(a.Name)) {
			p.Summary, p.Detail = "Argument missing", fmt.Sprintf("Set %s in this block: %s.", a.Name, required[a.Name])
		}
	}
	for _, b := range s.Blocks {
		kind, form := b.Type, b.Type+" { … }"
		if len(b.LabelNames) > 0 {
			form = labelled[kind]
		}
		if strings.HasPrefix(p.Summary, "Missing ") && strings.HasSuffix(p.Summary, " for "+kind) || p.Summary == "Extraneous label for "+kind {
			p.Summary, p.Detail = wrongLabels, fmt.Sprintf("Write %s.", form)
		}
	}
	return p
}

// required are the arguments that must be there, as people write them.
var required = map[string]string{
	"timestamp": `timestamp = "2026-01-31T12:00:00Z", the time that everything in the build has`,
	"suite":     `suite = "bookworm"`, "packages": `packages = ["…"]`, "keys": `keys = ["…"], fingerprints of the archive's signing keys`,
	"bootstrap": `bootstrap = ["…"], the packages that make the root`, "path": `path = "target/thing-1.0.jar", where the commands leave the file`,
}

// labelled are the blocks that have a name, as people write them.
var labelled = map[string]string{
	"recipe": `recipe "pkg:maven/group/artifact@version" { … }`, "output": `output "thing-1.0.jar" { path = "…" }, with the name that the file is published under`,
}

// one is the only block of a type, or nil.
func (d *decoder) one(c content, kind string) *hcl.Block {
	blocks := c.blocks[kind]
	if len(blocks) == 0 {
		return nil
	}
	for _, extra := range blocks[1:] {
		d.fail(extra.DefRange, "Block twice", "A recipe has at most one %q block; the first is on line %d.", kind, blocks[0].DefRange.Start.Line)
	}
	return blocks[0]
}

func (d *decoder) file(body *hclsyntax.Body) *record.Recipe {
	c := d.content(body, fileSchema, body.MissingItemRange())
	blocks := c.blocks["recipe"]
	if len(blocks) == 0 {
		if !d.diagnostics.HasErrors() {
			d.fail(body.MissingItemRange(), "No recipe", `A recipe file holds one block: recipe "pkg:…" { … }.`)
		}
		return nil
	}
	for _, extra := range blocks[1:] {
		d.fail(extra.DefRange, "Second recipe", "A file holds one recipe; the first is on line %d. Move this one to a file of its own.", blocks[0].DefRange.Start.Line)
	}
	return d.recipe(blocks[0])
}

// Defaults of what a recipe may leave out.
const (
	defaultPlatform = "linux/amd64"
	defaultWorkDir  = "/build"
	defaultMemory   = 4 << 30
	defaultDisk     = 16 << 30
	defaultTime     = time.Hour
)

func (d *decoder) recipe(block *hcl.Block) *record.Recipe {
	c := d.content(block.Body, bodySchema, block.DefRange)
	r := &record.Recipe{
		Package:     d.packageLabel(block),
		Platform:    d.platform(c),
		Builder:     d.builder(c),
		Sources:     d.sources(c),
		Debian:      d.debian(c),
		Commands:    d.commands(c),
		Environment: d.environment(c),
		Resolve:     d.choice(c, "resolve", "", "maven"),
		Images:      d.image(c),
		Timestamp:   d.timestamp(c),
		Limits:      d.limits(c),
		Supersedes:  d.supersedes(c),
	}
	r.Outputs = d.outputs(c, r.Package)
	d.whole(block, c, r)
	return r
}

// whole checks what is about more than one attribute.
func (d *decoder) whole(block *hcl.Block, c content, r *record.Recipe) {
	at := block.DefRange
	if d.hasUnknown() {
		return // what seems to be missing may be what was mistyped
	}
	_, hasBuilder := c.Attributes["builder"]
	debian, image := c.blocks["debian"], c.blocks["image"]
	switch {
	case hasBuilder && len(debian) > 0:
		d.fail(debian[0].DefRange, "Two ways to build", `A recipe runs its commands in a "builder" image, or in a root made of "debian" packages; remove one of them.`)
	case !hasBuilder && len(debian) == 0:
		d.fail(at, "No builder", `Name the image that the commands run in: builder = "pkg:docker/…@…" (or, for a recipe that makes the first image, a "debian" block).`)
	}
	outputs := c.blocks["output"]
	switch {
	case len(image) > 0 && len(outputs) > 0:
		d.fail(outputs[0].DefRange, "Image and files", `A recipe publishes an "image", or the files of its "output" blocks; make two recipes of it.`)
	case len(image) == 0 && len(outputs) == 0:
		d.fail(at, "Nothing to publish", `Add an "output" block for each file to publish, or an "image" block.`)
	case len(image) > 0 && r.Package != "" && r.Package.Type() != "docker":
		d.fail(image[0].DefRange, "Image of another type", "Only a package of type docker is published as an image; this recipe is for %q.", r.Package)
	case len(outputs) > 0 && r.Package != "" && r.Package.Type() == "docker":
		d.fail(outputs[0].DefRange, "Files of an image", `A package of type docker is published as an image; use an "image" block.`)
	}
	if _, hasCommands := c.Attributes["commands"]; !hasCommands && len(debian) == 0 {
		d.fail(at, "No commands", `Say how the outputs are made: commands = ["…"]. Only an image of nothing but Debian packages needs none.`)
	}
	if len(r.Sources) == 0 && len(debian) == 0 {
		d.fail(at, "No source", `Name what to build from in a "source" block.`)
	}
	if d.diagnostics.HasErrors() {
		return
	}
	if n := len(record.MustMarshal(r.Change())); n > maxChange {
		d.fail(at, "Recipe too long", "Its canonical form and the names that it publishes have %d bytes, and %d are allowed, since they stand in the log for ever. Move long commands into the source, and publish many files of one package as a family, such as output \"thing-1.0-*\".", n, maxChange)
	}
}

// hasUnknown tells whether hcl met a name that it does not know, or a block that it left
// out for its labels.
func (d *decoder) hasUnknown() bool {
	return slices.ContainsFunc(d.diagnostics, func(p *hcl.Diagnostic) bool {
		return strings.HasPrefix(p.Summary, "Unsupported ") || p.Summary == wrongLabels
	})
}

func (d *decoder) packageLabel(block *hcl.Block) artifact.PURL {
	p, ok := d.purl(block.Labels[0], block.LabelRanges[0])
	if !ok {
		return ""
	}
	if p.Version() == "" {
		d.fail(block.LabelRanges[0], "No version", `A recipe is for one version: add "@" and the version to the package URL.`)
		return ""
	}
	if strings.HasSuffix(p.Version(), "-SNAPSHOT") {
		d.fail(block.LabelRanges[0], "Snapshot", "Snapshots are never published; name a release.")
	}
	return p
}

var platforms = []string{
	"linux/386", "linux/amd64", "linux/arm/v7", "linux/arm64", "linux/ppc64le", "linux/riscv64", "linux/s390x",
}

func (d *decoder) platform(c content) string {
	if _, set := c.Attributes["platform"]; !set {
		return defaultPlatform
	}
	return d.choice(c, "platform", platforms...)
}

func (d *decoder) builder(c content) artifact.PURL {
	a, set := c.Attributes["builder"]
	if !set {
		return ""
	}
	s, ok := d.text(a)
	if !ok {
		return ""
	}
	at := a.Expr.Range()
	p, ok := d.purl(s, at)
	if !ok {
		return ""
	}
	switch version := p.Version(); {
	case p.Type() != "docker":
		d.fail(at, "Not an image", "A builder is a package of type docker, such as %q.", "pkg:docker/acme/jdk@21")
	case version == "":
		d.fail(at, "No tag", "Name the builder's tag: %q.", string(p)+"@…")
	case strings.HasPrefix(version, "sha256:"):
		d.fail(at, "Builder by digest", "Name the builder by its tag. Each lock pins the digest that was live when it was made.")
	}
	return p
}

func (d *decoder) sources(c content) []record.Source {
	sources := []record.Source{}
	for _, block := range c.blocks["source"] {
		sources = append(sources, d.source(block))
	}
	return sources
}

func (d *decoder) source(block *hcl.Block) record.Source {
	c := d.content(block.Body, sourceSchema, block.DefRange)
	s := record.Source{
		Maven: d.coordinates(c), URL: d.address(c, "url"), Git: d.address(c, "git"),
		Tag:    d.matching(c, "tag", tagPattern, `a tag's name, such as "v1.0"`),
		Commit: d.matching(c, "commit", commitPattern, "the commit's whole name: 40 lower-case hexadecimal digits, as `git rev-parse` prints them"),
		SHA256: d.digest(c, "sha256"),
		Into:   d.folder(c, "into", ""), Strip: d.number(c, "strip", 0, 0, 16), Newline: d.newline(c),
	}
	if _, set := c.Attributes["submodules"]; set {
		s.Submodules = d.names(c, "submodules", submodulePattern, `a folder below the source's root, such as "lib/thing"`)
	}
	d.place(block, c, &s)
	return s
}

// place wants one place to get a source from, and what pins it.
func (d *decoder) place(block *hcl.Block, c content, s *record.Source) {
	var places []string
	for _, name := range []string{"maven", "url", "git", "folder"} {
		if _, set := c.Attributes[name]; set {
			places = append(places, name)
		}
	}
	switch {
	case len(places) > 1:
		d.fail(block.DefRange, "Two places", `A source has one of "maven", "url", "git" and "folder"; this one has %s.`, strings.Join(places, " and "))
	case len(places) == 0 && !d.hasUnknown():
		d.fail(block.DefRange, "No place", `Say where the source is: maven = "group:artifact:version:classifier:extension", url = "https://…", or git = "https://…" with its commit.`)
	case len(places) == 0:
	case places[0] == "folder":
		d.local(c, s)
		return
	}
	if _, set := c.Attributes["sha256"]; !set && !d.hasUnknown() {
		d.fail(block.DefRange, "No digest", `Add sha256 = "…": "pyrsia recipe source" prints it with the rest of the block (of an archive it is what sha256sum prints).`)
	}
	git := len(places) == 1 && places[0] == "git"
	for _, name := range []string{"tag", "commit", "submodules"} {
		if a, set := c.Attributes[name]; set && len(places) == 1 && !git {
			d.fail(a.Range, "Not of a repository", "%s goes with git, and this source is a %s.", name, places[0])
		}
	}
	if _, set := c.Attributes["commit"]; git && !set {
		d.fail(block.DefRange, "No commit", `A tag can be moved. Add commit = "…", the name of the commit that it stands for; "pyrsia recipe source" finds it.`)
	}
}

// local is a folder of this machine, which only its owner's own tries can use.
func (d *decoder) local(c content, s *record.Source) {
	a := c.Attributes["folder"]
	folder, ok := d.text(a)
	switch {
	case !ok:
	case d.folders == nil:
		d.fail(a.Range, "Folder of this machine", `A folder is a source for "pyrsia recipe test" and "pyrsia recipe lock" alone: no other node can get it. Name an archive or a commit before you propose the recipe.`)
	case folder == "" || strings.ContainsRune(folder, 0):
		d.fail(a.Expr.Range(), "Bad folder", `folder cannot be %q; want a folder, such as ".".`, folder)
	default:
		s.URL, s.SHA256 = d.folders.name(folder), artifact.SHA256{}
	}
	for _, name := range []string{"sha256", "tag", "commit", "submodules"} {
		if other, set := c.Attributes[name]; set {
			d.fail(other.Range, "Not of a folder", "%s goes with an archive or a commit; what is in a folder changes.", name)
		}
	}
}

var (
	// What git allows in a name of a reference (git-check-ref-format(1)), less what
	// nobody uses.
	tagPattern       = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.+/@-]{0,199}$`)
	submodulePattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+/@-]{0,199}$`)
	commitPattern    = regexp.MustCompile(`^(?:[0-9a-f]{40}|[0-9a-f]{64})$`)
)

// newline is how lines end; the plain line feed is the absence of the other one, so
// that a recipe that says it is the same recipe.
func (d *decoder) newline(c content) string {
	if n := d.choice(c, "newline", "lf", record.NewlineCRLF); n != "lf" {
		return n
	}
	return ""
}

var (
	suitePattern       = regexp.MustCompile(`^[a-z][a-z0-9-]{1,40}$`)
	componentPattern   = regexp.MustCompile(`^[a-z][a-z0-9-]{1,40}$`)
	debianNamePattern  = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	fingerprintPattern = regexp.MustCompile(`^(?:[0-9A-F]{40}|[0-9A-F]{64})$`)
)

// variants are mmdebstrap's own names of its base sets.
var variants = []string{"apt", "buildd", "custom", "essential", "extract", "important", "minbase", "required"}

func (d *decoder) debian(c content) []record.Debian {
	block := d.one(c, "debian")
	if block == nil {
		return []record.Debian{}
	}
	c = d.content(block.Body, debianSchema, block.DefRange)
	r := record.Debian{
		Suite:      d.matching(c, "suite", suitePattern, `a suite's name, such as "trixie"`),
		Components: []string{"main"},
		Packages:   d.names(c, "packages", debianNamePattern, `a Debian package's name, such as "openjdk-21-jdk-headless"`),
		Keys:       d.names(c, "keys", fingerprintPattern, "an OpenPGP fingerprint: 40 upper-case hexadecimal digits without spaces"),
		BaseOf:     d.names(c, "bootstrap", debianNamePattern, `a Debian package's name, such as "mmdebstrap"`),
		Variant:    "apt",
	}
	if _, set := c.Attributes["components"]; set {
		r.Components = d.names(c, "components", componentPattern, `a component's name, such as "main"`)
	}
	if _, set := c.Attributes["variant"]; set {
		r.Variant = d.choice(c, "variant", variants...)
	}
	if a, set := c.Attributes["keys"]; set && len(r.Keys) == 0 && !d.failedAt(a.Range) {
		d.fail(a.Expr.Range(), "No key", "Name at least one key that must have signed the suite.")
	}
	return []record.Debian{r}
}

// failedAt tells whether a problem inside the range is already reported.
func (d *decoder) failedAt(at hcl.Range) bool {
	return slices.ContainsFunc(d.diagnostics, func(p *hcl.Diagnostic) bool {
		return p.Subject != nil && p.Subject.Start.Byte >= at.Start.Byte && p.Subject.Start.Byte < at.End.Byte
	})
}

// Bounds of a recipe's commands.
const (
	maxCommands = 200
	maxCommand  = 8 << 10 // bytes
)

func (d *decoder) commands(c content) []string {
	a, set := c.Attributes["commands"]
	if !set {
		return []string{}
	}
	items, ok := d.list(a)
	if !ok {
		return nil
	}
	if len(items) == 0 || len(items) > maxCommands {
		d.fail(a.Expr.Range(), "Number of commands", "A recipe has 1 to %d commands, this one %d.", maxCommands, len(items))
	}
	commands := []string{}
	for _, item := range items {
		switch {
		case strings.TrimSpace(item.text) == "":
			d.fail(item.at, "Empty command", "Remove it, or say what to run.")
		case strings.ContainsAny(item.text, "\n\r\x00"):
			d.fail(item.at, "Command of several lines", "Each command is one line for /bin/sh -eu; make one list item of each line.")
		case len(item.text) > maxCommand:
			d.fail(item.at, "Command too long", "It has %d bytes, and %d are allowed.", len(item.text), maxCommand)
		}
		commands = append(commands, item.text)
	}
	return commands
}

var (
	localePattern   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.@-]{0,40}$`)
	zonePattern     = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_/+-]{0,40}$`)
	umaskPattern    = regexp.MustCompile(`^0?[0-7]{3}$`)
	variablePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

func (d *decoder) environment(c content) record.Environment {
	e := record.Environment{Locale: "C.UTF-8", TimeZone: "UTC", Umask: "022", Variables: []string{}, WorkDir: defaultWorkDir}
	block := d.one(c, "environment")
	if block == nil {
		return e
	}
	c = d.content(block.Body, environmentSchema, block.DefRange)
	if _, set := c.Attributes["locale"]; set {
		e.Locale = d.matching(c, "locale", localePattern, `a locale's name, such as "C.UTF-8"`)
	}
	if _, set := c.Attributes["time_zone"]; set {
		e.TimeZone = d.zone(c)
	}
	if _, set := c.Attributes["umask"]; set {
		e.Umask = d.matching(c, "umask", umaskPattern, `three octal digits in quotes, such as "022"`)
		e.Umask = e.Umask[max(0, len(e.Umask)-3):]
	}
	e.Newline = d.newline(c)
	e.Variables = d.variables(c)
	if e.Newline != "" && slices.ContainsFunc(e.Variables, func(v string) bool { return strings.HasPrefix(v, "JAVA_TOOL_OPTIONS=") }) {
		d.fail(c.Attributes["newline"].Range, "Variable set twice", "newline tells Java by JAVA_TOOL_OPTIONS, which variables sets as well; leave one of them out.")
	}
	e.WorkDir = d.folder(c, "work_dir", defaultWorkDir)
	return e
}

// zone is a time zone by its name in the IANA database: of another name a C library makes
// UTC without a word, and Java GMT, and the release has other times in it.
func (d *decoder) zone(c content) string {
	name := d.matching(c, "time_zone", zonePattern, `a time zone's name, such as "UTC"`)
	if name != "" && !record.IsTimeZone(name) {
		d.fail(c.Attributes["time_zone"].Expr.Range(), "Unknown time zone", "There is no time zone %q. Name one of the IANA database, such as \"UTC\", \"Europe/Zurich\" or \"Etc/GMT-2\" (two hours east of Greenwich).", name)
	}
	return name
}

// settled are variables that a recipe sets by attributes of their own.
var settled = map[string]string{
	"SOURCE_DATE_EPOCH": "timestamp", "TZ": "environment { time_zone }", "LANG": "environment { locale }", "LC_ALL": "environment { locale }",
}

func (d *decoder) variables(c content) []string {
	a, set := c.Attributes["variables"]
	if !set {
		return []string{}
	}
	values, ok := d.object(a)
	if !ok {
		return []string{}
	}
	variables := []string{}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		item := values[name]
		if instead, fixed := settled[name]; fixed {
			d.fail(item.at, "Variable set elsewhere", "%s is set by %s.", name, instead)
		}
		if !variablePattern.MatchString(name) {
			d.fail(item.at, "Variable's name", "%q is no name of an environment variable.", name)
		}
		if strings.ContainsAny(item.text, "\n\x00") {
			d.fail(item.at, "Variable's value", "The value of %s has a line break or a zero byte.", name)
		}
		variables = append(variables, name+"="+item.text)
	}
	return variables
}

var referencePattern = regexp.MustCompile(`^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$`)

// maxOutputs bounds the files of a publication.
const maxOutputs = 2_000

func (d *decoder) outputs(c content, of artifact.PURL) []record.Output {
	outputs := []record.Output{}
	seen := map[string]hcl.Range{}
	for _, block := range c.blocks["output"] {
		o := d.output(block, of)
		key := artifact.Name{Package: o.Package, File: o.File}.String()
		if first, twice := seen[key]; twice {
			d.fail(block.DefRange, "Output twice", "%q of this package is also on line %d.", o.File, first.Start.Line)
		}
		seen[key] = block.DefRange
		outputs = append(outputs, o)
	}
	d.overlaps(outputs, seen)
	if len(outputs) > maxOutputs {
		d.fail(c.at, "Too many outputs", "A recipe publishes at most %d files, this one has %d.", maxOutputs, len(outputs))
	}
	slices.SortStableFunc(outputs, func(a, b record.Output) int {
		return strings.Compare(string(a.Package)+"#"+a.File, string(b.Package)+"#"+b.File)
	})
	return outputs
}

// overlaps refuses outputs that a family of the same recipe holds too, as the
// network does. at is where each output stands, by its name.
func (d *decoder) overlaps(outputs []record.Output, at map[string]hcl.Range) {
	names := make([]artifact.Name, 0, len(outputs))
	for _, o := range outputs {
		names = append(names, artifact.Name{Package: o.Package, File: o.File})
	}
	for _, o := range artifact.Overlaps(names) {
		beginning, _ := o.Family.Family()
		d.fail(at[o.Other.String()], "Outputs overlap", "Output %q on line %d publishes all that begins with %q, so %q too. Leave that in the first one's folder and remove this output, or let one of the two names begin differently.", o.Family.File, at[o.Family.String()].Start.Line, beginning, o.Other.File)
	}
}

// maxName bounds a published file's name, bytes: what file systems take.
const maxName = 255

func (d *decoder) output(block *hcl.Block, of artifact.PURL) record.Output {
	c := d.content(block.Body, outputSchema, block.DefRange)
	o := record.Output{File: block.Labels[0], Package: of}
	if a, set := c.Attributes["package"]; set {
		if s, ok := d.text(a); ok {
			o.Package, _ = d.purl(s, a.Expr.Range())
			if ok = ok && o.Package != ""; ok && o.Package.Type() != of.Type() {
				d.fail(a.Expr.Range(), "Another kind of package", "The outputs of %s are packages of type %s, and this is one of type %s.", of, of.Type(), o.Package.Type())
			}
		}
	}
	at := block.LabelRanges[0]
	if len(o.File) > maxName {
		d.fail(at, "File name", "A name has at most %d bytes, and this one has %d.", maxName, len(o.File))
	}
	_, family := artifact.Name{Package: o.Package, File: o.File}.Family()
	if err := artifact.CheckFile(o.File); err != nil || strings.Contains(o.File, "/") {
		d.fail(at, "File name", "%q is no name of a file: want one path segment.", o.File)
	} else if !family && strings.Contains(o.File, "*") {
		d.fail(at, "File name", "%q: a star stands for many files only at the end, after one of - . _", o.File)
	} else if o.Package.Type() == "maven" && !strings.HasPrefix(o.File, o.Package.Name()+"-"+o.Package.Version()) {
		d.fail(at, "File name", "The files of %s begin with %q.", o.Package, o.Package.Name()+"-"+o.Package.Version())
	}
	if a, set := c.Attributes["path"]; set {
		o.Path = d.relative(a)
	}
	o.Reference = d.matching(c, "reference", referencePattern, `a digest with its kind, "sha256:" or "sha512:" and lower-case hexadecimal digits`)
	if family && o.Reference != "" {
		d.fail(c.Attributes["reference"].Range, "Reference of many files", "An output that ends with a star stands for many files; only one of a single name has a reference.")
	}
	return o
}

func (d *decoder) image(c content) []record.Image {
	block := d.one(c, "image")
	if block == nil {
		return []record.Image{}
	}
	c = d.content(block.Body, imageSchema, block.DefRange)
	i := record.Image{Command: []string{}, Variables: d.variables(c), WorkDir: d.folder(c, "work_dir", "/")}
	if a, set := c.Attributes["command"]; set {
		if items, ok := d.list(a); ok {
			for _, item := range items {
				i.Command = append(i.Command, item.text)
			}
		}
	}
	return []record.Image{i}
}

func (d *decoder) limits(c content) record.Limits {
	l := record.Limits{Memory: defaultMemory, Disk: defaultDisk, Seconds: int64(defaultTime / time.Second)}
	block := d.one(c, "limits")
	if block == nil {
		return l
	}
	c = d.content(block.Body, limitsSchema, block.DefRange)
	l.Memory = d.size(c, "memory", defaultMemory, 64<<20, 1<<40)
	l.Disk = d.size(c, "disk", defaultDisk, 64<<20, 8<<40)
	l.Seconds = int64(d.duration(c, "time", defaultTime, time.Second, 24*time.Hour) / time.Second)
	l.CPUs = 1000 * d.number(c, "cpus", 0, 1, 1024)
	l.Processes = d.number(c, "processes", 0, 16, 1<<20)
	return l
}

func (d *decoder) supersedes(c content) string {
	if _, set := c.Attributes["supersedes"]; !set {
		return ""
	}
	s, ok := d.text(c.Attributes["supersedes"])
	if !ok {
		return ""
	}
	// "pyrsia recipe check" and others show a hash with its kind.
	var digest artifact.SHA256
	if err := digest.UnmarshalText([]byte(strings.TrimPrefix(s, "sha256:"))); err != nil || digest.IsZero() {
		d.fail(c.Attributes["supersedes"].Expr.Range(), "Bad hash", `supersedes is the hash of another recipe: "sha256:" and 64 lower-case hexadecimal digits, as "pyrsia recipe list" shows it.`)
		return ""
	}
	return digest.String()
}
