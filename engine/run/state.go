package run

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/penstock-cd/penstock/engine/record"
	"github.com/penstock-cd/penstock/events"
)

// Phases of a run.
const (
	phaseRunning = "running"
	phaseFinally = "finally" // the outcome stands, closing tasks run
	phaseDone    = "done"
)

// State is all that is known of a run after a record. Times are milliseconds
// since 1970 UTC, 0 for none. It is stored in every record, so it stays small:
// large values are references.
type State struct {
	ID          string                   `json:"id"`
	Workflow    string                   `json:"wf"`
	Def         string                   `json:"def"`              // digest of the workflow
	Catalog     string                   `json:"start"`            // digest of the definitions it was started with
	Origin      *events.Origin           `json:"origin,omitempty"` // where the workflow came from, as far as known
	Title       string                   `json:"title"`
	Labels      map[string]string        `json:"labels,omitempty"`
	Inputs      record.Values            `json:"inputs,omitempty"`
	RequestedBy string                   `json:"by"`
	Cause       *events.Cause            `json:"cause,omitempty"`
	Authors     []string                 `json:"authors,omitempty"`
	AuthorsSet  bool                     `json:"authorsSet,omitempty"` // false: nobody has said yet who wrote the change
	Subject     string                   `json:"subject,omitempty"`    // first line of the change, as the build reported it
	Source      record.Source            `json:"source,omitzero"`      // what was built, as the build reported it
	Ran         map[string]record.Source `json:"ran,omitempty"`        // what ran in environments when the run started
	Beat        int64                    `json:"beat"`                 // how often workers report, in milliseconds
	BeatLimit   int64                    `json:"beatLimit"`            // without a report for so long, a worker is lost
	StartedAt   int64                    `json:"t0"`
	EndedAt     int64                    `json:"t1,omitempty"`
	Now         int64                    `json:"t"` // time of the last record

	Phase    string                        `json:"phase"`
	Outcome  string                        `json:"outcome,omitempty"`
	Error    *events.TaskError             `json:"error,omitempty"`
	At       string                        `json:"at"`    // the state it is in
	Visit    int                           `json:"visit"` // which visit of it this is, from 1
	Visits   map[string]int                `json:"visits,omitempty"`
	Path     []Visited                     `json:"path,omitempty"`
	Values   record.Values                 `json:"values,omitempty"` // outputs by state; of a parallel state by branch
	Tasks    []*Task                       `json:"tasks,omitempty"`  // of the present state, closing ones, notifications under way
	Open     *Approval                     `json:"open,omitempty"`   // the approval that is asked for now
	Given    []*Approval                   `json:"given,omitempty"`  // approvals that succeeded
	WakeAt   int64                         `json:"wakeAt,omitempty"` // end of a wait
	Grants   map[string]int64              `json:"grants,omitempty"` // environments that are ours, with the grant's number
	Taken    map[string]int64              `json:"taken,omitempty"`  // number of the newest grant that was taken, by environment
	Kept     map[string]string             `json:"kept,omitempty"`   // environments that stay locked, with the reason: nobody knows what is there
	Put      map[string]*record.Deployment `json:"put,omitempty"`    // what this run deployed, until the lock is given back
	There    map[string]*record.Deployment `json:"there,omitempty"`  // what was deployed when the lock was granted
	Held     *Held                         `json:"held,omitempty"`   // an arm or rule could not be evaluated
	Cancel   *Cancelled                    `json:"cancel,omitempty"`
	Paused   *Cancelled                    `json:"paused,omitempty"`   // who paused it
	Key      *Key                          `json:"key,omitempty"`      // the concurrency key
	Parent   *record.Parent                `json:"parent,omitempty"`   // the run that waits for this one
	Outputs  record.Values                 `json:"outputs,omitempty"`  // of the run, when it has succeeded
	Each     *Each                         `json:"each,omitempty"`     // progress of the forEach state that it is in
	Effects  []*Effect                     `json:"effects,omitempty"`  // what was begun and may have to be undone, in order
	Undoing  *Undoing                      `json:"undoing,omitempty"`  // a compensation that goes on
	Parts    int                           `json:"parts,omitempty"`    // how many undos and samples were asked for, for their ids
	Leaving  *Leaving                      `json:"leaving,omitempty"`  // an event has come: the arm is taken when all work has stopped
	Over     *Over                         `json:"over,omitempty"`     // the state is over, and the paused run does not leave it yet
	Winner   string                        `json:"winner,omitempty"`   // of a parallel state that joins any or race: the branch that decided
	Listen   []string                      `json:"listen,omitempty"`   // types of events that the run listens for now; a final * matches any rest
	Doors    map[string]*Door              `json:"doors,omitempty"`    // what environments said of themselves, while the run wants to enter
	Heard    map[string]int64              `json:"heard,omitempty"`    // number of the newest of these, by environment
	Glass    map[string]*Cancelled         `json:"glass,omitempty"`    // environments whose glass was broken for this run, and by whom
	Anew     map[string]bool               `json:"anew,omitempty"`     // environments that stayed ours when the run had ended: begun again, it enters them like others
	Undone   map[string][]string           `json:"undone,omitempty"`   // by environment: artifacts taken back, until that is told with the lock
	Proofs   map[string]*record.Proof      `json:"proofs,omitempty"`   // by environment and artifact: whether it succeeded there
	Attested []map[string]any              `json:"attested,omitempty"` // attestations of what is released
	Outbox   []record.Send                 `json:"outbox,omitempty"`   // sent to others, not answered yet
	Sent     int64                         `json:"sent,omitempty"`     // how many were sent, for their ids
	Seen     []Seen                        `json:"seen,omitempty"`     // people's commands, while they could be repeated
	Ended    []Ended                       `json:"ended,omitempty"`    // the latest attempts that reported their result
	Told     []bool                        `json:"told,omitempty"`     // by notify rule: whether its condition held last
	Ends     int                           `json:"ends,omitempty"`     // how often the run has come to its end, for the ids of closing tasks
	Notes    int                           `json:"notes,omitempty"`    // how many notifications were made, for their paths
}

