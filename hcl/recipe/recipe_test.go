package recipe

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/hcl/v2"

	"github.com/pyrsia/appliance/modules/record"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

func TestWrong(t *testing.T) {
	files, err := filepath.Glob("testdata/wrong/*.hcl")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".hcl"), func(t *testing.T) {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			r, err := Parse(source, "thing.hcl")
			var problems *Error
			if r != nil || !errors.As(err, &problems) {
				t.Fatalf("recipe %v, error %v", r, err)
			}
			if problems.Len() == 0 || len(problems.Problems()) != problems.Len() {
				t.Errorf("%d problems", problems.Len())
			}
			for _, p := range problems.Problems() {
				if p.File != "thing.hcl" || p.Line == 0 {
					t.Errorf("problem %+v has no place", p)
				}
			}
			golden(t, strings.TrimSuffix(file, ".hcl")+".txt", []byte(err.Error()+"\n"))
		})
	}
}

// The examples are recipes, and their canonical form is what it was: a change
// of it is another recipe to the network.
func TestExamples(t *testing.T) {
	files, err := LoadFolder("../examples/recipes")
	if err != nil || len(files) < 2 {
		t.Fatalf("%d recipes, %v", len(files), err)
	}
	for _, f := range files {
		canonical := record.MustMarshal(f.Recipe)
		again, err := record.DecodeRecipe(canonical)
		if err != nil {
			t.Fatalf("%s: %v", f.Path, err)
		}
		if again.Hash() != f.Recipe.Hash() {
			t.Errorf("%s: its canonical form reads back as another recipe", f.Path)
		}
		name := strings.TrimSuffix(filepath.Base(f.Path), ".hcl")
		golden(t, filepath.Join("testdata", name+".json"), append(canonical, '\n'))
	}
}

// The page that people read knows every attribute and block.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../examples/README.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]*hcl.BodySchema{
		"A recipe": bodySchema, "source": sourceSchema, "debian": debianSchema, "environment": environmentSchema,
		"output \"FILE\"": outputSchema, "image": imageSchema, "limits": limitsSchema,
	}
	for title, s := range sections {
		_, section, found := strings.Cut(string(text), "# "+title+"\n")
		if !found {
			t.Errorf("no section %q", title)
		}
		section, _, _ = strings.Cut(section, "\n#")
		for _, a := range s.Attributes {
			if !strings.Contains(section, "\n| `"+a.Name+"` | ") {
				t.Errorf("section %q does not explain %s", title, a.Name)
			}
		}
		if n := strings.Count(section, "\n| `"); n != len(s.Attributes) {
			t.Errorf("section %q explains %d attributes, there are %d", title, n, len(s.Attributes))
		}
	}
	if len(sections) != len(bodySchema.Blocks)+1 {
		t.Errorf("%d sections for %d blocks", len(sections), len(bodySchema.Blocks))
	}
}

func TestDefaultsAndOrder(t *testing.T) {
	short := mustParse(t, `
recipe "pkg:generic/thing@1" {
  builder   = "pkg:docker/acme/tool@1"
  timestamp = "2025-01-01T00:00:00Z"
  commands  = ["make"]
  source {
    url    = "https://source.example/thing.zip"
    sha256 = "03820ab800fd58fc3b1a9d07799de4060002f249d4783135765857fd3163fa09"
  }
  output "b" { path = "out/b" }
  output "a" { path = "out/a" }
}`)
	long := mustParse(t, `
recipe "pkg:generic/thing@1" {
  platform  = "linux/amd64"
  builder   = "pkg:docker/acme/tool@1"
  timestamp = "2025-01-01T01:00:00+01:00"
  resolve   = ""
  commands  = ["make"]
  environment {
    locale    = "C.UTF-8"
    time_zone = "UTC"
    umask     = "0022"
    work_dir  = "/build"
    variables = {}
  }
  output "a" {
    package = "pkg:generic/thing@1"
    path    = "out/a"
  }
  output "b" { path = "out/b" }
  source {
    url    = "https://source.example/thing.zip"
    sha256 = "03820ab800fd58fc3b1a9d07799de4060002f249d4783135765857fd3163fa09"
    strip  = 0
  }
  limits {
    memory = "4096MiB"
    disk   = "16GiB"
    time   = "60m"
  }
}`)
	if short.Hash() != long.Hash() {
		t.Errorf("equal recipes differ:\n%s\n%s", record.MustMarshal(short), record.MustMarshal(long))
	}
}

