package e2e

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The rules of the house (docs/architecture.md, "The rules"). A rule is broken
// only with an entry in a table below, and with the reason in it.

const module = "github.com/pyrsia/appliance/"

// pkg is what `go list -json` tells of a package.
type pkg struct {
	ImportPath, Dir, Doc, Name         string
	GoFiles                            []string
	Imports, TestImports, XTestImports []string
	Deps                               []string

	path string // ImportPath below the module
}

// all are the imports of the package and of its tests.
func (p *pkg) all() []string { return slices.Concat(p.Imports, p.TestImports, p.XTestImports) }

func house(t *testing.T) []*pkg {
	t.Helper()
	command := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,Name,GoFiles,Imports,TestImports,XTestImports,Deps", module+"...")
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	var packages []*pkg
	for decoder := json.NewDecoder(out); ; {
		p := new(pkg)
		if err := decoder.Decode(p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		p.path = strings.TrimPrefix(p.ImportPath, module)
		packages = append(packages, p)
	}
	if err := command.Wait(); err != nil {
		t.Fatalf("go list: %v", err)
	}
	if len(packages) < 20 {
		t.Fatalf("go list found %d packages: these are not all", len(packages))
	}
	return packages
}

// under tells whether a path is a folder or below it.
func under(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}

func ours(path string) (string, bool) { return strings.CutPrefix(path, module) }

func TestArchitectureWings(t *testing.T) {
	for _, p := range house(t) {
		for _, imported := range p.all() {
			to, our := ours(imported)
			if under(p.path, "modules") && our && !under(to, "modules") {
				t.Errorf("%s imports %s: modules are the system and know neither program nor configuration nor stories, so that each can be used and tested alone", p.path, to)
			}
			if strings.HasPrefix(imported, "github.com/hashicorp/hcl/") && !under(p.path, "hcl") {
				t.Errorf("%s imports %s: HCL stops in hcl/*; everybody else takes typed values, whose problems were told with their place in the file", p.path, imported)
			}
			if our && under(to, "e2e") && !under(p.path, "e2e") {
				t.Errorf("%s imports %s: stories look at the house from outside", p.path, to)
			}
		}
	}
}

// technologies are the packages that stand for a technology, with the library
// that they alone may import.
var technologies = map[string]string{
	"modules/store/disk":          "",
	"modules/chain/bolt":          "go.etcd.io/bbolt",
	"modules/quorum/bolt":         "go.etcd.io/bbolt", // exception: the vote file stands beside the vote key, in a file of its own
	"modules/build/buildkit":      "github.com/moby/buildkit",
	"modules/distribution/libp2p": "github.com/libp2p/",
	"modules/quorum/memberlist":   "github.com/hashicorp/memberlist",
	"appliance/supervisor":        "github.com/thejerf/suture",
	"modules/build/input/debian":  "github.com/ProtonMail/go-crypto",
	"modules/build/input/git":     "github.com/go-git/",
}

// wired are technologies with more users than the node, and why.
var wired = map[string][]string{
	"modules/build/input/debian": {"modules/build/input"}, // exception: a pure format below its noun, no technology to choose
	"modules/build/input/git":    {"modules/build/input"}, // exception: a protocol and its format below their noun, no technology to choose
}

func TestArchitectureTechnologies(t *testing.T) {
	for _, p := range house(t) {
		for _, imported := range p.Imports {
			if to, our := ours(imported); our {
				if _, is := technologies[to]; is && p.path != "appliance/node" && !slices.Contains(wired[to], p.path) && !isTestHelper(p.path) {
					t.Errorf("%s imports %s: only appliance/node chooses technologies, so that a noun can have another one", p.path, to)
				}
			}
		}
		// Tests may: they forge what the library writes.
		for _, imported := range p.Imports {
			if allowed, owners := mayImport(p.path, imported); !allowed {
				t.Errorf("%s imports %s: only %s may, so that the library can be replaced in one room", p.path, imported, strings.Join(owners, " and "))
			}
		}
	}
}

func mayImport(path, imported string) (allowed bool, owners []string) {
	for owner, library := range technologies {
		if library != "" && strings.HasPrefix(imported, library) {
			owners = append(owners, owner)
		}
	}
	slices.Sort(owners)
	return len(owners) == 0 || slices.ContainsFunc(owners, func(owner string) bool { return under(path, owner) }), owners
}

// isTestHelper tells whether a package is for tests only.
func isTestHelper(path string) bool {
	return strings.HasSuffix(path, "test") || under(path, "e2e") || strings.HasSuffix(path, "/relayprogram")
}

// pure are the packages that touch nothing outside: the same input gives the
// same output for ever, so that two nodes cannot disagree about a byte, and a
// seed repeats a run of the state machines.
var pure = []string{"modules/artifact", "modules/record", "modules/ledger", "modules/quorum/attest", "modules/quorum/fence", "modules/quorum/order", "modules/quorum/order/votes"}

// outside are the packages of the standard library by which one could.
var outside = regexp.MustCompile(`^(net|net/http.*|os|os/.*|io/ioutil|syscall|log|log/.*|math/rand.*|crypto/rand|context|runtime|runtime/.*|golang\.org/x/sys/.*)$`)

// clocks are the functions of time that ask a clock.
var clocks = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}

