package sim

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/penstock-cd/penstock/engine/internal/audit"
	"github.com/penstock-cd/penstock/engine/internal/fakejs"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

func newCatalogs(cat *workflows.Catalog) *catalogs {
	return &catalogs{now: cat, olds: map[string]*workflows.Catalog{cat.Digest: cat}}
}

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

var _ fakejs.Net = (*world)(nil)