// Visited is one visit of a state.
type Visited struct {
	State   string            `json:"s"`
	Visit   int               `json:"n"`
	In      int64             `json:"in"`
	Out     int64             `json:"out,omitempty"`
	Outcome string            `json:"o,omitempty"`
	Error   *events.TaskError `json:"e,omitempty"`
}

// Statuses of a task.
const (
	taskLocked     = "locked"  // waits for its environment
	taskQueued     = "queued"  // published, no worker has it
	taskRunning    = "running" // granted to a worker
	taskBackoff    = "backoff" // failed, to be tried again at RetryAt
	taskCancelling = "cancelling"
	taskBetween    = "between"   // a deployment that is to begin its next step
	taskPausing    = "pausing"   // a step of a deployment that waits
	taskAnalyzing  = "analyzing" // a step of a deployment that judges its metrics
	taskUndoing    = "undoing"   // a deployment that is being undone
	taskParked     = "paused"    // would be published, but the run is paused
	taskChild      = "child"     // a child run that goes on
	taskStopping   = "stopping"  // a child run that was told to stop
	taskDone       = "done"
)

// Task is one piece of work, over all its attempts.
type Task struct {
	ID       string            `json:"id"`   // of the present attempt
	Path     string            `json:"path"` // "build", "verify.test", "finally.1", "notify.3"
	Kind     string            `json:"kind"`
	Pool     string            `json:"pool"`
	Runs     string            `json:"runs"`
	Attempt  int               `json:"n"`
	Status   string            `json:"s"`
	Detached bool              `json:"detached,omitempty"` // nothing waits for it: a notification
	Closing  bool              `json:"closing,omitempty"`  // it runs after the end of the run
	Env      string            `json:"env,omitempty"`
	Before   string            `json:"before,omitempty"` // of a locked one: what it waits for before it asks for the lock
	Deploys  bool              `json:"deploys,omitempty"`
	Artifact string            `json:"artifact,omitempty"`
	Worker   string            `json:"worker,omitempty"`
	V        int64             `json:"v,omitempty"`     // record in which the present attempt was granted
	Lost     string            `json:"lost,omitempty"`  // the attempt whose fate this one asks for
	Asked    int               `json:"asked,omitempty"` // how often that was asked
	QueuedAt int64             `json:"q,omitempty"`
	BeganAt  int64             `json:"b,omitempty"`
	EndedAt  int64             `json:"e,omitempty"`
	StartBy  int64             `json:"startBy,omitempty"`
	RunBy    int64             `json:"runBy,omitempty"`
	RetryAt  int64             `json:"retryAt,omitempty"`
	GiveUpAt int64             `json:"giveUpAt,omitempty"` // of a cancelled one
	Outcome  string            `json:"o,omitempty"`
	Error    *events.TaskError `json:"err,omitempty"`
	With     record.Values     `json:"with,omitempty"`    // of a notification, whose inputs do not stand in a file
	Member   string            `json:"member,omitempty"`  // of forEach: the member that it is for
	Of       string            `json:"of,omitempty"`      // path of the task that it is a part of: a sample of a deployment, an undo of a compensation
	Child    string            `json:"child,omitempty"`   // of a child run: its id
	Roll     *Roll             `json:"roll,omitempty"`    // of a deployment with steps: how far it is
	Part     int               `json:"part,omitempty"`    // of an undo or a sample: its number in the run
	Resumes  string            `json:"resumes,omitempty"` // of a deployment that goes on with another one: the path of that one
}

