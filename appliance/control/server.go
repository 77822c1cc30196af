package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// maxBody bounds what a caller may send, in bytes: a recipe is at most a leaf, a
// pyrsia.hcl 1 MiB before it is written as base64.
const maxBody = 2 << 20

// maxLockBody bounds a lock that a caller sends, in bytes: of 20,000 files, each with
// its two digests.
const maxLockBody = 16 << 20

// maxFileBody bounds a file that a caller sends, in bytes, as it does for the sources of
// builds.
const maxFileBody = 2 << 30

// maxList bounds how many leaves one answer lists.
const maxList = 10_000

// grace is how long answers under way may take to end when the server stops.
const grace = 2 * time.Second

// Server answers for a node. It is safe for concurrent use.
type Server struct {
	node Node
	mux  *http.ServeMux
}

// New is a server for the node. It starts nothing.
func New(node Node) *Server {
	s := &Server{node: node, mux: http.NewServeMux()}
	s.mux.HandleFunc("GET /v1/status", get(func(r *http.Request) (Status, error) {
		return node.Status(r.Context())
	}))
	s.mux.HandleFunc("GET /v1/peers", list(func(r *http.Request) ([]Peer, error) {
		return node.Peers(r.Context())
	}))
	s.mux.HandleFunc("GET /v1/check", s.check)
	s.mux.HandleFunc("GET /v1/builds", list(func(r *http.Request) ([]Build, error) {
		return node.Builds(r.Context())
	}))
	s.mux.HandleFunc("POST /v1/builds", get(s.requestBuild))
	s.mux.HandleFunc("GET /v1/build", get(func(r *http.Request) (BuildDetail, error) {
		return node.Build(r.Context(), r.FormValue("ref"))
	}))
	s.mux.HandleFunc("GET /v1/build/watch", s.watchBuild)
	s.mux.HandleFunc("GET /v1/build/logs", s.buildLogs)
	s.mux.HandleFunc("GET /v1/recipes", list(func(r *http.Request) ([]Recipe, error) {
		return node.Recipes(r.Context())
	}))
	s.mux.HandleFunc("POST /v1/build/cancel", get(func(r *http.Request) (struct{}, error) {
		return struct{}{}, node.CancelBuild(r.Context(), r.FormValue("ref"))
	}))
	s.mux.HandleFunc("GET /v1/workers", list(func(r *http.Request) ([]Worker, error) {
		return node.Workers(r.Context())
	}))
	s.mux.HandleFunc("GET /v1/build/inputs", list(func(r *http.Request) ([]Input, error) {
		return node.Inputs(r.Context(), r.FormValue("ref"))
	}))
	s.mux.HandleFunc("GET /v1/build/differences", list(func(r *http.Request) ([]Difference, error) {
		return node.Differences(r.Context(), r.FormValue("ref"))
	}))
	s.mux.HandleFunc("GET /v1/recipe", get(func(r *http.Request) (RecipeDetail, error) {
		return node.Recipe(r.Context(), r.FormValue("ref"))
	}))
	s.mux.HandleFunc("POST /v1/lock", s.resolveLock)
	s.mux.HandleFunc("POST /v1/recipe/try", s.tryRecipe)
	s.mux.HandleFunc("POST /v1/file", get(func(r *http.Request) (artifact.Descriptor, error) {
		return node.PutFile(r.Context(), r.Body)
	}))
	s.mux.HandleFunc("GET /v1/file", s.file)
	s.mux.HandleFunc("GET /v1/build/remains", func(w http.ResponseWriter, r *http.Request) {
		content(w, func(w io.Writer) error { return node.Remains(r.Context(), r.FormValue("ref"), w) })
	})
	s.mux.HandleFunc("POST /v1/explain", list(func(r *http.Request) ([]Input, error) {
		lock := new(record.Lock)
		if err := json.NewDecoder(r.Body).Decode(lock); err != nil {
			return nil, fmt.Errorf("%w lock: %v", ErrInvalid, err)
		}
		return node.Explain(r.Context(), lock)
	}))
	s.mux.HandleFunc("GET /v1/log", list(s.logList))
	s.mux.HandleFunc("GET /v1/log/leaf", list(func(r *http.Request) ([]LogLeaf, error) {
		return node.LogInspect(r.Context(), r.FormValue("ref"))
	}))
	s.mux.HandleFunc("GET /v1/log/proof", text(func(r *http.Request) ([]byte, error) {
		return node.LogProve(r.Context(), r.FormValue("ref"))
	}))
	s.mux.HandleFunc("GET /v1/log/checkpoint", text(func(r *http.Request) ([]byte, error) {
		note, err := node.Checkpoint(r.Context())
		return []byte(note), err
	}))
	s.mux.HandleFunc("GET /v1/artifacts", list(func(r *http.Request) ([]Artifact, error) {
		return node.Sources(r.Context(), r.FormValue("ref"))
	}))
	s.mux.HandleFunc("POST /v1/reload", get(func(r *http.Request) (Reloaded, error) {
		return node.Reload(r.Context())
	}))
	s.mux.HandleFunc("POST /v1/plan", get(s.plan))
	s.mux.HandleFunc("POST /v1/role", get(s.setRole))
	s.mux.HandleFunc("GET /v1/configuration", list(func(r *http.Request) ([]Setting, error) {
		return node.Configuration(r.Context())
	}))
	s.mux.HandleFunc("GET /v1/history", list(func(r *http.Request) ([]Taken, error) {
		return node.History(r.Context())
	}))
	s.mux.HandleFunc("GET /v1/history/{number}", text(func(r *http.Request) ([]byte, error) {
		number, err := strconv.Atoi(r.PathValue("number"))
		if err != nil {
			return nil, fmt.Errorf("%w number %.40q", ErrInvalid, r.PathValue("number"))
		}
		return node.Past(r.Context(), number)
	}))
	// Profiles are here and nowhere else: they tell addresses and take time.
	s.mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	s.mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	s.mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		e := &Error{Message: fmt.Sprintf("the node does not know %s %s", r.Method, r.URL.Path),
			Hint: "program and node may be of different versions", Code: "not-found"}
		writeError(w, e, http.StatusNotFound)
	})
	return s
}

