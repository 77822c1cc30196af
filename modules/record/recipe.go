package record

import (
	"fmt"
	"sort"
	"time"
	_ "time/tzdata" // zones are checked alike on machines without tzdata

	"github.com/pyrsia/appliance/modules/artifact"
)

// Recipe says how a package is made from source. Its canonical JSON is what
// members endorse; hcl/recipe decodes the file that people write.
type Recipe struct {
	Package     artifact.PURL `json:"package"`     // whose recipe this is; pkg:docker with the tag as version
	Platform    string        `json:"platform"`    // "linux/amd64"
	Builder     artifact.PURL `json:"builder"`     // image that the commands run in, by tag; "" for the Debian bootstrap
	Sources     []Source      `json:"sources"`     // unpacked into the working folder, in order
	Debian      []Debian      `json:"debian"`      // Debian packages to make the root of; at most one
	Commands    []string      `json:"commands"`    // each a line for /bin/sh -eu
	Environment Environment   `json:"environment"` // of every command
	Resolve     string        `json:"resolve"`     // how the asker finds inputs: "maven" or ""
	Outputs     []Output      `json:"outputs"`     // files to publish; empty for an image
	Images      []Image       `json:"images"`      // the image to publish; at most one
	Timestamp   int64         `json:"timestamp"`   // SOURCE_DATE_EPOCH, seconds since 1970
	Limits      Limits        `json:"limits"`
	Supersedes  string        `json:"supersedes"` // hash of the recipe this one replaces, or ""
}

// Source is an archive to build from, or the tree of a commit. Exactly one of Maven,
// URL and Git is set.
type Source struct {
	Maven      string          `json:"maven"`                // "group:artifact:version:classifier:extension"
	URL        string          `json:"url"`                  // where else the archive is
	Git        string          `json:"git,omitempty"`        // address of a repository
	Tag        string          `json:"tag,omitempty"`        // by which people know the commit, and a repository that hides commits finds it
	Commit     string          `json:"commit,omitempty"`     // of Git: 40 or 64 lower-case hexadecimal digits
	Submodules []string        `json:"submodules,omitempty"` // of Git: folders that other sources fill, sorted
	SHA256     artifact.SHA256 `json:"sha256"`               // of the archive; of a commit, of its tree packed by the rule of modules/build/input/git
	Into       string          `json:"into"`                 // folder to unpack into, absolute; "" is the working folder
	Strip      int64           `json:"strip"`                // leading path segments to drop
	Newline    string          `json:"newline,omitempty"`    // NewlineCRLF: each line of a text file ends as on Windows
}

// NewlineCRLF is how a line ends in a release that was made on Windows. The other end
// of a line is "", the plain line feed.
const NewlineCRLF = "crlf"

// Debian are packages of a Debian suite, verified from its signed InRelease.
type Debian struct {
	Suite      string   `json:"suite"`
	Components []string `json:"components"`
	Packages   []string `json:"packages"`  // sorted; the essential ones are always in
	Keys       []string `json:"keys"`      // fingerprints (upper-case hex) of the archive keys trusted to sign
	BaseOf     []string `json:"bootstrap"` // packages unpacked to run the bootstrap itself
	Variant    string   `json:"variant"`   // mmdebstrap's variant, such as "apt"
}

// Environment is what a command sees.
type Environment struct {
	Locale    string   `json:"locale"`
	TimeZone  string   `json:"timeZone"`
	Umask     string   `json:"umask"`             // octal, "022"
	Variables []string `json:"variables"`         // "NAME=value", sorted
	WorkDir   string   `json:"workDir"`           // absolute
	Newline   string   `json:"newline,omitempty"` // NewlineCRLF: what Java takes for the end of a line
}

// IsTimeZone tells whether a name is one of the IANA database's own. What machines have
// beside those ("localtime", "posix/…", "right/…") means something else on each of them.
func IsTimeZone(name string) bool {
	if name == "" || name[0] < 'A' || name[0] > 'Z' || name == time.Local.String() {
		return false
	}
	_, err := time.LoadLocation(name)
	return err == nil
}

// Output is a file to publish; or a family of files, whose name ends with a star
// (artifact.Name.Family): every file that the commands leave in the folder Path,
// under its own name, which begins like the family's.
type Output struct {
	File    string        `json:"file"`    // its published name
	Package artifact.PURL `json:"package"` // the package it belongs to
	Path    string        `json:"path"`    // where the commands leave it, relative to the working folder

	// Reference is the digest, "sha256:…" or "sha512:…", of the file that upstream
	// published under this name; "" where none is known. It is compared and told, and
	// no condition of publishing.
	Reference string `json:"reference,omitempty"`
}

