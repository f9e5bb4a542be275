package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/fakejs"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// plan is what a simulation does: made from a seed, and made smaller when one
// fails.
type plan struct {
	seed             uint64
	engines, workers int
	replicas         int // of the streams: 3 where faults of a cluster strike
	sync             string
	lasts            time.Duration // how long faults strike
	deeds            []deed
	ages             bool          // in the end time passes until nobody asks for what has ended
	patience         time.Duration // how long, in the world's time, it may take after the faults until nothing moves

	// To show that what is checked can fail.
	broken    fakejs.Broken
	publisher func(journal.Publisher) journal.Publisher
	journal   func(journal.Journal) journal.Journal
	hasty     bool // the janitor waits for nobody
	unwatched bool // nobody compares LOG with the audit log
}

// deed is something that is done to the world, so many milliseconds after its
// beginning.
type deed struct {
	at   int
	what string
	who  string
	n    int
}

func (d deed) String() string { return fmt.Sprintf("after %d ms: %s %s %d", d.at, d.what, d.who, d.n) }

func (d deed) time() time.Duration { return time.Duration(d.at) * time.Millisecond }

// fault reports whether it is a fault, and no request of a person.
func (d deed) fault() bool { return faults[d.what] != nil }

func (d deed) do(w *world) {
	if f := faults[d.what]; f != nil {
		f(w, d)
		if !waits[d.what] {
			w.net.count[d.what]++
		}
		return
	}
	requests[d.what](w, d)
}

// lasts is for how many milliseconds of a simulation faults strike.
const lasts = 90_000

// draw makes the plan of a seed.
func draw(seed uint64) plan {
	rng := rand.New(rand.NewPCG(seed, 0xfa17))
	p := plan{seed: seed, engines: 1 + rng.IntN(3), workers: 1 + rng.IntN(3), replicas: 1, lasts: lasts * time.Millisecond, sync: journal.SyncAlways, patience: 20 * time.Minute,
		publisher: func(p journal.Publisher) journal.Publisher { return p }, journal: func(j journal.Journal) journal.Journal { return j }}
	if rng.IntN(2) == 0 {
		p.sync = journal.SyncLazy
	}
	add := func(n int, names []string, who func() string) {
		for range n {
			p.deeds = append(p.deeds, deed{at: rng.IntN(lasts), what: names[rng.IntN(len(names))], who: who(), n: rng.IntN(1000)})
		}
	}
	engine := func() string { return engineNames[rng.IntN(p.engines)] }
	starts := 3 + rng.IntN(5)
	for i := range starts {
		name := []string{"job", "release", "tenant", "parent"}[rng.IntN(4)]
		p.deeds = append(p.deeds, deed{at: rng.IntN(lasts / 2), what: "start " + name, who: []string{"ana", "marta"}[rng.IntN(2)], n: i})
	}
	add(6+rng.IntN(10), []string{"approve", "approve", "approve", "misread", "reject", "define", "cancel", "pause", "repeat", "repeat", "push", "signal"}, func() string {
		return []string{"ana", "marta", "li"}[rng.IntN(3)]
	})
	// Some seeds see one kind of fault only, some see many, few see none.
	names := slices.Clone(faultNames)
	rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	names = names[:1+rng.IntN(len(names))]
	if p.sync == journal.SyncAlways { // what was answered is on disk
		names = slices.DeleteFunc(names, func(name string) bool { return name == "power cut" })
	}
	if len(names) > 0 {
		add(rng.IntN(30), names, engine)
	}
	slices.SortStableFunc(p.deeds, func(a, b deed) int { return a.at - b.at })
	if slices.ContainsFunc(p.deeds, func(d deed) bool { return d.what == "leader cut off" || d.what == "refused and stored" }) {
		p.replicas = 3
	}
	p.ages = rng.IntN(8) == 0
	return p
}

