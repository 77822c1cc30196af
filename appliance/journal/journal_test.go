package journal

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
)

func TestSet(t *testing.T) {
	var out bytes.Buffer
	j := New(&out, Settings{Level: slog.LevelInfo, Format: Text}, nil)
	log := j.Logger().With("service", "mirror").WithGroup("file").With("name", "a")
	log.Debug("unseen")
	log.Info("one", "size", 1)
	j.Set(Settings{Level: slog.LevelDebug, Format: JSON})
	log.Debug("two", "size", 2)
	j.Set(Settings{Level: slog.LevelError, Format: Text})
	log.Warn("unseen")
	log.Error("three")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines:\n%s", len(lines), out.String())
	}
	for i, want := range []string{"level=INFO msg=one service=mirror file.name=a file.size=1",
		`"level":"DEBUG","msg":"two","service":"mirror","file":{"name":"a","size":2}}`, "level=ERROR msg=three service=mirror file.name=a"} {
		if !strings.HasSuffix(lines[i], want) {
			t.Errorf("%s\nwant …%s", lines[i], want)
		}
	}
}

// The handler keeps the contract of slog's own.
func TestHandler(t *testing.T) {
	var out bytes.Buffer
	j := New(&out, Settings{Format: JSON}, nil)
	err := slogtest.TestHandler(j.Logger().Handler(), func() []map[string]any {
		var all []map[string]any
		for line := range bytes.Lines(out.Bytes()) {
			var m map[string]any
			if err := json.Unmarshal(line, &m); err != nil {
				t.Fatal(err)
			}
			all = append(all, m)
		}
		return all
	})
	if err != nil {
		t.Error(err)
	}
}

func TestSetWhileEverybodyWrites(t *testing.T) {
	var wg sync.WaitGroup
	j := New(io.Discard, Settings{}, nil)
	for range 4 {
		log := j.Logger().With("a", 1)
		wg.Go(func() {
			for range 1000 {
				log.With("b", 2).Info("x")
			}
		})
	}
	for i := range 1000 {
		j.Set(Settings{Format: []Format{Text, JSON}[i%2]})
	}
	wg.Wait()
}
