// Package display is a build's log as BuildKit shows its builds on a terminal: steps with
// their times, those under way with the last lines of their output, and inputs with how
// much of them is there.
package display

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
	digest "github.com/opencontainers/go-digest"
)

// Show shows a log, whose lines are those of the build engine and of the node, until it
// ends. The file must be a terminal.
func Show(ctx context.Context, log io.Reader, terminal *os.File) error {
	d, err := progressui.NewDisplay(terminal, progressui.TtyMode)
	if err != nil {
		return fmt.Errorf("show the build's progress: %w", err)
	}
	return show(ctx, log, d)
}

func show(ctx context.Context, log io.Reader, d progressui.Display) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, read := make(chan *client.SolveStatus), make(chan error, 1)
	go func() {
		defer close(stream)
		read <- (&reading{ctx: ctx, to: stream, running: map[string]*client.Vertex{}}).all(log)
	}()
	_, err := d.UpdateFrom(ctx, stream)
	cancel()
	for range stream { // what is not shown any more
	}
	return errors.Join(err, <-read)
}

// reading makes BuildKit's states of a log's lines.
type reading struct {
	ctx context.Context
	to  chan<- *client.SolveStatus

	running map[string]*client.Vertex // steps under way, by name
	latest  *client.Vertex            // the one that output belongs to, nil for none
	inputs  *client.VertexStatus      // getting them, nil when that is not under way
	first   *client.Vertex            // that this is of
	count   int                       // of vertexes so far: a step may come again
}

// maxLine bounds a line; the engine cuts them far earlier.
const maxLine = 1 << 20

func (r *reading) all(log io.Reader) error {
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if !r.send(r.status(strings.Map(shown, lines.Text()), time.Now())) {
			return nil
		}
	}
	return lines.Err()
}

// send tells whether somebody still looks.
func (r *reading) send(s *client.SolveStatus) bool {
	if s == nil {
		return true
	}
	select {
	case r.to <- s:
		return true
	case <-r.ctx.Done():
		return false
	}
}

// shown keeps what a build prints from steering the terminal.
func shown(c rune) rune {
	if c == '\t' || unicode.IsPrint(c) {
		return c
	}
	return -1
}

// outputMark begins a line that a step printed, stepMark one that is about a step.
const outputMark, stepMark = "   ", "=> "

func (r *reading) status(line string, now time.Time) *client.SolveStatus {
	if text, is := strings.CutPrefix(line, stepMark); is {
		return vertexes(r.step(text, now))
	}
	if text, is := strings.CutPrefix(line, outputMark); is && r.latest != nil {
		return &client.SolveStatus{Logs: []*client.VertexLog{{Vertex: r.latest.Digest, Stream: 1, Data: []byte(text + "\n"), Timestamp: now}}}
	}
	if match := inputsPattern.FindStringSubmatch(line); match != nil {
		return r.progress(match[1:], now)
	}
	if line == "" {
		return nil
	}
	s := r.arrived(now)
	v := r.begin(line, now)
	v.Completed = &now
	if text, is := strings.CutPrefix(line, "error: "); is {
		v.Error = text
	}
	s.Vertexes = append(s.Vertexes, v)
	return s
}

func vertexes(v *client.Vertex) *client.SolveStatus {
	return &client.SolveStatus{Vertexes: []*client.Vertex{v}}
}

func (r *reading) begin(name string, now time.Time) *client.Vertex {
	r.count++
	return &client.Vertex{Digest: digest.FromString(fmt.Sprint(r.count)), Name: name, Started: &now}
}

var donePattern = regexp.MustCompile(`^done in ([0-9.]+) s$`)

// step is a line about a step: that it began, or how it ended.
func (r *reading) step(text string, now time.Time) *client.Vertex {
	v, how := r.ended(text)
	if v == nil {
		if name, is := strings.CutSuffix(text, ": done before"); is {
			v = r.begin(name, now)
			v.Completed, v.Cached = &now, true
			return v
		}
		v = r.begin(text, now)
		r.running[text], r.latest = v, v
		return v
	}
	delete(r.running, v.Name)
	if r.latest == v {
		r.latest = nil
	}
	over := *v
	over.Completed = &now
	if match := donePattern.FindStringSubmatch(how); match == nil {
		over.Error = how
	} else if seconds, err := strconv.ParseFloat(match[1], 64); err == nil {
		// What is read afterwards took longer than it takes to read.
		ended := v.Started.Add(time.Duration(seconds * float64(time.Second)))
		over.Completed = &ended
	}
	return &over
}

// ended finds the step under way that a line is about the end of, and what it says of it.
// Names may have colons: the longest is meant.
func (r *reading) ended(text string) (v *client.Vertex, how string) {
	for name, candidate := range r.running {
		rest, is := strings.CutPrefix(text, name+": ")
		if is && (v == nil || len(name) > len(v.Name)) {
			v, how = candidate, rest
		}
	}
	return v, how
}

// inputsPattern is how far the inputs are: files and megabytes.
var inputsPattern = regexp.MustCompile(`^inputs: ([0-9]+) of ([0-9]+) files, ([0-9.]+) of ([0-9.]+) MB$`)

// progress is one step for all that is said of inputs until the node says something else:
// while a lock is made there are as many as were asked for so far.
func (r *reading) progress(numbers []string, now time.Time) *client.SolveStatus {
	s := &client.SolveStatus{}
	if r.inputs == nil {
		r.first = r.begin("inputs", now)
		r.inputs = &client.VertexStatus{ID: "files", Vertex: r.first.Digest, Started: r.first.Started}
		s.Vertexes = append(s.Vertexes, r.first)
	}
	bytes := func(megabytes string) int64 {
		f, err := strconv.ParseFloat(megabytes, 64)
		if err != nil {
			return 0
		}
		return int64(f * 1e6)
	}
	r.inputs.Current, r.inputs.Total, r.inputs.Timestamp = bytes(numbers[2]), bytes(numbers[3]), now
	status := *r.inputs
	s.Statuses = []*client.VertexStatus{&status}
	return s
}

// arrived ends what is said of inputs.
func (r *reading) arrived(now time.Time) *client.SolveStatus {
	s := &client.SolveStatus{}
	if r.inputs != nil {
		vertex, status := *r.first, *r.inputs
		vertex.Completed, status.Completed, r.inputs = &now, &now, nil
		s.Vertexes, s.Statuses = []*client.Vertex{&vertex}, []*client.VertexStatus{&status}
	}
	return s
}
