package git

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/build/input/git/gittest"
)

func packRaw(t *testing.T, make func(*gittest.Repository) (tree string), change func(*bounds), submodules ...string) (string, error) {
	t.Helper()
	r := gittest.New(t)
	commit := r.Commit(make(r))
	r.Point("refs/heads/main", commit)
	address, options := serve(t, r)
	limits := usual
	if change != nil {
		change(&limits)
	}
	options.bounds = &limits
	return packAll(t, Source{URL: address, Commit: commit, Submodules: submodules}, options)
}

func TestEvilNames(t *testing.T) {
	for _, name := range []string{
		"..", ".", "", ".git", ".GIT", ".giT", "a\\b", "a\nb", "a\x7fb", "a\x01", "bad\xffutf8", "a/b", "../up", "/abs", long(1025),
	} {
		for _, mode := range []string{gittest.Regular, gittest.Folder, gittest.Link} {
			_, err := packRaw(t, func(r *gittest.Repository) string {
				content := r.Blob("x")
				if mode == gittest.Folder {
					content = r.Tree(map[string]gittest.File{"f": {}})
				}
				return r.RawTree(gittest.Entry{Mode: mode, Name: name, Hash: content})
			}, nil)
			wantError(t, err, ErrRefused)
		}
	}
	_, err := packRaw(t, func(r *gittest.Repository) string {
		return r.RawTree(gittest.Entry{Mode: gittest.Folder, Name: "sub", Hash: r.RawTree(gittest.Entry{Mode: gittest.Folder, Name: ".Git", Hash: r.Tree(files)})})
	}, nil)
	wantError(t, err, ErrRefused, ".Git", "/sub")
}

func TestEvilTrees(t *testing.T) {
	for name, test := range map[string]struct {
		entries func(blob, tree string) []gittest.Entry
		text    string
	}{
		"twice": {func(blob, tree string) []gittest.Entry {
			return []gittest.Entry{{Mode: gittest.Regular, Name: "a", Hash: blob}, {Mode: gittest.Regular, Name: "a", Hash: blob}}
		}, "twice"},
		"file and folder": {func(blob, tree string) []gittest.Entry {
			return []gittest.Entry{{Mode: gittest.Regular, Name: "a", Hash: blob}, {Mode: gittest.Regular, Name: "a-b", Hash: blob}, {Mode: gittest.Folder, Name: "a", Hash: tree}}
		}, "twice"},
		"link and folder": {func(blob, tree string) []gittest.Entry {
			return []gittest.Entry{{Mode: gittest.Link, Name: "a", Hash: blob}, {Mode: gittest.Folder, Name: "a", Hash: tree}}
		}, "twice"},
		"out of order": {func(blob, tree string) []gittest.Entry {
			return []gittest.Entry{{Mode: gittest.Regular, Name: "b", Hash: blob}, {Mode: gittest.Regular, Name: "a", Hash: blob}}
		}, "out of order"},
		"folder out of order": {func(blob, tree string) []gittest.Entry {
			return []gittest.Entry{{Mode: gittest.Folder, Name: "a", Hash: tree}, {Mode: gittest.Regular, Name: "a-b", Hash: blob}}
		}, "out of order"},
		"device": {func(blob, tree string) []gittest.Entry {
			return []gittest.Entry{{Mode: "20644", Name: "a", Hash: blob}}
		}, "neither file"},
		"no mode": {func(blob, tree string) []gittest.Entry {
			return []gittest.Entry{{Mode: "", Name: "a", Hash: blob}}
		}, "neither file"},
		"mode in decimal": {func(blob, tree string) []gittest.Entry {
			return []gittest.Entry{{Mode: "100684", Name: "a", Hash: blob}}
		}, "mode"},
		"mode too long": {func(blob, tree string) []gittest.Entry {
			return []gittest.Entry{{Mode: strings.Repeat("0", 40) + "100644", Name: "a", Hash: blob}}
		}, "mode"},
		"file that is a folder": {func(blob, tree string) []gittest.Entry {
			return []gittest.Entry{{Mode: gittest.Regular, Name: "a", Hash: tree}}
		}, "is a tree"},
		"folder that is a file": {func(blob, tree string) []gittest.Entry {
			return []gittest.Entry{{Mode: gittest.Folder, Name: "a", Hash: blob}}
		}, "is a blob"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := packRaw(t, func(r *gittest.Repository) string {
				return r.RawTree(test.entries(r.Blob("x"), r.Tree(map[string]gittest.File{"f": {}}))...)
			}, nil)
			wantError(t, err, ErrRefused, test.text)
		})
	}
}

