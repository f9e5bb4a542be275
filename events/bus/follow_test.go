package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/events"
)

// reporter is the engine as far as following goes: it stores events and
// answers event.list from the stream.
type reporter struct {
	js     jetstream.JetStream
	stream jetstream.Stream
	mu     sync.Mutex
	asked  int
}

func report(t *testing.T, in *installation) *reporter {
	t.Helper()
	js, err := jetstream.New(in.notify, jetstream.WithPublishAsyncMaxPending(2*followBuffer))
	if err != nil {
		t.Fatal(err)
	}
	r := &reporter{js: js}
	if r.stream, err = js.Stream(t.Context(), events.StreamOut); err != nil {
		t.Fatal(err)
	}
	in.answer(t, "penstock.api.u.*.event.list", func(m *nats.Msg) events.Answer {
		var q events.ReadEvents
		if err := json.Unmarshal(m.Data, &q); err != nil {
			return events.Answer{Status: events.StatusError, Reason: err.Error()}
		}
		page, err := r.page(q)
		if err != nil {
			return events.Answer{Status: events.StatusBusy, Reason: err.Error()}
		}
		return result(page)
	})
	return r
}

func (r *reporter) page(q events.ReadEvents) (p events.EventPage, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	ctx := context.Background()
	info, err := r.stream.Info(ctx)
	if err != nil {
		return p, err
	}
	if q.End {
		return events.EventPage{Next: info.State.LastSeq}, nil
	}
	p.Next = q.After
	for p.Next < info.State.LastSeq && len(p.Events) < q.Limit {
		m, err := r.stream.GetMsg(ctx, p.Next+1)
		if err != nil {
			return p, err
		}
		p.Next++
		e, err := events.Parse(m.Header, m.Data)
		if err != nil {
			return p, err
		}
		if events.MatchTypes(q.Types, e.Type) {
			p.Events = append(p.Events, *e)
		}
	}
	return p, nil
}

// emit stores an event of a run.
func (r *reporter) emit(t *testing.T, id, typ, run string) {
	t.Helper()
	data, _ := json.Marshal(events.Happening{Run: run, Workflow: "release", Environment: "prod"})
	body, err := json.Marshal(events.Event{ID: id, Source: "penstock", Type: typ, Data: data})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.js.Publish(soon(t), events.OutSubject("default", "prod", "=", events.ShortType(typ)), body, jetstream.WithRetryAttempts(50)); err != nil {
		t.Fatal(err)
	}
}

// following collects what Follow gives.
type following struct {
	mu     sync.Mutex
	ids    []string
	cursor uint64
	done   chan error
}

func follow(t *testing.T, conn *Conn, o FollowOptions, each func(id string)) *following {
	t.Helper()
	f := &following{done: make(chan error, 1)}
	o.OnCursor = func(c uint64) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.cursor = c
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		f.done <- conn.Follow(ctx, o, func(_ context.Context, e *events.Event) error {
			if each != nil {
				each(e.ID)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			f.ids = append(f.ids, e.ID)
			return nil
		})
	}()
	t.Cleanup(func() { cancel(); <-f.done })
	return f
}

func (f *following) got() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.ids)
}

func (f *following) want(t *testing.T, ids ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("events %v arrive", ids), func() bool { return len(f.got()) >= len(ids) })
	if got := f.got(); !slices.Equal(got, ids) {
		t.Fatalf("got %v, want %v", got, ids)
	}
}

// begun waits until following has asked where the present is.
func (r *reporter) begun(t *testing.T) {
	t.Helper()
	eventually(t, "following begins", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.asked > 0
	})
}

func TestFollowGivesWhatHappensFromNowOn(t *testing.T) {
	in := start(t)
	r := report(t, in)
	r.emit(t, "before", events.RunStarted, "r1")
	f := follow(t, dial(t, in.bot), FollowOptions{}, nil)
	r.begun(t)
	r.emit(t, "a", events.RunStarted, "r1")
	r.emit(t, "b", events.RunFinished, "r1")
	f.want(t, "a", "b")
	eventually(t, "the cursor is told", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.cursor == 3 })
}

