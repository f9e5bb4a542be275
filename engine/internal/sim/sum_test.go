package sim

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/audit"
	"github.com/penstock-cd/penstock/engine/internal/fakejs"
	"github.com/penstock-cd/penstock/engine/internal/janitor"
	"github.com/penstock-cd/penstock/engine/internal/journal"
	"github.com/penstock-cd/penstock/events"
)

// sum is a hash of all that was chosen and all that was stored.
func (w *world) sum() string {
	h := sha256.New()
	h.Write(w.net.hash.Sum(nil))
	for _, name := range []string{events.StreamLog, events.StreamTasks} {
		for _, m := range w.server.Messages(name, 0) {
			h.Write([]byte(m.Subject))
			h.Write(m.Data)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// audited reads the audit log and has it checked. The connection is the
// administrator's, so nothing else moves meanwhile.
func (w *world) audited() *auditedAs {
	report, err := audit.VerifyLog(w.ctx, auditStore{audit.Open(w.admin), w.admin})
	if err != nil {
		return &auditedAs{err: err}
	}
	return &auditedAs{problems: report.Problems}
}

// stopped gives the partitions that are stopped, and those that their owner
// would stop when it comes to verify them in its round.
func (w *world) stopped() map[int]error {
	found := map[int]error{}
	for _, e := range w.living() {
		e.mu.Lock()
		if e.owner != nil {
			maps.Copy(found, e.owner.Stopped())
		}
		e.mu.Unlock()
	}
	if w.plan.unwatched {
		return found
	}
	log, err := journal.OpenOn(w.ctx, w.admin, journal.Options{})
	w.must(err)
	defer closeNow(log)
	v := &audit.Verifier{Log: log, Store: auditStore{audit.Open(w.admin), w.admin}, Definitions: w.cats,
		Now: func() time.Time { return time.Now().Add(janitor.KeepLast - keepLast) }}
	seen := map[int]bool{}
	for _, m := range w.book.all {
		vp := events.LogPartition(m.Subject)
		if vp < 0 || seen[vp] || found[vp] != nil {
			continue
		}
		seen[vp] = true
		report, err := v.Partition(w.ctx, vp, time.Time{})
		if err = cmp.Or(err, report.Broken()); err != nil {
			found[vp] = err
		}
	}
	return found
}

var _ fakejs.Net = (*world)(nil)
