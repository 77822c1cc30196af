package control

import (
	"context"
	"errors"
	"net/http"
	"strings"
)

// Sentinels that a Node's errors wrap and that come out of a Client again.
var (
	// ErrNotFound: there is no such build, leaf, package or file.
	ErrNotFound = errors.New("not found")
	// ErrInvalid: the question itself is wrong; asking again does not help.
	ErrInvalid = errors.New("invalid")
	// ErrConflict: the node's state does not allow it now.
	ErrConflict = errors.New("conflict")
	// ErrRefused: this node does not do that, such as a build on a regular
	// node that no member serves.
	ErrRefused = errors.New("refused")
	// ErrUnavailable: a part that is needed does not run yet or is in backoff.
	ErrUnavailable = errors.New("unavailable")
	// ErrUnreachable: there is no node at the socket. Only a Client gives it.
	ErrUnreachable = errors.New("unreachable")
)

var codes = []struct {
	code   string
	status int
	is     error
}{
	{"not-found", http.StatusNotFound, ErrNotFound},
	{"invalid", http.StatusBadRequest, ErrInvalid},
	{"conflict", http.StatusConflict, ErrConflict},
	{"refused", http.StatusForbidden, ErrRefused},
	{"unavailable", http.StatusServiceUnavailable, ErrUnavailable},
	{"cancelled", 499, context.Canceled},
	{"deadline", http.StatusGatewayTimeout, context.DeadlineExceeded},
}

// Error is an answer that says no. Message is one sentence; Hint, if any, is
// what to do about it.
type Error struct {
	Message string `json:"error"`
	Hint    string `json:"hint,omitempty"`
	Code    string `json:"code,omitempty"`
}

// Error implements error: the message and the hint.
func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + "; " + e.Hint
}

// Is tells whether the error stands for the given sentinel.
func (e *Error) Is(target error) bool {
	for _, c := range codes {
		if c.code == e.Code {
			return c.is == target
		}
	}
	return false
}

type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

// WithHint adds to an error what the person at the command line can do about
// it. It keeps the error's chain.
func WithHint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &hinted{err, hint}
}

// answer is the error as it goes over the socket, and its HTTP status.
func answer(err error) (*Error, int) {
	if passed, ok := errors.AsType[*Error](err); ok {
		_, _, status := classify(passed)
		return passed, status
	}
	e := &Error{Message: err.Error()}
	if h, ok := errors.AsType[*hinted](err); ok {
		e.Hint = h.hint
	}
	code, is, status := classify(err)
	e.Code = code
	if is != nil {
		// The code says it already; "not found: no build 7" is no sentence.
		e.Message = strings.TrimPrefix(e.Message, is.Error()+": ")
	}
	return e, status
}

func classify(err error) (code string, is error, status int) {
	for _, c := range codes {
		if errors.Is(err, c.is) {
			return c.code, c.is, c.status
		}
	}
	return "", nil, http.StatusInternalServerError
}
