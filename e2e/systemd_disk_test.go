//go:build slow

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// disk is a file system of a machine's, on a file of the host's, that fails as disks do.
type disk struct {
	t             *testing.T
	image, folder string // where it is mounted on the host
}

// newDisk mounts one in a machine that is off.
func newDisk(t *testing.T, size, folder string) *disk {
	t.Helper()
	d := &disk{t, filepath.Join(t.TempDir(), "image"), folder}
	d.run("truncate", "-s", size, d.image)
	d.run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", d.image)
	d.run("mkdir", "-p", folder)
	d.run("mount", "-o", "loop,errors=remount-ro", d.image, folder)
	t.Cleanup(func() { d.run("umount", "--lazy", folder) })
	return d
}

func (d *disk) run(name string, arguments ...string) string {
	d.t.Helper()
	out, err := exec.Command(name, arguments...).CombinedOutput()
	if err != nil {
		d.t.Fatalf("%s %v: %v\n%s", name, arguments, err, out)
	}
	return strings.TrimSpace(string(out))
}

// hang makes whoever writes to it wait, until the function that it returns is called.
func (d *disk) hang() (release func()) {
	d.t.Helper()
	d.run("fsfreeze", "--freeze", d.folder)
	released := false
	release = func() {
		if !released {
			released = true
			d.run("fsfreeze", "--unfreeze", d.folder)
		}
	}
	d.t.Cleanup(release)
	return release
}

// fail has the kernel find an error on it, after which it cannot be written to.
func (d *disk) fail() {
	d.t.Helper()
	device := filepath.Base(d.run("findmnt", "--noheadings", "--output", "SOURCE", d.folder))
	if err := os.WriteFile(filepath.Join("/sys/fs/ext4", device, "trigger_fs_error"), []byte("a test\n"), 0); err != nil {
		d.t.Fatal(err)
	}
}

// TestSlowSystemdDisk is a node whose disk is full, hangs, and fails.
func TestSlowSystemdDisk(t *testing.T) {
	b := installed(t, "trixie")
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	d := newDisk(t, "200M", filepath.Join(b.Root(), "var/lib/pyrsia"))
	if err := b.Start(timely(t)); err != nil {
		t.Fatal(err)
	}
	b.do("chown pyrsia:pyrsia /var/lib/pyrsia && chmod 0700 /var/lib/pyrsia")
	for _, story := range []struct {
		name string
		tell func(*box)
	}{
		{"an upstream", hasAnUpstream},
		{"a full disk", fullDisk},
		{"a disk that hangs", func(b *box) { hungDisk(b, d) }},
		{"a disk that fails", func(b *box) { failedDisk(b, d) }},
	} {
		if !t.Run(story.name, func(t *testing.T) { story.tell(&box{b.Machine, t}) }) {
			return // what follows builds on it
		}
	}
}

// On a full disk the node serves what it has, and says of what it cannot pass through why:
// the status is one after which clients ask another mirror.
func fullDisk(b *box) {
	b.do("for bs in 64k 1k; do dd if=/dev/zero of=/var/lib/pyrsia/full.$bs bs=$bs 2>/dev/null || true; done; df --output=pcent /var/lib/pyrsia | tail -1 | grep -q 100%")
	b.want("curl -s "+mavenOfNode+"/many/1/many-1-1.txt", "1")
	b.want("curl -s -w '%{http_code}' "+mavenOfNode+"/many/1/many-1-2.txt", "no space left on device\n503")
	b.until("journalctl --no-pager -u pyrsia | grep -q 'an unverified file is not kept.*no space left on device'")
	b.want("pyrsia doctor || true", "is free where /var/lib/pyrsia is; free some space")
	b.do("pyrsia status >/dev/null && systemctl reload pyrsia")
	b.do("rm /var/lib/pyrsia/full.*")
	b.want("curl -s "+mavenOfNode+"/many/1/many-1-3.txt", "3")
	b.until("journalctl --no-pager -u pyrsia | grep -q 'unverified file passed path=org/example/many/1/many-1-3.txt'")
}

// While the disk takes no writes, the node serves what it has and answers its operator;
// what waits for the disk is answered when that comes back.
func hungDisk(b *box, d *disk) {
	release := d.hang()
	b.do("curl -sf -m 200 -o /tmp/waits " + mavenOfNode + "/many/1/many-1-4.txt >/dev/null 2>&1 & echo $! > /tmp/waiting")
	b.want("curl -s "+mavenOfNode+"/many/1/many-1-1.txt", "1")
	b.do("curl -sf -o /tmp/big " + mavenOfNode + "/big/1/big-1.jar && cmp /tmp/big /srv/up/org/example/big/1/big-1.jar")
	b.do("pyrsia status >/dev/null && kill -0 $(cat /tmp/waiting)")
	release()
	b.until("[ $(cat /tmp/waits) = 4 ]")
	b.do("systemctl is-active pyrsia.service")
}

// On a disk that can no more be written to, the node serves what it has, and says so; it
// does not start on one.
func failedDisk(b *box, d *disk) {
	d.fail()
	b.fails("touch /var/lib/pyrsia/x")
	b.want("curl -s "+mavenOfNode+"/many/1/many-1-1.txt", "1")
	b.want("curl -s -w '%{http_code}' "+mavenOfNode+"/many/1/many-1-5.txt", "read-only file system\n503")
	b.want("pyrsia doctor || true", "/var/lib/pyrsia is on a disk that cannot be written to; mount it for writing, or set storage.data elsewhere")
	b.fails("systemctl restart pyrsia")
	b.logged("-u pyrsia -n 30", "mount that disk for writing, or choose another folder, and run this again")
}
