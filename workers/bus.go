package workers

import (
	"context"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// Bus is what a worker needs of the bus. OnBus gives the one that reaches a
// real installation.
type Bus interface {
	// Fetch gives up to n tasks of a kind for a pool, as soon as there is one,
	// and none after wait.
	Fetch(ctx context.Context, pool, kind string, n int, wait time.Duration) ([]Message, error)
	// Output is where the output of one attempt goes.
	Output(task *events.Task) Output
	Artifacts() Artifacts
	// Request asks the engine. The error says that no answer came; a refusal
	// is an answer.
	Request(ctx context.Context, verb string, request any) (events.Answer, error)
}

// Message is a task that was fetched and must be acknowledged: within 30 s,
// or somebody else gets it.
type Message interface {
	Task() *events.Task
	Ack() error                    // nobody needs it any more
	Nak(delay time.Duration) error // give it to somebody after delay
}

// Output takes the chunks of one attempt.
type Output interface {
	Write(c events.Chunk) error
	Close(ctx context.Context) error
}
