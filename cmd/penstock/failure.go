package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// Exit codes. They are a contract with scripts: docs/cli.md lists them.
const (
	exitOK        = 0
	exitFailed    = 1   // the command did not do what it was asked to
	exitUsage     = 2   // wrong usage, or definitions or input that are not valid
	exitNotFound  = 3   // no such run, workflow or state
	exitDenied    = 4   // not allowed, or no valid credential
	exitTimeout   = 5   // no answer in time, or --timeout passed
	exitWaiting   = 6   // with --exit-status: the run waits for people
	exitRunFailed = 7   // the run ended otherwise than succeeded
	exitInterrupt = 130 // SIGINT
	exitTerminate = 143 // SIGTERM
)

// failure is an error with what a script and a person need to know of it.
type failure struct {
	exit    int
	code    string // as in events.Answer, or "usage", "timeout", "waiting", "run_failed", "interrupted"
	message string
	hint    string // what the reader can do; may have several lines
}

func (f *failure) Error() string { return f.message }

func usagef(format string, args ...any) *failure {
	return &failure{exit: exitUsage, code: "usage", message: fmt.Sprintf(format, args...)}
}

func (f *failure) withHint(format string, args ...any) *failure {
	f.hint = fmt.Sprintf(format, args...)
	return f
}

// refused gives the failure that a refusal of the engine stands for.
func refused(r *bus.Refusal) *failure {
	f := &failure{exit: exitFailed, code: cmp.Or(r.Code, r.Status), message: clean(r.Error())}
	if r.Record > 0 {
		f.message += fmt.Sprintf(" (record %d)", r.Record)
	}
	switch r.Code {
	case events.CodeInvalid:
		f.exit = exitUsage
	case events.CodeNotFound:
		f.exit = exitNotFound
	case events.CodeDenied:
		f.exit = exitDenied
	case events.CodeFull:
		f.hint = "nothing was stored; make room on the server's disk and try again"
	case events.CodeStopped:
		f.hint = "nothing was decided; when an administrator has found out what was lost, penstock admin new-epoch goes on"
	case events.CodeInternal:
		f.hint = "the server's log tells more"
	}
	return f
}

// asFailure gives every error as a failure. ctx is the command's, whose cause
// tells a signal from everything else.
func asFailure(ctx context.Context, err error) *failure {
	if sig, ok := errors.AsType[signalError](context.Cause(ctx)); ok {
		f := &failure{exit: exitInterrupt, code: "interrupted", message: "interrupted"}
		if sig.Signal == syscall.SIGTERM {
			f.exit = exitTerminate
		}
		if g, ok := errors.AsType[*failure](err); ok {
			f.hint = g.hint
		}
		return f
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if r, ok := errors.AsType[*bus.Refusal](err); ok {
		return refused(r)
	}
	f := &failure{exit: exitFailed, code: "failed", message: clean(err.Error())}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errNoAnswer) {
		f.exit, f.code = exitTimeout, "timeout"
		f.hint = "--timeout gives it longer"
	}
	return f
}

// print writes f to stderr, for a person or as JSON, and returns its exit code.
func (a *app) print(f *failure) int {
	if f.message == "" { // the exit code says it all
		return f.exit
	}
	if a.output == "json" {
		body := map[string]any{"code": f.code, "message": f.message, "exit": f.exit}
		if f.hint != "" {
			body["hint"] = f.hint
		}
		p, _ := json.Marshal(map[string]any{"error": body}) // strings and a number always encode
		fmt.Fprintln(a.stderr, string(p))
		return f.exit
	}
	fmt.Fprintf(a.stderr, "penstock: %s\n", f.message)
	for line := range strings.Lines(f.hint) {
		fmt.Fprintf(a.stderr, "hint: %s\n", strings.TrimRight(line, "\n"))
	}
	return f.exit
}

// signalError is the cause of a context that a signal ended.
type signalError struct{ os.Signal }

func (s signalError) Error() string { return "got signal " + s.String() }

// withSignals gives a context that ends at the first SIGINT or SIGTERM, with a
// signalError as its cause. The second one ends the process as usual.
func withSignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case s := <-ch:
			signal.Stop(ch)
			cancel(signalError{s})
		case <-ctx.Done():
		}
	}()
	return ctx, func() { signal.Stop(ch); cancel(nil) }
}
