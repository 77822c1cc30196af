package node

import (
	"encoding/json"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/pyrsia/appliance/appliance/control"
)

// routes are the paths of the client port.
func (n *Node) routes(docker, maven, log http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/v2", n.traffic.count("docker", docker))
	mux.Handle("/v2/", n.traffic.count("docker", docker))
	mux.Handle("/maven2/", n.traffic.count("maven", maven))
	mux.Handle("/log/", log)
	// The predecessor's routes, so that its tools find a node here.
	mux.HandleFunc("GET /status", n.legacyStatus)
	mux.HandleFunc("GET /peers", n.legacyPeers)
	return mux
}

func (n *Node) legacyStatus(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{"peers_count": len(n.host.Peers()), "peer_id": n.identity, "peer_addrs": n.addresses()})
}

func (n *Node) legacyPeers(w http.ResponseWriter, _ *http.Request) {
	ids := []string{}
	for _, peer := range n.host.Peers() {
		ids = append(ids, string(peer.Identity))
	}
	writeJSON(w, ids)
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(value)
}

// traffic counts how the requests of clients were answered.
type traffic struct {
	mu    sync.Mutex // guards the map, not what it holds
	kinds map[string]*counters
}

type counters struct{ verified, passed, refused, bytes atomic.Int64 }

func newTraffic() *traffic { return &traffic{kinds: map[string]*counters{}} }

func (t *traffic) of(kind string) *counters {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kinds[kind] == nil {
		t.kinds[kind] = new(counters)
	}
	return t.kinds[kind]
}

// count looks at the answer's header alone, so that a hit still goes out by
// sendfile.
func (t *traffic) count(kind string, handler http.Handler) http.Handler {
	c := t.of(kind)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r)
		switch header := w.Header(); {
		case header.Get("Pyrsia-Verified") != "":
			c.verified.Add(1)
		case header.Get("Pyrsia-Unverified") == "upstream":
			c.passed.Add(1)
			c.bytes.Add(contentLength(header))
		case header.Get("Pyrsia-Unverified") == "":
			c.refused.Add(1)
		}
	})
}

func contentLength(h http.Header) int64 {
	var n json.Number = json.Number(h.Get("Content-Length"))
	length, _ := n.Int64()
	return length
}

func (n *Node) mirrorStates() []control.Mirror {
	mirrors := []control.Mirror{}
	for _, m := range n.conf().Mirrors {
		c := n.traffic.of(m.Kind)
		mirrors = append(mirrors, control.Mirror{
			Kind: m.Kind, Unverified: string(m.Unverified), Declared: len(m.Packages),
			Verified: c.verified.Load(), Passed: c.passed.Load(), Refused: c.refused.Load(),
		})
	}
	return mirrors
}
