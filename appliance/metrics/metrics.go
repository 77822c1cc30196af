// Package metrics is a node as a monitoring system sees it: numbers with documented
// names, in the format of Prometheus. They are read off the same picture that
// `pyrsia status` shows, so that the two never disagree.
package metrics

import (
	"bytes"
	"context"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pyrsia/appliance/appliance/control"
)

// Picture is how the node is now.
type Picture func(ctx context.Context) (control.Status, error)

// sample is one value of a metric, with the values of its labels.
type sample struct {
	value  float64
	labels []string
}

// metric is one name.
type metric struct {
	name    string
	help    string // with the unit
	counter bool   // it only grows while the process runs
	labels  []string
	of      func(control.Status) []sample
}

func one(of func(control.Status) float64) func(control.Status) []sample {
	return func(s control.Status) []sample { return []sample{{value: of(s)}} }
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// table is every metric, in the order of the documentation. Those of the Go runtime and
// of the process come beside it, under the names that they have everywhere.
var table = []metric{
	{name: "pyrsia_info", help: "1; the labels say which node this is.", labels: []string{"version", "role", "network", "identity"},
		of: func(s control.Status) []sample {
			return []sample{{1, []string{s.Version, s.Role, s.Network, string(s.Identity)}}}
		}},
	{name: "pyrsia_log_height", help: "Height of the newest block.", of: one(func(s control.Status) float64 { return float64(s.Height) })},
	{name: "pyrsia_log_leaves", help: "Leaves of the log.", of: one(func(s control.Status) float64 { return float64(s.Size) })},
	{name: "pyrsia_log_checkpoint_timestamp_seconds", help: "Time of the newest checkpoint, in seconds since 1970; 0 before the first.",
		of: one(func(s control.Status) float64 { return float64(max(0, s.CheckpointTime.Unix())) })},
	{name: "pyrsia_log_stale", help: "1 while the newest checkpoint is older than network.max_age.", of: one(func(s control.Status) float64 { return truth(s.Stale) })},
	{name: "pyrsia_log_halted", help: "1 once the node has seen two certified blocks of one height: it serves, and takes no block any more.",
		of: one(func(s control.Status) float64 { return truth(s.Halted != "") })},
	{name: "pyrsia_peers", help: "Connected peers.", of: one(func(s control.Status) float64 { return float64(s.Peers) })},
	{name: "pyrsia_members", help: "Build nodes of the network.", of: one(func(s control.Status) float64 { return float64(len(s.Members)) })},
	{name: "pyrsia_members_connected", help: "Build nodes that this node is connected to, itself included if it is one.",
		of: one(func(s control.Status) (n float64) {
			for _, m := range s.Members {
				n += truth(m.Connected)
			}
			return n
		})},
	{name: "pyrsia_order_quorum", help: "Build nodes that must agree on what comes next: with fewer nothing is published.",
		of: one(func(s control.Status) float64 { return float64(s.Quorum) })},
	{name: "pyrsia_votes", help: "1 while this node votes; absent on a regular node.",
		of: func(s control.Status) []sample {
			for _, m := range s.Members {
				if m.Self && s.Role == "build" {
					return []sample{{value: truth(m.Fenced == "")}}
				}
			}
			return nil
		}},
	{name: "pyrsia_offences", help: "Proven offences of members that stand on the log.", of: one(func(s control.Status) float64 { return float64(len(s.Offences)) })},
	{name: "pyrsia_store_bytes", help: "Bytes that the kept artifacts take.", of: one(func(s control.Status) float64 { return float64(s.Store.Bytes) })},
	{name: "pyrsia_store_quota_bytes", help: "Bytes that they may take (distribution.quota).", of: one(func(s control.Status) float64 { return float64(s.Store.Quota) })},
	{name: "pyrsia_store_files", help: "Kept files.", of: one(func(s control.Status) float64 { return float64(s.Store.Files) })},
	{name: "pyrsia_requests_total", help: "Requests of build tools, by how they were answered: verified (the log vouches for the bytes), passed (from the upstream, marked as unverified), refused.",
		counter: true, labels: []string{"mirror", "answer"},
		of: func(s control.Status) (samples []sample) {
			for _, m := range s.Mirrors {
				samples = append(samples,
					sample{float64(m.Verified), []string{m.Kind, "verified"}},
					sample{float64(m.Passed), []string{m.Kind, "passed"}},
					sample{float64(m.Refused), []string{m.Kind, "refused"}})
			}
			return samples
		}},
	{name: "pyrsia_builds_running", help: "Builds that run on this node.", of: one(func(s control.Status) float64 { return float64(s.Builds.Running) })},
	{name: "pyrsia_builds_waiting", help: "Requests for builds on this node that are not done.", of: one(func(s control.Status) float64 { return float64(s.Builds.Waiting) })},
	{name: "pyrsia_service_up", help: "1 while a part of the node runs, by its name.", labels: []string{"service"},
		of: func(s control.Status) (samples []sample) {
			for _, service := range s.Services {
				samples = append(samples, sample{truth(service.State == "ready"), []string{service.Name}})
			}
			return samples
		}},
	{name: "pyrsia_service_restarts_total", help: "How often a part of the node was started again.", counter: true, labels: []string{"service"},
		of: func(s control.Status) (samples []sample) {
			for _, service := range s.Services {
				samples = append(samples, sample{float64(service.Restarts), []string{service.Name}})
			}
			return samples
		}},
	{name: "pyrsia_config_last_reload_successful", help: "1 if pyrsia.hcl as it was last read is in force, 0 if it was rejected.",
		of: one(func(s control.Status) float64 { return truth(s.Configuration.Rejected == "") })},
	{name: "pyrsia_config_number", help: "Number of the configuration that is in force; it grows with each that was taken.",
		of: one(func(s control.Status) float64 { return float64(s.Configuration.Number) })},
	{name: "pyrsia_role_by_hand", help: "1 while the role is not what the configuration says.", of: one(func(s control.Status) float64 { return truth(s.RoleByHand) })},
}

// collector implements prometheus.Collector.
type collector struct {
	picture Picture
	descs   []*prometheus.Desc
}

// Handler answers a scrape with the node's metrics, and with those of its process. It is
// safe for concurrent use.
func Handler(picture Picture) http.Handler {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newCollector(picture), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError})
}

