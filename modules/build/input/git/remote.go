package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
)

// Of the smart HTTP protocol (gitprotocol-http(5)), version 0, which every
// server speaks.
const (
	service     = "git-upload-pack"
	infoRefs    = "/info/refs"
	listing     = "application/x-git-upload-pack-advertisement"
	requestType = "application/x-git-upload-pack-request"
	resultType  = "application/x-git-upload-pack-result"
)

// maxHead bounds what comes before a packfile, bytes.
const maxHead = 1 << 20

const maxRedirects = 5

// remote is a repository behind smart HTTP. It is for one caller at a time.
type remote struct {
	client *http.Client
	own    bool   // the client's connections are nobody else's
	base   string // of the repository; it moves when the server redirects
	stall  time.Duration
	bounds bounds
	from   origin
	refs   *packp.AdvRefs
}

func newRemote(u *url.URL, options Options) *remote {
	r := &remote{base: strings.TrimRight(u.String(), "/"), stall: options.Stall, bounds: options.limits()}
	if r.stall == 0 {
		r.stall = time.Minute
	}
	client := http.Client{Transport: defaultTransport()}
	if options.Client != nil {
		client = *options.Client
	}
	client.Transport, r.own = separate(client.Transport)
	rules := client.CheckRedirect
	client.CheckRedirect = func(next *http.Request, via []*http.Request) error {
		if err := checkRedirect(next, via); err != nil {
			return err
		}
		if rules != nil {
			return rules(next, via)
		}
		return nil
	}
	r.client = &client
	return r
}

// separate makes a transport with connections of its own: one that others keep
// open could carry a request before it is seen where it leads.
func separate(transport http.RoundTripper) (http.RoundTripper, bool) {
	if transport == nil {
		transport = http.DefaultTransport
	}
	if t, ok := transport.(*http.Transport); ok {
		return t.Clone(), true
	}
	return transport, false
}

func defaultTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		ForceAttemptHTTP2:     true,
	}
}

func (r *remote) close() {
	if r.own {
		r.client.CloseIdleConnections()
	}
}

// checkRedirect lets a server point elsewhere for the list of references, as git
// does; not to where anyone on the way could answer in its place, and not to a
// service of this machine or its network that the recipe did not name.
func checkRedirect(next *http.Request, via []*http.Request) error {
	last := via[len(via)-1]
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("more than %d redirects", maxRedirects)
	case next.Method != http.MethodGet || last.Method != http.MethodGet:
		return fmt.Errorf("a redirect of %s: the address that it leads to may be the repository's real one", last.Method)
	case next.URL.Scheme != "https" && (last.URL.Scheme == "https" || next.URL.Scheme != "http"):
		return fmt.Errorf("a redirect from %s to %s", last.URL.Scheme, next.URL.Scheme)
	case next.URL.User != nil:
		return errors.New("a redirect to an address with a user name")
	case hostReach(next.URL.Hostname()) > hostReach(via[0].URL.Hostname()):
		return fmt.Errorf("a redirect to %s: %w", next.URL.Host, errPrivate)
	}
	return nil
}

var errPrivate = errors.New("the server points to a private address")

// reach says how near an address is; a redirect never leads nearer.
type reach int

const (
	public reach = iota
	private
	machine
)

// shared is the address space of carriers (RFC 6598).
var shared = netip.MustParsePrefix("100.64.0.0/10")

func addressReach(a netip.Addr) reach {
	a = a.Unmap()
	switch {
	case a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast():
		return machine // link-local too: clouds have their machines' secrets there
	case a.IsPrivate() || a.IsMulticast() || shared.Contains(a):
		return private
	}
	return public
}

// hostReach knows addresses; where a name leads is seen once connected.
func hostReach(host string) reach {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return machine
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return addressReach(a)
	}
	return public
}

// origin is how near the first connection of a remote led.
type origin struct {
	mu    sync.Mutex
	known bool
	reach reach
}

// admits tells whether a connection may be used.
func (o *origin) admits(conn net.Conn) bool {
	at, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return true // no TCP: a caller's own way to a server
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	found := addressReach(at.Addr())
	if !o.known {
		o.known, o.reach = true, found
	}
	return found <= o.reach
}

