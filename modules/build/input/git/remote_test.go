package git

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

// patience is for how long the servers here may stall.
const patience = 50 * time.Millisecond

// broken serves the small repository, but one of its answers by itself.
func broken(t *testing.T, part string, answer http.HandlerFunc) (small, string, Options) {
	r := newSmall(t)
	address, options := serve(t, http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if strings.HasSuffix(request.URL.Path, part) {
			answer(w, request)
			return
		}
		r.ServeHTTP(w, request)
	}))
	return r, address, options
}

// cut is what a server sends of an answer before it goes wrong.
func cut(r small, w http.ResponseWriter, request *http.Request, n int) {
	recorder := httptest.NewRecorder()
	r.ServeHTTP(recorder, request)
	w.Header().Set("Content-Type", recorder.Header().Get("Content-Type"))
	w.Write(recorder.Body.Bytes()[:n])
	w.(http.Flusher).Flush()
}

// untilGone returns when the client went away, which a server sees only once the
// request is read.
func untilGone(request *http.Request) {
	io.Copy(io.Discard, request.Body)
	<-request.Context().Done()
}

func TestServerGoesWrong(t *testing.T) {
	status := func(code int) func(small) http.HandlerFunc {
		return func(small) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, strings.Repeat("x", 1<<20), code) }
		}
	}
	text := func(kind, text string) func(small) http.HandlerFunc {
		return func(small) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", kind)
				w.Write([]byte(text))
			}
		}
	}
	stalls := func(n int) func(small) http.HandlerFunc {
		return func(r small) http.HandlerFunc {
			return func(w http.ResponseWriter, request *http.Request) {
				if n > 0 {
					cut(r, w, request, n)
				}
				untilGone(request)
			}
		}
	}
	closes := func(n int) func(small) http.HandlerFunc {
		return func(r small) http.HandlerFunc {
			return func(w http.ResponseWriter, request *http.Request) {
				cut(r, w, request, n)
				panic(http.ErrAbortHandler)
			}
		}
	}
	ends := func(n int) func(small) http.HandlerFunc {
		return func(r small) http.HandlerFunc {
			return func(w http.ResponseWriter, request *http.Request) { cut(r, w, request, n) }
		}
	}
	const list, pack = "/info/refs", "/git-upload-pack"
	for _, test := range []struct {
		name, part string
		answer     func(small) http.HandlerFunc
		text       string
	}{
		{"list 404", list, status(404), "there is no such repository"},
		{"list 410", list, status(410), "there is no such repository"},
		{"list 401", list, status(401), "not for everyone"},
		{"list 403", list, status(403), "not for everyone"},
		{"list 500", list, status(500), "500"},
		{"list 204", list, status(204), "204"},
		{"list is a page", list, text("text/html", "<html>"), "is this the address that one would clone?"},
		{"list is garbage", list, text(listing, "garbage"), "cannot be read"},
		{"list is empty", list, text(listing, ""), "cannot be read"},
		{"list is of SHA-256", list, text(listing, "001e# service=git-upload-pack\n0000"+"0066"+strings.Repeat("a", 64)+" refs/heads/main\x00object-format=sha256\n"), "cannot be read"},
		{"list is an error", list, text(listing, "001fERR access denied to a.git\n0000"), "access denied"},
		{"list stalls at once", list, stalls(0), "sent nothing for 50ms"},
		{"list stalls", list, stalls(100), "sent nothing for 50ms"},
		{"list closes", list, closes(100), "broke off"},
		{"list ends", list, ends(100), "cannot be read"},
		{"pack 404", pack, status(404), "there is no such repository"},
		{"pack 500", pack, status(500), "500"},
		{"pack is a page", pack, text("text/html", "<html>"), "not as git does"},
		{"pack is garbage", pack, text(resultType, "garbage"), "cannot be read"},
		{"pack is empty", pack, text(resultType, ""), "no packfile"},
		{"pack is an error", pack, text(resultType, "001cERR upload-pack: broken\n"), "upload-pack: broken"},
		{"pack is an error in its stream", pack, text(resultType, "0000"+"0008NAK\n"+"000c\x03goodbye"), "goodbye"},
		{"pack is endless before it begins", pack, text(resultType, strings.Repeat("0035shallow 1111111111111111111111111111111111111111\n", 30_000)), "before the packfile"},
		{"pack is no pack", pack, text(resultType, "0000"+"0008NAK\n"+"0014\x01this is no pack"+"0000"), "no packfile"},
		{"pack stalls at once", pack, stalls(0), "sent nothing for 50ms"},
		{"pack stalls", pack, stalls(700), "sent nothing for 50ms"},
		{"pack closes", pack, closes(700), "broke off"},
		{"pack closes early", pack, closes(30), "broke off"},
		{"pack ends", pack, ends(700), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var r small
			r, address, options := broken(t, test.part, func(w http.ResponseWriter, request *http.Request) { test.answer(r)(w, request) })
			if strings.Contains(test.name, "stalls") {
				options.Stall = patience
			}
			_, err := packAll(t, Source{URL: address, Tag: "v1", Commit: r.second}, options)
			wantError(t, err, ErrUnavailable, test.text, address)
			if len(err.Error()) > 1000 {
				t.Errorf("the error has %d bytes: %.300s", len(err.Error()), err)
			}
			if test.part == list {
				_, err := Find(t.Context(), address, "v1", options)
				wantError(t, err, ErrUnavailable, test.text, address)
			}
		})
	}
}

