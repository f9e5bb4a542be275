package sim

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/engine/env"
	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/engine/run"
	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workflows"
)

// check is an invariant. see looks at each message of LOG before it is added
// to the tale, told at each answer that somebody was given, end at the tale
// when faults are over and nothing moves any more.
type check struct {
	id, what string
	see      func(*tale, *entry) error
	told     func(*tale, acknowledged) error
	gone     func(*tale, *entry) error // looks at each message of LOG that was removed
	end      func(*tale) error
}

var checks = []check{
	{id: "I1", what: "what is acknowledged is recorded", told: recorded, end: startedAll},
	{id: "I2", what: "a transition is applied once", see: appliedOnce},
	{id: "I3", what: "a log is a function of its inputs", end: refolded},
	{id: "I4", what: "what succeeded has had its effect", end: hadEffect},
	{id: "I5", what: "one worker has an attempt, and one attempt is open at a time", see: oneWorker, end: toldOne},
	{id: "I6", what: "an environment is used by one at a time", see: fenced, end: noOverlap},
	{id: "I7", what: "no acknowledged decision is lost", told: decided},
	{id: "I9", what: "a decision counts for what it named", see: namesItsRun},
	{id: "I11", what: "a decision after the end of the question does not count", see: inTime},
	{id: "I12", what: "a timer fires once, and not early", see: notEarly},
	{id: "I13", what: "after a cancel only what cleans up begins", see: notAfterCancel},
	{id: "I14", what: "only the owner writes", see: owned},
	{id: "I15", what: "the audit log has every record once, in order", end: audited},
	{id: "I16", what: "nothing is removed that is needed, or that the audit log does not have", gone: dispensable},
	{id: "I18", what: "in the end every run has ended or waits for people", end: (*tale).alive},
	{id: "I19", what: "what has lost something stops where that is known, and nothing else", end: hurtStops},
	{id: "I21", what: "a run keeps the definitions that it was started with", see: pinned},
}

// recorded: an answer that names a record tells of one that is there.
func recorded(t *tale, a acknowledged) error {
	if a.answer.Record == 0 || a.answer.Status != events.StatusApplied && a.answer.Status != events.StatusAlready {
		return nil
	}
	life := t.life(a.agg, a.id)
	if int64(len(life)) < a.answer.Record {
		return fmt.Errorf("%s %s of %s %s was answered %s with record %d, and there are %d", a.in.Kind, a.in.ID, a.agg, a.id, a.answer.Status, a.answer.Record, len(life))
	}
	r := life[a.answer.Record-1].rec
	if a.answer.Status == events.StatusApplied && r.In.Kind != a.in.Kind {
		return fmt.Errorf("%s %s of %s %s was answered with record %d, which is of %s", a.in.Kind, a.in.ID, a.agg, a.id, a.answer.Record, r.In.Kind)
	}
	if a.in.Kind == record.InStart && a.agg == record.Run {
		t.asked[a.id] = true
	}
	return nil
}

func startedAll(t *tale) error {
	for id, answered := range t.asked {
		if answered && !t.hurt[events.Partition(record.Run, id)] && len(t.life(record.Run, id)) == 0 {
			return fmt.Errorf("run %s was acknowledged and is not there", id)
		}
	}
	return nil
}

// appliedOnce: versions have no gap and no repeat, each record follows the one
// before, and no input of somebody outside is applied twice.
func appliedOnce(t *tale, e *entry) error {
	if e.rec == nil {
		return nil
	}
	v, head := int64(0), ""
	if before := t.before(e); before != nil {
		v, head = before.rec.V, before.hash
	}
	if e.rec.V != v+1 {
		return fmt.Errorf("version %d follows version %d", e.rec.V, v)
	}
	if e.rec.Prev != head {
		return fmt.Errorf("version %d does not follow the record before it", e.rec.V)
	}
	switch e.rec.In.Kind {
	case record.InStart, record.InDecide, record.InCancel, record.InAttemptFinish, record.InAttemptStart, record.InEvent:
		if e.rec.Answer.Status != events.StatusApplied {
			return nil
		}
		key := strings.Join([]string{e.rec.Aggregate, e.rec.ID, e.rec.In.Kind, e.rec.In.By, e.rec.In.ID}, " ")
		if t.inputs[key]++; t.inputs[key] > 1 {
			return errors.New("the input is applied for the second time")
		}
	}
	return nil
}