// Key is where the run stands with its concurrency key.
type Key struct {
	Key   string `json:"key"`
	Grant int64  `json:"grant,omitempty"` // 0 while it waits
	Taken int64  `json:"taken,omitempty"` // newest grant that was taken
	Asked int64  `json:"asked,omitempty"` // how often the run has begun to wait for it
	Then  string `json:"then,omitempty"`  // the state that is entered when the key is granted
}

// Each is the progress of a forEach state.
type Each struct {
	Members []string          `json:"members"`
	Next    int               `json:"next"`              // index of the first member that was not begun
	Wave    int               `json:"wave"`              // from 0
	WaveEnd int               `json:"waveEnd"`           // index behind the last member of this wave
	Skipped map[string]string `json:"skipped,omitempty"` // member → why it was left out
	Failed  int               `json:"failed,omitempty"`
	Asleep  bool              `json:"asleep,omitempty"` // between two waves
	Error   *events.TaskError `json:"e,omitempty"`      // of the first members that failed, or why there are none
	Outcome string            `json:"o,omitempty"`      // of the first member that failed
}

// Effect is work that was granted to a worker and may have changed something.
type Effect struct {
	Path   string `json:"path"`
	State  string `json:"s"`
	Visit  int    `json:"n"`
	Member string `json:"member,omitempty"`
	Env    string `json:"env,omitempty"`
	// Status is "begun", "done" or "unknown". An effect that is proven to have
	// changed nothing, or was undone, is none any more.
	Status   string             `json:"st"`
	Deploys  bool               `json:"deploys,omitempty"`
	Grant    int64              `json:"grant,omitempty"`    // of its environment, when it was begun
	Artifact string             `json:"artifact,omitempty"` // of a deployment: what it put there
	Previous string             `json:"previous,omitempty"` // and what was there before: the artifact
	Before   *record.Deployment `json:"before,omitempty"`   // and what the environment knew of it
	Step     int                `json:"step,omitempty"`     // index of the step that it has come to
	Weight   int                `json:"weight,omitempty"`   // per cent of the traffic that it has by now
	Outputs  record.Values      `json:"outputs,omitempty"`
	Undo     int                `json:"undo,omitempty"`  // number of the task that undoes it
	Stuck    bool               `json:"stuck,omitempty"` // its undo has failed
}

