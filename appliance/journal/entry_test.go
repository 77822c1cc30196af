package journal

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/slogtest"
	"time"
)

// kept are entries that a test looks at.
type kept struct{ entries [][]Field }

func (k *kept) Send(fields []Field) { k.entries = append(k.entries, fields) }

func (k *kept) last() map[string]string {
	fields := map[string]string{}
	for _, f := range k.entries[len(k.entries)-1] {
		fields[f.Name] = f.Value
	}
	return fields
}

func TestEntries(t *testing.T) {
	var to kept
	j := New(io.Discard, Settings{Level: slog.LevelInfo, Format: Text}, &to)
	log := j.Logger().With("service", "mirror").WithGroup("file").With("name", "a b")
	log.Debug("unseen")
	log.Warn("service failed", "error", errors.New(`no "x"`), "took", 3*time.Second, "stack", strings.Repeat("x\n", 20))
	got := to.last()
	for name, want := range map[string]string{
		"MESSAGE":  `service failed service=mirror file.name="a b" file.error="no \"x\"" file.took=3s`,
		"PRIORITY": "4", "SYSLOG_IDENTIFIER": "pyrsia", "MESSAGE_ID": idOf("service failed"),
		"PYRSIA_SERVICE": "mirror", "PYRSIA_FILE_NAME": "a b", "PYRSIA_FILE_ERROR": `no "x"`, "PYRSIA_FILE_STACK": strings.Repeat("x\n", 20),
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	if !strings.HasSuffix(got["CODE_FILE"], "entry_test.go") || len(to.entries) != 1 {
		t.Errorf("%d entries, the last from %q", len(to.entries), got["CODE_FILE"])
	}
	j.Set(Settings{Level: slog.LevelDebug, Format: JSON}) // lines, as asked for
	log.Debug("two")
	if len(to.entries) != 1 {
		t.Error("a line of JSON became an entry")
	}
}

// The handler keeps the contract of slog's own.
func TestEntriesHandler(t *testing.T) {
	var to kept
	j := New(io.Discard, Settings{Format: Text}, &to)
	err := slogtest.TestHandler(j.Logger().Handler(), func() []map[string]any {
		var all []map[string]any
		for _, entry := range to.entries {
			all = append(all, nested(entry))
		}
		return all
	})
	if err == nil {
		return
	}
	for failure := range strings.Lines(err.Error()) {
		// journald has the times of entries, and is sent none.
		if !strings.HasPrefix(failure, `missing key "time"`) {
			t.Error(failure)
		}
	}
}

// nested is an entry as slog's own test wants it: with groups as maps.
func nested(entry []Field) map[string]any {
	top := map[string]any{}
	for _, f := range entry {
		name, own := strings.CutPrefix(f.Name, prefix)
		switch {
		case f.Name == "MESSAGE":
			top[slog.MessageKey], _, _ = strings.Cut(f.Value, " ")
			continue
		case f.Name == "PRIORITY":
			top[slog.LevelKey] = f.Value
			continue
		case !own:
			continue
		}
		at, parts := top, strings.Split(name, "_")
		for i, part := range parts {
			if part != "G" && part != "H" { // slogtest's groups
				parts[i] = strings.ToLower(part)
			}
		}
		for _, part := range parts[:len(parts)-1] {
			if at[part] == nil {
				at[part] = map[string]any{}
			}
			at = at[part].(map[string]any)
		}
		at[parts[len(parts)-1]] = f.Value
	}
	return top
}

// Every warning and error of the program has an entry in the catalogue, and no entry is
// of a message that nobody logs.
func TestEveryWarningHasAnEvent(t *testing.T) {
	logged := loggedMessages(t)
	ids := map[string]bool{}
	for _, e := range events {
		if ids[e.ID] || !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(e.ID) {
			t.Errorf("%q has the ID %q, want 32 digits of its own", e.Message, e.ID)
		}
		ids[e.ID] = true
		if _, is := logged[e.Message]; !is {
			t.Errorf("nobody logs %q", e.Message)
		}
		if e.Subject == "" || strings.ContainsAny(e.Subject, "\n@") || strings.Contains(e.Text, "\n-- ") {
			t.Errorf("%q has no proper subject and text", e.Message)
		}
	}
	for message, level := range logged {
		if (level == "Warn" || level == "Error") && idOf(message) == "" {
			t.Errorf("%s %q has no event: add one to events.go, with what it means and what to do", level, message)
		}
	}
}

// loggedMessages are the texts that the program logs, with their levels.
func loggedMessages(t *testing.T) map[string]string {
	t.Helper()
	logged := map[string]string{}
	for _, root := range []string{"../../modules", "../../appliance", "../../systemd", "../../hcl"} {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if level, message, is := logging(n); is {
					logged[message] = level
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(logged) < 30 {
		t.Fatalf("%d messages found, which cannot be all", len(logged))
	}
	return logged
}

// logging tells whether a node of a program is a call such as x.log.Warn("…").
func logging(n ast.Node) (level, message string, is bool) {
	call, _ := n.(*ast.CallExpr)
	if call == nil || len(call.Args) == 0 {
		return "", "", false
	}
	method, _ := call.Fun.(*ast.SelectorExpr)
	text, _ := call.Args[0].(*ast.BasicLit)
	if method == nil || text == nil || text.Kind != token.STRING {
		return "", "", false
	}
	switch method.Sel.Name {
	case "Debug", "Info", "Warn", "Error":
	default:
		return "", "", false
	}
	of := ""
	switch x := method.X.(type) {
	case *ast.SelectorExpr:
		of = x.Sel.Name
	case *ast.Ident:
		of = x.Name
	}
	if !strings.HasSuffix(strings.ToLower(of), "log") && of != "Logger" && of != "slog" {
		return "", "", false
	}
	message, err := strconv.Unquote(text.Value)
	return method.Sel.Name, message, err == nil
}