// refolded: every run, decided again from its inputs, is the same.
func refolded(t *tale) error {
	for _, id := range t.runs() {
		var stored [][]byte
		for _, e := range t.life(record.Run, id) {
			stored = append(stored, e.data)
		}
		if v := run.Verify(id, stored, t.definitions); !v.OK {
			return fmt.Errorf("run %s: %s", id, strings.Join(v.Problems, "; "))
		}
	}
	return nil
}

// hadEffect: where a task is said to have succeeded, a worker has done it.
func hadEffect(t *tale) error {
	for _, id := range t.runs() {
		s := t.run(id)
		wf := t.workflow(s)
		for _, v := range s.Path {
			st := wf.Spec.States[v.State]
			if v.Outcome == events.Succeeded && st != nil && st.Task != "" && t.target.effects(id, v.State) == 0 {
				return fmt.Errorf("run %s: %s has succeeded, and nobody has done it", id, v.State)
			}
		}
	}
	return nil
}

func (t *tale) workflow(s *run.State) *workflows.Workflow {
	d, err := t.definitions(s.Catalog, s.Catalog, s.Workflow)
	if err != nil {
		return &workflows.Workflow{}
	}
	return d.Workflow
}

// oneWorker: an attempt is granted to one worker, and a new attempt of the same
// work is issued only when the one before is over.
func oneWorker(t *tale, e *entry) error {
	if e.rec == nil || e.rec.Aggregate != record.Run {
		return nil
	}
	in := e.rec.In
	if in.Kind == record.InAttemptStart && e.rec.Answer.Status == events.StatusApplied {
		if t.held[in.Attempt.Task] == nil {
			t.held[in.Attempt.Task] = map[string]bool{}
		}
		if t.held[in.Attempt.Task][in.Attempt.Worker] = true; len(t.held[in.Attempt.Task]) > 1 {
			return fmt.Errorf("attempt %s is granted to a second worker, %s", in.Attempt.Task, in.Attempt.Worker)
		}
	}
	s, _ := e.state.(*run.State)
	open := map[string]string{}
	for _, task := range s.Tasks {
		if worker := s.Running()[task.ID]; worker != "" && task.Lost == "" {
			if other, twice := open[task.Path]; twice {
				return fmt.Errorf("%s has two open attempts, %s and %s", task.Path, other, task.ID)
			}
			open[task.Path] = task.ID
		}
	}
	return nil
}

// toldOne: no two workers were told that they have the same attempt.
func toldOne(t *tale) error {
	for task, workers := range t.claims {
		if of := t.tasks[task]; len(workers) > 1 && (of == nil || !t.hurt[events.Partition(record.Run, of.Run)]) {
			return fmt.Errorf("%d workers were told that they have attempt %s: %v", len(workers), task, sortedKeys(workers))
		}
	}
	return nil
}

// fenced: a grant of an environment is one run's, grants only grow, and a task
// that works on an environment is issued under the grant that its run has.
func fenced(t *tale, e *entry) error {
	if e.rec == nil {
		return nil
	}
	if s, ok := e.state.(*env.Environment); ok && s.Holder != nil {
		name := e.rec.ID
		if t.grants[name] == nil {
			t.grants[name] = map[int64]string{}
		}
		if before, known := t.grants[name][s.Holder.Grant]; known && before != s.Holder.Run {
			return fmt.Errorf("grant %d of %s was %s's and is %s's", s.Holder.Grant, name, before, s.Holder.Run)
		}
		for grant := range t.grants[name] {
			if _, known := t.grants[name][s.Holder.Grant]; !known && grant >= s.Holder.Grant {
				return fmt.Errorf("grant %d of %s comes after grant %d", s.Holder.Grant, name, grant)
			}
		}
		t.grants[name][s.Holder.Grant] = s.Holder.Run
	}
	for _, task := range e.rec.Tasks {
		if task.Environment == nil || t.hurt[events.Partition(record.Environment, task.Environment.Name)] {
			continue
		}
		if holder := t.grants[task.Environment.Name][task.Fence.Grant]; holder != task.Run {
			return fmt.Errorf("task %s of %s is issued for %s under grant %d, which is %q's", task.ID, task.Run, task.Environment.Name, task.Fence.Grant, holder)
		}
	}
	return nil
}

