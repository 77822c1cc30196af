package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/e2e/cluster"
	"github.com/pyrsia/appliance/modules/artifact"
)

// sameLog waits until all nodes have one and the same checkpoint. A heartbeat
// may come in between, so that they differ for a moment.
func (d *demo) sameLog(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var seen []string
	err := cluster.Until(ctx, func() (bool, error) {
		seen = nil
		same := true
		var first control.Status
		for i, n := range d.cluster.Nodes() {
			status, err := n.Status(ctx)
			if err != nil {
				return false, err
			}
			if i == 0 {
				first = status
			}
			same = same && status.Root == first.Root && status.Size == first.Size && status.Height == first.Height
			seen = append(seen, fmt.Sprintf("%s height %d, %d leaves, root %.12s…", n.Name, status.Height, status.Size, status.Root))
		}
		return same, nil
	})
	for _, line := range seen {
		d.out.say("%s", line)
	}
	if err != nil {
		return fmt.Errorf("the nodes' logs differ: %w", err)
	}
	return nil
}

func (d *demo) report(ctx context.Context) error {
	edge := d.cluster.Regular(0)
	client := edge.Client()
	defer client.Close()
	checkpoint, err := client.Checkpoint(ctx)
	if err != nil {
		return err
	}
	d.out.plain("\n" + strings.Repeat("─", 78) + "\n")
	for _, p := range []*published{d.image, d.library} {
		if err := d.reportPackage(ctx, client, p); err != nil {
			return err
		}
	}
	equal := "no"
	if d.facts.equalsUpstream {
		equal = "yes, byte for byte"
	}
	lines := strings.SplitN(checkpoint, "\n", 4)
	d.out.plain("\n")
	d.out.table([][]string{
		{"network", d.cluster.Genesis()},
		{"checkpoint", fmt.Sprintf("size %s, root %s, on all %d nodes", lines[1], lines[2], len(d.cluster.Nodes()))},
		{"jar equals the released one", equal},
		{"Maven got", fmt.Sprintf("%d files verified, %d marked as unverified", d.facts.verified, d.facts.unverified)},
		{"docker run", d.facts.java},
		{"all of this took", strings.TrimSpace(elapsed(d.out.began))},
	})
	d.out.plain(d.next())
	return nil
}

// reportPackage writes who made what of a package, and whence the regular
// node has it.
func (d *demo) reportPackage(ctx context.Context, client *control.Client, p *published) error {
	b := p.build
	d.out.plain(fmt.Sprintf("\n%s\nblock %d, leaf %d, attempt %d, %d locked inputs, %d of them vouched for by the log\n\n",
		b.Package, b.Height, b.Leaf, b.Attempt, b.Inputs, b.Verified))
	rows := [][]string{{"NODE", "VOTE", "RESULT"}}
	for _, o := range b.Outputs {
		rows[0] = append(rows[0], fileName(o.Name.File))
	}
	for _, v := range b.Members {
		row := []string{v.Label, v.Vote, v.Digest}
		for _, o := range b.Outputs {
			row = append(row, memberDigest(o, v))
		}
		rows = append(rows, row)
	}
	d.out.table(rows)
	sources, err := client.Sources(ctx, string(b.Package))
	if err != nil {
		return err
	}
	rows = [][]string{{"FETCHED BY edge", "BYTES", "FROM"}}
	for _, s := range sources {
		var from []string
		for _, source := range s.Sources {
			text := fmt.Sprintf("%s %s %d", source.Kind, source.Label, source.Bytes)
			if source.Refused > 0 {
				text += fmt.Sprintf(" (%d refused)", source.Refused)
			}
			from = append(from, text)
		}
		rows = append(rows, []string{fileName(s.Name.File), fmt.Sprint(s.Have), strings.Join(from, ", ")})
	}
	d.out.plain("\n")
	d.out.table(rows)
	return nil
}

// memberDigest is a node's digest of an output.
func memberDigest(o control.Output, v control.Vote) string {
	for _, m := range o.Members {
		if m.Identity == v.Identity {
			return digits(m.File.SHA256)
		}
	}
	return "–"
}

func digits(digest artifact.SHA256) string { return digest.String()[:16] }

// fileName keeps the name of a layer or configuration, which is its digest,
// narrow.
func fileName(name string) string {
	if strings.HasPrefix(name, "sha256:") {
		return name[:len("sha256:")+12] + "…"
	}
	return name
}

// next are lines to try next.
func (d *demo) next() string {
	edge, alpha := d.cluster.Regular(0), d.cluster.Node(0)
	return fmt.Sprintf(`
The network goes on: three build nodes, and the regular node at %[1]s.
Try next:

  curl -sI http://%[1]s/maven2/org/codehaus/plexus/plexus-archiver/4.10.2/%[2]s
  curl -s  http://%[1]s/log/checkpoint
  %[3]s --socket %[4]s status
  %[3]s --socket %[5]s build status %[6]s
  %[3]s --socket %[4]s log list
  %[3]s verify %[7]s/%[2]s --genesis %[8]s
  DOCKER_HOST=unix://%[7]s/docker/docker.sock docker run --rm --network none %[9]s mvn -version

`+"`make demo-stop` ends it, `make demo-clean` removes all of it.\n", entrance, libraryJar, d.spec.Pyrsia, edge.Socket(), alpha.Socket(), libraryPackage, d.folder, d.cluster.Genesis(), image)
}
