package buildspec

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"mvdan.cc/sh/v3/syntax"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// ErrAbsent is wrapped by a Repository's and by Sources' errors about what is not
// there.
var ErrAbsent = errors.New("not there")

// Repository is the Maven repository that the release is in.
type Repository interface {
	// Get copies the file of a path. Its error wraps ErrAbsent where there is none.
	Get(ctx context.Context, path string, w io.Writer) error
	// Has tells whether there is a file.
	Has(ctx context.Context, path string) (bool, error)
}

// Sources are git repositories.
type Sources interface {
	// Pack copies the tree that a tag names, as a recipe's source is packed, and
	// returns the commit. Its error wraps ErrAbsent where repository or tag are not
	// to be had.
	Pack(ctx context.Context, repository, tag string, w io.Writer) (commit string, err error)
}

// Importer makes recipes of buildspecs. It is safe for concurrent use.
type Importer struct {
	Repository Repository
	Sources    Sources // nil takes source-release archives only
	Builders   Builders
	Scratch    string // folder for downloads; "" is the system's

	mu       sync.Mutex                 // guards what follows
	releases map[string]artifact.SHA256 // of Maven that were fetched
}

// Imported is the recipe of a buildspec.
type Imported struct {
	Recipe *record.Recipe
	Notes  []string // what a reviewer should know
}

// Defaults of a buildspec.
const (
	defaultMaven   = "3.6.3"
	defaultUmask   = "002"
	defaultLocale  = "en_US"
	defaultZone    = "UTC"
	defaultWorkDir = "/var/maven/app"
)

// Import makes a recipe that builds what the buildspec builds. It fetches the release's
// source, to name it by its digest and to find the modules in it, and Maven's own. An
// error says what about the buildspec cannot be done here; nothing is guessed.
func (i *Importer) Import(ctx context.Context, s *Spec, e *Expected) (*Imported, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, longest, fmt.Errorf("%s: the source did not come within %v", s.name, longest))
	defer cancel()
	m := &making{Importer: i, ctx: ctx, spec: s, expected: e, recipe: &record.Recipe{
		Platform: "linux/amd64", Resolve: "maven", Debian: []record.Debian{}, Images: []record.Image{},
		Limits: record.Limits{Memory: 4 << 30, Disk: 16 << 30, Seconds: 60 * 60},
	}}
	if m.expected == nil {
		m.expected = new(Expected)
	}
	for _, step := range []func() error{m.identity, m.unsupported, m.toolchain, m.environment, m.command, m.source, m.maven, m.outputs, m.jarModes} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return &Imported{Recipe: m.recipe, Notes: m.notes}, nil
}

// longest is how long one import may take: a server that sends a byte now and then would
// hold it for ever.
const longest = 30 * time.Minute

// making is one call of Import.
type making struct {
	*Importer
	ctx      context.Context
	spec     *Spec
	expected *Expected
	recipe   *record.Recipe
	notes    []string

	group, artifact, version string
	release                  string // of Maven
	arguments                []string
	tree                     *tree
	root                     string // folder of the pom that is built
}

func (m *making) note(format string, args ...any) {
	m.notes = append(m.notes, fmt.Sprintf(format, args...))
}

// get are variables; the first that cannot be known is the error.
func (m *making) get(names ...string) ([]string, error) {
	values := make([]string, len(names))
	for i, name := range names {
		value, err := m.spec.Get(name)
		if err != nil {
			return nil, err
		}
		values[i] = value
	}
	return values, nil
}

func (m *making) wrong(variable, format string, args ...any) error {
	return fmt.Errorf("%s: %s", m.spec.at(variable), fmt.Sprintf(format, args...))
}

func (m *making) identity() error {
	values, err := m.get("groupId", "artifactId", "version")
	if err != nil {
		return err
	}
	m.group, m.artifact, m.version = values[0], values[1], values[2]
	for i, name := range []string{"groupId", "artifactId", "version"} {
		if values[i] == "" {
			return m.wrong(name, "%s is missing", name)
		}
	}
	of, err := artifact.ParseMaven(m.group + ":" + m.artifact + ":" + m.version + "::pom")
	if err != nil || strings.HasSuffix(m.version, "-SNAPSHOT") {
		return m.wrong("version", "%s:%s:%s is no release", m.group, m.artifact, m.version)
	}
	m.recipe.Package = of.Package()
	return nil
}