// A pack that breaks off anywhere is an error, and never a shorter tar. Its own
// checksum, the last 20 bytes, is not missed: each object has one.
func TestPackBreaksOffAnywhere(t *testing.T) {
	r := newSmall(t)
	var whole bytes.Buffer
	r.Pack(&whole)
	for n := 0; n < whole.Len()-20; n += 7 {
		if _, err := readPack(t, whole.Bytes()[:n], r.second); err == nil {
			t.Errorf("%d of %d bytes are enough", n, whole.Len())
		}
	}
	if _, err := readPack(t, whole.Bytes(), r.second); err != nil {
		t.Error(err)
	}
}

// readPack packs a commit out of a packfile.
func readPack(t testing.TB, data []byte, commit string) (string, error) {
	file, err := os.Create(filepath.Join(t.TempDir(), "pack"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(data); err != nil {
		t.Fatal(err)
	}
	limits := usual
	limits.object, limits.stored = 1<<20, 1<<22
	p, err := openPack(context.Background(), file, limits)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = packTree(context.Background(), p, Source{Commit: commit}, &b, limits)
	return b.String(), err
}

// A flipped bit is an error, or was where it does not matter.
func TestPackWithFlippedBits(t *testing.T) {
	r := newSmall(t)
	var whole bytes.Buffer
	r.Pack(&whole)
	want, err := readPack(t, whole.Bytes(), r.second)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < whole.Len(); at += 3 {
		data := bytes.Clone(whole.Bytes())
		data[at] ^= 1 << (at % 8)
		if found, err := readPack(t, data, r.second); err == nil && found != want {
			t.Fatalf("a flipped bit in byte %d makes another tar", at)
		}
	}
}

// Objects that a server leaves out are told, and are not the source's fault.
func TestPackLacksObjects(t *testing.T) {
	r := newSmall(t)
	address, options := serve(t, r)
	for _, forgotten := range []string{r.Blob("deep"), r.Tree(files), r.Blob("../bin/run")} {
		r.Forget = []string{forgotten}
		_, err := packAll(t, Source{URL: address, Tag: "v1", Commit: r.second}, options)
		wantError(t, err, ErrUnavailable, forgotten, "missing")
	}
	r.Forget = []string{r.second}
	_, err := packAll(t, Source{URL: address, Tag: "v1", Commit: r.second}, options)
	wantError(t, err, ErrUnavailable, "no such commit")
}

// bomb is a packfile of one object that says that it has size bytes.
func bomb(kind plumbing.ObjectType, size uint64, content []byte) []byte {
	b := append([]byte("PACK"), 0, 0, 0, 2, 0, 0, 0, 1)
	first := byte(kind)<<4 | byte(size&15)
	for size >>= 4; size > 0; size >>= 7 {
		b = append(b, first|0x80)
		first = byte(size & 0x7f)
	}
	b = append(b, first)
	if kind == plumbing.REFDeltaObject {
		b = append(b, long(20)...)
	}
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	w.Write(content)
	w.Close()
	return append(append(b, z.Bytes()...), long(20)...)
}

func TestPackBombs(t *testing.T) {
	delta := func(base, result uint64) []byte {
		return append(binary.AppendUvarint(binary.AppendUvarint(nil, base), result), 1, 'x')
	}
	for name, test := range map[string]struct {
		pack []byte
		text string
	}{
		"large":             {bomb(plumbing.BlobObject, 2<<20, make([]byte, 2<<20)), "2097152 bytes, at most 1048576"},
		"says it is huge":   {bomb(plumbing.BlobObject, 1<<40, []byte("x")), "at most"},
		"is beyond numbers": {bomb(plumbing.BlobObject, 1<<63, []byte("x")), "broken"},
		"longer than said":  {bomb(plumbing.BlobObject, 10, make([]byte, 2<<20)), "broken"},
		"shorter than said": {bomb(plumbing.BlobObject, 10, []byte("x")), "broken"},
		"result is huge":    {bomb(plumbing.REFDeltaObject, uint64(len(delta(10, 1<<40))), delta(10, 1<<40)), "at most"},
		"base is huge":      {bomb(plumbing.REFDeltaObject, uint64(len(delta(1<<40, 10))), delta(1<<40, 10)), "at most"},
		"delta is empty":    {bomb(plumbing.REFDeltaObject, 0, nil), "without sizes"},
		"delta is cut":      {bomb(plumbing.REFDeltaObject, 1, []byte{0x80}), "without sizes"},
		"delta of nothing":  {bomb(plumbing.REFDeltaObject, uint64(len(delta(10, 1))), delta(10, 1)), "broken"},
		"unknown kind":      {bomb(5, 1, []byte("x")), ""},
		"many objects":      {append([]byte("PACK"), 0, 0, 0, 2, 255, 255, 255, 255), "4294967295 objects"},
		"another version":   {append([]byte("PACK"), 0, 0, 0, 9, 0, 0, 0, 1), "no packfile"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := readPack(t, test.pack, strings.Repeat("1", 40))
			wantError(t, err, ErrUnavailable, test.text)
		})
	}
}

func FuzzPack(f *testing.F) {
	r := newSmall(f)
	var whole bytes.Buffer
	r.Pack(&whole)
	f.Add(whole.Bytes())
	f.Add(bomb(plumbing.REFDeltaObject, 4, []byte{1, 1, 1, 'x'}))
	want, err := readPack(f, whole.Bytes(), r.second)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		found, err := readPack(t, data, r.second)
		if err == nil && found != want {
			t.Error("another tar")
		}
		if err != nil && errors.Is(err, ErrRefused) {
			t.Errorf("%v: refused, though nothing of the commit is proven wrong", err)
		}
	})
}

