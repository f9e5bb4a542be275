package sim

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/internal/fakejs"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
)

// healthy is a plan without faults in which everything happens that checks look at.
func healthy() plan {
	p := draw(1)
	p.engines, p.workers, p.lasts, p.sync = 2, 2, 40*time.Second, journal.SyncAlways
	p.deeds = []deed{{0, "start job", "ana", 1}, {0, "start release", "ana", 2}, {5, "start tenant", "marta", 3}, {9, "push", "li", 4},
		{9000, "approve", "marta", 0}, {15000, "approve", "marta", 1}, {16000, "start job", "ana", 5}, {20000, "cancel", "ana", 7}, {22000, "approve", "li", 0}}
	return p
}

// history is what a healthy simulation leaves behind.
type history struct {
	messages []fakejs.Stored
	audited  map[uint64]string
	target   *target
	cats     *catalogs
}

func lived(t *testing.T) history {
	t.Helper()
	h := history{cats: theCatalogs(t)}
	o := simulateAnd(t, healthy(), h.cats, func(w *world) {
		h.cats = w.cats
		h.messages, h.audited, h.target = w.book.all, w.book.tale.audited, w.target
	})
	if o.err != nil {
		t.Fatal(o.err)
	}
	return h
}

// entries reads the messages anew.
func (h history) entries(t *testing.T) []*entry {
	t.Helper()
	var list []*entry
	for _, m := range h.messages {
		e, err := read(m)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e)
	}
	return list
}

// found gives the index of the first entry that fits.
func found(t *testing.T, list []*entry, fits func(*entry) bool) int {
	t.Helper()
	i := slices.IndexFunc(list, fits)
	if i < 0 {
		t.Fatal("the healthy history has nothing of that kind")
	}
	return i
}

func cause(kind string) func(*entry) bool {
	return func(e *entry) bool {
		return e.rec != nil && e.rec.In.Kind == kind && e.rec.Answer.Status == events.StatusApplied
	}
}

// previous gives the entry of the same aggregate before that at i.
func previous(list []*entry, i int) *entry {
	for j := i - 1; j >= 0; j-- {
		if list[j].rec != nil && list[j].rec.Aggregate == list[i].rec.Aggregate && list[j].rec.ID == list[i].rec.ID {
			return list[j]
		}
	}
	return nil
}