// unsupported are variables that change a build in a way that no recipe has.
func (m *making) unsupported() error {
	for name, why := range map[string]string{
		"execBefore": "it runs %q before the build on the rebuilder's own machine",
		"execAfter":  "it runs %q after the build on the rebuilder's own machine",
	} {
		value, err := m.spec.Get(name)
		if err != nil {
			return err
		}
		if value != "" {
			return m.wrong(name, why, value)
		}
	}
	values, err := m.get("os", "arch", "toolchains", "jdk")
	if err != nil {
		return err
	}
	if values[0] != "" && !strings.EqualFold(values[0], "linux") {
		return m.wrong("os", "os=%s: builds run on Linux", values[0])
	}
	if arch := values[1]; arch != "" && !slices.Contains([]string{"x86_64", "amd64", "x86-64"}, strings.ToLower(arch)) {
		return m.wrong("arch", "arch=%s: builds run on amd64", arch)
	}
	if values[2] != "" && values[2] != values[3] {
		return m.wrong("toolchains", "toolchains=%s: a builder image has one JDK", values[2])
	}
	return nil
}

func (m *making) toolchain() error {
	values, err := m.get("tool", "jdk")
	if err != nil {
		return err
	}
	tool, jdk := values[0], values[1]
	m.release = defaultMaven
	if release, named := strings.CutPrefix(tool, "mvn-"); named {
		m.release = release
	} else if tool != "mvn" {
		return m.wrong("tool", "tool=%s: builds with Maven are imported, and no other", tool)
	}
	if _, err := artifact.ParseMaven("org.apache.maven:apache-maven:" + m.release + ":bin:tar.gz"); err != nil {
		return m.wrong("tool", "tool=%s names no release of Maven", tool)
	}
	wanted, err := parseJDK(jdk)
	if jdk == "" {
		return m.wrong("jdk", "jdk is missing")
	}
	if err != nil {
		return m.wrong("jdk", "%v", err)
	}
	if used, err := parseJDK(m.expected.JDK); err == nil && used.major() == wanted.major() && len(wanted) == 1 {
		wanted = used
	}
	builder, exact := m.Builders.choose(wanted)
	if builder == "" {
		return m.wrong("jdk", "jdk=%s: no builder image is known for JDK %d; name one by --builder %d=PURL", jdk, wanted.major(), wanted.major())
	}
	if !exact && len(wanted) > 1 {
		m.note("the release was rebuilt by JDK %s: the builder image %s has its own update of JDK %d", wanted, builder, wanted.major())
	}
	m.recipe.Builder = builder
	return nil
}

var umaskPattern = regexp.MustCompile(`^0?([0-7]{3})$`)

func (m *making) environment() error {
	values, err := m.get("locale", "timezone", "umask", "workdir", "newline", "MAVEN_OPTS")
	if err != nil {
		return err
	}
	locale, zone := first(values[0], defaultLocale), first(values[1], defaultZone)
	umask, workDir, newline := first(values[2], defaultUmask), first(values[3], defaultWorkDir), values[4]
	match := umaskPattern.FindStringSubmatch(umask)
	if !record.IsTimeZone(zone) {
		return m.wrong("timezone", "timezone=%s is no name of the IANA database", zone)
	}
	switch {
	case match == nil:
		return m.wrong("umask", "umask=%s is no umask", umask)
	case !path.IsAbs(workDir) || path.Clean(workDir) != workDir || artifact.CheckFile(workDir[1:]) != nil:
		return m.wrong("workdir", "workdir=%s is no folder", workDir)
	case newline != "" && newline != "lf" && !strings.HasPrefix(newline, "crlf"):
		return m.wrong("newline", "newline=%s: known are lf and crlf", newline)
	}
	switch language, _, _ := strings.Cut(locale, "."); language {
	case "en_US", "en_US_UTF-8":
		locale = "en_US.UTF-8"
	case "C", "POSIX":
		locale = "C.UTF-8"
	default:
		return m.wrong("locale", "locale=%s: builder images have en_US and C", locale)
	}
	e := record.Environment{Locale: locale, TimeZone: zone, Umask: match[1], WorkDir: workDir, Variables: []string{}}
	if strings.HasPrefix(newline, record.NewlineCRLF) {
		m.crlf(&e, newline)
	}
	if values[5] != "" {
		e.Variables = append(e.Variables, "MAVEN_OPTS="+values[5])
	}
	m.recipe.Environment = e
	return nil
}

