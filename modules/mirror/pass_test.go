package mirror_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/mirror"
	"github.com/pyrsia/appliance/modules/mirror/mirrortest"
)

func header(name, value string) http.Header { return http.Header{name: {value}} }

func journal(t *testing.T, folder string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(folder, mirror.JournalName))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func startPass(t *testing.T, w *mirrortest.World) (m *mirror.Mirror, folder string) {
	t.Helper()
	folder = t.TempDir()
	return w.StartWith(t, mirror.Config{Folder: folder, Rules: mirror.Rules{Ecosystems: mirrortest.Everything(mirror.Pass)}}), folder
}

func TestPassOnce(t *testing.T) {
	w := mirrortest.NewWorld(t)
	data := noise(1, 5000)
	w.Up.Set(toolIn.Path, mirrortest.Answer{Data: data, Header: header("Content-Type", "application/java-archive; q=1")})
	m, folder := startPass(t, w)
	for i := range 3 {
		c := mustOpen(t, m, toolIn)
		if name, value := c.Vouch.Header(); name != "Pyrsia-Unverified" || value != "upstream" {
			t.Errorf("%s: %s", name, value)
		}
		if _, ok := c.Body().(*os.File); !ok {
			t.Errorf("request %d: the body is a %T", i, c.Body())
		}
		if c.MediaType != "application/java-archive" || c.Descriptor.SHA256 != mirrortest.Describe(data).SHA256 {
			t.Errorf("%+v", c)
		}
		if !bytes.Equal(read(t, c), data) {
			t.Error("other bytes")
		}
	}
	if gets := w.Up.Gets(); len(gets) != 1 {
		t.Errorf("the upstream was asked %d times", len(gets))
	}
	line := journal(t, folder)
	for _, want := range []string{toolIn.Path, mirrortest.Describe(data).SHA256.String(), "https://upstream.example", `"time":"20`} {
		if strings.Count(line, want) != 1 {
			t.Errorf("the journal does not have %q once: %s", want, line)
		}
	}
}

