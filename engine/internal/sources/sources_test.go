package sources_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/penstock-cd/penstock/engine"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// stand is a real engine that an administrator asks.
type stand struct {
	*testing.T
	o     engine.Options
	admin *nats.Conn
	seen  map[string]uint64 // by type, the cursor of the events that were waited for
	info  events.ServerInfo
	stop  func()
}

// patience is how long anything may take on a busy machine.
const patience = time.Minute

func start(t *testing.T, o engine.Options) *stand {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.HTTP == "" {
		o.HTTP = "none"
	}
	o.Listen, o.Sync = "127.0.0.1:0", "lazy"
	s := &stand{T: t, o: o, seen: map[string]uint64{}}
	t.Cleanup(func() { s.stop() })
	s.run()
	return s
}

func (s *stand) run() {
	s.Helper()
	e, err := engine.New(s.o)
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	var once bool
	s.stop = func() {
		if once {
			return
		}
		once = true
		cancel()
		if err := <-ended; err != nil {
			s.Error(err)
		}
	}
	select {
	case <-e.Ready():
	case err := <-ended:
		once = true
		s.Fatal(err)
	case <-time.After(patience):
		s.Fatal("the engine does not get ready")
	}
	s.info = e.Info()
	c, err := bus.ReadCredential(filepath.Join(s.o.Dir, engine.AdminFile))
	if err != nil {
		s.Fatal(err)
	}
	if s.admin, err = nats.Connect(c.URL, nats.UserInfo(c.User, c.Password), nats.CustomInboxPrefix(c.InboxPrefix)); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(s.admin.Close)
}

// restart stops the engine and starts it again on what it stored.
func (s *stand) restart() {
	s.Helper()
	s.stop()
	s.admin.Close()
	s.run()
}

func ask[T any](s *stand, verb string, request any) (out T) {
	s.Helper()
	p, err := json.Marshal(request)
	if err != nil {
		s.Fatal(err)
	}
	m, err := s.admin.Request(events.AdminSubject("admin", verb), p, patience)
	if err != nil {
		s.Fatal(err)
	}
	var a events.Answer
	if err := json.Unmarshal(m.Data, &a); err != nil || a.Status != events.StatusApplied {
		s.Fatalf("%s: %s %v", verb, m.Data, err)
	}
	if err := json.Unmarshal(a.Result, &out); err != nil {
		s.Fatal(err)
	}
	return out
}

// told waits for an event of a type that came after those of its type that
// were waited for before.
func (s *stand) told(typ string) *events.Happening {
	s.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		page := ask[events.EventPage](s, events.VerbEvents, events.ReadEvents{After: s.seen[typ], Types: []string{typ}, Limit: 1, Wait: 5000})
		s.seen[typ] = page.Next
		if len(page.Events) == 0 {
			continue
		}
		h, err := events.DecodeHappening(&page.Events[0])
		if err != nil {
			s.Fatal(err)
		}
		return h
	}
	s.Fatalf("nobody told %s", typ)
	return nil
}

// tellings counts the events of a type from the beginning.
func (s *stand) tellings(typ string) int {
	s.Helper()
	n, after := 0, uint64(0)
	for {
		page := ask[events.EventPage](s, events.VerbEvents, events.ReadEvents{After: after, Types: []string{typ}, Limit: 500})
		n += len(page.Events)
		if page.Next == after {
			return n
		}
		after = page.Next
	}
}

func (s *stand) definitions() []events.Definition {
	s.Helper()
	return ask[events.Definitions](s, events.VerbDefinitions, nil).Definitions
}

func (s *stand) names() string {
	s.Helper()
	var names []string
	for _, d := range s.definitions() {
		names = append(names, d.Name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func (s *stand) want(what, got, want string) {
	s.Helper()
	if got != want {
		s.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// workflow is one that does nothing; text makes it another.
func workflow(name, text string) string {
	return fmt.Sprintf("apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: %s, description: %q}\nspec:\n  initial: z\n  states:\n    z: {final: succeeded}\n", name, text)
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAFolderOwnsWhatCameFromIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "one.yaml", workflow("one", ""))
	write(t, dir, "two.yaml", workflow("two", ""))
	s := start(t, engine.Options{Workflows: []string{dir}})
	s.want("at the start", s.names(), "one two")
	if d := s.definitions()[0]; d.Source != "folder:"+dir || d.File != filepath.ToSlash(dir)+"/one.yaml" {
		t.Errorf("it came from %+v", d)
	}
	s.told(events.DefinitionApplied)
	ask[events.Applied](s, events.VerbApply, events.Apply{ID: "1", Source: "by hand", Files: []events.SourceFile{{Name: "x.yaml", Content: workflow("three", "")}}})
	s.told(events.DefinitionApplied)

	write(t, dir, "one.yaml", workflow("one", "changed"))
	s.want("what was changed", shown(s.told(events.DefinitionApplied)), "Workflow/one")
	if err := os.Remove(filepath.Join(dir, "two.yaml")); err != nil {
		t.Fatal(err)
	}
	s.want("what was removed", shown(s.told(events.DefinitionRemoved)), "Workflow/two")
	s.want("afterwards", s.names(), "one three")

	// what is taken away while nobody looks is found missing at the next start
	s.stop()
	write(t, dir, "four.yaml", workflow("four", ""))
	if err := os.Remove(filepath.Join(dir, "one.yaml")); err != nil {
		t.Fatal(err)
	}
	s.restart()
	s.want("what was removed meanwhile", shown(s.told(events.DefinitionRemoved)), "Workflow/one")
	s.want("after a restart", s.names(), "four three")
}

// shown names the definitions of an event, without their digests.
func shown(h *events.Happening) string {
	var names []string
	for _, d := range h.Definitions {
		name, _, _ := strings.Cut(d, " ")
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

func TestABadFileOfAFolderIsToldOnceAndSoIsThatItIsGoodAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := workflow("one", "")
	write(t, dir, "one.yaml", good)
	write(t, dir, "two.yaml", workflow("two", ""))
	s := start(t, engine.Options{Workflows: []string{dir}})
	write(t, dir, "one.yaml", good[:len(good)-30])
	if h := s.told(events.DefinitionRefused); h.By != "folder:"+dir || len(h.Reasons) == 0 {
		t.Errorf("told %+v", h)
	}
	s.want("while one is half written", s.names(), "one two")
	s.restart()
	if src := s.sources()[0]; src.Problems == 0 || src.Error != "" {
		t.Errorf("the source is %+v", src)
	}
	write(t, dir, "one.yaml", good)
	s.told(events.DefinitionRecovered)
	if n := s.tellings(events.DefinitionRefused); n != 1 {
		t.Errorf("it was told %d times", n)
	}
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	s.told(events.DefinitionUnreachable)
	if src := s.sources()[0]; src.Error == "" || src.Since == nil {
		t.Errorf("the source is %+v", src)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	s.told(events.DefinitionRecovered)
	s.want("in the end", s.names(), "one two")
}

func (s *stand) sources() []events.DefinitionSource {
	s.Helper()
	return ask[events.ServerInfo](s, events.VerbServer, nil).Sources
}
