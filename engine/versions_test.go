package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/lease"
	"github.com/penstock-cd/penstock/engine/internal/service"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// nextForm is the log as an engine has it that writes records of the form after
// ours, and reads both.
type nextForm struct{ journal.Journal }

func formText(form int) []byte { return fmt.Appendf(nil, `{"f":%d,"agg":`, form) }

func replaceForm(data []byte, from, to int) []byte {
	if rest, ok := bytes.CutPrefix(data, formText(from)); ok {
		return slices.Concat(formText(to), rest)
	}
	return data
}

func ours(e journal.Entry) journal.Entry {
	e.Data = replaceForm(e.Data, record.FormatVersion+1, record.FormatVersion)
	return e
}

func (n nextForm) Append(vp int, subject string, data []byte, done func(uint64, error)) {
	n.Journal.Append(vp, subject, replaceForm(data, record.FormatVersion, record.FormatVersion+1), done)
}

func (n nextForm) Last(ctx context.Context, subject string) (journal.Entry, error) {
	e, err := n.Journal.Last(ctx, subject)
	return ours(e), err
}

func (n nextForm) At(ctx context.Context, seq uint64) (journal.Entry, error) {
	e, err := n.Journal.At(ctx, seq)
	return ours(e), err
}

func (n nextForm) History(ctx context.Context, subject string) ([]journal.Entry, error) {
	all, err := n.Journal.History(ctx, subject)
	for i := range all {
		all[i] = ours(all[i])
	}
	return all, err
}

func (n nextForm) LastPerSubject(ctx context.Context, filters []string, fn func(journal.Entry) error) error {
	return n.Journal.LastPerSubject(ctx, filters, func(e journal.Entry) error { return fn(ours(e)) })
}

func (n nextForm) From(ctx context.Context, seq uint64, fn func(journal.Entry) error) error {
	return n.Journal.From(ctx, seq, func(e journal.Entry) error { return fn(ours(e)) })
}

func (n nextForm) Select(ctx context.Context, filter string, seq uint64, fn func(journal.Entry) error) error {
	return n.Journal.Select(ctx, filter, seq, func(e journal.Entry) error { return fn(ours(e)) })
}

func (n nextForm) Tail(ctx context.Context, seq uint64, fn func(journal.Entry) error) error {
	return n.Journal.Tail(ctx, seq, func(e journal.Entry) error { return fn(ours(e)) })
}

// nameWithout gives an engine a name by which it does not look after the audit
// log beside others: what it writes there of records that it cannot read is
// what is stored, which our stand-in for the next version cannot compare.
func nameWithout(singleton string, others ...string) string {
	for i := 0; ; i++ {
		name := fmt.Sprint("old", i)
		alone := func(other string) bool {
			members := []lease.Member{{Instance: name, Offers: []string{singleton}}, {Instance: other, Offers: []string{singleton}}}
			return lease.Desired(other, members).Has(singleton)
		}
		if !slices.ContainsFunc(others, func(o string) bool { return !alone(o) }) {
			return name
		}
	}
}

