package main

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/appliance/hcl/recipe"
	"github.com/pyrsia/appliance/modules/build/input/git/gittest"
)

const thingSpec = `groupId=org.acme
artifactId=thing
version=1.0
gitRepo=https://git.example/thing.git
gitTag=v${version}
tool=mvn-3.9.9
jdk=17
newline=lf
command="mvn clean package"
buildinfo=target/thing-1.0.buildinfo
`

// mavenRepository has one release with its source, and Maven's own.
func mavenRepository(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	entry, err := w.Create("thing-1.0/pom.xml")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(entry, `<project><groupId>org.acme</groupId><artifactId>thing</artifactId><version>1.0</version><properties><project.build.outputTimestamp>2024-01-02T03:04:05Z</project.build.outputTimestamp></properties></project>`)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		"/org/acme/thing/1.0/thing-1.0-source-release.zip":                   b.Bytes(),
		"/org/acme/thing/1.0/thing-1.0.pom":                                  []byte("pom"),
		"/org/acme/thing/1.0/thing-1.0.jar":                                  []byte("jar"),
		"/org/apache/maven/apache-maven/3.9.9/apache-maven-3.9.9-bin.tar.gz": []byte("maven"),
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, found := files[r.URL.Path]
		if !found {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// pyrsia runs the command line in this process.
func pyrsia(t *testing.T, args ...string) (out, errOut string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), args, &o, &e)
	return o.String(), e.String(), code
}