// requests are what people and other services want.
var requests = map[string]func(*world, deed){
	"start job":     begin("job"),
	"start release": begin("release"),
	"start tenant":  begin("tenant"),
	"start parent":  begin("parent"),
	"approve":       decide(events.Approve, false),
	"reject":        decide(events.Reject, false),
	"misread":       decide(events.Approve, true),
	"define":        func(w *world, _ deed) { w.cats.change() },
	"cancel": func(w *world, d deed) {
		if id := w.book.pick(d.n); id != "" {
			w.command(d.who, record.Run, id, record.Input{ID: fmt.Sprintf("%s:cancel-%d", d.who, d.n), Kind: record.InCancel, Admin: true,
				Cancel: &events.CancelRun{ID: fmt.Sprint("cancel-", d.n), Run: id, Reason: "sim"}})
		}
	},
	"pause": func(w *world, d deed) {
		id := w.book.pick(d.n)
		if id == "" {
			return
		}
		for i, kind := range []string{record.InPause, record.InResume} {
			c := fmt.Sprintf("%s-%d", kind, d.n)
			w.work.Go(func() {
				if pause(w.ctx, time.Duration(i*(1+d.n%20))*time.Second) {
					w.command(d.who, record.Run, id, record.Input{ID: d.who + ":" + c, Kind: kind, Admin: true, Pause: &events.PauseRun{ID: c, Run: id}})
				}
			})
		}
	},
	"repeat": func(w *world, d deed) {
		w.mu.Lock()
		ids := sortedKeys(w.asked)
		var a asked
		if len(ids) > 0 {
			a = w.asked[ids[d.n%len(ids)]]
		}
		w.mu.Unlock()
		if len(ids) > 0 {
			w.command(a.who, a.agg, a.id, a.in)
		}
	},
	"push":   func(w *world, d deed) { w.publish(fmt.Sprint("push-", d.n%5), "com.acme.pushed") },
	"signal": func(w *world, d deed) { w.publish(fmt.Sprint("signal-", d.n), "com.acme.signal") },
}

func begin(workflow string) func(*world, deed) {
	return func(w *world, d deed) { w.begin(d.who, fmt.Sprintf("%s%d", workflow, d.n), workflow) }
}

// decide decides on an approval that is open, as soon as there is one.
// What was misread is something else than what is asked.
func decide(decision string, misread bool) func(*world, deed) {
	return func(w *world, d deed) {
		id, s := w.book.open(d.n)
		if id == "" {
			if time.Since(epoch) < w.plan.lasts {
				w.later(1000, func() { decide(decision, misread)(w, d) })
			}
			return
		}
		c, content := fmt.Sprintf("%s-%d", decision, d.n), s.Open.Content
		if misread {
			c, content = "misread-"+c, record.Hash([]byte(content))
		}
		w.command(d.who, record.Run, id, record.Input{ID: d.who + ":" + c, Kind: record.InDecide,
			Decide: &events.Decide{ID: c, Run: id, State: s.At, Decision: decision, Content: content, NotAfter: time.Now().Add(15 * time.Minute)}})
	}
}

