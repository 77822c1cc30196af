package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/sys/unix"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/appliance/node"
	"github.com/pyrsia/appliance/appliance/permission"
	"github.com/pyrsia/appliance/hcl/config"
	"github.com/spf13/cobra"
)

// The states of a finding.
const (
	fine = "ok"
	odd  = "warning" // it works, and may not always
	bad  = "failed"
	none = "skipped" // it does not apply here
)

// finding is what came of one look.
type finding struct {
	Check string `json:"check"`
	State string `json:"state"`
	What  string `json:"what"`         // what was found, in a sentence
	Do    string `json:"do,omitempty"` // what to do about it
}

// look is how long a check may take that asks somebody else.
const look = 5 * time.Second

func doctorCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look at all that a node needs, and say what to do about what is wrong",
		Long: `Look at all that a node needs: its configuration, genesis, keys and disk, its ports,
the clock, what builds need, its build peers and upstreams, and the node itself if it
runs. Nothing is changed. Fails if something is wrong; warnings do not fail.`,
		Example: "  pyrsia doctor\n  pyrsia doctor --json --config ./pyrsia.hcl",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings, err := patiently(cmd.Context(), a, "looking at the node", func(ctx context.Context) ([]finding, error) {
				return a.examine(ctx), nil
			})
			if err != nil {
				return err
			}
			if err := a.show(findings, func(w io.Writer, s style) { writeFindings(w, s, findings) }); err != nil {
				return err
			}
			if n := count(findings, bad); n > 0 {
				return fmt.Errorf("%s failed; do as it says there, and run this again", plural(n, "check"))
			}
			return nil
		},
	}
}

func count(findings []finding, state string) (n int) {
	for _, f := range findings {
		if f.State == state {
			n++
		}
	}
	return n
}

func writeFindings(w io.Writer, s style, findings []finding) {
	colours := map[string]func(string) string{fine: s.green, odd: s.yellow, bad: s.red, none: s.dim}
	rows := make([][]string, len(findings))
	for i, f := range findings {
		what := f.What
		if f.Do != "" {
			what += "; " + s.bold(f.Do)
		}
		rows[i] = []string{f.Check, colours[f.State](f.State), what}
	}
	table(w, s, []string{"CHECK", "STATE", ""}, rows)
}

// patient is what is looked at.
type patient struct {
	file   string
	config *config.Config
	status *control.Status // nil where no node runs
}

// examine makes all checks, those that ask somebody else at the same time.
func (a *app) examine(ctx context.Context) []finding {
	first, cfg := examineConfig(a.config)
	if cfg == nil {
		return first
	}
	p := patient{file: a.config, config: cfg}
	client := a.client()
	defer client.Close()
	asked, cancel := context.WithTimeout(ctx, look)
	defer cancel()
	status, err := client.Status(asked)
	if err == nil {
		p.status = &status
	}
	checks := []func(context.Context, patient) []finding{
		examineNode, examineFiles, examineDisk, examineClock, examinePorts, examineBuilds, examinePeers, examineUpstreams, examineRegistry, examineClients,
	}
	results := make([][]finding, len(checks))
	var looking sync.WaitGroup
	for i, check := range checks {
		looking.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 2*look)
			defer cancel()
			results[i] = check(ctx, p)
		})
	}
	looking.Wait()
	for _, r := range results {
		first = append(first, r...)
	}
	return first
}

func examineConfig(file string) ([]finding, *config.Config) {
	cfg, _ := config.Load(file)
	diags := checkConfig(file)
	if cfg != nil {
		// Here the genesis must be at hand: this is the node's machine.
		if _, _, more := cfg.Genesis(); more.HasErrors() {
			return []finding{{"configuration", bad, sentence(more.Err()), ""}}, cfg
		}
	}
	switch {
	case diags.HasErrors():
		return []finding{{"configuration", bad, fmt.Sprintf("%s has %s", file, counts(diags)), "`pyrsia config check` shows them with their lines"}}, nil
	case len(diags) > 0:
		return []finding{{"configuration", odd, fmt.Sprintf("%s has %s", file, counts(diags)), "`pyrsia config check` shows them"}}, cfg
	}
	return []finding{{"configuration", fine, file + " is good, and the genesis is that of its network", ""}}, cfg
}