func TestRecipeImport(t *testing.T) {
	base, folder := mavenRepository(t), t.TempDir()
	for name, text := range map[string]string{
		"thing-1.0.buildspec":     thingSpec,
		"thing-1.0.buildcompare":  "koFiles=\"thing-1.0.jar\"\n",
		"sub/gradle.buildspec":    strings.Replace(thingSpec, "mvn-3.9.9", "gradle", 1),
		"sub/evil-1.0.buildspec":  "touch " + filepath.Join(folder, "trace") + "\n",
		"sub/empty-1.0.buildspec": "",
		"README.md":               "nothing",
	} {
		path := filepath.Join(folder, "specs", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, _, code := pyrsia(t, "recipe", "import", filepath.Join(folder, "specs"), "-o", filepath.Join(folder, "out"), "--repository", base, "--json", "--archive")
	var all []imported
	if err := json.Unmarshal([]byte(out), &all); err != nil || code != 0 || len(all) != 4 {
		t.Fatalf("%d imported, exit code %d, %v: %s", len(all), code, err, out)
	}
	reasons := map[string]string{
		"empty-1.0.buildspec": "sets no variables", "evil-1.0.buildspec": "runs a command", "gradle.buildspec": "tool=gradle",
	}
	for _, done := range all {
		if want, refused := reasons[filepath.Base(done.File)]; refused && (done.State != "refused" || !strings.Contains(done.Reason, want)) {
			t.Errorf("%+v, want %q", done, want)
		}
	}
	if _, err := os.Stat(filepath.Join(folder, "trace")); err == nil {
		t.Error("a buildspec was run")
	}
	file := filepath.Join(folder, "out", "thing-1.0.hcl")
	made, err := recipe.Load(file)
	if err != nil || made.Package != "pkg:maven/org.acme/thing@1.0" || len(made.Outputs) != 3 {
		t.Fatalf("%+v, %v", made, err)
	}
	text, err := os.ReadFile(file)
	if err != nil || !strings.HasPrefix(string(text), "# Imported by `pyrsia recipe import` from thing-1.0.buildspec.\n# Note: ") || !strings.Contains(string(text), "others could not rebuild thing-1.0.jar") {
		t.Errorf("%s, %v", text, err)
	}

	// The same again changes nothing; what somebody changed is left alone.
	if out, errOut, code := pyrsia(t, "recipe", "import", filepath.Join(folder, "specs"), "-o", filepath.Join(folder, "out"), "--repository", base, "--archive"); code != 0 || !strings.Contains(out, "1 of 4 imported") {
		t.Errorf("exit code %d: %s%s", code, out, errOut)
	}
	if err := os.WriteFile(file, append(text, "# mine\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	spec := filepath.Join(folder, "specs", "thing-1.0.buildspec")
	if _, errOut, code := pyrsia(t, "recipe", "import", spec, "-o", filepath.Join(folder, "out"), "--repository", base, "--archive"); code != 1 || !strings.Contains(errOut, "is there and differs") {
		t.Errorf("exit code %d: %s", code, errOut)
	}
	if _, errOut, code := pyrsia(t, "recipe", "import", spec, "-o", filepath.Join(folder, "out"), "--repository", base, "--force", "--archive"); code != 0 {
		t.Errorf("exit code %d: %s", code, errOut)
	}

	// One without a folder is printed.
	out, _, code = pyrsia(t, "recipe", "import", spec, "--repository", base, "--archive", "--builder", "17=pkg:docker/acme/jdk@17")
	if printed, err := recipe.Parse([]byte(out), "out"); code != 0 || err != nil || printed.Builder != "pkg:docker/acme/jdk@17" {
		t.Errorf("exit code %d, %v: %s", code, err, out)
	}
	out, _, code = pyrsia(t, "recipe", "import", spec, "--repository", base, "--archive", "--json")
	var one []imported
	if err := json.Unmarshal([]byte(out), &one); code != 0 || err != nil || len(one) != 1 || !strings.Contains(one[0].Text, "recipe \"pkg:maven/org.acme/thing@1.0\"") {
		t.Errorf("exit code %d, %v: %s", code, err, out)
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{spec, spec, "--repository", base}, "name the folder for them: -o FOLDER"},
		{[]string{filepath.Join(folder, "none"), "--repository", base}, "no such file"},
		{[]string{folder + "/out", "--repository", base}, "has no file whose name ends in .buildspec"},
		{[]string{spec, "--repository", "ftp://x"}, "want an http or https address"},
		{[]string{spec, "--repository", base, "--builder", "17"}, "want a JDK and the package URL"},
		{[]string{filepath.Join(folder, "specs", "sub", "gradle.buildspec"), "--repository", base}, "not imported: "},
	} {
		if _, errOut, code := pyrsia(t, append([]string{"recipe", "import"}, c.args...)...); code == 0 || !strings.Contains(errOut, c.says) {
			t.Errorf("%q: exit code %d, %s; want %q", c.args, code, errOut, c.says)
		}
	}
}

func TestRecipeNew(t *testing.T) {
	base := mavenRepository(t)
	out, errOut, code := pyrsia(t, "recipe", "new", "pkg:maven/org.acme/thing@1.0", "--jdk", "17", "--maven", "3.9.9", "--repository", base)
	r, err := recipe.Parse([]byte(out), "out")
	if code != 0 || err != nil || r.Environment.Umask != "002" || len(r.Outputs) != 3 || r.Sources[1].Into != "/opt" || !strings.HasPrefix(out, "# Begun by") {
		t.Fatalf("exit code %d, %v: %s%s", code, err, out, errOut)
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"pkg:maven/org.acme/none@1.0"}, "the release has no none-1.0-source-release.zip"},
		{[]string{"pkg:docker/acme/jdk@1"}, "is no Maven package"},
		{[]string{"pkg:maven/org.acme/thing@1.0", "--git", "https://git.example/x.git"}, "--git and --tag go together"},
		{[]string{"pkg:maven/org.acme/thing@1.0", "--jdk", "99"}, "jdk=99: no builder image"},
		{[]string{"org.acme:thing:1.0"}, "write pkg:maven/org.acme/thing@1.0"},
	} {
		if _, errOut, code := pyrsia(t, append([]string{"recipe", "new", "--repository", base, "--maven", "3.9.9"}, c.args...)...); code == 0 || !strings.Contains(errOut, c.says) {
			t.Errorf("%q: exit code %d, %s; want %q", c.args, code, errOut, c.says)
		}
	}
}

// TestCommits: a tag in a git repository becomes a source that names the commit, for an
// import as for a block that is asked for.
func TestCommits(t *testing.T) {
	repository := gittest.New(t)
	commit := repository.Commit(repository.Tree(map[string]gittest.File{
		"pom.xml": {Content: "<project><groupId>org.acme</groupId><artifactId>thing</artifactId><version>1.0</version><properties><project.build.outputTimestamp>2024-01-02T03:04:05Z</project.build.outputTimestamp></properties></project>"},
	}))
	repository.Point("refs/tags/v1.0", commit)
	git := httptest.NewServer(repository)
	t.Cleanup(git.Close)
	base, address := mavenRepository(t), git.URL+"/thing.git"
	spec := filepath.Join(t.TempDir(), "thing-1.0.buildspec")
	if err := os.WriteFile(spec, []byte(strings.Replace(thingSpec, "https://git.example/thing.git", address, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errOut, code := pyrsia(t, "recipe", "import", spec, "--repository", base)
	made, err := recipe.Parse([]byte(out), "out")
	if code != 0 || err != nil || made.Sources[0].Git != address || made.Sources[0].Commit != commit || made.Sources[0].Tag != "v1.0" {
		t.Fatalf("exit code %d, %v: %s%s", code, err, out, errOut)
	}
	block, errOut, code := pyrsia(t, "recipe", "source", "--git", address, "--tag", "v1.0")
	if code != 0 || !strings.Contains(block, made.Sources[0].SHA256.String()) || !strings.Contains(block, commit) || !strings.HasPrefix(block, "source {\n") {
		t.Errorf("exit code %d: %s%s", code, block, errOut)
	}
	block, _, code = pyrsia(t, "recipe", "source", "--maven", "org.apache.maven:apache-maven:3.9.9:bin:tar.gz", "--repository", base, "--json")
	if code != 0 || !strings.Contains(block, `"maven": "org.apache.maven:apache-maven:3.9.9:bin:tar.gz"`) {
		t.Errorf("exit code %d: %s", code, block)
	}
	block, _, code = pyrsia(t, "recipe", "source", "--url", base+"/org/acme/thing/1.0/thing-1.0.jar")
	if code != 0 || !strings.Contains(block, fmt.Sprintf("%x", sha256.Sum256([]byte("jar")))) {
		t.Errorf("exit code %d: %s", code, block)
	}
	for _, c := range []struct{ args, says string }{
		{"--git " + address + " --tag v2", `has no tag "v2"`},
		{"--git " + address, "tag"},
		{"--url ftp://x.example/y", "want an http or https address"},
		{"--url " + base + "/none", "404"},
		{"--maven a:b --repository " + base, "Maven coordinates"},
		{"", "name one source"},
	} {
		if _, errOut, code := pyrsia(t, append([]string{"recipe", "source"}, strings.Fields(c.args)...)...); code == 0 || !strings.Contains(errOut, c.says) {
			t.Errorf("%s: exit code %d, %s; want %q", c.args, code, errOut, c.says)
		}
	}
}
