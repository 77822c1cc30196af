package publish_test

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/publish"
)

// TestReferences: each output is compared with what upstream released, by the recipe's
// digest or else by the node's own upstream; what it says changes nothing about the vote.
func TestReferences(t *testing.T) {
	const thing = artifact.PURL("pkg:maven/org.acme/thing@1")
	files := []string{"thing-1.jar", "thing-1.pom", "thing-1-a.jar", "thing-1-b.jar", "thing-1-c.jar"}
	recipe := chaintest.Recipe(thing, files...)
	right, wrong := sha512.Sum512([]byte("content of thing-1.jar")), sha256.Sum256([]byte("other"))
	for i, o := range recipe.Outputs {
		switch o.File {
		case "thing-1.jar":
			recipe.Outputs[i].Reference = "sha512:" + hex.EncodeToString(right[:])
		case "thing-1.pom":
			recipe.Outputs[i].Reference = "sha256:" + hex.EncodeToString(wrong[:])
		}
	}
	want := map[string]publish.Reference{
		"thing-1.jar":   {Verdict: publish.ReferenceEqual, Recipe: true},
		"thing-1.pom":   {Verdict: publish.ReferenceDifferent, Recipe: true},
		"thing-1-a.jar": {Verdict: publish.ReferenceEqual},
		"thing-1-b.jar": {Verdict: publish.ReferenceDifferent},
		"thing-1-c.jar": {Verdict: publish.ReferenceAbsent},
	}
	run(t, 3, func(t *testing.T, w *world) {
		w.everybodyHas(recipe)
		for _, node := range w.nodes {
			node.released = map[string]string{"thing-1-a.jar": "content of thing-1-a.jar", "thing-1-b.jar": "other"}
			node.unreachable = 2
			node.start(0, false)
		}
		member := w.nodes[0].alive().member
		if _, err := member.RequestBuild(thing); err != nil {
			t.Fatal(err)
		}
		w.until("the request is settled", func() bool { _, ok := w.settled(); return ok })
		var found []publish.Reference
		w.until("the outputs are compared", func() (done bool) {
			references, err := member.References(w.newest(recipe).ID)
			if err != nil {
				t.Error(err)
			}
			found = references
			return len(found) > 0
		})
		if len(found) != len(files) {
			t.Errorf("%+v", found)
		}
		for _, r := range found {
			if w := want[r.Name.File]; r.Verdict != w.Verdict || r.Recipe != w.Recipe || (r.Digest == "") != (r.Verdict == publish.ReferenceAbsent) {
				t.Errorf("%+v, want %+v", r, w)
			}
		}
	})
}

// TestDiffer: what is not alike is explained once the attempt has its end, once, also
// across a restart; what is alike needs no explanation.
func TestDiffer(t *testing.T) {
	const thing = artifact.PURL("pkg:maven/org.acme/thing@1")
	for name, c := range map[string]struct {
		third    string // what the third node builds
		released string
		want     int
	}{
		"alike":           {"content", "content of thing-1.jar", 0},
		"a member":        {"other", "content of thing-1.jar", 1},
		"not as released": {"content", "something else", 1},
	} {
		t.Run(name, func(t *testing.T) {
			recipe := chaintest.Recipe(thing, "thing-1.jar")
			run(t, 3, func(t *testing.T, w *world) {
				w.everybodyHas(recipe)
				explained := 0
				for i, node := range w.nodes {
					node.released = map[string]string{"thing-1.jar": c.released}
					if i == 0 {
						node.differ = func() { explained++ }
					}
					if i == 2 {
						node.build = func(int) (string, error) { return c.third, nil }
					}
					node.start(0, false)
				}
				if _, err := w.nodes[0].alive().member.RequestBuild(thing); err != nil {
					t.Fatal(err)
				}
				w.until("it is published, every vote in", func() bool {
					a, err := w.c.Newest(recipe.Hash(), recipe.Platform)
					return err == nil && len(a.Votes) == 3 && a.Status == ledger.StatusPublished
				})
				time.Sleep(5 * time.Minute) // of the bubble
				w.nodes[0].stop()
				w.nodes[0].start(0, false)
				time.Sleep(5 * time.Minute)
				if explained != c.want {
					t.Errorf("explained %d times, want %d", explained, c.want)
				}
				kept, err := w.nodes[0].alive().member.Differences(w.newest(recipe).ID)
				if err != nil || (string(kept) == "reports") != (c.want > 0) {
					t.Errorf("kept %q, %v", kept, err)
				}
			})
		})
	}
}
