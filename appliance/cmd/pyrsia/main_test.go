package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/hcl/recipe"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build/difference"
	"github.com/pyrsia/appliance/modules/identity"
	"github.com/pyrsia/appliance/modules/record"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/tlog"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pyrsia": main})
}

// TestScripts runs command lines as a person would: testdata/*.txt. `node` is
// a control socket with fixed answers behind it; `publish` makes the proof
// that a file is published, with the keys of the members.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("TZ", "UTC")
			// Under the race detector a program else sleeps a second at its end.
			e.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"node":     runNode,
			"publish":  publishFile,
			"await":    awaitSocket,
			"rejected": awaitRejected,
			"occupy":   occupy,
		},
	})
}

// TestHelp holds every verb to an explanation and an example, and --json to
// every table.
func TestHelp(t *testing.T) {
	var check func(*cobra.Command)
	check = func(cmd *cobra.Command) {
		if cmd.Short == "" && !cmd.Hidden {
			t.Errorf("%s: no explanation", cmd.CommandPath())
		}
		if !strings.Contains(cmd.Example, cmd.CommandPath()) {
			t.Errorf("%s: no example", cmd.CommandPath())
		}
		for _, inner := range cmd.Commands() {
			check(inner)
		}
	}
	check((&app{out: io.Discard, err: io.Discard}).root())
}

func TestMainIsShort(t *testing.T) {
	source, err := os.ReadFile("main.go")
	if err != nil || bytes.Count(source, []byte("\n")) > 60 {
		t.Errorf("main.go has %d lines, %v", bytes.Count(source, []byte("\n")), err)
	}
}

