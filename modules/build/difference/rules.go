package difference

import (
	"bytes"
	"path"
	"slices"
	"strings"
)

// Rule is a kind of difference that changes nothing for whoever uses an output.
type Rule string

const (
	Bzip2Compression   Rule = "bzip2 compression"
	GzipCompression    Rule = "gzip compression"
	GzipHeader         Rule = "gzip header"
	LineEndings        Rule = "line endings"
	ManifestAttributes Rule = "jar manifest attributes"
	ManifestOrder      Rule = "jar manifest order"
	PropertiesComment  Rule = "pom.properties comment"
	TarLayout          Rule = "tar layout"
	TarModes           Rule = "tar mode group bits"
	TarOrder           Rule = "tar entry order"
	TarOwners          Rule = "tar owners"
	TarTimes           Rule = "tar times"
	ZipAttributes      Rule = "zip attributes"
	ZipComments        Rule = "zip comments"
	ZipCompression     Rule = "zip compression"
	ZipExtra           Rule = "zip extra fields"
	ZipLayout          Rule = "zip layout"
	ZipOrder           Rule = "zip entry order"
	ZipTimes           Rule = "zip entry times"
	ZstdCompression    Rule = "zstd compression"
)

// explained says what each rule leaves out of account.
var explained = map[Rule]string{
	Bzip2Compression:   "how bzip2 compressed",
	GzipCompression:    "how gzip compressed",
	GzipHeader:         "a gzip file's time, name, comment, system and level",
	LineEndings:        "CRLF or LF at the ends of lines",
	ManifestAttributes: "who built a jar, when and with what: " + strings.Join(manifestNoise, ", "),
	ManifestOrder:      "the order of attributes in a jar's manifest",
	PropertiesComment:  "comment lines of a pom.properties",
	TarLayout:          "the flavour of a tar's headers, and padding",
	TarModes:           "what a tar's entries let their group do",
	TarOrder:           "the order of a tar's entries",
	TarOwners:          "owners and groups of a tar's entries",
	TarTimes:           "times of a tar's entries",
	ZipAttributes:      "modes and versions of a zip's entries",
	ZipComments:        "comments of a zip and its entries",
	ZipCompression:     "how a zip's entries are compressed",
	ZipExtra:           "extra fields of a zip's entries",
	ZipLayout:          "flags, descriptors and local headers of a zip",
	ZipOrder:           "the order of a zip's entries",
	ZipTimes:           "times of a zip's entries",
	ZstdCompression:    "how zstd compressed",
}

// Explain says what a rule leaves out of account, and "" if there is no such rule.
func Explain(rule Rule) string { return explained[rule] }

// textRule makes texts equal that differ in nothing else.
type textRule struct {
	rule    Rule
	applies func(path string) bool
	apply   func([]byte) []byte
}

// textRules are applied in this order.
var textRules = []textRule{
	{LineEndings, always, unixLines},
	{ManifestOrder, isManifest, sortedManifest},
	{ManifestAttributes, isManifest, withoutNoise},
	{PropertiesComment, isProperties, withoutComments},
}

func always(string) bool { return true }

func isManifest(path string) bool { return strings.HasSuffix(path, "!/META-INF/MANIFEST.MF") }

func isProperties(name string) bool { return path.Base(name) == "pom.properties" }

// neededRules are the rules without any of which two texts are not equal. There are
// none if all of them do not make the texts equal.
func neededRules(path string, l, r []byte) []Rule {
	var rules []textRule
	for _, t := range textRules {
		if t.applies(path) {
			rules = append(rules, t)
		}
	}
	if !equalBy(rules, l, r) {
		return nil
	}
	// Those that leave the most out of account stand last and are tried to be done
	// without first.
	for i := len(rules) - 1; i >= 0; i-- {
		if without := slices.Delete(slices.Clone(rules), i, i+1); equalBy(without, l, r) {
			rules = without
		}
	}
	var needed []Rule
	for _, t := range rules {
		needed = append(needed, t.rule)
	}
	return needed
}

func equalBy(rules []textRule, l, r []byte) bool {
	for _, t := range rules {
		l, r = t.apply(l), t.apply(r)
	}
	return bytes.Equal(l, r)
}

func unixLines(text []byte) []byte { return bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")) }

func withoutComments(text []byte) []byte {
	var kept []byte
	for line := range bytes.Lines(text) {
		if !bytes.HasPrefix(line, []byte("#")) {
			kept = append(kept, line...)
		}
	}
	return kept
}

// manifestNoise are the attributes that say how a jar was built and not what it is.
var manifestNoise = []string{"Bnd-LastModified", "Build-Jdk", "Build-Jdk-Spec", "Build-Time", "Built-By", "Created-By"}

// attributes are those of a manifest's sections, each with the lines that continue
// it: all are parts of the manifest itself. An empty line is an attribute that ends its
// section.
func attributes(manifest []byte) (sections [][][]byte) {
	var section [][]byte
	begin, end := 0, 0 // of the attribute that is read
	for line := range bytes.Lines(manifest) {
		at := end
		end += len(line)
		switch {
		case len(bytes.TrimRight(line, "\r\n")) == 0:
			sections = append(sections, append(section, line))
			section = nil
		case line[0] == ' ' && len(section) > 0:
			section[len(section)-1] = manifest[begin:end:end]
		default:
			begin = at
			section = append(section, line)
		}
	}
	return append(sections, section)
}

func attributeName(attribute []byte) string {
	name, _, _ := bytes.Cut(attribute, []byte(":"))
	return string(name)
}

// withoutNoise drops attributes of the first section, which is about the jar as a
// whole.
func withoutNoise(manifest []byte) []byte {
	sections := attributes(manifest)
	sections[0] = slices.DeleteFunc(sections[0], func(attribute []byte) bool {
		return slices.ContainsFunc(manifestNoise, func(noise string) bool {
			return strings.EqualFold(noise, attributeName(attribute))
		})
	})
	return joined(sections)
}

// sortedManifest sorts the attributes of each section. The first of a section
// stays where it is, since it has a meaning: Manifest-Version, or Name.
func sortedManifest(manifest []byte) []byte {
	sections := attributes(manifest)
	for _, section := range sections {
		if len(section) < 3 {
			continue
		}
		end := len(section)
		if len(bytes.TrimRight(section[end-1], "\r\n")) == 0 {
			end--
		}
		slices.SortStableFunc(section[1:end], bytes.Compare)
	}
	return joined(sections)
}

func joined(sections [][][]byte) []byte {
	var all []byte
	for _, section := range sections {
		all = append(all, bytes.Join(section, nil)...)
	}
	return all
}