// answer is the body of a server's answer. Reading it fails when the server
// stalls, when it sends more than the limit, and when the context ends.
type answer struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	watch  *time.Timer
	stall  time.Duration
	body   io.ReadCloser
	n      int64
	limit  int64
	full   error // when n is beyond the limit
	err    error // that Read ended with, io.EOF aside
	at     *url.URL
}

func (a *answer) Read(p []byte) (int, error) {
	if a.err != nil {
		return 0, a.err
	}
	a.watch.Reset(a.stall)
	n, err := a.body.Read(p)
	a.watch.Stop()
	if a.n += int64(n); a.n > a.limit {
		a.err = a.full
		return 0, a.err
	}
	if err != nil && !errors.Is(err, io.EOF) {
		a.err = unavailable("the server's answer broke off: %w", causeOf(a.ctx, err))
		return n, a.err
	}
	return n, err
}

func (a *answer) Close() error {
	a.watch.Stop()
	err := a.body.Close()
	a.cancel(nil)
	return err
}

// failed prefers what made an answer end to what this led to.
func (a *answer) failed(err error) error {
	if a.err != nil {
		return a.err
	}
	return err
}

// causeOf prefers the reason for which a context ended to the error that this
// led to.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// ask is a request and the answer to it, of the wanted type; the caller closes it.
func (r *remote) ask(ctx context.Context, method, address string, content []byte, wanted string) (*answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	watch := time.AfterFunc(r.stall, func() { cancel(unavailable("the server sent nothing for %v", r.stall)) })
	response, err := r.do(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		if !r.from.admits(got.Conn) {
			cancel(errPrivate)
			if !got.Reused {
				got.Conn.Close() // before anything is sent; a reused one is not ours
			}
		}
	}}), method, address, content)
	watch.Stop()
	if err != nil {
		if at := new(url.Error); errors.As(err, &at) {
			err = at.Err // its address may be of a redirect, with a password
		}
		err = unavailable("%w", causeOf(ctx, err))
		cancel(nil)
		return nil, err
	}
	a := &answer{ctx: ctx, cancel: cancel, watch: watch, stall: r.stall, body: response.Body, at: response.Request.URL}
	if err := checkAnswer(response, wanted); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

func (r *remote) do(ctx context.Context, method, address string, content []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", capability.DefaultAgent())
	if method == http.MethodPost {
		request.Header.Set("Content-Type", requestType)
		request.Header.Set("Accept", resultType)
		// A packfile is compressed already; what is counted is what was sent.
		request.Header.Set("Accept-Encoding", "identity")
	}
	return r.client.Do(request)
}

func checkAnswer(response *http.Response, wanted string) error {
	switch code := response.StatusCode; {
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return unavailable("the server answers %q: there is no such repository, or not for everyone", response.Status)
	case code == http.StatusNotFound || code == http.StatusGone:
		return unavailable("the server answers %q: there is no such repository", response.Status)
	case code != http.StatusOK:
		return unavailable("the server answers %q", response.Status)
	}
	if found := response.Header.Get("Content-Type"); found != wanted {
		return unavailable("the server answers with %.80q and not as git does: is this the address that one would clone?", found)
	}
	return nil
}

// list gets the list of references.
func (r *remote) list(ctx context.Context) error {
	address := r.base + infoRefs + "?service=" + service
	a, err := r.ask(ctx, http.MethodGet, address, nil, listing)
	if err != nil {
		return err
	}
	defer a.Close()
	a.limit, a.full = r.bounds.refs, unavailable("the server's list of references has more than %d bytes", r.bounds.refs)
	r.refs = packp.NewAdvRefs()
	err = r.refs.Decode(a)
	switch {
	case errors.Is(err, packp.ErrEmptyAdvRefs) || err == nil && r.refs.IsEmpty():
		return unavailable("the repository is empty")
	case err != nil:
		return a.failed(unavailable("the server's list of references cannot be read: %w", err))
	}
	if a.at.String() == address {
		return nil
	}
	return r.move(a.at)
}