func mustParse(t testing.TB, source string) *record.Recipe {
	t.Helper()
	r, err := Parse([]byte(source), "test.hcl")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLoad(t *testing.T) {
	if _, err := Load("testdata/absent.hcl"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
	huge := filepath.Join(t.TempDir(), "huge.hcl")
	if err := os.WriteFile(huge, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(huge); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("huge file: %v", err)
	}
}

func TestLoadFolder(t *testing.T) {
	files, err := LoadFolder(filepath.Join(t.TempDir(), "absent"))
	if len(files) != 0 || err != nil {
		t.Errorf("absent folder: %v, %v", files, err)
	}
	folder := t.TempDir()
	good, err := os.ReadFile("../examples/recipes/plexus-archiver-4.10.2.hcl")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"a.hcl": string(good), "b.hcl": string(good), "c.hcl": "recipe {", "d.txt": "no recipe", ".e.hcl": "an editor's",
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err = LoadFolder(folder)
	if len(files) != 1 || filepath.Base(files[0].Path) != "a.hcl" {
		t.Errorf("files %v", files)
	}
	for _, says := range []string{"b.hcl", "a.hcl already has", "c.hcl"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v does not say %q", err, says)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/wrong/*.hcl", "../examples/recipes/*.hcl"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(source)
		}
	}
	f.Fuzz(func(t *testing.T, source []byte) {
		r, err := Parse(source, "f.hcl")
		if (r == nil) == (err == nil) {
			t.Fatalf("recipe %v, error %v", r, err)
		}
		if err != nil {
			_ = err.Error()
			return
		}
		again, err := record.DecodeRecipe(record.MustMarshal(r))
		if err != nil || again.Hash() != r.Hash() {
			t.Fatalf("canonical form does not read back: %v", err)
		}
		if written, err := Parse(Write(r), "w.hcl"); err != nil || written.Hash() != r.Hash() {
			t.Fatalf("written form does not read back: %v\n%s", err, Write(r))
		}
		if _, err := record.Marshal(r.Change()); err != nil {
			t.Fatal(err)
		}
	})
}

// outputs is a recipe with the given output blocks.
func outputs(blocks string) string {
	return `
recipe "pkg:generic/thing@1" {
  builder   = "pkg:docker/acme/tool@1"
  timestamp = "2025-01-01T00:00:00Z"
  commands  = ["make"]
  source {
    url    = "https://source.example/thing.zip"
    sha256 = "03820ab800fd58fc3b1a9d07799de4060002f249d4783135765857fd3163fa09"
  }
` + blocks + "}"
}

// TestFitsALeaf: the largest recipe that is taken fits a leaf with the endorsements
// of a majority of 100 members, and a larger one says what to do.
func TestFitsALeaf(t *testing.T) {
	var blocks strings.Builder
	fitting := 0
	for i := range 2000 {
		fmt.Fprintf(&blocks, "  output \"thing-%04d.jar\" { path = \"out/thing-%04d.jar\" }\n", i, i)
		r, err := Parse([]byte(outputs(blocks.String())), "test.hcl")
		if err != nil {
			if !strings.Contains(err.Error(), "Recipe too long") || !strings.Contains(err.Error(), "family") {
				t.Error(err)
			}
			break
		}
		fitting++
		leaf := &record.RecipeLeaf{Change: r.Change()}
		for range 51 {
			leaf.Endorsements = append(leaf.Endorsements, record.Endorsement{
				Identity: "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X", LastHeight: 1 << 40, Seq: 1 << 50,
			})
		}
		if data, err := record.EncodeLeaf(leaf); err != nil {
			t.Fatalf("%d outputs: %d bytes: %v", fitting, len(data), err)
		}
	}
	if fitting < 150 || fitting == 2000 {
		t.Errorf("%d outputs fit", fitting)
	}
}

func TestFamilies(t *testing.T) {
	r := mustParse(t, outputs("  output \"thing-1-*\" { path = \"parts\" }\n"))
	if len(r.Outputs) != 1 || r.Outputs[0].File != "thing-1-*" || r.Files()[0].File != "thing-1-*" {
		t.Errorf("%+v", r.Outputs)
	}
	for _, name := range []string{"thing*", "*", "thing-*-x", "thing-**", "a/thing-*"} {
		if _, err := Parse([]byte(outputs(fmt.Sprintf("  output %q { path = \"parts\" }\n", name))), "test.hcl"); err == nil || !strings.Contains(err.Error(), "File name") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLoadFolderWithPipe(t *testing.T) {
	folder := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(folder, "pipe.hcl"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadFolder(folder); err == nil || !strings.Contains(err.Error(), "not a file") {
		t.Errorf("%v", err)
	}
}

func TestNestedWithoutEnd(t *testing.T) {
	if _, err := Parse([]byte("x = "+strings.Repeat("[", 60_000)), "x.hcl"); err == nil {
		t.Error("parsed")
	}
}
