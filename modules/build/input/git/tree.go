package git

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/pyrsia/appliance/modules/artifact"
)

// Bounds of single objects, bytes.
const (
	maxCommit     = 8 << 20
	maxTree       = 64 << 20
	maxLinkTarget = 4096 // Linux' PATH_MAX
	maxHops       = 40   // links in links; Linux' MAXSYMLINKS
)

// kind is what an entry of a tree is.
type kind byte

const (
	folder kind = iota
	file
	executable
	link
	submodule
)

// entry is a name in a tree as git stores it.
type entry struct {
	name string
	kind kind
	hash plumbing.Hash
}

// place is a path of the whole tree.
type place struct {
	path   string
	kind   kind
	hash   plumbing.Hash
	target string // of a link
}

// parseCommit is the tree of a commit (its other lines do not matter here).
func parseCommit(data []byte) (plumbing.Hash, error) {
	line, _, ok := bytes.Cut(data, []byte("\n"))
	text, isTree := strings.CutPrefix(string(line), "tree ")
	if !ok || !isTree || !commitForm.MatchString(text) {
		return plumbing.ZeroHash, refused("it is no commit: it begins with %.60q", line)
	}
	return plumbing.NewHash(text), nil
}

// parseTree reads a tree: entries of a mode in octal, a blank, a name, NUL and a
// hash. It wants them in git's order, which is the order of the tar, and each
// name once.
func parseTree(data []byte, most int64) ([]entry, error) {
	var entries []entry
	seen := map[string]bool{}
	last := ""
	for len(data) > 0 {
		if int64(len(entries)) >= most {
			return nil, refused("the tree has more files than are allowed")
		}
		e, rest, err := parseEntry(data)
		if err != nil {
			return nil, err
		}
		data = rest
		key := e.name
		if e.kind == folder {
			key += "/"
		}
		if seen[e.name] || key <= last && last != "" {
			return nil, refused("a tree has %.80q twice or out of order", e.name)
		}
		seen[e.name], last = true, key
		entries = append(entries, e)
	}
	return entries, nil
}

func parseEntry(data []byte) (entry, []byte, error) {
	head, rest, ok := bytes.Cut(data, []byte{0})
	mode, name, parted := bytes.Cut(head, []byte(" "))
	if !ok || !parted || len(rest) < len(plumbing.ZeroHash) {
		return entry{}, nil, refused("a tree is broken at %.60q", data[:min(len(data), 60)])
	}
	k, err := parseMode(mode)
	if err != nil {
		return entry{}, nil, fmt.Errorf("%.80q: %w", name, err)
	}
	e := entry{name: string(name), kind: k, hash: plumbing.Hash(rest[:len(plumbing.ZeroHash)])}
	return e, rest[len(plumbing.ZeroHash):], checkName(e.name)
}

// parseMode reads a mode as git does: of a file only its owner's x counts. Old
// programs wrote 0100664 and 040000.
func parseMode(text []byte) (kind, error) {
	mode := 0
	for _, digit := range text {
		if digit < '0' || digit > '7' || len(text) > 7 {
			return 0, refused("mode %.20q", text)
		}
		mode = mode<<3 | int(digit-'0')
	}
	switch mode & 0o170000 {
	case 0o040000:
		return folder, nil
	case 0o120000:
		return link, nil
	case 0o160000:
		return submodule, nil
	case 0o100000:
		if mode&0o100 != 0 {
			return executable, nil
		}
		return file, nil
	}
	return 0, refused("mode %.20q is neither file, folder, link nor submodule", text)
}

func checkName(name string) error {
	if strings.Contains(name, "/") || strings.EqualFold(name, ".git") {
		return refused("a tree has a file of the name %.80q", name)
	}
	return nil
}

// walker lists the places of a tree.
type walker struct {
	from   objects
	limits bounds
	room   int64           // bytes that trees and files may still take
	filled map[string]bool // submodules that the recipe gets itself; those that were met are false
	places []place
	steps  int
}

func (w *walker) take(where string, size int64) error {
	if size < 0 || size > w.room {
		return refused("its files and trees have more than %d bytes, at %.200q", w.limits.bytes, where)
	}
	w.room -= size
	return nil
}