func FuzzDeltaSizes(f *testing.F) {
	f.Add([]byte{1, 2})
	f.Fuzz(func(t *testing.T, head []byte) {
		base, result, err := deltaSizes(head)
		if again, _, _ := deltaSizes(binary.AppendUvarint(binary.AppendUvarint(nil, base), result)); err == nil && again != base {
			t.Error(base, again)
		}
	})
}

func TestCancelWhileFetching(t *testing.T) {
	for _, part := range []string{"/info/refs", "/git-upload-pack"} {
		reason := errors.New("stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		r, address, options := broken(t, part, func(w http.ResponseWriter, request *http.Request) {
			cancel(reason)
			untilGone(request)
		})
		err := Pack(ctx, Source{URL: address, Commit: r.second}, t.TempDir(), new(bytes.Buffer), options)
		wantError(t, err, ErrUnavailable, "stop")
		if !errors.Is(err, reason) {
			t.Errorf("%v does not wrap the context's cause", err)
		}
	}
}

// The library's work ends with the context, too.
func TestCancelWhileIndexing(t *testing.T) {
	r := newSmall(t)
	var whole bytes.Buffer
	r.Pack(&whole)
	file, err := os.Create(filepath.Join(t.TempDir(), "pack"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(whole.Bytes()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := openPack(ctx, file, usual); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
}

// named is a client for which hosts are where we say, in the eyes of who dials
// and of who looks at the connection.
func named(t *testing.T, hosts map[string]struct{ listener, seen string }) *http.Client {
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		to, ok := hosts[host]
		if !ok {
			return nil, fmt.Errorf("dialled %s", address)
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, to.listener)
		return seenAt{conn, to.seen}, err
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

type seenAt struct {
	net.Conn
	address string
}

func (s seenAt) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(s.address), 80))
}

func TestRedirects(t *testing.T) {
	r := newSmall(t)
	repository := httptest.NewServer(r)
	defer repository.Close()
	var to string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		target := strings.ReplaceAll(to, "REST", strings.TrimPrefix(request.URL.Path, "/a/b.git")+"?"+request.URL.RawQuery)
		if strings.HasPrefix(to, "again") {
			target = "/a/b.git/more" + request.URL.Path + "?" + request.URL.RawQuery
		}
		http.Redirect(w, request, target, http.StatusFound)
	}))
	defer server.Close()
	at := func(s *httptest.Server) string { return s.Listener.Addr().String() }
	client := named(t, map[string]struct{ listener, seen string }{
		"source.example":   {at(server), "192.0.2.1"},
		"moved.example":    {at(repository), "192.0.2.2"},
		"intranet.example": {at(repository), "10.0.0.1"},
		"lan.example":      {at(server), "10.0.0.2"},
		"here.example":     {at(repository), "127.0.0.1"},
		"mapped.example":   {at(repository), "::ffff:127.0.0.1"},
		"10.0.0.1":         {at(repository), "10.0.0.1"},
		"127.0.0.1":        {at(repository), "127.0.0.1"},
	})
	for _, test := range []struct{ from, to, text string }{
		{"source.example", "http://moved.example/new/place.gitREST", ""},
		{"lan.example", "http://moved.example/new/place.gitREST", ""},
		{"lan.example", "http://intranet.example/new/place.gitREST", ""},
		{"lan.example", "http://here.example/new/place.gitREST", "private address"},
		{"source.example", "http://intranet.example/new/place.gitREST", "private address"},
		{"source.example", "http://here.example/new/place.gitREST", "private address"},
		{"source.example", "http://mapped.example/new/place.gitREST", "private address"},
		{"source.example", "http://10.0.0.1/new/place.gitREST", "private address"},
		{"source.example", "http://127.0.0.1/new/place.gitREST", "private address"},
		{"source.example", "http://[::1]/new/place.gitREST", "private address"},
		{"source.example", "http://169.254.169.254/secretsREST", "private address"},
		{"source.example", "http://LOCALHOST./new/place.gitREST", "private address"},
		{"source.example", "http://joe:secret@moved.example/aREST", "user name"},
		{"source.example", "ftp://moved.example/aREST", "redirect from http to ftp"},
		{"source.example", "file:///etc/passwd", "redirect from http to file"},
		{"source.example", "http://moved.example/elsewhere", "404"},
		{"source.example", "again", "more than 5 redirects"},
	} {
		t.Run(test.from+" "+test.to, func(t *testing.T) {
			to = test.to
			before := len(r.Asked())
			archive, err := packAll(t, Source{URL: "http://" + test.from + "/a/b.git", Tag: "v1", Commit: r.second}, Options{Client: client})
			if test.text == "" {
				if err != nil || len(archive) < 1024 {
					t.Errorf("%d bytes, %v", len(archive), err)
				}
				return
			}
			wantError(t, err, ErrUnavailable, test.text)
			if strings.Contains(err.Error(), "secret@") || strings.Contains(err.Error(), ":secret") {
				t.Errorf("error %q shows the password", err)
			}
			if test.text == "private address" && len(r.Asked()) != before {
				t.Error("the private server was asked")
			}
		})
	}
}