func TestPassedIsKnownAfterARestart(t *testing.T) {
	w := mirrortest.NewWorld(t)
	data := noise(1, 5000)
	w.Up.Set(toolIn.Path, mirrortest.Answer{Data: data})
	config := mirror.Config{Folder: t.TempDir(), Rules: mirror.Rules{Ecosystems: mirrortest.Everything(mirror.Pass)}}
	t.Run("before", func(t *testing.T) { read(t, mustOpen(t, w.StartWith(t, config), toolIn)) })
	w.Up.Set(toolIn.Path, mirrortest.Answer{Err: errors.New("gone")})
	t.Run("after", func(t *testing.T) {
		if !bytes.Equal(read(t, mustOpen(t, w.StartWith(t, config), toolIn)), data) {
			t.Error("other bytes")
		}
	})
	left, err := filepath.Glob(filepath.Join(config.Folder, "passing-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestVouchedBytesUnderAnotherNameAreUnverified(t *testing.T) {
	w := mirrortest.NewWorld(t)
	data := noise(1, 5000)
	w.Publish(tool.Name(), "", data)
	other := artifact.Maven{Group: "org.evil", Artifact: "tool", Version: "1.0", Extension: "jar"}
	w.Up.Set(other.Path(), mirrortest.Answer{Data: data})
	m, _ := startPass(t, w)
	c := mustOpen(t, m, mirror.Request{Name: other.Name(), Path: other.Path()})
	defer c.Close()
	if c.Vouch.Verified {
		t.Error("vouched for by name")
	}
}

// TestEvilUpstream: none of these bytes reaches a client, the store or the
// journal.
func TestEvilUpstream(t *testing.T) {
	small, large := noise(1, 5000), noise(2, 600_000)
	otherSHA1 := sha1.Sum([]byte("other"))
	digest := func(data []byte) artifact.SHA256 { return mirrortest.Describe(data).SHA256 }
	for name, test := range map[string]struct {
		answer mirrortest.Answer
		digest artifact.SHA256
		want   string
	}{
		"short":            {mirrortest.Answer{Data: small[:4000], Length: 5000}, artifact.SHA256{}, "4000 of the 5000"},
		"short, large":     {mirrortest.Answer{Data: large[:500_000], Length: 600_000}, artifact.SHA256{}, "500000 of the 600000"},
		"long":             {mirrortest.Answer{Data: small, Length: 4000}, artifact.SHA256{}, "more than the 4000"},
		"long, large":      {mirrortest.Answer{Data: large, Length: 500_000}, artifact.SHA256{}, "more than the 500000"},
		"breaks":           {mirrortest.Answer{Data: small[:4000], Length: -1, Break: true}, artifact.SHA256{}, "unexpected EOF"},
		"endless":          {mirrortest.Answer{Data: noise(3, 2<<20), Length: -1}, artifact.SHA256{}, "more than 1000000 bytes"},
		"declares too big": {mirrortest.Answer{Data: small, Length: 1 << 40}, artifact.SHA256{}, "the limit is 1000000"},
		"other digest":     {mirrortest.Answer{Data: small}, digest(large), "digest sha256:"},
		"other, large":     {mirrortest.Answer{Data: large}, digest(small), "digest sha256:"},
		"wrong sha1": {
			mirrortest.Answer{Data: small, Header: header("X-Checksum-Sha1", hex.EncodeToString(otherSHA1[:]))},
			artifact.SHA256{}, "X-Checksum-Sha1",
		},
		"wrong OCI digest": {
			mirrortest.Answer{Data: small, Header: header("Docker-Content-Digest", digest(large).OCI())},
			artifact.SHA256{}, "Docker-Content-Digest",
		},
		"web page":  {mirrortest.Answer{Data: small, Header: header("Content-Type", "text/html; charset=utf-8")}, artifact.SHA256{}, "web page"},
		"encoded":   {mirrortest.Answer{Data: small, Header: header("Content-Encoding", "gzip")}, artifact.SHA256{}, "content encoding"},
		"500":       {mirrortest.Answer{Status: 500, Data: small}, artifact.SHA256{}, "500"},
		"401":       {mirrortest.Answer{Status: 401, Data: small}, artifact.SHA256{}, "401"},
		"206":       {mirrortest.Answer{Status: 206, Data: small}, artifact.SHA256{}, "206"},
		"304":       {mirrortest.Answer{Status: 304}, artifact.SHA256{}, "304"},
		"429":       {mirrortest.Answer{Status: 429}, artifact.SHA256{}, "429"},
		"no answer": {mirrortest.Answer{Err: errors.New("refused")}, artifact.SHA256{}, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			w := mirrortest.NewWorld(t)
			folder := t.TempDir()
			m := w.StartWith(t, mirror.Config{Folder: folder, MaxBytes: 1_000_000, Rules: mirror.Rules{Ecosystems: mirrortest.Everything(mirror.Pass)}})
			r := toolIn
			r.Digest = test.digest
			w.Up.Set(r.Path, test.answer)
			c, err := m.Open(t.Context(), r)
			if err == nil {
				// A large file streams; what was seen must lack its end.
				var got []byte
				got, err = io.ReadAll(c.Body())
				c.Close()
				if len(got)+(32<<10) > len(test.answer.Data) && int64(len(got)) >= c.Descriptor.Size {
					t.Errorf("%d bytes reached the client", len(got))
				}
			}
			if upstream := new(mirror.UpstreamError); !errors.As(err, &upstream) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
			if w.Puts() != 0 || journal(t, folder) != "" {
				t.Errorf("%d files stored; journal %q", w.Puts(), journal(t, folder))
			}
			// The upstream repents.
			w.Up.Set(r.Path, mirrortest.Answer{Data: small})
			r.Digest = artifact.SHA256{}
			if !bytes.Equal(read(t, mustOpen(t, m, r)), small) {
				t.Error("other bytes")
			}
		})
	}
}

func TestGoodChecksumsPass(t *testing.T) {
	data := noise(1, 5000)
	sum := sha1.Sum(data)
	w := mirrortest.NewWorld(t)
	w.Up.Set(toolIn.Path, mirrortest.Answer{Data: data, Length: -1, Header: header("X-Checksum-Sha1", hex.EncodeToString(sum[:]))})
	m, _ := startPass(t, w)
	if !bytes.Equal(read(t, mustOpen(t, m, toolIn)), data) {
		t.Error("other bytes")
	}
}

func TestColdFileStreams(t *testing.T) {
	w := mirrortest.NewWorld(t)
	data := noise(1, 3<<20)
	proceed := make(chan struct{})
	w.Up.Set(toolIn.Path, mirrortest.Answer{Data: data, Early: 1 << 20, Proceed: proceed})
	m, _ := startPass(t, w)
	c := mustOpen(t, m, toolIn)
	defer c.Close()
	if c.Descriptor.Size != 3<<20 {
		t.Errorf("size %d", c.Descriptor.Size)
	}
	early := make([]byte, 900_000)
	if _, err := io.ReadFull(c.Body(), early); err != nil || !bytes.Equal(early, data[:900_000]) {
		t.Fatalf("the first bytes did not come before the last: %v", err)
	}
	close(proceed)
	if _, err := c.Body().Seek(-100, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	if end, err := io.ReadAll(c.Body()); err != nil || !bytes.Equal(end, data[len(data)-100:]) {
		t.Errorf("the end: %d bytes, %v", len(end), err)
	}
	if !w.Has(mirrortest.Describe(data).SHA256) {
		t.Error("the last byte came before the file was kept")
	}
}

func TestManyClientsOneFetch(t *testing.T) {
	for _, size := range []int{0, 5000, 3 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			w := mirrortest.NewWorld(t)
			data := noise(1, size)
			proceed := make(chan struct{})
			w.Up.Set(toolIn.Path, mirrortest.Answer{Data: data, Length: int64(size), Early: size / 2, Proceed: proceed})
			m, folder := startPass(t, w)
			var wait, begun sync.WaitGroup
			for i := range 50 {
				begun.Add(1)
				wait.Go(func() {
					begun.Done()
					c, err := m.Open(t.Context(), toolIn)
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					at := int64(i * size / 50)
					c.Body().Seek(at, io.SeekStart)
					if got, err := io.ReadAll(c.Body()); err != nil || !bytes.Equal(got, data[at:]) {
						t.Errorf("client %d: %d bytes, %v", i, len(got), err)
					}
				})
			}
			begun.Wait()
			close(proceed)
			wait.Wait()
			if n := len(w.Up.Gets()); n != 1 {
				t.Errorf("%d fetches", n)
			}
			if n := strings.Count(journal(t, folder), "\n"); n != 1 {
				t.Errorf("%d lines in the journal", n)
			}
		})
	}
}