// walk lists everything below a folder, "" being the root.
func (w *walker) walk(ctx context.Context, tree plumbing.Hash, below string, depth int) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if depth > w.limits.depth {
		return refused("%.200q: its folders are more than %d deep", below, w.limits.depth)
	}
	data, err := content(w.from, tree, plumbing.TreeObject, maxTree)
	if err != nil {
		return err
	}
	if err := w.take(below, int64(len(data))); err != nil {
		return err
	}
	entries, err := parseTree(data, w.limits.entries-int64(len(w.places)))
	if err != nil {
		return fmt.Errorf("folder %.200q: %w", "/"+below, err)
	}
	for _, e := range entries {
		if err := w.add(ctx, e, path.Join(below, e.name), depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) add(ctx context.Context, e entry, at string, depth int) error {
	if err := artifact.CheckFile(at); err != nil {
		return refused("%w", err)
	}
	if int64(len(w.places)) >= w.limits.entries {
		return refused("it has more than %d files and folders", w.limits.entries)
	}
	p := place{path: at, kind: e.kind, hash: e.hash}
	switch e.kind {
	case submodule:
		if _, ok := w.filled[at]; !ok {
			return w.submodule(p)
		}
		w.filled[at], p.kind = false, folder
	case link:
		target, err := content(w.from, e.hash, plumbing.BlobObject, maxLinkTarget)
		if err != nil {
			return fmt.Errorf("link %.200q: %w", at, err)
		}
		if len(target) == 0 || bytes.IndexByte(target, 0) >= 0 {
			return refused("link %.200q has target %.200q", at, target)
		}
		p.target = string(target)
	}
	w.places = append(w.places, p)
	if e.kind == folder {
		return w.walk(ctx, e.hash, at, depth+1)
	}
	return nil
}

// submodule is the error for a submodule that nothing fills. The tree's own
// .gitmodules says what it is of, if it is there by now: it sorts first.
func (w *walker) submodule(p place) error {
	of := ""
	for _, other := range w.places {
		if other.path != modulesFile || other.kind != file {
			continue
		}
		if data, err := content(w.from, other.hash, plumbing.BlobObject, maxModules); err == nil {
			of = moduleURL(data, p.path)
		}
	}
	if of != "" {
		of = fmt.Sprintf(" of %.200q", of)
	}
	return refused("%.200q is a submodule, commit %s%s: name its repository as a source of its own with into = %q", p.path, p.hash, of, p.path)
}

// checkLinks refuses links that lead out of the tree. The lexical rule is not
// enough: where p/q leads to the root, p/q/.. is outside.
func (w *walker) checkLinks(ctx context.Context) error {
	links := map[string]string{}
	for _, p := range w.places {
		if p.kind == link {
			links[p.path] = p.target
		}
	}
	for _, p := range w.places {
		if p.kind != link {
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if w.leaves(links, p.path) {
			return refused("link %.200q leaves the tree with target %.200q", p.path, p.target)
		}
		if w.steps > w.limits.steps {
			return refused("link %.200q: the tree's links lead through each other too often", p.path)
		}
	}
	return nil
}

// leaves follows a link as Linux would. Where nothing is, or too many links are,
// it goes no further, and so not outside.
func (w *walker) leaves(links map[string]string, name string) bool {
	at, rest := "", []string{name} // rest is still to go, the last first
	for hops := 0; len(rest) > 0 && hops <= maxHops && len(at) <= maxLinkTarget && w.steps <= w.limits.steps; w.steps++ {
		segment, after, more := strings.Cut(rest[len(rest)-1], "/")
		rest = rest[:len(rest)-1]
		if more {
			rest = append(rest, after)
		}
		switch segment {
		case "", ".":
			continue
		case "..":
			if at == "" {
				return true
			}
			at = parent(at)
			continue
		}
		next := path.Join(at, segment)
		target, isLink := links[next]
		switch {
		case !isLink:
			at = next
		case path.IsAbs(target):
			return true
		default: // it begins in the folder that the link is in
			hops++
			rest = append(rest, target)
		}
	}
	return false
}

// parent is the folder of a path, "" being the root.
func parent(name string) string {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return ""
	}
	return name[:i]
}
