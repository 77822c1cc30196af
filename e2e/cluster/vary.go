package cluster

import (
	"fmt"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Machine is how the machine looks to a buildkitd of a cluster: what reprotest
// varies between two builds that should make the same bytes. Its zero value is this
// machine as it is. Of a cluster that does not outlive its program it can vary Folder,
// Env and Runc alone: the kernel ends a process with the thread that started it.
type Machine struct {
	Host   string   // host name; "" for this machine's
	CPUs   int      // how many it may use, the first ones; 0 for all
	Umask  int      // of the daemon; 0 for this program's
	Folder string   // below the node's own, for its root; "" for none
	Env    []string // "NAME=value", beside this program's own
	Runc   string   // program that the step's bounds run in runc's place; "" for runc
}

// within starts a process on a thread that sees the machine so. What a thread of its
// own has unshared goes with it: it is never used again.
func (m Machine) within(start func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked, so that the thread ends here
		done <- m.enter(start)
	}()
	return <-done
}

func (m Machine) enter(start func() error) error {
	if err := unix.Unshare(unix.CLONE_NEWUTS | unix.CLONE_FS); err != nil {
		return fmt.Errorf("vary the machine: unshare: %w", err)
	}
	if m.Host != "" {
		if err := unix.Sethostname([]byte(m.Host)); err != nil {
			return fmt.Errorf("vary the machine: host name: %w", err)
		}
	}
	if m.Umask != 0 {
		syscall.Umask(m.Umask)
	}
	if m.CPUs != 0 {
		var set unix.CPUSet
		for i := range m.CPUs {
			set.Set(i)
		}
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("vary the machine: processors: %w", err)
		}
	}
	return start()
}