// Every check notices what it is for: a healthy history passes, and the same
// history with one thing changed does not.
func TestEveryCheckCanFail(t *testing.T) {
	h := lived(t)
	clone := func(e *entry) *entry {
		c := *e
		r := *e.rec
		c.rec = &r
		return &c
	}
	for id, change := range map[string]func(*tale, []*entry) []*entry{
		"I1": func(tl *tale, list []*entry) []*entry {
			tl.acks = append(tl.acks, acknowledged{record.Run, "job1", record.Input{Kind: record.InStart}, events.Answer{Status: events.StatusApplied, Record: 999}})
			return list
		},
		"I2": func(_ *tale, list []*entry) []*entry {
			i := found(t, list, cause(record.InStart))
			return slices.Delete(list, i, i+1)
		},
		"I3": func(_ *tale, list []*entry) []*entry {
			i := found(t, list, cause(record.InAttemptFinish))
			list[i].data = []byte(strings.Replace(string(list[i].data), `"outcome":"succeeded"`, `"outcome":"failed"`, 1))
			return list
		},
		"I4": func(tl *tale, list []*entry) []*entry {
			tl.target = &target{}
			return list
		},
		"I5": func(_ *tale, list []*entry) []*entry {
			i := found(t, list, cause(record.InAttemptStart))
			other := clone(list[i])
			other.rec.In.Attempt = &record.Attempt{Task: list[i].rec.In.Attempt.Task, Worker: "somebody else"}
			return slices.Insert(list, i+1, other)
		},
		"I6": func(_ *tale, list []*entry) []*entry {
			i := found(t, list, func(e *entry) bool {
				s, ok := e.state.(*env.Environment)
				return ok && s.Holder != nil
			})
			other := clone(list[i])
			other.state = &env.Environment{Line: env.Line{Holder: &env.Holder{Run: "another", Grant: list[i].state.(*env.Environment).Holder.Grant}}}
			return slices.Insert(list, i+1, other)
		},
		"I7": func(tl *tale, list []*entry) []*entry {
			tl.acks = append(tl.acks, acknowledged{record.Run, "job1", record.Input{ID: "lost", Kind: record.InDecide, By: "ana"}, events.Answer{Status: events.StatusApplied}})
			return list
		},
		"I9": func(_ *tale, list []*entry) []*entry {
			list[found(t, list, cause(record.InDecide))].rec.In.By = "mallory"
			return list
		},
		"I11": func(_ *tale, list []*entry) []*entry {
			i := found(t, list, cause(record.InDecide))
			previous(list, i).state.(*run.State).Open.Expires = list[i].rec.T
			return list
		},
		"I12": func(_ *tale, list []*entry) []*entry {
			i := found(t, list, func(e *entry) bool { return cause(record.InTimer)(e) && e.rec.Aggregate == record.Run })
			list[i].rec.T = 1
			return list
		},
		"I12 by a wrong clock": func(_ *tale, list []*entry) []*entry {
			list[found(t, list, cause(record.InTimer))].at = epoch.Add(-time.Hour)
			return list
		},
		"I12 twice": func(_ *tale, list []*entry) []*entry {
			i := found(t, list, cause(record.InTimer))
			return slices.Insert(list, i, list[i])
		},
		"I9 about something else": func(_ *tale, list []*entry) []*entry {
			e := list[found(t, list, cause(record.InDecide))]
			e.rec.In.Decide = new(*e.rec.In.Decide)
			e.rec.In.Decide.Content = "another"
			return list
		},
		"I19": func(tl *tale, list []*entry) []*entry {
			tl.stopped = map[int]error{7: errors.New("for nothing")}
			return list
		},
		"I19 of what goes on": func(tl *tale, list []*entry) []*entry {
			tl.hurt[7], tl.owed[7] = true, "its checkpoint knows more"
			return list
		},
		"I13": func(_ *tale, list []*entry) []*entry {
			i := found(t, list, cause(record.InAttemptStart))
			previous(list, i).state.(*run.State).Cancel = &run.Cancelled{By: "ana"}
			return list
		},
		"I14": func(_ *tale, list []*entry) []*entry {
			list[found(t, list, cause(record.InAttemptFinish))].rec.Engine = "a zombie"
			return list
		},
		"I15": func(tl *tale, list []*entry) []*entry {
			delete(tl.audited, list[len(list)-1].seq)
			return list
		},
		"I16": func(tl *tale, list []*entry) []*entry {
			delete(tl.audited, list[found(t, list, cause(record.InStart))].seq)
			return list
		},
		"I16 of what goes on": func(_ *tale, list []*entry) []*entry {
			return list[:found(t, list, cause(record.InAttemptStart))+1]
		},
		"I18": func(_ *tale, list []*entry) []*entry { return list[:found(t, list, cause(record.InAttemptStart))+1] },
		"I21": func(_ *tale, list []*entry) []*entry {
			list[found(t, list, cause(record.InAttemptFinish))].state.(*run.State).Catalog = "sha256:others"
			return list
		},
	} {
		t.Run(id, func(t *testing.T) {
			i := slices.IndexFunc(checks, func(c check) bool { return c.id == strings.Fields(id)[0] })
			if err := h.replay(t, checks[i], nil); err != nil {
				t.Fatalf("the healthy history does not pass: %v", err)
			}
			if err := h.replay(t, checks[i], change); err == nil {
				t.Error("it notices nothing")
			}
		})
	}
	if len(checks) != 17 {
		t.Errorf("there are %d checks: each needs a case here", len(checks))
	}
}

// replay looks at the history with one check.
func (h history) replay(t *testing.T, c check, change func(*tale, []*entry) []*entry) error {
	tl := newTale(h.target, h.cats)
	tl.audit, tl.audited = &auditedAs{}, maps.Clone(h.audited)
	list := h.entries(t)
	if change != nil {
		list = change(tl, list)
	}
	for _, e := range list {
		if c.see != nil {
			if err := c.see(tl, e); err != nil {
				return err
			}
		}
		tl.keep(e)
	}
	if c.told != nil {
		for _, a := range tl.acks {
			if err := c.told(tl, a); err != nil {
				return err
			}
		}
	}
	if c.gone != nil {
		return c.gone(tl, list[found(t, list, cause(record.InStart))])
	}
	if c.end != nil {
		return c.end(tl)
	}
	return nil
}

