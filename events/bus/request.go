package bus

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/penstock-cd/penstock/events"
)

// Kinds of principals.
const (
	KindUser      = "user"      // a person or bot
	KindAdmin     = "admin"     // a user who may also manage principals
	KindWorker    = "worker"    // does tasks of a pool
	KindPublisher = "publisher" // publishes events of one source
)

// Refusal is an answer by which the engine refused a request or could not
// serve it. Repeating the same request will not help, except for CodeFull and
// CodeInternal.
type Refusal struct {
	Status string // events.StatusRefused, StatusStale or StatusError
	Code   string // events.CodeInvalid, …
	Reason string // for people
	Record int64  // version of the record that holds the refusal, 0 when there is none
}

func (r *Refusal) Error() string {
	return cmp.Or(r.Reason, r.Code, r.Status)
}

// denied is a refusal without asking: the server lets this principal say no such thing.
func denied(format string, args ...any) *Refusal {
	return &Refusal{Status: events.StatusError, Code: events.CodeDenied, Reason: fmt.Sprintf(format, args...)}
}

// answerTimeout is how long one try waits for an answer.
const answerTimeout = 5 * time.Second

// Request sends a request for verb to the engine and waits for the answer,
// whose result is read into result unless that is nil. While the engine is
// away, busy or silent the same request is sent again, until ctx ends: so a
// request that changes something must carry an id, or must be harmless when it
// comes twice. An answer that refuses, fails or is stale is returned together
// with a *Refusal.
func (c *Conn) Request(ctx context.Context, verb string, request, result any) (events.Answer, error) {
	subject, err := c.subject(verb)
	if err != nil {
		return events.Answer{}, err
	}
	body := []byte("{}")
	if request != nil {
		if body, err = encode(request); err != nil {
			return events.Answer{}, fmt.Errorf("request %s: %w", verb, err)
		}
	}
	if limit := c.nc.MaxPayload(); limit > 0 && int64(len(body)) > limit {
		return events.Answer{}, fmt.Errorf("request %s has %d bytes, the server takes at most %d", verb, len(body), limit)
	}
	answer, err := c.repeat(ctx, verb, subject, body)
	if err != nil {
		return answer, err
	}
	switch answer.Status {
	case events.StatusApplied, events.StatusAlready:
	default:
		return answer, &Refusal{Status: answer.Status, Code: answer.Code, Reason: answer.Reason, Record: answer.Record}
	}
	if result != nil && len(answer.Result) > 0 {
		if err := json.Unmarshal(answer.Result, result); err != nil {
			return answer, fmt.Errorf("answer to %s: %w", verb, err)
		}
	}
	return answer, nil
}

// encode gives the JSON of a request.
func encode(request any) ([]byte, error) {
	switch r := request.(type) {
	case events.FinishRequest: // the most frequent one
		return r.AppendJSON(make([]byte, 0, 512))
	}
	return json.Marshal(request)
}

// subject is where this principal sends verb: below its own subject, which is
// the only place where the server lets it publish. An administrator asks for
// everything as one: the subject is what proves it to the engine.
func (c *Conn) subject(verb string) (string, error) {
	switch c.cred.Kind {
	case KindWorker:
		return events.WorkerSubject(events.DefaultDomain, cmp.Or(c.cred.Pool, events.DefaultPool), c.cred.Name, verb), nil
	case KindPublisher:
		return "", denied("request %s: the credential of publisher %q may publish events and nothing else", verb, c.cred.Name)
	case KindAdmin:
		return events.AdminSubject(c.cred.Name, verb), nil
	default:
		if strings.HasPrefix(verb, "auth.") {
			return "", denied("request %s: only an administrator may manage credentials, and %q is none", verb, c.cred.Name)
		}
	}
	return events.UserSubject(c.cred.Name, verb), nil
}

// repeat sends body until there is an answer other than busy.
func (c *Conn) repeat(ctx context.Context, verb, subject string, body []byte) (events.Answer, error) {
	var last error
	pause := newBackoff()
	for {
		answer, err := c.once(ctx, verb, subject, body)
		var wait time.Duration
		switch {
		case err == nil && answer.Status != events.StatusBusy:
			return answer, nil
		case err == nil:
			last = fmt.Errorf("the engine is busy%s", prefixed(": ", answer.Reason))
			wait = time.Duration(answer.RetryAfter) * time.Millisecond
		case !mayPass(err):
			return events.Answer{}, err
		case ctx.Err() == nil: // at its end the reason before says more
			last = err
		}
		if pause.sleep(ctx, wait) != nil {
			return events.Answer{}, c.gaveUp(ctx, verb, last)
		}
	}
}

// once sends body and waits for one answer.
func (c *Conn) once(ctx context.Context, verb, subject string, body []byte) (events.Answer, error) {
	var a events.Answer
	limit := answerTimeout + waitAsked(body)
	if end, ok := ctx.Deadline(); !ok || time.Until(end) > limit {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	reply, err := c.asks.ask(ctx, subject, body)
	if errors.Is(err, errDenied) {
		return a, &Refusal{Status: events.StatusError, Code: events.CodeDenied,
			Reason: fmt.Sprintf("%s: this credential (%s %q) is not allowed to ask for it", verb, cmp.Or(c.cred.Kind, KindUser), c.cred.Name)}
	}
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(reply.Data, &a); err != nil {
		return a, fmt.Errorf("answer to %s: not JSON: %w", verb, err)
	}
	return a, nil
}

var (
	errDenied      = errors.New("not allowed to this credential")
	errReconnected = fmt.Errorf("the connection was lost and is back: %w", nats.ErrDisconnected)
)

// waitAsked is how long the request itself asks the engine to wait.
func waitAsked(body []byte) time.Duration {
	if !bytes.Contains(body, []byte(`"waitMs"`)) {
		return 0
	}
	var asked struct {
		Wait int64 `json:"waitMs"`
	}
	_ = json.Unmarshal(body, &asked) // a request without the field waits for nothing
	return time.Duration(max(0, min(asked.Wait, 60_000))) * time.Millisecond
}

// mayPass reports whether trying again may help.
func mayPass(err error) bool {
	for _, e := range []error{nats.ErrNoResponders, nats.ErrTimeout, nats.ErrDisconnected, nats.ErrConnectionReconnecting,
		nats.ErrReconnectBufExceeded, nats.ErrStaleConnection, context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (c *Conn) gaveUp(ctx context.Context, verb string, last error) error {
	why := "nobody answered in time"
	switch {
	case !c.nc.IsConnected() && errors.Is(c.nc.LastError(), nats.ErrAuthorization):
		why = fmt.Sprintf("%s does not accept user %q any more: the credential was revoked", hideSecrets(c.cred.URL), c.cred.User)
	case !c.nc.IsConnected():
		why = "the connection to " + hideSecrets(c.cred.URL) + " is down"
	case errors.Is(last, nats.ErrNoResponders):
		why = "no engine is connected to the bus; check that penstock server runs"
	case last != nil && !mayPass(last):
		why = last.Error()
	}
	return fmt.Errorf("request %s: %s: %w", verb, why, context.Cause(ctx))
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}
