package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// now is what the clock of the commands shows in tests.
var now = time.Date(2026, 3, 2, 15, 0, 0, 0, time.UTC)

func exitCode(err error) string {
	if err == nil {
		return "0"
	}
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return strconv.Itoa(e.ExitCode())
	}
	return err.Error()
}

// fake is an engine's API on a real NATS server: it answers each verb with
// what a test gave it and remembers what it was asked.
type fake struct {
	t    *testing.T
	nc   *nats.Conn
	url  string
	dir  string
	mu   sync.Mutex
	asks map[string][]json.RawMessage
	on   map[string]func(json.RawMessage) events.Answer
}

func newFake(t *testing.T) *fake {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server did not start")
	}
	f := &fake{t: t, url: s.ClientURL(), dir: t.TempDir(), asks: map[string][]json.RawMessage{}, on: map[string]func(json.RawMessage) events.Answer{}}
	if f.nc, err = nats.Connect(f.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.nc.Close)
	for _, prefix := range []string{events.UserPrefix, events.AdminPrefix} {
		if _, err := f.nc.Subscribe(prefix+">", f.answer); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", f.dir)
	t.Setenv("XDG_STATE_HOME", filepath.Join(f.dir, "state"))
	for _, name := range []string{"PENSTOCK_DATA", "NATS_URL", "NATS_USER", "NATS_CREDS", "NO_COLOR"} {
		t.Setenv(name, "")
	}
	f.as(bus.KindUser, "marta")
	return f
}

// as makes the commands use a credential of this principal.
func (f *fake) as(kind, name string) {
	f.t.Helper()
	path := filepath.Join(f.dir, name+".json")
	c := bus.Credential{URL: f.url, Kind: kind, Name: name}
	if err := c.Write(path); err != nil {
		f.t.Fatal(err)
	}
	f.t.Setenv("PENSTOCK_CREDENTIAL", path)
}

func (f *fake) answer(m *nats.Msg) {
	parts := strings.SplitN(m.Subject, ".", 5) // penstock.api.u.<uid>.<verb>
	verb := parts[4]
	f.mu.Lock()
	f.asks[verb] = append(f.asks[verb], m.Data)
	h := f.on[verb]
	f.mu.Unlock()
	a := events.Answer{Status: events.StatusError, Code: events.CodeInternal, Reason: "the test has no answer to " + verb}
	if h != nil {
		a = h(m.Data)
	}
	p, _ := json.Marshal(a)
	_ = m.Respond(p)
}

// handle answers verb by a function.
func (f *fake) handle(verb string, fn func(json.RawMessage) events.Answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.on[verb] = fn
}

// gives answers verb with these results, one after the other; the last one
// stays.
func (f *fake) gives(verb string, results ...any) {
	next := 0
	f.handle(verb, func(json.RawMessage) events.Answer {
		r := results[min(next, len(results)-1)]
		next++
		return applied(f.t, r)
	})
}

func applied(t *testing.T, result any) events.Answer {
	p, err := json.Marshal(result)
	if err != nil {
		t.Error(err)
	}
	return events.Answer{Status: events.StatusApplied, Record: 14, Result: p}
}

// refuses answers verb with a refusal.
func (f *fake) refuses(verb, code, reason string) {
	f.handle(verb, func(json.RawMessage) events.Answer {
		return events.Answer{Status: events.StatusRefused, Code: code, Reason: reason, Record: 15}
	})
}

// asked decodes the last request for verb.
func asked[T any](f *fake, verb string) T {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var v T
	if len(f.asks[verb]) == 0 {
		f.t.Fatalf("nobody asked for %s", verb)
	}
	if err := json.Unmarshal(f.asks[verb][len(f.asks[verb])-1], &v); err != nil {
		f.t.Fatal(err)
	}
	return v
}

// ran is what came of a command.
type ran struct {
	code        int
	out, stderr string
}

// penstock runs a command line in this process.
func penstock(t *testing.T, args ...string) ran {
	t.Helper()
	return penstockIn(t, "", args...)
}

func penstockIn(t *testing.T, stdin string, args ...string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, stderr bytes.Buffer
	a := newApp(strings.NewReader(stdin), &out, &stderr)
	a.now = func() time.Time { return now }
	code := a.execute(ctx, args)
	return ran{code, out.String(), stderr.String()}
}

// golden compares a command's whole behaviour with a file that people read.
func golden(t *testing.T, name string, args []string, got ran) {
	t.Helper()
	text := fmt.Sprintf("$ penstock %s\n%s", strings.Join(args, " "), got.out)
	if got.stderr != "" {
		text += "--- stderr\n" + got.stderr
	}
	text += fmt.Sprintf("--- exit %d\n", got.code)
	path := filepath.Join("testdata", "golden", name+".txt")
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func ptr[T any](v T) *T { return &v }

var interrupt = os.Interrupt