func newCollector(picture Picture) *collector {
	c := &collector{picture: picture}
	for _, m := range table {
		c.descs = append(c.descs, prometheus.NewDesc(m.name, m.help, m.labels, nil))
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(into chan<- prometheus.Metric) {
	status, err := c.picture(context.Background())
	if err != nil {
		into <- prometheus.NewInvalidMetric(c.descs[0], err)
		return
	}
	for i, m := range table {
		kind := prometheus.GaugeValue
		if m.counter {
			kind = prometheus.CounterValue
		}
		for _, s := range m.of(status) {
			into <- prometheus.MustNewConstMetric(c.descs[i], kind, s.value, s.labels...)
		}
	}
}

// Markdown is docs/metrics.md.
func Markdown() []byte {
	var b bytes.Buffer
	b.WriteString(introduction)
	for _, m := range table {
		kind := "gauge"
		if m.counter {
			kind = "counter"
		}
		labels := ""
		for _, label := range m.labels {
			labels += " `" + label + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s |%s | %s |\n", m.name, kind, labels, m.help)
	}
	return b.Bytes()
}

const introduction = `# Metrics

<!-- Generated from appliance/metrics by
     go test ./appliance/metrics -run TestMarkdown -update
     A test fails when this file is out of date. -->

A node answers in the format of Prometheus on its control socket, at ` + "`/metrics`" + `, to who
may open that, and on the addresses of ` + "`metrics { listen = [\"127.0.0.1:9100\"] }`" + `, to
everybody who reaches them; without that setting on none. They tell how the node is and
change nothing.

	curl --unix-socket /run/pyrsia/control.sock http://node/metrics

` + "[`alerts.yml`](alerts.yml)" + ` has rules for Prometheus. Beside the metrics below come those of
the Go runtime (` + "`go_…`" + `) and of the process (` + "`process_…`" + `).

| metric | type | labels | |
|---|---|---|---|
`