func examineNode(_ context.Context, p patient) []finding {
	s := p.status
	if s == nil {
		return []finding{{"node", odd, "no node answers at " + p.config.Admin.Socket, "start it (systemctl start pyrsia, or pyrsia serve); if it runs, run this as root or as its user"}}
	}
	findings := []finding{{"node", fine, fmt.Sprintf("a %s node runs since %s, at height %d", byHand(s), date(s.Started), s.Height), ""}}
	if s.Version != version() {
		findings = append(findings, finding{"version", odd, fmt.Sprintf("the node runs %s, and this program is %s", s.Version, version()), "restart the node: systemctl restart pyrsia"})
	}
	if s.Configuration.Rejected != "" {
		findings = append(findings, finding{"reload", bad, "the file is not in force: " + s.Configuration.Rejected, "correct it, and `pyrsia reload`"})
	}
	if s.Halted != "" {
		findings = append(findings, finding{"log", bad, s.Halted, "tell the other operators"})
	}
	for _, service := range s.Services {
		if service.State != "ready" {
			findings = append(findings, finding{"service " + service.Name, bad, strings.TrimSuffix(fmt.Sprintf("it is %s: %s", service.State, service.Error), ": "), "see the node's journal: journalctl -u pyrsia"})
		}
	}
	for _, m := range s.Members {
		if m.Self && m.Fenced != "" {
			findings = append(findings, finding{"vote", odd, "the node does not vote: " + m.Fenced, ""})
		}
	}
	return findings
}

// byHand is the role of a node, and that it is not the file's where that is so.
func byHand(s *control.Status) string {
	if s.RoleByHand {
		return string(s.Role) + " (by hand)"
	}
	return string(s.Role)
}

// examineFiles looks whether anybody else can read or change the node's files, and the
// node itself can.
func examineFiles(_ context.Context, p patient) []finding {
	owner, err := permission.Of(p.config.Storage.Data)
	if errors.Is(err, fs.ErrNotExist) {
		return []finding{{"files", none, "there is no " + p.config.Storage.Data + " yet; the node makes it at its first start", ""}}
	}
	problems, unread := node.Permissions(p.config, owner)
	if err := errors.Join(err, unread); err != nil {
		return []finding{{"files", none, fmt.Sprintf("cannot be looked at: %v", err), "run this as root or as the node's user"}}
	}
	findings := []finding{}
	for _, file := range []string{p.config.File, p.config.Network.GenesisFile} {
		if !owner.CanRead(file) {
			findings = append(findings, finding{"files", bad, "the node's user cannot read " + file, fmt.Sprintf("chgrp %d %s; chmod g+r %s", owner.Groups[0], file, file)})
		}
	}
	for _, problem := range problems {
		state := odd
		if problem.Fatal {
			state = bad
		}
		findings = append(findings, finding{"files", state, problem.What, problem.Do})
	}
	if len(findings) == 0 {
		return []finding{{"files", fine, "nobody but root and the node can change its files, or read its keys", ""}}
	}
	return findings
}

// leastFree is how much of the disk must be free for the log and what builds need, in
// bytes.
const leastFree = 5 << 30

