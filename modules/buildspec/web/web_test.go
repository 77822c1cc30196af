package web

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/buildspec"
)

func serve(t *testing.T, handler http.HandlerFunc) *Repository {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	r, err := New(server.URL + "/maven")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRepository(t *testing.T) {
	r := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/maven/org/acme/a.jar" || r.Header.Get("Accept-Encoding") != "identity" {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader("content"))
	})
	if there, err := r.Has(t.Context(), "org/acme/a.jar"); !there || err != nil {
		t.Errorf("%v, %v", there, err)
	}
	if there, err := r.Has(t.Context(), "org/acme/b.jar"); there || err != nil {
		t.Errorf("%v, %v", there, err)
	}
	var b bytes.Buffer
	if err := r.Get(t.Context(), "org/acme/a.jar", &b); err != nil || b.String() != "content" {
		t.Errorf("%q, %v", b.String(), err)
	}
	if err := r.Get(t.Context(), "org/acme/b.jar", &b); !errors.Is(err, buildspec.ErrAbsent) {
		t.Errorf("%v", err)
	}
}

// TestTrouble: what passes is tried again, what does not says so.
func TestTrouble(t *testing.T) {
	var asked atomic.Int64
	r := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("content"))
	})
	var b bytes.Buffer
	if err := r.Get(t.Context(), "a", &b); err != nil || b.String() != "content" || asked.Load() != 2 {
		t.Errorf("%q, %v after %d", b.String(), err, asked.Load())
	}
	broken := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.Write([]byte("half"))
	})
	if err := broken.Get(t.Context(), "a", &b); err == nil || !strings.Contains(err.Error(), "a breaks off") {
		t.Errorf("%v", err)
	}
	release := make(chan struct{})
	silent := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-release
	})
	t.Cleanup(func() { close(release) })
	silent.stall = 10 * time.Millisecond
	if err := silent.Get(t.Context(), "a", &b); err == nil || !strings.Contains(err.Error(), "sent nothing for") {
		t.Errorf("%v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Get(ended, "a", &b); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{"", "ftp://x.example/", "/folder", "http://"} {
		if _, err := New(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