func TestBrokenTree(t *testing.T) {
	for _, data := range []string{"100644", "100644 a", "100644 a\x00short", "\x00", " \x00", "100644 a\x00" + long(20) + "1"} {
		_, err := parseTree([]byte(data), 10)
		wantError(t, err, ErrRefused)
	}
}

func TestOldModes(t *testing.T) {
	archive, err := packRaw(t, func(r *gittest.Repository) string {
		x := r.Blob("x")
		return r.RawTree(
			gittest.Entry{Mode: "0100644", Name: "a", Hash: x}, gittest.Entry{Mode: "100600", Name: "b", Hash: x},
			gittest.Entry{Mode: "100775", Name: "c", Hash: x}, gittest.Entry{Mode: "104654", Name: "d", Hash: x},
			gittest.Entry{Mode: "040000", Name: "e", Hash: r.Tree(map[string]gittest.File{"f": {}})},
		)
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`0 644 a "x"`, `0 644 b "x"`, `0 755 c "x"`, `0 644 d "x"`, `5 755 e/ ""`, `0 644 e/f ""`}
	if found := listed(t, archive); !slices.Equal(found, want) {
		t.Errorf("packed %q, want %q", found, want)
	}
}

func TestLinks(t *testing.T) {
	link := func(target string) gittest.File { return gittest.File{Mode: gittest.Link, Content: target} }
	for name, test := range map[string]struct {
		files map[string]gittest.File
		bad   string // link that is refused; "" if all are good
	}{
		"to a neighbour":          {map[string]gittest.File{"a": link("b"), "b": {}}, ""},
		"to the root":             {map[string]gittest.File{"d/a": link("..")}, ""},
		"up and down":             {map[string]gittest.File{"d/e/a": link("../../d/e/../f")}, ""},
		"dangling":                {map[string]gittest.File{"a": link("no/such")}, ""},
		"loop":                    {map[string]gittest.File{"a": link("b"), "b": link("a")}, ""},
		"dots and blanks":         {map[string]gittest.File{"d/a": link(".././/./d/")}, ""},
		"absolute":                {map[string]gittest.File{"a": link("/etc/passwd")}, "a"},
		"slash":                   {map[string]gittest.File{"a": link("/")}, "a"},
		"up":                      {map[string]gittest.File{"a": link("..")}, "a"},
		"up from a folder":        {map[string]gittest.File{"d/a": link("../../x")}, "d/a"},
		"down and up":             {map[string]gittest.File{"a": link("d/../../x"), "d/f": {}}, "a"},
		"through nothing":         {map[string]gittest.File{"a": link("no/../../x")}, "a"},
		"through a link to root":  {map[string]gittest.File{"p/q/d": link("../.."), "a": link("p/q/d/../etc")}, "a"},
		"through two links":       {map[string]gittest.File{"p/q/d": link("../.."), "m": link("p/q/d"), "z": link("m/../x")}, "z"},
		"through a link sideways": {map[string]gittest.File{"p/d": link("../q/r"), "q/r/f": {}, "a": link("p/d/../../q")}, ""},
		"empty":                   {map[string]gittest.File{"a": link("")}, "a"},
		"NUL":                     {map[string]gittest.File{"a": link("b\x00c")}, "a"},
		"too long":                {map[string]gittest.File{"a": link(strings.Repeat("b/", 2049))}, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := packRaw(t, func(r *gittest.Repository) string { return r.Tree(test.files) }, nil)
			if test.bad != "" {
				wantError(t, err, ErrRefused, fmt.Sprintf("link %q", test.bad))
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSubmodules(t *testing.T) {
	const commit = "1111111111111111111111111111111111111111"
	make := func(r *gittest.Repository) string {
		return r.Tree(map[string]gittest.File{
			".gitmodules": {Content: "[submodule \"a\"]\n\tpath = other\n\turl = https://no.example/a\n[submodule \"x\"]\n\turl = \"https://host.example/x.git\"\n\tpath = lib/x\n"},
			"lib/x":       {Mode: gittest.Submodule, Content: commit},
			"f":           {Content: "f"},
		})
	}
	_, err := packRaw(t, make, nil)
	wantError(t, err, ErrRefused, `"lib/x" is a submodule, commit `+commit+` of "https://host.example/x.git"`, `name its repository as a source of its own with into = "lib/x"`)
	archive, err := packRaw(t, make, nil, "lib/x")
	if err != nil {
		t.Fatal(err)
	}
	if found := listed(t, archive)[2:]; !slices.Equal(found, []string{`5 755 lib/ ""`, `5 755 lib/x/ ""`}) {
		t.Errorf("packed %q", found)
	}
	for _, none := range []string{"f", "lib", "lib/y", "../x"} {
		_, err = packRaw(t, make, nil, "lib/x", none)
		wantError(t, err, ErrRefused, none, "no submodule")
	}
}

func TestBounds(t *testing.T) {
	tree := func(r *gittest.Repository) string {
		return r.Tree(map[string]gittest.File{"a/b/c/d": {Content: long(1000)}, "e": {Content: long(1000) + "e"}, "f": {Mode: gittest.Link, Content: "a/b/c"}})
	}
	for name, test := range map[string]struct {
		change func(*bounds)
		class  error
		text   string
	}{
		"list":    {func(b *bounds) { b.refs = 100 }, ErrUnavailable, "list of references has more than 100 bytes"},
		"pack":    {func(b *bounds) { b.pack = 100 }, ErrUnavailable, "sends more than 100 bytes"},
		"objects": {func(b *bounds) { b.objects = 3 }, ErrUnavailable, "at most 3 are allowed"},
		"stored":  {func(b *bounds) { b.stored = 1000 }, ErrUnavailable, "unpacks to more than 1000 bytes"},
		"object":  {func(b *bounds) { b.object = 999 }, ErrUnavailable, "at most 999 are allowed"},
		"entries": {func(b *bounds) { b.entries = 5 }, ErrRefused, "more than 5 files"},
		"bytes":   {func(b *bounds) { b.bytes = 2000 }, ErrRefused, "more than 2000 bytes"},
		"trees":   {func(b *bounds) { b.bytes = 100 }, ErrRefused, "more than 100 bytes"},
		"depth":   {func(b *bounds) { b.depth = 2 }, ErrRefused, "2 deep"},
		"steps":   {func(b *bounds) { b.steps = 1 }, ErrRefused, "too often"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := packRaw(t, tree, test.change)
			wantError(t, err, test.class, test.text)
		})
	}
	if _, err := packRaw(t, tree, func(b *bounds) { b.entries, b.depth, b.object = 6, 3, 1001 }); err != nil {
		t.Error(err)
	}
}

// A few trees that hold each other many times would be many files.
func TestTreeBomb(t *testing.T) {
	_, err := packRaw(t, func(r *gittest.Repository) string {
		mode, hash := gittest.Regular, r.Blob("x")
		for range 12 {
			var entries []gittest.Entry
			for i := range 10 {
				entries = append(entries, gittest.Entry{Mode: mode, Name: fmt.Sprint(i), Hash: hash})
			}
			mode, hash = gittest.Folder, r.RawTree(entries...)
		}
		return hash
	}, func(b *bounds) { b.entries = 2000 })
	wantError(t, err, ErrRefused, "more files than")
}

func FuzzParseTree(f *testing.F) {
	f.Add([]byte("100644 a\x00" + long(20) + "40000 b\x00" + long(20)))
	f.Add([]byte("120000 a\x00" + long(20)))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := parseTree(data, 100)
		if err != nil {
			return
		}
		size := 0
		for i, e := range entries {
			size += len(e.name) + 22
			if strings.Contains(e.name, "/") || strings.EqualFold(e.name, ".git") {
				t.Errorf("name %q", e.name)
			}
			if i > 0 && entries[i-1].name == e.name {
				t.Errorf("name %q twice", e.name)
			}
		}
		if size > len(data) {
			t.Errorf("%d entries of %d bytes", len(entries), len(data))
		}
	})
}

func FuzzModuleURL(f *testing.F) {
	f.Add([]byte("[submodule \"x\"]\n\tpath = lib/x\n\turl = u\n"), "lib/x")
	f.Fuzz(func(t *testing.T, data []byte, at string) {
		if found := moduleURL(data, at); !strings.Contains(string(data), found) {
			t.Errorf("found %q", found)
		}
	})
}
