package machine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pyrsia/appliance/e2e/cluster"
)

// baseVersion is of what this file makes of a suite and packages. Whoever changes
// that raises it, so that no tree of an earlier version is taken.
const baseVersion = 1

// basePackages are in every machine: systemd, the bus that its tools speak, names
// for the users that it makes for units, and what tests look around with.
var basePackages = []string{"systemd", "systemd-sysv", "dbus", "libnss-systemd", "ca-certificates", "iproute2", "procps"}

// leftOut are the files of packages that no test reads, and that would be copied
// for each machine.
var leftOut = []string{"/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*"}

// masked are units that only cost time in a container, write to its console, or
// do at some time what no test expects.
var masked = []string{
	"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer",
	"console-getty.service", "container-getty@.service", "getty@.service", "serial-getty@.service",
	"systemd-firstboot.service", "systemd-networkd-wait-online.service", "systemd-pstore.service",
}

// keyring has the keys of all suites that a machine can be of, whatever the
// host's own is.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// findBase is the tree that machines of a suite with packages are copied from. It
// is made where there is none: by one program at a time, and seen by others only
// when it is whole.
func findBase(ctx context.Context, spec Spec) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache of base trees: %w", err)
	}
	cache = filepath.Join(cache, "pyrsia-machine")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", fmt.Errorf("make the cache of base trees: %w", err)
	}
	packages := packages(spec)
	base := filepath.Join(cache, baseName(spec.Suite, packages))
	if exists(base) {
		return base, nil
	}
	unlock, err := lock(ctx, base+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(base) {
		return base, nil // made by the one who had the lock
	}
	began := time.Now()
	fmt.Fprintf(spec.Log, "making %s of %s: a minute or two, once\n", base, strings.Join(packages, " "))
	if err := makeBase(ctx, spec.Suite, packages, base); err != nil {
		return "", err
	}
	fmt.Fprintf(spec.Log, "made %s in %s\n", base, time.Since(began).Round(time.Second))
	return base, nil
}

// packages are all that a machine has, sorted, each once.
func packages(spec Spec) []string {
	all := slices.Concat(basePackages, spec.Packages)
	slices.Sort(all)
	return slices.Compact(all)
}

func baseName(suite string, packages []string) string {
	sum := sha256.Sum256([]byte(fmt.Sprint(baseVersion, runtime.GOARCH, packages)))
	return suite + "-" + hex.EncodeToString(sum[:8])
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// lock waits until no other has the lock of this name. It ends with its holder.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = cluster.Until(ctx, func() (bool, error) {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("wait for %s, which another program holds while it makes a base tree: %w", path, err)
	}
	return func() { file.Close() }, nil
}

// makeBase makes a base tree. The caller has its lock, so what lies at the place
// of an unfinished one is of a program that was killed.
func makeBase(ctx context.Context, suite string, packages []string, base string) error {
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	unfinished, log := base+".new", base+".log"
	if err := os.RemoveAll(unfinished); err != nil {
		return fmt.Errorf("remove an unfinished base tree: %w", err)
	}
	arguments, err := mmdebstrap(ctx, suite, packages, unfinished)
	if err != nil {
		return err
	}
	// Mounts and processes of its own, which end with it however it ends.
	within := []string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "mmdebstrap"}
	command := exec.CommandContext(ctx, "unshare", append(within, arguments...)...)
	// The suite's tools and scripts: no language that it lacks, no questions.
	command.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "PATH="+path)
	out, err := output(command)
	if kept := os.WriteFile(log, []byte(out), 0o600); kept != nil {
		return kept
	}
	if err == nil {
		err = finish(unfinished)
	}
	if err == nil {
		err = os.Rename(unfinished, base)
	}
	if err != nil {
		removed := os.RemoveAll(unfinished)
		return errors.Join(fmt.Errorf("make a base tree of %s: %w; %s ends with: %s", suite, errors.Join(err, ctx.Err()), log, lastLines(out, 5)), removed)
	}
	return nil
}