// Undoing is a compensation that goes on: effects are undone from the last to
// the first.
type Undoing struct {
	States []string          `json:"states,omitempty"` // whose effects; all unfinished deployments where empty
	Cancel bool              `json:"cancel,omitempty"` // it follows a cancel: the run ends when it is through
	Error  *events.TaskError `json:"error,omitempty"`  // of the undo that failed
}

// Leaving is the arm of an event, or of a retry, that waits until the state's
// work has stopped.
type Leaving struct {
	To    string       `json:"to"`
	Cause events.Cause `json:"cause"`        // the event
	By    string       `json:"by,omitempty"` // who wants the retry
}

// Over is how a state ended that is not left yet.
type Over struct {
	Outcome string            `json:"o"`
	Error   *events.TaskError `json:"e,omitempty"`
}

// Door is what an environment said of itself.
type Door struct {
	Asked  bool   `json:"asked,omitempty"` // no answer yet
	Rules  bool   `json:"rules,omitempty"` // nothing is known of it: its rules keep the run out, and it tells when there are other definitions
	Open   bool   `json:"open,omitempty"`
	Reason string `json:"why,omitempty"`
	Until  int64  `json:"until,omitempty"`
	AtEnd  string `json:"atEnd,omitempty"` // what a window that has ended does to a deployment in progress: hold or undo
}

// shut reports whether the environment has said that it lets nothing in.
func (d *Door) shut() bool { return d != nil && !d.Asked && !d.Rules && !d.Open }

// Roll is the progress of a deployment with steps.
type Roll struct {
	Step    int                `json:"step"`            // index of the present one
	Going   bool               `json:"going,omitempty"` // it has begun
	Until   int64              `json:"until,omitempty"` // end of a pause or an analysis
	Began   int64              `json:"began,omitempty"` // of the analysis
	Metrics map[string]*Metric `json:"metrics,omitempty"`
	Stopped int64              `json:"stopped,omitempty"` // since when the analysis stands still, as the run is paused
	Late    bool               `json:"late,omitempty"`    // the time of the analysis is over, and a sample is still under way
	Verdict string             `json:"verdict,omitempty"` // why it goes no further
	Outcome string             `json:"o,omitempty"`       // with which it ends when it is undone
}

// Metric is what an analysis has seen of one metric.
type Metric struct {
	Samples []float64 `json:"samples,omitempty"` // the latest ones
	Failed  int       `json:"failed,omitempty"`
	Last    string    `json:"last,omitempty"` // "pass", "fail" or "inconclusive"
	Why     string    `json:"why,omitempty"`  // of an inconclusive one: why
	NextAt  int64     `json:"next,omitempty"`
	Asked   int       `json:"asked,omitempty"` // how many were asked for
}

// Approval is a question to people, and what they said.
type Approval struct {
	State    string     `json:"s"`
	Visit    int        `json:"n"`
	Implicit bool       `json:"implicit,omitempty"` // asked by an environment's rules, not by an approval state
	Envs     []string   `json:"envs,omitempty"`
	Content  string     `json:"content"` // digest of what is approved
	AskedAt  int64      `json:"t"`
	Expires  int64      `json:"expires,omitempty"`
	Said     []Decision `json:"said,omitempty"`

	Bound      map[string]string `json:"bound,omitempty"`      // what is approved, path → short text, to say what changed
	RemindAt   int64             `json:"remindAt,omitempty"`   // when people are told again
	EscalateAt int64             `json:"escalateAt,omitempty"` // when others are told
	Stale      bool              `json:"stale,omitempty"`      // of one that was given: what it approved is another thing now
}

