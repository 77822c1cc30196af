package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pyrsia/appliance/modules/record"
)

// Reload says what a changed setting means for a running node.
type Reload string

// The classes of reload.
const (
	Live  Reload = "live"  // takes effect at reload, nothing is interrupted
	Roles Reload = "role"  // starts or stops the build modules
	Fixed Reload = "fixed" // refused while the node runs
)

// Setting is one attribute of pyrsia.hcl.
type Setting struct {
	Path     string // "distribution.quota"; in a labelled block "mirror.*.upstream"
	Type     string // what the value is, for people
	Unit     string // of the typed value, "" for none
	Default  string // as it would stand in the file; "" for none
	Derived  string // how the default comes about where it is no constant
	Required bool
	Doc      string
	Reload   Reload
	Secret   bool // never shown

	kind kind
	at   func(*scope) any // pointer to the field that gets the value
}

// Block is one block of pyrsia.hcl.
type Block struct {
	Name   string
	Label  string   // what the label is, "" for a block without one
	Labels []string // the labels there are, nil for any
	Doc    string
}

// scope is where a setting's value goes: the Config, and in a labelled block
// the block's own part.
type scope struct {
	*Config
	peer   *BuildPeer
	mirror *Mirror
}

// Blocks are all blocks in the order of the documentation.
func Blocks() []Block { return slices.Clone(blocks) }

// Settings are all settings in the order of the documentation.
func Settings() []Setting { return slices.Clone(settings) }

var blocks = []Block{
	{Name: "network", Doc: "The network that the node belongs to, and where it listens for peers."},
	{Name: "trusted_build_peer", Label: "a name of your choice", Doc: "A build node, by its PeerID. On every node: where to find it. On a build node also: \"I endorse it as a member\"."},
	{Name: "mirror", Label: "the ecosystem", Labels: []string{MirrorDocker, MirrorMaven, MirrorDebian}, Doc: "An ecosystem that the node serves to build tools, and fetches the inputs of builds from."},
	{Name: "distribution", Doc: "How the node takes part in moving artifacts between nodes."},
	{Name: "build", Doc: "How a build node builds. A regular node ignores it."},
	{Name: "registry", Doc: "The HTTP port that docker, Maven and other build tools use."},
	{Name: "storage", Doc: "Where the node keeps its state."},
	{Name: "admin", Doc: "How the node is controlled from the command line."},
	{Name: "metrics", Doc: "How the node is, for a monitoring system (docs/metrics.md). The control socket has it, too."},
	{Name: "log", Doc: "What the node writes about itself to standard error."},
}

// later are blocks of the design that this version does not know. They are
// errors: a node that silently ignored whom to trust less would be worse than
// one that does not start.
var later = map[string]string{
	"trust":              "narrowing trust to chosen builders",
	"revoke":             "endorsing a revocation",
	"removed_build_peer": "endorsing a member's removal",
	"upgrade":            "endorsing new rules",
	"system":             "the appliance's own network, keys and time",
}

