package journal

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Field is one field of an entry in the system's journal, named as
// systemd.journal-fields(7) wants it.
type Field struct{ Name, Value string }

// Entries take what is written as entries with fields. Send does not wait, and is safe
// for concurrent use.
type Entries interface {
	Send(fields []Field)
}

// prefix begins the name of a field that stands for a message's attribute.
const prefix = "PYRSIA_"

// fielded writes each message as an entry. The message's text has the attributes behind
// it, for people who see nothing but texts; each is also a field of its own.
type fielded struct {
	to     Entries
	level  slog.Level
	group  string // before the names of further attributes, with its dot
	fields []attribute
}

type attribute struct{ key, value string }

// Enabled implements slog.Handler.
func (f *fielded) Enabled(_ context.Context, level slog.Level) bool { return level >= f.level }

// WithAttrs implements slog.Handler.
func (f *fielded) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *f
	with.fields = f.fields[:len(f.fields):len(f.fields)] // others add to it, too
	for _, a := range attrs {
		with.fields = flat(with.fields, f.group, a)
	}
	return &with
}

// WithGroup implements slog.Handler.
func (f *fielded) WithGroup(name string) slog.Handler {
	if name == "" {
		return f
	}
	with := *f
	with.group += name + "."
	return &with
}

// maxLines is how many lines a value may have to stand in a message's text: problems, and
// not stacks, which are in their field.
const maxLines = 8

// Handle implements slog.Handler.
func (f *fielded) Handle(_ context.Context, r slog.Record) error {
	attributes := f.fields[:len(f.fields):len(f.fields)]
	r.Attrs(func(a slog.Attr) bool {
		attributes = flat(attributes, f.group, a)
		return true
	})
	text := r.Message
	own := make([]Field, 0, len(attributes))
	for _, a := range attributes {
		own = append(own, Field{prefix + fieldName(a.key), a.value})
		if lines := strings.Split(strings.TrimSpace(a.value), "\n"); len(lines) <= maxLines {
			text += " " + a.key + "=" + quoted(strings.Join(lines, "; "))
		}
	}
	entry := []Field{{"MESSAGE", text}, {"PRIORITY", priority(r.Level)}, {"SYSLOG_IDENTIFIER", "pyrsia"}}
	if id := idOf(r.Message); id != "" {
		entry = append(entry, Field{"MESSAGE_ID", id})
	}
	if r.PC != 0 {
		frame, _ := runtime.CallersFrames([]uintptr{r.PC}).Next()
		entry = append(entry, Field{"CODE_FILE", frame.File}, Field{"CODE_LINE", strconv.Itoa(frame.Line)}, Field{"CODE_FUNC", frame.Function})
	}
	f.to.Send(append(entry, own...))
	return nil
}

// flat adds an attribute, and of a group all in it.
func flat(to []attribute, group string, a slog.Attr) []attribute {
	value := a.Value.Resolve()
	if value.Kind() == slog.KindGroup {
		if a.Key != "" {
			group += a.Key + "."
		}
		for _, member := range value.Group() {
			to = flat(to, group, member)
		}
		return to
	}
	if a.Equal(slog.Attr{}) {
		return to
	}
	return append(to, attribute{group + a.Key, text(value)})
}

func text(v slog.Value) string {
	switch v.Kind() {
	case slog.KindTime:
		return v.Time().Format(time.RFC3339Nano)
	case slog.KindAny:
		if err, ok := v.Any().(error); ok {
			return err.Error()
		}
		return fmt.Sprint(v.Any())
	}
	return v.String()
}

// quoted is a value as slog's own text has it.
func quoted(value string) string {
	if value == "" || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r == '"' || r == '=' || !strconv.IsPrint(r) }) {
		return strconv.Quote(value)
	}
	return value
}

// maxName is the longest name of a field, its prefix included, that journald takes.
const maxName = 64

// fieldName is an attribute's key as the journal's fields are named.
func fieldName(key string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
	return name[:min(len(name), maxName-len(prefix))]
}

// priority is a level as syslog(3) numbers them.
func priority(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return "3"
	case level >= slog.LevelWarn:
		return "4"
	case level >= slog.LevelInfo:
		return "6"
	}
	return "7"
}