// faults are what befalls the world.
var faults = map[string]func(*world, deed){
	// What befalls single messages. They wait for one that they fit.
	"answer lost":      onPublish("answer lost", false, fakejs.Fate{Mute: true}),
	"message lost":     onPublish("message lost", true, fakejs.Fate{}),
	"in flight":        onPublish("in flight", false, fakejs.Fate{Refuse: fakejs.RefuseInFlight}),
	"no resources":     onPublish("no resources", false, fakejs.Fate{Refuse: fakejs.RefuseResources}),
	"storage exceeded": onPublish("storage exceeded", false, fakejs.Fate{Refuse: fakejs.RefuseStorage}),
	"too many batches": onVerb("too many batches", "batch", false, fakejs.Fate{Refuse: fakejs.RefuseTooMany}),
	"no leader":        onAny("no leader", false, fakejs.Fate{Refuse: fakejs.RefuseNoLeader}),
	"no responders":    onAny("no responders", false, fakejs.Fate{Nobody: true}),
	"request lost":     onAny("request lost", true, fakejs.Fate{}),
	"batch with a gap": onVerb("batch with a gap", "batch", false, fakejs.Fate{Gap: true}),
	"batch torn":       tearing,
	"stale read":       onVerb("stale read", "kv.get", false, fakejs.Fate{Stale: true}),
	"delivery lost": func(w *world, _ deed) {
		w.net.strike(fate{name: "delivery lost", give: fakejs.Fate{Gap: true}, fits: func(e *fakejs.Event) bool {
			return e.Kind == fakejs.Delivery && e.Verb == "deliver" && e.Stream != "KV_"+bucketLive
		}})
	},
	"delivery torn": func(w *world, _ deed) {
		w.net.strike(fate{name: "delivery torn", give: fakejs.Fate{Most: 1}, fits: func(e *fakejs.Event) bool { return e.Verb == "deliver" }})
	},
	"call unanswered": func(w *world, d deed) {
		w.net.strike(fate{name: "call unanswered", give: fakejs.Fate{Mute: true}, fits: func(e *fakejs.Event) bool {
			return e.Kind == fakejs.Request && e.Stream == "bus"
		}})
	},
	// What befalls engines.
	"crash": func(w *world, d deed) {
		if e := w.engine(d.who); e != nil {
			w.net.drop(e.instance, d.n%2 == 0)
			e.kill()
			w.later(d.n, func() { w.startAgain(d.who) })
		}
	},
	"hand over": func(w *world, d deed) {
		if e := w.engine(d.who); e != nil {
			e.leave()
			w.later(10*d.n, func() { w.startAgain(d.who) })
		}
	},
	"zombie": func(w *world, d deed) { // it stands still for longer than its lease, and wakes
		if e := w.engine(d.who); e != nil {
			w.net.hold(e.instance, 8*time.Second+time.Duration(20*d.n)*time.Millisecond)
		}
	},
	"slow": func(w *world, d deed) {
		if e := w.engine(d.who); e != nil {
			w.net.hold(e.instance, time.Duration(4*d.n)*time.Millisecond)
		}
	},
	"disconnect": func(w *world, d deed) {
		if e := w.engine(d.who); e != nil {
			e.disconnect()
			w.net.drop(e.instance, d.n%2 == 0)
			w.later(4*d.n, e.reconnect)
		}
	},
	"clock step": func(w *world, d deed) {
		if e := w.engine(d.who); e != nil {
			e.misset(d.n)
			w.later(40*d.n, func() { e.step.Store(0) })
		}
	},
	// What befalls workers.
	"worker dies": func(w *world, d deed) {
		if len(w.workers) == 0 {
			return
		}
		if wk := w.workers[d.n%len(w.workers)]; !wk.dead {
			wk.die()
			w.later(10*d.n, func() { w.employ(wk.name) })
		}
	},
	// What befalls the server.
	"server restart": func(w *world, d deed) {
		w.server.Restart(d.n % 6)
		for _, e := range w.living() {
			w.net.drop(e.instance, d.n%2 == 0)
		}
		w.later(2*d.n, w.server.Reconnect)
	},
	"power cut": (*world).powerCut,
	// A leader that has lost the others takes what it cannot store; they come
	// back to it, or have another one by then.
	"leader cut off": func(w *world, d deed) {
		name := []string{events.StreamLog, events.StreamLog, events.StreamTasks, events.StreamCkpt, events.StreamAudit}[d.n%5]
		w.server.CutOff(name)
		w.later(12*d.n, func() { w.rejoin(name, d.n%2 == 0) })
	},
	// Two servers think that they lead. The one that is the first to answer does not.
	"refused and stored": func(w *world, d deed) {
		refusal := []*fakejs.Refusal{fakejs.RefuseInFlight, fakejs.RefuseSequence}[d.n/5%2]
		for range 1 + d.n%4 {
			onPublish("refused and stored", false, fakejs.Fate{Refuse: refusal, Yet: true})(w, d)
		}
	},
	"full": func(w *world, d deed) {
		name := []string{events.StreamLog, events.StreamTasks, events.StreamOut, events.StreamCkpt}[d.n%4]
		w.server.Fill(name)
		w.later(8*d.n, func() { w.server.Limit(name, -1) })
	},
	"frozen": func(w *world, d deed) {
		w.server.Freeze([]string{events.StreamLog, events.StreamTasks, events.StreamOut, events.StreamCkpt}[d.n%4])
		w.later(10*d.n, func() {
			w.server.Restart(0)
			w.server.Reconnect()
		})
	},
}