func noOverlap(t *tale) error {
	t.target.mu.Lock()
	defer t.target.mu.Unlock()
	for _, o := range t.target.overlap {
		if !t.hurt[events.Partition(record.Environment, o.environment)] {
			return errors.New(o.what)
		}
	}
	return nil
}

// decided: a decision that was acknowledged stands in its record.
func decided(t *tale, a acknowledged) error {
	if a.in.Kind != record.InDecide || a.answer.Status != events.StatusApplied {
		return nil
	}
	for _, e := range t.life(a.agg, a.id) {
		if e.rec.In.Kind == record.InDecide && e.rec.In.ID == a.in.ID && e.rec.In.By == a.in.By && e.rec.Answer.Status == events.StatusApplied {
			return nil
		}
	}
	return fmt.Errorf("the decision %s of %s on %s was acknowledged and stands nowhere", a.in.ID, a.in.By, a.id)
}

// namesItsRun: a decision that counts stands where it was given, was given by
// whom it names, and is about what was asked.
func namesItsRun(t *tale, e *entry) error {
	s, ok := e.state.(*run.State)
	if !ok {
		return nil
	}
	for _, a := range append(slices.Clone(s.Given), s.Open) {
		if a == nil {
			continue
		}
		for _, d := range a.Said {
			if !slices.ContainsFunc(append(t.life(record.Run, s.ID), e), func(x *entry) bool {
				return x.rec.In.Kind == record.InDecide && x.rec.In.By == d.User && x.rec.In.Decide.Decision == d.Decision && x.rec.In.Decide.Run == s.ID &&
					x.rec.Answer.Status == events.StatusApplied
			}) {
				return fmt.Errorf("the decision of %s on %s counts, and was never given to this run", d.User, a.State)
			}
		}
	}
	if d := e.rec.In.Decide; d != nil && e.rec.Answer.Status == events.StatusApplied {
		before, _ := t.before(e).state.(*run.State)
		if before.Open == nil || before.Open.State != d.State || before.Open.Content != d.Content {
			return fmt.Errorf("a decision counts that is about %s in %s, which was not asked", d.Content, d.State)
		}
	}
	return nil
}

// inTime: a decision counts only while its question is open.
func inTime(t *tale, e *entry) error {
	if e.rec == nil || e.rec.In.Kind != record.InDecide || e.rec.Answer.Status != events.StatusApplied {
		return nil
	}
	before := t.before(e)
	if before == nil {
		return errors.New("a decision is applied to a run that is not there")
	}
	s, _ := before.state.(*run.State)
	switch {
	case s.Open == nil:
		return errors.New("a decision is applied where nothing is asked")
	case s.Cancel != nil:
		return errors.New("a decision is applied to a run that was cancelled")
	case s.Open.Expires > 0 && e.rec.T >= s.Open.Expires:
		return fmt.Errorf("a decision is applied at %d, after the question has expired at %d", e.rec.T, s.Open.Expires)
	case !e.rec.In.Decide.NotAfter.IsZero() && e.rec.T > e.rec.In.Decide.NotAfter.UnixMilli():
		return errors.New("a decision is applied after the time until which it was to count")
	}
	return nil
}

// notEarly: a timer is recorded once, and only when something was due, by a
// clock that is not wrong by more than what is believed.
func notEarly(t *tale, e *entry) error {
	if e.rec == nil || e.rec.In.Kind != record.InTimer {
		return nil
	}
	if by := time.Duration(e.rec.T-e.at.UnixMilli()) * time.Millisecond; !e.at.IsZero() && by > mostBelieved {
		return fmt.Errorf("a timer fires by a clock that is %v ahead", by)
	}
	key := strings.Join([]string{e.rec.Aggregate, e.rec.ID, e.rec.In.ID}, " ")
	if t.fired[key]++; t.fired[key] > 1 {
		return errors.New("a timer fires for the second time")
	}
	before := t.before(e)
	if before == nil {
		return errors.New("a timer fires for what is not there")
	}
	d, ok := before.state.(interface{ NextDeadline() int64 })
	if !ok {
		return nil
	}
	if at := d.NextDeadline(); at == 0 || at > e.rec.T {
		return fmt.Errorf("a timer fires at %d, and the next deadline is %d", e.rec.T, at)
	}
	return nil
}

