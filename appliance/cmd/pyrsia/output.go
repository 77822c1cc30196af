package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/record"
	"golang.org/x/term"
)

// style colours text, if its stream is a terminal and NO_COLOR is not set.
type style struct{ on bool }

func (a *app) style(w io.Writer) style {
	return style{isTerminal(w) && os.Getenv("NO_COLOR") == ""}
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

func (s style) colour(code, text string) string {
	if !s.on || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s style) red(text string) string    { return s.colour("31", text) }
func (s style) green(text string) string  { return s.colour("32", text) }
func (s style) yellow(text string) string { return s.colour("33", text) }
func (s style) bold(text string) string   { return s.colour("1", text) }
func (s style) dim(text string) string    { return s.colour("2", text) }

// verdict colours a state or a vote by what it means.
func (s style) verdict(text string) string {
	switch text {
	case "published", "equal", "ready", "live", "yes", "alive":
		return s.green(text)
	case "disagreed", "failed", "hung", "expired", "resting", "different", "declined", "invalid":
		return s.red(text)
	case "backoff", "absent", "no", "stale", "recipe-pending", "suspect", "away":
		return s.yellow(text)
	}
	return text
}

// table writes rows in columns. Cells may be coloured.
func table(w io.Writer, s style, head []string, rows [][]string) {
	widths := make([]int, len(head))
	for _, row := range append([][]string{head}, rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], width(cell))
		}
	}
	line := func(row []string, paint func(string) string) {
		var b strings.Builder
		for i, cell := range row {
			b.WriteString(paint(cell))
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-width(cell)+2))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
	line(head, s.bold)
	for _, row := range rows {
		line(row, func(cell string) string { return cell })
	}
}

// width is how many places a cell takes: colours take none.
func width(cell string) int {
	n := utf8.RuneCountInString(cell)
	for rest := cell; ; {
		start := strings.Index(rest, "\x1b[")
		if start < 0 {
			return n
		}
		end := strings.IndexByte(rest[start:], 'm')
		if end < 0 {
			return n
		}
		n -= end + 1
		rest = rest[start+end+1:]
	}
}

// fields writes names and values below each other.
func fields(w io.Writer, s style, pairs ...string) {
	longest := 0
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			longest = max(longest, width(pairs[i]))
		}
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(w, "%s%s  %s\n", s.dim(pairs[i]), strings.Repeat(" ", longest-width(pairs[i])), pairs[i+1])
		}
	}
}

// show prints a value as JSON if asked, else as the function writes it.
func (a *app) show(value any, people func(w io.Writer, s style)) error {
	if !a.json {
		people(a.out, a.style(a.out))
		return nil
	}
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("no JSON form: %w", err)
	}
	_, err = a.out.Write(append(data, '\n'))
	return err
}

// quiet is how long something may take without a word, and remind how often
// it is mentioned then where lines cannot be rewritten.
const (
	quiet  = 2 * time.Second
	remind = 30 * time.Second
)

// reminder says on the error stream that something goes on. On a terminal it
// is one line that changes every second.
type reminder struct {
	w        io.Writer
	rewrites bool
	begin    time.Time
	done     chan struct{}
	ended    chan struct{}

	mu    sync.Mutex
	what  string // guarded by mu
	shown bool   // a line stands there to be rewritten; guarded by mu
}

// remind starts a reminder; the caller ends it by stop.
func (a *app) remind(what string) *reminder {
	r := &reminder{w: a.err, rewrites: isTerminal(a.err), begin: time.Now(), what: what, done: make(chan struct{}), ended: make(chan struct{})}
	go r.run()
	return r
}

func (r *reminder) run() {
	defer close(r.ended)
	again := remind
	if r.rewrites {
		again = time.Second
	}
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	for {
		select {
		case <-r.done:
			return
		case <-timer.C:
			timer.Reset(again)
			r.tell()
		}
	}
}

func (r *reminder) tell() {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := fmt.Sprintf("%s … %s", r.what, time.Since(r.begin).Round(time.Second))
	if !r.rewrites {
		fmt.Fprintln(r.w, text)
		return
	}
	r.shown = true
	fmt.Fprint(r.w, "\r\x1b[K"+text)
}

// print runs f, which writes whole lines, without the reminder's line in its
// way, and changes what is said from now on.
func (r *reminder) print(what string, f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shown {
		fmt.Fprint(r.w, "\r\x1b[K")
		r.shown = false
	}
	r.what = what
	f()
}

func (r *reminder) stop() {
	close(r.done)
	<-r.ended
	r.print("", func() {})
}

// progressed is how far something is that goes on at an even pace: what is done, how much
// in a second, and how long the rest takes.
func progressed(done, all int64, took time.Duration) string {
	text := fmt.Sprintf("%d of %d", done, all)
	if done <= 0 || took < time.Second {
		return text
	}
	rate := float64(done) / took.Seconds()
	left := time.Duration(float64(max(all-done, 0)) / rate * float64(time.Second))
	return fmt.Sprintf("%s, %.0f/s, about %s left", text, rate, left.Round(time.Second))
}

// patiently runs f and says that it goes on, if it takes longer than two
// seconds.
func patiently[T any](ctx context.Context, a *app, what string, f func(context.Context) (T, error)) (T, error) {
	r := a.remind(what)
	defer r.stop()
	return f(ctx)
}

// byteCount is a number of bytes for people: three significant digits.
func byteCount(n int64) string {
	value, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; value >= 1000 && i < len(units)-1; i++ {
		value /= 1024
	}
	switch {
	case i == 0:
		return fmt.Sprintf("%d B", n)
	case value < 10:
		return fmt.Sprintf("%.2f %s", value, units[i])
	case value < 100:
		return fmt.Sprintf("%.1f %s", value, units[i])
	}
	return fmt.Sprintf("%.0f %s", value, units[i])
}

// ago is how long something is past, roughly.
func ago(now, t time.Time) string {
	if t.Unix() <= 0 {
		return "–"
	}
	d := now.Sub(t)
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	}
	return fmt.Sprintf("%dd ago", int(d.Hours()/24))
}

// date is a point in time in local time, a dash if there was none.
func date(t time.Time) string {
	if t.Unix() <= 0 {
		return "–"
	}
	return t.Local().Format(time.DateTime)
}

// number is a height or an index, a dash below zero.
func number(n int64) string {
	if n < 0 {
		return "–"
	}
	return fmt.Sprint(n)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// who is a node for people: the operator's own label, or the end of its
// identity.
func who(label string, id record.Identity) string {
	if label != "" {
		return label
	}
	return "…" + id.Short()
}

// writeNew writes a file that must not be there yet: whole, on the disk, or
// not at all.
func writeNew(path string, data []byte, mode os.FileMode) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists already; move it away, or choose another name with -o", path)
	}
	return writeFile(path, data, mode)
}

// writeFile writes a file as a whole: a crash leaves the old one or the new.
func writeFile(path string, data []byte, mode os.FileMode) error {
	fail := func(err error) error { return fmt.Errorf("cannot write %s: %w", path, err) }
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return fail(err)
	}
	defer os.Remove(file.Name()) //nolint:errcheck // gone after the rename
	_, err = file.Write(data)
	for _, step := range []func() error{func() error { return file.Chmod(mode) }, file.Sync, file.Close} {
		if next := step(); err == nil {
			err = next
		}
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err == nil {
		err = durable.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fail(err)
	}
	return nil
}
