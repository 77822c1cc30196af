// Package upstream is the HTTP client of one upstream registry. It is careful
// with the upstream, which may be slow, tired, wrong or hostile, and believes
// nothing that it says.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pyrsia/appliance/modules/mirror"
)

// Config names an upstream. Zero durations have defaults.
type Config struct {
	Base string // "https://registry.example/root"; http and https only

	Dial   time.Duration // to connect; 10 s
	Answer time.Duration // from the request to the answer's header; 30 s
	Idle   time.Duration // without any byte of a body; 60 s
}

const (
	maxRedirects   = 5
	maxHeaderBytes = 64 << 10
	maxConnections = 16 // to one host
)

// Client implements mirror.Upstream and is safe for concurrent use.
type Client struct {
	base    *url.URL
	idle    time.Duration
	http    *http.Client
	breaker breaker
}

// New reads the configuration and connects to nothing.
func New(config Config) (*Client, error) {
	base, err := url.Parse(config.Base)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("upstream %q: want an address such as \"https://registry.example\"", config.Base)
	}
	if base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("upstream %q: want an address without \"?\" and \"#\"", config.Base)
	}
	orDefault(&config.Dial, 10*time.Second)
	orDefault(&config.Answer, 30*time.Second)
	orDefault(&config.Idle, 60*time.Second)
	base.Path = strings.TrimRight(base.Path, "/")
	base.RawPath = ""
	c := &Client{base: base, idle: config.Idle}
	c.http = &http.Client{Transport: c.transport(config), CheckRedirect: c.redirect}
	return c, nil
}

func orDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

func (c *Client) transport(config Config) *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            c.dialer(config.Dial),
		TLSHandshakeTimeout:    config.Dial,
		ResponseHeaderTimeout:  config.Answer,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    maxConnections,
		MaxConnsPerHost:        maxConnections,
		MaxResponseHeaderBytes: maxHeaderBytes,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // the bytes asked for are the bytes hashed
	}
}

// dialer connects to the configured host wherever it is, but lets no redirect
// lead to this machine itself or to its link: an upstream must not be able to
// make the node read its own control addresses to a client. Behind a proxy the
// proxy decides.
func (c *Client) dialer(timeout time.Duration) func(context.Context, string, string) (net.Conn, error) {
	free := &net.Dialer{Timeout: timeout}
	guarded := &net.Dialer{Timeout: timeout, Control: refuseOwn}
	proxy, _ := http.ProxyFromEnvironment(&http.Request{URL: c.base})
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err == nil && proxy == nil && !strings.EqualFold(host, c.base.Hostname()) {
			return guarded.DialContext(ctx, network, address)
		}
		return free.DialContext(ctx, network, address)
	}
}

func refuseOwn(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := to.Addr().Unmap()
	if ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() || ip.IsMulticast() {
		return fmt.Errorf("redirected to %s, which is this machine's own", ip)
	}
	return nil
}

// redirect follows to other hosts, never to other schemes or down to plain
// HTTP.
func (c *Client) redirect(r *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	before := via[len(via)-1].URL.Scheme
	if r.URL.Scheme != "https" && (r.URL.Scheme != "http" || before == "https") {
		return fmt.Errorf("redirected from %s to %s", before, r.URL.Scheme)
	}
	return nil
}

// String is the address without credentials.
func (c *Client) String() string {
	clean := *c.base
	clean.User = nil
	return clean.String()
}

// Close lets idle connections go.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Get asks for base + "/" + path. Every failure is a *mirror.UpstreamError, and
// so is the refusal to ask at all, which comes at once: after several failures
// in a row, or while the upstream's "429 Too Many Requests" holds.
func (c *Client) Get(ctx context.Context, path string, header http.Header) (*mirror.Reply, error) {
	if err := c.breaker.allow(time.Now()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	reply, err := c.get(ctx, cancel, path, header)
	if err != nil {
		canceled := ctx.Err() != nil
		cancel()
		if !canceled {
			c.breaker.failed(time.Now())
		} else {
			c.breaker.gaveUp()
		}
		return nil, &mirror.UpstreamError{Err: withoutCredentials(err)}
	}
	return c.judge(reply)
}

// withoutCredentials drops the URL that net/http puts into its errors.
func withoutCredentials(err error) error {
	if failed := new(url.Error); errors.As(err, &failed) {
		return failed.Err
	}
	return err
}

func (c *Client) get(ctx context.Context, cancel context.CancelFunc, path string, header http.Header) (*mirror.Reply, error) {
	target := *c.base
	target.Path += "/" + strings.TrimPrefix(path, "/")
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		r.Header[name] = values
	}
	r.Header.Set("User-Agent", "pyrsia")
	r.Header.Set("Accept-Encoding", "identity")
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	return &mirror.Reply{
		Status: answer.StatusCode,
		Header: answer.Header,
		Length: answer.ContentLength,
		Body:   newBody(answer.Body, c.idle, cancel),
	}, nil
}

// judge feeds the breaker with an answer.
func (c *Client) judge(reply *mirror.Reply) (*mirror.Reply, error) {
	switch {
	case reply.Status == http.StatusTooManyRequests || reply.Status == http.StatusServiceUnavailable && reply.Header.Get("Retry-After") != "":
		reply.Body.Close()
		wait := c.breaker.pause(time.Now(), retryAfter(reply.Header.Get("Retry-After"), time.Now()))
		return nil, &mirror.UpstreamError{Status: reply.Status, RetryAfter: wait}
	case reply.Status >= 500:
		c.breaker.failed(time.Now())
	default:
		c.breaker.worked()
	}
	return reply, nil
}

// retryAfter reads a Retry-After header: seconds or a date (RFC 9110, 10.2.3);
// zero where it says nothing.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseInt(value, 10, 32); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return date.Sub(now)
	}
	return 0
}

// body ends a transfer that stands still.
type body struct {
	io.ReadCloser
	idle    time.Duration
	timer   *time.Timer
	cancel  context.CancelFunc
	mu      sync.Mutex
	expired bool
}

func newBody(from io.ReadCloser, idle time.Duration, cancel context.CancelFunc) *body {
	b := &body{ReadCloser: from, idle: idle, cancel: cancel}
	b.timer = time.AfterFunc(idle, b.expire)
	return b
}

func (b *body) expire() {
	b.mu.Lock()
	b.expired = true
	b.mu.Unlock()
	b.cancel()
}

func (b *body) Read(p []byte) (int, error) {
	b.timer.Reset(b.idle)
	n, err := b.ReadCloser.Read(p)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.expired {
		return n, fmt.Errorf("no byte came for %s", b.idle)
	}
	return n, err
}

func (b *body) Close() error {
	b.timer.Stop()
	b.cancel()
	return b.ReadCloser.Close()
}
