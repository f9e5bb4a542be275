package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-cd/penstock/workers/deploy"
)

// HeaderVersion is on every answer that came from a release: its artifact.
const HeaderVersion = "X-Penstock-Version"

// headerVerify marks the router's own questions, which are not counted.
const headerVerify = "X-Penstock-Verify"

// Requests counts what the router has done since it started.
type Requests struct {
	Total  int64 `json:"total"`
	Failed int64 `json:"failed"` // answered by the router itself, or cut off, because no instance gave an answer
	Errors int64 `json:"errors"` // answered 5xx by an instance
}

// router is the front door of an environment: it spreads requests over the
// backends of the groups by weight, counts what is in flight, and tries a
// request once more elsewhere when a connection fails and that is harmless.
//
// A request chooses its backend and is counted there in one step under mu, so
// after setWeights has returned no request goes to a backend of weight 0 that
// inFlight does not see.
type router struct {
	log     *slog.Logger
	verify  string // secret value of headerVerify
	handler http.Handler

	total, failed, serverErrors atomic.Int64

	mu       sync.Mutex
	backends []*backend
	weights  map[deploy.Group]int
	credit   map[deploy.Group]int // smooth weighted round robin
	turn     int                  // of backends within a group
	idle     chan struct{}        // closed and replaced when a backend has become idle
	doors    map[int]*http.Server // by port
}

// backend is one instance, as the router sees it. mu of the router guards it.
type backend struct {
	group    deploy.Group
	address  string // host:port
	artifact string
	client   *http.Transport
	inFlight int
	up       bool
}

// idleConnection is how long a connection to an instance is kept for the next
// request: less than common servers keep theirs, so that a request seldom
// meets a connection that the instance is just closing.
const idleConnection = 3 * time.Second

func newRouter(log *slog.Logger) *router {
	r := &router{log: log, verify: rand.Text(), credit: map[deploy.Group]int{}, idle: make(chan struct{}), doors: map[int]*http.Server{}}
	r.handler = &httputil.ReverseProxy{
		Rewrite:        r.rewrite,
		Transport:      r,
		FlushInterval:  -1,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandler:   r.refuse,
		ModifyResponse: r.answered,
	}
	return r
}

// open listens on 127.0.0.1:port, or on a free port when it is 0.
func (r *router) open(port int) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.doors[port] != nil {
		return port, nil
	}
	l, err := listen(port)
	if err != nil {
		return 0, fmt.Errorf("router: %w", err)
	}
	port = l.Addr().(*net.TCPAddr).Port
	door := &http.Server{Handler: r, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(r.log.Handler(), slog.LevelDebug)}
	r.doors[port] = door
	go func() {
		if err := door.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			r.log.Error("router stopped listening", "port", port, "error", err)
		}
	}()
	return port, nil
}

// shut closes a port; requests in flight get until ctx ends.
func (r *router) shut(ctx context.Context, port int) error {
	r.mu.Lock()
	door := r.doors[port]
	delete(r.doors, port)
	r.mu.Unlock()
	if door == nil {
		return nil
	}
	if err := door.Shutdown(ctx); err != nil {
		return door.Close()
	}
	return nil
}

func (r *router) ports() []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ports []int
	for p := range r.doors {
		ports = append(ports, p)
	}
	return ports
}

// add makes an instance known; it gets traffic by its group's weight.
func (r *router) add(g deploy.Group, address, artifact string) *backend {
	b := &backend{group: g, address: address, artifact: artifact, up: true, client: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 256, IdleConnTimeout: idleConnection, DisableCompression: true}}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.backends = append(slices.Clone(r.backends), b)
	return b
}

// remove forgets an instance; what it still does is not interrupted.
func (r *router) remove(b *backend) {
	r.mu.Lock()
	b.up = false
	r.backends = slices.DeleteFunc(slices.Clone(r.backends), func(x *backend) bool { return x == b })
	r.mu.Unlock()
	b.client.CloseIdleConnections()
}

func (r *router) setWeights(w map[deploy.Group]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.weights, r.credit = w, map[deploy.Group]int{}
}

// acquire chooses a backend, not one of tried, and counts a request there.
func (r *router) acquire(tried ...*backend) *backend {
	r.mu.Lock()
	defer r.mu.Unlock()
	usable := func(b *backend) bool { return b.up && r.weights[b.group] > 0 && !slices.Contains(tried, b) }
	seen, sum := map[deploy.Group]bool{}, 0
	var best deploy.Group
	for _, b := range r.backends {
		if !usable(b) || seen[b.group] {
			continue
		}
		seen[b.group] = true
		sum += r.weights[b.group]
		r.credit[b.group] += r.weights[b.group]
		if len(seen) == 1 || r.credit[b.group] > r.credit[best] {
			best = b.group
		}
	}
	if len(seen) == 0 {
		return nil
	}
	r.credit[best] -= sum
	var free []*backend // those of the group with the least to do, in turn
	for _, b := range r.backends {
		switch {
		case b.group != best || !usable(b):
		case len(free) == 0 || b.inFlight < free[0].inFlight:
			free = append(free[:0], b)
		case b.inFlight == free[0].inFlight:
			free = append(free, b)
		}
	}
	r.turn++
	chosen := free[r.turn%len(free)]
	chosen.inFlight++
	return chosen
}