// mmdebstrap are the arguments that have it make a tree from where the host's own
// packages come from.
func mmdebstrap(ctx context.Context, suite string, packages []string, tree string) ([]string, error) {
	archive, err := hostArchive(ctx)
	if err != nil {
		return nil, err
	}
	options, err := hostOptions(ctx)
	if err != nil {
		return nil, err
	}
	// apt's own user cannot reach the user's cache.
	options = append(options, `APT::Sandbox::User "root"`, `Acquire::Languages "none"`)
	arguments := []string{"--mode=root", "--format=directory", "--variant=essential", "--include=" + strings.Join(packages, ",")}
	for _, option := range options {
		arguments = append(arguments, "--aptopt="+option)
	}
	for _, pattern := range leftOut {
		arguments = append(arguments, "--dpkgopt=path-exclude="+pattern)
	}
	return append(arguments, suite, tree, fmt.Sprintf("deb [signed-by=%s] %s %s main", keyring, archive, suite)), nil
}

// hostArchive is the address of the archive that the host's Debian comes from,
// which has the other suites, too.
func hostArchive(ctx context.Context) (string, error) {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", err
	}
	// Nothing of what apt has fetched is asked for: it may have fetched nothing.
	out, err := output(exec.CommandContext(ctx, "apt-get", "indextargets", "--no-release-info",
		"--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"))
	if err != nil {
		return "", fmt.Errorf("ask apt-get for its sources: %w: %s", err, lastLines(out, 1))
	}
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[2] == "main" && isSuite(fields[1], string(release)) {
			return fields[0], nil
		}
	}
	return "", errors.New("apt's sources name no archive of Debian's own suite with main; mend them, see `apt-get indextargets`")
}

// isSuite tells whether a name is that of a whole suite of Debian, none of those
// beside it for updates, and not of another vendor's archive.
func isSuite(name, release string) bool {
	if slices.Contains([]string{"stable", "oldstable", "testing", "unstable", "sid"}, name) {
		return true
	}
	return strings.Contains(release, "\nVERSION_CODENAME="+name+"\n")
}

// hostOptions are the host's settings of how apt fetches: mmdebstrap's apt reads
// none of them, and the archive may not be reached without.
func hostOptions(ctx context.Context) ([]string, error) {
	out, err := output(exec.CommandContext(ctx, "apt-config", "dump", "--no-empty"))
	if err != nil {
		return nil, fmt.Errorf("ask apt-config for its settings: %w: %s", err, lastLines(out, 1))
	}
	options := []string{`Dir::Etc::netrc "/etc/apt/auth.conf"`, `Dir::Etc::netrcparts "/etc/apt/auth.conf.d"`}
	for line := range strings.Lines(out) {
		if fetching.MatchString(line) {
			options = append(options, strings.TrimSpace(line))
		}
	}
	return options, nil
}

// fetching are the settings of apt by which it reaches an archive.
var fetching = regexp.MustCompile(`^Acquire::(https?::|Check-|Max-ValidTime|Retries|ForceIPv|Proxy-Auto-Detect)`)

// finish makes a machine's root of what mmdebstrap made.
func finish(tree string) error {
	// The host's name and resolver, and apt's settings: passwords may be in them.
	for _, name := range []string{"etc/hostname", "etc/resolv.conf", "etc/machine-id", "etc/apt/sources.list", "etc/apt/apt.conf.d/99mmdebstrap"} {
		if err := os.Remove(filepath.Join(tree, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, unit := range masked {
		if err := mask(filepath.Join(tree, "etc/systemd/system", unit)); err != nil {
			return err
		}
	}
	// Journals that survive a reboot and a kill.
	if err := os.MkdirAll(filepath.Join(tree, "var/log/journal"), 0o755); err != nil {
		return err
	}
	// systemd would do again at the first boot what the packages' scripts did.
	for _, name := range []string{"etc/.updated", "var/.updated"} {
		if err := os.WriteFile(filepath.Join(tree, name), nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// mask does what `systemctl mask` does.
func mask(unit string) error {
	if err := os.Remove(unit); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink("/dev/null", unit)
}
