// Package gittest is a git repository in memory with a server of its own, for
// tests: objects are made one by one, the wrong ones too, and what the server
// allows is chosen.
package gittest

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/memory"
)

// Modes of entries, as git writes them.
const (
	Regular    = "100644"
	Executable = "100755"
	Link       = "120000"
	Folder     = "40000"
	Submodule  = "160000"
)

// File is a file of a tree; Mode "" is Regular. Of a submodule Content is the
// commit.
type File struct{ Mode, Content string }

// Entry is an entry of a tree as it stands there.
type Entry struct{ Mode, Name, Hash string }

// Repository is an http.Handler that serves it at every path, by smart HTTP. Its
// members may be set before it serves.
type Repository struct {
	AnyCommit  bool // a commit is given by its hash, wherever it is
	NoShallow  bool // only whole histories are given
	NoSideband bool // the packfile is sent bare
	// Forget are objects that a packfile leaves out.
	Forget []string

	t        testing.TB
	mu       sync.Mutex
	storage  *memory.Storage
	children map[plumbing.Hash][]plumbing.Hash // without history
	parents  map[plumbing.Hash][]plumbing.Hash
	peeled   map[plumbing.Hash]plumbing.Hash
	asked    []string
}

// New is an empty repository.
func New(t testing.TB) *Repository {
	return &Repository{
		t: t, storage: memory.NewStorage(), children: map[plumbing.Hash][]plumbing.Hash{},
		parents: map[plumbing.Hash][]plumbing.Hash{}, peeled: map[plumbing.Hash]plumbing.Hash{},
	}
}

// Object adds an object of a type, "blob" for example, and is its hash.
func (r *Repository) Object(kind, content string) string {
	r.t.Helper()
	typ, err := plumbing.ParseObjectType(kind)
	if err != nil {
		r.t.Fatal(err)
	}
	o := r.storage.NewEncodedObject()
	o.SetType(typ)
	w, err := o.Writer()
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	h, err := r.storage.SetEncodedObject(o)
	if err != nil {
		r.t.Fatal(err)
	}
	return h.String()
}

// Blob adds a file's content.
func (r *Repository) Blob(content string) string { return r.Object("blob", content) }

// RawTree adds a tree with the entries as they are.
func (r *Repository) RawTree(entries ...Entry) string {
	var b strings.Builder
	var children []plumbing.Hash
	for _, e := range entries {
		h := plumbing.NewHash(e.Hash)
		fmt.Fprintf(&b, "%s %s\x00%s", e.Mode, e.Name, h[:])
		if e.Mode != Submodule {
			children = append(children, h)
		}
	}
	return r.link(r.Object("tree", b.String()), children)
}

func (r *Repository) link(hash string, children []plumbing.Hash) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.children[plumbing.NewHash(hash)] = children
	return hash
}

// Tree adds the trees of files, by path.
func (r *Repository) Tree(files map[string]File) string {
	folders := map[string]map[string]File{}
	var entries []Entry
	for name, f := range files {
		if first, rest, nested := strings.Cut(name, "/"); nested {
			if folders[first] == nil {
				folders[first] = map[string]File{}
			}
			folders[first][rest] = f
			continue
		}
		e := Entry{Mode: f.Mode, Name: name}
		if e.Mode == "" {
			e.Mode = Regular
		}
		if e.Hash = f.Content; e.Mode != Submodule {
			e.Hash = r.Blob(f.Content)
		}
		entries = append(entries, e)
	}
	for name, files := range folders {
		entries = append(entries, Entry{Folder, name, r.Tree(files)})
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(key(a), key(b)) })
	return r.RawTree(entries...)
}

func key(e Entry) string {
	if e.Mode == Folder {
		return e.Name + "/"
	}
	return e.Name
}

const person = "A <a@a.example> 1700000000 +0000\n"

// Commit adds a commit of a tree.
func (r *Repository) Commit(tree string, parents ...string) string {
	text := "tree " + tree + "\n"
	var before []plumbing.Hash
	for _, p := range parents {
		text += "parent " + p + "\n"
		before = append(before, plumbing.NewHash(p))
	}
	h := r.Object("commit", text+"author "+person+"committer "+person+"\nA commit.\n")
	r.link(h, []plumbing.Hash{plumbing.NewHash(tree)})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parents[plumbing.NewHash(h)] = before
	return h
}

// Annotated adds an annotated tag and points refs/tags/<name> to it.
func (r *Repository) Annotated(name, commit string) string {
	h := r.Object("tag", "object "+commit+"\ntype commit\ntag "+name+"\ntagger "+person+"\nA tag.\n")
	r.link(h, []plumbing.Hash{plumbing.NewHash(commit)})
	r.mu.Lock()
	r.peeled[plumbing.NewHash(h)] = plumbing.NewHash(commit)
	r.mu.Unlock()
	r.Point("refs/tags/"+name, h)
	return h
}

// Point makes a reference name an object.
func (r *Repository) Point(reference, hash string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.storage.SetReference(plumbing.NewReferenceFromStrings(reference, hash)); err != nil {
		r.t.Fatal(err)
	}
}