func examineDisk(_ context.Context, p patient) []finding {
	folder := p.config.Storage.Data
	for folder != "/" {
		if _, err := os.Stat(folder); err == nil {
			break
		}
		folder = filepath.Dir(folder)
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(folder, &disk); err != nil {
		return []finding{{"disk", bad, fmt.Sprintf("cannot look at %s: %v", folder, err), ""}}
	}
	free := int64(disk.Bavail) * disk.Bsize
	what := fmt.Sprintf("%s is free where %s is", byteCount(free), p.config.Storage.Data)
	used := int64(0)
	if p.status != nil {
		used = p.status.Store.Bytes
	}
	switch {
	case disk.Flags&unix.ST_RDONLY != 0 || readOnly(folder):
		return []finding{{"disk", bad, p.config.Storage.Data + " is on a disk that cannot be written to", "mount it for writing, or set storage.data elsewhere"}}
	case free < leastFree:
		return []finding{{"disk", bad, what, "free some space, or set storage.data to a larger disk"}}
	case free+used < p.config.Distribution.Quota:
		return []finding{{"disk", odd, what + ", less than distribution.quota lets the store grow to", fmt.Sprintf("lower the quota below %s", byteCount(free+used))}}
	}
	return []finding{{"disk", fine, what, ""}}
}

// readOnly tries to write, without a trace, to a file that has no name: after an error a
// file system takes no writes, and does not always say so.
func readOnly(folder string) bool {
	fd, err := unix.Open(folder, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err == nil {
		unix.Close(fd)
	}
	return errors.Is(err, unix.EROFS) || errors.Is(err, unix.EIO)
}

// examineClock asks the kernel whether somebody keeps the clock right: votes and
// checkpoints have times, and members refuse what is far from theirs.
func examineClock(context.Context, patient) []finding {
	var state unix.Timex
	code, err := unix.Adjtimex(&state)
	switch {
	case err != nil:
		return []finding{{"clock", none, fmt.Sprintf("the kernel does not tell: %v", err), ""}}
	case code == unix.TIME_ERROR || state.Status&unix.STA_UNSYNC != 0:
		return []finding{{"clock", odd, "nobody keeps it synchronised, as far as the kernel knows", "install and start systemd-timesyncd or chrony"}}
	}
	return []finding{{"clock", fine, "it is kept synchronised", ""}}
}

// examinePorts tries the ports of a node that does not run.
func examinePorts(_ context.Context, p patient) []finding {
	if p.status != nil {
		return []finding{{"ports", fine, "the node has them: " + strings.Join(append(p.status.Registry, p.status.Addrs...), " "), ""}}
	}
	for _, address := range append(append([]string{}, p.config.Registry.Listen...), p.config.Metrics.Listen...) {
		if err := free("tcp", address); err != nil {
			return []finding{{"ports", bad, fmt.Sprintf("cannot listen on %s: %v", address, err), "stop the other program, or choose another address"}}
		}
	}
	for _, address := range p.config.Network.Listen {
		network, host, err := dialable(address)
		if err == nil {
			err = free(network, host)
		}
		if err != nil {
			return []finding{{"ports", bad, fmt.Sprintf("cannot listen on %s: %v", address, err), "stop the other program, or choose another address"}}
		}
	}
	return []finding{{"ports", fine, "all that the configuration names are free", ""}}
}

func free(network, address string) error {
	if strings.HasPrefix(network, "udp") {
		conn, err := net.ListenPacket(network, address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	return l.Close()
}

func dialable(address string) (network, host string, err error) {
	parsed, err := multiaddr.NewMultiaddr(address)
	if err != nil {
		return "", "", err
	}
	return manet.DialArgs(parsed)
}

func examineBuilds(ctx context.Context, p patient) []finding {
	if p.config.Role != config.RoleBuild && (p.status == nil || p.status.Role != string(config.RoleBuild)) {
		return []finding{{"builds", none, "a regular node builds nothing", ""}}
	}
	var findings []finding
	if _, err := exec.LookPath("runc"); err != nil {
		findings = append(findings, finding{"runc", bad, "it is not installed", "apt install runc"})
	}
	for _, worker := range p.config.Build.Workers {
		findings = append(findings, examineWorker(ctx, worker))
	}
	if info, err := os.Stat(p.config.Build.Recipes); err != nil || !info.IsDir() {
		findings = append(findings, finding{"recipes", odd, fmt.Sprintf("there is no folder %s, so that the node endorses nothing", p.config.Build.Recipes), "make it, and put recipes in"})
	}
	return findings
}

func examineWorker(ctx context.Context, address string) finding {
	u, err := url.Parse(address)
	if err != nil {
		return finding{"buildkitd", bad, fmt.Sprintf("%s is no address: %v", address, err), ""}
	}
	host := u.Host
	if u.Scheme == "unix" {
		host = u.Path
	}
	conn, err := new(net.Dialer).DialContext(ctx, u.Scheme, host)
	if err != nil {
		return finding{"buildkitd", bad, fmt.Sprintf("it does not answer at %s: %v", address, errors.Unwrap(err)), "start it: systemctl start pyrsia-role-build.target"}
	}
	conn.Close()
	return finding{"buildkitd", fine, "it answers at " + address, ""}
}

// examinePeers asks each build peer by TCP: whether the network lets one through.
func examinePeers(ctx context.Context, p patient) []finding {
	connected := map[string]bool{}
	if p.status != nil {
		for _, m := range p.status.Members {
			connected[string(m.Identity)] = m.Connected
		}
	}
	var findings []finding
	for _, peer := range p.config.TrustedBuildPeers {
		name := "peer " + peer.Label
		switch {
		case connected[string(peer.ID)]:
			findings = append(findings, finding{name, fine, "it is connected", ""})
		case len(peer.Addresses) == 0:
			findings = append(findings, finding{name, none, "its block has no addresses to try", ""})
		default:
			findings = append(findings, reachable(ctx, name, peer.Addresses))
		}
	}
	if len(findings) == 0 {
		return []finding{{"peers", odd, "the configuration names no build peer, so that the node finds the network only if others come to it", "`pyrsia peer add`"}}
	}
	return findings
}

func reachable(ctx context.Context, name string, addresses []string) finding {
	last := errors.New("none of its addresses is one of TCP")
	for _, address := range addresses {
		network, host, err := dialable(address)
		if err != nil || !strings.HasPrefix(network, "tcp") {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, look)
		conn, err := new(net.Dialer).DialContext(limited, network, host)
		cancel()
		if err == nil {
			conn.Close()
			return finding{name, fine, "it answers at " + address, ""}
		}
		last = err
	}
	return finding{name, bad, fmt.Sprintf("it does not answer: %v", last), "check its addresses with its operator, and that a firewall lets them through"}
}

func examineUpstreams(ctx context.Context, p patient) []finding {
	var findings []finding
	for _, m := range p.config.Mirrors {
		if m.Upstream == "" {
			continue
		}
		findings = append(findings, answers(ctx, "upstream "+m.Kind, m.Upstream))
	}
	return findings
}

// answers asks a web address: any answer will do, but one of a server that is not well.
func answers(ctx context.Context, name, address string) finding {
	ctx, cancel := context.WithTimeout(ctx, look)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return finding{name, bad, err.Error(), ""}
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		return finding{name, bad, fmt.Sprintf("it does not answer: %v", err), "check its address, this machine's network, and a proxy if there is one"}
	}
	defer reply.Body.Close()
	if reply.StatusCode >= 500 {
		return finding{name, odd, fmt.Sprintf("it answers with status %d", reply.StatusCode), "ask who runs it"}
	}
	return finding{name, fine, "it answers at " + request.URL.Host, ""}
}

// examineRegistry asks the node as docker would.
func examineRegistry(ctx context.Context, p patient) []finding {
	if p.status == nil {
		return nil
	}
	for _, address := range p.status.Registry {
		here, ok := fromHere(address)
		if !ok {
			continue
		}
		f := answers(ctx, "registry", "http://"+here+"/v2/")
		if f.State == fine {
			f.What = "build tools are answered at " + address
		}
		return []finding{f}
	}
	return nil
}

// fromHere is where this machine's own programs reach what listens on an address.
func fromHere(address string) (string, bool) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "0" {
		return "", false
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port), true
}

// examineClients looks whether the build tools of this machine ask the node, where there
// are some: those of other machines cannot be seen from here.
func examineClients(_ context.Context, p patient) []finding {
	home, _ := os.UserHomeDir()
	var findings []finding
	for _, tool := range []struct{ name, file, do string }{
		{"docker", "/etc/docker/daemon.json", `add "registry-mirrors": ["http://%s"] to it, and restart docker`},
		{"maven", filepath.Join(home, ".m2", "settings.xml"), `add a mirror of the node at %s to it`},
	} {
		settings, err := os.ReadFile(tool.file)
		if err != nil {
			continue
		}
		addresses := p.config.Registry.Listen
		if p.status != nil {
			addresses = p.status.Registry
		}
		findings = append(findings, asks("client "+tool.name, tool.file, string(settings), tool.do, addresses))
	}
	return findings
}

// asks tells whether a tool's settings name a port of the node's.
func asks(name, file, settings, do string, addresses []string) finding {
	reached := ""
	for _, address := range addresses {
		here, ok := fromHere(address)
		if !ok {
			continue
		}
		reached = here
		if strings.Contains(settings, here[strings.LastIndexByte(here, ':'):]) {
			return finding{name, fine, file + " names this node", ""}
		}
	}
	if reached == "" {
		return finding{name, none, "the node has no fixed address for build tools", ""}
	}
	return finding{name, odd, file + " does not name this node, so that it asks others", fmt.Sprintf(do+" (docs/clients.md)", reached)}
}
