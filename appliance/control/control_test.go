package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const plexus = artifact.PURL("pkg:maven/org.codehaus.plexus/plexus-archiver@4.10.2")

// memory is a Node with fixed answers.
type memory struct {
	fail    error // all methods fail with it, streams after their first part
	started chan struct{}
}

func (m *memory) status() Status {
	return Status{Version: "1", Role: "build", Height: 7, Members: []Member{{Label: "beta", Height: -1}}, Started: time.Unix(1, 0).UTC(),
		Genesis: record.Hash{1}, Services: []Service{}, Mirrors: []Mirror{}, Addrs: []string{"/ip4/127.0.0.1/tcp/1"}, Registry: []string{}}
}

func (m *memory) build(state BuildState) Build {
	return Build{ID: "b1", Package: plexus, State: state, Height: -1, Members: []Vote{{Label: "beta", Vote: VoteEqual, Digest: "12ab"}}}
}

func (m *memory) Status(context.Context) (Status, error) { return m.status(), m.fail }
func (m *memory) Check(_ context.Context, progress func(Progress) error) (CheckReport, error) {
	for done := range int64(3) {
		if err := progress(Progress{Done: done, All: 3}); err != nil {
			return CheckReport{}, err
		}
	}
	return CheckReport{Height: 3}, m.fail
}
func (m *memory) Peers(context.Context) ([]Peer, error)   { return nil, m.fail }
func (m *memory) Builds(context.Context) ([]Build, error) { return []Build{m.build(Building)}, m.fail }
func (m *memory) Recipes(context.Context) ([]Recipe, error) {
	return []Recipe{{Package: plexus}}, m.fail
}
func (m *memory) Reload(context.Context) (Reloaded, error) {
	return Reloaded{Plan: m.plan("/etc/pyrsia.hcl"), Warning: "not noted", Took: time.Millisecond}, m.fail
}
func (m *memory) SetRole(_ context.Context, role string) error {
	if role != "build" && m.fail == nil {
		return fmt.Errorf("%w: %q is no role", ErrInvalid, role)
	}
	return m.fail
}
func (m *memory) plan(file string) Plan {
	return Plan{File: file, Number: 7, Changes: []Change{{Path: "distribution.quota", Old: `"1GiB"`, New: `"2GiB"`, Effect: EffectLive, Line: 3, Added: []string{"x"}}}}
}
func (m *memory) Plan(_ context.Context, file string, source []byte) (Plan, error) {
	return m.plan(fmt.Sprintf("%s %x", file, source)), m.fail
}
func (m *memory) Configuration(context.Context) ([]Setting, error) {
	return []Setting{{Path: "log.level", Value: `"info"`, File: "f", Line: 2}}, m.fail
}
func (m *memory) History(context.Context) ([]Taken, error) {
	return []Taken{{Number: 7, Time: time.Unix(7, 0).UTC(), Now: true}}, m.fail
}
func (m *memory) Past(_ context.Context, number int) ([]byte, error) {
	return fmt.Append(nil, "configuration ", number), m.fail
}
func (m *memory) Checkpoint(context.Context) (string, error) { return "acme\n1\nroot\n", m.fail }
func (m *memory) LogProve(_ context.Context, ref string) ([]byte, error) {
	return []byte("proof of " + ref), m.fail
}
func (m *memory) Sources(context.Context, string) ([]Artifact, error)         { return nil, m.fail }
func (m *memory) RequestBuild(context.Context, artifact.PURL) (string, error) { return "b1", m.fail }

func (m *memory) Build(_ context.Context, ref string) (BuildDetail, error) {
	if ref != "b1" {
		return BuildDetail{}, WithHint(fmt.Errorf("build %q: %w", ref, ErrNotFound), "see `pyrsia build list`")
	}
	return BuildDetail{Build: m.build(Published), Outputs: []Output{}}, m.fail
}

func (m *memory) WatchBuild(ctx context.Context, ref string, send func(Build) error) error {
	for _, state := range []BuildState{Building, Publishing} {
		if err := send(m.build(state)); err != nil {
			return err
		}
	}
	if m.started != nil {
		close(m.started)
		<-ctx.Done()
		return ctx.Err()
	}
	if m.fail != nil {
		return m.fail
	}
	return send(m.build(Published))
}

