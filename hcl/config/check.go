package config

import (
	"fmt"
	"strings"
	"time"

	"github.com/pyrsia/appliance/modules/record"
)

// check reports what is wrong between settings. A setting that was not
// decoded has its own error; rules about it are left alone.
func (d *decoder) check() {
	d.checkRole()
	d.checkPeers()
	d.checkMirrors()
	d.checkDistribution()
	d.checkPaths()
}

func (d *decoder) origin(path string) Range { return d.config.origins[path] }

func (d *decoder) failed(path string) bool {
	for _, diag := range d.diags {
		if diag.Severity == Error && diag.Setting == path {
			return true
		}
	}
	return false
}

func (d *decoder) checkRole() {
	c := d.config
	if c.Role == RoleRegular && c.Build.Declared {
		d.report(Diagnostic{Severity: Warning, Setting: "role", Summary: "Build block on a regular node", Range: d.blocks["build"],
			Detail: "A regular node does not build, so that this block has no effect.", Fix: "set role = \"build\", or take the block out",
			Other: &Related{Text: "the role:", Range: d.origin("role")}})
	}
	if at := d.origin("build.workers"); c.Role == RoleBuild && len(c.Build.Workers) == 0 && !at.IsZero() && !d.failed("build.workers") {
		d.report(Diagnostic{Severity: Error, Setting: "build.workers", Summary: "Build node without workers", Range: at,
			Detail: "A build node needs a buildkitd to build with.", Fix: "leave the line out for " + defaultOf("build.workers") + ", or set role = \"regular\"",
			Other: &Related{Text: "the role:", Range: d.origin("role")}})
	}
	if at := d.origin("build.timeout"); !at.IsZero() && !d.failed("build.timeout") && c.Build.Timeout < minimumTimeout {
		d.fail("build.timeout", at, "Time too short", fmt.Sprintf("No build ends within %s.", FormatDuration(c.Build.Timeout)),
			fmt.Sprintf("allow at least %q", FormatDuration(minimumTimeout)))
	}
	if at := d.origin("build.memory"); !at.IsZero() && !d.failed("build.memory") && c.Build.Memory < minimumMemory {
		d.fail("build.memory", at, "Memory too small", fmt.Sprintf("No build runs in %s.", FormatSize(c.Build.Memory)),
			fmt.Sprintf("allow at least %q", FormatSize(minimumMemory)))
	}
	if at := d.origin("build.disk"); !at.IsZero() && !d.failed("build.disk") && c.Build.Disk < minimumDisk {
		d.fail("build.disk", at, "Disk too small", fmt.Sprintf("No build fits into %s.", FormatSize(c.Build.Disk)),
			fmt.Sprintf("allow at least %q", FormatSize(minimumDisk)))
	}
	if at := d.origin("build.cache"); !at.IsZero() && !d.failed("build.cache") && c.Build.Cache < minimumDisk {
		d.fail("build.cache", at, "Cache too small", fmt.Sprintf("A worker that keeps %s builds everything anew, and its builder images too.", FormatSize(c.Build.Cache)),
			fmt.Sprintf("allow at least %q", FormatSize(minimumDisk)))
	}
	if at := d.origin("build.keep"); !at.IsZero() && !d.failed("build.keep") && c.Build.Keep < minimumKeep {
		d.fail("build.keep", at, "Time too short", fmt.Sprintf("Within %s nobody has read the log of a build that failed.", FormatDuration(c.Build.Keep)),
			fmt.Sprintf("allow at least %q", FormatDuration(minimumKeep)))
	}
	if at := d.origin("network.max_age"); !at.IsZero() && !d.failed("network.max_age") && c.Network.MaxAge < minimumAge {
		d.fail("network.max_age", at, "Time too short",
			fmt.Sprintf("A quiet network writes a block every ten minutes, so that a checkpoint is often older than %s.", FormatDuration(c.Network.MaxAge)),
			fmt.Sprintf("allow at least %q", FormatDuration(minimumAge)))
	}
}

func (d *decoder) checkPeers() {
	seen := map[record.Identity]string{}
	for _, peer := range d.config.TrustedBuildPeers {
		path := "trusted_build_peer." + peer.Label
		if peer.ID == "" {
			continue
		}
		if other, twice := seen[peer.ID]; twice {
			d.report(Diagnostic{Severity: Error, Setting: path + ".id", Summary: "PeerID stands twice", Range: d.origin(path + ".id"),
				Detail: fmt.Sprintf("trusted_build_peer %q and %q are the same node.", other, peer.Label), Fix: "keep one of the blocks",
				Other: &Related{Text: "the first one:", Range: d.origin("trusted_build_peer." + other + ".id")}})
			continue
		}
		seen[peer.ID] = peer.Label
		for _, address := range peer.Addresses {
			_, id, has := strings.Cut(address, "/p2p/")
			if !has || strings.Contains(address, "/p2p-circuit") || id == string(peer.ID) {
				continue
			}
			d.report(Diagnostic{Severity: Error, Setting: path + ".addresses", Summary: "Address of another node", Range: d.origin(path + ".addresses"),
				Detail: fmt.Sprintf("%q ends with another PeerID than the id of trusted_build_peer %q.", address, peer.Label),
				Fix:    "leave out /p2p/… or correct the id", Other: &Related{Text: "the id:", Range: d.origin(path + ".id")}})
		}
	}
}

