package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manager is the other end: what a service manager hears.
type manager struct {
	*net.UnixConn
	path string
}

func listen(t *testing.T) *manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &manager{conn, path}
}

// heard is the next message, and the file that came with it, nil for none.
func (m *manager) heard(t *testing.T) (string, *os.File) {
	t.Helper()
	message, rights := make([]byte, 4096), make([]byte, 4096)
	if err := m.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, r, _, _, err := m.ReadMsgUnix(message, rights)
	if err != nil {
		t.Fatal(err)
	}
	controls, err := unix.ParseSocketControlMessage(rights[:r])
	if err != nil || len(controls) == 0 {
		return string(message[:n]), nil
	}
	files, err := unix.ParseUnixRights(&controls[0])
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	return string(message[:n]), os.NewFile(uintptr(files[0]), "kept")
}

func TestTell(t *testing.T) {
	other := listen(t)
	t.Setenv("NOTIFY_SOCKET", other.path)
	t.Setenv("WATCHDOG_USEC", "30000000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	m, err := FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	if m.Watchdog() != 30*time.Second || os.Getenv("NOTIFY_SOCKET") != "" || os.Getenv("WATCHDOG_USEC") != "" {
		t.Errorf("watchdog %v, environment %q", m.Watchdog(), os.Environ())
	}
	for want, tell := range map[string]func() error{
		"READY=1\nSTATUS=serving; height 7": func() error { return m.Ready("serving;\nheight 7") },
		"STATUS=two lines":                  func() error { return m.Status("two\n lines\n") },
		"STOPPING=1":                        m.Stopping,
		"WATCHDOG=1":                        m.Alive,
	} {
		if err := tell(); err != nil {
			t.Error(err)
		}
		if got, _ := other.heard(t); got != want {
			t.Errorf("heard %q, want %q", got, want)
		}
	}
}

func TestNobodyThere(t *testing.T) {
	m, err := FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.Ready("x"), m.Alive(), m.Stopping(), m.Forget()); err != nil || m.Watchdog() != 0 {
		t.Errorf("%v, %v", err, m.Watchdog())
	}
	l, err := m.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	if m, err = FromEnvironment(); err != nil {
		t.Fatal(err)
	}
	if err := m.Ready("x"); err == nil || !strings.Contains(err.Error(), "service manager") {
		t.Error(err)
	}
}

// A listener outlives the process: a child gets what the manager kept of its parent,
// and a connection that was made in between is answered.
func TestListenerIsKept(t *testing.T) {
	if address := os.Getenv("SYSTEMD_TEST_CHILD"); address != "" {
		child(t, address)
		return
	}
	other := listen(t)
	t.Setenv("NOTIFY_SOCKET", other.path)
	m, err := FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	l, err := m.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	message, kept := other.heard(t)
	if want := "FDSTORE=1\nFDNAME=registry-" + strings.ReplaceAll(address, ":", "_"); message != want || kept == nil {
		t.Fatalf("heard %q, want %q", message, want)
	}
	l.Close() // the parent is gone
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatalf("refused while nobody serves: %v", err)
	}
	defer conn.Close()
	again := exec.Command("/bin/sh", "-c", `export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a:b; exec "$0" -test.run '^TestListenerIsKept$'`, os.Args[0])
	spare, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer spare.Close()
	file, err := spare.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	again.ExtraFiles = []*os.File{kept, file}
	again.Env = append(os.Environ(), "SYSTEMD_TEST_CHILD="+address, "NOTIFY_SOCKET="+other.path)
	out, err := again.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	answer := make([]byte, 5)
	if _, err := conn.Read(answer); err != nil || string(answer) != "hello" {
		t.Errorf("%q, %v", answer, err)
	}
	for _, want := range []string{spare.Addr().String(), address} {
		message, _ := other.heard(t)
		if want = "FDSTOREREMOVE=1\nFDNAME=registry-" + strings.ReplaceAll(want, ":", "_"); message != want {
			t.Errorf("heard %q, want %q", message, want)
		}
	}
}

func child(t *testing.T, address string) {
	m, err := FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	l, err := m.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Error(err)
	}
	conn.Close()
	if err := m.Forget(); err != nil { // what nobody took
		t.Error(err)
	}
	if err := m.Forget(l.Addr()); err != nil { // and what nobody needs any more
		t.Error(err)
	}
}

func TestSameHost(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{{"0.0.0.0", "::", true}, {"", "::", true}, {"127.0.0.1", "127.0.0.1", true}, {"127.0.0.1", "0.0.0.0", false}, {"::1", "127.0.0.1", false}} {
		if got := sameHost(net.ParseIP(c.a), net.ParseIP(c.b)); got != c.want {
			t.Errorf("%s and %s: %v", c.a, c.b, got)
		}
	}
}
