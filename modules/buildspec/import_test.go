package buildspec_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/buildspec"
	"github.com/pyrsia/appliance/modules/buildspec/web"
	"github.com/pyrsia/appliance/modules/record"
)

// repository serves files as a Maven repository does, and says what was asked for.
func repository(t *testing.T, files map[string][]byte) *web.Repository {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, found := files[strings.TrimPrefix(r.URL.Path, "/base/")]
		if !found {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}))
	t.Cleanup(server.Close)
	r, err := web.New(server.URL + "/base/")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// zipped is a source archive with everything in one folder.
func zipped(t *testing.T, folder string, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range slices.SortedFunc(maps.Keys(files), generatedLast) {
		content := files[name]
		header := &zip.FileHeader{Name: folder + "/" + name, Method: zip.Deflate, Modified: time.Date(2024, 5, 6, 7, 8, 10, 0, time.UTC)}
		header.SetMode(0o644)
		entry, err := w.CreateHeader(header)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(entry, content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// generatedLast is the order of an Apache release: what its build generated comes after
// what stood in the source.
func generatedLast(a, b string) int {
	generated := func(name string) int {
		if name == "DEPENDENCIES" || name == "NOTICE" {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(generated(a), generated(b)), cmp.Compare(a, b))
}

func pom(body string) string {
	return `<?xml version="1.0" encoding="ISO-8859-1"?><project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>` + body + "</project>"
}

const spec = `groupId=org.acme
artifactId=thing
version=1.0
gitRepo=https://git.example/${artifactId}.git
gitTag=v${version}
tool=mvn-3.9.9
jdk=17
newline=lf
command="mvn -Prelease clean package -DskipTests"
buildinfo=target/${artifactId}-${version}.buildinfo
`

// world is a release of two modules and a test module that is not released.
func world(t *testing.T) map[string][]byte {
	source := zipped(t, "thing-1.0", map[string]string{
		"pom.xml": pom(`<parent><groupId>org.acme</groupId><artifactId>acme-parent</artifactId><version>7</version></parent>
			<artifactId>thing</artifactId><version>${revision}</version><packaging>pom</packaging>
			<properties><revision>1.0</revision></properties>
			<modules><module>core</module></modules>
			<profiles><profile><id>release</id><modules><module>extra/plugin</module></modules></profile>
			<profile><id>other</id><modules><module>absent</module></modules></profile></profiles>`),
		"core/pom.xml": pom(`<parent><groupId>org.acme</groupId><artifactId>thing</artifactId><version>${revision}</version></parent>
			<artifactId>thing-core</artifactId><build><finalName>${project.artifactId}</finalName></build>`),
		"extra/plugin/pom.xml": pom(`<parent><groupId>org.acme</groupId><artifactId>thing</artifactId><version>1.0</version><relativePath>../..</relativePath></parent>
			<groupId>org.acme.extra</groupId><artifactId>thing-plugin</artifactId><packaging>maven-plugin</packaging>
			<modules><module>it</module></modules><build><plugins><plugin><artifactId>flatten-maven-plugin</artifactId></plugin></plugins></build>`),
		"extra/plugin/it/pom.xml": pom(`<parent><groupId>org.acme.extra</groupId><artifactId>thing-plugin</artifactId><version>1.0</version></parent><artifactId>thing-it</artifactId>`),
		"LICENSE":                 "of the source itself",
		"DEPENDENCIES":            "// ------\n// made by the release",
		"NOTICE":                  "made by the release",
		"core/src/Main.java":      "class Main {}",
	})
	files := map[string][]byte{
		"org/acme/thing/1.0/thing-1.0-source-release.zip":                   source,
		"org/apache/maven/apache-maven/3.9.9/apache-maven-3.9.9-bin.tar.gz": []byte("maven 3.9.9"),
		"org/acme/acme-parent/7/acme-parent-7.pom": []byte(pom(`<groupId>org.acme</groupId><artifactId>acme-parent</artifactId><version>7</version>
			<properties><project.build.outputTimestamp>2024-01-02T03:04:05Z</project.build.outputTimestamp></properties>`)),
	}
	for _, path := range []string{
		"org/acme/thing/1.0/thing-1.0.pom", "org/acme/thing-core/1.0/thing-core-1.0.pom", "org/acme/thing-core/1.0/thing-core-1.0.jar",
		"org/acme/thing-core/1.0/thing-core-1.0-sources.jar", "org/acme/extra/thing-plugin/1.0/thing-plugin-1.0.pom",
		"org/acme/extra/thing-plugin/1.0/thing-plugin-1.0.jar",
	} {
		files[path] = []byte(path)
	}
	return files
}

func importer(t *testing.T, files map[string][]byte) *buildspec.Importer {
	return &buildspec.Importer{
		Repository: repository(t, files), Scratch: t.TempDir(),
		Builders: buildspec.Builders{{JDK: "8", Image: "pkg:docker/acme/jdk8@1"}, {JDK: "17", Image: "pkg:docker/acme/jdk17@1"}},
	}
}

func imports(t *testing.T, i *buildspec.Importer, text string, e *buildspec.Expected) (*buildspec.Imported, error) {
	t.Helper()
	s, err := buildspec.Parse([]byte(text), "thing.buildspec")
	if err != nil {
		t.Fatal(err)
	}
	return i.Import(t.Context(), s, e)
}

// described is a recipe's outputs, one a line: package, file, path.
func described(r *record.Recipe) string {
	var lines []string
	for _, o := range r.Outputs {
		lines = append(lines, fmt.Sprintf("%s %s %s %s", o.Package, o.File, o.Path, o.Reference))
	}
	return strings.Join(lines, "\n")
}

func TestImport(t *testing.T) {
	made, err := imports(t, importer(t, world(t)), spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := made.Recipe
	want := `pkg:maven/org.acme.extra/thing-plugin@1.0 thing-plugin-1.0.jar extra/plugin/target/thing-plugin-1.0.jar 
pkg:maven/org.acme.extra/thing-plugin@1.0 thing-plugin-1.0.pom extra/plugin/target/thing-plugin-1.0.pom 
pkg:maven/org.acme/thing-core@1.0 thing-core-1.0-sources.jar core/target/thing-core-sources.jar 
pkg:maven/org.acme/thing-core@1.0 thing-core-1.0.jar core/target/thing-core.jar 
pkg:maven/org.acme/thing-core@1.0 thing-core-1.0.pom core/pom.xml 
pkg:maven/org.acme/thing@1.0 thing-1.0-source-release.zip target/thing-1.0-source-release.zip 
pkg:maven/org.acme/thing@1.0 thing-1.0.pom pom.xml `
	if got := described(r); got != want {
		t.Errorf("outputs\n%s\nwant\n%s", got, want)
	}
	if r.Package != "pkg:maven/org.acme/thing@1.0" || r.Builder != "pkg:docker/acme/jdk17@1" || r.Resolve != "maven" {
		t.Errorf("%s in %s resolves %s", r.Package, r.Builder, r.Resolve)
	}
	if when := time.Unix(r.Timestamp, 0).UTC().Format(time.RFC3339); when != "2024-01-02T03:04:05Z" {
		t.Errorf("timestamp %s, the parent in the repository has another", when)
	}
	if e := r.Environment; e.Umask != "022" || e.Locale != "en_US.UTF-8" || e.TimeZone != "UTC" || e.WorkDir != "/var/maven/app" || e.Newline != "" || !strings.HasPrefix(e.Variables[0], "PATH=/opt/apache-maven-3.9.9/bin:") {
		t.Errorf("environment %+v", e)
	}
	if len(r.Sources) != 2 || r.Sources[0].Strip != 1 || r.Sources[0].Maven != "org.acme:thing:1.0:source-release:zip" || r.Sources[1].Into != "/opt" {
		t.Errorf("sources %+v", r.Sources)
	}
	if len(r.Commands) != 3 || r.Commands[0] != "rm DEPENDENCIES NOTICE" || r.Commands[1] != "mvn -B -Prelease clean package -DskipTests" || !strings.Contains(r.Commands[2], ".flattened-pom.xml") {
		t.Errorf("commands %q", r.Commands)
	}
	if len(made.Notes) != 2 || !strings.Contains(made.Notes[0], "instead of https://git.example/thing.git at v1.0") {
		t.Errorf("notes %q", made.Notes)
	}
}

// TestWrapper: a buildspec that calls the project's own wrapper becomes a recipe without a
// release of Maven, for the wrapper gets it as it gets everything else.
func TestWrapper(t *testing.T) {
	source := func(files ...string) map[string][]byte {
		tree := map[string]string{"pom.xml": pom(`<groupId>org.acme</groupId><artifactId>thing</artifactId><version>1.0</version>`)}
		tree["below/pom.xml"] = tree["pom.xml"]
		for _, name := range files {
			tree[name] = "#!/bin/sh"
		}
		released := world(t)
		released["org/acme/thing/1.0/thing-1.0-source-release.zip"] = zipped(t, "thing-1.0", tree)
		delete(released, "org/apache/maven/apache-maven/3.9.9/apache-maven-3.9.9-bin.tar.gz")
		return released
	}
	for _, test := range []struct{ command, there, want, err string }{
		{"./mvnw -Prelease clean package", "mvnw", "sh ./mvnw -B -Prelease clean package", ""},
		{"cd below && ./mvnw package", "below/mvnw", "cd below && sh ./mvnw package", ""},
		{"./mvnw package", "below/mvnw", "", "the command calls mvnw, and the source has none"},
		{"cd below && ./mvnw package", "mvnw", "", "the command calls below/mvnw, and the source has none"},
		{"sh ./mvnw package", "mvnw", "", "is not mvn or ./mvnw"},
		{"./mvnw package; ./mvnw deploy", "mvnw", "", "is not mvn or ./mvnw"},
	} {
		text := strings.ReplaceAll(spec, "mvn -Prelease clean package -DskipTests", test.command)
		made, err := imports(t, importer(t, source(test.there)), text, nil)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) || !strings.HasPrefix(err.Error(), "thing.buildspec:9: ") {
				t.Errorf("%s: %v", test.command, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", test.command, err)
			continue
		}
		if c := made.Recipe.Commands; len(c) != 1 || c[0] != test.want || len(made.Recipe.Sources) != 1 || len(made.Recipe.Environment.Variables) != 0 {
			t.Errorf("%s: %q with %d sources, %q", test.command, c, len(made.Recipe.Sources), made.Recipe.Environment.Variables)
		}
	}
}

// TestOwnDependencies: a list of dependencies that the project writes itself stays.
func TestOwnDependencies(t *testing.T) {
	files := world(t)
	files["org/acme/thing/1.0/thing-1.0-source-release.zip"] = zipped(t, "thing-1.0", map[string]string{
		"pom.xml": pom(`<groupId>org.acme</groupId><artifactId>thing</artifactId><version>1.0</version><build><plugins><plugin><artifactId>pgpverify-maven-plugin</artifactId></plugin></plugins></build>`), "DEPENDENCIES": "Acme Thing",
	})
	made, err := imports(t, importer(t, files), spec, nil)
	if err != nil || len(made.Recipe.Commands) != 1 {
		t.Fatalf("%v, %v", made, err)
	}
	// What asks the network and makes nothing is left out.
	if c := made.Recipe.Commands[0]; !strings.HasSuffix(c, " -Dpgpverify.skip=true") {
		t.Errorf("%q", c)
	}
}

// TestForeign: a module of another organisation is refused, one of another group told.
func TestForeign(t *testing.T) {
	for group, says := range map[string]string{"org.acme.extra": "", "org.other": "of another organisation", "junit": "of another organisation"} {
		files := world(t)
		files["org/acme/thing/1.0/thing-1.0-source-release.zip"] = zipped(t, "thing-1.0", map[string]string{
			"pom.xml":   pom(`<groupId>org.acme</groupId><artifactId>thing</artifactId><version>1.0</version><modules><module>a</module></modules>`),
			"a/pom.xml": pom(`<groupId>` + group + `</groupId><artifactId>stolen</artifactId><version>4.13</version>`),
		})
		files[strings.ReplaceAll(group, ".", "/")+"/stolen/4.13/stolen-4.13.pom"] = []byte("pom")
		made, err := imports(t, importer(t, files), spec, nil)
		switch {
		case says != "" && (err == nil || !strings.Contains(err.Error(), says)):
			t.Errorf("%s: %v, %v", group, made, err)
		case says == "" && (err != nil || !slices.ContainsFunc(made.Notes, func(n string) bool { return strings.Contains(n, "of another group") })):
			t.Errorf("%s: %v, %v", group, made, err)
		}
	}
}

// TestInRoot: only what names the folder is changed.
func TestInRoot(t *testing.T) {
	made, err := imports(t, importer(t, world(t)), strings.Replace(spec, "mvn -Prelease clean", "mvn -Prelease install -f install -Dx=install clean", 1), nil)
	if err != nil || made.Recipe.Commands[1] != "mvn -B -Prelease install -f . -Dx=install clean package -DskipTests" {
		t.Errorf("%v, %v", made, err)
	}
}

// TestImportExpected: what somebody else's rebuild lists is what is published, with its
// digests; what nothing here makes is told.
func TestImportExpected(t *testing.T) {
	digest := strings.Repeat("ab", 64)
	e := &buildspec.Expected{Different: []string{"thing-core-1.0.jar"}}
	for _, file := range []string{"thing-1.0.pom", "thing-core-1.0.jar", "thing-core-1.0.jar", "thing-core-1.0.jar.asc", "thing-core-1.0-cyclonedx.json", "elsewhere-1.0.jar"} {
		e.Outputs = append(e.Outputs, buildspec.Output{Group: "org.acme", File: file, SHA512: digest})
	}
	made, err := imports(t, importer(t, world(t)), spec, e)
	if err != nil {
		t.Fatal(err)
	}
	want := "pkg:maven/org.acme/thing-core@1.0 thing-core-1.0-cyclonedx.json core/target/bom.json sha512:" + digest +
		"\npkg:maven/org.acme/thing-core@1.0 thing-core-1.0.jar core/target/thing-core.jar sha512:" + digest +
		"\npkg:maven/org.acme/thing@1.0 thing-1.0.pom pom.xml sha512:" + digest
	if got := described(made.Recipe); got != want {
		t.Errorf("outputs\n%s\nwant\n%s", got, want)
	}
	for _, says := range []string{"elsewhere-1.0.jar is in the .buildinfo", "could not rebuild thing-core-1.0.jar"} {
		if !slices.ContainsFunc(made.Notes, func(n string) bool { return strings.Contains(n, says) }) {
			t.Errorf("no note says %q: %q", says, made.Notes)
		}
	}
}

func TestImportSettings(t *testing.T) {
	text := strings.NewReplacer("tool=mvn-3.9.9", "tool=mvn", "jdk=17", "jdk=8", "newline=lf", "newline=crlf-nogit\numask=027\ntimezone=Etc/GMT-1\nlocale=C\nworkdir=/w\nMAVEN_OPTS=-Xmx1g",
		"-Prelease", "-f sub -Prelease").Replace(spec)
	files := world(t)
	files["org/apache/maven/apache-maven/3.6.3/apache-maven-3.6.3-bin.tar.gz"] = []byte("maven 3.6.3")
	made, err := imports(t, importer(t, files), text, nil)
	if err != nil {
		t.Fatal(err)
	}
	e := made.Recipe.Environment
	if e.Umask != "027" || e.TimeZone != "Etc/GMT-1" || e.Locale != "C.UTF-8" || e.WorkDir != "/w" || e.Newline != record.NewlineCRLF || len(e.Variables) != 2 {
		t.Errorf("%+v", e)
	}
	if made.Recipe.Builder != "pkg:docker/acme/jdk8@1" || made.Recipe.Commands[1] != "mvn -B -f . -Prelease clean package -DskipTests" {
		t.Errorf("%s, %q", made.Recipe.Builder, made.Recipe.Commands)
	}
}

// TestRefused: each reason is precise, and names the line where there is one.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		from, to string
		files    func(map[string][]byte)
		says     string
	}{
		"no group":       {"groupId=org.acme\n", "", nil, "thing.buildspec: groupId is missing"},
		"snapshot":       {"version=1.0", "version=1.0-SNAPSHOT", nil, "thing.buildspec:3: org.acme:thing:1.0-SNAPSHOT is no release"},
		"gradle":         {"tool=mvn-3.9.9", "tool=gradle", nil, "thing.buildspec:6: tool=gradle: builds with Maven"},
		"no Maven":       {"tool=mvn-3.9.9", "tool=mvn-9.9.9", nil, "thing.buildspec:6: the Maven repository has no apache-maven-9.9.9-bin.tar.gz"},
		"evil Maven":     {"tool=mvn-3.9.9", "tool=mvn-../../x", nil, "names no release of Maven"},
		"JDK":            {"jdk=17", "jdk=22", nil, "thing.buildspec:7: jdk=22: no builder image is known for JDK 22"},
		"JDK missing":    {"jdk=17\n", "", nil, "thing.buildspec: jdk is missing"},
		"no JDK":         {"jdk=17", "jdk=graal", nil, "thing.buildspec:7: jdk=graal is no version of a JDK"},
		"two JDKs":       {"jdk=17", "jdk=17\ntoolchains=\"8|11\"", nil, "toolchains=8|11: a builder image has one JDK"},
		"Windows":        {"jdk=17", "jdk=17\nos=windows", nil, "thing.buildspec:8: os=windows: builds run on Linux"},
		"arm":            {"jdk=17", "jdk=17\narch=aarch64", nil, "arch=aarch64: builds run on amd64"},
		"before":         {"jdk=17", "jdk=17\nexecBefore='chmod a-x y'", nil, `execBefore`[:0] + `it runs "chmod a-x y" before the build`},
		"locale":         {"jdk=17", "jdk=17\nlocale=tr_TR", nil, "locale=tr_TR: builder images have en_US and C"},
		"zone":           {"jdk=17", "jdk=17\ntimezone=Mars/Olympus", nil, "timezone=Mars/Olympus is no name of the IANA database"},
		"umask":          {"jdk=17", "jdk=17\numask=rwx", nil, "umask=rwx is no umask"},
		"folder":         {"jdk=17", "jdk=17\nworkdir=../x", nil, "workdir=../x is no folder"},
		"newline":        {"newline=lf", "newline=cr", nil, "newline=cr: known are lf and crlf"},
		"another folder": {`"mvn `, `"cd ../.. && mvn `, nil, "the command goes to ../.., which is not in the source"},
		"another pom":    {`"mvn `, `"mvn -f ../pom.xml `, nil, "the command goes to ../pom.xml, which is not in the source"},
		"by hand":        {`"mvn `, `"SHELL mvn `, nil, "begins with SHELL: somebody types the build by hand"},
		"no command":     {`command="mvn -Prelease clean package -DskipTests"` + "\n", "", nil, "command is missing"},
		"other command":  {`"mvn `, `"make `, nil, "is not mvn or ./mvnw with its arguments"},
		"broken command": {`"mvn -Prelease`, `"mvn '-Prelease`, nil, "no line for a shell"},
		"unknowable":     {"gitTag=v${version}", "gitTag=$(git describe)", noArchive, "gitTag: its value is the output of a command"},
		"git runs":       {"gitTag=v${version}", "gitTag='git rev-list -1'", noArchive, "runs git to find the tag"},
		"no source":      {"jdk", "jdk", noArchive, "no git repository is asked here"},
		"elsewhere":      {"jdk=17", "jdk=17\nsourceDistribution=https://files.example/other.zip", nil, "is not a file of a Maven repository"},
		"absent archive": {"jdk=17", "jdk=17\nsourceDistribution=https://central.example/maven2/org/acme/thing/1.0/thing-1.0-src.zip", nil, "the Maven repository has no org/acme/thing/1.0/thing-1.0-src.zip"},
		"no zip":         {"jdk", "jdk", func(f map[string][]byte) { f["org/acme/thing/1.0/thing-1.0-source-release.zip"] = []byte("PK?") }, "thing-1.0-source-release.zip: zip:"},
		"no module":      {"-Prelease", "-Pother", nil, `pom.xml names the module "absent", which is not in the source`},
		"another artifact": {"artifactId=thing\n", "artifactId=thong\n", func(f map[string][]byte) {
			f["org/acme/thong/1.0/thong-1.0-source-release.zip"] = f["org/acme/thing/1.0/thing-1.0-source-release.zip"]
		}, "none of the 4 modules"},
	} {
		t.Run(name, func(t *testing.T) {
			files := world(t)
			if c.files != nil {
				c.files(files)
			}
			text := strings.Replace(spec, c.from, c.to, 1)
			if c.from != c.to && text == spec {
				t.Fatalf("nothing replaced by %q", c.to)
			}
			made, err := imports(t, importer(t, files), text, nil)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, %v; want %q", made, err, c.says)
			}
		})
	}
}

func noArchive(files map[string][]byte) {
	delete(files, "org/acme/thing/1.0/thing-1.0-source-release.zip")
}

// TestHostileSources: what an archive's poms say cannot lead out of it or on for ever.
func TestHostileSources(t *testing.T) {
	own := `<groupId>org.acme</groupId><artifactId>thing</artifactId><version>1.0</version>`
	for name, c := range map[string]struct {
		files map[string]string
		says  string
	}{
		"no pom":           {map[string]string{"README": "x"}, "no pom.xml"},
		"empty pom":        {map[string]string{"pom.xml": ""}, "pom.xml: EOF"},
		"traversal":        {map[string]string{"../../etc/pom.xml": pom(own)}, "the source has the path"},
		"its own parent":   {map[string]string{"pom.xml": pom(own + `<parent><groupId>org.acme</groupId><artifactId>thing</artifactId><version>1.0</version><relativePath>a</relativePath></parent>`), "a/pom.xml": pom(own + `<parent><groupId>org.acme</groupId><artifactId>thing</artifactId><version>1.0</version></parent>`)}, "no end"},
		"modules in loops": {map[string]string{"pom.xml": pom(own + `<packaging>pom</packaging><modules><module>a</module></modules>`), "a/pom.xml": pom(`<groupId>org.acme</groupId><artifactId>a</artifactId><version>1.0</version><modules><module>..</module></modules>`)}, ""},
		"module outside":   {map[string]string{"pom.xml": pom(own + `<modules><module>../../x</module></modules>`)}, "not in the source"},
		"endless property": {map[string]string{"pom.xml": pom(`<groupId>org.acme</groupId><artifactId>${a}</artifactId><version>1.0</version><properties><a>${a}${a}</a></properties>`)}, "which nothing in the source settles"},
		"outside target":   {map[string]string{"pom.xml": pom(own + `<build><directory>../../out</directory></build>`)}, "outside of its own folder"},
		"evil final name":  {map[string]string{"pom.xml": pom(own + `<build><finalName>../x</finalName></build>`)}, "which nothing in the source settles"},
		"remote parents": {map[string]string{"pom.xml": pom(own + `<parent><groupId>org.acme</groupId><artifactId>loop</artifactId><version>1</version></parent>`)},
			"no end"},
	} {
		t.Run(name, func(t *testing.T) {
			files := world(t)
			files["org/acme/thing/1.0/thing-1.0-source-release.zip"] = zipped(t, "thing-1.0", c.files)
			files["org/acme/loop/1/loop-1.pom"] = []byte(pom(`<parent><groupId>org.acme</groupId><artifactId>loop</artifactId><version>1</version></parent><artifactId>loop</artifactId>`))
			made, err := imports(t, importer(t, files), spec, nil)
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v, %v; want %q", made, err, c.says)
			}
		})
	}
}

// TestModes: where a buildspec has no umask, the release's own archive shows it.
func TestModes(t *testing.T) {
	for mode, want := range map[fs.FileMode]string{0o644: "022", 0o664: "002", 0o640: "027", 0o600: "077", 0o660: "007", 0o444: "002", 0: "002"} {
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		header := &zip.FileHeader{Name: "thing-1.0/pom.xml"}
		if mode != 0 {
			header.SetMode(mode)
		}
		entry, err := w.CreateHeader(header)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(entry, pom(`<groupId>org.acme</groupId><artifactId>thing</artifactId><version>1.0</version>`))
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		files := world(t)
		files["org/acme/thing/1.0/thing-1.0-source-release.zip"] = b.Bytes()
		made, err := imports(t, importer(t, files), spec, nil)
		if err != nil || made.Recipe.Environment.Umask != want {
			t.Errorf("%o: %v, %v; want %s", mode, made, err, want)
		}
	}
}

// TestBareCommand: a command of one word is one, too.
func TestBareCommand(t *testing.T) {
	made, err := imports(t, importer(t, world(t)), strings.Replace(spec, "mvn -Prelease clean package -DskipTests", "mvn", 1), nil)
	if err != nil || !slices.Contains(made.Recipe.Commands, "mvn") {
		t.Errorf("%v, %v", made, err)
	}
}

// TestJarModes: what the build wrote into a jar is better evidence than the archive, whose
// descriptor may set modes.
func TestJarModes(t *testing.T) {
	pack := func(mode fs.FileMode, name, content string) []byte {
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		header := &zip.FileHeader{Name: name}
		header.SetMode(mode)
		entry, err := w.CreateHeader(header)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(entry, content)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for _, c := range []struct {
		jar  []byte
		want string
	}{
		{pack(0o664, "META-INF/maven/org.acme/thing/pom.properties", ""), "002"},
		{pack(0o644, "META-INF/maven/org.acme/thing/pom.properties", ""), "022"},
		{pack(0o664, "META-INF/LICENSE", ""), "022"},
		{[]byte("no jar"), "022"},
	} {
		files := world(t)
		files["org/acme/thing/1.0/thing-1.0-source-release.zip"] = pack(0o644, "thing-1.0/pom.xml", pom(`<groupId>org.acme</groupId><artifactId>thing</artifactId><version>1.0</version>`))
		files["org/acme/thing/1.0/thing-1.0.jar"] = c.jar
		made, err := imports(t, importer(t, files), spec, nil)
		if err != nil || made.Recipe.Environment.Umask != c.want {
			t.Errorf("%v, %v; want %s", made, err, c.want)
		}
	}
}

// TestNotWindows: crlf is not followed where the release shows that it was made elsewhere.
func TestNotWindows(t *testing.T) {
	for system, want := range map[string]string{"Windows": record.NewlineCRLF, "": record.NewlineCRLF, "Unix": ""} {
		made, err := imports(t, importer(t, world(t)), strings.Replace(spec, "newline=lf", "newline=crlf-nogit", 1), &buildspec.Expected{System: system})
		if err != nil || made.Recipe.Environment.Newline != want {
			t.Errorf("%s: %v, %v", system, made, err)
		}
	}
}

// commits is a git repository with one tag.
type commits struct{ files map[string]string }

func (c commits) Pack(_ context.Context, repository, tag string, w io.Writer) (string, error) {
	if tag != "v1.0" {
		return "", fmt.Errorf("%w: %s has no tag %s", buildspec.ErrAbsent, repository, tag)
	}
	archive := tar.NewWriter(w)
	for name, content := range c.files {
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			return "", err
		}
		io.WriteString(archive, content)
	}
	return strings.Repeat("c0", 20), archive.Close()
}

func TestImportCommit(t *testing.T) {
	i := importer(t, world(t))
	i.Sources = commits{map[string]string{"pom.xml": pom(`<groupId>org.acme</groupId><artifactId>thing</artifactId><version>1.0</version><properties><project.build.outputTimestamp>1700000000</project.build.outputTimestamp></properties>`), "README": "x"}}
	made, err := imports(t, i, strings.Replace(spec, "newline=lf", "newline=crlf\nnewlineGit=crlf", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := made.Recipe.Sources[0]
	if s.Git != "https://git.example/thing.git" || s.Tag != "v1.0" || s.Commit != strings.Repeat("c0", 20) || s.SHA256.IsZero() || s.Strip != 0 || s.Newline != record.NewlineCRLF || made.Recipe.Timestamp != 1_700_000_000 {
		t.Errorf("%+v, %d", s, made.Recipe.Timestamp)
	}
	made, err = imports(t, i, strings.Replace(spec, "gitTag=v${version}", "gitTag=gone", 1), nil)
	if err != nil || made.Recipe.Sources[0].Maven == "" {
		t.Errorf("a tag that is gone: %v", err)
	}
}
