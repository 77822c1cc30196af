package display

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/containerd/console"
	"github.com/moby/buildkit/util/progress/progressui"
)

const log = `inputs: 0 of 143 files, 0.0 of 190.0 MB
inputs: 143 of 143 files, 190.0 of 190.0 MB
building pkg:maven/org.acme/x@1, attempt 1
=> sources: done before
=> command 1 of 2: echo a: b
   a: b
   => no step: done in 3.0 s
=> command 1 of 2: echo a: b: done in 62.5 s
=> command 2 of 2: false
   it says` + " \x1b[2Jso\r" + `
=> command 2 of 2: false: process "false" did not complete successfully: exit code: 1
error: build failed: command 2 of 2: exit code 1
=> command 2 of 2: false
=> command 2 of 2: false: done in 0.1 s
`

func TestShow(t *testing.T) {
	var b bytes.Buffer
	d, err := progressui.NewDisplay(&b, progressui.PlainMode)
	if err != nil {
		t.Fatal(err)
	}
	if err := show(t.Context(), strings.NewReader(log), d); err != nil {
		t.Fatal(err)
	}
	got := b.String()
	for _, want := range []string{
		"inputs", "files 190.00MB / 190.00MB", "building pkg:maven/org.acme/x@1, attempt 1", "sources", "CACHED",
		"command 1 of 2: echo a: b\n", "a: b\n", "=> no step: done in 3.0 s\n", "DONE 62.5s", "it says [2Jso\n",
		`ERROR: process "false" did not complete successfully: exit code: 1`, "ERROR: build failed: command 2 of 2: exit code 1",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if strings.ContainsRune(got, '\x1b') {
		t.Error("what a build prints steers the terminal")
	}
}

// TestTerminal: on a real one, steps stand there with their times.
func TestTerminal(t *testing.T) {
	master, name, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := master.Resize(console.WinSize{Width: 100, Height: 40}); err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	screen := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(master) // EIO is its end, when nobody has the other side any more
		screen <- string(text)
	}()
	err = errors.Join(Show(t.Context(), strings.NewReader(log), terminal), terminal.Close())
	if err != nil {
		t.Fatal(err)
	}
	got := <-screen
	for _, want := range []string{"=> command 1 of 2: echo a: b", "62.5s", "CACHED sources", "ERROR command 2 of 2: false"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not on the screen:\n%q", want, got)
		}
	}
}

func TestNoTerminal(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := Show(t.Context(), strings.NewReader(log), file); err == nil {
		t.Error("a file passes for a terminal")
	}
}

// TestStops: a log that does not end is left when nobody looks any more.
func TestStops(t *testing.T) {
	reader, writer := io.Pipe()
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		io.WriteString(writer, "=> a step\n") //nolint:errcheck // the test ends without it
		cancel(errors.New("stopped"))
		writer.CloseWithError(context.Cause(ctx))
	}()
	d, err := progressui.NewDisplay(io.Discard, progressui.QuietMode)
	if err != nil {
		t.Fatal(err)
	}
	if err := show(ctx, reader, d); err == nil || !strings.Contains(err.Error(), "stopped") {
		t.Errorf("%v; want what stopped it", err)
	}
}
