package engine

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/audit"
	"github.com/penstock-cd/penstock/engine/internal/janitor"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/engine/internal/owner"
)

const (
	// watchShare is the part of a core that looking after the record takes, here
	// and in the server.
	watchShare = 0.05
	// watchWindow is how far back a round reads the audit log: as far as the
	// store keeps records of what has ended, and some days.
	watchWindow = 35 * 24 * time.Hour
)

// keepAudit brings the record into the audit log, until ctx ends. One engine
// does so for all.
func (e *Engine) keepAudit(ctx context.Context) {
	audit.NewWriter(audit.Options{Source: e.log, Store: e.audit, Instance: e.o.Instance, Stop: e.stopPartition, Log: e.o.Log}).Run(ctx)
}

// watchRecord decides again, slowly, what the partitions hold that this engine
// owns, and stops one whose record is not what it was. Every engine does so for
// its own.
func (e *Engine) watchRecord(ctx context.Context) {
	audit.Watch(ctx, audit.WatchOptions{
		Verifier: &audit.Verifier{Log: e.log, Store: e.audit, Definitions: e.defs},
		Share:    watchShare,
		Owns:     e.owner.Owns,
		Stop:     e.stopPartition, Window: watchWindow, Log: e.o.Log,
	})
}

// missing tells which partitions have lost records that the audit log has.
// Where that cannot be told, since the audit log cannot be read, they go on:
// it holds nothing that is decided by.
func (e *Engine) missing(ctx context.Context, vps []int) (map[int]error, error) {
	lost, err := audit.Lost(ctx, e.audit, e.log)
	if err == nil {
		err = e.afterDamage(ctx, vps, lost)
	}
	if err != nil && ctx.Err() == nil {
		e.o.Log.Error("the record could not be compared with the audit log", "error", err)
		return nil, nil
	}
	return lost, err
}

// mendCheckpoints has partitions whose checkpoint cannot be read stopped, also
// when nothing shows that any more.
func (e *Engine) mendCheckpoints(ctx context.Context) error {
	log, ours := e.log.(*journal.Log)
	if !ours || !e.alone() {
		return nil
	}
	instead, err := json.Marshal(owner.Checkpoint{Stop: "its checkpoint could not be read, since the store's file is damaged: it is not known whether records were lost"})
	if err != nil {
		return err
	}
	vps, err := log.MendCheckpoints(ctx, e.js.engine, instead)
	if len(vps) > 0 {
		e.o.Log.Error("the file of the checkpoints is damaged", "partitions", vps)
	}
	return err
}

// afterDamage compares all of the record with the audit log where the server
// says that files of the record were damaged.
func (e *Engine) afterDamage(ctx context.Context, vps []int, lost map[int]error) error {
	damaged, err := journal.Damaged(ctx, e.js.engine)
	if err != nil || !damaged {
		return err
	}
	e.o.Log.Error("the files of the record are damaged: before anything goes on all of it is compared with the audit log, which takes a while")
	v := &audit.Verifier{Log: e.log, Store: e.audit, Definitions: e.defs}
	for _, vp := range vps {
		r, err := v.Partition(ctx, vp, time.Now().Add(-watchWindow))
		if err != nil {
			return err
		}
		if err := r.Broken(); err != nil {
			lost[vp] = err
		}
	}
	return nil
}

// removeRecords removes from the store what only the audit log need keep.
func (e *Engine) removeRecords(ctx context.Context) {
	r := janitor.Records{Audit: e.audit, Log: e.js.engine, Marks: e.kv, Passed: e.carriedOut, Keep: e.o.KeepRecords, Logger: e.o.Log}
	r.Run(ctx)
}

// carriedOut gives for each partition up to where all of it is carried out.
func (e *Engine) carriedOut(ctx context.Context) (map[int]uint64, error) {
	stored, err := e.log.LoadCheckpoints(ctx)
	if err != nil {
		return nil, err
	}
	passed := map[int]uint64{}
	for vp, p := range stored {
		var c owner.Checkpoint
		if err := json.Unmarshal(p, &c); err != nil {
			continue // its owner says so; nothing of it is removed
		}
		passed[vp] = c.Seq
	}
	return passed, nil
}

// stopPartition stops a partition whose record does not fit. One that another
// engine owns is stopped by that one when it comes to it.
func (e *Engine) stopPartition(vp int, err error) {
	e.owner.Stop(vp, err) // which does nothing unless it is owned here
}

// closeNotes stores the notes for the audit log that wait.
func closeNotes(ctx context.Context, n *audit.Notes, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := n.Close(ctx); err != nil {
		log.Error("the audit log is not whole", "error", err)
	}
}
