package systemd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"
)

// journalSocket is where journald takes entries (systemd's native journal protocol,
// systemd.io/JOURNAL_NATIVE_PROTOCOL).
const journalSocket = "/run/systemd/journal/socket"

// What one entry may hold, in bytes: it must fit in a datagram, of which Linux lets a
// process have 208 KiB under way.
const (
	maxField = 48 << 10
	maxEntry = 160 << 10
)

// Field is one field of an entry in the system's journal. Names are those of
// systemd.journal-fields(7): capital letters, digits and underscores.
type Field struct{ Name, Value string }

// Journald takes entries with fields. It never waits: what journald does not take at
// once is lost, and counted. A node must not stand still because its machine's log
// does. It is safe for concurrent use.
type Journald struct {
	socket int
	to     string

	mu   sync.Mutex // guards lost
	lost int        // entries since the last one that arrived
}

// JournaldFromEnvironment is the journal that this process's standard error goes to, nil
// if that goes elsewhere.
func JournaldFromEnvironment() *Journald {
	if is, err := journal.StderrIsJournalStream(); err != nil || !is {
		return nil
	}
	if _, err := os.Stat(journalSocket); err != nil {
		return nil
	}
	j, err := newJournald(journalSocket)
	if err != nil {
		return nil // its standard error does as well
	}
	return j
}

func newJournald(to string) (*Journald, error) {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("the system's journal: %w", err)
	}
	return &Journald{socket: socket, to: to}, nil
}

// Close ends it.
func (j *Journald) Close() error { return unix.Close(j.socket) }

// Send hands an entry over, after a word on those that were lost before it. The error is
// one of an entry that is lost itself.
func (j *Journald) Send(fields ...Field) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.lost > 0 {
		said := []Field{
			{"MESSAGE", fmt.Sprintf("%d messages are lost: the journal took none", j.lost)},
			{"PRIORITY", "4"}, {"SYSLOG_IDENTIFIER", "pyrsia"}, {"PYRSIA_LOST", strconv.Itoa(j.lost)},
		}
		if err := j.send(said); err != nil {
			j.lost++
			return err
		}
		j.lost = 0
	}
	err := j.send(fields)
	if err != nil {
		j.lost++
	}
	return err
}

func (j *Journald) send(fields []Field) error {
	var entry strings.Builder
	for _, f := range fields {
		value := f.Value
		if len(value) > maxField {
			value = value[:maxField] + "…"
		}
		if entry.Len()+len(value) > maxEntry {
			break
		}
		write(&entry, f.Name, value)
	}
	for {
		err := unix.Sendto(j.socket, []byte(entry.String()), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, &unix.SockaddrUnix{Name: j.to})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// write adds a field: as a line, or with its length in front where it has lines itself.
func write(entry *strings.Builder, name, value string) {
	if !strings.Contains(value, "\n") {
		entry.WriteString(name + "=" + value + "\n")
		return
	}
	length := binary.LittleEndian.AppendUint64(nil, uint64(len(value)))
	entry.WriteString(name + "\n" + string(length) + value + "\n")
}