func TestArchitecturePure(t *testing.T) {
	seen := 0
	for _, p := range house(t) {
		if !slices.Contains(pure, p.path) {
			continue
		}
		seen++
		for _, imported := range p.Imports {
			if outside.MatchString(imported) {
				t.Errorf("%s imports %s: it must not touch network, files, clock or chance", p.path, imported)
			}
		}
		for _, name := range p.GoFiles {
			inspectPure(t, p.path, filepath.Join(p.Dir, name))
		}
	}
	if seen != len(pure) {
		t.Errorf("%d of the %d pure packages exist; correct the list", seen, len(pure))
	}
}

func inspectPure(t *testing.T, path, name string) {
	t.Helper()
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	timed := slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == strconv.Quote("time") })
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			t.Errorf("%s: %s starts a goroutine: the one who calls it decides what runs when", files.Position(n.Pos()), path)
		case *ast.SelectorExpr:
			if of, ok := n.X.(*ast.Ident); ok && timed && of.Name == "time" && slices.Contains(clocks, n.Sel.Name) {
				t.Errorf("%s: %s asks the clock by time.%s: time is an input", files.Position(n.Pos()), path, n.Sel.Name)
			}
		}
		return true
	})
}

func TestArchitecturePaths(t *testing.T) {
	forbidden := []struct{ from, to, because string }{
		{"modules/mirror", "modules/publish", "the read path must go on where nothing is published"},
		{"modules/mirror", "modules/build", "a regular node runs without builds"},
		{"modules/mirror", "modules/quorum", "a regular node runs without the quorum"},
		{"modules/mirror", "modules/chain", "the mirror declares what it asks of the log"},
		{"modules/publish", "modules/mirror", "the write path takes nothing that was made for clients"},
		{"modules/registry", "modules/store", "protocols reach artifacts only through the mirror, where bytes are verified"},
		{"modules/registry", "modules/distribution", "protocols reach artifacts only through the mirror, where bytes are verified"},
		{"modules/registry", "modules/chain", "protocols reach artifacts only through the mirror, where names are resolved"},
		{"modules/registry", "modules/publish", "a client's request changes nothing"},
	}
	for _, p := range house(t) {
		for _, imported := range p.Deps {
			to, our := ours(imported)
			if !our {
				continue
			}
			for _, f := range forbidden {
				if under(p.path, f.from) && under(to, f.to) {
					t.Errorf("%s depends on %s: %s", p.path, to, f.because)
				}
			}
		}
	}
}

// base are the packages below all nouns: every room speaks their types, and
// whoever keeps files keeps them by modules/durable.
var base = []string{"modules/artifact", "modules/record", "modules/ledger", "modules/durable", "modules/archive"}

// sideways are nouns that know another noun, and why.
var sideways = map[[2]string]string{
	{"modules/publish", "modules/build"}:   "publishing begins with the job, the files and the engine of a build; they are its vocabulary, not its technology",
	{"modules/registry", "modules/mirror"}: "the mirror is the one way to artifacts",
}

func TestArchitectureNouns(t *testing.T) {
	used := map[[2]string]bool{}
	for _, p := range house(t) {
		for _, imported := range p.Imports {
			to, our := ours(imported)
			if !our || !under(p.path, "modules") || slices.Contains(base, to) || noun(p.path) == noun(to) || isTestHelper(p.path) {
				continue
			}
			pair := [2]string{noun(p.path), noun(to)}
			used[pair] = true
			if sideways[pair] == "" {
				t.Errorf("%s imports %s: nouns do not know each other; declare the one to three methods that are needed, and let appliance/node connect them", p.path, to)
			}
		}
		if slices.Contains(base, p.path) {
			for _, imported := range p.Imports {
				if to, our := ours(imported); our && !slices.Contains(base, to) {
					t.Errorf("%s imports %s: what is below all nouns knows none of them", p.path, to)
				}
			}
		}
	}
	for pair := range sideways {
		if !used[pair] {
			t.Errorf("%s no longer imports %s; remove the exception", pair[0], pair[1])
		}
	}
}

// noun is the room of a path: modules/<noun>.
func noun(path string) string {
	parts := strings.SplitN(path, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

// firstSentence of a package's doc says what the package is: its one noun.
var firstSentence = regexp.MustCompile(`^(Package|Command) ([a-z0-9]+) (is|are|holds|keeps|has) .*[.:]`)

func TestArchitectureDocs(t *testing.T) {
	for _, p := range house(t) {
		found := firstSentence.FindStringSubmatch(p.Doc)
		switch {
		case found == nil:
			t.Errorf("%s: doc begins %.120q; want \"Package name is <the noun it owns>.\"", p.path, p.Doc)
		case (found[1] == "Command") != (p.Name == "main"):
			t.Errorf("%s: doc begins with %s, but the package is %s", p.path, found[1], p.Name)
		case found[2] != filepath.Base(p.path):
			t.Errorf("%s: doc speaks of %q", p.path, found[2])
		}
	}
}

// maxMain is the length of main.go in lines: it is verbs only.
const maxMain = 60

func TestArchitectureMain(t *testing.T) {
	for _, p := range house(t) {
		if p.path != "appliance/cmd/pyrsia" {
			continue
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, filepath.Join(p.Dir, "main.go"), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if lines := files.Position(file.FileEnd).Line; lines > maxMain {
			t.Errorf("main.go has %d lines, want at most %d: verbs only", lines, maxMain)
		}
		return
	}
	t.Error("there is no appliance/cmd/pyrsia")
}
