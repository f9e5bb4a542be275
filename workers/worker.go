// Package workers is the Go SDK for programs that do tasks.
//
// A worker fetches tasks of its kinds from the bus, asks the engine to start
// each attempt, does the work in a directory of its own, sends heartbeats,
// streams its output, and reports the result until the engine has answered.
// All of that is here; a kind supplies a Handler, which does one task and
// knows nothing of the bus. The shipped kinds are in the folders beside this
// file. The protocol underneath is documented JSON (docs/workers.md, package
// events), so a worker in another language needs nothing of this package.
//
// A Handler's effects may outlive its answer: the process may be killed at
// any moment. The engine never has two granted attempts of a task of kind
// "once", but a lost one may have done its work. Targets therefore compare
// the task's fence and remember the attempt.
package workers

import (
	"context"
	"io"

	"github.com/penstock-cd/penstock/events"
)

// Handler does the tasks of one kind.
//
// Do returns when the work has ended and nothing of it is running any more.
// ctx ends when the task is cancelled, has passed its timeout, was given to
// somebody else, or the worker is stopping for good; context.Cause tells
// which (ErrCancelled, ErrTimeout, ErrStale, ErrStopping). The Result for a
// failure is best made with Fail.
type Handler interface {
	Do(ctx context.Context, job *Job) events.Result
}

// HandlerFunc is a function that is a Handler.
type HandlerFunc func(ctx context.Context, job *Job) events.Result

// Do calls f.
func (f HandlerFunc) Do(ctx context.Context, job *Job) events.Result { return f(ctx, job) }

// WithoutDir gives a Handler that does as h does, in no directory: Job.Dir is
// empty. It is for kinds whose tasks are short and keep nothing on disk, for
// which making and removing a directory would be the larger part of the work.
func WithoutDir(h Handler) Handler { return dirless{h} }

type dirless struct{ Handler }

// Job is a granted task with what a handler needs to do it.
type Job struct {
	events.Task
	Dir       string    // an empty directory of its own, removed afterwards; see WithoutDir
	Stdout    io.Writer // the task's output stream; safe for concurrent use
	Stderr    io.Writer
	Note      io.Writer // lines by the worker itself, for example the command it runs
	Artifacts Artifacts
	// Progress tells people what is going on, in one line, with the next heartbeat.
	Progress func(line string)
}

// Artifacts stores and fetches files by the sha256 digest of their content,
// written "sha256:<64 hex digits>".
type Artifacts interface {
	// Put stores what r gives and returns its digest and size in bytes.
	// A content that is there already is not stored again.
	Put(ctx context.Context, name string, r io.Reader) (digest string, size int64, err error)
	// Get writes the content of digest to w; it verifies the digest and
	// returns an error, having possibly written a part, when it does not match.
	Get(ctx context.Context, digest string, w io.Writer) error
}

// Fail is the result of a task that failed: code is stable and snake_case,
// message is for people, retryable says whether trying again may help.
func Fail(code, message string, retryable bool) events.Result {
	return events.Result{Outcome: events.Failed, Error: &events.TaskError{Code: code, Message: message, Retryable: retryable}}
}
