//go:build slow

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/appliance/e2e/cluster"
	"github.com/pyrsia/appliance/e2e/machine"
)

// box is a machine with the Debian package on it.
type box struct {
	*machine.Machine
	t *testing.T
}

// debPackage is the package that `make deb` made last.
func debPackage(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("../bin/pyrsia_*_amd64.deb")
	if err != nil || len(found) == 0 {
		t.Fatalf("there is no Debian package in bin, %v; run: make deb", err)
	}
	newest := found[0]
	for _, path := range found {
		if modified(t, path).After(modified(t, newest)) {
			newest = path
		}
	}
	return newest
}

func modified(t *testing.T, path string) time.Time {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.ModTime()
}

// box boots a plain Debian and installs the package.
func installed(t *testing.T, suite string) *box {
	t.Helper()
	ctx := timely(t)
	m, err := machine.New(ctx, machine.Spec{Suite: suite, Packages: []string{"curl", "passwd", "runc", "busybox-static", "strace"}, Folder: filepath.Join(t.TempDir(), "m")})
	if err != nil {
		t.Fatal(err)
	}
	b := &box{m, t}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := m.Shell(context.Background(), "journalctl --no-pager -n 150 -u 'pyrsia*' || true")
			t.Logf("the journal of the machine:\n%s", log)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := m.Copy(ctx, debPackage(t), "/root/pyrsia.deb", 0o644); err != nil {
		t.Fatal(err)
	}
	b.do("dpkg -i /root/pyrsia.deb")
	return b
}

// do runs a script that must succeed.
func (b *box) do(script string) string {
	b.t.Helper()
	out, err := b.Shell(timely(b.t), script)
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return strings.TrimSpace(out)
}

// fails runs a script that must not, and gives what it said.
func (b *box) fails(script string) string {
	b.t.Helper()
	out, err := b.Shell(timely(b.t), script)
	if exit := new(machine.ExitError); !errors.As(err, &exit) {
		b.t.Fatalf("%s: %v, want it to fail\n%s", script, err, out)
	}
	return strings.TrimSpace(out)
}

// until waits until a script succeeds.
func (b *box) until(script string) {
	b.t.Helper()
	ctx := timely(b.t)
	var last string
	err := cluster.Until(ctx, func() (bool, error) {
		out, err := b.Shell(ctx, script)
		last = out
		return err == nil, nil
	})
	if err != nil {
		b.t.Fatalf("waited in vain for: %s\n%s", script, last)
	}
}

func (b *box) want(script, want string) {
	b.t.Helper()
	if got := b.do(script); !strings.Contains(got, want) {
		b.t.Errorf("%s: %q, want %q", script, got, want)
	}
}

// logged waits until the node's journal, as journalctl shows it with options, has a text:
// journald writes behind what it is told.
func (b *box) logged(options, text string) {
	b.t.Helper()
	b.until("journalctl --no-pager " + options + " | grep -qF -e '" + strings.ReplaceAll(text, "'", `'\\''`) + "'")
}

// configure writes pyrsia.hcl for a network of which the machine is the only build node.
func (b *box) configure(role string) {
	b.t.Helper()
	if role != "" {
		role = fmt.Sprintf("role = %q", role)
	}
	b.do(fmt.Sprintf(`
		if [ ! -e /root/genesis.json ]; then
			cd /root
			pyrsia id --record > node.json # as root, as an operator may
			pyrsia network init acme --allow-small --node node.json >/dev/null
			install -o pyrsia -g pyrsia -m 0600 genesis.json /var/lib/pyrsia/genesis.json
		fi
		cat > /etc/pyrsia/pyrsia.hcl <<END
%s
network { genesis = "sha256:$(sha256sum /root/genesis.json | cut -c1-64)" }
END
		chown root:pyrsia /etc/pyrsia/pyrsia.hcl
		chmod 0640 /etc/pyrsia/pyrsia.hcl`, role))
}

func (b *box) role() string {
	b.t.Helper()
	return b.do(`pyrsia status | sed -n 's/^role *//p'`)
}

func (b *box) wantRole(want string) {
	b.t.Helper()
	if got := b.role(); got != want {
		b.t.Errorf("the role is %q, want %q", got, want)
	}
}

// TestSlowSystemd is an operator's life with the Debian package, on a plain Debian 13.
func TestSlowSystemd(t *testing.T) {
	b := installed(t, "trixie")
	for _, story := range []struct {
		name string
		tell func(*box)
	}{
		{"installed", nothingFails},
		{"hardened", hardened},
		{"started", startedBySystemctl},
		{"reload tells the truth", reloadTellsTheTruth},
		{"no request is lost", noRequestIsLost},
		{"roles", roles},
		{"a build in the unit", buildsInTheUnit},
		{"killed, and hung", killedAndHung},
		{"a file that is broken at boot", brokenAtBoot},
		{"purged", purged},
	} {
		if !t.Run(story.name, func(t *testing.T) { story.tell(&box{b.Machine, t}) }) {
			return // what follows builds on it
		}
	}
}

