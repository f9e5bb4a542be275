package reference

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/penstock-cd/penstock/workflows"
)

// work is what is done in one visit of a state.
type work struct {
	t       *teller
	st      *workflows.State
	jobs    []*job
	code    string // of the error that it ended with
	held    bool   // it is not left
	noWay   bool   // as a condition of an arm errs
	doubt   bool   // or as it is not known whether an event counts
	stopped bool   // nothing new begins

	due     int64 // end of a sleep, of a wait or of an approval
	asks    bool  // people
	listens bool  // to events
	heard   bool  // the event has come
	late    bool  // the time for it is over
	said    []word

	winner  *job
	first   *job // the first one that failed
	members []string
	next    int // index of the next member
	wave    int
	waveEnd int
	sleeps  bool // between two waves
}

// word is what a person said last.
type word struct {
	user string
	yes  bool
	at   int64
}

// start begins what the state does.
func (w *work) start() {
	switch st := w.st; st.Kind() {
	case "task":
		w.begin(st.Name, &st.Activity)
	case "parallel":
		for _, b := range st.Branches() {
			w.begin(st.Name+"."+b.Name, &b.Activity)
		}
	case "forEach":
		v, _ := st.ForEach.In.Program.Eval(context.Background(), w.t.scope(nil))
		list, _ := v.([]any)
		for _, m := range list {
			w.members = append(w.members, m.(string))
		}
		w.waveEnd = w.waveSize(0)
	case "approval":
		w.asks = true
		if d := st.Approval.Expires.D().Milliseconds(); d > 0 {
			w.due = w.t.now + d
		}
	case "wait":
		w.startWait(st.Wait)
	case "compensate":
		for _, e := range w.t.effects {
			e.stuck = false
		}
	case "deploy":
		w.deploy()
	}
}

func (w *work) startWait(wait *workflows.Wait) {
	switch {
	case wait.Event != "":
		w.listens = true
		if d := wait.Timeout.D().Milliseconds(); d > 0 {
			w.due = w.t.now + d
		}
	case wait.Until != nil:
		v, _ := wait.Until.Program.Eval(context.Background(), w.t.scope(nil))
		w.due = millis(v)
	default:
		w.due = w.t.now + wait.For.D().Milliseconds()
	}
	w.late = !w.listens && w.due <= w.t.now
	if w.late {
		w.due = 0
	}
}

// take takes an input that is for the work.
func (w *work) take(in Input) {
	switch in.Kind {
	case "take", "finish", "lost":
		for _, j := range w.jobs {
			if j.index == in.Task && j.status != done && j.status != backoff {
				w.report(j, in)
				return
			}
		}
	case "timer":
		for _, j := range w.jobs {
			if j.due > 0 && j.due <= w.t.now {
				w.dueNow(j)
			}
		}
		if w.due > 0 && w.due <= w.t.now && !w.asks {
			w.late, w.due, w.sleeps = true, 0, false
		}
	case "approve", "reject":
		w.hear(in)
	}
}

// hears reports whether an event is of a type that the state is for.
func (w *work) hears(typ string) bool {
	return w.listens && !w.heard && workflows.Match(w.st.Wait.Event, typ) ||
		slices.ContainsFunc(w.st.Events, func(a *workflows.EventArm) bool { return workflows.Match(a.Event, typ) })
}

// hearEvent judges an event that the state waits for.
func (w *work) hearEvent(in Input) {
	if when := w.st.Wait.When; when != nil {
		ok, err := w.t.holds(when, map[string]any{"event": event(in)})
		w.doubt = err != nil
		if !ok {
			return
		}
	}
	w.heard, w.due = true, 0
	w.t.values[w.st.Name] = map[string]any{"event": event(in)}
}

// stop stops all that goes on.
func (w *work) stop() {
	w.stopped = true
	w.held, w.asks, w.listens, w.due = false, false, false, 0
	for _, j := range w.jobs {
		w.stopJob(j)
	}
}

// quiet reports whether nothing goes on.
func (w *work) quiet() bool {
	return !slices.ContainsFunc(w.jobs, func(j *job) bool { return j.status != done })
}

// over tells whether the state is over, and how it ended.
func (w *work) over() (outcome, code string, over bool) {
	switch w.st.Kind() {
	case "task", "deploy":
		j := w.jobs[0]
		return j.outcome, j.code, j.status == done
	case "parallel":
		return w.joined()
	case "forEach":
		return w.each()
	case "approval":
		return w.approval()
	case "wait":
		switch {
		case w.heard, w.late && !w.listens:
			return "succeeded", "", true
		case w.late:
			return "timedOut", "timeout", true
		}
		return "", "", false
	}
	return w.compensated()
}

