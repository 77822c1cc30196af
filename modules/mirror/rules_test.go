package mirror_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/pyrsia/appliance/modules/mirror"
	"github.com/pyrsia/appliance/modules/mirror/mirrortest"
)

// Rules that are set count from the next request on; what is refused changes nothing.
func TestSetRules(t *testing.T) {
	w := mirrortest.NewWorld(t)
	w.Up.Set(toolIn.Path, mirrortest.Answer{Data: noise(1, 5000)})
	m := w.Start(t, mirror.Refuse)
	refused := func(want error) {
		t.Helper()
		if _, err := m.Open(t.Context(), toolIn); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	refused(mirror.ErrNotPublished)
	set := func(rules mirror.Rules) {
		t.Helper()
		if err := m.SetRules(rules); err != nil {
			t.Fatal(err)
		}
	}
	set(mirror.Rules{Ecosystems: mirrortest.Everything(mirror.Pass), Upstreams: w.Upstreams()})
	if err := m.SetRules(mirror.Rules{Ecosystems: mirrortest.Everything("maybe")}); err == nil {
		t.Error("an unknown policy is taken")
	}
	if got := read(t, mustOpen(t, m, toolIn)); !bytes.Equal(got, noise(1, 5000)) {
		t.Error("other bytes")
	}
	set(mirror.Rules{Ecosystems: mirrortest.Everything(mirror.Pass), Upstreams: w.Upstreams(), Deny: []string{"pkg:maven/*"}})
	refused(mirror.ErrDenied)
	set(mirror.Rules{Ecosystems: mirrortest.Everything(mirror.Refuse), Upstreams: w.Upstreams()})
	refused(mirror.ErrNotPublished)
}

// What one upstream has or lacks says nothing of another that took its place.
func TestAnotherUpstream(t *testing.T) {
	w, other := mirrortest.NewWorld(t), mirrortest.NewWorld(t)
	m := w.Start(t, mirror.Pass)
	if _, err := m.Open(t.Context(), toolIn); !errors.Is(err, mirror.ErrNotPublished) {
		t.Fatal(err) // and it is not asked again for a while
	}
	other.Up.Set(toolIn.Path, mirrortest.Answer{Data: noise(2, 5000)})
	if err := m.SetRules(mirror.Rules{Ecosystems: mirrortest.Everything(mirror.Pass), Upstreams: named(other.Upstreams(), "http://other.example/")}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, mustOpen(t, m, toolIn)); !bytes.Equal(got, noise(2, 5000)) {
		t.Error("other bytes")
	}
}

// A download that goes on while the rules change ends by the old ones.
func TestRulesChangeInADownload(t *testing.T) {
	w := mirrortest.NewWorld(t)
	data := noise(3, 300_000)
	w.Up.Set(toolIn.Path, mirrortest.Answer{Data: data})
	m := w.Start(t, mirror.Pass)
	content := mustOpen(t, m, toolIn)
	defer content.Close()
	begun := make([]byte, 1000)
	if _, err := io.ReadFull(content.Body(), begun); err != nil {
		t.Fatal(err)
	}
	if err := m.SetRules(mirror.Rules{}); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(content.Body())
	if err != nil || !bytes.Equal(append(begun, rest...), data) {
		t.Errorf("%d bytes, %v", len(rest), err)
	}
}

// upstream is one under another address.
type upstream struct {
	mirror.Upstream
	address string
}

func (u upstream) String() string { return u.address }

func named(all map[string]mirror.Upstream, address string) map[string]mirror.Upstream {
	renamed := map[string]mirror.Upstream{}
	for kind, u := range all {
		renamed[kind] = upstream{u, address}
	}
	return renamed
}
