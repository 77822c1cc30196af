package buildkit

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"github.com/pyrsia/appliance/modules/build/buildkit/cage"
)

// maxLogLine cuts a line that a command prints without an end.
const maxLogLine = 16 * 1024

// progress turns BuildKit's status stream into lines that a person reads, and
// remembers which step failed. It is safe for concurrent use.
type progress struct {
	mu      sync.Mutex
	out     io.Writer
	started map[digest.Digest]bool
	over    map[digest.Digest]bool
	names   map[digest.Digest]string
	partial map[digest.Digest][]byte // output without its newline yet
	failed  string                   // name of the first step that failed by itself
	broken  string                   // runc's own complaint, "" if it had none
	ended   string                   // why the cage ended a step, "" if it did not
}

func newProgress(out io.Writer) *progress {
	return &progress{
		out: out, started: map[digest.Digest]bool{}, over: map[digest.Digest]bool{},
		names: map[digest.Digest]string{}, partial: map[digest.Digest][]byte{},
	}
}

// say writes a line of the engine's own.
func (p *progress) say(format string, arguments ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line(fmt.Sprintf(format, arguments...))
}

// line writes one line. What the log's writer answers is not the build's matter.
func (p *progress) line(text string) { io.WriteString(p.out, text+"\n") }

// follow writes until the stream ends.
func (p *progress) follow(stream <-chan *client.SolveStatus) {
	for status := range stream {
		p.status(status)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for d := range p.partial {
		p.flush(d)
	}
}

func (p *progress) status(s *client.SolveStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range s.Vertexes {
		p.begin(v)
	}
	for _, l := range s.Logs {
		p.output(l.Vertex, l.Data)
	}
	for _, v := range s.Vertexes {
		p.end(v)
	}
}

func (p *progress) begin(v *client.Vertex) {
	if v.Started == nil || p.started[v.Digest] {
		return
	}
	p.started[v.Digest] = true
	p.names[v.Digest] = v.Name
	if !v.Cached {
		p.line("=> " + oneLine(v.Name))
	}
}

func (p *progress) end(v *client.Vertex) {
	if v.Completed == nil || p.over[v.Digest] {
		return
	}
	p.over[v.Digest] = true
	p.flush(v.Digest)
	switch {
	case v.Cached:
		p.line("=> " + oneLine(v.Name) + ": done before")
	case v.Error != "":
		p.line("=> " + oneLine(v.Name) + ": " + oneLine(v.Error))
		if p.failed == "" && !strings.Contains(v.Error, "context canceled") {
			p.failed = v.Name
		}
	default:
		p.line(fmt.Sprintf("=> %s: done in %.1f s", oneLine(v.Name), v.Completed.Sub(*v.Started).Seconds()))
	}
}

// output writes whole lines, so that steps that run side by side do not mix
// within one.
func (p *progress) output(d digest.Digest, data []byte) {
	data = append(p.partial[d], data...)
	for {
		line, rest, found := bytes.Cut(data, []byte("\n"))
		if !found && len(data) < maxLogLine {
			break
		}
		if len(line) > maxLogLine {
			line, rest = data[:maxLogLine], data[maxLogLine:]
		}
		p.said(bytes.TrimRight(line, "\r"))
		data = rest
	}
	p.partial[d] = data
}

func (p *progress) flush(d digest.Digest) {
	if len(p.partial[d]) > 0 {
		p.said(p.partial[d])
	}
	delete(p.partial, d)
}

func oneLine(s string) string {
	first, _, more := strings.Cut(strings.TrimSpace(s), "\n")
	if more {
		return first + " …"
	}
	return first
}

// failedStep is the name of the step that failed, "" where none did.
func (p *progress) failedStep() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return oneLine(p.failed)
}

// said writes a line of a step's output. What begins like runc's own complaint
// counts as the machine's failure: runc's exit code tells nothing. A command
// that prints such a line makes its own failure look like ours, and gains a
// bounded number of retries by it.
func (p *progress) said(line []byte) {
	p.line("   " + string(line))
	if p.broken == "" && bytes.HasPrefix(line, []byte("runc run failed: ")) {
		p.broken = string(line)
	}
	if p.ended == "" && bytes.HasPrefix(line, []byte(cage.Exceeded)) {
		p.ended = string(line)
	}
}

// exceeded is why a step was ended, "" where none was. A command that prints such a line
// makes its own failure look so, and gains nothing by it.
func (p *progress) exceeded() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

// brokenRuntime is why runc could not run a step, "" where it could.
func (p *progress) brokenRuntime() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.broken
}
