// Package api is Penstock's HTTP API: the requests of package events over
// HTTP, events as server-sent events, a webhook for CloudEvents, and what
// operators probe. The bus offers the same; both are answered by the same
// service, with the same permissions. Without a token nothing is answered but
// probes and the description of the API.
package api

import (
	"context"
	"log/slog"
	"net/http"

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
	Ready   error  // nil, or why the engine does not answer
	Applied uint64 // records stored by this process
	Runs    int
	Waiting int
	Workers []events.WorkerInfo
}

// Options configure the API.
type Options struct {
	Service      Service
	Authenticate func(token string) (events.Principal, bool)
	Stats        func() Stats
	Version      string
	Log          *slog.Logger
}

// New gives the handler of the whole API.
func New(o Options) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok\n")) })
	return mux
}
