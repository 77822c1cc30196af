package debian

import (
	"compress/gzip"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
)

// Package is one paragraph of a Packages index. The relation fields go as
// written: most of an index is never looked at.
type Package struct {
	Name         string
	Version      string
	Architecture string
	Priority     string // "required", "important", "standard", "optional", "extra"
	Essential    bool
	PreDepends   string
	Depends      string
	Provides     string
	Conflicts    string
	Breaks       string
	File         string // path below the archive's root, "pool/main/…"
	Size         int64  // bytes
	SHA256       artifact.SHA256
}

// Index is the packages of one or more Packages files, by name: of each the
// newest version, as apt would take it.
type Index struct {
	architecture string
	packages     map[string]*Package
	providers    map[string][]*Package // virtual name → packages, in the order of reading
	files        map[string]*Package   // every package read, older versions too
}

// maxPackages bounds an index; Debian's main has some 70,000.
const maxPackages = 500_000

// NewIndex is an empty index for a Debian architecture such as "amd64".
func NewIndex(architecture string) *Index {
	return &Index{
		architecture: architecture,
		packages:     map[string]*Package{},
		providers:    map[string][]*Package{},
		files:        map[string]*Package{},
	}
}

// AddGzip reads a Packages.gz that unpacks to at most limit bytes.
func (x *Index) AddGzip(r io.Reader, limit int64) error {
	unpacked, err := gzip.NewReader(r)
	if err != nil {
		return fmt.Errorf("%w: Packages.gz: %w", ErrMalformed, err)
	}
	return x.Add(&bounded{r: unpacked, left: limit})
}

// Add reads a Packages file.
func (x *Index) Add(r io.Reader) error {
	err := eachParagraph(r, wanted, func(fields map[string]string) error {
		p, err := newPackage(fields)
		if err != nil {
			return err
		}
		return x.add(p)
	})
	if err != nil {
		return fmt.Errorf("Packages: %w", err)
	}
	return nil
}

func wanted(field string) bool {
	switch field {
	case "Package", "Version", "Architecture", "Priority", "Essential", "Pre-Depends", "Depends",
		"Provides", "Conflicts", "Breaks", "Filename", "Size", "SHA256":
		return true
	}
	return false
}

func newPackage(fields map[string]string) (*Package, error) {
	p := &Package{
		Name:         fields["Package"],
		Version:      fields["Version"],
		Architecture: fields["Architecture"],
		Priority:     fields["Priority"],
		Essential:    fields["Essential"] == "yes",
		PreDepends:   fields["Pre-Depends"],
		Depends:      fields["Depends"],
		Provides:     fields["Provides"],
		Conflicts:    fields["Conflicts"],
		Breaks:       fields["Breaks"],
		File:         strings.TrimPrefix(fields["Filename"], "./"),
	}
	if !namePattern.MatchString(p.Name) {
		return nil, fmt.Errorf("%w: package name %.80q", ErrMalformed, p.Name)
	}
	if !versionPattern.MatchString(p.Version) {
		return nil, fmt.Errorf("%w: %s: version %.80q", ErrMalformed, p.Name, p.Version)
	}
	if err := artifact.CheckFile(p.File); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrMalformed, p.Name, err)
	}
	var err error
	if p.Size, err = strconv.ParseInt(fields["Size"], 10, 64); err != nil || p.Size < 0 {
		return nil, fmt.Errorf("%w: %s: size %.40q", ErrMalformed, p.Name, fields["Size"])
	}
	if p.SHA256, err = artifact.ParseSHA256(fields["SHA256"]); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrMalformed, p.Name, err)
	}
	return p, nil
}

func (x *Index) add(p *Package) error {
	if p.Architecture != x.architecture && p.Architecture != "all" {
		return nil
	}
	if other, twice := x.files[p.File]; twice {
		if other.SHA256 != p.SHA256 {
			return fmt.Errorf("%w: two digests for %.200q", ErrMalformed, p.File)
		}
		return nil
	}
	if len(x.files) == maxPackages {
		return fmt.Errorf("%w: more than %d packages", ErrMalformed, maxPackages)
	}
	x.files[p.File] = p
	if old, found := x.packages[p.Name]; found && Compare(old.Version, p.Version) >= 0 {
		return nil
	}
	x.packages[p.Name] = p
	return x.provide(p)
}

// provide notes what the package provides. An older version of it that stood
// here before stays listed; candidates skips it.
func (x *Index) provide(p *Package) error {
	provides, err := ParseRelations(p.Provides)
	if err != nil {
		return fmt.Errorf("%s: Provides: %w", p.Name, err)
	}
	for _, clause := range provides {
		for _, relation := range clause {
			x.providers[relation.Name] = append(x.providers[relation.Name], p)
		}
	}
	return nil
}

// Len is the number of package names.
func (x *Index) Len() int { return len(x.packages) }

// Package is the newest version of the named package.
func (x *Index) Package(name string) (*Package, bool) {
	p, found := x.packages[name]
	return p, found
}

// File is the package whose .deb has the path below the archive's root.
func (x *Index) File(path string) (*Package, bool) {
	p, found := x.files[path]
	return p, found
}

// Architecture is Debian's name for a platform such as "linux/amd64".
func Architecture(platform string) (string, error) {
	switch platform {
	case "linux/amd64":
		return "amd64", nil
	case "linux/arm64":
		return "arm64", nil
	case "linux/arm/v7":
		return "armhf", nil
	case "linux/386":
		return "i386", nil
	case "linux/ppc64le":
		return "ppc64el", nil
	case "linux/riscv64":
		return "riscv64", nil
	case "linux/s390x":
		return "s390x", nil
	}
	return "", fmt.Errorf("%w: Debian has no architecture for platform %.40q", ErrMalformed, platform)
}

// bounded reads at most left bytes and fails beyond: what unpacks to more than
// its index says is no index of ours.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return 0, fmt.Errorf("%w: unpacks to more than announced", ErrMalformed)
	}
	return n, err
}
