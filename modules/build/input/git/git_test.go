package git

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	githash "github.com/go-git/go-git/v5/plumbing/hash"
	"github.com/pjbgf/sha1cd"
	"go.uber.org/goleak"

	"github.com/pyrsia/appliance/modules/build/input/git/gittest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// files of the small repository that most tests use.
var files = map[string]gittest.File{
	".gitattributes":  {Content: "*.txt eol=crlf export-subst\nskipped export-ignore\n"},
	"README.txt":      {Content: "one $Format:%H$\nline\r\n"},
	"a-b":             {Content: "before a/"},
	"a/deep/file":     {Content: "deep"},
	"a/link":          {Mode: gittest.Link, Content: "../bin/run"},
	"a.b":             {Content: "before a/, too"},
	"a0":              {Content: "after a/"},
	"bin/run":         {Mode: gittest.Executable, Content: "#!/bin/sh\n"},
	"empty":           {},
	"large.bin":       {Content: "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"},
	"legacy":          {Mode: "100664", Content: "group may write"},
	"skipped/café":    {Content: "a name that needs PAX"},
	"dangling":        {Mode: gittest.Link, Content: "nowhere/../none"},
	"loop":            {Mode: gittest.Link, Content: "loop"},
	"x/" + long(120):  {Content: "long name"},
	"x/.github/a.yml": {Content: "a"},
}

func long(n int) string { return strings.Repeat("n", n) }

// small has the history first -> second -> third; v1 is on second, v2 annotated
// on second, main on third.
type small struct {
	*gittest.Repository
	first, second, third string
}

func newSmall(t testing.TB) small {
	r := small{Repository: gittest.New(t)}
	r.first = r.Commit(r.Tree(map[string]gittest.File{"old": {Content: "old"}}))
	r.second = r.Commit(r.Tree(files), r.first)
	r.third = r.Commit(r.Tree(map[string]gittest.File{"new": {Content: "new"}}), r.second)
	r.Point("refs/heads/main", r.third)
	r.Point("refs/tags/v1", r.second)
	r.Annotated("v2", r.second)
	return r
}

func serve(t testing.TB, h http.Handler) (address string, options Options) {
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL + "/a/b.git", Options{Client: server.Client()}
}

// packAll packs a source and sees that nothing stays in the scratch folder.
func packAll(t testing.TB, s Source, options Options) (string, error) {
	t.Helper()
	scratch := t.TempDir()
	var b strings.Builder
	err := Pack(t.Context(), s, scratch, &b, options)
	if left, readErr := os.ReadDir(scratch); readErr != nil || len(left) > 0 {
		t.Errorf("scratch folder has %v after Pack (%v)", left, readErr)
	}
	return b.String(), err
}

func mustPack(t testing.TB, s Source, options Options) string {
	t.Helper()
	archive, err := packAll(t, s, options)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

func wantError(t testing.TB, err, class error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", texts)
	}
	if errors.Is(err, ErrRefused) == errors.Is(err, ErrUnavailable) || !errors.Is(err, class) {
		t.Errorf("%v: want it to wrap only %q", err, class)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q has no %q", err, text)
		}
	}
}