var settings = []Setting{
	{
		Path: "role", kind: choice(RoleBuild, RoleRegular), Reload: Roles,
		Derived: "systemctl decides; started by hand, regular",
		Doc:     "What the node is. A build node builds, votes and does all that a regular node does.",
		at:      func(s *scope) any { return &s.Role },
	},
	{
		Path: "deny", kind: list(scalar("package URL or digest", parseDenied, Denied.String)), Default: `[]`, Reload: Live,
		Doc: "Package URLs and SHA-256 digests that this node refuses at once, whatever the log says. A package URL without a version denies all versions.",
		at:  func(s *scope) any { return &s.Deny },
	},
	{
		Path: "network.genesis", kind: scalar("sha256", parseGenesis, func(h record.Hash) string { return "sha256:" + h.String() }), Required: true, Reload: Fixed,
		Doc: "SHA-256 of the network's genesis leaf, \"sha256:<hex>\". It names the network: whoever has another one is in another network. `pyrsia network init` prints it.",
		at:  func(s *scope) any { return &s.Network.Genesis },
	},
	{
		Path: "network.genesis_file", kind: scalar("path", parsePath, asIs), Derived: "<storage.data>/genesis.json", Reload: Fixed,
		Doc: "The file with the genesis leaf. Its SHA-256 must be network.genesis.",
		at:  func(s *scope) any { return &s.Network.GenesisFile },
	},
	{
		Path: "network.name", kind: scalar("string", parseName, asIs), Derived: "any", Reload: Fixed,
		Doc: "The name that the genesis must have: a second look at the right file.",
		at:  func(s *scope) any { return &s.Network.Name },
	},
	{
		Path: "network.listen", kind: list(scalar("multiaddr", parseListen, asIs)), Reload: Live,
		Default: `["/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1"]`,
		Doc:     "Where the node listens for other nodes. [] listens nowhere: the node then only dials.",
		at:      func(s *scope) any { return &s.Network.Listen },
	},
	{
		Path: "network.checkpoint", kind: scalar("checkpoint", parseCheckpoint, (*record.Checkpoint).Body), Derived: "none", Reload: Live,
		Doc: "A state of the log that is known to be good: the first three lines of `pyrsia log checkpoint`. The node refuses a log that does not contain it.",
		at:  func(s *scope) any { return &s.Network.Checkpoint },
	},
	{
		Path: "network.max_age", kind: scalar("duration", ParseDuration, FormatDuration), Unit: "ns", Default: `"1h"`, Reload: Live,
		Doc: "How old the newest checkpoint may be. Beyond it the node goes on serving what it knows, marked as stale, and moves no tag.",
		at:  func(s *scope) any { return &s.Network.MaxAge },
	},
	{
		Path: "trusted_build_peer.*.id", kind: scalar("PeerID", parseIdentity, func(id record.Identity) string { return string(id) }), Required: true, Reload: Live,
		Doc: "The build node's PeerID: what `pyrsia id` prints there.",
		at:  func(s *scope) any { return &s.peer.ID },
	},
	{
		Path: "trusted_build_peer.*.addresses", kind: list(scalar("multiaddr", parseMultiaddr, asIs)), Default: `[]`, Reload: Live,
		Doc: "Where it can be dialled. Without any it is looked for on the LAN and through other nodes.",
		at:  func(s *scope) any { return &s.peer.Addresses },
	},
	{
		Path: "mirror.*.packages", kind: list(patterns), Default: `[]`, Reload: Live,
		Doc: "Packages to fetch ahead and keep. docker: \"library/debian:13-slim\", \"acme/app\", \"acme/*\"; maven: \"group:artifact:version\", \"group:artifact:*\", \"group:*\"; debian: \"curl\", \"curl=8.14.1-2\". Package URLs do, too.",
		at:  func(s *scope) any { return &s.mirror.Packages },
	},
	{
		Path: "mirror.*.upstream", kind: scalar("URL", parseURL, asIs), Derived: "none", Reload: Live,
		Doc: "The ordinary registry that serves this ecosystem. unverified = \"pass\" fetches from it, and a build node proves the inputs of builds by it.",
		at:  func(s *scope) any { return &s.mirror.Upstream },
	},
	{
		Path: "mirror.*.unverified", kind: choice(Refuse, Build, Pass), Default: `"refuse"`, Reload: Live,
		Doc: "What to do with what is not published: refuse it, refuse it now and ask for a build, or pass it through from the upstream, marked as unverified.",
		at:  func(s *scope) any { return &s.mirror.Unverified },
	},
	{
		Path: "distribution.share", kind: boolean, Default: `true`, Reload: Live,
		Doc: "Whether other nodes may fetch from this one. false serves nobody and announces nothing.",
		at:  func(s *scope) any { return &s.Distribution.Share },
	},
	{
		Path: "distribution.quota", kind: scalar("size", ParseSize, FormatSize), Unit: "bytes", Default: `"50GiB"`, Reload: Live,
		Doc: "How much of the disk the kept artifacts may take. When it is full, the least recently read ones go; declared packages and files in use stay.",
		at:  func(s *scope) any { return &s.Distribution.Quota },
	},
	{
		Path: "distribution.upload", kind: scalar("rate", ParseRate, FormatRate), Unit: "bytes/s", Default: `"unlimited"`, Reload: Live,
		Doc: "Upper limit for what is sent to other nodes, all together.",
		at:  func(s *scope) any { return &s.Distribution.Upload },
	},
	{
		Path: "distribution.download", kind: scalar("rate", ParseRate, FormatRate), Unit: "bytes/s", Default: `"unlimited"`, Reload: Live,
		Doc: "Upper limit for what is fetched from other nodes, all together.",
		at:  func(s *scope) any { return &s.Distribution.Download },
	},
	{
		Path: "build.recipes", kind: scalar("path", parsePath, asIs), Default: `"/etc/pyrsia/recipes.d"`, Reload: Live,
		Doc: "The folder of recipes. A build node endorses a recipe while its file is in there.",
		at:  func(s *scope) any { return &s.Build.Recipes },
	},
	{
		Path: "build.workers", kind: list(scalar("address", parseWorker, asIs)), Default: `["unix:///run/pyrsia/buildkitd.sock"]`, Reload: Live,
		Doc: "The buildkitd instances that run builds. Each should have no other user.",
		at:  func(s *scope) any { return &s.Build.Workers },
	},
	{
		Path: "build.parallel", kind: integer(1, 64), Unit: "builds", Default: `1`, Reload: Live,
		Doc: "How many builds run at once.",
		at:  func(s *scope) any { return &s.Build.Parallel },
	},
	{
		Path: "build.memory", kind: scalar("size", ParseSize, FormatSize), Unit: "bytes", Default: `"4GiB"`, Reload: Live,
		Doc: "Memory that one build may use at most, whatever its recipe allows.",
		at:  func(s *scope) any { return &s.Build.Memory },
	},
	{
		Path: "build.disk", kind: scalar("size", ParseSize, FormatSize), Unit: "bytes", Default: `"64GiB"`, Reload: Live,
		Doc: "Disk that the files of one step of a build may take at most, whatever its recipe allows.",
		at:  func(s *scope) any { return &s.Build.Disk },
	},
	{
		Path: "build.cpus", kind: integer(0, 1024), Unit: "processors", Default: `0`, Reload: Live,
		Doc: "Processors that one build may use at most, whatever its recipe allows; 0 is all.",
		at:  func(s *scope) any { return &s.Build.CPUs },
	},
	{
		Path: "build.processes", kind: integer(16, 1<<20), Unit: "processes", Default: `8192`, Reload: Live,
		Doc: "Processes and threads that one build may have at once, whatever its recipe allows.",
		at:  func(s *scope) any { return &s.Build.Processes },
	},
	{
		Path: "build.cache", kind: scalar("size", ParseSize, FormatSize), Unit: "bytes", Default: `"50GiB"`, Reload: Live,
		Doc: "What each worker keeps of earlier builds, to begin later ones sooner; the oldest goes first.",
		at:  func(s *scope) any { return &s.Build.Cache },
	},
	{
		Path: "build.keep", kind: scalar("duration", ParseDuration, FormatDuration), Unit: "ns", Default: `"30d"`, Reload: Live,
		Doc: "For how long the logs of builds stay, and the outputs of those that were not published.",
		at:  func(s *scope) any { return &s.Build.Keep },
	},
	{
		Path: "build.timeout", kind: scalar("duration", ParseDuration, FormatDuration), Unit: "ns", Default: `"2h"`, Reload: Live,
		Doc: "Time that one build may take at most, whatever its recipe allows.",
		at:  func(s *scope) any { return &s.Build.Timeout },
	},
	{
		Path: "registry.listen", kind: list(scalar("host:port", parseHostPort, asIs)), Default: `["127.0.0.1:7888"]`, Reload: Live,
		Doc: "Where the node listens for build tools. \"0.0.0.0:7888\" serves the whole LAN.",
		at:  func(s *scope) any { return &s.Registry.Listen },
	},
	{
		Path: "storage.data", kind: scalar("path", parsePath, asIs), Default: `"/var/lib/pyrsia"`, Reload: Fixed,
		Doc: "The folder with keys, votes, chain and artifacts. Keys and votes in it belong together: copy or restore neither alone.",
		at:  func(s *scope) any { return &s.Storage.Data },
	},
	{
		Path: "admin.socket", kind: scalar("path", parseSocket, asIs), Default: `"` + DefaultSocket + `"`, Reload: Fixed,
		Doc: "The Unix socket that the command line talks to. Only the node's own user can open it.",
		at:  func(s *scope) any { return &s.Admin.Socket },
	},
	{
		Path: "metrics.listen", kind: list(scalar("host:port", parseHostPort, asIs)), Default: `[]`, Reload: Live,
		Doc: "Where the node answers a monitoring system, at /metrics: everybody who reaches it, with numbers only. [] answers nowhere.",
		at:  func(s *scope) any { return &s.Metrics.Listen },
	},
	{
		Path: "log.level", kind: choice("debug", "info", "warn", "error"), Default: `"info"`, Reload: Live,
		Doc: "The least important messages to write.",
		at:  func(s *scope) any { return &s.Log.Level },
	},
	{
		Path: "log.format", kind: choice("text", "json"), Default: `"text"`, Reload: Live,
		Doc: "How messages are written. As text under systemd they are entries with fields in its journal.",
		at:  func(s *scope) any { return &s.Log.Format },
	},
}

