package systemd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// ListenBeside listens on a TCP address that overlaps one that this process listens on
// already, such as every address beside one of them, with the same port; other processes
// still cannot. Connections go to the more precise one while both are open. The kernel
// lets two sockets overlap while both are marked (SO_REUSEPORT, socket(7)), which they are
// for this moment only.
func ListenBeside(own net.Listener, address string) (l net.Listener, err error) {
	if err := reusePort(own, 1); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, reusePort(own, 0)) }()
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error { return mark(raw, 1) }}
	if l, err = config.Listen(context.Background(), "tcp", address); err != nil {
		return nil, err
	}
	if err := reusePort(l, 0); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func reusePort(l net.Listener, value int) error {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return fmt.Errorf("a %T is no TCP listener", l)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	return mark(raw, value)
}

func mark(raw syscall.RawConn, value int) (err error) {
	failed := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, value)
	})
	return errors.Join(failed, err)
}
