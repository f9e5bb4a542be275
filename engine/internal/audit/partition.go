package audit

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// keepTerminal is for how long LOG has the last record of what has ended, for
// certain. An aggregate of which LOG has nothing before was lost. The janitor
// keeps it a day longer, by another clock.
const keepTerminal = 29 * 24 * time.Hour

// Verifier decides everything again and compares LOG with the audit log.
type Verifier struct {
	Log         verifierLog
	Store       Store
	Definitions Catalogs
	Pace        func(ctx context.Context) error // called between records, to go slowly; may be nil
	Now         func() time.Time                // time.Now when nil
}

// verifierLog is what a Verifier reads of LOG. A journal.Journal is one.
type verifierLog interface {
	Select(ctx context.Context, filter string, seq uint64, fn func(journal.Entry) error) error
}

// problem is what is wrong with a partition.
type problem struct {
	seq   uint64 // of the record in LOG
	at    uint64 // of the message in the audit log; 0 for what only LOG has
	grave bool   // the record is not what it was; else it cannot be told
	text  string
	lost  *Affected
}

// partition is a verification that is under way.
type partition struct {
	v       *Verifier
	vp      int
	report  *Report
	since   time.Time
	pos     uint64 // of LOG, up to where it is in the audit log
	from    uint64 // of LOG, from where the audit log is read
	log     map[uint64][16]byte
	spans   map[string]span
	folds   map[string]folded
	differ  map[uint64]problem // records that LOG has otherwise
	found   []problem
	epoch   *Epoch // the newest
	epochAt uint64
}

// span is what LOG has of an aggregate.
type span struct {
	first, last, count int64
	seq                uint64 // of the last
}

// Partition verifies a partition: every record that LOG or, from the time
// since on, the audit log has is decided again; both have the same; nothing is
// missing at the end or between. What was found before an epoch was let go on
// is told apart.
//
// Memory is needed for what LOG has (a few bytes for each record of the
// partition), for each aggregate, and for the states of those that have not
// ended.
func (v *Verifier) Partition(ctx context.Context, vp int, since time.Time) (*Report, error) {
	p := &partition{v: v, vp: vp, report: &Report{}, since: since, log: map[uint64][16]byte{}, spans: map[string]span{},
		folds: map[string]folded{}, differ: map[uint64]problem{}}
	at, err := find(ctx, v.Store)
	if err != nil {
		return p.report, err
	}
	p.pos = at.pos
	if err := p.begin(ctx); err != nil {
		return p.report, err
	}
	if err := p.readLog(ctx); err != nil {
		return p.report, err
	}
	if err := p.readAudit(ctx); err != nil {
		return p.report, err
	}
	if err := p.readNewer(ctx); err != nil {
		return p.report, err
	}
	p.compare()
	p.conclude()
	return p.report, nil
}

func (p *partition) query() Query {
	return Query{Filters: []string{filterOf(p.vp), epochFilter}, Since: p.since}
}

// begin finds out from which sequence of LOG on the audit log is read.
func (p *partition) begin(ctx context.Context) error {
	if p.from = 1; p.since.IsZero() {
		return nil
	}
	p.from = p.pos + 1
	return p.v.Store.Read(ctx, p.query(), func(raw Raw) error {
		m, err := decode(raw)
		if err != nil || m.Kind != KindLog {
			return err
		}
		p.from = m.From
		return ErrEnough
	})
}

func (p *partition) pace(ctx context.Context) error {
	if p.v.Pace != nil {
		return p.v.Pace(ctx)
	}
	return ctx.Err()
}

// filter matches the partition's records in LOG.
func (p *partition) filter() string { return logPrefix + strconv.Itoa(p.vp) + ".>" }

// readLog reads what LOG has, and folds what is older than what is read of the
// audit log.
func (p *partition) readLog(ctx context.Context) error {
	err := p.v.Log.Select(ctx, p.filter(), 1, func(e journal.Entry) error {
		if e.Seq > p.pos {
			return ErrEnough
		}
		if e.Damaged {
			p.damaged(e.Seq)
			return p.pace(ctx)
		}
		key := strings.TrimPrefix(e.Subject, strings.TrimSuffix(p.filter(), ">"))
		p.span(key, e)
		hash := sha256.Sum256(e.Data)
		if e.Seq >= p.from {
			p.log[e.Seq] = [16]byte(hash[:16])
		} else {
			p.fold(ctx, key, e.Subject, e.Seq, 0, e.Data)
		}
		return p.pace(ctx)
	})
	if errors.Is(err, ErrEnough) {
		return nil
	}
	return err
}

