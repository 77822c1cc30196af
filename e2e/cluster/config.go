package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// write writes every node's pyrsia.hcl and recipes.
func (c *Cluster) write() error {
	for _, n := range c.nodes {
		if err := os.MkdirAll(n.file(), 0o755); err != nil {
			return err
		}
		if err := writeFile(n.Config(), []byte(n.hcl())); err != nil {
			return err
		}
		if !n.Build {
			continue
		}
		if err := n.writeRecipes(); err != nil {
			return err
		}
	}
	return nil
}

// writeRecipes gives the node exactly the recipes of its folder.
func (n *Node) writeRecipes() error {
	folder := n.file("recipes.d")
	if err := errors.Join(os.RemoveAll(folder), os.MkdirAll(folder, 0o755)); err != nil {
		return err
	}
	if n.Recipes == "" {
		return nil
	}
	files, err := filepath.Glob(filepath.Join(n.Recipes, "*.hcl"))
	if err != nil {
		return err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(folder, filepath.Base(file)), data); err != nil {
			return err
		}
	}
	return nil
}

// hcl is the node's pyrsia.hcl.
func (n *Node) hcl() string {
	role := "regular"
	if n.Build {
		role = "build"
	}
	text := new(strings.Builder)
	fmt.Fprintf(text, "# Written by e2e/cluster; a change lasts until the cluster is made anew.\nrole = %q\n\n", role)
	fmt.Fprintf(text, "network {\n  genesis      = %q\n  genesis_file = %q\n  name         = %q\n  listen       = [%q]\n}\n\n",
		n.cluster.state.Genesis, n.cluster.file("genesis.json"), n.cluster.state.Network, n.address())
	for _, peer := range n.cluster.Builders() {
		fmt.Fprintf(text, "trusted_build_peer %q {\n  id        = %q\n  addresses = [%q]\n}\n\n", peer.Name, peer.identity, peer.address())
	}
	n.mirrors(text)
	upload := n.Upload
	if upload == "" {
		upload = "unlimited"
	}
	fmt.Fprintf(text, "distribution {\n  share  = %v\n  upload = %q\n}\n\n", n.Share, upload)
	if n.Build {
		workers := n.Workers
		if n.buildkitd != nil {
			workers = []string{n.buildkitd.Address()}
		}
		fmt.Fprintf(text, "build {\n  recipes = %q\n", n.file("recipes.d"))
		if len(workers) > 0 {
			fmt.Fprintf(text, "  workers = [%s]\n", quoted(workers))
		}
		fmt.Fprintf(text, "}\n\n")
	}
	fmt.Fprintf(text, "registry { listen = [%q] }\nstorage { data = %q }\nadmin { socket = %q }\nlog { level = %q }\n",
		n.registry(), n.Data(), n.Socket(), n.cluster.spec.Level)
	return text.String()
}

// mirrors writes the mirror blocks. A build node proves the inputs of builds by
// its upstreams, whatever it does for clients.
func (n *Node) mirrors(text *strings.Builder) {
	unverified := "refuse"
	if !n.Build {
		unverified = n.cluster.spec.Unverified
	}
	fmt.Fprintf(text, "mirror \"maven\" {\n")
	if len(n.Packages) > 0 {
		fmt.Fprintf(text, "  packages   = [%s]\n", quoted(n.Packages))
	}
	if n.Upstreams.Maven != "" {
		fmt.Fprintf(text, "  upstream   = %q\n  unverified = %q\n", n.Upstreams.Maven, unverified)
	}
	fmt.Fprintf(text, "}\n\n")
	if n.Build && n.Upstreams.Debian != "" {
		fmt.Fprintf(text, "mirror \"debian\" { upstream = %q }\n\n", n.Upstreams.Debian)
	}
	fmt.Fprintf(text, "mirror \"docker\" {}\n\n")
}

func quoted(values []string) string {
	all := make([]string, len(values))
	for i, v := range values {
		all[i] = strconv.Quote(v)
	}
	return strings.Join(all, ", ")
}