// On Debian 12, whose systemd is older, the package works as well.
func TestSlowSystemdBookworm(t *testing.T) {
	b := installed(t, "bookworm")
	for _, tell := range []func(*box){nothingFails, startedBySystemctl, reloadTellsTheTruth, noRequestIsLost, purged} {
		tell(b)
	}
}

// An installed package without a configuration fails nothing.
func nothingFails(b *box) {
	b.want("systemctl is-enabled pyrsia-role-regular.target", "enabled")
	if out := b.do("systemctl list-units --failed --no-legend 'pyrsia*'"); out != "" {
		b.t.Errorf("failed: %s", out)
	}
	b.want("dpkg -L pyrsia", "/usr/share/man/man1/pyrsia-reload.1.gz")
	b.do("test -s /usr/share/bash-completion/completions/pyrsia")
}

func hardened(b *box) {
	// What another package's units lack is not ours.
	if out := b.do("systemd-analyze verify --man=no --recursive-errors=no /usr/lib/systemd/system/pyrsia* 2>&1"); out != "" {
		b.t.Errorf("systemd-analyze verify: %s", out)
	}
	b.t.Log(b.do("systemd-analyze security --no-pager pyrsia.service | tail -1; systemd-analyze security --no-pager pyrsia-buildkitd.service | tail -1"))
	b.do("systemd-analyze security --threshold=20 pyrsia.service >/dev/null")
}

func startedBySystemctl(b *box) {
	b.configure("")
	b.do("systemctl start pyrsia-role-regular.target && systemctl is-active pyrsia.service")
	b.want("systemctl show -p StatusText pyrsia.service", "regular node, height 0, 0 peers, no checkpoint yet, configuration 1")
	b.want("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:7888/v2/", "200")
	b.want("ps -o user= -p $(systemctl show -p MainPID --value pyrsia.service)", "pyrsia")
	b.fails("runuser -u nobody -- pyrsia status")
	b.wantRole("regular")
}

func reloadTellsTheTruth(b *box) {
	pid := b.do("systemctl show -p MainPID --value pyrsia.service")
	b.do("cp -p /etc/pyrsia/pyrsia.hcl /root/good.hcl; pyrsia mirror add docker 'acme/*'; systemctl reload pyrsia")
	b.until("systemctl show -p StatusText pyrsia.service | grep -q 'configuration 2$'")
	b.do("echo 'distribution { uplaod = 1 }' >> /etc/pyrsia/pyrsia.hcl")
	b.fails("systemctl reload pyrsia")
	b.until("systemctl show -p StatusText pyrsia.service | grep -q 'rejected: /etc/pyrsia/pyrsia.hcl:[0-9]*: .*uplaod.*; running configuration 2'")
	b.logged("-u pyrsia", `did you mean`)
	b.want("systemctl is-active pyrsia.service", "active")
	b.want("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:7888/v2/", "200")
	b.do("cp -p /root/good.hcl /etc/pyrsia/pyrsia.hcl; systemctl reload pyrsia")
	b.until("systemctl show -p StatusText pyrsia.service | grep -q 'configuration 3$'")
	if now := b.do("systemctl show -p MainPID --value pyrsia.service"); now != pid {
		b.t.Errorf("the process %s became %s by reloads", pid, now)
	}
}

// A restart refuses no connection: 40 of 40 requests and more are answered, each on a
// connection of its own, made without a pause while the node restarts ten times.
func noRequestIsLost(b *box) {
	b.want(`
		(for i in 1 2 3 4 5 6 7 8 9 10; do systemctl reset-failed pyrsia.service; systemctl restart pyrsia.service; done; touch /root/restarted) &
		good=0 all=0
		while [ $all -lt 40 ] || [ ! -e /root/restarted ]; do
			all=$((all + 1))
			code=$(curl -sS -m 60 -o /dev/null -w '%{http_code}' http://127.0.0.1:7888/v2/) || true
			[ "$code" = 200 ] && good=$((good + 1)) || echo "request $all: $code"
		done
		wait
		[ $good = $all ] && echo "all of them, at least 40" || echo "$good of $all"`, "all of them")
	b.do("rm /root/restarted")
}

