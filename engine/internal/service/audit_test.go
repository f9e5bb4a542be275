package service_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

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

func await(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come about")
		}
	}
}
