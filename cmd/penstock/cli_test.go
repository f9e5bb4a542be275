package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

const (
	runID      = "k3f9x2mq7tha4c2z"
	repository = "git+https://git.acme.example/release.git#main:penstock"
)

func ago(d time.Duration) time.Time { return now.Add(-d) }

// waitingRun is a run that waits for a second approver.
func waitingRun() events.RunView {
	return events.RunView{ID: runID, Workflow: "checkout-release", Definition: "sha256:" + strings.Repeat("ab", 32),
		Origin: &events.Origin{Source: repository, File: "penstock/release.yaml", Commit: strings.Repeat("1f2e", 10), Author: "ana@acme.example"},
		Title:  "checkout 1f2e3d4", Status: "waiting", State: "approve", RequestedBy: "event:git", Authors: []string{"ana"},
		StartedAt: ago(12 * time.Minute), Records: 13, Cause: &events.Cause{ID: "42", Source: "git", Type: "dev.cdevents.change.merged.0.2.0"},
		Inputs: map[string]any{"commit": "1f2e3d4c5b6a79880123456789abcdef01234567", "replicas": 3},
		Path: []events.Step{
			{State: "build", Visit: 1, Outcome: "succeeded", EnteredAt: ago(12 * time.Minute), LeftAt: ptr(ago(11 * time.Minute)),
				Outputs: map[string]any{"digest": "sha256:" + strings.Repeat("cd", 32), "size": 8123456}},
			{State: "verify", Visit: 2, Outcome: "succeeded", EnteredAt: ago(11 * time.Minute), LeftAt: ptr(ago(10*time.Minute + 30*time.Second)),
				Outputs: map[string]any{"test": map[string]any{"passed": 12, "failures": []any{}},
					"scan": map[string]any{"findings": []any{map[string]any{"rule": "CVE-2026-1", "title": "a long story"}}}}},
			{State: "approve", Visit: 1, EnteredAt: ago(10 * time.Minute)},
		},
		Waiting: []events.WaitReason{approvalReason("1 release-manager")},
	}
}

func approvalReason(missing ...string) events.WaitReason {
	return events.WaitReason{State: "approve", What: "approval", Summary: "waits for 1 more approval", Rule: "2 × release-manager, not an author",
		Missing: missing, Have: []string{"li at 14:55"}, Can: []string{"marta"}, Cannot: []string{"ana: an author of the change"},
		Since: ptr(ago(10 * time.Minute)), Until: ptr(now.Add(23*time.Hour + 50*time.Minute)), Content: "sha256:" + strings.Repeat("ef", 32),
		Next: []string{"penstock approve " + runID + " approve"}}
}

func doneRun(outcome string) events.RunView {
	r := waitingRun()
	r.Status, r.Outcome, r.State, r.EndedAt, r.Waiting = "done", outcome, "released", ptr(ago(time.Minute)), nil
	if outcome != events.Succeeded {
		r.State = "stopped"
	}
	return r
}

