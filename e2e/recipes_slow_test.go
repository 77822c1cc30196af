//go:build slow

package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/e2e/cluster"
	"github.com/pyrsia/appliance/hcl/recipe"
	"github.com/pyrsia/appliance/modules/record"
)

// wrapperArchive is Maven's own wrapper, as a script alone.
const wrapperArchive = "org.apache.maven.wrapper:maven-wrapper-distribution:3.3.2:only-script:zip"

// wrapperRecipe is a recipe that builds by the wrapper, which gets the release of Maven that
// the recipe had as a source. The address in its file is nobody's.
func wrapperRecipe(t *testing.T, text string, wrapper record.Source) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "wrapped.hcl")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := recipe.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(r.Sources, func(s record.Source) bool { return strings.HasPrefix(s.Maven, "org.apache.maven:apache-maven:") })
	release := strings.Split(r.Sources[at].Maven, ":")[2]
	r.Sources[at] = wrapper
	r.Sources[at].Into = "/opt/wrapper"
	r.Environment.Variables = slices.DeleteFunc(r.Environment.Variables, func(v string) bool { return strings.HasPrefix(v, "PATH=") })
	build := slices.IndexFunc(r.Commands, func(c string) bool { return strings.HasPrefix(c, "mvn ") })
	r.Commands[build] = "sh /opt/wrapper/mvnw" + strings.TrimPrefix(r.Commands[build], "mvn")
	properties := "distributionUrl=https://maven.example/org/apache/maven/apache-maven/" + release + "/apache-maven-" + release + "-bin.zip"
	r.Commands = append([]string{"mkdir -p /opt/wrapper/.mvn/wrapper; echo " + properties + " > /opt/wrapper/.mvn/wrapper/maven-wrapper.properties"}, r.Commands...)
	if err := os.WriteFile(file, recipe.Write(r), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A buildspec becomes a recipe, the recipe a try on one node, the try a publication by
// all of them, and every file is the one that its project released: with no hand in
// between, in the demo's network, from the ordinary registries.
func TestSlowRecipes(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	upstreams, err := cluster.FindUpstreams()
	if err != nil {
		t.Fatal(err)
	}
	bin, err := filepath.Abs("../bin/pyrsia")
	if err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Open(cluster.Spec{Folder: "../.demo/net", Build: 3, Regular: 1, Pyrsia: bin})
	if err != nil {
		t.Fatal(err)
	}
	alpha := c.Node(0)
	if !alpha.Running() {
		t.Fatal("the demo does not run; run: make demo")
	}
	folder := t.TempDir()
	pyrsia := func(into any, arguments ...string) {
		t.Helper()
		out, err := alpha.Pyrsia(ctx, append(arguments, "--json")...)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out, into); err != nil {
			t.Fatalf("`pyrsia %v` printed %.300q: %v", arguments, out, err)
		}
	}
	var imported []struct{ Package, Recipe, State, Reason string }
	pyrsia(&imported, "recipe", "import", "coverage/specs/plexus-classworlds-2.8.0.buildspec", "--archive", "--output", folder,
		"--repository", upstreams.Maven, "--builder", "21=pkg:docker/pyrsia/jdk21-maven@3.9.11")
	if len(imported) != 1 || imported[0].State != "imported" || imported[0].Package != "pkg:maven/org.codehaus.plexus/plexus-classworlds@2.8.0" {
		t.Fatalf("%+v", imported)
	}

	var tried []control.Tried
	pyrsia(&tried, "recipe", "test", imported[0].Recipe)
	if len(tried) < 3 {
		t.Errorf("tried: %+v", tried)
	}
	for _, o := range tried {
		if o.Reference != "equal" {
			t.Errorf("tried alone, %s is %s", o.Name.File, o.Reference)
		}
	}

	text, err := os.ReadFile(imported[0].Recipe)
	if err != nil {
		t.Fatal(err)
	}
	var source record.Source
	pyrsia(&source, "recipe", "source", "--repository", upstreams.Maven, "--maven", wrapperArchive)
	var wrapped []control.Tried
	pyrsia(&wrapped, "recipe", "test", wrapperRecipe(t, string(text), source))
	if len(wrapped) != len(tried) {
		t.Errorf("by the wrapper: %+v", wrapped)
	}
	for _, o := range wrapped {
		if o.Reference != "equal" {
			t.Errorf("by the wrapper, %s is %s", o.Name.File, o.Reference)
		}
	}
	for _, n := range c.Builders() {
		if err := os.WriteFile(filepath.Join(filepath.Dir(n.Config()), "recipes.d", "imported.hcl"), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	client := alpha.Client()
	defer client.Close()
	purl := tried[0].Name.Package
	err = cluster.Until(ctx, func() (bool, error) {
		_, err := client.RequestBuild(ctx, purl)
		return err == nil, nil // until the recipe is read
	})
	if err != nil {
		t.Fatal(err)
	}
	published, err := alpha.WaitBuild(ctx, purl, func(b control.BuildDetail) bool {
		return b.State == control.Published && b.Reference != ""
	})
	if err != nil {
		t.Fatal(err)
	}
	if published.Reference != "equal" || len(published.Outputs) != len(tried) {
		t.Errorf("published: %s, %d files; want %d equal ones", published.Reference, len(published.Outputs), len(tried))
	}
	var inputs struct {
		Files    int
		Verified struct{ Files int }
		Inputs   []control.Input
	}
	pyrsia(&inputs, "build", "deps", string(purl))
	roles := map[string]int{}
	for _, i := range inputs.Inputs {
		roles[i.Role]++
	}
	if inputs.Files < 50 || inputs.Verified.Files == 0 || roles["plugin"] == 0 || roles["parent pom"] == 0 || roles["source"] != 2 {
		t.Errorf("%d inputs, %d verified, by role %v", inputs.Files, inputs.Verified.Files, roles)
	}
	var differences []control.Difference
	pyrsia(&differences, "build", "diff", string(purl))
	if len(differences) > 0 {
		t.Errorf("%+v", differences)
	}
}
