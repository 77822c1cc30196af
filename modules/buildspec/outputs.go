package buildspec

import (
	"bytes"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// outputs finds the modules in the source, what of each was released, and where the
// build leaves it.
func (m *making) outputs() error {
	r := &reactor{
		tree: m.tree, byFile: map[string]*module{}, defined: map[string]string{}, fetch: m.fetchPOM, ctx: m.ctx,
		known: map[string]*module{}, absent: map[string]bool{},
	}
	r.arguments(m.arguments)
	root, err := m.rootPOM()
	if err != nil {
		return err
	}
	if err := r.read(root); err != nil {
		return fmt.Errorf("%s: %w", m.recipe.Package, err)
	}
	if err := m.timestamp(r); err != nil {
		return err
	}
	m.skips(r)
	m.recipe.Outputs = []record.Output{}
	found := false
	for _, module := range r.modules {
		files, err := m.released(module)
		if err != nil {
			return err
		}
		if len(files) == 0 {
			continue
		}
		if err := m.foreign(module); err != nil {
			return err
		}
		if err := m.publish(module, files); err != nil {
			return err
		}
		found = found || module.purl() == m.recipe.Package
	}
	if !found {
		return m.wrong("artifactId", "none of the %d modules that %s builds is %s", len(r.modules), root, m.recipe.Package)
	}
	m.missing()
	slices.SortStableFunc(m.recipe.Outputs, func(a, b record.Output) int {
		return strings.Compare(string(a.Package)+"#"+a.File, string(b.Package)+"#"+b.File)
	})
	return nil
}

// online are plugins that ask the network, make no file of the release, and can be told
// not to run.
var online = map[string]string{"pgpverify-maven-plugin": "-Dpgpverify.skip=true"}

// skips leaves out what would ask the network in vain.
func (m *making) skips(r *reactor) {
	for plugin, skip := range online {
		mentions := func(of *module) bool { return bytes.Contains(of.text, []byte(plugin)) }
		found := false
		for _, of := range r.modules {
			for ; of != nil; of = of.parent {
				found = found || mentions(of)
			}
		}
		if found && !strings.Contains(strings.Join(m.arguments, " "), skip) {
			last := len(m.recipe.Commands) - 1
			m.recipe.Commands[last] += " " + skip
			m.note("%s asks the network, and is left out by %s", plugin, skip)
		}
	}
}

// rootPOM is the pom that the command builds. An archive of one module of a larger
// repository has the module in its root, so that a folder which the command names and
// the archive does not have is the root.
func (m *making) rootPOM() (string, error) {
	named := m.named()
	for _, file := range []string{path.Join(named, "pom.xml"), named} {
		if _, found := m.tree.poms[file]; found {
			return file, nil
		}
	}
	if _, found := m.tree.poms["pom.xml"]; !found || m.recipe.Sources[0].Git != "" {
		return "", fmt.Errorf("%s: the source has no %s", m.recipe.Package, path.Join(named, "pom.xml"))
	}
	last := len(m.recipe.Commands) - 1
	m.recipe.Commands[last] = inRoot(m.recipe.Commands[last], named)
	m.note("the archive has %s as its root", named)
	return "pom.xml", nil
}

// named is the folder or the pom that the command names, "." for none.
func (m *making) named() string {
	for i, word := range m.arguments {
		switch {
		case (word == "-f" || word == "--file" || word == "cd") && i+1 < len(m.arguments):
			return path.Clean(m.arguments[i+1])
		case strings.HasPrefix(word, "-f="), strings.HasPrefix(word, "--file="):
			_, name, _ := strings.Cut(word, "=")
			return path.Clean(name)
		}
	}
	return "."
}

// inRoot is the command without the folder that it names.
func inRoot(command, folder string) string {
	words := strings.Fields(command)
	for i, word := range words {
		name, _, joined := strings.Cut(word, "=")
		switch {
		case joined && (name == "-f" || name == "--file"):
			words[i] = name + "=."
		case i > 0 && slices.Contains([]string{"-f", "--file", "cd"}, words[i-1]) && path.Clean(strings.Trim(word, `"'`)) == folder:
			words[i] = "."
		}
	}
	return strings.Join(words, " ")
}

// fetchPOM is a parent that lies in the repository.
func (m *making) fetchPOM(of artifact.Maven) ([]byte, error) {
	file, _, err := m.download(of.Path())
	if err != nil {
		return nil, err
	}
	defer discard(file)
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(file, maxPOM))
}

