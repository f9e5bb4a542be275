package api

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/penstock-cd/penstock/events"
)

const (
	backupRoute = "GET /v1/backup"
	backupType  = "application/x-tar"
)

// backup sends a copy of the whole installation. One that fails half-way ends
// the connection: half an answer must not look like a whole one.
func (s *server) backup(w http.ResponseWriter, r *http.Request) {
	if s.o.Backup == nil {
		newProblem(http.StatusNotFound, events.CodeNotFound, "this server makes no backups").write(w, r)
		return
	}
	out := &patient{w: w, c: http.NewResponseController(w)}
	w.Header().Set("Content-Type", backupType)
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="penstock-%s.tar"`, time.Now().UTC().Format("20060102T150405Z")))
	who := callerOf(r.Context())
	s.o.Log.Info("a backup is sent", "by", who.Name)
	if err := s.o.Backup(r.Context(), out); err != nil {
		s.o.Log.Error("a backup failed", "by", who.Name, "error", err)
		if out.sent {
			panic(http.ErrAbortHandler)
		}
		w.Header().Del("Content-Disposition")
		newProblem(http.StatusServiceUnavailable, events.CodeInternal, err.Error()).write(w, r)
	}
}

// patient writes to a client as long as it takes something now and then.
type patient struct {
	w    io.Writer
	c    *http.ResponseController
	sent bool
}

func (p *patient) Write(b []byte) (int, error) {
	if err := p.c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	p.sent = true
	return p.w.Write(b)
}
