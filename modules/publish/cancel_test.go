package publish_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/chain/chaintest"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/publish"
)

// TestCancelAttempt: a member that cancels its build does not begin it again, a restart
// included; the others go on and publish. Once its result is made it stays.
func TestCancelAttempt(t *testing.T) {
	recipe := chaintest.Recipe(pkg, "hello")
	run(t, 3, func(t *testing.T, w *world) {
		w.everybodyHas(recipe)
		for _, node := range w.nodes {
			node.start(0, false)
		}
		if _, err := w.nodes[0].alive().member.RequestBuild(pkg); err != nil {
			t.Fatal(err)
		}
		var open *ledger.Attempt
		w.until("the attempt is open and the last node builds it", func() bool {
			newest, err := w.c.Newest(recipe.Hash(), recipe.Platform)
			running, _ := w.nodes[2].alive().member.Load()
			open = newest
			return err == nil && running == 1
		})
		if err := w.nodes[2].alive().member.CancelAttempt(open); err != nil {
			t.Fatal(err)
		}
		w.until("its build has ended", func() bool { running, _ := w.nodes[2].alive().member.Load(); return running == 0 })
		w.nodes[2].stop()
		w.nodes[2].start(0, false)
		w.until("the others publish", func() bool { a := w.newest(recipe); return a.Status == ledger.StatusPublished })
		time.Sleep(10 * time.Minute) // of the bubble
		if w.nodes[2].builds != 0 {
			t.Errorf("the cancelled build was begun again: %d", w.nodes[2].builds)
		}
		if err := w.nodes[0].alive().member.CancelAttempt(w.newest(recipe)); !errors.Is(err, publish.ErrVoted) {
			t.Errorf("a vote was taken back: %v", err)
		}
	})
}

// TestCancelBeforeTheVote: a build that ends well in spite of its cancellation is no vote.
func TestCancelBeforeTheVote(t *testing.T) {
	recipe := chaintest.Recipe(pkg, "hello")
	run(t, 3, func(t *testing.T, w *world) {
		w.everybodyHas(recipe)
		for _, node := range w.nodes {
			node.start(0, false)
		}
		last := w.nodes[2]
		member := last.alive().member
		last.build = func(int) (string, error) {
			newest, err := w.c.Newest(recipe.Hash(), recipe.Platform)
			if err == nil {
				err = member.CancelAttempt(newest)
			}
			return "content", err
		}
		if _, err := w.nodes[0].alive().member.RequestBuild(pkg); err != nil {
			t.Fatal(err)
		}
		w.until("the others publish", func() bool { a := w.newest(recipe); return a != nil && a.Status == ledger.StatusPublished })
		time.Sleep(10 * time.Minute)
		if last.builds != 1 {
			t.Errorf("it was built %d times", last.builds)
		}
		if _, made := last.votes.outcomes[w.newest(recipe).ID]; made {
			t.Error("the cancelled build has an outcome")
		}
	})
}

// TestSweep: what a node leaves in the middle of its work is gone with the next run.
func TestSweep(t *testing.T) {
	run(t, 3, func(t *testing.T, w *world) {
		node := w.nodes[0]
		node.start(0, false)
		node.stop()
		builds := filepath.Join(node.folder, "builds")
		for _, left := range []string{"a.out", "b.resolve", "c.try"} {
			if err := os.MkdirAll(filepath.Join(builds, left, "deep"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(builds, "d.log"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		node.start(0, false)
		if left := files(t, builds, "*"); len(left) != 1 || filepath.Base(left[0]) != "d.log" {
			t.Errorf("there is %v", left)
		}
	})
}

// TestCancelRequest: a request that is cancelled has ended, and asks for nothing more.
func TestCancelRequest(t *testing.T) {
	recipe := chaintest.Recipe(pkg, "hello")
	run(t, 3, func(t *testing.T, w *world) {
		w.everybodyHas(recipe)
		w.nodes[0].start(0, false) // alone: nobody holds its lock
		member := w.nodes[0].alive().member
		w.nodes[1].start(0, false)
		w.until("the recipe is on the chain", func() bool { _, err := w.c.LiveRecipe(pkg); return err == nil })
		w.nodes[1].stop()
		id, err := member.RequestBuild(pkg)
		if err != nil {
			t.Fatal(err)
		}
		if !member.CancelRequest(id, pkg) || member.CancelRequest(id, pkg) {
			t.Error("it can be cancelled once")
		}
		for _, r := range member.Requests() {
			if r.ID == id && (!r.Done || !strings.Contains(r.Error, "cancelled by the operator")) {
				t.Errorf("%+v", r)
			}
		}
		w.nodes[0].stop()
		w.nodes[0].start(0, false)
		w.nodes[1].start(0, false)
		time.Sleep(10 * time.Minute)
		if _, err := w.c.Newest(recipe.Hash(), recipe.Platform); err == nil {
			t.Error("the cancelled request opened an attempt")
		}
		if again, err := w.nodes[0].alive().member.RequestBuild(pkg); err != nil || again == id {
			t.Errorf("asked anew it is request %s, %v", again, err)
		}
	})
}