func TestByteCount(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "0.98 KiB", 1024: "1.00 KiB", 230316: "225 KiB", 50 << 30: "50.0 GiB", 3 << 40: "3.00 TiB"} {
		if got := byteCount(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

func TestAgo(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for d, want := range map[time.Duration]string{0: "now", 59 * time.Second: "59s ago", time.Hour: "1h ago", 30 * time.Hour: "30h ago", 72 * time.Hour: "3d ago"} {
		if got := ago(now, now.Add(-d)); got != want {
			t.Errorf("%s is %q", d, got)
		}
	}
	if ago(now, time.Time{}) != "–" {
		t.Error("never was not long ago")
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	s := style{on: true}
	table(&b, style{}, []string{"A", "B"}, [][]string{{s.green("yes"), "1"}, {"longer", "2"}})
	if got := b.String(); got != "A       B\n\x1b[32myes\x1b[0m     1\nlonger  2\n" {
		t.Errorf("%q", got)
	}
}

// TestBounds are the numbers of docs/protocol.md.
func TestBounds(t *testing.T) {
	for _, want := range []bounds{
		{3, "majority", 2, 2, 1, 2}, {3, "two-thirds", 2, 3, 3, 1}, {4, "majority", 3, 3, 2, 2}, {4, "two-thirds", 3, 3, 2, 2},
		{5, "majority", 3, 3, 1, 3}, {5, "two-thirds", 3, 4, 3, 2}, {10, "two-thirds", 6, 7, 4, 4}, {100, "majority", 51, 51, 2, 50}, {100, "two-thirds", 51, 67, 34, 34},
	} {
		if got := boundsOf(want.Nodes, want.Order); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

// TestReminder: who waits longer than two seconds is told so.
func TestReminder(t *testing.T) {
	told := make(chan struct{})
	a := &app{err: writerFunc(func(p []byte) (int, error) {
		close(told)
		return len(p), nil
	})}
	_, err := patiently(t.Context(), a, "asking", func(ctx context.Context) (int, error) {
		select {
		case <-told:
			return 0, nil
		case <-time.After(30 * time.Second):
			return 0, errors.New("nothing was said")
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// TestWatch: the status is shown again until it is interrupted, which is no failure; also
// while no node answers.
func TestWatch(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	serve := func() (stop func()) {
		listener, err := control.Listen(socket)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- control.New(fixed{}).Serve(ctx, listener) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	ctx, interrupt := context.WithCancel(t.Context())
	shown, missed := 0, 0
	stop := serve()
	out := writerFunc(func(p []byte) (int, error) {
		if strings.Contains(string(p), "acme") {
			shown++
		}
		switch shown {
		case 2:
			shown++
			stop() // the node restarts
		case 5:
			interrupt()
		}
		return len(p), nil
	})
	errOut := writerFunc(func(p []byte) (int, error) {
		if missed++; missed == 1 {
			stop = serve()
		}
		return len(p), nil
	})
	if code := run(ctx, []string{"status", "--watch", "--every", "100ms", "--socket", socket}, out, errOut); code != 0 || shown < 5 || missed == 0 {
		t.Errorf("exit code %d, shown %d times, missed %d times", code, shown, missed)
	}
	stop()
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// runNode serves fixed answers: node SOCKET.
func runNode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: node SOCKET")
	}
	listener, err := control.Listen(ts.MkAbs(args[0]))
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.New(fixed{}).Serve(ctx, listener) }()
	ts.Defer(func() {
		cancel()
		<-done
	})
}

// awaitSocket waits until somebody answers: await SOCKET.
func awaitSocket(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: await SOCKET")
	}
	awaitStatus(ts, args[0], func(control.Status) bool { return true })
}

// awaitRejected waits until a node has refused its configuration: rejected SOCKET.
func awaitRejected(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: rejected SOCKET")
	}
	awaitStatus(ts, args[0], func(s control.Status) bool { return s.Configuration.Rejected != "" })
}

func awaitStatus(ts *testscript.TestScript, socket string, is func(control.Status) bool) {
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		client := control.NewClient(ts.MkAbs(socket))
		status, err := client.Status(context.Background())
		client.Close()
		if err == nil && is(status) {
			return
		}
		<-time.After(20 * time.Millisecond)
	}
	ts.Fatalf("waited in vain for the node at %s", socket)
}

// occupy listens on a port of the loopback and names it: occupy VARIABLE.
func occupy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: occupy VARIABLE")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { listener.Close() })
	ts.Setenv(args[0], listener.Addr().String())
}

// fixed is a node whose answers never change.
type fixed struct{}

const (
	alpha = record.Identity("12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X")
	beta  = record.Identity("12D3KooWH3uVF6wv47WnArKHk5p6cvgCJEb74UTmxztmQDc298L3")
	gamma = record.Identity("12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo")
)

var (
	when    = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	digest1 = artifact.Descriptor{SHA256: artifact.SHA256{1}, BLAKE3: artifact.BLAKE3{1}, Size: 230316}
	digest2 = artifact.Descriptor{SHA256: artifact.SHA256{2}, BLAKE3: artifact.BLAKE3{2}, Size: 230316}
	jar     = artifact.Name{Package: plexus, File: "plexus-archiver-4.10.2.jar"}
)

func (fixed) Reload(context.Context) (control.Reloaded, error) {
	return control.Reloaded{}, fmt.Errorf("/none/pyrsia.hcl:9: bad: %w", control.ErrInvalid)
}
func (fixed) SetRole(context.Context, string) error { return nil }
func (fixed) Plan(context.Context, string, []byte) (control.Plan, error) {
	return control.Plan{File: "/etc/pyrsia/pyrsia.hcl", Number: 41, Changes: []control.Change{
		{Path: "registry.listen", Old: `["a:1"]`, New: `["a:1", "b:2"]`, Effect: control.EffectLive, Added: []string{`"b:2"`}},
		{Path: "storage.data", Old: `"/a"`, New: `"/b"`, Effect: control.EffectFixed, Line: 9},
		{Path: "mirror.maven.unverified", New: `"pass"`, Effect: control.EffectLive},
		{Path: "role", Old: `"regular"`, New: `"build"`, Effect: control.EffectRole},
		{Path: "network.checkpoint", Old: `"acme…"`, Effect: control.EffectLive},
	}}, nil
}
func (fixed) Configuration(context.Context) ([]control.Setting, error) {
	return []control.Setting{{Path: "log.level", Value: `"info"`}, {Path: "role", Value: `"build"`, File: "/etc/pyrsia/pyrsia.hcl", Line: 1}}, nil
}
func (fixed) History(context.Context) ([]control.Taken, error) {
	return []control.Taken{{Number: 41, Time: when, Now: true}, {Number: 40, Time: when.Add(-time.Hour)}}, nil
}
func (fixed) Past(_ context.Context, number int) ([]byte, error) {
	return nil, control.WithHint(fmt.Errorf("%w: configuration %d is not kept", control.ErrNotFound, number), "`pyrsia config history` lists those that are")
}
func (fixed) Status(context.Context) (control.Status, error) {
	return control.Status{
		Version: "0.1.0", Config: "/etc/pyrsia/pyrsia.hcl", Role: "build", Identity: alpha, Operator: "Acme", Started: when,
		Registry: []string{"127.0.0.1:7888"}, Network: "acme", Genesis: record.Hash{7}, Height: 57, Size: 1234, CheckpointTime: when, Stale: true,
		Peers: 2, Majority: 2, Quorum: 2,
		Members: []control.Member{
			{Identity: alpha, Self: true, Presence: control.PresenceAlive, Height: 57, Limit: 2, Told: when, Operator: "Acme"},
			{Identity: beta, Label: "beta", Connected: true, Presence: control.PresenceSuspect, Height: 57, Building: 1, Waiting: 3, Limit: 4, Version: "0.1.0", Told: when},
			{Identity: gamma, Label: "gamma", Presence: control.PresenceAway, Height: -1, Fenced: "its vote file is behind; run: pyrsia node rekey"},
		},
		Offences: []control.Offence{{Identity: gamma, Label: "gamma", What: "prevote", Height: 12, Round: 1, Leaf: 99, Time: when}},
		Store:    control.Store{Bytes: 1 << 30, Quota: 50 << 30, Files: 12, Sharing: true}, Builds: control.Running{Running: 1, Limit: 2},
		Passed:   control.Passed{Requests: 3, Bytes: 2048},
		Mirrors:  []control.Mirror{{Kind: "maven", Unverified: "pass", Declared: 1, Verified: 4, Passed: 3}},
		Services: []control.Service{{Name: "chain", State: "ready"}, {Name: "distribution", State: "backoff", Restarts: 4, Since: when, Error: "address in use"}},
	}, nil
}

func (fixed) Peers(context.Context) ([]control.Peer, error) {
	return []control.Peer{
		{Identity: beta, Label: "beta", Member: true, Address: "/ip4/192.0.2.7/tcp/4001", Latency: 1234567, Since: when, Sent: 10, Received: 1 << 20},
		{Identity: gamma, Address: "/ip4/192.0.2.8/tcp/4001", Since: when, Refused: map[string]int64{"over-rate": 12, "malformed": 3}, ShutOut: time.Now().Add(time.Hour)},
	}, nil
}

func (fixed) Check(_ context.Context, progress func(control.Progress) error) (control.CheckReport, error) {
	if err := progress(control.Progress{Done: 30, All: 57}); err != nil {
		return control.CheckReport{}, err
	}
	return control.CheckReport{Network: "acme", Genesis: record.Hash{7}, Height: 57, Size: 1234, Root: "AA==", Members: 3, Voted: "cosign of height 57"}, nil
}

func (fixed) RequestBuild(_ context.Context, purl artifact.PURL) (string, error) {
	switch purl {
	case plexus:
		return "b1", nil
	case "pkg:maven/org.example/disputed@1":
		return "b2", nil
	}
	return "", control.WithHint(fmt.Errorf("no recipe for %s: %w", purl, control.ErrNotFound), "put one into build.recipes of a majority of the build nodes")
}

func votes(of ...string) []control.Vote {
	all := []control.Vote{{Identity: alpha, Self: true}, {Identity: beta, Label: "beta"}, {Identity: gamma, Label: "gamma"}}
	for i := range all {
		all[i].Vote = of[i]
		switch of[i] {
		case control.VoteEqual:
			all[i].Digest, all[i].When = "12abcdef", when
		case control.VoteDifferent:
			all[i].Digest, all[i].When, all[i].Reason = fmt.Sprintf("99abcde%d", i), when, "another jar"
		}
	}
	return all
}

func published() control.Build {
	return control.Build{ID: "b1", Package: plexus, Recipe: record.Hash{3}, Attempt: 1, Platform: "linux/amd64", State: control.Published, Majority: 2, Height: 57,
		Members: votes(control.VoteEqual, control.VoteEqual, control.VoteDifferent), Asked: when, Changed: when}
}

func disputed() control.Build {
	return control.Build{ID: "b2", Package: "pkg:maven/org.example/disputed@1", Attempt: 2, State: control.Disagreed, Majority: 2, Height: -1,
		Members: votes(control.VoteEqual, control.VoteDifferent, control.VoteDifferent), Reason: "no result can reach 2 of 3 votes", Changed: when}
}

func (fixed) Builds(context.Context) ([]control.Build, error) {
	return []control.Build{published(), disputed()}, nil
}

func (fixed) Build(_ context.Context, ref string) (control.BuildDetail, error) {
	if ref == "b2" {
		return control.BuildDetail{Build: disputed(), Leaf: -1}, nil
	}
	if ref != "b1" && ref != plexus {
		return control.BuildDetail{}, control.WithHint(fmt.Errorf("build %s: %w", ref, control.ErrNotFound), "see `pyrsia build list`")
	}
	build := published()
	build.Reference = "equal"
	return control.BuildDetail{Build: build, Inputs: 640, Verified: 12, Leaf: 1230, Outputs: []control.Output{{Name: jar, File: digest1, Reference: "equal", Members: []control.OutputVote{
		{Identity: alpha, File: digest1, Equal: true}, {Identity: gamma, Label: "gamma", File: digest2, Explain: "META-INF/MANIFEST.MF: byte 17"},
	}}}}, nil
}

func (f fixed) WatchBuild(ctx context.Context, ref string, send func(control.Build) error) error {
	end, err := f.Build(ctx, ref)
	if err != nil {
		return err
	}
	begin := end.Build
	begin.State, begin.Step, begin.Members = control.Building, "javac", votes(control.VoteBuilding, control.VoteCommitted, control.VoteNone)
	for _, b := range []control.Build{begin, begin, end.Build} {
		if err := send(b); err != nil {
			return err
		}
	}
	return nil
}

func (f fixed) BuildLogs(ctx context.Context, ref string, follow bool, w io.Writer) error {
	if _, err := f.Build(ctx, ref); err != nil {
		return err
	}
	fmt.Fprintln(w, "[INFO] BUILD SUCCESS")
	if follow {
		return fmt.Errorf("the log of %s has ended early: %w", ref, control.ErrUnavailable)
	}
	return nil
}

func (f fixed) Remains(ctx context.Context, ref string, w io.Writer) error {
	b, err := f.Build(ctx, ref)
	if err != nil {
		return err
	}
	if b.ID != "b1" {
		return fmt.Errorf("%w: this node has nothing that a failed build of %s left", control.ErrNotFound, b.ID)
	}
	z := gzip.NewWriter(w)
	t := tar.NewWriter(z)
	content := "Tests run: 3, Failures: 1\n"
	err = t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "target/surefire-reports/a\x1b.txt", Size: int64(len(content)), Mode: 0o644})
	if err == nil {
		_, err = io.WriteString(t, content)
	}
	return errors.Join(err, t.Close(), z.Close())
}

func (fixed) Recipes(context.Context) ([]control.Recipe, error) {
	return []control.Recipe{{Package: plexus, Hash: record.Hash{3}, State: "live", Leaf: 9, Endorsed: []record.Identity{alpha, beta}, Missing: []record.Identity{gamma}, File: "plexus.hcl"}}, nil
}

func (fixed) ResolveLock(_ context.Context, r *record.Recipe, progress func(string) error) (*record.Lock, error) {
	if err := progress("fetched 1 file for " + string(r.Package)); err != nil {
		return nil, err
	}
	return &record.Lock{Builder: []artifact.Descriptor{}, Recipe: r.Hash(), Entries: []record.LockEntry{{Kind: "maven", Path: "a/b.jar", Proof: record.ProofUpstream, File: digest1}}}, nil
}

func (f fixed) CancelBuild(ctx context.Context, ref string) error {
	if ref == "b1" {
		return fmt.Errorf("%w: build b1 has ended: it is published", control.ErrRefused)
	}
	_, err := f.Build(ctx, ref)
	return err
}

func (fixed) Workers(context.Context) ([]control.Worker, error) {
	return []control.Worker{
		{Address: "unix:///run/a.sock", State: "ready", Version: "v0.34.2", Running: 1, Cache: 5 << 30},
		{Address: "tcp://b.example:1234", State: "unreachable", Reason: "connection refused"},
	}, nil
}

func (fixed) TryRecipe(_ context.Context, r *record.Recipe, progress func(string) error) ([]control.Tried, error) {
	verdict := "equal"
	if strings.HasPrefix(r.Sources[0].URL, "https://folder.invalid/") {
		verdict = fmt.Sprintf("folder of %x", r.Sources[0].SHA256[:2])
	}
	if r.Commands[0] == "mvn -B verify" {
		verdict = "different"
	}
	return []control.Tried{{Name: jar, File: digest1, Reference: verdict}}, progress("building " + string(r.Package))
}

func (fixed) PutFile(_ context.Context, r io.Reader) (artifact.Descriptor, error) {
	data, err := io.ReadAll(r)
	return artifact.Descriptor{SHA256: sha256.Sum256(data), Size: int64(len(data))}, err
}

func (fixed) File(_ context.Context, digest artifact.SHA256, w io.Writer) error {
	_, err := io.WriteString(w, "content of "+digest.String())
	return err
}

func (f fixed) Inputs(ctx context.Context, ref string) ([]control.Input, error) {
	_, err := f.Build(ctx, ref)
	return []control.Input{
		{Kind: "maven", Path: "org/acme/plugin/1/plugin-1.jar", Role: "plugin", By: "org/acme/parent/1/parent-1.pom", Proof: record.ProofUpstream, File: digest1},
		{Kind: "maven", Path: "org/acme/parent/1/parent-1.pom", Role: "parent pom", Proof: record.ProofUpstream, File: digest2},
		{Kind: "image", Path: "sha256:ab", Role: "builder image", Proof: record.ProofChain, File: digest2},
		{Kind: "source", Path: "thing.zip", Role: "source", Proof: record.ProofSource, File: digest2},
	}, err
}

func (f fixed) Explain(ctx context.Context, lock *record.Lock) ([]control.Input, error) {
	if len(lock.Entries) != 1 {
		return nil, fmt.Errorf("a lock of %d files", len(lock.Entries))
	}
	return f.Inputs(ctx, "b1")
}

func (f fixed) Differences(ctx context.Context, ref string) ([]control.Difference, error) {
	if _, err := f.Build(ctx, ref); err != nil {
		return nil, err
	}
	side := func(name, content string) difference.Side {
		return difference.Side{Name: name, Content: strings.NewReader(content), Size: int64(len(content))}
	}
	report, err := difference.Compare(ctx, jar.File, side("this node", "one\ntwo\n"), side("gamma", "one\nthree\n"), difference.Limits{})
	return []control.Difference{
		{Output: jar, Against: "gamma", File: digest2, Report: report, Kept: digest1.SHA256},
		{Output: artifact.Name{Package: jar.Package, File: "lost.jar"}, Against: "gamma", Reason: "gamma's file could not be had: nobody has it"},
	}, err
}

func (fixed) Recipe(_ context.Context, ref string) (control.RecipeDetail, error) {
	if ref != plexus {
		return control.RecipeDetail{}, control.WithHint(fmt.Errorf("%w: no recipe %q here", control.ErrNotFound, ref), "`pyrsia recipe list` shows the recipes")
	}
	r, err := recipe.Load("../../../hcl/examples/recipes/plexus-archiver-4.10.2.hcl")
	return control.RecipeDetail{Recipe: control.Recipe{Package: plexus, State: "live"}, Content: r}, err
}

func (fixed) LogList(_ context.Context, from int64, count int) ([]control.LogEntry, error) {
	if from < 0 {
		from = 1234 + from
	}
	return []control.LogEntry{{Index: from, Height: 57, Type: record.TypePublish, Time: when, Summary: fmt.Sprintf("%s, one of %d", plexus, count)}}, nil
}

func (fixed) LogInspect(_ context.Context, ref string) ([]control.LogLeaf, error) {
	if ref != "1230" && ref != plexus {
		return nil, nil
	}
	return []control.LogLeaf{{LogEntry: control.LogEntry{Index: 1230, Height: 57, Type: record.TypePublish, Time: when, Summary: plexus},
		Hash: record.Hash{9}, Leaf: []byte(`{"body":{"attempt":"12"},"type":"publish","version":1}`), Statement: []byte(`{"subject":[]}`)}}, nil
}

func (fixed) LogProve(_ context.Context, ref string) ([]byte, error) {
	if ref != jar.String() {
		return nil, fmt.Errorf("no publication of %s: %w", ref, control.ErrNotFound)
	}
	return []byte("c2sp.org/tlog-proof@v1\n"), nil
}

func (fixed) Checkpoint(context.Context) (string, error) {
	return "acme/07\n1234\nAAAA\n\n— acme AAAA\n", nil
}

func (fixed) Sources(_ context.Context, ref string) ([]control.Artifact, error) {
	if ref != "" && ref != plexus {
		return nil, nil
	}
	return []control.Artifact{
		{Name: jar, File: digest1, Have: 230316, Verified: true, Sources: []control.Source{
			{Kind: control.SourcePeer, Identity: beta, Label: "beta", Bytes: 200000}, {Kind: control.SourcePeer, Identity: gamma, Bytes: 30316, Refused: 4096}}},
		{Name: artifact.Name{Package: plexus, File: "partial.zip"}, File: digest2, Have: 1024},
	}, nil
}

// publishFile makes FILE.proof: publish GENESIS FILE DATA….
func publishFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: publish GENESIS FILE DATA…")
	}
	genesis, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	var members []*identity.Keys
	for _, data := range args[2:] {
		keys, err := identity.Load(ts.MkAbs(data) + "/keys")
		ts.Check(err)
		members = append(members, keys)
	}
	slices.SortFunc(members, func(a, b *identity.Keys) int { return strings.Compare(string(a.Identity()), string(b.Identity())) })
	proof, err := prove(genesis, ts.MkAbs(args[1]), members)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1])+".proof", proof, 0o600))
}