// Image is the container image to publish: manifest, configuration, layers.
type Image struct {
	Command   []string `json:"command"`
	Variables []string `json:"variables"` // "NAME=value"
	WorkDir   string   `json:"workDir"`
}

// Limits bound a build.
type Limits struct {
	Disk    int64 `json:"disk"`    // bytes
	Memory  int64 `json:"memory"`  // bytes
	Seconds int64 `json:"seconds"` // of wall clock

	CPUs      int64 `json:"cpus,omitempty"`      // thousandths of a processor; 0 is no limit
	Processes int64 `json:"processes,omitempty"` // at once, threads counted; 0 is the engine's own limit
}

// ManifestFile is the file name under which an image's manifest is published.
const ManifestFile = "manifest"

// Hash is the hash by which attempts name the recipe.
func (r *Recipe) Hash() Hash { return Digest(MustMarshal(r)) }

// Files are the names that the recipe publishes, sorted.
func (r *Recipe) Files() []artifact.Name {
	names := []artifact.Name{}
	for _, o := range r.Outputs {
		names = append(names, artifact.Name{Package: o.Package, File: o.File})
	}
	if len(r.Images) > 0 {
		names = append(names, artifact.Name{Package: r.Package, File: ManifestFile})
	}
	sort.Slice(names, func(i, j int) bool { return names[i].String() < names[j].String() })
	return names
}

// Change is the change that puts the recipe on the chain.
func (r *Recipe) Change() RecipeChange {
	return RecipeChange{Files: r.Files(), Package: r.Package, Recipe: MustMarshal(r), Supersedes: r.Supersedes}
}

// DecodeRecipe reads a recipe from its canonical JSON.
func DecodeRecipe(data []byte) (*Recipe, error) {
	r := new(Recipe)
	if err := Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("recipe: %w", err)
	}
	return r, nil
}

// ProofKind says how a node gets and proves a locked file by itself.
type ProofKind string

// The proofs of a lock entry (docs/protocol.md, "Locks").
const (
	// ProofUpstream: the node gets the path from its own configured upstream.
	ProofUpstream ProofKind = "upstream"
	// ProofDebian: a .deb that the locked Packages index names.
	ProofDebian ProofKind = "debian"
	// ProofInRelease: a signed InRelease file, travelling along as Content's
	// digest through peers, verified by the recipe's key fingerprints.
	ProofInRelease ProofKind = "inrelease"
	// ProofIndex: a Packages index that the locked InRelease names.
	ProofIndex ProofKind = "index"
	// ProofChain: a file that the chain already vouches for.
	ProofChain ProofKind = "chain"
	// ProofSource: a source archive that the recipe names by digest.
	ProofSource ProofKind = "source"
	// ProofDerived: computed from the other entries by a fixed rule.
	ProofDerived ProofKind = "derived"
)

// LockEntry is one input file of a build.
type LockEntry struct {
	Kind  string              `json:"kind"` // "maven", "debian", "image", "source"
	Path  string              `json:"path"` // in the kind's repository layout
	Proof ProofKind           `json:"proof"`
	File  artifact.Descriptor `json:"file"`
}

// Lock is every input of an attempt. Entries are sorted by kind and path.
type Lock struct {
	Builder []artifact.Descriptor `json:"builder"` // manifest of the builder image that was live; empty for the Debian bootstrap
	Entries []LockEntry           `json:"entries"`
	Recipe  Hash                  `json:"recipe"`
}

// DecodeLock reads a lock from its canonical JSON and checks its order.
func DecodeLock(data []byte) (*Lock, error) {
	l := new(Lock)
	if err := Unmarshal(data, l); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for i := range l.Entries {
		if i > 0 && !l.Entries[i-1].before(l.Entries[i]) {
			return nil, fmt.Errorf("lock: %w: entry %q is out of order or twice", ErrMalformed, l.Entries[i].Path)
		}
		if err := artifact.CheckFile(l.Entries[i].Path); err != nil {
			return nil, fmt.Errorf("lock: %w: %w", ErrMalformed, err)
		}
		if l.Entries[i].File.Size < 0 {
			return nil, fmt.Errorf("lock: %w: entry %q has a negative size", ErrMalformed, l.Entries[i].Path)
		}
	}
	return l, nil
}

// Sort puts the entries in the lock's order.
func (l *Lock) Sort() {
	sort.Slice(l.Entries, func(i, j int) bool { return l.Entries[i].before(l.Entries[j]) })
}

func (e LockEntry) before(other LockEntry) bool {
	if e.Kind != other.Kind {
		return e.Kind < other.Kind
	}
	return e.Path < other.Path
}
