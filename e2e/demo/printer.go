package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// printer writes the steps of a run with their times. On a terminal the last
// line is a live one that is written over; elsewhere a line is written when
// what it says changes, and not more often than a person could read.
type printer struct {
	out      io.Writer
	terminal bool
	began    time.Time

	mu     sync.Mutex
	step   time.Time // when the step began
	live   string    // the live line now
	wrote  time.Time // when a live line was last written where there is no terminal
	number int
}

// quiet is the least time between two lines of progress where there is no
// terminal.
const quiet = 10 * time.Second

func newPrinter(out *os.File) *printer {
	info, err := out.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	return &printer{out: out, terminal: terminal, began: time.Now(), step: time.Now()}
}

func elapsed(since time.Time) string {
	d := time.Since(since).Round(100 * time.Millisecond)
	if d < time.Minute {
		return fmt.Sprintf("%5.1fs", d.Seconds())
	}
	return fmt.Sprintf("%2dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
}

// begin begins a step.
func (p *printer) begin(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.number++
	p.step, p.live, p.wrote = time.Now(), "", time.Time{}
	fmt.Fprintf(p.out, "\n[%d] %s\n", p.number, text)
}

// say writes a line of the step that stays.
func (p *printer) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintf(p.out, "    %s  %s\n", elapsed(p.step), fmt.Sprintf(format, args...))
}

// progress shows what is going on now.
func (p *printer) progress(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		p.clear()
		p.live = text
		fmt.Fprint(p.out, "    "+elapsed(p.step)+"  "+cut(text, 160))
		return
	}
	if text == p.live || time.Since(p.wrote) < quiet {
		return
	}
	p.live, p.wrote = text, time.Now()
	fmt.Fprintf(p.out, "    %s  %s\n", elapsed(p.step), text)
}

func (p *printer) clear() {
	if p.terminal && p.live != "" {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.live = ""
	}
}

func cut(text string, width int) string {
	runes := []rune(text)
	if len(runes) <= width {
		return text
	}
	return string(runes[:width-1]) + "…"
}

// plain writes lines without a time.
func (p *printer) plain(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprint(p.out, text)
}

// table writes rows in columns.
func (p *printer) table(rows [][]string) {
	widths := []int{}
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	text := new(strings.Builder)
	for _, row := range rows {
		line := ""
		for i, cell := range row {
			line += cell + strings.Repeat(" ", widths[i]-len([]rune(cell))+2)
		}
		fmt.Fprintln(text, "  "+strings.TrimRight(line, " "))
	}
	p.plain(text.String())
}