func TestRedirectToNoRepository(t *testing.T) {
	from := &url.URL{Scheme: "http", Host: "source.example", Path: "/a"}
	err := newRemote(from, Options{}).move(&url.URL{Scheme: "http", Host: "moved.example", Path: "/login"})
	wantError(t, err, ErrUnavailable, "which is no repository")
}

// Only the list may be found elsewhere; the caller's own rules count as well.
func TestRedirectRules(t *testing.T) {
	var r small
	r, address, options := broken(t, "/a/b.git/git-upload-pack", func(w http.ResponseWriter, request *http.Request) {
		http.Redirect(w, request, "/c/git-upload-pack", http.StatusTemporaryRedirect)
	})
	_, err := packAll(t, Source{URL: address, Commit: r.second}, options)
	wantError(t, err, ErrUnavailable, "redirect of POST")

	r, address, options = broken(t, "/a/b.git/info/refs", func(w http.ResponseWriter, request *http.Request) {
		http.Redirect(w, request, "/c/info/refs?service=git-upload-pack", http.StatusFound)
	})
	mustPack(t, Source{URL: address, Commit: r.second}, options)
	ours := errors.New("no redirects here")
	options.Client.CheckRedirect = func(*http.Request, []*http.Request) error { return ours }
	_, err = packAll(t, Source{URL: address, Commit: r.second}, options)
	wantError(t, err, ErrUnavailable, "no redirects here")
	if !errors.Is(err, ours) {
		t.Errorf("%v does not wrap the rule's error", err)
	}
	next, before := httptest.NewRequest("GET", "http://moved.example/", nil), httptest.NewRequest("GET", "https://source.example/", nil)
	if err := checkRedirect(next, []*http.Request{before}); err == nil {
		t.Error("https may become http")
	}
	if err := checkRedirect(before, []*http.Request{next}); err != nil {
		t.Error(err)
	}
}

func TestTwoAtATime(t *testing.T) {
	r := newSmall(t)
	address, options := serve(t, r)
	scratch := t.TempDir()
	results := make(chan error)
	var archives [2]bytes.Buffer
	for i := range archives {
		go func() {
			results <- Pack(t.Context(), Source{URL: address, Commit: r.second}, scratch, &archives[i], options)
		}()
	}
	for range archives {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if !bytes.Equal(archives[0].Bytes(), archives[1].Bytes()) {
		t.Error("two packs differ")
	}
}
