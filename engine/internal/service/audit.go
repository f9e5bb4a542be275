package service

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/audit"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// history gives the records of a run: from the store, and where they are not
// kept there any more, from the audit log.
func (s *Service) history(ctx context.Context, id string) ([]journal.Entry, error) {
	line, _ := s.o.Index.Run(id)
	return audit.History(ctx, s.o.Journal, s.o.Audit, record.Run, id, line.StartedAt)
}

func (s *Service) records(ctx context.Context, who Principal, body []byte) (any, error) {
	id, err := s.named(ctx, who, body)
	if err != nil {
		return nil, err
	}
	var req events.GetRun
	if err := s.read(body, &req); err != nil {
		return nil, err
	}
	list, err := s.history(ctx, id)
	if err != nil {
		return nil, err
	}
	return recordsPage(list, req.After, int(min(2<<20, s.o.Broker.Engine.MaxPayload()/2))), nil
}

// recordsPage gives the records behind a sequence that together have no more
// than so many bytes, but one at least.
func recordsPage(list []journal.Entry, after uint64, most int) events.Records {
	out := events.Records{Records: []events.StoredRecord{}}
	size := 0
	for _, e := range list {
		if e.Seq <= after {
			continue
		}
		if size += len(e.Data); size > most && len(out.Records) > 0 {
			out.Next = out.Records[len(out.Records)-1].Seq
			break
		}
		out.Records = append(out.Records, events.StoredRecord{Seq: e.Seq, Hash: record.Hash(e.Data), Record: e.Data})
	}
	return out
}

func (s *Service) verify(ctx context.Context, who Principal, body []byte) (any, error) {
	id, err := s.named(ctx, who, body)
	if err != nil {
		return nil, err
	}
	list, err := s.history(ctx, id)
	if err != nil {
		return nil, err
	}
	stored := make([][]byte, len(list))
	for i, e := range list {
		stored[i] = e.Data
	}
	v := run.Verify(id, stored, s.Definitions)
	if line, ok := s.o.Index.Run(id); ok && line.Records > int64(len(list)) {
		v.OK = false
		v.Problems = append(v.Problems, fmt.Sprintf("the run has had %d records, the store and the audit log have %d: the last ones were lost", line.Records, len(list)))
	}
	return v, nil
}

// longestVerification is how long a partition may take.
const longestVerification = 30 * time.Minute

// verifyAudit verifies a partition, or the audit log by itself. One at a time:
// it takes memory for what it has read.
func (s *Service) verifyAudit(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.VerifyAudit
	if err := s.read(body, &req); err != nil {
		return nil, err
	}
	if err := s.may(who, workflows.ActRunRead); err != nil {
		return nil, err
	}
	if !s.verifying.TryLock() {
		return answered{events.Answer{Status: events.StatusBusy, RetryAfter: 2000, Reason: "another verification is under way; try again when it is over"}}, nil
	}
	defer s.verifying.Unlock()
	if req.Partition == nil {
		r, err := audit.VerifyLog(ctx, s.o.Audit)
		return report(r), err
	}
	v := &audit.Verifier{Log: s.o.Journal, Store: s.o.Audit, Definitions: s.o.Definitions}
	r, err := v.Partition(ctx, *req.Partition, time.Time{})
	return report(r), err
}

func report(r *audit.Report) events.AuditReport {
	return events.AuditReport{Messages: r.Messages, Records: r.Records, Aggregates: r.Aggregates, Decisions: r.Decisions,
		OK: len(r.Problems) == 0, Problems: r.Problems, Known: r.Known}
}

// mostMessages is how many messages of the audit log one answer tells of.
const mostMessages = 100

// auditLog tells what stands in the audit log beside the records.
func (s *Service) auditLog(ctx context.Context, who Principal, body []byte) (any, error) {
	var req events.ReadAudit
	if err := s.read(body, &req); err != nil {
		return nil, err
	}
	if err := s.may(who, workflows.ActRunRead); err != nil {
		return nil, err
	}
	page, messages, size := events.AuditPage{Entries: []events.AuditEntry{}}, 0, 0
	err := audit.Diary(ctx, s.o.Audit, req.After+1, func(m *audit.Message) error {
		if messages++; messages > 1 && (messages > mostMessages || size+len(m.Data) > pageBytes) {
			page.Next = req.After
			return audit.ErrEnough
		}
		size += len(m.Data)
		req.After = m.Seq()
		page.Entries = append(page.Entries, entriesOf(m)...)
		return nil
	})
	return page, err
}