// joined tells how branches end together.
func (w *work) joined() (string, string, bool) {
	join := w.st.Join
	if w.winner == nil && (join == "any" || join == "race") {
		for _, j := range w.jobs {
			if j.status == done && (join == "race" || j.outcome == "succeeded") && (w.winner == nil || j.ended < w.winner.ended) {
				w.winner = j
			}
		}
		if w.winner != nil {
			w.stop()
		}
	}
	if !w.quiet() {
		return "", "", false
	}
	if w.winner != nil {
		return plain(w.winner.outcome), w.winner.code, true
	}
	for _, j := range w.jobs {
		switch {
		case j.outcome == "succeeded":
		case join == "any":
			return "failed", "no_branch", true
		default:
			return plain(j.outcome), j.code, true
		}
	}
	return w.gate()
}

// gate judges a parallel state whose branches have all succeeded.
func (w *work) gate() (string, string, bool) {
	branches, _ := w.t.values[w.st.Name].(map[string]any)
	outcome, code := "succeeded", ""
	for _, r := range w.st.Gate {
		ok, err := w.t.holds(r.Require, branches)
		switch {
		case err != nil:
			outcome, code = "failed", "rule_error"
		case !ok && code == "":
			outcome, code = "failed", "gate"
		}
	}
	return outcome, code, true
}

// plain is the outcome of a state one of whose parts ended so.
func plain(outcome string) string {
	if outcome == "inconclusive" {
		return "failed"
	}
	return outcome
}

// each goes on with the members of forEach.
func (w *work) each() (string, string, bool) {
	f := w.st.ForEach
	for {
		active, failed := 0, 0
		for _, j := range w.jobs {
			switch {
			case j.status != done:
				active++
			case j.outcome != "succeeded":
				failed++
				if w.first == nil {
					w.first = j
				}
			}
		}
		switch {
		case failed >= max(1, f.StopAfterFailures):
			return plain(w.first.outcome), w.first.code, active == 0
		case w.next < w.waveEnd && (f.MaxParallel == 0 || active < f.MaxParallel):
			m := w.members[w.next]
			w.next++
			w.begin(w.st.Name+"."+m, &f.Do.Activity)
			continue
		case active > 0 || w.next < w.waveEnd:
			return "", "", false
		case w.next == len(w.members) && w.first != nil:
			return plain(w.first.outcome), w.first.code, true
		case w.next == len(w.members):
			return "succeeded", "", true
		case f.Between != nil && !w.sleeps && !w.late:
			w.sleeps, w.due = true, w.t.now+f.Between.Wait.D().Milliseconds()
			return "", "", false
		case w.sleeps:
			return "", "", false
		}
		w.late = false
		w.wave++
		w.waveEnd += w.waveSize(w.wave)
	}
}

// waveSize is how many members a wave has.
func (w *work) waveSize(wave int) int {
	left := len(w.members) - w.next
	if waves := w.st.ForEach.Waves; wave < len(waves) {
		switch n := workflows.Normal(waves[wave]).(type) {
		case int64:
			return min(int(n), left)
		}
	}
	return left
}

// keep stores the outputs of a task where expressions find them.
func (w *work) keep(j *job, outputs map[string]any) {
	state, part, inner := strings.Cut(j.path, ".")
	if w.st == nil || j.undoes != nil {
		return
	}
	kept := map[string]any{}
	for k, v := range outputs {
		kept[k] = workflows.Normal(v)
	}
	if !inner {
		w.t.values[state] = kept
		return
	}
	all, _ := w.t.values[state].(map[string]any)
	all = maps.Clone(all)
	if all == nil {
		all = map[string]any{}
	}
	all[part] = kept
	w.t.values[state] = all
}

// compensated goes on with the next effect that is to be undone.
func (w *work) compensated() (string, string, bool) {
	if !w.quiet() {
		return "", "", false
	}
	if n := len(w.jobs); n > 0 && w.jobs[n-1].outcome != "succeeded" {
		return "failed", "undo_failed", true
	}
	for _, e := range slices.Backward(w.t.effects) {
		if slices.Contains(w.st.Compensate, e.state) && !e.stuck {
			w.undo(e)
			return "", "", false
		}
	}
	return "succeeded", "", true
}
