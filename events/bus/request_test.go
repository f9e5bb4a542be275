package bus

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/penstock-cd/penstock/events"
)

func TestRequestIsRepeatedUntilAnEngineAnswers(t *testing.T) {
	in := start(t)
	conn := dial(t, in.bot)
	var info events.ServerInfo
	done := make(chan error, 1)
	go func() {
		_, err := conn.Request(soon(t), events.VerbServer, nil, &info)
		done <- err
	}()
	var calls atomic.Int32
	in.answer(t, "penstock.api.u.bot.server.info", func(*nats.Msg) events.Answer {
		if calls.Add(1) < 3 {
			return events.Answer{Status: events.StatusBusy, RetryAfter: 1}
		}
		return result(events.ServerInfo{Version: "9"})
	})
	if err := <-done; err != nil || info.Version != "9" || calls.Load() != 3 {
		t.Fatalf("got %v, version %q after %d calls", err, info.Version, calls.Load())
	}
}

func TestRequestSurvivesARestartOfTheServer(t *testing.T) {
	in := start(t)
	conn := dial(t, in.bot)
	in.answer(t, "penstock.api.u.bot.>", func(*nats.Msg) events.Answer { return result(events.ServerInfo{Version: "9"}) })
	in.down()
	done := make(chan error, 1)
	go func() {
		_, err := conn.Request(soon(t), events.VerbServer, nil, nil)
		done <- err
	}()
	if err := in.up(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestEachKindAsksOnItsOwnSubject(t *testing.T) {
	in := start(t)
	var last atomic.Value
	in.answer(t, "penstock.api.>", func(m *nats.Msg) events.Answer {
		last.Store(m.Subject)
		return events.Answer{Status: events.StatusAlready, Record: 7}
	})
	for _, c := range []struct {
		cred       *Credential
		verb, want string
	}{
		{in.bot, events.VerbDecide, "penstock.api.u.bot.run.decide"},
		{in.admin, events.VerbDecide, "penstock.api.a.admin.run.decide"},
		{in.admin, events.VerbAuthAdd, "penstock.api.a.admin.auth.add"},
		{in.worker, events.VerbAttemptStart, "penstock.api.w.default.default.worker.attempt.start"},
	} {
		answer, err := dial(t, c.cred).Request(soon(t), c.verb, nil, nil)
		if err != nil || answer.Record != 7 || last.Load() != c.want {
			t.Errorf("%s of %s went to %v: %+v, %v", c.verb, c.cred.Name, last.Load(), answer, err)
		}
	}
	for _, c := range []struct {
		cred *Credential
		verb string
	}{{in.bot, events.VerbAuthAdd}, {in.ci, events.VerbList}} {
		if _, err := dial(t, c.cred).Request(soon(t), c.verb, nil, nil); err == nil {
			t.Errorf("%s may ask for %s", c.cred.Name, c.verb)
		}
	}
}

func TestRefusalsSayWhy(t *testing.T) {
	in := start(t)
	conn := dial(t, in.bot)
	for _, status := range []string{events.StatusRefused, events.StatusStale, events.StatusError} {
		in.answer(t, "penstock.api.u.bot."+status, func(*nats.Msg) events.Answer {
			return events.Answer{Status: status, Code: events.CodeConflict, Reason: "it was decided already", Record: 3}
		})
		answer, err := conn.Request(soon(t), status, nil, nil)
		var r *Refusal
		if !errors.As(err, &r) || *r != (Refusal{status, events.CodeConflict, "it was decided already", 3}) || answer.Status != status {
			t.Errorf("%s: got %+v, %v", status, answer, err)
		}
	}
}

func TestRequestThatTheServerForbidsFailsAtOnce(t *testing.T) {
	in := start(t)
	pretender := *in.bot
	pretender.Kind = KindAdmin // the server knows better
	_, err := dial(t, &pretender).Request(soon(t), events.VerbAuthAdd, nil, nil)
	var r *Refusal
	if !errors.As(err, &r) || r.Code != events.CodeDenied {
		t.Fatalf("got %v, want a refusal with code denied", err)
	}
}

func TestRequestGivesUpWithTheReason(t *testing.T) {
	in := start(t)
	conn := dial(t, in.bot)
	in.answer(t, "penstock.api.u.bot.busy", func(*nats.Msg) events.Answer {
		return events.Answer{Status: events.StatusBusy, Reason: "too many runs"}
	})
	for verb, want := range map[string]string{"none": "no engine is connected", "busy": "too many runs"} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := conn.Request(ctx, verb, nil, nil)
		cancel()
		if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %v, want it to say %q", verb, err, want)
		}
	}
	if _, err := conn.Request(t.Context(), "big", strings.Repeat("x", 5<<20), nil); err == nil || !strings.Contains(err.Error(), "takes at most") {
		t.Errorf("too large: got %v", err)
	}
}
