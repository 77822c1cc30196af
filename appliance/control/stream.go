package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// frame is one line of an answer that goes on for a while. The last line has
// End or Error: a stream that stops without either was cut off, and its reader
// must not take it for a complete one.
type frame struct {
	Line  string          `json:"line,omitempty"` // for a person
	Value json.RawMessage `json:"value,omitempty"`
	End   bool            `json:"end,omitempty"`
	Error *Error          `json:"failure,omitempty"`
}

// maxFrame bounds a line in bytes: a lock of 50,000 entries is about 15 MB.
const maxFrame = 64 << 20

// errCut is what a reader gets when the node went away in the middle.
var errCut = errors.New("the node ended the answer in the middle; it may have stopped")

// sender writes frames. It is used by one goroutine.
type sender struct {
	w       http.ResponseWriter
	control *http.ResponseController
	started bool
}

func newSender(w http.ResponseWriter) *sender {
	return &sender{w: w, control: http.NewResponseController(w)}
}

func (s *sender) send(f frame) error {
	if !s.started {
		s.w.Header().Set("Content-Type", "application/jsonl")
		s.started = true
	}
	data, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("encode a frame: %w", err)
	}
	if _, err := s.w.Write(append(data, '\n')); err != nil {
		return err
	}
	return s.control.Flush()
}

func (s *sender) value(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a frame: %w", err)
	}
	return s.send(frame{Value: data})
}

func (s *sender) line(text string) error { return s.send(frame{Line: text}) }

// finish ends the stream; an error before the first frame is still an ordinary
// answer with its own status.
func (s *sender) finish(err error) {
	if err == nil {
		s.send(frame{End: true}) //nolint:errcheck // the reader sees a cut stream
		return
	}
	e, status := answer(err)
	if !s.started {
		writeError(s.w, e, status)
		return
	}
	s.send(frame{Error: e}) //nolint:errcheck // the reader sees a cut stream
}

// receive reads frames up to the end and gives each to f.
func receive(r io.Reader, f func(frame) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxFrame)
	for lines.Scan() {
		var next frame
		if err := json.Unmarshal(lines.Bytes(), &next); err != nil {
			return fmt.Errorf("%w: %.80q", errCut, lines.Bytes())
		}
		if next.Error != nil {
			return next.Error
		}
		if next.End {
			return nil
		}
		if err := f(next); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%w (%v)", errCut, err)
	}
	return errCut
}

// errorTrailer carries the error of a plain text answer that began well.
const errorTrailer = "Pyrsia-Error"

// textWriter sends each write at once, so that a follower of a log sees lines
// as they come.
type textWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	started bool
}

func newTextWriter(w http.ResponseWriter) *textWriter {
	return &textWriter{w: w, control: http.NewResponseController(w)}
}

func (t *textWriter) start() {
	if t.started {
		return
	}
	t.started = true
	t.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	t.w.Header().Set("Trailer", errorTrailer)
	t.w.WriteHeader(http.StatusOK)
}

// Write implements io.Writer.
func (t *textWriter) Write(data []byte) (int, error) {
	t.start()
	n, err := t.w.Write(data)
	if err != nil {
		return n, err
	}
	return n, t.control.Flush()
}

func (t *textWriter) finish(err error) {
	if err == nil {
		t.start()
		return
	}
	e, status := answer(err)
	if !t.started {
		writeError(t.w, e, status)
		return
	}
	var line bytes.Buffer
	json.NewEncoder(&line).Encode(e) //nolint:errcheck // three strings into memory
	t.w.Header().Set(errorTrailer, string(bytes.TrimSpace(line.Bytes())))
}
