package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// story is one telling.
type story struct {
	options Options
	layout
	narrator *narrator
	stand    *stand
	began    time.Time
	keyboard <-chan string

	commits   []commit
	conns     []*bus.Conn
	people    map[string]person // marta, li and ana
	git       *bus.Conn         // publishes commit events
	feed      *feed
	following sync.WaitGroup
	customer  *customer
	url       string // of production

	runs  []string // that the story started, in order
	notes summary
}

// summary is what the table at the end says.
type summary struct {
	requests, failed, repeated int
	last                       string // run whose trail is shown
}

// tell tells the chapters.
func (s *story) tell(ctx context.Context) error {
	chapters := []func(context.Context) error{
		s.setOut, s.commitArrives, s.peopleDecide, s.blueGreen, s.heldAtTheGate, s.rolledBack, s.engineKilled, s.lookBack,
	}
	for _, chapter := range chapters {
		if err := chapter(ctx); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
	}
	return nil
}

// claim checks something that the story says.
func (s *story) claim(holds bool, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	if !holds {
		return fmt.Errorf("this does not hold: %s", text)
	}
	s.narrator.holds(text)
	return nil
}

// answeredAll claims, of what a client saw, that no request failed.
func (s *story) answeredAll(c counts, format string, args ...any) error {
	if c.failed > 0 || c.sent == 0 {
		return fmt.Errorf("of %d requests to production %d failed: %s", c.sent, c.failed, c.trouble)
	}
	return s.claim(true, format, args...)
}

