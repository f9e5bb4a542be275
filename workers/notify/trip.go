package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 1 << 20

// trip is the way out for one attempt: an HTTP transport that goes through
// the guard, ends with the attempt, takes no proxy from the environment and
// remembers what it saw.
type trip struct {
	ctx   context.Context
	guard *guard
	ready atomic.Bool // the service understood its url

	mu   sync.Mutex
	seen sighting
}

// sighting is the outcome of a request.
type sighting struct {
	host   string
	status int
	after  time.Duration // Retry-After
	err    error
	denied string
}

func (s sighting) statusText() string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", s.status, http.StatusText(s.status)))
}

// passing reports whether a request that got this status may be answered
// better later.
func passing(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return status >= 500
}

func (t *trip) client() *http.Client {
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // RoundTrip refuses redirects
	}}
}

func (t *trip) last() sighting {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen
}

func (t *trip) remember(s sighting) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = s
}

// RoundTrip does one request and reads the answer whole, up to maxAnswer.
func (t *trip) RoundTrip(req *http.Request) (*http.Response, error) {
	s := sighting{host: req.URL.Hostname()}
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	res, err := t.exchange(req.WithContext(ctx))
	switch {
	case t.ctx.Err() != nil && err != nil:
		err = context.Cause(t.ctx)
		s.err = err
	case err != nil:
		s.err = err
		s.denied, _ = denied(err)
	case res.StatusCode >= 300 && res.StatusCode < 400:
		s.denied = fmt.Sprintf("%s answered with a redirect, which is not followed: put the address that it leads to into the url", s.host)
		err = errors.New(s.denied)
	default:
		s.status = res.StatusCode
		s.after = retryAfter(res.Header.Get("Retry-After"))
	}
	t.remember(s)
	if err != nil {
		return nil, err
	}
	return res, nil
}

// exchange uses a connection of its own: nothing is left open.
func (t *trip) exchange(req *http.Request) (*http.Response, error) {
	inner := &http.Transport{
		Proxy:               nil,
		DisableKeepAlives:   true,
		ForceAttemptHTTP2:   true,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 10 * time.Second,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return t.guard.dial(ctx, network, address, "443")
		},
		MaxResponseHeaderBytes: 64 << 10,
	}
	defer inner.CloseIdleConnections()
	res, err := inner.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil && res.StatusCode < 400 {
		return nil, fmt.Errorf("the answer broke off: %w", err)
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	res.ContentLength = int64(len(body))
	return res, nil
}

// retryAfter is the pause in seconds that a header asks for, 0 for none.
func retryAfter(header string) time.Duration {
	n, err := strconv.Atoi(strings.TrimSpace(header))
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(min(n, 3600)) * time.Second
}
