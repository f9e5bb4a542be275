package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// requestTimeout is how long one request may take where --timeout is not given.
const requestTimeout = 15 * time.Second

// session is a connection to a server with the credential that was found.
type session struct {
	app  *app
	conn *bus.Conn
	cred *bus.Credential
}

// connect finds the credential and connects; the caller closes the session.
func (a *app) connect(ctx context.Context) (*session, error) {
	cred, from, err := a.findCredential()
	if err != nil {
		return nil, err
	}
	limited, cancel := a.within(ctx)
	defer cancel()
	conn, err := bus.Connect(limited, cred)
	if err != nil {
		return nil, connectFailure(err, from)
	}
	return &session{app: a, conn: conn, cred: cred}, nil
}

func connectFailure(err error, from place) error {
	f := &failure{exit: exitFailed, code: "unreachable", message: clean(err.Error())}
	switch {
	case bus.NotAccepted(err):
		f.exit, f.code = exitDenied, events.CodeDenied
		return f.withHint("the credential is %s (from %s)", from.path, from.from)
	case bus.Unreachable(err):
		return f.withHint("start it: penstock server\nthe credential is %s (from %s)", from.path, from.from)
	}
	return f
}

var errNoAnswer = errors.New("gave up")

// gaveUp is the cause of a context of one request that took longer than limit.
func gaveUp(limit time.Duration) error { return fmt.Errorf("%w after %s", errNoAnswer, short(limit)) }

func (a *app) limit() time.Duration {
	if a.timeout > 0 {
		return a.timeout
	}
	return requestTimeout
}

// within gives a context for one request.
func (a *app) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, a.limit(), gaveUp(a.limit()))
}

func (s *session) close() { s.conn.Close() }

// ask sends one request and reads the result into result, which may be nil.
// Its error is a *failure.
func (s *session) ask(ctx context.Context, verb string, request, result any) (events.Answer, error) {
	return s.askFor(ctx, s.app.limit(), verb, request, result)
}

// askFor is ask with a limit of its own: for requests that the engine holds
// until there is something to tell.
func (s *session) askFor(ctx context.Context, limit time.Duration, verb string, request, result any) (events.Answer, error) {
	limited, cancel := context.WithTimeoutCause(ctx, limit, gaveUp(limit))
	defer cancel()
	answer, err := s.conn.Request(limited, verb, request, result)
	if err != nil {
		return answer, asFailure(ctx, err)
	}
	return answer, nil
}

// with connects, calls fn and closes.
func (a *app) with(ctx context.Context, fn func(*session) error) error {
	s, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return fn(s)
}

// commandID identifies a command of a person for ever, so that a repeat of
// the request is recognised. Version 7 sorts by time.
func commandID() string { return uuid.Must(uuid.NewV7()).String() }

// follow gives a context for a command that follows something: it ends only
// with the caller's, or when --timeout has passed.
func (a *app) follow(ctx context.Context) (context.Context, context.CancelFunc) {
	if a.timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, a.timeout, &failure{exit: exitTimeout, code: "timeout",
		message: "--timeout " + short(a.timeout) + " has passed"})
}
