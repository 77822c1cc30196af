package upstream

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyrsia/appliance/modules/mirror"
)

func serve(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

func client(t *testing.T, config Config) *Client {
	t.Helper()
	c, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestBase(t *testing.T) {
	for base, want := range map[string]string{
		"https://registry.example":             "https://registry.example",
		"https://registry.example/":            "https://registry.example",
		"http://registry.example:81/a/b/":      "http://registry.example:81/a/b",
		"https://me:secret@registry.example/a": "https://registry.example/a",
		"":                                     "",
		"registry.example":                     "",
		"file:///etc":                          "",
		"ftp://registry.example":               "",
		"https://":                             "",
		"https://registry.example/?a=b":        "",
		"https://registry.example/#a":          "",
		"https://registry.example/%zz":         "",
	} {
		c, err := New(Config{Base: base})
		if want == "" {
			if err == nil {
				t.Errorf("%q was taken", base)
			}
			continue
		}
		if err != nil || c.String() != want {
			t.Errorf("%q: %v, %v", base, c, err)
		}
	}
}

func TestGet(t *testing.T) {
	var got *http.Request
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		w.Header().Set("Etag", `"1"`)
		fmt.Fprint(w, "hello")
	})
	base, _ := url.Parse(server.URL + "/root")
	base.User = url.UserPassword("me", "secret")
	c := client(t, Config{Base: base.String()})
	reply, err := c.Get(t.Context(), "a/b c?d%2e#f", http.Header{"Accept": {"x", "y"}})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(reply.Body)
	reply.Body.Close()
	if err != nil || string(body) != "hello" || reply.Status != 200 || reply.Length != 5 || reply.Header.Get("Etag") != `"1"` {
		t.Errorf("%q, %+v, %v", body, reply, err)
	}
	if got.URL.Path != "/root/a/b c?d%2e#f" || got.URL.RawQuery != "" {
		t.Errorf("asked for %q", got.URL)
	}
	if len(got.Header["Accept"]) != 2 || got.Header.Get("Accept-Encoding") != "identity" {
		t.Errorf("header %v", got.Header)
	}
	if user, password, ok := got.BasicAuth(); !ok || user != "me" || password != "secret" {
		t.Error("the configured credentials were not sent")
	}
}

func TestRedirects(t *testing.T) {
	for to, want := range map[string]string{
		"file:///etc/passwd":        "redirected from http to file",
		"gopher://registry.example": "redirected from http to gopher",
		"/loop":                     "more than 5 redirects",
		"http://127.0.0.2:1/":       "this machine's own",
		"http://[::1]:1/":           "this machine's own",
		"http://localhost:1/":       "this machine's own",
		"http://169.254.169.254/":   "this machine's own",
		"http://0.0.0.0:1/":         "this machine's own",
		"/good":                     "",
	} {
		t.Run(to, func(t *testing.T) {
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/good" {
					fmt.Fprint(w, "good")
					return
				}
				http.Redirect(w, r, to, http.StatusFound)
			})
			reply, err := client(t, Config{Base: server.URL}).Get(t.Context(), "x", nil)
			if want == "" {
				if err != nil {
					t.Fatal(err)
				}
				reply.Body.Close()
				return
			}
			if upstream := new(mirror.UpstreamError); !errors.As(err, &upstream) || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		})
	}
}

func TestNoDowngrade(t *testing.T) {
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+r.Host+"/", http.StatusFound)
	}))
	t.Cleanup(secure.Close)
	c := client(t, Config{Base: secure.URL})
	c.http.Transport.(*http.Transport).TLSClientConfig = secure.Client().Transport.(*http.Transport).TLSClientConfig
	if _, err := c.Get(t.Context(), "x", nil); err == nil || !strings.Contains(err.Error(), "from https to http") {
		t.Errorf("%v", err)
	}
}

func TestErrorsHideCredentials(t *testing.T) {
	server := serve(t, func(http.ResponseWriter, *http.Request) {})
	base, _ := url.Parse(server.URL)
	base.User = url.UserPassword("me", "secret")
	c := client(t, Config{Base: base.String()})
	server.Close()
	if _, err := c.Get(t.Context(), "x", nil); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

func TestStandstill(t *testing.T) {
	hold := make(chan struct{})
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "some")
		w.(http.Flusher).Flush()
		<-hold
	})
	defer close(hold)
	reply, err := client(t, Config{Base: server.URL, Idle: 50 * time.Millisecond}).Get(t.Context(), "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	if data, err := io.ReadAll(reply.Body); string(data) != "some" || err == nil || !strings.Contains(err.Error(), "no byte came") {
		t.Errorf("%q, %v", data, err)
	}
}

func TestHugeHeader(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) })
	if _, err := client(t, Config{Base: server.URL}).Get(t.Context(), "x", nil); err == nil {
		t.Error("no error")
	}
}

func TestTooManyRequests(t *testing.T) {
	asked := 0
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked++
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	c := client(t, Config{Base: server.URL})
	for range 3 {
		_, err := c.Get(t.Context(), "x", nil)
		upstream := new(mirror.UpstreamError)
		if !errors.As(err, &upstream) || upstream.Status != 429 || upstream.RetryAfter > 7*time.Second || upstream.RetryAfter < 6*time.Second {
			t.Errorf("%+v", err)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

func TestFailingUpstreamIsLeftAlone(t *testing.T) {
	asked := 0
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked++
		w.WriteHeader(http.StatusBadGateway)
	})
	c := client(t, Config{Base: server.URL})
	for range 20 {
		if reply, err := c.Get(t.Context(), "x", nil); err == nil {
			reply.Body.Close()
		}
	}
	if asked != breakAfter {
		t.Errorf("asked %d times", asked)
	}
}

func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(breaker)
		fail := func() {
			t.Helper()
			if err := b.allow(time.Now()); err != nil {
				t.Fatal(err)
			}
			b.failed(time.Now())
		}
		for range breakAfter {
			fail()
		}
		for _, rest := range []time.Duration{5, 10, 20, 40, 80, 120, 120} {
			time.Sleep(rest*time.Second - time.Millisecond)
			if b.allow(time.Now()) == nil {
				t.Errorf("allowed before %d s", rest)
			}
			time.Sleep(time.Millisecond)
			fail()
		}
		time.Sleep(longestRest)
		if err := b.allow(time.Now()); err != nil {
			t.Error(err)
		}
		if b.allow(time.Now()) == nil {
			t.Error("two attempts at once after a rest")
		}
		b.gaveUp()
		if err := b.allow(time.Now()); err != nil {
			t.Error(err)
		}
		b.worked()
		for range 10 {
			if err := b.allow(time.Now()); err != nil {
				t.Error(err)
			}
		}
		b.pause(time.Now(), time.Hour)
		time.Sleep(longestPause - time.Second)
		if b.allow(time.Now()) == nil {
			t.Error("a wish was not heard")
		}
		time.Sleep(time.Second)
		if err := b.allow(time.Now()); err != nil {
			t.Errorf("a wish was heard too long: %v", err)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "x": 0, "99999999999999": 0,
		"Fri, 02 Jan 2026 03:04:15 GMT": 10 * time.Second,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: %s", value, got)
		}
	}
}
