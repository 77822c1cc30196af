package recipe

import (
	"fmt"
	"math/big"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/pyrsia/appliance/modules/artifact"
)

// item is one string of a list or object, and where it stands.
type item struct {
	text string
	at   hcl.Range
}

// value is a literal. Functions and variables are reported by hcl itself, since
// there is nothing to evaluate them with.
func (d *decoder) value(e hcl.Expression) (cty.Value, bool) {
	v, problems := e.Value(nil)
	for _, p := range problems {
		if p.Summary == "Variables not allowed" {
			p.Detail = `A recipe has no variables. What the shell shall replace is $NAME, or $${NAME} with two dollars.`
		}
	}
	d.diagnostics = append(d.diagnostics, problems...)
	if problems.HasErrors() {
		return v, false
	}
	if v.IsNull() {
		d.fail(e.Range(), "No value", "null is no value here; leave the attribute out for its default.")
		return v, false
	}
	return v, true
}

// text is an attribute's string. Unlike gohcl it converts nothing: a number
// where a string belongs is a mistake worth telling.
func (d *decoder) text(a *hcl.Attribute) (string, bool) { return d.string(a.Name, a.Expr) }

func (d *decoder) string(name string, e hcl.Expression) (string, bool) {
	v, ok := d.value(e)
	if !ok {
		return "", false
	}
	if v.Type() != cty.String {
		d.fail(e.Range(), "Not a string", "%s is a string: put it in quotes.", name)
		return "", false
	}
	return v.AsString(), true
}

func (d *decoder) list(a *hcl.Attribute) ([]item, bool) {
	tuple, ok := a.Expr.(*hclsyntax.TupleConsExpr)
	if !ok {
		d.fail(a.Expr.Range(), "Not a list", "%s is a list of strings: put them in brackets, separated by commas.", a.Name)
		return nil, false
	}
	items := []item{}
	for _, e := range tuple.Exprs {
		s, fine := d.string("Each item of "+a.Name, e)
		ok = ok && fine
		items = append(items, item{text: s, at: e.Range()})
	}
	return items, ok
}

func (d *decoder) object(a *hcl.Attribute) (map[string]item, bool) {
	object, ok := a.Expr.(*hclsyntax.ObjectConsExpr)
	if !ok {
		d.fail(a.Expr.Range(), "Not an object", "%s is an object of strings: { NAME = \"value\" }.", a.Name)
		return nil, false
	}
	items := map[string]item{}
	for _, pair := range object.Items {
		name, fine := d.string("A name in "+a.Name, pair.KeyExpr)
		value, fine2 := d.string("Each value of "+a.Name, pair.ValueExpr)
		if !fine || !fine2 {
			continue
		}
		if _, twice := items[name]; twice {
			d.fail(pair.KeyExpr.Range(), "Name twice", "%s already has a value for %q.", a.Name, name)
		}
		items[name] = item{text: value, at: pair.KeyExpr.Range()}
	}
	return items, true
}

// choice is one of a few strings; "" where the attribute is absent.
func (d *decoder) choice(c content, name string, values ...string) string {
	a, set := c.Attributes[name]
	if !set {
		return ""
	}
	s, ok := d.text(a)
	if !ok || slices.Contains(values, s) {
		return s
	}
	var known []string
	for _, v := range values {
		if v != "" {
			known = append(known, strconv.Quote(v))
		}
	}
	d.fail(a.Expr.Range(), "Unknown value", "%s cannot be %q; want %s.%s", name, s, strings.Join(known, " or "), didYouMean(s, values))
	return ""
}

// matching is a string of a certain form.
func (d *decoder) matching(c content, name string, form *regexp.Regexp, what string) string {
	a, set := c.Attributes[name]
	if !set {
		return ""
	}
	s, ok := d.text(a)
	if ok && !form.MatchString(s) {
		d.fail(a.Expr.Range(), "Bad value", "%s cannot be %q; want %s.", name, s, what)
		return ""
	}
	return s
}

