// Package journal is what a node writes about itself: one log whose level and
// format may change while everything writes to it. Where the machine's own log takes
// entries with fields, text is written as such; the events that operators may meet have
// IDs, and a catalogue says what they mean.
package journal

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"
)

// Settings are how messages are written.
type Settings struct {
	Level  slog.Level // the least important that are
	Format Format
}

// Format is the form of a message.
type Format string

// The formats.
const (
	Text Format = "text" // for people: entries with fields where somebody takes them, else lines
	JSON Format = "json"
)

// Journal is safe for concurrent use.
type Journal struct {
	sink *sink
}

// New is a journal that writes to w, whole lines at a time, and text to entries, unless
// that is nil.
func New(w io.Writer, settings Settings, entries Entries) *Journal {
	j := &Journal{sink: &sink{w: w, entries: entries}}
	j.Set(settings)
	return j
}

// Set makes other settings count from the next message on, also for every logger
// that was made before.
func (j *Journal) Set(settings Settings) {
	j.sink.now.Store(&generation{j.sink.handler(settings)})
}

func (s *sink) handler(settings Settings) slog.Handler {
	options := &slog.HandlerOptions{Level: settings.Level}
	switch {
	case settings.Format == JSON:
		return slog.NewJSONHandler(s.w, options)
	case s.entries != nil:
		return &fielded{to: s.entries, level: settings.Level}
	}
	return slog.NewTextHandler(s.w, options)
}

// Logger writes to the journal.
func (j *Journal) Logger() *slog.Logger { return slog.New(&handler{sink: j.sink}) }

// sink is where all handlers of a journal write.
type sink struct {
	w       io.Writer
	entries Entries // nil for none
	now     atomic.Pointer[generation]
}

// generation is one setting's handler; its address tells it from others.
type generation struct{ root slog.Handler }

// handler applies its attributes and groups to whatever the journal's handler is
// when a message comes. What that gives is kept until the settings change.
type handler struct {
	sink   *sink
	parent *handler
	with   func(slog.Handler) slog.Handler // what this one adds to its parent; nil at the root
	built  atomic.Pointer[built]
}

type built struct {
	from    *generation
	handler slog.Handler
}

func (h *handler) current() slog.Handler { return h.of(h.sink.now.Load()) }

func (h *handler) of(g *generation) slog.Handler {
	if h.parent == nil {
		return g.root
	}
	if b := h.built.Load(); b != nil && b.from == g {
		return b.handler
	}
	made := h.with(h.parent.of(g))
	h.built.Store(&built{g, made})
	return made
}

// Enabled implements slog.Handler.
func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.sink.now.Load().root.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	return h.current().Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{sink: h.sink, parent: h, with: func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) }}
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{sink: h.sink, parent: h, with: func(to slog.Handler) slog.Handler { return to.WithGroup(name) }}
}