func (d *decoder) checkMirrors() {
	upstream := false
	for _, m := range d.config.Mirrors {
		path := "mirror." + m.Kind
		upstream = upstream || m.Upstream != ""
		if m.Unverified == Pass && m.Upstream == "" && !d.failed(path+".upstream") {
			d.fail(path+".unverified", d.origin(path+".unverified"), "Nowhere to pass to",
				fmt.Sprintf("mirror %q passes through what is not published, but has no upstream to fetch it from.", m.Kind),
				"add upstream = \"https://…\", or write \"refuse\"")
		}
	}
	if at := d.origin("role"); d.config.Role == RoleBuild && !upstream && len(d.diags) == 0 {
		d.warn("role", at, "Build node without an upstream",
			"No mirror block has an upstream, so that this node can prove the inputs of a build only by the log and will decline most builds.",
			"add mirror \"maven\" { upstream = \"https://…\" }")
	}
}

func (d *decoder) checkDistribution() {
	c := d.config.Distribution
	if at := d.origin("distribution.upload"); !at.IsZero() && !c.Share && c.Upload > 0 && !d.failed("distribution.share") {
		d.warn("distribution.upload", at, "Upload limit without sharing",
			"With share = false nothing is sent, so that the limit has no effect.", "take one of the two out")
	}
}

func (d *decoder) checkPaths() {
	c := d.config
	if c.Network.GenesisFile == c.Admin.Socket {
		d.fail("admin.socket", d.origin("admin.socket"), "One path for two things", "The control socket and the genesis file have the same path.", "choose another admin.socket")
	}
	if c.Build.Declared && !d.failed("build.recipes") && (c.Build.Recipes == c.Storage.Data || strings.HasPrefix(c.Build.Recipes, c.Keys())) {
		d.fail("build.recipes", d.origin("build.recipes"), "One folder for two things",
			fmt.Sprintf("Recipes in %s would lie among the node's own state.", c.Build.Recipes), "choose a folder of their own")
	}
}

// Limits that keep a typing error from making everything fail.
const (
	minimumTimeout = 10 * time.Second
	minimumDisk    = 1 << 30 // bytes: an unpacked builder image alone has half of it
	minimumKeep    = time.Hour
	minimumMemory  = 64 << 20         // bytes: less, and no shell starts under BuildKit
	minimumAge     = 11 * time.Minute // a heartbeat, and a minute for it to arrive
)

func defaultOf(path string) string {
	for _, s := range settings {
		if s.Path == path {
			return s.Default
		}
	}
	return ""
}

// CheckIdentity reports what is wrong for the node that has the identity: the
// file alone does not say whose it is.
func (c *Config) CheckIdentity(self record.Identity) Diagnostics {
	d := &decoder{file: c.File, source: c.source, config: c}
	for _, peer := range c.TrustedBuildPeers {
		if peer.ID != self {
			continue
		}
		d.warn("trusted_build_peer."+peer.Label+".id", d.origin("trusted_build_peer."+peer.Label+".id"), "Build peer is this node itself",
			fmt.Sprintf("trusted_build_peer %q is this node, which neither dials nor endorses itself.", peer.Label), "keep it only if several nodes share this file")
	}
	return d.diags
}

// maxGenesis bounds the genesis file in bytes.
const maxGenesis = record.MaxLeaf

// Genesis reads the genesis file and checks it: its SHA-256 must be the pin.
// The leaf's bytes and the decoded genesis are nil exactly if one of the
// diagnostics is an error.
func (c *Config) Genesis() ([]byte, *record.Genesis, Diagnostics) {
	d := &decoder{file: c.File, source: c.source, config: c}
	at := c.origins["network.genesis_file"]
	if at.IsZero() {
		at = c.origins["network.genesis"]
	}
	data, err := readFile(c.Network.GenesisFile, maxGenesis)
	if err != nil {
		d.fail("network.genesis_file", at, "Cannot read the genesis",
			fmt.Sprintf("Cannot read the genesis file %s: %s.", c.Network.GenesisFile, err), "copy it there from a node of the network, or from who ran `pyrsia network init`")
		return nil, nil, d.diags
	}
	genesis, err := CheckGenesis(data, c.Network.Genesis)
	if err != nil {
		d.fail("network.genesis", c.origins["network.genesis"], "Another genesis",
			fmt.Sprintf("The genesis file %s does not fit: %s.", c.Network.GenesisFile, err), "take the file and the line from the same network")
		return nil, nil, d.diags
	}
	if c.Network.Name != "" && c.Network.Name != genesis.Name {
		d.fail("network.name", c.origins["network.name"], "Another network",
			fmt.Sprintf("The genesis in %s is of the network %q.", c.Network.GenesisFile, genesis.Name), fmt.Sprintf("write name = %q, or take the other file", genesis.Name))
		return nil, nil, d.diags
	}
	return data, genesis, d.diags
}

// CheckGenesis decodes a genesis leaf whose SHA-256 must be the pin.
func CheckGenesis(data []byte, pin record.Hash) (*record.Genesis, error) {
	if got := record.Digest(data); got != pin {
		return nil, fmt.Errorf("its SHA-256 is %s, pinned is %s", got, pin)
	}
	genesis, _, err := record.OpenGenesis(data)
	return genesis, err
}
