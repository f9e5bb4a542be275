package api

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/penstock-cd/penstock/events"
)

// live says that the process answers requests, and nothing more: what a
// restart would not heal does not count.
func (s *server) live(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok\n") }

// ready says whether the engine does its work. Details are for programs on
// this host and for those with a token.
func (s *server) ready(w http.ResponseWriter, r *http.Request) {
	st := s.o.Stats()
	status, word := http.StatusOK, "ready\n"
	if st.Ready != nil {
		status, word = http.StatusServiceUnavailable, "not ready\n"
		w.Header().Set("Retry-After", strconv.Itoa(retryBusy))
	}
	if r.URL.Query().Has("verbose") && (local(r) || callerOf(r.Context()).token != "") {
		reason := "ok"
		if st.Ready != nil {
			reason = st.Ready.Error()
		}
		word += fmt.Sprintf("engine: %s\nversion: %s\nruns: %d\nwaiting: %d\nworkers: %d\n", reason, s.o.Version, st.Runs, st.Waiting, len(st.Workers))
		word += engineLines(st.Engines)
	}
	text(w, status, word)
}

// engineLines tell of the engines that are alive, this one first.
func engineLines(engines []events.EngineInfo) string {
	var b strings.Builder
	for _, e := range engines {
		fmt.Fprintf(&b, "engine %s: version %s, %d partitions\n", e.Instance, e.Version, e.Partitions)
		for _, p := range e.Stopped {
			fmt.Fprintf(&b, "engine %s: partition %d is stopped: %s\n", e.Instance, p.Partition, p.Reason)
		}
		if e.Clock != "" {
			fmt.Fprintf(&b, "engine %s: timers are held: %s\n", e.Instance, e.Clock)
		}
	}
	return b.String()
}

func text(w http.ResponseWriter, status int, s string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	io.WriteString(w, s) // the client is gone if this fails
}
