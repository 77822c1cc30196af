package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/mirror"
	"github.com/pyrsia/appliance/modules/mirror/mirrortest"
)

var (
	tool   = artifact.Maven{Group: "org.example", Artifact: "tool", Version: "1.0", Extension: "jar"}
	toolIn = mirror.Request{Name: tool.Name(), Path: tool.Path()}
)

// noise is bytes that no two seeds share.
func noise(seed int64, n int) []byte {
	data := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(data)
	return data
}

func read(t *testing.T, c *mirror.Content) []byte {
	t.Helper()
	defer c.Close()
	data, err := io.ReadAll(c.Body())
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func mustOpen(t *testing.T, m *mirror.Mirror, r mirror.Request) *mirror.Content {
	t.Helper()
	c, err := m.Open(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestHitIsTheFileItself(t *testing.T) {
	w := mirrortest.NewWorld(t)
	data := noise(1, 100_000)
	w.Publish(tool.Name(), "", data)
	w.Keep(t, data)
	m := w.Start(t, mirror.Refuse)
	c := mustOpen(t, m, toolIn)
	if _, ok := c.Body().(*os.File); !ok {
		t.Errorf("the body of a hit is a %T: the kernel cannot send it", c.Body())
	}
	if name, value := c.Vouch.Header(); name != "Pyrsia-Verified" || value != `block=57, leaf=1234, votes="3/4"` {
		t.Errorf("%s: %s", name, value)
	}
	if c.Descriptor != mirrortest.Describe(data) {
		t.Errorf("descriptor %v", c.Descriptor)
	}
	if !bytes.Equal(read(t, c), data) {
		t.Error("other bytes")
	}
	if w.Fetches() != 0 {
		t.Error("peers were asked for what is here")
	}
}

func TestVouchedComesFromPeersOnly(t *testing.T) {
	for name, policy := range map[string]mirror.Policy{"refuse": mirror.Refuse, "pass": mirror.Pass, "build": mirror.Build} {
		t.Run(name, func(t *testing.T) {
			w := mirrortest.NewWorld(t)
			data := noise(1, 100_000)
			w.Up.Set(toolIn.Path, mirrortest.Answer{Data: []byte("something else")})
			w.Vouch(tool.Name(), "", data)
			m := w.Start(t, policy)
			_, err := m.Open(t.Context(), toolIn)
			if !errors.Is(err, mirror.ErrNoSource) || !strings.Contains(err.Error(), "block 57") {
				t.Errorf("with no peer: %v", err)
			}
			w.Give(mirrortest.Peer{Data: data, Fail: 0})
			if got := read(t, mustOpen(t, m, toolIn)); !bytes.Equal(got, data) {
				t.Error("other bytes")
			}
			if gets := w.Up.Gets(); len(gets) != 0 {
				t.Errorf("the upstream was asked for %q", gets)
			}
		})
	}
}

func TestPeersRunOut(t *testing.T) {
	w := mirrortest.NewWorld(t)
	data := noise(1, 100_000)
	w.Vouch(tool.Name(), "", data)
	w.Give(mirrortest.Peer{Data: data, Fail: 50_000})
	m := w.Start(t, mirror.Refuse)
	c := mustOpen(t, m, toolIn)
	defer c.Close()
	got, err := io.ReadAll(c.Body())
	if !errors.Is(err, mirror.ErrNoSource) || !bytes.Equal(got, data[:50_000]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestStoredFileOfAnotherSizeIsNotServed(t *testing.T) {
	w := mirrortest.NewWorld(t)
	data := noise(1, 1000)
	v := w.Publish(tool.Name(), "", data)
	w.Keep(t, data)
	if err := os.Truncate(w.Folder+"/"+v.Descriptor.SHA256.String(), 999); err != nil {
		t.Fatal(err)
	}
	m := w.Start(t, mirror.Refuse)
	if got := read(t, mustOpen(t, m, toolIn)); !bytes.Equal(got, data) {
		t.Error("other bytes")
	}
	if w.Fetches() != 1 {
		t.Errorf("%d fetches, want 1", w.Fetches())
	}
}

func TestHeadNeedsNoBytes(t *testing.T) {
	w := mirrortest.NewWorld(t)
	w.Vouch(tool.Name(), "", noise(1, 1000))
	m := w.Start(t, mirror.Refuse)
	r := toolIn
	r.Head = true
	c := mustOpen(t, m, r)
	defer c.Close()
	size, err := c.Body().Seek(0, io.SeekEnd)
	if size != 1000 || err != nil || w.Fetches() != 0 {
		t.Errorf("size %d, %v, %d fetches", size, err, w.Fetches())
	}
}

func TestEmptyFileNeedsNobody(t *testing.T) {
	w := mirrortest.NewWorld(t)
	w.Vouch(tool.Name(), "", nil)
	m := w.Start(t, mirror.Refuse)
	if got := read(t, mustOpen(t, m, toolIn)); len(got) != 0 {
		t.Errorf("%d bytes", len(got))
	}
}

func TestNotPublished(t *testing.T) {
	unknown := artifact.Maven{Group: "org.example", Artifact: "none", Version: "1", Extension: "jar"}
	for _, test := range []struct {
		policy   mirror.Policy
		declared string
		want     string
		asked    bool
	}{
		{mirror.Refuse, "", "policy refuse", false},
		{"", "org.example:*", "policy refuse", false},
		{mirror.Build, "", "policy build", false},
		{mirror.Build, "com.example:*", "policy build", false},
		{mirror.Build, "org.example:*", "policy build", true},
		{mirror.Build, "org.example:none", "policy build", true},
		{mirror.Build, "org.example:none:1", "policy build", true},
		{mirror.Build, "org.example:none:2", "policy build", false},
		{mirror.Pass, "", "the upstream does not have it", false},
	} {
		t.Run(string(test.policy)+" "+test.declared, func(t *testing.T) {
			w := mirrortest.NewWorld(t)
			m := w.Start(t, test.policy, test.declared)
			begin := time.Now()
			_, err := m.Open(t.Context(), mirror.Request{Name: unknown.Name(), Path: unknown.Path()})
			if took := time.Since(begin); took > 100*time.Millisecond {
				t.Errorf("the answer took %s", took)
			}
			if !errors.Is(err, mirror.ErrNotPublished) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v", err)
			}
			if !test.asked {
				if len(w.Asked()) != 0 {
					t.Error("a build was asked for")
				}
				return
			}
			if pkg := <-w.Asked(); pkg != unknown.Package() {
				t.Errorf("a build of %s was asked for", pkg)
			}
			m.Open(t.Context(), mirror.Request{Name: unknown.Name()})
			if len(w.Asked()) != 0 {
				t.Error("a build was asked for twice")
			}
		})
	}
}

func TestQuestionsAskForNoBuild(t *testing.T) {
	w := mirrortest.NewWorld(t)
	m := w.Start(t, mirror.Build, "*")
	for _, r := range []mirror.Request{
		{Name: tool.Name(), Head: true},
		{Name: tool.Name(), View: true},
		{Name: artifact.Name{Package: artifact.DockerPURL("acme/x", "sha256:"+strings.Repeat("0", 64))}, Digest: artifact.SHA256{1}},
	} {
		if _, err := m.Open(t.Context(), r); !errors.Is(err, mirror.ErrNotPublished) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	m.Open(t.Context(), toolIn) // asked for last: what came before would be seen first
	if pkg := <-w.Asked(); pkg != tool.Package() || len(w.Asked()) != 0 {
		t.Errorf("a build of %s was asked for", pkg)
	}
}

func TestWishesAreBounded(t *testing.T) {
	w := mirrortest.NewWorld(t)
	m := w.Start(t, mirror.Build, "*")
	for i := range 1000 {
		one := artifact.Maven{Group: "org.example", Artifact: fmt.Sprintf("a%d", i), Version: "1", Extension: "jar"}
		m.Open(t.Context(), mirror.Request{Name: one.Name()})
	}
	for range 10 {
		<-w.Asked()
	}
	if n := len(w.Asked()); n > 0 {
		t.Errorf("%d more than ten builds were asked for", n)
	}
}

func TestLogThatCannotAnswerIsNotAskedAround(t *testing.T) {
	w := mirrortest.NewWorld(t)
	w.LogError = errors.New("disk on fire")
	w.Up.Set(toolIn.Path, mirrortest.Answer{Data: []byte("x")})
	m := w.Start(t, mirror.Pass)
	_, err := m.Open(t.Context(), toolIn)
	if err == nil || errors.Is(err, mirror.ErrNotPublished) || len(w.Up.Gets()) != 0 {
		t.Errorf("%v; the upstream was asked for %q", err, w.Up.Gets())
	}
}

func TestDeny(t *testing.T) {
	data := noise(1, 100)
	digest := mirrortest.Describe(data).SHA256
	image := artifact.DockerPURL("acme/app", digest.OCI())
	byName := toolIn
	blob := mirror.Request{Name: artifact.Name{Package: image}, Digest: digest}
	passed := mirror.Request{Name: artifact.Maven{Group: "org.other", Artifact: "x", Version: "1", Extension: "jar"}.Name(), Path: "x"}
	for _, test := range []struct {
		deny    string
		request mirror.Request
		denied  bool
	}{
		{"pkg:maven/org.example/*", byName, true},
		{"pkg:maven/org.example/tool", byName, true},
		{"pkg:maven/org.example/tool@1.0", byName, true},
		{"pkg:maven/org.example/tool@2.0", byName, false},
		{"pkg:maven/org.exampl", byName, false},
		{digest.OCI(), byName, true},
		{digest.OCI(), blob, true},
		{digest.OCI(), passed, true},
		{"pkg:docker/acme/*", blob, true},
		{"pkg:docker/acme/app", blob, true},
		{"pkg:docker/acme/other", blob, false},
		// The bytes are the same, and known by a denied name.
		{"pkg:maven/org.example/tool", blob, true},
	} {
		w := mirrortest.NewWorld(t)
		w.Publish(tool.Name(), "", data)
		w.Up.Set("x", mirrortest.Answer{Data: data})
		m := w.StartWith(t, mirror.Config{Rules: mirror.Rules{Deny: []string{test.deny}, Ecosystems: mirrortest.Everything(mirror.Pass)}})
		for range 2 { // the second time from what is kept
			c, err := m.Open(t.Context(), test.request)
			if errors.Is(err, mirror.ErrDenied) != test.denied || err != nil && !test.denied {
				t.Errorf("deny %q, %s: %v", test.deny, test.request, err)
			}
			if err == nil {
				c.Close()
			}
		}
	}
}

func TestDigestDecides(t *testing.T) {
	right, wrong := noise(1, 100), noise(2, 100)
	digest := mirrortest.Describe(right).SHA256
	pkg := artifact.DockerPURL("acme/app", digest.OCI())
	request := mirror.Request{Name: artifact.Name{Package: pkg, File: "manifest"}, Digest: digest}
	w := mirrortest.NewWorld(t)
	// A publication whose name says one digest and whose bytes have another.
	w.Publish(request.Name, "t", wrong)
	m := w.Start(t, mirror.Refuse)
	if _, err := m.Open(t.Context(), request); !errors.Is(err, mirror.ErrNotPublished) {
		t.Errorf("got %v", err)
	}
	w.Publish(artifact.Name{Package: artifact.DockerPURL("other/app", digest.OCI()), File: "manifest"}, "t", right)
	if got := read(t, mustOpen(t, m, request)); !bytes.Equal(got, right) {
		t.Error("other bytes")
	}
}

func TestClientGoesAway(t *testing.T) {
	w := mirrortest.NewWorld(t)
	data := noise(1, 100)
	w.Vouch(tool.Name(), "", data)
	w.Give(mirrortest.Peer{Data: data, Ready: make(chan struct{})})
	w.Up.Set("slow", mirrortest.Answer{Data: data, Proceed: make(chan struct{})})
	m := w.Start(t, mirror.Pass)
	slow := artifact.Maven{Group: "g", Artifact: "slow", Version: "1", Extension: "jar"}
	for _, r := range []mirror.Request{toolIn, {Name: slow.Name(), Path: "slow"}} {
		ctx, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		wait.Go(func() {
			if _, err := m.Open(ctx, r); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", r, err)
			}
		})
		cancel()
		wait.Wait()
	}
}

func TestConfigIsChecked(t *testing.T) {
	config := mirror.Config{Folder: t.TempDir(), Rules: mirror.Rules{Ecosystems: map[string]mirror.Ecosystem{"docker": {Unverified: "maybe"}}}}
	if _, err := mirror.New(config, mirror.Ports{}); err == nil || !strings.Contains(err.Error(), "maybe") {
		t.Errorf("%v", err)
	}
	if _, err := mirror.New(mirror.Config{Folder: config.Folder + "/none"}, mirror.Ports{}); err == nil {
		t.Error("a folder that is not there was opened")
	}
}