// Decision is what a person said and what roles they held then.
type Decision struct {
	ID       string   `json:"id"`
	User     string   `json:"u"`
	Roles    []string `json:"r,omitempty"`
	Decision string   `json:"d"`
	Comment  string   `json:"c,omitempty"`
	At       int64    `json:"t"`
	Via      string   `json:"via,omitempty"`

	To        string   `json:"to,omitempty"`        // of delegate: who decides instead
	For       []string `json:"for,omitempty"`       // in whose place too this was decided
	NotBefore int64    `json:"notBefore,omitempty"` // of deferred: when it begins to count
	Content   string   `json:"content,omitempty"`   // digest of what it was about; the approval's own where empty
	Stale     bool     `json:"stale,omitempty"`     // what it was about is another thing now
}

// Held says why a run does not go on although nothing is asked of anybody.
type Held struct {
	Reason  string `json:"why"`
	Outcome string `json:"o"`            // the outcome that the state was to be left with
	Of      string `json:"of,omitempty"` // what could not be evaluated, where it is no arm: heldBegin, heldEvent or heldInvariant
}

// What holds a run, where it is no arm.
const (
	heldBegin     = "begin"     // how the state begins: tried again at every input
	heldEvent     = "event"     // whether an event counts: the next one decides
	heldInvariant = "invariant" // an invariant forbids where the arm leads
)

// Cancelled says who cancelled the run.
type Cancelled struct {
	By      string `json:"by"`
	Reason  string `json:"why,omitempty"`
	At      int64  `json:"t"`
	Through bool   `json:"through,omitempty"` // all work has stopped, and the run goes on from onCancel
	Last    bool   `json:"last,omitempty"`    // it was cancelled once more there: it ends
}

// Ended is an attempt whose result was taken.
type Ended struct {
	Task   string `json:"id"`
	Worker string `json:"w"`
	V      int64  `json:"v"`
}

// Seen is a command of a person that was answered.
type Seen struct {
	ID     string        `json:"id"`
	Kind   string        `json:"k"` // of the input
	By     string        `json:"by"`
	V      int64         `json:"v"`
	Until  int64         `json:"until"`
	Answer record.Answer `json:"a"`
}

