//go:build slow

package e2e

import (
	"fmt"
	"testing"
)

// TestSlowSystemdLoad is what an operator does while clients download.
func TestSlowSystemdLoad(t *testing.T) {
	b := installed(t, "trixie")
	for _, story := range []struct {
		name string
		tell func(*box)
	}{
		{"an upstream", hasAnUpstream},
		{"the journal's fields", journalFields},
		{"files that everybody can change", openFiles},
		{"sealed keys", sealedKeys},
		{"a hundred reloads under load", reloadsUnderLoad},
		{"a full journal", fullJournal},
		{"a journal that hangs", hungJournal},
		{"a module that hangs", hungModule},
		{"an upgrade with running downloads", upgradeUnderLoad},
	} {
		if !t.Run(story.name, func(t *testing.T) { story.tell(&box{b.Machine, t}) }) {
			return // what follows builds on it
		}
	}
}

// node is the address of the node's Maven repository, in the machine.
const mavenOfNode = "http://127.0.0.1:7888/maven2/org/example"

// hasAnUpstream gives the machine an upstream with one large and many small files, and a
// node that passes them.
func hasAnUpstream(b *box) {
	b.do(`
		mkdir -p /srv/up/org/example/big/1 /srv/up/org/example/many/1
		head -c 60000000 /dev/urandom > /srv/up/org/example/big/1/big-1.jar
		for i in $(seq 1500); do echo $i > /srv/up/org/example/many/1/many-1-$i.txt; done
		systemd-run --unit=upstream --quiet busybox httpd -f -p 127.0.0.1:8000 -h /srv/up`)
	b.until("curl -s -o /dev/null http://127.0.0.1:8000/")
	b.configure("")
	b.do(`
		cat >> /etc/pyrsia/pyrsia.hcl <<'END'
mirror "maven" {
  packages   = ["org.example:*"]
  upstream   = "http://127.0.0.1:8000/"
  unverified = "pass"
}
END
		systemctl start pyrsia-role-regular.target`)
	b.until("pyrsia status >/dev/null")
	b.want("curl -s "+mavenOfNode+"/many/1/many-1-1.txt", "1")
	b.do("curl -sf -o /tmp/big " + mavenOfNode + "/big/1/big-1.jar && cmp /tmp/big /srv/up/org/example/big/1/big-1.jar")
}

// What the node logs has fields to look for, and the journal explains it.
func journalFields(b *box) {
	b.logged("-u pyrsia -o json PYRSIA_PATH=org/example/many/1/many-1-1.txt", `"PYRSIA_UPSTREAM"`)
	b.logged("-u pyrsia -o cat PYRSIA_ROLE=regular", "serving role=regular")
	b.logged("-x -u pyrsia -g '^serving'", "The node has opened its ports. It is a regular node of the network acme, at height 0 of the log.")
	b.do("systemctl stop pyrsia; echo 'role = 3' >> /etc/pyrsia/pyrsia.hcl; systemctl start pyrsia")
	b.logged("-x -p err -u pyrsia", "`pyrsia config check` shows every problem with its line. Correct the file, then `systemctl reload pyrsia`.")
	b.do("sed -i '/^role = 3/d' /etc/pyrsia/pyrsia.hcl; systemctl reload pyrsia")
}

// A configuration that everybody can write is nobody's: it is taken neither at a reload
// nor at a start.
func openFiles(b *box) {
	b.do("chmod o+w /etc/pyrsia/pyrsia.hcl")
	b.fails("systemctl reload pyrsia")
	b.want("systemctl show -p StatusText pyrsia", "rejected: /etc/pyrsia/pyrsia.hcl can be changed by everybody on this machine (mode 0642); run: chmod o-w /etc/pyrsia/pyrsia.hcl")
	b.fails("pyrsia doctor")
	b.do("chmod o-w /etc/pyrsia/pyrsia.hcl; systemctl reload pyrsia; chmod 0644 /var/lib/pyrsia/keys/vote.key")
	b.fails("systemctl restart pyrsia")
	b.logged("-u pyrsia -n 20", "vote.key is secret, and others than its owner can read or change it (mode 0644); run: chmod go= /var/lib/pyrsia/keys/vote.key")
	b.do("chmod go= /var/lib/pyrsia/keys/vote.key; systemctl reset-failed pyrsia; systemctl restart pyrsia")
}

