package service_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock-cd/penstock/engine/internal/broker"
	"github.com/penstock-cd/penstock/events"
)

// Everything that happens stands in the audit log, and verifies.
func TestTheAuditLogHoldsEverythingAndVerifies(t *testing.T) {
	s := newStand(t)
	marta := s.add("user", "marta", "")
	martas := s.connect(marta)
	for i := range 5 {
		event := json.RawMessage(fmt.Sprintf(`{"specversion":"1.0","id":"%d","source":"git","type":"org.example.go","data":{"commit":"c%d"}}`, i, i))
		if a := s.ask(martas, events.UserSubject("marta", events.VerbPublish), event); a.Status != events.StatusApplied {
			t.Fatalf("%+v", a)
		}
	}
	var runs events.RunList
	await(t, func() bool {
		s.asAdmin(events.VerbList, events.ListRuns{Status: "waiting"}, &runs)
		return len(runs.Runs) == 5
	})
	for i, r := range runs.Runs {
		if i < 2 {
			s.asAdmin(events.VerbCancel, events.CancelRun{ID: fmt.Sprint("c", i), Run: r.ID}, nil)
		}
	}
	// marta may not do this, and it is written down that she tried
	if a := s.ask(martas, events.UserSubject("marta", events.VerbAuthAdd), events.AddPrincipal{Kind: "admin", Name: "marta"}); a.Code != events.CodeDenied {
		t.Fatalf("%+v", a)
	}

	var sum events.AuditReport
	verify := func(q events.VerifyAudit) {
		t.Helper()
		var r events.AuditReport
		s.asAdmin(events.VerbAuditVerify, q, &r)
		if !r.OK || len(r.Known) > 0 {
			t.Errorf("%v %v", r.Problems, r.Known)
		}
		sum.Records += r.Records
		sum.Aggregates += r.Aggregates
	}
	for vp := range events.Partitions {
		verify(events.VerifyAudit{Partition: &vp})
	}
	// five events, five runs, each with a start and two of them with an end
	if sum.Aggregates < 10 || sum.Records < 12 {
		t.Errorf("%d records of %d aggregates were verified", sum.Records, sum.Aggregates)
	}
	await(t, func() bool {
		var r events.AuditReport
		s.asAdmin(events.VerbAuditVerify, events.VerifyAudit{}, &r)
		return r.OK && r.Records >= sum.Records+events.Partitions // with the owner records
	})

	var entries []string
	await(t, func() bool {
		var page events.AuditPage
		s.asAdmin(events.VerbAuditLog, events.ReadAudit{}, &page)
		entries = nil
		for _, e := range page.Entries {
			entries = append(entries, strings.Join([]string{e.Verb, e.By, e.Status, e.Code}, " "))
		}
		return slices.Contains(entries, "auth.add marta error denied") && slices.Contains(entries, "auth.add admin applied ") &&
			slices.Contains(entries, "definition.apply admin applied ")
	})
	if a := s.ask(martas, events.UserSubject("marta", events.VerbAuditVerify), events.VerifyAudit{}); a.Status != events.StatusApplied {
		t.Errorf("marta may read runs, and is answered %+v", a)
	}
}

// A partition whose checkpoint knows more than there is stands still until an
// administrator lets it go on, which is in the audit log.
func TestAnAdministratorLetsAStoppedPartitionGoOn(t *testing.T) {
	dir := t.TempDir()
	s := standIn(t, dir)
	s.asAdmin(events.VerbApply, events.Apply{ID: "1", Files: []events.SourceFile{{Name: "d.yaml", Content: definitions}}}, nil)
	var r events.RunView
	s.asAdmin(events.VerbStart, events.StartRun{ID: "1", Workflow: "pooled"}, &r)
	s.end()
	vp := events.Partition("run", r.ID)

	b, err := broker.Start(t.Context(), broker.Options{Dir: dir, Listen: broker.ListenNot, Sync: broker.SyncAlways})
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(b.Engine)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), events.CkptSubject(vp), []byte(`{"seq":1000000,"last":1000000}`)); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}

	s = standIn(t, dir)
	var list events.Epochs
	s.asAdmin(events.VerbNewEpoch, events.NewEpoch{}, &list)
	if len(list.Epochs) != 1 || list.Epochs[0].Partition != vp || list.Epochs[0].Resumed || list.Epochs[0].Checkpoint != 1_000_000 {
		t.Fatalf("stopped: %+v, want partition %d", list.Epochs, vp)
	}
	cancel := func() events.Answer {
		return s.ask(s.admin, events.AdminSubject("admin", events.VerbCancel), events.CancelRun{ID: "c", Run: r.ID})
	}
	if a := cancel(); a.Code != events.CodeStopped {
		t.Errorf("a command to a stopped partition: %+v", a)
	}
	s.asAdmin(events.VerbNewEpoch, events.NewEpoch{Partition: &vp, Reason: "the disk was replaced", Confirm: true}, &list)
	if len(list.Epochs) != 1 || !list.Epochs[0].Resumed {
		t.Fatalf("%+v", list.Epochs)
	}
	if a := cancel(); a.Status != events.StatusApplied {
		t.Errorf("a command after the epoch: %+v", a)
	}
	var page events.AuditPage
	s.asAdmin(events.VerbAuditLog, events.ReadAudit{}, &page)
	if !slices.ContainsFunc(page.Entries, func(e events.AuditEntry) bool {
		return e.Kind == "epoch" && e.By == "admin" && e.Reason == "the disk was replaced" && e.Partition != nil && *e.Partition == vp
	}) {
		t.Errorf("the audit log does not tell of it: %+v", page.Entries)
	}
}

func await(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come about")
		}
	}
}