func TestManyFilesAtOnce(t *testing.T) {
	w := mirrortest.NewWorld(t)
	m, folder := startPass(t, w)
	var wait sync.WaitGroup
	for i := range 200 {
		path := fmt.Sprintf("f%d", i)
		w.Up.Set(path, mirrortest.Answer{Data: noise(int64(i), 1000)})
		wait.Go(func() {
			r := toolIn
			r.Path = path
			c, err := m.Open(t.Context(), r)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if got, err := io.ReadAll(c.Body()); err != nil || !bytes.Equal(got, noise(int64(i), 1000)) {
				t.Errorf("%s: %d bytes, %v", path, len(got), err)
			}
		})
	}
	wait.Wait()
	if n := strings.Count(journal(t, folder), "\n"); n != 200 {
		t.Errorf("%d lines in the journal", n)
	}
}

func TestFetchGoesOnWithoutItsClient(t *testing.T) {
	w := mirrortest.NewWorld(t)
	data := noise(1, 1<<20)
	proceed := make(chan struct{})
	w.Up.Set(toolIn.Path, mirrortest.Answer{Data: data, Early: 1 << 19, Proceed: proceed})
	m, _ := startPass(t, w)
	c := mustOpen(t, m, toolIn)
	c.Close()
	close(proceed)
	if !bytes.Equal(read(t, mustOpen(t, m, toolIn)), data) || len(w.Up.Gets()) != 1 {
		t.Errorf("asked %d times", len(w.Up.Gets()))
	}
}

func TestStopEndsFetches(t *testing.T) {
	w := mirrortest.NewWorld(t)
	w.Up.Set(toolIn.Path, mirrortest.Answer{Data: noise(1, 1<<20), Early: 1 << 19, Proceed: make(chan struct{})})
	var c *mirror.Content
	var m *mirror.Mirror
	t.Run("running", func(t *testing.T) {
		m, _ = startPass(t, w)
		var err error
		if c, err = m.Open(t.Context(), toolIn); err != nil {
			t.Fatal(err)
		}
	})
	defer c.Close()
	if _, err := io.ReadAll(c.Body()); err == nil {
		t.Error("a fetch outlived the mirror")
	}
	if _, err := m.Open(t.Context(), toolIn); err == nil {
		t.Error("a stopped mirror fetches")
	}
}