// soon waits until something is so.
func soon(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// told reads what Penstock has reported to subscribers.
func (m *member) told(t *testing.T) []string {
	t.Helper()
	stream, err := m.js.notify.Stream(t.Context(), events.StreamOut)
	if err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for seq := info.State.FirstSeq; seq > 0 && seq <= info.State.LastSeq; seq++ {
		if msg, err := stream.GetMsg(t.Context(), seq); err == nil { // a later one may have replaced it
			all = append(all, string(msg.Data))
		}
	}
	return all
}

// TestAnOlderEngineStopsAtRecordsOfANewerOneAndPassesNoneOver has an engine of
// the version before take over what two of the next one have written, while
// one of these lives on, and then gives all of it back.
func TestAnOlderEngineStopsAtRecordsOfANewerOneAndPassesNoneOver(t *testing.T) {
	external := natsApart(t)
	next := func(e *Engine) { e.logged = func(j journal.Journal) journal.Journal { return nextForm{j} } }
	b, c := join(t, external, "new1", next), join(t, external, "new2", next)
	a := join(t, external, nameWithout(auditing, "new1", "new2"))
	until(t, a, b, c)
	a.asks(t, events.VerbApply, events.Apply{ID: "1", Files: []events.SourceFile{{Name: "d.yaml", Content: asking}}}, nil)
	of := map[*member]map[string]int{a: {}, b: {}, c: {}} // runs, and their partitions, by who began them
	runs := 0
	for n := 0; runs < 30 || len(of[a]) == 0 || len(of[b]) == 0 || len(of[c]) == 0; n++ {
		var r events.RunView
		[]*member{a, b, c}[n%3].asks(t, events.VerbStart, events.StartRun{ID: fmt.Sprint("s", n), Workflow: "asking"}, &r)
		vp := events.Partition(record.Run, r.ID)
		for _, m := range []*member{a, b, c} {
			if m.owner.Owns(vp) {
				of[m][r.ID] = vp
			}
		}
		runs++
	}

	b.stop()
	if err := <-b.ended; err != nil {
		t.Error(err)
	}
	until(t, a, c)
	stopped := a.owner.Stopped()
	strange := map[string]bool{} // runs that the older one cannot read
	for id, vp := range of[b] {
		if !a.owner.Owns(vp) {
			continue
		}
		strange[id] = true
		if why := stopped[vp]; why == nil || !strings.Contains(why.Error(), "run the newer version") {
			t.Errorf("partition %d, which the next version has written to: %v", vp, why)
		}
	}
	if len(strange) == 0 {
		t.Fatalf("none of the %d runs of the engine that left has come to the older one", len(of[b]))
	}
	if len(c.owner.Stopped()) > 0 {
		t.Errorf("the engine of the next version has stopped %v", c.owner.Stopped())
	}
	soon(t, "subscribers are told of a stopped partition", func() bool {
		return slices.ContainsFunc(a.told(t), func(e string) bool {
			return strings.Contains(e, events.PartitionStopped) && strings.Contains(e, "run the newer version")
		})
	})
	soon(t, "the other engine says what is stopped", func() bool {
		return slices.ContainsFunc(c.describe(t.Context()).Engines, func(e events.EngineInfo) bool {
			return e.Instance == a.o.Instance && len(e.Stopped) == len(stopped)
		})
	})
	cancel := func(m *member, id string) events.Answer {
		body, err := json.Marshal(events.CancelRun{ID: "c" + id, Run: id})
		if err != nil {
			t.Fatal(err)
		}
		return m.svc.Handle(t.Context(), service.Principal{Kind: "admin", Name: "admin", Via: "bus"}, events.VerbCancel, body)
	}
	for _, m := range []*member{a, c} {
		for id := range of[m] { // others go on
			if stopped[events.Partition(record.Run, id)] == nil {
				m.asks(t, events.VerbCancel, events.CancelRun{ID: "c" + id, Run: id}, nil)
			}
		}
	}
	for id := range strange {
		for _, m := range []*member{a, c} {
			if answer := cancel(m, id); answer.Code != events.CodeStopped || !strings.Contains(answer.Reason, "run the newer version") {
				t.Errorf("asked of a run that cannot be read, %s answers %+v", m.o.Instance, answer)
			}
		}
	}

	a.stop()
	if err := <-a.ended; err != nil {
		t.Error(err)
	}
	until(t, c)
	if len(c.owner.Stopped()) > 0 {
		t.Errorf("with the next version everything goes on, but %v", c.owner.Stopped())
	}
	for _, m := range []*member{a, b, c} {
		for id := range of[m] {
			c.asks(t, events.VerbCancel, events.CancelRun{ID: "c" + id, Run: id}, nil)
			c.ends(t, id, events.Cancelled)
		}
	}
}

// ends waits until a run is done, and looks at its records.
func (m *member) ends(t *testing.T, id, outcome string) {
	t.Helper()
	var r events.RunView
	soon(t, "run "+id+" is done", func() bool {
		m.asks(t, events.VerbGet, events.GetRun{Run: id}, &r)
		return r.Status == "done"
	})
	if r.Outcome != outcome {
		t.Errorf("run %s ended %s, want %s", id, r.Outcome, outcome)
	}
	all, err := m.log.History(t.Context(), events.LogSubject(record.Run, id))
	if err != nil || len(all) == 0 {
		t.Errorf("run %s has %d records: %v", id, len(all), err)
	}
	prev := ""
	for i, e := range all {
		h, err := record.DecodeHead(e.Data)
		if err != nil || h.V != int64(i+1) || h.Prev != prev {
			t.Errorf("run %s, record %d: version %d behind %q, want behind %q; %v", id, i+1, h.V, h.Prev, prev, err)
		}
		prev = record.Hash(e.Data)
	}
}

// TestDefinitionsThatSeveralEnginesTakeAtOnceAreAllInForceInAll has three
// engines take other files at the same time, one after the other of each.
func TestDefinitionsThatSeveralEnginesTakeAtOnceAreAllInForceInAll(t *testing.T) {
	external := natsApart(t)
	members := []*member{join(t, external, "a"), join(t, external, "b"), join(t, external, "c")}
	until(t, members...)
	const each = 6
	file := func(m *member, n int) events.SourceFile {
		name := fmt.Sprintf("asking-%s-%d", m.o.Instance, n)
		return events.SourceFile{Name: name + ".yaml", Content: strings.Replace(asking, "name: asking", "name: "+name, 1)}
	}
	type said struct {
		by     *member
		n      int
		answer events.Answer
	}
	answers := make(chan said)
	for _, m := range members {
		go func() {
			for n := range each {
				body, err := json.Marshal(events.Apply{ID: fmt.Sprint(m.o.Instance, n), Files: []events.SourceFile{file(m, n), {Name: "shared.yaml", Content: strings.Replace(asking, "expires: 1h", fmt.Sprintf("expires: %dh", 1+n), 1)}}})
				if err != nil {
					t.Error(err)
				}
				answers <- said{m, n, m.svc.Handle(t.Context(), service.Principal{Kind: "admin", Name: "admin", Via: "bus"}, events.VerbApply, body)}
			}
		}()
	}
	var taken []string
	for range each * len(members) {
		switch s := <-answers; {
		case s.answer.Status == events.StatusApplied:
			taken = append(taken, strings.TrimSuffix(file(s.by, s.n).Name, ".yaml"))
		case s.answer.Reason == "":
			t.Errorf("%s was answered %+v", file(s.by, s.n).Name, s.answer)
		default:
			t.Logf("%s was not taken, for %s", file(s.by, s.n).Name, s.answer.Reason)
		}
	}
	if len(taken) < each {
		t.Errorf("only %d of %d were taken", len(taken), each*len(members))
	}
	for _, m := range members {
		soon(t, "the same definitions are in force in "+m.o.Instance, func() bool { return m.defs.Current().Digest == members[0].defs.Current().Digest })
		for _, name := range taken {
			if m.defs.Current().Workflows[name] == nil {
				t.Errorf("%s answered applied and is not in force in %s", name, m.o.Instance)
			}
		}
	}
}