func TestOutputReadsWithoutAManual(t *testing.T) {
	f := newFake(t)
	why := events.WhyView{Run: waitingRun(), Short: "waits for 1 more approval by release-manager", Waiting: waitingRun().Waiting}
	f.gives(events.VerbGet, waitingRun())
	f.gives(events.VerbWhy, why)
	f.gives(events.VerbList, events.RunList{Runs: []events.RunView{waitingRun(), doneRun("succeeded"), doneRun("failed")}, Next: "c9"})
	f.gives(events.VerbStart, waitingRun())
	f.gives(events.VerbCancel, nil)
	f.gives(events.VerbDefinitions, events.Definitions{Definitions: []events.Definition{
		{Kind: "Workflow", Name: "checkout-release", Digest: "sha256:" + strings.Repeat("ab", 32), File: "penstock/release.yaml",
			Source: repository, Commit: strings.Repeat("1f2e", 10), Author: "ana@acme.example"},
		{Kind: "Environment", Name: "production", Digest: "sha256:" + strings.Repeat("12", 32), File: "environments.yaml", Source: "folder:/etc/penstock"}}})
	f.gives(events.VerbServer, events.ServerInfo{Version: "v0.1.0", Instance: "host-1", StartedAt: ago(3 * time.Hour), NATS: "nats://127.0.0.1:4222",
		HTTP: "http://127.0.0.1:8080", Data: "/var/lib/penstock", Runs: 17, Waiting: 2, Sources: []events.DefinitionSource{
			{Source: repository, Commit: strings.Repeat("1f2e", 10), Author: "ana@acme.example", ReadAt: ptr(ago(time.Hour)), Problems: 2},
			{Source: "folder:/etc/penstock", ReadAt: ptr(ago(2 * time.Hour)), Error: "lstat /etc/penstock: no such file or directory", Since: ptr(ago(time.Minute))}}, Workers: []events.WorkerInfo{
			{Hello: events.Hello{Worker: "w1", Kinds: []string{"build", "test"}, Host: "host-2", Busy: 1, Slots: 4, Version: "v0.1.0"}, Pool: "default", SeenAt: ago(4 * time.Second)}}})
	f.gives(events.VerbVerify, events.Verification{Run: runID, Records: 13, Decisions: 4, Head: strings.Repeat("9a", 32), OK: true})
	f.gives(events.VerbEnvironments, events.Environments{Environments: []events.EnvironmentView{{Name: "production", Holder: runID, Queue: []string{"aaaa", "bbbb"},
		Artifact: "sha256:" + strings.Repeat("cd", 32), Run: "previous", URL: "http://127.0.0.1:9000", At: ptr(ago(26 * time.Hour))}, {Name: "staging", Closed: "frozen: year end", Until: ptr(now.Add(13 * time.Hour))}}})
	for name, args := range map[string][]string{
		"environments": {"environments"},
		"get":          {"get", "k3f9"},
		"why":          {"why", "k3f9"},
		"runs":         {"runs", "--status", "waiting"},
		"run":          {"run", "checkout-release", "--id", runID, "--input", "replicas=3"},
		"cancel":       {"cancel", "k3f9", "--reason", "wrong commit"},
		"definitions":  {"definitions"},
		"status":       {"status"},
		"verify":       {"audit", "verify", "k3f9"},
	} {
		t.Run(name, func(t *testing.T) { golden(t, name, args, penstock(t, args...)) })
	}
}

func TestRecordsAreShownWithTheirRulesAndEvents(t *testing.T) {
	f := newFake(t)
	f.gives(events.VerbRecords, events.Records{Records: []events.StoredRecord{
		{Seq: 7, Hash: strings.Repeat("0f", 32), Record: json.RawMessage(`{"f":1,"agg":"run","id":"` + runID + `","v":9,"t":1772463600000,
			"in":{"id":"x","kind":"run.decide","by":"ana","decide":{"id":"x","run":"` + runID + `","state":"approve","decision":"approved","comment":"mine"}},
			"ans":{"status":"refused","code":"denied","reason":"ana is an author of the change"},
			"dec":[{"rule":"spec.require.four eyes","src":"approvals.exists(a, a.user != run.requestedBy)","of":"Environment/production","in":{"approvals":[]},"value":false}],
			"ev":[{"type":"dev.penstock.approval.refused.v1","data":{"state":"approve","by":"ana","decision":"approved","reason":"an author of the change"}}],
			"state":{}}`)}}})
	args := []string{"audit", "show", "k3f9"}
	golden(t, "records", args, penstock(t, args...))
}

func TestALongRecordIsShownWhole(t *testing.T) {
	f := newFake(t)
	f.handle(events.VerbRecords, func(p json.RawMessage) events.Answer {
		var q events.GetRun
		if err := json.Unmarshal(p, &q); err != nil {
			t.Error(err)
		}
		page := events.Records{Records: []events.StoredRecord{{Seq: q.After + 1, Hash: "x", Record: json.RawMessage(`{}`)}}}
		if q.After < 2 {
			page.Next = q.After + 1
		}
		result, _ := json.Marshal(page)
		return events.Answer{Status: events.StatusApplied, Result: result}
	})
	var list events.Records
	if err := json.Unmarshal([]byte(penstock(t, "audit", "show", "k3f9", "-o", "json").out), &list); err != nil || len(list.Records) != 3 {
		t.Errorf("%d of 3 records are shown, %v", len(list.Records), err)
	}
}

func TestJSONIsTheAnswerOfTheEngine(t *testing.T) {
	f := newFake(t)
	f.gives(events.VerbGet, waitingRun())
	got := penstock(t, "get", "k3f9", "-o", "json")
	var run events.RunView
	if err := json.Unmarshal([]byte(got.out), &run); err != nil || run.ID != runID || len(run.Path) != 3 {
		t.Fatalf("got %v, %+v\n%s", err, run, got.out)
	}
	f.gives(events.VerbList, events.RunList{})
	if got := penstock(t, "runs", "-o", "json"); !strings.Contains(got.out, `"runs": []`) {
		t.Errorf("no runs: got %s", got.out)
	}
}

