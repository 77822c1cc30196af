// Package config is pyrsia.hcl: the file in which an operator says what a node
// is and does.
//
// HCL stops here. Parse reads the file in two passes: HashiCorp's parser makes
// the syntax tree, and one table of settings (table.go) says which names,
// types, units and defaults there are. The same table makes the reference
// documentation and `pyrsia config schema`, so that none of the three can
// drift from the others. gohcl is not used: it turns quota = 50 into a string,
// lets equal labels pass and hides errors behind other errors.
//
// All problems of a file are told at once, each with its place, the lines that
// hold it and what to write instead. A file with an error yields no Config.
package config

import (
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// DefaultFile is where pyrsia.hcl is looked for.
const DefaultFile = "/etc/pyrsia/pyrsia.hcl"

// DefaultSocket is where a node answers its command line unless admin.socket says
// otherwise.
const DefaultSocket = "/run/pyrsia/control.sock"

// Role is what a node is.
type Role string

// The roles. RoleUnset leaves the choice to systemctl; a node that is started
// by hand is then a regular one.
const (
	RoleUnset   Role = ""
	RoleBuild   Role = "build"
	RoleRegular Role = "regular"
)

// Unverified is what a mirror does with what the log does not vouch for.
type Unverified string

// The policies of a mirror.
const (
	Refuse Unverified = "refuse" // 404
	Build  Unverified = "build"  // 404 now, and ask for a build
	Pass   Unverified = "pass"   // fetch from the upstream, marked as unverified
)

// Config is a whole and checked pyrsia.hcl with every default filled in.
// Nothing changes it after Parse, so it may be shared.
type Config struct {
	File string // path it was read from

	Role              Role
	Deny              []Denied
	Network           Network
	TrustedBuildPeers []BuildPeer // in the order of the file
	Mirrors           []Mirror    // in the order of the file, one of each kind
	Distribution      Distribution
	Build             BuildLimits
	Registry          Registry
	Storage           Storage
	Admin             Admin
	Metrics           Metrics
	Log               Log

	source  []byte
	reads   []string         // files that values were read from
	origins map[string]Range // of the values that stand in the file, by path
	// secrets are the expressions of values that a credential is part of, by path:
	// they are shown in place of the values.
	secrets map[string]string
}

// Network is the network that the node belongs to.
type Network struct {
	Genesis     record.Hash        // SHA-256 of the genesis leaf's bytes
	GenesisFile string             // where the genesis leaf is
	Name        string             // the genesis must have it; "" for any
	Listen      []string           // multiaddrs
	Checkpoint  *record.Checkpoint // that the log must contain; nil for none
	MaxAge      time.Duration
}

// BuildPeer is a build node that the operator trusts.
type BuildPeer struct {
	Label     string
	ID        record.Identity
	Addresses []string // multiaddrs
}

// Mirror is one ecosystem that the node serves to clients.
type Mirror struct {
	Kind       string    // MirrorDocker, MirrorMaven or MirrorDebian
	Packages   []Pattern // fetched ahead and pinned
	Upstream   string    // URL, "" for none
	Unverified Unverified
}

// The kinds of mirrors.
const (
	MirrorDocker = "docker"
	MirrorMaven  = "maven"
	MirrorDebian = "debian"
)

// Denied is something that the node refuses whatever the log says. Exactly one
// of its fields is set.
type Denied struct {
	Package artifact.PURL   // with a version, or all versions without one
	Digest  artifact.SHA256 // of a file
}

// Distribution is how the node takes part in moving bytes.
type Distribution struct {
	Share    bool
	Quota    int64 // bytes
	Upload   int64 // bytes/s, 0 for no limit
	Download int64 // bytes/s, 0 for no limit
}

// BuildLimits is how a build node builds.
type BuildLimits struct {
	Declared  bool          // a build block stands in the file
	Recipes   string        // folder
	Workers   []string      // addresses of buildkitd
	Parallel  int64         // builds at once
	Memory    int64         // bytes for one build at most
	Disk      int64         // bytes of files of one build at most
	CPUs      int64         // processors for one build at most; 0 is all
	Cache     int64         // bytes that each worker keeps of earlier builds
	Processes int64         // of one build at once
	Keep      time.Duration // of logs, and of outputs that were not published
	Timeout   time.Duration
}

// Registry is the HTTP port for build tools.
type Registry struct {
	Listen []string // host:port
}

// Storage is where the node keeps its state.
type Storage struct {
	Data string // folder
}

// Admin is how the node is controlled.
type Admin struct {
	Socket string // path
}

// Metrics is where the node answers a monitoring system.
type Metrics struct {
	Listen []string // host:port
}

// Log is what the node writes about itself.
type Log struct {
	Level  string // "debug", "info", "warn", "error"
	Format string // "text", "json"
}

// Source is the text that the configuration was read from.
func (c *Config) Source() []byte { return c.source }

// Reads are the files that values of the source were read from, by file().
func (c *Config) Reads() []string { return c.reads }

// Keys is the folder of the node's keys and vote file.
func (c *Config) Keys() string { return c.Storage.Data + "/keys" }

// Mirror is the mirror block of a kind.
func (c *Config) Mirror(kind string) (*Mirror, bool) {
	for i := range c.Mirrors {
		if c.Mirrors[i].Kind == kind {
			return &c.Mirrors[i], true
		}
	}
	return nil, false
}

// Label is the label of the trusted_build_peer block with an identity, "" if
// there is none.
func (c *Config) Label(id record.Identity) string {
	for _, peer := range c.TrustedBuildPeers {
		if peer.ID == id {
			return peer.Label
		}
	}
	return ""
}
