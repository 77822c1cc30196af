package main

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pyrsia/appliance/modules/record"
	"github.com/spf13/cobra"
)

func networkCommand(a *app) *cobra.Command {
	return group("network", "Found a network", "  pyrsia network init acme --node alpha.json --node beta.json --node gamma.json --node delta.json",
		networkInitCommand(a))
}

// The timeouts of a new network, in milliseconds: for build nodes on several
// continents. They bound how long a silent proposer holds a block up and say
// nothing about how fast a block can be.
var timeouts = record.Timeouts{
	Heartbeat: (10 * time.Minute).Milliseconds(),
	Propose:   (3 * time.Second).Milliseconds(),
	Step:      (1 * time.Second).Milliseconds(),
	Vote:      (1 * time.Second).Milliseconds(),
}

func networkInitCommand(a *app) *cobra.Command {
	var nodes []string
	var order, output string
	var small bool
	cmd := &cobra.Command{
		Use:   "init NAME",
		Short: "Found a network: write its genesis from the founders' node records",
		Long: `Found a network: write its genesis from the node records that every founding
build node's operator printed with ` + "`pyrsia id --record`" + `.

Each node then gets the genesis file and the line for its pyrsia.hcl. The hash in
that line is the network: whoever has the same line is in the same network.

--order says how many members must agree on what comes next. What is true is
always decided by more than half of all members. "two-thirds" makes a fork of
the log need more liars, and lets fewer members be down.`,
		Example: `  pyrsia network init acme --node alpha.json --node beta.json --node gamma.json --node delta.json
  pyrsia network init acme --order two-thirds --node … -o genesis.json`,
		Args: exactly("NAME"),
		RunE: func(_ *cobra.Command, args []string) error {
			if order != record.OrderMajority && order != record.OrderTwoThirds {
				return fmt.Errorf("--order %q: want %q or %q", order, record.OrderMajority, record.OrderTwoThirds)
			}
			records, err := readNodes(nodes)
			if err != nil {
				return err
			}
			if len(records) < 3 && !small {
				return fmt.Errorf("%s given, too few: with less than 3 a majority is everybody; give --node at least 3 times, or --allow-small to try things out", plural(len(records), "node"))
			}
			return a.found(args[0], records, order, output)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&nodes, "node", nil, "a founding build node's record `FILE`; give it once for each node")
	flags.StringVar(&order, "order", record.OrderMajority, "the order quorum: majority or two-thirds")
	flags.StringVarP(&output, "output", "o", "genesis.json", "write the genesis to this `FILE`")
	flags.BoolVar(&small, "allow-small", false, "allow fewer than 3 nodes")
	return cmd
}

// maxRecord bounds a node record in bytes.
const maxRecord = 16 << 10

// readNodes reads and verifies the records, sorted by identity.
func readNodes(files []string) ([]record.NodeRecord, error) {
	if len(files) == 0 {
		return nil, errors.New("no founding nodes; give --node FILE for each, made by `pyrsia id --record` there")
	}
	from := map[record.Identity]string{}
	records := make([]record.NodeRecord, 0, len(files))
	for _, file := range files {
		data, err := readSmall(file, maxRecord)
		if err != nil {
			return nil, err
		}
		var node record.NodeRecord
		if err := record.Unmarshal(bytes.TrimSpace(data), &node); err != nil {
			return nil, fmt.Errorf("%s is not a node record (%w); make it by `pyrsia id --record`", file, err)
		}
		if err := node.Check(); err != nil {
			return nil, fmt.Errorf("%s: %w; have it made anew by `pyrsia id --record`", file, err)
		}
		if other, twice := from[node.Identity]; twice {
			return nil, fmt.Errorf("%s and %s are records of one node (%s); give each node once", other, file, node.Identity)
		}
		from[node.Identity] = file
		records = append(records, node)
	}
	slices.SortFunc(records, func(a, b record.NodeRecord) int { return cmp.Compare(a.Identity, b.Identity) })
	return records, nil
}

// readSmall reads a file that is at most limit bytes long.
func readSmall(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fileError(path, err)
	}
	defer file.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, fileError(path, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes: it is not the right file", path, limit)
	}
	return data, nil
}

// fileError says of a file what a person would.
func fileError(path string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("cannot read %s: no such file", path)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("cannot read %s: permission denied", path)
	}
	if inner, ok := errors.AsType[*os.PathError](err); ok {
		err = inner.Err
	}
	return fmt.Errorf("cannot read %s: %w", path, err)
}

// founded is what `network init --json` prints.
type founded struct {
	Network  string          `json:"network"`
	Genesis  string          `json:"genesis"`
	File     string          `json:"file"`
	Order    string          `json:"order"`
	Bounds   bounds          `json:"bounds"`
	Others   []bounds        `json:"others"`
	Warnings []string        `json:"warnings"`
	Nodes    []foundedNode   `json:"nodes"`
	genesis  *record.Genesis //
}

type foundedNode struct {
	Identity record.Identity `json:"identity"`
	Operator string          `json:"operator"`
}

