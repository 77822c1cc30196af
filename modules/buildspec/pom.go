package buildspec

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
)

// project is what we read of a pom.xml.
type project struct {
	Group     string  `xml:"groupId"`
	Artifact  string  `xml:"artifactId"`
	Version   string  `xml:"version"`
	Packaging string  `xml:"packaging"`
	Parent    parent  `xml:"parent"`
	Modules   modules `xml:"modules"`
	// A module is a subproject in Maven 4's model.
	Subprojects modules    `xml:"subprojects"`
	Properties  properties `xml:"properties"`
	Build       struct {
		FinalName string `xml:"finalName"`
		Directory string `xml:"directory"`
	} `xml:"build"`
	Profiles []struct {
		ID          string  `xml:"id"`
		Modules     modules `xml:"modules"`
		Subprojects modules `xml:"subprojects"`
		Activation  struct {
			Default string `xml:"activeByDefault"`
		} `xml:"activation"`
	} `xml:"profiles>profile"`
}

type parent struct {
	Group    string  `xml:"groupId"`
	Artifact string  `xml:"artifactId"`
	Version  string  `xml:"version"`
	Relative *string `xml:"relativePath"`
}

type modules struct {
	Names []string `xml:"module"`
	More  []string `xml:"subproject"`
}

func (m modules) all() []string { return append(slices.Clone(m.Names), m.More...) }

// properties are the elements of <properties>.
type properties map[string]string

// UnmarshalXML implements xml.Unmarshaler.
func (p *properties) UnmarshalXML(d *xml.Decoder, _ xml.StartElement) error {
	*p = properties{}
	for {
		token, err := d.Token()
		if err != nil {
			return err
		}
		switch token := token.(type) {
		case xml.EndElement:
			return nil
		case xml.StartElement:
			var text string
			if err := d.DecodeElement(&text, &token); err != nil {
				return err
			}
			(*p)[token.Name.Local] = strings.TrimSpace(text)
		}
	}
}

func parsePOM(data []byte) (*project, error) {
	d := xml.NewDecoder(bytes.NewReader(data))
	d.CharsetReader = func(charset string, r io.Reader) (io.Reader, error) {
		if strings.EqualFold(charset, "iso-8859-1") || strings.EqualFold(charset, "latin1") {
			text, err := io.ReadAll(r)
			if err != nil {
				return nil, err
			}
			runes := make([]rune, len(text))
			for i, b := range text {
				runes[i] = rune(b)
			}
			return strings.NewReader(string(runes)), nil
		}
		return r, nil // names and versions are ASCII in any charset that poms are written in
	}
	p := new(project)
	if err := d.Decode(p); err != nil {
		return nil, err
	}
	return p, nil
}

// module is a module of a source tree.
type module struct {
	folder    string // below the tree's root; "." is the root
	file      string // of its pom
	group     string
	artifact  string
	version   string
	packaging string
	finalName string
	directory string // that it is built into, below its own folder
	rewrites  bool   // the pom that is published may be one that a plugin writes
	text      []byte // of its pom
	project   *project
	parent    *module // in this tree or in the repository, nil for none
}

// maxModules bounds what is built at once.
const maxModules = 1000

// reactor are the modules that Maven builds from the pom in a folder, parents first.
type reactor struct {
	tree     *tree
	profiles []string          // named by the command
	defined  map[string]string // by -D in the command
	modules  []*module
	byFile   map[string]*module

	fetch  func(artifact.Maven) ([]byte, error) // a pom of the repository
	ctx    context.Context
	known  map[string]*module // poms that were read, by file
	absent map[string]bool    // poms that the repository does not have
}

func (r *reactor) read(file string) error {
	if r.byFile[file] != nil {
		return nil
	}
	m, err := r.module(file)
	if err != nil {
		return err
	}
	if len(r.modules) >= maxModules {
		return fmt.Errorf("%s: more than %d modules", file, maxModules)
	}
	r.byFile[file] = m
	r.modules = append(r.modules, m)
	for _, name := range r.children(m.project) {
		child := path.Join(m.folder, strings.TrimSpace(r.interpolate(name, m)))
		if _, found := r.tree.poms[child]; !found {
			child = path.Join(child, "pom.xml")
		}
		if _, found := r.tree.poms[child]; !found {
			return fmt.Errorf("%s names the module %.100q, which is not in the source", file, name)
		}
		if err := r.read(child); err != nil {
			return err
		}
	}
	return nil
}

func (r *reactor) children(p *project) []string {
	names := append(p.Modules.all(), p.Subprojects.all()...)
	chosen := false
	for _, profile := range p.Profiles {
		chosen = chosen || slices.Contains(r.profiles, profile.ID)
	}
	for _, profile := range p.Profiles {
		named := slices.Contains(r.profiles, profile.ID)
		byDefault := !chosen && strings.TrimSpace(profile.Activation.Default) == "true" && !slices.Contains(r.profiles, "!"+profile.ID) && !slices.Contains(r.profiles, "-"+profile.ID)
		if named || byDefault {
			names = append(names, append(profile.Modules.all(), profile.Subprojects.all()...)...)
		}
	}
	return names
}

// module reads a pom, and its parents as far as they are in the tree.
func (r *reactor) module(file string) (*module, error) {
	if known := r.byFile[file]; known != nil {
		return known, nil
	}
	return r.moduleBelow(file, 0)
}