// move follows the redirect that the list of references took.
func (r *remote) move(to *url.URL) error {
	base, ok := strings.CutSuffix(to.Path, infoRefs)
	if !ok {
		return unavailable("the server redirects to %s, which is no repository", to.Redacted())
	}
	moved := url.URL{Scheme: to.Scheme, Host: to.Host, Path: base}
	r.base = strings.TrimRight(moved.String(), "/")
	return nil
}

// tag is the commit that a tag names, "" if there is no such tag. Servers list
// what an annotated tag stands for beside it.
func (r *remote) tag(name string) string {
	full := "refs/tags/" + name
	if peeled, ok := r.refs.Peeled[full]; ok {
		return peeled.String()
	}
	if hash, ok := r.refs.References[full]; ok {
		return hash.String()
	}
	return ""
}

// errDenied: the server said that it does not give what was asked for.
type errDenied struct{ text string }

func (e errDenied) Error() string { return fmt.Sprintf("the server says %.200q", e.text) }

// download writes the packfile of what is wanted to a file; of depth 1 without
// the history, of 0 with it.
func (r *remote) download(ctx context.Context, wants []plumbing.Hash, depth int, into *os.File) error {
	request := packp.NewUploadPackRequest()
	request.Wants, request.Depth = wants, packp.DepthCommits(depth)
	r.agree(request, depth)
	content, err := encode(request)
	if err != nil {
		return err
	}
	a, err := r.ask(ctx, http.MethodPost, r.base+"/"+service, content, resultType)
	if err != nil {
		return err
	}
	defer a.Close()
	a.limit, a.full = maxHead, unavailable("the server sends more than %d bytes before the packfile", maxHead)
	response := packp.NewUploadPackResponse(request)
	if err := response.Decode(a); err != nil {
		if denied := new(pktline.ErrorLine); errors.As(err, &denied) {
			return errDenied{denied.Text}
		}
		return a.failed(unavailable("the server's answer cannot be read: %w", err))
	}
	a.limit, a.full = r.bounds.pack, unavailable("the server sends more than %d bytes: use a server that gives single commits, or a release archive", r.bounds.pack)
	_, err = io.Copy(into, demultiplexed(request, response))
	switch onDisk := new(os.PathError); {
	case err == nil && a.n > a.limit: // it all came with the head
		return a.full
	case err == nil || errors.As(err, &onDisk):
		return err
	}
	return a.failed(unavailable("the server broke off: %.300q", err.Error()))
}

// agree asks for those abilities of the server that this side has, too.
func (r *remote) agree(request *packp.UploadPackRequest, depth int) {
	wanted := []capability.Capability{capability.OFSDelta, capability.NoProgress}
	if depth > 0 {
		wanted = append(wanted, capability.Shallow)
	}
	if r.refs.Capabilities.Supports(capability.Sideband64k) {
		wanted = append(wanted, capability.Sideband64k)
	} else {
		wanted = append(wanted, capability.Sideband)
	}
	for _, c := range wanted {
		if r.refs.Capabilities.Supports(c) {
			_ = request.Capabilities.Set(c) // these take no value, so it cannot fail
		}
	}
	if r.refs.Capabilities.Supports(capability.Agent) {
		_ = request.Capabilities.Set(capability.Agent, capability.DefaultAgent())
	}
}

func encode(request *packp.UploadPackRequest) ([]byte, error) {
	if err := request.Validate(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := request.UploadRequest.Encode(&b); err != nil {
		return nil, err
	}
	err := pktline.NewEncoder(&b).EncodeString("done\n")
	return b.Bytes(), err
}

func demultiplexed(request *packp.UploadPackRequest, response io.Reader) io.Reader {
	switch {
	case request.Capabilities.Supports(capability.Sideband64k):
		return sideband.NewDemuxer(sideband.Sideband64k, response)
	case request.Capabilities.Supports(capability.Sideband):
		return sideband.NewDemuxer(sideband.Sideband, response)
	}
	return response
}