// Sealed keys are on the disk only encrypted, and only the unit is given them.
func sealedKeys(b *box) {
	id := b.do("pyrsia id")
	b.want("pyrsia node seal 2>&1 || true", "the node runs; stop it first")
	b.do("systemctl stop pyrsia && pyrsia node seal && systemctl start pyrsia")
	if got := b.do("ls /var/lib/pyrsia/keys"); got != "sealed\nvotes.db" {
		b.t.Errorf("the folder of the keys holds %q", got)
	}
	b.until("pyrsia status --json | grep -q " + id)
	b.do("systemctl start pyrsia-role-build.target && systemctl stop pyrsia-role-build.target")
	b.until("pyrsia status | grep -q '^role *regular$'")

	// Without the credential nothing else takes their place.
	b.do("systemctl stop pyrsia; mv /etc/credstore.encrypted/pyrsia.keys /root/")
	b.fails("systemctl start pyrsia")
	b.logged("-u pyrsia -n 20", "the keys are sealed: those of "+id)
	b.do("mv /root/pyrsia.keys /etc/credstore.encrypted/; systemctl reset-failed pyrsia; systemctl start pyrsia; systemctl stop pyrsia")
	b.do("pyrsia node unseal && test ! -e /etc/credstore.encrypted/pyrsia.keys && systemctl start pyrsia")
	b.until("pyrsia status --json | grep -q " + id)
	b.want("stat -c '%U %a' /var/lib/pyrsia/keys/vote.key", "pyrsia 600")
}

// A hundred reloads of a changed file, one after the other: every request made meanwhile
// is answered, and a download that began before them all is whole.
func reloadsUnderLoad(b *box) {
	b.want(`
		curl -sS -f --limit-rate 8M -o /tmp/big `+mavenOfNode+`/big/1/big-1.jar & download=$!
		(
			for i in $(seq 100); do
				sed -i '/^distribution/d' /etc/pyrsia/pyrsia.hcl
				echo "distribution { upload = \"$((i + 1))MiB/s\" }" >> /etc/pyrsia/pyrsia.hcl
				systemctl reload pyrsia || echo "reload $i failed"
			done
			touch /root/reloaded
		) & reloads=$!
		good=0 all=0
		while [ $all -lt 100 ] || [ ! -e /root/reloaded ]; do
			all=$((all + 1))
			code=$(curl -sS -m 60 -o /dev/null -w '%{http_code}' `+mavenOfNode+`/many/1/many-1-$((all % 50 + 1)).txt) || true
			[ "$code" = 200 ] && good=$((good + 1)) || echo "request $all: $code"
		done
		wait $reloads; wait $download || echo "the download failed"
		cmp /tmp/big /srv/up/org/example/big/1/big-1.jar
		[ $good = $all ] && echo "all were answered" || echo "$good of $all"`, "all were answered")
	b.want("pyrsia config show --effective | grep distribution.upload", "101MiB/s")
	b.do("rm /root/reloaded")
}

// The journal's disk is full: the node goes on, and takes a new configuration.
func fullJournal(b *box) {
	b.do(`
		mkdir -p /var/log/journal && mount -t tmpfs -o size=9M tmpfs /var/log/journal
		systemctl restart systemd-journald && journalctl --flush
		dd if=/dev/zero of=/var/log/journal/full bs=64k 2>/dev/null || true
		df --output=pcent /var/log/journal | tail -1 | grep -q 100%`)
	b.everythingAnswers(51, 400)
	b.do("systemctl reload pyrsia && pyrsia status >/dev/null && systemctl restart pyrsia")
	b.do("umount -l /var/log/journal; systemctl restart systemd-journald; journalctl --flush || true")
}