// Handle has the server answer a path by somebody else's handler. Call it before Serve.
func (s *Server) Handle(pattern string, handler http.Handler) { s.mux.Handle(pattern, handler) }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	limit := int64(maxBody)
	switch r.URL.Path {
	case "/v1/explain":
		limit = maxLockBody
	case "/v1/file":
		limit = maxFileBody
	}
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	s.mux.ServeHTTP(w, r)
}

// Serve answers on the listener until the context ends, then closes it. It
// returns when every answer has ended or was cut off.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	// Streams end with the server, not with their callers.
	answers, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return answers },
	}
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		<-running.Done()
		stop()
		deadline, done := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer done()
		if server.Shutdown(deadline) != nil {
			server.Close() //nolint:errcheck // nothing is left to do about it
		}
	}()
	err := server.Serve(listener)
	cancel()
	<-closed
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

func (s *Server) requestBuild(r *http.Request) (requested, error) {
	var asked requestBuild
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		return requested{}, fmt.Errorf("%w request: %v", ErrInvalid, err)
	}
	purl, err := artifact.ParsePURL(asked.Package)
	if err != nil {
		return requested{}, fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	id, err := s.node.RequestBuild(r.Context(), purl)
	return requested{ID: id}, err
}

func (s *Server) plan(r *http.Request) (Plan, error) {
	var asked requestPlan
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		return Plan{}, fmt.Errorf("%w request: %v", ErrInvalid, err)
	}
	return s.node.Plan(r.Context(), asked.File, asked.Source)
}

func (s *Server) setRole(r *http.Request) (roleSet, error) {
	var asked roleSet
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		return asked, fmt.Errorf("%w request: %v", ErrInvalid, err)
	}
	return asked, s.node.SetRole(r.Context(), asked.Role)
}

type roleSet struct {
	Role string `json:"role"`
}

type requestPlan struct {
	File   string `json:"file"`
	Source []byte `json:"source"`
}

type requestBuild struct {
	Package string `json:"package"`
}

type requested struct {
	ID string `json:"id"`
}

func (s *Server) watchBuild(w http.ResponseWriter, r *http.Request) {
	out := newSender(w)
	out.finish(s.node.WatchBuild(r.Context(), r.FormValue("ref"), func(b Build) error { return out.value(b) }))
}

func (s *Server) buildLogs(w http.ResponseWriter, r *http.Request) {
	out := newTextWriter(w)
	out.finish(s.node.BuildLogs(r.Context(), r.FormValue("ref"), r.FormValue("follow") == "true", out))
}

func (s *Server) check(w http.ResponseWriter, r *http.Request) {
	out := newSender(w)
	out.finish(func() error {
		report, err := s.node.Check(r.Context(), func(p Progress) error { return out.value(checked{Progress: &p}) })
		if err != nil {
			return err
		}
		return out.value(checked{Report: &report})
	}())
}

// checked is a frame of a check: how far it is, or at last what it found.
type checked struct {
	Progress *Progress    `json:"progress,omitempty"`
	Report   *CheckReport `json:"report,omitempty"`
}

// recipeOf reads a recipe. One that has no canonical form could not be named by its hash.
func recipeOf(body io.Reader) (*record.Recipe, error) {
	recipe := new(record.Recipe)
	if err := json.NewDecoder(body).Decode(recipe); err != nil {
		return nil, fmt.Errorf("%w recipe: %v", ErrInvalid, err)
	}
	if _, err := record.Marshal(recipe); err != nil {
		return nil, fmt.Errorf("%w recipe: %v", ErrInvalid, err)
	}
	return recipe, nil
}

func (s *Server) resolveLock(w http.ResponseWriter, r *http.Request) {
	out := newSender(w)
	out.finish(func() error {
		recipe, err := recipeOf(r.Body)
		if err != nil {
			return err
		}
		lock, err := s.node.ResolveLock(r.Context(), recipe, out.line)
		if err != nil {
			return err
		}
		return out.value(lock)
	}())
}

