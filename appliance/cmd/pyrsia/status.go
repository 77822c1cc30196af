package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/spf13/cobra"
)

func statusCommand(a *app) *cobra.Command {
	var watch bool
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "How the running node is",
		Example: `  pyrsia status
  pyrsia status --watch
  pyrsia status --json | jq .height`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := a.client()
			defer client.Close()
			if watch {
				return a.watchStatus(cmd.Context(), client, every)
			}
			status, err := patiently(cmd.Context(), a, "asking the node", client.Status)
			if err != nil {
				return err
			}
			return a.show(status, func(w io.Writer, s style) { writeStatus(w, s, status, time.Now()) })
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again and again, until interrupted")
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "how often, with --watch")
	return cmd
}

// watchStatus shows the status anew until the context ends: on a terminal in the place of
// the last one, else one after the other. A node that restarts is waited for.
func (a *app) watchStatus(ctx context.Context, client *control.Client, every time.Duration) error {
	tick := time.NewTicker(max(every, 100*time.Millisecond))
	defer tick.Stop()
	for {
		status, err := client.Status(ctx)
		if ctx.Err() != nil {
			return nil // it was to be interrupted
		}
		if isTerminal(a.out) && !a.json {
			fmt.Fprint(a.out, "\x1b[H\x1b[2J")
		}
		switch {
		case err != nil:
			fmt.Fprintf(a.err, "%s %s\n", time.Now().Format(time.TimeOnly), sentence(err))
		default:
			err = a.show(status, func(w io.Writer, s style) {
				writeStatus(w, s, status, time.Now())
				fmt.Fprintln(w)
			})
			if err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func writeStatus(w io.Writer, s style, n control.Status, now time.Time) {
	if n.Halted != "" {
		fmt.Fprintf(w, "%s %s\n\n", s.red("halted:"), n.Halted)
	}
	if n.Configuration.Rejected != "" {
		fmt.Fprintf(w, "%s %s\n\n", s.red("configuration rejected:"), n.Configuration.Rejected)
	}
	checkpoint := "checkpoint " + ago(now, n.CheckpointTime)
	switch {
	case n.CheckpointTime.Unix() <= 0:
		checkpoint = s.yellow("no checkpoint yet")
	case n.Stale:
		checkpoint += ", " + s.yellow("stale")
	}
	sharing := "sharing"
	if !n.Store.Sharing {
		sharing = "not sharing"
	}
	builds := ""
	if n.Builds.Limit > 0 {
		builds = fmt.Sprintf("%d running, %d waiting, at most %d at once", n.Builds.Running, n.Builds.Waiting, n.Builds.Limit)
	}
	passed := ""
	if n.Passed.Requests > 0 {
		passed = s.yellow(fmt.Sprintf("%d requests, %s unverified", n.Passed.Requests, byteCount(n.Passed.Bytes)))
	}
	fields(w, s,
		"node", strings.TrimSpace(string(n.Identity)+" "+n.Operator),
		"role", roleText(s, n),
		"version", n.Version+", up since "+date(n.Started),
		"config", configured(n.Configuration),
		"registry", strings.Join(n.Registry, " "),
		"peers", fmt.Sprintf("%d connected", n.Peers),
		"network", n.Network,
		"genesis", "sha256:"+n.Genesis.String(),
		"log", fmt.Sprintf("height %d, %s, %s", n.Height, plural(int(n.Size), "leaf"), checkpoint),
		"rules", fmt.Sprintf("%d of %d members decide what is true, %d what comes next", n.Majority, len(n.Members), n.Quorum),
		"store", fmt.Sprintf("%s of %s in %d files, %s", byteCount(n.Store.Bytes), byteCount(n.Store.Quota), n.Store.Files, sharing),
		"builds", builds,
		"passed through", passed,
	)
	writeMembers(w, s, n.Members)
	writeOffences(w, s, n.Offences)
	writeMirrors(w, s, n.Mirrors)
	writeTroubles(w, s, n.Services, now)
}

func roleText(s style, n control.Status) string {
	if n.RoleByHand {
		return n.Role + s.yellow(" (by hand, until the next reload)")
	}
	return n.Role
}

// configured is what the node runs with.
func configured(c control.Configuration) string {
	text := c.File
	if c.Instead != "" {
		text = c.Instead + ", instead of " + c.File
	}
	if c.Number > 0 {
		text += fmt.Sprintf(" (configuration %d, since %s)", c.Number, date(c.Taken))
	}
	return text
}

func writeMembers(w io.Writer, s style, members []control.Member) {
	if len(members) == 0 {
		return
	}
	fmt.Fprintln(w)
	rows := make([][]string, len(members))
	for i, m := range members {
		connected := s.verdict(yesNo(m.Connected))
		if m.Self {
			connected = "this node"
		}
		rows[i] = []string{who(m.Label, m.Identity), connected, s.verdict(m.Presence), number(m.Height), load(m), m.Operator, s.red(m.Fenced)}
	}
	table(w, s, []string{"MEMBER", "CONNECTED", "PRESENCE", "HEIGHT", "BUILDS", "OPERATOR", ""}, rows)
}

// load is how busy a member says it is: builds running, of so many at once, and
// waiting.
func load(m control.Member) string {
	if m.Told.IsZero() {
		return "–"
	}
	text := fmt.Sprintf("%d/%d", m.Building, m.Limit)
	if m.Waiting > 0 {
		text += fmt.Sprintf(" +%d", m.Waiting)
	}
	return text
}

// writeOffences shows who contradicted itself: the operators decide what follows.
func writeOffences(w io.Writer, s style, offences []control.Offence) {
	if len(offences) == 0 {
		return
	}
	fmt.Fprintln(w)
	rows := make([][]string, len(offences))
	for i, o := range offences {
		where := fmt.Sprintf("height %d, round %d", o.Height, o.Round)
		if !o.Attempt.IsZero() {
			where = "attempt " + o.Attempt.Short()
		}
		rows[i] = []string{s.red(who(o.Label, o.Identity)), "two different " + o.What + "s", where, number(o.Leaf), date(o.Time)}
	}
	table(w, s, []string{"OFFENCE OF", "SIGNED", "AT", "LEAF", "RECORDED"}, rows)
}

func writeMirrors(w io.Writer, s style, mirrors []control.Mirror) {
	if len(mirrors) == 0 {
		return
	}
	fmt.Fprintln(w)
	rows := make([][]string, len(mirrors))
	for i, m := range mirrors {
		rows[i] = []string{m.Kind, m.Unverified, fmt.Sprint(m.Declared), fmt.Sprint(m.Verified), fmt.Sprint(m.Passed), fmt.Sprint(m.Refused)}
	}
	table(w, s, []string{"MIRROR", "UNVERIFIED", "DECLARED", "VERIFIED", "PASSED", "REFUSED"}, rows)
}

// writeTroubles shows services only if one of them does not run: they are the
// node's own business.
func writeTroubles(w io.Writer, s style, services []control.Service, now time.Time) {
	var rows [][]string
	for _, service := range services {
		if service.State != "ready" {
			rows = append(rows, []string{service.Name, s.verdict(service.State), fmt.Sprint(service.Restarts), ago(now, service.Since), service.Error})
		}
	}
	if len(rows) == 0 {
		return
	}
	fmt.Fprintln(w)
	table(w, s, []string{"SERVICE", "STATE", "RESTARTS", "SINCE", "LAST ERROR"}, rows)
}

func peersCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "peers",
		Aliases: []string{"list"}, // what the predecessor called it
		Short:   "The peers that the node is connected to",
		Example: `  pyrsia peers
  pyrsia peers --json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := a.client()
			defer client.Close()
			peers, err := patiently(cmd.Context(), a, "asking the node", client.Peers)
			if err != nil {
				return err
			}
			return a.show(peers, func(w io.Writer, s style) { writePeers(w, s, peers, time.Now()) })
		},
	}
}

func writePeers(w io.Writer, s style, peers []control.Peer, now time.Time) {
	if len(peers) == 0 {
		fmt.Fprintln(w, "no peers: check the addresses of the trusted_build_peer blocks, and that port 4001 is open")
		return
	}
	rows := make([][]string, len(peers))
	for i, p := range peers {
		latency := "–"
		if p.Latency > 0 {
			latency = p.Latency.Round(100 * time.Microsecond).String()
		}
		rows[i] = []string{string(p.Identity), p.Label, yesNo(p.Member), latency, byteCount(p.Sent), byteCount(p.Received), refused(s, p, now), ago(now, p.Since), p.Address}
	}
	table(w, s, []string{"PEER", "LABEL", "MEMBER", "LATENCY", "SENT", "RECEIVED", "REFUSED", "SINCE", "ADDRESS"}, rows)
}

// refused is what was dropped of a peer's messages, by kind.
func refused(s style, p control.Peer, now time.Time) string {
	parts := []string{}
	for _, why := range slices.Sorted(maps.Keys(p.Refused)) {
		parts = append(parts, fmt.Sprintf("%s %d", why, p.Refused[why]))
	}
	text := strings.Join(parts, ", ")
	if left := p.ShutOut.Sub(now); left > 0 {
		text += " " + s.red(fmt.Sprintf("shut out for %v", left.Round(time.Second)))
	}
	if text == "" {
		return "–"
	}
	return strings.TrimSpace(text)
}
