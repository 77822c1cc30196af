package input

import (
	"encoding/xml"
	"io"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// Role is what a locked file is to a build.
type Role string

// The roles.
const (
	RoleSource     Role = "source"
	RoleImage      Role = "builder image"
	RoleDebian     Role = "debian package"
	RoleIndex      Role = "debian index"
	RolePlugin     Role = "plugin"
	RoleExtension  Role = "extension"
	RoleParent     Role = "parent pom"
	RoleBOM        Role = "imported pom" // a bill of materials
	RoleDependency Role = "dependency"
	RoleOther      Role = "asked for" // by the project itself, or by a plugin while it ran
)

// Use is one file of a lock, and why it is in it.
type Use struct {
	record.LockEntry
	Role Role
	By   string // path of the locked pom that names it; "" where none does
}

// Explain tells of each file of a lock what it is to the build. It goes by the locked
// poms that are at hand; what no pom names is RoleOther. The order is the lock's.
func (k *Keeper) Explain(lock *record.Lock) []Use {
	named := map[string]naming{}
	for _, e := range lock.Entries {
		if e.Kind == kindMaven && strings.HasSuffix(e.Path, ".pom") {
			k.names(e, named)
		}
	}
	uses := make([]Use, 0, len(lock.Entries))
	for _, e := range lock.Entries {
		u := Use{LockEntry: e, Role: roleOf(e)}
		if n, found := named[coordinatesOf(e)]; e.Kind == kindMaven && found {
			u.Role, u.By = n.role, n.by
		}
		uses = append(uses, u)
	}
	return uses
}

func roleOf(e record.LockEntry) Role {
	switch e.Proof {
	case record.ProofSource:
		return RoleSource
	case record.ProofDebian:
		return RoleDebian
	case record.ProofIndex, record.ProofInRelease:
		return RoleIndex
	}
	if e.Kind == kindImage {
		return RoleImage
	}
	return RoleOther
}

// coordinatesOf is "group:artifact" of a locked file.
func coordinatesOf(e record.LockEntry) string {
	name, err := artifact.MavenFolderName(e.Path)
	if err != nil {
		return ""
	}
	return name.Package.Namespace() + ":" + name.Package.Name()
}

// naming is who names an artifact, and as what.
type naming struct {
	role Role
	by   string
}

// weight orders the roles: what is a plugin of one pom and a dependency of another is
// shown as a plugin, since that is how its code gets to run.
var weight = map[Role]int{RoleExtension: 5, RolePlugin: 4, RoleParent: 3, RoleBOM: 2, RoleDependency: 1}

// gav is what we read of a reference in a pom.
type gav struct {
	Group    string `xml:"groupId"`
	Artifact string `xml:"artifactId"`
	Scope    string `xml:"scope"`

	Dependencies []gav `xml:"dependencies>dependency"` // of a plugin
}

type buildOf struct {
	Extensions []gav `xml:"extensions>extension"`
	Plugins    []gav `xml:"plugins>plugin"`
	Managed    []gav `xml:"pluginManagement>plugins>plugin"`
}

type profileOf struct {
	Dependencies []gav   `xml:"dependencies>dependency"`
	Managed      []gav   `xml:"dependencyManagement>dependencies>dependency"`
	Build        buildOf `xml:"build"`
}

type pomOf struct {
	profileOf
	Parent   gav         `xml:"parent"`
	Profiles []profileOf `xml:"profiles>profile"`
}

const maxPOM = 8 << 20

// names adds what a pom names. A pom that cannot be read names nothing: this is for
// people, and decides nothing.
func (k *Keeper) names(e record.LockEntry, named map[string]naming) {
	file, err := k.config.Store.Open(e.File.SHA256)
	if err != nil {
		return
	}
	defer file.Close()
	d := xml.NewDecoder(io.LimitReader(file, maxPOM))
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil } // names are ASCII
	var p pomOf
	if d.Decode(&p) != nil {
		return
	}
	note := func(role Role, refs ...gav) {
		for _, r := range refs {
			group := strings.TrimSpace(r.Group)
			if group == "" && (role == RolePlugin || role == RoleExtension) {
				group = "org.apache.maven.plugins" // a plugin's own default
			}
			key := group + ":" + strings.TrimSpace(r.Artifact)
			if old, known := named[key]; !known || weight[old.role] < weight[role] {
				named[key] = naming{role, e.Path}
			}
		}
	}
	note(RoleParent, p.Parent)
	for _, part := range append([]profileOf{p.profileOf}, p.Profiles...) {
		for _, plugin := range append(part.Build.Plugins, part.Build.Managed...) {
			note(RolePlugin, plugin)
			note(RoleDependency, plugin.Dependencies...)
		}
		note(RoleExtension, part.Build.Extensions...)
		note(RoleDependency, part.Dependencies...)
		for _, managed := range part.Managed {
			if strings.TrimSpace(managed.Scope) == "import" {
				note(RoleBOM, managed)
			}
		}
	}
}