// notAfterCancel: in a run that was cancelled, no worker is granted anything
// but what cleans up.
func notAfterCancel(t *tale, e *entry) error {
	if e.rec == nil || e.rec.In.Kind != record.InAttemptStart || e.rec.Answer.Status != events.StatusApplied {
		return nil
	}
	before := t.before(e)
	if before == nil {
		return errors.New("an attempt is granted in a run that is not there")
	}
	s, _ := before.state.(*run.State)
	if s.Cancel == nil || s.Cancel.Through {
		return nil
	}
	for _, task := range s.Tasks {
		if task.ID == e.rec.In.Attempt.Task && !task.Closing && !task.Detached && task.Part == 0 && task.Lost == "" {
			return fmt.Errorf("%s of a cancelled run is granted", task.Path)
		}
	}
	return nil
}

// owned: a record is written by the engine whose owner record is the last one
// of the partition.
func owned(t *tale, e *entry) error {
	if e.rec == nil {
		return nil
	}
	own := t.owners[e.vp]
	if own == nil {
		return errors.New("nobody owns the partition")
	}
	if own.owner != e.rec.Engine {
		return fmt.Errorf("the partition is %s's, since sequence %d", own.owner, own.seq)
	}
	return nil
}

// audited: the audit log has no gap, and every record is in it once and as it
// was stored, up to where its writer has come.
func audited(t *tale) error {
	if t.audit == nil {
		return nil
	}
	if t.audit.err != nil {
		return t.audit.err
	}
	if len(t.audit.problems) > 0 {
		return errors.New(strings.Join(t.audit.problems, "; "))
	}
	for _, seq := range sortedKeys(t.lies) {
		if e := t.lies[seq]; t.audited[seq] != e.hash && !t.hurt[e.vp] {
			return fmt.Errorf("it is not in the audit log as it was stored: %v", e)
		}
	}
	return nil
}

// dispensable: what was removed is in the audit log as it was stored, and is
// an older record of what has ended, or the last one when nobody asks any more.
func dispensable(t *tale, e *entry) error {
	switch {
	case e.rec == nil:
		return errors.New("an owner record is removed")
	case t.audited[e.seq] != e.hash:
		return errors.New("it is removed, and is not in the audit log as it was stored")
	}
	life := t.life(e.rec.Aggregate, e.rec.ID)
	last := life[len(life)-1]
	switch s := last.state.(type) {
	case *run.State:
		if !s.Done() {
			return fmt.Errorf("it is removed, and run %s goes on", s.ID)
		}
	case *env.Environment:
		if len(life) < 64 {
			return fmt.Errorf("it is removed, and the environment has %d records only", len(life))
		}
	}
	if e == last && (!t.now.IsZero() && t.now.Sub(e.at) < keepLast) {
		return errors.New("the last record is removed while somebody may ask for it")
	}
	return nil
}

// pinned: the definitions that a run was started with stay the same.
func pinned(t *tale, e *entry) error {
	s, ok := e.state.(*run.State)
	before := t.lives[[2]string{record.Run, ""}]
	if ok {
		before = t.life(record.Run, s.ID)
	}
	if !ok || len(before) == 0 {
		return nil
	}
	first, _ := before[0].state.(*run.State)
	if first.Catalog != s.Catalog || first.Def != s.Def {
		return fmt.Errorf("it was started with definitions %.12s and goes on with %.12s", first.Catalog, s.Catalog)
	}
	return nil
}

// hurtStops: partitions that have lost what somebody knows are stopped, and
// those that have lost nothing are not.
func hurtStops(t *tale) error {
	for _, vp := range sortedKeys(t.stopped) {
		if !t.hurt[vp] {
			return fmt.Errorf("partition %d has lost nothing and is stopped: %w", vp, t.stopped[vp])
		}
	}
	for _, vp := range sortedKeys(t.owed) {
		if t.stopped[vp] == nil {
			return fmt.Errorf("partition %d goes on: %s", vp, t.owed[vp])
		}
	}
	return nil
}