// entriesOf is a message of the audit log for people.
func entriesOf(m *audit.Message) (list []events.AuditEntry) {
	at := func(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
	for _, n := range m.Notes {
		list = append(list, events.AuditEntry{Seq: m.Seq(), Time: at(n.At), Kind: m.Kind, By: n.By, Principal: n.Kind, Via: n.Via, Verb: n.Verb,
			What: n.What, Status: n.Status, Code: n.Code, Reason: n.Reason, Count: n.Count})
	}
	if e := m.Epoch; e != nil {
		entry := events.AuditEntry{Seq: m.Seq(), Time: at(e.Time), Kind: m.Kind, By: e.By, What: e.Stopped, Reason: e.Reason, Partition: &e.Partition, Lost: lines(e.Lost, e.More)}
		list = append(list, entry)
	}
	if l := m.Loss; l != nil {
		list = append(list, events.AuditEntry{Seq: m.Seq(), Time: at(m.At), Kind: m.Kind,
			What: fmt.Sprintf("the store had lost its records from sequence %d to %d, of the partitions %v", l.From, l.To, l.Partitions)})
	}
	return list
}

// lines tells of which aggregates records were lost.
func lines(lost []audit.Affected, more int) (list []string) {
	for _, a := range lost {
		list = append(list, fmt.Sprintf("%s %s: had %d records, has %d", a.Aggregate, a.ID, a.Had, a.Has))
	}
	if more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	return list
}

// noted are the verbs of which the audit log has every answer but refusals
// that nobody could expect to be more: they change something that has no
// record. What changes a run or an environment is in its record.
var noted = []string{events.VerbAuthAdd, events.VerbAuthRevoke, events.VerbClockAccept}

// onlyRead are the verbs that change nothing.
var onlyRead = []string{events.VerbList, events.VerbGet, events.VerbWhy, events.VerbEval, events.VerbRecords, events.VerbVerify, events.VerbAuditVerify, events.VerbAuditLog,
	events.VerbOutput, events.VerbArtifact, events.VerbEvents, events.VerbDefinitions, events.VerbTexts, events.VerbServer,
	events.VerbEnvironments, events.VerbAuthList, events.VerbAttemptHeartbeat, events.VerbWorkerHello}

// note writes down an answer that stands in no record: that a command was
// refused before it came to what it was for, and what was done to credentials.
func (s *Service) note(ctx context.Context, who Principal, verb string, body []byte, a events.Answer) {
	refused := a.Status == events.StatusError && a.Code == events.CodeDenied && a.Record == 0 && !slices.Contains(onlyRead, verb)
	done := slices.Contains(noted, verb) && a.Status == events.StatusApplied
	if s.o.Notes == nil || !refused && !done {
		return
	}
	n := audit.Note{At: s.Now().UnixMilli(), By: who.Name, Kind: who.Kind, Via: who.Via, Verb: verb, What: about(body),
		Status: a.Status, Code: a.Code, Reason: a.Reason}
	if refused {
		s.o.Notes.Refused(n)
	} else if err := s.o.Notes.Add(ctx, n); err != nil {
		s.o.Log.Error("a change is not in the audit log", "verb", verb, "by", who.Name, "error", err)
	}
}

// noteDefinitions writes down which definitions were put in force and removed.
func (s *Service) noteDefinitions(ctx context.Context, d Delivery, changed, removed []string) {
	if s.o.Notes == nil || len(changed)+len(removed) == 0 {
		return
	}
	what, err := json.Marshal(struct {
		Source  string   `json:"source,omitempty"`
		Commit  string   `json:"commit,omitempty"`
		Author  string   `json:"author,omitempty"`
		Changed []string `json:"changed,omitempty"`
		Removed []string `json:"removed,omitempty"`
	}{d.Source, d.Commit, d.Author, fitting(changed), fitting(removed)})
	if err == nil {
		err = s.o.Notes.Add(ctx, audit.Note{At: s.Now().UnixMilli(), By: d.By, Verb: events.VerbApply, What: string(what), Status: events.StatusApplied})
	}
	if err != nil {
		s.o.Log.Error("a change of definitions is not in the audit log", "by", d.By, "error", err)
	}
}

// mostAbout is how many bytes of a request a note holds.
const mostAbout = 2 << 10

// about is what a request asks for, as far as it fits. No request that is
// noted holds a secret.
func about(body []byte) string {
	var compact json.RawMessage
	if json.Unmarshal(body, &compact) != nil {
		return fmt.Sprintf("%d bytes that are no JSON", len(body))
	}
	if len(body) > mostAbout {
		return fmt.Sprintf("a request of %d bytes with the digest sha256:%s", len(body), record.Hash(body))
	}
	return string(body)
}