// Load reads a state from a record.
func Load(p []byte) (*State, error) {
	var s State
	if err := json.Unmarshal(p, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// Done reports whether the run has ended; closing tasks included.
func (s *State) Done() bool { return s.Phase == phaseDone }

// Idle reports whether nothing more is to be done for it: it has ended, and
// neither a notification nor a message to others is under way.
func (s *State) Idle() bool {
	return s.Done() && len(s.Outbox) == 0 && !slices.ContainsFunc(s.Tasks, func(t *Task) bool { return t.Status != taskDone })
}

// clone is a copy that a step may change.
func (s *State) clone() *State {
	c := *s
	c.Visits = cloneMap(s.Visits)
	c.Grants = cloneMap(s.Grants)
	c.Taken = cloneMap(s.Taken)
	c.Kept = cloneMap(s.Kept)
	c.Put = cloneMap(s.Put)
	c.There = cloneMap(s.There)
	c.Path = slices.Clone(s.Path)
	c.Values = cloneMap(s.Values)
	c.Tasks = make([]*Task, len(s.Tasks))
	for i, t := range s.Tasks {
		c.Tasks[i] = new(*t)
	}
	if s.Open != nil {
		c.Open = new(*s.Open)
		c.Open.Said = slices.Clone(s.Open.Said)
	}
	c.Given = slices.Clone(s.Given) // an approval that was given does not change
	c.Outbox = slices.Clone(s.Outbox)
	c.Seen = slices.Clone(s.Seen)
	c.Ended = slices.Clone(s.Ended)
	c.Told = slices.Clone(s.Told)
	s.cloneProgress(&c)
	return &c
}

// cloneProgress copies what a step changes in place of the progress within a state.
func (s *State) cloneProgress(c *State) {
	c.Heard, c.Anew, c.Undone = cloneMap(s.Heard), cloneMap(s.Anew), cloneMap(s.Undone)
	c.Doors, c.Proofs, c.Glass = cloneMap(s.Doors), cloneMap(s.Proofs), cloneMap(s.Glass)
	for name, d := range c.Doors {
		c.Doors[name] = new(*d)
	}
	if s.Key != nil {
		c.Key = new(*s.Key)
	}
	if s.Each != nil {
		c.Each = new(*s.Each)
		c.Each.Skipped = cloneMap(s.Each.Skipped)
	}
	c.Effects = make([]*Effect, len(s.Effects))
	for i, e := range s.Effects {
		c.Effects[i] = new(*e)
	}
	if s.Undoing != nil {
		c.Undoing = new(*s.Undoing)
	}
	for _, t := range c.Tasks {
		if t.Roll == nil {
			continue
		}
		t.Roll = new(*t.Roll)
		t.Roll.Metrics = cloneMap(t.Roll.Metrics)
		for name, m := range t.Roll.Metrics {
			t.Roll.Metrics[name] = new(*m)
			t.Roll.Metrics[name].Samples = slices.Clone(m.Samples)
		}
	}
}

// cloneMap copies a map; one that is empty does not survive storing, so the
// copy is never nil.
func cloneMap[M ~map[string]V, V any](m M) M {
	if m == nil {
		return M{}
	}
	return maps.Clone(m)
}

// NextDeadline is the earliest time at which the run wants a timer input, in
// milliseconds, or 0 when it waits for none.
func (s *State) NextDeadline() int64 {
	var next int64
	see := func(t int64) {
		if t > 0 && (next == 0 || t < next) {
			next = t
		}
	}
	see(s.WakeAt)
	if s.Open != nil {
		s.Open.deadlines(see)
	}
	for _, t := range s.Tasks {
		see(t.deadline())
	}
	return next
}

// deadline is the time that matters in the task's status.
func (t *Task) deadline() int64 {
	switch t.Status {
	case taskQueued:
		return t.StartBy
	case taskRunning:
		return t.RunBy
	case taskBackoff:
		return t.RetryAt
	case taskCancelling:
		return t.GiveUpAt
	case taskPausing, taskAnalyzing:
		return t.Roll.deadline()
	}
	return 0
}

// Running gives the ids of attempts that a worker holds, and who holds them:
// those from which heartbeats are expected.
func (s *State) Running() map[string]string {
	held := map[string]string{}
	for _, t := range s.Tasks {
		if t.Status == taskRunning || t.Status == taskCancelling {
			held[t.ID] = t.Worker
		}
	}
	return held
}

// Queued gives the pool and kind of each task that waits for a worker.
func (s *State) Queued() [][2]string {
	var waiting [][2]string
	for _, t := range s.Tasks {
		if t.Status == taskQueued {
			waiting = append(waiting, [2]string{t.Pool, t.Kind})
		}
	}
	return waiting
}

// NotTaken gives the pool and kind of each task that no worker has taken within
// its start timeout, which is over at now.
func (s *State) NotTaken(now int64) [][2]string {
	var late [][2]string
	for _, t := range s.Tasks {
		if t.Status == taskQueued && t.StartBy > 0 && t.StartBy <= now {
			late = append(late, [2]string{t.Pool, t.Kind})
		}
	}
	return late
}

// Verdict is the answer to a heartbeat of a worker for an attempt.
func (s *State) Verdict(task, worker string) string {
	for _, t := range s.Tasks {
		if t.ID == task && t.Worker == worker {
			switch t.Status {
			case taskRunning:
				return events.GoOn
			case taskCancelling:
				return events.Cancel
			}
		}
	}
	return events.Stale
}

func (s *State) task(id string) *Task {
	for _, t := range s.Tasks {
		if t.ID == id {
			return t
		}
	}
	return nil
}

func (s *State) taskAt(path string) *Task {
	for _, t := range s.Tasks {
		if t.Path == path {
			return t
		}
	}
	return nil
}

func at(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

func timePtr(ms int64) *time.Time {
	if ms == 0 {
		return nil
	}
	return new(at(ms))
}