func roles(b *box) {
	// Left out of the file, systemctl is the owner.
	b.do("systemctl start pyrsia-role-build.target")
	b.wantRole("build")
	b.want("systemctl is-active pyrsia-buildkitd.service", "active")
	b.until("runuser -u pyrsia -- /usr/lib/pyrsia/buildctl --addr unix:///run/pyrsia/buildkitd.sock debug workers >/dev/null")
	b.do("systemctl reload pyrsia")
	b.wantRole("build")
	b.do("systemctl restart pyrsia.service")
	b.until("pyrsia status | grep -q '^role *build$'")
	b.do("systemctl stop pyrsia-role-build.target")
	b.until("pyrsia status | grep -q '^role *regular$'")
	b.until("[ $(systemctl show -p ActiveState --value pyrsia-buildkitd.service) = inactive ]")
	b.do("systemctl enable pyrsia-role-build.target")
	b.restart()
	b.until("pyrsia status | grep -q '^role *build$'")

	// In the file, it wins at the reload and at boot; by hand is until then.
	b.configure("regular")
	b.do("systemctl reload pyrsia")
	b.wantRole("regular")
	b.until("! systemctl is-active pyrsia-role-build.target && ! systemctl is-active pyrsia-buildkitd.service")
	b.restart()
	b.until("pyrsia status | grep -q '^role *regular$'")
	b.fails("systemctl is-active pyrsia-buildkitd.service")
	b.until("test -e /run/pyrsia-up")
	b.do("systemctl restart pyrsia-role-build.target")
	b.wantRole("build (by hand, until the next reload)")
	b.until("systemctl show -p StatusText pyrsia.service | grep -q 'build (by hand; the configuration says regular) node'")
	b.do("systemctl reload pyrsia")
	b.wantRole("regular")
	b.do("systemctl disable pyrsia-role-build.target")
	b.configure("build")
	b.do("systemctl reload pyrsia")
	b.wantRole("build")
	b.until("systemctl is-active pyrsia-role-build.target pyrsia-buildkitd.service")
	b.restart()
	b.until("pyrsia status | grep -q '^role *build$' && systemctl is-active pyrsia-role-build.target pyrsia-buildkitd.service")

	// The units follow whoever puts the file in force, also at a start without a boot.
	follows := func(role, units string) {
		b.wantRole(role)
		b.until("[ \"$(systemctl is-active pyrsia-role-build.target pyrsia-buildkitd.service | sort -u)\" = " + units + " ]")
	}
	b.do("pyrsia role regular --reload")
	follows("regular", "inactive")
	b.do("pyrsia role build && pyrsia reload")
	follows("build", "active")
	b.do("systemctl stop pyrsia-role-build.target pyrsia.service")
	b.do("systemctl start pyrsia.service")
	follows("build", "active")

	// New keys belong to the node, whoever makes them.
	b.do("systemctl stop pyrsia.service && pyrsia node rekey --force && systemctl start pyrsia.service")
	b.want("stat -c %U /var/lib/pyrsia/keys /var/lib/pyrsia/keys/vote.key /var/lib/pyrsia/keys/votes.db | sort -u", "pyrsia")
}

// restart boots the machine anew.
func (b *box) restart() {
	b.t.Helper()
	if err := b.Reboot(timely(b.t)); err != nil {
		b.t.Fatal(err)
	}
	b.until("systemctl is-active pyrsia.service")
}

// A real build in the hardened unit, as the node has it made: by BuildKit with runc, in
// namespaces of its own, with files of users, modes and kinds that layers have.
func buildsInTheUnit(b *box) {
	b.do("systemctl start pyrsia-role-build.target")
	b.until("runuser -u pyrsia -- /usr/lib/pyrsia/buildctl --addr unix:///run/pyrsia/buildkitd.sock debug workers >/dev/null")
	b.do(`
		mkdir -p /tmp/b && cp /bin/busybox /tmp/b/ && cat > /tmp/b/Dockerfile <<'END'
FROM scratch AS build
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-ec", "b=/bin/busybox; $b mkdir -p /out /dev/shm; $b cp $b /out/suid; $b chown 12:34 /out/suid; $b chmod 6755 /out/suid; $b mkfifo /out/pipe; $b ls /sys/class/net > /out/net; $b id -u > /out/id; $b dd if=/dev/urandom of=/dev/null bs=1 count=1; $b mount -t tmpfs x /mnt 2>/out/mount || true; $b date -s 2001-01-01 2>/out/date >/dev/null || true; $b test -s /out/date; ($b nc -l -p 1234 > /out/nc &); for i in $($b seq 1000); do $b test -s /out/nc && break; $b echo hello | $b nc 127.0.0.1 1234 2>/out/client || true; done"]
FROM scratch
COPY --from=build /out /
END
		runuser -u pyrsia -- /usr/lib/pyrsia/buildctl --addr unix:///run/pyrsia/buildkitd.sock build --progress=plain \
			--frontend dockerfile.v0 --local context=/tmp/b --local dockerfile=/tmp/b --output type=tar,dest=/tmp/b.tar 2>&1
		tar -tvf /tmp/b.tar`)
	b.want("tar -tvf /tmp/b.tar suid", "-rwsr-sr-x 12/34")
	b.want("tar -tvf /tmp/b.tar pipe", "prw")
	b.want("tar -xOf /tmp/b.tar id", "0")
	b.want("tar -xOf /tmp/b.tar nc", "hello") // a test's own server
	if got := b.do("tar -xOf /tmp/b.tar net"); got != "lo" {
		b.t.Errorf("a build has the networks %q, want lo alone", got)
	}
}

