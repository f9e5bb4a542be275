package local

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers/deploy"
)

// message is a line of what a deployment reports, as it goes to the worker.
// The last one has the result.
type message struct {
	Seq    int            `json:"seq"`            // 1, 2, …
	Kind   string         `json:"kind,omitempty"` // "progress", "note" or "output"
	Text   string         `json:"text,omitempty"`
	Result *events.Result `json:"result,omitempty"`
}

// deployment is an attempt that the supervisor knows. It is the Reporter of
// its rollout, and keeps what was reported for those who follow it.
type deployment struct {
	request deploy.Request
	ctx     context.Context
	cancel  context.CancelCauseFunc

	mu       sync.Mutex
	messages []message
	changed  chan struct{} // closed and replaced when there is more
	result   *events.Result
	ended    time.Time
}

func newDeployment(ctx context.Context, r deploy.Request) *deployment {
	d := &deployment{request: r, changed: make(chan struct{})}
	d.ctx, d.cancel = context.WithCancelCause(ctx)
	return d
}

// Progress implements deploy.Reporter.
func (d *deployment) Progress(line string) { d.add(message{Kind: "progress", Text: line}) }

// Note implements deploy.Reporter.
func (d *deployment) Note(line string) { d.add(message{Kind: "note", Text: line}) }

// Output implements deploy.Reporter.
func (d *deployment) Output(text string) { d.add(message{Kind: "output", Text: text}) }

func (d *deployment) add(m message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m.Seq = len(d.messages) + 1
	d.messages = append(d.messages, m)
	close(d.changed)
	d.changed = make(chan struct{})
}

// finish gives the deployment its result. The first one stands.
func (d *deployment) finish(r events.Result) {
	d.mu.Lock()
	first := d.result == nil
	if first {
		d.result, d.ended = &r, time.Now()
	}
	d.mu.Unlock()
	if first {
		d.cancel(nil)
		d.add(message{Result: &r})
	}
}

func (d *deployment) finished() *events.Result {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.result
}

// age is how long ago it ended.
func (d *deployment) age() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Since(d.ended)
}

// since gives the messages after number seq, and a channel that is closed
// when there are more.
func (d *deployment) since(seq int) ([]message, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.messages[min(max(seq, 0), len(d.messages)):], d.changed
}

// logReporter writes to the supervisor's log.
type logReporter struct{ log *slog.Logger }

func (l logReporter) Progress(line string) { l.log.Info(line) }
func (l logReporter) Note(line string)     { l.log.Info(line) }
func (l logReporter) Output(text string)   { l.log.Info("output", "text", text) }
