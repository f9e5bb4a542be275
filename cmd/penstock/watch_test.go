package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// happened makes the n-th event of the run.
func happened(t *testing.T, n int, typ string, h events.Happening) events.Event {
	t.Helper()
	h.Run, h.Workflow = runID, "checkout-release"
	data, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	return events.Event{ID: fmt.Sprint(n), Source: "/penstock/runs/" + runID, Type: typ, Time: ago(12 * time.Minute).Add(time.Duration(n) * time.Second), Data: data}
}

// pages answers event.list: each request gets what stands behind its cursor
// and is visible; every request makes step more events visible.
func (f *fake) pages(list []events.Event, step int) {
	visible := 0
	f.handle(events.VerbEvents, func(p json.RawMessage) events.Answer {
		var q events.ReadEvents
		_ = json.Unmarshal(p, &q)
		visible = min(visible+step, len(list))
		from := min(int(q.After), visible)
		return applied(f.t, events.EventPage{Events: list[from:visible], Next: uint64(visible)})
	})
}

func story(t *testing.T, outcome string) []events.Event {
	list := []events.Event{
		happened(t, 1, events.RunStarted, events.Happening{RequestedBy: "event:git", Cause: &events.Cause{ID: "42", Source: "git", Type: "dev.cdevents.change.merged.0.2.0"}}),
		happened(t, 2, events.StateEntered, events.Happening{State: "build", Visit: 1}),
		happened(t, 3, events.TaskStarted, events.Happening{State: "build", Kind: "build", Attempt: 1, Worker: "w1"}),
		happened(t, 4, events.TaskFinished, events.Happening{State: "build", Kind: "build", Attempt: 1, Outcome: "failed", DurationMs: 8210,
			Error: &events.TaskError{Code: "clone_failed", Message: "the host did not answer"}}),
		happened(t, 5, events.TaskRetrying, events.Happening{State: "build", Kind: "build", Attempt: 2}),
		happened(t, 6, events.StateLeft, events.Happening{State: "build", Outcome: "succeeded", To: "verify", Outputs: map[string]any{"size": 8123456}}),
		happened(t, 7, events.GateEvaluated, events.Happening{State: "verify", Outcome: "succeeded", Warnings: []string{"7 high findings"}}),
		happened(t, 8, events.ApprovalRequested, events.Happening{State: "approve", Missing: []string{"2 release-manager"}, Deadline: ptr(now.Add(24 * time.Hour))}),
		happened(t, 9, events.ApprovalRefused, events.Happening{State: "approve", By: "ana", Decision: "approved", Reason: "an author of the change"}),
		happened(t, 10, events.ApprovalDecided, events.Happening{State: "approve", By: "marta", Decision: "approved", Comment: "ok", Missing: []string{"1 release-manager"}}),
		happened(t, 11, events.EnvironmentDeployed, events.Happening{State: "production", Environment: "production", Artifact: "sha256:" + strings.Repeat("cd", 32), URL: "http://127.0.0.1:9000"}),
		happened(t, 12, events.RunFinished, events.Happening{State: "released", Outcome: outcome, DurationMs: 660_000}),
	}
	return list
}

// ends answers run.get: the run is done once the events are all visible.
func (f *fake) ends(outcome string, after int) {
	n := 0
	f.handle(events.VerbGet, func(json.RawMessage) events.Answer {
		n++
		r := waitingRun()
		r.Status = "running"
		if n > after {
			r = doneRun(outcome)
		}
		return applied(f.t, r)
	})
}

func TestWatchTellsTheWholeStory(t *testing.T) {
	f := newFake(t)
	f.pages(story(t, "succeeded"), 5)
	f.ends("succeeded", 2)
	args := []string{"watch", "k3f9"}
	golden(t, "watch", args, penstock(t, args...))
}

func TestWatchMissesNothingOfARunThatEndsMeanwhile(t *testing.T) {
	for after := range 8 {
		f := newFake(t)
		f.pages(story(t, "failed"), 3)
		f.ends("failed", after)
		got := penstock(t, "watch", "k3f9", "-o", "json")
		if n := strings.Count(got.out, "\n"); n != 12 || got.code != exitRunFailed {
			t.Errorf("ended after %d looks: %d events, exit %d\n%s", after, n, got.code, got.stderr)
		}
	}
}

