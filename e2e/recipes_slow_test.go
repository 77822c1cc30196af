//go:build slow

package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/e2e/cluster"
)

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