func (a *app) found(name string, nodes []record.NodeRecord, order, output string) error {
	genesis := &record.Genesis{Name: name, Nodes: nodes, Order: order, Platforms: commonPlatforms(nodes), Timeouts: timeouts}
	if len(genesis.Platforms) == 0 {
		return errors.New("no platform has a majority of the nodes; nothing could ever be published; see --platform of `pyrsia id`")
	}
	if _, err := rand.Read(genesis.Salt[:]); err != nil {
		return fmt.Errorf("no randomness: %w", err)
	}
	leaf, err := record.EncodeLeaf(genesis)
	if err != nil {
		return err
	}
	if _, _, err := record.OpenGenesis(leaf); err != nil {
		return err
	}
	if err := writeNew(output, leaf, 0o644); err != nil {
		return err
	}
	f := founded{
		Network: name, Genesis: "sha256:" + record.Digest(leaf).String(), File: output, Order: order,
		Bounds: boundsOf(len(nodes), order), Others: compared(len(nodes)), Warnings: warnings(nodes, order),
	}
	for _, node := range nodes {
		f.Nodes = append(f.Nodes, foundedNode{node.Identity, node.Operator})
	}
	return a.show(f, func(w io.Writer, s style) { writeFounded(w, s, f) })
}

// commonPlatforms are those that a majority can build for.
func commonPlatforms(nodes []record.NodeRecord) []string {
	count := map[string]int{}
	for _, node := range nodes {
		for _, p := range node.Platforms {
			count[p]++
		}
	}
	common := []string{}
	for p, n := range count {
		if n > len(nodes)/2 {
			common = append(common, p)
		}
	}
	slices.Sort(common)
	return common
}

// bounds are what a network of N nodes survives (docs/protocol.md, "What each
// quorum decides, and what it survives").
type bounds struct {
	Nodes      int    `json:"nodes"`
	Order      string `json:"order"`
	Majority   int    `json:"majority"`   // A, also how many liars a false publication needs
	Quorum     int    `json:"quorum"`     // Q
	Fork       int    `json:"fork"`       // liars that a fork of the order needs
	Standstill int    `json:"standstill"` // nodes down that stop the order
}

func boundsOf(n int, order string) bounds {
	b := bounds{Nodes: n, Order: order, Majority: n/2 + 1, Quorum: n/2 + 1}
	if order == record.OrderTwoThirds {
		b.Quorum = 2*n/3 + 1
	}
	b.Fork, b.Standstill = 2*b.Quorum-n, n-b.Quorum+1
	return b
}

// compared are the choices around a network's size.
func compared(n int) []bounds {
	var all []bounds
	for _, size := range []int{n, n + 1} {
		for _, order := range []string{record.OrderMajority, record.OrderTwoThirds} {
			all = append(all, boundsOf(size, order))
		}
	}
	return all
}

func warnings(nodes []record.NodeRecord, order string) []string {
	var all []string
	n := len(nodes)
	if n < 3 {
		all = append(all, "fewer than 3 nodes: one that is down stops everything, and nobody outvotes a liar")
	}
	if n == 3 {
		all = append(all, "with 3 nodes one liar can fork the order, or one that is down stops it; 4 nodes survive one that is down and need two liars")
	}
	if n > 3 && n%2 == 1 && order == record.OrderMajority {
		all = append(all, fmt.Sprintf("%d is odd: with the order quorum majority one liar can fork the order; add a node, or use --order two-thirds", n))
	}
	operators := map[string]int{}
	for _, node := range nodes {
		if operators[node.Operator]++; operators[node.Operator] > n/2 {
			all = append(all, fmt.Sprintf("operator %q runs a majority: it alone decides what is true", node.Operator))
			break
		}
	}
	return all
}

func writeFounded(w io.Writer, s style, f founded) {
	fmt.Fprintf(w, "The genesis of %s with %d build nodes is in %s.\n\n", s.bold(f.Network), len(f.Nodes), f.File)
	rows := make([][]string, len(f.Nodes))
	for i, node := range f.Nodes {
		rows[i] = []string{string(node.Identity), node.Operator}
	}
	table(w, s, []string{"BUILD NODE", "OPERATOR"}, rows)
	fmt.Fprintf(w, "\nWhat is true is decided by %d of %d, what comes next by %d of %d (%s).\n\n",
		f.Bounds.Majority, f.Bounds.Nodes, f.Bounds.Quorum, f.Bounds.Nodes, f.Order)
	rows = rows[:0]
	for _, b := range f.Others {
		mark := ""
		if b == f.Bounds {
			mark = s.green("◀ chosen")
		}
		rows = append(rows, []string{fmt.Sprint(b.Nodes), b.Order, fmt.Sprint(b.Majority), fmt.Sprint(b.Quorum),
			liars(b.Majority), liars(b.Fork), down(b.Standstill), mark})
	}
	table(w, s, []string{"N", "ORDER", "A", "Q", "FALSE PUBLICATION", "FORK OF THE ORDER", "STANDSTILL", ""}, rows)
	fmt.Fprintln(w, "\nA fork makes nothing false true: both branches hold only what A members attested.\nIt halts the nodes that see it, and the culprits' own signatures prove who did it.")
	for _, warning := range f.Warnings {
		fmt.Fprintf(w, "\n%s %s.\n", s.yellow("Warning:"), warning)
	}
	fmt.Fprintf(w, "\nCopy %s to every node, to <storage.data>/genesis.json, and write into every pyrsia.hcl:\n\nnetwork { genesis = %q }\n", f.File, f.Genesis)
}

func liars(n int) string { return plural(n, "liar") }

func down(n int) string { return fmt.Sprintf("%d down", n) }

func plural(n int, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case strings.HasSuffix(what, "f"):
		what = strings.TrimSuffix(what, "f") + "ve"
	}
	return fmt.Sprintf("%d %ss", n, what)
}
