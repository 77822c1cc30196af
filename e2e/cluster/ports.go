package cluster

import (
	"fmt"
	"net"
)

// freePort is a port of the loopback that the kernel had to spare a moment ago.
// Somebody else may take it before it is used: whoever uses it tries again.
func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// CheckPort tells in one sentence who stands in the way at an address.
func CheckPort(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%s is in use by another program; `ss -ltnp` shows which, stop it and try again", address)
	}
	return listener.Close()
}
