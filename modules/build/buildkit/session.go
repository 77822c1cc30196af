package buildkit

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"

	"github.com/moby/buildkit/session/sshforward"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// mirrorID names the socket that leads to the mirror.
const mirrorID = "mirror"

// mirrorSession serves a job's mirror to the inside of its build. BuildKit
// makes a Unix socket there and forwards each connection over the job's own
// session as a raw stream of bytes; no port is opened on this machine, and
// nothing but the handler can be reached.
//
// An end of file does not pass through such a socket in both directions, so a
// peer must never need it: the server keeps idle connections open, since their
// closing would not be seen.
type mirrorSession struct {
	server      *http.Server
	connections chan net.Conn
	done        chan struct{}
	once        sync.Once
	pumps       sync.WaitGroup
	served      chan error
}

// serveMirror starts serving; close ends it and joins its goroutines.
func serveMirror(handler http.Handler) *mirrorSession {
	m := &mirrorSession{
		server:      &http.Server{Handler: handler, MaxHeaderBytes: 64 << 10},
		connections: make(chan net.Conn), done: make(chan struct{}), served: make(chan error, 1),
	}
	go func() { m.served <- m.server.Serve(m) }()
	return m
}

func (m *mirrorSession) close() {
	m.Close()
	m.server.Close()
	<-m.served
	m.pumps.Wait()
}

// Accept, Close and Addr implement net.Listener for the server.

// Accept implements net.Listener.
func (m *mirrorSession) Accept() (net.Conn, error) {
	select {
	case c := <-m.connections:
		return c, nil
	case <-m.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (m *mirrorSession) Close() error {
	m.once.Do(func() { close(m.done) })
	return nil
}

// Addr implements net.Listener.
func (m *mirrorSession) Addr() net.Addr { return &net.UnixAddr{Name: mirrorID, Net: "unix"} }

// Register implements session.Attachable.
func (m *mirrorSession) Register(server *grpc.Server) { sshforward.RegisterSSHServer(server, m) }

// CheckAgent implements sshforward.SSHServer.
func (m *mirrorSession) CheckAgent(_ context.Context, r *sshforward.CheckAgentRequest) (*sshforward.CheckAgentResponse, error) {
	if r.ID != mirrorID {
		return nil, status.Errorf(codes.NotFound, "this build has no socket %q", r.ID)
	}
	return &sshforward.CheckAgentResponse{}, nil
}

// ForwardAgent implements sshforward.SSHServer: one connection to the mirror.
func (m *mirrorSession) ForwardAgent(stream sshforward.SSH_ForwardAgentServer) error {
	near, far := net.Pipe()
	defer near.Close()
	select {
	case m.connections <- far:
	case <-m.done:
		return status.Error(codes.Unavailable, "the build has ended")
	case <-stream.Context().Done():
		return context.Cause(stream.Context())
	}
	// The pump ends when this method returns: that ends the stream, and with it
	// Recv. close joins it.
	m.pumps.Go(func() {
		defer near.Close()
		for {
			message, err := stream.Recv()
			if err != nil {
				return
			}
			if _, err := near.Write(message.Data); err != nil {
				return
			}
		}
	})
	buffer := make([]byte, 64*1024)
	for {
		n, err := near.Read(buffer)
		if n > 0 {
			if err := stream.Send(&sshforward.BytesMessage{Data: append([]byte(nil), buffer[:n]...)}); err != nil {
				return err
			}
		}
		if err != nil {
			return ignoreClosed(err)
		}
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}