// Asked are the requests so far: "list", or "<depth> <wanted hashes>".
func (r *Repository) Asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

// Save writes a bare repository into a folder.
func (r *Repository) Save(folder string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	disk := filesystem.NewStorage(osfs.New(folder), cache.NewObjectLRUDefault())
	if err := disk.Init(); err != nil {
		r.t.Fatal(err)
	}
	for _, o := range r.storage.Objects {
		if _, err := disk.SetEncodedObject(o); err != nil {
			r.t.Fatal(err)
		}
	}
	for _, reference := range r.storage.ReferenceStorage {
		if err := disk.SetReference(reference); err != nil {
			r.t.Fatal(err)
		}
	}
}

// ServeHTTP is git-http-backend(1), for fetching.
func (r *Repository) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	switch path.Base(request.URL.Path) {
	case "refs":
		r.asked = append(r.asked, "list")
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		err = r.list(w)
	case "git-upload-pack":
		w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
		err = r.upload(w, request.Body)
	default:
		http.NotFound(w, request)
	}
	if err != nil {
		panic(http.ErrAbortHandler) // the client went away, or is to be told that something is wrong
	}
}

func (r *Repository) list(w io.Writer) error {
	refs := packp.NewAdvRefs()
	refs.Prefix = [][]byte{[]byte("# service=git-upload-pack\n"), pktline.Flush}
	for c, has := range map[capability.Capability]bool{
		capability.OFSDelta: true, capability.NoProgress: true, capability.Shallow: !r.NoShallow, capability.Sideband64k: !r.NoSideband,
		capability.AllowTipSHA1InWant: r.AnyCommit, capability.AllowReachableSHA1InWant: r.AnyCommit,
	} {
		if has {
			if err := refs.Capabilities.Set(c); err != nil {
				return err
			}
		}
	}
	for name, reference := range r.storage.ReferenceStorage {
		refs.References[name.String()] = reference.Hash()
		if peeled, ok := r.peeled[reference.Hash()]; ok {
			refs.Peeled[name.String()] = peeled
		}
	}
	return refs.Encode(w)
}

func (r *Repository) upload(w io.Writer, body io.Reader) error {
	request := packp.NewUploadPackRequest()
	if err := request.UploadRequest.Decode(body); err != nil {
		return err
	}
	r.asked = append(r.asked, fmt.Sprint(request.Depth, " ", request.Wants))
	for _, want := range request.Wants {
		if !r.gives(want) {
			return pktline.NewEncoder(w).Encodef("ERR upload-pack: not our ref %s\n", want)
		}
	}
	deep := request.Depth.IsZero()
	found, cut := r.reach(request.Wants, deep)
	if !deep {
		if err := (&packp.ShallowUpdate{Shallows: cut}).Encode(w); err != nil {
			return err
		}
	}
	if err := (&packp.ServerResponse{}).Encode(w, false); err != nil {
		return err
	}
	if !request.Capabilities.Supports(capability.Sideband64k) {
		_, err := packfile.NewEncoder(w, r.storage, false).Encode(found, 10)
		return err
	}
	mux := sideband.NewMuxer(sideband.Sideband64k, w)
	if _, err := packfile.NewEncoder(mux, r.storage, false).Encode(found, 10); err != nil {
		return err
	}
	return pktline.NewEncoder(w).Flush()
}

func (r *Repository) gives(want plumbing.Hash) bool {
	for _, reference := range r.storage.ReferenceStorage {
		if reference.Hash() == want {
			return true
		}
	}
	return r.AnyCommit && r.storage.HasEncodedObject(want) == nil
}

// reach is what belongs to the wanted objects, and the commits whose parents do
// not.
func (r *Repository) reach(wants []plumbing.Hash, deep bool) (found, cut []plumbing.Hash) {
	seen := map[plumbing.Hash]bool{}
	for _, forgotten := range r.Forget {
		seen[plumbing.NewHash(forgotten)] = true
	}
	for rest := slices.Clone(wants); len(rest) > 0; {
		h := rest[len(rest)-1]
		rest = rest[:len(rest)-1]
		if seen[h] {
			continue
		}
		seen[h], found = true, append(found, h)
		rest = append(rest, r.children[h]...)
		if deep {
			rest = append(rest, r.parents[h]...)
		} else if len(r.parents[h]) > 0 {
			cut = append(cut, h)
		}
	}
	return found, cut
}

// Pack is a packfile of some of the repository's objects; all if there are none.
func (r *Repository) Pack(w io.Writer, hashes ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []plumbing.Hash
	for _, h := range hashes {
		found = append(found, plumbing.NewHash(h))
	}
	if len(found) == 0 {
		found = slices.Collect(maps.Keys(r.storage.Objects))
		plumbing.HashesSort(found)
	}
	if _, err := packfile.NewEncoder(w, r.storage, false).Encode(found, 10); err != nil {
		r.t.Fatal(err)
	}
}
