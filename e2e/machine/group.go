package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pyrsia/appliance/e2e/cluster"
)

// group is a control group: by it all processes of a container are found and
// killed, whatever they did to hide. Without one of its own, systemd-nspawn uses
// the group that it was started in, which two machines would share.
type group struct{ path string }

// prefix is of the names of all groups that this package makes. After it come the
// process number of the maker and something by chance.
const prefix = "pyrsia-machine-"

// newGroup makes an empty group, and removes those of programs that were killed.
func newGroup() (*group, error) {
	folder, err := hierarchy()
	if err != nil {
		return nil, fmt.Errorf("find the host's cgroup2: %w; a machine needs root and a kernel of 5.14 or newer", err)
	}
	sweep(folder)
	path, err := os.MkdirTemp(folder, fmt.Sprintf("%s%d-", prefix, os.Getpid()))
	if err != nil {
		return nil, fmt.Errorf("make a cgroup: %w", err)
	}
	return &group{path: path}, nil
}

// hierarchy is the folder of all groups: where the host has cgroup2, if it does.
var hierarchy = sync.OnceValues(func() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == "cgroup2" {
			return fields[1], nil
		}
	}
	return mountHierarchy()
})

// mountHierarchy mounts cgroup2 at no place, so that none can be left: it goes with
// this program. It is only for a host without cgroup2, since a second mount changes
// the options of the first.
func mountHierarchy() (string, error) {
	system, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", err
	}
	defer unix.Close(system)
	if err := unix.FsconfigCreate(system); err != nil {
		return "", err
	}
	mount, err := unix.Fsmount(system, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("/proc/self/fd/%d", mount), nil
}

// sweep removes the groups of programs that are gone, and with them all that they
// ran. What another program sweeps at the same time is gone all the same.
func sweep(folder string) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return
	}
	for _, entry := range entries {
		rest, ours := strings.CutPrefix(entry.Name(), prefix)
		number, _, _ := strings.Cut(rest, "-")
		pid, err := strconv.Atoi(number)
		if !ours || err != nil {
			continue
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); errors.Is(err, fs.ErrNotExist) {
			removeEmpty(filepath.Join(folder, entry.Name())) //nolint:errcheck // nobody waits for it
		}
	}
}

// removeEmpty removes a group and those below it. It fails with a group that has
// processes.
func removeEmpty(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		if err := removeEmpty(filepath.Join(path, entry.Name())); err != nil {
			return err
		}
	}
	if err := unix.Rmdir(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove cgroup %s: %w", filepath.Base(path), err)
	}
	return nil
}

// below makes a group in this one. It is removed with the whole at the latest.
func (g *group) below(name string) (*group, error) {
	path := filepath.Join(g.path, name)
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, err
	}
	return &group{path: path}, nil
}

// kill kills all processes in the group and below it.
func (g *group) kill() error {
	file, err := os.OpenFile(filepath.Join(g.path, "cgroup.kill"), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the group is gone, so all in it had ended
	}
	if err != nil {
		return err
	}
	_, err = file.WriteString("1")
	return errors.Join(err, file.Close())
}

// processes are the numbers of those in a group below this one.
func (g *group) processes(name string) []int {
	data, err := os.ReadFile(filepath.Join(g.path, name, "cgroup.procs"))
	if err != nil {
		return nil // there is no such group, so nobody is in it
	}
	var found []int
	for _, field := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			found = append(found, pid)
		}
	}
	return found
}

// remove kills what is in the group, waits until it is gone, and removes it.
func (g *group) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), killLimit)
	defer cancel()
	if err := g.kill(); err != nil {
		return fmt.Errorf("kill a machine's cgroup: %w", err)
	}
	err := cluster.Until(ctx, func() (bool, error) {
		events, err := os.ReadFile(filepath.Join(g.path, "cgroup.events"))
		return bytes.Contains(events, []byte("populated 0")), err
	})
	if err != nil {
		return fmt.Errorf("wait for a machine's processes to end: %w", err)
	}
	return removeEmpty(g.path)
}