func (m *memory) BuildLogs(_ context.Context, _ string, follow bool, w io.Writer) error {
	fmt.Fprintf(w, "follow=%v\n", follow)
	w.Write([]byte{0xff, 0, '\n'})
	return m.fail
}

func (m *memory) ResolveLock(_ context.Context, recipe *record.Recipe, progress func(string) error) (*record.Lock, error) {
	if err := progress("resolving " + string(recipe.Package)); err != nil {
		return nil, err
	}
	if m.fail != nil {
		return nil, m.fail
	}
	return &record.Lock{Builder: []artifact.Descriptor{}, Entries: []record.LockEntry{{Kind: "maven", Path: "a/b", Proof: record.ProofUpstream}}, Recipe: record.Hash{3}}, nil
}

func (m *memory) CancelBuild(_ context.Context, ref string) error {
	if ref != "b1" && m.fail == nil {
		return fmt.Errorf("build %q: %w", ref, ErrNotFound)
	}
	return m.fail
}

func (m *memory) Workers(context.Context) ([]Worker, error) {
	return []Worker{{Address: "unix:///x", State: "ready", Cache: 7}}, m.fail
}

func (m *memory) TryRecipe(_ context.Context, recipe *record.Recipe, progress func(string) error) ([]Tried, error) {
	if err := progress("trying " + string(recipe.Package)); err != nil {
		return nil, err
	}
	return []Tried{{Reference: "equal"}}, m.fail
}

func (m *memory) PutFile(_ context.Context, r io.Reader) (artifact.Descriptor, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return artifact.Descriptor{}, err
	}
	return artifact.Descriptor{Size: int64(len(data))}, m.fail
}

func (m *memory) File(_ context.Context, digest artifact.SHA256, w io.Writer) error {
	if m.fail == nil {
		fmt.Fprintf(w, "file %x", digest[:2])
	}
	return m.fail
}

func (m *memory) Remains(_ context.Context, ref string, w io.Writer) error {
	if m.fail == nil {
		fmt.Fprintf(w, "remains of %s", ref)
	}
	return m.fail
}

func (m *memory) Inputs(_ context.Context, ref string) ([]Input, error) {
	return []Input{{Kind: "maven", Path: ref, Role: "plugin", Proof: record.ProofChain}}, m.fail
}

func (m *memory) Differences(_ context.Context, ref string) ([]Difference, error) {
	return []Difference{{Against: ref, Reason: "gone"}}, m.fail
}

func (m *memory) Recipe(_ context.Context, ref string) (RecipeDetail, error) {
	return RecipeDetail{Recipe: Recipe{State: ref}}, m.fail
}

func (m *memory) Explain(_ context.Context, lock *record.Lock) ([]Input, error) {
	return []Input{{Path: lock.Recipe.String()}}, m.fail
}

func (m *memory) LogList(_ context.Context, from int64, count int) ([]LogEntry, error) {
	return []LogEntry{{Index: from, Height: int64(count)}}, m.fail
}

func (m *memory) LogInspect(context.Context, string) ([]LogLeaf, error) {
	return []LogLeaf{{Leaf: []byte(`{"a":1}`)}}, m.fail
}