// names are the strings of a list, sorted and each of a certain form: a set,
// whose order in the file says nothing.
func (d *decoder) names(c content, name string, form *regexp.Regexp, what string) []string {
	names := []string{}
	a, set := c.Attributes[name]
	if !set {
		return names
	}
	items, _ := d.list(a)
	for _, i := range items {
		switch {
		case i.text == "":
		case !form.MatchString(i.text):
			d.fail(i.at, "Bad value", "%q is not %s.", i.text, what)
		case slices.Contains(names, i.text):
			d.fail(i.at, "Value twice", "%q is already in %s.", i.text, name)
		default:
			names = append(names, i.text)
		}
	}
	slices.Sort(names)
	return names
}

func (d *decoder) purl(s string, at hcl.Range) (artifact.PURL, bool) {
	if !strings.HasPrefix(s, "pkg:") {
		d.fail(at, "Bad package URL", `%q is no package URL; want one such as "pkg:maven/org.acme/thing@1.0" or "pkg:docker/acme/tool@1.0".`, s)
		return "", false
	}
	p, err := artifact.ParsePURL(s)
	if err != nil {
		d.fail(at, "Bad package URL", "%v.", err)
		return "", false
	}
	return p, true
}

func (d *decoder) digest(c content, name string) artifact.SHA256 {
	a, set := c.Attributes[name]
	if !set {
		return artifact.SHA256{}
	}
	s, ok := d.text(a)
	if !ok {
		return artifact.SHA256{}
	}
	var digest artifact.SHA256
	if err := digest.UnmarshalText([]byte(s)); err != nil {
		why := fmt.Sprintf("This has %d characters", len(s))
		if len(s) == 64 {
			why = "This has other characters"
		}
		d.fail(a.Expr.Range(), "Bad digest", "%s is a SHA-256 digest: 64 lower-case hexadecimal digits. %s.", name, why)
		return artifact.SHA256{}
	}
	if digest.IsZero() {
		d.fail(a.Expr.Range(), "Bad digest", "This is no digest of a file. Download it from where you trust it and run sha256sum.")
	}
	return digest
}

func (d *decoder) coordinates(c content) string {
	a, set := c.Attributes["maven"]
	if !set {
		return ""
	}
	s, ok := d.text(a)
	if !ok {
		return ""
	}
	m, err := artifact.ParseMaven(s)
	switch {
	case err != nil:
		d.fail(a.Expr.Range(), "Bad Maven coordinates", `%q: want "group:artifact:version:classifier:extension", such as "org.acme:thing:1.0:source-release:zip".`, s)
	case strings.HasSuffix(m.Version, "-SNAPSHOT"):
		d.fail(a.Expr.Range(), "Snapshot", "Snapshots change and are no source; name a release.")
	case !archive(m.Extension):
		d.fail(a.Expr.Range(), "Not an archive", "A source is a .zip, .jar, .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz or .tar.zst file; this is a .%s file.", m.Extension)
	}
	return s
}

func archive(extension string) bool {
	return slices.Contains([]string{"zip", "jar", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz", "tar.zst"}, extension)
}

func (d *decoder) address(c content, name string) string {
	a, set := c.Attributes[name]
	if !set {
		return ""
	}
	s, ok := d.text(a)
	if !ok {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Fragment != "" {
		d.fail(a.Expr.Range(), "Bad address", "%q: want an http or https address without user name and fragment.", s)
	}
	return s
}

// folder is an absolute, clean path.
func (d *decoder) folder(c content, name, absent string) string {
	a, set := c.Attributes[name]
	if !set {
		return absent
	}
	s, ok := d.text(a)
	if ok && (!path.IsAbs(s) || path.Clean(s) != s || artifact.CheckFile("r"+s) != nil && s != "/") {
		d.fail(a.Expr.Range(), "Bad folder", `%s cannot be %q; want an absolute path without "." and "..", such as %q.`, name, s, "/build")
		return absent
	}
	return s
}

// relative is a clean path below the working folder.
func (d *decoder) relative(a *hcl.Attribute) string {
	s, ok := d.text(a)
	if ok && artifact.CheckFile(s) != nil {
		d.fail(a.Expr.Range(), "Bad path", `%s cannot be %q; want a path below the working folder without "." and "..", such as %q.`, a.Name, s, "target/thing-1.0.jar")
	}
	return s
}

func (d *decoder) number(c content, name string, absent, least, most int64) int64 {
	a, set := c.Attributes[name]
	if !set {
		return absent
	}
	v, ok := d.value(a.Expr)
	if !ok {
		return absent
	}
	if v.Type() != cty.Number {
		d.fail(a.Expr.Range(), "Not a number", "%s is a whole number, without quotes.", name)
		return absent
	}
	n, accuracy := v.AsBigFloat().Int64()
	if accuracy != big.Exact || n < least || n > most {
		d.fail(a.Expr.Range(), "Number out of range", "%s is a whole number from %d to %d.", name, least, most)
		return absent
	}
	return n
}

var sizePattern = regexp.MustCompile(`^([0-9]{1,12})(KiB|MiB|GiB|TiB)$`)

func (d *decoder) size(c content, name string, absent, least, most int64) int64 {
	a, set := c.Attributes[name]
	if !set {
		return absent
	}
	v, ok := d.value(a.Expr)
	if !ok {
		return absent
	}
	m := []string(nil)
	if v.Type() == cty.String {
		m = sizePattern.FindStringSubmatch(v.AsString())
	}
	if m == nil {
		d.fail(a.Expr.Range(), "Bad size", "%s is a number with a unit, KiB, MiB, GiB or TiB: %q.", name, "4GiB")
		return absent
	}
	n, _ := strconv.ParseInt(m[1], 10, 64)
	shift := map[string]uint{"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}[m[2]]
	if n > most>>shift || n<<shift < least {
		d.fail(a.Expr.Range(), "Size out of range", "%s is from %s to %s.", name, human(least), human(most))
		return absent
	}
	return n << shift
}

// human is a size in the largest unit that leaves no fraction.
func human(n int64) string {
	units := []string{"KiB", "MiB", "GiB", "TiB"}
	i := 0
	for n >>= 10; n >= 1024 && n%1024 == 0 && i < len(units)-1; n >>= 10 {
		i++
	}
	return fmt.Sprintf("%d%s", n, units[i])
}

func (d *decoder) duration(c content, name string, absent, least, most time.Duration) time.Duration {
	a, set := c.Attributes[name]
	if !set {
		return absent
	}
	v, ok := d.value(a.Expr)
	if !ok {
		return absent
	}
	t, err := time.Duration(0), error(nil)
	if v.Type() == cty.String {
		t, err = time.ParseDuration(v.AsString())
	}
	if v.Type() != cty.String || err != nil || t%time.Second != 0 {
		d.fail(a.Expr.Range(), "Bad duration", "%s is a number with a unit, s, m or h: %q.", name, "30m")
		return absent
	}
	if t < least || t > most {
		d.fail(a.Expr.Range(), "Duration out of range", "%s is from %v to %v.", name, least, most)
		return absent
	}
	return t
}

// timestamp is SOURCE_DATE_EPOCH. Zip archives, and so every jar, know no time
// before 1980.
func (d *decoder) timestamp(c content) int64 {
	a, set := c.Attributes["timestamp"]
	if !set {
		return 0
	}
	s, ok := d.text(a)
	if !ok {
		return 0
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || t.Nanosecond() != 0 || t.Year() < 1980 || t.Year() > 2106 {
		d.fail(a.Expr.Range(), "Bad timestamp", "timestamp cannot be %q; want a time since 1980 in the form %q.", s, "2025-09-30T22:11:17Z")
		return 0
	}
	return t.Unix()
}
