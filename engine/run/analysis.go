package run

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// An analysis takes a sample of each metric every so often, as short tasks of
// the kind sample, and judges each one: it passes, it fails, or it is neither.
// A rule that errs, or a sample that nobody could take, is neither.

const (
	sampleStart   = time.Minute // a sample that no worker took by then is none
	sampleTimeout = time.Minute
	maxSamples    = 100 // kept of a metric, the latest ones
)

// Verdicts on a sample.
const (
	samplePass    = "pass"
	sampleFail    = "fail"
	sampleNeither = "inconclusive"
)

// beginAnalysis begins an analysis of some length.
func (x *step) beginAnalysis(t *Task, d time.Duration) {
	t.Status = taskAnalyzing
	t.Roll.Began, t.Roll.Until = x.now, x.now+d.Milliseconds()
	t.Roll.Metrics = map[string]*Metric{}
	for _, m := range x.deployOf(t).Analysis {
		t.Roll.Metrics[m.Name] = &Metric{}
		t.Roll.next(m, x.now)
	}
}

// next plans the next sample of a metric: a whole number of periods after the
// beginning, up to the end.
func (r *Roll) next(m *workflows.Metric, now int64) {
	every := max(m.Every.D().Milliseconds(), 1)
	at := r.Began + ((now-r.Began)/every+1)*every
	if at > r.Until {
		at = 0
	}
	r.Metrics[m.Name].NextAt = at
}

// goOn moves the times of an analysis by as long as it stood still.
func (r *Roll) goOn(now int64) {
	d := now - r.Stopped
	r.Began, r.Until, r.Stopped, r.Late = r.Began+d, r.Until+d, 0, false
	for _, m := range r.Metrics {
		if m.NextAt > 0 {
			m.NextAt += d
		}
	}
}

// analysisDue takes the samples that are due.
func (x *step) analysisDue(t *Task) {
	for _, m := range x.deployOf(t).Analysis {
		if seen := t.Roll.Metrics[m.Name]; seen.NextAt > 0 && seen.NextAt <= x.now {
			seen.NextAt = 0 // until this one is there
			x.sample(t, m)
		}
	}
	x.judgeAnalysis(t)
}

// sample asks for one measurement.
func (x *step) sample(t *Task, m *workflows.Metric) {
	x.s.Parts++
	t.Roll.Metrics[m.Name].Asked++
	query := map[string]any{}
	for k, v := range m.Query {
		query[k] = v
	}
	s := &Task{Path: t.Path + "." + m.Name, Of: t.Path, Part: x.s.Parts, Kind: "sample", Pool: t.Pool, Runs: events.RunsRepeatable, Attempt: 1,
		With: record.Values{"query": query, "metric": m.Name, "artifact": t.Artifact}}
	x.s.Tasks = append(x.s.Tasks, s)
	x.queue(s)
}

// sampleEnded judges a sample that was taken, or could not be.
func (x *step) sampleEnded(s *Task, outputs record.Values) {
	t := x.s.taskAt(s.Of)
	if t == nil || t.Status != taskAnalyzing || x.cancelling() {
		return
	}
	i := slices.IndexFunc(x.deployOf(t).Analysis, func(m *workflows.Metric) bool { return t.Path+"."+m.Name == s.Path })
	if i < 0 {
		return // unreachable unless the definition is not the pinned one
	}
	m := x.deployOf(t).Analysis[i]
	seen := t.Roll.Metrics[m.Name]
	if s.Outcome == events.Succeeded {
		x.judgeSample(t, i, outputs)
	} else {
		seen.Last, seen.Why = sampleNeither, "it could not be taken: "+s.Error.Message
	}
	t.Roll.next(m, x.now)
	x.judgeAnalysis(t)
}