// prove makes a log of two blocks, the second of which publishes the file.
func prove(genesis []byte, file string, members []*identity.Keys) ([]byte, error) {
	founding, set, err := record.OpenGenesis(genesis)
	if err != nil {
		return nil, err
	}
	descriptor, err := describe(file)
	if err != nil {
		return nil, err
	}
	network, attempt := record.Digest(genesis), record.Hash{1}
	statement, _, err := record.NewStatement(network, attempt, []record.Subject{record.NewSubject(jar, "", descriptor)})
	if err != nil {
		return nil, err
	}
	var attestations []record.Attestation
	for _, m := range members {
		a, err := record.SignAttestation(attempt, m.Identity(), record.Hash{2}, record.MustMarshal(statement), m.Signers().Vote)
		if err != nil {
			return nil, err
		}
		attestations = append(attestations, a)
	}
	envelope, reveals := record.NewEnvelope(attestations)
	header := func(height, size int64) record.Leaf {
		return &record.Header{Height: height, PreviousSize: size, Proposer: members[0].Identity(), Set: set.Hash(), NextSet: set.Hash(), Time: when.UnixMilli()}
	}
	leaves := [][]byte{genesis}
	for _, leaf := range []record.Leaf{header(0, 0), &record.PublishLeaf{Attempt: attempt, Envelope: envelope, Reveals: reveals}, header(1, 2)} {
		data, err := record.EncodeLeaf(leaf)
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, data)
	}
	return bundle(founding, set, network, leaves, members)
}