// powerCut takes the end of every stream, as much of each as had not been
// synced, with the connections and perhaps the engines.
func (w *world) powerCut(d deed) {
	rng := rand.New(rand.NewPCG(uint64(d.n), uint64(d.at)))
	before := map[string][]fakejs.Stored{}
	for _, name := range []string{events.StreamLog, events.StreamCkpt, events.StreamTasks, events.StreamOut, events.StreamIngress, events.StreamAudit, "KV_" + bucketMarks, "KV_" + bucketLive} {
		before[name] = w.server.Messages(name, 0)
		n := rng.IntN(4) * rng.IntN(4)
		if name == events.StreamAudit { // nothing is removed elsewhere until the audit log is synced
			n = min(n, len(before[name])-slices.IndexFunc(append(before[name], fakejs.Stored{At: time.Now()}), func(m fakejs.Stored) bool { return time.Since(m.At) < keepRecords/2 }))
		}
		w.server.LoseTail(name, n)
	}
	w.server.Restart(rng.IntN(6))
	w.book.lost(before)
	for _, e := range w.living() {
		w.net.drop(e.instance, true)
		if d.n%2 == 0 {
			e.kill()
			w.later(2*d.n+rng.IntN(1000), func() { w.startAgain(e.name) })
		}
	}
	w.later(2*d.n, w.server.Reconnect)
}

// waits are the faults that wait for a message that they fit.
var waits = map[string]bool{"answer lost": true, "message lost": true, "in flight": true, "no resources": true, "storage exceeded": true,
	"too many batches": true, "no leader": true, "no responders": true, "request lost": true, "batch with a gap": true, "batch torn": true, "stale read": true,
	"delivery lost": true, "delivery torn": true, "call unanswered": true, "refused and stored": true}

var faultNames = sortedKeys(faults)

// rejoin has the leader of a stream find the others again.
func (w *world) rejoin(name string, lost bool) {
	what := "taken by a leader that was cut off, and stored"
	if lost {
		what = "taken by a leader that was cut off, and lost"
	}
	for range w.server.Rejoin(name, lost) {
		w.saw(what)
	}
}

// later does something after so many milliseconds, unless there is peace by then.
func (w *world) later(ms int, f func()) {
	w.due = append(w.due, due{time.Now().Add(time.Duration(ms) * time.Millisecond), f})
}

// due is what is to be done at a time.
type due struct {
	at time.Time
	do func()
}

// overdue does what is due.
func (w *world) overdue() {
	for i := 0; i < len(w.due); i++ {
		if d := w.due[i]; !d.at.After(time.Now()) {
			w.due = slices.Delete(w.due, i, i+1)
			i = -1
			d.do()
		}
	}
}

func (w *world) startAgain(name string) {
	if w.engine(name) == nil {
		w.start(name)
	}
}

func writes(verb string) bool {
	return verb == "publish" || verb == "batch" || verb == "kv.put" || verb == "kv.update"
}

func onPublish(name string, lost bool, f fakejs.Fate) func(*world, deed) {
	return func(w *world, d deed) {
		stream := []string{events.StreamLog, events.StreamLog, events.StreamTasks, events.StreamCkpt, ""}[d.n%5]
		w.net.strike(fate{name: name, lost: lost, give: f, fits: func(e *fakejs.Event) bool {
			return e.Kind == fakejs.Request && writes(e.Verb) && (stream == "" || e.Stream == stream)
		}})
	}
}

// tearing has the server die in the midst of storing a batch: a part of it
// stays, and nobody is answered.
func tearing(w *world, d deed) {
	stream := []string{events.StreamLog, events.StreamLog, events.StreamTasks, events.StreamCkpt, events.StreamAudit, ""}[d.n%6]
	w.net.strike(fate{name: "batch torn", give: fakejs.Fate{Mute: true}, fits: func(e *fakejs.Event) bool {
		return e.Kind == fakejs.Request && e.Verb == "batch" && (stream == "" || e.Stream == stream)
	}, then: func(e *fakejs.Event, before uint64) {
		if n := int(w.server.Last(e.Stream) - before); n > 1 {
			w.server.LoseTail(e.Stream, 1+d.n%(n-1))
			w.saw("a torn batch of " + e.Stream)
		}
		w.server.Restart(d.n % 6)
		w.later(2*d.n, w.server.Reconnect)
	}})
}

func onVerb(name, verb string, lost bool, f fakejs.Fate) func(*world, deed) {
	return func(w *world, _ deed) {
		w.net.strike(fate{name: name, lost: lost, give: f, fits: func(e *fakejs.Event) bool { return e.Kind == fakejs.Request && e.Verb == verb }})
	}
}

func onAny(name string, lost bool, f fakejs.Fate) func(*world, deed) {
	return func(w *world, _ deed) {
		w.net.strike(fate{name: name, lost: lost, give: f, fits: func(e *fakejs.Event) bool { return e.Kind == fakejs.Request }})
	}
}