// setOut prepares everything.
func (s *story) setOut(ctx context.Context) error {
	n := s.narrator
	n.chapter("A service, a server and workers of its own")
	n.line("everything lies in "+s.dir, "")
	for _, dir := range []string{s.logs(), s.data(), s.targets(), s.work()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := writeDefinitions(s.workflows()); err != nil {
		return err
	}
	n.doingNow("making a git repository and starting the server")
	made := make(chan error, 1)
	go func() {
		var err error
		s.commits, err = makeRepository(ctx, s.repository())
		made <- err
	}()
	err := s.stand.startServer(ctx)
	if err := errors.Join(<-made, err); err != nil {
		return err
	}
	n.line(fmt.Sprintf("ana has written %d commits of a small HTTP service", len(s.commits)), "git -C "+s.repository()+" log")
	if err := s.enter(ctx); err != nil {
		return err
	}
	n.line(fmt.Sprintf("the server (process %d) and the workers (process %d) run", s.stand.server.cmd.Process.Pid, s.stand.worker.cmd.Process.Pid), "penstock status")
	if s.options.Terminal {
		n.line("to look around, in another terminal:", "")
		n.text("export PENSTOCK_CREDENTIAL=" + s.credential("marta"))
		if s.options.Command != "penstock" {
			n.text("penstock() { " + s.options.Command + ` "$@"; }`)
		}
	}
	return nil
}

// enter brings everybody onto the bus.
func (s *story) enter(ctx context.Context) error {
	if err := s.stand.startWorker(); err != nil {
		return err
	}
	admin, err := s.connect(ctx, s.stand.admin())
	if err != nil {
		return err
	}
	for _, who := range []struct{ kind, name string }{
		{bus.KindUser, "marta"}, {bus.KindUser, "li"}, {bus.KindUser, "ana"}, {bus.KindUser, "bot"}, {bus.KindPublisher, "git"}} {
		if err := s.stand.introduce(ctx, admin, who.kind, who.name); err != nil {
			return err
		}
	}
	s.people = map[string]person{}
	for _, name := range []string{"marta", "li", "ana"} {
		conn, err := s.connect(ctx, s.credential(name))
		if err != nil {
			return err
		}
		s.people[name] = person{name, conn}
	}
	if s.git, err = s.connect(ctx, s.credential("git")); err != nil {
		return err
	}
	bot, err := s.connect(ctx, s.credential("bot"))
	if err != nil {
		return err
	}
	s.feed = newFeed(s.live)
	s.following.Go(func() {
		if err := s.feed.follow(ctx, bot); err != nil && ctx.Err() == nil {
			s.stand.lost(fmt.Errorf("the bot heard nothing more: %w", err))
		}
	})
	return nil
}

// connect opens the bus until the end of the story.
func (s *story) connect(ctx context.Context, file string) (*bus.Conn, error) {
	c, err := bus.ReadCredential(file)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	conn, err := bus.Connect(ctx, c)
	if err == nil {
		s.conns = append(s.conns, conn)
	}
	return conn, err
}

// live tells of an event as it happens.
func (s *story) live(h happened) {
	switch h.event.Type {
	case events.TaskQueued, events.TaskStarted:
		s.narrator.doingNow(h.State + " of run " + h.Run)
	case events.StateEntered:
		if h.Kind != "" {
			s.narrator.doingNow(h.State + " of run " + h.Run)
		}
	case events.RunFinished, events.ApprovalRequested:
		s.narrator.doingNow("")
	}
	if what, more, ok := telling(h); ok {
		s.narrator.line(what, more)
	}
}

// push publishes the event of a commit and gives the run that it starts.
func (s *story) push(ctx context.Context, c commit) (string, error) {
	e, err := merged(c, s.repository())
	if err != nil {
		return "", err
	}
	s.narrator.line(fmt.Sprintf("ana pushes %.8s, %q; git publishes a CloudEvent", c.sha, c.subject), "penstock events follow --type 'event.*' --all")
	if err := s.git.Publish(ctx, e); err != nil {
		return "", err
	}
	s.narrator.doingNow("the event")
	h, err := s.feed.await(ctx, "a run for commit "+c.sha, func(h happened) bool {
		return h.Cause != nil && h.Cause.ID == e.ID && slices.Contains([]string{events.EventMatched, events.EventIgnored, events.EventRefused}, h.event.Type)
	})
	if err != nil {
		return "", err
	}
	if len(h.Runs) != 1 {
		return "", fmt.Errorf("commit %s started %d runs: %v", c.sha, len(h.Runs), h.Reasons)
	}
	s.runs = append(s.runs, h.Runs[0])
	return h.Runs[0], nil
}

// get is the run as it stands.
func (s *story) get(ctx context.Context, run string) (events.RunView, error) {
	var v events.RunView
	err := s.people["marta"].ask(ctx, events.VerbGet, events.GetRun{Run: run}, &v)
	return v, err
}

// waits waits until the run waits for people. A run that ends before is an error.
func (s *story) waits(ctx context.Context, run string) error {
	h, err := s.feed.await(ctx, "the approval of run "+run, of(run, "", events.ApprovalRequested, events.RunFinished))
	if err == nil && h.event.Type == events.RunFinished {
		return fmt.Errorf("run %s ended in %s before anybody could approve it: %s", run, h.State, h.Outcome)
	}
	return err
}

// ended waits for the end of the run and checks that it ended as it should.
func (s *story) ended(ctx context.Context, run, state string) (events.RunView, error) {
	h, err := s.feed.await(ctx, "the end of run "+run, of(run, "", events.RunFinished))
	if err != nil {
		return events.RunView{}, err
	}
	if h.State != state {
		return events.RunView{}, fmt.Errorf("run %s ended in %s, not in %s", run, h.State, state)
	}
	return s.get(ctx, run)
}

// approve has marta and li approve.
func (s *story) approve(ctx context.Context, run string) error {
	for _, name := range []string{"marta", "li"} {
		if err := s.approveAs(ctx, name, run); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) approveAs(ctx context.Context, name, run string) error {
	if err := s.people[name].decide(ctx, run, events.Approve, "looks good"); err != nil {
		return fmt.Errorf("approval of %s: %w", name, err)
	}
	_, err := s.feed.await(ctx, "the approval of "+name, func(h happened) bool {
		return of(run, "", events.ApprovalDecided)(h) && h.By == name
	})
	return err
}

// release takes a commit to the approval and has it approved.
func (s *story) release(ctx context.Context, c commit) (string, error) {
	run, err := s.push(ctx, c)
	if err != nil {
		return "", err
	}
	if err := s.waits(ctx, run); err != nil {
		return "", err
	}
	return run, s.approve(ctx, run)
}

// merged is the event of a commit: a CDEvent in a CloudEvent.
func merged(c commit, repository string) (*events.Event, error) {
	const kind = "dev.cdevents.change.merged.0.2.0"
	id, now := uuid.NewString(), time.Now().UTC()
	e := &events.Event{ID: id, Source: "git/shop", Type: kind, Subject: c.sha, Time: now, DataContentType: "application/json"}
	data, err := json.Marshal(map[string]any{
		"context": map[string]any{"version": "0.4.1", "id": id, "source": e.Source, "type": kind, "timestamp": now},
		"subject": map[string]any{"id": c.sha, "source": e.Source, "type": "change",
			"content": map[string]any{"repository": map[string]any{"id": "shop"}}},
		"customData": map[string]any{"sha": c.sha, "subject": c.subject, "clone": repository},
	})
	e.Data = data
	return e, err
}