func (r *reactor) moduleBelow(file string, depth int) (*module, error) {
	if m := r.known[file]; m != nil {
		return m, nil
	}
	if err := r.ctx.Err(); err != nil {
		return nil, err
	}
	text, found := r.tree.poms[file]
	if !found {
		return nil, fmt.Errorf("the source has no %s", file)
	}
	return r.parsed(file, text, depth)
}

func (r *reactor) parsed(file string, text []byte, depth int) (*module, error) {
	const deepest = 20 // parents of parents
	if depth > deepest {
		return nil, fmt.Errorf("%s: its parents have no end", file)
	}
	p, err := parsePOM(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	m := &module{folder: path.Dir(file), file: file, text: text, project: p, packaging: p.Packaging, finalName: p.Build.FinalName, directory: p.Build.Directory}
	m.rewrites = bytes.Contains(text, []byte("flatten-maven-plugin")) || bytes.Contains(text, []byte("maven-shade-plugin"))
	if err := r.parentOf(m, depth); err != nil {
		return nil, err
	}
	r.inherit(m)
	m.group = r.interpolate(first(p.Group, p.Parent.Group), m)
	m.artifact = r.interpolate(p.Artifact, m)
	m.version = r.interpolate(first(p.Version, p.Parent.Version), m)
	m.finalName = r.interpolate(m.finalName, m)
	m.directory = r.interpolate(m.directory, m)
	r.known[file] = m
	return m, nil
}

// parentOf finds a module's parent, in the tree or else in the repository.
func (r *reactor) parentOf(m *module, depth int) error {
	p := m.project
	if above := r.above(m.file, p); above != "" {
		parent, err := r.moduleBelow(above, depth+1)
		if err != nil {
			return err
		}
		if parent.artifact == p.Parent.Artifact {
			m.parent = parent
			return nil
		}
	}
	if p.Parent.Artifact == "" {
		return nil
	}
	of, err := artifact.ParseMaven(strings.Join([]string{strings.TrimSpace(p.Parent.Group), strings.TrimSpace(p.Parent.Artifact), r.interpolate(strings.TrimSpace(p.Parent.Version), m), "", "pom"}, ":"))
	if err != nil {
		return fmt.Errorf("%s: its parent: %w", m.file, err)
	}
	m.parent, err = r.remote(of, depth+1)
	return err
}

// remoteFolder begins the file names of poms that are not in the tree.
const remoteFolder = "../repository/"

// remote is a parent in the repository, nil for one that is not there: what it says is
// then unknown, as a part of the build will be. Its own folders are not those of this
// source.
func (r *reactor) remote(of artifact.Maven, depth int) (*module, error) {
	file := remoteFolder + of.Path()
	if m := r.known[file]; m != nil || r.absent[file] {
		return m, nil
	}
	text, err := r.fetch(of)
	if errors.Is(err, ErrAbsent) {
		r.absent[file] = true
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return r.parsed(file, text, depth)
}

// above is the file of the parent, "" for one that is not in the tree.
func (r *reactor) above(file string, p *project) string {
	if strings.HasPrefix(file, remoteFolder) || p.Parent.Artifact == "" || p.Parent.Relative != nil && strings.TrimSpace(*p.Parent.Relative) == "" {
		return ""
	}
	relative := "../pom.xml"
	if p.Parent.Relative != nil {
		relative = strings.TrimSpace(*p.Parent.Relative)
	}
	above := path.Join(path.Dir(file), relative)
	if _, found := r.tree.poms[above]; !found {
		above = path.Join(above, "pom.xml")
	}
	if _, found := r.tree.poms[above]; !found || above == file {
		return ""
	}
	return above
}

func (r *reactor) inherit(m *module) {
	if m.parent == nil {
		return
	}
	m.finalName = first(m.finalName, m.parent.project.Build.FinalName)
	m.directory = first(m.directory, m.parent.project.Build.Directory)
	m.rewrites = m.rewrites || m.parent.rewrites
}

func first(texts ...string) string {
	for _, t := range texts {
		if t = strings.TrimSpace(t); t != "" {
			return t
		}
	}
	return ""
}

// interpolate replaces ${…} by what the command, the pom and its parents define. What
// nothing here defines is left as it is.
func (r *reactor) interpolate(text string, m *module) string {
	const rounds = 10 // a property may refer to another
	for range rounds {
		begin := strings.Index(text, "${")
		if begin < 0 {
			return text
		}
		name, rest, found := strings.Cut(text[begin+2:], "}")
		if !found {
			return text
		}
		value, known := r.property(name, m)
		if !known || len(text) > maxValue {
			return text
		}
		text = text[:begin] + value + rest
	}
	return text
}

func (r *reactor) property(name string, m *module) (string, bool) {
	if value, set := r.defined[name]; set {
		return value, true
	}
	for at := m; at != nil; at = at.parent {
		if value, set := at.project.Properties[name]; set {
			return value, true
		}
	}
	p := m.project
	switch strings.TrimPrefix(strings.TrimPrefix(name, "project."), "pom.") {
	case "artifactId":
		return p.Artifact, true
	case "groupId":
		return first(p.Group, p.Parent.Group), true
	case "version":
		return first(p.Version, p.Parent.Version), true
	case "parent.version":
		return p.Parent.Version, true
	case "basedir":
		return ".", true
	case "build.directory":
		return "target", true
	}
	return "", false
}

// timestamp is the project.build.outputTimestamp of a module, or of its parents here.
func (r *reactor) timestamp(m *module) (int64, bool) {
	text, set := r.property("project.build.outputTimestamp", m)
	text = r.interpolate(text, m)
	if !set || text == "" {
		return 0, false
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t.Unix(), true
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	return seconds, err == nil && seconds > 1000
}