func listed(t testing.TB, archive string) (lines []string) {
	t.Helper()
	for r := tar.NewReader(strings.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.ModTime.Unix() != 0 {
			t.Errorf("%s is of %d:%d %q:%q at %v", h.Name, h.Uid, h.Gid, h.Uname, h.Gname, h.ModTime)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%c %o %s %s%q", h.Typeflag, h.Mode, h.Name, h.Linkname, content)))
	}
}

func TestPackIsTheTree(t *testing.T) {
	r := newSmall(t)
	address, options := serve(t, r)
	archive := mustPack(t, Source{URL: address, Tag: "v1", Commit: r.second}, options)
	want := []string{
		`0 644 .gitattributes "*.txt eol=crlf export-subst\nskipped export-ignore\n"`,
		`0 644 README.txt "one $Format:%H$\nline\r\n"`,
		`0 644 a-b "before a/"`,
		`0 644 a.b "before a/, too"`,
		`5 755 a/ ""`,
		`5 755 a/deep/ ""`,
		`0 644 a/deep/file "deep"`,
		`2 777 a/link ../bin/run""`,
		`0 644 a0 "after a/"`,
		`5 755 bin/ ""`,
		`0 755 bin/run "#!/bin/sh\n"`,
		`2 777 dangling nowhere/../none""`,
		`0 644 empty ""`,
		`0 644 large.bin "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"`,
		`0 644 legacy "group may write"`,
		`2 777 loop loop""`,
		`5 755 skipped/ ""`,
		`0 644 skipped/café "a name that needs PAX"`,
		`5 755 x/ ""`,
		`5 755 x/.github/ ""`,
		`0 644 x/.github/a.yml "a"`,
		`0 644 x/` + long(120) + ` "long name"`,
	}
	if found := listed(t, archive); !slices.Equal(found, want) {
		t.Errorf("packed\n%s\nwant\n%s", strings.Join(found, "\n"), strings.Join(want, "\n"))
	}
}

// The golden values hold what every node must come to for ever.
func TestPackGolden(t *testing.T) {
	const (
		commit = "5a4e016eb8c54df808492efb5f83bdf42684eca2"
		digest = "86b833b8b326a97105867b11d3cdb76ee7fde6419ac6ae024fe090c20fdb0c6b"
	)
	r := newSmall(t)
	if r.second != commit {
		t.Fatalf("the repository has commit %s, want %s", r.second, commit)
	}
	folder := filepath.Join(t.TempDir(), "saved.git")
	r.Save(folder)
	address, options := serve(t, r)
	bare := newSmall(t)
	bare.NoShallow, bare.NoSideband = true, true
	poor, poorOptions := serve(t, bare)
	for name, archive := range map[string]string{
		"by tag":         mustPack(t, Source{URL: address, Tag: "v2", Commit: commit}, options),
		"without tag":    mustPack(t, Source{URL: address, Commit: commit}, options),
		"whole history":  mustPack(t, Source{URL: poor, Tag: "v1", Commit: commit}, poorOptions),
		"own client":     mustPack(t, Source{URL: address, Commit: commit}, Options{}),
		"on the machine": mustPack(t, Source{URL: "file://" + folder, Commit: commit}, Options{Local: true}),
	} {
		if sum := sha256.Sum256([]byte(archive)); hex.EncodeToString(sum[:]) != digest {
			t.Errorf("%s: sha256 %x, want %s", name, sum, digest)
		}
	}
}

// Fetched is as little as the server gives.
func TestFetchesLittle(t *testing.T) {
	for _, test := range []struct {
		name string
		set  func(small)
		of   func(small) Source
		want func(small) []string
	}{
		{"a tag's commit alone", nil,
			func(r small) Source { return Source{Tag: "v1", Commit: r.second} },
			func(r small) []string { return []string{"1 [" + r.second + "]"} }},
		{"a commit that the server gives by its hash", func(r small) { r.AnyCommit = true },
			func(r small) Source { return Source{Commit: r.first} },
			func(r small) []string { return []string{"1 [" + r.first + "]"} }},
		{"the history of a branch, where nothing else helps", nil,
			func(r small) Source { return Source{Commit: r.first} },
			func(r small) []string { return []string{"0 "} }},
		{"the history of the tag, first", nil,
			func(r small) Source { return Source{Tag: "v1", Commit: r.first} },
			func(r small) []string { return []string{"0 [" + r.second + "]"} }},
		{"the tag was moved off the history, branches have the commit", func(r small) { r.Point("refs/tags/v1", r.Commit(r.Tree(map[string]gittest.File{"other": {}}))) },
			func(r small) Source { return Source{Tag: "v1", Commit: r.first} },
			func(r small) []string { return []string{"0 [", "0 ["} }},
		{"history is all there is", func(r small) { r.NoShallow = true },
			func(r small) Source { return Source{Tag: "v1", Commit: r.second} },
			func(r small) []string { return []string{"0 [" + r.second + "]"} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newSmall(t)
			if test.set != nil {
				test.set(r)
			}
			address, options := serve(t, r)
			s := test.of(r)
			s.URL = address
			mustPack(t, s, options)
			want, found := append([]string{"list"}, test.want(r)...), r.Asked()
			if len(found) != len(want) || !slices.EqualFunc(found, want, strings.HasPrefix) {
				t.Errorf("asked for %q, want %q", found, want)
			}
		})
	}
}

func TestFetchesAnnotatedTagByItself(t *testing.T) {
	r := gittest.New(t)
	first := r.Commit(r.Tree(map[string]gittest.File{"f": {Content: "1"}}))
	r.Point("refs/heads/main", r.Commit(r.Tree(map[string]gittest.File{"f": {Content: "2"}}), first))
	tag := r.Annotated("v1", first)
	address, options := serve(t, r)
	mustPack(t, Source{URL: address, Tag: "v1", Commit: first}, options)
	if want := []string{"list", "1 [" + tag + "]"}; !slices.Equal(r.Asked(), want) {
		t.Errorf("asked for %q, want %q", r.Asked(), want)
	}
}

func TestFind(t *testing.T) {
	r := newSmall(t)
	address, options := serve(t, r)
	folder := t.TempDir()
	r.Save(folder)
	for _, in := range []string{address, "file://" + folder} {
		options.Local = true
		for _, tag := range []string{"v1", "v2"} {
			if commit, err := Find(t.Context(), in, tag, options); err != nil || commit != r.second {
				t.Errorf("%s names %s (%v), want %s", tag, commit, err, r.second)
			}
		}
		_, err := Find(t.Context(), in, "v3", options)
		wantError(t, err, ErrUnavailable, `no tag "v3"`, in)
	}
	for _, asked := range r.Asked() {
		if asked != "list" {
			t.Errorf("Find asks for %q", asked)
		}
	}
	_, err := Find(t.Context(), address, "v1..v2", options)
	wantError(t, err, ErrRefused, "tag")
}

func TestCommitIsNotThere(t *testing.T) {
	const missing = "0123456789012345678901234567890123456789"
	for _, anyCommit := range []bool{false, true} {
		r := newSmall(t)
		r.AnyCommit = anyCommit
		address, options := serve(t, r)
		_, err := packAll(t, Source{URL: address, Commit: missing}, options)
		wantError(t, err, ErrUnavailable, missing, address, "no such commit")

		_, err = packAll(t, Source{URL: address, Tag: "v9", Commit: missing}, options)
		wantError(t, err, ErrUnavailable, missing, `no tag "v9"`)

		r.Point("refs/tags/v1", r.third)
		_, err = packAll(t, Source{URL: address, Tag: "v1", Commit: missing}, options)
		wantError(t, err, ErrUnavailable, "tag v1 of "+address+" names commit "+r.third+", the recipe says "+missing+": the tag was moved")

		folder := t.TempDir()
		r.Save(folder)
		_, err = packAll(t, Source{URL: "file://" + folder, Tag: "v1", Commit: missing}, Options{Local: true})
		wantError(t, err, ErrUnavailable, "the tag was moved")
	}
}

// What is no commit is refused, though its hash is right.
func TestCommitIsNone(t *testing.T) {
	r := newSmall(t)
	r.AnyCommit = true
	blob, tree := r.Blob("x"), r.Tree(files)
	bad := r.Object("commit", "parent "+r.first+"\n")
	address, options := serve(t, r)
	for hash, text := range map[string]string{blob: "is a blob", tree: "is a tree", bad: "no commit"} {
		_, err := packAll(t, Source{URL: address, Commit: hash}, options)
		wantError(t, err, ErrRefused, text)
	}
}

func TestEmptyRepository(t *testing.T) {
	address, options := serve(t, gittest.New(t))
	_, err := packAll(t, Source{URL: address, Commit: strings.Repeat("1", 40)}, options)
	wantError(t, err, ErrUnavailable, "the repository is empty")
	_, err = Find(t.Context(), address, "v1", options)
	wantError(t, err, ErrUnavailable, "the repository is empty")
	_, err = packAll(t, Source{URL: "file://" + t.TempDir(), Commit: strings.Repeat("1", 40)}, Options{Local: true})
	wantError(t, err, ErrUnavailable, "no repository")
}

func TestEmptyTree(t *testing.T) {
	r := gittest.New(t)
	commit := r.Commit(r.RawTree())
	r.Point("refs/heads/main", commit)
	address, options := serve(t, r)
	_, err := packAll(t, Source{URL: address, Commit: commit}, options)
	wantError(t, err, ErrRefused, "empty")
}

func TestSourceIsRefused(t *testing.T) {
	commit := strings.Repeat("a", 40)
	for _, test := range []struct {
		source Source
		text   string
	}{
		{Source{URL: "ssh://host.example/a", Commit: commit}, "want https://"},
		{Source{URL: "git@host.example:a/b", Commit: commit}, "want https://"},
		{Source{URL: "git://host.example/a", Commit: commit}, "want https://"},
		{Source{URL: "ext::sh -c true", Commit: commit}, "want https://"},
		{Source{URL: "/srv/git/a", Commit: commit}, "want https://"},
		{Source{URL: "https:///a", Commit: commit}, "want https://"},
		{Source{URL: "", Commit: commit}, "want https://"},
		{Source{URL: "file:///srv/git/a", Commit: commit}, "no use to other nodes"},
		{Source{URL: "https://joe:secret@host.example/a", Commit: commit}, "user name or password"},
		{Source{URL: "https://joe:secret@host.example/a\x00", Commit: commit}, "no URL"},
		{Source{URL: "https://host.example/a?x=y", Commit: commit}, "query"},
		{Source{URL: "https://host.example/a#x", Commit: commit}, "fragment"},
		{Source{URL: "https://host.example/" + long(3000), Commit: commit}, "bytes"},
		{Source{URL: "https://host.example/a", Commit: ""}, "40 lower-case"},
		{Source{URL: "https://host.example/a", Commit: commit[:7]}, "40 lower-case"},
		{Source{URL: "https://host.example/a", Commit: strings.ToUpper(commit)}, "40 lower-case"},
		{Source{URL: "https://host.example/a", Commit: "main"}, "40 lower-case"},
		{Source{URL: "https://host.example/a", Commit: strings.Repeat("a", 64)}, "SHA-256"},
		{Source{URL: "https://host.example/a", Commit: commit, Tag: "v 1"}, "tag"},
	} {
		_, err := packAll(t, test.source, Options{})
		wantError(t, err, ErrRefused, test.text)
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("error %q shows the password", err)
		}
	}
}