func TestFollowGoesOnFromACursor(t *testing.T) {
	in := start(t)
	r := report(t, in)
	for i := range 5 {
		r.emit(t, fmt.Sprint(i+1), events.RunStarted, "r1")
	}
	f := follow(t, dial(t, in.bot), FollowOptions{After: 2}, nil)
	f.want(t, "3", "4", "5")
	r.emit(t, "6", events.RunStarted, "r1")
	f.want(t, "3", "4", "5", "6")
}

func TestFollowMissesNothingOverALostConnection(t *testing.T) {
	in := start(t)
	r := report(t, in)
	conn := dial(t, in.bot)
	f := follow(t, conn, FollowOptions{}, nil)
	r.begun(t)
	var want []string
	for i := range 60 {
		if i%20 == 10 {
			if err := conn.nc.ForceReconnect(); err != nil {
				t.Fatal(err)
			}
		}
		id := fmt.Sprint(i)
		r.emit(t, id, events.RunStarted, "r1")
		want = append(want, id)
	}
	f.want(t, want...)
}

func TestFollowMissesNothingOverARestartOfTheServer(t *testing.T) {
	in := start(t)
	r := report(t, in)
	f := follow(t, dial(t, in.bot), FollowOptions{}, nil)
	r.begun(t)
	r.emit(t, "a", events.RunStarted, "r1")
	f.want(t, "a")
	in.down()
	if err := in.up(); err != nil {
		t.Fatal(err)
	}
	r.emit(t, "b", events.RunStarted, "r1")
	f.want(t, "a", "b")
}

func TestFollowMissesNothingWhenTheCallbackIsSlow(t *testing.T) {
	in := start(t)
	r := report(t, in)
	blocked, once := make(chan struct{}), sync.Once{}
	f := follow(t, dial(t, in.bot), FollowOptions{}, func(string) { <-blocked })
	r.begun(t)
	body := func(i int) []byte {
		p, _ := json.Marshal(events.Event{ID: fmt.Sprint(i), Source: "penstock", Type: events.RunStarted})
		return p
	}
	const n = followBuffer + 500
	defer once.Do(func() { close(blocked) })
	for i := range n {
		if _, err := r.js.PublishAsync("penstock.out.default.=.=.x", body(i)); err != nil {
			t.Fatal(err)
		}
	}
	<-r.js.PublishAsyncComplete()
	once.Do(func() { close(blocked) })
	var want []string
	for i := range n {
		want = append(want, fmt.Sprint(i))
	}
	f.want(t, want...)
}

func TestFollowGivesOnlyWhatWasAskedForAndNoRepeat(t *testing.T) {
	in := start(t)
	r := report(t, in)
	conn := dial(t, in.bot)
	f := follow(t, conn, FollowOptions{Types: []string{"run.*"}, Run: "r1", Workflow: "release", Environment: "prod"}, nil)
	g := follow(t, conn, FollowOptions{Environment: "staging"}, nil)
	eventually(t, "both begin", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.asked >= 2 })
	r.emit(t, "a", events.RunStarted, "r1")
	r.emit(t, "x", events.StateEntered, "r1")
	r.emit(t, "y", events.RunStarted, "r2")
	r.emit(t, "a", events.RunStarted, "r1") // stored twice after a crash of the engine
	r.emit(t, "b", events.RunFinished, "r1")
	f.want(t, "a", "b")
	eventually(t, "the other one has passed over all", func() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.cursor == 5 })
	g.want(t)
}

func TestFollowEndsWithTheErrorOfTheCallback(t *testing.T) {
	in := start(t)
	r := report(t, in)
	r.emit(t, "a", events.RunStarted, "r1")
	r.emit(t, "b", events.RunStarted, "r1")
	stop := errors.New("enough")
	err := dial(t, in.bot).Follow(soon(t), FollowOptions{After: 1}, func(context.Context, *events.Event) error { return stop })
	if !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	if err := dial(t, in.ci).Follow(soon(t), FollowOptions{}, nil); err == nil {
		t.Error("a publisher follows")
	}
}
