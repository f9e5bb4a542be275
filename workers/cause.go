package workers

import (
	"context"
	"errors"

	"github.com/penstock-cd/penstock/events"
)

// Why a handler's context ended (context.Cause).
var (
	ErrCancelled = errors.New("the task was cancelled")
	ErrTimeout   = errors.New("the task ran longer than its timeout")
	ErrStale     = errors.New("the engine has given this attempt up")
	ErrStopping  = errors.New("the worker is stopping")
)

// Interrupted is the result of a task whose context has ended, by its cause.
func Interrupted(ctx context.Context) events.Result {
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, ErrTimeout):
		return events.Result{Outcome: events.TimedOut, Error: &events.TaskError{Code: events.CodeTimeout, Message: cause.Error()}}
	case errors.Is(cause, ErrStale):
		return events.Result{Outcome: events.Cancelled, Error: &events.TaskError{Code: "given_up", Message: cause.Error()}}
	case errors.Is(cause, ErrStopping):
		return Fail("worker_stopped", cause.Error(), true)
	case cause == nil:
		cause = ErrCancelled
	}
	return events.Result{Outcome: events.Cancelled, Error: &events.TaskError{Code: "cancelled", Message: cause.Error()}}
}