// judgeSample judges a sample by the rules of its metric.
func (x *step) judgeSample(t *Task, i int, outputs record.Values) {
	m := x.deployOf(t).Analysis[i]
	seen := t.Roll.Metrics[m.Name]
	value, _ := outputs["value"].(float64)
	seen.Samples = append(seen.Samples, value)
	if len(seen.Samples) > maxSamples {
		seen.Samples = seen.Samples[1:]
	}
	samples := make([]any, len(seen.Samples))
	for i, s := range seen.Samples {
		samples[i] = s
	}
	extra := map[string]any{"value": value, "samples": samples, "elapsed": time.Duration(x.now-t.Roll.Began) * time.Millisecond}
	if b, ok := outputs["baseline"]; ok {
		extra["baseline"] = b
	}
	seen.Last, seen.Why = x.verdict(t, m, fmt.Sprintf("spec.states.%s.deploy.analysis[%d]", t.definedAt(), i), extra)
	if seen.Last == sampleFail {
		seen.Failed++
	}
}

// verdict says what the rules of a metric make of a sample, and why where it
// is neither.
func (x *step) verdict(t *Task, m *workflows.Metric, path string, extra map[string]any) (verdict, why string) {
	pass, err := x.rule(m.Pass, path+".pass", extra)
	if err != nil {
		return sampleNeither, err.Error()
	}
	if m.Fail == nil {
		if pass {
			return samplePass, ""
		}
		return sampleFail, ""
	}
	fail, err := x.rule(m.Fail, path+".fail", extra)
	switch {
	case err != nil:
		return sampleNeither, err.Error()
	case fail:
		return sampleFail, ""
	case pass:
		return samplePass, ""
	}
	return sampleNeither, "it neither passes nor fails"
}

// judgeAnalysis ends the analysis when it is decided: too many samples of a
// metric have failed, or its time is over and the last samples are there.
func (x *step) judgeAnalysis(t *Task) {
	if t.Status != taskAnalyzing {
		return
	}
	var failed, open []string
	for _, m := range x.deployOf(t).Analysis {
		seen := t.Roll.Metrics[m.Name]
		switch {
		case seen.Failed > m.Failures:
			failed = append(failed, metricText(m, seen))
		case seen.Last != samplePass && seen.Last != sampleFail:
			open = append(open, metricText(m, seen))
		}
	}
	switch {
	case len(failed) > 0:
		x.judged(t, events.Failed, failed)
		x.undoRoll(t, events.Failed, &events.TaskError{Code: "analysis_failed", Message: "the analysis failed: " + joinLines(failed)})
	case x.now < t.Roll.Until:
	case x.sampling(t):
		t.Roll.Late = true
	case len(open) > 0:
		x.judged(t, events.Inconclusive, open)
		x.end(t, events.Inconclusive, nil, &events.TaskError{Code: "analysis_inconclusive", Message: "the analysis is inconclusive: " + joinLines(open)})
	default:
		var passed []string
		for _, m := range x.deployOf(t).Analysis {
			passed = append(passed, metricText(m, t.Roll.Metrics[m.Name]))
		}
		x.judged(t, events.Succeeded, passed)
		x.stepDone(t)
	}
}

func (x *step) judged(t *Task, outcome string, why []string) {
	x.emit(events.DeploymentJudged, events.Happening{State: t.Path, Environment: t.Env, Outcome: outcome, Reasons: why})
}

// sampling reports whether a sample is under way.
func (x *step) sampling(t *Task) bool {
	return slices.ContainsFunc(x.s.Tasks, func(s *Task) bool { return s.isSampleOf(t) && s.Status != taskDone })
}

func (t *Task) isSampleOf(owner *Task) bool {
	return t.Of == owner.Path && !strings.HasPrefix(t.Path, undoPath)
}

// stopSamples tells the samples of a deployment to stop.
func (x *step) stopSamples(t *Task) {
	for _, s := range x.s.Tasks {
		if s.isSampleOf(t) {
			x.cancelTask(s)
		}
	}
}

// metricText says what was seen of a metric: "metric errors 0.07 fail, 3 failed and 2 may".
func metricText(m *workflows.Metric, seen *Metric) string {
	if len(seen.Samples) == 0 && seen.Last == "" {
		return "metric " + m.Name + " has no sample"
	}
	s := "metric " + m.Name
	if n := len(seen.Samples); n > 0 {
		s += " " + record.Text(seen.Samples[n-1])
	}
	s += " " + seen.Last
	if seen.Why != "" {
		s += " (" + seen.Why + ")"
	}
	if seen.Failed > 0 {
		s += fmt.Sprintf(", %d failed and %d may", seen.Failed, m.Failures)
	}
	return s
}