func TestRunWithWaitExitsWith7WhenTheRunFails(t *testing.T) {
	f := newFake(t)
	f.gives(events.VerbStart, waitingRun())
	f.pages(story(t, "failed"), 20)
	f.ends("failed", 1)
	got := penstock(t, "run", "checkout-release", "--wait")
	if got.code != exitRunFailed || !strings.Contains(got.stderr, "ended: failed") || !strings.Contains(got.stderr, "hint: penstock why") {
		t.Errorf("exit %d\n%s", got.code, got.stderr)
	}
}

func TestExitStatusStopsWith6WhenTheRunWaitsForPeople(t *testing.T) {
	f := newFake(t)
	f.gives(events.VerbStart, waitingRun())
	f.gives(events.VerbGet, waitingRun())
	f.pages(story(t, "")[:8], 20)
	got := penstock(t, "run", "checkout-release", "--exit-status")
	if got.code != exitWaiting || !strings.Contains(got.out, "waits for approval: 2 release-manager") {
		t.Errorf("run: exit %d\n%s%s", got.code, got.out, got.stderr)
	}
	if got := penstock(t, "get", "k3f9", "--exit-status"); got.code != exitWaiting {
		t.Errorf("get: exit %d", got.code)
	}
	if got := penstock(t, "get", "k3f9"); got.code != exitOK {
		t.Errorf("get without --exit-status: exit %d", got.code)
	}
}

func TestWaitingEndsWithItsTimeout(t *testing.T) {
	f := newFake(t)
	f.gives(events.VerbGet, waitingRun())
	f.pages(nil, 0)
	got := penstock(t, "watch", "k3f9", "--timeout", "300ms")
	if got.code != exitTimeout || !strings.Contains(got.stderr, "goes on; penstock watch "+runID) {
		t.Errorf("exit %d\n%s", got.code, got.stderr)
	}
}

func TestInterruptedWatchExitsWith130AndSaysThatTheRunGoesOn(t *testing.T) {
	f := newFake(t)
	f.gives(events.VerbGet, waitingRun())
	ctx, cancel := context.WithCancelCause(t.Context())
	f.handle(events.VerbEvents, func(json.RawMessage) events.Answer {
		cancel(signalError{interrupt})
		return applied(t, events.EventPage{})
	})
	var out, stderr strings.Builder
	code := newApp(strings.NewReader(""), &out, &stderr).execute(ctx, []string{"watch", "k3f9"})
	if code != exitInterrupt || !strings.Contains(stderr.String(), "goes on") {
		t.Errorf("exit %d\n%s", code, stderr.String())
	}
}

func TestLogsComeAsWholeLines(t *testing.T) {
	f := newFake(t)
	chunk := func(state, text string, end bool) events.OutputChunk {
		return events.OutputChunk{State: state, Task: state + "-1", Chunk: events.Chunk{Stream: "stdout", Text: text, End: end}}
	}
	chunks := []events.OutputChunk{chunk("verify.test", "ok  pack", false), chunk("verify.scan", "scan", false), chunk("verify.test", "age/a\nok  b", false),
		chunk("verify.scan", "ning\n", true), chunk("verify.test", "\nlast", true)}
	f.handle(events.VerbOutput, func(p json.RawMessage) events.Answer {
		var q events.ReadOutput
		_ = json.Unmarshal(p, &q)
		from := int(q.After)
		to := min(from+2, len(chunks)) // pieces come bit by bit
		list := slices.DeleteFunc(slices.Clone(chunks[from:to]), func(c events.OutputChunk) bool { return q.State != "" && q.State != c.State })
		return applied(t, events.Output{Chunks: list, Next: uint64(to), Done: from == len(chunks)})
	})
	args := []string{"logs", "k3f9", "--follow"}
	golden(t, "logs", args, penstock(t, args...))
	got := penstock(t, "logs", "k3f9", "verify.test", "-f")
	if want := "ok  package/a\nok  b\nlast\n"; got.out != want {
		t.Errorf("one state: got %q, want %q", got.out, want)
	}
}