// crlf has lines end as on Windows, unless the release itself shows that it was not
// made there: older buildspecs say crlf of the checkout alone.
func (m *making) crlf(e *record.Environment, newline string) {
	if m.expected.System != "" && !strings.Contains(m.expected.System, "Windows") {
		m.note("newline=%s is not followed: by its .buildinfo the release was made on %s", newline, m.expected.System)
		return
	}
	e.Newline = record.NewlineCRLF
}

func (m *making) command() error {
	value, err := m.spec.Get("command")
	if err != nil {
		return err
	}
	command := strings.Join(strings.Fields(value), " ")
	switch {
	case command == "":
		return m.wrong("command", "command is missing")
	case strings.HasPrefix(command, "SHELL") || strings.HasPrefix(command, "DOCKER"):
		return m.wrong("command", "the command begins with %s: somebody types the build by hand", strings.Fields(command)[0])
	}
	words, err := commandWords(command)
	if err != nil {
		return m.wrong("command", "the command is no line for a shell: %v", err)
	}
	if !commandPattern.MatchString(command) {
		return m.wrong("command", "the command %.80q is not mvn or ./mvnw with its arguments, in a folder perhaps (cd FOLDER && mvn …)", command)
	}
	m.arguments = words
	if folder := m.named(); path.IsAbs(folder) || folder == ".." || strings.HasPrefix(folder, "../") {
		return m.wrong("command", "the command goes to %s, which is not in the source", folder)
	}
	for _, maven := range []string{"mvn", wrapper} {
		if rest, plain := strings.CutPrefix(command, maven+" "); plain {
			command = maven + " -B " + rest
		}
	}
	m.recipe.Commands = []string{command}
	return nil
}

// wrapper is a project's own program that gets the release of Maven it names and runs it.
const wrapper = "./mvnw"

// commandPattern is a command that is understood: one of Maven, without what a shell
// would make of it.
var commandPattern = regexp.MustCompile(`^(?:cd [A-Za-z0-9_./-]+ && )?(?:mvn|\./mvnw)(?: [^;&|<>$\x60()\\]*)?$`)

// commandWords are the plain words of a command line.
func commandWords(command string) ([]string, error) {
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(command), "command")
	if err != nil {
		return nil, err
	}
	var words []string
	syntax.Walk(file, func(n syntax.Node) bool {
		if w, is := n.(*syntax.Word); is {
			words = append(words, plain(w))
		}
		return true
	})
	return words, nil
}

// plain is a word without its quotes, as far as it can be known.
func plain(w *syntax.Word) string {
	var b strings.Builder
	for _, part := range w.Parts {
		switch part := part.(type) {
		case *syntax.Lit:
			b.WriteString(part.Value)
		case *syntax.SglQuoted:
			b.WriteString(part.Value)
		case *syntax.DblQuoted:
			b.WriteString(plain(&syntax.Word{Parts: part.Parts}))
		}
	}
	return b.String()
}

// source finds where to build from: the commit, or else the source archive that the
// release has beside its other files.
func (m *making) source() error {
	values, err := m.get("sourceDistribution", "sourcePath", "sourceRmFiles")
	if err != nil {
		return err
	}
	if values[0] != "" {
		return m.distribution(values[0], values[1], values[2])
	}
	where, missing := m.repository()
	if missing == nil {
		return nil
	}
	if !errors.Is(missing, ErrAbsent) || m.spec.begun && m.Sources != nil {
		return missing
	}
	of := m.sourceRelease()
	err = m.archive(of)
	if errors.Is(err, ErrAbsent) && m.spec.begun {
		return fmt.Errorf("the release has no %s beside its other files to build from; name its git repository: --git URL --tag TAG", of.File())
	}
	if errors.Is(err, ErrAbsent) {
		return fmt.Errorf("%w; and the release has no %s", missing, of.File())
	}
	if err != nil {
		return err
	}
	m.note("built from %s, the archive of the release, instead of %s", of.File(), where)
	if len(m.tree.generated) > 0 {
		// The release's own build has made them; a commit has none.
		m.before("rm " + strings.Join(m.tree.generated, " "))
	}
	return m.modes()
}

// modes takes the umask from the archive where the buildspec has none: the release put
// its files in with the modes that they had.
func (m *making) modes() error {
	said, err := m.spec.Get("umask")
	if err != nil || said != "" || m.tree.umask == "" {
		return err
	}
	m.recipe.Environment.Umask = m.tree.umask
	return nil
}