func init() {
	for i := range settings {
		settings[i].Type = settings[i].kind.name
	}
}

// kind is a type of values: how its text is read and written.
type kind struct {
	name string
	elem *kind // of a list

	// shape is the HCL type that the value must have.
	shape shape
	// parse reads a value; label is the label of the block around it.
	parse func(label, text string) (any, error)
	// format writes a value as HCL.
	format func(any) string
}

type shape int

const (
	isString shape = iota
	isBool
	isNumber
	isList
)

func asIs(s string) string { return s }

func scalar[T any](name string, parse func(string) (T, error), format func(T) string) kind {
	return kind{
		name:   name,
		parse:  func(_, text string) (any, error) { return parse(text) },
		format: func(v any) string { return quote(format(v.(T))) },
	}
}

func choice[T ~string](values ...T) kind {
	names := make([]string, len(values))
	for i, v := range values {
		names[i] = strconv.Quote(string(v))
	}
	last := len(names) - 1
	name := strings.Join(names[:last], ", ") + " or " + names[last]
	return kind{
		name: name,
		parse: func(_, text string) (any, error) {
			if slices.Contains(values, T(text)) {
				return T(text), nil
			}
			all := make([]string, len(values))
			for i, v := range values {
				all[i] = string(v)
			}
			return nil, wrongf(didYouMean(text, all), "%.60q is none of the choices: want %s.", text, name)
		},
		format: func(v any) string { return quote(string(v.(T))) },
	}
}

