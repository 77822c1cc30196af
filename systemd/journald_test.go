package systemd

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listening is a journald of which a test reads.
func listening(t *testing.T) (*Journald, *net.UnixConn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	j, err := newJournald(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j, conn
}

func next(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 1<<20)
	n, err := conn.Read(data)
	if err != nil {
		t.Fatal(err)
	}
	return string(data[:n])
}

func TestJournaldFormat(t *testing.T) {
	j, conn := listening(t)
	if err := j.Send(Field{"MESSAGE", "block"}, Field{"PYRSIA_STACK", "a\nb"}, Field{"PYRSIA_HEIGHT", "7"}); err != nil {
		t.Fatal(err)
	}
	if got, want := next(t, conn), "MESSAGE=block\nPYRSIA_STACK\n\x03\x00\x00\x00\x00\x00\x00\x00a\nb\nPYRSIA_HEIGHT=7\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestJournaldCutsWhatIsTooLong(t *testing.T) {
	j, conn := listening(t)
	long := strings.Repeat("x", 1<<20)
	if err := j.Send(Field{"MESSAGE", "a"}, Field{"A", long}, Field{"B", long}, Field{"C", long}, Field{"D", long}); err != nil {
		t.Fatal(err)
	}
	got := next(t, conn)
	if !strings.HasPrefix(got, "MESSAGE=a\nA=xxx") || len(got) > maxEntry+1024 || !strings.HasSuffix(got, "…\n") {
		t.Errorf("%d bytes: %.40q … %q", len(got), got, got[len(got)-20:])
	}
}

// A journald that hangs holds nobody up; what it missed it is told.
func TestJournaldThatHangs(t *testing.T) {
	j, conn := listening(t)
	taken, lost := 0, 0
	for lost < 5 && taken < 100_000 {
		switch err := j.Send(Field{"MESSAGE", "one of many"}); {
		case err == nil:
			taken++
		case errors.Is(err, unix.EAGAIN):
			lost++
		default:
			t.Fatal(err)
		}
	}
	if lost != 5 {
		t.Fatalf("%d lost of %d, want 5 for a full queue", lost, taken)
	}
	for range taken {
		next(t, conn)
	}
	if err := j.Send(Field{"MESSAGE", "again"}); err != nil {
		t.Fatal(err)
	}
	if got := next(t, conn); !strings.Contains(got, "MESSAGE=5 messages are lost") || !strings.Contains(got, "PYRSIA_LOST=5\n") {
		t.Errorf("%q, want 5 lost", got)
	}
	if got := next(t, conn); got != "MESSAGE=again\n" {
		t.Errorf("%q after it", got)
	}
}