// everythingAnswers asks for files that nobody has asked for yet, each of which the node
// logs.
func (b *box) everythingAnswers(from, to int) {
	b.t.Helper()
	b.want(fmt.Sprintf("curl -sS -m 120 -o /dev/null -w '%%{http_code}\\n' '%s/many/1/many-1-[%d-%d].txt' | sort | uniq -c", mavenOfNode, from, to), fmt.Sprintf("%d 200", to-from+1))
}

// journald takes nothing for a while: the node waits for it no more than for anybody,
// and says later how much is lost.
func hungJournal(b *box) {
	b.do("kill -STOP $(systemctl show -p MainPID --value systemd-journald)")
	b.everythingAnswers(401, 1499)
	b.do("pyrsia status >/dev/null")
	b.do("kill -CONT $(systemctl show -p MainPID --value systemd-journald)")
	b.do("curl -sf " + mavenOfNode + "/many/1/many-1-1500.txt")
	b.until("journalctl --no-pager -u pyrsia -o cat | grep -q '[0-9] messages are lost: the journal took none'")
	b.do("systemctl is-active pyrsia")
}

// One module hangs, and the others do not: of a build node every write of a vote file or
// log takes for ever, so that the vote on the order stands still. The watchdog ends the
// node for it.
func hungModule(b *box) {
	before := b.do("systemctl show -p MainPID --value pyrsia.service")
	b.do(`
		systemd-run --unit=hang --quiet strace -f -o /tmp/strace -e trace=fdatasync -e inject=fdatasync:delay_enter=600s -p ` + before + `
		systemctl start --no-block pyrsia-role-build.target`)
	b.until("systemctl show -p StatusText pyrsia.service | grep -q 'does not answer'")
	b.want("curl -s "+mavenOfNode+"/many/1/many-1-1.txt", "1") // the others go on
	b.until("journalctl --no-pager -u pyrsia -o cat | grep -q '^a module hangs'")
	b.until("journalctl --no-pager -u pyrsia | grep -q 'Watchdog timeout'")
	b.do("systemctl stop hang")
	b.until("systemctl is-active pyrsia.service && [ $(systemctl show -p MainPID --value pyrsia.service) != " + before + " ] && pyrsia status >/dev/null")
	b.until("journalctl --no-pager -u pyrsia | grep -q 'goroutine [0-9]* .*:$'") // where it hung can be read
	b.until("pyrsia status | grep -q '^role *build$' && systemctl is-active pyrsia-role-build.target pyrsia-buildkitd.service")
	b.do("systemctl stop pyrsia-role-build.target")
}

// The package is upgraded while two clients download: the fast one does not notice, and
// the slow one goes on where it was cut off.
func upgradeUnderLoad(b *box) {
	b.do(`
		dpkg-deb -R /root/pyrsia.deb /root/next && sed -i 's/^Version: .*/Version: 99/' /root/next/DEBIAN/control
		dpkg-deb -b /root/next /root/next.deb >/dev/null`)
	pid := b.do("systemctl show -p MainPID --value pyrsia.service")
	b.do(`
		url=` + mavenOfNode + `/big/1/big-1.jar
		curl -sS -f --limit-rate 6M -o /tmp/fast $url & fast=$!
		curl -sS -f --limit-rate 1M -o /tmp/slow $url & slow=$!
		until [ -s /tmp/fast ] && [ -s /tmp/slow ]; do sleep 0.1; done
		dpkg -i /root/next.deb
		wait $fast
		cmp /tmp/fast /srv/up/org/example/big/1/big-1.jar
		if wait $slow; then echo "the slow one was never cut off" >&2; exit 1; fi
		before=$(stat -c %s /tmp/slow)
		curl -sS -f --retry 20 --retry-connrefused -C - -o /tmp/slow $url
		test $before -gt 1000000
		cmp /tmp/slow /srv/up/org/example/big/1/big-1.jar`)
	b.until("systemctl is-active pyrsia.service && pyrsia status >/dev/null")
	if now := b.do("systemctl show -p MainPID --value pyrsia.service"); now == pid {
		b.t.Error("the upgrade left the old program running")
	}
	b.want("dpkg-query -W -f '${Version}' pyrsia", "99")
}