// serve runs a server for the node and gives a client for it.
func serve(t *testing.T, node Node) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "run", "control.sock")
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- New(node).Serve(ctx, listener) }()
	client := NewClient(path)
	t.Cleanup(func() {
		client.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	return client
}

// ask puts every question to a node and gives the answers as text.
func ask(ctx context.Context, n Node) (answers []string, failures []error) {
	add := func(v any, err error) {
		answers, failures = append(answers, fmt.Sprintf("%+v", v)), append(failures, err)
	}
	one := func(v any, err error) { add(v, err) }
	status, err := n.Status(ctx)
	one(status, err)
	peers, err := n.Peers(ctx)
	one(len(peers), err)
	builds, err := n.Builds(ctx)
	one(builds, err)
	id, err := n.RequestBuild(ctx, plexus)
	one(id, err)
	detail, err := n.Build(ctx, "b1")
	one(detail, err)
	var seen []Build
	err = n.WatchBuild(ctx, "b1", func(b Build) error { seen = append(seen, b); return nil })
	one(seen, err)
	var log bytes.Buffer
	err = n.BuildLogs(ctx, "b1", true, &log)
	one(log.String(), err)
	recipes, err := n.Recipes(ctx)
	one(recipes, err)
	var lines []string
	lock, err := n.ResolveLock(ctx, &record.Recipe{Package: plexus}, func(line string) error { lines = append(lines, line); return nil })
	if lock == nil {
		lock = new(record.Lock)
	}
	one([]any{*lock, lines}, err)
	one("cancelled", n.CancelBuild(ctx, "b1"))
	tried, err := n.TryRecipe(ctx, &record.Recipe{Package: plexus}, func(line string) error { lines = append(lines, line); return nil })
	if err != nil {
		tried = nil
	}
	one(tried, err)
	put, err := n.PutFile(ctx, strings.NewReader("content"))
	one(put, err)
	var content bytes.Buffer
	err = n.File(ctx, artifact.SHA256{1, 2}, &content)
	one(content.String(), err)
	var remains bytes.Buffer
	err = n.Remains(ctx, "b1", &remains)
	one(remains.String(), err)
	workers, err := n.Workers(ctx)
	one(workers, err)
	inputs, err := n.Inputs(ctx, "b1")
	one(inputs, err)
	differences, err := n.Differences(ctx, "b1")
	one(differences, err)
	one(n.Recipe(ctx, "ab12"))
	one(n.Explain(ctx, &record.Lock{Recipe: record.Hash{7}}))
	entries, err := n.LogList(ctx, -20, 5)
	one(entries, err)
	leaves, err := n.LogInspect(ctx, "4")
	one(leaves, err)
	proof, err := n.LogProve(ctx, string(plexus)+"#a b")
	one(string(proof), err)
	checkpoint, err := n.Checkpoint(ctx)
	one(checkpoint, err)
	sources, err := n.Sources(ctx, "")
	one(len(sources), err)
	reloaded, err := n.Reload(ctx)
	one(reloaded, err)
	err = n.SetRole(ctx, "build")
	one("role", err)
	plan, err := n.Plan(ctx, "other.hcl", []byte("role = \xff"))
	one(plan, err)
	settings, err := n.Configuration(ctx)
	one(settings, err)
	taken, err := n.History(ctx)
	one(taken, err)
	past, err := n.Past(ctx, 41)
	one(string(past), err)
	return answers, failures
}

// TestSame: nobody can tell a client from the node itself.
func TestSame(t *testing.T) {
	node := new(memory)
	want, _ := ask(t.Context(), node)
	got, failures := ask(t.Context(), serve(t, node))
	if err := errors.Join(failures...); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestErrors(t *testing.T) {
	for _, sentinel := range []error{ErrNotFound, ErrInvalid, ErrConflict, ErrRefused, ErrUnavailable} {
		node := &memory{fail: WithHint(fmt.Errorf("build 7 of acme: %w", sentinel), "look again")}
		_, failures := ask(t.Context(), serve(t, node))
		for i, err := range failures {
			if !errors.Is(err, sentinel) || !strings.Contains(err.Error(), "build 7 of acme") || !strings.HasSuffix(err.Error(), "; look again") {
				t.Errorf("question %d: %v", i, err)
			}
			for _, other := range []error{ErrNotFound, ErrInvalid, ErrConflict, ErrRefused, ErrUnavailable} {
				if other != sentinel && errors.Is(err, other) {
					t.Errorf("question %d: %v is %v", i, err, other)
				}
			}
		}
	}
	first := serve(t, &memory{fail: fmt.Errorf("%w: build 7 of acme", ErrNotFound)})
	if _, err := first.Status(t.Context()); !errors.Is(err, ErrNotFound) || err.Error() != "build 7 of acme" {
		t.Error(err)
	}
	client := serve(t, &memory{fail: errors.New("plain")})
	if _, err := client.Status(t.Context()); err == nil || err.Error() != "plain" {
		t.Error(err)
	}
	if _, err := client.Build(t.Context(), "b2"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "build list") {
		t.Error(err)
	}
}

func TestBadQuestions(t *testing.T) {
	client := serve(t, new(memory))
	if _, err := client.RequestBuild(t.Context(), "org.example:a:1"); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if _, err := client.LogList(t.Context(), 0, 1<<30); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if _, err := client.open(t.Context(), "PUT", "/v1/builds", nil, nil); err == nil || !strings.Contains(err.Error(), "PUT /v1/builds") {
		t.Error(err)
	}
	huge := &record.Recipe{Commands: []string{strings.Repeat("x", maxBody+1)}}
	if _, err := client.ResolveLock(t.Context(), huge, nil); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

// TestCut: a stream that the node did not end is an error and never a result.
func TestCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	answers := []string{
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n12\r\n{\"line\":\"hello\"}\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n{\"line\":\"hello\"}\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nnot json\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"line\":",
		"HTTP/1.1 500 Oops\r\nContent-Length: 5\r\n\r\nhello",
		"",
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range answers {
			for range 2 {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				buffer := make([]byte, 4096)
				conn.Read(buffer)
				io.WriteString(conn, answers[0])
				conn.Close()
			}
			answers = answers[1:]
		}
	}()
	client := NewClient(path)
	defer client.Close()
	for i := range len(answers) {
		if err := client.WatchBuild(t.Context(), "b1", func(Build) error { return nil }); err == nil {
			t.Errorf("answer %d is taken for a whole one", i)
		}
		if _, err := client.ResolveLock(t.Context(), new(record.Recipe), func(string) error { return nil }); err == nil {
			t.Errorf("answer %d is taken for a lock", i)
		}
	}
	listener.Close()
	<-done
}

func TestUnreachable(t *testing.T) {
	folder := t.TempDir()
	ask := func(path string) error {
		client := NewClient(path)
		defer client.Close()
		_, err := client.Status(t.Context())
		if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v", err)
		}
		return err
	}
	missing := filepath.Join(folder, "missing.sock")
	if err := ask(missing); err.Error() != "cannot reach the node at "+missing+": no such file; start the node (systemctl start pyrsia, or pyrsia serve), or give --socket" {
		t.Error(err)
	}
	left := filepath.Join(folder, "left.sock")
	leave(t, left)
	if err := ask(left); !strings.Contains(err.Error(), "nobody answers") {
		t.Error(err)
	}
}

// leave makes a socket as a killed node leaves it behind.
func leave(t *testing.T, path string) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	listener.Close()
}

func TestListen(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "run")
	path := filepath.Join(folder, "control.sock")
	// Whatever the umask, the modes are these.
	defer syscall.Umask(syscall.Umask(0))
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		mode os.FileMode
	}{{folder, os.ModeDir | 0o700}, {path, os.ModeSocket | 0o600}} {
		if info, err := os.Stat(c.path); err != nil || info.Mode() != c.mode {
			t.Errorf("%s: %v %v", c.path, info.Mode(), err)
		}
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another node answers") {
		t.Error(err)
	}
	listener.Close()
	leave(t, path)
	again, err := Listen(path)
	if err != nil {
		t.Fatal("what a killed node left behind is in the way:", err)
	}
	again.Close()
	entries, _ := os.ReadDir(folder)
	if len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
	if _, err := Listen(filepath.Join(folder, strings.Repeat("x", 100))); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Error(err)
	}
	file := filepath.Join(folder, "file")
	os.WriteFile(file, nil, 0o600)
	if _, err := Listen(filepath.Join(file, "s")); err == nil {
		t.Error("listening below a file")
	}
}