func TestPublishMakesTheEventThatIsAskedFor(t *testing.T) {
	f := newFake(t)
	f.gives(events.VerbPublish, nil)
	got := penstock(t, "events", "publish", "--type", "com.acme.merged", "--source", "git", "--subject", "shop", "--id", "7",
		"--data-json", `{"repository":{"id":"acme/shop"},"n":1}`, "--data", "repository.branch=main", "--data", "commit=abc")
	e := asked[events.Event](f, events.VerbPublish)
	if got.code != 0 || got.out != "7\n" || e.Type != "com.acme.merged" || e.Source != "git" || e.Subject != "shop" || !e.Time.Equal(now) ||
		string(e.Data) != `{"commit":"abc","n":1,"repository":{"branch":"main","id":"acme/shop"}}` {
		t.Errorf("exit %d %q, sent %+v %s\n%s", got.code, got.out, e, e.Data, got.stderr)
	}
	got = penstock(t, "events", "publish", "--type", "t", "--credential", filepath.Join(f.dir, "marta.json"), "--data", "a=b")
	if e := asked[events.Event](f, events.VerbPublish); got.code != 0 || e.Source != "marta" || string(e.Data) != `{"a":"b"}` {
		t.Errorf("with a credential and data: exit %d, sent %+v\n%s", got.code, e, got.stderr)
	}
	got = penstockIn(t, `{"specversion":"1.0","id":"8","source":"git","type":"t","ext":"x"}`, "events", "publish", "-")
	if e := asked[events.Event](f, events.VerbPublish); got.code != 0 || e.ID != "8" || e.Extensions["ext"] != "x" {
		t.Errorf("exit %d, sent %+v\n%s", got.code, e, got.stderr)
	}
}

func TestFollowPrintsWhatIsKeptAndThenWhatComes(t *testing.T) {
	f := newFake(t)
	list := story(t, "succeeded")
	f.handle(events.VerbEvents, func(p json.RawMessage) events.Answer {
		var q events.ReadEvents
		_ = json.Unmarshal(p, &q)
		return applied(t, events.EventPage{Events: list[min(int(q.After), 3):3], Next: 3})
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	pr := &lineWatcher{want: 3, reached: func() { cancel(signalError{interrupt}) }}
	var stderr strings.Builder
	code := newApp(strings.NewReader(""), pr, &stderr).execute(ctx, []string{"events", "follow", "--all"})
	if code != exitInterrupt || !strings.Contains(pr.String(), "started by event:git") {
		t.Errorf("exit %d\n%s%s", code, pr.String(), stderr.String())
	}
}

// lineWatcher calls reached when it has got as many lines as it wants.
type lineWatcher struct {
	strings.Builder
	want    int
	reached func()
}

func (w *lineWatcher) Write(p []byte) (int, error) {
	n, err := w.Builder.Write(p)
	if strings.Count(w.String(), "\n") >= w.want {
		w.reached()
	}
	return n, err
}

func TestEveryTypeOfEventIsTold(t *testing.T) {
	h := events.Happening{Run: runID, State: "build", Outcome: "failed", Kind: "build", Attempt: 2, By: "ana", Decision: "approved", Reason: "reason",
		Reasons: []string{"reason"}, Missing: []string{"missing"}, RequestedBy: "ana", Authors: []string{"ana"}, Environment: "staging",
		Channel: "releases", Text: "text", Runs: []string{runID}, Definitions: []string{"Workflow/release sha256:" + strings.Repeat("ab", 32)},
		Error: &events.TaskError{Code: "code", Message: "message"}, Artifact: "sha256:" + strings.Repeat("cd", 32)}
	for _, typ := range events.Types() {
		e := events.Event{Source: "/penstock", Subject: "fallback", Type: typ}
		text := describe(&e, &h)
		if text == "" || strings.Contains(text, "fallback") || strings.Contains(text, "  ") || strings.Contains(text, strings.Repeat("ab", 20)) {
			t.Errorf("%s: %q", typ, text)
		}
	}
}