func TestFullStoreServesThrough(t *testing.T) {
	for _, size := range []int{5000, 1 << 20} {
		w := mirrortest.NewWorld(t)
		w.PutError = errors.New("no room")
		data := noise(1, size)
		w.Up.Set(toolIn.Path, mirrortest.Answer{Data: data})
		m, folder := startPass(t, w)
		for range 2 {
			if !bytes.Equal(read(t, mustOpen(t, m, toolIn)), data) {
				t.Error("other bytes")
			}
		}
		if n := strings.Count(journal(t, folder), "\n"); n != 1 {
			t.Errorf("%d lines in the journal", n)
		}
	}
}

func TestReleasesNeverChange(t *testing.T) {
	w := mirrortest.NewWorld(t)
	first, second := noise(1, 5000), noise(2, 5000)
	w.Up.Set(toolIn.Path, mirrortest.Answer{Data: first})
	m, _ := startPass(t, w)
	read(t, mustOpen(t, m, toolIn))
	w.Lose(mirrortest.Describe(first).SHA256)
	w.Up.Set(toolIn.Path, mirrortest.Answer{Data: second})
	if _, err := m.Open(t.Context(), toolIn); err == nil || !strings.Contains(err.Error(), "never changes") {
		t.Errorf("%v", err)
	}
	w.Up.Set(toolIn.Path, mirrortest.Answer{Data: first})
	if !bytes.Equal(read(t, mustOpen(t, m, toolIn)), first) {
		t.Error("other bytes")
	}
}

func TestLayerOfAnotherImageIsKnown(t *testing.T) {
	w := mirrortest.NewWorld(t)
	data := noise(1, 5000)
	digest := mirrortest.Describe(data).SHA256
	w.Up.Set("one", mirrortest.Answer{Data: data})
	m, _ := startPass(t, w)
	request := func(repository, path string) mirror.Request {
		return mirror.Request{Name: artifact.Name{Package: artifact.DockerPURL(repository, digest.OCI())}, Digest: digest, Path: path}
	}
	read(t, mustOpen(t, m, request("acme/one", "one")))
	read(t, mustOpen(t, m, request("acme/two", "two")))
	if gets := w.Up.Gets(); len(gets) != 1 {
		t.Errorf("asked for %q", gets)
	}
}

func TestTagsGetOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mirrortest.NewWorld(t)
		m, _ := startPass(t, w)
		r := mirror.Request{
			Name: artifact.Name{Package: artifact.DockerPURL("acme/app", "latest")}, Tag: true,
			Path: "v2/acme/app/manifests/latest", Lifetime: mirror.Short, Whole: true,
		}
		one, two := noise(1, 100), noise(2, 100)
		expect := func(want []byte, gets int) {
			t.Helper()
			if !bytes.Equal(read(t, mustOpen(t, m, r)), want) {
				t.Error("other bytes")
			}
			if n := len(w.Up.Gets()); n != gets {
				t.Errorf("the upstream was asked %d times, want %d", n, gets)
			}
		}
		w.Up.Set(r.Path, mirrortest.Answer{Data: one, NotAgain: true, Header: header("Etag", `"1"`)})
		expect(one, 1)
		time.Sleep(59 * time.Second) // the bubble's clock
		expect(one, 1)
		time.Sleep(2 * time.Second)
		expect(one, 2)
		if tag := w.Up.LastHeader().Get("If-None-Match"); tag != `"1"` {
			t.Errorf("If-None-Match %q", tag)
		}
		time.Sleep(61 * time.Second)
		w.Up.Set(r.Path, mirrortest.Answer{Data: two, Header: header("Etag", `"2"`)})
		expect(two, 3)
		time.Sleep(61 * time.Second)
		for gets, bad := range []mirrortest.Answer{
			{Status: 429}, {Err: errors.New("down")}, {Status: 503}, {Data: one, Length: 50},
		} {
			w.Up.Set(r.Path, bad)
			if bad.Length > 0 {
				if _, err := m.Open(t.Context(), r); err == nil {
					t.Error("a wrong answer was hidden")
				}
				break
			}
			expect(two, 4+gets)
			expect(two, 4+gets) // not asked again at once
			time.Sleep(11 * time.Second)
		}
	})
}

func TestAbsenceIsRememberedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mirrortest.NewWorld(t)
		m, _ := startPass(t, w)
		for range 5 {
			if _, err := m.Open(t.Context(), toolIn); !errors.Is(err, mirror.ErrNotPublished) {
				t.Errorf("%v", err)
			}
		}
		if n := len(w.Up.Gets()); n != 1 {
			t.Errorf("asked %d times", n)
		}
		w.Up.Set(toolIn.Path, mirrortest.Answer{Data: []byte("new")})
		time.Sleep(61 * time.Second)
		if string(read(t, mustOpen(t, m, toolIn))) != "new" {
			t.Error("other bytes")
		}
	})
}

func TestSnapshotsAreNotKept(t *testing.T) {
	w := mirrortest.NewWorld(t)
	r := toolIn
	r.Lifetime = mirror.Ephemeral
	m, folder := startPass(t, w)
	for i := range 3 {
		for _, data := range [][]byte{noise(int64(i), 5000), noise(int64(i), 1<<20)} {
			w.Up.Set(r.Path, mirrortest.Answer{Data: data})
			if !bytes.Equal(read(t, mustOpen(t, m, r)), data) {
				t.Error("other bytes")
			}
			if !bytes.Equal(read(t, mustOpen(t, m, r)), data) {
				t.Error("other bytes")
			}
		}
	}
	if w.Puts() != 0 {
		t.Errorf("%d snapshots are kept", w.Puts())
	}
	if n := strings.Count(journal(t, folder), "\n"); n != 6 {
		t.Errorf("%d lines in the journal, want one for each of 6 contents", n)
	}
}

func TestNoUpstream(t *testing.T) {
	w := mirrortest.NewWorld(t)
	m, err := mirror.New(mirror.Config{Folder: t.TempDir(), Rules: mirror.Rules{Ecosystems: mirrortest.Everything(mirror.Pass)}}, w.Ports())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.Open(t.Context(), toolIn); !errors.Is(err, mirror.ErrNotPublished) {
		t.Errorf("%v", err)
	}
}

func TestClientsCannotQueueWithoutEnd(t *testing.T) {
	w := mirrortest.NewWorld(t)
	m := w.StartWith(t, mirror.Config{Fetches: 1, Rules: mirror.Rules{Ecosystems: mirrortest.Everything(mirror.Pass)}})
	ctx, leave := context.WithCancel(t.Context())
	leave()
	crowded := 0
	for i := range 2000 {
		r := toolIn
		r.Path = fmt.Sprint(i)
		w.Up.Set(r.Path, mirrortest.Answer{Data: []byte("x"), Proceed: make(chan struct{})})
		_, err := m.Open(ctx, r)
		if upstream := new(mirror.UpstreamError); errors.As(err, &upstream) && upstream.Status == 429 {
			crowded++
		}
	}
	if crowded != 2000-1024 || m.Status().Fetching != 1024 {
		t.Errorf("%d refused, %+v", crowded, m.Status())
	}
}

func TestStatusAndJournal(t *testing.T) {
	w := mirrortest.NewWorld(t)
	m, _ := startPass(t, w)
	data := noise(1, 5000)
	w.Publish(tool.Name(), "", data)
	w.Keep(t, data)
	read(t, mustOpen(t, m, toolIn))
	for i := range 3 {
		r := mirror.Request{Name: artifact.Maven{Group: "g", Artifact: "a", Version: fmt.Sprint(i), Extension: "jar"}.Name(), Path: fmt.Sprint(i)}
		w.Up.Set(r.Path, mirrortest.Answer{Data: noise(int64(i+2), 100)})
		read(t, mustOpen(t, m, r))
	}
	want := mirror.Status{Hits: 1, Unpublished: 3, Passed: 3, PassedBytes: 300}
	if got := m.Status(); got != want {
		t.Errorf("%+v", got)
	}
	var paths []string
	err := m.Passed(func(p mirror.Passed) bool {
		if d := mirrortest.Describe(noise(int64(len(paths)+2), 100)); p.SHA256 != d.SHA256 || p.BLAKE3 != d.BLAKE3 || p.Size != 100 {
			t.Errorf("%+v", p)
		}
		paths = append(paths, p.Path)
		return len(paths) < 2
	})
	if err != nil || strings.Join(paths, " ") != "0 1" {
		t.Errorf("%q, %v", paths, err)
	}
}