func (s *Server) tryRecipe(w http.ResponseWriter, r *http.Request) {
	out := newSender(w)
	out.finish(func() error {
		recipe, err := recipeOf(r.Body)
		if err != nil {
			return err
		}
		tried, err := s.node.TryRecipe(r.Context(), recipe, out.line)
		if err != nil {
			return err
		}
		return out.value(tried)
	}())
}

func (s *Server) file(w http.ResponseWriter, r *http.Request) {
	digest, err := artifact.ParseSHA256(r.FormValue("sha256"))
	if err != nil {
		e, status := answer(fmt.Errorf("%w digest: %v", ErrInvalid, err))
		writeError(w, e, status)
		return
	}
	content(w, func(w io.Writer) error { return s.node.File(r.Context(), digest, w) })
}

// content answers with bytes.
func content(w http.ResponseWriter, write func(io.Writer) error) {
	sent := &counting{Writer: w}
	if err := write(sent); err != nil {
		if sent.n > 0 {
			panic(http.ErrAbortHandler) // the caller learns that the answer is cut off
		}
		e, status := answer(err)
		writeError(w, e, status)
	}
}

// counting tells whether anything was written.
type counting struct {
	io.Writer
	n int64
}

// Write implements io.Writer.
func (c *counting) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n += int64(n)
	return n, err
}

func (s *Server) logList(r *http.Request) ([]LogEntry, error) {
	from, err := strconv.ParseInt(r.FormValue("from"), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%w index %.40q", ErrInvalid, r.FormValue("from"))
	}
	count, err := strconv.Atoi(r.FormValue("count"))
	if err != nil || count < 1 || count > maxList {
		return nil, fmt.Errorf("%w count %.40q: want 1 to %d", ErrInvalid, r.FormValue("count"), maxList)
	}
	return s.node.LogList(r.Context(), from, count)
}

// get answers with one JSON value.
func get[T any](f func(*http.Request) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		value, err := f(r)
		if err != nil {
			e, status := answer(err)
			writeError(w, e, status)
			return
		}
		writeJSON(w, http.StatusOK, value)
	}
}

// list is get for lists: an empty one is [], never null.
func list[T any](f func(*http.Request) ([]T, error)) http.HandlerFunc {
	return get(func(r *http.Request) ([]T, error) {
		values, err := f(r)
		if values == nil {
			values = []T{}
		}
		return values, err
	})
}

func text(f func(*http.Request) ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		data, err := f(r)
		if err != nil {
			e, status := answer(err)
			writeError(w, e, status)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Write(data) //nolint:errcheck // the caller went away
	}
}

func writeError(w http.ResponseWriter, e *Error, status int) { writeJSON(w, status, e) }

func writeJSON(w http.ResponseWriter, status int, value any) {
	data, err := json.Marshal(value)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"error":"the node's answer has no JSON form"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(data, '\n')) //nolint:errcheck // the caller went away
}

// maxSocketPath is the longest path of a Unix socket in bytes (unix(7):
// sun_path has 108, one of them a final zero).
const maxSocketPath = 107

// Listen opens the control socket: mode 0600, in a folder that is made with
// mode 0700 if it is not there. A socket that a killed node left behind is
// replaced; one that somebody answers on is an error.
//
// The socket gets its mode in a private folder and only then its name, so that
// nobody else can open it in between. Closing the listener removes it.
func Listen(path string) (net.Listener, error) {
	if len(path) > maxSocketPath-len("/.new-0000000000/s") {
		return nil, fmt.Errorf("control socket %s: the path is too long for a Unix socket (%d bytes, the limit is %d); choose a shorter admin.socket",
			path, len(path), maxSocketPath-len("/.new-0000000000/s"))
	}
	folder := filepath.Dir(path)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("folder of the control socket: %w", err)
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close() //nolint:errcheck // only its existence matters
		return nil, fmt.Errorf("control socket %s: another node answers there; stop it, or choose another admin.socket", path)
	}
	private, err := os.MkdirTemp(folder, ".new-")
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	defer os.RemoveAll(private) //nolint:errcheck // an empty folder may stay
	return listenPrivately(filepath.Join(private, "s"), path)
}

func listenPrivately(private, path string) (net.Listener, error) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: private, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	listener.SetUnlinkOnClose(false)
	err = os.Chmod(private, 0o600)
	if err == nil {
		err = os.Rename(private, path)
	}
	if err != nil {
		listener.Close() //nolint:errcheck // the error at hand says more
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	return &socket{listener, path}, nil
}

// socket removes its path when it is closed.
type socket struct {
	*net.UnixListener
	path string
}

// Close implements net.Listener.
func (s *socket) Close() error {
	os.Remove(s.path) //nolint:errcheck // the next Listen replaces what stays
	return s.UnixListener.Close()
}

// Addr implements net.Listener.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }
