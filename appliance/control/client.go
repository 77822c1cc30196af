package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

var _ Node = (*Client)(nil)

// maxAnswer bounds an answer that is not a stream, in bytes.
const maxAnswer = 256 << 20

// Client is the node at the other side of a control socket. It is safe for
// concurrent use and opens the socket at its first question.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient is a client for the node at the socket. Close it after use.
func NewClient(socket string) *Client {
	dialer := &net.Dialer{}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		},
	}}}
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status implements Node.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return fetch[Status](ctx, c, "/v1/status", nil)
}

// Peers implements Node.
func (c *Client) Peers(ctx context.Context) ([]Peer, error) {
	return fetch[[]Peer](ctx, c, "/v1/peers", nil)
}

// RequestBuild implements Node.
func (c *Client) RequestBuild(ctx context.Context, purl artifact.PURL) (string, error) {
	body, err := c.open(ctx, http.MethodPost, "/v1/builds", nil, requestBuild{Package: string(purl)})
	if err != nil {
		return "", err
	}
	answer, err := decode[requested](body)
	return answer.ID, err
}

// Check implements Node.
func (c *Client) Check(ctx context.Context, progress func(Progress) error) (report CheckReport, err error) {
	body, err := c.open(ctx, http.MethodGet, "/v1/check", nil, nil)
	if err != nil {
		return report, err
	}
	defer body.Close() //nolint:errcheck // reading is over
	found := false
	err = receive(body, func(f frame) error {
		var next checked
		if err := json.Unmarshal(f.Value, &next); err != nil {
			return fmt.Errorf("answer of the node: %w", err)
		}
		if next.Progress != nil {
			return progress(*next.Progress)
		}
		if next.Report != nil {
			report, found = *next.Report, true
		}
		return nil
	})
	if err == nil && !found {
		err = errCut
	}
	return report, c.interrupted(ctx, err)
}

// Reload implements Node.
func (c *Client) Reload(ctx context.Context) (Reloaded, error) {
	body, err := c.open(ctx, http.MethodPost, "/v1/reload", nil, nil)
	if err != nil {
		return Reloaded{}, err
	}
	return decode[Reloaded](body)
}

// SetRole implements Node.
func (c *Client) SetRole(ctx context.Context, role string) error {
	body, err := c.open(ctx, http.MethodPost, "/v1/role", nil, roleSet{Role: role})
	if err != nil {
		return err
	}
	_, err = decode[roleSet](body)
	return err
}

// Plan implements Node.
func (c *Client) Plan(ctx context.Context, file string, source []byte) (Plan, error) {
	body, err := c.open(ctx, http.MethodPost, "/v1/plan", nil, requestPlan{File: file, Source: source})
	if err != nil {
		return Plan{}, err
	}
	return decode[Plan](body)
}

// Configuration implements Node.
func (c *Client) Configuration(ctx context.Context) ([]Setting, error) {
	return fetch[[]Setting](ctx, c, "/v1/configuration", nil)
}

// History implements Node.
func (c *Client) History(ctx context.Context) ([]Taken, error) {
	return fetch[[]Taken](ctx, c, "/v1/history", nil)
}

// Past implements Node.
func (c *Client) Past(ctx context.Context, number int) ([]byte, error) {
	body, err := c.open(ctx, http.MethodGet, "/v1/history/"+strconv.Itoa(number), nil, nil)
	if err != nil {
		return nil, err
	}
	defer body.Close() //nolint:errcheck // reading is over
	return io.ReadAll(io.LimitReader(body, maxAnswer))
}

// Builds implements Node.
func (c *Client) Builds(ctx context.Context) ([]Build, error) {
	return fetch[[]Build](ctx, c, "/v1/builds", nil)
}

// Build implements Node.
func (c *Client) Build(ctx context.Context, ref string) (BuildDetail, error) {
	return fetch[BuildDetail](ctx, c, "/v1/build", url.Values{"ref": {ref}})
}

// WatchBuild implements Node.
func (c *Client) WatchBuild(ctx context.Context, ref string, send func(Build) error) error {
	body, err := c.open(ctx, http.MethodGet, "/v1/build/watch", url.Values{"ref": {ref}}, nil)
	if err != nil {
		return err
	}
	defer body.Close() //nolint:errcheck // reading is over
	return c.interrupted(ctx, receive(body, func(f frame) error {
		var b Build
		if err := json.Unmarshal(f.Value, &b); err != nil {
			return fmt.Errorf("answer of the node: %w", err)
		}
		return send(b)
	}))
}

// BuildLogs implements Node.
func (c *Client) BuildLogs(ctx context.Context, ref string, follow bool, w io.Writer) error {
	query := url.Values{"ref": {ref}, "follow": {strconv.FormatBool(follow)}}
	response, err := c.do(ctx, http.MethodGet, "/v1/build/logs", query, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close() //nolint:errcheck // reading is over
	if _, err := io.Copy(w, response.Body); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errCut
		}
		return c.interrupted(ctx, err)
	}
	if trailer := response.Trailer.Get(errorTrailer); trailer != "" {
		return decodeError([]byte(trailer), response.StatusCode)
	}
	return nil
}

// CancelBuild implements Node.
func (c *Client) CancelBuild(ctx context.Context, ref string) error {
	body, err := c.open(ctx, http.MethodPost, "/v1/build/cancel", url.Values{"ref": {ref}}, nil)
	if err != nil {
		return err
	}
	_, err = decode[struct{}](body)
	return err
}

// Workers implements Node.
func (c *Client) Workers(ctx context.Context) ([]Worker, error) {
	return fetch[[]Worker](ctx, c, "/v1/workers", nil)
}

// Inputs implements Node.
func (c *Client) Inputs(ctx context.Context, ref string) ([]Input, error) {
	return fetch[[]Input](ctx, c, "/v1/build/inputs", url.Values{"ref": {ref}})
}

// Differences implements Node.
func (c *Client) Differences(ctx context.Context, ref string) ([]Difference, error) {
	return fetch[[]Difference](ctx, c, "/v1/build/differences", url.Values{"ref": {ref}})
}

// Recipe implements Node.
func (c *Client) Recipe(ctx context.Context, ref string) (RecipeDetail, error) {
	return fetch[RecipeDetail](ctx, c, "/v1/recipe", url.Values{"ref": {ref}})
}

// PutFile implements Node.
func (c *Client) PutFile(ctx context.Context, r io.Reader) (artifact.Descriptor, error) {
	body, err := c.open(ctx, http.MethodPost, "/v1/file", nil, r)
	if err != nil {
		return artifact.Descriptor{}, err
	}
	return decode[artifact.Descriptor](body)
}

// File implements Node.
func (c *Client) File(ctx context.Context, digest artifact.SHA256, w io.Writer) error {
	return c.content(ctx, "/v1/file", url.Values{"sha256": {digest.String()}}, w)
}

// Remains implements Node.
func (c *Client) Remains(ctx context.Context, ref string, w io.Writer) error {
	return c.content(ctx, "/v1/build/remains", url.Values{"ref": {ref}}, w)
}

func (c *Client) content(ctx context.Context, path string, query url.Values, w io.Writer) error {
	body, err := c.open(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return err
	}
	defer body.Close() //nolint:errcheck // reading is over
	if _, err := io.Copy(w, body); err != nil {
		return c.interrupted(ctx, err)
	}
	return nil
}

// TryRecipe implements Node.
func (c *Client) TryRecipe(ctx context.Context, recipe *record.Recipe, progress func(string) error) ([]Tried, error) {
	body, err := c.open(ctx, http.MethodPost, "/v1/recipe/try", nil, recipe)
	if err != nil {
		return nil, err
	}
	defer body.Close() //nolint:errcheck // reading is over
	var tried []Tried
	err = receive(body, func(f frame) error {
		if f.Value == nil {
			return progress(f.Line)
		}
		return json.Unmarshal(f.Value, &tried)
	})
	if err == nil && tried == nil {
		err = errCut
	}
	if err != nil {
		return nil, c.interrupted(ctx, err)
	}
	return tried, nil
}

// Explain implements Node.
func (c *Client) Explain(ctx context.Context, lock *record.Lock) ([]Input, error) {
	body, err := c.open(ctx, http.MethodPost, "/v1/explain", nil, lock)
	if err != nil {
		return nil, err
	}
	return decode[[]Input](body)
}

// Recipes implements Node.
func (c *Client) Recipes(ctx context.Context) ([]Recipe, error) {
	return fetch[[]Recipe](ctx, c, "/v1/recipes", nil)
}

// ResolveLock implements Node.
func (c *Client) ResolveLock(ctx context.Context, recipe *record.Recipe, progress func(string) error) (*record.Lock, error) {
	body, err := c.open(ctx, http.MethodPost, "/v1/lock", nil, recipe)
	if err != nil {
		return nil, err
	}
	defer body.Close() //nolint:errcheck // reading is over
	var lock *record.Lock
	err = receive(body, func(f frame) error {
		if f.Value == nil {
			return progress(f.Line)
		}
		lock = new(record.Lock)
		return json.Unmarshal(f.Value, lock)
	})
	if err == nil && lock == nil {
		err = errCut
	}
	if err != nil {
		return nil, c.interrupted(ctx, err)
	}
	return lock, nil
}

// LogList implements Node.
func (c *Client) LogList(ctx context.Context, from int64, count int) ([]LogEntry, error) {
	query := url.Values{"from": {strconv.FormatInt(from, 10)}, "count": {strconv.Itoa(count)}}
	return fetch[[]LogEntry](ctx, c, "/v1/log", query)
}

// LogInspect implements Node.
func (c *Client) LogInspect(ctx context.Context, ref string) ([]LogLeaf, error) {
	return fetch[[]LogLeaf](ctx, c, "/v1/log/leaf", url.Values{"ref": {ref}})
}

// LogProve implements Node.
func (c *Client) LogProve(ctx context.Context, ref string) ([]byte, error) {
	return c.bytes(ctx, "/v1/log/proof", url.Values{"ref": {ref}})
}

// Checkpoint implements Node.
func (c *Client) Checkpoint(ctx context.Context) (string, error) {
	note, err := c.bytes(ctx, "/v1/log/checkpoint", nil)
	return string(note), err
}

// Sources implements Node.
func (c *Client) Sources(ctx context.Context, ref string) ([]Artifact, error) {
	return fetch[[]Artifact](ctx, c, "/v1/artifacts", url.Values{"ref": {ref}})
}

func (c *Client) bytes(ctx context.Context, path string, query url.Values) ([]byte, error) {
	body, err := c.open(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return nil, err
	}
	defer body.Close() //nolint:errcheck // reading is over
	return readAll(body)
}

func fetch[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	body, err := c.open(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		var zero T
		return zero, err
	}
	return decode[T](body)
}

func decode[T any](body io.ReadCloser) (T, error) {
	defer body.Close() //nolint:errcheck // reading is over
	var value T
	data, err := readAll(body)
	if err != nil {
		return value, err
	}
	if err := json.Unmarshal(data, &value); err != nil {
		return value, fmt.Errorf("answer of the node: %w", err)
	}
	return value, nil
}

func readAll(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxAnswer+1))
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, errCut
	}
	if err == nil && len(data) > maxAnswer {
		err = fmt.Errorf("answer of the node: more than %d bytes", maxAnswer)
	}
	return data, err
}

func (c *Client) open(ctx context.Context, method, path string, query url.Values, body any) (io.ReadCloser, error) {
	response, err := c.do(ctx, method, path, query, body)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

func (c *Client) do(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	content, raw := body.(io.Reader)
	if body != nil && !raw {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("question to the node: %w", err)
		}
		content = bytes.NewReader(data)
	}
	target := url.URL{Scheme: "http", Host: "node", Path: path, RawQuery: query.Encode()}
	request, err := http.NewRequestWithContext(ctx, method, target.String(), content)
	if err != nil {
		return nil, fmt.Errorf("question to the node: %w", err)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	defer response.Body.Close() //nolint:errcheck // reading is over
	data, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return nil, errCut
	}
	return nil, decodeError(data, response.StatusCode)
}

func decodeError(data []byte, status int) error {
	e := new(Error)
	if json.Unmarshal(data, e) != nil || e.Message == "" {
		return fmt.Errorf("the node answered with status %d: %.200q", status, data)
	}
	return e
}

// interrupted prefers the caller's own reason for an end over what the cut
// connection looks like.
func (c *Client) interrupted(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// unreachable says in one sentence why there is no answer at all.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	why, hint := "", "start the node (systemctl start pyrsia, or pyrsia serve), or give --socket"
	switch {
	case errors.Is(err, syscall.ENOENT):
		why = "no such file"
	case errors.Is(err, syscall.ECONNREFUSED):
		why = "nobody answers there"
	case errors.Is(err, syscall.EACCES):
		why, hint = "permission denied", "run this as the node's user, or as root"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		why, hint = "the node closed the connection", "it may have stopped; see its log"
	default:
		why = err.Error()
		if inner, ok := errors.AsType[*url.Error](err); ok {
			why = strings.TrimPrefix(inner.Err.Error(), "dial unix "+c.socket+": ")
		}
	}
	return &unreachable{fmt.Sprintf("cannot reach the node at %s: %s; %s", c.socket, why, hint)}
}

type unreachable struct{ message string }

// Error implements error.
func (u *unreachable) Error() string { return u.message }

// Is implements what errors.Is asks.
func (u *unreachable) Is(target error) bool { return target == ErrUnreachable }
