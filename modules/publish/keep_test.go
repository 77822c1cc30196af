package publish_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/publish"
)

// TestKeep: logs, ended requests and what was not published go when they are as old as
// the node keeps them; what was published stays, and so does what is under way.
func TestKeep(t *testing.T) {
	const good, bad = artifact.PURL("pkg:maven/org.acme/good@1"), artifact.PURL("pkg:maven/org.acme/bad@1")
	run(t, 3, func(t *testing.T, w *world) {
		w.everybodyHas(chaintest.Recipe(good, "good-1.jar"), chaintest.Recipe(bad, "bad-1.jar"))
		for i, node := range w.nodes {
			node.start(0, false)
			// The second build differs on every node.
			node.build = func(try int) (string, error) {
				if try > 1 {
					return fmt.Sprint("node ", i), nil
				}
				return "content", nil
			}
		}
		member := w.nodes[0].alive().member
		for _, pkg := range []artifact.PURL{good, bad} {
			if _, err := member.RequestBuild(pkg); err != nil {
				t.Fatal(err)
			}
			w.until("the request for "+string(pkg)+" has ended", func() bool {
				for _, r := range member.Requests() {
					if r.Package == pkg && r.Done {
						return true
					}
				}
				return false
			})
		}
		attempts, err := w.c.Attempts()
		if err != nil || len(attempts) != 2 {
			t.Fatal(attempts, err)
		}
		w.until("both are compared with upstream's", func() bool {
			for _, a := range attempts {
				if r, err := member.References(a.ID); err != nil || len(r) == 0 {
					return false
				}
			}
			return true
		})
		builds := filepath.Join(w.nodes[0].folder, "builds")
		if len(files(t, builds, "*.log")) == 0 {
			t.Fatal("there are no logs to begin with")
		}
		member.SetLimits(publish.Limits{Parallel: 1, Deadline: 2 * time.Hour, Keep: time.Hour})
		for _, name := range append(files(t, builds, "*"), files(t, filepath.Join(w.nodes[0].folder, "requests"), "*")...) {
			// The bubble's clock began long before this machine's.
			if err := os.Chtimes(name, time.Now(), time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(30 * time.Minute)
		if len(files(t, builds, "*.log")) == 0 || len(member.Requests()) != 2 {
			t.Error("what is young was removed")
		}
		time.Sleep(45 * time.Minute)
		if left := files(t, builds, "*.log"); len(left) > 0 || len(member.Requests()) > 0 {
			t.Errorf("left: %v, %v", left, member.Requests())
		}
		for _, a := range attempts {
			outcome, _, ok, err := w.nodes[0].alive().Outcome(a.ID)
			if err != nil || !ok || len(outcome) == 0 {
				t.Errorf("the outcome is gone: %v, %v", ok, err)
			}
			has := w.nodes[0].alive().Has(output(&a))
			if published := a.Status == ledger.StatusPublished; has != published {
				t.Errorf("%s is %s, and its output is there: %v", a.Package, a.Status, has)
			}
		}
	})
}

func files(t *testing.T, folder, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(folder, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// output is the digest of the first node's only output in an attempt.
func output(a *ledger.Attempt) artifact.SHA256 {
	if a.Package == "pkg:maven/org.acme/good@1" {
		return chaintest.Describe([]byte("content of good-1.jar")).SHA256
	}
	return chaintest.Describe([]byte("node 0 of bad-1.jar")).SHA256
}