// repository takes the source from its git repository. Its error wraps ErrAbsent where
// that cannot be had here, or is not known.
func (m *making) repository() (where string, err error) {
	values, err := m.get("gitRepo", "gitTag", "newlineGit")
	if err != nil {
		return "its git repository", absent{err}
	}
	repository, tag := values[0], values[1]
	where = repository + " at " + tag
	switch {
	case repository == "" || tag == "":
		return "a git repository", m.absent("gitRepo", "neither gitRepo with gitTag nor sourceDistribution says where the source is")
	case strings.HasPrefix(tag, "git "):
		return repository, m.absent("gitTag", "gitTag=%q runs git to find the tag, and a buildspec is read and never run", tag)
	case m.Sources == nil:
		return where, m.absent("gitRepo", "the source is %s, and no git repository is asked here", where)
	}
	err = m.commit(repository, tag, values[2])
	if errors.Is(err, ErrAbsent) {
		err = m.absent("gitRepo", "the source is %s, which cannot be had here: %v", where, err)
	}
	return where, err
}

func (m *making) absent(variable, format string, args ...any) error {
	return absent{m.wrong(variable, format, args...)}
}

// absent is an error that is ErrAbsent, too, and says so in its own words.
type absent struct{ error }

// Unwrap is for package errors.
func (a absent) Unwrap() []error { return []error{a.error, ErrAbsent} }

// sourceRelease is the archive of its source that a release of the Apache and Plexus
// projects has beside its other files.
func (m *making) sourceRelease() artifact.Maven {
	return artifact.Maven{Group: m.group, Artifact: m.artifact, Version: m.version, Classifier: "source-release", Extension: "zip"}
}

// before puts a command before the others.
func (m *making) before(command string) {
	m.recipe.Commands = append([]string{command}, m.recipe.Commands...)
}

// distribution is a source archive that the buildspec names itself.
func (m *making) distribution(address, folder, remove string) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return m.wrong("sourceDistribution", "sourceDistribution=%s is no address", address)
	}
	of, ok := coordinates(u.Path)
	if same := m.sourceRelease(); !ok && path.Base(u.Path) == same.File() {
		m.note("%s lies in the Maven repository, too, and is taken from there", same.File())
		of, ok = same, true
	}
	if !ok {
		return m.wrong("sourceDistribution", "sourceDistribution=%s is not a file of a Maven repository; where else archives lie is not known here", address)
	}
	err = m.archive(of)
	if errors.Is(err, ErrAbsent) {
		return m.wrong("sourceDistribution", "the Maven repository has no %s", of.Path())
	}
	if err != nil {
		return err
	}
	// The first segment of the path is the archive's own folder.
	_, below, deeper := strings.Cut(path.Clean(folder), "/")
	if deeper {
		return m.wrong("sourcePath", "sourcePath=%s: the build begins in %s below the source's root; begin the command with cd instead", folder, below)
	}
	files := strings.Fields(remove)
	for _, file := range files {
		if !removePattern.MatchString(file) || artifact.CheckFile(strings.ReplaceAll(file, "*", "x")) != nil {
			return m.wrong("sourceRmFiles", "sourceRmFiles names %q; plain files of the source are known", file)
		}
	}
	if len(files) > 0 {
		m.before("rm -- " + strings.Join(files, " "))
	}
	return nil
}

