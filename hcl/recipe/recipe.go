// Package recipe is the HCL form of recipes: it reads the file that a person
// writes into the record that members endorse.
//
// A file holds one recipe. There are no functions, variables or conditions: two
// readers of a file get the same recipe, whose canonical form is what counts.
//
//	recipe "pkg:maven/org.acme/thing@1.0" {
//	  builder   = "pkg:docker/acme/jdk@21"      # the image to run commands in, by tag
//	  timestamp = "2025-09-30T22:11:17Z"        # SOURCE_DATE_EPOCH
//	  resolve   = "maven"                       # inputs are found by a recording Maven mirror
//
//	  source {                                  # unpacked in order
//	    maven  = "org.acme:thing:1.0:source-release:zip"   # or url = "https://…"
//	    sha256 = "…"
//	    into   = "/opt/thing"                   # default: the working folder
//	    strip  = 1                              # leading path segments to drop, default 0
//	  }
//
//	  commands = ["mvn -B package"]             # each a line for /bin/sh -eu
//
//	  output "thing-1.0.jar" {
//	    path = "target/thing-1.0.jar"           # relative to the working folder
//	  }
//	  output "thing-1.0-*" {                    # every file in a folder, under its own name
//	    path = "target/parts"
//	  }
//	}
//
// hcl/examples/README.md has all of it; the tables in decode.go are the truth.
package recipe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/pyrsia/appliance/hcl/nesting"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// maxFile bounds a recipe file, bytes.
const maxFile = 1 << 20

// maxChange bounds the change that puts a recipe on the log: its canonical form and
// the list of what it publishes. With the endorsements of a majority of 100 members,
// about 450 bytes each, it fits a leaf of the log (at most 65,535 bytes).
const maxChange = 42_000

// Error is every problem found in a recipe file. It prints them one below the
// other, each with its line.
type Error struct {
	diagnostics hcl.Diagnostics
	files       map[string]*hcl.File
}

// width is how wide messages are wrapped, characters.
const width = 78

// Error implements error.
func (e *Error) Error() string {
	var b bytes.Buffer
	// writing to a buffer does not fail
	_ = hcl.NewDiagnosticTextWriter(&b, e.files, width, false).WriteDiagnostics(e.diagnostics)
	return strings.Map(printable, strings.TrimRight(b.String(), "\n"))
}

// printable keeps what stands in a file, which is quoted, from steering a terminal.
func printable(r rune) rune {
	if r == '\n' || unicode.IsPrint(r) {
		return r
	}
	return ' '
}

// Len is the number of problems.
func (e *Error) Len() int { return len(e.diagnostics) }

// Problem is one problem of a file, for output that is not read by people.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"` // from 1
	Summary string `json:"summary"`
	Detail  string `json:"detail"`
}

// Problems are the problems in the order of their lines.
func (e *Error) Problems() []Problem {
	var problems []Problem
	for _, d := range e.diagnostics {
		p := Problem{Summary: d.Summary, Detail: d.Detail}
		if d.Subject != nil {
			p.File, p.Line = d.Subject.Filename, d.Subject.Start.Line
		}
		problems = append(problems, p)
	}
	return problems
}

// Load reads the recipe file at path. An *Error lists everything that is wrong
// with it.
func Load(path string) (*record.Recipe, error) {
	source, err := read(path)
	if err != nil {
		return nil, err
	}
	return Parse(source, path)
}

// LoadLocal is Load for a recipe under development, whose sources may be folders of
// this machine. Such a source has the address that folders tells them by and no digest
// yet: who has packed the folder sets it.
func LoadLocal(path string) (*record.Recipe, *Folders, error) {
	source, err := read(path)
	if err != nil {
		return nil, nil, err
	}
	folders := &Folders{base: filepath.Dir(path)}
	r, err := parseWith(source, path, folders)
	return r, folders, err
}

// Folders are the folders that a recipe under development names as sources.
type Folders struct {
	base  string // of relative ones: the recipe's own
	names []string
}