// wrong runs seeds until one is reported, with what it is reported as.
func wrong(t *testing.T, seeds int, change func(*plan), ids ...string) {
	t.Helper()
	cats := theCatalogs(t)
	var others []string
	for seed := range seeds {
		p := draw(uint64(seed + 1))
		p.patience = 2 * time.Minute
		change(&p)
		o := simulate(t, p, cats)
		if o.err == nil {
			continue
		}
		for _, id := range ids {
			if strings.HasPrefix(o.err.Error(), id+",") {
				return
			}
		}
		others = append(others, o.err.Error())
	}
	t.Errorf("nobody reports any of %v in %d seeds; what was reported: %v", ids, seeds, others)
}

// Without the fence on the server, a zombie writes, and that is reported.
func TestAMissingFenceIsReported(t *testing.T) {
	wrong(t, 20, func(p *plan) {
		p.broken.Expectations, p.engines = true, 3
		for i := range p.deeds {
			if p.deeds[i].fault() {
				p.deeds[i] = deed{p.deeds[i].at, "zombie", engineNames[i%3], 100 + 50*i}
			}
		}
		for i := range 8 {
			p.deeds = append(p.deeds, deed{5000 + 9000*i, "zombie", engineNames[i%3], 300})
		}
		slices.SortStableFunc(p.deeds, func(a, b deed) int { return a.at - b.at })
	}, "I14", "I2")
}

// Without faults, nothing is left in the end of what is over but what says where
// LOG ends.
func TestWhatIsOverIsRemovedInTheEnd(t *testing.T) {
	p := healthy()
	p.ages = true
	if o := simulate(t, p, theCatalogs(t)); o.err != nil || o.seen["records removed"] == 0 {
		t.Errorf("%v; seen: %v", o.err, o.seen)
	}
}

// A janitor that does not wait for the audit log is reported.
func TestAHastyJanitorIsReported(t *testing.T) {
	wrong(t, 5, func(p *plan) { p.hasty = true }, "I16")
}

// forgetful has no checkpoints, and no word of what is newest.
type forgetful struct{ journal.Journal }

func (forgetful) LoadCheckpoints(context.Context) (map[int][]byte, error) { return nil, nil }
func (forgetful) Interruptions() uint64                                   { return 0 }

// trusting takes a server's word that it has stored nothing.
type trusting struct{ journal.Journal }

func (b trusting) Append(vp int, subject string, data []byte, done func(uint64, error)) {
	b.Journal.Append(vp, subject, data, func(seq uint64, err error) {
		if err != nil && strings.Contains(err.Error(), "the server refuses") {
			err = journal.ErrUnavailable
		}
		done(seq, err)
	})
}

// That a refusal is believed, while another server leads by now and stores what
// was refused, is reported.
func TestARefusalThatIsBelievedIsReported(t *testing.T) {
	wrong(t, 20, func(p *plan) {
		p.replicas = 3
		p.journal = func(j journal.Journal) journal.Journal { return trusting{j} }
		for i := range p.deeds {
			if p.deeds[i].fault() {
				p.deeds[i].what = "refused and stored"
			}
		}
	}, "I2")
}

// That nobody looks whether the end of the record was lost is reported.
func TestALossThatNobodySeesIsReported(t *testing.T) {
	wrong(t, 10, func(p *plan) {
		p.sync, p.unwatched = journal.SyncLazy, true
		p.journal = func(j journal.Journal) journal.Journal { return forgetful{j} }
		for i := range p.deeds {
			if p.deeds[i].fault() {
				p.deeds[i].what = "power cut"
			}
		}
	}, "I19")
}

// losing is a publisher that says of every third message that it is stored,
// and stores it not.
type losing struct {
	journal.Publisher
	n atomic.Int64
}

func (l *losing) Publish(msgs ...journal.Message) {
	for _, m := range msgs {
		if l.n.Add(1)%3 != 0 {
			l.Publisher.Publish(m)
			continue
		}
		go m.Done(1, nil)
	}
}

func (l *losing) Close(ctx context.Context) error { return l.Publisher.Close(ctx) }

// A relay that loses tasks leaves runs that nobody brings to an end, and that
// is reported.
func TestALostTaskIsReported(t *testing.T) {
	wrong(t, 5, func(p *plan) {
		p.patience = 10 * time.Minute
		p.publisher = func(j journal.Publisher) journal.Publisher { return &losing{Publisher: j} }
	}, "I18")
}