func (r *router) release(b *backend) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b.inFlight--; b.inFlight == 0 {
		close(r.idle)
		r.idle = make(chan struct{})
	}
}

// inFlight is the number of requests that g is working on, and a channel that
// is closed when it may have become less.
func (r *router) inFlight(g deploy.Group) (n int, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.backends {
		if b.group == g {
			n += b.inFlight
		}
	}
	return n, r.idle
}

// drain waits until g has nothing in flight.
func (r *router) drain(ctx context.Context, g deploy.Group, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		n, changed := r.inFlight(g)
		if n == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s: %d requests were still in flight after the drain time of %s", g, n, limit)
		}
	}
}

// passage is one request on its way: the backends it is counted at, the last
// one being where it is.
type passage struct {
	held     []*backend
	verified bool // it is the router's own
}

type passageKey struct{}

func passageOf(req *http.Request) *passage { return req.Context().Value(passageKey{}).(*passage) }

// ServeHTTP takes one request to an instance.
func (r *router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	p := &passage{verified: req.Header.Get(headerVerify) == r.verify}
	req.Header.Del(headerVerify)
	finished := false
	defer func() {
		for _, b := range p.held {
			r.release(b)
		}
		// ReverseProxy panics when an instance breaks off in the middle of an answer.
		if !finished && req.Context().Err() == nil {
			r.lost(p)
		}
	}()
	if !p.verified {
		r.total.Add(1)
	}
	b := r.acquire()
	if b == nil {
		r.lost(p)
		w.Header().Set("Retry-After", "1")
		http.Error(w, "nothing is running here at the moment", http.StatusServiceUnavailable)
		finished = true
		return
	}
	p.held = append(p.held, b)
	r.handler.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), passageKey{}, p)))
	finished = true
}

// lost counts a request that no instance answered, before the client learns it.
func (r *router) lost(p *passage) {
	if !p.verified {
		r.failed.Add(1)
	}
}

func (r *router) rewrite(pr *httputil.ProxyRequest) {
	pr.SetXForwarded()
	pr.Out.Host = pr.In.Host
	pr.Out.URL.Scheme = "http"
}

// RoundTrip sends the request to the backend it was given to, and once more
// to another one when that fails and a second time can do no harm.
func (r *router) RoundTrip(req *http.Request) (*http.Response, error) {
	p := passageOf(req)
	resp, err := p.send(req)
	if err == nil || req.Context().Err() != nil || !harmless(req, err) {
		return resp, err
	}
	other := r.acquire(p.held...)
	if other == nil {
		return nil, err
	}
	p.held = append(p.held, other)
	return p.send(req)
}

func (p *passage) send(req *http.Request) (*http.Response, error) {
	b := p.held[len(p.held)-1]
	req = req.WithContext(req.Context()) // a copy: the first try may still be reading its own
	req.URL = &url.URL{Scheme: "http", Host: b.address, Path: req.URL.Path, RawPath: req.URL.RawPath, RawQuery: req.URL.RawQuery, ForceQuery: req.URL.ForceQuery}
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = unclosed{req.Body}
	}
	return b.client.RoundTrip(req)
}

// harmless reports whether req, which failed with err, can be sent again and
// has no effect twice: it never reached anybody, or it has no effects.
func harmless(req *http.Request, err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return true
	}
	return (req.Method == http.MethodGet || req.Method == http.MethodHead) && (req.Body == nil || req.Body == http.NoBody)
}

// unclosed is the body of a request whose connection may fail before it is
// read. The server that received the request closes it.
type unclosed struct{ io.Reader }

func (unclosed) Close() error { return nil }

func (r *router) answered(resp *http.Response) error {
	p := passageOf(resp.Request)
	resp.Header.Set(HeaderVersion, p.held[len(p.held)-1].artifact)
	if resp.StatusCode >= 500 && !p.verified {
		r.serverErrors.Add(1)
	}
	return nil
}

// refuse answers a request that no instance answered.
func (r *router) refuse(w http.ResponseWriter, req *http.Request, err error) {
	if req.Context().Err() != nil { // the client has gone
		w.WriteHeader(499)
		return
	}
	r.lost(passageOf(req))
	r.log.Warn("no answer from an instance", "method", req.Method, "path", req.URL.Path, "error", err)
	http.Error(w, "the instance did not answer", http.StatusBadGateway)
}

// check asks path through the front door; artifact must be who answers well.
func (r *router) check(ctx context.Context, port int, path, artifact string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopback(port)+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set(headerVerify, r.verify)
	resp, err := plainClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	if got := resp.Header.Get(HeaderVersion); got != artifact {
		return fmt.Errorf("GET %s through the router was answered by %q, want %s", path, got, artifact)
	}
	if resp.StatusCode >= 400 {
		return fmt.Errorf("GET %s through the router answered %s", path, resp.Status)
	}
	return nil
}

// plainClient makes a connection for each question and follows nothing.
var plainClient = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, Proxy: nil},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func (r *router) counts() Requests {
	return Requests{Total: r.total.Load(), Failed: r.failed.Load(), Errors: r.serverErrors.Load()}
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