// Nothing of this machine's git matters: each of these would make git go
// elsewhere, ask a program for a password, or change bytes.
func TestNothingOfThisMachine(t *testing.T) {
	home := t.TempDir()
	config := "[url \"http://127.0.0.1:1/\"]\n\tinsteadOf = http://\n\tinsteadOf = file://\n" +
		"[credential]\n\thelper = \"!touch " + filepath.Join(home, "called") + "\"\n" +
		"[core]\n\tautocrlf = true\n\teol = crlf\n\tsshCommand = false\n[http]\n\tproxy = http://127.0.0.1:1\n" +
		"[filter \"lfs\"]\n\tsmudge = false\n[transfer]\n\tfsckObjects = true\n[broken\n"
	for _, name := range []string{".gitconfig", ".config/git/config", "system", ".netrc"} {
		at := filepath.Join(home, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := newSmall(t)
	address, options := serve(t, r)
	folder := t.TempDir()
	r.Save(folder)
	want := mustPack(t, Source{URL: address, Tag: "v1", Commit: r.second}, options)
	for name, value := range map[string]string{
		"HOME": home, "XDG_CONFIG_HOME": filepath.Join(home, ".config"), "GIT_CONFIG_SYSTEM": filepath.Join(home, "system"),
		"GIT_CONFIG_GLOBAL": filepath.Join(home, "system"), "GIT_DIR": home, "GIT_OBJECT_DIRECTORY": home, "GIT_ASKPASS": "false",
		"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "url.http://127.0.0.1:1/.insteadOf", "GIT_CONFIG_VALUE_0": "http://",
		"GIT_TRACE": filepath.Join(home, "called"), "GIT_EXEC_PATH": home, "PATH": "", "NETRC": filepath.Join(home, ".netrc"),
	} {
		t.Setenv(name, value)
	}
	if mustPack(t, Source{URL: address, Tag: "v1", Commit: r.second}, options) != want {
		t.Error("the machine's configuration changes the tar")
	}
	if mustPack(t, Source{URL: "file://" + folder, Commit: r.second}, Options{Local: true}) != want {
		t.Error("the machine's configuration changes the tar of a repository on it")
	}
	if commit, err := Find(t.Context(), address, "v2", options); err != nil || commit != r.second {
		t.Errorf("v2 names %s (%v), want %s", commit, err, r.second)
	}
	if _, err := os.Stat(filepath.Join(home, "called")); !os.IsNotExist(err) {
		t.Errorf("a program was called: %v", err)
	}
}

// The library's own hashes, by which it finds objects, are of the same kind as
// those that are checked here.
func TestHashNoticesAttacks(t *testing.T) {
	if _, ok := githash.New(crypto.SHA1).(sha1cd.CollisionResistantHash); !ok {
		t.Errorf("the library hashes with %T", githash.New(crypto.SHA1))
	}
}

func TestLargeFile(t *testing.T) {
	noise := make([]byte, 6<<20)
	state := uint32(1)
	for i := range noise {
		state = state*1664525 + 1013904223
		noise[i] = byte(state >> 24)
	}
	r := gittest.New(t)
	commit := r.Commit(r.Tree(map[string]gittest.File{"large": {Content: string(noise)}, "small": {Content: "s"}}))
	r.Point("refs/heads/main", commit)
	address, options := serve(t, r)
	archive := mustPack(t, Source{URL: address, Commit: commit}, options)
	if !strings.Contains(archive, string(noise)) {
		t.Error("the tar has other bytes")
	}
}

func TestDeltas(t *testing.T) {
	r := gittest.New(t)
	tree := map[string]gittest.File{}
	var base strings.Builder
	for i := range 400 {
		fmt.Fprintf(&base, "line %d of a file that hardly changes\n", i)
		tree[fmt.Sprintf("f%03d", i)] = gittest.File{Content: base.String()}
	}
	commit := r.Commit(r.Tree(tree))
	r.Point("refs/heads/main", commit)
	var pack bytes.Buffer
	r.Pack(&pack)
	address, options := serve(t, r)
	archive := mustPack(t, Source{URL: address, Commit: commit}, options)
	if pack.Len() > len(archive)/10 {
		t.Errorf("the packfile has %d bytes: it has no deltas", pack.Len())
	}
	for _, f := range tree {
		if !strings.Contains(archive, f.Content) {
			t.Fatal("the tar lacks a file's bytes")
		}
	}
}

func TestWriterFails(t *testing.T) {
	r := newSmall(t)
	address, options := serve(t, r)
	full := errors.New("no room")
	err := Pack(t.Context(), Source{URL: address, Commit: r.second}, t.TempDir(), failing{full}, options)
	wantError(t, err, ErrUnavailable)
	if !errors.Is(err, full) {
		t.Errorf("%v does not wrap the writer's error", err)
	}
	err = Pack(t.Context(), Source{URL: address, Commit: r.second}, filepath.Join(t.TempDir(), "none"), io.Discard, options)
	wantError(t, err, ErrUnavailable)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v does not wrap the folder's error", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// Cancelling ends Pack wherever it is: here while the tar is written.
func TestCancelWhilePacking(t *testing.T) {
	r := newSmall(t)
	address, options := serve(t, r)
	reason := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := Pack(ctx, Source{URL: address, Commit: r.second}, t.TempDir(), writerFunc(func(p []byte) (int, error) {
		cancel(reason)
		return len(p), nil
	}), options)
	wantError(t, err, ErrUnavailable, "stop")
	if !errors.Is(err, reason) {
		t.Errorf("%v does not wrap the context's cause", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