func TestInputsAreSentAsTextForTheServerToRead(t *testing.T) {
	f := newFake(t)
	f.gives(events.VerbStart, waitingRun())
	got := penstockIn(t, `{"regions":["eu"],"replicas":1}`, "run", "checkout-release", "--inputs", "-", "-i", "replicas=3", "-i", "note=a=b")
	start := asked[events.StartRun](f, events.VerbStart)
	if got.code != 0 || start.Inputs["replicas"] != "3" || start.Inputs["note"] != "a=b" || len(start.Inputs["regions"].([]any)) != 1 || len(start.ID) != 16 {
		t.Errorf("exit %d, asked %+v\n%s", got.code, start, got.stderr)
	}
	first := start.ID
	penstock(t, "run", "checkout-release")
	if again := asked[events.StartRun](f, events.VerbStart).ID; again == first {
		t.Errorf("two starts have the same id %s", first)
	}
}

func TestExitCodesTellWhatKindOfFailureItWas(t *testing.T) {
	f := newFake(t)
	f.refuses(events.VerbGet, events.CodeNotFound, `there is no run "nope"`)
	f.refuses(events.VerbStart, events.CodeInvalid, `input "commit" is missing`)
	f.refuses(events.VerbCancel, events.CodeConflict, "the run has ended")
	f.handle(events.VerbList, func(json.RawMessage) events.Answer {
		return events.Answer{Status: events.StatusError, Code: events.CodeFull, Reason: "the disk is full"}
	})
	for _, c := range []struct {
		code int
		args []string
		want string
	}{
		{exitNotFound, []string{"get", "nope"}, `penstock: there is no run "nope"`},
		{exitUsage, []string{"run", "checkout-release"}, `input "commit" is missing`},
		{exitFailed, []string{"runs"}, "hint: nothing was stored"},
		{exitUsage, []string{"get"}, "penstock get needs RUN"},
		{exitUsage, []string{"get", "a", "b"}, `unexpected argument "b"`},
		{exitUsage, []string{"get", "a", "--nope"}, "unknown flag: --nope"},
		{exitUsage, []string{"runs", "--limit", "x"}, `invalid argument "x" for "--limit" flag: not a number`},
		{exitUsage, []string{"runs", "--status", "finished"}, "want one of running, waiting, done, succeeded"},
		{exitUsage, []string{"definitions", "workflows"}, "the kinds are Workflow, Environment"},
		{exitUsage, []string{"aprove", "x"}, "did you mean penstock approve?"},
		{exitUsage, []string{"events", "folow"}, "did you mean penstock events follow?"},
		{exitDenied, []string{"auth", "list"}, "needs an administrator's credential"},
		{exitDenied, []string{"runs", "--credential", "nope.json"}, "no such file"},
	} {
		got := penstock(t, c.args...)
		if got.code != c.code || !strings.Contains(got.stderr, c.want) || got.out != "" {
			t.Errorf("penstock %q: exit %d, want %d with %q\n%s%s", c.args, got.code, c.code, c.want, got.out, got.stderr)
		}
	}
}

func TestStateThatTheRunWasNotInHasNoOutput(t *testing.T) {
	f := newFake(t)
	f.gives(events.VerbGet, waitingRun())
	f.gives(events.VerbOutput, events.Output{})
	got := penstock(t, "logs", "k3f9", "biuld")
	if got.code != exitNotFound || !strings.Contains(got.stderr, `not in a state "biuld"; it was in: build, verify, approve`) {
		t.Errorf("exit %d\n%s", got.code, got.stderr)
	}
	got = penstock(t, "logs", "k3f9", "verify.test")
	if got.code != 0 || !strings.Contains(got.stderr, "no output of verify.test") {
		t.Errorf("exit %d\n%s", got.code, got.stderr)
	}
}

func TestPublisherThatAsksIsDenied(t *testing.T) {
	newFake(t).as(bus.KindPublisher, "git")
	for _, args := range [][]string{{"runs"}, {"events", "follow"}} {
		got := penstock(t, args...)
		if got.code != exitDenied || !strings.Contains(got.stderr, `publisher "git"`) {
			t.Errorf("%q: exit %d\n%s", args, got.code, got.stderr)
		}
	}
}

