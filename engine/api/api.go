// Package api is Penstock's HTTP API: the requests of package events over
// HTTP, events as server-sent events, a webhook for CloudEvents, and what
// operators probe. The bus offers the same; both are answered by the same
// service, with the same permissions. Without a token nothing is answered but
// probes and the description of the API.
//
// Everything that a request passes through before it is answered is in
// guard.go; every error is a problem of RFC 9457 (problem.go). The description
// at /openapi.json is made from the Go types that are served (openapi.go), so
// that it cannot say anything else than what happens.
package api

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/service"
	"github.com/penstock-cd/penstock/events"
)

// Service answers requests; *service.Service is one.
type Service interface {
	Handle(ctx context.Context, who service.Principal, verb string, body []byte) events.Answer
	Ingest(ctx context.Context, publisher string, ev *events.Event) error
}

// Stats are the numbers that the engine reports for metrics.
type Stats struct {
	Ready   error            // nil, or why the engine does not answer
	Frozen  map[string]error // streams that take no writes
	Applied uint64           // records stored by this process
	Runs    int
	Waiting int
	Workers []events.WorkerInfo
	Sources []events.DefinitionSource // that this engine watches
	Engines []events.EngineInfo       // that are alive, this one first
}

// Options configure the API.
type Options struct {
	Service      Service
	Authenticate func(token string) (events.Principal, bool)
	Stats        func() Stats
	// PushSecret signs the webhooks of Git servers, upon which Pushed makes
	// repositories of definitions be looked at and says how many. Without one
	// no such webhook is taken.
	PushSecret string
	Pushed     func() int
	// Backup writes a copy of the installation; nil when there is none to be had.
	Backup  func(ctx context.Context, w io.Writer) error
	Version string
	Log     *slog.Logger
}

// New gives the handler of the whole API.
func New(o Options) http.Handler { return newServer(o).handler() }

// Times that nobody has asked to configure.
const (
	answerTimeout = 30 * time.Second // the same as on the bus
	heartbeat     = 15 * time.Second // of an idle stream of events
	readTimeout   = 10 * time.Second // for a request's body
)

// server is the API. Its fields do not change once handler was called.
type server struct {
	o         Options
	mux       *http.ServeMux
	metrics   *metrics
	heartbeat time.Duration
	document  []byte // the OpenAPI description
}

func newServer(o Options) *server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &server{o: o, mux: http.NewServeMux(), metrics: newMetrics(o), heartbeat: heartbeat}
}

// handler registers every route and puts the guard before them.
func (s *server) handler() http.Handler {
	s.operations()
	s.mux.HandleFunc("GET /v1/events", s.stream)
	s.mux.HandleFunc("POST /v1/events", s.webhook)
	s.mux.HandleFunc(gitRoute, s.gitHook)
	s.mux.HandleFunc(backupRoute, s.backup)
	s.mux.HandleFunc("GET /openapi.json", s.describe)
	s.mux.HandleFunc("GET /livez", s.live)
	s.mux.HandleFunc("GET /readyz", s.ready)
	s.mux.Handle("GET /metrics", s.metrics.handler())
	return s.guard()
}
