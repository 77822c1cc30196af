package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
)

// Ports for nodes are below those that kernels take for outgoing connections
// (ip(7), ip_local_port_range), which come and go all the time: one of them at a
// node's port, while the node does not run, would keep it from starting.
const (
	firstPort = 10_000
	lastPort  = 32_000
)

// A process gives no port twice, and begins at a place of chance, so that
// another one seldom gives the same.
var (
	begin  = rand.IntN(lastPort - firstPort)
	looked atomic.Int64 // how many ports freePort has looked at
)

// freePort is a port of the loopback that nobody listens on. Somebody else may
// take it before it is used: whoever uses it tries again.
func freePort() (int, error) {
	for range lastPort - firstPort {
		port := firstPort + (begin+int(looked.Add(1)))%(lastPort-firstPort)
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return port, listener.Close()
		}
	}
	return 0, errors.New("no port of the loopback is free")
}

// CheckPort tells in one sentence who stands in the way at an address.
func CheckPort(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%s is in use by another program; `ss -ltnp` shows which, stop it and try again", address)
	}
	return listener.Close()
}
