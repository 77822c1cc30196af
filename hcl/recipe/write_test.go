package recipe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/record"
)

const everything = `
recipe "pkg:maven/org.acme/thing@1.0" {
  builder   = "pkg:docker/acme/jdk@21"
  timestamp = "2025-01-01T00:00:00Z"
  resolve   = "maven"
  commands  = ["echo \"a $${b} %%{c}\\n\"", "mvn -B package"]
  source {
    git     = "https://source.example/thing.git"
    tag     = "v1.0"
    commit  = "0123456789abcdef0123456789abcdef01234567"
    sha256  = "03820ab800fd58fc3b1a9d07799de4060002f249d4783135765857fd3163fa09"
    newline = "crlf"
    submodules = ["lib/b", "lib/a"]
  }
  source {
    url    = "https://source.example/thing.zip"
    sha256 = "03820ab800fd58fc3b1a9d07799de4060002f249d4783135765857fd3163fa09"
    into   = "/opt"
    strip  = 2
  }
  environment {
    umask     = "002"
    newline   = "crlf"
    locale    = "en_US.UTF-8"
    variables = { A = "b=c", PATH = "/opt/bin:/bin" }
  }
  output "thing-1.0.jar" {
    path      = "target/thing-1.0.jar"
    reference = "sha256:03820ab800fd58fc3b1a9d07799de4060002f249d4783135765857fd3163fa09"
  }
  output "part-1.0.jar" {
    path    = "part/target/part-1.0.jar"
    package = "pkg:maven/org.acme/part@1.0"
  }
  limits {
    cpus      = 2
    processes = 500
    time      = "90s"
  }
}
`

func recipes(t testing.TB) map[string]string {
	all := map[string]string{"everything": everything}
	files, err := filepath.Glob("../examples/recipes/*.hcl")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[file] = string(text)
	}
	return all
}

func TestWriteReadsBack(t *testing.T) {
	for name, text := range recipes(t) {
		r := mustParse(t, text)
		written := Write(r)
		again, err := Parse(written, "written.hcl")
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, written)
		}
		if again.Hash() != r.Hash() {
			t.Errorf("%s: another recipe:\n%s", name, written)
		}
		if formatted, err := Format(written, name); err != nil || string(formatted) != string(written) {
			t.Errorf("%s: not in the canonical layout: %v", name, err)
		}
	}
}

func TestWrittenForm(t *testing.T) {
	golden(t, "testdata/everything.hcl", Write(mustParse(t, everything)))
}

func TestFormatKeepsComments(t *testing.T) {
	formatted, err := Format([]byte("recipe \"pkg:generic/a@1\" {\n# why\n  a=1\n}\n"), "x.hcl")
	if err != nil || !strings.Contains(string(formatted), "# why\n") || !strings.Contains(string(formatted), "a = 1") {
		t.Errorf("%s, %v", formatted, err)
	}
	if _, err := Format([]byte("recipe {{"), "x.hcl"); err == nil || !strings.Contains(err.Error(), "x.hcl line 1") {
		t.Errorf("%v", err)
	}
}

func TestLocalFolders(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "thing.hcl")
	text := strings.Replace(everything, `    url    = "https://source.example/thing.zip"
    sha256 = "03820ab800fd58fc3b1a9d07799de4060002f249d4783135765857fd3163fa09"
`, "    folder = \"src\"\n", 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r, folders, err := LoadLocal(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := folders.Of(r.Sources[0]); ok {
		t.Error("a commit is taken for a folder")
	}
	if got, ok := folders.Of(r.Sources[1]); !ok || got != filepath.Join(folder, "src") {
		t.Errorf("folder %q, %v", got, ok)
	}
	if _, ok := folders.Of(record.Source{URL: folderHost + "7.tar"}); ok {
		t.Error("a folder that nobody named")
	}
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), "Folder of this machine") {
		t.Errorf("a node takes it: %v", err)
	}
}
