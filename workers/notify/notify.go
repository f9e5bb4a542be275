// Package notify is the worker of kind "notify": it sends one message through
// one channel.
//
//   - Inputs: channel (its name, for people), url (where to), title, text.
//     The url is a service URL as shoutrrr reads it (slack://…, smtp://…,
//     ntfy://…, generic+https://…), a plain webhook (https://… or
//     webhook+https://…, which posts {"title": …, "message": …}), or env:NAME
//     or file:PATH, read here in the worker. Without a url nothing is sent:
//     subscribers get the notification from the bus anyway.
//   - Outputs: sent (bool) and service (the scheme, "slack").
//   - A failure that may pass is tried again with growing pauses, for a few
//     attempts and never beyond the end of the task. An answer that says no
//     for good is not.
//   - A url is a secret. No part of it but the scheme and the name of the
//     host that was called leaves this package, in an output, an error or a
//     line of the log.
//   - Only public addresses are called, on the ports of the protocol; see
//     Options for what widens that. Link-local addresses, where clouds keep
//     their metadata, are never called.
//
// A message may arrive twice, when a worker dies between sending and
// reporting, or when an answer is lost.
package notify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
)

// Codes of the results that are not succeeded.
const (
	codeInputs      = "bad_inputs"          // an input is missing or has another type
	codeURL         = "channel_invalid"     // the url cannot be used
	codeDenied      = "channel_denied"      // the address is one that must not be called
	codeRefused     = "channel_refused"     // the service answered no, for good
	codeUnreachable = "channel_unreachable" // no answer, or one that may be better later
)

// Options of the handler; the zero value is ready for use.
type Options struct {
	// AllowPrivate permits loopback and private addresses and every port:
	// for installations whose targets are inside. The environment variable
	// PENSTOCK_NOTIFY_ALLOW_PRIVATE=1 does the same.
	AllowPrivate bool
	// AllowHosts are host names for which AllowPrivate holds. The environment
	// variable PENSTOCK_NOTIFY_ALLOW_HOSTS, separated by commas, adds to it.
	AllowHosts []string
	Attempts   int           // how often to try; 0 is 4
	Backoff    time.Duration // pause before the second attempt, doubled for each further one; 0 is 500 ms
	Timeout    time.Duration // of one attempt; 0 is 10 s
}

// longestPause bounds the doubling, and what a service may ask for.
const longestPause = 30 * time.Second

type handler struct {
	opts  Options
	guard *guard
}

// New returns the handler of kind "notify".
func New(opts Options) workers.Handler {
	if opts.Attempts <= 0 {
		opts.Attempts = 4
	}
	if opts.Backoff <= 0 {
		opts.Backoff = 500 * time.Millisecond
	}
	if opts.Timeout <= 0 {
		opts.Timeout = 10 * time.Second
	}
	hosts := append(strings.Split(os.Getenv("PENSTOCK_NOTIFY_ALLOW_HOSTS"), ","), opts.AllowHosts...)
	private := opts.AllowPrivate || os.Getenv("PENSTOCK_NOTIFY_ALLOW_PRIVATE") == "1"
	return &handler{opts: opts, guard: newGuard(private, hosts)}
}

// Do sends the message.
func (h *handler) Do(ctx context.Context, job *workers.Job) events.Result {
	m, err := readMessage(job.With)
	if err != nil {
		return workers.Fail(codeInputs, err.Error(), false)
	}
	m.id = job.ID
	secret, err := resolve(m.url)
	if err != nil {
		return workers.Fail(codeURL, fmt.Sprintf("channel %q: %v", m.channel, err), false)
	}
	if secret == "" {
		note(job, "channel %q has no url: subscribers of the bus get the notification, nothing else is sent", m.channel)
		return events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"sent": false}}
	}
	t, err := parseTarget(secret)
	if err != nil {
		return workers.Fail(codeURL, fmt.Sprintf("channel %q: %v", m.channel, err), false)
	}
	return h.send(ctx, job, t, m)
}

// send tries until the message is sent, was refused for good, or the attempts
// or the time are used up.
func (h *handler) send(ctx context.Context, job *workers.Job, t target, m message) events.Result {
	for attempt := 1; ; attempt++ {
		f := h.try(ctx, t, m)
		if f == nil {
			note(job, "channel %q: sent through %s", m.channel, t.service)
			return events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"sent": true, "service": t.service}}
		}
		if ctx.Err() != nil {
			return workers.Interrupted(ctx)
		}
		text := fmt.Sprintf("channel %q: %s", m.channel, f.text)
		if !f.again {
			return workers.Fail(f.code, text, false)
		}
		if attempt == h.opts.Attempts {
			return workers.Fail(f.code, fmt.Sprintf("%s (tried %d times)", text, attempt), true)
		}
		pause := h.pause(attempt, f.after)
		note(job, "%s; attempt %d of %d follows in %v", text, attempt+1, h.opts.Attempts, pause.Round(time.Millisecond))
		select {
		case <-ctx.Done():
			return workers.Interrupted(ctx)
		case <-time.After(pause):
		}
	}
}

// try makes one attempt, bounded in time.
func (h *handler) try(ctx context.Context, t target, m message) *failure {
	ctx, cancel := context.WithTimeoutCause(ctx, h.opts.Timeout, errors.New("no answer within "+h.opts.Timeout.String()))
	defer cancel()
	if t.service == "smtp" {
		return t.sendMail(ctx, h.guard, m)
	}
	return t.sendShoutrrr(ctx, h.guard, m)
}

// pause doubles with each attempt, with up to a quarter of chance so that
// many messages to a service that came back do not arrive together; what the
// service asked for counts when it is longer.
func (h *handler) pause(attempt int, asked time.Duration) time.Duration {
	d := h.opts.Backoff << min(attempt-1, 10)
	d += time.Duration(rand.Int64N(int64(d)/4 + 1))
	return min(max(d, asked), longestPause)
}

// failure is why an attempt did not send the message. Its text holds no secret.
type failure struct {
	code  string
	text  string
	again bool          // another attempt may help
	after time.Duration // not before this, as far as known
}

func note(job *workers.Job, format string, args ...any) {
	if job.Note != nil {
		fmt.Fprintf(job.Note, format+"\n", args...)
	}
}