func TestProgramOfAWorkerIsFoundFromWhereItWasStarted(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("migrate.exe", []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	got, err := findProgram("./migrate.exe")
	if want := filepath.Join(here, "migrate.exe"); err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestAddressInUseHasAHint(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	got := penstock(t, "server", "--data", t.TempDir(), "--listen", taken.Addr().String(), "--http", "none", "--no-remember")
	if got.code != exitFailed || !strings.Contains(got.stderr, "hint: another server may have it") {
		t.Errorf("exit %d\n%s", got.code, got.stderr)
	}
}

func TestErrorsAreJSONWithJSONOutput(t *testing.T) {
	f := newFake(t)
	f.refuses(events.VerbGet, events.CodeNotFound, "there is no such run")
	for _, args := range [][]string{{"get", "nope", "-o", "json"}, {"get", "--nope", "-ojson"}} {
		got := penstock(t, args...)
		var e struct {
			Error struct {
				Code, Message string
				Exit          int
			}
		}
		if err := json.Unmarshal([]byte(got.stderr), &e); err != nil || e.Error.Exit != got.code || e.Error.Message == "" || e.Error.Code == "" {
			t.Errorf("%q: %v %+v\n%s", args, err, e, got.stderr)
		}
	}
}

func TestNoAnswerInTimeExitsWith5(t *testing.T) {
	f := newFake(t)
	f.handle(events.VerbGet, func(json.RawMessage) events.Answer { return events.Answer{Status: events.StatusBusy, RetryAfter: 10} })
	got := penstock(t, "get", "x", "--timeout", "200ms")
	if got.code != exitTimeout || !strings.Contains(got.stderr, "--timeout gives it longer") {
		t.Errorf("exit %d\n%s", got.code, got.stderr)
	}
}

func TestNoServerIsSaidInWords(t *testing.T) {
	f := newFake(t)
	f.url = "nats://127.0.0.1:1"
	f.as(bus.KindUser, "marta")
	got := penstock(t, "runs")
	if got.code != exitFailed || !strings.Contains(got.stderr, "hint: start it: penstock server") {
		t.Errorf("exit %d\n%s", got.code, got.stderr)
	}
}

func TestTextOfOthersCannotSteerTheTerminal(t *testing.T) {
	f := newFake(t)
	run := waitingRun()
	run.Title = "fine\x1b[2J\u202etxet\r\nRun: other"
	f.gives(events.VerbGet, run)
	got := penstock(t, "get", "k3f9")
	if strings.ContainsAny(got.out, "\x1b\u202e\r") || !strings.Contains(got.out, "fine[2Jtxet Run: other\n") {
		t.Errorf("got %q", got.out)
	}
}

func TestCredentialOfAPrincipalIsWrittenForItsOwnerOnly(t *testing.T) {
	f := newFake(t)
	f.as(bus.KindAdmin, "admin")
	f.gives(events.VerbAuthAdd, bus.Credential{URL: f.url, User: "marta", Password: "secret", Kind: bus.KindUser, Name: "marta"})
	f.gives(events.VerbAuthRevoke, nil)
	f.gives(events.VerbAuthList, events.Principals{Principals: []events.Principal{{Kind: "user", Name: "marta", CreatedAt: ago(time.Hour)},
		{Kind: "worker", Name: "w1", Pool: "default", CreatedAt: ago(50 * time.Hour)}}})
	out := filepath.Join(t.TempDir(), "marta.json")
	got := penstock(t, "auth", "user", "add", "marta", "--out", out)
	info, err := os.Stat(out)
	if got.code != 0 || err != nil || info.Mode().Perm() != 0o600 || strings.Contains(got.out+got.stderr, "secret") {
		t.Fatalf("exit %d, %v, %v\n%s%s", got.code, err, info, got.out, got.stderr)
	}
	if add := asked[events.AddPrincipal](f, events.VerbAuthAdd); add.Kind != "user" || add.Name != "marta" {
		t.Errorf("asked %+v", add)
	}
	if got := penstock(t, "auth", "user", "add", "marta", "--out", out); got.code != exitUsage || !strings.Contains(got.stderr, "--force replaces it") {
		t.Errorf("a file that is there: exit %d\n%s", got.code, got.stderr)
	}
	args := []string{"auth", "list"}
	golden(t, "auth-list", args, penstock(t, args...))
	if got := penstock(t, "auth", "worker", "list"); strings.Contains(got.out, "marta") || !strings.Contains(got.out, "w1") {
		t.Errorf("workers: %s", got.out)
	}
	penstock(t, "auth", "publisher", "revoke", "git")
	if r := asked[events.RevokePrincipal](f, events.VerbAuthRevoke); r.Kind != "publisher" || r.Name != "git" {
		t.Errorf("asked %+v", r)
	}
}

func TestServerThatWasStartedLastIsRemembered(t *testing.T) {
	f := newFake(t)
	t.Setenv("PENSTOCK_CREDENTIAL", "")
	t.Chdir(t.TempDir())
	if got := penstock(t, "credential"); got.code != exitDenied || !strings.Contains(got.stderr, "hint: start a server of your own: penstock server") {
		t.Fatalf("without any: exit %d\n%s", got.code, got.stderr)
	}
	if err := rememberServer(filepath.Join(f.dir, "marta.json")); err != nil {
		t.Fatal(err)
	}
	got := penstock(t, "credential", "-o", "json")
	if got.code != 0 || !strings.Contains(got.out, `"from": "the server that was started last"`) {
		t.Errorf("exit %d\n%s%s", got.code, got.out, got.stderr)
	}
	pointer, err := serverPointer()
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(pointer); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("pointer: %v, %v", info, err)
	}
	if err := os.Remove(filepath.Join(f.dir, "marta.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if got := penstock(t, "runs"); got.code != exitDenied || !strings.Contains(got.stderr, "marta.json") {
		t.Errorf("a server that has gone: exit %d\n%s", got.code, got.stderr)
	}
}

func TestApplyPrunesOnlyWhenThatIsMeant(t *testing.T) {
	f := newFake(t)
	file := filepath.Join(f.dir, "release.yaml")
	if err := os.WriteFile(file, []byte("kind: Workflow\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.handle(events.VerbApply, func(p json.RawMessage) events.Answer {
		a := events.Applied{Definitions: []events.Definition{{Kind: "Workflow", Name: "release", Change: "created"}}}
		if req := (events.Apply{}); json.Unmarshal(p, &req) == nil && req.Prune {
			a.Definitions = append(a.Definitions, events.Definition{Kind: "Channel", Name: "old", Change: "removed"})
		}
		return applied(t, a)
	})
	got := penstock(t, "apply", "-f", file, "--prune")
	if got.code != exitUsage || !strings.Contains(got.stderr, "1 definition would be removed: Channel/old") || !asked[events.Apply](f, events.VerbApply).DryRun {
		t.Errorf("without --yes: exit %d, %s", got.code, got.stderr)
	}
	got = penstock(t, "apply", "-f", file, "--prune", "--yes", "--source", "checkout")
	if req := asked[events.Apply](f, events.VerbApply); got.code != 0 || req.DryRun || !req.Prune || req.Source != "checkout" || !strings.Contains(got.out, "removed") {
		t.Errorf("with --yes: exit %d, %s, asked %+v", got.code, got.stderr, req)
	}
	got = penstock(t, "apply", "-f", file)
	if req := asked[events.Apply](f, events.VerbApply); got.code != 0 || req.DryRun || req.Prune || req.Source != file {
		t.Errorf("without --prune: exit %d, %s, asked %+v", got.code, got.stderr, req)
	}
}

func TestApplyAsksBeforeSomethingIsRemovedOrWeakened(t *testing.T) {
	f := newFake(t)
	created := events.Definition{Kind: "Workflow", Name: "release", Change: "created"}
	weaker := events.Meaning{Text: "Workflow release, approve: quorum lowered", Weaker: true}
	for name, c := range map[string]struct {
		would  events.Applied
		answer string
		sent   bool
		shown  string
	}{
		"nothing is asked":      {events.Applied{Definitions: []events.Definition{created}}, "", true, "created: Workflow/release"},
		"something is removed":  {events.Applied{Definitions: []events.Definition{{Kind: "Channel", Name: "old", Change: "removed"}}}, "n\n", false, "removed: Channel/old"},
		"something is weakened": {events.Applied{Definitions: []events.Definition{created}, Meaning: []events.Meaning{weaker}}, "\n", false, "! weaker: Workflow release, approve: quorum lowered"},
		"that is meant":         {events.Applied{Definitions: []events.Definition{created}, Meaning: []events.Meaning{weaker}}, "y\n", true, "apply? [y/N]"},
	} {
		f.gives(events.VerbApply, c.would)
		var stderr bytes.Buffer
		a := newApp(strings.NewReader(c.answer), io.Discard, &stderr)
		err := a.with(t.Context(), func(s *session) error {
			return s.apply(t.Context(), events.Apply{Files: []events.SourceFile{{Name: "x"}}}, false, false, true)
		})
		if sent := !asked[events.Apply](f, events.VerbApply).DryRun; sent != c.sent || (err == nil) != c.sent || !strings.Contains(stderr.String(), c.shown) {
			t.Errorf("%s: sent %v, %v\n%s", name, sent, err, &stderr)
		}
	}
}
