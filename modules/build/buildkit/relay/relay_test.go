package relay_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/build/buildkit/relay"
)

// TestMain lets this program be the command that the relay runs.
func TestMain(m *testing.M) {
	if url := os.Getenv("RELAY_TEST_GET"); url != "" {
		os.Exit(fetch(url))
	}
	os.Exit(m.Run())
}

func fetch(url string) int {
	response, err := http.Get(url)
	if err != nil {
		fmt.Println(err)
		return 3
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || string(body) != strings.Repeat("/path", 10_000) {
		return 4
	}
	return 0
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func serve(t *testing.T) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "mirror.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat(r.URL.Path, 10_000))
	})}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return socket
}

func TestRun(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	socket := serve(t)
	address := freeAddress(t)
	t.Setenv("RELAY_TEST_GET", "http://"+address+"/path")
	var stderr bytes.Buffer
	if code := relay.Run([]string{socket, address, "--", self}, &stderr); code != 0 {
		t.Errorf("exit code %d: %s", code, &stderr)
	}
	for _, test := range []struct {
		arguments []string
		want      int
	}{
		{nil, 125},
		{[]string{socket, address, "sh"}, 125},
		{[]string{socket, "not an address", "--", "true"}, 125},
		{[]string{socket, address, "--", "/no/such/program"}, 127},
		{[]string{socket, address, "--", "sh", "-c", "exit 42"}, 42},
		{[]string{socket, address, "--", "sh", "-c", "kill -9 $$"}, 137},
	} {
		if code := relay.Run(test.arguments, io.Discard); code != test.want {
			t.Errorf("Run(%q) = %d, want %d", test.arguments, code, test.want)
		}
	}
}

// TestServeEnds wants connections that are open at the end closed, and one to a
// socket that is gone closed at once.
func TestServeEnds(t *testing.T) {
	socket := serve(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { relay.Serve(listener, socket); close(ended) }()
	open, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if _, err := io.WriteString(open, "GET / HTTP/1.1\r\nHost: m\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := open.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	gone, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer gone.Close()
	if n, err := gone.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("a connection to nothing reads %d bytes, %v", n, err)
	}
	listener.Close()
	<-ended
	if _, err := io.Copy(io.Discard, open); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
}