// bundle proves leaf 2 of the leaves.
func bundle(founding *record.Genesis, set *record.Set, network record.Hash, leaves [][]byte, members []*identity.Keys) ([]byte, error) {
	var hashes []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) (out []tlog.Hash, _ error) {
		for _, i := range indexes {
			out = append(out, hashes[i])
		}
		return out, nil
	})
	for i, leaf := range leaves {
		more, err := tlog.StoredHashes(int64(i), leaf, read)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, more...)
	}
	size := int64(len(leaves))
	root, err := tlog.TreeHash(size, read)
	if err != nil {
		return nil, err
	}
	signed := &record.SignedCheckpoint{Checkpoint: record.Checkpoint{Origin: record.Origin(founding.Name, network), Size: size, Root: record.Hash(root)}, Proposer: members[0].Identity()}
	if signed.LogSignature, err = record.SignLog(signed.Checkpoint, members[0].Signers().Log); err != nil {
		return nil, err
	}
	for _, m := range members[:set.Quorum()] {
		c, err := record.SignCosignature(signed.Checkpoint, m.Identity(), when.Unix(), m.Signers().Cosigner)
		if err != nil {
			return nil, err
		}
		signed.Cosignatures = append(signed.Cosignatures, c)
	}
	note, err := signed.Encode(founding.Name, set)
	if err != nil {
		return nil, err
	}
	proofs := make([][]record.Hash, size)
	for i := range size {
		path, err := tlog.ProveRecord(size, i, read)
		if err != nil {
			return nil, err
		}
		for _, h := range path {
			proofs[i] = append(proofs[i], record.Hash(h))
		}
	}
	last := record.ProvenLeaf{Index: 3, Leaf: leaves[3], Proof: proofs[3]}
	b := &record.Bundle{Index: 2, Proof: proofs[2], Note: note, Extra: record.BundleExtra{Files: []record.ProvenLeaf{}, Genesis: leaves[0], Header: last, Last: last, Leaf: leaves[2]}}
	return b.Encode(), nil
}

// TestWriteNew: an old file is never lost, and a failed write leaves nothing.
func TestWriteNew(t *testing.T) {
	folder := t.TempDir()
	if err := writeNew(folder+"/a", []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeNew(folder+"/a", []byte("2"), 0o600); err == nil {
		t.Error("overwritten")
	}
	if err := writeFile(folder+"/none/a", nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(folder); len(entries) != 1 {
		t.Errorf("%v", entries)
	}
}

func TestProgressed(t *testing.T) {
	for _, c := range []struct {
		done, all int64
		took      time.Duration
		want      string
	}{
		{0, 10, time.Minute, "0 of 10"},
		{100, 1000, time.Millisecond, "100 of 1000"},
		{100, 1000, 2 * time.Second, "100 of 1000, 50/s, about 18s left"},
		{1100, 1000, 2 * time.Second, "1100 of 1000, 550/s, about 0s left"},
	} {
		if got := progressed(c.done, c.all, c.took); got != c.want {
			t.Errorf("%d of %d in %s: %q, want %q", c.done, c.all, c.took, got, c.want)
		}
	}
}
