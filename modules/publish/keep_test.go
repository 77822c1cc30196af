package publish_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/publish"
	"github.com/pyrsia/appliance/modules/record"
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

// TestKeepSecondAttempt: the same bytes in an attempt that failed and in one under way
// stay for the latter.
func TestKeepSecondAttempt(t *testing.T) {
	const pkg = artifact.PURL("pkg:maven/org.acme/bad@1")
	run(t, 3, func(t *testing.T, w *world) {
		w.everybodyHas(chaintest.Recipe(pkg, "bad-1.jar"))
		slow := false
		for i, node := range w.nodes {
			node.build = func(int) (string, error) {
				if slow && i > 0 {
					time.Sleep(90 * time.Minute)
				}
				return fmt.Sprint("node ", i), nil
			}
			node.start(0, false)
		}
		alive := w.nodes[0].alive()
		if _, err := alive.member.RequestBuild(pkg); err != nil {
			t.Fatal(err)
		}
		w.until("the first attempt is compared", func() bool {
			attempts, err := w.c.Attempts()
			if err != nil || len(attempts) != 1 || attempts[0].Status != ledger.StatusDisagreed {
				return false
			}
			r, err := alive.member.References(attempts[0].ID)
			return err == nil && len(r) > 0
		})
		for _, name := range files(t, filepath.Join(w.nodes[0].folder, "builds"), "*") {
			if err := os.Chtimes(name, time.Now(), time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		alive.member.SetLimits(publish.Limits{Parallel: 1, Deadline: 2 * time.Hour, Keep: time.Hour})
		slow = true
		time.Sleep(45 * time.Minute)
		if _, err := alive.member.RequestBuild(pkg); err != nil {
			t.Fatal(err)
		}
		w.until("the second attempt is built here", func() bool {
			attempts, err := w.c.Attempts()
			if err != nil || len(attempts) != 2 {
				return false
			}
			_, _, ok, err := alive.Outcome(attempts[1].ID)
			return ok && err == nil
		})
		time.Sleep(30 * time.Minute)
		attempts, err := w.c.Attempts()
		if err != nil || !attempts[1].Active(w.c.Time()) {
			t.Fatalf("the second attempt is over: %v", err)
		}
		if !alive.Has(chaintest.Describe([]byte("node 0 of bad-1.jar")).SHA256) {
			t.Error("what an attempt under way publishes was let go")
		}
	})
}

// TestTryKeepsOthers: what is tried and published as well stays what it was.
func TestTryKeepsOthers(t *testing.T) {
	const pkg = artifact.PURL("pkg:maven/org.acme/good@1")
	run(t, 3, func(t *testing.T, w *world) {
		recipe := chaintest.Recipe(pkg, "good-1.jar")
		w.everybodyHas(recipe)
		for _, node := range w.nodes {
			node.start(0, false)
		}
		alive := w.nodes[0].alive()
		if _, err := alive.member.RequestBuild(pkg); err != nil {
			t.Fatal(err)
		}
		w.until("it is published", func() bool { _, ok := w.settled(); return ok })
		log, err := os.CreateTemp(t.TempDir(), "try")
		if err != nil {
			t.Fatal(err)
		}
		tried, err := alive.member.TryRecipe(t.Context(), recipe, "try-1", log)
		if err != nil || len(tried) != 1 || tried[0].Verdict != publish.ReferenceAbsent {
			t.Fatalf("%+v, %v", tried, err)
		}
		if !alive.Has(chaintest.Describe([]byte("content of good-1.jar")).SHA256) {
			t.Error("a try let go of what is published")
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

// TestRemains: what a failed build left is there until it is too old, and what too many
// others left goes with the oldest.
func TestRemains(t *testing.T) {
	recipe := chaintest.Recipe(pkg, "hello")
	run(t, 3, func(t *testing.T, w *world) {
		w.everybodyHas(recipe)
		for _, node := range w.nodes {
			node.build = func(int) (string, error) { return "", fmt.Errorf("make: %w", build.ErrFailed) }
			node.start(0, false)
		}
		builds := filepath.Join(w.nodes[0].folder, "builds")
		for i := range 20 { // of earlier builds
			name := filepath.Join(builds, fmt.Sprintf("%064x.remains", i+1))
			if err := os.WriteFile(name, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(name, time.Now(), time.Unix(int64(i), 0)); err != nil {
				t.Fatal(err)
			}
		}
		member := w.nodes[0].alive().member
		if _, err := member.RequestBuild(pkg); err != nil {
			t.Fatal(err)
		}
		var id record.Hash
		w.until("the build has failed", func() bool {
			id = w.newest(recipe).ID
			file, err := member.Remains(id.String())
			if err == nil {
				file.Close()
			}
			return err == nil
		})
		time.Sleep(time.Minute)
		file, err := member.Remains(id.String())
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(file)
		if err != nil || string(content) != "remains of "+w.nodes[0].folder {
			t.Errorf("%q, %v", content, err)
		}
		if err := file.Close(); err != nil {
			t.Error(err)
		}
		if left := files(t, builds, "*.remains"); len(left) != 16 {
			t.Errorf("%d builds have remains", len(left))
		}
		for _, none := range []string{record.Hash{1}.String(), "try-1", "../requests/x", "", "."} {
			if _, err := member.Remains(none); !errors.Is(err, publish.ErrUnknown) {
				t.Errorf("of no build %q: %v", none, err)
			}
		}
		member.SetLimits(publish.Limits{Parallel: 1, Deadline: 2 * time.Hour, Keep: time.Hour})
		time.Sleep(5 * time.Hour) // the attempt has expired
		for _, name := range files(t, builds, "*.remains") {
			if err := os.Chtimes(name, time.Now(), time.Now().Add(-2*time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour)
		if left := files(t, builds, "*.remains"); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}
