package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// Limits of the webhook.
const (
	batchType = "application/cloudevents-batch+json"
	maxBatch  = 1 << 20 // bytes of a batch; each event of it is limited as a single one
	maxEvents = 500     // events of a batch
)

// accepted says how many events were stored.
type accepted struct {
	Accepted int `json:"accepted" doc:"How many events are stored, on disk unless the server was told otherwise." example:"1"`
}

// webhook takes CloudEvents over HTTP: one in structured or binary mode, or a
// batch. All of a batch are looked at before the first is stored; when storing
// ends early, a repeat of the whole batch stores the rest, because source and
// id make the first ones the same events.
func (s *server) webhook(w http.ResponseWriter, r *http.Request) {
	list, err := readEvents(w, r)
	if err != nil {
		fail(w, r, err)
		return
	}
	for i, ev := range list {
		if err := s.ingest(r, ev); err != nil {
			if p, ok := errors.AsType[*problem](err); ok && len(list) > 1 {
				p.Detail = fmt.Sprintf("%d of %d events are stored, then: %s", i, len(list), p.Detail)
			}
			fail(w, r, err)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	json.NewEncoder(w).Encode(accepted{len(list)}) // the client is gone if this fails
}

// fail answers with an error, which is a problem.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	p, ok := errors.AsType[*problem](err)
	if !ok {
		p = newProblem(http.StatusInternalServerError, events.CodeInternal, err.Error())
	}
	p.write(w, r)
}

func invalid(format string, args ...any) error {
	return newProblem(http.StatusBadRequest, events.CodeInvalid, fmt.Sprintf(format, args...))
}

func tooLarge(format string, args ...any) error {
	return newProblem(http.StatusRequestEntityTooLarge, events.CodeInvalid,
		fmt.Sprintf(format, args...)+"; put large content elsewhere and its URL into the event").with("Connection", "close")
}

// readEvents reads a request's events, of which each is valid, small enough,
// and from a source that the caller may speak for.
func readEvents(w http.ResponseWriter, r *http.Request) ([]*events.Event, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil && r.Header.Get("Content-Type") != "" {
		return nil, invalid("header Content-Type: %v", err)
	}
	limit := int64(events.MaxEventSize)
	if media == batchType {
		limit = maxBatch
	}
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTimeout)) // not every writer can; then the server's timeouts hold
	p, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, tooLarge("the body has more than %d bytes", limit)
	}
	if err != nil {
		return nil, invalid("the body was not read to its end: %v", err)
	}
	list, err := parseEvents(media, r.Header, p)
	if err != nil {
		return nil, err
	}
	who := callerOf(r.Context())
	for _, ev := range list {
		if stored, err := json.Marshal(ev); err != nil {
			return nil, invalid("event %q: %v", ev.ID, err)
		} else if len(stored) > events.MaxEventSize {
			return nil, tooLarge("event %q has %d bytes in structured JSON, at most %d are accepted", ev.ID, len(stored), events.MaxEventSize)
		}
		if who.Kind == bus.KindPublisher && !events.SourceOf(who.Name, ev.Source) {
			return nil, newProblem(http.StatusForbidden, events.CodeDenied,
				fmt.Sprintf("event %q: its source is %q, and this token publishes for %q", ev.ID, ev.Source, who.Name))
		}
	}
	return list, nil
}

func parseEvents(media string, header http.Header, p []byte) ([]*events.Event, error) {
	if media != batchType {
		ev, err := events.Parse(header, p)
		if err != nil {
			return nil, invalid("%v", err)
		}
		return []*events.Event{ev}, nil
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(p, &raw); err != nil {
		return nil, invalid("a batch is a JSON array of CloudEvents: %v", err)
	}
	if len(raw) > maxEvents {
		return nil, tooLarge("the batch has %d events, at most %d are accepted", len(raw), maxEvents)
	}
	list := make([]*events.Event, len(raw))
	for i, one := range raw {
		ev, err := events.Parse(nil, one)
		if err != nil {
			return nil, invalid("nothing was stored: event %d of the batch: %v", i, err)
		}
		list[i] = ev
	}
	return list, nil
}

// ingest stores one event: a publisher's as its own, a person's with the
// permission that the service asks for.
func (s *server) ingest(r *http.Request, ev *events.Event) error {
	who := callerOf(r.Context())
	if who.Kind != bus.KindPublisher {
		_, err := s.answer(r.Context(), events.VerbPublish, ev)
		return err
	}
	if err := s.o.Service.Ingest(r.Context(), who.Name, ev); err != nil {
		if told, ok := errors.AsType[interface {
			error
			Code() string
		}](err); ok {
			return refused(told.Code(), told.Error())
		}
		s.o.Log.Error("an event of the webhook was not stored", "publisher", who.Name, "error", err, "request", requestID(r.Context()))
		return newProblem(http.StatusServiceUnavailable, codeBusy, "the event was not stored; send it again: "+err.Error()).retry(retryBusy)
	}
	return nil
}
