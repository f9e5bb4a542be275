package workers

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/penstock-cd/penstock/events"
)

// keepAlive sends heartbeats and obeys their verdicts until ctx ends, which it
// does when the result has been answered. It goes on while a cancelled handler
// cleans up, so that the engine does not take the worker for lost. answered is
// when the last request was sent that the engine answered.
func (a *attempt) keepAlive(ctx context.Context, answered time.Time) {
	every, limit := a.intervals()
	cancelled := false
	for sleep(ctx, every-time.Since(answered)) {
		answer, sent, err := a.beat(ctx, answered.Add(limit), limit/3)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !cancelled {
				a.fallSilent(limit)
			}
			answered = time.Now() // from here on only so that the engine may know that we report soon
		case answer.Verdict == events.Stale, answer.Status == events.StatusStale, answer.Status == events.StatusRefused:
			a.log.Warn("the engine has given this attempt up; it is ended", "reason", answer.Reason)
			a.givenUp.Store(true)
			a.end(ErrStale)
			return
		case answer.Verdict == events.Cancel:
			cancelled = true
			a.end(ErrCancelled)
			answered = sent
		default:
			answered = sent
		}
	}
}

// intervals says how often to send a heartbeat and how long to go without an
// answer.
func (a *attempt) intervals() (every, limit time.Duration) {
	every, limit = time.Duration(a.task.Heartbeat)*time.Millisecond, time.Duration(a.task.HeartbeatTimeout)*time.Millisecond/2
	if limit <= 0 {
		limit = 15 * time.Second
	}
	if every <= 0 || every > limit/2 {
		every = limit / 2
	}
	return every, limit
}

// beat repeats one heartbeat until the engine says what to do; the error says
// that it had not by the deadline.
func (a *attempt) beat(ctx context.Context, deadline time.Time, try time.Duration) (events.Answer, time.Time, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	request := events.HeartbeatRequest{Task: a.task.ID, Run: a.task.Run, Worker: a.w.Name}
	for tries := 1; ; tries++ {
		if p := a.progress.Load(); p != nil {
			request.Progress = *p
		}
		answer, sent, err := a.w.ask(ctx, min(try, a.w.times.try), events.VerbAttemptHeartbeat, request)
		known := answer.Verdict != "" || answer.Status == events.StatusStale || answer.Status == events.StatusRefused
		if err != nil || known {
			return answer, sent, err
		}
		if !sleep(ctx, max(retryAfter(answer), backoff(tries))) {
			return answer, sent, ctx.Err()
		}
	}
}

// tell keeps the line that goes with the next heartbeat.
func (a *attempt) tell(line string) {
	const most = 200 // bytes
	line = strings.ToValidUTF8(strings.Join(strings.Fields(line), " "), "\uFFFD")
	if len(line) > most {
		cut := most
		for !utf8.RuneStart(line[cut]) {
			cut--
		}
		line = line[:cut] + "…"
	}
	a.progress.Store(&line)
}

// ask repeats a request until it is answered or ctx ends. sent is when the
// request that was answered was sent, so it is certain that the engine wrote
// the answer after that.
func (w *Worker) ask(ctx context.Context, try time.Duration, verb string, request any) (answer events.Answer, sent time.Time, err error) {
	for tries := 1; ; tries++ {
		sent = time.Now()
		one, cancel := context.WithTimeout(ctx, try)
		answer, err = w.Conn.Request(one, verb, request)
		cancel()
		if err == nil || !sleep(ctx, backoff(tries)) {
			return answer, sent, err
		}
	}
}

// request asks once.
func (w *Worker) request(ctx context.Context, verb string, request any) (events.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, w.times.try)
	defer cancel()
	return w.Conn.Request(ctx, verb, request)
}

func retryAfter(a events.Answer) time.Duration { return time.Duration(a.RetryAfter) * time.Millisecond }

// backoff grows from 0.1 s to 10 s, the last quarter of it by chance, so that
// many workers do not come at once when an engine is back.
func backoff(tries int) time.Duration {
	d := min(100*time.Millisecond<<min(tries-1, 10), 10*time.Second)
	return d - time.Duration(rand.Int64N(int64(d)/4))
}

// sleep returns false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