// damaged notes that LOG cannot read what it has.
func (p *partition) damaged(seq uint64) {
	p.found = append(p.found, problem{seq: seq, grave: true, text: fmt.Sprintf("partition %d: a record up to sequence %d cannot be read in the store: its file is damaged", p.vp, seq)})
}

// span notes that LOG has a record of an aggregate.
func (p *partition) span(key string, e journal.Entry) {
	s := p.spans[key]
	if h, err := record.DecodeHead(e.Data); err == nil {
		if s.count == 0 {
			s.first = h.V
		}
		s.last = h.V
	}
	s.count++
	s.seq = e.Seq
	p.spans[key] = s
}

// readAudit folds what the audit log has, and compares LOG with it.
func (p *partition) readAudit(ctx context.Context) error {
	return p.v.Store.Read(ctx, p.query(), func(raw Raw) error {
		m, err := decode(raw)
		if err != nil {
			p.found = append(p.found, problem{at: raw.Seq, text: err.Error()})
			p.excuseAll(fmt.Sprintf("message %d of the audit log, which cannot be read", raw.Seq))
			return nil
		}
		p.report.Messages++
		switch {
		case m.Loss != nil:
			p.lost(m.Loss, raw.Seq)
		case m.Epoch != nil && m.Epoch.Partition == p.vp:
			p.excuse(m)
		}
		for _, e := range m.Entries() {
			if e.Key == "" || e.Seq > p.pos {
				continue
			}
			hash := sha256.Sum256(e.Data)
			if there, ok := p.log[e.Seq]; ok && !bytes.Equal(there[:], hash[:16]) {
				p.differ[e.Seq] = problem{seq: e.Seq, at: raw.Seq, grave: true,
					text: fmt.Sprintf("%s: the record with sequence %d in the store is not the one that was stored: it was changed", name(e.Key), e.Seq)}
			} else if ok {
				delete(p.log, e.Seq)
			}
			p.fold(ctx, e.Key, e.Subject(), e.Seq, raw.Seq, e.Data)
			if err := p.pace(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// lost takes what LOG had lost for what it is: records that the audit log has
// and nobody goes on from. The partition must not go on either, until somebody
// begins an epoch: whoever found the loss may not have owned it.
func (p *partition) lost(l *Loss, at uint64) {
	if slices.Contains(l.Partitions, p.vp) {
		p.found = append(p.found, problem{seq: l.From, at: at, grave: true,
			text: fmt.Sprintf("partition %d: the store had lost its newest records, from sequence %d on, says message %d of the audit log", p.vp, l.From, at)})
	}
	for seq := range p.differ {
		if seq >= l.From {
			delete(p.differ, seq)
		}
	}
	for key, f := range p.folds {
		if f.seq >= l.From && f.at > 0 {
			p.folds[key] = folded{excused: "the loss of the records from sequence " + strconv.FormatUint(l.From, 10) + " on", lost: true}
		}
	}
}

// excuse lets aggregates go on from what there is after an epoch.
func (p *partition) excuse(m *Message) {
	p.epoch, p.epochAt = m.Epoch, m.Seq()
	why := fmt.Sprintf("the epoch that %s began at %s: %s", m.Epoch.By, time.UnixMilli(m.Epoch.Time).UTC().Format(time.RFC3339), m.Epoch.Reason)
	p.excuseAll(why)
	p.report.Known = append(p.report.Known, fmt.Sprintf("partition %d was stopped (%s) and goes on after %s", p.vp, m.Epoch.Stopped, why))
}

// excuseAll lets every aggregate go on from its next record, whatever it is.
func (p *partition) excuseAll(why string) {
	for key, f := range p.folds {
		f.excused = why
		p.folds[key] = f
	}
}

// fold folds the next record of an aggregate.
func (p *partition) fold(ctx context.Context, key, subject string, seq, at uint64, stored []byte) {
	before := p.folds[key]
	if before.over {
		before.state, before.known = p.reload(ctx, before)
	}
	after, decisions, problems := fold(before, seq, subject, stored, p.v.Definitions)
	after.at = at
	if after.over {
		after.state = nil
	}
	p.folds[key] = after
	p.report.Records++
	p.report.Decisions += decisions
	for _, pr := range problems {
		pr.seq, pr.at, pr.text = seq, at, name(key)+": "+pr.text
		if before.excused != "" && pr.grave {
			p.report.Known = append(p.report.Known, fmt.Sprintf("%s, after %s", pr.text, before.excused))
			continue
		}
		p.found = append(p.found, pr)
	}
}

// reload reads the state of what had ended and begins again.
func (p *partition) reload(ctx context.Context, f folded) (state any, known bool) {
	take := func(seq uint64, data []byte) {
		if r, err := record.Decode(data); err == nil && seq == f.seq {
			if s, err := load(r); err == nil {
				state, known = s, true
			}
		}
	}
	if f.at == 0 {
		_ = p.v.Log.Select(ctx, p.filter(), f.seq, func(e journal.Entry) error { take(e.Seq, e.Data); return ErrEnough })
		return state, known
	}
	_ = p.v.Store.Read(ctx, Query{From: f.at}, func(raw Raw) error {
		if m, err := decode(raw); err == nil {
			for _, e := range m.Entries() {
				if e.Seq == f.seq {
					take(e.Seq, e.Data)
				}
			}
		}
		return ErrEnough
	})
	return state, known
}

// readNewer folds what the audit log does not have yet.
func (p *partition) readNewer(ctx context.Context) error {
	return p.v.Log.Select(ctx, p.filter(), p.pos+1, func(e journal.Entry) error {
		if e.Damaged {
			p.damaged(e.Seq)
			return p.pace(ctx)
		}
		key := strings.TrimPrefix(e.Subject, strings.TrimSuffix(p.filter(), ">"))
		p.span(key, e)
		p.fold(ctx, key, e.Subject, e.Seq, 0, e.Data)
		return p.pace(ctx)
	})
}

// compare tells what LOG has and the audit log has not, and the other way round.
func (p *partition) compare() {
	for _, pr := range p.differ {
		delete(p.log, pr.seq)
		p.found = append(p.found, pr)
	}
	for seq := range p.log {
		p.found = append(p.found, problem{seq: seq, grave: true, text: fmt.Sprintf("partition %d: the record with sequence %d is not in the audit log", p.vp, seq)})
	}
	now := time.Now
	if p.v.Now != nil {
		now = p.v.Now
	}
	for key, f := range p.folds {
		s := p.spans[key]
		p.report.Aggregates++
		switch {
		case f.lost:
		case s.count == 0 && f.over && now().Sub(time.UnixMilli(f.t)) >= keepTerminal:
		case s.last < f.v:
			p.found = append(p.found, problem{seq: f.seq, at: f.at, grave: true, text: fmt.Sprintf("%s: the audit log has version %d, the newest in the store is %d: records were lost", name(key), f.v, s.last), lost: affected(key, f.v, s.last)})
		case s.count != s.last-s.first+1:
			p.found = append(p.found, problem{seq: f.seq, at: f.at, grave: true, text: fmt.Sprintf("%s: of the versions %d to %d the store has only %d: records were lost between", name(key), s.first, s.last, s.count), lost: affected(key, f.v, s.last)})
		}
	}
}

// conclude sorts what was found into what is wrong and what was let go on.
func (p *partition) conclude() {
	slices.SortFunc(p.found, func(a, b problem) int { return cmp.Or(cmp.Compare(a.seq, b.seq), strings.Compare(a.text, b.text)) })
	for _, pr := range p.found {
		if p.epoch != nil && (pr.at > 0 && pr.at < p.epochAt || pr.at == 0 && pr.seq <= p.epoch.Last) {
			p.report.Known = append(p.report.Known, pr.text)
			continue
		}
		if pr.grave && p.report.grave == "" {
			p.report.grave = pr.text
		}
		if pr.lost != nil {
			p.report.Lost = append(p.report.Lost, *pr.lost)
		}
		p.report.problem("%s", pr.text)
	}
	p.report.end()
}

// Broken gives the first thing wrong for which the partition must not go on;
// nil when there is none.
func (r *Report) Broken() error {
	if r.grave == "" {
		return nil
	}
	return fmt.Errorf("%s", r.grave)
}

// name is a key for people: "run k3f9".
func name(key string) string {
	agg, token, _ := strings.Cut(key, ".")
	if id, err := events.Untoken(token); err == nil {
		return agg + " " + id
	}
	return key
}

func affected(key string, had, has int64) *Affected {
	agg, token, _ := strings.Cut(key, ".")
	id, err := events.Untoken(token)
	if err != nil {
		id = token
	}
	return &Affected{Aggregate: agg, ID: id, Had: had, Has: has}
}
