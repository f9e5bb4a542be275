package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// Parameters of a stream of events.
const (
	reconnectMs  = 2000             // a client comes back after
	pageSize     = 100              // events that are read at once
	writeTimeout = 30 * time.Second // a client that takes nothing for so long is gone
)

// stream sends events as they happen, as server-sent events. Each message is
// one CloudEvent in structured JSON. The id of a message is a cursor: a client
// that comes back with it goes on behind it, and nothing is repeated.
func (s *server) stream(w http.ResponseWriter, r *http.Request) {
	q, err := s.query(r)
	if err != nil {
		fail(w, r, err)
		return
	}
	page, err := ask[events.EventPage](r.Context(), s, events.VerbEvents, q)
	if err != nil {
		fail(w, r, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // or nginx keeps events back
	out := &sse{w, http.NewResponseController(w)}
	if out.send(fmt.Sprintf("retry: %d\n\n", reconnectMs)) != nil || out.page(q.After, page, true) != nil {
		return
	}
	q.After, q.End, q.Wait = page.Next, false, s.heartbeat.Milliseconds()
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	s.follow(r.Context(), out, q)
}

// query reads what a client wants to see. Without a cursor a stream begins
// with what happens from now on.
func (s *server) query(r *http.Request) (q events.ReadEvents, err error) {
	params, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return q, invalid("the query of the URL: %v", err)
	}
	for name, values := range params {
		switch name {
		case "run", "after":
			if len(values) > 1 {
				return q, invalid("query parameter %s: it may be given once", name)
			}
		case "types":
			for _, v := range values {
				q.Types = append(q.Types, strings.FieldsFunc(v, func(r rune) bool { return r == ',' })...)
			}
		default:
			return q, invalid("query parameter %s: there is none of this name; there are run, types and after", name)
		}
	}
	q.Limit = pageSize
	cursor := params.Get("after")
	if last := r.Header.Get("Last-Event-ID"); last != "" { // a client that comes back has the URL that it began with
		cursor = last
	}
	if q.End = cursor == ""; !q.End {
		if q.After, err = strconv.ParseUint(cursor, 10, 64); err != nil {
			return q, invalid("cursor %q: it is the id of an event of this stream, or 0 for the oldest one that is stored", cursor)
		}
	}
	if run := params.Get("run"); run != "" {
		q.Run, err = s.runOf(r.Context(), run)
	}
	return q, err
}

// follow reads page after page until the client is gone, its token is not
// good any more, or the engine does not answer; the client then comes back.
func (s *server) follow(ctx context.Context, out *sse, q events.ReadEvents) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		page events.EventPage
		err  error
	}
	answers := make(chan result, 1)
	read := func(q events.ReadEvents) {
		go func() {
			page, err := ask[events.EventPage](ctx, s, events.VerbEvents, q)
			answers <- result{page, err}
		}()
	}
	beat := time.NewTicker(s.heartbeat)
	defer beat.Stop()
	read(q)
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			if _, ok := s.o.Authenticate(callerOf(ctx).token); !ok {
				return
			}
			err = out.send(": the stream is alive\n\n")
		case a := <-answers:
			if a.err != nil {
				return
			}
			err = out.page(q.After, a.page, false)
			q.After = a.page.Next
			read(q)
		}
		if err != nil {
			return
		}
	}
}

// sse writes server-sent events to one client.
type sse struct {
	w    http.ResponseWriter
	ctrl *http.ResponseController
}

// page sends the events of a page, each with the cursor behind it; the last one
// has that of the page. When it moved over events that the client does not
// want, or at the start, the cursor goes alone, which clients remember without
// seeing a message.
func (s *sse) page(after uint64, p events.EventPage, always bool) error {
	var b bytes.Buffer
	for i, ev := range p.Events {
		data, err := json.Marshal(ev)
		if err != nil {
			return err
		}
		switch {
		case i == len(p.Events)-1:
			fmt.Fprintf(&b, "id: %d\n", p.Next)
		case i < len(p.Cursors):
			fmt.Fprintf(&b, "id: %d\n", p.Cursors[i])
		}
		fmt.Fprintf(&b, "data: %s\n\n", data)
	}
	if len(p.Events) == 0 && (always || p.Next != after) {
		fmt.Fprintf(&b, "id: %d\n\n", p.Next)
	}
	return s.send(b.String())
}

func (s *sse) send(text string) error {
	if text == "" {
		return nil
	}
	s.ctrl.SetWriteDeadline(time.Now().Add(writeTimeout)) // not every writer can; then the server's timeouts hold
	if _, err := s.w.Write([]byte(text)); err != nil {
		return err
	}
	return s.ctrl.Flush()
}