func killedAndHung(b *box) {
	pid := "$(systemctl show -p MainPID --value pyrsia.service)"
	before := b.do("echo " + pid)
	b.do("kill -KILL " + pid)
	b.until("systemctl is-active pyrsia.service && [ " + pid + " != " + before + " ]")
	b.until("pyrsia status >/dev/null")
	b.until("systemctl is-active pyrsia-role-build.target pyrsia-buildkitd.service") // they follow the node
	b.do("kill -KILL $(systemctl show -p MainPID --value pyrsia-buildkitd.service)")
	b.until("systemctl is-active pyrsia-buildkitd.service")
	before = b.do("echo " + pid)
	b.do("kill -STOP " + pid) // nothing in it answers any more
	b.until("systemctl is-active pyrsia.service && [ " + pid + " != " + before + " ]")
	b.logged("-u pyrsia", "Watchdog timeout")
	b.until("pyrsia status >/dev/null")
}

func brokenAtBoot(b *box) {
	b.do("cp -p /etc/pyrsia/pyrsia.hcl /root/good.hcl; echo 'distribution { quota = 7 }' >> /etc/pyrsia/pyrsia.hcl")
	b.restart()
	b.want("systemctl show -p StatusText pyrsia.service", "rejected: /etc/pyrsia/pyrsia.hcl:")
	b.want("pyrsia status", "configuration rejected: /etc/pyrsia/pyrsia.hcl:")
	b.want("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:7888/v2/", "200")
	b.fails("systemctl reload pyrsia")
	b.do("cp -p /root/good.hcl /etc/pyrsia/pyrsia.hcl; systemctl reload pyrsia")
	b.until("! systemctl show -p StatusText pyrsia.service | grep -q rejected")
}

// What was installed goes without a trace; an upgrade before that keeps everything.
func purged(b *box) {
	id := b.do("pyrsia id --config /etc/pyrsia/pyrsia.hcl --json")
	role := b.role()
	runs := "systemctl is-active pyrsia.service"
	pids := "systemctl show -p MainPID --value pyrsia.service"
	if role == "build" {
		runs += " pyrsia-role-build.target pyrsia-buildkitd.service"
		pids += " pyrsia-buildkitd.service"
	}
	running := runs + " && pyrsia status | grep -q '^role *" + role + "$'"
	before := strings.Join(strings.Fields(b.do(pids)), " -e ")
	b.do("dpkg -i /root/pyrsia.deb")
	b.until(running + " && ! " + pids + " | grep -wq -e " + before)
	if now := b.do("pyrsia id --config /etc/pyrsia/pyrsia.hcl --json"); now != id {
		b.t.Errorf("an upgrade made %s of %s", now, id)
	}
	b.do("dpkg -r pyrsia && dpkg -i /root/pyrsia.deb") // removed and not purged, it comes back as it was
	b.until("systemctl is-active pyrsia.service && pyrsia status >/dev/null")
	b.do("dpkg --purge pyrsia")
	left := b.do(`
		find / -xdev \( -path /proc -o -path /sys -o -path /root -o -path /var/lib/dpkg -o -path /var/cache -o -path /var/log -o -path /tmp \) -prune -o -name '*pyrsia*' -print
		getent passwd pyrsia || true; getent group pyrsia || true
		systemctl list-units --all --no-legend 'pyrsia*' | grep -v not-found || true`)
	if left != "" {
		b.t.Errorf("left behind:\n%s", left)
	}
}

// TestSlowDebReproducible builds the package twice, from clones in folders of different
// names and depths.
func TestSlowDebReproducible(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	first, second := builtIn(t, ctx, filepath.Join(t.TempDir(), "one")), builtIn(t, ctx, filepath.Join(t.TempDir(), "another", "place"))
	if !bytes.Equal(first, second) {
		t.Errorf("the packages differ: %d and %d bytes", len(first), len(second))
	}
}

// builtIn is the package as a clone in a folder builds it.
func builtIn(t *testing.T, ctx context.Context, clone string) []byte {
	t.Helper()
	for _, arguments := range [][]string{{"git", "clone", "-q", "..", clone}, {"make", "-C", clone, "deb"}} {
		if out, err := exec.CommandContext(ctx, arguments[0], arguments[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", arguments, err, out)
		}
	}
	found, err := filepath.Glob(filepath.Join(clone, "bin", "pyrsia_*_amd64.deb"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%d packages in %s, %v", len(found), clone, err)
	}
	data, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	return data
}