// removePattern is a file that a shell takes as it is, or a star in its name.
var removePattern = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9_./*-]*$`)

// coordinates are those of a path in a repository that lies anywhere below a host: the
// last folder is the version, the one before the artifact, and the first that is no
// top-level name of a group ends the repository's own path.
func coordinates(p string) (artifact.Maven, bool) {
	segments := strings.Split(strings.Trim(path.Clean(p), "/"), "/")
	for cut := range segments {
		name, err := artifact.MavenFolderName(strings.Join(segments[cut:], "/"))
		if err != nil || !slices.Contains(groupTops, segments[cut]) {
			continue
		}
		rest, is := strings.CutPrefix(name.File, name.Package.Name()+"-"+name.Package.Version()+"-")
		classifier, extension, dotted := strings.Cut(rest, ".")
		if !is || !dotted {
			return artifact.Maven{}, false
		}
		group := strings.Join(segments[cut:len(segments)-3], ".")
		of, err := artifact.ParseMaven(strings.Join([]string{group, name.Package.Name(), name.Package.Version(), classifier, extension}, ":"))
		return of, err == nil
	}
	return artifact.Maven{}, false
}

// groupTops begin nearly every group.
var groupTops = []string{"com", "org", "net", "io", "de", "fr", "ch", "dev", "eu", "uk", "nl", "me", "cn", "jp", "ru", "edu", "gov", "javax", "jakarta"}

func (m *making) archive(of artifact.Maven) error {
	file, digest, err := m.download(of.Path())
	if err != nil {
		return err
	}
	defer discard(file)
	if m.tree, err = readZip(file); err != nil {
		return fmt.Errorf("%s: %w", of.File(), err)
	}
	m.recipe.Sources = []record.Source{{
		Maven: strings.Join([]string{of.Group, of.Artifact, of.Version, of.Classifier, of.Extension}, ":"), SHA256: digest, Strip: m.tree.strip,
	}}
	return nil
}

func (m *making) commit(repository, tag, newline string) error {
	file, err := os.CreateTemp(m.Scratch, "import-*")
	if err != nil {
		return err
	}
	defer discard(file)
	hash := sha256.New()
	commit, err := m.Sources.Pack(m.ctx, repository, tag, io.MultiWriter(file, hash))
	if err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if m.tree, err = readTar(file); err != nil {
		return fmt.Errorf("%s at %s: %w", repository, tag, err)
	}
	s := record.Source{Git: repository, Tag: tag, Commit: commit, SHA256: artifact.SHA256(hash.Sum(nil))}
	if newline == record.NewlineCRLF {
		s.Newline = record.NewlineCRLF
	}
	m.recipe.Sources = []record.Source{s}
	return nil
}

// download gets a file of the repository; the caller discards it.
func (m *making) download(path string) (*os.File, artifact.SHA256, error) {
	file, err := os.CreateTemp(m.Scratch, "import-*")
	if err != nil {
		return nil, artifact.SHA256{}, err
	}
	hash := sha256.New()
	if err := m.Repository.Get(m.ctx, path, io.MultiWriter(file, hash)); err != nil {
		discard(file)
		return nil, artifact.SHA256{}, fmt.Errorf("%s: %w", path, err)
	}
	return file, artifact.SHA256(hash.Sum(nil)), nil
}

func discard(file *os.File) {
	file.Close()
	os.Remove(file.Name())
}

// maven brings the release of Maven that the buildspec names. A wrapper gets its own from
// the mirror, and it is locked with the other inputs.
func (m *making) maven() error {
	if at := slices.Index(m.arguments, wrapper); at >= 0 {
		return m.wrapped(at == 0)
	}
	digest, err := m.mavenRelease()
	if err != nil {
		return err
	}
	m.recipe.Sources = append(m.recipe.Sources, record.Source{
		Maven: "org.apache.maven:apache-maven:" + m.release + ":bin:tar.gz", SHA256: digest, Into: "/opt",
	})
	e := &m.recipe.Environment
	e.Variables = append(e.Variables, "PATH=/opt/apache-maven-"+m.release+"/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	slices.Sort(e.Variables)
	return nil
}

// wrapped takes the project's own wrapper, which is in the root or where the command goes.
// It is run by a shell: not every archive has kept that it is a program.
func (m *making) wrapped(root bool) error {
	at := path.Base(wrapper)
	if !root {
		at = path.Join(m.named(), at)
	}
	if !m.tree.files[at] {
		return m.wrong("command", "the command calls %s, and the source has none", at)
	}
	last := len(m.recipe.Commands) - 1
	m.recipe.Commands[last] = strings.Replace(m.recipe.Commands[last], wrapper, "sh "+wrapper, 1)
	m.note("the project's wrapper %s chooses the release of Maven", at)
	return nil
}

// mavenRelease is the digest of a release of Maven, fetched once for all buildspecs
// that name it.
func (m *making) mavenRelease() (artifact.SHA256, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if digest, known := m.releases[m.release]; known {
		return digest, nil
	}
	of := artifact.Maven{Group: "org.apache.maven", Artifact: "apache-maven", Version: m.release, Classifier: "bin", Extension: "tar.gz"}
	file, digest, err := m.download(of.Path())
	if errors.Is(err, ErrAbsent) {
		return digest, m.wrong("tool", "the Maven repository has no %s", of.File())
	}
	if err != nil {
		return digest, err
	}
	discard(file)
	if m.releases == nil {
		m.releases = map[string]artifact.SHA256{}
	}
	m.releases[m.release] = digest
	return digest, nil
}