// foreign tells of a module of another group than the release's, which a project may
// have, and refuses one that is not of the same organisation: a recipe publishes under
// any name that it lists.
func (m *making) foreign(of *module) error {
	if of.group == m.group {
		return nil
	}
	if organisation(of.group) != organisation(m.group) {
		return fmt.Errorf("%s: %s publishes %s, of another organisation; write the recipe by hand if that is right", m.recipe.Package, of.file, of.purl())
	}
	m.note("%s publishes %s, of another group", of.file, of.purl())
	return nil
}

// organisation is what a group begins with: the reversed name of a domain.
func organisation(group string) string {
	parts := strings.SplitN(group, ".", 3)
	return strings.Join(parts[:min(len(parts), 2)], ".")
}

// arguments are what the command says about profiles and properties.
func (r *reactor) arguments(words []string) {
	for i, word := range words {
		switch {
		case strings.HasPrefix(word, "-P"):
			list := strings.TrimPrefix(word, "-P")
			if list == "" && i+1 < len(words) {
				list = words[i+1]
			}
			r.profiles = append(r.profiles, strings.Split(list, ",")...)
		case strings.HasPrefix(word, "-D"):
			name, value, _ := strings.Cut(strings.TrimPrefix(word, "-D"), "=")
			r.defined[name] = value
		}
	}
}

// noTime is the timestamp of a source whose files have none either: the first that a
// zip archive can hold in every time zone, and what archivers write for none.
const noTime = 318_211_200 // 1980-02-01T00:00:00Z

func (m *module) purl() artifact.PURL { return m.maven("", "pom").Package() }

func (m *module) maven(classifier, extension string) artifact.Maven {
	return artifact.Maven{Group: m.group, Artifact: m.artifact, Version: m.version, Classifier: classifier, Extension: extension}
}

func (m *making) timestamp(r *reactor) error {
	stamp, known := r.timestamp(r.modules[0])
	if !known {
		stamp = max(m.tree.newest.Unix(), noTime)
		m.note("the poms have no project.build.outputTimestamp, so the timestamp is that of the source's newest file")
	}
	m.recipe.Timestamp = stamp
	return nil
}

// release is one file of a module that was released.
type release struct {
	artifact.Maven
	reference string
}

// probed are the files that a release usually has beside its pom.
var probed = []struct{ classifier, extension string }{
	{"", "jar"}, {"", "war"}, {"", "zip"}, {"", "ear"}, {"", "rar"},
	{"sources", "jar"}, {"tests", "jar"}, {"test-sources", "jar"}, {"source-release", "zip"},
}

// released are the files of a module: those that somebody else's rebuild lists, or
// else those of the usual ones that the repository has. A module of which the
// repository has no pom was built and never released.
func (m *making) released(of *module) ([]release, error) {
	for _, text := range []string{of.group, of.artifact, of.version} {
		if strings.Contains(text, "${") || text == "" {
			return nil, fmt.Errorf("%s: %s names itself %s:%s:%s, which nothing in the source settles", m.recipe.Package, of.file, of.group, of.artifact, of.version)
		}
	}
	if len(m.expected.Outputs) > 0 {
		return m.listed(of)
	}
	pom := of.maven("", "pom")
	if there, err := m.Repository.Has(m.ctx, pom.Path()); err != nil || !there {
		return nil, err
	}
	files := []release{{Maven: pom}}
	for _, p := range probed {
		if p.classifier == "" && of.packaging == "pom" {
			continue
		}
		file := of.maven(p.classifier, p.extension)
		there, err := m.Repository.Has(m.ctx, file.Path())
		if err != nil {
			return nil, err
		}
		if there {
			files = append(files, release{Maven: file})
		}
	}
	return files, nil
}

