package libp2p

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/distribution"
	"github.com/pyrsia/appliance/modules/record"
	"github.com/pyrsia/appliance/modules/store/disk"
	"github.com/pyrsia/appliance/modules/store/memory"
	"github.com/pyrsia/appliance/modules/store/storetest"
)

// errand is what a child process is to fetch, in the environment variable of
// that name.
type errand struct {
	Dir        string
	Peer       record.Identity
	Addresses  []string
	Descriptor artifact.Descriptor
}

const errandVariable = "PYRSIA_TEST_ERRAND"

// counting notes how many bytes a download resumes with.
type counting struct {
	room
	resumed int64
}

func (c *counting) Begin(desc artifact.Descriptor) (distribution.Download, error) {
	d, err := c.Store.Begin(desc)
	if err != nil {
		return nil, err
	}
	c.resumed = d.Arrived()
	return d, nil
}

// child fetches into a folder and prints how many bytes it found there.
func child(text string) error {
	var e errand
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return err
	}
	s, err := disk.Open(e.Dir, disk.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	key, counted := seedOf(9), &counting{room: room{s}}
	h, err := New(Config{
		Key: key[:], Peers: map[record.Identity][]string{e.Peer: e.Addresses}, Log: slog.New(slog.DiscardHandler),
	}, counted)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := h.Ready(), make(chan struct{})
	go func() { defer close(done); _ = h.Serve(ctx) }()
	<-ready
	err = h.Fetch(ctx, e.Descriptor)
	fmt.Println(counted.resumed)
	cancel()
	<-done
	return err
}

// kill -9 in the middle of a fetch; the next process goes on where it was.
func TestKilledInTheMiddle(t *testing.T) {
	data := storetest.Random(24<<20, 1)
	full := memory.New()
	desc := put(t, full, data)
	a := start(t, 1, full, func(c *Config) { c.UploadRate = 12 << 20 })
	dir := t.TempDir()
	text, err := json.Marshal(errand{dir, a.Identity(), a.addresses(), desc})
	if err != nil {
		t.Fatal(err)
	}
	run := func() (*exec.Cmd, *bytes.Buffer) {
		var out bytes.Buffer
		c := exec.CommandContext(t.Context(), os.Args[0])
		c.Env = append(os.Environ(), errandVariable+"="+string(text))
		c.Stdout, c.Stderr = &out, os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		return c, &out
	}
	sent := func() int64 {
		for _, p := range a.Peers() {
			return p.Out
		}
		return 0
	}
	first, _ := run()
	storetest.Await(t, func() bool { return sent() > 8<<20 })
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	second, out := run()
	if err := second.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var resumed int64
	if _, err := fmt.Sscan(out.String(), &resumed); err != nil {
		t.Fatal(err)
	}
	t.Logf("the second process found %d of %d bytes", resumed, desc.Size)
	if resumed < 4<<20 || resumed >= desc.Size {
		t.Error("it did not go on where the first one was")
	}
	s, err := disk.Open(dir, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !bytes.Equal(storetest.Content(t, s, desc.SHA256), data) {
		t.Error("other bytes")
	}
}