var boolean = kind{
	name: "bool", shape: isBool,
	parse:  func(_, text string) (any, error) { return text == "true", nil },
	format: func(v any) string { return strconv.FormatBool(v.(bool)) },
}

func integer(low, high int64) kind {
	return kind{
		name: fmt.Sprintf("number from %d to %d", low, high), shape: isNumber,
		parse: func(_, text string) (any, error) {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil || n < low || n > high {
				return nil, wrongf("", "%.30s is out of range: want a whole number from %d to %d.", text, low, high)
			}
			return n, nil
		},
		format: func(v any) string { return strconv.FormatInt(v.(int64), 10) },
	}
}

func list(elem kind) kind {
	return kind{name: "list of " + elem.name, elem: &elem, shape: isList}
}

var patterns = kind{
	name:   "package pattern",
	parse:  func(label, text string) (any, error) { return ParsePattern(label, text) },
	format: func(v any) string { return quote(v.(Pattern).Text) },
}

// networkName is what record.OpenGenesis takes for a network's name.
var networkName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

func parseName(s string) (string, error) {
	if !networkName.MatchString(s) {
		return "", wrongf("write the name of `pyrsia network init`, such as \"acme\"", "%.80q is not a network name: want up to 63 lower-case letters, digits, dots and hyphens.", s)
	}
	return s, nil
}

// quote writes a text as an HCL string.
func quote(s string) string {
	s = strconv.Quote(s)
	s = strings.ReplaceAll(s, "${", "$${")
	return strings.ReplaceAll(s, "%{", "%%{")
}

// block is the name of the block that the setting is in, "" at the top.
func (s Setting) block() string {
	if cut := strings.Index(s.Path, "."); cut >= 0 {
		return s.Path[:cut]
	}
	return ""
}

// Name is the attribute's name in its block.
func (s Setting) Name() string { return s.Path[strings.LastIndex(s.Path, ".")+1:] }

// path is the setting's path in one block: with the label for the star.
func (s Setting) path(label string) string { return strings.Replace(s.Path, "*", label, 1) }

func settingsOf(block string) []Setting {
	var found []Setting
	for _, s := range settings {
		if s.block() == block {
			found = append(found, s)
		}
	}
	return found
}

func findBlock(name string) (Block, bool) {
	for _, b := range blocks {
		if b.Name == name {
			return b, true
		}
	}
	return Block{}, false
}
