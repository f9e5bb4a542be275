package api

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/penstock-cd/penstock/events"
)

// problem is an error as RFC 9457 has it. Code is one of events.Code…, or one
// of the codes below, and stable: programs decide by it, people read Detail.
type problem struct {
	Type      string              `json:"type" doc:"Always about:blank: status and code say which problem it is." example:"about:blank"`
	Title     string              `json:"title" doc:"The status in words." example:"Conflict"`
	Status    int                 `json:"status" doc:"The HTTP status." example:"409"`
	Detail    string              `json:"detail" doc:"What happened and what to do, for people." example:"the run has finished"`
	Code      string              `json:"code" doc:"Stable name of the problem, for programs." enum:"invalid,not_found,conflict,denied,full,internal,busy,unauthenticated" example:"conflict"`
	RequestID string              `json:"requestId" doc:"The X-Request-Id of the request; the engine's log has it." example:"01976b3e-9d1c-7000-8000-4f6a51f0a9c2"`
	Record    int64               `json:"record,omitempty" doc:"Number of the run's record that holds the refusal, when it was recorded." example:"14"`
	Errors    []*huma.ErrorDetail `json:"errors,omitempty" doc:"Everything that is wrong with the request, one by one."`
	Applied   *events.Applied     `json:"applied,omitempty" doc:"Of POST /v1/definitions: what came of each document. Documents without a problem are in force."`

	header http.Header // further headers of the response
}

// Codes of problems that only HTTP has.
const (
	codeBusy            = "busy"            // repeat after Retry-After
	codeUnauthenticated = "unauthenticated" // no token, or one that is not known
)

func (p *problem) Error() string { return p.Detail }

// GetStatus makes a problem an error that huma answers with.
func (p *problem) GetStatus() int { return p.Status }

// GetHeaders are the headers that huma adds.
func (p *problem) GetHeaders() http.Header { return p.header }

// with adds a header to the response.
func (p *problem) with(name, value string) *problem {
	if p.header == nil {
		p.header = http.Header{}
	}
	p.header.Set(name, value)
	return p
}

// retry says after how many seconds the request may be sent again.
func (p *problem) retry(seconds int) *problem { return p.with("Retry-After", strconv.Itoa(seconds)) }

// ContentType is the media type that huma gives it.
func (p *problem) ContentType(string) string { return problemType }

const problemType = "application/problem+json"

func newProblem(status int, code, detail string) *problem {
	return &problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: detail}
}

// write answers a request with p.
func (p *problem) write(w http.ResponseWriter, r *http.Request) {
	p.RequestID = requestID(r.Context())
	maps.Copy(w.Header(), p.header)
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p) // the client is gone if this fails
}

// statuses of the codes of an answer.
var statuses = map[string]int{
	events.CodeInvalid:  http.StatusUnprocessableEntity,
	events.CodeNotFound: http.StatusNotFound,
	events.CodeConflict: http.StatusConflict,
	events.CodeDenied:   http.StatusForbidden,
	events.CodeFull:     http.StatusInsufficientStorage,
	events.CodeStopped:  http.StatusServiceUnavailable,
	events.CodeInternal: http.StatusInternalServerError,
}

// Seconds after which a client may try again.
const (
	retryBusy = 1
	retryFull = 30 // somebody has to make room
)

// refusal is the problem that an answer tells of; nil when it tells of none.
func (s *server) refusal(ctx context.Context, verb string, a events.Answer) error {
	var p *problem
	switch a.Status {
	case events.StatusApplied, events.StatusAlready:
		return nil
	case events.StatusBusy:
		p = newProblem(http.StatusServiceUnavailable, codeBusy, cmp.Or(a.Reason, "the engine is busy; repeat the request with the same Idempotency-Key"))
		return p.retry(max(retryBusy, int((a.RetryAfter+999)/1000)))
	case events.StatusStale:
		p = newProblem(http.StatusConflict, events.CodeConflict, cmp.Or(a.Reason, "the request is about something that is no longer current"))
	case events.StatusRefused:
		p = refused(cmp.Or(a.Code, events.CodeConflict), a.Reason)
	default:
		p = refused(a.Code, a.Reason)
	}
	if p.Status == http.StatusInternalServerError {
		s.o.Log.Error("a request was not answered", "verb", verb, "reason", a.Reason, "request", requestID(ctx))
		p.Detail = "the engine could not answer; its log says why, under request " + requestID(ctx)
	}
	p.Record = a.Record
	return p
}

func refused(code, reason string) *problem {
	status, known := statuses[code]
	if !known {
		status, code = http.StatusInternalServerError, events.CodeInternal
	}
	p := newProblem(status, code, cmp.Or(reason, http.StatusText(status)))
	if status == http.StatusInsufficientStorage {
		p.retry(retryFull)
	}
	return p
}

// codeOf is the code of a status that no answer of the service stands behind.
func codeOf(status int) string {
	switch {
	case status == http.StatusUnauthorized:
		return codeUnauthenticated
	case status == http.StatusForbidden:
		return events.CodeDenied
	case status == http.StatusNotFound:
		return events.CodeNotFound
	case status >= 500:
		return events.CodeInternal
	}
	return events.CodeInvalid
}

// complete is huma's last step before it writes a response: its own errors
// become problems like all others. The values that it would send back are
// left out, because they may be large or secret.
func complete(ctx huma.Context, _ string, v any) (any, error) {
	p, ok := v.(*problem)
	if m, own := v.(*huma.ErrorModel); own {
		p, ok = newProblem(m.Status, codeOf(m.Status), m.Detail), true
		var all []string
		for _, e := range m.Errors {
			p.Errors = append(p.Errors, &huma.ErrorDetail{Message: e.Message, Location: e.Location})
			all = append(all, strings.TrimPrefix(e.Location+": "+e.Message, ": "))
		}
		if len(all) > 0 {
			p.Detail = "the request is not valid: " + strings.Join(all, "; ")
		}
	}
	if !ok {
		return v, nil
	}
	p.RequestID = requestID(ctx.Context())
	return p, nil
}
