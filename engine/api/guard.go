package api

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/penstock-cd/penstock/engine/internal/service"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// public are the routes that take no token. That of Git servers takes a
// signature.
var public = []string{"GET /livez", "GET /readyz", "GET /openapi.json", gitRoute}

// allowed are the kinds of principals that a route takes, where these are
// others than people. What a person may do is the service's decision.
var (
	people  = []string{bus.KindUser, bus.KindAdmin}
	allowed = map[string][]string{"POST /v1/events": {bus.KindUser, bus.KindAdmin, bus.KindPublisher}, backupRoute: {bus.KindAdmin}}
)

type contextKey int

const (
	keyRequest contextKey = iota
	keyCaller
)

// caller is who sent a request.
type caller struct {
	service.Principal
	token string
}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(keyCaller).(caller)
	return c
}

func requestID(ctx context.Context) string {
	id, _ := ctx.Value(keyRequest).(string)
	return id
}

var goodID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// guard is what every request passes, from the outside in: it gets an id, is
// counted and survives a panic; then it must come from no other origin, find
// a route, and show a token that may use it.
func (s *server) guard() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		if !goodID.MatchString(id) {
			id = uuid.NewString()
		}
		h := w.Header()
		h.Set("X-Request-Id", id)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		r = s.identify(r, id)
		next, route := s.mux.Handler(r)
		rec := &recorder{ResponseWriter: w}
		start := time.Now()
		defer s.finish(rec, r, cmp.Or(route, "none"), start)
		if p := s.refuse(r, route); p != nil {
			p.write(rec, r)
			return
		}
		if route == "" {
			noRoute(next, r).write(rec, r)
			return
		}
		s.mux.ServeHTTP(rec, r)
	})
}

// finish counts a request, and answers one whose handler panicked.
func (s *server) finish(w *recorder, r *http.Request, route string, start time.Time) {
	cause := recover()
	if cause != nil && cause != http.ErrAbortHandler {
		s.o.Log.Error("a request made the API panic", "route", route, "request", requestID(r.Context()), "panic", fmt.Sprint(cause), "stack", string(debug.Stack()))
		if w.status == 0 {
			newProblem(http.StatusInternalServerError, events.CodeInternal,
				"the engine made a mistake; its log has it under request "+requestID(r.Context())).write(w, r)
			cause = nil
		}
	}
	status := cmp.Or(w.status, http.StatusOK)
	s.metrics.observe(route, status, time.Since(start))
	s.o.Log.Debug("request", "route", route, "status", status, "by", callerOf(r.Context()).Name, "request", requestID(r.Context()))
	if cause != nil {
		panic(http.ErrAbortHandler) // half an answer must not look like a whole one
	}
}

var crossOrigin = http.NewCrossOriginProtection()

// refuse gives the problem that keeps a request out; nil when none does.
func (s *server) refuse(r *http.Request, route string) *problem {
	if err := crossOrigin.Check(r); err != nil {
		return newProblem(http.StatusForbidden, events.CodeDenied, "the request comes from a page of another origin: "+err.Error())
	}
	if slices.Contains(public, route) || route == "GET /metrics" && local(r) {
		return nil
	}
	who := callerOf(r.Context())
	if who.token == "" {
		return unauthenticated(r)
	}
	kinds := people
	if other := allowed[route]; other != nil {
		kinds = other
	}
	if !slices.Contains(kinds, who.Kind) {
		return newProblem(http.StatusForbidden, events.CodeDenied,
			fmt.Sprintf("%s is a %s, and this takes one of %s", who.Name, who.Kind, strings.Join(kinds, ", ")))
	}
	return nil
}

func unauthenticated(r *http.Request) *problem {
	detail, challenge := "a token is needed: send the header \"Authorization: Bearer TOKEN\"; penstock auth user add makes one", `Bearer realm="penstock"`
	if r.Header.Get("Authorization") != "" {
		detail, challenge = "the token is not known here, or was revoked", challenge+`, error="invalid_token"`
	}
	return newProblem(http.StatusUnauthorized, codeUnauthenticated, detail).with("WWW-Authenticate", challenge)
}

// identify puts the request's id and who sent it into its context. A token
// that is not known is nobody's.
func (s *server) identify(r *http.Request, id string) *http.Request {
	ctx := context.WithValue(r.Context(), keyRequest, id)
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if token = strings.TrimSpace(token); strings.EqualFold(scheme, "Bearer") && token != "" {
		if p, ok := s.o.Authenticate(token); ok {
			c := caller{service.Principal{Kind: p.Kind, Name: p.Name, Pool: p.Pool, Via: "http"}, token}
			ctx = context.WithValue(ctx, keyCaller, c)
		}
	}
	return r.WithContext(ctx)
}

// local reports whether a request was made by a program on this host: over
// the loopback interface, to a loopback name (a page that made its own name
// point here is no such program), and not handed on by a proxy.
func local(r *http.Request) bool {
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if r.Header.Get(name) != "" {
			return false
		}
	}
	return loopback(r.RemoteAddr) && loopback(r.Host)
}

func loopback(hostport string) bool {
	host := (&url.URL{Host: hostport}).Hostname()
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// noRoute is the problem of a request that fits no route. The mux knows
// whether it is the path or the method that does not fit.
func noRoute(answer http.Handler, r *http.Request) *problem {
	rec := &recorder{ResponseWriter: discard{http.Header{}}}
	answer.ServeHTTP(rec, r)
	if rec.status == http.StatusMethodNotAllowed {
		allow := rec.Header().Get("Allow")
		return newProblem(http.StatusMethodNotAllowed, events.CodeInvalid, fmt.Sprintf("%s takes %s, not %s", r.URL.Path, allow, r.Method)).with("Allow", allow)
	}
	return newProblem(http.StatusNotFound, events.CodeNotFound, fmt.Sprintf("there is nothing at %s; /openapi.json says what there is", r.URL.Path))
}

// discard is a response that nobody gets.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// recorder remembers the status of a response.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