// folderHost begins the addresses of folders. No name ends in invalid (RFC 6761 §6.4).
const folderHost = "https://folder.invalid/"

// name remembers a folder and is the address that stands for it.
func (f *Folders) name(folder string) string {
	if !filepath.IsAbs(folder) {
		folder = filepath.Join(f.base, folder)
	}
	f.names = append(f.names, folder)
	return fmt.Sprintf("%s%d.tar", folderHost, len(f.names)-1)
}

// Of is the folder that a source stands for; ok is false for a source that is none.
func (f *Folders) Of(s record.Source) (folder string, ok bool) {
	var i int
	if _, err := fmt.Sscanf(s.URL, folderHost+"%d.tar", &i); err != nil || i < 0 || i >= len(f.names) {
		return "", false
	}
	return f.names[i], true
}

func read(path string) ([]byte, error) {
	// A pipe in the recipes folder would hold up whoever reads it for ever.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("recipe %s: not a file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("recipe: %w", err)
	}
	defer f.Close()
	source, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("recipe: %w", err)
	}
	if len(source) > maxFile {
		return nil, fmt.Errorf("recipe %s: larger than %d bytes", path, maxFile)
	}
	return source, nil
}

// Parse reads a recipe file's text; name is what messages call it.
func Parse(source []byte, name string) (*record.Recipe, error) { return parseWith(source, name, nil) }

func parseWith(source []byte, name string, folders *Folders) (*record.Recipe, error) {
	file, problems := new(hcl.File), plainText(source, name)
	if !problems.HasErrors() {
		problems = nesting.Check(source, name)
	}
	if !problems.HasErrors() {
		file, problems = hclsyntax.ParseConfig(source, name, hcl.InitialPos)
	}
	d := &decoder{diagnostics: problems, folders: folders}
	var r *record.Recipe
	if file != nil && !problems.HasErrors() {
		r = d.file(file.Body.(*hclsyntax.Body))
	}
	if d.diagnostics.HasErrors() {
		d.sort()
		return nil, &Error{diagnostics: d.diagnostics, files: map[string]*hcl.File{name: file}}
	}
	return r, nil
}

// plainText refuses what is no text at all, with one sentence instead of one for each byte.
func plainText(source []byte, name string) hcl.Diagnostics {
	first := 0
	for first < len(source) {
		r, size := utf8.DecodeRune(source[first:])
		if r == 0 || r == utf8.RuneError && size == 1 {
			break
		}
		first += size
	}
	if first == len(source) {
		return nil
	}
	at := hcl.Pos{Line: 1 + bytes.Count(source[:first], []byte("\n")), Column: 1, Byte: first}
	return hcl.Diagnostics{{
		Severity: hcl.DiagError, Summary: "Not a text", Detail: "A recipe is text in UTF-8, and this file is not.",
		Subject: &hcl.Range{Filename: name, Start: at, End: at},
	}}
}

// File is a recipe and where it was read from.
type File struct {
	Path   string
	Recipe *record.Recipe
}

// LoadFolder reads every *.hcl file of a folder, in the order of their names.
// What is right is returned also where other files are wrong: one bad recipe
// does not take the others away. The error joins what is wrong in all of them;
// an absent folder has no recipes.
func LoadFolder(path string) ([]File, error) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("recipes: %w", err)
	}
	var files []File
	var problems []error
	of := map[artifact.PURL]string{}
	for _, entry := range entries {
		if entry.IsDir() || filepath.Ext(entry.Name()) != ".hcl" || strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		name := filepath.Join(path, entry.Name())
		r, err := Load(name)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if first, twice := of[r.Package]; twice {
			problems = append(problems, fmt.Errorf("recipe %s: %s already has the recipe of %s; keep one of them", name, first, r.Package))
			continue
		}
		of[r.Package] = name
		files = append(files, File{Path: name, Recipe: r})
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files, errors.Join(problems...)
}
