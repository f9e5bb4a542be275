package local

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/deploy"
)

// The control API of a supervisor: JSON over HTTP over a Unix socket that
// only its user can open.
//
//	GET  /v1/status                       State
//	POST /v1/deployments                  deploy.Request → verdict
//	GET  /v1/deployments?attempt=A        404 when it is not known
//	GET  /v1/deployments/follow?attempt=A messages, one a line, until the one with the result
//	POST /v1/deployments/settle           control
//	POST /v1/deployments/cancel           control
//	POST /v1/down                         ends everything, then answers
//
// Every POST may be repeated.

// verdict answers a deployment: Refused is its result when it was not taken on.
type verdict struct {
	Refused *events.Result `json:"refused,omitempty"`
}

// control is about an attempt.
type control struct {
	Attempt string       `json:"attempt"`
	Fence   events.Fence `json:"fence"`
	Reason  string       `json:"reason,omitempty"` // of a cancel: a key of reasons
}

// reasons are why a worker cancels, as they are written in a control.
var reasons = map[string]error{
	"cancelled": workers.ErrCancelled,
	"timeout":   workers.ErrTimeout,
	"stale":     workers.ErrStale,
	"stopping":  workers.ErrStopping,
}

// handler serves the API; down is called when /v1/down has been answered.
func (s *supervisor) handler(down func()) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		st := s.status()
		st.Supervisor = os.Getpid()
		answer(w, st, nil)
	})
	mux.HandleFunc("POST /v1/deployments", func(w http.ResponseWriter, req *http.Request) {
		var r deploy.Request
		if accept(w, req, &r) {
			refused, err := s.submit(r)
			answer(w, verdict{refused}, err)
		}
	})
	mux.HandleFunc("GET /v1/deployments", func(w http.ResponseWriter, req *http.Request) {
		if s.deployment(req.FormValue("attempt")) == nil {
			http.Error(w, "this attempt is not known", http.StatusNotFound)
			return
		}
		answer(w, struct{}{}, nil)
	})
	mux.HandleFunc("GET /v1/deployments/follow", s.follow)
	mux.HandleFunc("POST /v1/deployments/settle", func(w http.ResponseWriter, req *http.Request) {
		var c control
		if accept(w, req, &c) {
			answer(w, struct{}{}, s.settle(c.Attempt))
		}
	})
	mux.HandleFunc("POST /v1/deployments/cancel", func(w http.ResponseWriter, req *http.Request) {
		var c control
		if !accept(w, req, &c) {
			return
		}
		cause, ok := reasons[c.Reason]
		if !ok {
			cause = workers.ErrCancelled
		}
		answer(w, struct{}{}, s.stop(c.Attempt, c.Fence, cause))
	})
	mux.HandleFunc("POST /v1/down", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, struct{}{}, s.close(true))
		down()
	})
	return mux
}

// accept reads the body of a request, or answers that it cannot.
func accept(w http.ResponseWriter, req *http.Request, v any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(w, req.Body, 4<<20)).Decode(v); err != nil {
		http.Error(w, "not the JSON that this takes: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func answer(w http.ResponseWriter, v any, err error) {
	switch {
	case err == nil:
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(v)
	case errors.Is(err, errStaleFence):
		http.Error(w, err.Error(), http.StatusConflict)
	default:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	}
}

// follow streams the messages of an attempt from the first one on.
func (s *supervisor) follow(w http.ResponseWriter, req *http.Request) {
	d := s.deployment(req.FormValue("attempt"))
	if d == nil {
		http.Error(w, "this attempt is not known", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := json.NewEncoder(w)
	for seq := 0; ; {
		list, changed := d.since(seq)
		for _, m := range list {
			if out.Encode(m) != nil || m.Result != nil {
				return
			}
			seq = m.Seq
		}
		if len(list) > 0 {
			continue
		}
		http.NewResponseController(w).Flush()
		select {
		case <-changed:
		case <-req.Context().Done():
			return
		}
	}
}
