package metrics

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pyrsia/appliance/appliance/control"
)

var update = flag.Bool("update", false, "write docs/metrics.md anew")

func TestMarkdown(t *testing.T) {
	const file = "../../docs/metrics.md"
	if *update {
		if err := os.WriteFile(file, Markdown(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, Markdown()) {
		t.Errorf("%s is out of date, %v", file, err)
	}
}

func picture() control.Status {
	return control.Status{
		Version: "1", Role: "build", Network: "acme", Identity: "12D3", Height: 7, Size: 30, CheckpointTime: time.Unix(1000, 0), Peers: 3, Quorum: 2,
		Members:  []control.Member{{Self: true, Connected: true, Fenced: "it starts"}, {Connected: true}, {}},
		Store:    control.Store{Bytes: 10, Quota: 100, Files: 1},
		Mirrors:  []control.Mirror{{Kind: "docker", Verified: 5, Passed: 1}, {Kind: "maven", Refused: 2}},
		Services: []control.Service{{Name: "quorum", State: "ready"}, {Name: "mirror", State: "backoff", Restarts: 4}},
		Builds:   control.Running{Running: 1, Waiting: 2, Limit: 4}, Configuration: control.Configuration{Number: 41, Rejected: "bad"},
	}
}

func scrape(t *testing.T, p Picture) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	Handler(p).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(body)
}

func TestScrape(t *testing.T) {
	code, body := scrape(t, func(context.Context) (control.Status, error) { return picture(), nil })
	if code != 200 {
		t.Fatalf("%d: %s", code, body)
	}
	for _, line := range []string{
		`pyrsia_info{identity="12D3",network="acme",role="build",version="1"} 1`, "pyrsia_log_height 7", "pyrsia_members_connected 2", "pyrsia_votes 0",
		`pyrsia_requests_total{answer="verified",mirror="docker"} 5`, `pyrsia_requests_total{answer="refused",mirror="maven"} 2`,
		`pyrsia_service_up{service="mirror"} 0`, `pyrsia_service_restarts_total{service="mirror"} 4`, "pyrsia_config_last_reload_successful 0",
		"# TYPE pyrsia_requests_total counter", "# TYPE pyrsia_peers gauge", "pyrsia_log_checkpoint_timestamp_seconds 1000", "go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(body, "\n"+line) {
			t.Errorf("no line %s", line)
		}
	}
	if problems, err := testutil.GatherAndLint(registryOf(picture())); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// A regular node has no vote, and a node that cannot tell how it is says that.
func TestAbsent(t *testing.T) {
	regular := picture()
	regular.Role = "regular"
	if _, body := scrape(t, func(context.Context) (control.Status, error) { return regular, nil }); strings.Contains(body, "\npyrsia_votes") {
		t.Error("a regular node votes")
	}
	if code, body := scrape(t, func(context.Context) (control.Status, error) { return control.Status{}, errors.New("disk gone") }); code != 500 || !strings.Contains(body, "disk gone") {
		t.Errorf("%d: %s", code, body)
	}
}

// The alerts are about metrics that there are.
func TestAlerts(t *testing.T) {
	rules, err := os.ReadFile("../../docs/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, m := range table {
		known[m.name] = true
	}
	used := regexp.MustCompile(`\bpyrsia_[a-z_]+`).FindAllString(string(rules), -1)
	for _, name := range used {
		if !known[name] {
			t.Errorf("an alert is about %s, which there is not", name)
		}
	}
	if alerts := strings.Count(string(rules), "- alert: "); alerts < 8 || alerts != strings.Count(string(rules), "action: ") {
		t.Errorf("%d alerts; each says what to do", alerts)
	}
}

func registryOf(s control.Status) *prometheus.Registry {
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(newCollector(func(context.Context) (control.Status, error) { return s, nil }))
	return r
}