func (m *making) listed(of *module) ([]release, error) {
	var files []release
	for _, o := range m.expected.of(of) {
		if signature(o.File) {
			continue
		}
		rest := strings.TrimPrefix(o.File, of.artifact+"-"+of.version)
		classifier, extension, ok := strings.Cut(strings.TrimPrefix(rest, "-"), ".")
		if strings.HasPrefix(rest, ".") {
			classifier, extension, ok = "", rest[1:], true
		}
		if !ok || extension == "" {
			return nil, fmt.Errorf("%s: its .buildinfo lists %s, which is no file of %s", m.recipe.Package, o.File, of.purl())
		}
		files = append(files, release{Maven: of.maven(classifier, extension), reference: "sha512:" + o.SHA512})
	}
	return files, nil
}

// signature tells whether a file is signed or summed up anew in each release.
func signature(file string) bool {
	return slices.ContainsFunc([]string{".asc", ".sha1", ".sha256", ".sha512", ".md5", ".buildinfo"}, func(end string) bool { return strings.HasSuffix(file, end) })
}

// ownNames are the files that a plugin leaves under a name of its own and publishes with
// a classifier: CycloneDX's list of components.
var ownNames = map[string]string{"cyclonedx": "bom"}

// publish adds a module's files to the outputs.
func (m *making) publish(of *module, files []release) error {
	name := of.artifact + "-" + of.version
	if of.finalName != "" {
		name = of.finalName
	}
	if strings.Contains(name, "${") || artifact.CheckFile(name) != nil {
		return fmt.Errorf("%s: %s builds a file called %q, which nothing in the source settles", m.recipe.Package, of.file, name)
	}
	target := "target"
	if of.directory != "" && of.directory != "./target" {
		target = path.Clean(of.directory)
	}
	if artifact.CheckFile(target) != nil {
		return fmt.Errorf("%s: %s is built into %q, outside of its own folder", m.recipe.Package, of.file, of.directory)
	}
	folder := path.Join(of.folder, target)
	for _, f := range files {
		left := path.Join(folder, strings.Replace(f.File(), of.artifact+"-"+of.version, name, 1))
		if base, own := ownNames[f.Classifier]; own {
			left = path.Join(folder, base+"."+f.Extension)
		}
		if f.Extension == "pom" {
			left = m.pom(of, folder)
		}
		m.recipe.Outputs = append(m.recipe.Outputs, record.Output{File: f.File(), Package: of.purl(), Path: left, Reference: f.reference})
	}
	return nil
}

// pom is where the pom is that is published: it is the source's own, unless a plugin
// that rewrites poms left another one, which a command then looks for.
func (m *making) pom(of *module, target string) string {
	if !of.rewrites {
		return of.file
	}
	published := path.Join(target, of.artifact+"-"+of.version+".pom")
	in := func(name string) string { return quoted(path.Join(of.folder, name)) }
	m.recipe.Commands = append(m.recipe.Commands, fmt.Sprintf("mkdir -p -- %s; for pom in %s %s %s; do if [ -f \"$pom\" ]; then cp -- \"$pom\" %s; break; fi; done",
		quoted(target), in(".flattened-pom.xml"), in("dependency-reduced-pom.xml"), quoted(of.file), quoted(published)))
	return published
}

// quoted is a path as a word for a shell.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// missing notes what the release has and no module here makes, and what is known not
// to come out as released.
func (m *making) missing() {
	made := map[string]bool{}
	for _, o := range m.recipe.Outputs {
		made[o.File] = true
	}
	for _, o := range m.expected.Outputs {
		if !made[o.File] && !signature(o.File) {
			m.note("%s is in the .buildinfo, and no module here makes it", o.File)
		}
	}
	if len(m.expected.Different) > 0 {
		m.note("others could not rebuild %s as released", strings.Join(m.expected.Different, ", "))
	}
}
