package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2/hclwrite"
)

var edits = map[string]Edit{
	"role-build":    SetRole(RoleBuild),
	"role-regular":  SetRole(RoleRegular),
	"role-unset":    SetRole(RoleUnset),
	"peer-add":      AddPeer("gamma", string(identity(2)), []string{"/dns4/gamma.example/tcp/4001"}),
	"peer-remove":   RemovePeer("beta"),
	"peer-by-id":    RemovePeer(string(identity(1))),
	"mirror-add":    AddMirror("docker", MirrorChange{Packages: []string{"acme/app", "acme/other"}, Unverified: "refuse"}),
	"mirror-remove": RemoveMirror("docker", []string{"library/debian:13-slim"}),
	"mirror-gone":   RemoveMirror("docker", nil),
}

// TestEdits shows what each edit makes of each file: testdata/edit/NAME.hcl, and beside
// it NAME.EDIT.txt. Whatever it is, no comment of anything else is lost, and the layout
// is the canonical one if it was before.
func TestEdits(t *testing.T) {
	files, err := filepath.Glob("testdata/edit/*.hcl")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for name, edit := range edits {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".hcl")+"/"+name, func(t *testing.T) {
				edited, diags, err := Apply(source, "pyrsia.hcl", edit)
				var out bytes.Buffer
				out.Write(edited)
				if err != nil {
					fmt.Fprintln(&out, "error:", err)
				}
				if diags.HasErrors() {
					fmt.Fprintln(&out, "refused:", diags.Err())
				}
				golden(t, strings.TrimSuffix(file, ".hcl")+"."+name+".txt", out.Bytes())
				if edited == nil {
					return
				}
				if wasTidy, is := bytes.Equal(hclwrite.Format(source), source), bytes.Equal(hclwrite.Format(edited), edited); wasTidy && !is {
					t.Errorf("the layout was canonical, and is not:\n%s", edited)
				}
				for _, line := range strings.Split(string(source), "\n") {
					if _, comment, ok := strings.Cut(line, "# keep"); ok && !bytes.Contains(edited, []byte("# keep"+comment)) {
						t.Errorf("lost: %s", line)
					}
				}
			})
		}
	}
}

// FuzzEdits: an edit of a file that can be used leaves one with no syntax errors, and
// adding and removing the same changes no setting.
func FuzzEdits(f *testing.F) {
	files, _ := filepath.Glob("testdata/edit/*.hcl")
	more, _ := filepath.Glob("testdata/wrong/*.hcl")
	for _, file := range append(files, more...) {
		if source, err := os.ReadFile(file); err == nil {
			f.Add(source, "acme/app")
		}
	}
	f.Fuzz(func(t *testing.T, source []byte, item string) {
		before, diags := Parse(source, "pyrsia.hcl")
		if diags.HasErrors() {
			return
		}
		for name, edit := range edits {
			edited, diags, err := Apply(source, "pyrsia.hcl", edit)
			if err != nil {
				continue
			}
			for _, d := range diags {
				if d.Severity == Error && d.Setting == "" && d.Summary != "Block stands twice" {
					t.Fatalf("%s: %s\n%s", name, d.Summary, edited)
				}
			}
		}
		if _, declared := before.Mirror(MirrorDocker); !declared {
			return
		}
		added, diags, err := Apply(source, "pyrsia.hcl", AddMirror(MirrorDocker, MirrorChange{Packages: []string{item}}))
		if err != nil || diags.HasErrors() {
			return
		}
		removed, diags, err := Apply(added, "pyrsia.hcl", RemoveMirror(MirrorDocker, []string{item}))
		if err != nil || diags.HasErrors() {
			t.Fatalf("%q cannot be taken out again: %v, %v\n%s", item, err, diags.Err(), added)
		}
		after, _ := Parse(removed, "pyrsia.hcl")
		if changes := Changes(before, after); len(changes) > 0 {
			t.Fatalf("%q was added and taken out: %+v\n%s", item, changes, removed)
		}
	})
}