// TestStop: a follower does not hold the node up, and learns that it ended.
func TestStop(t *testing.T) {
	node := &memory{started: make(chan struct{})}
	path := filepath.Join(t.TempDir(), "s")
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- New(node).Serve(ctx, listener) }()
	client := NewClient(path)
	defer client.Close()
	watched := make(chan error, 1)
	go func() { watched <- client.WatchBuild(t.Context(), "b1", func(Build) error { return nil }) }()
	<-node.started
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := <-watched; err == nil {
		t.Error("the follower thinks that the build ended")
	}
}

// TestCallerLeaves: the node learns that a follower went away.
func TestCallerLeaves(t *testing.T) {
	node := &memory{started: make(chan struct{})}
	client := serve(t, node)
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- client.WatchBuild(ctx, "b1", func(Build) error { return nil }) }()
	<-node.started
	cancel()
	if err := <-watched; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte("{\"line\":\"a\"}\n{\"value\":{}}\n{\"end\":true}\n"))
	f.Add([]byte("{\"failure\":{\"error\":\"no\"}}\n"))
	f.Add([]byte("{\"line\":"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ended := false
		err := receive(bytes.NewReader(data), func(next frame) error {
			ended = ended || next.End
			return nil
		})
		if err == nil && !bytes.Contains(data, []byte("true")) {
			t.Error("ended without an end")
		}
	})
}
